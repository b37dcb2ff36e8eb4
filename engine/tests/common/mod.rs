//! A cluster that does what it is told: the harness of the paper's rules and of the golden traces.
//!
//! Nothing happens by itself. Messages stay on the wire until they are delivered or dropped, time
//! stands still until it is moved, and a disk can be told to hold its writes back. Whatever a test
//! does, three promises are asserted all along: one leader per term, state machines agree, and what
//! a leader committed stays.

#![allow(dead_code, unreachable_pub)] // each test file uses a part of it

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::message::InstallSnapshot;
use quorate_engine::{
    Batch, Config, Decline, Engine, EntryBlock, HardState, Index, Input, Instant, Log, LogId,
    Membership, Message, NodeId, Notice, Output, Outputs, Persist, ReadMode, Recovery, RoleKind,
    Stream, StreamLimits, Term, TermRun,
};

/// A message under way.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: NodeId,
    pub to: NodeId,
    pub incarnation: u64,
    /// The sender's group, which another may have taken the place of.
    pub group: u64,
    pub message: Message,
}

/// Term, vote and log, in memory or on a disk. What was compacted stays here, as what the snapshot
/// holds, but nobody may read it.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub hard: HardState,
    pub blocks: Vec<EntryBlock>,
    pub compacted: LogId,
    /// The newest snapshot: the entries it was built from.
    pub snapshot: Vec<EntryBlock>,
}

impl Image {
    /// A log whose entries have these terms, written by somebody long ago. Term 0 at index 1 stands
    /// for the first configuration.
    pub fn of_terms(hard: HardState, membership: &Membership, terms: &[Term]) -> Self {
        let block = |(term, index): (&Term, u64)| {
            let id = LogId::new(*term, index);
            if *term == 0 {
                EntryBlock::configuration(id, membership)
            } else {
                let mut batch = Batch::new(0);
                batch.push(format!("{term}.{index}").as_bytes());
                batch.seal(id)
            }
        };
        Self { hard, blocks: terms.iter().zip(1..).map(block).collect(), ..Self::default() }
    }

    pub fn last(&self) -> LogId {
        self.blocks.last().map_or(LogId::ZERO, EntryBlock::last)
    }

    /// The term of every entry, from index 1.
    pub fn terms(&self) -> Vec<Term> {
        let terms = self.blocks.iter().map(|b| vec![b.term(); b.count() as usize]);
        terms.collect::<Vec<_>>().concat()
    }

    fn truncate(&mut self, from: Index) {
        let cut = self.blocks.iter().find(|b| b.first() < from && from <= b.last().index);
        let kept = cut.map(|b| b.slice(b.first(), from - 1));
        self.blocks.retain(|b| b.last().index < from);
        self.blocks.extend(kept);
    }

    fn write(&mut self, write: &Persist) {
        self.hard = write.hard_state.unwrap_or(self.hard);
        if let Some((to, _)) = write.reset.as_deref() {
            assert_eq!(last_of(&self.snapshot), *to, "the snapshot is durable before the reset");
            self.blocks = self.snapshot.clone();
            self.compacted = *to;
        }
        if let Some(from) = write.overwrites {
            self.truncate(from);
        }
        for block in &write.blocks {
            assert_eq!(block.first(), self.last().index + 1, "a hole in the log");
            self.blocks.push(block.clone());
        }
        if let Some(through) = write.compact {
            assert!(through <= last_of(&self.snapshot), "compacted without a snapshot");
            self.compacted = through;
        }
    }

    /// The entries through `index`.
    fn through(&self, index: Index) -> Vec<EntryBlock> {
        let mut all = self.clone();
        all.truncate(index + 1);
        all.blocks
    }

    fn configurations(&self) -> Vec<(LogId, Membership)> {
        let all = self.blocks.iter().filter_map(|b| b.membership().map(|m| (b.last(), m)));
        let all: Vec<_> = all.collect();
        let in_force = all.partition_point(|(id, _)| id.index <= self.compacted.index);
        all[in_force.saturating_sub(1)..].to_vec()
    }

