//! Changes of membership, by the failures known from other systems: one test for each. How it is
//! meant to go is told by the scripts.

mod common;

use std::time::Duration;

use common::{Cluster, Image, voters};
use quorate_engine::message::{Heartbeat, Removed, RequestVote};
use quorate_engine::{
    Config, Decline, HardState, Input, LogId, Member, Membership, Message, NodeId, Notice,
    RoleKind, Term,
};

fn ids(m: &Membership) -> Vec<NodeId> {
    m.voters().iter().copied().collect()
}

/// The voters of the first `n`, and of no others.
fn only(m: &Membership, keep: &[NodeId]) -> Membership {
    let gone = m.members().keys().filter(|id| !keep.contains(id)).copied().collect::<Vec<_>>();
    gone.iter().fold(m.clone(), |m, id| m.without(*id).unwrap())
}

fn removals(c: &Cluster, from: NodeId, to: NodeId) -> usize {
    c.on_wire(from, to).iter().filter(|m| matches!(m, Message::Removed(_))).count()
}

/// Two leaders with single-server changes that do not know of each other, and disjoint quorums: the
/// bug of the first publication. A leader makes no change before it has committed in its term, and
/// here each change needs a majority of the old voters.
#[test]
fn two_leaders_cannot_both_remove_a_voter() {
    let mut c = Cluster::led_by_1(4);
    c.partition(&[&[1, 2], &[3, 4]]);
    let four = c.configured(1);
    c.change(1, four.clone().without(4).unwrap());
    c.run(400);
    assert!(c.configured(1).is_joint() && c.configured(2).is_joint());
    // Node 1 goes; 2 knows of its change, 3 and 4 do not.
    c.crash(1);
    c.heal();
    c.hold_disk(3);
    c.hold_disk(4);
    c.cut(2, 3);
    c.cut(2, 4);
    c.run(5_000);
    assert_eq!(c.leader(), None, "3 and 4 are half, and 2 has the newer log");
    c.release_disk(3);
    c.release_disk(4);
    c.heal();
    c.run(20_000);
    assert_eq!(c.leader(), Some(2), "it alone has the newest entry");
    assert_eq!(ids(&c.configured(3)), [1, 2, 3]);
}

/// The same danger at its root: a leader that has not committed in its term does not know whose
/// change is under way.
#[test]
fn no_change_before_the_no_op_is_committed() {
    let mut c = Cluster::led_by_1(3);
    c.transfer(1, Some(2));
    while !c.leads(2) {
        let packet = c.wire.pop_front().expect("it is elected");
        c.receive(packet);
    }
    assert!(c.committed(2) < c.last(2).index, "only just elected");
    let to = c.configured(2).with_learner(4, "n4").unwrap();
    c.change(2, to.clone());
    assert_eq!(c.node(2).declined, [Decline::ChangeInProgress]);
    c.deliver_all();
    c.change(2, to);
    assert_eq!(c.node(2).changing, [c.last(2)]);
}

/// The leader dies when the joint entry is committed, and nobody ever leaves the joint configuration.
#[test]
fn the_next_leader_leaves_the_joint_configuration() {
    let mut c = Cluster::led_by_1(3).with_learners(1, &[4]);
    let to = c.configured(1).promoted(4).unwrap().without(1).unwrap();
    c.change(1, to.clone());
    // Committed, and before anything else is heard of it.
    let joint = c.last(1).index;
    while c.committed(1) < joint {
        let packet = c.wire.pop_front().expect("it commits");
        c.receive(packet);
    }
    c.crash(1);
    c.wire.clear();
    assert!((2..=4).any(|id| c.configured(id).is_joint()));
    c.run(10_000);
    let leader = c.leader().expect("the others lead");
    assert_eq!(c.configured(leader), to);
    assert!(!c.engine(leader).is_changing());
    c.propose(leader, 1);
    c.deliver_all();
    assert_eq!(c.committed(leader), c.last(leader).index);
}

