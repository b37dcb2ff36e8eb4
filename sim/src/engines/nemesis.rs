//! The nemesis: makes the faults of the plan happen.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_engine::{Input, LogId, Membership, MembershipError, NodeId};

use crate::engines::event::Event;
use crate::engines::node::Forgot;
use crate::engines::world::World;
use crate::fault::{Change, Fault, Planned, Seen};
use crate::rng::Rng;

impl World {
    pub(crate) fn on_fault(&mut self, entry: usize) {
        let Planned { fault, .. } = self.plan.faults[entry];
        let gone = fault.node().is_some_and(|node| node > self.plan.nodes as u64);
        if !self.faults || gone {
            return;
        }
        self.statistics.faults += 1;
        let picture = fault.node().unwrap_or(0);
        self.note(picture, format_args!("fault {entry}: {fault}"));
        self.strike(entry, fault);
    }

    fn strike(&mut self, entry: usize, fault: Fault) {
        let until = |ms: u64| self.time + ms * 1_000_000;
        match fault {
            Fault::Crash { node, keep, down_ms } => self.crash_for(node, keep, down_ms),
            Fault::PowerLoss { keep, down_ms } => {
                for node in 1..=self.plan.nodes as u64 {
                    self.crash_for(node, keep, down_ms * node);
                }
            }
            Fault::Cut { links, ms } => {
                self.network.cut(links, true);
                self.schedule(ms * 1_000_000, Event::Heal { entry });
            }
            Fault::Pause { node, ms } => {
                if self.nodes.get(node).is_running() {
                    self.nodes.get_mut(node).paused = Some(VecDeque::new());
                    let life = self.nodes.get(node).life;
                    self.schedule(ms * 1_000_000, Event::Resume { node, life });
                }
            }
            Fault::SlowDisk { node, factor, ms } => {
                self.nodes.get_mut(node).slow = (until(ms), factor);
            }
            Fault::HungSync { node, ms } => {
                let until = until(ms);
                let hung = self.nodes.get_mut(node);
                hung.hung_until = hung.hung_until.max(until);
            }
            Fault::FailedSync { node, keep, down_ms } => {
                self.nodes.get_mut(node).sync_fails = Some((keep, down_ms));
            }
            Fault::FullDisk { node, ms } => {
                let until = until(ms);
                let full = self.nodes.get_mut(node);
                full.full_until = full.full_until.max(until);
            }
            Fault::OldDisk { node, age_ms, down_ms } => {
                if self.may_forget(fault) {
                    let copied = self.nodes.get_mut(node);
                    copied.copy = Some(copied.disk.durable().clone());
                    self.schedule(age_ms * 1_000_000, Event::PutBack { node, down_ms });
                }
            }
            Fault::WipedDisk { node, down_ms } => {
                if self.may_forget(fault) {
                    self.wipe(entry, node, down_ms);
                }
            }
            Fault::ClockJump { node, by_ms } => {
                self.nodes.get_mut(node).clock.jump(by_ms * 1_000_000);
                self.set_timer(node);
            }
            Fault::ClockRate { node, rate } => {
                let time = self.time;
                self.nodes.get_mut(node).clock.set_rate(time, rate);
                self.set_timer(node);
            }
            Fault::Change { change, deposed, seen } => self.change(change, deposed, seen),
            Fault::Transfer { to, ms } => {
                if let Some(leader) = self.leader(false) {
                    let to = (to != 0).then_some(to);
                    let now = self.nodes.get(leader).clock.local(self.time);
                    let deadline = now + Duration::from_millis(ms);
                    self.input(leader, Input::Transfer { to, deadline });
                }
            }
            Fault::Campaign { node } => self.input_if_running(node, Input::Campaign),
            Fault::ForgetLeader { node } => self.input_if_running(node, Input::ForgetLeader),
            Fault::SlowMachine { node, ms } => {
                self.nodes.get_mut(node).machine_stalls_until = until(ms);
            }
            // What compares states is the node around an engine.
            Fault::Rot { .. } => {}
        }
    }

    fn input_if_running(&mut self, node: NodeId, input: Input) {
        if self.nodes.get(node).is_running() {
            self.input(node, input);
        }
    }

    /// Who takes itself for the leader in the highest term, or in the lowest.
    pub(crate) fn leader(&self, deposed: bool) -> Option<NodeId> {
        let term = |id: &NodeId| self.nodes.get(*id).engine.as_ref().map(|e| e.term());
        let leaders = self.nodes.iter().filter(|n| n.is_running() && n.leads()).map(|n| n.id);
        if deposed { leaders.min_by_key(term) } else { leaders.max_by_key(term) }
    }

