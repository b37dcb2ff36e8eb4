//! Carries out the schedule of faults.

use std::time::Duration;

use quorate::StateMachine;
use quorate_storage::wal::Crash;

use crate::cluster::Cluster;
use crate::fault::{Change, Fault, Seen};

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
        Fault::Change { change, seen, .. } => change_membership(change, seen, cluster).await,
        Fault::Transfer { to, ms } => {
            let Some(node) = cluster.nodes().into_iter().next() else { return };
            let to = cluster.ids().contains(&to).then_some(to);
            node.transfer_leadership(to, Duration::from_millis(ms)).await.ok();
        }
        Fault::Campaign { node } => {
            if let Some(node) = cluster.try_node(node) {
                node.trigger().campaign();
            }
        }
        // What a state machine does is a matter of whoever wrote it.
        Fault::SlowMachine { .. } | Fault::Rot { .. } => {}
        Fault::ForgetLeader { node } => {
            if let Some(node) = cluster.try_node(node) {
                node.trigger().forget_leader();
            }
        }
    }
}

/// How long an operator waits for a change.
pub(crate) const FOR_A_CHANGE: Duration = Duration::from_secs(3);

/// An operator asks the first node that is up. What becomes of it is told nobody: that no promise is
/// broken by it is what counts.
async fn change_membership<S: StateMachine>(change: Change, seen: Seen, cluster: &Cluster<S>) {
    let Some(node) = cluster.nodes().into_iter().next() else { return };
    let place = |id| format!("node-{id}");
    let metrics = node.metrics();
    let asked = match change {
        Change::Add(id) => node.add_learner(id, place(id)),
        Change::AddWitness(id) => node.add_witness(id, place(id)),
        Change::Promote(id) => node.promote(id),
        Change::Demote(id) => node.demote(id),
        Change::Remove(id) => node.remove(id),
        Change::Replace { out, into } => node.replace(out, into, place(into)),
        Change::Set { mask } => {
            let members = metrics.membership.iter().flat_map(|m| m.members().keys());
            node.set_voters(members.copied().filter(|id| mask >> id & 1 == 1))
        }
    };
    let asked = asked.timeout(FOR_A_CHANGE);
    let asked = match seen {
        Seen::Whatever => asked,
        Seen::TheNewest | Seen::AnOlder => asked.expecting(metrics.configured_at),
    };
    asked.await.ok();
}

/// A disk under a log has no order among its unsynced sectors: it keeps none, any, or all of them.
fn how(keep: u64) -> Crash {
    match keep {
        0 => Crash::LoseUnsynced,
        1000 => Crash::KeepAll,
        _ => Crash::Torn,
    }
}
