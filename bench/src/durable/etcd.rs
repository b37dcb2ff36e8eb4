//! The peer: three members of etcd, all settings as they are by default but for where they listen and
//! keep their data.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, KvClient};
use kv::process::free_port;
use tokio::time::{Instant, sleep};

use super::load::{Key, Service, Writer};
use super::{NODES, start_child};
use crate::child::Child;
use crate::failure::Failure;

/// Connections that the load is spread over, each an HTTP/2 channel to the leader: one, as ours.
const CONNECTIONS: usize = 1;

/// How long an election may take.
const STARTUP: Duration = Duration::from_secs(30);

/// Between two questions who leads.
const LOOK: Duration = Duration::from_millis(20);

/// The cluster. Dropping it ends its processes.
pub(super) struct Etcd {
    members: Vec<Child>,
    clients: Vec<KvClient>,
}

fn failed(doing: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(
        format!("etcd failed to {doing}: {error}"),
        "run it again on a machine that does nothing else",
    )
}

/// Where `etcd` is.
pub(super) fn program() -> Result<PathBuf, Failure> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|at| at.join("etcd")).find(|file| file.is_file());
    found.ok_or_else(|| {
        Failure::new("there is no `etcd` on PATH", "install it (Debian: `apt install etcd-server`)")
    })
}

impl Service for Etcd {
    type Writer = KvClient;

    async fn start(directory: &Path) -> Result<Self, Failure> {
        let program = program()?;
        let url = || {
            let port = free_port().map_err(|error| failed("find a port", error))?;
            Ok(format!("http://127.0.0.1:{port}"))
        };
        let urls = (0..NODES).map(|_| Ok((url()?, url()?))).collect::<Result<Vec<_>, Failure>>()?;
        let peers: Vec<String> =
            (1..).zip(&urls).map(|(id, (peer, _))| format!("etcd-{id}={peer}")).collect();
        let peers = peers.join(",");
        let start = |(id, (peer, client)): (u64, &(String, String))| {
            let name = format!("etcd-{id}");
            let data = directory.join(&name);
            let arguments: [(&str, OsString); 8] = [
                ("--name", name.clone().into()),
                ("--data-dir", data.clone().into()),
                ("--listen-peer-urls", peer.into()),
                ("--initial-advertise-peer-urls", peer.into()),
                ("--listen-client-urls", client.into()),
                ("--advertise-client-urls", client.into()),
                ("--initial-cluster", peers.clone().into()),
                ("--initial-cluster-state", "new".into()),
            ];
            let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.into(), value]);
            let keep = ["keep-etcd".into(), data.with_extension("log").into()];
            let keep = keep.into_iter().chain([program.clone().into(), "--".into()]);
            start_child(name, keep.chain(arguments))
        };
        let members = (1..).zip(&urls).map(start).collect::<Result<Vec<_>, _>>()?;
        let endpoints: Vec<String> = urls.into_iter().map(|(_, client)| client).collect();
        let leader = leader(&endpoints).await?;
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = Client::connect([leader], None).await.map_err(|e| failed("answer", e))?;
            clients.push(client.kv_client());
        }
        Ok(Self { members, clients })
    }

    fn writer(&self, number: usize) -> KvClient {
        self.clients[number % self.clients.len()].clone()
    }

    fn end(&mut self) {
        self.members.iter_mut().for_each(Child::end);
    }
}

/// The endpoint of the member that leads: a client of another would pay for one hop more.
async fn leader(endpoints: &[String]) -> Result<&String, Failure> {
    let begun = Instant::now();
    loop {
        for endpoint in endpoints {
            let status = async { Client::connect([endpoint], None).await?.status().await };
            if let Ok(status) = status.await {
                let this = status.header().map(|header| header.member_id());
                if status.leader() != 0 && this == Some(status.leader()) {
                    return Ok(endpoint);
                }
            }
        }
        if begun.elapsed() > STARTUP {
            return Err(failed("elect a leader", format!("none after {STARTUP:?}")));
        }
        sleep(LOOK).await;
    }
}

impl Writer for KvClient {
    async fn put(&mut self, key: &Key, value: &Bytes) -> Result<(), Failure> {
        let put = KvClient::put(self, key.bytes(), &value[..], None).await;
        put.map(drop).map_err(|e| failed("write", e))
    }
}
