//! Changes of membership and of leadership on real nodes, asked for at any of them.

mod common;

use std::future::IntoFuture as _;
use std::time::Duration;

use common::*;
use quorate::{ChangeError, Event, Metrics, NodeId, RoleKind, TransferError};

const SECOND: Duration = Duration::from_secs(1);

/// A node that is no member of anything yet.
async fn start_blank(cluster: &mut Cluster, id: NodeId) -> String {
    cluster.start(id).await;
    format!("node-{id}")
}

fn voters(cluster: &Cluster, at: NodeId) -> Vec<NodeId> {
    let metrics = cluster.nodes[&at].metrics();
    metrics.membership.unwrap().voters().iter().copied().collect()
}

async fn agree_on_voters(cluster: &Cluster, expected: &[NodeId]) {
    for id in expected {
        let expected = expected.to_vec();
        cluster.nodes[id]
            .wait(PATIENCE)
            .until(format!("voters {expected:?}"), move |m| {
                let members = m.membership.as_ref();
                let same = members.is_some_and(|m| m.voters().iter().eq(expected.iter()));
                same && !m.changing && m.applied >= m.configured_at.index
            })
            .await
            .unwrap();
    }
}

/// Grows from one to five and shrinks to three, through whichever node, while writes go on.
#[tokio::test(start_paused = true)]
async fn a_cluster_grows_and_shrinks_under_load() {
    let mut cluster = Cluster::new(1, config(|_| {})).await;
    let writer = {
        let node = cluster.nodes[&1].clone();
        tokio::spawn(async move {
            let mut written = Vec::new();
            for n in 0..400 {
                node.write(n).await.unwrap();
                written.push(n);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            written
        })
    };
    for id in 2..=5 {
        let address = start_blank(&mut cluster, id).await;
        // Through the newest node that is a member.
        let mut reports = 0;
        let members =
            cluster.nodes[&(id - 1)].add_voter(id, address).progress(|_| reports += 1).await;
        assert!(members.unwrap().voters().contains(&id));
    }
    agree_on_voters(&cluster, &[1, 2, 3, 4, 5]).await;
    let leader = cluster.settle().await;
    let leaving: Vec<NodeId> = cluster.others(leader).into_iter().filter(|id| *id > 1).collect();
    for id in &leaving[..2] {
        let members = cluster.nodes[&1].remove(*id).await.unwrap();
        assert!(members.member(*id).is_none());
    }
    let written = writer.await.unwrap();
    for id in &leaving[..2] {
        cluster.nodes[id]
            .wait(PATIENCE)
            .until("word of its removal", |m| m.removed.is_some())
            .await
            .unwrap();
        cluster.stop(*id).await;
    }
    assert_eq!(cluster.ledger().await, written);
    cluster.shutdown().await;
}

/// Hazard: the removed leader goes before the final configuration commits.
#[tokio::test(start_paused = true)]
async fn a_leader_removes_itself_and_hands_over() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    let mut events = cluster.nodes[&leader].events();
    let term = cluster.nodes[&leader].metrics().term;
    let members = cluster.nodes[&others[0]].remove(leader).await.unwrap();
    assert_eq!(members.voters().iter().copied().collect::<Vec<_>>(), others);
    let next = cluster.leader_among(&others).await;
    assert_eq!(cluster.nodes[&next].metrics().term, term + 1, "handed over, not fought for");
    loop {
        match events.next().await.unwrap() {
            Event::Removed { .. } => break,
            _ => continue,
        }
    }
    cluster.nodes[&others[0]].write(1).await.unwrap();
    cluster.stop(leader).await;
    assert_eq!(cluster.ledger().await, [1]);
    cluster.shutdown().await;
}

/// A dead member is replaced; the one in its place has the whole log.
#[tokio::test(start_paused = true)]
async fn a_dead_member_is_replaced() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let dead = cluster.others(leader)[0];
    cluster.nodes[&leader].write(1).await.unwrap();
    cluster.stop(dead).await;
    let address = start_blank(&mut cluster, 4).await;
    cluster.nodes[&leader].replace(dead, 4, address).await.unwrap();
    let mut expected = cluster.others(dead);
    expected.sort_unstable();
    agree_on_voters(&cluster, &expected).await;
    cluster.nodes[&4].write(2).await.unwrap();
    assert_eq!(cluster.ledger().await, [1, 2]);
    cluster.shutdown().await;
}

