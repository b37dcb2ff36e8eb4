//! A host: what the groups of one node share. Its id, its log directory, its transport.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyerror::AnyError;
use async_trait::async_trait;
use quorate_engine::{GroupId, Membership, NodeId};
use quorate_network::{
    Answerer, Call, CallOutcome, Envelope, Hello, Inbound, Lane, NetworkError, PROTOCOL_VERSIONS,
    Peer, RaftNetwork, Refusal, SharedNetwork,
};
use quorate_storage::{MemoryStorage, RaftStorage, StateMachine};
use tracing::Instrument as _;

use crate::backup::Restore;
use crate::calls::Reception;
use crate::config::Config;
use crate::control::ControlSender;
use crate::env::{Env, TokioEnv, blocking};
use crate::error::StartError;
use crate::raft::Raft;
use crate::spin::Spin;
use crate::start::start_group;
use crate::stats::Observer;

/// A process's place in one cluster, shared by any number of Raft groups: one log directory with
/// one writer, one transport, one clock.
///
/// [`Raft::builder`] makes a host with one group. Build the host yourself to run several:
///
/// ```
/// # use quorate::{Host, testing::Counter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Host::builder(1).in_memory().start().await?;
/// let orders = host.group(1, Counter::default()).start().await?;
/// let stock = host.group(2, Counter::default()).start().await?;
/// for group in [&orders, &stock] {
///     group.initialize([(1, "")]).await?;
/// }
/// stock.write(5).await?;
/// assert_eq!(stock.read(|counter| counter.total).await?, 5);
/// assert_eq!(orders.read(|counter| counter.total).await?, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Host {
    pub(crate) inner: Arc<HostInner>,
}

pub(crate) struct HostInner {
    pub(crate) id: NodeId,
    pub(crate) cluster_name: String,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) config: Config,
    pub(crate) network: SharedNetwork,
    pub(crate) directory: Arc<Directory>,
    /// Given up at shutdown, so that the log is closed while handles are still around.
    storage: Mutex<Storage>,
    advertise: String,
    #[cfg(feature = "tcp")]
    transport: Option<Arc<quorate_network::tcp::TcpTransport>>,
    groups: Mutex<BTreeMap<GroupId, GroupEntry>>,
    pub(crate) observed: Arc<Observed>,
}

/// Where the numbers of a host's groups are. A group that has stopped keeps its place.
#[derive(Default)]
pub(crate) struct Observed(Mutex<BTreeMap<GroupId, Observer>>);

impl Observed {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Observer>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// All of them, in order.
    #[cfg(feature = "prometheus")]
    pub(crate) fn all(&self) -> Vec<Observer> {
        self.lock().values().cloned().collect()
    }
}

struct GroupEntry {
    control: ControlSender,
    /// Where calls of clients go.
    calls: Arc<dyn Reception>,
    incarnation: u64,
    /// The cluster of the group, 0 before it has joined one.
    cluster: Arc<AtomicU64>,
}

/// Where the groups of a host keep their state.
enum Storage {
    /// Named for each group.
    PerGroup,
    Memory,
    #[cfg(feature = "wal")]
    Wal(quorate_storage::wal::Wal),
}

enum StorageChoice {
    PerGroup,
    Memory,
    DataDir(PathBuf),
}

/// Settings of a [`Host`]; from [`Host::builder`].
pub struct HostBuilder {
    id: NodeId,
    cluster_name: String,
    config: Config,
    env: Arc<dyn Env>,
    network: Option<SharedNetwork>,
    listen: Option<String>,
    advertise: Option<String>,
    storage: StorageChoice,
}

