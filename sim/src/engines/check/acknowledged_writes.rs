//! No acknowledged write is lost, none that was called overwritten happens, none happens twice, and
//! none that nobody asked for: Raft's promise to clients (paper §8). When the cluster has recovered,
//! every acknowledged write is on every node; when it can't, on the disks of a quorum.

use bytes::Bytes;
use quorate_engine::{EntryKind, Index, LogId, Membership};

use super::{Check, Fact, Nodes, is_majority};
use crate::engines::image::LogImage;

#[derive(Debug, Default, Clone, Copy)]
struct Fate {
    applied_at: Option<LogId>,
    acknowledged: bool,
    overwritten: bool,
}

/// What became of each command. Clients number them from 1, in their first eight bytes.
#[derive(Debug, Default)]
pub(crate) struct AcknowledgedWrites {
    fates: Vec<(Bytes, Fate)>,
    /// The newest configuration that anyone knew to be committed.
    configured: Option<(Index, Membership)>,
}

/// Whether a log has this command at `at`, or its place if it was withheld.
fn holds(log: &LogImage, at: LogId, command: &Bytes) -> bool {
    log.contains(at)
        && log.block_at(at.index).is_some_and(|block| {
            let place = (at.index - block.first()) as usize;
            block.kind() == EntryKind::Command
                && (block.is_withheld() || block.entries().nth(place) == Some(command))
        })
}

impl AcknowledgedWrites {
    /// Whether this command is at `index` on the disks of a quorum of the newest committed
    /// configuration, if it is joint of the new voters: the leader may be about to leave it. A disk
    /// that forgot counts with what it had.
    fn on_a_quorum(&self, at: LogId, command: &Bytes, nodes: &Nodes) -> Result<(), String> {
        let has = |node| nodes.get(node).once_kept(|log| holds(log, at, command));
        if self.configured.as_ref().is_some_and(|(_, m)| is_majority(&m.settled(), has)) {
            return Ok(());
        }
        Err(format!("{at} was acknowledged and is not on a quorum's disks"))
    }

    fn fate(&mut self, command: &Bytes) -> Result<&mut Fate, String> {
        let number = command.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        match place.and_then(|place| self.fates.get_mut(place)) {
            Some((proposed, fate)) if proposed == command => Ok(fate),
            _ => Err(format!("nobody proposed {command:?}")),
        }
    }

    /// Every acknowledged write, with where it was applied.
    fn acknowledged(&self) -> impl Iterator<Item = Result<(LogId, &Bytes), String>> {
        self.fates.iter().filter(|(_, fate)| fate.acknowledged).map(|(command, fate)| {
            let at = fate.applied_at.ok_or("acknowledged and never applied")?;
            Ok((at, command))
        })
    }

    /// Every acknowledged write is in the log of every member, where it was applied.
    fn everywhere(&self, nodes: &Nodes) -> Result<(), String> {
        for acknowledged in self.acknowledged() {
            let (at, command) = acknowledged?;
            let member = |id| self.configured.as_ref().is_some_and(|(_, m)| m.member(id).is_some());
            let mut up =
                nodes.iter().filter(|n| n.engine.is_some() && n.stopped.is_none() && member(n.id));
            if let Some(node) = up.find(|n| n.applied < at.index || !holds(&n.log, at, command)) {
                return Err(format!("{at} was acknowledged, node {} lacks it", node.id));
            }
        }
        Ok(())
    }
}

impl Check for AcknowledgedWrites {
    fn name(&self) -> &'static str {
        "no acknowledged write is lost"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        match fact {
            Fact::Proposed { payload } => {
                self.fates.push(((*payload).clone(), Fate::default()));
            }
            Fact::Acknowledged { index, payload } => {
                let fate = self.fate(payload)?;
                fate.acknowledged = true;
                let at = fate.applied_at.filter(|at| at.index == *index);
                let at =
                    at.ok_or_else(|| format!("acknowledged at {index} and not applied there"))?;
                return self.on_a_quorum(at, payload, nodes);
            }
            Fact::Stepped { node } => {
                let Some(engine) = &nodes.get(*node).engine else { return Ok(()) };
                let known = self.configured.as_ref().map_or(0, |(index, _)| *index);
                let committed = engine.log().committed();
                let mut newest = engine.log().configurations().iter().rev();
                if let Some((id, m)) = newest.find(|(id, _)| id.index <= committed) {
                    if id.index > known {
                        self.configured = Some((id.index, m.clone()));
                    }
                }
            }
            Fact::Settled => return self.everywhere(nodes),
            Fact::Stranded => {
                return self.acknowledged().try_for_each(|acknowledged| {
                    let (at, command) = acknowledged?;
                    self.on_a_quorum(at, command, nodes)
                });
            }
            Fact::Applied { id, kind: EntryKind::Command, payload, .. } => {
                let fate = self.fate(payload)?;
                if fate.overwritten {
                    return Err(format!("{id} applied, its client was told it did not happen"));
                }
                if fate.applied_at.is_some_and(|at| at != *id) {
                    return Err(format!("applied at {:?} and at {id}", fate.applied_at));
                }
                fate.applied_at = Some(*id);
            }
            Fact::Overwritten { payload } => {
                let fate = self.fate(payload)?;
                if let Some(at) = fate.applied_at {
                    return Err(format!("called overwritten, was applied at {at}"));
                }
                fate.overwritten = true;
            }
            _ => {}
        }
        Ok(())
    }
}
