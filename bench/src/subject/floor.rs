//! The floor: one task that answers each request at once.
//!
//! Any framework with a task of its own pays for one channel into it and one answer back. What is
//! above this number is not to be had; what lies between it and a framework is the framework.

use tokio::sync::{mpsc, oneshot};

use super::{Client, Subject};
use crate::failure::Failure;

/// Requests that may wait for the server. With fewer clients than this, as in every sensible run,
/// a sender never waits for room.
const QUEUE: usize = 65_536;

/// Requests that the server takes at once, so that a full queue costs it one wake-up.
const BATCH: usize = 4096;

/// A request: the sender of its answer, held by the server until it answers.
type Request = oneshot::Sender<()>;

/// The server task.
pub(crate) struct Floor {
    /// Cloned for the clients. When the last clone is gone, the server ends.
    requests: mpsc::Sender<Request>,
    server: tokio::task::JoinHandle<()>,
}

impl Subject for Floor {
    type Client = FloorClient;

    async fn start(_: u64) -> Result<Self, Failure> {
        let (requests, mut inbox) = mpsc::channel::<Request>(QUEUE);
        let server = tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while inbox.recv_many(&mut batch, BATCH).await > 0 {
                for request in batch.drain(..) {
                    // A client that was told to stop no longer waits for its answer.
                    request.send(()).ok();
                }
            }
        });
        Ok(Self { requests, server })
    }

    fn client(&self) -> FloorClient {
        FloorClient { requests: self.requests.clone() }
    }

    async fn stop(self) -> Result<(), Failure> {
        drop(self.requests);
        self.server.await.map_err(|error| {
            Failure::new(format!("the floor's server failed: {error}"), "report this as a bug")
        })
    }
}

/// A client of the [`Floor`].
pub(crate) struct FloorClient {
    requests: mpsc::Sender<Request>,
}

impl Client for FloorClient {
    async fn write(&mut self) -> Result<(), Failure> {
        let gone = || Failure::new("the floor's server is gone", "report this as a bug");
        let (answer, answered) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    async fn write_batch(&mut self) -> Result<(), Failure> {
        self.write().await
    }

    async fn read(&mut self, _: bool) -> Result<(), Failure> {
        self.write().await
    }
}
