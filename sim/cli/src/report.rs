//! What is printed: for people, and as JSON.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use quorate_sim::{Counts, Failure, Options};
use serde::{Serialize, Serializer};

use crate::Ended;

/// A broken promise.
#[derive(Serialize)]
pub(crate) struct Broken {
    seed: u64,
    after_ms: u64,
    promise: String,
    what: String,
    /// The command that shows it again.
    replay: String,
    /// How many faults were scheduled, of how many in the seed's plan.
    faults: usize,
    faults_of_seed: usize,
}

impl Broken {
    /// A failure that was found under `options`.
    pub(crate) fn new(failure: &Failure, options: &Options) -> Self {
        let of_seed = options.outline(failure.seed).faults;
        Self {
            seed: failure.seed,
            after_ms: failure.at.as_millis() as u64,
            promise: failure.promise.clone(),
            what: failure.what.clone(),
            replay: failure.replay.clone(),
            faults: options.reduction.faults.as_ref().map_or(of_seed, Vec::len),
            faults_of_seed: of_seed,
        }
    }
}

/// Counts, as one object.
pub(crate) fn counts<S: Serializer>(counts: &Counts, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(counts.iter())
}

/// Prints a line. Who reads may have enough and close the pipe: the exit code still tells.
pub(crate) fn line(text: impl Display) {
    writeln!(std::io::stdout(), "{text}").ok();
}

/// Prints an object on a line of its own.
pub(crate) fn json(value: &impl Serialize) {
    line(serde_json::to_string(value).expect("numbers and strings are JSON"));
}

/// Shows a failure: the last steps, what is broken, the command that shows it again.
pub(crate) fn failure(failure: &Failure) {
    line(failure.steps.sequence.to_text() + &failure.to_string());
}

/// Writes the picture, if one was asked for.
pub(crate) fn svg(failure: &Failure, file: Option<&Path>) -> Option<Ended> {
    let file = file?;
    let written = std::fs::write(file, failure.steps.sequence.to_svg());
    let told = |e| {
        format!("the picture can't be written to {}: {e}; choose another --svg", file.display())
    };
    written.err().map(|e| Ended::Unusable(told(e)))
}
