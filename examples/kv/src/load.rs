//! Many writes at once that must all succeed, and reading them back.
//!
//! A writer goes from server to server until its pair is acknowledged. It also does so when the
//! outcome of an attempt is unknown: the same value under the same key can be put twice, as long as
//! nobody else writes that key meanwhile. What happens is told as events, so that whoever started
//! the load can count, draw, and kill a leader at the right moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::{CallError, Client, Server};
use crate::pairs::Pairs;

/// Requests under way at the same time.
pub const CONCURRENCY: usize = 64;

/// How long one pair may take, over all attempts.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// What happened to one pair.
#[derive(Debug)]
pub enum Event {
    /// It was written.
    Acknowledged {
        /// When its first attempt began.
        begun: Instant,
        /// When the attempt that succeeded was sent.
        sent: Instant,
        /// When that was answered.
        answered: Instant,
    },
    /// It could not be written, for as long as patience lasted or at all.
    Failed {
        /// The key.
        key: String,
        /// The last error.
        error: CallError,
    },
}

/// Writes all pairs; the events end when all are done. Dropping the receiver ends the load.
pub fn write(client: &Client, servers: &[Server], pairs: &Arc<Pairs>) -> mpsc::Receiver<Event> {
    let (events, receiver) = mpsc::channel(CONCURRENCY);
    let next = Arc::new(AtomicUsize::new(0));
    for writer in 0..CONCURRENCY.min(pairs.len()) {
        let (client, servers, pairs) = (client.clone(), servers.to_vec(), pairs.clone());
        let (events, next) = (events.clone(), next.clone());
        tokio::spawn(async move {
            // Each stays with a server while that one answers; together they use all.
            let mut at = writer;
            while let Some((key, value)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let event = write_one(&client, &servers, &mut at, key, value).await;
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

async fn write_one(
    client: &Client,
    servers: &[Server],
    at: &mut usize,
    key: &str,
    value: &Bytes,
) -> Event {
    let begun = Instant::now();
    loop {
        let sent = Instant::now();
        let server = &servers[*at % servers.len()];
        match client.put(server, key, value.clone()).await {
            Ok(_) => return Event::Acknowledged { begun, sent, answered: Instant::now() },
            Err(error) if error.may_pass() && begun.elapsed() < PATIENCE => {
                *at += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Event::Failed { key: key.to_owned(), error },
        }
    }
}

/// What reading one pair back from one server showed.
#[derive(Debug)]
pub enum Seen {
    /// The value that was written.
    Same,
    /// Another value, or none: an acknowledged write is lost.
    Lost {
        /// The pair's place.
        pair: usize,
    },
    /// The server could not say, for as long as patience lasted.
    Unread {
        /// The last error.
        error: CallError,
    },
}

/// Reads every pair back from one server, linearizably.
pub fn read_back(client: &Client, server: &Server, pairs: &Arc<Pairs>) -> mpsc::Receiver<Seen> {
    let (seen, receiver) = mpsc::channel(CONCURRENCY);
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..CONCURRENCY.min(pairs.len()) {
        let (client, server, pairs) = (client.clone(), server.clone(), pairs.clone());
        let (seen, next) = (seen.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let pair = next.fetch_add(1, Ordering::Relaxed);
                let Some((key, value)) = pairs.get(pair) else { return };
                let found = match read_one(&client, &server, key).await {
                    Ok(Some(found)) if found == *value => Seen::Same,
                    Ok(_) => Seen::Lost { pair },
                    Err(error) => Seen::Unread { error },
                };
                if seen.send(found).await.is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

async fn read_one(client: &Client, server: &Server, key: &str) -> Result<Option<Bytes>, CallError> {
    let begun = Instant::now();
    loop {
        match client.get(server, key).await {
            Err(error) if error.may_pass() && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}
