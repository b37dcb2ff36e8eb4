//! Both ends of a TCP connection, played by hand: the format written down a second time, and the
//! means to break it.

use prost::Message as _;
use quorate_network::{Envelope, Lane};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::time::timeout;

use super::PATIENCE;

pub(crate) const PREAMBLE: &[u8; 8] = b"quorate\x01";

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireHello {
    #[prost(uint32, tag = "1")]
    pub(crate) min_version: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) max_version: u32,
    #[prost(string, tag = "3")]
    pub(crate) cluster_name: String,
    #[prost(fixed64, tag = "4")]
    pub(crate) cluster: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) to: u64,
    #[prost(fixed64, tag = "7")]
    pub(crate) incarnation: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireOpen {
    #[prost(message, optional, tag = "1")]
    pub(crate) hello: Option<WireHello>,
    #[prost(uint32, tag = "2")]
    pub(crate) lane: u32,
    #[prost(message, optional, tag = "3")]
    pub(crate) client: Option<WireClient>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireClient {
    #[prost(uint32, tag = "1")]
    pub(crate) min_version: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) max_version: u32,
    #[prost(string, tag = "3")]
    pub(crate) cluster_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireReply {
    #[prost(message, optional, tag = "1")]
    pub(crate) hello: Option<WireHello>,
    #[prost(string, optional, tag = "2")]
    pub(crate) refusal: Option<String>,
    #[prost(message, optional, tag = "3")]
    pub(crate) full: Option<()>,
}

pub(crate) fn wire_hello(from: u64, to: u64) -> WireHello {
    WireHello {
        min_version: 1,
        max_version: 1,
        cluster_name: "shop".into(),
        cluster: 7,
        from,
        to,
        incarnation: from * 100,
    }
}

/// A frame around `body`.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(crc32fast::hash(body).to_le_bytes());
    bytes.extend(body);
    bytes
}

pub(crate) fn frame_of(envelope: &Envelope) -> Vec<u8> {
    frame(&envelope.to_bytes())
}

/// What the connecting side says first.
pub(crate) fn opening(from: u64, to: u64, lane: Lane) -> Vec<u8> {
    let open = WireOpen { hello: Some(wire_hello(from, to)), lane: lane as u32 + 1, client: None };
    let mut bytes = PREAMBLE.to_vec();
    bytes.extend(frame(&open.encode_to_vec()));
    bytes
}

/// What a client says first.
pub(crate) fn client_opening(
    cluster_name: &str,
    (min_version, max_version): (u32, u32),
) -> Vec<u8> {
    let client = WireClient { min_version, max_version, cluster_name: cluster_name.into() };
    let open = WireOpen { hello: None, lane: 0, client: Some(client) };
    let mut bytes = PREAMBLE.to_vec();
    bytes.extend(frame(&open.encode_to_vec()));
    bytes
}

/// One end of a connection.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn connect(address: impl ToSocketAddrs) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Connects as node `from` and is admitted.
    pub(crate) async fn admitted(
        address: impl ToSocketAddrs,
        from: u64,
        to: u64,
        lane: Lane,
    ) -> Self {
        let mut raw = Self::connect(address).await;
        raw.say(&opening(from, to, lane)).await;
        let reply = WireReply::decode(&raw.frame().await[..]).unwrap();
        assert_eq!(reply.refusal, None);
        assert_eq!(reply.hello.unwrap().from, to);
        raw
    }

    /// Connects as a client of the cluster "shop", and says what it is told.
    pub(crate) async fn client(address: impl ToSocketAddrs) -> (Self, WireReply) {
        let mut raw = Self::connect(address).await;
        raw.say(&client_opening("shop", (1, 1))).await;
        let reply = WireReply::decode(&raw.frame().await[..]).unwrap();
        (raw, reply)
    }

    /// Accepts a connection to node `id` and admits whoever it is.
    pub(crate) async fn accept(listener: &TcpListener, id: u64) -> Self {
        let hello = |from| wire_hello(id, from);
        Self::accept_saying(listener, hello).await
    }

    pub(crate) async fn accept_saying(
        listener: &TcpListener,
        hello: impl FnOnce(u64) -> WireHello,
    ) -> Self {
        let mut raw = Self(listener.accept().await.unwrap().0);
        let mut preamble = [0; 8];
        raw.0.read_exact(&mut preamble).await.unwrap();
        assert_eq!(&preamble, PREAMBLE);
        let open = WireOpen::decode(&raw.frame().await[..]).unwrap();
        let from = open.hello.unwrap().from;
        let reply = WireReply { hello: Some(hello(from)), refusal: None, full: None };
        raw.say(&frame(&reply.encode_to_vec())).await;
        raw
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Says as much of `bytes` as the other side is willing to take.
    pub(crate) async fn try_say(&mut self, bytes: &[u8]) {
        let _may_have_closed = self.0.write_all(bytes).await;
    }

    /// The body of the next frame.
    pub(crate) async fn frame(&mut self) -> Vec<u8> {
        let mut head = [0; 8];
        self.0.read_exact(&mut head).await.unwrap();
        let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        assert_eq!(head[4..], crc32fast::hash(&body).to_le_bytes());
        body
    }

    /// Waits until the other side has closed the connection.
    pub(crate) async fn closed(mut self) {
        let mut rest = Vec::new();
        // A reset is as good as an orderly end.
        let _reset = timeout(PATIENCE, self.0.read_to_end(&mut rest))
            .await
            .expect("the other side keeps the connection open");
    }
}
