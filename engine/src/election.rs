//! Elections: paper §5.2 and §5.4.1, with pre-vote, check-quorum and leader stickiness (thesis §9.6
//! and §6.4.1).

use std::collections::{BTreeMap, BTreeSet};

use crate::block::EntryBlock;
use crate::engine::{Engine, FIRST, PLAUSIBLE};
use crate::io::{Decline, Fatal, Output, Outputs};
use crate::membership::Membership;
use crate::message::{Introduce, Introduced, Message, RequestVote, RequestVoteAnswer};
use crate::planted;
use crate::quorum::{is_quorum, meets_quorums_twice};
use crate::replication::Leader;
use crate::types::{HardState, Instant, LogId, NodeId, Term};

/// What this node is, with what only that role has.
#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    /// Has `granted` promises of a vote in the next term, and offered the first configuration to
    /// those in `introduced`.
    PreCandidate {
        granted: BTreeSet<NodeId>,
        introduced: BTreeSet<NodeId>,
    },
    /// Has `granted` votes in this term, each with the incarnation that gave it; its own is among
    /// them once it is durable, and nobody is asked before.
    /// `transfer` if the last leader told it to stand.
    Candidate {
        granted: BTreeMap<NodeId, u64>,
        transfer: bool,
    },
    Leader(Box<Leader>),
}

/// Answers that wait for the disk: what they promise must not be forgotten.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    /// The vote given in the current term, to be told once write `.1` is durable.
    grant: Option<(NodeId, u64, Term)>,
    /// Who introduced us, to be told once write `.1` is durable.
    introduction: Option<(NodeId, u64)>,
}

impl Votes {
    pub(crate) fn owe_introduction(&mut self, to: NodeId, seq: u64) {
        self.introduction = Some((to, seq));
    }

    /// Sends what `durable_seq` allows.
    pub(crate) fn pay(&mut self, durable_seq: u64, out: &mut Outputs) {
        let may_leave = |seq| seq <= durable_seq || planted::on("vote-leaves-early");
        if let Some((to, _, term)) = self.grant.take_if(|(_, seq, _)| may_leave(*seq)) {
            let answer = RequestVoteAnswer { pre: false, term, granted: true };
            out.send(to, Message::RequestVoteAnswer(answer));
        }
        if let Some((to, _)) = self.introduction.take_if(|(_, seq)| *seq <= durable_seq) {
            out.send(to, Message::Introduced(Introduced {}));
        }
    }
}

impl Engine {
    /// A new random time to wait for a leader (paper §5.2).
    pub(crate) fn reset_election(&mut self, now: Instant) {
        let (min, max) = (self.config.election_timeout_min, self.config.election_timeout_max);
        self.election_at = now + self.rng.between(min, max);
    }

    /// Follows `term`, and `leader` if it is known; a leader hands its work back first.
    pub(crate) fn become_follower(
        &mut self,
        now: Instant,
        term: Term,
        leader: Option<NodeId>,
        out: &mut Outputs,
    ) {
        if term > self.hard.term {
            self.set_hard_state(HardState { term, voted_for: None, ..self.hard });
            self.votes.grant = None;
            self.following.begin_term(&self.log);
        }
        let leader_changed = leader.is_some() && self.leader != leader;
        self.leader = leader;
        if !matches!(self.role, Role::Follower) {
            self.reset_election(now);
            if let Role::Leader(was) = std::mem::replace(&mut self.role, Role::Follower) {
                self.stop_leading(*was, out);
            }
        }
        if leader_changed {
            self.ask_new_leader(now, out);
        }
    }

    /// Whether this node stands for election: a voter that is no witness, and does not know that it
    /// was removed or has lost what it acknowledged.
    ///
    /// Also one that the newest configuration leaves out, as long as that is not known to be
    /// committed: perhaps nobody else has it, and nobody who lacks it can have this node's vote
    /// (thesis §4.2.2, Figure 4.6). It does not count its own vote then, and hands over once it has
    /// committed.
    pub(crate) fn may_campaign(&self) -> bool {
        let me = self.config.id;
        let told = self.removed.is_some() && !planted::on("removed-node-campaigns");
        if told
            || (self.refill > LogId::ZERO && !planted::on("quarantined-campaigns"))
            || (self.hard.witness && !planted::on("witness-campaigns"))
        {
            return false;
        }
        let named = |m: &Membership| m.may_lead(me);
        let left_out = || {
            let (at, before) = self.voters_changed_at()?;
            Some(at.index > self.log.committed() && named(before?))
        };
        self.log.membership().is_some_and(named) || left_out() == Some(true)
    }

