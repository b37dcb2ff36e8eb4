//! How Raft implementations have gone wrong, and that this one does not: a test for each failure
//! known from other systems that an engine without I/O can have. The rules of the paper itself are in
//! `paper.rs`; the same dangers under random faults are the simulator's.

mod common;

use std::time::Duration;

use common::{Cluster, Image, Packet, voters};
use quorate_engine::message::{
    AppendEntries, AppendEntriesAnswer, Heartbeat, HeartbeatAnswer, ReadIndex, ReadIndexAnswer,
    RequestVote, RequestVoteAnswer,
};
use quorate_engine::{
    Batch, Config, Decline, Engine, EntryBlock, HardState, Input, Instant, Log, LogId, Member,
    Membership, Message, NodeId, Notice, RoleKind, StartError, Term, TermRun,
};

fn hard(term: Term) -> HardState {
    HardState::new(term, None)
}

fn with_logs(logs: &[(Term, &[Term])]) -> Cluster {
    let mut c = Cluster::new(logs.len() as u64);
    let membership = voters(logs.len() as u64);
    for (id, (term, terms)) in (1..).zip(logs) {
        c.add(Config::new(id), Image::of_terms(hard(*term), &membership, terms));
    }
    c.elapse(1000);
    c
}

fn block(term: Term, first: u64, what: &str) -> EntryBlock {
    let mut batch = Batch::new(0);
    batch.push(what.as_bytes());
    batch.seal(LogId::new(term, first))
}

fn append(term: Term, session: u64, prev: LogId, blocks: Vec<EntryBlock>, commit: u64) -> Message {
    let promise = Duration::from_millis(500);
    let witness = false;
    Message::AppendEntries(AppendEntries { term, session, prev, blocks, commit, promise, witness })
}

fn heartbeat(term: Term, session: u64, round: u64, commit: u64) -> Message {
    let promise = Duration::from_millis(500);
    let (witness, refill) = (false, LogId::ZERO);
    Message::Heartbeat(Heartbeat { term, session, round, commit, promise, witness, refill })
}

fn vote_request(term: Term, last: LogId) -> Message {
    Message::RequestVote(RequestVote { pre: false, term, last, transfer: false })
}

fn votes_on_wire(c: &Cluster, voter: NodeId, to: NodeId) -> usize {
    let grant = |m: &&&Message| matches!(m, Message::RequestVoteAnswer(a) if a.granted && !a.pre);
    c.on_wire(voter, to).iter().filter(grant).count()
}

/// The largest index that a node claims to have durably, among its messages on the wire.
fn claims(c: &Cluster, from: NodeId, to: NodeId) -> u64 {
    let claim = |m: &&Message| match m {
        Message::AppendEntriesAnswer(m) => m.matched,
        Message::HeartbeatAnswer(m) => m.matched,
        _ => 0,
    };
    c.on_wire(from, to).iter().map(claim).max().unwrap_or(0)
}

// ---- persistence ----

/// Two votes in one term, because a request for votes left before the own vote was durable.
#[test]
fn a_vote_request_leaves_only_when_the_own_vote_is_durable() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
    c.hold_disk(1);
    c.wake(1);
    c.deliver(1, 2);
    c.deliver(2, 1);
    assert_eq!((c.role(1), c.term(1)), (RoleKind::Candidate, 2));
    assert!(c.on_wire(1, 2).is_empty(), "nobody is asked yet");
    // The crash takes the vote with it; it may be given to another.
    c.crash(1);
    c.restart(1);
    c.elapse(1000);
    c.inject(3, 1, vote_request(2, LogId::new(1, 2)));
    assert_eq!(votes_on_wire(&c, 1, 3), 1);
}

/// The write of something else is no reason to ask.
#[test]
fn a_vote_request_waits_for_the_write_of_the_vote_itself() {
    let mut c = Cluster::new(3);
    c.hold_disk(1);
    c.initialize(1);
    c.deliver_all();
    assert_eq!((c.role(1), c.node(1).unsynced.len()), (RoleKind::Candidate, 2));
    c.sync(1, 1); // the configuration
    assert!(c.on_wire(1, 2).is_empty());
    c.sync(1, 1); // the vote
    assert_eq!(c.on_wire(1, 2), [&vote_request(1, LogId::new(0, 1))]);
}

/// The same for a vote granted to another.
#[test]
fn a_vote_is_granted_only_when_it_is_durable() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
    c.hold_disk(1);
    c.inject(2, 1, vote_request(2, LogId::new(1, 2)));
    c.inject(2, 1, vote_request(2, LogId::new(1, 2)));
    assert_eq!(votes_on_wire(&c, 1, 2), 0, "also not when asked twice");
    c.crash(1);
    c.restart(1);
    c.elapse(1000);
    c.inject(3, 1, vote_request(2, LogId::new(1, 2)));
    assert_eq!((votes_on_wire(&c, 1, 2), votes_on_wire(&c, 1, 3)), (0, 1));
    // And when it is durable, it leaves by itself.
    c.take(1, 3);
    c.hold_disk(1);
    c.inject(3, 1, vote_request(3, LogId::new(1, 2)));
    assert_eq!(votes_on_wire(&c, 1, 3), 0);
    c.release_disk(1);
    assert_eq!(votes_on_wire(&c, 1, 3), 1);
}

