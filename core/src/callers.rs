//! Who waits for an answer, and what they ask: where the types of the application meet the node.
//!
//! The handle puts a caller here, with a request that has a token in place of the caller. The node takes the
//! requests; the apply worker, which has the typed response, tells the caller. The node carries tokens and bytes
//! only, so it has no type parameter and is compiled once.
//!
//! A caller and its request are put here under one lock, and callers are told many at a time, by [`post`]:
//! with a thousand callers on other threads than the node's, what they share is what a write costs.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use anyerror::AnyError;
use bytes::Bytes;
use futures::task::AtomicWaker;
use quorate_engine::Index;
use quorate_network::CallOutcome;
use quorate_storage::{Codec, StateMachine};
use slab::Slab;
use tokio::runtime;
use tokio::task::yield_now;

use crate::calls::ClientCall;
use crate::control::Request;
use crate::error::{ReadError, WriteError};
use crate::post::{self, Post};
use crate::spin::{Crowd, Spin};

/// Names a waiting caller. Never used twice in the life of a process.
pub(crate) type Token = u64;

/// No caller's token: generations begin with 1.
const NOBODY: Token = 0;

/// In the tokens of those who may be told by post.
const BY_POST: Token = 1 << 31;

/// One waiting caller.
pub(crate) enum Caller<S: StateMachine> {
    /// Sleeps until it is told, and is woken then.
    Asleep(Waker),
    /// Was told, and has not looked yet.
    Told(Reply<S>),
    /// With a closure for the state, or the reason why it is not called.
    Read(ReadFn<S>),
    /// A client's call, for a write or for a read index.
    Client(ClientCall),
}

/// What a caller is told. What is rare and large is in a box, so that a caller fits a cache line.
pub(crate) enum Reply<S: StateMachine> {
    One(S::Response),
    Many(Vec<S::Response>),
    /// Kept since it was applied first, with the version of the codec that wrote it.
    Repeated(Box<(u16, Bytes)>),
    /// The number of a session.
    Opened(u64),
    /// By the leader, to whom the write was passed on.
    Forwarded(Box<Completed>),
    /// The state is as new as it is wanted.
    Current,
    WriteFailed(Box<WriteError>),
    ReadFailed(Box<ReadError>),
    /// No answer will come.
    Closed,
}

/// What a writer is told, of its type. Failures are rare and large.
pub(crate) type Written<T> = Result<T, Box<WriteError>>;

/// What a reader is told, of its type.
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

/// Callers that may wait at a time, writers and readers, and requests of theirs; more are `Overloaded`.
const MAX_CALLERS: usize = 1 << 20;

/// Callers that are told under one lock, while others want to ask. Those are on their way to ask again while the
/// next are told.
const TOLD_AT_ONCE: usize = 64;

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
    /// Who came last, if nobody was left to call then.
    watcher: AtomicU64,
    /// The node, while there are no requests.
    node: AtomicWaker,
    spin: Spin,
    pub(crate) post: Post<S>,
    /// Whether many wait, who may be told by post.
    crowded: AtomicBool,
}

struct Table<S: StateMachine> {
    slots: Slab<(u32, Caller<S>)>,
    /// Of those, who were not told.
    waiting: usize,
    /// Distinguishes the users of one slot over time.
    generation: u32,
    crowd: Crowd,
    /// When the last caller came: how many answers there were, if nobody was left to call.
    seen: Option<u64>,
    /// Where the postman is.
    post: Option<runtime::Id>,
    /// Those that the node has not taken.
    requests: VecDeque<Request>,
    /// Nobody can ask any more.
    closed: bool,
}

