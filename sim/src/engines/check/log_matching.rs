//! Log Matching (paper §5.3): if two logs hold an entry with the same index and term, they are equal
//! through that entry.
//!
//! Checked by induction, at the cost of one look-up per entry written: an entry's id determines its
//! content AND the id of the entry before it, on every node, for ever. Of the content a witness has
//! nothing, and only a witness.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_engine::{EntryKind, LogId};

use super::{Check, Fact, Nodes};

/// Every entry that any node ever wrote: kind, content, and what stood before it.
#[derive(Debug, Default)]
pub(crate) struct LogMatching {
    entries: BTreeMap<LogId, (EntryKind, Bytes, LogId)>,
}

impl Check for LogMatching {
    fn name(&self) -> &'static str {
        "Log Matching"
    }

    fn on(&mut self, fact: &Fact<'_>, nodes: &Nodes) -> Result<(), String> {
        let Fact::Writing { node, write } = fact else { return Ok(()) };
        let log = &nodes.get(*node).log;
        let Some(first) = write.blocks.first() else { return Ok(()) };
        let before = first.first() - 1;
        let term = log.term_at(before).ok_or_else(|| format!("a hole: nothing at {before}"))?;
        let mut prev = LogId::new(term, before);
        for block in &write.blocks {
            if block.first() != prev.index + 1 {
                return Err(format!("a hole between {prev} and {block}"));
            }
            if block.is_withheld() {
                if !nodes.get(*node).is_witness() {
                    return Err(format!("node {node} is a full replica and writes {block}"));
                }
                prev = block.last();
                continue;
            }
            if nodes.get(*node).is_witness() && block.kind() == EntryKind::Command {
                return Err(format!("node {node} is a witness and writes the commands {block}"));
            }
            for payload in block.entries() {
                let id = LogId::new(block.term(), prev.index + 1);
                let entry = || (block.kind(), Bytes::copy_from_slice(payload), prev);
                let known = self.entries.entry(id).or_insert_with(entry);
                if (known.0, &known.1[..], known.2) != (block.kind(), payload, prev) {
                    let entry = entry();
                    return Err(format!(
                        "entry {id} of node {node} is {entry:?}, elsewhere it is {known:?}"
                    ));
                }
                prev = id;
            }
        }
        Ok(())
    }
}
