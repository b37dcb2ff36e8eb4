//! A replicated key-value store over HTTP, on [Quorate](quorate): the state machine, the server
//! around it, and the client that the command line, the demo and the tests share.
//!
//! Read [`store`] first: it is the whole application. [`node`] turns it into a running member of a
//! cluster, [`server`] gives it routes, [`admin`] those of its operators.

pub mod admin;
pub mod client;
pub mod error;
pub mod join;
pub mod key;
pub mod load;
pub mod node;
pub mod pairs;
pub mod process;
pub mod readings;
pub mod server;
pub mod session;
pub mod store;
pub mod table;
