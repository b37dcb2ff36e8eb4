//! Terms come from candidates (paper §5.1): nobody is in a term that nobody stood for. A pre-vote
//! names the next term and must not begin it, or a node that can't win disturbs those who could
//! (thesis §9.6).

use std::collections::BTreeSet;

use quorate_engine::{RoleKind, Term};

use super::{Check, Fact, Nodes};

/// Every term that somebody stood for.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    begun: BTreeSet<Term>,
}

impl Check for Terms {
    fn name(&self) -> &'static str {
        "a term begins with a candidate"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Stepped { node } = fact else { return Ok(()) };
        let Some(engine) = &nodes.get(*node).engine else { return Ok(()) };
        let term = engine.term();
        if engine.role() == RoleKind::Candidate {
            self.begun.insert(term);
        }
        if term == 0 || self.begun.contains(&term) {
            return Ok(());
        }
        Err(format!("node {node} is in term {term}, for which nobody stood"))
    }
}
