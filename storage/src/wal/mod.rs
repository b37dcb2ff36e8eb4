//! The durable log: one directory, one writer, any number of groups.
//!
//! A sync costs what it costs, however much it makes durable. So all groups of a host share one
//! log: what any of them submits while one sync runs is written at once and synced once by the
//! next. The price is that a group's entries stand between those of others; an index in memory says
//! where.
//!
//! ```text
//!   group 1 ──submit──┐                    ┌── segment 7   ended, and whole
//!   group 2 ──submit──┼──> queue ──> Writer┤── segment 8   ended, and whole
//!   group 3 ──submit──┘     one write,     └── segment 9   the last batch may be torn
//!           <──done───────  one sync
//! ```
//!
//! What is promised, and by what:
//! - A batch is there whole or not at all: it stands inside one checksummed write.
//! - What was reported durable stays: `done` is completed behind the sync, and never after a write
//!   or a sync has failed.
//! - A torn write is told from damage: a batch is written only when the one before is durable, so
//!   whatever is readable behind an unreadable batch proves damage. An idle or closing log
//!   writes a seal, so that its last batch is covered as well. Not covered: the last batch of a log
//!   that was killed before it was idle.
//! - Old bytes are never replayed, though files are used again: each segment has a salt of its own in
//!   every checksum.
//! - Nobody loses a vote, or a configuration, with an old segment: each begins with those of every
//!   group.
//!
//! Snapshots stand beside the segments, a file for each, and don't go through the log.
//!
//! What is not done: entries are not encrypted or compressed, and a group that never compacts keeps
//! every segment since its first entry.
//!
//! The bytes are drawn in `docs/wal-format.md` and `docs/snapshot-format.md`; [`inspect()`] shows
//! those of a log.

mod disk;
mod fake_disk;
mod format;
mod inspect;
mod reader;
mod recovery;
mod scan;
mod segment;
mod shared;
mod snapshots;
mod writer;

#[cfg(test)]
mod format_tests;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use quorate_engine::GroupId;

use crate::log::{LogReader, RaftStorage, Recovered, StorageError, WriteBatch, WriteDone};
use crate::snapshot::{SnapshotInfo, SnapshotStore};

pub use disk::*;
pub use fake_disk::*;
pub use format::{
    ALIGN, BATCH_HEADER_BYTES, BATCH_MAGIC, CONFIGURATION_BYTES, FORMAT_VERSION, GROUP_BYTES,
    OLDEST_FORMAT_VERSION, RECORD_HEADER_BYTES, RecordKind, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC,
};
pub use inspect::*;
pub use writer::WalStats;

use reader::WalReader;
use recovery::replay;
use segment::{LOCK_NAME, failed};
use shared::{Handles, Shared};
use snapshots::WalSnapshots;
use writer::{Group, Writer, claim, release};

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The length of a segment; one that must hold a larger batch is longer. Default: 64 MiB.
    pub segment_bytes: u64,
    /// How long the log is without work before it writes a seal. Default: 100 ms.
    pub seal_after: Duration,
    /// What the salts are derived from. Default: random. A simulation gives its own seed.
    pub seed: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            seal_after: Duration::from_millis(100),
            // The only source of randomness in the standard library: the keys of a hasher.
            seed: RandomState::new().hash_one(0u64),
        }
    }
}

/// An open log directory, shared by the groups of a host. A clone is the same log.
///
/// ```
/// use quorate_engine::HardState;
/// use quorate_storage::wal::{Wal, WalOptions};
/// use quorate_storage::{LogOp, RaftStorage, WriteBatch, WriteDone};
///
/// let dir = tempfile::tempdir()?;
/// let options = WalOptions { segment_bytes: 1 << 20, ..WalOptions::default() };
/// let vote = HardState::new(3, Some(2));
///
/// let wal = Wal::open(dir.path(), options.clone())?;
/// let mut group = wal.group(1);
/// group.recover()?;
/// let (sender, durable) = std::sync::mpsc::channel();
/// group.submit(
///     WriteBatch { ops: vec![LogOp::HardState(vote)] },
///     WriteDone::new(move |outcome| sender.send(outcome).unwrap()),
/// );
/// durable.recv()??;
/// drop((wal, group)); // the last handles close the log
///
/// let wal = Wal::open(dir.path(), options)?;
/// assert_eq!(wal.group(1).recover()?.hard_state, vote);
/// assert_eq!(wal.group(2).recover()?.hard_state, HardState::default());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With the last handle (this, and every [`WalStorage`]) the log writes what is queued, seals
/// itself, ends and joins its thread, and gives the directory back. Readers don't keep it open; a
/// snapshot that is being written keeps the directory locked until it is committed or dropped.
#[derive(Clone)]
pub struct Wal {
    handles: Arc<Handles>,
}

impl Wal {
    /// Opens the log in the directory `path`, which is created if it does not exist, and starts its
    /// thread. Everything the log then tells is durable.
    ///
    /// # Errors
    /// - [`StorageError::InUse`]: another process, or another `Wal`, has the directory.
    /// - [`StorageError::Corrupt`]: durable bytes are damaged or gone; the text says where.
    /// - [`StorageError::Full`]: there is no room for a first segment.
    /// - [`StorageError::Failed`]: the file system fails.
    pub fn open(path: impl Into<PathBuf>, options: WalOptions) -> Result<Self, StorageError> {
        let path = path.into();
        let disk = RealDisk::new(&path).map_err(|e| {
            let context = || format!("creating the directory {}", path.display());
            StorageError::Failed(anyerror::AnyError::new(&e).add_context(context))
        })?;
        Self::open_on(Arc::new(disk), options)
    }

