//! What was measured, for people and for programs.

use std::io::{self, Write, stdout};
use std::time::Duration;

use serde::Serialize;

use super::alone::Alone;
use super::join::Steps;
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
    pub(super) steps: Steps,
    pub(super) writes_before: Pace,
    pub(super) writes_meanwhile: Pace,
    /// `None` where the system does not tell, as below.
    pub(super) leader: Option<Leader>,
    pub(super) new_node: Option<NewNode>,
}

/// The leader's memory.
pub(super) struct Leader {
    /// Under the steady writes alone.
    pub(super) before: Memory,
    /// With the new node.
    pub(super) meanwhile: Memory,
    /// Of a process that only reads a view of the same database.
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
        // A view makes the open database grow.
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
    fill_s: f64,
    fill_bytes_s: u64,
    build_s: f64,
    send_s: f64,
    restore_s: f64,
    catch_up_s: f64,
    join_s: f64,
    send_bytes_s: u64,
    join_bytes_s: u64,
    writes_before: Writes,
    writes_meanwhile: Writes,
    leader: Option<Use>,
    new_node: Option<Use>,
}

#[derive(Serialize)]
struct Writes {
    writes_s: f64,
    p99_us: u64,
    max_us: u64,
}

impl From<&Pace> for Writes {
    fn from(pace: &Pace) -> Self {
        Self {
            writes_s: (pace.writes_s * 10.0).round() / 10.0,
            p99_us: pace.p99.as_micros() as u64,
            max_us: pace.max.as_micros() as u64,
        }
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
    fn json(&self, out: &mut impl Write) -> io::Result<()> {
        let seconds = |time: Duration| (time.as_secs_f64() * 1e3).round() / 1e3;
        let (steps, bytes) = (&self.steps, self.snapshot_bytes);
        let json = Json {
            nodes: self.nodes,
            values: self.values,
            value_bytes: self.value_bytes,
            snapshot_bytes: bytes,
            fill_s: seconds(self.fill),
            fill_bytes_s: per_second(self.values * self.value_bytes, self.fill),
            build_s: seconds(steps.build),
            send_s: seconds(steps.send),
            restore_s: seconds(steps.restore),
            catch_up_s: seconds(steps.catch_up),
            join_s: seconds(steps.sum()),
            send_bytes_s: per_second(bytes, steps.send),
            join_bytes_s: per_second(bytes, steps.sum()),
            writes_before: (&self.writes_before).into(),
            writes_meanwhile: (&self.writes_meanwhile).into(),
            leader: self.leader.as_ref().map(Leader::memory),
            new_node: self.new_node.as_ref().map(NewNode::memory),
        };
        serde_json::to_writer(&mut *out, &json)?;
        writeln!(out)
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let (bytes, steps) = (self.snapshot_bytes, &self.steps);
        writeln!(
            out,
            "A node joined {} with {} values of {}: a snapshot of {}.\n",
            match self.nodes {
                1 => "one node".to_owned(),
                n => format!("{n} nodes"),
            },
            self.values,
            human(self.value_bytes),
            human(bytes),
        )?;
        let mut row = |what: &str, bytes: Option<u64>, time: Duration| {
            let rate = bytes.map(|bytes| format!("{}/s", human(per_second(bytes, time))));
            let line =
                format!("{what:<40} {:>9.2} {:>14}", time.as_secs_f64(), rate.unwrap_or_default());
            writeln!(out, "{}", line.trim_end())
        };
        row("filling the store", Some(self.values * self.value_bytes), self.fill)?;
        row("the leader writes the snapshot", Some(bytes), steps.build)?;
        row("it is sent, and durable", Some(bytes), steps.send)?;
        row("the new node restores it", Some(bytes), steps.restore)?;
        row("it is a voter that has caught up", None, steps.catch_up)?;
        row("joining, in all", Some(bytes), steps.sum())?;
        writeln!(
            out,
            "\n{:<40} {:>9} {:>14} {:>10}",
            "steady writes", "per s", "p99 ms", "max ms"
        )?;
        for (what, pace) in [("before", &self.writes_before), ("meanwhile", &self.writes_meanwhile)]
        {
            let millis = |time: Duration| time.as_secs_f64() * 1e3;
            let (p99, max) = (millis(pace.p99), millis(pace.max));
            writeln!(out, "{what:<40} {:>9.1} {p99:>14.1} {max:>10.1}", pace.writes_s)?;
        }
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