/// A promise to take the first configuration left before its write was durable, paid by the durable
/// vote of another candidate.
#[test]
fn a_debt_is_not_paid_by_another_ones_write() {
    let mut c = Cluster::new(3);
    let introduce = EntryBlock::configuration(LogId::new(0, 1), &voters(3));
    c.hold_disk(1);
    c.inject(2, 1, vote_request(1, LogId::new(0, 1)));
    c.sync(1, 1); // term 1 is durable
    c.inject(
        3,
        1,
        Message::Introduce(quorate_engine::message::Introduce { configuration: introduce }),
    );
    c.inject(2, 1, vote_request(1, LogId::new(0, 1)));
    c.sync(1, 0);
    let introduced =
        |c: &Cluster| c.on_wire(1, 3).iter().any(|m| matches!(m, Message::Introduced(_)));
    assert!(!introduced(&c));
    c.release_disk(1);
    assert!(introduced(&c));
}

/// An empty, duplicate or heartbeat answer that skipped the wait for the disk.
#[test]
fn no_answer_claims_more_than_the_disk_has() {
    let mut c = Cluster::led_by_1(3);
    c.hold_disk(2);
    c.propose(1, 2);
    let appends = c.take(1, 2);
    appends.iter().for_each(|p| c.receive(p.clone()));
    appends.iter().for_each(|p| c.receive(p.clone())); // a duplicate
    let session = c.engine(1).matched().count() as u64 - 1; // sessions 1 and 2; node 2 has the first
    c.inject(1, 2, append(1, session, LogId::new(1, 4), vec![], 2)); // an empty one
    c.inject(1, 2, heartbeat(1, session, 99, 2));
    assert_eq!(c.last(2), LogId::new(1, 4), "it has the entries in memory");
    assert_eq!(claims(&c, 2, 1), 2, "and claims what its disk has");
    let accepted = c.on_wire(2, 1).into_iter().find_map(|m| match m {
        Message::HeartbeatAnswer(m) => Some(m.accepted),
        _ => None,
    });
    assert_eq!(accepted, Some(4), "the heartbeat's answer does not wait for the disk");
    c.release_disk(2);
    assert_eq!(claims(&c, 2, 1), 4);
}

/// A single voter that acknowledged itself before its disk had the entry.
#[test]
fn a_single_voter_waits_for_its_disk() {
    let mut c = Cluster::new(1);
    c.initialize(1);
    c.hold_disk(1);
    c.propose(1, 1);
    assert_eq!(c.committed(1), 2);
    c.release_disk(1);
    assert_eq!(c.committed(1), 3);
}

/// A leader of several counts itself only when its own disk has the entry.
#[test]
fn a_leader_counts_itself_only_when_its_disk_has_it() {
    let mut c = Cluster::led_by_1(3);
    c.hold_disk(1);
    c.propose(1, 1);
    c.deliver(1, 2);
    c.deliver(2, 1);
    assert_eq!(c.committed(1), 2, "one disk of three");
    c.release_disk(1);
    assert_eq!(c.committed(1), 3);
}

/// ABA: a completion of entries that were overwritten while they were being written, taken for the
/// entries that stand in their place.
#[test]
fn a_completion_of_an_overwritten_suffix_counts_for_nothing() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
    c.hold_disk(1);
    let prev = LogId::new(1, 2);
    let old = vec![block(1, 3, "old"), block(1, 4, "old")];
    c.inject(2, 1, append(1, 1, prev, old, 0));
    c.inject(3, 1, append(2, 1, prev, vec![block(2, 3, "new"), block(2, 4, "new")], 0));
    c.sync(1, 1); // the old entries are on the disk
    assert_eq!(c.engine(1).log().persisted(), 2);
    assert_eq!(claims(&c, 1, 3), 2, "3 and 4 are there, and they are others");
    assert_eq!(claims(&c, 1, 2), 0, "nobody hears of the old ones");
    c.sync(1, 1);
    assert_eq!(claims(&c, 1, 3), 4);
}

/// A missing file of terms and votes read as term 0 beside a log that knows better.
#[test]
fn a_log_without_its_term_is_refused() {
    let log = Log::recovered(
        LogId::ZERO,
        LogId::new(3, 2),
        vec![TermRun { first: 1, term: 0 }, TermRun { first: 2, term: 3 }],
        vec![(LogId::new(0, 1), voters(3))],
    );
    let started = Engine::new(Config::new(1), HardState::default(), log.unwrap(), Instant::ORIGIN);
    assert!(matches!(started, Err(StartError::HardStateLost { log: 3, stored: 0 })));
}

/// Commit on {1,2,3} of five, wipe 3, stop 1, elect among 3, 4, 5, who never heard of the entry.
#[test]
fn a_wiped_disk_does_not_help_elect_a_leader_that_lacks_what_it_lost() {
    let mut c = Cluster::with_identities(5);
    c.initialize(1);
    // Nodes 4 and 5 are introduced and then cut off, before they know anyone's identity.
    for _ in 0..2 {
        (1..=5).for_each(|to| c.deliver(1, to));
        (2..=5).for_each(|from| c.deliver(from, 1));
    }
    assert!(c.leads(1));
    c.wire.clear();
    c.partition(&[&[1, 2, 3], &[4, 5]]);
    c.run(1_000);
    c.propose(1, 1);
    c.deliver_all();
    let lost = c.committed(1);
    assert!(lost >= 4 && c.last(4) == LogId::new(0, 1), "{lost} {}", c.last(4));
    c.crash(1);
    c.wipe(3, 999);
    c.heal();
    c.run(500);
    // Nodes 4 and 5 reach node 3 first, and introduce it anew.
    c.partition(&[&[2], &[3, 4, 5]]);
    c.run(20_000);
    assert!([3, 4, 5].iter().all(|id| !c.leads(*id)), "led without the committed entry");
    c.heal();
    assert_eq!(c.run_until_led(20_000), None, "node 3 is refused");
    assert_eq!(c.leader(), Some(2), "2, 4 and 5 go on with what was committed");
    assert!(c.committed(2) > lost);
    assert!(c.node(3).fatal.is_some(), "node 3 was told: {:?}", c.node(3).fatal);
}

