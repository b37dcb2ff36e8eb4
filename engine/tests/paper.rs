//! The rules of the Raft paper ("In Search of an Understandable Consensus Algorithm", extended
//! version) and of Ongaro's thesis, one test each, named by section and told in our own words.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Cluster, Image, voters};
use quorate_engine::message::{
    AppendEntries, AppendEntriesAnswer, Heartbeat, RequestVote, RequestVoteAnswer,
};
use quorate_engine::{Config, HardState, LogId, Message, RoleKind, Term};

fn hard(term: Term) -> HardState {
    HardState::new(term, None)
}

/// Nodes whose disks have these logs; past the promise that a start makes.
fn with_logs(logs: &[(Term, &[Term])]) -> Cluster {
    let mut c = Cluster::new(logs.len() as u64);
    let membership = voters(logs.len() as u64);
    for (id, (term, terms)) in (1..).zip(logs) {
        c.add(Config::new(id), Image::of_terms(hard(*term), &membership, terms));
    }
    c.elapse(1000);
    c
}

fn request(term: Term, last: LogId) -> Message {
    Message::RequestVote(RequestVote { pre: false, term, last, transfer: false })
}

fn heartbeat(term: Term) -> Message {
    Message::Heartbeat(Heartbeat {
        term,
        session: 1,
        round: 1,
        commit: 0,
        promise: Duration::from_millis(500),
        witness: false,
        refill: LogId::ZERO,
    })
}

/// Whether the node's vote was granted to `to` among the messages on the wire.
fn granted(c: &Cluster, voter: u64, to: u64) -> bool {
    let yes = |m: &&Message| matches!(m, Message::RequestVoteAnswer(a) if a.granted && !a.pre);
    c.on_wire(voter, to).into_iter().any(|m| yes(&m))
}

// ---- §5.1 terms ----

/// §5.1: whoever meets a higher term takes it; a leader or candidate that does so follows again.
#[test]
fn s5_1_a_higher_term_makes_a_follower_of_everyone() {
    for role in [RoleKind::Leader, RoleKind::Candidate, RoleKind::Follower] {
        let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
        if role != RoleKind::Follower {
            c.wake(1);
            c.deliver(1, 2);
            c.deliver(2, 1);
        }
        if role == RoleKind::Leader {
            c.deliver(1, 2);
            c.deliver(2, 1);
        }
        assert_eq!(c.role(1), role);
        c.inject(3, 1, heartbeat(9));
        assert_eq!((c.role(1), c.term(1)), (RoleKind::Follower, 9));
        assert_eq!(c.node(1).disk.hard, hard(9), "and the disk knows");
    }
}

/// §5.1: a request with a term of the past is refused, and the answer says what the term is now.
#[test]
fn s5_1_a_stale_term_is_refused() {
    let mut c = with_logs(&[(5, &[0, 1]), (5, &[0, 1]), (5, &[0, 1])]);
    let append = AppendEntries {
        term: 4,
        session: 1,
        prev: LogId::new(1, 2),
        blocks: vec![],
        commit: 2,
        promise: Duration::ZERO,
        witness: false,
    };
    for stale in [request(4, LogId::new(9, 9)), heartbeat(4), Message::AppendEntries(append)] {
        c.inject(2, 1, stale);
        let answer = c.take(1, 2).pop().expect("an answer");
        assert_eq!(answer.message.term(), Some(5), "{}", answer.message);
        assert!(!granted(&c, 1, 2));
        assert_eq!(c.engine(1).leader(), None, "nobody leads a term of the past");
        assert_eq!(c.committed(1), 0);
    }
}

// ---- §5.2 elections ----

/// §5.2: nodes begin as followers, and stay so as long as they hear a leader.
#[test]
fn s5_2_a_follower_stays_one_while_it_hears_its_leader() {
    let mut c = Cluster::led_by_1(3);
    assert_eq!((c.role(2), c.role(3)), (RoleKind::Follower, RoleKind::Follower));
    c.run(30_000);
    assert_eq!((c.leader(), c.term(1), c.term(2), c.term(3)), (Some(1), 1, 1, 1));
}

