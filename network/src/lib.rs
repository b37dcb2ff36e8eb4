//! The network of Quorate: one trait with one method, a wire format, and two implementations.

mod message;

pub use message::*;
