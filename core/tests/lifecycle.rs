//! A node from its start to its end: nothing is left behind, nobody waits in vain.

mod common;

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use common::*;
use quorate::testing::Counter;
use quorate::{
    Committed, Event, Failure, Host, InitializeError, Lane, Postcard, Raft, ReadError, RoleKind,
    Snapshot, StateMachine, WriteError,
};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Tells, by its weak count, whether it is still there.
struct Witness(#[allow(dead_code, reason = "held")] Arc<()>);

impl Witness {
    fn new() -> (Self, Weak<()>) {
        let alive = Arc::new(());
        let seen = Arc::downgrade(&alive);
        (Self(alive), seen)
    }
}

#[async_trait]
impl StateMachine for Witness {
    type Command = u64;
    type Response = u64;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<u64>>) -> Result<Vec<u64>, Failure> {
        Ok(entries.into_iter().map(|entry| entry.command).collect())
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        Ok(Snapshot::from_bytes(""))
    }

    async fn restore(&mut self, _: Snapshot) -> Result<(), Failure> {
        Ok(())
    }
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_leaves_no_task_and_no_state() {
    let before = tasks();
    let cluster = Cluster::new(3, config(|_| {})).await;
    cluster.nodes[&2].write(1).await.unwrap();
    assert!(tasks() >= before + 6);
    for node in cluster.nodes.values() {
        node.shutdown().await;
    }
    assert_eq!(tasks(), before);
    let (machine, alive) = Witness::new();
    let raft = Raft::builder(1, machine).in_memory().start().await.unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    raft.write(1).await.unwrap();
    assert!(alive.upgrade().is_some());
    raft.shutdown().await;
    assert!(alive.upgrade().is_none());
    assert_eq!(tasks(), before);
}

#[tokio::test]
async fn the_directory_is_free_after_a_shutdown_while_handles_are_around() {
    let dir = tempfile::tempdir().unwrap();
    let mut handles = Vec::new();
    for n in 0..3 {
        let raft = Raft::builder(1, Counter::default())
            .data_dir(dir.path())
            .listen("127.0.0.1:0")
            .start()
            .await
            .unwrap();
        raft.initialize([(1, "x")]).await.unwrap();
        assert_eq!(raft.write(1).await.unwrap(), n + 1);
        raft.shutdown().await;
        handles.push(raft);
    }
}

/// Nobody waits for its end, so the test polls for it.
#[tokio::test]
async fn dropping_the_last_handle_stops_the_node_and_frees_directory_and_port() {
    let dir = tempfile::tempdir().unwrap();
    let mut address = "127.0.0.1:0".to_owned();
    for n in 1..=3 {
        let before = tasks();
        let (machine, alive) = Witness::new();
        let raft = loop {
            let builder = Raft::builder(1, Witness(machine.0.clone()));
            match builder.data_dir(dir.path()).listen(&address).start().await {
                Ok(raft) => break raft,
                Err(error) => {
                    let text = error.to_string();
                    assert!(n > 1, "{text}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        drop(machine);
        address = raft.address().to_owned();
        raft.initialize([(1, "x")]).await.unwrap();
        raft.write(1).await.unwrap();
        let clone = raft.clone();
        drop(raft);
        clone.write(2).await.unwrap();
        assert!(alive.upgrade().is_some());
        let mut events = clone.events();
        drop(clone);
        while events.next().await.is_some() {}
        eventually("the state machine to go", || alive.upgrade().is_none()).await;
        eventually("the tasks to end", || tasks() == before).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_may_be_called_at_the_same_time_again_and_given_up() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let node = cluster.nodes[&1].clone();
    let given_up = tokio::time::timeout(Duration::ZERO, node.shutdown()).await;
    drop(given_up);
    let (a, b) = (node.clone(), node.clone());
    tokio::join!(a.shutdown(), b.shutdown(), node.shutdown());
    node.shutdown().await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_shutdown_every_call_says_stopped_at_once() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let node = cluster.nodes[&leader].clone();
    node.write(1).await.unwrap();
    node.shutdown().await;
    let began = Instant::now();
    assert!(matches!(node.write(1).await.unwrap_err(), WriteError::Stopped));
    assert!(matches!(node.write_many([1, 2]).await.unwrap_err(), WriteError::Stopped));
    assert!(matches!(node.read(|_| ()).await.unwrap_err(), ReadError::Stopped));
    assert!(matches!(
        node.read_with(quorate::ReadMode::Stale, |_| ()).await.unwrap_err(),
        ReadError::Stopped
    ));
    assert!(matches!(node.ensure_linearizable().await.unwrap_err(), ReadError::Stopped));
    let again = node.initialize(members(1..=3)).await;
    assert!(matches!(again.unwrap_err(), InitializeError::Stopped));
    assert!(node.wait(PATIENCE).applied(1000).await.is_err());
    assert!(node.wait(PATIENCE).leader().await.is_err());
    assert!(node.events().next().await.is_none());
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    let m = node.metrics();
    assert_eq!((m.leader, m.healthy, m.fatal), (None, false, None));
    // It has handed over, and may have the next leader's no-op already.
    assert!(m.applied > 0 && m.applied <= m.last, "where things stand can still be seen");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_at_a_shutdown_is_told() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let follower = cluster.others(leader)[0];
    // Entries don't arrive: nothing is committed.
    cluster.network.only(|lane, _| lane != Lane::Entries);
    let appended = spawn_write(&cluster.nodes[&leader], 1);
    let forwarded = spawn_write(&cluster.nodes[&follower], 2);
    let before = cluster.nodes[&leader].metrics().last;
    let both = move |m: &quorate::Metrics| m.last >= before + 2;
    cluster.nodes[&leader].wait(PATIENCE).until("both", both).await.unwrap();
    let node = cluster.nodes[&follower].clone();
    let waiting = tokio::spawn(async move { node.wait(PATIENCE).applied(1000).await });
    tokio::task::yield_now().await;
    let began = Instant::now();
    cluster.nodes[&leader].shutdown().await;
    assert!(matches!(appended.await.unwrap().unwrap_err(), WriteError::Unknown));
    cluster.nodes[&follower].shutdown().await;
    assert!(matches!(forwarded.await.unwrap().unwrap_err(), WriteError::Unknown));
    assert!(waiting.await.unwrap().is_err());
    // Nobody could take over without the entries, so the leader has waited for that in vain.
    assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
    // Parked: certainly not done.
    let last = &cluster.nodes[&cluster.others(leader)[1]];
    last.wait(PATIENCE).until("no leader", |m| m.leader.is_none()).await.unwrap();
    let parked = spawn_write(last, 3);
    let reader = last.clone();
    let read = tokio::spawn(async move { reader.read(|_| ()).await });
    tokio::time::sleep(SECOND / 10).await;
    last.shutdown().await;
    assert!(matches!(parked.await.unwrap().unwrap_err(), WriteError::Stopped));
    assert!(matches!(read.await.unwrap().unwrap_err(), ReadError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn events_tell_role_membership_and_the_end() {
    let mut cluster = Cluster::empty(config(|_| {}));
    cluster.start(1).await;
    let node = cluster.nodes[&1].clone();
    let mut events = node.events();
    node.initialize(members([1])).await.unwrap();
    node.wait(PATIENCE).role(RoleKind::Leader).await.unwrap();
    node.shutdown().await;
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(event);
    }
    assert!(matches!(&seen[0], Event::Membership(m) if m.voters().contains(&1)), "{seen:?}");
    let elected = |event: &Event| {
        matches!(event, Event::Role { role: RoleKind::Leader, term: 1, leader: Some(1) })
    };
    assert!(seen.iter().any(elected), "{seen:?}");
    assert!(matches!(seen.last(), Some(Event::Stopped { fatal: None })), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_tells_what_it_waited_for_and_what_it_saw() {
    let cluster = Cluster::new(1, config(|_| {})).await;
    let node = &cluster.nodes[&1];
    let began = Instant::now();
    let error = node.wait(3 * SECOND).until("the moon", |_| false).await.unwrap_err();
    assert_eq!(began.elapsed(), 3 * SECOND);
    let text = error.to_string();
    assert!(text.starts_with("waited 3s for the moon; last seen: node 1 leader term 1"), "{text}");
    let writer = node.clone();
    let last = node.metrics().last;
    let (metrics, written) = tokio::join!(node.wait(PATIENCE).applied(last + 1), writer.write(1));
    written.unwrap();
    assert_eq!(metrics.unwrap().applied, last + 1);
    assert_eq!(node.wait(PATIENCE).leader().await.unwrap(), 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn metrics_say_where_things_stand() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    for n in 0..10 {
        cluster.nodes[&leader].write(n).await.unwrap();
    }
    let last = cluster.nodes[&leader].metrics().last;
    for (id, node) in &cluster.nodes {
        let level = move |m: &quorate::Metrics| {
            m.applied == last && m.committed == last && m.persisted == last && m.healthy
        };
        let m = node.wait(PATIENCE).until("level", level).await.unwrap();
        assert_eq!((m.id, m.group, m.leader, m.last), (*id, 1, Some(leader), last));
        assert_eq!(m.role == RoleKind::Leader, *id == leader);
        assert_eq!(m.membership.unwrap().voters().len(), 3);
        assert!(m.tail_bytes > 0 && m.fatal.is_none() && m.term > 0);
        if *id != leader {
            assert!(m.matched.is_empty());
        }
    }
    let matched = move |m: &quorate::Metrics| {
        m.matched.len() == 2 && m.matched.values().all(|index| *index == last)
    };
    cluster.nodes[&leader].wait(PATIENCE).until("matched", matched).await.unwrap();
    cluster.network.inner.isolate(leader);
    let node = &cluster.nodes[&leader];
    let gone = |m: &quorate::Metrics| m.leader.is_none() && m.matched.is_empty() && !m.healthy;
    node.wait(PATIENCE).until("deposed", gone).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn groups_of_a_host_share_a_directory_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=2 {
        let host = Host::builder(1).data_dir(dir.path()).start().await.unwrap();
        let mut groups = Vec::new();
        for id in 1..=20 {
            groups.push(host.group(id, Counter::default()).start().await.unwrap());
        }
        for (group, id) in groups.iter().zip(1..) {
            group.initialize([(1, "")]).await.unwrap();
            assert_eq!(group.write(id).await.unwrap(), id * round);
        }
        // One stops, the others go on.
        groups[0].shutdown().await;
        assert!(matches!(groups[0].write(1).await.unwrap_err(), WriteError::Stopped));
        assert_eq!(groups[1].read(|c| c.total).await.unwrap(), 2 * round);
        for group in &groups {
            group.shutdown().await;
        }
        host.shutdown().await;
    }
}
