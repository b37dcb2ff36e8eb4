//! Snapshots and compaction, and how others went wrong with them: rows of `docs/safety.md`.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, Image, voters};
use quorate_engine::message::InstallSnapshot;
use quorate_engine::{Config, Index, Input, LogId, Membership, Message, NodeId, Notice, RoleKind};

/// Three nodes, led by 1 in term 1, that keep `keep` entries before a snapshot.
fn led_by_1(keep: u64) -> Cluster {
    let mut c = Cluster::new(3);
    for id in 1..=3 {
        c.add(Config { keep_entries: keep, ..Config::new(id) }, Image::default());
    }
    c.initialize(1);
    c.deliver_all();
    c.wake(1);
    c.deliver_all();
    assert!(c.leads(1));
    c
}

/// Node 3 is cut off while node 1 writes and compacts.
fn with_3_behind() -> Cluster {
    let mut c = led_by_1(0);
    c.partition(&[&[1, 2], &[3]]);
    c.propose(1, 5);
    c.deliver_all();
    c.snapshot(1);
    assert_eq!(c.engine(1).log().compacted(), c.last(1));
    c
}

fn compacted(c: &Cluster, id: NodeId) -> Index {
    c.engine(id).log().compacted().index
}

/// The snapshot of `from`, as it would send it in this term and session.
fn offer(c: &mut Cluster, from: NodeId, session: u64) -> InstallSnapshot {
    let term = c.term(from);
    let snapshot = c.node(from).memory.snapshot.clone();
    let configuration = snapshot.iter().rev().find_map(|b| Some((b.last(), b.membership()?)));
    let data: Bytes = snapshot.iter().flat_map(|b| b.bytes().to_vec()).collect::<Vec<_>>().into();
    InstallSnapshot {
        term,
        session,
        last: snapshot.last().unwrap().last(),
        configuration: configuration.unwrap(),
        nonce: 1,
        bytes: data.len() as u64,
        offset: 0,
        data,
        checksum: 0,
        promise: Duration::ZERO,
        witness: false,
    }
}

#[test]
fn a_log_is_compacted_through_a_snapshot_less_what_is_kept() {
    let mut c = led_by_1(3);
    c.propose(1, 8);
    c.deliver_all();
    let last = c.last(1).index;
    c.snapshot(1);
    assert_eq!(compacted(&c, 1), last - 3);
    assert_eq!(c.engine(1).log().snapshot().index, last);
    // The next one while nothing was applied says nothing new.
    c.snapshot(1);
    assert_eq!(compacted(&c, 1), last - 3);
    assert_eq!(c.engine(1).log().membership(), Some(&voters(3)), "in force, and not in the log");
    c.crash(1);
    c.restart(1);
    assert_eq!(c.engine(1).log().membership(), Some(&voters(3)));
    assert_eq!(c.engine(1).log().applied(), last, "nothing that the snapshot has is applied again");
}

/// Hazard: a peer stays in snapshot state. The snapshot is lost, its answer is lost: it is sent again.
#[test]
fn a_lost_snapshot_or_answer_is_sent_again() {
    let mut c = with_3_behind();
    c.heal();
    for round in 0..3 {
        c.run(1500);
        let session = c.node(1).sending.get(&3).copied();
        if round == 0 {
            // It has arrived and is installed by now, unless its messages are lost.
            assert_eq!(session, None);
        }
    }
    assert_eq!(c.committed(3), c.committed(1));

    let mut c = with_3_behind();
    c.heal();
    c.propose(1, 1);
    c.deliver(1, 3);
    c.deliver(3, 1);
    let session = c.node(1).sending[&3];
    c.drop(1, 3);
    // Its task gives up; the next sign of life begins anew.
    c.step(1, Input::Lost { to: 3, session });
    c.run(300);
    assert_eq!(c.committed(3), c.committed(1));
    assert!(!c.node(1).sending.contains_key(&3));
}

