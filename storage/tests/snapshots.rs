//! Snapshot files: stopped at every call, cut at every byte, flipped in every bit, on a full disk.

#![cfg(feature = "wal")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::{LogId, Membership};
use quorate_storage::snapshot::file::{self, CHUNK_BYTES, Encoder};
use quorate_storage::wal::{Crash, FakeDisk, Wal, WalOptions};
use quorate_storage::{
    LogOp, RaftStorage, SnapshotInfo, SnapshotMeta, SnapshotReader, SnapshotStore, StorageError,
};
use support::*;

fn meta(index: u64, nonce: u64) -> SnapshotMeta {
    let membership = Membership::of_voters([(1, "one"), (2, "two")]).unwrap();
    SnapshotMeta {
        last: LogId::new(1, index),
        configuration: (LogId::new(0, 1), membership),
        nonce,
    }
}

/// Content that differs from snapshot to snapshot and from chunk to chunk.
fn content(nonce: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i as u64 * 31 + nonce * 7 + i as u64 / 251) as u8).collect()
}

/// Writes a snapshot of `bytes` in calls of less than a chunk.
fn put(
    store: &dyn SnapshotStore,
    index: u64,
    nonce: u64,
    bytes: usize,
) -> Result<SnapshotInfo, StorageError> {
    let mut writer = store.create(meta(index, nonce))?;
    for piece in content(nonce, bytes).chunks(100_000) {
        writer.append(piece)?;
    }
    writer.commit()
}

fn read(reader: &dyn SnapshotReader) -> Result<Vec<u8>, StorageError> {
    let mut found = Vec::new();
    loop {
        let bytes = reader.read_at(found.len() as u64, usize::MAX)?;
        if bytes.is_empty() {
            return Ok(found);
        }
        found.extend_from_slice(&bytes);
    }
}

/// Index, nonce and length of each snapshot on the disk, all of it read and compared.
type Found = Vec<(u64, u64, usize)>;

fn snapshots(store: &dyn SnapshotStore) -> Result<Found, StorageError> {
    let mut found = Vec::new();
    for info in store.list()? {
        let reader = store.open(info.meta.last)?.expect("listed");
        assert_eq!(reader.info(), &info);
        let bytes = read(&*reader)?;
        assert_eq!(info.meta, meta(info.meta.last.index, info.meta.nonce));
        assert!(bytes == content(info.meta.nonce, info.bytes as usize), "other content");
        found.push((info.meta.last.index, info.meta.nonce, bytes.len()));
    }
    Ok(found)
}

/// One thing that is done to a store of snapshots.
#[derive(Clone, Copy)]
enum Step {
    Put {
        index: u64,
        nonce: u64,
        bytes: usize,
    },
    Abandon {
        index: u64,
    },
    Delete {
        index: u64,
    },
    /// The log beside it.
    Append {
        index: u64,
    },
}

const STEPS: [Step; 8] = [
    Step::Append { index: 1 },
    Step::Put { index: 1, nonce: 1, bytes: CHUNK_BYTES + 700 },
    Step::Abandon { index: 1 },
    Step::Put { index: 2, nonce: 2, bytes: 0 },
    Step::Put { index: 1, nonce: 3, bytes: 2 * CHUNK_BYTES },
    Step::Append { index: 2 },
    Step::Delete { index: 2 },
    Step::Put { index: 2, nonce: 4, bytes: 5_000 },
];

impl Step {
    fn apply(self, found: &mut Found) {
        match self {
            Step::Put { index, nonce, bytes } => {
                found.retain(|(at, ..)| *at != index);
                found.push((index, nonce, bytes));
                found.sort_unstable();
            }
            Step::Delete { index } => found.retain(|(at, ..)| *at != index),
            Step::Abandon { .. } | Step::Append { .. } => {}
        }
    }
}

/// Runs the steps until one fails; how many did not, and the error.
fn run(disk: &FakeDisk) -> (usize, Option<StorageError>) {
    let (mut group, mut driver, _) = match open(disk) {
        Ok(opened) => opened,
        Err(e) => return (0, Some(e)),
    };
    let store = group.snapshots();
    for (done, step) in STEPS.iter().enumerate() {
        let outcome = match *step {
            Step::Put { index, nonce, bytes } => put(&*store, index, nonce, bytes).map(drop),
            Step::Abandon { index } => store.create(meta(index, 99)).and_then(|mut writer| {
                writer.append(&content(99, CHUNK_BYTES + 1)) // and drops it
            }),
            Step::Delete { index } => store.delete(LogId::new(1, index)),
            Step::Append { index } => {
                write(&mut group, &mut driver, vec![hard_state(1), append(1, index, 1)])
            }
        };
        if let Err(e) = outcome {
            return (done, Some(e));
        }
    }
    (STEPS.len(), None)
}

