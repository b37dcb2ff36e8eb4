//! What operators ask for over HTTP: members, another leader, a snapshot.
//!
//! Any node takes any of it; what only the leader can do travels there by itself. A change is
//! answered when it is made, or with a word that says how far it came. A client that hangs up before
//! takes nothing back, but nothing more is begun for it: a node that was to be added may stay a
//! learner. The same once more goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use quorate::{ChangeError, ReadError, SnapshotError, TransferError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::server::{ApiError, App, Word, json, read_body, read_mode};

/// For how long a change is tried unless the request says otherwise: time to copy a log.
pub const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Likewise for a transfer: time to send the target what it lacks.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest `timeout_ms`: a day.
const MAX_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

/// More than any of these bodies has.
const MAX_BODY_BYTES: usize = 64 << 10;

/// A change of membership, as the body of `POST /admin/members`. `addr` is a raft address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// A new voter: a learner first, promoted when it has caught up.
    Add {
        /// Who.
        id: u64,
        /// Where.
        addr: String,
    },
    /// A new member that receives the log and does not vote.
    AddLearner {
        /// Who.
        id: u64,
        /// Where.
        addr: String,
    },
    /// A new voter that is given no values: a learner first, like any.
    AddWitness {
        /// Who.
        id: u64,
        /// Where.
        addr: String,
    },
    /// A learner becomes a voter, when it has caught up.
    Promote {
        /// Who.
        id: u64,
    },
    /// A voter becomes a learner.
    Demote {
        /// Who.
        id: u64,
    },
    /// A member leaves.
    Remove {
        /// Who.
        id: u64,
    },
    /// A new voter in the place of a member, dead or alive, when it has caught up.
    Replace {
        /// Who leaves.
        id: u64,
        /// Who comes.
        with: u64,
        /// Where that is.
        addr: String,
    },
    /// These members vote, and no others.
    Set {
        /// Who.
        voters: BTreeSet<u64>,
    },
    /// A member is found somewhere else.
    Address {
        /// Who.
        id: u64,
        /// Where.
        addr: String,
    },
}

impl Change {
    /// The address in it, if there is one.
    fn address(&self) -> Option<&str> {
        match self {
            Change::Add { addr, .. }
            | Change::AddLearner { addr, .. }
            | Change::AddWitness { addr, .. }
            | Change::Replace { addr, .. }
            | Change::Address { addr, .. } => Some(addr),
            Change::Promote { .. }
            | Change::Demote { .. }
            | Change::Remove { .. }
            | Change::Set { .. } => None,
        }
    }
}

/// Who is a member: the answer to `GET /admin/members`, and to every change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Who only receives.
    pub learners: BTreeSet<u64>,
    /// Who votes and has no state.
    pub witnesses: BTreeSet<u64>,
    /// Whether a change is under way, with `voters` as it will be.
    pub joint: bool,
    /// Where each is.
    pub addresses: BTreeMap<u64, String>,
}

impl From<&quorate::Membership> for Members {
    fn from(membership: &quorate::Membership) -> Self {
        let members = membership.members().iter();
        Self {
            voters: membership.voters().clone(),
            learners: membership.learners().clone(),
            witnesses: membership.witnesses().collect(),
            joint: membership.is_joint(),
            addresses: members.map(|(id, member)| (*id, member.address.clone())).collect(),
        }
    }
}

/// Who leads now: the answer to `POST /admin/transfer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transferred {
    /// The leader.
    pub leader: u64,
}

/// What was written: the answer to `POST /admin/snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTaken {
    /// The last entry that is in it.
    pub index: u64,
    /// Its length, without what the store adds.
    pub bytes: u64,
}

/// The routes under `/admin`.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/admin/members", get(members).post(change))
        .route("/admin/transfer", post(transfer))
        .route("/admin/snapshot", post(snapshot))
        .route("/admin/backup", get(backup))
}