    /// What [`Wal::open`] and the recovery of `group` would find in the directory `path`, and the group's
    /// snapshots, oldest first. Changes nothing there: of a torn tail nothing is told, and it stays
    /// where it is. Nobody else can have the directory meanwhile.
    ///
    /// # Errors
    /// As [`Wal::open`]; without a directory [`StorageError::Failed`].
    pub fn look(
        path: impl Into<PathBuf>,
        group: GroupId,
    ) -> Result<(Recovered, Vec<SnapshotInfo>), StorageError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::read_only(path));
        let _lock = match disk.lock(LOCK_NAME) {
            Ok(None) => return Err(StorageError::InUse(disk.describe())),
            Ok(lock) => lock,
            // No log that runs is without: this is a copy of one.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed(&*disk, "locking the directory", &e)),
        };
        let found = replay(&*disk)?.groups.remove(&group).map(|replayed| replayed.state.now);
        let lock = Weak::new();
        let snapshots = WalSnapshots { disk, group, files: Arc::default(), lock };
        Ok((found.unwrap_or_default(), snapshots.list()?))
    }

    /// [`Wal::open`] on any [`Disk`].
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn open_on(disk: Arc<dyn Disk>, options: WalOptions) -> Result<Self, StorageError> {
        let seal_after = options.seal_after;
        let writer = Writer::open(Arc::clone(&disk), options)?;
        let shared = Shared::new(disk, writer, Box::new(|| {}));
        Ok(Self { handles: Arc::new(Handles::with_thread(shared, seal_after)?) })
    }

    /// Opens a log without a thread: it writes when the [`WalDriver`] is told to.
    ///
    /// For simulations, which decide when a disk gets around to its work. `wake` is called when
    /// something is queued that was not before, from the task that submits it.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn open_driven(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Self, WalDriver), StorageError> {
        let writer = Writer::open(Arc::clone(&disk), options)?;
        let shared = Shared::new(disk, writer, Box::new(wake));
        let driver = WalDriver { shared: Arc::clone(&shared) };
        Ok((Self { handles: Arc::new(Handles::without_thread(shared)) }, driver))
    }

    /// The store of one group, which need not exist yet. Only one handle of a group can recover at
    /// a time; the group is free again when that handle is dropped.
    pub fn group(&self, id: GroupId) -> WalStorage {
        let group = self.handles.shared().group(id);
        WalStorage { handles: Arc::clone(&self.handles), group, claimed: false }
    }

    /// What the log has done since it was opened. Waits for a write that is under way.
    pub fn stats(&self) -> WalStats {
        self.handles.shared().stats()
    }
}

/// One group's [`RaftStorage`] in a [`Wal`].
pub struct WalStorage {
    handles: Arc<Handles>,
    group: Arc<Group>,
    claimed: bool,
}

impl RaftStorage for WalStorage {
    /// Writes what an earlier handle of the group has left queued, removes what it has left of
    /// unfinished snapshots, then tells what is durable.
    ///
    /// # Errors
    /// [`StorageError::InUse`] while another handle of this group lives; the error that stopped
    /// the log, if one did.
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        let shared = self.handles.shared();
        if !self.claimed && !claim(&self.group) {
            let (id, place) = (self.group.id, shared.describe());
            return Err(StorageError::InUse(format!("group {id} in {place}")));
        }
        self.claimed = true;
        snapshots::remove_unfinished(&**shared.disk(), self.group.id)?;
        shared.recover(self.group.id)
    }

    /// # Errors
    /// Through `done`: [`StorageError::Unusable`] for a batch that makes no sense in this log (a
    /// gap, a term that goes back), which stops this group alone; otherwise what stopped the log.
    fn submit(&mut self, batch: WriteBatch, done: WriteDone) {
        if self.claimed {
            self.handles.shared().submit(&self.group, batch, done);
        } else {
            let what = format!("group {} recovers before it writes", self.group.id);
            done.complete(Err(StorageError::Unusable(what)));
        }
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        let disk = Arc::clone(self.handles.shared().disk());
        Arc::new(WalReader { disk, group: Arc::clone(&self.group) })
    }

    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        let shared = self.handles.shared();
        Arc::new(WalSnapshots {
            disk: Arc::clone(shared.disk()),
            group: self.group.id,
            files: Arc::clone(&self.group.snapshots),
            lock: shared.lock(),
        })
    }
}

impl Drop for WalStorage {
    fn drop(&mut self) {
        if self.claimed {
            release(&self.group);
        }
    }
}

/// Writes for a log without a thread. See [`Wal::open_driven`].
pub struct WalDriver {
    shared: Arc<Shared>,
}

impl WalDriver {
    /// Makes queued batches durable: one write, one sync. Completes them on this thread, and
    /// returns whether there was anything to do; more may be queued.
    pub fn pump(&mut self) -> bool {
        self.shared.pump()
    }

    /// Seals an idle log, as its thread would after [`WalOptions::seal_after`].
    pub fn seal(&mut self) {
        self.shared.seal();
    }
}
