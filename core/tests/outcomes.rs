//! What a writer is told, and that it is true.

mod common;

use std::time::Duration;

use common::*;
use quorate::{Lane, RoleKind, WriteError};
use quorate_network::Message;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_run_is_contiguous_and_answered_in_order() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let mut writers = Vec::new();
    for writer in 0..30 {
        let node = cluster.nodes[&(writer % 3 + 1)].clone();
        writers.push(tokio::spawn(async move {
            let run: Vec<u64> = (0..7).map(|i| writer * 100 + i).collect();
            (run.clone(), node.write_many(run).await.unwrap())
        }));
        drop(spawn_write(&cluster.nodes[&(writer % 3 + 1)], 10_000 + writer));
    }
    let mut runs = Vec::new();
    for writer in writers {
        runs.push(writer.await.unwrap());
    }
    let ledger = cluster.ledger().await;
    for (run, positions) in runs {
        let at = positions[0] as usize - 1;
        assert_eq!(ledger[at..at + 7], run);
        assert!(positions.is_sorted_by(|a, b| a + 1 == *b), "{positions:?}");
    }
    assert!(cluster.nodes[&1].write_many([]).await.unwrap().is_empty());
    assert_eq!(cluster.nodes[&2].write_many([5]).await.unwrap().len(), 1);
    cluster.shutdown().await;
}

