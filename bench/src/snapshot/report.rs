//! What was measured, for people and for programs.

use std::io::{self, Write, stdout};
use std::time::Duration;

use serde::Serialize;

use super::alone::Alone;
use super::join::Step;
use super::load::Pace;
use super::memory::Memory;
use super::size::human;

/// All of one run.
pub(super) struct Measured {
    /// Of the cluster, without the new one.
    pub(super) nodes: u32,
    pub(super) values: u64,
    pub(super) value_bytes: u64,
    /// The content of the snapshot.
    pub(super) snapshot_bytes: u64,
    pub(super) fill: Duration,
    /// The steady writes before the new node came.
    pub(super) before: Span,
    /// What came then, in order, and the steady writes meanwhile.
    pub(super) steps: Vec<(Step, Span)>,
    /// All of these together.
    pub(super) join: Span,
    /// `None` where the system does not tell, as below.
    pub(super) leader: Option<Leader>,
    pub(super) new_node: Option<NewNode>,
}

/// A time, and the steady writes in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) time: Duration,
    pub(super) writes: Pace,
}

/// The leader's memory.
pub(super) struct Leader {
    /// Under the steady writes alone.
    pub(super) before: Memory,
    /// With the new node.
    pub(super) meanwhile: Memory,
    /// Of a process that only reads a view of the same database, under the same writes.
    pub(super) view: Alone,
}

/// The new node's memory.
pub(super) struct NewNode {
    pub(super) joined: Memory,
    /// Of a process that only restores the same snapshot.
    pub(super) restore: Alone,
}

/// A row of the table of memory, in bytes. Mapped files are in none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Use {
    /// At most, before the new node came; 0 for a process that was not there.
    before_bytes: u64,
    /// At most, from then on.
    peak_bytes: u64,
    /// What the database takes by itself for the same.
    alone_bytes: u64,
    /// What is left: peak without what was before, and without what the database takes.
    extra_bytes: u64,
}

impl Use {
    fn new(before: u64, peak: u64, alone: u64) -> Self {
        let extra = peak.saturating_sub(before).saturating_sub(alone);
        Self { before_bytes: before, peak_bytes: peak, alone_bytes: alone, extra_bytes: extra }
    }
}

impl Leader {
    fn memory(&self) -> Use {
        // By what a view makes the database grow.
        let alone = self.view.after.own_peak().saturating_sub(self.view.before.own_peak());
        Use::new(self.before.own_peak(), self.meanwhile.own_peak(), alone)
    }
}

impl NewNode {
    fn memory(&self) -> Use {
        Use::new(0, self.joined.own_peak(), self.restore.after.own_peak())
    }
}

/// The JSON form. What the system does not tell is null.
#[derive(Serialize)]
struct Json {
    nodes: u32,
    values: u64,
    value_bytes: u64,
    snapshot_bytes: u64,
    fill: Row,
    before: Row,
    build: Row,
    send: Row,
    restore: Row,
    catch_up: Row,
    join: Row,
    leader: Option<Use>,
    new_node: Option<Use>,
}

/// What went on for a time. Null is what does not apply.
#[derive(Serialize)]
struct Row {
    seconds: f64,
    bytes_s: Option<u64>,
    writes_s: Option<f64>,
    p99_us: Option<u64>,
    max_us: Option<u64>,
}

impl Row {
    /// Of `time`, in which `bytes` were moved.
    fn new(time: Duration, bytes: Option<u64>, writes: Option<Pace>) -> Self {
        Self {
            seconds: (time.as_secs_f64() * 1e6).round() / 1e6,
            bytes_s: bytes.map(|bytes| per_second(bytes, time)),
            writes_s: writes.map(|pace| (pace.writes_s * 10.0).round() / 10.0),
            p99_us: writes.map(|pace| pace.p99.as_micros() as u64),
            max_us: writes.map(|pace| pace.max.as_micros() as u64),
        }
    }

    fn line(&self, what: &str) -> String {
        let millis = |us: Option<u64>| us.map(|us| format!("{:.1}", us as f64 / 1e3));
        let cell = Option::unwrap_or_default;
        let line = format!(
            "{what:<34} {:>8.2} {:>13} {:>9} {:>8} {:>8}",
            self.seconds,
            cell(self.bytes_s.map(|bytes| format!("{}/s", human(bytes)))),
            cell(self.writes_s.map(|writes| format!("{writes:.1}"))),
            cell(millis(self.p99_us)),
            cell(millis(self.max_us)),
        );
        line.trim_end().to_owned()
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 / time.as_secs_f64().max(1e-3)) as u64
}

