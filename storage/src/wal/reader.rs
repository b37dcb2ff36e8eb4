//! Reading entries back from the segments.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_engine::{EntryBlock, Index, LogId};

use super::disk::Disk;
use super::segment::{Location, corrupt, failed};
use super::writer::Group;
use crate::log::{LogReadError, LogReader};
use crate::state::Span;

/// Bytes between two blocks worth reading along rather than asking the disk twice.
const MAX_GAP_BYTES: u64 = 4096;

/// Reads one group. Holds neither the log nor its lock; segments it reads from stay readable while
/// it does, removed or not.
pub(super) struct WalReader {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) group: Arc<Group>,
}

#[async_trait]
impl LogReader for WalReader {
    /// Reads in the calling task, with one `pread` for blocks that stand next to each other: what a
    /// follower lacks was mostly written a moment ago, and comes from the page cache quicker than a
    /// thread could be woken to fetch it. `max_bytes` bounds how long that takes.
    async fn read(
        &self,
        after: LogId,
        through: Index,
        max_bytes: usize,
    ) -> Result<Vec<EntryBlock>, LogReadError> {
        let size = |at: &Location| at.bytes as usize;
        let spans = self.group.spans().select(after, through, max_bytes, size)?;
        let mut blocks = Vec::with_capacity(spans.len());
        let mut rest = &spans[..];
        while !rest.is_empty() {
            let (near, far) = rest.split_at(neighbours(rest));
            self.read_neighbours(near, &mut blocks)?;
            rest = far;
        }
        Ok(blocks)
    }
}

/// How many of `spans` stand next to each other, from the first on.
fn neighbours(spans: &[Span<Location>]) -> usize {
    let next_to = |pair: &[Span<Location>]| {
        let (a, b) = (&pair[0].at, &pair[1].at);
        let end = a.offset + u64::from(a.bytes);
        a.segment.number == b.segment.number && (end..=end + MAX_GAP_BYTES).contains(&b.offset)
    };
    1 + spans.windows(2).take_while(|pair| next_to(pair)).count()
}

impl WalReader {
    fn read_neighbours(
        &self,
        spans: &[Span<Location>],
        blocks: &mut Vec<EntryBlock>,
    ) -> Result<(), LogReadError> {
        let (first, last) = (&spans[0].at, &spans[spans.len() - 1].at);
        let start = first.offset;
        let mut bytes = vec![0; (last.offset + u64::from(last.bytes) - start) as usize];
        let read = first.segment.file.read_at(&mut bytes, start);
        read.map_err(|e| failed(&*self.disk, "reading entries", &e))?;
        let bytes = Bytes::from(bytes);
        for Span { first, last, at, .. } in spans {
            let begin = (at.offset - start) as usize;
            let block = EntryBlock::from_bytes(bytes.slice(begin..begin + at.bytes as usize))
                .map_err(|e| corrupt(&*self.disk, at.segment.number, at.offset, &e.to_string()))?;
            if block.first() > *first || block.last().index < *last {
                let what = format!("entries {first} to {last} should be here, not {block}");
                return Err(corrupt(&*self.disk, at.segment.number, at.offset, &what).into());
            }
            blocks.push(block.slice(*first, *last));
        }
        Ok(())
    }
}