    /// An operator tells this node to campaign.
    pub(crate) fn on_campaign(&mut self, now: Instant, out: &mut Outputs) {
        if matches!(self.role, Role::Leader(_)) {
            out.push(Output::Declined(Decline::Unusable("this node leads already")));
        } else if !self.may_campaign() {
            out.push(Output::Declined(Decline::Unusable("this node may not lead")));
        } else {
            self.campaign_soon(now, out);
        }
    }

    /// An operator says that the leader is gone.
    pub(crate) fn on_forget_leader(&mut self, now: Instant, out: &mut Outputs) {
        if matches!(self.role, Role::Leader(_)) {
            out.push(Output::Declined(Decline::Unusable("this node is the leader")));
            return;
        }
        self.leader = None;
        if self.may_campaign() {
            self.campaign_soon(now, out);
        }
    }

    /// Campaigns as soon as the own promise allows. If the leader is heard before, the promise is
    /// made anew and the election timeout with it.
    fn campaign_soon(&mut self, now: Instant, out: &mut Outputs) {
        if now >= self.promised_until {
            self.campaign(now, out);
        } else {
            self.election_at = self.promised_until;
        }
    }

    /// Asks whether an election could be won (thesis §9.6); at once a candidate if nobody is to be
    /// asked.
    pub(crate) fn campaign(&mut self, now: Instant, out: &mut Outputs) {
        self.reset_election(now);
        if !self.is_fit(now, out) {
            return;
        }
        self.leader = None;
        self.role = Role::PreCandidate {
            granted: BTreeSet::from([self.config.id]),
            introduced: BTreeSet::new(),
        };
        for to in self.other_voters() {
            if self.log.last() == FIRST {
                self.introduce(to, out);
            }
            self.introduce_recovery(to, out);
            out.send(to, self.vote_request(true));
        }
        self.count_votes(now, out);
    }

    /// Whether this node could lead a next term at all.
    pub(crate) fn is_fit(&mut self, now: Instant, out: &mut Outputs) -> bool {
        // What this node would say as a leader could not become durable.
        if self.log_hangs(now, self.config.election_timeout_min) {
            return false;
        }
        if self.hard.term >= PLAUSIBLE {
            self.stop(Fatal::TermsExhausted { term: self.hard.term }, out);
            return false;
        }
        true
    }

    /// Offers the first configuration to a voter that may have none yet, once in each campaign.
    fn introduce(&mut self, to: NodeId, out: &mut Outputs) {
        let Role::PreCandidate { introduced, .. } = &mut self.role else { return };
        let Some((FIRST, membership)) = self.log.configurations().first() else { return };
        if introduced.insert(to) {
            let configuration = EntryBlock::configuration(FIRST, membership);
            out.send(to, Message::Introduce(Introduce { configuration }));
        }
    }

    /// A member took the first configuration from this node: now it can vote.
    pub(crate) fn on_introduced(&mut self, now: Instant, from: NodeId, out: &mut Outputs) {
        if !self.introduced.is_empty() {
            self.introduced.insert(from);
        }
        match &self.role {
            Role::PreCandidate { granted, .. } if !granted.contains(&from) => {
                out.send(from, self.vote_request(true));
            }
            _ => self.count_votes(now, out),
        }
    }

    fn other_voters(&self) -> Vec<NodeId> {
        let membership = self.log.membership();
        let others =
            membership.into_iter().flat_map(|m| m.members().keys().map(move |id| (m, *id)));
        others
            .filter(|(m, id)| *id != self.config.id && m.is_voter(*id))
            .map(|(_, id)| id)
            .collect()
    }

