//! The term rule (paper §5.1): whoever sees a higher term follows it, in a request or an answer of
//! any kind. Two exceptions: a request for a vote that reaches a leader, or a node inside a promise
//! to grant none (thesis §6.4.1), and whoever speaks for a disk that is not the member's any more.
//!
//! A promise is what a leader asked for, no longer than the node's own shortest election timeout,
//! in a heartbeat, an append or a part of a snapshot of the term that the node is in. Whoever starts
//! with a configuration counts as having just made one.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_engine::{Instant, Message, NodeId, Term};

use super::{Check, Fact, Nodes};
use crate::engines::node::Forgot;

/// What each node has just seen, and what it promised.
#[derive(Debug, Default)]
pub(crate) struct HigherTerms {
    /// The term it has to follow.
    seen: BTreeMap<NodeId, Term>,
    /// The term of a leader that it has just heard, and the promise that this leader asks for.
    asked: BTreeMap<NodeId, (Term, Duration)>,
    /// Until when it grants no vote, by its own clock.
    promised: BTreeMap<NodeId, Instant>,
}

impl HigherTerms {
    /// A node promises not to vote for so long, if it can promise anything.
    fn promise(&mut self, id: NodeId, asked: Duration, nodes: &Nodes) {
        let now = nodes.local_time(id);
        let Some(engine) = &nodes.get(id).engine else { return };
        let until = now + asked.min(engine.config().election_timeout_min);
        let promised = self.promised.entry(id).or_insert(until);
        *promised = (*promised).max(until);
    }

    /// Whether a node may turn a request for its vote down unheard.
    fn is_bound(&self, id: NodeId, nodes: &Nodes) -> bool {
        let now = nodes.local_time(id);
        nodes.get(id).leads() || self.promised.get(&id).is_some_and(|until| now < *until)
    }
}

impl Check for HigherTerms {
    fn name(&self) -> &'static str {
        "a higher term is followed"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Received { node, from, message } => {
                // A request that the leader itself has asked for is heard (thesis §4.2.3).
                let unasked = matches!(message, Message::RequestVote(m) if !m.transfer);
                let bound = unasked && self.is_bound(*node, nodes);
                let wiped = |id: &NodeId| nodes.get(*id).forgot == Some(Forgot::Everything);
                let excused = bound || wiped(node) || wiped(from);
                if let Some(term) = message.term().filter(|_| !excused) {
                    self.seen.insert(*node, term);
                }
                let asked = match message {
                    Message::Heartbeat(m) => Some((m.term, m.promise)),
                    Message::AppendEntries(m) => Some((m.term, m.promise)),
                    Message::InstallSnapshot(m) => Some((m.term, m.promise)),
                    _ => None,
                };
                self.asked.extend(asked.map(|asked| (*node, asked)));
            }
            Fact::Started { node } => {
                let engine = nodes.get(*node).engine.as_ref();
                if let Some(engine) = engine.filter(|e| e.log().membership().is_some()) {
                    self.promise(*node, engine.config().election_timeout_min, nodes);
                }
            }
            Fact::Crashed { node } => {
                self.seen.remove(node);
                self.asked.remove(node);
                self.promised.remove(node);
            }
            Fact::Stepped { node } => {
                let seen = self.seen.remove(node).unwrap_or(0);
                let term = nodes.get(*node).engine.as_ref().map_or(seen, |e| e.term());
                if term < seen {
                    return Err(format!("node {node} has seen term {seen} and stays in {term}"));
                }
                if let Some((_, promise)) = self.asked.remove(node).filter(|(of, _)| *of == term) {
                    self.promise(*node, promise, nodes);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::LogId;
    use quorate_engine::message::{Heartbeat, RequestVote};

    use super::*;
    use crate::engines::{Plan, World};

    /// A node that turns a request of a higher term down: a leader may, and who has just promised
    /// one not to vote; nobody else, nor anybody later.
    #[test]
    fn a_request_is_turned_down_only_inside_a_promise() {
        let seed = (0..).find(|seed| Plan::from_seed(*seed).nodes == 3).unwrap();
        // Without faults: of a disk that forgot nothing is asked.
        let plan = Plan { faults: Vec::new(), ..Plan::from_seed(seed) };
        let mut world = World::new(seed, plan);
        world.run_to_the_end().unwrap();
        let leader = world.nodes().iter().find(|n| n.leads()).unwrap().id;
        let (follower, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        let engine = world.nodes().get(follower).engine.as_ref().unwrap();
        let (term, promise) = (engine.term(), engine.config().election_timeout_min);
        let witness = false;
        let heartbeat = Message::Heartbeat(Heartbeat {
            term,
            session: 1,
            round: 1,
            commit: 0,
            promise,
            witness,
            refill: LogId::ZERO,
        });
        let request = Message::RequestVote(RequestVote {
            pre: false,
            term: term + 1,
            last: LogId::ZERO,
            transfer: false,
        });
        let mut check = HigherTerms::default();
        let mut ignored = |node, from, message, world: &World| {
            let received = check.on(&Fact::Received { node, from, message }, world.nodes());
            received.and_then(|()| check.on(&Fact::Stepped { node }, world.nodes()))
        };
        ignored(leader, other, &request, &world).unwrap();
        ignored(follower, other, &request, &world).unwrap_err();
        ignored(follower, leader, &heartbeat, &world).unwrap();
        ignored(follower, other, &request, &world).unwrap();
        // By the slowest clock.
        world.nodes.time += promise.as_nanos() as u64 * 5 / 4 + 1;
        ignored(follower, other, &request, &world).unwrap_err();
    }
}
