//! Linearizable reads at leaders and followers, and local ones.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use quorate::{Lane, ReadError, ReadMode, RoleKind};
use quorate_network::{Envelope, Message};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_read_at_any_node_sees_every_acknowledged_write() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    for n in 1..=300 {
        cluster.nodes[&(n % 3 + 1)].write(n).await.unwrap();
        let reader = &cluster.nodes[&((n + n / 3) % 3 + 1)];
        assert_eq!(reader.read(|l| l.ids.len()).await.unwrap(), n as usize);
        let direct = &cluster.nodes[&((n + 1) % 3 + 1)];
        direct.ensure_linearizable().await.unwrap();
        assert_eq!(direct.read_with(ReadMode::Stale, |l| l.ids.len()).await.unwrap(), n as usize);
    }
    cluster.shutdown().await;
}

/// A leader that is cut off takes itself for the leader for a while.
#[tokio::test(start_paused = true)]
async fn a_deposed_leader_serves_no_stale_read() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let old = cluster.settle().await;
    let others = cluster.others(old);
    cluster.nodes[&old].write(1).await.unwrap();
    // It hears nobody, and everybody hears its heartbeats until another has been elected: its
    // answers are cut, so it can't confirm anything.
    for id in &others {
        cluster.network.inner.cut(*id, old);
    }
    let node = cluster.nodes[&old].clone();
    let mut reads = Vec::new();
    for _ in 0..100 {
        let reader = node.clone();
        reads.push(tokio::spawn(async move { reader.read(|l| l.ids.len()).await }));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.network.inner.isolate(old);
    let next = cluster.leader_among(&others).await;
    cluster.nodes[&next].write(2).await.unwrap();
    for _ in 0..20 {
        let reader = node.clone();
        reads.push(tokio::spawn(async move { reader.read(|l| l.ids.len()).await }));
    }
    for read in reads {
        assert!(matches!(read.await.unwrap().unwrap_err(), ReadError::Timeout));
    }
    // What it has is to be had without a promise.
    assert_eq!(node.read_with(ReadMode::Stale, |l| l.ids.len()).await.unwrap(), 1);
    cluster.network.calm();
    assert_eq!(node.read(|l| l.ids.len()).await.unwrap(), 2);
    cluster.shutdown().await;
}

/// Who reads the state by itself is told so when it is there, and not before.
#[tokio::test(start_paused = true)]
async fn who_only_waits_waits_for_the_state_machine_of_its_node() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let slow = cluster.others(leader)[0];
    for n in 1..=20 {
        cluster.machines[&slow].inject(Fault::Gate);
        cluster.nodes[&leader].write(n).await.unwrap();
        cluster.nodes[&leader].ensure_linearizable().await.unwrap();
        let node = cluster.nodes[&slow].clone();
        let waits = tokio::spawn(async move { node.ensure_linearizable().await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!waits.is_finished(), "its state machine does not have the write");
        cluster.machines[&slow].open_gate();
        waits.await.unwrap().unwrap();
        let seen = cluster.nodes[&slow].read_with(ReadMode::Stale, |l| l.ids.len()).await;
        assert_eq!(seen.unwrap(), n as usize);
    }
    cluster.shutdown().await;
}

/// Reads that wait when their leader is deposed are served by the next.
#[tokio::test(start_paused = true)]
async fn reads_outlive_a_change_of_leaders() {
    let cluster = Cluster::new(3, config(|c| c.read_timeout = 60 * SECOND)).await;
    let old = cluster.settle().await;
    let others = cluster.others(old);
    cluster.nodes[&old].write(1).await.unwrap();
    cluster.network.inner.isolate(old);
    let mut reads = Vec::new();
    for node in cluster.nodes.values() {
        let reader = node.clone();
        reads.push(tokio::spawn(async move { reader.read(|l| l.ids.len()).await }));
    }
    let next = cluster.leader_among(&others).await;
    cluster.nodes[&next].write(2).await.unwrap();
    tokio::time::sleep(5 * SECOND).await;
    cluster.network.calm();
    for read in reads {
        let seen = read.await.unwrap().unwrap();
        assert!(seen >= 1, "{seen}");
    }
    cluster.shutdown().await;
}

