//! The handle: what an application calls.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use anyerror::AnyError;
use bytes::Bytes;
use quorate_engine::{Index, Membership, NodeId, ReadMode};
use quorate_network::{OrderKind, RaftNetwork, SessionRequest, SessionWrite};
use quorate_storage::{Codec, RaftStorage, SnapshotStore, StateMachine};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::apply::ApplyInbox;
use crate::backup::{Backup, Restore};
use crate::callers::{
    Application as _, Caller, Callers, Once, ReadFn, Reply, Served, Token, Written, own_waker,
};
use crate::config::Config;
use crate::control::{Control, ControlSender, Request};
use crate::digests::{FNV_BASIS, fnv};
use crate::env::{Env, blocking};
use crate::error::{
    InitializeError, ReadError, SnapshotError, StartError, TransferError, WriteError,
};
use crate::forward::Commands;
use crate::host::{GroupBuilder, Host, HostBuilder, STOP_PATIENCE};
use crate::membership::{MembershipChange, Orderer};
use crate::metrics::{Board, Events, Metrics, Wait};
use crate::session::Session;
use crate::start::start_group;
use crate::stats::{Observer, Stats};
use crate::trigger::Trigger;

/// The group of a host that has one.
const ONLY_GROUP: u64 = 1;

/// A handle to one Raft group on this node. A clone is cheap and the same node; dropping the last
/// one stops the node, [`Raft::shutdown`] does so and waits.
///
/// All methods may be called from any task, at the same time, on any node of the cluster.
pub struct Raft<S: StateMachine> {
    shared: Arc<Handle<S>>,
}

impl<S: StateMachine> Clone for Raft<S> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

pub(crate) struct Handle<S: StateMachine> {
    pub(crate) host: Host,
    /// Whether the host is this group's alone, and ends with it.
    pub(crate) owns_host: bool,
    pub(crate) callers: Arc<Callers<S>>,
    pub(crate) apply: Arc<ApplyInbox>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) board: Arc<Board>,
    pub(crate) control: ControlSender,
    pub(crate) queued_bytes: Arc<AtomicUsize>,
    pub(crate) observer: Observer,
    /// The node task, until someone waits for its end.
    pub(crate) task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl<S: StateMachine> Drop for Handle<S> {
    fn drop(&mut self) {
        self.callers.turn_away();
    }
}

impl<S: StateMachine> Raft<S> {
    pub(crate) fn of(handle: Handle<S>) -> Self {
        Self { shared: Arc::new(handle) }
    }

    /// Builds node `id` with its state machine. Name a storage (`data_dir`, `in_memory` or
    /// `storage`) and, unless the node is alone, a network (`listen` or `network`).
    pub fn builder(id: NodeId, machine: S) -> Builder<S> {
        Builder { host: Host::builder(id), machine, storage: None, restore: None }
    }

    /// Begins a new cluster with these voters and their addresses, this node among them.
    ///
    /// Called once, on one of them; the others start and wait to be contacted. Returns when the
    /// first configuration is durable here; the election follows. To repeat it is harmless, with
    /// the same members and the same cluster name, also later and on other members.
    ///
    /// The cluster can lose any minority once a leader has heard every member: the incarnations in
    /// [`Metrics::membership`](crate::Metrics) are then not 0. Before, a member that nobody has heard
    /// might be a disk that was wiped, so its vote counts only together with all the others, and the
    /// loss of the first leader may have to be made good before there is another.
    ///
    /// # Errors
    /// [`InitializeError::OtherCluster`] if the node began with other members;
    /// [`InitializeError::Members`] if these make no membership.
    pub async fn initialize<A: Into<String>>(
        &self,
        members: impl IntoIterator<Item = (NodeId, A)>,
    ) -> Result<(), InitializeError> {
        let members: Vec<(NodeId, A)> = members.into_iter().collect();
        let count = members.len();
        let membership = Membership::of_voters(members)
            .map_err(|error| InitializeError::Members(error.to_string()))?;
        if membership.members().len() != count {
            return Err(InitializeError::Members("a node is named twice".into()));
        }
        let cluster = cluster_id(&self.shared.host.inner.cluster_name, &membership, 0);
        let (reply, answer) = oneshot::channel();
        self.shared.control.send(Control::Initialize { membership, cluster, reply });
        answer.await.unwrap_or(Err(InitializeError::Stopped))
    }

