//! The leadership handed over, and what else an operator does to elections: by the failures known
//! from other systems, one test for each.

mod common;

use std::time::Duration;

use common::{Cluster, Image};
use quorate_engine::message::{RequestVote, TimeoutNow};
use quorate_engine::{Config, Decline, Input, LogId, Message, NodeId, RoleKind, Term};

fn told(c: &Cluster, from: NodeId, to: NodeId) -> usize {
    c.on_wire(from, to).iter().filter(|m| matches!(m, Message::TimeoutNow(_))).count()
}

fn timeout_now(term: Term) -> Message {
    Message::TimeoutNow(TimeoutNow { term })
}

fn request(term: Term, last: LogId, transfer: bool) -> Message {
    Message::RequestVote(RequestVote { pre: false, term, last, transfer })
}

/// A cluster led by node 1, with these priorities.
fn with_priorities(priorities: &[u32]) -> Cluster {
    let mut c = Cluster::new(priorities.len() as u64);
    for (id, priority) in (1..).zip(priorities) {
        c.add(Config { priority: *priority, ..Config::new(id) }, Image::default());
    }
    c.initialize(1);
    c.deliver_all();
    assert!(c.leads(1));
    c
}

/// Nobody's promise stands in the way, and no time is lost.
#[test]
fn the_target_takes_over_at_once() {
    let mut c = Cluster::led_by_1(5);
    c.transfer(1, Some(4));
    c.propose(1, 1);
    assert_eq!(c.node(1).declined, [Decline::Transferring]);
    assert_eq!(c.engine(1).can_propose(), Err(Decline::Transferring));
    c.deliver_all();
    assert_eq!((c.leader(), c.term(4), c.role(1)), (Some(4), 2, RoleKind::Follower));
    assert_eq!(c.node(1).transfers_ended, []);
    c.propose(4, 1);
    c.deliver_all();
    assert_eq!(c.committed(4), c.last(4).index);
}

/// A target that is behind would lose its election, and everybody would wait for the next.
#[test]
fn the_target_catches_up_first() {
    let mut c = Cluster::led_by_1(3);
    c.hold_disk(2);
    c.propose(1, 3);
    c.deliver_all();
    c.transfer(1, Some(2));
    assert_eq!(told(&c, 1, 2), 0);
    c.wake(1);
    c.deliver_all();
    assert!(c.leads(1), "it has the entries, but not on its disk");
    assert!(!c.engine(1).has_given_up_its_lease());
    c.release_disk(2);
    c.deliver_all();
    assert_eq!((c.leader(), c.term(2)), (Some(2), 2));
}

#[test]
fn a_lost_timeout_now_is_sent_again() {
    let mut c = Cluster::led_by_1(3);
    c.transfer(1, Some(2));
    c.drop(1, 2);
    c.deliver_all();
    assert!(c.leads(1));
    c.propose(1, 1);
    assert_eq!(told(&c, 1, 2), 0, "no more often than heartbeats");
    c.wake(1);
    assert_eq!(told(&c, 1, 2), 1);
    c.deliver_all();
    assert_eq!(c.leader(), Some(2));
}

/// No writes for long because the target is dead.
#[test]
fn a_transfer_to_a_dead_node_ends_at_its_deadline() {
    let mut c = Cluster::led_by_1(3);
    c.crash(2);
    c.transfer(1, Some(2));
    c.run(900);
    assert_eq!(c.engine(1).transferring(), Some(2));
    c.run(200);
    assert_eq!((c.engine(1).transferring(), c.leads(1)), (None, true));
    assert_eq!(c.node(1).transfers_ended, [2]);
    c.propose(1, 1);
    c.run(200);
    assert_eq!(c.committed(1), c.last(1).index);
}

/// The leader of one node is woken for the deadline too.
#[test]
fn the_deadline_is_waited_for() {
    let mut c = Cluster::led_by_1(3);
    let soon = c.now + Duration::from_millis(7);
    c.crash(2);
    c.step(1, Input::Transfer { to: Some(2), deadline: soon });
    assert_eq!(c.engine(1).deadline(), Some(soon));
}

/// A `TimeoutNow` that arrives when the transfer has ended: the leader had given its lease up, so to
/// be replaced now breaks nothing.
#[test]
fn a_late_timeout_now_is_obeyed_and_the_lease_was_over() {
    let mut c = Cluster::led_by_1(3);
    assert!(!c.engine(1).has_given_up_its_lease());
    c.transfer(1, Some(2));
    let late = c.take(1, 2);
    assert!(c.engine(1).has_given_up_its_lease());
    c.cut(1, 2);
    c.run(1_500);
    assert_eq!(c.node(1).transfers_ended, [2]);
    assert!(c.engine(1).has_given_up_its_lease(), "for the rest of the term");
    c.heal();
    c.run(300);
    late.into_iter().for_each(|p| c.receive(p));
    c.deliver_all();
    assert_eq!((c.leader(), c.term(2)), (Some(2), 2));
    assert!(!c.engine(2).has_given_up_its_lease());
}

