//! Three engines of `quorate-engine`.
//!
//! Around each is what a node needs of its surroundings and no more: the newest blocks of the log in
//! memory, a stream for each follower, a state machine that counts. As in a node, what clients
//! propose is gathered into one batch, a turn takes everything from the inbox before it carries out
//! anything, and a follower learns of a commit with the next append.

use std::collections::{VecDeque, vec_deque};
use std::time::Duration;

use quorate_engine::{
    Batch, Config, Engine, EntryBlock, EntryKind, HardState, Index, Input, Instant, Log, LogId,
    Membership, Message, NodeId, Output, Outputs, Persist, RoleKind, Stream, StreamLimits, Want,
};

use super::{Applied, Cluster, KEPT_ENTRIES, NODES, ROUNDS_PER_TICK, TICK, not_elected};
use crate::failure::Failure;

/// Of a block, as a node bounds it.
const BLOCK_BYTES: usize = 256 << 10;

/// Three nodes and what is under way between them.
pub(super) struct Quorate {
    nodes: Vec<Node>,
    wires: Wires,
    now: Instant,
    rounds: u64,
    value: Vec<u8>,
}

/// Messages on their way.
struct Wires {
    /// By receiver, each with its sender.
    inboxes: [Vec<(NodeId, Message)>; NODES],
    sent: u64,
}

impl Wires {
    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.inboxes[to as usize - 1].push((from, message));
        self.sent += 1;
    }
}

struct Node {
    id: NodeId,
    engine: Engine,
    outputs: Outputs,
    /// The log: contiguous, and in memory alone.
    tail: VecDeque<EntryBlock>,
    /// To every other node.
    streams: Vec<(NodeId, Stream)>,
    /// The last entry applied.
    applied_through: Index,
    applied: Applied,
    /// When its deadline was last looked at: once in a tick, within which no time passes.
    woken_at: Instant,
    /// What should not have happened.
    fault: Option<String>,
}

impl Cluster for Quorate {
    const NAME: &'static str = "quorate";

    fn start(value_bytes: usize, _entries: usize) -> Result<Self, Failure> {
        let now = Instant::from_millis(1);
        let nodes = (1..=NODES as NodeId).map(|id| Node::new(id, now));
        let nodes = nodes.collect::<Result<_, _>>()?;
        let wires = Wires { inboxes: Default::default(), sent: 0 };
        let mut cluster = Self { nodes, wires, now, rounds: 0, value: vec![7; value_bytes] };
        let members = (1..=NODES as NodeId).map(|id| (id, id.to_string()));
        let membership = Membership::of_voters(members).map_err(not_elected)?;
        cluster.nodes[0].step(now, Input::Initialize { membership });
        for _ in 0..1000 {
            cluster.run();
            if cluster.is_settled() && cluster.nodes[0].engine.role() == RoleKind::Leader {
                return Ok(cluster);
            }
            cluster.now = cluster.now + TICK;
        }
        Err(not_elected("no leader was elected"))
    }

    fn round(&mut self, entries: usize) {
        self.rounds += 1;
        if self.rounds % ROUNDS_PER_TICK == 0 {
            self.now = self.now + TICK;
        }
        self.nodes[0].propose(self.now, &self.value, entries);
        self.run();
    }

