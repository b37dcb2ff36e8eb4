//! A seed is run, or a failure made small, and a panic in there is a result.

use std::cell::Cell;

use quorate_sim::{Failure, Options, Reduction, Report};

thread_local! {
    /// Whether this thread is inside a simulation: a panic there is not an accident.
    pub(crate) static SIMULATING: Cell<bool> = const { Cell::new(false) };
}

/// [`quorate_sim::explore()`].
pub(crate) fn explore(seed: u64, options: &Options) -> Result<Report, Failure> {
    within(|| quorate_sim::explore(seed, options))
}

/// [`quorate_sim::minimize()`].
pub(crate) fn minimize(
    failure: &Failure,
    options: &Options,
    go_on: &mut dyn FnMut(&Reduction) -> bool,
) -> (Failure, Options) {
    within(|| quorate_sim::minimize(failure, options, go_on))
}

fn within<T>(run: impl FnOnce() -> T) -> T {
    SIMULATING.set(true);
    let value = run();
    SIMULATING.set(false);
    value
}
