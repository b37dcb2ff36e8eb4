//! Snapshots in memory: the content in shared pieces, so that a reader pins it by holding them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Index, LogId, Term};

use super::{SnapshotInfo, SnapshotMeta, SnapshotReader, SnapshotStore, SnapshotWriter};
use crate::log::StorageError;
use crate::memory::MemoryDisk;

/// Content is kept in pieces of this length, the last one shorter.
const PIECE_BYTES: usize = 256 << 10;

/// The snapshots on a disk in memory, in the order in which they are listed.
pub(crate) type Snapshots = BTreeMap<(Index, Term), Arc<MemorySnapshot>>;

fn key(last: LogId) -> (Index, Term) {
    (last.index, last.term)
}

/// A complete snapshot, which is also its own reader.
#[derive(Debug)]
pub(crate) struct MemorySnapshot {
    info: SnapshotInfo,
    pieces: Vec<Bytes>,
}

impl SnapshotReader for MemorySnapshot {
    fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    fn read_at(&self, offset: u64, max_bytes: usize) -> Result<Bytes, StorageError> {
        if offset >= self.info.bytes {
            return Ok(Bytes::new());
        }
        let offset = usize::try_from(offset).expect("less than what is in memory");
        let piece = &self.pieces[offset / PIECE_BYTES];
        let start = offset % PIECE_BYTES;
        Ok(piece.slice(start..piece.len().min(start.saturating_add(max_bytes.max(1)))))
    }
}

/// The store of one life of a [`MemoryDisk`].
pub(crate) struct MemorySnapshots {
    pub(crate) disk: MemoryDisk,
    /// As in [`MemoryStorage`](crate::MemoryStorage): a store that was replaced changes nothing more.
    pub(crate) owner: u64,
}

impl SnapshotStore for MemorySnapshots {
    fn list(&self) -> Result<Vec<SnapshotInfo>, StorageError> {
        Ok(self.disk.snapshots(|all| all.values().map(|found| found.info.clone()).collect()))
    }

    fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        self.disk.change_snapshots(self.owner, |_| {})?;
        let disk = self.disk.clone();
        let (pieces, rest) = (Vec::new(), Vec::new());
        Ok(Box::new(MemoryWriter { disk, owner: self.owner, meta, pieces, rest }))
    }

    fn open(&self, last: LogId) -> Result<Option<Arc<dyn SnapshotReader>>, StorageError> {
        let found = self.disk.snapshots(|all| all.get(&key(last)).cloned());
        Ok(found.map(|snapshot| snapshot as Arc<dyn SnapshotReader>))
    }

    fn delete(&self, last: LogId) -> Result<(), StorageError> {
        self.disk.change_snapshots(self.owner, |all| drop(all.remove(&key(last))))
    }
}

struct MemoryWriter {
    disk: MemoryDisk,
    owner: u64,
    meta: SnapshotMeta,
    /// Full ones.
    pieces: Vec<Bytes>,
    /// The beginning of the next.
    rest: Vec<u8>,
}

impl SnapshotWriter for MemoryWriter {
    fn append(&mut self, mut bytes: &[u8]) -> Result<(), StorageError> {
        while !bytes.is_empty() {
            let (fits, more) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.rest.len()));
            self.rest.extend_from_slice(fits);
            if self.rest.len() == PIECE_BYTES {
                self.pieces.push(std::mem::take(&mut self.rest).into());
            }
            bytes = more;
        }
        Ok(())
    }

    fn written(&self) -> u64 {
        (self.pieces.len() * PIECE_BYTES + self.rest.len()) as u64
    }

    fn commit(mut self: Box<Self>) -> Result<SnapshotInfo, StorageError> {
        let info = SnapshotInfo { bytes: self.written(), meta: self.meta };
        if !self.rest.is_empty() {
            self.pieces.push(self.rest.into());
        }
        let snapshot = MemorySnapshot { info: info.clone(), pieces: self.pieces };
        self.disk.change_snapshots(self.owner, |all| {
            all.insert(key(info.meta.last), Arc::new(snapshot));
        })?;
        Ok(info)
    }
}
