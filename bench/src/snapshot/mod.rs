//! `bench snapshot`: a new node joins a store of some gigabytes while writes go on.
//!
//! Real processes, `kv serve --store redb`, on this machine: a cluster is filled over HTTP, started
//! again (what the fill left in memory would hide what the transfer takes), and written to at a
//! steady rate. Then a node joins. Its logs are compacted, so the leader writes a snapshot, sends it,
//! and the new node restores it and becomes a voter. Timed is each of these steps; watched are the
//! steady writes, before and meanwhile, and the memory of the two processes. What the database
//! takes by itself is measured apart (`alone.rs`), to be told from what the framework takes.

mod alone;
mod cluster;
mod join;
mod load;
mod memory;
mod report;
pub(crate) mod size;

use std::fs;
use std::future::Future;
use std::io::{self, IsTerminal as _, stderr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_storage::snapshot::file::open_file;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

pub(crate) use self::alone::{Options as AloneOptions, run as run_alone};
use self::cluster::{Cluster, Running};
use self::join::join;
use self::load::{Steady, Values};
pub(crate) use self::memory::Memory;
use self::report::{Leader, Measured, NewNode, Span};
use crate::durable::runtime;
use crate::failure::{Failure, unless_stopped};
use crate::output::printed;

/// For how long the steady writes are left to warm up before anything is noted.
const WARM_UP: Duration = Duration::from_secs(3);

/// Values that are read back from the new node.
const SAMPLES: u64 = 200;

/// The largest value: as large as `kv serve` takes them.
const MAX_VALUE_BYTES: u64 = 16 << 20;

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    /// The size of the store: like 2GiB, 256MiB, 100MB.
    #[arg(long, default_value = "2GiB", value_parser = size::parse)]
    bytes: u64,

    /// The size of each value in it. A little less than a power of two wastes least in redb.
    #[arg(long, default_value = "60KiB", value_parser = value_bytes)]
    value_bytes: u64,

    /// Nodes of the cluster that the new one joins.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=7))]
    nodes: u32,

    /// Clients that fill the store, and that write steadily.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,

    /// Steady writes per second, of 1 KiB each.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,

    /// Seconds of steady writes before the node joins, for comparison.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,

    /// Where the data goes, in a directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

fn value_bytes(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        bytes if bytes <= MAX_VALUE_BYTES => Ok(bytes),
        _ => Err(format!("more than {}", size::human(MAX_VALUE_BYTES))),
    }
}

/// Measures it and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let program = cluster::program()?;
    let directory = directory(options.dir.as_deref())?;
    let runtime = runtime()?;
    let progress = Progress::new(options);
    let measured =
        runtime.block_on(unless_stopped(measure(options, &program, directory.path(), &progress)));
    // Also when it failed: what follows on the terminal begins on a clean line.
    progress.bar.finish_and_clear();
    drop(runtime);
    let removed = directory.close();
    let measured = measured?;
    removed.map_err(|e| unusable(&e))?;
    printed(report::print(&measured, options.json))
}

/// A fresh directory, in `parent` if one is named.
pub(crate) fn directory(parent: Option<&Path>) -> Result<TempDir, Failure> {
    let fresh = tempfile::Builder::new().prefix("quorate-bench-").to_owned();
    match parent {
        Some(parent) => fs::create_dir_all(parent).and_then(|()| fresh.tempdir_in(parent)),
        None => fresh.tempdir(),
    }
    .map_err(|e| unusable(&e))
}

pub(crate) fn unusable(error: &io::Error) -> Failure {
    Failure::new(format!("the directory for the data: {error}"), "name another one with --dir")
}

/// How far it is, on standard error, if someone is looking at it.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(options: &Options) -> Self {
        if options.json || !stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let style = ProgressStyle::with_template(
            "{msg:<34} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {elapsed}",
        )
        .expect("the template is well-formed");
        let bar = ProgressBar::new(options.bytes).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// Another step begins, with nothing of it done.
    fn step(&self, what: &'static str) {
        if self.bar.message() != what {
            self.bar.set_message(what);
            self.bar.set_position(0);
            self.bar.reset_eta();
        }
    }

    /// The step is as far as there are bytes of a snapshot in the directory `data`.
    fn snapshot(&self, data: &Path) {
        let files = fs::read_dir(data).into_iter().flatten().flatten();
        let snapshots = files.filter(|f| f.file_name().to_string_lossy().starts_with("snapshot-"));
        self.bar.set_position(snapshots.flat_map(|f| f.metadata()).map(|m| m.len()).sum());
    }

    /// `f`, as a step of which nobody knows how far it is.
    async fn during<T>(&self, what: &'static str, f: impl Future<Output = T>) -> T {
        self.step(what);
        f.await
    }
}

