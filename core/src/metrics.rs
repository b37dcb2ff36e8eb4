//! What can be seen of a running node: an owned snapshot, waiting for a state, change events.
//!
//! Nobody awaits a `watch` here: its wake order is random. Waiters and event receivers are
//! registered, and told in the order in which they came.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate_engine::{
    Follower, GroupId, Index, Instant, LogId, Membership, NodeId, Recovery, RoleKind, Term,
};
use tokio::sync::{mpsc, oneshot};

use crate::env::Env;
use crate::error::WaitError;
use crate::lease::Lease;
use crate::observe::Proposed;
use crate::sessions::Sessions;
use crate::stats::{Counters, PeerStats};

/// A node at one moment. Owned: it does not change any more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// The node.
    pub id: NodeId,
    /// The group.
    pub group: GroupId,
    /// What the node is.
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
    /// The last entry that is durable on it.
    pub persisted: Index,
    /// The last entry that was compacted out of its log.
    pub compacted: Index,
    /// The last entry of its newest snapshot, 0 if it has none.
    pub snapshot: Index,
    /// Where the configuration in force stands in the log.
    pub configured_at: LogId,
    /// Whether a change of voters is under way, as far as this node knows.
    pub changing: bool,
    /// The committed configuration that does not name this node, if it was told that it is no member
    /// any more and no leader has spoken to it since.
    pub removed: Option<LogId>,
    /// Whether this node is a witness: it votes, and has no state that could be read.
    pub witness: bool,
    /// The configuration in force, `None` before there is one.
    pub membership: Option<Arc<Membership>>,
    /// What each follower has durably; empty off the leader.
    pub matched: BTreeMap<NodeId, Index>,
    /// Sessions that are open.
    pub sessions: u64,
    /// Who has lost entries that it had acknowledged and has not got them back: followers, on a leader;
    /// this node, if its leader said so.
    pub quarantined: BTreeSet<NodeId>,
    /// Bytes of entries in memory.
    pub tail_bytes: usize,
    /// Whether a leader is known and everything is applied that was committed one election timeout
    /// ago, as heard from it.
    pub healthy: bool,
    /// Why the node stopped, if it had to.
    pub fatal: Option<String>,
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "node {} {} term {} leader {:?} last {} persisted {} committed {} applied {}",
            self.id,
            self.role,
            self.term,
            self.leader,
            self.last,
            self.persisted,
            self.committed,
            self.applied
        )?;
        match &self.fatal {
            Some(fatal) => write!(f, " stopped: {fatal}"),
            None => Ok(()),
        }
    }
}

/// Something changed on a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Its role, term or leader.
    Role {
        /// The role now.
        role: RoleKind,
        /// The term now.
        term: Term,
        /// The leader now.
        leader: Option<NodeId>,
    },
    /// The configuration in force.
    Membership(Arc<Membership>),
    /// The cluster had lost its quorum and was recovered by an operator, and this is applied here: by
    /// a start again, until a snapshot covers it. [`Metrics::membership`] tells for ever.
    Recovered(Recovery),
    /// A follower of this leader has lost entries that it had acknowledged: its disk is not what it was.
    /// It counts for nothing until it has been refilled.
    Quarantined {
        /// The follower.
        id: NodeId,
    },
    /// It has them again, and counts.
    Refilled {
        /// The follower.
        id: NodeId,
    },
    /// This node is no member of the cluster any more; it may be added again.
    Removed {
        /// The committed configuration that does not name it.
        at: LogId,
    },
    /// A change of voters has begun, as far as this node knows: a joint configuration is in force.
    ChangeBegun {
        /// The entry of that configuration.
        at: LogId,
    },
    /// It is over: the configuration in force is not joint.
    ChangeFinished {
        /// The entry of that configuration.
        at: LogId,
    },
    /// A transfer of the leadership came to nothing; this node leads on.
    TransferEnded {
        /// Who was to lead.
        to: NodeId,
    },
    /// This node, leading, has heard nothing of a member for longer than an election timeout.
    PeerSilent {
        /// The member.
        peer: NodeId,
    },
    /// A silent member was heard again, by this leader.
    PeerReturned {
        /// The member.
        peer: NodeId,
    },
    /// A snapshot of the state here is durable, and the log may be compacted by it.
    SnapshotBuilt {
        /// Its last entry.
        last: LogId,
        /// Its size.
        bytes: u64,
    },
    /// Building a snapshot failed; it is tried again.
    SnapshotFailed {
        /// Why.
        why: String,
    },
    /// A snapshot of the leader is durable here; the state machine is to go on with it.
    SnapshotReceived {
        /// Who sent it.
        from: NodeId,
        /// Its last entry.
        last: LogId,
        /// Its size.
        bytes: u64,
    },
    /// Writes of callers at this node are being turned away, as too many wait.
    Overloaded,
    /// None was for an election timeout.
    OverloadEnded,
    /// It stopped; the cause if it had to. The last event.
    Stopped {
        /// Why, if not by request.
        fatal: Option<String>,
    },
}

