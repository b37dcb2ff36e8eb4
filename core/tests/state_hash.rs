//! Hazard: nondeterministic apply diverges in silence. Replicas compare digests of their states.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate::{
    ApplyMark, Committed, Config, Failure, InProcess, MemoryDisk, Metrics, NodeId, Postcard, Raft,
    Snapshot, StateMachine,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps what it was given, in the order in which a hash map gives it back: another one in each map,
/// since each has a seed of its own.
#[derive(Default)]
struct Unordered {
    seen: HashMap<u64, ()>,
    /// What this replica adds, and no other.
    bias: u64,
    random_order: bool,
    supported: bool,
}

#[async_trait]
impl StateMachine for Unordered {
    type Command = u64;
    type Response = u64;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<u64>>) -> Result<Vec<u64>, Failure> {
        let insert = |entry: Committed<u64>| {
            self.seen.insert(entry.command + self.bias, ());
            entry.command
        };
        Ok(entries.into_iter().map(insert).collect())
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        Snapshot::encode(&self.seen)
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        self.seen = snapshot.decode()?;
        Ok(())
    }

    async fn digest(&mut self) -> Result<Option<u64>, Failure> {
        let mut order: Vec<u64> = self.seen.keys().copied().collect();
        if !self.random_order {
            order.sort_unstable();
        }
        let mut hasher = DefaultHasher::new();
        order.hash(&mut hasher);
        Ok(self.supported.then(|| hasher.finish()))
    }
}

async fn cluster(machine: impl Fn(NodeId) -> Unordered) -> BTreeMap<NodeId, Raft<Unordered>> {
    let network = InProcess::default();
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        let mut config = Config::default();
        config.state_hash_entries = Some(20);
        let raft = Raft::builder(id, machine(id))
            .in_memory()
            .network(Arc::new(network.clone()))
            .config(config)
            .start()
            .await
            .unwrap();
        network.join(id, raft.host().inbound());
        nodes.insert(id, raft);
    }
    nodes[&1].initialize((1..=3).map(|id| (id, format!("{id}")))).await.unwrap();
    nodes[&1].wait(PATIENCE).leader().await.unwrap();
    nodes
}

