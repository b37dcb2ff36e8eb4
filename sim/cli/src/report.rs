//! What is printed: for people, and as JSON.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use quorate_sim::engines::{Failure, Plan, Statistics};
use serde::Serialize;

use crate::Ended;

/// A broken promise.
#[derive(Serialize)]
pub(crate) struct Broken {
    seed: u64,
    after_ms: u64,
    promise: &'static str,
    what: String,
    /// The command that shows it again.
    replay: String,
    /// How many faults were scheduled, of how many in the seed's plan.
    faults: usize,
    faults_of_seed: usize,
}

impl From<&Failure> for Broken {
    fn from(failure: &Failure) -> Self {
        let of_seed = Plan::from_seed(failure.seed).faults.len();
        Self {
            seed: failure.seed,
            after_ms: failure.at / 1_000_000,
            promise: failure.promise,
            what: failure.what.clone(),
            replay: failure.replay(),
            faults: failure.reduction.faults.as_ref().map_or(of_seed, Vec::len),
            faults_of_seed: of_seed,
        }
    }
}

/// How much happened, under the names of [`Statistics`].
#[derive(Serialize)]
pub(crate) struct Counts {
    steps: u64,
    elections: u64,
    acknowledged: u64,
    overwritten: u64,
    reads: u64,
    faults: u64,
    crashes: u64,
    lost_writes: u64,
    forgetful: u64,
    refused: u64,
}

impl From<Statistics> for Counts {
    fn from(s: Statistics) -> Self {
        Self {
            steps: s.steps,
            elections: s.elections,
            acknowledged: s.acknowledged,
            overwritten: s.overwritten,
            reads: s.reads,
            faults: s.faults,
            crashes: s.crashes,
            lost_writes: s.lost_writes,
            forgetful: s.forgetful,
            refused: s.refused,
        }
    }
}

/// Prints a line. Who reads may have enough and close the pipe: the exit code still tells.
pub(crate) fn line(text: impl Display) {
    writeln!(std::io::stdout(), "{text}").ok();
}

/// Prints an object on a line of its own.
pub(crate) fn json(value: &impl Serialize) {
    line(serde_json::to_string(value).expect("numbers and strings are JSON"));
}

/// Says what a run came to.
pub(crate) fn text(s: &Statistics) -> String {
    format!(
        "{} steps, {} elections, {} writes acknowledged, {} overwritten, {} reads, {} faults, \
         {} crashes, {} disks that forgot",
        s.steps,
        s.elections,
        s.acknowledged,
        s.overwritten,
        s.reads,
        s.faults,
        s.crashes,
        s.forgetful
    )
}

/// Shows a failure: the last steps, what is broken, the command that shows it again.
pub(crate) fn failure(failure: &Failure) {
    line(failure.sequence.to_text() + &failure.to_string());
}

/// Writes the picture, if one was asked for.
pub(crate) fn svg(failure: &Failure, file: Option<&Path>) -> Option<Ended> {
    let file = file?;
    let written = std::fs::write(file, failure.sequence.to_svg());
    let told = |e| {
        format!("the picture can't be written to {}: {e}; choose another --svg", file.display())
    };
    written.err().map(|e| Ended::Unusable(told(e)))
}