/// Hazard: an older snapshot over newer state.
#[test]
fn an_older_snapshot_is_refused() {
    let mut c = led_by_1(0);
    c.propose(1, 3);
    c.deliver_all();
    c.snapshot(1);
    let old = offer(&mut c, 1, 1);
    c.propose(1, 3);
    c.deliver_all();
    c.wake(1);
    c.deliver_all();
    let before = (c.last(3), c.committed(3), c.terms(3));
    c.inject(1, 3, Message::InstallSnapshot(Box::new(old.clone())));
    assert_eq!(before, (c.last(3), c.committed(3), c.terms(3)));
    assert!(
        c.on_wire(3, 1).iter().any(|m| matches!(m, Message::AppendEntriesAnswer(m)
        if m.matched == before.1)),
        "it says that it has more"
    );
    // Nor when it was stored already, and the entries came meanwhile.
    let configuration = old.configuration;
    let last = old.last;
    c.step(3, Input::SnapshotReceived { from: 1, session: 1, last, configuration });
    assert_eq!(before, (c.last(3), c.committed(3), c.terms(3)));
}

/// What a node has acknowledged stays: a snapshot of entries that are in its log removes nothing.
#[test]
fn a_snapshot_of_what_the_log_has_keeps_what_comes_after() {
    let mut c = led_by_1(0);
    c.propose(1, 2);
    c.deliver_all();
    c.snapshot(1);
    let snapshot = offer(&mut c, 1, 1);
    let mut c = led_by_1(0);
    // It has the entries, and does not know yet that they are committed.
    c.propose(1, 2);
    c.deliver(1, 3);
    c.propose(1, 2);
    c.deliver(1, 3);
    let last = c.last(3);
    assert!(c.committed(3) < snapshot.last.index && snapshot.last < last);
    let (last_of, configuration) = (snapshot.last, snapshot.configuration);
    c.step(3, Input::SnapshotReceived { from: 1, session: 1, last: last_of, configuration });
    assert_eq!((c.last(3), compacted(&c, 3)), (last, 0));
    assert_eq!(c.committed(3), last_of.index);
}

/// Hazard: the log keeps a suffix that conflicts with the installed snapshot. Node 3 led once, and
/// has entries that nobody else has, beyond where the snapshot ends.
#[test]
fn a_conflicting_suffix_goes_with_the_reset() {
    let mut c = Cluster::new(3);
    for id in 1..=3 {
        c.add(Config { keep_entries: 0, ..Config::new(id) }, Image::default());
    }
    c.initialize(3);
    c.deliver_all();
    c.partition(&[&[1, 2], &[3]]);
    c.propose(3, 20);
    let leader = c.run_until_other_leader(3);
    c.propose(leader, 5);
    c.deliver_all();
    c.snapshot(leader);
    assert!(c.last(3).index > c.last(leader).index);
    c.heal();
    c.run(3000);
    assert_eq!(c.terms(3), c.terms(leader));
    assert_eq!(c.committed(3), c.committed(leader));
    assert!(compacted(&c, 3) > 0, "by a snapshot");
    c.crash(3);
    c.restart(3);
    assert_eq!(c.last(3), c.last(leader));
}

/// Hazard: a crash between the steps of an installation.
#[test]
fn a_crash_between_the_steps_of_an_installation() {
    // The snapshot is durable, the reset of the log is not.
    let mut c = with_3_behind();
    c.heal();
    c.hold_disk(3);
    c.propose(1, 1);
    c.deliver_all();
    let snapshot = c.engine(1).log().snapshot();
    assert_eq!(c.engine(3).log().compacted(), snapshot);
    assert!(c.engine(3).log().is_restoring(), "not before the reset is durable");
    assert!(c.engine(3).log().applied() < snapshot.index);
    c.crash(3);
    c.restart(3);
    assert_eq!(c.engine(3).log().compacted(), snapshot, "a start completes it");
    c.run(3000);
    assert_eq!(c.committed(3), c.committed(1));

    // The reset is durable, the state machine has not restored: its state is the snapshot's.
    let mut c = with_3_behind();
    c.heal();
    c.propose(1, 1);
    c.deliver_all();
    assert_eq!(c.engine(3).log().applied(), c.committed(3));
    c.crash(3);
    c.restart(3);
    assert_eq!(c.engine(3).log().applied(), snapshot.index);
    c.run(3000);
    assert_eq!(c.committed(3), c.committed(1));
}

