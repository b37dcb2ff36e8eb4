//! The canonical form of entries: one checksummed block, the same bytes in the log and on the wire.
//!
//! An entry is encoded once, when it is proposed, and copied by nobody after that: the log writes
//! the block, the replication streams send it, the follower's log writes what arrived. All entries
//! of a block have the same term and kind, so the engine handles a block without looking inside.
//!
//! ```text
//!  0  u32  magic "QBK1" (0x314B4251 little-endian)
//!  4  u32  CRC-32 of bytes 8..length
//!  8  u32  length of the whole block in bytes
//! 12  u32  number of entries, at least 1
//! 16  u64  index of the first entry
//! 24  u64  term of every entry
//! 32  u8   kind: 0 no-op, 1 command, 2 configuration, 3 session
//! 33  u8   1 if the commands are withheld, otherwise 0
//! 34  u16  codec version of the commands (0 for the other kinds)
//! 36  u32  0
//! 40       entries: u32 length, then that many bytes, one after the other
//! ```
//! All numbers are little-endian. A no-op or configuration block holds exactly one entry. A block whose
//! commands are withheld, as a witness gets it, ends with its header: it says which entries there are,
//! and nothing of what they hold.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use crate::membership::Membership;
use crate::types::{Index, LogId, Term};

/// Length of a block's header in bytes.
pub const BLOCK_HEADER_BYTES: usize = 40;

/// The bytes each entry costs besides its payload.
pub const ENTRY_OVERHEAD_BYTES: usize = 4;

const MAGIC: u32 = 0x314B_4251;

/// What the entries of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Empty: a new leader's first entry (paper §8).
    Noop,
    /// Commands of the application.
    Command,
    /// A [`Membership`].
    Configuration,
    /// Commands of sessions, and the openings of sessions: each payload begins with what the node
    /// needs to apply a command once, however often it was sent.
    Session,
}

impl EntryKind {
    fn code(self) -> u8 {
        match self {
            EntryKind::Noop => 0,
            EntryKind::Command => 1,
            EntryKind::Configuration => 2,
            EntryKind::Session => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(EntryKind::Noop),
            1 => Some(EntryKind::Command),
            2 => Some(EntryKind::Configuration),
            3 => Some(EntryKind::Session),
            _ => None,
        }
    }

    /// Whether the application's commands are in it: several to a block, and withheld from witnesses.
    pub fn has_commands(self) -> bool {
        matches!(self, EntryKind::Command | EntryKind::Session)
    }
}

/// Why bytes are not a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// Fewer bytes than the header says, or than a header has.
    #[error("a block cut short: {have} of {need} bytes")]
    Short {
        /// Bytes that are there.
        have: usize,
        /// Bytes that the block needs.
        need: usize,
    },
    /// The checksum does not fit the bytes.
    #[error("a block whose checksum does not fit")]
    Checksum,
    /// The bytes are intact and make no sense: not a block, or of a newer version.
    #[error("not a block of this version: {0}")]
    Malformed(&'static str),
}

/// Commands on their way to becoming a block: the body, waiting for index and term.
///
/// Whoever drives the engine gathers what clients propose into one batch and passes it in; the
/// engine seals it.
#[derive(Debug)]
pub struct Batch {
    buf: Vec<u8>,
    count: u32,
    kind: EntryKind,
    codec: u16,
}

impl Batch {
    /// An empty batch of commands written by version `codec` of the application's codec.
    pub fn new(codec: u16) -> Self {
        Self::with_capacity(EntryKind::Command, codec, 256)
    }

    /// An empty batch with room for `body_bytes` of entries of `kind`.
    ///
    /// # Panics
    /// If entries of this kind hold no commands.
    pub fn with_capacity(kind: EntryKind, codec: u16, body_bytes: usize) -> Self {
        assert!(kind.has_commands(), "a batch of commands");
        let mut buf = Vec::with_capacity(BLOCK_HEADER_BYTES + body_bytes);
        buf.resize(BLOCK_HEADER_BYTES, 0);
        Self { buf, count: 0, kind, codec }
    }

