//! Checks for implementors of [`RaftStorage`]: what the node relies on, case by case.
//!
//! An implementor describes how to open the store, how to cut its power, and how to open what is
//! left ([`Fixture`]), and calls [`run`] in a test:
//!
//! ```
//! use quorate_storage::conformance::{self, Fixture};
//! use quorate_storage::{MemoryDisk, MemoryStorage, StorageError};
//!
//! struct InMemory(MemoryDisk);
//!
//! impl Fixture for InMemory {
//!     type Storage = MemoryStorage;
//!
//!     fn open(&mut self) -> Result<MemoryStorage, StorageError> {
//!         Ok(self.0.open())
//!     }
//!
//!     fn crash(&mut self, storage: MemoryStorage) {
//!         drop(storage); // nothing is unsynced, so nothing is lost
//!     }
//! }
//!
//! conformance::run(|| InMemory(MemoryDisk::new()));
//! ```
//!
//! The suite is plain blocking code and needs no runtime: it waits for completions on a channel
//! and polls reads on the calling thread. A store whose reads need a runtime is tested from inside
//! one that has other threads. Its only clock is a limit of [`PATIENCE`] on a completion that never
//! comes. The model it compares with is a map from index to entry, as slow as it is plain.
//!
//! Snapshots are part of the suite: whatever is committed is there after a crash, complete, and
//! nothing else is.

mod cases;
mod snapshots;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{Batch, EntryBlock, EntryKind, HardState, Index, LogId, Membership, TermRun};

use crate::log::{
    Identity, LogOp, LogReadError, LogReader, RaftStorage, Recovered, StorageError, WriteBatch,
    WriteDone,
};

/// How long a completion may take before a case gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One disk with one store on it, whose power can be cut.
pub trait Fixture {
    /// The store under test.
    type Storage: RaftStorage;

    /// Opens the store on the fixture's disk, which is empty the first time.
    ///
    /// # Errors
    /// Whatever opening gives; the case then fails.
    fn open(&mut self) -> Result<Self::Storage, StorageError>;

    /// Cuts the power: whatever was not synced is lost, as far as the fixture can arrange that, and
    /// the store is dropped. A fixture on a real disk, where nothing can be lost on purpose, drops
    /// the store.
    fn crash(&mut self, storage: Self::Storage);

    /// Opens what a crash or a dropped handle left. The same as [`Fixture::open`] unless a restart
    /// takes more.
    ///
    /// # Errors
    /// As [`Fixture::open`].
    fn reopen(&mut self) -> Result<Self::Storage, StorageError> {
        self.open()
    }
}

