//! What an operator has a node do at once; from [`Raft::trigger`](crate::Raft::trigger).

use quorate_storage::SnapshotInfo;
use tokio::sync::oneshot;

use crate::control::{Control, ControlSender};
use crate::error::SnapshotError;

/// Orders for one node, carried out at once.
#[derive(Clone, Copy)]
pub struct Trigger<'a> {
    pub(crate) control: &'a ControlSender,
}

impl Trigger<'_> {
    /// Builds a snapshot of what this node has applied, and compacts its log by it. Returns when the
    /// snapshot is durable; the compaction follows. If there is one of this very state already, that
    /// is the answer.
    ///
    /// Dropping the future leaves the snapshot to be built.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing was compacted, and the node goes on.
    pub async fn snapshot(&self) -> Result<SnapshotInfo, SnapshotError> {
        let (reply, answer) = oneshot::channel();
        self.control.send(Control::SnapshotWanted(reply));
        answer.await.unwrap_or(Err(SnapshotError::Stopped))
    }

    /// Has this node campaign at once, with a pre-vote, instead of waiting for its election timeout.
    /// In vain as long as the others hear a leader: to replace a living one, transfer. Nothing happens
    /// on a leader, and on a node that may not lead.
    pub fn campaign(&self) {
        self.control.send(Control::Campaign);
    }

    /// Tells this node that its leader is gone: it campaigns as soon as its promise to that leader has
    /// run out, before its election timeout. It breaks no promise, so a leader that lives loses nothing
    /// by it. Nothing happens on a leader.
    pub fn forget_leader(&self) {
        self.control.send(Control::ForgetLeader);
    }
}
