//! Clusters of real processes, load on them, and the check that counts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kv::client::{Client, Server, Status};
use kv::load::{self, Seen};
use kv::process::{self, NodeCommand, NodeProcess, Signal};
use tempfile::TempDir;

/// How long anything may take that has to come. Machines that run tests are slow at times.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kv"))
}

/// Polls until `check` has a value.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nodes with ids from 1 on, of which some run.
pub(crate) struct Cluster {
    pub(crate) commands: BTreeMap<u64, NodeCommand>,
    pub(crate) nodes: BTreeMap<u64, NodeProcess>,
    pub(crate) client: Client,
    pub(crate) directory: TempDir,
}

impl Cluster {
    /// Not started yet, so that a test can change the commands.
    pub(crate) fn prepared(size: usize) -> Self {
        let directory = TempDir::with_prefix("kv-test-").unwrap();
        let port = || process::free_port().unwrap();
        let ports: Vec<_> = (0..size).map(|_| (port(), port())).collect();
        let commands = process::on_loopback(program(), directory.path(), &ports);
        Self {
            commands: commands.into_iter().map(|command| (command.id, command)).collect(),
            nodes: BTreeMap::new(),
            // Shorter than what a paused node's callers would wait for.
            client: Client::new(Duration::from_secs(8)),
            directory,
        }
    }

    /// Started, with a leader that everyone follows.
    pub(crate) async fn start(size: usize) -> Self {
        let mut cluster = Self::prepared(size);
        cluster.up_all();
        cluster.complete().await;
        cluster
    }

    /// Waits until every node has, in its log, the data directory of each. Before, a node that is
    /// lost early has to come back: a missing one could have been wiped, and until it is known by
    /// its directory nobody could tell, so an election takes all three.
    pub(crate) async fn complete(&self) {
        self.all_healthy().await;
        let ids: Vec<String> = self.ids().iter().map(u64::to_string).collect();
        for id in self.ids() {
            self.says(id, &format!("bound={}", ids.join(","))).await;
        }
    }

    /// Prepares one more node, which joins at node `at` when it is started.
    pub(crate) fn newcomer(&mut self, id: u64, at: u64, more: &[&str]) {
        let address = || format!("127.0.0.1:{}", process::free_port().unwrap());
        let join = ["--join".to_owned(), self.server(at).to_string()];
        let command = NodeCommand {
            id,
            data: self.directory.path().join(format!("node-{id}")),
            raft: address(),
            http: address(),
            peers: BTreeMap::new(),
            bootstrap: false,
            more: join.into_iter().chain(more.iter().copied().map(str::to_owned)).collect(),
            log: self.directory.path().join(format!("node-{id}.log")),
            ..self.commands[&at].clone()
        };
        self.commands.insert(id, command);
    }

    pub(crate) fn up(&mut self, id: u64) {
        self.nodes.insert(id, self.commands[&id].start().unwrap());
    }

    pub(crate) fn up_all(&mut self) {
        for id in self.ids() {
            if !self.nodes.contains_key(&id) {
                self.up(id);
            }
        }
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.commands.keys().copied().collect()
    }

    pub(crate) fn others(&self, id: u64) -> Vec<u64> {
        self.ids().into_iter().filter(|other| *other != id).collect()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, id: u64) {
        self.nodes.remove(&id).expect("it runs").kill().unwrap();
    }

    /// SIGTERM; it must end by itself, with code 0.
    pub(crate) async fn stop(&mut self, id: u64) {
        let mut node = self.nodes.remove(&id).expect("it runs");
        node.signal(Signal::TERM).unwrap();
        let status = node.wait(PATIENCE).await.unwrap().expect("it stops");
        assert!(status.success(), "node {id} ended with {status}");
    }

    pub(crate) fn signal(&mut self, id: u64, signal: Signal) {
        self.nodes.get_mut(&id).expect("it runs").signal(signal).unwrap();
    }

