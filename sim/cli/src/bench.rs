//! How fast: steps of engines per second on one core, with all checkers on.

use std::time::{Duration, Instant};

use quorate_sim::TraceMode;
use serde::Serialize;

use crate::options::Run;
use crate::{Ended, report, simulate, stop};

/// Each round runs the seeds from 0 up to this.
const SEEDS: u64 = 100;

/// The measurement, as JSON.
#[derive(Serialize)]
struct Measured {
    level: &'static str,
    rounds: usize,
    steps_s: u64,
    best_steps_s: u64,
}

/// Runs the same seeds again and again for ten seconds (`--for`) and prints the median round.
pub(crate) fn bench(run: &Run) -> Ended {
    let end = Instant::now() + run.time.unwrap_or(Duration::from_secs(10));
    let mut rounds = Vec::new();
    while rounds.is_empty() || (Instant::now() < end && !stop::is_asked_for()) {
        let (began, mut steps) = (Instant::now(), 0);
        for seed in 0..SEEDS {
            match simulate::explore(seed, &run.options(TraceMode::Off)) {
                Ok(report) => steps += report.counts["steps"],
                Err(failure) => {
                    report::failure(&failure);
                    return Ended::Broken;
                }
            }
        }
        rounds.push((steps as f64 / began.elapsed().as_secs_f64()) as u64);
    }
    rounds.sort_unstable();
    let (median, best) = (rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
    if run.json {
        let level = "engines";
        let rounds = rounds.len();
        report::json(&Measured { level, rounds, steps_s: median, best_steps_s: best });
    } else {
        report::line(format_args!(
            "{median} steps a second on one core (median of {} rounds of {SEEDS} seeds, best {best})",
            rounds.len()
        ));
    }
    Ended::Well
}
