//! A disk that tells the truth: what was not synced may be gone after a crash.
//!
//! Writes become durable in order, whole or not at all. One sync runs at a time and covers what was
//! queued when it began, as group commit does. Time is the world's business.

use std::collections::VecDeque;

use quorate_engine::Persist;

use crate::engines::image::Image;
use crate::rng::Rng;

/// One node's disk.
#[derive(Debug, Default)]
pub struct Disk {
    durable: Image,
    queue: VecDeque<Persist>,
    /// How many writes at the front of the queue the running sync covers; 0: none runs.
    syncing: usize,
}

impl Disk {
    /// What would be found after a crash that loses as much as it can.
    pub fn durable(&self) -> &Image {
        &self.durable
    }

    /// Whether nothing waits to become durable.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes a write; it is not durable yet.
    pub fn submit(&mut self, write: Persist) {
        self.queue.push_back(write);
    }

    /// Begins a sync of everything queued, unless one runs or there is nothing to do.
    pub fn begin_sync(&mut self) -> bool {
        if self.syncing > 0 || self.queue.is_empty() {
            return false;
        }
        self.syncing = self.queue.len();
        true
    }

    /// The running sync is done: its writes are durable. Returns the last of them.
    pub fn end_sync(&mut self) -> Option<u64> {
        let mut last = None;
        for write in self.queue.drain(..self.syncing) {
            self.durable.write(&write);
            last = Some(write.seq);
        }
        self.syncing = 0;
        last
    }

    /// The power goes: of what was not synced, a random number of the first writes is there
    /// afterwards. Returns how many were lost.
    pub fn crash(&mut self, rng: &mut Rng) -> usize {
        let kept = rng.below(self.queue.len() as u64 + 1) as usize;
        for write in self.queue.drain(..kept) {
            self.durable.write(&write);
        }
        self.syncing = 0;
        let lost = self.queue.len();
        self.queue.clear();
        lost
    }

    /// An empty disk takes this one's place.
    pub(crate) fn wipe(&mut self) {
        *self = Self::default();
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
