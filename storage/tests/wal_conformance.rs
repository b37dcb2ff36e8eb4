//! The durable log keeps the rules every store keeps, on a disk that loses what was not synced and
//! on a real one, alone and among other groups.

#![cfg(feature = "wal")]

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::HardState;
use quorate_storage::conformance::{self, Fixture};
use quorate_storage::wal::{Crash, FakeDisk, Wal, WalOptions, WalStorage};
use quorate_storage::{LogOp, RaftStorage, StorageError, WriteBatch, WriteDone};

fn options(segment_bytes: u64) -> WalOptions {
    WalOptions { segment_bytes, seal_after: Duration::from_millis(1), seed: 11 }
}

struct OnFakeDisk {
    disk: FakeDisk,
    how: Crash,
    segment_bytes: u64,
}

impl Fixture for OnFakeDisk {
    type Storage = WalStorage;

    fn open(&mut self) -> Result<WalStorage, StorageError> {
        let mount = Arc::new(self.disk.mount());
        Ok(Wal::open_on(mount, options(self.segment_bytes))?.group(5))
    }

    fn crash(&mut self, storage: WalStorage) {
        self.disk.crash(self.how);
        drop(storage);
    }
}

#[test]
fn the_log_conforms_when_a_crash_loses_everything_unsynced() {
    let segment_bytes = 64 << 10;
    conformance::run(|| OnFakeDisk {
        disk: FakeDisk::new(1),
        how: Crash::LoseUnsynced,
        segment_bytes,
    });
}

#[test]
fn the_log_conforms_when_a_crash_tears_writes() {
    for seed in 0..8 {
        conformance::run(|| OnFakeDisk {
            disk: FakeDisk::new(seed),
            how: Crash::Torn,
            segment_bytes: 4096,
        });
    }
}

#[test]
fn the_log_conforms_when_its_process_is_killed() {
    conformance::run(|| OnFakeDisk {
        disk: FakeDisk::new(1),
        how: Crash::KeepAll,
        segment_bytes: 4096,
    });
}

struct OnRealDisk(tempfile::TempDir);

impl Fixture for OnRealDisk {
    type Storage = WalStorage;

    fn open(&mut self) -> Result<WalStorage, StorageError> {
        Ok(Wal::open(self.0.path(), options(256 << 10))?.group(5))
    }

    fn crash(&mut self, storage: WalStorage) {
        drop(storage);
    }
}

#[test]
fn the_log_conforms_on_a_real_disk() {
    conformance::run(|| OnRealDisk(tempfile::tempdir().unwrap()));
}

/// The group under test, with a neighbour that writes between its writes.
struct AmongOthers(FakeDisk);

struct Crowded {
    group: WalStorage,
    neighbour: WalStorage,
    term: u64,
}

impl RaftStorage for Crowded {
    fn recover(&mut self) -> Result<quorate_storage::Recovered, StorageError> {
        let recovered = self.neighbour.recover()?;
        self.term = recovered.hard_state.term;
        self.group.recover()
    }

    fn submit(&mut self, batch: WriteBatch, done: WriteDone) {
        self.term += 1;
        let hard_state = HardState::new(self.term, Some(1));
        let beside = WriteBatch { ops: vec![LogOp::HardState(hard_state)] };
        self.neighbour.submit(beside, WriteDone::new(drop));
        self.group.submit(batch, done);
    }

    fn reader(&self) -> Arc<dyn quorate_storage::LogReader> {
        self.group.reader()
    }

    fn snapshots(&self) -> Arc<dyn quorate_storage::SnapshotStore> {
        self.group.snapshots()
    }
}

impl Fixture for AmongOthers {
    type Storage = Crowded;

    fn open(&mut self) -> Result<Crowded, StorageError> {
        let wal = Wal::open_on(Arc::new(self.0.mount()), options(16 << 10))?;
        Ok(Crowded { group: wal.group(5), neighbour: wal.group(4), term: 0 })
    }

    fn crash(&mut self, storage: Crowded) {
        self.0.crash(Crash::Torn);
        drop(storage);
    }
}

#[test]
fn a_group_among_others_conforms() {
    conformance::run(|| AmongOthers(FakeDisk::new(3)));
}
