//! A replicated bank on [Quorate](quorate): deposits and withdrawals that are neither lost nor done
//! twice, though nodes are killed and clients send again whatever they got no answer to.
//!
//! Read [`bank`] first: it is the whole application. [`ledger`] is how anybody can tell whether it
//! works. [`customers`] write to it through sessions, [`nodes`] are the processes that serve it.

pub mod bank;
pub mod customers;
pub mod ledger;
pub mod nodes;
