//! What was measured, for people and for programs.

use std::io::{self, Write, stdout};
use std::time::Duration;

use serde_json::{Value, json};

use super::floor::Floor;
use super::{NODES, Peer};
use crate::chart::Panel;
use crate::measure::Measured;
use crate::report::{grouped, median, rounded, spread};

/// All measurements of one run.
pub(super) struct Report {
    pub(super) vs: Option<Peer>,
    /// Of each measurement.
    pub(super) length: Duration,
    pub(super) value_bytes: u32,
    /// By round.
    pub(super) floors: Vec<Floor>,
    /// One for each number of clients.
    pub(super) rows: Vec<Row>,
}

/// All measurements with so many clients, by round.
pub(super) struct Row {
    pub(super) clients: u32,
    ours: Vec<Measured>,
    peer: Vec<Measured>,
}

fn ops_s(measured: &Measured) -> f64 {
    measured.ops_s
}

fn p50_us(measured: &Measured) -> f64 {
    measured.p50_us
}

/// The median over the rounds; of no rounds, none.
fn over_rounds<T>(rounds: &[T], of: impl Fn(&T) -> f64) -> Option<f64> {
    (!rounds.is_empty()).then(|| median(rounds.iter().map(of).collect()))
}

/// The median of the rounds' quotients: both saw the same state of the machine.
fn ratio<A, B>(
    ours: &[A],
    of_ours: fn(&A) -> f64,
    theirs: &[B],
    of_theirs: fn(&B) -> f64,
) -> Option<f64> {
    let pairs: Vec<(&A, &B)> = ours.iter().zip(theirs).collect();
    over_rounds(&pairs, |(ours, theirs)| of_ours(ours) / of_theirs(theirs))
}

fn whole(value: Option<f64>) -> Option<u64> {
    value.map(|value| value.round() as u64)
}

impl Row {
    /// To be filled by [`add`](Self::add).
    pub(super) fn new(clients: u32) -> Self {
        Self { clients, ours: Vec::new(), peer: Vec::new() }
    }

    /// Adds the measurement of the next round, of the peer or of ours.
    pub(super) fn add(&mut self, peer: Option<Peer>, measured: Measured) {
        let rounds = if peer.is_some() { &mut self.peer } else { &mut self.ours };
        rounds.push(measured);
    }

    fn json(&self, vs: Option<Peer>) -> Value {
        json!({
            "load": "durable_write",
            "clients": self.clients,
            "nodes": NODES,
            "value": whole(over_rounds(&self.ours, ops_s)),
            "peer": vs.map_or("floor", |Peer::Etcd| "etcd"),
            "peer_value": whole(over_rounds(&self.peer, ops_s)),
            "ratio": ratio(&self.ours, ops_s, &self.peer, ops_s).map(rounded),
            "p50_us": over_rounds(&self.ours, p50_us).map(rounded),
            "peer_p50_us": over_rounds(&self.peer, p50_us).map(rounded),
        })
    }
}

impl Report {
    /// The rows of the machine-readable form: one for each number of clients; with one client, how far
    /// that is from the floor.
    fn json(&self) -> Value {
        let mut rows: Vec<Value> = self.rows.iter().map(|row| row.json(self.vs)).collect();
        rows.extend(self.rows.iter().filter(|row| row.clients == 1).map(|row| {
            let floor = |of: fn(&Floor) -> f64| over_rounds(&self.floors, of).map(rounded);
            json!({
                "load": "durable_p50_us",
                "clients": 1,
                "nodes": NODES,
                "value": over_rounds(&row.ours, p50_us).map(rounded),
                "peer": "floor",
                "peer_value": floor(|f| f.write_us()),
                "ratio": self.above_floor(row).map(rounded),
                "sync_us": floor(|f| f.sync_us),
                "round_trip_us": floor(|f| f.round_trip_us),
            })
        }));
        json!({ "rows": rows })
    }

    /// How many times the floor a write of one client takes.
    fn above_floor(&self, row: &Row) -> Option<f64> {
        ratio(&row.ours, p50_us, &self.floors, |floor| floor.write_us())
    }

