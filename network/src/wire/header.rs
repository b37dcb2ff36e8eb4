//! The tagged header of an envelope: a mirror of each message, without its payloads.
//!
//! Tags are for ever: a field that goes leaves its tag unused, a field that comes takes a new one
//! and must mean something sensible when it is missing, because an older node doesn't send it.
//!
//! | tag | kind of message |
//! |---|---|
//! | 16 | RequestVote |
//! | 17 | RequestVoteAnswer |
//! | 18 | Heartbeat |
//! | 19 | HeartbeatAnswer |
//! | 20 | AppendEntries |
//! | 21 | AppendEntriesAnswer |
//! | 22 | ReadIndex |
//! | 23 | ReadIndexAnswer |
//! | 24 | Stranger |
//! | 25 | Introduce |
//! | 26 | Introduced |
//! | 27 | InstallSnapshot |
//! | 28 | InstallSnapshotAnswer |
//! | 29 | TimeoutNow |
//! | 30 | Removed |
//! | 32 | Forward |
//! | 33 | Forwarded |
//! | 34 | Order |
//! | 35 | Ordered |
//! | 36 | Call |
//! | 37 | Called |
//! | 48 | Digest |
//!
//! Durations are nanoseconds, at most a year: a peer's number is added to clocks, and a sum must
//! not overflow anybody's.

use std::time::Duration;

use bytes::Bytes;
use quorate_engine::message as raft;
use quorate_engine::{LogId, Membership, Message as Raft};

use super::calls::{WireCall, WireCalled, into_call, into_called, of_call, of_called};
use super::{Payloads, WireError, length};
use crate::message::{
    Digest, Envelope, Forward, ForwardAnswer, ForwardOutcome, ForwardWrite, Forwarded, Message,
    Order, OrderKind, OrderOutcome, Ordered, SessionRequest, SessionWrite,
};

