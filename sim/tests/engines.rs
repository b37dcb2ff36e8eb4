//! Clusters of engines under seeded faults; see the crate's page for what the world does to them.
//!
//! A failure names its seed and the command that replays it with a readable trace. A failing seed
//! is never run again in the hope of a better answer: it goes into `seeds_that_found_something`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_sim::TraceMode;
use quorate_sim::engines::{Failure, Plan, Sabotage, Statistics, World};

/// Runs one world to its end. A panic of an engine is a failure like any other.
fn run(seed: u64, trace: TraceMode) -> Result<World, String> {
    let mut world = World::with(seed, Plan::from_seed(seed), trace, None);
    match run_to_the_end(&mut world) {
        Ok(()) => Ok(world),
        Err(failure) => {
            let lines: Vec<&str> = world.trace().lines().collect();
            Err(format!("{failure}\n{}", lines.join("\n")))
        }
    }
}

fn run_to_the_end(world: &mut World) -> Result<(), Failure> {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        world.run()?;
        world.settle()
    }));
    ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or(panic.downcast_ref::<&str>().map(|s| s.to_string()));
        Err(world.failure("no engine panics", text.unwrap_or_default()))
    })
}

fn sweep(seeds: std::ops::Range<u64>) -> Statistics {
    let mut total = Statistics::default();
    for seed in seeds {
        match run(seed, TraceMode::Off) {
            Ok(world) => {
                let s = world.statistics();
                total.steps += s.steps;
                total.elections += s.elections;
                total.acknowledged += s.acknowledged;
                total.overwritten += s.overwritten;
                total.reads += s.reads;
                total.crashes += s.crashes;
                total.lost_writes += s.lost_writes;
                total.wipes += s.wipes;
                total.refused += s.refused;
            }
            // Once more, for the lines before the failure.
            Err(first) => match run(seed, TraceMode::Tail(60)) {
                Err(again) => panic!("{again}"),
                Ok(_) => panic!("not deterministic: {first}"),
            },
        }
    }
    total
}

/// `QUORATE_SEED=n` shows one world, line by line; `QUORATE_SEEDS=a..b` sweeps others than the fixed.
#[test]
fn replay() {
    if let Ok(seed) = std::env::var("QUORATE_SEED") {
        let seed = seed.parse().expect("QUORATE_SEED is a number");
        let ended = run(seed, TraceMode::Print).map(|world| world.statistics());
        println!("{ended:#?}");
        assert!(ended.is_ok(), "seed {seed} fails");
    }
    if let Ok(range) = std::env::var("QUORATE_SEEDS") {
        let (from, to) = range.split_once("..").expect("QUORATE_SEEDS is a range a..b");
        let number = |s: &str| s.parse::<u64>().expect("QUORATE_SEEDS is a range a..b");
        println!("{:#?}", sweep(number(from)..number(to)));
    }
}

/// A few hundred fixed worlds, of every size and every kind of trouble.
#[test]
fn fixed_seeds_keep_every_promise() {
    let total = sweep(0..300);
    // A simulation in which nothing happens would pass as well.
    assert!(total.elections > 600, "{total:?}");
    assert!(total.acknowledged > 100_000 && total.reads > 50_000, "{total:?}");
    assert!(total.overwritten > 1_000 && total.lost_writes > 500, "{total:?}");
}

/// Seeds that once failed, with what they found.
#[test]
fn seeds_that_found_something() {
    for (seed, found) in [
        // An overtaken conflict was taken for a lost disk, and `matched` went back to 0.
        (0, "a correct follower accused"),
    ] {
        if let Err(failure) = run(seed, TraceMode::Tail(60)) {
            panic!("once: {found}; now: {failure}");
        }
    }
}

/// The same seed gives the same run to the bit, whatever the circumstances.
#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut hashes = Vec::new();
    for seed in 0..30 {
        let hash = || run(seed, TraceMode::Hash).map(|world| world.trace().hash());
        let first = hash().unwrap();
        assert_eq!(first, hash().unwrap(), "seed {seed} is not deterministic");
        hashes.push(first);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 30, "different seeds, different runs");
}

/// The checkers can fail: each planted bug is caught within so many seeds by the checker of the
/// promise it breaks, while all other checkers are not listened to.
#[test]
fn planted_bugs_are_caught() {
    let mut missed = Vec::new();
    for (bug, promise, within) in PLANTED {
        let caught = (0..within).find(|seed| {
            let plan = Plan::from_seed(*seed);
            let mut world = World::with(*seed, plan, TraceMode::Off, Some(bug));
            world.look_only_at(promise);
            run_to_the_end(&mut world).is_err_and(|failure| failure.promise == promise)
        });
        println!("{bug:?} is caught by {promise:?} at seed {caught:?}");
        if caught.is_none() {
            missed.push(format!("{bug:?} by {promise:?} within {within} seeds"));
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
    for bug in Sabotage::ALL {
        assert!(PLANTED.iter().any(|(planted, ..)| *planted == bug), "{bug:?} is never planted");
    }
    for check in quorate_sim::engines::check::all() {
        // No world can make a leader overwrite itself: that checker has a test of its own.
        let tried = PLANTED.iter().any(|(_, promise, _)| *promise == check.name());
        assert!(tried || check.name() == "Leader Append-Only", "{} is never tried", check.name());
    }
}

/// Bug, the promise it breaks, and how many seeds may pass before it is seen.
const PLANTED: [(Sabotage, &str, u64); 16] = [
    (Sabotage::DiskLies, "persist, then promise", 2),
    (Sabotage::DiskLies, "committed means durable on a quorum", 2),
    (Sabotage::DiskLies, "no acknowledged write is lost", 2),
    (Sabotage::VoteForgotten, "one vote per term, durable before it leaves", 5),
    (Sabotage::AcknowledgedEarly, "no acknowledged write is lost", 2),
    (Sabotage::AcknowledgementsAltered, "positions never go back", 5),
    (Sabotage::AcknowledgementsAltered, "committed means durable on a quorum", 5),
    (Sabotage::VotesAltered, "Election Safety", 60),
    (Sabotage::VotesAltered, "Leader Completeness", 300),
    (Sabotage::VotesAltered, "Log Matching", 60),
    (Sabotage::ReadsUnconfirmed, "reads are linearizable", 2),
    (Sabotage::WritesReordered, "a node can start from what its disk kept", 200),
    (Sabotage::SyncIgnored, "positions never go back", 5),
    (Sabotage::SyncIgnored, "Leader Completeness", 20),
    (Sabotage::AppliedEarly, "State Machine Safety", 10),
    (Sabotage::NeverHeals, "the cluster recovers", 2),
];
