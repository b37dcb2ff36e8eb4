//! The wire form: it keeps what it is given, reads only what is whole, and does not change unseen.

mod support;

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::message as raft;
use quorate_engine::{Batch, EntryBlock, LogId, Membership, Message as Raft, RoleKind};
use quorate_network::{
    Call, CallKind, CallOutcome, Called, Digest, Envelope, Forward, ForwardAnswer, ForwardOutcome,
    ForwardWrite, Forwarded, Message, NodeStatus, Order, OrderKind, OrderOutcome, Ordered,
    SessionRequest, SessionWrite, WireError,
};
use support::{from_hex, hex};

const MAX_NANOS: u64 = 365 * 24 * 3600 * 1_000_000_000;

fn log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, index)| LogId::new(term, index))
}

fn span() -> impl Strategy<Value = Duration> {
    (0..=MAX_NANOS).prop_map(Duration::from_nanos)
}

fn payload() -> impl Strategy<Value = Bytes> {
    // Lengths on both sides of where payloads are shared instead of copied.
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        1 => (any::<u8>(), 4090usize..9000).prop_map(|(b, n)| Bytes::from(vec![b; n])),
    ]
}

fn payloads() -> impl Strategy<Value = Vec<Bytes>> {
    proptest::collection::vec(payload(), 0..4)
}

fn block() -> impl Strategy<Value = EntryBlock> {
    let id = (any::<u64>(), 1..u64::MAX / 2).prop_map(|(term, index)| LogId::new(term, index));
    let commands = proptest::collection::vec(payload(), 1..5);
    prop_oneof![
        4 => (id.clone(), any::<u16>(), commands, any::<bool>()).prop_map(
            |(id, codec, commands, withheld)| {
                let mut batch = Batch::new(codec);
                for command in &commands {
                    batch.push(command);
                }
                let block = batch.seal(id);
                if withheld { block.withheld() } else { block }
            }
        ),
        1 => id.clone().prop_map(EntryBlock::noop),
        1 => id.prop_map(|id| {
            let members = Membership::of_voters([(1, "one:1"), (2, "two:2")]).unwrap();
            EntryBlock::configuration(id, &members)
        }),
    ]
}

fn raft_message() -> impl Strategy<Value = Raft> {
    let n = any::<u64>;
    prop_oneof![
        (any::<bool>(), n(), log_id(), any::<bool>()).prop_map(|(pre, term, last, transfer)| {
            Raft::RequestVote(raft::RequestVote { pre, term, last, transfer })
        }),
        (any::<bool>(), n(), any::<bool>()).prop_map(|(pre, term, granted)| {
            Raft::RequestVoteAnswer(raft::RequestVoteAnswer { pre, term, granted })
        }),
        (n(), n(), n(), n(), span(), any::<bool>(), log_id()).prop_map(
            |(term, session, round, commit, promise, witness, refill)| {
                Raft::Heartbeat(raft::Heartbeat {
                    term,
                    session,
                    round,
                    commit,
                    promise,
                    witness,
                    refill,
                })
            }
        ),
        (n(), n(), n(), n(), n(), span(), any::<u32>()).prop_map(
            |(term, session, round, accepted, matched, promised, priority)| {
                Raft::HeartbeatAnswer(raft::HeartbeatAnswer {
                    term,
                    session,
                    round,
                    accepted,
                    matched,
                    promised,
                    priority,
                })
            }
        ),
        (n(), n(), log_id(), proptest::collection::vec(block(), 0..4), n(), span()).prop_map(
            |(term, session, prev, blocks, commit, promise)| {
                Raft::AppendEntries(raft::AppendEntries {
                    term,
                    session,
                    prev,
                    blocks,
                    commit,
                    promise,
                    witness: session % 2 == 1,
                })
            }
        ),
        (n(), n(), n(), proptest::option::of(log_id())).prop_map(
            |(term, session, matched, conflict)| {
                Raft::AppendEntriesAnswer(raft::AppendEntriesAnswer {
                    term,
                    session,
                    matched,
                    conflict,
                })
            }
        ),
        (n(), n(), log_id(), (log_id(), 1..9u64), n(), payload(), span()).prop_map(
            |(term, session, last, (at, voter), offset, data, promise)| {
                let membership = Membership::of_voters([(voter, "somewhere")]).unwrap();
                Raft::InstallSnapshot(Box::new(raft::InstallSnapshot {
                    term,
                    session,
                    last,
                    configuration: (at, membership),
                    nonce: !session,
                    bytes: !offset,
                    offset,
                    data,
                    checksum: term as u32,
                    promise,
                    witness: session % 2 == 1,
                }))
            }
        ),
        (n(), n(), n(), n(), any::<bool>()).prop_map(|(term, session, nonce, offset, gap)| {
            let have = raft::SnapshotProgress { session, nonce, offset, gap };
            Raft::InstallSnapshotAnswer(raft::InstallSnapshotAnswer { term, have })
        }),
        (n(), n(), any::<bool>()).prop_map(|(term, context, lease)| {
            Raft::ReadIndex(raft::ReadIndex { term, context, lease })
        }),
        (n(), n(), proptest::option::of(n())).prop_map(|(term, context, index)| {
            Raft::ReadIndexAnswer(raft::ReadIndexAnswer { term, context, index })
        }),
        block().prop_map(|configuration| Raft::Introduce(raft::Introduce { configuration })),
        Just(Raft::Introduced(raft::Introduced {})),
        n().prop_map(|refused| Raft::Stranger(raft::Stranger { refused })),
        n().prop_map(|term| Raft::TimeoutNow(raft::TimeoutNow { term })),
        log_id().prop_map(|at| Raft::Removed(raft::Removed { at })),
    ]
}

