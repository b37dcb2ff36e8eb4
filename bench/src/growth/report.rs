//! What was measured, for people and for programs.

use std::io::{self, Write, stdout};

use serde_json::{Map, Value, json};

use crate::chart::Panel;
use crate::report::{grouped, median, rounded, spread};

/// All that was measured in one run.
pub(super) struct Report {
    pub(super) parts: Vec<Part>,
}

/// What was measured of one thing that grows.
pub(super) struct Part {
    /// What it is about, in a line.
    pub(super) title: &'static str,
    /// Measurements behind each median.
    pub(super) measured: u32,
    /// What the values are.
    pub(super) unit: &'static str,
    /// What grows from row to row, as in the JSON.
    pub(super) grows: &'static str,
    pub(super) rows: Vec<Row>,
    pub(super) panels: Vec<Panel>,
}

/// What was measured at one size. NaN is what the system does not tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) load: &'static str,
    /// Of what grows.
    pub(super) size: u64,
    pub(super) clients: u32,
    pub(super) nodes: u64,
    /// By round.
    pub(super) values: Vec<f64>,
    /// What they stand beside.
    pub(super) peer: &'static str,
    /// By round, as many as there are values.
    pub(super) peer_values: Vec<f64>,
    /// What else was measured, by name; by round.
    pub(super) more: Vec<(&'static str, Vec<f64>)>,
}

impl Row {
    pub(super) fn value(&self) -> f64 {
        middle(&self.values)
    }

    pub(super) fn peer_value(&self) -> f64 {
        middle(&self.peer_values)
    }

    /// The median of what else was measured under this name.
    pub(super) fn more(&self, name: &str) -> f64 {
        let found = self.more.iter().find(|(known, _)| *known == name);
        found.map_or(f64::NAN, |(_, values)| middle(values))
    }

    /// Adds what else was measured in one round.
    pub(super) fn add(&mut self, name: &'static str, value: f64) {
        match self.more.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => self.more.push((name, vec![value])),
        }
    }

    /// The median of the rounds' quotients: both saw the same state of the machine.
    fn ratio(&self) -> f64 {
        let pairs = self.values.iter().zip(&self.peer_values);
        middle(&pairs.map(|(value, peer)| value / peer).collect::<Vec<f64>>())
    }

    fn json(&self, grows: &str) -> Value {
        let mut row = Map::new();
        row.insert("load".into(), self.load.into());
        row.insert("clients".into(), self.clients.into());
        row.insert("nodes".into(), self.nodes.into());
        row.insert("value".into(), json!(rounded(self.value())));
        row.insert("peer".into(), self.peer.into());
        row.insert("peer_value".into(), json!(rounded(self.peer_value())));
        row.insert("ratio".into(), json!(rounded(self.ratio())));
        row.insert(grows.into(), self.size.into());
        let (least, most) = spread(&self.values);
        row.insert("min".into(), json!(rounded(least)));
        row.insert("max".into(), json!(rounded(most)));
        for (name, values) in &self.more {
            row.insert((*name).into(), json!(rounded(middle(values))));
        }
        row.into()
    }
}

/// A line of a chart: a value of each row, over what grows.
pub(super) fn line(rows: &[Row], name: &str, of: fn(&Row) -> f64) -> (String, Vec<(f64, f64)>) {
    (name.to_owned(), rows.iter().map(|row| (row.size as f64, of(row))).collect())
}

/// The median; of nothing, NaN.
fn middle(values: &[f64]) -> f64 {
    if values.is_empty() { f64::NAN } else { median(values.to_vec()) }
}

impl Report {
    pub(super) fn panels(&self) -> Vec<Panel> {
        self.parts.iter().flat_map(|part| part.panels.iter().cloned()).collect()
    }

    /// Prints to standard output.
    pub(super) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = stdout().lock();
        if json {
            writeln!(out, "{}", self.json())?;
        } else {
            self.tables(&mut out)?;
        }
        out.flush()
    }

    fn json(&self) -> Value {
        let of_part = |part: &Part| part.rows.iter().map(|row| row.json(part.grows)).collect();
        let rows: Vec<Value> =
            self.parts.iter().flat_map(|part| -> Vec<Value> { of_part(part) }).collect();
        json!({ "rows": rows })
    }

    fn tables(&self, out: &mut impl Write) -> io::Result<()> {
        for (at, part) in self.parts.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            part.table(out)?;
        }
        Ok(())
    }
}

impl Part {
    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{} Medians of {}.\n", self.title, self.measured)?;
        let mut head = format!(
            "{:<19} {:>11} {:>7} {:>5}  {:>14}  {:^27}  {:<20} {:>14} {:>6}",
            "load", self.grows, "clients", "nodes", self.unit, "min .. max", "beside", "", "ratio"
        );
        for (name, _) in self.rows.first().map_or(&[][..], |row| &row.more) {
            head += &format!("  {name}");
        }
        writeln!(out, "{head}")?;
        for row in &self.rows {
            let (least, most) = spread(&row.values);
            let mut line = format!(
                "{:<19} {:>11} {:>7} {:>5}  {:>14}  {:>12} .. {:<11}  {:<20} {:>14} {:>6}",
                row.load,
                grouped(row.size as f64),
                row.clients,
                row.nodes,
                shown(row.value()),
                shown(least),
                shown(most),
                row.peer,
                shown(row.peer_value()),
                shown(row.ratio()),
            );
            for (name, values) in &row.more {
                line += &format!("  {:>1$}", shown(middle(values)), name.len());
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Three digits that count, at least.
fn shown(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "?".into(),
        size if size >= 100.0 => grouped(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut row = Row {
            load: "growth_log",
            size: 10_000,
            clients: 64,
            nodes: 1,
            // The machine was half as fast in the second round, for both.
            values: vec![900.0, 450.0],
            peer: "shortest_log",
            peer_values: vec![1000.0, 500.0],
            more: Vec::new(),
        };
        row.add("memory_bytes", f64::NAN);
        row.add("p50_us", 1.0);
        row.add("p50_us", 2.0);
        let part = Part {
            title: "One node.",
            measured: 2,
            unit: "writes/s",
            grows: "entries",
            rows: vec![row],
            panels: vec![],
        };
        Report { parts: vec![part] }
    }

    #[test]
    fn a_row_has_its_keys_and_null_for_what_is_not_known() {
        assert_eq!(
            report().json()["rows"][0],
            json!({
                "load": "growth_log", "clients": 64, "nodes": 1, "value": 675.0,
                "peer": "shortest_log", "peer_value": 750.0, "ratio": 0.9, "entries": 10_000,
                "min": 450.0, "max": 900.0, "memory_bytes": null, "p50_us": 1.5,
            })
        );
    }

    #[test]
    fn the_table_has_medians_and_spread() {
        let mut table = Vec::new();
        report().tables(&mut table).unwrap();
        let table = String::from_utf8(table).unwrap();
        for text in ["Medians of 2", "675", "450 .. 900", "0.900", "1.50", "memory_bytes"] {
            assert!(table.contains(text), "{text} in {table}");
        }
    }
}
