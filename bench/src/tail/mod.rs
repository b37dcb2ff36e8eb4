//! `bench tail`: what the slowest writes take while something is wrong with one member.
//!
//! Three nodes in one process, with logs on the disk. For each trouble, in turns and several times:
//! writes at a steady rate below the peak, undisturbed; the same with the trouble; then it ends, and
//! everybody catches up. The two are compared round by round, since a machine has slow minutes.

mod cluster;
mod load;

use std::io::{Write as _, stdout};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use quorate::{Raft, ReadMode};
use serde::Serialize;
use tokio::task::JoinHandle;

use self::cluster::{Cluster, Machine};
use self::load::{Answers, peak, steady};
use crate::failure::{Failure, asked_to_stop};
use crate::report::{median, progress};

/// How long the peak is looked for.
const PEAK: Duration = Duration::from_secs(2);

/// Writers that look for it.
const PEAK_WRITERS: usize = 256;

/// Between a trouble and what is measured of it.
const SETTLE: Duration = Duration::from_millis(300);

/// What a slow disk and a slow state machine take more, for each batch.
const SLOW: Duration = Duration::from_millis(50);

/// A slow reader looks at one piece of a backup, or at the state, for so long.
const LOOK: Duration = Duration::from_millis(20);

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=9))]
    nodes: u64,

    /// Writes per second; by default the share of the peak that --share says.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,

    /// Percent of the peak, which is measured first.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=90))]
    share: u64,

    /// Measured seconds of each point.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// Times that each point is measured. The medians are reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,

    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What goes wrong, with one follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Dead,
    SlowDisk,
    SlowMachine,
    SlowReader,
}

impl Trouble {
    const ALL: [Trouble; 4] =
        [Trouble::Dead, Trouble::SlowDisk, Trouble::SlowMachine, Trouble::SlowReader];

    fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead_follower",
            Self::SlowDisk => "slow_disk",
            Self::SlowMachine => "slow_machine",
            Self::SlowReader => "slow_reader",
        }
    }

    /// Begins it. Who reads is a task, to be ended.
    fn begin(self, cluster: &Cluster) -> Option<JoinHandle<()>> {
        let (follower, hindrance) = cluster.follower();
        match self {
            Self::Dead => cluster.cut_off(follower.id()),
            Self::SlowDisk => hindrance.slow_disk(SLOW),
            Self::SlowMachine => hindrance.slow_machine(SLOW),
            Self::SlowReader => return Some(tokio::spawn(read_slowly(follower.clone()))),
        }
        None
    }

    async fn end(self, cluster: &Cluster, reader: Option<JoinHandle<()>>) -> Result<(), Failure> {
        if let Some(reader) = reader {
            reader.abort();
        }
        let (_, hindrance) = cluster.follower();
        hindrance.slow_disk(Duration::ZERO);
        hindrance.slow_machine(Duration::ZERO);
        cluster.recover().await
    }
}