fn outcome() -> impl Strategy<Value = ForwardOutcome> {
    prop_oneof![
        payloads().prop_map(ForwardOutcome::Applied),
        proptest::option::of(1..u64::MAX).prop_map(ForwardOutcome::NotLeader),
        Just(ForwardOutcome::Overloaded),
        Just(ForwardOutcome::Overwritten),
        ".{0,20}".prop_map(ForwardOutcome::Refused),
        Just(ForwardOutcome::Unknown),
        payload().prop_map(ForwardOutcome::Repeated),
        any::<u64>().prop_map(ForwardOutcome::Opened),
        Just(ForwardOutcome::SessionExpired),
        Just(ForwardOutcome::Acknowledged),
    ]
}

fn forward_write() -> impl Strategy<Value = ForwardWrite> {
    let write = |token, commands, session| ForwardWrite { token, commands, session };
    let n = any::<u64>;
    prop_oneof![
        (n(), payloads()).prop_map(move |(token, commands)| write(token, commands, None)),
        n().prop_map(move |token| write(token, vec![], Some(SessionRequest::Open))),
        ((n(), n(), n(), n()), payload()).prop_map(move |(ids, command)| {
            let (token, session, sequence, acknowledged) = ids;
            let of = SessionWrite { session, sequence, acknowledged };
            write(token, vec![command], Some(SessionRequest::Write(of)))
        }),
    ]
}

fn order_kind() -> impl Strategy<Value = OrderKind> {
    let n = any::<u64>;
    prop_oneof![
        (n(), ".*", any::<bool>()).prop_map(|(id, address, witness)| OrderKind::AddLearner {
            id,
            address,
            witness
        }),
        n().prop_map(|id| OrderKind::Promote { id }),
        n().prop_map(|id| OrderKind::Demote { id }),
        n().prop_map(|id| OrderKind::Remove { id }),
        (n(), n()).prop_map(|(id, with)| OrderKind::Swap { id, with }),
        proptest::collection::vec(n(), 0..5).prop_map(|voters| OrderKind::SetVoters { voters }),
        (n(), ".*").prop_map(|(id, address)| OrderKind::SetAddress { id, address }),
        proptest::option::of(1..u64::MAX).prop_map(|to| OrderKind::Transfer { to }),
    ]
}

