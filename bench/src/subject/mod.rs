//! What is measured: each subject answers writes and reads, and is otherwise unknown to the
//! measurement.
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
pub(crate) use self::quorate::{Nothing, Quorate};
use crate::failure::Failure;

/// What a client does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Writes the empty command.
    Write,
    /// Writes [`BATCH`] of them at once.
    Batch,
    /// Reads, linearizably by a round of heartbeats.
    ReadIndex,
    /// Reads, linearizably by the leader's lease.
    LeaseRead,
    /// [`ReadIndex`](Self::ReadIndex), and every tenth time [`Write`](Self::Write).
    Mix,
}

/// Commands in a batch.
pub(crate) const BATCH: u32 = 4;

/// In a mix, one call in so many is a write.
pub(crate) const MIX: usize = 10;

impl Load {
    /// As in the reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Batch => "batch_of_4",
            Self::ReadIndex => "read_index",
            Self::LeaseRead => "lease_read",
            Self::Mix => "mix_90_10",
        }
    }

    /// How many operations a call counts for.
    pub(crate) fn operations(self) -> u64 {
        if self == Self::Batch { BATCH.into() } else { 1 }
    }
}

/// Something that answers writes and reads: a whole cluster, or what stands in for one.
pub(crate) trait Subject: Sized + Send + 'static {
    /// What one client holds.
    type Client: Client;

    /// Starts a fresh cluster of so many nodes on the runtime that polls this, the servers' one, and
    /// returns when it can take writes.
    fn start(nodes: u64) -> impl Future<Output = Result<Self, Failure>> + Send;

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

    /// Writes [`BATCH`] of them in one call, and waits for all answers.
    fn write_batch(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Waits until the state may be read linearizably, by the leader's lease or by asking the others.
    fn read(&mut self, lease: bool) -> impl Future<Output = Result<(), Failure>> + Send;
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
    /// In the order of the reports.
    pub(crate) const ALL: [Self; 3] = [Self::Quorate, Self::Openraft, Self::Floor];

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
