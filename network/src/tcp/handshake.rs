//! Who is there? What both sides of a connection say before the first message.
//!
//! ```text
//! connecting side                          listening side
//! preamble "quorate" 0x01                  not this: closes, it isn't one of us
//! frame: Open { hello, lane }              judges versions, expected id, then `Inbound::admit`
//!                                          frame: Reply { hello } or Reply { refusal }, closes
//! judges the reply's hello in the same way
//! messages follow                          probes are answered, nothing else is said
//! ```
//! A client opens with its versions and the name of the cluster alone: it is nobody. It is told who
//! answers, or is refused, or turned away for want of places; calls follow, and answers.
//!
//! The preamble's last byte is the version of framing and handshake. Until the handshake is done
//! nobody is trusted with more than 4 KiB of memory or a few seconds of patience.
//!
//! A connection carries one lane of one peer in one direction. The listening side learns from Open
//! who speaks on it, and no message may claim another sender.

use std::sync::Arc;

use prost::Message as _;
use quorate_engine::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame::{FrameError, read_one, write_one};
use crate::message::{Hello, Inbound, Lane, PROTOCOL_VERSIONS, Refusal};

/// The largest frame before the handshake is done.
pub(super) const MAX_FRAME_BYTES: usize = 4096;

const PREAMBLE: [u8; 8] = *b"quorate\x01";

/// Reasons are for people to read and must fit a frame.
const MAX_REASON_BYTES: usize = 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The other side does not want this one.
    #[error("refused: {0}")]
    RefusedByPeer(String),
    /// This side does not want the other.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Something else than a node is at the other end.
    #[error("it does not speak the protocol of Quorate")]
    NotANode,
    /// No place for another client.
    #[error("all places for clients are taken; close some, or raise max_clients")]
    Full,
    /// This node has nobody to answer for it.
    #[error("the host of this node is gone")]
    NoHost,
    /// The connection broke, or carries something else than frames.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

impl From<std::io::Error> for HandshakeError {
    fn from(error: std::io::Error) -> Self {
        Self::Frame(error.into())
    }
}

/// The connecting side. Returns when messages for `peer` may follow.
pub(super) async fn open(
    stream: &mut TcpStream,
    inbound: &dyn Inbound,
    peer: NodeId,
    lane: Lane,
) -> Result<(), HandshakeError> {
    let own = inbound.hello(peer);
    let open = WireOpen { hello: Some(WireHello::of(&own)), lane: lane_code(lane), client: None };
    let hello = exchange(stream, &open).await?;
    if hello.from != peer {
        let found = hello.from;
        return Err(Refusal(format!(
            "node {found} answers where node {peer} should be; check the address"
        ))
        .into());
    }
    judge(&own, &hello)?;
    Ok(inbound.admit(&hello)?)
}

/// The connecting side, if it is a client of the cluster `cluster_name`. Returns who answers.
pub(super) async fn open_client(
    stream: &mut TcpStream,
    cluster_name: &str,
) -> Result<Hello, HandshakeError> {
    let client = WireClient {
        min_version: PROTOCOL_VERSIONS.0,
        max_version: PROTOCOL_VERSIONS.1,
        cluster_name: cluster_name.to_owned(),
    };
    exchange(stream, &WireOpen { hello: None, lane: 0, client: Some(client) }).await
}

/// Says who is here, and hears who answers, if that one wants to hear more.
async fn exchange(stream: &mut TcpStream, open: &WireOpen) -> Result<Hello, HandshakeError> {
    let open = open.encode_to_vec();
    if open.len() > MAX_FRAME_BYTES {
        let text = "cluster name and address don't fit a handshake; shorten them";
        return Err(Refusal(text.into()).into());
    }
    let mut bytes = PREAMBLE.to_vec();
    write_one(&mut bytes, &open);
    stream.write_all(&bytes).await?;
    let reply = read_one(stream, MAX_FRAME_BYTES).await?;
    let reply = WireReply::decode(&reply[..]).map_err(|_| HandshakeError::NotANode)?;
    match reply.verdict {
        Some(Verdict::Refusal(reason)) => Err(HandshakeError::RefusedByPeer(reason)),
        Some(Verdict::Full(())) => Err(HandshakeError::Full),
        Some(Verdict::Hello(hello)) => Ok(hello.into_hello()),
        None => Err(HandshakeError::NotANode),
    }
}

