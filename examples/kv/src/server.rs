//! The HTTP side: routes, limits, and the words in which errors are told.
//!
//! Every error is `{"error":WORD,"message":TEXT}`, and each word has one status, so a script can
//! look at either. The one distinction that matters to a client is whether a write may have
//! happened: only `unknown_outcome` says so, and nothing else is ever answered in that case.
//! A method that a path does not have is `bad_request` too: 405 would be one word more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use quorate::{Config, Once, Raft, ReadError, ReadMode, WriteError};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::admin;
use crate::key;
use crate::session::{self, InSession};
use crate::store::{self, Command, Store};

/// What is read of a body that is too large, so that a client that sends before it listens still
/// hears why; then the connection is closed.
const DRAIN_BYTES: usize = 16 << 20;

/// Between two attempts of a write in a session.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What the routes share.
#[derive(Clone)]
pub struct App {
    /// The node.
    pub raft: Raft<Store>,
    /// The largest value.
    pub max_value_bytes: usize,
    /// For how long a write that was certainly not done is tried again.
    pub write_timeout: Duration,
    /// For how long a read waits.
    pub read_timeout: Duration,
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
}

impl App {
    /// The routes of a node that runs with `config`.
    pub fn new(raft: Raft<Store>, max_value_bytes: usize, config: &Config) -> Self {
        let Config { write_timeout, read_timeout, .. } = *config;
        let mut registry = Registry::default();
        raft.host().register(&mut registry);
        let registry = Arc::new(registry);
        Self { raft, max_value_bytes, write_timeout, read_timeout, registry }
    }

    /// All routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/kv/{key}", get(get_value).put(put_value).delete(delete_value))
            .route("/kv/{key}/cas", post(compare_and_swap))
            .route("/sessions", post(session::open))
            .route("/status", get(status))
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .merge(admin::routes())
            .fallback(no_such_route)
            .method_not_allowed_fallback(no_such_method)
            .with_state(self)
    }

    /// The value of `key`, as linearizable as the read through the log that a witness needs.
    async fn get_by_the_log(&self, key: String) -> Result<(u64, Option<Bytes>), ApiError> {
        match self.write(InSession(None), Command::Get { key }).await?.response {
            store::Response::Get { index, value } => Ok((index, value)),
            other => Err(mismatch(false, &other)),
        }
    }

    /// Waits until this node is as new as `mode` says.
    pub(crate) async fn catch_up(&self, mode: ReadMode) -> Result<(), ApiError> {
        match self.raft.read_with(mode, |_| ()).await {
            Err(ReadError::Witness) if mode == ReadMode::Stale => Ok(()),
            Err(ReadError::Witness) => {
                // There is no key without a name: only its place in the log is asked for.
                let (index, _) = self.get_by_the_log(String::new()).await?;
                let wait = self.raft.wait(self.read_timeout);
                let here = wait.until("what was read", move |m| m.applied >= index).await;
                here.map(drop).map_err(|_| ReadError::Timeout.into())
            }
            done => Ok(done?),
        }
    }

    /// Proposes a command until it is done, may have been done, or its time is up. In a session it is
    /// safe to propose what may have been done.
    async fn write(
        &self,
        InSession(session): InSession,
        command: Command,
    ) -> Result<Once<store::Response>, ApiError> {
        let start = Instant::now();
        let mut doubtful = false;
        loop {
            let command = command.clone();
            let result = match session {
                Some(write) => self.raft.write_once(write, command).await,
                None => self
                    .raft
                    .write(command)
                    .await
                    .map(|response| Once { response, repeated: false }),
            };
            let in_time = start.elapsed() < self.write_timeout;
            match result {
                Err(WriteError::Overwritten) if in_time => {}
                Err(WriteError::Unknown) if in_time && session.is_some() => {
                    doubtful = true;
                    // A new leader may be about to be elected.
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                // What became of an earlier attempt is still open.
                Err(_) if doubtful => return Err(WriteError::Unknown.into()),
                result => return Ok(result?),
            }
        }
    }
}

/// What is not 200: a word, its status, and a text.
#[derive(Debug)]
pub struct ApiError {
    word: Word,
    message: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    BadRequest,
    NotFound,
    UnknownMember,
    NotText,
    ChangeInProgress,
    AlreadyAcknowledged,
    SessionExpired,
    TooLarge,
    NotLeader,
    Overloaded,
    Failed,
    UnknownOutcome,
    Timeout,
    NotCaughtUp,
}

