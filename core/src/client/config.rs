//! Every setting of a client, with defaults that are meant to be kept.

use std::time::Duration;

use quorate_network::tcp::TcpOptions;

/// Settings of a [`Client`](crate::Client).
///
/// ```
/// use quorate::ClientConfig;
/// let mut config = ClientConfig::default();
/// config.deadline = std::time::Duration::from_secs(2);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// How long a call may take, all attempts together. Default 5 s.
    pub deadline: Duration,
    /// The shortest pause before another attempt. Default 20 ms; doubles with each failure, and each
    /// pause is shortened by up to half, so that many clients don't come back at once.
    pub backoff_min: Duration,
    /// The longest. Default 1 s.
    pub backoff_max: Duration,
    /// Bytes of the calls that are not answered yet; more are `Overloaded`. Default 16 MiB.
    pub max_in_flight_bytes: usize,
    /// How long to wait for a connection, and again for its handshake. Default 1 s.
    pub connect_timeout: Duration,
    /// How often a connection asks its node for a sign of life. Default 1 s; well below the nodes'
    /// `client_idle_timeout`.
    pub probe_interval: Duration,
    /// How long after that the node may be silent before its connection is given up. Default 2 s.
    pub probe_timeout: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            max_in_flight_bytes: 16 << 20,
            connect_timeout: Duration::from_secs(1),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_secs(2),
        }
    }
}

impl ClientConfig {
    /// The transport's part of the settings.
    pub(super) fn tcp(&self, seed: u64) -> TcpOptions {
        let mut options = TcpOptions::default();
        options.connect_timeout = self.connect_timeout;
        options.handshake_timeout = self.connect_timeout;
        options.probe_interval = self.probe_interval;
        options.probe_timeout = self.probe_timeout;
        options.backoff_min = self.backoff_min;
        options.backoff_max = self.backoff_max;
        options.seed = seed;
        options
    }
}
