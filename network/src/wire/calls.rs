//! The tagged headers of calls and their answers.

use bytes::Bytes;
use quorate_engine::{Membership, RoleKind};

use super::header::{Position, duration, log_id, nanos, position};
use super::{Payloads, WireError, length};
use crate::call::{Call, CallKind, CallOutcome, Called, NodeStatus};
use crate::message::SessionWrite;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireCall {
    #[prost(uint64, tag = "1")]
    token: u64,
    #[prost(uint64, tag = "2")]
    timeout_nanos: u64,
    /// 1 write, 2 read index, 3 status, 4 open a session, 5 write of a session.
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(uint32, tag = "4")]
    codec: u32,
    /// How many commands stand among the payloads.
    #[prost(uint32, tag = "5")]
    commands: u32,
    #[prost(uint64, tag = "6")]
    session: u64,
    #[prost(uint64, tag = "7")]
    sequence: u64,
    #[prost(uint64, tag = "8")]
    acknowledged: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireCalled {
    #[prost(uint64, tag = "1")]
    token: u64,
    /// 1 applied, 2 read index, 3 status, 4 not the leader, 5 overloaded, 6 timeout, 7 overwritten,
    /// 8 too large, 9 refused, 10 stopped, 11 unknown, 12 repeated, with the response as the one
    /// payload, 13 opened, 14 session expired, 15 acknowledged.
    #[prost(uint32, tag = "2")]
    outcome: u32,
    /// How many responses stand among the payloads.
    #[prost(uint32, tag = "3")]
    responses: u32,
    #[prost(uint64, tag = "4")]
    index: u64,
    /// 0 is nobody.
    #[prost(uint64, tag = "5")]
    leader: u64,
    /// An address, or a reason.
    #[prost(string, tag = "6")]
    text: String,
    #[prost(uint64, tag = "7")]
    bytes: u64,
    #[prost(uint64, tag = "8")]
    limit: u64,
    #[prost(message, optional, tag = "9")]
    status: Option<WireStatus>,
    #[prost(uint64, tag = "10")]
    session: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireStatus {
    #[prost(uint64, tag = "1")]
    id: u64,
    /// 1 follower, 2 learner, 3 pre-candidate, 4 candidate, 5 leader.
    #[prost(uint32, tag = "2")]
    role: u32,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "5")]
    last: u64,
    #[prost(uint64, tag = "6")]
    committed: u64,
    #[prost(uint64, tag = "7")]
    applied: u64,
    #[prost(message, optional, tag = "8")]
    configured_at: Option<Position>,
    /// As [`Membership::to_bytes`] gives it; empty for none.
    #[prost(bytes = "bytes", tag = "9")]
    membership: Bytes,
}

pub(super) fn of_call(call: &Call) -> WireCall {
    let mut wire =
        WireCall { token: call.token, timeout_nanos: nanos(call.timeout), ..WireCall::default() };
    match &call.kind {
        CallKind::Write { codec, commands } => {
            (wire.kind, wire.codec) = (1, (*codec).into());
            wire.commands = length(commands.len());
        }
        CallKind::ReadIndex => wire.kind = 2,
        CallKind::Status => wire.kind = 3,
        CallKind::OpenSession => wire.kind = 4,
        CallKind::WriteOnce { write, codec, .. } => {
            (wire.kind, wire.codec) = (5, (*codec).into());
            (wire.session, wire.sequence) = (write.session, write.sequence);
            wire.acknowledged = write.acknowledged;
        }
        CallKind::Unknown(kind) => wire.kind = *kind,
    }
    wire
}

pub(super) fn into_call(wire: WireCall, payloads: &mut Payloads) -> Result<Call, WireError> {
    let kind = match wire.kind {
        1 => {
            CallKind::Write { codec: codec(wire.codec)?, commands: payloads.sized(wire.commands)? }
        }
        2 => CallKind::ReadIndex,
        3 => CallKind::Status,
        4 => CallKind::OpenSession,
        5 => CallKind::WriteOnce {
            write: SessionWrite {
                session: wire.session,
                sequence: wire.sequence,
                acknowledged: wire.acknowledged,
            },
            codec: codec(wire.codec)?,
            command: one(payloads)?,
        },
        kind => {
            // Whatever payloads it has mean nothing here; it is answered all the same.
            payloads.0.clear();
            CallKind::Unknown(kind)
        }
    };
    Ok(Call { token: wire.token, timeout: duration(wire.timeout_nanos), kind })
}

