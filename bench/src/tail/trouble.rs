//! What goes wrong, and the writes that go on meanwhile.

use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use quorate::{Raft, ReadMode};
use tokio::time::sleep;

use super::cluster::{Cluster, Machine};
use super::load::{Answers, steady};
use crate::failure::Failure;

/// Before each measurement: what went before it, or the beginning of the trouble, is no part of it.
const SETTLE: Duration = Duration::from_millis(300);

/// How long a follower that is restarted has been away.
const AWAY: Duration = Duration::from_secs(1);

/// What a slow disk and a slow state machine take more, for each batch.
const SLOW: Duration = Duration::from_millis(50);

/// A slow reader looks at one piece of a backup, or at the state, for so long.
const LOOK: Duration = Duration::from_millis(20);

/// What goes wrong, with one follower unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Trouble {
    /// Nothing: how far two measurements of the same are apart.
    Nothing,
    /// Nothing reaches it, and nothing comes from it.
    DeadFollower,
    /// It comes back, recovers from its disk, and catches up.
    Restart,
    /// The leader builds one snapshot after the other.
    Snapshot,
    /// Each write of its log takes long.
    SlowDisk,
    /// Each batch that its state machine applies takes long.
    SlowMachine,
    /// A backup and its state are read slowly.
    SlowReader,
}

/// The writes that are measured.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) value: Bytes,
    /// Writes per second.
    pub(crate) rate: u64,
    pub(crate) length: Duration,
}

impl Load {
    pub(crate) async fn undisturbed(&self, cluster: &Cluster) -> Result<Answers, Failure> {
        sleep(SETTLE).await;
        steady(cluster.leader(), &self.value, self.rate, self.length).await
    }
}

impl Trouble {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::DeadFollower => "dead_follower",
            Self::Restart => "restart",
            Self::Snapshot => "snapshot",
            Self::SlowDisk => "slow_disk",
            Self::SlowMachine => "slow_machine",
            Self::SlowReader => "slow_reader",
        }
    }

    /// Measures `load` with this trouble. It may go on when this returns: see [`Cluster::recover`].
    pub(crate) async fn disturb(
        self,
        cluster: &mut Cluster,
        load: &Load,
    ) -> Result<Answers, Failure> {
        let aside = match self {
            Self::Nothing => None,
            Self::DeadFollower => {
                cluster.cut_off_follower();
                None
            }
            Self::SlowDisk => {
                cluster.follower().1.slow_disk(SLOW);
                None
            }
            Self::SlowMachine => {
                cluster.follower().1.slow_machine(SLOW);
                None
            }
            Self::Restart => return restart(cluster, load).await,
            Self::Snapshot => {
                let leader = cluster.leader().clone();
                Some(tokio::spawn(async move { snapshots(&leader).await }))
            }
            Self::SlowReader => {
                let follower = cluster.follower().0.clone();
                Some(tokio::spawn(async move { read_slowly(&follower).await }))
            }
        };
        let answers = load.undisturbed(cluster).await?;
        if let Some(aside) = aside {
            aside.abort();
            // It does not end by itself, unless it fails: then there was no trouble.
            if let Ok(failure) = aside.await {
                return Err(failure);
            }
        }
        Ok(answers)
    }
}

async fn restart(cluster: &mut Cluster, load: &Load) -> Result<Answers, Failure> {
    let leader = cluster.leader().clone();
    cluster.stop_follower().await;
    let Load { value, rate, length } = load;
    // What it misses.
    steady(&leader, value, *rate, AWAY).await?;
    let (answers, ()) =
        tokio::try_join!(steady(&leader, value, *rate, *length), cluster.start_follower())?;
    Ok(answers)
}

fn failed(doing: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("a node failed to {doing}: {error}"), "look at the room on its disk")
}

/// Builds snapshots until that fails.
async fn snapshots(node: &Raft<Machine>) -> Failure {
    loop {
        if let Err(error) = node.trigger().snapshot().await {
            return failed("build a snapshot", error);
        }
    }
}

/// Takes a backup piece by piece, with pauses, and keeps looking at the state for long, until that fails.
async fn read_slowly(node: &Raft<Machine>) -> Failure {
    loop {
        let mut backup = match node.backup().await {
            Ok(backup) => backup,
            Err(error) => return failed("give a backup", error),
        };
        while let Some(piece) = backup.next().await {
            if let Err(error) = piece {
                return failed("read a backup", error);
            }
            // On the node's own time: nothing is applied there meanwhile.
            let look = node.read_with(ReadMode::Stale, |_| std::thread::sleep(LOOK));
            if let Err(error) = look.await {
                return failed("read its state", error);
            }
            sleep(LOOK).await;
        }
    }
}
