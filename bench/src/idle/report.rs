//! What was measured, for people and for programs.

use std::io::{self, Write, stdout};
use std::time::Duration;

use serde::Serialize;

use crate::chart::{Bars, Group};
use crate::report::{median, rounded, spread};

/// What three idle nodes may take of a core, in percent.
const LIMIT_PERCENT: f64 = 0.5;

/// What the rows are about.
const CPU: &str = "idle_cpu_percent";
const WAKEUPS: &str = "idle_wakeups_s";

/// All measurements of one run.
pub(super) struct Report {
    pub(super) rounds: u32,
    /// Of each measurement.
    pub(super) length: Duration,
    /// Two for each number of nodes.
    pub(super) rows: Vec<Row>,
}

/// One measurement of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// Of one core.
    pub(super) percent: f64,
    /// All of these a second.
    pub(super) wakeups: f64,
    pub(super) messages: f64,
}

/// One round.
pub(super) struct Pair {
    pub(super) nodes: Measured,
    pub(super) floor: Measured,
}

/// Medians over the rounds.
#[derive(Serialize)]
pub(super) struct Row {
    load: &'static str,
    clients: u64,
    nodes: u64,
    value: f64,
    peer: &'static str,
    peer_value: f64,
    /// The median of the rounds' value / peer_value.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    limit: Option<f64>,
    /// Heartbeats and their answers, a second.
    messages_s: f64,
    peer_messages_s: f64,
    value_per_message: f64,
    peer_value_per_message: f64,
}

impl Row {
    fn of(
        (load, limit): (&'static str, Option<f64>),
        nodes: u64,
        pairs: &[Pair],
        value: fn(&Measured) -> f64,
    ) -> Self {
        let over = |of: &dyn Fn(&Pair) -> f64| rounded(median(pairs.iter().map(of).collect()));
        let ratios: Vec<f64> = pairs.iter().map(|p| value(&p.nodes) / value(&p.floor)).collect();
        let (ratio_min, ratio_max) = spread(&ratios);
        Self {
            load,
            clients: 0,
            nodes,
            value: over(&|p| value(&p.nodes)),
            peer: "floor",
            peer_value: over(&|p| value(&p.floor)),
            ratio_min: rounded(ratio_min),
            ratio_max: rounded(ratio_max),
            ratio: rounded(median(ratios)),
            limit,
            messages_s: over(&|p| p.nodes.messages),
            peer_messages_s: over(&|p| p.floor.messages),
            value_per_message: over(&|p| value(&p.nodes) / p.nodes.messages),
            peer_value_per_message: over(&|p| value(&p.floor) / p.floor.messages),
        }
    }

    /// Of so many nodes: what they take, and how often they are woken.
    pub(super) fn both(nodes: u64, pairs: &[Pair]) -> [Self; 2] {
        let limit = (nodes == 3).then_some(LIMIT_PERCENT);
        [
            Self::of((CPU, limit), nodes, pairs, |m| m.percent),
            Self::of((WAKEUPS, None), nodes, pairs, |m| m.wakeups),
        ]
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

    /// What the nodes take, and how often they are woken, over how many there are.
    pub(super) fn panels(&self) -> [Bars; 2] {
        let groups = |load, bars: fn(&Row) -> Vec<f64>| -> Vec<Group> {
            let rows = self.rows.iter().filter(|row| row.load == load);
            let group = |row: &Row| Group {
                name: format!("{} nodes", row.nodes),
                bars: bars(row).into_iter().map(|value| (value, None)).collect(),
                limit: row.limit,
            };
            rows.map(group).collect()
        };
        [
            Bars {
                title: "idle nodes, processor time".into(),
                x: "percent of a core",
                legend: &["quorate", "floor"],
                groups: groups(CPU, |row| vec![row.value, row.peer_value]),
            },
            Bars {
                title: "idle nodes, wake-ups".into(),
                x: "a second",
                legend: &["quorate", "floor", "messages"],
                groups: groups(WAKEUPS, |row| vec![row.value, row.peer_value, row.messages_s]),
            },
        ]
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "Nodes in one process, TCP, logs on disk, a leader, no clients. Medians of {} x {} s.\n\
             Messages are heartbeats and their answers; the floor sends as many, and does nothing else.\n",
            self.rounds,
            self.length.as_secs_f64()
        )?;
        writeln!(
            out,
            "{:<16} {:>5} {:>9} {:>6} {:>9} {:>6}  {:^14}  {:>10} {:>9} {:>9}",
            "load",
            "nodes",
            "value",
            "limit",
            "floor",
            "ratio",
            "min .. max",
            "messages/s",
            "a message",
            "floor"
        )?;
        for row in &self.rows {
            let limit = row.limit.map_or_else(String::new, |limit| format!("{limit}"));
            writeln!(
                out,
                "{:<16} {:>5} {:>9.3} {limit:>6} {:>9.3} {:>6.2}  {:>5.2} .. {:<5.2}  {:>10.1} {:>9.3} {:>9.3}",
                row.load,
                row.nodes,
                row.value,
                row.peer_value,
                row.ratio,
                row.ratio_min,
                row.ratio_max,
                row.messages_s,
                row.value_per_message,
                row.peer_value_per_message
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_nodes_have_a_limit() {
        let at = |percent| Measured { percent, wakeups: 80.0, messages: 40.0 };
        let pairs =
            [Pair { nodes: at(0.4), floor: at(0.2) }, Pair { nodes: at(0.2), floor: at(0.2) }];
        let [cpu, wakeups] = Row::both(3, &pairs);
        assert_eq!(
            (cpu.ratio, cpu.ratio_min, cpu.ratio_max, cpu.limit),
            (1.5, 1.0, 2.0, Some(0.5))
        );
        assert_eq!((wakeups.value_per_message, wakeups.limit), (2.0, None));
        assert_eq!(Row::both(5, &pairs)[0].limit, None);
    }

    #[test]
    fn processor_time_and_wakeups_have_a_picture_each() {
        let at = |wakeups| Measured { percent: 0.4, wakeups, messages: 40.0 };
        let pairs = [Pair { nodes: at(80.0), floor: at(50.0) }];
        let rows = [3, 5].iter().flat_map(|nodes| Row::both(*nodes, &pairs)).collect();
        let [cpu, wakeups] = Report { rounds: 1, length: Duration::from_secs(1), rows }.panels();
        assert_eq!(cpu.groups.iter().map(|g| g.limit).collect::<Vec<_>>(), [Some(0.5), None]);
        assert_eq!(wakeups.groups[1].name, "5 nodes");
        assert_eq!(wakeups.groups[1].bars, [(80.0, None), (50.0, None), (40.0, None)]);
    }
}