    fn recover(&self) -> Log {
        let mut runs: Vec<TermRun> = Vec::new();
        for b in self.blocks.iter().filter(|b| b.last().index > self.compacted.index) {
            if runs.last().is_none_or(|run| run.term != b.term()) {
                let first = b.first().max(self.compacted.index + 1);
                runs.push(TermRun { first, term: b.term() });
            }
        }
        Log::recovered(self.compacted, self.last(), runs, self.configurations()).unwrap()
    }

    fn entry(&self, index: Index) -> Option<(LogId, Bytes)> {
        let block = self.blocks.iter().find(|b| b.first() <= index && index <= b.last().index)?;
        let payload = block.entries().nth((index - block.first()) as usize)?;
        Some((LogId::new(block.term(), index), Bytes::copy_from_slice(payload)))
    }

    fn read(&self, after: LogId, through: Index, most: usize) -> Option<Vec<EntryBlock>> {
        let there = after.index == 0 || self.entry(after.index).is_some_and(|(id, _)| id == after);
        let there = there && after.index >= self.compacted.index;
        let wanted = self.blocks.iter().filter(|b| b.last().index > after.index);
        let cut = |b: &EntryBlock| b.slice(b.first().max(after.index + 1), b.last().index);
        there.then(|| wanted.filter(|b| b.first() <= through).map(cut).take(most).collect())
    }
}

fn last_of(blocks: &[EntryBlock]) -> LogId {
    blocks.last().map_or(LogId::ZERO, EntryBlock::last)
}

/// One node.
pub struct Node {
    pub config: Config,
    pub engine: Option<Engine>,
    pub memory: Image,
    pub disk: Image,
    pub unsynced: VecDeque<Persist>,
    /// The disk finishes nothing until it is told to.
    pub holds: bool,
    /// The state machine is slow: it is told of what is committed, and has not applied it yet.
    stalled: Option<Index>,
    pub notices: Vec<(NodeId, Notice)>,
    /// Followers that got back what they had lost.
    pub refilled: Vec<NodeId>,
    pub declined: Vec<Decline>,
    /// Changes of membership that began.
    pub changing: Vec<LogId>,
    /// Transfers that came to nothing.
    pub transfers_ended: Vec<NodeId>,
    /// Reads by token: the read index, or nothing if they failed.
    pub reads: BTreeMap<u64, Option<Index>>,
    pub fatal: Option<String>,
    streams: BTreeMap<NodeId, Stream>,
    /// Snapshots on their way: to whom, in which session.
    pub sending: BTreeMap<NodeId, u64>,
    applied: Index,
    /// Which group it belongs to: 0, or the number of times that it was recovered.
    pub group: u64,
}

/// The cluster.
pub struct Cluster {
    pub now: Instant,
    pub nodes: BTreeMap<NodeId, Node>,
    pub wire: VecDeque<Packet>,
    pub cut: Vec<(NodeId, NodeId)>,
    pub trace: Vec<String>,
    pub membership: Membership,
    /// An append carries one block at most.
    pub small_appends: bool,
    /// Copies of disks that somebody keeps.
    pub copies: BTreeMap<NodeId, Image>,
    /// What was applied at each index of each group, by anyone.
    applied: BTreeMap<(u64, Index), (LogId, Bytes)>,
    /// Of each group and term.
    leaders: BTreeMap<(u64, Term), NodeId>,
    todo: VecDeque<(NodeId, Input)>,
    commands: u64,
    boots: u64,
}

/// The entries of a snapshot.
fn parse(data: &Bytes) -> Vec<EntryBlock> {
    let mut rest = data.clone();
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let length = EntryBlock::peek_length(&rest).unwrap();
        blocks.push(EntryBlock::from_bytes(rest.split_to(length)).unwrap());
    }
    blocks
}

pub fn voters(n: u64) -> Membership {
    Membership::of_voters((1..=n).map(|id| (id, format!("n{id}")))).unwrap()
}

impl Cluster {
    /// Nodes `1..=n` with empty disks and no identities.
    pub fn new(n: u64) -> Self {
        let mut cluster = Self {
            now: Instant::from_millis(0),
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: Vec::new(),
            trace: Vec::new(),
            membership: voters(n),
            small_appends: false,
            copies: BTreeMap::new(),
            applied: BTreeMap::new(),
            leaders: BTreeMap::new(),
            todo: VecDeque::new(),
            commands: 0,
            boots: 0,
        };
        (1..=n).for_each(|id| cluster.add(Config::new(id), Image::default()));
        cluster
    }

