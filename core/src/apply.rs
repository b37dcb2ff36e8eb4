//! The apply worker: owns the state machine, applies what is committed, answers the callers.
//!
//! It runs behind the node on a task of its own, so a slow state machine delays its readers and
//! writers and nothing else. The node gives it a target ("through index N"), which replaces the
//! last, so targets can't pile up; entries come from the tail, or from the log when the worker is
//! far behind. Reads run between two batches, and so do the views that snapshots are made of and the
//! restoring of a snapshot of the leader: one queue, so none of them can overtake another.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};

use anyerror::AnyError;
use bytes::Bytes;
use futures::FutureExt;
use quorate_engine::{EntryBlock, EntryKind, Index, Instant, LogId, Membership, NodeId, planted};
use quorate_network::{ForwardAnswer, ForwardOutcome};
use quorate_storage::{
    ApplyMark, Codec, Committed, Failure, LogReader, Snapshot, SnapshotStore, StateMachine,
    snapshot,
};
use tokio::sync::Notify;

use crate::callers::{Caller, Callers, Reply, Token};
use crate::control::{Control, ControlSender};
use crate::env::{Env, blocking};
use crate::error::{ReadError, WriteError};
use crate::forward::outcome_of;
use crate::metrics::Board;
use crate::pending::{Pending, Who};
use crate::sessions::{self, Reply as KeptReply, Sessions, Verdict, WINDOW};
use crate::snapshots::View;
use crate::stats::Counters;
use crate::tail::{Found, Tail};

/// How the node (and, for stale reads and those by lease, the handle) reaches the worker.
#[derive(Debug, Default)]
pub(crate) struct ApplyInbox {
    orders: Mutex<Orders>,
    /// One waiter: the worker.
    bell: Notify,
}

#[derive(Debug, Default)]
struct Orders {
    through: Index,
    /// The log begins anew: what was to be applied may be gone from it, and the order to restore
    /// follows when that is durable.
    resetting: bool,
    /// Begin anew with the snapshot that ends here.
    restore: Option<LogId>,
    /// A view of the state is wanted.
    view: bool,
    /// What the state machine has on its own disk is wanted.
    mark: bool,
    /// This node is a witness: its state machine gets nothing any more, and nobody sees it.
    witness: bool,
    reads: Vec<Reader>,
    closed: bool,
}

#[derive(Debug)]
struct Reader {
    /// What has to be applied first.
    index: Index,
    deadline: Instant,
    token: Token,
}

impl ApplyInbox {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Everything through `index` may be applied, when there is time. Returns whether readers wait.
    pub(crate) fn aim(&self, through: Index) -> bool {
        let mut orders = self.lock();
        orders.through = orders.through.max(through);
        !orders.reads.is_empty()
    }

    /// It is time.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// An order to restore follows. Told before the log and the tail lose what they held.
    pub(crate) fn expect_restore(&self) {
        self.lock().resetting = true;
    }

    fn awaits_restore(&self) -> bool {
        let orders = self.lock();
        orders.resetting || orders.restore.is_some()
    }

    /// Restore the snapshot that ends with `last`, before anything else is applied. A newer one
    /// replaces the last.
    pub(crate) fn restore(&self, last: LogId) {
        let mut orders = self.lock();
        (orders.resetting, orders.restore) = (false, Some(last));
        drop(orders);
        self.bell.notify_one();
    }

    /// This node keeps no commands from now on, so what its state machine has is of no use.
    pub(crate) fn become_witness(&self) {
        self.lock().witness = true;
    }

    /// Give the node a view of the state.
    pub(crate) fn view(&self) {
        self.lock().view = true;
        self.bell.notify_one();
    }

    /// Tell the node what the state machine has durably on a disk of its own.
    pub(crate) fn mark(&self) {
        self.lock().mark = true;
        self.bell.notify_one();
    }

    /// Run these readers once everything through `index` is applied.
    pub(crate) fn read(
        &self,
        index: Index,
        deadline: Instant,
        tokens: impl IntoIterator<Item = Token>,
    ) {
        let readers = tokens.into_iter().map(|token| Reader { index, deadline, token });
        self.lock().reads.extend(readers);
        self.bell.notify_one();
    }

