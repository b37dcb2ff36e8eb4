//! The node's snapshots: when one is built, which are kept, to whom one is sent.
//!
//! Nothing here waits: the apply worker gives a view of the state between two batches, a task writes
//! it out, tasks send and receive (`transfer.rs`), and each reports back over the control queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::message::{InstallSnapshot, SnapshotProgress};
use quorate_engine::{Index, Input, Instant, LogId, Membership, NodeId, Term};
use quorate_network::Peer;
use quorate_storage::{
    Snapshot, SnapshotInfo, SnapshotMeta, SnapshotReader, SnapshotStore, StorageError,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::control::Control;
use crate::env::blocking;
use crate::error::SnapshotError;
use crate::metrics::Event;
use crate::node::Node;
use crate::transfer::{Pace, Receiving, Sending};

/// How long after a snapshot that failed the next is tried.
const RETRY_BUILD: Duration = Duration::from_secs(5);

/// Who asked for a snapshot and waits for it.
pub(crate) type SnapshotReply = oneshot::Sender<Result<SnapshotInfo, SnapshotError>>;

/// A view of the state, with what it is of.
pub(crate) struct View {
    pub(crate) last: LogId,
    pub(crate) configuration: (LogId, Membership),
    pub(crate) snapshot: Snapshot,
    /// It is without data.
    pub(crate) of_witness: bool,
}

/// What a node knows of its snapshots.
pub(crate) struct Snapshots {
    store: Arc<dyn SnapshotStore>,
    /// Whether the state machine has a disk of its own: the log is compacted by what it has there,
    /// and snapshots are built only for those who need one.
    durable_machine: bool,
    newest: Option<SnapshotInfo>,
    /// A view is awaited, or written out.
    building: bool,
    /// The log is being compacted by what the state machine has on its disk.
    marking: bool,
    /// After a failure, when to try again.
    not_before: Instant,
    /// Who waits for a snapshot of a state that is at least so new.
    callers: Vec<(Index, SnapshotReply)>,
    /// Followers that need one that has yet to be built, with the session.
    wanted: BTreeMap<NodeId, (Term, u64)>,
    /// Followers for whom one is being opened.
    opening: BTreeMap<NodeId, u64>,
    sending: BTreeMap<NodeId, Sending>,
    receiving: Option<Receiving>,
    /// The task that writes a snapshot out.
    writing: Option<JoinHandle<()>>,
    /// The state that the log was compacted by last, when, and bytes of the log since.
    covered: u64,
    covered_at: Instant,
    log_bytes: u64,
    /// Of them, those that the snapshot under way covers.
    covered_bytes: u64,
    /// Once this write is durable, older snapshots go.
    delete_after: Option<u64>,
    /// Tells a writing task that the node stops.
    stop: Arc<AtomicBool>,
}

impl Snapshots {
    pub(crate) fn new(
        store: Arc<dyn SnapshotStore>,
        newest: Option<SnapshotInfo>,
        durable_machine: bool,
        covered: u64,
        now: Instant,
    ) -> Self {
        Self {
            store,
            durable_machine,
            newest,
            building: false,
            marking: false,
            not_before: Instant::ORIGIN,
            callers: Vec::new(),
            wanted: BTreeMap::new(),
            opening: BTreeMap::new(),
            sending: BTreeMap::new(),
            receiving: None,
            writing: None,
            covered,
            covered_at: now,
            log_bytes: 0,
            covered_bytes: 0,
            delete_after: None,
            stop: Arc::default(),
        }
    }

    pub(crate) fn newest(&self) -> Option<&SnapshotInfo> {
        self.newest.as_ref()
    }

    /// Bytes were added to the log.
    pub(crate) fn on_appended(&mut self, bytes: usize) {
        self.log_bytes += bytes as u64;
    }

    /// The log is compacted or reset by the write `seq`.
    pub(crate) fn on_compacting(&mut self, seq: u64) {
        self.delete_after = Some(seq);
    }

    /// The node stops: nothing is sent or written any more, callers are told. Returns the tasks that
    /// still hold files.
    pub(crate) fn stop(&mut self) -> Vec<JoinHandle<()>> {
        self.stop.store(true, Ordering::Relaxed);
        self.sending.clear();
        for (_, caller) in self.callers.drain(..) {
            drop(caller.send(Err(SnapshotError::Stopped)));
        }
        let receiving = self.receiving.take().map(Receiving::close);
        self.writing.take().into_iter().chain(receiving).collect()
    }
}

// ---- building ----

impl Node {
    /// When the policy wants to be asked next, if time alone decides.
    pub(crate) fn snapshot_deadline(&self) -> Option<Instant> {
        let snapshots = &self.snapshots;
        let idle = snapshots.building || snapshots.marking;
        let behind = self.engine.log().applied() > snapshots.covered;
        let interval = self.config.snapshot_interval.filter(|_| behind && !idle)?;
        Some((snapshots.covered_at + interval).max(snapshots.not_before))
    }

    /// Has the log compacted when the settings say so. Called once a turn.
    pub(crate) fn consider_snapshot(&mut self, now: Instant) {
        let applied = self.engine.log().applied();
        let (config, snapshots) = (&self.config, &mut self.snapshots);
        if now < snapshots.not_before {
            return;
        }
        if !snapshots.wanted.is_empty() {
            self.build_snapshot();
            return;
        }
        if snapshots.building || snapshots.marking || applied <= snapshots.covered {
            return;
        }
        let entries = applied - snapshots.covered;
        let since = now.since(snapshots.covered_at);
        let due = config.snapshot_entries.is_some_and(|limit| entries >= limit)
            || config.snapshot_log_bytes.is_some_and(|limit| snapshots.log_bytes >= limit)
            || config.snapshot_interval.is_some_and(|limit| since >= limit);
        if !due {
            return;
        }
        if snapshots.durable_machine && !self.engine.hard_state().witness {
            snapshots.marking = true;
            snapshots.covered_bytes = snapshots.log_bytes;
            self.apply.mark();
        } else {
            self.build_snapshot();
        }
    }

    fn build_snapshot(&mut self) {
        let snapshots = &mut self.snapshots;
        if !std::mem::replace(&mut snapshots.building, true) {
            snapshots.covered_bytes = snapshots.log_bytes;
            self.apply.view();
        }
    }

    /// Somebody wants a snapshot of what is applied now.
    pub(crate) fn on_snapshot_wanted(&mut self, reply: SnapshotReply) {
        let applied = self.board.applied();
        let newest = self.snapshots.newest.as_ref();
        if let Some(info) = newest.filter(|info| info.meta.last.index == applied) {
            drop(reply.send(Ok(info.clone())));
        } else if applied == 0 {
            drop(reply.send(Err(SnapshotError::Nothing)));
        } else {
            // The one under way may be of an older state: then another follows.
            self.snapshots.callers.push((applied, reply));
            self.build_snapshot();
        }
    }

    /// The apply worker gives a view: it is written out in the background.
    ///
    /// Not if a start could find it without knowing that this node is a witness, and so take it for the
    /// state.
    pub(crate) fn on_view(&mut self, view: Result<View, String>) {
        let view = match view {
            Ok(View { of_witness: true, .. }) if !self.engine.hard_state_is_durable() => {
                Err("this node has become a witness, which its log does not say yet".into())
            }
            view => view,
        };
        let view = match view {
            Ok(view) => view,
            Err(why) => {
                self.wires.control.send(Control::SnapshotBuilt(Err(why)));
                return;
            }
        };
        let wires = self.wires.clone();
        let (store, stop) = (self.snapshots.store.clone(), self.snapshots.stop.clone());
        let nonce = wires.env.random();
        let View { last, configuration, snapshot, .. } = view;
        let meta = SnapshotMeta { last, configuration, nonce };
        let writing = self.wires.env.spawn(Box::pin(async move {
            let write = move || write_out(&*store, meta, snapshot, &stop);
            let built = blocking(&*wires.env, write).await;
            let built = built.unwrap_or_else(|| Err("writing it panicked".into()));
            wires.control.send(Control::SnapshotBuilt(built));
        }));
        self.snapshots.writing = Some(writing);
    }

    pub(crate) fn on_snapshot_built(&mut self, now: Instant, built: Result<SnapshotInfo, String>) {
        let snapshots = &mut self.snapshots;
        snapshots.building = false;
        let info = match built {
            Ok(info) => info,
            Err(why) => {
                tracing::warn!("building a snapshot failed: {why}");
                self.wires.counters.snapshots_failed.increment();
                self.board.event(&Event::SnapshotFailed { why: why.clone() });
                snapshots.not_before = now + RETRY_BUILD;
                for (_, caller) in snapshots.callers.drain(..) {
                    let why = anyerror::AnyError::error(&why);
                    drop(caller.send(Err(SnapshotError::Failed(why))));
                }
                return;
            }
        };
        let last = info.meta.last;
        tracing::info!(%last, bytes = info.bytes, "snapshot");
        self.wires.counters.snapshots_built.increment();
        self.wires.counters.snapshot_built_bytes.add(info.bytes);
        self.board.event(&Event::SnapshotBuilt { last, bytes: info.bytes });
        for (at, caller) in std::mem::take(&mut snapshots.callers) {
            if at <= last.index {
                drop(caller.send(Ok(info.clone())));
            } else {
                snapshots.callers.push((at, caller));
            }
        }
        if snapshots.newest.as_ref().is_none_or(|newest| newest.meta.last.index < last.index) {
            snapshots.newest = Some(info);
        }
        self.on_covered(now, last);
        for (to, (term, session)) in std::mem::take(&mut self.snapshots.wanted) {
            self.on_send_snapshot(to, (term, session), false);
        }
        if !self.snapshots.callers.is_empty() {
            self.build_snapshot();
        }
    }

    /// A state through `last` is durable without the log.
    pub(crate) fn on_covered(&mut self, now: Instant, last: LogId) {
        let snapshots = &mut self.snapshots;
        snapshots.marking = false;
        if last.index > snapshots.covered {
            snapshots.covered = last.index;
            snapshots.covered_at = now;
            snapshots.log_bytes -= std::mem::take(&mut snapshots.covered_bytes);
        }
        self.step(now, Input::Snapshotted { last });
    }

    /// The write `seq` is durable: what it made superfluous is deleted.
    pub(crate) fn on_durable(&mut self, seq: u64) {
        let snapshots = &mut self.snapshots;
        if snapshots.delete_after.take_if(|after| *after <= seq).is_none() {
            return;
        }
        let compacted = self.engine.log().compacted().index;
        let Some(newest) = snapshots.newest.as_ref().map(|info| info.meta.last) else { return };
        // One that the log no longer reaches is of use to nobody.
        let keep_from = if newest.index < compacted { compacted } else { newest.index };
        if newest.index < compacted {
            snapshots.newest = None;
        }
        let (store, wires) = (snapshots.store.clone(), self.wires.clone());
        drop(self.wires.env.spawn(Box::pin(async move {
            let delete = move || {
                for info in store.list()? {
                    if info.meta.last.index < keep_from {
                        store.delete(info.meta.last)?;
                    }
                }
                Ok::<(), StorageError>(())
            };
            if let Some(Err(error)) = blocking(&*wires.env, delete).await {
                let (node, group, term) = (wires.id, wires.group, wires.term());
                tracing::warn!(node, group, term, %error, "an old snapshot was not deleted");
            }
        })));
    }
}

/// What a witness gets for a snapshot.
struct WithoutData(SnapshotInfo);

impl SnapshotReader for WithoutData {
    fn info(&self) -> &SnapshotInfo {
        &self.0
    }

    fn read_at(&self, _: u64, _: usize) -> Result<Bytes, StorageError> {
        Ok(Bytes::new())
    }
}

/// Writes a view into the store; stops in the middle if the node does.
fn write_out(
    store: &dyn SnapshotStore,
    meta: SnapshotMeta,
    snapshot: Snapshot,
    stop: &AtomicBool,
) -> Result<SnapshotInfo, String> {
    let mut writer = store.create(meta).map_err(|e| e.to_string())?;
    for piece in snapshot {
        if stop.load(Ordering::Relaxed) {
            return Err("the node stops".into());
        }
        writer.append(&piece.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    writer.commit().map_err(|e| e.to_string())
}

// ---- sending and receiving ----

impl Node {
    /// A follower needs a snapshot that ends where the log begins, or behind. Session 0: no more.
    /// A witness gets one without data, of what is applied now, which nobody has to build.
    pub(crate) fn on_send_snapshot(
        &mut self,
        to: NodeId,
        (term, session): (Term, u64),
        witness: bool,
    ) {
        self.snapshots.sending.remove(&to);
        self.snapshots.wanted.remove(&to);
        self.snapshots.opening.remove(&to);
        if session == 0 {
            return;
        }
        if witness {
            self.snapshots.opening.insert(to, session);
            let snapshot = Arc::new(self.without_data());
            let last = snapshot.info().meta.last;
            let opened =
                Control::SnapshotOpened { to, term, session, last, snapshot: Ok(snapshot) };
            self.wires.control.send(opened);
            return;
        }
        let beginning = self.engine.log().compacted().index;
        let newest = self.snapshots.newest.as_ref().map(|info| info.meta.last);
        match newest.filter(|last| last.index >= beginning) {
            Some(last) => self.open_snapshot(to, term, session, last),
            None => {
                self.snapshots.wanted.insert(to, (term, session));
                if self.wires.env.now() >= self.snapshots.not_before {
                    self.build_snapshot();
                }
            }
        }
    }

    fn without_data(&self) -> WithoutData {
        let log = self.engine.log();
        // While the state machine restores what the log begins with, that: it is applied soon.
        let index = log.applied().max(log.compacted().index);
        let last = LogId::new(log.term_at(index).expect("it is in the log"), index);
        let configuration = log.configuration_at(index).expect("one is in force").clone();
        let meta = SnapshotMeta { last, configuration, nonce: self.wires.env.random() };
        WithoutData(SnapshotInfo { meta, bytes: 0 })
    }

    fn open_snapshot(&mut self, to: NodeId, term: Term, session: u64, last: LogId) {
        self.snapshots.opening.insert(to, session);
        let (store, wires) = (self.snapshots.store.clone(), self.wires.clone());
        drop(self.wires.env.spawn(Box::pin(async move {
            let opened = blocking(&*wires.env, move || store.open(last)).await;
            let snapshot = match opened {
                Some(Ok(Some(snapshot))) => Ok(snapshot),
                Some(Ok(None)) => Err(format!("snapshot {last} is gone")),
                Some(Err(error)) => Err(error.to_string()),
                None => Err("opening it panicked".into()),
            };
            wires.control.send(Control::SnapshotOpened { to, term, session, last, snapshot });
        })));
    }

    pub(crate) fn on_snapshot_opened(
        &mut self,
        now: Instant,
        to: NodeId,
        (term, session): (Term, u64),
        last: LogId,
        snapshot: Result<Arc<dyn SnapshotReader>, String>,
    ) {
        if self.snapshots.opening.get(&to) != Some(&session) {
            return;
        }
        self.snapshots.opening.remove(&to);
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(why) => {
                tracing::warn!(peer = to, "a snapshot can't be sent: {why}");
                // Another is built instead.
                self.snapshots.newest.take_if(|info| info.meta.last == last);
                self.step(now, Input::Lost { to, session });
                return;
            }
        };
        let Some(address) = self.lanes(to).map(|lanes| lanes.address.clone()) else { return };
        let member = self.engine.configuration().and_then(|(_, members)| members.member(to));
        let witness = member.is_some_and(|member| member.witness);
        let pace = Pace {
            part_bytes: self.config.snapshot_part_bytes,
            bytes_per_second: self.config.snapshot_bytes_per_second,
            stall_timeout: self.config.snapshot_stall_timeout,
            retry: self.config.election_timeout_max,
            promise: self.config.election_timeout_min,
            witness,
        };
        let peer = Peer { id: to, address };
        let sending = Sending::start(&self.wires, peer, (term, session), snapshot, pace);
        self.snapshots.sending.insert(to, sending);
        self.step(now, Input::SendingSnapshot { to, session, last });
    }

    pub(crate) fn on_snapshot_answered(&self, from: NodeId, have: SnapshotProgress) {
        let sending = self.snapshots.sending.get(&from);
        if let Some(sending) = sending.filter(|s| s.session == have.session) {
            if have.offset >= sending.bytes {
                self.wires.counters.snapshots_sent.increment();
            }
            sending.answered(have);
        }
    }

    pub(crate) fn on_store_snapshot(&mut self, from: NodeId, part: InstallSnapshot) {
        let patience = self.config.snapshot_stall_timeout * 3;
        let Node { snapshots, wires, books, .. } = self;
        if !snapshots.receiving.as_ref().is_some_and(|receiving| receiving.takes(&part)) {
            // What has come of another is gone first: it takes room.
            snapshots.receiving = None;
            let store = snapshots.store.clone();
            let receiving = Receiving::start(wires, from, store, &part, books.adopting, patience);
            snapshots.receiving = Some(receiving);
        }
        if let Some(receiving) = &snapshots.receiving {
            receiving.part(from, part);
        }
    }

    /// The leader's snapshot is complete and durable.
    pub(crate) fn on_snapshot_received(
        &mut self,
        now: Instant,
        from: NodeId,
        session: u64,
        info: SnapshotInfo,
    ) {
        let SnapshotMeta { last, configuration, .. } = info.meta.clone();
        tracing::info!(peer = from, %last, bytes = info.bytes, "snapshot received");
        self.wires.counters.snapshots_received.increment();
        self.board.event(&Event::SnapshotReceived { from, last, bytes: info.bytes });
        let snapshots = &mut self.snapshots;
        snapshots.receiving = None;
        if snapshots.newest.as_ref().is_none_or(|newest| newest.meta.last.index < last.index) {
            snapshots.newest = Some(info);
        }
        self.step(now, Input::SnapshotReceived { from, session, last, configuration });
        if self.engine.log().compacted() == last {
            let snapshots = &mut self.snapshots;
            snapshots.covered = last.index;
            snapshots.covered_at = now;
            snapshots.log_bytes = 0;
            snapshots.covered_bytes = 0;
        }
    }
}