    fn vote_request(&self, pre: bool) -> Message {
        let term = self.hard.term + u64::from(pre);
        let told = matches!(self.role, Role::Candidate { transfer: true, .. });
        let transfer = told || (!pre && planted::on("transfer-ignores-stickiness-always"));
        Message::RequestVote(RequestVote { pre, term, last: self.log.last(), transfer })
    }

    /// Stands for election in the next term, by itself or because the leader hands over; the
    /// requests wait until the own vote is durable.
    pub(crate) fn stand(&mut self, now: Instant, transfer: bool) {
        self.set_hard_state(HardState {
            term: self.hard.term + 1,
            voted_for: Some(self.config.id),
            ..self.hard
        });
        self.votes.grant = None;
        self.following.begin_term(&self.log);
        self.leader = None;
        self.role = Role::Candidate { granted: BTreeMap::new(), transfer };
        self.reset_election(now);
    }

    /// The own vote is durable: count it, and ask the others.
    pub(crate) fn announce_candidacy(&mut self, now: Instant, out: &mut Outputs) {
        if !self.hard_state_is_durable() {
            return;
        }
        let Role::Candidate { granted, .. } = &mut self.role else { return };
        if granted.insert(self.config.id, self.config.incarnation).is_some() {
            return;
        }
        for to in self.other_voters() {
            out.send(to, self.vote_request(false));
        }
        self.count_votes(now, out);
    }

    fn count_votes(&mut self, now: Instant, out: &mut Outputs) {
        match &mut self.role {
            Role::PreCandidate { granted, introduced } => {
                let (granted, introduced) = (std::mem::take(granted), std::mem::take(introduced));
                if self.would_win(|id| granted.contains(&id)) {
                    self.stand(now, false);
                } else {
                    self.role = Role::PreCandidate { granted, introduced };
                }
            }
            Role::Candidate { granted, transfer } => {
                let (granted, transfer) = (std::mem::take(granted), *transfer);
                if self.would_win(|id| granted.contains_key(&id)) {
                    self.lead(now, granted, out);
                } else {
                    self.role = Role::Candidate { granted, transfer };
                }
            }
            _ => {}
        }
    }

    /// Whether these votes elect.
    ///
    /// A majority does (paper §5.2) if the membership ties each of its voters to a data directory.
    /// A voter that is not tied to one yet may be a disk that was wiped and has forgotten what it
    /// acknowledged or whom it voted for, and nobody could tell; so with such votes among them it
    /// takes as many as meet every majority in two voters, one of them not wiped: of an odd number of
    /// voters one more than a majority, of three all.
    ///
    /// The node that its operator began the group at, while nobody leads, also trusts those who were
    /// blank until it gave them their first configuration: that there is nothing to forget yet is
    /// what the operator said, and what they confirm. It is so as long as nobody else can have been
    /// elected: in the first term there is, since who votes in that has not voted for another; and
    /// later where the votes of all others would not do, until it gives its own. Otherwise a disk that
    /// was wiped meanwhile might be introduced anew. The first leader ties those who elected it to their
    /// directories before it takes a command.
    fn would_win(&self, voted: impl Fn(NodeId) -> bool) -> bool {
        let membership = self.log.membership().expect("a candidate has a configuration");
        let tied = |id| membership.member(id).is_some_and(|m| m.incarnation != 0);
        let standing = matches!(self.role, Role::Candidate { .. });
        let first_term = self.hard.term == u64::from(standing);
        let needed = !meets_quorums_twice(membership, |id| id != self.config.id);
        let trusts = first_term || needed;
        let trusted = |id| tied(id) || (trusts && self.introduced.contains(&id));
        is_quorum(membership, |id| voted(id) && trusted(id))
            || meets_quorums_twice(membership, &voted)
            || (planted::on("untied-votes-elect") && is_quorum(membership, &voted))
            || (self.config.incarnation == 0 && is_quorum(membership, voted))
    }

    /// Whether a vote request has to be turned down unheard: this node (still) has a leader, or has
    /// promised one not to vote. A leader itself has one: itself, as long as a quorum answers it.
    pub(crate) fn is_sticky(&self, now: Instant) -> bool {
        matches!(self.role, Role::Leader(_))
            || (now < self.promised_until && !planted::on("no-stickiness"))
    }

