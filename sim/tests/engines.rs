//! Clusters of engines under seeded faults; see the crate's page for what the world does to them.
//!
//! A failure names its seed and the command that replays it with a readable trace. A failing seed
//! is never run again in the hope of a better answer: it goes into `seeds_that_found_something`.

use quorate_sim::engines::{Plan, World, check};
use quorate_sim::{Counts, Kind, Options, Rates, Report, Sabotage, TraceMode, explore};

/// Runs one world to its end; of a failure the last lines are shown.
fn run(seed: u64, trace: TraceMode) -> Result<Report, String> {
    explore(seed, &Options { trace, ..Options::default() }).map_err(|failure| failure.in_full())
}

fn sweep(seeds: std::ops::Range<u64>) -> Counts {
    let mut total = Counts::default();
    for seed in seeds {
        match run(seed, TraceMode::Off) {
            Ok(report) => total.add(&report.counts),
            // Once more, for the lines before the failure.
            Err(first) => match run(seed, TraceMode::Tail(60)) {
                Err(again) => panic!("{again}"),
                Ok(_) => panic!("not deterministic: {first}"),
            },
        }
    }
    total
}

/// A few hundred fixed worlds, of every size and every kind of trouble.
#[test]
fn fixed_seeds_keep_every_promise() {
    let total = sweep(0..300);
    // A simulation in which nothing happens would pass as well.
    assert!(total["elections"] > 600, "{total:?}");
    assert!(total["acknowledged"] > 100_000 && total["reads"] > 50_000, "{total:?}");
    assert!(total["overwritten"] > 1_000 && total["lost_writes"] > 500, "{total:?}");
    assert!(
        total["faults"] > 2_000 && total["forgetful"] > 20 && total["refused"] > 5,
        "{total:?}"
    );
    let snapshots = ["built", "sent", "installed"].map(|what| total[&*format!("snapshots_{what}")]);
    assert!(snapshots[0] > 5_000 && snapshots[1] > 300 && snapshots[2] > 300, "{total:?}");
    assert!(total["changes"] > 80 && total["removed"] > 50, "{total:?}");
    assert!(total["transfers_ended"] > 30, "{total:?}");
    // A wiped disk may leave too few votes that count, above all where operators remove others
    // meanwhile. Nothing acknowledged may be lost then either; that is checked on the way.
    assert!((1..8).contains(&total["excused"]), "{total:?}");
}

/// Each kind of fault by itself, often.
#[test]
fn every_kind_of_fault_is_survived_alone() {
    for kind in Kind::ALL {
        let mut faults = 0;
        for seed in 0..6 {
            let mut plan = Plan::from_seed(seed);
            let millis = |d: std::time::Duration| d.as_millis() as u64;
            let (election, duration) = (millis(plan.election_max), millis(plan.duration));
            let rates = Rates::only(kind, election);
            plan.faults = rates.schedule(seed, plan.nodes, election, 2 * election..duration);
            let mut world = World::with(seed, plan, TraceMode::Tail(40), None);
            if let Err(failure) = world.run_to_the_end() {
                panic!("{} alone: {}", kind.name(), failure.in_full());
            }
            faults += world.statistics().faults;
        }
        assert!(faults > 10, "{}: {faults}", kind.name());
    }
}

/// Seeds that once failed, with what they found.
#[test]
fn seeds_that_found_something() {
    for (seed, found) in [
        // An overtaken conflict was taken for a lost disk, and `matched` went back to 0.
        (0, "a correct follower accused"),
        // A node alone was done at once, and the recovery waited for one more event.
        (3236, "the simulator's own patience"),
        // A member was removed and added again, while another had forgotten: the checker counted both.
        (618_142_144_009, "a leader accused that had every right to begin from nothing"),
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
        let hash = || run(seed, TraceMode::Hash).map(|report| report.hash);
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
            world.run_to_the_end().is_err_and(|failure| failure.promise == promise)
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
    for check in check::all() {
        let tried = PLANTED.iter().any(|(_, promise, _)| *promise == check.name());
        assert!(
            tried || SHOWN.contains(&check.name()) || IN_THE_ENGINE.contains(&check.name()),
            "{} is never tried",
            check.name()
        );
    }
}

/// What only a bug in the engine itself breaks: `sim/mutants` plants those.
const IN_THE_ENGINE: [&str; 9] = [
    "a log begins behind a durable snapshot",
    "a term begins with a candidate",
    "a higher term is followed",
    "no vote inside a promise",
    "who can't lead steps down",
    "one change at a time, when it is due",
    "who is to take over has the whole log",
    "a leader holds what it has room for",
    "who has lost entries elects nobody who lacks them",
];

/// Promises that no world around the engine can break, since the engine asserts them or does nothing
/// of the kind yet: their checkers have tests of their own.
const SHOWN: [&str; 2] = ["Leader Append-Only", "quorums of successive configurations overlap"];

/// Bug, the promise it breaks, and how many seeds may pass before it is seen.
const PLANTED: [(Sabotage, &str, u64); 18] = [
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
    (Sabotage::VotesAltered, "committed never changes", 300),
    (Sabotage::ReadsUnconfirmed, "reads are linearizable", 2),
    (Sabotage::WritesReordered, "a node can start from what its disk kept", 600),
    (Sabotage::SyncIgnored, "positions never go back", 20),
    (Sabotage::SyncIgnored, "Leader Completeness", 20),
    (Sabotage::AppliedEarly, "State Machine Safety", 20),
    (Sabotage::AppliedEarly, "positions are in order", 2),
    (Sabotage::NeverHeals, "the cluster recovers", 2),
];
