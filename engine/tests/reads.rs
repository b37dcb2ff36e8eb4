//! Reads by lease and of bounded age (thesis §6.4.1). What ReadIndex promises is in `hazards.rs`.

mod common;

use std::time::Duration;

use common::Cluster;
use quorate_engine::{Index, Message, NodeId, ReadMode};

const MS: Duration = Duration::from_millis(1);

/// Three nodes, led by 1, with answers to a round of heartbeats just now.
fn with_a_lease() -> Cluster {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 2);
    c.run(300);
    heartbeat(&mut c);
    c.deliver_all();
    assert!(c.engine(1).holds_lease(c.now));
    c
}

/// The leader sends a round of heartbeats, now.
fn heartbeat(c: &mut Cluster) {
    c.wire.clear();
    c.wake(1);
    assert!(c.on_wire(1, 2).iter().any(|m| matches!(m, Message::Heartbeat(_))));
}

fn answered(c: &Cluster, id: NodeId, token: u64) -> Option<Index> {
    c.node(id).reads.get(&token).copied().flatten()
}

/// How long a lease lasts: the promise, by the fastest clock that is allowed.
fn lease(c: &Cluster) -> Duration {
    let config = &c.node(1).config;
    config.election_timeout_min * 100 / (100 + config.clock_drift_percent)
}

#[test]
fn a_leader_with_a_lease_asks_nobody() {
    let mut c = with_a_lease();
    c.wire.clear();
    c.read_with(1, 7, ReadMode::Lease);
    assert_eq!(answered(&c, 1, 7), Some(c.committed(1)));
    assert!(c.wire.is_empty());
    // Without one it asks, like anyone.
    c.read_with(1, 8, ReadMode::Index);
    assert_eq!(answered(&c, 1, 8), None);
    c.deliver_all();
    assert_eq!(answered(&c, 1, 8), Some(c.committed(1)));
}

/// Hazard: a lease counted from the answer's time. It ends before the promises do, which followers
/// count from when they were asked; and the clocks may differ.
#[test]
fn a_lease_is_counted_from_when_it_was_asked_for() {
    let mut c = with_a_lease();
    let began = c.now;
    c.partition(&[&[1], &[2, 3]]);
    let length = lease(&c);
    c.elapse((length - MS).as_millis() as u64);
    c.read_with(1, 1, ReadMode::Lease);
    assert!(answered(&c, 1, 1).is_some());
    c.elapse(2);
    assert!(c.now.since(began) > length);
    c.read_with(1, 2, ReadMode::Lease);
    assert_eq!(answered(&c, 1, 2), None);

    // An answer that took long gives what is left.
    let mut c = with_a_lease();
    c.elapse(400);
    heartbeat(&mut c);
    let sent = c.now;
    (2..=3).for_each(|to| c.deliver(1, to));
    c.elapse(300);
    (2..=3).for_each(|from| c.deliver(from, 1));
    let left = lease(&c) - c.now.since(sent);
    c.elapse((left - MS).as_millis() as u64);
    assert!(c.engine(1).holds_lease(c.now));
    c.elapse(2);
    assert!(!c.engine(1).holds_lease(c.now));
}

/// One follower's promise is no quorum's.
#[test]
fn a_lease_is_of_a_quorum() {
    let mut c = Cluster::led_by_1(5);
    c.run(300);
    c.partition(&[&[1, 2], &[3, 4, 5]]);
    c.run(lease(&c).as_millis() as u64 + 1);
    assert!(c.leads(1) && !c.engine(1).holds_lease(c.now));
    c.read_with(1, 1, ReadMode::Lease);
    assert_eq!(answered(&c, 1, 1), None);
    c.heal();
    c.run(300);
    assert!(answered(&c, 1, 1).is_some(), "a round confirms it");
}

/// Hazard: a new leader serves reads before it has committed in its term.
#[test]
fn no_lease_before_the_first_commit_of_the_term() {
    let mut c = with_a_lease();
    c.transfer(1, Some(2));
    (0..20).for_each(|_| {
        if !c.leads(2) {
            (1..=3).for_each(|from| (1..=3).for_each(|to| c.deliver(from, to)));
        }
    });
    assert!(c.leads(2) && c.committed(2) < c.last(2).index);
    c.drop(2, 1);
    c.drop(2, 3);
    c.read_with(2, 1, ReadMode::Lease);
    assert_eq!(answered(&c, 2, 1), None);
    c.run(3_000);
    assert!(c.leads(2) && answered(&c, 2, 1).is_some());
}