/// A wiped disk comes back: its old self is removed, then it joins like a new node.
#[tokio::test(start_paused = true)]
async fn a_wiped_disk_has_a_way_back() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let wiped = cluster.others(leader)[0];
    cluster.nodes[&leader].write(1).await.unwrap();
    cluster.stop(wiped).await;
    cluster.disks.remove(&wiped);
    cluster.nodes[&leader].remove(wiped).await.unwrap();
    let address = start_blank(&mut cluster, wiped).await;
    cluster.nodes[&leader].add_voter(wiped, address).await.unwrap();
    agree_on_voters(&cluster, &[1, 2, 3]).await;
    assert_eq!(cluster.ledger().await, [1]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn roles_and_addresses_change() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let address = start_blank(&mut cluster, 4).await;
    let node = cluster.nodes[&2].clone();
    let members = node.add_learner(4, address.clone()).await.unwrap();
    assert!(members.learners().contains(&4) && !members.is_voter(4));
    // The leader ties it to its disk as soon as it hears it: one more configuration.
    let tied = |m: &Metrics| {
        let member = m.membership.as_ref().and_then(|members| members.member(4));
        member.is_some_and(|member| member.incarnation != 0)
    };
    let members = node.wait(PATIENCE).until("a tie", tied).await.unwrap().membership.unwrap();
    assert_eq!(node.add_learner(4, address).await.unwrap(), members, "the same once more");
    cluster.nodes[&4].wait(PATIENCE).role(RoleKind::Learner).await.unwrap();
    assert!(node.promote(4).await.unwrap().is_voter(4));
    assert!(!node.demote(4).await.unwrap().is_voter(4));
    let members = node.set_voters([2, 3, 4]).await.unwrap();
    assert_eq!(members.voters().iter().copied().collect::<Vec<_>>(), [2, 3, 4]);
    assert!(members.learners().contains(&1));
    let members = node.set_address(3, "elsewhere").await.unwrap();
    assert_eq!(members.member(3).unwrap().address, "elsewhere");
    node.write(1).await.unwrap();
    assert_eq!(cluster.ledger().await, [1]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_is_told() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let node = cluster.nodes[&cluster.others(leader)[0]].clone();
    assert!(matches!(node.remove(9).await, Err(ChangeError::UnknownMember(9))));
    assert!(matches!(node.promote(9).await, Err(ChangeError::UnknownMember(9))));
    assert!(matches!(node.set_voters([1, 9]).await, Err(ChangeError::UnknownMember(9))));
    assert!(matches!(node.set_voters([]).await, Err(ChangeError::Refused(_))));
    assert!(matches!(node.add_learner(2, "elsewhere").await, Err(ChangeError::Refused(_))));
    // Nobody runs there: it never catches up.
    let late = node.add_voter(9, "nowhere").timeout(5 * SECOND).await;
    assert!(matches!(late, Err(ChangeError::NotCaughtUp)), "{late:?}");
    assert!(cluster.nodes[&leader].metrics().membership.unwrap().learners().contains(&9));
    node.remove(9).await.unwrap();
    // Compare and set.
    let seen = node.metrics().configured_at;
    let address = start_blank(&mut cluster, 4).await;
    node.add_learner(4, address).await.unwrap();
    let stale = node.remove(4).expecting(seen).await;
    assert!(matches!(stale, Err(ChangeError::Changed)), "{stale:?}");
    let at = cluster.nodes[&leader].metrics().configured_at;
    node.remove(4).expecting(at).await.unwrap();
    cluster.shutdown().await;
}

/// Learners do not wait for each other: each order is done when its own node is one.
#[tokio::test(start_paused = true)]
async fn two_learners_are_added_at_once() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let (four, five) = (start_blank(&mut cluster, 4).await, start_blank(&mut cluster, 5).await);
    let node = &cluster.nodes[&leader];
    let began = tokio::time::Instant::now();
    let (first, second) = tokio::join!(
        node.add_learner(4, four).into_future(),
        node.add_learner(5, five).into_future()
    );
    assert!(first.unwrap().learners().contains(&4) && second.unwrap().learners().contains(&5));
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    cluster.shutdown().await;
}

/// Who is lost is not taken for one that is behind.
#[tokio::test(start_paused = true)]
async fn without_a_quorum_no_change_is_confirmed() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    for id in cluster.others(leader) {
        cluster.stop(id).await;
    }
    let demoted = cluster.nodes[&leader].demote(leader).timeout(2 * SECOND).await;
    assert!(matches!(demoted, Err(ChangeError::NoLeader)), "{demoted:?}");
    cluster.shutdown().await;
}

