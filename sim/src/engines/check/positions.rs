//! Positions of one life never go back: term, committed, applied (paper Figure 2, "increases
//! monotonically"); the engine's idea of its log is the log; commit index of followers and leader
//! are indexes of entries that are there; what a leader takes a follower to have is what the
//! follower's disk has.

use std::collections::BTreeMap;

use quorate_engine::{Index, NodeId, Term};

use super::{Check, Fact, Nodes};

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    life: u32,
    term: Term,
    committed: Index,
    applied: Index,
}

/// The last look at each node.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    seen: BTreeMap<NodeId, Seen>,
    matched: BTreeMap<(NodeId, u32, Term, NodeId), Index>,
}

impl Check for Positions {
    fn name(&self) -> &'static str {
        "positions never go back"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Stepped { node } = fact else { return Ok(()) };
        let node = nodes.get(*node);
        let Some(engine) = &node.engine else { return Ok(()) };
        let log = engine.log();
        let now = Seen {
            life: node.life,
            term: engine.term(),
            committed: log.committed(),
            applied: log.applied(),
        };
        let before = self.seen.insert(node.id, now).filter(|seen| seen.life == now.life);
        let before = before.unwrap_or_default();
        if now.term < before.term
            || now.committed < before.committed
            || now.applied < before.applied
        {
            return Err(format!("node {} went back from {before:?} to {now:?}", node.id));
        }
        if log.last() != node.log.last() {
            return Err(format!(
                "node {} believes its log ends at {}, it ends at {}",
                node.id,
                log.last(),
                node.log.last()
            ));
        }
        for (follower, matched) in engine.matched() {
            let image = nodes.get(follower).disk.durable();
            let disk = &image.log;
            // A later leader may have replaced what this one, not yet aware of it, had there.
            let followed = image.hard.term <= engine.term();
            if nodes.get(follower).wiped {
                continue;
            }
            if followed && disk.term_at(matched) != node.log.term_at(matched) {
                return Err(format!(
                    "leader {} counts {follower} as having {matched}, its disk ends at {}",
                    node.id,
                    disk.last()
                ));
            }
            let key = (node.id, node.life, engine.term(), follower);
            let before = self.matched.insert(key, matched).unwrap_or(0);
            if matched < before {
                return Err(format!(
                    "leader {} counted {follower} through {before}, now {matched}",
                    node.id
                ));
            }
        }
        Ok(())
    }
}
