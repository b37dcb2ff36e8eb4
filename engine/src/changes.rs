//! Changes of membership: paper §6, thesis chapter 4.
//!
//! A change of voters is always joint: first a configuration in which the old and the new voters
//! both decide (C_old,new), and when that is committed the new one alone (C_new). One voter at a
//! time could do without (thesis §4.1), with rules of its own; one way is easier to get right than
//! two. A change that leaves the voters alone (learners, addresses) is one plain entry.
//!
//! What holds it together:
//!
//! - A configuration is in force where it is in the log, committed or not; the log takes it back
//!   with the entry.
//! - One change at a time: the next begins when the last configuration that changed voters is
//!   committed, and not before the leader has committed an entry of its own term, or two leaders
//!   could each make a change that the other does not know of.
//! - Whoever leads ends the joint configuration that it finds, whoever began it.
//! - A voter to be is a learner that has been heard and has caught up: it costs the group no
//!   availability while it copies the log.
//! - A quorum of the new voters answers and has a configuration when the change begins: the group
//!   does not come to need a vote that it can't get.
//! - A leader that is left out leads until C_new is committed and does not count itself; then it
//!   hands over.
//! - Who is left out is not replicated to any more and so can't see it in its log: it is told, when
//!   C_new is committed, and again whenever it speaks to anyone who knows.

use std::collections::{BTreeMap, BTreeSet};

use crate::block::EntryBlock;
use crate::election::Role;
use crate::engine::Engine;
use crate::io::{Decline, Output, Outputs};
use crate::membership::Membership;
use crate::message::{Message, Removed};
use crate::planted;
use crate::quorum::is_quorum;
use crate::replication::Progress;
use crate::types::{Instant, LogId, NodeId};

impl Engine {
    /// The configuration in force: the newest in the log, committed or not, with its entry. `None`
    /// at a node that belongs to no group yet.
    pub fn configuration(&self) -> Option<(LogId, &Membership)> {
        self.log.configurations().last().map(|(id, membership)| (*id, membership))
    }

    /// Whether a change of voters is under way, as far as this node knows: its configuration is
    /// joint, or the voters it names are not known to be committed.
    pub fn is_changing(&self) -> bool {
        let Some((newest, membership)) = self.log.configurations().last() else { return false };
        let committed = self.log.committed();
        // Asked with every batch: voters are compared only while they may be another's.
        membership.is_joint()
            || (newest.index > committed
                && self.voters_changed_at().is_some_and(|(at, _)| at.index > committed))
    }

    /// The committed configuration that does not name this node, if it was told that it is no member
    /// any more and no leader has spoken to it since.
    pub fn removed(&self) -> Option<LogId> {
        self.removed
    }

    /// Whether the member `id` answers this leader and has, durably, all that the log had one
    /// election timeout ago: were it a voter, commits would not wait for it longer than an election
    /// takes. `false` at a node that does not lead.
    ///
    /// The rounds of thesis §4.2.1 are those of the heartbeats here.
    pub fn is_caught_up(&self, now: Instant, id: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let since = leader.log_was_at(now, self.config.election_timeout_min);
        self.answering(now, id).is_some_and(|p| p.matched >= since)
    }

    /// The progress of `id`, if it answers this leader and lacks nothing that it once acknowledged.
    fn answering(&self, now: Instant, id: NodeId) -> Option<&Progress> {
        let Role::Leader(leader) = &self.role else { return None };
        let lately = self.config.election_timeout_max;
        leader.progress.get(&id).filter(|p| p.was_heard(now, lately) && !p.is_quarantined())
    }

    /// The newest configuration with other voters than the one before it, and that one; the first
    /// in the log has none before it.
    pub(crate) fn voters_changed_at(&self) -> Option<(LogId, Option<&Membership>)> {
        let configurations = self.log.configurations();
        let mut newest = configurations.iter().enumerate().rev();
        newest.find_map(|(i, (id, membership))| {
            let before = i.checked_sub(1).map(|before| &configurations[before].1);
            let same = before.is_some_and(|m| m.voter_sets().eq(membership.voter_sets()));
            (!same).then_some((*id, before))
        })
    }

    pub(crate) fn on_change(
        &mut self,
        now: Instant,
        to: Membership,
        expected: Option<LogId>,
        out: &mut Outputs,
    ) {
        let answer = match self.first_step_of_change(now, to, expected) {
            Ok(next) => Output::Changing { id: self.adopt(now, next, out) },
            Err(decline) => Output::Declined(decline),
        };
        out.push(answer);
    }

    /// The configuration that a change begins with.
    fn first_step_of_change(
        &self,
        now: Instant,
        mut to: Membership,
        expected: Option<LogId>,
    ) -> Result<Membership, Decline> {
        let Role::Leader(leader) = &self.role else {
            return Err(Decline::NotLeader { leader: self.leader });
        };
        let (id, current) = self.configuration().expect("a leader has a configuration");
        if expected.is_some_and(|seen| seen != id) && !planted::on("cas-ignored") {
            return Err(Decline::ConfigurationChanged);
        }
        let began = self.log.committed() >= leader.term_start || planted::on("change-before-no-op");
        let changing = self.is_changing() && !planted::on("two-changes-at-once");
        if !began || changing || leader.transfer.is_some() {
            return Err(Decline::ChangeInProgress);
        }
        if to.is_joint() {
            return Err(Decline::Unusable("a joint membership is no aim"));
        }
        to.keep_ties(current);
        if to == *current {
            return Err(Decline::Unusable("this is the membership already"));
        }
        let kind = |m: &Membership, id| m.member(id).map(|member| member.witness);
        if to
            .members()
            .keys()
            .any(|id| kind(current, *id).is_some_and(|w| Some(w) != kind(&to, *id)))
        {
            return Err(Decline::Unusable("a witness stays one; remove it and add it anew"));
        }
        for id in to.voters().difference(current.voters()) {
            let tied = current.member(*id).is_some_and(|m| m.incarnation != 0);
            let known = tied || self.config.incarnation == 0;
            let ready = known && self.is_caught_up(now, *id);
            if !ready && !planted::on("promoted-before-caught-up") {
                return Err(Decline::NotCaughtUp { id: *id });
            }
        }
        if to.voters() == current.voters() {
            return Ok(to);
        }
        // Without a quorum of the new voters the change can't end, nor would there be another leader.
        // Who has acknowledged anything has a configuration, without which it would grant no vote.
        let can_vote =
            |id| id == self.config.id || self.answering(now, id).is_some_and(|p| p.matched > 0);
        if !is_quorum(&to, can_vote) {
            let missing = to.voters().iter().find(|id| !can_vote(**id));
            return Err(Decline::NotCaughtUp { id: *missing.expect("all are a quorum") });
        }
        Ok(current.settled().joint_with(&to))
    }

