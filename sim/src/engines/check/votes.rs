//! One vote per node and term (paper §5.2), of all its lives together: asked for or granted only
//! when the disk has it, and a restart finds a term no older than any vote that left.

use std::collections::BTreeMap;

use quorate_engine::{HardState, Message, NodeId, Term};

use super::{Check, Fact, Nodes};

/// A node, and whether its disk forgot: with another disk it is another voter.
type Voter = (NodeId, bool);

/// Every vote that was ever sent, and the newest hard state that each disk ever had.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    sent: BTreeMap<(Voter, Term), NodeId>,
    durable: BTreeMap<Voter, HardState>,
}

impl Votes {
    fn vote(
        &mut self,
        node: Voter,
        term: Term,
        choice: NodeId,
        hard: HardState,
    ) -> Result<(), String> {
        let first = *self.sent.entry((node, term)).or_insert(choice);
        if first != choice {
            return Err(format!(
                "node {} votes for {first} and for {choice} in term {term}",
                node.0
            ));
        }
        // A later term on the disk forbids another vote in this one as well.
        let bound = hard.term > term || (hard.term, hard.voted_for) == (term, Some(choice));
        if !bound {
            return Err(format!(
                "node {} votes for {choice} in term {term}, its disk: {hard}",
                node.0
            ));
        }
        Ok(())
    }
}

impl Check for Votes {
    fn name(&self) -> &'static str {
        "one vote per term, durable before it leaves"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Sent { node, to, message } => {
                let hard = nodes.get(*node).disk.durable().hard;
                let voter = (*node, nodes.get(*node).forgot.is_some());
                match message {
                    Message::RequestVote(m) if !m.pre => self.vote(voter, m.term, *node, hard),
                    Message::RequestVoteAnswer(m) if m.granted && !m.pre => {
                        self.vote(voter, m.term, *to, hard)
                    }
                    _ => Ok(()),
                }
            }
            Fact::Synced { node } | Fact::Crashed { node } | Fact::Started { node } => {
                let hard = nodes.get(*node).disk.durable().hard;
                let before = self
                    .durable
                    .insert((*node, nodes.get(*node).forgot.is_some()), hard)
                    .unwrap_or_default();
                let kept = hard.term > before.term
                    || (hard.term == before.term
                        && (before.voted_for.is_none() || before.voted_for == hard.voted_for));
                if kept { Ok(()) } else { Err(format!("node {node} had {before}, now {hard}")) }
            }
            _ => Ok(()),
        }
    }
}
