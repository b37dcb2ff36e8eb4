//! The world: every event in one order, processes started and ended, facts told to the checkers.
//!
//! Nothing depends on anything but the seed and the plan. What engines ask for is carried out in
//! `effects.rs`; the nemesis and the clients are in files of their own.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use quorate_engine::{Config, Input, LogId, NodeId, Outputs};

use crate::engines::check::{self, Check, Fact, Nodes};
use crate::engines::clients::Clients;
use crate::engines::event::{Event, Queue};
use crate::engines::network::Network;
use crate::engines::node::{Forgot, Node};
use crate::engines::plan::Plan;
use crate::explore::{Counts, Options, Report};
use crate::failure::{Failure, Steps, panic_text};
use crate::fault::Planned;
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::sequence::{self, Fate, Recorder, Sequence};
use crate::trace::{Trace, TraceMode};

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
    /// Faults of the schedule that struck.
    pub faults: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Writes to disks that were lost so.
    pub lost_writes: u64,
    /// Disks that forgot what they had synced.
    pub forgetful: u64,
    /// Nodes that were refused by the others for it.
    pub refused: u64,
    /// Snapshots that were built.
    pub snapshots_built: u64,
    /// How often a follower was sent one.
    pub snapshots_sent: u64,
    /// How often a state machine took over one that its node was sent.
    pub snapshots_installed: u64,
    /// Changes of membership that began.
    pub changes: u64,
    /// Nodes that learned that they are no members any more.
    pub removed: u64,
    /// Transfers that came to nothing.
    pub transfers_ended: u64,
    /// Worlds that need not recover: after a disk was wiped, those that run and are tied to their
    /// disks are no majority, and together with the others they do not meet every majority twice.
    pub excused: u64,
}

impl From<Statistics> for Counts {
    fn from(s: Statistics) -> Self {
        Counts::new([
            ("steps", s.steps),
            ("elections", s.elections),
            ("acknowledged", s.acknowledged),
            ("overwritten", s.overwritten),
            ("reads", s.reads),
            ("faults", s.faults),
            ("crashes", s.crashes),
            ("lost_writes", s.lost_writes),
            ("forgetful", s.forgetful),
            ("refused", s.refused),
            ("snapshots_built", s.snapshots_built),
            ("snapshots_sent", s.snapshots_sent),
            ("snapshots_installed", s.snapshots_installed),
            ("changes", s.changes),
            ("removed", s.removed),
            ("transfers_ended", s.transfers_ended),
            ("excused", s.excused),
        ])
    }
}

/// A cluster and everything around it.
#[derive(Debug)]
pub struct World {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    /// When tasks have their turns, and how long syncs take.
    pub(crate) rng: Rng,
    /// How long it takes to write, store and send snapshots, and what tells them apart.
    pub(crate) snapshots: Rng,
    pub(crate) time: u64,
    queue: Queue,
    pub(crate) nodes: Nodes,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    checks: Vec<Box<dyn Check>>,
    trace: Trace,
    recorder: Recorder,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) failure: Option<Failure>,
    /// The only promise that counts, if one is singled out.
    only: Option<&'static str>,
    pub(crate) statistics: Statistics,
    /// Whether faults and load go on.
    pub(crate) faults: bool,
    pub(crate) wakes: u64,
    /// The configuration that an operator says it has seen, and the one in force where it asks,
    /// while it asks for a change of it.
    pub(crate) asked_for: Option<(LogId, LogId)>,
    pub(crate) outputs: Outputs,
}

impl World {
    /// The world of `seed` under `plan`, with every node up and nothing begun.
    pub fn new(seed: u64, plan: Plan) -> Self {
        Self::with(seed, plan, TraceMode::Off, None)
    }