/// Waits until `id` has stopped; its cause.
async fn stopped<S: StateMachine>(nodes: &BTreeMap<NodeId, Raft<S>>, id: NodeId) -> String {
    let fatal = |m: &Metrics| m.fatal.is_some();
    nodes[&id].wait(PATIENCE).until("a stop", fatal).await.unwrap().fatal.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_diverges_stops_and_the_others_go_on() {
    for biased in 1..=3 {
        let bias = |id| u64::from(id == biased) << 32;
        let machine = |id| Unordered { bias: bias(id), supported: true, ..Unordered::default() };
        let nodes = cluster(machine).await;
        let good = if biased == 1 { 2 } else { 1 };
        for n in 0..40 {
            nodes[&good].write(n).await.ok();
        }
        let cause = stopped(&nodes, biased).await;
        assert!(cause.contains("most replicas") && cause.contains("behind entry"), "{cause}");
        // What is passed on to a leader that has stopped may have been done or not.
        let other = move |m: &Metrics| m.leader.is_some_and(|leader| leader != biased);
        nodes[&good].wait(PATIENCE).until("another leader", other).await.unwrap();
        for n in 40..100 {
            nodes[&good].write(n).await.unwrap();
        }
        for (id, node) in nodes.iter().filter(|(id, _)| **id != biased) {
            assert_eq!(node.metrics().fatal, None, "node {id}");
        }
        for node in nodes.values() {
            node.shutdown().await;
        }
    }
}

/// Every replica has an order of its own: nobody can know which is right, one goes on.
#[tokio::test(start_paused = true)]
async fn a_machine_with_random_iteration_order_is_caught() {
    let machine = |_| Unordered { random_order: true, supported: true, ..Unordered::default() };
    let nodes = cluster(machine).await;
    let leader = nodes[&1].wait(PATIENCE).leader().await.unwrap();
    for n in 0..60 {
        // The quorum goes with the followers.
        tokio::time::timeout(Duration::from_secs(1), nodes[&leader].write(n)).await.ok();
    }
    for id in (1..=3).filter(|id| *id != leader) {
        let cause = stopped(&nodes, id).await;
        assert!(cause.contains("the leader has"), "{cause}");
    }
    assert_eq!(nodes[&leader].metrics().fatal, None);
    for node in nodes.values() {
        node.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn replicas_with_the_same_state_go_on_and_machines_without_a_digest_too() {
    for supported in [true, false] {
        // Without a digest a divergence is not seen: it costs nothing and promises nothing.
        let bias = |id| if supported { 0 } else { id << 32 };
        let nodes = cluster(|id| Unordered { bias: bias(id), supported, ..Unordered::default() });
        let nodes = nodes.await;
        for n in 0..200 {
            nodes[&(n % 3 + 1)].write(n).await.unwrap();
        }
        let last = nodes[&1].metrics().last;
        for node in nodes.values() {
            let metrics = node.wait(PATIENCE).applied(last).await.unwrap();
            assert_eq!(metrics.fatal, None);
        }
        for node in nodes.values() {
            node.shutdown().await;
        }
    }
}

/// Has no state but what the node gives it to keep, on a disk of its own, which may lose the sessions.
#[derive(Default)]
struct Keeper {
    mark: ApplyMark,
    disk: Arc<Mutex<ApplyMark>>,
    forgetful: bool,
}

#[async_trait]
impl StateMachine for Keeper {
    type Command = u64;
    type Response = u64;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<u64>>) -> Result<Vec<u64>, Failure> {
        let responses: Vec<u64> = entries.into_iter().map(|entry| entry.command).collect();
        let kept = ApplyMark::from_bytes(&self.mark.to_bytes::<Self>(&responses))?;
        *self.disk.lock().unwrap() = match kept.configuration() {
            Some(configuration) if self.forgetful => {
                ApplyMark::new(kept.last(), configuration.clone())
            }
            _ => kept,
        };
        Ok(responses)
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        Ok(Snapshot::from_bytes(""))
    }

    async fn restore(&mut self, _: Snapshot) -> Result<(), Failure> {
        Ok(())
    }

    async fn durable(&mut self) -> Result<Option<ApplyMark>, Failure> {
        Ok(Some(self.disk.lock().unwrap().clone()))
    }

    fn keep(&mut self, mark: ApplyMark) {
        self.mark = mark;
    }

    async fn digest(&mut self) -> Result<Option<u64>, Failure> {
        Ok(Some(1))
    }
}

/// What its state machine has is right: it would apply a write once more that is sent again.
#[tokio::test(start_paused = true)]
async fn a_replica_that_lost_its_sessions_stops() {
    for forgetful in [true, false] {
        let network = InProcess::default();
        let disks: [(MemoryDisk, Arc<Mutex<ApplyMark>>); 3] = Default::default();
        let start = |id: NodeId| {
            let (log, disk) = disks[id as usize - 1].clone();
            let machine = Keeper { disk, forgetful: forgetful && id == 3, ..Keeper::default() };
            let mut config = Config::default();
            config.state_hash_entries = Some(20);
            let network = network.clone();
            async move {
                let builder = Raft::builder(id, machine).storage(log.open()).config(config);
                let raft = builder.network(Arc::new(network.clone())).start().await.unwrap();
                network.join(id, raft.host().inbound());
                raft
            }
        };
        let mut nodes = BTreeMap::new();
        for id in 1..=3 {
            nodes.insert(id, start(id).await);
        }
        nodes[&1].initialize((1..=3).map(|id| (id, format!("{id}")))).await.unwrap();
        nodes[&1].wait(PATIENCE).leader().await.unwrap();
        let session = nodes[&1].session().await.unwrap();
        for n in 0..30 {
            session.write(n).await.unwrap();
        }
        let last = nodes[&1].metrics().last;
        let level = nodes[&3].wait(PATIENCE).applied(last).await.unwrap();
        assert_eq!(level.fatal, None, "it still has them in memory");
        network.leave(3);
        nodes[&3].shutdown().await;
        nodes.insert(3, start(3).await);
        for n in 0..30 {
            nodes[&1].write(n).await.unwrap();
        }
        if forgetful {
            let cause = stopped(&nodes, 3).await;
            assert!(cause.contains("most replicas"), "{cause}");
        }
        let last = nodes[&1].metrics().last;
        for (id, node) in nodes.iter().filter(|(id, _)| **id != 3 || !forgetful) {
            let metrics = node.wait(PATIENCE).applied(last).await.unwrap();
            assert_eq!(metrics.fatal, None, "node {id}");
        }
        for node in nodes.values() {
            node.shutdown().await;
        }
    }
}