pub(super) fn of_called(called: &Called) -> WireCalled {
    let mut wire = WireCalled { token: called.token, ..WireCalled::default() };
    match &called.outcome {
        CallOutcome::Applied(responses) => {
            (wire.outcome, wire.responses) = (1, length(responses.len()));
        }
        CallOutcome::ReadIndex(index) => (wire.outcome, wire.index) = (2, *index),
        CallOutcome::Status(status) => {
            (wire.outcome, wire.status) = (3, Some(of_status(status)));
        }
        CallOutcome::NotLeader { leader, address } => {
            (wire.outcome, wire.leader) = (4, leader.unwrap_or(0));
            wire.text.clone_from(address);
        }
        CallOutcome::Overloaded => wire.outcome = 5,
        CallOutcome::Timeout => wire.outcome = 6,
        CallOutcome::Overwritten => wire.outcome = 7,
        CallOutcome::TooLarge { bytes, limit } => {
            (wire.outcome, wire.bytes, wire.limit) = (8, *bytes, *limit);
        }
        CallOutcome::Refused(reason) => {
            wire.outcome = 9;
            wire.text.clone_from(reason);
        }
        CallOutcome::Stopped => wire.outcome = 10,
        CallOutcome::Unknown => wire.outcome = 11,
        CallOutcome::Repeated(_) => wire.outcome = 12,
        CallOutcome::Opened(session) => (wire.outcome, wire.session) = (13, *session),
        CallOutcome::SessionExpired => wire.outcome = 14,
        CallOutcome::Acknowledged => wire.outcome = 15,
    }
    wire
}

pub(super) fn into_called(wire: WireCalled, payloads: &mut Payloads) -> Result<Called, WireError> {
    let outcome = match wire.outcome {
        1 => CallOutcome::Applied(payloads.sized(wire.responses)?),
        2 => CallOutcome::ReadIndex(wire.index),
        3 => {
            let status = wire.status.ok_or(WireError::Malformed("a status without content"))?;
            CallOutcome::Status(into_status(status)?)
        }
        4 => CallOutcome::NotLeader { leader: somebody(wire.leader), address: wire.text },
        5 => CallOutcome::Overloaded,
        6 => CallOutcome::Timeout,
        7 => CallOutcome::Overwritten,
        8 => CallOutcome::TooLarge { bytes: wire.bytes, limit: wire.limit },
        9 => CallOutcome::Refused(wire.text),
        10 => CallOutcome::Stopped,
        11 => CallOutcome::Unknown,
        12 => CallOutcome::Repeated(one(payloads)?),
        13 => CallOutcome::Opened(wire.session),
        14 => CallOutcome::SessionExpired,
        15 => CallOutcome::Acknowledged,
        _ => {
            // Nothing is known of an outcome of a newer release but that the call may have been
            // done, and that is what this says.
            payloads.0.clear();
            CallOutcome::Unknown
        }
    };
    Ok(Called { token: wire.token, outcome })
}

fn of_status(status: &NodeStatus) -> WireStatus {
    WireStatus {
        id: status.id,
        role: match status.role {
            RoleKind::Follower => 1,
            RoleKind::Learner => 2,
            RoleKind::PreCandidate => 3,
            RoleKind::Candidate => 4,
            RoleKind::Leader => 5,
        },
        term: status.term,
        leader: status.leader.unwrap_or(0),
        last: status.last,
        committed: status.committed,
        applied: status.applied,
        configured_at: Some(position(status.configured_at)),
        membership: status.membership.as_ref().map(Membership::to_bytes).unwrap_or_default().into(),
    }
}

fn into_status(wire: WireStatus) -> Result<NodeStatus, WireError> {
    let membership = match &wire.membership[..] {
        [] => None,
        bytes => Some(
            Membership::from_bytes(bytes)
                .map_err(|_| WireError::Malformed("a status with a bad membership"))?,
        ),
    };
    Ok(NodeStatus {
        id: wire.id,
        role: match wire.role {
            1 => RoleKind::Follower,
            2 => RoleKind::Learner,
            3 => RoleKind::PreCandidate,
            4 => RoleKind::Candidate,
            5 => RoleKind::Leader,
            _ => return Err(WireError::Malformed("a status without a role")),
        },
        term: wire.term,
        leader: somebody(wire.leader),
        last: wire.last,
        committed: wire.committed,
        applied: wire.applied,
        configured_at: wire.configured_at.map(log_id).unwrap_or_default(),
        membership,
    })
}

fn codec(version: u32) -> Result<u16, WireError> {
    u16::try_from(version).map_err(|_| WireError::Malformed("a codec version over 65535"))
}

/// The only payload.
fn one(payloads: &mut Payloads) -> Result<Bytes, WireError> {
    Ok(payloads.sized(1)?.pop().expect("one was asked for"))
}

fn somebody(id: u64) -> Option<u64> {
    (id != 0).then_some(id)
}

impl CallKind {
    /// The payloads of this call.
    pub(super) fn commands(&self) -> &[Bytes] {
        match self {
            CallKind::Write { commands, .. } => commands,
            CallKind::WriteOnce { command, .. } => std::slice::from_ref(command),
            _ => &[],
        }
    }
}

impl CallOutcome {
    /// The payloads of this outcome.
    pub(super) fn responses(&self) -> &[Bytes] {
        match self {
            CallOutcome::Applied(responses) => responses,
            CallOutcome::Repeated(response) => std::slice::from_ref(response),
            _ => &[],
        }
    }
}