    pub(crate) fn has_readers(&self) -> bool {
        !self.lock().reads.is_empty()
    }

    /// Takes the readers whose deadline has come.
    pub(crate) fn expire(&self, now: Instant) -> Vec<Token> {
        let mut expired = Vec::new();
        self.lock().reads.retain(|reader| {
            let late = reader.deadline <= now;
            if late {
                expired.push(reader.token);
            }
            !late
        });
        expired
    }

    /// Finish the batch at hand and end.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_one();
    }
}

/// What the worker works with.
pub(crate) struct ApplyWorker<S: StateMachine> {
    pub(crate) machine: S,
    pub(crate) callers: Arc<Callers<S>>,
    pub(crate) inbox: Arc<ApplyInbox>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) log: Arc<dyn LogReader>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) board: Arc<Board>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) control: ControlSender,
    pub(crate) applied: LogId,
    /// As they are where `applied` is.
    pub(crate) sessions: Sessions,
    /// In force where `applied` is.
    pub(crate) configuration: Option<(LogId, Membership)>,
    /// Whether the machine keeps its state, and our mark, on a disk of its own.
    pub(crate) durable_machine: bool,
    /// Whether this node is a witness.
    pub(crate) witness: bool,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) batch_bytes: usize,
    /// Of [`Config::state_hash_entries`](crate::Config), until the machine says that it has no digest.
    pub(crate) digest_entries: Option<u64>,
    pub(crate) open: Option<OpenRun<S::Response>>,
}

/// Why the worker can't go on; stops the node.
type Cause = String;

