//! The network of nodes that live in one process: tests, examples, benchmarks, an embedded cluster.
//!
//! A message is handed over as the value it is. Nothing is encoded, blocks are shared, and the
//! receiver's [`Inbound::receive`] has run when `send` returns. What a real network does to
//! messages is done on purpose, by the fault controls: a direction that is cut fails at once with
//! [`NetworkError::Unreachable`], as a TCP connection does when the other end is gone.
//!
//! `send` takes one read lock for as long as a lookup takes, and allocates nothing but the future
//! that the trait boxes. The lock is not held while the receiver runs, so a receiver may send,
//! join or cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use anyerror::AnyError;
use async_trait::async_trait;
use quorate_engine::NodeId;

use crate::message::{Envelope, Inbound, Lane, NetworkError, Peer, RaftNetwork};

/// Connects hosts of one process. A clone is the same network.
///
/// Hosts are found by their id; the address of a [`Peer`] is not looked at. There are no
/// connections, so nobody is asked for [`Inbound::hello`] or [`Inbound::admit`].
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use quorate_network::{Envelope, Hello, InProcess, Inbound, Lane, Message, Peer, RaftNetwork, Refusal};
///
/// #[derive(Default)]
/// struct Mailbox(Mutex<Vec<Envelope>>);
///
/// impl Inbound for Mailbox {
///     fn hello(&self, _: u64) -> Hello {
///         unreachable!("asked by transports with connections only")
///     }
///     fn admit(&self, _: &Hello) -> Result<(), Refusal> {
///         Ok(())
///     }
///     fn receive(&self, messages: Vec<Envelope>) {
///         self.0.lock().unwrap().extend(messages);
///     }
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let network = InProcess::new();
/// let two = Arc::new(Mailbox::default());
/// network.join(2, two.clone());
///
/// let to = Peer { id: 2, address: String::new() };
/// let question = quorate_engine::message::ReadIndex { term: 1, context: 7, lease: false };
/// let message = Message::Raft(quorate_engine::Message::ReadIndex(question));
/// let envelope = Envelope { cluster: 0, group: 0, from: 1, to: 2, incarnation: 0, message };
/// network.send(&to, Lane::Control, vec![envelope.clone()]).await.unwrap();
/// assert_eq!(two.0.lock().unwrap().len(), 1);
///
/// network.cut(1, 2);
/// assert!(network.send(&to, Lane::Control, vec![envelope]).await.is_err());
/// # });
/// ```
#[derive(Clone, Default)]
pub struct InProcess {
    state: Arc<RwLock<State>>,
}

#[derive(Default)]
struct State {
    /// Weak, because a host owns its network: neither must keep the other alive.
    hosts: BTreeMap<NodeId, Weak<dyn Inbound>>,
    /// Directions, from and to, that carry nothing.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Hosts that nothing reaches and nothing leaves, also from hosts that join later.
    isolated: BTreeSet<NodeId>,
}

impl State {
    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.isolated.contains(&from)
            || self.isolated.contains(&to)
            || self.cut.contains(&(from, to))
    }
}

impl InProcess {
    /// A network that nobody has joined.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on messages to `id` go to `inbound`, in place of whoever had the id before.
    ///
    /// Called when a host starts. The network keeps no host alive: when the caller's last `Arc` of
    /// it is gone, `id` is unreachable as after [`InProcess::leave`].
    pub fn join(&self, id: NodeId, inbound: Arc<dyn Inbound>) {
        self.write().hosts.insert(id, Arc::downgrade(&inbound));
    }

    /// From now on nobody answers to `id`. Nothing happens if nobody did.
    pub fn leave(&self, id: NodeId) {
        self.write().hosts.remove(&id);
    }

