//! What the engine knows of the log without holding an entry: positions, runs of terms,
//! configurations.
//!
//! The positions and their order, asserted after every change, in release too:
//!
//! ```text
//! compacted <= snapshot <= applied <= committed <= last      persisted <= last
//! ```
//! `snapshot` is the newest state that is durable without the log: everything at or before it may be
//! compacted, nothing behind it. While a snapshot of the leader is installed, the state machine has
//! yet to see what the log begins with: `applied` is behind until it has restored it.
//!
//! `committed` may be ahead of `persisted`: a follower can learn that a quorum without it has an
//! entry that its own disk has not finished. `persisted` goes back only when entries are
//! overwritten, never below `committed` that is durable.

use crate::block::{EntryBlock, EntryKind};
use crate::membership::Membership;
use crate::planted;
use crate::types::{Index, LogId, Term, TermRun};

/// The shape of one node's log.
#[derive(Clone, Debug)]
pub struct Log {
    compacted: LogId,
    snapshot: LogId,
    last: LogId,
    /// Terms after `compacted`, in order; the first run begins at `compacted.index + 1`.
    runs: Vec<TermRun>,
    /// The configuration in force at `compacted` and every one after it, the newest last. Used from
    /// the moment it is here.
    configurations: Vec<(LogId, Membership)>,
    persisted: Index,
    committed: Index,
    applied: Index,
    /// A snapshot took the place of the log, and the state machine has not restored it yet.
    restoring: bool,
}

