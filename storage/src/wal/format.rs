//! The log to the byte: `docs/wal-format.md` draws what is written down here.
//!
//! All numbers are little-endian. A segment is a header and then batches, each one physical write;
//! a batch is a header and then records. Checksums begin with the segment's salt and with the place
//! of what they cover, so that intact bytes of another segment, another offset or another batch are
//! not intact here.

use bytes::Bytes;
use quorate_engine::{EntryBlock, GroupId, HardState, LogId, Membership, planted};

use crate::log::{Identity, LogOp};
use crate::state::LogState;

/// "QWS1": begins every segment.
pub const SEGMENT_MAGIC: u32 = 0x3153_5751;
/// "QWB1": begins every batch.
pub const BATCH_MAGIC: u32 = 0x3142_5751;
/// The version of the format, in every segment that this program makes.
pub const FORMAT_VERSION: u16 = 2;
/// The oldest version that this program reads. Version 1 had no configurations in headers and resets.
pub const OLDEST_FORMAT_VERSION: u16 = 1;
/// Length of a segment's header without its groups.
pub const SEGMENT_HEADER_BYTES: usize = 72;
/// Length of one group in a segment's header without its configurations.
pub const GROUP_BYTES: usize = 88;
/// Length of one configuration in a segment's header without its membership.
pub const CONFIGURATION_BYTES: usize = 24;
/// Length of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 32;
/// Length of a record's header.
pub const RECORD_HEADER_BYTES: usize = 24;
/// Batches and records begin at multiples of this.
pub const ALIGN: usize = 8;

/// What a record says; the number stands in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// The group's identity.
    Identity = 1,
    /// The group's hard state.
    HardState = 2,
    /// A block of entries, byte for byte.
    Append = 3,
    /// Entries are no longer needed.
    Compact = 4,
    /// The log begins anew behind a snapshot.
    Reset = 5,
    /// Everything before it is durable.
    Seal = 6,
    /// The log goes on in another segment.
    Next = 7,
}

const SEGMENT_REUSED: u8 = 1;
const GROUP_HAS_IDENTITY: u32 = 1;
const GROUP_HAS_VOTED: u32 = 2;
const GROUP_IS_WITNESS: u32 = 4;

/// Length of a reset's body without its membership.
const RESET_BYTES: usize = 32;

/// The room a seal takes.
pub(super) const SEAL_BYTES: u64 = (BATCH_HEADER_BYTES + RECORD_HEADER_BYTES) as u64;
/// The room the end of a segment takes.
pub(super) const NEXT_BYTES: u64 = SEAL_BYTES + 8;

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// `bytes` rounded up to where the next batch or record begins.
pub(super) fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// The checksums of one segment.
#[derive(Clone, Debug)]
pub(super) struct Salt(crc32fast::Hasher);

impl Salt {
    pub(super) fn new(salt: u64, segment: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        if !planted::on("recycled-segment-keeps-salt") {
            hasher.update(&salt.to_le_bytes());
            hasher.update(&segment.to_le_bytes());
        }
        Self(hasher)
    }

    /// The checksum of `bytes` at `place`: for a batch its offset, for a record the sequence number
    /// of its batch and its own number in it.
    fn crc(&self, place: [u64; 2], bytes: &[u8]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(&place[0].to_le_bytes());
        hasher.update(&place[1].to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// What a segment begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) version: u16,
    /// Whether the file held another segment before: what is unreadable behind the last batch may be
    /// what is left of that.
    pub(super) reused: bool,
    pub(super) number: u64,
    pub(super) salt: u64,
    /// Drawn once for the directory: segments of two logs don't mix.
    pub(super) log: u64,
    /// Length of the file, durable before its name is.
    pub(super) length: u64,
    /// Where the segment before ends, everything below durable; 0 in the first.
    pub(super) previous_end: u64,
    /// Sequence number of the batch that ends the segment before; 0 in the first.
    pub(super) previous_sequence: u64,
    /// Every group that has a state: in order of id.
    pub(super) groups: Vec<(GroupId, GroupHeader)>,
}

/// The state of one group where a segment begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub(super) identity: Option<Identity>,
    pub(super) hard_state: HardState,
    pub(super) compacted: LogId,
    pub(super) last: LogId,
    /// All of the log, and the one in force where it begins; none in version 1.
    pub(super) configurations: Vec<(LogId, Membership)>,
}

impl GroupHeader {
    /// The state as a header of format `version` says it.
    pub(super) fn of(state: &LogState, version: u16) -> Self {
        let now = &state.now;
        Self {
            identity: now.identity,
            hard_state: Some(now.hard_state)
                .filter(|_| !planted::on("segment-without-vote"))
                .unwrap_or_default(),
            compacted: now.compacted,
            last: now.last,
            configurations: Some(&now.configurations)
                .filter(|_| version > 1 && !planted::on("header-without-configurations"))
                .cloned()
                .unwrap_or_default(),
        }
    }

