//! A witness beside two servers with values, as processes: any one of the three may fail, and the
//! witness takes every request like the others.

use std::collections::BTreeSet;

use bytes::Bytes;
use kv::admin::Change;
use tokio::process::Command;

use crate::support::{Cluster, eventually, program};

/// Bytes in the log of a node, without the zeros behind what was written.
fn log_bytes(cluster: &Cluster, id: u64) -> usize {
    let files = std::fs::read_dir(&cluster.commands[&id].data).unwrap();
    let logs = files.map(|file| file.unwrap().path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let length = |path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
    };
    logs.map(length).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_stands_in_for_either_of_two() {
    let mut cluster = Cluster::start(2).await;
    cluster.newcomer(3, 1, &["--witness", "--store", "redb"]);
    cluster.up(3);
    cluster.says(3, "node 3 has joined as a witness").await;
    let members = cluster.client.members(&cluster.server(3)).await.unwrap();
    assert_eq!((members.witnesses, members.voters.len()), (BTreeSet::from([3]), 3));

    let value = Bytes::from(vec![b'v'; 10_000]);
    for (n, at) in (0..60).zip([1, 2, 3].into_iter().cycle()) {
        let (server, key) = (cluster.server(at), format!("key {n}"));
        cluster.client.put(&server, &key, value.clone()).await.unwrap();
    }
    for at in [1, 2, 3] {
        let got = cluster.client.get(&cluster.server(at), "key 7").await.unwrap();
        assert_eq!(got.as_ref(), Some(&value), "at node {at}");
        let none = cluster.client.get(&cluster.server(at), "no key").await.unwrap();
        assert_eq!(none, None, "at node {at}");
    }
    assert!(cluster.status(3).await.unwrap().witness);
    let (whole, witness) = (log_bytes(&cluster, 1), log_bytes(&cluster, 3));
    assert!(whole > 600_000 && witness < 100_000, "{witness} of {whole} bytes");

    // Whichever of the two is gone, and wherever it is asked for.
    for down in [1, 2] {
        eventually("both to have everything", async || {
            let (one, two) = (cluster.status(1).await?, cluster.status(2).await?);
            (one.applied == two.applied && one.applied == one.last).then_some(())
        })
        .await;
        cluster.kill(down);
        let up = 3 - down;
        cluster.leader_among(&[up, 3]).await;
        let key = format!("without {down}");
        cluster.client.put(&cluster.server(3), &key, value.clone()).await.unwrap();
        for at in [up, 3] {
            let got = cluster.client.get(&cluster.server(at), &key).await.unwrap();
            assert_eq!(got.as_ref(), Some(&value), "at node {at}");
        }
        cluster.up(down);
        cluster.all_healthy().await;
    }

    // It has nothing to back up, and says so; the next server is asked instead.
    let backup = async |servers: String| {
        let mut command = Command::new(program());
        command.args(["admin", "backup", "--server", &servers]);
        command.arg(cluster.directory.path().join("backup")).output().await.unwrap()
    };
    let alone = backup(cluster.server(3).to_string()).await;
    let why = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(alone.status.code() == Some(1) && why.contains("witness"), "{why}");
    let both = backup(format!("{},{}", cluster.server(3), cluster.server(1))).await;
    assert!(both.status.success(), "{both:?}");

    // Removed and added anew with what it kept, it can be nothing but a witness.
    let client = kv::client::Client::new(kv::admin::CHANGE_TIMEOUT * 2);
    let change = async |change: Change, timeout: u64| {
        let timeout = std::time::Duration::from_secs(timeout);
        client.change(&cluster.server(1), &change, timeout).await
    };
    let addr = cluster.commands[&3].raft.clone();
    change(Change::Remove { id: 3 }, 60).await.unwrap();
    let add = Change::Add { id: 3, addr: addr.clone() };
    let refused = change(add, 3).await.unwrap_err();
    assert_eq!(refused.word(), "not_caught_up");
    cluster.says(3, "its log was kept as a witness").await;
    change(Change::Remove { id: 3 }, 60).await.unwrap();
    let members = change(Change::AddWitness { id: 3, addr }, 60).await.unwrap();
    assert!(members.voters.contains(&3) && members.witnesses.contains(&3));
    cluster.end().await;
}