/// What the node knows of the application: nothing but this.
pub(crate) trait Application: Send + Sync + 'static {
    /// The version of its codec.
    fn codec(&self) -> u16;

    /// Whether bytes are a command.
    fn check(&self, codec: u16, command: &Bytes) -> Result<(), AnyError>;

    /// Takes requests, as long as `into` has fewer than `limit`, or waits for one. False when there is none and
    /// nobody can ask any more.
    fn poll_requests(
        &self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Request>,
        limit: usize,
    ) -> Poll<bool>;

    /// Takes requests, as long as `into` has fewer than `limit`.
    fn take_requests(&self, into: &mut VecDeque<Request>, limit: usize);

    /// From now on nobody can ask.
    fn turn_away(&self);

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
        let table = Table {
            slots: Slab::new(),
            waiting: 0,
            generation: 0,
            crowd: Crowd::default(),
            seen: None,
            post: None,
            requests: VecDeque::new(),
            closed: false,
        };
        Arc::new(Self {
            table: Mutex::new(table),
            watcher: AtomicU64::new(NOBODY),
            node: AtomicWaker::new(),
            spin,
            post: Post::new(),
            crowded: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table<S>> {
        // Nothing panics while it is held but an allocation; what is in it stays consistent.
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a caller, with what it asks of the node.
    #[inline]
    pub(crate) fn ask(
        self: &Arc<Self>,
        caller: Caller<S>,
        request: impl FnOnce(Token) -> Request,
    ) -> Result<Token, (NoPlace, Caller<S>)> {
        let sleeper = matches!(caller, Caller::Asleep(_));
        let many = sleeper && self.crowded.load(Ordering::Relaxed);
        let here = if many { post::here() } else { None };
        let mut table = self.lock();
        let vacant = here.is_some() && table.post.is_none();
        let by_post = here.is_some() && table.post == here;
        let token = self.seat(&mut table, caller, by_post)?;
        let first = table.requests.is_empty();
        // Put together where it stays: see `Outputs::push_with`.
        table.requests.extend(std::iter::once_with(|| request(token)));
        drop(table);
        if first {
            self.node.wake();
        }
        if vacant {
            self.employ();
        }
        Ok(token)
    }

    /// Adds a caller that asks nothing of the node.
    pub(crate) fn add(&self, caller: Caller<S>) -> Result<Token, (NoPlace, Caller<S>)> {
        self.seat(&mut self.lock(), caller, false)
    }

    #[inline]
    fn seat(
        &self,
        table: &mut Table<S>,
        caller: Caller<S>,
        by_post: bool,
    ) -> Result<Token, (NoPlace, Caller<S>)> {
        let token = table.add(caller)? | if by_post { BY_POST } else { 0 };
        table.seen = table.crowd.is_all(table.waiting).then(|| self.spin.answers());
        self.watcher.store(if table.seen.is_some() { token } else { NOBODY }, Ordering::Relaxed);
        let crowded = table.slots.len() >= post::CROWD;
        if crowded != self.crowded.load(Ordering::Relaxed) {
            self.crowded.store(crowded, Ordering::Relaxed);
        }
        Ok(token)
    }

    /// What a sleeping caller is told. Who goes away before that is told nothing.
    pub(crate) async fn told(&self, token: Token) -> Reply<S> {
        let seat = Seat { callers: self, token, taken: true };
        self.watch(token).await;
        seat.await
    }

    /// Returns when a caller is to sleep until its answer comes: at once, but for the one who waits last.
    pub(crate) async fn watch(&self, token: Token) {
        let watches = || self.watcher.load(Ordering::Relaxed) == token;
        if watches() && self.spin.is_worth_it() {
            // Whoever calls when everybody else on this thread had a turn waits later.
            yield_now().await;
            let seen = self.lock().seen.filter(|_| watches());
            if let Some(seen) = seen {
                self.spin.watch(seen);
            }
        }
    }

    /// Tells callers, many of them by post. Returns those that don't sleep, to be told by whoever has the reply; of
    /// one that is gone nobody wants to know.
    pub(crate) fn tell(
        &self,
        replies: impl IntoIterator<Item = (Token, Reply<S>), IntoIter: ExactSizeIterator>,
    ) -> Vec<(Caller<S>, Reply<S>)> {
        let replies = replies.into_iter();
        if replies.len() < post::MANY || !self.crowded.load(Ordering::Relaxed) {
            return self.tell_here(replies);
        }
        let by_post = |(token, _): &(Token, Reply<S>)| *token & BY_POST != 0;
        let replies: Vec<_> = replies.collect();
        // Nearly always, so that they need not be moved.
        let (letters, here) = if replies.iter().all(by_post) {
            (replies, vec![])
        } else {
            replies.into_iter().partition(by_post)
        };
        self.tell_sleepers(self.post.send(letters));
        self.tell_here(here)
    }

    /// Tells callers that sleep.
    pub(crate) fn tell_sleepers(&self, replies: Vec<(Token, Reply<S>)>) {
        let others = self.tell_here(replies);
        assert!(others.is_empty(), "nobody else is told by post");
    }

    fn tell_here(
        &self,
        replies: impl IntoIterator<Item = (Token, Reply<S>), IntoIter: ExactSizeIterator>,
    ) -> Vec<(Caller<S>, Reply<S>)> {
        let mut replies = replies.into_iter();
        let mut found = Found { sleepers: Vec::new(), others: Vec::new(), unwanted: Vec::new() };
        while replies.len() > 0 {
            {
                let mut table = self.lock();
                for (token, reply) in replies.by_ref().take(TOLD_AT_ONCE) {
                    table.tell(token, reply, &mut found);
                }
                self.spin.answering();
            }
            found.sleepers.drain(..).for_each(Waker::wake);
        }
        found.others
    }

    /// Has the next of those who ask here told by post.
    #[cold]
    fn employ(self: &Arc<Self>) {
        let Some(runtime) = post::runtime() else { return };
        {
            let mut table = self.lock();
            if table.closed || table.post.is_some() {
                return;
            }
            table.post = Some(runtime.id());
            // Under the lock, so that nothing begins behind the end of everything.
            self.post.begin();
        }
        post::employ(self, &runtime);
    }

    /// There is no postman any more: what he left is delivered, and the next may come.
    pub(crate) fn end_post(&self) {
        self.tell_sleepers(self.post.end());
        self.lock().post = None;
    }

    /// Takes the callers of `tokens`, in order, to be told something; `None` for one that is gone.
    pub(crate) fn take_all(
        &self,
        tokens: impl IntoIterator<Item = Token>,
    ) -> Vec<Option<Caller<S>>> {
        let mut table = self.lock();
        let taken: Vec<_> = tokens.into_iter().map(|token| table.take(token)).collect();
        if !taken.is_empty() {
            self.spin.answering();
        }
        taken
    }
}

/// The waker of the task that awaits this.
pub(crate) async fn own_waker() -> Waker {
    poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
}

/// A sleeping caller's hold on its place; whoever lets go of it is gone.
struct Seat<'a, S: StateMachine> {
    callers: &'a Callers<S>,
    token: Token,
    /// Until it was told.
    taken: bool,
}

impl<S: StateMachine> Future for Seat<'_, S> {
    type Output = Reply<S>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply<S>> {
        let before = {
            let mut table = self.callers.lock();
            let caller =
                table.get_mut(self.token).expect("a caller has its place until it is told");
            match caller {
                Caller::Asleep(waker) if waker.will_wake(cx.waker()) => None,
                Caller::Asleep(waker) => Some(std::mem::replace(waker, cx.waker().clone())),
                _ => {
                    let told = table.take(self.token);
                    drop(table);
                    self.taken = false;
                    let Some(Caller::Told(reply)) = told else { unreachable!("it slept") };
                    return Poll::Ready(reply);
                }
            }
        };
        // Without the lock: with a waker its task may go.
        drop(before);
        Poll::Pending
    }
}

