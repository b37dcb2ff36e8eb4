//! Who waits for an answer: the one place where the types of the application meet the node.
//!
//! The handle puts a caller here under a token before it sends the token to the node; the apply
//! worker, which has the typed response, answers it. The node carries tokens and bytes only, so it
//! has no type parameter and is compiled once.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};

use anyerror::AnyError;
use bytes::Bytes;
use quorate_engine::Index;
use quorate_network::CallOutcome;
use quorate_storage::{Codec, StateMachine};
use slab::Slab;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::calls::ClientCall;
use crate::error::{ReadError, WriteError};
use crate::spin::{Crowd, Spin};

/// Names a waiting caller. Never used twice in the life of a process.
pub(crate) type Token = u64;

/// One waiting caller.
pub(crate) enum Caller<S: StateMachine> {
    /// Of one command.
    Write(oneshot::Sender<Written<S::Response>>),
    /// Of several.
    WriteMany(oneshot::Sender<Written<Vec<S::Response>>>),
    /// Of one command of a session.
    Once(oneshot::Sender<Written<Once<S::Response>>>),
    /// Of a session to be opened.
    Open(oneshot::Sender<Written<u64>>),
    /// With a closure for the state, or the reason why it is not called.
    Read(ReadFn<S>),
    /// For a state that is new enough, which it looks at by itself.
    Wait(oneshot::Sender<Served<()>>),
    /// A client's call, for a write or for a read index.
    Client(ClientCall),
}

/// What a writer is told. Failures are rare and large: a box for them keeps all else in a cache line.
pub(crate) type Written<T> = Result<T, Box<WriteError>>;

/// What a reader is told.
pub(crate) type Served<T> = Result<T, Box<ReadError>>;

/// What a write of a session has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once<R> {
    /// The response, of the first time it was applied.
    pub response: R,
    /// Whether that was before this attempt.
    pub repeated: bool,
}

/// What the leader says of a write that was passed on to it and is done.
pub(crate) enum Completed {
    /// One encoded response per command.
    Applied(Vec<Bytes>),
    /// Of a write of a session that was done before.
    Repeated(Bytes),
    /// A session is open.
    Opened(u64),
}

pub(crate) type ReadFn<S> = Box<dyn FnOnce(Result<&S, ReadError>) + Send>;

/// Callers that may wait at a time, writers and readers; more are `Overloaded`.
const MAX_CALLERS: usize = 1 << 20;

/// Why a caller can't wait here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    Stopped,
    Full,
}

impl From<NoPlace> for WriteError {
    fn from(why: NoPlace) -> Self {
        match why {
            NoPlace::Stopped => WriteError::Stopped,
            NoPlace::Full => WriteError::Overloaded,
        }
    }
}

impl From<NoPlace> for ReadError {
    fn from(why: NoPlace) -> Self {
        match why {
            NoPlace::Stopped => ReadError::Stopped,
            NoPlace::Full => ReadError::Overloaded,
        }
    }
}

/// All waiting callers of a group.
pub(crate) struct Callers<S: StateMachine> {
    table: Mutex<Table<S>>,
    spin: Spin,
}

struct Table<S: StateMachine> {
    slots: Slab<(u32, Caller<S>)>,
    /// Distinguishes the users of one slot over time.
    generation: u32,
    crowd: Crowd,
    closed: bool,
}

/// A caller's place.
pub(crate) struct Seat {
    pub(crate) token: Token,
    /// For whoever waits last: how many answers there were before.
    seen: Option<u64>,
}

/// What the node knows of the application: nothing but this.
pub(crate) trait Application: Send + Sync + 'static {
    /// The version of its codec.
    fn codec(&self) -> u16;

    /// Whether bytes are a command.
    fn check(&self, codec: u16, command: &Bytes) -> Result<(), AnyError>;

    /// Tells writers that there is no response.
    fn fail_writes(&self, failures: &mut Vec<(Token, WriteError)>);

    /// Tells a reader that there is no read.
    fn fail_read(&self, token: Token, error: ReadError);

    /// The state is as new as these readers want it: whoever only waits for that is told so. Returns the
    /// others.
    fn complete_waits(&self, tokens: Vec<Token>) -> Vec<Token>;

    /// Tells a client the read index that it asked for.
    fn complete_index(&self, token: Token, index: Index);

    /// A forwarded write is done at the leader.
    fn complete_forwarded(&self, token: Token, completed: Completed);

    /// No answer will come any more: what waits is told so, and so is everyone later.
    fn close(&self);
}

