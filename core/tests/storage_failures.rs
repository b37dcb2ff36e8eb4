//! Stores that fail, hang and forget: nothing is acknowledged that is not durable, and a node that
//! can't write or read stops and says why.

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyerror::AnyError;
use async_trait::async_trait;
use common::*;
use quorate::testing::Counter;
use quorate::{
    Index, Lane, LogId, LogReader, MemoryDisk, MemoryStorage, Raft, RaftStorage, RoleKind,
    SnapshotError, SnapshotStore, StorageError, WriteError,
};
use quorate_engine::EntryBlock;
use quorate_storage::wal::{Crash, FakeDisk, Wal, WalOptions};
use quorate_storage::{LogReadError, Recovered, WriteBatch, WriteDone};
use tokio::sync::Notify;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

// ---- a store that does what a test says ----

struct Script {
    disk: Mutex<MemoryStorage>,
    writes: AtomicU64,
    state: Mutex<ScriptState>,
}

#[derive(Default)]
struct ScriptState {
    /// Fails the write of this number, counted from 1; the store is poisoned then.
    fail_at: Option<u64>,
    /// Forgets the write of this number.
    forget_at: Option<u64>,
    poisoned: bool,
    /// Writes wait.
    hold: bool,
    held: Vec<(WriteBatch, WriteDone)>,
    fail_reads: bool,
    /// The tasks that have read.
    readers: Vec<Option<tokio::task::Id>>,
}

struct Scripted(Arc<Script>);

impl Scripted {
    fn new(disk: &MemoryDisk) -> (Self, Arc<Script>) {
        let disk = Mutex::new(disk.open());
        let script = Arc::new(Script { disk, writes: AtomicU64::new(0), state: Mutex::default() });
        (Self(script.clone()), script)
    }
}

impl Script {
    fn state(&self) -> std::sync::MutexGuard<'_, ScriptState> {
        self.state.lock().unwrap()
    }

    /// The writes that were held are written.
    fn release(&self) {
        let held = {
            let mut state = self.state();
            state.hold = false;
            std::mem::take(&mut state.held)
        };
        for (batch, done) in held {
            self.disk.lock().unwrap().submit(batch, done);
        }
    }
}

fn failed() -> StorageError {
    StorageError::Failed(AnyError::error("the disk is on fire"))
}

impl RaftStorage for Scripted {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        self.0.disk.lock().unwrap().recover()
    }

    fn submit(&mut self, batch: WriteBatch, done: WriteDone) {
        let number = self.0.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let mut state = self.0.state();
        if state.forget_at == Some(number) {
            return drop(done);
        }
        state.poisoned |= state.fail_at == Some(number);
        if state.poisoned {
            drop(state);
            return done.complete(Err(failed()));
        }
        if state.hold {
            return state.held.push((batch, done));
        }
        drop(state);
        self.0.disk.lock().unwrap().submit(batch, done);
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        let inner = self.0.disk.lock().unwrap().reader();
        Arc::new(ScriptedReader { inner, script: self.0.clone() })
    }

    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        self.0.disk.lock().unwrap().snapshots()
    }
}

struct ScriptedReader {
    inner: Arc<dyn LogReader>,
    script: Arc<Script>,
}

#[async_trait]
impl LogReader for ScriptedReader {
    async fn read(
        &self,
        after: LogId,
        through: Index,
        max_bytes: usize,
    ) -> Result<Vec<EntryBlock>, LogReadError> {
        self.script.state().readers.push(tokio::task::try_id());
        if self.script.state().fail_reads {
            return Err(LogReadError::Failed(failed()));
        }
        self.inner.read(after, through, max_bytes).await
    }
}

/// Three nodes of which each has a scripted store.
async fn three(config: quorate::Config) -> (Cluster, Vec<Arc<Script>>) {
    let mut cluster = Cluster::empty(config);
    let mut scripts = Vec::new();
    for id in 1..=3 {
        let disk = cluster.disks.entry(id).or_default();
        let (storage, script) = Scripted::new(disk);
        scripts.push(script);
        cluster.start_on(id, storage).await;
    }
    cluster.nodes[&1].initialize(members(1..=3)).await.unwrap();
    cluster.settle().await;
    (cluster, scripts)
}

