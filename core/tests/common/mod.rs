//! What the tests of the node share: a machine that remembers, a network that misbehaves, disks
//! that outlive their nodes, and a cluster of them.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use quorate::{
    Committed, Config, Env, Envelope, Failure, InProcess, Lane, MemoryDisk, Metrics, NetworkError,
    NodeId, Peer, Postcard, Raft, RaftNetwork, RaftStorage, RoleKind, Snapshot, StateMachine,
    TokioEnv, WriteError,
};
use quorate_engine::Instant;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Long enough for anything that is going to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// splitmix64.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Tokio's clock, and numbers that are the same in every run.
pub(crate) struct SeededEnv {
    tokio: TokioEnv,
    rng: Mutex<Rng>,
}

impl SeededEnv {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { tokio: TokioEnv::new(), rng: Mutex::new(Rng::new(seed)) })
    }
}

impl Env for SeededEnv {
    fn now(&self) -> Instant {
        self.tokio.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.tokio.sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> JoinHandle<()> {
        self.tokio.spawn(task)
    }

    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        self.tokio.run_blocking(work)
    }

    fn random(&self) -> u64 {
        lock(&self.rng).next()
    }
}

// ---- the state machine ----

/// What a machine does with the next batch instead of applying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Panic,
    Fail,
    TooFewResponses,
    TooManyResponses,
    /// Waits until the gate opens, then applies.
    Gate,
    SnapshotPanics,
    SnapshotFails,
    /// After some bytes.
    SnapshotBreaks,
}

/// Remembers the commands it has seen, in order. The response is how many there were.
pub(crate) struct Ledger {
    pub(crate) ids: Vec<u64>,
    control: Arc<LedgerControl>,
}

/// The test's end of a [`Ledger`].
#[derive(Default)]
pub(crate) struct LedgerControl {
    fault: Mutex<Option<Fault>>,
    opened: Notify,
    applied: AtomicU64,
    restored: AtomicU64,
}

impl LedgerControl {
    pub(crate) fn inject(&self, fault: Fault) {
        *lock(&self.fault) = Some(fault);
    }

    pub(crate) fn open_gate(&self) {
        *lock(&self.fault) = None;
        self.opened.notify_one();
    }

    /// Snapshots restored.
    pub(crate) fn restored(&self) -> u64 {
        self.restored.load(Ordering::SeqCst)
    }

    /// Commands applied.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }
}

impl Ledger {
    pub(crate) fn new() -> (Self, Arc<LedgerControl>) {
        let control = Arc::new(LedgerControl::default());
        (Self { ids: Vec::new(), control: control.clone() }, control)
    }
}

#[async_trait]
impl StateMachine for Ledger {
    type Command = u64;
    type Response = u64;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<u64>>) -> Result<Vec<u64>, Failure> {
        let fault = *lock(&self.control.fault);
        match fault {
            Some(Fault::Panic) => panic!("told to panic"),
            Some(Fault::Fail) => return Err(Failure::msg("told to fail")),
            Some(Fault::Gate) => self.control.opened.notified().await,
            _ => {}
        }
        let mut responses = Vec::new();
        for entry in entries {
            self.ids.push(entry.command);
            responses.push(self.ids.len() as u64);
        }
        self.control.applied.store(self.ids.len() as u64, Ordering::SeqCst);
        match fault {
            Some(Fault::TooFewResponses) => drop(responses.pop()),
            Some(Fault::TooManyResponses) => responses.push(0),
            _ => {}
        }
        Ok(responses)
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        let fault = *lock(&self.control.fault);
        match fault {
            Some(Fault::SnapshotPanics) => panic!("told to panic"),
            Some(Fault::SnapshotFails) => return Err(Failure::msg("told to fail")),
            Some(Fault::SnapshotBreaks) => {
                let pieces = [Ok(Bytes::from_static(b"half of ")), Err(Failure::msg("told to"))];
                return Ok(Snapshot::new(pieces.into_iter()));
            }
            _ => Snapshot::encode(&self.ids),
        }
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        self.ids = snapshot.decode()?;
        self.control.restored.fetch_add(1, Ordering::SeqCst);
        self.control.applied.store(self.ids.len() as u64, Ordering::SeqCst);
        Ok(())
    }
}

// ---- the network ----

type Filter = Box<dyn Fn(Lane, &Envelope) -> bool + Send + Sync>;

