//! A quorum is lost for ever, and an operator makes a cluster of those who are left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate::{NodeId, StateMachine, Survivor};
use quorate_storage::wal::{Crash, Wal, WalOptions};

use crate::cluster::env::NodeEnv;
use crate::cluster::sim::lock;
use crate::cluster::{Cluster, Forgot, GROUP};

impl<S: StateMachine> Cluster<S> {
    /// The power goes everywhere and all but `survivors` are lost. Their operator takes the best log
    /// among them, as `docs/repair.md` says, and starts them. Returns those who are lost: they are none
    /// of [`Cluster::members`] any more, and start only when they are told to
    /// ([`Cluster::restart`]), with what their disks have.
    ///
    /// # Errors
    /// Why it can't be done, or who does not start.
    pub async fn lose_quorum(&self, survivors: &BTreeSet<NodeId>) -> Result<Vec<NodeId>, String> {
        let (left, lost): (Vec<_>, Vec<_>) =
            self.members().into_iter().partition(|id| survivors.contains(id));
        self.0.sim.note(0, format_args!("the power goes; {lost:?} are lost for ever"));
        for id in lost.iter().chain(&left) {
            self.end(*id, Crash::LoseUnsynced).await;
        }
        for id in &lost {
            lock(&self.0.forgot).insert(*id, Forgot::ItsCluster);
        }
        let read = left.iter().map(|id| self.survivor(*id)).collect::<Result<Vec<_>, _>>()?;
        let best = read.into_iter().max_by_key(Survivor::last).ok_or("nobody is left")?;
        let (last, id) = (best.last(), best.id());
        let recovered = best.recover(survivors, &self.operators_env(id));
        let recovery = recovered.map_err(|error| error.to_string())?;
        self.0.sim.note(id, format_args!("is recovered from {last}, at {}", recovery.at));
        for id in left {
            self.restart(id).await?;
        }
        Ok(lost)
    }

    /// What a process on this machine takes from the world that is not the node.
    fn operators_env(&self, id: NodeId) -> NodeEnv {
        let mut machines = self.machines();
        let machine = machines.get_mut(&id).expect("an id of this cluster");
        machine.life += 1;
        NodeEnv::new(self.0.sim.clone(), id, machine.life, machine.clock.clone())
    }

    /// What the disk of a node that is down has.
    fn survivor(&self, id: NodeId) -> Result<Survivor, String> {
        let options = WalOptions {
            segment_bytes: self.0.options.segment_bytes,
            // It is closed long before.
            seal_after: Duration::from_secs(3600),
            seed: 0,
        };
        let mount = Arc::new(self.disk(id).files.mount());
        let wal = Wal::open_on(mount, options).map_err(|error| error.to_string())?;
        Survivor::of(wal.group(GROUP)).map_err(|error| error.to_string())
    }
}
