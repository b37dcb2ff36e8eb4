//! The peer: an openraft cluster in one process.
//!
//! Set up as openraft's own benchmark does (`benchmarks/minimal` in its repository): a memory log,
//! a state machine that does nothing, nodes that call one another. Where a choice is open, it goes
//! in openraft's favour, and says so.

mod network;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder};
use openraft::vote::RaftLeaderId;
use openraft::{
    Config, Entry, EntryPayload, RaftTypeConfig, ReadPolicy, ServerState, SnapshotPolicy,
};
use openraft_rt_tokio::TokioRuntime;

use self::network::Router;
use self::store::{LogStore, NullMachine};
use super::{BATCH, Client, Subject};
use crate::failure::Failure;

/// The types of the cluster: the smallest that there are, and of the two kinds of responder the
/// one that does less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Empty;
    type R = ();
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Empty, u64, ()>;
    type Entry = Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = TokioRuntime;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// A node.
type Raft = openraft::Raft<Types, NullMachine>;

/// The empty command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Empty;

impl fmt::Display for Empty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "empty")
    }
}

/// How long the cluster may take to elect its leader.
const START: Duration = Duration::from_secs(10);

/// The cluster.
pub(crate) struct Openraft {
    router: Router,
    nodes: BTreeMap<u64, Raft>,
    leader: Raft,
}

/// The settings of openraft's benchmark, but for the clock: heartbeats at half the rate are less
/// work, and with patient followers a busy machine deposes no leader. Larger batches, rarer
/// snapshots and rarer purges were tried, and made no difference.
fn config() -> Config {
    Config {
        heartbeat_interval: 100,
        election_timeout_min: 2000,
        election_timeout_max: 4000,
        max_payload_entries: 1024,
        purge_batch_size: 1024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(5000),
        ..Config::default()
    }
}

/// Turns an error of openraft into ours.
fn failed(doing: &str, error: impl fmt::Display) -> Failure {
    Failure::new(
        format!("openraft failed to {doing}: {error}"),
        "run it again on a machine that does nothing else",
    )
}

impl Subject for Openraft {
    type Client = OpenraftClient;

    async fn start(nodes: u64) -> Result<Self, Failure> {
        let config = Arc::new(config().validate().map_err(|e| failed("accept its settings", e))?);
        let router = Router::default();
        let members: BTreeSet<u64> = (1..=nodes).collect();
        let mut nodes = BTreeMap::new();
        for &id in &members {
            let (log, machine) = (LogStore::default(), NullMachine::default());
            let node = Raft::new(id, Arc::clone(&config), router.clone(), log, machine)
                .await
                .map_err(|e| failed("start a node", e))?;
            nodes.insert(id, node);
        }
        router.connect(nodes.clone());

        let leader = nodes[&1].clone();
        leader.initialize(members).await.map_err(|e| failed("initialize", e))?;
        leader
            .wait(Some(START))
            .state(ServerState::Leader, "the first node leads")
            .await
            .map_err(|e| failed("elect a leader", e))?;
        for node in nodes.values() {
            // Index 0 is the membership, 1 the blank entry of the new leader.
            node.wait(Some(START))
                .applied_index_at_least(Some(1), "the members agree")
                .await
                .map_err(|e| failed("replicate its first entries", e))?;
        }
        Ok(Self { router, nodes, leader })
    }

    fn client(&self) -> OpenraftClient {
        OpenraftClient { leader: self.leader.clone() }
    }

    async fn stop(self) -> Result<(), Failure> {
        // The nodes hold the router and the router holds the nodes: without this, neither is freed.
        self.router.disconnect();
        for node in self.nodes.values() {
            node.shutdown().await.map_err(|e| failed("stop a node", e))?;
        }
        Ok(())
    }
}

/// A client of the leader.
pub(crate) struct OpenraftClient {
    leader: Raft,
}

impl Client for OpenraftClient {
    async fn write(&mut self) -> Result<(), Failure> {
        match self.leader.client_write(Empty).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("write", error)),
        }
    }

    async fn write_batch(&mut self) -> Result<(), Failure> {
        let commands = [Empty; BATCH as usize];
        let mut answers =
            self.leader.client_write_many(commands).await.map_err(|e| failed("write", e))?;
        while let Some(answer) = answers.try_next().await.map_err(|e| failed("write", e))? {
            answer.map_err(|e| failed("write", e))?;
        }
        Ok(())
    }

    async fn read(&mut self, lease: bool) -> Result<(), Failure> {
        let policy = if lease { ReadPolicy::LeaseRead } else { ReadPolicy::ReadIndex };
        let read = self.leader.ensure_linearizable(policy).await;
        read.map(drop).map_err(|e| failed("read", e))
    }
}
