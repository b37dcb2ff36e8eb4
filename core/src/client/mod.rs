//! The client: a handle for programs that are no members of the cluster.

mod config;
mod link;
mod rules;
mod session;
mod task;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyerror::AnyError;
use bytes::Bytes;
use quorate_engine::{GroupId, Index, Member, Membership, NodeId, RoleKind, Term};
use quorate_network::{CallKind, CallOutcome, NodeStatus};
use quorate_storage::{Codec, StateMachine};
use tokio::sync::{mpsc, oneshot};

use crate::callers::{decode, sole};
use crate::env::{Env, TokioEnv};
use crate::error::{ReadError, WriteError};
use crate::forward::REQUEST_BYTES;
use task::{Asked, ClientTask, Origin};

pub use config::ClientConfig;
pub use session::ClientSession;

/// What a frame holds besides its commands, generously.
const FRAME_OVERHEAD_BYTES: usize = 4096;

/// A remote handle to one group, for programs that are no members: over the TCP transport, given the
/// addresses of any members. A clone is cheap and the same client.
///
/// It finds the leader and follows it when it changes, keeps all its calls under way at once on one
/// connection, and learns of new members by itself. `S` is the state machine of the group, for its
/// commands, responses and codec; none runs here.
///
/// What is certainly not done it tries again until the deadline. A write that a node may have heard of,
/// on a connection that broke, is answered [`WriteError::Unknown`] and never sent again; in a
/// [session](Client::session) it is sent again, and applied once all the same. The whole table is in
/// `docs/client.md`.
///
/// ```
/// use quorate::{Client, Raft, testing::Counter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node =
///     Raft::builder(1, Counter::default()).in_memory().listen("127.0.0.1:0").start().await?;
/// node.initialize([(1, node.address())]).await?;
///
/// // Elsewhere:
/// let client = Client::<Counter>::connect([node.address()]).await?;
/// assert_eq!(client.write(5).await?, 5);
/// assert_eq!(client.status().await?.leader, Some(1));
/// # node.shutdown().await;
/// # Ok(()) }
/// ```
pub struct Client<S: StateMachine> {
    shared: Arc<Shared>,
    machine: PhantomData<fn() -> S>,
}

struct Shared {
    /// To the task; its closing means that the last handle is gone.
    asked: mpsc::UnboundedSender<Asked>,
    in_flight_bytes: Arc<AtomicUsize>,
    config: ClientConfig,
    /// What is wrong with the settings, if something is: then nothing is ever asked.
    unusable: Option<String>,
    max_call_bytes: usize,
    env: Arc<dyn Env>,
}

impl<S: StateMachine> Clone for Client<S> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), machine: PhantomData }
    }
}

/// A node as it sees itself and its group, from [`Client::status`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStatus {
    /// The node that answers.
    pub id: NodeId,
    /// What it is.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// The last entry of its log.
    pub last: Index,
    /// The last entry it knows to be committed.
    pub committed: Index,
    /// The last entry its state machine has seen.
    pub applied: Index,
    /// The members it knows of, with their addresses.
    pub members: BTreeMap<NodeId, Member>,
}

impl From<NodeStatus> for ClientStatus {
    fn from(status: NodeStatus) -> Self {
        Self {
            id: status.id,
            role: status.role,
            term: status.term,
            leader: status.leader,
            last: status.last,
            committed: status.committed,
            applied: status.applied,
            members: status
                .membership
                .as_ref()
                .map(Membership::members)
                .cloned()
                .unwrap_or_default(),
        }
    }
}

