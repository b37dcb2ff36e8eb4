//! One seed from beginning to end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::engines::plan::Plan;
use crate::engines::reduction::Reduction;
use crate::engines::sabotage::Sabotage;
use crate::engines::world::{Failure, Statistics, World};
use crate::trace::TraceMode;

/// How a seed is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is left out of its plan.
    pub reduction: Reduction,
    /// What is kept of its trace.
    pub trace: TraceMode,
    /// A planted bug.
    pub sabotage: Option<Sabotage>,
}

impl Default for Options {
    fn default() -> Self {
        Self { reduction: Reduction::default(), trace: TraceMode::Off, sabotage: None }
    }
}

/// What a run came to that broke no promise.
#[derive(Clone, Debug)]
pub struct Report {
    /// How much happened.
    pub statistics: Statistics,
    /// Hash of the trace, if there was one: equal hashes mean equal runs.
    pub hash: u64,
    /// The lines of the trace that were kept.
    pub trace: Vec<String>,
}

/// Runs the world of `seed` through its faults and its recovery. A panic of an engine is a broken
/// promise like any other; the panic hook is the caller's business.
///
/// # Errors
/// The first broken promise.
pub fn explore(seed: u64, options: &Options) -> Result<Report, Failure> {
    let mut plan = Plan::from_seed(seed);
    options.reduction.apply(&mut plan);
    let mut world = World::with(seed, plan, options.trace, options.sabotage);
    match world.run_to_the_end() {
        Ok(()) => Ok(Report {
            statistics: world.statistics(),
            hash: world.trace().hash(),
            trace: world.trace().lines().map(str::to_owned).collect(),
        }),
        Err(failure) => Err(Failure { reduction: Box::new(options.reduction.clone()), ..failure }),
    }
}

impl World {
    /// [`World::run`], then [`World::settle`], with a panic turned into a failure.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn run_to_the_end(&mut self) -> Result<(), Failure> {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            self.run()?;
            self.settle()
        }));
        ended.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(self.failure("no engine panics", text.unwrap_or_default()))
        })
    }
}
