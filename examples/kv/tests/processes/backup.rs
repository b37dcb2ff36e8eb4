//! Backup and restore, and values in a database, with real processes.

use bytes::Bytes;
use tokio::process::Command;

use crate::support::{Cluster, eventually, program};

async fn put_all(cluster: &Cluster, id: u64, keys: std::ops::Range<u64>) {
    for n in keys {
        let value = Bytes::from(format!("value {n}"));
        cluster.client.put(&cluster.server(id), &format!("key {n}"), value).await.unwrap();
    }
}

async fn has_all(cluster: &Cluster, id: u64, keys: std::ops::Range<u64>) {
    for n in keys {
        let key = format!("key {n}");
        let value = cluster.client.get(&cluster.server(id), &key).await.unwrap();
        assert_eq!(value, Some(format!("value {n}").into()), "node {id}, {key}");
    }
}

/// Everything acknowledged before is in the backup, and three new nodes begin with it: two in memory,
/// one with a database. Restarted with the same command they go on with what they have.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_begins_with_a_backup() {
    let old = Cluster::start(1).await;
    put_all(&old, 1, 0..200).await;
    let file = old.directory.path().join("backup");
    let mut command = Command::new(program());
    command.args(["admin", "backup", "--json", "--server"]).arg(old.server(1).to_string());
    let said = command.arg(&file).output().await.unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && text.contains("\"bytes\":"), "{said:?}");
    put_all(&old, 1, 200..201).await;

    let mut new = Cluster::prepared(3);
    for command in new.commands.values_mut() {
        command.bootstrap = false;
        command.more.extend(["--restore".into(), file.display().to_string()]);
    }
    new.commands.get_mut(&2).unwrap().more.extend(["--store".into(), "redb".into()]);
    new.up_all();
    new.complete().await;
    for id in 1..=3 {
        has_all(&new, id, 0..200).await;
        let later = new.client.get(&new.server(id), "key 200").await.unwrap();
        assert_eq!(later, None, "it was written after the backup");
    }
    put_all(&new, 2, 300..310).await;
    for id in 1..=3 {
        new.kill(id);
    }
    new.up_all();
    new.all_healthy().await;
    for id in 1..=3 {
        has_all(&new, id, 0..200).await;
        has_all(&new, id, 300..310).await;
    }
    // Nodes of the old cluster have no part in it.
    assert_ne!(old.status(1).await.unwrap().last, new.status(1).await.unwrap().last);
}

/// A database goes on with what it has after SIGKILL; nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_keeps_its_values_through_kills() {
    let mut cluster = Cluster::prepared(3);
    for command in cluster.commands.values_mut() {
        command.more.extend(["--store".into(), "redb".into()]);
        command.more.extend(["--snapshot-entries".into(), "50".into()]);
        command.more.extend(["--keep-entries".into(), "5".into()]);
    }
    cluster.up_all();
    cluster.complete().await;
    for round in 0..4 {
        put_all(&cluster, 1 + round % 3, round * 60..round * 60 + 60).await;
        let victim = cluster.leader().await;
        cluster.kill(victim);
        cluster.up(victim);
        cluster.all_healthy().await;
    }
    for id in 1..=3 {
        has_all(&cluster, id, 0..240).await;
    }
    eventually("a compacted log", async || {
        let status = cluster.status(1).await?;
        (status.compacted > 0).then_some(())
    })
    .await;
}