/// Hazard: a new leader serves reads before it has committed in its term.
#[tokio::test(start_paused = true)]
async fn a_new_leader_reads_only_after_its_no_op_is_committed() {
    let cluster = Cluster::new(3, config(|c| c.read_timeout = 60 * SECOND)).await;
    let old = cluster.settle().await;
    let others = cluster.others(old);
    // The followers have the entry and don't know that it is committed.
    let last = cluster.nodes[&old].metrics().last;
    cluster.network.only(move |lane, m| match &m.message {
        Message::Raft(quorate_engine::Message::Heartbeat(m)) => m.commit <= last,
        Message::Raft(quorate_engine::Message::AppendEntries(m)) => m.commit <= last,
        _ => lane != Lane::Clients,
    });
    assert_eq!(cluster.nodes[&old].write(1).await.unwrap(), 1);
    cluster.network.only(|lane, _| lane != Lane::Entries);
    cluster.network.inner.isolate(old);
    let next = cluster.leader_among(&others).await;
    let node = cluster.nodes[&next].clone();
    assert_eq!(node.metrics().committed, last);
    let reader = node.clone();
    let read = tokio::spawn(async move { reader.read(|l| l.ids.clone()).await });
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(node.metrics().role, RoleKind::Leader);
    assert!(!read.is_finished());
    cluster.network.calm();
    assert_eq!(read.await.unwrap().unwrap(), [1]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_reads_time_out_and_leave_nothing_behind() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let state = Arc::new(());
    for id in 1..=3 {
        cluster.network.inner.isolate(id);
    }
    for round in 0..3 {
        let began = Instant::now();
        let mut reads = Vec::new();
        for node in cluster.nodes.values() {
            for _ in 0..1000 {
                let (reader, held) = (node.clone(), state.clone());
                let read = async move { reader.read(move |_| Arc::strong_count(&held)).await };
                reads.push(tokio::spawn(read));
            }
        }
        for read in reads {
            assert!(matches!(read.await.unwrap().unwrap_err(), ReadError::Timeout));
        }
        assert!(began.elapsed() < 6 * SECOND, "round {round}: {:?}", began.elapsed());
        assert_eq!(Arc::strong_count(&state), 1, "closures are dropped");
    }
    // Callers that have gone away are forgotten like those that wait.
    for node in cluster.nodes.values() {
        let held = state.clone();
        let read = node.read(move |_| drop(held));
        assert!(tokio::time::timeout(SECOND, read).await.is_err());
    }
    tokio::time::sleep(6 * SECOND).await;
    assert_eq!(Arc::strong_count(&state), 1);
    cluster.network.calm();
    assert_eq!(cluster.ledger().await, [0; 0]);
    cluster.shutdown().await;
}

/// A register that only grows, read everywhere while the leader changes and messages go astray: no
/// read sees less than what was seen or acknowledged before it began.
#[tokio::test(start_paused = true)]
async fn reads_never_go_back_while_leaders_change() {
    let cluster = Cluster::new(3, config(|c| c.read_timeout = 2 * SECOND)).await;
    cluster.network.rage(9, 2, 5, 20, 60);
    let floor = Arc::new(AtomicU64::new(0));
    let served = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for node in cluster.nodes.values() {
        for _ in 0..4 {
            let (node, floor) = (node.clone(), floor.clone());
            let (served, stop) = (served.clone(), stop.clone());
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let before = floor.load(Ordering::SeqCst);
                    if let Ok(seen) = node.read(|l| l.ids.len() as u64).await {
                        assert!(seen >= before, "{seen} after {before}");
                        floor.fetch_max(seen, Ordering::SeqCst);
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }));
        }
        let (node, floor, stop) = (node.clone(), floor.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                if let Ok(position) = node.write(1).await {
                    floor.fetch_max(position, Ordering::SeqCst);
                }
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
        }));
    }
    for round in 0..10 {
        tokio::time::sleep(3 * SECOND).await;
        cluster.network.inner.heal();
        cluster.network.inner.isolate(round % 3 + 1);
    }
    stop.store(true, Ordering::SeqCst);
    cluster.network.calm();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(served.load(Ordering::SeqCst) > 1000);
    cluster.shutdown().await;
}

