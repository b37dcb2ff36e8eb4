//! One measurement: so many clients write to, or read from, one fresh cluster for so long.
//!
//! The clients have a runtime of one worker to themselves, the cluster one of two, so that a
//! cluster cannot win by being polled in a client's stead. Both are built for the one measurement
//! and torn down after it: nothing of one subject is left to disturb the next.
//!
//! What the measurement adds to a call is a few nanoseconds: a counter of the client's own, a
//! load of a flag that seldom changes, and only now and then a look at the clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinError, JoinSet};

use crate::failure::{Failure, asked_to_stop};
use crate::phases::{self, Phase, middle};
use crate::subject::{Client, Load, MIX, Subject};

/// Workers of the runtime that the cluster runs on.
const SERVER_WORKERS: usize = 2;
/// Workers of the runtime that the clients run on.
const CLIENT_WORKERS: usize = 1;
/// Time to reach a steady state before anything is counted.
const WARM_UP: Duration = Duration::from_millis(300);
/// What a torn down runtime may take to end its tasks, each at its next await.
const TEAR_DOWN: Duration = Duration::from_secs(5);
/// A client looks at the clock for one call in so many: two looks at it for each would cost the
/// fastest subject the most.
const SAMPLE_EVERY: usize = 16;

/// What is measured: so many clients that do this, of so many nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) load: Load,
    pub(crate) clients: u32,
    pub(crate) nodes: u32,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Completed operations per second: writes, reads.
    pub(crate) ops_s: f64,
    /// The median time of one call, in microseconds.
    pub(crate) p50_us: f64,
    /// What this process took of the processors for one operation, in microseconds, if the system tells.
    pub(crate) processor_us: Option<f64>,
}

/// Runs measurements from the main thread, and ends them on Ctrl-C and SIGTERM.
pub(crate) struct Control {
    /// Sleeps and waits, no more: the work is done on the runtimes of each measurement.
    runtime: Runtime,
    /// Completes on Ctrl-C and SIGTERM. Kept between measurements, so that none is missed.
    interrupt: Pin<Box<dyn Future<Output = ()>>>,
}

/// Turns a refusal of the operating system to start a thread or a timer into ours.
pub(crate) fn no_runtime(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot start a runtime: {error}"), "raise the limit on threads or files")
}

/// A panic of `what`.
fn panicked(what: &str, error: &JoinError) -> Failure {
    Failure::new(format!("{what} failed: {error}"), "report this as a bug")
}

impl Control {
    /// From its first measurement on, such a signal ends what is being measured, not the process.
    pub(crate) fn new() -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(no_runtime)?;
        let interrupt = Box::pin(async {
            if asked_to_stop().await.is_err() {
                // No handler could be installed: then a signal ends the process, as by default.
                std::future::pending::<()>().await;
            }
        });
        Ok(Self { runtime, interrupt })
    }

    /// Measures a fresh `S` at `point` for about `length`.
    pub(crate) fn measure<S: Subject>(
        &mut self,
        point: Point,
        length: Duration,
    ) -> Result<Measured, Failure> {
        let servers = runtime("server", SERVER_WORKERS)?;
        let clients = client_runtime()?;
        let interrupt = &mut self.interrupt;
        let measured = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = interrupt => Err(Failure::Interrupted),
                measured = drive::<S>(servers.handle(), clients.handle(), point, length)
                    => measured,
            }
        });
        clients.shutdown_timeout(TEAR_DOWN);
        servers.shutdown_timeout(TEAR_DOWN);
        measured
    }
}

/// The runtime that clients have to themselves.
pub(crate) fn client_runtime() -> Result<Runtime, Failure> {
    runtime("client", CLIENT_WORKERS)
}

/// A runtime of `workers` threads.
fn runtime(name: &str, workers: usize) -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(no_runtime)
}

/// Starts `S`, loads it, measures, stops it.
async fn drive<S: Subject>(
    servers: &Handle,
    client_runtime: &Handle,
    point: Point,
    length: Duration,
) -> Result<Measured, Failure> {
    let started = servers.spawn(S::start(point.nodes.into())).await;
    let subject = started.map_err(|e| panicked("the start", &e))??;

    let phase = phases::begin();
    let mut tasks = JoinSet::new();
    for number in 0..point.clients as usize {
        let client = call(subject.client(), point.load, Arc::clone(&phase), number);
        tasks.spawn_on(client, client_runtime);
    }
    let passed = phases::pass(tasks, &phase, WARM_UP, length).await?;
    servers.spawn(subject.stop()).await.map_err(|e| panicked("the stop", &e))??;
    Ok(Tally::of_all(passed.counted).measured(passed.elapsed, passed.processor))
}

/// One client: the next call begins when the last was answered.
async fn call<C: Client>(
    mut client: C,
    load: Load,
    phase: Phase,
    number: usize,
) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    // Clients take their samples in turn, not all of the same batch.
    let mut turn = number % SAMPLE_EVERY;
    let mut until_write = number % MIX;
    loop {
        let began = (turn == 0).then(Instant::now);
        turn = (turn + 1) % SAMPLE_EVERY;
        match load {
            Load::Write => client.write().await?,
            Load::Batch => client.write_batch().await?,
            Load::ReadIndex => client.read(false).await?,
            Load::LeaseRead => client.read(true).await?,
            Load::Mix if until_write == 0 => {
                until_write = MIX - 1;
                client.write().await?;
            }
            Load::Mix => {
                until_write -= 1;
                client.read(false).await?;
            }
        }
        match phase.load(Ordering::Relaxed) {
            phases::WARM_UP => {}
            phases::MEASURE => {
                tally.operations += load.operations();
                tally.sampled.extend(began.map(|b| b.elapsed()));
            }
            _ => return Ok(tally),
        }
    }
}

/// What was counted, by one client or by all.
#[derive(Default)]
struct Tally {
    /// Completed in the measured time.
    operations: u64,
    /// How long some of them took.
    sampled: Vec<Duration>,
}

impl Tally {
    fn of_all(tallies: Vec<Self>) -> Self {
        let mut all = Self::default();
        for tally in tallies {
            all.operations += tally.operations;
            all.sampled.extend(tally.sampled);
        }
        all
    }

    fn measured(self, elapsed: Duration, processor: Option<Duration>) -> Measured {
        // Hardly a call was completed: what one took is what there was time for.
        let p50 = middle(self.sampled).unwrap_or(elapsed);
        Measured {
            ops_s: self.operations as f64 / elapsed.as_secs_f64(),
            p50_us: p50.as_secs_f64() * 1e6,
            processor_us: processor.map(|used| used.as_secs_f64() * 1e6 / self.operations as f64),
        }
    }
}
