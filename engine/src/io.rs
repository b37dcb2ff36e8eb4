//! What goes into the engine and what comes out: the whole of its contact with the world.
//!
//! Both are closed enums with a one-line `Display`, the form of the golden traces.

use std::fmt;
use std::time::Duration;

use crate::block::{Batch, EntryBlock};
use crate::membership::Membership;
use crate::message::{InstallSnapshot, Message, SnapshotProgress};
use crate::reads::ReadMode;
use crate::types::{HardState, Index, Instant, LogId, NodeId, Term};

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// The deadline of [`Engine::deadline`](crate::Engine::deadline) may have come.
    Wake,
    /// A message arrived.
    Receive {
        /// The sender, as its envelope says.
        from: NodeId,
        /// The incarnation of the sender's data directory.
        incarnation: u64,
        /// The message.
        message: Message,
    },
    /// Clients want these commands in the log. Answered by [`Output::Proposed`] or
    /// [`Output::Declined`] in the same step.
    Propose {
        /// The commands, in order.
        batch: Batch,
    },
    /// Begin a new group with this membership. Answered by [`Output::Declined`] if the node has a
    /// log already, or could not lead the group.
    Initialize {
        /// The first configuration.
        membership: Membership,
    },
    /// An operator wants another membership. Answered in the same step by [`Output::Changing`] or
    /// [`Output::Declined`]; over when a configuration that is not joint is in force and committed.
    ChangeMembership {
        /// The membership at the end, not joint. Members that are known stay tied to the directories
        /// they are known with, whatever it says.
        to: Membership,
        /// The entry of the configuration that the operator has seen: if another is in force, the
        /// change is declined.
        expected: Option<LogId>,
    },
    /// An operator wants another leader. Answered in the same step by [`Output::Declined`], or not
    /// at all: then it ends with this node losing the leadership, or with
    /// [`Output::TransferEnded`].
    Transfer {
        /// Whom; or the voter with the longest log among those that have answered lately.
        to: Option<NodeId>,
        /// When this node gives up and leads on.
        deadline: Instant,
    },
    /// An operator wants this node to campaign: at once, or when its own promise to its leader has
    /// run out. Others keep theirs, so it is in vain as long as the leader is heard: to replace a
    /// living leader, transfer. Answered by [`Output::Declined`] where it can't be.
    Campaign,
    /// An operator says that the leader of this node is gone: it forgets it, and campaigns when its
    /// promise has run out, before its election timeout. Answered by [`Output::Declined`] at a
    /// leader.
    ForgetLeader,
    /// A client wants a read. Answered by [`Output::ReadReady`] or
    /// [`Output::ReadFailed`] with the token.
    Read {
        /// The caller's name for the read.
        token: u64,
        /// When to give up.
        deadline: Instant,
        /// How new it has to be.
        mode: ReadMode,
    },
    /// The write `seq` and all before it are durable.
    Persisted {
        /// Of [`Persist::seq`].
        seq: u64,
    },
    /// The replication stream has handed everything through this index to the network.
    Sent {
        /// The follower.
        to: NodeId,
        /// The session of the stream.
        session: u64,
        /// The last entry sent.
        through: Index,
    },
    /// The network lost an append of the replication stream, or the stream found its entries
    /// compacted, or the sending of a snapshot was given up.
    Lost {
        /// The follower.
        to: NodeId,
        /// The session of the stream.
        session: u64,
    },
    /// The state machine has seen everything through this index.
    Applied {
        /// The last entry applied.
        through: Index,
    },
    /// A state through `last`, which is applied, is durable here without the log: a snapshot was
    /// built, or the state machine has it on a disk of its own. The log may be compacted.
    Snapshotted {
        /// The last entry whose effect is in it.
        last: LogId,
    },
    /// The snapshot that is sent to a follower, as [`Output::SendSnapshot`] asked for.
    SendingSnapshot {
        /// The follower.
        to: NodeId,
        /// Of the output.
        session: u64,
        /// Its last entry.
        last: LogId,
    },
    /// A chunk of the leader's snapshot is stored, or was not: see [`Output::StoreSnapshot`].
    SnapshotStored {
        /// The leader.
        from: NodeId,
        /// What it is told.
        stored: SnapshotProgress,
    },
    /// What is left of this node's group was recovered by an operator and is another group now, with
    /// this configuration in force. The caller knows that it was this node's group before. Answered by
    /// [`Output::Recovered`] if this node follows.
    Recovered {
        /// A member of the recovered group.
        from: NodeId,
        /// Its configuration.
        configuration: EntryBlock,
    },
    /// The leader's snapshot is complete and durable here.
    SnapshotReceived {
        /// The leader.
        from: NodeId,
        /// The session of its last chunk.
        session: u64,
        /// Its last entry.
        last: LogId,
        /// The configuration in force there, with its own entry.
        configuration: (LogId, Membership),
    },
}