    /// Puts a configuration into the log, where it is in force at once: those who are gone lose their
    /// sessions, new members get one.
    fn adopt(&mut self, now: Instant, next: Membership, out: &mut Outputs) -> LogId {
        let after = self.log.last();
        let id = LogId::new(self.hard.term, after.index + 1);
        let Role::Leader(leader) = &mut self.role else { unreachable!("only leaders change it") };
        let had: BTreeSet<NodeId> = leader.progress.keys().copied().collect();
        let (kept, gone) = std::mem::take(&mut leader.progress)
            .into_iter()
            .partition(|(id, _)| next.member(*id).is_some());
        leader.progress = kept;
        let gone: BTreeMap<NodeId, Progress> = gone;
        for (id, p) in gone {
            self.stop_sending(id, &p, out);
        }
        self.append_as_leader(EntryBlock::configuration(id, &next), out);
        for (id, member) in next.members() {
            if *id != self.config.id && !had.contains(id) {
                self.begin_with(now, *id, member, after, out);
            }
        }
        // Readers may have waited for those who are gone.
        self.confirm_reads(now, out);
        id
    }

    /// Does what is due of a change, at the end of every step: whatever was committed in it.
    pub(crate) fn go_on_with_changes(&mut self, now: Instant, out: &mut Outputs) {
        let committed = self.log.committed();
        let Role::Leader(leader) = &mut self.role else { return };
        let before = std::mem::replace(&mut leader.told_through, committed);
        let transferring = leader.transfer.is_some();
        let term_start = leader.term_start;
        if self.configuration().is_some_and(|(at, _)| at.index > before) {
            self.tell_those_who_left(before, out);
        }
        let (_, membership) = self.configuration().expect("a leader has a configuration");
        let stays = membership.is_voter(self.config.id) || planted::on("removed-leader-leads-on");
        if (stays && !membership.is_joint()) || committed < term_start {
            return;
        }
        let changed = self.voters_changed_at().expect("there is a configuration").0;
        if changed.index > committed {
            return;
        }
        if membership.is_joint() {
            if !planted::on("joint-never-left") {
                self.adopt(now, membership.settled(), out);
            }
        } else if !transferring {
            self.leave(now, out);
        }
    }

    /// Tells the members that configurations committed since `before` have left out.
    fn tell_those_who_left(&mut self, before: u64, out: &mut Outputs) {
        let committed = self.log.committed();
        let mut left = BTreeSet::new();
        for pair in self.log.configurations().windows(2) {
            let [(_, old), (id, new)] = pair else { unreachable!("windows of two") };
            if before < id.index && id.index <= committed {
                let gone = old.members().keys().filter(|id| new.member(**id).is_none());
                left.extend(gone.copied());
            }
        }
        for id in left {
            let Some(at) = self.leaves_out(id) else { continue };
            if id == self.config.id {
                self.removed = Some(at);
                out.push(Output::Removed { at });
            } else {
                out.send(id, Message::Removed(Removed { at }));
            }
        }
    }

    /// The newest committed configuration, if neither it nor the one in force names `id`.
    fn leaves_out(&self, id: NodeId) -> Option<LogId> {
        let mut configurations = self.log.configurations().iter().rev();
        let in_force = self.log.membership()?;
        let (at, committed) = configurations.find(|(at, _)| at.index <= self.log.committed())?;
        let named = in_force.member(id).or(committed.member(id)).is_some();
        (!named).then_some(*at)
    }

    /// Answers whoever speaks as a member and is none: it may have been removed without having
    /// heard of it. If it has been added since, it knows of a newer configuration and ignores this.
    pub(crate) fn tell_if_removed(&self, from: NodeId, message: &Message, out: &mut Outputs) {
        let as_a_member = matches!(
            message,
            Message::RequestVote(_)
                | Message::HeartbeatAnswer(_)
                | Message::AppendEntriesAnswer(_)
                | Message::ReadIndex(_)
        );
        if as_a_member {
            if let Some(at) = self.leaves_out(from) {
                out.send(from, Message::Removed(Removed { at }));
            }
        }
    }

    /// Somebody knows that this node is no member any more. It stops campaigning: at best it would
    /// be in vain. It still votes when it is asked.
    pub(crate) fn on_removed(&mut self, now: Instant, at: LogId, out: &mut Outputs) {
        // A newer configuration may name it again. The same does not, or it would not be told so.
        let Some((newest, _)) = self.configuration() else { return };
        if at.index < newest.index || self.removed.is_some_and(|known| at.index <= known.index) {
            return;
        }
        self.removed = Some(at);
        out.push(Output::Removed { at });
        if !matches!(self.role, Role::Follower) {
            self.become_follower(now, self.hard.term, None, out);
        }
    }
}
