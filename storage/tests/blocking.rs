//! `Blocking` over a plain store: the rules of every store, group commit, the first error.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_engine::{EntryBlock, HardState, Index, LogId};
use quorate_storage::conformance::{self, Fixture};
use quorate_storage::{
    Blocking, BlockingReader, BlockingStorage, LogOp, LogReadError, LogReader, MemoryDisk,
    MemoryStorage, RaftStorage, Recovered, SnapshotStore, StorageError, WriteBatch, WriteDone,
};

/// What stands for a database: committed batches, and the power.
#[derive(Clone, Default)]
struct Database(Arc<Mutex<Rows>>);

#[derive(Default)]
struct Rows {
    committed: Vec<WriteBatch>,
    snapshots: MemoryDisk,
    /// Writes of an earlier life of the process reach nothing.
    life: u64,
}

impl Database {
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap()
    }
}

/// Keeps what was committed, and serves it from a memory store built of it.
struct Plain {
    database: Database,
    life: u64,
    content: MemoryStorage,
}

impl Plain {
    fn new(database: &Database) -> Self {
        let life = database.lock().life;
        Self { database: database.clone(), life, content: MemoryStorage::new() }
    }
}

impl BlockingStorage for Plain {
    type Reader = PlainReader;

    fn recover(&mut self) -> Result<Recovered, StorageError> {
        for batch in &self.database.lock().committed {
            self.content.submit(batch.clone(), WriteDone::new(|outcome| outcome.unwrap()));
        }
        self.content.recover()
    }

    fn write(&mut self, batches: Vec<WriteBatch>) -> Result<(), StorageError> {
        let mut rows = self.database.lock();
        if rows.life != self.life {
            return Err(StorageError::Unusable("the power is off".into()));
        }
        for batch in batches {
            rows.committed.push(batch.clone());
            self.content.submit(batch, WriteDone::new(|outcome| outcome.unwrap()));
        }
        Ok(())
    }

    fn reader(&self) -> PlainReader {
        PlainReader(self.content.reader())
    }

    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        self.database.lock().snapshots.open().snapshots()
    }
}

struct PlainReader(Arc<dyn LogReader>);

impl BlockingReader for PlainReader {
    fn read(
        &mut self,
        after: LogId,
        through: Index,
        max_bytes: usize,
    ) -> Result<Vec<EntryBlock>, LogReadError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.0.read(after, through, max_bytes))
    }
}

impl Fixture for Database {
    type Storage = Blocking<Plain>;

    fn open(&mut self) -> Result<Blocking<Plain>, StorageError> {
        Ok(Blocking::new(Plain::new(self)))
    }

    fn crash(&mut self, storage: Blocking<Plain>) {
        self.lock().life += 1;
        drop(storage);
    }
}

#[test]
fn a_blocking_store_conforms() {
    conformance::run(Database::default);
}

/// A store that reports the size of each call and waits to be told its outcome.
struct Scripted {
    calls: Sender<usize>,
    outcomes: Receiver<Result<(), StorageError>>,
}

impl BlockingStorage for Scripted {
    type Reader = PlainReader;

    fn recover(&mut self) -> Result<Recovered, StorageError> {
        Ok(Recovered::default())
    }

    fn write(&mut self, batches: Vec<WriteBatch>) -> Result<(), StorageError> {
        self.calls.send(batches.len()).unwrap();
        self.outcomes.recv().unwrap()
    }

    fn reader(&self) -> PlainReader {
        PlainReader(MemoryDisk::new().open().reader())
    }

    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        MemoryDisk::new().open().snapshots()
    }
}

fn vote(term: u64) -> WriteBatch {
    WriteBatch { ops: vec![LogOp::HardState(HardState::new(term, None))] }
}

#[test]
fn what_waits_is_written_together_and_the_first_error_is_final() {
    let (calls, called) = mpsc::channel();
    let (outcome, outcomes) = mpsc::channel();
    let mut store = Blocking::new(Scripted { calls, outcomes });
    store.recover().unwrap();
    let (done, completed) = mpsc::channel();
    let mut submit = |term| {
        let done = done.clone();
        store.submit(vote(term), WriteDone::new(move |o| done.send((term, o.is_ok())).unwrap()));
    };

    submit(1);
    assert_eq!(called.recv(), Ok(1));
    (2..=5).for_each(&mut submit);
    outcome.send(Ok(())).unwrap();
    assert_eq!(completed.recv(), Ok((1, true)));
    assert_eq!(called.recv(), Ok(4));
    submit(6);
    outcome.send(Err(StorageError::Full("no room".into()))).unwrap();
    for term in 2..=6 {
        assert_eq!(completed.recv(), Ok((term, false)));
    }
    submit(7);
    assert_eq!(completed.recv(), Ok((7, false)));
    assert!(called.try_recv().is_err(), "written after an error");
}

#[test]
fn a_store_that_panics_fails_its_batches() {
    let (calls, called) = mpsc::channel();
    let (outcome, outcomes) = mpsc::channel();
    let mut store = Blocking::new(Scripted { calls, outcomes });
    store.recover().unwrap();
    let (done, completed) = mpsc::channel();
    let next = done.clone();
    store.submit(vote(1), WriteDone::new(move |o| done.send(o.is_ok()).unwrap()));
    assert_eq!(called.recv(), Ok(1));
    drop(outcome); // its `unwrap` panics
    assert_eq!(completed.recv(), Ok(false));
    store.submit(vote(2), WriteDone::new(move |o| next.send(o.is_ok()).unwrap()));
    assert_eq!(completed.recv(), Ok(false));
}

#[test]
fn a_completion_may_drop_the_store() {
    let store = Arc::new(Mutex::new(None));
    let mut blocking = Blocking::new(Plain::new(&Database::default()));
    blocking.recover().unwrap();
    let (done, completed) = mpsc::channel();
    let holder = Arc::clone(&store);
    let release = WriteDone::new(move |outcome| {
        drop(holder.lock().unwrap().take());
        done.send(outcome.is_ok()).unwrap();
    });
    let mut held = store.lock().unwrap();
    blocking.submit(vote(1), release);
    *held = Some(blocking);
    drop(held);
    assert_eq!(completed.recv(), Ok(true));
}
