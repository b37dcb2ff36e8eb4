//! A seed's world: a cluster of registers, clients that write and read, faults from a schedule, and
//! in the end the question whether every promise was kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::{Membership, NodeId, Raft, ReadMode, RoleKind, SessionWrite, WriteError};

use crate::cluster::Cluster;
use crate::cluster::nemesis::{FOR_A_CHANGE, inflict};
use crate::cluster::plan::Plan;
use crate::cluster::registers::{Command, Ledger, Operation, Store};
use crate::cluster::sim::{Sim, lock};
use crate::explore::{Counts, Options, Report};
use crate::failure::Failure;
use crate::fault::{Fault, Planned};
use crate::history::linearizability::check;
use crate::history::registers::{Input, Output, Registers};
use crate::history::{History, Outcome};
use crate::rng::Rng;
use crate::sabotage::Sabotage;

/// A client gives up on a call after this, whatever the node says.
const PATIENCE: Duration = Duration::from_secs(4);

/// How often a client sends a write of a session at most.
const ATTEMPTS: u32 = 8;

/// Between two attempts at the end.
const RETRY: Duration = Duration::from_millis(50);

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Terms that had a leader.
    pub elections: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// Writes that certainly did not happen.
    pub refused: u64,
    /// Writes of sessions that were applied by an earlier attempt than the one that was answered.
    pub repeated: u64,
    /// Linearizable reads.
    pub reads: u64,
    /// Faults of the schedule that struck.
    pub faults: u64,
    /// Disks that forgot what they had synced.
    pub forgetful: u64,
    /// Snapshots restored, at starts and from leaders.
    pub restored: u64,
    /// Simulated time.
    pub simulated_ms: u64,
}

impl From<Statistics> for Counts {
    fn from(s: Statistics) -> Self {
        Counts::new([
            ("elections", s.elections),
            ("acknowledged", s.acknowledged),
            ("unknown", s.unknown),
            ("refused", s.refused),
            ("repeated", s.repeated),
            ("reads", s.reads),
            ("faults", s.faults),
            ("forgetful", s.forgetful),
            ("restored", s.restored),
            ("simulated_ms", s.simulated_ms),
        ])
    }
}

/// Runs the world of a seed: load and faults, then everything heals, and every promise is checked.
///
/// # Errors
/// The first broken promise.
pub(crate) fn explore(seed: u64, options: &Options) -> Result<Report, Failure> {
    let mut plan = Plan::from_seed(seed);
    plan.reduce(&options.reduction);
    let (ended, trace) = Sim::run_traced(seed, options.trace, async |sim: Sim| {
        let ledger = Ledger::default();
        let (world, entries) = (sim.clone(), ledger.clone());
        let store = move |node| Store::new(world.clone(), node, entries.clone());
        let run = Run {
            cluster: Cluster::with(&sim, plan.cluster.clone(), store),
            ledger,
            history: History::with_clock({
                let sim = sim.clone();
                move || sim.elapsed()
            }),
            sabotage: options.sabotage,
            numbers: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            outcomes: Mutex::default(),
            stop: AtomicBool::new(false),
            positions: Mutex::default(),
            keys: plan.keys,
            think: plan.think,
            leases: !plan.clocks_jump(),
            changes: plan.changes(),
            sim,
        };
        Arc::new(run).go(&plan).await
    });
    Ok(Report {
        counts: ended?.into(),
        hash: trace.hash(),
        trace: trace.lines().map(str::to_owned).collect(),
    })
}

type Calls = History<Input<u8, u64>, Output<u64>>;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    Unknown,
    Refused,
}

/// What a client that writes in sessions remembers.
#[derive(Debug, Default)]
struct Notebook {
    session: Option<u64>,
    /// Of its last write.
    sequence: u64,
}

struct Run {
    sim: Sim,
    cluster: Cluster<Store>,
    ledger: Ledger,
    history: Calls,
    sabotage: Option<Sabotage>,
    numbers: AtomicU64,
    repeated: AtomicU64,
    outcomes: Mutex<BTreeMap<u64, Fate>>,
    stop: AtomicBool,
    /// Term, committed and applied of each node, in which of its lives.
    positions: Mutex<BTreeMap<NodeId, (u32, [u64; 3])>>,
    keys: u8,
    think: Duration,
    /// Whether some linearizable reads rely on leases.
    leases: bool,
    /// Whether operators change the membership.
    changes: bool,
}