impl<S: StateMachine> Client<S> {
    /// A client of the cluster `quorate`, group 1, with the default settings; see
    /// [`Client::builder`] for others. Returns when a node has answered.
    ///
    /// # Errors
    /// No node has answered within the deadline, or all refuse.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, ReadError> {
        let client = Self::builder(addresses).build();
        client.status().await?;
        Ok(client)
    }

    /// Settings of a client that finds its cluster at `addresses`, `host:port` of any members.
    pub fn builder<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> ClientBuilder<S> {
        ClientBuilder {
            addresses: addresses.into_iter().map(Into::into).collect(),
            cluster: "quorate".into(),
            group: 1,
            config: ClientConfig::default(),
            env: None,
            machine: PhantomData,
        }
    }

    /// Proposes one command and returns its response once it is durable on a quorum and applied on the
    /// leader, as [`Raft::write`](crate::Raft::write) does. Dropping the future does not take it back.
    ///
    /// # Errors
    /// [`WriteError::may_have_happened`] says whether it may have been done all the same.
    pub async fn write(&self, command: S::Command) -> Result<S::Response, WriteError> {
        sole::<S>(self.propose(vec![encode::<S>(&command)?]).await?)
    }

    /// Proposes several commands as one contiguous run in the log, all of them or none, and returns
    /// their responses in order.
    ///
    /// # Errors
    /// As [`Client::write`], for all of them together.
    pub async fn write_many(
        &self,
        commands: impl IntoIterator<Item = S::Command>,
    ) -> Result<Vec<S::Response>, WriteError> {
        let encode = |command| encode::<S>(&command);
        let commands = commands.into_iter().map(encode).collect::<Result<Vec<Bytes>, _>>()?;
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let count = commands.len();
        let responses = self.propose(commands).await?;
        if responses.len() != count {
            let text = "another number of responses than of commands";
            return Err(WriteError::Response(AnyError::error(text)));
        }
        responses.into_iter().map(decode::<S>).collect()
    }

    /// Opens a session: what is written in it is applied once, however often it has to be sent, so that
    /// no write has to be answered `Unknown` while there is time. See [`ClientSession`].
    ///
    /// # Errors
    /// As [`Client::write`]; a session whose opening is unknown lapses by itself.
    pub async fn session(&self) -> Result<ClientSession<S>, WriteError> {
        match self.shared.ask(CallKind::OpenSession).await {
            CallOutcome::Opened(session) => Ok(ClientSession::new(self.clone(), session)),
            outcome => Err(write_error(outcome)),
        }
    }

    async fn propose(&self, commands: Vec<Bytes>) -> Result<Vec<Bytes>, WriteError> {
        let codec = <S::Codec as Codec<S::Command>>::VERSION;
        match self.shared.ask(CallKind::Write { codec, commands }).await {
            CallOutcome::Applied(responses) => Ok(responses),
            outcome => Err(write_error(outcome)),
        }
    }

    /// An index that covers every write acknowledged, to anyone, before this call, confirmed by the
    /// leader: whoever has applied that much (a node whose `applied` has reached it) sees them all.
    ///
    /// # Errors
    /// No leader has confirmed it within the deadline. It may be asked for again.
    pub async fn read_index(&self) -> Result<Index, ReadError> {
        match self.shared.ask(CallKind::ReadIndex).await {
            CallOutcome::ReadIndex(index) => Ok(index),
            outcome => Err(read_error(outcome)),
        }
    }

    /// What the node that this client is connected to knows: the leader, once the client has written.
    ///
    /// # Errors
    /// No node has answered within the deadline, or all refuse.
    pub async fn status(&self) -> Result<ClientStatus, ReadError> {
        match self.shared.ask(CallKind::Status).await {
            CallOutcome::Status(status) => Ok(status.into()),
            outcome => Err(read_error(outcome)),
        }
    }
}

impl Shared {
    /// Has the task make a call, and waits for what becomes of it.
    async fn ask(&self, kind: CallKind) -> CallOutcome {
        self.ask_within(self.config.deadline, kind).await
    }

    async fn ask_within(&self, patience: Duration, kind: CallKind) -> CallOutcome {
        if let Some(why) = &self.unusable {
            return CallOutcome::Refused(why.clone());
        }
        let (bytes, count) = match &kind {
            CallKind::Write { commands, .. } => {
                (commands.iter().map(Bytes::len).sum::<usize>(), commands.len())
            }
            CallKind::WriteOnce { command, .. } => (command.len(), 1),
            _ => (0, 0),
        };
        let cost = bytes + REQUEST_BYTES * (count + 1);
        if cost > self.max_call_bytes {
            let (bytes, limit) = (bytes as u64, self.max_call_bytes as u64);
            return CallOutcome::TooLarge { bytes, limit };
        }
        let limit = self.config.max_in_flight_bytes;
        if self.in_flight_bytes.fetch_add(cost, Ordering::Relaxed) + cost > limit {
            self.in_flight_bytes.fetch_sub(cost, Ordering::Relaxed);
            return CallOutcome::Overloaded;
        }
        let deadline = self.env.now() + patience;
        let (reply, answer) = oneshot::channel();
        if self.asked.send(Asked { kind, cost, deadline, reply }).is_err() {
            return CallOutcome::Stopped;
        }
        // Only the end of the runtime ends the task before its handles.
        answer.await.unwrap_or(CallOutcome::Unknown)
    }
}