    /// Whether a higher term in `message` is left alone: only in a vote request that a promise
    /// forbids to grant (thesis §6.4.1, leader stickiness).
    pub(crate) fn keeps_its_promise(&self, now: Instant, message: &Message) -> bool {
        matches!(message, Message::RequestVote(m) if self.refuses_unheard(now, m))
    }

    /// Whether a promise forbids to hear this request.
    ///
    /// One that the leader itself has asked for is heard: a promise is made to a leader for its
    /// lease, and this leader has given its lease up, for the rest of its term, before it told the
    /// candidate to stand. Of promises to earlier leaders nothing depends any more: this one was
    /// elected by a majority for whom they had run out.
    fn refuses_unheard(&self, now: Instant, m: &RequestVote) -> bool {
        self.is_sticky(now) && (m.pre || !m.transfer)
    }

    pub(crate) fn on_request_vote(
        &mut self,
        now: Instant,
        from: NodeId,
        m: &RequestVote,
        out: &mut Outputs,
    ) {
        // The candidate's log must be at least as up-to-date as this one (paper §5.4.1), and a node
        // that knows of no configuration has no say in anything.
        // One that is known to have lost entries votes as if it had them.
        let lost = if planted::on("quarantined-votes") { LogId::ZERO } else { self.refill };
        let newest = self.log.last().max(lost);
        let up_to_date = m.last >= newest || planted::on("no-up-to-date-check");
        let member = self.log.membership().is_some() || planted::on("wiped-disk-votes");
        let may = !self.refuses_unheard(now, m) && member && up_to_date;
        let granted = if m.pre {
            may && m.term > self.hard.term
        } else {
            // One vote per term, first come first served (paper §5.2).
            may && m.term == self.hard.term
                && (self.hard.voted_for.is_none_or(|candidate| candidate == from)
                    || planted::on("two-votes-in-a-term"))
        };
        if granted && !m.pre {
            // A pre-candidate that gives its vote away stops asking for others'.
            self.become_follower(now, m.term, None, out);
            // Somebody else may be elected from now on: see `would_win`.
            self.introduced.clear();
            if self.hard.voted_for.is_none() {
                let voted_for = Some(from);
                self.set_hard_state(HardState { term: m.term, voted_for, ..self.hard });
            }
            self.reset_election(now);
            self.votes.grant = Some((from, self.writes.hard_seq, m.term));
            self.votes.pay(self.writes.durable_seq, out);
            return;
        }
        let term = if granted { m.term } else { self.hard.term };
        let answer = RequestVoteAnswer { pre: m.pre, term, granted };
        out.send(from, Message::RequestVoteAnswer(answer));
    }

    pub(crate) fn on_vote_answer(
        &mut self,
        now: Instant,
        from: NodeId,
        incarnation: u64,
        m: &RequestVoteAnswer,
        out: &mut Outputs,
    ) {
        if !m.granted {
            // A member that no leader reached is blank and refuses for that alone. Without its vote
            // the others might be too few, though nobody has forgotten anything.
            if m.pre {
                self.introduce(from, out);
            }
            return;
        }
        match &mut self.role {
            Role::PreCandidate { granted, .. } if m.pre && m.term == self.hard.term + 1 => {
                granted.insert(from);
            }
            Role::Candidate { granted, .. } if !m.pre && m.term == self.hard.term => {
                granted.entry(from).or_insert(incarnation);
            }
            _ => return,
        }
        self.count_votes(now, out);
    }

    /// Notes the leader of this term, waits for an election anew, and promises it not to vote for
    /// another for a while: what was asked, never longer than the own bound. Returns the promise.
    pub(crate) fn follow(
        &mut self,
        now: Instant,
        leader: NodeId,
        asked: std::time::Duration,
        out: &mut Outputs,
    ) -> std::time::Duration {
        self.become_follower(now, self.hard.term, Some(leader), out);
        self.introduced.clear();
        self.removed = None;
        self.reset_election(now);
        let promise = asked.min(self.config.election_timeout_min);
        self.promised_until = self.promised_until.max(now + promise);
        promise
    }

    /// Gives up leading, keeps the term.
    pub(crate) fn step_down(&mut self, now: Instant, out: &mut Outputs) {
        self.become_follower(now, self.hard.term, None, out);
    }
}
