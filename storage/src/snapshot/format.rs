//! Snapshot files to the byte: `docs/snapshot-format.md` draws what is written down here.
//!
//! All numbers are little-endian. A header says what the snapshot covers, chunks of one size hold the
//! content, a footer says that it is complete. So the place of each chunk is known, any part of the
//! content can be read and checked by itself, and a file that ends early is seen at once. Each
//! checksum begins with the snapshot's nonce and with what it covers, so that an intact chunk of
//! another snapshot, or of another place, is not intact here.

use bytes::Bytes;
use prost::Message as _;
use quorate_engine::{LogId, Membership, planted};

use super::{SnapshotInfo, SnapshotMeta};

/// "QSN1": begins every snapshot.
pub const MAGIC: u32 = 0x314e_5351;
/// "QSE1": begins the footer.
pub const FOOTER_MAGIC: u32 = 0x3145_5351;
/// The version of the format, in every header.
pub const VERSION: u16 = 1;
/// Length of the header without the meta.
pub const HEADER_BYTES: usize = 24;
/// Content of a chunk; the last one may have less.
pub const CHUNK_BYTES: usize = 256 << 10;
/// The longest chunk that is read.
pub const MAX_CHUNK_BYTES: usize = 16 << 20;
/// Length of a chunk's own header.
pub const CHUNK_HEADER_BYTES: usize = 8;
/// Length of the footer.
pub const FOOTER_BYTES: usize = 24;

/// [`SnapshotMeta`] as it is written.
#[derive(Clone, PartialEq, prost::Message)]
struct WireMeta {
    #[prost(uint64, tag = "1")]
    last_term: u64,
    #[prost(uint64, tag = "2")]
    last_index: u64,
    #[prost(uint64, tag = "3")]
    configuration_term: u64,
    #[prost(uint64, tag = "4")]
    configuration_index: u64,
    /// As in a configuration entry.
    #[prost(bytes = "bytes", tag = "5")]
    membership: Bytes,
    #[prost(fixed64, tag = "6")]
    nonce: u64,
}

fn encode_meta(meta: &SnapshotMeta) -> Vec<u8> {
    let (at, membership) = &meta.configuration;
    let wire = WireMeta {
        last_term: meta.last.term,
        last_index: meta.last.index,
        configuration_term: at.term,
        configuration_index: at.index,
        membership: membership.to_bytes().into(),
        nonce: meta.nonce,
    };
    wire.encode_to_vec()
}

fn decode_meta(bytes: &[u8]) -> Result<SnapshotMeta, String> {
    let wire = WireMeta::decode(bytes).map_err(|e| format!("its meta: {e}"))?;
    let membership = Membership::from_bytes(&wire.membership).map_err(|e| e.to_string())?;
    let at = LogId::new(wire.configuration_term, wire.configuration_index);
    Ok(SnapshotMeta {
        last: LogId::new(wire.last_term, wire.last_index),
        configuration: (at, membership),
        nonce: wire.nonce,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The checksum of `bytes` at `place` (the number of a chunk) in the snapshot of `nonce`.
fn crc(nonce: u64, place: u64, bytes: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&nonce.to_le_bytes());
    hasher.update(&place.to_le_bytes());
    bytes.iter().for_each(|bytes| hasher.update(bytes));
    hasher.finalize()
}

/// Why bytes are not a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// They are not what was written.
    Damaged(String),
    /// They are of a version that this program does not know.
    Version(u16),
}

/// Makes a snapshot file of a snapshot's content, piece by piece, for any place it may go to.
///
/// The same bytes as the durable log's own files: what it makes can be kept as a backup, sent over any
/// connection, and read with [`open_file`](super::file::open_file). It keeps less than one chunk.
///
/// ```
/// use quorate_engine::{LogId, Membership};
/// use quorate_storage::snapshot::file::{self, Encoder};
/// use quorate_storage::{MemoryStorage, RaftStorage, SnapshotMeta};
///
/// // A snapshot in some node's store ...
/// let store = MemoryStorage::new().snapshots();
/// let membership = Membership::of_voters([(1, "one:7001")])?;
/// let last = LogId::new(3, 70);
/// let configuration = (LogId::new(0, 1), membership);
/// let mut writer = store.create(SnapshotMeta { last, configuration, nonce: 42 })?;
/// writer.append(b"the state")?;
/// writer.commit()?;
///
/// // ... becomes a file. `out` might as well be sent, and cleared, after each step.
/// let snapshot = store.open(last)?.expect("committed");
/// let mut out = Vec::new();
/// let mut encoder = Encoder::begin(&snapshot.info().meta, &mut out);
/// loop {
///     let piece = snapshot.read_at(encoder.written(), 64 << 10)?;
///     if piece.is_empty() {
///         break;
///     }
///     encoder.append(&piece, &mut out);
/// }
/// encoder.finish(&mut out);
///
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("backup.snap");
/// std::fs::write(&path, &out)?;
/// let backup = file::open_file(&path)?;
/// assert_eq!(backup.info(), snapshot.info());
/// assert_eq!(&backup.read_at(4, 100)?[..], b"state");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Encoder {
    meta: SnapshotMeta,
    /// The beginning of the next chunk's content.
    rest: Vec<u8>,
    /// Chunks that are complete.
    chunks: u64,
}

