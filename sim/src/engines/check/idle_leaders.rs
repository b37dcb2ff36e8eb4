//! Who can't lead steps down (thesis §6.2): no leader sends heartbeats for longer than the longest
//! election timeout without hearing answers of a quorum, or while its own disk completes nothing. It
//! would hold its followers, and commit nothing, for ever.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quorate_engine::{Instant, Message, NodeId, Term};

use super::{Check, Fact, Nodes, is_majority};

/// What each leader has heard, and what each disk has been asked for.
#[derive(Debug, Default)]
pub(crate) struct IdleLeaders {
    leading: BTreeMap<(NodeId, Term), Leading>,
    /// When each write that is not durable yet was asked for.
    writing: BTreeMap<NodeId, VecDeque<Instant>>,
}

#[derive(Debug)]
struct Leading {
    began: Instant,
    /// When each round was sent.
    rounds: BTreeMap<u64, Instant>,
    /// The newest round of which an answer of each follower arrived: when the round was sent.
    answered: BTreeMap<NodeId, Instant>,
    /// When it first sent a heartbeat though it should have stepped down. One is forgiven: a
    /// process that stood still sends it before it looks at the clock.
    overdue: Option<Instant>,
}

impl IdleLeaders {
    fn on_heartbeat(
        &mut self,
        id: NodeId,
        term: Term,
        round: u64,
        nodes: &Nodes,
    ) -> Option<String> {
        let now = nodes.local_time(id);
        let engine = nodes.get(id).engine.as_ref()?;
        let (interval, longest) =
            (engine.config().heartbeat_interval, engine.config().election_timeout_max);
        let limit = longest + interval * 2;
        let leading = self.leading.entry((id, term)).or_insert_with(|| Leading {
            began: now,
            rounds: BTreeMap::new(),
            answered: BTreeMap::new(),
            overdue: None,
        });
        leading.rounds.entry(round).or_insert(now);
        leading.rounds.retain(|_, sent| now.since(*sent) <= limit * 2);
        let lately = |at: &Instant| now.since(*at) <= limit;
        let heard =
            |other| other == id || lately(leading.answered.get(&other).unwrap_or(&leading.began));
        let oldest_write = self.writing.get(&id).and_then(VecDeque::front);
        let what = if !is_majority(engine.log().membership()?, heard) {
            "no quorum was heard"
        } else if !oldest_write.is_none_or(lately) {
            "its own disk has completed nothing"
        } else {
            leading.overdue = None;
            return None;
        };
        let since = now.since(*leading.overdue.get_or_insert(now));
        (since >= interval).then(|| late(id, term, limit, what))
    }
}

fn late(id: NodeId, term: Term, limit: Duration, what: &str) -> String {
    format!("node {id} leads term {term} though {what} for {limit:?}")
}

impl Check for IdleLeaders {
    fn name(&self) -> &'static str {
        "who can't lead steps down"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Sent { node, message: Message::Heartbeat(m), .. } => {
                self.on_heartbeat(*node, m.term, m.round, nodes).map_or(Ok(()), Err)
            }
            Fact::Received { node, from, message: Message::HeartbeatAnswer(m) } => {
                if let Some(leading) = self.leading.get_mut(&(*node, m.term)) {
                    if let Some(sent) = leading.rounds.get(&m.round) {
                        let newest = leading.answered.entry(*from).or_insert(*sent);
                        *newest = (*newest).max(*sent);
                    }
                }
                Ok(())
            }
            Fact::Writing { node, .. } => {
                let now = nodes.local_time(*node);
                self.writing.entry(*node).or_default().push_back(now);
                Ok(())
            }
            Fact::Synced { node } | Fact::Crashed { node } => {
                let waiting = nodes.get(*node).disk.waiting();
                let writing = self.writing.entry(*node).or_default();
                writing.drain(..writing.len() - waiting.min(writing.len()));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::message::{Heartbeat, HeartbeatAnswer};

    use super::*;
    use crate::engines::{Plan, World};

    /// Its heartbeats get through and are answered, but no answer gets back.
    #[test]
    fn a_leader_that_hears_nobody_is_seen() {
        let three = |plan: Plan| (plan.nodes, plan.members) == (3, 3);
        let seed = (0..).find(|seed| three(Plan::from_seed(*seed))).unwrap();
        for answers_arrive in [true, false] {
            let plan = Plan { faults: Vec::new(), ..Plan::from_seed(seed) };
            let mut world = World::new(seed, plan);
            world.run_to_the_end().unwrap();
            let leader = world.nodes().iter().find(|n| n.leads()).unwrap();
            let (leader, engine) = (leader.id, leader.engine.as_ref().unwrap());
            let (term, config) = (engine.term(), engine.config().clone());
            let follower = leader % 3 + 1;
            let mut check = IdleLeaders::default();
            let mut told = Ok(());
            for round in 1..100 {
                world.nodes.time += config.heartbeat_interval.as_nanos() as u64;
                let heartbeat = Message::Heartbeat(Heartbeat {
                    term,
                    session: 1,
                    round,
                    commit: 0,
                    promise: config.election_timeout_min,
                    witness: false,
                    refill: quorate_engine::LogId::ZERO,
                });
                let answer = Message::HeartbeatAnswer(HeartbeatAnswer {
                    term,
                    session: 1,
                    round,
                    accepted: 0,
                    matched: 0,
                    promised: config.election_timeout_min,
                    priority: 0,
                });
                let sent = |node, to, message| Fact::Sent { node, to, message };
                let arrives = Fact::Received { node: leader, from: follower, message: &answer };
                let facts = [sent(leader, follower, &heartbeat), sent(follower, leader, &answer)];
                for fact in facts.iter().chain(answers_arrive.then_some(&arrives)) {
                    told = told.and_then(|()| check.on(fact, &world.nodes));
                }
            }
            assert_eq!(told.is_ok(), answers_arrive, "{told:?}");
        }
    }
}