/// The snapshot is durable before the write that took over its term: a start takes it from there.
#[test]
fn a_snapshot_may_be_of_a_later_term_than_the_hard_state() {
    let mut c = with_3_behind();
    c.hold_disk(3);
    c.crash(1);
    c.restart(1);
    let leader = c.run_until_other_leader(3);
    c.propose(leader, 3);
    c.deliver_all();
    c.snapshot(leader);
    c.heal();
    c.propose(leader, 1);
    c.run(1000);
    let snapshot = c.engine(leader).log().snapshot();
    assert!(snapshot.term > c.node(3).disk.hard.term, "nothing of the new term is durable");
    assert_eq!(c.engine(3).log().compacted(), snapshot);
    c.crash(3);
    c.restart(3);
    assert_eq!((c.term(3), c.last(3)), (snapshot.term, snapshot));
    assert_eq!(c.node(3).disk.hard.voted_for, None);
    c.run(3000);
    assert_eq!(c.committed(3), c.committed(leader));
}

/// What is committed while a snapshot installs is applied behind it.
#[test]
fn nothing_is_applied_before_the_snapshot_is_restored() {
    let mut c = with_3_behind();
    c.heal();
    c.hold_disk(3);
    c.propose(1, 1);
    c.deliver_all();
    c.propose(1, 4);
    c.run(400);
    assert!(c.engine(3).log().is_restoring());
    assert_eq!(c.engine(3).log().applied(), 2);
    // The harness asserts the order: entries behind the snapshot are looked for behind it.
    c.release_disk(3);
    c.run(400);
    assert_eq!(c.engine(3).log().applied(), c.committed(1));
}

/// Hazard: a snapshot without membership. The one that is installed is in force, with its own id.
#[test]
fn the_configuration_travels_with_its_own_id() {
    let mut c = Cluster::with_identities(3);
    for id in 1..=3 {
        let config = Config { incarnation: 100 + id, keep_entries: 0, ..Config::new(id) };
        c.add(config, Image::default());
    }
    c.initialize(1);
    c.deliver_all();
    c.wake(1);
    c.deliver_all();
    c.partition(&[&[1, 2], &[3]]);
    c.propose(1, 3);
    c.deliver_all();
    c.snapshot(1);
    let (at, membership) = c.engine(1).log().configurations().last().unwrap().clone();
    assert!(at.index > 1 && membership.members().values().all(|m| m.incarnation != 0));
    c.crash(3);
    let disk = Image::default();
    c.add(Config { incarnation: 103, keep_entries: 0, ..Config::new(3) }, disk);
    assert_eq!(c.engine(3).log().membership(), None, "blank, as if it had never been reached");
    c.heal();
    c.run(3000);
    assert_eq!(c.engine(3).log().configurations().last(), Some(&(at, membership)));
    // It elects under that configuration, also after a restart.
    c.crash(3);
    c.restart(3);
    assert_eq!(c.role(3), RoleKind::Follower);
    c.crash(1);
    c.run(5000);
    assert!(c.leader().is_some());
}

