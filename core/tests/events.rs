//! What a node tells of its own accord.

mod common;

use std::time::Duration;

use common::*;
use quorate::{Event, Events};

/// The next event that `wanted` has something to say of.
async fn next<T>(events: &mut Events, what: &str, wanted: impl Fn(Event) -> Option<T>) -> T {
    let found = async {
        loop {
            let event = events.next().await.unwrap_or_else(|| panic!("it stopped before {what}"));
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

#[tokio::test(start_paused = true)]
async fn a_leader_tells_who_is_silent_and_who_returned() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let far = cluster.others(leader)[0];
    let mut events = cluster.nodes[&leader].events();
    cluster.network.inner.cut(leader, far);
    cluster.network.inner.cut(far, leader);
    let silent = next(&mut events, "silence", |event| match event {
        Event::PeerSilent { peer } => Some(peer),
        Event::PeerReturned { peer } => panic!("{peer} was not away"),
        _ => None,
    });
    assert_eq!(silent.await, far);
    cluster.network.calm();
    let returned = next(&mut events, "the return", |event| match event {
        Event::PeerReturned { peer } => Some(peer),
        Event::PeerSilent { peer } => panic!("{peer} is silent"),
        _ => None,
    });
    assert_eq!(returned.await, far);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_voters_begins_and_is_over() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let demoted = cluster.others(leader)[0];
    let mut events = cluster.nodes[&leader].events();
    cluster.nodes[&leader].demote(demoted).await.unwrap();
    let begun = next(&mut events, "a beginning", |event| match event {
        Event::ChangeBegun { at } => Some(at),
        Event::ChangeFinished { .. } => panic!("over before it began"),
        _ => None,
    });
    let begun = begun.await;
    let finished = next(&mut events, "the end", |event| match event {
        Event::ChangeFinished { at } => Some(at),
        _ => None,
    });
    assert!(finished.await > begun);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_are_told_of_where_they_are_built_and_where_they_arrive() {
    let mut cluster = Cluster::new(3, config(|c| c.keep_entries = 0)).await;
    let leader = cluster.settle().await;
    let late = cluster.others(leader)[0];
    cluster.stop(late).await;
    cluster.nodes[&leader].write(1).await.unwrap();
    let mut events = cluster.nodes[&leader].events();
    cluster.machines[&leader].inject(Fault::SnapshotFails);
    cluster.nodes[&leader].trigger().snapshot().await.unwrap_err();
    let why = next(&mut events, "a failure", |event| match event {
        Event::SnapshotFailed { why } => Some(why),
        _ => None,
    });
    assert!(why.await.contains("told to fail"));
    cluster.machines[&leader].open_gate();
    let info = cluster.nodes[&leader].trigger().snapshot().await.unwrap();
    let built = next(&mut events, "a snapshot", |event| match event {
        Event::SnapshotBuilt { last, bytes } => Some((last, bytes)),
        _ => None,
    });
    assert_eq!(built.await, (info.meta.last, info.bytes));
    let compacted = |m: &quorate::Metrics| m.compacted > 0;
    cluster.nodes[&leader].wait(PATIENCE).until("compaction", compacted).await.unwrap();

    cluster.start(late).await;
    let mut events = cluster.nodes[&late].events();
    let received = next(&mut events, "its arrival", |event| match event {
        Event::SnapshotReceived { from, last, bytes } => Some((from, last, bytes)),
        _ => None,
    });
    assert_eq!(received.await, (leader, info.meta.last, info.bytes));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_comes_to_nothing_is_told() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let deaf = cluster.others(leader)[0];
    let mut events = cluster.nodes[&leader].events();
    cluster.network.inner.cut(leader, deaf);
    let timeout = Duration::from_millis(500);
    cluster.nodes[&leader].transfer_leadership(Some(deaf), timeout).await.unwrap_err();
    let to = next(&mut events, "the end of the transfer", |event| match event {
        Event::TransferEnded { to } => Some(to),
        _ => None,
    });
    assert_eq!(to.await, deaf);
    cluster.network.calm();
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn overload_begins_once_and_ends_when_it_is_over() {
    let cluster = Cluster::new(3, config(|c| c.queue_bytes = 300)).await;
    let leader = cluster.settle().await;
    let node = &cluster.nodes[&leader];
    let mut events = node.events();
    cluster.machines[&leader].inject(Fault::Gate);
    for id in cluster.ids() {
        cluster.network.inner.isolate(id);
    }
    eventually("a leader that has stepped down", || node.metrics().leader.is_none()).await;
    // They wait for a leader, until there is no more room.
    let writes: Vec<_> = (0..20).map(|id| spawn_write(node, id)).collect();
    next(&mut events, "overload", |e| matches!(e, Event::Overloaded).then_some(())).await;
    next(&mut events, "its end", |event| match event {
        Event::OverloadEnded => Some(()),
        Event::Overloaded => panic!("it began already"),
        _ => None,
    })
    .await;
    cluster.network.calm();
    cluster.machines[&leader].open_gate();
    for write in writes {
        drop(write.await.unwrap());
    }
    cluster.shutdown().await;
}
