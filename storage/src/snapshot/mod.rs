//! Snapshots: a state machine's state at one entry, which stands in for the log up to there.
//!
//! A snapshot is a stream of bytes that only its state machine understands, with a [`SnapshotMeta`]
//! that says what of the log it covers. It is written once, from begin to end, and exists from the
//! moment [`SnapshotWriter::commit`] makes it durable: before, nobody sees it, and a crash leaves
//! nothing of it. The order in which a node lives by that:
//!
//! - the snapshot is durable, then the log is compacted ([`LogOp::Compact`](crate::LogOp::Compact));
//! - a snapshot of another node is durable, then the log is reset
//!   ([`LogOp::Reset`](crate::LogOp::Reset)), then the state machine is restored.
//!
//! Which snapshots are kept is the node's decision, not the store's.

pub mod file;
mod format;
mod mark;
mod memory;
mod view;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{LogId, Membership};

use crate::log::StorageError;

pub use mark::{ApplyMark, FreshWrite, KeptReply, encode_reply};
pub(crate) use memory::*;
pub use view::Snapshot;

/// What a snapshot covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry whose effect is in it.
    pub last: LogId,
    /// The configuration in force there, with the id of its own entry, at or before `last`.
    pub configuration: (LogId, Membership),
    /// Drawn when it is built. Two builds of one state may differ in their bytes, so a transfer that
    /// was interrupted goes on only with the same `last` and the same nonce.
    pub nonce: u64,
}

impl fmt::Display for SnapshotMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, membership) = &self.configuration;
        write!(f, "{} nonce={:016x} configuration {at} {membership}", self.last, self.nonce)
    }
}

/// A complete snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// What it covers.
    pub meta: SnapshotMeta,
    /// Length of its content: what was appended, without what the store adds.
    pub bytes: u64,
}

/// One group's snapshots.
///
/// All methods block, and are called where that is allowed, by the node's tasks for snapshots. They may
/// be called from several threads at once, and while the log is written: a store of snapshots that
/// fails does not make the log fail, nor the other way round.
pub trait SnapshotStore: Send + Sync + 'static {
    /// The complete snapshots, oldest first (by index of `last`, then by its term). Called at the
    /// start of a node, and when it looks for what to send or to delete.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if one of them is damaged where that can be seen without reading
    /// all of it; otherwise a failed read.
    fn list(&self) -> Result<Vec<SnapshotInfo>, StorageError>;

    /// Begins a snapshot. Nobody sees it before it is committed. Called for each snapshot that is
    /// built or received.
    ///
    /// # Errors
    /// [`StorageError::Full`] if there is no room; otherwise what failed. Nothing is left behind.
    fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError>;

    /// Opens the complete snapshot that ends with `last`; `None` if there is none. Called for each
    /// transfer and each restore.
    ///
    /// The reader pins it: its bytes stay readable as long as the reader lives, though the snapshot
    /// be replaced or deleted meanwhile.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is damaged; otherwise a failed read.
    fn open(&self, last: LogId) -> Result<Option<Arc<dyn SnapshotReader>>, StorageError>;

    /// Deletes the snapshot that ends with `last`, durably when this returns. It is no error if there
    /// is none.
    ///
    /// # Errors
    /// What failed; the snapshot may be there or not.
    fn delete(&self, last: LogId) -> Result<(), StorageError>;
}

/// A snapshot being written.
///
/// Dropping it abandons the snapshot and removes what was written of it.
pub trait SnapshotWriter: Send + 'static {
    /// Adds `bytes` to the content. How the content is cut into calls has no meaning. Durable is
    /// nothing of it before [`SnapshotWriter::commit`].
    ///
    /// # Errors
    /// [`StorageError::Full`] if there is no room; otherwise what failed. Final: what was begun is of
    /// no use any more, every later call fails as well.
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError>;

    /// How many bytes were appended.
    fn written(&self) -> u64;

    /// Ends the snapshot. When this returns, it is durable in content and in name, is what
    /// [`SnapshotStore::list`] tells and [`SnapshotStore::open`] opens, and has taken the place of
    /// another one with the same `last`.
    ///
    /// # Errors
    /// What failed. After a crash the snapshot is there and complete, or not there at all, and the
    /// one that it was to replace is there in the second case.
    fn commit(self: Box<Self>) -> Result<SnapshotInfo, StorageError>;
}

/// A complete snapshot, open for reading from any thread.
pub trait SnapshotReader: Send + Sync + 'static {
    /// What it covers, and how long it is.
    fn info(&self) -> &SnapshotInfo;

    /// Content from `offset` on: at least one byte and at most `max_bytes` (0 counts as 1), nothing
    /// at the end or behind it. What it gives was checked against the store's checksums.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where the bytes are not what was written; otherwise a failed read.
    fn read_at(&self, offset: u64, max_bytes: usize) -> Result<Bytes, StorageError>;
}
