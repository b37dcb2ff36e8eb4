//! One seed: with its trace, twice, or made small.

use indicatif::{ProgressBar, ProgressStyle};
use quorate_sim::{Counts, Difference, Failure, Options, Report, TraceMode};
use serde::Serialize;

use crate::options::Run;
use crate::report::{self, Broken};
use crate::{Ended, simulate, stop};

/// The promise of the simulator itself.
pub(crate) const SAME: &str = "the same seed is the same run";

/// Lines of the trace that a failure brings with it.
pub(crate) const LAST_LINES: usize = 60;

/// One seed, as JSON.
#[derive(Serialize)]
struct Replayed {
    seed: u64,
    hash: Option<String>,
    failure: Option<Broken>,
    counts: Option<Whole>,
}

/// How much happened.
#[derive(Serialize)]
#[serde(transparent)]
struct Whole(#[serde(serialize_with = "report::counts")] Counts);

/// Runs one seed.
pub(crate) fn replay(seed: u64, run: &Run) -> Ended {
    if run.twice {
        return twice(seed, run);
    }
    // While it is made small, and for JSON, the trace would be in the way.
    let quiet = run.json || run.minimize;
    let mode = if quiet { TraceMode::Tail(LAST_LINES) } else { TraceMode::Print };
    let options = run.options(mode);
    match simulate::explore(seed, &options) {
        Ok(Report { counts, hash, .. }) => {
            if run.json {
                let (hash, counts) = (Some(format!("{hash:016x}")), Some(Whole(counts)));
                report::json(&Replayed { seed, hash, failure: None, counts });
            } else {
                report::line(format_args!("seed {seed} keeps every promise: {counts}"));
            }
            Ended::Well
        }
        Err(failure) => {
            let (failure, options) =
                if run.minimize { minimized(&failure, &options) } else { (failure, options) };
            if run.json {
                let broken = Some(Broken::new(&failure, &options));
                report::json(&Replayed { seed, hash: None, failure: broken, counts: None });
            } else {
                report::failure(&failure);
            }
            report::svg(&failure, run.svg.as_deref()).unwrap_or(Ended::Broken)
        }
    }
}

/// The failure made small, with its last steps, and how it was found.
pub(crate) fn minimized(failure: &Failure, options: &Options) -> (Failure, Options) {
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {pos} tries, {msg}").expect("a valid template"),
    );
    let quick = Options { trace: TraceMode::Off, ..options.clone() };
    let (small, options) = simulate::minimize(failure, &quick, &mut |left| {
        bar.inc(1);
        let faults = left.faults.as_ref().map_or("all".into(), |f| f.len().to_string());
        bar.set_message(format!("{faults} faults left"));
        !stop::is_asked_for()
    });
    bar.finish_and_clear();
    (with_last_steps(small, &options), options)
}

/// The same failure once more, with what led to it.
pub(crate) fn with_last_steps(failure: Failure, options: &Options) -> Failure {
    let options = Options { trace: TraceMode::Tail(LAST_LINES), ..options.clone() };
    let then = match simulate::explore(failure.seed, &options) {
        Err(again) if again.to_string() == failure.to_string() => return again,
        Err(again) => format!("\"{}: {}\"", again.promise, again.what),
        Ok(_) => "nothing".into(),
    };
    let once = format!("once \"{}: {}\", then {then}", failure.promise, failure.what);
    Failure { promise: SAME.into(), what: once, ..failure }
}

/// Runs a seed twice. If the runs differ: the first line where they do.
fn twice(seed: u64, run: &Run) -> Ended {
    let options = run.options(TraceMode::Tail(usize::MAX));
    let once = || match simulate::explore(seed, &options) {
        Ok(report) => (report.trace, None),
        Err(mut failure) => (std::mem::take(&mut failure.steps.trace), Some(failure)),
    };
    let ((first, failure), (second, _)) = (once(), once());
    let difference = Difference::between(&first, &second);
    let lines = first.len();
    if run.json {
        let line = difference.as_ref().map(|difference| difference.line);
        let failure = failure.as_ref().map(|failure| Broken::new(failure, &options));
        report::json(&serde_json::json!({
            "seed": seed, "lines": lines, "differs_at": line, "failure": failure
        }));
    } else {
        match &difference {
            Some(difference) => report::line(format_args!("seed {seed}: {difference}")),
            None => {
                report::line(format_args!("seed {seed}: two runs are the same, {lines} lines"));
            }
        }
        if let Some(failure) = &failure {
            report::failure(failure);
        }
    }
    let well = difference.is_none() && failure.is_none();
    if well { Ended::Well } else { Ended::Broken }
}
