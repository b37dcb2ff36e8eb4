//! The client: one request to one server, and what a failure means.
//!
//! Whether a request may be sent again, here or elsewhere, depends on one thing: could it have
//! happened? [`CallError::may_have_happened`] says so, with the same strictness as the server: a
//! connection that was refused carried nothing, one that broke off may have.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::http::request;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::admin::{BACKUP_INDEX, Change, Members as Membership, SnapshotTaken, Transferred};
use crate::key;
use crate::session::{REPEATED, SEQUENCE, SESSION};

/// Longer than a node takes to answer, whatever happens to its leader.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Where a node serves clients: `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server(String);

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no server; write it like http://127.0.0.1:8001");
        let authority = text.strip_prefix("http://").ok_or_else(wrong)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let uri: Uri = format!("http://{authority}").parse().map_err(|_| wrong())?;
        if authority.is_empty() || uri.path() != "/" || uri.query().is_some() {
            return Err(wrong());
        }
        Ok(Self(format!("http://{authority}")))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// No connection: nothing was sent.
    Unreachable(String),
    /// Sent, at least in part, and not answered.
    Lost(String),
    /// Answered with an error.
    Refused {
        /// Its status.
        status: u16,
        /// Its word, empty if the answer was none of this service's.
        word: String,
        /// Its text.
        message: String,
    },
}

impl CallError {
    /// Whether a write that ended so may have been done, or may still be.
    pub fn may_have_happened(&self) -> bool {
        match self {
            CallError::Unreachable(_) => false,
            CallError::Lost(_) => true,
            CallError::Refused { word, .. } => word.is_empty() || word == "unknown_outcome",
        }
    }

    /// The word of an error that the server answered with.
    pub fn word(&self) -> &str {
        match self {
            CallError::Refused { word, .. } => word,
            _ => "",
        }
    }

    /// Whether another server, or the same a little later, may do better.
    pub fn may_pass(&self) -> bool {
        match self {
            CallError::Unreachable(_) | CallError::Lost(_) => true,
            CallError::Refused { word, .. } => matches!(
                word.as_str(),
                "" | "not_leader" | "overloaded" | "unknown_outcome" | "timeout"
            ),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Unreachable(cause) => write!(f, "can't connect: {cause}"),
            CallError::Lost(cause) => write!(f, "no answer: {cause}"),
            CallError::Refused { status, word, message } if word.is_empty() => {
                write!(f, "status {status}: {message}")
            }
            CallError::Refused { word, message, .. } => write!(f, "{word}: {message}"),
        }
    }
}

/// A node's `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub id: u64,
    /// `leader`, `follower`, `candidate`, `pre_candidate` or `learner`.
    pub role: String,
    /// Its term.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<u64>,
    /// The last entry of its log.
    pub last: u64,
    /// The last it knows to be committed.
    pub committed: u64,
    /// The last that its store has seen.
    pub applied: u64,
    /// The last that is durable on it.
    pub persisted: u64,
    /// The last that is in its newest snapshot.
    pub snapshot: u64,
    /// The last that was compacted out of its log.
    pub compacted: u64,
    /// The configuration.
    pub members: Members,
    /// What each follower has durably; empty off the leader.
    pub matched: std::collections::BTreeMap<u64, u64>,
    /// Whether it was told that it is no member any more.
    pub removed: bool,
    /// Whether it is a witness, which has no values.
    pub witness: bool,
    /// Why the node stopped, if it had to.
    pub fatal: Option<String>,
}

/// The configuration in a [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Who decides.
    pub voters: Vec<u64>,
    /// Who only receives.
    pub learners: Vec<u64>,
    /// Where each is.
    pub addresses: std::collections::BTreeMap<u64, String>,
}

/// What a compare-and-swap did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Whether the value was the expected one.
    pub swapped: bool,
    /// What the key holds now.
    pub current: Option<String>,
}

/// An answer before it is looked at.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The `content-type`, if any.
    pub content_type: String,
    /// Whether it was given before, to the same write of its session.
    pub repeated: bool,
    /// The body.
    pub body: Bytes,
}

/// Keeps connections open and sends requests. A clone shares them.
#[derive(Clone)]
pub struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

