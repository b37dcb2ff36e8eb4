//! A machine's disk: the real log's bytes, on a disk that takes its time, hangs, fills up and fails.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::Env;
use quorate_storage::wal::{Crash, FakeDisk, WalDriver};
use tokio::sync::Notify;

use crate::cluster::env::NodeEnv;
use crate::cluster::sim::{Sim, lock};
use crate::rng::Rng;

/// How long a log is without work before it writes a seal.
pub(crate) const SEAL_AFTER: Duration = Duration::from_millis(100);

/// One machine's disk, which outlives its processes.
pub(crate) struct SimDisk {
    sim: Sim,
    node: u64,
    pub(crate) files: FakeDisk,
    state: Mutex<State>,
    /// Rung when a hang ends.
    released: Notify,
}

struct State {
    rng: Rng,
    /// Shortest and longest write and sync.
    sync: (Duration, Duration),
    factor: u32,
    hanging: bool,
}

impl SimDisk {
    pub(crate) fn new(sim: Sim, node: u64, sync: (Duration, Duration)) -> Self {
        let mut rng = Rng::stream(sim.seed(), &format!("disk {node}"));
        let files = FakeDisk::new(rng.number());
        let state = Mutex::new(State { rng, sync, factor: 1, hanging: false });
        Self { sim, node, files, state, released: Notify::new() }
    }

    /// Syncs take between `low` and `high` from now on.
    pub(crate) fn set_sync(&self, low: Duration, high: Duration) {
        lock(&self.state).sync = (low, high);
    }

    /// Syncs take so many times as long.
    pub(crate) fn slow_down(&self, factor: u32) {
        lock(&self.state).factor = factor;
    }

    /// No sync ends until [`SimDisk::release`].
    pub(crate) fn hang(&self) {
        lock(&self.state).hanging = true;
    }

    pub(crate) fn release(&self) {
        lock(&self.state).hanging = false;
        self.released.notify_waiters();
    }

    fn next_sync(&self) -> Duration {
        let mut state = lock(&self.state);
        let (low, high) = state.sync;
        let micros = state.rng.between(low.as_micros() as u64, high.as_micros() as u64);
        Duration::from_micros(micros) * state.factor
    }

    async fn work(&self, env: &NodeEnv) {
        env.sleep(self.next_sync()).await;
        loop {
            // Registered before the look, or a release in between would be missed.
            let released = self.released.notified();
            if !lock(&self.state).hanging {
                return;
            }
            released.await;
        }
    }

    /// What the log's thread does, as a task of the process.
    pub(crate) async fn drive(
        self: Arc<Self>,
        env: Arc<NodeEnv>,
        mut driver: WalDriver,
        queued: Arc<Notify>,
    ) {
        let mut sealed = false;
        loop {
            let idle = async {
                match sealed {
                    true => std::future::pending().await,
                    false => env.sleep(SEAL_AFTER).await,
                }
            };
            let mut worked = tokio::select! { biased;
                () = queued.notified() => {
                    self.work(&env).await;
                    driver.pump()
                }
                () = idle => {
                    driver.seal();
                    sealed = true;
                    false
                }
            };
            while worked {
                sealed = false;
                self.sim.say(self.node, format_args!("disk: a write has ended"));
                self.work(&env).await;
                worked = driver.pump();
            }
        }
    }

    /// The power goes after so many further changes of the disk.
    pub(crate) fn cut_power_after(&self, changes: u64) {
        self.files.crash_at(self.files.ops() + changes, Crash::Torn);
    }
}