/// Something to do. Outputs are carried out in order; none is conditional.
#[derive(Debug)]
pub enum Output {
    /// Make this durable, after every earlier one; answer with [`Input::Persisted`].
    Persist(Persist),
    /// Send a message. It may be lost.
    Send {
        /// The receiver.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// The replication stream of a follower has a new target, which replaces the last.
    Replicate(Replicate),
    /// Apply committed entries through this index: a target, which replaces the last.
    Apply {
        /// The last entry to apply.
        through: Index,
    },
    /// A follower needs entries that are compacted. Send it a snapshot that ends at or behind the
    /// beginning of the log; say which with [`Input::SendingSnapshot`]. Each session is another try.
    /// Session 0 means stop.
    SendSnapshot {
        /// The follower.
        to: NodeId,
        /// The leader's term.
        term: Term,
        /// The session, for the messages.
        session: u64,
        /// Whether it is a witness: it is told where a snapshot ends, and given none of its data.
        witness: bool,
    },
    /// What the follower has of the snapshot that is sent to it.
    SnapshotAnswered {
        /// The follower.
        from: NodeId,
        /// What it says.
        have: SnapshotProgress,
    },
    /// A chunk of the leader's snapshot, to be stored; answer with [`Input::SnapshotStored`], and
    /// with [`Input::SnapshotReceived`] once all of it is durable.
    StoreSnapshot {
        /// The leader.
        from: NodeId,
        /// The chunk.
        chunk: Box<InstallSnapshot>,
    },
    /// The log begins with the snapshot through `last`, durably: the state machine is to restore it,
    /// before it applies anything else. Answered by [`Input::Applied`].
    Restore {
        /// Its last entry.
        last: LogId,
    },
    /// The proposal is in the log at `first..first+count`; it is not committed yet.
    Proposed {
        /// Id of the first command.
        first: LogId,
        /// How many there are.
        count: u32,
    },
    /// The change of membership has begun.
    Changing {
        /// The first configuration entry of the change, joint if it changes voters.
        id: LogId,
    },
    /// The target did not take over by the deadline: this node leads on.
    TransferEnded {
        /// The target.
        to: NodeId,
    },
    /// A follower that had lost entries ([`Notice::LogWentBack`]) has them again, and counts again.
    Refilled {
        /// The follower.
        peer: NodeId,
    },
    /// This node is no member any more. It stops campaigning, until a leader speaks to it again.
    Removed {
        /// The committed configuration that does not name it.
        at: LogId,
    },
    /// This node belongs to the recovered group of [`Input::Recovered`], from the write of this step
    /// on: its identity is to become durable with that, and messages of before mean nothing any more.
    Recovered {
        /// The entry of the forced configuration.
        at: LogId,
    },
    /// What was asked for (a proposal, an initialization, a change, a transfer, a campaign) was not
    /// begun and certainly did not happen.
    Declined(Decline),
    /// A read may be served once everything through `index` is applied.
    ReadReady {
        /// Of [`Input::Read`].
        token: u64,
        /// The read index.
        index: Index,
    },
    /// No leader confirmed the read before its deadline.
    ReadFailed {
        /// Of [`Input::Read`].
        token: u64,
    },
    /// Another configuration is in force (not necessarily committed).
    Configured {
        /// The entry that holds it, [`LogId::ZERO`] if there is none any more.
        id: LogId,
        /// The configuration.
        membership: Option<Membership>,
    },
    /// Role, term or leader changed.
    Changed {
        /// This node's role now.
        role: RoleKind,
        /// Its term.
        term: Term,
        /// The leader it knows of.
        leader: Option<NodeId>,
    },
    /// Worth a warning: nothing was done for it.
    Noticed {
        /// The peer it is about.
        peer: NodeId,
        /// What is wrong with it.
        what: Notice,
    },
    /// The group must stop on this node.
    Fatal(Fatal),
}

/// A write. Everything in it becomes durable together, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persist {
    /// Grows by one with each write.
    pub seq: u64,
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// The log becomes empty behind this entry, of a snapshot with this configuration. Nothing is
    /// appended in the same write.
    pub reset: Option<Box<(LogId, (LogId, Membership))>>,
    /// Entries from this index on are gone: `blocks` take their place.
    pub overwrites: Option<Index>,
    /// Entries to append, contiguous.
    pub blocks: Vec<EntryBlock>,
    /// Entries through here are not needed any more.
    pub compact: Option<LogId>,
}

