//! Partitions of real links: each node in a network namespace of its own, with one link to the
//! other nodes and one to its clients, so that a node that is cut off can still be asked.
//!
//! ```text
//! namespace 1     namespace 2     namespace 3
//!  r1   c1         r2   c2         r3   c3
//!   |    |          |    |          |    |
//!   |    +------- bridge "clients" ------+--- this process
//!   +------------ bridge "nodes" -------+
//! ```
//! This takes `ip` and the right to use it (root). Where that is missing the tests say `SKIPPED`,
//! and fail if `QUORATE_NO_SKIP=1`.

use std::process::Command;

use bytes::Bytes;
use kv::client::Client;
use std::time::Duration;

use crate::support::{Cluster, Load, eventually};

/// Namespaces, bridges and links; removed when dropped.
struct Links {
    tag: String,
    /// The second byte of the addresses, so that tests at the same time don't meet.
    net: u8,
    namespaces: Vec<u64>,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip can't be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Links {
    /// Links for three nodes, or why this machine gives none.
    fn new(number: u8) -> Result<Self, String> {
        // Interface names have at most 15 bytes; process ids come again, so this one's are cleared.
        let tag = format!("q{:x}{number}", std::process::id());
        let net = 64 + (std::process::id() % 48) as u8 * 3 + number;
        let mut links = Self { tag, net, namespaces: Vec::new() };
        let tag = links.tag.clone();
        ip(&format!("link add {tag}n type bridge"))?;
        ip(&format!("link set {tag}n up"))?;
        ip(&format!("link add {tag}c type bridge"))?;
        ip(&format!("addr add 10.{net}.2.254/24 dev {tag}c"))?;
        ip(&format!("link set {tag}c up"))?;
        for id in 1..=3 {
            ip(&format!("netns add {tag}{id}"))?;
            links.namespaces.push(id);
            ip(&format!("-n {tag}{id} link set lo up"))?;
            for (kind, subnet) in [("n", 1), ("c", 2)] {
                let (outside, inside) = (format!("{tag}{kind}{id}"), format!("{kind}{id}"));
                ip(&format!("link add {outside} type veth peer name {inside} netns {tag}{id}"))?;
                ip(&format!("link set {outside} master {tag}{kind}"))?;
                ip(&format!("link set {outside} up"))?;
                ip(&format!("-n {tag}{id} addr add 10.{net}.{subnet}.{id}/24 dev {inside}"))?;
                ip(&format!("-n {tag}{id} link set {inside} up"))?;
            }
        }
        Ok(links)
    }

    /// A cluster on them, or `None` after saying why not.
    async fn cluster(test: &str, number: u8) -> Option<(Self, Cluster)> {
        let links = match Self::new(number) {
            Ok(links) => links,
            Err(reason) => {
                assert!(
                    std::env::var("QUORATE_NO_SKIP").as_deref() != Ok("1"),
                    "{test} was skipped: {reason}"
                );
                println!("SKIPPED {test}: {reason}");
                return None;
            }
        };
        let (tag, net) = (&links.tag, links.net);
        let mut cluster = Cluster::prepared(3);
        let peers = (1..=3).map(|id| (id, format!("10.{net}.1.{id}:7000"))).collect();
        for (id, command) in &mut cluster.commands {
            command.raft = format!("10.{net}.1.{id}:7000");
            command.http = format!("10.{net}.2.{id}:8000");
            command.peers = Clone::clone(&peers);
            let wrapper = ["ip".into(), "netns".into(), "exec".into(), format!("{tag}{id}")];
            command.wrapper = wrapper.into();
        }
        cluster.up_all();
        cluster.complete().await;
        Some((links, cluster))
    }

    /// Cuts a node off from the others, not from its clients.
    fn cut(&self, id: u64) {
        ip(&format!("link set {}n{id} down", self.tag)).unwrap();
    }