/// Change events of one node, from the moment of [`Raft::events`](crate::Raft::events) on.
///
/// Holds up to 1024 events; a receiver that falls further behind loses the newest until it has
/// caught up, and [`Raft::metrics`](crate::Raft::metrics) tells it where things stand.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` after the node has stopped. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

const EVENTS_CAPACITY: usize = 1024;

type Predicate = Box<dyn Fn(&Metrics) -> bool + Send>;

/// The node's side and the handle's side of the metrics.
pub(crate) struct Board {
    state: Mutex<State>,
    /// Written by the apply worker, for all to read.
    applied: AtomicU64,
    /// Written by the node, for handles.
    pub(crate) lease: Lease,
    pub(crate) counters: Arc<Counters>,
    /// So are these: log time in milliseconds, and how many sessions are open.
    log_time_ms: AtomicU64,
    sessions: AtomicU64,
    env: Arc<dyn Env>,
    window: Duration,
}

struct State {
    metrics: Metrics,
    followers: Vec<Follower>,
    uncommitted_bytes: u64,
    /// Writes proposed here that are not applied, in log order; of the leadership at hand.
    proposed: VecDeque<Proposed>,
    waiters: Vec<(Predicate, oneshot::Sender<Metrics>)>,
    events: Vec<mpsc::Sender<Event>>,
    /// Commit indexes heard from a leader, and when; those of the last election timeout.
    heard: VecDeque<(Instant, Index)>,
    /// The node has stopped: nothing changes any more.
    closed: bool,
}