/// What a follower's replication stream is to do. Carried out by [`Stream`](crate::Stream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicate {
    /// The follower.
    pub to: NodeId,
    /// The leader's term.
    pub term: Term,
    /// Another session than before means: begin again after `after`. 0 means stop.
    pub session: u64,
    /// Where the session began.
    pub after: LogId,
    /// Send entries through this index.
    pub through: Index,
    /// What the follower has durably, which makes room in the window.
    pub matched: Index,
    /// The commit index, to ride along.
    pub commit: Index,
    /// Whether more than one append may be on its way. Off until the follower's log is known to
    /// agree with `after`.
    pub pipeline: bool,
    /// What the follower is asked to promise.
    pub promise: Duration,
    /// Whether it is a witness: commands are withheld.
    pub witness: bool,
}

/// Why something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decline {
    /// This node does not lead.
    NotLeader {
        /// Who does, as far as known.
        leader: Option<NodeId>,
    },
    /// Too many bytes wait for their commit, or to be applied here.
    Overloaded,
    /// The group has a log already.
    AlreadyInitialized,
    /// The leadership is being handed over; soon another node leads, or this one again.
    Transferring,
    /// Another change of membership has to end first, or the beginning of the leader's term, or a
    /// transfer.
    ChangeInProgress,
    /// Another configuration than the expected one is in force.
    ConfigurationChanged,
    /// It is to become a voter and is no learner that has been heard and has caught up with the log;
    /// or it is to be one of voters of whom no quorum answers and has acknowledged anything.
    NotCaughtUp {
        /// Who.
        id: NodeId,
    },
    /// It can't be done here, or never.
    Unusable(&'static str),
}

/// The roles of Raft (paper §5.1), with the pre-candidate of thesis §9.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    Follower,
    /// Receives the log without a vote.
    Learner,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks to be elected.
    Candidate,
    /// Leads.
    Leader,
}

/// What is wrong with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A message that no correct peer sends; it was dropped.
    Violation(&'static str),
    /// It speaks with an incarnation that the membership does not know; it was not heard.
    Stranger,
    /// It lost entries it had acknowledged: its disk is not what it was.
    LogWentBack,
    /// The leader knows that this node lost entries which it had acknowledged: its disk is not what it
    /// was. It votes as if it had them, and does not campaign, until they are back.
    LostEntries,
    /// It refuses this node, which it knows with another incarnation.
    RefusesUs,
    /// It belongs to what an operator has made of this node's group, from a log that lacks entries of
    /// this one; this node did not follow.
    LacksOurs,
    /// It takes this node for a full replica, and the log here is that of a witness; it was not heard.
    WantsCommands,
}

