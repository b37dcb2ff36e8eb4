//! Writes over HTTP: as fast as they go, to fill a store, and at a steady rate, to see what else
//! happens to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kv::client::{CallError, Client, Server};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::failure::Failure;

/// How long one write may take, over all attempts.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes of a steady write: small, so that the steady load is one of writes, not of bytes.
const STEADY_BYTES: usize = 1 << 10;

/// Keys of the steady writes, written again and again: the store does not grow by them.
const STEADY_KEYS: u64 = 1000;

/// Values of `bytes` bytes, all different, out of one piece of memory.
#[derive(Clone)]
pub(super) struct Values {
    noise: Bytes,
    bytes: usize,
}

impl Values {
    pub(super) fn new(bytes: usize) -> Self {
        // xorshift: nothing that could be compressed or found twice.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = Vec::with_capacity(2 * bytes + 8);
        while noise.len() < 2 * bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend_from_slice(&state.to_le_bytes());
        }
        Self { noise: noise.into(), bytes }
    }

    /// The key and the value of the place `n`.
    pub(super) fn pair(&self, n: u64) -> (String, Bytes) {
        let start = (n % self.bytes as u64) as usize;
        (format!("value-{n:09}"), self.noise.slice(start..start + self.bytes))
    }

    /// Those of the steady writes.
    pub(super) fn of_steady_writes() -> Self {
        Self::new(STEADY_BYTES)
    }

    /// The key and the value of the steady write `n`.
    pub(super) fn steady(&self, n: u64) -> (String, Bytes) {
        (format!("steady-{}", n % STEADY_KEYS), self.pair(n).1)
    }
}

/// Writes the values of the places below `count`, `clients` at a time. `wrote` is called after each.
pub(super) async fn fill(
    client: &Client,
    server: &Server,
    values: &Values,
    count: u64,
    clients: u32,
    wrote: impl Fn(),
) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    let (done, mut each) = tokio::sync::mpsc::channel(clients as usize);
    for _ in 0..clients {
        let (client, server, values) = (client.clone(), server.clone(), values.clone());
        let (next, done) = (Arc::clone(&next), done.clone());
        writers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok(());
                }
                let (key, value) = values.pair(n);
                put(&client, &server, &key, value).await?;
                if done.send(()).await.is_err() {
                    return Ok(());
                }
            }
        });
    }
    drop(done);
    while each.recv().await.is_some() {
        wrote();
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer does not panic")?;
    }
    Ok(())
}

/// Writes until it is done. The same twice does no harm, so an unknown outcome is tried again.
async fn put(client: &Client, server: &Server, key: &str, value: Bytes) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match client.put(server, key, value.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.may_pass() && begun.elapsed() < PATIENCE => sleep(PAUSE).await,
            Err(error) => return Err(unwritten(&error)),
        }
    }
}

fn unwritten(error: &CallError) -> Failure {
    Failure::new(
        format!("a write failed: {error}"),
        "is there room on the disk, and is the machine not overloaded?",
    )
}

/// A steady load. Dropping it ends it.
pub(super) struct Steady {
    written: Arc<Mutex<Vec<Written>>>,
    writers: JoinSet<Result<(), Failure>>,
}

/// A write that was due at a time, and how long after that it was acknowledged.
#[derive(Clone, Copy)]
struct Written {
    due: Instant,
    took: Duration,
}

/// What became of the writes that were due in a span of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    /// Acknowledged, per second.
    pub(super) writes_s: f64,
    /// The slowest but one in a hundred, counted from when it was due: a write that had to wait for
    /// a free client has waited too.
    pub(super) p99: Duration,
    /// The slowest.
    pub(super) max: Duration,
}

impl Steady {
    /// `rate` writes a second by `clients` clients, each of which takes the next that is due.
    pub(super) fn start(client: &Client, server: &Server, rate: u32, clients: u32) -> Self {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (begun, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let values = Values::of_steady_writes();
        let mut writers = JoinSet::new();
        for _ in 0..clients {
            let (client, server, values) = (client.clone(), server.clone(), values.clone());
            let (next, written) = (Arc::clone(&next), Arc::clone(&written));
            writers.spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let due = begun + Duration::from_secs_f64(n as f64 / f64::from(rate));
                    sleep_until(due).await;
                    let (key, value) = values.steady(n);
                    put(&client, &server, &key, value).await?;
                    let one = Written { due, took: due.elapsed() };
                    written.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                }
            });
        }
        Self { written, writers }
    }

    /// Completes when a write has failed for good.
    pub(super) async fn failed(&mut self) -> Failure {
        match self.writers.join_next().await {
            Some(Ok(Err(failure))) => failure,
            ended => Failure::new(format!("a writer ended: {ended:?}"), "report this as a bug"),
        }
    }

    /// Of the writes due from `from` on, before `to`.
    pub(super) fn pace(&self, from: Instant, to: Instant) -> Pace {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let due = written.iter().filter(|one| from <= one.due && one.due < to);
        pace(due.map(|one| one.took).collect(), to - from)
    }
}

fn pace(mut took: Vec<Duration>, span: Duration) -> Pace {
    took.sort_unstable();
    let slowest = |last: usize| took.len().checked_sub(last + 1).map(|at| took[at]);
    Pace {
        writes_s: took.len() as f64 / span.as_secs_f64(),
        p99: slowest(took.len() / 100).unwrap_or(span),
        max: slowest(0).unwrap_or(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_two_places_differ_and_have_the_size_asked_for() {
        let values = Values::new(100);
        let (key, value) = values.pair(7);
        assert_eq!((key.as_str(), value.len()), ("value-000000007", 100));
        assert_ne!(values.pair(8).1, value);
        assert_eq!(values.pair(107).1, value, "they come again when memory is used up");
    }

    #[test]
    fn one_slow_write_in_a_hundred_is_not_the_99th_percentile() {
        let millis = |n| Duration::from_millis(n);
        let mut took: Vec<_> = (1..=99).map(millis).collect();
        took.push(millis(5_000));
        let seen = pace(took.clone(), Duration::from_secs(10));
        assert_eq!((seen.writes_s, seen.p99, seen.max), (10.0, millis(99), millis(5_000)));
        took[0] = millis(4_000);
        assert_eq!(pace(took, Duration::from_secs(10)).p99, millis(4_000));
        assert_eq!(pace(Vec::new(), millis(50)).p99, millis(50), "nothing came in all the time");
    }
}