    /// Proposes one command and returns its response once it is durable on a quorum and applied on
    /// the leader.
    ///
    /// On a node that does not lead, the command travels to the leader. Without a leader it waits
    /// for one, at most [`Config::write_timeout`]. Dropping the future does not take it back.
    ///
    /// # Errors
    /// [`WriteError::may_have_happened`] says whether it may have been done all the same.
    pub async fn write(&self, command: S::Command) -> Result<S::Response, WriteError> {
        let waker = own_waker().await;
        let bytes = match self.encode(&command) {
            Ok(bytes) => bytes,
            Err(why) => return Err(self.failed(WriteError::Refused(why).into())),
        };
        let token = self.submit(waker, Commands::One(bytes))?;
        self.ended(token, Reply::one).await
    }

    /// Proposes several commands as one contiguous run in the log, all of them or none, and returns
    /// their responses in order.
    ///
    /// Together they are bounded like one command, by [`Config::max_command_bytes`].
    ///
    /// # Errors
    /// As [`Raft::write`], for all of them together.
    pub async fn write_many(
        &self,
        commands: impl IntoIterator<Item = S::Command>,
    ) -> Result<Vec<S::Response>, WriteError> {
        let waker = own_waker().await;
        let commands = commands.into_iter();
        let mut run = Vec::with_capacity(commands.size_hint().0);
        for command in commands {
            match self.encode(&command) {
                Ok(bytes) => run.push(bytes),
                Err(why) => return Err(self.failed(WriteError::Refused(why).into())),
            }
        }
        if run.is_empty() {
            return Ok(Vec::new());
        }
        let token = self.submit(waker, Commands::Many(run))?;
        self.ended(token, Reply::many).await
    }

    /// What a write came to that was taken in.
    async fn ended<T>(
        &self,
        token: Token,
        of: impl FnOnce(Reply<S>) -> Written<T>,
    ) -> Result<T, WriteError> {
        of(self.shared.callers.told(token).await).map_err(|error| self.failed(error))
    }

    /// Counts a write that failed.
    #[cold]
    fn failed(&self, error: Box<WriteError>) -> WriteError {
        self.shared.observer.counters.write_failed(&error);
        *error
    }

    /// Opens a session, through the log: what is written in it is applied once, however often it has to
    /// be sent. See [`Session`].
    ///
    /// # Errors
    /// As [`Raft::write`]; a session whose opening is unknown lapses by itself.
    pub async fn session(&self) -> Result<Session<S>, WriteError> {
        Ok(Session::new(self.clone(), self.open_session().await?))
    }

    /// Opens a session for a client whose writes this program passes on by [`Raft::write_once`]; returns
    /// its number.
    ///
    /// # Errors
    /// As [`Raft::write`]; a session whose opening is unknown lapses by itself.
    pub async fn open_session(&self) -> Result<u64, WriteError> {
        let commands = Commands::session(SessionRequest::Open, Bytes::new());
        let token = self.submit(own_waker().await, commands)?;
        self.ended(token, Reply::opened).await
    }

    /// One attempt of a write of a session, as [`Raft::write`] otherwise. If the write was applied
    /// before, by another attempt, it is not applied again, and the response is that of then.
    ///
    /// For programs that serve clients of their own; others write by [`Raft::session`]. Sequences may
    /// arrive in any order, up to 1024 ahead of what is acknowledged.
    ///
    /// # Errors
    /// As [`Raft::write`], and [`WriteError::SessionExpired`], [`WriteError::Acknowledged`]. After
    /// [`WriteError::Unknown`] the same write may be sent again, here or at another node.
    pub async fn write_once(
        &self,
        write: SessionWrite,
        command: S::Command,
    ) -> Result<Once<S::Response>, WriteError> {
        let bytes = self.encode(&command).map_err(WriteError::Refused)?;
        self.attempt(write, bytes).await
    }

