//! The one writer of a directory: takes what has arrived, writes it at once, syncs once.
//!
//! A plain struct without a thread or a clock. Whoever calls [`Writer::drain`] decides when, so the
//! log's own thread and a simulator run the same code. Every drain is one write and one sync, and
//! no drain begins before the one before is durable; recovery depends on that order.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use quorate_engine::{GroupId, LogId, planted};

use super::WalOptions;
use super::disk::{Disk, DiskLock, write_zeros};
use super::format::{
    BATCH_HEADER_BYTES, BatchWriter, FORMAT_VERSION, GroupHeader, NEXT_BYTES, SEAL_BYTES,
    SegmentHeader, align, op_bytes,
};
use super::recovery::{ReplayedGroup, repair, replay};
use super::segment::{self, LOCK_NAME, Location, MAX_SPARES, Segment, Spare, failed};
use super::snapshots::SnapshotFiles;
use crate::log::{LogOp, Recovered, StorageError, WriteBatch, WriteDone};
use crate::state::{LogState, Spans};

/// One write takes further batches until it has this many bytes.
const MAX_WRITE_BYTES: u64 = 8 << 20;

/// The most one batch may take: its length must fit into the format with room to spare.
const MAX_BATCH_BYTES: u64 = 1 << 30;

/// The buffer keeps no more memory than this when a large write is done.
const MAX_IDLE_BUFFER_BYTES: usize = 16 << 20;

/// How far ahead of the log its segment is laid out with zeros. The first write into room that was only
/// reserved changes metadata, which its sync has to write as well: with this it is one sync in many. Less
/// at a time would be more of those, more would make them longer.
const LAY_OUT_BYTES: u64 = 1 << 20;

/// One group, as its handles and readers know it.
pub(super) struct Group {
    pub(super) id: GroupId,
    /// What is durable, for readers. Locked for moments, never over a call of the disk.
    spans: Mutex<Spans<Location>>,
    pub(super) snapshots: Arc<SnapshotFiles>,
    /// Whether a handle has recovered this group and may write to it.
    pub(super) claimed: AtomicBool,
}

impl Group {
    pub(super) fn new(id: GroupId, spans: Spans<Location>) -> Arc<Self> {
        let (snapshots, claimed) = (Arc::default(), AtomicBool::new(false));
        Arc::new(Self { id, spans: Mutex::new(spans), snapshots, claimed })
    }

    pub(super) fn spans(&self) -> MutexGuard<'_, Spans<Location>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch on its way.
pub(super) struct Submitted {
    pub(super) group: Arc<Group>,
    pub(super) batch: WriteBatch,
    pub(super) done: WriteDone,
}

/// A batch that is done, one way or the other.
pub(super) type Outcome = (WriteDone, Result<(), StorageError>);

/// The writer's view of a group: ahead of the disk while a write is under way.
struct Written {
    group: Arc<Group>,
    state: LogState,
    /// The first batch that made no sense, for all behind it. The other groups go on.
    refused: Option<StorageError>,
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Batches made durable.
    pub batches: u64,
    /// Writes and syncs that took: the quotient is the size of the groups that commit together.
    pub writes: u64,
    /// Bytes written in them, with headers.
    pub bytes: u64,
}

/// See the module.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    log: u64,
    groups: BTreeMap<GroupId, Written>,
    /// All that exist, the current one last.
    segments: BTreeMap<u64, Arc<Segment>>,
    /// Oldest first.
    spares: Vec<Spare>,
    current: Arc<Segment>,
    /// Where the next batch goes; everything before is durable.
    end: u64,
    /// Up to where the current segment was written, if only with zeros. At least `end`.
    laid_out: u64,
    /// Of the last batch.
    sequence: u64,
    /// Whether nothing but a seal was written since the last seal.
    sealed: bool,
    poison: Option<StorageError>,
    buffer: Vec<u8>,
    /// Offsets of the bodies in `buffer`, one per change.
    bodies: Vec<usize>,
    pub(super) stats: WalStats,
    /// Held while the log is open, and by whoever changes something else in the directory.
    lock: Option<Arc<DiskLock>>,
}

