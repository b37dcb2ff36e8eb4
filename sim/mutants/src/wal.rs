//! Bugs of the durable log, which worlds of engines don't have: the real log on a disk that forgets,
//! against the log in memory.
//!
//! A seed is a life of one log: batches of several groups, syncs that fail, crashes that keep
//! everything, nothing, or any sectors of what was not synced; and at its end a flipped bit. After
//! every start the log must hold what the log in memory held at some moment, no earlier than the
//! last acknowledgement, and no earlier than what the last start said.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quorate_engine::{Batch, EntryBlock, HardState, Index, LogId, Membership};
use quorate_sim::Rng;
use quorate_storage::wal::{Crash, FakeDisk, Wal, WalDriver, WalOptions, WalStorage};
use quorate_storage::{
    LogOp, LogReader, MemoryStorage, RaftStorage, Recovered, StorageError, WriteBatch, WriteDone,
};

use crate::Caught;
use crate::bugs::{ASSERTION, DAMAGE, FINAL, KEPT, STARTS};

const GROUPS: u64 = 3;

/// One life of a log.
pub(crate) fn run(seed: u64) -> Result<(), Caught> {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut rng = Rng::stream(seed, "log");
        let mut life = Life::begin(seed, rng.below(4) == 0)?;
        for _ in 0..rng.between(20, 120) {
            life.step(&mut rng)?;
        }
        life.end(&mut rng)
    }));
    ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or(panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(Caught { by: ASSERTION.into(), what: text.unwrap_or_default() })
    })
}

/// One group: the log under test, and what it was given.
struct Group {
    log: WalStorage,
    /// Every batch that is, or may be, in the log.
    history: Vec<Vec<LogOp>>,
    /// How many of them are certainly there.
    certain: usize,
    /// The log in memory, which has them all.
    model: MemoryStorage,
    /// Answers that have not been looked at.
    outcomes: Vec<Receiver<Result<(), StorageError>>>,
}

struct Life {
    disk: FakeDisk,
    open: Option<WalDriver>,
    groups: Vec<Group>,
    /// One group writes batches of one shape and compacts as it grows: in a file that is used again
    /// each new batch stands where an old one stood.
    steady: bool,
    /// A write has failed: until the next start nothing may succeed.
    failed: bool,
}

impl Life {
    fn begin(seed: u64, steady: bool) -> Result<Self, Caught> {
        let disk = FakeDisk::new(seed);
        let mut life = Self { disk, open: None, groups: Vec::new(), steady, failed: false };
        let blank = (0..GROUPS).map(|_| (Vec::new(), 0)).collect();
        life.start(blank)?;
        Ok(life)
    }

    fn step(&mut self, rng: &mut Rng) -> Result<(), Caught> {
        let how = rng.pick(&[Crash::LoseUnsynced, Crash::Torn, Crash::Torn, Crash::KeepAll]);
        match rng.below(100) {
            0..65 if self.steady => {
                let group = &mut self.groups[0];
                let ops = steady_batch(&mut group.model);
                group.outcomes.push(submit(&mut group.log, ops.clone()));
                group.history.push(ops);
                self.pump()
            }
            0..65 => {
                let group = &mut self.groups[rng.below(GROUPS) as usize];
                let ops = next_batch(&mut group.model, rng);
                group.outcomes.push(submit(&mut group.log, ops.clone()));
                group.history.push(ops);
                Ok(())
            }
            65..85 => self.pump(),
            85..89 => {
                self.driver().seal();
                Ok(())
            }
            89..92 => {
                self.disk.fail_next_sync();
                Ok(())
            }
            92..96 => {
                self.disk.crash_at(self.disk.ops() + rng.below(12), how);
                self.pump()?;
                self.restart(how)
            }
            _ => self.restart(how),
        }
    }

