//! A lost quorum: what a survivor has, and a new group from that.
//!
//! Works on the storage of a node that does not run. What the protocol makes of it is in the engine's
//! `recovery`, what is promised in `docs/repair.md`.

use std::collections::BTreeSet;
#[cfg(feature = "wal")]
use std::path::Path;
use std::sync::mpsc;

#[cfg(feature = "wal")]
use quorate_engine::GroupId;
use quorate_engine::quorum::is_quorum;
use quorate_engine::{
    EntryBlock, HardState, Index, Log, LogId, Membership, NodeId, Recovery, planted,
};
#[cfg(feature = "wal")]
use quorate_storage::wal::{Wal, WalOptions};
use quorate_storage::{
    Identity, LogOp, RaftStorage, Recovered, SnapshotInfo, StorageError, WriteBatch, WriteDone,
};

use crate::env::Env;

/// What one node has, read while it does not run: for an operator who has lost a quorum for ever, and
/// has to decide from whose log the cluster goes on.
///
/// ```
/// use quorate::{MemoryDisk, Raft, Survivor, TokioEnv, testing::Counter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let disk = MemoryDisk::new();
/// # let node = Raft::builder(1, Counter::default()).storage(disk.open()).start().await?;
/// # node.initialize([(1, "a")]).await?;
/// # node.write(5).await?;
/// # node.shutdown().await;
/// // The disk of node 1, which is all that is left. Of an embedded log: Survivor::open(directory, 1).
/// let survivor = Survivor::of(disk.open())?;
/// println!("the log of node {} ends with {}", survivor.id(), survivor.last());
/// let error = survivor.recover(&[1].into(), &TokioEnv::new()).unwrap_err();
/// assert!(error.to_string().contains("is not lost"), "{error}"); // it can elect itself
/// # Ok(()) }
/// ```
pub struct Survivor {
    open: OpenStorage,
    identity: Identity,
    hard_state: HardState,
    log: Log,
    /// A snapshot that the log has yet to be reset to; see [`crate::start`].
    unfinished: Option<SnapshotInfo>,
    /// The last entry of the newest snapshot.
    snapshot: LogId,
}

/// Gives the storage that was read, to be written to. Called only once the operator has decided.
type OpenStorage = Box<dyn FnOnce() -> Result<Box<dyn RaftStorage>, StorageError> + Send>;