/// Takes a backup piece by piece, with pauses, and keeps looking at the state for long.
async fn read_slowly(node: Raft<Machine>) {
    loop {
        let Ok(mut backup) = node.backup().await else { return };
        while let Some(Ok(_)) = backup.next().await {
            // On the node's own time: nothing is applied there meanwhile.
            let look = node.read_with(ReadMode::Stale, |_| std::thread::sleep(LOOK));
            if look.await.is_err() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// One round of one trouble.
struct Pair {
    undisturbed: Answers,
    disturbed: Answers,
}

/// Measures all of it and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let no_runtime = |error: std::io::Error| {
        Failure::new(format!("cannot start a runtime: {error}"), "raise the limit on threads")
    };
    let runtime = tokio::runtime::Runtime::new().map_err(no_runtime)?;
    runtime.block_on(async {
        tokio::select! { biased;
            Ok(()) = asked_to_stop() => Err(Failure::Interrupted),
            done = measure(options) => done,
        }
    })
}

async fn measure(options: &Options) -> Result<(), Failure> {
    let steps = options.rounds * Trouble::ALL.len() as u64;
    let progress = progress(options.json, steps);
    let cluster = Cluster::start(options.nodes).await?;
    let value = Bytes::from(vec![7; options.value_bytes]);
    let length = Duration::from_secs(options.seconds);
    progress.set_message("the peak");
    let peak = peak(cluster.leader(), &value, PEAK_WRITERS, PEAK).await?;
    let rate = options.rate.unwrap_or((peak * options.share / 100).max(1));
    let mut rows: Vec<(Trouble, Vec<Pair>)> = Trouble::ALL.map(|t| (t, Vec::new())).into();
    for _ in 0..options.rounds {
        for (trouble, pairs) in &mut rows {
            progress.set_message(trouble.as_str());
            let undisturbed = steady(cluster.leader(), &value, rate, length).await?;
            let reader = trouble.begin(&cluster);
            tokio::time::sleep(SETTLE).await;
            let disturbed = steady(cluster.leader(), &value, rate, length).await?;
            trouble.end(&cluster, reader).await?;
            pairs.push(Pair { undisturbed, disturbed });
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    cluster.stop().await;
    let rows: Vec<Row> = rows.iter().map(|(t, pairs)| Row::of(*t, pairs, options, rate)).collect();
    print(&rows, peak, options).map_err(|error| {
        Failure::new(format!("cannot print the results: {error}"), "look at where they go")
    })
}

/// Medians over the rounds.
#[derive(Serialize)]
struct Row {
    load: &'static str,
    nodes: u64,
    rate_s: u64,
    /// p99 with the trouble, in microseconds.
    value: u64,
    p999_us: u64,
    refused: u64,
    peer: &'static str,
    /// p99 without, in microseconds.
    peer_value: u64,
    peer_p999_us: u64,
    /// The median of the rounds' value / peer_value.
    ratio: f64,
    /// The same of p99.9.
    p999_ratio: f64,
}

impl Row {
    fn of(trouble: Trouble, pairs: &[Pair], options: &Options, rate_s: u64) -> Self {
        let of = |percentile: f64| {
            let of_rounds = |of: &dyn Fn(&Pair) -> f64| median(pairs.iter().map(of).collect());
            let with = of_rounds(&|p| p.disturbed.percentile(percentile) as f64);
            let without = of_rounds(&|p| p.undisturbed.percentile(percentile) as f64);
            let ratio = |p: &Pair| {
                let without = p.undisturbed.percentile(percentile).max(1);
                p.disturbed.percentile(percentile) as f64 / without as f64
            };
            let ratio = (of_rounds(&ratio) * 1e3).round() / 1e3;
            (with.round() as u64, without.round() as u64, ratio)
        };
        let ((value, peer_value, ratio), (p999_us, peer_p999_us, p999_ratio)) =
            (of(99.0), of(99.9));
        Self {
            load: trouble.as_str(),
            nodes: options.nodes,
            rate_s,
            value,
            p999_us,
            refused: pairs.iter().map(|p| p.undisturbed.refused + p.disturbed.refused).sum(),
            peer: "undisturbed",
            peer_value,
            peer_p999_us,
            ratio,
            p999_ratio,
        }
    }
}

fn print(rows: &[Row], peak: u64, options: &Options) -> std::io::Result<()> {
    let mut out = stdout().lock();
    if options.json {
        serde_json::to_writer(&mut out, &serde_json::json!({ "peak_s": peak, "rows": rows }))?;
        return writeln!(out);
    }
    let Options { nodes, rounds, seconds, value_bytes, .. } = options;
    writeln!(
        out,
        "{nodes} nodes in one process, logs on disk, values of {value_bytes} B, {} of {peak} writes/s.\n\
         Medians of {rounds} x {seconds} s, in microseconds from when a write was due.\n",
        rows[0].rate_s
    )?;
    writeln!(
        out,
        "{:<14} {:>9} {:>9} {:>6}   {:>9} {:>9} {:>6}   {:>7}",
        "trouble", "p99", "without", "ratio", "p99.9", "without", "ratio", "refused"
    )?;
    for row in rows {
        writeln!(
            out,
            "{:<14} {:>9} {:>9} {:>6.2}   {:>9} {:>9} {:>6.2}   {:>7}",
            row.load,
            row.value,
            row.peer_value,
            row.ratio,
            row.p999_us,
            row.peer_p999_us,
            row.p999_ratio,
            row.refused
        )?;
    }
    Ok(())
}
