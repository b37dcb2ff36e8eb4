//! The commitment rule (paper §5.3, §5.4.2): what a leader calls committed is on the DISKS of a
//! quorum of its configuration and ends with an entry of its own term.
//!
//! It must stay on a quorum's disks: looked at again whenever a disk changes in another way than by
//! growing.

use std::collections::BTreeSet;

use quorate_engine::{LogId, Membership, NodeId};

use super::{Check, Fact, Nodes, is_majority};

/// The newest entry that a leader committed, and the configuration it did so under.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    newest: Option<(LogId, Membership)>,
    /// Who led after its last step: one that is left out commits that, and may go at once.
    led: BTreeSet<NodeId>,
}

impl Commit {
    fn still_durable(&self, nodes: &Nodes) -> Result<(), String> {
        let Some((id, membership)) = &self.newest else { return Ok(()) };
        // A disk that forgot counts with what it had.
        let has = |node| nodes.get(node).once_kept(|log| log.contains(*id));
        if is_majority(membership, has) {
            return Ok(());
        }
        let who: Vec<_> = nodes.iter().map(|n| n.id).filter(|n| has(*n)).collect();
        Err(format!("{id} is committed and only on the disks of {who:?}"))
    }
}

impl Check for Commit {
    fn name(&self) -> &'static str {
        "committed means durable on a quorum"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let node = match fact {
            Fact::Stepped { node } => nodes.get(*node),
            Fact::Synced { node } | Fact::Crashed { node } => {
                // Growing is the rule and takes nothing away.
                let Some((id, _)) = &self.newest else { return Ok(()) };
                let kept = nodes.get(*node).disk.durable().recovered().contains(*id);
                return if kept { Ok(()) } else { self.still_durable(nodes) };
            }
            _ => return Ok(()),
        };
        let led = self.led.remove(&node.id) || node.leads();
        if node.leads() {
            self.led.insert(node.id);
        }
        let Some(engine) = &node.engine else { return Ok(()) };
        let index = engine.log().committed();
        if index <= self.newest.as_ref().map_or(0, |(id, _)| id.index) {
            return Ok(());
        }
        if !led {
            return Err(format!("follower {} commits {index}, no leader did", node.id));
        }
        let term =
            node.log.term_at(index).ok_or_else(|| format!("{index} committed and not there"))?;
        let id = LogId::new(term, index);
        if id.term != engine.term() {
            return Err(format!("leader of term {} commits {id} by counting", engine.term()));
        }
        let membership = engine.log().membership().cloned().ok_or("no configuration")?;
        self.newest = Some((id, membership));
        self.still_durable(nodes)
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::EntryBlock;

    use super::*;
    use crate::engines::{Forgot, Image, Plan, World};

    /// A forgotten log counts if the very entry was in it, not if another stood in its place.
    #[test]
    fn a_forgotten_log_counts_with_what_it_had() {
        let seed = (0..).find(|seed| Plan::from_seed(*seed).nodes == 3).unwrap();
        for conflicting in [false, true] {
            let plan = Plan { faults: Vec::new(), ..Plan::from_seed(seed) };
            let mut world = World::new(seed, plan);
            world.run_to_the_end().unwrap();
            let leader = world.nodes().iter().find(|n| n.leads()).unwrap();
            let (leader, log) = (leader.id, leader.engine.as_ref().unwrap().log());
            let (id, membership) = (log.last(), log.membership().unwrap().clone());
            assert_eq!(id.index, log.committed());
            for node in world.nodes.all.iter_mut().filter(|n| n.id != leader) {
                node.disk.tamper(|image| {
                    if conflicting {
                        let other = LogId::new(id.term + 1, id.index);
                        image.log.truncate(id.index);
                        image.log.append(EntryBlock::configuration(other, &membership));
                    }
                });
                node.forget(Forgot::WhatCameAfterACopy);
                node.disk.put_back(Image::default());
            }
            let told = Commit { newest: Some((id, membership)), ..Commit::default() }
                .still_durable(world.nodes());
            assert_eq!(told.is_err(), conflicting, "{told:?}");
        }
    }
}
