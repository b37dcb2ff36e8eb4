//! Writes between nodes: what this node passes on to the leader, and what others pass on to it.
//!
//! A forwarded write is sent once. If the leader says that it certainly did not take it, it waits
//! for a leader again, and what is sent then is another attempt with another number, so that a late
//! copy of the first answer says nothing about the second. If nothing is heard, the outcome is
//! unknown.
//!
//! On the receiving side each message counts once, for a "no" as for a "yes": the sender proposes a
//! write that was turned down again, so a copy of a message that was taken must not be turned down
//! later, when this node leads no more. Two rules make it so, whatever the network repeats, delays
//! or reorders. A message is taken or turned down only if its number is higher than every number of
//! its sender and boot before it, in whatever term. And only if its term began in this process's
//! life: what an earlier life took is not known any more, so a copy of it is left without an
//! answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::block::ENTRY_OVERHEAD_BYTES;
use quorate_engine::{Instant, NodeId, Term, planted};
use quorate_network::{Forward, ForwardOutcome, ForwardWrite, SessionRequest};

use crate::error::WriteError;
use crate::pending::Who;

/// One caller's commands before they are in a log.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) who: Who,
    pub(crate) commands: Commands,
    /// When it was queued here, or the oldest of those taken together with it.
    pub(crate) asked_at: Instant,
    pub(crate) deadline: Instant,
}

impl Write {
    /// What it takes of the node's queue quota, if it comes from here.
    pub(crate) fn cost(&self) -> usize {
        match self.who {
            Who::Local(_) | Who::Client(_) => self.commands.cost(),
            Who::Remote { .. } => 0,
        }
    }
}

/// One command without an allocation, or a run of them.
#[derive(Clone, Debug)]
pub(crate) enum Commands {
    One(Bytes),
    Many(Vec<Bytes>),
    /// One of a session; none, an empty one, if a session is to be opened.
    /// Boxed, so that a request fits a cache line.
    Session(Box<(SessionRequest, Bytes)>),
}

impl Commands {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[Bytes] {
        match self {
            Commands::One(command) => std::slice::from_ref(command),
            Commands::Many(commands) => commands,
            Commands::Session(write) => std::slice::from_ref(&write.1),
        }
    }

    /// As they are passed on to the leader.
    fn forwarded(&self, token: u64) -> ForwardWrite {
        let (commands, session) = match self {
            Commands::One(command) => (vec![command.clone()], None),
            Commands::Many(commands) => (commands.clone(), None),
            Commands::Session(write) => match &**write {
                (SessionRequest::Open, _) => (vec![], Some(SessionRequest::Open)),
                (request, command) => (vec![command.clone()], Some(*request)),
            },
        };
        ForwardWrite { token, commands, session }
    }

    pub(crate) fn session(request: SessionRequest, command: Bytes) -> Self {
        Commands::Session(Box::new((request, command)))
    }

    /// See [`run_bytes`].
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        run_bytes(self.as_slice())
    }

    /// What they take of the quota for what waits.
    #[inline]
    pub(crate) fn cost(&self) -> usize {
        self.bytes() + REQUEST_BYTES * self.as_slice().len()
    }

    /// Counts their cost in `queued`, of which there may be `quota`, and returns it.
    ///
    /// # Errors
    /// If they are over `limit`, or there is no room: nothing is counted then.
    #[inline]
    pub(crate) fn admit(
        &self,
        limit: usize,
        queued: &AtomicUsize,
        quota: usize,
    ) -> Result<usize, WriteError> {
        let bytes = self.bytes();
        if bytes > limit {
            return Err(WriteError::TooLarge { bytes, limit });
        }
        let cost = self.cost();
        if queued.fetch_add(cost, Ordering::Relaxed) + cost > quota {
            queued.fetch_sub(cost, Ordering::Relaxed);
            return Err(WriteError::Overloaded);
        }
        Ok(cost)
    }
}

/// What a request costs besides its bytes.
pub(crate) const REQUEST_BYTES: usize = 64;

