//! A log with its entries, as it stands in memory or on a simulated disk.

use std::sync::Arc;

use quorate_engine::{
    EntryBlock, EntryKind, HardState, Index, LogId, Membership, Persist, Term, TermRun,
};

use crate::engines::snapshot::Snapshot;

/// The entries of one log, from index 1, as contiguous blocks. What was compacted stays here, so
/// that checkers can look at whole logs; no node reads it any more.
#[derive(Clone, Debug, Default)]
pub struct LogImage {
    blocks: Vec<EntryBlock>,
    compacted: LogId,
}

impl LogImage {
    /// The last entry.
    pub fn last(&self) -> LogId {
        self.blocks.last().map_or(self.compacted, EntryBlock::last)
    }

    /// The last entry that was compacted away.
    pub fn compacted(&self) -> LogId {
        self.compacted
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[EntryBlock] {
        &self.blocks
    }

    fn position(&self, index: Index) -> Option<usize> {
        let at = self.blocks.partition_point(|block| block.last().index < index);
        self.blocks.get(at).is_some_and(|block| block.first() <= index).then_some(at)
    }

    /// The block that holds `index`.
    pub fn block_at(&self, index: Index) -> Option<&EntryBlock> {
        self.position(index).map(|at| &self.blocks[at])
    }

    /// Term of the entry at `index`; 0 at index 0.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == 0 { Some(0) } else { self.block_at(index).map(EntryBlock::term) }
    }

    /// Whether this very entry is there.
    pub fn contains(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// Removes `from` and everything behind it.
    pub fn truncate(&mut self, from: Index) {
        let Some(at) = self.position(from) else { return };
        let cut = self.blocks[at].clone();
        self.blocks.truncate(at);
        if cut.first() < from {
            self.blocks.push(cut.slice(cut.first(), from - 1));
        }
    }

    /// Adds a block at the end.
    ///
    /// # Panics
    /// If it does not begin there.
    pub fn append(&mut self, block: EntryBlock) {
        assert_eq!(block.first(), self.last().index + 1, "a hole in the simulated log");
        self.blocks.push(block);
    }

    /// Carries out the log part of a write. A reset puts what `snapshot` holds in the log's place;
    /// without the right one nothing is left of the log.
    pub fn write(&mut self, write: &Persist, snapshot: &Snapshot) {
        if let Some(&(to, _)) = write.reset.as_deref() {
            *self = snapshot.log().compacted_through(to).unwrap_or_default();
            self.compacted = to;
        }
        if let Some(from) = write.overwrites {
            self.truncate(from);
        }
        write.blocks.iter().for_each(|block| self.append(block.clone()));
        self.compacted = write.compact.unwrap_or(self.compacted);
    }

    /// The entries through `last`, all of them compacted; `None` if `last` is not in this log.
    pub fn compacted_through(&self, last: LogId) -> Option<Self> {
        if !self.contains(last) {
            return None;
        }
        let mut log = self.clone();
        log.truncate(last.index + 1);
        log.compacted = last;
        Some(log)
    }

    /// The log as a witness has it.
    #[must_use]
    pub fn withheld(&self) -> Self {
        let blocks = self.blocks.iter().map(EntryBlock::withheld).collect();
        Self { blocks, compacted: self.compacted }
    }

    /// Entries directly behind `after` through `through`, about `max_bytes` of them and at least
    /// one; `None` if `after` is not in this log (any more).
    pub fn read(&self, after: LogId, through: Index, max_bytes: usize) -> Option<Vec<EntryBlock>> {
        if !self.contains(after) || after.index < self.compacted.index {
            return None;
        }
        let mut read = Vec::new();
        let mut bytes = 0;
        let mut next = after.index + 1;
        while next <= through && bytes < max_bytes {
            let Some(block) = self.block_at(next) else { break };
            let mut last = block.last().index.min(through);
            if block.bytes().len() > max_bytes {
                last = next;
            }
            let block = block.slice(next, last);
            bytes += block.bytes().len();
            next = last + 1;
            read.push(block);
        }
        Some(read)
    }

    /// Runs of terms behind what was compacted, as a store recovers them.
    pub fn runs(&self) -> Vec<TermRun> {
        let first = self.compacted.index + 1;
        let mut runs: Vec<TermRun> = Vec::new();
        for block in self.blocks.iter().filter(|b| b.last().index >= first) {
            if runs.last().is_none_or(|run| run.term != block.term()) {
                runs.push(TermRun { first: block.first().max(first), term: block.term() });
            }
        }
        runs
    }

    /// The configuration in force where the log begins and every one behind it, each with its
    /// entry, as a store recovers them.
    pub fn configurations(&self) -> Vec<(LogId, Membership)> {
        let blocks = self.blocks.iter().filter(|b| b.kind() == EntryKind::Configuration);
        let mut all: Vec<_> =
            blocks.filter_map(|b| b.membership().map(|m| (b.last(), m))).collect();
        let begun = all.partition_point(|(id, _)| id.index <= self.compacted.index);
        all.drain(..begun.saturating_sub(1));
        all
    }
}

/// All that survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Term and vote.
    pub hard: HardState,
    /// The entries.
    pub log: LogImage,
    /// The newest complete snapshot; empty if there is none.
    pub snapshot: Arc<Snapshot>,
}

impl Image {
    /// Carries out a write, all of it.
    pub fn write(&mut self, write: &Persist) {
        if let Some(hard) = write.hard_state {
            self.hard = hard;
        }
        self.log.write(write, &self.snapshot);
    }

    /// The log that a start finds: if the snapshot is newer than the log, or the log has other
    /// entries, the crash came before the reset of the log, and the snapshot takes its place.
    pub fn recovered(&self) -> &LogImage {
        if self.log.contains(self.snapshot.last()) { &self.log } else { self.snapshot.log() }
    }
}
