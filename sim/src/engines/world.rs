//! The world: every event in one order, engines stepped, their outputs carried out, facts told to
//! the checkers.
//!
//! Events are ordered by time and then by the order in which they were scheduled, so nothing depends
//! on anything but the seed. The nemesis and the clients are in files of their own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use quorate_engine::{
    Config, Index, Input, LogId, Message, NodeId, Notice, Output, Outputs, Replicate, Stream,
};

use crate::engines::check::{self, Check, Fact, Nodes};
use crate::engines::clients::Clients;
use crate::engines::network::Network;
use crate::engines::node::Node;
use crate::engines::plan::Plan;
use crate::engines::sabotage::Sabotage;
use crate::rng::Rng;
use crate::trace::{Trace, TraceMode};

/// Something that is going to happen.
#[derive(Debug)]
pub enum Event {
    /// A message arrives.
    Deliver {
        /// The receiver.
        to: NodeId,
        /// The sender.
        from: NodeId,
        /// The sender's incarnation when it was sent.
        incarnation: u64,
        /// The message.
        message: Message,
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
    /// A completion that is a lie; see [`Sabotage::DiskLies`].
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
    /// A client wants something.
    Request,
    /// An operator begins the group at a node.
    Initialize {
        /// The node.
        node: NodeId,
    },
    /// The nemesis strikes.
    Fault,
    /// A crashed node comes up.
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
    fn process(&self) -> Option<(NodeId, Option<u32>)> {
        match self {
            Event::Deliver { to, .. } => Some((*to, None)),
            Event::Wake { node, .. } | Event::Initialize { node } => Some((*node, None)),
            Event::SyncDone { node, life }
            | Event::FalselyPersisted { node, life, .. }
            | Event::Pump { node, life, .. }
            | Event::Lost { node, life, .. }
            | Event::Apply { node, life } => Some((*node, Some(*life))),
            Event::Request | Event::Fault | Event::Restart { .. } | Event::Resume { .. } => None,
        }
    }
}

#[derive(Debug)]
struct Scheduled(u64, u64, Event);

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of the world.
    pub seed: u64,
    /// World time in nanoseconds.
    pub at: u64,
    /// Which promise.
    pub promise: &'static str,
    /// How it is broken.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}, after {} ms: {}: {}\nreplay: QUORATE_SEED={} cargo test -p quorate-sim \
             --test engines replay -- --nocapture",
            self.seed,
            self.at / 1_000_000,
            self.promise,
            self.what,
            self.seed
        )
    }
}

impl std::error::Error for Failure {}

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Steps of engines.
    pub steps: u64,
    /// Leaders that came to be.
    pub elections: u64,
    /// Writes acknowledged to clients.
    pub acknowledged: u64,
    /// Writes that clients were told are overwritten.
    pub overwritten: u64,
    /// Reads served.
    pub reads: u64,
    /// Crashes.
    pub crashes: u64,
    /// Writes to disks that a crash lost.
    pub lost_writes: u64,
    /// Disks lost for good.
    pub wipes: u64,
    /// Nodes that the others refused for it.
    pub refused: u64,
}

/// A cluster and everything around it.
#[derive(Debug)]
pub struct World {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) time: u64,
    scheduled: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    pub(crate) nodes: Nodes,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    checks: Vec<Box<dyn Check>>,
    trace: Trace,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) failure: Option<Failure>,
    /// The only promise that counts, if one is singled out.
    only: Option<&'static str>,
    pub(crate) statistics: Statistics,
    pub(crate) faults: bool,
    wakes: u64,
}

impl World {
    /// The world of `seed` under `plan`, with every node up and nothing begun.
    pub fn new(seed: u64, plan: Plan) -> Self {
        Self::with(seed, plan, TraceMode::Off, None)
    }