/// The same with the founder, who trusts those it introduced: it was cut off, the others have elected
/// one of them, and a disk that was wiped since is introduced anew.
#[test]
fn a_founder_that_was_cut_off_trusts_nobody_for_ever() {
    let mut c = Cluster::with_identities(5);
    c.initialize(1);
    for id in [2, 5] {
        c.deliver(1, id);
        c.deliver(id, 1);
    }
    assert_eq!(c.last(3), LogId::ZERO, "only 2 and 5 are introduced");
    c.wire.clear();
    c.cut(1, 2);
    c.cut(2, 1);
    c.step(2, Input::Campaign);
    for _ in 0..8 {
        (3..=5).for_each(|id| c.deliver(2, id));
        (3..=5).for_each(|id| c.deliver(id, 2));
        if c.leads(2) {
            break;
        }
    }
    assert!(c.leads(2), "by 2, 3, 4 and 5");
    c.wire.clear();
    c.partition(&[&[1, 5], &[2, 3, 4]]);
    c.propose(2, 1);
    c.run(500);
    let lost = c.committed(2);
    assert!(lost > 2 && c.last(5) == LogId::new(0, 1), "{lost} {}", c.last(5));
    c.crash(2);
    c.wipe(3, 999);
    c.heal();
    c.partition(&[&[1, 3, 5], &[4]]);
    c.run(30_000);
    assert!([1, 3, 5].iter().all(|id| !c.leads(*id)), "led without the committed entry");
    c.heal();
    c.restart(2);
    c.run(30_000);
    assert!(matches!(c.leader(), Some(2 | 4)), "who has it: {:?}", c.leader());
}

/// The same where nobody has to be introduced: a node that knows no configuration has no vote.
#[test]
fn a_blank_node_grants_no_vote() {
    let mut c = Cluster::new(3);
    c.inject(2, 1, vote_request(1, LogId::new(7, 70)));
    let pre = RequestVote { pre: true, term: 2, last: LogId::new(7, 70), transfer: false };
    c.inject(2, 1, Message::RequestVote(pre));
    let yes = |m: &&&Message| matches!(m, Message::RequestVoteAnswer(a) if a.granted);
    assert_eq!(c.on_wire(1, 2).iter().filter(yes).count(), 0);
}

/// The first leader of a group writes down whose disks elected it before it takes a command.
#[test]
fn the_first_leader_ties_its_electors_to_their_disks() {
    let mut c = Cluster::with_identities(3);
    c.crash(3);
    c.initialize(1);
    c.deliver_all();
    assert!(c.leads(1), "two blank nodes that node 1 introduced are enough");
    let known = |c: &Cluster| {
        let membership = c.engine(1).log().membership().unwrap();
        membership.members().values().map(|m| m.incarnation).collect::<Vec<_>>()
    };
    assert_eq!((known(&c), c.terms(1)), (vec![101, 102, 0], vec![0, 1, 1]), "before any command");
    c.restart(3);
    c.run(2_000);
    assert_eq!(known(&c), [101, 102, 103]);
    c.crash(1);
    assert!(c.run_until_led(20_000).is_some(), "from now on a majority is enough");
}

/// A member that the only leader so far did not reach, or whose disk was too slow to keep what it was
/// sent, has no configuration. It has forgotten nothing: with its vote the others may be enough.
#[test]
fn a_member_that_no_leader_reached_is_introduced_by_the_next_candidate() {
    let mut c = Cluster::with_identities(3);
    c.hold_disk(3);
    c.initialize(1);
    c.run(2_000);
    assert!(c.leads(1) && c.committed(2) > 1, "two are enough to begin");
    c.crash(3);
    c.crash(1);
    c.restart(3);
    assert_eq!(c.engine(3).log().last(), LogId::ZERO, "it kept nothing");
    assert_eq!(c.run_until_led(20_000), Some(2), "two of three, one of them with everything");
}

/// A script that initializes at every start, on a disk that was wiped: node 3 of the five above is
/// told to begin a group that nodes 4 and 5 know already.
#[test]
fn a_wiped_node_that_is_initialized_again_founds_nothing_among_old_members() {
    for founder in [3, 1] {
        let mut c = Cluster::with_identities(5);
        c.initialize(1);
        for _ in 0..2 {
            (1..=5).for_each(|to| c.deliver(1, to));
            (2..=5).for_each(|from| c.deliver(from, 1));
        }
        c.wire.clear();
        c.partition(&[&[1, 2, 3], &[4, 5]]);
        c.run(1_000);
        c.propose(1, 1);
        c.deliver_all();
        let lost = c.committed(1);
        c.crash(1);
        c.wipe(founder, 999);
        c.heal();
        c.partition(&[&[1, 2, 3].map(|id| if id == founder { 2 } else { id }), &[founder, 4, 5]]);
        c.initialize(founder);
        c.run(20_000);
        assert!([founder, 4, 5].iter().all(|id| !c.leads(*id)), "{lost} is lost");
    }
}

// ---- identity ----

