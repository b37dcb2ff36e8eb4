//! Who was told that it lost entries it had acknowledged votes as if it had them, and does not stand for
//! election, until its disk has them again. It was told in its present life: what it forgets in a
//! crash, the leader tells it again.

use std::collections::BTreeMap;

use quorate_engine::{LogId, Message, NodeId};

use super::{Check, Fact, Nodes};

/// What each node was told it has lost, and what the candidates have whose requests it was sent.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    lost: BTreeMap<NodeId, (u32, LogId)>,
    asked: BTreeMap<(NodeId, NodeId), LogId>,
}

impl Quarantine {
    /// What a node still lacks of what it was told.
    fn lacks(&mut self, id: NodeId, nodes: &Nodes) -> Option<LogId> {
        let (life, lost) = *self.lost.get(&id)?;
        let node = nodes.get(id);
        let log = &node.disk.durable().log;
        if node.life != life || log.last().index >= lost.index {
            self.lost.remove(&id);
            return None;
        }
        Some(lost)
    }
}

impl Check for Quarantine {
    fn name(&self) -> &'static str {
        "who has lost entries elects nobody who lacks them"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Received { node, message: Message::Heartbeat(m), .. } => {
                let here = nodes.get(*node);
                let term = here.engine.as_ref().map(|engine| engine.term());
                if m.refill > LogId::ZERO && term.is_some_and(|term| m.term >= term) {
                    self.lost.insert(*node, (here.life, m.refill));
                }
            }
            Fact::Received { node, from, message: Message::RequestVote(m) } => {
                self.asked.insert((*node, *from), m.last);
            }
            Fact::Sent { node, message: Message::RequestVote(m), .. } => {
                if let Some(lost) = self.lacks(*node, nodes) {
                    return Err(format!(
                        "node {node} campaigns in term {} and lacks {lost}",
                        m.term
                    ));
                }
            }
            Fact::Sent { node, to, message: Message::RequestVoteAnswer(m) } if m.granted => {
                let asked = self.asked.get(&(*node, *to)).copied().unwrap_or_default();
                if let Some(lost) = self.lacks(*node, nodes).filter(|lost| asked < *lost) {
                    return Err(format!("node {node} votes for {to}, which lacks {lost}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