impl Encoder {
    /// Begins a snapshot, with its header at the end of `out`.
    pub fn begin(meta: &SnapshotMeta, out: &mut Vec<u8>) -> Self {
        let bytes = encode_meta(meta);
        let mut header = [0; HEADER_BYTES];
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(CHUNK_BYTES as u32).to_le_bytes());
        header[16..20].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        header[20..24].copy_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let crc = crc32fast::hash(&header[8..]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&bytes);
        Self { meta: meta.clone(), rest: Vec::new(), chunks: 0 }
    }

    /// Adds to the content. Chunks that it completes go to the end of `out`.
    pub fn append(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let (fits, more) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.rest.len()));
            self.rest.extend_from_slice(fits);
            if self.rest.len() == CHUNK_BYTES {
                self.chunk(out);
            }
            bytes = more;
        }
    }

    fn chunk(&mut self, out: &mut Vec<u8>) {
        let length = (self.rest.len() as u32).to_le_bytes();
        let crc = crc(self.meta.nonce, self.chunks, &[&length, &self.rest]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&length);
        out.append(&mut self.rest);
        self.chunks += 1;
    }

    /// How many bytes of content were appended.
    pub fn written(&self) -> u64 {
        self.chunks * CHUNK_BYTES as u64 + self.rest.len() as u64
    }

    /// Ends the snapshot, with the rest of its content and its footer at the end of `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) -> SnapshotInfo {
        let bytes = self.written();
        if !self.rest.is_empty() {
            self.chunk(out);
        }
        let mut footer = [0; FOOTER_BYTES];
        footer[0..4].copy_from_slice(&FOOTER_MAGIC.to_le_bytes());
        footer[8..16].copy_from_slice(&bytes.to_le_bytes());
        footer[16..24].copy_from_slice(&self.chunks.to_le_bytes());
        let crc = crc(self.meta.nonce, self.chunks, &[&footer[8..]]);
        footer[4..8].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&footer);
        SnapshotInfo { meta: self.meta, bytes }
    }
}

/// The fixed part of a header.
pub(crate) struct Header {
    chunk_bytes: u64,
    pub(crate) meta_bytes: usize,
    meta_crc: u32,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Unreadable> {
        let damaged = |what: &str| Err(Unreadable::Damaged(what.into()));
        if u32_at(bytes, 0) != MAGIC {
            return damaged("no snapshot header");
        }
        if crc32fast::hash(&bytes[8..]) != u32_at(bytes, 4) {
            return damaged("the checksum of the header does not fit");
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        let chunk_bytes = u32_at(bytes, 12);
        if !(1..=MAX_CHUNK_BYTES as u32).contains(&chunk_bytes) {
            return damaged("chunks of impossible length");
        }
        Ok(Self {
            chunk_bytes: u64::from(chunk_bytes),
            meta_bytes: u32_at(bytes, 16) as usize,
            meta_crc: u32_at(bytes, 20),
        })
    }
}

/// A complete snapshot file: what it covers, and where its content is.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) info: SnapshotInfo,
    chunk_bytes: u64,
    /// Where the first chunk begins.
    first: u64,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    number: u64,
    /// In the file, with its header.
    pub(crate) offset: u64,
    /// With its header.
    pub(crate) bytes: usize,
    /// Where its content begins in the snapshot's.
    pub(crate) content: u64,
}

