//! What can be set, and how long to wait before the next attempt.

use std::time::Duration;

/// Limits and patience of a [`TcpTransport`](super::TcpTransport).
///
/// ```
/// use std::time::Duration;
/// use quorate_network::tcp::TcpOptions;
///
/// let mut options = TcpOptions::default();
/// options.connect_timeout = Duration::from_secs(5); // a slow line
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TcpOptions {
    /// The largest envelope, sent or received: 64 MiB. Every node of a cluster should have the
    /// same; one that takes less closes the connections of one that sends more. Values below 4 KiB
    /// count as 4 KiB, values above 4 GiB as 4 GiB.
    pub max_frame_bytes: usize,
    /// Connections that others may have open to this node at the same time: 1024. Each peer needs
    /// three. Further ones are closed as they arrive. Those of clients count apart.
    pub max_connections: usize,
    /// Connections of clients at the same time: 1024. Further ones are turned down in words.
    pub max_clients: usize,
    /// Calls that one client may have under way: 65536. Further ones are answered `Overloaded`.
    pub max_client_calls: usize,
    /// Bytes of answers that may wait for one client: 64 MiB. From half of it on no more of its calls
    /// are read; over it its connection is closed.
    pub client_answer_bytes: usize,
    /// How long a client may be silent before its connection is closed: 60 s. Ours asks for a sign of
    /// life every second.
    pub client_idle_timeout: Duration,
    /// How long to wait for a connection, resolving the name included: 2 s.
    pub connect_timeout: Duration,
    /// How long either side waits for the other's part of the handshake: 2 s.
    pub handshake_timeout: Duration,
    /// How long a write may stand still before the connection is given up: 5 s. A slow peer that
    /// takes a byte now and then is not given up.
    pub write_timeout: Duration,
    /// How often a connection in use asks the peer for a sign of life: 1 s.
    pub probe_interval: Duration,
    /// How long the peer may owe one before the connection is given up: 5 s.
    pub probe_timeout: Duration,
    /// The shortest pause after a failed attempt to connect: 50 ms. Doubles with each failure.
    pub backoff_min: Duration,
    /// The longest: 1 s. A peer that connects to this node ends the pause.
    pub backoff_max: Duration,
    /// Spreads the pauses, each by up to half, so that many nodes don't call at once: 0. Nodes and
    /// lanes differ also with the same seed.
    pub seed: u64,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            max_frame_bytes: 64 << 20,
            max_connections: 1024,
            max_clients: 1024,
            max_client_calls: 65_536,
            client_answer_bytes: 64 << 20,
            client_idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            seed: 0,
        }
    }
}

impl TcpOptions {
    pub(super) fn frame_limit(&self) -> usize {
        self.max_frame_bytes.clamp(super::handshake::MAX_FRAME_BYTES, u32::MAX as usize)
    }
}

/// The pauses after failures in a row: growing from [`TcpOptions::backoff_min`], capped by
/// [`TcpOptions::backoff_max`], spread by a seed.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    /// No failure yet.
    pub fn new(seed: u64) -> Self {
        Self { failures: 0, random: seed }
    }

    /// It worked: the next pause is the shortest again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed: how long to wait.
    pub fn next(&mut self, options: &TcpOptions) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let pause = options.backoff_min.saturating_mul(factor).min(options.backoff_max);
        let spread = (split_mix(&mut self.random) >> 40) as u32;
        pause / 2 + (pause / 2).mul_f64(f64::from(spread) / f64::from(1u32 << 24))
    }
}

/// SplitMix64: a full-period generator in three lines, as good as spreading pauses needs.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_differ_by_seed_alone() {
        let options = TcpOptions::default();
        let pauses = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..100).map(|_| backoff.next(&options)).collect::<Vec<_>>()
        };
        let first = pauses(1);
        assert_eq!(first, pauses(1));
        assert_ne!(first, pauses(2));
        assert!(first[0] >= options.backoff_min / 2 && first[0] <= options.backoff_min);
        for pause in &first[5..] {
            assert!(*pause >= options.backoff_max / 2 && *pause <= options.backoff_max);
        }
    }

    #[test]
    fn success_makes_the_next_pause_short_again() {
        let options = TcpOptions::default();
        let mut backoff = Backoff::new(1);
        for _ in 0..40 {
            backoff.next(&options);
        }
        backoff.reset();
        assert!(backoff.next(&options) <= options.backoff_min);
    }
}
