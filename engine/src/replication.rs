//! Replication, both ends of it: paper §5.3 and §5.4.2.
//!
//! The leader keeps a session with each follower. A session begins with a probe, one append whose
//! consistency check finds out whether the logs agree where the leader thinks they do; then appends
//! follow one another without waiting. Anything that goes wrong (a conflict, an append that was
//! lost, a follower that restarted) ends the session: the next has another number, so what is
//! still under way from the last counts for nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::block::{Batch, EntryBlock};
use crate::election::Role;
use crate::engine::Engine;
use crate::io::{Notice, Output, Outputs, Replicate};
use crate::log::Log;
use crate::membership::Member;
use crate::message::{AppendEntries, AppendEntriesAnswer, Heartbeat, HeartbeatAnswer, Message};
use crate::planted;
use crate::quorum::reached_by_quorum;
use crate::reads::LeaderReads;
use crate::transfer::Transfer;
use crate::types::{HardState, Index, Instant, LogId, NodeId};

/// What a node has only while it leads.
#[derive(Debug)]
pub(crate) struct Leader {
    /// Every other member: voters and learners.
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    /// The no-op that began the term. Nothing is known to be committed before it is.
    pub(crate) term_start: Index,
    sessions: u64,
    /// The newest round of heartbeats; and of the recent ones when they were sent and where the log
    /// ended then.
    round: u64,
    rounds: VecDeque<(u64, Instant, Index)>,
    pub(crate) heartbeat_at: Instant,
    pub(crate) reads: LeaderReads,
    /// Last index and bytes of what was proposed and is not committed.
    uncommitted: VecDeque<(Index, u64)>,
    pub(crate) uncommitted_bytes: u64,
    /// The same of what was committed then, and is not applied here.
    unapplied: VecDeque<(Index, u64)>,
    pub(crate) unapplied_bytes: u64,
    /// Members that configurations through this index have left out were told so.
    pub(crate) told_through: Index,
    pub(crate) transfer: Option<Transfer>,
    /// Somebody was told in this term to stand in this leader's place.
    pub(crate) gave_lease_up: bool,
}

/// One follower, as its leader knows it.
#[derive(Debug)]
pub(crate) struct Progress {
    /// What the follower has durably. Never goes back, unless its disk did.
    pub(crate) matched: Index,
    /// What the follower has, durable or not, by its newest heartbeat answer.
    accepted: Index,
    /// Number of the session; the follower's answers carry it.
    pub(crate) session: u64,
    /// Where the session began.
    after: LogId,
    pub(crate) stage: Stage,
    /// The last entry handed to the network.
    sent: Index,
    /// Whether the network said that it lost an append of this session.
    lost: bool,
    /// When `accepted` last grew, or something was sent while nothing was under way.
    moved_at: Instant,
    /// The newest round answered, and when that round was SENT: the only moment of which it is
    /// certain that the follower had not turned to another leader before it.
    pub(crate) acked_round: u64,
    pub(crate) heard_at: Instant,
    /// From the sending of the newest round answered to its answer.
    round_trip: Option<Duration>,
    /// Until when it elects nobody else, by this node's clock: counted from when it was asked to.
    pub(crate) leased_until: Instant,
    /// How much it is preferred as the leader, as it said last.
    pub(crate) priority: u32,
    /// Gets no commands, and nothing that is not durable here: it can't lead, so it must not be left
    /// alone with the newest entries, to which every candidate would have to be compared.
    witness: bool,
    /// It has lost entries through here that it had acknowledged, and has not got all of them back: it
    /// counts for nothing. [`LogId::ZERO`] if it has not lost any.
    refill: LogId,
    /// The first session, if it was added in this term.
    added_with: Option<u64>,
}

/// A follower, as its leader sees it: for those who watch, not for decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Who.
    pub id: NodeId,
    /// What it has durably.
    pub matched: Index,
    /// When the newest round of heartbeats that it has answered was sent; the beginning of its
    /// membership, or of the leader's term, if it has answered none.
    pub heard_at: Instant,
    /// How long that answer took, the queues of both ends included; `None` before the first.
    pub round_trip: Option<Duration>,
    /// Whether it is being sent a snapshot.
    pub snapshot: bool,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// One append at a time finds out where the logs agree.
    Probe,
    /// The logs agree where the session began: appends follow one another.
    Replicate,
    /// The follower's next entry is compacted: it is sent a snapshot through `last`, which is not
    /// known before the node has one.
    Snapshot { last: Option<LogId> },
}

