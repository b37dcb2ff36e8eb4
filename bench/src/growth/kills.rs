//! How long there is no leader: three processes, the leading one killed again and again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::Config;

use super::Bench;
use super::report::{Part, Row};
use crate::chart::Panel;
use crate::durable::NODES;
use crate::durable::cluster::{Cluster, Snapshots};
use crate::durable::load::{Key, Service as _, Writer as _};
use crate::failure::Failure;

/// A kill comes at some time between two heartbeats; this many milliseconds more with each, so that all
/// times have their turn.
const SHIFT: u32 = 37;

/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Part, Failure> {
    let config = Config::default();
    let beat = config.heartbeat_interval.as_millis() as u32;
    let (directory, kills) = (bench.fresh()?, bench.options.kills);
    let mut cluster = Cluster::of(directory.path(), NODES, Snapshots::Default).await?;
    let (mut led, mut written) = (Vec::new(), Vec::new());
    for kill in 0..kills {
        bench.progress.set_message(format!("kill {} of {kills}", kill + 1));
        tokio::time::sleep(Duration::from_millis((kill * SHIFT % beat).into())).await;
        let took = kill_leader(&mut cluster).await?;
        led.push(took.led);
        written.push(took.written);
        bench.progress.inc(1);
    }
    let (least, most) = (config.election_timeout_min, config.election_timeout_max);
    let row = |load, times: &[f64]| {
        let mut row = Row {
            load,
            size: kills.into(),
            clients: 1,
            nodes: NODES,
            values: times.to_vec(),
            peer: "election_timeout_max",
            peer_values: vec![millis(most); times.len()],
            more: Vec::new(),
        };
        let p99 = percentile(times, 99.0);
        row.add("p99_ms", p99);
        row.add("p99_ratio", p99 / millis(most));
        row.add("election_timeout_min_ms", millis(least));
        row
    };
    let rows = vec![row("kill_until_leader", &led), row("kill_until_write", &written)];
    let line = |name: &str, times: &[f64]| {
        let points = (0..=100).map(|share| (share.into(), percentile(times, share.into())));
        (name.to_owned(), points.collect())
    };
    let bound = |name: &str, time: Duration| {
        (name.to_owned(), vec![(0.0, millis(time)), (100.0, millis(time))])
    };
    let panel = Panel {
        title: "the leader is killed".into(),
        x: "percent of kills",
        y: "ms, at most".into(),
        lines: vec![
            line("until a write", &written),
            line("until a leader", &led),
            bound("longest election timeout", most),
            bound("shortest", least),
        ],
    };
    let title = "Three processes, the leading one killed: milliseconds until another leads, and until a \
                 client's write is answered.";
    Ok(Part { title, measured: kills, unit: "ms", grows: "kills", rows, panels: vec![panel] })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What so many percent of the times don't exceed.
fn percentile(times: &[f64], percent: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let at = (percent / 100.0 * times.len() as f64).ceil() as usize;
    times[at.clamp(1, times.len()) - 1]
}

/// How long it took, in milliseconds.
struct Took {
    led: f64,
    written: f64,
}

/// Kills the leader, and starts it again once there is another. It has caught up when this returns.
async fn kill_leader(cluster: &mut Cluster) -> Result<Took, Failure> {
    let (leader, term) = cluster.leader().await?;
    let began = Instant::now();
    cluster.kill(leader);
    let mut writer = cluster.writer(0);
    let write = tokio::spawn(async move {
        // Again if it is not known whether it happened: that is a client's answer too, but not a write.
        loop {
            match writer.put(&Key::of(0), &Bytes::new()).await {
                Err(_) if began.elapsed() < PATIENCE => {}
                put => return put.map(|()| millis(began.elapsed())),
            }
        }
    });
    cluster.led_after(term).await?;
    let led = millis(began.elapsed());
    let written = write.await;
    let written = written.map_err(|e| Failure::new(e, "report this as a bug"))??;
    cluster.restart(leader).await?;
    cluster.level(leader).await?;
    Ok(Took { led, written })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        for (percent, time) in [(0.0, 1.0), (50.0, 100.0), (99.0, 198.0), (100.0, 200.0)] {
            assert_eq!(percentile(&times, percent), time, "{percent}");
        }
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
    }
}
