//! Every setting of a client, with defaults that are meant to be kept.

use std::time::Duration;

use quorate_network::tcp::TcpOptions;

use crate::forward::REQUEST_BYTES;

/// What anything may last but a deadline and the longest pause.
const LONGEST: Duration = Duration::from_secs(3600);

/// What a write without a byte takes of [`ClientConfig::max_in_flight_bytes`].
const SMALLEST_WRITE_BYTES: usize = 2 * REQUEST_BYTES;

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
    /// The longest. Default 1 s; an eighth of it while some node can be reached, which waits for an election.
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
    /// Whether a client can work with these settings.
    ///
    /// # Errors
    /// What is wrong and what to set.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, value, default) in [
            ("deadline", self.deadline, "5 s"),
            ("backoff_min", self.backoff_min, "20 ms"),
            ("connect_timeout", self.connect_timeout, "1 s"),
            ("probe_interval", self.probe_interval, "1 s"),
            ("probe_timeout", self.probe_timeout, "2 s"),
        ] {
            if value.is_zero() {
                return Err(format!("{name} is zero; {default} is the default"));
            }
            if name != "deadline" && value > LONGEST {
                return Err(format!("{name} is over an hour; failures would last as long"));
            }
        }
        if self.backoff_max < self.backoff_min {
            return Err(format!(
                "backoff_max {:?} must be at least backoff_min {:?}",
                self.backoff_max, self.backoff_min
            ));
        }
        if self.max_in_flight_bytes < SMALLEST_WRITE_BYTES {
            return Err(format!(
                "max_in_flight_bytes {} must be at least {SMALLEST_WRITE_BYTES}, or no write could be \
                 made",
                self.max_in_flight_bytes
            ));
        }
        Ok(())
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_no_client_can_work_with_are_refused_by_name() {
        let changed = |change: &dyn Fn(&mut ClientConfig)| {
            let mut config = ClientConfig::default();
            change(&mut config);
            config.check()
        };
        assert_eq!(changed(&|_| ()), Ok(()));
        assert_eq!(changed(&|c| c.deadline = Duration::MAX), Ok(()), "some wait for ever");
        assert_eq!(changed(&|c| c.backoff_max = c.backoff_min), Ok(()));
        type Change = fn(&mut ClientConfig);
        let wrong: [(&str, Change); 11] = [
            ("deadline", |c| c.deadline = Duration::ZERO),
            ("backoff_min", |c| c.backoff_min = Duration::ZERO),
            ("backoff_min", |c| c.backoff_min = Duration::MAX),
            ("backoff_max", |c| c.backoff_max = Duration::ZERO),
            ("connect_timeout", |c| c.connect_timeout = Duration::ZERO),
            ("connect_timeout", |c| c.connect_timeout = Duration::MAX),
            ("probe_interval", |c| c.probe_interval = Duration::ZERO),
            ("probe_interval", |c| c.probe_interval = Duration::MAX),
            ("probe_timeout", |c| c.probe_timeout = Duration::ZERO),
            ("probe_timeout", |c| c.probe_timeout = Duration::MAX),
            ("max_in_flight_bytes", |c| c.max_in_flight_bytes = SMALLEST_WRITE_BYTES - 1),
        ];
        for (name, change) in wrong {
            let why = changed(&change).unwrap_err();
            assert!(why.starts_with(name), "{name}: {why}");
        }
    }
}
