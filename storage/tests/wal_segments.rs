//! The life of segments: compaction frees them, files are used again, and nothing of what they held
//! comes back.

#![cfg(feature = "wal")]

mod support;

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use quorate_engine::{Batch, EntryBlock, LogId, Membership};
use quorate_storage::wal::{Disk, DiskFile, DiskLock, FakeDisk, SECTOR_BYTES, Wal, inspect};
use quorate_storage::{LogOp, MemoryStorage, RaftStorage, WriteBatch, WriteDone};
use support::*;

const HELD_BEFORE: &str = "nothing behind it but what the file held before";

fn compact(term: u64, index: u64) -> LogOp {
    LogOp::Compact { through: LogId::new(term, index) }
}

#[test]
fn compaction_frees_disk_space_and_a_restart_has_all_that_matters() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = || {
        let files = std::fs::read_dir(dir.path()).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    let start = || {
        let wal = Wal::open(dir.path(), options(4096)).unwrap();
        let mut group = wal.group(1);
        let found = group.recover().unwrap();
        (wal, group, found)
    };
    let (wal, mut group, _) = start();
    let mut model = MemoryStorage::new();
    let mut write = |ops: Vec<LogOp>| {
        let batch = WriteBatch { ops: ops.clone() };
        model.submit(batch, WriteDone::new(|outcome| outcome.unwrap()));
        submit(&mut group, ops).recv().unwrap().unwrap();
        model.recover().unwrap()
    };
    let membership = Membership::of_voters([(1, "one"), (2, "two")]).unwrap();
    let first = EntryBlock::configuration(LogId::new(0, 1), &membership);
    write(vec![identity(), LogOp::Append(first)]);
    write(vec![hard_state(8)]);
    for index in 2..100 {
        write(vec![big(8, index)]);
    }
    let before = bytes();
    assert!(before > 30 * 4096, "{before}");
    let expected = write(vec![compact(8, 97)]);
    assert!(bytes() <= 5 * 4096, "{} left of {before}", bytes());
    drop((wal, group));

    let (_wal, group, found) = start();
    assert_eq!(found, expected);
    assert_eq!(LogOp::HardState(found.hard_state), hard_state(8), "the vote");
    assert_eq!(found.configurations, [(LogId::new(0, 1), membership)]);
    assert_eq!(read_all(&*group.reader(), &found).len(), 2);
}

#[test]
fn files_are_used_again_and_no_more_than_two_wait() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    for ops in long_history() {
        write(&mut group, &mut driver, ops).unwrap();
    }
    assert_eq!((segments(&disk.image()).len(), spares(&disk.image()).len()), (4, 0));
    write(&mut group, &mut driver, vec![compact(1, 12)]).unwrap();
    let waiting = spares(&disk.image());
    assert_eq!((segments(&disk.image()).len(), waiting.len()), (1, 2));
    drop((group, driver));

    // Also by the next process, which removes what it can't use.
    let mut image = disk.image();
    image.insert("9999999999999999.spare".into(), vec![0; 4096]);
    image.insert("0000000000000000.spare".into(), vec![0; 40960]);
    let disk = FakeDisk::from_image(image, 1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    assert_eq!(spares(&disk.image()), waiting);
    let mut index = 13;
    while !spares(&disk.image()).is_empty() {
        write(&mut group, &mut driver, vec![big(1, index)]).unwrap();
        index += 1;
    }
    assert_eq!(segments(&disk.image()).len(), 3);
    let reports = inspect(&disk.mount()).unwrap().segments;
    assert_eq!(reports.last().unwrap().reason, HELD_BEFORE);
}

