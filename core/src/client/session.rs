//! A client's side of a session: numbers its writes. Sending them until they are done is what the client
//! does with every call that may be sent twice.

use std::time::Duration;

use quorate_network::{CallKind, CallOutcome};
use quorate_storage::{Codec, StateMachine};

use super::{Client, encode, write_error};
use crate::callers::{Once, decode, sole};
use crate::error::WriteError;
use crate::session::Numbering;

/// A session of a client with the cluster, from [`Client::session`]: each write is applied once, though
/// it be sent again after a broken connection, a lost answer, a change of leader, a restart of the nodes.
///
/// Writes may be under way at the same time, and no order among them is promised. Each has its number
/// from when it begins, and waits with that while it would be 1024 ahead of the oldest that is not
/// answered. A session lapses when nothing was written in it for the nodes'
/// [`Config::session_ttl`](crate::Config::session_ttl), or when there are too many of them. It needs no
/// closing.
///
/// ```
/// use quorate::{Client, Raft, testing::Counter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = Raft::builder(1, Counter::default()).in_memory().listen("127.0.0.1:0").start().await?;
/// # node.initialize([(1, node.address())]).await?;
/// # let addresses = [node.address()];
/// let client = Client::<Counter>::connect(addresses).await?;
/// let session = client.session().await?;
/// assert_eq!(session.write(5).await?, 5);
/// assert_eq!(session.write(5).await?, 10);
/// # node.shutdown().await;
/// # Ok(()) }
/// ```
pub struct ClientSession<S: StateMachine> {
    client: Client<S>,
    id: u64,
    timeout: Duration,
    numbering: Numbering,
}

impl<S: StateMachine> ClientSession<S> {
    pub(super) fn new(client: Client<S>, id: u64) -> Self {
        let timeout = client.shared.config.deadline;
        Self { client, id, timeout, numbering: Numbering::new() }
    }

    /// The number of the session in the cluster.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How long a write is tried. By default [`ClientConfig::deadline`](crate::ClientConfig::deadline).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Has `command` applied once, and returns its response. Tries until it is done, for as long as the
    /// session's timeout.
    ///
    /// Dropping the future gives the write up: it was applied once or not at all, or will be.
    ///
    /// # Errors
    /// [`WriteError::SessionExpired`]: certainly not done, open another session.
    /// [`WriteError::Unknown`]: the time was up, or the session at an end, after an attempt of which
    /// nobody could say what became of it; applied once at most. Others as [`Client::write`], for writes
    /// that were certainly not done.
    pub async fn write(&self, command: S::Command) -> Result<S::Response, WriteError> {
        Ok(self.write_once(command).await?.response)
    }

    /// As [`ClientSession::write`], and says whether it was an earlier attempt that had it applied.
    ///
    /// # Errors
    /// As [`ClientSession::write`].
    pub async fn write_once(&self, command: S::Command) -> Result<Once<S::Response>, WriteError> {
        let codec = <S::Codec as Codec<S::Command>>::VERSION;
        let command = encode::<S>(&command)?;
        let env = &*self.client.shared.env;
        let deadline = env.now() + self.timeout;
        let number = self.numbering.take(env, deadline).await.ok_or(WriteError::Timeout)?;
        let write = number.of_session(self.id);
        let kind = CallKind::WriteOnce { write, codec, command };
        match self.client.shared.ask_within(deadline.since(env.now()), kind).await {
            CallOutcome::Applied(responses) => {
                Ok(Once { response: sole::<S>(responses)?, repeated: false })
            }
            CallOutcome::Repeated(response) => {
                Ok(Once { response: decode::<S>(response)?, repeated: true })
            }
            outcome => Err(write_error(outcome)),
        }
    }
}
