//! `bench idle`: what a cluster takes that has nothing to do.
//!
//! All nodes in one process, with a leader and without clients. Beside it a process that does only what a
//! leader and its followers can't do without: a timer, and as many messages over sockets. They take
//! turns, each started anew, and are looked at from outside.

mod child;
mod report;
mod usage;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use tokio::time::sleep;

use self::report::{Measured, Pair, Report, Row};
use self::usage::Usage;
use crate::child::Child;
use crate::durable::runtime;
use crate::failure::{Failure, unless_stopped};
use crate::output::Output;
use crate::rounds::seconds;
use crate::snapshot::{directory, unusable};

/// After the start, before anything is measured: elections, first entries, a log that seals itself.
const SETTLE: Duration = Duration::from_secs(2);

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    /// Numbers of nodes, each a process.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "3",
        value_parser = clap::value_parser!(u64).range(3..=9)
    )]
    nodes: Vec<u64>,

    /// Measured seconds of each process.
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,

    /// Times that each is measured. The medians are reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Where the data goes, in a directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    #[command(flatten)]
    output: Output,
}

/// One of the processes that are measured. Nobody types it.
#[derive(Args)]
pub(crate) struct ChildOptions {
    #[command(subcommand)]
    what: Work,
}

#[derive(Subcommand)]
enum Work {
    /// A cluster.
    Nodes { count: u64, data: PathBuf },
    /// A timer and sockets.
    Floor { count: u64 },
}

/// The work of a process that a measurement has started.
pub(crate) fn run_child(options: &ChildOptions) -> Result<(), Failure> {
    match &options.what {
        Work::Nodes { count, data } => child::run_nodes(*count, data),
        Work::Floor { count } => child::run_floor(*count),
    }
}

/// Measures it and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let directory = directory(options.dir.as_deref())?;
    let steps = options.rounds as usize * options.nodes.len() * 2;
    let progress = options.output.progress(steps as u64);
    let measured =
        runtime()?.block_on(unless_stopped(measure(options, directory.path(), &progress)));
    // Also when it failed: what follows on the terminal begins on a clean line.
    progress.finish_and_clear();
    let removed = directory.close();
    let rows = measured?;
    removed.map_err(|e| unusable(&e))?;
    let report = Report { rounds: options.rounds, length: options.seconds, rows };
    options.output.end(report.print(options.output.json), &report.panels())
}

async fn measure(
    options: &Options,
    parent: &Path,
    progress: &ProgressBar,
) -> Result<Vec<Row>, Failure> {
    let mut all: Vec<(u64, Vec<Pair>)> = options.nodes.iter().map(|n| (*n, Vec::new())).collect();
    for round in 0..options.rounds {
        for (count, pairs) in &mut all {
            // Who is first takes turns as well.
            let (mut nodes, mut floor) = (None, None);
            for turn in round..round + 2 {
                if turn % 2 == 0 {
                    progress.set_message(format!("{count} nodes"));
                    let data = directory(Some(parent))?;
                    let arguments = ["nodes".into(), count.to_string().into(), data.path().into()];
                    nodes = Some(measure_child("the nodes", arguments, options.seconds).await?);
                } else {
                    progress.set_message(format!("the floor of {count} nodes"));
                    let arguments = ["floor".into(), count.to_string().into()];
                    floor = Some(measure_child("the floor", arguments, options.seconds).await?);
                }
                progress.inc(1);
            }
            pairs.extend(nodes.zip(floor).map(|(nodes, floor)| Pair { nodes, floor }));
        }
    }
    Ok(all.iter().flat_map(|(nodes, pairs)| Row::both(*nodes, pairs)).collect())
}

async fn measure_child(
    name: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
    length: Duration,
) -> Result<Measured, Failure> {
    let mut child = Child::start(name, "idle-child", arguments)?;
    let look = |child: &Child| {
        Usage::of(child.id()).map_err(|error| {
            let what = format!("what {name} take can't be seen: {error}");
            Failure::new(what, "run it on Linux, with /proc")
        })
    };
    messages(&mut child).await?;
    sleep(SETTLE).await;
    // What it takes to ask is before and behind what is measured.
    child.tell("messages").await?;
    let (messages_before, term) = messages(&mut child).await?;
    let (began, before) = (Instant::now(), look(&child)?);
    sleep(length).await;
    let (taken, seconds) = (look(&child)?.since(&before), began.elapsed().as_secs_f64());
    child.tell("messages").await?;
    let (messages_after, last_term) = messages(&mut child).await?;
    if term != last_term {
        let what = "the nodes had an election, with nothing else to do";
        return Err(Failure::new(what, "run it on a machine that does nothing else"));
    }
    Ok(Measured {
        percent: taken.time.as_secs_f64() / seconds * 100.0,
        wakeups: taken.wakeups as f64 / seconds,
        messages: (messages_after - messages_before) as f64 / seconds,
    })
}

/// How many messages it has sent, and the term.
async fn messages(child: &mut Child) -> Result<(u64, u64), Failure> {
    let line = child.line().await?;
    let numbers = line.split_once(' ').and_then(|(m, t)| Some((m.parse().ok()?, t.parse().ok()?)));
    numbers.ok_or_else(|| Failure::new(format!("it said {line:?}"), "report this as a bug"))
}
