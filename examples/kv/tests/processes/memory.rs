//! A snapshot takes little memory at either end, however large it is: watched from outside, by what
//! the system says of the processes (`/proc`). Where it says nothing the test says `SKIPPED`, and
//! fails if `QUORATE_NO_SKIP=1`.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use kv::load::{self, Event};

use crate::support::{Cluster, eventually};

/// Of the store. More than both ends may take, so that neither can have it all in memory.
const STORE_BYTES: usize = 256 << 20;

/// Near the largest that a node takes unless it is told otherwise.
const VALUE_BYTES: usize = 1_000_000;

/// What redb keeps of its pages (`CACHE_BYTES` in `table.rs`), and the transfer, the log and the
/// allocator together.
const ALLOWED_BYTES: u64 = (64 + 64) << 20;

/// A field of `/proc/PID/status`, in bytes.
fn memory(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(&format!("{field}:")))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// What a process had for itself at most: mapped files, like its program, can be dropped any time.
fn own_peak(pid: u32) -> Option<u64> {
    Some(memory(pid, "VmHWM")? - memory(pid, "RssFile")?)
}

#[tokio::test]
async fn a_large_snapshot_takes_little_memory() {
    let flags = ["--store", "redb", "--snapshot-entries", "50", "--keep-entries", "5"];
    let mut cluster = Cluster::prepared(1);
    let command = cluster.commands.get_mut(&1).expect("prepared");
    command.more.extend(flags.map(str::to_owned));
    cluster.newcomer(2, 1, &flags);
    cluster.up(1);
    cluster.healthy(&[1]).await;

    let pair = |n: usize| (format!("{n:04}"), Bytes::from(vec![n as u8; VALUE_BYTES]));
    let pairs: Vec<_> = (0..STORE_BYTES.div_ceil(VALUE_BYTES)).map(pair).collect();
    let mut events = load::write(&cluster.client, &[cluster.server(1)], &Arc::new(pairs.clone()));
    while let Some(event) = events.recv().await {
        assert!(matches!(event, Event::Acknowledged { .. }), "{event:?}");
    }
    // Neither what filling it left behind nor the reading of the log at the start is asked here.
    cluster.stop(1).await;
    cluster.up(1);
    cluster.healthy(&[1]).await;
    let reset = fs::write(format!("/proc/{}/clear_refs", cluster.nodes[&1].pid()), "5");

    cluster.up(2);
    cluster.says(2, "snapshot received").await;
    let level = cluster.status(1).await.expect("it serves").committed;
    eventually("the new node to catch up", async || {
        cluster.status(2).await.filter(|status| status.applied >= level).map(drop)
    })
    .await;
    let peaks = [1, 2].map(|id| own_peak(cluster.nodes[&id].pid()));
    let ([Some(leader), Some(new)], Ok(())) = (peaks, reset) else {
        let reason = "the system does not tell what a process has in memory";
        println!("SKIPPED a_large_snapshot_takes_little_memory: {reason}");
        assert!(std::env::var_os("QUORATE_NO_SKIP").is_none(), "skipped: {reason}");
        return;
    };
    assert!(leader < ALLOWED_BYTES, "the leader took {} MiB", leader >> 20);
    assert!(new < ALLOWED_BYTES, "the new node took {} MiB", new >> 20);
    cluster.holds(&[2], pairs).await;
    cluster.end().await;
}