/// A configuration whose entry was overwritten, and that stayed in force.
#[test]
fn a_truncated_change_is_taken_back() {
    let mut c = Cluster::led_by_1(3).with_learners(1, &[4]);
    let before = c.configured(1);
    c.partition(&[&[1, 4], &[2, 3]]);
    c.change(1, before.clone().promoted(4).unwrap());
    c.deliver_all();
    assert!(c.configured(1).is_joint() && c.configured(4).is_joint());
    assert_eq!(c.role(4), RoleKind::Follower);
    c.run(5_000);
    let next = c.leader().unwrap();
    assert!(next == 2 || next == 3);
    c.heal();
    c.run(2_000);
    assert_eq!((c.configured(1), c.configured(4)), (before.clone(), before));
    assert_eq!(c.role(4), RoleKind::Learner);
}

/// The removed leader goes before its removal is committed, or never.
#[test]
fn a_removed_leader_leads_until_it_is_committed_and_hands_over() {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 3);
    c.change(1, c.configured(1).without(1).unwrap());
    c.propose(1, 3);
    let mut seen = false;
    while let Some(packet) = c.wire.pop_front() {
        let leaving = ids(&c.configured(1)) == [2, 3] && !c.configured(1).is_joint();
        if leaving && c.engine(1).is_changing() && !seen {
            assert!(c.leads(1), "until C_new is committed");
            c.propose(1, 1);
            seen = true;
        }
        c.receive(packet);
    }
    assert!(seen);
    let next = c.leader().expect("without an election timeout");
    assert!(next != 1 && c.term(next) == 2);
    assert_eq!(c.terms(next).iter().filter(|t| **t == 1).count(), 10, "nothing it took is lost");
    assert!(c.engine(1).removed().is_some());
    c.run(30_000);
    assert_eq!((c.leader(), c.term(next)), (Some(next), 2), "it does not disturb them");
    assert_eq!(c.engine(1).deadline(), None);
}

/// The same where nobody is there to take over at once: it goes all the same.
#[test]
fn a_removed_leader_goes_also_when_nobody_takes_over() {
    let mut c = Cluster::led_by_1(3);
    c.change(1, c.configured(1).without(1).unwrap());
    while c.engine(1).is_changing() {
        let packet = c.wire.pop_front().expect("it commits");
        c.receive(packet);
    }
    assert!(c.leads(1) && c.engine(1).transferring().is_some());
    c.cut(1, 2);
    c.cut(1, 3);
    c.run(1_100);
    assert!(!c.leads(1));
    c.run(5_000);
    assert!(c.leader().is_some());
}

/// C_new is in the log of the leader that it leaves out, and nowhere else: nobody has the newest log
/// but a node without a vote (thesis §4.2.2, Figure 4.6).
#[test]
fn who_is_left_out_by_what_only_it_has_still_campaigns() {
    let mut c = Cluster::led_by_1(2);
    c.change(1, c.configured(1).without(1).unwrap());
    c.deliver(1, 2);
    c.deliver(2, 1);
    c.wire.clear();
    c.crash(1);
    c.restart(1);
    assert!(c.configured(2).is_joint() && ids(&c.configured(1)) == [2]);
    c.run(10_000);
    assert_eq!((c.leader(), c.configured(2)), (Some(2), only(&voters(2), &[2])));
    assert!(c.term(2) > 1);
}

/// An acknowledgement from before a removal counts for the same id when it is a member again.
#[test]
fn acknowledgements_from_before_a_removal_count_for_nothing() {
    let mut c = Cluster::led_by_1(3);
    c.hold_disk(1);
    c.propose(1, 1);
    c.deliver(1, 3);
    let held = c.take(3, 1);
    assert!(!held.is_empty());
    c.release_disk(1);
    c.run(200);
    let three = c.configured(1);
    c.change(1, three.clone().without(3).unwrap());
    c.run(200);
    assert_eq!(ids(&c.configured(1)), [1, 2]);
    // Its disk is lost; the id comes back with another.
    c.partition(&[&[3], &[1, 2]]);
    c.wipe(3, 0);
    let to = c.configured(1).with_learner(3, "n3").unwrap();
    c.change(1, to);
    c.run(200);
    held.into_iter().for_each(|p| c.receive(p));
    let of_3 = c.engine(1).matched().find(|(id, _)| *id == 3);
    assert_eq!(of_3, Some((3, 0)));
    assert!(!c.engine(1).is_caught_up(c.now, 3));
    c.heal();
    c.run(1_000);
    assert!(c.engine(1).is_caught_up(c.now, 3));
}