    fn decode(group: &[u8]) -> Result<(Self, usize), &'static str> {
        const ENDS: &str = "a segment header that ends inside a group";
        if group.len() < GROUP_BYTES {
            return Err(ENDS);
        }
        let flags = u32_at(group, 8);
        let mut header = Self {
            identity: (flags & GROUP_HAS_IDENTITY != 0).then(|| Identity {
                node: u64_at(group, 16),
                incarnation: u64_at(group, 24),
                cluster: u64_at(group, 32),
            }),
            hard_state: HardState {
                term: u64_at(group, 40),
                voted_for: (flags & GROUP_HAS_VOTED != 0).then(|| u64_at(group, 48)),
                witness: flags & GROUP_IS_WITNESS != 0,
            },
            compacted: LogId::new(u64_at(group, 56), u64_at(group, 64)),
            last: LogId::new(u64_at(group, 72), u64_at(group, 80)),
            configurations: Vec::new(),
        };
        let mut at = GROUP_BYTES;
        for _ in 0..u32_at(group, 12) {
            let configuration = group.get(at..).unwrap_or_default();
            if configuration.len() < CONFIGURATION_BYTES {
                return Err(ENDS);
            }
            let id = LogId::new(u64_at(configuration, 0), u64_at(configuration, 8));
            let end = CONFIGURATION_BYTES + u32_at(configuration, 16) as usize;
            let bytes = configuration.get(CONFIGURATION_BYTES..end).ok_or(ENDS)?;
            let membership = Membership::from_bytes(bytes)
                .map_err(|_| "a segment header with a configuration that is none")?;
            header.configurations.push((id, membership));
            at += align(end);
        }
        Ok((header, at))
    }

