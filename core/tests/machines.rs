//! State machines and commands that are not what they should be: the node stops and says why, or
//! goes on; nobody hangs.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::*;
use quorate::testing::Counter;
use quorate::{Envelope, Lane, MemoryDisk, Raft, RaftStorage, ReadError, RoleKind, WriteError};
use quorate_engine::{Batch, EntryBlock, HardState, LogId, Membership};
use quorate_network::{Forward, ForwardOutcome, ForwardWrite, Forwarded, Message};
use quorate_storage::{Identity, LogOp, WriteBatch, WriteDone};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Panics, failures and a wrong number of responses, on the leader: its callers are told, it says
/// the log id and the cause, and the others go on.
#[tokio::test(start_paused = true)]
async fn a_machine_that_breaks_stops_its_node_with_the_log_id_and_the_cause() {
    for (fault, words) in [
        (Fault::Panic, "panicked when it was to apply"),
        (Fault::Fail, "told to fail"),
        (Fault::TooFewResponses, "gave 0 responses for the 1 commands"),
        (Fault::TooManyResponses, "gave 2 responses for the 1 commands"),
    ] {
        let cluster = Cluster::new(3, config(|_| {})).await;
        let leader = cluster.settle().await;
        let node = &cluster.nodes[&leader];
        let mut events = node.events();
        cluster.machines[&leader].inject(fault);
        let index = node.metrics().last + 1;
        let began = Instant::now();
        assert!(matches!(node.write(7).await.unwrap_err(), WriteError::Unknown), "{fault:?}");
        let m = node.wait(PATIENCE).until("fatal", |m| m.fatal.is_some()).await.unwrap();
        let fatal = m.fatal.unwrap();
        assert!(fatal.contains(words), "{fatal}");
        assert!(fatal.contains(&format!("{}.{index}", m.term)), "{fatal}");
        assert!(matches!(node.write(8).await.unwrap_err(), WriteError::Stopped));
        assert!(matches!(node.read(|_| ()).await.unwrap_err(), ReadError::Stopped));
        assert!(matches!(
            node.read_with(quorate::ReadMode::Stale, |_| ()).await.unwrap_err(),
            ReadError::Stopped
        ));
        let mut last = None;
        while let Some(event) = events.next().await {
            last = Some(event);
        }
        let told = matches!(&last, Some(quorate::Event::Stopped { fatal: Some(f) }) if *f == fatal);
        assert!(told, "{last:?}");
        node.shutdown().await;
        assert!(began.elapsed() < SECOND);
        assert_eq!(node.metrics().fatal, Some(fatal));
        assert!(!node.metrics().healthy);
        let others = cluster.others(leader);
        cluster.leader_among(&others).await;
        assert_eq!(cluster.nodes[&others[0]].write(9).await.unwrap(), 2);
        cluster.shutdown().await;
    }
}

/// Hazard: a slow state machine freezes the node.
#[tokio::test(start_paused = true)]
async fn a_machine_that_hangs_holds_up_its_own_callers_only() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let follower = cluster.others(leader)[0];
    // On a follower nobody notices.
    cluster.machines[&follower].inject(Fault::Gate);
    for n in 0..100 {
        cluster.nodes[&leader].write(n).await.unwrap();
    }
    tokio::time::sleep(10 * SECOND).await;
    let m = cluster.nodes[&follower].metrics();
    assert_eq!((m.leader, m.persisted), (Some(leader), cluster.nodes[&leader].metrics().last));
    assert_eq!(cluster.machines[&follower].applied(), 0);
    assert!(!m.healthy);
    cluster.machines[&follower].open_gate();
    // On the leader it holds up the answers, not the commits, the others or the leadership.
    cluster.machines[&leader].inject(Fault::Gate);
    let writes: Vec<_> = (100..200).map(|n| spawn_write(&cluster.nodes[&follower], n)).collect();
    for write in writes {
        assert!(matches!(write.await.unwrap().unwrap_err(), WriteError::Unknown));
    }
    eventually("the follower", || cluster.machines[&follower].applied() == 200).await;
    assert_eq!(cluster.nodes[&leader].metrics().role, RoleKind::Leader);
    // A reader of the hung machine gives up, and so do reads that look at it as it is.
    assert!(matches!(cluster.nodes[&leader].read(|_| ()).await.unwrap_err(), ReadError::Timeout));
    assert!(matches!(
        cluster.nodes[&leader].read_with(quorate::ReadMode::Stale, |_| ()).await.unwrap_err(),
        ReadError::Timeout
    ));
    let began = Instant::now();
    cluster.nodes[&leader].shutdown().await;
    assert!(began.elapsed() <= 11 * SECOND, "{:?}", began.elapsed());
    cluster.shutdown().await;
}

