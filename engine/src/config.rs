//! The engine's settings, and which combinations make sense.

use std::time::Duration;

use crate::types::NodeId;

/// Settings of one engine. Fixed for its life.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// The incarnation of its data directory.
    pub incarnation: u64,
    /// How often a leader says it is alive.
    pub heartbeat_interval: Duration,
    /// A follower that hears no leader campaigns after a random time of at least this. Also what a
    /// follower promises: for this long after it heard a leader it grants no vote.
    pub election_timeout_min: Duration,
    /// At most this; also how long a leader goes on without a quorum or with a log that hangs.
    pub election_timeout_max: Duration,
    /// A leader takes no more proposals while this many bytes of its log are not committed.
    pub max_uncommitted_bytes: u64,
    /// ... nor while this many bytes of what it has committed itself are not applied here.
    pub max_unapplied_bytes: u64,
    /// How many entries before the newest snapshot stay in the log, for followers that are a little
    /// behind.
    pub keep_entries: u64,
    /// By how much the clocks of two nodes may differ in rate, in percent of the slower: what a lease
    /// relies on ([`ReadMode::Lease`](crate::ReadMode::Lease)), and nothing else does.
    pub clock_drift_percent: u32,
    /// A leader hands over to a voter with a higher number that has caught up, at most once in ten
    /// election timeouts. Equal everywhere, as by default, it does nothing.
    pub priority: u32,
    /// Whether nothing is applied that is not durable here. For state machines that keep what they
    /// have applied, which must not remember more than the log does.
    pub apply_persisted: bool,
    /// Seeds the random election timeouts and the read contexts; another number each start.
    pub seed: u64,
}

/// Settings that can't work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Defaults for a node: heartbeat 100 ms, election 500 to 1000 ms, 64 MiB uncommitted and as many
    /// unapplied, 10000 entries kept before a snapshot.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            incarnation: 0,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(1000),
            max_uncommitted_bytes: 64 << 20,
            max_unapplied_bytes: 64 << 20,
            keep_entries: 10_000,
            clock_drift_percent: 10,
            priority: 0,
            apply_persisted: false,
            seed: id,
        }
    }

    /// Whether the settings fit together: the paper's timing requirement, broadcast time well below
    /// the election timeout (§5.6).
    ///
    /// # Errors
    /// What is wrong and what to set.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |what: String| Err(ConfigError(what));
        if self.id == 0 {
            return fail("node id 0 is not allowed; ids begin at 1".into());
        }
        if self.heartbeat_interval.is_zero() {
            return fail("heartbeat_interval is zero; 100 ms is the default".into());
        }
        if self.election_timeout_min < self.heartbeat_interval * 3 {
            return fail(format!(
                "election_timeout_min {:?} must be at least 3 heartbeat intervals of {:?}, or one \
                 lost heartbeat costs a leader",
                self.election_timeout_min, self.heartbeat_interval
            ));
        }
        if self.election_timeout_max < self.election_timeout_min * 3 / 2 {
            return fail(format!(
                "election_timeout_max {:?} must be at least 1.5 times election_timeout_min {:?}, \
                 or candidates collide",
                self.election_timeout_max, self.election_timeout_min
            ));
        }
        if self.election_timeout_max > Duration::from_secs(3600) {
            return fail(
                "election_timeout_max is over an hour; failures would last as long".into(),
            );
        }
        if self.max_uncommitted_bytes == 0 {
            return fail("max_uncommitted_bytes is zero; no write could be taken".into());
        }
        if self.max_unapplied_bytes == 0 {
            return fail("max_unapplied_bytes is zero; no write could be taken".into());
        }
        Ok(())
    }
}

/// splitmix64: small, good enough for timeouts, the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `min..=max`.
    pub(crate) fn between(&mut self, min: Duration, max: Duration) -> Duration {
        let span = max.saturating_sub(min).as_nanos() as u64;
        min + Duration::from_nanos(self.next() % (span.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timing_requirement_is_checked() {
        assert!(Config::new(1).validate().is_ok());
        let ms = Duration::from_millis;
        for change in [
            (|c: &mut Config| c.id = 0) as fn(&mut Config),
            |c| c.heartbeat_interval = Duration::ZERO,
            |c| c.heartbeat_interval = Duration::from_millis(400),
            |c| c.election_timeout_max = c.election_timeout_min,
            |c| c.election_timeout_max = Duration::from_secs(4000),
            |c| c.max_uncommitted_bytes = 0,
            |c| c.max_unapplied_bytes = 0,
        ] {
            let mut config = Config::new(1);
            change(&mut config);
            assert!(config.validate().is_err(), "{config:?}");
        }
        let mut rng = Rng::new(1);
        for _ in 0..100 {
            let d = rng.between(ms(5), ms(10));
            assert!(ms(5) <= d && d <= ms(10));
        }
    }
}