async fn measure(
    options: &Options,
    program: &Path,
    directory: &Path,
    progress: &Progress,
) -> Result<Measured, Failure> {
    let mut cluster = Cluster::new(program, directory, options.nodes)?;
    let values = Values::new(options.value_bytes as usize);
    let count = options.bytes.div_ceil(options.value_bytes);

    let leader = progress.during("starting", cluster.start()).await?;
    progress.step("filling the store");
    let begun = Instant::now();
    let wrote = || progress.bar.inc(options.value_bytes);
    let client = cluster.client.clone();
    load::fill(&client, &leader.server, &values, count, options.clients, wrote).await?;
    let fill = begun.elapsed();
    progress.during("starting all nodes again", cluster.stop()).await?;
    let leader = cluster.start().await?;

    progress.step("steady writes");
    let mut steady = Steady::start(&client, &leader.server, options.rate, options.clients);
    let watched = async {
        sleep(WARM_UP).await;
        let resets = Memory::reset_peak(leader.pid);
        let begun = Instant::now();
        sleep(Duration::from_secs(options.seconds.into())).await;
        let memory_before = Memory::of(leader.pid).filter(|_| resets);
        let writes = (begun, Instant::now());
        let joined =
            join(&mut cluster, &leader, &directory.join("received.snap"), progress).await?;
        check(&cluster, &joined.node, &values, count).await?;
        Ok((memory_before, writes, joined))
    };
    let (memory_before, (from, to), joined) = tokio::select! { biased;
        watched = watched => watched?,
        failure = steady.failed() => return Err(failure),
    };
    let span = |from, to: Instant| Span { time: to - from, writes: steady.pace(from, to) };
    let before = span(from, to);
    let mut begun = joined.begun;
    let steps =
        joined.steps.map(|(step, over)| (step, span(std::mem::replace(&mut begun, over), over)));
    let join = span(joined.begun, begun);
    drop(steady);

    progress.during("stopping all nodes", cluster.stop()).await?;
    let database = leader.data.join("values.redb");
    let writes = |span: &Span| (span.writes.writes_s * span.time.as_secs_f64()).round() as u64;
    let warm_up = u64::from(options.rate) * WARM_UP.as_secs();
    let writes = (warm_up + writes(&before), writes(&join));
    let view = alone::view(&database, count, writes);
    let view = progress.during("reading the database by itself", view).await?;
    let restored = directory.join("alone.redb");
    let restore = alone::restore(&restored, &joined.snapshot);
    let restore = progress.during("restoring the snapshot by itself", restore).await?;
    let snapshot = open_file(&joined.snapshot).map_err(|error| {
        Failure::new(format!("what the new node has received: {error}"), "report this as a bug")
    })?;
    Ok(Measured {
        nodes: options.nodes,
        values: count,
        value_bytes: options.value_bytes,
        snapshot_bytes: snapshot.info().bytes,
        fill,
        before,
        steps: steps.to_vec(),
        join,
        leader: memory_before
            .zip(joined.leader_memory)
            .zip(view)
            .map(|((before, meanwhile), view)| Leader { before, meanwhile, view }),
        new_node: joined
            .node_memory
            .zip(restore)
            .map(|(joined, restore)| NewNode { joined, restore }),
    })
}

/// Reads values all over the store back from the new node: what was not transferred was not timed.
async fn check(
    cluster: &Cluster,
    node: &Running,
    values: &Values,
    count: u64,
) -> Result<(), Failure> {
    for n in (0..count).step_by(count.div_ceil(SAMPLES) as usize) {
        let (key, value) = values.pair(n);
        let found = cluster.client.get_stale(&node.server, &key).await;
        if found != Ok(Some(value)) {
            return Err(Failure::new(
                format!("the new node does not have the value of {key:?}"),
                "report this as a bug",
            ));
        }
    }
    Ok(())
}
