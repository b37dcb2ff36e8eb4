//! The cases, in the order in which they are run: from what a store can hardly get wrong to what
//! finds the faults nobody thought of.

use super::*;

pub(super) fn empty<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.open();
    s.expect(&mut storage);
    let found = s.read(&storage, LogId::ZERO, 10, 100);
    assert!(matches!(found, Err(LogReadError::Superseded)), "{}: {found:?}", s.name);
    s.crash(storage);
}

pub(super) fn identity_and_hard_state<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.open();
    s.expect(&mut storage);
    s.write(&mut storage, vec![identity(0), hard_state(1, Some(7))]);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![identity(12)]);
    s.write(&mut storage, vec![hard_state(u64::MAX, None)]);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![hard_state(u64::MAX, Some(u64::MAX))]);
    s.crash(storage);
}

/// Terms and votes written one behind the other, power cut at once: whatever is found was written
/// together.
pub(super) fn one_record<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.open();
    s.expect(&mut storage);
    let mut outcomes = Vec::new();
    for term in 1..=20 {
        let ops = vec![identity(term), hard_state(term, Some(term * 11))];
        outcomes.push(submit(&mut storage, ops));
    }
    s.wait(outcomes.swap_remove(0));
    s.fixture.crash(storage);
    let found = {
        let mut storage = s.reopen();
        s.recover(&mut storage)
    };
    let term = found.hard_state.term;
    assert!(term >= 1, "{}: blank after a completed write", s.name);
    assert_eq!(found.hard_state.voted_for, Some(term * 11), "{}: torn apart", s.name);
    assert_eq!(found.identity.map(|i| i.cluster), Some(term), "{}: torn apart", s.name);
}

fn append_all<F: Fixture>(s: &mut Session<F>, ops: Vec<LogOp>) -> F::Storage {
    let mut storage = s.start();
    for op in ops {
        s.write(&mut storage, vec![op]);
    }
    storage
}

pub(super) fn appended<F: Fixture>(s: &mut Session<F>) {
    let ops = vec![
        configuration(0, 1, 3),
        LogOp::Append(EntryBlock::noop(LogId::new(1, 2))),
        append(1, 3, 5),
        append(3, 8, 1),
        append(3, 9, 100),
    ];
    let storage = append_all(s, ops);
    s.expect_entries(&storage);
    s.crash(storage);
}

pub(super) fn overwrite<F: Fixture>(s: &mut Session<F>) {
    let ops = vec![append(1, 1, 2), append(1, 3, 2), append(1, 5, 2), append(2, 3, 1)];
    let mut storage = append_all(s, ops);
    s.expect_entries(&storage);
    s.write(&mut storage, vec![append(2, 4, 7)]);
    s.expect_entries(&storage);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![append(5, 1, 1)]);
    s.crash(storage);
}

pub(super) fn overwrite_inside_a_block<F: Fixture>(s: &mut Session<F>) {
    let mut storage = append_all(s, vec![append(1, 1, 10), append(2, 11, 10), append(3, 14, 2)]);
    s.expect_entries(&storage);
    s.write(&mut storage, vec![append(4, 5, 1), append(4, 6, 3)]);
    s.expect_entries(&storage);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![append(4, 9, 1)]);
    s.crash(storage);
}

pub(super) fn configurations<F: Fixture>(s: &mut Session<F>) {
    let ops = vec![
        configuration(0, 1, 3),
        append(1, 2, 3),
        configuration(1, 5, 4),
        append(2, 6, 1),
        configuration(2, 7, 5),
        append(4, 6, 3),
    ];
    let storage = append_all(s, ops);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![configuration(4, 9, 2), append(5, 9, 1)]);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(1, 4) }]);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(1, 5) }]);
    s.crash(storage);
}

/// The log of a witness, which was a full replica for its first entries.
pub(super) fn withheld<F: Fixture>(s: &mut Session<F>) {
    let withheld = |term, first, count| match append(term, first, count) {
        LogOp::Append(block) => LogOp::Append(block.withheld()),
        _ => unreachable!("it appends"),
    };
    let mut storage = append_all(s, vec![configuration(0, 1, 3), append(1, 2, 3)]);
    let witness = HardState { witness: true, ..HardState::new(10, None) };
    s.write(&mut storage, vec![LogOp::HardState(witness), withheld(2, 5, 40)]);
    s.write(&mut storage, vec![configuration(2, 45, 4), withheld(2, 46, 7)]);
    s.expect_entries(&storage);
    let mut storage = s.crash(storage);
    s.expect_entries(&storage);
    s.write(&mut storage, vec![withheld(4, 30, 2), withheld(4, 32, 1000)]);
    s.expect_entries(&storage);
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(2, 20) }]);
    let mut storage = s.crash(storage);
    s.expect_entries(&storage);
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(4, 500) }]);
    s.crash(storage);
}

