//! The network of Quorate: one trait with one method, a wire format, and two implementations.

mod in_process;
mod message;

pub use in_process::InProcess;
pub use message::*;
