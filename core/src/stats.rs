//! What a node has done since it started, and what waits in it: counters, gauges, histograms.
//!
//! The tasks of a node count as they go, with relaxed atomics that nobody waits for; times are taken
//! once a batch, from clock reads that were made anyway. [`Stats`] is a copy of it all, made when
//! somebody looks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use quorate_engine::{Index, Instant, NodeId, ReadMode};
use quorate_network::{CallOutcome, Lane};

use crate::env::Env;
use crate::error::{ReadError, WriteError};
use crate::histogram::{Histogram, Recorder};
use crate::host::HostInner;
use crate::metrics::Board;

/// The words of [`WriteError::reason`].
const WRITE_REASONS: [&str; 11] = [
    "not_leader",
    "overloaded",
    "timeout",
    "overwritten",
    "unknown",
    "session_expired",
    "acknowledged",
    "stopped",
    "too_large",
    "refused",
    "response",
];

/// The words of [`ReadError::reason`], and what a client of another program is told besides.
const READ_REASONS: [&str; 6] =
    ["timeout", "overloaded", "witness", "refused", "stopped", "not_leader"];

/// The ways to read, in the order of [`mode_of`].
const READ_MODES: [&str; 4] = ["index", "lease", "bounded", "stale"];

/// The numbers of one node at one moment; from [`Raft::stats`](crate::Raft::stats). Owned: they do not
/// change any more.
///
/// Counters and histograms begin at 0 when the node starts. Histograms of times are in microseconds.
/// They are read one after another while the node goes on, so sums of two may be off by what happened
/// in between. `docs/observability.md` says what to watch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Terms in which this node stood for election.
    pub elections_started: u64,
    /// Terms in which it was elected.
    pub elections_won: u64,
    /// How often it came to know a leader of another term.
    pub leader_changes: u64,

    /// Writes that were asked for here, by handles and by clients, and taken in: not turned away at once.
    /// All commands of a `write_many` are one.
    pub writes: u64,
    /// Of them, attempts that were passed on to a leader; one may take several.
    pub writes_forwarded: u64,
    /// Writes that other nodes passed on to this one.
    pub writes_received: u64,
    /// Writes that this node, leading, put into its log.
    pub proposed_writes: u64,
    /// Their commands.
    pub proposed_commands: u64,
    /// The bytes of those.
    pub proposed_bytes: u64,
    /// Writes of callers here that ended with an error, by [`WriteError::reason`].
    pub write_failures: BTreeMap<&'static str, u64>,
    /// From a write's call, or its arrival from another node, until it is in the leader's log. Writes
    /// that are proposed together count with the time of the oldest.
    pub queued: Histogram,
    /// From there until it is durable on the leader's own disk.
    pub durable: Histogram,
    /// From the proposal until it is committed.
    pub committed: Histogram,
    /// From the proposal until it is applied at the leader, and its caller there is told.
    pub answered: Histogram,

    /// Reads that were asked for here, by mode: `index`, `lease`, `bounded`, `stale`.
    pub reads: BTreeMap<&'static str, u64>,
    /// Of them, those that ended with an error, by [`ReadError::reason`].
    pub read_failures: BTreeMap<&'static str, u64>,
    /// From a read's turn until its read index was known here. Stale reads need none, nor
    /// those by lease that asked nobody.
    pub read_index: Histogram,

    /// From when a write was handed to the log until the node heard that it is durable.
    pub log_write: Histogram,
    /// Entries of each such write.
    pub log_write_entries: Histogram,
    /// Bytes of entries of each.
    pub log_write_bytes: Histogram,
    /// What the state machine took for each batch of commands.
    pub apply: Histogram,
    /// Entries of each batch that was applied.
    pub apply_entries: Histogram,
    /// Their bytes.
    pub apply_bytes: Histogram,
    /// Entries of each append that was sent to a follower; 0 for one that only asks.
    pub append_entries: Histogram,
    /// Their bytes.
    pub append_bytes: Histogram,

    /// Snapshots of its own state that were completed.
    pub snapshots_built: u64,
    /// Their bytes.
    pub snapshot_built_bytes: u64,
    /// Attempts to build one that failed.
    pub snapshots_failed: u64,
    /// Snapshots that a follower has acknowledged to have received completely.
    pub snapshots_sent: u64,
    /// Bytes of snapshots handed to the network, repeated parts too.
    pub snapshot_sent_bytes: u64,
    /// Snapshots of a leader that are complete and durable here.
    pub snapshots_received: u64,
    /// Bytes of parts of snapshots that arrived, those of unfinished ones too.
    pub snapshot_received_bytes: u64,
    /// Snapshots that the state machine has restored, since the start.
    pub snapshots_restored: u64,

    /// Programs that are no members and have a connection to this node's host, over its own TCP
    /// transport, whatever groups they ask; 0 with another network.
    pub clients: u64,
    /// Messages to peers, by lane.
    pub lanes: BTreeMap<Lane, LaneStats>,
    /// Bytes of messages of peers that wait for the node.
    pub inbox_bytes: u64,
    /// Batches of messages of peers that were dropped because too many waited.
    pub inbox_dropped: u64,
    /// Bytes of writes of callers here that are not proposed yet, or out at the leader.
    pub queued_bytes: u64,
    /// Bytes of entries that are proposed and not committed; 0 off the leader.
    pub uncommitted_bytes: u64,
    /// Entries that are known to be committed and not applied.
    pub apply_backlog: u64,
    /// Bytes of entries in memory.
    pub tail_bytes: u64,
    /// The followers; empty off the leader.
    pub peers: BTreeMap<NodeId, PeerStats>,
}