const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Header {
    #[prost(fixed64, tag = "1")]
    cluster: u64,
    #[prost(uint64, tag = "2")]
    group: u64,
    #[prost(uint64, tag = "3")]
    from: u64,
    #[prost(uint64, tag = "4")]
    to: u64,
    #[prost(fixed64, tag = "5")]
    incarnation: u64,
    #[prost(
        oneof = "Kind",
        tags = "16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 32, 33, 34, 35, 36, 37, 48"
    )]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "16")]
    RequestVote(RequestVote),
    #[prost(message, tag = "17")]
    RequestVoteAnswer(RequestVoteAnswer),
    #[prost(message, tag = "18")]
    Heartbeat(Heartbeat),
    #[prost(message, tag = "19")]
    HeartbeatAnswer(HeartbeatAnswer),
    #[prost(message, tag = "20")]
    AppendEntries(AppendEntries),
    #[prost(message, tag = "21")]
    AppendEntriesAnswer(AppendEntriesAnswer),
    #[prost(message, tag = "22")]
    ReadIndex(ReadIndex),
    #[prost(message, tag = "23")]
    ReadIndexAnswer(ReadIndexAnswer),
    #[prost(message, tag = "24")]
    Stranger(Stranger),
    /// One block, the first configuration, stands as the payload.
    #[prost(message, tag = "25")]
    Introduce(()),
    #[prost(message, tag = "26")]
    Introduced(()),
    /// The part of the snapshot stands as the payload.
    #[prost(message, tag = "27")]
    InstallSnapshot(InstallSnapshot),
    #[prost(message, tag = "28")]
    InstallSnapshotAnswer(InstallSnapshotAnswer),
    #[prost(message, tag = "29")]
    TimeoutNow(TimeoutNow),
    #[prost(message, tag = "30")]
    Removed(Position),
    #[prost(message, tag = "32")]
    Forward(ForwardHeader),
    #[prost(message, tag = "33")]
    Forwarded(ForwardedHeader),
    #[prost(message, tag = "34")]
    Order(WireOrder),
    #[prost(message, tag = "35")]
    Ordered(WireOrdered),
    #[prost(message, tag = "48")]
    Digest(WireDigest),
    #[prost(message, tag = "36")]
    Call(WireCall),
    #[prost(message, tag = "37")]
    Called(WireCalled),
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestVote {
    #[prost(bool, tag = "1")]
    pre: bool,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    last_term: u64,
    #[prost(uint64, tag = "4")]
    last_index: u64,
    #[prost(bool, tag = "5")]
    transfer: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestVoteAnswer {
    #[prost(bool, tag = "1")]
    pre: bool,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(bool, tag = "3")]
    granted: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Heartbeat {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(uint64, tag = "3")]
    round: u64,
    #[prost(uint64, tag = "4")]
    commit: u64,
    #[prost(uint64, tag = "5")]
    promise_nanos: u64,
    #[prost(bool, tag = "6")]
    witness: bool,
    #[prost(uint64, tag = "7")]
    refill_term: u64,
    #[prost(uint64, tag = "8")]
    refill_index: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeartbeatAnswer {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(uint64, tag = "3")]
    round: u64,
    #[prost(uint64, tag = "4")]
    accepted: u64,
    #[prost(uint64, tag = "5")]
    matched: u64,
    #[prost(uint64, tag = "6")]
    promised_nanos: u64,
    #[prost(uint32, tag = "7")]
    priority: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AppendEntries {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(uint64, tag = "3")]
    prev_term: u64,
    #[prost(uint64, tag = "4")]
    prev_index: u64,
    #[prost(uint64, tag = "5")]
    commit: u64,
    #[prost(uint64, tag = "6")]
    promise_nanos: u64,
    /// How many blocks stand among the payloads.
    #[prost(uint32, tag = "7")]
    blocks: u32,
    #[prost(bool, tag = "8")]
    witness: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AppendEntriesAnswer {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(uint64, tag = "3")]
    matched: u64,
    #[prost(message, optional, tag = "4")]
    conflict: Option<Position>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Position {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InstallSnapshot {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(message, required, tag = "3")]
    last: Position,
    #[prost(message, required, tag = "4")]
    configured_at: Position,
    /// As [`Membership::to_bytes`] gives it.
    #[prost(bytes = "bytes", tag = "5")]
    configuration: Bytes,
    #[prost(fixed64, tag = "6")]
    nonce: u64,
    #[prost(uint64, tag = "7")]
    bytes: u64,
    #[prost(uint64, tag = "8")]
    offset: u64,
    /// How many bytes of the snapshot stand as the payload.
    #[prost(uint32, tag = "9")]
    part: u32,
    #[prost(fixed32, tag = "10")]
    checksum: u32,
    #[prost(uint64, tag = "11")]
    promise_nanos: u64,
    #[prost(bool, tag = "12")]
    witness: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InstallSnapshotAnswer {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(fixed64, tag = "3")]
    nonce: u64,
    #[prost(uint64, tag = "4")]
    offset: u64,
    #[prost(bool, tag = "5")]
    gap: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadIndex {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    context: u64,
    #[prost(bool, tag = "3")]
    lease: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadIndexAnswer {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    context: u64,
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stranger {
    #[prost(fixed64, tag = "1")]
    refused: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TimeoutNow {
    #[prost(uint64, tag = "1")]
    term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForwardHeader {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(fixed64, tag = "2")]
    boot: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(uint64, tag = "4")]
    timeout_nanos: u64,
    #[prost(uint32, tag = "5")]
    codec: u32,
    #[prost(message, repeated, tag = "6")]
    writes: Vec<WriteHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WriteHeader {
    #[prost(uint64, tag = "1")]
    token: u64,
    /// How many commands stand among the payloads, besides that of a session.
    #[prost(uint32, tag = "2")]
    commands: u32,
    /// A write of a session has its one command among the payloads, not counted above: who doesn't know
    /// of sessions must not take it for an ordinary one.
    #[prost(message, optional, tag = "3")]
    session: Option<WireSession>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSession {
    #[prost(uint64, tag = "1")]
    session: u64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint64, tag = "3")]
    acknowledged: u64,
    /// One is to be opened; the other fields are 0.
    #[prost(bool, tag = "4")]
    open: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForwardedHeader {
    #[prost(fixed64, tag = "1")]
    boot: u64,
    #[prost(message, repeated, tag = "2")]
    answers: Vec<AnswerHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireOrder {
    #[prost(fixed64, tag = "1")]
    boot: u64,
    #[prost(uint64, tag = "2")]
    token: u64,
    #[prost(uint64, tag = "3")]
    timeout_nanos: u64,
    #[prost(bool, tag = "4")]
    again: bool,
    #[prost(message, optional, tag = "5")]
    expected: Option<Position>,
    /// 1 add a learner, 2 promote, 3 demote, 4 remove, 5 swap, 6 set voters, 7 set address,
    /// 8 transfer.
    #[prost(uint32, tag = "6")]
    kind: u32,
    /// Whom it is about; of a transfer 0 for anyone.
    #[prost(uint64, tag = "7")]
    id: u64,
    #[prost(uint64, tag = "8")]
    with: u64,
    #[prost(string, tag = "9")]
    address: String,
    #[prost(bool, tag = "10")]
    witness: bool,
    #[prost(uint64, repeated, tag = "11")]
    voters: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireDigest {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(fixed64, tag = "3")]
    digest: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireOrdered {
    #[prost(fixed64, tag = "1")]
    boot: u64,
    #[prost(uint64, tag = "2")]
    token: u64,
    /// 1 waiting, 2 done, 3 leads, 4 not the leader, 5 in progress, 6 changed, 7 unknown member,
    /// 8 timed out, 9 refused.
    #[prost(uint32, tag = "3")]
    outcome: u32,
    #[prost(uint64, tag = "4")]
    matched: u64,
    #[prost(uint64, tag = "5")]
    last: u64,
    #[prost(bytes = "bytes", tag = "6")]
    membership: Bytes,
    #[prost(message, optional, tag = "7")]
    at: Option<Position>,
    /// 0 is nobody.
    #[prost(uint64, tag = "8")]
    id: u64,
    #[prost(string, tag = "9")]
    reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnswerHeader {
    #[prost(uint64, tag = "1")]
    token: u64,
    #[prost(oneof = "Outcome", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Outcome {
    /// How many responses stand among the payloads.
    #[prost(uint32, tag = "2")]
    Applied(u32),
    /// The leader, 0 if it is not known: 0 is nobody's id.
    #[prost(uint64, tag = "3")]
    NotLeader(u64),
    #[prost(message, tag = "4")]
    Overloaded(()),
    #[prost(message, tag = "5")]
    Overwritten(()),
    #[prost(string, tag = "6")]
    Refused(String),
    #[prost(message, tag = "7")]
    Unknown(()),
    /// The one response stands among the payloads.
    #[prost(message, tag = "8")]
    Repeated(()),
    #[prost(uint64, tag = "9")]
    Opened(u64),
    #[prost(message, tag = "10")]
    SessionExpired(()),
    #[prost(message, tag = "11")]
    Acknowledged(()),
}

impl Header {
    pub(super) fn of(envelope: &Envelope) -> Self {
        let kind = match &envelope.message {
            Message::Raft(message) => of_raft(message),
            Message::Forward(m) => Kind::Forward(ForwardHeader {
                term: m.term,
                boot: m.boot,
                sequence: m.sequence,
                timeout_nanos: nanos(m.timeout),
                codec: m.codec.into(),
                writes: m.writes.iter().map(of_write).collect(),
            }),
            Message::Forwarded(m) => Kind::Forwarded(ForwardedHeader {
                boot: m.boot,
                answers: m
                    .answers
                    .iter()
                    .map(|a| AnswerHeader { token: a.token, outcome: Some(of_outcome(&a.outcome)) })
                    .collect(),
            }),
            Message::Order(m) => Kind::Order(of_order(m)),
            Message::Ordered(m) => Kind::Ordered(of_ordered(m)),
            Message::Digest(m) => {
                Kind::Digest(WireDigest { term: m.at.term, index: m.at.index, digest: m.digest })
            }
            Message::Call(m) => Kind::Call(of_call(m)),
            Message::Called(m) => Kind::Called(of_called(m)),
        };
        Self {
            cluster: envelope.cluster,
            group: envelope.group,
            from: envelope.from,
            to: envelope.to,
            incarnation: envelope.incarnation,
            kind: Some(kind),
        }
    }

    pub(super) fn into_envelope(self, payloads: &mut Payloads) -> Result<Envelope, WireError> {
        let unknown = WireError::UnknownKind { from: self.from };
        let message = match self.kind.ok_or(unknown.clone())? {
            Kind::Forward(m) => Message::Forward(into_forward(m, payloads)?),
            Kind::Forwarded(m) => Message::Forwarded(into_forwarded(m, payloads)?),
            Kind::Order(m) => Message::Order(into_order(m).ok_or(unknown)?),
            Kind::Ordered(m) => Message::Ordered(into_ordered(m)?.ok_or(unknown)?),
            Kind::Digest(m) => {
                Message::Digest(Digest { at: LogId::new(m.term, m.index), digest: m.digest })
            }
            Kind::Call(m) => Message::Call(into_call(m, payloads)?),
            Kind::Called(m) => Message::Called(into_called(m, payloads)?),
            kind => Message::Raft(into_raft(kind, payloads)?),
        };
        Ok(Envelope {
            cluster: self.cluster,
            group: self.group,
            from: self.from,
            to: self.to,
            incarnation: self.incarnation,
            message,
        })
    }
}

pub(super) fn position(id: LogId) -> Position {
    Position { term: id.term, index: id.index }
}

pub(super) fn log_id(position: Position) -> LogId {
    LogId::new(position.term, position.index)
}

fn of_raft(message: &Raft) -> Kind {
    match message {
        Raft::RequestVote(m) => Kind::RequestVote(RequestVote {
            pre: m.pre,
            term: m.term,
            last_term: m.last.term,
            last_index: m.last.index,
            transfer: m.transfer,
        }),
        Raft::RequestVoteAnswer(m) => Kind::RequestVoteAnswer(RequestVoteAnswer {
            pre: m.pre,
            term: m.term,
            granted: m.granted,
        }),
        Raft::Heartbeat(m) => Kind::Heartbeat(Heartbeat {
            term: m.term,
            session: m.session,
            round: m.round,
            commit: m.commit,
            promise_nanos: nanos(m.promise),
            witness: m.witness,
            refill_term: m.refill.term,
            refill_index: m.refill.index,
        }),
        Raft::HeartbeatAnswer(m) => Kind::HeartbeatAnswer(HeartbeatAnswer {
            term: m.term,
            session: m.session,
            round: m.round,
            accepted: m.accepted,
            matched: m.matched,
            promised_nanos: nanos(m.promised),
            priority: m.priority,
        }),
        Raft::AppendEntries(m) => Kind::AppendEntries(AppendEntries {
            term: m.term,
            session: m.session,
            prev_term: m.prev.term,
            prev_index: m.prev.index,
            commit: m.commit,
            promise_nanos: nanos(m.promise),
            blocks: length(m.blocks.len()),
            witness: m.witness,
        }),
        Raft::AppendEntriesAnswer(m) => Kind::AppendEntriesAnswer(AppendEntriesAnswer {
            term: m.term,
            session: m.session,
            matched: m.matched,
            conflict: m.conflict.map(position),
        }),
        Raft::InstallSnapshot(m) => Kind::InstallSnapshot(InstallSnapshot {
            term: m.term,
            session: m.session,
            last: position(m.last),
            configured_at: position(m.configuration.0),
            configuration: m.configuration.1.to_bytes().into(),
            nonce: m.nonce,
            bytes: m.bytes,
            offset: m.offset,
            part: length(m.data.len()),
            checksum: m.checksum,
            promise_nanos: nanos(m.promise),
            witness: m.witness,
        }),
        Raft::InstallSnapshotAnswer(m) => Kind::InstallSnapshotAnswer(InstallSnapshotAnswer {
            term: m.term,
            session: m.have.session,
            nonce: m.have.nonce,
            offset: m.have.offset,
            gap: m.have.gap,
        }),
        Raft::ReadIndex(m) => {
            Kind::ReadIndex(ReadIndex { term: m.term, context: m.context, lease: m.lease })
        }
        Raft::ReadIndexAnswer(m) => Kind::ReadIndexAnswer(ReadIndexAnswer {
            term: m.term,
            context: m.context,
            index: m.index,
        }),
        Raft::Stranger(m) => Kind::Stranger(Stranger { refused: m.refused }),
        Raft::Introduce(_) => Kind::Introduce(()),
        Raft::Introduced(raft::Introduced {}) => Kind::Introduced(()),
        Raft::TimeoutNow(m) => Kind::TimeoutNow(TimeoutNow { term: m.term }),
        Raft::Removed(m) => Kind::Removed(Position { term: m.at.term, index: m.at.index }),
        // The engine's enum is open to later releases; within one release every kind is above.
        other => unreachable!("{other} has no wire form"),
    }
}

fn into_raft(kind: Kind, payloads: &mut Payloads) -> Result<Raft, WireError> {
    Ok(match kind {
        Kind::RequestVote(m) => Raft::RequestVote(raft::RequestVote {
            pre: m.pre,
            term: m.term,
            last: LogId::new(m.last_term, m.last_index),
            transfer: m.transfer,
        }),
        Kind::RequestVoteAnswer(m) => Raft::RequestVoteAnswer(raft::RequestVoteAnswer {
            pre: m.pre,
            term: m.term,
            granted: m.granted,
        }),
        Kind::Heartbeat(m) => Raft::Heartbeat(raft::Heartbeat {
            term: m.term,
            session: m.session,
            round: m.round,
            commit: m.commit,
            promise: duration(m.promise_nanos),
            witness: m.witness,
            refill: LogId::new(m.refill_term, m.refill_index),
        }),
        Kind::HeartbeatAnswer(m) => Raft::HeartbeatAnswer(raft::HeartbeatAnswer {
            term: m.term,
            session: m.session,
            round: m.round,
            accepted: m.accepted,
            matched: m.matched,
            promised: duration(m.promised_nanos),
            priority: m.priority,
        }),
        Kind::AppendEntries(m) => Raft::AppendEntries(raft::AppendEntries {
            term: m.term,
            session: m.session,
            prev: LogId::new(m.prev_term, m.prev_index),
            blocks: payloads.blocks(m.blocks)?,
            commit: m.commit,
            promise: duration(m.promise_nanos),
            witness: m.witness,
        }),
        Kind::AppendEntriesAnswer(m) => Raft::AppendEntriesAnswer(raft::AppendEntriesAnswer {
            term: m.term,
            session: m.session,
            matched: m.matched,
            conflict: m.conflict.map(log_id),
        }),
        Kind::InstallSnapshot(m) => {
            let membership = Membership::from_bytes(&m.configuration)
                .map_err(|_| WireError::Malformed("a snapshot without a configuration"))?;
            Raft::InstallSnapshot(Box::new(raft::InstallSnapshot {
                term: m.term,
                session: m.session,
                last: log_id(m.last),
                configuration: (log_id(m.configured_at), membership),
                nonce: m.nonce,
                bytes: m.bytes,
                offset: m.offset,
                data: payloads.take(m.part as usize)?,
                checksum: m.checksum,
                promise: duration(m.promise_nanos),
                witness: m.witness,
            }))
        }
        Kind::InstallSnapshotAnswer(m) => {
            let (session, nonce, offset, gap) = (m.session, m.nonce, m.offset, m.gap);
            let have = raft::SnapshotProgress { session, nonce, offset, gap };
            Raft::InstallSnapshotAnswer(raft::InstallSnapshotAnswer { term: m.term, have })
        }
        Kind::ReadIndex(m) => {
            let (term, context, lease) = (m.term, m.context, m.lease);
            Raft::ReadIndex(raft::ReadIndex { term, context, lease })
        }
        Kind::ReadIndexAnswer(m) => Raft::ReadIndexAnswer(raft::ReadIndexAnswer {
            term: m.term,
            context: m.context,
            index: m.index,
        }),
        Kind::TimeoutNow(m) => Raft::TimeoutNow(raft::TimeoutNow { term: m.term }),
        Kind::Removed(m) => Raft::Removed(raft::Removed { at: LogId::new(m.term, m.index) }),
        Kind::Stranger(m) => Raft::Stranger(raft::Stranger { refused: m.refused }),
        Kind::Introduce(()) => {
            Raft::Introduce(raft::Introduce { configuration: payloads.block()? })
        }
        Kind::Introduced(()) => Raft::Introduced(raft::Introduced {}),
        Kind::Forward(_)
        | Kind::Forwarded(_)
        | Kind::Order(_)
        | Kind::Ordered(_)
        | Kind::Digest(_)
        | Kind::Call(_)
        | Kind::Called(_) => unreachable!("no message of the protocol"),
    })
}

fn of_write(write: &ForwardWrite) -> WriteHeader {
    let (token, commands) = (write.token, length(write.commands.len()));
    let session = match write.session {
        None => return WriteHeader { token, commands, session: None },
        Some(SessionRequest::Open) => WireSession { open: true, ..WireSession::default() },
        Some(SessionRequest::Write(SessionWrite { session, sequence, acknowledged })) => {
            WireSession { session, sequence, acknowledged, open: false }
        }
    };
    WriteHeader { token, commands: 0, session: Some(session) }
}

fn into_forward(header: ForwardHeader, payloads: &mut Payloads) -> Result<Forward, WireError> {
    let mut writes = Vec::with_capacity(header.writes.len());
    for write in header.writes {
        let session = write.session.map(|s| match s {
            WireSession { open: true, .. } => SessionRequest::Open,
            WireSession { session, sequence, acknowledged, .. } => {
                SessionRequest::Write(SessionWrite { session, sequence, acknowledged })
            }
        });
        let commands = match session {
            None => payloads.sized(write.commands)?,
            Some(_) if write.commands > 0 => {
                return Err(WireError::Malformed("commands beside that of a session"));
            }
            Some(SessionRequest::Open) => Vec::new(),
            Some(SessionRequest::Write(_)) => payloads.sized(1)?,
        };
        writes.push(ForwardWrite { token: write.token, commands, session });
    }
    Ok(Forward {
        term: header.term,
        boot: header.boot,
        sequence: header.sequence,
        timeout: duration(header.timeout_nanos),
        codec: u16::try_from(header.codec)
            .map_err(|_| WireError::Malformed("a codec version over 65535"))?,
        writes,
    })
}

fn into_forwarded(
    header: ForwardedHeader,
    payloads: &mut Payloads,
) -> Result<Forwarded, WireError> {
    let mut answers = Vec::with_capacity(header.answers.len());
    for answer in header.answers {
        let outcome = match answer.outcome {
            Some(Outcome::Applied(count)) => ForwardOutcome::Applied(payloads.sized(count)?),
            Some(Outcome::NotLeader(leader)) => {
                ForwardOutcome::NotLeader((leader != 0).then_some(leader))
            }
            Some(Outcome::Overloaded(())) => ForwardOutcome::Overloaded,
            Some(Outcome::Overwritten(())) => ForwardOutcome::Overwritten,
            Some(Outcome::Refused(reason)) => ForwardOutcome::Refused(reason),
            Some(Outcome::Repeated(())) => {
                ForwardOutcome::Repeated(payloads.sized(1)?.pop().expect("one was asked for"))
            }
            Some(Outcome::Opened(session)) => ForwardOutcome::Opened(session),
            Some(Outcome::SessionExpired(())) => ForwardOutcome::SessionExpired,
            Some(Outcome::Acknowledged(())) => ForwardOutcome::Acknowledged,
            // An outcome of a newer release: nothing is known of it but that the write may have
            // been done, and that is what this says.
            Some(Outcome::Unknown(())) | None => ForwardOutcome::Unknown,
        };
        answers.push(ForwardAnswer { token: answer.token, outcome });
    }
    Ok(Forwarded { boot: header.boot, answers })
}

fn of_order(m: &Order) -> WireOrder {
    let mut wire = WireOrder {
        boot: m.boot,
        token: m.token,
        timeout_nanos: nanos(m.timeout),
        again: m.again,
        expected: m.expected.map(position),
        ..WireOrder::default()
    };
    match &m.kind {
        OrderKind::AddLearner { id, address, witness } => {
            (wire.kind, wire.id, wire.witness) = (1, *id, *witness);
            wire.address.clone_from(address);
        }
        OrderKind::Promote { id } => (wire.kind, wire.id) = (2, *id),
        OrderKind::Demote { id } => (wire.kind, wire.id) = (3, *id),
        OrderKind::Remove { id } => (wire.kind, wire.id) = (4, *id),
        OrderKind::Swap { id, with } => (wire.kind, wire.id, wire.with) = (5, *id, *with),
        OrderKind::SetVoters { voters } => {
            wire.kind = 6;
            wire.voters.clone_from(voters);
        }
        OrderKind::SetAddress { id, address } => {
            (wire.kind, wire.id) = (7, *id);
            wire.address.clone_from(address);
        }
        OrderKind::Transfer { to } => (wire.kind, wire.id) = (8, to.unwrap_or(0)),
    }
    wire
}

/// `None` for what only a newer release wants.
fn into_order(wire: WireOrder) -> Option<Order> {
    let (id, with, address) = (wire.id, wire.with, wire.address);
    let kind = match wire.kind {
        1 => OrderKind::AddLearner { id, address, witness: wire.witness },
        2 => OrderKind::Promote { id },
        3 => OrderKind::Demote { id },
        4 => OrderKind::Remove { id },
        5 => OrderKind::Swap { id, with },
        6 => OrderKind::SetVoters { voters: wire.voters },
        7 => OrderKind::SetAddress { id, address },
        8 => OrderKind::Transfer { to: (id != 0).then_some(id) },
        _ => return None,
    };
    Some(Order {
        boot: wire.boot,
        token: wire.token,
        timeout: duration(wire.timeout_nanos),
        again: wire.again,
        expected: wire.expected.map(log_id),
        kind,
    })
}

fn of_ordered(m: &Ordered) -> WireOrdered {
    let mut wire = WireOrdered { boot: m.boot, token: m.token, ..WireOrdered::default() };
    match &m.outcome {
        OrderOutcome::Waiting { matched, last } => {
            (wire.outcome, wire.matched, wire.last) = (1, *matched, *last);
        }
        OrderOutcome::Done { membership, at } => {
            (wire.outcome, wire.at) = (2, Some(position(*at)));
            wire.membership = membership.to_bytes().into();
        }
        OrderOutcome::Leads(id) => (wire.outcome, wire.id) = (3, *id),
        OrderOutcome::NotLeader(leader) => (wire.outcome, wire.id) = (4, leader.unwrap_or(0)),
        OrderOutcome::InProgress => wire.outcome = 5,
        OrderOutcome::Changed => wire.outcome = 6,
        OrderOutcome::UnknownMember(id) => (wire.outcome, wire.id) = (7, *id),
        OrderOutcome::TimedOut => wire.outcome = 8,
        OrderOutcome::Refused(reason) => {
            wire.outcome = 9;
            wire.reason.clone_from(reason);
        }
    }
    wire
}

fn into_ordered(wire: WireOrdered) -> Result<Option<Ordered>, WireError> {
    let outcome = match wire.outcome {
        1 => OrderOutcome::Waiting { matched: wire.matched, last: wire.last },
        2 => {
            let membership = Membership::from_bytes(&wire.membership)
                .map_err(|_| WireError::Malformed("an answer without its membership"))?;
            OrderOutcome::Done { membership, at: wire.at.map(log_id).unwrap_or_default() }
        }
        3 => OrderOutcome::Leads(wire.id),
        4 => OrderOutcome::NotLeader((wire.id != 0).then_some(wire.id)),
        5 => OrderOutcome::InProgress,
        6 => OrderOutcome::Changed,
        7 => OrderOutcome::UnknownMember(wire.id),
        8 => OrderOutcome::TimedOut,
        9 => OrderOutcome::Refused(wire.reason),
        _ => return Ok(None),
    };
    Ok(Some(Ordered { boot: wire.boot, token: wire.token, outcome }))
}

fn of_outcome(outcome: &ForwardOutcome) -> Outcome {
    match outcome {
        ForwardOutcome::Applied(responses) => Outcome::Applied(length(responses.len())),
        ForwardOutcome::NotLeader(leader) => Outcome::NotLeader(leader.unwrap_or(0)),
        ForwardOutcome::Overloaded => Outcome::Overloaded(()),
        ForwardOutcome::Overwritten => Outcome::Overwritten(()),
        ForwardOutcome::Refused(reason) => Outcome::Refused(reason.clone()),
        ForwardOutcome::Unknown => Outcome::Unknown(()),
        ForwardOutcome::Repeated(_) => Outcome::Repeated(()),
        ForwardOutcome::Opened(session) => Outcome::Opened(*session),
        ForwardOutcome::SessionExpired => Outcome::SessionExpired(()),
        ForwardOutcome::Acknowledged => Outcome::Acknowledged(()),
    }
}

impl ForwardOutcome {
    /// The payloads of this outcome.
    pub(super) fn responses(&self) -> &[Bytes] {
        match self {
            ForwardOutcome::Applied(responses) => responses,
            ForwardOutcome::Repeated(response) => std::slice::from_ref(response),
            _ => &[],
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    duration.min(MAX_DURATION).as_nanos() as u64
}

pub(super) fn duration(nanos: u64) -> Duration {
    Duration::from_nanos(nanos).min(MAX_DURATION)
}
