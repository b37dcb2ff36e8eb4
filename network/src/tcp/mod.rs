//! The TCP transport.
//!
//! Each node listens on one port. For each peer and [`Lane`] it opens one connection and writes to
//! it; what the peer has to say comes over connections that the peer opens. So no lane waits for
//! another, and the two directions fail separately, as messages are allowed to. Clients, which are no
//! members, connect to the same port, and are answered on the connection that they have opened.
//!
//! | subject | file |
//! |---|---|
//! | who is there: versions, cluster, ids | `handshake.rs` |
//! | the stream: lengths, checksums, probes | `frame.rs` |
//! | connecting, pausing, writing, giving up | `outgoing.rs` |
//! | accepting, limits, reading | `incoming.rs` |
//! | serving clients, on connections in both directions | `calls.rs` |
//! | a client's end of such a connection | `client.rs` |
//! | what can be set | `options.rs` |
//!
//! There is no encryption and no proof of identity: the handshake keeps mistakes out, a wrong
//! address, another cluster, a wiped disk, not an attacker who knows the protocol. Whoever can
//! reach the port can harm the cluster. Use a private network.

mod calls;
mod client;
mod frame;
mod handshake;
mod incoming;
mod options;
mod outgoing;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use anyerror::AnyError;
use async_trait::async_trait;
use quorate_engine::NodeId;
use tokio::net::TcpListener;
use tokio::select;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::message::{Envelope, Inbound, Lane, NetworkError, Peer, RaftNetwork, Refusal};
use outgoing::Link;

pub use client::{CallReceiver, CallSender, ClientConnection, ClientError};
pub use frame::{from_frames, to_frames};
pub use options::TcpOptions;

/// A port, and connections to the ports of others. See the [module](self).
///
/// A host binds one, then starts it with itself as the receiver. Peers are found at
/// [`Peer::address`], `host:port`, whose name is looked up each time a connection is opened.
///
/// Stops when it is dropped; [`TcpTransport::shutdown`] also waits for the end of every task.
pub struct TcpTransport {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    /// Held by `shutdown` while it waits.
    state: tokio::sync::Mutex<State>,
}

enum State {
    Bound(TcpListener),
    /// The listening task, which ends after the tasks of all connections.
    Running(JoinHandle<()>),
    Stopped,
}

/// The port can't be had.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}: {source}; {}", remedy(source))]
pub struct BindError {
    address: String,
    source: io::Error,
}

impl BindError {
    /// What the system says.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

fn remedy(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::AddrInUse => "stop the process that has the port, or choose another",
        io::ErrorKind::AddrNotAvailable => "choose an address that this machine has",
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or ask for the permission",
        _ => "give host:port of this machine, such as 127.0.0.1:7001",
    }
}

fn places_of_clients(options: &TcpOptions) -> usize {
    options.max_clients.min(Semaphore::MAX_PERMITS)
}

impl TcpTransport {
    /// Takes the port. `address` is `host:port`; port 0 lets the system choose, see
    /// [`TcpTransport::local_addr`].
    ///
    /// Connections wait from now on, and are served after [`TcpTransport::start`].
    ///
    /// # Errors
    /// The port is taken or not this machine's, or the name can't be resolved.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time.
    pub async fn bind(address: &str, options: TcpOptions) -> Result<Self, BindError> {
        let error = |source| BindError { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let local_addr = listener.local_addr().map_err(error)?;
        let client_places = Arc::new(Semaphore::new(places_of_clients(&options)));
        let shared = Arc::new(Shared {
            options,
            inbound: OnceLock::new(),
            stop: CancellationToken::new(),
            links: Mutex::default(),
            client_places,
            incoming: Mutex::default(),
            entered: AtomicU64::new(0),
            last_refusal: Mutex::default(),
        });
        Ok(Self { shared, local_addr, state: tokio::sync::Mutex::new(State::Bound(listener)) })
    }

    /// Where this transport listens, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves connections, and hands to `inbound` what arrives. Until then `send` fails.
    ///
    /// Called once, by the host. Keeps no host alive: after the last `Arc` of it is gone,
    /// connections are closed. Nothing happens after [`TcpTransport::shutdown`].
    ///
    /// # Panics
    /// If called twice, or outside of a tokio runtime.
    pub fn start(&self, inbound: Arc<dyn Inbound>) {
        // Only a shutdown that runs at this moment can hold the lock.
        let Ok(mut state) = self.state.try_lock() else { return };
        match std::mem::replace(&mut *state, State::Stopped) {
            State::Bound(listener) => {
                self.shared.inbound.get_or_init(|| Arc::downgrade(&inbound));
                let listening = incoming::listen(listener, self.shared.clone());
                *state = State::Running(tokio::spawn(listening));
            }
            State::Running(_) => panic!("a transport is started once"),
            State::Stopped => {}
        }
    }

    /// How many clients are connected: through with the handshake, and not gone.
    pub fn clients(&self) -> usize {
        let Shared { options, client_places, .. } = &*self.shared;
        places_of_clients(options) - client_places.available_permits()
    }

    /// Closes the port and every connection, and returns when no task of the transport is left.
    ///
    /// A `send` under way fails, as does any later one. May be called again, also at the same time.
    /// If the future is dropped the tasks end all the same.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.links().clear();
        let mut state = self.state.lock().await;
        if let State::Running(listening) = &mut *state {
            if let Err(error) = listening.await {
                tracing::error!(%error, "the listening task has failed");
            }
        }
        *state = State::Stopped;
    }

