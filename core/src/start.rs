//! The start of a group: what its store recovered, its snapshots and its state machine have to fit
//! together, and then its tasks run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use quorate_engine::{Engine, Log, LogId, Membership};
use quorate_storage::{
    ApplyMark, Identity, LogOp, RaftStorage, Recovered, SnapshotInfo, SnapshotStore, StateMachine,
    StorageError, WriteBatch, WriteDone,
};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::apply::{ApplyInbox, ApplyWorker};
use crate::callers::{Application, Callers};
use crate::calls::GroupCalls;
use crate::control::ControlSender;
use crate::crew::{self, Crew};
use crate::digests::Digests;
use crate::env::{Env, blocking};
use crate::error::StartError;
use crate::host::{GroupBuilder, HostInner};
use crate::lanes::Wires;
use crate::metrics::Board;
use crate::node::{Books, Node};
use crate::orders::Orders;
use crate::pending::Pending;
use crate::raft::{Handle, Raft, cluster_id};
use crate::sessions::{self, Sessions};
use crate::snapshots::Snapshots;
use crate::spin::Spin;
use crate::stats::{Counters, Observer};
use crate::tail::Tail;

/// What a state machine begins with.
struct Base {
    /// Everything through here is in its state.
    last: LogId,
    configuration: Option<(LogId, Membership)>,
    sessions: Sessions,
    /// Whether it keeps its state on a disk of its own.
    durable_machine: bool,
}

