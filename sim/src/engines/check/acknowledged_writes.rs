//! No acknowledged write is lost, none that was called overwritten happens, and none happens twice:
//! Raft's promise to clients (paper §8).

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_engine::{EntryKind, Index, quorum};

use super::{Check, Fact, Nodes};

#[derive(Debug, Default, Clone, Copy)]
struct Fate {
    applied_at: Option<Index>,
    overwritten: bool,
}

/// What became of each command; payloads are unique.
#[derive(Debug, Default)]
pub(crate) struct AcknowledgedWrites {
    fates: BTreeMap<Bytes, Fate>,
}

impl Check for AcknowledgedWrites {
    fn name(&self) -> &'static str {
        "no acknowledged write is lost"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Acknowledged { index, payload } => {
                let membership = nodes.iter().find_map(|n| n.engine.as_ref()?.log().membership());
                let has = |node| {
                    let log = &nodes.get(node).disk.durable().log;
                    nodes.get(node).wiped
                        || log.block_at(*index).is_some_and(|block| {
                            block.kind() == EntryKind::Command
                                && block.entries().nth((*index - block.first()) as usize).as_ref()
                                    == Some(payload)
                        })
                };
                if !membership.is_some_and(|m| quorum::is_quorum(m, has)) {
                    return Err(format!("{index} acknowledged, not on a quorum's disks"));
                }
            }
            Fact::Applied { id, payload, .. } if !payload.is_empty() => {
                let fate = self.fates.entry((*payload).clone()).or_default();
                if fate.overwritten {
                    return Err(format!("{id} applied, its client was told it did not happen"));
                }
                if fate.applied_at.is_some_and(|at| at != id.index) {
                    return Err(format!("applied at {:?} and at {id}", fate.applied_at));
                }
                fate.applied_at = Some(id.index);
            }
            Fact::Overwritten { payload } => {
                let fate = self.fates.entry((*payload).clone()).or_default();
                if let Some(at) = fate.applied_at {
                    return Err(format!("called overwritten, was applied at {at}"));
                }
                fate.overwritten = true;
            }
            _ => {}
        }
        Ok(())
    }
}
