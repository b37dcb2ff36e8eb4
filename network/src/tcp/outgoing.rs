//! Connections to peers: one for each lane, opened by the first `send` and kept.
//!
//! No task stands behind a connection. The caller's `send` connects, writes and looks after it, so
//! nothing is queued here: what is in flight is what the one `send` of a lane holds, plus what the
//! kernel has taken.
//!
//! While a `send` runs it owns the connection. If its future is dropped, the connection goes with
//! it, so half a frame is never followed by another.
//!
//! | what happens | what `send` does |
//! |---|---|
//! | nobody listens, refused, no answer in time | fails, then fails at once until the pause is over |
//! | the peer connects to this node meanwhile | the pause is over |
//! | the peer closed an idle connection | connects again, in the same call |
//! | the peer closed it before it took anything | counts as a failed attempt: pauses |
//! | the write stands still, or a probe stays unanswered | gives the connection up, fails |
//! | the address of the peer changed | gives the connection up, connects to the new one |

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use anyerror::AnyError;
use bytes::Bytes;
use quorate_engine::NodeId;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::frame::{Frames, PROBE};
use super::handshake::{self, HandshakeError};
use super::options::TcpOptions;
use crate::Backoff;
use crate::message::{Envelope, Inbound, Lane, NetworkError, Peer};

/// How many pieces one system call writes at most.
const PIECES_PER_WRITE: usize = 64;

/// How long to look for an answer that may have arrived without our notice, before an overdue
/// probe is held against the peer: it may be this process that stood still.
const LAST_LOOK: Duration = Duration::from_millis(20);

const WELL: u8 = 0;
const GONE: u8 = 1;
const REFUSING: u8 = 2;

/// Everything this node has to do with one peer.
pub(super) struct Link {
    /// This node, for the log.
    node: NodeId,
    /// One for each lane. Locked for a whole `send`; they come one at a time for each lane.
    lanes: [Mutex<Outlet>; Lane::ALL.len()],
    /// The worst that was logged since the peer was well: [`WELL`], [`GONE`] or [`REFUSING`].
    trouble: AtomicU8,
    /// How often the peer has connected to this node.
    heard: AtomicU64,
}

impl Link {
    pub(super) fn new(node: NodeId, peer: NodeId, options: &TcpOptions) -> Self {
        let lane_seed = |lane: u64| options.seed ^ node ^ peer.rotate_left(32) ^ (lane << 56);
        Self {
            node,
            lanes: [1, 2, 3, 4]
                .map(|lane| Mutex::new(Outlet::new(options.backoff(lane_seed(lane))))),
            trouble: AtomicU8::new(WELL),
            heard: AtomicU64::new(0),
        }
    }

    /// The peer has just connected to this node: there is reason to try it again.
    pub(super) fn heard(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends `messages`, which are not empty. See [`crate::RaftNetwork::send`].
    pub(super) async fn send(
        &self,
        to: &Peer,
        lane: Lane,
        messages: &[Envelope],
        inbound: &dyn Inbound,
        options: &TcpOptions,
    ) -> Result<(), NetworkError> {
        let mut outlet = self.lanes[lane as usize].lock().await;
        let mut connection = outlet.connection(self, to, lane, inbound, options).await?;
        let mut frames = Frames::new(options.frame_limit());
        let mut result = Ok(());
        for message in messages {
            // One that can't travel must not keep the others from it.
            if let Err(e) = frames.push(message) {
                result = Err(NetworkError::TooLarge { bytes: e.bytes, limit: e.limit });
            }
        }
        if connection.owes_probe(options) {
            frames.push_probe();
        }
        match connection.write(frames.finish(), options).await {
            Ok(()) => {
                outlet.connection = Some(connection);
                result
            }
            Err(cause) => Err(outlet.failed(self, to, unreachable(to, cause))),
        }
    }

    fn is_well(&self, to: &Peer) {
        if self.trouble.swap(WELL, Ordering::Relaxed) != WELL {
            let Peer { id, address } = to;
            tracing::warn!(node = self.node, peer = id, address, "peer can be reached again");
        }
    }

    /// Logs `error` unless it is nothing new.
    fn is_unwell(&self, to: &Peer, error: &NetworkError) {
        let trouble = match error {
            NetworkError::Refused { .. } => REFUSING,
            _ => GONE,
        };
        if self.trouble.fetch_max(trouble, Ordering::Relaxed) < trouble {
            let Peer { id, address } = to;
            tracing::warn!(node = self.node, peer = id, address, %error, "peer is gone");
        }
    }
}

fn unreachable(to: &Peer, cause: impl ToString) -> NetworkError {
    NetworkError::Unreachable { peer: to.id, cause: AnyError::error(cause) }
}

/// One lane to one peer.
struct Outlet {
    /// Taken while it is written to.
    connection: Option<Connection>,
    /// Where `connection` leads, and what `backoff` and `pause` are about.
    address: String,
    backoff: Backoff,
    pause: Option<Pause>,
}

/// After a failure nothing is tried before `until`, unless the peer was `heard` more often since.
struct Pause {
    until: Instant,
    heard: u64,
    error: NetworkError,
}

impl Outlet {
    fn new(backoff: Backoff) -> Self {
        Self { connection: None, address: String::new(), backoff, pause: None }
    }

