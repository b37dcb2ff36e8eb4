//! A broken promise, wherever it was seen.

use std::fmt;
use std::time::Duration;

use crate::sequence::Sequence;

/// A broken promise, or a test that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// The world's time since its beginning.
    pub at: Duration,
    /// Which promise.
    pub promise: String,
    /// How it is broken.
    pub what: String,
    /// The command that shows it again; empty if only the test that ran it knows.
    pub replay: String,
    /// What led to it.
    pub steps: Box<Steps>,
}

/// The end of a run, as far as it was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// The last lines of the trace.
    pub trace: Vec<String>,
    /// The last messages and events.
    pub sequence: Sequence,
}

impl Failure {
    /// The last lines of the trace, the picture of the last steps, and what is broken.
    pub fn in_full(&self) -> String {
        let Steps { trace, sequence } = &*self.steps;
        format!("{}\n{}{self}", trace.join("\n"), sequence.to_text())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, at, promise, what, replay, .. } = self;
        write!(f, "seed {seed}, after {} ms: {promise}: {what}", at.as_millis())?;
        if replay.is_empty() { Ok(()) } else { write!(f, "\nreplay: {replay}") }
    }
}

impl std::error::Error for Failure {}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
