//! The network of Quorate: one trait with one method, a wire format, and two implementations.

pub mod conformance;
mod in_process;
mod message;
#[cfg(feature = "tcp")]
pub mod tcp;
mod wire;

pub use in_process::InProcess;
pub use message::*;
#[cfg(feature = "tcp")]
pub use tcp::{BindError, TcpOptions, TcpTransport};
pub use wire::WireError;