/// What the disk may hold when `done` steps were done and the next was begun.
fn possible(done: usize) -> Vec<Found> {
    let mut found = Vec::new();
    STEPS[..done].iter().for_each(|step| step.apply(&mut found));
    let mut states = vec![found.clone()];
    if let Some(step) = STEPS.get(done) {
        step.apply(&mut found);
        states.push(found);
    }
    states
}

/// Opens what is left: nothing unfinished, and the snapshots of before or after the step that was cut
/// off, complete.
fn check(disk: &FakeDisk, done: usize, what: &str) {
    let (group, _driver, recovered) = open(disk).unwrap_or_else(|e| panic!("{what}: {e}"));
    let appended = |step: &&Step| matches!(step, Step::Append { .. });
    let appends = STEPS[..done].iter().filter(appended).count() as u64;
    assert!(recovered.last.index >= appends, "{what}: {recovered:?}");
    let unfinished: Vec<String> =
        disk.image().into_keys().filter(|name| name.ends_with(".tmp")).collect();
    assert_eq!(unfinished, [""; 0], "{what}");
    let found = snapshots(&*group.snapshots()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(possible(done).contains(&found), "{what}, {done} done: {found:?}");
}

fn crash_at_every_call(how: Crash, seeds: std::ops::Range<u64>) {
    let whole = FakeDisk::new(0);
    assert_eq!(run(&whole).0, STEPS.len());
    for seed in seeds {
        for op in 0..whole.ops() {
            let disk = FakeDisk::new(seed);
            disk.crash_at(op, how);
            let (done, error) = run(&disk);
            if disk.crashes() == 0 {
                // Called when the log was dropped, behind the last step.
                assert!(error.is_none());
                disk.crash(how);
            }
            let what = format!("{how:?} at call {op}, seed {seed}");
            check(&disk, done, &what);
            // The power goes again, with all of recovery's own work behind it.
            disk.crash(Crash::LoseUnsynced);
            check(&disk, done, &format!("{what}, again"));
        }
    }
}

#[test]
fn a_crash_at_every_call_that_loses_everything_unsynced() {
    crash_at_every_call(Crash::LoseUnsynced, 0..1);
}

#[test]
fn a_crash_at_every_call_that_tears_and_reorders() {
    crash_at_every_call(Crash::Torn, 0..12);
}

#[test]
fn a_process_killed_at_every_call() {
    crash_at_every_call(Crash::KeepAll, 0..1);
}

/// Every call fails once: it is reported, what was begun goes, and the log goes on unless it was the
/// log's own call.
#[test]
fn every_call_that_fails_is_reported_and_leaves_no_part_of_a_snapshot() {
    let whole = FakeDisk::new(0);
    run(&whole);
    let mut beside_the_log = 0;
    for op in 0..whole.ops() {
        let disk = FakeDisk::new(1);
        disk.fail_at(op);
        let (done, error) = run(&disk);
        // The removal of what was abandoned, and the seal of a log that closes, have nobody to tell.
        if let Some(e) = error {
            assert!(e.to_string().contains(FakeDisk::TOLD), "call {op}: {e}");
            beside_the_log += usize::from(matches!(STEPS[done], Step::Put { .. }));
        }
        check(&disk, done, &format!("call {op} failed"));
        disk.crash(Crash::LoseUnsynced);
        check(&disk, done, &format!("call {op} failed, and a crash"));
    }
    assert!(beside_the_log > 20, "{beside_the_log}");
}

#[test]
fn a_failed_snapshot_does_not_fail_the_log_and_the_next_succeeds() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    let store = group.snapshots();
    disk.fail_next_sync();
    assert!(matches!(put(&*store, 1, 1, 10), Err(StorageError::Failed(_))));
    write(&mut group, &mut driver, vec![hard_state(1), append(1, 1, 1)]).unwrap();
    put(&*store, 1, 2, 10).unwrap();
    assert_eq!(snapshots(&*store).unwrap(), [(1, 2, 10)]);
}