/// Where the answer to `GET /admin/backup` says up to which entry the backup is.
pub const BACKUP_INDEX: &str = "backup-index";

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let word = match &error {
            ChangeError::InProgress | ChangeError::Changed => Word::ChangeInProgress,
            ChangeError::UnknownMember(_) => Word::UnknownMember,
            ChangeError::NotCaughtUp => Word::NotCaughtUp,
            error if error.may_have_happened() => Word::UnknownOutcome,
            _ => Word::BadRequest,
        };
        Self::new(word, error.to_string())
    }
}

impl From<SnapshotError> for ApiError {
    fn from(error: SnapshotError) -> Self {
        let word = match &error {
            SnapshotError::Nothing => Word::NotFound,
            SnapshotError::Stopped => Word::Timeout,
            SnapshotError::Witness => Word::NotLeader,
            _ => Word::Failed,
        };
        Self::new(word, error.to_string())
    }
}

/// Linearizable, like every other read: a change that was answered shows everywhere.
async fn members(State(app): State<App>, uri: Uri) -> Result<Response, ApiError> {
    app.catch_up(read_mode(&uri)?).await?;
    // The store may have seen an entry a moment before the metrics show what came with it.
    let wait = app.raft.wait(app.read_timeout);
    let shown = wait.until("what was read", |m| m.committed >= m.applied).await;
    shown.map_err(|_| ReadError::Timeout)?;
    let membership = app.raft.metrics().membership;
    let members = membership.as_deref().map(Members::from).unwrap_or_default();
    Ok(json(StatusCode::OK, &members))
}

async fn change(State(app): State<App>, body: Body) -> Result<Response, ApiError> {
    let form = r#"{"op": "add", "id": 4, "addr": "HOST:PORT"} or another op"#;
    let (change, timeout) = parsed::<Change>(body, form).await?;
    if let Some(address) = change.address() {
        check_address(address).map_err(ApiError::bad_request)?;
    }
    let raft = &app.raft;
    let change = match change {
        Change::Add { id, addr } => raft.add_voter(id, addr),
        Change::AddLearner { id, addr } => raft.add_learner(id, addr),
        Change::AddWitness { id, addr } => raft.add_witness(id, addr),
        Change::Promote { id } => raft.promote(id),
        Change::Demote { id } => raft.demote(id),
        Change::Remove { id } => raft.remove(id),
        Change::Replace { id, with, addr } => raft.replace(id, with, addr),
        Change::Set { voters } => raft.set_voters(voters),
        Change::Address { id, addr } => raft.set_address(id, addr),
    };
    let membership = change.timeout(timeout.unwrap_or(CHANGE_TIMEOUT)).await?;
    Ok(json(StatusCode::OK, &Members::from(&*membership)))
}

async fn transfer(State(app): State<App>, body: Body) -> Result<Response, ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Transfer {
        to: u64,
    }
    let (Transfer { to }, timeout) = parsed(body, r#"{"to": 2}"#).await?;
    let transfer = app.raft.transfer_leadership(Some(to), timeout.unwrap_or(TRANSFER_TIMEOUT));
    match transfer.await {
        Ok(leader) => Ok(json(StatusCode::OK, &Transferred { leader })),
        Err(error) => {
            let membership = app.raft.metrics().membership;
            let known = membership.is_none_or(|members| members.member(to).is_some());
            let word = match &error {
                TransferError::InProgress => Word::ChangeInProgress,
                TransferError::Refused(_) if !known => Word::UnknownMember,
                TransferError::Refused(_) => Word::BadRequest,
                // Timeout, Other, Stopped.
                _ => Word::Timeout,
            };
            Err(ApiError::new(word, error.to_string()))
        }
    }
}

async fn snapshot(State(app): State<App>) -> Result<Response, ApiError> {
    let info = app.raft.trigger().snapshot().await?;
    let taken = SnapshotTaken { index: info.meta.last.index, bytes: info.bytes };
    Ok(json(StatusCode::OK, &taken))
}