impl<S: StateMachine> Drop for Seat<'_, S> {
    fn drop(&mut self) {
        if self.taken {
            let gone = self.callers.lock().take(self.token);
            drop(gone);
        }
    }
}

/// Who was to be told something. What is the application's or the runtime's is called, woken and dropped without
/// the lock.
struct Found<S: StateMachine> {
    /// Have been told, and are to be woken.
    sleepers: Vec<Waker>,
    others: Vec<(Caller<S>, Reply<S>)>,
    /// For those who are gone.
    unwanted: Vec<Reply<S>>,
}

fn token(generation: u32, slot: usize) -> Token {
    u64::from(generation) << 32 | slot as u64
}

/// Of the caller of `token`, and of nobody else for a long time.
fn generation(token: Token) -> u32 {
    (token >> 32) as u32
}

/// Where the caller of `token` is, if it is the one there.
fn slot(token: Token) -> usize {
    (token & (BY_POST - 1)) as usize
}

impl<S: StateMachine> Table<S> {
    #[inline]
    fn add(&mut self, caller: Caller<S>) -> Result<Token, (NoPlace, Caller<S>)> {
        if self.closed {
            return Err((NoPlace::Stopped, caller));
        }
        // Who goes away leaves its request behind, until the node takes it.
        if self.slots.len().max(self.requests.len()) >= MAX_CALLERS {
            return Err((NoPlace::Full, caller));
        }
        self.generation = self.generation.wrapping_add(1);
        let slot = self.slots.insert((self.generation, caller));
        self.waiting += 1;
        Ok(token(self.generation, slot))
    }

    fn get_mut(&mut self, token: Token) -> Option<&mut Caller<S>> {
        let (of, caller) = self.slots.get_mut(slot(token))?;
        (*of == generation(token)).then_some(caller)
    }