impl Run {
    async fn go(self: Arc<Self>, plan: &Plan) -> Statistics {
        self.cluster.set_weather(plan.cluster.weather, plan.damage);
        for id in self.cluster.ids() {
            self.cluster.restart(id).await.ok();
        }
        self.cluster.initialize().await;
        let clients: Vec<_> = (1..=plan.clients)
            .map(|client| {
                let rng = Rng::stream(self.sim.seed(), &format!("client {client}"));
                let notebook = (client <= plan.in_sessions).then(Notebook::default);
                self.sim.spawn(self.clone().client(client, plan.calls, notebook, rng))
            })
            .collect();
        let (mut faults, nodes) = (Vec::new(), plan.cluster.nodes);
        for (entry, Planned { at_ms, fault }) in plan.faults.iter().enumerate() {
            let at = Duration::from_millis(*at_ms);
            let misses = fault.node().is_some_and(|node| node > nodes);
            if plan.left_out.contains(&entry) || at >= plan.duration || misses {
                continue;
            }
            self.sim.sleep(at.saturating_sub(self.sim.elapsed())).await;
            if self.sabotage == Some(Sabotage::DiskLies) && faults.is_empty() {
                self.cluster.ids().into_iter().for_each(|id| self.cluster.disk_lies(id));
            }
            self.look_at_positions();
            if self.sim.has_failed() {
                break;
            }
            self.sim.note(0, format_args!("fault {entry}: {fault}"));
            match *fault {
                Fault::SlowMachine { node, ms } => {
                    self.ledger.stall(node, self.sim.elapsed() + Duration::from_millis(ms));
                }
                Fault::Rot { node } => self.rots(node),
                _ => {}
            }
            let (cluster, fault) = (self.cluster.clone(), *fault);
            faults.push(self.sim.spawn(async move { inflict(fault, &cluster).await }));
        }
        let struck = faults.len() as u64;
        let until = if self.sim.has_failed() { Duration::ZERO } else { plan.duration };
        self.sim.sleep(until.saturating_sub(self.sim.elapsed())).await;
        self.stop.store(true, Ordering::Relaxed);
        self.sim.note(0, format_args!("the faults end"));
        // What hangs is released before what waits for it is waited for.
        self.cluster.heal_everything().await;
        for fault in faults {
            drop(fault.await);
        }
        for client in clients {
            drop(client.await);
        }
        self.look_at_positions();
        if self.sabotage == Some(Sabotage::NeverHeals) {
            self.cluster.ids().into_iter().for_each(|id| self.cluster.isolate(id));
        }
        // A log that failed in a quiet moment stops its node at the next write, maybe only now.
        let operator = self.sim.spawn(self.clone().keep_up());
        self.recovers().await;
        operator.abort();
        self.look_at_positions();
        if let Some(left) = plan.left_of_disaster.filter(|_| !self.sim.has_failed()) {
            self.survives_disaster(left).await;
        }
        self.check();
        self.statistics(struck)
    }

    /// A state changes by itself: one of a world, or there might be no majority that is right.
    fn rots(&self, node: NodeId) {
        if self.cluster.try_node(node).is_some() && self.ledger.rotten().is_none() {
            self.cluster.may_diverge();
            self.ledger.rot(node);
        }
    }

    /// No position of a node goes back while it lives (paper, Figure 2).
    fn look_at_positions(&self) {
        for node in self.cluster.nodes() {
            let (id, metrics) = (node.id(), node.metrics());
            let now = [metrics.term, metrics.committed, metrics.applied];
            let now = (self.cluster.life(id), now);
            let before = lock(&self.positions).insert(id, now);
            let back = before.filter(|before| before.0 == now.0);
            if back.is_some_and(|before| before.1.iter().zip(now.1).any(|(a, b)| *a > b)) {
                let what = format!("node {id}: {before:?}, then {now:?}");
                self.sim.fail("positions never go back", what);
            }
        }
    }

    // ---- clients ----

