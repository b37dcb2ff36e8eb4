//! Processes that die and pause under load: every acknowledged write is there, on every node.

use kv::process::Signal;

use crate::support::{Cluster, Load, eventually};

/// Enough to have the log, the followers and the store busy when it happens.
const SOME: usize = 300;

#[tokio::test]
async fn the_leader_is_killed_under_load() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    load.goes_on(SOME).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    cluster.leader_among(&cluster.others(leader)).await;
    load.goes_on(SOME).await;
    cluster.up(leader);
    load.goes_on(SOME).await;
    // And once more, now that the first has caught up.
    cluster.healthy(&[leader]).await;
    let again = cluster.leader().await;
    cluster.kill(again);
    load.goes_on(SOME).await;
    cluster.up(again);
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_follower_is_killed_under_load() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    load.goes_on(SOME).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0];
    cluster.kill(follower);
    load.goes_on(SOME).await;
    cluster.up(follower);
    load.goes_on(SOME).await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn the_leader_is_paused_under_load() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    load.goes_on(SOME).await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.expect("it answers").term;
    cluster.signal(leader, Signal::STOP);
    cluster.leader_among(&cluster.others(leader)).await;
    load.goes_on(SOME).await;
    cluster.signal(leader, Signal::CONT);
    // It wakes up in the belief that it leads, and must learn better before it answers anything.
    eventually("the old leader to follow", async || {
        let status = cluster.status(leader).await?;
        (status.term > term && status.role == "follower").then_some(())
    })
    .await;
    load.goes_on(SOME).await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn all_three_are_killed_at_once_and_restarted() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    for _ in 0..2 {
        load.goes_on(SOME).await;
        for id in cluster.ids() {
            cluster.signal(id, Signal::KILL);
        }
        for id in cluster.ids() {
            cluster.kill(id);
        }
        cluster.up_all();
        cluster.all_healthy().await;
    }
    load.goes_on(SOME).await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_node_ends_with_its_parent() {
    let mut cluster = Cluster::start(1).await;
    // What closes when the parent is gone, however it went.
    let node = cluster.nodes.get_mut(&1).expect("it runs");
    node.close_stdin();
    let status = node.wait(crate::support::PATIENCE).await.unwrap().expect("it stops");
    assert!(status.success(), "{status}");
    cluster.nodes.clear();
    cluster.end().await;
}
