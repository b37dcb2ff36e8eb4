//! The newest entries, in memory: what followers and the state machine need next.
//!
//! In the steady state nothing is read back from the log. Under its byte limit the tail keeps what
//! it can; beyond it, entries go once they are durable here, and whoever still needs them (a follower
//! that was away, a state machine that hangs) reads the log.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use quorate_engine::{EntryBlock, Index, LogId};

/// Shared by the node, which writes, and by the streams and the apply worker, which read.
#[derive(Debug)]
pub(crate) struct Tail {
    inner: Mutex<Inner>,
    limit_bytes: usize,
}

#[derive(Debug)]
struct Inner {
    blocks: VecDeque<EntryBlock>,
    bytes: usize,
    /// The last entry of the log.
    last: LogId,
}

impl Inner {
    /// How many blocks end before `index`. Nearly every read is of the newest few, so the search begins
    /// there: what lies further back is in no cache.
    fn position(&self, index: Index) -> usize {
        let ends_before = |at: usize| self.blocks[at].last().index < index;
        let count = self.blocks.len();
        let mut back = 1;
        while back <= count && !ends_before(count - back) {
            back *= 2;
        }
        let (mut low, mut high) = (count.saturating_sub(back), count - back / 2);
        while low < high {
            let middle = low.midpoint(high);
            if ends_before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// What reading the tail can find.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// At least one block.
    Blocks(Vec<EntryBlock>),
    /// The next entries are older than the tail: read the log, no further than `through`. Where
    /// the tail begins, the log may still have entries that are being overwritten.
    Older { through: Index },
    /// There is nothing after that position, or something else than was expected.
    Nothing,
}

impl Tail {
    /// A tail behind `last`, the end of the recovered log.
    pub(crate) fn new(last: LogId, limit_bytes: usize) -> Self {
        let inner = Inner { blocks: VecDeque::new(), bytes: 0, last };
        Self { inner: Mutex::new(inner), limit_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a block, dropping what it replaces.
    pub(crate) fn append(&self, block: EntryBlock) {
        let mut tail = self.lock();
        while let Some(last) = tail.blocks.back() {
            if last.last().index < block.first() {
                break;
            }
            let keep =
                (last.first() < block.first()).then(|| last.slice(last.first(), block.first() - 1));
            tail.bytes -= last.bytes().len();
            tail.blocks.pop_back();
            if let Some(keep) = keep {
                tail.bytes += keep.bytes().len();
                tail.blocks.push_back(keep);
            }
        }
        tail.bytes += block.bytes().len();
        tail.last = block.last();
        tail.blocks.push_back(block);
    }

    /// The log begins anew behind `last`.
    pub(crate) fn reset(&self, last: LogId) {
        *self.lock() = Inner { blocks: VecDeque::new(), bytes: 0, last };
    }

    /// Drops the oldest blocks while the tail is over its limit, none that is not `durable`.
    pub(crate) fn trim(&self, durable: Index) {
        let mut tail = self.lock();
        while tail.bytes > self.limit_bytes {
            match tail.blocks.front() {
                Some(block) if block.last().index <= durable => {
                    tail.bytes -= block.bytes().len();
                    tail.blocks.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Entries directly after `after`, through `through`, of about `max_bytes`.
    pub(crate) fn read(&self, after: LogId, through: Index, max_bytes: usize) -> Found {
        let tail = self.lock();
        let next = after.index + 1;
        if next > through || next > tail.last.index {
            return Found::Nothing;
        }
        let at = tail.position(next);
        let Some(first) = tail.blocks.get(at) else { return Found::Older { through } };
        if first.first() > next {
            return Found::Older { through: through.min(first.first() - 1) };
        }
        // What stands before must be the entry the reader believes in.
        let before = if first.first() < next {
            Some(LogId::new(first.term(), after.index))
        } else {
            at.checked_sub(1).and_then(|at| tail.blocks.get(at)).map(EntryBlock::last)
        };
        if before.is_some_and(|before| before != after) {
            return Found::Nothing;
        }
        let mut blocks = Vec::new();
        let mut bytes = 0;
        for block in tail.blocks.range(at..) {
            if block.first() > through || (bytes > 0 && bytes + block.bytes().len() > max_bytes) {
                break;
            }
            bytes += block.bytes().len();
            blocks.push(block.slice(block.first().max(next), block.last().index.min(through)));
        }
        Found::Blocks(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_engine::Batch;

    fn block(term: u64, first: u64, count: usize) -> EntryBlock {
        let mut batch = Batch::new(0);
        (0..count).for_each(|_| batch.push(b"12345678"));
        batch.seal(LogId::new(term, first))
    }

    fn ids(found: Found) -> Vec<(u64, u64)> {
        match found {
            Found::Blocks(blocks) => blocks.iter().map(|b| (b.first(), b.last().index)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_what_it_has_and_knows_what_it_has_not() {
        let tail = Tail::new(LogId::new(1, 4), 1 << 20);
        assert_eq!(tail.read(LogId::new(1, 4), 9, 99), Found::Nothing);
        tail.append(block(1, 5, 3));
        tail.append(block(2, 8, 2));
        assert_eq!(ids(tail.read(LogId::new(1, 4), 9, 1 << 20)), [(5, 7), (8, 9)]);
        assert_eq!(ids(tail.read(LogId::new(1, 5), 8, 1 << 20)), [(6, 7), (8, 8)]);
        assert_eq!(ids(tail.read(LogId::new(1, 4), 9, 1)), [(5, 7)], "at least one");
        assert_eq!(tail.read(LogId::new(1, 3), 9, 99), Found::Older { through: 4 });
        assert_eq!(tail.read(LogId::new(2, 7), 9, 99), Found::Nothing, "another entry is there");
        assert_eq!(tail.read(LogId::new(2, 9), 20, 99), Found::Nothing);
    }

    #[test]
    fn overwrites_and_trims() {
        let tail = Tail::new(LogId::ZERO, 100);
        tail.append(block(1, 1, 3));
        tail.append(block(1, 4, 3));
        tail.append(block(2, 3, 1));
        assert_eq!(ids(tail.read(LogId::ZERO, 9, 1 << 20)), [(1, 2), (3, 3)]);
        tail.append(block(2, 4, 3));
        tail.trim(2);
        assert_eq!(tail.read(LogId::ZERO, 9, 99), Found::Older { through: 2 });
        assert_eq!(ids(tail.read(LogId::new(1, 2), 9, 1 << 20)), [(3, 3), (4, 6)]);
        tail.trim(3);
        assert!(tail.bytes() < 100 && tail.bytes() > 0);
    }
}
