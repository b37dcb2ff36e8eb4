//! A seed is run, or a failure made small, and a panic in there is a result.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use quorate_sim::{Failure, Options, Reduction, Report};

thread_local! {
    /// Whether this thread is inside a simulation: a panic there is not an accident.
    pub(crate) static SIMULATING: Cell<bool> = const { Cell::new(false) };
}

/// Seeds that run now.
static IN_PROGRESS: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Seeds that run now: one that never ends is among them.
pub(crate) fn in_progress() -> Vec<u64> {
    IN_PROGRESS.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
}

/// [`quorate_sim::explore()`].
pub(crate) fn explore(seed: u64, options: &Options) -> Result<Report, Failure> {
    within(seed, || quorate_sim::explore(seed, options))
}

/// [`quorate_sim::minimize()`].
pub(crate) fn minimize(
    failure: &Failure,
    options: &Options,
    go_on: &mut dyn FnMut(&Reduction) -> bool,
) -> (Failure, Options) {
    within(failure.seed, || quorate_sim::minimize(failure, options, go_on))
}

fn within<T>(seed: u64, run: impl FnOnce() -> T) -> T {
    let seeds = || IN_PROGRESS.lock().unwrap_or_else(PoisonError::into_inner);
    seeds().insert(seed);
    SIMULATING.set(true);
    let value = run();
    SIMULATING.set(false);
    seeds().remove(&seed);
    value
}