/// What a node has of the leader it follows.
#[derive(Debug)]
pub(crate) struct Following {
    /// Up to where this log is verified to equal the log of this term's leader.
    accepted: Index,
    /// The leader and session to acknowledge to once more is durable.
    owed: Option<(NodeId, u64)>,
}

impl Following {
    pub(crate) fn new(log: &Log) -> Self {
        Self { accepted: log.committed(), owed: None }
    }

    /// Another term: nothing is verified but what is committed, which every leader has (paper
    /// §5.4.3, Leader Completeness).
    pub(crate) fn begin_term(&mut self, log: &Log) {
        if planted::on("verified-for-an-earlier-leader") {
            return;
        }
        *self = Self::new(log);
    }
}

// ---- the leader's end ----

impl Engine {
    /// Begins to lead the current term: a no-op first (paper §8), then, before any command, the
    /// incarnations of those who elected it, then sessions with everyone.
    pub(crate) fn lead(
        &mut self,
        now: Instant,
        electors: BTreeMap<NodeId, u64>,
        out: &mut Outputs,
    ) {
        let me = self.config.id;
        let after = self.log.last();
        let noop = LogId::new(self.hard.term, after.index + 1);
        let membership = self.log.membership().expect("a leader has a configuration");
        let progress = membership
            .members()
            .iter()
            .filter(|(id, _)| **id != me)
            .map(|(id, member)| (*id, Progress::new(now, after, member)))
            .collect::<BTreeMap<_, _>>();
        let followers: Vec<NodeId> = progress.keys().copied().collect();
        self.leader = Some(me);
        self.introduced.clear();
        self.role = Role::Leader(Box::new(Leader {
            progress,
            term_start: if planted::on("reads-before-first-commit") { 0 } else { noop.index },
            sessions: 0,
            round: 0,
            rounds: VecDeque::new(),
            heartbeat_at: now + self.config.heartbeat_interval,
            reads: LeaderReads::default(),
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            told_through: self.log.committed(),
            transfer: None,
            gave_lease_up: false,
        }));
        if !planted::on("no-no-op") {
            self.stage(EntryBlock::noop(noop));
        }
        for id in followers {
            self.begin_session(now, id, after, out);
        }
        self.tie(electors, out);
        self.broadcast(now, out);
        self.lead_local_reads(now, out);
    }

    /// What a leader leaves behind: no stream goes on, its readers ask the next leader.
    pub(crate) fn stop_leading(&mut self, was: Leader, out: &mut Outputs) {
        for (to, p) in &was.progress {
            self.stop_sending(*to, p, out);
        }
        self.reads.take_over(was.reads);
    }

    /// Ends what is being sent to a member, entries or a snapshot.
    pub(crate) fn stop_sending(&self, to: NodeId, p: &Progress, out: &mut Outputs) {
        if p.is_sent_a_snapshot() {
            out.push(self.send_snapshot(to, 0, p.witness));
        } else {
            out.push(self.stop_stream(to, p.matched));
        }
    }

    fn stop_stream(&self, to: NodeId, matched: Index) -> Output {
        Output::Replicate(Replicate {
            to,
            term: self.hard.term,
            session: 0,
            after: LogId::ZERO,
            through: 0,
            matched,
            commit: 0,
            pipeline: false,
            promise: Duration::ZERO,
            witness: false,
        })
    }

    fn send_snapshot(&self, to: NodeId, session: u64, witness: bool) -> Output {
        Output::SendSnapshot { to, term: self.hard.term, session, witness }
    }

    pub(crate) fn on_propose(&mut self, batch: Batch, out: &mut Outputs) {
        if let Err(decline) = self.can_propose() {
            out.push(Output::Declined(decline));
            return;
        }
        let first = LogId::new(self.hard.term, self.log.last().index + 1);
        let count = batch.len() as u32;
        self.append_as_leader(batch.seal(first), out);
        out.push_with(|| Output::Proposed { first, count });
    }

    pub(crate) fn append_as_leader(&mut self, block: EntryBlock, out: &mut Outputs) {
        let Role::Leader(leader) = &mut self.role else { unreachable!("only leaders append") };
        let bytes = block.bytes().len() as u64;
        leader.uncommitted.push_back((block.last().index, bytes));
        leader.uncommitted_bytes += bytes;
        self.stage(block);
        self.aim_all(out);
    }

    /// The state machine has seen everything through `through`.
    pub(crate) fn on_applied(&mut self, through: Index) {
        self.log.apply(through);
        let Role::Leader(leader) = &mut self.role else { return };
        while leader.unapplied.front().is_some_and(|(last, _)| *last <= through) {
            let (_, bytes) = leader.unapplied.pop_front().expect("there is a front");
            leader.unapplied_bytes -= bytes;
        }
    }