    /// Adds the group to a segment's header.
    fn encode(&self, group: GroupId, header: &mut Vec<u8>) {
        let start = header.len();
        header.resize(start + GROUP_BYTES, 0);
        let out = &mut header[start..];
        let mut flags = 0;
        put_u64(out, 0, group);
        if let Some(identity) = self.identity {
            flags |= GROUP_HAS_IDENTITY;
            put_u64(out, 16, identity.node);
            put_u64(out, 24, identity.incarnation);
            put_u64(out, 32, identity.cluster);
        }
        put_u64(out, 40, self.hard_state.term);
        if let Some(candidate) = self.hard_state.voted_for {
            flags |= GROUP_HAS_VOTED;
            put_u64(out, 48, candidate);
        }
        if self.hard_state.witness {
            flags |= GROUP_IS_WITNESS;
        }
        put_u32(out, 8, flags);
        put_u32(out, 12, self.configurations.len() as u32);
        put_u64(out, 56, self.compacted.term);
        put_u64(out, 64, self.compacted.index);
        put_u64(out, 72, self.last.term);
        put_u64(out, 80, self.last.index);
        for (id, membership) in &self.configurations {
            let membership = membership.to_bytes();
            let start = header.len();
            header.resize(start + CONFIGURATION_BYTES, 0);
            let out = &mut header[start..];
            put_u64(out, 0, id.term);
            put_u64(out, 8, id.index);
            put_u32(out, 16, membership.len() as u32);
            header.extend_from_slice(&membership);
            header.resize(align(header.len()), 0);
        }
    }
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; SEGMENT_HEADER_BYTES];
        put_u32(&mut out, 0, SEGMENT_MAGIC);
        out[12..14].copy_from_slice(&self.version.to_le_bytes());
        out[14..16].copy_from_slice(&u16::from(self.reused).to_le_bytes());
        put_u64(&mut out, 16, self.number);
        put_u64(&mut out, 24, self.salt);
        put_u64(&mut out, 32, self.log);
        put_u64(&mut out, 40, self.length);
        put_u64(&mut out, 48, self.previous_end);
        put_u64(&mut out, 56, self.previous_sequence);
        put_u32(&mut out, 64, self.groups.len() as u32);
        for (group, state) in &self.groups {
            state.encode(*group, &mut out);
        }
        let length = out.len() as u32;
        put_u32(&mut out, 8, length);
        let crc = crc32fast::hash(&out[8..]);
        put_u32(&mut out, 4, crc);
        out
    }

    /// Where the batches begin in a segment whose header, which begins `bytes`, is intact.
    pub(super) fn end(bytes: &[u8]) -> usize {
        align(u32_at(bytes, 8) as usize)
    }

    /// Reads the header that begins `bytes`.
    ///
    /// # Errors
    /// What is wrong, for a message.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err("the file ends inside the segment header".into());
        }
        if u32_at(bytes, 0) != SEGMENT_MAGIC {
            return Err("no segment header".into());
        }
        let length = u32_at(bytes, 8) as usize;
        if length < SEGMENT_HEADER_BYTES || length > bytes.len() {
            return Err("a segment header of impossible length".into());
        }
        if crc32fast::hash(&bytes[8..length]) != u32_at(bytes, 4) {
            return Err("the checksum of the segment header does not fit".into());
        }
        let version = u16::from_le_bytes([bytes[12], bytes[13]]);
        if !(OLDEST_FORMAT_VERSION..=FORMAT_VERSION).contains(&version) {
            return Err(format!(
                "format version {version}, this program reads {OLDEST_FORMAT_VERSION} to \
                 {FORMAT_VERSION}"
            ));
        }
        let mut groups = Vec::new();
        let mut at = SEGMENT_HEADER_BYTES;
        for _ in 0..u32_at(bytes, 64) {
            let (group, taken) = GroupHeader::decode(&bytes[at..length])?;
            groups.push((u64_at(bytes, at), group));
            at += taken;
        }
        if at != length {
            return Err("a segment header whose groups do not fit its length".into());
        }
        Ok(Self {
            version,
            reused: bytes[14] & SEGMENT_REUSED != 0,
            number: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            log: u64_at(bytes, 32),
            length: u64_at(bytes, 40),
            previous_end: u64_at(bytes, 48),
            previous_sequence: u64_at(bytes, 56),
            groups,
        })
    }
}

/// What a batch begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    /// Of the whole batch.
    pub(super) length: u32,
    pub(super) records: u32,
    /// One more than that of the batch before, over all segments.
    pub(super) sequence: u64,
    /// Everything in the segment below this offset was durable when the batch was written.
    pub(super) durable: u64,
}

impl BatchHeader {
    /// Reads the header of a batch at `offset`, which begins `bytes`.
    ///
    /// # Errors
    /// What is wrong, for a message.
    pub(super) fn decode(bytes: &[u8], salt: &Salt, offset: u64) -> Result<Self, &'static str> {
        if bytes.len() < BATCH_HEADER_BYTES {
            return Err("the file ends inside a batch header");
        }
        if u32_at(bytes, 0) != BATCH_MAGIC {
            return Err("no batch header");
        }
        if salt.crc([offset, 0], &bytes[8..BATCH_HEADER_BYTES]) != u32_at(bytes, 4) {
            return Err("the checksum of a batch header does not fit");
        }
        Ok(Self {
            length: u32_at(bytes, 8),
            records: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            durable: u64_at(bytes, 24),
        })
    }
}

