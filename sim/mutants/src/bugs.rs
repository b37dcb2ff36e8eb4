//! The bugs: which there are, which hazard each stands for, and what has to catch it.
//!
//! The code asks for them by name, `planted::on("...")`; a test compares the names. Hazards are
//! rows of `docs/safety.md`.

/// One bug.
pub(crate) struct Bug {
    /// What the code calls it.
    pub(crate) name: &'static str,
    /// The row of `docs/safety.md`, in short.
    pub(crate) hazard: &'static str,
    /// Where it has to be caught.
    pub(crate) level: Level,
    /// Within how many seeds.
    pub(crate) within: u64,
    /// The invariants that it breaks: being caught by another would prove nothing.
    pub(crate) breaks: &'static [&'static str],
}

/// What the bug is planted into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Engines in a world of their own.
    Engines,
    /// The same, young, with a lost disk in each world.
    LostDisk,
    /// The same, with a disk of which an old copy is put back.
    OldDisk,
    /// The same, with a membership that changes all the time.
    Changing,
    /// The same, small, with leaders that are cut off and clocks that differ.
    Leases,
    /// The durable log on a disk that forgets.
    Log,
    /// The snapshots beside it, on such a disk.
    Snapshots,
    /// Real nodes in a world of their own.
    Nodes,
    /// A real client, over a real connection.
    Clients,
}

impl Level {
    pub(crate) const ALL: [Level; 9] = [
        Level::Engines,
        Level::LostDisk,
        Level::OldDisk,
        Level::Changing,
        Level::Leases,
        Level::Log,
        Level::Snapshots,
        Level::Nodes,
        Level::Clients,
    ];
}

/// An assertion of the code under test.
pub(crate) const ASSERTION: &str = "no engine panics";

const VOTES: &str = "one vote per term, durable before it leaves";
const ELECTION: &str = "Election Safety";
const COMPLETENESS: &str = "Leader Completeness";
const STAYS: &str = "committed never changes";
const CONFIGURATIONS: &str = "quorums of successive configurations overlap";
const COMMIT: &str = "committed means durable on a quorum";
const DURABILITY: &str = "persist, then promise";
const POSITIONS: &str = "positions never go back";
const MATCHING: &str = "Log Matching";
const MACHINES: &str = "State Machine Safety";
const WRITES: &str = "no acknowledged write is lost";
const READS: &str = "reads are linearizable";
const TERMS: &str = "a term begins with a candidate";
const HIGHER: &str = "a higher term is followed";
const PROMISES: &str = "no vote inside a promise";
const IDLE: &str = "who can't lead steps down";
const ACCUSED: &str = "no correct peer is accused";
const RECOVERS: &str = "the cluster recovers";
const QUARANTINE: &str = "who has lost entries elects nobody who lacks them";
const BACKLOG: &str = "a leader holds what it has room for";
const BEGINS: &str = "a log begins behind a durable snapshot";

/// What was acknowledged, or found at a start, is found at every later start.
pub(crate) const KEPT: &str = "what the log said stays";
/// A log starts after every crash.
pub(crate) const STARTS: &str = "a log starts after every crash";
/// A log starts after no damage to what was known to be durable.
pub(crate) const DAMAGE: &str = "damage is refused";
/// Nothing succeeds behind a write that failed.
pub(crate) const FINAL: &str = "the first error is final";

/// A snapshot that was committed is there, and whole, and no other is.
pub(crate) const SNAPSHOTS: &str = "a snapshot is there and whole, or not there";

/// Between what clients were told and what was applied.
pub(crate) const ONCE: &str = "every write at most once";
const GOES_ON: &str = "a recovered cluster goes on";
const DIVERGED: &str = "a replica that diverged stops";
const EVERYWHERE: &str = "everything is on every node";
const LINEARIZABLE: &str = "linearizability";
/// The node asserts what it answers with.
const STOPS: &str = "no node stops by itself";