impl Layout {
    /// The layout of a file of `length` bytes with this header, meta and footer.
    ///
    /// # Errors
    /// What is wrong, for a message: among others, that the file is not complete.
    pub(crate) fn decode(
        header: &Header,
        meta: &[u8],
        footer: &[u8; FOOTER_BYTES],
        length: u64,
    ) -> Result<Self, String> {
        if crc32fast::hash(meta) != header.meta_crc {
            return Err("the checksum of the meta does not fit".into());
        }
        let meta = decode_meta(meta)?;
        let (bytes, chunks) = (u64_at(footer, 8), u64_at(footer, 16));
        let crc = crc(meta.nonce, chunks, &[&footer[8..]]);
        if u32_at(footer, 0) != FOOTER_MAGIC || crc != u32_at(footer, 4) {
            return Err("no footer: the snapshot is not complete".into());
        }
        let first = (HEADER_BYTES + header.meta_bytes) as u64;
        let expected = chunks.checked_mul(CHUNK_HEADER_BYTES as u64).and_then(|headers| {
            headers.checked_add(bytes)?.checked_add(first + FOOTER_BYTES as u64)
        });
        if chunks != bytes.div_ceil(header.chunk_bytes) || expected != Some(length) {
            return Err(format!("{bytes} bytes in {chunks} chunks in a file of {length} bytes"));
        }
        Ok(Self { info: SnapshotInfo { meta, bytes }, chunk_bytes: header.chunk_bytes, first })
    }

    /// The chunk that holds the content at `offset`, `None` at the end and behind it.
    pub(crate) fn chunk_of(&self, offset: u64) -> Option<Chunk> {
        if offset >= self.info.bytes {
            return None;
        }
        let number = offset / self.chunk_bytes;
        let content = number * self.chunk_bytes;
        let bytes = self.chunk_bytes.min(self.info.bytes - content) as usize + CHUNK_HEADER_BYTES;
        let offset = self.first + number * (self.chunk_bytes + CHUNK_HEADER_BYTES as u64);
        Some(Chunk { number, offset, bytes, content })
    }

    /// The content of `chunk`, whose bytes in the file are `bytes`.
    ///
    /// # Errors
    /// What is wrong, for a message.
    pub(crate) fn content(&self, chunk: Chunk, bytes: Bytes) -> Result<Bytes, String> {
        let content = bytes.slice(CHUNK_HEADER_BYTES..);
        if u32_at(&bytes, 4) as usize != content.len() {
            return Err(format!("chunk {} has another length", chunk.number));
        }
        let crc = crc(self.info.meta.nonce, chunk.number, &[&bytes[4..]]);
        if crc != u32_at(&bytes, 0) && !planted::on("snapshot-not-checked") {
            return Err(format!("the checksum of chunk {} does not fit", chunk.number));
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta(nonce: u64) -> SnapshotMeta {
        let membership = Membership::of_voters([(1, "one"), (2, "two")]).unwrap();
        SnapshotMeta {
            last: LogId::new(3, 70),
            configuration: (LogId::new(2, 9), membership),
            nonce,
        }
    }

    fn encode(content: &[u8], nonce: u64, piece: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::begin(&meta(nonce), &mut out);
        content.chunks(piece).for_each(|piece| encoder.append(piece, &mut out));
        let info = encoder.finish(&mut out);
        assert_eq!(info, SnapshotInfo { meta: meta(nonce), bytes: content.len() as u64 });
        out
    }

    fn decode(file: &[u8]) -> Result<(Layout, Vec<u8>), String> {
        let damaged = |e| format!("{e:?}");
        let header = file.first_chunk().ok_or("too short")?;
        let header = Header::decode(header).map_err(damaged)?;
        let meta = file[HEADER_BYTES..].get(..header.meta_bytes).ok_or("too short")?;
        let footer = file.last_chunk().ok_or("too short")?;
        let layout = Layout::decode(&header, meta, footer, file.len() as u64)?;
        let mut content = Vec::new();
        while let Some(chunk) = layout.chunk_of(content.len() as u64) {
            let start = chunk.offset as usize;
            let bytes = Bytes::copy_from_slice(&file[start..start + chunk.bytes]);
            content.extend(layout.content(chunk, bytes)?);
        }
        Ok((layout, content))
    }

    #[test]
    fn what_goes_in_comes_out_however_it_is_cut() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5] {
            let content: Vec<u8> = (0..length).map(|i| (i * 7 + i / 255) as u8).collect();
            let file = encode(&content, 1, 100_000);
            assert!(file == encode(&content, 1, CHUNK_BYTES * 2), "cut in another way");
            let (layout, found) = decode(&file).unwrap();
            assert_eq!((layout.info.meta, layout.info.bytes), (meta(1), length as u64));
            assert!(found == content);
        }
    }