    pub(crate) async fn attempt(
        &self,
        write: SessionWrite,
        command: Bytes,
    ) -> Result<Once<S::Response>, WriteError> {
        let commands = Commands::session(SessionRequest::Write(write), command);
        let token = self.submit(own_waker().await, commands)?;
        self.ended(token, Reply::once).await
    }

    #[inline]
    pub(crate) fn encode(&self, command: &S::Command) -> Result<Bytes, AnyError> {
        <S::Codec as Codec<S::Command>>::encode(command)
    }

    #[inline]
    fn submit(&self, waker: Waker, commands: Commands) -> Result<Token, WriteError> {
        let shared = &*self.shared;
        let config = &shared.host.inner.config;
        let queued = &shared.queued_bytes;
        let cost = commands
            .admit(config.max_command_bytes, queued, config.queue_bytes)
            .map_err(|error| self.failed(error.into()))?;
        let request = |token| {
            shared.board.write_queued();
            Request::Write { token, commands }
        };
        shared.callers.ask(Caller::Asleep(waker), request).map_err(|(why, _)| {
            queued.fetch_sub(cost, Ordering::Relaxed);
            self.failed(WriteError::from(why).into())
        })
    }

    /// Adds a member that receives the log and does not vote. It is started first, on an empty disk, and
    /// waits to be contacted. Nothing changes if it is one already, at this address.
    pub fn add_learner(&self, id: NodeId, address: impl Into<String>) -> MembershipChange<'_> {
        self.change([learner(id, address, false)])
    }

    /// Adds a voter: as a learner first, and as a voter when it has caught up (thesis §4.2.1), so that
    /// it costs the others no availability.
    pub fn add_voter(&self, id: NodeId, address: impl Into<String>) -> MembershipChange<'_> {
        self.change([learner(id, address, false), OrderKind::Promote { id }])
    }

    /// Adds a witness: a voter that is given no commands, so it costs little disk and no work, and can
    /// neither lead nor serve reads. As a learner first, like any voter. It is started like any node, and
    /// stays a witness: to make a full replica of it, remove it, empty its directory and add it anew.
    ///
    /// What a witness is worth, and what it can't do, is in `docs/membership.md`.
    pub fn add_witness(&self, id: NodeId, address: impl Into<String>) -> MembershipChange<'_> {
        self.change([learner(id, address, true), OrderKind::Promote { id }])
    }

    /// Makes a learner a voter, when it has caught up.
    pub fn promote(&self, id: NodeId) -> MembershipChange<'_> {
        self.change([OrderKind::Promote { id }])
    }

    /// Makes a voter a learner.
    pub fn demote(&self, id: NodeId) -> MembershipChange<'_> {
        self.change([OrderKind::Demote { id }])
    }

    /// Removes a member. A leader may remove itself: it leads until that is committed, and hands over.
    /// The node removed is told, and stops campaigning; stopping it is the caller's business.
    pub fn remove(&self, id: NodeId) -> MembershipChange<'_> {
        self.change([OrderKind::Remove { id }])
    }

    /// Puts another node into the place of a member, dead or alive: `with` joins as a learner, and when
    /// it has caught up it becomes a voter and `id` leaves, in one step.
    pub fn replace(
        &self,
        id: NodeId,
        with: NodeId,
        address: impl Into<String>,
    ) -> MembershipChange<'_> {
        self.change([learner(with, address, false), OrderKind::Swap { id, with }])
    }

    /// Makes these members the voters, in one step; voters that are not named become learners, and
    /// learners that are named have to have caught up.
    pub fn set_voters(&self, voters: impl IntoIterator<Item = NodeId>) -> MembershipChange<'_> {
        self.change([OrderKind::SetVoters { voters: voters.into_iter().collect() }])
    }

    /// Changes where a member is found.
    pub fn set_address(&self, id: NodeId, address: impl Into<String>) -> MembershipChange<'_> {
        self.change([OrderKind::SetAddress { id, address: address.into() }])
    }

    fn change(&self, steps: impl IntoIterator<Item = OrderKind>) -> MembershipChange<'_> {
        MembershipChange::new(self.orderer(), steps.into_iter().collect())
    }

    fn orderer(&self) -> Orderer {
        let inner = &self.shared.host.inner;
        Orderer {
            control: self.shared.control.clone(),
            env: inner.env.clone(),
            silence: inner.config.election_timeout_max * 2,
        }
    }

    /// Has the voter `to` lead, or the one that is best prepared: it is brought up to date first, and
    /// takes over without waiting for an election timeout (thesis §3.10). Writes wait meanwhile.
    /// Returns who leads. May be asked for at any node.
    ///
    /// # Errors
    /// [`TransferError`]; somebody leads in any case.
    pub async fn transfer_leadership(
        &self,
        to: Option<NodeId>,
        timeout: Duration,
    ) -> Result<NodeId, TransferError> {
        self.orderer().transfer(to, timeout).await
    }

    /// Calls `f` with the state, linearizably: it sees every write that was acknowledged, by any
    /// node, before this call. The same as [`Raft::read_with`] with [`ReadMode::Index`].
    ///
    /// # Errors
    /// As [`Raft::read_with`].
    ///
    /// # Panics
    /// If `f` does: here, in the caller. The node goes on.
    pub async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        self.read_with(ReadMode::Index, f).await
    }

    /// Calls `f` with a state that is as new as `mode` says; `docs/reads.md` compares the modes.
    ///
    /// The closure runs on this node's apply worker, between two batches, so it should be quick;
    /// a state that shares its data (`Arc`, a database) is better read directly, after
    /// [`Raft::ensure_linearizable`].
    ///
    /// # Errors
    /// [`ReadError::Timeout`] if no leader confirms it within [`Config::read_timeout`], or, with
    /// [`ReadMode::Stale`], if the state machine is busy for longer; [`ReadError::Witness`] if there is
    /// no state here.
    ///
    /// # Panics
    /// If `f` does: here, in the caller. The node goes on.
    pub async fn read_with<T: Send + 'static>(
        &self,
        mode: ReadMode,
        f: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let (caller, answer) = reader(f);
        let called = match self.ask_to_read(mode, caller) {
            Ok(token) => {
                self.shared.callers.watch(token).await;
                answer.await.unwrap_or_else(|_| Err(ReadError::Stopped.into()))
            }
            Err(error) => Err(error),
        };
        let called = self.served(called)?;
        Ok(called.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// What a read has come to; counts it if it failed.
    fn served<T>(&self, served: Served<T>) -> Result<T, ReadError> {
        served.map_err(|error| {
            self.shared.observer.counters.read_failed(&error);
            *error
        })
    }

    fn ask_to_read(&self, mode: ReadMode, caller: Caller<S>) -> Served<Token> {
        self.shared.observer.counters.read_asked(mode);
        let known = match mode {
            ReadMode::Stale => Some(0),
            ReadMode::Lease => self.leased_index(),
            ReadMode::Index | ReadMode::Bounded(_) => None,
        };
        let callers = &self.shared.callers;
        let no_place = |(why, _)| Box::new(ReadError::from(why));
        let Some(index) = known else {
            return callers.ask(caller, |token| Request::Read { token, mode }).map_err(no_place);
        };
        // Nobody has to be asked, not even the node.
        let token = callers.add(caller).map_err(no_place)?;
        let inner = &self.shared.host.inner;
        let deadline = inner.env.now() + inner.config.read_timeout;
        self.shared.apply.read(index, deadline, [token]);
        Ok(token)
    }

    /// Waits until this node's state machine has seen every write that was acknowledged before this
    /// call; then a read of the state is linearizable.
    ///
    /// The same as [`Raft::ensure_linearizable_with`] with [`ReadMode::Index`].
    ///
    /// # Errors
    /// As [`Raft::read`].
    pub async fn ensure_linearizable(&self) -> Result<(), ReadError> {
        self.ensure_linearizable_with(ReadMode::Index).await
    }

    /// Waits until the state here is as new as `mode` says; then a read of it is. At a leader with a lease
    /// [`ReadMode::Lease`] asks nobody and waits for nobody.
    ///
    /// # Errors
    /// As [`Raft::read_with`].
    pub async fn ensure_linearizable_with(&self, mode: ReadMode) -> Result<(), ReadError> {
        let leased = if mode == ReadMode::Lease { self.leased_index() } else { None };
        if leased.is_some_and(|index| index <= self.shared.board.applied()) {
            self.shared.observer.counters.read_asked(mode);
            // Whoever reads in a loop lets others run now and then.
            tokio::task::coop::consume_budget().await;
            return Ok(());
        }
        let served = match self.ask_to_read(mode, Caller::Asleep(own_waker().await)) {
            Ok(token) => self.shared.callers.told(token).await.current(),
            Err(error) => Err(error),
        };
        self.served(served)
    }

    /// What a read by lease has to see, if this node leads and holds one now.
    fn leased_index(&self) -> Option<Index> {
        self.shared.board.lease.read_index(|| self.shared.host.inner.env.now())
    }

    /// The node at this moment; also after it has stopped.
    pub fn metrics(&self) -> Metrics {
        self.shared.board.metrics()
    }

    /// What the node has done since it started, and what waits in it, at this moment; also after it
    /// has stopped. Copies a few kilobytes: for those who look every second, not for every request.
    pub fn stats(&self) -> Stats {
        self.shared.observer.stats()
    }

    /// Waits for a state of the node, for at most `timeout`:
    /// `raft.wait(timeout).leader().await?`.
    pub fn wait(&self, timeout: Duration) -> Wait {
        Wait { board: self.shared.board.clone(), timeout }
    }

    /// What happens to the node from now on: changes of role, leader and membership, snapshots, silent
    /// members, overload.
    pub fn events(&self) -> Events {
        self.shared.board.events()
    }

    /// A backup of the state as it is now on this node, to be written to a file: a new cluster can begin
    /// with it ([`Builder::restore`]). Memory stays small, whatever its size.
    ///
    /// A node that is behind gives an older state; after [`Raft::ensure_linearizable`] it holds every
    /// write acknowledged before that.
    ///
    /// # Errors
    /// As [`Trigger::snapshot`]; [`SnapshotError::Witness`].
    pub async fn backup(&self) -> Result<Backup, SnapshotError> {
        let env = &self.shared.host.inner.env;
        loop {
            let last = self.trigger().snapshot().await?.meta.last;
            let store = self.shared.snapshots.clone();
            let opened = blocking(&**env, move || store.open(last)).await;
            match opened.ok_or(SnapshotError::Stopped)? {
                Ok(Some(_)) if self.metrics().witness => return Err(SnapshotError::Witness),
                Ok(Some(reader)) => return Ok(Backup::new(env.clone(), reader)),
                // A newer one has taken its place meanwhile.
                Ok(None) => {}
                Err(error) => return Err(SnapshotError::Failed(AnyError::new(&error))),
            }
        }
    }

    /// What an operator has the node do at once.
    pub fn trigger(&self) -> Trigger<'_> {
        Trigger { control: &self.shared.control }
    }

    /// The host this group runs on.
    pub fn host(&self) -> &Host {
        &self.shared.host
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.host.inner.config
    }

    pub(crate) fn env(&self) -> &Arc<dyn Env> {
        &self.shared.host.inner.env
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.shared.host.id()
    }

    /// The address others find this node at.
    pub fn address(&self) -> &str {
        self.shared.host.address()
    }

    /// Stops the node: hands the leadership over if it leads, flushes the log, answers whoever waits, and returns when every task of it
    /// has ended. May be called again, also at the same time.
    pub async fn shutdown(&self) {
        self.shared.control.send(Control::Shutdown);
        let mut task = self.shared.task.lock().await;
        if let Some(running) = task.as_mut() {
            // A panic of the node task was reported by its guard.
            drop(running.await);
            // Whoever calls next, if this call is given up from here on, must not ask it again.
            *task = None;
        }
        let env = &self.shared.host.inner.env;
        tokio::select! { biased;
            () = self.shared.callers.post.ended() => {}
            // Its runtime may be held up.
            () = env.sleep(STOP_PATIENCE) => {}
        }
        if self.shared.owns_host {
            self.shared.host.shutdown().await;
        }
    }
}

