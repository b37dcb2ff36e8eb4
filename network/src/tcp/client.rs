//! A client's end of a connection to a node.
//!
//! The connection is opened, then split: calls go out on one half while answers come in on the other.
//! Which call goes where, again, or not any more is the business of whoever holds the halves.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use quorate_engine::{GroupId, NodeId};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};
use tokio_util::codec::FramedRead;

use super::frame::{FrameDecoder, FrameError, Frames, PROBE};
use super::handshake::{self, HandshakeError};
use super::options::TcpOptions;
use super::outgoing::write_all;
use crate::call::{Call, Called};
use crate::message::{Envelope, Message};
use crate::wire::WireError;

/// How many answers are given at once, if they are there without waiting.
const BATCH: usize = 256;

/// How long to look for a sign of life that may have arrived without our notice: it may be this
/// process that stood still.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// Why a client has no connection, or not any more.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody there, or the connection broke.
    #[error("{address} can't be reached: {cause}")]
    Unreachable {
        /// What was tried.
        address: String,
        /// What is wrong.
        cause: String,
    },
    /// The node does not want this client: it is of another cluster or of too old a version.
    #[error("{address} refuses this client: {reason}")]
    Refused {
        /// Who refuses.
        address: String,
        /// Its words.
        reason: String,
    },
}

/// A client's connection to one node, after the handshake.
#[derive(Debug)]
pub struct ClientConnection {
    stream: TcpStream,
    address: String,
    node: NodeId,
    cluster: u64,
    options: TcpOptions,
}

impl ClientConnection {
    /// Connects to the node at `address`, `host:port`, if it is of the cluster called `cluster_name`.
    ///
    /// Of the options those count that limit frames and patience; a silent node is given up
    /// [`TcpOptions::probe_interval`] and [`TcpOptions::probe_timeout`] after its last word.
    ///
    /// # Errors
    /// Nobody is there, answers in time, or has room; or it refuses.
    pub async fn open(
        address: &str,
        cluster_name: &str,
        options: &TcpOptions,
    ) -> Result<Self, ClientError> {
        let unreachable = |cause: String| {
            let address = address.to_owned();
            ClientError::Unreachable { address, cause }
        };
        let connect = timeout(options.connect_timeout, TcpStream::connect(address)).await;
        let late = |what| move |_| unreachable(format!("no {what} in time"));
        let mut stream =
            connect.map_err(late("connection"))?.map_err(|e| unreachable(e.to_string()))?;
        stream.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
        let greeting = handshake::open_client(&mut stream, cluster_name);
        let greeted = timeout(options.handshake_timeout, greeting).await;
        let hello = match greeted.map_err(late("handshake"))? {
            Ok(hello) => hello,
            Err(HandshakeError::RefusedByPeer(reason)) => {
                return Err(ClientError::Refused { address: address.to_owned(), reason });
            }
            Err(error) => return Err(unreachable(error.to_string())),
        };
        Ok(Self {
            stream,
            address: address.to_owned(),
            node: hello.from,
            cluster: hello.cluster,
            options: options.clone(),
        })
    }

    /// The node at the other end.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The two halves, for calls to `group`. The connection ends when either is dropped.
    pub fn split(self, group: GroupId) -> (CallSender, CallReceiver) {
        let Self { stream, address, node, cluster, options } = self;
        let (reading, stream) = stream.into_split();
        let frames = FramedRead::new(reading, FrameDecoder::new(options.frame_limit()));
        let patience = options.probe_interval + options.probe_timeout;
        let receiver = CallReceiver { frames, address: address.clone(), patience };
        (CallSender { stream, address, group, node, cluster, options }, receiver)
    }
}

/// The half of a connection that calls go out on.
#[derive(Debug)]
pub struct CallSender {
    stream: OwnedWriteHalf,
    address: String,
    group: GroupId,
    node: NodeId,
    cluster: u64,
    options: TcpOptions,
}