impl Writer {
    /// Opens a directory: locks it, replays it, repairs its tail.
    ///
    /// # Errors
    /// As [`super::Wal::open`].
    pub(super) fn open(disk: Arc<dyn Disk>, options: WalOptions) -> Result<Self, StorageError> {
        let lock = match disk.lock(LOCK_NAME) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(StorageError::InUse(disk.describe())),
            Err(e) => return Err(failed(&*disk, "locking the directory", &e)),
        };
        let mut replayed = replay(&*disk)?;
        repair(&*disk, &replayed)?;
        let (current, log, end, sequence, sealed) = match replayed.tail.take() {
            Some(tail) => {
                let sealed = tail.scan.sealed || tail.scan.last_batch.is_none();
                (tail.segment, tail.log, tail.scan.end, tail.scan.sequence, sealed)
            }
            None => {
                let log = mix(options.seed, [0x4c4f_4721, 0]);
                let header = SegmentHeader {
                    version: FORMAT_VERSION,
                    reused: false,
                    number: 1,
                    salt: salt(&options, log, 1, 0),
                    log,
                    length: segment_length(&options, 0),
                    previous_end: 0,
                    previous_sequence: 0,
                    groups: Vec::new(),
                };
                let first = segment::create(&*disk, &header)?;
                replayed.segments.insert(1, Arc::clone(&first));
                (first, log, align(header.encode().len()) as u64, 0, true)
            }
        };
        let spares = open_spares(&*disk, &options, replayed.spares)?;
        let written = |(id, ReplayedGroup { state, spans })| {
            (id, Written { group: Group::new(id, spans), state, refused: None })
        };
        Ok(Self {
            disk,
            options,
            log,
            groups: replayed.groups.into_iter().map(written).collect(),
            segments: replayed.segments,
            spares,
            current,
            end,
            // Further perhaps: nobody knows what was only reserved.
            laid_out: end,
            sequence,
            sealed,
            poison: None,
            buffer: Vec::new(),
            bodies: Vec::new(),
            stats: WalStats::default(),
            lock: Some(Arc::new(lock)),
        })
    }

    pub(super) fn lock(&self) -> Weak<DiskLock> {
        self.lock.as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    /// The groups that the log holds.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.values().map(|written| &written.group)
    }

    /// The state of a group for a handle that begins with it.
    pub(super) fn recovered(&mut self, id: GroupId) -> Result<Recovered, StorageError> {
        if let Some(poison) = &self.poison {
            return Err(poison.clone());
        }
        Ok(self.groups.get_mut(&id).map_or_else(Recovered::default, |written| {
            written.refused = None;
            written.state.now.clone()
        }))
    }

    /// Nothing is written any more; everything gets this error.
    pub(super) fn fail(&mut self, error: StorageError) {
        self.poison.get_or_insert(error);
    }

    /// Makes what is in `queue` durable, up to the size of one write, with one write and one sync.
    /// Outcomes go to `outcomes` in the order of the queue.
    pub(super) fn drain(
        &mut self,
        queue: &mut VecDeque<Submitted>,
        outcomes: &mut VecDeque<Outcome>,
    ) {
        let mut bytes = BATCH_HEADER_BYTES as u64;
        let mut count = 0;
        for submitted in queue.iter() {
            let more: u64 = submitted.batch.ops.iter().map(op_bytes).sum();
            if count > 0 && bytes + more > MAX_WRITE_BYTES {
                break;
            }
            // One that is too large is refused below and takes no room.
            bytes += if more <= MAX_BATCH_BYTES { more } else { 0 };
            count += 1;
        }
        let work: Vec<Submitted> = queue.drain(..count).collect();
        let mut results = Vec::with_capacity(count);
        let written = match self.poison.clone() {
            Some(poison) => Err(poison),
            None => self.write(&work, bytes, &mut results),
        };
        if let Err(e) = written {
            // The first error is final, whichever it is: after a failed sync nobody knows what is
            // on the disk, and nothing may be written behind it.
            results.resize(work.len(), Ok(()));
            results.iter_mut().filter(|r| r.is_ok()).for_each(|r| *r = Err(e.clone()));
            if !planted::on("error-not-final") {
                self.fail(e);
            }
        }
        outcomes.extend(work.into_iter().zip(results).map(|(s, result)| (s.done, result)));
    }

    /// Writes `work`, which takes at most `bytes`; `results` says which batches were refused.
    fn write(
        &mut self,
        work: &[Submitted],
        bytes: u64,
        results: &mut Vec<Result<(), StorageError>>,
    ) -> Result<(), StorageError> {
        if work.iter().any(|submitted| !submitted.batch.ops.is_empty()) {
            self.make_room(bytes)?;
        }
        self.bodies.clear();
        let salt = &self.current.salt;
        let mut batch = BatchWriter::new(&mut self.buffer, salt, self.sequence + 1);
        for Submitted { group, batch: WriteBatch { ops }, .. } in work {
            let written = self.groups.entry(group.id).or_insert_with(|| Written {
                group: Arc::clone(group),
                state: LogState::default(),
                refused: None,
            });
            if let Err(e) = written.accept(ops) {
                results.push(Err(e));
                continue;
            }
            for op in ops {
                self.bodies.push(batch.op(group.id, op));
                written.state.apply(op);
            }
            results.push(Ok(()));
        }
        if batch.is_empty() {
            return Ok(());
        }
        batch.finish(self.end, self.end);
        let start = self.end;
        self.commit(false)?;
        self.stats.batches += results.iter().filter(|result| result.is_ok()).count() as u64;
        if self.publish(work, results, start) {
            self.reclaim()?;
        }
        self.buffer.shrink_to(MAX_IDLE_BUFFER_BYTES);
        Ok(())
    }

    /// Writes and syncs the batch in the buffer.
    fn commit(&mut self, sealed: bool) -> Result<(), StorageError> {
        let length = self.buffer.len() as u64;
        let end = self.end + length;
        assert!(end <= self.current.length, "room is made before a batch is written");
        let laid_out = if end <= self.laid_out {
            self.laid_out
        } else {
            (end + LAY_OUT_BYTES).min(self.current.length)
        };
        let file = &self.current.file;
        file.write_at(&self.buffer, self.end)
            .and_then(|()| write_zeros(&**file, self.laid_out.max(end)..laid_out))
            .and_then(|()| if planted::on("batch-not-synced") { Ok(()) } else { file.sync() })
            .or_else(|e| if planted::on("sync-retried") { file.sync() } else { Err(e) })
            .map_err(|e| self.failed("writing a batch", &e))?;
        self.end = end;
        self.laid_out = laid_out;
        self.sequence += 1;
        self.sealed = sealed;
        self.stats.writes += 1;
        self.stats.bytes += length;
        Ok(())
    }

    /// Shows readers what became durable in the batch at `start`. True if segments may have become
    /// free.
    fn publish(
        &self,
        work: &[Submitted],
        results: &[Result<(), StorageError>],
        start: u64,
    ) -> bool {
        let mut freed = false;
        let mut bodies = self.bodies.iter();
        for (Submitted { group, batch, .. }, result) in work.iter().zip(results) {
            if result.is_err() {
                continue;
            }
            let mut spans = group.spans();
            for (op, body) in batch.ops.iter().zip(&mut bodies) {
                freed |= matches!(op, LogOp::Compact { .. } | LogOp::Reset { .. });
                spans.apply(op, |block| Location {
                    segment: Arc::clone(&self.current),
                    offset: start + *body as u64,
                    bytes: block.bytes().len() as u32,
                });
            }
        }
        freed
    }

    /// Makes sure that a batch of `bytes` fits, and a seal and the end of the segment behind it.
    fn make_room(&mut self, bytes: u64) -> Result<(), StorageError> {
        if self.end + bytes + SEAL_BYTES + NEXT_BYTES <= self.current.length {
            return Ok(());
        }
        let number = self.current.number + 1;
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|(id, written)| (*id, GroupHeader::of(&written.state, FORMAT_VERSION)))
            .filter(|(_, header)| *header != GroupHeader::default())
            .collect();
        let mut header = SegmentHeader {
            version: FORMAT_VERSION,
            reused: false,
            number,
            salt: salt(&self.options, self.log, number, self.sequence),
            log: self.log,
            length: 0,
            previous_end: self.end,
            previous_sequence: self.sequence + 1,
            groups,
        };
        let first_batch = align(header.encode().len()) as u64;
        let needed = first_batch + bytes + SEAL_BYTES + NEXT_BYTES;
        header.length = segment_length(&self.options, needed);
        // The new one is whole and has its name before the old one points to it, and the old one's
        // end is durable before anything stands in the new one.
        let fits = |spare: &Spare| spare.length == header.length && !spare.is_read();
        let next = match self.spares.iter().position(fits) {
            Some(spare) => {
                header.reused = true;
                segment::reuse(&*self.disk, self.spares.remove(spare), &header)?
            }
            None => segment::create(&*self.disk, &header)?,
        };
        let mut batch = BatchWriter::new(&mut self.buffer, &self.current.salt, self.sequence + 1);
        batch.next(number);
        batch.finish(self.end, self.end);
        self.commit(true)?;
        self.segments.insert(number, Arc::clone(&next));
        self.current = next;
        self.end = first_batch;
        self.laid_out = if header.reused { header.length } else { first_batch };
        Ok(())
    }

    /// Takes the oldest segments out of the log if no group has an entry in them. A few are kept for
    /// the segments to come, the others are removed.
    fn reclaim(&mut self) -> Result<(), StorageError> {
        let oldest_needed = self
            .groups
            .values()
            .filter_map(|written| written.group.spans().oldest().map(|at| at.segment.number))
            .fold(self.current.number, u64::min);
        while let Some(oldest) = self.segments.first_entry().filter(|s| *s.key() < oldest_needed) {
            let oldest = oldest.remove();
            let keep =
                self.spares.len() < MAX_SPARES && oldest.length == segment_length(&self.options, 0);
            // One at a time: a crash may undo any changes of names that were not synced, and must
            // not leave a gap.
            (|| {
                if keep {
                    self.spares.push(segment::retire(&*self.disk, &oldest)?);
                } else {
                    self.disk.remove(&segment::name(oldest.number))?;
                }
                if planted::on("removals-not-synced") { Ok(()) } else { self.disk.sync_dir() }
            })()
            .map_err(|e| self.failed("removing a segment", &e))?;
        }
        Ok(())
    }

    /// Says that everything before is durable, so that later damage to it is not taken for a torn
    /// write. Called when the log is idle and when it closes; writes nothing if nothing has changed.
    pub(super) fn seal(&mut self) {
        if self.sealed || self.poison.is_some() || planted::on("no-seal") {
            return;
        }
        let mut batch = BatchWriter::new(&mut self.buffer, &self.current.salt, self.sequence + 1);
        batch.seal();
        batch.finish(self.end, self.end);
        if let Err(e) = self.commit(true) {
            self.fail(e);
        }
    }

    /// Seals the log and gives the directory back.
    pub(super) fn close(&mut self) {
        self.seal();
        self.fail(StorageError::Unusable("the log is closed".into()));
        self.lock = None;
    }

    fn failed(&self, what: &str, e: &io::Error) -> StorageError {
        failed(&*self.disk, what, e)
    }
}