fn learner(id: NodeId, address: impl Into<String>, witness: bool) -> OrderKind {
    OrderKind::AddLearner { id, address: address.into(), witness }
}

/// What a closure returned, or the panic it died of.
type Called<T> = std::thread::Result<T>;

fn reader<S: StateMachine, T: Send + 'static>(
    f: impl FnOnce(&S) -> T + Send + 'static,
) -> (Caller<S>, oneshot::Receiver<Served<Called<T>>>) {
    let (reply, answer) = oneshot::channel();
    let run: ReadFn<S> = Box::new(move |state| {
        // It only looks at the state: a panic is its caller's, not the node's.
        let call = |state| std::panic::catch_unwind(AssertUnwindSafe(|| f(state)));
        drop(reply.send(state.map(call).map_err(Box::new)));
    });
    (Caller::Read(run), answer)
}

/// The cluster's id, from its name, its first members and the backup that it began with, 0 for none:
/// the same wherever it is computed.
pub(crate) fn cluster_id(name: &str, members: &Membership, backup: u64) -> u64 {
    let mut hash = FNV_BASIS;
    let mut add = |bytes: &[u8]| hash = fnv(hash, bytes);
    add(name.as_bytes());
    for (id, member) in members.members() {
        add(&[0]);
        add(&id.to_le_bytes());
        add(member.address.as_bytes());
    }
    if backup != 0 {
        add(&backup.to_le_bytes());
    }
    // 0 means "none".
    hash.max(1)
}

