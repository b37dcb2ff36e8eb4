//! Leader Append-Only (paper §5.3): a leader never overwrites or deletes entries of its own log.

use super::{Check, Fact, Nodes};

/// Needs no memory: a write tells what it removes.
#[derive(Debug)]
pub(crate) struct LeaderAppendOnly;

impl Check for LeaderAppendOnly {
    fn name(&self) -> &'static str {
        "Leader Append-Only"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Writing { node, write } = fact else { return Ok(()) };
        let node = nodes.get(*node);
        match write.overwrites {
            Some(from) if node.leads() => Err(format!("leader {} overwrites {from}", node.id)),
            _ if write.reset.is_some() && node.leads() => {
                Err(format!("leader {} gives up its log", node.id))
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

    /// No world can make a leader overwrite itself, so the checker is shown a write that does.
    #[test]
    fn a_leader_that_overwrites_is_seen() {
        let mut world = World::new(1, Plan::from_seed(1));
        world.run_to_the_end().unwrap();
        let leader = world.nodes().iter().find(|n| n.leads()).unwrap().id;
        let write = Persist { seq: 9, overwrites: Some(5), ..Persist::default() };
        for node in world.nodes().iter() {
            let fact = Fact::Writing { node: node.id, write: &write };
            assert_eq!(LeaderAppendOnly.on(&fact, world.nodes()).is_err(), node.id == leader);
        }
    }
}
