//! What is going to happen, in one order: by time, and then by the order in which it was scheduled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use quorate_engine::message::SnapshotProgress;
use quorate_engine::{Message, NodeId};

use crate::engines::snapshot::Snapshot;
use crate::engines::transfers::Source;

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message arrives.
    Deliver {
        /// The receiver.
        to: NodeId,
        /// The sender.
        from: NodeId,
        /// The sender's incarnation when it was sent.
        incarnation: u64,
        /// World time at which it was sent.
        sent: u64,
        /// The message.
        message: Box<Message>,
    },
    /// A timer rings; only the newest of a node counts.
    Wake {
        /// The node.
        node: NodeId,
        /// Number of the timer.
        number: u64,
    },
    /// The running sync of a node's disk ends.
    SyncDone {
        /// The node.
        node: NodeId,
        /// Its life when the sync began.
        life: u32,
    },
    /// A completion that is a lie; see [`Sabotage::DiskLies`](crate::Sabotage::DiskLies).
    FalselyPersisted {
        /// The node.
        node: NodeId,
        /// Its life.
        life: u32,
        /// The write.
        seq: u64,
    },
    /// A replication stream's task has its turn.
    Pump {
        /// The leader.
        node: NodeId,
        /// Its life.
        life: u32,
        /// The follower.
        to: NodeId,
    },
    /// The transport says that it lost an append.
    Lost {
        /// The leader.
        node: NodeId,
        /// Its life.
        life: u32,
        /// The follower.
        to: NodeId,
        /// The session.
        session: u64,
    },
    /// The apply worker has its turn.
    Apply {
        /// The node.
        node: NodeId,
        /// Its life.
        life: u32,
    },
    /// A node's snapshot is durable.
    SnapshotDurable {
        /// The node.
        node: NodeId,
        /// Its life.
        life: u32,
        /// The snapshot.
        snapshot: Arc<Snapshot>,
        /// Where it is from.
        source: Source,
    },
    /// The task that sends a snapshot looks after it.
    SendSnapshot {
        /// The leader.
        node: NodeId,
        /// Its life.
        life: u32,
        /// The follower.
        to: NodeId,
        /// The session.
        session: u64,
    },
    /// A part of a leader's snapshot was stored, or was not.
    PartStored {
        /// The follower.
        node: NodeId,
        /// Its life.
        life: u32,
        /// The leader.
        from: NodeId,
        /// What the leader is told.
        stored: SnapshotProgress,
    },
    /// A client wants something.
    Request,
    /// An operator begins the group at a node.
    Initialize {
        /// The node.
        node: NodeId,
    },
    /// A fault of the plan strikes.
    Fault {
        /// Its place in the schedule.
        entry: usize,
    },
    /// The links that a fault of the plan cut are whole again, as far as it is concerned.
    Heal {
        /// Its place in the schedule.
        entry: usize,
    },
    /// The copy that was taken of a node's disk is put back.
    PutBack {
        /// The node.
        node: NodeId,
        /// How long the node is down for it.
        down_ms: u64,
    },
    /// A node that is down comes up.
    Restart {
        /// The node.
        node: NodeId,
        /// The life that ended.
        life: u32,
    },
    /// A paused node goes on.
    Resume {
        /// The node.
        node: NodeId,
        /// Its life when it was paused.
        life: u32,
    },
}

impl Event {
    /// The process that handles the event, and the life it belongs to if it dies with the process.
    pub(crate) fn process(&self) -> Option<(NodeId, Option<u32>)> {
        match self {
            Event::Deliver { to, .. } => Some((*to, None)),
            Event::Wake { node, .. } | Event::Initialize { node } => Some((*node, None)),
            Event::SyncDone { node, life }
            | Event::FalselyPersisted { node, life, .. }
            | Event::Pump { node, life, .. }
            | Event::Lost { node, life, .. }
            | Event::SnapshotDurable { node, life, .. }
            | Event::SendSnapshot { node, life, .. }
            | Event::PartStored { node, life, .. }
            | Event::Apply { node, life } => Some((*node, Some(*life))),
            Event::Request
            | Event::Fault { .. }
            | Event::Heal { .. }
            | Event::PutBack { .. }
            | Event::Restart { .. }
            | Event::Resume { .. } => None,
        }
    }
}

/// Events in their order. The heap holds small keys only; the events lie still beside it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    scheduled: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() as u32 - 1
        });
        self.events[slot as usize] = Some(event);
        self.heap.push(Reverse((at, self.scheduled, slot)));
    }

    /// The next event, with its time, if that is not after `end`.
    pub(crate) fn pop(&mut self, end: u64) -> Option<(u64, Event)> {
        let Reverse((at, ..)) = self.heap.peek()?;
        if *at > end {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at, self.events[slot as usize].take()?))
    }

    /// The events that are still to come, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_then_in_the_order_they_came() {
        let mut queue = Queue::default();
        for (at, entry) in [(5, 1), (3, 2), (5, 3), (3, 4), (9, 5)] {
            queue.push(at, Event::Fault { entry });
        }
        assert_eq!(queue.iter().count(), 5);
        let mut order = Vec::new();
        while let Some((at, Event::Fault { entry })) = queue.pop(8) {
            order.push((at, entry));
            if entry == 2 {
                // Takes the slot that has become free.
                queue.push(4, Event::Fault { entry: 6 });
            }
        }
        assert_eq!(order, [(3, 2), (3, 4), (4, 6), (5, 1), (5, 3)]);
        assert_eq!(queue.events.len(), 5);
    }
}
