//! Pictures of disks after a crash: cut at every byte, flipped in every bit, stopped at every call.

#![cfg(feature = "wal")]

mod support;

use std::sync::Arc;

use quorate_engine::LogId;
use quorate_storage::wal::{BATCH_MAGIC, Crash, FakeDisk, Wal, inspect};
use quorate_storage::{LogOp, RaftStorage, Recovered, StorageError};
use support::*;

/// A history that fits into one segment, for tests that go through it byte by byte.
fn short_history() -> Vec<Vec<LogOp>> {
    history()[..5].to_vec()
}

/// Where the batches of a segment begin, from their magic, and where the last one ends.
fn batch_offsets(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len())
        .step_by(8)
        .filter(|at| bytes[*at..].starts_with(&BATCH_MAGIC.to_le_bytes()))
        .collect()
}

fn end_of_data(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn only_segment(disk: &FakeDisk) -> (String, Vec<u8>) {
    let mut image = disk.image();
    assert_eq!(image.len(), 1, "{:?}", image.keys());
    image.pop_first().unwrap()
}

#[test]
fn cut_at_every_byte_then_append_then_reopen() {
    let batches = short_history();
    let states = states(&batches);
    let (name, whole) = only_segment(&disk_of(&batches, false));
    let starts = batch_offsets(&whole);
    assert_eq!(starts.len(), batches.len());
    for cut in starts[0]..end_of_data(&whole) + 1 {
        // What a torn write leaves in a segment: the bytes behind it are the zeros of before.
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        let disk = FakeDisk::from_image(Image::from([(name.clone(), bytes)]), 1);
        let (mut group, mut driver, found) = open(&disk).unwrap_or_else(|e| panic!("{cut}: {e}"));
        let tail = &inspect(&disk.mount()).unwrap().segments[0].reason;
        assert_eq!(tail, "nothing behind it", "the torn tail is still there");
        // The trailing zeros of a batch are as good as written.
        let kept = states.iter().rposition(|state| *state == found).expect("a prefix");
        let complete = starts.iter().filter(|start| **start < cut).count();
        assert!(kept == complete || kept + 1 == complete, "cut {cut}: {kept} of {complete}");

        write(&mut group, &mut driver, vec![hard_state(9)]).unwrap();
        let next = found.last.index + 1;
        write(&mut group, &mut driver, vec![append(9, next, 2)]).unwrap();
        disk.crash(Crash::LoseUnsynced);
        drop((group, driver));
        let (again, _) = state(&disk).unwrap_or_else(|e| panic!("{cut}, reopened: {e}"));
        assert_eq!(again.last, LogId::new(9, next + 1), "cut {cut}");
        assert_eq!(again.hard_state.term, 9);
        assert_eq!(again.compacted, found.compacted);
    }
}

/// A segment is never shorter than it was made, so a shorter one was damaged, not torn.
#[test]
fn a_file_cut_short_is_refused() {
    let (name, whole) = only_segment(&disk_of(&short_history(), true));
    for length in 0..whole.len() {
        let disk = FakeDisk::from_image(Image::from([(name.clone(), whole[..length].to_vec())]), 1);
        let found = state(&disk);
        assert!(matches!(found, Err(StorageError::Corrupt(_))), "{length}: {found:?}");
    }
}

/// Every bit of a log, flipped: refused, or a prefix of what was written that lacks nothing known
/// durable. `unproven` is how many of the last batches nothing later vouches for.
fn flip_every_bit(sealed: bool, unproven: usize) {
    let batches = short_history();
    let states = states(&batches);
    let (name, whole) = only_segment(&disk_of(&batches, sealed));
    let end = end_of_data(&whole);
    // From the last seal or batch on there is nothing behind that could prove damage.
    let last = *batch_offsets(&whole).last().unwrap();
    let mut refused = 0;
    for bit in 0..(end + 64) * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let disk = FakeDisk::from_image(Image::from([(name.clone(), bytes)]), 1);
        match state(&disk) {
            Err(StorageError::Corrupt(what)) => {
                assert!(bit / 8 < last, "bit {bit}: {what}");
                assert!(what.contains(&name) && what.contains("offset"), "{what}");
                refused += 1;
            }
            Err(e) => panic!("bit {bit}: {e}"),
            Ok((found, _)) => {
                assert!(bit / 8 >= last, "bit {bit} of a proven batch was not seen");
                let kept = states.iter().rposition(|state| *state == found).expect("a prefix");
                assert!(kept + unproven >= batches.len(), "bit {bit}: {kept} left");
            }
        }
    }
    assert_eq!(refused, last * 8, "every bit before the last batch");
}

