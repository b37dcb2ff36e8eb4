//! A lost quorum on real nodes: what a survivor says, what is made of it, and who comes over.

mod common;

use std::time::Duration;

use common::*;
use quorate::{
    Event, InitializeError, NodeId, Raft, RaftStorage as _, RecoverError, StorageError, Survivor,
    TokioEnv,
};

const SECOND: Duration = Duration::from_secs(1);

/// Reads the disk of a node that is down.
fn survivor(cluster: &Cluster, id: NodeId) -> Survivor {
    Survivor::of(cluster.disks[&id].open()).unwrap()
}

fn recover(cluster: &Cluster, id: NodeId, voters: &[NodeId]) -> quorate::Recovery {
    let voters = voters.iter().copied().collect();
    survivor(cluster, id).recover(&voters, &TokioEnv::new()).unwrap()
}

/// Three of five are gone, the other two are stopped.
async fn two_of_five() -> Cluster {
    let mut cluster = Cluster::new(5, config(|_| {})).await;
    for n in 0..20 {
        cluster.nodes[&(n % 5 + 1)].write(n).await.unwrap();
    }
    cluster.ledger().await;
    for id in 1..=5 {
        cluster.stop(id).await;
    }
    cluster
}

#[tokio::test(start_paused = true)]
async fn the_best_of_two_survivors_is_recovered_and_the_other_rejoins() {
    let mut cluster = two_of_five().await;
    let best = if survivor(&cluster, 4).last() > survivor(&cluster, 5).last() { 4 } else { 5 };
    let last = survivor(&cluster, best).last();
    let recovery = recover(&cluster, best, &[4, 5]);
    assert_eq!((recovery.after, recovery.by, recovery.at.index), (last, best, last.index + 1));
    assert!(survivor(&cluster, best).is_recovered_with(&[4, 5].into()));
    for id in [4, 5] {
        cluster.start(id).await;
    }
    cluster.settle().await;
    assert_eq!(cluster.ledger().await, (0..20).collect::<Vec<_>>());
    for id in [4, 5] {
        let metrics = cluster.nodes[&id].metrics();
        let members = metrics.membership.unwrap();
        assert_eq!(members.voters(), &[4, 5].into());
        assert_eq!(members.recovery(), Some(&recovery), "node {id}");
    }
    // It grows again, and nothing of this is forgotten when it does.
    for id in [6, 7, 8] {
        cluster.start(id).await;
        cluster.nodes[&4].add_voter(id, format!("node-{id}")).await.unwrap();
    }
    cluster.nodes[&6].write(20).await.unwrap();
    assert_eq!(cluster.ledger().await, (0..=20).collect::<Vec<_>>());
    let members = cluster.nodes[&8].metrics().membership.unwrap();
    assert_eq!(members.recovery(), Some(&recovery));
    cluster.shutdown().await;
}

/// All the lost come back, with a majority of the old cluster among them. They are another cluster.
#[tokio::test(start_paused = true)]
async fn what_was_lost_and_comes_back_is_another_cluster() {
    let mut cluster = two_of_five().await;
    let best = if survivor(&cluster, 4).last() > survivor(&cluster, 5).last() { 4 } else { 5 };
    recover(&cluster, best, &[4, 5]);
    for id in [4, 5] {
        cluster.start(id).await;
    }
    let leader = cluster.leader_among(&[4, 5]).await;
    let term = cluster.nodes[&leader].metrics().term;
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.leader_among(&[1, 2, 3]).await;
    cluster.nodes[&1].write(100).await.unwrap();
    cluster.nodes[&5].write(200).await.unwrap();
    let metrics = cluster.nodes[&leader].metrics();
    assert_eq!((metrics.term, metrics.leader), (term, Some(leader)), "nobody noticed");
    let seen = |id: NodeId| cluster.nodes[&id].read(|ledger| ledger.ids.clone());
    assert_eq!(seen(4).await.unwrap().last(), Some(&200));
    assert_eq!(seen(2).await.unwrap().last(), Some(&100));
    cluster.shutdown().await;
}

