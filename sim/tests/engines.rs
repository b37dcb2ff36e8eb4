//! Clusters of engines under seeded faults; see the crate's page for what the world does to them.
//!
//! A failure names its seed and the command that replays it with a readable trace.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_sim::{Failure, Plan, Sabotage, Statistics, TraceMode, World};

/// Runs one world to its end. A panic of an engine is a failure like any other.
fn run(seed: u64, trace: TraceMode, sabotage: Option<Sabotage>) -> Result<World, String> {
    let mut world = World::with(seed, Plan::from_seed(seed), trace, sabotage);
    let ended = catch_unwind(AssertUnwindSafe(|| -> Result<(), Failure> {
        world.run()?;
        world.settle()
    }));
    let what = match ended {
        Ok(Ok(())) => return Ok(world),
        Ok(Err(failure)) => failure.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or(panic.downcast_ref::<&str>().map(|s| s.to_string()));
            Failure {
                seed,
                at: world.time(),
                promise: "no engine panics",
                what: text.unwrap_or_default(),
            }
            .to_string()
        }
    };
    let lines: Vec<&str> = world.trace().lines().collect();
    Err(format!("{what}\n{}", lines.join("\n")))
}

fn sweep(seeds: std::ops::Range<u64>) -> Statistics {
    let mut total = Statistics::default();
    for seed in seeds {
        match run(seed, TraceMode::Off, None) {
            Ok(world) => {
                let s = world.statistics();
                total.steps += s.steps;
                total.elections += s.elections;
                total.acknowledged += s.acknowledged;
                total.overwritten += s.overwritten;
                total.reads += s.reads;
                total.crashes += s.crashes;
                total.lost_writes += s.lost_writes;
            }
            // Once more, for the lines before the failure.
            Err(first) => match run(seed, TraceMode::Tail(60), None) {
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
        let ended = run(seed, TraceMode::Print, None).map(|world| world.statistics());
        println!("{ended:#?}");
        assert!(ended.is_ok(), "seed {seed} fails");
    }
    if let Ok(range) = std::env::var("QUORATE_SEEDS") {
        let (from, to) = range.split_once("..").expect("QUORATE_SEEDS is a range a..b");
        let number = |s: &str| s.parse::<u64>().expect("QUORATE_SEEDS is a range a..b");
        println!("{:#?}", sweep(number(from)..number(to)));
    }
}