fn order_outcome() -> impl Strategy<Value = OrderOutcome> {
    let n = any::<u64>;
    prop_oneof![
        (n(), n()).prop_map(|(matched, last)| OrderOutcome::Waiting { matched, last }),
        (1..9u64, log_id()).prop_map(|(voter, at)| {
            let membership = Membership::of_voters([(voter, "somewhere")]).unwrap();
            OrderOutcome::Done { membership, at }
        }),
        n().prop_map(OrderOutcome::Leads),
        proptest::option::of(1..u64::MAX).prop_map(OrderOutcome::NotLeader),
        Just(OrderOutcome::InProgress),
        Just(OrderOutcome::Changed),
        n().prop_map(OrderOutcome::UnknownMember),
        Just(OrderOutcome::TimedOut),
        ".*".prop_map(OrderOutcome::Refused),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let kind = prop_oneof![
        (any::<u16>(), payloads())
            .prop_map(|(codec, commands)| CallKind::Write { codec, commands }),
        Just(CallKind::ReadIndex),
        Just(CallKind::Status),
        Just(CallKind::OpenSession),
        (any::<(u64, u64, u64)>(), any::<u16>(), payload()).prop_map(
            |((session, sequence, acknowledged), codec, command)| {
                let write = SessionWrite { session, sequence, acknowledged };
                CallKind::WriteOnce { write, codec, command }
            }
        ),
        (1000..u32::MAX).prop_map(CallKind::Unknown),
    ];
    (any::<u64>(), span(), kind).prop_map(|(token, timeout, kind)| Call { token, timeout, kind })
}

fn status() -> impl Strategy<Value = NodeStatus> {
    let n = any::<u64>;
    let role = prop_oneof![
        Just(RoleKind::Follower),
        Just(RoleKind::Learner),
        Just(RoleKind::PreCandidate),
        Just(RoleKind::Candidate),
        Just(RoleKind::Leader),
    ];
    let leader = proptest::option::of(1..u64::MAX);
    let voter = proptest::option::of(1..9u64);
    ((n(), role, n(), leader), (n(), n(), n()), log_id(), voter).prop_map(
        |((id, role, term, leader), (last, committed, applied), configured_at, voter)| {
            let membership =
                voter.map(|voter| Membership::of_voters([(voter, "somewhere")]).unwrap());
            NodeStatus {
                id,
                role,
                term,
                leader,
                last,
                committed,
                applied,
                configured_at,
                membership,
            }
        },
    )
}

fn called() -> impl Strategy<Value = Called> {
    let n = any::<u64>;
    let outcome = prop_oneof![
        payloads().prop_map(CallOutcome::Applied),
        n().prop_map(CallOutcome::ReadIndex),
        status().prop_map(CallOutcome::Status),
        (proptest::option::of(1..u64::MAX), ".{0,20}")
            .prop_map(|(leader, address)| CallOutcome::NotLeader { leader, address }),
        Just(CallOutcome::Overloaded),
        Just(CallOutcome::Timeout),
        Just(CallOutcome::Overwritten),
        (n(), n()).prop_map(|(bytes, limit)| CallOutcome::TooLarge { bytes, limit }),
        ".{0,20}".prop_map(CallOutcome::Refused),
        Just(CallOutcome::Stopped),
        payload().prop_map(CallOutcome::Repeated),
        n().prop_map(CallOutcome::Opened),
        Just(CallOutcome::SessionExpired),
        Just(CallOutcome::Acknowledged),
        Just(CallOutcome::Unknown),
    ];
    (n(), outcome).prop_map(|(token, outcome)| Called { token, outcome })
}

fn message() -> impl Strategy<Value = Message> {
    let forward = (
        (any::<u64>(), any::<u64>(), any::<u64>()),
        span(),
        any::<u16>(),
        proptest::collection::vec(forward_write(), 0..4),
    )
        .prop_map(|((term, boot, sequence), timeout, codec, writes)| {
            Message::Forward(Forward { term, boot, sequence, timeout, codec, writes })
        });
    let answer =
        (any::<u64>(), outcome()).prop_map(|(token, outcome)| ForwardAnswer { token, outcome });
    let forwarded = (any::<u64>(), proptest::collection::vec(answer, 0..4))
        .prop_map(|(boot, answers)| Message::Forwarded(Forwarded { boot, answers }));
    let position = proptest::option::of(log_id());
    let order = ((any::<u64>(), any::<u64>(), any::<bool>()), span(), position, order_kind())
        .prop_map(|((boot, token, again), timeout, expected, kind)| {
            Message::Order(Order { boot, token, timeout, again, expected, kind })
        });
    let ordered = (any::<u64>(), any::<u64>(), order_outcome())
        .prop_map(|(boot, token, outcome)| Message::Ordered(Ordered { boot, token, outcome }));
    prop_oneof![
        4 => raft_message().prop_map(Message::Raft),
        1 => forward,
        1 => forwarded,
        1 => order,
        1 => ordered,
        1 => (log_id(), any::<u64>())
            .prop_map(|(at, digest)| Message::Digest(Digest { at, digest })),
        1 => call().prop_map(Message::Call),
        1 => called().prop_map(Message::Called),
    ]
}

fn envelope() -> impl Strategy<Value = Envelope> {
    (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), message()).prop_map(
        |(cluster, group, from, to, incarnation, message)| Envelope {
            cluster,
            group,
            from,
            to,
            incarnation,
            message,
        },
    )
}

