//! Disks that fail, hang and fill up; processes and groups that meet in one directory.

#![cfg(feature = "wal")]

mod support;

use std::sync::mpsc::{self, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_engine::{Batch, LogId};
use quorate_storage::wal::{
    Crash, Disk, DiskFile, FakeDisk, RecordKind, Wal, WalOptions, WalStorage, inspect,
};
use quorate_storage::{LogOp, LogReadError, RaftStorage, StorageError, WriteBatch, WriteDone};
use support::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn threaded(disk: &FakeDisk, options: WalOptions) -> (Wal, WalStorage) {
    let wal = Wal::open_on(Arc::new(disk.mount()), options).unwrap();
    let mut group = wal.group(1);
    group.recover().unwrap();
    (wal, group)
}

#[test]
fn a_failed_sync_poisons_though_the_next_would_succeed() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    write(&mut group, &mut driver, vec![hard_state(1)]).unwrap();
    disk.fail_next_sync();
    let first = write(&mut group, &mut driver, vec![hard_state(2)]);
    assert!(matches!(first, Err(StorageError::Failed(_))), "{first:?}");
    let ops = disk.ops();
    for term in 3..6 {
        assert!(write(&mut group, &mut driver, vec![hard_state(term)]).is_err());
    }
    driver.seal();
    assert!(group.recover().is_err());
    assert_eq!(disk.ops(), ops, "the disk was tried again");
    disk.crash(Crash::LoseUnsynced);
    drop((group, driver));
    assert_eq!(state(&disk).unwrap().0.hard_state.term, 1, "nothing later was acknowledged");
}

/// The thread is the same code; here with batches that wait while the sync fails.
#[test]
fn batches_queued_behind_a_failed_sync_fail_in_order() {
    let disk = FakeDisk::new(1);
    let (_wal, mut group) = threaded(&disk, options(4096));
    disk.hang_syncs();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (sender, all) = mpsc::channel();
    for term in 1..=20 {
        let (seen, sender) = (Arc::clone(&seen), sender.clone());
        let done = WriteDone::new(move |outcome| {
            seen.lock().unwrap().push((term, outcome.is_err()));
            sender.send(()).unwrap();
        });
        group.submit(WriteBatch { ops: vec![hard_state(term)] }, done);
        if term == 1 {
            disk.wait_for_hanging_sync();
        }
    }
    disk.fail_next_sync();
    disk.release_syncs();
    (0..20).for_each(|_| all.recv_timeout(PATIENCE).unwrap());
    assert_eq!(*seen.lock().unwrap(), (1..=20).map(|term| (term, true)).collect::<Vec<_>>());
}

/// Each call that changes the disk fails once, wherever it is: no batch is acknowledged behind it,
/// the next start finds all that were.
#[test]
fn every_write_site_fails_once() {
    let batches = history();
    let states = states(&batches);
    let mut failures = 0;
    for op in 0.. {
        let disk = FakeDisk::new(op);
        disk.fail_at(op);
        let mut completed = 0;
        let mut failed = false;
        if let Ok((mut group, mut driver, _)) = open(&disk) {
            for ops in &batches {
                match write(&mut group, &mut driver, ops.clone()) {
                    Ok(()) => {
                        assert!(!failed, "call {op}: acknowledged behind a failure");
                        completed += 1;
                    }
                    Err(StorageError::Failed(_)) => failed = true,
                    Err(e) => panic!("call {op}: {e}"),
                }
            }
        } else {
            failed = true;
        }
        if !failed && disk.ops() > op {
            // The seal at the end, whose failure is nobody's loss.
            assert_eq!(completed, batches.len());
        } else if !failed {
            break;
        }
        failures += 1;
        for how in [Crash::KeepAll, Crash::Torn] {
            disk.crash(how);
            let (found, _) = state(&disk).unwrap_or_else(|e| panic!("call {op}: {e}"));
            let kept = states.iter().rposition(|state| *state == found);
            let kept = kept.unwrap_or_else(|| panic!("call {op}: {found:?}"));
            assert!(kept >= completed, "call {op}: {kept} of {completed}");
        }
    }
    assert!(failures > 40, "{failures}");
}

