//! Linearizable reads (paper §8, thesis §6.4): a read sees every write that was acknowledged before
//! the read was asked for.

use std::collections::BTreeMap;

use quorate_engine::Index;

use super::{Check, Fact, Nodes};

/// The newest acknowledged index, and what it was when each open read began.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    acknowledged: Index,
    open: BTreeMap<u64, Index>,
}

impl Check for Reads {
    fn name(&self) -> &'static str {
        "reads are linearizable"
    }

    fn on(&mut self, fact: &Fact<'_>, _: &Nodes) -> Result<(), String> {
        match fact {
            // Also what a read has shown can't be unseen by a later one.
            Fact::Acknowledged { index, .. } => self.acknowledged = self.acknowledged.max(*index),
            Fact::ReadIssued { token } => {
                self.open.insert(*token, self.acknowledged);
            }
            Fact::ReadServed { token, index } => {
                let Some(floor) = self.open.remove(token) else {
                    return Err(format!("read {token} answered twice, or never asked"));
                };
                if *index < floor {
                    return Err(format!("read {token} sees {index}, {floor} was acknowledged"));
                }
                self.acknowledged = self.acknowledged.max(*index);
            }
            _ => {}
        }
        Ok(())
    }
}
