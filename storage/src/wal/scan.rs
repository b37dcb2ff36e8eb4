//! Reading one segment: which batches stand in it, and why there are no more.
//!
//! The same walk serves recovery and the dump, so both see the same log. Where it ends is decided
//! here. A batch that can't be read is the torn remains of the last write if nothing readable
//! comes behind it: the writer syncs each batch before it writes the next, so whatever stands
//! behind a batch proves that the batch was durable. Then it is damage.

use bytes::Bytes;
use quorate_engine::planted;

use super::format::{
    ALIGN, BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, Record, Salt, SegmentHeader, Unreadable,
    align, decode_records, u32_at,
};

/// Why a segment has no more batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing was written behind the last one.
    Clean,
    /// The last one says so: the log goes on in that segment.
    Next(u64),
    /// What is there is the rest of a write that was never completed.
    Torn(String),
    /// Nothing that can be read was written behind the last one, in a file that held another segment
    /// before: what is there is what is left of that, or the rest of a write.
    Stale,
}

/// What a segment holds.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    /// Where the last readable batch ends.
    pub(super) end: u64,
    /// Where it begins; `None` if there is none.
    pub(super) last_batch: Option<u64>,
    /// Its sequence number, or that of the batch before the segment.
    pub(super) sequence: u64,
    /// Whether it is a seal.
    pub(super) sealed: bool,
    pub(super) ended: End,
}

/// Bytes that were durable and can't be read, or can be read and make no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) what: String,
}

/// Walks over the batches of the segment in `bytes`, behind its header, and hands each to `visit`
/// with its offset, its header and its records (with the offset of each body in the batch).
///
/// # Errors
/// [`Damage`], also where `visit` finds that a batch makes no sense.
pub(super) fn scan(
    bytes: &Bytes,
    header: &SegmentHeader,
    mut visit: impl FnMut(u64, &BatchHeader, Vec<(usize, Record)>) -> Result<(), String>,
) -> Result<Scan, Damage> {
    let salt = Salt::new(header.salt, header.number);
    let mut at = SegmentHeader::end(bytes);
    let mut scan = Scan {
        end: at as u64,
        last_batch: None,
        sequence: header.previous_sequence,
        sealed: false,
        ended: End::Clean,
    };
    while at < bytes.len() {
        let offset = at as u64;
        let damage = |what: String| Damage { offset, what };
        let (batch, records) = match read_batch(bytes, &salt, at) {
            Ok(found) => found,
            Err(Unreadable::Senseless(what)) => return Err(damage(what)),
            Err(Unreadable::Broken(what)) => {
                let later = find_batch(bytes, &salt, at + ALIGN, scan.sequence);
                if let Some(later) = later.filter(|_| !planted::on("damage-taken-for-torn")) {
                    return Err(damage(format!("{what}, and a batch at {later} is intact")));
                }
                if let Some(last) = bytes[at..].iter().rposition(|byte| *byte != 0) {
                    // An intact header with broken records was certainly written here.
                    let ours = BatchHeader::decode(&bytes[at..], &salt, offset).is_ok();
                    let stale = header.reused && !ours;
                    scan.ended = if stale { End::Stale } else { End::Torn(what) };
                    if planted::on("torn-tail-left") {
                        scan.end = align(at + last + 1) as u64;
                    }
                }
                return Ok(scan);
            }
        };
        if batch.sequence != scan.sequence + 1 || batch.durable > offset {
            let (got, after) = (batch.sequence, scan.sequence);
            let what = format!("batch {got} after {after}, durable up to {}", batch.durable);
            return Err(damage(what));
        }
        at += batch.length as usize;
        scan.end = at as u64;
        scan.last_batch = Some(offset);
        scan.sequence = batch.sequence;
        scan.sealed = records.iter().all(|(_, record)| *record == Record::Seal);
        let next = records.iter().find_map(|(_, record)| match record {
            Record::Next { segment } => Some(*segment),
            _ => None,
        });
        visit(offset, &batch, records).map_err(damage)?;
        if let Some(segment) = next {
            scan.ended = End::Next(segment);
            return Ok(scan);
        }
    }
    Ok(scan)
}

type Batch = (BatchHeader, Vec<(usize, Record)>);

fn read_batch(bytes: &Bytes, salt: &Salt, at: usize) -> Result<Batch, Unreadable> {
    let header = BatchHeader::decode(&bytes[at..], salt, at as u64)
        .map_err(|what| Unreadable::Broken(what.into()))?;
    let length = header.length as usize;
    // The header is intact, so this is what was written; and the room for a batch is always there
    // before it is written.
    if length < BATCH_HEADER_BYTES || length % ALIGN != 0 || length > bytes.len() - at {
        return Err(Unreadable::Senseless(format!("a batch of {length} bytes")));
    }
    let records = decode_records(&bytes.slice(at..at + length), salt, &header)?;
    Ok((header, records))
}

/// The offset of the first intact header, from `at` on, of a batch that comes after number `sequence`.
///
/// What is left of an earlier segment has lower numbers. The salt tells it apart already, but a file
/// may hold a million of its batches, and a checksum of 32 bits is too short for that many chances.
fn find_batch(bytes: &Bytes, salt: &Salt, at: usize, sequence: u64) -> Option<u64> {
    (at..bytes.len().saturating_sub(BATCH_HEADER_BYTES - 1))
        .step_by(ALIGN)
        .filter(|at| u32_at(bytes, *at) == BATCH_MAGIC)
        .map(|at| at as u64)
        .find(|at| {
            let header = BatchHeader::decode(&bytes[*at as usize..], salt, *at);
            header.is_ok_and(|header| header.sequence > sequence)
        })
}
