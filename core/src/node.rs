//! The node task: owns the engine of one group and carries out what it says.
//!
//! It awaits its inbox and its deadline, nothing else. Each turn takes everything that waits in its
//! control queue and then in the table of callers, steps the engine, carries out the outputs in order,
//! and hands one write batch to the log; what arrives while the log syncs becomes the next batch.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{Fuse, FusedFuture as _, FutureExt as _};
use quorate_engine::{
    Decline, Engine, EntryBlock, Index, Input, Instant, LogId, Membership, NodeId, Notice, Output,
    Outputs, RoleKind, Term, planted,
};
use quorate_network::{Envelope, Message, Peer};
use quorate_storage::{Identity, LogOp, RaftStorage, WriteBatch, WriteDone};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use crate::apply::ApplyInbox;
use crate::callers::{Application, Token};
use crate::config::Config;
use crate::control::{Control, InitializeReply, Request, weight};
use crate::crew::GiveWay;
use crate::digests::Digests;
use crate::error::{InitializeError, ReadError, WriteError};
use crate::forward::{Forwarding, Write};
use crate::host::{Directory, STOP_PATIENCE, close_storage};
use crate::lanes::{PeerLanes, Wires};
use crate::metrics::{Board, Event, Metrics};
use crate::observe::Progressing;
use crate::orders::Orders;
use crate::pending::{Origin, Pending};
use crate::sessions::LogClock;
use crate::snapshots::Snapshots;
use crate::writes::declined;

/// Peers that are no members and are answered all the same: those of a node that has no membership
/// yet, and those who are told that they are none.
const MAX_STRANGERS: usize = 64;

/// How often deadlines of writes and reads are looked at, while there are any.
const SWEEP: Duration = Duration::from_millis(50);

/// What a turn takes of each at most, controls and requests, so that neither starves the other.
const TURN: usize = 4096;

/// Committed entries that a follower applies together, under load.
const STRIDE: u64 = 64;

/// One group on one node.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) storage: Box<dyn RaftStorage>,
    pub(crate) identity: Identity,
    pub(crate) config: Config,
    pub(crate) wires: Arc<Wires>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) application: Arc<dyn Application>,
    pub(crate) apply: Arc<ApplyInbox>,
    pub(crate) apply_task: JoinHandle<()>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) board: Arc<Board>,
    pub(crate) control: mpsc::UnboundedReceiver<Control>,
    /// Bytes of requests that wait, counted by the handles, given back here.
    pub(crate) queued_bytes: Arc<AtomicUsize>,
    pub(crate) snapshots: Snapshots,
    pub(crate) orders: Orders,
    pub(crate) digests: Digests,
    pub(crate) books: Books,
}

/// The node's own bookkeeping, empty at the start.
pub(crate) struct Books {
    pub(crate) out: Outputs,
    pub(crate) batch: WriteBatch,
    pub(crate) batch_seq: u64,
    pub(crate) peers: BTreeMap<NodeId, PeerLanes>,
    pub(crate) forwarding: Forwarding,
    /// Writes that wait for a leader to be known.
    pub(crate) parked: Vec<Write>,
    /// Writes of the batch that is being proposed.
    pub(crate) proposing: Vec<Origin>,
    /// Bytes of requests that were taken from the queue, and are still counted there.
    pub(crate) released: usize,
    /// Callers of each read that the engine has, and since when.
    pub(crate) reads: BTreeMap<u64, (Instant, Vec<Token>)>,
    /// Clients of each read index that the engine was asked for; of the same numbers.
    pub(crate) index_reads: BTreeMap<u64, (Instant, Vec<Token>)>,
    pub(crate) next_read: u64,
    /// What entries of sessions are stamped with while this node leads.
    pub(crate) log_clock: LogClock,
    /// Who waits for the first configuration to be durable, with its write.
    pub(crate) initializing: Vec<(u64, InitializeReply)>,
    /// The cluster of the message at hand: a blank node joins the one it accepts entries from.
    pub(crate) adopting: u64,
    pub(crate) failures: Vec<(Token, WriteError)>,
    pub(crate) progressing: Progressing,
    pub(crate) noticed: BTreeSet<(NodeId, String)>,
    pub(crate) sweep_at: Instant,
    pub(crate) fatal: Option<String>,
    /// Why the engine did not take what it was asked for last.
    pub(crate) declined: Option<Decline>,
    /// A leader that is to stop hands over first, until then at most.
    pub(crate) stop_at: Option<Instant>,
    pub(crate) stopping: bool,
}

