//! A store that keeps everything in memory: for nodes that may forget, and for tests.
//!
//! A write is complete when it is queued, so a node on this store measures what the protocol
//! costs without a disk. Blocks are kept as they come, each a shared pointer: nothing is copied.
//! The state lives in a [`MemoryDisk`], which outlives the store: dropping the store and opening
//! another on the same disk is what a restart looks like.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use quorate_engine::{EntryBlock, Index, LogId};

use crate::log::{
    LogReadError, LogReader, RaftStorage, Recovered, StorageError, WriteBatch, WriteDone,
};
use crate::snapshot::{MemorySnapshots, SnapshotStore, Snapshots};
use crate::state::{LogState, Spans};

/// What a [`MemoryStorage`] writes to; a clone is the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Content>>);

#[derive(Debug)]
struct Content {
    state: LogState,
    spans: Spans<EntryBlock>,
    snapshots: Snapshots,
    /// The store that may write: opening another one takes the disk away from the one before, as
    /// a restarted process finds no trace of the old one.
    owner: u64,
    /// The first refused batch, for every batch behind it.
    poison: Option<StorageError>,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            state: LogState::default(),
            spans: Spans::new(LogId::ZERO),
            snapshots: Snapshots::new(),
            owner: 0,
            poison: None,
        }
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store on what the disk holds, as after a restart. The store that had it before can write
    /// no more: its batches fail.
    pub fn open(&self) -> MemoryStorage {
        let mut content = self.lock();
        content.owner += 1;
        content.poison = None;
        MemoryStorage { owner: content.owner, disk: self.clone() }
    }

    /// Looks at the snapshots.
    pub(crate) fn snapshots<T>(&self, look: impl FnOnce(&Snapshots) -> T) -> T {
        look(&self.lock().snapshots)
    }

    /// Changes the snapshots, for the store of life `owner`.
    pub(crate) fn change_snapshots(
        &self,
        owner: u64,
        change: impl FnOnce(&mut Snapshots),
    ) -> Result<(), StorageError> {
        let mut content = self.lock();
        if owner != content.owner {
            return Err(StorageError::InUse("this memory disk".into()));
        }
        change(&mut content.snapshots);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        // A panic under this lock is an assertion of ours; the content was not changed half-way
        // in a manner that a reader could not survive.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`RaftStorage`] in memory. Everything is gone with the last handle to its disk.
///
/// ```
/// use quorate_storage::{LogOp, MemoryDisk, RaftStorage, WriteBatch, WriteDone};
/// use quorate_engine::HardState;
///
/// let disk = MemoryDisk::new();
/// let vote = HardState::new(3, Some(2));
/// let mut store = disk.open();
/// store.submit(
///     WriteBatch { ops: vec![LogOp::HardState(vote)] },
///     WriteDone::new(|outcome| assert!(outcome.is_ok())),
/// );
/// drop(store);
///
/// assert_eq!(disk.open().recover()?.hard_state, vote);
/// # Ok::<(), quorate_storage::StorageError>(())
/// ```
///
/// The log grows until it is compacted: a long-lived node in memory needs snapshots.
#[derive(Debug)]
pub struct MemoryStorage {
    disk: MemoryDisk,
    owner: u64,
}

impl MemoryStorage {
    /// An empty store on a disk of its own.
    pub fn new() -> Self {
        MemoryDisk::new().open()
    }

    /// The disk this store writes to, to open it again later.
    pub fn disk(&self) -> MemoryDisk {
        self.disk.clone()
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl RaftStorage for MemoryStorage {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        Ok(self.disk.lock().state.now.clone())
    }

    /// Complete before it returns.
    ///
    /// # Errors
    /// [`StorageError::Unusable`] for a batch that makes no sense in this log (a gap, a term that
    /// goes back), or after the disk was opened anew.
    fn submit(&mut self, batch: WriteBatch, done: WriteDone) {
        let outcome = self.disk.lock().write(self.owner, &batch);
        done.complete(outcome);
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(MemoryReader(self.disk.clone()))
    }

    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        Arc::new(MemorySnapshots { disk: self.disk.clone(), owner: self.owner })
    }
}

impl Content {
    fn write(&mut self, owner: u64, batch: &WriteBatch) -> Result<(), StorageError> {
        if owner != self.owner {
            return Err(StorageError::InUse("this memory disk".into()));
        }
        if let Some(poison) = &self.poison {
            return Err(poison.clone());
        }
        if let Err(what) = self.state.check(&batch.ops) {
            let error = StorageError::Unusable(format!("refused to write: {what}"));
            self.poison = Some(error.clone());
            return Err(error);
        }
        for op in &batch.ops {
            self.state.apply(op);
            self.spans.apply(op, EntryBlock::clone);
        }
        Ok(())
    }
}

struct MemoryReader(MemoryDisk);

#[async_trait]
impl LogReader for MemoryReader {
    async fn read(
        &self,
        after: LogId,
        through: Index,
        max_bytes: usize,
    ) -> Result<Vec<EntryBlock>, LogReadError> {
        let size = |block: &EntryBlock| block.bytes().len();
        let spans = self.0.lock().spans.select(after, through, max_bytes, size)?;
        Ok(spans.iter().map(|span| span.at.slice(span.first, span.last)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogOp;
    use quorate_engine::Batch;
    use std::sync::mpsc;

    fn submit(store: &mut MemoryStorage, ops: Vec<LogOp>) -> Result<(), StorageError> {
        let (sender, receiver) = mpsc::channel();
        let done = WriteDone::new(move |outcome| sender.send(outcome).unwrap());
        store.submit(WriteBatch { ops }, done);
        receiver.try_recv().expect("complete when submit returns")
    }

    #[test]
    fn a_store_that_was_replaced_writes_no_more() {
        let disk = MemoryDisk::new();
        let mut old = disk.open();
        let mut new = disk.open();
        assert!(matches!(submit(&mut old, vec![]), Err(StorageError::InUse(_))));
        submit(&mut new, vec![]).unwrap();
    }

    #[test]
    fn the_first_refusal_is_final() {
        let mut store = MemoryStorage::new();
        let mut batch = Batch::new(1);
        batch.push(b"x");
        let gap = LogOp::Append(batch.seal(LogId::new(0, 2)));
        assert!(matches!(submit(&mut store, vec![gap]), Err(StorageError::Unusable(_))));
        assert!(submit(&mut store, vec![]).is_err());
        assert_eq!(store.disk().open().recover().unwrap(), Recovered::default());
    }
}