    fn heal(&self, id: u64) {
        ip(&format!("link set {}n{id} up", self.tag)).unwrap();
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let tag = &self.tag;
        let spaces = self.namespaces.iter().map(|id| format!("netns del {tag}{id}"));
        let bridges = ["n", "c"].map(|kind| format!("link del {tag}{kind}"));
        for command in spaces.chain(bridges) {
            // Some were never made.
            ip(&command).ok();
        }
    }
}

#[tokio::test]
async fn a_leader_that_is_cut_off_acknowledges_nothing() {
    let name = "a_leader_that_is_cut_off_acknowledges_nothing";
    let Some((links, cluster)) = Links::cluster(name, 0).await else { return };
    let load = Load::start(&cluster);
    load.goes_on(200).await;
    let old = cluster.leader().await;
    let rest = cluster.others(old);
    let first = Bytes::from_static(b"first");
    cluster.client.put(&cluster.server(old), "contested", first.clone()).await.unwrap();
    links.cut(old);

    // Asked at once, and again when it has found out: no write is done, no read shows the past.
    let patient = Client::new(Duration::from_secs(12));
    let server = cluster.server(old);
    for _ in 0..2 {
        let value = Bytes::from_static(b"of the minority");
        let (put, get) = tokio::join!(
            patient.put(&server, "minority", value),
            patient.get(&server, "contested"),
        );
        let put = put.expect_err("nothing is acknowledged");
        assert!(["unknown_outcome", "timeout"].contains(&put.word()), "{put}");
        let get = get.expect_err("nothing is confirmed");
        assert_eq!(get.word(), "timeout", "{get}");
    }
    assert_eq!(patient.get_stale(&server, "contested").await.unwrap(), Some(first));
    let status = cluster.status(old).await.expect("it answers");
    assert_ne!(status.role, "leader", "it has stepped down");

    // The majority goes on meanwhile.
    cluster.leader_among(&rest).await;
    let second = Bytes::from_static(b"second");
    cluster.client.put(&cluster.server(rest[0]), "contested", second.clone()).await.unwrap();
    load.goes_on(200).await;

    links.heal(old);
    cluster.all_healthy().await;
    let mut acknowledged = load.finish().await;
    acknowledged.push(("contested".into(), second));
    cluster.holds(&cluster.ids(), acknowledged).await;
    // The minority's write may have been passed on in time or not: all say the same.
    let minority = patient.get(&server, "minority").await.unwrap();
    for id in cluster.ids() {
        assert_eq!(patient.get(&cluster.server(id), "minority").await.unwrap(), minority);
    }
    cluster.end().await;
}

#[tokio::test]
async fn a_follower_that_comes_back_disturbs_nobody() {
    let name = "a_follower_that_comes_back_disturbs_nobody";
    let Some((links, cluster)) = Links::cluster(name, 1).await else { return };
    let load = Load::start(&cluster);
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0];
    let rest = cluster.others(follower);
    links.cut(follower);
    // Long enough for it to campaign, in vain, many times over.
    eventually("the follower to be without a leader", async || {
        cluster.status(follower).await.filter(|status| status.leader.is_none())
    })
    .await;
    let term = cluster.status(leader).await.expect("it answers").term;
    load.goes_on(500).await;
    links.heal(follower);
    cluster.healthy(&[follower]).await;
    load.goes_on(100).await;
    for id in rest {
        let status = cluster.status(id).await.expect("it answers");
        assert_eq!((status.term, status.leader), (term, Some(leader)), "it was disturbed");
    }
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn all_links_fail_and_come_back() {
    let name = "all_links_fail_and_come_back";
    let Some((links, cluster)) = Links::cluster(name, 2).await else { return };
    let load = Load::start(&cluster);
    load.goes_on(200).await;
    for id in cluster.ids() {
        links.cut(id);
    }
    for id in cluster.ids() {
        eventually("nobody to lead", async || {
            cluster.status(id).await.filter(|status| status.leader.is_none())
        })
        .await;
    }
    for id in cluster.ids() {
        links.heal(id);
    }
    cluster.all_healthy().await;
    load.goes_on(200).await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}