    /// Adds one command.
    ///
    /// # Panics
    /// If the block would pass 4 GiB; callers bound a batch far below that.
    #[inline]
    pub fn push(&mut self, command: &[u8]) {
        self.push_with(&[], command);
    }

    /// Adds one command behind a header of its own.
    ///
    /// # Panics
    /// As [`Batch::push`].
    #[inline]
    pub fn push_with(&mut self, header: &[u8], command: &[u8]) {
        let bytes = header.len() + command.len();
        assert!(
            self.buf.len() + bytes + ENTRY_OVERHEAD_BYTES <= u32::MAX as usize,
            "a block is at most 4 GiB"
        );
        self.buf.extend_from_slice(&(bytes as u32).to_le_bytes());
        self.buf.extend_from_slice(header);
        self.buf.extend_from_slice(command);
        self.count += 1;
    }

    /// Number of commands.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no command yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Length in bytes of the block this becomes.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// The codec version of the commands.
    pub fn codec(&self) -> u16 {
        self.codec
    }

    /// The block with its place in the log.
    ///
    /// # Panics
    /// If the batch is empty.
    pub fn seal(self, first: LogId) -> EntryBlock {
        seal(self.buf, self.count, first, self.kind, self.codec)
    }
}

/// Fills in the header, behind which the entries stand already; none if they are withheld.
fn seal(mut buf: Vec<u8>, count: u32, first: LogId, kind: EntryKind, codec: u16) -> EntryBlock {
    assert!(count > 0, "a block holds at least one entry");
    let withheld = buf.len() == BLOCK_HEADER_BYTES;
    let length = buf.len() as u32;
    let h = &mut buf[..BLOCK_HEADER_BYTES];
    h[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    h[8..12].copy_from_slice(&length.to_le_bytes());
    h[12..16].copy_from_slice(&count.to_le_bytes());
    h[16..24].copy_from_slice(&first.index.to_le_bytes());
    h[24..32].copy_from_slice(&first.term.to_le_bytes());
    h[32] = kind.code();
    h[33] = u8::from(withheld);
    h[34..36].copy_from_slice(&codec.to_le_bytes());
    h[36..40].fill(0);
    let crc = crc32fast::hash(&buf[8..]);
    buf[4..8].copy_from_slice(&crc.to_le_bytes());
    EntryBlock { first: first.index, term: first.term, count, kind, codec, bytes: buf.into() }
}

/// A run of entries of one term, immutable and cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryBlock {
    first: Index,
    term: Term,
    count: u32,
    kind: EntryKind,
    codec: u16,
    bytes: Bytes,
}

impl EntryBlock {
    /// The no-op a new leader begins its term with.
    pub fn noop(id: LogId) -> Self {
        let mut buf = vec![0; BLOCK_HEADER_BYTES];
        buf.extend_from_slice(&0u32.to_le_bytes());
        seal(buf, 1, id, EntryKind::Noop, 0)
    }

    /// A configuration entry.
    pub fn configuration(id: LogId, membership: &Membership) -> Self {
        let payload = membership.to_bytes();
        let mut buf = vec![0; BLOCK_HEADER_BYTES];
        buf.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        buf.extend_from_slice(&payload);
        seal(buf, 1, id, EntryKind::Configuration, 0)
    }

    /// Length of the block that begins `bytes`, from its header alone.
    ///
    /// # Errors
    /// When the header is cut short or is none. The checksum is not looked at.
    pub fn peek_length(bytes: &[u8]) -> Result<usize, BlockError> {
        if bytes.len() < BLOCK_HEADER_BYTES {
            return Err(BlockError::Short { have: bytes.len(), need: BLOCK_HEADER_BYTES });
        }
        if u32_at(bytes, 0) != MAGIC {
            return Err(BlockError::Malformed("magic"));
        }
        let length = u32_at(bytes, 8) as usize;
        if length < BLOCK_HEADER_BYTES {
            return Err(BlockError::Malformed("length"));
        }
        Ok(length)
    }

