//! Quorums of successive configurations overlap (paper §6, thesis §4.1): no decision under the one
//! can be taken without a voter that knows of those under the other.
//!
//! Looked at for each configuration entry that is written, against the one before it in that log.

use std::collections::BTreeSet;

use quorate_engine::{EntryKind, LogId, Membership, NodeId, quorum};

use super::{Check, Fact, Nodes};

/// Which pairs were looked at.
#[derive(Debug, Default)]
pub(crate) struct Configurations {
    seen: BTreeSet<(LogId, LogId)>,
}

/// A quorum of `old` and one of `new` that have nobody in common, if there are such.
fn apart(old: &Membership, new: &Membership) -> Option<(Vec<NodeId>, Vec<NodeId>)> {
    let voters: BTreeSet<NodeId> =
        old.voter_sets().chain(new.voter_sets()).flatten().copied().collect();
    let voters: Vec<NodeId> = voters.into_iter().collect();
    (0..1_u64 << voters.len()).find_map(|bits| {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for (place, id) in voters.iter().enumerate() {
            if bits >> place & 1 == 1 { &mut one } else { &mut other }.push(*id);
        }
        let apart = quorum::is_quorum(old, |id| one.contains(&id))
            && quorum::is_quorum(new, |id| other.contains(&id));
        apart.then_some((one, other))
    })
}

impl Check for Configurations {
    fn name(&self) -> &'static str {
        "quorums of successive configurations overlap"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Writing { node, write } = fact else { return Ok(()) };
        let configurations = |b: &&quorate_engine::EntryBlock| b.kind() == EntryKind::Configuration;
        let Some(first) = write.blocks.iter().find(configurations) else { return Ok(()) };
        let log = &nodes.get(*node).log;
        let mut before = log.blocks().iter().rev().filter(|b| b.last().index < first.first());
        let mut old = before.find(configurations).cloned();
        for new in write.blocks.iter().filter(configurations) {
            if let Some(old) = old.replace(new.clone()) {
                let (Some(a), Some(b)) = (old.membership(), new.membership()) else { continue };
                if !self.seen.insert((old.last(), new.last())) {
                    continue;
                }
                if let Some((one, other)) = apart(&a, &b) {
                    return Err(format!(
                        "{one:?} decide under {}, {other:?} under {}",
                        old.last(),
                        new.last()
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::{EntryBlock, Member, Persist};

    use super::*;
    use crate::engines::{Plan, World};

    fn membership(voters: &[NodeId], outgoing: &[NodeId]) -> Membership {
        let all = voters.iter().chain(outgoing).map(|id| (*id, Member::default())).collect();
        let set = |ids: &[NodeId]| ids.iter().copied().collect();
        Membership::new(set(voters), set(outgoing), BTreeSet::new(), all).unwrap()
    }

    #[test]
    fn one_voter_at_a_time_or_a_joint_configuration_overlaps() {
        let of = |voters: &[NodeId]| membership(voters, &[]);
        assert_eq!(apart(&of(&[1, 2, 3]), &of(&[1, 2, 3, 4])), None);
        assert_eq!(apart(&of(&[1, 2, 3]), &membership(&[4, 5, 6], &[1, 2, 3])), None);
        assert_eq!(apart(&membership(&[4, 5, 6], &[1, 2, 3]), &of(&[4, 5, 6])), None);
        assert!(apart(&of(&[1, 2, 3]), &of(&[1, 2, 3, 4, 5])).is_some());
        assert!(apart(&of(&[1, 2, 3]), &of(&[4, 5, 6])).is_some());
    }

    /// The engine makes no such change, so the checker is shown one.
    #[test]
    fn a_leap_is_seen() {
        let world = World::new(1, Plan::from_seed(1));
        let block = |index, voters: &[NodeId]| {
            EntryBlock::configuration(LogId::new(0, index), &membership(voters, &[]))
        };
        let mut write = Persist { seq: 1, ..Persist::default() };
        for (last, broken) in [(&[1, 2, 3, 4][..], false), (&[1, 4, 5][..], true)] {
            write.blocks = vec![block(1, &[1, 2, 3]), block(2, last)];
            let fact = Fact::Writing { node: 1, write: &write };
            let told = Configurations::default().on(&fact, world.nodes());
            assert_eq!(told.is_err(), broken, "{told:?}");
        }
    }
}
