//! What was measured of engines side by side, for people and for programs.

use std::io::{self, Write, stdout};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Measured, NODES, Subject};
use crate::chart::Panel;
use crate::report::{grouped, median, rounded, spread};

/// All measurements of one run.
pub(super) struct Report {
    /// Measurements behind each median.
    pub(super) rounds: u32,
    /// How long each of them took.
    pub(super) length: Duration,
    /// Of each entry.
    pub(super) value_bytes: u32,
    /// One for each number of clients.
    pub(super) rows: Vec<Row>,
}

/// All measurements of one number of clients.
pub(super) struct Row {
    pub(super) clients: u32,
    /// By subject; then by round, the same number of them for each.
    measured: Vec<(Subject, Vec<Measured>)>,
}

/// A column of the report beside entries per second: its name, and its value.
type Column = (&'static str, fn(&Measured) -> f64);

const COLUMNS: [Column; 5] = [
    ("ns_per_entry", Measured::ns_per_entry),
    ("allocations_per_entry", |m| m.allocations_per_entry),
    ("ns_per_message", |m| m.ns_per_message),
    ("allocations_per_message", |m| m.allocations_per_message),
    ("messages_per_round", |m| m.messages_per_round),
];

impl Row {
    /// To be filled by [`add`](Self::add).
    pub(super) fn new(clients: u32, subjects: &[Subject]) -> Self {
        Self { clients, measured: subjects.iter().map(|&s| (s, Vec::new())).collect() }
    }

    /// Adds the measurement of `subject` in the next round.
    pub(super) fn add(&mut self, subject: Subject, measured: Measured) {
        let of_subject = self.measured.iter_mut().find(|(s, _)| *s == subject);
        of_subject.expect("only subjects of this row are measured").1.push(measured);
    }

    fn rounds(&self, subject: Subject) -> &[Measured] {
        let of_subject = self.measured.iter().find(|(s, _)| *s == subject);
        of_subject.map_or(&[], |(_, rounds)| rounds)
    }

    /// The median of one value. None if the subject was not measured.
    fn median(&self, subject: Subject, value: fn(&Measured) -> f64) -> Option<f64> {
        let rounds = self.rounds(subject);
        (!rounds.is_empty()).then(|| median(rounds.iter().map(value).collect()))
    }

    /// How many times as fast as the peer, by round: both saw the same state of the machine.
    fn ratio(&self) -> Option<f64> {
        let pairs = self.rounds(Subject::Quorate).iter().zip(self.rounds(Subject::RaftRs));
        let ratios: Vec<f64> = pairs.map(|(ours, peer)| ours.entries_s / peer.entries_s).collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }

    fn json(&self) -> Value {
        let entries_s = |subject| self.median(subject, |m| m.entries_s).map(|v| v.round() as u64);
        let mut row = Map::new();
        row.insert("load".into(), "entries".into());
        row.insert("clients".into(), self.clients.into());
        row.insert("nodes".into(), NODES.into());
        row.insert("value".into(), json!(entries_s(Subject::Quorate)));
        row.insert("peer".into(), Subject::RaftRs.as_str().into());
        row.insert("peer_value".into(), json!(entries_s(Subject::RaftRs)));
        row.insert("ratio".into(), json!(self.ratio().map(rounded)));
        for (name, value) in COLUMNS {
            let of = |subject| self.median(subject, value).map(rounded);
            row.insert(name.into(), json!(of(Subject::Quorate)));
            row.insert(format!("peer_{name}"), json!(of(Subject::RaftRs)));
        }
        row.into()
    }
}

impl Report {
    /// Prints to standard output.
    pub(super) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = stdout().lock();
        if json {
            let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
            writeln!(out, "{}", json!({ "rows": rows }))?;
        } else {
            self.table(&mut out)?;
        }
        out.flush()
    }

    /// Entries per second, and what each costs in allocations, over how many are proposed at a time.
    pub(super) fn panels(&self) -> [Panel; 2] {
        let line = |subject: Subject, value: fn(&Measured) -> f64| {
            let point = |row: &Row| Some((row.clients.into(), row.median(subject, value)?));
            (subject.as_str().to_owned(), self.rows.iter().filter_map(point).collect())
        };
        let panel = |y: &str, value| Panel {
            title: format!("three engines, {} B an entry", self.value_bytes),
            x: "entries at a time",
            y: y.into(),
            lines: Subject::ALL.map(|subject| line(subject, value)).to_vec(),
        };
        [
            panel("entries/s", |m| m.entries_s),
            panel("allocations an entry", |m| m.allocations_per_entry),
        ]
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { rounds, length, value_bytes, .. } = self;
        writeln!(
            out,
            "Three engines joined by queues, on one thread; entries of {value_bytes} bytes. Medians of \
             {rounds} x {} s.\n",
            length.as_secs_f64()
        )?;
        writeln!(
            out,
            "{:>7}  {:<8} {:>11}  {:^26} {:>9} {:>12} {:>11} {:>14} {:>14}  {:>9}",
            "clients",
            "subject",
            "entries/s",
            "min .. max",
            "ns/entry",
            "allocs/entry",
            "ns/message",
            "allocs/message",
            "messages/round",
            "x raft-rs"
        )?;
        for row in &self.rows {
            for (subject, rounds) in &row.measured {
                let entries_s: Vec<f64> = rounds.iter().map(|m| m.entries_s).collect();
                let (min, max) = spread(&entries_s);
                let [ns_entry, allocs_entry, ns_message, allocs_message, messages] =
                    COLUMNS.map(|(_, value)| median(rounds.iter().map(value).collect()));
                let ratio = row.ratio().filter(|_| *subject == Subject::Quorate);
                let line = format!(
                    "{:>7}  {:<8} {:>11}  {:>11} .. {:<11} {ns_entry:>9.1} {allocs_entry:>12.4} \
                     {ns_message:>11.1} {allocs_message:>14.2} {messages:>14.2}  {:>9}",
                    row.clients,
                    subject.as_str(),
                    grouped(median(entries_s)),
                    grouped(min),
                    grouped(max),
                    ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
                );
                writeln!(out, "{}", line.trim_end())?;
            }
        }
        Ok(())
    }
}