/// Counts what is sent, and loses nothing.
fn count_messages(cluster: &Cluster) -> Arc<AtomicU64> {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    cluster.network.only(move |_: Lane, _: &Envelope| {
        counter.fetch_add(1, Ordering::Relaxed);
        true
    });
    sent
}

/// A leader with a lease answers by itself, a follower asks it and nobody else; what was acknowledged
/// is seen.
#[tokio::test(start_paused = true)]
async fn reads_by_lease_need_no_round() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let follower = cluster.others(leader)[0];
    for n in 1..=20 {
        cluster.nodes[&leader].write(n).await.unwrap();
        // Time goes on when nobody has anything to do: the other follower has the write, too.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let sent = count_messages(&cluster);
        for at in [leader, follower] {
            let before = sent.load(Ordering::Relaxed);
            let read = cluster.nodes[&at].read_with(ReadMode::Lease, |l| l.ids.len()).await;
            assert_eq!(read.unwrap(), n as usize);
            let asked = sent.load(Ordering::Relaxed) - before;
            assert_eq!(asked, if at == leader { 0 } else { 2 }, "a question and its answer");
            cluster.nodes[&at].ensure_linearizable_with(ReadMode::Lease).await.unwrap();
            let seen = cluster.nodes[&at].read_with(ReadMode::Stale, |l| l.ids.len()).await;
            assert_eq!(seen.unwrap(), n as usize);
        }
    }
    cluster.shutdown().await;
}

/// Hazard: a lease that outlives the promises it rests on.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_loses_its_lease_before_another_leads() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let old = cluster.settle().await;
    let others = cluster.others(old);
    cluster.nodes[&old].write(1).await.unwrap();
    cluster.network.inner.isolate(old);
    let node = cluster.nodes[&old].clone();
    let reader = tokio::spawn(async move {
        let mut served = Vec::new();
        loop {
            let asked = node.ensure_linearizable_with(ReadMode::Lease).await;
            let at = Instant::now();
            let read = node.read_with(ReadMode::Lease, |l| l.ids.len()).await;
            match (asked, read) {
                (Ok(()), Ok(seen)) => served.extend([(at, seen), (Instant::now(), seen)]),
                _ => return served,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let next = cluster.leader_among(&others).await;
    let led = Instant::now();
    cluster.nodes[&next].write(2).await.unwrap();
    let served = reader.await.unwrap();
    assert!(served.len() > 100, "the lease goes on for a while: {}", served.len());
    assert!(served.iter().all(|(at, seen)| *at < led && *seen == 1));
    cluster.shutdown().await;
}

/// Old by as much as was allowed, and no more; then somebody is asked.
#[tokio::test(start_paused = true)]
async fn a_bounded_read_asks_only_when_what_it_knows_is_too_old() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let follower = &cluster.nodes[&cluster.others(leader)[0]];
    cluster.nodes[&leader].write(1).await.unwrap();
    assert_eq!(follower.read(|l| l.ids.len()).await.unwrap(), 1);
    let sent = count_messages(&cluster);
    let bounded = ReadMode::Bounded(Duration::from_millis(50));
    assert_eq!(follower.read_with(bounded, |l| l.ids.len()).await.unwrap(), 1);
    assert_eq!(sent.load(Ordering::Relaxed), 0);
    cluster.nodes[&leader].write(2).await.unwrap();
    tokio::time::sleep(Duration::from_millis(51)).await;
    assert_eq!(follower.read_with(bounded, |l| l.ids.len()).await.unwrap(), 2);
    cluster.shutdown().await;
}
