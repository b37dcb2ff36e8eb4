//! The leadership handed over: on request, to a voter of higher priority, or because the leader is
//! no voter any more (thesis §3.10).
//!
//! The leader takes no more proposals, waits until the target has the whole log durably, and tells it
//! to stand for election at once ([`TimeoutNow`]), again with every heartbeat in case it was lost. The
//! target needs no pre-vote, and its request for votes says who has sent it, so that promises made to
//! this leader do not stand in the way. From the first `TimeoutNow` on this leader could be replaced at
//! any moment, and a late one may still arrive when the transfer is given up: its lease is over for
//! the rest of the term. At the deadline it leads on.

use std::cmp::Reverse;

use crate::election::Role;
use crate::engine::Engine;
use crate::io::{Decline, Output, Outputs};
use crate::message::{Message, TimeoutNow};
use crate::planted;
use crate::types::{Index, Instant, NodeId};

/// How many election timeouts a leader lets pass before it tries again to hand over to a voter of
/// higher priority: what failed once must not keep the group from working.
const PREFERENCE_PAUSE: u32 = 10;

/// A transfer that is under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    to: NodeId,
    pub(crate) deadline: Instant,
    /// Whether the target was told since the last heartbeat.
    told: bool,
    /// This node is no voter any more: at the deadline it goes in any case.
    leaving: bool,
}

impl Engine {
    /// To whom this leader is handing over.
    pub fn transferring(&self) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// Whether this leader has told another node to stand for election in its place, in this term.
    /// From then on promises made to it bind nobody: it has no lease any more, also if the transfer
    /// came to nothing.
    pub fn has_given_up_its_lease(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.gave_lease_up)
    }

    pub(crate) fn on_transfer(
        &mut self,
        now: Instant,
        to: Option<NodeId>,
        deadline: Instant,
        out: &mut Outputs,
    ) {
        match self.target_of_transfer(now, to) {
            Ok(to) => self.begin_transfer(to, deadline, false),
            Err(decline) => out.push(Output::Declined(decline)),
        }
    }

    /// Whom a transfer that was asked for goes to. A second one is declined: whoever asked for the
    /// first is going to see how it ends.
    fn target_of_transfer(&self, now: Instant, to: Option<NodeId>) -> Result<NodeId, Decline> {
        let Role::Leader(leader) = &self.role else {
            return Err(Decline::NotLeader { leader: self.leader });
        };
        if leader.transfer.is_some() {
            return Err(Decline::Transferring);
        }
        match to {
            Some(id) if id == self.config.id => Err(Decline::Unusable("this node leads already")),
            Some(id) if self.may_take_over(id) => Ok(id),
            Some(_) => Err(Decline::Unusable("the target is no voter, or a witness")),
            None => self
                .best_successor(now)
                .ok_or(Decline::Unusable("no other voter that may lead answers")),
        }
    }

    fn begin_transfer(&mut self, to: NodeId, deadline: Instant, leaving: bool) {
        let Role::Leader(leader) = &mut self.role else { unreachable!("only leaders hand over") };
        leader.transfer = Some(Transfer { to, deadline, told: false, leaving });
    }

    /// Whether `id` is another voter that may lead, also when the change under way is over.
    fn may_take_over(&self, id: NodeId) -> bool {
        let membership = self.log.membership().expect("a leader has a configuration");
        id != self.config.id && membership.voters().contains(&id) && membership.may_lead(id)
    }

    /// Of those who may take over and have answered lately, the one that has most of the log.
    fn best_successor(&self, now: Instant) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let lately = self.config.election_timeout_min;
        let there = leader.progress.iter().filter(|(_, p)| p.was_heard(now, lately));
        let there = there.filter(|(id, p)| self.may_take_over(**id) && !p.is_quarantined());
        there.max_by_key(|(id, p)| (p.matched, p.priority, Reverse(**id))).map(|(id, _)| *id)
    }

    /// This node leads and is no voter any more, and that is committed: it hands over, and goes.
    pub(crate) fn leave(&mut self, now: Instant, out: &mut Outputs) {
        match self.best_successor(now) {
            Some(to) => self.begin_transfer(to, now + self.config.election_timeout_max, true),
            None => self.step_down(now, out),
        }
    }

    /// Hands over to a voter of higher priority, if there is one that answers and has caught up, and
    /// nothing else is going on.
    pub(crate) fn prefer_others(&mut self, now: Instant) {
        let Role::Leader(leader) = &self.role else { return };
        let busy = leader.transfer.is_some() || self.log.committed() < leader.term_start;
        if now < self.prefers_others_at || busy || self.is_changing() {
            return;
        }
        let better = leader.progress.iter().filter(|(id, p)| {
            p.priority > self.config.priority
                && self.may_take_over(**id)
                && self.is_caught_up(now, **id)
        });
        let best = better.max_by_key(|(id, p)| (p.priority, p.matched, Reverse(**id)));
        if let Some(to) = best.map(|(id, _)| *id) {
            self.prefers_others_at = now + self.config.election_timeout_max * PREFERENCE_PAUSE;
            self.begin_transfer(to, now + self.config.election_timeout_max, false);
        }
    }

    /// Does what is due of a transfer, at the end of every step: tells the target once it has the
    /// whole log. It keeps its vote meanwhile: no change begins, and one that was under way leaves
    /// the new voters as they are.
    pub(crate) fn go_on_with_transfer(&mut self, out: &mut Outputs) {
        let Some(to) = self.transferring() else { return };
        let (term, last) = (self.hard.term, self.log.last().index);
        let Role::Leader(leader) = &mut self.role else { return };
        let matched: Index = leader.progress.get(&to).map_or(0, |p| p.matched);
        let ready = matched == last || planted::on("transfer-without-catch-up");
        let Some(transfer) = leader.transfer.as_mut().filter(|t| ready && !t.told) else { return };
        transfer.told = true;
        leader.gave_lease_up = true;
        out.send(to, Message::TimeoutNow(TimeoutNow { term }));
    }

    /// With every heartbeat the target is told again.
    pub(crate) fn tell_again(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(transfer) = &mut leader.transfer {
            transfer.told = false;
        }
    }

    /// Ends a transfer that is past its deadline.
    pub(crate) fn expire_transfer(&mut self, now: Instant, out: &mut Outputs) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = leader.transfer.take_if(|t| now >= t.deadline) else { return };
        if transfer.leaving {
            self.step_down(now, out);
        } else {
            out.push(Output::TransferEnded { to: transfer.to });
        }
    }

    /// The leader of this term hands over to this node.
    pub(crate) fn on_timeout_now(
        &mut self,
        now: Instant,
        from: NodeId,
        m: &TimeoutNow,
        out: &mut Outputs,
    ) {
        let follows = self.leader == Some(from) && matches!(self.role, Role::Follower);
        let late = planted::on("timeout-now-of-an-earlier-term");
        let current = follows && m.term == self.hard.term;
        if (current || late) && self.may_campaign() && self.is_fit(now, out) {
            self.stand(now, true);
        }
    }
}