/// §5.2: who hears nobody increments its term, votes for itself, and asks everyone (here: after a
/// pre-vote, and when its own vote is durable).
#[test]
fn s5_2_a_timeout_begins_an_election() {
    let mut c = with_logs(&[(3, &[0, 1]), (3, &[0, 1]), (3, &[0, 1])]);
    c.wake(1);
    c.deliver(1, 2);
    c.deliver(2, 1);
    assert_eq!((c.role(1), c.term(1)), (RoleKind::Candidate, 4));
    assert_eq!(c.node(1).disk.hard, HardState::new(4, Some(1)));
    for other in [2, 3] {
        let asked = request(4, LogId::new(1, 2));
        assert!(c.on_wire(1, other).contains(&&asked), "{other} is asked");
    }
}

/// §5.2: the votes of a majority of the whole cluster make a leader, and fewer don't; for every set
/// of voters of clusters of one to five.
#[test]
fn s5_2_a_majority_elects() {
    for n in 1..=5u64 {
        for set in 0..1u64 << n {
            if set & 1 == 0 {
                continue; // a candidate votes for itself
            }
            let logs: Vec<(Term, &[Term])> = vec![(1, &[0, 1]); n as usize];
            let mut c = with_logs(&logs);
            c.wake(1);
            for id in 2..=n {
                let answer = RequestVoteAnswer { pre: true, term: 2, granted: true };
                c.inject(id, 1, Message::RequestVoteAnswer(answer));
            }
            for id in (2..=n).filter(|id| set >> (id - 1) & 1 == 1) {
                let answer = RequestVoteAnswer { pre: false, term: 2, granted: true };
                c.inject(id, 1, Message::RequestVoteAnswer(answer));
            }
            let won = u64::from(set.count_ones()) * 2 > n;
            assert_eq!(c.leads(1), won, "{n} nodes, votes {set:b}");
        }
    }
}

/// §5.2: one vote per term, first come, first served; the same candidate may ask twice.
#[test]
fn s5_2_one_vote_per_term() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
    let last = LogId::new(1, 2);
    c.inject(2, 1, request(2, last));
    assert!(granted(&c, 1, 2));
    c.inject(3, 1, request(2, last));
    assert!(!granted(&c, 1, 3), "the vote of term 2 is given");
    c.take(1, 2);
    c.inject(2, 1, request(2, last));
    assert!(granted(&c, 1, 2), "the same question, the same answer");
    c.inject(3, 1, request(3, last));
    assert!(granted(&c, 1, 3), "another term, another vote");
}

/// §5.2: a crash does not give the vote back.
#[test]
fn s5_2_a_vote_survives_a_crash() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
    c.inject(2, 1, request(2, LogId::new(1, 2)));
    assert!(granted(&c, 1, 2));
    c.crash(1);
    c.restart(1);
    c.elapse(5000);
    c.inject(3, 1, request(2, LogId::new(1, 2)));
    assert!(!granted(&c, 1, 3));
}

/// §5.2: a candidate that hears a leader of its own term follows it; of an earlier term, not.
#[test]
fn s5_2_a_candidate_yields_to_the_leader_of_its_term() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
    c.wake(1);
    c.deliver(1, 2);
    c.deliver(2, 1);
    assert_eq!((c.role(1), c.term(1)), (RoleKind::Candidate, 2));
    c.inject(3, 1, heartbeat(1));
    assert_eq!(c.role(1), RoleKind::Candidate);
    c.inject(3, 1, heartbeat(2));
    assert_eq!((c.role(1), c.engine(1).leader()), (RoleKind::Follower, Some(3)));
}

/// §5.2: timeouts are random within their bounds, so that votes seldom split twice.
#[test]
fn s5_2_election_timeouts_are_random_within_bounds() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1])]);
    c.cut(1, 2);
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        c.wake(1);
        let wait = c.engine(1).deadline().unwrap().since(c.now);
        assert!((500..=1000).contains(&wait.as_millis()), "{wait:?}");
        seen.insert(wait);
    }
    assert!(seen.len() > 40, "{} different timeouts of 50", seen.len());
}

