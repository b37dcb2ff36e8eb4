//! A log begins behind a snapshot (paper §7): nothing is compacted, and no log reset, before a
//! snapshot that has it is durable. The configuration in force there is the snapshot's. A log that has
//! the last entry of a snapshot keeps what comes after. And a leader keeps what comes behind a
//! snapshot that it is sending, since that is what the follower needs next.

use quorate_engine::Persist;

use super::{Check, Fact, Nodes};
use crate::engines::node::Node;

/// Needs no memory: the disk has the snapshot or has not.
#[derive(Debug)]
pub(crate) struct Snapshots;

fn may_write(node: &Node, write: &Persist) -> Result<(), String> {
    let snapshot = &node.disk.durable().snapshot;
    if let Some((to, configuration)) = write.reset.as_deref() {
        if snapshot.last() != *to {
            return Err(format!(
                "the log begins behind {to}, the snapshot ends at {}",
                snapshot.last()
            ));
        }
        if snapshot.configuration().as_ref() != Some(configuration) {
            let (at, membership) = configuration;
            return Err(format!("{at} {membership} is not the configuration in force at {to}"));
        }
        if node.log.contains(*to) {
            return Err(format!("the log has {to}, and loses what comes after"));
        }
    }
    let Some(through) = write.compact else { return Ok(()) };
    if snapshot.last().index < through.index {
        return Err(format!(
            "compacted through {through}, the snapshot ends at {}",
            snapshot.last()
        ));
    }
    match node.transfers.sent().find(|last| last.index < through.index) {
        Some(last) => Err(format!("compacted through {through} while {last} is being sent")),
        None => Ok(()),
    }
}

impl Check for Snapshots {
    fn name(&self) -> &'static str {
        "a log begins behind a durable snapshot"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Writing { node, write } => {
                may_write(nodes.get(*node), write).map_err(|what| format!("node {node}: {what}"))
            }
            Fact::Synced { node } | Fact::Crashed { node } => {
                let disk = nodes.get(*node).disk.durable();
                let (begins, ends) = (disk.log.compacted(), disk.snapshot.last());
                if begins.index <= ends.index {
                    return Ok(());
                }
                Err(format!(
                    "the log of {node} begins behind {begins}, the snapshot ends at {ends}"
                ))
            }
            _ => Ok(()),
        }
    }
}
