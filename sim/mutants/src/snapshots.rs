//! Bugs of the snapshots beside the durable log, on a disk that forgets.
//!
//! A seed is a life of one store: snapshots written, replaced, deleted and given up, syncs that fail,
//! crashes that keep everything, nothing, or any sectors of what was not synced; and at its end a
//! flipped bit. After every start each snapshot that was committed must be there and whole, and no
//! other but one that the crash overtook.

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::{LogId, Membership};
use quorate_sim::Rng;
use quorate_storage::wal::{Crash, FakeDisk, Wal, WalDriver, WalOptions, WalStorage};
use quorate_storage::{RaftStorage, SnapshotMeta, SnapshotStore, StorageError};

use crate::Caught;
use crate::bugs::{DAMAGE, SNAPSHOTS};

/// Of each snapshot: index, nonce, length of its content. In order.
type Found = Vec<(u64, u64, u64)>;

/// One life of a store.
pub(crate) fn run(seed: u64) -> Result<(), Caught> {
    let mut rng = Rng::stream(seed, "snapshots");
    let disk = FakeDisk::new(seed);
    let mut life = Life { open: open(&disk).expect("an empty disk"), disk, certain: Vec::new() };
    for _ in 0..rng.between(5, 40) {
        life.step(&mut rng)?;
    }
    life.end(&mut rng)
}

struct Life {
    disk: FakeDisk,
    open: (WalStorage, WalDriver),
    /// What is on the disk.
    certain: Found,
}

impl Life {
    fn step(&mut self, rng: &mut Rng) -> Result<(), Caught> {
        let how = rng.pick(&[Crash::LoseUnsynced, Crash::Torn, Crash::Torn, Crash::KeepAll]);
        let crashes = match rng.below(10) {
            0..4 => false,
            4 => {
                self.disk.fail_next_sync();
                false
            }
            5..8 => {
                self.disk.crash_at(self.disk.ops() + rng.below(8), how);
                true
            }
            _ => return self.restart(how, &self.certain.clone()),
        };
        let (index, nonce) = (rng.between(1, 5), rng.number());
        let store = self.open.0.snapshots();
        let mut after = self.certain.clone();
        let done = if rng.below(4) == 0 {
            after.retain(|found| found.0 != index);
            store.delete(LogId::new(1, index))
        } else {
            let bytes = rng.pick(&[0, 10, 3_000, 300_000]);
            after.retain(|found| found.0 != index);
            after.push((index, nonce, bytes));
            after.sort_unstable();
            put(&*store, index, nonce, bytes)
        };
        if done.is_ok() {
            self.certain.clone_from(&after);
        }
        if crashes || done.is_err() {
            return self.restart(how, &after);
        }
        let now = found(&*store);
        self.expect(now, &after)
    }

    /// A crash, and a start from what it leaves: what was certain, or `overtaken` instead.
    fn restart(&mut self, how: Crash, overtaken: &Found) -> Result<(), Caught> {
        self.disk.crash(how);
        self.open = open(&self.disk).expect("nothing is wrong with the log");
        let now = found(&*self.open.0.snapshots());
        self.expect(now, overtaken)
    }

    fn expect(&mut self, now: Result<Found, String>, or: &Found) -> Result<(), Caught> {
        match now {
            Ok(now) if now == self.certain || now == *or => {
                self.certain = now;
                Ok(())
            }
            Ok(now) => {
                let what = format!("{now:?}, not {:?} nor {or:?}", self.certain);
                Err(Caught { by: SNAPSHOTS.into(), what })
            }
            Err(what) => Err(Caught { by: SNAPSHOTS.into(), what }),
        }
    }

    /// A bit flipped in one of the files: refused, or not one of the snapshot's.
    fn end(mut self, rng: &mut Rng) -> Result<(), Caught> {
        self.restart(Crash::LoseUnsynced, &self.certain.clone())?;
        let mut image = self.disk.image();
        let mut files: Vec<_> =
            image.iter_mut().filter(|(name, _)| name.ends_with(".snap")).collect();
        if files.is_empty() {
            return Ok(());
        }
        let place = rng.below(files.len() as u64) as usize;
        let (name, bytes) = &mut files[place];
        let bit = rng.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let what = format!("bit {bit} of {name} flipped");
        let (group, _driver) = open(&FakeDisk::from_image(image, 0)).expect("the log is whole");
        match group.snapshots().list() {
            Err(StorageError::Corrupt(_)) => return Ok(()),
            Err(e) => return Err(Caught { by: DAMAGE.into(), what: format!("{what}: {e}") }),
            Ok(_) => {}
        }
        match found(&*group.snapshots()) {
            Err(refused) if refused.contains("damaged") => Ok(()),
            _ => Err(Caught { by: DAMAGE.into(), what }),
        }
    }
}

fn open(disk: &FakeDisk) -> Result<(WalStorage, WalDriver), StorageError> {
    let options =
        WalOptions { segment_bytes: 4096, seal_after: Duration::from_secs(3600), seed: 5 };
    let (wal, driver) = Wal::open_driven(Arc::new(disk.mount()), options, || {})?;
    let mut group = wal.group(1);
    group.recover()?;
    Ok((group, driver))
}

fn content(nonce: u64, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|at| (nonce ^ (at * 31) ^ (at >> 9)) as u8).collect()
}

fn put(store: &dyn SnapshotStore, index: u64, nonce: u64, bytes: u64) -> Result<(), StorageError> {
    let membership = Membership::of_voters([(1, "here")]).expect("one voter");
    let configuration = (LogId::new(0, 1), membership);
    let meta = SnapshotMeta { last: LogId::new(1, index), configuration, nonce };
    let mut writer = store.create(meta)?;
    for piece in content(nonce, bytes).chunks(100_000) {
        writer.append(piece)?;
    }
    writer.commit().map(drop)
}

/// All that `store` has, read to the end.
fn found(store: &dyn SnapshotStore) -> Result<Found, String> {
    let mut found = Found::new();
    for info in store.list().map_err(|e| e.to_string())? {
        let (last, nonce) = (info.meta.last, info.meta.nonce);
        let reader = store.open(last).map_err(|e| e.to_string())?.ok_or("listed and not there")?;
        let mut bytes = Vec::new();
        while bytes.len() as u64 != info.bytes {
            let read = reader.read_at(bytes.len() as u64, usize::MAX);
            bytes.extend_from_slice(&read.map_err(|e| e.to_string())?);
        }
        if bytes != content(nonce, info.bytes) {
            return Err(format!("other content in the snapshot {last}"));
        }
        found.push((last.index, nonce, info.bytes));
    }
    Ok(found)
}