/// Why a recovered log can't be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recovered log contradicts itself: {0}")]
pub struct LogShapeError(&'static str);

impl Log {
    /// An empty log.
    pub fn empty() -> Self {
        Self {
            compacted: LogId::ZERO,
            snapshot: LogId::ZERO,
            last: LogId::ZERO,
            runs: Vec::new(),
            configurations: Vec::new(),
            persisted: 0,
            committed: 0,
            applied: 0,
            restoring: false,
        }
    }

    /// The log a store recovered: all of it durable, none of it known to be committed beyond what
    /// was compacted. The first configuration may stand at or before `compacted`: the one in force
    /// there.
    ///
    /// # Errors
    /// When the parts contradict each other: the store is damaged or has a bug.
    pub fn recovered(
        compacted: LogId,
        last: LogId,
        runs: Vec<TermRun>,
        configurations: Vec<(LogId, Membership)>,
    ) -> Result<Self, LogShapeError> {
        let mut next = compacted.index + 1;
        let mut term = compacted.term;
        for (i, run) in runs.iter().enumerate() {
            if run.term < term || (i > 0 && run.term == term) {
                return Err(LogShapeError("terms go back"));
            }
            if (i == 0 && run.first != next) || (i > 0 && run.first < next) {
                return Err(LogShapeError("runs of terms overlap or leave a hole"));
            }
            next = run.first + 1;
            term = run.term;
        }
        if runs.is_empty() && last != compacted {
            return Err(LogShapeError("entries without terms"));
        }
        if !runs.is_empty() && (last.term != term || last.index + 1 < next) {
            return Err(LogShapeError("the last entry is not in the last run"));
        }
        let log = Self {
            compacted,
            snapshot: compacted,
            last,
            runs,
            configurations,
            persisted: last.index,
            committed: compacted.index,
            applied: compacted.index,
            restoring: false,
        };
        let is_compacted = compacted != LogId::ZERO;
        if is_compacted && log.configurations.first().is_none_or(|(id, _)| *id > compacted) {
            return Err(LogShapeError("a compacted log without the configuration in force"));
        }
        let there = |id: LogId| id.index > compacted.index && log.contains(id);
        if log.configurations.iter().skip(usize::from(is_compacted)).any(|(id, _)| !there(*id)) {
            return Err(LogShapeError("a configuration of an entry that is not there"));
        }
        Ok(log)
    }

    /// The state machine starts with what a snapshot (or its own disk) holds through `last`, which
    /// is committed.
    ///
    /// # Errors
    /// If the log does not have `last`: then it is not the log that belongs to this state.
    pub fn restored(mut self, last: LogId) -> Result<Self, LogShapeError> {
        if !self.contains(last) {
            return Err(LogShapeError(
                "the state of the state machine is of an entry that is not there",
            ));
        }
        self.committed = last.index;
        self.applied = last.index;
        self.snapshot = last;
        self.restoring = false;
        self.assert_order();
        Ok(self)
    }

    /// The last entry that was compacted away.
    pub fn compacted(&self) -> LogId {
        self.compacted
    }

    /// The last entry of the newest state that is durable without the log.
    pub fn snapshot(&self) -> LogId {
        self.snapshot
    }

    /// The last entry.
    pub fn last(&self) -> LogId {
        self.last
    }

    /// The last entry that is durable here.
    pub fn persisted(&self) -> Index {
        self.persisted
    }

    /// The last entry known to be committed.
    pub fn committed(&self) -> Index {
        self.committed
    }

    /// The last entry the state machine has seen.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The configuration in force: the newest in the log, committed or not (paper §6).
    pub fn membership(&self) -> Option<&Membership> {
        let late = planted::on("configuration-counts-when-committed");
        let counts = |(id, _): &&(LogId, Membership)| !late || id.index <= self.committed;
        let newest = self.configurations.iter().rev().find(counts);
        newest.or(self.configurations.first()).map(|(_, m)| m)
    }

    /// The configuration in force where the log begins, and every one in it, each with its entry,
    /// oldest first.
    pub fn configurations(&self) -> &[(LogId, Membership)] {
        &self.configurations
    }

    /// The runs of terms after `compacted`.
    pub fn runs(&self) -> &[TermRun] {
        &self.runs
    }

    /// Term of the entry at `index`, `None` if it is not known (compacted or not there).
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index < self.compacted.index || index > self.last.index {
            return None;
        }
        // Nearly every question is about the end of the log.
        self.runs.iter().rev().find(|run| run.first <= index).map(|run| run.term)
    }

    /// Id of the entry at `index`, or of the last compacted one if it is not in the log.
    pub(crate) fn id_at(&self, index: Index) -> LogId {
        self.term_at(index).map_or(self.compacted, |term| LogId::new(term, index))
    }

    /// Whether this very entry is in the log (or is the last compacted one).
    pub fn contains(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The last entry with an index of at most `id.index` and a term of at most `id.term`.
    ///
    /// Where two logs differ, both sides step back over whole terms with this (paper §5.3, end).
    pub fn last_not_above(&self, id: LogId) -> LogId {
        let mut index = id.index.min(self.last.index);
        for run in self.runs.iter().rev() {
            if run.first > index {
                continue;
            }
            if run.term <= id.term {
                return LogId::new(run.term, index);
            }
            index = run.first - 1;
        }
        self.compacted
    }

    /// The part of `block` that is not in the log yet, and the index from which entries of the log
    /// have to go for it (`None`: it only adds). `None` if all of it is there.
    ///
    /// A log is truncated only at a real conflict: a delayed append that says less than is known
    /// removes nothing.
    pub fn missing_from(&self, block: &EntryBlock) -> Option<(Index, Option<Index>)> {
        let last = block.last().index;
        let mut index = block.first().max(self.compacted.index + 1);
        if planted::on("truncates-without-conflict") && index > self.committed && index <= last {
            return Some((index, Some(index)));
        }
        while index <= last && index <= self.last.index {
            if self.term_at(index) != Some(block.term()) {
                return Some((index, Some(index)));
            }
            // The rest of a run has one term, as has the block: jump to the end of the run.
            let run_end = self
                .runs
                .iter()
                .find(|run| run.first > index)
                .map_or(self.last.index, |next| next.first - 1);
            index = run_end + 1;
        }
        (index <= last).then_some((index, None))
    }

    /// Puts a block at the end, dropping what it replaces.
    ///
    /// # Panics
    /// If it leaves a hole, goes back in terms, or replaces what is committed: callers check.
    pub fn append(&mut self, block: &EntryBlock) {
        if block.first() <= self.last.index {
            self.truncate(block.first());
        }
        assert_eq!(block.first(), self.last.index + 1, "a hole in the log");
        assert!(block.term() >= self.last.term, "terms go back in the log");
        if self.runs.last().is_none_or(|run| run.term != block.term()) {
            self.runs.push(TermRun { first: block.first(), term: block.term() });
        }
        self.last = block.last();
        if block.kind() == EntryKind::Configuration {
            let membership =
                block.membership().expect("a configuration block is checked when read");
            self.configurations.push((block.last(), membership));
        }
        self.assert_order();
    }

    /// Removes `from` and everything after it.
    fn truncate(&mut self, from: Index) {
        assert!(from > self.committed, "entry {from} is committed (through {})", self.committed);
        self.runs.retain(|run| run.first < from);
        self.configurations.retain(|(id, _)| id.index < from);
        let term = self.runs.last().map_or(self.compacted.term, |run| run.term);
        self.last = LogId::new(term, from - 1);
        self.persisted = self.persisted.min(from - 1);
        self.assert_order();
    }

    /// Everything through `index` is durable.
    pub fn persist(&mut self, index: Index) {
        self.persisted = self.persisted.max(index);
        self.assert_order();
    }

    /// Everything through `index` is committed. Never goes back.
    pub fn commit(&mut self, index: Index) {
        self.committed = self.committed.max(index);
        self.assert_order();
    }

    /// Everything through `index` is applied. Never goes back.
    pub fn apply(&mut self, index: Index) {
        self.applied = self.applied.max(index);
        self.restoring &= self.applied < self.snapshot.index;
        self.assert_order();
    }

    /// Whether the state machine has yet to restore the snapshot that the log begins with.
    pub fn is_restoring(&self) -> bool {
        self.restoring
    }

    /// The configuration in force at the entry `index`, which is in the log.
    pub fn configuration_at(&self, index: Index) -> Option<&(LogId, Membership)> {
        self.configurations.iter().rev().find(|(id, _)| id.index <= index)
    }

    /// A state through `last` is durable without the log. Never goes back.
    pub fn cover(&mut self, last: LogId) {
        assert!(self.contains(last), "a snapshot through {last}, which is not in the log");
        self.snapshot = self.snapshot.max(last);
        self.assert_order();
    }

    /// Forgets the entries through `index`, which a snapshot covers. The configuration in force
    /// there stays.
    pub fn compact(&mut self, index: Index) {
        let Some(term) = self.term_at(index).filter(|_| index > self.compacted.index) else {
            return;
        };
        self.compacted = LogId::new(term, index);
        let first = index + 1;
        if index == self.last.index {
            self.runs.clear();
        }
        // The run of the first entry that stays begins with that entry.
        let begun = self.runs.partition_point(|run| run.first <= first);
        self.runs.drain(..begun.saturating_sub(1));
        if let Some(run) = self.runs.first_mut() {
            run.first = run.first.max(first);
        }
        let in_force = self.configurations.partition_point(|(id, _)| id.index <= index);
        self.configurations.drain(..in_force.saturating_sub(1));
        self.assert_order();
    }

    /// A snapshot through `to`, durable here and with the configuration in force there, takes the
    /// place of the whole log. The state machine has to restore it.
    ///
    /// # Panics
    /// If it is not ahead of what is committed.
    pub fn reset(&mut self, to: LogId, configuration: (LogId, Membership)) {
        assert!(
            to.index > self.committed,
            "a snapshot through {to} over committed {}",
            self.committed
        );
        *self = Self {
            compacted: to,
            snapshot: to,
            last: to,
            runs: Vec::new(),
            configurations: vec![configuration],
            // A crash finds the snapshot, if not yet the reset of the log, and completes it.
            persisted: to.index,
            committed: to.index,
            applied: self.applied,
            restoring: true,
        };
        self.assert_order();
    }

    fn assert_order(&self) {
        assert!(
            (self.restoring || self.snapshot.index <= self.applied)
                && self.compacted.index <= self.snapshot.index
                && self.applied <= self.committed
                && self.committed <= self.last.index
                && self.persisted <= self.last.index,
            "log positions out of order: compacted {} snapshot {} applied {} committed {} \
             persisted {} last {}",
            self.compacted,
            self.snapshot,
            self.applied,
            self.committed,
            self.persisted,
            self.last
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Batch;

    fn block(term: Term, first: Index, count: usize) -> EntryBlock {
        let mut batch = Batch::new(0);
        (0..count).for_each(|_| batch.push(b""));
        batch.seal(LogId::new(term, first))
    }

    /// Terms 1 1 1 4 4 5 5 6 6 6: the leader of the paper's Figure 7.
    fn figure_7() -> Log {
        let mut log = Log::empty();
        for (term, first, count) in [(1, 1, 3), (4, 4, 2), (5, 6, 2), (6, 8, 3)] {
            log.append(&block(term, first, count));
        }
        log
    }

    #[test]
    fn terms_and_last_not_above() {
        let log = figure_7();
        let terms: Vec<_> = (0..=11).map(|i| log.term_at(i)).collect();
        let expect = [0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6].map(Some);
        assert_eq!(terms[..11], expect);
        assert_eq!(terms[11], None);
        assert_eq!(log.last_not_above(LogId::new(3, 11)), LogId::new(1, 3));
        assert_eq!(log.last_not_above(LogId::new(5, 5)), LogId::new(4, 5));
        assert_eq!(log.last_not_above(LogId::new(9, 99)), LogId::new(6, 10));
        assert_eq!(log.last_not_above(LogId::new(0, 9)), LogId::ZERO);
    }

    #[test]
    fn what_is_there_is_not_missing() {
        let log = figure_7();
        assert_eq!(log.missing_from(&block(4, 4, 2)), None);
        assert_eq!(log.missing_from(&block(6, 9, 1)), None);
        assert_eq!(log.missing_from(&block(6, 9, 5)), Some((11, None)));
        assert_eq!(log.missing_from(&block(7, 5, 1)), Some((5, Some(5))));
        // Same index range, but from index 6 on the terms differ.
        assert_eq!(log.missing_from(&block(4, 4, 4)), Some((6, Some(6))));
    }

    #[test]
    fn overwriting_takes_configurations_and_durability_back() {
        let mut log = figure_7();
        let m = Membership::of_voters([(1, "a")]).unwrap();
        log.append(&EntryBlock::configuration(LogId::new(6, 11), &m));
        log.persist(11);
        assert_eq!(log.membership(), Some(&m));
        log.append(&block(7, 9, 1));
        assert_eq!((log.last(), log.persisted()), (LogId::new(7, 9), 8));
        assert_eq!(log.membership(), None);
    }

    #[test]
    #[should_panic(expected = "is committed")]
    fn what_is_committed_stays() {
        let mut log = figure_7();
        log.commit(9);
        log.append(&block(7, 9, 1));
    }

    #[test]
    fn contradictions_of_a_store_are_refused() {
        let run = |first, term| TermRun { first, term };
        let ok = Log::recovered(LogId::ZERO, LogId::new(2, 5), vec![run(1, 1), run(4, 2)], vec![]);
        assert!(ok.is_ok());
        let m = Membership::of_voters([(1, "a")]).unwrap();
        for (last, runs, configurations) in [
            (LogId::new(2, 5), vec![], vec![]),
            (LogId::new(2, 5), vec![run(2, 2)], vec![]),
            (LogId::new(1, 5), vec![run(1, 2), run(4, 1)], vec![]),
            (LogId::new(2, 5), vec![run(1, 1), run(1, 2)], vec![]),
            (LogId::new(3, 5), vec![run(1, 2)], vec![]),
            (LogId::new(2, 5), vec![run(1, 2)], vec![(LogId::new(2, 6), m)]),
        ] {
            assert!(Log::recovered(LogId::ZERO, last, runs, configurations).is_err());
        }
    }
}
