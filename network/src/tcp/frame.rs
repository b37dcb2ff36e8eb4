//! Frames: how messages stand in the stream of a connection.
//!
//! ```text
//!  0  u32  N: length of the body
//!  4  u32  CRC-32 of the body
//!  8       body: one envelope (see the wire form), or nothing
//! 8+N      the next frame
//! ```
//! Both numbers are little-endian. A frame without a body is a probe: "everything before this, have
//! you taken it?". The receiver answers each with a frame without a body, and says nothing else.
//!
//! Kernels keep accepting bytes for a peer that is gone, for minutes, so a successful write says
//! nothing about the other side. The probe does, and it is what makes a connection that leads
//! nowhere end within seconds of a partition instead of after the retransmission timeouts of TCP.
//!
//! A length is judged before a byte of memory is set aside for it, and memory grows with what
//! arrives, not with what is announced. After a wrong checksum the position in the stream can't be
//! trusted, so every error here ends the connection.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::codec::Decoder;

use crate::message::{Envelope, NetworkError};
use crate::wire::{MAX_HEADER_BYTES, Pieces};

/// Length of what stands before the body.
const HEAD_BYTES: usize = 8;

/// A frame without a body: the probe, and the answer to it.
pub(super) const PROBE: [u8; HEAD_BYTES] = [0; HEAD_BYTES];

/// As much memory as is set aside at once for a frame that has not arrived yet.
const RESERVE_BYTES: usize = 1 << 20;

/// Room for what is read at once: for many frames, so that few calls of the kernel bring them. A connection
/// that has little to say keeps the smaller buffer that it began with.
const READ_BYTES: usize = 32 << 10;

/// With less room than that there is to be more before the next read.
const LITTLE_BYTES: usize = 2 << 10;

/// Why a stream is not one of frames.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The connection broke, or ended within a frame.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// More than this side takes.
    #[error("a frame of {bytes} bytes announced, over the limit of {limit}")]
    TooLarge {
        /// What was announced.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Damaged on the way, or no frame at all.
    #[error("a frame whose checksum does not fit")]
    Checksum,
}

/// Cuts a stream into the bodies of its frames.
#[derive(Debug)]
pub(super) struct FrameDecoder {
    limit: usize,
}

impl FrameDecoder {
    /// Takes bodies of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit }
    }
}

impl Decoder for FrameDecoder {
    type Item = Bytes;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some((head, _)) = src.split_first_chunk::<HEAD_BYTES>() else {
            make_room(src, HEAD_BYTES);
            return Ok(None);
        };
        let (length, checksum) = read_head(head, self.limit)?;
        let missing = (HEAD_BYTES + length).saturating_sub(src.len());
        if missing > 0 {
            make_room(src, missing);
            return Ok(None);
        }
        let mut frame = src.split_to(HEAD_BYTES + length);
        frame.advance(HEAD_BYTES);
        verify(&frame, checksum)?;
        Ok(Some(frame.freeze()))
    }
}

/// Before a read of at least `missing` bytes.
fn make_room(src: &mut BytesMut, missing: usize) {
    let room = src.capacity() - src.len();
    if room < missing.clamp(LITTLE_BYTES, RESERVE_BYTES) {
        src.reserve(missing.clamp(READ_BYTES, RESERVE_BYTES));
    }
}

/// Reads one frame and not a byte more.
///
/// For the handshake, whose frames are tiny: sets memory aside for the whole body.
pub(super) async fn read_one(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Vec<u8>, FrameError> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let (length, checksum) = read_head(&head, limit)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    verify(&body, checksum)?;
    Ok(body)
}

/// One frame around `body`, which is far below 4 GiB.
pub(super) fn write_one(out: &mut Vec<u8>, body: &[u8]) {
    out.put_slice(&head(body.len(), crc32fast::hash(body)));
    out.put_slice(body);
}

fn head(length: usize, checksum: u32) -> [u8; HEAD_BYTES] {
    let length = u32::try_from(length).expect("frames are limited to less than 4 GiB");
    (u64::from(length) | u64::from(checksum) << 32).to_le_bytes()
}

