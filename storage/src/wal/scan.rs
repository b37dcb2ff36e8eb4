//! Reading one segment: which batches stand in it, and why there are no more.
//!
//! The same walk serves recovery and the dump, so both see the same log. Where it ends is decided
//! here. A batch that can't be read is the torn remains of the last write if nothing readable
//! comes behind it: the writer syncs each batch before it writes the next, so whatever stands
//! behind a batch proves that the batch was durable. Then it is damage.

use bytes::Bytes;
use quorate_engine::planted;

use super::disk::ZEROS;
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
                if let Some(last) = last_written(&bytes[at..]) {
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

/// Where the last byte stands that is not zero. Most of the newest segment may be unused, so whole pieces
/// are compared, which takes a tenth of the time that it takes to look at each byte.
pub(super) fn last_written(bytes: &[u8]) -> Option<usize> {
    let mut begin = bytes.len();
    bytes.rchunks(ZEROS.len()).find_map(|piece| {
        begin -= piece.len();
        let written = *piece != ZEROS[..piece.len()];
        let last = || piece.iter().rposition(|byte| *byte != 0);
        written.then(last).flatten().map(|last| begin + last)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_that_was_written_is_found_wherever_it_stands() {
        let piece = ZEROS.len();
        for length in [0, 1, piece - 1, piece, piece + 1, 3 * piece + 7] {
            assert_eq!(last_written(&vec![0; length]), None);
            for at in [0, 1, 7, piece - 1, piece, 2 * piece, 3 * piece + 6] {
                let mut bytes = vec![0; length];
                let Some(byte) = bytes.get_mut(at) else { continue };
                *byte = 1;
                bytes[0] = 1;
                assert_eq!(last_written(&bytes), Some(at), "{at} of {length}");
            }
        }
    }
}
