//! The application that is explored: a few registers, and a ledger that all nodes have to agree on.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate::{Committed, Failure, LogId, Postcard, Snapshot, StateMachine};
use serde::{Deserialize, Serialize};

use crate::cluster::sim::{Sim, lock};
use crate::history::registers::{Input, Output};

/// What a client asks for: an operation, and a number that no other has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) number: u64,
    pub(crate) operation: Operation,
}

/// [`Input`] without the reads, which don't go through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Operation {
    Write { key: u8, value: u64 },
    Cas { key: u8, expect: Option<u64>, value: u64 },
    Delete { key: u8 },
}

impl Operation {
    pub(crate) fn input(&self) -> Input<u8, u64> {
        match *self {
            Self::Write { key, value } => Input::Write { key, value },
            Self::Cas { key, expect, value } => Input::Cas { key, expect, value },
            Self::Delete { key } => Input::Delete { key },
        }
    }
}

/// The answer, as a history has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Written,
    Cas { swapped: bool, current: Option<u64> },
    Deleted { existed: bool },
}

impl Answer {
    pub(crate) fn output(&self) -> Output<u64> {
        match *self {
            Self::Written => Output::Written,
            Self::Cas { swapped, current } => Output::Cas { swapped, current },
            Self::Deleted { existed } => Output::Deleted { existed },
        }
    }
}

/// What was applied anywhere, by index: every node, in each of its lives, has to see the same
/// (paper §5.4.3, State Machine Safety).
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    by_index: BTreeMap<u64, (LogId, Command)>,
    /// What each node has applied in its present life, in order.
    by_node: BTreeMap<u64, Vec<LogId>>,
    /// States that were restored, at starts and from leaders.
    restored: u64,
    /// Whose state machine applies nothing, until when.
    stalled: BTreeMap<u64, Duration>,
    /// Whose state has changed by itself, in its present life.
    rotten: Option<u64>,
}

impl Ledger {
    fn note(&self, sim: &Sim, node: u64, entry: &Committed<Command>) {
        let mut entries = lock(&self.0);
        entries.by_node.entry(node).or_default().push(entry.id);
        let first = entries.by_index.entry(entry.id.index);
        let first = first.or_insert_with(|| (entry.id, entry.command.clone()));
        if (first.0, &first.1) != (entry.id, &entry.command) {
            let what = format!("node {node} applies {entry:?} where {first:?} was applied");
            drop(entries);
            sim.fail("State Machine Safety", what);
        }
    }

    /// What this node has applied, term and index, for its snapshots.
    fn of(&self, node: u64) -> Vec<(u64, u64)> {
        let entries = lock(&self.0);
        let here = entries.by_node.get(&node).into_iter().flatten();
        here.map(|id| (id.term, id.index)).collect()
    }

    /// This node takes over a state in which these were applied, and nothing else. Returns the last.
    fn restore(&self, sim: &Sim, node: u64, applied: Vec<(u64, u64)>) -> LogId {
        let applied: Vec<LogId> =
            applied.into_iter().map(|(term, index)| LogId::new(term, index)).collect();
        let last = applied.last().copied().unwrap_or_default();
        let mut entries = lock(&self.0);
        let known = entries.by_index.range(..=last.index).map(|(_, (id, _))| *id);
        let same = known.eq(applied.iter().copied());
        entries.by_node.insert(node, applied);
        entries.restored += 1;
        entries.rotten.take_if(|rotten| *rotten == node);
        drop(entries);
        if !same {
            let what = format!("node {node} restores a state at {last} that never was");
            sim.fail("State Machine Safety", what);
        }
        last
    }

    /// This node applies nothing until then.
    pub(crate) fn stall(&self, node: u64, until: Duration) {
        lock(&self.0).stalled.insert(node, until);
    }

    /// Until when it applies nothing.
    fn stalled(&self, node: u64) -> Duration {
        lock(&self.0).stalled.get(&node).copied().unwrap_or_default()
    }

