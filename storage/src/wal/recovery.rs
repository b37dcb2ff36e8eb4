//! From files to state: what survived, and whether it can be trusted.
//!
//! [`replay`] only reads, and decides; [`repair`] makes the tail durable and clean before anything
//! is written behind it. A crash at any moment leaves one of few pictures, all listed in
//! `docs/wal-format.md`; whatever looks otherwise is damage and is refused, with its place, because
//! a node that goes on without entries it acknowledged can lose what the cluster committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{EntryBlock, GroupId, planted};

use super::disk::{Disk, write_zeros};
use super::format::{GroupHeader, Record, SegmentHeader};
use super::scan::{End, Scan, last_written, scan};
use super::segment::{self, Files, Location, Segment, corrupt, failed};
use crate::log::{LogOp, Recovered, StorageError};
use crate::state::{LogState, Spans};

/// A group as its records leave it.
pub(super) struct ReplayedGroup {
    pub(super) state: LogState,
    pub(super) spans: Spans<Location>,
}

/// A directory as it stands.
pub(super) struct Replayed {
    pub(super) groups: BTreeMap<GroupId, ReplayedGroup>,
    /// In order, without `unbegun`.
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    /// Where the log ends; `None` if there is no segment yet.
    pub(super) tail: Option<Tail>,
    /// Files that wait to be segments again.
    pub(super) spares: Vec<String>,
    /// A newest segment that was created and never used: the crash came before the one in front of
    /// it was ended. It goes, and is created again when it is needed.
    unbegun: Option<u64>,
    unfinished: Vec<String>,
}

/// The end of the log.
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    /// The identity that all segments of this log carry.
    pub(super) log: u64,
    pub(super) scan: Scan,
    bytes: Bytes,
    /// The batch that ends the segment before, where it is.
    before: Option<(Arc<Segment>, u64, Bytes)>,
}

impl Tail {
    /// The last batch, where it is.
    fn last_batch(&self) -> Option<(Arc<Segment>, u64, Bytes)> {
        let start = self.scan.last_batch?;
        let batch = &self.bytes[start as usize..self.scan.end as usize];
        // Copied: a slice would keep the whole segment in memory.
        Some((Arc::clone(&self.segment), start, Bytes::copy_from_slice(batch)))
    }
}

/// Reads a whole directory without changing anything.
///
/// # Errors
/// [`StorageError::Corrupt`] with the place, or a failed read.
pub(super) fn replay(disk: &dyn Disk) -> Result<Replayed, StorageError> {
    let Files { segments: numbers, spares, unfinished } =
        segment::list(disk).map_err(|e| failed(disk, "listing the files", &e))?;
    let mut replayed = Replayed {
        groups: BTreeMap::new(),
        segments: BTreeMap::new(),
        tail: None,
        spares,
        unbegun: None,
        unfinished,
    };
    let mut previous: Option<(SegmentHeader, Scan)> = None;
    for (i, &number) in numbers.iter().enumerate() {
        let (segment, header, bytes) = segment::read(disk, number)?;
        let refuse = |what: &str| Err(corrupt(disk, number, 0, what));
        match &previous {
            None => replayed.begin(disk, &header)?,
            Some((previous, end)) => {
                if number != previous.number + 1 {
                    return refuse(&format!("segment {} is missing", previous.number + 1));
                }
                if header.log != previous.log {
                    return refuse("it belongs to another log");
                }
                if end.ended != End::Next(number) {
                    // The one before was not ended: then this one was not begun, and the one
                    // before is whole up to where this one's header says.
                    let begun = scan(&bytes, &header, |_, _, _| Ok(()))
                        .map_or(true, |scan| scan.last_batch.is_some());
                    if begun || i + 1 != numbers.len() || end.end != header.previous_end {
                        let what = match &end.ended {
                            End::Torn(what) => what,
                            End::Clean | End::Stale => "the segment has no end",
                            End::Next(_) => "the segment ends with a wrong number",
                        };
                        return Err(corrupt(disk, previous.number, end.end, what));
                    }
                    replayed.unbegun = Some(number);
                    break;
                }
                if end.last_batch != Some(header.previous_end)
                    || end.sequence != header.previous_sequence
                {
                    return refuse("its header does not continue the segment before");
                }
                if header.groups != replayed.headers(header.version) {
                    return refuse("the groups in its header are not what the log before it says");
                }
            }
        }
        let scan =
            scan(&bytes, &header, |offset, _, records| replayed.apply(&segment, offset, records))
                .map_err(|damage| corrupt(disk, number, damage.offset, &damage.what))?;
        replayed.segments.insert(number, Arc::clone(&segment));
        let before = replayed.tail.as_ref().and_then(Tail::last_batch);
        let log = header.log;
        replayed.tail = Some(Tail { segment, log, scan: scan.clone(), bytes, before });
        previous = Some((header, scan));
    }
    if let Some((header, Scan { ended: End::Next(next), .. })) = &previous {
        let what = format!("segment {next}, in which the log goes on, is missing");
        return Err(corrupt(disk, header.number, header.length, &what));
    }
    replayed.check(disk)?;
    Ok(replayed)
}

