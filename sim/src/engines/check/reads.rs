//! Linearizable reads (paper §8, thesis §6.4): a read sees every write that was acknowledged before
//! the read was asked for, or so long before that as it allowed, and nothing that nobody calls
//! committed.

use std::collections::BTreeMap;

use quorate_engine::{Index, ReadMode};

use super::{Check, Fact, Nodes};
use crate::engines::node::Node;

/// The newest acknowledged index, and what each open read has to see of it.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// What was acknowledged, and when, in world time; both grow.
    acknowledged: Vec<(u64, Index)>,
    /// The highest index that any node has called committed.
    committed: Index,
    open: BTreeMap<u64, Index>,
}

/// Through where a node calls its log committed.
fn committed(node: &Node) -> Index {
    node.engine.as_ref().map_or(0, |engine| engine.log().committed())
}

impl Reads {
    fn acknowledge(&mut self, time: u64, index: Index) {
        if self.acknowledged.last().is_none_or(|(_, newest)| *newest < index) {
            self.acknowledged.push((time, index));
        }
    }

    /// What a read that is asked for now may not miss. By the slowest clock an age is a quarter more.
    fn floor(&self, time: u64, mode: ReadMode) -> Index {
        let until = match mode {
            ReadMode::Bounded(age) => time.saturating_sub(age.as_nanos() as u64 * 5 / 4 + 1),
            _ => time,
        };
        let known = self.acknowledged.partition_point(|(at, _)| *at <= until);
        known.checked_sub(1).map_or(0, |last| self.acknowledged[last].1)
    }
}

impl Check for Reads {
    fn name(&self) -> &'static str {
        "reads are linearizable"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            // Also what a read has shown can't be unseen by a later one.
            Fact::Acknowledged { index, .. } => self.acknowledge(nodes.time, *index),
            Fact::ReadIssued { token, mode } => {
                let floor = self.floor(nodes.time, *mode);
                self.open.insert(*token, floor);
            }
            Fact::ReadServed { token, index } => {
                let Some(floor) = self.open.remove(token) else {
                    return Err(format!("read {token} answered twice, or never asked"));
                };
                if *index < floor {
                    return Err(format!("read {token} sees {index}, {floor} was acknowledged"));
                }
                // The step that serves the read may be the one that commits.
                let committed = nodes.iter().map(committed).fold(self.committed, Index::max);
                if *index > committed {
                    return Err(format!("read {token} sees {index}, committed is {committed}"));
                }
                self.acknowledge(nodes.time, *index);
            }
            Fact::Stepped { node } => {
                self.committed = self.committed.max(committed(nodes.get(*node)));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::{Plan, World};

    /// No bug of the world shows a reader too much, so the checker is shown one.
    #[test]
    fn a_read_of_what_nobody_committed_is_seen() {
        let mut world = World::new(1, Plan::from_seed(1));
        world.run_to_the_end().unwrap();
        let newest = world.nodes().iter().map(committed).max().unwrap();
        for (index, broken) in [(newest, false), (newest + 1, true)] {
            let mut check = Reads::default();
            let issued = Fact::ReadIssued { token: 1, mode: ReadMode::Index };
            check.on(&issued, world.nodes()).unwrap();
            let told = check.on(&Fact::ReadServed { token: 1, index }, world.nodes());
            assert_eq!(told.is_err(), broken, "{told:?}");
        }
    }
}
