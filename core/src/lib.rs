//! Quorate

mod apply;
mod callers;
mod config;
mod env;
mod error;
mod forward;
mod host;
mod lanes;
mod metrics;
mod node;
mod pending;
mod raft;
mod tail;
#[cfg(feature = "postcard")]
pub mod testing;

pub use config::Config;
pub use env::{Env, TokioEnv};
pub use error::{InitializeError, ReadError, StartError, WaitError, WriteError};
pub use host::{GroupBuilder, Host, HostBuilder};
pub use metrics::{Event, Events, Metrics, Wait};
pub use quorate_engine::{GroupId, Index, LogId, Member, Membership, NodeId, RoleKind, Term};
pub use quorate_network::{
    Envelope, InProcess, Inbound, Lane, NetworkError, Peer, RaftNetwork, Refusal,
};
#[cfg(feature = "json")]
pub use quorate_storage::Json;
#[cfg(feature = "postcard")]
pub use quorate_storage::Postcard;
pub use quorate_storage::{
    Blocking, BlockingReader, BlockingStorage, Codec, Committed, Failure, LogReader, MemoryDisk,
    MemoryStorage, RaftStorage, Raw, StateMachine,
};
pub use raft::{Builder, Raft};
