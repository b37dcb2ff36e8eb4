//! `bench engine`: what the protocol itself costs.
//!
//! Three engines joined by queues, on one thread, with no clock but a counter: so many entries are
//! proposed at the leader, then every message is delivered until the leader has applied them all and
//! nobody has anything left to say. That is a round, and the next begins. Followers have stored the
//! entries then, and apply them with the append of the next round, which says that they are
//! committed, so a round of one entry is four messages. At the end of a measurement a heartbeat tells
//! them of the last round, and what each of the three has applied is compared with what was proposed:
//! a missing entry fails the benchmark.

mod allocations;
mod quorate;
mod raft_rs;
mod report;

use std::fmt;
use std::time::Duration;

use clap::{Args, ValueEnum};

use self::quorate::Quorate;
use self::raft_rs::RaftRs;
use self::report::{Report, Row};
use crate::failure::Failure;
use crate::output::Output;
use crate::rounds::seconds;

/// Of each cluster.
const NODES: usize = 3;
/// By how much the counter that stands in for a clock advances, and in how many rounds: as if each took
/// 100 us. Then both look at what is due.
const TICK: Duration = Duration::from_millis(10);
const ROUNDS_PER_TICK: u64 = 100;
/// What stays in a log that is compacted. It is when there are twice as many: what is measured is not
/// how a processor's caches cope with a log.
const KEPT_ENTRIES: u64 = 1024;
/// Entries before anything is counted.
const WARM_UP_ENTRIES: usize = 20_000;
/// Entries between two looks at the clock, and while allocations are counted.
const STRETCH_ENTRIES: usize = 8192;

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    /// Measured seconds of each point, after a warm-up.
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    seconds: Duration,

    /// Times that each point is measured. The medians are reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Numbers of clients, each a point: entries that are proposed at a time.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,64,256,1024,4096",
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    clients: Vec<u32>,

    /// Bytes of each entry.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    value_bytes: u32,

    /// Measure only this subject. May be given more than once.
    #[arg(long)]
    subject: Vec<Subject>,

    #[command(flatten)]
    output: Output,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    Quorate,
    RaftRs,
}

impl Subject {
    const ALL: [Self; 2] = [Self::Quorate, Self::RaftRs];

    fn as_str(self) -> &'static str {
        match self {
            Self::Quorate => Quorate::NAME,
            Self::RaftRs => RaftRs::NAME,
        }
    }
}

/// Three engines, the first of which leads, and what is around them.
trait Cluster: Sized {
    /// As in the reports.
    const NAME: &'static str;

    /// A cluster that has a leader, for entries of `value_bytes`, `entries` at a time.
    fn start(value_bytes: usize, entries: usize) -> Result<Self, Failure>;

    /// Proposes so many entries, and delivers until nobody has anything to say.
    fn round(&mut self, entries: usize);

    /// Lets the followers learn of the last commit.
    fn settle(&mut self);

    /// Messages sent so far.
    fn sent(&self) -> u64;

    /// What a node has applied so far.
    fn applied(&self, node: usize) -> Applied;

    /// What happened that should not have.
    fn fault(&self) -> Option<&str>;
}

/// What a node has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Applied {
    entries: u64,
    bytes: u64,
}

