//! State Machine Safety (paper §5.4.3): no two state machines are given different entries at the
//! same index, and each is given them in order without a gap, or a snapshot of what the others were
//! given.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_engine::{Index, LogId, NodeId};

use super::{Check, Fact, Nodes};
use crate::engines::snapshot::State;

/// What was applied at each index by anyone, the state behind it, and how far each node is.
#[derive(Debug, Default)]
pub(crate) struct StateMachineSafety {
    applied: BTreeMap<Index, (LogId, Bytes, State)>,
    through: BTreeMap<NodeId, Index>,
}

impl Check for StateMachineSafety {
    fn name(&self) -> &'static str {
        "State Machine Safety"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Started { node } => {
                self.through.insert(*node, 0);
            }
            Fact::Restored { node, last } if last.index > 0 => {
                let through = self.through.insert(*node, last.index).unwrap_or_default();
                if last.index <= through {
                    return Err(format!("node {node} goes back from {through} to {last}"));
                }
                let state = nodes.get(*node).state;
                let known = self.applied.get(&last.index).map(|(id, _, state)| (*id, *state));
                if known != Some((*last, state)) {
                    return Err(format!("node {node} restores {last} {state:?}, it was {known:?}"));
                }
            }
            Fact::Applied { node, id, payload, .. } => {
                let through = self.through.entry(*node).or_default();
                if id.index != *through + 1 {
                    return Err(format!("node {node} applies {id} after {through}"));
                }
                *through = id.index;
                let entry = (*id, (*payload).clone(), nodes.get(*node).state);
                let known = self.applied.entry(id.index).or_insert_with(|| entry.clone());
                if *known != entry {
                    return Err(format!("node {node} applies {entry:?}, another did {known:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
