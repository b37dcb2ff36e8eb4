//! The log against the memory store: several groups do anything at random, the power goes at random,
//! and after each restart the log holds what the memory store held at some moment no earlier than
//! the last completion.

#![cfg(feature = "wal")]

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::{EntryBlock, HardState, LogId, Membership};
use quorate_storage::wal::{Crash, FakeDisk, WalDriver, WalStorage};
use quorate_storage::{LogOp, MemoryStorage, RaftStorage, Recovered, WriteBatch, WriteDone};
use support::*;

const GROUPS: u64 = 3;

/// One step of a run. Numbers are reduced to what makes sense when the step is taken.
#[derive(Clone, Debug)]
enum Step {
    Submit { group: u64, kinds: Vec<(u8, u64)> },
    Pump,
    Seal,
    Crash(Crash),
    CrashAt { ops: u64, how: Crash },
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        Just(Crash::LoseUnsynced),
        Just(Crash::Torn),
        Just(Crash::Torn),
        Just(Crash::KeepAll),
    ];
    let kinds = proptest::collection::vec((0u8..10, any::<u64>()), 1..4);
    prop_oneof![
        12 => (0..GROUPS, kinds).prop_map(|(group, kinds)| Step::Submit { group, kinds }),
        6 => Just(Step::Pump),
        1 => Just(Step::Seal),
        1 => how.clone().prop_map(Step::Crash),
        1 => (0u64..12, how).prop_map(|(ops, how)| Step::CrashAt { ops, how }),
        1 => Just(Step::Close),
    ]
}

/// One group: the store under test, and what it should hold.
struct Pair {
    group: WalStorage,
    /// Every batch that is, or may be, in the log.
    history: Vec<Vec<LogOp>>,
    /// The states the memory store passes through, from the last restart on.
    states: Vec<Recovered>,
    outcomes: Vec<Outcome>,
}

/// A memory store that was given `history`.
fn replay(history: &[Vec<LogOp>]) -> MemoryStorage {
    let mut store = MemoryStorage::new();
    for ops in history {
        let batch = WriteBatch { ops: ops.clone() };
        store.submit(batch, WriteDone::new(|outcome| outcome.unwrap()));
    }
    store
}

/// A batch that makes sense behind what `store` was given; `store` gets it as well.
fn next_batch(store: &mut MemoryStorage, kinds: &[(u8, u64)]) -> Vec<LogOp> {
    let mut ops = Vec::new();
    for (kind, n) in kinds {
        let now = store.recover().unwrap();
        let (term, last, compacted) = (now.hard_state.term, now.last.index, now.compacted.index);
        let inside = (last > compacted).then(|| compacted + 1 + n % (last - compacted).max(1));
        let op = match (kind, inside) {
            (0, _) => identity(),
            (1, _) => LogOp::HardState(HardState::new(term + 1 + n % 2, Some(n % 5))),
            (2, Some(index)) => {
                let run = now.runs.iter().rev().find(|run| run.first <= index).unwrap();
                LogOp::Compact { through: LogId::new(run.term, index) }
            }
            (3, _) if n % 3 == 0 => reset(LogId::new(term, last + n % 7)),
            (4, Some(index)) => append(term, index, 1 + n % 4),
            (5, _) => {
                let membership = Membership::of_voters([(1 + n % 9, "somewhere")]).unwrap();
                LogOp::Append(EntryBlock::configuration(LogId::new(term, last + 1), &membership))
            }
            (6, _) => {
                let mut batch = quorate_engine::Batch::new(1);
                batch.push(&vec![*n as u8; (n % 3000) as usize]);
                LogOp::Append(batch.seal(LogId::new(term, last + 1)))
            }
            _ => append(term, last + 1, 1 + n % 30),
        };
        let batch = WriteBatch { ops: vec![op.clone()] };
        store.submit(batch, WriteDone::new(|outcome| outcome.unwrap()));
        ops.push(op);
    }
    ops
}

struct Run {
    disk: FakeDisk,
    driver: Option<WalDriver>,
    pairs: Vec<Pair>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut run = Self { disk: FakeDisk::new(seed), driver: None, pairs: Vec::new() };
        let (wal, driver) = driven(&run.disk).unwrap();
        run.driver = Some(driver);
        run.pairs = (0..GROUPS)
            .map(|id| {
                let mut group = wal.group(id);
                let states = vec![group.recover().unwrap()];
                Pair { group, history: Vec::new(), states, outcomes: Vec::new() }
            })
            .collect();
        run
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Submit { group, kinds } => {
                let pair = &mut self.pairs[*group as usize];
                let mut model = replay(&pair.history);
                let ops = next_batch(&mut model, kinds);
                pair.states.push(model.recover().unwrap());
                pair.outcomes.push(submit(&mut pair.group, ops.clone()));
                pair.history.push(ops);
            }
            Step::Pump => drop(self.driver.as_mut().unwrap().pump()),
            Step::Seal => self.driver.as_mut().unwrap().seal(),
            Step::CrashAt { ops, how } => {
                self.disk.crash_at(self.disk.ops() + ops, *how);
                while self.driver.as_mut().unwrap().pump() {}
                self.restart(*how);
            }
            Step::Crash(how) => self.restart(*how),
            Step::Close => {
                // Dropping the handles writes everything.
                let submitted: Vec<usize> =
                    self.pairs.iter().map(|pair| pair.history.len()).collect();
                self.restart_after(|_| {});
                let kept: Vec<usize> = self.pairs.iter().map(|pair| pair.history.len()).collect();
                assert_eq!(kept, submitted);
            }
        }
    }

    fn restart(&mut self, how: Crash) {
        self.restart_after(|disk| disk.crash(how));
    }

    /// Reopens the log and compares.
    fn restart_after(&mut self, crash: impl FnOnce(&FakeDisk)) {
        crash(&self.disk);
        let old: Vec<_> = self
            .pairs
            .drain(..)
            .map(|Pair { group, history, states, outcomes }| {
                drop(group);
                (history, states, outcomes)
            })
            .collect();
        self.driver = None;
        let (wal, driver) = driven(&self.disk).unwrap();
        self.driver = Some(driver);
        for (id, (mut history, states, outcomes)) in (0..).zip(old) {
            let completed = outcomes
                .iter()
                .take_while(|outcome| matches!(outcome.try_recv(), Ok(Ok(()))))
                .count();
            let mut group = wal.group(id);
            let found = group.recover().unwrap();
            let blocks = entries(&read_all(&*group.reader(), &found));
            let base = history.len() + 1 - states.len();
            // Two states may differ in entries alone, since these logs overwrite within a term.
            let holds = |kept: &usize| {
                let model = replay(&history[..base + kept]);
                states[*kept] == found && entries(&read_all(&*model.reader(), &found)) == blocks
            };
            let kept = (completed..states.len()).rev().find(holds).unwrap_or_else(|| {
                panic!("group {id}, {completed} completed: {found:?}\nof {states:#?}")
            });
            history.truncate(base + kept);
            self.pairs.push(Pair { group, history, states: vec![found], outcomes: vec![] });
        }
    }
}

/// Entries one by one: how they are cut into blocks is the store's own business.
fn entries(blocks: &[EntryBlock]) -> Vec<(u64, u64, Bytes)> {
    blocks
        .iter()
        .flat_map(|block| {
            let payloads = block.entries().map(Bytes::copy_from_slice);
            (block.first()..).zip(payloads).map(|(i, payload)| (block.term(), i, payload))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_log_holds_what_the_memory_store_held(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut run = Run::new(seed);
        for step in &steps {
            run.step(step);
        }
        run.step(&Step::Close);
    }
}