/// Recovers a group and starts its tasks.
pub(crate) async fn start_group<S: StateMachine>(
    builder: GroupBuilder<S>,
    owns_host: bool,
) -> Result<Raft<S>, StartError> {
    let GroupBuilder { host, group, mut machine, storage, restore: backup } = builder;
    let inner = host.inner.clone();
    let (id, env, config) = (inner.id, inner.env.clone(), inner.config.clone());
    inner.refuse_known(group)?;
    let mut storage = match storage {
        Some(storage) => storage,
        None => inner.open_group(group)?,
    };
    // Recovery may read the whole log.
    let recovery = move || {
        let recovered = storage.recover();
        let recovered = recovered.and_then(|r| {
            let snapshots = storage.snapshots();
            let newest = snapshots.list()?.pop();
            Ok((r, snapshots, newest))
        });
        (storage, recovered)
    };
    let (mut storage, recovered) = blocking(&*env, recovery)
        .await
        .ok_or_else(|| StartError::Config("the recovery of the storage panicked".into()))?;
    let (recovered, store, mut newest) = recovered?;
    let backup = match backup {
        Some(backup) => Some((backup.membership()?, backup)),
        None => None,
    };
    let mut identity = match recovered.identity {
        Some(identity) if identity.node != id => {
            return Err(StartError::OtherNode { found: identity.node, wanted: id });
        }
        Some(identity) => identity,
        None => {
            let identity = Identity { node: id, incarnation: env.random().max(1), cluster: 0 };
            write(&mut storage, vec![LogOp::Identity(identity)]).await?;
            identity
        }
    };
    let Recovered { mut hard_state, compacted, last, runs, configurations, .. } = recovered;
    let mut log = Log::recovered(compacted, last, runs, configurations)
        .map_err(|error| StartError::Config(error.to_string()))?;
    let mut ops = Vec::new();
    if identity.cluster == 0 {
        // What a node of no cluster has received it can't place: it is received again.
        newest = None;
        if let Some((members, backup)) = backup {
            if members.member(id).is_none() {
                let text = format!("node {id} itself is not among the members to restore");
                return Err(StartError::Config(text));
            }
            let imported = backup.import(members.clone(), &*env, store.clone()).await?;
            identity.cluster = cluster_id(&inner.cluster_name, &members, imported.meta.nonce);
            ops.push(LogOp::Identity(identity));
            newest = Some(imported);
        }
    }
    if let Some(SnapshotInfo { meta, .. }) = &newest {
        let to = meta.last;
        if to.index > log.compacted().index && !log.contains(to) {
            // A snapshot, of the leader or of a backup, is durable before the log is reset to begin
            // behind it: that is done now.
            let configuration = meta.configuration.clone();
            hard_state = hard_state.at_least(to.term);
            ops.push(LogOp::HardState(hard_state));
            ops.push(LogOp::Reset { to, configuration: configuration.clone() });
            write(&mut storage, ops).await?;
            log.reset(to, configuration);
        }
    }
    let witness = hard_state.witness;
    let base =
        restore(&mut machine, &*env, &store, newest.as_ref(), log.compacted(), witness).await?;
    let last = log.last();
    if base.last != LogId::ZERO {
        log = log.restored(base.last).map_err(|_| {
            StartError::StateMissing(format!(
                "the state machine has everything through {}, the log ends with {last}",
                base.last
            ))
        })?;
    }
    let mut settings = config.engine(id, identity.incarnation, env.random());
    settings.apply_persisted = base.durable_machine;
    let born_in = hard_state.term;
    let now = env.now();
    let engine = Engine::new(settings, hard_state, log, now)?;

    let counters = Arc::new(Counters::default());
    let (control, control_in) = ControlSender::channel(counters.clone());
    let cluster = Arc::new(AtomicU64::new(identity.cluster));
    let window = config.election_timeout_max;
    let board = Arc::new(Board::new(id, group, counters.clone(), env.clone(), window));
    board.set_sessions(&base.sessions);
    board.set_applied(base.last.index);
    let callers = Callers::<S>::new(Spin::new(config.caller_spin));
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let calls = Arc::new(GroupCalls {
        callers: callers.clone(),
        queued_bytes: queued_bytes.clone(),
        board: board.clone(),
        queue_bytes: config.queue_bytes,
        max_command_bytes: config.max_command_bytes,
    });
    inner.add_group(group, control.clone(), calls, identity.incarnation, cluster.clone())?;

    let tail = Arc::new(Tail::new(last, config.tail_bytes));
    let reader = storage.reader();
    let pending = Arc::new(Pending::default());
    let apply = Arc::new(ApplyInbox::default());
    let (crew, joined) = crew::entrance();
    let wires = Arc::new(Wires {
        id,
        group,
        incarnation: identity.incarnation,
        cluster,
        env: env.clone(),
        network: inner.network.clone(),
        control: control.clone(),
        tail: tail.clone(),
        log: reader.clone(),
        limits: config.stream_limits(),
        counters: counters.clone(),
        term: AtomicU64::new(born_in),
        crew,
    });
    let worker = ApplyWorker {
        machine,
        callers: callers.clone(),
        inbox: apply.clone(),
        tail,
        log: reader,
        pending: pending.clone(),
        board: board.clone(),
        counters: counters.clone(),
        control: control.clone(),
        applied: base.last,
        sessions: base.sessions,
        configuration: base.configuration,
        durable_machine: base.durable_machine,
        witness,
        snapshots: store.clone(),
        env: env.clone(),
        batch_bytes: config.apply_bytes,
        digest_entries: config.state_hash_entries.map(|every| every.max(1)),
        open: None,
    };
    let span = tracing::info_span!(parent: None, "apply", node = id, group);
    let apply_task = env.spawn(Box::pin(worker.run().instrument(span)));
    let snapshots = store.clone();
    let application: Arc<dyn Application> = callers.clone();
    let node = Node {
        engine,
        storage,
        identity,
        config,
        wires,
        directory: inner.directory.clone(),
        application,
        apply: apply.clone(),
        apply_task,
        pending,
        board: board.clone(),
        control: control_in,
        queued_bytes: queued_bytes.clone(),
        snapshots: Snapshots::new(store, newest, base.durable_machine, base.last.index, now),
        orders: Orders::default(),
        digests: Digests::default(),
        books: Books::new(env.random(), born_in),
    };
    // Whoever looks right after the start sees what was recovered.
    let configuration = node.engine.configuration().map(|(_, members)| Arc::new(members.clone()));
    board.publish(|metrics| metrics.membership = configuration);
    node.publish();
    let observer = Observer {
        host: Arc::downgrade(&inner),
        board: board.clone(),
        counters,
        queued_bytes: queued_bytes.clone(),
        inbox_bytes: control.message_bytes.clone(),
    };
    inner.observe(group, observer.clone());
    let guard = StopGuard {
        host: inner,
        group,
        callers: callers.clone(),
        apply: apply.clone(),
        board: board.clone(),
    };
    let task = env.spawn(Box::pin(async move {
        let guard = guard;
        Crew::new(node.run(), joined).await;
        drop(guard);
    }));
    let task = tokio::sync::Mutex::new(Some(task));
    let shared = Handle {
        host,
        owns_host,
        callers,
        apply,
        snapshots,
        board,
        control,
        queued_bytes,
        observer,
        task,
    };
    Ok(Raft::of(shared))
}