/// A known id with another disk is not heard, whatever it says.
#[test]
fn another_incarnation_is_refused() {
    let mut c = Cluster::with_identities(3);
    c.initialize(1);
    c.run(3_000);
    assert!(c.leads(1));
    for message in [
        vote_request(50, LogId::new(40, 40)),
        heartbeat(50, 1, 1, 0),
        append(50, 1, LogId::ZERO, vec![], 0),
        Message::ReadIndex(ReadIndex { term: 50, context: 1, lease: false }),
    ] {
        let term = c.term(2);
        c.receive(Packet { from: 3, to: 2, incarnation: 777, group: 0, message });
        assert_eq!(c.term(2), term);
        assert_eq!(c.node_mut(2).notices.pop(), Some((3, Notice::Stranger)));
        let answer = c.take(2, 3).pop().unwrap().message;
        assert!(matches!(answer, Message::Stranger(m) if m.refused == 777));
    }
}

// ---- elections ----

/// A higher term that was only seen, stored as if its candidate had been voted for.
#[test]
fn a_term_seen_is_not_a_vote_granted() {
    let mut c = with_logs(&[(1, &[0, 1, 1]), (1, &[0, 1]), (1, &[0, 1, 1])]);
    c.inject(2, 1, vote_request(5, LogId::new(1, 2))); // a log too short
    assert_eq!(c.node(1).disk.hard, hard(5));
    c.inject(3, 1, vote_request(5, LogId::new(1, 3)));
    assert_eq!(votes_on_wire(&c, 1, 3), 1);
}

/// An answer's higher term ignored on one path of many.
#[test]
fn a_higher_term_deposes_on_every_path() {
    let promised = Duration::ZERO;
    let answers = [
        Message::RequestVoteAnswer(RequestVoteAnswer { pre: false, term: 9, granted: false }),
        Message::RequestVoteAnswer(RequestVoteAnswer { pre: true, term: 9, granted: false }),
        Message::HeartbeatAnswer(HeartbeatAnswer {
            term: 9,
            session: 0,
            round: 0,
            accepted: 0,
            matched: 0,
            promised,
            priority: 0,
        }),
        Message::AppendEntriesAnswer(AppendEntriesAnswer {
            term: 9,
            session: 0,
            matched: 0,
            conflict: None,
        }),
        Message::AppendEntriesAnswer(AppendEntriesAnswer {
            term: 9,
            session: 0,
            matched: 0,
            conflict: Some(LogId::ZERO),
        }),
        Message::ReadIndex(ReadIndex { term: 9, context: 1, lease: false }),
        Message::ReadIndexAnswer(ReadIndexAnswer { term: 9, context: 1, index: None }),
        heartbeat(9, 1, 1, 0),
        append(9, 1, LogId::ZERO, vec![], 0),
    ];
    for answer in answers {
        let mut c = Cluster::led_by_1(3);
        let text = answer.to_string();
        c.inject(2, 1, answer);
        assert_eq!((c.role(1), c.term(1)), (RoleKind::Follower, 9), "{text}");
        assert_eq!(c.node(1).disk.hard.term, 9, "{text}");
    }
}

/// A leader whose disk hangs, and which holds its followers with heartbeats for ever.
#[test]
fn a_leader_whose_own_disk_hangs_steps_down() {
    let mut c = Cluster::led_by_1(3);
    c.hold_disk(1);
    c.propose(1, 1);
    c.run(4_000);
    let leader = c.leader().expect("a new leader within a bound");
    assert_ne!(leader, 1);
    c.propose(leader, 1);
    c.run(500);
    assert_eq!(c.committed(leader), c.last(leader).index);
    // And it does not campaign while it hangs.
    c.crash(leader);
    c.run(5_000);
    assert!(!c.leads(1));
    c.release_disk(1);
    c.run(5_000);
    assert!(c.leader().is_some());
}

/// A hung disk of a single voter: nobody else can help, and it recovers when the disk does.
#[test]
fn a_single_voter_recovers_with_its_disk() {
    let mut c = Cluster::new(1);
    c.initialize(1);
    c.hold_disk(1);
    c.propose(1, 1);
    c.run(5_000);
    assert!(!c.leads(1), "it stops claiming to lead");
    c.release_disk(1);
    c.run(5_000);
    assert!(c.leads(1) && c.committed(1) >= 3);
}

/// A node that comes back with a higher term, and one that never stops asking, don't disturb.
#[test]
fn a_returning_node_does_not_depose_the_leader() {
    let mut c = Cluster::led_by_1(5);
    c.partition(&[&[5], &[1, 2, 3, 4]]);
    c.run(30_000);
    c.heal();
    c.run(5_000);
    assert_eq!((c.leader(), c.term(1), c.term(5)), (Some(1), 1, 1));
    // It hears nobody and can speak: as a node that was removed and does not know.
    (1..=4).for_each(|from| c.cut(from, 5));
    c.run(30_000);
    assert_eq!((c.leader(), c.term(1)), (Some(1), 1));
}

/// Pre-vote and check-quorum deadlock: the only quorum has a node whose term is higher, which nobody
/// may follow and whose log is too short to lead.
#[test]
fn a_stale_voter_with_a_higher_term_is_no_deadlock() {
    let mut c = with_logs(&[(1, &[0, 1, 1]), (1, &[0, 1, 1]), (8, &[0, 1])]);
    c.crash(2);
    let leader = c.run_until_led(20_000);
    assert_eq!(leader, Some(1));
    assert!(c.term(1) > 8, "the refusal told the term");
}

/// A member that does not know of its own promotion refuses its vote, and nobody can lead.
#[test]
fn a_learner_votes_when_it_is_asked() {
    let members = (1..=3).map(|id| (id, Member::at(format!("n{id}"))));
    let two = Membership::new([1, 2].into(), [].into(), [3].into(), members.collect()).unwrap();
    let mut c = Cluster::new(3);
    c.add(Config::new(3), Image::of_terms(hard(1), &two, &[0, 1]));
    assert_eq!(c.role(3), RoleKind::Learner);
    c.elapse(1000);
    c.inject(1, 3, vote_request(2, LogId::new(1, 2)));
    assert_eq!(votes_on_wire(&c, 3, 1), 1);
    assert_eq!(c.engine(3).deadline(), None, "it does not campaign itself");
}

