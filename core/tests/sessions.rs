//! Sessions: a write is applied once, however often it is sent, whatever happens in between.

mod common;

use std::time::Duration;

use common::*;
use quorate::{Once, RoleKind, SessionWrite, WriteError};
use quorate_network::{ForwardOutcome, Message};

const SECOND: Duration = Duration::from_secs(1);

fn of(session: u64, sequence: u64) -> SessionWrite {
    SessionWrite { session, sequence, acknowledged: 0 }
}

fn first(response: u64) -> Once<u64> {
    Once { response, repeated: false }
}

fn again(response: u64) -> Once<u64> {
    Once { response, repeated: true }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_write_has_the_first_response_at_every_node() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let (one, two) = (cluster.nodes[&1].clone(), cluster.nodes[&2].clone());
    let session = two.open_session().await.unwrap();
    assert_eq!(one.write_once(of(session, 1), 50).await.unwrap(), first(1));
    one.write(7).await.unwrap();
    for node in cluster.nodes.values() {
        assert_eq!(node.write_once(of(session, 1), 50).await.unwrap(), again(1));
    }
    let other = one.open_session().await.unwrap();
    assert_ne!(other, session);
    assert_eq!(two.write_once(of(other, 1), 51).await.unwrap(), first(3), "a session of its own");
    // At the same time, so that copies meet in one batch.
    let copies = (0..20).map(|_| {
        let node = one.clone();
        tokio::spawn(async move { node.write_once(of(session, 2), 52).await.unwrap() })
    });
    let mut fresh = 0;
    for copy in copies.collect::<Vec<_>>() {
        let once = copy.await.unwrap();
        assert_eq!(once.response, 4);
        fresh += u64::from(!once.repeated);
    }
    assert_eq!(fresh, 1);
    assert_eq!(cluster.ledger().await, [50, 7, 51, 52]);
    assert_eq!(one.metrics().sessions, 2);
    cluster.shutdown().await;
}