    /// The moment a leader is woken for: does it still lead, and says so.
    pub(crate) fn lead_on(&mut self, now: Instant, out: &mut Outputs) {
        // A leader whose own log hangs could hold its followers with heartbeats for ever and never
        // become better than them.
        if self.log_hangs(now, self.config.election_timeout_max) {
            self.step_down(now, out);
            return;
        }
        self.expire_transfer(now, out);
        let Role::Leader(leader) = &mut self.role else { return };
        if now < leader.heartbeat_at || leader.progress.is_empty() {
            return;
        }
        leader.heartbeat_at = now + self.config.heartbeat_interval;
        // Check-quorum: without answers from a quorum another leader may be at work.
        let silence = now.since(self.heard_from_quorum(now));
        if silence > self.config.election_timeout_max && !planted::on("no-check-quorum") {
            self.step_down(now, out);
            return;
        }
        self.broadcast(now, out);
        self.introduce_recovery_to_silent(out);
        self.tell_again();
        self.prefer_others(now);
    }

    /// The send time of the newest round that a quorum has answered.
    fn heard_from_quorum(&self, now: Instant) -> Instant {
        let Role::Leader(leader) = &self.role else { unreachable!("only leaders hear answers") };
        let membership = self.log.membership().expect("a leader has a configuration");
        reached_by_quorum(membership, |id| {
            if id == self.config.id {
                now
            } else {
                leader.progress.get(&id).map_or(Instant::ORIGIN, |p| p.heard_at)
            }
        })
    }

    /// A round of heartbeats. Returns its number.
    pub(crate) fn broadcast(&mut self, now: Instant, out: &mut Outputs) -> u64 {
        let (term, commit, last) = (self.hard.term, self.log.committed(), self.log.last().index);
        let promise = self.config.election_timeout_min;
        let keep = self.config.election_timeout_max * 2;
        let Role::Leader(leader) = &mut self.role else { unreachable!("only leaders broadcast") };
        leader.round += 1;
        let round = leader.round;
        leader.rounds.push_back((round, now, last));
        while leader.rounds.front().is_some_and(|(_, sent, _)| now.since(*sent) > keep) {
            leader.rounds.pop_front();
        }
        for (to, p) in &leader.progress {
            let Progress { session, witness, refill, .. } = *p;
            let heartbeat = Heartbeat { term, session, round, commit, promise, witness, refill };
            out.send(*to, Message::Heartbeat(heartbeat));
        }
        self.attach_reads(now, round);
        round
    }

    /// Begins with a member that was added in this term.
    pub(crate) fn begin_with(
        &mut self,
        now: Instant,
        id: NodeId,
        member: &Member,
        after: LogId,
        out: &mut Outputs,
    ) {
        let Role::Leader(leader) = &mut self.role else { unreachable!("only leaders replicate") };
        let added_with = Some(leader.sessions + 1);
        leader.progress.insert(id, Progress { added_with, ..Progress::new(now, after, member) });
        self.begin_session(now, id, after, out);
    }

    /// Begins anew with a follower, behind `after`.
    fn begin_session(&mut self, now: Instant, id: NodeId, after: LogId, out: &mut Outputs) {
        let Role::Leader(leader) = &mut self.role else { unreachable!("only leaders replicate") };
        leader.sessions += 1;
        let session = leader.sessions;
        let p = leader.progress.get_mut(&id).expect("a session is with a member");
        let was = std::mem::replace(&mut p.stage, Stage::Probe);
        p.session = session;
        p.after = after;
        p.moved_at = now;
        p.sent = after.index;
        p.lost = false;
        let witness = p.witness;
        if let Stage::Snapshot { .. } = was {
            out.push(self.send_snapshot(id, 0, witness));
        }
        self.aim(id, out);
    }

    /// Begins anew with a follower whose next entry is compacted.
    fn begin_snapshot(&mut self, now: Instant, id: NodeId, out: &mut Outputs) {
        let compacted = self.log.compacted();
        let Role::Leader(leader) = &mut self.role else { unreachable!("only leaders replicate") };
        leader.sessions += 1;
        let session = leader.sessions;
        let p = leader.progress.get_mut(&id).expect("a session is with a member");
        p.session = session;
        p.after = compacted;
        p.moved_at = now;
        p.stage = Stage::Snapshot { last: None };
        p.lost = false;
        let Progress { matched, witness, .. } = *p;
        out.push(self.stop_stream(id, matched));
        out.push(self.send_snapshot(id, session, witness));
    }

