//! The real node in simulated worlds: tasks, log, frames and all.

use quorate::testing::Counter;
use quorate_sim::TraceMode;
use quorate_sim::cluster::{Cluster, Plan, Report, Sim, explore};

/// Runs the world of a seed; of a failure the last lines are shown.
fn run(seed: u64) -> Result<Report, String> {
    let (result, trace) = explore(seed, &Plan::from_seed(seed), TraceMode::Tail(80));
    result.map_err(|e| format!("{e}\n{}", trace.lines().collect::<Vec<_>>().join("\n")))
}

/// Worlds of every kind of trouble. `QUORATE_SEED` runs one and prints its trace.
#[test]
fn fixed_seeds_keep_every_promise() {
    if let Ok(seed) = std::env::var("QUORATE_SEED") {
        let seed = seed.parse().expect("QUORATE_SEED is a number");
        let (result, _) = explore(seed, &Plan::from_seed(seed), TraceMode::Print);
        println!("{:#?}", result.unwrap());
        return;
    }
    let mut total = Report::default();
    for seed in 0..100 {
        let report = run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        total.acknowledged += report.acknowledged;
        total.unknown += report.unknown;
        total.refused += report.refused;
        total.reads += report.reads;
        total.faults += report.faults;
        total.elections += report.elections;
    }
    // A simulation in which nothing happens would pass as well.
    assert!(total.acknowledged > 10_000 && total.reads > 5_000, "{total:?}");
    assert!(total.unknown > 100 && total.faults > 1_000 && total.elections > 200, "{total:?}");
}

/// The same seed gives the same run to the byte.
#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut hashes = Vec::new();
    for seed in 0..20 {
        let hash = || explore(seed, &Plan::from_seed(seed), TraceMode::Hash).1.hash();
        let first = hash();
        assert_eq!(first, hash(), "seed {seed} is not deterministic");
        hashes.push(first);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20, "different seeds, different runs");
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

/// A test that waits for something that never happens fails instead of hanging.
#[test]
fn what_waits_for_ever_ends() {
    let failure = Sim::run(1, async |sim| {
        let _cluster = Cluster::start(&sim, 1, |_| Counter::default()).await;
        std::future::pending::<()>().await;
    });
    assert_eq!(failure.unwrap_err().promise, "the run ends");
}
