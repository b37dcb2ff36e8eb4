//! What can be said to the node: its control queue, and the requests that callers leave in their table.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_engine::message::SnapshotProgress;
use quorate_engine::{LogId, Membership, NodeId, ReadMode, Term};
use quorate_network::{Envelope, ForwardAnswer, Message, Order};
use quorate_storage::{SnapshotInfo, SnapshotReader, StorageError};
use tokio::sync::{mpsc, oneshot};

use crate::callers::Token;
use crate::error::InitializeError;
use crate::forward::Commands;
use crate::orders::OrderReply;
use crate::snapshots::{SnapshotReply, View};
use crate::stats::Counters;

/// Bytes of messages that wait for the node; more are dropped, as the network may drop them.
const INBOX_BYTES: usize = 128 << 20;

/// Everything but clients' requests.
pub(crate) enum Control {
    Messages(Vec<Envelope>),
    Persisted {
        seq: u64,
    },
    StorageFailed(StorageError),
    Lost {
        to: NodeId,
        session: u64,
    },
    ClientsLost {
        peer: NodeId,
    },
    Refused {
        peer: NodeId,
        reason: String,
    },
    Answers {
        node: NodeId,
        boot: u64,
        answers: Vec<ForwardAnswer>,
    },
    Initialize {
        membership: Membership,
        cluster: u64,
        reply: InitializeReply,
    },
    Order {
        order: Order,
        reply: OrderReply,
    },
    Campaign,
    ForgetLeader,
    SnapshotWanted(SnapshotReply),
    View(Result<View, String>),
    SnapshotBuilt(Result<SnapshotInfo, String>),
    /// The digest of the state behind this entry.
    Digest {
        at: LogId,
        digest: u64,
    },
    /// The state machine has everything through here on its own disk.
    Marked(LogId),
    SnapshotOpened {
        to: NodeId,
        term: Term,
        session: u64,
        last: LogId,
        snapshot: Result<Arc<dyn SnapshotReader>, String>,
    },
    SnapshotStored {
        from: NodeId,
        stored: SnapshotProgress,
    },
    SnapshotReceived {
        from: NodeId,
        session: u64,
        /// Of the leader.
        cluster: u64,
        info: SnapshotInfo,
    },
    Failed(String),
    Shutdown,
}

pub(crate) type InitializeReply = oneshot::Sender<Result<(), InitializeError>>;

/// The control queue's entrance. Unbounded for completions, of which there are as many as the node
/// has started; messages from peers are bounded in bytes.
#[derive(Clone)]
pub(crate) struct ControlSender {
    to: mpsc::UnboundedSender<Control>,
    pub(crate) message_bytes: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl ControlSender {
    pub(crate) fn channel(counters: Arc<Counters>) -> (Self, mpsc::UnboundedReceiver<Control>) {
        let (to, from) = mpsc::unbounded_channel();
        (Self { to, message_bytes: Arc::default(), counters }, from)
    }

    /// Queues a completion or a call. After the node has stopped it goes nowhere.
    pub(crate) fn send(&self, control: Control) {
        drop(self.to.send(control));
    }

    /// Queues messages from peers, or drops them when too many wait.
    pub(crate) fn receive(&self, messages: Vec<Envelope>) {
        let bytes = messages.iter().map(weight).sum();
        if self.message_bytes.fetch_add(bytes, Ordering::Relaxed) > INBOX_BYTES {
            self.message_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counters.inbox_dropped.increment();
            return;
        }
        self.send(Control::Messages(messages));
    }
}

/// About what a message takes in memory.
pub(crate) fn weight(envelope: &Envelope) -> usize {
    let payload = match &envelope.message {
        Message::Raft(quorate_engine::Message::AppendEntries(m)) => {
            m.blocks.iter().map(|b| b.bytes().len()).sum()
        }
        Message::Raft(quorate_engine::Message::InstallSnapshot(m)) => m.data.len(),
        Message::Forward(m) => {
            m.writes.iter().flat_map(|w| &w.commands).map(|c| c.len() + 32).sum()
        }
        Message::Forwarded(m) => m.answers.len() * 64,
        _ => 0,
    };
    payload + 128
}

/// What clients ask of the node.
pub(crate) enum Request {
    Write {
        token: Token,
        commands: Commands,
    },
    Read {
        token: Token,
        mode: ReadMode,
    },
    /// A client's, which waits for so long.
    ClientWrite {
        token: Token,
        commands: Commands,
        timeout: Duration,
    },
    /// A client wants an index that covers every write acknowledged by now.
    ReadIndex {
        token: Token,
        timeout: Duration,
    },
}