/// Entries that are not applied yet must not keep a node from campaigning.
#[test]
fn a_backlog_does_not_block_an_election() {
    let mut log = Log::empty();
    log.append(&EntryBlock::configuration(LogId::new(0, 1), &voters(1)));
    log.append(&block(1, 2, "a"));
    let mut engine = Engine::new(Config::new(1), hard(1), log, Instant::ORIGIN).unwrap();
    let mut out = quorate_engine::Outputs::new();
    engine.step(Instant::ORIGIN, Input::Wake, &mut out);
    engine.step(Instant::ORIGIN, Input::Persisted { seq: 1 }, &mut out);
    assert_eq!((engine.role(), engine.log().applied()), (RoleKind::Leader, 0));
}

/// A restarted voter has forgotten its leader: it must not vote while its promise may still hold.
#[test]
fn a_start_counts_as_a_promise_just_made() {
    let mut c = Cluster::led_by_1(3);
    c.crash(2);
    c.restart(2);
    let pre = Message::RequestVote(RequestVote {
        pre: true,
        term: 2,
        last: LogId::new(1, 9),
        transfer: false,
    });
    for request in [vote_request(2, LogId::new(1, 9)), pre] {
        c.inject(3, 2, request);
    }
    let yes = |m: &&&Message| matches!(m, Message::RequestVoteAnswer(a) if a.granted);
    assert_eq!(c.on_wire(2, 3).iter().filter(yes).count(), 0);
    assert_eq!(c.term(2), 1, "nor does the request's term count");
    c.elapse(499);
    c.inject(3, 2, vote_request(2, LogId::new(1, 9)));
    assert_eq!(votes_on_wire(&c, 2, 3), 0);
    c.elapse(1);
    c.inject(3, 2, vote_request(2, LogId::new(1, 9)));
    assert_eq!(votes_on_wire(&c, 2, 3), 1);
}

/// Terms and indexes at the end of their range, in every field of every message, to every role.
#[test]
fn absurd_numbers_of_peers_are_dropped() {
    let max = u64::MAX;
    let far = Duration::from_secs(u64::MAX);
    let top = LogId::new(max, max - 1); // no block has a higher index
    let mut messages = Vec::new();
    for (term, n, id) in [(max, 1, LogId::new(1, 1)), (1, max, top), (max, max, top), (2, max, top)]
    {
        for pre in [true, false] {
            messages.push(Message::RequestVote(RequestVote {
                pre,
                term,
                last: id,
                transfer: false,
            }));
            for granted in [true, false] {
                let answer = RequestVoteAnswer { pre, term, granted };
                messages.push(Message::RequestVoteAnswer(answer));
            }
        }
        messages.push(Message::Heartbeat(Heartbeat {
            term,
            session: n,
            round: n,
            commit: n,
            promise: far,
            witness: false,
            refill: LogId::ZERO,
        }));
        messages.push(Message::HeartbeatAnswer(HeartbeatAnswer {
            term,
            session: n,
            round: n,
            accepted: n,
            matched: n,
            promised: far,
            priority: 0,
        }));
        for blocks in [vec![], vec![EntryBlock::noop(id)]] {
            messages.push(append(term, n, id, blocks.clone(), n));
            messages.push(append(term, n, LogId::ZERO, blocks, n));
        }
        for conflict in [None, Some(id)] {
            let answer = AppendEntriesAnswer { term, session: n, matched: n, conflict };
            messages.push(Message::AppendEntriesAnswer(answer));
            let answer = AppendEntriesAnswer { term, session: 1, matched: 0, conflict };
            messages.push(Message::AppendEntriesAnswer(answer));
        }
        messages.push(Message::ReadIndex(ReadIndex { term, context: n, lease: false }));
        let index = Some(n);
        messages.push(Message::ReadIndexAnswer(ReadIndexAnswer { term, context: n, index }));
    }
    for to in [1, 2] {
        for message in &messages {
            let mut c = Cluster::led_by_1(3);
            c.read(2, 1);
            c.inject(3, to, message.clone());
            assert!(c.term(to) < 1 << 62, "{message}");
            // Wherever that left it, the cluster goes on.
            c.run(5_000);
            let leader = c.leader().unwrap_or_else(|| panic!("no leader after {message}"));
            c.propose(leader, 1);
            c.run(1_000);
            assert_eq!(c.committed(leader), c.last(leader).index, "{message}");
        }
    }
}

// ---- replication ----

/// A delayed or repeated append that truncates what came after it, even from the very beginning.
#[test]
fn an_old_append_truncates_nothing() {
    let mut c = Cluster::led_by_1(3);
    let first = c.node(1).memory.blocks.clone();
    c.propose(1, 3);
    c.deliver_all();
    let (log, disk) = (c.terms(2), c.node(2).disk.terms());
    c.inject(1, 2, append(1, 1, LogId::ZERO, vec![], 0));
    c.inject(1, 2, append(1, 1, LogId::ZERO, first[..1].to_vec(), 0));
    c.inject(1, 2, append(1, 1, LogId::ZERO, first.clone(), 0));
    c.inject(1, 2, append(1, 1, LogId::new(0, 1), first[1..].to_vec(), 0));
    assert_eq!((c.terms(2), c.node(2).disk.terms()), (log, disk));
    assert!(c.node(2).notices.is_empty());
}

