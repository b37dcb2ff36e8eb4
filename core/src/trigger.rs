//! What an operator has a node do at once; from [`Raft::trigger`](crate::Raft::trigger).

use quorate_storage::SnapshotInfo;
use tokio::sync::oneshot;

use crate::error::SnapshotError;
use crate::node::{Control, ControlSender};

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
}