proptest! {
    #[test]
    fn every_envelope_round_trips(envelope in envelope()) {
        let bytes = envelope.to_bytes();
        let parts: Vec<u8> = envelope.encode().iter().flat_map(|p| p.to_vec()).collect();
        prop_assert_eq!(&parts[..], &bytes[..]);
        prop_assert_eq!(Envelope::from_bytes(bytes).unwrap(), envelope);
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        looks_right in any::<bool>(),
    ) {
        if looks_right && bytes.len() >= 8 {
            let header = bytes.len() as u32 - 8;
            bytes[..4].copy_from_slice(b"QE\x01\0");
            bytes[4..8].copy_from_slice(&(header / 2).to_le_bytes());
        }
        // Protocol Buffers are lenient, so some of it may decode; then it encodes again.
        if let Ok(envelope) = Envelope::from_bytes(Bytes::from(bytes)) {
            prop_assert_eq!(Envelope::from_bytes(envelope.to_bytes()).unwrap(), envelope);
        }
    }

    #[test]
    fn every_cut_is_an_error(envelope in envelope(), at in any::<prop::sample::Index>()) {
        let bytes = envelope.to_bytes();
        let cut = bytes.slice(..at.index(bytes.len()));
        prop_assert!(Envelope::from_bytes(cut).is_err());
    }
}

