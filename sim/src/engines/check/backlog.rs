//! A leader holds what it was given room for: writes are declined while too much is not committed, or
//! committed and not applied. Counted here from the log, not by the engine.

use quorate_engine::{EntryKind, RoleKind};

use super::{Check, Fact, Nodes};

/// Needs no memory: the log has it.
#[derive(Debug)]
pub(crate) struct Backlog;

impl Check for Backlog {
    fn name(&self) -> &'static str {
        "a leader holds what it has room for"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Stepped { node: id } = fact else { return Ok(()) };
        let node = nodes.get(*id);
        let Some(engine) = node.engine.as_ref().filter(|e| e.role() == RoleKind::Leader) else {
            return Ok(());
        };
        let waits =
            node.log.blocks().iter().rev().take_while(|block| {
                block.term() == engine.term() && block.last().index > node.applied
            });
        let waits = waits.filter(|block| block.kind() == EntryKind::Command);
        let mut sizes = waits.map(|block| block.bytes().len() as u64);
        // The newest was taken when there was room for something.
        sizes.next();
        let held: u64 = sizes.sum();
        let config = engine.config();
        let room = config.max_uncommitted_bytes + config.max_unapplied_bytes;
        if held < room {
            return Ok(());
        }
        Err(format!(
            "node {id} took a write with {held} bytes before it, of which {room} are too many"
        ))
    }
}