    /// An operator asks for a change.
    fn change(&mut self, change: Change, deposed: bool, seen: Seen) {
        let Some(leader) = self.leader(deposed) else { return };
        let Some(engine) = self.nodes.get(leader).engine.as_ref() else { return };
        let Some((newest, membership)) = engine.configuration() else { return };
        let Ok(to) = self.changed(membership.settled(), change) else { return };
        let older = engine.log().configurations().iter().rev().nth(1).map(|(id, _)| *id);
        let expected = match seen {
            Seen::Whatever => None,
            Seen::TheNewest => Some(newest),
            Seen::AnOlder => Some(older.unwrap_or(LogId::ZERO)),
        };
        if let Change::Add(id) | Change::AddWitness(id) = change {
            self.start_anew(id);
        }
        self.asked_for = expected.map(|seen| (seen, newest));
        self.input(leader, Input::ChangeMembership { to, expected });
        self.asked_for = None;
    }

    fn changed(&self, m: Membership, change: Change) -> Result<Membership, MembershipError> {
        match change {
            Change::Add(id) | Change::AddWitness(id)
                if id > self.plan.nodes as u64 || m.member(id).is_some() =>
            {
                Ok(m)
            }
            Change::Add(id) | Change::AddWitness(id) => {
                let asked = matches!(change, Change::AddWitness(_)) && !self.plan.may_forget();
                let m = m.with_learner(id, format!("n{id}"))?;
                // What was a witness can be nothing else.
                if asked || self.nodes.get(id).is_witness() { m.with_witness(id) } else { Ok(m) }
            }
            Change::Promote(id) => m.promoted(id),
            Change::Demote(id) => m.demoted(id),
            Change::Remove(id) => m.without(id),
            Change::Replace { out, into } => m.promoted(into)?.without(out),
            Change::Set { mask } => {
                let ids = m.members().keys().copied();
                let (voters, learners): (Vec<NodeId>, Vec<NodeId>) =
                    ids.partition(|id| mask >> id & 1 == 1);
                let m = voters.into_iter().try_fold(m, Membership::promoted)?;
                learners.into_iter().try_fold(m, Membership::demoted)
            }
        }
    }

    /// A node that had to stop because it is not who its id was is started again: it is going to be
    /// a member with the disk it has now.
    fn start_anew(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(id);
        if node.stopped.take().is_some() {
            self.crash(id, 1000, "an operator starts it again");
            self.start(id);
        }
    }

    /// The conditions of [`Fault::forgets`].
    fn may_forget(&self, fault: Fault) -> bool {
        let none_yet = self.nodes.iter().all(|n| n.forgot.is_none());
        // The disk of a witness alone with the newest entries could elect nobody, whoever may lead.
        none_yet
            && !self.plan.witness
            && match fault {
                Fault::OldDisk { .. } => self.plan.members % 2 == 0 && !self.plan.may_change(),
                Fault::WipedDisk { .. } => self.plan.incarnations && self.plan.members >= 3,
                _ => unreachable!("only these two forget"),
            }
    }

    pub(crate) fn on_heal(&mut self, entry: usize) {
        if let Fault::Cut { links, .. } = self.plan.faults[entry].fault {
            self.note(0, format_args!("fault {entry} is over: {links}"));
            self.network.cut(links, false);
        }
    }

    /// A crash, and the restart that follows; nothing if the node is down already.
    fn crash_for(&mut self, node: NodeId, keep: u64, down_ms: u64) {
        if self.nodes.get(node).engine.is_none() {
            return;
        }
        self.crash(node, keep, "crashes");
        self.restart_after(node, down_ms);
    }

    fn restart_after(&mut self, node: NodeId, down_ms: u64) {
        let life = self.nodes.get(node).life;
        self.schedule(down_ms * 1_000_000, Event::Restart { node, life });
    }

    /// A disk is lost; the node comes back under its id with an empty one.
    fn wipe(&mut self, entry: usize, node: NodeId, down_ms: u64) {
        self.crash_for(node, 0, down_ms);
        let incarnation = Rng::new(self.seed ^ entry as u64).number() | 1;
        let lost = self.nodes.get_mut(node);
        lost.forget(Forgot::Everything);
        lost.disk.wipe();
        lost.incarnation = incarnation;
        self.statistics.forgetful += 1;
    }

    /// The copy of a disk is put back, unless something must not be forgotten meanwhile.
    pub(crate) fn put_back(&mut self, node: NodeId, down_ms: u64) {
        let Some(copy) = self.nodes.get_mut(node).copy.take() else { return };
        let none_yet = self.nodes.iter().all(|n| n.forgot.is_none());
        if !self.faults || !none_yet || self.nodes.get(node).stopped.is_some() {
            return;
        }
        self.crash_for(node, 0, down_ms);
        let old = self.nodes.get_mut(node);
        if old.disk.may_put_back(&copy) {
            old.forget(Forgot::WhatCameAfterACopy);
            old.disk.put_back(copy);
            self.statistics.forgetful += 1;
            let (last, hard) = (old.disk.durable().log.last(), old.disk.durable().hard);
            self.note(node, format_args!("has its old disk again: log through {last}, {hard}"));
        }
    }
}
