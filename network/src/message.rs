//! What travels between hosts, and the trait that carries it.

use std::sync::Arc;
use std::time::Duration;

use anyerror::AnyError;
use async_trait::async_trait;
use bytes::Bytes;
use quorate_engine::{GroupId, Index, LogId, Membership, NodeId, Term};

use crate::call::{Answerer, Call, CallOutcome, Called};

/// Carries messages to other nodes; implemented once per transport.
///
/// One way only: an answer is a message of its own, sent by the other side through its own
/// network. What arrives is handed to [`Inbound::receive`]. Over HTTP that is one POST out and one
/// route in.
#[async_trait]
pub trait RaftNetwork: Send + Sync + 'static {
    /// Sends `messages` to `to`, in order, and returns when the next may be sent: written to a
    /// socket, say, not received.
    ///
    /// Called for each (peer, lane), one call at a time, so order within a lane is kept by waiting
    /// for the previous send. If the messages are small together it is polled in one task with the
    /// node: it may wait as long as it has to, but must not block its thread. Messages may be lost,
    /// also after `Ok`, and may arrive twice; they are never altered. A lane must not wait for
    /// another lane of the same peer. A dropped future may lose its messages, never half of one.
    ///
    /// # Errors
    /// The peer can't be reached now. The messages count as lost; the caller pauses for a moment
    /// and goes on with newer ones.
    async fn send(
        &self,
        to: &Peer,
        lane: Lane,
        messages: Vec<Envelope>,
    ) -> Result<(), NetworkError>;
}

/// The receiving side: implemented by the host, called by transports.
pub trait Inbound: Send + Sync + 'static {
    /// What this host says of itself when it opens a connection to `to`, or answers one.
    fn hello(&self, to: NodeId) -> Hello;

    /// Whether to talk to who says `hello`. Called by transports with connections, once for each.
    ///
    /// # Errors
    /// Why not, in words for the other side's operator.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;

    /// Takes messages that arrived, in order. Synchronous and quick: it queues, or drops where the
    /// queue is full (the network may lose messages), and never blocks. Whatever the messages say,
    /// it does not panic.
    fn receive(&self, messages: Vec<Envelope>);

    /// Takes a call of a client for a group of this host. Called by transports that serve clients, on
    /// the task of the client's connection, once for each call, in the order in which they came.
    /// Synchronous and quick, like [`Inbound::receive`]; the answer may be given at any time, from any
    /// task. A host that serves no clients keeps this default, which refuses.
    fn call(&self, group: GroupId, call: Call, answer: Answerer) {
        let _ = (group, call);
        answer.answer(CallOutcome::Refused("this host serves no clients".into()));
    }
}

/// A member, as the network sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Its address from the membership, in the network's own notation.
    pub address: String,
}

/// What a message may wait behind. Each lane of a peer is a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, acknowledgements, reads: small, never behind anything large.
    Control,
    /// Entries on their way to a follower.
    Entries,
    /// Writes forwarded to the leader, and their answers.
    Clients,
    /// Parts of snapshots: large, and in nobody's way.
    Snapshot,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Lane; 4] = [Lane::Control, Lane::Entries, Lane::Clients, Lane::Snapshot];
}

/// A message with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The cluster of the sender, 0 if it belongs to none yet.
    pub cluster: u64,
    /// The group.
    pub group: GroupId,
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The incarnation of the sender's data directory.
    pub incarnation: u64,
    /// The message.
    pub message: Message,
}

/// Anything one node says to another, or to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// The protocol itself.
    Raft(quorate_engine::Message),
    /// Writes for the leader.
    Forward(Forward),
    /// What became of forwarded writes.
    Forwarded(Forwarded),
    /// Something an operator wants of the leader.
    Order(Order),
    /// What became of it, or how far it is.
    Ordered(Ordered),
    /// What the sender's state is.
    Digest(Digest),
    /// What a client asks; only on the connection of one.
    Call(Call),
    /// What it is told; only there.
    Called(Called),
}

/// The digest of a replica's state, for the others to compare with their own. May be lost: others follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The last entry that the state has seen.
    pub at: LogId,
    /// The digest of its state machine, with that of its sessions mixed in.
    pub digest: u64,
}

/// What an operator wants of the leader, passed on by the node that was asked. May be sent again: an
/// order says what is to be, so that a second one of the same changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Drawn when the sender's process started: tokens of an earlier life mean nothing.
    pub boot: u64,
    /// The order, in the sender's words; echoed in the answers.
    pub token: u64,
    /// How long the sender will wait.
    pub timeout: Duration,
    /// Whether this may have been done already by an earlier message.
    pub again: bool,
    /// The entry of the configuration that the operator has seen, if no other will do.
    pub expected: Option<LogId>,
    /// What is wanted.
    pub kind: OrderKind,
}

/// What is wanted of a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OrderKind {
    /// A member that receives the log and does not vote; `witness` if it is to become one.
    AddLearner {
        /// The new member.
        id: NodeId,
        /// Where it is.
        address: String,
        /// Whether it will keep no commands.
        witness: bool,
    },
    /// A learner becomes a voter, once it has caught up.
    Promote {
        /// The learner.
        id: NodeId,
    },
    /// A voter becomes a learner.
    Demote {
        /// The voter.
        id: NodeId,
    },
    /// A member leaves.
    Remove {
        /// Who.
        id: NodeId,
    },
    /// A learner becomes a voter, once it has caught up, and in the same step another member leaves.
    Swap {
        /// Who leaves.
        id: NodeId,
        /// The learner.
        with: NodeId,
    },
    /// These members are the voters; voters that are not named become learners.
    SetVoters {
        /// Which.
        voters: Vec<NodeId>,
    },
    /// A member is found elsewhere.
    SetAddress {
        /// The member.
        id: NodeId,
        /// Where it is now.
        address: String,
    },
    /// Another node leads.
    Transfer {
        /// Who; `None` for the one that is best prepared.
        to: Option<NodeId>,
    },
}