/// An in-process network that can do everything a network may do, and hang.
#[derive(Clone, Default)]
pub(crate) struct Chaos {
    pub(crate) inner: InProcess,
    state: Arc<Mutex<ChaosState>>,
}

#[derive(Default)]
struct ChaosState {
    rng: Option<Rng>,
    /// Chances in a hundred.
    drop: u64,
    copy: u64,
    delay: u64,
    max_delay_ms: u64,
    filter: Option<Filter>,
    /// From and to: `send` never returns.
    black_holes: BTreeSet<(NodeId, NodeId)>,
    recorded: Option<Vec<Envelope>>,
}

impl Chaos {
    /// From now on drops, copies and delays (and so reorders) in every lane; by `seed`.
    pub(crate) fn rage(&self, seed: u64, drop: u64, copy: u64, delay: u64, max_delay_ms: u64) {
        let mut state = lock(&self.state);
        state.rng = Some(Rng::new(seed));
        (state.drop, state.copy, state.delay) = (drop, copy, delay);
        state.max_delay_ms = max_delay_ms;
    }

    /// Ends everything that was begun.
    pub(crate) fn calm(&self) {
        let mut state = lock(&self.state);
        state.rng = None;
        state.filter = None;
        state.black_holes.clear();
        drop(state);
        self.inner.heal();
    }

    /// Only what `filter` lets pass arrives; the rest is lost without an error.
    pub(crate) fn only(&self, filter: impl Fn(Lane, &Envelope) -> bool + Send + Sync + 'static) {
        lock(&self.state).filter = Some(Box::new(filter));
    }

    pub(crate) fn black_hole(&self, from: NodeId, to: NodeId) {
        lock(&self.state).black_holes.insert((from, to));
    }

    /// Keeps a copy of everything that is sent from now on.
    pub(crate) fn record(&self) {
        lock(&self.state).recorded = Some(Vec::new());
    }

    pub(crate) fn recorded(&self) -> Vec<Envelope> {
        lock(&self.state).recorded.clone().unwrap_or_default()
    }
}

#[async_trait]
impl RaftNetwork for Chaos {
    async fn send(
        &self,
        to: &Peer,
        lane: Lane,
        messages: Vec<Envelope>,
    ) -> Result<(), NetworkError> {
        let mut now = Vec::new();
        let mut later = Vec::new();
        let mut swallowed = false;
        {
            let mut state = lock(&self.state);
            if let Some(recorded) = &mut state.recorded {
                recorded.extend(messages.iter().cloned());
            }
            for message in messages {
                swallowed |= state.black_holes.contains(&(message.from, to.id));
                if state.filter.as_ref().is_some_and(|filter| !filter(lane, &message)) {
                    continue;
                }
                let ChaosState { rng, drop, copy, delay, max_delay_ms, .. } = &mut *state;
                let Some(rng) = rng else {
                    now.push(message);
                    continue;
                };
                if rng.below(100) < *drop {
                    continue;
                }
                if rng.below(100) < *copy {
                    later.push((rng.below(*max_delay_ms + 1), message.clone()));
                }
                if rng.below(100) < *delay {
                    later.push((rng.below(*max_delay_ms + 1), message));
                } else {
                    now.push(message);
                }
            }
        }
        if swallowed {
            std::future::pending::<()>().await;
        }
        for (ms, message) in later {
            let (inner, to) = (self.inner.clone(), to.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                drop(inner.send(&to, lane, vec![message]).await);
            });
        }
        self.inner.send(to, lane, now).await
    }
}

// ---- the cluster ----

/// Nodes with a [`Ledger`] each, over [`Chaos`], on disks in memory that outlive them.
pub(crate) struct Cluster {
    pub(crate) network: Chaos,
    pub(crate) config: Config,
    pub(crate) disks: BTreeMap<NodeId, MemoryDisk>,
    pub(crate) nodes: BTreeMap<NodeId, Raft<Ledger>>,
    pub(crate) machines: BTreeMap<NodeId, Arc<LedgerControl>>,
    seed: u64,
}

impl Cluster {
    /// No nodes yet.
    pub(crate) fn empty(config: Config) -> Self {
        Self {
            network: Chaos::default(),
            config,
            disks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            machines: BTreeMap::new(),
            seed: 1,
        }
    }