    /// Tells a follower's stream where things stand.
    fn aim(&self, id: NodeId, out: &mut Outputs) {
        let Role::Leader(leader) = &self.role else { unreachable!("only leaders replicate") };
        self.aim_at(id, &leader.progress[&id], out);
    }

    fn aim_at(&self, id: NodeId, p: &Progress, out: &mut Outputs) {
        if p.is_sent_a_snapshot() {
            return;
        }
        let through = if p.witness { self.given_to_witnesses() } else { self.log.last().index };
        out.push_with(|| {
            Output::Replicate(Replicate {
                to: id,
                term: self.hard.term,
                session: p.session,
                after: p.after,
                through,
                matched: p.matched,
                commit: self.log.committed(),
                pipeline: p.stage == Stage::Replicate,
                promise: self.config.election_timeout_min,
                witness: p.witness,
            })
        });
    }

    /// How far witnesses are given the log: as far as a full replica has it durably that can be elected
    /// with their votes. That is this leader, if it is a voter; of a leader that a configuration leaves
    /// out the voters that stay, or what it had told the witness alone would keep them from being
    /// elected when it is gone.
    fn given_to_witnesses(&self) -> Index {
        let Role::Leader(leader) = &self.role else { unreachable!("only leaders replicate") };
        let membership = self.log.membership().expect("a leader has a configuration");
        if membership.is_voter(self.config.id) {
            return self.log.persisted();
        }
        let full = leader.progress.iter().filter(|(id, _)| membership.may_lead(**id));
        full.map(|(_, p)| p.counted()).max().unwrap_or(0)
    }

    /// More is durable where witnesses wait for it.
    pub(crate) fn aim_witnesses(&self, out: &mut Outputs) {
        let Role::Leader(leader) = &self.role else { return };
        for (id, p) in leader.progress.iter().filter(|(_, p)| p.witness) {
            self.aim_at(*id, p, out);
        }
    }

    fn aim_all(&self, out: &mut Outputs) {
        let Role::Leader(leader) = &self.role else { unreachable!("only leaders replicate") };
        for (id, p) in &leader.progress {
            self.aim_at(*id, p, out);
        }
    }

