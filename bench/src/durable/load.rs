//! The load: so many clients in one process, each of which writes when its last write was answered.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::server::KEY_BYTES;
use crate::failure::Failure;
use crate::measure::Measured;
use crate::phases::{self, Passed, Phase, middle};

/// Time to reach a steady state before anything is counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// Keys that are written, over and over.
const KEYS: u64 = 10_000;

/// The keys of a client are so far apart that those of two are seldom the same. No factor of [`KEYS`].
const STRIDE: u64 = 7_919;

/// Three processes that keep what they are told.
pub(crate) trait Service: Sized {
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
pub(crate) trait Writer: Send + 'static {
    /// Returns when the value is durable on a majority.
    fn put(&mut self, key: &Key, value: &Bytes)
    -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A key, as bytes that can be read.
pub(crate) struct Key([u8; KEY_BYTES]);

impl Key {
    /// One of [`KEYS`].
    pub(crate) fn of(number: u64) -> Self {
        let mut key = *b"key-000000000000";
        let mut rest = number % KEYS;
        for digit in key[4..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Self(key)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Starts a fresh `S` in `directory`, loads it, measures, ends it.
pub(crate) async fn measure<S: Service>(
    directory: &Path,
    clients: u32,
    value: &Bytes,
    length: Duration,
) -> Result<Measured, Failure> {
    let mut service = S::start(directory).await?;
    let phase = phases::begin();
    let mut tasks = JoinSet::new();
    for number in 0..clients as usize {
        let writer = service.writer(number);
        tasks.spawn(client(writer, number as u64, value.clone(), Arc::clone(&phase)));
    }
    let Passed { counted, elapsed, processor } =
        phases::pass(tasks, &phase, WARM_UP, length).await?;
    let took: Vec<Duration> = counted.into_iter().flatten().collect();
    service.end();
    let operations = took.len() as f64;
    Ok(Measured {
        ops_s: operations / elapsed.as_secs_f64(),
        processor_us: processor.map(|used| used.as_secs_f64() * 1e6 / operations),
        p50_us: middle(took).unwrap_or(elapsed).as_secs_f64() * 1e6,
    })
}

/// How long each write of a client took that was answered while it was measured.
type Took = Result<Vec<Duration>, Failure>;

async fn client<W: Writer>(mut writer: W, number: u64, value: Bytes, phase: Phase) -> Took {
    let mut took = Vec::new();
    let mut key = number * STRIDE;
    let mut began = Instant::now();
    loop {
        writer.put(&Key::of(key), &value).await?;
        key += STRIDE;
        let ended = Instant::now();
        match phase.load(Ordering::Relaxed) {
            phases::WARM_UP => {}
            phases::MEASURE => took.push(ended - began),
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
}