    /// A last start, and then a bit flipped in a log that is sealed: refused, or nothing is gone.
    fn end(mut self, rng: &mut Rng) -> Result<(), Caught> {
        self.restart(Crash::LoseUnsynced)?;
        self.driver().seal();
        let mut image = self.disk.image();
        let place = rng.below(image.len() as u64) as usize;
        let Some((name, bytes)) = image.iter_mut().nth(place) else { return Ok(()) };
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default() + 1;
        let bit = rng.below(end as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let what = format!("bit {bit} of {name} flipped");
        let wal = match open(&FakeDisk::from_image(image, 0)) {
            Err(StorageError::Corrupt(_)) => return Ok(()),
            Err(e) => return Err(Caught { by: DAMAGE.into(), what: format!("{what}: {e}") }),
            Ok((wal, _)) => wal,
        };
        // A seal may go, or the end of a segment in front of an empty one: nothing is lost with it.
        for (id, group) in (0..).zip(&mut self.groups) {
            let mut log = wal.group(id);
            let found = log.recover().expect("nothing has failed");
            let had = group.model.recover().expect("memory does not fail");
            if content(&*log.reader(), found) != content(&*group.model.reader(), had) {
                return Err(Caught { by: DAMAGE.into(), what });
            }
        }
        Ok(())
    }

    fn driver(&mut self) -> &mut WalDriver {
        self.open.as_mut().expect("open between restarts")
    }

    /// Writes what is queued, and looks at the answers.
    fn pump(&mut self) -> Result<(), Caught> {
        while self.driver().pump() {}
        let mut failed = self.failed;
        for (id, group) in self.groups.iter_mut().enumerate() {
            for outcome in group.outcomes.drain(..) {
                match outcome.try_recv() {
                    Ok(Ok(())) if self.failed => {
                        let what = format!("group {id}: a batch succeeds behind one that failed");
                        return Err(Caught { by: FINAL.into(), what });
                    }
                    Ok(Ok(())) => group.certain += 1,
                    Ok(Err(_)) => failed = true,
                    Err(e) => panic!("pumped until nothing is left: {e}"),
                }
            }
        }
        self.failed = failed;
        Ok(())
    }

    /// A crash, and a start from what it leaves.
    fn restart(&mut self, how: Crash) -> Result<(), Caught> {
        self.disk.crash(how);
        let left = self.groups.drain(..).map(|group| (group.history, group.certain)).collect();
        self.open = None;
        self.start(left)
    }

    fn start(&mut self, left: Vec<(Vec<Vec<LogOp>>, usize)>) -> Result<(), Caught> {
        let starts = |e: StorageError| Caught { by: STARTS.into(), what: e.to_string() };
        let (wal, driver) = open(&self.disk).map_err(starts)?;
        self.open = Some(driver);
        self.failed = false;
        for (id, (mut history, certain)) in (0..).zip(left) {
            let mut log = wal.group(id);
            let found = log.recover().map_err(starts)?;
            let found = content(&*log.reader(), found);
            let model = (certain..=history.len()).rev().find_map(|kept| {
                let mut model = replay(&history[..kept]);
                let had = model.recover().expect("memory does not fail");
                let had = content(&*model.reader(), had);
                (had.is_ok() && had == found).then_some((kept, model))
            });
            let Some((kept, model)) = model else {
                let what = format!("group {id}, {certain} batches certain: {found:?}");
                return Err(Caught { by: KEPT.into(), what });
            };
            history.truncate(kept);
            self.groups.push(Group { log, history, certain: kept, model, outcomes: Vec::new() });
        }
        Ok(())
    }
}

fn open(disk: &FakeDisk) -> Result<(Wal, WalDriver), StorageError> {
    let options =
        WalOptions { segment_bytes: 4096, seal_after: Duration::from_secs(3600), seed: 5 };
    Wal::open_driven(Arc::new(disk.mount()), options, || {})
}

fn submit(log: &mut impl RaftStorage, ops: Vec<LogOp>) -> Receiver<Result<(), StorageError>> {
    let (sender, receiver) = mpsc::channel();
    // Answers that come after a crash have nobody to hear them.
    log.submit(WriteBatch { ops }, WriteDone::new(move |outcome| drop(sender.send(outcome))));
    receiver
}

/// A log in memory that was given `history`.
fn replay(history: &[Vec<LogOp>]) -> MemoryStorage {
    let mut model = MemoryStorage::new();
    for ops in history {
        drop(submit(&mut model, ops.clone()));
    }
    model
}

/// What a log holds: its state, and each entry.
type Content = Result<(Recovered, BTreeMap<Index, Vec<u8>>), String>;

fn content(reader: &dyn LogReader, found: Recovered) -> Content {
    let mut entries = BTreeMap::new();
    if found.last != found.compacted {
        let read = pin!(reader.read(found.compacted, found.last.index, usize::MAX))
            .poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(read) = read else { panic!("a read of the log that waits") };
        for block in read.map_err(|e| e.to_string())? {
            let payloads = block.entries().map(<[u8]>::to_vec);
            entries.extend((block.first()..).zip(payloads));
        }
    }
    Ok((found, entries))
}

/// Changes that make sense behind what `model` has; it gets them as well.
fn next_batch(model: &mut MemoryStorage, rng: &mut Rng) -> Vec<LogOp> {
    (0..rng.between(1, 3))
        .map(|_| {
            let now = model.recover().expect("memory does not fail");
            let (term, last, compacted) =
                (now.hard_state.term, now.last.index, now.compacted.index);
            let inside = (last > compacted).then(|| rng.between(compacted + 1, last));
            let op = match (rng.below(10), inside) {
                (0 | 1, _) => LogOp::HardState(HardState::new(
                    term + rng.between(1, 2),
                    Some(rng.between(1, 5)),
                )),
                (2 | 3, Some(index)) => {
                    let run = now.runs.iter().rev().find(|run| run.first <= index);
                    let term = run.expect("each entry is in a run").term;
                    LogOp::Compact { through: LogId::new(term, index) }
                }
                (4, Some(index)) => append(term, index, rng),
                (5, _) => {
                    let at = LogId::new(term, last + 1);
                    LogOp::Append(EntryBlock::configuration(at, &membership(rng)))
                }
                (6, _) if rng.below(4) == 0 => {
                    let to = LogId::new(term, last + rng.below(10));
                    LogOp::Reset { to, configuration: (to, membership(rng)) }
                }
                _ => append(term, last + 1, rng),
            };
            drop(submit(model, vec![op.clone()]));
            op
        })
        .collect()
}

/// The next entry, and no more need of the one before.
fn steady_batch(model: &mut MemoryStorage) -> Vec<LogOp> {
    let now = model.recover().expect("memory does not fail");
    let mut batch = Batch::new(1);
    batch.push(&[now.last.index as u8 | 1; 700]);
    let block = batch.seal(LogId::new(now.hard_state.term, now.last.index + 1));
    let ops = vec![LogOp::Append(block), LogOp::Compact { through: now.last }];
    drop(submit(model, ops.clone()));
    ops
}

fn membership(rng: &mut Rng) -> Membership {
    let voters = (1..=rng.between(1, 5)).map(|id| (id, "somewhere"));
    Membership::of_voters(voters).expect("some voters")
}

fn append(term: u64, first: Index, rng: &mut Rng) -> LogOp {
    let mut batch = Batch::new(1);
    for _ in 0..rng.between(1, 4) {
        // No byte is zero, as what was never written is.
        let byte = rng.between(1, 255) as u8;
        let length = rng.pick(&[3, 40, 700, 2_000]);
        batch.push(&vec![byte; length]);
    }
    LogOp::Append(batch.seal(LogId::new(term, first)))
}