/// A case of the suite: its name, and the check, which panics when the store is at fault.
pub type Case<F> = (&'static str, fn(&mut Session<F>));

/// Every case, for running them one by one.
pub fn cases<F: Fixture>() -> Vec<Case<F>> {
    vec![
        ("an empty store recovers to nothing", cases::empty),
        ("identity and hard state survive", cases::identity_and_hard_state),
        ("identity and hard state change together", cases::one_record),
        ("appended entries are read back as written", cases::appended),
        ("a block replaces the suffix from its first index", cases::overwrite),
        ("a block replaces from the middle of another", cases::overwrite_inside_a_block),
        ("terms and configurations follow a truncation", cases::configurations),
        ("what a witness keeps is read back as written", cases::withheld),
        ("completions come in order", cases::order),
        ("what completed survives a crash", cases::completed_survives),
        ("a crash keeps a prefix of whole batches", cases::prefix),
        ("entries can be compacted", cases::compact),
        ("compaction ends inside a block", cases::compact_inside_a_block),
        ("the configuration in force outlives its entry", cases::base_configuration),
        ("the configuration in force outlives many entries", cases::base_far_behind),
        ("a reset empties the log", cases::reset_empties),
        ("a reset goes back as well", cases::reset_over_a_longer_log),
        ("a read after another log's entry is superseded", cases::superseded),
        ("reads are bounded and contiguous", cases::bounded),
        ("a reader outlives writes and sees them", cases::reader_sees_writes),
        ("a dropped handle leaves whole batches", cases::dropped_handle),
        ("large blocks survive", cases::large),
        ("hard state survives many appends", cases::hard_state_stays),
        ("random batches and crashes leave a prefix", cases::random),
        ("snapshots are read back as written", snapshots::read_back),
        ("snapshots are listed oldest first", snapshots::listed),
        ("a snapshot that is not committed is none", snapshots::abandoned),
        ("a snapshot that a crash cuts off is none", snapshots::cut_off),
        ("a committed snapshot survives a crash", snapshots::committed_survives),
        ("a snapshot replaces one with the same end", snapshots::replaced),
        ("a deleted snapshot is gone", snapshots::deleted),
        ("a reader pins its snapshot", snapshots::pinned),
        ("snapshots and the log leave each other alone", snapshots::beside_the_log),
        ("two snapshots are written at a time", snapshots::two_at_a_time),
    ]
}

/// Runs every case on a fixture of its own.
///
/// # Panics
/// When the store breaks a rule; the message begins with the name of the case.
pub fn run<F: Fixture>(mut fixture: impl FnMut() -> F) {
    for (name, case) in cases::<F>() {
        case(&mut Session { name, fixture: fixture(), model: Model::default() });
    }
}

/// What a case works with: the fixture, and a model of what the store should hold.
pub struct Session<F> {
    name: &'static str,
    fixture: F,
    model: Model,
}

impl<F: Fixture> Session<F> {
    /// A session for running a case outside of [`run`]; `name` is in its messages.
    pub fn new(name: &'static str, fixture: F) -> Self {
        Self { name, fixture, model: Model::default() }
    }

    fn open(&mut self) -> F::Storage {
        match self.fixture.open() {
            Ok(storage) => storage,
            Err(e) => panic!("{}: open failed: {e}", self.name),
        }
    }

    /// An open, recovered, empty store whose group has seen term 9.
    fn start(&mut self) -> F::Storage {
        let mut storage = self.open();
        self.expect(&mut storage);
        self.write(&mut storage, vec![hard_state(9, Some(3))]);
        storage
    }

    fn reopen(&mut self) -> F::Storage {
        match self.fixture.reopen() {
            Ok(storage) => storage,
            Err(e) => panic!("{}: reopen failed: {e}", self.name),
        }
    }

    /// Writes a batch to store and model, waits until it is durable.
    fn write(&mut self, storage: &mut F::Storage, ops: Vec<LogOp>) {
        ops.iter().for_each(|op| self.model.apply(op));
        let outcome = submit(storage, ops);
        self.wait(outcome);
    }

    fn wait(&self, outcome: Receiver<Result<(), StorageError>>) {
        match outcome.recv_timeout(PATIENCE) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => panic!("{}: a write failed: {e}", self.name),
            Err(_) => panic!("{}: a write was never completed", self.name),
        }
    }

    /// Recovers `storage` and compares it with the model, entries included.
    fn expect(&self, storage: &mut F::Storage) {
        let found = self.recover(storage);
        assert_eq!(found, self.model.recovered(), "{}: recovered state", self.name);
        self.expect_entries(storage);
    }

    /// Compares what can be read with the model, without recovering.
    fn expect_entries(&self, storage: &F::Storage) {
        let model = self.model.recovered();
        let found = self.entries(&*storage.reader(), model.compacted, model.last.index);
        assert_eq!(found, self.model.entries, "{}: entries", self.name);
    }

    /// Recovers `storage`, finds the state of the model that it holds, and goes on from there.
    fn expect_one_of(&mut self, storage: &mut F::Storage, states: &[Model]) {
        let found = self.recover(storage);
        let entries = self.entries(&*storage.reader(), found.compacted, found.last.index);
        let holds = |state: &&Model| state.recovered() == found && state.entries == entries;
        match states.iter().find(holds) {
            Some(state) => self.model = state.clone(),
            None => panic!(
                "{}: no prefix of the batches that holds the completed ones: {found:?}",
                self.name
            ),
        }
    }

    fn recover(&self, storage: &mut F::Storage) -> Recovered {
        match storage.recover() {
            Ok(found) => found,
            Err(e) => panic!("{}: recovery failed: {e}", self.name),
        }
    }

    /// Crashes, reopens, and compares with the model.
    fn crash(&mut self, storage: F::Storage) -> F::Storage {
        self.fixture.crash(storage);
        let mut storage = self.reopen();
        self.expect(&mut storage);
        storage
    }

    /// Everything after `after`, by as many reads as it takes.
    fn entries(&self, reader: &dyn LogReader, after: LogId, last: Index) -> Entries {
        let mut entries = Entries::new();
        let mut after = after;
        while after.index < last {
            let blocks = match block_on(reader.read(after, last, 1000)) {
                Ok(blocks) => blocks,
                Err(e) => panic!("{}: reading after {after}: {e}", self.name),
            };
            assert!(!blocks.is_empty(), "{}: nothing after {after}", self.name);
            for block in blocks {
                assert_eq!(block.first(), after.index + 1, "{}: contiguous", self.name);
                assert!(block.last().index <= last, "{}: beyond what was asked", self.name);
                after = block.last();
                put(&mut entries, &block);
            }
        }
        entries
    }

    fn read(
        &self,
        storage: &F::Storage,
        after: LogId,
        through: Index,
        max_bytes: usize,
    ) -> Result<Vec<EntryBlock>, LogReadError> {
        block_on(storage.reader().read(after, through, max_bytes))
    }
}