#[test]
fn a_full_disk_keeps_what_is_durable_and_starts_again_when_freed() {
    let disk = FakeDisk::new(1);
    disk.set_quota_bytes(Some(3 * 4096));
    let (mut group, mut driver, _) = open(&disk).unwrap();
    write(&mut group, &mut driver, vec![identity(), hard_state(1)]).unwrap();
    let mut index = 0;
    let full = loop {
        let mut batch = Batch::new(1);
        batch.push(&[1; 1000]);
        let op = LogOp::Append(batch.seal(LogId::new(1, index + 1)));
        match write(&mut group, &mut driver, vec![op]) {
            Ok(()) => index += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full, StorageError::Full(_)), "{full}");
    assert!(index >= 6, "three segments were there to be filled: {index}");
    assert!(disk.image().keys().all(|name| !name.ends_with(".tmp")), "it holds on to the room");
    assert!(matches!(
        write(&mut group, &mut driver, vec![hard_state(2)]),
        Err(StorageError::Full(_))
    ));
    drop((group, driver));

    // Still full: it starts, can read, and can compact, which is what frees room.
    let (mut group, mut driver, found) = open(&disk).unwrap();
    assert_eq!(found.last, LogId::new(1, index));
    write(&mut group, &mut driver, vec![LogOp::Compact { through: found.last }]).unwrap();
    let left = segments(&disk.image());
    assert!(left.len() < 3, "{left:?}");
    write(&mut group, &mut driver, vec![hard_state(2)]).unwrap();
    // For as long as it is compacted: what is free becomes the next segment.
    for _ in 0..20 {
        index += 1;
        let id = LogId::new(2, index);
        let ops = vec![big(2, index), LogOp::Compact { through: id }];
        write(&mut group, &mut driver, ops).unwrap();
    }
    drop((group, driver));

    // And with more room it goes on.
    disk.set_quota_bytes(None);
    let (mut group, mut driver, found) = open(&disk).unwrap();
    assert_eq!(found.hard_state.term, 2);
    for i in 1..20 {
        write(&mut group, &mut driver, vec![append(2, index + i, 1)]).unwrap();
    }
}

#[test]
fn no_room_for_a_first_segment_is_said_and_nothing_is_left() {
    let disk = FakeDisk::new(1);
    disk.set_quota_bytes(Some(1000));
    let found = driven(&disk).err().unwrap();
    assert!(matches!(found, StorageError::Full(_)), "{found}");
    disk.set_quota_bytes(None);
    state(&disk).unwrap();
}

