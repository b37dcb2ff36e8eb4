//! How long a node takes to start on a log that is long: killed, started again, until it answers a
//! linearizable read. With snapshots as they are by default, and with none, so that all of the log is
//! read and applied again.

use std::time::{Duration, Instant};

use super::Bench;
use super::log::VALUE_BYTES;
use super::report::{Part, Row, line};
use crate::chart::Panel;
use crate::durable::cluster::{Cluster, Snapshots};
use crate::failure::Failure;

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Part, Failure> {
    let row = |&size: &u64| Row {
        load: "growth_restart",
        size,
        nodes: 1,
        peer: "no_snapshots",
        ..Row::default()
    };
    let mut rows: Vec<Row> = bench.options.lengths().iter().map(row).collect();
    let (directory, other) = (bench.fresh()?, bench.fresh()?);
    let mut with = Cluster::of(directory.path(), 1, Snapshots::Default).await?;
    let mut without = Cluster::of(other.path(), 1, Snapshots::Never).await?;
    for row in &mut rows {
        bench.progress.set_message(format!("a start on {} entries", row.size));
        with.fill(row.size, VALUE_BYTES).await?;
        without.fill(row.size, VALUE_BYTES).await?;
        for _ in 0..bench.options.rounds {
            let (started, level) = restart(&mut with).await?;
            row.values.push(level);
            row.add("recovered_s", started);
            let (started, level) = restart(&mut without).await?;
            row.peer_values.push(level);
            row.add("no_snapshots_recovered_s", started);
            row.add("no_snapshots_us_per_entry", level / row.size as f64 * 1e6);
            bench.progress.inc(1);
        }
    }
    let panel = Panel {
        title: "a node starts again".into(),
        x: "entries written",
        y: "seconds".into(),
        lines: vec![
            line(&rows, "snapshots, as by default", Row::value),
            line(&rows, "no snapshots", Row::peer_value),
            line(&rows, "no snapshots, log recovered", |row| row.more("no_snapshots_recovered_s")),
        ],
    };
    let title = "One process, killed and started again: seconds until it answers a read, with snapshots \
                 as by default, beside none.";
    Ok(Part {
        title,
        measured: bench.options.rounds,
        unit: "s",
        grows: "entries",
        rows,
        panels: vec![panel],
    })
}

/// Seconds from the start of the process until its log is recovered, and until it answers.
async fn restart(cluster: &mut Cluster) -> Result<(f64, f64), Failure> {
    cluster.kill(0);
    let began = Instant::now();
    cluster.restart(0).await?;
    let recovered = began.elapsed();
    cluster.level(0).await?;
    let seconds = |time: Duration| time.as_secs_f64();
    Ok((seconds(recovered), seconds(began.elapsed())))
}