impl CallSender {
    /// Sends calls, in order, and returns when the kernel has taken them. After an error, or if the
    /// future is dropped, some of them may have arrived, and the connection must not be used again.
    ///
    /// # Errors
    /// The connection is broken, or stands still.
    pub async fn send(&mut self, calls: Vec<Call>) -> Result<(), ClientError> {
        let mut frames = Frames::new(self.options.frame_limit());
        for call in calls {
            let envelope = Envelope {
                cluster: self.cluster,
                group: self.group,
                from: 0,
                to: self.node,
                incarnation: 0,
                message: Message::Call(call),
            };
            frames.push(&envelope).map_err(|too_large| {
                let (bytes, limit) = (too_large.bytes, too_large.limit);
                self.broken(format!("a call of {bytes} bytes is over the limit of {limit}"))
            })?;
        }
        self.write(frames.finish()).await
    }

    /// Asks for a sign of life. Called every [`TcpOptions::probe_interval`] by whoever holds the
    /// connection: the node ends one on which nothing is said, and the receiving half one on which
    /// nothing is heard.
    ///
    /// # Errors
    /// As [`CallSender::send`].
    pub async fn probe(&mut self) -> Result<(), ClientError> {
        self.write(vec![Bytes::from_static(&PROBE)]).await
    }

    async fn write(&self, pieces: Vec<Bytes>) -> Result<(), ClientError> {
        let mut moved_at = Instant::now();
        let patience = self.options.write_timeout;
        write_all(self.stream.as_ref(), &pieces, patience, &mut moved_at)
            .await
            .map_err(|fault| self.broken(fault.to_string()))
    }

    fn broken(&self, cause: String) -> ClientError {
        ClientError::Unreachable { address: self.address.clone(), cause }
    }
}

/// The half of a connection that answers come in on.
#[derive(Debug)]
pub struct CallReceiver {
    frames: FramedRead<OwnedReadHalf, FrameDecoder>,
    address: String,
    patience: Duration,
}

impl CallReceiver {
    /// The next answers, at least one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection is broken, the node has closed it, or has given no sign of life in time.
    pub async fn next(&mut self) -> Result<Vec<Called>, ClientError> {
        loop {
            let mut next = match timeout(self.patience, self.frames.next()).await {
                Ok(next) => next,
                Err(_) => match timeout(LAST_LOOK, self.frames.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        let silence = self.patience;
                        return Err(self.broken(format!("no sign of life for {silence:?}")));
                    }
                },
            };
            let mut answers = Vec::new();
            // What came before a fault is intact and counts; the fault is still there next time, or
            // the end is.
            loop {
                match self.read(next) {
                    Ok(Some(called)) => answers.push(called),
                    Ok(None) => {}
                    Err(error) if answers.is_empty() => return Err(error),
                    Err(_) => return Ok(answers),
                }
                if answers.len() >= BATCH {
                    return Ok(answers);
                }
                match self.frames.next().now_or_never() {
                    Some(more) => next = more,
                    None if answers.is_empty() => break,
                    None => return Ok(answers),
                }
            }
        }
    }

    /// An answer, or `None` for a sign of life and for what a newer node says.
    fn read(&self, next: Option<Result<Bytes, FrameError>>) -> Result<Option<Called>, ClientError> {
        let body = match next {
            None => return Err(self.broken("it closed the connection".into())),
            Some(body) => body.map_err(|error| self.broken(error.to_string()))?,
        };
        if body.is_empty() {
            return Ok(None);
        }
        match Envelope::from_bytes(body) {
            Ok(Envelope { message: Message::Called(called), .. }) => Ok(Some(called)),
            Ok(_) => Err(self.broken("it says something that is no answer".into())),
            Err(WireError::UnknownKind { .. }) => Ok(None),
            Err(error) => Err(self.broken(error.to_string())),
        }
    }

    fn broken(&self, cause: String) -> ClientError {
        ClientError::Unreachable { address: self.address.clone(), cause }
    }
}
