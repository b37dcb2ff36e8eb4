//! One simulated run: a runtime of one thread whose clock jumps to the next event, a seed, a trace.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinHandle;

use crate::failure::{Failure, Steps, panic_text};
use crate::rng::Rng;
use crate::sequence::{Event, Fate, Recorder};
use crate::trace::{Difference, Trace, TraceMode};

/// How much simulated time a run may take. Far more than any test needs: a run that gets here
/// waits for something that never happens.
const LONGEST: Duration = Duration::from_secs(3600);

/// Polls in one moment that no run in order comes near to.
const BUSY: u64 = 1_000_000;

/// A simulated run, from the inside. A clone is the same run.
#[derive(Clone)]
pub struct Sim(Arc<Inner>);

struct Inner {
    seed: u64,
    began: tokio::time::Instant,
    rng: Mutex<Rng>,
    trace: Mutex<Trace>,
    picture: Mutex<Picture>,
    failure: Mutex<Option<Failure>>,
    /// The present moment, and how often tasks of nodes were polled in it.
    moment: Mutex<(Duration, u64)>,
}

/// What the picture of the last steps is made of.
struct Picture {
    recorder: Recorder,
    /// Messages that have not arrived yet, by number.
    under_way: BTreeMap<u64, Event>,
    sent: u64,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sim {
    /// Runs `test` in a simulated world of its own: one thread, a clock that stands still while
    /// anything is left to do and then jumps to the next timer. An hour takes seconds.
    ///
    /// Everything random in it comes from `seed`, so a second call does the same again, step by
    /// step, as long as `test` and the state machines in it do their part: no other clock, no other
    /// randomness, no threads, no iteration over hash maps, no unbiased `select!`.
    ///
    /// # Errors
    /// The first promise that was broken; a panic of `test` is one of its own.
    ///
    /// # Panics
    /// Inside another tokio runtime: a simulation brings its own.
    pub fn run<T>(seed: u64, test: impl AsyncFnOnce(Sim) -> T) -> Result<T, Failure> {
        Self::run_traced(seed, TraceMode::Off, test).0
    }

    /// [`Sim::run`] with a trace of everything that happens: messages, disks, crashes, roles.
    pub fn run_traced<T>(
        seed: u64,
        mode: TraceMode,
        test: impl AsyncFnOnce(Sim) -> T,
    ) -> (Result<T, Failure>, Trace) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        let (result, sim) = runtime.block_on(async {
            let sim = Sim(Arc::new(Inner {
                seed,
                began: tokio::time::Instant::now(),
                rng: Mutex::new(Rng::new(seed)),
                trace: Mutex::new(Trace::new(mode)),
                picture: Mutex::new(Picture {
                    recorder: Recorder::of(mode),
                    under_way: BTreeMap::new(),
                    sent: 0,
                }),
                failure: Mutex::new(None),
                moment: Mutex::default(),
            }));
            let test = AssertUnwindSafe(test(sim.clone())).catch_unwind();
            let result = match tokio::time::timeout(LONGEST, test).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(panic)) => Err(sim.failure("the test", panic_text(&*panic))),
                Err(_) => Err(sim.failure("the run ends", "it does not".into())),
            };
            (result, sim)
        });
        // Tasks that are left are dropped here, by the thread that ran them.
        drop(runtime);
        let broken = lock(&sim.0.failure).clone();
        // A broken promise explains a test that failed, never the other way round.
        let result = broken.map_or(result, Err);
        let trace = std::mem::replace(&mut *lock(&sim.0.trace), Trace::new(TraceMode::Off));
        (result, trace)
    }

    /// Runs `test` once for each seed, as a test does, and the first one twice, to see that the two
    /// runs are the same; with the environment variable `QUORATE_SEED` only for that seed, with its
    /// trace on standard output.
    ///
    /// # Panics
    /// At the first seed that fails, which it names; and where two runs differ.
    pub fn check(seeds: std::ops::Range<u64>, test: impl AsyncFn(Sim)) {
        if let Ok(seed) = std::env::var("QUORATE_SEED") {
            let seed = seed.parse().expect("QUORATE_SEED is a number");
            if let (Err(failure), _) = Self::run_traced(seed, TraceMode::Print, &test) {
                panic!("{failure}");
            }
            return;
        }
        let traced = |seed| {
            let (_, trace) = Self::run_traced(seed, TraceMode::Tail(usize::MAX), &test);
            trace.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        if let Some(difference) = Difference::between(&traced(seeds.start), &traced(seeds.start)) {
            panic!("seed {}: {difference}", seeds.start);
        }
        for seed in seeds {
            if let Err(failure) = Self::run(seed, &test) {
                let replay = format!("QUORATE_SEED={seed} cargo test <this test> -- --nocapture");
                panic!("{}", Failure { replay, ..failure });
            }
        }
    }

    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Simulated time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// Waits, in simulated time. Timers have a resolution of a millisecond.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Runs a task of the test's own, a client for instance. It belongs to no node: it lives on
    /// through crashes. A panic in it fails the run, whether anybody awaits the task or not.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let sim = self.clone();
        tokio::spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            ended.unwrap_or_else(|panic| {
                sim.fail("no task panics", panic_text(&*panic));
                resume_unwind(panic)
            })
        })
    }

    /// Asked before each poll of a node's task: whether time goes on. If not, some task is always
    /// ready, and the clock of this runtime would stand still for ever.
    pub(crate) fn goes_on(&self) -> bool {
        let mut moment = lock(&self.0.moment);
        let now = self.elapsed();
        if moment.0 != now {
            *moment = (now, 0);
        }
        moment.1 += 1;
        if moment.1 == BUSY {
            self.fail("time goes on", format!("{BUSY} polls of nodes' tasks in one moment"));
        }
        moment.1 < BUSY
    }

    /// A stream of random numbers of its own, for a client or a schedule.
    pub fn rng(&self) -> Rng {
        Rng::new(lock(&self.0.rng).number())
    }

    /// Adds a line to the trace, unless a promise is broken already; node 0 is the world.
    pub fn say(&self, node: u64, what: fmt::Arguments<'_>) {
        // What comes behind a failure explains nothing.
        if self.has_failed() {
            return;
        }
        lock(&self.0.trace).line(self.elapsed().as_nanos() as u64, node, what);
    }

    /// Says it in the trace and in the picture.
    pub(crate) fn note(&self, node: u64, what: fmt::Arguments<'_>) {
        self.say(node, what);
        let mut picture = lock(&self.0.picture);
        if picture.recorder.is_on() && !self.has_failed() {
            let at = self.elapsed().as_nanos() as u64;
            picture.recorder.record(Event::Note { at, node, text: what.to_string() });
        }
    }

    /// Puts a message that is sent now into the picture. If it is under way: its number, for
    /// [`Sim::arrives`].
    pub(crate) fn sends(&self, from: u64, to: u64, fate: Fate, label: impl fmt::Display) -> u64 {
        let mut picture = lock(&self.0.picture);
        let Picture { recorder, under_way, sent } = &mut *picture;
        *sent += 1;
        if recorder.is_on() && !self.has_failed() {
            let (at, label) = (self.elapsed().as_nanos() as u64, label.to_string());
            let message = Event::Message { sent: at, from, to, fate, label };
            if fate == Fate::UnderWay {
                under_way.insert(*sent, message);
            } else {
                recorder.record(message);
            }
        }
        *sent
    }

    /// A message arrives, or is lost after all.
    pub(crate) fn arrives(&self, number: u64, lost: bool) {
        let mut picture = lock(&self.0.picture);
        if let Some(Event::Message { sent, from, to, label, .. }) =
            picture.under_way.remove(&number)
        {
            let now = self.elapsed().as_nanos() as u64;
            let fate = if lost { Fate::Lost } else { Fate::Arrived(now) };
            picture.recorder.record(Event::Message { sent, from, to, fate, label });
        }
    }

    /// Reports a broken promise; the first one counts. The run goes on until its test ends.
    pub fn fail(&self, promise: &str, what: impl Into<String>) {
        if self.has_failed() {
            return;
        }
        let what = what.into();
        self.note(0, format_args!("{promise}: {what}"));
        *lock(&self.0.failure) = Some(self.failure(promise, what));
    }

    /// Whether a promise has been broken.
    pub fn has_failed(&self) -> bool {
        lock(&self.0.failure).is_some()
    }

    fn failure(&self, promise: &str, what: String) -> Failure {
        let trace = lock(&self.0.trace).lines().map(str::to_owned).collect();
        let picture = lock(&self.0.picture);
        let sequence = picture.recorder.sequence(picture.under_way.values().cloned());
        Failure {
            seed: self.seed(),
            at: self.elapsed(),
            promise: promise.into(),
            what,
            replay: String::new(),
            steps: Box::new(Steps { trace, sequence }),
        }
    }
}