impl Board {
    pub(crate) fn new(
        id: NodeId,
        group: GroupId,
        counters: Arc<Counters>,
        env: Arc<dyn Env>,
        window: Duration,
    ) -> Self {
        let metrics = Metrics {
            id,
            group,
            role: RoleKind::Follower,
            term: 0,
            leader: None,
            last: 0,
            committed: 0,
            applied: 0,
            persisted: 0,
            compacted: 0,
            snapshot: 0,
            configured_at: LogId::ZERO,
            changing: false,
            removed: None,
            witness: false,
            membership: None,
            matched: BTreeMap::new(),
            sessions: 0,
            quarantined: BTreeSet::new(),
            tail_bytes: 0,
            healthy: false,
            fatal: None,
        };
        let state = State {
            metrics,
            followers: Vec::new(),
            uncommitted_bytes: 0,
            proposed: VecDeque::new(),
            waiters: Vec::new(),
            events: Vec::new(),
            heard: VecDeque::new(),
            closed: false,
        };
        let (applied, log_time_ms, sessions) = Default::default();
        let state = Mutex::new(state);
        let lease = Lease::default();
        Self { state, applied, lease, log_time_ms, sessions, counters, env, window }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes the metrics, then tells whoever waited for what they are now.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Metrics)) {
        let mut state = self.lock();
        change(&mut state.metrics);
        self.tell_waiters(&mut state);
    }

    /// The same at the end of a turn of the node, with what a leader knows of its followers.
    pub(crate) fn publish_turn(
        &self,
        change: impl FnOnce(&mut Metrics),
        followers: impl Iterator<Item = Follower>,
        uncommitted_bytes: u64,
    ) {
        let mut state = self.lock();
        state.followers.clear();
        state.followers.extend(followers);
        state.uncommitted_bytes = uncommitted_bytes;
        change(&mut state.metrics);
        self.tell_waiters(&mut state);
    }

    /// The followers of a leader whose log ends with `last`, and its uncommitted bytes.
    pub(crate) fn followers(&self, last: Index) -> (BTreeMap<NodeId, PeerStats>, u64) {
        let state = self.lock();
        let now = self.env.now();
        let followers = state.followers.iter().map(|follower| {
            let Follower { id, matched, heard_at, round_trip, snapshot } = *follower;
            let (lag, silence) = (last.saturating_sub(matched), now.since(heard_at));
            (id, PeerStats { matched, lag, round_trip, silence, snapshot })
        });
        (followers.collect(), state.uncommitted_bytes)
    }

    /// A write of a caller here is about to be queued.
    #[inline]
    pub(crate) fn write_queued(&self) {
        self.counters.write_queued(&*self.env);
    }

    /// This node, leading, has put writes into its log.
    pub(crate) fn proposed(&self, batch: Proposed) {
        self.lock().proposed.push_back(batch);
    }

    /// This node leads no more, or anew: others decide about what it had proposed.
    pub(crate) fn forget_proposed(&self) {
        self.lock().proposed.clear();
    }

    fn tell_waiters(&self, state: &mut State) {
        if state.waiters.is_empty() {
            return;
        }
        let metrics = self.complete(state);
        let waiting = std::mem::take(&mut state.waiters);
        for (predicate, waiter) in waiting {
            // A predicate that panics is told that it waits in vain; it must not stop the node.
            match std::panic::catch_unwind(AssertUnwindSafe(|| predicate(&metrics))) {
                Ok(true) => drop(waiter.send(metrics.clone())),
                Ok(false) if !waiter.is_closed() => state.waiters.push((predicate, waiter)),
                Ok(false) | Err(_) => {}
            }
        }
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied.load(Ordering::Acquire)
    }

    /// Everything through `index` is applied. Before anybody is told what became of it: whoever was may
    /// read by the lease, and has to see it.
    pub(crate) fn show_applied(&self, index: Index) {
        self.applied.store(index, Ordering::Release);
    }

    /// The apply worker has come this far.
    pub(crate) fn set_applied(&self, index: Index) {
        self.show_applied(index);
        let mut state = self.lock();
        if state.proposed.front().is_some_and(|batch| batch.last <= index) {
            let now = self.env.now();
            while let Some(batch) = state.proposed.front().filter(|batch| batch.last <= index) {
                self.counters.answered.record_time(now.since(batch.at), batch.writes);
                state.proposed.pop_front();
            }
        }
        self.tell_waiters(&mut state);
    }

    pub(crate) fn log_time_ms(&self) -> u64 {
        self.log_time_ms.load(Ordering::Acquire)
    }

    /// The apply worker has these sessions now. Told before [`Board::set_applied`].
    pub(crate) fn set_sessions(&self, sessions: &Sessions) {
        self.log_time_ms.store(sessions.time_ms(), Ordering::Release);
        self.sessions.store(sessions.len() as u64, Ordering::Release);
    }

    /// A commit index was heard from the leader (or is the leader's own).
    pub(crate) fn heard(&self, now: Instant, commit: Index) {
        let mut state = self.lock();
        let spacing = self.window / 8;
        if state.heard.back().is_none_or(|(at, _)| now.since(*at) >= spacing) {
            state.heard.push_back((now, commit));
        }
        let window = self.window;
        while state.heard.front().is_some_and(|(at, _)| now.since(*at) > window) {
            state.heard.pop_front();
        }
    }

    pub(crate) fn event(&self, event: &Event) {
        let mut state = self.lock();
        state.events.retain(|to| {
            !matches!(to.try_send(event.clone()), Err(mpsc::error::TrySendError::Closed(_)))
        });
    }

    /// A configuration was applied; if it is one that an operator has forced, this is said loudly.
    pub(crate) fn configuration_applied(&self, at: LogId, membership: &Membership) {
        let Some(recovery) = membership.recovery().filter(|recovery| recovery.at == at) else {
            return;
        };
        let (node, group) = {
            let state = self.lock();
            (state.metrics.id, state.metrics.group)
        };
        let (after, by) = (recovery.after, recovery.by);
        tracing::warn!(
            node, group, term = at.term, %at, %after, by, %membership,
            "the cluster had lost its quorum and was recovered by an operator from one node's log"
        );
        self.event(&Event::Recovered(recovery.clone()));
    }

    /// The node has stopped: no event follows, no waiter will be satisfied by it.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.events.clear();
        state.waiters.clear();
        state.followers.clear();
        state.proposed.clear();
        state.uncommitted_bytes = 0;
        let metrics = &mut state.metrics;
        metrics.leader = None;
        if metrics.role != RoleKind::Learner {
            metrics.role = RoleKind::Follower;
        }
    }

    /// The leader this node knows of, and its address, empty if that is not known.
    pub(crate) fn leader(&self) -> (Option<NodeId>, String) {
        let state = self.lock();
        let leader = state.metrics.leader;
        let member = state.metrics.membership.as_ref().zip(leader).and_then(|(m, id)| m.member(id));
        (leader, member.map(|member| member.address.clone()).unwrap_or_default())
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.complete(&self.lock())
    }

    fn complete(&self, state: &State) -> Metrics {
        let mut metrics = state.metrics.clone();
        metrics.applied = self.applied();
        metrics.matched = state.followers.iter().map(|f| (f.id, f.matched)).collect();
        metrics.sessions = self.sessions.load(Ordering::Acquire);
        let now = self.env.now();
        let recent = state.heard.iter().find(|(at, _)| now.since(*at) <= self.window);
        let reached = match recent {
            Some((_, commit)) => metrics.applied >= *commit,
            None => metrics.role == RoleKind::Leader && metrics.applied >= metrics.committed,
        };
        metrics.healthy = !state.closed && metrics.leader.is_some() && reached;
        metrics
    }

    pub(crate) fn events(&self) -> Events {
        let (to, from) = mpsc::channel(EVENTS_CAPACITY);
        let mut state = self.lock();
        if !state.closed {
            state.events.push(to);
        }
        Events(from)
    }

    fn register(&self, predicate: Predicate) -> Result<oneshot::Receiver<Metrics>, Box<Metrics>> {
        let mut state = self.lock();
        let metrics = self.complete(&state);
        if predicate(&metrics) {
            return Err(Box::new(metrics));
        }
        let (to, from) = oneshot::channel();
        if !state.closed {
            state.waiters.push((predicate, to));
        }
        Ok(from)
    }
}

