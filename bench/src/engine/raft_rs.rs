//! Three nodes of TiKV's `raft` crate, as its own examples drive them.
//!
//! What there was to choose is chosen in its favour:
//!
//! - `batch_append`, off by default: what is proposed between two `ready` goes to a follower as one
//!   message, not as one for each entry.
//! - `skip_bcast_commit`, off by default: a commit goes out with the next append, as with the other
//!   subject, not in messages of its own.
//! - Sizes of messages are not limited, so that they are not computed either; the window of messages in
//!   flight is never full.
//! - A turn takes all messages before it asks for what is `ready`, and asks only a node that something
//!   happened to.
//! - A write is durable at once, so `advance` reports it and hands out what follows from it; the
//!   asynchronous way would ask for another `ready` for that.
//! - Logs are short, so what its storage does in proportion to them costs little.
//! - Log lines are dropped, and those below `info` are not compiled.
//!
//! Check-quorum and pre-vote are on, as they always are with the other subject.

use raft::eraftpb::{Entry, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use slog::{Discard, Logger, o};

use super::{Applied, Cluster, KEPT_ENTRIES, NODES, ROUNDS_PER_TICK, not_elected};
use crate::failure::Failure;

/// In ticks: 100 ms.
const HEARTBEAT_TICK: usize = 10;
/// In ticks: 500 ms, to twice as long.
const ELECTION_TICK: usize = 50;

/// Three nodes and what is under way between them.
pub(super) struct RaftRs {
    nodes: Vec<Node>,
    wires: Wires,
    rounds: u64,
    value: Vec<u8>,
}

/// Messages on their way.
struct Wires {
    /// By receiver.
    inboxes: [Vec<Message>; NODES],
    sent: u64,
}

impl Wires {
    fn send(&mut self, messages: Vec<Message>) {
        self.sent += messages.len() as u64;
        for message in messages {
            self.inboxes[message.to as usize - 1].push(message);
        }
    }
}

struct Node {
    raft: RawNode<MemStorage>,
    /// The same that `raft` has.
    store: MemStorage,
    /// Whether anything happened since it was last asked for what is ready.
    touched: bool,
    compacted: u64,
    applied: Applied,
    /// What should not have happened.
    fault: Option<String>,
}

impl Cluster for RaftRs {
    const NAME: &'static str = "raft-rs";

    fn start(value_bytes: usize, entries: usize) -> Result<Self, Failure> {
        let nodes = (1..=NODES as u64).map(|id| Node::new(id, entries));
        let nodes = nodes.collect::<Result<Vec<_>, _>>().map_err(not_elected)?;
        let wires = Wires { inboxes: Default::default(), sent: 0 };
        let mut cluster = Self { nodes, wires, rounds: 0, value: vec![7; value_bytes] };
        cluster.nodes[0].raft.campaign().map_err(not_elected)?;
        cluster.nodes[0].touched = true;
        cluster.run();
        cluster.settle();
        match cluster.nodes[0].raft.raft.state {
            StateRole::Leader => Ok(cluster),
            _ => Err(not_elected("no leader was elected")),
        }
    }

    fn round(&mut self, entries: usize) {
        self.rounds += 1;
        if self.rounds % ROUNDS_PER_TICK == 0 {
            self.nodes.iter_mut().for_each(|node| node.touched |= node.raft.tick());
        }
        let leader = &mut self.nodes[0];
        leader.touched = true;
        for _ in 0..entries {
            let proposed = leader.raft.propose(Vec::new(), self.value.clone());
            leader.check(proposed);
        }
        self.run();
    }

    fn settle(&mut self) {
        // The last commit goes out with a heartbeat.
        self.nodes[0].raft.ping();
        self.nodes[0].touched = true;
        self.run();
    }

    fn sent(&self) -> u64 {
        self.wires.sent
    }

    fn applied(&self, node: usize) -> Applied {
        self.nodes[node].applied
    }

    fn fault(&self) -> Option<&str> {
        self.nodes.iter().find_map(|node| node.fault.as_deref())
    }
}

impl RaftRs {
    /// Delivers until nobody has anything to say.
    fn run(&mut self) {
        let Self { nodes, wires, .. } = self;
        let mut moved = true;
        while moved {
            moved = false;
            for node in nodes.iter_mut() {
                moved |= node.turn(wires);
            }
        }
    }
}

impl Node {
    fn new(id: u64, entries: usize) -> raft::Result<Self> {
        let voters: Vec<u64> = (1..=NODES as u64).collect();
        let store = MemStorage::new_with_conf_state((voters, vec![]));
        let config = Config {
            heartbeat_tick: HEARTBEAT_TICK,
            election_tick: ELECTION_TICK,
            // Each entry of a batched append takes one.
            max_inflight_msgs: (2 * entries).max(256),
            max_size_per_msg: u64::MAX,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: true,
            batch_append: true,
            ..Config::new(id)
        };
        let raft = RawNode::new(&config, store.clone(), &Logger::root(Discard, o!()))?;
        let applied = Applied::default();
        Ok(Self { raft, store, touched: false, compacted: 0, applied, fault: None })
    }

    fn check(&mut self, done: raft::Result<()>) {
        if let Err(error) = done {
            self.fault = Some(error.to_string());
        }
    }

    /// Takes what has arrived and carries out what follows; whether there was anything.
    fn turn(&mut self, wires: &mut Wires) -> bool {
        let at = self.raft.raft.id as usize - 1;
        let mut inbox = std::mem::take(&mut wires.inboxes[at]);
        self.touched |= !inbox.is_empty();
        for message in inbox.drain(..) {
            let taken = self.raft.step(message);
            self.check(taken);
        }
        // Nobody sends to itself: the memory goes back to an inbox that is empty.
        wires.inboxes[at] = inbox;
        let moved = std::mem::take(&mut self.touched);
        while moved && self.raft.has_ready() {
            self.carry_out(wires);
        }
        moved
    }

    /// Carries out what is ready, in the order that its documentation gives.
    fn carry_out(&mut self, wires: &mut Wires) {
        let mut ready = self.raft.ready();
        wires.send(ready.take_messages());
        self.apply(ready.take_committed_entries());
        if !ready.entries().is_empty() {
            let appended = self.store.wl().append(ready.entries());
            self.check(appended);
        }
        if let Some(hard_state) = ready.hs() {
            self.store.wl().set_hardstate(hard_state.clone());
        }
        wires.send(ready.take_persisted_messages());
        let mut light = self.raft.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.store.wl().mut_hard_state().set_commit(commit);
        }
        wires.send(light.take_messages());
        self.apply(light.take_committed_entries());
        self.raft.advance_apply();
        self.compact();
    }

    /// Counts the commands.
    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            // The first entry of a leader is empty; no command is.
            if !entry.data.is_empty() {
                self.applied.add(&entry.data);
            }
        }
    }

    /// Has the log compacted now and then, as if there were a snapshot.
    fn compact(&mut self) {
        let applied = self.raft.raft.raft_log.applied;
        if applied >= self.compacted + 2 * KEPT_ENTRIES {
            self.compacted = applied - KEPT_ENTRIES;
            let compacted = self.store.wl().compact(self.compacted);
            self.check(compacted);
        }
    }
}