/// A run is applied in one batch, whatever the batches' bound, and has a deadline like any write.
#[tokio::test(start_paused = true)]
async fn a_run_larger_than_a_batch_keeps_its_deadline() {
    let disk = MemoryDisk::new();
    let (machine, control) = Ledger::new();
    let change = |c: &mut quorate::Config| {
        c.apply_bytes = 1;
        c.tail_bytes = 0;
    };
    let raft = Raft::builder(1, machine)
        .storage(disk.open())
        .config(config(change))
        .start()
        .await
        .unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    assert_eq!(raft.write_many(0..100).await.unwrap(), (1..=100).collect::<Vec<_>>());
    control.inject(Fault::Gate);
    let began = Instant::now();
    assert!(matches!(raft.write_many(0..100).await.unwrap_err(), WriteError::Unknown));
    assert!(began.elapsed() < 6 * SECOND);
    control.open_gate();
    assert_eq!(raft.write(0).await.unwrap(), 201);
    raft.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_read_is_its_callers() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    for node in cluster.nodes.values() {
        let reader = node.clone();
        let read = tokio::spawn(async move { reader.read(|l| l.ids[99]).await });
        assert!(read.await.unwrap_err().is_panic());
        let reader = node.clone();
        let read =
            tokio::spawn(
                async move { reader.read_with(quorate::ReadMode::Stale, |l| l.ids[99]).await },
            );
        assert!(read.await.unwrap_err().is_panic());
        node.write(1).await.unwrap();
        assert_eq!(node.metrics().fatal, None);
    }
    assert_eq!(cluster.ledger().await.len(), 3);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_whose_predicate_panics_ends_and_the_node_goes_on() {
    let cluster = Cluster::new(1, config(|_| {})).await;
    let node = &cluster.nodes[&1];
    let applied = node.metrics().applied;
    let wait = node.wait(PATIENCE).until("a panic", move |m| {
        assert!(m.applied <= applied, "told to panic");
        false
    });
    let began = Instant::now();
    let (waited, written) = tokio::join!(wait, node.write(1));
    assert!(waited.is_err() && began.elapsed() < SECOND);
    written.unwrap();
    node.write(2).await.unwrap();
    cluster.shutdown().await;
}

async fn submit(storage: &mut impl RaftStorage, ops: Vec<LogOp>) {
    let (done, durable) = tokio::sync::oneshot::channel();
    storage.submit(WriteBatch { ops }, WriteDone::new(|outcome| drop(done.send(outcome))));
    durable.await.unwrap().unwrap();
}

/// Hazard: an undecodable command is skipped, and replicas diverge.
#[tokio::test(start_paused = true)]
async fn a_command_in_the_log_that_cannot_be_decoded_stops_the_node() {
    let disk = MemoryDisk::new();
    let mut storage = disk.open();
    let mut batch = Batch::new(1);
    batch.push(&[1]);
    batch.push(&[0xff; 20]);
    let membership = Membership::of_voters([(1, "")]).unwrap();
    submit(
        &mut storage,
        vec![
            LogOp::Identity(Identity { node: 1, incarnation: 5, cluster: 6 }),
            LogOp::HardState(HardState::new(3, Some(1))),
            LogOp::Append(EntryBlock::configuration(LogId::new(0, 1), &membership)),
            LogOp::Append(batch.seal(LogId::new(3, 2))),
        ],
    )
    .await;
    let raft = Raft::builder(1, Counter::default()).storage(disk.open()).start().await.unwrap();
    let write = raft.write(1).await;
    let m = raft.wait(PATIENCE).until("fatal", |m| m.fatal.is_some()).await.unwrap();
    let fatal = m.fatal.unwrap();
    assert!(fatal.contains("entry 3.3 in the log is no command of this program"), "{fatal}");
    assert!(matches!(write.unwrap_err(), WriteError::Unknown | WriteError::Stopped));
    assert_eq!(m.applied, 0, "a batch is applied whole or not at all");
    raft.shutdown().await;
}

/// Hazard: an undecodable command is committed: random bytes from a peer.
#[tokio::test(start_paused = true)]
async fn bytes_from_a_peer_that_are_no_command_are_refused_and_not_appended() {
    let cluster = Cluster::new(3, config(|c| c.max_command_bytes = 100)).await;
    let leader = cluster.settle().await;
    let peer = cluster.others(leader)[0];
    let node = &cluster.nodes[&leader];
    cluster.network.record();
    cluster.nodes[&peer].write(1).await.unwrap();
    let is_forward = |m: &Envelope| matches!(m.message, Message::Forward(_));
    let sample = cluster.network.recorded().into_iter().find(is_forward).unwrap();
    let before = node.metrics().last;
    let mut rng = Rng::new(5);
    let mut sent = 0;
    let mut send = |codec: u16, commands: Vec<Bytes>| {
        let term = node.metrics().term;
        sent += 1;
        let writes = vec![ForwardWrite { token: sent, commands, session: None }];
        let message = Forward { term, boot: 77, sequence: sent, timeout: SECOND, codec, writes };
        node.host()
            .receive(vec![Envelope { message: Message::Forward(message), ..sample.clone() }]);
    };
    let mut random = |len: u64| -> Bytes {
        // No varint of ten bytes: not a number, whatever the rest is.
        (0..len).map(|_| rng.next() as u8 | 0x80).collect::<Vec<u8>>().into()
    };
    send(1, vec![]);
    send(1, vec![Bytes::new()]);
    for len in 10..60 {
        send(1, vec![random(len)]);
        send(1, vec![Bytes::from_static(&[1]), random(len)]);
    }
    send(1, vec![Bytes::from(vec![1; 101])]);
    send(1, vec![Bytes::from_static(&[1]); 101]);
    send(9, vec![Bytes::from_static(&[1])]);
    let refused = |m: &Envelope| match &m.message {
        Message::Forwarded(Forwarded { boot: 77, answers }) => answers.len() as u64,
        _ => 0,
    };
    let network = cluster.network.clone();
    eventually("refusals", || network.recorded().iter().map(refused).sum::<u64>() == sent).await;
    for m in cluster.network.recorded() {
        if let Message::Forwarded(Forwarded { boot: 77, answers }) = m.message {
            for answer in answers {
                assert!(matches!(answer.outcome, ForwardOutcome::Refused(_)), "{answer:?}");
            }
        }
    }
    assert_eq!(node.metrics().last, before);
    assert_eq!(node.metrics().fatal, None);
    assert_eq!(cluster.ledger().await, [1]);
    cluster.shutdown().await;
}

/// A forwarded write in the name of someone who is no member, or with an empty list, is no write.
#[tokio::test(start_paused = true)]
async fn writes_of_strangers_are_not_taken() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let peer = cluster.others(leader)[0];
    let node = &cluster.nodes[&leader];
    cluster.network.record();
    cluster.nodes[&peer].write(1).await.unwrap();
    let is_forward = |m: &Envelope| matches!(m.message, Message::Forward(_));
    let sample = cluster.network.recorded().into_iter().find(is_forward).unwrap();
    let before = node.metrics().last;
    for from in [0, leader, 4, 5, u64::MAX] {
        let mut envelope = sample.clone();
        envelope.from = from;
        if let Message::Forward(forward) = &mut envelope.message {
            forward.boot = 9;
        }
        node.host().receive(vec![envelope]);
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(node.metrics().last, before);
    cluster.shutdown().await;
}

/// A response that can't be read where the writer is was a write all the same.
#[tokio::test(start_paused = true)]
async fn a_forwarded_write_with_an_unreadable_response_was_done() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    let peer = cluster.others(leader)[0];
    for answer in [vec![Bytes::from_static(&[0xff; 20])], vec![], vec![Bytes::new(), Bytes::new()]]
    {
        cluster.network.record();
        cluster.network.only(move |lane, m| lane != Lane::Clients || m.from != leader);
        let write = spawn_write(&cluster.nodes[&peer], 7);
        let forwarded = |m: Envelope| match m.message {
            Message::Forwarded(answers) => Some((m.cluster, m.incarnation, answers)),
            _ => None,
        };
        let network = cluster.network.clone();
        let found = || network.recorded().into_iter().find_map(forwarded);
        eventually("the answer", || found().is_some()).await;
        let (id, incarnation, mut answers) = found().unwrap();
        answers.answers[0].outcome = ForwardOutcome::Applied(answer);
        cluster.nodes[&peer].host().receive(vec![Envelope {
            cluster: id,
            group: 1,
            from: leader,
            to: peer,
            incarnation,
            message: Message::Forwarded(answers),
        }]);
        let error = write.await.unwrap().unwrap_err();
        assert!(matches!(error, WriteError::Response(_)), "{error}");
        assert!(error.may_have_happened());
        cluster.network.calm();
    }
    assert_eq!(cluster.ledger().await.len(), 3);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_backlog_does_not_keep_a_single_thread_from_the_node() {
    // The whole log is applied again after a start, in batches of one: on this one thread, a node
    // that never yields would not campaign before it is through.
    let disk = MemoryDisk::new();
    let settings = config(|c| {
        c.apply_bytes = 1;
        c.tail_bytes = 0;
    });
    let (machine, _control) = Ledger::new();
    let raft = Raft::builder(1, machine)
        .storage(disk.open())
        .config(settings.clone())
        .start()
        .await
        .unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    for n in 0..2000 {
        raft.write(n).await.unwrap();
    }
    raft.shutdown().await;
    let (machine, control) = Ledger::new();
    let raft =
        Raft::builder(1, machine).storage(disk.open()).config(settings).start().await.unwrap();
    raft.wait(PATIENCE).role(RoleKind::Leader).await.unwrap();
    let mut turns = 0;
    while control.applied() < 2000 {
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns > 100, "the test ran {turns} times meanwhile");
    raft.shutdown().await;
}