/// A command from an earlier leader, or from nobody who leads.
#[test]
fn timeout_now_is_obeyed_from_the_leader_of_the_term_only() {
    let mut c = Cluster::led_by_1(3);
    c.inject(3, 2, timeout_now(1));
    c.inject(1, 2, timeout_now(0));
    assert_eq!((c.role(2), c.term(2)), (RoleKind::Follower, 1));
    c.inject(3, 2, timeout_now(2));
    assert_eq!((c.role(2), c.term(2)), (RoleKind::Follower, 2), "it has heard no leader of term 2");
    let mut c = Cluster::led_by_1(3).with_learners(1, &[4]);
    c.inject(1, 4, timeout_now(1));
    assert_eq!(c.role(4), RoleKind::Learner);
    c.inject(1, 1, timeout_now(1));
    assert!(c.leads(1));
}

/// Stickiness yields to a request that the leader asked for, and to no other.
#[test]
fn promises_yield_to_a_transfer_only() {
    let mut c = Cluster::led_by_1(3);
    let last = c.last(2);
    c.inject(3, 2, request(2, last, false));
    c.inject(3, 1, request(2, last, false));
    assert_eq!((c.term(2), c.term(1)), (1, 1));
    let pre = RequestVote { pre: true, term: 2, last, transfer: true };
    c.inject(3, 2, Message::RequestVote(pre));
    let granted = |m: &&Message| matches!(m, Message::RequestVoteAnswer(a) if a.granted);
    assert!(!c.on_wire(2, 3).iter().any(granted), "a pre-vote is never asked for by a leader");
    // Nor does it win against a newer log, or a vote that was given.
    c.inject(3, 2, request(2, LogId::new(1, 1), true));
    assert_eq!((c.term(2), c.engine(2).hard_state().voted_for), (2, None));
    c.inject(3, 2, request(2, last, true));
    c.inject(1, 2, request(2, last, true));
    assert_eq!(c.engine(2).hard_state().voted_for, Some(3));
    // A leader steps down for it.
    c.inject(3, 1, request(3, last, true));
    assert_eq!((c.role(1), c.term(1)), (RoleKind::Follower, 3));
}

/// Two operators: the first sees how its own ends.
#[test]
fn a_second_transfer_is_declined() {
    let mut c = Cluster::led_by_1(3);
    c.crash(2);
    c.transfer(1, Some(2));
    c.transfer(1, Some(3));
    let to = c.configured(1).without(3).unwrap();
    c.change(1, to);
    assert_eq!(c.node(1).declined, [Decline::Transferring, Decline::ChangeInProgress]);
    assert_eq!(c.engine(1).transferring(), Some(2));
    c.transfer(3, None);
    assert_eq!(c.node(3).declined, [Decline::NotLeader { leader: Some(1) }]);
}

/// Whom nobody names: the voter with most of the log, that answers.
#[test]
fn the_best_successor_is_chosen() {
    let mut c = Cluster::led_by_1(5).with_learners(1, &[6]);
    c.crash(3);
    c.hold_disk(2);
    c.propose(1, 2);
    c.run(600);
    c.transfer(1, None);
    assert_eq!(c.engine(1).transferring(), Some(4), "3 is down, 2 is behind, 6 is a learner");
    c.deliver_all();
    assert_eq!(c.leader(), Some(4));
    let mut c = Cluster::new(1);
    c.initialize(1);
    c.transfer(1, None);
    c.transfer(1, Some(1));
    c.transfer(1, Some(7));
    let unusable = |d: &&Decline| matches!(d, Decline::Unusable(_));
    assert_eq!(c.node(1).declined.iter().filter(unusable).count(), 3);
}

/// A change that is under way is going to leave the target without a vote.
#[test]
fn who_is_being_removed_is_no_target() {
    let mut c = Cluster::led_by_1(3);
    c.change(1, c.configured(1).without(3).unwrap());
    c.transfer(1, Some(3));
    assert!(matches!(c.node(1).declined[..], [Decline::Unusable(_)]), "it has no vote in C_new");
    c.transfer(1, Some(2));
    c.deliver_all();
    assert_eq!(c.leader(), Some(2));
    c.run(500);
    assert_eq!(c.configured(2), c.configured(1));
    assert!(!c.engine(2).is_changing(), "the next leader ends the change");
}

/// A new leader that has not committed in its term knows nothing of what is committed.
#[test]
fn a_read_right_after_a_transfer_waits() {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 1);
    c.deliver_all();
    let committed = c.committed(1);
    c.transfer(1, Some(2));
    while !c.leads(2) {
        let packet = c.wire.pop_front().expect("it is elected");
        c.receive(packet);
    }
    c.read(2, 7);
    assert_eq!(c.node(2).reads.get(&7), None);
    c.deliver_all();
    assert_eq!(c.node(2).reads[&7], Some(committed + 1));
}

