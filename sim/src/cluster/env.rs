//! What a simulated process takes from the world: a clock that may drift and jump, tasks that can
//! be stopped between any two polls, seeds.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use quorate::Env;
use quorate_engine::Instant;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};

use crate::cluster::sim::{Sim, lock};
use crate::engines::Clock;
use crate::failure::panic_text;
use crate::rng::Rng;

/// A machine's clock: goes on through crashes.
pub(crate) struct MachineClock {
    sim: Sim,
    clock: Mutex<Clock>,
    /// Rung when the clock was set: who sleeps looks again.
    set: Notify,
}

impl MachineClock {
    pub(crate) fn new(sim: Sim, clock: Clock) -> Self {
        Self { sim, clock: Mutex::new(clock), set: Notify::new() }
    }

    fn world_nanos(&self) -> u64 {
        self.sim.elapsed().as_nanos() as u64
    }

    fn now(&self) -> Instant {
        lock(&self.clock).local(self.world_nanos())
    }

    /// How long, in the world's time, until this clock shows `local`.
    fn until(&self, local: Instant) -> Duration {
        let at = lock(&self.clock).world(local);
        Duration::from_nanos(at.saturating_sub(self.world_nanos()))
    }

    /// It goes at `rate` thousandths of the true rate from now on.
    pub(crate) fn set_rate(&self, rate: u64) {
        let now = self.world_nanos();
        lock(&self.clock).set_rate(now, rate);
        self.set.notify_waiters();
    }

    /// The clock leaps forward. Monotonic clocks do not go back.
    pub(crate) fn jump(&self, by: Duration) {
        lock(&self.clock).jump(by.as_nanos() as u64);
        self.set.notify_waiters();
    }
}

/// Whether a process runs, stands still, or is gone.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    paused: bool,
    dead: bool,
    waiting: Vec<Waker>,
}

/// The power of a machine: a change of the disk may be the last before it goes, and no task of the
/// process may see what comes after.
#[derive(Default)]
struct Supply(Mutex<Option<Cord>>);

struct Cord {
    is_off: Box<dyn Fn() -> bool + Send>,
    cut: Box<dyn FnOnce() + Send>,
}

impl Supply {
    /// Called whenever a task of the process has had its turn.
    fn look(&self) {
        let off = lock(&self.0).take_if(|cord| (cord.is_off)());
        if let Some(cord) = off {
            (cord.cut)();
        }
    }
}

/// One life of a process.
pub(crate) struct NodeEnv {
    sim: Sim,
    node: u64,
    clock: Arc<MachineClock>,
    gate: Arc<Gate>,
    supply: Arc<Supply>,
    rng: Mutex<Rng>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl NodeEnv {
    /// The process of a node's `life`.
    pub(crate) fn new(sim: Sim, node: u64, life: u32, clock: Arc<MachineClock>) -> Self {
        let rng = Rng::stream(sim.seed(), &format!("node {node} life {life}"));
        let rng = Mutex::new(rng);
        let (gate, supply) = (Arc::default(), Arc::default());
        Self { sim, node, clock, gate, supply, rng, tasks: Mutex::default() }
    }

    /// Calls `cut` once, as soon as a task of the process has done what makes `is_off` true, and
    /// before another one runs.
    pub(crate) fn on_power_cut(
        &self,
        is_off: impl Fn() -> bool + Send + 'static,
        cut: impl FnOnce() + Send + 'static,
    ) {
        let cord = Cord { is_off: Box::new(is_off), cut: Box::new(cut) };
        *lock(&self.supply.0) = Some(cord);
    }

    /// Nothing of this process runs from now on; what it was in the middle of is dropped.
    pub(crate) fn kill(&self) {
        lock(&self.gate.state).dead = true;
        for task in lock(&self.tasks).iter() {
            task.abort();
        }
    }

    /// Waits until the last of a killed process is dropped.
    pub(crate) async fn gone(&self) {
        while lock(&self.tasks).iter().any(|task| !task.is_finished()) {
            tokio::task::yield_now().await;
        }
    }

    /// The process stands still, as after SIGSTOP; its clock goes on.
    pub(crate) fn pause(&self) {
        lock(&self.gate.state).paused = true;
    }

    /// It goes on where it was.
    pub(crate) fn resume(&self) {
        let waiting = {
            let mut state = lock(&self.gate.state);
            state.paused = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Env for NodeEnv {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clock.clone();
        Box::pin(async move {
            let until = clock.now() + duration;
            loop {
                let left = clock.until(until);
                if left.is_zero() {
                    return;
                }
                tokio::select! { biased;
                    () = clock.set.notified() => {}
                    () = tokio::time::sleep(left) => {}
                }
            }
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> JoinHandle<()> {
        if lock(&self.gate.state).dead {
            // Dropped, as everything of this process is.
            drop(task);
            return tokio::spawn(async {});
        }
        let (sim, node, gate) = (self.sim.clone(), self.node, self.gate.clone());
        let supply = self.supply.clone();
        let spawned = tokio::spawn(Gated { sim, node, gate, supply, task });
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(spawned.abort_handle());
        spawned
    }

    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        // There is one thread; what would take long takes no simulated time.
        Box::pin(async move { work() })
    }

    fn random(&self) -> u64 {
        lock(&self.rng).number()
    }
}

/// A task of a process, polled only while that runs.
struct Gated {
    sim: Sim,
    node: u64,
    gate: Arc<Gate>,
    supply: Arc<Supply>,
    task: BoxFuture<'static, ()>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.sim.goes_on() {
            // Nothing would ever end here.
            return Poll::Pending;
        }
        {
            let mut state = lock(&self.gate.state);
            if state.dead {
                // About to be dropped.
                return Poll::Pending;
            }
            if state.paused {
                state.waiting.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        let polled = catch_unwind(AssertUnwindSafe(|| self.task.as_mut().poll(context)));
        self.supply.look();
        polled.unwrap_or_else(|panic| {
            let what = format!("node {}: {}", self.node, panic_text(&*panic));
            self.sim.fail("no node panics", what);
            resume_unwind(panic)
        })
    }
}
