//! The tasks that talk to one peer: a lane for small messages, a lane for forwarded writes, and the
//! replication stream.
//!
//! Each awaits the network and nothing else, so a peer that hangs blocks its own lane only. The
//! node never waits for them: it tries to send into a queue, and what does not fit is lost, as the
//! network may lose anything. They are of the node's crew: what takes the processor or a disk for long
//! is done aside, by a task of the runtime.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyerror::AnyError;
use futures::future::AbortHandle;
use quorate_engine::message::AppendEntries;
use quorate_engine::{GroupId, Index, NodeId, Replicate, Stream, StreamLimits, Term};
use quorate_network::{Envelope, Lane, Message, NetworkError, Peer, SharedNetwork};
use quorate_storage::{LogReadError, LogReader, StorageError};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use crate::control::{Control, ControlSender, weight};
use crate::crew::Joining;
use crate::env::Env;
use crate::stats::Counters;
use crate::tail::{Found, Tail};

/// Messages that wait in a lane; more are dropped, and the protocol repeats what matters.
const LANE_CAPACITY: usize = 1024;

/// How long a lane pauses after a failure, so that a dead peer costs no processor time.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Messages from this size on are copied and encoded by a task of the runtime, not beside the node.
const LARGE_BYTES: usize = 64 << 10;

/// What every lane of a node needs.
pub(crate) struct Wires {
    pub(crate) id: NodeId,
    pub(crate) group: GroupId,
    pub(crate) incarnation: u64,
    /// The cluster's id, 0 before the node has joined one.
    pub(crate) cluster: Arc<AtomicU64>,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) network: SharedNetwork,
    pub(crate) control: ControlSender,
    pub(crate) tail: Arc<Tail>,
    pub(crate) log: Arc<dyn LogReader>,
    pub(crate) limits: StreamLimits,
    pub(crate) counters: Arc<Counters>,
    /// The term of the node, for what its other tasks log.
    pub(crate) term: AtomicU64,
    /// Of the node.
    pub(crate) crew: Joining,
}

impl Wires {
    pub(crate) fn term(&self) -> Term {
        self.term.load(Ordering::Relaxed)
    }

    /// A task of the runtime that talks to `peer`, in a span that says so.
    pub(crate) fn task(
        &self,
        peer: NodeId,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.env.spawn(Box::pin(task.instrument(self.span(peer))))
    }

    /// The same in the node's crew.
    fn join(&self, peer: NodeId, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.crew.join(task.instrument(self.span(peer)))
    }

    fn span(&self, peer: NodeId) -> tracing::Span {
        tracing::info_span!(parent: None, "peer", node = self.id, group = self.group, peer)
    }

    /// What `work` returns, done by a task of the runtime: a crew does nothing that takes long. `None` if
    /// it panicked. Dropping this ends it.
    async fn aside<T: Send + 'static>(
        &self,
        peer: NodeId,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (to, result) = oneshot::channel();
        let task = self.task(peer, async move { drop(to.send(work.await)) });
        let _ends = Ends(task);
        result.await.ok()
    }

    pub(crate) fn envelope(&self, to: NodeId, message: Message) -> Envelope {
        Envelope {
            cluster: self.cluster.load(Ordering::Acquire),
            group: self.group,
            from: self.id,
            to,
            incarnation: self.incarnation,
            message,
        }
    }

    pub(crate) fn refused(&self, error: &NetworkError) {
        if let NetworkError::Refused { peer, reason } = error {
            self.control.send(Control::Refused { peer: *peer, reason: reason.clone() });
        }
    }

    /// Hands messages to the network, and counts what became of them.
    pub(crate) async fn send(
        &self,
        peer: &Peer,
        lane: Lane,
        envelopes: Vec<Envelope>,
    ) -> Result<(), NetworkError> {
        let (counters, count) = (self.counters.lane(lane), envelopes.len() as u64);
        let sent = self.network.send(peer, lane, envelopes).await;
        if sent.is_ok() { &counters.sent } else { &counters.lost }.add(count);
        sent
    }

    /// The same for a mate of the crew.
    async fn send_from_crew(
        self: &Arc<Self>,
        peer: &Peer,
        lane: Lane,
        envelopes: Vec<Envelope>,
    ) -> Result<(), NetworkError> {
        if envelopes.iter().map(weight).sum::<usize>() < LARGE_BYTES {
            return self.send(peer, lane, envelopes).await;
        }
        let (wires, to) = (self.clone(), peer.clone());
        let sent = self.aside(peer.id, async move { wires.send(&to, lane, envelopes).await });
        sent.await.unwrap_or_else(|| {
            let cause = AnyError::error("the network panicked");
            Err(NetworkError::Unreachable { peer: peer.id, cause })
        })
    }
}

