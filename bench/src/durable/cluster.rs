//! Three nodes of ours, and clients of them.

use std::path::Path;

use bytes::{BufMut as _, Bytes, BytesMut};
use quorate::Client;

use super::NODES;
use super::child::Child;
use super::load::{Key, Service, Writer};
use super::server::Table;
use crate::failure::Failure;

/// Connections that the load is spread over: one, as an application has it; all calls of a client go
/// over it.
const CONNECTIONS: usize = 1;

/// The cluster. Dropping it ends its processes.
pub(super) struct Cluster {
    nodes: Vec<Child>,
    clients: Vec<Client<Table>>,
}

fn failed(doing: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(
        format!("the cluster failed to {doing}: {error}"),
        "run it again on a machine that does nothing else",
    )
}

impl Service for Cluster {
    type Writer = Client<Table>;

    async fn start(directory: &Path) -> Result<Self, Failure> {
        let start = |id: u64| {
            let data = directory.join(format!("node-{id}")).into();
            Child::start(format!("node {id}"), ["node".into(), id.to_string().into(), data])
        };
        let mut nodes = (1..=NODES).map(start).collect::<Result<Vec<_>, _>>()?;
        let mut addresses = Vec::new();
        for node in &mut nodes {
            addresses.push(node.line().await?);
        }
        let members: Vec<String> =
            (1..).zip(&addresses).map(|(id, address)| format!("{id}={address}")).collect();
        nodes[0].tell(&members.join(",")).await?;
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect(&addresses).await.map_err(|e| failed("answer", e))?;
            // Elects a leader, if there is none yet, and finds it.
            client.put(&Key::of(0), &Bytes::new()).await?;
            clients.push(client);
        }
        Ok(Self { nodes, clients })
    }

    fn writer(&self, number: usize) -> Client<Table> {
        self.clients[number % self.clients.len()].clone()
    }

    fn end(&mut self) {
        self.nodes.iter_mut().for_each(Child::end);
    }
}

impl Writer for Client<Table> {
    async fn put(&mut self, key: &Key, value: &Bytes) -> Result<(), Failure> {
        let mut command = BytesMut::with_capacity(key.bytes().len() + value.len());
        command.put_slice(key.bytes());
        command.put_slice(value);
        self.write(command.freeze()).await.map_err(|e| failed("write", e))
    }
}