fn read_head(head: &[u8; HEAD_BYTES], limit: usize) -> Result<(usize, u32), FrameError> {
    let head = u64::from_le_bytes(*head);
    let length = head as u32 as usize;
    if length > limit {
        return Err(FrameError::TooLarge { bytes: length, limit });
    }
    Ok((length, (head >> 32) as u32))
}

fn verify(body: &[u8], checksum: u32) -> Result<(), FrameError> {
    if crc32fast::hash(body) == checksum { Ok(()) } else { Err(FrameError::Checksum) }
}

/// Envelopes on their way into a stream, one frame each.
pub(super) struct Frames {
    pieces: Pieces,
    limit: usize,
}

/// An envelope that no frame may carry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    pub(super) bytes: usize,
    pub(super) limit: usize,
}

impl Frames {
    /// Builds bodies of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { pieces: Pieces::default(), limit }
    }

    /// Adds a frame around `envelope`, or nothing if it is over a limit.
    pub(super) fn push(&mut self, envelope: &Envelope) -> Result<(), TooLarge> {
        let Pieces { copied, shared } = &self.pieces;
        let (start, first_shared) = (copied.len(), shared.len());
        self.pieces.copied.put_bytes(0, HEAD_BYTES);
        let header_bytes = envelope.encode_into(&mut self.pieces);

        let Pieces { copied, shared } = &mut self.pieces;
        let payloads: usize = shared[first_shared..].iter().map(|(_, bytes)| bytes.len()).sum();
        let length = copied.len() - start - HEAD_BYTES + payloads;
        let too_large = if length > self.limit {
            Some(TooLarge { bytes: length, limit: self.limit })
        } else if header_bytes > MAX_HEADER_BYTES {
            Some(TooLarge { bytes: header_bytes, limit: MAX_HEADER_BYTES })
        } else {
            None
        };
        if let Some(too_large) = too_large {
            copied.truncate(start);
            shared.truncate(first_shared);
            return Err(too_large);
        }

        let mut checksum = crc32fast::Hasher::new();
        let mut at = start + HEAD_BYTES;
        for (turn, bytes) in &shared[first_shared..] {
            checksum.update(&copied[at..*turn]);
            checksum.update(bytes);
            at = *turn;
        }
        checksum.update(&copied[at..]);
        copied[start..start + HEAD_BYTES].copy_from_slice(&head(length, checksum.finalize()));
        Ok(())
    }

    /// Adds a probe.
    pub(super) fn push_probe(&mut self) {
        self.pieces.copied.put_slice(&PROBE);
    }

    /// The bytes of every frame, in pieces of which none is empty.
    pub(super) fn finish(self) -> Vec<Bytes> {
        self.pieces.finish()
    }
}

/// `envelopes` as they stand in the stream of a connection, for simulated ones.
///
/// # Errors
/// [`NetworkError::TooLarge`] if one of them is over `limit_bytes`.
pub fn to_frames(envelopes: &[Envelope], limit_bytes: usize) -> Result<Vec<u8>, NetworkError> {
    let mut frames = Frames::new(limit_bytes);
    for envelope in envelopes {
        frames
            .push(envelope)
            .map_err(|e| NetworkError::TooLarge { bytes: e.bytes, limit: e.limit })?;
    }
    Ok(frames.finish().concat())
}