    /// A connection that shows no fault, taken out of `self`: the one there is, or a new one.
    async fn connection(
        &mut self,
        link: &Link,
        to: &Peer,
        lane: Lane,
        inbound: &dyn Inbound,
        options: &TcpOptions,
    ) -> Result<Connection, NetworkError> {
        if self.address != to.address {
            self.connection = None;
            self.pause = None;
            self.backoff.reset();
            self.address.clone_from(&to.address);
        }
        if let Some(mut connection) = self.connection.take() {
            let was_proven = connection.proven;
            match connection.check(options).await {
                Ok(()) => {
                    if connection.proven && !was_proven {
                        self.backoff.reset();
                        link.is_well(to);
                    }
                    return Ok(connection);
                }
                // A peer that took messages and then closed has restarted, most likely.
                Err(Fault::Closed) if connection.proven => {}
                Err(fault) => return Err(self.failed(link, to, unreachable(to, fault))),
            }
        }
        if let Some(pause) = &self.pause {
            let heard = link.heard.load(Ordering::Relaxed);
            if heard == pause.heard && Instant::now() < pause.until {
                return Err(pause.error.clone());
            }
        }
        match Connection::open(to, lane, inbound, options).await {
            Ok(connection) => Ok(connection),
            Err(error) => Err(self.failed(link, to, error)),
        }
    }

    /// Begins a pause, and gives `error` back.
    fn failed(&mut self, link: &Link, to: &Peer, error: NetworkError) -> NetworkError {
        link.is_unwell(to, &error);
        self.pause = Some(Pause {
            until: Instant::now() + self.backoff.pause(),
            heard: link.heard.load(Ordering::Relaxed),
            error: error.clone(),
        });
        error
    }
}

/// What is wrong with a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("it closed the connection")]
    Closed,
    #[error("it says something that is not of the protocol")]
    Noise,
    #[error("it has given no sign of life for {0:?}")]
    Silent(Duration),
    #[error("it has taken nothing for {0:?}")]
    Stalled(Duration),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// An open connection whose handshake is done.
struct Connection {
    stream: TcpStream,
    /// Whether a probe was ever answered, which says that the peer takes what it is sent.
    proven: bool,
    /// When the next probe is due.
    probe_at: Instant,
    /// When the probe was sent that is not answered yet, if any. At most one is on its way.
    owed_since: Option<Instant>,
    /// When a write that had stood still went on: also a sign of life, and on a slow line the only
    /// one for as long as a probe waits behind what is buffered.
    moved_at: Instant,
    /// Bytes that arrived of the next answer to a probe.
    answer_bytes: usize,
}

impl Connection {
    async fn open(
        to: &Peer,
        lane: Lane,
        inbound: &dyn Inbound,
        options: &TcpOptions,
    ) -> Result<Self, NetworkError> {
        let address = &to.address;
        let connect = timeout(options.connect_timeout, TcpStream::connect(address));
        let mut stream = match connect.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(unreachable(to, format_args!("{address}: {e}"))),
            Err(_) => {
                let patience = options.connect_timeout;
                let cause = format_args!("{address}: no connection within {patience:?}");
                return Err(unreachable(to, cause));
            }
        };
        // Heartbeats are small and must not wait for more to come.
        stream.set_nodelay(true).map_err(|e| unreachable(to, e))?;
        let handshake = handshake::open(&mut stream, inbound, to.id, lane);
        match timeout(options.handshake_timeout, handshake).await {
            Ok(Ok(())) => {}
            Ok(Err(HandshakeError::RefusedByPeer(reason))) => {
                return Err(NetworkError::Refused { peer: to.id, reason });
            }
            Ok(Err(e)) => return Err(unreachable(to, format_args!("{address}: {e}"))),
            Err(_) => {
                let patience = options.handshake_timeout;
                let cause = format_args!("{address}: no handshake within {patience:?}");
                return Err(unreachable(to, cause));
            }
        }
        let now = Instant::now();
        Ok(Self {
            stream,
            proven: false,
            probe_at: now,
            owed_since: None,
            moved_at: now,
            answer_bytes: 0,
        })
    }