    pub(crate) fn on_sent(&mut self, now: Instant, to: NodeId, session: u64, through: Index) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(p) = leader.progress.get_mut(&to) else { return };
        if p.session == session && through > p.sent {
            if p.sent <= p.accepted {
                p.moved_at = now;
            }
            p.sent = through;
        }
    }

    /// An append or a snapshot did not get there; the next sign of life of the follower begins anew.
    pub(crate) fn on_lost(&mut self, to: NodeId, session: u64) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(p) = leader.progress.get_mut(&to).filter(|p| p.session == session) {
            p.lost = true;
        }
    }

    pub(crate) fn on_heartbeat_answer(
        &mut self,
        now: Instant,
        from: NodeId,
        m: &HeartbeatAnswer,
        out: &mut Outputs,
    ) {
        let last = self.log.last().index;
        let current = m.term == self.hard.term;
        let drift = self.config.clock_drift_percent;
        let Role::Leader(leader) = &mut self.role else { return };
        let sent_at = leader.sent_at(m.round);
        let Some(p) = leader.progress.get_mut(&from).filter(|_| current) else { return };
        let same_session = p.session == m.session;
        if same_session && (m.matched > m.accepted || m.accepted > last) {
            notice(from, Notice::Violation("more acknowledged than there is"), out);
            return;
        }
        let newest = m.round > p.acked_round;
        if newest {
            // Of a round that was never sent, or so long ago that it is forgotten: not heard.
            let Some(sent_at) = sent_at else { return };
            // That it follows is true of the term, whatever became of the session meanwhile.
            p.acked_round = m.round;
            p.heard_at = sent_at;
            p.round_trip = Some(now.since(sent_at));
            let counted = if planted::on("lease-counted-from-the-answer") { now } else { sent_at };
            p.leased_until = p.leased_until.max(counted + lease(m.promised, drift));
            p.priority = m.priority;
        }
        if same_session {
            self.on_matched(now, from, m.matched, out);
            if newest {
                self.check_stream(now, from, m.accepted, out);
            }
        }
        self.confirm_reads(now, out);
    }

    /// Looks after a stream, by what the follower says it has.
    fn check_stream(&mut self, now: Instant, id: NodeId, accepted: Index, out: &mut Outputs) {
        let patience = self.config.election_timeout_min;
        let Role::Leader(leader) = &mut self.role else { return };
        let p = leader.progress.get_mut(&id).expect("checked by the caller");
        let before = std::mem::replace(&mut p.accepted, accepted);
        if p.is_sent_a_snapshot() {
            // Up to where the log begins, wherever it has it from, or not: it is asked again.
            let over = accepted >= self.log.compacted().index || p.lost;
            if over && !planted::on("snapshot-state-for-ever") {
                let after = self.log.id_at(accepted.max(p.matched));
                self.begin_session(now, id, after, out);
            }
        } else if p.stage == Stage::Probe && accepted >= p.after.index {
            // Verified beyond the start of the session: as good as the answer to the probe, which
            // may be waiting for the follower's disk.
            p.stage = Stage::Replicate;
            p.moved_at = now;
            self.aim(id, out);
        } else if accepted > before {
            p.moved_at = now;
        } else if accepted < before {
            // It restarted and knows only what it has read from its disk.
            let after = self.log.id_at(p.matched);
            self.begin_session(now, id, after, out);
        } else if (p.lost || (p.is_waiting() && now.since(p.moved_at) >= patience))
            && !planted::on("losses-not-noticed")
        {
            // An append, or its answer, was lost with nothing behind it that would show the gap.
            let replicates = p.stage == Stage::Replicate;
            let after = if replicates { accepted.max(p.matched) } else { p.after.index };
            let after = self.log.id_at(after);
            self.begin_session(now, id, after, out);
        }
    }

    pub(crate) fn on_append_answer(
        &mut self,
        now: Instant,
        from: NodeId,
        m: &AppendEntriesAnswer,
        out: &mut Outputs,
    ) {
        let (compacted, last) = (self.log.compacted().index, self.log.last().index);
        let Some(p) = self.progress_of(from, m.term, m.session) else { return };
        if let Some(hint) = m.conflict {
            let matched = p.matched;
            // Only the answer to a probe at or below `matched` proves that acknowledged entries are
            // gone: any other conflict may be an old answer that a newer acknowledgement overtook.
            let proof = p.stage == Stage::Probe && p.after.index <= matched;
            let acknowledged = self.log.id_at(matched);
            let went_back = proof && (hint.index < matched || hint < acknowledged);
            if went_back {
                // It starts over and counts for nothing until it has them again.
                notice(from, Notice::LogWentBack, out);
                let Role::Leader(leader) = &mut self.role else { return };
                let p = leader.progress.get_mut(&from).expect("looked up above");
                p.refill = p.refill.max(acknowledged);
                p.matched = 0;
                p.accepted = 0;
            }
            // Before the beginning of this log, in either order: the follower lacks that.
            let beginning = self.log.compacted();
            let lacks = hint.index < beginning.index || hint < beginning;
            if lacks && (went_back || matched < beginning.index) {
                self.begin_snapshot(now, from, out);
                return;
            }
            // Both sides step back by whole terms: the follower did so to find its hint, and this
            // does for the leader's log.
            let agreed = self.log.last_not_above(hint);
            let known = if went_back { LogId::ZERO } else { acknowledged };
            let after = if agreed.index < known.index { known } else { agreed };
            self.begin_session(now, from, after, out);
        } else if m.matched > last {
            notice(from, Notice::Violation("more acknowledged than there is"), out);
        } else {
            match p.stage {
                Stage::Probe => {
                    p.stage = Stage::Replicate;
                    p.moved_at = now;
                    self.aim(from, out);
                }
                Stage::Replicate => {}
                Stage::Snapshot { .. } if planted::on("snapshot-state-for-ever") => {}
                Stage::Snapshot { .. } if m.matched >= compacted => {
                    // Installed, or it had it: the entries behind it come next.
                    self.begin_session(now, from, self.log.id_at(m.matched), out);
                }
                Stage::Snapshot { .. } => {}
            }
            self.on_matched(now, from, m.matched, out);
        }
    }

    /// The follower has everything through `index` durably.
    fn on_matched(&mut self, now: Instant, from: NodeId, index: Index, out: &mut Outputs) {
        let Role::Leader(leader) = &mut self.role else { return };
        let p = leader.progress.get_mut(&from).expect("checked by the caller");
        if index <= p.matched && !planted::on("matched-goes-back") {
            return;
        }
        p.matched = index;
        if p.is_quarantined() && index >= p.refill.index {
            p.refill = LogId::ZERO;
            out.push(Output::Refilled { peer: from });
        }
        // What is committed already can't commit more.
        if index > self.log.committed() {
            self.advance_commit(now, out);
        }
        self.aim(from, out);
        if !self.is_voter() {
            self.aim_witnesses(out);
        }
    }

    /// Commits what a quorum has durably, if it ends with an entry of the current term (paper
    /// §5.4.2, Figure 8).
    pub(crate) fn advance_commit(&mut self, now: Instant, out: &mut Outputs) {
        let Role::Leader(leader) = &self.role else { return };
        let membership = self.log.membership().expect("a leader has a configuration");
        let index = reached_by_quorum(membership, |id| {
            if id == self.config.id && planted::on("leader-counts-itself-early") {
                self.log.last().index
            } else if id == self.config.id {
                self.log.persisted()
            } else {
                leader.progress.get(&id).map_or(0, Progress::counted)
            }
        });
        let own = self.log.term_at(index) == Some(self.hard.term);
        if index <= self.log.committed() || !(own || planted::on("earlier-terms-counted")) {
            return;
        }
        self.log.commit(index);
        self.apply_committed(out);
        let Role::Leader(leader) = &mut self.role else { return };
        while leader.uncommitted.front().is_some_and(|(last, _)| *last <= index) {
            let (last, bytes) = leader.uncommitted.pop_front().expect("there is a front");
            leader.uncommitted_bytes -= bytes;
            leader.unapplied.push_back((last, bytes));
            leader.unapplied_bytes += bytes;
        }
        self.start_reads(now, out);
    }

    /// Ties members to the incarnations they were heard with, where the membership does not yet, so
    /// that another disk under a known id is recognized for ever.
    ///
    /// At once, not with the next heartbeat: until it is done, losing this leader may leave too few
    /// votes that count. Voters stay the same, so it is always allowed: every quorum before is one
    /// after.
    pub(crate) fn tie(
        &mut self,
        heard: impl IntoIterator<Item = (NodeId, u64)>,
        out: &mut Outputs,
    ) {
        let Role::Leader(_) = &self.role else { return };
        let Some((_, membership)) = self.log.configurations().last() else { return };
        let untied = |id| membership.member(id).is_some_and(|m| m.incarnation == 0);
        let mut next = None;
        for (id, incarnation) in heard.into_iter().filter(|(id, i)| *i != 0 && untied(*id)) {
            let tied = next.as_ref().unwrap_or(membership).with_incarnation(id, incarnation);
            next = Some(tied);
        }
        if let Some(next) = next {
            let id = LogId::new(self.hard.term, self.log.last().index + 1);
            self.append_as_leader(EntryBlock::configuration(id, &next), out);
        }
    }

    /// Whether `message` was sent by what its sender is today: a member that was added in this term
    /// may have been one before, with another disk, so only answers to the session it was added with
    /// speak for it.
    pub(crate) fn is_of_today(&self, from: NodeId, message: &Message) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let Some(p) = leader.progress.get(&from) else { return false };
        let session = match message {
            Message::HeartbeatAnswer(m) => m.session,
            Message::AppendEntriesAnswer(m) => m.session,
            Message::InstallSnapshotAnswer(m) => m.have.session,
            _ => 0,
        };
        let since = p.added_with.is_none_or(|first| session >= first);
        since && message.term() == Some(self.hard.term)
    }

    /// The progress of a follower whose answer belongs to this term and to its present session.
    pub(crate) fn progress_of(
        &mut self,
        from: NodeId,
        term: u64,
        session: u64,
    ) -> Option<&mut Progress> {
        let current = term == self.hard.term;
        let Role::Leader(leader) = &mut self.role else { return None };
        let any = planted::on("earlier-sessions-count");
        leader.progress.get_mut(&from).filter(|p| current && (any || p.session == session))
    }
}

