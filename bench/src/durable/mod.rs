//! `bench durable`: writes to a durable service, from its clients' end.
//!
//! Three processes on this machine, sockets between them, a log on the disk of each that is synced
//! before anything is acknowledged; the load comes from this process. Beside it, where it is asked for,
//! the same of etcd: as many members, the same load from the same process.
//!
//! Every measurement has a cluster of its own, started for it and ended after it, and no other runs
//! meanwhile: an idle etcd takes a few percent of a core, and on a small machine an idle anything takes
//! from whoever is measured. What is compared is measured in turns all the same, round by round.

pub(crate) mod cluster;
#[cfg(feature = "etcd")]
mod etcd;
mod floor;
pub(crate) mod load;
mod report;
mod server;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use self::cluster::{Cluster, Snapshots};
use self::report::{Report, Row};
use crate::child::{self, Child};
use crate::failure::{Failure, unless_stopped};
use crate::measure::{Measured, client_runtime, no_runtime};
use crate::output::Output;
use crate::rounds::seconds;
use crate::snapshot::{directory, unusable};

/// Of each cluster.
pub(crate) const NODES: u64 = 3;

/// How long the floor is measured, in each round.
const FLOOR: Duration = Duration::from_secs(1);

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure this as well, on the same machine in turns.
    #[arg(long, value_name = "PEER")]
    vs: Option<Peer>,

    /// Measured seconds of each point, after a warm-up.
    #[arg(long, default_value = "3", value_parser = seconds)]
    seconds: Duration,

    /// Times that each point is measured. The medians are reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Numbers of concurrent clients, each a point.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,64,256,1024",
        value_parser = clap::value_parser!(u32).range(1..=16_384)
    )]
    clients: Vec<u32>,

    /// Bytes of each value.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    value_bytes: u32,

    /// Where the data goes, in a directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    #[command(flatten)]
    output: Output,
}

/// What Quorate is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// etcd, which is started here and has to be installed.
    Etcd,
}

/// One of the processes that a measurement starts. Nobody types it.
#[derive(Args)]
pub(crate) struct ChildOptions {
    #[command(subcommand)]
    what: Work,
}

#[derive(Subcommand)]
enum Work {
    /// A node of the cluster.
    Node {
        id: u64,
        data: PathBuf,
        #[arg(long)]
        listen: String,
        #[arg(long)]
        no_snapshots: bool,
    },
    /// Syncs a file, over and over.
    Sync { file: PathBuf },
    /// Sends back what it is sent.
    Echo,
    /// Reads what it is sent.
    Sink,
    /// etcd, ended with its parent.
    KeepEtcd {
        log: PathBuf,
        program: PathBuf,
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

/// Starts one of them.
pub(crate) fn start_child(
    name: impl Into<String>,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Child, Failure> {
    Child::start(name, "durable-child", arguments)
}

/// The work of a process that a measurement has started.
pub(crate) fn run_child(options: &ChildOptions) -> Result<(), Failure> {
    match &options.what {
        Work::Node { id, data, listen, no_snapshots } => {
            let snapshots = if *no_snapshots { Snapshots::Never } else { Snapshots::Default };
            server::run(*id, data, listen, snapshots)
        }
        Work::Sync { file } => floor::run_sync(file),
        Work::Echo => floor::run_echo(),
        Work::Sink => crate::growth::run_sink(),
        Work::KeepEtcd { log, program, arguments } => {
            runtime()?.block_on(child::keep(program, arguments, log, "ETCD_"))
        }
    }
}

/// What `#[tokio::main]` starts: nodes and clients are measured as they are written.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread().enable_all().build().map_err(no_runtime)
}

/// Measures it and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if options.vs.is_some() {
        can_compare()?;
    }
    let directory = directory(options.dir.as_deref())?;
    // Of clients, of all services alike: as in `bench framework`.
    let runtime = client_runtime()?;
    let points = options.clients.len() * (1 + usize::from(options.vs.is_some())) + 1;
    let progress = options.output.progress(u64::from(options.rounds) * points as u64);
    let measured = runtime.block_on(unless_stopped(measure(options, &directory, &progress)));
    // Also when it failed: what follows on the terminal begins on a clean line.
    progress.finish_and_clear();
    drop(runtime);
    let removed = directory.close();
    let report = measured?;
    removed.map_err(|e| unusable(&e))?;
    options.output.end(report.print(options.output.json), &report.panels())
}

#[cfg(feature = "etcd")]
fn can_compare() -> Result<(), Failure> {
    etcd::program().map(drop)
}

#[cfg(not(feature = "etcd"))]
fn can_compare() -> Result<(), Failure> {
    Err(Failure::Usage {
        what: "this `bench` was built without a client of etcd".into(),
        advice: "build it with `--features etcd`, which needs protoc (Debian: `protobuf-compiler`)",
    })
}

async fn measure(
    options: &Options,
    parent: &TempDir,
    progress: &ProgressBar,
) -> Result<Report, Failure> {
    let Options { vs, seconds, rounds, value_bytes, .. } = options;
    let value = Bytes::from(vec![b'v'; *value_bytes as usize]);
    let mut floors = Vec::new();
    let mut rows: Vec<Row> = options.clients.iter().map(|&clients| Row::new(clients)).collect();
    for round in 0..*rounds {
        progress.set_message("the floor");
        floors.push(floor::measure(fresh(parent)?.path(), FLOOR).await?);
        progress.inc(1);
        for (row, turn) in rows.iter_mut().zip(round..) {
            // Who is first takes turns as well.
            let mut subjects = vec![None];
            subjects.insert(turn as usize % 2, *vs);
            subjects.dedup();
            for subject in subjects {
                let name = subject.map_or("quorate", |_| "etcd");
                progress.set_message(format!("{name}, {} clients", row.clients));
                let directory = fresh(parent)?;
                let at = directory.path();
                let measured = match subject {
                    None => load::measure::<Cluster>(at, row.clients, &value, *seconds).await?,
                    Some(Peer::Etcd) => measure_etcd(at, row.clients, &value, *seconds).await?,
                };
                row.add(subject, measured);
                progress.inc(1);
            }
        }
    }
    let (vs, length, value_bytes) = (*vs, *seconds, *value_bytes);
    Ok(Report { vs, length, value_bytes, floors, rows })
}

/// For one measurement; removed after it.
fn fresh(parent: &TempDir) -> Result<TempDir, Failure> {
    directory(Some(parent.path()))
}

#[cfg(feature = "etcd")]
async fn measure_etcd(
    directory: &Path,
    clients: u32,
    value: &Bytes,
    length: Duration,
) -> Result<Measured, Failure> {
    load::measure::<etcd::Etcd>(directory, clients, value, length).await
}

#[cfg(not(feature = "etcd"))]
async fn measure_etcd(_: &Path, _: u32, _: &Bytes, _: Duration) -> Result<Measured, Failure> {
    can_compare().map(|()| unreachable!("it was looked at first"))
}