    /// Cuts one direction; the other is left as it is.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.write().cut.insert((from, to));
    }

    /// Cuts both directions between each node of `left` and each of `right`.
    pub fn partition(&self, left: &[NodeId], right: &[NodeId]) {
        let mut state = self.write();
        for &l in left {
            for &r in right {
                state.cut.insert((l, r));
                state.cut.insert((r, l));
            }
        }
    }

    /// Cuts `id` off from everyone, also from those who join later.
    pub fn isolate(&self, id: NodeId) {
        self.write().isolated.insert(id);
    }

    /// Mends every cut, partition and isolation.
    pub fn heal(&self) {
        let mut state = self.write();
        state.cut.clear();
        state.isolated.clear();
    }

    /// Who takes the messages that `from` sends to `to`, or why nobody does.
    fn route(&self, from: NodeId, to: NodeId) -> Result<Arc<dyn Inbound>, &'static str> {
        let state = self.read();
        if state.is_cut(from, to) {
            return Err("the network between the two is cut");
        }
        state.hosts.get(&to).and_then(Weak::upgrade).ok_or("it has not joined this network")
    }

    // No code runs under the lock that could panic halfway through a change, so a poisoned lock
    // still guards a whole state.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.read();
        f.debug_struct("InProcess")
            .field("hosts", &state.hosts.keys().collect::<Vec<_>>())
            .field("cut", &state.cut)
            .field("isolated", &state.isolated)
            .finish()
    }
}

#[async_trait]
impl RaftNetwork for InProcess {
    /// Runs the receiver's [`Inbound::receive`] before it returns; never waits.
    ///
    /// The sender is read from the first message: all messages of one call have the same.
    async fn send(
        &self,
        to: &Peer,
        _lane: Lane,
        messages: Vec<Envelope>,
    ) -> Result<(), NetworkError> {
        let Some(first) = messages.first() else { return Ok(()) };
        match self.route(first.from, to.id) {
            Ok(inbound) => {
                inbound.receive(messages);
                Ok(())
            }
            Err(cause) => {
                Err(NetworkError::Unreachable { peer: to.id, cause: AnyError::error(cause) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::message::{Hello, Message, Refusal};

    #[derive(Default)]
    struct Mailbox(Mutex<Vec<Envelope>>);

    impl Inbound for Mailbox {
        fn hello(&self, _: NodeId) -> Hello {
            unreachable!("there are no connections")
        }

        fn admit(&self, _: &Hello) -> Result<(), Refusal> {
            Ok(())
        }

        fn receive(&self, messages: Vec<Envelope>) {
            self.0.lock().unwrap().extend(messages);
        }
    }

    async fn reaches(network: &InProcess, from: NodeId, to: NodeId) -> bool {
        let message =
            Message::Raft(quorate_engine::Message::Stranger(quorate_engine::message::Stranger {
                refused: 9,
            }));
        let envelope = Envelope { cluster: 1, group: 2, from, to, incarnation: 3, message };
        let peer = Peer { id: to, address: String::new() };
        network.send(&peer, Lane::Control, vec![envelope]).await.is_ok()
    }

    fn three() -> (InProcess, [Arc<Mailbox>; 3]) {
        let network = InProcess::new();
        let hosts: [Arc<Mailbox>; 3] = Default::default();
        for (id, host) in (1..).zip(&hosts) {
            network.join(id, host.clone());
        }
        (network, hosts)
    }

    #[tokio::test]
    async fn a_cut_is_one_way_until_healed() {
        let (network, hosts) = three();
        network.cut(1, 2);
        assert!(!reaches(&network, 1, 2).await);
        assert!(reaches(&network, 2, 1).await);
        assert!(reaches(&network, 1, 3).await);
        network.heal();
        assert!(reaches(&network, 1, 2).await);
        assert_eq!(hosts[1].0.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_partition_cuts_both_ways_and_only_across() {
        let (network, _hosts) = three();
        network.partition(&[1], &[2, 3]);
        assert!(!reaches(&network, 1, 2).await && !reaches(&network, 3, 1).await);
        assert!(reaches(&network, 2, 3).await && reaches(&network, 3, 2).await);
    }

    #[tokio::test]
    async fn an_isolated_host_stays_so_for_those_who_join_later() {
        let (network, _hosts) = three();
        network.isolate(1);
        let four = Arc::new(Mailbox::default());
        network.join(4, four.clone());
        assert!(!reaches(&network, 1, 4).await && !reaches(&network, 4, 1).await);
        assert!(reaches(&network, 2, 4).await);
    }

    #[tokio::test]
    async fn a_dropped_host_is_unreachable_and_its_successor_is_found() {
        let (network, mut hosts) = three();
        hosts[1] = Arc::new(Mailbox::default());
        assert!(!reaches(&network, 1, 2).await);
        network.join(2, hosts[1].clone());
        assert!(reaches(&network, 1, 2).await);
        network.leave(2);
        assert!(!reaches(&network, 1, 2).await);
    }
}