impl<S: StateMachine> ApplyWorker<S> {
    /// Runs until the inbox is closed, or something breaks: then the node is told why.
    pub(crate) async fn run(self) {
        let control = self.control.clone();
        let outcome = AssertUnwindSafe(self.work()).catch_unwind().await;
        let cause = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(cause)) => cause,
            Err(panic) => format!("the state machine panicked: {}", panic_text(panic.as_ref())),
        };
        control.send(Control::Failed(cause));
    }

    async fn work(mut self) -> Result<(), Cause> {
        loop {
            let (through, due, restore, view, mark) = {
                let mut orders = self.inbox.lock();
                if orders.closed {
                    return Ok(());
                }
                self.witness |= orders.witness;
                let restore = orders.restore.take_if(|last| last.index > self.applied.index);
                let view = std::mem::take(&mut orders.view);
                let mark = std::mem::take(&mut orders.mark);
                let mut due = Vec::new();
                orders.reads.retain(|reader| {
                    let is_due =
                        reader.index <= self.applied.index || planted::on("reads-before-applied");
                    if is_due {
                        due.push(reader.token);
                    }
                    !is_due
                });
                (orders.through, due, restore, view, mark)
            };
            self.serve(due);
            if let Some(last) = restore {
                self.restore(last).await?;
                continue;
            }
            if view {
                let view = self.view().await;
                self.control.send(Control::View(view));
            }
            if mark {
                let last = self.mark().await?;
                self.control.send(Control::Marked(last));
            }
            if self.applied.index < through {
                let Some(blocks) = self.fetch(self.up_to_digest(through)).await? else {
                    self.inbox.bell.notified().await;
                    continue;
                };
                self.apply(blocks).await?;
                self.digest_when_due().await?;
                if self.applied.index < self.inbox.lock().through {
                    // A backlog of batches that never wait must not keep a runtime of one thread
                    // from the node, nor a thread of the runtime from the postman.
                    tokio::task::yield_now().await;
                }
            } else {
                self.inbox.bell.notified().await;
            }
        }
    }

    fn serve(&self, due: Vec<Token>) {
        if due.is_empty() {
            return;
        }
        let reply = |token| match self.witness {
            true => (token, Reply::ReadFailed(Box::new(ReadError::Witness))),
            false => (token, Reply::Current),
        };
        for reader in self.callers.tell(due.into_iter().map(reply)) {
            match reader {
                (Caller::Read(f), Reply::Current) => f(Ok(&self.machine)),
                (reader, failed) => reader.fail(failed),
            }
        }
    }

    /// A view of the state as it is, for a snapshot; of a witness, one without data.
    async fn view(&mut self) -> Result<View, String> {
        let last = self.applied;
        let configuration = self
            .configuration
            .clone()
            .ok_or("nothing was applied yet, not even a configuration")?;
        if self.witness {
            let snapshot = Snapshot::from_bytes(Bytes::new());
            return Ok(View { last, configuration, snapshot, of_witness: true });
        }
        let snapshot = guarded(self.machine.snapshot(), || "give a snapshot".into()).await?;
        let snapshot = sessions::content(&self.sessions.bytes(), snapshot);
        Ok(View { last, configuration, snapshot, of_witness: false })
    }

    /// Up to where the state machine has its state on its own disk.
    async fn mark(&mut self) -> Result<LogId, Cause> {
        let durable = guarded(self.machine.durable(), || "keep its state".into()).await?;
        let last = durable.map(|mark| mark.last()).unwrap_or_default();
        if last > self.applied {
            return Err(format!("the state machine marks {last}, applied is {}", self.applied));
        }
        Ok(last)
    }

    /// Begins anew with the snapshot that ends with `last`, which the log begins with now.
    async fn restore(&mut self, last: LogId) -> Result<(), Cause> {
        let store = self.snapshots.clone();
        let opened = blocking(&*self.env, move || store.open(last)).await;
        let reader = match opened {
            Some(Ok(Some(reader))) => reader,
            // Another has come meanwhile, and an order to restore it.
            Some(Ok(None)) if self.inbox.lock().restore.is_some_and(|next| next > last) => {
                return Ok(());
            }
            Some(Ok(None)) => return Err(format!("snapshot {last} is gone")),
            Some(Err(error)) => return Err(format!("snapshot {last} can't be opened: {error}")),
            None => return Err(format!("snapshot {last} can't be opened")),
        };
        let configuration = reader.info().meta.configuration.clone();
        if !self.witness {
            let restore =
                sessions::restore(&mut self.machine, &*self.env, reader, self.durable_machine);
            self.sessions = guarded(restore, || format!("restore {last}")).await?;
            self.board.set_sessions(&self.sessions);
        }
        self.counters.snapshots_restored.increment();
        self.applied = last;
        self.board.show_applied(last.index);
        self.configuration = Some(configuration);
        self.leave_unknown(last.index);
        self.board.set_applied(last.index);
        Ok(())
    }

    /// Whether writes through `index` were done nobody can say here: the state machine did not see
    /// them one by one.
    fn leave_unknown(&mut self, index: Index) {
        self.open = None;
        let mut unknown: Answers<S> = Answers::with_room(0);
        for who in self.pending.take_through(index) {
            unknown.add(who, Reply::failed(WriteError::Unknown));
        }
        self.send(unknown);
    }

    /// `None` if a snapshot of the leader takes the place of the entries.
    async fn fetch(&mut self, through: Index) -> Result<Option<Vec<EntryBlock>>, Cause> {
        let missing = match self.tail.read(self.applied, through, self.batch_bytes) {
            Found::Blocks(blocks) => return Ok(Some(blocks)),
            Found::Older { through } => {
                match self.log.read(self.applied, through, self.batch_bytes).await {
                    Ok(blocks) => return Ok(Some(blocks)),
                    Err(error) => format!("committed entries can't be read: {error}"),
                }
            }
            Found::Nothing => format!("committed entries behind {} are gone", self.applied),
        };
        if self.inbox.awaits_restore() { Ok(None) } else { Err(missing) }
    }

    async fn apply(&mut self, blocks: Vec<EntryBlock>) -> Result<(), Cause> {
        let Given { entries, verdicts, fresh } = self.take_in(&blocks)?;
        let through = blocks.last().expect("a batch is not empty").last();
        for block in blocks.iter().filter(|block| block.kind() == EntryKind::Configuration) {
            let membership =
                block.membership().expect("a configuration block is checked when read");
            self.board.configuration_applied(block.last(), &membership);
            self.configuration = Some((block.last(), membership));
        }
        let keeps = self.durable_machine && !self.witness;
        if let Some(configuration) = self.configuration.as_ref().filter(|_| keeps).cloned() {
            let which = |(&(session, sequence), &position)| snapshot::FreshWrite {
                session,
                sequence,
                position,
            };
            let fresh = self.sessions.fresh().iter().zip(&fresh).map(which).collect();
            let mark = ApplyMark::new(through, configuration);
            self.machine.keep(mark.with_sessions(self.sessions.bytes(), fresh));
        }
        self.counters.apply_entries.record(through.index - self.applied.index);
        let bytes = blocks.iter().map(|block| block.bytes().len() as u64).sum();
        self.counters.apply_bytes.record(bytes);
        let count = entries.len();
        let responses = if entries.is_empty() {
            Vec::new()
        } else {
            let (first, began) = (entries[0].id, self.env.now());
            let what = || format!("apply {first}..{through}");
            let responses = guarded(self.machine.apply(entries), what).await?;
            self.counters.apply.record_time(self.env.now().since(began), 1);
            if responses.len() != count {
                return Err(format!(
                    "the state machine gave {} responses for the {count} commands \
                     {first}..{through}",
                    responses.len()
                ));
            }
            responses
        };
        self.applied = through;
        self.board.show_applied(through.index);
        if self.witness {
            self.leave_unknown(through.index);
        } else {
            let verdicts = self.settle(verdicts, &fresh, &responses);
            self.answer(responses, verdicts, &blocks);
        }
        self.board.set_applied(through.index);
        Ok(())
    }

    /// Reads what is in the blocks, and leaves out what is not to be applied again.
    fn take_in(&mut self, blocks: &[EntryBlock]) -> Result<Given<S::Command>, Cause> {
        let witness = self.witness;
        let given = |block: &&EntryBlock| block.kind().has_commands() && !witness;
        let count = blocks.iter().filter(given).map(|block| block.count() as usize).sum();
        let mut all =
            Given { entries: Vec::with_capacity(count), verdicts: Vec::new(), fresh: Vec::new() };
        let mut payloads = Vec::new();
        for block in blocks.iter().filter(given) {
            assert!(!block.is_withheld(), "commands were withheld from a full replica");
            block.share_entries(&mut payloads);
            let of_sessions = block.kind() == EntryKind::Session;
            let decode = |bytes| <S::Codec as Codec<S::Command>>::decode(block.codec(), bytes);
            for (index, bytes) in (block.first()..).zip(payloads.drain(..)) {
                let id = LogId::new(block.term(), index);
                let unreadable = |error: &dyn fmt::Display| {
                    format!(
                        "entry {id} in the log is no command of this program: {error}; it is not \
                         skipped, since that would let replicas diverge; run the version that \
                         wrote it"
                    )
                };
                let decoded = if of_sessions {
                    match self.sessions.apply(index, &bytes).map_err(|e| unreadable(&e))? {
                        Verdict::Apply(command) => {
                            all.fresh.push(all.entries.len());
                            decode(command)
                        }
                        verdict => {
                            all.verdicts.push((index, verdict));
                            continue;
                        }
                    }
                } else {
                    decode(bytes)
                };
                match decoded {
                    Ok(command) => all.entries.push(Committed { id, command }),
                    Err(error) => return Err(unreadable(&error)),
                }
            }
        }
        Ok(all)
    }

    /// Keeps the responses to new writes of sessions, for those who send them again.
    fn settle(
        &mut self,
        mut verdicts: Verdicts,
        fresh: &[usize],
        responses: &[S::Response],
    ) -> Verdicts {
        if fresh.is_empty() && verdicts.is_empty() {
            return verdicts;
        }
        let reply = |position: &usize| snapshot::encode_reply::<S>(&responses[*position]);
        let replies: Vec<KeptReply> = fresh.iter().map(reply).collect();
        for (_, verdict) in &mut verdicts {
            if let Verdict::RepeatedInBatch(number) = verdict {
                *verdict = Verdict::Repeated(replies[*number].clone());
            }
        }
        self.sessions.answered(replies);
        self.board.set_sessions(&self.sessions);
        verdicts
    }

    /// Gives each response to whoever proposed the command, if that was here or through here.
    fn answer(&mut self, responses: Vec<S::Response>, verdicts: Verdicts, blocks: &[EntryBlock]) {
        let mut answers;
        let mut overwritten = Vec::new();
        {
            let mut pending = self.pending.lock();
            if pending.is_empty() && self.open.is_none() {
                // Nobody waits here: at a follower always, or nearly.
                return;
            }
            answers = Answers::with_room(responses.len());
            let mut responses = responses.into_iter();
            let mut verdicts = verdicts.into_iter().peekable();
            if let Some(open) = &mut self.open {
                open.who = pending.open.take().map(|(who, _)| who);
            }
            for block in blocks {
                if !block.kind().has_commands() {
                    // Entries of other kinds decide about the writes whose place they took.
                    let none = pending.at(block.last(), &mut overwritten);
                    assert!(none.is_none(), "a write of a kind that is no command");
                    continue;
                }
                let (mut next, last) = (block.first(), block.last().index);
                while next <= last {
                    let id = LogId::new(block.term(), next);
                    next += 1;
                    // Large things are looked at before they are moved: nearly always there are none.
                    if verdicts.peek().is_some_and(|(at, _)| *at == id.index) {
                        let (_, verdict) = verdicts.next().expect("just seen");
                        answers.add_broken(self.open.take());
                        if let Some(who) = pending.at(id, &mut overwritten).and_then(|o| o.who) {
                            answers.add(who, reply_to(verdict));
                        }
                        continue;
                    }
                    let response = responses.next().expect("one for each command");
                    if self.open.is_some() {
                        match self.open.take() {
                            Some(mut run) if run.next == id => {
                                run.next.index += 1;
                                run.responses.push(response);
                                self.open = answers.add_if_complete(run);
                                continue;
                            }
                            broken => answers.add_broken(broken),
                        }
                    }
                    let Some(origin) = pending.at(id, &mut overwritten) else { continue };
                    let Some(who) = origin.who else { continue };
                    if origin.count == 1 && !origin.many {
                        answers.add(who, Reply::One(response));
                        continue;
                    }
                    // Of a run, what is in this block.
                    let (count, deadline) = (origin.count, origin.deadline);
                    let more = (last - id.index).min(u64::from(count) - 1);
                    let mut run = Vec::with_capacity(count as usize);
                    run.push(response);
                    run.extend(responses.by_ref().take(more as usize));
                    next += more;
                    let next = LogId::new(id.term, next);
                    let open = OpenRun { who: Some(who), deadline, next, count, responses: run };
                    self.open = answers.add_if_complete(open);
                }
            }
            if let Some(open) = &self.open {
                pending.open = open.who.map(|who| (who, open.deadline));
            }
        }
        for who in overwritten {
            answers.add(who, Reply::failed(WriteError::Overwritten));
        }
        self.send(answers);
    }

    fn send(&self, answers: Answers<S>) {
        for ((node, boot), answers) in answers.send(&self.callers) {
            self.control.send(Control::Answers { node, boot, answers });
        }
    }
}

