//! Values of more bytes, written to three processes: how much of the disk's and the loopback's bandwidth
//! comes out at the client's end.

use bytes::Bytes;

use super::report::{Part, Row, line};
use super::{Bench, bandwidth};
use crate::chart::Panel;
use crate::durable::NODES;
use crate::durable::cluster::Cluster;
use crate::durable::load;
use crate::failure::Failure;

pub(super) const VALUE_BYTES: [u64; 5] = [16, 256, 4 << 10, 64 << 10, 1 << 20];

/// At most so many clients, and with so many bytes under way: the most that a client is allowed by its
/// default settings is twice that.
const CLIENTS: u64 = 64;
const UNDER_WAY_BYTES: u64 = 8 << 20;

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Part, Failure> {
    let row = |size: u64| Row {
        load: "growth_values",
        size,
        clients: CLIENTS.min(UNDER_WAY_BYTES / size) as u32,
        nodes: NODES,
        peer: "disk",
        ..Row::default()
    };
    let mut rows = VALUE_BYTES.map(row).to_vec();
    for _ in 0..bench.options.rounds {
        bench.progress.set_message("the disk and the loopback");
        let disk = bandwidth::disk(bench.fresh()?.path()).await?;
        let loopback = bandwidth::loopback().await?;
        bench.progress.inc(1);
        for row in &mut rows {
            bench.progress.set_message(format!("values of {} B", row.size));
            let value = Bytes::from(vec![b'v'; row.size as usize]);
            let (directory, length) = (bench.fresh()?, bench.options.seconds);
            let measured =
                load::measure::<Cluster>(directory.path(), row.clients, &value, length).await?;
            let bytes_s = measured.ops_s * row.size as f64;
            row.values.push(bytes_s);
            row.peer_values.push(disk);
            row.add("writes_s", measured.ops_s);
            row.add("p50_us", measured.p50_us);
            row.add("loopback_bytes_s", loopback);
            row.add("loopback_ratio", bytes_s / loopback);
            bench.progress.inc(1);
        }
    }
    let panel = Panel {
        title: "larger values, 3 processes".into(),
        x: "bytes of a value",
        y: "bytes/s".into(),
        lines: vec![
            line(&rows, "quorate", Row::value),
            line(&rows, "disk", Row::peer_value),
            line(&rows, "loopback", |row| row.more("loopback_bytes_s")),
        ],
    };
    let title = "Three processes, TCP, synced logs: bytes of values per second, beside what the disk \
                 writes and syncs of one file.";
    Ok(Part {
        title,
        measured: bench.options.rounds,
        unit: "bytes/s",
        grows: "value_bytes",
        rows,
        panels: vec![panel],
    })
}