/// What [`to_frames`] has put into `stream`.
///
/// # Errors
/// What a connection would end with: damage, or the end of the stream within a frame.
pub fn from_frames(stream: &[u8], limit_bytes: usize) -> io::Result<Vec<Envelope>> {
    let mut stream = BytesMut::from(stream);
    let mut envelopes = Vec::new();
    let mut decoder = FrameDecoder::new(limit_bytes);
    while let Some(body) = decoder.decode(&mut stream).map_err(io::Error::other)? {
        envelopes.push(Envelope::from_bytes(body).map_err(io::Error::other)?);
    }
    if stream.is_empty() { Ok(envelopes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use quorate_engine::message::{AppendEntries, Stranger};
    use quorate_engine::{Batch, LogId, Message as Raft};

    use super::*;
    use crate::message::Message;

    fn envelope(message: Raft) -> Envelope {
        let message = Message::Raft(message);
        Envelope { cluster: 1, group: 2, from: 3, to: 4, incarnation: 5, message }
    }

    fn small(refused: u64) -> Envelope {
        envelope(Raft::Stranger(Stranger { refused }))
    }

    fn large(bytes: usize) -> Envelope {
        let block = |index| {
            let mut batch = Batch::new(0);
            batch.push(&vec![index as u8; bytes]);
            batch.seal(LogId::new(1, index))
        };
        envelope(Raft::AppendEntries(AppendEntries {
            term: 1,
            session: 1,
            prev: LogId::ZERO,
            blocks: vec![block(1), block(2)],
            commit: 0,
            promise: std::time::Duration::ZERO,
            witness: false,
        }))
    }

    fn stream(frames: Frames) -> BytesMut {
        frames.finish().iter().flatten().copied().collect()
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let sent = [small(1), large(100_000), small(2), large(10)];
        let mut frames = Frames::new(1 << 20);
        for envelope in &sent {
            frames.push(envelope).unwrap();
        }
        frames.push_probe();
        let mut bytes = stream(frames);
        let mut decoder = FrameDecoder::new(1 << 20);
        for envelope in sent {
            let body = decoder.decode(&mut bytes).unwrap().unwrap();
            assert_eq!(Envelope::from_bytes(body).unwrap(), envelope);
        }
        assert_eq!(decoder.decode(&mut bytes).unwrap().unwrap(), Bytes::new());
        assert!(decoder.decode(&mut bytes).unwrap().is_none() && bytes.is_empty());
    }

    #[test]
    fn what_is_over_the_limit_leaves_no_trace() {
        let mut frames = Frames::new(1000);
        frames.push(&small(1)).unwrap();
        let TooLarge { bytes, limit: 1000 } = frames.push(&large(5000)).unwrap_err() else {
            panic!("another limit");
        };
        assert!(bytes > 10_000);
        assert!(frames.push(&large(600)).is_err());
        frames.push(&small(2)).unwrap();
        let mut only = Frames::new(1000);
        only.push(&small(1)).unwrap();
        only.push(&small(2)).unwrap();
        assert_eq!(stream(frames), stream(only));
    }

    #[test]
    fn an_announced_length_over_the_limit_sets_no_memory_aside() {
        let mut bytes = BytesMut::from(&[0xff; HEAD_BYTES][..]);
        let before = bytes.capacity();
        let refused = FrameDecoder::new(64 << 20).decode(&mut bytes);
        assert!(matches!(refused, Err(FrameError::TooLarge { bytes: 0xffff_ffff, .. })));
        assert_eq!(bytes.capacity(), before);
    }

    #[test]
    fn an_announced_length_within_the_limit_sets_little_aside() {
        let mut bytes = BytesMut::from(&head(64 << 20, 0)[..]);
        assert!(FrameDecoder::new(64 << 20).decode(&mut bytes).unwrap().is_none());
        assert!(bytes.capacity() <= 2 * RESERVE_BYTES);
    }

    #[test]
    fn a_read_has_room_for_many_frames() {
        let mut decoder = FrameDecoder::new(1 << 20);
        let room = |bytes: &BytesMut| bytes.capacity() - bytes.len();
        for begun in [&[][..], &[0; HEAD_BYTES - 1], &head(100, 0)] {
            let mut bytes = BytesMut::from(begun);
            assert!(decoder.decode(&mut bytes).unwrap().is_none());
            assert!(room(&bytes) >= READ_BYTES, "{begun:?}");
            let before = bytes.capacity();
            assert!(decoder.decode(&mut bytes).unwrap().is_none());
            assert_eq!(bytes.capacity(), before, "there is room already");
        }
        let mut little = BytesMut::with_capacity(LITTLE_BYTES);
        assert!(decoder.decode(&mut little).unwrap().is_none());
        assert_eq!(little.capacity(), LITTLE_BYTES, "a connection that says little stays small");
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_found() {
        let mut frames = Frames::new(1 << 20);
        frames.push(&small(1)).unwrap();
        let whole = stream(frames);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A longer length waits for more; nothing damaged comes out.
            assert!(!matches!(FrameDecoder::new(1 << 20).decode(&mut bytes), Ok(Some(_))));
        }
    }
}
