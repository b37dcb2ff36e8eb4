//! The apply worker: owns the state machine, applies what is committed, answers the callers.
//!
//! It runs behind the node on a task of its own, so a slow state machine delays its readers and
//! writers and nothing else. The node gives it a target ("through index N"), which replaces the
//! last, so targets can't pile up; entries come from the tail, or from the log when the worker is
//! far behind. Reads run between two batches, and so do the views that snapshots are made of and the
//! restoring of a snapshot of the leader: one queue, so none of them can overtake another.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::FutureExt;
use quorate_engine::{EntryBlock, EntryKind, Index, Instant, LogId, Membership, NodeId, planted};
use quorate_network::{ForwardAnswer, ForwardOutcome};
use quorate_storage::{
    ApplyMark, Codec, Committed, Failure, LogReadError, LogReader, Snapshot, SnapshotReader,
    SnapshotStore, StateMachine,
};
use tokio::sync::Notify;

use crate::callers::{Caller, Callers, Token};
use crate::control::{Control, ControlSender};
use crate::env::{Env, blocking};
use crate::error::{ReadError, WriteError};
use crate::metrics::Board;
use crate::pending::{Pending, Who};
use crate::snapshots::View;
use crate::stats::Counters;
use crate::tail::{Found, Tail};

/// How the node (and, for stale reads, the handle) reaches the worker.
#[derive(Debug, Default)]
pub(crate) struct ApplyInbox {
    orders: Mutex<Orders>,
    /// One waiter: the worker.
    bell: Notify,
}

#[derive(Debug, Default)]
struct Orders {
    through: Index,
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

    /// Everything through `index` may be applied.
    pub(crate) fn aim(&self, through: Index) {
        let mut orders = self.lock();
        if through > orders.through {
            orders.through = through;
            drop(orders);
            self.bell.notify_one();
        }
    }

