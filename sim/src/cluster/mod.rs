//! Level 2: the real node. Your state machine, the real [`Raft`] handles and tasks, the real
//! durable log on simulated disks, the transport's frames on a simulated network.
//!
//! Everything runs on one thread with a clock that jumps from event to event, so a test of minutes
//! takes milliseconds, and the same seed gives the same run. Use it for your own application: start
//! a few nodes of it, write and read through their handles, meanwhile crash, cut, pause, and check
//! in the end that what the clients saw is what one machine would have shown them
//! ([`history`](crate::history)).
//!
//! ```
//! use quorate::testing::Counter;
//! use quorate_sim::cluster::{Cluster, Sim};
//!
//! Sim::check(0..5, async |sim| {
//!     let cluster = Cluster::start(&sim, 3, |_| Counter::default()).await;
//!     assert_eq!(cluster.node(1).write(5).await.unwrap(), 5);
//!
//!     let leader = cluster.leader().await;
//!     cluster.crash(leader).await; // the power goes; what was not synced is gone
//!     let next = cluster.leader().await;
//!     assert_eq!(cluster.node(next).write(2).await.unwrap(), 7);
//!
//!     cluster.settle().await; // everything heals: all nodes come back and level
//!     for node in cluster.nodes() {
//!         assert_eq!(node.read(|counter| counter.total).await.unwrap(), 7);
//!     }
//! });
//! ```
//!
//! A state machine that takes part must do its part for determinism: no clock but what its commands
//! carry, no randomness, no iteration over hash maps. [`Sim::check`] runs its first seed twice and shows
//! the first line where the two runs differ.

mod disaster;
mod disk;
mod env;
mod explore;
mod nemesis;
mod network;
mod plan;
mod registers;
mod sim;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate::{
    Config, Env, Event, Events, Index, Metrics, NodeId, Raft, RoleKind, StateMachine, Term,
};
use quorate_storage::wal::{Crash, FakeDisk, Wal, WalOptions};
use tokio::sync::{Notify, oneshot};

use crate::engines::{Clock, Weather};
use disk::SimDisk;
use env::{MachineClock, NodeEnv};
use network::SimNetwork;
use sim::lock;

pub use explore::Statistics;
pub(crate) use explore::explore;
pub use plan::Plan;
pub use sim::Sim;

/// The group of the nodes' logs. Any number would do; a handle has one group.
const GROUP: u64 = 1;

/// Why a node is not up that was crashed before it was.
pub(crate) const CRASHED: &str = "it was crashed while it started";

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many nodes, all of them voters.
    pub nodes: u64,
    /// Settings of every node.
    pub config: Config,
    /// The network.
    pub weather: Weather,
    /// Shortest and longest time of a write to disk with its sync.
    pub sync: (Duration, Duration),
    /// The length of a segment of the log: short ones are rolled often.
    pub segment_bytes: u64,
    /// The nodes' clocks; those that are not named run with the world's.
    pub clocks: BTreeMap<NodeId, Clock>,
}

impl ClusterOptions {
    /// Writes of a quick disk.
    pub const QUICK_SYNC: (Duration, Duration) =
        (Duration::from_micros(200), Duration::from_millis(2));

    /// `nodes` nodes with default settings, a fair network and quick disks.
    pub fn new(nodes: u64) -> Self {
        Self {
            nodes,
            config: Config::default(),
            weather: Weather::FAIR,
            sync: Self::QUICK_SYNC,
            segment_bytes: 64 << 10,
            clocks: BTreeMap::new(),
        }
    }
}

/// Machines with a node of your application each. A clone is the same cluster.
///
/// Methods that take a node's id panic if it is none of [`Cluster::ids`].
pub struct Cluster<S: StateMachine>(Arc<Shared<S>>);

impl<S: StateMachine> Clone for Cluster<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<S: StateMachine> {
    sim: Sim,
    options: ClusterOptions,
    network: SimNetwork,
    machine: Box<dyn Fn(NodeId) -> S + Send + Sync>,
    machines: Mutex<BTreeMap<NodeId, Machine<S>>>,
    /// Who led each term, in which of its lives.
    leaders: Mutex<BTreeMap<Term, (NodeId, u32)>>,
    /// Nodes whose disk forgot something.
    forgot: Mutex<BTreeMap<NodeId, Forgot>>,
    /// Whether a state machine may have another state than the others.
    may_diverge: AtomicBool,
}

