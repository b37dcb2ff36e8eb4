//! Nodes of ours in processes, and a client of them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream;
use quorate::{Client, RoleKind};
use tokio::time::{sleep, timeout};

use super::load::{Key, Service, Writer};
use super::server::{LEADS, LEVEL, Table};
use super::{NODES, start_child};
use crate::child::Child;
use crate::failure::Failure;
use crate::snapshot::Memory;

/// How long an election may take, at the worst.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two questions who leads.
const LOOK: Duration = Duration::from_millis(20);

/// Commands in each call that fills a log, and calls under way.
const FILL_BATCH: u64 = 1000;
const FILL_CALLS: usize = 8;

/// The cluster. Dropping it ends its processes.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    snapshots: Snapshots,
    /// One, as an application has it: all calls go over its connection.
    client: Client<Table>,
}

/// A member, and what it is started with.
struct Node {
    id: u64,
    data: PathBuf,
    address: String,
    child: Child,
}

/// Whether nodes build snapshots, and throw away what of the log these stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Snapshots {
    /// As by default.
    Default,
    /// The log keeps all that was ever written.
    Never,
}

fn failed(doing: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(
        format!("the cluster failed to {doing}: {error}"),
        "run it again on a machine that does nothing else",
    )
}

impl Node {
    /// Starts a process; [`address`](Self::address) is where it is to listen, and then where it does.
    async fn start(
        id: u64,
        data: &Path,
        address: &str,
        snapshots: Snapshots,
    ) -> Result<Self, Failure> {
        let mut arguments: Vec<OsString> = vec!["node".into(), id.to_string().into(), data.into()];
        arguments.extend(["--listen".into(), address.into()]);
        if snapshots == Snapshots::Never {
            arguments.push("--no-snapshots".into());
        }
        let mut child = start_child(format!("node {id}"), arguments)?;
        let address = child.line().await?;
        Ok(Self { id, data: data.into(), address, child })
    }
}

impl Cluster {
    /// A fresh cluster of so many nodes with their data in `directory`, which takes writes.
    pub(crate) async fn of(
        directory: &Path,
        nodes: u64,
        snapshots: Snapshots,
    ) -> Result<Self, Failure> {
        let start = async |id| {
            let data = directory.join(format!("node-{id}"));
            Node::start(id, &data, "127.0.0.1:0", snapshots).await
        };
        let started = futures::future::join_all((1..=nodes).map(start)).await;
        let mut nodes = started.into_iter().collect::<Result<Vec<Node>, _>>()?;
        let members: Vec<String> =
            nodes.iter().map(|node| format!("{}={}", node.id, node.address)).collect();
        nodes[0].child.tell(&members.join(",")).await?;
        let addresses = nodes.iter().map(|node| &node.address);
        let mut client = Client::connect(addresses).await.map_err(|e| failed("answer", e))?;
        // Elects a leader, if there is none yet, and finds it.
        client.put(&Key::of(0), &Bytes::new()).await?;
        Ok(Self { nodes, snapshots, client })
    }

    /// Writes values of so many bytes until the log has had `entries` entries.
    pub(crate) async fn fill(&self, entries: u64, value_bytes: usize) -> Result<(), Failure> {
        let last = self.client.status().await.map_err(|e| failed("answer", e))?.last;
        let value = vec![b'v'; value_bytes];
        let call = |first: u64| {
            let keys = first..entries.min(first + FILL_BATCH);
            self.client.write_many(keys.map(|key| command(&Key::of(key), &value)))
        };
        let firsts = (last..entries).step_by(FILL_BATCH as usize);
        let mut calls = stream::iter(firsts.map(call)).buffer_unordered(FILL_CALLS);
        while let Some(written) = calls.next().await {
            written.map_err(|e| failed("write", e))?;
        }
        Ok(())
    }

    /// Which node leads, counted from 0, and its term.
    pub(crate) async fn leader(&self) -> Result<(usize, u64), Failure> {
        let find = async {
            loop {
                // Whoever is asked answers for itself: the leader, if the client knows it.
                match self.client.status().await {
                    Ok(status) if status.role == RoleKind::Leader => {
                        return (status.id as usize - 1, status.term);
                    }
                    _ => sleep(LOOK).await,
                }
            }
        };
        timeout(PATIENCE, find).await.map_err(|late| failed("elect a leader", late))
    }

    /// Kills a process at once, as by `kill -9`.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].child.kill();
    }

    /// Starts a node again that was killed, on its data and at its address; returns when it has recovered
    /// its log.
    pub(crate) async fn restart(&mut self, node: usize) -> Result<(), Failure> {
        let Node { id, data, address, .. } = &self.nodes[node];
        self.nodes[node] = Node::start(*id, data, address, self.snapshots).await?;
        Ok(())
    }

    /// Returns when this node has applied all that was committed before.
    pub(crate) async fn level(&mut self, node: usize) -> Result<(), Failure> {
        let child = &mut self.nodes[node].child;
        child.tell(LEVEL).await?;
        while child.line().await? != LEVEL {}
        Ok(())
    }

    /// Returns when a node that has not been killed says that it leads in a later term.
    pub(crate) async fn led_after(&mut self, term: u64) -> Result<(), Failure> {
        let living = self.nodes.iter_mut().filter_map(|node| node.child.lives().then_some(node));
        let later = living.map(|node| {
            Box::pin(async move {
                loop {
                    let line = node.child.line().await?;
                    let led = line.strip_prefix(LEADS).and_then(|led| led.trim().parse().ok());
                    if led.is_some_and(|led: u64| led > term) {
                        return Ok(());
                    }
                }
            })
        });
        futures::future::select_all(later).await.0
    }

    /// What the first node has in memory for itself.
    pub(crate) fn memory_bytes(&self) -> Option<f64> {
        let memory = Memory::of(self.nodes[0].child.id())?;
        Some(memory.resident.saturating_sub(memory.mapped) as f64)
    }
}

impl Service for Cluster {
    type Writer = Client<Table>;

    async fn start(directory: &Path) -> Result<Self, Failure> {
        Self::of(directory, NODES, Snapshots::Default).await
    }

    fn writer(&self, _: usize) -> Client<Table> {
        self.client.clone()
    }

    fn end(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.child.end());
    }
}

/// What the table takes for a put.
fn command(key: &Key, value: &[u8]) -> Bytes {
    let mut command = BytesMut::with_capacity(key.bytes().len() + value.len());
    command.put_slice(key.bytes());
    command.put_slice(value);
    command.freeze()
}

impl Writer for Client<Table> {
    async fn put(&mut self, key: &Key, value: &Bytes) -> Result<(), Failure> {
        self.write(command(key, value)).await.map_err(|e| failed("write", e))
    }
}
