//! Connections from peers: one task listens, one task for each connection reads.
//!
//! Every task ends with the transport. The listening task owns the tasks of the connections, so
//! whoever waits for it has waited for all; a panic in one of them ends that connection and is
//! logged, the others don't notice.
//!
//! Whoever finds the port may connect, so everything before the end of the handshake is bounded: the
//! number of connections, the time, the bytes. After it, a connection holds one batch of frames;
//! the peer writes no faster than the host takes.
//!
//! Of each lane of each peer the newest connection counts. The one before it is closed, since a
//! peer that connects again has given it up, and may not have been able to say so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use quorate_engine::NodeId;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::frame::{FrameDecoder, FrameError, PROBE};
use super::handshake::{self, HandshakeError, Opened};
use super::{Shared, calls};
use crate::message::Envelope;
use crate::wire::WireError;

/// How much is handed to the host at once, if it is there without waiting.
const BATCH_MESSAGES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// The pause after the system refuses to hand out a connection, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the transport stops, then ends every one of them.
pub(super) async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    // Who it is shows the handshake: clients have places of their own, so that they can't take all.
    let limit = shared.options.max_connections.saturating_add(shared.options.max_clients);
    // Whether the last thing logged is that no connections are taken.
    let mut refusing = false;
    loop {
        let accepted = select! {
            biased;
            () = shared.stop.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                log_panic(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let trouble = match accepted {
            Ok(_) if connections.len() >= limit => {
                format!("all {} connections are taken", connections.len())
            }
            Ok((stream, address)) => {
                // Not at the first free place: at the limit, places come and go all the time.
                refusing &= connections.len() > limit / 2;
                connections.spawn(serve(shared.clone(), stream, address));
                continue;
            }
            Err(e) => {
                select! {
                    biased;
                    () = shared.stop.cancelled() => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
                e.to_string()
            }
        };
        if !refusing {
            tracing::warn!(trouble, "new connections are refused");
        }
        refusing = true;
    }
    drop(listener);
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(e) = ended {
        if e.is_panic() {
            tracing::error!(error = %e, "the task of a connection panicked");
        }
    }
}

/// One connection, from its first byte to its end.
async fn serve(shared: Arc<Shared>, mut stream: TcpStream, address: SocketAddr) {
    let patience = shared.options.handshake_timeout;
    let opened = match timeout(patience, greet(&shared, &mut stream)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(HandshakeError::Refused(refusal))) => {
            if shared.is_new_refusal(&refusal) {
                tracing::warn!(%address, reason = %refusal, "refused a connection");
            }
            return;
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "closed a connection before its handshake");
            return;
        }
        Err(_) => {
            tracing::debug!(%address, ?patience, "closed a connection without a handshake");
            return;
        }
    };
    let (node, peer, lane) = match opened {
        Opened::Peer { node, peer, lane } => (node, peer, lane),
        Opened::Client { node, place } => {
            match calls::serve(&shared, stream, node).await {
                Ok(()) => tracing::debug!(node, %address, "a client has gone"),
                Err(error) => {
                    tracing::debug!(node, %address, %error, "closed a client's connection")
                }
            }
            drop(place);
            return;
        }
    };
    let turn = shared.enter(peer, lane);
    match read(&shared, stream, node, peer, turn.replaced()).await {
        Ok(()) => tracing::debug!(node, peer, ?lane, %address, "a connection ended"),
        Err(Broken::Frame(FrameError::Io(error))) => {
            tracing::debug!(node, peer, ?lane, %address, %error, "a connection broke");
        }
        Err(error) => tracing::warn!(node, peer, ?lane, %address, %error, "closed a connection"),
    }
}

async fn greet(shared: &Shared, stream: &mut TcpStream) -> Result<Opened, HandshakeError> {
    stream.set_nodelay(true)?;
    let inbound = shared.inbound().ok_or(HandshakeError::NoHost)?;
    handshake::answer(stream, &*inbound, &shared.client_places).await
}

/// Why a connection that was in use had to be closed.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("a message that claims to be from node {0}")]
    Impostor(NodeId),
    #[error("it does not take the answers to its probes")]
    Deaf,
}

/// Hands over what `peer` sends until the connection ends or is `replaced`.
async fn read(
    shared: &Shared,
    stream: TcpStream,
    node: NodeId,
    peer: NodeId,
    replaced: &CancellationToken,
) -> Result<(), Broken> {
    let mut frames = FramedRead::new(stream, FrameDecoder::new(shared.options.frame_limit()));
    let mut knows_all_kinds = true;
    loop {
        let mut next = select! {
            biased;
            () = replaced.cancelled() => return Ok(()),
            next = frames.next() => next,
        };
        let mut messages = Vec::new();
        let mut batch_bytes = 0;
        let mut probes = 0;
        // What came before a fault is intact and is delivered.
        let end = loop {
            let body = match next {
                None => break Some(Ok(())),
                Some(Err(e)) => break Some(Err(e.into())),
                Some(Ok(body)) => body,
            };
            batch_bytes += body.len();
            if body.is_empty() {
                probes += 1;
            } else {
                match Envelope::from_bytes(body) {
                    Ok(envelope) if envelope.from == peer => messages.push(envelope),
                    Ok(envelope) => break Some(Err(Broken::Impostor(envelope.from))),
                    Err(error @ WireError::UnknownKind { .. }) => {
                        if knows_all_kinds {
                            tracing::warn!(node, peer, %error, "messages are passed over");
                        }
                        knows_all_kinds = false;
                    }
                    Err(e) => break Some(Err(e.into())),
                }
            }
            if messages.len() >= BATCH_MESSAGES || batch_bytes >= BATCH_BYTES || probes > 0 {
                break None;
            }
            match frames.next().now_or_never() {
                Some(more) => next = more,
                None => break None,
            }
        };
        if !messages.is_empty() {
            let Some(inbound) = shared.inbound() else { return Ok(()) };
            inbound.receive(messages);
        }
        if let Some(end) = end {
            return end;
        }
        if probes > 0 {
            let answer = frames.get_mut().write_all(&PROBE);
            match timeout(shared.options.write_timeout, answer).await {
                Ok(written) => written.map_err(FrameError::Io)?,
                Err(_) => return Err(Broken::Deaf),
            }
        }
    }
}