/// What a caller's commands count against the limit: their bytes, and from the second on what an
/// entry takes besides, so that a run of a million empty commands is not free.
#[inline]
pub(crate) fn run_bytes(commands: &[Bytes]) -> usize {
    let payload: usize = commands.iter().map(Bytes::len).sum();
    payload + commands.len().saturating_sub(1) * ENTRY_OVERHEAD_BYTES
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
    /// The last sequence number of each boot of each sender, the newest boots last.
    seen: BTreeMap<NodeId, VecDeque<(u64, u64)>>,
    /// The term at the start: messages of it or an earlier one may be copies of what was taken by
    /// an earlier life.
    born_in: Term,
}

/// Boots of one sender that are remembered. Connections end with the process that made them, so a
/// copy from further back would have outlived as many restarts of its sender.
const BOOTS: usize = 64;

impl Forwarding {
    /// Of a process that starts in the term `born_in`.
    pub(crate) fn new(boot: u64, born_in: Term) -> Self {
        let (out, seen) = (BTreeMap::new(), BTreeMap::new());
        Self { boot, sequence: 0, attempts: 0, out, seen, born_in }
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
            .map(|(token, write)| write.commands.forwarded(token))
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

    /// Whether a message is the first of its number, so that it may be taken or turned down.
    ///
    /// `from` is a member: others are not listened to, so that there is an end to them.
    pub(crate) fn is_new(&mut self, term: Term, from: NodeId, boot: u64, sequence: u64) -> bool {
        if term <= self.born_in {
            return false;
        }
        let boots = self.seen.entry(from).or_default();
        let Some((_, last)) = boots.iter_mut().find(|(of, _)| *of == boot) else {
            boots.push_back((boot, sequence));
            if boots.len() > BOOTS {
                boots.pop_front();
            }
            return true;
        };
        let new = sequence > *last;
        *last = (*last).max(sequence);
        new || planted::on("forwarded-write-taken-twice")
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
        WriteError::SessionExpired => ForwardOutcome::SessionExpired,
        WriteError::Acknowledged => ForwardOutcome::Acknowledged,
        WriteError::Unknown | WriteError::Response(_) => ForwardOutcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_an_answer_says_nothing_about_the_next_attempt() {
        let mut f = Forwarding::new(7, 0);
        let write = Write {
            who: Who::Local(9),
            commands: Commands::One(Bytes::new()),
            asked_at: Instant::ORIGIN,
            deadline: Instant::ORIGIN,
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
        let mut f = Forwarding::new(7, 0);
        assert!(f.is_new(3, 2, 70, 1));
        assert!(!f.is_new(3, 2, 70, 1));
        assert!(f.is_new(3, 2, 70, 3));
        assert!(!f.is_new(3, 2, 70, 2), "late is lost");
        assert!(f.is_new(3, 2, 71, 1), "another boot counts anew");
        assert!(!f.is_new(3, 2, 70, 3), "and does not make the old one new");
    }

    #[test]
    fn a_message_of_another_term_does_not_make_a_copy_new() {
        let mut f = Forwarding::new(7, 2);
        assert!(f.is_new(5, 2, 70, 2));
        assert!(!f.is_new(4, 2, 70, 1), "a late one of an earlier term");
        assert!(!f.is_new(5, 2, 70, 2), "a copy of what was taken");
        assert!(f.is_new(6, 2, 70, 3));
        assert!(!f.is_new(5, 2, 70, 2), "a copy after the term has ended gets no refusal either");
        assert!(!f.is_new(2, 2, 70, 4), "an earlier life may have taken this one");
    }

    #[test]
    fn boots_are_remembered_up_to_a_bound() {
        let mut f = Forwarding::new(7, 0);
        for boot in 0..10 * BOOTS as u64 {
            assert!(f.is_new(1, 2, boot, 1));
            assert!(!f.is_new(1, 2, boot, 1));
        }
        assert_eq!(f.seen[&2].len(), BOOTS);
    }
}
