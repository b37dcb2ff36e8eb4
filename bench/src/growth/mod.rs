//! `bench growth`: how what Quorate costs grows with the cluster, the log and the values.
//!
//! Nothing here has a peer: each row stands beside the smallest of its kind, a bound, or what the machine
//! can do, from the same round. `nodes` runs in this process, everything else on processes of their own,
//! as `bench durable` starts them.

mod bandwidth;
mod kills;
mod log;
mod nodes;
mod report;
mod restart;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use self::report::{Part, Report};
use crate::durable::runtime;
use crate::failure::{Failure, unless_stopped};
use crate::output::Output;
use crate::rounds::seconds;
use crate::snapshot::{directory, unusable};

pub(crate) use self::bandwidth::run_sink;

/// The shortest log.
const SHORTEST: u64 = 10_000;

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure only this. May be given more than once.
    #[arg(long)]
    part: Vec<PartName>,

    /// Measured seconds of each point of `nodes` and `values`, after a warm-up.
    #[arg(long, default_value = "1", value_parser = seconds)]
    seconds: Duration,

    /// Times that each point is measured. The medians are reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Of the longest log of `log` and `restart`; shorter ones have a tenth, a hundredth.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(SHORTEST..=10_000_000)
    )]
    max_entries: u64,

    /// How often the leader is killed in `kills`.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,

    /// Where the data goes, in a directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    #[command(flatten)]
    output: Output,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PartName {
    /// The cluster: what a write costs.
    Nodes,
    /// The log: writes per second, and memory.
    Log,
    /// The values: bytes per second.
    Values,
    /// The log: how long a node takes to start.
    Restart,
    /// The number of leaders that were killed: how long there is none.
    Kills,
}

impl Options {
    /// The lengths of logs, from the shortest on.
    fn lengths(&self) -> Vec<u64> {
        let powers = std::iter::successors(Some(SHORTEST), |length| Some(length * 10));
        let mut lengths: Vec<u64> = powers.take_while(|&l| l < self.max_entries).collect();
        lengths.push(self.max_entries);
        lengths
    }

    /// The parts that were asked for, in the order of the report.
    fn parts(&self) -> impl Iterator<Item = PartName> {
        let chosen = |part: &PartName| self.part.is_empty() || self.part.contains(part);
        PartName::value_variants().iter().copied().filter(chosen)
    }

    /// How many times something is measured for this part.
    fn steps(&self, part: PartName) -> u64 {
        let of_round = match part {
            PartName::Nodes => nodes::POINTS,
            PartName::Log => self.lengths().len(),
            PartName::Values => values::VALUE_BYTES.len() + 1,
            PartName::Restart => self.lengths().len(),
            PartName::Kills => return self.kills.into(),
        };
        u64::from(self.rounds) * of_round as u64
    }
}

/// What a part is measured with.
struct Bench<'a> {
    options: &'a Options,
    /// Of the data of all measurements; each has a directory in it.
    parent: &'a TempDir,
    progress: &'a ProgressBar,
}

impl Bench<'_> {
    /// A directory for one measurement, removed after it.
    fn fresh(&self) -> Result<TempDir, Failure> {
        directory(Some(self.parent.path()))
    }
}

/// Measures it, prints the report, draws the charts.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let parent = directory(options.dir.as_deref())?;
    let steps = options.parts().map(|part| options.steps(part)).sum();
    let progress = options.output.progress(steps);
    let measured = runtime().and_then(|runtime| {
        let bench = Bench { options, parent: &parent, progress: &progress };
        options.parts().map(|part| measure(part, &bench, &runtime)).collect()
    });
    // Also when it failed: what follows on the terminal begins on a clean line.
    progress.finish_and_clear();
    let removed = parent.close();
    let report = Report { parts: measured? };
    removed.map_err(|e| unusable(&e))?;
    options.output.end(report.print(options.output.json), &report.panels())
}

fn measure(part: PartName, bench: &Bench<'_>, runtime: &Runtime) -> Result<Part, Failure> {
    match part {
        PartName::Nodes => nodes::measure(bench),
        PartName::Log => runtime.block_on(unless_stopped(log::measure(bench))),
        PartName::Values => runtime.block_on(unless_stopped(values::measure(bench))),
        PartName::Restart => runtime.block_on(unless_stopped(restart::measure(bench))),
        PartName::Kills => runtime.block_on(unless_stopped(kills::measure(bench))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Cli::parse_from([&["bench"], arguments].concat()).options
    }

    #[test]
    fn logs_grow_tenfold_up_to_the_longest() {
        assert_eq!(options(&[]).lengths(), [10_000, 100_000, 1_000_000]);
        assert_eq!(options(&["--max-entries", "10000"]).lengths(), [10_000]);
        assert_eq!(options(&["--max-entries", "200000"]).lengths(), [10_000, 100_000, 200_000]);
    }

    #[test]
    fn all_parts_are_measured_unless_some_are_named() {
        assert_eq!(options(&[]).parts().count(), 5);
        let named = options(&["--part", "kills", "--part", "log"]);
        assert_eq!(named.parts().collect::<Vec<_>>(), [PartName::Log, PartName::Kills]);
    }
}