/// §5.2: a new leader says so at once, and then again before anyone's patience ends.
#[test]
fn s5_2_a_leader_sends_heartbeats() {
    let mut c = Cluster::led_by_1(3);
    for _ in 0..5 {
        let before = c.now;
        c.wake(1);
        assert!(c.now.since(before) <= Duration::from_millis(100));
        for to in [2, 3] {
            assert!(c.on_wire(1, to).iter().any(|m| matches!(m, Message::Heartbeat(_))));
        }
        c.deliver_all();
    }
}

// ---- §5.3 log replication ----

/// §5.3: an entry that a majority has is committed; the leader applies it, and followers do when
/// they learn of it.
#[test]
fn s5_3_a_majority_commits_and_followers_learn_it() {
    let mut c = Cluster::led_by_1(5);
    c.crash(4);
    c.crash(5);
    let before = c.committed(1);
    c.propose(1, 3);
    assert_eq!(c.committed(1), before, "not before anyone has it");
    c.deliver(1, 2);
    c.deliver(2, 1);
    assert_eq!(c.committed(1), before, "two of five are no majority");
    c.deliver(1, 3);
    c.deliver(3, 1);
    assert_eq!(c.committed(1), before + 3);
    c.wake(1);
    c.deliver_all();
    assert_eq!((c.committed(2), c.committed(3)), (before + 3, before + 3));
}

/// §5.3: a leader sends again and again until every follower has every entry.
#[test]
fn s5_3_a_leader_repeats_until_everyone_has_everything() {
    let mut c = Cluster::led_by_1(3);
    c.cut(1, 3);
    c.propose(1, 5);
    c.run(3_000);
    assert_eq!(c.last(3).index, 2, "nothing arrives");
    c.heal();
    c.run(3_000);
    assert_eq!((c.last(3), c.committed(3)), (c.last(1), c.committed(1)));
}

/// §5.3, consistency check: an append whose previous entry is not there is refused, and nothing of
/// it is taken.
#[test]
fn s5_3_the_consistency_check() {
    let mut c = with_logs(&[(4, &[0, 1, 4, 4]), (4, &[0, 1, 4, 4, 4]), (3, &[0, 1, 3])]);
    for (node, prev) in [(2, LogId::new(3, 3)), (3, LogId::new(4, 4)), (3, LogId::new(4, 3))] {
        let before = c.terms(node);
        let donor = Image::of_terms(hard(4), &voters(3), &[0, 1, 4, 4, 4]);
        let append = AppendEntries {
            term: 4,
            session: 7,
            prev,
            blocks: donor.blocks.into_iter().filter(|b| b.first() > prev.index).collect(),
            commit: 5,
            promise: Duration::ZERO,
            witness: false,
        };
        c.inject(1, node, Message::AppendEntries(append));
        let answer = c.take(node, 1).pop().unwrap().message;
        let Message::AppendEntriesAnswer(AppendEntriesAnswer { conflict, session, .. }) = answer
        else {
            panic!("{answer}");
        };
        assert_eq!(session, 7);
        assert!(conflict.is_some_and(|hint| hint < prev), "{conflict:?}");
        assert_eq!((c.terms(node), c.committed(node)), (before, 0));
    }
}

