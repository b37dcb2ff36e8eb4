//! Errors answer three questions: did it happen, may I retry, where?

use anyerror::AnyError;
use quorate_engine::NodeId;
use quorate_storage::StorageError;

/// Why a write has no response.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// This node does not lead and was told not to forward. Not done; ask the leader.
    #[error("this node does not lead{}; send the write to the leader", known(*.leader))]
    NotLeader {
        /// The leader, as far as known.
        leader: Option<NodeId>,
    },
    /// No room in a queue. Not done; retry after a pause.
    #[error("too many writes are waiting; nothing was done, retry after a pause")]
    Overloaded,
    /// No leader took it in time. Not done; retry.
    #[error("no leader took the write in time; nothing was done, it may be retried")]
    Timeout,
    /// Another leader's entries took its place in the log. Not done; retry.
    #[error("another leader's entries took the write's place; nothing was done, it may be retried")]
    Overwritten,
    /// It is in a log somewhere and may or may not become effective.
    #[error(
        "the outcome is unknown: the write may have been done, or may still be; read before you retry"
    )]
    Unknown,
    /// There is no such session, or no more: it lapsed, or had to make room for others. This attempt did
    /// nothing; whether an earlier one of the same write did nobody can say any more. Open another.
    #[error("the session has expired; this attempt did nothing, open another session")]
    SessionExpired,
    /// The session has acknowledged this write, or a later one: its response is gone. This attempt did
    /// nothing.
    #[error(
        "the session has acknowledged this write already; nothing was done, go on with the next"
    )]
    Acknowledged,
    /// This node has stopped. Not done here; ask another node.
    #[error("this node has stopped; its metrics tell the cause, other nodes may still serve")]
    Stopped,
    /// The command is larger than [`Config::max_command_bytes`](crate::Config). Not done.
    #[error("a command of {bytes} bytes is over the limit of {limit}; nothing was done")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The command can't be encoded, or the leader can't decode it. Not done.
    #[error("the command was refused: {0}; nothing was done")]
    Refused(AnyError),
    /// Done, but the response came back in bytes this node can't read.
    #[error("the write was done, but its response can't be decoded: {0}")]
    Response(AnyError),
}

impl WriteError {
    /// Whether the write may have taken effect. If not, it may be retried as it is.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, WriteError::Unknown | WriteError::Response(_))
    }

    /// One word for it, of those under which [`Stats::write_failures`](crate::Stats) counts.
    pub fn reason(&self) -> &'static str {
        match self {
            WriteError::NotLeader { .. } => "not_leader",
            WriteError::Overloaded => "overloaded",
            WriteError::Timeout => "timeout",
            WriteError::Overwritten => "overwritten",
            WriteError::Unknown => "unknown",
            WriteError::SessionExpired => "session_expired",
            WriteError::Acknowledged => "acknowledged",
            WriteError::Stopped => "stopped",
            WriteError::TooLarge { .. } => "too_large",
            WriteError::Refused(_) => "refused",
            WriteError::Response(_) => "response",
        }
    }
}

fn known(leader: Option<NodeId>) -> String {
    leader.map_or_else(String::new, |id| format!(" (node {id} does)"))
}

/// Why a linearizable read could not be served. Nothing happens by reading: all may be retried.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader confirmed the read in time.
    #[error("no leader confirmed the read in time; retry, here or at another node")]
    Timeout,
    /// No room in a queue.
    #[error("too many requests are waiting; retry after a pause")]
    Overloaded,
    /// This node is a witness.
    #[error("this node is a witness, which keeps no state to read; ask another")]
    Witness,
    /// No node takes this client, or a node can't use what it asks for.
    #[error("the read was refused: {0}")]
    Refused(AnyError),
    /// This node has stopped.
    #[error("this node has stopped; its metrics tell the cause, other nodes may still serve")]
    Stopped,
}

impl ReadError {
    /// Always false: reads change nothing.
    pub fn may_have_happened(&self) -> bool {
        false
    }

    /// One word for it, of those under which [`Stats::read_failures`](crate::Stats) counts.
    pub fn reason(&self) -> &'static str {
        match self {
            ReadError::Timeout => "timeout",
            ReadError::Overloaded => "overloaded",
            ReadError::Witness => "witness",
            ReadError::Refused(_) => "refused",
            ReadError::Stopped => "stopped",
        }
    }
}