    /// Takes `bytes`, exactly one block, as it came from a disk or a peer; checks everything.
    ///
    /// # Errors
    /// When the bytes are cut, damaged or no block. Never panics, whatever the bytes.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, BlockError> {
        let length = Self::peek_length(&bytes)?;
        if bytes.len() < length {
            return Err(BlockError::Short { have: bytes.len(), need: length });
        }
        if bytes.len() > length {
            return Err(BlockError::Malformed("bytes behind the block"));
        }
        if crc32fast::hash(&bytes[8..]) != u32_at(&bytes, 4) {
            return Err(BlockError::Checksum);
        }
        let count = u32_at(&bytes, 12);
        let first = u64_at(&bytes, 16);
        let term = u64_at(&bytes, 24);
        let kind = EntryKind::from_code(bytes[32]).ok_or(BlockError::Malformed("kind"))?;
        let codec = u16::from_le_bytes([bytes[34], bytes[35]]);
        if bytes[33] > 1 || bytes[36..40] != [0; 4] {
            return Err(BlockError::Malformed("reserved bytes"));
        }
        let withheld = bytes[33] == 1;
        if withheld != (length == BLOCK_HEADER_BYTES) || (withheld && !kind.has_commands()) {
            return Err(BlockError::Malformed("withheld entries"));
        }
        if count == 0 || (!kind.has_commands() && count != 1) {
            return Err(BlockError::Malformed("entry count"));
        }
        if first == 0 || first.checked_add(u64::from(count)).is_none() {
            return Err(BlockError::Malformed("index"));
        }
        let mut at = BLOCK_HEADER_BYTES;
        for _ in 0..if withheld { 0 } else { count } {
            if bytes.len() - at < ENTRY_OVERHEAD_BYTES {
                return Err(BlockError::Malformed("entry header"));
            }
            let len = u32_at(&bytes, at) as usize;
            at += ENTRY_OVERHEAD_BYTES;
            if bytes.len() - at < len {
                return Err(BlockError::Malformed("entry length"));
            }
            at += len;
        }
        if at != bytes.len() {
            return Err(BlockError::Malformed("bytes behind the last entry"));
        }
        let block = Self { first, term, count, kind, codec, bytes };
        if kind == EntryKind::Configuration && block.membership().is_none() {
            return Err(BlockError::Malformed("configuration"));
        }
        Ok(block)
    }

    /// The whole block as it stands in the log and on the wire.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Index of the first entry.
    pub fn first(&self) -> Index {
        self.first
    }

    /// Id of the last entry.
    pub fn last(&self) -> LogId {
        LogId::new(self.term, self.first + u64::from(self.count) - 1)
    }

    /// Term of every entry.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Number of entries, at least 1.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// What the entries are.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Codec version of the commands.
    pub fn codec(&self) -> u16 {
        self.codec
    }

    /// The membership, if this is a configuration block with a valid one.
    pub fn membership(&self) -> Option<Membership> {
        if self.kind != EntryKind::Configuration {
            return None;
        }
        let payload = self.entries().next()?;
        Membership::from_bytes(payload).ok()
    }

    /// Whether it says only which commands there are, and not what they are.
    pub fn is_withheld(&self) -> bool {
        self.bytes.len() == BLOCK_HEADER_BYTES
    }

    /// The block as a witness gets it: commands are withheld, all else is as it is.
    pub fn withheld(&self) -> EntryBlock {
        if !self.kind.has_commands() {
            return self.clone();
        }
        let first = LogId::new(self.term, self.first);
        seal(vec![0; BLOCK_HEADER_BYTES], self.count, first, self.kind, self.codec)
    }

    /// A look at the payloads, in order. None if they are withheld.
    pub fn entries(&self) -> Entries<'_> {
        Entries { block: self, at: BLOCK_HEADER_BYTES, left: self.given() }
    }

    /// Puts the payloads in order behind what is in `to`, for whoever keeps them: they share the block's memory.
    /// Each is put together where it stays.
    pub fn share_entries(&self, to: &mut Vec<Bytes>) {
        let mut at = BLOCK_HEADER_BYTES;
        to.extend((0..self.given()).map(|_| {
            let payload = self.payload(&mut at);
            // An empty payload shares nothing, so it must not touch the block's reference count.
            if payload.is_empty() { Bytes::new() } else { self.bytes.slice(payload) }
        }));
    }

    /// Number of payloads.
    fn given(&self) -> u32 {
        if self.is_withheld() { 0 } else { self.count }
    }

    /// Where the payload of the entry at `at` is; `at` moves to the next.
    #[inline]
    fn payload(&self, at: &mut usize) -> Range<usize> {
        let start = *at + ENTRY_OVERHEAD_BYTES;
        *at = start + u32_at(&self.bytes, *at) as usize;
        start..*at
    }

    /// The entries `from..=through` of this block as a block of their own.
    ///
    /// Copies unless it is the whole block; used where a block is met in its middle, which is rare.
    ///
    /// # Panics
    /// If the range is empty or not inside the block.
    pub fn slice(&self, from: Index, through: Index) -> EntryBlock {
        assert!(
            self.first <= from && from <= through && through <= self.last().index,
            "slice {from}..={through} of block {self}"
        );
        if from == self.first && through == self.last().index {
            return self.clone();
        }
        let mut at = BLOCK_HEADER_BYTES;
        let mut start = at;
        if !self.is_withheld() {
            for index in self.first..=through {
                if index == from {
                    start = at;
                }
                at += ENTRY_OVERHEAD_BYTES + u32_at(&self.bytes, at) as usize;
            }
        }
        let mut buf = Vec::with_capacity(BLOCK_HEADER_BYTES + at - start);
        buf.resize(BLOCK_HEADER_BYTES, 0);
        buf.extend_from_slice(&self.bytes[start..at]);
        let count = (through - from + 1) as u32;
        seal(buf, count, LogId::new(self.term, from), self.kind, self.codec)
    }
}