/// What the listening side knows of a connection after the handshake.
pub(super) enum Opened {
    /// It is one lane of a peer.
    Peer {
        /// This node.
        node: NodeId,
        /// Who speaks.
        peer: NodeId,
        /// On which lane.
        lane: Lane,
    },
    /// It is a client's.
    Client {
        /// This node.
        node: NodeId,
        /// Given back when the client goes.
        place: OwnedSemaphorePermit,
    },
}

/// The listening side. A client takes one of `places`.
pub(super) async fn answer(
    stream: &mut TcpStream,
    inbound: &dyn Inbound,
    places: &Arc<Semaphore>,
) -> Result<Opened, HandshakeError> {
    let mut preamble = [0; PREAMBLE.len()];
    stream.read_exact(&mut preamble).await?;
    if preamble != PREAMBLE {
        return Err(HandshakeError::NotANode);
    }
    let open = read_one(stream, MAX_FRAME_BYTES).await?;
    let open = WireOpen::decode(&open[..]).map_err(|_| HandshakeError::NotANode)?;
    if let Some(client) = open.client {
        return answer_client(stream, &inbound.hello(0), client, places).await;
    }
    let hello = open.hello.ok_or(HandshakeError::NotANode)?.into_hello();

    let own = inbound.hello(hello.from);
    let verdict = judge(&own, &hello)
        .and_then(|()| lane_of(open.lane))
        .and_then(|lane| inbound.admit(&hello).map(|()| lane));
    match verdict {
        Ok(lane) => {
            say(stream, Verdict::Hello(WireHello::of(&own))).await?;
            Ok(Opened::Peer { node: own.from, peer: hello.from, lane })
        }
        Err(refusal) => Err(refuse(stream, refusal).await?),
    }
}

async fn answer_client(
    stream: &mut TcpStream,
    own: &Hello,
    client: WireClient,
    places: &Arc<Semaphore>,
) -> Result<Opened, HandshakeError> {
    if let Err(refusal) = judge_client(own, &client) {
        return Err(refuse(stream, refusal).await?);
    }
    let Ok(place) = places.clone().try_acquire_owned() else {
        say(stream, Verdict::Full(())).await?;
        stream.shutdown().await?;
        return Err(HandshakeError::Full);
    };
    say(stream, Verdict::Hello(WireHello::of(own))).await?;
    Ok(Opened::Client { node: own.from, place })
}

async fn say(stream: &mut TcpStream, verdict: Verdict) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    write_one(&mut bytes, &WireReply { verdict: Some(verdict) }.encode_to_vec());
    stream.write_all(&bytes).await
}

/// Tells the other side why not, and gives that back as an error.
async fn refuse(stream: &mut TcpStream, refusal: Refusal) -> std::io::Result<HandshakeError> {
    say(stream, Verdict::Refusal(shortened(&refusal.0).into())).await?;
    // The other side reads the reason before it sees the end.
    stream.shutdown().await?;
    Ok(refusal.into())
}

/// Whether a client belongs here.
fn judge_client(own: &Hello, client: &WireClient) -> Result<(), Refusal> {
    let WireClient { min_version, max_version, cluster_name } = client;
    if *min_version > own.max_version || *max_version < own.min_version {
        return Err(Refusal(format!(
            "the client speaks protocol versions {min_version} to {max_version}, node {} speaks {} \
             to {}; use a client of about the same release",
            own.from, own.min_version, own.max_version
        )));
    }
    if *cluster_name != own.cluster_name {
        return Err(Refusal(format!(
            "this is a node of cluster \"{}\", not of \"{cluster_name}\"; check the cluster names \
             and addresses",
            own.cluster_name
        )));
    }
    Ok(())
}

/// What a transport can tell of a hello before the host is asked.
fn judge(own: &Hello, other: &Hello) -> Result<(), Refusal> {
    let Hello { from, min_version, max_version, .. } = *other;
    if min_version > own.max_version || max_version < own.min_version {
        return Err(Refusal(format!(
            "node {from} speaks protocol versions {min_version} to {max_version}, node {} speaks \
             {} to {}; upgrade one release at a time",
            own.from, own.min_version, own.max_version
        )));
    }
    if other.to != own.from {
        return Err(Refusal(format!(
            "this is node {}, not node {}; check the addresses of both",
            own.from, other.to
        )));
    }
    Ok(())
}

