//! The promises of Raft, each checked by a file of its own while the simulation runs.
//!
//! A checker is told what happens, fact by fact, and looks at the nodes: at their engines, at their
//! logs in memory, and at what their disks really have. It knows nothing of faults, so a checker
//! can't excuse a violation with one.

mod acknowledged_writes;
mod backlog;
mod changes;
mod commit;
mod committed_stays;
mod configurations;
mod durability;
mod election_safety;
mod handovers;
mod higher_terms;
mod idle_leaders;
mod leader_append_only;
mod leader_completeness;
mod log_matching;
mod monotone;
mod order;
mod promises;
mod quarantine;
mod reads;
mod snapshots;
mod state_machine_safety;
mod terms;
mod votes;

use bytes::Bytes;
use quorate_engine::{
    EntryKind, Index, Instant, LogId, Membership, Message, NodeId, Persist, ReadMode,
};

use crate::engines::node::Node;

/// Something that happened in the world.
#[derive(Debug)]
pub enum Fact<'a> {
    /// A node's process came up.
    Started {
        /// Which node.
        node: NodeId,
    },
    /// A node lost what was in its memory, and of its unsynced writes all but some first ones.
    Crashed {
        /// Which node.
        node: NodeId,
    },
    /// A node asks for a write. Its log in memory does not have it yet.
    Writing {
        /// Which node.
        node: NodeId,
        /// The write.
        write: &'a Persist,
    },
    /// A sync ended, or a snapshot is durable: what the disk of a node has changed.
    Synced {
        /// Which node.
        node: NodeId,
    },
    /// A node sends a message.
    Sent {
        /// The sender.
        node: NodeId,
        /// The receiver.
        to: NodeId,
        /// The message, before the network has it.
        message: &'a Message,
    },
    /// A message arrives at a node that is up; the step it takes with it comes next.
    Received {
        /// The receiver.
        node: NodeId,
        /// The sender.
        from: NodeId,
        /// The message.
        message: &'a Message,
    },
    /// A node's engine took a step and its outputs were carried out.
    Stepped {
        /// Which node.
        node: NodeId,
    },
    /// A node's state machine was given an entry.
    Applied {
        /// Which node.
        node: NodeId,
        /// The entry.
        id: LogId,
        /// What it is.
        kind: EntryKind,
        /// Its content.
        payload: &'a Bytes,
    },
    /// A node's state machine took over a snapshot, or started with one: what the node shows as
    /// applied and as its state is of the snapshot.
    Restored {
        /// Which node.
        node: NodeId,
        /// The last entry of the snapshot; none when it starts from nothing.
        last: LogId,
    },
    /// A client wants a command in the log.
    Proposed {
        /// The command; no other has the same content.
        payload: &'a Bytes,
    },
    /// A client was told that its write happened.
    Acknowledged {
        /// Where its command is in the log.
        index: Index,
        /// The command.
        payload: &'a Bytes,
    },
    /// A client was told that its write did certainly not happen.
    Overwritten {
        /// The command.
        payload: &'a Bytes,
    },
    /// A client asks for a read.
    ReadIssued {
        /// Its number.
        token: u64,
        /// How new it has to be.
        mode: ReadMode,
    },
    /// A client reads the state after `index`.
    ReadServed {
        /// Its number.
        token: u64,
        /// The read index.
        index: Index,
    },
    /// The faults are over and the cluster has come back to work: every node that was not refused
    /// has applied the same log.
    Settled,
    /// The faults are over, and the cluster can't come back to work: a wiped disk has left too few
    /// votes that count.
    Stranded,
}

/// One promise.
pub trait Check: std::fmt::Debug {
    /// Its name, as the paper has it where it has one.
    fn name(&self) -> &'static str;

    /// Takes note of a fact.
    ///
    /// # Errors
    /// How the promise is broken.
    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String>;
}

/// The machines of a world.
#[derive(Debug)]
pub struct Nodes {
    pub(crate) all: Vec<Node>,
    /// The world's time in nanoseconds.
    pub(crate) time: u64,
}

impl Nodes {
    /// The machine with this id.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, id: NodeId) -> &Node {
        &self.all[id as usize - 1]
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.all[id as usize - 1]
    }

    /// All of them, in order of id.
    pub fn iter(&self) -> std::slice::Iter<'_, Node> {
        self.all.iter()
    }

    /// What the clock of this machine shows.
    pub fn local_time(&self, id: NodeId) -> Instant {
        self.get(id).clock.local(self.time)
    }
}

/// Whether those for whom `has` holds are a majority of each voter set. Counted here, not by the
/// code whose counting is checked.
fn is_majority(membership: &Membership, has: impl Fn(NodeId) -> bool) -> bool {
    membership.voter_sets().all(|set| 2 * set.iter().filter(|id| has(**id)).count() > set.len())
}

/// The newest configuration that a node knows to be committed.
pub(crate) fn newest_committed(node: &Node) -> Option<&Membership> {
    let log = node.engine.as_ref()?.log();
    let mut newest = log.configurations().iter().rev();
    newest.find(|(id, _)| id.index <= log.committed()).map(|(_, membership)| membership)
}

/// Every checker there is.
pub fn all() -> Vec<Box<dyn Check>> {
    vec![
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(leader_append_only::LeaderAppendOnly),
        Box::new(log_matching::LogMatching::default()),
        Box::new(leader_completeness::LeaderCompleteness::default()),
        Box::new(state_machine_safety::StateMachineSafety::default()),
        Box::new(commit::Commit::default()),
        Box::new(committed_stays::CommittedStays::default()),
        Box::new(durability::Durability::default()),
        Box::new(votes::Votes::default()),
        Box::new(terms::Terms::default()),
        Box::new(higher_terms::HigherTerms::default()),
        Box::new(promises::Promises::default()),
        Box::new(idle_leaders::IdleLeaders::default()),
        Box::new(order::Order),
        Box::new(monotone::Monotone::default()),
        Box::new(snapshots::Snapshots),
        Box::new(configurations::Configurations::default()),
        Box::new(changes::Changes::default()),
        Box::new(handovers::Handovers),
        Box::new(backlog::Backlog),
        Box::new(quarantine::Quarantine::default()),
        Box::new(acknowledged_writes::AcknowledgedWrites::default()),
        Box::new(reads::Reads::default()),
    ]
}