impl<S: StateMachine> Callers<S> {
    pub(crate) fn new(spin: Spin) -> Arc<Self> {
        let (slots, crowd) = (Slab::new(), Crowd::default());
        let table = Mutex::new(Table { slots, generation: 0, crowd, closed: false });
        Arc::new(Self { table, spin })
    }

    fn lock(&self) -> MutexGuard<'_, Table<S>> {
        // Nothing panics while it is held but an allocation; what is in it stays consistent.
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a caller.
    pub(crate) fn insert(&self, caller: Caller<S>) -> Result<Seat, NoPlace> {
        self.insert_or_back(caller).map_err(|(why, _)| why)
    }

    /// Adds a caller, or gives it back to be told why not.
    pub(crate) fn insert_or_back(&self, caller: Caller<S>) -> Result<Seat, (NoPlace, Caller<S>)> {
        let mut table = self.lock();
        if table.closed {
            return Err((NoPlace::Stopped, caller));
        }
        if table.slots.len() >= MAX_CALLERS {
            return Err((NoPlace::Full, caller));
        }
        table.generation = table.generation.wrapping_add(1);
        let generation = table.generation;
        let slot = table.slots.insert((generation, caller));
        let waiting = table.slots.len();
        let seen = table.crowd.is_all(waiting).then(|| self.spin.answers());
        Ok(Seat { token: u64::from(generation) << 32 | slot as u64, seen })
    }

    /// Returns when a caller is to sleep until its answer comes: at once, but for the one who waits last.
    pub(crate) async fn watch<T>(&self, seat: &Seat, answer: &oneshot::Receiver<T>) {
        let Some(seen) = seat.seen.filter(|_| self.spin.is_worth_it()) else { return };
        // Whoever calls when everybody else on this thread had a turn waits later.
        yield_now().await;
        if self.lock().generation == generation(seat.token) {
            self.spin.watch(seen, answer);
        }
    }

    /// Takes the callers of `tokens`, in order, to be told something; `None` for one that is gone.
    pub(crate) fn take_all(
        &self,
        tokens: impl IntoIterator<Item = Token>,
        into: &mut Vec<Option<Caller<S>>>,
    ) {
        let before = into.len();
        let mut table = self.lock();
        into.extend(tokens.into_iter().map(|token| table.take(token)));
        if into.len() > before {
            self.spin.answering();
        }
    }

    pub(crate) fn take(&self, token: Token) -> Option<Caller<S>> {
        self.spin.answering();
        self.lock().take(token)
    }
}

/// Of the caller of `token`, and of nobody else for a long time.
fn generation(token: Token) -> u32 {
    (token >> 32) as u32
}

/// Where the caller of `token` is, if it is the one there.
fn slot(token: Token) -> usize {
    (token & 0xffff_ffff) as usize
}

impl<S: StateMachine> Table<S> {
    fn get(&self, token: Token) -> Option<&Caller<S>> {
        let (of, caller) = self.slots.get(slot(token))?;
        (*of == generation(token)).then_some(caller)
    }

    fn take(&mut self, token: Token) -> Option<Caller<S>> {
        self.get(token)?;
        Some(self.slots.remove(slot(token)).1)
    }
}

impl<S: StateMachine> Caller<S> {
    pub(crate) fn fail_write(self, error: WriteError) {
        let error = Box::new(error);
        // A caller that has gone away does not want to know.
        match self {
            Caller::Write(reply) => drop(reply.send(Err(error))),
            Caller::WriteMany(reply) => drop(reply.send(Err(error))),
            Caller::Once(reply) => drop(reply.send(Err(error))),
            Caller::Open(reply) => drop(reply.send(Err(error))),
            Caller::Client(call) => call.fail_write(*error),
            Caller::Read(_) | Caller::Wait(_) => unreachable!("a write's token names a writer"),
        }
    }

    fn closed(self) {
        match self {
            Caller::Read(f) => f(Err(ReadError::Stopped)),
            Caller::Wait(reply) => drop(reply.send(Err(ReadError::Stopped.into()))),
            // It was on its way somewhere when the node stopped.
            writer => writer.fail_write(WriteError::Unknown),
        }
    }
}

impl<S: StateMachine> Application for Callers<S> {
    fn codec(&self) -> u16 {
        <S::Codec as Codec<S::Command>>::VERSION
    }

    fn check(&self, codec: u16, command: &Bytes) -> Result<(), AnyError> {
        let decode = || <S::Codec as Codec<S::Command>>::decode(codec, command.clone()).map(drop);
        // The bytes are a peer's, the code is the user's; neither may take the node down.
        let refuse = |_| Err(AnyError::error("the codec panicked"));
        std::panic::catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(refuse)
    }