    /// A world with a trace, and with a planted bug.
    pub fn with(seed: u64, plan: Plan, trace: TraceMode, sabotage: Option<Sabotage>) -> Self {
        let mut rng = Rng::stream(seed, "world");
        let nodes = (1..=plan.nodes as u64)
            .map(|id| {
                let incarnation = if plan.incarnations { rng.number() | 1 } else { 0 };
                Node::new(id, incarnation, plan.clocks[id as usize - 1], plan.limits)
            })
            .collect();
        let mut world = Self {
            seed,
            network: Network::new(plan.nodes, plan.weather, seed),
            rng,
            snapshots: Rng::stream(seed, "snapshots"),
            time: 0,
            queue: Queue::default(),
            nodes: Nodes { all: nodes, time: 0 },
            clients: Clients::new(seed),
            checks: check::all(),
            trace: Trace::new(trace),
            recorder: Recorder::of(trace),
            sabotage,
            failure: None,
            only: None,
            statistics: Statistics::default(),
            faults: true,
            wakes: 0,
            asked_for: None,
            outputs: Outputs::new(),
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let nodes = self.plan.nodes as u64;
        for id in 1..=nodes {
            self.start(id);
        }
        let members = self.plan.members as u64 - u64::from(self.plan.witness);
        let first = self.rng.between(1, members);
        self.schedule(0, Event::Initialize { node: first });
        if self.plan.two_beginnings {
            let second = self.rng.between(1, members);
            let delay = self.rng.below(2_000_000_000);
            self.schedule(delay, Event::Initialize { node: second });
        }
        self.schedule(0, Event::Request);
        for entry in 0..self.plan.faults.len() {
            if self.plan.left_out.contains(&entry) {
                continue;
            }
            let Planned { at_ms, fault } = self.plan.faults[entry];
            self.say(0, format_args!("fault {entry} at {at_ms} ms: {fault}"));
            self.schedule(at_ms * 1_000_000, Event::Fault { entry });
        }
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

    /// The last steps, if a trace with lines is kept.
    pub fn sequence(&self) -> Sequence {
        let under_way = self.queue.iter().filter_map(|event| match event {
            Event::Deliver { to, from, sent, message, .. } => Some(sequence::Event::Message {
                sent: *sent,
                from: *from,
                to: *to,
                fate: Fate::UnderWay,
                label: message.to_string(),
            }),
            _ => None,
        });
        self.recorder.sequence(under_way)
    }

    pub(crate) fn schedule(&mut self, delay: u64, event: Event) {
        self.queue.push(self.time + delay, event);
    }

    /// Looks at one promise alone, to see that its checker can fail by itself.
    pub fn look_only_at(&mut self, promise: &'static str) {
        self.only = Some(promise);
    }

    pub(crate) fn fail(&mut self, promise: &'static str, what: String) {
        if self.only.is_some_and(|only| only != promise) || self.failure.is_some() {
            return;
        }
        self.say(0, format_args!("{promise}: {what}"));
        self.failure = Some(self.failure_now(promise, what));
    }

    /// A promise broken here and now, with the steps that led to it.
    fn failure_now(&self, promise: &'static str, what: String) -> Failure {
        let trace = self.trace.lines().map(str::to_owned).collect();
        Failure {
            seed: self.seed,
            at: Duration::from_nanos(self.time),
            promise: promise.into(),
            what,
            replay: String::new(),
            steps: Box::new(Steps { trace, sequence: self.sequence() }),
        }
    }

    pub(crate) fn say(&mut self, node: NodeId, what: fmt::Arguments<'_>) {
        self.trace.line(self.time, node, what);
    }

    /// Says it in the trace and in the picture.
    pub(crate) fn note(&mut self, node: NodeId, what: fmt::Arguments<'_>) {
        self.say(node, what);
        if self.recorder.is_on() {
            let text = what.to_string();
            self.recorder.record(sequence::Event::Note { at: self.time, node, text });
        }
    }

    /// Puts a message into the picture.
    pub(crate) fn record(
        &mut self,
        sent: u64,
        from: NodeId,
        to: NodeId,
        fate: Fate,
        label: impl fmt::Display,
    ) {
        if self.recorder.is_on() {
            let label = label.to_string();
            self.recorder.record(sequence::Event::Message { sent, from, to, fate, label });
        }
    }

    /// Tells every checker.
    pub(crate) fn tell(&mut self, fact: &Fact<'_>) {
        let mut broken = None;
        for check in &mut self.checks {
            if let Err(what) = check.on(fact, &self.nodes) {
                if self.only.is_none_or(|only| only == check.name()) {
                    broken = broken.or(Some((check.name(), what)));
                }
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

    /// [`World::run`], then [`World::settle`], with a panic turned into a failure.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn run_to_the_end(&mut self) -> Result<(), Failure> {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            self.run()?;
            self.settle()
        }));
        let text = |panic: Box<dyn std::any::Any + Send>| panic_text(&*panic);
        ended.unwrap_or_else(|panic| Err(self.failure_now("no engine panics", text(panic))))
    }

    /// Runs until world time `end`, or until `done`. Returns whether `done`.
    pub(crate) fn run_until(
        &mut self,
        end: u64,
        mut done: impl FnMut(&World) -> bool,
    ) -> Result<bool, Failure> {
        // A node alone may be done without another event.
        if done(self) {
            return Ok(true);
        }
        let mut at_once = 0;
        while let Some((at, event)) = self.queue.pop(end) {
            at_once = if at > self.time + 1_000 { 0 } else { at_once + 1 };
            if at_once > 200_000 {
                self.fail("time goes on", "200000 events within no time".into());
            }
            self.time = self.time.max(at);
            self.nodes.time = self.time;
            self.happen(event);
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            if done(self) {
                return Ok(true);
            }
        }
        self.time = self.time.max(end);
        self.nodes.time = self.time;
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
            Event::Deliver { to, from, incarnation, sent, message } => {
                self.record(sent, from, to, Fate::Arrived(self.time), &message);
                self.tell(&Fact::Received { node: to, from, message: &message });
                self.input(to, Input::Receive { from, incarnation, message: *message });
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
            Event::SnapshotDurable { node, snapshot, source, .. } => {
                self.on_snapshot_durable(node, snapshot, source);
            }
            Event::SendSnapshot { node, to, session, .. } => self.look_after(node, to, session),
            Event::PartStored { node, from, stored, .. } => {
                self.input(node, Input::SnapshotStored { from, stored });
            }
            Event::Request => self.on_request(),
            Event::Initialize { node } => self.initialize(node),
            Event::Fault { entry } => self.on_fault(entry),
            Event::Heal { entry } => self.on_heal(entry),
            Event::PutBack { node, down_ms } => self.put_back(node, down_ms),
            Event::Restart { node, life } => {
                if self.nodes.get(node).is_down() && self.nodes.get(node).life == life {
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

    /// Starts a node from what its disk has; with a full disk not before there is room.
    pub(crate) fn start(&mut self, id: NodeId) {
        let (time, seed) = (self.time, self.seed);
        let plan = &self.plan;
        let node = self.nodes.get_mut(id);
        if node.full_until > time {
            let (delay, life) = (node.full_until - time, node.life);
            self.schedule(delay, Event::Restart { node: id, life });
            return;
        }
        let config = Config {
            incarnation: node.incarnation,
            heartbeat_interval: plan.heartbeat,
            election_timeout_min: plan.election_min,
            election_timeout_max: plan.election_max,
            max_uncommitted_bytes: plan.max_uncommitted_bytes,
            max_unapplied_bytes: plan.max_unapplied_bytes,
            keep_entries: plan.keep_entries,
            apply_persisted: plan.apply_persisted,
            clock_drift_percent: plan.clock_drift_percent(),
            priority: plan.priorities[id as usize - 1],
            seed: Rng::new(seed ^ (id << 32 | u64::from(node.life))).number(),
            ..Config::new(id)
        };
        let now = node.clock.local(time);
        if let Err(e) = node.start(config, now) {
            node.stopped = Some(e.to_string());
            if node.forgot == Some(Forgot::Everything) {
                self.statistics.refused += 1;
                return;
            }
            self.fail("a node can start from what its disk kept", format!("node {id}: {e}"));
            return;
        }
        let node = self.nodes.get(id);
        let (log, hard) =
            (node.engine.as_ref().expect("just started").log(), node.disk.durable().hard);
        let (compacted, snapshot, last) = (log.compacted().index, log.snapshot(), log.last());
        self.note(
            id,
            format_args!(
                "starts, snapshot {snapshot}, log behind {compacted} through {last}, {hard}"
            ),
        );
        self.tell(&Fact::Started { node: id });
        if !hard.witness {
            self.tell(&Fact::Restored { node: id, last: snapshot });
        }
        self.set_timer(id);
    }

    /// A process ends, whatever the reason: of its unsynced writes `keep` of a thousand stay.
    pub(crate) fn crash(&mut self, id: NodeId, keep: u64, reason: &str) {
        let sabotage = self.sabotage;
        let node = self.nodes.get_mut(id);
        if sabotage == Some(Sabotage::WritesReordered) {
            node.disk.lose_first_unsynced();
        }
        let lost = node.disk.crash(keep);
        if sabotage == Some(Sabotage::VoteForgotten) {
            // Not below the log's own term: the engine would see that and refuse to start.
            node.disk.tamper(|image| {
                image.hard = quorate_engine::HardState::new(image.recovered().last().term, None);
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
        self.note(id, format_args!("{reason}: down, {lost} unsynced writes lost"));
        self.tell(&Fact::Crashed { node: id });
    }

    pub(crate) fn resume(&mut self, id: NodeId) {
        let Some(backlog) = self.nodes.get_mut(id).paused.take() else { return };
        self.note(id, format_args!("goes on"));
        for event in backlog {
            self.schedule(0, event);
        }
    }
}

/// The world of a seed, from its beginning to its recovery.
///
/// # Errors
/// The first broken promise.
pub(crate) fn explore(seed: u64, options: &Options) -> Result<Report, Failure> {
    let mut plan = Plan::from_seed(seed);
    plan.reduce(&options.reduction);
    let mut world = World::with(seed, plan, options.trace, options.sabotage);
    world.run_to_the_end()?;
    Ok(Report {
        counts: world.statistics().into(),
        hash: world.trace().hash(),
        trace: world.trace().lines().map(str::to_owned).collect(),
    })
}