/// Hazard: a lease read served during a transfer. Who was told to stand is heard in spite of promises.
#[test]
fn a_lease_is_given_up_before_a_handover() {
    let mut c = with_a_lease();
    c.transfer(1, Some(2));
    assert!(c.on_wire(1, 2).iter().any(|m| matches!(m, Message::TimeoutNow(_))));
    assert!(!c.engine(1).holds_lease(c.now));
    c.partition(&[&[1], &[2, 3]]);
    c.wire.clear();
    c.read_with(1, 1, ReadMode::Lease);
    assert_eq!(answered(&c, 1, 1), None);
    // For the rest of the term: the message may still arrive.
    c.heal();
    c.run(2_000);
    if c.leads(1) {
        assert!(!c.engine(1).holds_lease(c.now));
    }
}

/// A follower's lease read takes one message there and one back, and no round.
#[test]
fn a_follower_reads_by_the_leaders_lease() {
    let mut c = with_a_lease();
    c.partition(&[&[1, 2], &[3]]);
    c.wire.clear();
    c.read_with(2, 1, ReadMode::Lease);
    c.deliver(2, 1);
    assert!(c.on_wire(1, 3).is_empty(), "nobody else is asked");
    c.deliver(1, 2);
    assert_eq!(answered(&c, 2, 1), Some(c.committed(1)));
}

/// Who asked for more than a lease gets more, whoever asks with him.
#[test]
fn a_lease_serves_nobody_who_did_not_ask_for_it() {
    let mut c = with_a_lease();
    c.partition(&[&[1, 2], &[3]]);
    c.wire.clear();
    c.read_with(2, 1, ReadMode::Lease);
    c.read_with(2, 2, ReadMode::Index);
    c.deliver(2, 1);
    c.deliver(1, 2);
    assert!(answered(&c, 2, 1).is_some() && answered(&c, 2, 2).is_none());
    // The second question is asked for the second reader, and for one who would do with less.
    c.read_with(2, 3, ReadMode::Lease);
    c.deliver(2, 1);
    assert!(c.on_wire(1, 2).iter().all(|m| !matches!(m, Message::ReadIndexAnswer(_))));
    c.heal();
    c.run(300);
    assert!(answered(&c, 2, 2).is_some() && answered(&c, 2, 3).is_some());
}

/// Within the age nobody is asked; an age counts from when what is known was asked for.
#[test]
fn a_bounded_read_is_as_old_as_it_may_be() {
    for id in [1, 2] {
        let mut c = with_a_lease();
        c.read(id, 1);
        c.elapse(100);
        c.deliver_all();
        let known = answered(&c, id, 1).expect("it was confirmed");
        c.propose(1, 1);
        c.deliver_all();
        assert_eq!(c.committed(1), known + 1);
        c.elapse(99);
        c.wire.clear();
        c.read_with(id, 2, ReadMode::Bounded(200 * MS));
        assert_eq!(answered(&c, id, 2), Some(known), "node {id}: 199 ms old");
        assert!(c.wire.is_empty());
        c.elapse(2);
        c.read_with(id, 3, ReadMode::Bounded(200 * MS));
        assert_eq!(answered(&c, id, 3), None, "node {id}: 201 ms old");
        c.run(300);
        assert_eq!(answered(&c, id, 3), Some(known + 1), "node {id}");
    }
}

/// What a lease confirmed relies on clocks of others, which a bounded read does not.
#[test]
fn a_bounded_read_does_not_rely_on_a_lease() {
    let mut c = with_a_lease();
    c.read_with(2, 1, ReadMode::Lease);
    c.deliver(2, 1);
    c.deliver(1, 2);
    assert!(answered(&c, 2, 1).is_some());
    c.read_with(2, 2, ReadMode::Bounded(1_000 * MS));
    assert_eq!(answered(&c, 2, 2), None);
}

#[test]
fn a_stale_read_asks_nobody() {
    let mut c = with_a_lease();
    c.partition(&[&[1], &[2, 3]]);
    c.elapse(60_000);
    c.read_with(2, 1, ReadMode::Stale);
    assert_eq!(answered(&c, 2, 1), Some(c.engine(2).log().applied()));
}
