//! What the state machine takes by itself: the same database, in a process of its own, without a node.
//!
//! A redb database has a cache of pages (64 MiB in `kv`), so a node that reads or writes all of it
//! grows by that much, and by what the allocator loses where large pages take the place of small
//! ones, whether or not anything is sent to anyone. To tell this from what the framework takes, a
//! process does nothing but read a view of the leader's database to its end, with as many of the
//! steady writes before and meanwhile as the leader had; and another nothing but restore the
//! snapshot that the new node has received.

use std::env;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process;

use bytes::BytesMut;
use clap::{Args, ValueEnum};
use kv::store::{Command, Store};
use kv::table::Table;
use quorate::{Committed, Failure as StoreFailure, LogId, Snapshot, StateMachine as _};
use quorate_storage::snapshot::file::open_file;
use serde::{Deserialize, Serialize};

use super::load::Values;
use super::memory::Memory;
use crate::failure::Failure;

/// Before the node's own bytes: the magic and their length, a u64.
const NODES_HEADER_BYTES: usize = 12;

/// One of the two processes. Started by `bench snapshot`; nobody types it.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(value_enum)]
    what: What,
    /// The database: an existing one to be read, a new one to be restored.
    database: PathBuf,
    /// What is restored.
    #[arg(required_if_eq("what", "restore"))]
    snapshot: Option<PathBuf>,
    /// Steady writes before the view is taken.
    #[arg(long, default_value_t = 0)]
    before: u64,
    /// Steady writes while it is read.
    #[arg(long, default_value_t = 0)]
    meanwhile: u64,
    /// About how many values there are.
    #[arg(long, default_value_t = 1)]
    values: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Takes a view and reads it to its end.
    View,
    /// Restores a snapshot.
    Restore,
}

/// What it took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Alone {
    /// With the database open and the writes done that come before.
    pub(super) before: Memory,
    /// At the end.
    pub(super) after: Memory,
}

/// The work of the process: prints an [`Alone`], or `null`, on standard output.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime
        .map_err(|e| Failure::new(format!("no runtime: {e}"), "raise the limit on threads"))?;
    let done = runtime.block_on(work(options)).map_err(|failure| {
        Failure::new(format!("the database: {failure}"), "is there room on the disk?")
    })?;
    println!("{}", serde_json::json!(done));
    Ok(())
}

async fn work(options: &Options) -> Result<Option<Alone>, StoreFailure> {
    let mut store = Store::Table(Box::new(Table::open(&options.database)?));
    let mut writes = 0..options.before + options.meanwhile;
    write(&mut store, &mut writes, options.before).await?;
    let before = Memory::of(process::id());
    match &options.snapshot {
        None => {
            for (n, piece) in (1..).zip(store.snapshot().await?) {
                piece?;
                // Spread over the whole of it.
                let due =
                    options.before + options.meanwhile * n.min(options.values) / options.values;
                let due = due - writes.start;
                write(&mut store, &mut writes, due).await?;
            }
        }
        Some(snapshot) => store.restore(state(open_file(snapshot)?.into())?).await?,
    }
    let after = Memory::of(process::id());
    Ok(before.zip(after).map(|(before, after)| Alone { before, after }))
}

/// What the state machine gave, of the `content` of a node's snapshot (docs/snapshot-format.md): behind
/// `QFS1`, a length, and as many bytes of the node's own.
fn state(mut content: Snapshot) -> Result<Snapshot, StoreFailure> {
    let mut begin = BytesMut::new();
    let mut state_at = NODES_HEADER_BYTES;
    while begin.len() < state_at {
        let piece = content.next().ok_or_else(|| StoreFailure::msg("a snapshot cut short"))?;
        begin.extend_from_slice(&piece?);
        if let Some((magic, length)) = begin.get(..NODES_HEADER_BYTES).map(|h| h.split_at(4)) {
            if magic != b"QFS1" {
                return Err(StoreFailure::msg("not a snapshot that a node has built"));
            }
            let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
            state_at = NODES_HEADER_BYTES + length as usize;
        }
    }
    let begin = begin.split_off(state_at).freeze();
    let begin = Some(begin).filter(|begin| !begin.is_empty());
    Ok(Snapshot::new(begin.map(Ok).into_iter().chain(content)))
}

/// Applies the next `count` of the steady `writes`, one at a time.
async fn write(store: &mut Store, writes: &mut Range<u64>, count: u64) -> Result<(), StoreFailure> {
    let values = Values::of_steady_writes();
    for n in writes.take(count as usize) {
        let (key, value) = values.steady(n);
        let id = LogId::new(1, n + 1);
        store.apply(vec![Committed { id, command: Command::Put { key, value } }]).await?;
    }
    Ok(())
}

/// Measures reading a view of `database`, of so many values, to its end, with so many steady writes before and meanwhile.
pub(super) async fn view(
    database: &Path,
    values: u64,
    (before, meanwhile): (u64, u64),
) -> Result<Option<Alone>, Failure> {
    let [values, before, meanwhile] = [values, before, meanwhile].map(|n| n.to_string());
    let counts = ["--values", &values, "--before", &before, "--meanwhile", &meanwhile];
    measure(&[&["view".as_ref(), database][..], &counts.map(Path::new)].concat()).await
}

/// Measures restoring `snapshot` into the new `database`.
pub(super) async fn restore(database: &Path, snapshot: &Path) -> Result<Option<Alone>, Failure> {
    measure(&["restore".as_ref(), database, snapshot]).await
}

async fn measure(arguments: &[&Path]) -> Result<Option<Alone>, Failure> {
    let failed = |why: String| {
        Failure::new(format!("the database by itself: {why}"), "report this as a bug")
    };
    let own = env::current_exe().map_err(|e| failed(e.to_string()))?;
    let mut command = tokio::process::Command::new(own);
    command.arg("store-alone").args(arguments).kill_on_drop(true);
    let output = command.output().await.map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))
}