/// A wiped node is removed and added again, and a late message ties the id to the disk that is gone.
#[test]
fn a_late_answer_does_not_tie_an_id_to_the_disk_that_is_gone() {
    let mut c = Cluster::with_identities(3);
    c.initialize(1);
    c.run(1_000);
    c.wake(1);
    c.deliver(1, 3);
    let held = c.take(3, 1);
    assert!(matches!(held[0].message, Message::HeartbeatAnswer(_)));
    c.crash(3);
    c.change(1, c.configured(1).without(3).unwrap());
    c.run(500);
    c.change(1, c.configured(1).with_learner(3, "n3").unwrap());
    held.into_iter().for_each(|p| c.receive(p));
    assert_eq!(c.configured(1).member(3).unwrap().incarnation, 0);
    c.wipe(3, 999);
    c.run(1_000);
    assert_eq!(c.configured(1).member(3).unwrap().incarnation, 999);
    assert!(c.node(3).fatal.is_none());
    c.change(1, c.configured(1).promoted(3).unwrap());
    c.run(1_000);
    assert_eq!(ids(&c.configured(3)), [1, 2, 3]);
}

/// A member that does not know of its own promotion is needed to elect.
#[test]
fn a_promoted_learner_that_does_not_know_it_votes() {
    let mut c = Cluster::led_by_1(2).with_learners(1, &[3]);
    c.run(100);
    let to = c.configured(1).promoted(3).unwrap();
    (1..=2).for_each(|id| c.cut(id, 3));
    c.change(1, to);
    c.deliver_all();
    assert_eq!((ids(&c.configured(2)).len(), c.engine(1).is_changing()), (3, false));
    assert_eq!(c.role(3), RoleKind::Learner, "it has heard of nothing");
    c.crash(1);
    c.heal();
    assert_eq!(c.run_until_led(20_000), Some(2), "elected by itself and node 3");
    assert_eq!(c.configured(3), c.configured(2));
}

/// A node that was removed and does not know it asks for votes for ever.
#[test]
fn a_removed_node_is_told_and_stops() {
    let mut c = Cluster::led_by_1(3);
    c.cut(1, 3);
    c.change(1, c.configured(1).without(3).unwrap());
    c.run(1_200);
    assert_eq!(ids(&c.configured(2)), [1, 2]);
    assert_eq!(ids(&c.configured(3)), [1, 2, 3], "it never heard of it");
    // Its next request for votes is answered.
    c.run(3_000);
    let at = c.engine(1).configuration().unwrap().0;
    assert_eq!(c.engine(3).removed(), Some(at));
    assert_eq!((c.role(3), c.engine(3).deadline()), (RoleKind::Follower, None));
    assert_eq!((c.leader(), c.term(1), c.term(3)), (Some(1), 1, 1));
    // A restart forgets it, and it is told again.
    c.crash(3);
    c.restart(3);
    assert_eq!(c.engine(3).removed(), None);
    c.run(5_000);
    assert_eq!(c.engine(3).removed(), Some(at));
    // It still votes when it is asked.
    c.elapse(1_000);
    let last = LogId::new(9, 99);
    let ask = RequestVote { pre: false, term: 9, last, transfer: false };
    c.inject(2, 3, Message::RequestVote(ask));
    assert_eq!(c.engine(3).hard_state(), HardState::new(9, Some(2)));
}

