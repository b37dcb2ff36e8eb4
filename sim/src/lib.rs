//! Quorate's simulator: whole clusters in one thread, without a clock, under seeded faults.
//!
//! [`engines`] is the first level: the protocol alone among simulated networks, disks and clocks,
//! quick enough to see millions of elections.
//!
//! [`cluster`] is the second: the real node with its tasks, its log and its frames, and a state
//! machine of your own.
//!
//! What clients see of a service, simulated or not, can be recorded and judged with [`history`]:
//! whether every answer was linearizable.
//!
//! [`explore()`] runs the world of a seed on either level, and [`minimize()`] makes a failure small.
//!
//! The same seed gives the same run to the bit. A failure is reported with the seed; running that
//! seed again shows the same failure with a readable trace.

pub mod cluster;
pub mod engines;
mod explore;
mod failure;
mod fault;
pub mod history;
mod minimize;
mod reduction;
mod rng;
mod sabotage;
pub mod sequence;
mod trace;

pub use explore::{Counts, Level, Options, Report, explore};
pub use failure::{Failure, Steps};
pub use fault::{Fault, Kind, Links, Planned, Rates};
pub use minimize::minimize;
pub use reduction::{Outline, Reduction, Trouble};
pub use rng::Rng;
pub use sabotage::Sabotage;
pub use trace::{Difference, Trace, TraceMode};

/// The guide's test is a test.
#[cfg(doctest)]
#[doc = include_str!("../../docs/testing-your-application.md")]
struct TestingYourApplication;