/// One message of each kind, with the bytes it has had since layout 1.
fn samples() -> Vec<(&'static str, Message, &'static str)> {
    let raft = Message::Raft;
    let mut batch = Batch::new(7);
    batch.push(b"set x");
    batch.push(b"");
    let blocks = vec![batch.seal(LogId::new(6, 41)), EntryBlock::noop(LogId::new(7, 43))];
    let members = Membership::of_voters([(1, "one:1"), (2, "two:2")]).unwrap();
    let configuration = EntryBlock::configuration(LogId::new(0, 1), &members);
    let write = |token, commands, session| ForwardWrite { token, commands, session };
    let of_session = SessionWrite { session: 9, sequence: 5, acknowledged: 4 };
    let forward = Forward {
        term: 7,
        boot: 0xb007,
        sequence: 12,
        timeout: Duration::from_secs(2),
        codec: 7,
        writes: vec![
            write(1, vec![Bytes::from_static(b"add"), Bytes::new()], None),
            write(2, vec![Bytes::from_static(b"sub")], None),
            write(3, vec![], Some(SessionRequest::Open)),
            write(4, vec![Bytes::from_static(b"mul")], Some(SessionRequest::Write(of_session))),
        ],
    };
    let answers = [
        ForwardOutcome::Applied(vec![Bytes::from_static(b"ok"), Bytes::new()]),
        ForwardOutcome::NotLeader(Some(3)),
        ForwardOutcome::NotLeader(None),
        ForwardOutcome::Overloaded,
        ForwardOutcome::Overwritten,
        ForwardOutcome::Refused("no".into()),
        ForwardOutcome::Unknown,
        ForwardOutcome::Repeated(Bytes::from_static(b"again")),
        ForwardOutcome::Opened(9),
        ForwardOutcome::SessionExpired,
        ForwardOutcome::Acknowledged,
    ];
    let answers =
        (1..).zip(answers).map(|(token, outcome)| ForwardAnswer { token, outcome }).collect();
    vec![
        (
            "RequestVote",
            raft(Raft::RequestVote(raft::RequestVote {
                pre: true,
                term: 7,
                last: LogId::new(6, 42),
                transfer: false,
            })),
            "514501002300000009a5c100000000000010051801200229a41c00000000000082010808\
             0110071806202a",
        ),
        (
            "RequestVoteAnswer",
            raft(Raft::RequestVoteAnswer(raft::RequestVoteAnswer {
                pre: false,
                term: 7,
                granted: true,
            })),
            "514501001f00000009a5c100000000000010051801200229a41c0000000000008a010410071801",
        ),
        (
            "Heartbeat",
            raft(Raft::Heartbeat(raft::Heartbeat {
                term: 7,
                session: 3,
                round: 500,
                commit: 42,
                promise: Duration::from_millis(500),
                witness: false,
                refill: LogId::ZERO,
            })),
            "514501002a00000009a5c100000000000010051801200229a41c00000000000092010f08\
             07100318f403202a2880cab5ee01",
        ),
        (
            "HeartbeatAnswer",
            raft(Raft::HeartbeatAnswer(raft::HeartbeatAnswer {
                term: 7,
                session: 3,
                round: 500,
                accepted: 43,
                matched: 42,
                promised: Duration::from_millis(400),
                priority: 0,
            })),
            "514501002c00000009a5c100000000000010051801200229a41c0000000000009a011108\
             07100318f403202b282a308088debe01",
        ),
        (
            "AppendEntries",
            raft(Raft::AppendEntries(raft::AppendEntries {
                term: 7,
                session: 3,
                prev: LogId::new(6, 40),
                blocks,
                commit: 39,
                promise: Duration::from_millis(500),
                witness: false,
            })),
            "514501002d00000009a5c100000000000010051801200229a41c000000000000a2011208\
             0710031806202828273080cab5ee01380251424b3141b55e813500000002000000290000\
             000000000006000000000000000100070000000000050000007365742078000000005142\
             4b31c376e5122c000000010000002b000000000000000700000000000000000000000000\
             000000000000",
        ),
        (
            "AppendEntriesAnswer",
            raft(Raft::AppendEntriesAnswer(raft::AppendEntriesAnswer {
                term: 7,
                session: 3,
                matched: 42,
                conflict: Some(LogId::new(5, 30)),
            })),
            "514501002700000009a5c100000000000010051801200229a41c000000000000aa010c08\
             071003182a22040805101e",
        ),
        (
            "InstallSnapshot",
            raft(Raft::InstallSnapshot(Box::new(raft::InstallSnapshot {
                term: 7,
                session: 3,
                last: LogId::new(6, 900),
                configuration: (LogId::new(2, 10), members.clone()),
                nonce: 0xfeed,
                bytes: 1000,
                offset: 500,
                data: Bytes::from_static(b"part"),
                checksum: 0xc5c5,
                promise: Duration::from_nanos(30),
                witness: false,
            }))),
            "514501006000000009a5c100000000000010051801200229a41c000000000000da014508\
             0710031a05080610840722040802100a2a1a0a0201022209080112056f6e653a31220908\
             02120574776f3a3231edfe00000000000038e80740f403480455c5c50000581e70617274",
        ),
        (
            "InstallSnapshotAnswer",
            raft(Raft::InstallSnapshotAnswer(raft::InstallSnapshotAnswer {
                term: 7,
                have: raft::SnapshotProgress { session: 3, nonce: 0xfeed, offset: 504, gap: true },
            })),
            "514501002d00000009a5c100000000000010051801200229a41c000000000000e2011208\
             07100319edfe00000000000020f8032801",
        ),
        (
            "ReadIndex",
            raft(Raft::ReadIndex(raft::ReadIndex { term: 7, context: 99, lease: false })),
            "514501001f00000009a5c100000000000010051801200229a41c000000000000b2010408071063",
        ),
        (
            "ReadIndexAnswer",
            raft(Raft::ReadIndexAnswer(raft::ReadIndexAnswer {
                term: 7,
                context: 99,
                index: Some(42),
            })),
            "514501002100000009a5c100000000000010051801200229a41c000000000000ba010608\
             071063182a",
        ),
        (
            "Stranger",
            raft(Raft::Stranger(raft::Stranger { refused: 0xbad })),
            "514501002400000009a5c100000000000010051801200229a41c000000000000c2010909\
             ad0b000000000000",
        ),
        (
            "RequestVote after TimeoutNow",
            raft(Raft::RequestVote(raft::RequestVote {
                pre: false,
                term: 8,
                last: LogId::new(7, 42),
                transfer: true,
            })),
            "514501002300000009a5c100000000000010051801200229a41c00000000000082010810\
             081807202a2801",
        ),
        (
            "HeartbeatAnswer with a priority",
            raft(Raft::HeartbeatAnswer(raft::HeartbeatAnswer {
                term: 7,
                session: 3,
                round: 500,
                accepted: 43,
                matched: 42,
                promised: Duration::from_millis(400),
                priority: 300,
            })),
            "514501002f00000009a5c100000000000010051801200229a41c0000000000009a011408\
             07100318f403202b282a308088debe0138ac02",
        ),
        (
            "TimeoutNow",
            raft(Raft::TimeoutNow(raft::TimeoutNow { term: 7 })),
            "514501001d00000009a5c100000000000010051801200229a41c000000000000ea01020807",
        ),
        (
            "Removed",
            raft(Raft::Removed(raft::Removed { at: LogId::new(7, 42) })),
            "514501001f00000009a5c100000000000010051801200229a41c000000000000f201040807102a",
        ),
        (
            "Introduce",
            raft(Raft::Introduce(raft::Introduce { configuration })),
            "514501001b00000009a5c100000000000010051801200229a41c000000000000ca010051\
             424b31b7b0c8984600000001000000010000000000000000000000000000000200000000\
             0000001a0000000a0201022209080112056f6e653a3122090802120574776f3a32",
        ),
        (
            "Introduced",
            raft(Raft::Introduced(raft::Introduced {})),
            "514501001b00000009a5c100000000000010051801200229a41c000000000000d20100",
        ),
        (
            "Forward",
            Message::Forward(forward),
            "514501005000000009a5c100000000000010051801200229a41c000000000000820235080711\
             07b0000000000000180c2080a8d6b9072807320408011002320408021001320608031a022001\
             320a08041a06080910051804030000006164640000000003000000737562030000006d756c",
        ),
        (
            "Order",
            Message::Order(Order {
                boot: 0xb007,
                token: 4,
                timeout: Duration::from_secs(2),
                again: true,
                expected: Some(LogId::new(6, 40)),
                kind: OrderKind::AddLearner { id: 3, address: "three:3".into(), witness: true },
            }),
            "514501004300000009a5c100000000000010051801200229a41c00000000000092022809\
             07b000000000000010041880a8d6b90720012a0408061028300138034a0774687265653a\
             335001",
        ),
        (
            "Digest",
            Message::Digest(Digest { at: LogId::new(7, 44), digest: 0xd16e57 }),
            "514501002800000009a5c100000000000010051801200229a41c00000000000082030d0807\
             102c19576ed10000000000",
        ),
        (
            "Ordered",
            Message::Ordered(Ordered {
                boot: 0xb007,
                token: 4,
                outcome: OrderOutcome::Done { membership: members, at: LogId::new(7, 44) },
            }),
            "514501004a00000009a5c100000000000010051801200229a41c0000000000009a022f09\
             07b000000000000010041802321a0a0201022209080112056f6e653a3122090802120574\
             776f3a323a040807102c",
        ),
        (
            "Forwarded",
            Message::Forwarded(Forwarded { boot: 0xb007, answers }),
            "514501006800000009a5c100000000000010051801200229a41c0000000000008a024d0907b0\
             000000000000120408011002120408021803120408031800120408042200120408052a001206\
             080632026e6f120408073a001204080842001204080948091204080a52001204080b5a000200\
             00006f6b0000000005000000616761696e",
        ),
        (
            "Call",
            Message::Call(Call {
                token: 4,
                timeout: Duration::from_secs(2),
                kind: CallKind::Write {
                    codec: 3,
                    commands: vec![Bytes::from_static(b"add"), Bytes::new()],
                },
            }),
            "514501002900000009a5c100000000000010051801200229a41c000000000000a2020e08\
             041080a8d6b9071801200328020300000061646400000000",
        ),
        (
            "Called",
            Message::Called(Called {
                token: 4,
                outcome: CallOutcome::NotLeader { leader: Some(2), address: "two:2".into() },
            }),
            "514501002800000009a5c100000000000010051801200229a41c000000000000aa020d08\
             0410042802320574776f3a32",
        ),
    ]
}