    /// Restore the snapshot that ends with `last`, before anything else is applied. A newer one
    /// replaces the last.
    pub(crate) fn restore(&self, last: LogId) {
        self.lock().restore = Some(last);
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
                let blocks = self.fetch(self.up_to_digest(through)).await?;
                self.apply(blocks).await?;
                self.digest_when_due().await?;
                if self.applied.index < through {
                    // A backlog of batches that never wait must not keep a runtime of one thread
                    // from the node.
                    tokio::task::yield_now().await;
                }
            } else {
                self.inbox.bell.notified().await;
            }
        }
    }

    fn serve(&self, due: Vec<Token>) {
        let mut readers = Vec::with_capacity(due.len());
        self.callers.take_all(due, &mut readers);
        for reader in readers.into_iter().flatten() {
            if let Caller::Read(f) = reader {
                f(if self.witness { Err(ReadError::Witness) } else { Ok(&self.machine) });
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
            return Ok(View { last, configuration, snapshot: Snapshot::from_bytes(Bytes::new()) });
        }
        let snapshot = guarded(self.machine.snapshot(), || "give a snapshot".into()).await?;
        Ok(View { last, configuration, snapshot })
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
            self.restore_machine(last, configuration.clone(), reader).await?;
        }
        self.counters.snapshots_restored.increment();
        self.applied = last;
        self.configuration = Some(configuration);
        self.leave_unknown(last.index);
        self.board.set_applied(last.index);
        Ok(())
    }

    /// Whether writes through `index` were done nobody can say here: the state machine did not see
    /// them one by one.
    fn leave_unknown(&mut self, index: Index) {
        self.open = None;
        let mut unknown: Answers<S> =
            Answers { local: Vec::new(), clients: Vec::new(), remote: BTreeMap::new() };
        for who in self.pending.take_through(index) {
            unknown.add(who, Reply::Failed(WriteError::Unknown));
        }
        self.send(unknown);
    }

    async fn restore_machine(
        &mut self,
        last: LogId,
        configuration: (LogId, Membership),
        reader: Arc<dyn SnapshotReader>,
    ) -> Result<(), Cause> {
        if self.durable_machine {
            self.machine.keep(ApplyMark::new(last, configuration));
        }
        guarded(self.machine.restore(reader.into()), || format!("restore {last}")).await
    }

    async fn fetch(&mut self, through: Index) -> Result<Vec<EntryBlock>, Cause> {
        match self.tail.read(self.applied, through, self.batch_bytes) {
            Found::Blocks(blocks) => Ok(blocks),
            Found::Older { through } => {
                self.log.read(self.applied, through, self.batch_bytes).await.map_err(
                    |error: LogReadError| format!("committed entries can't be read: {error}"),
                )
            }
            Found::Nothing => Err(format!("committed entries behind {} are gone", self.applied)),
        }
    }

    async fn apply(&mut self, blocks: Vec<EntryBlock>) -> Result<(), Cause> {
        let given = |block: &&EntryBlock| block.kind() == EntryKind::Command && !self.witness;
        let count = blocks.iter().filter(given).map(|block| block.count() as usize).sum();
        let mut entries = Vec::with_capacity(count);
        for block in blocks.iter().filter(given) {
            assert!(!block.is_withheld(), "commands were withheld from a full replica");
            for (index, bytes) in (block.first()..).zip(block.entries()) {
                let id = LogId::new(block.term(), index);
                let command = <S::Codec as Codec<S::Command>>::decode(block.codec(), &bytes)
                    .map_err(|error| {
                        format!(
                            "entry {id} in the log is no command of this program: {error}; it is \
                             not skipped, since that would let replicas diverge; run the version \
                             that wrote it"
                        )
                    })?;
                entries.push(Committed { id, command });
            }
        }
        let ids: Vec<LogId> = entries.iter().map(|entry| entry.id).collect();
        let through = blocks.last().expect("a batch is not empty").last();
        for block in blocks.iter().filter(|block| block.kind() == EntryKind::Configuration) {
            let membership =
                block.membership().expect("a configuration block is checked when read");
            self.board.configuration_applied(block.last(), &membership);
            self.configuration = Some((block.last(), membership));
        }
        let keeps = self.durable_machine && !self.witness;
        if let Some(configuration) = self.configuration.as_ref().filter(|_| keeps) {
            self.machine.keep(ApplyMark::new(through, configuration.clone()));
        }
        self.counters.apply_entries.record(through.index - self.applied.index);
        let bytes = blocks.iter().map(|block| block.bytes().len() as u64).sum();
        self.counters.apply_bytes.record(bytes);
        let responses = if entries.is_empty() {
            Vec::new()
        } else {
            let (first, count, began) = (ids[0], ids.len(), self.env.now());
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
        if self.witness {
            self.leave_unknown(through.index);
        } else {
            self.answer(ids, responses, &blocks);
        }
        self.board.set_applied(through.index);
        Ok(())
    }

    /// Gives each response to whoever proposed the command, if that was here or through here.
    fn answer(&mut self, ids: Vec<LogId>, responses: Vec<S::Response>, blocks: &[EntryBlock]) {
        let mut answers = Answers {
            local: Vec::with_capacity(ids.len()),
            clients: Vec::new(),
            remote: BTreeMap::new(),
        };
        let mut overwritten = Vec::new();
        {
            let mut pending = self.pending.lock();
            let mut responses = ids.into_iter().zip(responses).peekable();
            if let Some(open) = &mut self.open {
                open.who = pending.open.take().map(|(who, _)| who);
            }
            for block in blocks {
                let last = block.last();
                if block.kind() != EntryKind::Command {
                    // Entries of other kinds decide about the writes whose place they took.
                    let none = pending.at(last, &mut overwritten);
                    assert!(none.is_none(), "a write of a kind that is no command");
                }
                while let Some((id, response)) = responses.next_if(|(id, _)| id.index <= last.index)
                {
                    if let Some(mut open) = self.open.take() {
                        if open.next == id {
                            open.next.index += 1;
                            open.responses.push(response);
                            self.open = answers.add_if_complete(open);
                            continue;
                        }
                        // Another leader's entries stand inside the run: part of it is done.
                        if let Some(who) = open.who {
                            answers.add(who, Reply::Failed(WriteError::Unknown));
                        }
                    }
                    let Some(origin) = pending.at(id, &mut overwritten) else { continue };
                    let Some(who) = origin.who else { continue };
                    if origin.count == 1 && !origin.many {
                        answers.add(who, Reply::One(response));
                    } else {
                        let next = LogId::new(id.term, id.index + 1);
                        let responses = vec![response];
                        let (count, deadline) = (origin.count, origin.deadline);
                        let open = OpenRun { who: Some(who), deadline, next, count, responses };
                        self.open = answers.add_if_complete(open);
                    }
                }
            }
            if let Some(open) = &self.open {
                pending.open = open.who.map(|who| (who, open.deadline));
            }
        }
        for who in overwritten {
            answers.add(who, Reply::Failed(WriteError::Overwritten));
        }
        self.send(answers);
    }

    fn send(&self, answers: Answers<S>) {
        for ((node, boot), answers) in answers.send(&self.callers) {
            self.control.send(Control::Answers { node, boot, answers });
        }
    }
}

