//! The leader's lease, where handles can see it: a read that relies on it asks nobody, not even the node.
//!
//! Invariant: before anything that follows from a step of the engine is done, said or answered, the lease
//! is here as the engine has it after that step. So a handover, which begins when the successor is told,
//! finds the lease given up; and no read index that anybody was given is newer than the one here.
//!
//! A handle looks at the lease first and at its clock then. If the lease was valid at that moment, no
//! other leader had acknowledged anything when the call began, and what this one had acknowledged is
//! applied here: the apply worker shows what it has applied before it answers.

use std::sync::atomic::{AtomicU64, Ordering};

use quorate_engine::{Index, Instant, planted};

/// The newest lease of a node.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// In nanoseconds of the node's clock; 0 if it holds none.
    until: AtomicU64,
    /// What was committed. Never goes back, so one that is newer than `until` does no harm.
    committed: AtomicU64,
}

impl Lease {
    /// Called by the node task alone, after each step.
    pub(crate) fn publish(&self, until: Option<Instant>, committed: Index) {
        let until = until.map_or(0, Instant::as_nanos);
        if until > 0 {
            self.committed.store(committed, Ordering::Release);
        }
        // For those who don't lead, nearly always, the line of memory stays with all who have it.
        if self.until.load(Ordering::Relaxed) != until {
            self.until.store(until, Ordering::Release);
        }
    }

    /// What has to be applied before a read may look at the state, if there is a lease `now`, which is
    /// asked for after the lease was looked at.
    pub(crate) fn read_index(&self, now: impl FnOnce() -> Instant) -> Option<Index> {
        let until = self.until.load(Ordering::Acquire);
        let committed = self.committed.load(Ordering::Acquire);
        let holds =
            until > 0 && (now().as_nanos() < until || planted::on("shown-lease-never-ends"));
        holds.then_some(committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_by_the_clock_and_by_the_node() {
        let at = |millis| move || Instant::from_millis(millis);
        let lease = Lease::default();
        assert_eq!(lease.read_index(at(0)), None);
        lease.publish(Some(Instant::from_millis(10)), 7);
        assert_eq!(lease.read_index(at(9)), Some(7));
        assert_eq!(lease.read_index(at(10)), None);
        lease.publish(Some(Instant::MAX), 8);
        assert_eq!(lease.read_index(at(10)), Some(8), "of a node that is alone");
        lease.publish(None, 9);
        assert_eq!(lease.read_index(at(10)), None);
    }
}
