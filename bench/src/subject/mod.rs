//! What is measured: each subject answers writes, and is otherwise unknown to the measurement.
//!
//! The traits are generic, not objects: a boxed future for each write would be charged to every
//! subject alike, and would hide a difference between two that are fast.

mod floor;
mod openraft;
mod quorate;

use std::fmt;
use std::future::Future;

use clap::ValueEnum;

pub(crate) use self::floor::Floor;
pub(crate) use self::openraft::Openraft;
pub(crate) use self::quorate::Quorate;
use crate::failure::Failure;

/// The members of every cluster.
pub(crate) const NODES: [u64; 3] = [1, 2, 3];

/// Something that answers writes: a whole cluster, or what stands in for one.
pub(crate) trait Subject: Sized + Send + 'static {
    /// What one client holds.
    type Client: Client;

    /// Starts a fresh cluster on the runtime that polls this, the servers' one, and returns when
    /// it can take writes.
    fn start() -> impl Future<Output = Result<Self, Failure>> + Send;

    /// A client of the cluster, talking to the leader. Used on the clients' runtime.
    fn client(&self) -> Self::Client;

    /// Stops all that [`start`](Self::start) started and lets go of its memory.
    fn stop(self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// One client of a [`Subject`].
pub(crate) trait Client: Send + 'static {
    /// Writes the empty command and waits for the answer: committed and applied, where the
    /// subject knows such things.
    fn write(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The names of the subjects, in the order of the reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SubjectName {
    /// This project.
    Quorate,
    /// The peer.
    Openraft,
    /// One task that answers at once: what the channels and the scheduler cost by themselves.
    Floor,
}

impl SubjectName {
    /// As typed on the command line and printed in the reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Quorate => "quorate",
            Self::Openraft => "openraft",
            Self::Floor => "floor",
        }
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
