//! What people and strangers do to a node: wrong names, ports and directories, and bytes that are
//! no messages. Each gets a clear error; the cluster goes on, and nothing is lost.

use std::time::Duration;

use bytes::Bytes;
use kv::process::{NodeCommand, NodeProcess};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Cluster, Load, PATIENCE, eventually};

/// Starts a node that must end by itself with `code`, and say `text`.
async fn ends(command: &NodeCommand, code: i32, text: &str) {
    let mut node: NodeProcess = command.start().unwrap();
    let status = node.wait(PATIENCE).await.unwrap().expect("it ends by itself");
    let printed = command.printed();
    assert_eq!(status.code(), Some(code), "{printed}");
    let error = printed.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(error.contains(text), "no {text:?} in: {printed}");
    assert!(!printed.contains("panicked"), "{printed}");
}

/// A command like that of node `like`, with ports and a log of its own.
fn another(cluster: &Cluster, like: u64) -> NodeCommand {
    let mut command = cluster.commands[&like].clone();
    let port = || kv::process::free_port().unwrap();
    command.http = format!("127.0.0.1:{}", port());
    command.raft = format!("127.0.0.1:{}", port());
    command.log = cluster.directory.path().join("another.log");
    command
}

async fn put_one(cluster: &Cluster, key: &str) -> (String, Bytes) {
    let value = Bytes::from(format!("value of {key}"));
    let id = cluster.ids()[0];
    cluster.client.put(&cluster.server(id), key, value.clone()).await.unwrap();
    (key.to_owned(), value)
}

#[tokio::test]
async fn ports_and_directories_that_are_taken() {
    let cluster = Cluster::start(3).await;
    let pair = put_one(&cluster, "k").await;
    let fresh = |name: &str| cluster.directory.path().join(name);

    let mut command = another(&cluster, 1);
    command.data = fresh("a");
    command.http.clone_from(&cluster.commands[&1].http);
    ends(&command, 2, "--http: can't listen on").await;
    assert!(!command.data.exists(), "nothing is left of a node that could not start");

    let mut command = another(&cluster, 1);
    command.data = fresh("b");
    command.log = fresh("b.log");
    command.raft.clone_from(&cluster.commands[&2].raft);
    ends(&command, 2, "--raft: can't listen on").await;

    let mut command = another(&cluster, 1);
    command.log = fresh("c.log");
    ends(&command, 2, "is in use by another process").await;

    cluster.holds(&cluster.ids(), vec![pair]).await;
    cluster.end().await;
}

