//! A cluster in one process, with logs on the disk, whose nodes can be held up one by one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate::{
    Committed, Config, Failure as Broken, InProcess, LogReader, Metrics, Raft, RaftStorage, Raw,
    Snapshot, SnapshotStore, StateMachine, StorageError,
};
use quorate_storage::wal::{Wal, WalOptions, WalStorage};
use quorate_storage::{Recovered, WriteBatch, WriteDone};

use crate::failure::Failure;

/// How long anything may take that has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a node's parts take for each batch, beyond what they need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hindrance {
    disk_us: Arc<AtomicU64>,
    machine_us: Arc<AtomicU64>,
}

impl Hindrance {
    pub(crate) fn slow_disk(&self, by: Duration) {
        self.disk_us.store(by.as_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn slow_machine(&self, by: Duration) {
        self.machine_us.store(by.as_micros() as u64, Ordering::Relaxed);
    }
}

fn wait_of(micros: &AtomicU64) -> Option<Duration> {
    let micros = micros.load(Ordering::Relaxed);
    (micros > 0).then(|| Duration::from_micros(micros))
}

/// Does nothing with its commands, in the time that it is told to take. Its state is what snapshots are
/// made of.
pub(crate) struct Machine {
    state: Bytes,
    hindrance: Hindrance,
}

#[async_trait]
impl StateMachine for Machine {
    type Command = Bytes;
    type Response = ();
    type Codec = Raw;

    async fn apply(&mut self, entries: Vec<Committed<Bytes>>) -> Result<Vec<()>, Broken> {
        if let Some(wait) = wait_of(&self.hindrance.machine_us) {
            tokio::time::sleep(wait).await;
        }
        Ok(vec![(); entries.len()])
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Broken> {
        Ok(Snapshot::from_bytes(self.state.clone()))
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Broken> {
        // Reading it takes long, and is not for a thread that others wait for.
        self.state = tokio::task::spawn_blocking(|| snapshot.into_bytes()).await??;
        Ok(())
    }
}

/// A log whose disk is slow: each write of it begins late, and takes everything that waited meanwhile.
struct SlowLog {
    log: Arc<Mutex<WalStorage>>,
    /// To the thread that writes; `None` once it is to end.
    batches: Option<Sender<(WriteBatch, WriteDone)>>,
    thread: Option<JoinHandle<()>>,
}

impl SlowLog {
    fn new(log: WalStorage, hindrance: Hindrance) -> Self {
        let log = Arc::new(Mutex::new(log));
        let (batches, waiting) = mpsc::channel::<(WriteBatch, WriteDone)>();
        let to = log.clone();
        let thread = std::thread::spawn(move || {
            while let Ok(first) = waiting.recv() {
                if let Some(wait) = wait_of(&hindrance.disk_us) {
                    std::thread::sleep(wait);
                }
                let mut log = lock(&to);
                for (batch, done) in std::iter::once(first).chain(waiting.try_iter()) {
                    log.submit(batch, done);
                }
            }
        });
        Self { log, batches: Some(batches), thread: Some(thread) }
    }
}

impl Drop for SlowLog {
    /// Whoever opens the log again finds it closed.
    fn drop(&mut self) {
        self.batches = None;
        // Its panic was reported by the batches that it had.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RaftStorage for SlowLog {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        lock(&self.log).recover()
    }

    fn submit(&mut self, batch: WriteBatch, done: WriteDone) {
        // The thread lives as long as this end of its queue.
        drop(self.batches.as_ref().map(|batches| batches.send((batch, done))));
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        lock(&self.log).reader()
    }

    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        lock(&self.log).snapshots()
    }
}

/// The nodes, the leader among them.
pub(crate) struct Cluster {
    world: World,
    nodes: BTreeMap<u64, (Raft<Machine>, Hindrance)>,
    leader: u64,
}

/// What a node is started in.
#[derive(Clone)]
struct World {
    network: InProcess,
    directory: PathBuf,
    /// Of every machine: shared, as long as none has restored a snapshot.
    state: Bytes,
}

fn failed(doing: &str, error: impl std::fmt::Display) -> Failure {
    let what = format!("the cluster failed to {doing}: {error}");
    Failure::new(what, "run it again on a machine that does nothing else")
}

impl World {
    /// Starts a node, on what it left in its directory.
    async fn start(&self, id: u64) -> Result<(Raft<Machine>, Hindrance), Failure> {
        let path = self.directory.join(id.to_string());
        // Where it holds nobody up, as a host does it.
        let open = move || Wal::open(path, WalOptions::default());
        let opened = tokio::task::spawn_blocking(open).await.map_err(|e| failed("start", e))?;
        let wal = opened.map_err(|e| failed("open a log", e))?;
        let hindrance = Hindrance::default();
        let machine = Machine { state: self.state.clone(), hindrance: hindrance.clone() };
        let mut config = Config::default();
        // A busy machine deposes no leader.
        config.election_timeout_min = Duration::from_secs(2);
        config.election_timeout_max = Duration::from_secs(4);
        // Built where they are the trouble, and between measurements: writes without trouble are to be
        // without snapshots, too.
        config.snapshot_entries = None;
        config.snapshot_log_bytes = None;
        let node = Raft::builder(id, machine)
            .storage(SlowLog::new(wal.group(1), hindrance.clone()))
            .network(Arc::new(self.network.clone()))
            .config(config)
            .start()
            .await
            .map_err(|e| failed("start", e))?;
        self.network.join(id, node.host().inbound());
        Ok((node, hindrance))
    }
}

impl Cluster {
    /// Of so many nodes, each with a state of so many bytes.
    pub(crate) async fn start(
        size: u64,
        state_bytes: usize,
        directory: &Path,
    ) -> Result<Self, Failure> {
        let state = vec![7; state_bytes].into();
        let world = World { network: InProcess::new(), directory: directory.into(), state };
        let mut nodes = BTreeMap::new();
        for id in 1..=size {
            nodes.insert(id, world.start(id).await?);
        }
        let members: Vec<_> = (1..=size).map(|id| (id, id.to_string())).collect();
        nodes[&1].0.initialize(members).await.map_err(|e| failed("begin", e))?;
        let leader = nodes[&1].0.wait(PATIENCE).leader().await;
        let leader = leader.map_err(|e| failed("elect a leader", e))?;
        Ok(Self { world, nodes, leader })
    }

    pub(crate) fn leader(&self) -> &Raft<Machine> {
        &self.nodes[&self.leader].0
    }

    /// A node that follows, and what holds it up; always the same.
    pub(crate) fn follower(&self) -> (&Raft<Machine>, &Hindrance) {
        let (_, (node, hindrance)) =
            self.nodes.iter().find(|(id, _)| **id != self.leader).expect("there are several");
        (node, hindrance)
    }

    /// Nothing reaches the follower any more, and nothing comes from it.
    pub(crate) fn cut_off_follower(&self) {
        self.world.network.isolate(self.follower().0.id());
    }

    /// The process of the follower ends, as far as anybody can tell.
    pub(crate) async fn stop_follower(&self) {
        let (node, _) = self.follower();
        self.world.network.leave(node.id());
        node.shutdown().await;
    }

    /// ... and is started again, by a task of its own: it is none of the load's.
    pub(crate) async fn start_follower(&mut self) -> Result<(), Failure> {
        let id = self.follower().0.id();
        let world = self.world.clone();
        let started = tokio::spawn(async move { world.start(id).await }).await;
        self.nodes.insert(id, started.map_err(|e| failed("start", e))??);
        Ok(())
    }

    /// Nothing is in anybody's way any more. Returns when everybody has everything that is committed
    /// now and a log that begins there, and the leader is the same.
    pub(crate) async fn recover(&self) -> Result<(), Failure> {
        self.world.network.heal();
        let committed = self.leader().metrics().committed;
        for (node, hindrance) in self.nodes.values() {
            hindrance.slow_disk(Duration::ZERO);
            hindrance.slow_machine(Duration::ZERO);
            let level = move |m: &Metrics| m.applied >= committed;
            let wait = node.wait(PATIENCE).until("a node that is level", level).await;
            let metrics = wait.map_err(|e| failed("catch up", e))?;
            if metrics.leader != Some(self.leader) {
                return Err(failed("keep its leader", format!("{:?} leads", metrics.leader)));
            }
            node.trigger().snapshot().await.map_err(|e| failed("build a snapshot", e))?;
        }
        Ok(())
    }

    pub(crate) async fn stop(self) {
        for (node, _) in self.nodes.into_values() {
            node.shutdown().await;
        }
    }
}
