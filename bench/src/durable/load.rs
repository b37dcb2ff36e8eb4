//! The load: so many clients in one process, each of which writes when its last write was answered.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::server::KEY_BYTES;
use crate::failure::Failure;
use crate::measure::Measured;

/// Time to reach a steady state before anything is counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// Longer than any answer takes, unless it is lost.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// Keys that are written, over and over.
const KEYS: u64 = 10_000;

/// The keys of a client are so far apart that those of two are seldom the same. No factor of [`KEYS`].
const STRIDE: u64 = 7_919;

/// Before, while and after what is counted. In an `AtomicU8` that all clients read.
mod phase {
    pub(super) const WARM_UP: u8 = 0;
    pub(super) const MEASURE: u8 = 1;
    pub(super) const STOP: u8 = 2;
}

/// Three processes that keep what they are told.
pub(super) trait Service: Sized {
    /// What one client holds.
    type Writer: Writer;

    /// Starts a fresh cluster with its data in `directory`, and returns when it takes writes.
    fn start(directory: &Path) -> impl Future<Output = Result<Self, Failure>>;

    /// What the client of this number writes with, to the leader.
    fn writer(&self, number: usize) -> Self::Writer;

    /// Lets all its processes end, which dropping it waits for.
    fn end(&mut self);
}

/// One client of a [`Service`].
pub(super) trait Writer: Send + 'static {
    /// Returns when the value is durable on a majority.
    fn put(&mut self, key: &Key, value: &Bytes)
    -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A key, as bytes that can be read.
pub(super) struct Key([u8; KEY_BYTES]);

impl Key {
    /// One of [`KEYS`].
    pub(super) fn of(number: u64) -> Self {
        let mut key = *b"key-000000000000";
        let mut rest = number % KEYS;
        for digit in key[4..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Self(key)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Starts a fresh `S` in `directory`, loads it, measures, ends it.
pub(super) async fn measure<S: Service>(
    directory: &Path,
    clients: u32,
    value: &Bytes,
    length: Duration,
) -> Result<Measured, Failure> {
    let mut service = S::start(directory).await?;
    let phase = Arc::new(AtomicU8::new(phase::WARM_UP));
    let mut tasks = JoinSet::new();
    for number in 0..clients as usize {
        let writer = service.writer(number);
        tasks.spawn(client(writer, number as u64, value.clone(), Arc::clone(&phase)));
    }
    undisturbed(&mut tasks, WARM_UP).await?;
    phase.store(phase::MEASURE, Ordering::Relaxed);
    let began = Instant::now();
    undisturbed(&mut tasks, length).await?;
    phase.store(phase::STOP, Ordering::Relaxed);
    let elapsed = began.elapsed();
    let took = timeout(LAST_ANSWERS, sum(&mut tasks)).await;
    let took = took.map_err(|_| Failure::new("a write was never answered", "run it again"))??;
    service.end();
    Ok(Measured {
        ops_s: took.len() as f64 / elapsed.as_secs_f64(),
        p50_us: middle(took).unwrap_or(elapsed).as_secs_f64() * 1e6,
    })
}

/// The median; of nothing, none.
pub(super) fn middle(mut took: Vec<Duration>) -> Option<Duration> {
    let middle = took.len() / 2;
    (!took.is_empty()).then(|| *took.select_nth_unstable(middle).1)
}

/// Waits for `length`, unless a client ends before: they have no reason to but a failure.
async fn undisturbed(tasks: &mut JoinSet<Took>, length: Duration) -> Result<(), Failure> {
    tokio::select! { biased;
        Some(ended) = tasks.join_next() => {
            tally(ended)?;
            Err(Failure::new("a client ended early", "report this as a bug"))
        }
        () = sleep(length) => Ok(()),
    }
}

/// How long each write of a client took that was answered while it was measured.
type Took = Result<Vec<Duration>, Failure>;

fn tally(ended: Result<Took, JoinError>) -> Took {
    ended.map_err(|e| Failure::new(format!("a client failed: {e}"), "report this as a bug"))?
}

async fn sum(tasks: &mut JoinSet<Took>) -> Took {
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.append(&mut tally(ended)?);
    }
    Ok(all)
}

async fn client<W: Writer>(mut writer: W, number: u64, value: Bytes, phase: Arc<AtomicU8>) -> Took {
    let mut took = Vec::new();
    let mut key = number * STRIDE;
    let mut began = Instant::now();
    loop {
        writer.put(&Key::of(key), &value).await?;
        key += STRIDE;
        let ended = Instant::now();
        match phase.load(Ordering::Relaxed) {
            phase::WARM_UP => {}
            phase::MEASURE => took.push(ended - began),
            _ => return Ok(took),
        }
        began = ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_numbers_of_one_length() {
        assert_eq!(Key::of(0).bytes(), b"key-000000000000");
        assert_eq!(Key::of(KEYS + 1234).bytes(), b"key-000000001234");
    }

    #[test]
    fn the_middle_of_nothing_is_none() {
        assert_eq!(middle(Vec::new()), None);
        assert_eq!(
            middle([3, 1, 2].map(Duration::from_secs).to_vec()),
            Some(Duration::from_secs(2))
        );
    }
}
