//! The storage side: what a node must not forget.

use std::fmt;
use std::sync::Arc;

use anyerror::AnyError;
use async_trait::async_trait;
use quorate_engine::{EntryBlock, HardState, Index, LogId, Membership, NodeId, TermRun};

use crate::snapshot::SnapshotStore;

/// One group's durable state: its identity, its hard state, its log.
///
/// The node task owns the handle. A crash may lose what was not yet reported durable, but only
/// whole batches from the end: what is left is always a prefix of the batches submitted.
pub trait RaftStorage: Send + 'static {
    /// What is durable. Called once, before anything else; may block (the node calls it before it
    /// starts its task).
    ///
    /// # Errors
    /// Anything that makes the state unusable: damage, another process in the directory. The node
    /// does not start. A torn tail of an unfinished write is no error: it is cut off, durably,
    /// before this returns.
    fn recover(&mut self) -> Result<Recovered, StorageError>;

    /// Queues `batch` to be made durable, behind every batch before it.
    ///
    /// Called by the node task for each batch of work, so it must not block and must not wait for
    /// a disk. `done` is completed, from any thread, once the batch and all before it are durable;
    /// completions come in the order of submission. A reader sees a batch at the latest when it is
    /// durable.
    ///
    /// # Errors
    /// Reported through `done`. The first error is final: the store stays poisoned, every later
    /// batch fails as well, and the node stops. No write and no sync is ever tried a second time.
    fn submit(&mut self, batch: WriteBatch, done: WriteDone);

    /// A handle for reading the log, usable from any task while the node writes. Called once or
    /// more after [`RaftStorage::recover`].
    fn reader(&self) -> Arc<dyn LogReader>;

    /// The group's snapshots, usable from any thread while the node writes. Called once or more after
    /// [`RaftStorage::recover`].
    fn snapshots(&self) -> Arc<dyn SnapshotStore>;
}

/// Reads entries that are no longer in memory: for followers far behind, and after a restart.
#[async_trait]
pub trait LogReader: Send + Sync + 'static {
    /// Durable entries after the entry `after` and not beyond `through`: at least one block, then
    /// as many as fit into about `max_bytes`. The first block begins at `after.index + 1`, each
    /// next one directly behind.
    ///
    /// Blocks are given as they were appended, less what is not asked for or was overwritten: none
    /// is cut to fit, nor are two made one. What a client has proposed as one run stands in one
    /// block, and no node may ever have a part of it that could be committed without the rest.
    ///
    /// Called by replication streams and by the apply worker, concurrently with writes; a dropped
    /// future leaves nothing behind.
    ///
    /// # Errors
    /// [`LogReadError::Compacted`] and [`LogReadError::Superseded`] are ordinary answers: the
    /// caller's view is old. [`LogReadError::Failed`] stops the node: a read error is never taken
    /// for the end of the log.
    async fn read(
        &self,
        after: LogId,
        through: Index,
        max_bytes: usize,
    ) -> Result<Vec<EntryBlock>, LogReadError>;
}

/// Everything that survived, as the node needs it to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whose state this is; `None` if nothing was ever written.
    pub identity: Option<Identity>,
    /// Term and vote.
    pub hard_state: HardState,
    /// The last entry that was compacted away, [`LogId::ZERO`] if none was.
    pub compacted: LogId,
    /// The last entry; equal to `compacted` if the log is empty.
    pub last: LogId,
    /// The terms of the entries after `compacted`, in order.
    pub runs: Vec<TermRun>,
    /// Every configuration in the log after `compacted`, in order, committed or not. The first may
    /// stand at or before `compacted`: it is the one in force there, which outlives its entry.
    pub configurations: Vec<(LogId, Membership)>,
}

/// Who wrote a store: written first, checked at every start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Drawn at random when the directory was first used; another directory is another node.
    pub incarnation: u64,
    /// The cluster, or 0 while the node has not joined one.
    pub cluster: u64,
}

/// One change of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// Replaces the identity.
    Identity(Identity),
    /// Replaces the hard state.
    HardState(HardState),
    /// Appends entries; entries at or behind the block's first index are replaced by it. The block
    /// begins after `compacted` and at most one behind the last entry.
    Append(EntryBlock),
    /// Entries up to here are no longer needed: a snapshot that is durable covers them. `through` is
    /// in the log. The configuration in force there stays known, see [`Recovered::configurations`].
    Compact {
        /// The last entry not needed.
        through: LogId,
    },
    /// The log becomes empty, with `to` as its last compacted entry: a snapshot, which is durable,
    /// takes its place.
    Reset {
        /// The last entry of the snapshot.
        to: LogId,
        /// The configuration in force there, with the id of its own entry, at or before `to`. From the
        /// snapshot.
        configuration: (LogId, Membership),
    },
}

/// Changes that become durable together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// In order. A later hard state or identity replaces an earlier one.
    pub ops: Vec<LogOp>,
}

impl WriteBatch {
    /// Bytes of the blocks in the batch.
    pub fn payload_bytes(&self) -> usize {
        self.ops
            .iter()
            .map(|op| match op {
                LogOp::Append(block) => block.bytes().len(),
                _ => 0,
            })
            .sum()
    }
}

/// Tells the node that a batch is durable, or that the store has failed.
///
/// Dropped without a word it reports a failure: a store that forgets a batch must not look like
/// one that is slow.
pub struct WriteDone(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

impl WriteDone {
    /// Calls `f` once, from the thread that completes the write; `f` must not block.
    pub fn new(f: impl FnOnce(Result<(), StorageError>) + Send + 'static) -> Self {
        Self(Some(Box::new(f)))
    }

    /// Reports the outcome.
    pub fn complete(mut self, result: Result<(), StorageError>) {
        if let Some(f) = self.0.take() {
            f(result);
        }
    }
}

impl Drop for WriteDone {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f(Err(StorageError::Failed(AnyError::error(
                "the store dropped a batch without saying whether it is durable",
            ))));
        }
    }
}

impl fmt::Debug for WriteDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteDone")
    }
}

/// Why a store can't be used any more.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// A write, a sync or a read failed. Never retried.
    #[error("storage failed: {0}; the node stops, check the disk and start it again")]
    Failed(AnyError),
    /// The stored bytes are damaged where they had been durable.
    #[error(
        "what is stored is damaged: {0}; restore this node from its peers, do not start it with what is left"
    )]
    Corrupt(String),
    /// Another process has the store open.
    #[error("{0} is in use by another process; stop it or choose another directory")]
    InUse(String),
    /// There is no room for the next write.
    #[error("no room left: {0}; free space and start the node again")]
    Full(String),
    /// What is stored can't be used by this version or in this role.
    #[error("{0}")]
    Unusable(String),
}

/// Why entries could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogReadError {
    /// The entries asked for were compacted; the follower needs a snapshot.
    #[error("entries up to {compacted} are compacted")]
    Compacted {
        /// The last entry that is gone.
        compacted: LogId,
    },
    /// `after` or what follows is not, or no longer, in this log.
    #[error("the log no longer holds what was asked for")]
    Superseded,
    /// The store failed.
    #[error(transparent)]
    Failed(#[from] StorageError),
}
