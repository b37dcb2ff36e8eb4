//! placeholder
pub mod block;
mod config;
mod election;
mod engine;
mod io;
mod log;
mod membership;
pub mod message;
pub mod quorum;
mod reads;
mod replication;
mod stream;
mod types;

pub use block::{Batch, BlockError, EntryBlock, EntryKind};
pub use config::{Config, ConfigError};
pub use engine::{Engine, StartError};
pub use io::{Decline, Fatal, Input, Notice, Output, Outputs, Persist, Replicate, RoleKind};
pub use log::{Log, LogShapeError};
pub use membership::{Member, Membership, MembershipError};
pub use message::Message;
pub use stream::{Stream, StreamLimits, Want};
pub use types::{GroupId, HardState, Index, Instant, LogId, NodeId, Term, TermRun};