    /// As [`Cluster::new`], each node with an incarnation of its own: node 1 has 101.
    pub fn with_identities(n: u64) -> Self {
        let mut cluster = Self::new(n);
        for id in 1..=n {
            cluster.add(Config { incarnation: 100 + id, ..Config::new(id) }, Image::default());
        }
        cluster
    }

    /// A cluster of `n` nodes, begun long ago, with a leader: node 1 in term 1.
    pub fn led_by_1(n: u64) -> Self {
        let mut cluster = Self::new(n);
        cluster.initialize(1);
        cluster.deliver_all();
        assert!(cluster.leads(1));
        cluster.wake(1);
        cluster.deliver_all();
        cluster
    }

    /// Nodes with empty disks that are no members.
    pub fn spare(&mut self, ids: &[NodeId]) {
        ids.iter().for_each(|id| self.add(Config::new(*id), Image::default()));
    }

    /// Nodes with empty disks that become learners and catch up.
    pub fn with_learners(mut self, leader: NodeId, ids: &[NodeId]) -> Self {
        self.spare(ids);
        for id in ids {
            let to = self.configured(leader).with_learner(*id, format!("n{id}")).unwrap();
            self.change(leader, to);
            self.run(1_000);
            assert!(self.engine(leader).is_caught_up(self.now, *id), "node {id}");
        }
        self
    }

    /// A node that finds `disk` when it starts.
    pub fn add(&mut self, config: Config, disk: Image) {
        let id = config.id;
        let node = Node {
            config,
            engine: None,
            memory: Image::default(),
            disk,
            unsynced: VecDeque::new(),
            holds: false,
            stalled: None,
            notices: Vec::new(),
            refilled: Vec::new(),
            declined: Vec::new(),
            changing: Vec::new(),
            transfers_ended: Vec::new(),
            reads: BTreeMap::new(),
            fatal: None,
            streams: BTreeMap::new(),
            sending: BTreeMap::new(),
            applied: 0,
            group: 0,
        };
        self.nodes.insert(id, node);
        self.restart(id);
    }

    // ---- looking ----

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub fn engine(&self, id: NodeId) -> &Engine {
        self.nodes[&id].engine.as_ref().expect("the node is up")
    }

    pub fn role(&self, id: NodeId) -> RoleKind {
        self.engine(id).role()
    }

    pub fn leads(&self, id: NodeId) -> bool {
        self.nodes[&id].engine.as_ref().is_some_and(|e| e.role() == RoleKind::Leader)
    }