impl Replayed {
    /// Takes over the states of the oldest segment's header.
    fn begin(&mut self, disk: &dyn Disk, header: &SegmentHeader) -> Result<(), StorageError> {
        let from_nothing = header.previous_end == 0 && header.previous_sequence == 0;
        if (header.number == 1) != from_nothing || (header.number == 1 && !header.groups.is_empty())
        {
            return Err(corrupt(disk, header.number, 0, "the first segment follows another"));
        }
        for (group, at) in &header.groups {
            let now = Recovered {
                identity: at.identity,
                hard_state: at.hard_state,
                compacted: at.compacted,
                last: at.last,
                runs: Vec::new(),
                configurations: at.configurations.clone(),
            };
            // Entries in segments that are gone: some later record compacts them, or they are
            // missed.
            let missing = at.last.index > at.compacted.index;
            let missing_through = if missing { at.last.index } else { 0 };
            let state = LogState { now, missing_through };
            self.groups.insert(*group, ReplayedGroup { state, spans: Spans::new(at.compacted) });
        }
        Ok(())
    }

    /// The states as the header of a segment of format `version` gives them.
    fn headers(&self, version: u16) -> Vec<(GroupId, GroupHeader)> {
        self.groups
            .iter()
            .map(|(group, replayed)| (*group, GroupHeader::of(&replayed.state, version)))
            .filter(|(_, header)| *header != GroupHeader::default())
            .collect()
    }

    /// Applies the batch at `offset` of `segment`.
    ///
    /// # Errors
    /// What makes no sense in it, for a message.
    fn apply(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        records: Vec<(usize, Record)>,
    ) -> Result<(), String> {
        let mut by_group: BTreeMap<GroupId, (Vec<LogOp>, Vec<u64>)> = BTreeMap::new();
        for (body, record) in records {
            if let Record::Op(group, op) = record {
                let (ops, places) = by_group.entry(group).or_default();
                ops.push(op);
                places.push(offset + body as u64);
            }
        }
        for (id, (ops, places)) in by_group {
            let group = self.groups.entry(id).or_insert_with(|| ReplayedGroup {
                state: LogState::default(),
                spans: Spans::new(Default::default()),
            });
            group.state.check(&ops).map_err(|what| format!("group {id}: {what}"))?;
            for (op, offset) in ops.iter().zip(places) {
                group.state.apply(op);
                group.spans.apply(op, |block: &EntryBlock| Location {
                    segment: Arc::clone(segment),
                    offset,
                    bytes: block.bytes().len() as u32,
                });
            }
        }
        Ok(())
    }

    /// What can be said only when everything is read.
    fn check(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let Some(oldest) = self.segments.keys().next() else { return Ok(()) };
        for (id, ReplayedGroup { state, .. }) in &self.groups {
            let what = if state.missing_through != 0 {
                let (first, last) = (state.now.compacted.index + 1, state.missing_through);
                format!("entries {first} to {last} of group {id} are in no segment before it")
            } else if let Err(what) = state.check(&[]) {
                format!("group {id}: {what}")
            } else {
                continue;
            };
            return Err(corrupt(disk, *oldest, 0, &what));
        }
        Ok(())
    }
}

/// Makes the directory what [`replay`] says it is, durably: nothing may be written, and nothing
/// that was read may be acted upon, before this has returned.
///
/// The process before this one may have died between a write and its sync, or after a sync that
/// failed: then what was read stands in the page cache alone, and a later sync would not save it.
/// So the last batch is written again, which makes it the disk's business once more. In front of
/// a segment without batches that is the one that ends the segment before: were it lost once the
/// next segment is begun, the log would look damaged. Behind the last batch everything becomes zero,
/// the remains of a torn write and those of an earlier segment in the same file: what is there later
/// was written later.
///
/// # Errors
/// Those of the disk.
pub(super) fn repair(disk: &dyn Disk, replayed: &Replayed) -> Result<(), StorageError> {
    (|| {
        for name in &replayed.unfinished {
            disk.remove(name)?;
        }
        if let Some(number) = replayed.unbegun {
            disk.remove(&segment::name(number))?;
        }
        // Also the names that were there: the process before may have died before this call.
        disk.sync_dir()?;
        let Some(tail) = &replayed.tail else { return Ok(()) };
        let last_batch = tail.last_batch();
        let in_tail = last_batch.is_some();
        let again = last_batch.or_else(|| tail.before.clone());
        let again = again.filter(|_| !planted::on("page-cache-trusted"));
        if let Some((segment, start, batch)) = again {
            segment.file.write_at(&batch, start)?;
            if !in_tail {
                segment.file.sync()?;
            }
        }
        let rest = &tail.bytes[tail.scan.end as usize..];
        // What is left of an earlier segment in the file may be as long as the file.
        let remains = last_written(rest).map_or(0, |last| last + 1);
        write_zeros(&*tail.segment.file, tail.scan.end..tail.scan.end + remains as u64)?;
        tail.segment.file.sync()
    })()
    .map_err(|e| failed(disk, "repairing the end of the log", &e))
}