/// What a node says that stops because of that.
const DIVERGED: &str = "the state behind entry";

/// What a disk forgot that it had synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgot {
    Everything,
    WhatCameAfterACopy,
    /// Nothing, but it was lost with a quorum, and the others are another cluster since.
    ItsCluster,
}

/// What a disk held once: see [`Cluster::copy_disk`].
pub struct DiskCopy {
    files: BTreeMap<String, Vec<u8>>,
    /// The term in which its node was a follower when the copy was taken; `None` if it was more.
    term: Option<Term>,
}

/// A machine: a disk and a clock that stay, a process that comes and goes.
struct Machine<S: StateMachine> {
    disk: Arc<SimDisk>,
    clock: Arc<MachineClock>,
    /// Counts processes.
    life: u32,
    /// Whether somebody is about to start it.
    starting: bool,
    process: Option<Process<S>>,
}

/// Until this is dropped, nobody else starts the node.
struct Starting<S: StateMachine> {
    cluster: Cluster<S>,
    id: NodeId,
}

impl<S: StateMachine> Drop for Starting<S> {
    fn drop(&mut self) {
        if let Some(machine) = self.cluster.machines().get_mut(&self.id) {
            machine.starting = false;
        }
    }
}

struct Process<S: StateMachine> {
    env: Arc<NodeEnv>,
    /// `None` while it starts.
    raft: Option<Raft<S>>,
}

impl<S: StateMachine> Cluster<S> {
    /// Starts `nodes` nodes with default options, begins their cluster, and waits until it can lose
    /// any one of them. `machine` builds the state machine of a node, once for each of its lives.
    ///
    /// # Panics
    /// If it does not come about: nothing is wrong with the world yet.
    pub async fn start(
        sim: &Sim,
        nodes: u64,
        machine: impl Fn(NodeId) -> S + Send + Sync + 'static,
    ) -> Self {
        let cluster = Self::with(sim, ClusterOptions::new(nodes), machine);
        for id in cluster.ids() {
            let started = cluster.restart(id).await;
            started.unwrap_or_else(|why| panic!("node {id} does not start: {why}"));
        }
        cluster.initialize().await;
        let settled = cluster.ready(Duration::from_secs(60)).await;
        settled.unwrap_or_else(|missing| panic!("the cluster does not get going: {missing}"));
        cluster
    }

    /// Machines that are switched off; [`Cluster::restart`] starts them.
    pub fn with(
        sim: &Sim,
        options: ClusterOptions,
        machine: impl Fn(NodeId) -> S + Send + Sync + 'static,
    ) -> Self {
        let network = SimNetwork::new(sim.clone(), options.weather);
        let machines = (1..=options.nodes).map(|id| {
            let straight = Clock::new(1000, 0);
            let clock = options.clocks.get(&id).copied().unwrap_or(straight);
            let machine = Machine {
                disk: Arc::new(SimDisk::new(sim.clone(), id, options.sync)),
                clock: Arc::new(MachineClock::new(sim.clone(), clock)),
                life: 0,
                starting: false,
                process: None,
            };
            (id, machine)
        });
        let machines = Mutex::new(machines.collect());
        let machine = Box::new(machine);
        let (sim, leaders, forgot) = (sim.clone(), Mutex::default(), Mutex::default());
        let may_diverge = AtomicBool::new(false);
        Self(Arc::new(Shared {
            sim,
            options,
            network,
            machine,
            machines,
            leaders,
            forgot,
            may_diverge,
        }))
    }