fn encode<S: StateMachine>(command: &S::Command) -> Result<Bytes, WriteError> {
    <S::Codec as Codec<S::Command>>::encode(command).map_err(WriteError::Refused)
}

fn write_error(outcome: CallOutcome) -> WriteError {
    match outcome {
        CallOutcome::NotLeader { leader, .. } => WriteError::NotLeader { leader },
        CallOutcome::Overloaded => WriteError::Overloaded,
        CallOutcome::Timeout => WriteError::Timeout,
        CallOutcome::Overwritten => WriteError::Overwritten,
        CallOutcome::TooLarge { bytes, limit } => {
            WriteError::TooLarge { bytes: bytes as usize, limit: limit as usize }
        }
        CallOutcome::Refused(why) => WriteError::Refused(AnyError::error(why)),
        CallOutcome::Stopped => WriteError::Stopped,
        CallOutcome::SessionExpired => WriteError::SessionExpired,
        CallOutcome::Acknowledged => WriteError::Acknowledged,
        // An answer that fits no write says nothing about it.
        _ => WriteError::Unknown,
    }
}

fn read_error(outcome: CallOutcome) -> ReadError {
    match outcome {
        CallOutcome::Overloaded => ReadError::Overloaded,
        CallOutcome::Refused(why) => ReadError::Refused(AnyError::error(why)),
        CallOutcome::Stopped => ReadError::Stopped,
        _ => ReadError::Timeout,
    }
}

/// Settings of a [`Client`]; from [`Client::builder`].
pub struct ClientBuilder<S: StateMachine> {
    addresses: Vec<String>,
    cluster: String,
    group: GroupId,
    config: ClientConfig,
    env: Option<Arc<dyn Env>>,
    machine: PhantomData<fn() -> S>,
}

impl<S: StateMachine> ClientBuilder<S> {
    /// The cluster's name, as its nodes have it; nodes of another name refuse. Default `quorate`.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = name.into();
        self
    }

    /// The group, of hosts that run several. Default 1, which is that of [`Raft::builder`].
    ///
    /// [`Raft::builder`]: crate::Raft::builder
    pub fn group(mut self, group: GroupId) -> Self {
        self.group = group;
        self
    }

    /// Settings that differ from [`ClientConfig::default`].
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Another clock and other seeds than the real ones.
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = Some(env);
        self
    }

    /// The client. It connects when it is first asked for something.
    ///
    /// With settings that no client can work with (a [`ClientConfig::probe_interval`] of zero, say) it
    /// never does: every call is `Refused` at once, and told which setting it is.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build(self) -> Client<S> {
        let env = self.env.unwrap_or_else(|| Arc::new(TokioEnv::new()));
        let unusable = self.config.check().err();
        let options = self.config.tcp(env.random());
        let max_call_bytes = options.max_frame_bytes.saturating_sub(FRAME_OVERHEAD_BYTES);
        let (to, asked) = mpsc::unbounded_channel();
        let in_flight_bytes = Arc::new(AtomicUsize::new(0));
        let task = ClientTask::new(Origin {
            env: env.clone(),
            cluster: self.cluster,
            group: self.group,
            addresses: self.addresses,
            options,
            asked,
            in_flight_bytes: in_flight_bytes.clone(),
        });
        drop(env.spawn(Box::pin(task.run())));
        let config = self.config;
        let shared = Shared { asked: to, in_flight_bytes, config, unusable, max_call_bytes, env };
        Client { shared: Arc::new(shared), machine: PhantomData }
    }
}