/// The engine's enum of messages is open, so the compiler doesn't notice a kind without a wire form.
#[test]
fn every_message_of_the_engine_has_a_wire_form() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/src/message.rs");
    let source = std::fs::read_to_string(path).unwrap();
    let (_, kinds) = source.split_once("pub enum Message {\n").unwrap();
    let (kinds, _) = kinds.split_once("\n}").unwrap();
    let samples = samples();
    let mut count = 0;
    for line in kinds.lines().filter(|line| !line.contains("//")) {
        let (kind, _) = line.trim().split_once('(').unwrap();
        assert!(samples.iter().any(|(name, ..)| *name == kind), "{kind} has no sample");
        count += 1;
    }
    assert!(count >= 13, "the enum was not found as a whole");
}

fn addressed(message: Message) -> Envelope {
    Envelope { cluster: 0xc1a5, group: 5, from: 1, to: 2, incarnation: 0x1ca4, message }
}

#[test]
fn golden_bytes_of_each_kind_stay_what_they_are() {
    let mut wrong = Vec::new();
    for (name, message, golden) in samples() {
        let envelope = addressed(message);
        let bytes = envelope.to_bytes();
        if hex(&bytes) != golden {
            wrong.push(format!("{name}: {}", hex(&bytes)));
            continue;
        }
        assert_eq!(Envelope::from_bytes(from_hex(golden)).unwrap(), envelope, "{name}");
    }
    assert!(wrong.is_empty(), "the wire form has changed:\n{}", wrong.join("\n"));
}