/// One change at a time: the second is told so, and nothing of it is done.
#[tokio::test(start_paused = true)]
async fn a_second_change_is_turned_down() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    // The others do not answer, so that the first change hangs.
    others.iter().for_each(|id| cluster.network.inner.cut(*id, leader));
    let node = cluster.nodes[&leader].clone();
    let id = others[0];
    let first = tokio::spawn(async move { node.demote(id).timeout(20 * SECOND).await });
    cluster.nodes[&leader].wait(PATIENCE).until("a change", |m| m.changing).await.unwrap();
    let second = cluster.nodes[&leader].demote(others[1]).await;
    assert!(matches!(second, Err(ChangeError::InProgress)), "{second:?}");
    cluster.network.calm();
    first.await.unwrap().unwrap();
    assert_eq!(voters(&cluster, leader).len(), 2);
    cluster.shutdown().await;
}

// ---- transfer ----

#[tokio::test(start_paused = true)]
async fn every_node_leads_in_turn_while_writes_go_on() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    cluster.settle().await;
    for round in 0..3 {
        for to in 1..=3 {
            // Asked for at another node than the one that leads.
            let at = 1 + (to + round) % 3;
            let leader = cluster.nodes[&at].transfer_leadership(Some(to), 5 * SECOND).await;
            assert_eq!(leader.unwrap(), to);
            cluster.nodes[&at].write(round * 10 + to).await.unwrap();
        }
    }
    let led = cluster.nodes[&1].transfer_leadership(None, 5 * SECOND).await.unwrap();
    assert_eq!(cluster.settle().await, led);
    assert_eq!(cluster.ledger().await.len(), 9);
    cluster.shutdown().await;
}

/// Hazard: the target is dead. The leader resumes by itself, and writes wait no longer than that.
#[tokio::test(start_paused = true)]
async fn a_transfer_to_a_dead_node_is_given_up() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let dead = cluster.others(leader)[0];
    cluster.stop(dead).await;
    let node = cluster.nodes[&leader].clone();
    let waiting = tokio::spawn({
        let node = node.clone();
        async move { node.transfer_leadership(Some(dead), 2 * SECOND).await }
    });
    tokio::time::sleep(SECOND).await;
    let began = tokio::time::Instant::now();
    node.write(1).await.unwrap();
    assert!(began.elapsed() < 2 * SECOND);
    assert!(matches!(waiting.await.unwrap(), Err(TransferError::Timeout)));
    assert_eq!(node.metrics().role, RoleKind::Leader);
    let stranger = node.transfer_leadership(Some(9), SECOND).await;
    assert!(matches!(stranger, Err(TransferError::Refused(_))), "{stranger:?}");
    cluster.shutdown().await;
}

/// A leader that is shut down hands over first: nobody waits for an election timeout.
#[tokio::test(start_paused = true)]
async fn a_shutdown_hands_over() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let term = cluster.nodes[&leader].metrics().term;
    let began = tokio::time::Instant::now();
    // It stays on the network until it is down.
    cluster.nodes.remove(&leader).unwrap().shutdown().await;
    let ids = cluster.ids();
    let next = cluster.leader_among(&ids).await;
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!(cluster.nodes[&next].metrics().term, term + 1);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_preferred_node_is_handed_the_leadership() {
    let mut cluster = Cluster::empty(config(|_| {}));
    cluster.start(1).await;
    cluster.start(2).await;
    cluster.config.priority = 5;
    cluster.start(3).await;
    cluster.nodes[&1].initialize(members(1..=3)).await.unwrap();
    cluster.settle().await;
    cluster.nodes[&3].wait(PATIENCE).role(RoleKind::Leader).await.unwrap();
    cluster.nodes[&1].write(1).await.unwrap();
    cluster.shutdown().await;
}

/// Campaigning by hand finds a leader sooner than waiting, and deposes nobody who is heard.
#[tokio::test(start_paused = true)]
async fn campaigns_by_hand() {
    let mut cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    cluster.nodes[&others[0]].trigger().campaign();
    tokio::time::sleep(SECOND).await;
    assert_eq!(cluster.settle().await, leader);
    cluster.network.inner.leave(leader);
    others.iter().for_each(|id| cluster.nodes[id].trigger().forget_leader());
    let began = tokio::time::Instant::now();
    cluster.leader_among(&others).await;
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    cluster.stop(leader).await;
    cluster.shutdown().await;
}
