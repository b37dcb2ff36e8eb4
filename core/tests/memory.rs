//! Memory stays bounded while a follower is down and while a state machine hangs, and whoever was
//! away catches up from the log.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::*;
use quorate::{Committed, Failure, InProcess, Raft, Raw, Snapshot, StateMachine};
use tokio::sync::Notify;

/// Counts, and keeps nothing; hangs while there is a gate.
#[derive(Default)]
struct Sink {
    count: Arc<AtomicU64>,
    bytes: u64,
    gate: Option<Arc<Notify>>,
}

#[async_trait]
impl StateMachine for Sink {
    type Command = Bytes;
    type Response = ();
    type Codec = Raw;

    async fn apply(&mut self, entries: Vec<Committed<Bytes>>) -> Result<Vec<()>, Failure> {
        if let Some(gate) = self.gate.take() {
            gate.notified().await;
        }
        self.count.fetch_add(entries.len() as u64, Ordering::SeqCst);
        self.bytes += entries.iter().map(|entry| entry.command.len() as u64).sum::<u64>();
        Ok(vec![(); entries.len()])
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        Snapshot::encode(&(self.count.load(Ordering::SeqCst), self.bytes))
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        let (count, bytes) = snapshot.decode()?;
        self.count.store(count, Ordering::SeqCst);
        self.bytes = bytes;
        Ok(())
    }
}

const TAIL: usize = 2 << 20;

fn settings() -> quorate::Config {
    config(|c| {
        c.tail_bytes = TAIL;
        c.window_bytes = 1 << 20;
        c.write_timeout = Duration::from_secs(60);
        c.read_timeout = Duration::from_secs(60);
    })
}

async fn node(network: &InProcess, dir: &Path, id: u64, machine: Sink) -> Raft<Sink> {
    let raft = Raft::builder(id, machine)
        .data_dir(dir.join(id.to_string()))
        .network(Arc::new(network.clone()))
        .config(settings())
        .start()
        .await
        .unwrap();
    network.join(id, raft.host().inbound());
    raft
}

/// 200,000 writes of 256 bytes (51 MB) against a tail of 2 MiB: the proportions of a million
/// against the default limit of 32 MiB are not as sharp.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_down_does_not_grow_the_leader_and_catches_up_from_the_log() {
    const CLIENTS: u64 = 200;
    const EACH: u64 = 1000;
    let dir = tempfile::tempdir().unwrap();
    let network = InProcess::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(node(&network, dir.path(), id, Sink::default()).await);
    }
    nodes[0].initialize(members(1..=3)).await.unwrap();
    nodes[0].write(Bytes::from_static(b"first")).await.unwrap();
    let leader = nodes[0].wait(PATIENCE).leader().await.unwrap();
    let down = leader % 3 + 1;
    let at = nodes[leader as usize - 1].clone();
    network.leave(down);
    nodes[down as usize - 1].shutdown().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let node = at.clone();
        clients.push(tokio::spawn(async move {
            let command = Bytes::from(vec![7; 256]);
            for _ in 0..EACH {
                node.write(command.clone()).await.unwrap();
            }
        }));
    }
    let mut most = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        most = most.max(at.metrics().tail_bytes);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    // Over the limit by what is on its way to the disk: no more than the clients have out.
    let slack = 4 * CLIENTS as usize * 300 + (256 << 10);
    assert!(most <= TAIL + slack, "{most}");
    assert!(most > TAIL / 2, "the test has seen nothing: {most}");
    let late = node(&network, dir.path(), down, Sink::default()).await;
    assert_eq!(late.read(|sink| sink.bytes).await.unwrap(), CLIENTS * EACH * 256 + 5);
    assert!(at.metrics().tail_bytes <= TAIL + slack);
    for node in [&late, &at].into_iter().chain(&nodes) {
        node.shutdown().await;
    }
}

/// What is committed and not applied is read back from the log as well.
#[tokio::test]
async fn a_state_machine_that_hangs_does_not_grow_the_tail() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Notify::new());
    let machine = Sink { gate: Some(gate.clone()), ..Sink::default() };
    let raft =
        Raft::builder(1, machine).data_dir(dir.path()).config(settings()).start().await.unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    let command = Bytes::from(vec![7; 64 << 10]);
    let mut writes = Vec::new();
    for _ in 0..20 {
        for _ in 0..20 {
            let (node, command) = (raft.clone(), command.clone());
            writes.push(tokio::spawn(async move { node.write(command).await }));
        }
        tokio::task::yield_now().await;
        let all = |m: &quorate::Metrics| m.last > 1 && m.committed == m.last;
        raft.wait(PATIENCE).until("all of it is committed", all).await.unwrap();
    }
    let m = raft.metrics();
    assert!(m.tail_bytes <= TAIL, "{}", m.tail_bytes);
    assert!(m.applied < m.last - 390, "{m}");
    gate.notify_one();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    assert_eq!(raft.read(|sink| sink.bytes).await.unwrap(), 400 * (64 << 10));
    raft.shutdown().await;
}