impl Books {
    /// Of a process that starts in the term `born_in`.
    pub(crate) fn new(boot: u64, born_in: Term) -> Self {
        Self {
            out: Outputs::new(),
            batch: WriteBatch::default(),
            batch_seq: 0,
            peers: BTreeMap::new(),
            forwarding: Forwarding::new(boot, born_in),
            parked: Vec::new(),
            proposing: Vec::new(),
            released: 0,
            reads: BTreeMap::new(),
            index_reads: BTreeMap::new(),
            next_read: 0,
            log_clock: LogClock::default(),
            initializing: Vec::new(),
            adopting: 0,
            failures: Vec::new(),
            progressing: Progressing::default(),
            noticed: BTreeSet::new(),
            sweep_at: Instant::ORIGIN,
            fatal: None,
            declined: None,
            stop_at: None,
            stopping: false,
        }
    }
}

impl Node {
    /// Runs until it is told to stop, the last handle is gone, or something breaks.
    pub(crate) async fn run(mut self) {
        let env = self.wires.env.clone();
        let mut controls = Vec::new();
        let mut requests = VecDeque::new();
        let mut way = Fuse::terminated();
        let mut timer = env.sleep(Duration::MAX);
        let mut armed: Option<Instant> = None;
        if let Some((id, membership)) = self.engine.log().configurations().last() {
            let (id, membership) = (*id, membership.clone());
            let _in_span = self.span().entered();
            self.on_configured(id, Some(membership));
        }
        self.publish();
        while !self.books.stopping {
            // The timer is set again only for an earlier moment: a follower's deadline moves with
            // every heartbeat, and the timer may just as well fire for nothing now and then.
            match (self.deadline(!way.is_terminated()), armed) {
                (Some(at), None) => {
                    timer = env.sleep(at.since(env.now()));
                    armed = Some(at);
                }
                (Some(at), Some(before)) if at < before => {
                    timer = env.sleep(at.since(env.now()));
                    armed = Some(at);
                }
                _ => {}
            }
            tokio::select! { biased;
                () = &mut way => {}
                _ = self.control.recv_many(&mut controls, TURN) => {}
                asked = poll_fn(|cx| self.application.poll_requests(cx, &mut requests, TURN)),
                    if way.is_terminated() => self.books.stopping = !asked,
                () = &mut timer, if armed.is_some() => armed = None,
            }
            self.take_controls(&mut controls);
            if way.is_terminated() {
                self.application.take_requests(&mut requests, TURN);
            }
            if requests.len() > 1 {
                // Under load the others go first, so that what is asked for meanwhile is one batch:
                // streams, the apply worker, other nodes of the process.
                way = GiveWay::default().fuse();
            }
            let now = env.now();
            self.turn(now, &mut controls, &mut requests);
        }
        let span = self.span();
        self.stop(requests).instrument(span).await;
    }

