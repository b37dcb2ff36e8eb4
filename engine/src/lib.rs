//! placeholder
pub mod block;
pub mod membership;
pub mod message;
mod types;
pub use block::{Batch, BlockError, EntryBlock, EntryKind};
pub use membership::{Member, Membership, MembershipError};
pub use message::Message;
pub use types::{GroupId, HardState, Index, Instant, LogId, NodeId, Term, TermRun};
