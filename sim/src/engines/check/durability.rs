//! Persist, then promise (paper Figure 2, "updated on stable storage before responding"): an
//! acknowledged entry is on the disk of the node that acknowledges it, and what an engine believes to
//! be durable is.

use quorate_engine::{Index, Message};

use super::{Check, Fact, Nodes};
use crate::engines::node::Node;

/// Needs no memory: the disk is at hand.
#[derive(Debug)]
pub(crate) struct Durability;

fn on_disk(node: &Node, index: Index, what: &str) -> Result<(), String> {
    let durable = node.disk.durable().log.term_at(index);
    if durable.is_some() && durable == node.log.term_at(index) {
        return Ok(());
    }
    Err(format!(
        "node {} {what} {index}, its disk ends at {}",
        node.id,
        node.disk.durable().log.last()
    ))
}

impl Check for Durability {
    fn name(&self) -> &'static str {
        "persist, then promise"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Sent { node, message, .. } => match message {
                Message::AppendEntriesAnswer(m) if m.conflict.is_none() => {
                    on_disk(nodes.get(*node), m.matched, "acknowledges")
                }
                Message::HeartbeatAnswer(m) => on_disk(nodes.get(*node), m.matched, "acknowledges"),
                Message::Introduced(_) => on_disk(nodes.get(*node), 1, "says it knows"),
                _ => Ok(()),
            },
            Fact::Stepped { node } => {
                let node = nodes.get(*node);
                let Some(engine) = &node.engine else { return Ok(()) };
                on_disk(node, engine.log().persisted(), "takes for durable")
            }
            _ => Ok(()),
        }
    }
}