/// A full replica that is added again as a witness, with a log that hangs: a snapshot without data that
/// a start finds beside a log that does not say so would be taken for the state. (Found by a simulated
/// world.)
#[tokio::test(start_paused = true)]
async fn a_witness_builds_no_snapshot_before_its_log_says_what_it_is() {
    let (cluster, scripts) = three(config(|_| {})).await;
    let leader = cluster.leader_among(&[1, 2, 3]).await;
    cluster.nodes[&leader].write(1).await.unwrap();
    let id = if leader == 3 { 2 } else { 3 };
    let (node, script) = (&cluster.nodes[&id], &scripts[id as usize - 1]);
    cluster.nodes[&leader].remove(id).await.unwrap();
    script.state().hold = true;
    drop(cluster.nodes[&leader].add_witness(id, format!("node-{id}")).timeout(SECOND).await);
    assert!(node.metrics().witness && node.metrics().applied > 0);
    let early = node.trigger().snapshot().await;
    assert!(matches!(early, Err(SnapshotError::Failed(_))), "{early:?}");
    script.release();
    cluster.settle().await;
    assert_eq!(node.trigger().snapshot().await.unwrap().bytes, 0);
    cluster.shutdown().await;
}

// ---- failing writes ----

/// Hazard: a write fails and the node goes on. Each write of a node's life, from the first byte on.
#[tokio::test(start_paused = true)]
async fn whichever_write_fails_nothing_is_acknowledged_that_is_not_durable() {
    let mut started = 0;
    for nth in 1..=12 {
        let disk = MemoryDisk::new();
        let (storage, script) = Scripted::new(&disk);
        script.state().fail_at = Some(nth);
        let began = Instant::now();
        let start = Raft::builder(1, Counter::default()).storage(storage).start().await;
        let mut acknowledged = 0;
        if let Ok(raft) = start {
            started += 1;
            if raft.initialize([(1, "")]).await.is_ok() {
                while acknowledged < 100 && raft.write(1).await.is_ok() {
                    acknowledged += 1;
                }
            }
            let m = raft.wait(PATIENCE).until("fatal", |m| m.fatal.is_some()).await.unwrap();
            assert!(m.fatal.unwrap().contains("the disk is on fire"));
            assert!(raft.write(1).await.is_err());
            raft.shutdown().await;
        } else {
            assert_eq!(nth, 1);
        }
        assert!(began.elapsed() < 2 * SECOND);
        let raft = Raft::builder(1, Counter::default()).storage(disk.open()).start().await.unwrap();
        raft.initialize([(1, "")]).await.unwrap();
        let total = raft.read(|c| c.total).await.unwrap();
        assert_eq!(total, acknowledged, "write {nth}");
        raft.shutdown().await;
    }
    assert_eq!(started, 11);
}

