//! Witnesses: voters that keep no commands. What they are given, and what they must never become.

mod common;

use common::{Cluster, Image, voters};
use quorate_engine::message::{AppendEntries, Heartbeat};
use quorate_engine::{
    Batch, Config, Decline, EntryBlock, EntryKind, Input, LogId, Message, NodeId, Notice,
};

/// Of three, with 3 as the witness and 1 as the leader; snapshots leave nothing in the log.
fn with_a_witness() -> Cluster {
    let mut c = Cluster::new(3);
    (1..=3).for_each(|id| c.add(short(id), Image::default()));
    c.membership = voters(3).with_witness(3).unwrap();
    c.initialize(1);
    c.deliver_all();
    c.wake(1);
    c.deliver_all();
    assert!(c.leads(1));
    c
}

fn short(id: NodeId) -> Config {
    Config { keep_entries: 0, ..Config::new(id) }
}

/// Begun where nobody would campaign, a group would never come to be.
#[test]
fn a_group_begins_at_a_voter_that_may_lead() {
    let mut c = Cluster::new(4);
    c.membership = voters(3).with_witness(3).unwrap();
    c.initialize(3);
    c.initialize(4);
    let unusable = |d: &Decline| matches!(d, Decline::Unusable(_));
    assert!(unusable(&c.node(3).declined[0]) && unusable(&c.node(4).declined[0]));
    assert_eq!(c.last(3), LogId::ZERO);
}

/// A witness votes and counts, and never leads.
#[test]
fn a_witness_votes_and_never_campaigns() {
    let mut c = with_a_witness();
    assert_eq!(c.engine(3).deadline(), None);
    c.transfer(1, Some(3));
    assert!(matches!(c.node(1).declined[..], [Decline::Unusable(_)]));
    c.step(3, Input::Campaign);
    assert!(matches!(c.node(3).declined[..], [Decline::Unusable(_)]));
    c.crash(2);
    c.propose(1, 1);
    c.run(200);
    assert_eq!(c.committed(1), c.last(1).index, "1 and the witness");
    c.restart(2);
    c.run(500);
    c.crash(1);
    assert_eq!(c.run_until_led(20_000), Some(2), "elected by the witness");
}

/// A leader that crashes leaves its newest entries with a witness alone, to which every candidate
/// would be compared, and which leads nobody.
#[test]
fn a_witness_never_has_more_than_every_replica() {
    let mut c = Cluster::new(2);
    c.membership = voters(2).with_witness(2).unwrap();
    c.initialize(1);
    c.run(500);
    c.hold_disk(1);
    let before = c.last(1);
    c.propose(1, 2);
    c.run(300);
    assert_eq!(c.last(2), before, "they are not durable at the leader");
    c.sync(1, 1);
    c.deliver_all();
    assert_eq!(c.last(2), c.last(1));
    c.hold_disk(1);
    c.propose(1, 1);
    c.run(300);
    c.crash(1);
    c.restart(1);
    assert_eq!(c.run_until_led(20_000), Some(1));
}

/// Nor more than those who stay when the leader is left out: it goes, and its durable log does not help
/// to elect anyone. (Found by a simulated world.)
#[test]
fn a_leader_that_is_left_out_leaves_no_witness_ahead() {
    let mut c = with_a_witness();
    c.propose(1, 1);
    c.deliver_all();
    c.change(1, c.configured(1).demoted(1).unwrap());
    (2..=3).for_each(|to| c.deliver(1, to));
    (2..=3).for_each(|from| c.deliver(from, 1));
    assert!(!c.configured(1).is_voter(1) && c.leads(1), "C_new is appended");
    c.propose(1, 2);
    (2..=3).for_each(|to| c.deliver(1, to));
    let reached = c.last(3).index;
    c.drop(1, 2);
    c.cut(1, 2);
    c.propose(1, 2);
    c.run(5_000);
    c.crash(1);
    c.heal();
    assert!(reached < c.last(2).index, "the witness waited for node 2");
    assert_eq!(c.run_until_led(20_000), Some(2));
}

// ---- what it keeps ----

fn commands(c: &Cluster, id: NodeId) -> (usize, usize) {
    let blocks = &c.node(id).disk.blocks;
    let commands = blocks.iter().filter(|block| block.kind() == EntryKind::Command);
    let (withheld, whole): (Vec<_>, Vec<_>) = commands.partition(|block| block.is_withheld());
    (withheld.len(), whole.len())
}

/// Its log says which entries there are and who the members are, and nothing of the commands.
#[test]
fn a_witness_keeps_no_commands() {
    let mut c = with_a_witness();
    for _ in 0..3 {
        c.propose(1, 2);
        c.deliver_all();
    }
    assert_eq!((commands(&c, 3), commands(&c, 2)), ((3, 0), (0, 3)));
    assert_eq!(c.node(3).disk.terms(), c.node(2).disk.terms());
    assert_eq!(c.configured(3), c.configured(2));
    assert!(c.engine(3).hard_state().witness && !c.engine(2).hard_state().witness);
    c.crash(3);
    c.restart(3);
    assert!(c.engine(3).hard_state().witness, "for as long as its disk lives");
    assert_eq!(c.engine(3).deadline(), None);
}