/// Why the group can't go on here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The cluster knows this node's id with another data directory.
    #[error(
        "the cluster knows node {id} with another data directory than this one; give this node a \
         new id, or start it with the directory it had"
    )]
    NotThisMember {
        /// This node's id.
        id: NodeId,
    },
    /// Terms are used up.
    #[error("term {term} can't be followed by another; the cluster's state is not plausible")]
    TermsExhausted {
        /// The term.
        term: Term,
    },
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Wake => f.write_str("wake"),
            Input::Receive { from, message, .. } => write!(f, "receive {from}: {message}"),
            Input::Propose { batch } => write!(f, "propose {}", batch.len()),
            Input::Initialize { membership } => write!(f, "initialize {membership}"),
            Input::ChangeMembership { to, expected: None } => write!(f, "change to {to}"),
            Input::ChangeMembership { to, expected: Some(id) } => {
                write!(f, "change from {id} to {to}")
            }
            Input::Transfer { to: Some(to), .. } => write!(f, "transfer to {to}"),
            Input::Transfer { to: None, .. } => f.write_str("transfer"),
            Input::Campaign => f.write_str("campaign"),
            Input::ForgetLeader => f.write_str("forget the leader"),
            Input::Read { token, mode: ReadMode::Index, .. } => write!(f, "read {token}"),
            Input::Read { token, mode, .. } => write!(f, "read {token} {mode:?}"),
            Input::Persisted { seq } => write!(f, "persisted #{seq}"),
            Input::Sent { to, session, through } => {
                write!(f, "sent to {to} session={session} through={through}")
            }
            Input::Lost { to, session } => write!(f, "lost to {to} session={session}"),
            Input::Applied { through } => write!(f, "applied {through}"),
            Input::Snapshotted { last } => write!(f, "snapshotted {last}"),
            Input::SendingSnapshot { to, session, last } => {
                write!(f, "sending snapshot {last} to {to} session={session}")
            }
            Input::SnapshotStored { from, stored } => write!(f, "stored of {from}: {stored}"),
            Input::Recovered { from, configuration } => {
                write!(f, "recovered at {from}: [{configuration}]")
            }
            Input::SnapshotReceived { from, last, configuration: (at, membership), .. } => {
                write!(f, "received of {from} {last}, configuration {at} {membership}")
            }
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Persist(p) => {
                write!(f, "persist #{}", p.seq)?;
                if let Some(hard) = &p.hard_state {
                    write!(f, " {hard}")?;
                }
                if let Some(from) = p.overwrites {
                    write!(f, " overwrite from {from}")?;
                }
                if let Some((to, (at, membership))) = p.reset.as_deref() {
                    write!(f, " reset to {to}, configuration {at} {membership}")?;
                }
                p.blocks.iter().try_for_each(|block| write!(f, " [{block}]"))?;
                match p.compact {
                    Some(through) => write!(f, " compact through {through}"),
                    None => Ok(()),
                }
            }
            Output::Send { to, message } => write!(f, "send {to}: {message}"),
            Output::Replicate(r) if r.session == 0 => write!(f, "replicate to {} stop", r.to),
            Output::Replicate(r) => write!(
                f,
                "replicate to {} session={} after={} through={} matched={}{}{}",
                r.to,
                r.session,
                r.after,
                r.through,
                r.matched,
                if r.pipeline { "" } else { " probe" },
                if r.witness { " withheld" } else { "" }
            ),
            Output::Apply { through } => write!(f, "apply through {through}"),
            Output::SendSnapshot { to, session: 0, .. } => write!(f, "send snapshot to {to} stop"),
            Output::SendSnapshot { to, session, witness, .. } => {
                let what = if *witness { " without data" } else { "" };
                write!(f, "send snapshot to {to} session={session}{what}")
            }
            Output::SnapshotAnswered { from, have } => write!(f, "snapshot at {from}: {have}"),
            Output::StoreSnapshot { from, chunk } => {
                write!(f, "store of {from}: {} bytes at {}", chunk.data.len(), chunk.offset)
            }
            Output::Restore { last } => write!(f, "restore {last}"),
            Output::Proposed { first, count } => write!(f, "proposed {count} at {first}"),
            Output::Changing { id } => write!(f, "changing at {id}"),
            Output::TransferEnded { to } => write!(f, "transfer to {to} ended"),
            Output::Refilled { peer } => write!(f, "refilled {peer}"),
            Output::Removed { at } => write!(f, "removed at {at}"),
            Output::Recovered { at } => write!(f, "recovered at {at}"),
            Output::Declined(why) => write!(f, "declined: {why}"),
            Output::ReadReady { token, index } => write!(f, "read {token} ready at {index}"),
            Output::ReadFailed { token } => write!(f, "read {token} failed"),
            Output::Configured { id, membership: Some(m) } => write!(f, "configured {id} {m}"),
            Output::Configured { id, membership: None } => write!(f, "configured {id} none"),
            Output::Changed { role, term, leader } => {
                write!(f, "{role} term={term} leader=")?;
                match leader {
                    Some(id) => write!(f, "{id}"),
                    None => f.write_str("none"),
                }
            }
            Output::Noticed { peer, what } => write!(f, "notice {peer}: {what}"),
            Output::Fatal(fatal) => write!(f, "fatal: {fatal}"),
        }
    }
}