pub(super) fn order<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for index in 1..=500u64 {
        let op = append(1, index, 1);
        s.model.apply(&op);
        let seen = Arc::clone(&seen);
        let done = WriteDone::new(move |outcome| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push((index, outcome.is_ok()));
        });
        storage.submit(WriteBatch { ops: vec![op] }, done);
    }
    s.write(&mut storage, vec![]);
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let expected: Vec<(u64, bool)> = (1..=500).map(|index| (index, true)).collect();
    assert_eq!(seen, expected, "{}", s.name);
    s.crash(storage);
}

pub(super) fn completed_survives<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    for round in 0..20u64 {
        s.write(&mut storage, vec![append(1 + round / 7, 1 + round * 3, 3)]);
        if round % 3 == 0 {
            storage = s.crash(storage);
        }
    }
    s.crash(storage);
}

/// Submits `batches` without waiting, cuts the power after `wait_for` of them completed, and checks
/// that what is left is what some of them made, at least the completed ones. Returns the store,
/// with the model where it was found.
fn crash_in_flight<F: Fixture>(
    s: &mut Session<F>,
    mut storage: F::Storage,
    batches: Vec<Vec<LogOp>>,
    wait_for: usize,
) -> F::Storage {
    let mut states = vec![s.model.clone()];
    let mut outcomes = Vec::new();
    for ops in batches {
        ops.iter().for_each(|op| s.model.apply(op));
        states.push(s.model.clone());
        outcomes.push(submit(&mut storage, ops));
    }
    for outcome in outcomes.drain(..wait_for) {
        s.wait(outcome);
    }
    s.fixture.crash(storage);
    let mut completed = wait_for;
    for outcome in outcomes {
        match outcome.try_recv() {
            Ok(Ok(())) => completed += 1,
            _ => break,
        }
    }
    let mut storage = s.reopen();
    s.expect_one_of(&mut storage, &states[completed..]);
    storage
}

pub(super) fn prefix<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    let mut next = 1;
    for round in 0..6u64 {
        let batches = (0..15u64)
            .map(|i| {
                // Two blocks and a vote, which must not be separated.
                let at = next + i * 4;
                let term = 10 + round * 100 + i;
                vec![append(term, at, 2), hard_state(term, Some(i)), append(term, at + 2, 2)]
            })
            .collect();
        storage = crash_in_flight(s, storage, batches, round as usize * 3);
        next = s.model.recovered().last.index + 1;
    }
    s.write(&mut storage, vec![append(5000, next, 1), hard_state(5000, None)]);
    s.crash(storage);
}

pub(super) fn compact<F: Fixture>(s: &mut Session<F>) {
    let mut storage = append_all(s, vec![append(1, 1, 5), append(2, 6, 5)]);
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(1, 5) }]);
    s.expect_entries(&storage);
    let mut storage = s.crash(storage);
    let found = s.read(&storage, LogId::new(1, 4), 10, 100);
    assert!(
        matches!(found, Err(LogReadError::Compacted { compacted }) if compacted == LogId::new(1, 5)),
        "{}: {found:?}",
        s.name
    );
    // All of it, and on from there.
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(2, 10) }]);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![append(2, 11, 3)]);
    s.crash(storage);
}

pub(super) fn compact_inside_a_block<F: Fixture>(s: &mut Session<F>) {
    let mut storage = append_all(s, vec![append(1, 1, 10), append(2, 11, 10)]);
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(1, 4) }]);
    s.expect_entries(&storage);
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(2, 15) }]);
    s.expect_entries(&storage);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![append(3, 16, 2)]);
    s.crash(storage);
}

/// Of several configurations up to where the log is compacted, the newest stays; and it stays in force
/// when what comes behind it is overwritten.
pub(super) fn base_configuration<F: Fixture>(s: &mut Session<F>) {
    let ops = vec![
        configuration(0, 1, 1),
        append(1, 2, 3),
        configuration(1, 5, 2),
        configuration(1, 6, 3),
        append(1, 7, 5),
        configuration(1, 12, 4),
    ];
    let mut storage = append_all(s, ops);
    for through in [1, 4, 5, 8, 11] {
        let term = if through == 1 { 0 } else { 1 };
        s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(term, through) }]);
        storage = s.crash(storage);
    }
    s.write(&mut storage, vec![append(2, 12, 1)]);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![configuration(2, 13, 5), append(2, 14, 1)]);
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(2, 14) }]);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![append(3, 15, 1)]);
    s.crash(storage);
}

