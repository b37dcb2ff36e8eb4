//! `bench tail`: what the slowest writes take while something is wrong with one member.
//!
//! Nodes in one process, with logs on the disk. For each trouble, in turns and several times: writes at a
//! steady rate below the peak, undisturbed, and with the trouble; after each everybody catches up. The
//! two are compared round by round, since a machine has slow minutes.

mod cluster;
mod load;
mod report;
mod trouble;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use self::cluster::Cluster;
use self::load::peak;
use self::report::{Pair, Report, Row};
use self::trouble::{Load, Trouble};
use crate::durable::runtime;
use crate::failure::{Failure, unless_stopped};
use crate::output::Output;
use crate::rounds::seconds;
use crate::snapshot::{directory, size, unusable};

/// How long the peak is looked for.
const PEAK: Duration = Duration::from_secs(2);

/// Writers that look for it.
const PEAK_WRITERS: usize = 256;

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure only this. May be given more than once.
    #[arg(long)]
    trouble: Vec<Trouble>,

    /// Numbers of nodes, each a cluster of its own.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "3,5",
        value_parser = clap::value_parser!(u64).range(3..=9)
    )]
    nodes: Vec<u64>,

    /// Writes per second; by default the share of the peak that --share says.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,

    /// Percent of the peak, which is measured first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=90))]
    share: u64,

    /// Measured seconds of each point.
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,

    /// Times that each point is measured. The medians are reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,

    /// The size of the state that snapshots are built of.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size::parse)]
    state_bytes: u64,

    /// Where the data goes, in a directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    #[command(flatten)]
    output: Output,
}

impl Options {
    /// The troubles that were asked for, in the order of the report.
    fn troubles(&self) -> impl Iterator<Item = Trouble> {
        let chosen = |trouble: &Trouble| self.trouble.is_empty() || self.trouble.contains(trouble);
        Trouble::value_variants().iter().copied().filter(chosen)
    }
}

/// Measures all of it and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let directory = directory(options.dir.as_deref())?;
    let runtime = runtime()?;
    let steps = options.rounds as usize * options.troubles().count() * options.nodes.len();
    let progress = options.output.progress(steps as u64);
    let measured = runtime.block_on(unless_stopped(measure(options, directory.path(), &progress)));
    // Also when it failed: what follows on the terminal begins on a clean line.
    progress.finish_and_clear();
    // First whoever writes there.
    drop(runtime);
    let removed = directory.close();
    let rows = measured?;
    removed.map_err(|e| unusable(&e))?;
    let Options { value_bytes, state_bytes, rounds, seconds, .. } = *options;
    let report = Report { value_bytes, state_bytes, rounds, length: seconds, rows };
    options.output.end(report.print(options.output.json), &report.panels())
}

async fn measure(
    options: &Options,
    parent: &Path,
    progress: &ProgressBar,
) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for &nodes in &options.nodes {
        let directory = directory(Some(parent))?;
        let of_nodes = measure_cluster(options, nodes, directory.path(), progress).await?;
        rows.extend(of_nodes);
    }
    Ok(rows)
}

/// All troubles of one cluster.
async fn measure_cluster(
    options: &Options,
    nodes: u64,
    directory: &Path,
    progress: &ProgressBar,
) -> Result<Vec<Row>, Failure> {
    progress.set_message(format!("{nodes} nodes, the peak"));
    let mut cluster = Cluster::start(nodes, options.state_bytes as usize, directory).await?;
    let value = Bytes::from(vec![7; options.value_bytes]);
    let peak = peak(cluster.leader(), &value, PEAK_WRITERS, PEAK).await?;
    let rate = options.rate.unwrap_or((peak * options.share / 100).max(1));
    let load = Load { value, rate, length: options.seconds };
    cluster.recover().await?;
    let mut troubles: Vec<(Trouble, Vec<Pair>)> =
        options.troubles().map(|t| (t, Vec::new())).collect();
    for round in 0..options.rounds {
        for (trouble, pairs) in &mut troubles {
            progress.set_message(format!("{nodes} nodes, {}", trouble.as_str()));
            // Who is first takes turns as well.
            let (mut undisturbed, mut disturbed) = (None, None);
            for turn in round..round + 2 {
                if turn % 2 == 0 {
                    undisturbed = Some(load.undisturbed(&cluster).await?);
                } else {
                    disturbed = Some(trouble.disturb(&mut cluster, &load).await?);
                }
                cluster.recover().await?;
            }
            pairs.extend(
                undisturbed.zip(disturbed).map(|(u, d)| Pair { undisturbed: u, disturbed: d }),
            );
            progress.inc(1);
        }
    }
    cluster.stop().await;
    Ok(troubles.iter().map(|(t, pairs)| Row::of(*t, nodes, (peak, rate), pairs)).collect())
}
