//! Carries out the schedule of faults.

use std::time::Duration;

use quorate::StateMachine;
use quorate_storage::wal::Crash;

use crate::cluster::Cluster;
use crate::fault::Fault;

/// How long a crash in the middle of a write waits for one.
const FOR_A_WRITE: Duration = Duration::from_millis(300);

/// Does it, and undoes it where it does not last. Returns when all is over.
pub(crate) async fn inflict<S: StateMachine>(fault: Fault, cluster: &Cluster<S>) {
    let sleep = |ms| cluster.0.sim.sleep(Duration::from_millis(ms));
    match fault {
        Fault::Crash { node, keep, down_ms } => {
            match how(keep) {
                // Every other one of those that leave a part: in the middle of a write.
                Crash::Torn if keep % 2 == 0 => {
                    cluster.crash_in_a_write(node, keep / 2 % 4, FOR_A_WRITE).await;
                }
                how => cluster.crash_as(node, how).await,
            }
            sleep(down_ms).await;
            cluster.restart(node).await.ok();
        }
        Fault::PowerLoss { keep, down_ms } => {
            for id in cluster.ids() {
                cluster.crash_as(id, how(keep)).await;
            }
            for id in cluster.ids() {
                sleep(down_ms).await;
                cluster.restart(id).await.ok();
            }
        }
        Fault::Cut { links, ms } => {
            let ids = cluster.ids();
            let pairs = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
            let cut: Vec<_> =
                pairs.filter(|(a, b)| a != b && links.cut(ids.len() as u64, *a, *b)).collect();
            cut.iter().for_each(|(from, to)| cluster.0.network.cut(*from, *to));
            sleep(ms).await;
            cluster.0.sim.note(0, format_args!("no longer cut: {links}"));
            cut.iter().for_each(|(from, to)| cluster.0.network.mend(*from, *to));
        }
        Fault::Pause { node, ms } => {
            cluster.pause(node);
            sleep(ms).await;
            cluster.resume(node);
        }
        Fault::SlowDisk { node, factor, ms } => {
            cluster.slow_disk(node, factor as u32);
            sleep(ms).await;
            cluster.slow_disk(node, 1);
        }
        Fault::HungSync { node, ms } => {
            cluster.hang_disk(node);
            sleep(ms).await;
            cluster.release_disk(node);
        }
        Fault::FailedSync { node, down_ms, .. } => {
            cluster.fail_next_sync(node);
            sleep(200 + down_ms).await;
            cluster.restart(node).await.ok();
        }
        Fault::FullDisk { node, ms } => {
            cluster.set_free_space(node, Some(0));
            sleep(ms).await;
            cluster.set_free_space(node, None);
            cluster.restart(node).await.ok();
        }
        Fault::OldDisk { node, age_ms, down_ms } => {
            let Some(copy) = cluster.copy_disk(node) else { return };
            sleep(age_ms).await;
            if cluster.may_put_back(node, &copy) {
                cluster.put_back_disk(node, copy).await;
                sleep(down_ms).await;
                cluster.restart(node).await.ok();
            }
        }
        Fault::WipedDisk { node, down_ms } => {
            if cluster.may_wipe(node) {
                cluster.wipe_disk(node).await;
                sleep(down_ms).await;
                cluster.restart(node).await.ok();
            }
        }
        Fault::ClockJump { node, by_ms } => cluster.jump_clock(node, Duration::from_millis(by_ms)),
        Fault::ClockRate { node, rate } => cluster.set_clock_rate(node, rate),
        // Nodes have no way to be asked for these yet.
        Fault::Change { .. }
        | Fault::Transfer { .. }
        | Fault::Campaign { .. }
        | Fault::ForgetLeader { .. } => {}
    }
}

/// A disk under a log has no order among its unsynced sectors: it keeps none, any, or all of them.
fn how(keep: u64) -> Crash {
    match keep {
        0 => Crash::LoseUnsynced,
        1000 => Crash::KeepAll,
        _ => Crash::Torn,
    }
}