/// Who leaves is told at once, and takes part again when it is added again.
#[test]
fn who_leaves_is_told_and_may_come_back() {
    let mut c = Cluster::led_by_1(3);
    let three = c.configured(1);
    c.change(1, three.clone().without(3).unwrap());
    c.deliver_all();
    assert!(c.engine(3).removed().is_some());
    c.change(1, c.configured(1).with_learner(3, "n3").unwrap());
    c.deliver_all();
    assert_eq!((c.engine(3).removed(), c.role(3)), (None, RoleKind::Learner));
    // What it was told the first time arrives late.
    let old = c.engine(1).log().configurations().iter().rev().nth(1).unwrap().0;
    c.inject(2, 3, Message::Removed(Removed { at: old }));
    assert_eq!(c.engine(3).removed(), None);
    c.run(500);
    c.change(1, three.clone());
    c.run(500);
    assert_eq!((c.configured(3), c.role(3)), (three, RoleKind::Follower));
}

/// A node that lags behind takes a member that it has not heard of for one that was removed.
#[test]
fn a_new_member_does_not_believe_a_laggard() {
    let mut c = Cluster::led_by_1(3);
    c.cut(1, 3);
    let mut c = c.with_learners(1, &[4]);
    c.change(1, c.configured(1).promoted(4).unwrap());
    c.run(500);
    assert_eq!(ids(&c.configured(4)), [1, 2, 3, 4]);
    c.crash(1);
    c.wire.clear();
    c.run(30);
    c.elapse(1_000);
    let last = c.last(4);
    let ask = RequestVote { pre: true, term: 2, last, transfer: false };
    c.inject(4, 3, Message::RequestVote(ask));
    assert_eq!(removals(&c, 3, 4), 1, "node 3 knows of three members only");
    let granted = |m: &&Message| matches!(m, Message::RequestVoteAnswer(a) if a.granted);
    assert!(c.on_wire(3, 4).iter().any(granted), "and votes when it is asked");
    c.deliver(3, 4);
    assert_eq!(c.engine(4).removed(), None);
    assert!(c.run_until_led(20_000).is_some());
}

/// Two changes at once, or one against another's configuration.
#[test]
fn one_change_at_a_time_and_to_what_was_seen() {
    let mut c = Cluster::led_by_1(3).with_learners(1, &[4]);
    let seen = c.engine(1).configuration().unwrap().0;
    let now = c.configured(1);
    c.change(1, now.clone().promoted(4).unwrap());
    let [.., joint] = c.node(1).changing[..] else { panic!("it has begun") };
    assert_eq!(c.engine(1).configuration().unwrap().0, joint);
    c.change(1, now.clone().without(2).unwrap());
    assert_eq!(c.node(1).declined, [Decline::ChangeInProgress], "while joint");
    while c.configured(1).is_joint() {
        let packet = c.wire.pop_front().expect("it commits");
        c.receive(packet);
    }
    assert!(c.engine(1).is_changing());
    c.change(1, now.clone().without(2).unwrap());
    assert_eq!(c.node(1).declined.len(), 2, "C_new is not committed");
    c.deliver_all();
    assert!(!c.engine(1).is_changing());
    let to = c.configured(1).without(4).unwrap();
    c.step(1, Input::ChangeMembership { to: to.clone(), expected: Some(seen) });
    assert_eq!(c.node(1).declined[2..], [Decline::ConfigurationChanged]);
    let seen = c.engine(1).configuration().unwrap().0;
    c.step(1, Input::ChangeMembership { to, expected: Some(seen) });
    assert_eq!((c.node(1).changing.len(), c.node(1).declined.len()), (3, 3));
}

/// A voter that has nothing of the log: with it a majority may be one that can't commit for long.
#[test]
fn only_a_learner_that_was_heard_and_has_caught_up_is_promoted() {
    let mut c = Cluster::with_identities(3);
    c.initialize(1);
    c.run(1_000);
    c.propose(1, 50);
    c.run(200);
    c.add(Config { incarnation: 104, ..Config::new(4) }, Image::default());
    let to = c.configured(1).with_voter(4, "n4").unwrap();
    c.change(1, to.clone());
    c.cut(1, 4);
    c.change(1, c.configured(1).with_learner(4, "n4").unwrap());
    c.run(2_000);
    c.change(1, to.clone());
    let not = Decline::NotCaughtUp { id: 4 };
    assert_eq!(c.node(1).declined, [not, not], "no member; a learner without a log");
    c.heal();
    c.run(1_000);
    assert_eq!(c.configured(1).member(4).unwrap().incarnation, 104);
    c.change(1, to.clone());
    c.run(500);
    assert_eq!(ids(&c.configured(4)), [1, 2, 3, 4]);
    assert_eq!(c.configured(1).member(4).unwrap().incarnation, 104, "whatever `to` says");
    // One that does not answer any more is not caught up either, though its log was complete.
    c.change(1, c.configured(1).demoted(4).unwrap());
    c.run(500);
    c.crash(4);
    c.run(1_500);
    c.change(1, to);
    assert_eq!(c.node(1).declined.last(), Some(&not));
}