/// The entries behind a snapshot that is being sent are needed next: they stay until it is done.
#[test]
fn compaction_waits_for_snapshots_under_way() {
    let mut c = with_3_behind();
    c.heal();
    c.propose(1, 1);
    c.deliver(1, 3);
    c.deliver(3, 1);
    let sent = c.engine(1).log().snapshot();
    let packets = c.take(1, 3);
    for _ in 0..3 {
        c.propose(1, 5);
        c.deliver(1, 2);
        c.deliver(2, 1);
        c.snapshot(1);
        assert_eq!(c.engine(1).log().compacted(), sent);
    }
    assert!(c.engine(1).log().snapshot() > sent);
    packets.into_iter().for_each(|p| c.receive(p));
    c.run(200);
    assert_eq!(c.last(3), c.last(1), "by the log, behind the snapshot that was sent first");
    c.propose(1, 1);
    c.deliver_all();
    c.snapshot(1);
    assert_eq!(c.engine(1).log().compacted(), c.last(1));
}

/// A leader that has compacted finds out by probing that it need not send anything.
#[test]
fn a_restarted_follower_that_is_not_behind_gets_no_snapshot() {
    let mut c = led_by_1(0);
    c.propose(1, 5);
    c.deliver_all();
    c.run(200);
    c.snapshot(1);
    c.crash(3);
    c.restart(3);
    c.run(2000);
    assert_eq!(c.committed(3), c.committed(1));
    assert_eq!(compacted(&c, 3), 0);
}

/// The new leader has compacted more than a follower has.
#[test]
fn a_new_leader_sends_its_own_snapshot() {
    let mut c = with_3_behind();
    c.run(200);
    c.snapshot(2);
    c.crash(1);
    c.heal();
    c.run(5000);
    assert_eq!(c.leader(), Some(2));
    assert_eq!(c.committed(3), c.committed(2));
    assert!(compacted(&c, 3) > 0);
}

/// Nothing a peer sends breaks a node.
#[test]
fn absurd_snapshots_are_dropped() {
    let mut c = with_3_behind();
    c.heal();
    let good = offer(&mut c, 1, 1);
    let far = LogId::new(1, u64::MAX);
    let bad = [
        InstallSnapshot { last: far, ..good.clone() },
        InstallSnapshot { offset: u64::MAX, ..good.clone() },
        InstallSnapshot { bytes: 3, ..good.clone() },
        InstallSnapshot { bytes: u64::MAX, ..good.clone() },
        InstallSnapshot { data: Bytes::new(), ..good.clone() },
        InstallSnapshot { last: LogId::new(9, 40), ..good.clone() },
        InstallSnapshot { last: LogId::ZERO, ..good.clone() },
        InstallSnapshot { configuration: (far, voters(3)), ..good.clone() },
    ];
    for message in bad {
        c.inject(1, 3, Message::InstallSnapshot(Box::new(message)));
    }
    assert_eq!(c.node(3).notices.len(), 8);
    assert!(c.node(3).notices.iter().all(|(_, n)| matches!(n, Notice::Violation(_))));
    // Of a leader of an earlier term: told of the new one.
    c.inject(
        1,
        3,
        Message::InstallSnapshot(Box::new(InstallSnapshot {
            term: 0,
            last: LogId::new(0, 9),
            ..good
        })),
    );
    assert_eq!(compacted(&c, 3), 0);
}

/// A log that was compacted has to know the configuration in force where it begins.
#[test]
fn a_compacted_log_without_its_configuration_is_refused() {
    use quorate_engine::Log;
    let id = LogId::new(1, 5);
    assert!(Log::recovered(id, id, vec![], vec![]).is_err());
    let behind = |at| Log::recovered(id, id, vec![], vec![(at, Membership::default())]);
    assert!(behind(LogId::new(1, 6)).is_err());
    assert!(behind(LogId::new(1, 5)).is_ok() && behind(LogId::new(0, 1)).is_ok());
    let log = behind(LogId::new(0, 1)).unwrap();
    assert!(log.clone().restored(LogId::new(1, 4)).is_err());
    assert!(log.restored(LogId::new(1, 5)).is_ok());
}
