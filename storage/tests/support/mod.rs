//! What the tests of the durable log share: batches, a way to wait for them, and pictures of disks.

#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quorate_engine::{Batch, EntryBlock, HardState, Index, LogId, Membership};
use quorate_storage::wal::{FakeDisk, Wal, WalDriver, WalOptions, WalStorage};
use quorate_storage::{
    Identity, LogOp, LogReadError, LogReader, RaftStorage, Recovered, StorageError, WriteBatch,
    WriteDone,
};

pub type Image = BTreeMap<String, Vec<u8>>;
pub type Outcome = Receiver<Result<(), StorageError>>;

pub fn options(segment_bytes: u64) -> WalOptions {
    WalOptions { segment_bytes, seal_after: Duration::from_secs(3600), seed: 5 }
}

/// A log that writes when the test says so.
pub fn driven(disk: &FakeDisk) -> Result<(Wal, WalDriver), StorageError> {
    Wal::open_driven(Arc::new(disk.mount()), options(4096), || {})
}

/// Its group 1, recovered.
pub fn open(disk: &FakeDisk) -> Result<(WalStorage, WalDriver, Recovered), StorageError> {
    let (wal, driver) = driven(disk)?;
    let mut group = wal.group(1);
    let recovered = group.recover()?;
    Ok((group, driver, recovered))
}

/// What group 1 holds, entries included: for comparing two disks.
pub fn state(disk: &FakeDisk) -> Result<(Recovered, Vec<EntryBlock>), StorageError> {
    let (group, _driver, recovered) = open(disk)?;
    let blocks = read_all(&*group.reader(), &recovered);
    Ok((recovered, blocks))
}

pub fn submit(storage: &mut WalStorage, ops: Vec<LogOp>) -> Outcome {
    let (sender, receiver) = mpsc::channel();
    // A test that has seen enough drops its receiver.
    storage.submit(WriteBatch { ops }, WriteDone::new(move |outcome| drop(sender.send(outcome))));
    receiver
}

/// Submits and writes, in a write of its own.
pub fn write(
    storage: &mut WalStorage,
    driver: &mut WalDriver,
    ops: Vec<LogOp>,
) -> Result<(), StorageError> {
    let outcome = submit(storage, ops);
    while driver.pump() {}
    outcome.try_recv().expect("pumped until nothing is left")
}

pub fn hard_state(term: u64) -> LogOp {
    LogOp::HardState(HardState::new(term, Some(term % 3 + 1)))
}

pub fn identity() -> LogOp {
    LogOp::Identity(Identity { node: 1, incarnation: 77, cluster: 0 })
}

pub fn block(term: u64, first: Index, count: u64) -> EntryBlock {
    let mut batch = Batch::new(1);
    for index in first..first + count {
        batch.push(format!("{term}.{index}").as_bytes());
    }
    batch.seal(LogId::new(term, first))
}

pub fn append(term: u64, first: Index, count: u64) -> LogOp {
    LogOp::Append(block(term, first, count))
}

/// One entry that fills much of a small segment.
pub fn big(term: u64, index: Index) -> LogOp {
    let mut batch = Batch::new(1);
    batch.push(&[7; 1200]);
    LogOp::Append(batch.seal(LogId::new(term, index)))
}

/// A reset to a snapshot that ends with `to`, and with the entry of its configuration.
pub fn reset(to: LogId) -> LogOp {
    let membership = Membership::of_voters([(1, "here"), (2, "there")]).unwrap();
    LogOp::Reset { to, configuration: (to, membership) }
}

/// Reads of the log never wait, so one poll is all they take.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a read of the log that waits"),
    }
}

pub fn read(
    reader: &dyn LogReader,
    after: LogId,
    through: Index,
) -> Result<Vec<EntryBlock>, LogReadError> {
    ready(reader.read(after, through, usize::MAX))
}

pub fn read_all(reader: &dyn LogReader, recovered: &Recovered) -> Vec<EntryBlock> {
    if recovered.last == recovered.compacted {
        return Vec::new();
    }
    read(reader, recovered.compacted, Index::MAX).expect("what was recovered can be read")
}

/// A small history of group 1 that touches every kind of record, overwrites, and passes from one
/// segment to the next a few times, in files new and used.
pub fn history() -> Vec<Vec<LogOp>> {
    let mut batches = vec![
        vec![identity(), hard_state(1)],
        vec![append(1, 1, 3)],
        vec![append(1, 4, 2), append(1, 6, 1)],
        vec![hard_state(2), append(2, 5, 2)],
        vec![LogOp::Compact { through: LogId::new(1, 2) }],
    ];
    batches.push(vec![big(2, 7)]);
    batches.push(vec![hard_state(3), reset(LogId::new(3, 20))]);
    for i in 0..6 {
        let mut batch = Batch::new(1);
        batch.push(&[i as u8; 900]);
        batches.push(vec![hard_state(4 + i), LogOp::Append(batch.seal(LogId::new(4 + i, 21 + i)))]);
    }
    batches.push(vec![LogOp::Compact { through: LogId::new(7, 24) }]);
    batches.push(vec![append(9, 27, 1)]);
    // Files that were freed are used again, several times.
    for i in 0..9 {
        batches.push(vec![big(9, 28 + i)]);
        batches.push(vec![LogOp::Compact { through: LogId::new(9, 26 + i) }]);
    }
    batches
}

/// A history of several segments, all of them needed.
pub fn long_history() -> Vec<Vec<LogOp>> {
    let mut batches = vec![vec![identity(), hard_state(1)]];
    batches.extend((1..=12).map(|index| {
        let mut batch = Batch::new(1);
        batch.push(&[1; 1100]);
        vec![LogOp::Append(batch.seal(LogId::new(1, index)))]
    }));
    batches
}

/// The state after each prefix of `batches`, the empty one first.
pub fn states(batches: &[Vec<LogOp>]) -> Vec<Recovered> {
    let mut store = quorate_storage::MemoryStorage::new();
    let mut states = vec![store.recover().unwrap()];
    for ops in batches {
        let batch = WriteBatch { ops: ops.clone() };
        store.submit(batch, WriteDone::new(|outcome| outcome.unwrap()));
        states.push(store.recover().unwrap());
    }
    states
}

/// A disk with `batches`, each in a write of its own; and whether it ends with a seal.
pub fn disk_of(batches: &[Vec<LogOp>], sealed: bool) -> FakeDisk {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    for ops in batches {
        write(&mut group, &mut driver, ops.clone()).unwrap();
    }
    if !sealed {
        disk.crash(quorate_storage::wal::Crash::LoseUnsynced);
    }
    drop((group, driver));
    disk
}

/// The segments of an image, oldest first.
pub fn segments(image: &Image) -> Vec<String> {
    image.keys().filter(|name| name.ends_with(".log")).cloned().collect()
}

/// The files that wait to be segments again.
pub fn spares(image: &Image) -> Vec<String> {
    image.keys().filter(|name| name.ends_with(".spare")).cloned().collect()
}

/// The last segment of an image.
pub fn newest(image: &Image) -> String {
    segments(image).pop().expect("an image with a segment")
}
