//! The network of Quorate: one trait with one method, a wire format, and two implementations.

mod in_process;
mod message;
mod wire;

pub use in_process::InProcess;
pub use message::*;
pub use wire::WireError;
