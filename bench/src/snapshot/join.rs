//! The new node, from its start until it is a voter that has caught up.
//!
//! Both nodes are asked for their `/status` again and again. It tells the steps apart: the leader
//! has a snapshot that it did not have, the new node has it, has applied it, is a voter, and has
//! applied what was committed when it became one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kv::client::Status;
use tokio::time::{Instant, sleep};

use super::Progress;
use super::cluster::{Cluster, LOOK, Running};
use super::memory::Memory;
use crate::failure::Failure;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of the new node.
pub(super) struct Joined {
    pub(super) node: Running,
    pub(super) begun: Instant,
    /// When each was over.
    pub(super) steps: [(Step, Instant); 4],
    /// The snapshot that it received.
    pub(super) snapshot: PathBuf,
    /// Of the leader, with the peak since the beginning.
    pub(super) leader_memory: Option<Memory>,
    pub(super) node_memory: Option<Memory>,
}

/// What happens one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// From the start of the new node until the leader has a snapshot for it.
    Build,
    /// Until the new node has all of it, durably.
    Send,
    /// Until the new node's database holds it.
    Restore,
    /// Until it is a voter that has caught up.
    CatchUp,
}

impl Step {
    /// As it is told while it goes on, and in the report.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Step::Build => "the leader writes the snapshot",
            Step::Send => "it is sent, and durable",
            Step::Restore => "the new node restores it",
            Step::CatchUp => "it becomes a voter, and catches up",
        }
    }
}

/// Which steps are over, and since when.
#[derive(Default)]
struct Over {
    build: Option<Instant>,
    send: Option<Instant>,
    restore: Option<Instant>,
    /// The entry that the snapshot ends with.
    through: u64,
    /// What was committed when the node was first seen to be a voter.
    level: Option<u64>,
}

/// Starts a new node, and looks on. What it receives is kept as `snapshot`.
pub(super) async fn join(
    cluster: &mut Cluster,
    leader: &Running,
    snapshot: &Path,
    progress: &Progress,
) -> Result<Joined, Failure> {
    let client = cluster.client.clone();
    let before = status(cluster, leader).await?;
    if before.compacted == 0 {
        return Err(Failure::new(
            "the logs were never compacted, so no snapshot is needed",
            "take a larger --bytes or a smaller --value-bytes",
        ));
    }
    Memory::reset_peak(leader.pid);
    let begun = Instant::now();
    let (id, node) = cluster.join(&leader.server)?;
    let mut over = Over::default();
    loop {
        let at_leader = status(cluster, leader).await?;
        if (at_leader.role.as_str(), at_leader.term) != ("leader", before.term) {
            return Err(Failure::new(
                "another node was elected meanwhile",
                "run it again on a machine, or a disk, with less to do",
            ));
        }
        // It does not serve from its first moment on.
        let at_node = client.status(&node.server).await.ok();
        let now = Instant::now();
        if at_leader.snapshot > before.snapshot {
            over.build.get_or_insert(now);
        }
        if let Some(at_node) = at_node {
            if over.send.is_none() && at_node.snapshot > 0 {
                // It is deleted when the node's own log is compacted.
                keep(&node.data, snapshot)?;
                (over.send, over.through) = (Some(now), at_node.snapshot);
            }
            if over.send.is_some() && at_node.applied >= over.through {
                over.restore.get_or_insert(now);
            }
            if over.restore.is_some() && at_leader.members.voters.contains(&id) {
                let level = *over.level.get_or_insert(at_leader.committed);
                if at_node.applied >= level {
                    break;
                }
            }
        }
        let (step, data) = match &over {
            Over { build: None, .. } => (Step::Build, Some(&leader.data)),
            Over { send: None, .. } => (Step::Send, Some(&node.data)),
            Over { restore: None, .. } => (Step::Restore, None),
            _ => (Step::CatchUp, None),
        };
        progress.step(step.as_str());
        if let Some(data) = data {
            progress.snapshot(data);
        }
        if now > begun + PATIENCE {
            return Err(Failure::new(
                format!("the new node is no voter after {PATIENCE:?}"),
                "look at how fast the disk is; if that is well, report this as a bug",
            ));
        }
        sleep(LOOK).await;
    }
    let ended = Instant::now();
    let Over { build: Some(build), send: Some(send), restore: Some(restore), .. } = over else {
        return Err(Failure::new("the new node needed no snapshot", "report this as a bug"));
    };
    Ok(Joined {
        begun,
        // Between two looks more than one may be over, in any order.
        steps: [
            (Step::Build, build.min(send)),
            (Step::Send, send),
            (Step::Restore, restore),
            (Step::CatchUp, ended),
        ],
        snapshot: snapshot.to_owned(),
        leader_memory: Memory::of(leader.pid),
        node_memory: Memory::of(node.pid),
        node,
    })
}

async fn status(cluster: &mut Cluster, node: &Running) -> Result<Status, Failure> {
    cluster.check()?;
    cluster.client.status(&node.server).await.map_err(|error| {
        Failure::new(format!("the leader does not answer: {error}"), "report this as a bug")
    })
}

/// Gives the one snapshot in the directory `data` another name, as long as it has its own.
fn keep(data: &Path, name: &Path) -> Result<(), Failure> {
    let kept = fs::read_dir(data).and_then(|files| {
        let mut paths = files.flatten().map(|file| file.path());
        let received = paths.find(|path| path.extension().is_some_and(|e| e == "snap"));
        received.map_or(Err(std::io::ErrorKind::NotFound.into()), |path| fs::hard_link(path, name))
    });
    kept.map_err(|error| {
        Failure::new(
            format!("the snapshot that was received cannot be kept: {error}"),
            "name another directory with --dir",
        )
    })
}