/// A voter that never had a configuration grants no vote: with the leader demoted two of three would
/// need it, and with that leader gone nobody could give it one. (Found by a simulated world.)
#[test]
fn a_change_begins_only_if_a_quorum_of_the_new_voters_can_vote() {
    let mut c = Cluster::with_identities(3);
    c.hold_disk(3);
    c.initialize(1);
    c.run(2_000);
    assert!(c.leads(1) && c.configured(1).member(3).unwrap().incarnation == 103, "3 is heard");
    let demoted = c.configured(1).demoted(1).unwrap();
    c.change(1, demoted.clone());
    assert_eq!(c.node(1).declined, [Decline::NotCaughtUp { id: 3 }]);
    c.change(1, c.configured(1).without(3).unwrap());
    c.run(500);
    assert_eq!(ids(&c.configured(2)), [1, 2], "who is missing can be left out");
    // Nor if one that had everything does not answer.
    let mut c = Cluster::led_by_1(3);
    c.crash(2);
    c.run(2_000);
    c.change(1, c.configured(1).without(1).unwrap());
    assert_eq!(c.node(1).declined, [Decline::NotCaughtUp { id: 2 }]);
    c.restart(2);
    c.run(500);
    c.change(1, c.configured(1).without(1).unwrap());
    c.run(2_000);
    assert_eq!(ids(&c.configured(2)), [2, 3]);
}

/// A member that is heard and lags is not caught up; one that follows a busy leader is.
#[test]
fn caught_up_means_one_election_timeout_behind_at_most() {
    let mut c = Cluster::led_by_1(3).with_learners(1, &[4]);
    for _ in 0..30 {
        c.propose(1, 1);
        c.run(50);
        assert!(c.engine(1).is_caught_up(c.now, 4));
    }
    c.hold_disk(4);
    c.propose(1, 1);
    c.run(300);
    assert!(c.engine(1).is_caught_up(c.now, 4), "for a while");
    c.run(400);
    assert!(!c.engine(1).is_caught_up(c.now, 4), "it answers, and its disk does not");
    c.release_disk(4);
    c.run(200);
    assert!(c.engine(1).is_caught_up(c.now, 4));
}

/// Every replacement of voters at once goes through both majorities.
#[test]
fn all_voters_are_replaced_at_once() {
    let mut c = Cluster::led_by_1(3).with_learners(1, &[4, 5, 6]);
    let to = [4, 5, 6].iter().fold(c.configured(1), |m, id| m.promoted(*id).unwrap());
    let to = only(&to, &[4, 5, 6]);
    // Neither half decides alone.
    let before = c.committed(1);
    c.partition(&[&[1, 2, 3], &[4, 5, 6]]);
    c.change(1, to.clone());
    c.run(800);
    assert_eq!(c.committed(1), before);
    c.heal();
    c.run(10_000);
    let leader = c.leader().unwrap();
    assert!((4..=6).contains(&leader), "{leader}");
    assert_eq!(c.configured(leader), to);
    for id in 1..=3 {
        assert!(c.engine(id).removed().is_some(), "node {id}");
    }
    c.propose(leader, 1);
    c.run(500);
    assert!((4..=6).all(|id| c.committed(id) == c.last(leader).index));
}

