//! The commitment rule (paper §5.3, §5.4.2): what a leader calls committed is on the DISKS of a
//! quorum of its configuration, ends with an entry of its own term, and never changes.
//!
//! It must stay on a quorum's disks: looked at again whenever a disk changes in another way than by
//! growing.

use std::collections::BTreeMap;

use quorate_engine::{Index, LogId, Membership, quorum};

use super::{Check, Fact, Nodes};

/// Every index that a leader committed, and the configuration it did so under.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    committed: BTreeMap<Index, LogId>,
    newest: Option<(LogId, Membership)>,
}

impl Commit {
    fn still_durable(&self, nodes: &Nodes) -> Result<(), String> {
        let Some((id, membership)) = &self.newest else { return Ok(()) };
        // Who lost its disk may have had it.
        let has = |id_of| {
            let node = nodes.get(id_of);
            node.wiped || node.disk.durable().log.contains(*id)
        };
        if quorum::is_quorum(membership, has) {
            return Ok(());
        }
        let who: Vec<_> = nodes.iter().map(|n| n.id).filter(|n| has(*n)).collect();
        Err(format!("{id} is committed and only on the disks of {who:?}"))
    }
}

impl Check for Commit {
    fn name(&self) -> &'static str {
        "committed means durable on a quorum"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let node = match fact {
            Fact::Stepped { node } => nodes.get(*node),
            Fact::Synced { .. } | Fact::Crashed { .. } => return self.still_durable(nodes),
            _ => return Ok(()),
        };
        let Some(engine) = &node.engine else { return Ok(()) };
        let known = self.newest.as_ref().map_or(0, |(id, _)| id.index);
        let index = engine.log().committed();
        if index <= known {
            let here = LogId::new(node.log.term_at(index).unwrap_or(0), index);
            return match self.committed.get(&index) {
                Some(id) if *id != here => {
                    Err(format!("node {} has {here} committed, which is {id}", node.id))
                }
                _ => Ok(()),
            };
        }
        if !node.leads() {
            return Err(format!("follower {} commits {index}, no leader did", node.id));
        }
        for i in known + 1..=index {
            let term = node.log.term_at(i).ok_or(format!("{i} committed and not there"))?;
            self.committed.insert(i, LogId::new(term, i));
        }
        let id = self.committed[&index];
        if id.term != engine.term() {
            return Err(format!("leader of term {} commits {id} by counting", engine.term()));
        }
        let membership = engine.log().membership().cloned().ok_or("no configuration")?;
        self.newest = Some((id, membership));
        self.still_durable(nodes)
    }
}