/// Hazard: the write of a vote fails, memory keeps it, the grant is sent.
#[tokio::test(start_paused = true)]
async fn a_node_whose_vote_cannot_be_written_votes_for_nobody() {
    let (cluster, scripts) = three(config(|_| {})).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    // The next write is that of a term and a vote, for itself or for the other.
    let script = &scripts[others[1] as usize - 1];
    script.state().fail_at = Some(script.writes.load(Ordering::SeqCst) + 1);
    cluster.network.inner.isolate(leader);
    let node = &cluster.nodes[&others[1]];
    node.wait(PATIENCE).until("fatal", |m| m.fatal.is_some()).await.unwrap();
    let other = &cluster.nodes[&others[0]];
    let elected = other.wait(20 * SECOND).role(RoleKind::Leader).await;
    assert!(elected.is_err(), "{elected:?}");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_log_fails_stops_and_the_others_go_on() {
    for forget in [false, true] {
        let (cluster, scripts) = three(config(|_| {})).await;
        let leader = cluster.settle().await;
        let others = cluster.others(leader);
        cluster.nodes[&leader].write(1).await.unwrap();
        let script = &scripts[leader as usize - 1];
        let next = script.writes.load(Ordering::SeqCst) + 1;
        if forget {
            script.state().forget_at = Some(next);
        } else {
            script.state().fail_at = Some(next);
        }
        let node = &cluster.nodes[&leader];
        let write = node.write(2).await;
        assert!(matches!(write.unwrap_err(), WriteError::Unknown));
        let fatal = node.metrics().fatal.unwrap();
        assert!(fatal.contains(if forget { "dropped a batch" } else { "on fire" }), "{fatal}");
        assert!(matches!(node.write(3).await.unwrap_err(), WriteError::Stopped));
        let next = cluster.leader_among(&others).await;
        cluster.nodes[&next].write(4).await.unwrap();
        let ledger = cluster.nodes[&next].read(|l| l.ids.clone()).await.unwrap();
        assert!(ledger == [1, 2, 4] || ledger == [1, 4], "{ledger:?}");
        cluster.shutdown().await;
    }
}

// ---- hanging writes ----

/// While an overwrite is on its way to the disk, the log on disk still has the old entries, in the
/// right place behind the right predecessor. They are neither applied nor sent to anyone.
#[tokio::test(start_paused = true)]
async fn entries_that_are_being_overwritten_are_not_read_back_from_the_log() {
    // Where a batch of the apply worker ends depends on what is before it: some cross the place.
    for common in 1..=4 {
        let (mut cluster, _) = three(config(|c| c.apply_bytes = 200)).await;
        let old = cluster.settle().await;
        for id in 0..common {
            cluster.nodes[&old].write(id).await.unwrap();
        }
        cluster.network.inner.isolate(old);
        for id in 100..110 {
            let write = spawn_write(&cluster.nodes[&old], id);
            tokio::task::yield_now().await;
            write.abort();
        }
        let m = cluster.nodes[&old].metrics();
        let durable =
            move |n: &quorate::Metrics| n.last == m.committed + 10 && n.persisted == n.last;
        cluster.nodes[&old].wait(PATIENCE).until("its own log", durable).await.unwrap();
        cluster.stop(old).await;
        let rest = cluster.others(old);
        let new = cluster.leader_among(&rest).await;
        for id in 200..220 {
            cluster.nodes[&new].write(id).await.unwrap();
        }
        cluster.network.inner.heal();
        let (storage, script) = Scripted::new(&cluster.disks[&old]);
        script.state().hold = true;
        cluster.start_on(old, storage).await;
        cluster.machines[&old].inject(Fault::Gate);
        let last = cluster.nodes[&new].metrics().last;
        let node = cluster.nodes[&old].clone();
        let has_all = move |m: &quorate::Metrics| m.last >= last && m.committed >= last;
        node.wait(PATIENCE).until("the new leader's log", has_all).await.unwrap();
        assert!(node.metrics().persisted < last && node.metrics().applied < last);
        cluster.machines[&old].open_gate();
        node.wait(PATIENCE).applied(last).await.unwrap();
        let expected: Vec<u64> = (0..common).chain(200..220).collect();
        assert_eq!(
            node.read_with(quorate::ReadMode::Stale, |machine| machine.ids.clone()).await.unwrap(),
            expected
        );
        script.release();
        cluster.shutdown().await;
    }
}

/// Hazard: disk-stalled leader heartbeats for ever.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_log_hangs_gives_way_within_a_bound() {
    let (cluster, scripts) = three(config(|_| {})).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    let script = &scripts[leader as usize - 1];
    script.state().hold = true;
    let began = Instant::now();
    // A quorum is durable without the leader: the write is done all the same.
    assert_eq!(cluster.nodes[&leader].write(1).await.unwrap(), 1);
    let next = cluster.leader_among(&others).await;
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    assert_eq!(cluster.nodes[&next].write(2).await.unwrap(), 2);
    // The disk comes back: it follows.
    script.release();
    assert_eq!(cluster.ledger().await, [1, 2]);
    cluster.shutdown().await;
}

