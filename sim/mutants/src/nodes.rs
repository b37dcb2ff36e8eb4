//! Bugs of the node around its engine, in worlds of real nodes: see `quorate_sim::cluster`.

use quorate_sim::TraceMode;
use quorate_sim::cluster::{Plan, explore};

use crate::Caught;

/// One world from its beginning to its recovery.
pub(crate) fn run(seed: u64) -> Result<(), Caught> {
    let (ended, _) = explore(seed, &Plan::from_seed(seed), TraceMode::Off);
    ended.map(drop).map_err(|failure| Caught { by: failure.promise, what: failure.what })
}
