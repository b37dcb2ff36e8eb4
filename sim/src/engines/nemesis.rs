//! The nemesis: what goes wrong, and how the cluster has to recover when it stops.

use std::collections::VecDeque;

use quorate_engine::{Membership, NodeId};

use crate::engines::network::Weather;
use crate::engines::node::Node;
use crate::engines::sabotage::Sabotage;
use crate::engines::world::{Event, Failure, World};

const LIVENESS: &str = "the cluster recovers";

impl World {
    pub(crate) fn on_fault(&mut self) {
        if !self.faults {
            return;
        }
        let delay = self.rng.between(1, 2_000 * self.plan.fault_every_us);
        self.schedule(delay, Event::Fault);
        let kinds = self.plan.faults;
        match self.rng.below(5) {
            0 if kinds.crash => self.crash_one(),
            1 if kinds.cut => self.cut_something(),
            2 if kinds.pause => self.pause_one(),
            3 if kinds.disk => self.hurt_a_disk(),
            4 if kinds.wipe && self.rng.chance(500) => self.wipe_one(),
            _ => {}
        }
    }

    fn crash_one(&mut self) {
        let node = self.any_node();
        if self.nodes.get(node).engine.is_none() {
            return;
        }
        self.crash(node);
        let life = self.nodes.get(node).life;
        let down_ms = self.rng.pick(&[1, 50, 400, 3_000]);
        self.schedule(down_ms * 1_000_000, Event::Restart { node, life });
    }

    /// A disk is lost; the node comes back under its id with an empty one.
    fn wipe_one(&mut self) {
        let node = self.any_node();
        if self.nodes.iter().any(|n| n.wiped) || self.nodes.get(node).engine.is_none() {
            return;
        }
        self.crash(node);
        self.say(node, format_args!("loses its disk"));
        let incarnation = self.rng.number() | 1;
        let lost = self.nodes.get_mut(node);
        lost.disk.wipe();
        lost.incarnation = incarnation;
        lost.wiped = true;
        let life = lost.life;
        self.statistics.wipes += 1;
        let down_ms = self.rng.pick(&[1, 300, 2_000]);
        self.schedule(down_ms * 1_000_000, Event::Restart { node, life });
    }

    fn pause_one(&mut self) {
        let node = self.any_node();
        if !self.nodes.get(node).is_running() {
            return;
        }
        self.say(node, format_args!("stands still"));
        self.nodes.get_mut(node).paused = Some(VecDeque::new());
        let life = self.nodes.get(node).life;
        let still_ms = self.rng.pick(&[20, 200, 700, 2_500]);
        self.schedule(still_ms * 1_000_000, Event::Resume { node, life });
    }

    fn hurt_a_disk(&mut self) {
        let node = self.any_node();
        let longest = self.plan.election_max.as_nanos() as u64 * 3;
        let until = self.time + self.rng.below(longest);
        let hang = self.rng.chance(500);
        let factor = self.rng.pick(&[1, 1, 5, 40]);
        let hurt = self.nodes.get_mut(node);
        if hang {
            hurt.hung_until = until;
        } else {
            hurt.disk_factor = factor;
        }
        self.say(node, format_args!("disk: hung {hang}, {factor} times slower"));
    }

    fn cut_something(&mut self) {
        let all = self.plan.nodes as u64;
        let one = self.any_node();
        let other = self.any_node();
        match self.rng.below(6) {
            0 | 1 => {
                self.say(0, format_args!("links heal"));
                self.network.heal();
            }
            2 => {
                self.say(0, format_args!("link {one} -> {other} is cut"));
                self.network.set_cut(one, other, true);
            }
            3 => {
                let (in_, out) = self.rng.pick(&[(true, true), (true, false), (false, true)]);
                self.say(one, format_args!("isolated: in {in_}, out {out}"));
                for other in 1..=all {
                    self.network.set_cut(other, one, in_);
                    self.network.set_cut(one, other, out);
                }
            }
            4 => {
                let side = self.rng.number();
                self.say(0, format_args!("partition {side:b}"));
                for a in 1..=all {
                    for b in 1..=all {
                        self.network.set_cut(a, b, (side >> a ^ side >> b) & 1 == 1);
                    }
                }
            }
            _ => {
                // Every direction by itself.
                for a in 1..=all {
                    for b in 1..=all {
                        let cut = self.rng.chance(300);
                        self.network.set_cut(a, b, cut);
                    }
                }
                self.say(0, format_args!("links are cut at random"));
            }
        }
    }

