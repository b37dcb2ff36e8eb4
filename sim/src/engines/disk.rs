//! A disk that tells the truth: what was not synced may be gone after a crash.
//!
//! Writes become durable in order, whole or not at all: a torn write is one that did not happen,
//! which the log's checksums see to (`storage/tests/wal_crash.rs`). One sync runs at a time and covers what was
//! queued when it began, as group commit does. Time is the world's business.

use std::collections::VecDeque;
use std::sync::Arc;

use quorate_engine::{NodeId, Persist, Term};

use crate::engines::image::Image;
use crate::engines::snapshot::Snapshot;

/// One node's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    durable: Image,
    queue: VecDeque<Persist>,
    /// How many writes at the front of the queue the running sync covers; 0: none runs.
    syncing: usize,
    owner: NodeId,
    /// The newest term in which its owner voted for itself.
    stood: Term,
}

impl Disk {
    /// An empty disk of a node.
    pub(crate) fn new(owner: NodeId) -> Self {
        Self { durable: Image::default(), queue: VecDeque::new(), syncing: 0, owner, stood: 0 }
    }

    /// What would be found after a crash that loses as much as it can.
    pub(crate) fn durable(&self) -> &Image {
        &self.durable
    }

    /// How many writes wait to become durable.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Takes a write; it is not durable yet.
    pub(crate) fn submit(&mut self, write: Persist) {
        self.queue.push_back(write);
    }

    /// Begins a sync of everything queued, unless one runs or there is nothing to do.
    pub(crate) fn begin_sync(&mut self) -> bool {
        if self.syncing > 0 || self.queue.is_empty() {
            return false;
        }
        self.syncing = self.queue.len();
        true
    }

    fn keep(&mut self, writes: usize) -> Option<u64> {
        let mut last = None;
        for write in self.queue.drain(..writes) {
            self.durable.write(&write);
            if self.durable.hard.voted_for == Some(self.owner) {
                self.stood = self.stood.max(self.durable.hard.term);
            }
            last = Some(write.seq);
        }
        self.syncing = 0;
        last
    }

    /// The running sync is done: its writes are durable. Returns the last of them.
    pub(crate) fn end_sync(&mut self) -> Option<u64> {
        self.keep(self.syncing)
    }

    /// A complete snapshot is durable. It takes the place of an older one.
    pub(crate) fn keep_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        if snapshot.last().index > self.durable.snapshot.last().index {
            self.durable.snapshot = snapshot;
        }
    }

    /// What a node starts from: the reset of the log that a crash has left undone is done.
    pub(crate) fn recover(&mut self) -> &Image {
        let snapshot = self.durable.snapshot.last();
        if !self.durable.log.contains(snapshot) {
            self.durable.log = self.durable.recovered().clone();
            self.durable.hard = self.durable.hard.at_least(snapshot.term);
        }
        &self.durable
    }

    /// The power goes: of what was not synced, the first `keep` of a thousand writes are there
    /// afterwards. Returns how many were lost.
    pub(crate) fn crash(&mut self, keep: u64) -> usize {
        let kept = (self.queue.len() as u64 * keep).div_ceil(1000);
        self.keep(kept as usize);
        let lost = self.queue.len();
        self.queue.clear();
        lost
    }

    /// An empty disk takes this one's place.
    pub(crate) fn wipe(&mut self) {
        *self = Self::new(self.owner);
    }

    /// Whether an old copy may take the place of what is there: not if the node has stood for
    /// election since in a later term, which it must never forget.
    pub(crate) fn may_put_back(&self, copy: &Image) -> bool {
        self.stood <= copy.hard.term
    }

    /// The old copy takes the place of what is there.
    pub(crate) fn put_back(&mut self, copy: Image) {
        self.durable = copy;
    }

    /// Changes what is durable behind everyone's back: for planted bugs.
    pub(crate) fn tamper(&mut self, change: impl FnOnce(&mut Image)) {
        change(&mut self.durable);
    }

    /// Loses the first unsynced write that holds a term or vote, and keeps what came after: for
    /// planted bugs.
    pub(crate) fn lose_first_unsynced(&mut self) {
        for write in &mut self.queue {
            if write.hard_state.take().is_some() {
                return;
            }
        }
    }
}
