//! What one group's log amounts to, and which changes of it make sense.
//!
//! Both built-in stores hold the same two things per group, so both are built from here. A
//! [`LogState`] is small (terms, votes, configurations, no entries) and is ahead of the disk by
//! what is being written; it decides whether a batch makes sense *before* anything of it is
//! stored, and again at recovery, where a record that is intact and impossible means damage.
//! [`Spans`] say where the entries are; readers see them, so they move only when a batch is durable.

use std::collections::VecDeque;

use quorate_engine::{EntryBlock, HardState, Index, LogId, Term, TermRun};

use crate::log::{LogOp, LogReadError, Recovered};

/// The state of one group without its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) now: Recovered,
    /// Entries after `compacted` and up to here exist and are not known: they stand in files that
    /// are gone. 0 if nothing is missing. Only recovery ever sees another value: a later record
    /// may compact them, and if none does, the log is damaged.
    pub(crate) missing_through: Index,
}

impl LogState {
    /// The term of the entry at `index`, if it is in the log and known.
    fn term_at(&self, index: Index) -> Option<Term> {
        let now = &self.now;
        if index == now.compacted.index {
            return Some(now.compacted.term);
        }
        if index == now.last.index {
            return Some(now.last.term);
        }
        if index < now.compacted.index || index > now.last.index || index <= self.missing_through {
            return None;
        }
        let after = now.runs.partition_point(|run| run.first <= index);
        now.runs[..after].last().map(|run| run.term)
    }

    /// [`LogState::term_at`] as it will be once `ops` are applied.
    fn term_after(&self, ops: &[LogOp], index: Index) -> Option<Term> {
        for op in ops.iter().rev() {
            match op {
                LogOp::Append(block) if block.first() <= index => {
                    return (index <= block.last().index).then_some(block.term());
                }
                LogOp::Compact { through } if through.index == index => return Some(through.term),
                LogOp::Reset { to, .. } => return (to.index == index).then_some(to.term),
                _ => {}
            }
        }
        self.term_at(index)
    }

    /// Whether `ops` make sense in this state, all of them or none.
    ///
    /// # Errors
    /// What is wrong with them, for a message.
    pub(crate) fn check(&self, ops: &[LogOp]) -> Result<(), String> {
        let mut hard = self.now.hard_state;
        let mut compacted = self.now.compacted;
        let mut last = self.now.last;
        for (i, op) in ops.iter().enumerate() {
            match op {
                LogOp::Identity(_) => {}
                LogOp::HardState(next) => {
                    check_hard_state(hard, *next)?;
                    hard = *next;
                }
                LogOp::Append(block) => {
                    let first = block.first();
                    if first <= compacted.index {
                        return Err(format!("block {block} begins before {compacted}, compacted"));
                    }
                    // No overflow: `last` is below the maximum, see `Reset`.
                    if first > last.index + 1 {
                        return Err(format!("block {block} leaves a gap behind {last}"));
                    }
                    if let Some(term) = self.term_after(&ops[..i], first - 1) {
                        if term > block.term() {
                            return Err(format!("block {block} follows an entry of term {term}"));
                        }
                    }
                    last = block.last();
                }
                LogOp::Compact { through } if through.index > compacted.index => {
                    if through.index > last.index {
                        return Err(format!("compaction up to {through} beyond {last}"));
                    }
                    if let Some(term) = self.term_after(&ops[..i], through.index) {
                        if term != through.term {
                            return Err(format!("compaction up to {through}, not in the log"));
                        }
                    }
                    compacted = *through;
                }
                LogOp::Compact { .. } => {}
                LogOp::Reset { to, configuration: (at, membership) } => {
                    if to.index == Index::MAX {
                        return Err(format!("a reset to {to} leaves no room for entries"));
                    }
                    if at.index > to.index || at.term > to.term || membership.voters().is_empty() {
                        return Err(format!(
                            "a reset to {to} with configuration {at} {membership}"
                        ));
                    }
                    compacted = *to;
                    last = *to;
                }
            }
        }
        // An entry of a term is written by a node that has seen that term: a log whose hard state
        // is older has lost its hard state, and with it a vote.
        if last.term > hard.term {
            return Err(format!("the log ends with {last}, its hard state says {hard}"));
        }
        Ok(())
    }