/// A failed sync is final for its file, though the next one would succeed.
#[test]
fn a_writer_whose_sync_failed_writes_no_more() {
    let disk = FakeDisk::new(1);
    let (group, _driver, _) = open(&disk).unwrap();
    let store = group.snapshots();
    let mut writer = store.create(meta(1, 1)).unwrap();
    disk.fail_next_sync();
    let piece = content(1, 256 << 10);
    // Synced every MiB, so that no sync of the log waits for one of gigabytes.
    let failed_at = (1..=64).find(|_| writer.append(&piece).is_err());
    assert_eq!(failed_at, Some(4));
    assert!(
        disk.image().keys().all(|name| !name.starts_with("snapshot")),
        "its room is given back"
    );
    let ops = disk.ops();
    assert!(writer.append(&piece).is_err());
    assert!(writer.commit().is_err());
    assert_eq!(disk.ops(), ops, "the disk is not asked again");
    assert!(store.list().unwrap().is_empty());
}

/// Whether its name is durable is unknown: the log must not be compacted for it.
#[test]
fn after_a_failed_sync_of_the_directory_no_name_is_believed() {
    let whole = FakeDisk::new(0);
    let (group, _driver, _) = open(&whole).unwrap();
    put(&*group.snapshots(), 1, 1, 10).unwrap();
    let sync_of_the_directory = whole.ops() - 1;

    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    let store = group.snapshots();
    disk.fail_at(sync_of_the_directory);
    put(&*store, 1, 1, 10).unwrap_err();
    assert!(store.list().is_err() && store.open(LogId::new(1, 1)).is_err());
    assert!(store.create(meta(2, 2)).is_err() && store.delete(LogId::new(1, 1)).is_err());
    assert!(group.snapshots().list().is_err(), "another handle knows it, too");
    write(&mut group, &mut driver, vec![hard_state(1)]).unwrap();
    drop((group, driver, store));
    let (group, _driver, _) = open(&disk).unwrap();
    assert_eq!(snapshots(&*group.snapshots()).unwrap(), [(1, 1, 10)], "a start has synced it");
}

#[test]
fn a_full_disk_is_said_and_its_room_given_back() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    let store = group.snapshots();
    put(&*store, 1, 1, 1000).unwrap();
    let used: usize = disk.image().values().map(Vec::len).sum();
    for room in [0, 10, 100, 300_000, 600_000] {
        disk.set_quota_bytes(Some((used + room) as u64));
        let found = put(&*store, 2, 2, 1 << 20);
        assert!(matches!(found, Err(StorageError::Full(_))), "room {room}: {found:?}");
        assert_eq!(disk.image().values().map(Vec::len).sum::<usize>(), used, "room {room}");
        assert_eq!(snapshots(&*store).unwrap(), [(1, 1, 1000)]);
        write(&mut group, &mut driver, vec![hard_state(room as u64 + 1)]).unwrap();
    }
    disk.set_quota_bytes(None);
    put(&*store, 2, 3, 1 << 20).unwrap();
    assert_eq!(snapshots(&*store).unwrap(), [(1, 1, 1000), (2, 3, 1 << 20)]);
}

/// The one snapshot of a disk, and its file.
fn disk_with_one(bytes: usize) -> (FakeDisk, String, Vec<u8>) {
    let disk = FakeDisk::new(1);
    let (group, driver, _) = open(&disk).unwrap();
    put(&*group.snapshots(), 5, 6, bytes).unwrap();
    drop((group, driver));
    let mut files = disk.image().into_iter().filter(|(name, _)| name.ends_with(".snap"));
    let (name, file) = files.next().unwrap();
    assert!(files.next().is_none());
    (disk, name, file)
}

fn with_file(disk: &FakeDisk, name: &str, file: Vec<u8>) -> FakeDisk {
    let mut image = disk.image();
    image.insert(name.to_string(), file);
    FakeDisk::from_image(image, 1)
}

fn refused(disk: &FakeDisk, name: &str) -> bool {
    let (group, _driver, _) = open(disk).expect("the log is not harmed");
    match snapshots(&*group.snapshots()) {
        Ok(_) => false,
        Err(StorageError::Corrupt(what)) => {
            assert!(what.contains(name) && what.contains("offset"), "{what}");
            true
        }
        Err(e) => panic!("{e}"),
    }
}

