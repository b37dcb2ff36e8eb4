//! The easy way to a store: plain blocking methods, run on a thread of their own.
//!
//! A store that wraps a database has calls that block until the data is on disk. [`Blocking`] turns
//! such a [`BlockingStorage`] into a [`RaftStorage`]: batches wait in a queue while one call runs,
//! and everything that waited becomes the next call. So the price of a sync is shared by whatever
//! arrived during the one before (group commit), without a timer.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use anyerror::AnyError;
use async_trait::async_trait;
use quorate_engine::{EntryBlock, Index, LogId};
use tokio::sync::oneshot;

use crate::log::{
    LogReadError, LogReader, RaftStorage, Recovered, StorageError, WriteBatch, WriteDone,
};
use crate::snapshot::SnapshotStore;

/// Payload bytes after which a call of [`BlockingStorage::write`] takes no further batch: what
/// waits is written next.
pub const MAX_WRITE_BYTES: usize = 8 << 20;

/// A store whose methods block until they are done.
pub trait BlockingStorage: Send + 'static {
    /// Reads while the store writes.
    type Reader: BlockingReader;

    /// What is durable. Called once, before anything else, on a thread where blocking is
    /// allowed.
    ///
    /// # Errors
    /// Anything that makes the state unusable; the node does not start.
    fn recover(&mut self) -> Result<Recovered, StorageError>;

    /// Makes `batches` durable, in order. Called by the store's own thread, one call at a time,
    /// with at least one batch.
    ///
    /// A crash in the middle may leave a prefix of the batches, and of each all or nothing. One
    /// transaction around the whole call is a fine way to do it.
    ///
    /// # Errors
    /// Final: this method is not called again, and every later batch fails with the same error.
    fn write(&mut self, batches: Vec<WriteBatch>) -> Result<(), StorageError>;

    /// A reader of what was written. Called once, after [`BlockingStorage::recover`].
    fn reader(&self) -> Self::Reader;

    /// The store's snapshots. Called once, after [`BlockingStorage::recover`].
    fn snapshots(&self) -> Arc<dyn SnapshotStore>;
}

/// The reading half of a [`BlockingStorage`].
pub trait BlockingReader: Send + 'static {
    /// As [`LogReader::read`]. Called on a thread kept for reading, one call at a time, while the
    /// other thread may be in [`BlockingStorage::write`].
    ///
    /// # Errors
    /// As [`LogReader::read`].
    fn read(
        &mut self,
        after: LogId,
        through: Index,
        max_bytes: usize,
    ) -> Result<Vec<EntryBlock>, LogReadError>;
}

/// A [`RaftStorage`] made of a [`BlockingStorage`].
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use quorate_engine::{EntryBlock, HardState, Index, LogId};
/// use quorate_storage::{
///     Blocking, BlockingReader, BlockingStorage, LogOp, LogReadError, MemoryStorage, RaftStorage,
///     Recovered, SnapshotStore, StorageError, WriteBatch, WriteDone,
/// };
///
/// /// Keeps the hard state in what stands for a database, and no log at all.
/// #[derive(Clone, Default)]
/// struct Votes(Arc<Mutex<HardState>>);
///
/// impl BlockingStorage for Votes {
///     type Reader = Votes;
///
///     fn recover(&mut self) -> Result<Recovered, StorageError> {
///         Ok(Recovered { hard_state: *self.0.lock().unwrap(), ..Recovered::default() })
///     }
///
///     fn write(&mut self, batches: Vec<WriteBatch>) -> Result<(), StorageError> {
///         let mut row = self.0.lock().unwrap(); // the transaction
///         for op in batches.into_iter().flat_map(|batch| batch.ops) {
///             match op {
///                 LogOp::HardState(new) => *row = new,
///                 _ => return Err(StorageError::Unusable("this example keeps no log".into())),
///             }
///         }
///         Ok(()) // returning is the commit: whatever a crash may lose must not come before it
///     }
///
///     fn reader(&self) -> Votes {
///         self.clone()
///     }
///
///     fn snapshots(&self) -> Arc<dyn SnapshotStore> {
///         MemoryStorage::new().snapshots() // of no log at all, there is nothing to keep
///     }
/// }
///
/// impl BlockingReader for Votes {
///     fn read(&mut self, _: LogId, _: Index, _: usize) -> Result<Vec<EntryBlock>, LogReadError> {
///         Err(LogReadError::Superseded)
///     }
/// }
///
/// let votes = Votes::default();
/// let mut store = Blocking::new(votes.clone());
/// assert_eq!(store.recover()?, Recovered::default());
///
/// let vote = HardState::new(1, Some(2));
/// let done = WriteDone::new(|outcome| assert!(outcome.is_ok()));
/// store.submit(WriteBatch { ops: vec![LogOp::HardState(vote)] }, done);
/// drop(store); // waits for what is queued
/// assert_eq!(*votes.0.lock().unwrap(), vote);
/// # Ok::<(), StorageError>(())
/// ```
///
/// Dropping it writes what is queued, then ends and joins the writing thread. The reading thread
/// ends with the last reader.
pub struct Blocking<S: BlockingStorage> {
    stage: Stage<S>,
}

enum Stage<S> {
    /// Not recovered yet.
    New(S),
    Running(Running),
    /// Recovery failed, or panicked.
    Failed,
}