    /// Applies one change that [`LogState::check`] found sensible.
    pub(crate) fn apply(&mut self, op: &LogOp) {
        let now = &mut self.now;
        match op {
            LogOp::Identity(identity) => now.identity = Some(*identity),
            LogOp::HardState(hard_state) => now.hard_state = *hard_state,
            LogOp::Append(block) => {
                let first = block.first();
                assert!(first > now.compacted.index && first <= now.last.index + 1);
                if first <= now.last.index {
                    let keep = now.runs.partition_point(|run| run.first < first);
                    now.runs.truncate(keep);
                    let keep = now.configurations.partition_point(|(id, _)| id.index < first);
                    now.configurations.truncate(keep);
                    self.missing_through = self.missing_through.min(first - 1);
                    if self.missing_through == now.compacted.index {
                        self.missing_through = 0;
                    }
                }
                if now.runs.last().is_none_or(|run| run.term != block.term()) {
                    now.runs.push(TermRun { first, term: block.term() });
                }
                now.last = block.last();
                if let Some(membership) = block.membership() {
                    now.configurations.push((block.last(), membership));
                }
            }
            LogOp::Compact { through } => {
                if through.index <= now.compacted.index {
                    return;
                }
                assert!(through.index <= now.last.index);
                let gone = now.configurations.partition_point(|(id, _)| id.index <= through.index);
                // The newest of them is in force until the next one: it stays.
                now.configurations.drain(..gone.saturating_sub(1));
                // The run of the first entry that stays begins with that entry.
                let first = through.index + 1;
                let begun = now.runs.partition_point(|run| run.first <= first);
                now.runs.drain(..begun.saturating_sub(1));
                if let Some(run) = now.runs.first_mut() {
                    run.first = run.first.max(first);
                }
                if through.index == now.last.index {
                    now.runs.clear();
                }
                now.compacted = *through;
                if self.missing_through <= through.index {
                    self.missing_through = 0;
                }
            }
            LogOp::Reset { to, configuration } => {
                now.compacted = *to;
                now.last = *to;
                now.runs.clear();
                now.configurations = vec![configuration.clone()];
                self.missing_through = 0;
            }
        }
    }
}

/// A term never goes back, and a vote, once given, stands for its term (paper §5.2). A witness stays one.
fn check_hard_state(old: HardState, new: HardState) -> Result<(), String> {
    let revoked = new.term == old.term && old.voted_for.is_some() && new.voted_for != old.voted_for;
    if new.term < old.term || revoked || (old.witness && !new.witness) {
        return Err(format!("hard state {new} after {old}"));
    }
    Ok(())
}

/// Entries of one term next to each other, and where they are.
#[derive(Clone, Debug)]
pub(crate) struct Span<T> {
    pub(crate) first: Index,
    pub(crate) last: Index,
    pub(crate) term: Term,
    /// The block that holds them. It may hold more on either side, overwritten or compacted: it is
    /// cut when it is read, not when the log changes.
    pub(crate) at: T,
}

/// The entries of a log, as readers see them.
#[derive(Debug)]
pub(crate) struct Spans<T> {
    compacted: LogId,
    /// In order of index, one directly behind the other.
    spans: VecDeque<Span<T>>,
}

impl<T: Clone> Spans<T> {
    pub(crate) fn new(compacted: LogId) -> Self {
        Self { compacted, spans: VecDeque::new() }
    }

    /// Applies one change; `at` says where an appended block is.
    pub(crate) fn apply(&mut self, op: &LogOp, at: impl FnOnce(&EntryBlock) -> T) {
        match op {
            LogOp::Identity(_) | LogOp::HardState(_) => {}
            LogOp::Append(block) => {
                let (first, last) = (block.first(), block.last());
                while self.spans.back().is_some_and(|span| span.first >= first) {
                    self.spans.pop_back();
                }
                if let Some(span) = self.spans.back_mut() {
                    span.last = span.last.min(first - 1);
                }
                let at = at(block);
                self.spans.push_back(Span { first, last: last.index, term: last.term, at });
            }
            LogOp::Compact { through } if through.index > self.compacted.index => {
                self.compacted = *through;
                while self.spans.front().is_some_and(|span| span.last <= through.index) {
                    self.spans.pop_front();
                }
                if let Some(span) = self.spans.front_mut() {
                    span.first = span.first.max(through.index + 1);
                }
            }
            LogOp::Compact { .. } => {}
            LogOp::Reset { to, .. } => {
                self.compacted = *to;
                self.spans.clear();
            }
        }
    }