impl Client {
    /// A client that waits for an answer for at most `timeout`.
    pub fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout.min(Duration::from_secs(2))));
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Self { http, timeout }
    }

    /// Sends any request; any answer is fine.
    ///
    /// # Errors
    /// [`CallError::Unreachable`] or [`CallError::Lost`] if there is no answer.
    pub async fn send(
        &self,
        server: &Server,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, CallError> {
        let request = Request::builder().method(method).uri(format!("{}{path}", server.0));
        self.call(request, body.into()).await
    }

    /// Sends a write as number `sequence` of a session.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_in(
        &self,
        (session, sequence): (u64, u64),
        server: &Server,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, CallError> {
        let request = Request::builder().method(method).uri(format!("{}{path}", server.0));
        let request = request.header(SESSION, session).header(SEQUENCE, sequence);
        self.call(request, body.into()).await
    }

    async fn call(&self, request: request::Builder, body: Bytes) -> Result<Answer, CallError> {
        let request = request
            .body(Full::new(body))
            .map_err(|error| CallError::Unreachable(error.to_string()))?;
        let call = async {
            let response = self.http.request(request).await.map_err(|error| {
                let cause = causes(&error);
                if error.is_connect() {
                    CallError::Unreachable(cause)
                } else {
                    CallError::Lost(cause)
                }
            })?;
            let (head, body) = response.into_parts();
            let content_type = head.headers.get("content-type").and_then(|v| v.to_str().ok());
            let repeated = head.headers.get(REPEATED).is_some_and(|v| v == "true");
            let body = body.collect().await.map_err(|error| CallError::Lost(causes(&error)))?;
            Ok(Answer {
                status: head.status.as_u16(),
                content_type: content_type.unwrap_or_default().to_owned(),
                repeated,
                body: body.to_bytes(),
            })
        };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Lost(format!("nothing came within {:?}", self.timeout))),
        }
    }

    /// Opens a session; returns its number.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn open_session(&self, server: &Server) -> Result<u64, CallError> {
        #[derive(Deserialize)]
        struct Opened {
            session: u64,
        }
        let answer = self.send(server, Method::POST, "/sessions", Bytes::new()).await?;
        Ok(parsed::<Opened>(&answer)?.session)
    }

    /// Stores a value; returns the place of the write in the log.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn put(&self, server: &Server, key: &str, value: Bytes) -> Result<u64, CallError> {
        #[derive(Deserialize)]
        struct Put {
            index: u64,
        }
        let answer = self.send(server, Method::PUT, &path_of(key), value).await?;
        Ok(parsed::<Put>(&answer)?.index)
    }

    /// A value, linearizably; `None` if there is no such key.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn get(&self, server: &Server, key: &str) -> Result<Option<Bytes>, CallError> {
        self.read(server, &path_of(key)).await
    }

    /// A value as this server has it, which may be behind; `None` if it has no such key.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn get_stale(&self, server: &Server, key: &str) -> Result<Option<Bytes>, CallError> {
        self.read(server, &format!("{}?read=stale", path_of(key))).await
    }

    async fn read(&self, server: &Server, path: &str) -> Result<Option<Bytes>, CallError> {
        let answer = self.send(server, Method::GET, path, Bytes::new()).await?;
        if answer.status == StatusCode::OK {
            return Ok(Some(answer.body));
        }
        match refusal(&answer) {
            error if error.word() == "not_found" => Ok(None),
            error => Err(error),
        }
    }

    /// Removes a key; whether there was one.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn delete(&self, server: &Server, key: &str) -> Result<bool, CallError> {
        #[derive(Deserialize)]
        struct Deleted {
            deleted: bool,
        }
        let answer = self.send(server, Method::DELETE, &path_of(key), Bytes::new()).await?;
        Ok(parsed::<Deleted>(&answer)?.deleted)
    }

    /// Stores `value` if the key holds `expect`.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn cas(
        &self,
        server: &Server,
        key: &str,
        expect: Option<&str>,
        value: &str,
    ) -> Result<Swap, CallError> {
        let body = serde_json::json!({ "expect": expect, "value": value }).to_string();
        let path = format!("{}/cas", path_of(key));
        parsed(&self.send(server, Method::POST, &path, body).await?)
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn status(&self, server: &Server) -> Result<Status, CallError> {
        parsed(&self.send(server, Method::GET, "/status", Bytes::new()).await?)
    }

    /// Whether the node follows a leader and is up to date.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn healthy(&self, server: &Server) -> Result<bool, CallError> {
        let answer = self.send(server, Method::GET, "/health", Bytes::new()).await?;
        Ok(answer.status == StatusCode::OK)
    }

    /// Who is a member, linearizably.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn members(&self, server: &Server) -> Result<Membership, CallError> {
        parsed(&self.send(server, Method::GET, "/admin/members", Bytes::new()).await?)
    }

    /// Has the membership changed, in at most `timeout`, which should be shorter than the client's
    /// own; returns what it is then.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn change(
        &self,
        server: &Server,
        change: &Change,
        timeout: Duration,
    ) -> Result<Membership, CallError> {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(flatten)]
            change: &'a Change,
            timeout_ms: u64,
        }
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let body = serde_json::json!(Body { change, timeout_ms }).to_string();
        parsed(&self.send(server, Method::POST, "/admin/members", body).await?)
    }

    /// Has `to` lead; returns who leads.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn transfer(&self, server: &Server, to: u64) -> Result<u64, CallError> {
        let body = serde_json::json!({ "to": to }).to_string();
        let answer = self.send(server, Method::POST, "/admin/transfer", body).await?;
        Ok(parsed::<Transferred>(&answer)?.leader)
    }

    /// Has this server write a snapshot and compact its log.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn snapshot(&self, server: &Server) -> Result<SnapshotTaken, CallError> {
        parsed(&self.send(server, Method::POST, "/admin/snapshot", Bytes::new()).await?)
    }

    /// Takes a backup from this server, piece by piece; returns up to which entry it is. It is whole
    /// when this returns. The time to wait is for each piece.
    ///
    /// # Errors
    /// Any [`CallError`]; what `take` says is [`CallError::Lost`].
    pub async fn backup(
        &self,
        server: &Server,
        mut take: impl FnMut(Bytes) -> std::io::Result<()>,
    ) -> Result<u64, CallError> {
        let lost = |cause: String| CallError::Lost(cause);
        let late = |_| lost(format!("nothing came within {:?}", self.timeout));
        let request = Request::get(format!("{}/admin/backup", server.0))
            .body(Full::default())
            .map_err(|error| CallError::Unreachable(error.to_string()))?;
        let asked = tokio::time::timeout(self.timeout, self.http.request(request)).await;
        let (head, mut body) = match asked.map_err(late)? {
            Ok(response) => response.into_parts(),
            Err(error) if error.is_connect() => {
                return Err(CallError::Unreachable(causes(&error)));
            }
            Err(error) => return Err(lost(causes(&error))),
        };
        if head.status != StatusCode::OK {
            let body = body.collect().await.map_err(|error| lost(causes(&error)))?.to_bytes();
            let (status, content_type) = (head.status.as_u16(), String::new());
            return Err(refusal(&Answer { status, content_type, repeated: false, body }));
        }
        while let Some(frame) =
            tokio::time::timeout(self.timeout, body.frame()).await.map_err(late)?
        {
            let frame = frame.map_err(|error| lost(causes(&error)))?;
            if let Ok(piece) = frame.into_data() {
                take(piece).map_err(|error| lost(error.to_string()))?;
            }
        }
        let index = head.headers.get(BACKUP_INDEX).and_then(|value| value.to_str().ok());
        index.and_then(|index| index.parse().ok()).ok_or_else(|| {
            lost("the answer does not say of which entry it is; is it another version?".into())
        })
    }
}