#[test]
fn every_flipped_bit_mid_log_is_refused() {
    flip_every_bit(false, 1);
}

#[test]
fn a_flip_in_the_last_batch_behind_a_seal_is_refused() {
    flip_every_bit(true, 0);
}

/// Flips across segments: only the last segment has a tail that may be torn.
#[test]
fn a_flip_in_an_ended_segment_is_refused() {
    let image = disk_of(&long_history(), true).image();
    assert!(image.len() >= 4, "{:?}", image.keys());
    for (name, whole) in image.iter().filter(|(name, _)| **name != newest(&image)) {
        for at in (0..end_of_data(whole)).step_by(3) {
            let mut damaged = image.clone();
            damaged.get_mut(name).unwrap()[at] ^= 0x10;
            let found = state(&FakeDisk::from_image(damaged, 1));
            assert!(matches!(found, Err(StorageError::Corrupt(_))), "{name} {at}: {found:?}");
        }
    }
}

#[test]
fn a_missing_segment_is_refused_whichever_it_is() {
    let image = disk_of(&long_history(), true).image();
    assert!(image.len() >= 4, "{:?}", image.keys());
    for name in image.keys() {
        let mut less = image.clone();
        less.remove(name);
        let found = state(&FakeDisk::from_image(less, 1));
        assert!(matches!(found, Err(StorageError::Corrupt(_))), "without {name}: {found:?}");
    }
    // And of several, all but the first.
    let first = image.first_key_value().map(|(name, bytes)| (name.clone(), bytes.clone()));
    let found = state(&FakeDisk::from_image(first.into_iter().collect(), 1));
    assert!(matches!(found, Err(StorageError::Corrupt(_))), "{found:?}");
}

#[test]
fn segments_of_two_logs_do_not_mix() {
    let one = disk_of(&long_history(), true).image();
    let other = {
        let disk = FakeDisk::new(1);
        let options = quorate_storage::wal::WalOptions { seed: 6, ..options(4096) };
        let (wal, mut driver) = Wal::open_driven(Arc::new(disk.mount()), options, || {}).unwrap();
        let mut group = wal.group(1);
        group.recover().unwrap();
        for ops in long_history() {
            write(&mut group, &mut driver, ops).unwrap();
        }
        drop((wal, group, driver));
        disk.image()
    };
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for name in one.keys() {
        let mut mixed = one.clone();
        mixed.insert(name.clone(), other[name].clone());
        let found = state(&FakeDisk::from_image(mixed, 1));
        assert!(matches!(found, Err(StorageError::Corrupt(_))), "{name}: {found:?}");
    }
}

/// A log whose entries are newer than its hard state has lost a hard state; so none is written.
/// That a log which looks so is refused is tested with bytes made by hand, beside the recovery.
#[test]
fn entries_are_not_written_before_their_hard_state() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    let refused = write(&mut group, &mut driver, vec![append(3, 1, 1)]);
    assert!(matches!(refused, Err(StorageError::Unusable(_))), "{refused:?}");
    drop((group, driver));
    assert_eq!(state(&disk).unwrap().0, Recovered::default());
}