/// Every sector of a write that is there or not, over what the file held before: the batch is whole
/// or not there, and nothing stale is.
#[test]
fn a_tear_at_any_sector_shows_nothing_of_what_the_file_held() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    let mut batches = vec![vec![hard_state(5)]];
    write(&mut group, &mut driver, batches[0].clone()).unwrap();
    let mut torn = 0;
    // All of one shape: each batch stands where a stale one stood, except in the first two files.
    for index in 1..30 {
        let mut batch = Batch::new(1);
        batch.push(&[index as u8; 1200]);
        let ops = vec![LogOp::Append(batch.seal(LogId::new(5, index))), compact(5, index)];
        let before = disk.image();
        write(&mut group, &mut driver, ops.clone()).unwrap();
        batches.push(ops);
        let (after, name) = (disk.image(), newest(&disk.image()));
        let reason = &inspect(&disk.mount()).unwrap().segments.pop().unwrap().reason;
        if newest(&before) != name || reason != HELD_BEFORE {
            continue;
        }
        let states = states(&batches);
        let [.., old, new] = &states[..] else { panic!("two states") };
        let sector = |at: usize| at..at + SECTOR_BYTES;
        let sectors: Vec<usize> = (0..4096)
            .step_by(SECTOR_BYTES)
            .filter(|at| before[&name][sector(*at)] != after[&name][sector(*at)])
            .collect();
        assert!((3..6).contains(&sectors.len()), "{sectors:?}");
        for kept in 0..1u32 << sectors.len() {
            let mut image = before.clone();
            let bytes = image.get_mut(&name).unwrap();
            for at in sectors.iter().enumerate().filter(|(i, _)| kept & (1 << i) != 0) {
                bytes[sector(*at.1)].copy_from_slice(&after[&name][sector(*at.1)]);
            }
            let (found, _) = state(&FakeDisk::from_image(image, 1))
                .unwrap_or_else(|e| panic!("entry {index}, sectors {kept:b}: {e}"));
            let whole = kept + 1 == 1 << sectors.len();
            assert_eq!(&found, if whole { new } else { old }, "entry {index}, sectors {kept:b}");
            torn += 1;
        }
    }
    assert!(torn > 50, "{torn}");
}

/// A file under its reader is not used again, however long it reads.
#[test]
fn a_segment_that_is_read_is_not_used_again() {
    let disk = FakeDisk::new(1);
    let gate = Arc::new(Gate::default());
    let mount = Gated { disk: disk.mount(), gate: Arc::clone(&gate) };
    let (wal, mut driver) = Wal::open_driven(Arc::new(mount), options(4096), || {}).unwrap();
    let mut group = wal.group(1);
    group.recover().unwrap();
    for ops in long_history() {
        write(&mut group, &mut driver, ops).unwrap();
    }
    gate.close();
    let reader = group.reader();
    let reading = thread::spawn(move || read(&*reader, LogId::ZERO, 3).unwrap());
    gate.wait_for_reader();
    // All it reads is compacted, and the log goes on through as many segments as there were.
    write(&mut group, &mut driver, vec![compact(1, 12)]).unwrap();
    assert_eq!(spares(&disk.image()).len(), 2);
    for index in 13..30 {
        write(&mut group, &mut driver, vec![big(1, index), compact(1, index)]).unwrap();
    }
    gate.open();
    let blocks = reading.join().unwrap();
    assert_eq!(blocks.iter().map(EntryBlock::first).collect::<Vec<_>>(), [1, 2, 3]);
    // Now nobody reads it.
    for index in 30..40 {
        write(&mut group, &mut driver, vec![big(1, index), compact(1, index)]).unwrap();
    }
    assert!(disk.image().len() <= 3, "{:?}", disk.image().keys());
}

/// Reads wait while it is closed.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, usize)>,
    bell: Condvar,
}

impl Gate {
    fn close(&self) {
        self.state.lock().unwrap().0 = true;
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.bell.notify_all();
    }

    fn wait_for_reader(&self) {
        let state = self.state.lock().unwrap();
        drop(self.bell.wait_while(state, |(_, waiting)| *waiting == 0).unwrap());
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.bell.notify_all();
        drop(self.bell.wait_while(state, |(closed, _)| *closed).unwrap());
    }
}

/// A disk with a gate in front of its reads.
struct Gated<D> {
    disk: D,
    gate: Arc<Gate>,
}

impl<D: Disk> Gated<D> {
    fn file(&self, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(GatedFile { file: file?, gate: Arc::clone(&self.gate) }))
    }
}

impl<D: Disk> Disk for Gated<D> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.disk.open(name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.disk.create(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn lock(&self, name: &str) -> io::Result<Option<DiskLock>> {
        self.disk.lock(name)
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

struct GatedFile {
    file: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl DiskFile for GatedFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.gate.pass();
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }

    fn shorten(&self, length: u64) -> io::Result<()> {
        self.file.shorten(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}
