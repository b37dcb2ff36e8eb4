//! The application's side of a session: numbers its writes and sends them until they are done.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_engine::Instant;
use quorate_network::{Backoff, SessionWrite};
use quorate_storage::StateMachine;
use tokio::sync::Notify;

use crate::env::Env;
use crate::error::WriteError;
use crate::raft::Raft;
use crate::sessions::WINDOW;

/// The pause before the second attempt, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// A session of this program with the cluster, from [`Raft::session`]: each write is applied once,
/// though it be sent again after a lost answer, a change of leader, a restart of the others.
///
/// Writes may be under way at the same time, and no order among them is promised. Each has its number
/// from when it begins, and waits with that while it would be 1024 ahead of the oldest that is not
/// answered. A session lapses when nothing was written in it for
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
    /// the session's timeout, which runs from the call on.
    ///
    /// Dropping the future gives the write up: it was applied once or not at all, or will be.
    ///
    /// # Errors
    /// [`WriteError::SessionExpired`]: certainly not done, open another session.
    /// [`WriteError::Unknown`]: the time was up, or the session at an end, after an attempt of which
    /// nobody could say what became of it; applied once at most. Others as [`Raft::write`], for
    /// writes that were certainly not done.
    pub async fn write(&self, command: S::Command) -> Result<S::Response, WriteError> {
        let command = self.raft.encode(&command).map_err(WriteError::Refused)?;
        let env = self.raft.env();
        let deadline = env.now() + self.timeout;
        let number = self.numbering.take(&**env, deadline).await.ok_or(WriteError::Timeout)?;
        let mut doubtful = false;
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1, env.random());
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
            let left = deadline.since(env.now());
            env.sleep(backoff.pause().min(left)).await;
        }
    }
}

/// The numbers of a session's writes.
#[derive(Debug)]
pub(crate) struct Numbering {
    numbers: Mutex<Numbers>,
    /// Held by whoever is next to get a number: the others come in the order of their calls.
    turn: tokio::sync::Mutex<()>,
    /// Rung for that one when the oldest write is over.
    room: Notify,
}

/// Which writes are under way.
#[derive(Debug)]
struct Numbers {
    next: u64,
    open: BTreeSet<u64>,
}

impl Numbers {
    /// Everything through here is over.
    fn acknowledged(&self) -> u64 {
        self.open.first().map_or(self.next, |first| *first) - 1
    }
}

impl Numbering {
    pub(crate) fn new() -> Self {
        let numbers = Mutex::new(Numbers { next: 1, open: BTreeSet::new() });
        Self { numbers, turn: tokio::sync::Mutex::default(), room: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next write, once it is not too far ahead of the oldest under way: such a one
    /// would be refused. `None` if it is still at `deadline`.
    pub(crate) async fn take(&self, env: &dyn Env, deadline: Instant) -> Option<Number<'_>> {
        let take = async {
            let _turn = self.turn.lock().await;
            loop {
                if let Some(number) = self.take_now() {
                    return number;
                }
                self.room.notified().await;
            }
        };
        tokio::select! { biased;
            number = take => Some(number),
            () = env.sleep(deadline.since(env.now())) => None,
        }
    }

    fn take_now(&self) -> Option<Number<'_>> {
        let mut numbers = self.lock();
        let sequence = numbers.next;
        if sequence - numbers.acknowledged() > WINDOW {
            return None;
        }
        numbers.next += 1;
        numbers.open.insert(sequence);
        Some(Number { of: self, sequence })
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
        let acknowledged = self.of.lock().acknowledged();
        SessionWrite { session, sequence: self.sequence, acknowledged }
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        let mut numbers = self.of.lock();
        let was_oldest = numbers.open.first() == Some(&self.sequence);
        numbers.open.remove(&self.sequence);
        drop(numbers);
        if was_oldest {
            self.of.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::TokioEnv;

    #[tokio::test(start_paused = true)]
    async fn a_number_is_given_when_the_oldest_is_near_or_never() {
        let (env, numbering) = (TokioEnv::new(), Numbering::new());
        let second = Duration::from_secs(1);
        let take = async || numbering.take(&env, env.now() + second).await;
        let mut open = Vec::new();
        for sequence in 1..=WINDOW {
            let number = take().await.unwrap();
            assert_eq!(
                number.of_session(9),
                SessionWrite { session: 9, sequence, acknowledged: 0 }
            );
            open.push(number);
        }
        let began = env.now();
        assert!(take().await.is_none(), "in vain");
        assert_eq!(env.now().since(began), second);
        // Not for want of numbers: the oldest is what counts.
        open.truncate(1);
        assert!(take().await.is_none());
        let finish = async {
            tokio::time::sleep(second / 2).await;
            open.clear();
        };
        let (first, next, ()) = tokio::join!(take(), take(), finish);
        let (first, next) = (first.unwrap(), next.unwrap());
        assert_eq!((first.sequence, next.sequence), (WINDOW + 1, WINDOW + 2), "as they came");
        assert_eq!(next.of_session(9).acknowledged, WINDOW);
    }
}