    /// Begins the cluster at its first node that is up, with all of them as voters. Harmless to
    /// repeat.
    pub async fn initialize(&self) {
        let members: Vec<(NodeId, String)> =
            self.ids().into_iter().map(|id| (id, format!("node-{id}"))).collect();
        // Whose disk is empty must not begin another.
        let first = self.members().into_iter().find_map(|id| self.try_node(id));
        if let Some(node) = first {
            if let Err(error) = node.initialize(members).await {
                self.0.sim.say(node.id(), format_args!("initialize: {error}"));
            }
        }
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<NodeId, Machine<S>>> {
        lock(&self.0.machines)
    }

    fn env(&self, id: NodeId) -> Option<Arc<NodeEnv>> {
        self.machines().get(&id)?.process.as_ref().map(|process| process.env.clone())
    }

    fn disk(&self, id: NodeId) -> Arc<SimDisk> {
        self.machines()[&id].disk.clone()
    }

    /// Every id, up or not.
    pub fn ids(&self) -> Vec<NodeId> {
        self.machines().keys().copied().collect()
    }

    /// Those whose disk was not wiped, and who were not lost with a quorum: who comes back then is a
    /// stranger to the others.
    pub fn members(&self) -> Vec<NodeId> {
        let gone = |id: &NodeId| self.is_wiped(*id) || self.is_of_another_cluster(*id);
        self.ids().into_iter().filter(|id| !gone(id)).collect()
    }

    /// The handle of a node.
    ///
    /// # Panics
    /// If it is down.
    pub fn node(&self, id: NodeId) -> Raft<S> {
        self.try_node(id).unwrap_or_else(|| panic!("node {id} is down"))
    }

    /// The handle of a node, if it is up.
    pub fn try_node(&self, id: NodeId) -> Option<Raft<S>> {
        self.machines().get(&id)?.process.as_ref()?.raft.clone()
    }

    /// The handles of all nodes that are up.
    pub fn nodes(&self) -> Vec<Raft<S>> {
        self.ids().into_iter().filter_map(|id| self.try_node(id)).collect()
    }

    /// How many terms have had a leader.
    pub fn elections(&self) -> u64 {
        lock(&self.0.leaders).len() as u64
    }

    // ---- processes ----

    /// Starts a node that is down, or that had to stop by itself, from what its disk has. Does
    /// nothing if it is up or about to be. That a node does not start is a broken promise, unless it
    /// says that its disk is full or failed as it was told to, or that its disk was wiped.
    ///
    /// # Errors
    /// Why it does not start.
    ///
    /// # Panics
    /// If there is no such node.
    pub async fn restart(&self, id: NodeId) -> Result<(), String> {
        let stopped = |raft: &Raft<S>| raft.metrics().fatal.is_some();
        let is_up = |process: &Process<S>| !process.raft.as_ref().is_some_and(stopped);
        {
            let mut machines = self.machines();
            let machine = machines.get_mut(&id).expect("an id of this cluster");
            if machine.starting || machine.process.as_ref().is_some_and(is_up) {
                return Ok(());
            }
            machine.starting = true;
        }
        let _starting = Starting { cluster: self.clone(), id };
        self.end(id, Crash::KeepAll).await;
        let files = self.disk(id).files.clone();
        let crashes = files.crashes();
        let mut started = self.start_process(id).await;
        if started.is_err() && files.crashes() != crashes {
            started = Err(CRASHED.into());
        }
        if let Err(why) = &started {
            self.0.sim.note(id, format_args!("does not start: {why}"));
            if why != CRASHED && !self.is_asked_for(id, why) {
                let what = format!("node {id}: {why}");
                self.0.sim.fail("a node can start from what its disk kept", what);
            }
        }
        started
    }

    async fn start_process(&self, id: NodeId) -> Result<(), String> {
        let Shared { sim, options, network, machine, .. } = &*self.0;
        let (env, disk, life) = {
            let mut machines = self.machines();
            let machine = machines.get_mut(&id).expect("an id of this cluster");
            machine.life += 1;
            let env = Arc::new(NodeEnv::new(sim.clone(), id, machine.life, machine.clock.clone()));
            machine.process = Some(Process { env: env.clone(), raft: None });
            (env, machine.disk.clone(), machine.life)
        };
        sim.note(id, format_args!("starts, life {life}"));
        let queued = Arc::new(Notify::new());
        let bell = queued.clone();
        let log = WalOptions {
            segment_bytes: options.segment_bytes,
            seal_after: disk::SEAL_AFTER,
            seed: env.random(),
        };
        let mount = Arc::new(disk.files.mount());
        let opened = Wal::open_driven(mount, log, move || bell.notify_one());
        let (wal, driver) = opened.map_err(|error| {
            self.forget(id, life);
            error.to_string()
        })?;
        let (dying, files) = (env.clone(), disk.files.clone());
        let crashes = files.crashes();
        let this = Arc::downgrade(&self.0);
        let cut = move || {
            dying.kill();
            if let Some(shared) = this.upgrade() {
                shared.sim.note(id, format_args!("the power goes in the middle of a write"));
                Cluster(shared).forget(id, life);
            }
        };
        env.on_power_cut(move || files.crashes() != crashes, cut);
        drop(env.spawn(Box::pin(disk.drive(env.clone(), driver, queued))));
        // As a task of the process: a crash ends it wherever it is.
        let (to, started) = oneshot::channel();
        let start = Raft::builder(id, machine(id))
            .storage(wal.group(GROUP))
            .network(network.link(id, life))
            .config(options.config.clone())
            .env(env.clone())
            .advertise(format!("node-{id}"))
            .start();
        drop(env.spawn(Box::pin(async move { drop(to.send(start.await)) })));
        let started = match started.await {
            Ok(started) => started.map_err(|error| error.to_string()),
            Err(_) => return Err(CRASHED.into()),
        };
        let raft = match started {
            Ok(raft) => raft,
            Err(error) => {
                env.kill();
                self.forget(id, life);
                env.gone().await;
                return Err(error);
            }
        };
        network.join(id, life, &raft.host().inbound());
        sim.spawn(watch(self.clone(), id, life, raft.events()));
        let mut machines = self.machines();
        let machine = machines.get_mut(&id).filter(|machine| machine.life == life);
        match machine.and_then(|machine| machine.process.as_mut()) {
            Some(process) => {
                process.raft = Some(raft);
                Ok(())
            }
            None => Err(CRASHED.into()),
        }
    }

    /// A process that is already dead is taken off the network.
    fn forget(&self, id: NodeId, life: u32) -> Option<Process<S>> {
        let mut machines = self.machines();
        let machine = machines.get_mut(&id).filter(|machine| machine.life == life)?;
        let process = machine.process.take();
        drop(machines);
        self.0.network.leave(id);
        process
    }

    async fn end(&self, id: NodeId, how: Crash) {
        // First the disk: whatever the dying process still says to it goes nowhere.
        self.disk(id).files.crash(how);
        let life = self.machines()[&id].life;
        if let Some(process) = self.forget(id, life) {
            process.env.kill();
            process.env.gone().await;
        }
    }

    /// The power goes: the process is gone, and of what was not synced everything, or a random part
    /// that may be torn in the middle of a write.
    pub async fn crash(&self, id: NodeId) {
        let torn = self.0.sim.rng().chance(500);
        self.crash_as(id, if torn { Crash::Torn } else { Crash::LoseUnsynced }).await;
    }

    /// SIGKILL: the process is gone, the machine and what it wrote stay.
    pub async fn kill(&self, id: NodeId) {
        self.crash_as(id, Crash::KeepAll).await;
    }

    pub(crate) async fn crash_as(&self, id: NodeId, how: Crash) {
        let what = match how {
            Crash::LoseUnsynced => "the power goes",
            Crash::Torn => "the power goes, torn",
            Crash::KeepAll => "is killed",
        };
        self.0.sim.note(id, format_args!("{what}"));
        self.end(id, how).await;
    }

    /// The power goes in the middle of a write, before the change of the disk that follows on the
    /// next `changes`; after `patience` anyway.
    pub async fn crash_in_a_write(&self, id: NodeId, changes: u64, patience: Duration) {
        self.disk(id).cut_power_after(changes);
        let began = self.0.sim.elapsed();
        while self.try_node(id).is_some() && self.0.sim.elapsed() - began < patience {
            self.0.sim.sleep(Duration::from_millis(5)).await;
        }
        if self.try_node(id).is_some() {
            self.crash(id).await;
        }
    }

    /// SIGSTOP: the process stands still, its clock goes on.
    pub fn pause(&self, id: NodeId) {
        if let Some(env) = self.env(id) {
            self.0.sim.note(id, format_args!("stands still"));
            env.pause();
        }
    }

    /// SIGCONT.
    pub fn resume(&self, id: NodeId) {
        if let Some(env) = self.env(id) {
            self.0.sim.note(id, format_args!("goes on"));
            env.resume();
        }
    }

    // ---- links ----

    /// Another weather for the whole network; of a thousand sends `damage` have a bit flipped on the
    /// way.
    pub fn set_weather(&self, weather: Weather, damage: u64) {
        self.0.network.set_weather(weather, damage);
    }

    /// Cuts one direction, until [`Cluster::heal`].
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.0.sim.note(0, format_args!("cut {from} -> {to}"));
        self.0.network.cut(from, to);
    }