    pub(crate) fn server(&self, id: u64) -> Server {
        format!("http://{}", self.commands[&id].http).parse().unwrap()
    }

    pub(crate) fn servers(&self) -> Vec<Server> {
        self.ids().into_iter().map(|id| self.server(id)).collect()
    }

    pub(crate) async fn status(&self, id: u64) -> Option<Status> {
        self.client.status(&self.server(id)).await.ok()
    }

    /// Waits until one of `among` leads; returns it.
    pub(crate) async fn leader_among(&self, among: &[u64]) -> u64 {
        eventually("a leader", async || {
            for id in among {
                if self.status(*id).await.is_some_and(|status| status.role == "leader") {
                    return Some(*id);
                }
            }
            None
        })
        .await
    }

    pub(crate) async fn leader(&self) -> u64 {
        self.leader_among(&self.ids()).await
    }

    pub(crate) async fn healthy(&self, ids: &[u64]) {
        for id in ids {
            eventually(&format!("node {id} to be healthy"), async || {
                self.client.healthy(&self.server(*id)).await.ok().filter(|healthy| *healthy)
            })
            .await;
        }
    }

    pub(crate) async fn all_healthy(&self) {
        self.healthy(&self.ids()).await;
    }

    /// What a node has printed in all its lives.
    pub(crate) fn printed(&self, id: u64) -> String {
        self.commands[&id].printed()
    }

    /// Waits until a node has printed something.
    pub(crate) async fn says(&self, id: u64, text: &str) {
        let what = format!("node {id} to say {text:?}");
        eventually(&what, async || self.printed(id).contains(text).then_some(())).await;
    }

    /// Reads every pair from every one of `ids`, linearizably.
    pub(crate) async fn holds(&self, ids: &[u64], pairs: Vec<(String, Bytes)>) {
        let pairs = Arc::new(pairs);
        for id in ids {
            let mut seen = load::read_back(&self.client, &self.server(*id), &pairs);
            while let Some(seen) = seen.recv().await {
                match seen {
                    Seen::Same => {}
                    Seen::Lost { pair } => panic!("node {id} lost {:?}", pairs[pair].0),
                    Seen::Unread { error } => panic!("node {id} can't be read: {error}"),
                }
            }
        }
    }

    /// Stops all in order; none may have panicked in any of its lives.
    pub(crate) async fn end(mut self) {
        for id in self.ids() {
            if self.nodes.contains_key(&id) {
                self.stop(id).await;
            }
        }
        for id in self.ids() {
            assert!(!self.printed(id).contains("panicked"), "node {id} panicked");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for id in self.ids() {
                eprintln!("--- node {id}\n{}", self.printed(id));
            }
        }
    }
}

/// Writers that put one key after the other, at every node, until they are told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(String, Bytes)>>>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::<Mutex<Vec<_>>>::default();
        // A paused node answers nobody: go elsewhere soon.
        let client = Client::new(Duration::from_secs(2));
        let writers = (0..8).map(|writer: usize| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            let (client, servers) = (client.clone(), cluster.servers());
            tokio::spawn(async move {
                let mut at = writer;
                for number in 0.. {
                    let key = format!("load/{writer}/{number}");
                    let value = Bytes::from(format!("value of {key}"));
                    // Once more after an unknown outcome too: the key is this writer's own.
                    while client
                        .put(&servers[at % servers.len()], &key, value.clone())
                        .await
                        .is_err()
                    {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        at += 1;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    acknowledged.lock().unwrap().push((key, value));
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        });
        Self { writers: writers.collect(), stop, acknowledged }
    }

    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits for this many more acknowledgements.
    pub(crate) async fn goes_on(&self, more: usize) {
        let goal = self.count() + more;
        eventually("writes to go on", async || (self.count() >= goal).then_some(())).await;
    }

    /// Ends the load; what was acknowledged.
    pub(crate) async fn finish(self) -> Vec<(String, Bytes)> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }
}