/// Prints to standard output.
pub(super) fn print(measured: &Measured, json: bool) -> io::Result<()> {
    let mut out = stdout().lock();
    if json { measured.json(&mut out) } else { measured.table(&mut out) }?;
    out.flush()
}

impl Measured {
    fn fill(&self) -> Row {
        Row::new(self.fill, Some(self.values * self.value_bytes), None)
    }

    fn row(&self, span: &Span, moves: bool) -> Row {
        Row::new(span.time, moves.then_some(self.snapshot_bytes), Some(span.writes))
    }

    fn step(&self, step: Step) -> Row {
        let (_, span) = self.steps.iter().find(|(s, _)| *s == step).expect("each step was taken");
        self.row(span, step != Step::CatchUp)
    }

    fn json(&self, out: &mut impl Write) -> io::Result<()> {
        let json = Json {
            nodes: self.nodes,
            values: self.values,
            value_bytes: self.value_bytes,
            snapshot_bytes: self.snapshot_bytes,
            fill: self.fill(),
            before: self.row(&self.before, false),
            build: self.step(Step::Build),
            send: self.step(Step::Send),
            restore: self.step(Step::Restore),
            catch_up: self.step(Step::CatchUp),
            join: self.row(&self.join, true),
            leader: self.leader.as_ref().map(Leader::memory),
            new_node: self.new_node.as_ref().map(NewNode::memory),
        };
        serde_json::to_writer(&mut *out, &json)?;
        writeln!(out)
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "A node joined {} with {} values of {}: a snapshot of {}.\n",
            match self.nodes {
                1 => "one node".to_owned(),
                n => format!("{n} nodes"),
            },
            self.values,
            human(self.value_bytes),
            human(self.snapshot_bytes),
        )?;
        let heading = ["seconds", "", "writes/s", "p99 ms", "max ms"];
        let [seconds, bytes, writes, p99, max] = heading;
        writeln!(out, "{:<34} {seconds:>8} {bytes:>13} {writes:>9} {p99:>8} {max:>8}", "")?;
        writeln!(out, "{}", self.fill().line("filling the store"))?;
        writeln!(out, "{}", self.row(&self.before, false).line("steady writes, nothing else"))?;
        for (step, _) in &self.steps {
            writeln!(out, "{}", self.step(*step).line(step.as_str()))?;
        }
        writeln!(out, "{}", self.row(&self.join, true).line("joining, in all"))?;
        let heading = ["before", "at most", "database alone", "extra"];
        writeln!(
            out,
            "\n{:<28} {:>11} {:>11} {:>14} {:>10}",
            "memory", heading[0], heading[1], heading[2], heading[3]
        )?;
        let leader = self.leader.as_ref().map(Leader::memory);
        let new_node = self.new_node.as_ref().map(NewNode::memory);
        for (what, memory) in [("leader", leader), ("new node", new_node)] {
            match memory {
                Some(Use { before_bytes, peak_bytes, alone_bytes, extra_bytes }) => writeln!(
                    out,
                    "{what:<28} {:>11} {:>11} {:>14} {:>10}",
                    human(before_bytes),
                    human(peak_bytes),
                    human(alone_bytes),
                    human(extra_bytes),
                )?,
                None => writeln!(out, "{what:<28} not known: there is no /proc here")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(peak: u64, mapped: u64) -> Memory {
        Memory { resident: 0, peak, mapped }
    }

    #[test]
    fn extra_is_what_neither_was_there_nor_is_the_databases_own() {
        let leader = Leader {
            before: memory(100, 10),
            meanwhile: memory(200, 10),
            view: Alone { before: memory(20, 5), after: memory(85, 6) },
        };
        let expected = Use { before_bytes: 90, peak_bytes: 190, alone_bytes: 64, extra_bytes: 36 };
        assert_eq!(leader.memory(), expected);
        let restore = Alone { before: memory(20, 5), after: memory(85, 6) };
        let new_node = NewNode { joined: memory(100, 10), restore };
        assert_eq!(new_node.memory().extra_bytes, 90 - 79);
        let less = NewNode { joined: memory(50, 10), restore };
        assert_eq!(less.memory().extra_bytes, 0, "it may as well take less");
    }

    #[test]
    fn rates_are_over_the_whole_time() {
        assert_eq!(per_second(3 << 20, Duration::from_millis(1500)), 2 << 20);
        assert_eq!(per_second(10, Duration::ZERO), 10_000, "as good as at once");
    }
}