/// Whatever held the entry is long gone.
pub(super) fn base_far_behind<F: Fixture>(s: &mut Session<F>) {
    let mut storage = append_all(s, vec![configuration(0, 1, 3)]);
    for round in 0..20u64 {
        for i in 0..10 {
            let mut batch = Batch::new(1);
            batch.push(&[round as u8; 700]);
            let id = LogId::new(2, 2 + round * 10 + i);
            s.write(&mut storage, vec![LogOp::Append(batch.seal(id))]);
        }
        let through = LogId::new(2, 2 + round * 10 + 7);
        s.write(&mut storage, vec![LogOp::Compact { through }]);
        if round % 7 == 0 {
            storage = s.crash(storage);
        }
    }
    s.crash(storage);
}

pub(super) fn reset_empties<F: Fixture>(s: &mut Session<F>) {
    let mut storage = append_all(s, vec![append(1, 1, 5), configuration(2, 6, 3)]);
    let to = LogId::new(7, 1000);
    s.write(&mut storage, vec![reset(to, 0, 4)]);
    s.expect_entries(&storage);
    let found = s.read(&storage, LogId::new(1, 2), 10, 100);
    assert!(
        matches!(found, Err(LogReadError::Compacted { compacted }) if compacted == to),
        "{}: {found:?}",
        s.name
    );
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![append(7, 1001, 4)]);
    let mut storage = s.crash(storage);
    // Both in one batch.
    let to = LogId::new(8, 5000);
    s.write(&mut storage, vec![reset(to, 80, 2), append(8, 5001, 2)]);
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![configuration(8, 5001, 7)]);
    s.crash(storage);
}

pub(super) fn reset_over_a_longer_log<F: Fixture>(s: &mut Session<F>) {
    let mut storage = append_all(s, vec![append(1, 1, 50)]);
    let to = LogId::new(2, 20);
    s.write(&mut storage, vec![reset(to, 3, 1)]);
    s.write(&mut storage, vec![append(3, 21, 1)]);
    s.expect_entries(&storage);
    s.crash(storage);
}

pub(super) fn superseded<F: Fixture>(s: &mut Session<F>) {
    let storage = append_all(s, vec![append(1, 1, 5), append(3, 6, 5)]);
    let storage = s.crash(storage);
    let others = [(2, 5), (1, 6), (9, 10), (3, 11), (9, 400), (1, 0), (3, 10)];
    for (term, index) in others {
        let after = LogId::new(term, index);
        let found = s.read(&storage, after, 500, 100);
        assert!(matches!(found, Err(LogReadError::Superseded)), "{}: {after} {found:?}", s.name);
    }
    for (term, index) in [(0, 0), (1, 5), (3, 6), (3, 9)] {
        let after = LogId::new(term, index);
        let found = s.read(&storage, after, 500, 100);
        assert!(found.is_ok(), "{}: {after} {found:?}", s.name);
    }
}

pub(super) fn bounded<F: Fixture>(s: &mut Session<F>) {
    let ops = (0..40).map(|i| append(1 + i / 20, 1 + i * 5, 5)).collect();
    let storage = append_all(s, ops);
    let last = s.model.recovered().last.index;
    let bytes = |blocks: &[EntryBlock]| blocks.iter().map(|b| b.bytes().len()).sum::<usize>();
    for after in [0, 1, 4, 5, 7, 99, 100, 101, 150, last - 1] {
        let term = s.model.entries.get(&after).map_or(0, |e| e.0);
        let after = LogId::new(term, after);
        for through in [after.index + 1, after.index + 3, after.index + 8, last, last + 1000] {
            for max_bytes in [0, 1, 60, 100, 500, 2000, usize::MAX] {
                let what = format!("{}: after {after} through {through}, {max_bytes}", s.name);
                let blocks = match s.read(&storage, after, through, max_bytes) {
                    Ok(blocks) => blocks,
                    Err(e) => panic!("{what}: {e}"),
                };
                assert!(!blocks.is_empty(), "{what}: nothing");
                let mut next = after.index + 1;
                let mut found = Entries::new();
                for block in &blocks {
                    assert_eq!(block.first(), next, "{what}: contiguous");
                    next = block.last().index + 1;
                    let whole = (next - 1) % 5 == 0 || next - 1 == through;
                    assert!(whole, "{what}: a block cut to fit: {block}");
                    put(&mut found, block);
                }
                assert!(next - 1 <= through.min(last), "{what}: too far");
                let expected = s.model.entries.range(after.index + 1..next);
                assert!(found.iter().eq(expected), "{what}: other entries");
                // "About": the last block may pass the limit.
                assert!(bytes(&blocks[..blocks.len() - 1]) <= max_bytes, "{what}: too much");
                if max_bytes == usize::MAX {
                    assert_eq!(next - 1, through.min(last), "{what}: too little");
                }
            }
        }
    }
}

