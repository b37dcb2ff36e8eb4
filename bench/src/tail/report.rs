//! What was measured, for people and for programs.

use std::io::{self, Write, stdout};
use std::time::Duration;

use serde::Serialize;

use super::load::Answers;
use super::trouble::Trouble;
use crate::chart::{Bars, Group};
use crate::report::{grouped, median, rounded, spread};

/// A trouble may cost the slowest writes so many times what they take without.
const LIMIT: f64 = 2.0;

/// All measurements of one run.
pub(super) struct Report {
    pub(super) value_bytes: usize,
    pub(super) state_bytes: u64,
    pub(super) rounds: u32,
    /// Of each measurement.
    pub(super) length: Duration,
    /// By number of nodes, then by trouble.
    pub(super) rows: Vec<Row>,
}

/// One round of one trouble.
pub(super) struct Pair {
    pub(super) undisturbed: Answers,
    pub(super) disturbed: Answers,
}

/// Medians over the rounds; times in microseconds.
#[derive(Serialize)]
pub(super) struct Row {
    load: &'static str,
    /// Nobody waits for an answer before the next write: they come at a rate.
    clients: u64,
    nodes: u64,
    peak_s: u64,
    rate_s: u64,
    /// p99 with the trouble.
    value: u64,
    peer: &'static str,
    /// p99 without.
    peer_value: u64,
    /// The median of the rounds' value / peer_value.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    limit: f64,
    p999_us: u64,
    peer_p999_us: u64,
    p999_ratio: f64,
    p999_ratio_min: f64,
    p999_ratio_max: f64,
    refused: u64,
}

/// One percentile, with and without, and their quotients.
struct Compared {
    with: f64,
    without: f64,
    ratio: f64,
    min: f64,
    max: f64,
}

impl Compared {
    fn of(pairs: &[Pair], percentile: f64) -> Self {
        let times = |of: fn(&Pair) -> &Answers| -> Vec<f64> {
            pairs.iter().map(|pair| of(pair).percentile(percentile).max(1) as f64).collect()
        };
        let (with, without) = (times(|p| &p.disturbed), times(|p| &p.undisturbed));
        let ratios: Vec<f64> = with.iter().zip(&without).map(|(with, w)| with / w).collect();
        let (min, max) = spread(&ratios);
        Self {
            with: median(with),
            without: median(without),
            min: rounded(min),
            max: rounded(max),
            ratio: rounded(median(ratios)),
        }
    }
}

impl Row {
    pub(super) fn of(
        trouble: Trouble,
        nodes: u64,
        (peak_s, rate_s): (u64, u64),
        pairs: &[Pair],
    ) -> Self {
        let (p99, p999) = (Compared::of(pairs, 99.0), Compared::of(pairs, 99.9));
        Self {
            load: trouble.as_str(),
            clients: 0,
            nodes,
            peak_s,
            rate_s,
            value: p99.with.round() as u64,
            peer: "undisturbed",
            peer_value: p99.without.round() as u64,
            ratio: p99.ratio,
            ratio_min: p99.min,
            ratio_max: p99.max,
            limit: LIMIT,
            p999_us: p999.with.round() as u64,
            peer_p999_us: p999.without.round() as u64,
            p999_ratio: p999.ratio,
            p999_ratio_min: p999.min,
            p999_ratio_max: p999.max,
            refused: pairs.iter().map(|p| p.undisturbed.refused + p.disturbed.refused).sum(),
        }
    }
}