/// Gives the state machine the newest state there is: its own, or the newest snapshot.
async fn restore<S: StateMachine>(
    machine: &mut S,
    env: &dyn Env,
    store: &Arc<dyn SnapshotStore>,
    newest: Option<&SnapshotInfo>,
    compacted: LogId,
    witness: bool,
) -> Result<Base, StartError> {
    let machine_failed = |why: quorate_storage::Failure| StartError::StateMachine(why.to_string());
    let mark = machine.durable().await.map_err(machine_failed)?;
    let durable_machine = mark.is_some();
    let own = mark.as_ref().map_or(LogId::ZERO, ApplyMark::last);
    if let Some(info) = newest.filter(|info| info.meta.last.index > own.index) {
        let last = info.meta.last;
        let configuration = info.meta.configuration.clone();
        if witness {
            // There is no state in it.
            let (configuration, sessions) = (Some(configuration), Sessions::default());
            return Ok(Base { last, configuration, sessions, durable_machine });
        }
        let opening = store.clone();
        let opened = blocking(env, move || opening.open(last)).await;
        let lost = || StorageError::Corrupt(format!("snapshot {last} can't be opened"));
        let reader = opened.ok_or_else(lost)??.ok_or_else(lost)?;
        let restored = sessions::restore(machine, env, reader, durable_machine).await;
        let sessions = restored.map_err(machine_failed)?;
        let configuration = Some(configuration);
        return Ok(Base { last, configuration, sessions, durable_machine });
    }
    if own.index < compacted.index {
        return Err(StartError::StateMissing(format!(
            "the log begins behind {compacted}, and neither a snapshot nor the state machine has \
             what comes before"
        )));
    }
    let mark = mark.unwrap_or_default();
    let (table, replies) = mark.sessions();
    let sessions = Sessions::kept(table, replies).map_err(machine_failed)?;
    let configuration = mark.configuration().cloned();
    Ok(Base { last: own, configuration, sessions, durable_machine })
}

/// Writes before the node says a word, and waits until it is durable.
async fn write(storage: &mut Box<dyn RaftStorage>, ops: Vec<LogOp>) -> Result<(), StartError> {
    let (to, durable) = oneshot::channel();
    let done = WriteDone::new(move |result| drop(to.send(result)));
    storage.submit(WriteBatch { ops }, done);
    match durable.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StartError::Config("the storage did not answer the first write".into())),
    }
}

/// Whatever ends the node task, also a panic or an aborted runtime: nobody is left waiting.
struct StopGuard<S: StateMachine> {
    host: Arc<HostInner>,
    group: u64,
    callers: Arc<Callers<S>>,
    apply: Arc<ApplyInbox>,
    board: Arc<Board>,
}

impl<S: StateMachine> Drop for StopGuard<S> {
    fn drop(&mut self) {
        self.host.remove_group(self.group);
        if std::thread::panicking() {
            self.board.publish(|metrics| {
                metrics.fatal.get_or_insert_with(|| {
                    "a broken invariant stopped the node; its log has the panic".into()
                });
            });
        }
        self.apply.close();
        self.callers.close();
        self.board.close();
    }
}
