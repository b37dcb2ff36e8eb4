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
            _ => Ok(()),
        }
    }
}