    /// Cuts both directions between each node of `left` and each of `right`.
    pub fn partition(&self, left: &[NodeId], right: &[NodeId]) {
        for l in left {
            for r in right {
                self.cut(*l, *r);
                self.cut(*r, *l);
            }
        }
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, id: NodeId) {
        let others: Vec<NodeId> = self.ids().into_iter().filter(|other| *other != id).collect();
        self.partition(&[id], &others);
    }

    /// Mends every cut.
    pub fn heal(&self) {
        self.0.sim.note(0, format_args!("links heal"));
        self.0.network.heal();
    }

    // ---- disks and clocks ----

    /// No write of this node completes until [`Cluster::release_disk`].
    pub fn hang_disk(&self, id: NodeId) {
        self.0.sim.note(id, format_args!("disk hangs"));
        self.disk(id).hang();
    }

    /// The disk goes on.
    pub fn release_disk(&self, id: NodeId) {
        self.0.sim.note(id, format_args!("disk goes on"));
        self.disk(id).release();
    }

    /// Writes take `factor` times as long.
    pub fn slow_disk(&self, id: NodeId, factor: u32) {
        self.0.sim.note(id, format_args!("disk is {factor} times slower"));
        self.disk(id).slow_down(factor);
    }

    /// The next sync fails and loses what it was to keep; the node stops by itself.
    pub fn fail_next_sync(&self, id: NodeId) {
        self.0.sim.note(id, format_args!("disk: the next sync fails"));
        self.disk(id).files.fail_next_sync();
    }