    #[test]
    fn every_flip_and_every_cut_is_seen() {
        let file = encode(b"some content", 1, 5);
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(decode(&file[..length]).is_err(), "cut to {length}");
        }
        assert!(decode(&[&file[..], &[0]].concat()).is_err(), "bytes behind the footer");
    }

    #[test]
    fn a_chunk_of_another_place_or_snapshot_is_none_of_this() {
        let content: Vec<u8> = (0..2 * CHUNK_BYTES).map(|i| i as u8 ^ (i >> 17) as u8).collect();
        let file = encode(&content, 1, CHUNK_BYTES);
        let chunks = file.len() - FOOTER_BYTES - 2 * (CHUNK_BYTES + CHUNK_HEADER_BYTES);
        let second = chunks + CHUNK_BYTES + CHUNK_HEADER_BYTES;
        let mut swapped = file.clone();
        let (one, two) = swapped.split_at_mut(second);
        one[chunks..].swap_with_slice(&mut two[..CHUNK_BYTES + CHUNK_HEADER_BYTES]);
        assert!(decode(&swapped).unwrap_err().contains("chunk 0"));
        let mut mixed = file.clone();
        mixed[second..].copy_from_slice(&encode(&content, 2, CHUNK_BYTES)[second..]);
        assert!(decode(&mixed).is_err());
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut file = encode(b"x", 1, 1);
        file[8] = 2;
        let crc = crc32fast::hash(&file[8..HEADER_BYTES]);
        file[4..8].copy_from_slice(&crc.to_le_bytes());
        assert!(decode(&file).unwrap_err().contains("Version(2)"));
    }

    proptest! {
        /// Whatever stands in header, meta and footer, past their checksums as well.
        #[test]
        fn random_numbers_never_panic(
            chunk_bytes in any::<u32>(), meta_bytes in any::<u32>(), length in any::<u64>(),
            bytes in any::<u64>(), chunks in any::<u64>(), meta in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut header = [0; HEADER_BYTES];
            header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
            header[8..10].copy_from_slice(&VERSION.to_le_bytes());
            header[12..16].copy_from_slice(&chunk_bytes.to_le_bytes());
            header[16..20].copy_from_slice(&meta_bytes.to_le_bytes());
            header[20..24].copy_from_slice(&crc32fast::hash(&meta).to_le_bytes());
            let sum = crc32fast::hash(&header[8..]);
            header[4..8].copy_from_slice(&sum.to_le_bytes());
            let Ok(header) = Header::decode(&header) else { return Ok(()) };
            let mut footer = [0; FOOTER_BYTES];
            footer[8..16].copy_from_slice(&bytes.to_le_bytes());
            footer[16..24].copy_from_slice(&chunks.to_le_bytes());
            let good = encode_meta(&super::tests::meta(5));
            let sum = crc(5, chunks, &[&footer[8..]]);
            footer[0..4].copy_from_slice(&FOOTER_MAGIC.to_le_bytes());
            footer[4..8].copy_from_slice(&sum.to_le_bytes());
            prop_assert!(Layout::decode(&header, &meta, &footer, length).is_err());
            let header = Header { meta_crc: crc32fast::hash(&good), ..header };
            if let Ok(layout) = Layout::decode(&header, &good, &footer, length) {
                prop_assert_eq!(layout.info.bytes, bytes);
            }
        }
    }
}