impl Word {
    fn status(self) -> StatusCode {
        match self {
            Word::BadRequest => StatusCode::BAD_REQUEST,
            Word::NotFound | Word::UnknownMember => StatusCode::NOT_FOUND,
            Word::NotText | Word::ChangeInProgress | Word::AlreadyAcknowledged => {
                StatusCode::CONFLICT
            }
            Word::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Word::NotLeader => StatusCode::MISDIRECTED_REQUEST,
            Word::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Word::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Word::SessionExpired => StatusCode::GONE,
            Word::UnknownOutcome => StatusCode::SERVICE_UNAVAILABLE,
            Word::Timeout | Word::NotCaughtUp => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl ApiError {
    pub(crate) fn new(word: Word, message: impl Into<String>) -> Self {
        Self { word, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Word::BadRequest, message)
    }

    fn value_too_large(limit: usize) -> Self {
        let message = format!("the value has more than {limit} bytes; nothing was done");
        Self::new(Word::TooLarge, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: Word,
            message: String,
        }
        json(self.word.status(), &Body { error: self.word, message: self.message })
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        let word = match &error {
            WriteError::NotLeader { .. } => Word::NotLeader,
            WriteError::Overloaded => Word::Overloaded,
            WriteError::TooLarge { .. } => Word::TooLarge,
            WriteError::Refused(_) => Word::BadRequest,
            WriteError::SessionExpired => Word::SessionExpired,
            WriteError::Acknowledged => Word::AlreadyAcknowledged,
            error if error.may_have_happened() => Word::UnknownOutcome,
            // Timeout, Overwritten, Stopped.
            _ => Word::Timeout,
        };
        Self::new(word, error.to_string())
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let word = match error {
            ReadError::Overloaded => Word::Overloaded,
            // It is at the wrong node, though any other would do.
            ReadError::Witness => Word::NotLeader,
            _ => Word::Timeout,
        };
        Self::new(word, error.to_string())
    }
}

pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("plain structures with string keys become JSON");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The key in the path. Taken from the path as it was sent: `%2F` is part of the key, `/` is not.
struct Key(String);

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let segment = parts.uri.path().split('/').nth(2).unwrap_or_default();
        key::decode(segment).map(Key).map_err(ApiError::bad_request)
    }
}

async fn get_value(State(app): State<App>, Key(key): Key, uri: Uri) -> Result<Response, ApiError> {
    let look = {
        let key = key.clone();
        move |store: &Store| store.get(&key)
    };
    let value = match app.raft.read_with(read_mode(&uri)?, look).await {
        Ok(value) => value.map_err(|e| ApiError::new(Word::Failed, e.to_string()))?,
        Err(ReadError::Witness) => app.get_by_the_log(key.clone()).await?.1,
        Err(error) => return Err(error.into()),
    };
    match value {
        Some(value) => {
            Ok(([(header::CONTENT_TYPE, "application/octet-stream")], value).into_response())
        }
        None => Err(ApiError::new(Word::NotFound, format!("there is no key {key:?}"))),
    }
}

/// How new the answer has to be: `read=` in the query, linearizable if it is left out.
pub(crate) fn read_mode(uri: &Uri) -> Result<ReadMode, ApiError> {
    let mut mode = ReadMode::Index;
    for pair in uri.query().unwrap_or_default().split('&') {
        if let ("read", asked) = pair.split_once('=').unwrap_or((pair, "")) {
            mode = match asked {
                "index" => ReadMode::Index,
                "lease" => ReadMode::Lease,
                "stale" => ReadMode::Stale,
                other => {
                    let age = other.strip_prefix("bounded:").and_then(|age| age.strip_suffix("ms"));
                    let age = age.and_then(|age| age.parse().ok()).map(Duration::from_millis);
                    ReadMode::Bounded(age.ok_or_else(|| {
                        ApiError::bad_request(format!(
                            "read={other} is not a way to read; leave it out, or say read=index, \
                             read=lease, read=stale, or read=bounded:200ms"
                        ))
                    })?)
                }
            }
        }
    }
    Ok(mode)
}

async fn put_value(
    State(app): State<App>,
    Key(key): Key,
    session: InSession,
    body: Body,
) -> Result<Response, ApiError> {
    let limit = app.max_value_bytes;
    let value = read_body(body, limit).await?.ok_or_else(|| ApiError::value_too_large(limit))?;
    #[derive(Serialize)]
    struct Done {
        index: u64,
    }
    let Once { response, repeated } = app.write(session, Command::Put { key, value }).await?;
    let done = match response {
        store::Response::Put { index } => Ok(json(StatusCode::OK, &Done { index })),
        other => Err(mismatch(repeated, &other)),
    };
    Ok(session::answer(repeated, done))
}

async fn delete_value(
    State(app): State<App>,
    Key(key): Key,
    session: InSession,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Done {
        deleted: bool,
    }
    let Once { response, repeated } = app.write(session, Command::Delete { key }).await?;
    let done = match response {
        store::Response::Delete { deleted } => Ok(json(StatusCode::OK, &Done { deleted })),
        other => Err(mismatch(repeated, &other)),
    };
    Ok(session::answer(repeated, done))
}

/// Both fields must be there: an `expect` that was forgotten must not mean "if there is none".
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CasBody {
    #[serde(deserialize_with = "Option::deserialize")]
    expect: Option<String>,
    value: String,
}

async fn compare_and_swap(
    State(app): State<App>,
    Key(key): Key,
    session: InSession,
    body: Body,
) -> Result<Response, ApiError> {
    let limit = app.max_value_bytes;
    // Two values, of which JSON may need six bytes for one.
    let body = read_body(body, 12 * limit + 4096).await?;
    let body = body.ok_or_else(|| ApiError::value_too_large(limit))?;
    let CasBody { expect, value } = serde_json::from_slice(&body).map_err(|error| {
        let form = r#"{"expect": string or null, "value": string}"#;
        ApiError::bad_request(format!("the body is not {form}: {error}"))
    })?;
    if value.len() > limit || expect.as_ref().is_some_and(|expect| expect.len() > limit) {
        return Err(ApiError::value_too_large(limit));
    }
    #[derive(Serialize)]
    struct Done {
        swapped: bool,
        current: Option<String>,
    }
    let command = Command::Cas { key, expect, value };
    let Once { response, repeated } = app.write(session, command).await?;
    let done = match response {
        store::Response::Cas { swapped, current } => {
            Ok(json(StatusCode::OK, &Done { swapped, current }))
        }
        store::Response::NotText => {
            let message = "the stored value is not UTF-8, so no string equals it; nothing was done";
            Err(ApiError::new(Word::NotText, message))
        }
        other => Err(mismatch(repeated, &other)),
    };
    Ok(session::answer(repeated, done))
}

/// The answer is to another request: of another version of the program, or with the same sequence.
fn mismatch(repeated: bool, response: &store::Response) -> ApiError {
    if repeated {
        let message = "this sequence of the session was another request; nothing was done";
        return ApiError::new(Word::BadRequest, message);
    }
    let message = format!("the write was done, but its response does not fit it: {response:?}");
    ApiError::new(Word::UnknownOutcome, message)
}

/// The whole body; `None` if it is longer than `limit`.
pub(crate) async fn read_body(mut body: Body, limit: usize) -> Result<Option<Bytes>, ApiError> {
    let read = async {
        let mut bytes = BytesMut::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                ApiError::bad_request(format!("the body broke off: {error}; nothing was done"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            length += data.len();
            if length > limit + DRAIN_BYTES {
                break;
            }
            if length <= limit {
                bytes.extend_from_slice(&data);
            }
        }
        Ok((length <= limit).then(|| bytes.freeze()))
    };
    tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| {
        let message = "the body did not arrive in time; nothing was done";
        Err(ApiError::new(Word::Timeout, message))
    })
}

async fn status(State(app): State<App>) -> Response {
    #[derive(Serialize)]
    struct Status {
        id: u64,
        role: &'static str,
        term: u64,
        leader: Option<u64>,
        last: u64,
        committed: u64,
        applied: u64,
        persisted: u64,
        snapshot: u64,
        compacted: u64,
        members: Members,
        matched: BTreeMap<u64, u64>,
        removed: bool,
        witness: bool,
        fatal: Option<String>,
    }
    #[derive(Default, Serialize)]
    struct Members {
        voters: BTreeSet<u64>,
        learners: BTreeSet<u64>,
        addresses: BTreeMap<u64, String>,
    }
    let metrics = app.raft.metrics();
    let members = metrics.membership.as_ref().map(|membership| Members {
        voters: membership.voters().clone(),
        learners: membership.learners().clone(),
        addresses: membership
            .members()
            .iter()
            .map(|(id, member)| (*id, member.address.clone()))
            .collect(),
    });
    let status = Status {
        id: metrics.id,
        role: metrics.role.as_str(),
        term: metrics.term,
        leader: metrics.leader,
        last: metrics.last,
        committed: metrics.committed,
        applied: metrics.applied,
        persisted: metrics.persisted,
        snapshot: metrics.snapshot,
        compacted: metrics.compacted,
        members: members.unwrap_or_default(),
        matched: metrics.matched,
        removed: metrics.removed.is_some(),
        witness: metrics.witness,
        fatal: metrics.fatal,
    };
    json(StatusCode::OK, &status)
}

async fn health(State(app): State<App>) -> Response {
    #[derive(Serialize)]
    struct Health {
        healthy: bool,
    }
    let healthy = app.raft.metrics().healthy;
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &Health { healthy })
}

async fn metrics(State(app): State<App>) -> Response {
    let mut body = String::new();
    text::encode(&mut body, &app.registry).expect("text can be written to memory");
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

async fn no_such_route(uri: Uri) -> ApiError {
    let path = uri.path();
    if path == "/kv" || path.starts_with("/kv/") {
        let message = "a key is one path segment and not empty; write / in a key as %2F";
        return ApiError::bad_request(message);
    }
    let message = format!(
        "there is no route {path}; there are /kv/{{key}}, /kv/{{key}}/cas, /sessions, /status, \
         /health, /metrics, /admin/members, /admin/transfer, /admin/snapshot and /admin/backup"
    );
    ApiError::new(Word::NotFound, message)
}

async fn no_such_method(uri: Uri) -> ApiError {
    let path = uri.path();
    let methods = match path.split('/').collect::<Vec<_>>()[..] {
        [_, "kv", _] => "GET, PUT or DELETE",
        [_, "kv", _, "cas"] | [_, "sessions"] | [_, "admin", "transfer" | "snapshot"] => "POST",
        [_, "admin", "members"] => "GET or POST",
        _ => "GET",
    };
    ApiError::bad_request(format!("{path} takes {methods}"))
}
