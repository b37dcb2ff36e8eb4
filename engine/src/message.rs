//! What nodes say to each other. The wire form is the network's business.
//!
//! | message | from | durable before it leaves | answered by |
//! |---|---|---|---|
//! | [`RequestVote`] | (pre-)candidate | its own term and vote (not for a pre-vote) | [`RequestVoteAnswer`] |
//! | [`RequestVoteAnswer`] | voter | term and vote, if granted (not for a pre-vote) | |
//! | [`Heartbeat`] | leader | nothing | [`HeartbeatAnswer`], at once |
//! | [`HeartbeatAnswer`] | follower | everything up to its `matched` | |
//! | [`AppendEntries`] | leader's replication stream | nothing | [`AppendEntriesAnswer`] |
//! | [`AppendEntriesAnswer`] | follower | everything up to its `matched` | |
//! | [`InstallSnapshot`] | leader's snapshot transfer | the snapshot it is a part of | [`InstallSnapshotAnswer`], and once it is installed [`AppendEntriesAnswer`] |
//! | [`InstallSnapshotAnswer`] | follower | nothing: what it has so far may be lost | |
//! | [`ReadIndex`] | follower with readers | nothing | [`ReadIndexAnswer`] |
//! | [`ReadIndexAnswer`] | leader, after a quorum confirmed it or by its lease; any other, to say that it can't | nothing | |
//! | [`Introduce`] | pre-candidate, to a voter that may be blank; candidate or leader of a recovered group, to a member that may not know | nothing | [`Introduced`] |
//! | [`Introduced`] | member that took the first configuration | that configuration | |
//! | [`TimeoutNow`] | leader that hands over | nothing | |
//! | [`Removed`] | any member, to a node that is none any more | nothing | |
//! | [`Stranger`] | any member, to a node it does not know in this incarnation | nothing | |

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::block::EntryBlock;
use crate::membership::Membership;
use crate::planted;
use crate::types::{Index, LogId, Term};

/// Any message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// See [`RequestVote`].
    RequestVote(RequestVote),
    /// See [`RequestVoteAnswer`].
    RequestVoteAnswer(RequestVoteAnswer),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`HeartbeatAnswer`].
    HeartbeatAnswer(HeartbeatAnswer),
    /// See [`AppendEntries`].
    AppendEntries(AppendEntries),
    /// See [`AppendEntriesAnswer`].
    AppendEntriesAnswer(AppendEntriesAnswer),
    /// See [`InstallSnapshot`].
    InstallSnapshot(Box<InstallSnapshot>),
    /// See [`InstallSnapshotAnswer`].
    InstallSnapshotAnswer(InstallSnapshotAnswer),
    /// See [`ReadIndex`].
    ReadIndex(ReadIndex),
    /// See [`ReadIndexAnswer`].
    ReadIndexAnswer(ReadIndexAnswer),
    /// See [`Introduce`].
    Introduce(Introduce),
    /// See [`Introduced`].
    Introduced(Introduced),
    /// See [`Stranger`].
    Stranger(Stranger),
    /// See [`TimeoutNow`].
    TimeoutNow(TimeoutNow),
    /// See [`Removed`].
    Removed(Removed),
}

/// A candidate asks for a vote (paper §5.2), or asks whether it would get one (thesis §9.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// Whether this only asks: no term changes, no vote is given.
    pub pre: bool,
    /// The term of the election; for a pre-vote the term that would follow.
    pub term: Term,
    /// The candidate's last entry, for the up-to-date rule (paper §5.4.1).
    pub last: LogId,
    /// The leader of the term before has handed over to this candidate, so a promise made to it
    /// does not stand in the way (thesis §4.2.3). Never in a pre-vote.
    pub transfer: bool,
}

/// The answer to a [`RequestVote`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestVoteAnswer {
    /// Which kind of request this answers.
    pub pre: bool,
    /// The term asked for if granted, otherwise the answering node's own term, so that a laggard
    /// catches up.
    pub term: Term,
    /// Whether the vote is (or would be) given.
    pub granted: bool,
}

/// A leader says it is alive. Never queues behind entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// The replication session with this follower; echoed in the answer.
    pub session: u64,
    /// Number of this round of heartbeats, growing within a term; echoed in the answer.
    pub round: u64,
    /// The leader's commit index. The follower commits no further than it has verified.
    pub commit: Index,
    /// For how long after receipt the follower is asked to grant no vote.
    pub promise: Duration,
    /// Whether the leader's configuration has the follower as a witness.
    pub witness: bool,
    /// The follower has lost entries that it had acknowledged in this term, through this one: until they
    /// are back, it is to vote as if it had them. [`LogId::ZERO`] for one that has lost nothing.
    pub refill: LogId,
}

