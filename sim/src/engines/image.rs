//! A log with its entries, as it stands in memory or on a simulated disk.

use quorate_engine::{
    EntryBlock, EntryKind, HardState, Index, LogId, Membership, Persist, Term, TermRun,
};

/// The entries of one log, from index 1, as contiguous blocks.
#[derive(Clone, Debug, Default)]
pub struct LogImage {
    blocks: Vec<EntryBlock>,
}

impl LogImage {
    /// The last entry.
    pub fn last(&self) -> LogId {
        self.blocks.last().map_or(LogId::ZERO, EntryBlock::last)
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[EntryBlock] {
        &self.blocks
    }

    fn position(&self, index: Index) -> Option<usize> {
        let at = self.blocks.partition_point(|block| block.last().index < index);
        (index > 0 && at < self.blocks.len()).then_some(at)
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

    /// Carries out the log part of a write.
    pub fn write(&mut self, write: &Persist) {
        if let Some(from) = write.overwrites {
            self.truncate(from);
        }
        write.blocks.iter().for_each(|block| self.append(block.clone()));
    }

    /// Entries directly behind `after` through `through`, about `max_bytes` of them and at least
    /// one; `None` if `after` is not in this log (any more).
    pub fn read(&self, after: LogId, through: Index, max_bytes: usize) -> Option<Vec<EntryBlock>> {
        if !self.contains(after) {
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

    /// Runs of terms, as a store recovers them.
    pub fn runs(&self) -> Vec<TermRun> {
        let mut runs: Vec<TermRun> = Vec::new();
        for block in &self.blocks {
            if runs.last().is_none_or(|run| run.term != block.term()) {
                runs.push(TermRun { first: block.first(), term: block.term() });
            }
        }
        runs
    }

    /// Every configuration with its entry, as a store recovers them.
    pub fn configurations(&self) -> Vec<(LogId, Membership)> {
        let blocks = self.blocks.iter().filter(|b| b.kind() == EntryKind::Configuration);
        blocks.filter_map(|b| b.membership().map(|m| (b.last(), m))).collect()
    }
}

/// All that survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Term and vote.
    pub hard: HardState,
    /// The entries.
    pub log: LogImage,
}

impl Image {
    /// Carries out a write, all of it.
    pub fn write(&mut self, write: &Persist) {
        if let Some(hard) = write.hard_state {
            self.hard = hard;
        }
        self.log.write(write);
    }
}