    /// Leaves `bytes` of free space on the node's disk; `None` is a disk without end.
    pub fn set_free_space(&self, id: NodeId, bytes: Option<u64>) {
        self.0.sim.note(id, format_args!("disk: free space {bytes:?}"));
        let files = self.disk(id).files.clone();
        let used: usize = files.image().values().map(Vec::len).sum();
        files.set_quota_bytes(bytes.map(|free| used as u64 + free));
    }

    /// What a power cut now would leave of the node's disk.
    pub fn copy_disk(&self, id: NodeId) -> Option<DiskCopy> {
        let metrics = self.try_node(id)?.metrics();
        let term = (metrics.role == RoleKind::Follower).then_some(metrics.term);
        self.0.sim.note(id, format_args!("disk: a copy is taken"));
        Some(DiskCopy { files: self.disk(id).files.durable_image(), term })
    }

    /// The power goes, and when it is back the disk holds what it did once: everything that was
    /// synced since is forgotten, which Raft assumes never happens. With an even number of voters
    /// one such node is survived, unless it stood for election meanwhile.
    pub async fn put_back_disk(&self, id: NodeId, copy: DiskCopy) {
        self.0.sim.note(id, format_args!("the power goes; an old disk takes the disk's place"));
        lock(&self.0.forgot).entry(id).or_insert(Forgot::WhatCameAfterACopy);
        self.end(id, Crash::LoseUnsynced).await;
        self.disk(id).files.replace(copy.files);
    }

    /// The power goes and the disk with it: the node comes back with an empty one, as a stranger to
    /// the others, and is none of [`Cluster::members`] any more.
    pub async fn wipe_disk(&self, id: NodeId) {
        self.0.sim.note(id, format_args!("the power goes; an empty disk takes the disk's place"));
        lock(&self.0.forgot).insert(id, Forgot::Everything);
        self.end(id, Crash::LoseUnsynced).await;
        self.disk(id).files.replace(BTreeMap::new());
    }

    pub(crate) fn has_forgotten(&self) -> bool {
        !lock(&self.0.forgot).is_empty()
    }

    fn is_wiped(&self, id: NodeId) -> bool {
        lock(&self.0.forgot).get(&id) == Some(&Forgot::Everything)
    }

    fn is_of_another_cluster(&self, id: NodeId) -> bool {
        lock(&self.0.forgot).get(&id) == Some(&Forgot::ItsCluster)
    }

