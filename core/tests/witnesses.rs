//! Witnesses on real nodes: they vote, they keep no commands, and they say so.

mod common;

use std::time::Duration;

use common::*;
use quorate::{ChangeError, NodeId, ReadError, SnapshotError};

const SECOND: Duration = Duration::from_secs(1);

/// Two full replicas, 1 and 2, and 3 as their witness.
async fn with_a_witness(settings: quorate::Config) -> Cluster {
    let mut cluster = Cluster::new(2, settings).await;
    cluster.settle().await;
    cluster.start(3).await;
    let members = cluster.nodes[&2].add_witness(3, "node-3").await.unwrap();
    assert_eq!(members.witnesses().collect::<Vec<_>>(), [3]);
    assert!(members.voters().contains(&3));
    cluster
}

async fn has_seen_all(cluster: &Cluster, id: NodeId, of: NodeId) {
    let last = cluster.nodes[&of].metrics().committed;
    let seen = move |m: &quorate::Metrics| m.applied >= last;
    cluster.nodes[&id].wait(PATIENCE).until("all of the log", seen).await.unwrap();
}

/// With a witness, either replica may fail.
#[tokio::test(start_paused = true)]
async fn writes_go_on_with_one_replica_and_a_witness() {
    let mut cluster = with_a_witness(config(|_| {})).await;
    cluster.nodes[&3].write(1).await.unwrap();
    for n in 2..=3 {
        let leader = cluster.leader_among(&[1, 2]).await;
        let other = 3 - leader;
        has_seen_all(&cluster, other, leader).await;
        // The leader fails, and the other is elected with the vote of the witness.
        cluster.stop(leader).await;
        assert_eq!(cluster.leader_among(&[other]).await, other);
        cluster.nodes[&3].write(n).await.unwrap();
        cluster.start(leader).await;
        has_seen_all(&cluster, leader, other).await;
    }
    assert_eq!(cluster.ledger().await, [1, 2, 3]);
    cluster.shutdown().await;
}

/// There is nothing to read, and nobody gets what looks like something.
#[tokio::test(start_paused = true)]
async fn a_witness_has_no_state() {
    let cluster = with_a_witness(config(|_| {})).await;
    let (leader, witness) = (cluster.leader_among(&[1, 2]).await, &cluster.nodes[&3]);
    witness.write(1).await.unwrap();
    has_seen_all(&cluster, 3, leader).await;
    assert!(witness.metrics().witness && !cluster.nodes[&leader].metrics().witness);
    assert!(matches!(witness.read(|_| ()).await, Err(ReadError::Witness)));
    assert!(matches!(witness.ensure_linearizable().await, Err(ReadError::Witness)));
    assert!(matches!(
        witness.read_with(quorate::ReadMode::Stale, |_| ()).await,
        Err(ReadError::Witness)
    ));
    assert!(matches!(witness.backup().await, Err(SnapshotError::Witness)));
    let to = witness.transfer_leadership(Some(3), SECOND).await;
    assert!(to.is_err(), "it leads nobody: {to:?}");
    assert_eq!(cluster.machines[&3].applied(), 0);
    assert_eq!(cluster.ledger().await, [1]);
    cluster.shutdown().await;
}

/// Its log is compacted like any, by snapshots of nothing, and one that was away gets such a snapshot.
#[tokio::test(start_paused = true)]
async fn a_witness_that_was_away_is_told_where_to_go_on() {
    let settings = config(|c| {
        c.snapshot_entries = Some(20);
        c.keep_entries = 0;
    });
    let mut cluster = with_a_witness(settings).await;
    let leader = cluster.leader_among(&[1, 2]).await;
    for round in 0..2 {
        cluster.stop(3).await;
        for n in 0..100 {
            cluster.nodes[&leader].write(round * 100 + n).await.unwrap();
        }
        // What 3 needs next is gone by then.
        let compacted = |m: &quorate::Metrics| m.compacted + 40 > m.last;
        cluster.nodes[&leader].wait(PATIENCE).until("a short log", compacted).await.unwrap();
        cluster.start(3).await;
        has_seen_all(&cluster, 3, leader).await;
        assert_eq!(cluster.machines[&3].restored(), 0);
    }
    let snapshot = cluster.nodes[&3].trigger().snapshot().await.unwrap();
    assert_eq!(snapshot.bytes, 0);
    for n in 0..100 {
        cluster.nodes[&leader].write(200 + n).await.unwrap();
    }
    has_seen_all(&cluster, 3, leader).await;
    let further = move |m: &quorate::Metrics| m.compacted > snapshot.meta.last.index;
    cluster.nodes[&3].wait(PATIENCE).until("a shorter log", further).await.unwrap();
    cluster.shutdown().await;
}

/// Its directory lacks commands: it can't become that of a full replica.
#[tokio::test(start_paused = true)]
async fn what_a_witness_kept_is_of_no_use_to_a_full_replica() {
    let mut cluster = with_a_witness(config(|_| {})).await;
    let leader = cluster.leader_among(&[1, 2]).await;
    cluster.nodes[&leader].write(1).await.unwrap();
    has_seen_all(&cluster, 3, leader).await;
    let node = cluster.nodes[&leader].clone();
    let as_it_is = node.add_voter(3, "node-3").await;
    assert!(matches!(as_it_is, Err(ChangeError::Refused(_))), "{as_it_is:?}");
    node.remove(3).await.unwrap();
    let anew = node.add_voter(3, "node-3").timeout(5 * SECOND).await;
    assert!(matches!(anew, Err(ChangeError::NotCaughtUp)), "{anew:?}");
    node.remove(3).await.unwrap();
    // With an empty directory it can.
    cluster.stop(3).await;
    cluster.disks.remove(&3);
    cluster.start(3).await;
    node.add_voter(3, "node-3").await.unwrap();
    has_seen_all(&cluster, 3, leader).await;
    assert_eq!(cluster.nodes[&3].read(|ledger| ledger.ids.clone()).await.unwrap(), [1]);
    cluster.shutdown().await;
}