struct Running {
    /// Unbounded: the node bounds what it has in flight, and `submit` must not block. Closing it
    /// (`None`, while being dropped) tells the thread to finish.
    batches: Option<Sender<(WriteBatch, WriteDone)>>,
    writer: Option<JoinHandle<()>>,
    reader: Arc<Reads>,
    snapshots: Arc<dyn SnapshotStore>,
}

impl<S: BlockingStorage> Blocking<S> {
    /// A store on top of `storage`. Its threads start when it has recovered.
    pub fn new(storage: S) -> Self {
        Self { stage: Stage::New(storage) }
    }
}

impl<S: BlockingStorage> RaftStorage for Blocking<S> {
    /// # Errors
    /// Those of [`BlockingStorage::recover`]; [`StorageError::Unusable`] for a second call.
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        let Stage::New(mut storage) = std::mem::replace(&mut self.stage, Stage::Failed) else {
            return Err(StorageError::Unusable("a store recovers once, at its start".into()));
        };
        let recovered = storage.recover()?;
        let reader = Arc::new(Reads::start(storage.reader())?);
        let snapshots = storage.snapshots();
        let (batches, queue) = mpsc::channel();
        let writer = thread::Builder::new()
            .name("quorate-store".into())
            .spawn(move || write_until_closed(storage, &queue))
            .map_err(|e| StorageError::Failed(AnyError::new(&e)))?;
        let (batches, writer) = (Some(batches), Some(writer));
        self.stage = Stage::Running(Running { batches, writer, reader, snapshots });
        Ok(recovered)
    }

    fn submit(&mut self, batch: WriteBatch, done: WriteDone) {
        let Stage::Running(Running { batches: Some(batches), .. }) = &self.stage else {
            done.complete(Err(StorageError::Unusable("a store recovers before it writes".into())));
            return;
        };
        if let Err(mpsc::SendError((_, done))) = batches.send((batch, done)) {
            done.complete(Err(gone("writing")));
        }
    }

    /// # Panics
    /// Before [`RaftStorage::recover`] has succeeded: there is nothing to read from.
    fn reader(&self) -> Arc<dyn LogReader> {
        let Stage::Running(running) = &self.stage else {
            panic!("a store recovers before it reads");
        };
        Arc::<Reads>::clone(&running.reader)
    }

    /// # Panics
    /// As [`Blocking::reader`].
    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        let Stage::Running(running) = &self.stage else {
            panic!("a store recovers before it has snapshots");
        };
        Arc::clone(&running.snapshots)
    }
}

impl<S: BlockingStorage> Drop for Blocking<S> {
    fn drop(&mut self) {
        let Stage::Running(running) = &mut self.stage else { return };
        drop(running.batches.take());
        if let Some(writer) = running.writer.take() {
            // A completion that drops the store runs on that very thread, which can't wait for
            // itself. A panic over there was reported through the batches it dropped.
            if writer.thread().id() != thread::current().id() {
                drop(writer.join());
            }
        }
    }
}

fn write_until_closed<S: BlockingStorage>(
    mut storage: S,
    queue: &Receiver<(WriteBatch, WriteDone)>,
) {
    let mut poison: Option<StorageError> = None;
    while let Ok((batch, done)) = queue.recv() {
        let mut bytes = batch.payload_bytes();
        let mut batches = vec![batch];
        let mut dones = vec![done];
        while bytes < MAX_WRITE_BYTES {
            let Ok((batch, done)) = queue.try_recv() else { break };
            bytes += batch.payload_bytes();
            batches.push(batch);
            dones.push(done);
        }
        if poison.is_none() {
            poison = storage.write(batches).err();
        }
        for done in dones {
            done.complete(poison.clone().map_or(Ok(()), Err));
        }
    }
}

fn gone(what: &str) -> StorageError {
    StorageError::Failed(AnyError::error(format!("the {what} thread of the store is gone")))
}

/// Hands reads to the reading thread. It ends when the last of these is gone.
struct Reads {
    /// Not bounded here: each caller waits for its answer, so there are no more requests than
    /// callers.
    requests: Sender<Request>,
}

struct Request {
    after: LogId,
    through: Index,
    max_bytes: usize,
    answer: oneshot::Sender<Result<Vec<EntryBlock>, LogReadError>>,
}

impl Reads {
    fn start<R: BlockingReader>(mut reader: R) -> Result<Self, StorageError> {
        let (requests, queue) = mpsc::channel::<Request>();
        thread::Builder::new()
            .name("quorate-read".into())
            .spawn(move || {
                while let Ok(Request { after, through, max_bytes, answer }) = queue.recv() {
                    // A caller that no longer waits has lost interest, not the request.
                    drop(answer.send(reader.read(after, through, max_bytes)));
                }
            })
            .map_err(|e| StorageError::Failed(AnyError::new(&e)))?;
        Ok(Self { requests })
    }
}

#[async_trait]
impl LogReader for Reads {
    async fn read(
        &self,
        after: LogId,
        through: Index,
        max_bytes: usize,
    ) -> Result<Vec<EntryBlock>, LogReadError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { after, through, max_bytes, answer };
        if self.requests.send(request).is_err() {
            return Err(LogReadError::Failed(gone("reading")));
        }
        answered.await.unwrap_or_else(|_| Err(LogReadError::Failed(gone("reading"))))
    }
}