impl Written {
    /// # Errors
    /// A batch that makes no sense here: the fault of whoever drives this group, and none of the
    /// other groups' business.
    fn accept(&mut self, ops: &[LogOp]) -> Result<(), StorageError> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let checked = if ops.iter().map(op_bytes).sum::<u64>() > MAX_BATCH_BYTES {
            Err(format!("a batch of more than {MAX_BATCH_BYTES} bytes"))
        } else {
            self.state.check(ops)
        };
        checked.map_err(|what| {
            let id = self.group.id;
            let error = StorageError::Unusable(format!("group {id}: refused to write: {what}"));
            self.refused = Some(error.clone());
            error
        })
    }
}

/// An empty group, for an id that the log has not seen.
pub(super) fn new_group(id: GroupId) -> Arc<Group> {
    Group::new(id, Spans::new(LogId::ZERO))
}

/// Whether this call gets the group; released by [`release`].
pub(super) fn claim(group: &Group) -> bool {
    !group.claimed.swap(true, Ordering::AcqRel)
}

pub(super) fn release(group: &Group) {
    group.claimed.store(false, Ordering::Release);
}

/// The spares of an earlier life: as many as are kept, of the length that is wanted. Others are
/// removed.
fn open_spares(
    disk: &dyn Disk,
    options: &WalOptions,
    names: Vec<String>,
) -> Result<Vec<Spare>, StorageError> {
    (|| {
        let mut spares = Vec::new();
        for name in names {
            let spare = segment::open_spare(disk, &name)?;
            if spares.len() < MAX_SPARES && spare.length == segment_length(options, 0) {
                spares.push(spare);
            } else {
                disk.remove(&name)?;
            }
        }
        Ok(spares)
    })()
    .map_err(|e| failed(disk, "opening a spare segment", &e))
}

/// The length of a new segment which must hold `needed` bytes.
fn segment_length(options: &WalOptions, needed: u64) -> u64 {
    options.segment_bytes.max(needed).max(MIN_SEGMENT_BYTES).next_multiple_of(4096)
}

const MIN_SEGMENT_BYTES: u64 = 4096;

/// A salt that no other segment of any log has: whoever writes entries must not be able to guess
/// it, or they could write what looks like a batch.
fn salt(options: &WalOptions, log: u64, number: u64, sequence: u64) -> u64 {
    mix(mix(options.seed, [log, number]), [sequence, 1])
}

/// Three numbers into one: splitmix64 over each.
fn mix(seed: u64, more: [u64; 2]) -> u64 {
    more.iter().fold(seed, |state, n| {
        let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ n;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}
