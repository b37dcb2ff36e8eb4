//! Who is told to take over has the whole log, durably (thesis §3.10): otherwise it would lose its
//! election, and the group its leader for nothing.

use quorate_engine::Message;

use super::{Check, Fact, Nodes};

/// Needs no memory.
#[derive(Debug)]
pub(crate) struct Handovers;

impl Check for Handovers {
    fn name(&self) -> &'static str {
        "who is to take over has the whole log"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Sent { node, to, message: Message::TimeoutNow(_) } = fact else { return Ok(()) };
        let Some(engine) = &nodes.get(*node).engine else { return Ok(()) };
        let last = engine.log().last();
        // A disk that forgot counts with what it had.
        if nodes.get(*to).once_kept(|log| log.contains(last)) {
            return Ok(());
        }
        Err(format!("node {node} hands over to {to}, whose disk lacks {last}"))
    }
}