impl Applied {
    fn add(&mut self, command: &[u8]) {
        self.entries += 1;
        self.bytes += command.len() as u64;
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Measured {
    entries_s: f64,
    ns_per_message: f64,
    messages_per_round: f64,
    allocations_per_entry: f64,
    allocations_per_message: f64,
}

impl Measured {
    fn ns_per_entry(&self) -> f64 {
        1e9 / self.entries_s
    }
}

/// A start that came to nothing.
fn not_elected(error: impl fmt::Display) -> Failure {
    Failure::new(format!("a cluster did not start: {error}"), "report this as a bug")
}

/// Measures all of it and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let chosen = |s: &Subject| options.subject.is_empty() || options.subject.contains(s);
    let subjects: Vec<Subject> = Subject::ALL.into_iter().filter(chosen).collect();
    let mut rows: Vec<Row> = options.clients.iter().map(|&n| Row::new(n, &subjects)).collect();
    let steps = options.rounds as usize * rows.len() * subjects.len();
    let progress = options.output.progress(steps as u64);
    let measured = (|| {
        for round in 0..options.rounds as usize {
            for (at, row) in rows.iter_mut().enumerate() {
                // In turns, another one first each time: a slow minute of the machine is nobody's.
                for turn in 0..subjects.len() {
                    let subject = subjects[(round + at + turn) % subjects.len()];
                    progress.set_message(format!("{}, {} clients", subject.as_str(), row.clients));
                    row.add(subject, measure_subject(subject, row.clients as usize, options)?);
                    progress.inc(1);
                }
            }
        }
        Ok(())
    })();
    progress.finish_and_clear();
    measured?;
    let Options { rounds, seconds: length, value_bytes, .. } = *options;
    let report = Report { rounds, length, value_bytes, rows };
    options.output.end(report.print(options.output.json), &report.panels())
}

fn measure_subject(
    subject: Subject,
    entries: usize,
    options: &Options,
) -> Result<Measured, Failure> {
    let value_bytes = options.value_bytes as usize;
    match subject {
        Subject::Quorate => measure::<Quorate>(entries, value_bytes, options.seconds),
        Subject::RaftRs => measure::<RaftRs>(entries, value_bytes, options.seconds),
    }
}

/// Measures a fresh cluster for about `length`.
fn measure<C: Cluster>(
    entries: usize,
    value_bytes: usize,
    length: Duration,
) -> Result<Measured, Failure> {
    let mut cluster = C::start(value_bytes, entries)?;
    let rounds_of = |count: usize| count.div_ceil(entries);
    let run = |cluster: &mut C, rounds: usize| {
        (0..rounds).for_each(|_| cluster.round(entries));
        rounds as u64
    };
    let mut rounds = run(&mut cluster, rounds_of(WARM_UP_ENTRIES));

    let (sent, before, began) = (cluster.sent(), rounds, std::time::Instant::now());
    let mut elapsed = Duration::ZERO;
    while elapsed < length {
        rounds += run(&mut cluster, rounds_of(STRETCH_ENTRIES));
        elapsed = began.elapsed();
    }
    let (timed, messages) = ((rounds - before) as f64, (cluster.sent() - sent) as f64);

    let sent = cluster.sent();
    let (allocations, counted) =
        allocations::of(|| run(&mut cluster, rounds_of(STRETCH_ENTRIES).max(16)));
    let allocations = allocations as f64;
    let allocations_per_message = allocations / (cluster.sent() - sent) as f64;
    rounds += counted;

    cluster.settle();
    verify(&cluster, rounds * entries as u64, value_bytes)?;
    let nanos = elapsed.as_secs_f64() * 1e9;
    Ok(Measured {
        entries_s: timed * entries as f64 / elapsed.as_secs_f64(),
        ns_per_message: nanos / messages,
        messages_per_round: messages / timed,
        allocations_per_entry: allocations / (counted as f64 * entries as f64),
        allocations_per_message,
    })
}

/// Every node has applied all that was proposed, and nothing else.
fn verify<C: Cluster>(cluster: &C, proposed: u64, value_bytes: usize) -> Result<(), Failure> {
    let name = C::NAME;
    if let Some(fault) = cluster.fault() {
        return Err(Failure::new(format!("{name}: {fault}"), "report this as a bug"));
    }
    let all = Applied { entries: proposed, bytes: proposed * value_bytes as u64 };
    for node in 0..NODES {
        let applied = cluster.applied(node);
        if applied != all {
            let what = format!("{name}: node {} applied {applied:?} of {all:?}", node + 1);
            return Err(Failure::new(what, "report this as a bug"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both carry every entry to every node; a round of either is an append to each follower and its
    /// answer, whatever the number of entries.
    #[test]
    fn entries_reach_every_node_in_four_messages() {
        for entries in [1, 64, 3000] {
            let short = Duration::from_millis(1);
            for measured in [
                measure::<Quorate>(entries, 16, short).unwrap(),
                measure::<RaftRs>(entries, 16, short).unwrap(),
            ] {
                let messages = measured.messages_per_round;
                assert!((4.0..4.1).contains(&messages), "{entries} entries: {messages} messages");
            }
        }
    }

    /// A batch that is larger than a block is cut, and not a byte of it lost.
    #[test]
    fn large_batches_are_cut_into_blocks() {
        let measured = measure::<Quorate>(300, 4096, Duration::from_millis(1)).unwrap();
        assert!(measured.messages_per_round > 4.0);
    }

    #[test]
    fn a_missing_entry_fails_the_benchmark() {
        let mut cluster = Quorate::start(16, 4).unwrap();
        cluster.round(4);
        assert!(verify(&cluster, 4, 16).is_err(), "followers have yet to apply it");
        cluster.settle();
        verify(&cluster, 4, 16).unwrap();
        assert!(verify(&cluster, 5, 16).is_err());
    }
}
