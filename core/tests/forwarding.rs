//! Writes and reads at any node while the network drops, copies, delays and reorders.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use quorate::{Lane, WriteError};
use quorate_network::Message;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// What clients know: the state of a register that only grows (how many writes there are).
#[derive(Default)]
struct Known {
    /// No read that begins now may see less.
    floor: AtomicU64,
    /// Outcome of each write: its position, or whether it may have been done.
    outcomes: Mutex<BTreeMap<u64, Result<u64, bool>>>,
    stop: AtomicBool,
}

/// Exactly once if acknowledged, at most once if unknown, never if refused; reads linearizable.
async fn torment(seed: u64) {
    let change = |c: &mut quorate::Config| {
        c.write_timeout = 2 * SECOND;
        c.read_timeout = 2 * SECOND;
    };
    let cluster = Cluster::new(3, config(change)).await;
    let known = Arc::new(Known::default());
    let next_id = Arc::new(AtomicU64::new(0));
    cluster.network.rage(seed, 4, 10, 25, 120);
    let mut clients = Vec::new();
    for client in 0..12 {
        let node = cluster.nodes[&(client % 3 + 1)].clone();
        let (known, next_id) = (known.clone(), next_id.clone());
        clients.push(tokio::spawn(async move {
            let mut rng = Rng::new(seed * 100 + client);
            while !known.stop.load(Ordering::SeqCst) {
                if rng.below(4) == 0 {
                    let floor = known.floor.load(Ordering::SeqCst);
                    if let Ok(seen) = node.read(|ledger| ledger.ids.len() as u64).await {
                        assert!(seen >= floor, "a read saw {seen}, {floor} were there before it");
                        known.floor.fetch_max(seen, Ordering::SeqCst);
                    }
                } else {
                    let id = next_id.fetch_add(1, Ordering::SeqCst);
                    let outcome = node.write(id).await;
                    if let Ok(position) = outcome {
                        known.floor.fetch_max(position, Ordering::SeqCst);
                    }
                    let outcome = outcome.map_err(|error| error.may_have_happened());
                    known.outcomes.lock().unwrap().insert(id, outcome);
                }
                tokio::time::sleep(Duration::from_millis(rng.below(30))).await;
            }
        }));
    }
    let mut rng = Rng::new(seed);
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(500 + rng.below(2500))).await;
        match rng.below(4) {
            0 => cluster.network.inner.heal(),
            1 => {
                let (from, to) = (rng.below(3) + 1, rng.below(3) + 1);
                cluster.network.inner.cut(from, to);
            }
            _ => {
                cluster.network.inner.heal();
                let leader = cluster.nodes.values().find_map(|node| {
                    let m = node.metrics();
                    (m.leader == Some(m.id)).then_some(m.id)
                });
                cluster.network.inner.isolate(leader.unwrap_or(1));
            }
        }
    }
    known.stop.store(true, Ordering::SeqCst);
    cluster.network.calm();
    for client in clients {
        client.await.unwrap();
    }
    // Copies that are still on their way.
    tokio::time::sleep(SECOND).await;
    let ledger = cluster.ledger().await;
    let done: BTreeSet<u64> = ledger.iter().copied().collect();
    assert_eq!(done.len(), ledger.len(), "a write was done twice");
    let outcomes = std::mem::take(&mut *known.outcomes.lock().unwrap());
    let mut acknowledged = 0;
    for (id, outcome) in &outcomes {
        match outcome {
            Ok(position) => {
                assert_eq!(ledger[*position as usize - 1], *id, "an acknowledged write");
                acknowledged += 1;
            }
            Err(true) => {}
            Err(false) => assert!(!done.contains(id), "{id} was done, and called not done"),
        }
    }
    assert!(acknowledged > 100, "only {acknowledged} of {}", outcomes.len());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn exactly_once_if_acknowledged_at_most_once_if_not() {
    for seed in 1..=40 {
        torment(seed).await;
    }
}

/// A copy of a message that the leader took arrives when it leads no more. To turn the copy down
/// would make the sender propose the write again.
#[tokio::test(start_paused = true)]
async fn a_copy_of_a_taken_write_is_not_turned_down_after_the_leader_steps_down() {
    let cluster = Cluster::new(3, config(|c| c.write_timeout = 20 * SECOND)).await;
    let leader = cluster.settle().await;
    let sender = cluster.others(leader)[0];
    cluster.network.record();
    cluster.network.only(move |lane, m| lane != Lane::Clients || m.from != leader);
    let write = spawn_write(&cluster.nodes[&sender], 7);
    eventually("the write", || cluster.machines[&leader].applied() == 1).await;
    let is_forward = |m: &quorate::Envelope| matches!(m.message, Message::Forward(_));
    let copy: Vec<_> = cluster.network.recorded().into_iter().filter(is_forward).collect();
    assert_eq!(copy.len(), 1);
    // Nobody hears of anybody, so that nobody learns of another leader.
    cluster.network.only(|_, _| false);
    let at = &cluster.nodes[&leader];
    at.wait(PATIENCE).until("no leader", |m| m.leader.is_none()).await.unwrap();
    cluster.network.only(move |lane, m| lane == Lane::Clients && m.from == leader);
    at.host().receive(copy);
    tokio::time::sleep(SECOND).await;
    cluster.network.calm();
    assert!(matches!(write.await.unwrap().unwrap_err(), WriteError::Unknown));
    assert_eq!(cluster.ledger().await, [7]);
    cluster.shutdown().await;
}

/// The same across a restart of the leader, which has forgotten what it took.
#[tokio::test(start_paused = true)]
async fn a_copy_of_a_taken_write_is_not_turned_down_after_the_leader_restarts() {
    let mut cluster = Cluster::new(3, config(|c| c.write_timeout = 20 * SECOND)).await;
    let leader = cluster.settle().await;
    let sender = cluster.others(leader)[0];
    cluster.network.record();
    cluster.network.only(move |lane, m| lane != Lane::Clients || m.from != leader);
    let write = spawn_write(&cluster.nodes[&sender], 7);
    eventually("the write", || cluster.machines[&leader].applied() == 1).await;
    let is_forward = |m: &quorate::Envelope| matches!(m.message, Message::Forward(_));
    let copy: Vec<_> = cluster.network.recorded().into_iter().filter(is_forward).collect();
    cluster.network.only(|_, _| false);
    cluster.stop(leader).await;
    cluster.start(leader).await;
    cluster.network.only(move |lane, m| lane == Lane::Clients && m.from == leader);
    cluster.nodes[&leader].host().receive(copy);
    tokio::time::sleep(SECOND).await;
    cluster.network.calm();
    assert!(matches!(write.await.unwrap().unwrap_err(), WriteError::Unknown));
    assert_eq!(cluster.ledger().await, [7]);
    cluster.shutdown().await;
}

/// A peer that hangs (`send` never returns) costs nobody else anything.
#[tokio::test(start_paused = true)]
async fn a_hung_peer_does_not_hold_up_the_others() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    cluster.network.black_hole(leader, others[0]);
    let began = Instant::now();
    for n in 0..1000 {
        cluster.nodes[&leader].write(n).await.unwrap();
        cluster.nodes[&others[1]].write(n).await.unwrap();
    }
    for node in [leader, others[1]] {
        assert_eq!(cluster.nodes[&node].read(|l| l.ids.len()).await.unwrap(), 2000);
    }
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(cluster.nodes[&leader].metrics().leader, Some(leader));
    let began = Instant::now();
    cluster.nodes[&leader].shutdown().await;
    assert!(began.elapsed() < 10 * SECOND);
    cluster.shutdown().await;
}
