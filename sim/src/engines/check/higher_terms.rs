//! The term rule (paper §5.1): whoever sees a higher term follows it, in a request or an answer of
//! any kind. Two exceptions: a request for a vote that a promise forbids to grant, and whoever
//! speaks for a disk that is not the member's any more.

use std::collections::BTreeMap;

use quorate_engine::{Message, NodeId, Term};

use super::{Check, Fact, Nodes};

/// The term that each node has just seen.
#[derive(Debug, Default)]
pub(crate) struct HigherTerms {
    seen: BTreeMap<NodeId, Term>,
}

impl Check for HigherTerms {
    fn name(&self) -> &'static str {
        "a higher term is followed"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Received { node, from, message } => {
                let excused = matches!(message, Message::RequestVote(_))
                    || nodes.get(*node).forgot.is_some()
                    || nodes.get(*from).forgot.is_some();
                if let Some(term) = message.term().filter(|_| !excused) {
                    self.seen.insert(*node, term);
                }
            }
            Fact::Crashed { node } => drop(self.seen.remove(node)),
            Fact::Stepped { node } => {
                let seen = self.seen.remove(node).unwrap_or(0);
                let term = nodes.get(*node).engine.as_ref().map_or(seen, |e| e.term());
                if term < seen {
                    return Err(format!("node {node} has seen term {seen} and stays in {term}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
