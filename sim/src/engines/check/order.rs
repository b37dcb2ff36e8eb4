//! The order of the log positions (Invariants of `ARCHITECTURE.md`; paper Figure 2): `compacted <=
//! snapshot <= applied <= committed <= last`, `persisted <= last`; and the engine's idea of its log
//! is the log. While a snapshot of the leader is installed, the state machine is behind. A node that
//! is to apply only what its disk has does so.
//!
//! The engine asserts the order itself. Here the log and the state machine are looked at.

use super::{Check, Fact, Nodes};

/// Needs no memory.
#[derive(Debug)]
pub(crate) struct Order;

impl Check for Order {
    fn name(&self) -> &'static str {
        "positions are in order"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Stepped { node } = fact else { return Ok(()) };
        let node = nodes.get(*node);
        let Some(engine) = &node.engine else { return Ok(()) };
        let log = engine.log();
        let (last, committed, applied) = (log.last().index, log.committed(), log.applied());
        let ordered = log.compacted().index <= log.snapshot().index
            && (log.is_restoring() || log.snapshot().index <= applied)
            && applied <= node.applied
            && node.applied <= committed
            && committed <= last
            && log.persisted() <= last
            && (!engine.config().apply_persisted || node.applied <= log.persisted());
        if !ordered {
            return Err(format!(
                "node {}: compacted {}, snapshot {}, applied {applied} (the state machine {}), committed \
                 {committed}, persisted {}, last {last}",
                node.id,
                log.compacted(),
                log.snapshot(),
                node.applied,
                log.persisted()
            ));
        }
        let (believed, there) =
            ((log.compacted(), log.last()), (node.log.compacted(), node.log.last()));
        if believed != there {
            return Err(format!(
                "node {} believes its log to be {believed:?}, it is {there:?}",
                node.id
            ));
        }
        Ok(())
    }
}
