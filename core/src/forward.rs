//! Writes between nodes: what this node passes on to the leader, and what others pass on to it.
//!
//! A forwarded write is sent once. If the leader says that it certainly did not take it, it waits
//! for a leader again, and what is sent then is another attempt with another number, so that a late
//! copy of the first answer says nothing about the second. If nothing is heard, the outcome is
//! unknown. On the receiving side each message counts once (sequence numbers, per sender and boot)
//! and only in the term it was meant for, so that a copy that the network makes is never applied as
//! a second write.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{Instant, NodeId, Term};
use quorate_network::{Forward, ForwardOutcome, ForwardWrite};

use crate::error::WriteError;
use crate::pending::Who;

/// One caller's commands before they are in a log.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) who: Who,
    pub(crate) commands: Commands,
    pub(crate) deadline: Instant,
    /// What it takes of the node's queue quota.
    pub(crate) cost: usize,
}

/// One command without an allocation, or a run of them.
#[derive(Clone, Debug)]
pub(crate) enum Commands {
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Commands {
    pub(crate) fn as_slice(&self) -> &[Bytes] {
        match self {
            Commands::One(command) => std::slice::from_ref(command),
            Commands::Many(commands) => commands,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.as_slice().iter().map(Bytes::len).sum()
    }
}

/// Both directions.
#[derive(Debug)]
pub(crate) struct Forwarding {
    /// Of this process: answers to an earlier one are not for us.
    pub(crate) boot: u64,
    sequence: u64,
    attempts: u64,
    /// Out at a leader, by the number of the attempt.
    out: BTreeMap<u64, (NodeId, Write)>,
    /// The last sequence number taken from each (sender, boot), in the term in which this node led
    /// last, `seen_term`.
    seen: BTreeMap<(NodeId, u64), u64>,
    seen_term: Term,
}

impl Forwarding {
    pub(crate) fn new(boot: u64) -> Self {
        Self { boot, sequence: 0, attempts: 0, out: BTreeMap::new(), seen: BTreeMap::new(), seen_term: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The message that carries `writes` to the leader of `term`.
    pub(crate) fn message(
        &mut self,
        term: Term,
        codec: u16,
        timeout: Duration,
        writes: &[Write],
    ) -> Forward {
        self.sequence += 1;
        let writes = (self.attempts + 1..)
            .zip(writes)
            .map(|(token, write)| ForwardWrite {
                token,
                commands: write.commands.as_slice().to_vec(),
            })
            .collect();
        Forward { term, boot: self.boot, sequence: self.sequence, timeout, codec, writes }
    }

    /// The last message was handed to the lane of `leader`: its writes are out.
    pub(crate) fn sent(&mut self, leader: NodeId, writes: Vec<Write>) {
        for write in writes {
            self.attempts += 1;
            self.out.insert(self.attempts, (leader, write));
        }
    }

    /// Takes the write of an attempt that `from` has answered.
    pub(crate) fn answered(&mut self, from: NodeId, attempt: u64) -> Option<Write> {
        match self.out.get(&attempt) {
            Some((leader, _)) if *leader == from => self.out.remove(&attempt).map(|(_, w)| w),
            _ => None,
        }
    }

    /// Takes every write for which `gone` holds.
    pub(crate) fn take(&mut self, gone: impl Fn(NodeId, &Write) -> bool) -> Vec<Write> {
        let mut taken = Vec::new();
        self.out.retain(|_, (leader, write)| {
            let gone = gone(*leader, write);
            if gone {
                taken.push(write.clone());
            }
            !gone
        });
        taken
    }

    /// Another leader than `leader` is at work: what is out elsewhere may still be answered by the
    /// old one, but not for long.
    pub(crate) fn hurry(&mut self, leader: NodeId, until: Instant) {
        for (at, write) in self.out.values_mut() {
            if *at != leader {
                write.deadline = write.deadline.min(until);
            }
        }
    }

    /// Whether a message from (`from`, `boot`) is new in `term`, in which this node leads; each is
    /// taken once.
    pub(crate) fn is_new(&mut self, term: Term, from: NodeId, boot: u64, sequence: u64) -> bool {
        if term != self.seen_term {
            self.seen_term = term;
            self.seen.clear();
        }
        let last = self.seen.entry((from, boot)).or_insert(0);
        let new = sequence > *last;
        *last = (*last).max(sequence);
        new
    }
}

/// What a caller on another node is told.
pub(crate) fn outcome_of(error: &WriteError) -> ForwardOutcome {
    match error {
        WriteError::NotLeader { leader } => ForwardOutcome::NotLeader(*leader),
        WriteError::Overloaded => ForwardOutcome::Overloaded,
        WriteError::Overwritten => ForwardOutcome::Overwritten,
        WriteError::TooLarge { .. } | WriteError::Refused(_) => {
            ForwardOutcome::Refused(error.to_string())
        }
        WriteError::Timeout | WriteError::Stopped => ForwardOutcome::NotLeader(None),
        WriteError::Unknown | WriteError::Response(_) => ForwardOutcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_an_answer_says_nothing_about_the_next_attempt() {
        let mut f = Forwarding::new(7);
        let write = Write {
            who: Who::Local(9),
            commands: Commands::One(Bytes::new()),
            deadline: Instant::ORIGIN,
            cost: 0,
        };
        let first = f.message(3, 0, Duration::ZERO, std::slice::from_ref(&write)).writes[0].token;
        f.sent(2, vec![write]);
        assert!(f.answered(1, first).is_none(), "only the leader it went to answers");
        let write = f.answered(2, first).unwrap();
        let second = f.message(4, 0, Duration::ZERO, std::slice::from_ref(&write)).writes[0].token;
        f.sent(2, vec![write]);
        assert!(f.answered(2, first).is_none());
        assert!(f.answered(2, second).is_some());
    }

    #[test]
    fn a_copy_of_a_message_is_not_taken_twice() {
        let mut f = Forwarding::new(7);
        assert!(f.is_new(3, 2, 70, 1));
        assert!(!f.is_new(3, 2, 70, 1));
        assert!(f.is_new(3, 2, 70, 3));
        assert!(!f.is_new(3, 2, 70, 2), "late is lost");
        assert!(f.is_new(3, 2, 71, 1), "another boot counts anew");
        assert!(!f.is_new(3, 2, 70, 3), "and does not make the old one new");
    }
}