/// A run that is larger than an append is sent from the log, the leader dies, and a follower that
/// could have a part of the run is elected.
#[tokio::test(start_paused = true)]
async fn a_run_is_done_as_a_whole_or_not_at_all() {
    let change = |c: &mut quorate::Config| {
        c.append_bytes = 100;
        c.tail_bytes = 0;
    };
    let cluster = Cluster::new(3, config(change)).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    cluster.network.only(|lane, _| lane != Lane::Entries);
    let before = cluster.nodes[&leader].metrics().last;
    let run = {
        let node = cluster.nodes[&leader].clone();
        tokio::spawn(async move { node.write_many(0..100).await })
    };
    tokio::time::sleep(SECOND / 10).await;
    let to = others[0];
    cluster.network.only(move |lane, m| match &m.message {
        Message::Raft(quorate_engine::Message::AppendEntries(append)) => {
            m.to == to && append.last().index < before + 100
        }
        _ => lane != Lane::Entries,
    });
    tokio::time::sleep(3 * SECOND).await;
    cluster.network.inner.isolate(leader);
    cluster.network.only(|_, _| true);
    cluster.leader_among(&others).await;
    cluster.nodes[&to].write(1000).await.unwrap();
    cluster.network.calm();
    assert!(matches!(run.await.unwrap().unwrap_err(), WriteError::Overwritten));
    assert_eq!(cluster.ledger().await, [1000]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_at_any_node_is_done_by_the_leader() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    for (node, position) in cluster.nodes.values().zip(1..) {
        assert_eq!(node.write(node.id()).await.unwrap(), position);
    }
    assert_eq!(cluster.ledger().await, [1, 2, 3]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_forwarding_a_follower_names_the_leader() {
    let cluster = Cluster::new(3, config(|c| c.forward_writes = false)).await;
    let leader = cluster.settle().await;
    for id in cluster.others(leader) {
        let error = cluster.nodes[&id].write(1).await.unwrap_err();
        assert!(matches!(error, WriteError::NotLeader { leader: Some(l) } if l == leader));
        assert!(error.to_string().contains(&format!("node {leader} does")), "{error}");
    }
    cluster.nodes[&leader].write(2).await.unwrap();
    cluster.network.inner.isolate(leader);
    let at = &cluster.nodes[&leader];
    at.wait(PATIENCE).role(RoleKind::Follower).await.unwrap();
    assert!(matches!(at.write(3).await.unwrap_err(), WriteError::NotLeader { leader: None }));
    cluster.network.calm();
    assert_eq!(cluster.ledger().await, [2]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_write_times_out_and_is_never_done() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    for id in 1..=3 {
        cluster.network.inner.isolate(id);
    }
    let node = &cluster.nodes[&1];
    node.wait(PATIENCE).until("no leader", |m| m.leader.is_none()).await.unwrap();
    let began = Instant::now();
    assert!(matches!(node.write(7).await.unwrap_err(), WriteError::Timeout));
    assert!((5 * SECOND..6 * SECOND).contains(&began.elapsed()));
    // One that waits when a leader comes is done.
    let waiting = spawn_write(node, 8);
    cluster.network.calm();
    waiting.await.unwrap().unwrap();
    assert_eq!(cluster.ledger().await, [8]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_loses_its_quorum_after_the_append_does_not_know() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    cluster.network.inner.isolate(leader);
    let began = Instant::now();
    assert!(matches!(cluster.nodes[&leader].write(7).await.unwrap_err(), WriteError::Unknown));
    assert!((5 * SECOND..6 * SECOND).contains(&began.elapsed()));
    cluster.shutdown().await;
}

/// Hazard: success returned though the entry was overwritten. The other side's write stands at the
/// same index.
#[tokio::test(start_paused = true)]
async fn a_write_whose_place_was_taken_is_told_so() {
    let cluster = Cluster::new(3, config(|c| c.write_timeout = 100 * SECOND)).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    cluster.network.inner.isolate(leader);
    let lost: Vec<_> = (100..110).map(|n| spawn_write(&cluster.nodes[&leader], n)).collect();
    let run = {
        let node = cluster.nodes[&leader].clone();
        tokio::spawn(async move { node.write_many([200, 201, 202]).await })
    };
    let next = cluster.leader_among(&others).await;
    for n in 0..20 {
        cluster.nodes[&next].write(n).await.unwrap();
    }
    assert!(lost.iter().all(|write| !write.is_finished()));
    cluster.network.calm();
    for write in lost {
        assert!(matches!(write.await.unwrap().unwrap_err(), WriteError::Overwritten));
    }
    assert!(matches!(run.await.unwrap().unwrap_err(), WriteError::Overwritten));
    assert_eq!(cluster.ledger().await, (0..20).collect::<Vec<_>>());
    cluster.shutdown().await;
}

/// Paper Figure 8, seen by the writer: its entry is overwritten on the node it was written at, and
/// comes back with the leader after next.
#[tokio::test(start_paused = true)]
async fn an_overwritten_entry_that_another_leader_brings_back_is_not_called_lost() {
    let cluster = Cluster::new(5, config(|c| c.write_timeout = 1000 * SECOND)).await;
    let a = cluster.settle().await;
    let others = cluster.others(a);
    let (b, rest) = (others[0], others[1..].to_vec());
    // The entry reaches B alone.
    cluster.network.inner.partition(&[a, b], &rest);
    let before = cluster.nodes[&a].metrics().last;
    let write = spawn_write(&cluster.nodes[&a], 7);
    let has_it = move |m: &quorate::Metrics| m.persisted > before;
    cluster.nodes[&b].wait(PATIENCE).until("the entry", has_it).await.unwrap();
    // One of the rest is elected; nobody hears of its no-op but A, where it takes the entry's place.
    let away = rest.clone();
    cluster
        .network
        .only(move |lane, m| lane != Lane::Entries || !away.contains(&m.from) || m.to == a);
    let c = cluster.leader_among(&rest).await;
    cluster.network.inner.heal();
    cluster.network.inner.isolate(b);
    let follows = move |m: &quorate::Metrics| m.leader == Some(c) && m.persisted > before;
    cluster.nodes[&a].wait(PATIENCE).until("C's no-op", follows).await.unwrap();
    let term_of_c = cluster.nodes[&c].metrics().term;
    assert!(!write.is_finished());
    // C and A are gone; B has the longest log of those that are left.
    cluster.network.calm();
    cluster.network.inner.isolate(a);
    cluster.network.inner.isolate(c);
    let left: Vec<u64> = cluster.ids().into_iter().filter(|id| ![a, c].contains(id)).collect();
    assert_eq!(cluster.leader_among(&left).await, b);
    assert!(cluster.nodes[&b].metrics().term > term_of_c);
    cluster.network.calm();
    assert_eq!(write.await.unwrap().unwrap(), 1);
    assert_eq!(cluster.ledger().await, [7]);
    cluster.shutdown().await;
}

/// Hazard: step down between quorum and reply.
#[tokio::test(start_paused = true)]
async fn a_leader_deposed_before_the_reply_still_tells_the_truth() {
    let cluster = Cluster::new(3, config(|c| c.write_timeout = 100 * SECOND)).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    cluster.machines[&leader].inject(Fault::Gate);
    let before = cluster.nodes[&leader].metrics().committed;
    let committed = spawn_write(&cluster.nodes[&leader], 1);
    let node = &cluster.nodes[&leader];
    node.wait(PATIENCE).until("committed", move |m| m.committed > before).await.unwrap();
    cluster.network.inner.isolate(leader);
    let appended = spawn_write(node, 2);
    node.wait(PATIENCE).role(RoleKind::Follower).await.unwrap();
    let next = cluster.leader_among(&others).await;
    assert_eq!(cluster.nodes[&next].write(3).await.unwrap(), 2);
    cluster.network.calm();
    cluster.machines[&leader].open_gate();
    assert_eq!(committed.await.unwrap().unwrap(), 1);
    assert!(matches!(appended.await.unwrap().unwrap_err(), WriteError::Overwritten));
    assert_eq!(cluster.ledger().await, [1, 3]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_write_whose_leader_dies_is_unknown_soon_after_the_next_election() {
    let cluster = Cluster::new(3, config(|c| c.write_timeout = 1000 * SECOND)).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    // The leader does it; its answer does not arrive.
    cluster.network.only(move |lane, m| lane != Lane::Clients || m.from != leader);
    let write = spawn_write(&cluster.nodes[&others[0]], 7);
    eventually("the write", || cluster.machines[&leader].applied() == 1).await;
    cluster.network.inner.isolate(leader);
    let began = Instant::now();
    assert!(matches!(write.await.unwrap().unwrap_err(), WriteError::Unknown));
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    cluster.network.calm();
    assert_eq!(cluster.ledger().await, [7]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_says_so_at_once_and_is_empty_again_afterwards() {
    // Room for ten writes.
    let cluster = Cluster::new(3, config(|c| c.queue_bytes = 10 * 66)).await;
    let node = &cluster.nodes[&1];
    for round in 0..50 {
        for id in 1..=3 {
            cluster.network.inner.isolate(id);
        }
        node.wait(PATIENCE).until("no leader", |m| m.leader.is_none()).await.unwrap();
        let waiting: Vec<_> = (0..10).map(|n| spawn_write(node, 128 + n)).collect();
        tokio::task::yield_now().await;
        let began = Instant::now();
        for _ in 0..100 {
            assert!(matches!(node.write(1).await.unwrap_err(), WriteError::Overloaded));
        }
        assert!(began.elapsed() < SECOND);
        // Every other round they fail, otherwise they are done.
        if round % 2 == 1 {
            cluster.network.calm();
        }
        for write in waiting {
            match write.await.unwrap() {
                Ok(_) => assert_eq!(round % 2, 1),
                Err(error) => {
                    assert!(matches!(error, WriteError::Timeout), "{error}");
                    assert_eq!(round % 2, 0);
                }
            }
        }
        cluster.network.calm();
    }
    cluster.settle().await;
    for n in 0..5000 {
        cluster.nodes[&(n % 3 + 1)].write(200).await.unwrap();
    }
    cluster.shutdown().await;
}

/// Hazard: the uncommitted log grows without bound when quorum is lost.
#[tokio::test(start_paused = true)]
async fn a_leader_without_commits_takes_only_so_much() {
    let limit = 64 << 10;
    let change = |c: &mut quorate::Config| {
        c.uncommitted_bytes = limit;
        c.append_bytes = 4 << 10;
    };
    let cluster = Cluster::new(3, config(change)).await;
    let leader = cluster.settle().await;
    let node = &cluster.nodes[&leader];
    // It leads on: heartbeats pass, entries don't.
    cluster.network.only(|lane, _| lane != Lane::Entries);
    let mut taken = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        let round: Vec<_> = (0..100).map(|n| spawn_write(node, n)).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        for write in round {
            if write.is_finished() {
                assert!(matches!(write.await.unwrap().unwrap_err(), WriteError::Overloaded));
                refused += 1;
            } else {
                taken.push(write);
            }
        }
    }
    assert!(refused > 0);
    let tail = node.metrics().tail_bytes;
    assert!(tail <= limit + (8 << 10), "{tail}");
    assert_eq!(node.metrics().role, RoleKind::Leader);
    cluster.network.calm();
    for write in &mut taken {
        write.await.unwrap().unwrap();
    }
    for n in 0..1000 {
        node.write(n).await.unwrap();
    }
    assert_eq!(cluster.ledger().await.len(), taken.len() + 1000);
    cluster.shutdown().await;
}

/// A leader whose state machine hangs refuses at once, and its followers' reads are not held up.
#[tokio::test(start_paused = true)]
async fn a_slow_state_machine_makes_its_leader_refuse_and_holds_up_nobody_else() {
    let change = |c: &mut quorate::Config| {
        c.unapplied_bytes = 4 << 10;
        c.append_bytes = 1 << 10;
        c.write_timeout = Duration::from_secs(30);
    };
    let cluster = Cluster::new(3, config(change)).await;
    let leader = cluster.settle().await;
    let (node, machine) = (&cluster.nodes[&leader], &cluster.machines[&leader]);
    let other = &cluster.nodes[&cluster.others(leader)[0]];
    machine.inject(Fault::Gate);
    let (mut waiting, mut refused) = (Vec::new(), 0);
    while refused == 0 {
        let round: Vec<_> = (0..100).map(|n| spawn_write(node, n)).collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        for write in round {
            if write.is_finished() {
                assert!(matches!(write.await.unwrap().unwrap_err(), WriteError::Overloaded));
                refused += 1;
            } else {
                waiting.push(write);
            }
        }
        assert!(waiting.len() < 5_000, "it takes everything");
    }
    // A write that came by another node is refused as well, and that node reads what is committed.
    assert!(matches!(other.write(1).await.unwrap_err(), WriteError::Overloaded));
    let seen = other.read(|machine| machine.ids.len()).await.unwrap();
    assert_eq!(seen, waiting.len());
    machine.open_gate();
    for write in waiting {
        write.await.unwrap().unwrap();
    }
    node.write(1).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_command_over_the_limit_is_refused_at_every_node() {
    let cluster = Cluster::new(3, config(|c| c.max_command_bytes = 5)).await;
    for node in cluster.nodes.values() {
        let error = node.write(u64::MAX).await.unwrap_err();
        assert!(matches!(error, WriteError::TooLarge { bytes: 10, limit: 5 }), "{error}");
        assert!(matches!(
            node.write_many([0; 100]).await.unwrap_err(),
            WriteError::TooLarge { .. }
        ));
        node.write(0x7_ffff_ffff).await.unwrap();
    }
    assert_eq!(cluster.ledger().await.len(), 3);
    cluster.shutdown().await;
}

#[test]
fn only_unknown_outcomes_may_have_happened() {
    let cause = anyerror::AnyError::error("x");
    let not = [
        WriteError::NotLeader { leader: None },
        WriteError::Overloaded,
        WriteError::Timeout,
        WriteError::Overwritten,
        WriteError::Stopped,
        WriteError::TooLarge { bytes: 2, limit: 1 },
        WriteError::Refused(cause.clone()),
    ];
    assert!(not.iter().all(|error| !error.may_have_happened()));
    assert!(WriteError::Unknown.may_have_happened());
    assert!(WriteError::Response(cause).may_have_happened());
    assert!(!quorate::ReadError::Timeout.may_have_happened());
    assert!(quorate::InitializeError::Stopped.may_have_happened());
}