#[test]
fn every_flipped_bit_and_every_cut_is_survived() {
    for (name, message, _) in samples() {
        let bytes = addressed(message).to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Whatever a flipped bit decodes to, it is a value that can be encoded again.
            if let Ok(envelope) = Envelope::from_bytes(Bytes::from(flipped)) {
                assert_eq!(Envelope::from_bytes(envelope.to_bytes()).unwrap(), envelope, "{name}");
            }
        }
        for cut in 0..bytes.len() {
            assert!(Envelope::from_bytes(bytes.slice(..cut)).is_err(), "{name} cut at {cut}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(Envelope::from_bytes(Bytes::from(longer)).is_err(), "{name} with a byte behind");
    }
}

#[test]
fn a_flipped_bit_in_a_block_is_always_found() {
    let (_, message, _) = samples().swap_remove(4);
    let bytes = addressed(message).to_bytes();
    let header = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    for bit in (8 + header) * 8..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = Envelope::from_bytes(Bytes::from(flipped));
        assert!(found.is_err(), "bit {bit} of {}", bytes.len() * 8);
    }
}

#[test]
fn payloads_are_shared_not_copied() {
    let mut batch = Batch::new(1);
    batch.push(&vec![9; 100_000]);
    let block = batch.seal(LogId::new(1, 1));
    let append = raft::AppendEntries {
        term: 1,
        session: 1,
        prev: LogId::ZERO,
        blocks: vec![block.clone()],
        commit: 0,
        promise: Duration::ZERO,
        witness: false,
    };
    let envelope = addressed(Message::Raft(Raft::AppendEntries(append)));
    let parts = envelope.encode();
    assert_eq!(parts.len(), 2);
    assert_eq!(parts[1].as_ptr(), block.bytes().as_ptr());

    let bytes = envelope.to_bytes();
    let inside = bytes.as_ptr_range();
    let Message::Raft(Raft::AppendEntries(read)) = Envelope::from_bytes(bytes).unwrap().message
    else {
        panic!("another message");
    };
    assert!(inside.contains(&read.blocks[0].bytes().as_ptr()));
    assert_eq!(read.blocks[0].bytes(), block.bytes());
}