impl HostBuilder {
    /// Keeps everything under `path`, in the embedded durable log; created if it does not exist.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.storage = StorageChoice::DataDir(path.into());
        self
    }

    /// Keeps everything in memory: a restart forgets it, and the node must not come back under its
    /// id. For tests and caches.
    pub fn in_memory(mut self) -> Self {
        self.storage = StorageChoice::Memory;
        self
    }

    /// Listens with the built-in TCP transport; port 0 lets the system choose.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// The address others find this node at, where it is not the one it listens on.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Uses a network of your own (or [`InProcess`](crate::InProcess)). What arrives is handed to
    /// [`Host::receive`].
    pub fn network(mut self, network: Arc<dyn RaftNetwork>) -> Self {
        self.network = Some(network);
        self
    }

    /// The cluster's name, the same on all its nodes; nodes of another name are refused. Default
    /// `quorate`.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = name.into();
        self
    }

    /// Settings that differ from [`Config::default`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Another clock and other seeds than the real ones, for simulations.
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = env;
        self
    }

    pub(crate) fn names_no_storage(&self) -> bool {
        matches!(self.storage, StorageChoice::PerGroup)
    }

    /// Opens the log directory and the port.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start(self) -> Result<Host, StartError> {
        if self.listen.is_some() && self.network.is_some() {
            let text = "both listen(..) and network(..) are set; a node has one network";
            return Err(StartError::Config(text.into()));
        }
        // Before anything is opened: a wrong setting must not leave traces.
        quorate_engine::Engine::new(
            self.config.engine(self.id, 0, 0),
            quorate_engine::HardState::default(),
            quorate_engine::Log::empty(),
            quorate_engine::Instant::ORIGIN,
        )?;
        Spin::check(self.config.caller_spin)?;
        let storage = open_storage(self.storage, &*self.env).await?;
        let mut advertise = self.advertise.unwrap_or_default();
        #[cfg(feature = "tcp")]
        let mut transport = None;
        let network: SharedNetwork = match (self.network, self.listen) {
            (Some(network), _) => network,
            #[cfg(feature = "tcp")]
            (None, Some(address)) => {
                let mut options = quorate_network::tcp::TcpOptions::default();
                options.seed = self.env.random();
                let tcp = quorate_network::tcp::TcpTransport::bind(&address, options)
                    .await
                    .map_err(|error| StartError::Listen(AnyError::error(error)))?;
                if advertise.is_empty() {
                    advertise = tcp.local_addr().to_string();
                }
                let tcp = Arc::new(tcp);
                transport = Some(tcp.clone());
                tcp
            }
            #[cfg(not(feature = "tcp"))]
            (None, Some(_)) => {
                let text = "listen(..) needs the feature `tcp`; enable it or set network(..)";
                return Err(StartError::Config(text.into()));
            }
            (None, None) => Arc::new(Nowhere),
        };
        let inner = Arc::new(HostInner {
            id: self.id,
            cluster_name: self.cluster_name,
            env: self.env,
            config: self.config,
            network,
            directory: Arc::default(),
            storage: Mutex::new(storage),
            advertise,
            #[cfg(feature = "tcp")]
            transport: transport.clone(),
            groups: Mutex::default(),
            observed: Arc::default(),
        });
        #[cfg(feature = "tcp")]
        if let Some(tcp) = transport {
            tcp.start(inner.clone());
        }
        Ok(Host { inner })
    }
}

async fn open_storage(choice: StorageChoice, env: &dyn Env) -> Result<Storage, StartError> {
    match choice {
        StorageChoice::PerGroup => Ok(Storage::PerGroup),
        StorageChoice::Memory => Ok(Storage::Memory),
        #[cfg(feature = "wal")]
        StorageChoice::DataDir(path) => {
            use quorate_storage::wal::{Wal, WalOptions};
            // Recovery reads the whole log.
            let opened = blocking(env, move || Wal::open(path, WalOptions::default())).await;
            let panicked = || StartError::Config("opening the log panicked".into());
            Ok(Storage::Wal(opened.ok_or_else(panicked)??))
        }
        #[cfg(not(feature = "wal"))]
        StorageChoice::DataDir(_) => {
            let text = "data_dir(..) needs the feature `wal`; enable it or call storage(..)";
            Err(StartError::Config(text.into()))
        }
    }
}

impl Host {
    /// A host for node `id`, with the default settings.
    pub fn builder(id: NodeId) -> HostBuilder {
        HostBuilder {
            id,
            cluster_name: "quorate".into(),
            config: Config::default(),
            env: Arc::new(TokioEnv::new()),
            network: None,
            listen: None,
            advertise: None,
            storage: StorageChoice::PerGroup,
        }
    }

