//! Leader Completeness (paper §5.4): an entry committed in a term is in the log of every leader of a
//! later term.
//!
//! With Log Matching it is enough to look at the newest entry committed in each term. Both orders
//! of events count: a leader elected after the commit, and one that already led a later term.

use std::collections::BTreeMap;

use quorate_engine::{LogId, NodeId, Term};

use super::{Check, Fact, Nodes};

/// The newest entry committed by the leader of each term, and which leaders were checked at their
/// election.
#[derive(Debug, Default)]
pub(crate) struct LeaderCompleteness {
    committed: BTreeMap<Term, LogId>,
    /// Newest committed entry overall.
    newest: LogId,
    elected: BTreeMap<Term, NodeId>,
}

impl Check for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "Leader Completeness"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Stepped { node } = fact else { return Ok(()) };
        let node = nodes.get(*node);
        let Some(engine) = node.engine.as_ref().filter(|_| node.leads()) else { return Ok(()) };
        let term = engine.term();
        if self.elected.insert(term, node.id).is_none() {
            for (earlier, id) in self.committed.range(..term) {
                if !node.log.contains(*id) {
                    return Err(format!(
                        "leader {} of term {term} lacks {id}, committed in term {earlier}",
                        node.id
                    ));
                }
            }
        }
        let index = engine.log().committed();
        if index <= self.newest.index {
            return Ok(());
        }
        let of =
            node.log.term_at(index).ok_or_else(|| format!("{index} is committed and not there"))?;
        let id = LogId::new(of, index);
        self.newest = id;
        self.committed.insert(term, id);
        for other in nodes.iter().filter(|n| n.leads()) {
            let later = other.engine.as_ref().is_some_and(|e| e.term() > term);
            if later && !other.log.contains(id) {
                return Err(format!("leader {} lacks {id}, committed in term {term}", other.id));
            }
        }
        Ok(())
    }
}