    fn fail_writes(&self, failures: &mut Vec<(Token, WriteError)>) {
        if failures.is_empty() {
            return;
        }
        let mut callers = Vec::with_capacity(failures.len());
        self.take_all(failures.iter().map(|(token, _)| *token), &mut callers);
        for (caller, (_, error)) in callers.into_iter().zip(failures.drain(..)) {
            if let Some(caller) = caller {
                caller.fail_write(error);
            }
        }
    }

    fn fail_read(&self, token: Token, error: ReadError) {
        match self.take(token) {
            Some(Caller::Read(f)) => f(Err(error)),
            Some(Caller::Wait(reply)) => drop(reply.send(Err(error.into()))),
            Some(Caller::Client(call)) => call.fail_read(error),
            _ => {}
        }
    }

    fn complete_waits(&self, mut tokens: Vec<Token>) -> Vec<Token> {
        let mut waiting = Vec::with_capacity(tokens.len());
        {
            let mut table = self.lock();
            tokens.retain(|token| {
                let waits = matches!(table.get(*token), Some(Caller::Wait(_)));
                if waits {
                    waiting.extend(table.take(*token));
                }
                !waits
            });
            if !waiting.is_empty() {
                self.spin.answering();
            }
        }
        for caller in waiting {
            if let Caller::Wait(reply) = caller {
                drop(reply.send(Ok(())));
            }
        }
        tokens
    }

    fn complete_index(&self, token: Token, index: Index) {
        if let Some(Caller::Client(call)) = self.take(token) {
            call.answer(CallOutcome::ReadIndex(index));
        }
    }

    fn complete_forwarded(&self, token: Token, completed: Completed) {
        let Some(caller) = self.take(token) else { return };
        // The bytes come from a peer: whatever they are, the write was done.
        let decode = |bytes: &Bytes| {
            let version = <S::Codec as Codec<S::Response>>::VERSION;
            <S::Codec as Codec<S::Response>>::decode(version, bytes.clone())
                .map_err(|e| Box::new(WriteError::Response(e)))
        };
        let odd = || WriteError::Response(AnyError::error("not the answer to what was asked"));
        match (caller, completed) {
            (Caller::WriteMany(reply), Completed::Applied(responses)) => {
                drop(reply.send(responses.iter().map(decode).collect()));
            }
            (Caller::Write(reply), Completed::Applied(responses)) => {
                let response =
                    if let [one] = &responses[..] { decode(one) } else { Err(odd().into()) };
                drop(reply.send(response));
            }
            (Caller::Once(reply), completed) => {
                let (response, repeated) = match &completed {
                    Completed::Applied(responses) if responses.len() == 1 => {
                        (decode(&responses[0]), false)
                    }
                    Completed::Repeated(response) => (decode(response), true),
                    _ => (Err(odd().into()), false),
                };
                drop(reply.send(response.map(|response| Once { response, repeated })));
            }
            (Caller::Open(reply), Completed::Opened(session)) => drop(reply.send(Ok(session))),
            (Caller::Read(_) | Caller::Wait(_) | Caller::Client(_), _) => {}
            (caller, _) => caller.fail_write(odd()),
        }
    }

    fn close(&self) {
        let slots = {
            let mut table = self.lock();
            table.closed = true;
            std::mem::take(&mut table.slots)
        };
        for (_, (_, caller)) in slots {
            caller.closed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;
    use crate::testing::Counter;

    type Answer = oneshot::Receiver<Written<u64>>;

    fn call(callers: &Callers<Counter>) -> (Seat, Answer) {
        let (reply, answer) = oneshot::channel();
        let Ok(seat) = callers.insert(Caller::Write(reply)) else { unreachable!("there is room") };
        (seat, answer)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn only_who_waits_last_watches_and_lets_others_go_first() {
        let callers = Callers::<Counter>::new(Spin::new(Duration::from_micros(1)));
        let untried = callers.spin.credit();
        let (first, answer) = call(&callers);
        let mut watching = Box::pin(callers.watch(&first, &answer));
        assert!((&mut watching).now_or_never().is_none(), "others first");
        // One of them calls, so the first sleeps at once.
        let (second, other) = call(&callers);
        watching.await;
        assert_eq!(callers.spin.credit(), untried);
        callers.watch(&second, &other).await;
        assert!(callers.spin.credit() < untried, "nobody is left to call: it watches, in vain");
        // Two waited lately, so one that waits has somebody left.
        callers.take(second.token);
        callers.take(first.token);
        let (third, answer) = call(&callers);
        assert!(callers.watch(&third, &answer).now_or_never().is_some());
    }
}
