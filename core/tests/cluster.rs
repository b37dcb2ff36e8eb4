//! Three nodes in one process, over the in-process network.

use std::sync::Arc;
use std::time::Duration;

use quorate::testing::Counter;
use quorate::{InProcess, Membership, Metrics, Raft, RoleKind};

const PATIENCE: Duration = Duration::from_secs(20);

async fn three() -> (InProcess, Vec<Raft<Counter>>) {
    let network = InProcess::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let raft = Raft::builder(id, Counter::default())
            .in_memory()
            .network(Arc::new(network.clone()))
            .start()
            .await
            .unwrap();
        network.join(id, raft.host().inbound());
        nodes.push(raft);
    }
    nodes[0].initialize([(1, "a"), (2, "b"), (3, "c")]).await.unwrap();
    // Before a leader has heard every member, the loss of one may leave too few votes that count.
    for node in &nodes {
        let known = |all: &Membership| all.members().values().all(|m| m.incarnation != 0);
        let heard = move |m: &Metrics| m.membership.as_ref().is_some_and(|all| known(all));
        node.wait(PATIENCE).until("every member was heard", heard).await.unwrap();
    }
    (network, nodes)
}

#[tokio::test]
async fn writes_and_reads_at_every_node() {
    let (_network, nodes) = three().await;
    let mut total = 0;
    for (i, node) in nodes.iter().enumerate() {
        total += i as u64 + 1;
        assert_eq!(node.write(i as u64 + 1).await.unwrap(), total);
    }
    for node in &nodes {
        assert_eq!(node.read(|c| c.total).await.unwrap(), total);
    }
    let many = nodes[1].write_many([10, 20, 30]).await.unwrap();
    assert_eq!(many, [16, 36, 66]);
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_takes_over() {
    let (network, nodes) = three().await;
    nodes[0].write(5).await.unwrap();
    let leader = nodes[0].wait(PATIENCE).leader().await.unwrap();
    network.isolate(leader);
    let other = nodes.iter().find(|n| n.id() != leader).unwrap();
    other
        .wait(PATIENCE)
        .until("another leader", move |m| m.leader.is_some_and(|l| l != leader))
        .await
        .unwrap();
    assert_eq!(other.write(6).await.unwrap(), 11);
    let old = nodes.iter().find(|n| n.id() == leader).unwrap();
    old.wait(PATIENCE).until("no leader", |m| m.role != RoleKind::Leader).await.unwrap();
    network.heal();
    assert_eq!(old.read(|c| c.total).await.unwrap(), 11);
}