impl Progress {
    /// A member of which nothing is known yet; its log may agree with this one through `after`.
    fn new(now: Instant, after: LogId, member: &Member) -> Self {
        Self {
            matched: 0,
            accepted: 0,
            session: 0,
            after,
            stage: Stage::Probe,
            sent: after.index,
            lost: false,
            moved_at: now,
            acked_round: 0,
            heard_at: now,
            round_trip: None,
            leased_until: Instant::ORIGIN,
            priority: 0,
            witness: member.witness,
            refill: LogId::ZERO,
            added_with: None,
        }
    }

    /// Whether it has answered a round that was sent within `lately`.
    pub(crate) fn was_heard(&self, now: Instant, lately: Duration) -> bool {
        self.acked_round > 0 && now.since(self.heard_at) <= lately
    }

    pub(crate) fn seen(&self, id: NodeId) -> Follower {
        let Progress { matched, heard_at, round_trip, .. } = *self;
        Follower { id, matched, heard_at, round_trip, snapshot: self.is_sent_a_snapshot() }
    }

    /// What counts towards a commit of what it has durably.
    fn counted(&self) -> Index {
        if self.is_quarantined() { 0 } else { self.matched }
    }

    /// Whether it lost entries that it had acknowledged and has not got them back.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.refill > LogId::ZERO
    }

    /// Whether something was sent that the follower has not been heard to have.
    fn is_waiting(&self) -> bool {
        self.stage == Stage::Probe || self.sent > self.accepted
    }

    fn is_sent_a_snapshot(&self) -> bool {
        matches!(self.stage, Stage::Snapshot { .. })
    }
}