/// Every call to the disk of a whole history, a restart included, may be the last.
fn crash_at_every_call(how: Crash, seeds: u64) {
    let batches = history();
    let states = states(&batches);
    let mut left_behind = std::collections::BTreeSet::new();
    for seed in 0..seeds {
        for op in 0.. {
            let disk = FakeDisk::new(seed * 1000 + op);
            disk.crash_at(op, how);
            let completed = run_history(&disk, &batches);
            let crashed = disk.crashes() > 0;
            if !crashed {
                assert!(op > 40, "the history has more calls than that");
                assert_eq!(completed, batches.len());
                break;
            }
            // Reopening may crash as well, at any of its calls.
            for again in 0..3 {
                disk.crash_at(disk.ops() + again, how);
                drop(open(&disk));
                disk.crash(how);
            }
            let (found, blocks) =
                state(&disk).unwrap_or_else(|e| panic!("seed {seed} call {op}: {e}"));
            let kept = states.iter().rposition(|state| *state == found);
            let kept = kept.unwrap_or_else(|| panic!("seed {seed} call {op}: {found:?}"));
            assert!(kept >= completed, "seed {seed} call {op}: {kept} of {completed} completed");
            // A vote that was completed is there, or a later one.
            assert!(found.hard_state.term >= states[completed].hard_state.term);
            assert_eq!(blocks.last().map_or(found.compacted, |b| b.last()), found.last);
            left_behind.insert(kept);

            // What is left is a log like any other.
            let rest = run_history_from(&disk, &batches, kept);
            assert_eq!(rest, batches.len(), "seed {seed} call {op}");
            assert_eq!(&state(&disk).unwrap().0, states.last().unwrap());
        }
    }
    // The empty one, and one for each write of two batches.
    assert_eq!(left_behind.len(), 1 + batches.len().div_ceil(2), "{left_behind:?}");
}

/// Writes `batches` until the disk crashes; how many completed.
fn run_history(disk: &FakeDisk, batches: &[Vec<LogOp>]) -> usize {
    run_history_from(disk, batches, 0)
}

fn run_history_from(disk: &FakeDisk, batches: &[Vec<LogOp>], from: usize) -> usize {
    let Ok((mut group, mut driver, _)) = open(disk) else { return from };
    let mut completed = from;
    // Two at a time, so that a write holds more than one batch.
    for pair in batches[from..].chunks(2) {
        let outcomes: Vec<_> = pair.iter().map(|ops| submit(&mut group, ops.clone())).collect();
        while driver.pump() {}
        for outcome in outcomes {
            if outcome.try_recv().expect("pumped until nothing is left").is_err() {
                return completed;
            }
            completed += 1;
        }
    }
    completed
}

#[test]
fn a_crash_at_every_call_that_loses_everything_unsynced() {
    crash_at_every_call(Crash::LoseUnsynced, 1);
}

#[test]
fn a_crash_at_every_call_that_tears_and_reorders() {
    crash_at_every_call(Crash::Torn, 50);
}

#[test]
fn a_kill_at_every_call() {
    crash_at_every_call(Crash::KeepAll, 1);
}

/// What a killed process wrote and did not sync reads well, and is gone with the power. Recovery
/// makes it durable before it tells anybody, and before anything is written behind it: also the end
/// of a segment when the next one is still without a batch.
#[test]
fn what_recovery_tells_is_durable() {
    for (history, op) in
        [history(), long_history()].iter().flat_map(|h| (0..150).map(move |op| (h, op)))
    {
        let killed = || {
            let disk = FakeDisk::new(op);
            disk.crash_at(op, Crash::KeepAll);
            run_history(&disk, history);
            disk.crash(Crash::KeepAll);
            disk
        };
        let disk = killed();
        let (group, driver, told) = open(&disk).unwrap();
        disk.crash(Crash::LoseUnsynced);
        drop((group, driver));
        assert_eq!(told, state(&disk).unwrap().0, "call {op}");

        let disk = killed();
        let (mut group, mut driver, told) = open(&disk).unwrap();
        write(&mut group, &mut driver, vec![hard_state(100)]).unwrap();
        disk.crash(Crash::LoseUnsynced);
        drop((group, driver));
        let (found, _) = state(&disk).unwrap_or_else(|e| panic!("call {op}: {e}"));
        assert_eq!((found.last, found.hard_state.term), (told.last, 100), "call {op}");
    }
}