/// The answer to a [`Heartbeat`]; leaves at once, so that a slow disk does not look like a dead
/// node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// The follower's term; if higher than the leader's, the leader steps down.
    pub term: Term,
    /// The session of the heartbeat.
    pub session: u64,
    /// The round of the heartbeat.
    pub round: u64,
    /// Up to where the follower's log is known to equal the leader's, durable or not.
    pub accepted: Index,
    /// The durable part of `accepted`.
    pub matched: Index,
    /// For how long the follower did promise to grant no vote.
    pub promised: Duration,
    /// How much the follower is preferred as the leader; see
    /// [`Config::priority`](crate::Config::priority).
    pub priority: u32,
}

/// A leader replicates entries (paper §5.3). Built by the replication stream of the follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// The replication session; echoed in the answer.
    pub session: u64,
    /// The entry before the first of `blocks`, for the consistency check.
    pub prev: LogId,
    /// Contiguous entries, the first directly after `prev`. Empty for a probe.
    pub blocks: Vec<EntryBlock>,
    /// The leader's commit index.
    pub commit: Index,
    /// As in [`Heartbeat::promise`].
    pub promise: Duration,
    /// As in [`Heartbeat::witness`]: commands are withheld.
    pub witness: bool,
}

impl AppendEntries {
    /// The last entry the follower has if it accepts this.
    pub fn last(&self) -> LogId {
        self.blocks.last().map_or(self.prev, EntryBlock::last)
    }
}

/// The answer to one or more [`AppendEntries`]; a success leaves only when it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntriesAnswer {
    /// The follower's term; if higher than the leader's, the leader steps down.
    pub term: Term,
    /// The session of the newest append this answers.
    pub session: u64,
    /// Up to where the follower's durable log is known to equal the leader's.
    pub matched: Index,
    /// The consistency check failed: the follower's last entry that may still match, chosen by
    /// term so that each exchange skips a whole term (paper §5.3, end).
    pub conflict: Option<LogId>,
}

/// A leader sends a part of a snapshot to a follower that needs entries which are compacted (paper
/// §7). Each part says of which snapshot it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// The leader's term.
    pub term: Term,
    /// The replication session; echoed in the answer.
    pub session: u64,
    /// The last entry whose effect is in the snapshot.
    pub last: LogId,
    /// The configuration in force there, with its own entry.
    pub configuration: (LogId, Membership),
    /// Tells this snapshot from another of the same state, which may be written differently: only
    /// parts of the same fit together.
    pub nonce: u64,
    /// Length of the whole.
    pub bytes: u64,
    /// Where `data` belongs.
    pub offset: u64,
    /// The part; empty only if the whole is.
    pub data: Bytes,
    /// CRC-32 of `data`.
    pub checksum: u32,
    /// As in [`Heartbeat::promise`].
    pub promise: Duration,
    /// As in [`Heartbeat::witness`]: there is no data, only where the snapshot ends.
    pub witness: bool,
}

/// The answer to an [`InstallSnapshot`]. That the snapshot is installed is said by an
/// [`AppendEntriesAnswer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshotAnswer {
    /// The follower's term; if higher than the leader's, the leader steps down.
    pub term: Term,
    /// What the follower has.
    pub have: SnapshotProgress,
}

/// How much of a snapshot a follower has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Of [`InstallSnapshot::session`].
    pub session: u64,
    /// Of [`InstallSnapshot::nonce`].
    pub nonce: u64,
    /// Everything below this offset is there.
    pub offset: u64,
    /// The part that this answers did not fit: what is between has to be sent again.
    pub gap: bool,
}

/// A follower asks the leader for a read index (thesis §6.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadIndex {
    /// The follower's term.
    pub term: Term,
    /// Unique among all reads of this follower; echoed in the answer.
    pub context: u64,
    /// Whether an answer that relies on a lease is good enough.
    pub lease: bool,
}

/// The answer to a [`ReadIndex`]: a commit index at least as new as the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadIndexAnswer {
    /// The leader's term.
    pub term: Term,
    /// The context of the request.
    pub context: u64,
    /// What the reader must have applied, or `None` if this node can't say (it does not lead).
    pub index: Option<Index>,
}

/// The first configuration, for a member that has none yet (or the one in force of a group that was
/// recovered, for a member of before: see [`Recovery`](crate::Recovery)): a node grants no vote before it has
/// accepted a configuration, so a new group has to be introduced to its members before it can elect
/// anyone, and an old one to a member that no leader has reached yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduce {
    /// The entry at index 1, term 0: the same on every node of a cluster. Of a recovered group, the
    /// configuration in force.
    pub configuration: EntryBlock,
}

/// The first configuration is durable at the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduced {}

/// "The membership knows your id with another incarnation": the sender refuses to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// The incarnation that was refused.
    pub refused: u64,
}

