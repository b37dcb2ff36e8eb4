//! What is committed never changes (paper §5.4, "guaranteed durable and eventually executed"): every
//! node that calls an index committed has the same entry there, and no write overwrites it.

use quorate_engine::{Index, LogId, NodeId};

use super::{Check, Fact, Nodes};

/// Every entry that was ever called committed, by index; the first is at index 1.
#[derive(Debug, Default)]
pub(crate) struct CommittedStays {
    committed: Vec<LogId>,
    /// Up to where each node was looked at, in which of its lives.
    seen: Vec<(u32, Index)>,
}

impl CommittedStays {
    fn look_at(&mut self, node: NodeId, nodes: &Nodes) -> Result<(), String> {
        let node = nodes.get(node);
        let Some(engine) = &node.engine else { return Ok(()) };
        let committed = engine.log().committed();
        let place = node.id as usize;
        self.seen.resize(self.seen.len().max(place + 1), (0, 0));
        let (life, before) = std::mem::replace(&mut self.seen[place], (node.life, committed));
        let before = if life == node.life { before } else { 0 };
        for index in before + 1..=committed {
            let term = node
                .log
                .term_at(index)
                .ok_or_else(|| format!("{index} committed and not there"))?;
            let here = LogId::new(term, index);
            match self.committed.get(index as usize - 1) {
                None => self.committed.push(here),
                Some(id) if *id == here => {}
                Some(id) => {
                    return Err(format!("node {} has {here} committed, which is {id}", node.id));
                }
            }
        }
        Ok(())
    }
}

impl Check for CommittedStays {
    fn name(&self) -> &'static str {
        "committed never changes"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Stepped { node } => self.look_at(*node, nodes),
            Fact::Writing { node, write } => {
                let node = nodes.get(*node);
                // Before this step: in it, what the write brings may already be committed.
                let (life, committed) =
                    self.seen.get(node.id as usize).copied().unwrap_or_default();
                let committed = if life == node.life { committed } else { 0 };
                match write.overwrites {
                    Some(from) if from <= committed => Err(format!(
                        "node {} overwrites from {from}, committed through {committed}",
                        node.id
                    )),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::Persist;

    use super::*;
    use crate::engines::{Plan, World};

    /// The engine asserts that it never does, so the checker is shown a write that does.
    #[test]
    fn an_overwritten_commit_is_seen() {
        let mut world = World::new(1, Plan::from_seed(1));
        world.run_to_the_end().unwrap();
        let node = world.nodes().iter().find(|n| n.leads()).unwrap();
        let committed = node.engine.as_ref().unwrap().log().committed();
        for (from, broken) in [(committed, true), (committed + 1, false)] {
            let write = Persist { seq: 9, overwrites: Some(from), ..Persist::default() };
            let fact = Fact::Writing { node: node.id, write: &write };
            let mut check = CommittedStays::default();
            check.on(&Fact::Stepped { node: node.id }, world.nodes()).unwrap();
            let told = check.on(&fact, world.nodes());
            assert_eq!(told.is_err(), broken);
        }
    }
}