    /// A group of this host, with its state machine; [`GroupBuilder::start`] runs it.
    pub fn group<S: StateMachine>(&self, group: GroupId, machine: S) -> GroupBuilder<S> {
        GroupBuilder { host: self.clone(), group, machine, storage: None, restore: None }
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// The address others find this node at: what was advertised, otherwise where it listens.
    pub fn address(&self) -> &str {
        &self.inner.advertise
    }

    /// Takes messages that a network of your own has received, in order. Synchronous and quick;
    /// drops what does not fit, never panics.
    pub fn receive(&self, messages: Vec<Envelope>) {
        self.inner.receive(messages);
    }

    /// The receiving side, for transports that keep it.
    pub fn inbound(&self) -> Arc<dyn Inbound> {
        self.inner.clone()
    }

    /// Closes the transport and the log, and returns when no task of them is left. Groups are shut
    /// down one by one before, with [`Raft::shutdown`].
    pub async fn shutdown(&self) {
        let storage = std::mem::replace(&mut *self.inner.storage(), Storage::PerGroup);
        let span = tracing::info_span!("host", node = self.inner.id);
        close_storage(storage, &*self.inner.env).instrument(span).await;
        #[cfg(feature = "tcp")]
        if let Some(transport) = &self.inner.transport {
            transport.shutdown().await;
        }
    }
}

/// How long a shutdown waits for a state machine or a disk that hangs. What still hangs then is
/// left behind: it holds its resources, and nobody else.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Drops a storage. The last handle of a log flushes and closes it, which takes a sync.
pub(crate) async fn close_storage(storage: impl Send + 'static, env: &dyn Env) {
    tokio::select! { biased;
        _ = blocking(env, move || drop(storage)) => {}
        () = env.sleep(STOP_PATIENCE) => tracing::warn!("a log that hangs was not closed"),
    }
}

/// A group to be started; from [`Host::group`].
pub struct GroupBuilder<S: StateMachine> {
    pub(crate) host: Host,
    pub(crate) group: GroupId,
    pub(crate) machine: S,
    pub(crate) storage: Option<Box<dyn RaftStorage>>,
    pub(crate) restore: Option<Restore>,
}

impl<S: StateMachine> GroupBuilder<S> {
    /// A storage of its own for this group, in place of the host's.
    pub fn storage(mut self, storage: impl RaftStorage) -> Self {
        self.storage = Some(Box::new(storage));
        self
    }

    /// Begins a new cluster with the state of a backup, and with these voters. Given to each of
    /// them, with the same file; there is nothing to initialize then. A group that has a log already
    /// goes on with that.
    pub fn restore<A: Into<String>>(
        mut self,
        file: impl Into<PathBuf>,
        members: impl IntoIterator<Item = (NodeId, A)>,
    ) -> Self {
        self.restore = Some(Restore::of(file, members));
        self
    }

