//! The bytes of the format, one by one: what goes in comes out, and nothing else goes in.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::{Batch, EntryBlock, HardState, LogId, Membership};

use super::format::*;
use crate::log::{Identity, LogOp};

fn header() -> SegmentHeader {
    let identity = Identity { node: 3, incarnation: 4, cluster: 5 };
    SegmentHeader {
        version: FORMAT_VERSION,
        reused: true,
        number: 7,
        salt: 0x1234_5678_9abc_def0,
        log: 99,
        length: 4096,
        previous_end: 800,
        previous_sequence: 41,
        groups: vec![
            (1, GroupHeader { identity: Some(identity), ..GroupHeader::default() }),
            (
                2,
                GroupHeader {
                    hard_state: HardState { witness: true, ..HardState::new(3, None) },
                    ..GroupHeader::default()
                },
            ),
            (
                u64::MAX,
                GroupHeader {
                    identity: None,
                    hard_state: HardState::new(9, Some(0)),
                    compacted: LogId::new(1, 2),
                    last: LogId::new(8, 90),
                    configurations: vec![
                        (LogId::new(0, 1), membership(1)),
                        (LogId::new(8, 88), membership(4)),
                    ],
                },
            ),
        ],
    }
}

fn membership(voters: u64) -> Membership {
    Membership::of_voters((1..=voters).map(|id| (id, format!("node{id}:7000")))).unwrap()
}

fn block() -> EntryBlock {
    let mut batch = Batch::new(2);
    batch.push(b"one");
    batch.push(b"");
    batch.seal(LogId::new(4, 8))
}

fn ops() -> Vec<LogOp> {
    vec![
        LogOp::Identity(Identity { node: 1, incarnation: 2, cluster: 3 }),
        LogOp::HardState(HardState::new(4, None)),
        LogOp::HardState(HardState::new(4, Some(0))),
        LogOp::HardState(HardState { witness: true, ..HardState::new(5, None) }),
        LogOp::HardState(HardState { witness: true, ..HardState::new(6, Some(9)) }),
        LogOp::Append(block()),
        LogOp::Append(block().withheld()),
        LogOp::Compact { through: LogId::new(4, 8) },
        LogOp::Reset { to: LogId::new(4, 100), configuration: (LogId::new(3, 90), membership(3)) },
    ]
}

fn batch(salt: &Salt) -> Vec<u8> {
    let mut buffer = vec![1, 2, 3];
    let mut batch = BatchWriter::new(&mut buffer, salt, 42);
    for op in ops() {
        batch.op(6, &op);
    }
    batch.seal();
    batch.next(8);
    batch.finish(512, 256);
    buffer
}

#[test]
fn a_segment_header_round_trips_and_every_flip_is_seen() {
    let bytes = header().encode();
    let configurations: usize =
        [1, 4].map(|n| CONFIGURATION_BYTES + align(membership(n).to_bytes().len())).iter().sum();
    assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES + 3 * GROUP_BYTES + configurations);
    assert_eq!(SegmentHeader::decode(&bytes).unwrap(), header());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
    }
    for cut in 0..bytes.len() {
        assert!(SegmentHeader::decode(&bytes[..cut]).is_err(), "cut {cut}");
    }
}

#[test]
fn a_batch_round_trips_and_stands_where_it_was_written() {
    let salt = Salt::new(5, 1);
    let bytes = Bytes::from(batch(&salt));
    let room = BATCH_HEADER_BYTES as u64 + ops().iter().map(op_bytes).sum::<u64>();
    let ends = (2 * RECORD_HEADER_BYTES + 8) as u64;
    assert!(bytes.len() as u64 <= room + ends, "more than what room is made for");
    let header = BatchHeader::decode(&bytes, &salt, 512).unwrap();
    let expected =
        BatchHeader { length: bytes.len() as u32, records: 11, sequence: 42, durable: 256 };
    assert_eq!(header, expected);
    let records = decode_records(&bytes, &salt, &header).unwrap();
    let found: Vec<Record> = records.iter().map(|(_, record)| record.clone()).collect();
    let mut expected: Vec<Record> = ops().into_iter().map(|op| Record::Op(6, op)).collect();
    expected.extend([Record::Seal, Record::Next { segment: 8 }]);
    assert_eq!(found, expected);
    let at = records[5].0;
    assert_eq!(bytes.slice(at..at + block().bytes().len()), block().bytes());

    assert!(BatchHeader::decode(&bytes, &salt, 520).is_err(), "another offset");
    for other in [Salt::new(6, 1), Salt::new(5, 2)] {
        assert!(BatchHeader::decode(&bytes, &other, 512).is_err(), "another salt or segment");
        assert!(decode_records(&bytes, &other, &header).is_err());
    }
    let moved = BatchHeader { sequence: 43, ..header };
    assert!(decode_records(&bytes, &salt, &moved).is_err(), "records of another batch");
}

#[test]
fn every_flipped_bit_of_a_batch_is_seen() {
    let salt = Salt::new(5, 1);
    let bytes = batch(&salt);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let flipped = Bytes::from(flipped);
        let seen = match BatchHeader::decode(&flipped, &salt, 512) {
            Err(_) => true,
            Ok(header) => decode_records(&flipped, &salt, &header).is_err(),
        };
        assert!(seen, "bit {bit}");
    }
}

/// What a later version may write: intact, and unknown here.
#[test]
fn an_intact_record_of_unknown_kind_is_no_torn_write() {
    let salt = Salt::new(5, 1);
    let mut body = vec![0; RECORD_HEADER_BYTES - 4];
    body[12] = 200;
    let mut buffer = Vec::new();
    let mut writer = BatchWriter::new(&mut buffer, &salt, 1);
    writer.seal();
    writer.finish(0, 0);
    let at = BATCH_HEADER_BYTES;
    buffer[at + 4..at + RECORD_HEADER_BYTES].copy_from_slice(&body);
    // The checksum of record 0 of batch 1, as the format document gives it.
    let mut hasher = crc32fast::Hasher::new();
    for n in [5u64, 1, 1, 0] {
        hasher.update(&n.to_le_bytes());
    }
    hasher.update(&body);
    buffer[at..at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
    let bytes = Bytes::from(buffer);
    let header = BatchHeader::decode(&bytes, &salt, 0).unwrap();
    let found = decode_records(&bytes, &salt, &header);
    assert!(matches!(found, Err(Unreadable::Senseless(_))), "{found:?}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
        prop_assert!(BatchHeader::decode(&bytes, &Salt::new(0, 1), 0).is_err());
    }

    /// Past the header's checksum, whatever follows.
    #[test]
    fn random_records_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 32..300),
        records in 0u32..5,
    ) {
        let length = bytes.len() as u32;
        let header = BatchHeader { length, records, sequence: 1, durable: 0 };
        let found = decode_records(&Bytes::from(bytes), &Salt::new(0, 1), &header);
        prop_assert!(records == 0 || found.is_err());
    }

    /// Random bytes behind a valid segment header: the scan ends, and finds nothing.
    #[test]
    fn random_segments_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let header = header();
        let mut segment = header.encode();
        segment.resize(align(segment.len()), 0);
        let end = segment.len() as u64;
        segment.extend(bytes);
        let scan = super::scan::scan(&Bytes::from(segment), &header, |_, _, _| Ok(())).unwrap();
        prop_assert_eq!((scan.end, scan.last_batch), (end, None));
    }
}
