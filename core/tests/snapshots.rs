//! Snapshots on real nodes: built in the background, the log compacted behind them, sent to who is
//! too far behind, taken up at a start.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::*;
use quorate::{
    ApplyMark, Committed, Config, Failure, InProcess, Lane, LogId, MemoryDisk, Postcard, Raft,
    SessionWrite, Snapshot, SnapshotError, StartError, StateMachine, WriteError,
};
use quorate_network::Message;
use quorate_storage::{
    LogOp, LogReader, MemoryStorage, RaftStorage, Recovered, SnapshotStore, StorageError,
    WriteBatch, WriteDone,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// Snapshots only when asked for, and nothing kept behind them.
fn on_demand(c: &mut Config) {
    c.snapshot_entries = None;
    c.snapshot_log_bytes = None;
    c.keep_entries = 0;
}

async fn write_all(cluster: &Cluster, at: u64, ids: std::ops::Range<u64>) {
    for id in ids {
        cluster.nodes[&at].write(id).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_begins_with_the_newest_snapshot() {
    let mut cluster = Cluster::new(1, config(on_demand)).await;
    let node = &cluster.nodes[&1];
    write_all(&cluster, 1, 0..20).await;
    let info = node.trigger().snapshot().await.unwrap();
    assert_eq!(info.meta.last.index, node.metrics().applied);
    let again = node.trigger().snapshot().await.unwrap();
    assert_eq!(again, info, "there is one of this state");
    node.wait(PATIENCE)
        .until("a compacted log", move |m| m.compacted == info.meta.last.index)
        .await
        .unwrap();
    write_all(&cluster, 1, 20..25).await;
    cluster.stop(1).await;
    cluster.start(1).await;
    assert_eq!(cluster.machines[&1].restored(), 1);
    assert_eq!(cluster.ledger().await, (0..25).collect::<Vec<_>>());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_can_be_made_a_snapshot_of_before_anything_is_applied() {
    let mut cluster = Cluster::empty(config(on_demand));
    cluster.start(1).await;
    let node = cluster.nodes[&1].clone();
    assert!(matches!(node.trigger().snapshot().await, Err(SnapshotError::Nothing)));
    cluster.shutdown().await;
    assert!(matches!(node.trigger().snapshot().await, Err(SnapshotError::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn the_log_is_compacted_by_entries_by_bytes_and_by_time() {
    let limits: [fn(&mut Config); 3] = [
        |c| c.snapshot_entries = Some(10),
        |c| c.snapshot_log_bytes = Some(500),
        |c| c.snapshot_interval = Some(Duration::from_secs(60)),
    ];
    for limit in limits {
        let settings = config(|c| {
            on_demand(c);
            limit(c);
            c.keep_entries = 3;
        });
        let cluster = Cluster::new(3, settings).await;
        write_all(&cluster, 2, 0..40).await;
        for node in cluster.nodes.values() {
            let metrics = node
                .wait(Duration::from_secs(120))
                .until("a compacted log", |m| m.compacted > 3)
                .await
                .unwrap();
            assert!(metrics.compacted + 3 <= metrics.snapshot, "{metrics}");
        }
        assert_eq!(cluster.ledger().await, (0..40).collect::<Vec<_>>());
        cluster.shutdown().await;
    }
}

/// The follower is sent what the log no longer has, goes on with the log, and can start from that.
#[tokio::test(start_paused = true)]
async fn a_follower_that_was_away_is_brought_up_by_a_snapshot() {
    let mut cluster = Cluster::new(3, config(on_demand)).await;
    let leader = cluster.settle().await;
    let away = cluster.others(leader)[0];
    cluster.stop(away).await;
    write_all(&cluster, leader, 0..50).await;
    let info = cluster.nodes[&leader].trigger().snapshot().await.unwrap();
    write_all(&cluster, leader, 50..60).await;
    cluster.start(away).await;
    let level = cluster.nodes[&leader].metrics().applied;
    cluster.nodes[&away].wait(PATIENCE).applied(level).await.unwrap();
    assert_eq!(cluster.machines[&away].restored(), 1);
    assert_eq!(cluster.nodes[&away].metrics().compacted, info.meta.last.index);
    assert_eq!(cluster.ledger().await, (0..60).collect::<Vec<_>>());
    cluster.stop(away).await;
    cluster.start(away).await;
    assert_eq!(cluster.ledger().await, (0..60).collect::<Vec<_>>());
    cluster.shutdown().await;
}

/// How many bytes of snapshots were sent, over a network that records.
fn sent_bytes(cluster: &Cluster) -> u64 {
    let part = |message: &Message| match message {
        Message::Raft(quorate_engine::Message::InstallSnapshot(m)) => m.data.len() as u64,
        _ => 0,
    };
    cluster.network.recorded().iter().map(|envelope| part(&envelope.message)).sum()
}

/// A cluster whose follower `away` needs a snapshot of some 20 KB that takes many parts.
async fn with_much_to_send(settings: Config) -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new(3, settings).await;
    let leader = cluster.settle().await;
    let away = cluster.others(leader)[0];
    cluster.stop(away).await;
    let node = cluster.nodes[&leader].clone();
    node.write_many((0..8_000).map(|n| n + (1 << 20))).await.unwrap();
    let info = node.trigger().snapshot().await.unwrap();
    assert!(info.bytes > 20_000);
    cluster.network.record();
    (cluster, leader, away)
}

/// Hazard: a large snapshot, a whole-transfer timeout, endless retries. Throttled so that it takes
/// much longer than any timeout, with a break in it: it goes on where it stood.
#[tokio::test(start_paused = true)]
async fn a_throttled_transfer_with_a_break_goes_on_where_it_stood() {
    let settings = config(|c| {
        on_demand(c);
        c.snapshot_part_bytes = 200;
        c.snapshot_bytes_per_second = Some(200);
        c.snapshot_stall_timeout = Duration::from_secs(30);
    });
    let (mut cluster, leader, away) = with_much_to_send(settings).await;
    let bytes = cluster.nodes[&leader].trigger().snapshot().await.unwrap().bytes;
    let began = tokio::time::Instant::now();
    cluster.start(away).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    cluster.network.only(|lane, _| lane != Lane::Snapshot);
    tokio::time::sleep(Duration::from_secs(15)).await;
    cluster.network.calm();
    let level = cluster.nodes[&leader].metrics().applied;
    let wait = cluster.nodes[&away].wait(Duration::from_secs(600));
    wait.applied(level).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(bytes / 200), "{:?}", began.elapsed());
    assert_eq!(cluster.machines[&away].restored(), 1);
    let sent = sent_bytes(&cluster);
    assert!(sent < bytes + 30 * 200, "{sent} bytes for a snapshot of {bytes}");
    assert_eq!(cluster.ledger().await.len(), 8_000);
    cluster.shutdown().await;
}

/// A sender that hears nothing stops after eight parts, and one that is answered is never further
/// ahead: this many parts, not the size of the snapshot, are what a transfer has in memory.
#[tokio::test(start_paused = true)]
async fn eight_parts_at_most_are_under_way() {
    const PART: u64 = 200;
    let settings = config(|c| {
        on_demand(c);
        c.snapshot_part_bytes = PART as usize;
    });
    let (mut cluster, leader, away) = with_much_to_send(settings).await;
    let is_answer = |message: &Message| {
        matches!(message, Message::Raft(quorate_engine::Message::InstallSnapshotAnswer(_)))
    };
    cluster.network.only(move |_, envelope| !is_answer(&envelope.message));
    cluster.start(away).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let sent_through = |sent: &[quorate::Envelope]| {
        let end = |message: &Message| match message {
            Message::Raft(quorate_engine::Message::InstallSnapshot(m)) => {
                m.offset + m.data.len() as u64
            }
            _ => 0,
        };
        sent.iter().map(|envelope| end(&envelope.message)).max().unwrap_or_default()
    };
    assert_eq!(sent_through(&cluster.network.recorded()), 8 * PART);

    cluster.network.record();
    cluster.network.calm();
    let level = cluster.nodes[&leader].metrics().applied;
    cluster.nodes[&away].wait(PATIENCE).applied(level).await.unwrap();
    let sent = cluster.network.recorded();
    assert!(sent_through(&sent) > 20_000);
    // The answers that were lost have told nobody.
    let mut answered = 0;
    for (n, envelope) in sent.iter().enumerate() {
        if let Message::Raft(quorate_engine::Message::InstallSnapshotAnswer(m)) = &envelope.message
        {
            answered = answered.max(m.have.offset);
        }
        let through = sent_through(&sent[n..=n]);
        assert!(through <= answered + 8 * PART, "{through} sent, {answered} answered");
    }
    cluster.ledger().await;
    cluster.shutdown().await;
}

/// Parts and answers are lost, copied, late and out of order.
#[tokio::test(start_paused = true)]
async fn a_snapshot_gets_through_a_bad_network() {
    let settings = config(|c| {
        on_demand(c);
        c.snapshot_part_bytes = 500;
    });
    let (mut cluster, leader, away) = with_much_to_send(settings).await;
    cluster.network.rage(7, 10, 10, 30, 50);
    cluster.start(away).await;
    let level = cluster.nodes[&leader].metrics().applied;
    let wait = cluster.nodes[&away].wait(Duration::from_secs(600));
    wait.until("the snapshot", move |m| m.applied >= level).await.unwrap();
    cluster.network.calm();
    cluster.settle().await;
    assert_eq!(cluster.ledger().await.len(), 8_000);
    cluster.shutdown().await;
}

/// A transfer on which nothing moves is given up, and the leader is none the worse: others write, and
/// when the lane is back the follower gets what it needs.
#[tokio::test(start_paused = true)]
async fn a_transfer_that_stands_still_is_given_up_and_begun_again() {
    let settings = config(|c| {
        on_demand(c);
        c.snapshot_stall_timeout = Duration::from_secs(3);
    });
    let (mut cluster, leader, away) = with_much_to_send(settings).await;
    cluster.network.only(|lane, _| lane != Lane::Snapshot);
    cluster.start(away).await;
    for n in 0..20 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.nodes[&leader].write(n).await.unwrap();
    }
    assert_eq!(cluster.machines[&away].restored(), 0);
    assert!(sent_bytes(&cluster) > 0, "it was tried");
    cluster.network.calm();
    let level = cluster.nodes[&leader].metrics().applied;
    cluster.nodes[&away].wait(PATIENCE).applied(level).await.unwrap();
    assert_eq!(cluster.ledger().await.len(), 8_020);
    cluster.shutdown().await;
}

/// Hazard: the snapshot is deleted while it streams. The leader makes a newer one for every write.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_sent_is_pinned() {
    let settings = config(|c| {
        on_demand(c);
        c.snapshot_part_bytes = 200;
        c.snapshot_bytes_per_second = Some(2_000);
    });
    let (mut cluster, leader, away) = with_much_to_send(settings).await;
    let bytes = cluster.nodes[&leader].trigger().snapshot().await.unwrap().bytes;
    cluster.start(away).await;
    let node = cluster.nodes[&leader].clone();
    for n in 0.. {
        if cluster.machines[&away].restored() > 0 {
            break;
        }
        assert!(n < 1_000, "the follower never gets anywhere");
        node.write(n).await.unwrap();
        node.trigger().snapshot().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let sent = sent_bytes(&cluster);
    assert!(sent < bytes * 2, "{sent} bytes for a snapshot of {bytes}");
    let level = node.metrics().applied;
    cluster.nodes[&away].wait(PATIENCE).applied(level).await.unwrap();
    assert_eq!(cluster.machines[&away].restored(), 1, "the rest came by the log");
    cluster.ledger().await;
    cluster.shutdown().await;
}

/// A state machine that can't give a snapshot keeps its log, its node and its callers.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_fails_costs_nothing_else() {
    for fault in [Fault::SnapshotFails, Fault::SnapshotPanics, Fault::SnapshotBreaks] {
        let cluster = Cluster::new(1, config(on_demand)).await;
        let node = &cluster.nodes[&1];
        write_all(&cluster, 1, 0..5).await;
        cluster.machines[&1].inject(fault);
        let failed = node.trigger().snapshot().await;
        assert!(
            matches!(&failed, Err(SnapshotError::Failed(why)) if why.to_string().contains("told to")),
            "{failed:?}"
        );
        assert_eq!((node.metrics().snapshot, node.metrics().compacted), (0, 0));
        cluster.machines[&1].open_gate();
        write_all(&cluster, 1, 5..9).await;
        let info = node.trigger().snapshot().await.unwrap();
        assert_eq!(info.meta.last.index, node.metrics().applied);
        cluster.shutdown().await;
    }
}

/// Writes that were in a deposed leader's log when a snapshot took its place: nobody can say.
#[tokio::test(start_paused = true)]
async fn writes_that_a_snapshot_may_hold_have_an_unknown_outcome() {
    let settings = config(|c| {
        on_demand(c);
        c.write_timeout = Duration::from_secs(60);
    });
    let cluster = Cluster::new(3, settings).await;
    let old = cluster.settle().await;
    let others = cluster.others(old);
    others.iter().for_each(|id| {
        cluster.network.inner.cut(old, *id);
        cluster.network.inner.cut(*id, old);
    });
    let lost = spawn_write(&cluster.nodes[&old], 77);
    let new = cluster.leader_among(&others).await;
    write_all(&cluster, new, 0..30).await;
    cluster.nodes[&new].trigger().snapshot().await.unwrap();
    cluster.network.calm();
    assert!(matches!(lost.await.unwrap(), Err(WriteError::Unknown)));
    assert_eq!(cluster.machines[&old].restored(), 1);
    assert_eq!(cluster.ledger().await, (0..30).collect::<Vec<_>>());
    cluster.shutdown().await;
}

/// Hazard: a gap between snapshot and log after a restart.
#[tokio::test(start_paused = true)]
async fn a_log_whose_snapshot_is_missing_is_refused() {
    let mut cluster = Cluster::new(1, config(on_demand)).await;
    write_all(&cluster, 1, 0..5).await;
    let last = cluster.nodes[&1].trigger().snapshot().await.unwrap().meta.last;
    let compacted = |m: &quorate::Metrics| m.compacted > 0;
    cluster.nodes[&1].wait(PATIENCE).until("a compacted log", compacted).await.unwrap();
    cluster.stop(1).await;
    let disk = cluster.disks[&1].clone();
    disk.open().snapshots().delete(last).unwrap();
    let raft = Raft::builder(1, Ledger::new().0).storage(disk.open()).start().await;
    let Err(error) = raft else { panic!("it started") };
    assert!(matches!(error, StartError::StateMissing(_)), "{error}");
}

/// Hazard: a crash between the steps of an installation. The snapshot is durable, the reset is not:
/// the start completes it.
#[tokio::test(start_paused = true)]
async fn a_start_completes_an_installation() {
    let mut cluster = Cluster::new(3, config(on_demand)).await;
    let leader = cluster.settle().await;
    let away = cluster.others(leader)[0];
    cluster.stop(away).await;
    write_all(&cluster, leader, 0..10).await;
    let info = cluster.nodes[&leader].trigger().snapshot().await.unwrap();
    // As if it had received the snapshot and died.
    let last = info.meta.last;
    cluster.stop(leader).await;
    let from = cluster.disks[&leader].open().snapshots();
    let reader = from.open(last).unwrap().unwrap();
    let store = cluster.disks[&away].open().snapshots();
    let mut writer = store.create(info.meta.clone()).unwrap();
    writer.append(&reader.read_at(0, 1 << 20).unwrap()).unwrap();
    writer.commit().unwrap();
    cluster.start(leader).await;
    cluster.start(away).await;
    assert_eq!(cluster.machines[&away].restored(), 1);
    cluster.settle().await;
    assert_eq!(cluster.nodes[&away].metrics().compacted, last.index);
    assert_eq!(cluster.machines[&away].restored(), 1);
    assert_eq!(cluster.ledger().await, (0..10).collect::<Vec<_>>());
    cluster.shutdown().await;
}

// ---- a state machine with a disk of its own ----

/// What a durable machine finds again.
#[derive(Default)]
struct Table {
    sum: u64,
    mark: Bytes,
}

/// Adds numbers, in a "database" of one row. What was applied since the last sync is lost in a crash.
#[derive(Default)]
struct Durable {
    synced: Arc<Mutex<Table>>,
    sum: u64,
    mark: Option<ApplyMark>,
    kept: Bytes,
    /// Commands seen, over all lives.
    applied: Arc<AtomicU64>,
    restored: Arc<AtomicU64>,
}

impl Durable {
    fn open(synced: &Arc<Mutex<Table>>, applied: &Arc<AtomicU64>) -> Self {
        let (sum, kept) = {
            let row = synced.lock().unwrap();
            (row.sum, row.mark.clone())
        };
        let (synced, applied) = (synced.clone(), applied.clone());
        Self { synced, sum, mark: None, kept, applied, restored: Arc::default() }
    }
}

#[async_trait]
impl StateMachine for Durable {
    type Command = u64;
    type Response = u64;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<u64>>) -> Result<Vec<u64>, Failure> {
        self.applied.fetch_add(entries.len() as u64, Ordering::SeqCst);
        let mut add = |entry: Committed<u64>| {
            self.sum += entry.command;
            self.sum
        };
        let sums: Vec<u64> = entries.into_iter().map(&mut add).collect();
        self.kept = self.mark.take().expect("told before each batch").to_bytes::<Self>(&sums);
        Ok(sums)
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        Snapshot::encode(&self.sum)
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        self.sum = snapshot.decode()?;
        self.kept = self.mark.take().expect("told before").to_bytes::<Self>(&[]);
        self.restored.fetch_add(1, Ordering::SeqCst);
        self.durable().await.map(drop)
    }

    async fn durable(&mut self) -> Result<Option<ApplyMark>, Failure> {
        *self.synced.lock().unwrap() = Table { sum: self.sum, mark: self.kept.clone() };
        Ok(Some(ApplyMark::from_bytes(&self.kept)?))
    }

    fn keep(&mut self, mark: ApplyMark) {
        self.mark = Some(mark);
    }
}

struct DurableNode {
    raft: Raft<Durable>,
    restored: Arc<AtomicU64>,
}

async fn start_durable(
    id: u64,
    network: &InProcess,
    disk: &MemoryDisk,
    table: &Arc<Mutex<Table>>,
    applied: &Arc<AtomicU64>,
) -> DurableNode {
    let machine = Durable::open(table, applied);
    let restored = machine.restored.clone();
    let settings = config(|c| {
        c.snapshot_entries = Some(10);
        c.keep_entries = 2;
    });
    let raft = Raft::builder(id, machine)
        .storage(disk.open())
        .network(Arc::new(network.clone()))
        .config(settings)
        .start()
        .await
        .unwrap();
    network.join(id, raft.host().inbound());
    DurableNode { raft, restored }
}

/// No replay of what it has, no snapshot for itself, one when a follower needs it.
#[tokio::test(start_paused = true)]
async fn a_machine_with_a_disk_of_its_own_sees_no_command_twice() {
    let network = InProcess::new();
    let disks: Vec<MemoryDisk> = (0..3).map(|_| MemoryDisk::new()).collect();
    let tables: Vec<Arc<Mutex<Table>>> = (0..3).map(|_| Arc::default()).collect();
    let applied: Vec<Arc<AtomicU64>> = (0..3).map(|_| Arc::default()).collect();
    let start = async |i: usize| {
        start_durable(i as u64 + 1, &network, &disks[i], &tables[i], &applied[i]).await
    };
    let mut nodes = vec![start(0).await, start(1).await, start(2).await];
    nodes[0].raft.initialize(members(1..=3)).await.unwrap();
    let leader = nodes[0].raft.wait(PATIENCE).leader().await.unwrap() as usize - 1;
    let away = (leader + 1) % 3;
    for _ in 0..15 {
        nodes[leader].raft.write(1).await.unwrap();
    }
    network.leave(away as u64 + 1);
    nodes[away].raft.shutdown().await;
    for _ in 0..35 {
        nodes[leader].raft.write(1).await.unwrap();
    }
    let metrics = nodes[leader]
        .raft
        .wait(PATIENCE)
        .until("a compacted log", |m| m.compacted > 30)
        .await
        .unwrap();
    assert_eq!(metrics.snapshot, 0, "compacted by what the machine has on its disk");

    // A restart of a node that has everything: nothing is applied again but what a crash would lose.
    network.leave(leader as u64 + 1);
    let synced = tables[leader].lock().unwrap().sum;
    nodes[leader].raft.shutdown().await;
    let before = applied[leader].load(Ordering::SeqCst);
    nodes[leader] = start(leader).await;
    let other = &nodes[(leader + 2) % 3].raft;
    let later = move |m: &quorate::Metrics| m.term > metrics.term && m.leader.is_some();
    other.wait(PATIENCE).until("another leader", later).await.unwrap();
    other.write(1).await.unwrap();
    assert_eq!(nodes[leader].raft.read(|m| m.sum).await.unwrap(), 51);
    let again = applied[leader].load(Ordering::SeqCst) - before;
    assert!(synced >= 30 && again == 51 - synced, "{again} applied, {synced} were durable");

    // The one that was away needs a snapshot, which is made for it.
    nodes[away] = start(away).await;
    let sum = nodes[away].raft.read(|m| m.sum).await.unwrap();
    assert_eq!(sum, 51);
    assert_eq!(nodes[away].restored.load(Ordering::SeqCst), 1);
    for node in nodes {
        node.raft.shutdown().await;
    }
}

/// Its sessions are in its mark, with the responses of the very batch that it was kept with.
#[tokio::test(start_paused = true)]
async fn a_machine_with_a_disk_of_its_own_keeps_its_sessions() {
    let (network, disk) = (InProcess::new(), MemoryDisk::new());
    let (table, applied) = (Arc::<Mutex<Table>>::default(), Arc::<AtomicU64>::default());
    let node = start_durable(1, &network, &disk, &table, &applied).await;
    node.raft.initialize(members(1..=1)).await.unwrap();
    let session = node.raft.open_session().await.unwrap();
    let of =
        |sequence| SessionWrite { session, sequence, acknowledged: sequence.saturating_sub(2) };
    for sequence in 1..=9 {
        assert_eq!(node.raft.write_once(of(sequence), 5).await.unwrap().response, 5 * sequence);
    }
    // Everything is durable in the machine, and compacted out of the log.
    node.raft.wait(PATIENCE).until("a compacted log", |m| m.compacted > 5).await.unwrap();
    node.raft.write_once(of(10), 5).await.unwrap();
    node.raft.trigger().snapshot().await.unwrap();
    node.raft.shutdown().await;
    drop(node);
    let node = start_durable(1, &network, &disk, &table, &applied).await;
    for sequence in [9, 10] {
        let once = node.raft.write_once(of(sequence), 5).await.unwrap();
        assert_eq!((once.response, once.repeated), (5 * sequence, true));
    }
    assert_eq!(node.raft.read(|m| m.sum).await.unwrap(), 50);
    node.raft.shutdown().await;
}

/// A log that is gone under a state machine that is not.
#[tokio::test(start_paused = true)]
async fn a_machine_ahead_of_its_log_is_refused() {
    let (network, disk) = (InProcess::new(), MemoryDisk::new());
    let (table, applied) = (Arc::default(), Arc::default());
    let node = start_durable(1, &network, &disk, &table, &applied).await;
    node.raft.initialize(members(1..=1)).await.unwrap();
    node.raft.write(5).await.unwrap();
    node.raft.shutdown().await;
    let mut machine = Durable::open(&table, &applied);
    machine.kept = ApplyMark::new(
        LogId::new(1, 3),
        (LogId::new(0, 1), quorate::Membership::of_voters([(1, "node-1")]).unwrap()),
    )
    .to_bytes::<Durable>(&[]);
    let raft = Raft::builder(1, machine).storage(MemoryDisk::new().open()).start().await;
    let Err(error) = raft else { panic!("it started") };
    assert!(matches!(error, StartError::StateMissing(_)), "{error}");
}

// ---- backup ----

async fn backup_to(node: &Raft<Ledger>, file: &std::path::Path) {
    let mut backup = node.backup().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = backup.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert!(bytes.len() as u64 > backup.info().bytes);
    std::fs::write(file, bytes).unwrap();
}

/// A new cluster of three begins with the state of the old one, and knows nothing else of it.
#[tokio::test(start_paused = true)]
async fn a_new_cluster_begins_with_a_backup() {
    let old = Cluster::new(1, config(on_demand)).await;
    write_all(&old, 1, 0..30).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    backup_to(&old.nodes[&1], &file).await;
    let last = old.nodes[&1].metrics().applied;
    let old_cluster = old.nodes[&1].host().inbound().hello(2).cluster;
    old.shutdown().await;

    let network = Chaos::default();
    let disks: Vec<MemoryDisk> = (0..3).map(|_| MemoryDisk::new()).collect();
    let start = async |id: u64, with: bool| {
        let (machine, control) = Ledger::new();
        let mut builder = Raft::builder(id, machine)
            .storage(disks[id as usize - 1].open())
            .network(Arc::new(network.clone()))
            .env(SeededEnv::new(id));
        if with {
            builder = builder.restore(&file, members(1..=3));
        }
        let raft = builder.start().await.unwrap();
        network.inner.join(id, raft.host().inbound());
        (raft, control)
    };
    let mut nodes = vec![start(1, true).await, start(2, true).await, start(3, true).await];
    for (node, control) in &nodes {
        assert_eq!(control.restored(), 1);
        node.wait(PATIENCE).leader().await.unwrap();
        let hello = node.host().inbound().hello(9);
        assert!(hello.cluster != 0 && hello.cluster != old_cluster, "a cluster of its own");
    }
    nodes[2].0.write(30).await.unwrap();
    nodes[2].0.wait(PATIENCE).until("applied", move |m| m.applied > last).await.unwrap();
    // The same command once more goes on with what is there.
    network.inner.leave(1);
    nodes[0].0.shutdown().await;
    nodes[0] = start(1, true).await;
    for (node, _) in &nodes {
        let ids = node.read(|machine| machine.ids.clone()).await.unwrap();
        assert_eq!(ids, (0..=30).collect::<Vec<_>>());
    }
    for (node, _) in nodes {
        node.shutdown().await;
    }
}

/// A log that begins anew at once, and ten seconds later durably.
struct SlowReset {
    log: Arc<Mutex<MemoryStorage>>,
    queue: UnboundedSender<(WriteBatch, WriteDone)>,
}

impl SlowReset {
    fn new() -> Self {
        let log = Arc::new(Mutex::new(MemoryStorage::new()));
        let (queue, mut queued) = unbounded_channel::<(WriteBatch, WriteDone)>();
        let writer = log.clone();
        tokio::spawn(async move {
            while let Some((batch, done)) = queued.recv().await {
                let resets = batch.ops.iter().any(|op| matches!(op, LogOp::Reset { .. }));
                let (tell, written) = oneshot::channel();
                let tell = WriteDone::new(move |outcome| drop(tell.send(outcome)));
                writer.lock().unwrap().submit(batch, tell);
                let outcome = written.await.unwrap();
                if resets {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
                done.complete(outcome);
            }
        });
        Self { log, queue }
    }
}

impl RaftStorage for SlowReset {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        self.log.lock().unwrap().recover()
    }

    fn submit(&mut self, batch: WriteBatch, done: WriteDone) {
        assert!(self.queue.send((batch, done)).is_ok());
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.log.lock().unwrap().reader()
    }

    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        self.log.lock().unwrap().snapshots()
    }
}

/// Hazard: a snapshot takes the place of entries that the state machine is still to apply. It waits for
/// the snapshot, which is restored when the log that begins with it is durable, and its node goes on.
#[tokio::test(start_paused = true)]
async fn a_snapshot_overtakes_a_state_machine_that_is_behind() {
    let mut cluster = Cluster::empty(config(on_demand));
    cluster.start(1).await;
    cluster.start(2).await;
    cluster.start_on(3, SlowReset::new()).await;
    cluster.nodes[&1].initialize(members(1..=3)).await.unwrap();
    cluster.settle().await;
    cluster.nodes[&1].transfer_leadership(Some(1), PATIENCE).await.unwrap();
    cluster.settle().await;
    let behind = cluster.nodes[&3].clone();
    let commits = async |index: u64| {
        let wait = behind.wait(PATIENCE);
        wait.until("commits", move |m| m.committed >= index).await.unwrap();
    };

    // It hangs in a first batch, and a second is committed.
    cluster.machines[&3].inject(Fault::Gate);
    for ids in [0..10, 10..20] {
        write_all(&cluster, 1, ids).await;
        commits(cluster.nodes[&1].metrics().committed).await;
    }
    let applied = behind.metrics().applied;
    cluster.network.inner.isolate(3);
    write_all(&cluster, 1, 20..30).await;
    let info = cluster.nodes[&1].trigger().snapshot().await.unwrap();
    cluster.network.inner.heal();
    let last = info.meta.last.index;
    behind.wait(PATIENCE).until("a new log", move |m| m.compacted == last).await.unwrap();

    cluster.machines[&3].open_gate();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now = behind.metrics();
    assert_eq!(now.fatal, None);
    assert!(applied < now.applied && now.applied < last, "the first batch: {}", now.applied);
    assert_eq!(cluster.machines[&3].restored(), 0, "not before the log is durable");
    behind.wait(PATIENCE).until("restored", move |m| m.applied >= last).await.unwrap();
    assert_eq!(
        behind.read(|machine| machine.ids.clone()).await.unwrap(),
        (0..30).collect::<Vec<_>>()
    );
    assert_eq!(cluster.machines[&3].restored(), 1);
    cluster.shutdown().await;
}

/// A damaged backup, or members without the node itself: nothing begins, and it can be tried again.
#[tokio::test(start_paused = true)]
async fn what_is_no_backup_is_refused() {
    let old = Cluster::new(1, config(on_demand)).await;
    write_all(&old, 1, 0..30).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    backup_to(&old.nodes[&1], &file).await;
    old.shutdown().await;
    let disk = MemoryDisk::new();
    let start = async |file: &std::path::Path, ids: std::ops::RangeInclusive<u64>| {
        let builder = Raft::builder(1, Ledger::new().0).storage(disk.open());
        builder.restore(file, members(ids)).start().await
    };
    let good = std::fs::read(&file).unwrap();
    let bad = dir.path().join("bad");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for bytes in [&[][..], &good[..good.len() - 1], &flipped] {
        std::fs::write(&bad, bytes).unwrap();
        assert!(matches!(start(&bad, 1..=1).await, Err(StartError::Storage(_))));
    }
    assert!(matches!(start(&file, 2..=3).await, Err(StartError::Config(_))));
    let raft = start(&file, 1..=1).await.unwrap();
    assert_eq!(raft.read(|machine| machine.ids.len()).await.unwrap(), 30);
    raft.shutdown().await;
}

/// A blank node that gets a snapshot first belongs to the cluster from then on, also after a restart.
#[tokio::test(start_paused = true)]
async fn a_node_that_joins_by_snapshot_knows_its_cluster() {
    let mut cluster = Cluster::new(1, config(on_demand)).await;
    write_all(&cluster, 1, 0..10).await;
    let info = cluster.nodes[&1].trigger().snapshot().await.unwrap();
    let compacted = move |m: &quorate::Metrics| m.compacted == info.meta.last.index;
    cluster.nodes[&1].wait(PATIENCE).until("a compacted log", compacted).await.unwrap();
    cluster.start(2).await;
    cluster.nodes[&1].add_voter(2, "node-2").await.unwrap();
    assert_eq!(cluster.machines[&2].restored(), 1);
    let known = |cluster: &Cluster, id: u64| cluster.nodes[&id].host().inbound().hello(9).cluster;
    assert_eq!(known(&cluster, 2), known(&cluster, 1));
    cluster.stop(2).await;
    cluster.start(2).await;
    assert_eq!(known(&cluster, 2), known(&cluster, 1));
    cluster.nodes[&2].write(10).await.unwrap();
    assert_eq!(cluster.ledger().await, (0..=10).collect::<Vec<_>>());
    cluster.shutdown().await;
}