/// Hazard: a single voter acknowledges itself before its fsync.
#[tokio::test(start_paused = true)]
async fn a_single_voter_acknowledges_after_its_own_sync() {
    let disk = MemoryDisk::new();
    let (storage, script) = Scripted::new(&disk);
    let raft = Raft::builder(1, Counter::default()).storage(storage).start().await.unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    raft.write(1).await.unwrap();
    script.state().hold = true;
    let writer = raft.clone();
    let write = tokio::spawn(async move { writer.write(2).await });
    tokio::time::sleep(SECOND / 2).await;
    assert!(!write.is_finished());
    assert_eq!(raft.read_with(quorate::ReadMode::Stale, |c| c.total).await.unwrap(), 1);
    script.release();
    assert_eq!(write.await.unwrap().unwrap(), 3);
    raft.shutdown().await;
}

/// A store whose closing hangs until it is told.
struct Clinging {
    inner: MemoryStorage,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl RaftStorage for Clinging {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        self.inner.recover()
    }

    fn submit(&mut self, batch: WriteBatch, done: WriteDone) {
        self.inner.submit(batch, done);
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.inner.reader()
    }

    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        self.inner.snapshots()
    }
}

impl Drop for Clinging {
    fn drop(&mut self) {
        let (open, bell) = &*self.gate;
        drop(bell.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// In real time: a thread that hangs is one that tokio's paused clock waits for.
#[tokio::test]
async fn a_shutdown_is_bounded_although_the_log_hangs() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let storage = Clinging { inner: MemoryStorage::new(), gate: gate.clone() };
    let raft = Raft::builder(1, Counter::default()).storage(storage).start().await.unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    raft.write(1).await.unwrap();
    let began = Instant::now();
    raft.shutdown().await;
    assert!(began.elapsed() < 8 * SECOND, "{:?}", began.elapsed());
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

// ---- failing reads ----

/// Hazard: read error taken as end of log.
#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_read_its_log_stops_rather_than_send_nothing() {
    let (cluster, scripts) = three(config(|c| c.tail_bytes = 1000)).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    cluster.network.inner.isolate(others[0]);
    for n in 0..500 {
        cluster.nodes[&leader].write(n).await.unwrap();
    }
    scripts[leader as usize - 1].state().fail_reads = true;
    cluster.network.calm();
    let node = &cluster.nodes[&leader];
    let m = node.wait(PATIENCE).until("fatal", |m| m.fatal.is_some()).await.unwrap();
    assert!(m.fatal.unwrap().contains("the disk is on fire"));
    // The next leader, whose log is well, brings the follower up.
    let next = cluster.leader_among(&others).await;
    assert_eq!(next, others[1]);
    assert_eq!(cluster.nodes[&others[0]].read(|l| l.ids.len()).await.unwrap(), 500);
    cluster.shutdown().await;
}

/// A log may be read by blocking calls: never in the task that sends heartbeats.
#[tokio::test(start_paused = true)]
async fn whoever_speaks_for_a_node_does_not_read_its_log() {
    let (cluster, scripts) = three(config(|c| c.tail_bytes = 1000)).await;
    let leader = cluster.settle().await;
    let away = cluster.others(leader)[0];
    cluster.network.inner.isolate(away);
    for n in 0..500 {
        cluster.nodes[&leader].write(n).await.unwrap();
    }
    let script = &scripts[leader as usize - 1];
    script.state().readers.clear();
    let speakers = Arc::new(Mutex::new(Vec::new()));
    let speaks = speakers.clone();
    cluster.network.only(move |lane, envelope| {
        if (envelope.from, lane) == (leader, Lane::Control) {
            speaks.lock().unwrap().push(tokio::task::try_id());
        }
        true
    });
    cluster.network.inner.heal();
    assert_eq!(cluster.nodes[&away].read(|l| l.ids.len()).await.unwrap(), 500);
    cluster.shutdown().await;
    let (speakers, readers) = (speakers.lock().unwrap(), &script.state().readers);
    assert!(!speakers.is_empty() && !readers.is_empty());
    assert!(readers.iter().all(|reader| !speakers.contains(reader)));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_read_what_it_has_to_apply_stops() {
    let disk = MemoryDisk::new();
    let raft = Raft::builder(1, Counter::default()).storage(disk.open()).start().await.unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    raft.write(1).await.unwrap();
    raft.shutdown().await;
    let (storage, script) = Scripted::new(&disk);
    script.state().fail_reads = true;
    let raft = Raft::builder(1, Counter::default()).storage(storage).start().await.unwrap();
    let m = raft.wait(PATIENCE).until("fatal", |m| m.fatal.is_some()).await.unwrap();
    let fatal = m.fatal.unwrap();
    assert!(fatal.contains("committed entries can't be read"), "{fatal}");
    assert!(raft.read(|c| c.total).await.is_err());
    raft.shutdown().await;
}

// ---- crashes ----

/// The durable log on a fake disk, written by a task: syncs take simulated time.
struct Machine {
    disk: FakeDisk,
    syncing: Option<tokio::task::JoinHandle<()>>,
}

impl Machine {
    fn open(&mut self, seed: u64) -> quorate_storage::wal::WalStorage {
        let bell = Arc::new(Notify::new());
        let ring = bell.clone();
        let options = WalOptions { segment_bytes: 1 << 16, seed, ..WalOptions::default() };
        let disk = Arc::new(self.disk.mount());
        let (wal, mut driver) = Wal::open_driven(disk, options, move || ring.notify_one()).unwrap();
        self.syncing = Some(tokio::spawn(async move {
            loop {
                bell.notified().await;
                tokio::time::sleep(Duration::from_millis(2)).await;
                while driver.pump() {}
            }
        }));
        wal.group(1)
    }

    fn crash(&mut self, how: Crash) {
        self.syncing.take().unwrap().abort();
        self.disk.crash(how);
    }
}

/// Every acknowledged write is there after crashes of one, two and all nodes.
#[tokio::test(start_paused = true)]
async fn crashes_lose_nothing_that_was_acknowledged() {
    for seed in 1..=6 {
        let mut rng = Rng::new(seed);
        let mut machines: Vec<Machine> =
            (0..3).map(|n| Machine { disk: FakeDisk::new(seed * 10 + n), syncing: None }).collect();
        let mut cluster = Cluster::empty(config(|c| c.write_timeout = SECOND));
        for id in 1..=3 {
            let storage = machines[id as usize - 1].open(seed);
            cluster.start_on(id, storage).await;
        }
        cluster.nodes[&1].initialize(members(1..=3)).await.unwrap();
        cluster.settle().await;
        let mut acknowledged = BTreeSet::new();
        let mut id = 0;
        for round in 0..8 {
            let mut writes = Vec::new();
            for node in cluster.nodes.values() {
                for _ in 0..20 {
                    id += 1;
                    writes.push((id, spawn_write(node, id)));
                }
            }
            tokio::time::sleep(Duration::from_millis(rng.below(20))).await;
            // One node, or all of them.
            let victims = match rng.below(3) {
                0 => vec![1, 2, 3],
                _ => vec![rng.below(3) + 1],
            };
            let how = [Crash::LoseUnsynced, Crash::Torn, Crash::KeepAll][rng.below(3) as usize];
            for victim in &victims {
                cluster.network.inner.leave(*victim);
                machines[*victim as usize - 1].crash(how);
            }
            for victim in &victims {
                cluster.nodes.remove(victim).unwrap().shutdown().await;
            }
            for (id, write) in writes {
                if write.await.unwrap().is_ok() {
                    acknowledged.insert(id);
                }
            }
            for victim in victims {
                let storage = machines[victim as usize - 1].open(seed * 100 + round);
                cluster.start_on(victim, storage).await;
            }
            let all = cluster.ids();
            cluster.leader_among(&all).await;
        }
        let ledger = cluster.ledger().await;
        let there: BTreeSet<u64> = ledger.iter().copied().collect();
        assert_eq!(there.len(), ledger.len(), "seed {seed}: a write was done twice");
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
        assert!(acknowledged.len() > 40, "seed {seed}: only {}", acknowledged.len());
        cluster.shutdown().await;
    }
}
