//! Quorate: a cluster in one process, memory for a disk.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::quorate::{
    Committed, Config, Failure as Broken, InProcess, Raft, Raw, ReadMode, Snapshot, StateMachine,
};
use async_trait::async_trait;
use bytes::Bytes;

use super::{BATCH, Client, Subject};
use crate::failure::Failure;

/// The cluster.
pub(crate) struct Quorate {
    nodes: Vec<Raft<Nothing>>,
    leader: Raft<Nothing>,
}

/// A state machine that does nothing.
pub(crate) struct Nothing;

#[async_trait]
impl StateMachine for Nothing {
    type Command = Bytes;
    type Response = ();
    type Codec = Raw;

    async fn apply(&mut self, entries: Vec<Committed<Bytes>>) -> Result<Vec<()>, Broken> {
        Ok(vec![(); entries.len()])
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Broken> {
        Ok(Snapshot::from_bytes(""))
    }

    async fn restore(&mut self, _: Snapshot) -> Result<(), Broken> {
        Ok(())
    }
}

/// Turns an error of Quorate into ours.
fn failed(doing: &str, error: impl fmt::Display) -> Failure {
    Failure::new(
        format!("quorate failed to {doing}: {error}"),
        "run it again on a machine that does nothing else",
    )
}

impl Subject for Quorate {
    type Client = QuorateClient;

    async fn start(nodes: u64) -> Result<Self, Failure> {
        let network = InProcess::new();
        let members: Vec<(u64, String)> = (1..=nodes).map(|id| (id, id.to_string())).collect();
        let mut nodes = Vec::new();
        for &(id, _) in &members {
            // As patient as the peer, so that a busy machine deposes no leader.
            let mut config = Config::default();
            config.election_timeout_min = Duration::from_secs(2);
            config.election_timeout_max = Duration::from_secs(4);
            let node = Raft::builder(id, Nothing)
                .in_memory()
                .network(Arc::new(network.clone()))
                .config(config)
                .start()
                .await
                .map_err(|e| failed("start a node", e))?;
            network.join(id, node.host().inbound());
            nodes.push(node);
        }
        nodes[0].initialize(members).await.map_err(|e| failed("initialize", e))?;
        let wait = nodes[0].wait(Duration::from_secs(20));
        let leader = wait.leader().await.map_err(|e| failed("elect a leader", e))?;
        let leader = nodes.iter().find(|node| node.id() == leader).expect("a member").clone();
        Ok(Self { nodes, leader })
    }

    fn client(&self) -> QuorateClient {
        QuorateClient { leader: self.leader.clone() }
    }

    async fn stop(self) -> Result<(), Failure> {
        // Shut down, each leader would hand over, and the last one wait a whole election timeout for
        // somebody to hand over to. Nodes whose handles are gone end by themselves.
        drop((self.nodes, self.leader));
        Ok(())
    }
}

/// A client of the leader.
pub(crate) struct QuorateClient {
    leader: Raft<Nothing>,
}

impl Client for QuorateClient {
    async fn write(&mut self) -> Result<(), Failure> {
        self.leader.write(Bytes::new()).await.map_err(|e| failed("write", e))
    }

    async fn write_batch(&mut self) -> Result<(), Failure> {
        let commands = [const { Bytes::new() }; BATCH as usize];
        self.leader.write_many(commands).await.map(drop).map_err(|e| failed("write", e))
    }

    async fn read(&mut self, lease: bool) -> Result<(), Failure> {
        let mode = if lease { ReadMode::Lease } else { ReadMode::Index };
        self.leader.ensure_linearizable_with(mode).await.map_err(|e| failed("read", e))
    }
}
