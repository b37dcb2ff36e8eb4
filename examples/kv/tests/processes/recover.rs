//! Quorums that are lost for ever, with real processes: `kv admin recover` on what is left.

use std::process::Output;

use bytes::Bytes;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{Cluster, Load, eventually, program};

/// `kv admin recover` on the directory of node `id`.
async fn recover(cluster: &Cluster, id: u64, arguments: &[&str]) -> Output {
    let data = &cluster.commands[&id].data;
    let mut command = Command::new(program());
    command.args(["admin", "recover", "--data"]).arg(data).args(arguments);
    command.output().await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The last entry of a node that is down: its term and index.
async fn last(cluster: &Cluster, id: u64, voters: &str) -> (u64, u64) {
    let said = recover(cluster, id, &["--voters", voters, "--json"]).await;
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let plan: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(plan["done"], false);
    (plan["last"]["term"].as_u64().unwrap(), plan["last"]["index"].as_u64().unwrap())
}

/// Two of three are gone for ever. The third serves everything it had, grows to three again, and does
/// not know the lost ones when they come back.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_is_left() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    load.goes_on(200).await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged.clone()).await;
    let running = recover(&cluster, 3, &["--voters", "3", "--yes"]).await;
    assert_eq!(running.status.code(), Some(2), "{running:?}");
    assert!(text(&running.stderr).contains("a node that runs"), "{running:?}");
    for id in 1..=3 {
        cluster.kill(id);
    }

    let asked = recover(&cluster, 3, &["--voters", "3"]).await;
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    let (said, error) = (text(&asked.stdout), text(&asked.stderr));
    assert!(said.contains("may be lost") && said.contains("leaving for ever: 1,2"), "{said}");
    assert!(error.starts_with("error: nothing was changed") && error.contains("--yes"), "{error}");
    let lost = recover(&cluster, 3, &["--voters", "2,3", "--yes"]).await;
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    assert!(text(&lost.stderr).contains("the quorum is not lost"), "{lost:?}");
    for wrong in ["2", "3,9"] {
        let wrong = recover(&cluster, 3, &["--voters", wrong, "--yes"]).await;
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    }
    let done = recover(&cluster, 3, &["--voters", "3", "--yes"]).await;
    assert!(done.status.success(), "{done:?}");
    assert!(text(&done.stdout).contains("the voters are 3 since entry"), "{done:?}");
    let again = recover(&cluster, 3, &["--voters", "3", "--yes"]).await;
    assert!(again.status.success(), "{again:?}");
    assert!(text(&again.stdout).starts_with("recovered already"), "{again:?}");

    cluster.up(3);
    cluster.healthy(&[3]).await;
    cluster.says(3, "was recovered by an operator").await;
    cluster.holds(&[3], acknowledged.clone()).await;
    // The lost come back, a majority of what was. They are refused, and told why.
    cluster.up(1);
    cluster.says(1, "was recovered without node 1").await;
    cluster.up(2);
    cluster.leader_among(&[1, 2]).await;
    let put = cluster.client.put(&cluster.server(3), "after", Bytes::from_static(b"all")).await;
    put.unwrap();
    cluster.kill(1);
    cluster.kill(2);
    for id in [4, 5] {
        cluster.newcomer(id, 3, &[]);
        cluster.up(id);
        cluster.says(id, "joined").await;
    }
    cluster.healthy(&[3, 4, 5]).await;
    cluster.holds(&[3, 4, 5], acknowledged).await;
    // Any one of the three may go.
    cluster.kill(3);
    let value = eventually("a value without node 3", async || {
        cluster.client.get(&cluster.server(4), "after").await.ok().flatten()
    });
    assert_eq!(value.await, Bytes::from_static(b"all"));
    for id in [1, 2, 3] {
        cluster.commands.remove(&id);
    }
    cluster.end().await;
}

/// Three of five are gone for ever: the better of the two that are left is recovered, the other
/// rejoins with the directory it had.
#[tokio::test(flavor = "multi_thread")]
async fn two_of_five_are_left() {
    let mut cluster = Cluster::start(5).await;
    let load = Load::start(&cluster);
    load.goes_on(200).await;
    // In the middle of the load, so that logs differ.
    for id in 1..=5 {
        cluster.kill(id);
    }
    drop(load.finish().await);
    let (four, five) = (last(&cluster, 4, "4,5").await, last(&cluster, 5, "4,5").await);
    let best = if four >= five { 4 } else { 5 };
    let done = recover(&cluster, best, &["--voters", "4,5", "--yes", "--json"]).await;
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&told["done"], &told["already"]), (&true.into(), &false.into()), "{told}");
    for id in [4, 5] {
        cluster.up(id);
    }
    for id in [1, 2, 3] {
        cluster.commands.remove(&id);
    }
    cluster.healthy(&[4, 5]).await;
    let load = Load::start(&cluster);
    load.goes_on(100).await;
    let acknowledged = load.finish().await;
    cluster.holds(&[4, 5], acknowledged).await;
    cluster.says(9 - best, "follows the recovered cluster").await;
    cluster.end().await;
}
