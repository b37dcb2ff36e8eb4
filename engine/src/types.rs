//! The words everything else is written in: ids, terms, positions, time.

use std::fmt;
use std::time::Duration;

/// Identifies a node of a cluster. Chosen by the operator, never reused for another machine.
pub type NodeId = u64;

/// Identifies one Raft group of a host.
pub type GroupId = u64;

/// A term: Raft's logical clock (paper §5.1). 0 is the time before any election.
pub type Term = u64;

/// A position in the log. The first entry has index 1; 0 means "before the log".
pub type Index = u64;

/// The identity of a log entry: two entries with the same `LogId` are the same entry (paper §5.3,
/// Log Matching).
///
/// Ordered by term, then by index: the order of "more up-to-date" (paper §5.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that created the entry.
    pub term: Term,
    /// Position of the entry.
    pub index: Index,
}

impl LogId {
    /// The position before the first entry.
    pub const ZERO: LogId = LogId { term: 0, index: 0 };

    /// The entry of `term` at `index`.
    pub const fn new(term: Term, index: Index) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// What a node must not forget across a crash besides its log (paper Figure 2, "persistent state").
///
/// Both fields are one atomic record: no crash may separate them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// The candidate this node granted its vote in `term`, if any.
    pub voted_for: Option<NodeId>,
    /// Whether its log is that of a witness: without commands, from some entry on. Never taken back,
    /// since what is missing never comes.
    pub witness: bool,
}

impl HardState {
    /// Of a node that is no witness.
    pub fn new(term: Term, voted_for: Option<NodeId>) -> Self {
        Self { term, voted_for, witness: false }
    }

    /// What a node starts with whose newest snapshot is of `term`: this, or that term without a vote
    /// if it is later. A snapshot may be durable before the write that said in which term it came;
    /// as long as that write was not, no vote of that term has left the node.
    ///
    /// Called at a start that resets the log to a snapshot, and made durable with the reset.
    #[must_use]
    pub fn at_least(self, term: Term) -> Self {
        if term > self.term { Self { term, voted_for: None, ..self } } else { self }
    }
}

impl fmt::Display for HardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term={} vote=", self.term)?;
        match self.voted_for {
            Some(id) => write!(f, "{id}")?,
            None => f.write_str("none")?,
        }
        f.write_str(if self.witness { " witness" } else { "" })
    }
}

/// Entries from `first` on, up to the next run, carry `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// Index of the first entry of the run.
    pub first: Index,
    /// Term of every entry of the run.
    pub term: Term,
}

/// A moment on the node's own monotonic clock, in nanoseconds since an origin of the caller's
/// choice.
///
/// The engine has no clock: whoever drives it passes the time in. Moments of two nodes are not
/// comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock.
    pub const ORIGIN: Instant = Instant(0);

    /// Later than any other.
    pub const MAX: Instant = Instant(u64::MAX);

    /// The moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, zero if `earlier` is in the future.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates at the end of time instead of overflowing.
    fn add(self, d: Duration) -> Instant {
        let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}ms", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}