/// Settings of a node with one group; from [`Raft::builder`].
pub struct Builder<S: StateMachine> {
    host: HostBuilder,
    machine: S,
    storage: Option<Box<dyn RaftStorage>>,
    restore: Option<Restore>,
}

impl<S: StateMachine> Builder<S> {
    fn host(mut self, change: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        self.host = change(self.host);
        self
    }

    /// See [`HostBuilder::data_dir`].
    pub fn data_dir(self, path: impl Into<PathBuf>) -> Self {
        self.host(|host| host.data_dir(path))
    }

    /// See [`HostBuilder::in_memory`].
    pub fn in_memory(self) -> Self {
        self.host(HostBuilder::in_memory)
    }

    /// A storage of your own.
    pub fn storage(mut self, storage: impl RaftStorage) -> Self {
        self.storage = Some(Box::new(storage));
        self
    }

    /// See [`GroupBuilder::restore`].
    pub fn restore<A: Into<String>>(
        mut self,
        file: impl Into<PathBuf>,
        members: impl IntoIterator<Item = (NodeId, A)>,
    ) -> Self {
        self.restore = Some(Restore::of(file, members));
        self
    }

    /// See [`HostBuilder::listen`].
    pub fn listen(self, address: impl Into<String>) -> Self {
        self.host(|host| host.listen(address))
    }