impl fmt::Display for Decline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decline::NotLeader { leader: Some(id) } => write!(f, "not leader, {id} is"),
            Decline::NotLeader { leader: None } => f.write_str("not leader"),
            Decline::Overloaded => f.write_str("overloaded"),
            Decline::AlreadyInitialized => f.write_str("already initialized"),
            Decline::Transferring => f.write_str("transferring"),
            Decline::ChangeInProgress => f.write_str("a change is in progress"),
            Decline::ConfigurationChanged => f.write_str("the configuration has changed"),
            Decline::NotCaughtUp { id } => write!(f, "{id} has not caught up"),
            Decline::Unusable(why) => f.write_str(why),
        }
    }
}

impl RoleKind {
    /// The role in lower case, as `/status` pages show it.
    pub fn as_str(self) -> &'static str {
        match self {
            RoleKind::Follower => "follower",
            RoleKind::Learner => "learner",
            RoleKind::PreCandidate => "pre_candidate",
            RoleKind::Candidate => "candidate",
            RoleKind::Leader => "leader",
        }
    }
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Violation(what) => write!(f, "protocol violation, dropped: {what}"),
            Notice::Stranger => f.write_str("unknown incarnation, not heard"),
            Notice::LogWentBack => f.write_str("lost entries it had acknowledged"),
            Notice::LostEntries => f.write_str(
                "leads, and says that this node lost entries it had acknowledged: its disk is not what \
                 it was; until they are back it votes as if it had them",
            ),
            Notice::RefusesUs => f.write_str("refuses this node's incarnation"),
            Notice::LacksOurs => f.write_str(
                "is of a recovered cluster whose log lacks entries of this one, so this node does not \
                 follow; recover the cluster from this node, or empty its directory and add it anew",
            ),
            Notice::WantsCommands => f.write_str(
                "takes this node for a full replica, but its log was kept as a witness and lacks \
                 commands; not heard: remove the node, empty its directory, and add it anew",
            ),
        }
    }
}

/// The outputs of one step.
#[derive(Debug, Default)]
pub struct Outputs {
    pub(crate) list: Vec<Output>,
}

impl Outputs {
    /// An empty list; kept and reused by the caller.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the outputs out, in order, and keeps the memory.
    #[inline]
    pub fn drain(&mut self) -> std::vec::Drain<'_, Output> {
        self.list.drain(..)
    }

    /// The outputs, in order.
    #[inline]
    pub fn as_slice(&self) -> &[Output] {
        &self.list
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.list.push(output);
    }

    /// The same with an output that is put together where it stays. What is written field by field and then
    /// copied in wider pieces makes the processor wait for its own writes, every time: for outputs of the
    /// steady state.
    #[inline]
    pub(crate) fn push_with(&mut self, output: impl FnOnce() -> Output) {
        self.list.extend(std::iter::once_with(output));
    }

    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        self.push_with(|| Output::Send { to, message });
    }
}