    /// The leader of the highest term.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.nodes.keys().filter(|id| self.leads(**id));
        leaders.max_by_key(|id| self.engine(**id).term()).copied()
    }

    pub fn term(&self, id: NodeId) -> Term {
        self.engine(id).term()
    }

    /// The configuration in force at a node.
    pub fn configured(&self, id: NodeId) -> Membership {
        self.engine(id).configuration().expect("it has one").1.clone()
    }

    pub fn committed(&self, id: NodeId) -> Index {
        self.engine(id).log().committed()
    }

    pub fn terms(&self, id: NodeId) -> Vec<Term> {
        self.nodes[&id].memory.terms()
    }

    pub fn last(&self, id: NodeId) -> LogId {
        self.engine(id).log().last()
    }

    /// Messages on the wire from one node to another.
    pub fn on_wire(&self, from: NodeId, to: NodeId) -> Vec<&Message> {
        let packets = self.wire.iter().filter(|p| (p.from, p.to) == (from, to));
        packets.map(|p| &p.message).collect()
    }

    // ---- doing ----

    fn say(&mut self, line: String) {
        self.trace.push(line);
    }

    pub fn initialize(&mut self, id: NodeId) {
        let membership = self.membership.clone();
        self.step(id, Input::Initialize { membership });
    }

    /// Proposes commands, each with a payload of its own.
    pub fn propose(&mut self, id: NodeId, count: u64) {
        let mut batch = Batch::new(0);
        for _ in 0..count {
            self.commands += 1;
            batch.push(format!("command {}", self.commands).as_bytes());
        }
        self.step(id, Input::Propose { batch });
    }

    /// An operator wants another membership.
    pub fn change(&mut self, id: NodeId, to: Membership) {
        self.step(id, Input::ChangeMembership { to, expected: None });
    }

    /// An operator wants another leader, within a second.
    pub fn transfer(&mut self, id: NodeId, to: Option<NodeId>) {
        let deadline = self.now + Duration::from_secs(1);
        self.step(id, Input::Transfer { to, deadline });
    }

    /// A read that gives up after ten seconds.
    pub fn read(&mut self, id: NodeId, token: u64) {
        self.read_with(id, token, ReadMode::Index);
    }

    pub fn read_with(&mut self, id: NodeId, token: u64, mode: ReadMode) {
        let deadline = self.now + Duration::from_secs(10);
        self.step(id, Input::Read { token, deadline, mode });
    }

    /// Time goes on and nobody is woken.
    pub fn elapse(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
    }

    /// Time goes on to this node's deadline, if it is not past, and only this node is woken.
    pub fn wake(&mut self, id: NodeId) {
        let deadline = self.engine(id).deadline().expect("the node waits for something");
        self.now = self.now.max(deadline);
        self.step(id, Input::Wake);
    }

    /// Gives an input to a node and carries out what comes of it.
    pub fn step(&mut self, id: NodeId, input: Input) {
        self.todo.push_back((id, input));
        while let Some((id, input)) = self.todo.pop_front() {
            self.one_step(id, input);
        }
    }

    fn one_step(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        let Some(engine) = self.node_mut(id).engine.as_mut() else { return };
        let mut out = Outputs::new();
        engine.step(now, input, &mut out);
        for output in out.drain() {
            self.carry_out(id, output);
        }
        if self.leads(id) {
            let term = self.term(id);
            let group = self.node(id).group;
            let leader = *self.leaders.entry((group, term)).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {term} (paper §5.2)");
        }
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        let visible = !matches!(
            output,
            Output::Send { .. } | Output::Replicate(_) | Output::StoreSnapshot { .. }
        );
        if visible {
            self.say(format!("{id}       {output}"));
        }
        match output {
            Output::Persist(write) => {
                let node = self.node_mut(id);
                node.memory.write(&write);
                node.unsynced.push_back(write);
                if !node.holds {
                    self.finish_writes(id, usize::MAX);
                }
            }
            Output::Send { to, message } => self.post(id, to, message),
            Output::Replicate(target) => {
                let limits = StreamLimits::default();
                let streams = &mut self.node_mut(id).streams;
                streams.entry(target.to).or_insert_with(|| Stream::new(limits)).aim(target);
                self.pump(id, target.to);
            }
            Output::Apply { through } => {
                let node = &self.nodes[&id];
                let witness = node.engine.as_ref().is_some_and(|e| e.hard_state().witness);
                for index in node.applied + 1..=if witness { 0 } else { through } {
                    let entry = node.memory.entry(index).expect("what is committed is there");
                    let known =
                        self.applied.entry((node.group, index)).or_insert_with(|| entry.clone());
                    assert_eq!(*known, entry, "state machines differ at {index} (paper §5.4.3)");
                }
                let node = self.node_mut(id);
                node.applied = through;
                match &mut node.stalled {
                    Some(stalled) => *stalled = through,
                    None => self.todo.push_back((id, Input::Applied { through })),
                }
            }
            Output::SendSnapshot { to, term, session, witness } => {
                self.send_snapshot(id, to, (term, session), witness);
            }
            Output::SnapshotAnswered { .. } => {}
            Output::StoreSnapshot { from, chunk } => {
                // One part is the whole of it, and it is durable at once.
                let node = self.node_mut(id);
                let blocks = parse(&chunk.data);
                node.memory.snapshot.clone_from(&blocks);
                node.disk.snapshot = blocks;
                let (last, session) = (chunk.last, chunk.session);
                let configuration = chunk.configuration;
                let received = Input::SnapshotReceived { from, session, last, configuration };
                self.todo.push_back((id, received));
            }
            Output::Restore { last } => {
                let node = self.node_mut(id);
                assert_eq!(node.memory.compacted, last, "what the log begins with is restored");
                node.applied = last.index;
                self.todo.push_back((id, Input::Applied { through: last.index }));
            }
            Output::Declined(why) => self.node_mut(id).declined.push(why),
            Output::ReadReady { token, index } => {
                self.node_mut(id).reads.insert(token, Some(index));
            }
            Output::ReadFailed { token } => {
                self.node_mut(id).reads.insert(token, None);
            }
            Output::Noticed { peer, what } => self.node_mut(id).notices.push((peer, what)),
            Output::Refilled { peer } => self.node_mut(id).refilled.push(peer),
            Output::Recovered { .. } => self.node_mut(id).group += 1,
            Output::Fatal(fatal) => self.node_mut(id).fatal = Some(fatal.to_string()),
            Output::Changing { id: entry } => self.node_mut(id).changing.push(entry),
            Output::TransferEnded { to } => self.node_mut(id).transfers_ended.push(to),
            Output::Proposed { .. }
            | Output::Configured { .. }
            | Output::Removed { .. }
            | Output::Changed { .. } => {}
        }
    }

    /// Sends the newest snapshot, all of it at once.
    fn send_snapshot(
        &mut self,
        id: NodeId,
        to: NodeId,
        (term, session): (Term, u64),
        witness: bool,
    ) {
        let node = self.node_mut(id);
        if session == 0 {
            node.sending.remove(&to);
            return;
        }
        node.sending.insert(to, session);
        let mut blocks = node.memory.snapshot.clone();
        if witness {
            blocks = blocks.iter().map(EntryBlock::withheld).collect();
        }
        let snapshot =
            Image { blocks, compacted: last_of(&node.memory.snapshot), ..Image::default() };
        let last = snapshot.last();
        let data: Bytes =
            snapshot.blocks.iter().flat_map(|b| b.bytes().to_vec()).collect::<Vec<_>>().into();
        let message = Message::InstallSnapshot(Box::new(InstallSnapshot {
            term,
            session,
            last,
            configuration: snapshot.configurations().remove(0),
            nonce: last.index,
            bytes: data.len() as u64,
            offset: 0,
            data,
            checksum: 0,
            promise: node.config.election_timeout_min,
            witness,
        }));
        self.post(id, to, message);
        self.todo.push_back((id, Input::SendingSnapshot { to, session, last }));
    }

    /// A snapshot of what is applied is built, is durable, and the log is compacted by it.
    pub fn snapshot(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        let blocks = node.memory.through(node.applied);
        let last = last_of(&blocks);
        node.memory.snapshot.clone_from(&blocks);
        node.disk.snapshot = blocks;
        self.step(id, Input::Snapshotted { last });
    }

    fn pump(&mut self, id: NodeId, to: NodeId) {
        loop {
            let blocks = if self.small_appends { 1 } else { usize::MAX };
            let node = self.node_mut(id);
            let Some(stream) = node.streams.get_mut(&to) else { return };
            let Some(want) = stream.want() else { return };
            let Some(blocks) = node.memory.read(want.after, want.through, blocks) else {
                let session = stream.session();
                self.todo.push_back((id, Input::Lost { to, session }));
                return;
            };
            let append = stream.send(blocks);
            let (session, through) = stream.sent().expect("just sent");
            self.post(id, to, Message::AppendEntries(append));
            self.todo.push_back((id, Input::Sent { to, session, through }));
        }
    }

    // ---- disks ----

    /// The first `count` writes that were held back become durable, and the node hears of it.
    pub fn finish_writes(&mut self, id: NodeId, count: usize) {
        let node = self.node_mut(id);
        let count = count.min(node.unsynced.len());
        let mut last = None;
        for write in node.unsynced.drain(..count) {
            node.disk.write(&write);
            last = Some(write.seq);
        }
        if let Some(seq) = last {
            self.todo.push_back((id, Input::Persisted { seq }));
        }
    }

    /// From now on the disk holds its writes back.
    pub fn hold_disk(&mut self, id: NodeId) {
        self.node_mut(id).holds = true;
    }

    /// The disk finishes what it held back, and holds no more.
    pub fn release_disk(&mut self, id: NodeId) {
        self.node_mut(id).holds = false;
        self.sync(id, usize::MAX);
    }

    /// From now on the state machine hangs.
    pub fn stall_machine(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.stalled = Some(node.applied);
    }

    /// The state machine goes on.
    pub fn resume_machine(&mut self, id: NodeId) {
        let through = self.node_mut(id).stalled.take().expect("it hangs");
        self.step(id, Input::Applied { through });
    }

    /// The disk finishes the first `count` writes.
    pub fn sync(&mut self, id: NodeId, count: usize) {
        self.finish_writes(id, count);
        while let Some((id, input)) = self.todo.pop_front() {
            self.say(format!("{id}       ({input})"));
            self.step(id, input);
        }
    }

    /// The power goes; what the disk held back is lost.
    pub fn crash(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.engine = None;
        node.unsynced.clear();
        node.streams.clear();
    }

    /// An operator makes these voters the group, from the disk of `id`, which is down.
    pub fn recover(&mut self, id: NodeId, voters: &[NodeId]) {
        let node = self.node_mut(id);
        assert!(node.engine.is_none(), "node {id} runs");
        let log = node.disk.recover();
        let after = log.last();
        let at = LogId::new(node.disk.hard.term.max(after.term) + 1, after.index + 1);
        let former = (0..=node.group).collect();
        node.group += 1;
        let recovery = Recovery { at, after, by: id, cluster: node.group, former };
        let voters = voters.iter().copied().collect();
        let forced = log.membership().unwrap().recovered(&voters, recovery).unwrap();
        node.disk.hard = HardState::new(at.term, Some(id));
        node.disk.blocks.push(EntryBlock::configuration(at, &forced));
    }

    /// Comes up with what the disk has.
    pub fn restart(&mut self, id: NodeId) {
        self.boots += 1;
        let (now, boots) = (self.now, self.boots);
        let node = self.node_mut(id);
        let snapshot = last_of(&node.disk.snapshot);
        let mut log = Log::empty();
        if node.disk.last() != LogId::ZERO || snapshot != LogId::ZERO {
            let there = node.disk.entry(snapshot.index).is_some_and(|(id, _)| id == snapshot);
            if !there && snapshot > LogId::ZERO {
                // The crash came between the snapshot and the reset, which is done now.
                node.disk.blocks.clone_from(&node.disk.snapshot);
                node.disk.compacted = snapshot;
                node.disk.hard = node.disk.hard.at_least(snapshot.term);
            }
            log = node.disk.recover();
            if snapshot > LogId::ZERO {
                log = log.restored(snapshot).unwrap();
            }
        }
        let config = Config { seed: boots * 1000 + id, ..node.config.clone() };
        node.memory = node.disk.clone();
        node.applied = snapshot.index;
        node.holds = false;
        node.engine = Some(Engine::new(config, node.disk.hard, log, now).unwrap());
    }

    /// The disk is replaced by an empty one, with a new incarnation, and the node comes up.
    pub fn wipe(&mut self, id: NodeId, incarnation: u64) {
        self.crash(id);
        let node = self.node_mut(id);
        node.disk = Image::default();
        node.config.incarnation = incarnation;
        self.restart(id);
    }

    // ---- the wire ----

    fn post(&mut self, from: NodeId, to: NodeId, message: Message) {
        let incarnation = self.nodes[&from].config.incarnation;
        if self.cut.contains(&(from, to)) {
            self.say(format!("{from} -x> {to} {message}"));
        } else {
            let group = self.node(from).group;
            self.wire.push_back(Packet { from, to, incarnation, group, message });
        }
    }

    /// A message out of nowhere arrives.
    pub fn inject(&mut self, from: NodeId, to: NodeId, message: Message) {
        let incarnation = self.nodes.get(&from).map_or(0, |n| n.config.incarnation);
        let group = self.node(to).group;
        self.receive(Packet { from, to, incarnation, group, message });
    }

    pub fn receive(&mut self, p: Packet) {
        if self.nodes.get(&p.to).is_none_or(|n| n.engine.is_none()) {
            self.say(format!("{} -x> {} {}", p.from, p.to, p.message));
            return;
        }
        self.say(format!("{} --> {} {}", p.from, p.to, p.message));
        let Packet { from, to, incarnation, group, message } = p;
        let ours = self.node(to).group;
        if group == ours {
            self.step(to, Input::Receive { from, incarnation, message });
        } else if let Message::Introduce(m) = message {
            // Of another group nothing is heard but that this one has become it.
            let membership = m.configuration.membership();
            let recovery = membership.as_ref().and_then(Membership::recovery);
            if recovery.is_some_and(|r| r.former.last() == Some(&ours) && r.cluster == group) {
                self.step(to, Input::Recovered { from, configuration: m.configuration });
            }
        }
    }

    /// Takes the messages of one link off the wire.
    pub fn take(&mut self, from: NodeId, to: NodeId) -> Vec<Packet> {
        let (taken, left): (Vec<_>, Vec<_>) =
            self.wire.drain(..).partition(|p| (p.from, p.to) == (from, to));
        self.wire = left.into();
        taken
    }

    /// Delivers what is on one link now.
    pub fn deliver(&mut self, from: NodeId, to: NodeId) {
        self.take(from, to).into_iter().for_each(|p| self.receive(p));
    }

    /// Delivers what is on one link now, the last sent first.
    pub fn deliver_reversed(&mut self, from: NodeId, to: NodeId) {
        self.take(from, to).into_iter().rev().for_each(|p| self.receive(p));
    }

    /// Loses what is on one link now.
    pub fn drop(&mut self, from: NodeId, to: NodeId) {
        for p in self.take(from, to) {
            self.say(format!("{from} -x> {to} {}", p.message));
        }
    }

    /// Delivers everything, and what comes of it, until the wire is silent.
    pub fn deliver_all(&mut self) {
        for _ in 0..10_000 {
            let Some(packet) = self.wire.pop_front() else { return };
            self.receive(packet);
        }
        panic!("the wire never falls silent");
    }

    /// Cuts one direction; what is under way on it is lost.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.take(from, to);
        self.cut.push((from, to));
    }

    /// Cuts every link between the sides.
    pub fn partition(&mut self, sides: &[&[NodeId]]) {
        for (i, a) in sides.iter().enumerate() {
            for b in sides.iter().enumerate().filter(|(j, _)| *j != i).flat_map(|(_, b)| *b) {
                a.iter().for_each(|a| self.cut(*a, *b));
            }
        }
    }

    /// Restores every link.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Time goes on by `ms` for everyone: deadlines ring and messages arrive at once.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        self.deliver_all();
        for round in 0.. {
            assert!(round < 100_000, "a deadline that waking does not move");
            let engines = self.nodes.values().filter_map(|n| n.engine.as_ref());
            let Some(next) = engines.filter_map(Engine::deadline).min().filter(|at| *at <= end)
            else {
                break;
            };
            self.now = self.now.max(next);
            let due = |n: &Node| {
                n.engine.as_ref().and_then(Engine::deadline).is_some_and(|at| at <= self.now)
            };
            let ids: Vec<_> =
                self.nodes.iter().filter(|(_, n)| due(n)).map(|(id, _)| *id).collect();
            for id in ids {
                self.step(id, Input::Wake);
            }
            self.deliver_all();
        }
        self.now = end;
    }

    /// Runs until another than `id` leads in a later term. Returns whom.
    pub fn run_until_other_leader(&mut self, id: NodeId) -> NodeId {
        let term = self.term(id);
        for _ in 0..200 {
            self.run(50);
            let leader = self.leader().filter(|other| *other != id && self.term(*other) > term);
            if let Some(leader) = leader {
                return leader;
            }
        }
        panic!("nobody else leads: {:#?}", self.trace.iter().rev().take(30).collect::<Vec<_>>());
    }

    /// Runs until someone leads whom everyone that is up follows. Returns whom.
    pub fn run_until_led(&mut self, ms: u64) -> Option<NodeId> {
        for _ in 0..ms / 50 {
            let mut engines = self.nodes.values().filter_map(|n| n.engine.as_ref());
            if let Some(leader) = self.leader() {
                let term = self.term(leader);
                if engines.all(|e| e.leader() == Some(leader) && e.term() == term) {
                    return Some(leader);
                }
            }
            self.run(50);
        }
        None
    }
}