/// A file of version 1, as it was written when version 1 was made: it is read for ever, and while
/// version 1 is current these are the very bytes.
#[test]
fn version_1_is_read_and_written_as_it_was() {
    let fixture = &include_bytes!("fixtures/snapshot-v1")[..];
    let (disk, name, file) = disk_with_one(300);
    assert!(file == fixture, "other bytes");
    let disk = with_file(&disk, &name, fixture.to_vec());
    let (group, _driver, _) = open(&disk).unwrap();
    assert_eq!(snapshots(&*group.snapshots()).unwrap(), [(5, 6, 300)]);
}

#[test]
fn an_empty_or_cut_file_is_refused_and_named() {
    let (disk, name, file) = disk_with_one(300);
    assert_eq!(name, "snapshot-0000000000000001-0000000000000001-0000000000000005.snap");
    for length in 0..file.len() {
        assert!(refused(&with_file(&disk, &name, file[..length].to_vec()), &name), "cut {length}");
    }
    // Complete in itself, under another's name.
    let other = name.replace("05.snap", "07.snap");
    assert!(refused(&with_file(&disk, &other, file.clone()), &other));
    let (disk, name, file) = disk_with_one(2 * CHUNK_BYTES + 300);
    for length in (0..file.len()).step_by(10_007) {
        assert!(refused(&with_file(&disk, &name, file[..length].to_vec()), &name), "cut {length}");
    }
}

#[test]
fn every_flipped_bit_is_refused_and_the_file_named() {
    let (disk, name, file) = disk_with_one(40);
    for bit in 0..file.len() * 8 {
        let mut file = file.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(refused(&with_file(&disk, &name, file), &name), "bit {bit}");
    }
}

/// What is damaged can be thrown away.
#[test]
fn a_damaged_snapshot_can_be_deleted() {
    let (disk, name, _) = disk_with_one(40);
    let disk = with_file(&disk, &name, Vec::new());
    let (group, _driver, _) = open(&disk).unwrap();
    let store = group.snapshots();
    assert!(matches!(store.open(LogId::new(1, 5)), Err(StorageError::Corrupt(_))));
    store.delete(LogId::new(1, 5)).unwrap();
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn groups_have_their_own() {
    let disk = FakeDisk::new(1);
    let (wal, _driver) = driven(&disk).unwrap();
    let mut groups = [1, 11, u64::MAX].map(|id| wal.group(id));
    for (nonce, group) in (1..).zip(&mut groups) {
        group.recover().unwrap();
        put(&*group.snapshots(), 5, nonce, 100).unwrap();
    }
    // A group that recovers removes what it has left unfinished, and nobody else's.
    let mut writing = groups[1].snapshots().create(meta(6, 6)).unwrap();
    writing.append(&content(6, 100)).unwrap();
    let [first, ..] = &mut groups;
    *first = wal.group(2);
    first.recover().unwrap();
    assert_eq!(snapshots(&*first.snapshots()).unwrap(), []);
    writing.commit().unwrap();
    assert_eq!(snapshots(&*groups[1].snapshots()).unwrap(), [(5, 2, 100), (6, 6, 100)]);
    assert_eq!(snapshots(&*groups[2].snapshots()).unwrap(), [(5, 3, 100)]);
}

/// A snapshot that is still being written when its log is closed keeps the directory from others, and
/// may be finished; nothing new is begun.
#[test]
fn the_directory_is_free_when_the_last_writer_is_gone() {
    let disk = FakeDisk::new(1);
    let (group, driver, _) = open(&disk).unwrap();
    let store = group.snapshots();
    let mut writer = store.create(meta(1, 1)).unwrap();
    drop((group, driver));
    assert!(matches!(open(&disk), Err(StorageError::InUse(_))));
    writer.append(&content(1, 100)).unwrap();
    writer.commit().unwrap();
    assert!(matches!(store.create(meta(2, 2)), Err(StorageError::Unusable(_))));
    let (group, _driver, _) = open(&disk).unwrap();
    assert_eq!(snapshots(&*group.snapshots()).unwrap(), [(1, 1, 100)]);
}

/// On a real disk: a file is what an encoder makes, and is read without the log.
#[test]
fn a_file_of_the_log_is_a_portable_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = WalOptions {
        segment_bytes: 4096,
        seal_after: Duration::from_secs(3600),
        ..WalOptions::default()
    };
    let wal = Wal::open(dir.path(), options).unwrap();
    let mut group = wal.group(1);
    group.recover().unwrap();
    let bytes = 3 * CHUNK_BYTES + 50;
    let info = put(&*group.snapshots(), 5, 6, bytes).unwrap();
    let path = dir.path().join("snapshot-0000000000000001-0000000000000001-0000000000000005.snap");
    let mut stream = Vec::new();
    let mut encoder = Encoder::begin(&info.meta, &mut stream);
    let reader = group.snapshots().open(info.meta.last).unwrap().unwrap();
    encoder.append(&read(&*reader).unwrap(), &mut stream);
    assert_eq!(encoder.finish(&mut stream), info);
    assert!(std::fs::read(&path).unwrap() == stream);
    let linked = dir.path().join("linked");
    std::fs::hard_link(&path, &linked).unwrap();
    drop(reader);
    let backup = file::open_file(&path).unwrap();
    group.snapshots().delete(info.meta.last).unwrap();
    assert!(std::fs::read(&linked).unwrap() == stream, "deleted under another name");
    drop((group, wal));
    assert!(!path.exists());
    assert_eq!(backup.info(), &info);
    assert!(read(&*backup).unwrap() == content(6, bytes), "deleted under its reader");
}

