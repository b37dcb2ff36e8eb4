//! A cluster in one process, with logs on the disk, whose nodes can be held up one by one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate::{
    Committed, Config, Failure as Broken, InProcess, LogReader, Metrics, Raft, RaftStorage, Raw,
    Snapshot, SnapshotStore, StateMachine, StorageError,
};
use quorate_storage::wal::{Wal, WalOptions, WalStorage};
use quorate_storage::{Recovered, WriteBatch, WriteDone};
use tempfile::TempDir;

use crate::failure::Failure;

/// How long anything may take that has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the state machine holds: enough that a slow reader of it takes a while.
const STATE_BYTES: usize = 32 << 20;

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

/// Does nothing with its commands, in the time that it is told to take. Its state is as large as a
/// snapshot has to be to keep a slow reader busy.
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
        self.state = snapshot.into_bytes()?;
        Ok(())
    }
}

/// A log whose disk is slow: each write of it begins late, and takes everything that waited meanwhile.
struct SlowLog {
    log: Arc<Mutex<WalStorage>>,
    /// To the thread that writes.
    batches: Sender<(WriteBatch, WriteDone)>,
}

impl SlowLog {
    fn new(log: WalStorage, hindrance: Hindrance) -> Self {
        let log = Arc::new(Mutex::new(log));
        let (batches, waiting) = mpsc::channel::<(WriteBatch, WriteDone)>();
        let to = log.clone();
        // Ends when the node drops its storage.
        std::thread::spawn(move || {
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
        Self { log, batches }
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
        drop(self.batches.send((batch, done)));
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
    network: InProcess,
    nodes: BTreeMap<u64, (Raft<Machine>, Hindrance)>,
    leader: u64,
    /// Removed with what is in it.
    _directory: TempDir,
}

fn failed(doing: &str, error: impl std::fmt::Display) -> Failure {
    let what = format!("the cluster failed to {doing}: {error}");
    Failure::new(what, "run it again on a machine that does nothing else")
}

impl Cluster {
    pub(crate) async fn start(size: u64) -> Result<Self, Failure> {
        let directory = TempDir::with_prefix("quorate-tail-").map_err(|e| failed("begin", e))?;
        let network = InProcess::new();
        let mut nodes = BTreeMap::new();
        for id in 1..=size {
            let path = directory.path().join(id.to_string());
            let wal =
                Wal::open(path, WalOptions::default()).map_err(|e| failed("open a log", e))?;
            let hindrance = Hindrance::default();
            let machine =
                Machine { state: vec![7; STATE_BYTES].into(), hindrance: hindrance.clone() };
            let mut config = Config::default();
            // A busy machine deposes no leader.
            config.election_timeout_min = Duration::from_secs(2);
            config.election_timeout_max = Duration::from_secs(4);
            let node = Raft::builder(id, machine)
                .storage(SlowLog::new(wal.group(1), hindrance.clone()))
                .network(Arc::new(network.clone()))
                .config(config)
                .start()
                .await
                .map_err(|e| failed("start", e))?;
            network.join(id, node.host().inbound());
            nodes.insert(id, (node, hindrance));
        }
        let members: Vec<_> = (1..=size).map(|id| (id, id.to_string())).collect();
        nodes[&1].0.initialize(members).await.map_err(|e| failed("begin", e))?;
        let leader = nodes[&1].0.wait(PATIENCE).leader().await;
        let leader = leader.map_err(|e| failed("elect a leader", e))?;
        Ok(Self { network, nodes, leader, _directory: directory })
    }

    pub(crate) fn leader(&self) -> &Raft<Machine> {
        &self.nodes[&self.leader].0
    }

    /// A node that follows, and what holds it up.
    pub(crate) fn follower(&self) -> (&Raft<Machine>, &Hindrance) {
        let (_, (node, hindrance)) =
            self.nodes.iter().find(|(id, _)| **id != self.leader).expect("there are several");
        (node, hindrance)
    }

    /// Nothing reaches this node any more, and nothing comes from it.
    pub(crate) fn cut_off(&self, id: u64) {
        self.network.isolate(id);
    }

    /// Every link is back; returns when everybody has everything that is committed now, and the leader
    /// is the same.
    pub(crate) async fn recover(&self) -> Result<(), Failure> {
        self.network.heal();
        let committed = self.leader().metrics().committed;
        for (node, _) in self.nodes.values() {
            let level = move |m: &Metrics| m.applied >= committed;
            let wait = node.wait(PATIENCE).until("a node that is level", level).await;
            let metrics = wait.map_err(|e| failed("catch up", e))?;
            if metrics.leader != Some(self.leader) {
                return Err(failed("keep its leader", format!("{:?} leads", metrics.leader)));
            }
        }
        Ok(())
    }

    pub(crate) async fn stop(self) {
        for (node, _) in self.nodes.into_values() {
            node.shutdown().await;
        }
    }
}
