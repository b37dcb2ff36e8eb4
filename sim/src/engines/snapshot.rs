//! A snapshot in this world: the entries it was built from, and what the state machine made of them.
//!
//! A real one holds the state alone. This one keeps the entries, so that a log that begins behind it
//! can be looked at as a whole, and so that its size is worth sending in parts.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::{EntryBlock, Index, LogId, Membership};

use crate::engines::image::LogImage;

/// The state of a state machine: a running hash of all it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State(u64);

impl State {
    /// The state after one more entry.
    #[must_use]
    pub fn after(self, entry: LogId, payload: &[u8]) -> Self {
        let mix = |hash: u64, number: u64| {
            (hash ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
        };
        let hash = mix(mix(mix(self.0, entry.term), entry.index), payload.len() as u64);
        Self(payload.chunks(8).fold(hash, |hash, bytes| {
            let mut number = [0; 8];
            number[..bytes.len()].copy_from_slice(bytes);
            mix(hash, u64::from_le_bytes(number))
        }))
    }
}

/// One snapshot, complete.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    log: LogImage,
    state: State,
    nonce: u64,
}

impl Snapshot {
    /// The snapshot of a state machine that has seen `log` through `applied`.
    pub fn of(log: &LogImage, applied: Index, state: State, nonce: u64) -> Self {
        let term = log.term_at(applied).expect("what was applied is there");
        let log = log.compacted_through(LogId::new(term, applied));
        Self { log: log.expect("its term was looked up"), state, nonce }
    }

    /// What a witness gets of it: where it ends.
    #[must_use]
    pub fn without_data(&self) -> Self {
        Self { log: self.log.withheld(), state: State::default(), nonce: self.nonce }
    }

    /// The last entry whose effect is in it.
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// What it was built from, all of it compacted.
    pub fn log(&self) -> &LogImage {
        &self.log
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Tells it from every other.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// The configuration in force at its last entry, with its own.
    pub fn configuration(&self) -> Option<(LogId, Membership)> {
        self.log.configurations().pop()
    }

    /// As it is sent: the state, then the entries.
    pub fn to_bytes(&self) -> Bytes {
        let blocks = self.log.blocks();
        let length: usize = blocks.iter().map(|block| block.bytes().len()).sum();
        let mut bytes = BytesMut::with_capacity(8 + length);
        bytes.put_u64_le(self.state.0);
        blocks.iter().for_each(|block| bytes.put_slice(block.bytes()));
        bytes.freeze()
    }

    /// The snapshot that was sent as these bytes. `None` if they are no snapshot.
    pub fn from_bytes(bytes: &Bytes, nonce: u64) -> Option<Self> {
        let state = State(u64::from_le_bytes(*bytes.first_chunk()?));
        let mut rest = bytes.slice(8..);
        let mut log = LogImage::default();
        while !rest.is_empty() {
            let length = EntryBlock::peek_length(&rest).ok().filter(|n| *n <= rest.len())?;
            log.append(EntryBlock::from_bytes(rest.split_to(length)).ok()?);
        }
        let log = log.compacted_through(log.last())?;
        Some(Self { log, state, nonce })
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::Batch;

    use super::*;

    #[test]
    fn what_is_sent_is_what_arrives() {
        let mut log = LogImage::default();
        let membership = Membership::of_voters([(1, "a")]).unwrap();
        log.append(EntryBlock::configuration(LogId::new(0, 1), &membership));
        let mut batch = Batch::new(1);
        (0..5_u64).for_each(|n| batch.push(&n.to_le_bytes()));
        log.append(batch.seal(LogId::new(3, 2)));
        let state = State::default().after(LogId::new(3, 4), b"x");
        let sent = Snapshot::of(&log, 4, state, 7);
        assert_eq!(sent.last(), LogId::new(3, 4));
        let bytes = sent.to_bytes();
        let arrived = Snapshot::from_bytes(&bytes, 7).unwrap();
        assert_eq!((arrived.last(), arrived.state()), (sent.last(), state));
        assert_eq!(arrived.log().blocks(), sent.log().blocks());
        assert_eq!(arrived.configuration(), Some((LogId::new(0, 1), membership)));
        assert!(Snapshot::from_bytes(&bytes.slice(..bytes.len() - 1), 7).is_none());
        assert!(Snapshot::from_bytes(&bytes.slice(..3), 7).is_none());
    }

    #[test]
    fn every_entry_changes_the_state() {
        let state = State::default();
        let ids = [LogId::new(1, 1), LogId::new(1, 2), LogId::new(2, 1)];
        let states: Vec<_> = ids.iter().map(|id| state.after(*id, &7_u64.to_le_bytes())).collect();
        assert!(states.iter().all(|s| states.iter().filter(|t| s == *t).count() == 1));
        assert_ne!(state.after(ids[0], &[0, 0]), state.after(ids[0], &[0, 1]));
    }
}