/// A read waits for the answer of a voter that is gone, and nobody is left to answer.
#[test]
fn a_reader_does_not_wait_for_who_has_left() {
    let mut c = Cluster::led_by_1(2);
    c.change(1, c.configured(1).without(2).unwrap());
    c.deliver(1, 2);
    c.read(1, 7);
    c.read(1, 8);
    c.deliver(2, 1);
    assert!(!c.configured(1).is_joint());
    c.wire.clear();
    assert!(c.node(1).reads[&7].is_some() && c.node(1).reads[&8].is_some());
}

/// What makes no sense is declined, and nothing is in the log for it.
#[test]
fn changes_that_make_no_sense_are_declined() {
    let mut c = Cluster::led_by_1(3);
    let last = c.last(1);
    let now = c.configured(1);
    let joint = now.joint_with(&now.clone().without(3).unwrap());
    c.change(1, now.clone());
    c.change(1, joint);
    c.change(1, now.clone().with_witness(3).unwrap());
    let unusable = |d: &&Decline| matches!(d, Decline::Unusable(_));
    assert_eq!(c.node(1).declined.iter().filter(unusable).count(), 3);
    assert_eq!(c.last(1), last);
    c.change(2, now.without(3).unwrap());
    assert_eq!(c.node(2).declined, [Decline::NotLeader { leader: Some(1) }]);
    c.change(1, c.configured(1).with_address(2, "elsewhere").unwrap());
    assert!(!c.configured(1).is_joint(), "an address is no voter");
    c.deliver_all();
    assert_eq!(c.configured(3).member(2).unwrap().address, "elsewhere");
}

/// Messages of members that a configuration has just left out, in every order.
#[test]
fn answers_of_those_who_left_do_no_harm() {
    let mut c = Cluster::led_by_1(5);
    c.propose(1, 3);
    c.wake(1);
    c.change(1, only(&c.configured(1), &[1, 2]));
    // The last sent is delivered first.
    for _ in 0..5_000 {
        let Some(packet) = c.wire.pop_back() else { break };
        c.receive(packet);
    }
    c.run(5_000);
    let leader = c.leader().unwrap();
    assert_eq!(ids(&c.configured(leader)), [1, 2]);
    let accused = |id: NodeId| c.node(id).notices.iter().any(|(_, n)| *n != Notice::Stranger);
    assert!((1..=5).all(|id| !accused(id)), "{:?}", c.node(1).notices);
}

/// Terms and members of a heartbeat that a removed node gets from a leader that knows nothing.
#[test]
fn a_removed_node_that_an_old_leader_speaks_to_is_told_again() {
    let mut c = Cluster::led_by_1(3);
    c.change(1, c.configured(1).without(3).unwrap());
    c.deliver_all();
    assert!(c.engine(3).removed().is_some());
    let promise = Duration::from_millis(500);
    let heartbeat = Heartbeat {
        term: 1,
        session: 9,
        round: 900,
        commit: 0,
        promise,
        witness: false,
        refill: LogId::ZERO,
    };
    c.inject(1, 3, Message::Heartbeat(heartbeat));
    assert!(c.engine(3).removed().is_none());
    c.deliver_all();
    assert!(c.engine(3).removed().is_some(), "its answer was answered");
}

/// A membership from the disk with a member of each kind, as nodes of the same term know it.
#[test]
fn roles_follow_the_configuration_in_force() {
    let members = (1..=4).map(|id| (id, Member::at(format!("n{id}")))).collect();
    let m = Membership::new([1, 2, 3].into(), [].into(), [4].into(), members).unwrap();
    let mut c = Cluster::new(4);
    let hard = HardState::new(1, None);
    let terms: &[Term] = &[0, 1];
    (1..=4).for_each(|id| c.add(Config::new(id), Image::of_terms(hard, &m, terms)));
    let leader = c.run_until_led(20_000).unwrap();
    assert_eq!(c.role(4), RoleKind::Learner);
    c.run(1_000);
    c.change(leader, c.configured(leader).promoted(4).unwrap().demoted(leader).unwrap());
    c.run(5_000);
    assert_eq!((c.role(4) == RoleKind::Learner, c.role(leader)), (false, RoleKind::Learner));
    assert_eq!(c.engine(leader).removed(), None, "a learner is a member");
}