/// The answer to an [`Order`]; [`OrderOutcome::Waiting`] is followed by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// Of the order.
    pub boot: u64,
    /// Of the order.
    pub token: u64,
    /// What became of it.
    pub outcome: OrderOutcome,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OrderOutcome {
    /// It waits, for a learner to catch up say: the learner has this much of the log.
    Waiting {
        /// The last entry that the learner has.
        matched: Index,
        /// The last entry of the leader.
        last: Index,
    },
    /// It is done, and committed: this is the membership now.
    Done {
        /// The configuration in force.
        membership: Membership,
        /// Its entry.
        at: LogId,
    },
    /// This node leads now.
    Leads(NodeId),
    /// The receiver does not lead, or no more. It may know who does.
    NotLeader(Option<NodeId>),
    /// Another change is under way; nothing was done.
    InProgress,
    /// Another configuration than the expected one is in force; nothing was done.
    Changed,
    /// No member has this id; nothing was done.
    UnknownMember(NodeId),
    /// It was not there in time: the learner is still behind, or the target did not take over.
    TimedOut,
    /// What is wanted makes no sense; nothing was done.
    Refused(String),
}

/// Writes that a node passes on to the leader. One hop; never sent a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The term in which the sender knows the receiver as the leader; in any other the receiver
    /// refuses, so that a late copy can't be applied.
    pub term: Term,
    /// Drawn when the sender's process started: tokens of an earlier life mean nothing.
    pub boot: u64,
    /// Grows with each message of a boot. The receiver takes each number once.
    pub sequence: u64,
    /// How long the sender will wait.
    pub timeout: Duration,
    /// Codec version of the commands.
    pub codec: u16,
    /// One group of commands per caller.
    pub writes: Vec<ForwardWrite>,
}

/// One caller's commands: proposed as one contiguous run, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardWrite {
    /// The caller, in the sender's words; echoed in the answer.
    pub token: u64,
    /// The commands; one if it is a write of a session, none if a session is to be opened.
    pub commands: Vec<Bytes>,
    /// What it has to do with sessions, if anything.
    pub session: Option<SessionRequest>,
}

/// What a write has to do with sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRequest {
    /// A session is to be opened.
    Open,
    /// It is a write of one.
    Write(SessionWrite),
}

/// Which write of which session a command is, so that it is applied once, however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionWrite {
    /// The session.
    pub session: u64,
    /// The write's number in the session; the first has 1. Another attempt has the same number and the
    /// same command.
    pub sequence: u64,
    /// The client needs no response to this write and those before it any more, and will not send them
    /// again; 0 for none. Counts only up to the write before this one.
    pub acknowledged: u64,
}

/// Answers to forwarded writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The boot of the [`Forward`].
    pub boot: u64,
    /// One answer per caller.
    pub answers: Vec<ForwardAnswer>,
}

/// What became of one caller's commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAnswer {
    /// The token of the [`ForwardWrite`].
    pub token: u64,
    /// The outcome.
    pub outcome: ForwardOutcome,
}

/// The outcome of a forwarded write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardOutcome {
    /// Applied; one encoded response per command.
    Applied(Vec<Bytes>),
    /// Certainly not done: the receiver does not lead. It may know who does.
    NotLeader(Option<NodeId>),
    /// Certainly not done: the receiver has no room.
    Overloaded,
    /// Certainly not done: another leader's entries took the place.
    Overwritten,
    /// Certainly not done: the receiver can't use the command.
    Refused(String),
    /// Applied before, as the same write of its session: the response of then.
    Repeated(Bytes),
    /// The session with this number is open.
    Opened(u64),
    /// This attempt did nothing: there is no such session, or no more.
    SessionExpired,
    /// This attempt did nothing: the session has acknowledged this write, so its response is gone.
    Acknowledged,
    /// May have been done.
    Unknown,
}

/// The first thing both sides of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lowest protocol version the speaker understands.
    pub min_version: u32,
    /// The highest.
    pub max_version: u32,
    /// The cluster's name, as configured.
    pub cluster_name: String,
    /// The cluster's id, 0 while unknown.
    pub cluster: u64,
    /// The speaker.
    pub from: NodeId,
    /// Whom it expects at the other end.
    pub to: NodeId,
    /// The speaker's incarnation.
    pub incarnation: u64,
    /// Where others find the speaker, empty if it does not say. A node that has joined no cluster
    /// yet has no membership to look its first leader's address up in.
    pub address: String,
}

/// The protocol versions this build speaks, lowest and highest.
pub const PROTOCOL_VERSIONS: (u32, u32) = (1, 1);

/// Why a connection was refused, for the other side's operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Why messages could not be sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Nobody there, or the connection broke.
    #[error("node {peer} can't be reached: {cause}")]
    Unreachable {
        /// Whom it was for.
        peer: NodeId,
        /// What the transport says.
        cause: AnyError,
    },
    /// The other side answered and refused.
    #[error("node {peer} refuses this node: {reason}")]
    Refused {
        /// Who refuses.
        peer: NodeId,
        /// Its words.
        reason: String,
    },
    /// A message larger than the transport carries.
    #[error("a message of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// The message.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// A shared network.
pub type SharedNetwork = Arc<dyn RaftNetwork>;
