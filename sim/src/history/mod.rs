//! What clients asked and were told, and whether a correct service could have told them that.
//!
//! Clients record their calls in a [`History`]; [`linearizability::check`] then looks for an order
//! of the operations, each at one moment between its call and its return, that a [`Model`] of the
//! service agrees with. [`registers`] is the model of a key-value store; one for a state machine of
//! your own is a page of code. Nothing here knows of Raft: a history may come from simulated
//! clients, from tasks, threads or a log file.
//!
//! What makes histories of a distributed system hard to judge is the call that ended in a timeout.
//! It may have happened, may happen at any later time, or may never happen; but it can't happen and
//! then not have happened:
//!
//! ```
//! use quorate_sim::history::registers::{Input, Output, Registers};
//! use quorate_sim::history::{History, linearizability};
//!
//! let read = Input::Read { key: "x" };
//! let history = History::new();
//! history.invoke(1, Input::Write { key: "x", value: 1 }).unknown(); // a timeout
//! history.invoke(2, read.clone()).returned(Output::Read(None));
//! history.invoke(2, read.clone()).returned(Output::Read(Some(1)));
//!
//! // The write was seen long after its client had given up. That is fine.
//! linearizability::check(&Registers::new(), &history.operations()).unwrap();
//!
//! // But it was seen, so it must stay.
//! history.invoke(3, read).returned(Output::Read(None));
//! let violation = linearizability::check(&Registers::new(), &history.operations()).unwrap_err();
//! assert_eq!(violation.key, "x");
//! assert_eq!(violation.culprit.client, 3);
//! ```
//!
//! A call inside a task is recorded by [`History::record`]. If the task is dropped while it waits,
//! as that of a crashed client is, the outcome of its call is unknown:
//!
//! ```
//! use quorate_sim::history::registers::{Input, Output};
//! use quorate_sim::history::{History, Outcome};
//!
//! let history = History::new();
//! let write = Input::Write { key: "x", value: 1 };
//! let call = async { Outcome::Returned(Output::<i32>::Written) };
//! let mut client = Box::pin(history.record(1, write, call));
//! # use std::{future::Future, task::{Context, Waker}};
//! # assert!(client.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
//! assert_eq!(history.to_string(), "[0, 1] client 1: Write { key: \"x\", value: 1 } -> Written\n");
//! ```
//!
//! [`Model`]: linearizability::Model

pub mod linearizability;
pub mod registers;
mod search;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a call ended, as far as its client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<O> {
    /// It happened, with this output.
    Returned(O),
    /// It may have happened at any time since the call, may still happen, or may never.
    Unknown,
    /// It certainly did not and will not happen. It stays in the dump; checks leave it out.
    Failed,
}

/// A place in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The number of calls and returns before it. Only this orders operations.
    pub position: u64,
    /// What the history's clock said, if it has one. Only for display.
    pub time: Option<Duration>,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<I, O> {
    /// Who called. Only for display: a client may have several calls open.
    pub client: u64,
    /// What was asked.
    pub input: I,
    /// When the call began.
    pub invoked: Moment,
    /// When its client learned of the outcome, or gave up. `None` if it never did.
    pub ended: Option<Moment>,
    /// How it ended.
    pub outcome: Outcome<O>,
}

impl<I: fmt::Debug, O: fmt::Debug> Operation<I, O> {
    /// One line, with positions padded to `width`.
    fn line(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        write!(f, "[{:>width$}, ", self.invoked.position)?;
        match self.ended {
            Some(ended) => write!(f, "{:>width$}]", ended.position)?,
            None => write!(f, "{:>width$}]", "-")?,
        }
        if let Some(time) = self.invoked.time {
            write!(f, " {:.6}s..", time.as_secs_f64())?;
            if let Some(time) = self.ended.and_then(|ended| ended.time) {
                write!(f, "{:.6}s", time.as_secs_f64())?;
            }
        }
        write!(f, " client {}: {:?} -> ", self.client, self.input)?;
        match &self.outcome {
            Outcome::Returned(output) => write!(f, "{output:?}"),
            Outcome::Unknown => f.write_str("unknown"),
            Outcome::Failed => f.write_str("failed"),
        }
    }
}

/// `[invoked, ended] client: input -> outcome`, on one line.
impl<I: fmt::Debug, O: fmt::Debug> fmt::Display for Operation<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line(f, 1)
    }
}

type Clock = dyn Fn() -> Duration + Send + Sync;