    /// Recovers the group and runs it.
    ///
    /// # Errors
    /// See [`StartError`]; nothing of the group is left running.
    pub async fn start(self) -> Result<Raft<S>, StartError> {
        start_group(self, false).await
    }
}

impl HostInner {
    /// How many clients are connected.
    pub(crate) fn clients(&self) -> usize {
        #[cfg(feature = "tcp")]
        if let Some(transport) = &self.transport {
            return transport.clients();
        }
        0
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupId, GroupEntry>> {
        self.groups.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn storage(&self) -> MutexGuard<'_, Storage> {
        self.storage.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The storage of a group that brings none.
    pub(crate) fn open_group(&self, group: GroupId) -> Result<Box<dyn RaftStorage>, StartError> {
        match &*self.storage() {
            Storage::PerGroup => Err(StartError::NoStorage),
            Storage::Memory => Ok(Box::new(MemoryStorage::new())),
            #[cfg(feature = "wal")]
            Storage::Wal(wal) => Ok(Box::new(wal.group(group))),
        }
    }

    /// Before anything of the group is opened; [`HostInner::add_group`] decides.
    pub(crate) fn refuse_known(&self, group: GroupId) -> Result<(), StartError> {
        let known = self.groups().contains_key(&group);
        if known { Err(StartError::GroupExists(group)) } else { Ok(()) }
    }

    pub(crate) fn add_group(
        &self,
        group: GroupId,
        control: ControlSender,
        calls: Arc<dyn Reception>,
        incarnation: u64,
        cluster: Arc<AtomicU64>,
    ) -> Result<(), StartError> {
        let mut groups = self.groups();
        if groups.contains_key(&group) {
            return Err(StartError::GroupExists(group));
        }
        groups.insert(group, GroupEntry { control, calls, incarnation, cluster });
        Ok(())
    }

    /// From now on this is where the numbers of a group are.
    pub(crate) fn observe(&self, group: GroupId, observer: Observer) {
        self.observed.lock().insert(group, observer);
    }

    pub(crate) fn remove_group(&self, group: GroupId) {
        self.groups().remove(&group);
    }
}

impl Inbound for HostInner {
    fn hello(&self, to: NodeId) -> Hello {
        let groups = self.groups();
        // A host with several groups speaks for the first; each message names its own cluster.
        let first = groups.values().next();
        Hello {
            min_version: PROTOCOL_VERSIONS.0,
            max_version: PROTOCOL_VERSIONS.1,
            cluster_name: self.cluster_name.clone(),
            cluster: first.map_or(0, |g| g.cluster.load(Ordering::Acquire)),
            from: self.id,
            to,
            incarnation: first.map_or(0, |g| g.incarnation),
            address: self.advertise.clone(),
        }
    }

    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        let ours = self.hello(hello.from);
        let refuse = |text: String| Err(Refusal(text));
        if hello.cluster_name != ours.cluster_name {
            return refuse(format!(
                "this is a node of cluster \"{}\", not of \"{}\"; check the cluster names and \
                 addresses",
                ours.cluster_name, hello.cluster_name
            ));
        }
        if hello.to != self.id {
            return refuse(format!(
                "this is node {}, not node {}; check the addresses of the members",
                self.id, hello.to
            ));
        }
        if hello.from == self.id {
            return refuse(format!("there is a node {} already: this one", self.id));
        }
        // A node without a log may come: it is told, by the protocol, that its id is taken.
        let known = self.directory.incarnation(hello.from);
        let theirs = hello.cluster != 0 && ours.cluster != 0 && hello.cluster != ours.cluster;
        // A member that is known by its directory may come too: its cluster was recovered, or this
        // one, and all that the one hears of the other is that.
        if theirs && known != Some(hello.incarnation) {
            if self.directory.was_cluster(hello.cluster) {
                return refuse(format!(
                    "this cluster \"{}\" had lost its quorum and was recovered without node {}, whose \
                     directory is of before; empty the directory and add the node anew",
                    ours.cluster_name, hello.from
                ));
            }
            return refuse(format!(
                "this cluster \"{}\" began with other members; one of the two was initialized \
                 separately",
                ours.cluster_name
            ));
        }
        if hello.cluster != 0 && known.is_some_and(|known| known != hello.incarnation) {
            return refuse(format!(
                "node {} is known with another data directory; start it with the directory it \
                 had, or give this one a new id",
                hello.from
            ));
        }
        self.directory.heard(hello.from, &hello.address);
        Ok(())
    }

    fn receive(&self, messages: Vec<Envelope>) {
        let groups = self.groups();
        let Some(group) = messages.first().map(|first| first.group) else { return };
        if messages.iter().all(|message| message.group == group) {
            // Nearly always.
            if let Some(entry) = groups.get(&group) {
                entry.control.receive(messages);
            }
            return;
        }
        let mut messages = messages.into_iter().peekable();
        while let Some(first) = messages.next() {
            let group = first.group;
            let mut run = vec![first];
            while let Some(next) = messages.next_if(|m| m.group == group) {
                run.push(next);
            }
            // For a group that does not run here: lost, as on any network.
            if let Some(entry) = groups.get(&group) {
                entry.control.receive(run);
            }
        }
    }

    fn call(&self, group: GroupId, call: Call, answer: Answerer) {
        let calls = self.groups().get(&group).map(|entry| entry.calls.clone());
        match calls {
            Some(calls) => calls.call(call, answer),
            None => answer.answer(CallOutcome::Stopped),
        }
    }
}

/// What a host knows of other nodes: where they said they are, and which incarnation is a member.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    inner: Mutex<DirectoryInner>,
}

#[derive(Debug, Default)]
struct DirectoryInner {
    addresses: BTreeMap<NodeId, String>,
    /// Of the first group that names the node.
    incarnations: BTreeMap<NodeId, (GroupId, u64)>,
    /// What the clusters of the groups were before they were recovered.
    former: BTreeMap<GroupId, Vec<u64>>,
}

impl Directory {
    fn lock(&self) -> MutexGuard<'_, DirectoryInner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Where `id` said it is, for a node that has no membership yet.
    pub(crate) fn address(&self, id: NodeId) -> Option<String> {
        self.lock().addresses.get(&id).cloned()
    }

    fn heard(&self, id: NodeId, address: &str) {
        if !address.is_empty() {
            self.lock().addresses.insert(id, address.to_owned());
        }
    }

    fn incarnation(&self, id: NodeId) -> Option<u64> {
        self.lock().incarnations.get(&id).map(|(_, incarnation)| *incarnation)
    }

    fn was_cluster(&self, cluster: u64) -> bool {
        self.lock().former.values().any(|former| former.contains(&cluster))
    }

    /// A group has another configuration in force.
    pub(crate) fn configured(&self, group: GroupId, membership: Option<&Membership>) {
        let mut inner = self.lock();
        inner.incarnations.retain(|_, (of, _)| *of != group);
        let recovery = membership.and_then(Membership::recovery);
        inner.former.insert(group, recovery.map(|r| r.former.clone()).unwrap_or_default());
        for (id, member) in membership.into_iter().flat_map(Membership::members) {
            if member.incarnation != 0 {
                inner.incarnations.entry(*id).or_insert((group, member.incarnation));
            }
        }
    }
}

/// The network of a node that has none: a single voter.
struct Nowhere;

#[async_trait]
impl RaftNetwork for Nowhere {
    async fn send(&self, to: &Peer, _: Lane, _: Vec<Envelope>) -> Result<(), NetworkError> {
        let cause = AnyError::error("this node has no network; call listen(..) or network(..)");
        Err(NetworkError::Unreachable { peer: to.id, cause })
    }
}