/// What is in a batch of blocks.
struct Given<C> {
    /// For the state machine.
    entries: Vec<Committed<C>>,
    /// What becomes of those.
    verdicts: Verdicts,
    /// Which of `entries` are writes of sessions.
    fresh: Vec<usize>,
}

/// What becomes of the entries of sessions that are not applied, in log order.
type Verdicts = Vec<(Index, Verdict)>;

/// A caller's run of commands of which some are applied; it may span batches.
pub(crate) struct OpenRun<R> {
    /// Between batches in [`Pending`], where the deadline may take it.
    who: Option<Who>,
    deadline: Instant,
    next: LogId,
    count: u32,
    responses: Vec<R>,
}

/// What the caller is told of an entry of a session that is not applied.
fn reply_to<S: StateMachine>(verdict: Verdict) -> Reply<S> {
    match verdict {
        Verdict::Opened(session) => Reply::Opened(session),
        Verdict::Repeated((codec, Some(bytes))) => Reply::Repeated(Box::new((codec, bytes))),
        Verdict::Repeated((_, None)) => {
            let text = "it has no encoding, so it could not be kept";
            Reply::failed(WriteError::Response(AnyError::error(text)))
        }
        Verdict::Expired => Reply::failed(WriteError::SessionExpired),
        Verdict::Acknowledged => Reply::failed(WriteError::Acknowledged),
        Verdict::TooFar => {
            let text = format!("over {WINDOW} writes ahead of what its session acknowledged");
            Reply::failed(WriteError::Refused(AnyError::error(text)))
        }
        Verdict::Apply(_) | Verdict::RepeatedInBatch(_) => unreachable!("settled before"),
    }
}

