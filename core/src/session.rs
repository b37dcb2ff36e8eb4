//! The application's side of a session: numbers its writes and sends them until they are done.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_network::SessionWrite;
use quorate_storage::StateMachine;

use crate::error::WriteError;
use crate::raft::Raft;

/// The pause before the second attempt, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// A session of this program with the cluster, from [`Raft::session`]: each write is applied once,
/// though it be sent again after a lost answer, a change of leader, a restart of the others.
///
/// Writes may be under way at the same time, up to 1024; each has its number from the call on, and no
/// order among them is promised. A session lapses when nothing was written in it for
/// [`Config::session_ttl`](crate::Config::session_ttl), or when there are too many of them. It needs
/// no closing.
///
/// ```
/// use quorate::{Raft, testing::Counter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let raft = Raft::builder(1, Counter::default()).in_memory().start().await?;
/// raft.initialize([(1, "")]).await?;
/// let session = raft.session().await?;
/// assert_eq!(session.write(5).await?, 5);
/// assert_eq!(session.write(5).await?, 10);
/// # Ok(()) }
/// ```
pub struct Session<S: StateMachine> {
    raft: Raft<S>,
    id: u64,
    timeout: Duration,
    numbering: Numbering,
}

impl<S: StateMachine> Session<S> {
    pub(crate) fn new(raft: Raft<S>, id: u64) -> Self {
        let timeout = raft.config().session_ttl;
        Self { raft, id, timeout, numbering: Numbering::new() }
    }

    /// The number of the session in the cluster.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How long a write is tried. By default [`Config::session_ttl`](crate::Config::session_ttl).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Has `command` applied once, and returns its response. Tries until it is done, for as long as
    /// the session's timeout.
    ///
    /// Dropping the future gives the write up: it was applied once or not at all, or will be.
    ///
    /// # Errors
    /// [`WriteError::SessionExpired`]: certainly not done, open another session.
    /// [`WriteError::Unknown`]: the time was up, or the session at an end, after an attempt of which
    /// nobody could say what became of it; applied once at most. Others as [`Raft::write`], for
    /// writes that were certainly not done.
    pub async fn write(&self, command: S::Command) -> Result<S::Response, WriteError> {
        let command = self.raft.encode(&command)?;
        let env = self.raft.env();
        let deadline = env.now() + self.timeout;
        let number = self.numbering.take();
        let mut doubtful = false;
        let (mut pause, longest) = BACKOFF;
        loop {
            let write = number.of_session(self.id);
            let error = match self.raft.attempt(write, command.clone()).await {
                Ok(once) => return Ok(once.response),
                Err(error) => error,
            };
            let done_with = match &error {
                WriteError::Unknown
                | WriteError::Timeout
                | WriteError::Overloaded
                | WriteError::Overwritten
                | WriteError::NotLeader { .. } => env.now() >= deadline,
                // Done: another attempt would be told the same.
                WriteError::Response(_) => return Err(error),
                _ => true,
            };
            doubtful |= error.may_have_happened();
            if done_with {
                return Err(if doubtful { WriteError::Unknown } else { error });
            }
            // Between half of the pause and all of it, so that those who were refused together don't
            // come back together.
            let half = pause / 2;
            let jitter = env.random() % (half.as_nanos() as u64 + 1);
            let left = deadline.since(env.now());
            env.sleep((half + Duration::from_nanos(jitter)).min(left)).await;
            pause = (pause * 2).min(longest);
        }
    }
}

/// The numbers of a session's writes.
#[derive(Debug)]
pub(crate) struct Numbering(Mutex<Numbers>);

/// Which writes are under way.
#[derive(Debug)]
struct Numbers {
    next: u64,
    open: BTreeSet<u64>,
}

impl Numbering {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Numbers { next: 1, open: BTreeSet::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next write.
    pub(crate) fn take(&self) -> Number<'_> {
        let mut numbers = self.lock();
        let sequence = numbers.next;
        numbers.next += 1;
        numbers.open.insert(sequence);
        drop(numbers);
        Number { of: self, sequence }
    }
}

/// The number of a write under way; free when it is over, however that comes.
pub(crate) struct Number<'a> {
    of: &'a Numbering,
    sequence: u64,
}

impl Number<'_> {
    /// The write of this number, acknowledging everything that is done with: answered, or given up.
    pub(crate) fn of_session(&self, session: u64) -> SessionWrite {
        let numbers = self.of.lock();
        let acknowledged = numbers.open.first().map_or(numbers.next, |first| *first) - 1;
        SessionWrite { session, sequence: self.sequence, acknowledged }
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        self.of.lock().open.remove(&self.sequence);
    }
}
