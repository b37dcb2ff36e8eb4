//! Persist, then promise (paper Figure 2, "updated on stable storage before responding"): an
//! acknowledged entry is on the disk of the node that acknowledges it, and what an engine believes to
//! be durable is.

use quorate_engine::{Index, Message};

use super::{Check, Fact, Nodes};
use crate::engines::node::Node;

/// What each node last took for durable, in which of its lives: it is looked at when that changes,
/// and when its disk does.
#[derive(Debug, Default)]
pub(crate) struct Durability {
    persisted: Vec<(u32, Index)>,
}

fn on_disk(node: &Node, index: Index, what: &str) -> Result<(), String> {
    let durable = node.disk.durable().recovered().term_at(index);
    if durable.is_some() && durable == node.log.term_at(index) {
        return Ok(());
    }
    Err(format!(
        "node {} {what} {index}, its disk ends at {}",
        node.id,
        node.disk.durable().recovered().last()
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
            Fact::Stepped { node } | Fact::Synced { node } => {
                let node = nodes.get(*node);
                let Some(engine) = &node.engine else { return Ok(()) };
                let now = (node.life, engine.log().persisted());
                let place = node.id as usize;
                self.persisted.resize(self.persisted.len().max(place + 1), (0, 0));
                let before = std::mem::replace(&mut self.persisted[place], now);
                if before == now && matches!(fact, Fact::Stepped { .. }) {
                    return Ok(());
                }
                on_disk(node, now.1, "takes for durable")
            }
            _ => Ok(()),
        }
    }
}
