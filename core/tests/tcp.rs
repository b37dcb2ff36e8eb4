//! Nodes over TCP, each with its own durable log.

use std::path::Path;
use std::time::Duration;

use quorate::testing::Counter;
use quorate::{Config, Raft};

const PATIENCE: Duration = Duration::from_secs(20);

async fn node(dir: &Path, id: u64, listen: &str) -> Raft<Counter> {
    Raft::builder(id, Counter::default())
        .data_dir(dir.join(id.to_string()))
        .listen(listen)
        .config(Config::fast_network())
        .start()
        .await
        .unwrap()
}

/// It is blank, so it knows nobody's address; the leader's connection tells it.
#[tokio::test]
async fn a_member_that_was_down_at_the_start_joins_when_it_is_contacted() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(node(dir.path(), id, "127.0.0.1:0").await);
    }
    let addresses: Vec<(u64, String)> =
        nodes.iter().map(|n| (n.id(), n.address().to_owned())).collect();
    let late = nodes.pop().unwrap();
    late.shutdown().await;
    drop(late);
    nodes[0].initialize(addresses.clone()).await.unwrap();
    for n in 1..=20 {
        nodes[0].write(n).await.unwrap();
    }
    let late = node(dir.path(), 3, &addresses[2].1).await;
    let metrics = nodes[0].metrics();
    late.wait(PATIENCE).applied(metrics.applied).await.unwrap();
    assert_eq!(late.read(|c| c.total).await.unwrap(), 210);
    for node in nodes.iter().chain([&late]) {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn all_nodes_restart_with_their_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(node(dir.path(), id, "127.0.0.1:0").await);
    }
    let addresses: Vec<(u64, String)> =
        nodes.iter().map(|n| (n.id(), n.address().to_owned())).collect();
    nodes[0].initialize(addresses.clone()).await.unwrap();
    for n in 1..=50 {
        nodes[n as usize % 3].write(n).await.unwrap();
    }
    for node in nodes.drain(..) {
        node.shutdown().await;
    }
    for (id, address) in &addresses {
        nodes.push(node(dir.path(), *id, address).await);
    }
    for node in &nodes {
        assert_eq!(node.read(|c| c.total).await.unwrap(), 1275);
    }
    for node in nodes {
        node.shutdown().await;
    }
}
