//! Clients: they write to whoever says it leads, read anywhere, and remember what they were told.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{Batch, Index, Input, LogId, Membership, NodeId, ReadMode, Term};

use crate::engines::check::Fact;
use crate::engines::event::Event;
use crate::engines::world::World;
use crate::rng::Rng;
use crate::sabotage::Sabotage;

/// What clients wait for.
#[derive(Debug)]
pub(crate) struct Clients {
    rng: Rng,
    /// How they read.
    modes: Rng,
    commands: u64,
    tokens: u64,
    /// The batch whose answer the current step gives.
    proposing: Vec<Bytes>,
    /// Commands in a node's log whose fate is open, by node and index.
    pending: BTreeMap<(NodeId, Index), (Term, Bytes)>,
    /// Open reads, by token, with the node that was asked.
    reads: BTreeMap<u64, NodeId>,
    /// The last read answered, with its success.
    served: BTreeMap<u64, bool>,
    /// Commands acknowledged since the faults stopped.
    pub(crate) acknowledged: Vec<Bytes>,
}

impl Clients {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::stream(seed, "clients"),
            modes: Rng::stream(seed, "modes of reading"),
            commands: 0,
            tokens: 0,
            proposing: Vec::new(),
            pending: BTreeMap::new(),
            reads: BTreeMap::new(),
            served: BTreeMap::new(),
            acknowledged: Vec::new(),
        }
    }

    /// A node crashed: nobody answers what was asked of it.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.pending.retain(|(at, _), _| *at != node);
        self.reads.retain(|_, at| *at != node);
    }

    /// A node has restored a snapshot: it does not learn what became of what it proposed before.
    pub(crate) fn skip(&mut self, node: NodeId, through: Index) {
        self.pending.retain(|(at, index), _| *at != node || *index > through);
    }

    pub(crate) fn declined(&mut self) {
        self.proposing.clear();
    }

    pub(crate) fn read_answered(&mut self, token: u64, served: bool) {
        if self.reads.remove(&token).is_some() {
            self.served.insert(token, served);
        }
    }

    /// Whether a read was served, once it was answered.
    pub(crate) fn served(&self, token: u64) -> Option<bool> {
        self.served.get(&token).copied()
    }
}

impl World {
    pub(crate) fn initialize(&mut self, node: NodeId) {
        let members = self.plan.members as u64;
        let voters = (1..=members).map(|id| (id, format!("n{id}")));
        let mut membership = Membership::of_voters(voters).expect("ids begin at 1");
        if self.plan.witness {
            membership = membership.with_witness(members).expect("one of three or more");
        }
        self.input(node, Input::Initialize { membership });
    }

    pub(crate) fn on_request(&mut self) {
        if !self.faults {
            return;
        }
        let delay = self.clients.rng.between(1, 2_000 * self.plan.request_every_us);
        self.schedule(delay, Event::Request);
        let running: Vec<_> = self.nodes.iter().filter(|n| n.is_running()).collect();
        let leaders: Vec<_> = running.iter().filter(|n| n.leads()).map(|n| n.id).collect();
        let running: Vec<_> = running.into_iter().map(|n| n.id).collect();
        if running.is_empty() {
            return;
        }
        if self.clients.rng.chance(550) {
            let at = if leaders.is_empty() { &running } else { &leaders };
            let node = self.clients.rng.pick(at);
            let count = self.clients.rng.pick(&[1, 1, 1, 2, 7]);
            self.propose(node, count);
        } else {
            let node = self.clients.rng.pick(&running);
            let patience_ms = self.clients.rng.between(20, 2_000);
            let age_ms = self.clients.modes.pick(&[0, 100, 2_000]);
            let mode = match self.clients.modes.below(5) {
                0 | 1 if !self.plan.clocks_jump() => ReadMode::Lease,
                2 => ReadMode::Bounded(Duration::from_millis(age_ms)),
                _ => ReadMode::Index,
            };
            self.read(node, mode, patience_ms);
        }
    }

    /// Proposes unique commands at a node. Returns the first.
    pub(crate) fn propose(&mut self, node: NodeId, count: u64) -> Bytes {
        let mut batch = Batch::new(1);
        self.clients.proposing.clear();
        for _ in 0..count {
            self.clients.commands += 1;
            let mut command = self.clients.commands.to_le_bytes().to_vec();
            let padding = self.clients.rng.pick(&[0, 0, 20, 500]);
            command.resize(command.len() + padding, 0);
            batch.push(&command);
            let command = Bytes::from(command);
            self.tell(&Fact::Proposed { payload: &command });
            self.clients.proposing.push(command);
        }
        let first = self.clients.proposing[0].clone();
        self.input(node, Input::Propose { batch });
        first
    }

    pub(crate) fn on_proposed(&mut self, node: NodeId, first: LogId, count: u32) {
        let commands = std::mem::take(&mut self.clients.proposing);
        assert_eq!(commands.len(), count as usize, "each command has its place");
        for (index, command) in (first.index..).zip(commands) {
            if self.sabotage == Some(Sabotage::AcknowledgedEarly) {
                self.tell(&Fact::Acknowledged { index, payload: &command });
            } else {
                self.clients.pending.insert((node, index), (first.term, command));
            }
        }
    }

    /// An entry was applied at the node that may have proposed it, or another in its place.
    pub(crate) fn answer(&mut self, node: NodeId, entry: LogId) {
        let Some((term, command)) = self.clients.pending.remove(&(node, entry.index)) else {
            return;
        };
        if term == entry.term {
            self.statistics.acknowledged += 1;
            self.tell(&Fact::Acknowledged { index: entry.index, payload: &command });
            if !self.faults {
                self.clients.acknowledged.push(command);
            }
        } else {
            self.statistics.overwritten += 1;
            self.tell(&Fact::Overwritten { payload: &command });
        }
    }

    /// Reads at a node. Returns the read's number.
    pub(crate) fn read(&mut self, node: NodeId, mode: ReadMode, patience_ms: u64) -> u64 {
        self.clients.tokens += 1;
        let token = self.clients.tokens;
        self.clients.reads.insert(token, node);
        self.tell(&Fact::ReadIssued { token, mode });
        if self.sabotage == Some(Sabotage::ReadsUnconfirmed) {
            let engine = self.nodes.get(node).engine.as_ref();
            let index = engine.map_or(0, |engine| engine.log().committed());
            self.clients.read_answered(token, true);
            self.tell(&Fact::ReadServed { token, index });
            return token;
        }
        let deadline = self.nodes.get(node).clock.local(self.time + patience_ms * 1_000_000);
        self.input(node, Input::Read { token, deadline, mode });
        token
    }
}