/// A recorder of operations. Clones write to the same history.
pub struct History<I, O> {
    recorded: Arc<Mutex<Recorded<I, O>>>,
    clock: Option<Arc<Clock>>,
}

struct Recorded<I, O> {
    /// Calls and returns so far: the position of the next.
    events: u64,
    operations: Vec<Operation<I, O>>,
}

impl<I, O> Recorded<I, O> {
    fn moment(&mut self, time: Option<Duration>) -> Moment {
        let position = self.events;
        self.events += 1;
        Moment { position, time }
    }
}

impl<I, O> History<I, O> {
    /// An empty history, without times.
    pub fn new() -> Self {
        let recorded = Recorded { events: 0, operations: Vec::new() };
        Self { recorded: Arc::new(Mutex::new(recorded)), clock: None }
    }

    /// An empty history whose moments carry the time since some beginning, as `clock` says it.
    ///
    /// The clock of a simulation keeps the dump the same from run to run.
    pub fn with_clock(clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { clock: Some(Arc::new(clock)), ..Self::new() }
    }

    /// Records that `client` begins a call. To be called before anything of it can take effect.
    pub fn invoke(&self, client: u64, input: I) -> Call<I, O> {
        let time = self.time();
        let mut recorded = self.lock();
        let invoked = recorded.moment(time);
        let number = recorded.operations.len();
        let outcome = Outcome::Unknown;
        recorded.operations.push(Operation { client, input, invoked, ended: None, outcome });
        drop(recorded);
        Call { history: self.clone(), number }
    }

    /// Records a call around the future that makes it, and gives back its outcome.
    ///
    /// The call begins when this is first polled. If it is dropped before `call` has ended, the
    /// outcome is unknown.
    pub async fn record(
        &self,
        client: u64,
        input: I,
        call: impl Future<Output = Outcome<O>>,
    ) -> Outcome<O>
    where
        O: Clone,
    {
        let recorded = self.invoke(client, input);
        let outcome = call.await;
        recorded.ended(outcome.clone());
        outcome
    }

    /// Everything so far, in the order of the calls. Open calls count as unknown.
    pub fn operations(&self) -> Vec<Operation<I, O>>
    where
        I: Clone,
        O: Clone,
    {
        self.lock().operations.clone()
    }

    fn time(&self) -> Option<Duration> {
        self.clock.as_ref().map(|clock| clock())
    }

    /// A client that panicked leaves the history whole: nothing of the caller's runs under the lock
    /// but `Clone` and `Debug`.
    fn lock(&self) -> MutexGuard<'_, Recorded<I, O>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// By hand: inputs and outputs need not be `Clone` for the handle to be.
impl<I, O> Clone for History<I, O> {
    fn clone(&self) -> Self {
        Self { recorded: Arc::clone(&self.recorded), clock: self.clock.clone() }
    }
}

impl<I, O> Default for History<I, O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I, O> fmt::Debug for History<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("events", &self.lock().events).finish_non_exhaustive()
    }
}

/// One line per operation, in the order of the calls.
impl<I: fmt::Debug, O: fmt::Debug> fmt::Display for History<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recorded = self.lock();
        let width = recorded.events.saturating_sub(1).to_string().len();
        for operation in &recorded.operations {
            operation.line(f, width)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A call that has begun. Dropped without a word, its outcome is unknown.
#[must_use = "what became of the call? dropped, it counts as unknown"]
pub struct Call<I, O> {
    history: History<I, O>,
    number: usize,
}

impl<I, O> Call<I, O> {
    /// It happened, with this output.
    pub fn returned(self, output: O) {
        self.ended(Outcome::Returned(output));
    }

    /// Its client gave up: it may have happened, may still happen, or may never.
    pub fn unknown(self) {
        self.ended(Outcome::Unknown);
    }

    /// It certainly did not and will not happen.
    pub fn failed(self) {
        self.ended(Outcome::Failed);
    }

    /// It ended with this outcome. To be called after its client could have learned of it.
    pub fn ended(self, outcome: Outcome<O>) {
        let time = self.history.time();
        let mut recorded = self.history.lock();
        let ended = Some(recorded.moment(time));
        let operation = &mut recorded.operations[self.number];
        operation.ended = ended;
        operation.outcome = outcome;
    }
}

impl<I, O> fmt::Debug for Call<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("number", &self.number).finish_non_exhaustive()
    }
}