#[test]
fn nothing_is_durable_while_the_sync_hangs() {
    let disk = FakeDisk::new(1);
    let (wal, mut group) = threaded(&disk, options(1 << 20));
    let before = wal.stats();
    disk.hang_syncs();
    let first = submit(&mut group, vec![hard_state(1)]);
    disk.wait_for_hanging_sync();
    let reader = group.reader();
    let waiting: Vec<_> = (1..=100).map(|i| submit(&mut group, vec![append(1, i, 1)])).collect();
    assert!(matches!(first.try_recv(), Err(TryRecvError::Empty)));
    let unseen = read(&*reader, LogId::ZERO, 100);
    assert!(matches!(unseen, Err(LogReadError::Superseded)), "{unseen:?}");
    disk.release_syncs();
    first.recv_timeout(PATIENCE).unwrap().unwrap();
    for outcome in waiting {
        outcome.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    // What waited was written together.
    let after = wal.stats();
    assert_eq!((after.batches - before.batches, after.writes - before.writes), (101, 2));
    assert_eq!(read(&*reader, LogId::ZERO, 100).unwrap().len(), 100);
}

/// A suffix is overwritten while its sync is under way: the completions come in the order of the
/// batches, so the caller can tell which entry each of them was about.
#[test]
fn an_overwritten_suffix_completes_before_what_overwrote_it() {
    let disk = FakeDisk::new(1);
    let (_wal, mut group) = threaded(&disk, options(4096));
    submit(&mut group, vec![hard_state(2)]).recv_timeout(PATIENCE).unwrap().unwrap();
    disk.hang_syncs();
    let (sender, order) = mpsc::channel();
    let mut numbered = |number, ops| {
        let sender = sender.clone();
        let done = WriteDone::new(move |outcome| sender.send((number, outcome.is_ok())).unwrap());
        group.submit(WriteBatch { ops }, done);
    };
    numbered(1, vec![append(1, 1, 5)]);
    disk.wait_for_hanging_sync();
    numbered(2, vec![append(2, 3, 1)]);
    numbered(3, vec![append(2, 4, 1)]);
    disk.release_syncs();
    for number in 1..=3 {
        assert_eq!(order.recv_timeout(PATIENCE).unwrap(), (number, true));
    }
    let blocks = read(&*group.reader(), LogId::ZERO, 10).unwrap();
    assert_eq!(blocks, [block(1, 1, 5).slice(1, 2), block(2, 3, 1), block(2, 4, 1)]);
}

#[test]
fn a_second_log_in_one_directory_is_refused() {
    let disk = FakeDisk::new(1);
    let (group, driver, _) = open(&disk).unwrap();
    assert!(matches!(driven(&disk).err(), Some(StorageError::InUse(_))));
    drop((group, driver));
    open(&disk).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path(), options(4096)).unwrap();
    let second = Wal::open(dir.path(), options(4096)).err().unwrap();
    assert!(matches!(second, StorageError::InUse(_)), "{second}");
    drop(wal);
    Wal::open(dir.path(), options(4096)).unwrap();
}

#[test]
fn a_second_handle_of_a_group_is_refused_while_the_first_lives() {
    let disk = FakeDisk::new(1);
    let (wal, mut driver) = driven(&disk).unwrap();
    let mut first = wal.group(1);
    first.recover().unwrap();
    let mut second = wal.group(1);
    assert!(matches!(second.recover(), Err(StorageError::InUse(_))));
    assert!(submit(&mut second, vec![hard_state(1)]).try_recv().unwrap().is_err());
    // What the first has queued is there for the second.
    let left = submit(&mut first, vec![hard_state(4)]);
    drop(first);
    assert_eq!(second.recover().unwrap().hard_state.term, 4);
    left.try_recv().unwrap().unwrap();
    write(&mut second, &mut driver, vec![hard_state(5)]).unwrap();
}

#[test]
fn a_group_that_writes_nonsense_stops_alone() {
    let disk = FakeDisk::new(1);
    let (wal, mut driver) = driven(&disk).unwrap();
    let (mut good, mut bad) = (wal.group(1), wal.group(2));
    good.recover().unwrap();
    bad.recover().unwrap();
    let outcomes = [
        submit(&mut bad, vec![hard_state(1), append(1, 1, 1)]),
        submit(&mut good, vec![hard_state(1)]),
        submit(&mut bad, vec![hard_state(7), append(1, 9, 1)]),
        submit(&mut bad, vec![append(1, 2, 1)]),
        submit(&mut good, vec![append(1, 1, 1)]),
    ];
    driver.pump();
    let outcomes: Vec<bool> = outcomes.iter().map(|o| o.try_recv().unwrap().is_ok()).collect();
    assert_eq!(outcomes, [true, true, false, false, true]);
    drop((good, bad, wal, driver));
    let (wal, _driver) = driven(&disk).unwrap();
    assert_eq!(wal.group(1).recover().unwrap().last, LogId::new(1, 1));
    let bad = wal.group(2).recover().unwrap();
    assert_eq!((bad.hard_state.term, bad.last), (1, LogId::new(1, 1)), "nothing of it is there");
}

