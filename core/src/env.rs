//! What a node takes from the world besides its disk and its network: time, tasks, seeds.
//!
//! Injected, so that a simulator can run a node with a clock that drifts, stop it in the middle of
//! anything, and run it again the same way.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use futures::future::BoxFuture;
use quorate_engine::Instant;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The world of one node. [`TokioEnv`] unless the builder is given another.
pub trait Env: Send + Sync + 'static {
    /// The node's monotonic clock; never goes back. Called once per batch of work.
    fn now(&self) -> Instant;

    /// Completes after `duration` on the node's clock.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Runs a task of the node on the tokio runtime.
    fn spawn(&self, task: BoxFuture<'static, ()>) -> JoinHandle<()>;

    /// Runs work that takes long (the recovery of a log, its end) where it holds nobody up, and
    /// completes when it is done, also if it panicked.
    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;

    /// A number for seeds and identities: unpredictable in production, from the seed in a
    /// simulation.
    fn random(&self) -> u64;
}

/// Real time, the current tokio runtime, numbers from the operating system.
#[derive(Clone, Debug)]
pub struct TokioEnv {
    origin: tokio::time::Instant,
}

impl TokioEnv {
    /// A clock that begins now. Needs no runtime yet.
    pub fn new() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }
}

impl Default for TokioEnv {
    fn default() -> Self {
        Self::new()
    }
}

impl Env for TokioEnv {
    fn now(&self) -> Instant {
        Instant::ORIGIN + self.origin.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> JoinHandle<()> {
        tokio::spawn(task)
    }

    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async { drop(tokio::task::spawn_blocking(work).await) })
    }

    fn random(&self) -> u64 {
        // The standard library seeds every `RandomState` from the operating system.
        RandomState::new().build_hasher().finish()
    }
}

/// What `work` returns, run by [`Env::run_blocking`]; `None` if it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    env: &dyn Env,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (to, result) = oneshot::channel();
    env.run_blocking(Box::new(move || drop(to.send(work())))).await;
    result.await.ok()
}