/// What the commands did is nothing to it: it is told where to go on.
#[test]
fn a_witness_that_is_far_behind_is_told_where_to_go_on() {
    let mut c = with_a_witness();
    c.crash(3);
    c.propose(1, 20);
    c.run(100);
    c.snapshot(1);
    assert!(c.engine(1).log().compacted().index > 0);
    c.restart(3);
    c.run(2_000);
    assert_eq!(c.last(3), c.last(1));
    assert_eq!(c.engine(3).log().compacted(), c.engine(1).log().snapshot());
    assert!(
        c.node(3).disk.snapshot.iter().all(|b| b.kind() != EntryKind::Command || b.is_withheld())
    );
}

/// A start that finds a snapshot has to know that there is nothing in it to restore.
#[test]
fn a_witness_knows_what_it_is_before_it_has_a_snapshot() {
    let mut c = with_a_witness();
    c.propose(1, 20);
    c.run(100);
    c.snapshot(1);
    assert!(c.engine(1).log().compacted().index > 0);
    c.add(short(4), Image::default());
    c.hold_disk(4);
    c.change(1, c.configured(1).with_learner(4, "n4").unwrap().with_witness(4).unwrap());
    c.run(2_000);
    assert!(c.node(4).disk.snapshot.is_empty() && !c.node(4).disk.hard.witness);
    c.release_disk(4);
    c.run(100);
    assert!(c.node(4).disk.hard.witness);
    // Nobody sends it again by himself here.
    let session = c.node(1).sending[&4];
    c.step(1, Input::Lost { to: 4, session });
    c.run(2_000);
    assert!(!c.node(4).disk.snapshot.is_empty());
    assert_eq!(c.last(4), c.last(1));
}

/// A full replica that lacks commands would be counted for what it has not.
#[test]
fn what_a_witness_kept_is_no_full_replica() {
    let mut c = with_a_witness();
    c.propose(1, 2);
    c.deliver_all();
    c.change(1, c.configured(1).without(3).unwrap());
    c.run(300);
    assert_eq!(c.configured(1).voters(), &[1, 2].into());
    c.change(1, c.configured(1).with_learner(3, "n3").unwrap());
    // Nothing but what is no command: all of it would fit.
    c.run(3_000);
    assert!(c.node(3).notices.contains(&(1, Notice::WantsCommands)));
    c.change(1, c.configured(1).promoted(3).unwrap());
    assert_eq!(c.node(1).declined.last(), Some(&Decline::NotCaughtUp { id: 3 }));
    // As what it is it may come back, and so may an empty directory as anything.
    c.change(1, c.configured(1).without(3).unwrap());
    c.run(300);
    let again = c.configured(1).with_learner(3, "n3").unwrap().with_witness(3).unwrap();
    c.change(1, again);
    c.run(3_000);
    c.change(1, c.configured(1).promoted(3).unwrap());
    c.run(300);
    assert_eq!(c.configured(3).voters(), &[1, 2, 3].into());
    assert_eq!(c.committed(3), c.last(1).index);
}

/// The other way around nothing is missing.
#[test]
fn a_full_replica_may_come_back_as_a_witness() {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 2);
    c.deliver_all();
    c.change(1, c.configured(1).without(3).unwrap());
    c.run(300);
    c.change(1, c.configured(1).with_learner(3, "n3").unwrap().with_witness(3).unwrap());
    c.run(1_000);
    c.propose(1, 2);
    c.run(300);
    assert_eq!(commands(&c, 3), (1, 1));
    assert!(c.engine(3).hard_state().witness);
    c.change(1, c.configured(1).promoted(3).unwrap());
    c.run(300);
    assert_eq!(c.configured(3).voters(), &[1, 2, 3].into());
    c.step(3, Input::Campaign);
    assert!(matches!(c.node(3).declined[..], [Decline::Unusable(_)]));
}

/// No leader sends them: a full replica that took them would have lost them.
#[test]
fn a_full_replica_takes_no_entry_without_its_command() {
    let mut c = Cluster::led_by_1(3);
    let (term, prev) = (c.term(2), c.last(2));
    let mut batch = Batch::new(0);
    batch.push(b"a command");
    let block: EntryBlock = batch.seal(LogId::new(term, prev.index + 1)).withheld();
    let blocks = vec![block];
    let promise = c.node(2).config.election_timeout_min;
    let append = |witness| {
        let (session, blocks, commit) = (99, blocks.clone(), 0);
        let m = AppendEntries { term, session, prev, blocks, commit, promise, witness };
        Message::AppendEntries(m)
    };
    c.inject(1, 2, append(false));
    assert_eq!(c.last(2), prev);
    assert!(matches!(c.node(2).notices[..], [(1, Notice::Violation(_))]));
    c.inject(1, 2, append(true));
    assert_ne!(c.last(2), prev, "as a witness it does");
    let heartbeat = Heartbeat {
        term,
        session: 99,
        round: 9,
        commit: 0,
        promise,
        witness: false,
        refill: LogId::ZERO,
    };
    c.inject(1, 2, Message::Heartbeat(heartbeat));
    assert_eq!(c.node(2).notices.last(), Some(&(1, Notice::WantsCommands)));
}
