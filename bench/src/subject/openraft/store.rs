//! A log in memory and a state machine that does nothing: the least that openraft can stand on.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, TryStreamExt};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder,
    RaftStateMachine,
};
use openraft::{EntryPayload, Snapshot, SnapshotMeta, StoredMembership};

use super::Types;

/// The log and the vote of one node. A clone is the same log.
///
/// openraft's benchmark keeps its entries in a `BTreeMap`. A queue does less for an append, a read
/// of a range and a purge, and they are all there is.
#[derive(Clone, Default)]
pub(crate) struct LogStore {
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    vote: Option<VoteOf<Types>>,
    /// The last entry that was purged.
    purged: Option<LogIdOf<Types>>,
    /// The entries after `purged`, without a gap.
    entries: VecDeque<EntryOf<Types>>,
}

impl Log {
    /// The index of the first entry, there or yet to come.
    fn first(&self) -> u64 {
        self.purged.as_ref().map_or(0, |id| id.index + 1)
    }

    /// Where the entry of `index` stands in `entries`; their number if it lies beyond the end.
    fn position(&self, index: u64) -> usize {
        let offset = index.saturating_sub(self.first());
        usize::try_from(offset).map_or(self.entries.len(), |o| o.min(self.entries.len()))
    }
}

impl LogStore {
    /// No one panics while holding the lock, so a poisoned one is as good as any other.
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<EntryOf<Types>>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let log = self.lock();
        let start = match range.start_bound() {
            Bound::Included(&index) => log.position(index),
            Bound::Excluded(&index) => log.position(index + 1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => log.position(index + 1),
            Bound::Excluded(&index) => log.position(index),
            Bound::Unbounded => log.entries.len(),
        };
        Ok(log.entries.range(start..end.max(start)).cloned().collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let log = self.lock();
        let last_log_id = log.entries.back().map(RaftEntry::log_id).or(log.purged);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + Send,
        I::IntoIter: Send,
    {
        self.lock().entries.extend(entries);
        done.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let mut log = self.lock();
        let keep = log.position(last.map_or(0, |id| id.index + 1));
        log.entries.truncate(keep);
        Ok(())
    }

    async fn purge(&mut self, through: LogIdOf<Types>) -> Result<(), io::Error> {
        let mut log = self.lock();
        let gone = log.position(through.index + 1);
        log.entries.drain(..gone);
        log.purged = Some(through);
        Ok(())
    }
}

/// A state machine that remembers how far it has come, as it must, and nothing else.
///
/// Its snapshots are therefore their own description: purging the log costs next to nothing.
#[derive(Default)]
pub(crate) struct NullMachine {
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    snapshot: Latest,
}

/// The latest snapshot, written by the builder, which runs beside the machine.
type Latest = Arc<Mutex<Option<SnapshotMetaOf<Types>>>>;

/// Makes the snapshot of what a [`NullMachine`] was at one moment.
pub(crate) struct Builder {
    meta: SnapshotMetaOf<Types>,
    latest: Latest,
}

fn remember(latest: &Latest, meta: SnapshotMetaOf<Types>) {
    *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(meta);
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        remember(&self.latest, self.meta.clone());
        Ok(Snapshot { meta: self.meta.clone(), snapshot: () })
    }
}

impl RaftStateMachine<Types> for NullMachine {
    type SnapshotData = ();
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        Builder { meta, latest: Arc::clone(&self.snapshot) }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        (): (),
    ) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        remember(&self.snapshot, meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        let latest = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(latest.map(|meta| Snapshot { meta, snapshot: () }))
    }
}