    /// The state of this node changes, where reads don't see it.
    pub(crate) fn rot(&self, node: u64) {
        lock(&self.0).rotten = Some(node);
    }

    /// Whose state is not what the log made it.
    pub(crate) fn rotten(&self) -> Option<u64> {
        lock(&self.0).rotten
    }

    /// How often a state was restored.
    pub(crate) fn restored(&self) -> u64 {
        lock(&self.0).restored
    }

    /// How often each command was applied, by its number.
    pub(crate) fn counts(&self) -> BTreeMap<u64, u32> {
        let mut counts = BTreeMap::new();
        for (_, command) in lock(&self.0).by_index.values() {
            *counts.entry(command.number).or_default() += 1;
        }
        counts
    }

    /// Whether this node has applied all that was ever applied anywhere, each once.
    ///
    /// # Errors
    /// The first entry where it has not.
    pub(crate) fn is_whole_on(&self, node: u64) -> Result<(), String> {
        let entries = lock(&self.0);
        let here = entries.by_node.get(&node).map_or(&[][..], Vec::as_slice);
        let all = || entries.by_index.values().map(|(id, _)| *id);
        if here.iter().copied().eq(all()) {
            return Ok(());
        }
        let same = here.iter().zip(all()).take_while(|(a, b)| *a == b).count();
        let at = |id: Option<LogId>| id.map_or("nothing".into(), |id| id.to_string());
        Err(format!(
            "node {node} applied {} where {} was applied",
            at(here.get(same).copied()),
            at(all().nth(same))
        ))
    }
}

/// One node's registers.
pub(crate) struct Store {
    sim: Sim,
    node: u64,
    ledger: Ledger,
    values: BTreeMap<u8, u64>,
    last: LogId,
}

impl Store {
    pub(crate) fn new(sim: Sim, node: u64, ledger: Ledger) -> Self {
        let mut entries = lock(&ledger.0);
        entries.by_node.insert(node, Vec::new());
        entries.rotten.take_if(|rotten| *rotten == node);
        drop(entries);
        Self { sim, node, ledger, values: BTreeMap::new(), last: LogId::ZERO }
    }

    pub(crate) fn get(&self, key: u8) -> Option<u64> {
        self.values.get(&key).copied()
    }

    fn execute(&mut self, operation: Operation) -> Answer {
        match operation {
            Operation::Write { key, value } => {
                self.values.insert(key, value);
                Answer::Written
            }
            Operation::Cas { key, expect, value } => {
                let swapped = self.get(key) == expect;
                if swapped {
                    self.values.insert(key, value);
                }
                Answer::Cas { swapped, current: self.get(key) }
            }
            Operation::Delete { key } => {
                Answer::Deleted { existed: self.values.remove(&key).is_some() }
            }
        }
    }
}

#[async_trait]
impl StateMachine for Store {
    type Command = Command;
    type Response = Answer;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<Command>>) -> Result<Vec<Answer>, Failure> {
        while let Some(rest) = self.ledger.stalled(self.node).checked_sub(self.sim.elapsed()) {
            self.sim.sleep(rest.max(Duration::from_millis(1))).await;
        }
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.id.index <= self.last.index || entry.id.term < self.last.term {
                let what = format!("node {} applies {} after {}", self.node, entry.id, self.last);
                self.sim.fail("entries are applied in order", what);
            }
            self.last = entry.id;
            self.ledger.note(&self.sim, self.node, &entry);
            answers.push(self.execute(entry.command.operation));
        }
        Ok(answers)
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        let applied = self.ledger.of(self.node);
        Snapshot::encode(&(applied, &self.values))
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        let (applied, values): (Vec<(u64, u64)>, _) = snapshot.decode()?;
        self.values = values;
        self.last = self.ledger.restore(&self.sim, self.node, applied);
        Ok(())
    }

    async fn digest(&mut self) -> Result<Option<u64>, Failure> {
        let mut hasher = DefaultHasher::new();
        (&self.values, self.ledger.rotten() == Some(self.node)).hash(&mut hasher);
        Ok(Some(hasher.finish()))
    }
}