/// Why a quorum was not recovered. Nothing was changed, but for [`RecoverError::Storage`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// There is no log of a member here.
    #[error("{0}")]
    NothingHere(String),
    /// The voters can't be these.
    #[error("{0}; nothing was changed")]
    Voters(String),
    /// The quorum is not lost.
    #[error(
        "the quorum is not lost: the voters {named} are enough of {present} to elect a leader; start \
         them, nothing was changed"
    )]
    NotLost {
        /// Those named.
        named: String,
        /// The voters there are.
        present: String,
    },
    /// The storage can't be used. After a failed write: what is durable is the log of before or the
    /// recovered one, never half of it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Survivor {
    /// Reads the embedded log in `directory`, of the group `group` (1 unless several share a host).
    /// Blocks while it reads; nobody else can have the directory then, so a node that runs there is
    /// never touched. Nothing on the disk is changed before [`Survivor::recover`].
    ///
    /// # Errors
    /// [`RecoverError::NothingHere`] if no node has joined a cluster there;
    /// [`RecoverError::Storage`] with [`StorageError::InUse`] if one runs there, and if the log is
    /// damaged.
    #[cfg(feature = "wal")]
    pub fn open(directory: impl AsRef<Path>, group: GroupId) -> Result<Self, RecoverError> {
        let directory = directory.as_ref();
        let log_files = std::fs::read_dir(directory).map(|entries| {
            entries.flatten().any(|e| e.path().extension().is_some_and(|suffix| suffix == "log"))
        });
        if !log_files.unwrap_or(false) {
            let text = format!("{} holds no log of a node", directory.display());
            return Err(RecoverError::NothingHere(text));
        }
        let (recovered, mut snapshots) = Wal::look(directory, group)?;
        let (directory, seen) = (directory.to_owned(), recovered.clone());
        let open = move || {
            let mut storage = Wal::open(&directory, WalOptions::default())?.group(group);
            if storage.recover()? != seen {
                let text = format!("the log in {} has changed meanwhile", directory.display());
                return Err(StorageError::Unusable(text));
            }
            Ok(Box::new(storage) as Box<dyn RaftStorage>)
        };
        Self::read(recovered, snapshots.pop(), Box::new(open))
    }

    /// Reads any storage. Blocks while it does.
    ///
    /// # Errors
    /// As [`Survivor::open`].
    pub fn of(storage: impl RaftStorage) -> Result<Self, RecoverError> {
        let mut storage: Box<dyn RaftStorage> = Box::new(storage);
        let recovered = storage.recover()?;
        let newest = storage.snapshots().list()?.pop();
        Self::read(recovered, newest, Box::new(move || Ok(storage)))
    }

    fn read(
        recovered: Recovered,
        newest: Option<SnapshotInfo>,
        open: OpenStorage,
    ) -> Result<Self, RecoverError> {
        let Recovered { identity, mut hard_state, compacted, last, runs, configurations } =
            recovered;
        let corrupt = StorageError::Corrupt;
        let mut log = Log::recovered(compacted, last, runs, configurations)
            .map_err(|e| corrupt(e.to_string()))?;
        let snapshot = newest.as_ref().map_or(compacted, |info| info.meta.last);
        let ahead = |info: &SnapshotInfo| {
            let to = info.meta.last;
            to.index > log.compacted().index && !log.contains(to)
        };
        let unfinished = newest.filter(ahead);
        if let Some(SnapshotInfo { meta, .. }) = &unfinished {
            hard_state = hard_state.at_least(meta.last.term);
            log.reset(meta.last, meta.configuration.clone());
        }
        match identity {
            Some(identity) if identity.cluster != 0 && log.membership().is_some() => {
                Ok(Self { open, identity, hard_state, log, unfinished, snapshot })
            }
            _ => {
                let text = "this node has joined no cluster yet: there is nothing to recover";
                Err(RecoverError::NothingHere(text.into()))
            }
        }
    }

    /// The node.
    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// The last entry of its log. Among survivors the best is the one with the highest, compared by
    /// term first and then by index: it has everything committed that any of them has.
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// Everything through here is certainly committed. What comes after may be: a log does not say.
    pub fn committed(&self) -> Index {
        self.snapshot.index.max(self.log.compacted().index)
    }

    /// Its term and vote.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The newest configuration in its log, with its entry.
    pub fn configuration(&self) -> (LogId, &Membership) {
        let (at, membership) = self.log.configurations().last().expect("checked when it was read");
        (*at, membership)
    }

    /// Whether the cluster was recovered with just these voters already: to do so again would change
    /// nothing.
    pub fn is_recovered_with(&self, voters: &BTreeSet<NodeId>) -> bool {
        let (_, membership) = self.configuration();
        membership.recovery().is_some() && !membership.is_joint() && membership.voters() == voters
    }

    /// Whether [`Survivor::recover`] would do it with these voters.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, voters: &BTreeSet<NodeId>) -> Result<(), RecoverError> {
        let (_, membership) = self.configuration();
        let me = self.id();
        let refuse = |text: String| Err(RecoverError::Voters(text));
        if self.hard_state.witness {
            return refuse(format!("node {me} is a witness, which has no commands to go on from"));
        }
        if !voters.contains(&me) {
            return refuse(format!("node {me}, whose log this is, has to be one of the voters"));
        }
        if is_quorum(membership, |id| voters.contains(&id)) {
            let list = |ids: &BTreeSet<NodeId>| {
                ids.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",")
            };
            let present = membership.voter_sets().flatten().copied().collect();
            let (named, present) = (list(voters), list(&present));
            return Err(RecoverError::NotLost { named, present });
        }
        for id in voters.iter().filter(|id| **id != me) {
            let untied = membership.member(*id).is_some_and(|member| member.incarnation == 0);
            if untied {
                return refuse(format!(
                    "no leader has ever heard node {id}, so nobody can tell whether its directory is \
                     the one it had; leave it out, empty its directory and add it when there is a \
                     leader"
                ));
            }
        }
        match self.forced(voters, 0) {
            Ok(_) => Ok(()),
            Err(error) => refuse(error),
        }
    }

    /// The configuration that takes over, and where it will stand.
    fn forced(&self, voters: &BTreeSet<NodeId>, cluster: u64) -> Result<EntryBlock, String> {
        let (_, membership) = self.configuration();
        let after = self.log.last();
        let term = self.hard_state.term.max(after.term) + 1;
        let at = LogId::new(term, after.index + 1);
        let mut former = membership.recovery().map(|r| r.former.clone()).unwrap_or_default();
        former.push(self.identity.cluster);
        let recovery = Recovery { at, after, by: self.id(), cluster, former };
        let tied = membership.with_incarnation(self.id(), self.identity.incarnation);
        let forced = tied.recovered(voters, recovery).map_err(|error| error.to_string())?;
        Ok(EntryBlock::configuration(at, &forced))
    }

    /// Makes these voters the cluster, durably when it returns; the node goes on from here when it is
    /// started. Blocks while it writes. Returns what the log says of it from now on.
    ///
    /// For when more voters are lost *for ever* than a majority can do without. What only they had is
    /// lost, and should they come back, they are refused. What this log has is kept, whether it was
    /// committed or not. The other voters that are named rejoin as they are, when they are started.
    ///
    /// # Errors
    /// As [`Survivor::check`], or if it can't be written.
    pub fn recover(
        mut self,
        voters: &BTreeSet<NodeId>,
        env: &dyn Env,
    ) -> Result<Recovery, RecoverError> {
        self.check(voters)?;
        let reset = self.unfinished.take().map(|SnapshotInfo { meta, .. }| {
            // As a start would, before anything else is said of the log.
            let (to, configuration) = (meta.last, meta.configuration);
            vec![LogOp::HardState(self.hard_state), LogOp::Reset { to, configuration }]
        });
        let former = self.configuration().1.recovery().map(|r| r.former.clone());
        let known = |id: &u64| former.iter().flatten().any(|known| known == id);
        let cluster = std::iter::repeat_with(|| env.random())
            .find(|id| *id != 0 && *id != self.identity.cluster && !known(id))
            .expect("it never ends");
        let keeps = planted::on("recovered-keeps-its-cluster");
        let cluster = if keeps { self.identity.cluster } else { cluster };
        let forced = self.forced(voters, cluster).map_err(RecoverError::Voters)?;
        let recovery = forced.membership().and_then(|m| m.recovery().cloned());
        let identity = Identity { cluster, ..self.identity };
        // The vote of this term is its own: nobody else can ever have led in it.
        let voted_for = Some(self.id());
        let hard_state = HardState { term: forced.term(), voted_for, ..self.hard_state };
        let forced =
            vec![LogOp::Identity(identity), LogOp::HardState(hard_state), LogOp::Append(forced)];
        let mut storage = (self.open)()?;
        for ops in reset.into_iter().chain([forced]) {
            write(&mut *storage, ops)?;
        }
        Ok(recovery.expect("it was put in above"))
    }
}

/// One batch, durable when this returns.
fn write(storage: &mut dyn RaftStorage, ops: Vec<LogOp>) -> Result<(), StorageError> {
    let (to, durable) = mpsc::channel();
    storage.submit(WriteBatch { ops }, WriteDone::new(move |result| drop(to.send(result))));
    // A storage that drops a batch without a word is heard as one that failed.
    durable.recv().expect("every batch is answered")
}