    /// Whether a probe is due; if so, the caller sends it.
    fn owes_probe(&mut self, options: &TcpOptions) -> bool {
        let now = Instant::now();
        let due = self.owed_since.is_none() && now >= self.probe_at;
        if due {
            self.owed_since = Some(now);
            self.probe_at = now + options.probe_interval;
        }
        due
    }

    /// Looks at what the peer has said, and at what it has not.
    async fn check(&mut self, options: &TcpOptions) -> Result<(), Fault> {
        self.listen()?;
        if self.is_silent(options) {
            match timeout(LAST_LOOK, self.stream.readable()).await {
                Ok(ready) => ready?,
                Err(_) => return Err(Fault::Silent(options.probe_timeout)),
            }
            self.listen()?;
            if self.is_silent(options) {
                return Err(Fault::Silent(options.probe_timeout));
            }
        }
        Ok(())
    }

    fn is_silent(&self, options: &TcpOptions) -> bool {
        self.owed_since
            .is_some_and(|since| since.max(self.moved_at).elapsed() > options.probe_timeout)
    }

    /// Takes the answers to probes that have arrived.
    fn listen(&mut self) -> Result<(), Fault> {
        let mut bytes = [0; 4 * PROBE.len()];
        loop {
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Err(Fault::Closed),
                Ok(n) => {
                    // An answer is all zeros.
                    if bytes[..n].iter().any(|byte| *byte != 0) {
                        return Err(Fault::Noise);
                    }
                    self.answer_bytes += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if is_close(&e) => return Err(Fault::Closed),
                Err(e) => return Err(e.into()),
            }
        }
        if self.answer_bytes >= PROBE.len() {
            self.answer_bytes -= PROBE.len();
            if self.owed_since.take().is_none() {
                return Err(Fault::Noise);
            }
            self.proven = true;
        }
        Ok(())
    }

    async fn write(&mut self, pieces: Vec<Bytes>, options: &TcpOptions) -> Result<(), Fault> {
        write_all(&self.stream, &pieces, options.write_timeout, &mut self.moved_at).await
    }
}

/// Writes all of `pieces`, of which none is empty, and notes in `moved_at` when a write that had stood
/// still went on. After an error, or if the future is dropped, the stream may end in half a frame: it
/// must not be used again.
pub(super) async fn write_all(
    stream: &TcpStream,
    pieces: &[Bytes],
    patience: Duration,
    moved_at: &mut Instant,
) -> Result<(), Fault> {
    let mut first = 0;
    let mut offset = 0;
    let mut waiting_since = None;
    while first < pieces.len() {
        match try_write(stream, &pieces[first..], offset) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(mut written) => {
                if waiting_since.take().is_some() {
                    *moved_at = Instant::now();
                }
                written += offset;
                while first < pieces.len() && written >= pieces[first].len() {
                    written -= pieces[first].len();
                    first += 1;
                }
                offset = written;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let since = *waiting_since.get_or_insert_with(Instant::now);
                match timeout_at(since + patience, stream.writable()).await {
                    Ok(ready) => ready?,
                    Err(_) => return Err(Fault::Stalled(patience)),
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Writes as much of `pieces`, without the first `offset` bytes, as the kernel takes at once.
fn try_write(stream: &TcpStream, pieces: &[Bytes], offset: usize) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
    let count = pieces.len().min(PIECES_PER_WRITE);
    slices[0] = IoSlice::new(&pieces[0][offset..]);
    for (slice, piece) in slices[1..count].iter_mut().zip(&pieces[1..count]) {
        *slice = IoSlice::new(piece);
    }
    stream.try_write_vectored(&slices[..count])
}

/// Whether the other end has gone, as opposed to a fault on the way to it.
fn is_close(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}