fn path_of(key: &str) -> String {
    format!("/kv/{}", key::encode(key))
}

fn parsed<T: DeserializeOwned>(answer: &Answer) -> Result<T, CallError> {
    if answer.status != StatusCode::OK {
        return Err(refusal(answer));
    }
    serde_json::from_slice(&answer.body).map_err(|error| foreign(answer, &error.to_string()))
}

fn refusal(answer: &Answer) -> CallError {
    #[derive(Deserialize)]
    struct Body {
        error: String,
        message: String,
    }
    match serde_json::from_slice(&answer.body) {
        Ok(Body { error: word, message }) => {
            CallError::Refused { status: answer.status, word, message }
        }
        Err(error) => foreign(answer, &error.to_string()),
    }
}

/// An answer of something that is not this service.
fn foreign(answer: &Answer, error: &str) -> CallError {
    let message = format!("this is no kv server, or another version of it ({error})");
    CallError::Refused { status: answer.status, word: String::new(), message }
}

/// An error with what is behind it; hyper's own texts stop at "client error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_http_and_nothing_behind_the_port() {
        let server: Server = "http://127.0.0.1:8001/".parse().unwrap();
        assert_eq!(server.to_string(), "http://127.0.0.1:8001");
        for wrong in ["127.0.0.1:8001", "https://a", "http://", "http://a/b", "http://a?b", "x y"] {
            assert!(wrong.parse::<Server>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_was_never_sent_or_surely_refused_did_not_happen() {
        let refused = |word: &str| CallError::Refused {
            status: 500,
            word: word.into(),
            message: String::new(),
        };
        assert!(!CallError::Unreachable(String::new()).may_have_happened());
        assert!(!refused("timeout").may_have_happened());
        assert!(CallError::Lost(String::new()).may_have_happened());
        assert!(refused("unknown_outcome").may_have_happened());
        assert!(refused("").may_have_happened());
    }
}