    /// Prints to standard output.
    pub(super) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = stdout().lock();
        if json {
            writeln!(out, "{}", self.json())?;
        } else {
            self.table(&mut out)?;
        }
        out.flush()
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let (bytes, rounds) = (self.value_bytes, self.floors.len());
        writeln!(
            out,
            "{NODES} processes, TCP, synced logs, values of {bytes} B. Medians of {rounds} x {} s.\n",
            self.length.as_secs_f64()
        )?;
        writeln!(
            out,
            "{:>7}  {:<8} {:>9}  {:^20}  {:>9}  {:^20}  {:>6}",
            "clients", "subject", "writes/s", "min .. max", "p50 us", "min .. max", "x etcd"
        )?;
        for row in &self.rows {
            for (name, rounds) in [("quorate", &row.ours), ("etcd", &row.peer)] {
                let (Some(ops), Some(p50)) =
                    (over_rounds(rounds, ops_s), over_rounds(rounds, p50_us))
                else {
                    continue;
                };
                let times = match ratio(&row.ours, ops_s, &row.peer, ops_s) {
                    Some(ratio) if name == "quorate" => format!("{ratio:.2}"),
                    _ => String::new(),
                };
                let line = format!(
                    "{:>7}  {name:<8} {:>9}  {}  {:>9}  {}  {times:>6}",
                    row.clients,
                    grouped(ops),
                    shown_spread(rounds, ops_s),
                    grouped(p50),
                    shown_spread(rounds, p50_us),
                );
                writeln!(out, "{}", line.trim_end())?;
            }
        }
        let floor = |of: fn(&Floor) -> f64| {
            let median = over_rounds(&self.floors, of).unwrap_or_default();
            format!("{} us ({})", grouped(median), shown_spread(&self.floors, of).trim())
        };
        writeln!(
            out,
            "\nThe floor of one write: a sync, {}, and two round trips of {}: {}.",
            floor(|f| f.sync_us),
            floor(|f| f.round_trip_us),
            floor(|f| f.write_us()),
        )?;
        for row in self.rows.iter().filter(|row| row.clients == 1) {
            let times = self.above_floor(row).unwrap_or_default();
            writeln!(out, "One client's writes take {times:.2} times that.")?;
        }
        Ok(())
    }

    /// Writes per second and the median time of one, over the number of clients.
    pub(super) fn panels(&self) -> [Panel; 2] {
        let panel = |y: &str, of: fn(&Measured) -> f64| {
            let line = |name: &str, rounds: fn(&Row) -> &[Measured]| {
                let point = |row: &Row| Some((row.clients.into(), over_rounds(rounds(row), of)?));
                (name.to_owned(), self.rows.iter().filter_map(point).collect())
            };
            let ours = line("quorate", |row| &row.ours);
            let peer = self.vs.map(|Peer::Etcd| line("etcd", |row| &row.peer));
            Panel {
                title: format!("durable, {NODES} processes, {} B", self.value_bytes),
                x: "clients",
                y: y.into(),
                lines: [ours].into_iter().chain(peer).collect(),
            }
        };
        [panel("writes/s", ops_s), panel("p50 us", p50_us)]
    }
}

/// The least and the most of the rounds.
fn shown_spread<T>(rounds: &[T], of: impl Fn(&T) -> f64) -> String {
    let (least, most) = spread(&rounds.iter().map(of).collect::<Vec<f64>>());
    format!("{:>8} .. {:<8}", grouped(least), grouped(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(vs: Option<Peer>) -> Report {
        let mut one = Row::new(1);
        let mut many = Row::new(64);
        // The machine was half as fast in the second round, for everybody.
        for slow in [1.0, 2.0] {
            for (row, ops_s) in [(&mut one, 1000.0), (&mut many, 60_000.0)] {
                let p50_us = 400.0 * slow;
                row.add(None, Measured { ops_s: ops_s / slow, p50_us, processor_us: None });
                if let Some(peer) = vs {
                    row.add(
                        Some(peer),
                        Measured {
                            ops_s: ops_s / slow / 10.0,
                            p50_us: 3.0 * p50_us,
                            processor_us: None,
                        },
                    );
                }
            }
        }
        let floor = |slow| Floor { sync_us: 100.0 * slow, round_trip_us: 50.0 * slow };
        let floors = vec![floor(1.0), floor(2.0)];
        Report {
            vs,
            length: Duration::from_secs(1),
            value_bytes: 256,
            floors,
            rows: vec![one, many],
        }
    }

    #[test]
    fn quotients_are_taken_round_by_round() {
        let json = report(Some(Peer::Etcd)).json();
        assert_eq!(
            json["rows"][1],
            json!({
                "load": "durable_write", "clients": 64, "nodes": 3, "value": 45_000, "peer": "etcd",
                "peer_value": 4500, "ratio": 10.0, "p50_us": 600.0, "peer_p50_us": 1800.0,
            })
        );
        assert_eq!(
            json["rows"][2],
            json!({
                "load": "durable_p50_us", "clients": 1, "nodes": 3, "value": 600.0, "peer": "floor",
                "peer_value": 300.0, "ratio": 2.0, "sync_us": 150.0, "round_trip_us": 75.0,
            })
        );
    }

    #[test]
    fn without_a_peer_its_values_are_null() {
        let json = report(None).json();
        assert_eq!(json["rows"][0]["peer"], "floor");
        for key in ["peer_value", "ratio", "peer_p50_us"] {
            assert_eq!(json["rows"][0][key], Value::Null, "{key}");
        }
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn the_table_names_what_was_measured() {
        let table = |vs| {
            let mut table = Vec::new();
            report(vs).table(&mut table).unwrap();
            String::from_utf8(table).unwrap()
        };
        assert!(table(Some(Peer::Etcd)).contains("etcd") && table(None).contains("quorate"));
        assert!(!table(None).lines().any(|line| line.contains(" etcd  ")), "{}", table(None));
        assert!(table(None).contains("2.00 times"));
    }
}