/// Messages of one lane, to all peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStats {
    /// Handed to the network, which did not say that they were lost.
    pub sent: u64,
    /// The network said that they were.
    pub lost: u64,
    /// Not handed to it, since too many were waiting.
    pub dropped: u64,
}

/// A follower, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStats {
    /// What it has durably.
    pub matched: Index,
    /// How many entries of the leader's log it lacks.
    pub lag: u64,
    /// How long the newest round of heartbeats that it answered took, both queues included; `None`
    /// before the first.
    pub round_trip: Option<Duration>,
    /// For how long nothing is known of it: since the sending of that round.
    pub silence: Duration,
    /// Whether it is being sent a snapshot.
    pub snapshot: bool,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the tasks of a node count; the fields are those of [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) elections_started: Count,
    pub(crate) elections_won: Count,
    pub(crate) leader_changes: Count,
    pub(crate) writes: Count,
    pub(crate) writes_forwarded: Count,
    pub(crate) writes_received: Count,
    pub(crate) proposed_writes: Count,
    pub(crate) proposed_commands: Count,
    pub(crate) proposed_bytes: Count,
    write_failures: [Count; WRITE_REASONS.len()],
    pub(crate) queued: Recorder,
    pub(crate) durable: Recorder,
    pub(crate) committed: Recorder,
    pub(crate) answered: Recorder,
    reads: [Count; READ_MODES.len()],
    read_failures: [Count; READ_REASONS.len()],
    pub(crate) read_index: Recorder,
    pub(crate) log_write: Recorder,
    pub(crate) log_write_entries: Recorder,
    pub(crate) log_write_bytes: Recorder,
    pub(crate) apply: Recorder,
    pub(crate) apply_entries: Recorder,
    pub(crate) apply_bytes: Recorder,
    pub(crate) append_entries: Recorder,
    pub(crate) append_bytes: Recorder,
    pub(crate) snapshots_built: Count,
    pub(crate) snapshot_built_bytes: Count,
    pub(crate) snapshots_failed: Count,
    pub(crate) snapshots_sent: Count,
    pub(crate) snapshot_sent_bytes: Count,
    pub(crate) snapshots_received: Count,
    pub(crate) snapshot_received_bytes: Count,
    pub(crate) snapshots_restored: Count,
    lanes: [LaneCounters; Lane::ALL.len()],
    pub(crate) inbox_dropped: Count,
    /// When the oldest of the writes came that wait for the node's next turn, in nanoseconds of its
    /// clock; 0 if none does. One clock read a turn, made by the first to queue.
    oldest_queued: AtomicU64,
}

/// Of one lane.
#[derive(Debug, Default)]
pub(crate) struct LaneCounters {
    pub(crate) sent: Count,
    pub(crate) lost: Count,
    pub(crate) dropped: Count,
}

impl Counters {
    pub(crate) fn lane(&self, lane: Lane) -> &LaneCounters {
        let at = Lane::ALL.iter().position(|known| *known == lane);
        &self.lanes[at.expect("every lane is one of all")]
    }

    /// A write is about to be queued.
    #[inline]
    pub(crate) fn write_queued(&self, env: &dyn Env) {
        self.writes.increment();
        if self.oldest_queued.load(Ordering::Relaxed) == 0 {
            self.oldest_queued.store(env.now().as_nanos().max(1), Ordering::Relaxed);
        }
    }

    /// When the oldest of the writes was queued that the node has just taken. A write that is queued
    /// at this very moment may count as one that did not wait.
    pub(crate) fn take_oldest_queued(&self, now: Instant) -> Instant {
        match self.oldest_queued.swap(0, Ordering::Relaxed) {
            0 => now,
            nanos => Instant::from_nanos(nanos),
        }
    }

    /// Writes that were turned away because too many wait.
    pub(crate) fn overloaded(&self) -> u64 {
        let at = WRITE_REASONS.iter().position(|word| *word == WriteError::Overloaded.reason());
        self.write_failures[at.expect("every word is in its list")].get()
    }

    /// A caller is told why its write failed.
    pub(crate) fn write_failed(&self, error: &WriteError) {
        count(&WRITE_REASONS, error.reason(), &self.write_failures);
    }

    pub(crate) fn read_asked(&self, mode: ReadMode) {
        count(&READ_MODES, mode_of(mode), &self.reads);
    }