    /// See [`HostBuilder::advertise`].
    pub fn advertise(self, address: impl Into<String>) -> Self {
        self.host(|host| host.advertise(address))
    }

    /// See [`HostBuilder::network`].
    pub fn network(self, network: Arc<dyn RaftNetwork>) -> Self {
        self.host(|host| host.network(network))
    }

    /// See [`HostBuilder::cluster`].
    pub fn cluster(self, name: impl Into<String>) -> Self {
        self.host(|host| host.cluster(name))
    }

    /// See [`HostBuilder::config`].
    pub fn config(self, config: Config) -> Self {
        self.host(|host| host.config(config))
    }

    /// See [`HostBuilder::env`].
    pub fn env(self, env: Arc<dyn Env>) -> Self {
        self.host(|host| host.env(env))
    }

    /// Opens storage and port, recovers what is there, and runs the node.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start(self) -> Result<Raft<S>, StartError> {
        if self.storage.is_none() && self.host.names_no_storage() {
            return Err(StartError::NoStorage);
        }
        let host = self.host.start().await?;
        let group = GroupBuilder {
            host: host.clone(),
            group: ONLY_GROUP,
            machine: self.machine,
            storage: self.storage,
            restore: self.restore,
        };
        match start_group(group, true).await {
            Ok(raft) => Ok(raft),
            Err(error) => {
                host.shutdown().await;
                Err(error)
            }
        }
    }
}
