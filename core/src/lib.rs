//! Raft consensus for async Rust: bring a state machine, get a replicated, durable, linearizable
//! service.
//!
//! Four words are enough to begin: a *command* is what clients ask for, your [`StateMachine`]
//! *applies* it, a node is *started*, and [`Raft::write`] gets a command applied on every node.
//!
//! ```
//! use quorate::{Raft, testing::Counter};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let raft = Raft::builder(1, Counter::default()).in_memory().start().await?;
//! raft.initialize([(1, "")]).await?; // a cluster of one
//! assert_eq!(raft.write(5).await?, 5);
//! assert_eq!(raft.read(|counter| counter.total).await?, 5);
//! # Ok(()) }
//! ```
//!
//! # The pieces
//!
//! - [`Raft`] is the handle: [`write`](Raft::write), [`read`](Raft::read),
//!   [`metrics`](Raft::metrics), [`wait`](Raft::wait), [`events`](Raft::events).
//! - [`StateMachine`] is yours. [`Codec`] says how its commands become bytes.
//! - [`RaftStorage`] and [`RaftNetwork`] are for those who replace the built-in log or transport.
//! - [`Host`] runs several groups in one process.
//! - `Client` is a handle for programs that are no members, over TCP.
//! - [`Config`] has every setting, with defaults that are meant to be kept.
//!
//! # What is promised
//!
//! A write that returned is durable on a quorum and applied on the leader. A linearizable read sees
//! every write acknowledged before it, wherever it was made. Both hold with any number of crashes
//! and any behaviour of the network, as long as disks keep what they synced; a majority of the
//! voters is needed to go on. An error says whether the write may have happened.

mod apply;
mod backup;
mod callers;
mod calls;
#[cfg(feature = "tcp")]
mod client;
mod config;
mod control;
mod crew;
mod digests;
mod env;
mod error;
mod forward;
mod histogram;
mod host;
mod lanes;
mod lease;
mod membership;
mod metrics;
mod node;
mod observe;
mod orders;
mod pending;
mod post;
#[cfg(feature = "prometheus")]
mod prometheus;
mod raft;
mod recover;
mod session;
mod sessions;
mod snapshots;
mod spin;
mod start;
mod stats;
mod tail;
#[cfg(feature = "postcard")]
pub mod testing;
mod transfer;
mod trigger;
mod writes;

pub use async_trait::async_trait;
pub use backup::Backup;
pub use callers::Once;
#[cfg(feature = "tcp")]
pub use client::{Client, ClientBuilder, ClientConfig, ClientSession, ClientStatus};
pub use config::Config;
pub use env::{Env, TokioEnv};
pub use error::{
    ChangeError, InitializeError, ReadError, SnapshotError, StartError, TransferError, WaitError,
    WriteError,
};
pub use histogram::Histogram;
pub use host::{GroupBuilder, Host, HostBuilder};
pub use membership::{CatchUp, MembershipChange};
pub use metrics::{Event, Events, Metrics, Wait};
pub use quorate_engine::{
    GroupId, Index, LogId, Member, Membership, NodeId, ReadMode, Recovery, RoleKind, Term,
};
pub use quorate_network::{
    Envelope, InProcess, Inbound, Lane, NetworkError, Peer, RaftNetwork, Refusal, SessionWrite,
};
#[cfg(feature = "json")]
pub use quorate_storage::Json;
#[cfg(feature = "postcard")]
pub use quorate_storage::Postcard;
pub use quorate_storage::{
    ApplyMark, Blocking, BlockingReader, BlockingStorage, Codec, Committed, Failure, LogReader,
    MemoryDisk, MemoryStorage, RaftStorage, Raw, Snapshot, SnapshotInfo, SnapshotMeta,
    SnapshotReader, SnapshotStore, SnapshotWriter, StateMachine, StorageError,
};
pub use raft::{Builder, Raft};
pub use recover::{RecoverError, Survivor};
pub use session::Session;
pub use stats::{LaneStats, PeerStats, Stats};
pub use trigger::Trigger;

/// The README's program is a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// So is the page about clients.
#[cfg(all(doctest, feature = "tcp", feature = "postcard"))]
#[doc = include_str!("../../docs/client.md")]
struct ClientPage;
