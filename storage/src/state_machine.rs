//! The application's side: what a committed command does.

use std::error::Error;
use std::fmt;

use anyerror::AnyError;
use async_trait::async_trait;
use quorate_engine::LogId;

use crate::codec::Codec;
use crate::snapshot::{ApplyMark, Snapshot};

/// The replicated application: commands go in, in the same order on every node.
///
/// `apply` must be deterministic: the same commands in the same order give the same state and the
/// same responses on every node and in every run. No clock, no randomness, no iteration over hash
/// maps; what needs those is decided before the command is proposed and travels in it.
///
/// The state is the node's to lose: after a restart the machine starts as it was built, restores the
/// newest snapshot and applies the log behind it again. A machine that keeps its state on a disk of
/// its own says so with [`StateMachine::durable`], and sees no command twice.
#[async_trait]
pub trait StateMachine: Send + 'static {
    /// What clients ask for.
    type Command: Send + 'static;

    /// What they are told once it is done, application errors included.
    type Response: Send + 'static;

    /// How commands and responses become bytes: `Postcard`, `Json`, `Raw`, or one of your own.
    type Codec: Codec<Self::Command> + Codec<Self::Response>;

    /// Applies committed commands, in log order, and returns one response each, in the same order.
    ///
    /// Called by the node's apply worker, one call at a time, with every command exactly once per
    /// life of the machine; batches are bounded in bytes, and reads run between them. May take its
    /// time: replication goes on meanwhile, this node's writers wait. The future is dropped in the
    /// middle only when the node stops.
    ///
    /// # Errors
    /// A [`Failure`] (a disk that is full, say) stops the node, as does a panic or a wrong number
    /// of responses: pending writers get `Unknown`, and the cause is in the metrics. What the
    /// *application* refuses is no failure but a [`StateMachine::Response`].
    async fn apply(
        &mut self,
        entries: Vec<Committed<Self::Command>>,
    ) -> Result<Vec<Self::Response>, Failure>;

    /// A consistent view of the state as it is now, to be written out while commands go on being
    /// applied.
    ///
    /// Called by the apply worker between two batches, whenever the node wants a snapshot, so it
    /// should be quick: a copy of the data, or better a share of it (`Arc`, a read transaction).
    /// What the view gives is taken from it later, on a thread where blocking is allowed. Two nodes
    /// with the same state need not give the same bytes, but each must be able to restore what any
    /// other gives, of older versions too.
    ///
    /// # Errors
    /// Nothing is compacted; the node warns and tries again later. A panic counts as one, so whatever is done to the
    /// state for a view must be complete when something may panic.
    async fn snapshot(&mut self) -> Result<Snapshot, Failure>;

    /// Replaces the whole state by what `snapshot` holds.
    ///
    /// Called when the node starts, before anything is applied, and when a follower was so far
    /// behind that the leader sends it a snapshot. Reading `snapshot` blocks: a machine that restores
    /// much moves it to a thread of its own. A crash, or a dropped future, in the middle may leave
    /// anything: the next start restores again. A machine with a disk of its own replaces its state
    /// and its mark together, so that a crash leaves the old or the new.
    ///
    /// # Errors
    /// Bytes that are no state of this machine, a checksum that does not fit: the node stops.
    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure>;

    /// For machines that keep their state on a disk of their own: makes everything applied so far
    /// durable and returns the mark that was kept with it, the last that [`StateMachine::keep`] was
    /// given before; [`ApplyMark::default`] if there is none yet.
    ///
    /// Called at the start, which then applies only what is behind the mark, and whenever the log is
    /// to be compacted: entries through the mark are then no longer needed, without any snapshot.
    /// So no command is lost as long as a crash never goes back behind what this returned; between
    /// two calls `apply` need not sync.
    ///
    /// # Errors
    /// Stops the node.
    async fn durable(&mut self) -> Result<Option<ApplyMark>, Failure> {
        Ok(None)
    }

    /// A number that is the same for the same state, and most likely another for another: over the data
    /// in an order that is the same everywhere, with no seed, and the same in every version that a
    /// cluster may run at a time. `None`, as by default, if the machine has none: it is not asked again.
    ///
    /// Called by the apply worker behind every
    /// [`Config::state_hash_entries`](https://docs.rs/quorate/latest/quorate/struct.Config.html) entries
    /// of the log, if that is set, between two batches: nothing is applied or read meanwhile. Replicas
    /// compare what they get, and one that differs stops.
    ///
    /// # Errors
    /// Stops the node.
    async fn digest(&mut self) -> Result<Option<u64>, Failure> {
        Ok(None)
    }

    /// For machines with a disk of their own: what to keep with the state of the next `apply` or
    /// `restore`, in the same transaction. Called right before each of them; not called for other
    /// machines.
    fn keep(&mut self, mark: ApplyMark) {
        drop(mark);
    }
}

/// A committed command with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed<C> {
    /// Where it stands. Indexes grow, not always by one: the protocol has entries of its own.
    pub id: LogId,
    /// The command.
    pub command: C,
}

/// Why a state machine can't go on; takes any error by `?`.
pub struct Failure(AnyError);

impl Failure {
    /// A failure that is only a text.
    pub fn msg(what: impl fmt::Display) -> Self {
        Self(AnyError::error(what))
    }

    /// The cause.
    pub fn cause(&self) -> &AnyError {
        &self.0
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(AnyError::new(&error))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