/// What is committed is never truncated, whoever asks: the message is dropped and told of.
#[test]
fn committed_entries_are_never_overwritten() {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 1);
    c.run(500);
    assert_eq!(c.committed(2), 3);
    c.inject(3, 2, append(9, 1, LogId::new(1, 2), vec![block(9, 3, "other")], 3));
    c.inject(3, 2, append(9, 1, LogId::new(7, 2), vec![block(9, 3, "other")], 3));
    assert_eq!(c.terms(2), [0, 1, 1]);
    assert_eq!(c.node(2).notices.len(), 2);
}

/// A follower that commits what its leader has committed, past what the two logs agree on.
#[test]
fn a_follower_commits_only_what_is_verified() {
    // Node 2 has entries of a term that nobody followed.
    let mut c = with_logs(&[(2, &[0, 1, 2, 2]), (1, &[0, 1, 1, 1]), (2, &[0, 1, 2, 2])]);
    c.inject(1, 2, heartbeat(2, 1, 1, 4));
    assert_eq!(c.committed(2), 0, "nothing is verified yet");
    c.inject(1, 2, append(2, 1, LogId::new(1, 2), vec![], 4));
    assert_eq!(c.committed(2), 2, "verified through 2");
    c.inject(1, 2, heartbeat(2, 1, 2, 4));
    assert_eq!(c.committed(2), 2);
}

/// Answers that overtake each other, and those of an earlier term of the same leader.
#[test]
fn what_a_leader_knows_never_goes_back() {
    let mut c = Cluster::led_by_1(3);
    c.cut(1, 3);
    let mut old = Vec::new();
    for _ in 0..4 {
        c.propose(1, 1);
        c.deliver(1, 2);
        old.extend(c.take(2, 1));
    }
    let matched = |c: &Cluster| c.engine(1).matched().find(|(id, _)| *id == 2).unwrap().1;
    let mut before = matched(&c);
    for packet in old.iter().rev() {
        c.receive(packet.clone());
        assert!(matched(&c) >= before);
        before = matched(&c);
    }
    assert_eq!((before, c.committed(1)), (6, 6));
    // The same node leads again: answers to its earlier term count for nothing.
    c.heal();
    c.inject(3, 1, heartbeat(5, 1, 1, 0));
    c.elapse(1000);
    c.wake(1);
    for _ in 0..3 {
        [2, 3].iter().for_each(|id| c.deliver(1, *id));
        [2, 3].iter().for_each(|id| c.deliver(*id, 1));
    }
    c.wire.clear();
    let before = matched(&c);
    old.into_iter().for_each(|p| c.receive(p));
    assert_eq!(matched(&c), before);
}

/// The answer of an ended session must not move the next one's progress.
#[test]
fn an_answer_of_an_earlier_session_counts_for_nothing() {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 1);
    c.deliver(1, 2);
    let late = c.take(2, 1);
    let session = |p: &Packet| match &p.message {
        Message::AppendEntriesAnswer(m) => Some(m.session),
        _ => None,
    };
    let ended = late.iter().find_map(session).expect("an acknowledgement");
    c.step(1, Input::Lost { to: 2, session: ended });
    for _ in 0..2 {
        // Signs of life, upon which the session begins anew.
        c.wake(1);
        c.deliver(1, 2);
        c.deliver(2, 1);
    }
    let before: Vec<_> = c.engine(1).matched().collect();
    c.propose(1, 1);
    c.wire.clear();
    let stale = Message::AppendEntriesAnswer(AppendEntriesAnswer {
        term: 1,
        session: ended,
        matched: 4,
        conflict: None,
    });
    c.inject(2, 1, stale);
    assert_eq!(c.engine(1).matched().collect::<Vec<_>>(), before);
}

/// An append of an ended session that arrives late must not take the acknowledgement of the present
/// one with it.
#[test]
fn a_late_append_does_not_hide_an_acknowledgement() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
    c.hold_disk(2);
    let prev = LogId::new(1, 2);
    c.inject(1, 2, append(1, 5, prev, vec![block(1, 3, "a")], 0));
    c.inject(1, 2, append(1, 4, prev, vec![block(1, 3, "a")], 0));
    c.release_disk(2);
    let answer = c.take(2, 1).pop().unwrap().message;
    let Message::AppendEntriesAnswer(m) = answer else { panic!("{answer}") };
    assert_eq!((m.session, m.matched), (5, 3));
}

/// A conflict overtaken by a newer acknowledgement, taken for a follower that lost its disk.
#[test]
fn an_overtaken_conflict_accuses_nobody() {
    let mut c = Cluster::led_by_1(3);
    c.cut(1, 3);
    for _ in 0..3 {
        c.propose(1, 1);
    }
    // The second and third append overtake the first; then their answers overtake each other.
    c.deliver_reversed(1, 2);
    c.deliver_reversed(2, 1);
    assert!(c.node(1).notices.is_empty(), "{:?}", c.node(1).notices);
    c.deliver_all();
    assert_eq!(c.committed(1), 5);
}

/// Success told for an entry that another replaced: the index committed, and with another term.
#[test]
fn an_overwritten_proposal_is_recognized_by_its_term() {
    let mut c = Cluster::led_by_1(3);
    c.partition(&[&[1], &[2, 3]]);
    c.propose(1, 1);
    let proposed = c.last(1);
    c.elapse(1000);
    c.wake(2);
    c.deliver_all();
    c.heal();
    c.run(2_000);
    assert!(c.committed(1) >= proposed.index, "the index is committed");
    assert!(!c.engine(1).log().contains(proposed), "by another entry");
}