    /// `giving_way`: requests may wait, unseen.
    fn deadline(&self, giving_way: bool) -> Option<Instant> {
        let waiting = giving_way
            || !self.books.parked.is_empty()
            || !self.books.forwarding.is_empty()
            || !self.pending.is_empty()
            || self.orders.is_waiting()
            || self.books.stop_at.is_some()
            || self.apply.has_readers();
        let sweep = waiting.then_some(self.books.sweep_at);
        let deadlines = [self.engine.deadline(), sweep, self.snapshot_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// One turn: everything that waits, then the outputs, then one write.
    fn turn(
        &mut self,
        now: Instant,
        controls: &mut Vec<Control>,
        requests: &mut VecDeque<Request>,
    ) {
        let applied = self.board.applied();
        if applied > self.engine.log().applied() {
            let _in_span = self.span().entered();
            self.step(now, Input::Applied { through: applied });
        }
        self.on_controls(now, controls);
        if self.books.fatal.is_some() {
            return;
        }
        let in_span = self.span().entered();
        self.on_requests(now, requests);
        if self.engine.deadline().is_some_and(|at| at <= now) {
            self.report_sent(now);
            self.step(now, Input::Wake);
        }
        if self.books.sweep_at <= now {
            self.books.sweep_at = now + SWEEP;
            self.sweep(now);
        }
        self.go_on_with_orders(now);
        self.consider_snapshot(now);
        self.stop_when_handed_over(now);
        self.submit(now);
        // A log in memory has written by now: what follows from that takes no turn of its own.
        drop(in_span);
        self.take_controls(controls);
        self.on_controls(now, controls);
        if self.books.fatal.is_some() {
            return;
        }
        let _in_span = self.span().entered();
        self.submit(now);
        self.note_progress(now);
        self.give_room();
        self.application.fail_writes(&mut self.books.failures);
        self.tail_trim();
        if self.engine.role() == RoleKind::Leader {
            self.board.heard(now, self.engine.log().committed());
        }
        self.publish();
    }

    /// Whatever waits in the control queue, as far as a turn takes it.
    fn take_controls(&mut self, controls: &mut Vec<Control>) {
        while controls.len() < TURN {
            let Ok(control) = self.control.try_recv() else { break };
            controls.push(control);
        }
    }

    fn on_controls(&mut self, now: Instant, controls: &mut Vec<Control>) {
        for control in controls.drain(..) {
            let _in_span = self.span().entered();
            self.on_control(now, control);
            if self.books.fatal.is_some() {
                // An error fences the node: whatever else waits, it does and says nothing more.
                return;
            }
        }
    }

    fn on_control(&mut self, now: Instant, control: Control) {
        match control {
            Control::Messages(envelopes) => {
                let bytes = envelopes.iter().map(weight).sum();
                self.wires.control.message_bytes.fetch_sub(bytes, Ordering::Relaxed);
                for envelope in envelopes {
                    self.on_envelope(now, envelope);
                }
            }
            Control::Persisted { seq } => {
                self.books.progressing.on_persisted(now, seq, &self.wires.counters);
                self.step(now, Input::Persisted { seq });
                let waiting = std::mem::take(&mut self.books.initializing);
                for (at, reply) in waiting {
                    if at <= seq {
                        drop(reply.send(Ok(())));
                    } else {
                        self.books.initializing.push((at, reply));
                    }
                }
                self.on_durable(seq);
            }
            Control::StorageFailed(error) => self.fail(error.to_string()),
            Control::Lost { to, session } => self.step(now, Input::Lost { to, session }),
            Control::ClientsLost { peer } => {
                // Any of them may have arrived, also what was handed over before.
                for write in self.books.forwarding.take(|leader, _| leader == peer) {
                    self.reject(write, WriteError::Unknown);
                }
                self.orders.lost(peer);
            }
            Control::Refused { peer, reason } => self.on_refused(peer, reason),
            Control::Answers { node, boot, answers } => self.send_answers(node, boot, answers),
            Control::Initialize { membership, cluster, reply } => {
                self.on_initialize(now, membership, cluster, reply);
            }
            Control::Order { order, reply } => self.on_own_order(now, order, reply),
            Control::Campaign => self.step(now, Input::Campaign),
            Control::ForgetLeader => self.step(now, Input::ForgetLeader),
            Control::SnapshotWanted(reply) => self.on_snapshot_wanted(reply),
            Control::View(view) => self.on_view(view),
            Control::SnapshotBuilt(built) => self.on_snapshot_built(now, built),
            Control::Digest { at, digest } => self.on_own_digest(at, digest),
            Control::Marked(last) => self.on_covered(now, last),
            Control::SnapshotOpened { to, term, session, last, snapshot } => {
                self.on_snapshot_opened(now, to, (term, session), last, snapshot);
            }
            Control::SnapshotStored { from, stored } => {
                self.step(now, Input::SnapshotStored { from, stored });
            }
            Control::SnapshotReceived { from, session, cluster, info } => {
                self.books.adopting = cluster;
                self.on_snapshot_received(now, from, session, info);
                self.books.adopting = 0;
            }
            Control::Failed(cause) => self.fail(cause),
            Control::Shutdown => self.hand_over_and_stop(now),
        }
    }

    fn on_initialize(
        &mut self,
        now: Instant,
        membership: Membership,
        cluster: u64,
        reply: InitializeReply,
    ) {
        let outcome = if self.identity.cluster == cluster {
            if !self.books.initializing.is_empty() {
                self.books.initializing.push((self.books.batch_seq, reply));
                return;
            }
            Ok(())
        } else if self.was_cluster(cluster) {
            // It began so, and was recovered since.
            Ok(())
        } else if self.identity.cluster != 0 {
            Err(InitializeError::OtherCluster)
        } else if membership.member(self.identity.node).is_none() {
            let id = self.identity.node;
            Err(InitializeError::Members(format!("node {id} itself is not among the members")))
        } else {
            self.books.adopting = cluster;
            self.step(now, Input::Initialize { membership });
            self.books.adopting = 0;
            if self.identity.cluster == cluster {
                self.books.initializing.push((self.books.batch_seq, reply));
                return;
            }
            Err(InitializeError::OtherCluster)
        };
        drop(reply.send(outcome));
    }

    // ---- peers ----

    /// Whether this node's cluster had this identity before it was recovered.
    fn was_cluster(&self, cluster: u64) -> bool {
        let recovery = self.engine.configuration().and_then(|(_, members)| members.recovery());
        recovery.is_some_and(|recovery| recovery.former.contains(&cluster))
    }

    fn on_envelope(&mut self, now: Instant, envelope: Envelope) {
        let Envelope { cluster, from, to, incarnation, message, .. } = envelope;
        if let Some(configuration) = self.offered_recovery(&message, cluster, to) {
            self.books.adopting = cluster;
            self.step(now, Input::Recovered { from, configuration });
            self.books.adopting = 0;
            return;
        }
        // A node that has joined no cluster yet says 0; it can only answer or ask.
        let ours = match cluster {
            0 => !needs_cluster(&message),
            _ => self.identity.cluster == 0 || cluster == self.identity.cluster,
        };
        if to != self.identity.node || from == to || !ours {
            self.notice(from, "speaks for another cluster or node, or to another node");
            return;
        }
        match message {
            Message::Raft(message) => {
                let heard = match &message {
                    quorate_engine::Message::Heartbeat(m) => Some((m.term, m.commit)),
                    _ => None,
                };
                self.books.adopting = cluster;
                self.step(now, Input::Receive { from, incarnation, message });
                self.books.adopting = 0;
                if let Some((term, commit)) = heard {
                    if (self.engine.term(), self.engine.leader()) == (term, Some(from)) {
                        self.board.heard(now, commit);
                        self.apply_the_rest();
                    }
                }
            }
            Message::Forward(m) => self.on_forward(now, from, m),
            Message::Forwarded(m) => self.on_forwarded(from, m),
            Message::Order(m) => self.on_order(now, from, m),
            Message::Ordered(m) => self.on_ordered(from, m),
            Message::Digest(m) => self.on_digest(from, &m),
            _ => self.notice(from, "sends what this version does not know"),
        }
    }

    /// The configuration of a recovered cluster that this node's cluster has become, if `message` is
    /// one and says so.
    fn offered_recovery(&self, message: &Message, cluster: u64, to: NodeId) -> Option<EntryBlock> {
        let Message::Raft(quorate_engine::Message::Introduce(m)) = message else { return None };
        let membership = m.configuration.membership()?;
        let recovery = membership.recovery()?;
        let ours = self.identity.cluster;
        let became = ours != 0 && recovery.former.last() == Some(&ours);
        let fits = became && recovery.cluster == cluster && to == self.identity.node;
        fits.then(|| m.configuration.clone())
    }

    fn on_refused(&mut self, peer: NodeId, reason: String) {
        // A node with a log has a place in the cluster; one without has nothing to wait for.
        if self.engine.log().last() == LogId::ZERO {
            self.fail(format!("node {peer} refuses this node: {reason}"));
        } else {
            self.notice(peer, &format!("refuses this node: {reason}"));
        }
    }

    /// The lanes to a peer; opened when it is first spoken to. `None` for a stranger too many.
    pub(crate) fn lanes(&mut self, id: NodeId) -> Option<&PeerLanes> {
        let Node { wires, engine, directory, books, .. } = self;
        let open = books.peers.len();
        match books.peers.entry(id) {
            Entry::Occupied(lanes) => Some(lanes.into_mut()),
            Entry::Vacant(vacant) => {
                let membership = engine.log().membership();
                let member = membership.and_then(|m| m.member(id));
                let members = membership.map_or(0, |m| m.members().len());
                if member.is_none() && open >= members + MAX_STRANGERS {
                    return None;
                }
                let address = member
                    .map(|m| m.address.clone())
                    .or_else(|| directory.address(id))
                    .unwrap_or_default();
                Some(vacant.insert(PeerLanes::open(wires, Peer { id, address })))
            }
        }
    }

    fn report_sent(&mut self, now: Instant) {
        if self.engine.role() != RoleKind::Leader {
            return;
        }
        let sent: Vec<_> =
            self.books.peers.iter().filter_map(|(id, lanes)| Some((*id, lanes.sent()?))).collect();
        for (to, (session, through)) in sent {
            self.step(now, Input::Sent { to, session, through });
        }
    }

    // ---- the engine ----

    pub(crate) fn step(&mut self, now: Instant, input: Input) {
        let mut out = std::mem::take(&mut self.books.out);
        tracing::trace!(%input);
        let before = self.engine.term();
        self.engine.step(now, input, &mut out);
        // Before anything of the step is done.
        self.board.lease.publish(self.engine.leased_until(), self.engine.log().committed());
        let _of_new_term = (self.engine.term() != before).then(|| self.span().entered());
        for output in out.drain() {
            tracing::trace!(%output);
            self.execute(now, output);
        }
        self.books.out = out;
    }

    /// A step that the engine may decline.
    pub(crate) fn ask(&mut self, now: Instant, input: Input) -> Result<(), Decline> {
        self.books.declined = None;
        self.step(now, input);
        self.books.declined.take().map_or(Ok(()), Err)
    }

    /// Of this process.
    pub(crate) fn boot(&self) -> u64 {
        self.books.forwarding.boot
    }

    fn execute(&mut self, now: Instant, output: Output) {
        match output {
            Output::Persist(persist) => {
                let begins = !persist.blocks.is_empty() || persist.reset.is_some();
                if self.identity.cluster == 0 && begins {
                    self.join_cluster();
                }
                let ops = &mut self.books.batch.ops;
                ops.extend(persist.hard_state.map(LogOp::HardState));
                if persist.hard_state.is_some_and(|hard| hard.witness) {
                    self.apply.become_witness();
                }
                if persist.reset.is_some() || persist.compact.is_some() {
                    self.snapshots.on_compacting(persist.seq);
                }
                if let Some((to, configuration)) = persist.reset.map(|reset| *reset) {
                    self.apply.expect_restore();
                    self.wires.tail.reset(to);
                    ops.push(LogOp::Reset { to, configuration });
                }
                for block in persist.blocks {
                    self.tail_append(block);
                }
                let compact = persist.compact.map(|through| LogOp::Compact { through });
                self.books.batch.ops.extend(compact);
                self.books.batch_seq = persist.seq;
            }
            Output::Send { to, message } => {
                if let Some(lanes) = self.lanes(to) {
                    lanes.send(message);
                }
            }
            Output::Replicate(target) => {
                if let Some(lanes) = self.lanes(target.to) {
                    lanes.aim(target);
                }
            }
            Output::SendSnapshot { to, term, session, witness } => {
                self.on_send_snapshot(to, (term, session), witness);
            }
            Output::SnapshotAnswered { from, have } => self.on_snapshot_answered(from, have),
            Output::StoreSnapshot { from, chunk } => self.on_store_snapshot(from, *chunk),
            Output::Restore { last } => self.apply.restore(last),
            Output::Apply { through } => self.aim_apply(through),
            Output::Proposed { first, count } => {
                self.note_proposed(now, first.index + u64::from(count) - 1, count);
                self.pending.extend(self.books.proposing.drain(..));
            }
            Output::Declined(decline) => {
                self.books.declined = Some(decline);
                for origin in std::mem::take(&mut self.books.proposing) {
                    if let Some(who) = origin.who {
                        self.tell(who, declined(decline));
                    }
                }
            }
            Output::ReadReady { token, index } => {
                if let Some((asked_at, clients)) = self.books.index_reads.remove(&token) {
                    self.note_read_index(now, asked_at, clients.len());
                    for client in clients {
                        self.application.complete_index(client, index);
                    }
                }
                if let Some((asked_at, readers)) = self.books.reads.remove(&token) {
                    self.note_read_index(now, asked_at, readers.len());
                    self.serve(now, index, readers);
                }
            }
            Output::ReadFailed { token } => {
                let (_, readers) = self.books.reads.remove(&token).unwrap_or_default();
                let (_, clients) = self.books.index_reads.remove(&token).unwrap_or_default();
                for reader in readers.into_iter().chain(clients) {
                    self.application.fail_read(reader, ReadError::Timeout);
                }
            }
            Output::Configured { id, membership } => self.on_configured(id, membership),
            Output::Changed { role, term, leader } => {
                tracing::info!(%role, ?leader, "role");
                self.note_change(role, term, leader);
                if role == RoleKind::Leader {
                    self.apply_the_rest();
                    self.pending.begin_term();
                    self.books.log_clock.begin(now, self.board.log_time_ms());
                }
                self.board.event(&Event::Role { role, term, leader });
                if let Some(leader) = leader {
                    let until = now + self.config.election_timeout_max;
                    self.books.forwarding.hurry(leader, until);
                    let parked = std::mem::take(&mut self.books.parked);
                    self.place(now, parked);
                }
            }
            Output::TransferEnded { to } => {
                self.board.event(&Event::TransferEnded { to });
                self.orders.on_transfer_ended();
                self.books.stopping |= self.books.stop_at.is_some();
                let parked = std::mem::take(&mut self.books.parked);
                self.place(now, parked);
            }
            Output::Changing { .. } => {}
            Output::Recovered { at } => {
                tracing::warn!(%at, "follows the recovered cluster");
                self.join_cluster();
            }
            Output::Removed { at } => {
                tracing::info!(%at, "removed from the cluster");
                self.board.event(&Event::Removed { at });
            }
            Output::Noticed { peer, what } => {
                self.notice(peer, &what.to_string());
                if what == Notice::LogWentBack {
                    self.board.event(&Event::Quarantined { id: peer });
                }
            }
            Output::Refilled { peer } => {
                let (node, group, term) =
                    (self.identity.node, self.wires.group, self.engine.term());
                tracing::info!(node, group, term, peer, "has again what it had lost");
                self.board.event(&Event::Refilled { id: peer });
            }
            Output::Fatal(fatal) => self.fail(fatal.to_string()),
        }
    }

    /// A follower applies in strides: nobody waits for it, and waking the worker for each entry costs
    /// as much as all else that a follower does. A heartbeat has it apply whatever there is.
    fn aim_apply(&self, through: Index) {
        let leads = self.engine.role() == RoleKind::Leader;
        let awaited = self.apply.aim(through) || leads || !self.pending.is_empty();
        if awaited || through - self.board.applied() >= STRIDE {
            self.apply.ring();
        }
    }

    /// Whatever is committed is applied now.
    fn apply_the_rest(&self) {
        if self.board.applied() < self.engine.log().committed() {
            self.apply.ring();
        }
    }

    fn tail_append(&mut self, block: quorate_engine::EntryBlock) {
        self.snapshots.on_appended(block.bytes().len());
        self.books.progressing.on_appended(block.count().into(), block.bytes().len());
        self.wires.tail.append(block.clone());
        self.books.batch.ops.push(LogOp::Append(block));
    }

    fn tail_trim(&self) {
        // What is durable can be read back, by followers and by a slow state machine.
        self.wires.tail.trim(self.engine.log().persisted());
    }

    /// From the write at hand on this node belongs to the cluster of the message at hand.
    fn join_cluster(&mut self) {
        self.identity.cluster = self.books.adopting;
        self.wires.cluster.store(self.identity.cluster, Ordering::Release);
        self.books.batch.ops.push(LogOp::Identity(self.identity));
    }

    fn on_configured(&mut self, id: LogId, membership: Option<Membership>) {
        let membership = membership.map(Arc::new);
        let group = self.wires.group;
        if let Some(membership) = &membership {
            tracing::info!(at = %id, %membership, "membership");
            for (peer, member) in membership.members() {
                let moved = |lanes: &PeerLanes| lanes.address != member.address;
                if self.books.peers.get(peer).is_some_and(moved) {
                    // Opened again, at the new address, when next spoken to.
                    self.books.peers.remove(peer);
                }
            }
            self.board.event(&Event::Membership(membership.clone()));
        }
        self.directory.configured(group, membership.as_deref());
        self.board.publish(|metrics| metrics.membership = membership);
    }

    /// Warns once of each thing that is wrong with a peer.
    pub(crate) fn notice(&mut self, peer: NodeId, what: &str) {
        if self.books.noticed.len() < 1024 && self.books.noticed.insert((peer, what.to_owned())) {
            tracing::warn!(peer, "peer {what}");
        }
    }

    /// Hands what the turn has to write to the log.
    fn submit(&mut self, now: Instant) {
        if self.books.batch.ops.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.books.batch);
        let seq = self.books.batch_seq;
        self.books.progressing.on_submitted(now, seq, &self.wires.counters);
        let control = self.wires.control.clone();
        let done = WriteDone::new(move |result| {
            control.send(match result {
                Ok(()) => Control::Persisted { seq },
                Err(_) if planted::on("failed-write-counts") => Control::Persisted { seq },
                Err(error) => Control::StorageFailed(error),
            });
        });
        self.storage.submit(batch, done);
    }

    /// Readers have their index: who waits for a state that is here already is told so at once, the others
    /// are the apply worker's.
    fn serve(&self, now: Instant, index: Index, mut readers: Vec<Token>) {
        if index <= self.board.applied() && !self.engine.hard_state().witness {
            readers = self.application.complete_waits(readers);
        }
        if !readers.is_empty() {
            self.apply.read(index, now + self.config.read_timeout, readers);
        }
    }

    /// Deadlines.
    fn sweep(&mut self, now: Instant) {
        let mut expired = Vec::new();
        self.pending.expire(now, &mut expired);
        for who in expired {
            self.tell(who, WriteError::Unknown);
        }
        for write in self.books.forwarding.take(|_, write| write.deadline <= now) {
            self.reject(write, WriteError::Unknown);
        }
        let (late, parked): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.books.parked).into_iter().partition(|w| w.deadline <= now);
        for write in late {
            self.reject(write, WriteError::Timeout);
        }
        self.place(now, parked);
        for token in self.apply.expire(now) {
            self.application.fail_read(token, ReadError::Timeout);
        }
    }

