//! Storage and state machine traits of Quorate.
//!
//! Two kinds of implementors meet here. An application implements [`StateMachine`], always. A
//! storage engine implements [`RaftStorage`], only where the built-in stores don't fit: that is
//! [`MemoryStorage`], or the durable log in [`wal`].

mod codec;
mod log;
mod state_machine;

pub use codec::*;
pub use log::*;
pub use state_machine::*;