/// It says so, to whoever listens, and the same `initialize` as ever is harmless.
#[tokio::test(start_paused = true)]
async fn a_recovery_is_told_of() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    cluster.nodes[&1].write(1).await.unwrap();
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    let recovery = recover(&cluster, 2, &[2]);
    cluster.network.inner.isolate(2);
    cluster.start(2).await;
    let mut events = cluster.nodes[&2].events();
    let told = async {
        loop {
            if let Some(Event::Recovered(told)) = events.next().await {
                return told;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap(), recovery);
    let node = &cluster.nodes[&2];
    node.initialize(members(1..=3)).await.unwrap();
    let other = node.initialize(members(1..=2)).await.unwrap_err();
    assert!(matches!(other, InitializeError::OtherCluster), "{other}");
    assert_eq!(node.write(2).await.unwrap(), 2);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_recovered_is_left_as_it_is() {
    let mut cluster = Cluster::new(5, config(|_| {})).await;
    cluster.nodes[&1].write(1).await.unwrap();
    cluster.ledger().await;
    for id in 1..=5 {
        cluster.stop(id).await;
    }
    let before = survivor(&cluster, 2).last();
    let attempt = |voters: &[NodeId]| {
        let voters = voters.iter().copied().collect();
        survivor(&cluster, 2).recover(&voters, &TokioEnv::new()).unwrap_err()
    };
    assert!(matches!(attempt(&[1, 2, 3]), RecoverError::NotLost { .. }));
    for voters in [&[1, 3][..], &[2, 9], &[]] {
        let error = attempt(voters);
        assert!(matches!(error, RecoverError::Voters(_)), "{voters:?}: {error}");
    }
    assert_eq!(survivor(&cluster, 2).last(), before);
    let blank = Survivor::of(quorate::MemoryDisk::new().open());
    assert!(matches!(blank.err(), Some(RecoverError::NothingHere(_))));
    // Nothing came of it: they are the cluster they were.
    for id in 1..=5 {
        cluster.start(id).await;
    }
    cluster.settle().await;
    assert_eq!(cluster.ledger().await, [1]);
    cluster.shutdown().await;
}

/// Twice in its life a cluster loses its quorum.
#[tokio::test(start_paused = true)]
async fn a_recovered_cluster_may_be_recovered_again() {
    let mut cluster = two_of_five().await;
    let best = if survivor(&cluster, 4).last() > survivor(&cluster, 5).last() { 4 } else { 5 };
    let first = recover(&cluster, best, &[4, 5]);
    for id in [4, 5] {
        cluster.start(id).await;
    }
    cluster.leader_among(&[4, 5]).await;
    cluster.nodes[&4].write(20).await.unwrap();
    cluster.ledger().await;
    cluster.stop(4).await;
    cluster.stop(5).await;
    let again = recover(&cluster, 5, &[5]);
    assert_eq!(again.former, [first.former[0], first.cluster]);
    assert_ne!(again.cluster, first.cluster);
    cluster.start(5).await;
    cluster.start(4).await;
    assert_eq!(cluster.nodes[&5].write(21).await.unwrap(), 22);
    let alone = cluster.nodes[&4].wait(10 * SECOND).leader().await;
    assert!(alone.is_err(), "node 4 was left out, and nobody of 5's cluster hears it");
    cluster.nodes[&5].shutdown().await;
    cluster.nodes[&4].shutdown().await;
}

/// It was killed when a snapshot of the leader was durable, and before its log began anew behind that.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_the_log_has_yet_to_follow_counts() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    cluster.nodes[&1].write(0).await.unwrap();
    cluster.ledger().await;
    cluster.stop(3).await;
    let behind = survivor(&cluster, 3).last();
    cluster.leader_among(&[1, 2]).await;
    for n in 1..50 {
        cluster.nodes[&1].write(n).await.unwrap();
    }
    let info = cluster.nodes[&1].trigger().snapshot().await.unwrap();
    for id in [1, 2] {
        cluster.stop(id).await;
    }
    let (from, to) = (cluster.disks[&1].open(), cluster.disks[&3].open());
    let content = from.snapshots().open(info.meta.last).unwrap().unwrap();
    let mut received = to.snapshots().create(info.meta.clone()).unwrap();
    received.append(&content.read_at(0, usize::MAX).unwrap()).unwrap();
    assert_eq!(received.commit().unwrap(), info);
    drop((from, to));

    let found = survivor(&cluster, 3);
    let last = info.meta.last;
    assert!(last.index > behind.index);
    assert_eq!((found.last(), found.committed()), (last, last.index));
    assert_eq!(found.configuration(), (info.meta.configuration.0, &info.meta.configuration.1));
    assert!(found.hard_state().term >= last.term);
    let recovery = recover(&cluster, 3, &[3]);
    assert_eq!((recovery.after, recovery.at.index), (last, last.index + 1));
    let written = cluster.disks[&3].open().recover().unwrap();
    assert_eq!((written.compacted, written.last), (last, recovery.at), "nothing of before is left");
    cluster.start(3).await;
    cluster.leader_among(&[3]).await;
    assert_eq!(cluster.nodes[&3].write(50).await.unwrap(), 51);
    assert_eq!(cluster.ledger().await, (0..=50).collect::<Vec<_>>());
    cluster.shutdown().await;
}

/// What is in each file of `directory`.
#[cfg(feature = "wal")]
fn contents(directory: &std::path::Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let content = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    std::fs::read_dir(directory).unwrap().map(content).collect()
}

/// Whoever only looks at what a crash has left leaves it as it is, a torn write at the end too.
#[cfg(feature = "wal")]
#[tokio::test]
async fn to_look_at_a_directory_changes_nothing_in_it() {
    use quorate_storage::wal::{RealDisk, inspect};
    use std::os::unix::fs::FileExt as _;

    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let (ledger, _) = Ledger::new();
        Raft::builder(1, ledger).data_dir(dir.path()).start()
    };
    let node = start().await.unwrap();
    node.initialize(members(1..=3)).await.unwrap();
    let running = Survivor::open(dir.path(), 1).err().unwrap();
    assert!(matches!(running, RecoverError::Storage(StorageError::InUse(_))), "{running}");
    node.shutdown().await;
    drop(node);
    let report = inspect(&RealDisk::read_only(dir.path())).unwrap().segments.pop().unwrap();
    let newest = contents(dir.path()).into_keys().filter(|name| name.ends_with(".log")).max();
    let file = std::fs::File::options().write(true).open(dir.path().join(newest.unwrap())).unwrap();
    file.write_all_at(&[0xab; 700], report.end).unwrap();
    std::fs::write(dir.path().join("snapshot-0000000000000001-x.tmp"), "half").unwrap();

    let torn = contents(dir.path());
    let survivor = Survivor::open(dir.path(), 1).unwrap();
    assert_eq!((survivor.id(), survivor.last().index), (1, 1));
    survivor.check(&[1].into()).unwrap();
    assert!(!survivor.is_recovered_with(&[1].into()));
    assert!(contents(dir.path()) == torn, "it was only looked at");
    let error = survivor.recover(&[1, 2].into(), &TokioEnv::new()).unwrap_err();
    assert!(matches!(error, RecoverError::NotLost { .. }), "{error}");
    assert!(contents(dir.path()) == torn, "it was refused");
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in torn.iter().filter(|(name, _)| *name != "LOCK") {
        std::fs::write(copy.path().join(name), bytes).unwrap();
    }
    assert_eq!(Survivor::open(copy.path(), 1).unwrap().last().index, 1);
    assert!(!copy.path().join("LOCK").exists());

    // A node ran in between, and has said more since.
    let late = Survivor::open(dir.path(), 1).unwrap();
    let recovery = Survivor::open(dir.path(), 1).unwrap();
    recovery.recover(&[1].into(), &TokioEnv::new()).unwrap();
    let error = late.recover(&[1].into(), &TokioEnv::new()).unwrap_err();
    assert!(error.to_string().contains("has changed meanwhile"), "{error}");
    let whole = contents(dir.path());
    assert!(whole != torn && !whole.keys().any(|name| name.ends_with(".tmp")));
    let node = start().await.unwrap();
    assert_eq!(node.write(5).await.unwrap(), 1);
    node.shutdown().await;
}
