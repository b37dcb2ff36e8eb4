//! The application's side: what a committed command does.

use std::error::Error;
use std::fmt;

use anyerror::AnyError;
use async_trait::async_trait;
use quorate_engine::LogId;

use crate::codec::Codec;

/// The replicated application: commands go in, in the same order on every node.
///
/// `apply` must be deterministic: the same commands in the same order give the same state and the
/// same responses on every node and in every run. No clock, no randomness, no iteration over hash
/// maps; what needs those is decided before the command is proposed and travels in it.
///
/// The state is the node's to lose: after a restart the machine starts as it was built and the
/// committed log is applied to it again.
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
