//! What a node takes from the world besides its disk and its network: time, tasks, seeds.
//!
//! Injected, so that a simulator can run a node with a clock that drifts, stop it in the middle of
//! anything, and run it again the same way.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use futures::future::BoxFuture;
use quorate_engine::Instant;
use tokio::task::JoinHandle;

/// The world of one node. [`TokioEnv`] unless the builder is given another.
pub trait Env: Send + Sync + 'static {
    /// The node's monotonic clock; never goes back. Called once per batch of work.
    fn now(&self) -> Instant;

    /// Completes after `duration` on the node's clock.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Runs a task of the node on the tokio runtime.
    fn spawn(&self, task: BoxFuture<'static, ()>) -> JoinHandle<()>;

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

    fn random(&self) -> u64 {
        // The standard library seeds every `RandomState` from the operating system.
        RandomState::new().build_hasher().finish()
    }
}
