//! Nodes with nothing to do sleep: nothing wakes them but heartbeats, and the timers of elections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use quorate::testing::Counter;
use quorate::{Config, Env, InProcess, Raft, TokioEnv};
use quorate_engine::Instant;
use tokio::task::JoinHandle;

/// Counts the timers that go off.
struct Counting {
    tokio: TokioEnv,
    timers: Arc<AtomicU64>,
}

impl Env for Counting {
    fn now(&self) -> Instant {
        self.tokio.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (sleep, timers) = (self.tokio.sleep(duration), self.timers.clone());
        Box::pin(async move {
            sleep.await;
            timers.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> JoinHandle<()> {
        self.tokio.spawn(task)
    }

    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        self.tokio.run_blocking(work)
    }

    fn random(&self) -> u64 {
        self.tokio.random()
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn only_heartbeats_and_elections_wake_idle_nodes() {
    let network = InProcess::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let env = Arc::new(Counting { tokio: TokioEnv::new(), timers: Arc::default() });
        let node = Raft::builder(id, Counter::default())
            .in_memory()
            .network(Arc::new(network.clone()))
            .env(env.clone())
            .start()
            .await
            .unwrap();
        network.join(id, node.host().inbound());
        nodes.push((node, env));
    }
    nodes[0].0.initialize((1..=3).map(|id| (id, id.to_string()))).await.unwrap();
    // Writes have deadlines, which are looked at for as long as there are any.
    nodes[1].0.write(1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let leader = nodes[0].0.metrics().leader.unwrap();

    const SECONDS: u64 = 20;
    let timers = |env: &Counting| env.timers.load(Ordering::Relaxed);
    let before: Vec<u64> = nodes.iter().map(|(_, env)| timers(env)).collect();
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;

    let config = Config::default();
    let span = Duration::from_secs(SECONDS).as_millis();
    // A follower's timer is not moved with each heartbeat: it goes off in vain, and is set again for an
    // election timeout after the last of them.
    let heartbeats = (span / config.heartbeat_interval.as_millis()) as u64;
    let elections =
        (span / (config.election_timeout_min - config.heartbeat_interval).as_millis()) as u64;
    for ((node, env), before) in nodes.iter().zip(before) {
        let woken = timers(env) - before;
        let most = if node.id() == leader { heartbeats } else { elections };
        assert!(
            woken <= most + 1,
            "node {}, leader {leader}: {woken} timers, not {most}",
            node.id()
        );
        assert_eq!(node.metrics().leader, Some(leader));
    }
}