/// A follower that starts over with an empty log, while nobody proposes anything.
#[test]
fn an_idle_group_brings_back_a_follower_with_an_empty_log() {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 3);
    c.run(500);
    c.wipe(3, 0);
    c.run(3_000);
    assert_eq!((c.terms(3), c.committed(3)), (c.terms(1), c.committed(1)));
}

/// A lost probe, or a lost answer to it, leaves the stream waiting for ever.
#[test]
fn a_lost_probe_is_sent_again() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0])]);
    c.wake(1);
    for _ in 0..2 {
        c.deliver(1, 2);
        c.deliver(2, 1);
    }
    assert!(c.leads(1));
    c.drop(1, 3);
    c.run(2_000);
    assert_eq!(c.terms(3), c.terms(1));
}

/// A leader without a quorum that takes proposals until its memory is full.
#[test]
fn what_is_uncommitted_is_bounded() {
    let mut c = Cluster::new(3);
    c.add(Config { max_uncommitted_bytes: 1000, ..Config::new(1) }, Image::default());
    c.initialize(1);
    c.deliver_all();
    assert!(c.leads(1));
    c.partition(&[&[1], &[2, 3]]);
    for _ in 0..100 {
        c.propose(1, 1);
    }
    let taken = 100 - c.node(1).declined.len();
    assert!((5..30).contains(&taken), "{taken} of 100 taken");
    assert_eq!(c.node(1).declined[0], Decline::Overloaded);
    c.heal();
    c.run(500);
    assert_eq!(c.engine(1).can_propose(), Ok(()), "room again when it commits");
}

/// A state machine that is slower than the log: what waits for it is bounded, too.
#[test]
fn what_is_unapplied_is_bounded() {
    let mut c = Cluster::new(3);
    c.add(Config { max_unapplied_bytes: 1000, ..Config::new(1) }, Image::default());
    c.initialize(1);
    c.run(1_000);
    assert!(c.leads(1));
    c.stall_machine(1);
    for _ in 0..100 {
        c.propose(1, 1);
        c.deliver_all();
    }
    let taken = 100 - c.node(1).declined.len();
    assert!((5..30).contains(&taken), "{taken} of 100 taken");
    assert_eq!(c.node(1).declined[0], Decline::Overloaded);
    assert!(c.leads(1), "it leads on");
    c.resume_machine(1);
    assert_eq!(c.engine(1).can_propose(), Ok(()), "room again when it has applied");
}

/// A follower whose disk was put back to an older state panics the leader.
#[test]
fn a_follower_whose_log_went_back_is_told_of_and_brought_up() {
    let mut c = Cluster::led_by_1(3);
    let old = c.node(3).disk.clone();
    c.propose(1, 5);
    c.run(500);
    c.crash(3);
    c.node_mut(3).disk = old;
    c.restart(3);
    c.run(3_000);
    assert_eq!(c.node(1).notices, [(3, Notice::LogWentBack)]);
    assert_eq!(c.node(1).refilled, [3]);
    assert_eq!(c.terms(3), c.terms(1));
    assert!(c.leads(1));
}

/// What two of three have is committed. The disk of one goes back, the leader notices, and dies before
/// it has mended that: the third, which lacks it, must not be elected by the one that forgot.
#[test]
fn who_is_known_to_have_forgotten_votes_as_if_it_had_not() {
    let mut c = Cluster::led_by_1(3);
    let old = c.node(3).disk.clone();
    c.partition(&[&[1, 3], &[2]]);
    c.propose(1, 5);
    c.run(500);
    let (committed, terms) = (c.committed(1), c.terms(1));
    assert!(committed > c.engine(2).log().last().index);
    c.crash(3);
    c.node_mut(3).disk = old;
    c.restart(3);
    // Heartbeats and probes arrive, entries don't.
    for _ in 0..6 {
        c.wake(1);
        for packet in c.take(1, 3) {
            let entries =
                matches!(&packet.message, Message::AppendEntries(m) if !m.blocks.is_empty());
            if !entries {
                c.receive(packet);
            }
        }
        c.deliver(3, 1);
    }
    let quarantined = |c: &Cluster, id| c.engine(id).quarantined().collect::<Vec<_>>();
    assert_eq!((quarantined(&c, 1), quarantined(&c, 3)), (vec![3], vec![3]));
    assert!(c.node(3).notices.contains(&(1, Notice::LostEntries)));
    assert_eq!(c.node(3).disk.hard.voted_for, Some(1), "whomever it had voted for in this term");
    c.crash(1);
    c.heal();
    c.run(10_000);
    assert!(!c.leads(2) && !c.leads(3), "what is committed is with node 1 alone");
    // With node 1 back there is one to vote for, and the one that forgot does.
    c.crash(2);
    c.restart(1);
    c.run(10_000);
    assert!(c.leads(1));
    c.restart(2);
    c.run(3_000);
    for id in 1..=3 {
        assert_eq!(quarantined(&c, id), [], "node {id}");
        assert_eq!(c.terms(id)[..terms.len()], terms, "node {id}");
    }
}

/// The same with a log that is older and longer: entries that were overwritten long ago.
#[test]
fn an_old_log_that_is_longer_is_told_of_and_brought_up() {
    let mut c = Cluster::led_by_1(3);
    c.partition(&[&[1], &[2, 3]]);
    c.propose(1, 20);
    let old = c.node(1).disk.clone();
    c.run(3_000);
    let leader = c.leader().unwrap();
    assert_ne!(leader, 1);
    c.heal();
    c.propose(leader, 3);
    c.run(3_000);
    c.crash(1);
    c.node_mut(1).disk.blocks = old.blocks;
    c.restart(1);
    c.run(3_000);
    assert_eq!(c.node(leader).notices, [(1, Notice::LogWentBack)]);
    assert_eq!(c.terms(1), c.terms(leader));
}