#[test]
fn dropping_the_last_handle_writes_seals_and_gives_the_directory_back() {
    let disk = FakeDisk::new(1);
    let (wal, mut group) = threaded(&disk, options(4096));
    let outcomes: Vec<_> =
        (1..=50).map(|term| submit(&mut group, vec![hard_state(term)])).collect();
    let reader = group.reader();
    drop(wal);
    drop(group);
    for outcome in outcomes {
        outcome.try_recv().expect("completed when the drop returns").unwrap();
    }
    disk.crash(Crash::LoseUnsynced);
    let inspection = inspect(&disk.mount()).unwrap();
    let segment = inspection.segments.last().unwrap();
    let last = segment.batches.last().unwrap().records.last().unwrap();
    assert_eq!(last.kind, RecordKind::Seal);
    assert_eq!(state(&disk).unwrap().0.hard_state.term, 50);
    drop(reader);
}

#[test]
fn a_completion_may_drop_the_last_handle() {
    for with_thread in [true, false] {
        let disk = FakeDisk::new(1);
        let (mut group, driver) = if with_thread {
            let (_, group) = threaded(&disk, options(4096));
            (group, None)
        } else {
            let (group, driver, _) = open(&disk).unwrap();
            (group, Some(driver))
        };
        let holder = Arc::new(Mutex::new(None));
        let (sender, done) = mpsc::channel();
        let held = Arc::clone(&holder);
        let release = WriteDone::new(move |outcome| {
            drop(held.lock().unwrap().take());
            sender.send(outcome.is_ok()).unwrap();
        });
        let mut slot = holder.lock().unwrap();
        group.submit(WriteBatch { ops: vec![hard_state(1)] }, release);
        *slot = Some(group);
        drop(slot);
        if let Some(mut driver) = driver {
            assert!(driver.pump());
        }
        assert!(done.recv_timeout(PATIENCE).unwrap());
        disk.crash(Crash::LoseUnsynced);
        assert_eq!(state(&disk).unwrap().0.hard_state.term, 1);
    }
}

/// Tells when the log has written its seal: its second sync after the batch.
struct Watched {
    disk: FakeDisk,
    synced: mpsc::Sender<()>,
}

struct WatchedFile {
    file: Arc<dyn DiskFile>,
    synced: mpsc::Sender<()>,
}

impl Disk for Watched {
    fn list(&self) -> std::io::Result<Vec<String>> {
        self.disk.mount().list()
    }
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.mount().open(name)?;
        Ok(Arc::new(WatchedFile { file, synced: self.synced.clone() }))
    }
    fn create(&self, name: &str) -> std::io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.mount().create(name)?;
        Ok(Arc::new(WatchedFile { file, synced: self.synced.clone() }))
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.mount().rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.disk.mount().remove(name)
    }
    fn sync_dir(&self) -> std::io::Result<()> {
        self.disk.mount().sync_dir()
    }
    fn lock(&self, name: &str) -> std::io::Result<Option<quorate_storage::wal::DiskLock>> {
        self.disk.mount().lock(name)
    }
    fn describe(&self) -> String {
        "watched disk".into()
    }
}

impl DiskFile for WatchedFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file.read_at(bytes, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn allocate(&self, length: u64) -> std::io::Result<()> {
        self.file.allocate(length)
    }
    fn shorten(&self, length: u64) -> std::io::Result<()> {
        self.file.shorten(length)
    }
    fn sync(&self) -> std::io::Result<()> {
        self.file.sync()?;
        // Nobody listens any more when the test is over.
        self.synced.send(()).ok();
        Ok(())
    }
    fn length(&self) -> std::io::Result<u64> {
        self.file.length()
    }
}

