//! Many seeds on all cores.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use quorate_sim::{Counts, Failure, Options, TraceMode};
use serde::Serialize;

use crate::options::Run;
use crate::report::{self, Broken};
use crate::{Ended, replay, simulate, stop};

/// Many seeds, as JSON.
#[derive(Serialize)]
struct Swept {
    from: u64,
    to: u64,
    ran: u64,
    seconds: f64,
    #[serde(serialize_with = "report::counts")]
    counts: Counts,
    failure: Option<Broken>,
}

/// Runs seeds until one fails, all have run, the time is over or the user has enough.
pub(crate) fn sweep(run: &Run) -> Ended {
    let seeds = match (&run.seeds, run.random) {
        (Some(seeds), _) => seeds.clone(),
        (None, count) => {
            // Small enough to be typed again.
            let base = RandomState::new().hash_one(std::process::id()) % 1_000_000_000_000;
            base..base + count.unwrap_or(1).max(1)
        }
    };
    let Range { start: from, end: to } = seeds;
    if !run.json {
        report::line(format_args!("seeds {from}..{to}"));
    }
    let bar = ProgressBar::new(to - from);
    bar.set_style(
        ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds, {elapsed}, {eta} left")
            .expect("a valid template"),
    );
    let began = Instant::now();
    let mode = if run.twice { TraceMode::Hash } else { TraceMode::Off };
    let swept = Sweep {
        options: run.options(mode),
        twice: run.twice,
        next: AtomicU64::new(from),
        to,
        end: run.time.map(|time| began + time),
        results: Mutex::default(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..run.jobs.unwrap_or(cores).max(1) {
            scope.spawn(|| swept.work(&bar));
        }
    });
    bar.finish_and_clear();
    let Results { ran, counts, failure } =
        swept.results.into_inner().expect("no worker panics with it");
    // Every smaller seed was begun before and has ended: the first failure is always the same one.
    let failure = failure.map(|failure| {
        if failure.promise == replay::SAME {
            (failure, swept.options)
        } else if run.minimize {
            replay::minimized(&failure, &swept.options)
        } else {
            (replay::with_last_steps(failure, &swept.options), swept.options)
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    if run.json {
        let failure = failure.as_ref().map(|(failure, options)| Broken::new(failure, options));
        report::json(&Swept { from, to, ran, seconds, counts, failure });
    } else {
        let kept = if failure.is_some() { "ran until one failed" } else { "keep every promise" };
        let of = if failure.is_none() && ran < to - from {
            format!(" of {}", to - from)
        } else {
            String::new()
        };
        if let Some((failure, _)) = &failure {
            report::failure(failure);
        }
        report::line(format_args!("{ran}{of} seeds from {from} {kept}, {seconds:.1} s: {counts}"));
    }
    match failure {
        Some((failure, _)) => report::svg(&failure, run.svg.as_deref()).unwrap_or(Ended::Broken),
        None => Ended::Well,
    }
}

/// What the workers share.
struct Sweep {
    options: Options,
    twice: bool,
    next: AtomicU64,
    to: u64,
    end: Option<Instant>,
    results: Mutex<Results>,
}

#[derive(Default)]
struct Results {
    ran: u64,
    counts: Counts,
    /// The failure of the smallest seed.
    failure: Option<Failure>,
}

impl Sweep {
    fn work(&self, bar: &ProgressBar) {
        loop {
            let over = self.end.is_some_and(|end| Instant::now() >= end);
            let results = self.results.lock().expect("no worker panics with it");
            let enough = over || results.failure.is_some() || stop::is_asked_for();
            drop(results);
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if enough || seed >= self.to {
                return;
            }
            let ended = self.one(seed);
            bar.inc(1);
            let mut results = self.results.lock().expect("no worker panics with it");
            results.ran += 1;
            match ended {
                Ok(counts) => results.counts.add(&counts),
                Err(failure) => {
                    if results.failure.as_ref().is_none_or(|first| failure.seed < first.seed) {
                        results.failure = Some(failure);
                    }
                }
            }
        }
    }

    fn one(&self, seed: u64) -> Result<Counts, Failure> {
        let report = simulate::explore(seed, &self.options)?;
        if self.twice && simulate::explore(seed, &self.options)?.hash != report.hash {
            return Err(Failure {
                seed,
                at: Duration::ZERO,
                promise: replay::SAME.into(),
                what: "a second run had another trace".into(),
                replay: self.options.command(seed) + " --twice",
                steps: Box::default(),
            });
        }
        Ok(report.counts)
    }
}