/// While a file system gives back the room of a large file at once, it syncs nothing.
#[test]
fn the_room_of_a_deleted_snapshot_is_given_back_a_piece_at_a_time() {
    let disk = FakeDisk::new(1);
    let (group, _driver, _) = open(&disk).unwrap();
    let store = group.snapshots();
    let bytes = 9 << 20;
    put(&*store, 5, 6, bytes).unwrap();
    let before = disk.ops();
    store.delete(LogId::new(1, 5)).unwrap();
    // Hidden, durably; three times shortened, durably; removed.
    assert_eq!(disk.ops() - before, 2 + 3 * 2 + 1);

    // Not as long as somebody reads it.
    put(&*store, 5, 6, bytes).unwrap();
    let reader = store.open(LogId::new(1, 5)).unwrap().unwrap();
    drop(store.open(LogId::new(1, 5)));
    let before = disk.ops();
    store.delete(LogId::new(1, 5)).unwrap();
    assert_eq!(disk.ops() - before, 2 + 1);
    assert!(read(&*reader).unwrap() == content(6, bytes), "deleted under its reader");
}

#[test]
fn a_file_that_is_no_snapshot_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nothing.snap");
    assert!(matches!(file::open_file(&path), Err(StorageError::Failed(_))));
    for bytes in [&b""[..], b"hello", &[0; 4096]] {
        std::fs::write(&path, bytes).unwrap();
        let Err(StorageError::Corrupt(what)) = file::open_file(&path) else {
            panic!("{} bytes taken for a snapshot", bytes.len());
        };
        assert!(what.contains("nothing.snap"), "{what}");
    }
}

/// A snapshot longer than one would like to keep in memory, read back in parallel.
#[test]
fn readers_do_not_get_in_each_others_way() {
    let disk = FakeDisk::new(1);
    let (group, _driver, _) = open(&disk).unwrap();
    let store = group.snapshots();
    put(&*store, 1, 1, 9 << 20).unwrap();
    let reader = store.open(LogId::new(1, 1)).unwrap().unwrap();
    let expected = Arc::new(content(1, 9 << 20));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (reader, expected) = (Arc::clone(&reader), Arc::clone(&expected));
            std::thread::spawn(move || assert!(read(&*reader).unwrap() == *expected))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// The log shrinks to what the snapshot does not cover, and a restart needs both.
#[test]
fn a_snapshot_frees_the_log_behind_it() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    for ops in long_history() {
        write(&mut group, &mut driver, ops).unwrap();
    }
    let before = segments(&disk.image()).len();
    let info = put(&*group.snapshots(), 11, 1, 100).unwrap();
    let through = info.meta.last;
    write(&mut group, &mut driver, vec![LogOp::Compact { through }]).unwrap();
    assert!(segments(&disk.image()).len() < before);
    disk.crash(Crash::LoseUnsynced);
    drop((group, driver));
    let (group, _driver, found) = open(&disk).unwrap();
    assert_eq!((found.compacted, found.last.index), (through, 12));
    assert_eq!(snapshots(&*group.snapshots()).unwrap(), [(11, 1, 100)]);
}
