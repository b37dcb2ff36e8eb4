//! Why a benchmark ended without its numbers.

use std::future::Future;
use std::{fmt, io};

use tokio::signal::unix::{SignalKind, signal};

/// Ends a benchmark. Its text says what happened, then what to do.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The user pressed Ctrl-C, or something sent SIGTERM: not a fault, but there are no results either.
    Interrupted,
    /// Something went wrong.
    Failed {
        /// What happened.
        what: String,
        /// What the reader can do about it.
        advice: &'static str,
    },
    /// It was asked for what this program can't do. With every feature there is nothing of the kind.
    #[cfg_attr(feature = "etcd", allow(dead_code))]
    Usage {
        /// What is wrong.
        what: String,
        /// What to ask for.
        advice: &'static str,
    },
}

impl Failure {
    /// `what` went wrong; `advice` says what to do about it.
    pub(crate) fn new(what: impl fmt::Display, advice: &'static str) -> Self {
        Self::Failed { what: what.to_string(), advice }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => write!(f, "interrupted; run it again for results"),
            Self::Failed { what, advice } | Self::Usage { what, advice } => {
                write!(f, "{what}; {advice}")
            }
        }
    }
}

/// Completes on Ctrl-C and on SIGTERM: what is on the disk is not left behind.
pub(crate) async fn asked_to_stop() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! { biased;
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

/// Ends `work`, by dropping it, on Ctrl-C and on SIGTERM. What it has started is to end when it is dropped.
pub(crate) async fn unless_stopped<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! { biased;
        Ok(()) = asked_to_stop() => Err(Failure::Interrupted),
        done = work => done,
    }
}
