//! The network of Quorate: one trait with one method, a wire format, and two implementations.
//!
//! | to do what | begin at |
//! |---|---|
//! | run nodes in one process, and cut the network between them | [`InProcess`] |
//! | run nodes on machines | [`TcpTransport`] |
//! | speak to nodes without being one | [`tcp::ClientConnection`] |
//! | carry messages over something else | [`RaftNetwork`], [`Inbound`], [`Envelope::to_bytes`] |
//! | check such a network | [`conformance`] |
//!
//! Raft asks little of a network: messages may be lost, late or doubled, and must not be altered.
//! So everything between nodes goes one way. An answer is a message like any other, and no request
//! waits for one; only clients have connections on which they are answered ([`Call`]). What a network of ours adds is about the operator: a wrong address, another cluster, a
//! wiped disk or a newer release is found when a connection opens, and the reason is in the log of
//! both sides.
//!
//! Nothing here decides anything about the protocol, and nothing queues: a full receiver drops, a
//! slow one makes `send` wait, and both are the business of the node.

mod backoff;
mod call;
pub mod conformance;
mod in_process;
mod message;
#[cfg(feature = "tcp")]
pub mod tcp;
mod wire;

pub use backoff::Backoff;
pub use call::*;
pub use in_process::InProcess;
pub use message::*;
#[cfg(feature = "tcp")]
pub use tcp::{BindError, TcpOptions, TcpTransport};
pub use wire::WireError;
