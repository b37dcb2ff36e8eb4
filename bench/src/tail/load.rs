//! An open load: writes are due at a steady rate, whether or not those before are answered, and each
//! is timed from when it was due. So a stall is felt by everybody who came meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use quorate::{Raft, WriteError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::cluster::Machine;
use crate::failure::Failure;

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);

/// Longer than this nobody waits.
const LONGEST_US: u64 = 60_000_000;

/// What became of the writes of one stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    /// How long they took, in microseconds.
    pub(crate) latency_us: Histogram<u64>,
    /// How many were refused as too many.
    pub(crate) refused: u64,
}

impl Answers {
    fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("sound bounds");
        Self { latency_us, refused: 0 }
    }

    #[cfg(test)]
    pub(super) fn of(micros: &[u64]) -> Self {
        let mut answers = Self::new();
        for micros in micros {
            answers.latency_us.saturating_record(*micros);
        }
        answers
    }

    /// In microseconds.
    pub(crate) fn percentile(&self, percentile: f64) -> u64 {
        self.latency_us.value_at_quantile(percentile / 100.0)
    }
}

/// Writes of `value` at `rate` per second, for `length`. Returns when each is answered.
pub(crate) async fn steady(
    node: &Raft<Machine>,
    value: &Bytes,
    rate: u64,
    length: Duration,
) -> Result<Answers, Failure> {
    let answers = Arc::new(Mutex::new(Answers::new()));
    let began = Instant::now();
    let all = (rate as f64 * length.as_secs_f64()) as u64;
    let due_at = |n: u64| began + Duration::from_secs_f64(n as f64 / rate as f64);
    let mut writes = JoinSet::new();
    let mut next = 0;
    while next < all {
        let now = Instant::now();
        while next < all && due_at(next) <= now {
            let (node, value, due) = (node.clone(), value.clone(), due_at(next));
            let answers = answers.clone();
            writes.spawn(async move {
                let outcome = node.write(value).await;
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Ok(()) => {
                        let micros = due.elapsed().as_micros() as u64;
                        answers.latency_us.saturating_record(micros.max(1));
                        Ok(())
                    }
                    Err(WriteError::Overloaded) => {
                        answers.refused += 1;
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            });
            next += 1;
        }
        while let Some(write) = writes.try_join_next() {
            told(write)?;
        }
        sleep_until(now + TICK).await;
    }
    while let Some(write) = writes.join_next().await {
        told(write)?;
    }
    let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(answers.clone())
}

fn told(write: Result<Result<(), WriteError>, tokio::task::JoinError>) -> Result<(), Failure> {
    let failed = |what: String| Failure::new(what, "report this as a bug");
    match write {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(format!("a write failed: {error}"))),
        Err(panic) => Err(failed(format!("a writer failed: {panic}"))),
    }
}

/// Writes per second of so many writers that each wait for their answer.
pub(crate) async fn peak(
    node: &Raft<Machine>,
    value: &Bytes,
    writers: usize,
    length: Duration,
) -> Result<u64, Failure> {
    let end = Instant::now() + length;
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (node, value) = (node.clone(), value.clone());
        tasks.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                node.write(value.clone()).await?;
                count += 1;
            }
            Ok::<u64, WriteError>(count)
        });
    }
    let mut count = 0;
    while let Some(task) = tasks.join_next().await {
        let ended = task.map_err(|e| Failure::new(e, "report this as a bug"))?;
        count += ended.map_err(|e| Failure::new(format!("a write failed: {e}"), "run it again"))?;
    }
    Ok((count as f64 / length.as_secs_f64()) as u64)
}