/// Why a node did not start. Nothing of it is running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No storage was named: silent memory is never the default.
    #[error("no storage named; call data_dir(path), storage(..) or in_memory()")]
    NoStorage,
    /// Two settings contradict each other.
    #[error("{0}")]
    Config(String),
    /// The log begins behind a state that is neither in a snapshot nor with the state machine, or
    /// the state machine has seen more than the log.
    #[error("{0}; restore this node from its peers, do not start it with what is left")]
    StateMissing(String),
    /// The state machine can't take up its state.
    #[error("the state machine can't begin with the state it had: {0}")]
    StateMachine(String),
    /// The storage can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The directory belongs to another node.
    #[error(
        "this storage belongs to node {found}, not to node {wanted}; start the node with its own directory"
    )]
    OtherNode {
        /// Whose it is.
        found: NodeId,
        /// Who was to be started.
        wanted: NodeId,
    },
    /// What the storage holds can't be continued.
    #[error("{0}")]
    Engine(#[from] quorate_engine::StartError),
    /// The address can't be listened on.
    #[error("{0}")]
    Listen(AnyError),
    /// The group runs on this host already.
    #[error("group {0} is running on this host already")]
    GroupExists(u64),
}

/// Why a cluster was not initialized.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitializeError {
    /// The members make no membership, or this node is not one of them.
    #[error("{0}")]
    Members(String),
    /// The node belongs to a cluster that began with other members.
    #[error(
        "this node is a member already, of a cluster that began with other members or another name"
    )]
    OtherCluster,
    /// The node has stopped.
    #[error("this node has stopped; its metrics tell the cause")]
    Stopped,
}

impl InitializeError {
    /// Whether the initialization may have taken effect; repeating it is harmless in any case.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, InitializeError::Stopped)
    }
}

/// Why there is no snapshot. The node goes on, with the log it has.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Nothing was applied yet.
    #[error("nothing was applied yet, so there is nothing to make a snapshot of")]
    Nothing,
    /// The state machine or the store failed.
    #[error("the snapshot failed: {0}; nothing was compacted, it may be tried again")]
    Failed(AnyError),
    /// A witness has nothing to back up.
    #[error("this node is a witness, which keeps no state to back up; ask another")]
    Witness,
    /// The node has stopped.
    #[error("this node has stopped; its metrics tell the cause")]
    Stopped,
}

/// Why a change of membership was not made, or not all of it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Another change, or a transfer, is under way. Nothing was done; retry when it is over.
    #[error("another change of membership is in progress; nothing was done, retry when it is over")]
    InProgress,
    /// Another configuration is in force than the one expected. Nothing was done.
    #[error("the membership is not the one that was expected; nothing was done, look again")]
    Changed,
    /// No member has this id. Nothing was done.
    #[error("node {0} is not a member; nothing was done")]
    UnknownMember(NodeId),
    /// A voter to be was still behind at the deadline, or too few of the new voters answered. It stays
    /// as it was; ask again.
    #[error(
        "a node has not caught up, or too few answer; nothing was promoted or removed, try again"
    )]
    NotCaughtUp,
    /// No leader said that it is done in time. It may have been done; look at the membership.
    #[error("no leader has confirmed the change in time; it may have been made, look again")]
    NoLeader,
    /// Such a membership can't be. Nothing was done.
    #[error("{0}; nothing was done")]
    Refused(String),
    /// This node has stopped.
    #[error("this node has stopped; its metrics tell the cause, other nodes may still serve")]
    Stopped,
}

impl ChangeError {
    /// Whether the change may have been made, or begun.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::NotCaughtUp | Self::NoLeader | Self::Stopped)
    }
}

/// Why the leadership did not go where it was to go. Writes go on in any case.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The target did not take over in time; the leader leads on.
    #[error("the target did not take over in time; the leader leads on, see whether it is up")]
    Timeout,
    /// Another node took over.
    #[error("node {leader} leads now, and not the one that was to")]
    Other {
        /// Who leads.
        leader: NodeId,
    },
    /// A transfer or a change of membership is under way.
    #[error("another transfer or a change of membership is in progress; retry when it is over")]
    InProgress,
    /// The target can't lead.
    #[error("{0}; nothing was done")]
    Refused(String),
    /// This node has stopped.
    #[error("this node has stopped; its metrics tell the cause, other nodes may still serve")]
    Stopped,
}

/// The state waited for did not come in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("waited {waited:?} for {what}; last seen: {last}")]
pub struct WaitError {
    /// What was waited for.
    pub what: String,
    /// For how long.
    pub waited: std::time::Duration,
    /// The metrics at the end.
    pub last: String,
}
