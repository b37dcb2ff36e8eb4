//! What can be set.

use std::time::Duration;

use crate::Backoff;

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
    /// three, and a fourth once it sends a snapshot. Further ones are closed as they arrive. Those of
    /// clients count apart.
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
    /// The pauses after failed attempts to connect, spread by `seed`.
    pub fn backoff(&self, seed: u64) -> Backoff {
        Backoff::new(self.backoff_min, self.backoff_max, seed)
    }

    pub(super) fn frame_limit(&self) -> usize {
        self.max_frame_bytes.clamp(super::handshake::MAX_FRAME_BYTES, u32::MAX as usize)
    }
}