    fn take(&mut self, token: Token) -> Option<Caller<S>> {
        let told = matches!(self.get_mut(token)?, Caller::Told(_));
        self.waiting -= usize::from(!told);
        Some(self.slots.remove(slot(token)).1)
    }

    #[inline]
    fn tell(&mut self, token: Token, reply: Reply<S>, found: &mut Found<S>) {
        match self.get_mut(token) {
            None | Some(Caller::Told(_)) => found.unwanted.push(reply),
            Some(caller @ Caller::Asleep(_)) => {
                let asleep = std::mem::replace(caller, Caller::Told(reply));
                self.waiting -= 1;
                let Caller::Asleep(waker) = asleep else { unreachable!("just seen") };
                found.sleepers.push(waker);
            }
            Some(Caller::Read(_) | Caller::Client(_)) => {
                found.others.extend(self.take(token).map(|caller| (caller, reply)));
            }
        }
    }

    fn take_requests(&mut self, into: &mut VecDeque<Request>, limit: usize) {
        if into.is_empty() && self.requests.len() <= limit {
            std::mem::swap(into, &mut self.requests);
        } else {
            let room = limit.saturating_sub(into.len());
            into.extend(self.requests.drain(..room.min(self.requests.len())));
        }
    }
}

impl<S: StateMachine> Caller<S> {
    /// Of one that does not sleep.
    pub(crate) fn fail(self, reply: Reply<S>) {
        match (self, reply) {
            (Caller::Read(f), Reply::ReadFailed(error)) => f(Err(*error)),
            (Caller::Read(f), Reply::Closed) => f(Err(ReadError::Stopped)),
            (Caller::Client(call), Reply::ReadFailed(error)) => call.fail_read(*error),
            (Caller::Client(call), Reply::WriteFailed(error)) => call.fail_write(*error),
            // It was on its way somewhere when the node stopped.
            (Caller::Client(call), Reply::Closed) => call.fail_write(WriteError::Unknown),
            _ => unreachable!("a write's token names a writer, a read's a reader"),
        }
    }
}

impl<S: StateMachine> Reply<S> {
    pub(crate) fn failed(error: WriteError) -> Self {
        Reply::WriteFailed(Box::new(error))
    }

    /// To one command.
    #[inline]
    pub(crate) fn one(self) -> Written<S::Response> {
        match self {
            Reply::One(response) => Ok(response),
            Reply::Forwarded(completed) => match *completed {
                Completed::Applied(responses) => Ok(sole::<S>(responses)?),
                _ => Err(odd().into()),
            },
            failed => Err(failed.write_failed()),
        }
    }

    /// To several.
    pub(crate) fn many(self) -> Written<Vec<S::Response>> {
        match self {
            Reply::Many(all) => Ok(all),
            Reply::Forwarded(completed) => match *completed {
                Completed::Applied(responses) => {
                    responses.into_iter().map(|response| Ok(decode::<S>(response)?)).collect()
                }
                _ => Err(odd().into()),
            },
            failed => Err(failed.write_failed()),
        }
    }

    /// To one of a session.
    pub(crate) fn once(self) -> Written<Once<S::Response>> {
        let (response, repeated) = match self {
            Reply::One(response) => (response, false),
            Reply::Repeated(kept) => {
                let response = <S::Codec as Codec<S::Response>>::decode(kept.0, kept.1);
                (response.map_err(WriteError::Response)?, true)
            }
            Reply::Forwarded(completed) => match *completed {
                Completed::Applied(responses) => (sole::<S>(responses)?, false),
                Completed::Repeated(response) => (decode::<S>(response)?, true),
                Completed::Opened(_) => return Err(odd().into()),
            },
            failed => return Err(failed.write_failed()),
        };
        Ok(Once { response, repeated })
    }

    /// To who wanted a session.
    pub(crate) fn opened(self) -> Written<u64> {
        match self {
            Reply::Opened(session) => Ok(session),
            Reply::Forwarded(completed) => match *completed {
                Completed::Opened(session) => Ok(session),
                _ => Err(odd().into()),
            },
            failed => Err(failed.write_failed()),
        }
    }

    /// To who waits for a state.
    pub(crate) fn current(self) -> Served<()> {
        match self {
            Reply::Current => Ok(()),
            Reply::ReadFailed(error) => Err(error),
            Reply::Closed => Err(ReadError::Stopped.into()),
            _ => unreachable!("a read's token names a reader"),
        }
    }