/// The same after a sync that failed: its bytes are in the page cache, on no disk, and a sync
/// alone does not bring them there.
#[test]
fn recovery_does_not_trust_the_page_cache_after_a_failed_sync() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    write(&mut group, &mut driver, vec![hard_state(1)]).unwrap();
    disk.fail_next_sync();
    assert!(write(&mut group, &mut driver, vec![hard_state(2)]).is_err());
    disk.crash(Crash::KeepAll);
    drop((group, driver));
    let (group, driver, told) = open(&disk).unwrap();
    assert_eq!(told.hard_state.term, 2, "it reads well");
    disk.crash(Crash::LoseUnsynced);
    drop((group, driver));
    assert_eq!(state(&disk).unwrap().0, told);
}

/// Bytes of an earlier life of the space, batches with fitting checksums of their own.
#[test]
fn stale_records_in_preallocated_space_are_not_replayed() {
    let stale = {
        let disk = FakeDisk::new(1);
        let options = quorate_storage::wal::WalOptions { seed: 99, ..options(4096) };
        let (wal, mut driver) = Wal::open_driven(Arc::new(disk.mount()), options, || {}).unwrap();
        let mut group = wal.group(1);
        group.recover().unwrap();
        for ops in [vec![hard_state(50)], vec![append(50, 1, 9)], vec![hard_state(51)]] {
            write(&mut group, &mut driver, ops).unwrap();
        }
        disk.crash(Crash::LoseUnsynced);
        drop((wal, group, driver));
        only_segment(&disk).1
    };
    let batches = short_history();
    let (name, fresh) = only_segment(&disk_of(&batches, false));
    let starts = batch_offsets(&fresh);
    let (stale_starts, first) = (batch_offsets(&stale), starts[0]);
    assert_eq!(stale_starts[0], first, "the same header in front");
    // The segment as if it had been made of the other one's file: a tear at any boundary leaves the
    // other's bytes behind, in the very place where the next batch would be.
    for cut in (first..end_of_data(&fresh)).step_by(8) {
        let mut bytes = fresh.clone();
        bytes[cut..].copy_from_slice(&stale[cut..]);
        let disk = FakeDisk::from_image(Image::from([(name.clone(), bytes)]), 1);
        let (found, _) = state(&disk).unwrap_or_else(|e| panic!("{cut}: {e}"));
        assert!(found.hard_state.term < 50, "replayed another log's batch, cut {cut}");
        assert!(states(&batches).contains(&found), "{cut}: {found:?}");
    }
}

/// A vote, and then segments come and go until the one with the vote is removed.
#[test]
fn the_vote_stays_when_its_segment_is_removed() {
    let disk = FakeDisk::new(1);
    let (mut group, mut driver, _) = open(&disk).unwrap();
    write(&mut group, &mut driver, vec![identity(), hard_state(8)]).unwrap();
    let first = newest(&disk.image());
    for i in 0..20 {
        let mut batch = quorate_engine::Batch::new(1);
        batch.push(&[1; 1500]);
        let id = LogId::new(8, i + 1);
        write(&mut group, &mut driver, vec![LogOp::Append(batch.seal(id))]).unwrap();
        write(&mut group, &mut driver, vec![LogOp::Compact { through: id }]).unwrap();
    }
    let image = disk.image();
    assert!(!image.contains_key(&first) && image.len() <= 2, "{:?}", image.keys());
    disk.crash(Crash::LoseUnsynced);
    drop((group, driver));
    let (found, _) = state(&disk).unwrap();
    let expected: Vec<LogOp> = vec![identity(), hard_state(8)];
    assert_eq!(
        found.identity,
        Some(match expected[0] {
            LogOp::Identity(i) => i,
            _ => panic!(),
        })
    );
    assert_eq!(LogOp::HardState(found.hard_state), expected[1]);
    assert_eq!((found.compacted, found.last), (LogId::new(8, 20), LogId::new(8, 20)));
}

