//! Level 1: engines in a world of their own, with nothing of the node around them.
//!
//! A [`World`] owns the engines of a cluster, the network between them, their disks and their
//! clocks, and moves from event to event in one order that its seed determines. What goes wrong is
//! of two sorts. All the time, at rates of the seed's [`Plan`], the network loses, repeats, delays
//! and reorders messages and clocks go at rates of their own. And the plan has a schedule of
//! [`Fault`](crate::Fault)s: cuts, crashes, failing, hanging, full and forgetful disks, pauses, clocks that jump.
//! Clients write and read all along; nodes build snapshots and compact their logs.
//!
//! Meanwhile the checkers of [`check`], one per promise of Raft, look at every step. When the faults
//! have stopped, the cluster has to come back to work within a bound: [`World::settle`].
//!
//! [`explore()`](crate::explore()) does all of that for one seed, and
//! [`minimize()`](crate::minimize()) makes a failure small.
//!
//! ```
//! use quorate_sim::engines::{Plan, World};
//!
//! let mut world = World::new(7, Plan::from_seed(7));
//! world.run().unwrap(); // faults and load, checked
//! world.settle().unwrap(); // the faults stop, the cluster recovers
//! assert!(world.statistics().acknowledged > 0);
//! ```
//!
//! What it does not do: damage on disks (a torn or flipped byte is the log's own test). Writes to disks
//! are whole or not at all.

pub mod check;
mod clients;
mod disk;
mod effects;
mod event;
mod image;
mod nemesis;
mod network;
mod node;
mod plan;
mod settle;
mod snapshot;
mod transfers;
mod world;

pub use image::{Image, LogImage};
pub use network::Weather;
pub use node::{Clock, Forgot, Node};
pub use plan::Plan;
pub use snapshot::{Snapshot, State};
pub(crate) use world::explore;
pub use world::{Statistics, World};