/// One batch on its way to the disk.
pub(super) struct BatchWriter<'a> {
    buffer: &'a mut Vec<u8>,
    salt: &'a Salt,
    sequence: u64,
    records: u32,
}

impl<'a> BatchWriter<'a> {
    /// Begins a batch in `buffer`, which is emptied and keeps its memory.
    pub(super) fn new(buffer: &'a mut Vec<u8>, salt: &'a Salt, sequence: u64) -> Self {
        buffer.clear();
        buffer.resize(BATCH_HEADER_BYTES, 0);
        Self { buffer, salt, sequence, records: 0 }
    }

    /// Adds a change; the answer is where its body begins in the batch.
    pub(super) fn op(&mut self, group: GroupId, op: &LogOp) -> usize {
        let mut body = [0; 24];
        match op {
            LogOp::Identity(identity) => {
                put_u64(&mut body, 0, identity.node);
                put_u64(&mut body, 8, identity.incarnation);
                put_u64(&mut body, 16, identity.cluster);
                self.record(RecordKind::Identity, group, &body)
            }
            LogOp::HardState(hard_state) => {
                put_u64(&mut body, 0, hard_state.term);
                let HardState { voted_for, witness, .. } = *hard_state;
                put_u64(&mut body, 8, u64::from(voted_for.is_some()) | u64::from(witness) << 1);
                put_u64(&mut body, 16, voted_for.unwrap_or(0));
                self.record(RecordKind::HardState, group, &body)
            }
            LogOp::Append(block) => self.record(RecordKind::Append, group, block.bytes()),
            LogOp::Compact { through } => {
                put_u64(&mut body, 0, through.term);
                put_u64(&mut body, 8, through.index);
                self.record(RecordKind::Compact, group, &body[..16])
            }
            LogOp::Reset { to, configuration: (at, membership) } => {
                let mut body = vec![0; RESET_BYTES];
                put_u64(&mut body, 0, to.term);
                put_u64(&mut body, 8, to.index);
                put_u64(&mut body, 16, at.term);
                put_u64(&mut body, 24, at.index);
                body.extend_from_slice(&membership.to_bytes());
                self.record(RecordKind::Reset, group, &body)
            }
        }
    }

    pub(super) fn seal(&mut self) {
        self.record(RecordKind::Seal, 0, &[]);
    }

    pub(super) fn next(&mut self, segment: u64) {
        self.record(RecordKind::Next, 0, &segment.to_le_bytes());
    }

    fn record(&mut self, kind: RecordKind, group: GroupId, body: &[u8]) -> usize {
        let start = self.buffer.len();
        let mut header = [0; RECORD_HEADER_BYTES];
        put_u32(&mut header, 4, body.len() as u32);
        put_u64(&mut header, 8, group);
        header[16] = kind as u8;
        self.buffer.extend_from_slice(&header);
        self.buffer.extend_from_slice(body);
        self.buffer.resize(align(self.buffer.len()), 0);
        let place = [self.sequence, u64::from(self.records)];
        let crc = self.salt.crc(place, &self.buffer[start + 4..]);
        put_u32(self.buffer, start, crc);
        self.records += 1;
        start + RECORD_HEADER_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Completes the header for the batch's place in the segment.
    pub(super) fn finish(self, offset: u64, durable: u64) {
        let length = self.buffer.len() as u32;
        put_u32(self.buffer, 0, BATCH_MAGIC);
        put_u32(self.buffer, 8, length);
        put_u32(self.buffer, 12, self.records);
        put_u64(self.buffer, 16, self.sequence);
        put_u64(self.buffer, 24, durable);
        let crc = self.salt.crc([offset, 0], &self.buffer[8..BATCH_HEADER_BYTES]);
        put_u32(self.buffer, 4, crc);
    }
}

/// The most bytes that `op` takes in a batch.
pub(super) fn op_bytes(op: &LogOp) -> u64 {
    let body = match op {
        LogOp::Append(block) => block.bytes().len(),
        LogOp::Reset { configuration: (_, membership), .. } => {
            RESET_BYTES + membership.to_bytes().len()
        }
        _ => 24,
    };
    (RECORD_HEADER_BYTES + align(body)) as u64
}

/// One record, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Op(GroupId, LogOp),
    Seal,
    Next { segment: u64 },
}