    /// A world with a trace, and with a planted bug.
    pub fn with(seed: u64, plan: Plan, trace: TraceMode, sabotage: Option<Sabotage>) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = (1..=plan.nodes as u64)
            .map(|id| {
                let incarnation = if plan.incarnations { rng.number() | 1 } else { 0 };
                Node::new(id, incarnation, plan.clocks[id as usize - 1], plan.limits)
            })
            .collect();
        let mut world = Self {
            seed,
            network: Network::new(plan.nodes, plan.weather),
            rng,
            time: 0,
            scheduled: 0,
            queue: BinaryHeap::new(),
            nodes: Nodes(nodes),
            clients: Clients::default(),
            checks: check::all(),
            trace: Trace::new(trace),
            sabotage,
            failure: None,
            only: None,
            statistics: Statistics::default(),
            faults: true,
            wakes: 0,
            plan,
        };
        for id in 1..=world.plan.nodes as u64 {
            world.start(id);
        }
        let first = world.any_node();
        world.schedule(0, Event::Initialize { node: first });
        if world.plan.two_beginnings {
            let second = world.any_node();
            let delay = world.rng.below(2_000_000_000);
            world.schedule(delay, Event::Initialize { node: second });
        }
        world.schedule(0, Event::Request);
        world.schedule(world.plan.fault_every_us * 1_000, Event::Fault);
        world
    }

    /// The world's time in nanoseconds.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// The machines.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// How much happened so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// What happened so far, as far as it is kept.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(crate) fn any_node(&mut self) -> NodeId {
        1 + self.rng.below(self.plan.nodes as u64)
    }

    pub(crate) fn schedule(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled(self.time + delay, self.scheduled, event)));
    }

    /// Looks at one promise alone, to see that its checker can fail by itself.
    pub fn look_only_at(&mut self, promise: &'static str) {
        self.only = Some(promise);
    }

    pub(crate) fn fail(&mut self, promise: &'static str, what: String) {
        if self.only.is_some_and(|only| only != promise) {
            return;
        }
        let failure = self.failure(promise, what);
        self.failure.get_or_insert(failure);
    }

    /// A broken promise, here and now.
    pub fn failure(&self, promise: &'static str, what: String) -> Failure {
        Failure { seed: self.seed, at: self.time, promise, what }
    }

    pub(crate) fn say(&mut self, node: NodeId, what: fmt::Arguments<'_>) {
        self.trace.line(self.time, node, what);
    }

    /// Tells every checker.
    pub(crate) fn tell(&mut self, fact: &Fact<'_>) {
        let mut broken = None;
        for check in &mut self.checks {
            let counts = self.only.is_none_or(|only| only == check.name());
            if let (Err(what), true) = (check.on(fact, &self.nodes), counts) {
                broken = broken.or(Some((check.name(), what)));
            }
        }
        if let Some((name, what)) = broken {
            self.fail(name, what);
        }
    }

    /// Runs faults and load for the time of the plan.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn run(&mut self) -> Result<Statistics, Failure> {
        let end = self.plan.duration.as_nanos() as u64;
        self.run_until(end, |_| false)?;
        Ok(self.statistics)
    }

    /// Runs until world time `end`, or until `done`. Returns whether `done`.
    pub(crate) fn run_until(
        &mut self,
        end: u64,
        mut done: impl FnMut(&World) -> bool,
    ) -> Result<bool, Failure> {
        let mut at_once = 0;
        while self.queue.peek().is_some_and(|Reverse(next)| next.0 <= end) {
            let Some(Reverse(Scheduled(at, _, event))) = self.queue.pop() else { break };
            at_once = if at > self.time + 1_000 { 0 } else { at_once + 1 };
            if at_once > 200_000 {
                self.fail("time goes on", "200000 events within no time".into());
            }
            self.time = self.time.max(at);
            self.happen(event);
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            if done(self) {
                return Ok(true);
            }
        }
        self.time = self.time.max(end);
        Ok(false)
    }

    fn happen(&mut self, event: Event) {
        if let Some((id, life)) = event.process() {
            let node = self.nodes.get_mut(id);
            if node.engine.is_none() || life.is_some_and(|life| life != node.life) {
                return;
            }
            if let Some(backlog) = &mut node.paused {
                backlog.push_back(event);
                return;
            }
        }
        match event {
            Event::Deliver { to, from, incarnation, message } => {
                self.input(to, Input::Receive { from, incarnation, message });
            }
            Event::Wake { node, number } => {
                if self.nodes.get(node).wake.is_some_and(|(_, newest)| newest == number) {
                    self.nodes.get_mut(node).wake = None;
                    self.input(node, Input::Wake);
                }
            }
            Event::SyncDone { node, .. } => self.on_sync_done(node),
            Event::FalselyPersisted { node, seq, .. } => {
                self.input(node, Input::Persisted { seq });
            }
            Event::Pump { node, to, .. } => self.pump(node, to),
            Event::Lost { node, to, session, .. } => self.input(node, Input::Lost { to, session }),
            Event::Apply { node, .. } => self.apply(node),
            Event::Request => self.on_request(),
            Event::Initialize { node } => self.initialize(node),
            Event::Fault => self.on_fault(),
            Event::Restart { node, life } => {
                let down = self.nodes.get(node).engine.is_none();
                let down = down && self.nodes.get(node).stopped.is_none();
                if down && self.nodes.get(node).life == life {
                    self.start(node);
                }
            }
            Event::Resume { node, life } => {
                if self.nodes.get(node).life == life {
                    self.resume(node);
                }
            }
        }
    }

    // ---- processes ----

    pub(crate) fn start(&mut self, id: NodeId) {
        let seed = self.rng.number();
        let plan = &self.plan;
        let node = self.nodes.get_mut(id);
        let config = Config {
            incarnation: node.incarnation,
            heartbeat_interval: plan.heartbeat,
            election_timeout_min: plan.election_min,
            election_timeout_max: plan.election_max,
            max_uncommitted_bytes: plan.max_uncommitted_bytes,
            seed,
            ..Config::new(id)
        };
        let now = node.clock.local(self.time);
        if let Err(e) = node.start(config, now) {
            node.stopped = Some(e.to_string());
            if node.wiped {
                self.statistics.refused += 1;
                return;
            }
            self.fail("a node can start from what its disk kept", format!("node {id}: {e}"));
            return;
        }
        let (last, hard) = (self.nodes.get(id).log.last(), self.nodes.get(id).disk.durable().hard);
        self.say(id, format_args!("starts, log through {last}, {hard}"));
        self.tell(&Fact::Started { node: id });
        self.set_timer(id);
    }

    pub(crate) fn crash(&mut self, id: NodeId) {
        let sabotage = self.sabotage;
        let node = self.nodes.get_mut(id);
        if sabotage == Some(Sabotage::WritesReordered) {
            node.disk.lose_first_unsynced();
        }
        let lost = node.disk.crash(&mut self.rng);
        if sabotage == Some(Sabotage::VoteForgotten) {
            // Not below the log's own term: the engine would see that and refuse to start.
            node.disk.tamper(|image| {
                image.hard =
                    quorate_engine::HardState { term: image.log.last().term, voted_for: None };
            });
        }
        if sabotage == Some(Sabotage::SyncIgnored) {
            node.disk.tamper(|image| {
                let last = image.log.blocks().last().map(|block| block.first());
                image.log.truncate(last.unwrap_or(0));
            });
        }
        node.kill();
        self.clients.forget(id);
        self.statistics.crashes += 1;
        self.statistics.lost_writes += lost as u64;
        self.say(id, format_args!("crashes and loses {lost} unsynced writes"));
        self.tell(&Fact::Crashed { node: id });
    }

    pub(crate) fn resume(&mut self, id: NodeId) {
        let Some(backlog) = self.nodes.get_mut(id).paused.take() else { return };
        self.say(id, format_args!("goes on"));
        for event in backlog {
            self.schedule(0, event);
        }
    }

    /// Gives one input to one engine and carries out what comes of it.
    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        let mut out = Outputs::new();
        self.say(id, format_args!("<- {input}"));
        let node = self.nodes.get_mut(id);
        if node.stopped.is_some() {
            return;
        }
        let led = node.leads();
        let now = node.clock.local(self.time);
        let Some(engine) = &mut node.engine else { return };
        engine.step(now, input, &mut out);
        self.statistics.steps += 1;
        if !led && self.nodes.get(id).leads() {
            self.statistics.elections += 1;
        }
        for output in out.drain() {
            self.carry_out(id, output);
        }
        self.tell(&Fact::Stepped { node: id });
        self.set_timer(id);
    }

    fn set_timer(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(id);
        let Some(engine) = &node.engine else { return };
        let Some(deadline) = engine.deadline() else {
            node.wake = None;
            return;
        };
        let at = node.clock.world(deadline).max(self.time + 1);
        if node.wake.is_some_and(|(set, _)| set == at) {
            return;
        }
        self.wakes += 1;
        let number = self.wakes;
        node.wake = Some((at, number));
        self.schedule(at - self.time, Event::Wake { node: id, number });
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        self.say(id, format_args!("-> {output}"));
        match output {
            Output::Persist(write) => {
                self.tell(&Fact::Writing { node: id, write: &write });
                if self.sabotage == Some(Sabotage::DiskLies) {
                    let (life, seq) = (self.nodes.get(id).life, write.seq);
                    self.schedule(0, Event::FalselyPersisted { node: id, life, seq });
                }
                let node = self.nodes.get_mut(id);
                node.log.write(&write);
                node.disk.submit(write);
                self.sync(id);
            }
            Output::Send { to, message } => self.send(id, to, message),
            Output::Replicate(target) => self.aim(id, target),
            Output::Apply { through } => {
                let node = self.nodes.get_mut(id);
                node.apply_target = through;
                if !std::mem::replace(&mut node.applying, true) {
                    let life = node.life;
                    let delay = self.rng.between(1_000, 3_000_000);
                    self.schedule(delay, Event::Apply { node: id, life });
                }
            }
            Output::Proposed { first, count } => self.on_proposed(id, first, count),
            Output::Declined(_) => self.clients.declined(),
            Output::ReadReady { token, index } => {
                self.clients.read_answered(token, true);
                self.statistics.reads += 1;
                self.tell(&Fact::ReadServed { token, index });
            }
            Output::ReadFailed { token } => self.clients.read_answered(token, false),
            Output::Configured { .. } | Output::Changed { .. } => {}
            Output::Noticed { peer, what } => {
                // Every peer here is correct, unless its disk was lost: to accuse one is a bug.
                let identity = matches!(what, Notice::Stranger | Notice::RefusesUs);
                if !identity && !self.nodes.get(peer).wiped {
                    self.fail("no correct peer is accused", format!("{id} of {peer}: {what}"));
                }
            }
            Output::Fatal(fatal) => {
                self.nodes.get_mut(id).stopped = Some(fatal.to_string());
                self.statistics.refused += 1;
                if !self.nodes.get(id).wiped {
                    self.fail("no correct node stops", format!("{id}: {fatal}"));
                }
            }
        }
    }

    // ---- disks ----

    fn sync(&mut self, id: NodeId) {
        let (low, high) = self.plan.sync_us;
        let node = self.nodes.get_mut(id);
        if !node.disk.begin_sync() {
            return;
        }
        let takes = self.rng.between(low, high) * 1_000 * node.disk_factor;
        let at = (self.time + takes).max(node.hung_until);
        let life = node.life;
        self.schedule(at - self.time, Event::SyncDone { node: id, life });
    }

    fn on_sync_done(&mut self, id: NodeId) {
        let Some(seq) = self.nodes.get_mut(id).disk.end_sync() else { return };
        self.tell(&Fact::Synced { node: id });
        self.sync(id);
        if self.sabotage != Some(Sabotage::DiskLies) {
            self.input(id, Input::Persisted { seq });
        }
    }

    // ---- messages ----

    fn send(&mut self, from: NodeId, to: NodeId, mut message: Message) {
        self.tell(&Fact::Sent { node: from, to, message: &message });
        if self.sabotage.is_some() {
            self.alter(&mut message);
        }
        let incarnation = self.nodes.get(from).incarnation;
        let arrivals = self.network.carry(self.time, from, to, &mut self.rng);
        if let (Message::AppendEntries(m), true) = (&message, arrivals.is_empty()) {
            if self.rng.chance(500) {
                let (life, session) = (self.nodes.get(from).life, m.session);
                let delay = self.rng.between(1_000, 50_000_000);
                self.schedule(delay, Event::Lost { node: from, life, to, session });
            }
        }
        for at in arrivals {
            let message = message.clone();
            self.schedule(at - self.time, Event::Deliver { to, from, incarnation, message });
        }
    }

    /// What [`Sabotage`] does to messages under way.
    fn alter(&mut self, message: &mut Message) {
        match (self.sabotage, message) {
            (Some(Sabotage::AcknowledgementsAltered), Message::AppendEntriesAnswer(m))
                if m.conflict.is_none() && m.matched > 0 && self.rng.chance(100) =>
            {
                m.matched += 1;
            }
            (Some(Sabotage::VotesAltered), Message::RequestVoteAnswer(m)) if !m.granted => {
                // A pre-vote that is granted names the term that was asked for.
                m.term += u64::from(m.pre);
                m.granted = true;
            }
            _ => {}
        }
    }

    // ---- replication streams and the apply worker: what the node's tasks will be ----

    fn aim(&mut self, id: NodeId, target: Replicate) {
        let node = self.nodes.get_mut(id);
        let limits = node.limits;
        node.streams.entry(target.to).or_insert_with(|| Stream::new(limits)).aim(target);
        self.pump_later(id, target.to);
    }

    fn pump_later(&mut self, id: NodeId, to: NodeId) {
        let node = self.nodes.get_mut(id);
        if !std::mem::replace(node.pumping.entry(to).or_insert(false), true) {
            let life = node.life;
            let delay = self.rng.between(500, 200_000);
            self.schedule(delay, Event::Pump { node: id, life, to });
        }
    }

    fn pump(&mut self, id: NodeId, to: NodeId) {
        let node = self.nodes.get_mut(id);
        node.pumping.insert(to, false);
        let Some(stream) = node.streams.get_mut(&to) else { return };
        let Some(want) = stream.want() else { return };
        // Another leader may have replaced the entries meanwhile; a new target will come.
        let Some(blocks) = node.log.read(want.after, want.through, want.max_bytes) else { return };
        if blocks.is_empty() && want.through > want.after.index {
            return;
        }
        let append = stream.send(blocks);
        let sent = stream.sent();
        self.send(id, to, Message::AppendEntries(append));
        if let Some((session, through)) = sent {
            self.input(id, Input::Sent { to, session, through });
        }
        self.pump_later(id, to);
    }

    fn apply(&mut self, id: NodeId) {
        let early = self.sabotage == Some(Sabotage::AppliedEarly);
        let node = self.nodes.get_mut(id);
        node.applying = false;
        let through = node.apply_target;
        let until = if early { node.log.last().index } else { through };
        for index in node.applied + 1..=until {
            self.apply_one(id, index);
        }
        self.input(id, Input::Applied { through });
    }

    fn apply_one(&mut self, id: NodeId, index: Index) {
        let log = &self.nodes.get(id).log;
        let Some(block) = log.block_at(index) else {
            self.fail("State Machine Safety", format!("node {id} has nothing at {index}"));
            return;
        };
        let entry = LogId::new(block.term(), index);
        let payload = block.entries().nth((index - block.first()) as usize).unwrap_or_default();
        self.nodes.get_mut(id).applied = index;
        self.tell(&Fact::Applied { node: id, id: entry, payload: &payload });
        self.answer(id, entry);
    }
}

impl World {
    pub(crate) fn config_deadline(&self, id: NodeId, after_ms: u64) -> quorate_engine::Instant {
        self.nodes.get(id).clock.local(self.time + after_ms * 1_000_000)
    }
}