/// The state machine hangs, so none of them is answered: the first thousand are under way, the others
/// wait until there is room.
#[tokio::test(start_paused = true)]
async fn more_writes_than_a_session_may_have_under_way_wait() {
    let cluster = Cluster::new(1, config(|_| {})).await;
    let session = cluster.nodes[&1].session().await.unwrap();
    cluster.machines[&1].inject(Fault::Gate);
    let writes = futures::future::join_all((0..3000).map(|n| session.write(n)));
    let open = async {
        tokio::time::sleep(SECOND).await;
        cluster.machines[&1].open_gate();
    };
    let (answers, ()) = tokio::join!(writes, open);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let mut ledger = cluster.ledger().await;
    ledger.sort_unstable();
    assert_eq!(ledger, (0..3000).collect::<Vec<_>>());
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_or_unknown_is_refused_in_words() {
    let cluster = Cluster::new(3, config(|c| c.max_sessions = 2)).await;
    let leader = cluster.settle().await;
    for id in [leader, cluster.others(leader)[0]] {
        let node = &cluster.nodes[&id];
        let session = node.open_session().await.unwrap();
        node.write_once(of(session, 1), 1).await.unwrap();
        let next = SessionWrite { session, sequence: 2, acknowledged: 1 };
        node.write_once(next, 2).await.unwrap();
        let gone = node.write_once(of(session, 1), 1).await.unwrap_err();
        assert!(matches!(gone, WriteError::Acknowledged), "{gone}");
        let far = node.write_once(of(session, 3000), 3).await.unwrap_err();
        assert!(matches!(far, WriteError::Refused(_)), "{far}");
        for nobody in [0, session + 1000, u64::MAX] {
            let error = node.write_once(of(nobody, 1), 1).await.unwrap_err();
            assert!(matches!(error, WriteError::SessionExpired), "{error}");
            assert!(!error.may_have_happened());
        }
        // Two more, and there is no room for it.
        node.open_session().await.unwrap();
        node.open_session().await.unwrap();
        let error = node.write_once(of(session, 3), 3).await.unwrap_err();
        assert!(matches!(error, WriteError::SessionExpired), "{error}");
    }
    assert_eq!(cluster.ledger().await, [1, 2, 1, 2]);
    cluster.shutdown().await;
}

/// More sessions than the cap, and one that nobody uses.
#[tokio::test(start_paused = true)]
async fn an_idle_session_lapses_by_log_time() {
    let cluster = Cluster::new(3, config(|c| c.session_ttl = 10 * SECOND)).await;
    let node = &cluster.nodes[&1];
    let (idle, busy) = (node.open_session().await.unwrap(), node.open_session().await.unwrap());
    for sequence in 1..=6 {
        tokio::time::sleep(2 * SECOND).await;
        node.write_once(of(busy, sequence), sequence).await.unwrap();
    }
    let error = node.write_once(of(idle, 1), 100).await.unwrap_err();
    assert!(matches!(error, WriteError::SessionExpired), "{error}");
    // A follower has applied it a heartbeat later.
    let wait = cluster.nodes[&2].wait(10 * SECOND);
    wait.until("one session", |metrics| metrics.sessions == 1).await.unwrap();

    // Without a leader no time passes: nobody could have written.
    let leader = cluster.settle().await;
    cluster.network.inner.isolate(leader);
    let rest = cluster.others(leader);
    cluster.network.inner.isolate(rest[0]);
    tokio::time::sleep(60 * SECOND).await;
    cluster.network.inner.heal();
    cluster.settle().await;
    assert_eq!(node.write_once(of(busy, 6), 6).await.unwrap(), again(6));
    cluster.shutdown().await;
}

/// The answer is lost, the leader goes, every node restarts: the first response is given again.
#[tokio::test(start_paused = true)]
async fn the_table_survives_leaders_restarts_and_snapshots() {
    let change = |c: &mut quorate::Config| {
        c.snapshot_entries = Some(5);
        c.keep_entries = 0;
    };
    let mut cluster = Cluster::new(3, config(change)).await;
    let leader = cluster.settle().await;
    let away = cluster.others(leader)[0];
    let session = cluster.nodes[&leader].open_session().await.unwrap();
    cluster.stop(away).await;
    let node = cluster.nodes[&leader].clone();
    assert_eq!(node.write_once(of(session, 1), 10).await.unwrap(), first(1));
    for i in 0..20 {
        node.write(i).await.unwrap();
    }
    let compacted = move |m: &quorate::Metrics| m.compacted > 10;
    node.wait(PATIENCE).until("a compacted log", compacted).await.unwrap();

    // By the leader's snapshot.
    cluster.start(away).await;
    cluster.settle().await;
    assert!(cluster.machines[&away].restored() > 0);
    let transferred = cluster.nodes[&away].transfer_leadership(Some(away), 30 * SECOND).await;
    assert_eq!(transferred.unwrap(), away);
    let once = cluster.nodes[&away].write_once(of(session, 1), 10).await.unwrap();
    assert_eq!(once, again(1));

    // By each node's own.
    for id in [1, 2, 3] {
        cluster.stop(id).await;
    }
    for id in [1, 2, 3] {
        cluster.start(id).await;
    }
    cluster.settle().await;
    for node in cluster.nodes.values() {
        assert_eq!(node.write_once(of(session, 1), 10).await.unwrap(), again(1));
    }
    assert_eq!(cluster.ledger().await.iter().filter(|id| **id == 10).count(), 2, "and 10 of 0..20");
    cluster.shutdown().await;
}

/// The answers of the leader are lost: the handle sends the write again until it is told.
#[tokio::test(start_paused = true)]
async fn a_handle_sends_until_it_is_told() {
    let cluster = Cluster::new(3, config(|c| c.write_timeout = SECOND)).await;
    let leader = cluster.settle().await;
    let follower = cluster.others(leader)[0];
    let session = cluster.nodes[&follower].session().await.unwrap();
    let lossy = move |_, m: &quorate::Envelope| match &m.message {
        Message::Forwarded(m) => {
            !m.answers.iter().any(|a| matches!(a.outcome, ForwardOutcome::Applied(_)))
        }
        _ => true,
    };
    cluster.network.only(lossy);
    assert_eq!(session.write(5).await.unwrap(), 1, "told when it was repeated");
    cluster.network.calm();

    // The leader goes, with the write in its log and nowhere else.
    cluster.network.inner.isolate(leader);
    let rest = cluster.others(leader);
    cluster.leader_among(&rest).await;
    assert_eq!(session.write(6).await.unwrap(), 2);
    cluster.network.calm();
    let late = session.with_timeout(Duration::ZERO);
    cluster.settle().await;
    for id in cluster.ids() {
        cluster.network.inner.isolate(id);
    }
    let error = late.write(7).await.unwrap_err();
    assert!(matches!(error, WriteError::Unknown | WriteError::Timeout), "{error}");
    cluster.network.calm();
    cluster.settle().await;
    let ledger = cluster.ledger().await;
    assert_eq!(&ledger[..2], [5, 6]);
    assert!(ledger.len() <= 3);
    cluster.shutdown().await;
}

/// Many writes of one session at a time, through a network that drops, copies and reorders, with
/// leaders that change: each is applied once and each has the response of then.
#[tokio::test(start_paused = true)]
async fn exactly_once_through_everything() {
    for seed in 0..4 {
        let change = |c: &mut quorate::Config| {
            c.write_timeout = SECOND;
            c.snapshot_entries = Some(20);
            c.keep_entries = 3;
        };
        let cluster = Cluster::new(3, config(change)).await;
        cluster.network.rage(seed, 10, 10, 25, 100);
        let mut clients = Vec::new();
        for client in 0..3u64 {
            let node = cluster.nodes[&(client + 1)].clone();
            clients.push(tokio::spawn(async move {
                let session = loop {
                    match node.session().await {
                        Ok(session) => break std::sync::Arc::new(session),
                        Err(_) => tokio::time::sleep(SECOND / 10).await,
                    }
                };
                let mut writes = Vec::new();
                for i in 0..40 {
                    let (id, session) = (client * 100 + i, session.clone());
                    writes.push(tokio::spawn(async move { (id, session.write(id).await) }));
                    tokio::time::sleep(SECOND / 20).await;
                }
                let mut positions = Vec::new();
                for write in writes {
                    let (id, position) = write.await.unwrap();
                    positions.push((id, position.unwrap()));
                }
                positions
            }));
        }
        let mut rng = Rng::new(seed);
        for _ in 0..4 {
            tokio::time::sleep(SECOND).await;
            let leads = |m: quorate::Metrics| m.role == RoleKind::Leader;
            let leader = cluster.nodes.values().find(|node| leads(node.metrics()));
            let victim = leader.map_or(1 + rng.below(3), |node| node.id());
            cluster.network.inner.isolate(victim);
            tokio::time::sleep(2 * SECOND).await;
            cluster.network.inner.heal();
        }
        cluster.network.calm();
        let mut positions = Vec::new();
        for client in clients {
            positions.extend(client.await.unwrap());
        }
        cluster.settle().await;
        let ledger = cluster.ledger().await;
        assert_eq!(ledger.len(), 120, "seed {seed}: each once");
        for (id, position) in positions {
            assert_eq!(ledger[position as usize - 1], id, "seed {seed}: the response of then");
        }
        cluster.shutdown().await;
    }
}