/// Why a batch can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The bytes are not what was written, or were never written.
    Broken(String),
    /// The bytes are what was written, by a program that this one does not understand.
    Senseless(String),
}

/// Reads the records of the batch in `bytes`, with the offset of each body in them.
///
/// # Errors
/// [`Unreadable`], with what is wrong, for a message.
pub(super) fn decode_records(
    bytes: &Bytes,
    salt: &Salt,
    header: &BatchHeader,
) -> Result<Vec<(usize, Record)>, Unreadable> {
    let broken = |what: &str| Err(Unreadable::Broken(what.into()));
    let senseless = |what: &str| Err(Unreadable::Senseless(what.into()));
    let mut records = Vec::new();
    let mut at = BATCH_HEADER_BYTES;
    for number in 0..header.records {
        if bytes.len() - at < RECORD_HEADER_BYTES {
            return broken("a batch ends inside a record header");
        }
        let length = u32_at(bytes, at + 4) as usize;
        let body = at + RECORD_HEADER_BYTES;
        if length > bytes.len() - body || align(length) > bytes.len() - body {
            return broken("a record is longer than its batch");
        }
        let end = body + align(length);
        let place = [header.sequence, u64::from(number)];
        let fits = salt.crc(place, &bytes[at + 4..end]) == u32_at(bytes, at);
        if !fits && !planted::on("torn-tail-accepted") {
            return broken("the checksum of a record does not fit");
        }
        let group = u64_at(bytes, at + 8);
        let content = bytes.slice(body..body + length);
        let log_id = |bytes: &[u8]| LogId::new(u64_at(bytes, 0), u64_at(bytes, 8));
        let record = match (bytes[at + 16], length) {
            (kind, 24) if kind == RecordKind::Identity as u8 => Record::Op(
                group,
                LogOp::Identity(Identity {
                    node: u64_at(&content, 0),
                    incarnation: u64_at(&content, 8),
                    cluster: u64_at(&content, 16),
                }),
            ),
            (kind, 24) if kind == RecordKind::HardState as u8 => {
                let flags = u64_at(&content, 8);
                if flags > 3 {
                    return senseless("a hard state with flags of another version");
                }
                Record::Op(
                    group,
                    LogOp::HardState(HardState {
                        term: u64_at(&content, 0),
                        voted_for: (flags & 1 != 0).then(|| u64_at(&content, 16)),
                        witness: flags & 2 != 0,
                    }),
                )
            }
            (kind, _) if kind == RecordKind::Append as u8 => {
                match EntryBlock::from_bytes(content) {
                    Ok(block) => Record::Op(group, LogOp::Append(block)),
                    Err(e) => return Err(Unreadable::Senseless(e.to_string())),
                }
            }
            (kind, 16) if kind == RecordKind::Compact as u8 => {
                Record::Op(group, LogOp::Compact { through: log_id(&content) })
            }
            (kind, RESET_BYTES..) if kind == RecordKind::Reset as u8 => {
                let membership = Membership::from_bytes(&content[RESET_BYTES..])
                    .map_err(|e| Unreadable::Senseless(e.to_string()))?;
                let configuration = (log_id(&content[16..]), membership);
                Record::Op(group, LogOp::Reset { to: log_id(&content), configuration })
            }
            (kind, 0) if kind == RecordKind::Seal as u8 => Record::Seal,
            (kind, 8) if kind == RecordKind::Next as u8 => {
                Record::Next { segment: u64_at(&content, 0) }
            }
            (kind, length) => {
                return Err(Unreadable::Senseless(format!(
                    "a record of unknown kind {kind} and length {length}"
                )));
            }
        };
        records.push((body, record));
        at = end;
    }
    if at != bytes.len() {
        return senseless("bytes behind the last record of a batch");
    }
    Ok(records)
}