/// The payloads of a block; see [`EntryBlock::entries`].
#[derive(Debug)]
pub struct Entries<'a> {
    block: &'a EntryBlock,
    at: usize,
    left: u32,
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(&self.block.bytes[self.block.payload(&mut self.at)])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Entries<'_> {}

impl fmt::Display for EntryBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.first)?;
        if self.count > 1 {
            write!(f, "..{}", self.last().index)?;
        }
        match self.kind {
            EntryKind::Noop => f.write_str(" noop"),
            EntryKind::Configuration => f.write_str(" config"),
            _ if self.is_withheld() => f.write_str(" withheld"),
            EntryKind::Command => Ok(()),
            EntryKind::Session => f.write_str(" session"),
        }
    }
}

impl fmt::Debug for EntryBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryBlock({self}, {} bytes)", self.bytes.len())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(payloads: &[&[u8]]) -> EntryBlock {
        let mut batch = Batch::new(3);
        for p in payloads {
            batch.push(p);
        }
        batch.seal(LogId::new(4, 10))
    }

    #[test]
    fn round_trip_and_slice() {
        let b = block(&[b"a", b"", b"ccc"]);
        assert_eq!(b.last(), LogId::new(4, 12));
        assert_eq!(EntryBlock::from_bytes(b.bytes().clone()).unwrap(), b);
        let s = b.slice(11, 12);
        assert_eq!((s.first(), s.count(), s.codec()), (11, 2, 3));
        assert_eq!(s.entries().collect::<Vec<_>>(), [&b""[..], b"ccc"]);
        assert_eq!(EntryBlock::from_bytes(s.bytes().clone()).unwrap(), s);
        assert_eq!(b.slice(10, 12), b);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for b in [block(&[b"hello", b"world"]), block(&[b"hello", b"world"]).withheld()] {
            for i in 0..b.bytes().len() * 8 {
                let mut bytes = b.bytes().to_vec();
                bytes[i / 8] ^= 1 << (i % 8);
                assert!(EntryBlock::from_bytes(bytes.into()).is_err(), "bit {i}");
            }
        }
    }

    #[test]
    fn withheld_commands_keep_their_place_and_nothing_else() {
        let b = block(&[b"a", b"", b"ccc"]);
        let w = b.withheld();
        assert_eq!((w.first(), w.last(), w.count(), w.codec()), (10, b.last(), 3, 3));
        assert!(w.is_withheld() && !b.is_withheld());
        assert_eq!((w.entries().count(), w.bytes().len()), (0, BLOCK_HEADER_BYTES));
        assert_eq!(EntryBlock::from_bytes(w.bytes().clone()).unwrap(), w);
        let s = w.slice(11, 12);
        assert_eq!((s.first(), s.count(), s.is_withheld()), (11, 2, true));
        assert_eq!(s, b.slice(11, 12).withheld());
        assert_eq!(w.withheld(), w);
        // What is not a command is no secret, and has to be known.
        let noop = EntryBlock::noop(LogId::new(4, 10));
        assert_eq!(noop.withheld(), noop);
        let mut bytes = w.bytes().to_vec();
        bytes[32] = EntryKind::Noop.code();
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let refused = EntryBlock::from_bytes(bytes.into());
        assert_eq!(refused, Err(BlockError::Malformed("withheld entries")));
    }

    #[test]
    fn every_cut_is_seen() {
        let b = block(&[b"hello", b"world"]);
        for cut in 0..b.bytes().len() {
            assert!(EntryBlock::from_bytes(b.bytes().slice(..cut)).is_err(), "cut {cut}");
        }
    }

    #[test]
    fn a_configuration_block_carries_its_membership() {
        let m = Membership::of_voters([(1, "a"), (2, "b")]).unwrap();
        let b = EntryBlock::configuration(LogId::new(0, 1), &m);
        let back = EntryBlock::from_bytes(b.bytes().clone()).unwrap();
        assert_eq!(back.membership(), Some(m));
    }

    #[test]
    fn a_sealed_lie_is_refused() {
        // The checksum fits, the content does not: what a buggy peer could send.
        let mut buf = vec![0; BLOCK_HEADER_BYTES];
        buf.extend_from_slice(&9u32.to_le_bytes());
        buf.extend_from_slice(b"short");
        let b = seal(buf, 1, LogId::new(1, 1), EntryKind::Command, 0);
        assert_eq!(EntryBlock::from_bytes(b.bytes), Err(BlockError::Malformed("entry length")));
        let mut buf = vec![0; BLOCK_HEADER_BYTES];
        buf.extend_from_slice(&0u32.to_le_bytes());
        let b = seal(buf, 1, LogId::new(u64::MAX, u64::MAX), EntryKind::Command, 0);
        assert_eq!(EntryBlock::from_bytes(b.bytes), Err(BlockError::Malformed("index")));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(EntryBlock::from_bytes(bytes.into()).is_err());
        }

        #[test]
        fn any_payloads_round_trip(
            payloads in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..50), 1..20),
            cut in any::<(u64, u64)>(),
        ) {
            let mut batch = Batch::new(1);
            for p in &payloads { batch.push(p); }
            let b = batch.seal(LogId::new(2, 7));
            prop_assert_eq!(
                b.entries().map(<[u8]>::to_vec).collect::<Vec<_>>(), payloads.clone());
            let mut shared = vec![Bytes::from("before")];
            b.share_entries(&mut shared);
            prop_assert!(shared[1..].iter().map(|e| e.to_vec()).eq(payloads.clone()));
            let n = payloads.len() as u64;
            let from = cut.0 % n;
            let to = from + cut.1 % (n - from);
            let s = b.slice(7 + from, 7 + to);
            prop_assert_eq!(
                s.entries().map(<[u8]>::to_vec).collect::<Vec<_>>(),
                payloads[from as usize..=to as usize].to_vec());
        }
    }
}