    /// Whether a node that gives this reason stopped, or did not start, because its disk was made
    /// to fail or was wiped, or a state changed by itself.
    fn is_asked_for(&self, id: NodeId, why: &str) -> bool {
        why.contains(FakeDisk::TOLD)
            || (self.is_wiped(id) && why.contains("with another data directory"))
            || (self.0.may_diverge.load(Ordering::Relaxed) && why.contains(DIVERGED))
    }

    /// From now on nodes may find that their states differ: who is right they may not know while too
    /// few of them are there.
    pub(crate) fn may_diverge(&self) {
        self.0.may_diverge.store(true, Ordering::Relaxed);
    }

    /// Which of its lives a node is in.
    pub(crate) fn life(&self, id: NodeId) -> u32 {
        self.machines()[&id].life
    }

    /// Whether it can be survived that the copy is put back. A node that was a follower of the same
    /// term before and after has not stood for election in between.
    pub(crate) fn may_put_back(&self, id: NodeId, copy: &DiskCopy) -> bool {
        let metrics = self.try_node(id).map(|node| node.metrics());
        let still = |m: &Metrics| m.role == RoleKind::Follower && copy.term == Some(m.term);
        !self.has_forgotten() && self.ids().len() % 2 == 0 && metrics.as_ref().is_some_and(still)
    }

    /// Whether it can be survived that the disk is lost: the others know whose disk is whose, and
    /// are a majority.
    pub(crate) fn may_wipe(&self, id: NodeId) -> bool {
        let all_known = |m: &Metrics| {
            let members = m.membership.as_ref().map(|m| m.members());
            let bound = members.is_some_and(|all| all.values().all(|m| m.incarnation != 0));
            // All of its log is committed, so this is.
            bound && m.applied == m.last
        };
        let others = self.nodes().into_iter().filter(|node| node.id() != id);
        let others: Vec<Metrics> = others.map(|node| node.metrics()).collect();
        let known = others.iter().any(all_known);
        // Who was never reached by a leader has no vote, and once the log is compacted nobody can
        // introduce it: it counts as down, too (docs/elections.md).
        let voting = others.iter().filter(|m| m.membership.is_some()).count();
        known && !self.has_forgotten() && voting > self.ids().len() / 2
    }

    pub(crate) fn disk_lies(&self, id: NodeId) {
        self.disk(id).files.lie_about_syncs();
    }

    /// The node's clock goes at `rate` thousandths of the true rate from now on.
    pub fn set_clock_rate(&self, id: NodeId, rate: u64) {
        self.0.sim.note(id, format_args!("clock goes at {rate}/1000"));
        let clock = self.machines()[&id].clock.clone();
        clock.set_rate(rate);
    }

    /// The node's clock leaps forward.
    pub fn jump_clock(&self, id: NodeId, by: Duration) {
        self.0.sim.note(id, format_args!("clock leaps by {} ms", by.as_millis()));
        let clock = self.machines()[&id].clock.clone();
        clock.jump(by);
    }

    // ---- waiting ----

    /// Waits until there is a leader that it and a majority of all nodes take for one.
    ///
    /// # Panics
    /// After a minute.
    pub async fn leader(&self) -> NodeId {
        let majority = self.ids().len() / 2 + 1;
        let found = self
            .wait_for(Duration::from_secs(60), |all| {
                let newest = all.iter().filter(|m| m.role == RoleKind::Leader);
                let leader = newest.max_by_key(|m| m.term).ok_or("no leader")?;
                let agree = |m: &&Metrics| m.leader == Some(leader.id) && m.term == leader.term;
                let known = all.iter().filter(agree).count() >= majority;
                if known { Ok(leader.id) } else { Err("no leader that a majority knows") }
            })
            .await;
        found.unwrap_or_else(|missing| panic!("{missing}"))
    }

    /// Heals everything, starts every node, and waits until the cluster works: a leader that all
    /// know, and all of the log on every node, applied.
    ///
    /// # Panics
    /// If it does not come about within twenty election timeouts of the slowest clock and ten
    /// seconds, for what connections wait and what copying a log takes.
    pub async fn settle(&self) {
        self.heal_everything().await;
        let level = self.ready(self.recovery_bound()).await;
        level.unwrap_or_else(|missing| panic!("the cluster does not recover: {missing}"));
    }