/// Ends a task when it is dropped.
pub(crate) struct Ends(pub(crate) JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The node's end of a peer's lanes. Dropping it ends the tasks.
pub(crate) struct PeerLanes {
    pub(crate) address: String,
    control: mpsc::Sender<Message>,
    clients: mpsc::Sender<Message>,
    slot: Arc<Slot>,
    counters: Arc<Counters>,
    tasks: Vec<AbortHandle>,
}

impl PeerLanes {
    pub(crate) fn open(wires: &Arc<Wires>, peer: Peer) -> Self {
        let (control, control_in) = mpsc::channel(LANE_CAPACITY);
        let (clients, clients_in) = mpsc::channel(LANE_CAPACITY);
        let slot = Arc::new(Slot::default());
        let (id, address) = (peer.id, peer.address.clone());
        let lane = |lane, queue| wires.join(id, run_lane(wires.clone(), peer.clone(), lane, queue));
        let tasks = vec![
            lane(Lane::Control, control_in),
            lane(Lane::Clients, clients_in),
            wires.join(id, run_stream(wires.clone(), peer.clone(), slot.clone())),
        ];
        Self { address, control, clients, slot, counters: wires.counters.clone(), tasks }
    }

    /// Queues a protocol message, or loses it.
    pub(crate) fn send(&self, message: quorate_engine::Message) {
        // A full lane: the peer does not take anything, the protocol repeats what matters.
        self.try_send(Lane::Control, Message::Raft(message));
    }

    /// Queues a small message beside the protocol's, or loses it.
    pub(crate) fn send_control(&self, message: Message) {
        self.try_send(Lane::Control, message);
    }

    /// Queues forwarded writes or their answers; false if there is no room.
    pub(crate) fn send_clients(&self, message: Message) -> bool {
        self.try_send(Lane::Clients, message)
    }

    fn try_send(&self, lane: Lane, message: Message) -> bool {
        let queue = if lane == Lane::Clients { &self.clients } else { &self.control };
        let queued = queue.try_send(message).is_ok();
        if !queued {
            self.counters.lane(lane).dropped.increment();
        }
        queued
    }

    /// Gives the replication stream its newest target. It is woken only if that lets it do something:
    /// most targets say that the follower has acknowledged what was sent.
    pub(crate) fn aim(&self, target: Replicate) {
        let rings = {
            let mut state = self.slot.lock();
            state.target = Some(target);
            state.rest.is_over(&target)
        };
        if rings {
            self.slot.bell.notify_one();
        }
    }

    /// What the stream has handed to the network.
    pub(crate) fn sent(&self) -> Option<(u64, Index)> {
        self.slot.lock().sent
    }
}

impl Drop for PeerLanes {
    fn drop(&mut self) {
        // They hold nothing that must be finished: what they lose, the network may lose.
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn run_lane(wires: Arc<Wires>, peer: Peer, lane: Lane, mut queue: mpsc::Receiver<Message>) {
    let mut messages = Vec::new();
    while queue.recv_many(&mut messages, 64).await > 0 {
        let envelopes = messages.drain(..).map(|m| wires.envelope(peer.id, m)).collect();
        if let Err(error) = wires.send_from_crew(&peer, lane, envelopes).await {
            tracing::debug!(term = wires.term(), ?lane, %error, "messages lost");
            wires.refused(&error);
            if lane == Lane::Clients {
                wires.control.send(Control::ClientsLost { peer: peer.id });
            }
            wires.env.sleep(PAUSE).await;
        }
    }
}

/// Where the node leaves the stream's newest target, and the stream says what it has sent.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<SlotState>,
    /// One waiter: the stream.
    bell: Notify,
}

#[derive(Debug, Default)]
struct SlotState {
    target: Option<Replicate>,
    sent: Option<(u64, Index)>,
    rest: Rest,
}

/// Whether the stream waits, and for what.
#[derive(Clone, Copy, Debug, Default)]
enum Rest {
    /// It does not: it looks for a target of itself before it does.
    #[default]
    None,
    /// For any other target.
    Blocked,
    /// It has sent all through this index, in this term and session.
    Idle(Term, u64, Index),
}

impl Rest {
    fn is_over(self, target: &Replicate) -> bool {
        match self {
            Rest::None => false,
            Rest::Blocked => true,
            Rest::Idle(term, session, through) => {
                (term, session) != (target.term, target.session) || through < target.through
            }
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What the next append of a stream is.
enum Next {
    Append(AppendEntries),
    /// Nothing to send until there is another target.
    Wait,
}

async fn run_stream(wires: Arc<Wires>, peer: Peer, slot: Arc<Slot>) {
    let mut stream = Stream::new(wires.limits);
    loop {
        if let Some(target) = slot.lock().target.take() {
            stream.aim(target);
        }
        let append = match next(&wires, peer.id, &mut stream).await {
            Next::Append(append) => append,
            Next::Wait => {
                {
                    let mut state = slot.lock();
                    if state.target.is_some() {
                        continue;
                    }
                    state.rest = match stream.finished() {
                        Some((term, session, through)) => Rest::Idle(term, session, through),
                        None => Rest::Blocked,
                    };
                }
                slot.bell.notified().await;
                slot.lock().rest = Rest::None;
                continue;
            }
        };
        let session = append.session;
        slot.lock().sent = stream.sent();
        let blocks = append.blocks.iter();
        let (entries, bytes) = blocks.fold((0, 0), |(entries, bytes), block| {
            (entries + u64::from(block.count()), bytes + block.bytes().len() as u64)
        });
        wires.counters.append_entries.record(entries);
        wires.counters.append_bytes.record(bytes);
        let message = Message::Raft(quorate_engine::Message::AppendEntries(append));
        let envelopes = vec![wires.envelope(peer.id, message)];
        if let Err(error) = wires.send_from_crew(&peer, Lane::Entries, envelopes).await {
            tracing::debug!(term = wires.term(), %error, "append lost");
            wires.refused(&error);
            wires.control.send(Control::Lost { to: peer.id, session });
            wires.env.sleep(PAUSE).await;
        }
    }
}

async fn next(wires: &Wires, to: NodeId, stream: &mut Stream) -> Next {
    let Some(want) = stream.want() else { return Next::Wait };
    if want.through == want.after.index {
        return Next::Append(stream.send(Vec::new()));
    }
    let through = match wires.tail.read(want.after, want.through, want.max_bytes) {
        Found::Blocks(blocks) => return Next::Append(stream.send(blocks)),
        // The log changed under the target: this node leads no more, and will say so.
        Found::Nothing => return Next::Wait,
        Found::Older { through } => through,
    };
    let log = wires.log.clone();
    let read = async move { log.read(want.after, through, want.max_bytes).await };
    let gone = || {
        let cause = AnyError::error("the reader of the log panicked");
        Err(LogReadError::Failed(StorageError::Failed(cause)))
    };
    match wires.aside(to, read).await.unwrap_or_else(gone) {
        Ok(blocks) => Next::Append(stream.send(blocks)),
        Err(LogReadError::Failed(error)) => {
            wires.control.send(Control::StorageFailed(error));
            Next::Wait
        }
        Err(LogReadError::Compacted { .. }) => {
            wires.control.send(Control::Lost { to, session: stream.session() });
            Next::Wait
        }
        Err(error) => {
            tracing::debug!(term = wires.term(), %error, "stream has no entries");
            Next::Wait
        }
    }
}
