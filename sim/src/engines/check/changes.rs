//! When a leader may change the membership (thesis §4.1, §4.2.1, and the correction of the single-server
//! change): one change at a time, none before the leader has committed an entry of its own term, and
//! no new voter that has not caught up.

use std::collections::{BTreeMap, VecDeque};

use quorate_engine::{EntryBlock, EntryKind, Index, Membership, NodeId, Term};

use super::{Check, Fact, Nodes};

/// What each leader had in its log, when.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// World time and the last index, as it grew.
    grew: BTreeMap<(NodeId, Term), VecDeque<(u64, Index)>>,
}

impl Changes {
    fn on_stepped(&mut self, id: NodeId, nodes: &Nodes) {
        let node = nodes.get(id);
        let Some(engine) = node.engine.as_ref().filter(|_| node.leads()) else { return };
        let last = engine.log().last().index;
        let grew = self.grew.entry((id, engine.term())).or_default();
        if grew.back().is_none_or(|(_, known)| *known < last) {
            grew.push_back((nodes.time, last));
        }
        // Of what is long ago the newest is enough.
        let old =
            nodes.time.saturating_sub(4 * engine.config().election_timeout_max.as_nanos() as u64);
        while grew.get(1).is_some_and(|(at, _)| *at < old) {
            grew.pop_front();
        }
    }

    /// A leader puts `new` into its log, directly behind `old`, which changes more than a tie.
    fn on_change(
        &self,
        id: NodeId,
        (at, old): (Index, &Membership),
        (new_at, new): (Index, &Membership),
        nodes: &Nodes,
    ) -> Result<(), String> {
        let Some(engine) = &nodes.get(id).engine else { return Ok(()) };
        let committed = engine.log().committed();
        if engine.log().term_at(committed) != Some(engine.term()) {
            let what = "has committed nothing in its term";
            return Err(format!("node {id} changes the membership at {new_at} and {what}"));
        }
        if old.voter_sets().eq(new.voter_sets()) {
            return Ok(());
        }
        if old.is_joint() && new != &old.settled() {
            return Err(format!("node {id} begins another change at {new_at}, {at} is joint"));
        }
        if at > committed {
            return Err(format!("node {id} changes voters at {new_at}, {at} is not committed"));
        }
        let wait = 2 * engine.config().election_timeout_max.as_nanos() as u64;
        let grew = self.grew.get(&(id, engine.term()));
        let before = grew.and_then(|grew| grew.iter().rev().find(|(at, _)| at + wait < nodes.time));
        for voter in new.voters().iter().filter(|id| !old.is_voter(**id)) {
            let last = before.map_or(0, |(_, last)| *last);
            if !nodes.get(*voter).once_kept(|log| log.last().index >= last) {
                return Err(format!("node {voter} becomes a voter at {new_at} and lacks {last}"));
            }
        }
        Ok(())
    }
}

/// The same but for the directories that members are tied to.
fn only_ties(old: &Membership, new: &Membership) -> bool {
    let tied = new
        .members()
        .iter()
        .fold(old.clone(), |m, (id, member)| m.with_incarnation(*id, member.incarnation));
    tied == *new
}

impl Check for Changes {
    fn name(&self) -> &'static str {
        "one change at a time, when it is due"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let (node, write) = match fact {
            Fact::Stepped { node } => {
                self.on_stepped(*node, nodes);
                return Ok(());
            }
            Fact::Writing { node, write } => (*node, write),
            _ => return Ok(()),
        };
        let Some(engine) = nodes.get(node).engine.as_ref() else { return Ok(()) };
        let own = |b: &&EntryBlock| {
            b.kind() == EntryKind::Configuration && b.term() == engine.term() && b.term() > 0
        };
        if !nodes.get(node).leads() {
            return Ok(());
        }
        for new in write.blocks.iter().filter(own) {
            let before = engine.log().configurations().iter().rev();
            let mut before = before.skip_while(|(id, _)| id.index >= new.first());
            let (Some((id, old)), Some(m)) = (before.next(), new.membership()) else { continue };
            if only_ties(old, &m) {
                continue;
            }
            // The newest that changed voters is what has to be committed.
            let mut changed = id.index;
            for (id, earlier) in before {
                if !earlier.voter_sets().eq(old.voter_sets()) {
                    break;
                }
                changed = id.index;
            }
            self.on_change(node, (changed, old), (new.first(), &m), nodes)?;
        }
        Ok(())
    }
}