/// §5.3: a follower's conflicting entries are replaced by the leader's; the leader's own log is only
/// ever appended to. All of Figure 7's followers (its trace is in `scripts/figure_7.txt`).
#[test]
fn s5_3_conflicts_are_replaced_by_the_leaders_entries() {
    let mut c = with_logs(&[
        (7, &[0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6]),
        (6, &[0, 1, 1, 1, 4, 4, 5, 5, 6, 6]),
        (4, &[0, 1, 1, 1, 4]),
        (6, &[0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
        (7, &[0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
        (4, &[0, 1, 1, 1, 4, 4, 4, 4]),
        (3, &[0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
    ]);
    let leader = c.terms(1);
    c.wake(1);
    c.deliver_all();
    assert!(c.leads(1));
    assert_eq!(c.terms(1)[..11], leader, "append only");
    for id in 2..=7 {
        assert_eq!(c.terms(id), c.terms(1), "node {id}");
    }
}

/// §5.3, end: a hint by term makes each exchange skip a whole term, however many entries it has.
#[test]
fn s5_3_one_exchange_per_conflicting_term() {
    let mut theirs: Vec<Term> = vec![0, 1];
    for term in [2, 3, 4] {
        theirs.extend([term; 300]);
    }
    let ours: Vec<Term> = [vec![0, 1], vec![5; 900]].concat();
    let mut c = with_logs(&[(5, &ours), (5, &ours), (4, &theirs)]);
    c.wake(1);
    c.deliver_all();
    assert!(c.leads(1));
    let refusals = c.trace.iter().filter(|line| line.contains("conflict")).count();
    assert!((1..=4).contains(&refusals), "{refusals} refusals for three terms");
    assert_eq!(c.terms(3), c.terms(1));
}

// ---- §5.4 safety ----

/// §5.4.1: a voter refuses a candidate whose log is less up-to-date: the later last term wins, and
/// of equal terms the longer log.
#[test]
fn s5_4_1_the_log_must_be_at_least_as_up_to_date() {
    for (last, up_to_date) in [
        (LogId::new(3, 4), true),   // the same
        (LogId::new(3, 5), true),   // longer
        (LogId::new(4, 2), true),   // a later term, however short
        (LogId::new(3, 3), false),  // shorter
        (LogId::new(2, 90), false), // an earlier term, however long
        (LogId::ZERO, false),
    ] {
        let mut c = with_logs(&[(3, &[0, 1, 3, 3]), (3, &[0]), (3, &[0])]);
        let pre = RequestVote { pre: true, term: 5, last, transfer: false };
        c.inject(2, 1, Message::RequestVote(pre));
        let answer = RequestVoteAnswer {
            pre: true,
            term: if up_to_date { 5 } else { 3 },
            granted: up_to_date,
        };
        assert_eq!(c.on_wire(1, 2), [&Message::RequestVoteAnswer(answer)], "pre-vote, {last}");
        c.inject(2, 1, request(5, last));
        assert_eq!(granted(&c, 1, 2), up_to_date, "{last}");
    }
}

/// §5.4.1, §5.4.3: whoever is elected has every committed entry; for every pair of survivors of
/// five after an entry committed on three.
#[test]
fn s5_4_3_a_leader_has_every_committed_entry() {
    for gone in [[1, 2], [1, 3], [1, 4], [2, 3], [2, 5], [3, 4], [4, 5]] {
        let mut c = Cluster::led_by_1(5);
        c.cut(1, 4);
        c.cut(1, 5);
        c.propose(1, 2);
        c.deliver_all();
        let committed = c.committed(1);
        assert_eq!(committed, 4);
        gone.iter().for_each(|id| c.crash(*id));
        c.heal();
        let leader = c.run_until_led(20_000).expect("three of five elect");
        assert!(c.terms(leader).len() as u64 >= committed, "without {gone:?}: {leader}");
        assert_eq!(c.terms(leader)[..4], [0, 1, 1, 1]);
    }
}

/// §5.4.2, Figure 8: an entry of an earlier term is not committed by counting copies (the whole
/// story is in `scripts/figure_8.txt`); an entry of the leader's own term commits all before it.
#[test]
fn s5_4_2_only_the_own_term_commits_by_counting() {
    let mut c =
        with_logs(&[(3, &[0, 1, 2]), (3, &[0, 1]), (3, &[0, 1]), (3, &[0, 1]), (3, &[0, 1, 3])]);
    c.small_appends = true;
    c.partition(&[&[1, 2, 3], &[4, 5]]);
    c.wake(1);
    for _ in 0..2 {
        [2, 3].iter().for_each(|id| c.deliver(1, *id));
        [2, 3].iter().for_each(|id| c.deliver(*id, 1));
    }
    assert!(c.leads(1));
    // The probes are refused; the old entry follows, by itself.
    for _ in 0..2 {
        [2, 3].iter().for_each(|id| c.deliver(1, *id));
        [2, 3].iter().for_each(|id| c.deliver(*id, 1));
    }
    assert_eq!((c.terms(2), c.terms(3)), (vec![0, 1, 2], vec![0, 1, 2]));
    assert_eq!(c.engine(1).matched().filter(|(_, matched)| *matched == 3).count(), 2);
    assert_eq!(c.committed(1), 0, "three of five have 2.3, and that is not enough");
    c.deliver_all();
    assert_eq!(c.committed(1), 4, "the no-op of term 4 commits it");
}

// ---- §5.5, §5.6 ----

/// §5.5: followers may crash at any time; what they get twice changes nothing.
#[test]
fn s5_5_appends_are_idempotent() {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 3);
    let packets = c.take(1, 2);
    packets.iter().for_each(|p| c.receive(p.clone()));
    let (log, disk) = (c.terms(2), c.node(2).disk.terms());
    packets.into_iter().for_each(|p| c.receive(p));
    assert_eq!((c.terms(2), c.node(2).disk.terms()), (log, disk));
    c.deliver_all();
    assert_eq!(c.committed(1), 5);
}

/// §5.6: broadcast time must be well below the election timeout; settings that can't keep a leader
/// are refused.
#[test]
fn s5_6_the_timing_requirement() {
    let tight = Config { heartbeat_interval: Duration::from_millis(400), ..Config::new(1) };
    assert!(tight.validate().is_err());
    assert!(Config::new(1).validate().is_ok());
}

// ---- §8 clients ----

/// §8: a leader begins its term with a blank entry, to learn what is committed.
#[test]
fn s8_a_leader_begins_with_a_no_op() {
    let mut c = with_logs(&[(1, &[0, 1, 1]), (1, &[0, 1, 1]), (1, &[0, 1, 1])]);
    c.wake(1);
    c.deliver_all();
    assert!(c.leads(1));
    assert_eq!(c.terms(1), [0, 1, 1, 2]);
    assert_eq!(c.committed(1), 4, "and with it all that came before");
}

/// §8, thesis §6.4: a read is answered after the no-op is committed, after a round of heartbeats
/// that a majority answered, and at the commit index of when it was asked.
#[test]
fn s8_a_read_waits_for_the_no_op_and_for_a_quorum() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
    c.wake(1);
    for _ in 0..2 {
        c.deliver(1, 2);
        c.deliver(2, 1);
    }
    assert!(c.leads(1));
    c.read(1, 7);
    c.deliver(1, 2); // the no-op, and the first round of heartbeats
    let answers = c.take(2, 1);
    assert_eq!(c.node(1).reads.get(&7), None);
    answers.into_iter().for_each(|p| c.receive(p));
    assert_eq!(c.committed(1), 3, "the no-op");
    assert_eq!(c.node(1).reads.get(&7), None, "a round sent before it is no confirmation");
    c.deliver(1, 2);
    c.deliver(2, 1);
    assert_eq!(c.node(1).reads.get(&7), Some(&Some(3)));
}

// ---- the thesis ----

/// Thesis §6.2: a leader that hears no majority for an election timeout steps down, so that its
/// clients look elsewhere.
#[test]
fn t6_2_a_leader_without_a_quorum_steps_down() {
    let mut c = Cluster::led_by_1(5);
    c.partition(&[&[1, 2], &[3, 4, 5]]);
    let cut_at = c.now;
    while c.leads(1) {
        c.wake(1);
        c.deliver(1, 2);
        c.deliver(2, 1);
        assert!(c.now.since(cut_at) < Duration::from_millis(1500), "steps down in time");
    }
    assert_eq!((c.role(1), c.term(1)), (RoleKind::Follower, 1), "in its own term");
}

/// Thesis §6.4: a follower serves a read after asking the leader, at the leader's index.
#[test]
fn t6_4_a_follower_reads_at_the_leaders_index() {
    let mut c = Cluster::led_by_1(3);
    c.propose(1, 2);
    c.deliver_all();
    let committed = c.committed(1);
    assert!(c.committed(2) < committed, "it does not know yet");
    c.read(2, 5);
    assert_eq!(c.node(2).reads.get(&5), None);
    c.deliver_all();
    assert_eq!(c.node(2).reads.get(&5), Some(&Some(committed)));
}

/// Thesis §6.4: a leader that was deposed without noticing confirms no read.
#[test]
fn t6_4_a_deposed_leader_confirms_no_read() {
    let mut c = Cluster::led_by_1(5);
    c.partition(&[&[1, 2], &[3, 4, 5]]);
    c.elapse(1000);
    c.wake(3);
    c.deliver_all();
    assert!(c.leads(3) && c.leads(1));
    c.propose(3, 1);
    c.deliver_all();
    c.read(1, 1);
    c.read(3, 3);
    c.deliver_all();
    assert_eq!(c.node(1).reads.get(&1), None);
    assert_eq!(c.node(3).reads.get(&3), Some(&Some(c.committed(3))));
    c.heal();
    c.run(2_000);
    assert_eq!(c.node(1).reads.get(&1), Some(&Some(c.committed(3))), "it asks the new leader");
}

/// Paper §6, thesis §4.2.3: who heard a leader lately grants nobody a vote, and takes no term from
/// such a request.
#[test]
fn t4_2_3_who_has_a_leader_grants_no_vote() {
    let mut c = Cluster::led_by_1(3);
    c.inject(3, 2, request(9, LogId::new(8, 90)));
    assert!(!granted(&c, 2, 3));
    assert_eq!((c.term(2), c.engine(2).leader()), (1, Some(1)));
    c.inject(3, 1, request(9, LogId::new(8, 90)));
    assert_eq!((c.role(1), c.term(1)), (RoleKind::Leader, 1), "the leader does not either");
    c.elapse(500);
    c.inject(3, 2, request(9, LogId::new(8, 90)));
    assert!(granted(&c, 2, 3), "the promise has an end");
}

/// Thesis §9.6: a pre-vote binds nobody: no term, no vote, nothing on the disk.
#[test]
fn t9_6_a_pre_vote_binds_nobody() {
    let mut c = with_logs(&[(1, &[0, 1]), (1, &[0, 1]), (1, &[0, 1])]);
    let pre = Message::RequestVote(RequestVote {
        pre: true,
        term: 2,
        last: LogId::new(1, 2),
        transfer: false,
    });
    for candidate in [2, 3] {
        c.inject(candidate, 1, pre.clone());
        let yes =
            Message::RequestVoteAnswer(RequestVoteAnswer { pre: true, term: 2, granted: true });
        assert_eq!(c.on_wire(1, candidate), [&yes]);
    }
    assert_eq!((c.term(1), c.node(1).disk.hard), (1, hard(1)));
}

/// Thesis §9.6: without a majority of pre-votes there is no new term, however long it takes.
#[test]
fn t9_6_no_new_term_without_a_majority_of_pre_votes() {
    let mut c = Cluster::led_by_1(3);
    c.partition(&[&[3], &[1, 2]]);
    c.run(60_000);
    assert_eq!(c.term(3), 1);
    c.heal();
    c.run(2_000);
    assert_eq!((c.leader(), c.term(1), c.term(3)), (Some(1), 1, 1), "and nobody was disturbed");
}

// ---- thesis, chapter 4 and §3.10: membership and transfer ----

/// Thesis §4.1: a server uses the newest configuration in its log, committed or not.
#[test]
fn t4_1_the_newest_configuration_counts_before_it_is_committed() {
    let mut c = Cluster::led_by_1(3).with_learners(1, &[4]);
    let joint = c.last(1).index + 1;
    c.change(1, c.configured(1).promoted(4).unwrap());
    assert!(c.configured(1).is_joint() && c.committed(1) < joint);
    // Nodes 1 and 2 are a majority of the old voters, not of the new.
    c.deliver(1, 2);
    c.deliver(2, 1);
    assert!(c.committed(1) < joint);
    c.deliver(1, 4);
    c.deliver(4, 1);
    assert_eq!(c.committed(1), joint);
}

/// Thesis §4.3: agreement under a joint configuration takes both majorities, for elections too.
#[test]
fn t4_3_a_joint_configuration_elects_with_both_majorities() {
    let old = voters(3);
    let mut new = old.clone();
    for id in 4..=6 {
        new = new.with_voter(id, format!("n{id}")).unwrap();
    }
    for id in 1..=3 {
        new = new.without(id).unwrap();
    }
    let joint = old.joint_with(&new);
    for (up, elects) in [(&[1, 2, 3][..], false), (&[4, 5, 6], false), (&[1, 2, 4, 5], true)] {
        let mut c = Cluster::new(6);
        for id in 1..=6 {
            c.add(Config::new(id), Image::of_terms(hard(1), &joint, &[0, 1]));
        }
        (1..=6).filter(|id| !up.contains(id)).for_each(|id| c.crash(id));
        c.run(10_000);
        assert_eq!(c.leader().is_some(), elects, "{up:?}");
    }
}

/// Thesis §4.2.1: a new server is not counted while it copies the log, and not promoted before it has
/// almost caught up.
#[test]
fn t4_2_1_a_new_server_is_a_learner_until_it_has_caught_up() {
    let mut c = Cluster::led_by_1(3);
    c.small_appends = true;
    (0..20).for_each(|_| c.propose(1, 1));
    c.deliver_all();
    c.spare(&[4]);
    c.change(1, c.configured(1).with_learner(4, "n4").unwrap());
    assert!(!c.engine(1).is_caught_up(c.now, 4));
    c.crash(2);
    c.propose(1, 1);
    c.deliver(1, 4);
    let before = c.committed(1);
    c.deliver(4, 1);
    assert_eq!(c.committed(1), before, "its acknowledgements count in nothing");
    c.run(1_000);
    assert!(c.engine(1).is_caught_up(c.now, 4));
}

/// Thesis §4.2.2: a leader that is not in C_new steps down once C_new is committed, and counts the
/// others only.
#[test]
fn t4_2_2_a_removed_leader_does_not_count_itself() {
    let mut c = Cluster::led_by_1(3);
    c.change(1, c.configured(1).without(1).unwrap());
    (2..=3).for_each(|id| c.deliver(1, id));
    (2..=3).for_each(|id| c.deliver(id, 1));
    assert!(!c.configured(1).is_joint(), "C_new is in its log");
    let new = c.last(1).index;
    c.deliver(1, 2);
    c.deliver(2, 1);
    assert!(c.committed(1) < new, "one of two");
    c.deliver(1, 3);
    c.deliver(3, 1);
    assert_eq!(c.committed(1), new);
}

/// Thesis §4.2.3: a removed server that does not know it must not depose a leader.
#[test]
fn t4_2_3_removed_servers_do_not_disrupt() {
    let mut c = Cluster::led_by_1(3);
    c.partition(&[&[3], &[1, 2]]);
    c.change(1, c.configured(1).without(3).unwrap());
    c.run(30_000);
    c.heal();
    c.inject(3, 2, request(9, c.last(3)));
    c.inject(3, 1, request(9, c.last(3)));
    c.run(10_000);
    assert_eq!((c.leader(), c.term(1), c.term(2)), (Some(1), 1, 1));
}

/// Thesis §3.10: the prior leader stops taking requests, brings the target's log up to its own, and
/// sends TimeoutNow; if that takes too long it resumes.
#[test]
fn t3_10_leadership_is_transferred() {
    let mut c = Cluster::led_by_1(3);
    c.hold_disk(3);
    c.propose(1, 1);
    c.deliver_all();
    c.transfer(1, Some(3));
    assert!(c.engine(1).can_propose().is_err());
    c.deliver_all();
    assert!(c.leads(1), "the target has not caught up");
    c.run(1_200);
    assert!(c.engine(1).can_propose().is_ok(), "too long");
    c.release_disk(3);
    c.run(200);
    c.transfer(1, Some(3));
    c.deliver_all();
    assert_eq!(c.leader(), Some(3), "well before an election timeout");
}