/// Entry by index: term, kind, codec version, payload; none if it is withheld.
type Entries = BTreeMap<Index, (u64, EntryKind, u16, Option<Bytes>)>;

#[derive(Clone, Debug, Default)]
struct Model {
    identity: Option<Identity>,
    hard_state: HardState,
    compacted: LogId,
    /// The configuration in force at `compacted`, once its entry may be gone.
    base: Option<(LogId, Membership)>,
    entries: Entries,
}

fn put(entries: &mut Entries, block: &EntryBlock) {
    let mut payloads = block.entries().map(Bytes::copy_from_slice);
    for index in block.first()..=block.last().index {
        entries.insert(index, (block.term(), block.kind(), block.codec(), payloads.next()));
    }
}

impl Model {
    fn apply(&mut self, op: &LogOp) {
        match op {
            LogOp::Identity(identity) => self.identity = Some(*identity),
            LogOp::HardState(hard_state) => self.hard_state = *hard_state,
            LogOp::Append(block) => {
                self.entries.split_off(&block.first());
                put(&mut self.entries, block);
            }
            LogOp::Compact { through } => {
                let mut configurations = self.configurations().into_iter();
                self.base = configurations.rfind(|(id, _)| id.index <= through.index);
                self.entries = self.entries.split_off(&(through.index + 1));
                self.compacted = *through;
            }
            LogOp::Reset { to, configuration } => {
                self.entries.clear();
                self.compacted = *to;
                self.base = Some(configuration.clone());
            }
        }
    }

    fn configurations(&self) -> Vec<(LogId, Membership)> {
        let mut configurations = Vec::from_iter(self.base.clone());
        for (&index, (term, kind, _, payload)) in &self.entries {
            if *kind == EntryKind::Configuration {
                let payload = payload.as_ref().expect("a configuration is never withheld");
                let membership = Membership::from_bytes(payload).expect("the model's own bytes");
                configurations.push((LogId::new(*term, index), membership));
            }
        }
        configurations
    }

    fn recovered(&self) -> Recovered {
        let mut runs: Vec<TermRun> = Vec::new();
        let mut last = self.compacted;
        for (&index, (term, ..)) in &self.entries {
            last = LogId::new(*term, index);
            if runs.last().is_none_or(|run| run.term != *term) {
                runs.push(TermRun { first: index, term: *term });
            }
        }
        Recovered {
            identity: self.identity,
            hard_state: self.hard_state,
            compacted: self.compacted,
            last,
            runs,
            configurations: self.configurations(),
        }
    }
}

fn submit(storage: &mut impl RaftStorage, ops: Vec<LogOp>) -> Receiver<Result<(), StorageError>> {
    let (sender, receiver) = mpsc::channel();
    // A case that gave up has dropped its receiver.
    let done = WriteDone::new(move |outcome| drop(sender.send(outcome)));
    storage.submit(WriteBatch { ops }, done);
    receiver
}

fn hard_state(term: u64, voted_for: Option<u64>) -> LogOp {
    LogOp::HardState(HardState::new(term, voted_for))
}

fn identity(cluster: u64) -> LogOp {
    LogOp::Identity(Identity { node: 7, incarnation: 0xfeed_beef_0bad_cafe, cluster })
}

/// `count` commands, told apart by term and index.
fn commands(term: u64, first: Index, count: u64) -> EntryBlock {
    let mut batch = Batch::new(4);
    for index in first..first + count {
        batch.push(format!("command {term}.{index}").as_bytes());
    }
    batch.seal(LogId::new(term, first))
}

fn append(term: u64, first: Index, count: u64) -> LogOp {
    LogOp::Append(commands(term, first, count))
}

fn membership(voters: u64) -> Membership {
    Membership::of_voters((1..=voters).map(|id| (id, format!("node{id}:7000"))))
        .expect("a membership with voters")
}

fn configuration(term: u64, index: Index, voters: u64) -> LogOp {
    LogOp::Append(EntryBlock::configuration(LogId::new(term, index), &membership(voters)))
}

/// A reset to a snapshot whose configuration stands `behind` entries before its end.
fn reset(to: LogId, behind: u64, voters: u64) -> LogOp {
    let at = LogId::new(to.term, to.index.saturating_sub(behind));
    LogOp::Reset { to, configuration: (at, membership(voters)) }
}

/// xorshift: a generator of its own, so that a failure names a seed that means the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Polls `future` to its end on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
