//! A lost quorum that an operator recovers: who follows, who does not, and who is not heard.

mod common;

use common::{Cluster, Image, voters};
use quorate_engine::{Config, HardState, LogId, Message, Notice, RoleKind};

/// Five nodes that lost three, and what the first survivor makes of it.
fn recovered() -> Cluster {
    let mut c = Cluster::led_by_1(5);
    c.propose(1, 3);
    c.run(1_000);
    for id in 1..=4 {
        c.crash(id);
    }
    c.recover(4, &[4, 5]);
    c.restart(4);
    c
}

fn follows(c: &Cluster, id: u64) -> bool {
    c.node(id).group == 1
}

#[test]
fn a_survivor_that_is_named_follows_and_the_group_goes_on() {
    let mut c = recovered();
    let (before, committed) = (c.engine(5).term(), c.engine(5).log().committed());
    c.run(5_000);
    assert!(follows(&c, 5));
    let leader = if c.leads(4) { 4 } else { 5 };
    assert!(c.leads(leader) && c.engine(5).term() > before);
    c.propose(leader, 1);
    c.run(1_000);
    for id in [4, 5] {
        let log = c.engine(id).log();
        assert!(log.committed() > committed + 1, "node {id}");
        let recovery = log.membership().unwrap().recovery().unwrap();
        assert_eq!((recovery.by, recovery.former.as_slice()), (4, &[0][..]));
        assert!(log.contains(recovery.at) && log.contains(recovery.after));
    }
    // It stays so after a restart, and the next election needs nobody of before.
    c.crash(4);
    c.crash(5);
    c.restart(4);
    c.restart(5);
    c.run(5_000);
    assert!(c.leads(4) || c.leads(5));
}

/// Whoever hears a leader has a quorum: then it is not lost, whatever an operator thinks.
#[test]
fn who_hears_a_leader_does_not_follow() {
    let mut c = Cluster::led_by_1(5);
    c.run(1_000);
    c.crash(4);
    c.recover(4, &[4, 5]);
    c.restart(4);
    c.run(5_000);
    assert!(!follows(&c, 5) && c.leads(1));
    assert_eq!(c.role(4), RoleKind::PreCandidate, "it is alone");
    // The old group goes on without the node that was taken from it.
    c.propose(1, 1);
    c.run(1_000);
    assert!(c.engine(5).log().committed() > c.engine(4).log().committed());
}

/// The operator has chosen badly: what is committed may be with the other.
#[test]
fn who_has_newer_entries_does_not_follow() {
    for (terms, newer) in [(&[0, 1, 1, 1][..], true), (&[0, 1, 2], true), (&[0, 1], false)] {
        let mut c = Cluster::new(5);
        (3..=5).for_each(|id| c.crash(id));
        let hard = HardState::new(2, None);
        c.add(Config::new(1), Image::of_terms(hard, &voters(5), &[0, 1, 1]));
        c.add(Config::new(2), Image::of_terms(hard, &voters(5), terms));
        c.crash(1);
        c.recover(1, &[1, 2]);
        c.restart(1);
        c.run(5_000);
        assert_eq!(follows(&c, 2), !newer, "{terms:?}");
        assert_eq!(c.node(2).notices.contains(&(1, Notice::LacksOurs)), newer, "{terms:?}");
        assert_eq!(c.leads(1) || c.leads(2), !newer, "{terms:?}");
    }
}

/// What was voted, promised and sent in the old group has no effect in the new one: whoever follows is
/// in a term in which nobody has voted yet.
#[test]
fn votes_of_before_mean_nothing() {
    let mut c = Cluster::new(5);
    (4..=5).for_each(|id| c.crash(id));
    // Node 2 has voted for node 3 in the very term in which node 1 is recovered.
    let (one, two) = (HardState::new(1, None), HardState::new(2, Some(3)));
    c.add(Config::new(1), Image::of_terms(one, &voters(5), &[0, 1, 1]));
    c.add(Config::new(2), Image::of_terms(two, &voters(5), &[0, 1, 1]));
    c.add(Config::new(3), Image::of_terms(two, &voters(5), &[0, 1, 1]));
    c.crash(1);
    c.crash(3);
    c.recover(1, &[1, 2]);
    assert_eq!(c.node(1).disk.hard, HardState::new(2, Some(1)));
    c.restart(1);
    let granted = quorate_engine::message::RequestVoteAnswer { pre: false, term: 2, granted: true };
    c.run(5_000);
    assert!(follows(&c, 2) && c.engine(2).term() > 2);
    let leader = if c.leads(1) { 1 } else { 2 };
    assert!(c.engine(leader).term() > 2, "nobody ever leads in the term of the recovery");
    // A vote of the old group that arrives late finds nobody.
    c.node_mut(3).group = 0;
    let (role, term) = (c.role(leader), c.engine(leader).term());
    c.receive(common::Packet {
        from: 3,
        to: leader,
        incarnation: 0,
        group: 0,
        message: Message::RequestVoteAnswer(granted),
    });
    assert_eq!((c.role(leader), c.engine(leader).term()), (role, term));
}

/// All that were lost come back, a majority of the old group: they may elect among themselves, and
/// have no part in the new one.
#[test]
fn the_lost_come_back_and_are_not_heard() {
    let mut c = recovered();
    c.run(5_000);
    let leader = if c.leads(4) { 4 } else { 5 };
    let term = c.engine(leader).term();
    for id in 1..=3 {
        c.restart(id);
    }
    c.run(10_000);
    assert!(c.leads(leader) && (1..=3).any(|id| c.leads(id)), "two groups");
    assert_eq!(c.engine(leader).term(), term);
    for id in 1..=3 {
        assert!(!follows(&c, id));
        assert!(c.engine(id).log().membership().unwrap().recovery().is_none());
    }
}

/// A recovered member that is not tied to its directory could be another disk.
#[test]
fn only_the_directory_that_is_named_follows() {
    let mut c = recovered();
    c.node_mut(5).config.incarnation = 55;
    let disk = c.node(5).disk.clone();
    let config = c.node(5).config.clone();
    c.crash(5);
    c.add(config, disk);
    c.run(5_000);
    assert!(!follows(&c, 5) && !c.leads(4));
    assert_eq!(c.engine(5).log().last().index, c.node(5).disk.last().index);
    assert_ne!(c.engine(5).log().last(), LogId::ZERO);
}