/// The leader hands over: the receiver is to campaign at once (thesis §3.10). Sent when the receiver
/// has the whole log, and again with every heartbeat until it takes over or the leader gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
}

/// "You are no member any more." Believed by a node that knows of no configuration newer than that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The newest configuration that the sender knows to be committed; it does not name the
    /// receiver.
    pub at: LogId,
}

impl Message {
    /// The term the message speaks for; `None` where the term rule (paper §5.1) does not apply.
    ///
    /// A pre-vote names a term that nobody is in yet, so neither its request nor a granted answer
    /// moves anyone's term.
    pub fn term(&self) -> Option<Term> {
        match self {
            Message::RequestVote(m) if m.pre && !planted::on("pre-votes-move-terms") => None,
            Message::RequestVote(m) => Some(m.term),
            Message::RequestVoteAnswer(m) if m.pre && m.granted => None,
            Message::RequestVoteAnswer(m) => Some(m.term),
            Message::Heartbeat(m) => Some(m.term),
            Message::HeartbeatAnswer(m) => Some(m.term),
            Message::AppendEntries(m) => Some(m.term),
            Message::AppendEntriesAnswer(m) => Some(m.term),
            Message::InstallSnapshot(m) => Some(m.term),
            Message::InstallSnapshotAnswer(m) => Some(m.term),
            Message::ReadIndex(m) => Some(m.term),
            Message::ReadIndexAnswer(m) => Some(m.term),
            Message::TimeoutNow(m) => Some(m.term),
            Message::Introduce(_)
            | Message::Introduced(_)
            | Message::Stranger(_)
            | Message::Removed(_) => None,
        }
    }
}

impl fmt::Display for SnapshotProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = if self.gap { " gap" } else { "" };
        write!(f, "session={} through {}{gap}", self.session, self.offset)
    }
}

fn witness(witness: bool) -> &'static str {
    if witness { " witness" } else { "" }
}

fn refill(through: LogId) -> String {
    if through == LogId::ZERO { String::new() } else { format!(" refill through {through}") }
}

fn pre(pre: bool) -> &'static str {
    if pre { "PreVote" } else { "RequestVote" }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::RequestVote(m) => {
                let transfer = if m.transfer { " transfer" } else { "" };
                write!(f, "{} term={} last={}{transfer}", pre(m.pre), m.term, m.last)
            }
            Message::RequestVoteAnswer(m) => {
                let verdict = if m.granted { "granted" } else { "refused" };
                write!(f, "{}Answer term={} {verdict}", pre(m.pre), m.term)
            }
            Message::Heartbeat(m) => write!(
                f,
                "Heartbeat term={} session={} round={} commit={}{}{}",
                m.term,
                m.session,
                m.round,
                m.commit,
                witness(m.witness),
                refill(m.refill)
            ),
            Message::HeartbeatAnswer(m) => write!(
                f,
                "HeartbeatAnswer term={} session={} round={} accepted={} matched={}",
                m.term, m.session, m.round, m.accepted, m.matched
            ),
            Message::AppendEntries(m) => {
                write!(f, "AppendEntries term={} session={} prev={} [", m.term, m.session, m.prev)?;
                for (i, block) in m.blocks.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{block}")?;
                }
                write!(f, "] commit={}{}", m.commit, witness(m.witness))
            }
            Message::AppendEntriesAnswer(m) => {
                write!(f, "AppendEntriesAnswer term={} session={}", m.term, m.session)?;
                match m.conflict {
                    Some(hint) => write!(f, " conflict hint={hint}"),
                    None => write!(f, " matched={}", m.matched),
                }
            }
            Message::InstallSnapshot(m) => write!(
                f,
                "InstallSnapshot term={} session={} last={} {} bytes at {} of {}{}",
                m.term,
                m.session,
                m.last,
                m.data.len(),
                m.offset,
                m.bytes,
                witness(m.witness)
            ),
            Message::InstallSnapshotAnswer(m) => {
                write!(f, "InstallSnapshotAnswer term={} {}", m.term, m.have)
            }
            Message::ReadIndex(m) => {
                let lease = if m.lease { " lease" } else { "" };
                write!(f, "ReadIndex term={} context={}{lease}", m.term, m.context)
            }
            Message::ReadIndexAnswer(m) => {
                write!(f, "ReadIndexAnswer term={} context={} index=", m.term, m.context)?;
                match m.index {
                    Some(index) => write!(f, "{index}"),
                    None => f.write_str("none"),
                }
            }
            Message::Introduce(m) => write!(f, "Introduce [{}]", m.configuration),
            Message::Introduced(_) => f.write_str("Introduced"),
            Message::Stranger(m) => write!(f, "Stranger refused={}", m.refused),
            Message::TimeoutNow(m) => write!(f, "TimeoutNow term={}", m.term),
            Message::Removed(m) => write!(f, "Removed at={}", m.at),
        }
    }
}
