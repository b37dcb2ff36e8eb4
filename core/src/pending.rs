//! Writes that are in this node's log and wait for their commit.
//!
//! An entry that is overwritten here is not certainly lost: while the entry that took its place is
//! not committed, another node that still has the old one may be elected and commit it after all
//! (paper Figure 8). So a write stays pending until something is *applied* at its index, or until
//! its deadline.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use quorate_engine::{Index, Instant, LogId, NodeId, Term, planted};

use crate::callers::Token;

/// Who gets the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A caller on this node.
    Local(Token),
    /// A client, connected to this node. It finds the leader by itself, so nothing of it is passed on.
    Client(Token),
    /// A caller on another node.
    Remote { node: NodeId, boot: u64, token: Token },
}

/// One caller's commands in the log: `count` entries from `first` on.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) first: LogId,
    pub(crate) count: u32,
    /// Whether the caller expects a list of responses, also for one command.
    pub(crate) many: bool,
    /// `None` once the caller was answered at its deadline.
    pub(crate) who: Option<Who>,
    pub(crate) deadline: Instant,
}

/// Shared by the node, which adds and expires, and by the apply worker, which takes.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// Of the term in which this node led last, in log order.
    current: VecDeque<Origin>,
    /// Of earlier terms: whatever is applied at their index decides.
    doubtful: BTreeMap<(Index, Term), Origin>,
    /// The caller of the run of which the worker has applied a part, while it fetches or applies
    /// the rest: it has a deadline all the same.
    pub(crate) open: Option<(Who, Instant)>,
}

impl Pending {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A new leadership begins: earlier writes are no longer in order with what comes.
    pub(crate) fn begin_term(&self) {
        let mut inner = self.lock();
        let old = std::mem::take(&mut inner.current);
        inner.doubtful.extend(old.into_iter().map(|o| ((o.first.index, o.first.term), o)));
    }

    pub(crate) fn extend(&self, origins: impl IntoIterator<Item = Origin>) {
        self.lock().current.extend(origins);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes the callers whose deadline has come; their writes go on without them.
    pub(crate) fn expire(&self, now: Instant, expired: &mut Vec<Who>) {
        let mut inner = self.lock();
        let Inner { current, doubtful, open } = &mut *inner;
        for origin in current.iter_mut().chain(doubtful.values_mut()) {
            if origin.deadline <= now {
                expired.extend(origin.who.take());
            }
        }
        // Nobody asks for them any more, and they would stay as long as nothing is applied.
        current.retain(|origin| origin.who.is_some());
        doubtful.retain(|_, origin| origin.who.is_some());
        if let Some((who, _)) = open.take_if(|(_, deadline)| *deadline <= now) {
            expired.push(who);
        }
    }

    /// Takes the callers of everything through `index`, which came by a snapshot: it does not say
    /// which entries it was made of.
    pub(crate) fn take_through(&self, index: Index) -> Vec<Who> {
        let mut inner = self.lock();
        let mut taken = Vec::new();
        let covered = inner.current.partition_point(|origin| origin.first.index <= index);
        taken.extend(inner.current.drain(..covered).filter_map(|origin| origin.who));
        let later = inner.doubtful.split_off(&(index + 1, 0));
        let doubtful = std::mem::replace(&mut inner.doubtful, later);
        taken.extend(doubtful.into_values().filter_map(|origin| origin.who));
        taken.extend(inner.open.take().map(|(who, _)| who));
        taken
    }

    /// Takes every caller: the node stops.
    pub(crate) fn take_all(&self) -> Vec<Who> {
        let inner = std::mem::take(&mut *self.lock());
        let doubtful = inner.doubtful.into_values();
        let waiting = inner.current.into_iter().chain(doubtful).filter_map(|origin| origin.who);
        waiting.chain(inner.open.map(|(who, _)| who)).collect()
    }
}

impl Inner {
    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.current.is_empty() && self.doubtful.is_empty() && self.open.is_none()
    }

    /// Takes the origin whose first entry is `id`, and into `overwritten` those that `id`, being
    /// applied, proves to be lost.
    #[inline]
    pub(crate) fn at(&mut self, id: LogId, overwritten: &mut Vec<Who>) -> Option<Origin> {
        while let Some(front) = self.current.front() {
            if front.first.index > id.index {
                break;
            }
            let front = self.current.pop_front().expect("there is a front");
            if is_answered(front.first, id) {
                return Some(front);
            }
            overwritten.extend(front.who);
        }
        if self.doubtful.is_empty() {
            return None;
        }
        let mut found = None;
        while let Some(first) = self.doubtful.first_entry() {
            if first.key().0 > id.index {
                break;
            }
            let origin = first.remove();
            if is_answered(origin.first, id) {
                found = Some(origin);
            } else {
                overwritten.extend(origin.who);
            }
        }
        found
    }
}

/// Whether what was proposed as `proposed` is what is applied as `applied`: not if another leader
/// has put something else into its place.
fn is_answered(proposed: LogId, applied: LogId) -> bool {
    let any_term = planted::on("success-though-overwritten");
    proposed == applied || (any_term && proposed.index == applied.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(term: u64, index: u64, token: u64) -> Origin {
        Origin {
            first: LogId::new(term, index),
            count: 1,
            many: false,
            who: Some(Who::Local(token)),
            deadline: Instant::from_millis(token),
        }
    }

    #[test]
    fn only_what_is_applied_decides() {
        let pending = Pending::default();
        pending.extend([origin(1, 5, 1), origin(1, 6, 2), origin(1, 7, 3)]);
        // Deposed, overwritten, leader again: new writes at the same indexes.
        pending.begin_term();
        pending.extend([origin(3, 6, 4)]);
        let mut lost = vec![];
        assert_eq!(
            pending.lock().at(LogId::new(1, 5), &mut lost).unwrap().who,
            Some(Who::Local(1))
        );
        assert_eq!(lost, []);
        let found = pending.lock().at(LogId::new(3, 6), &mut lost).unwrap();
        assert_eq!(found.who, Some(Who::Local(4)));
        assert!(pending.lock().at(LogId::new(3, 7), &mut lost).is_none());
        assert_eq!(lost, [Who::Local(2), Who::Local(3)]);
        assert!(pending.is_empty());
    }

    #[test]
    fn deadlines_take_the_caller_not_the_write() {
        let pending = Pending::default();
        pending.extend([origin(1, 5, 10), origin(1, 6, 20)]);
        let mut expired = vec![];
        pending.expire(Instant::from_millis(10), &mut expired);
        assert_eq!(expired, [Who::Local(10)]);
        let mut lost = vec![];
        assert!(pending.lock().at(LogId::new(1, 5), &mut lost).is_none());
        assert_eq!(lost, []);
        assert_eq!(pending.take_all(), [Who::Local(20)]);
    }
}