/// One peer that answers nothing holds nobody else up.
#[test]
fn a_black_hole_holds_nobody_up() {
    let mut c = Cluster::led_by_1(3);
    c.cut(3, 1);
    for _ in 0..50 {
        let before = c.committed(1);
        c.propose(1, 1);
        c.deliver_all();
        assert_eq!(c.committed(1), before + 1);
    }
    assert!(c.leads(1));
}

/// A link so slow that sessions end before an answer to a heartbeat is back costs no leader.
#[test]
fn a_heartbeat_answer_counts_for_the_term_whatever_its_session() {
    let mut c = Cluster::led_by_1(3);
    c.crash(3);
    for _ in 0..30 {
        c.wake(1);
        let heartbeats = c.take(1, 2);
        // The session ends while they are under way.
        let hint = Some(LogId::new(1, 2));
        let session = heartbeats.iter().find_map(|p| match &p.message {
            Message::Heartbeat(m) => Some(m.session),
            _ => None,
        });
        let conflict =
            AppendEntriesAnswer { term: 1, session: session.unwrap(), matched: 0, conflict: hint };
        c.inject(2, 1, Message::AppendEntriesAnswer(conflict));
        heartbeats.into_iter().for_each(|p| c.receive(p));
        c.deliver(2, 1);
        c.wire.clear();
    }
    assert!(c.leads(1));
}

// ---- reads ----

/// A new leader that serves reads before it has committed in its term, and knows what is committed.
#[test]
fn a_new_leader_reads_nothing_before_its_no_op_commits() {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 1);
    c.deliver_all();
    assert_eq!((c.committed(1), c.committed(2)), (3, 2), "2 has it and does not know it committed");
    c.crash(1);
    c.elapse(1000);
    c.wake(2);
    for _ in 0..2 {
        c.deliver(2, 3);
        c.deliver(3, 2);
    }
    assert!(c.leads(2));
    c.hold_disk(3);
    c.hold_disk(2);
    c.read(2, 1);
    c.read(3, 2);
    c.run(300);
    assert_eq!(c.node(2).reads.get(&1), None);
    assert_eq!(c.node(3).reads.get(&2), None);
    c.release_disk(2);
    c.release_disk(3);
    c.run(500);
    assert!(c.node(2).reads[&1].unwrap() >= 3 && c.node(3).reads[&2].unwrap() >= 3);
}

/// An answer to an earlier question says nothing about a reader that came after it was asked.
#[test]
fn an_answer_serves_only_readers_that_waited_when_it_was_asked() {
    let mut c = Cluster::led_by_1(3);
    c.read(2, 1);
    c.deliver(2, 1);
    c.deliver(1, 2); // the round
    c.deliver(2, 1); // its answer
    let answer = c.take(1, 2);
    assert_eq!(answer.len(), 1, "{answer:?}");
    // A write commits and is acknowledged, and then another reader comes.
    c.propose(1, 1);
    c.deliver(1, 3);
    c.deliver(3, 1);
    let acknowledged = c.committed(1);
    assert_eq!(acknowledged, 3);
    c.read(2, 2);
    answer.iter().for_each(|p| c.receive(p.clone()));
    assert_eq!((c.node(2).reads.get(&1), c.node(2).reads.get(&2)), (Some(&Some(2)), None));
    answer.into_iter().for_each(|p| c.receive(p)); // once more
    assert_eq!(c.node(2).reads.get(&2), None);
    c.deliver_all();
    assert_eq!(c.node(2).reads.get(&2), Some(&Some(acknowledged)));
}

/// The index of a read is fixed when its round is sent, however much commits until it is answered;
/// and a question asked again is answered at its own.
#[test]
fn a_read_index_is_fixed_at_its_round() {
    let mut c = Cluster::led_by_1(3);
    c.read(1, 1);
    c.propose(1, 1);
    c.deliver_all();
    let read = c.node(1).reads[&1].unwrap();
    assert!((2..=3).contains(&read), "between the question and the answer");
    assert_eq!(read, 2);
}

/// A follower's readers are served although every answer takes longer than the time after which it
/// asks again.
#[test]
fn a_follower_reads_over_a_link_slower_than_a_heartbeat() {
    let mut c = Cluster::led_by_1(3);
    c.read(2, 1);
    c.deliver(2, 1);
    c.deliver(1, 2);
    c.deliver(2, 1);
    let slow = c.take(1, 2); // the answer
    c.elapse(150);
    c.step(2, Input::Wake); // overdue: it asks again
    assert!(c.on_wire(2, 1).iter().any(|m| matches!(m, Message::ReadIndex(_))));
    slow.into_iter().for_each(|p| c.receive(p));
    assert_eq!(c.node(2).reads.get(&1), Some(&Some(2)));
}

/// A read that nobody can confirm fails at its deadline, at the leader and at a follower.
#[test]
fn a_read_without_a_quorum_fails_in_time() {
    let mut c = Cluster::led_by_1(3);
    c.partition(&[&[1], &[2], &[3]]);
    c.read(1, 1);
    c.read(2, 2);
    c.run(9_000);
    assert_eq!((c.node(1).reads.get(&1), c.node(2).reads.get(&2)), (None, None));
    c.run(1_500);
    assert_eq!((c.node(1).reads.get(&1), c.node(2).reads.get(&2)), (Some(&None), Some(&None)));
}
