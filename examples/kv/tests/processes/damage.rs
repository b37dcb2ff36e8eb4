//! A log that was changed on its disk. The node refuses to run with it and says where, or recovers
//! what is missing from the others; either way the cluster keeps everything.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, TableDefinition};

use crate::support::{Cluster, Load, PATIENCE};

/// Every file under `directory`.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The file, and the place in it, where the log of a node holds `bytes`.
fn find(data: &Path, bytes: &[u8]) -> (PathBuf, u64) {
    for path in files(data) {
        let content = std::fs::read(&path).unwrap();
        let place = content.windows(bytes.len()).position(|window| window == bytes);
        if let Some(place) = place {
            return (path, place as u64);
        }
    }
    panic!("the log does not hold {bytes:?}");
}

/// A follower of three, stopped in the middle of a load, with a key that is mid-log.
async fn stopped_follower() -> (Cluster, Load, u64) {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    load.goes_on(100).await;
    let marked = Bytes::from_static(b"marked value");
    cluster.client.put(&cluster.server(1), "marked", marked).await.unwrap();
    load.goes_on(200).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0];
    // Everything so far is in its log before it goes.
    cluster.holds(&[follower], vec![("marked".into(), Bytes::from_static(b"marked value"))]).await;
    cluster.kill(follower);
    (cluster, load, follower)
}

/// Starts the node with what is left of its log, and checks that nothing is lost, on any node that
/// runs.
async fn after_damage(mut cluster: Cluster, load: Load, damaged: u64, may_recover: bool) {
    let mut node = cluster.commands[&damaged].start().unwrap();
    let rest = cluster.others(damaged);
    let ended = loop {
        if let Some(status) = node.exited().unwrap() {
            break Some(status);
        }
        if cluster.client.healthy(&cluster.server(damaged)).await == Ok(true) {
            break None;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    match ended {
        Some(status) => {
            let printed = cluster.printed(damaged);
            assert_eq!(status.code(), Some(1), "{printed}");
            let error = printed.lines().find(|line| line.starts_with("error: "));
            let error = error.unwrap_or_else(|| panic!("no error in: {printed}"));
            assert!(error.contains("damaged"), "{error}");
            load.goes_on(100).await;
            let acknowledged = load.finish().await;
            cluster.holds(&rest, acknowledged).await;
        }
        None => {
            assert!(may_recover, "it runs with a log that is damaged in the middle");
            cluster.nodes.insert(damaged, node);
            load.goes_on(100).await;
            let acknowledged = load.finish().await;
            cluster.holds(&cluster.ids(), acknowledged).await;
        }
    }
    cluster.end().await;
}

#[tokio::test]
async fn a_flipped_byte_mid_log() {
    let (cluster, load, follower) = stopped_follower().await;
    let (path, place) = find(&cluster.commands[&follower].data, b"marked value");
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"M", place).unwrap();
    drop(file);
    tokio::time::timeout(PATIENCE, after_damage(cluster, load, follower, false)).await.unwrap();
}

#[tokio::test]
async fn a_log_that_was_cut() {
    let (cluster, load, follower) = stopped_follower().await;
    let (path, place) = find(&cluster.commands[&follower].data, b"marked value");
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(place + 3).unwrap();
    drop(file);
    tokio::time::timeout(PATIENCE, after_damage(cluster, load, follower, true)).await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, target).unwrap();
        }
    }
}

/// Somebody restores an old copy of a follower's disk: it has acknowledged what it does not have. The
/// leader says so, and refills it.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_disk() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    load.goes_on(100).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0];
    let data = cluster.commands[&follower].data.clone();
    let old = cluster.directory.path().join("old");
    cluster.kill(follower);
    copy(&data, &old);
    cluster.up(follower);
    cluster.healthy(&[follower]).await;
    load.goes_on(100).await;
    cluster.kill(follower);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&old, &data).unwrap();
    cluster.up(follower);
    cluster.says(leader, "lost entries it had acknowledged").await;
    cluster.says(leader, "has again what it had lost").await;
    load.goes_on(100).await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}

/// A value in the database of one node rots, where no checksum of the log looks: the others tell it.
#[tokio::test]
async fn a_value_that_rots_in_the_database_stops_its_node() {
    let mut cluster = Cluster::prepared(3);
    for command in cluster.commands.values_mut() {
        let more = ["--store", "redb", "--state-hash-entries", "50"];
        command.more = more.map(str::to_owned).to_vec();
    }
    cluster.up_all();
    cluster.complete().await;
    let load = Load::start(&cluster);
    load.goes_on(100).await;
    let leader = cluster.leader().await;
    let rotten = cluster.others(leader)[0];
    cluster.stop(rotten).await;
    let values = TableDefinition::<&str, &[u8]>::new("values");
    let database = Database::open(cluster.commands[&rotten].data.join("values.redb")).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(values).unwrap().insert("nobody wrote this", &b"1"[..]).unwrap();
    write.commit().unwrap();
    drop(database);
    cluster.up(rotten);
    cluster.says(rotten, "is not what most replicas have").await;
    load.goes_on(100).await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.others(rotten), acknowledged).await;
    for id in cluster.others(rotten) {
        assert!(!cluster.printed(id).contains("had to stop"), "{}", cluster.printed(id));
    }
    cluster.kill(rotten);
    cluster.end().await;
}