    /// What became of a call is told to its client.
    pub(crate) fn call_ended(&self, writes: bool, outcome: &CallOutcome) {
        let reason = match outcome {
            CallOutcome::NotLeader { .. } => "not_leader",
            CallOutcome::Overloaded => "overloaded",
            CallOutcome::Timeout => "timeout",
            CallOutcome::Refused(_) => "refused",
            CallOutcome::Stopped => "stopped",
            CallOutcome::Overwritten if writes => "overwritten",
            CallOutcome::TooLarge { .. } if writes => "too_large",
            CallOutcome::Unknown if writes => "unknown",
            // Nothing else becomes of a read but that its node stops before it is answered.
            CallOutcome::Unknown => "stopped",
            _ => return,
        };
        if writes {
            count(&WRITE_REASONS, reason, &self.write_failures);
        } else {
            count(&READ_REASONS, reason, &self.read_failures);
        }
    }

    /// A caller is told why its read failed.
    pub(crate) fn read_failed(&self, error: &ReadError) {
        count(&READ_REASONS, error.reason(), &self.read_failures);
    }
}

fn mode_of(mode: ReadMode) -> &'static str {
    match mode {
        ReadMode::Index => READ_MODES[0],
        ReadMode::Lease => READ_MODES[1],
        ReadMode::Bounded(_) => READ_MODES[2],
        ReadMode::Stale => READ_MODES[3],
    }
}

fn count(words: &[&str], word: &str, counts: &[Count]) {
    let at = words.iter().position(|known| *known == word);
    counts[at.expect("every word is in its list")].increment();
}

fn by_word(words: &[&'static str], counts: &[Count]) -> BTreeMap<&'static str, u64> {
    words.iter().copied().zip(counts.iter().map(Count::get)).collect()
}

/// Where the numbers of one group are, also after it has stopped. Keeps nothing running.
#[derive(Clone)]
pub(crate) struct Observer {
    /// Knows who is connected.
    pub(crate) host: Weak<HostInner>,
    pub(crate) board: Arc<Board>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) queued_bytes: Arc<AtomicUsize>,
    pub(crate) inbox_bytes: Arc<AtomicUsize>,
}

impl Observer {
    pub(crate) fn stats(&self) -> Stats {
        let c = &*self.counters;
        let metrics = self.board.metrics();
        let (peers, uncommitted_bytes) = self.board.followers(metrics.last);
        let lane = |at: usize| {
            let LaneCounters { sent, lost, dropped } = &c.lanes[at];
            LaneStats { sent: sent.get(), lost: lost.get(), dropped: dropped.get() }
        };
        Stats {
            elections_started: c.elections_started.get(),
            elections_won: c.elections_won.get(),
            leader_changes: c.leader_changes.get(),
            writes: c.writes.get(),
            writes_forwarded: c.writes_forwarded.get(),
            writes_received: c.writes_received.get(),
            proposed_writes: c.proposed_writes.get(),
            proposed_commands: c.proposed_commands.get(),
            proposed_bytes: c.proposed_bytes.get(),
            write_failures: by_word(&WRITE_REASONS, &c.write_failures),
            queued: c.queued.histogram(),
            durable: c.durable.histogram(),
            committed: c.committed.histogram(),
            answered: c.answered.histogram(),
            reads: by_word(&READ_MODES, &c.reads),
            read_failures: by_word(&READ_REASONS, &c.read_failures),
            read_index: c.read_index.histogram(),
            log_write: c.log_write.histogram(),
            log_write_entries: c.log_write_entries.histogram(),
            log_write_bytes: c.log_write_bytes.histogram(),
            apply: c.apply.histogram(),
            apply_entries: c.apply_entries.histogram(),
            apply_bytes: c.apply_bytes.histogram(),
            append_entries: c.append_entries.histogram(),
            append_bytes: c.append_bytes.histogram(),
            snapshots_built: c.snapshots_built.get(),
            snapshot_built_bytes: c.snapshot_built_bytes.get(),
            snapshots_failed: c.snapshots_failed.get(),
            snapshots_sent: c.snapshots_sent.get(),
            snapshot_sent_bytes: c.snapshot_sent_bytes.get(),
            snapshots_received: c.snapshots_received.get(),
            snapshot_received_bytes: c.snapshot_received_bytes.get(),
            snapshots_restored: c.snapshots_restored.get(),
            clients: self.host.upgrade().map_or(0, |host| host.clients()) as u64,
            lanes: Lane::ALL.iter().enumerate().map(|(at, of)| (*of, lane(at))).collect(),
            inbox_bytes: self.inbox_bytes.load(Ordering::Relaxed) as u64,
            inbox_dropped: c.inbox_dropped.get(),
            queued_bytes: self.queued_bytes.load(Ordering::Relaxed) as u64,
            uncommitted_bytes,
            apply_backlog: metrics.committed.saturating_sub(metrics.applied),
            tail_bytes: metrics.tail_bytes as u64,
            peers,
        }
    }
}