/// Answers on their way, given in one pass at the end.
struct Answers<S: StateMachine> {
    local: Vec<(Token, Reply<S>)>,
    /// Of clients and of other nodes: to be encoded by the application's codec, which may take its time.
    elsewhere: Vec<(Who, Reply<S>)>,
}

type Remote = BTreeMap<(NodeId, u64), Vec<ForwardAnswer>>;

impl<S: StateMachine> Answers<S> {
    /// None yet, with room for so many of callers here.
    fn with_room(local: usize) -> Self {
        Self { local: Vec::with_capacity(local), elsewhere: Vec::new() }
    }

    fn add_if_complete(&mut self, run: OpenRun<S::Response>) -> Option<OpenRun<S::Response>> {
        if run.responses.len() < run.count as usize {
            return Some(run);
        }
        if let Some(who) = run.who {
            self.add(who, Reply::Many(run.responses));
        }
        None
    }

    /// Another leader's entries stand inside the run: part of it is done.
    fn add_broken(&mut self, run: Option<OpenRun<S::Response>>) {
        if let Some(who) = run.and_then(|run| run.who) {
            self.add(who, Reply::failed(WriteError::Unknown));
        }
    }

    #[inline]
    fn add(&mut self, who: Who, reply: Reply<S>) {
        match who {
            // Put together where it stays: see `Outputs::push_with`.
            Who::Local(token) => self.local.extend(std::iter::once_with(|| (token, reply))),
            who => self.elsewhere.extend(std::iter::once_with(|| (who, reply))),
        }
    }