/// A caller's run of commands of which some are applied; it may span batches.
pub(crate) struct OpenRun<R> {
    /// Between batches in [`Pending`], where the deadline may take it.
    who: Option<Who>,
    deadline: Instant,
    next: LogId,
    count: u32,
    responses: Vec<R>,
}

/// What one caller is told.
enum Reply<R> {
    One(R),
    Many(Vec<R>),
    Failed(WriteError),
}

/// Answers on their way; local ones are given in one pass at the end.
struct Answers<S: StateMachine> {
    local: Vec<(Token, Reply<S::Response>)>,
    clients: Vec<(Token, ForwardOutcome)>,
    remote: Remote,
}

type Remote = BTreeMap<(NodeId, u64), Vec<ForwardAnswer>>;

impl<S: StateMachine> Answers<S> {
    fn add_if_complete(&mut self, run: OpenRun<S::Response>) -> Option<OpenRun<S::Response>> {
        if run.responses.len() < run.count as usize {
            return Some(run);
        }
        if let Some(who) = run.who {
            self.add(who, Reply::Many(run.responses));
        }
        None
    }

    fn add(&mut self, who: Who, reply: Reply<S::Response>) {
        if let Who::Local(token) = who {
            return self.local.push((token, reply));
        }
        let encode = <S::Codec as Codec<S::Response>>::encode;
        let encoded: Result<Vec<Bytes>, _> = match &reply {
            Reply::One(response) => encode(response).map(|bytes| vec![bytes]),
            Reply::Many(responses) => responses.iter().map(encode).collect(),
            Reply::Failed(_) => Ok(Vec::new()),
        };
        let outcome = match (reply, encoded) {
            (Reply::Failed(WriteError::Overwritten), _) => ForwardOutcome::Overwritten,
            // Done in part, or done and impossible to say: the caller has to look.
            (Reply::Failed(_), _) | (_, Err(_)) => ForwardOutcome::Unknown,
            (_, Ok(bytes)) => ForwardOutcome::Applied(bytes),
        };
        match who {
            Who::Local(token) | Who::Client(token) => self.clients.push((token, outcome)),
            Who::Remote { node, boot, token } => {
                let answer = ForwardAnswer { token, outcome };
                self.remote.entry((node, boot)).or_default().push(answer);
            }
        }
    }

    /// Answers the callers here; returns what is for other nodes.
    fn send(self, callers: &Callers<S>) -> Remote {
        let mut waiting = Vec::with_capacity(self.local.len());
        callers.take_all(self.local.iter().map(|(token, _)| *token), &mut waiting);
        for (caller, (_, reply)) in waiting.into_iter().zip(self.local) {
            // A caller that is gone, or goes now, does not want to know.
            match (caller, reply) {
                (None, _) => {}
                (Some(Caller::Write(to)), Reply::One(response)) => drop(to.send(Ok(response))),
                (Some(Caller::WriteMany(to)), Reply::Many(all)) => drop(to.send(Ok(all))),
                (Some(caller), Reply::Failed(error)) => caller.fail_write(error),
                (Some(_), _) => unreachable!("one command, one response; several, several"),
            }
        }
        let mut waiting = Vec::with_capacity(self.clients.len());
        callers.take_all(self.clients.iter().map(|(token, _)| *token), &mut waiting);
        for (caller, (_, outcome)) in waiting.into_iter().zip(self.clients) {
            if let Some(Caller::Client(call)) = caller {
                call.complete(outcome);
            }
        }
        self.remote
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
