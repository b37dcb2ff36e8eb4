//! Level 1: engines in a world of their own, with nothing of the node around them.
//!
//! A [`World`] owns the engines of a cluster, the network between them, their disks and their
//! clocks, and moves from event to event in one order that its seed determines. It loses, repeats,
//! delays and reorders messages; cuts links in one direction or both; crashes nodes so that they
//! lose what they had not synced, a random end of it; makes disks slow or hang; stops processes and
//! lets them go on; and gives every node a clock of its own rate. Clients write and read all along.
//!
//! Meanwhile the checkers of [`check`], one per promise of Raft, look at every step. When the faults
//! have stopped, the cluster has to come back to work within a bound: [`World::settle`].
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
//! What it does not do: damage on disks (a torn or flipped byte is the log's own test), membership
//! changes and snapshots (the engine has none yet).

pub mod check;
mod clients;
mod disk;
mod image;
mod nemesis;
mod network;
mod node;
mod plan;
mod sabotage;
mod world;

pub use disk::Disk;
pub use image::{Image, LogImage};
pub use network::{Network, Weather};
pub use node::{Clock, Node};
pub use plan::{FaultSet, Plan};
pub use sabotage::Sabotage;
pub use world::{Event, Failure, Statistics, World};
