//! Every setting of a node, with defaults that are meant to be kept.

use std::time::Duration;

use quorate_engine::StreamLimits;

/// Settings of a node; the same on every node of a cluster unless there is a reason.
///
/// ```
/// use quorate::Config;
/// let mut config = Config::default();
/// config.write_timeout = std::time::Duration::from_secs(2);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// How often a leader says it is alive. Default 100 ms.
    pub heartbeat_interval: Duration,
    /// A follower that hears no leader campaigns after at least this. Default 500 ms.
    pub election_timeout_min: Duration,
    /// ... and at most this; also how long a leader without a quorum goes on. Default 1000 ms.
    pub election_timeout_max: Duration,
    /// By how much the clocks of two nodes may differ in rate, in percent of the slower. Reads by lease
    /// rely on it ([`ReadMode::Lease`](crate::ReadMode::Lease)), nothing else does. Default 10.
    pub clock_drift_percent: u32,
    /// A leader hands over to a voter with a higher number once that has caught up. Default 0 on every
    /// node: nobody is preferred.
    pub priority: u32,
    /// How long a write may take, from the call to the answer. Default 5 s.
    pub write_timeout: Duration,
    /// How long a linearizable read may wait for its read index, and again until this node has applied it; and how long
    /// any other read may wait for the state machine. Default 5 s.
    pub read_timeout: Duration,
    /// A session in which nothing is written for this long, in log time, is at an end. Counts for the
    /// sessions that are opened while this node leads. Default 60 s.
    pub session_ttl: Duration,
    /// Sessions there may be at a time; another one ends the one that would lapse next. Counts for the
    /// sessions that are opened while this node leads. Default 10000.
    pub max_sessions: usize,
    /// Whether a node that does not lead passes writes on to the leader. Default true; otherwise
    /// it answers `NotLeader`.
    pub forward_writes: bool,
    /// The largest command, encoded. Default 8 MiB.
    pub max_command_bytes: usize,
    /// Bytes of writes that wait for this node (queued, for a leader, or forwarded); more are
    /// answered `Overloaded`. Default 64 MiB.
    pub queue_bytes: usize,
    /// Bytes of the log that may wait for their commit; more are answered `Overloaded`. Default
    /// 64 MiB.
    pub uncommitted_bytes: usize,
    /// Bytes of the log that are committed and may wait for this node's state machine, while it leads;
    /// more are answered `Overloaded`. Default 64 MiB.
    pub unapplied_bytes: usize,
    /// A snapshot is built, and the log compacted, once so many entries were applied since the last.
    /// Default 100000; `None` for never.
    pub snapshot_entries: Option<u64>,
    /// ... or once the log has grown by so many bytes. Default 256 MiB; `None` for never.
    pub snapshot_log_bytes: Option<u64>,
    /// ... or after this time, if anything was applied. Default `None`.
    pub snapshot_interval: Option<Duration>,
    /// Bytes per second of each snapshot that is sent, at most. Default `None`, unlimited.
    pub snapshot_bytes_per_second: Option<u64>,
    /// Bytes of a snapshot in one message; eight messages are under way at a time. Default 256 KiB.
    pub snapshot_part_bytes: usize,
    /// A snapshot on its way is given up, and begun again, when nothing of it moved for this long,
    /// however long it takes. Default 10 s.
    pub snapshot_stall_timeout: Duration,
    /// Behind every so many entries each replica computes a digest of its state, sessions included, and
    /// tells the others;
    /// one whose state differs stops ([`StateMachine::digest`](crate::StateMachine::digest)). The same on
    /// every node. Default `None`, never; at least 1.
    pub state_hash_entries: Option<u64>,
    /// Entries before the newest snapshot that stay in the log, for followers that are a little
    /// behind. Default 10000.
    pub keep_entries: u64,
    /// How long a caller that is the last to wait may watch for an answer before its thread sleeps, where
    /// answers come in that time; at most a millisecond. Default 50 us; zero for never.
    pub caller_spin: Duration,
    /// Bytes of the newest entries kept in memory for followers and the state machine; older ones
    /// are read from the log. Default 32 MiB.
    pub tail_bytes: usize,
    /// Bytes of commands applied at a time; reads run between. Default 1 MiB.
    pub apply_bytes: usize,
    /// Bytes of one append and of one block of entries, more only if a single command is larger.
    /// Default 256 KiB.
    pub append_bytes: usize,
    /// Bytes under way to one follower and not acknowledged. Default 8 MiB.
    pub window_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        let limits = StreamLimits::default();
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(1000),
            clock_drift_percent: 10,
            priority: 0,
            write_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(5),
            session_ttl: Duration::from_secs(60),
            max_sessions: 10_000,
            forward_writes: true,
            max_command_bytes: 8 << 20,
            queue_bytes: 64 << 20,
            uncommitted_bytes: 64 << 20,
            unapplied_bytes: 64 << 20,
            snapshot_entries: Some(100_000),
            snapshot_log_bytes: Some(256 << 20),
            snapshot_interval: None,
            snapshot_bytes_per_second: None,
            snapshot_part_bytes: 256 << 10,
            snapshot_stall_timeout: Duration::from_secs(10),
            state_hash_entries: None,
            keep_entries: 10_000,
            caller_spin: Duration::from_micros(50),
            tail_bytes: 32 << 20,
            apply_bytes: 1 << 20,
            append_bytes: limits.append_bytes,
            window_bytes: limits.window_bytes,
        }
    }
}

impl Config {
    /// The timing of the Raft paper (§9.3) for nodes in one machine room: heartbeat 50 ms, election
    /// 150 to 300 ms.
    pub fn fast_network() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            ..Self::default()
        }
    }

    /// The engine's part of the settings.
    pub(crate) fn engine(&self, id: u64, incarnation: u64, seed: u64) -> quorate_engine::Config {
        quorate_engine::Config {
            id,
            incarnation,
            heartbeat_interval: self.heartbeat_interval,
            election_timeout_min: self.election_timeout_min,
            election_timeout_max: self.election_timeout_max,
            max_uncommitted_bytes: self.uncommitted_bytes as u64,
            max_unapplied_bytes: self.unapplied_bytes as u64,
            keep_entries: self.keep_entries,
            clock_drift_percent: self.clock_drift_percent,
            priority: self.priority,
            apply_persisted: false,
            seed,
        }
    }

    pub(crate) fn stream_limits(&self) -> StreamLimits {
        StreamLimits { append_bytes: self.append_bytes, window_bytes: self.window_bytes }
    }
}