    #[cold]
    fn write_failed(self) -> Box<WriteError> {
        match self {
            Reply::WriteFailed(error) => error,
            // It was on its way somewhere when the node stopped.
            Reply::Closed => WriteError::Unknown.into(),
            _ => unreachable!("one command, one response; several, several"),
        }
    }
}

/// What a leader says that was asked for something else.
fn odd() -> WriteError {
    WriteError::Response(AnyError::error("not the answer to what was asked"))
}

/// The response to one command, from the leader.
pub(crate) fn sole<S: StateMachine>(responses: Vec<Bytes>) -> Result<S::Response, WriteError> {
    let [response] = <[Bytes; 1]>::try_from(responses).map_err(|_| odd())?;
    decode::<S>(response)
}

/// A response of another node: whatever the bytes are, the write was done.
pub(crate) fn decode<S: StateMachine>(response: Bytes) -> Result<S::Response, WriteError> {
    let version = <S::Codec as Codec<S::Response>>::VERSION;
    <S::Codec as Codec<S::Response>>::decode(version, response).map_err(WriteError::Response)
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

    fn poll_requests(
        &self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Request>,
        limit: usize,
    ) -> Poll<bool> {
        // Before it looks, so that whoever asks afterwards wakes it.
        self.node.register(cx.waker());
        let mut table = self.lock();
        table.take_requests(into, limit);
        let some = !into.is_empty();
        if some || table.closed { Poll::Ready(some) } else { Poll::Pending }
    }

    fn take_requests(&self, into: &mut VecDeque<Request>, limit: usize) {
        self.lock().take_requests(into, limit);
    }

    fn turn_away(&self) {
        self.lock().closed = true;
        self.node.wake();
    }

    fn fail_writes(&self, failures: &mut Vec<(Token, WriteError)>) {
        let failed = failures.drain(..).map(|(token, error)| (token, Reply::failed(error)));
        self.tell(failed).into_iter().for_each(|(caller, reply)| caller.fail(reply));
    }

    fn fail_read(&self, token: Token, error: ReadError) {
        let failed = [(token, Reply::ReadFailed(Box::new(error)))];
        self.tell(failed).into_iter().for_each(|(caller, reply)| caller.fail(reply));
    }

    fn complete_waits(&self, tokens: Vec<Token>) -> Vec<Token> {
        let (waits, others): (Vec<_>, Vec<_>) = {
            let mut table = self.lock();
            let waits = |token: &Token| matches!(table.get_mut(*token), Some(Caller::Asleep(_)));
            tokens.into_iter().partition(waits)
        };
        let others_told = self.tell(waits.into_iter().map(|token| (token, Reply::Current)));
        assert!(others_told.is_empty(), "they slept");
        others
    }

    fn complete_index(&self, token: Token, index: Index) {
        if let Some(Some(Caller::Client(call))) = self.take_all([token]).pop() {
            call.answer(CallOutcome::ReadIndex(index));
        }
    }

    fn complete_forwarded(&self, token: Token, completed: Completed) {
        let others = self.tell([(token, Reply::Forwarded(Box::new(completed)))]);
        assert!(others.is_empty(), "a client's write is not passed on");
    }

    fn close(&self) {
        self.turn_away();
        let waiting: Vec<Token> = {
            let table = self.lock();
            table.slots.iter().map(|(slot, (generation, _))| token(*generation, slot)).collect()
        };
        self.end_post();
        let closed = waiting.into_iter().map(|token| (token, Reply::Closed));
        self.tell_here(closed).into_iter().for_each(|(caller, reply)| caller.fail(reply));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::time::Duration;

    use futures::FutureExt as _;
    use quorate_engine::ReadMode;

    use super::*;
    use crate::testing::Counter;

    fn ask(callers: &Arc<Callers<Counter>>) -> Token {
        let asleep = Caller::Asleep(Waker::noop().clone());
        let request = |token| Request::Read { token, mode: ReadMode::Index };
        let Ok(token) = callers.ask(asleep, request) else { unreachable!("there is room") };
        token
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn only_who_waits_last_watches_and_lets_others_go_first() {
        let callers = Callers::<Counter>::new(Spin::new(Duration::from_micros(1)));
        let untried = callers.spin.credit();
        let first = ask(&callers);
        let mut watching = Box::pin(callers.watch(first));
        assert!((&mut watching).now_or_never().is_none(), "others first");
        // One of them calls, so the first sleeps at once.
        let second = ask(&callers);
        watching.await;
        assert_eq!(callers.spin.credit(), untried);
        callers.watch(second).await;
        assert!(callers.spin.credit() < untried, "nobody is left to call: it watches, in vain");
        // Two waited lately, so one that waits has somebody left, also while the others have not looked.
        let told = callers.tell([second, first].map(|token| (token, Reply::Current)));
        assert!(told.is_empty());
        let third = ask(&callers);
        assert!(callers.watch(third).now_or_never().is_some());
    }

    fn callers() -> Arc<Callers<Counter>> {
        Callers::new(Spin::never())
    }

    fn taken(callers: &Callers<Counter>) -> Vec<Token> {
        let mut requests = VecDeque::new();
        callers.take_requests(&mut requests, usize::MAX);
        let token = |request| match request {
            Request::Read { token, .. } => token,
            _ => unreachable!("all read"),
        };
        requests.into_iter().map(token).collect()
    }

    #[tokio::test]
    async fn a_caller_is_told_what_it_asked_for_and_leaves_its_place() {
        let callers = callers();
        let (one, other) = (ask(&callers), ask(&callers));
        assert_eq!(taken(&callers), [one, other]);
        let mut waiting = Box::pin(callers.told(one));
        assert!((&mut waiting).now_or_never().is_none());
        let replies = [(other, Reply::One(2)), (one, Reply::One(1))];
        assert!(callers.tell(replies).is_empty());
        // Not a second time.
        assert!(callers.tell([(one, Reply::One(3))]).is_empty());
        assert_eq!(waiting.await.one().expect("told"), 1);
        assert_eq!(callers.told(other).await.one().expect("told"), 2);
        let table = callers.lock();
        assert_eq!((table.slots.len(), table.waiting), (0, 0));
    }

    #[tokio::test]
    async fn who_goes_away_leaves_its_place_whether_it_was_told_or_not() {
        let callers = callers();
        for told in [false, true] {
            let token = ask(&callers);
            let mut waiting = Box::pin(callers.told(token));
            assert!((&mut waiting).now_or_never().is_none());
            if told {
                assert!(callers.tell([(token, Reply::One(1))]).is_empty());
            }
            drop(waiting);
            assert!(callers.tell([(token, Reply::One(1))]).is_empty());
            let table = callers.lock();
            assert_eq!((table.slots.len(), table.waiting), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_caller_that_moves_to_another_task_is_woken_there() {
        let callers = callers();
        let token = ask(&callers);
        let mut waiting = Box::pin(callers.told(token));
        let (before, after) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        for task in [&before, &after] {
            let waker = Waker::from(task.clone());
            assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(callers.tell([(token, Reply::One(1))]).is_empty());
        let woken = |task: &Woken| task.0.load(Ordering::Relaxed);
        assert_eq!((woken(&before), woken(&after)), (0, 1));
        assert_eq!(waiting.await.one().expect("told"), 1);
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn the_node_is_woken_by_the_first_request_and_when_nobody_can_ask_any_more() {
        let callers = callers();
        let node = Arc::new(Woken::default());
        let waker = Waker::from(node.clone());
        let mut cx = Context::from_waker(&waker);
        let mut requests = VecDeque::new();
        assert!(callers.poll_requests(&mut cx, &mut requests, 3).is_pending());
        let asked: Vec<Token> = (0..5).map(|_| ask(&callers)).collect();
        assert_eq!(node.0.load(Ordering::Relaxed), 1);
        assert_eq!(callers.poll_requests(&mut cx, &mut requests, 3), Poll::Ready(true));
        assert_eq!(requests.len(), 3, "as many as a turn takes");
        requests.clear();
        assert_eq!(taken(&callers), asked[3..]);
        assert!(callers.poll_requests(&mut cx, &mut requests, 3).is_pending());
        let last = ask(&callers);
        callers.turn_away();
        assert_eq!(node.0.load(Ordering::Relaxed), 2);
        // What was asked before is heard.
        assert_eq!(callers.poll_requests(&mut cx, &mut requests, 3), Poll::Ready(true));
        requests.clear();
        assert_eq!(callers.poll_requests(&mut cx, &mut requests, 3), Poll::Ready(false));
        let asleep = || Caller::Asleep(Waker::noop().clone());
        assert!(matches!(callers.add(asleep()), Err((NoPlace::Stopped, _))));
        callers.close();
        let told = callers.told(last).await.current();
        assert!(told.is_err_and(|error| matches!(*error, ReadError::Stopped)));
    }
}
