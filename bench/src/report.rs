//! What was measured, for people and for programs.

use std::io::{self, Write, stdout};
use std::time::Duration;

use serde::Serialize;

use crate::measure::Measured;
use crate::subject::SubjectName;

/// The subject that every other is compared with.
const BASELINE: &str = "openraft";

/// All measurements of one run.
pub(crate) struct Report {
    /// Measurements behind each median.
    pub(crate) rounds: u32,
    /// How long each of them took.
    pub(crate) length: Duration,
    /// One for each number of clients.
    pub(crate) rows: Vec<Row>,
}

/// All measurements with one number of clients.
pub(crate) struct Row {
    clients: u32,
    /// By subject; then by round, the same number of them for each.
    measured: Vec<(SubjectName, Vec<Measured>)>,
}

impl Row {
    /// To be filled by [`add`](Self::add).
    pub(crate) fn new(clients: u32, subjects: &[SubjectName]) -> Self {
        Self { clients, measured: subjects.iter().map(|&s| (s, Vec::new())).collect() }
    }

    /// How many clients wrote.
    pub(crate) fn clients(&self) -> u32 {
        self.clients
    }

    /// Adds the measurement of `subject` in the next round.
    pub(crate) fn add(&mut self, subject: SubjectName, measured: Measured) {
        let of_subject = self.measured.iter_mut().find(|(s, _)| *s == subject);
        let (_, rounds) = of_subject.expect("only subjects of this row are measured");
        rounds.push(measured);
    }

    /// Writes per second of the subject of this name, by round. None if it was not measured.
    fn ops_s(&self, name: &str) -> Option<Vec<f64>> {
        let (_, rounds) = self.measured.iter().find(|(s, _)| s.as_str() == name)?;
        Some(rounds.iter().map(|m| m.ops_s).collect())
    }

    /// How many times as fast as [`BASELINE`] the subject of this name was, by round. Rounds are
    /// compared before the median is taken: both saw the same state of the machine.
    fn ratios(&self, name: &str) -> Option<Vec<f64>> {
        let (of_subject, of_baseline) = (self.ops_s(name)?, self.ops_s(BASELINE)?);
        Some(of_subject.iter().zip(of_baseline).map(|(s, b)| s / b).collect())
    }
}

/// The middle value, or the mean of the two middle ones.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    (low + high) / 2.0
}

/// 1234567 as "1 234 567".
fn grouped(value: f64) -> String {
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

/// The JSON form. What was not measured is null.
#[derive(Serialize)]
struct Json {
    rows: Vec<JsonRow>,
}

/// One number of clients: medians.
#[derive(Serialize)]
struct JsonRow {
    clients: u32,
    quorate_ops_s: Option<u64>,
    openraft_ops_s: Option<u64>,
    floor_ops_s: Option<u64>,
    /// quorate / openraft.
    ratio: Option<f64>,
}

impl Report {
    /// Prints to standard output.
    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = stdout().lock();
        if json { self.json(&mut out) } else { self.table(&mut out) }?;
        out.flush()
    }

    fn json(&self, out: &mut impl Write) -> io::Result<()> {
        let row = |row: &Row| {
            let ops_s = |name| row.ops_s(name).map(|rounds| median(rounds).round() as u64);
            JsonRow {
                clients: row.clients,
                quorate_ops_s: ops_s("quorate"),
                openraft_ops_s: ops_s("openraft"),
                floor_ops_s: ops_s("floor"),
                ratio: row.ratios("quorate").map(|r| (median(r) * 1e3).round() / 1e3),
            }
        };
        serde_json::to_writer(&mut *out, &Json { rows: self.rows.iter().map(row).collect() })?;
        writeln!(out)
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "Three nodes in one process, memory store, empty commands. Medians of {} x {} s.\n",
            self.rounds,
            self.length.as_secs_f64()
        )?;
        writeln!(
            out,
            "{:>7}  {:<9} {:>10}  {:^24} {:>9}  {:>10}",
            "clients", "subject", "writes/s", "min .. max", "p50 us", "x openraft"
        )?;
        for row in &self.rows {
            for (subject, rounds) in &row.measured {
                let ops_s: Vec<f64> = rounds.iter().map(|m| m.ops_s).collect();
                let min = ops_s.iter().copied().fold(f64::INFINITY, f64::min);
                let max = ops_s.iter().copied().fold(0.0, f64::max);
                let ratio = match row.ratios(subject.as_str()) {
                    Some(rounds) if subject.as_str() != BASELINE => {
                        format!("{:.2}", median(rounds))
                    }
                    _ => String::new(),
                };
                let line = format!(
                    "{:>7}  {subject:<9} {:>10}  {:>10} .. {:<10} {:>9.1}  {ratio:>10}",
                    row.clients,
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

    fn at(ops_s: f64) -> Measured {
        Measured { ops_s, p50_us: 1.0 }
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
        let (openraft, floor) = (SubjectName::Openraft, SubjectName::Floor);
        let mut row = Row::new(1, &[openraft, floor]);
        // The machine was half as fast in the second round, for both.
        for (subject, ops_s) in [(openraft, 10.0), (floor, 40.0), (openraft, 5.0), (floor, 20.0)] {
            row.add(subject, at(ops_s));
        }
        assert_eq!(row.ratios("floor"), Some(vec![4.0, 4.0]));
        assert_eq!(row.ratios("quorate"), None, "it was not measured");
    }
}