    pub(crate) fn publish(&self) {
        let engine = &self.engine;
        let fatal = &self.books.fatal;
        let tail_bytes = self.wires.tail.bytes();
        let snapshot = self.snapshots.newest().map_or(0, |info| info.meta.last.index);
        let change = |m: &mut Metrics| {
            m.role = engine.role();
            m.term = engine.term();
            m.leader = engine.leader();
            m.last = engine.log().last().index;
            m.committed = engine.log().committed();
            m.persisted = engine.log().persisted();
            m.compacted = engine.log().compacted().index;
            m.snapshot = snapshot;
            m.configured_at = engine.configuration().map_or(LogId::ZERO, |(at, _)| at);
            m.changing = engine.is_changing();
            m.removed = engine.removed();
            m.witness = engine.hard_state().witness;
            if !m.quarantined.iter().copied().eq(engine.quarantined()) {
                m.quarantined = engine.quarantined().collect();
            }
            m.tail_bytes = tail_bytes;
            if m.fatal != *fatal {
                m.fatal.clone_from(fatal);
            }
        };
        self.board.publish_turn(change, engine.followers(), engine.uncommitted_bytes());
    }

    // ---- the end ----

    /// Stops the group on this node, for a cause that stays in the metrics.
    pub(crate) fn fail(&mut self, cause: String) {
        if self.books.fatal.is_none() {
            tracing::error!(cause, "stopped");
            self.books.fatal = Some(cause);
        }
        self.books.stopping = true;
    }