#[cfg(test)]
mod tests {
    use quorate_engine::{Batch, HardState, LogId, Membership};

    use super::*;
    use crate::wal::FakeDisk;
    use crate::wal::format::{BatchWriter, FORMAT_VERSION, Salt, align};

    /// A directory of one segment, `number`, that begins with `groups` and holds one batch of `ops`
    /// for group 1, all checksums right.
    fn made_by_hand(
        number: u64,
        groups: Vec<(GroupId, GroupHeader)>,
        ops: &[LogOp],
    ) -> Result<Replayed, StorageError> {
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            reused: false,
            number,
            salt: 1,
            log: 2,
            length: 4096,
            previous_end: if number == 1 { 0 } else { 512 },
            previous_sequence: if number == 1 { 0 } else { 7 },
            groups,
        };
        let mut bytes = header.encode();
        let at = align(bytes.len());
        let salt = Salt::new(1, number);
        let mut buffer = Vec::new();
        let mut batch = BatchWriter::new(&mut buffer, &salt, header.previous_sequence + 1);
        for op in ops {
            batch.op(1, op);
        }
        batch.finish(at as u64, at as u64);
        bytes.resize(at, 0);
        bytes.extend(buffer);
        bytes.resize(4096, 0);
        let image = BTreeMap::from([(segment::name(number), bytes)]);
        replay(&FakeDisk::from_image(image, 0).mount())
    }

    fn append(term: u64, first: u64) -> LogOp {
        let mut batch = Batch::new(1);
        batch.push(b"x");
        LogOp::Append(batch.seal(LogId::new(term, first)))
    }

    fn hard_state(term: u64) -> LogOp {
        LogOp::HardState(HardState::new(term, None))
    }

    fn refused(found: Result<Replayed, StorageError>) -> String {
        match found {
            Err(StorageError::Corrupt(what)) => what,
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("recovered"),
        }
    }

    #[test]
    fn a_log_present_and_its_hard_state_absent_is_refused() {
        assert!(made_by_hand(1, vec![], &[hard_state(3), append(3, 1)]).is_ok());
        let what = refused(made_by_hand(1, vec![], &[append(3, 1)]));
        assert!(what.contains("hard state"), "{what}");
        let last = LogId::new(3, 1);
        let lost = GroupHeader { compacted: last, last, ..GroupHeader::default() };
        refused(made_by_hand(2, vec![(1, lost)], &[]));
    }

    #[test]
    fn intact_records_that_make_no_sense_are_refused() {
        let membership = Membership::of_voters([(1, "a")]).unwrap();
        let configuration = (LogId::new(0, 1), membership);
        let senseless = [
            vec![hard_state(3), append(3, 2)],
            vec![hard_state(3), append(3, 1), append(2, 2)],
            vec![hard_state(3), hard_state(2)],
            vec![LogOp::Compact { through: LogId::new(0, 5) }],
            vec![LogOp::Reset { to: LogId::new(0, u64::MAX), configuration }],
        ];
        for ops in senseless {
            refused(made_by_hand(1, vec![], &ops));
        }
    }

    #[test]
    fn a_header_that_continues_nothing_is_refused() {
        let last = LogId::new(0, 9);
        let with_entries = GroupHeader { last, ..GroupHeader::default() };
        let groups = || vec![(1, with_entries.clone())];
        let what = refused(made_by_hand(1, groups(), &[hard_state(1)]));
        assert!(what.contains("follows another"), "{what}");
        // Entries in a segment that is gone, unless what is left compacts them.
        let what = refused(made_by_hand(2, groups(), &[hard_state(1)]));
        assert!(what.contains("entries 1 to 9 of group 1"), "{what}");
        let compact = LogOp::Compact { through: last };
        assert!(made_by_hand(2, groups(), &[compact]).is_ok());
    }
}