/// Waits for a state of the node; from [`Raft::wait`](crate::Raft::wait).
pub struct Wait {
    pub(crate) board: Arc<Board>,
    pub(crate) timeout: Duration,
}

impl Wait {
    /// Waits until `predicate` holds; `what` says so in the error. Returns the metrics it held for.
    ///
    /// The predicate is called on the node's task at each change, so it must be quick, and it must
    /// not ask the node for anything itself.
    ///
    /// # Errors
    /// If it does not come to hold in time, or the node stops before.
    pub async fn until(
        self,
        what: impl Into<String>,
        predicate: impl Fn(&Metrics) -> bool + Send + 'static,
    ) -> Result<Metrics, WaitError> {
        let env = self.board.env.clone();
        let began = env.now();
        let wait = match self.board.register(Box::new(predicate)) {
            Ok(wait) => wait,
            Err(metrics) => return Ok(*metrics),
        };
        tokio::select! { biased;
            told = wait => if let Ok(metrics) = told {
                return Ok(metrics);
            },
            () = env.sleep(self.timeout) => {}
        }
        Err(WaitError {
            what: what.into(),
            waited: env.now().since(began),
            last: self.board.metrics().to_string(),
        })
    }

    /// Waits until a leader is known; returns its id.
    ///
    /// # Errors
    /// As [`Wait::until`].
    pub async fn leader(self) -> Result<NodeId, WaitError> {
        let metrics = self.until("a leader", |m| m.leader.is_some()).await?;
        Ok(metrics.leader.expect("waited for"))
    }

    /// Waits until everything through `index` is applied here.
    ///
    /// # Errors
    /// As [`Wait::until`].
    pub async fn applied(self, index: Index) -> Result<Metrics, WaitError> {
        self.until(format!("applied {index}"), move |m| m.applied >= index).await
    }

    /// Waits until this node has `role`.
    ///
    /// # Errors
    /// As [`Wait::until`].
    pub async fn role(self, role: RoleKind) -> Result<Metrics, WaitError> {
        self.until(format!("role {role}"), move |m| m.role == role).await
    }
}
