//! Promises are kept (thesis §6.4.1): whoever answers a heartbeat votes in no later term for as
//! long as the answer says, by its own clock, whatever becomes of its process meanwhile. But for the
//! candidate that the leader of the term before has told to take its place (thesis §3.10).

use std::collections::{BTreeMap, BTreeSet};

use quorate_engine::{Instant, Message, NodeId, Term};

use super::{Check, Fact, Nodes};

/// What each node has promised: until when, and the newest leader's term.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// By node and data directory: with another disk it is another voter.
    made: BTreeMap<(NodeId, u64), (Instant, Term)>,
    /// To whom the leader of each term has handed over.
    handed_over: BTreeSet<(Term, NodeId)>,
}

impl Check for Promises {
    fn name(&self) -> &'static str {
        "no vote inside a promise"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Sent { node, to, message } = fact else { return Ok(()) };
        let voter = (*node, nodes.get(*node).incarnation);
        let now = nodes.local_time(*node);
        let (voted_in, candidate) = match message {
            Message::TimeoutNow(m) => {
                self.handed_over.insert((m.term, *to));
                return Ok(());
            }
            Message::HeartbeatAnswer(m) if !m.promised.is_zero() => {
                let (until, term) = self.made.entry(voter).or_insert((now, m.term));
                *until = (*until).max(now + m.promised);
                *term = (*term).max(m.term);
                return Ok(());
            }
            Message::RequestVoteAnswer(m) if m.granted && !m.pre => (m.term, to),
            Message::RequestVote(m) if !m.pre => (m.term, node),
            _ => return Ok(()),
        };
        if self.handed_over.contains(&(voted_in.saturating_sub(1), *candidate)) {
            return Ok(());
        }
        match self.made.get(&voter) {
            // A vote of the same term was given before its winner was heard.
            Some((until, term)) if now < *until && voted_in > *term => Err(format!(
                "node {node} votes in term {voted_in}, {:?} inside its promise of term {term}",
                until.since(now)
            )),
            _ => Ok(()),
        }
    }
}
