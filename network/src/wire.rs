//! The wire form of an [`Envelope`], for every transport that carries bytes.
//!
//! Newer and older nodes talk to each other during a rolling upgrade, so what may change is
//! tagged, and what is large is not touched:
//!
//! ```text
//!  0  u16  magic "QE" (0x4551 little-endian)
//!  2  u16  version of this layout, 1
//!  4  u32  H: length of the header, at most 8 MiB
//!  8       header: tagged fields; addresses, and one message without its payloads
//!  8+H     payloads, in the order in which the header counts them, to the end of the envelope:
//!            AppendEntries        blocks, one directly after the other: a block says its length
//!            Introduce            one block
//!            InstallSnapshot      the part of the snapshot
//!            Forward, Forwarded,  per command or response: u32 length, then that many bytes
//!            Call, Called
//!            any other message    none
//! ```
//! All numbers are little-endian. The header is Protocol Buffers; its tags stand in
//! `wire/header.rs`, are written by hand and never reused. A field that this version does not know
//! is skipped, a missing one is 0. A message of a kind that this version does not know is
//! [`WireError::UnknownKind`]: the one error that says nothing against the sender.
//!
//! Payloads are shared, not copied: [`Envelope::encode`] gives large ones out as they are, for a
//! vectored write, and [`Envelope::from_bytes`] slices them out of what arrived. So a block that was
//! built on the leader stands in the follower's log byte for byte.
//!
//! Lengths and counts come from a peer and are believed only as far as bytes are there to back
//! them: nothing is allocated on the strength of a number. A block is checked, its checksum
//! included. The envelope has no checksum of its own; the TCP transport puts one on its frames, and
//! another transport must see to it that bytes arrive unaltered.

mod calls;
mod header;

use bytes::{BufMut, Bytes};
use prost::Message as _;
use quorate_engine::{BlockError, EntryBlock, NodeId};

use crate::message::{Envelope, Message};
use header::Header;

/// Length of what stands before the header.
const PREFIX_BYTES: usize = 8;

const MAGIC: u16 = 0x4551;
const VERSION: u16 = 1;

/// The longest header that is sent or read. Decoding turns two bytes of a header into at most some
/// fifty bytes of memory, and this bounds the product.
pub(crate) const MAX_HEADER_BYTES: usize = 8 << 20;

/// Payloads from this length on are shared with the encoded form, shorter ones copied: a separate
/// piece of a vectored write costs more than copying a few cache lines.
const SHARED_FROM_BYTES: usize = 4096;

/// The shortest block: one whose commands are withheld.
const MIN_BLOCK_BYTES: usize = quorate_engine::block::BLOCK_HEADER_BYTES;

/// Length of the number before each command or response.
const LENGTH_BYTES: usize = 4;

/// Why bytes are not an [`Envelope`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end before the envelope does.
    #[error("an envelope cut short")]
    Short,
    /// The bytes do not begin like an envelope.
    #[error("not an envelope")]
    Magic,
    /// Another layout.
    #[error("an envelope of layout {0}; this node knows layout {VERSION}")]
    Version(u16),
    /// The header is no header.
    #[error("an envelope whose header can't be read: {0}")]
    Header(String),
    /// A message of a newer release. The envelope is whole and everything else the sender says can
    /// be trusted; the message is as good as lost.
    #[error("a message from node {from} of a kind that this version does not know")]
    UnknownKind {
        /// The sender.
        from: NodeId,
    },
    /// A payload should be a block and is none, or is damaged.
    #[error("an envelope with a bad block: {0}")]
    Block(#[from] BlockError),
    /// The parts contradict each other.
    #[error("a malformed envelope: {0}")]
    Malformed(&'static str),
}

impl Envelope {
    /// The wire form in one piece. Copies the payloads; see [`Envelope::encode`].
    ///
    /// # Panics
    /// As [`Envelope::encode`].
    pub fn to_bytes(&self) -> Bytes {
        let parts = self.encode();
        if let [only] = &parts[..] {
            return only.clone();
        }
        parts.concat().into()
    }

    /// The wire form in pieces, to be written one after the other: headers and small payloads
    /// copied, large payloads shared with this envelope.
    ///
    /// For transports that can write several buffers at once.
    ///
    /// # Panics
    /// If one command or response is longer than 4 GiB, or if the message is of a kind that the
    /// engine has and this crate does not, which two crates of one release can't bring about.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut pieces = Pieces::default();
        self.encode_into(&mut pieces);
        pieces.finish()
    }

    /// Appends the wire form to `out` and returns the length of its header.
    pub(crate) fn encode_into(&self, out: &mut Pieces) -> usize {
        let header = Header::of(self);
        let header_bytes = header.encoded_len();
        out.copied.reserve(PREFIX_BYTES + header_bytes);
        out.copied.put_u16_le(MAGIC);
        out.copied.put_u16_le(VERSION);
        out.copied.put_u32_le(length(header_bytes));
        header.encode_raw(&mut out.copied);
        match &self.message {
            Message::Raft(quorate_engine::Message::AppendEntries(append)) => {
                for block in &append.blocks {
                    out.put(block.bytes());
                }
            }
            Message::Raft(quorate_engine::Message::Introduce(introduce)) => {
                out.put(introduce.configuration.bytes());
            }
            Message::Raft(quorate_engine::Message::InstallSnapshot(install)) => {
                out.put(&install.data);
            }
            Message::Raft(_) | Message::Order(_) | Message::Ordered(_) | Message::Digest(_) => {}
            Message::Forward(forward) => {
                for command in forward.writes.iter().flat_map(|write| &write.commands) {
                    out.put_sized(command);
                }
            }
            Message::Forwarded(forwarded) => {
                for response in forwarded.answers.iter().flat_map(|a| a.outcome.responses()) {
                    out.put_sized(response);
                }
            }
            Message::Call(call) => call.kind.commands().iter().for_each(|c| out.put_sized(c)),
            Message::Called(called) => {
                called.outcome.responses().iter().for_each(|r| out.put_sized(r));
            }
        }
        header_bytes
    }

    /// Reads what [`Envelope::to_bytes`] wrote, also in a newer or older release.
    ///
    /// `bytes` is exactly one envelope. Blocks, commands and responses share its memory, so it
    /// lives as long as any of them.
    ///
    /// # Errors
    /// When the bytes are cut, damaged, or of another version; see [`WireError`]. Never panics,
    /// whatever the bytes.
    pub fn from_bytes(mut bytes: Bytes) -> Result<Envelope, WireError> {
        let prefix = bytes.get(..PREFIX_BYTES).ok_or(WireError::Short)?;
        if u16::from_le_bytes([prefix[0], prefix[1]]) != MAGIC {
            return Err(WireError::Magic);
        }
        let version = u16::from_le_bytes([prefix[2], prefix[3]]);
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let header_bytes = u32_at(prefix, 4) as usize;
        if header_bytes > MAX_HEADER_BYTES {
            return Err(WireError::Malformed("a header over the limit"));
        }
        let mut payloads = bytes.split_off(PREFIX_BYTES);
        if payloads.len() < header_bytes {
            return Err(WireError::Short);
        }
        let header = payloads.split_to(header_bytes);
        let header =
            Header::decode(&header[..]).map_err(|error| WireError::Header(error.to_string()))?;
        let mut payloads = Payloads(payloads);
        let envelope = header.into_envelope(&mut payloads)?;
        if !payloads.0.is_empty() {
            return Err(WireError::Malformed("bytes behind the last payload"));
        }
        Ok(envelope)
    }
}