/// How long a promise of so long lasts at least, by a clock that may be slower by so much.
fn lease(promised: Duration, drift_percent: u32) -> Duration {
    let drift_percent = if planted::on("lease-ignores-drift") { 0 } else { drift_percent };
    promised * 100 / (100 + drift_percent)
}

impl Leader {
    fn sent_at(&self, round: u64) -> Option<Instant> {
        let (oldest, _, _) = self.rounds.front()?;
        let at = usize::try_from(round.checked_sub(*oldest)?).ok()?;
        self.rounds.get(at).map(|(_, sent, _)| *sent)
    }

    /// Where the log ended `ago`, or where the term began if that is not so long ago.
    pub(crate) fn log_was_at(&self, now: Instant, ago: Duration) -> Index {
        let younger = self.rounds.partition_point(|(_, sent, _)| now.since(*sent) >= ago);
        self.rounds.get(younger.saturating_sub(1)).map_or(self.term_start, |(_, _, last)| *last)
    }
}

// ---- the follower's end ----

impl Engine {
    /// Up to where this log equals the leader's: what was verified, or is committed.
    fn accepted(&self) -> Index {
        self.following.accepted.max(self.log.committed())
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        now: Instant,
        from: NodeId,
        m: &Heartbeat,
        out: &mut Outputs,
    ) {
        let mut answer = HeartbeatAnswer {
            term: self.hard.term,
            session: m.session,
            round: m.round,
            accepted: 0,
            matched: 0,
            promised: Duration::ZERO,
            priority: self.config.priority,
        };
        if m.term == self.hard.term {
            if !self.may_follow(from, m.witness, out) {
                return;
            }
            answer.promised = self.follow(now, from, m.promise, out);
            self.commit_as_follower(m.commit, out);
            self.be_quarantined(from, m.refill, out);
            answer.accepted = self.accepted();
            answer.matched = answer.accepted.min(self.log.persisted());
            if planted::on("heartbeat-acknowledges-early") {
                answer.matched = answer.accepted;
            }
        }
        out.send(from, Message::HeartbeatAnswer(answer));
    }

    pub(crate) fn on_append(
        &mut self,
        now: Instant,
        from: NodeId,
        m: AppendEntries,
        out: &mut Outputs,
    ) {
        let answer = |engine: &Engine, conflict| {
            Message::AppendEntriesAnswer(AppendEntriesAnswer {
                term: engine.hard.term,
                session: m.session,
                matched: 0,
                conflict,
            })
        };
        if m.term < self.hard.term {
            out.send(from, answer(self, None));
            return;
        }
        if !self.may_follow(from, m.witness, out) {
            return;
        }
        self.follow(now, from, m.promise, out);
        // The consistency check (paper §5.3). What was compacted is committed, so it agrees.
        let agrees = self.log.contains(m.prev)
            || (planted::on("terms-not-compared") && m.prev.index <= self.log.last().index);
        if m.prev.index > self.log.compacted().index && !agrees {
            if m.prev.index <= self.log.committed() {
                notice(from, Notice::Violation("a leader without a committed entry"), out);
                return;
            }
            let hint = self.log.last_not_above(m.prev);
            let hint = if planted::on("conflicts-never-end") { m.prev } else { hint };
            out.send(from, answer(self, Some(hint)));
            return;
        }
        let accepted = m.last().index;
        // The steady state: all of it is new, and is written as it came.
        let (new, known) =
            if m.prev == self.log.last() { (m.blocks, Vec::new()) } else { (Vec::new(), m.blocks) };
        self.stage_all(new);
        for block in known {
            match self.log.missing_from(&block) {
                None => {}
                Some((_, Some(conflict))) if conflict <= self.log.committed() => {
                    notice(from, Notice::Violation("a leader without a committed entry"), out);
                    return;
                }
                Some((first, _)) => {
                    let whole = first == block.first();
                    let last = block.last().index;
                    self.stage(if whole { block } else { block.slice(first, last) });
                }
            }
        }
        self.following.accepted = self.following.accepted.max(accepted);
        self.owe_acknowledgement(from, m.session);
        self.commit_as_follower(m.commit, out);
        if self.log.persisted() >= self.accepted() {
            self.acknowledge(out);
        }
    }

