//! Calls: what a client, a program that is no member, asks of a node over its connection, and how it
//! is answered.
//!
//! A call travels in an [`Envelope`](crate::Envelope) from node 0, which is nobody, as
//! [`Message::Call`](crate::Message); its answer comes back on the same connection as
//! [`Message::Called`](crate::Message), in whatever order answers are there, and the token says which
//! is which. A transport that serves clients hands each call to [`Inbound::call`](crate::Inbound)
//! together with an [`Answerer`].

use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{Index, LogId, Membership, NodeId, RoleKind, Term};

use crate::message::SessionWrite;

/// What a client asks of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The call, in the client's words; echoed in the answer.
    pub token: u64,
    /// How long the client will wait.
    pub timeout: Duration,
    /// What it asks for.
    pub kind: CallKind,
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallKind {
    /// Commands to be proposed as one contiguous run. Only a leader takes them.
    Write {
        /// Codec version of the commands.
        codec: u16,
        /// The commands.
        commands: Vec<Bytes>,
    },
    /// A session is to be opened.
    OpenSession,
    /// A write of a session. Only a leader takes it.
    WriteOnce {
        /// Which one, of which session.
        write: SessionWrite,
        /// Codec version of the command.
        codec: u16,
        /// The command.
        command: Bytes,
    },
    /// An index that covers every write acknowledged before the call, confirmed by the leader.
    ReadIndex,
    /// What the node knows of itself and of the others.
    Status,
    /// Something that only a newer release asks for, by its number on the wire.
    Unknown(u32),
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// Of the call.
    pub token: u64,
    /// What became of it.
    pub outcome: CallOutcome,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallOutcome {
    /// Applied: the encoded response of each command.
    Applied(Vec<Bytes>),
    /// The write of a session was applied before, by another attempt: the encoded response of then.
    Repeated(Bytes),
    /// The session that is open now.
    Opened(u64),
    /// There is no such session, or no more; this attempt did nothing.
    SessionExpired,
    /// The session has acknowledged this write already; this attempt did nothing.
    Acknowledged,
    /// Whoever has applied this much sees every write that was acknowledged before the call.
    ReadIndex(Index),
    /// The node, at this moment.
    Status(NodeStatus),
    /// Certainly not done: the node does not lead, or knows no leader to ask.
    NotLeader {
        /// The leader, as far as known.
        leader: Option<NodeId>,
        /// Where it is found, empty if that is not known.
        address: String,
    },
    /// Certainly not done: no room.
    Overloaded,
    /// Certainly not done: no leader took it, or confirmed it, in time.
    Timeout,
    /// Certainly not done: another leader's entries took the place.
    Overwritten,
    /// Certainly not done: the commands are larger than the node takes.
    TooLarge {
        /// Their size.
        bytes: u64,
        /// What the node takes.
        limit: u64,
    },
    /// Certainly not done: the node can't use it.
    Refused(String),
    /// Certainly not done: the group does not run here, not yet or not any more.
    Stopped,
    /// May have been done.
    Unknown,
}

/// A node, as it sees itself and the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node.
    pub id: NodeId,
    /// What it is.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// The last entry of its log.
    pub last: Index,
    /// The last entry it knows to be committed.
    pub committed: Index,
    /// The last entry its state machine has seen.
    pub applied: Index,
    /// Where the configuration in force stands in the log.
    pub configured_at: LogId,
    /// The configuration in force, `None` before there is one.
    pub membership: Option<Membership>,
}

/// The way back to the client of one call. Dropped without an answer it answers
/// [`CallOutcome::Unknown`], so no call is ever left without one.
pub struct Answerer {
    token: u64,
    to: Option<Box<dyn FnOnce(Called) + Send>>,
}

impl Answerer {
    /// For the call `token`, whose answer `to` is given. Made by transports; `to` must be quick and
    /// must not block: it is called on whatever task has the answer.
    pub fn new(token: u64, to: impl FnOnce(Called) + Send + 'static) -> Self {
        Self { token, to: Some(Box::new(to)) }
    }

    /// Answers the call.
    pub fn answer(mut self, outcome: CallOutcome) {
        self.give(outcome);
    }

    fn give(&mut self, outcome: CallOutcome) {
        if let Some(to) = self.to.take() {
            to(Called { token: self.token, outcome });
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.give(CallOutcome::Unknown);
    }
}

impl std::fmt::Debug for Answerer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answerer").field("token", &self.token).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn every_call_is_answered_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let answerer = |token| {
            let told = told.clone();
            Answerer::new(token, move |called| told.lock().unwrap().push(called))
        };
        answerer(1).answer(CallOutcome::ReadIndex(5));
        drop(answerer(2));
        let expected = [
            Called { token: 1, outcome: CallOutcome::ReadIndex(5) },
            Called { token: 2, outcome: CallOutcome::Unknown },
        ];
        assert_eq!(*told.lock().unwrap(), expected);
    }
}
