//! A log directory as it stands, for people: every batch, every record, and where it ends.

use std::fmt;

use super::disk::Disk;
use super::format::{Record, RecordKind};
use super::recovery::replay;
use super::scan::{End, scan};
use super::segment::{self, failed};
use crate::log::{LogOp, StorageError};
use quorate_engine::{EntryKind, GroupId};

/// What [`inspect`] found.
#[derive(Debug)]
pub struct Inspection {
    /// Every segment that has a header.
    pub segments: Vec<SegmentReport>,
    /// Why opening the log would be refused, if it would.
    pub damage: Option<StorageError>,
}

/// One segment.
#[derive(Debug)]
pub struct SegmentReport {
    /// Its number, which is also its file's name.
    pub number: u64,
    /// Length of the file.
    pub length_bytes: u64,
    /// The state of each group where the segment begins, as text.
    pub groups: Vec<(GroupId, String)>,
    /// The readable batches, in order.
    pub batches: Vec<BatchReport>,
    /// Where valid data ends.
    pub end: u64,
    /// Why it ends there.
    pub reason: String,
}

/// One batch: a physical write.
#[derive(Debug)]
pub struct BatchReport {
    /// Where in the segment.
    pub offset: u64,
    /// Length in bytes.
    pub length_bytes: u64,
    /// Its number in the log.
    pub sequence: u64,
    /// Everything in the segment below this offset was durable when it was written.
    pub durable: u64,
    /// Its records, in order.
    pub records: Vec<RecordReport>,
}

/// One record.
#[derive(Debug)]
pub struct RecordReport {
    /// Where its body is in the segment.
    pub offset: u64,
    /// Whose it is; `None` for the log's own.
    pub group: Option<GroupId>,
    /// What it is.
    pub kind: RecordKind,
    /// What it says, as text.
    pub detail: String,
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RecordKind::Identity => "identity",
            RecordKind::HardState => "hard state",
            RecordKind::Append => "append",
            RecordKind::Compact => "compact",
            RecordKind::Reset => "reset",
            RecordKind::Seal => "seal",
            RecordKind::Next => "next",
        })
    }
}

/// Reads the log on `disk` without locking or changing anything: open the directory with
/// [`RealDisk::read_only`](super::RealDisk::read_only). A log that is written meanwhile may look
/// torn, or even damaged, where it is being written.
///
/// # Errors
/// When a file can't be read. Damage is part of the answer.
pub fn inspect(disk: &dyn Disk) -> Result<Inspection, StorageError> {
    let files = segment::list(disk).map_err(|e| failed(disk, "listing the files", &e))?;
    let mut segments = Vec::new();
    for number in files.segments {
        let (segment, header, bytes) = match segment::read(disk, number) {
            Ok(found) => found,
            // Reported by the replay below, unless an earlier segment is worse.
            Err(StorageError::Corrupt(_)) => continue,
            Err(e) => return Err(e),
        };
        let mut batches = Vec::new();
        let found = scan(&bytes, &header, |offset, batch, records| {
            let records = records.iter().map(|(body, record)| report(offset, *body, record));
            batches.push(BatchReport {
                offset,
                length_bytes: u64::from(batch.length),
                sequence: batch.sequence,
                durable: batch.durable,
                records: records.collect(),
            });
            Ok(())
        });
        let (end, reason) = match found {
            Ok(scan) => {
                let reason = match scan.ended {
                    End::Clean | End::Stale => {
                        let sealed = if scan.sealed { "sealed, " } else { "" };
                        let stale = scan.ended == End::Stale;
                        let but = if stale { " but what the file held before" } else { "" };
                        format!("{sealed}nothing behind it{but}")
                    }
                    End::Next(next) => format!("goes on in segment {next}"),
                    End::Torn(what) => format!("a torn write, to be cut off: {what}"),
                };
                (scan.end, reason)
            }
            Err(damage) => (damage.offset, format!("DAMAGED: {}", damage.what)),
        };
        let groups = header
            .groups
            .iter()
            .map(|(group, at)| {
                let (compacted, last) = (at.compacted, at.last);
                let mut state = format!("{}, log {compacted}..{last}", at.hard_state);
                for (id, membership) in &at.configurations {
                    state += &format!(", configuration {id} {membership}");
                }
                (*group, state)
            })
            .collect();
        let length_bytes = segment.length;
        segments.push(SegmentReport { number, length_bytes, groups, batches, end, reason });
    }
    let damage = match replay(disk) {
        Ok(_) => None,
        Err(damage @ StorageError::Corrupt(_)) => Some(damage),
        Err(e) => return Err(e),
    };
    Ok(Inspection { segments, damage })
}

fn report(batch: u64, body: usize, record: &Record) -> RecordReport {
    let (group, kind, detail) = match record {
        Record::Op(group, op) => {
            let (kind, detail) = describe(op);
            (Some(*group), kind, detail)
        }
        Record::Seal => (None, RecordKind::Seal, "all before it is durable".into()),
        Record::Next { segment } => (None, RecordKind::Next, format!("segment {segment}")),
    };
    RecordReport { offset: batch + body as u64, group, kind, detail }
}

fn describe(op: &LogOp) -> (RecordKind, String) {
    match op {
        LogOp::Identity(identity) => {
            let (node, cluster) = (identity.node, identity.cluster);
            let detail =
                format!("node {node} incarnation {:016x} cluster {cluster}", identity.incarnation);
            (RecordKind::Identity, detail)
        }
        LogOp::HardState(hard_state) => (RecordKind::HardState, hard_state.to_string()),
        LogOp::Append(block) => {
            let kind = match block.kind() {
                EntryKind::Noop => "no-op",
                EntryKind::Command => "command",
                EntryKind::Configuration => "configuration",
                EntryKind::Session => "session",
            };
            let mut range = format!("{}.{}", block.term(), block.first());
            if block.count() > 1 {
                range += &format!("..{}", block.last().index);
            }
            let entries = if block.count() == 1 { "entry" } else { "entries" };
            let (count, bytes) = (block.count(), block.bytes().len());
            let mut detail = format!("{range} {kind} {count} {entries} {bytes} bytes");
            if let Some(membership) = block.membership() {
                detail += &format!(" {membership}");
            }
            (RecordKind::Append, detail)
        }
        LogOp::Compact { through } => (RecordKind::Compact, format!("through {through}")),
        LogOp::Reset { to, configuration: (at, membership) } => {
            (RecordKind::Reset, format!("to {to}, configuration {at} {membership}"))
        }
    }
}
