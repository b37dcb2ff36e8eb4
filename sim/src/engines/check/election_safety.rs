//! Election Safety (paper §5.2): at most one leader in a term, over all nodes and all lives of each.

use std::collections::BTreeMap;

use quorate_engine::{NodeId, Term};

use super::{Check, Fact, Nodes};

/// Who led each term, and in which of its lives.
#[derive(Debug, Default)]
pub(crate) struct ElectionSafety {
    leaders: BTreeMap<Term, (NodeId, u32)>,
}

impl Check for ElectionSafety {
    fn name(&self) -> &'static str {
        "Election Safety"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Stepped { node } = fact else { return Ok(()) };
        let node = nodes.get(*node);
        if !node.leads() {
            return Ok(());
        }
        let term = node.engine.as_ref().map_or(0, |e| e.term());
        let me = (node.id, node.life);
        let first = *self.leaders.entry(term).or_insert(me);
        if first != me {
            return Err(format!("term {term} has two leaders: {first:?} and {me:?} (node, life)"));
        }
        Ok(())
    }
}
