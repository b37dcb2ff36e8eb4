//! One seed: with its trace, twice, or made small.

use indicatif::{ProgressBar, ProgressStyle};
use quorate_sim::TraceMode;
use quorate_sim::engines::{Failure, Report};
use serde::Serialize;

use crate::options::Run;
use crate::report::{self, Broken, Counts};
use crate::{Ended, level, stop};

/// Lines of the trace that a failure brings with it.
pub(crate) const LAST_LINES: usize = 60;

/// One seed, as JSON.
#[derive(Serialize)]
struct Replayed {
    seed: u64,
    hash: Option<String>,
    failure: Option<Broken>,
    counts: Option<Counts>,
}

/// Runs one seed.
pub(crate) fn replay(seed: u64, run: &Run) -> Ended {
    let reduction = run.reduction();
    if run.twice {
        return twice(seed, run);
    }
    // While it is made small, and for JSON, the trace would be in the way.
    let quiet = run.json || run.minimize;
    let mode = if quiet { TraceMode::Tail(LAST_LINES) } else { TraceMode::Print };
    match level::explore(run, seed, &reduction, mode) {
        Ok(Report { statistics, hash, .. }) => {
            if run.json {
                let counts = Some(statistics.into());
                report::json(&Replayed { seed, hash: hex(hash), failure: None, counts });
            } else {
                report::line(format_args!(
                    "seed {seed} keeps every promise: {}",
                    report::text(&statistics)
                ));
            }
            Ended::Well
        }
        Err(failure) => {
            let failure = if run.minimize { minimized(failure, run) } else { failure };
            if run.json {
                let broken = Some(Broken::from(&failure));
                report::json(&Replayed { seed, hash: None, failure: broken, counts: None });
            } else {
                report::failure(&failure);
            }
            report::svg(&failure, run.svg.as_deref()).unwrap_or(Ended::Broken)
        }
    }
}

fn hex(hash: u64) -> Option<String> {
    Some(format!("{hash:016x}"))
}

/// The failure made small, with its last steps.
pub(crate) fn minimized(failure: Failure, run: &Run) -> Failure {
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {pos} tries, {msg}").expect("a valid template"),
    );
    let small = level::minimize(run, &failure, &mut |best| {
        bar.inc(1);
        let faults = best.reduction.faults.as_ref().map_or("all".into(), |f| f.len().to_string());
        bar.set_message(format!("{faults} faults left"));
        !stop::is_asked_for()
    });
    bar.finish_and_clear();
    with_last_steps(small, run)
}

/// The same failure once more, with what led to it.
pub(crate) fn with_last_steps(failure: Failure, run: &Run) -> Failure {
    let mode = TraceMode::Tail(LAST_LINES);
    match level::explore(run, failure.seed, &failure.reduction, mode) {
        Err(again) => again,
        Ok(_) => Failure {
            promise: "the same seed is the same run",
            what: format!("once \"{}: {}\", then nothing", failure.promise, failure.what),
            ..failure
        },
    }
}

/// Runs a seed twice. If the runs differ: the first line where they do.
fn twice(seed: u64, run: &Run) -> Ended {
    let reduction = run.reduction();
    let trace = || match level::explore(run, seed, &reduction, TraceMode::Tail(usize::MAX)) {
        Ok(report) => report.trace,
        Err(failure) => failure.trace,
    };
    let (first, second) = (trace(), trace());
    let same = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
    let differs = same < first.len() || same < second.len();
    if run.json {
        let line = differs.then_some(same + 1);
        report::json(
            &serde_json::json!({ "seed": seed, "lines": first.len(), "differs_at": line }),
        );
    } else if differs {
        let line =
            |lines: &[String]| lines.get(same).map_or("(the end)", String::as_str).to_owned();
        report::line(format_args!("seed {seed}: two runs differ at line {}:", same + 1));
        report::line(format_args!("first:  {}\nsecond: {}", line(&first), line(&second)));
    } else {
        report::line(format_args!("seed {seed}: two runs are the same, {same} lines"));
    }
    if differs { Ended::Broken } else { Ended::Well }
}