const CHANGES: &str = "one change at a time, when it is due";
const SEEN: &str = "a change is made to what was seen";
const HANDOVERS: &str = "who is to take over has the whole log";
const VAIN: &str = "who is no member does not campaign";

const fn bug(
    level: Level,
    name: &'static str,
    hazard: &'static str,
    within: u64,
    breaks: &'static [&'static str],
) -> Bug {
    Bug { name, hazard, level, within, breaks }
}

/// All of them.
pub(crate) static BUGS: [Bug; 89] = [
    bug(
        Level::Engines,
        "vote-not-written",
        "a vote request or grant leaves before term and vote are durable",
        100,
        &[VOTES],
    ),
    bug(
        Level::Engines,
        "vote-leaves-early",
        "a vote request or grant leaves before term and vote are durable",
        100,
        &[VOTES],
    ),
    bug(
        Level::Engines,
        "candidacy-leaves-early",
        "a vote request or grant leaves before term and vote are durable",
        100,
        &[VOTES],
    ),
    bug(
        Level::Engines,
        "acknowledges-before-sync",
        "an empty, duplicate or heartbeat reply skips the durability wait",
        100,
        &[DURABILITY],
    ),
    bug(
        Level::Engines,
        "heartbeat-acknowledges-early",
        "an empty, duplicate or heartbeat reply skips the durability wait",
        100,
        &[DURABILITY],
    ),
    bug(
        Level::Engines,
        "leader-counts-itself-early",
        "a single voter acknowledges itself before its sync",
        100,
        &[COMMIT, WRITES],
    ),
    bug(
        Level::Engines,
        "overwritten-suffix-acknowledged",
        "an acknowledgement survives a truncation (ABA)",
        100,
        &[DURABILITY, ASSERTION],
    ),
    bug(
        Level::LostDisk,
        "wiped-disk-votes",
        "a wiped disk rejoins under its old id and votes",
        200,
        &[COMPLETENESS],
    ),
    bug(
        Level::LostDisk,
        "untied-votes-elect",
        "a wiped disk rejoins under its old id and votes",
        200,
        &[COMPLETENESS],
    ),
    bug(
        Level::Log,
        "batch-not-synced",
        "an empty, duplicate or heartbeat reply skips the durability wait",
        100,
        &[KEPT, STARTS],
    ),
    bug(
        Level::Log,
        "sync-retried",
        "fsync fails, the retry \"succeeds\" on dropped pages",
        100,
        &[KEPT, STARTS],
    ),
    bug(
        Level::Log,
        "page-cache-trusted",
        "fsync fails, the retry \"succeeds\" on dropped pages",
        100,
        &[KEPT, STARTS],
    ),
    bug(Level::Log, "error-not-final", "one error path of many is swallowed", 100, &[FINAL]),
    bug(
        Level::Log,
        "torn-tail-accepted",
        "an empty, partial or interrupted file taken as valid",
        600,
        &[KEPT, STARTS, DAMAGE],
    ),
    bug(
        Level::Log,
        "torn-tail-left",
        "a torn tail left in place makes later records unreadable",
        400,
        &[STARTS],
    ),
    bug(
        Level::Log,
        "damage-taken-for-torn",
        "damage mid-log taken for a torn tail",
        100,
        &[DAMAGE],
    ),
    bug(
        Level::Log,
        "no-seal",
        "the last acknowledged batch rots and is taken for a torn tail",
        100,
        &[DAMAGE],
    ),
    bug(
        Level::Log,
        "segment-without-vote",
        "the segment that held the latest vote goes",
        100,
        &[KEPT, STARTS],
    ),
    bug(
        Level::Log,
        "segment-name-not-synced",
        "truncate, purge, rotate or rename not synced, or misordered",
        100,
        &[KEPT, STARTS],
    ),
    bug(
        Level::Log,
        "removals-not-synced",
        "truncate, purge, rotate or rename not synced, or misordered",
        100,
        &[STARTS],
    ),
    bug(
        Level::Log,
        "recycled-segment-keeps-salt",
        "stale records in a reused or preallocated segment are replayed",
        100,
        &[STARTS],
    ),
    bug(
        Level::Log,
        "header-without-configurations",
        "the configuration in force goes with the segment that held its entry",
        100,
        &[KEPT, STARTS],
    ),
    bug(
        Level::Snapshots,
        "snapshot-name-not-synced",
        "an empty, partial or interrupted file taken as valid",
        100,
        &[SNAPSHOTS],
    ),
    bug(
        Level::Snapshots,
        "snapshot-content-not-synced",
        "an empty, partial or interrupted file taken as valid",
        100,
        &[SNAPSHOTS],
    ),
    bug(
        Level::Snapshots,
        "snapshot-not-checked",
        "an empty, partial or interrupted file taken as valid",
        100,
        &[DAMAGE],
    ),
    bug(
        Level::Engines,
        "earlier-terms-counted",
        "entries of an earlier term committed by counting",
        100,
        &[COMMIT],
    ),
    bug(
        Level::Engines,
        "no-up-to-date-check",
        "a higher term that was seen is stored as a vote granted",
        100,
        &[COMPLETENESS, STAYS],
    ),
    bug(
        Level::Engines,
        "two-votes-in-a-term",
        "a higher term that was seen is stored as a vote granted",
        100,
        &[VOTES],
    ),
    bug(
        Level::Engines,
        "half-is-a-majority",
        "two single-server changes by two leaders: disjoint quorums",
        100,
        &[COMMIT, ELECTION, CONFIGURATIONS],
    ),
    bug(
        Level::Engines,
        "higher-term-ignored",
        "a rejection's higher term ignored on one path",
        100,
        &[HIGHER],
    ),
    bug(
        Level::Engines,
        "leads-with-a-hung-log",
        "a leader whose disk hangs heartbeats for ever",
        100,
        &[IDLE],
    ),
    bug(
        Level::Engines,
        "no-check-quorum",
        "a removed or partitioned node comes back with a high term",
        100,
        &[IDLE],
    ),
    bug(
        Level::Engines,
        "no-stickiness",
        "a removed or partitioned node comes back with a high term",
        100,
        &[PROMISES],
    ),
    bug(
        Level::Engines,
        "pre-votes-move-terms",
        "a removed or partitioned node comes back with a high term",
        100,
        &[TERMS],
    ),
    bug(
        Level::Engines,
        "start-without-promise",
        "a restarted follower has forgotten the leader and votes inside its lease",
        200,
        &[PROMISES],
    ),
    bug(
        Level::Engines,
        "truncates-without-conflict",
        "a delayed or duplicate append truncates committed entries",
        100,
        &[POSITIONS, COMMIT, STAYS, ASSERTION],
    ),
    bug(
        Level::Engines,
        "terms-not-compared",
        "a delayed or duplicate append truncates committed entries",
        100,
        &[MATCHING],
    ),
    bug(
        Level::Engines,
        "commits-beyond-match",
        "a follower commits leaderCommit past what it matched",
        100,
        &[COMMIT, STAYS, MACHINES],
    ),
    bug(
        Level::Engines,
        "verified-for-an-earlier-leader",
        "a follower commits leaderCommit past what it matched",
        100,
        &[COMMIT, STAYS, MACHINES, ACCUSED, ASSERTION],
    ),
    bug(Level::Engines, "matched-goes-back", "commit or match index goes back", 100, &[POSITIONS]),
    bug(
        Level::Engines,
        "earlier-sessions-count",
        "replies of an earlier session corrupt progress",
        100,
        &[POSITIONS, ACCUSED],
    ),
    bug(Level::Engines, "conflicts-never-end", "the conflict is never reached", 100, &[RECOVERS]),
    bug(Level::Engines, "losses-not-noticed", "a peer stays in probe", 100, &[RECOVERS]),
    bug(Level::Engines, "snapshot-state-for-ever", "a peer stays in probe", 100, &[RECOVERS]),
    bug(
        Level::Engines,
        "compaction-ignores-transfers",
        "a large snapshot: timeout, memory, endless retries",
        200,
        &[BEGINS],
    ),
    bug(
        Level::Engines,
        "older-snapshot-installed",
        "an older snapshot over newer state; install races apply",
        1_000,
        &[BEGINS, POSITIONS, ASSERTION],
    ),
    bug(
        Level::Engines,
        "applied-before-restored",
        "an older snapshot over newer state; install races apply",
        200,
        &[MACHINES],
    ),
    bug(
        Level::Engines,
        "reset-without-need",
        "the log keeps a suffix that conflicts with the snapshot",
        600,
        &[BEGINS, COMMIT],
    ),
    bug(
        Level::Engines,
        "snapshot-without-membership",
        "a snapshot without membership, or with a wrong one",
        200,
        &[BEGINS],
    ),
    bug(
        Level::Engines,
        "compacted-before-snapshot-durable",
        "a gap between snapshot and log after a restart",
        100,
        &[BEGINS],
    ),
    bug(
        Level::Engines,
        "no-no-op",
        "a new leader serves reads before it has committed in its term",
        100,
        &[RECOVERS],
    ),
    bug(
        Level::Engines,
        "reads-before-first-commit",
        "a new leader serves reads before it has committed in its term",
        100,
        &[READS],
    ),
    bug(
        Level::Engines,
        "earlier-round-confirms",
        "a retried read context confirms a stale index",
        100,
        &[READS],
    ),
    bug(
        Level::Engines,
        "read-context-repeats",
        "a retried read context confirms a stale index",
        100,
        &[READS],
    ),
    bug(
        Level::Nodes,
        "failed-write-counts",
        "the write of a vote fails, memory keeps it, the grant is sent",
        100,
        &[ONCE, LINEARIZABLE, MACHINES, ELECTION, RECOVERS, STOPS],
    ),
    bug(
        Level::Nodes,
        "success-though-overwritten",
        "success returned though the entry was overwritten",
        600,
        &[ONCE, LINEARIZABLE, STOPS],
    ),
    bug(
        Level::Nodes,
        "forwarded-write-taken-twice",
        "a retry applies twice; sessions missing from snapshots",
        100,
        &[ONCE, LINEARIZABLE],
    ),
    bug(
        Level::Nodes,
        "reads-before-applied",
        "a retried read context confirms a stale index",
        100,
        &[LINEARIZABLE],
    ),
    bug(
        Level::Changing,
        "joint-quorum-from-one-half",
        "two single-server changes by two leaders: disjoint quorums",
        200,
        &[CONFIGURATIONS, COMMIT, COMPLETENESS, ELECTION],
    ),
    bug(
        Level::Changing,
        "configuration-counts-when-committed",
        "the configuration is not reverted when its entry is truncated",
        200,
        &[COMMIT, COMPLETENESS, ELECTION],
    ),
    bug(
        Level::Changing,
        "change-before-no-op",
        "two single-server changes by two leaders: disjoint quorums",
        200,
        &[CHANGES],
    ),
    bug(
        Level::Changing,
        "two-changes-at-once",
        "two single-server changes by two leaders: disjoint quorums",
        200,
        &[CHANGES],
    ),
    bug(
        Level::Changing,
        "joint-never-left",
        "a joint configuration is never left when the leader dies",
        200,
        &[RECOVERS],
    ),
    bug(
        Level::Changing,
        "removed-leader-leads-on",
        "the removed leader goes before the final configuration commits",
        200,
        &[RECOVERS],
    ),
    bug(
        Level::Changing,
        "removed-node-campaigns",
        "a removed or partitioned node comes back with a high term",
        200,
        &[VAIN],
    ),
    bug(
        Level::Changing,
        "transfer-without-catch-up",
        "TimeoutNow lost, or the target behind or dead: no writes for long",
        200,
        &[HANDOVERS],
    ),
    bug(
        Level::Changing,
        "timeout-now-of-an-earlier-term",
        "TimeoutNow lost, or the target behind or dead: no writes for long",
        200,
        &[PROMISES],
    ),
    bug(
        Level::Changing,
        "transfer-ignores-stickiness-always",
        "a removed or partitioned node comes back with a high term",
        200,
        &[PROMISES],
    ),
    bug(
        Level::Changing,
        "learner-votes-count",
        "two single-server changes by two leaders: disjoint quorums",
        200,
        &[CONFIGURATIONS, COMMIT, COMPLETENESS, ELECTION],
    ),
    bug(
        Level::Changing,
        "promoted-before-caught-up",
        "a voter is added that has nothing of the log",
        200,
        &[CHANGES],
    ),
    bug(
        Level::Changing,
        "cas-ignored",
        "a change is made to a membership that the operator has not seen",
        200,
        &[SEEN],
    ),
    bug(
        Level::Engines,
        "commands-to-witnesses",
        "a witness that keeps commands, or a replica that lacks them",
        200,
        &[MATCHING],
    ),
    bug(
        Level::Engines,
        "witness-forgets-what-it-is",
        "a witness that keeps commands, or a replica that lacks them",
        200,
        &[MATCHING],
    ),
    bug(
        Level::Engines,
        "witness-campaigns",
        "a witness leads, and has no commands to replicate",
        200,
        &[ACCUSED, MATCHING],
    ),
    bug(
        Level::OldDisk,
        "quarantined-votes",
        "a follower whose log went back elects who lacks what is committed",
        1000,
        &[QUARANTINE],
    ),
    bug(
        Level::OldDisk,
        "quarantined-campaigns",
        "a follower whose log went back elects who lacks what is committed",
        1000,
        &[QUARANTINE],
    ),
    bug(
        Level::Engines,
        "unapplied-not-counted",
        "writes pile up before a state machine that is slower than the log",
        1000,
        &[BACKLOG],
    ),
    bug(
        Level::Nodes,
        "recovered-keeps-its-cluster",
        "a quorum is recovered, and the lost majority comes back and outvotes it",
        600,
        &[ONCE, EVERYWHERE, LINEARIZABLE, GOES_ON, MACHINES],
    ),
    bug(
        Level::Nodes,
        "divergence-ignored",
        "nondeterministic apply diverges in silence",
        600,
        &[DIVERGED],
    ),
    bug(
        Level::Nodes,
        "parts-in-any-order",
        "parts of a snapshot are lost, or come in another order",
        600,
        &[MACHINES, STOPS],
    ),
    bug(
        Level::Nodes,
        "session-write-applied-twice",
        "a retry applies twice; sessions missing from snapshots",
        600,
        &[ONCE],
    ),
    bug(
        Level::Nodes,
        "lapsed-session-applies",
        "evicted sessions are forgotten, and their writes applied anew",
        2_000,
        &[ONCE],
    ),
    bug(
        Level::Nodes,
        "sessions-not-in-snapshot",
        "a retry applies twice; sessions missing from snapshots",
        600,
        &[ONCE, MACHINES, EVERYWHERE, STOPS],
    ),
    bug(
        Level::Clients,
        "client-retries-unknown",
        "a client sends a write again that a node may have heard of: it applies twice",
        3,
        &[ONCE],
    ),
    bug(
        Level::Leases,
        "lease-counted-from-the-answer",
        "lease counted from the answer's time, or from the wall clock",
        6_000,
        &[READS],
    ),
    bug(
        Level::Leases,
        "lease-ignores-drift",
        "lease counted from the answer's time, or from the wall clock",
        2_000,
        &[READS],
    ),
    bug(
        Level::Leases,
        "lease-outlives-transfer",
        "lease read served during a transfer",
        2_000,
        &[READS],
    ),
    bug(
        Level::Nodes,
        "shown-lease-never-ends",
        "a handle reads by a lease that its node holds no more",
        2_000,
        &[LINEARIZABLE],
    ),
    bug(
        Level::Leases,
        "age-counted-from-the-answer",
        "a read of bounded age is older than it may be",
        2_000,
        &[READS],
    ),
];
