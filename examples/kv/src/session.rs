//! Writes in sessions: what the headers of a request say, and what is answered to one that was
//! answered before.

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use quorate::SessionWrite;
use serde::Serialize;

use crate::server::{ApiError, App, json};

pub(crate) const SESSION: HeaderName = HeaderName::from_static("session");
pub(crate) const SEQUENCE: HeaderName = HeaderName::from_static("sequence");
const ACKNOWLEDGED: HeaderName = HeaderName::from_static("acknowledged");
pub(crate) const REPEATED: HeaderName = HeaderName::from_static("repeated");

/// How many answers are kept for a client that does not say which it needs no more.
const KEPT: u64 = 1000;

/// What the headers say, if there are any: which write of which session this is.
pub(crate) struct InSession(pub(crate) Option<SessionWrite>);

impl<S: Sync> FromRequestParts<S> for InSession {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let (session, sequence) = (number(parts, &SESSION)?, number(parts, &SEQUENCE)?);
        let acknowledged = number(parts, &ACKNOWLEDGED)?;
        match (session, sequence) {
            (Some(session), Some(sequence)) if session > 0 && sequence > 0 => {
                let acknowledged = acknowledged.unwrap_or(0).max(sequence.saturating_sub(KEPT));
                Ok(Self(Some(SessionWrite { session, sequence, acknowledged })))
            }
            (None, None) if acknowledged.is_none() => Ok(Self(None)),
            _ => Err(ApiError::bad_request(
                "a write in a session has both headers, Session: 7 and Sequence: 1, from 1 on; \
                 nothing was done",
            )),
        }
    }
}

fn number(parts: &Parts, name: &HeaderName) -> Result<Option<u64>, ApiError> {
    let Some(value) = parts.headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        ApiError::bad_request(format!("the header {name} is not a number; nothing was done"))
    })
}

/// An answer, and whether it was given before.
pub(crate) fn answer(repeated: bool, answer: Result<Response, ApiError>) -> Response {
    let mut response = answer.into_response();
    if repeated {
        response.headers_mut().insert(REPEATED, HeaderValue::from_static("true"));
    }
    response
}

/// `POST /sessions`.
pub(crate) async fn open(State(app): State<App>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Opened {
        session: u64,
    }
    let session = app.raft.open_session().await?;
    Ok(json(StatusCode::OK, &Opened { session }))
}