    /// `n` nodes that have a leader, and have told each other who they are.
    pub(crate) async fn new(n: u64, config: Config) -> Self {
        let mut cluster = Self::empty(config);
        for id in 1..=n {
            cluster.start(id).await;
        }
        cluster.nodes[&1].initialize(members(1..=n)).await.unwrap();
        cluster.settle().await;
        cluster
    }

    pub(crate) async fn start(&mut self, id: NodeId) {
        let storage = self.disks.entry(id).or_default().open();
        self.start_on(id, storage).await;
    }

    pub(crate) async fn start_on(&mut self, id: NodeId, storage: impl RaftStorage) {
        let (machine, control) = Ledger::new();
        self.seed += 1;
        let raft = Raft::builder(id, machine)
            .storage(storage)
            .network(Arc::new(self.network.clone()))
            .config(self.config.clone())
            .env(SeededEnv::new(self.seed * 1000 + id))
            .start()
            .await
            .unwrap();
        self.network.inner.join(id, raft.host().inbound());
        self.nodes.insert(id, raft);
        self.machines.insert(id, control);
    }

    /// The node is gone, its disk stays.
    pub(crate) async fn stop(&mut self, id: NodeId) {
        self.network.inner.leave(id);
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    pub(crate) async fn shutdown(self) {
        for node in self.nodes.values() {
            node.shutdown().await;
        }
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn others(&self, but: NodeId) -> Vec<NodeId> {
        self.ids().into_iter().filter(|id| *id != but).collect()
    }

    /// Waits until all agree on a leader and every member is tied to its data directory, so that no
    /// further entry is on its way.
    pub(crate) async fn settle(&self) -> NodeId {
        self.settle_but(0).await
    }

    /// The same, while the member `down` is not there.
    pub(crate) async fn settle_but(&self, down: NodeId) -> NodeId {
        let all = self.others(down);
        let leader = self.leader_among(&all).await;
        let tied = move |m: &Metrics| {
            let known = |members: &quorate::Membership| {
                members.members().iter().all(|(id, m)| *id == down || m.incarnation != 0)
            };
            m.membership.as_ref().is_some_and(|m| known(m)) && m.applied == m.last
        };
        for id in &all {
            self.nodes[id].wait(PATIENCE).until("a settled cluster", tied).await.unwrap();
        }
        leader
    }

    /// Waits until one of `ids` leads and the others of them know.
    pub(crate) async fn leader_among(&self, ids: &[NodeId]) -> NodeId {
        let ids: BTreeSet<NodeId> = ids.iter().copied().collect();
        let began = tokio::time::Instant::now();
        while began.elapsed() < PATIENCE {
            let metrics: Vec<Metrics> = ids.iter().map(|id| self.nodes[id].metrics()).collect();
            let term = metrics.iter().map(|m| m.term).max().unwrap();
            let leader = metrics.iter().find(|m| m.role == RoleKind::Leader && m.term == term);
            if let Some(leader) = leader {
                if metrics.iter().all(|m| m.leader == Some(leader.id)) {
                    return leader.id;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let metrics: Vec<_> = self.nodes.values().map(|n| n.metrics().to_string()).collect();
        panic!("no leader among {ids:?}: {metrics:#?}");
    }

    /// What each of the nodes has applied once they are level: all the same. Witnesses have nothing.
    pub(crate) async fn ledger(&self) -> Vec<u64> {
        let mut ledgers = BTreeMap::new();
        for (id, node) in self.nodes.iter().filter(|(_, node)| !node.metrics().witness) {
            let ids = node.read(|machine| machine.ids.clone()).await;
            ledgers.insert(*id, ids.unwrap_or_else(|e| panic!("{id}: {e}: {}", node.metrics())));
        }
        let first = ledgers.values().next().unwrap().clone();
        for (id, ledger) in ledgers {
            assert_eq!(ledger, first, "node {id}");
        }
        first
    }
}

/// Members with addresses that nobody looks at.
pub(crate) fn members(ids: impl IntoIterator<Item = NodeId>) -> Vec<(NodeId, String)> {
    ids.into_iter().map(|id| (id, format!("node-{id}"))).collect()
}

/// A write in the background.
pub(crate) fn spawn_write(
    node: &Raft<Ledger>,
    id: u64,
) -> tokio::task::JoinHandle<Result<u64, WriteError>> {
    let node = node.clone();
    tokio::spawn(async move { node.write(id).await })
}

/// Polls until `done`, for a while.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let began = tokio::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}
