//! Nothing that a node knows goes back while it lives (paper Figure 2, "increases monotonically"):
//! term, committed, applied; its vote stays within a term. What a leader takes a follower to have
//! never goes back either, and the follower's disk has it.

use std::collections::BTreeMap;

use quorate_engine::{HardState, Index, NodeId, Term};

use super::{Check, Fact, Nodes};

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    life: u32,
    hard: HardState,
    committed: Index,
    applied: Index,
}

/// The last look at each node, and what each leader took each follower to have.
#[derive(Debug, Default)]
pub(crate) struct Monotone {
    seen: Vec<Seen>,
    matched: BTreeMap<(NodeId, NodeId), (u32, Term, Index)>,
}

impl Check for Monotone {
    fn name(&self) -> &'static str {
        "positions never go back"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Stepped { node } = fact else { return Ok(()) };
        let node = nodes.get(*node);
        let Some(engine) = &node.engine else { return Ok(()) };
        let now = Seen {
            life: node.life,
            hard: engine.hard_state(),
            committed: engine.log().committed(),
            applied: engine.log().applied(),
        };
        let place = node.id as usize;
        self.seen.resize(self.seen.len().max(place + 1), Seen::default());
        let before = std::mem::replace(&mut self.seen[place], now);
        let before = if before.life == now.life { before } else { Seen::default() };
        let vote_stays = now.hard.term > before.hard.term
            || before.hard.voted_for.is_none()
            || now.hard.voted_for == before.hard.voted_for;
        if now.hard.term < before.hard.term
            || !vote_stays
            || now.committed < before.committed
            || now.applied < before.applied
        {
            return Err(format!("node {} went back from {before:?} to {now:?}", node.id));
        }
        // Who is removed and added again starts from nothing. To count both would not do: whoever forgot
        // is followed, and not looked at below.
        let of_this = (node.id, 0)..=(node.id, NodeId::MAX);
        let still = |id| engine.matched().any(|(follower, _)| follower == id);
        if node.leads() && self.matched.range(of_this).any(|((_, id), _)| !still(*id)) {
            self.matched.retain(|(leader, id), _| *leader != node.id || still(*id));
        }
        for (follower, matched) in engine.matched() {
            let followed = nodes.get(follower);
            // Whose disk forgot may start again from nothing.
            if followed.forgot.is_some() {
                continue;
            }
            let seen = (node.life, engine.term(), matched);
            let (life, term, before) =
                self.matched.insert((node.id, follower), seen).unwrap_or_default();
            let goes_on = (life, term) == (node.life, engine.term());
            if goes_on && matched == before {
                continue;
            }
            if goes_on && matched < before {
                return Err(format!(
                    "leader {} counted {follower} through {before}, now {matched}",
                    node.id
                ));
            }
            let disk = followed.disk.durable();
            // A later leader may have replaced what this one, not yet aware of it, had there.
            let unaware = disk.hard.term > engine.term();
            if !unaware && disk.recovered().term_at(matched) != node.log.term_at(matched) {
                return Err(format!(
                    "leader {} counts {follower} as having {matched}, its disk ends at {}",
                    node.id,
                    disk.recovered().last()
                ));
            }
        }
        Ok(())
    }
}
