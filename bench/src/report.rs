//! What was measured of subjects side by side, for people and for programs.

use std::io::{self, Write, stdout};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::chart::Panel;
use crate::measure::{Measured, Point};
use crate::subject::SubjectName;

/// The subject whose value a row is about.
const OURS: SubjectName = SubjectName::Quorate;

/// The subject that every other is compared with.
const PEER: SubjectName = SubjectName::Openraft;

/// All measurements of one run.
pub(crate) struct Report {
    /// What it is about, in a line.
    pub(crate) title: &'static str,
    /// What is counted: writes, reads.
    pub(crate) unit: &'static str,
    /// Measurements behind each median.
    pub(crate) rounds: u32,
    /// How long each of them took.
    pub(crate) length: Duration,
    /// One for each point.
    pub(crate) rows: Vec<Row>,
}

/// All measurements of one point.
pub(crate) struct Row {
    pub(crate) point: Point,
    /// By subject; then by round, the same number of them for each.
    measured: Vec<(SubjectName, Vec<Measured>)>,
}

impl Row {
    /// To be filled by [`add`](Self::add).
    pub(crate) fn new(point: Point, subjects: &[SubjectName]) -> Self {
        Self { point, measured: subjects.iter().map(|&s| (s, Vec::new())).collect() }
    }

    /// Adds the measurement of `subject` in the next round.
    pub(crate) fn add(&mut self, subject: SubjectName, measured: Measured) {
        let of_subject = self.measured.iter_mut().find(|(s, _)| *s == subject);
        let (_, rounds) = of_subject.expect("only subjects of this row are measured");
        rounds.push(measured);
    }

    fn rounds(&self, subject: SubjectName) -> Option<&[Measured]> {
        self.measured.iter().find(|(s, _)| *s == subject).map(|(_, rounds)| &rounds[..])
    }

    /// The median of a subject's operations per second. None if it was not measured.
    pub(crate) fn ops_s(&self, subject: SubjectName) -> Option<f64> {
        Some(median(self.rounds(subject)?.iter().map(|m| m.ops_s).collect()))
    }

    /// How many times as fast as `peer` the subject was, by round. Rounds are compared before the
    /// median is taken: both saw the same state of the machine.
    fn ratios(&self, subject: SubjectName, peer: SubjectName) -> Option<Vec<f64>> {
        let (subject, peer) = (self.rounds(subject)?, self.rounds(peer)?);
        Some(subject.iter().zip(peer).map(|(s, p)| s.ops_s / p.ops_s).collect())
    }

    fn json(&self) -> Value {
        let whole = |subject| self.ops_s(subject).map(|ops_s| ops_s.round() as u64);
        let ratio = |peer| self.ratios(OURS, peer).map(|r| rounded(median(r)));
        let Point { load, clients, nodes } = self.point;
        let mut row = Map::new();
        row.insert("load".into(), load.as_str().into());
        row.insert("clients".into(), clients.into());
        row.insert("nodes".into(), nodes.into());
        row.insert("value".into(), json!(whole(OURS)));
        row.insert("peer".into(), PEER.as_str().into());
        row.insert("peer_value".into(), json!(whole(PEER)));
        row.insert("ratio".into(), json!(ratio(PEER)));
        row.insert("floor_ratio".into(), json!(ratio(SubjectName::Floor)));
        for subject in SubjectName::ALL {
            let rounds = self.rounds(subject).unwrap_or_default();
            let p50 = (!rounds.is_empty())
                .then(|| rounded(median(rounds.iter().map(|m| m.p50_us).collect())));
            row.insert(format!("{subject}_ops_s"), json!(whole(subject)));
            row.insert(format!("{subject}_p50_us"), json!(p50));
        }
        row.into()
    }
}

/// The middle value, or the mean of the two middle ones.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    (low + high) / 2.0
}

/// The least and the most of values that are not negative.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(0.0, f64::max))
}

/// To three digits behind the point.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// 1234567 as "1 234 567".
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

impl Report {
    /// Prints to standard output.
    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = stdout().lock();
        if json {
            let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
            writeln!(out, "{}", json!({ "rows": rows }))?;
        } else {
            self.table(&mut out)?;
        }
        out.flush()
    }

    /// A picture for each load and number of nodes: operations per second of every subject over the
    /// number of clients.
    pub(crate) fn panels(&self) -> Vec<Panel> {
        let same =
            |a: &Row, b: &Row| (a.point.load, a.point.nodes) == (b.point.load, b.point.nodes);
        let panel = |rows: &[Row]| {
            let Point { load, nodes, .. } = rows[0].point;
            let plural = if nodes == 1 { "" } else { "s" };
            let line = |subject: SubjectName| {
                let point = |row: &Row| Some((row.point.clients.into(), row.ops_s(subject)?));
                (subject.as_str().to_owned(), rows.iter().filter_map(point).collect())
            };
            Panel {
                title: format!("{}, {nodes} node{plural}", load.as_str()),
                x: "clients",
                y: format!("{}/s", self.unit),
                lines: SubjectName::ALL.map(line).to_vec(),
            }
        };
        self.rows.chunk_by(same).map(panel).collect()
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { title, unit, rounds, length, .. } = self;
        let seconds = length.as_secs_f64();
        writeln!(out, "{title} Medians of {rounds} x {seconds} s.\n")?;
        writeln!(
            out,
            "{:<10} {:>5} {:>7}  {:<9} {:>10}  {:^24} {:>9}  {:>10}",
            "load",
            "nodes",
            "clients",
            "subject",
            format!("{unit}/s"),
            "min .. max",
            "p50 us",
            "x openraft"
        )?;
        for row in &self.rows {
            for (subject, rounds) in &row.measured {
                let ops_s: Vec<f64> = rounds.iter().map(|m| m.ops_s).collect();
                let (min, max) = spread(&ops_s);
                let ratio = match row.ratios(*subject, PEER) {
                    Some(rounds) if *subject != PEER => format!("{:.2}", median(rounds)),
                    _ => String::new(),
                };
                let line = format!(
                    "{:<10} {:>5} {:>7}  {subject:<9} {:>10}  {:>10} .. {:<10} {:>9.1}  {ratio:>10}",
                    row.point.load.as_str(),
                    row.point.nodes,
                    row.point.clients,
                    grouped(median(ops_s)),
                    grouped(min),
                    grouped(max),
                    median(rounds.iter().map(|m| m.p50_us).collect()),
                );
                writeln!(out, "{}", line.trim_end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Load;

    fn at(ops_s: f64) -> Measured {
        Measured { ops_s, p50_us: 1.0, processor_us: None }
    }

    #[test]
    fn the_median_of_an_even_number_of_values_lies_between_the_middle_ones() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), 3.0);
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!(grouped(999.4), "999");
        assert_eq!(grouped(17_234.0), "17 234");
        assert_eq!(grouped(1_000_000.0), "1 000 000");
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let point = Point { load: Load::Write, clients: 1, nodes: 3 };
        let mut row = Row::new(point, &[PEER, SubjectName::Floor]);
        // The machine was half as fast in the second round, for both.
        let floor = SubjectName::Floor;
        for (subject, ops_s) in [(PEER, 10.0), (floor, 40.0), (PEER, 5.0), (floor, 20.0)] {
            row.add(subject, at(ops_s));
        }
        assert_eq!(row.ratios(floor, PEER), Some(vec![4.0, 4.0]));
        assert_eq!(row.ratios(OURS, PEER), None, "it was not measured");
        assert_eq!(row.json()["value"], Value::Null);
        assert_eq!(row.json()["floor_ops_s"], 30);
    }
}
