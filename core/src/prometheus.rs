//! The numbers of a host's groups for a registry of `prometheus-client`.
//!
//! Nothing is counted here: each scrape reads what [`Raft::stats`](crate::Raft::stats) and
//! [`Raft::metrics`](crate::Raft::metrics) would say. `docs/observability.md` has the table of names,
//! which a test compares with this one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::histogram::Histogram;
use crate::host::{Host, Observed};
use crate::metrics::Metrics;
use crate::stats::{LaneStats, PeerStats, Stats};
use crate::{Lane, RoleKind};

impl Host {
    /// Has `registry` show the numbers of every group of this host, with the labels `node` and `group`,
    /// those of groups that are started later too. Called once for each registry.
    ///
    /// A scrape copies a few kilobytes a group and waits for nobody. The registry keeps nothing running:
    /// what a group has counted can be seen after it has stopped.
    ///
    /// ```
    /// # use quorate::{Raft, testing::Counter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use prometheus_client::{encoding::text::encode, registry::Registry};
    ///
    /// let raft = Raft::builder(1, Counter::default()).in_memory().start().await?;
    /// let mut registry = Registry::default();
    /// raft.host().register(&mut registry);
    /// raft.initialize([(1, "")]).await?;
    /// raft.write(5).await?;
    ///
    /// let mut text = String::new();
    /// encode(&mut text, &registry)?;
    /// assert!(text.contains("quorate_proposed_writes_total{node=\"1\",group=\"1\"} 1\n"));
    /// # Ok(()) }
    /// ```
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Groups(self.inner.observed.clone())));
    }
}

/// Every group of a host.
struct Groups(Arc<Observed>);

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the groups of a host")
    }
}

/// A group at the moment of a scrape.
struct Seen {
    metrics: Metrics,
    stats: Stats,
}

/// A metric: its name without unit and `_total`, its unit, what it means, its values.
struct Family(&'static str, Option<Unit>, &'static str, Values);

/// Where the values of one group come from.
enum Values {
    Counter(fn(&Seen) -> Series<u64>),
    Gauge(fn(&Seen) -> Series<u64>),
    Time(fn(&Seen) -> Series<Duration>),
    /// Of microseconds, shown in seconds.
    Times(for<'a> fn(&'a Seen) -> Series<&'a Histogram>),
    /// Of entries or bytes.
    Sizes(for<'a> fn(&'a Seen) -> Series<&'a Histogram>),
}