/// Encoded bytes, most of them in one buffer, large payloads between them shared.
#[derive(Default)]
pub(crate) struct Pieces {
    /// Everything that was copied, without gaps.
    pub(crate) copied: Vec<u8>,
    /// What was shared, each with the length of `copied` when its turn came. In order.
    pub(crate) shared: Vec<(usize, Bytes)>,
}

impl Pieces {
    fn put(&mut self, payload: &Bytes) {
        if payload.len() < SHARED_FROM_BYTES {
            self.copied.put_slice(payload);
        } else {
            self.shared.push((self.copied.len(), payload.clone()));
        }
    }

    fn put_sized(&mut self, payload: &Bytes) {
        self.copied.put_u32_le(length(payload.len()));
        self.put(payload);
    }

    /// The pieces in the order of the bytes, none of them empty.
    pub(crate) fn finish(self) -> Vec<Bytes> {
        let mut copied = Bytes::from(self.copied);
        let mut taken = 0;
        let mut parts = Vec::with_capacity(2 * self.shared.len() + 1);
        for (at, payload) in self.shared {
            if at > taken {
                parts.push(copied.split_to(at - taken));
                taken = at;
            }
            parts.push(payload);
        }
        if !copied.is_empty() {
            parts.push(copied);
        }
        parts
    }
}

/// The payloads of an envelope that are not yet taken.
struct Payloads(Bytes);

impl Payloads {
    /// The next `count` blocks.
    fn blocks(&mut self, count: u32) -> Result<Vec<EntryBlock>, WireError> {
        let count = self.backed(count, MIN_BLOCK_BYTES)?;
        let mut blocks = Vec::with_capacity(count);
        for _ in 0..count {
            blocks.push(self.block()?);
        }
        Ok(blocks)
    }

    /// The next block, checked.
    fn block(&mut self) -> Result<EntryBlock, WireError> {
        let length = EntryBlock::peek_length(&self.0)?;
        let bytes = self.take(length)?;
        Ok(EntryBlock::from_bytes(bytes)?)
    }

    /// The next `count` payloads with a length before each.
    fn sized(&mut self, count: u32) -> Result<Vec<Bytes>, WireError> {
        let count = self.backed(count, LENGTH_BYTES)?;
        let mut payloads = Vec::with_capacity(count);
        for _ in 0..count {
            let length = self.take(LENGTH_BYTES)?;
            let length = u32_at(&length, 0) as usize;
            payloads.push(self.take(length)?);
        }
        Ok(payloads)
    }

    /// `count`, once it is certain that so many payloads of at least `min_bytes` can be there.
    fn backed(&self, count: u32, min_bytes: usize) -> Result<usize, WireError> {
        let count = count as usize;
        if count > self.0.len() / min_bytes { Err(WireError::Short) } else { Ok(count) }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, WireError> {
        if length > self.0.len() {
            return Err(WireError::Short);
        }
        // An empty payload has no bytes to share, so it must not keep the buffer alive.
        Ok(if length == 0 { Bytes::new() } else { self.0.split_to(length) })
    }
}

/// A length or count as it stands on the wire.
fn length(n: usize) -> u32 {
    u32::try_from(n).expect("lengths and counts on the wire are below 2^32")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
