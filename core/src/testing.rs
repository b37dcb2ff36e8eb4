//! A state machine for examples and tests.

use async_trait::async_trait;
use quorate_storage::{Committed, Failure, Postcard, Snapshot, StateMachine};

/// Adds numbers: the smallest replicated application.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    /// The sum of all commands.
    pub total: u64,
}

#[async_trait]
impl StateMachine for Counter {
    type Command = u64;
    type Response = u64;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<u64>>) -> Result<Vec<u64>, Failure> {
        let add = |entry: Committed<u64>| {
            self.total = self.total.wrapping_add(entry.command);
            self.total
        };
        Ok(entries.into_iter().map(add).collect())
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        Snapshot::encode(&self.total)
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        self.total = snapshot.decode()?;
        Ok(())
    }
}