#[tokio::test]
async fn another_nodes_directory() {
    let mut cluster = Cluster::start(3).await;
    let pair = put_one(&cluster, "k").await;
    cluster.stop(2).await;
    cluster.stop(3).await;
    let mut command = another(&cluster, 3);
    command.data.clone_from(&cluster.commands[&2].data);
    ends(&command, 2, "belongs to node 2, not to node 3").await;
    // The mistake changed nothing.
    cluster.up_all();
    cluster.all_healthy().await;
    cluster.holds(&cluster.ids(), vec![pair]).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_cluster_begins_once() {
    let mut cluster = Cluster::start(3).await;
    let pair = put_one(&cluster, "k").await;
    // Again, and on another node: harmless.
    for id in [1, 2] {
        cluster.stop(id).await;
        cluster.commands.get_mut(&id).unwrap().bootstrap = true;
        cluster.up(id);
        cluster.healthy(&[id]).await;
    }
    // With other members, or another name: not.
    cluster.stop(3).await;
    let mut command = another(&cluster, 3);
    command.bootstrap = true;
    command.peers.remove(&2);
    ends(&command, 1, "began with other members or another name").await;
    let mut command = another(&cluster, 3);
    command.bootstrap = true;
    command.log = cluster.directory.path().join("named.log");
    command.more = ["--cluster", "other"].map(String::from).into();
    ends(&command, 1, "began with other members or another name").await;
    cluster.up(3);
    cluster.all_healthy().await;
    cluster.holds(&cluster.ids(), vec![pair]).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_node_of_another_cluster_is_kept_out() {
    let mut cluster = Cluster::prepared(3);
    cluster.commands.get_mut(&3).unwrap().more = ["--cluster", "other"].map(String::from).into();
    cluster.up_all();
    cluster.healthy(&[1, 2]).await;
    let pair = put_one(&cluster, "k").await;
    // Both sides say why.
    cluster.says(3, "cluster \"other\"").await;
    let leader = cluster.leader_among(&[1, 2]).await;
    cluster.says(leader, "cluster \"other\"").await;
    assert!(!cluster.client.healthy(&cluster.server(3)).await.unwrap());
    let status = cluster.status(3).await.expect("it answers");
    assert_eq!((status.last, status.leader), (0, None), "it has learned nothing");
    // With the right name it is one of them.
    cluster.stop(3).await;
    cluster.commands.get_mut(&3).unwrap().more.clear();
    cluster.up(3);
    cluster.healthy(&[3]).await;
    cluster.holds(&cluster.ids(), vec![pair]).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_wiped_directory_does_not_come_back_under_its_old_id() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    load.goes_on(100).await;
    let leader = cluster.leader().await;
    let wiped = cluster.others(leader)[0];
    let rest = cluster.others(wiped);
    cluster.kill(wiped);
    let data = cluster.commands[&wiped].data.clone();
    let away = cluster.directory.path().join("away");
    std::fs::rename(&data, &away).unwrap();
    cluster.up(wiped);
    // It could vote a second time in a term, or miss what it had acknowledged: it is told to go.
    let fatal =
        eventually("the wiped node to be refused", async || cluster.status(wiped).await?.fatal)
            .await;
    assert!(fatal.contains("another data directory"), "{fatal}");
    assert!(!cluster.client.healthy(&cluster.server(wiped)).await.unwrap());
    load.goes_on(100).await;
    // A node that had to stop says so with its exit code too.
    let mut node = cluster.nodes.remove(&wiped).expect("it runs");
    node.signal(kv::process::Signal::TERM).unwrap();
    let status = node.wait(PATIENCE).await.unwrap().expect("it ends");
    assert_eq!(status.code(), Some(1));
    cluster.says(wiped, "error: node").await;
    // With the directory it had, it is back.
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&away, &data).unwrap();
    cluster.up(wiped);
    cluster.healthy(&rest).await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn strangers_on_the_raft_port() {
    let cluster = Cluster::start(3).await;
    let pair = put_one(&cluster, "k").await;
    let mut noise = Noise(1);
    let random: Vec<u8> = std::iter::repeat_with(|| noise.byte()).take(1 << 16).collect();
    // A frame that says it is 4 GiB long, first thing and behind a proper beginning.
    let endless = [&[0xff; 8][..], &random].concat();
    let greeted = [b"quorate\x01", &endless[..]].concat();
    let http = b"GET /status HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    let term_before = cluster.status(1).await.expect("it answers").term;
    for id in cluster.ids() {
        for bytes in [&random, &endless, &greeted, &http] {
            hung_up_on(&cluster.commands[&id].raft, bytes).await;
        }
        let bytes = memory_of(cluster.nodes[&id].pid());
        assert!(bytes < 512 << 20, "node {id} has {bytes} bytes in memory");
    }
    cluster.all_healthy().await;
    assert_eq!(cluster.status(1).await.expect("it answers").term, term_before, "nobody noticed");
    cluster.holds(&cluster.ids(), vec![pair]).await;
    cluster.end().await;
}

/// Sends bytes; the node must close the connection, and send nothing that makes no sense.
async fn hung_up_on(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may close before it has everything.
    stream.write_all(bytes).await.ok();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the node still listens to {} bytes of noise", bytes.len());
}

/// The resident memory of a process, in bytes; 0 where the system has no `/proc`.
fn memory_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Bytes in no order, the same in every run (xorshift).
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u8
    }
}