#[test]
fn a_kind_of_a_newer_release_is_named_as_such() {
    // cluster 1, from 3, and a message under tag 40, which no kind has.
    let header = [0x09, 1, 0, 0, 0, 0, 0, 0, 0, 0x18, 3, 0xc2, 0x02, 2, 0x08, 1];
    let mut bytes = b"QE\x01\0".to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header);
    assert_eq!(Envelope::from_bytes(bytes.into()), Err(WireError::UnknownKind { from: 3 }));
}

#[test]
fn fields_of_a_newer_release_are_ignored() {
    let envelope = addressed(Message::Raft(Raft::Stranger(raft::Stranger { refused: 4 })));
    let mut bytes = envelope.to_bytes().to_vec();
    bytes.extend([0x98, 0x06, 7]); // tag 99, varint
    let header = bytes.len() as u32 - 8;
    bytes[4..8].copy_from_slice(&header.to_le_bytes());
    assert_eq!(Envelope::from_bytes(bytes.into()).unwrap(), envelope);
}

#[test]
fn another_layout_says_which() {
    assert_eq!(Envelope::from_bytes(from_hex("5145020000000000")), Err(WireError::Version(2)));
    assert_eq!(Envelope::from_bytes(from_hex("4745542000000000")), Err(WireError::Magic));
}

#[test]
fn a_count_that_no_bytes_back_is_refused_before_anything_is_allocated() {
    // AppendEntries (tag 20) whose field 7, the count of blocks, is 2^32 - 1.
    let header = [0xa2, 0x01, 6, 0x38, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let mut bytes = b"QE\x01\0".to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header);
    bytes.extend([0; 100]);
    assert_eq!(Envelope::from_bytes(bytes.into()), Err(WireError::Short));
    // A header of 4 GiB.
    let announced = from_hex("51450100ffffffff");
    assert!(matches!(Envelope::from_bytes(announced), Err(WireError::Malformed(_))));
}

#[test]
fn a_duration_is_capped_at_a_year() {
    let year = Duration::from_nanos(MAX_NANOS);
    let heartbeat = |promise| {
        let (term, session, round, commit, witness) = (1, 1, 1, 1, false);
        let refill = LogId::ZERO;
        let m = raft::Heartbeat { term, session, round, commit, promise, witness, refill };
        addressed(Message::Raft(Raft::Heartbeat(m)))
    };
    let read = Envelope::from_bytes(heartbeat(Duration::MAX).to_bytes()).unwrap();
    assert_eq!(read, heartbeat(year));
}