    async fn client(
        self: Arc<Self>,
        client: u64,
        calls: u64,
        mut notebook: Option<Notebook>,
        mut rng: Rng,
    ) {
        for _ in 0..calls {
            if self.stop.load(Ordering::Relaxed) || self.sim.has_failed() {
                return;
            }
            let think = rng.below(self.think.as_millis() as u64 + 1);
            self.sim.sleep(Duration::from_millis(think)).await;
            let ids = self.cluster.ids();
            let Some(node) = self.cluster.try_node(rng.pick(&ids)) else { continue };
            let key = rng.below(u64::from(self.keys)) as u8;
            if rng.chance(400) {
                // By its number: no draw of its own.
                let lease = self.leases && (client + u64::from(key)) % 2 == 0;
                self.read(
                    client,
                    &node,
                    if lease { ReadMode::Lease } else { ReadMode::Index },
                    key,
                )
                .await;
            } else {
                let value = self.numbers.load(Ordering::Relaxed);
                let operation = match rng.below(10) {
                    0 => Operation::Delete { key },
                    1..=3 => {
                        let recent = value.saturating_sub(rng.below(8));
                        let expect = rng.chance(800).then_some(recent);
                        Operation::Cas { key, expect, value }
                    }
                    _ => Operation::Write { key, value },
                };
                match &mut notebook {
                    None => drop(self.write(client, &node, operation).await),
                    Some(notebook) => self.write_once(client, notebook, operation, &mut rng).await,
                }
            }
        }
    }

