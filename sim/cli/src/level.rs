//! Where the levels of the simulator meet: what a seed is run on, and with what it answers.

use std::cell::Cell;

use quorate_sim::TraceMode;
use quorate_sim::engines::{self, Failure, Reduction, Report};

use crate::options::{Level, Run};

thread_local! {
    /// Whether this thread is inside a simulation: a panic there is a result, not an accident.
    pub(crate) static SIMULATING: Cell<bool> = const { Cell::new(false) };
}

/// Runs a seed from beginning to end.
pub(crate) fn explore(
    run: &Run,
    seed: u64,
    reduction: &Reduction,
    trace: TraceMode,
) -> Result<Report, Failure> {
    within(|| match run.level {
        Level::Engines => engines::explore(seed, &options(run, reduction, trace)),
    })
}

/// Makes a failure small; `go_on` is told of each try and may end the search.
pub(crate) fn minimize(
    run: &Run,
    failure: &Failure,
    go_on: &mut dyn FnMut(&Failure) -> bool,
) -> Failure {
    within(|| match run.level {
        Level::Engines => {
            let options = options(run, &failure.reduction, TraceMode::Off);
            engines::minimize(failure, &options, go_on)
        }
    })
}

fn options(run: &Run, reduction: &Reduction, trace: TraceMode) -> engines::Options {
    engines::Options { reduction: reduction.clone(), trace, sabotage: run.plant }
}

fn within<T>(run: impl FnOnce() -> T) -> T {
    SIMULATING.set(true);
    let value = run();
    SIMULATING.set(false);
    value
}