    /// Stops every fault, and sees the cluster come back to work: a leader that everyone knows, a
    /// write that commits, all nodes at the same index, a read at every node. All of it within
    /// twenty election timeouts of the slowest clock.
    ///
    /// # Errors
    /// The first broken promise, or what did not come about in time.
    pub fn settle(&mut self) -> Result<(), Failure> {
        self.faults = false;
        self.network.heal();
        self.network.weather = Weather::FAIR;
        self.plan.sync_us = (20, 500);
        if self.sabotage == Some(Sabotage::NeverHeals) {
            self.network.weather.drop = 1_000;
        }
        let all: Vec<NodeId> = (1..=self.plan.nodes as u64).collect();
        for id in &all {
            self.nodes.get_mut(*id).disk_factor = 1;
            self.nodes.get_mut(*id).hung_until = 0;
            let node = self.nodes.get(*id);
            if node.engine.is_none() && node.stopped.is_none() {
                self.start(*id);
            }
            self.resume(*id);
        }
        let begun = |w: &World| w.nodes.iter().any(|n| n.log.last().index > 0);
        if !begun(self) {
            self.initialize(1);
        }
        // Small windows of the plan make a long log slow to copy; that is not what is tested here.
        let longest = self.nodes.iter().map(|n| n.log.last().index).max().unwrap_or(0);
        let bound = self.plan.election_max.as_nanos() as u64 * 20 * 5 / 4 + longest * 4_000_000;
        let end = self.time + bound;
        if !self.run_until(end, |w| w.agreed_leader().is_some())? {
            return self.stuck("no leader that every node knows");
        }
        // Leadership may still change once; ask again until it is done.
        let mut command = None;
        let mut reads = Vec::new();
        let end = self.time + bound;
        while self.time < end {
            let done = |w: &World, command: &Option<bytes::Bytes>, reads: &[u64]| {
                command.as_ref().is_some_and(|c| w.clients.acknowledged.contains(c))
                    && reads.iter().all(|r| w.clients.served(*r) == Some(true))
                    && w.is_converged()
            };
            if let Some(leader) = self.agreed_leader() {
                command = Some(self.propose(leader, 1));
                let members: Vec<_> = self.members().map(|n| n.id).collect();
                reads = members.into_iter().map(|id| self.read(id, 10_000)).collect();
            }
            let slice = (self.time + bound / 4).min(end);
            if self.run_until(slice, |w| done(w, &command, &reads))? {
                return Ok(());
            }
        }
        let acknowledged = command.is_some_and(|c| self.clients.acknowledged.contains(&c));
        let served = reads.iter().filter(|r| self.clients.served(**r) == Some(true)).count();
        let state: Vec<String> = self
            .nodes
            .iter()
            .map(|n| {
                n.engine.as_ref().map_or("down".into(), |e| {
                    format!(
                        "{} {} term {} last {} committed {}",
                        n.id,
                        e.role(),
                        e.term(),
                        e.log().last(),
                        e.log().committed()
                    )
                })
            })
            .collect();
        self.stuck(&format!(
            "write acknowledged: {acknowledged}, reads served: {served} of {}; {state:?}",
            reads.len()
        ))
    }

    fn stuck(&mut self, what: &str) -> Result<(), Failure> {
        if self.lacks_too_many() {
            return Ok(());
        }
        self.fail(LIVENESS, what.into());
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Those who have to come back to work: all but a node whose disk was lost and that is refused.
    fn members(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.stopped.is_none())
    }

    /// Whether one disk was lost and another member has not been heard by a leader yet: its disk
    /// might be the one that was lost, so it counts as failed as well, and that may be too many.
    fn lacks_too_many(&self) -> bool {
        let newest = self.members().max_by_key(|n| n.log.last());
        let engine = newest.and_then(|n| n.engine.as_ref());
        let unknown = |m: &Membership| m.members().values().any(|m| m.incarnation == 0);
        self.statistics.refused > 0
            && engine.and_then(|e| e.log().membership()).is_some_and(unknown)
    }

    /// The leader, if every node knows the same.
    fn agreed_leader(&self) -> Option<NodeId> {
        let mut nodes = self.members().filter_map(|n| n.engine.as_ref());
        let first = nodes.next()?;
        let (leader, term) = (first.leader()?, first.term());
        let agreed = nodes.all(|e| e.leader() == Some(leader) && e.term() == term);
        (agreed && self.nodes.get(leader).leads()).then_some(leader)
    }

    /// Whether every node has committed and applied the same, all of its log.
    fn is_converged(&self) -> bool {
        let Some(last) = self.members().next().map(|n| n.log.last()) else { return true };
        self.members().all(|n| {
            let committed = n.engine.as_ref().map_or(0, |e| e.log().committed());
            n.log.last() == last && committed == last.index && n.applied == last.index
        })
    }
}