    fn settle(&mut self) {
        // The last commit goes out with a heartbeat.
        self.now = self.now + Duration::from_millis(100);
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

impl Quorate {
    /// Delivers until nobody has anything to say.
    fn run(&mut self) {
        let Self { nodes, wires, now, .. } = self;
        let mut moved = true;
        while moved {
            moved = false;
            for node in nodes.iter_mut() {
                moved |= node.turn(*now, wires);
            }
        }
    }

    /// Whether all logs are the same and applied.
    fn is_settled(&self) -> bool {
        let last = self.nodes[0].engine.log().last();
        let same =
            |node: &Node| (node.engine.log().last(), node.applied_through) == (last, last.index);
        last.index > 0 && self.nodes.iter().all(same)
    }
}

impl Node {
    fn new(id: NodeId, now: Instant) -> Result<Self, Failure> {
        let config = Config {
            incarnation: id,
            keep_entries: KEPT_ENTRIES,
            // As the peer's: only the number of clients bounds what waits.
            max_uncommitted_bytes: u64::MAX,
            max_unapplied_bytes: u64::MAX,
            ..Config::new(id)
        };
        let engine = Engine::new(config, HardState::default(), Log::empty(), now);
        let others = (1..=NODES as NodeId).filter(|other| *other != id);
        let streams = others.map(|other| (other, Stream::new(StreamLimits::default())));
        Ok(Self {
            id,
            engine: engine.map_err(not_elected)?,
            outputs: Outputs::new(),
            tail: VecDeque::new(),
            streams: streams.collect(),
            applied_through: 0,
            applied: Applied::default(),
            woken_at: Instant::ORIGIN,
            fault: None,
        })
    }

    fn step(&mut self, now: Instant, input: Input) {
        self.engine.step(now, input, &mut self.outputs);
    }

    /// Proposes `entries` times `value`, as one batch if it fits a block.
    fn propose(&mut self, now: Instant, value: &[u8], entries: usize) {
        // In a block each has its length before it.
        let fit = (BLOCK_BYTES / (4 + value.len())).clamp(1, entries);
        for begun in (0..entries).step_by(fit) {
            let count = fit.min(entries - begun);
            let body_bytes = count * (4 + value.len());
            let mut batch = Batch::with_capacity(EntryKind::Command, 0, body_bytes);
            (0..count).for_each(|_| batch.push(value));
            self.step(now, Input::Propose { batch });
        }
    }

    /// Takes what has arrived and carries out what follows; whether there was anything.
    fn turn(&mut self, now: Instant, wires: &mut Wires) -> bool {
        let at = self.id as usize - 1;
        let idle = wires.inboxes[at].is_empty() && self.outputs.as_slice().is_empty();
        if idle && self.woken_at == now {
            return false;
        }
        let mut inbox = std::mem::take(&mut wires.inboxes[at]);
        for (from, message) in inbox.drain(..) {
            self.step(now, Input::Receive { from, incarnation: from, message });
        }
        // Nobody sends to itself: the memory goes back to an inbox that is empty.
        wires.inboxes[at] = inbox;
        if self.woken_at < now && self.engine.deadline().is_some_and(|at| at <= now) {
            for at in 0..self.streams.len() {
                let (to, stream) = &self.streams[at];
                if let Some((session, through)) = stream.sent() {
                    let sent = Input::Sent { to: *to, session, through };
                    self.engine.step(now, sent, &mut self.outputs);
                }
            }
            self.step(now, Input::Wake);
        }
        self.woken_at = now;
        let moved = !self.outputs.as_slice().is_empty();
        while !self.outputs.as_slice().is_empty() {
            self.carry_out(now, wires);
        }
        moved
    }

    /// Carries out the outputs, and tells the engine what was completed by that.
    fn carry_out(&mut self, now: Instant, wires: &mut Wires) {
        let (mut persisted, mut apply, mut aimed) = (None, None, false);
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain() {
            match output {
                Output::Persist(persist) => {
                    persisted = Some(persist.seq);
                    self.persist(persist);
                }
                Output::Send { to, message } => wires.send(self.id, to, message),
                Output::Replicate(target) => {
                    let stream = self.streams.iter_mut().find(|(to, _)| *to == target.to);
                    stream.expect("there is a stream to each").1.aim(target);
                    aimed = true;
                }
                Output::Apply { through } => apply = Some(through),
                Output::Proposed { .. } | Output::Configured { .. } | Output::Changed { .. } => {}
                other => self.fault = Some(other.to_string()),
            }
        }
        self.outputs = outputs;
        for (to, stream) in self.streams.iter_mut().filter(|_| aimed) {
            while let Some(want) = stream.want() {
                let append = stream.send(read(&self.tail, want));
                wires.send(self.id, *to, Message::AppendEntries(append));
            }
        }
        // The log's disk is memory: a write is durable as soon as it is made.
        if let Some(seq) = persisted {
            self.step(now, Input::Persisted { seq });
        }
        if let Some(through) = apply {
            self.apply(through);
            self.step(now, Input::Applied { through });
            self.compact(now);
        }
    }

    fn persist(&mut self, persist: Persist) {
        if persist.overwrites.is_some() || persist.reset.is_some() {
            self.fault = Some("a log was overwritten though nothing was lost".to_owned());
        }
        self.tail.extend(persist.blocks);
        if let Some(through) = persist.compact {
            while self.tail.front().is_some_and(|block| block.last() <= through) {
                self.tail.pop_front();
            }
        }
    }

    /// Counts the commands through this index.
    fn apply(&mut self, through: Index) {
        for block in behind(&self.tail, self.applied_through).take_while(|b| b.first() <= through) {
            if block.kind() == EntryKind::Command {
                for (index, command) in (block.first()..).zip(block.entries()) {
                    if index > self.applied_through && index <= through {
                        self.applied.add(command);
                    }
                }
            }
        }
        self.applied_through = through;
    }

    /// Has the log compacted now and then, as if there were a snapshot.
    fn compact(&mut self, now: Instant) {
        let log = self.engine.log();
        let through = self.applied_through;
        if through >= log.compacted().index + 2 * KEPT_ENTRIES {
            let term = log.term_at(through).expect("what is applied now is in the log");
            self.step(now, Input::Snapshotted { last: LogId::new(term, through) });
        }
    }
}

/// The blocks behind the entry at `index`. They are the newest, so they are looked for from the end.
fn behind(tail: &VecDeque<EntryBlock>, index: Index) -> vec_deque::Iter<'_, EntryBlock> {
    let newer = tail.iter().rev().take_while(|block| block.last().index > index).count();
    tail.range(tail.len() - newer..)
}

/// The entries that a stream wants, in whole blocks.
fn read(tail: &VecDeque<EntryBlock>, want: Want) -> Vec<EntryBlock> {
    let newer = behind(tail, want.after.index);
    let (mut blocks, mut bytes) = (Vec::with_capacity(newer.len()), 0);
    for block in newer.take_while(|block| block.first() <= want.through) {
        bytes += block.bytes().len();
        if bytes > want.max_bytes && !blocks.is_empty() {
            break;
        }
        blocks.push(block.clone());
    }
    blocks
}