/// The values of one metric in one group, each with the label that tells it from the others.
type Series<T> = Vec<(Option<(&'static str, String)>, T)>;

fn one<T>(value: T) -> Series<T> {
    vec![(None, value)]
}

fn by<K: ToString, T>(label: &'static str, of: impl IntoIterator<Item = (K, T)>) -> Series<T> {
    of.into_iter().map(|(key, value)| (Some((label, key.to_string())), value)).collect()
}

fn by_lane(seen: &Seen, what: fn(&LaneStats) -> u64) -> Series<u64> {
    let word = |lane| match lane {
        Lane::Control => "control",
        Lane::Entries => "entries",
        Lane::Clients => "clients",
        Lane::Snapshot => "snapshot",
    };
    by("lane", seen.stats.lanes.iter().map(|(lane, stats)| (word(*lane), what(stats))))
}

fn by_peer<T>(seen: &Seen, what: fn(&PeerStats) -> Option<T>) -> Series<T> {
    let peers = seen.stats.peers.iter();
    by("peer", peers.filter_map(|(peer, stats)| Some((peer, what(stats)?))))
}

fn families() -> Vec<Family> {
    use Values::{Counter, Gauge, Sizes, Time, Times};
    const ROLES: [RoleKind; 5] = [
        RoleKind::Leader,
        RoleKind::Follower,
        RoleKind::Learner,
        RoleKind::PreCandidate,
        RoleKind::Candidate,
    ];
    let bytes = || Some(Unit::Bytes);
    let seconds = || Some(Unit::Seconds);
    let entries = || Some(Unit::Other("entries".into()));
    vec![
        // Where the node stands.
        Family("quorate_role", None, "1 for the role the node has, 0 for the others", {
            Gauge(|s| by("role", ROLES.map(|role| (role, u64::from(s.metrics.role == role)))))
        }),
        Family("quorate_term", None, "The term", Gauge(|s| one(s.metrics.term))),
        Family(
            "quorate_healthy",
            None,
            "1 if a leader is known and what it had committed is applied",
            Gauge(|s| one(s.metrics.healthy.into())),
        ),
        Family("quorate_failed", None, "1 if the node had to stop for a fault", {
            Gauge(|s| one(s.metrics.fatal.is_some().into()))
        }),
        Family("quorate_last_index", None, "The last entry of the log", {
            Gauge(|s| one(s.metrics.last))
        }),
        Family("quorate_persisted_index", None, "The last entry durable here", {
            Gauge(|s| one(s.metrics.persisted))
        }),
        Family("quorate_committed_index", None, "The last entry known to be committed", {
            Gauge(|s| one(s.metrics.committed))
        }),
        Family("quorate_applied_index", None, "The last entry the state machine has seen", {
            Gauge(|s| one(s.metrics.applied))
        }),
        Family("quorate_snapshot_index", None, "The last entry in the newest snapshot", {
            Gauge(|s| one(s.metrics.snapshot))
        }),
        Family("quorate_compacted_index", None, "The last entry compacted out of the log", {
            Gauge(|s| one(s.metrics.compacted))
        }),
        // Elections.
        Family("quorate_elections_started", None, "Terms in which the node stood", {
            Counter(|s| one(s.stats.elections_started))
        }),
        Family("quorate_elections_won", None, "Terms in which it was elected", {
            Counter(|s| one(s.stats.elections_won))
        }),
        Family("quorate_leader_changes", None, "Leaderships that it came to know", {
            Counter(|s| one(s.stats.leader_changes))
        }),
        // Writes.
        Family("quorate_writes", None, "Writes of callers here that were taken in", {
            Counter(|s| one(s.stats.writes))
        }),
        Family("quorate_writes_forwarded", None, "Writes passed on to a leader, each attempt", {
            Counter(|s| one(s.stats.writes_forwarded))
        }),
        Family("quorate_writes_received", None, "Writes passed on by other nodes", {
            Counter(|s| one(s.stats.writes_received))
        }),
        Family("quorate_write_failures", None, "Writes of callers here that failed, by reason", {
            Counter(|s| by("reason", s.stats.write_failures.clone()))
        }),
        Family("quorate_proposed_writes", None, "Writes put into the log as leader", {
            Counter(|s| one(s.stats.proposed_writes))
        }),
        Family("quorate_proposed_commands", None, "Commands put into the log as leader", {
            Counter(|s| one(s.stats.proposed_commands))
        }),
        Family("quorate_proposed", bytes(), "Bytes of those commands", {
            Counter(|s| one(s.stats.proposed_bytes))
        }),
        Family(
            "quorate_write",
            seconds(),
            "Writes at the leader: queued until proposed; from there until durable on its disk, \
             committed, answered",
            Times(|s| {
                let Stats { queued, durable, committed, answered, .. } = &s.stats;
                let stages = [
                    ("queued", queued),
                    ("durable", durable),
                    ("committed", committed),
                    ("answered", answered),
                ];
                by("stage", stages)
            }),
        ),
        Family("quorate_queued", bytes(), "Writes of callers here that wait to be proposed", {
            Gauge(|s| one(s.stats.queued_bytes))
        }),
        Family("quorate_uncommitted", bytes(), "Entries proposed and not committed", {
            Gauge(|s| one(s.stats.uncommitted_bytes))
        }),
        // Reads.
        Family("quorate_reads", None, "Reads that were asked for here, by mode", {
            Counter(|s| by("mode", s.stats.reads.clone()))
        }),
        Family("quorate_read_failures", None, "Reads that failed here, by reason", {
            Counter(|s| by("reason", s.stats.read_failures.clone()))
        }),
        Family("quorate_read_index", seconds(), "Reads until their read index is known", {
            Times(|s| one(&s.stats.read_index))
        }),
        // The log, the state machine, the followers.
        Family("quorate_log_write", seconds(), "Writes of the log until they are durable", {
            Times(|s| one(&s.stats.log_write))
        }),
        Family("quorate_log_write", entries(), "Entries of each write of the log", {
            Sizes(|s| one(&s.stats.log_write_entries))
        }),
        Family("quorate_log_write", bytes(), "Bytes of entries of each write of the log", {
            Sizes(|s| one(&s.stats.log_write_bytes))
        }),
        Family("quorate_tail", bytes(), "Entries in memory", Gauge(|s| one(s.stats.tail_bytes))),
        Family("quorate_apply", seconds(), "The state machine, for each batch of commands", {
            Times(|s| one(&s.stats.apply))
        }),
        Family("quorate_apply", entries(), "Entries of each batch applied", {
            Sizes(|s| one(&s.stats.apply_entries))
        }),
        Family("quorate_apply", bytes(), "Bytes of entries of each batch applied", {
            Sizes(|s| one(&s.stats.apply_bytes))
        }),
        Family("quorate_apply_backlog", entries(), "Entries committed and not applied", {
            Gauge(|s| one(s.stats.apply_backlog))
        }),
        Family("quorate_append", entries(), "Entries of each append to a follower", {
            Sizes(|s| one(&s.stats.append_entries))
        }),
        Family("quorate_append", bytes(), "Bytes of entries of each append to a follower", {
            Sizes(|s| one(&s.stats.append_bytes))
        }),
        Family("quorate_peer_matched_index", None, "What each follower has durably", {
            Gauge(|s| by_peer(s, |peer| Some(peer.matched)))
        }),
        Family("quorate_peer_lag", entries(), "Entries that each follower lacks", {
            Gauge(|s| by_peer(s, |peer| Some(peer.lag)))
        }),
        Family("quorate_peer_round_trip", seconds(), "The newest heartbeat and its answer", {
            Time(|s| by_peer(s, |peer| peer.round_trip))
        }),
        Family(
            "quorate_peer_silence",
            seconds(),
            "Since the newest heartbeat answered was sent",
            Time(|s| by_peer(s, |peer| Some(peer.silence))),
        ),
        Family("quorate_peer_snapshot", None, "1 while the follower is sent a snapshot", {
            Gauge(|s| by_peer(s, |peer| Some(peer.snapshot.into())))
        }),
        // Clients and messages.
        Family("quorate_clients", None, "Clients connected to the host, whatever they ask", {
            Gauge(|s| one(s.stats.clients))
        }),
        Family("quorate_messages_sent", None, "Messages to peers, by lane", {
            Counter(|s| by_lane(s, |lane| lane.sent))
        }),
        Family("quorate_messages_lost", None, "Messages that the network said it lost, by lane", {
            Counter(|s| by_lane(s, |lane| lane.lost))
        }),
        Family("quorate_messages_dropped", None, "Messages for which a lane had no room", {
            Counter(|s| by_lane(s, |lane| lane.dropped))
        }),
        Family("quorate_inbox", bytes(), "Messages of peers that wait for the node", {
            Gauge(|s| one(s.stats.inbox_bytes))
        }),
        Family("quorate_inbox_dropped", None, "Batches of messages of peers without room", {
            Counter(|s| one(s.stats.inbox_dropped))
        }),
        // Snapshots.
        Family("quorate_snapshots_built", None, "Snapshots built", {
            Counter(|s| one(s.stats.snapshots_built))
        }),
        Family("quorate_snapshots_failed", None, "Snapshots that could not be built", {
            Counter(|s| one(s.stats.snapshots_failed))
        }),
        Family("quorate_snapshots_sent", None, "Snapshots that a follower has acknowledged", {
            Counter(|s| one(s.stats.snapshots_sent))
        }),
        Family("quorate_snapshots_received", None, "Snapshots of a leader, complete here", {
            Counter(|s| one(s.stats.snapshots_received))
        }),
        Family("quorate_snapshots_restored", None, "Snapshots that the state machine restored", {
            Counter(|s| one(s.stats.snapshots_restored))
        }),
        Family("quorate_snapshot_built", bytes(), "Bytes of snapshots built", {
            Counter(|s| one(s.stats.snapshot_built_bytes))
        }),
        Family("quorate_snapshot_sent", bytes(), "Bytes of snapshots sent, repeated parts too", {
            Counter(|s| one(s.stats.snapshot_sent_bytes))
        }),
        Family("quorate_snapshot_received", bytes(), "Bytes of snapshots that arrived", {
            Counter(|s| one(s.stats.snapshot_received_bytes))
        }),
    ]
}

impl Collector for Groups {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let observers = self.0.all();
        let groups: Vec<Seen> = observers
            .iter()
            .map(|of| Seen { metrics: of.board.metrics(), stats: of.stats() })
            .collect();
        for Family(name, unit, help, values) in families() {
            let kind = match values {
                Values::Counter(_) => MetricType::Counter,
                Values::Gauge(_) | Values::Time(_) => MetricType::Gauge,
                Values::Times(_) | Values::Sizes(_) => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            for seen in &groups {
                let labels = |own: &Option<(&'static str, String)>| {
                    let node = ("node", seen.metrics.id.to_string());
                    let group = ("group", seen.metrics.group.to_string());
                    [node, group].into_iter().chain(own.clone()).collect::<Vec<_>>()
                };
                match &values {
                    Values::Counter(of) => {
                        for (own, value) in of(seen) {
                            let labels = labels(&own);
                            let mut at = family.encode_family(&labels)?;
                            at.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                        }
                    }
                    Values::Gauge(of) => {
                        for (own, value) in of(seen) {
                            family.encode_family(&labels(&own))?.encode_gauge(&value)?;
                        }
                    }
                    Values::Time(of) => {
                        for (own, value) in of(seen) {
                            let seconds = value.as_secs_f64();
                            family.encode_family(&labels(&own))?.encode_gauge(&seconds)?;
                        }
                    }
                    Values::Times(of) | Values::Sizes(of) => {
                        let per_unit =
                            if matches!(values, Values::Times(_)) { 1_000_000.0 } else { 1.0 };
                        for (own, histogram) in of(seen) {
                            let buckets: Vec<(f64, u64)> = histogram
                                .buckets()
                                .map(|(bound, count)| {
                                    let bound = bound.map(|bound| bound as f64 / per_unit);
                                    (bound.unwrap_or(f64::INFINITY), count)
                                })
                                .collect();
                            let (sum, count) =
                                (histogram.sum() as f64 / per_unit, histogram.count());
                            family
                                .encode_family(&labels(&own))?
                                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
