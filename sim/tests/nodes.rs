//! The real node in simulated worlds: tasks, log, frames and all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate::testing::Counter;
use quorate::{Committed, Postcard, StateMachine, async_trait};
use quorate_sim::cluster::{Cluster, Sim};
use quorate_sim::{Counts, Level, Options, Report, Sabotage, TraceMode, explore};

/// Runs the world of a seed; of a failure the last steps are shown.
fn run(seed: u64, trace: TraceMode) -> Result<Report, String> {
    let options = Options { trace, ..Options::of(Level::Nodes) };
    explore(seed, &options).map_err(|failure| failure.in_full())
}

/// Worlds of every kind of trouble.
#[test]
fn fixed_seeds_keep_every_promise() {
    let mut total = Counts::default();
    for seed in 0..100 {
        let report = run(seed, TraceMode::Tail(80)).unwrap_or_else(|failure| panic!("{failure}"));
        total.add(&report.counts);
    }
    // A simulation in which nothing happens would pass as well.
    assert!(total["acknowledged"] > 10_000 && total["reads"] > 5_000, "{total}");
    assert!(total["unknown"] > 100 && total["elections"] > 200, "{total}");
    assert!(total["faults"] > 1_000 && total["forgetful"] > 3, "{total}");
    assert!(total["restored"] > 100, "{total}");
}

/// The same seed gives the same run to the byte.
#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut hashes = Vec::new();
    for seed in 0..20 {
        let hash = || run(seed, TraceMode::Hash).map(|report| report.hash).unwrap();
        let first = hash();
        assert_eq!(first, hash(), "seed {seed} is not deterministic");
        hashes.push(first);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20, "different seeds, different runs");
}

/// Bugs of the world around the nodes are seen, with a picture and the command that replays it.
#[test]
fn planted_bugs_are_caught() {
    for (bug, promise) in [
        (Sabotage::DiskLies, "a node can start from what its disk kept"),
        (Sabotage::NeverHeals, "the cluster recovers"),
    ] {
        let trace = TraceMode::Tail(80);
        let options = Options { trace, sabotage: Some(bug), ..Options::of(Level::Nodes) };
        let mut failures = (0..50).filter_map(|seed| explore(seed, &options).err());
        let failure = failures.find(|failure| failure.promise == promise);
        let failure = failure.unwrap_or_else(|| panic!("{} is not seen", bug.name()));
        let replay = format!("--seed {} --level nodes --plant {}", failure.seed, bug.name());
        assert!(failure.replay.ends_with(&replay), "{}", failure.replay);
        let picture = failure.steps.sequence.to_text();
        assert!(picture.starts_with("     time ms  1"), "{}", failure.in_full());
        assert!(picture.contains(promise), "{}", failure.in_full());
    }
}

/// A test that fails names its seed; a promise that breaks is named first.
#[test]
fn failures_are_told_with_their_seed() {
    let failure = Sim::run(7, async |_| assert_eq!(1, 2, "wrong")).unwrap_err();
    assert_eq!((failure.seed, failure.promise.as_str()), (7, "the test"));
    assert!(failure.what.contains("wrong"), "{failure}");
    let failure = Sim::run(7, async |sim: Sim| {
        sim.fail("arithmetic", "it was not what it was said to be");
        panic!("this is a consequence");
    });
    assert_eq!(failure.unwrap_err().promise, "arithmetic");
}

/// A test that is not the same every time is told where it is not.
#[test]
fn what_is_not_deterministic_is_told() {
    let calls = AtomicU64::new(0);
    let check = AssertUnwindSafe(|| {
        Sim::check(3..4, async |sim: Sim| {
            sim.say(0, format_args!("once"));
            sim.say(0, format_args!("call {}", calls.fetch_add(1, Ordering::Relaxed)));
        });
    });
    let panic = catch_unwind(check).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.starts_with("seed 3: two runs differ at line 2:"), "{text}");
}

/// A state machine that does not do its part.
enum Sick {
    /// Never ends and never waits.
    Busy,
    Fails,
}

#[async_trait]
impl StateMachine for Sick {
    type Command = u64;
    type Response = u64;
    type Codec = Postcard;

    async fn apply(&mut self, _: Vec<Committed<u64>>) -> Result<Vec<u64>, quorate::Failure> {
        loop {
            match self {
                Sick::Busy => tokio::task::yield_now().await,
                Sick::Fails => return Err(std::io::Error::other("sick").into()),
            }
        }
    }

    async fn snapshot(&mut self) -> Result<quorate::Snapshot, quorate::Failure> {
        Ok(quorate::Snapshot::from_bytes(""))
    }

    async fn restore(&mut self, _: quorate::Snapshot) -> Result<(), quorate::Failure> {
        Ok(())
    }
}

/// A task that is always ready would keep the clock from going on: that is told, too.
#[test]
fn a_world_whose_time_stands_still_ends() {
    let failure = Sim::run(1, async |sim| {
        let cluster = Cluster::start(&sim, 1, |_| Sick::Busy).await;
        cluster.node(1).write(1).await.ok();
    });
    assert_eq!(failure.unwrap_err().promise, "time goes on");
}

/// A task of a test that panics fails the run, though nobody awaits it.
#[test]
fn panics_of_tasks_are_told() {
    let failure = Sim::run(1, async |sim: Sim| {
        sim.spawn(async { panic!("nobody looks") });
        sim.sleep(Duration::from_secs(1)).await;
    });
    let failure = failure.unwrap_err();
    assert_eq!(
        (failure.promise.as_str(), failure.what.as_str()),
        ("no task panics", "nobody looks")
    );
}

/// A node that stops is told, unless its disk was made to fail.
#[test]
fn nodes_that_stop_are_told() {
    let failure = Sim::run(1, async |sim| {
        let cluster = Cluster::start(&sim, 1, |_| Sick::Fails).await;
        cluster.node(1).write(1).await.ok();
        sim.sleep(Duration::from_secs(1)).await;
    });
    let failure = failure.unwrap_err();
    assert_eq!(failure.promise, "no node stops by itself");
    assert!(failure.what.contains("sick"), "{failure}");

    let asked = Sim::run(1, async |sim| {
        let cluster = Cluster::start(&sim, 1, |_| Counter::default()).await;
        cluster.fail_next_sync(1);
        cluster.node(1).write(5).await.ok();
        sim.sleep(Duration::from_secs(1)).await;
        assert!(cluster.node(1).metrics().fatal.is_some());
    });
    assert_eq!(asked, Ok(()));
}

/// A test that waits for something that never happens fails instead of hanging.
#[test]
fn what_waits_for_ever_ends() {
    let failure = Sim::run(1, async |sim| {
        let _cluster = Cluster::start(&sim, 1, |_| Counter::default()).await;
        std::future::pending::<()>().await;
    });
    assert_eq!(failure.unwrap_err().promise, "the run ends");
}