    /// Where the oldest entry is.
    #[cfg(feature = "wal")]
    pub(crate) fn oldest(&self) -> Option<&T> {
        self.spans.front().map(|span| &span.at)
    }

    /// The spans that answer a read, cut to what was asked for: one, then as many as fit. None is
    /// cut to fit: what was appended as one block stays together.
    ///
    /// # Errors
    /// As [`crate::LogReader::read`].
    pub(crate) fn select(
        &self,
        after: LogId,
        through: Index,
        max_bytes: usize,
        bytes: impl Fn(&T) -> usize,
    ) -> Result<Vec<Span<T>>, LogReadError> {
        if after.index < self.compacted.index {
            return Err(LogReadError::Compacted { compacted: self.compacted });
        }
        // The first span with something behind `after`; the one that holds `after` is it or the
        // one before.
        let next = self.spans.partition_point(|span| span.last <= after.index);
        let term = if after.index == self.compacted.index {
            Some(self.compacted.term)
        } else {
            let holds = self.spans.partition_point(|span| span.last < after.index);
            self.spans.get(holds).map(|span| span.term)
        };
        if term != Some(after.term) {
            return Err(LogReadError::Superseded);
        }
        let mut found: Vec<Span<T>> = Vec::new();
        if through <= after.index {
            return Ok(found);
        }
        let mut total = 0usize;
        for span in self.spans.range(next..) {
            let size = bytes(&span.at);
            let full = !found.is_empty() && total.saturating_add(size) > max_bytes;
            if span.first > through || full {
                break;
            }
            total = total.saturating_add(size);
            let mut span = span.clone();
            span.first = span.first.max(after.index + 1);
            span.last = span.last.min(through);
            found.push(span);
        }
        if found.is_empty() { Err(LogReadError::Superseded) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_engine::{Batch, Membership};

    fn block(term: Term, first: Index, count: usize) -> EntryBlock {
        let mut batch = Batch::new(1);
        for _ in 0..count {
            batch.push(b"0123456789");
        }
        batch.seal(LogId::new(term, first))
    }

    fn membership() -> Membership {
        Membership::of_voters([(1, "a")]).unwrap()
    }

    fn configuration(id: LogId) -> LogOp {
        LogOp::Append(EntryBlock::configuration(id, &membership()))
    }

    fn reset(to: LogId, at: LogId) -> LogOp {
        LogOp::Reset { to, configuration: (at, membership()) }
    }

    fn state(ops: &[LogOp]) -> LogState {
        let mut state = LogState::default();
        let term9 = LogOp::HardState(HardState::new(9, None));
        for op in std::iter::once(&term9).chain(ops) {
            state.check(std::slice::from_ref(op)).unwrap();
            state.apply(op);
        }
        state
    }

    #[test]
    fn runs_follow_truncation_and_compaction() {
        let ops = [
            LogOp::Append(block(1, 1, 4)),
            LogOp::Append(block(2, 5, 4)),
            LogOp::Append(block(4, 7, 2)),
            LogOp::Compact { through: LogId::new(1, 2) },
        ];
        let s = state(&ops);
        let run = |first, term| TermRun { first, term };
        assert_eq!(s.now.runs, vec![run(3, 1), run(5, 2), run(7, 4)]);
        let s = state(&[&ops[..], &[LogOp::Compact { through: LogId::new(2, 6) }]].concat());
        assert_eq!(s.now.runs, vec![run(7, 4)]);
        let s = state(&[&ops[..], &[LogOp::Compact { through: LogId::new(4, 8) }]].concat());
        assert_eq!((s.now.runs, s.now.last), (vec![], LogId::new(4, 8)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let first = LogId::new(0, 1);
        let s = state(&[
            configuration(first),
            LogOp::Append(block(3, 2, 4)),
            LogOp::Compact { through: LogId::new(3, 3) },
        ]);
        let hard = |term, voted_for| LogOp::HardState(HardState::new(term, voted_for));
        let bad: Vec<Vec<LogOp>> = vec![
            vec![LogOp::Append(block(3, 7, 1))],
            vec![LogOp::Append(block(3, 3, 1))],
            vec![LogOp::Append(block(2, 6, 1))],
            vec![LogOp::Append(block(10, 6, 1))],
            vec![LogOp::Append(block(5, 5, 1)), LogOp::Append(block(4, 6, 1))],
            vec![LogOp::Compact { through: LogId::new(3, 6) }],
            vec![LogOp::Compact { through: LogId::new(2, 4) }],
            vec![reset(LogId::new(10, 50), first)],
            vec![reset(LogId::new(1, u64::MAX), first)],
            vec![reset(LogId::new(5, 50), LogId::new(5, 51))],
            vec![reset(LogId::new(5, 50), LogId::new(6, 40))],
            vec![LogOp::Reset {
                to: LogId::new(5, 50),
                configuration: (first, Membership::default()),
            }],
            vec![hard(8, None)],
            vec![hard(9, Some(1)), hard(9, Some(2))],
            vec![hard(9, Some(1)), hard(9, None)],
            vec![
                LogOp::HardState(HardState { witness: true, ..HardState::new(9, None) }),
                hard(10, None),
            ],
        ];
        for ops in bad {
            assert!(s.check(&ops).is_err(), "{ops:?}");
        }
        s.check(&[hard(10, Some(2)), LogOp::Append(block(10, 6, 1))]).unwrap();
        let to = LogId::new(5, 90);
        s.check(&[reset(to, first), LogOp::Append(block(5, 91, 1))]).unwrap();
    }

    #[test]
    fn the_configuration_in_force_outlives_its_entry() {
        let ids = |s: &LogState| s.now.configurations.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let [a, b, c] = [LogId::new(0, 1), LogId::new(1, 3), LogId::new(2, 6)];
        let ops = [
            configuration(a),
            LogOp::Append(block(1, 2, 1)),
            configuration(b),
            LogOp::Append(block(1, 4, 2)),
            configuration(c),
        ];
        let compacted = |through| state(&[&ops[..], &[LogOp::Compact { through }]].concat());
        assert_eq!(ids(&compacted(a)), [a, b, c]);
        assert_eq!(ids(&compacted(LogId::new(1, 2))), [a, b, c]);
        assert_eq!(ids(&compacted(b)), [b, c]);
        assert_eq!(ids(&compacted(c)), [c], "of several only the newest");
        // What is overwritten is no longer a configuration; what was compacted can't be overwritten.
        let mut s = compacted(b);
        s.apply(&LogOp::Append(block(3, 4, 1)));
        assert_eq!(ids(&s), [b]);
        s.apply(&reset(LogId::new(3, 90), LogId::new(3, 80)));
        assert_eq!(ids(&s), [LogId::new(3, 80)]);
    }

    /// The oldest segments are gone; what was in them was overwritten or compacted later on.
    #[test]
    fn missing_entries_are_missed_until_they_are_not_needed() {
        let hard_state = HardState::new(9, None);
        let now = Recovered {
            hard_state,
            compacted: LogId::new(1, 10),
            last: LogId::new(2, 20),
            ..Recovered::default()
        };
        let after = |ops: &[LogOp]| {
            let mut state = LogState { now: now.clone(), missing_through: 20 };
            for op in ops {
                state.check(std::slice::from_ref(op)).unwrap();
                state.apply(op);
            }
            state
        };
        let compact = |term, index| LogOp::Compact { through: LogId::new(term, index) };
        assert_eq!(after(&[LogOp::Append(block(3, 21, 1))]).missing_through, 20);
        assert_eq!(after(&[LogOp::Append(block(3, 15, 1))]).missing_through, 14);
        assert_eq!(after(&[LogOp::Append(block(3, 11, 1))]).missing_through, 0);
        assert_eq!(after(&[compact(1, 15)]).missing_through, 20);
        assert_eq!(after(&[compact(2, 20)]).missing_through, 0);
        let whole = after(&[LogOp::Append(block(3, 15, 4)), compact(1, 14)]);
        assert_eq!(whole.missing_through, 0);
        assert_eq!(whole.now.runs, vec![TermRun { first: 15, term: 3 }]);
        assert_eq!(after(&[reset(LogId::new(5, 12), LogId::ZERO)]).missing_through, 0);
    }
}