    pub(crate) fn recovery_bound(&self) -> Duration {
        let election = self.0.options.config.election_timeout_max;
        election * 20 * 5 / 4 + Duration::from_secs(10)
    }

    pub(crate) async fn heal_everything(&self) {
        self.set_weather(Weather::FAIR, 0);
        self.heal();
        for id in self.ids() {
            let disk = self.disk(id);
            disk.release();
            disk.slow_down(1);
            let (low, high) = ClusterOptions::QUICK_SYNC;
            disk.set_sync(low, high);
            disk.files.mend();
            self.resume(id);
        }
        for id in self.ids() {
            // One that is crashed meanwhile is started by whoever did that.
            self.restart(id).await.ok();
        }
    }

    /// Waits until every node is up, follows one leader, knows every member's data directory, and
    /// has applied all of the log.
    ///
    /// # Errors
    /// What is missing after `patience`.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<Index, String> {
        let members = self.members();
        self.wait_for(patience, |all| {
            let all: Vec<&Metrics> = all.iter().filter(|m| members.contains(&m.id)).collect();
            let up = all.len() == members.len();
            let first = *all.first().filter(|_| up).ok_or("a node is down")?;
            let leader = first.leader.ok_or("no leader")?;
            if all.iter().any(|m| m.leader != Some(leader) || m.term != first.term) {
                return Err("no leader that every node knows");
            }
            let bound = |m: &Metrics| {
                let members = m.membership.as_ref().map(|m| m.members());
                members.is_some_and(|members| members.values().all(|m| m.incarnation != 0))
            };
            if !all.iter().all(|m| bound(m)) {
                return Err("members that no leader has heard");
            }
            let level = |m: &&Metrics| m.last == first.last && m.applied == first.last;
            if all.iter().all(level) { Ok(first.last) } else { Err("nodes that are behind") }
        })
        .await
    }

    /// Waits until every node is up and has all of its log on its disk.
    ///
    /// # Errors
    /// What is missing after `patience`.
    pub(crate) async fn durable(&self, patience: Duration) -> Result<(), String> {
        let members = self.members();
        self.wait_for(patience, |all| {
            let mut all = all.iter().filter(|m| members.contains(&m.id));
            let durable =
                all.clone().count() == members.len() && all.all(|m| m.persisted == m.last);
            durable.then_some(()).ok_or("a log that is not durable")
        })
        .await
    }

    async fn wait_for<T>(
        &self,
        patience: Duration,
        look: impl Fn(&[Metrics]) -> Result<T, &'static str>,
    ) -> Result<T, String> {
        let began = self.0.sim.elapsed();
        loop {
            let all: Vec<Metrics> = self.nodes().iter().map(Raft::metrics).collect();
            match look(&all) {
                Ok(found) => return Ok(found),
                Err(missing) if self.0.sim.elapsed() - began > patience => {
                    let all: Vec<String> = all.iter().map(Metrics::to_string).collect();
                    return Err(format!("{missing}, after {patience:?}: {all:#?}"));
                }
                Err(_) => self.0.sim.sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// Follows what a node says of itself, for the trace, and sees that no term has two leaders (paper
/// §5.2, Election Safety) and that the node does not stop but for its disk.
async fn watch<S: StateMachine>(cluster: Cluster<S>, id: NodeId, life: u32, mut events: Events) {
    let Shared { sim, leaders, .. } = &*cluster.0;
    while let Some(event) = events.next().await {
        match event {
            Event::Role { role, term, leader } => {
                sim.note(id, format_args!("is {role} in term {term}, leader {leader:?}"));
                if role == RoleKind::Leader && !cluster.is_of_another_cluster(id) {
                    let first = *lock(leaders).entry(term).or_insert((id, life));
                    if first != (id, life) {
                        let what = format!("{first:?} and {:?} lead term {term}", (id, life));
                        sim.fail("Election Safety", what);
                    }
                }
            }
            Event::Stopped { fatal: Some(fatal) } => {
                sim.note(id, format_args!("stops: {fatal}"));
                if !cluster.is_asked_for(id, &fatal) {
                    sim.fail("no node stops by itself", format!("node {id}: {fatal}"));
                }
            }
            _ => {}
        }
    }
}
