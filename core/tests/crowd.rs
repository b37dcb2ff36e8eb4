//! Many callers at a time, on runtimes with threads of their own, who come and go: every answer is its caller's,
//! and nobody waits in vain.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::poll;
use quorate::testing::Counter;
use quorate::{Raft, WriteError};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Enough to be told by post.
const CALLERS: u64 = 600;

const WRITES: u64 = 20;

/// Long enough for anything that is going to happen.
const PATIENCE: Duration = Duration::from_secs(60);

fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

/// A node that leads, on a runtime of its own.
fn node() -> (Runtime, Raft<Counter>) {
    let nodes = runtime(1);
    let raft = nodes.block_on(async {
        let raft = Raft::builder(1, Counter::default()).in_memory().start().await.unwrap();
        raft.initialize([(1, "")]).await.unwrap();
        raft.wait(PATIENCE).leader().await.unwrap();
        raft
    });
    (nodes, raft)
}

/// Each adds one so many times, and has the sums behind that.
fn crowd(on: &Runtime, raft: &Raft<Counter>, writes: u64) -> Vec<JoinHandle<Vec<u64>>> {
    let caller = |raft: Raft<Counter>| async move {
        let mut sums = Vec::new();
        for _ in 0..writes {
            sums.push(raft.write(1).await.unwrap());
        }
        sums
    };
    (0..CALLERS).map(|_| on.spawn(caller(raft.clone()))).collect()
}

/// A task that has ended is told to whoever waits for it, and only then let go of by its worker.
fn no_task_is_left(on: &Runtime) {
    let began = Instant::now();
    while on.metrics().num_alive_tasks() > 0 {
        assert!(began.elapsed() < PATIENCE, "{} tasks", on.metrics().num_alive_tasks());
        std::thread::yield_now();
    }
}

async fn sums(crowd: Vec<JoinHandle<Vec<u64>>>) -> Vec<u64> {
    let all = tokio::time::timeout(PATIENCE, join_all(crowd)).await.expect("nobody waits in vain");
    let mut sums: Vec<u64> = all.into_iter().flat_map(|sums| sums.unwrap()).collect();
    sums.sort_unstable();
    sums
}

#[test]
fn every_caller_of_every_runtime_has_its_own_answers() {
    let (nodes, raft) = node();
    let (first, second) = (runtime(2), runtime(1));
    let mut all = crowd(&first, &raft, WRITES);
    all.extend(crowd(&second, &raft, WRITES));
    all.extend(crowd(&nodes, &raft, WRITES));
    let sums = nodes.block_on(sums(all));
    assert_eq!(sums, (1..=3 * CALLERS * WRITES).collect::<Vec<_>>());
}

#[test]
fn who_goes_away_takes_nobody_elses_answer() {
    let (_nodes, raft) = node();
    let callers = runtime(2);
    let staying = crowd(&callers, &raft, WRITES);
    let done = Arc::new(AtomicBool::new(false));
    let leaving: Vec<_> = (0..CALLERS)
        .map(|n| {
            let (raft, done) = (raft.clone(), done.clone());
            callers.spawn(async move {
                let (mut asked, mut sums) = (0, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    // It looks a few times, and goes before its answer is there, or when it is there unseen.
                    let mut write = Box::pin(raft.write(1));
                    asked += 1;
                    for _ in 0..n % 4 {
                        if let Poll::Ready(sum) = poll!(&mut write) {
                            sums.push(sum.unwrap());
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    tokio::task::yield_now().await;
                }
                (asked, sums)
            })
        })
        .collect();
    callers.block_on(async {
        let mut seen = sums(staying).await;
        assert_eq!(seen.len() as u64, CALLERS * WRITES);
        done.store(true, Ordering::Relaxed);
        let left = tokio::time::timeout(PATIENCE, join_all(leaving)).await.expect("nobody waits");
        let mut asked = CALLERS * WRITES;
        for caller in left {
            let (more, sums) = caller.unwrap();
            asked += more;
            seen.extend(sums);
        }
        let total = raft.read(|counter| counter.total).await.unwrap();
        seen.sort_unstable();
        let answers = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), answers, "two have the same answer");
        assert!(seen.last() <= Some(&total) && total <= asked, "{seen:?} {total} {asked}");
    });
}

#[test]
fn a_runtime_that_ends_takes_its_own_callers_only() {
    let (_nodes, raft) = node();
    let (staying, leaving) = (runtime(1), runtime(1));
    // First, so that the postman is among those who leave.
    let gone = crowd(&leaving, &raft, u64::MAX);
    let all = crowd(&staying, &raft, WRITES);
    staying.block_on(async {
        raft.wait(PATIENCE).applied(CALLERS).await.unwrap();
        leaving.shutdown_background();
        let sums = sums(all).await;
        assert_eq!(sums.len() as u64, CALLERS * WRITES);
        for caller in gone {
            assert!(caller.await.unwrap_err().is_cancelled());
        }
    });
    // And those who come later have a postman again.
    let all = crowd(&staying, &raft, WRITES);
    assert_eq!(staying.block_on(sums(all)).len() as u64, CALLERS * WRITES);
}

#[test]
fn a_shutdown_answers_the_crowd_and_leaves_no_task() {
    let (nodes, raft) = node();
    let callers = runtime(2);
    let all: Vec<_> = (0..CALLERS)
        .map(|_| {
            let raft = raft.clone();
            callers.spawn(async move {
                loop {
                    match raft.write(1).await {
                        Ok(_) => {}
                        Err(end) => break end,
                    }
                }
            })
        })
        .collect();
    callers.block_on(async {
        raft.wait(PATIENCE).applied(CALLERS).await.unwrap();
        raft.shutdown().await;
        for end in tokio::time::timeout(PATIENCE, join_all(all)).await.expect("nobody waits") {
            let end = end.unwrap();
            assert!(matches!(end, WriteError::Stopped | WriteError::Unknown), "{end}");
        }
        assert!(matches!(raft.write(1).await, Err(WriteError::Stopped)));
    });
    no_task_is_left(&callers);
    no_task_is_left(&nodes);
}

#[test]
fn a_shutdown_that_is_given_up_while_answers_are_held_up_may_be_called_again() {
    let (nodes, raft) = node();
    let callers = runtime(1);
    callers.block_on(sums(crowd(&callers, &raft, WRITES)));
    // From here on their runtime does nothing else, also not for whoever is there to tell them.
    let (held, is_held) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    callers.spawn(async move {
        held.send(()).unwrap();
        wait.recv().unwrap_err();
    });
    is_held.recv().unwrap();
    nodes.block_on(async {
        let given_up = tokio::time::timeout(Duration::from_millis(500), raft.shutdown()).await;
        assert!(given_up.is_err());
        drop(go_on);
        tokio::time::timeout(PATIENCE, raft.shutdown()).await.expect("it ends");
        assert!(matches!(raft.write(1).await, Err(WriteError::Stopped)));
    });
    no_task_is_left(&nodes);
}
