//! The real node in a simulated world.

use std::time::Duration;

use quorate::testing::Counter;
use quorate_sim::TraceMode;
use quorate_sim::cluster::{Cluster, Plan, Sim, explore};

/// The same seed gives the same run to the byte, tasks, log, transport and all.
#[test]
fn the_same_seed_gives_the_same_trace() {
    let test = async |sim: Sim| {
        let cluster = Cluster::start(&sim, 3, |_| Counter::default()).await;
        for round in 0..5 {
            let leader = cluster.leader().await;
            cluster.node(leader % 3 + 1).write(5).await.unwrap();
            cluster.crash(leader).await;
            let next = cluster.leader().await;
            cluster.node(next).write(2).await.unwrap();
            cluster.settle().await;
            for node in cluster.nodes() {
                assert_eq!(node.read(|counter| counter.total).await.unwrap(), 7 * (round + 1));
            }
        }
        sim.sleep(Duration::from_secs(1)).await;
    };
    let mut hashes = Vec::new();
    for seed in 0..10 {
        let run = || {
            let (result, trace) = Sim::run_traced(seed, TraceMode::Tail(40), test);
            result.unwrap_or_else(|e| {
                panic!("{e}\n{}", trace.lines().collect::<Vec<_>>().join("\n"))
            });
            trace.hash()
        };
        let first = run();
        assert_eq!(first, run(), "seed {seed} is not deterministic");
        hashes.push(first);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 10);
}

/// Worlds of every kind of trouble.
#[test]
fn fixed_seeds_keep_every_promise() {
    let range = std::env::var("QUORATE_SEEDS").unwrap_or("0..30".into());
    let (from, to) = range.split_once("..").unwrap();
    for seed in from.parse::<u64>().unwrap()..to.parse().unwrap() {
        let began = std::time::Instant::now();
        let plan = Plan::from_seed(seed);
        let (result, trace) = explore(seed, &plan, TraceMode::Tail(60));
        match result {
            Ok(report) => println!("{seed} {:?} {report:?}", began.elapsed()),
            Err(failure) => {
                println!("{failure}\n{}", trace.lines().collect::<Vec<_>>().join("\n"));
                panic!("{failure}");
            }
        }
    }
}