/// A backup holds every write that was acknowledged before it was asked for.
async fn backup(State(app): State<App>) -> Result<Response, ApiError> {
    app.raft.ensure_linearizable().await?;
    let backup = app.raft.backup().await?;
    let headers = [
        ("content-type", "application/octet-stream".to_owned()),
        (BACKUP_INDEX, backup.info().meta.last.index.to_string()),
    ];
    // A piece that can't be read breaks the connection off: what came is then no whole answer.
    let pieces = futures::stream::unfold(backup, async |mut backup| {
        let piece = backup.next().await?;
        Some((piece, backup))
    });
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// The body as a `T`, and its `timeout_ms` if it has one.
async fn parsed<T: DeserializeOwned>(
    body: Body,
    form: &str,
) -> Result<(T, Option<Duration>), ApiError> {
    let wrong = |why: String| ApiError::bad_request(format!("the body is not {form}: {why}"));
    let body = read_body(body, MAX_BODY_BYTES).await?;
    let body = body.ok_or_else(|| {
        ApiError::new(Word::TooLarge, format!("the body has more than {MAX_BODY_BYTES} bytes"))
    })?;
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
    let timeout = match fields.remove("timeout_ms") {
        None => None,
        Some(value) => {
            let millis = value.as_u64().filter(|millis| (1..=MAX_TIMEOUT_MS).contains(millis));
            let limits = || wrong(format!("timeout_ms is a number from 1 to {MAX_TIMEOUT_MS}"));
            Some(Duration::from_millis(millis.ok_or_else(limits)?))
        }
    };
    let value = serde_json::from_value(fields.into()).map_err(|error| wrong(error.to_string()))?;
    Ok((value, timeout))
}

/// Whether a node could be found at an address: `HOST:PORT`.
///
/// # Errors
/// What is wrong with it.
pub fn check_address(address: &str) -> Result<(), String> {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match address.rsplit_once(':') {
        Some((host, number)) if !host.is_empty() && port(number) => Ok(()),
        _ => Err(format!("{address:?} is not HOST:PORT; write it like 127.0.0.1:7001")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_reads_as_documented() {
        let (id, addr) = (4, "h:1".to_owned());
        let ops = [
            (r#"{"op":"add","id":4,"addr":"h:1"}"#, Change::Add { id, addr: addr.clone() }),
            (
                r#"{"op":"add_learner","id":4,"addr":"h:1"}"#,
                Change::AddLearner { id, addr: addr.clone() },
            ),
            (
                r#"{"op":"add_witness","id":4,"addr":"h:1"}"#,
                Change::AddWitness { id, addr: addr.clone() },
            ),
            (r#"{"op":"promote","id":4}"#, Change::Promote { id }),
            (r#"{"op":"demote","id":4}"#, Change::Demote { id }),
            (r#"{"op":"remove","id":4}"#, Change::Remove { id }),
            (
                r#"{"op":"replace","id":4,"with":5,"addr":"h:1"}"#,
                Change::Replace { id, with: 5, addr: addr.clone() },
            ),
            (r#"{"op":"set","voters":[2,1]}"#, Change::Set { voters: BTreeSet::from([1, 2]) }),
            (r#"{"op":"address","id":4,"addr":"h:1"}"#, Change::Address { id, addr }),
        ];
        for (text, change) in ops {
            assert_eq!(serde_json::from_str::<Change>(text).unwrap(), change, "{text}");
        }
        for wrong in [r#"{"op":"promote"}"#, r#"{"op":"promote","id":4,"x":1}"#, r#"{"id":4}"#] {
            assert!(serde_json::from_str::<Change>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for right in ["h:1", "127.0.0.1:7001", "[::1]:7001", "a.b.c:65535"] {
            assert_eq!(check_address(right), Ok(()));
        }
        for wrong in ["", "h", ":1", "h:", "h:0", "h:65536", "h:x"] {
            assert!(check_address(wrong).is_err(), "{wrong}");
        }
    }
}