/// The old leader can't confirm a read once the new one has been elected.
#[test]
fn a_read_at_the_old_leader_sees_the_new_ones_writes_or_nothing() {
    let mut c = Cluster::led_by_1(3);
    c.transfer(1, Some(2));
    c.deliver(1, 2);
    (1..=3).filter(|id| *id != 1).for_each(|id| c.cut(id, 1));
    c.deliver_all();
    assert!(c.leads(1) && c.leads(2));
    c.propose(2, 1);
    c.deliver_all();
    c.read(1, 7);
    c.run(2_000);
    assert_eq!(c.node(1).reads.get(&7), None);
    c.heal();
    c.run(1_000);
    assert_eq!(c.node(1).reads[&7], Some(c.committed(2)));
}

// ---- priorities ----

#[test]
fn a_voter_of_higher_priority_takes_over() {
    let mut c = with_priorities(&[1, 2, 3]);
    c.run(1_500);
    assert_eq!(c.leader(), Some(3));
    // Equal ones stay where they are.
    let mut c = with_priorities(&[2, 2, 1]);
    c.run(30_000);
    assert_eq!((c.leader(), c.term(1)), (Some(1), 1));
}

/// A preferred node that is down or behind keeps nobody from working, also not by coming and going.
#[test]
fn a_preferred_node_that_cannot_lead_does_not_disturb() {
    let mut c = with_priorities(&[0, 0, 5]);
    c.crash(3);
    c.run(5_000);
    assert_eq!((c.leader(), c.term(1)), (Some(1), 1));
    // It answers and has nothing on its disk: not caught up.
    c.restart(3);
    c.hold_disk(3);
    c.propose(1, 1);
    c.run(5_000);
    assert_eq!((c.leader(), c.term(1)), (Some(1), 1));
    c.release_disk(3);
    c.run(1_000);
    assert_eq!(c.leader(), Some(3));
}

/// What failed is tried again after ten election timeouts, not at once.
#[test]
fn a_hand_over_that_failed_is_not_tried_again_soon() {
    let mut c = with_priorities(&[0, 0, 5]);
    let mut begun = 0;
    let mut before = None;
    // Node 3 hears everything but its orders.
    for _ in 0..3_500 {
        c.run(10);
        c.wire.retain(|p| !matches!(p.message, Message::TimeoutNow(_)));
        let now = c.engine(1).transferring();
        begun += usize::from(now.is_some() && before.is_none());
        before = now;
        if c.engine(1).deadline().is_some_and(|at| at <= c.now + Duration::from_millis(10)) {
            c.wake(1);
            c.wire.retain(|p| !matches!(p.message, Message::TimeoutNow(_)));
        }
    }
    assert!(c.leads(1), "35 seconds long");
    assert!((3..=4).contains(&begun), "{begun} times");
}

// ---- an operator's campaigns ----

#[test]
fn a_campaign_is_in_vain_while_the_leader_is_heard() {
    let mut c = Cluster::led_by_1(3);
    c.step(2, Input::Campaign);
    assert_eq!(c.role(2), RoleKind::Follower, "its own promise holds");
    c.run(5_000);
    assert_eq!((c.leader(), c.term(1)), (Some(1), 1));
    c.step(1, Input::Campaign);
    assert!(matches!(c.node(1).declined[..], [Decline::Unusable(_)]));
}

/// It saves the rest of the random election timeout.
#[test]
fn a_campaign_begins_when_the_own_promise_has_run_out() {
    for what in [Input::Campaign, Input::ForgetLeader] {
        let mut c = Cluster::led_by_1(3);
        c.run(1_000);
        c.crash(1);
        let forgets = matches!(what, Input::ForgetLeader);
        let promised = c.now + Duration::from_millis(500);
        assert!(c.engine(2).deadline().unwrap() > promised);
        c.step(2, what);
        assert!(c.engine(2).deadline().unwrap() <= promised);
        assert_eq!(c.engine(2).leader(), (!forgets).then_some(1));
        c.wake(2);
        assert_eq!(c.role(2), RoleKind::PreCandidate);
    }
    // Without a promise at once.
    let mut c = Cluster::led_by_1(3);
    c.crash(1);
    c.elapse(500);
    c.step(2, Input::Campaign);
    assert_eq!(c.role(2), RoleKind::PreCandidate);
}

/// To forget a leader breaks no promise made to it, and a leader that lives is soon known again.
#[test]
fn a_forgotten_leader_is_still_promised() {
    let mut c = Cluster::led_by_1(3);
    c.step(2, Input::ForgetLeader);
    assert_eq!(c.engine(2).leader(), None);
    c.inject(3, 2, request(2, c.last(3), false));
    assert_eq!(c.term(2), 1);
    c.wake(1);
    c.deliver_all();
    assert_eq!((c.engine(2).leader(), c.term(2)), (Some(1), 1));
    c.step(1, Input::ForgetLeader);
    assert!(matches!(c.node(1).declined[..], [Decline::Unusable(_)]));
    // A reader that waited for the leader is served when it is known again.
    c.step(2, Input::ForgetLeader);
    c.read(2, 7);
    c.run(300);
    assert!(c.node(2).reads[&7].is_some());
}