    fn encode(reply: Reply<S>) -> ForwardOutcome {
        let encode = <S::Codec as Codec<S::Response>>::encode;
        let outcome = match reply {
            Reply::One(response) => {
                encode(&response).map(|bytes| ForwardOutcome::Applied(vec![bytes]))
            }
            Reply::Many(all) => {
                let encoded: Result<_, _> = all.iter().map(encode).collect();
                encoded.map(ForwardOutcome::Applied)
            }
            // As this version writes it.
            Reply::Repeated(kept) => <S::Codec as Codec<S::Response>>::decode(kept.0, kept.1)
                .and_then(|response| encode(&response))
                .map(ForwardOutcome::Repeated),
            Reply::Opened(session) => Ok(ForwardOutcome::Opened(session)),
            Reply::WriteFailed(error) => Ok(outcome_of(&error)),
            Reply::Forwarded(_) | Reply::Current | Reply::ReadFailed(_) | Reply::Closed => {
                unreachable!("it was written here")
            }
        };
        // Done, and impossible to say how: the caller has to look.
        outcome.unwrap_or(ForwardOutcome::Unknown)
    }

    /// Answers the callers here; returns what is for other nodes.
    fn send(self, callers: &Callers<S>) -> Remote {
        let others = callers.tell(self.local);
        assert!(others.is_empty(), "a caller here sleeps");
        let (mut tokens, mut clients, mut remote) = (Vec::new(), Vec::new(), Remote::new());
        for (who, reply) in self.elsewhere {
            let outcome = Self::encode(reply);
            match who {
                Who::Local(token) | Who::Client(token) => {
                    tokens.push(token);
                    clients.push(outcome);
                }
                Who::Remote { node, boot, token } => {
                    let answer = ForwardAnswer { token, outcome };
                    remote.entry((node, boot)).or_default().push(answer);
                }
            }
        }
        for (caller, outcome) in callers.take_all(tokens).into_iter().zip(clients) {
            if let Some(Caller::Client(call)) = caller {
                call.complete(outcome);
            }
        }
        remote
    }
}

/// Lets the state machine do `what`: that it fails, or panics, is a cause to stop.
pub(crate) async fn guarded<T>(
    work: impl Future<Output = Result<T, Failure>>,
    what: impl FnOnce() -> String,
) -> Result<T, Cause> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(failure)) => Err(format!("the state machine failed to {}: {failure}", what())),
        Err(panic) => {
            let text = panic_text(panic.as_ref());
            Err(format!("the state machine panicked when it was to {}: {text}", what()))
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into())
}
