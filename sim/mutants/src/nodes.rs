//! Bugs of the node around its engine, in worlds of real nodes: see `quorate_sim::cluster`.

use quorate_sim::{Level, Options, explore};

use crate::Caught;

/// One world from its beginning to its recovery.
pub(crate) fn run(seed: u64) -> Result<(), Caught> {
    let ended = explore(seed, &Options::of(Level::Nodes));
    ended.map(drop).map_err(|failure| Caught { by: failure.promise, what: failure.what })
}
