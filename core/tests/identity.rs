//! Who belongs to whom: bootstrap, blank nodes, wiped disks, other clusters, numbers that no peer
//! sends.

mod common;

use std::time::Duration;

use common::*;
use quorate::{
    Envelope, InitializeError, LogId, MemoryDisk, Metrics, ReadError, RoleKind, WriteError,
};
use quorate_engine::message::{
    AppendEntries, AppendEntriesAnswer, Heartbeat, HeartbeatAnswer, Introduce, Introduced,
    ReadIndex, ReadIndexAnswer, RequestVote, RequestVoteAnswer, Stranger,
};
use quorate_engine::{Batch, EntryBlock, Membership, Message as Raft};
use quorate_network::{Forward, ForwardAnswer, ForwardOutcome, ForwardWrite, Forwarded, Message};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn to_initialize_again_is_harmless_with_the_same_members_and_refused_with_others() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    cluster.nodes[&1].write(1).await.unwrap();
    for node in cluster.nodes.values() {
        node.initialize(members(1..=3)).await.unwrap();
        let mut reversed = members(1..=3);
        reversed.reverse();
        node.initialize(reversed).await.unwrap();
        let mut moved = members(1..=3);
        moved[2].1 = "elsewhere".into();
        for other in [members(1..=2), members(1..=4), members([node.id()]), moved] {
            let error = node.initialize(other).await.unwrap_err();
            assert!(matches!(error, InitializeError::OtherCluster), "{error}");
        }
    }
    assert_eq!(cluster.ledger().await, [1]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn all_may_initialize_at_the_same_time() {
    let mut cluster = Cluster::empty(config(|_| {}));
    for id in 1..=3 {
        cluster.start(id).await;
    }
    let [a, b, c] = [1, 2, 3].map(|id| cluster.nodes[&id].clone());
    let all = || members(1..=3);
    let (x, y, z, again) = tokio::join!(
        a.initialize(all()),
        b.initialize(all()),
        c.initialize(all()),
        a.initialize(all())
    );
    assert!([x, y, z, again].iter().all(Result::is_ok));
    cluster.settle().await;
    cluster.nodes[&2].write(7).await.unwrap();
    assert_eq!(cluster.ledger().await, [7]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn members_that_make_no_membership_are_refused() {
    let mut cluster = Cluster::empty(config(|_| {}));
    cluster.start(1).await;
    let node = cluster.nodes[&1].clone();
    let twice = [members([1]), members([1])].concat();
    for bad in [members([]), members([2, 3]), members([0, 1]), twice] {
        let error = node.initialize(bad.clone()).await.unwrap_err();
        assert!(matches!(error, InitializeError::Members(_)), "{bad:?}: {error}");
    }
    assert_eq!(node.metrics().last, 0);
    node.initialize(members([1])).await.unwrap();
    node.write(1).await.unwrap();
    node.shutdown().await;
    assert!(matches!(node.initialize(members([1])).await.unwrap_err(), InitializeError::Stopped));
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_blank_node_waits_and_serves_nobody() {
    let mut cluster = Cluster::empty(config(|_| {}));
    cluster.start(1).await;
    let node = cluster.nodes[&1].clone();
    tokio::time::sleep(100 * SECOND).await;
    let m = node.metrics();
    assert_eq!((m.role, m.term, m.leader, m.last), (RoleKind::Follower, 0, None, 0));
    assert!(!m.healthy);
    assert!(matches!(node.write(1).await.unwrap_err(), WriteError::Timeout));
    assert!(matches!(node.read(|_| ()).await.unwrap_err(), ReadError::Timeout));
    assert_eq!(node.read_with(quorate::ReadMode::Stale, |l| l.ids.len()).await.unwrap(), 0);
    cluster.shutdown().await;
}

/// A member that was down at the bootstrap is waited for only until enough others are known.
#[tokio::test(start_paused = true)]
async fn a_blank_member_joins_when_it_is_contacted() {
    let mut cluster = Cluster::empty(config(|_| {}));
    for id in 1..=4 {
        cluster.start(id).await;
    }
    cluster.nodes[&1].initialize(members(1..=5)).await.unwrap();
    cluster.settle_but(5).await;
    for n in 0..100 {
        cluster.nodes[&(n % 4 + 1)].write(n).await.unwrap();
    }
    cluster.start(5).await;
    cluster.settle().await;
    assert_eq!(cluster.ledger().await.len(), 100);
    cluster.nodes[&5].write(100).await.unwrap();
    cluster.shutdown().await;
}

/// Hazard: a wiped disk rejoins under its old id and votes. Commit on {1,2,3} of 5, wipe one of
/// them, stop another: the two that were away can't elect with it.
#[tokio::test(start_paused = true)]
async fn a_wiped_node_is_refused_and_does_not_vote() {
    let mut cluster = Cluster::new(5, config(|c| c.write_timeout = 20 * SECOND)).await;
    let leader = cluster.settle().await;
    let others = cluster.others(leader);
    let (wiped, third, away) = (others[0], others[1], [others[2], others[3]]);
    cluster.network.inner.partition(&[leader, wiped, third], &away);
    cluster.nodes[&leader].write(7).await.unwrap();
    // Wiped, and the leader and the third gone.
    cluster.stop(wiped).await;
    cluster.stop(leader).await;
    cluster.disks.insert(wiped, MemoryDisk::new());
    cluster.network.inner.isolate(third);
    cluster.network.calm();
    cluster.network.inner.isolate(third);
    cluster.start(wiped).await;
    let elected = |m: &Metrics| m.role == RoleKind::Leader;
    for id in away {
        let wait = cluster.nodes[&id].wait(20 * SECOND).until("a leader", elected).await;
        assert!(wait.is_err(), "{wait:?}");
    }
    assert!(!elected(&cluster.nodes[&wiped].metrics()));
    // With the third there is a majority that knows; the wiped node is told what it is.
    cluster.network.calm();
    let m = cluster.nodes[&wiped].wait(PATIENCE).until("fatal", |m| m.fatal.is_some()).await;
    let fatal = m.unwrap().fatal.unwrap();
    assert!(fatal.contains("another data directory"), "{fatal}");
    cluster.stop(wiped).await;
    cluster.start(leader).await;
    cluster.nodes[&third].write(8).await.unwrap();
    assert_eq!(cluster.ledger().await, [7, 8]);
    cluster.shutdown().await;
}

/// Every message there is, with numbers that no peer sends, of this cluster and of another, from
/// members and strangers, in this node's own name, and for somebody else.
fn nonsense(cluster: u64) -> Vec<Message> {
    let max = u64::MAX;
    let id = LogId::new(max, max);
    let membership = Membership::of_voters([(1, "x"), (9, "y")]).unwrap();
    let mut batch = Batch::new(1);
    batch.push(&[0xff; 30]);
    let block = batch.seal(LogId::new(cluster % 5, 1));
    let append = |term, prev, blocks| {
        Raft::AppendEntries(AppendEntries {
            term,
            session: max,
            prev,
            blocks,
            commit: max,
            promise: Duration::MAX,
            witness: false,
        })
    };
    let protocol = vec![
        Raft::RequestVote(RequestVote { pre: true, term: max, last: id, transfer: false }),
        Raft::RequestVote(RequestVote { pre: false, term: max, last: id, transfer: false }),
        Raft::RequestVoteAnswer(RequestVoteAnswer { pre: true, term: max, granted: true }),
        Raft::RequestVoteAnswer(RequestVoteAnswer { pre: false, term: max, granted: true }),
        Raft::Heartbeat(Heartbeat {
            term: max,
            session: max,
            round: max,
            commit: max,
            promise: Duration::MAX,
            witness: false,
            refill: id,
        }),
        Raft::HeartbeatAnswer(HeartbeatAnswer {
            term: max,
            session: max,
            round: max,
            accepted: max,
            matched: max,
            promised: Duration::MAX,
            priority: 0,
        }),
        append(max, id, vec![]),
        append(max, LogId::ZERO, vec![block.clone()]),
        append(0, LogId::ZERO, vec![block]),
        append(0, id, vec![]),
        Raft::AppendEntriesAnswer(AppendEntriesAnswer {
            term: max,
            session: max,
            matched: max,
            conflict: None,
        }),
        Raft::AppendEntriesAnswer(AppendEntriesAnswer {
            term: 1,
            session: 1,
            matched: max,
            conflict: Some(id),
        }),
        Raft::ReadIndex(ReadIndex { term: max, context: max, lease: false }),
        Raft::ReadIndexAnswer(ReadIndexAnswer { term: max, context: max, index: Some(max) }),
        Raft::Introduce(Introduce {
            configuration: EntryBlock::configuration(LogId::new(0, 1), &membership),
        }),
        Raft::Introduce(Introduce { configuration: EntryBlock::noop(LogId::new(1, 1)) }),
        Raft::Introduced(Introduced {}),
        Raft::Stranger(Stranger { refused: max }),
    ];
    let mut all: Vec<Message> = protocol.into_iter().map(Message::Raft).collect();
    all.push(Message::Forward(Forward {
        term: max,
        boot: max,
        sequence: max,
        timeout: Duration::MAX,
        codec: u16::MAX,
        writes: vec![ForwardWrite { token: max, commands: vec![], session: None }],
    }));
    let outcome = ForwardOutcome::Applied(vec![]);
    all.push(Message::Forwarded(Forwarded {
        boot: max,
        answers: vec![ForwardAnswer { token: max, outcome }],
    }));
    all
}

/// Hazard: term or index overflow; another cluster's message.
#[tokio::test(start_paused = true)]
async fn messages_that_no_peer_sends_and_those_of_other_clusters_change_nothing() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    cluster.network.record();
    cluster.nodes[&leader].write(1).await.unwrap();
    // Time goes on when nobody has anything to do: all three have the write.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let sample = cluster.network.recorded().pop().unwrap();
    let before: Vec<Metrics> = cluster.nodes.values().map(|n| n.metrics()).collect();
    for id in [sample.cluster, sample.cluster ^ 1, 0] {
        for from in [0, 1, 2, 3, 4, u64::MAX] {
            for message in nonsense(id) {
                for (to, node) in &cluster.nodes {
                    for to in [*to, to + 1, u64::MAX] {
                        for group in [1, 2] {
                            let (message, incarnation) = (message.clone(), sample.incarnation);
                            let cluster = id;
                            let envelope =
                                Envelope { cluster, group, from, to, incarnation, message };
                            node.host().receive(vec![envelope]);
                        }
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tokio::time::sleep(5 * SECOND).await;
    for (node, before) in cluster.nodes.values().zip(before) {
        let now = node.metrics();
        assert_eq!((now.term, now.leader, now.last), (before.term, before.leader, before.last));
        assert_eq!(now.fatal, None);
        assert!(now.healthy, "{now}");
    }
    cluster.nodes[&leader].write(2).await.unwrap();
    assert_eq!(cluster.ledger().await, [1, 2]);
    cluster.shutdown().await;
}

/// The same for a node that belongs to no cluster yet: it may be in a bad one's hands, but it
/// neither panics nor hangs, and joins nobody that names no cluster.
#[tokio::test(start_paused = true)]
async fn a_blank_node_survives_messages_that_no_peer_sends() {
    let mut cluster = Cluster::empty(config(|_| {}));
    cluster.start(1).await;
    let node = cluster.nodes[&1].clone();
    for from in [0, 1, 2, u64::MAX] {
        for message in nonsense(0) {
            let envelope = Envelope { cluster: 0, group: 1, from, to: 1, incarnation: 5, message };
            node.host().receive(vec![envelope]);
        }
        tokio::time::sleep(SECOND).await;
    }
    let m = node.metrics();
    assert_eq!((m.last, m.fatal.clone()), (0, None), "{m}");
    node.initialize(members([1])).await.unwrap();
    node.write(1).await.unwrap();
    cluster.shutdown().await;
}

/// Two clusters whose nodes have the same ids and hear each other.
#[tokio::test(start_paused = true)]
async fn nodes_of_another_cluster_do_not_disturb() {
    let one = Cluster::new(3, config(|_| {})).await;
    let mut two = Cluster::empty(config(|_| {}));
    for id in 1..=3 {
        two.start(id).await;
    }
    two.nodes[&1].initialize(vec![(1, "a"), (2, "b"), (3, "c")]).await.unwrap();
    two.settle().await;
    let terms: Vec<u64> = one.nodes.values().map(|n| n.metrics().term).collect();
    // What the second cluster sends goes to the first as well, and the second has much to say.
    two.network.record();
    for n in 0..20 {
        let leader = two.settle().await;
        two.nodes[&leader].write(n).await.unwrap();
        two.network.inner.isolate(leader);
        let others = two.others(leader);
        two.leader_among(&others).await;
        two.network.calm();
    }
    let heard = two.network.recorded();
    assert!(heard.len() > 200, "{}", heard.len());
    for envelope in heard {
        one.nodes[&envelope.to].host().receive(vec![envelope]);
        tokio::task::yield_now().await;
    }
    one.nodes[&1].write(1).await.unwrap();
    assert_eq!(one.ledger().await, [1]);
    let after: Vec<u64> = one.nodes.values().map(|n| n.metrics().term).collect();
    assert_eq!(after, terms);
    one.shutdown().await;
    two.shutdown().await;
}

/// Strangers that ask are answered, up to a bound: each answer needs a lane of its own.
#[tokio::test(start_paused = true)]
async fn strangers_cost_a_bounded_amount() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    cluster.network.record();
    cluster.nodes[&1].write(1).await.unwrap();
    let sample = cluster.network.recorded().pop().unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for from in 100..5000 {
        let question = ReadIndex { term: 1, context: from, lease: false };
        let message = Message::Raft(Raft::ReadIndex(question));
        cluster.nodes[&1].host().receive(vec![Envelope { from, to: 1, message, ..sample.clone() }]);
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(SECOND).await;
    assert!(tasks() - before <= 67 * 3, "{} tasks", tasks() - before);
    cluster.nodes[&1].write(2).await.unwrap();
    cluster.shutdown().await;
}