/// `reason`, cut where it is too long, between two characters.
fn shortened(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

fn lane_code(lane: Lane) -> u32 {
    match lane {
        Lane::Control => 1,
        Lane::Entries => 2,
        Lane::Clients => 3,
        Lane::Snapshot => 4,
    }
}

fn lane_of(code: u32) -> Result<Lane, Refusal> {
    Lane::ALL
        .into_iter()
        .find(|lane| lane_code(*lane) == code)
        .ok_or_else(|| Refusal(format!("lane {code} is not known here; upgrade this node")))
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireOpen {
    #[prost(message, optional, tag = "1")]
    hello: Option<WireHello>,
    #[prost(uint32, tag = "2")]
    lane: u32,
    /// Of a client, which has no hello of a node.
    #[prost(message, optional, tag = "3")]
    client: Option<WireClient>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireClient {
    #[prost(uint32, tag = "1")]
    min_version: u32,
    #[prost(uint32, tag = "2")]
    max_version: u32,
    #[prost(string, tag = "3")]
    cluster_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireReply {
    #[prost(oneof = "Verdict", tags = "1, 2, 3")]
    verdict: Option<Verdict>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Verdict {
    #[prost(message, tag = "1")]
    Hello(WireHello),
    #[prost(string, tag = "2")]
    Refusal(String),
    /// No place for another client.
    #[prost(message, tag = "3")]
    Full(()),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHello {
    #[prost(uint32, tag = "1")]
    min_version: u32,
    #[prost(uint32, tag = "2")]
    max_version: u32,
    #[prost(string, tag = "3")]
    cluster_name: String,
    #[prost(fixed64, tag = "4")]
    cluster: u64,
    #[prost(uint64, tag = "5")]
    from: u64,
    #[prost(uint64, tag = "6")]
    to: u64,
    #[prost(fixed64, tag = "7")]
    incarnation: u64,
    #[prost(string, tag = "8")]
    address: String,
}

impl WireHello {
    fn of(hello: &Hello) -> Self {
        Self {
            min_version: hello.min_version,
            max_version: hello.max_version,
            cluster_name: hello.cluster_name.clone(),
            cluster: hello.cluster,
            from: hello.from,
            to: hello.to,
            incarnation: hello.incarnation,
            address: hello.address.clone(),
        }
    }

    fn into_hello(self) -> Hello {
        Hello {
            min_version: self.min_version,
            max_version: self.max_version,
            cluster_name: self.cluster_name,
            cluster: self.cluster,
            from: self.from,
            to: self.to,
            incarnation: self.incarnation,
            address: self.address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(from: NodeId, to: NodeId, versions: (u32, u32)) -> Hello {
        Hello {
            min_version: versions.0,
            max_version: versions.1,
            cluster_name: "shop".into(),
            cluster: 7,
            from,
            to,
            incarnation: 9,
            address: "a:1".into(),
        }
    }

    #[test]
    fn versions_must_overlap_and_the_expected_id_must_be_this_one() {
        let own = hello(1, 2, (3, 4));
        for versions in [(3, 4), (1, 3), (4, 9), (1, 9)] {
            assert_eq!(judge(&own, &hello(2, 1, versions)), Ok(()));
        }
        for versions in [(1, 2), (5, 9)] {
            let refusal = judge(&own, &hello(2, 1, versions)).unwrap_err();
            assert!(refusal.0.contains("upgrade"), "{refusal}");
        }
        let refusal = judge(&own, &hello(2, 7, (3, 4))).unwrap_err();
        assert!(refusal.0.contains("this is node 1, not node 7"), "{refusal}");
    }

    #[test]
    fn a_hello_round_trips_and_its_bytes_stay_what_they_are() {
        let sent = hello(1, 2, (1, 3));
        let wire =
            WireOpen { hello: Some(WireHello::of(&sent)), lane: 2, client: None }.encode_to_vec();
        let golden = b"\x0a\x25\x08\x01\x10\x03\x1a\x04shop\x21\x07\0\0\0\0\0\0\0\x28\x01\x30\x02\
            \x39\x09\0\0\0\0\0\0\0\x42\x03a:1\x10\x02";
        assert_eq!(wire, golden);
        let read = WireOpen::decode(&wire[..]).unwrap();
        assert_eq!((read.hello.unwrap().into_hello(), read.lane), (sent, 2));
    }

    #[test]
    fn every_lane_has_a_code() {
        for lane in Lane::ALL {
            assert_eq!(lane_of(lane_code(lane)), Ok(lane));
        }
        assert!(lane_of(0).is_err() && lane_of(9).is_err());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "ü".repeat(MAX_REASON_BYTES);
        assert_eq!(shortened(&reason).len(), MAX_REASON_BYTES);
        let odd = format!("x{reason}");
        assert_eq!(shortened(&odd).len(), MAX_REASON_BYTES - 1);
    }
}
