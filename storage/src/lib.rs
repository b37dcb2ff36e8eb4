//! Storage and state machine traits of Quorate.
//!
//! Two kinds of implementors meet here. An application implements [`StateMachine`], always. A
//! storage engine implements [`RaftStorage`], only where the built-in stores don't fit: that is
//! [`MemoryStorage`], or the durable log in [`wal`].

mod blocking;
mod codec;
pub mod conformance;
mod log;
mod memory;
pub mod snapshot;
mod state;
mod state_machine;
#[cfg(feature = "wal")]
pub mod wal;

pub use blocking::*;
pub use codec::*;
pub use log::*;
pub use memory::*;
pub use snapshot::{
    ApplyMark, Snapshot, SnapshotInfo, SnapshotMeta, SnapshotReader, SnapshotStore, SnapshotWriter,
};
pub use state_machine::*;