#[test]
fn inspection_shows_the_log_and_changes_nothing() {
    let disk = disk_of(&history(), false);
    let before = (disk.image(), disk.ops());
    let inspection = inspect(&disk.mount()).unwrap();
    assert_eq!((disk.image(), disk.ops()), before);
    assert!(inspection.damage.is_none());
    let ends = &inspection.segments.last().unwrap().reason;
    assert!(ends.contains("what the file held before"), "{ends}");
    let text: Vec<String> = inspection
        .segments
        .iter()
        .flat_map(|segment| &segment.batches)
        .flat_map(|batch| &batch.records)
        .map(|record| format!("{} {}", record.kind, record.detail))
        .collect();
    assert!(text.iter().any(|line| line.contains("append 9.36 command 1 entry")), "{text:?}");

    let mut image = disk.image();
    let oldest = segments(&image)[0].clone();
    let batch = &inspection.segments[0].batches[0];
    image.get_mut(&oldest).unwrap()[batch.offset as usize + 40] ^= 1;
    let inspection = inspect(&FakeDisk::from_image(image, 1).mount()).unwrap();
    assert!(inspection.damage.is_some());
    assert!(inspection.segments[0].reason.contains("DAMAGED"), "{}", inspection.segments[0].reason);
}

/// A log of version 1, as it was written when version 1 was made, is read for ever, and goes on in
/// segments of the current version.
#[test]
fn version_1_is_read_and_goes_on() {
    let fixture = include_bytes!("fixtures/wal-v1/0000000000000001.log").to_vec();
    let image = Image::from([("0000000000000001.log".to_string(), fixture)]);
    let disk = FakeDisk::from_image(image, 1);
    let (mut group, mut driver, found) = open(&disk).unwrap();
    assert_eq!(&found, states(&short_history()).last().unwrap());
    let mut batches = short_history();
    for index in found.last.index + 1..found.last.index + 12 {
        batches.push(vec![reset(LogId::new(2, index + 100)), append(2, index + 101, 1)]);
        batches.push(vec![big(2, index + 102)]);
    }
    for ops in &batches[short_history().len()..] {
        write(&mut group, &mut driver, ops.clone()).unwrap();
    }
    drop((group, driver));
    assert!(disk.image().len() > 1);
    assert_eq!(&state(&disk).unwrap().0, states(&batches).last().unwrap());
}

/// The same of version 2, once with a reset and once in files that were used again. While version 2 is
/// current these are the very bytes.
#[test]
fn version_2_is_read_and_written_as_it_was() {
    for (dir, batches) in [("wal-v2", &history()[..13]), ("wal-v2-reused", &history()[..20])] {
        let files = std::fs::read_dir(format!("tests/fixtures/{dir}")).unwrap();
        let file = |path: std::path::PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            (name, std::fs::read(path).unwrap())
        };
        let fixture: Image = files.map(|entry| file(entry.unwrap().path())).collect();
        let (found, _) = state(&FakeDisk::from_image(fixture.clone(), 1)).unwrap();
        assert_eq!(&found, states(batches).last().unwrap(), "{dir}");
        assert!(disk_of(batches, true).image() == fixture, "{dir}: other bytes");
    }
}

/// An empty disk is a blank store, and says nothing else.
#[test]
fn an_empty_directory_is_blank() {
    assert_eq!(state(&FakeDisk::new(1)).unwrap(), (Recovered::default(), vec![]));
}