    /// A write in a session: sent again, to any node, until it is certain what became of it.
    async fn write_once(
        &self,
        client: u64,
        notebook: &mut Notebook,
        operation: Operation,
        rng: &mut Rng,
    ) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        // Until told otherwise: also if this client is dropped in the middle.
        lock(&self.outcomes).insert(number, Fate::Unknown);
        let call = self.history.invoke(client, operation.input());
        notebook.sequence += 1;
        let mut fate = Fate::Refused;
        for _ in 0..ATTEMPTS {
            let ids = self.cluster.ids();
            let Some(node) = self.cluster.try_node(rng.pick(&ids)) else {
                self.sim.sleep(RETRY).await;
                continue;
            };
            if notebook.session.is_none() {
                let opened = tokio::time::timeout(PATIENCE, node.open_session()).await;
                (notebook.session, notebook.sequence) = (opened.ok().and_then(Result::ok), 1);
            }
            let Some(session) = notebook.session else { continue };
            let sequence = notebook.sequence;
            let write = SessionWrite { session, sequence, acknowledged: sequence - 1 };
            let command = Command { number, operation: operation.clone() };
            match tokio::time::timeout(PATIENCE, node.write_once(write, command)).await {
                Ok(Ok(once)) => {
                    self.repeated.fetch_add(once.repeated.into(), Ordering::Relaxed);
                    call.returned(once.response.output());
                    lock(&self.outcomes).insert(number, Fate::Acknowledged);
                    return;
                }
                Ok(Err(WriteError::SessionExpired)) => {
                    notebook.session = None;
                    if fate == Fate::Unknown {
                        // An earlier attempt may have done it, and nobody knows any more.
                        break;
                    }
                }
                Ok(Err(error)) if !error.may_have_happened() => {}
                Ok(Err(_)) | Err(_) => fate = Fate::Unknown,
            }
        }
        match fate {
            Fate::Unknown => call.unknown(),
            _ => call.failed(),
        }
        lock(&self.outcomes).insert(number, fate);
    }

    async fn write(&self, client: u64, node: &Raft<Store>, operation: Operation) -> Fate {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        // Until told otherwise: also if this client is dropped in the middle.
        lock(&self.outcomes).insert(number, Fate::Unknown);
        let call = self.history.invoke(client, operation.input());
        let write = node.write(Command { number, operation });
        let fate = match tokio::time::timeout(PATIENCE, write).await {
            Ok(Ok(answer)) => {
                call.returned(answer.output());
                Fate::Acknowledged
            }
            Ok(Err(error)) if !error.may_have_happened() => {
                call.failed();
                Fate::Refused
            }
            Ok(Err(_)) | Err(_) => {
                call.unknown();
                Fate::Unknown
            }
        };
        lock(&self.outcomes).insert(number, fate);
        fate
    }

    async fn read(&self, client: u64, node: &Raft<Store>, mode: ReadMode, key: u8) -> bool {
        let call = self.history.invoke(client, Input::Read { key });
        match tokio::time::timeout(PATIENCE, node.read_with(mode, move |store| store.get(key)))
            .await
        {
            Ok(Ok(value)) => {
                call.returned(Output::Read(value));
                true
            }
            // A read that was not served has no effect.
            Ok(Err(_)) | Err(_) => {
                call.failed();
                false
            }
        }
    }

    // ---- afterwards ----

    /// What every operator does: starts again what is down.
    async fn keep_up(self: Arc<Self>) {
        loop {
            for id in self.cluster.members() {
                self.cluster.restart(id).await.ok();
            }
            self.sim.sleep(Duration::from_millis(100)).await;
        }
    }

    /// Liveness: without faults the cluster elects, commits, levels, and serves reads everywhere.
    async fn recovers(&self) {
        const PROMISE: &str = "the cluster recovers";
        self.cluster.initialize().await;
        let bound = self.cluster.recovery_bound();
        if self.changes {
            // What an operator has given up may still be done: it waits at a leader whose clock is
            // slower, or in a lane. By then it is over.
            self.sim.sleep(FOR_A_CHANGE * 2).await;
        }
        if !self.reunites(bound).await {
            return self.sim.fail(PROMISE, "not every node could be made a voter again");
        }
        if let Err(missing) = self.cluster.ready(bound).await {
            return self.sim.fail(PROMISE, missing);
        }
        // A lane may still wait for a connection that broke before: what certainly was not done is
        // tried again, for the same bound.
        let end = self.sim.elapsed() + bound;
        for id in self.cluster.members() {
            while !self.writes(id).await {
                if self.sim.elapsed() > end {
                    return self.sim.fail(PROMISE, format!("no write at node {id}"));
                }
                self.sim.sleep(RETRY).await;
            }
            let keys = if self.is_witness(id) { 0 } else { self.keys };
            for key in 0..keys {
                while !self.reads(id, key).await {
                    if self.sim.elapsed() > end {
                        return self.sim.fail(PROMISE, format!("no read at node {id}"));
                    }
                    self.sim.sleep(RETRY).await;
                }
            }
        }
        // All replicas are there, so they can tell who is wrong, and who starts again is not any more.
        while let Some(id) = self.ledger.rotten() {
            if self.sim.elapsed() > end {
                let what = format!("node {id} goes on");
                return self.sim.fail("a replica that diverged stops", what);
            }
            self.writes(id).await;
            self.sim.sleep(RETRY).await;
        }
        // What was written just now, too.
        if let Err(missing) = self.cluster.ready(bound).await {
            self.sim.fail(PROMISE, missing);
        }
    }

    /// All but `left` nodes are lost for ever, and when the others have become a cluster of their own the
    /// lost come back after all. Nothing is lost by it: all had everything.
    async fn survives_disaster(&self, left: usize) {
        const PROMISE: &str = "a recovered cluster goes on";
        let bound = self.cluster.recovery_bound();
        if let Err(missing) = self.cluster.durable(bound).await {
            return self.sim.fail(PROMISE, missing);
        }
        let survivors = self.cluster.members().into_iter().rev().take(left).collect();
        let lost = match self.cluster.lose_quorum(&survivors).await {
            Ok(lost) => lost,
            Err(why) => return self.sim.fail(PROMISE, why),
        };
        for returning in [&[][..], &lost] {
            for id in returning {
                self.cluster.restart(*id).await.ok();
            }
            // Long enough for them to elect among themselves, and to ask the others.
            self.sim.sleep(bound / 2).await;
            for id in &survivors {
                if !self.writes(*id).await {
                    return self.sim.fail(PROMISE, format!("no write at node {id}"));
                }
            }
            if let Err(missing) = self.cluster.ready(bound).await {
                return self.sim.fail(PROMISE, missing);
            }
        }
    }

    /// Operators make every node a voter again, as far as there are not too many witnesses for that:
    /// those who were removed come back with the disk they have. `false` if that is not done within
    /// twice the bound.
    async fn reunites(&self, bound: Duration) -> bool {
        let end = self.sim.elapsed() + bound * 2;
        while self.sim.elapsed() < end {
            let leader = self.cluster.nodes().into_iter().map(|node| (node.metrics(), node));
            let leaders = leader.filter(|(metrics, _)| metrics.role == RoleKind::Leader);
            if let Some((metrics, leader)) = leaders.max_by_key(|(metrics, _)| metrics.term) {
                let members = metrics.membership.expect("a leader has a configuration");
                let Some((out, witness)) = self.who_is_out(&members) else { return true };
                let (place, known) = (format!("node-{out}"), members.member(out));
                let change = match known {
                    // It was added as what it can't be.
                    Some(known) if witness && !known.witness => leader.remove(out),
                    _ if witness => leader.add_witness(out, place),
                    _ => leader.add_voter(out, place),
                };
                change.timeout(bound / 2).await.ok();
            }
            self.sim.sleep(RETRY).await;
        }
        false
    }

    /// Somebody who is no voter and could be one, and whether as a witness. Full replicas first: the
    /// more there are, the more witnesses there may be.
    fn who_is_out(&self, members: &Membership) -> Option<(NodeId, bool)> {
        let all = self.cluster.members().into_iter();
        let out = all.filter(|id| !members.voters().contains(id));
        let with_role = out.map(|id| {
            let known = members.member(id).is_some_and(|member| member.witness);
            (id, known || self.is_witness(id))
        });
        let too_many = |id: NodeId| {
            let as_witness = members.settled().with_learner(id, "")?.with_witness(id);
            as_witness?.promoted(id)
        };
        with_role
            .filter(|(id, witness)| {
                let learns = members.member(*id).is_some_and(|member| member.witness);
                !(*witness && learns && too_many(*id).is_err())
            })
            .min_by_key(|(_, witness)| *witness)
    }

    fn is_witness(&self, id: NodeId) -> bool {
        self.cluster.try_node(id).is_some_and(|node| node.metrics().witness)
    }

    async fn writes(&self, id: NodeId) -> bool {
        let Some(node) = self.cluster.try_node(id) else { return false };
        let value = self.numbers.load(Ordering::Relaxed);
        let write = Operation::Write { key: 0, value };
        self.write(0, &node, write).await == Fate::Acknowledged
    }

    async fn reads(&self, id: NodeId, key: u8) -> bool {
        match self.cluster.try_node(id) {
            Some(node) => self.read(0, &node, ReadMode::Index, key).await,
            None => false,
        }
    }

    fn check(&self) {
        for id in self.cluster.members().into_iter().filter(|id| !self.is_witness(*id)) {
            if let Err(what) = self.ledger.is_whole_on(id) {
                self.sim.fail("everything is on every node", what);
            }
        }
        let counts = self.ledger.counts();
        for (number, fate) in lock(&self.outcomes).iter() {
            let applied = counts.get(number).copied().unwrap_or(0);
            let broken = match (fate, applied) {
                (Fate::Acknowledged, 0) => "an acknowledged write is lost",
                (Fate::Refused, 1..) => "a write that was refused is applied",
                (_, 2..) => "a write is applied twice",
                _ => continue,
            };
            self.sim.fail("every write at most once", format!("{broken}: number {number}"));
        }
        if let Some(phantom) = counts.keys().find(|n| !lock(&self.outcomes).contains_key(n)) {
            self.sim.fail("every write at most once", format!("nobody wrote number {phantom}"));
        }
        if let Err(violation) = check(&Registers::new(), &self.history.operations()) {
            self.sim.fail("linearizability", violation.to_string());
        }
    }

    fn statistics(&self, faults: u64) -> Statistics {
        let outcomes = lock(&self.outcomes);
        let count = |fate| outcomes.values().filter(|f| **f == fate).count() as u64;
        let reads = self
            .history
            .operations()
            .into_iter()
            .filter(|o| matches!(o.outcome, Outcome::Returned(Output::Read(_))));
        Statistics {
            elections: self.cluster.elections(),
            acknowledged: count(Fate::Acknowledged),
            unknown: count(Fate::Unknown),
            refused: count(Fate::Refused),
            repeated: self.repeated.load(Ordering::Relaxed),
            reads: reads.count() as u64,
            faults,
            forgetful: u64::from(self.cluster.has_forgotten()),
            restored: self.ledger.restored(),
            simulated_ms: self.sim.elapsed().as_millis() as u64,
        }
    }
}
