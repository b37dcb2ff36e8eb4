//! Writes to a log that is long already: one node, on disk, that builds no snapshots, so that nothing of
//! the log ever goes.

use std::time::Instant;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::report::{Part, Row, line};
use super::{Bench, SHORTEST};
use crate::chart::Panel;
use crate::durable::cluster::{Cluster, Snapshots};
use crate::durable::load::{Key, Service as _, Writer as _};
use crate::failure::Failure;

/// Clients that write while it is measured.
const CLIENTS: u32 = 64;

/// So often each, so that a short log stays one.
const WRITES: u64 = 200;

/// Of each value.
pub(super) const VALUE_BYTES: usize = 8;

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Part, Failure> {
    let row = |&size: &u64| Row {
        load: "growth_log",
        size,
        clients: CLIENTS,
        nodes: 1,
        peer: "shortest_log",
        ..Row::default()
    };
    let mut rows: Vec<Row> = bench.options.lengths().iter().map(row).collect();
    for round in 0..bench.options.rounds {
        let directory = bench.fresh()?;
        let long = Cluster::of(directory.path(), 1, Snapshots::Never).await?;
        for (row, turn) in rows.iter_mut().zip(round..) {
            bench.progress.set_message(format!("a log of {} entries", row.size));
            long.fill(row.size, VALUE_BYTES).await?;
            let other = bench.fresh()?;
            let short = Cluster::of(other.path(), 1, Snapshots::Never).await?;
            short.fill(SHORTEST, VALUE_BYTES).await?;
            // In turns, another one first each time: a slow minute of the machine is nobody's.
            if turn % 2 == 0 {
                row.values.push(writes_s(&long).await?);
                row.peer_values.push(writes_s(&short).await?);
            } else {
                row.peer_values.push(writes_s(&short).await?);
                row.values.push(writes_s(&long).await?);
            }
            row.add("memory_bytes", long.memory_bytes().unwrap_or(f64::NAN));
            row.add("shortest_memory_bytes", short.memory_bytes().unwrap_or(f64::NAN));
            bench.progress.inc(1);
        }
    }
    let panel = |y: &str, lines| Panel {
        title: "one node, a log that grows".into(),
        x: "entries in the log",
        y: y.into(),
        lines,
    };
    let speed =
        vec![line(&rows, "this long", Row::value), line(&rows, "of 10 000", Row::peer_value)];
    let memory = vec![
        line(&rows, "this long", |row| row.more("memory_bytes")),
        line(&rows, "of 10 000", |row| row.more("shortest_memory_bytes")),
    ];
    let panels = vec![panel("writes/s", speed), panel("memory, bytes", memory)];
    let title = "One process, synced log, no snapshots: writes to a log that is as long, beside one of \
                 10 000 entries.";
    Ok(Part {
        title,
        measured: bench.options.rounds,
        unit: "writes/s",
        grows: "entries",
        rows,
        panels,
    })
}

/// Each of the clients writes so often.
async fn writes_s(cluster: &Cluster) -> Result<f64, Failure> {
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..u64::from(CLIENTS) {
        let (mut writer, value) = (cluster.writer(number as usize), value.clone());
        clients.spawn(async move {
            for key in 0..WRITES {
                writer.put(&Key::of(number * WRITES + key), &value).await?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended
            .map_err(|e| Failure::new(format!("a client failed: {e}"), "report this as a bug"))??;
    }
    Ok((u64::from(CLIENTS) * WRITES) as f64 / began.elapsed().as_secs_f64())
}