    /// Closes the connections to `peer`, which is no member any more. A later `send` opens new
    /// ones.
    pub fn forget(&self, peer: NodeId) {
        self.shared.links().remove(&peer);
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl std::fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpTransport").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

#[async_trait]
impl RaftNetwork for TcpTransport {
    /// Returns when the kernel has taken the messages.
    ///
    /// Opens a connection if there is none; after a failure it fails at once, with the same error,
    /// for as long as [`TcpOptions::backoff_max`] at most. Takes no longer than connecting,
    /// handshake and a write that stands still may take together. An envelope that is too large is
    /// left out, the others are sent.
    ///
    /// A dropped future takes the connection with it; the next call opens a new one.
    async fn send(
        &self,
        to: &Peer,
        lane: Lane,
        messages: Vec<Envelope>,
    ) -> Result<(), NetworkError> {
        if messages.is_empty() {
            return Ok(());
        }
        let cannot =
            |cause: &str| NetworkError::Unreachable { peer: to.id, cause: AnyError::error(cause) };
        let Some(inbound) = self.shared.inbound.get() else {
            return Err(cannot("this transport is not started"));
        };
        let inbound = inbound.upgrade().ok_or_else(|| cannot("the host of this node is gone"))?;
        let is_shut_down = || cannot("this transport is shut down");
        let link = self.shared.link(to.id, &*inbound).ok_or_else(is_shut_down)?;
        select! {
            biased;
            sent = link.send(to, lane, &messages, &*inbound, &self.shared.options) => sent,
            () = self.shared.stop.cancelled() => Err(is_shut_down()),
        }
    }
}

/// What `send` and the tasks have in common.
struct Shared {
    options: TcpOptions,
    /// The host. Weak, because the host owns the transport.
    inbound: OnceLock<Weak<dyn Inbound>>,
    /// Cancelled by shutdown or drop; everything ends then.
    stop: CancellationToken,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    /// One for each client that may be connected.
    client_places: Arc<Semaphore>,
    /// The connection that counts, for each lane of each peer.
    incoming: Mutex<BTreeMap<(NodeId, Lane), Entered>>,
    /// How many connections have ever entered `incoming`.
    entered: AtomicU64,
    /// What was logged last, since whoever is refused comes again.
    last_refusal: Mutex<Option<Refusal>>,
}

/// A connection from a peer that counts until another takes its place.
struct Entered {
    /// Tells this one from its successor.
    number: u64,
    replaced: CancellationToken,
}

// None of these locks is held while foreign code runs or a task waits, and no change under them can
// stop halfway, so a poisoned one still guards a whole state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn inbound(&self) -> Option<Arc<dyn Inbound>> {
        self.inbound.get()?.upgrade()
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Link>>> {
        lock(&self.links)
    }

    /// The link to `peer`; none after shutdown.
    fn link(&self, peer: NodeId, inbound: &dyn Inbound) -> Option<Arc<Link>> {
        if let Some(link) = self.links().get(&peer) {
            return Some(link.clone());
        }
        let node = inbound.hello(peer).from;
        let mut links = self.links();
        // Asked under the lock: shutdown stops first and empties the map afterwards.
        if self.stop.is_cancelled() {
            return None;
        }
        let new = || Arc::new(Link::new(node, peer, &self.options));
        Some(links.entry(peer).or_insert_with(new).clone())
    }

    /// A connection of `peer` has come through its handshake and takes the place of the one before.
    fn enter(&self, peer: NodeId, lane: Lane) -> Turn<'_> {
        if let Some(link) = self.links().get(&peer) {
            link.heard();
        }
        let replaced = CancellationToken::new();
        let mut incoming = lock(&self.incoming);
        let number = self.entered.fetch_add(1, Ordering::Relaxed);
        let entered = Entered { number, replaced: replaced.clone() };
        let before = incoming.insert((peer, lane), entered);
        drop(incoming);
        if let Some(before) = before {
            before.replaced.cancel();
        }
        Turn { shared: self, key: (peer, lane), number, replaced }
    }

    fn is_new_refusal(&self, refusal: &Refusal) -> bool {
        let mut last = lock(&self.last_refusal);
        let is_new = last.as_ref() != Some(refusal);
        if is_new {
            *last = Some(refusal.clone());
        }
        is_new
    }
}

/// The place of a connection among those that count; given up when dropped.
struct Turn<'a> {
    shared: &'a Shared,
    key: (NodeId, Lane),
    number: u64,
    replaced: CancellationToken,
}

impl Turn<'_> {
    fn replaced(&self) -> &CancellationToken {
        &self.replaced
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut incoming = lock(&self.shared.incoming);
        if incoming.get(&self.key).is_some_and(|entered| entered.number == self.number) {
            incoming.remove(&self.key);
        }
    }
}