    /// A leader hands over before it stops, so that writers wait for no election (thesis §3.10).
    fn hand_over_and_stop(&mut self, now: Instant) {
        let deadline = now + self.config.election_timeout_max;
        let transfer = Input::Transfer { to: None, deadline };
        if self.books.stop_at.is_some() || self.ask(now, transfer).is_err() {
            self.books.stopping = true;
        } else {
            self.books.stop_at = Some(deadline);
        }
    }

    fn stop_when_handed_over(&mut self, now: Instant) {
        let Some(at) = self.books.stop_at else { return };
        let handed_over = self.engine.role() != RoleKind::Leader && self.engine.leader().is_some();
        self.books.stopping |= handed_over || now >= at;
    }

    /// Answers everyone, ends every task, flushes the log. Nobody is left waiting.
    async fn stop(mut self, mut requests: VecDeque<Request>) {
        self.application.turn_away();
        self.board.lease.publish(None, 0);
        self.publish();
        self.application.take_requests(&mut requests, usize::MAX);
        for request in requests {
            match request {
                Request::Write { token, .. } | Request::ClientWrite { token, .. } => {
                    self.books.failures.push((token, WriteError::Stopped));
                }
                Request::Read { token, .. } | Request::ReadIndex { token, .. } => {
                    self.application.fail_read(token, ReadError::Stopped)
                }
            }
        }
        for write in std::mem::take(&mut self.books.parked) {
            self.reject(write, WriteError::Stopped);
        }
        self.give_room();
        self.application.fail_writes(&mut self.books.failures);
        for (_, reply) in self.books.initializing.drain(..) {
            drop(reply.send(Err(InitializeError::Stopped)));
        }
        let files = self.snapshots.stop();
        self.apply.close();
        let env = self.wires.env.clone();
        for task in files {
            tokio::select! { biased;
                _ = task => {}
                () = env.sleep(STOP_PATIENCE) => {}
            }
        }
        // A state machine that hangs must not hang the shutdown: neither one that waits, nor one
        // that never gives its thread back.
        for _ in 0..2 {
            tokio::select! { biased;
                _ = &mut self.apply_task => break,
                () = env.sleep(STOP_PATIENCE) => self.apply_task.abort(),
            }
        }
        // What is still out may have been done, or be done later.
        for who in self.pending.take_all() {
            self.tell(who, WriteError::Unknown);
        }
        self.application.fail_writes(&mut self.books.failures);
        self.application.close();
        self.books.peers.clear();
        close_storage(self.storage, &*env).await;
        self.board.event(&Event::Stopped { fatal: self.books.fatal });
        self.board.close();
    }
}

/// Whether a message says something that only a member of a cluster can say.
fn needs_cluster(message: &Message) -> bool {
    use quorate_engine::Message as Raft;
    matches!(
        message,
        Message::Raft(
            Raft::RequestVote(_) | Raft::Heartbeat(_) | Raft::AppendEntries(_) | Raft::Introduce(_)
        )
    )
}