pub(super) fn reader_sees_writes<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    let reader = storage.reader();
    let mut after = LogId::ZERO;
    for round in 0..20u64 {
        s.write(&mut storage, vec![append(1, 1 + round * 2, 2)]);
        let blocks = match block_on(reader.read(after, u64::MAX, usize::MAX)) {
            Ok(blocks) => blocks,
            Err(e) => panic!("{}: {e}", s.name),
        };
        assert_eq!(blocks, vec![commands(1, 1 + round * 2, 2)], "{}", s.name);
        after = LogId::new(1, 2 + round * 2);
    }
    s.write(&mut storage, vec![append(2, 40, 1)]);
    let found = block_on(reader.read(after, u64::MAX, usize::MAX));
    assert!(matches!(found, Err(LogReadError::Superseded)), "{}: {found:?}", s.name);
}

/// The handle goes while batches are queued: each is whole or not there, and none was promised.
pub(super) fn dropped_handle<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    let mut states = vec![s.model.clone()];
    let mut outcomes = Vec::new();
    for i in 0..50 {
        let op = append(1, 1 + i * 2, 2);
        s.model.apply(&op);
        states.push(s.model.clone());
        outcomes.push(submit(&mut storage, vec![op]));
    }
    drop(storage);
    let mut storage = s.reopen();
    let mut completed = 0;
    for outcome in outcomes {
        match outcome.recv_timeout(PATIENCE) {
            Ok(Ok(())) => completed += 1,
            Ok(Err(_)) => break,
            Err(_) => panic!("{}: a batch was forgotten", s.name),
        }
    }
    s.expect_one_of(&mut storage, &states[completed..]);
    s.crash(storage);
}

pub(super) fn large<F: Fixture>(s: &mut Session<F>) {
    let mut batch = Batch::new(1);
    batch.push(&vec![0xa5; 3 << 20]);
    batch.push(b"small");
    batch.push(&vec![0x5a; 2 << 20]);
    let big = LogOp::Append(batch.seal(LogId::new(2, 3)));
    let storage = append_all(s, vec![append(1, 1, 2), big, append(2, 6, 2)]);
    let storage = s.crash(storage);
    match s.read(&storage, LogId::new(1, 2), 100, 10) {
        Ok(blocks) => assert_eq!(blocks[0].first(), 3, "{}", s.name),
        Err(e) => panic!("{}: one entry, however large: {e}", s.name),
    }
    s.crash(storage);
}

pub(super) fn hard_state_stays<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    s.write(&mut storage, vec![identity(5)]);
    let outcomes: Vec<_> = (0..2000u64)
        .map(|i| {
            let op = append(2, 1 + i * 3, 3);
            s.model.apply(&op);
            submit(&mut storage, vec![op])
        })
        .collect();
    for outcome in outcomes {
        s.wait(outcome);
    }
    let mut storage = s.crash(storage);
    s.write(&mut storage, vec![LogOp::Compact { through: LogId::new(2, 5999) }]);
    let storage = s.crash(storage);
    s.crash(storage);
}

/// Something a node might write next.
fn random_batch(random: &mut Random, model: &Model) -> Vec<LogOp> {
    let mut model = model.clone();
    let mut ops = Vec::new();
    for _ in 0..1 + random.below(3) {
        let now = model.recovered();
        let term = now.hard_state.term;
        let op = match random.below(12) {
            0 => identity(random.below(100)),
            1 | 2 => hard_state(term + 1, Some(random.below(5)).filter(|v| *v != 0)),
            3 if now.last != now.compacted => {
                let span = now.last.index - now.compacted.index;
                let index = now.compacted.index + 1 + random.below(span);
                LogOp::Compact { through: LogId::new(model.entries[&index].0, index) }
            }
            4 if random.below(4) == 0 => {
                let to = LogId::new(term, now.last.index + random.below(5));
                reset(to, random.below(3), 1 + random.below(5))
            }
            5 => configuration(term, now.last.index + 1, 1 + random.below(5)),
            6 if now.last != now.compacted => {
                let span = now.last.index - now.compacted.index;
                let first = now.compacted.index + 1 + random.below(span);
                append(term, first, 1 + random.below(6))
            }
            _ => append(term, now.last.index + 1, 1 + random.below(20)),
        };
        model.apply(&op);
        ops.push(op);
    }
    ops
}

pub(super) fn random<F: Fixture>(s: &mut Session<F>) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut storage = s.start();
    for _ in 0..12 {
        let mut model = s.model.clone();
        let batches: Vec<Vec<LogOp>> = (0..random.below(25))
            .map(|_| {
                let ops = random_batch(&mut random, &model);
                ops.iter().for_each(|op| model.apply(op));
                ops
            })
            .collect();
        let wait_for = random.below(batches.len() as u64 + 1) as usize;
        storage = crash_in_flight(s, storage, batches, wait_for);
    }
    s.crash(storage);
}