#[test]
fn an_idle_log_seals_itself() {
    let disk = FakeDisk::new(1);
    let (synced, syncs) = mpsc::channel();
    let watched = Watched { disk: disk.clone(), synced };
    let options = WalOptions { seal_after: Duration::from_millis(1), ..options(4096) };
    let wal = Wal::open_on(Arc::new(watched), options).unwrap();
    syncs.recv_timeout(PATIENCE).unwrap(); // the first segment
    let mut group = wal.group(1);
    group.recover().unwrap();
    let outcome = submit(&mut group, vec![hard_state(1)]);
    syncs.recv_timeout(PATIENCE).unwrap(); // the batch
    outcome.recv_timeout(PATIENCE).unwrap().unwrap();
    syncs.recv_timeout(PATIENCE).unwrap(); // the seal, without anybody asking
    disk.crash(Crash::LoseUnsynced);
    let segments = inspect(&disk.mount()).unwrap().segments;
    let last = segments[0].batches.last().unwrap();
    assert_eq!(last.records[0].kind, RecordKind::Seal);
}

#[test]
fn reads_go_on_while_segments_are_removed_under_them() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    for ops in long_history() {
        write(&mut group, &mut driver, ops).unwrap();
    }
    let reader = group.reader();
    let before = segments(&disk.image()).len();
    assert_eq!(read(&*reader, LogId::ZERO, 12).unwrap().len(), 12);
    write(&mut group, &mut driver, vec![LogOp::Compact { through: LogId::new(1, 10) }]).unwrap();
    assert!(segments(&disk.image()).len() < before);
    let gone = read(&*reader, LogId::new(1, 3), 12);
    assert!(matches!(gone, Err(LogReadError::Compacted { compacted }) if compacted.index == 10));
    assert_eq!(read(&*reader, LogId::new(1, 10), 12).unwrap().len(), 2);
}

#[test]
fn a_damaged_entry_is_a_read_error_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path(), options(4096)).unwrap();
    let mut group = wal.group(1);
    group.recover().unwrap();
    let ops = vec![hard_state(1), append(1, 1, 5)];
    submit(&mut group, ops).recv_timeout(PATIENCE).unwrap().unwrap();
    let reader = group.reader();
    let whole = read(&*reader, LogId::ZERO, 5).unwrap();
    let path = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "log"))
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let block = &whole[0].bytes()[..];
    let at = bytes.windows(block.len()).position(|window| window == block).unwrap();
    bytes[at + 50] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let found = read(&*reader, LogId::ZERO, 5);
    assert!(matches!(found, Err(LogReadError::Failed(StorageError::Corrupt(_)))), "{found:?}");
}

/// A name that was not synced is gone with all it held: a segment is used only once it has one.
#[test]
fn a_segment_is_used_only_once_its_name_is_durable() {
    for op in 0..200 {
        let disk = FakeDisk::new(op);
        // A directory sync that fails is where a name stays behind.
        disk.fail_at(op);
        let mut completed = 0;
        if let Ok((mut group, mut driver, _)) = open(&disk) {
            for ops in long_history() {
                completed += usize::from(write(&mut group, &mut driver, ops).is_ok());
            }
        }
        disk.crash(Crash::LoseUnsynced);
        let (found, _) = state(&disk).unwrap_or_else(|e| panic!("call {op}: {e}"));
        assert!(found.last.index + 1 >= completed as u64, "call {op}: {found:?}");
    }
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    write(&mut group, &mut driver, vec![hard_state(1)]).unwrap();
    let mut batch = Batch::new(1);
    batch.push(&vec![9; 100_000]);
    write(&mut group, &mut driver, vec![LogOp::Append(batch.seal(LogId::new(1, 1)))]).unwrap();
    write(&mut group, &mut driver, vec![append(1, 2, 1)]).unwrap();
    let lengths: Vec<usize> = disk.image().values().map(Vec::len).collect();
    assert_eq!(lengths[0], 4096);
    assert!(lengths[1] > 100_000 && lengths[1] % 4096 == 0, "{lengths:?}");
    drop((group, driver));
    assert_eq!(state(&disk).unwrap().1.len(), 2);
}
