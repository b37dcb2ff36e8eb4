//! What a node counts: that it is there, and that it is right.

mod common;

use std::time::Duration;

use common::*;
use quorate::{Lane, ReadError, ReadMode, Stats, WriteError};

#[tokio::test(start_paused = true)]
async fn every_stage_of_every_write_is_counted_once() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let follower = cluster.others(leader)[0];
    for id in 0..20 {
        cluster.nodes[&leader].write(id).await.unwrap();
    }
    for id in 20..30 {
        cluster.nodes[&follower].write(id).await.unwrap();
    }
    cluster.nodes[&leader].write_many(30..37).await.unwrap();

    let stats = cluster.nodes[&leader].stats();
    assert_eq!((stats.writes, stats.writes_forwarded, stats.writes_received), (21, 0, 10));
    assert_eq!((stats.proposed_writes, stats.proposed_commands), (31, 37));
    assert!(stats.proposed_bytes >= 37, "{}", stats.proposed_bytes);
    for (stage, histogram) in [
        ("queued", stats.queued),
        ("durable", stats.durable),
        ("committed", stats.committed),
        ("answered", stats.answered),
    ] {
        assert_eq!(histogram.count(), 31, "{stage}");
    }
    assert!(stats.write_failures.values().all(|n| *n == 0), "{:?}", stats.write_failures);

    let of_follower = cluster.nodes[&follower].stats();
    assert_eq!((of_follower.writes, of_follower.writes_forwarded), (10, 10));
    assert_eq!((of_follower.proposed_writes, of_follower.answered.count()), (0, 0));
    assert!(of_follower.peers.is_empty());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn batches_of_the_log_of_appends_and_of_the_state_machine_add_up_to_the_log() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    for id in 0..50 {
        cluster.nodes[&leader].write(id).await.unwrap();
    }
    for id in cluster.ids() {
        let node = &cluster.nodes[&id];
        node.ensure_linearizable().await.unwrap();
        let (metrics, stats) = (node.metrics(), node.stats());
        assert_eq!(stats.apply_entries.sum(), metrics.applied, "node {id}");
        assert_eq!(stats.log_write_entries.sum(), metrics.last, "node {id}");
        assert_eq!(stats.log_write.count(), stats.log_write_bytes.count(), "node {id}");
        assert!(stats.apply.count() <= 50 && stats.apply.count() > 0, "node {id}");
        assert_eq!(stats.apply_backlog, 0, "node {id}");
    }
    let stats = cluster.nodes[&leader].stats();
    assert!(stats.append_entries.sum() >= 2 * 50, "{}", stats.append_entries.sum());
    assert!(stats.append_bytes.sum() > stats.proposed_bytes);
    assert!(stats.lanes[&Lane::Entries].sent >= 50 && stats.lanes[&Lane::Control].sent > 0);
    assert_eq!(stats.lanes[&Lane::Control].dropped, 0);
    assert_eq!((stats.queued_bytes, stats.uncommitted_bytes), (0, 0));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn elections_and_leaders_are_counted_by_terms() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let first = cluster.settle().await;
    let sum = |of: fn(&Stats) -> u64| -> u64 {
        cluster.nodes.values().map(|node| of(&node.stats())).sum()
    };
    let (started, won) = (sum(|s| s.elections_started), sum(|s| s.elections_won));
    assert!(won >= 1 && started >= won);
    let changes = cluster.nodes[&first].stats().leader_changes;
    assert!(changes >= 1);
    let next = cluster.others(first)[0];
    cluster.nodes[&first].transfer_leadership(Some(next), PATIENCE).await.unwrap();
    for id in cluster.ids() {
        cluster.nodes[&id]
            .wait(PATIENCE)
            .until("the next leader", move |m| m.leader == Some(next))
            .await
            .unwrap();
    }
    assert_eq!(sum(|s| s.elections_won), won + 1);
    assert_eq!(cluster.nodes[&next].stats().elections_won, 1);
    assert_eq!(cluster.nodes[&first].stats().leader_changes, changes + 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn reads_are_counted_by_mode_and_failures_by_reason() {
    let cluster = Cluster::new(3, config(|c| c.max_command_bytes = 4)).await;
    let leader = cluster.settle().await;
    let node = &cluster.nodes[&leader];
    let age = Duration::from_secs(1);
    for mode in [ReadMode::Index, ReadMode::Lease, ReadMode::Bounded(age), ReadMode::Stale] {
        node.read_with(mode, |_| ()).await.unwrap();
    }
    let many = 0..20;
    assert!(matches!(node.write_many(many).await, Err(WriteError::TooLarge { .. })));
    for other in cluster.others(leader) {
        cluster.network.inner.cut(other, leader);
        cluster.network.inner.cut(leader, other);
    }
    assert!(matches!(node.read(|_| ()).await, Err(ReadError::Timeout)));
    // It has stepped down by now, and nobody took the write.
    assert!(matches!(node.write(1).await, Err(WriteError::Timeout)));

    let stats = node.stats();
    let reads: Vec<_> = stats.reads.into_iter().collect();
    assert_eq!(reads, [("bounded", 1), ("index", 2), ("lease", 1), ("stale", 1)]);
    let known = stats.read_index.count();
    assert_eq!(known, 2, "stale ones need none, nor those by the own lease; one timed out");
    assert_eq!(stats.read_failures["timeout"], 1);
    assert_eq!(stats.read_failures.values().sum::<u64>(), 1);
    assert_eq!((stats.write_failures["too_large"], stats.write_failures["timeout"]), (1, 1));
    assert_eq!(stats.write_failures.values().sum::<u64>(), 2);
    cluster.network.calm();
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_tells_how_far_its_followers_are() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let [near, far] = cluster.others(leader)[..] else { panic!("three nodes") };
    let node = &cluster.nodes[&leader];
    cluster.network.inner.cut(leader, far);
    cluster.network.inner.cut(far, leader);
    let cut_at = tokio::time::Instant::now();
    for id in 0..10 {
        node.write(id).await.unwrap();
    }
    eventually("a silent follower", || {
        node.stats().peers[&far].silence >= Duration::from_millis(400)
    })
    .await;
    let peers = node.stats().peers;
    assert_eq!(peers.keys().copied().collect::<Vec<_>>(), [near.min(far), near.max(far)]);
    assert_eq!((peers[&near].lag, peers[&far].lag), (0, 10));
    assert_eq!(peers[&near].matched, node.metrics().last);
    assert!(peers[&near].round_trip.is_some_and(|took| took < Duration::from_secs(1)));
    assert!(peers[&near].silence <= Duration::from_millis(200), "{:?}", peers[&near]);
    // A heartbeat was under way when it was cut off.
    assert!(peers[&far].silence <= cut_at.elapsed() + Duration::from_millis(200));
    cluster.network.calm();
    eventually("a follower that is back", || node.stats().peers[&far].lag == 0).await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_are_counted_where_they_are_built_sent_received_and_restored() {
    let mut cluster = Cluster::new(
        3,
        config(|c| {
            c.snapshot_entries = None;
            c.snapshot_log_bytes = None;
            c.keep_entries = 0;
        }),
    )
    .await;
    let leader = cluster.settle().await;
    let late = cluster.others(leader)[0];
    cluster.stop(late).await;
    for id in 0..30 {
        cluster.nodes[&leader].write(id).await.unwrap();
    }
    let info = cluster.nodes[&leader].trigger().snapshot().await.unwrap();
    let at = info.meta.last.index;
    let compacted = |m: &quorate::Metrics| m.compacted > 0;
    cluster.nodes[&leader].wait(PATIENCE).until("compaction", compacted).await.unwrap();
    cluster.start(late).await;
    cluster.nodes[&late].wait(PATIENCE).applied(at).await.unwrap();

    // The leader counts it when the follower has said so.
    let node = &cluster.nodes[&leader];
    eventually("a snapshot that was sent", || node.stats().snapshots_sent == 1).await;
    let stats = node.stats();
    assert_eq!((stats.snapshots_built, stats.snapshots_failed), (1, 0));
    assert_eq!(stats.snapshot_built_bytes, info.bytes);
    assert_eq!(stats.snapshots_sent, 1);
    assert!(stats.snapshot_sent_bytes >= info.bytes);
    let of_late = cluster.nodes[&late].stats();
    assert_eq!((of_late.snapshots_received, of_late.snapshots_restored), (1, 1));
    assert!(of_late.snapshot_received_bytes >= info.bytes);
    assert_eq!(of_late.snapshots_built, 0);

    cluster.machines[&leader].inject(Fault::SnapshotFails);
    cluster.nodes[&leader].write(30).await.unwrap();
    cluster.nodes[&leader].trigger().snapshot().await.unwrap_err();
    assert_eq!(cluster.nodes[&leader].stats().snapshots_failed, 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_counted_can_be_seen_after_the_end() {
    let cluster = Cluster::new(1, config(|_| {})).await;
    let node = cluster.nodes[&1].clone();
    node.write(1).await.unwrap();
    node.shutdown().await;
    assert!(matches!(node.write(2).await, Err(WriteError::Stopped)));
    let stats = node.stats();
    assert_eq!((stats.writes, stats.answered.count()), (1, 1));
    assert_eq!(stats.write_failures["stopped"], 1);
}