impl Report {
    /// Prints to standard output.
    pub(super) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = stdout().lock();
        if json {
            serde_json::to_writer(&mut out, &serde_json::json!({ "rows": self.rows }))?;
            writeln!(out)?;
        } else {
            self.table(&mut out)?;
        }
        out.flush()
    }

    /// A picture for each number of nodes: what each trouble costs.
    pub(super) fn panels(&self) -> Vec<Bars> {
        let group = |row: &Row| Group {
            name: row.load.to_owned(),
            bars: vec![
                (row.ratio, Some(row.ratio_min..row.ratio_max)),
                (row.p999_ratio, Some(row.p999_ratio_min..row.p999_ratio_max)),
            ],
            limit: Some(row.limit),
        };
        let panel = |rows: &[Row]| Bars {
            title: format!("{} nodes, {} writes/s", rows[0].nodes, grouped(rows[0].rate_s as f64)),
            x: "times as long as without the trouble",
            legend: &["p99", "p99.9"],
            groups: rows.iter().map(group).collect(),
        };
        self.rows.chunk_by(|a, b| a.nodes == b.nodes).map(panel).collect()
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { value_bytes, state_bytes, rounds, length, rows } = self;
        writeln!(
            out,
            "Nodes in one process, logs on disk, values of {value_bytes} B, a state of {state_bytes} B.\n\
             Medians of {rounds} x {} s, in microseconds from when a write was due; with a trouble p99 is\n\
             to be at most {LIMIT} times what it is without.",
            length.as_secs_f64()
        )?;
        for of_nodes in rows.chunk_by(|a, b| a.nodes == b.nodes) {
            let Row { nodes, peak_s, rate_s, .. } = of_nodes[0];
            writeln!(
                out,
                "\n{nodes} nodes, {} of {} writes/s\n{:<14} {:>9} {:>9} {:>6}  {:^14}   {:>9} {:>9} {:>6}  {:^14}   {:>7}",
                grouped(rate_s as f64),
                grouped(peak_s as f64),
                "trouble",
                "p99",
                "without",
                "ratio",
                "min .. max",
                "p99.9",
                "without",
                "ratio",
                "min .. max",
                "refused"
            )?;
            for row in of_nodes {
                writeln!(
                    out,
                    "{:<14} {:>9} {:>9} {:>6.2}  {:>5.2} .. {:<5.2}   {:>9} {:>9} {:>6.2}  {:>5.2} .. {:<5.2}   {:>7}",
                    row.load,
                    grouped(row.value as f64),
                    grouped(row.peer_value as f64),
                    row.ratio,
                    row.ratio_min,
                    row.ratio_max,
                    grouped(row.p999_us as f64),
                    grouped(row.peer_p999_us as f64),
                    row.p999_ratio,
                    row.p999_ratio_min,
                    row.p999_ratio_max,
                    row.refused
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_taken_round_by_round() {
        // The machine was half as fast in the second round.
        let pair = |with, without| Pair {
            undisturbed: Answers::of(&[without]),
            disturbed: Answers::of(&[with]),
        };
        let row = Row::of(Trouble::DeadFollower, 3, (20, 10), &[pair(300, 100), pair(400, 200)]);
        assert_eq!((row.ratio, row.ratio_min, row.ratio_max), (2.5, 2.0, 3.0));
        assert_eq!((row.value, row.peer_value), (350, 150));
    }

    #[test]
    fn each_number_of_nodes_has_a_picture() {
        let pair = Pair { undisturbed: Answers::of(&[100]), disturbed: Answers::of(&[300]) };
        let pairs = [pair];
        let row = |trouble, nodes| Row::of(trouble, nodes, (20, 10), &pairs);
        let rows = vec![
            row(Trouble::Nothing, 3),
            row(Trouble::DeadFollower, 3),
            row(Trouble::DeadFollower, 5),
        ];
        let length = Duration::from_secs(1);
        let report = Report { value_bytes: 1, state_bytes: 1, rounds: 1, length, rows };
        let panels = report.panels();
        assert_eq!(panels.iter().map(|p| p.groups.len()).collect::<Vec<_>>(), [2, 1]);
        let dead = &panels[1].groups[0];
        assert_eq!((dead.name.as_str(), dead.limit), ("dead_follower", Some(LIMIT)));
        assert_eq!(dead.bars[0], (3.0, Some(3.0..3.0)));
    }
}