    /// What is durable is to be acknowledged, to the newest session: an append of an earlier one
    /// that was overtaken is part of it.
    pub(crate) fn owe_acknowledgement(&mut self, to: NodeId, session: u64) {
        let session = self.following.owed.map_or(session, |(_, owed)| owed.max(session));
        self.following.owed = Some((to, session));
    }

    /// Whether `from` may be this term's leader, nobody else being it, and has this node for what it
    /// is: a full replica, or a witness.
    ///
    /// A node becomes a witness when a leader first says so, durably with the first it has as one,
    /// and stays one for as long as its directory lives: what it was not given it can't make up for.
    pub(crate) fn may_follow(&mut self, from: NodeId, witness: bool, out: &mut Outputs) -> bool {
        let two = match (&self.role, self.leader) {
            (Role::Leader(_), _) => true,
            (_, Some(leader)) => leader != from,
            (_, None) => false,
        };
        if two {
            notice(from, Notice::Violation("a second leader in one term"), out);
            return false;
        }
        if self.hard.witness && !witness {
            notice(from, Notice::WantsCommands, out);
            return false;
        }
        if witness && !self.hard.witness && !planted::on("witness-forgets-what-it-is") {
            self.set_hard_state(HardState { witness, ..self.hard });
        }
        true
    }

    /// Commits what the leader has committed, as far as it is verified to be the same here.
    pub(crate) fn commit_as_follower(&mut self, commit: Index, out: &mut Outputs) {
        let beyond = planted::on("commits-beyond-match");
        let commit = commit.min(if beyond { self.log.last().index } else { self.accepted() });
        if commit > self.log.committed() {
            self.log.commit(commit);
            self.apply_committed(out);
        }
    }

    /// Acknowledges what is durable; more is owed until everything accepted is.
    pub(crate) fn acknowledge(&mut self, out: &mut Outputs) {
        let Some((to, session)) = self.following.owed else { return };
        let accepted = self.accepted();
        let early = planted::on("acknowledges-before-sync");
        let persisted = if early { self.log.last().index } else { self.log.persisted() };
        if persisted >= accepted {
            self.following.owed = None;
        }
        let (term, matched) = (self.hard.term, accepted.min(persisted));
        out.push_with(|| Output::Send {
            to,
            message: Message::AppendEntriesAnswer(AppendEntriesAnswer {
                term,
                session,
                matched,
                conflict: None,
            }),
        });
        self.end_quarantine();
    }

    /// The leader says that this node has lost entries through `refill` that it had acknowledged: its
    /// disk is not what it was. With its vote somebody could be elected who lacks what is committed, so
    /// until it has them again it votes as if it had them, and does not campaign. It may have voted in
    /// this term, too, and forgotten that: its vote is the leader's.
    fn be_quarantined(&mut self, from: NodeId, refill: LogId, out: &mut Outputs) {
        let durable = self.accepted().min(self.log.persisted());
        if refill > self.refill && refill.index > durable {
            self.refill = refill;
            notice(from, Notice::LostEntries, out);
            if self.hard.voted_for.is_none() {
                self.set_hard_state(HardState { voted_for: Some(from), ..self.hard });
            }
        }
    }

    /// It is over when this log is durably the same as the log of a leader, through all that was lost.
    fn end_quarantine(&mut self) {
        if self.accepted().min(self.log.persisted()) >= self.refill.index {
            self.refill = LogId::ZERO;
        }
    }

    /// Who has lost entries that it had acknowledged and has not got them back, as far as this node
    /// knows: followers of this leader, or this node itself.
    pub fn quarantined(&self) -> impl Iterator<Item = NodeId> {
        let progress = match &self.role {
            Role::Leader(leader) => Some(&leader.progress),
            _ => None,
        };
        let followers = progress.into_iter().flatten().filter(|(_, p)| p.is_quarantined());
        let own = (self.refill > LogId::ZERO).then_some(self.config.id);
        followers.map(|(id, _)| *id).chain(own)
    }
}

fn notice(peer: NodeId, what: Notice, out: &mut Outputs) {
    out.push(Output::Noticed { peer, what });
}
