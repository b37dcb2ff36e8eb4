//! A suite that checks a [`RaftNetwork`] against what its page promises.
//!
//! For authors of networks. Say how a node of yours starts and stops, and call one function:
//!
//! ```
//! use std::sync::Arc;
//! use async_trait::async_trait;
//! use quorate_network::{InProcess, Inbound, Peer, RaftNetwork};
//! use quorate_network::conformance::{self, Fixture};
//!
//! struct OneProcess(InProcess);
//!
//! #[async_trait]
//! impl Fixture for OneProcess {
//!     async fn start(&self, id: u64, inbound: Arc<dyn Inbound>) -> (Arc<dyn RaftNetwork>, Peer) {
//!         self.0.join(id, inbound);
//!         (Arc::new(self.0.clone()), Peer { id, address: format!("node-{id}") })
//!     }
//!     async fn stop(&self, id: u64) {
//!         self.0.leave(id);
//!     }
//! }
//!
//! let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
//! runtime.block_on(conformance::check(&OneProcess(InProcess::new())));
//! ```
//!
//! A network may lose messages, and one that does so for no reason can't be told from a broken one:
//! the suite expects that on a healthy network nothing is lost, and allows for losses only around
//! what it breaks itself.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use quorate_engine::message::AppendEntries;
use quorate_engine::{Batch, EntryBlock, EntryKind, LogId, Message as Raft, NodeId};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};

use crate::message::{
    Envelope, Hello, Inbound, Lane, Message, NetworkError, PROTOCOL_VERSIONS, Peer, RaftNetwork,
    Refusal,
};

/// How long anything may take. A fixture that is slower fails; one that is quick waits for nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the suite gets nodes of your network.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// Starts node `id`, which hands to `inbound` what arrives, and says how others find it.
    ///
    /// After a [`stop`](Fixture::stop) of the same id the address must be the same again, as it is
    /// when a process restarts.
    async fn start(&self, id: NodeId, inbound: Arc<dyn Inbound>) -> (Arc<dyn RaftNetwork>, Peer);

    /// Stops node `id`. When this returns nobody answers at its address.
    async fn stop(&self, id: NodeId);
}

/// Runs every check of the suite, one after the other.
///
/// Needs a multi-threaded tokio runtime with time enabled: one check has a receiver that stands
/// still. Ids from 10 to 99 are used, each check with its own.
///
/// # Panics
/// When the network breaks a promise, with the name of the check.
pub async fn check<F: Fixture>(fixture: &F) {
    nothing_to_send_is_fine(fixture).await;
    a_lane_delivers_in_order(fixture).await;
    blocks_arrive_byte_for_byte(fixture).await;
    large_messages_arrive(fixture).await;
    lanes_and_peers_do_not_mix(fixture).await;
    a_lane_does_not_wait_for_another(fixture).await;
    an_unreachable_peer_is_an_error_within_a_bound(fixture).await;
    a_restarted_receiver_is_found_again(fixture).await;
    a_dropped_send_leaves_no_half_message(fixture).await;
}

/// A receiver that keeps what arrives.
#[derive(Default)]
struct Recorder {
    id: NodeId,
    arrived: Mutex<Vec<Envelope>>,
    /// While set, a thread that delivers something from [`Lane::Entries`] stands still.
    gate: Mutex<bool>,
    opened: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    fn new(id: NodeId) -> Arc<Self> {
        Arc::new(Self { id, ..Self::default() })
    }

    /// Waits until `enough` of what has arrived.
    async fn wait(&self, check: &str, enough: impl Fn(&[Envelope]) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !enough(&lock(&self.arrived)) {
            let count = lock(&self.arrived).len();
            assert!(Instant::now() < until, "{check}: only {count} messages arrived");
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn numbers(&self) -> Vec<u64> {
        lock(&self.arrived).iter().map(number).collect()
    }
}

impl Inbound for Recorder {
    fn hello(&self, to: NodeId) -> Hello {
        Hello {
            min_version: PROTOCOL_VERSIONS.0,
            max_version: PROTOCOL_VERSIONS.1,
            cluster_name: "conformance".into(),
            cluster: 1,
            from: self.id,
            to,
            incarnation: self.id,
            address: String::new(),
        }
    }

    fn admit(&self, _: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    fn receive(&self, messages: Vec<Envelope>) {
        let is_entries = |m| session(m) == session_of(Lane::Entries);
        if messages.iter().any(is_entries) && *lock(&self.gate) {
            // Not one of the runtime's own threads: it would keep others' tasks from running, and
            // what is checked is the network.
            block_in_place(|| {
                let mut closed = lock(&self.gate);
                while *closed {
                    closed = self.opened.wait(closed).unwrap_or_else(PoisonError::into_inner);
                }
            });
        }
        lock(&self.arrived).extend(messages);
    }
}

/// A message of the suite: `number` tells it from others, its session tells the lane.
fn message(from: NodeId, to: NodeId, lane: Lane, number: u64, blocks: Vec<EntryBlock>) -> Envelope {
    let append = AppendEntries {
        term: 1,
        session: session_of(lane),
        prev: LogId::ZERO,
        blocks,
        commit: number,
        promise: Duration::ZERO,
        witness: false,
    };
    let message = Message::Raft(Raft::AppendEntries(append));
    Envelope { cluster: 1, group: 0, from, to, incarnation: from, message }
}

fn session_of(lane: Lane) -> u64 {
    lane as u64 + 1
}

fn append(envelope: &Envelope) -> &AppendEntries {
    match &envelope.message {
        Message::Raft(Raft::AppendEntries(append)) => append,
        other => panic!("a message arrived that was never sent: {other:?}"),
    }
}

fn number(envelope: &Envelope) -> u64 {
    append(envelope).commit
}

fn session(envelope: &Envelope) -> u64 {
    append(envelope).session
}

/// A block of `bytes` bytes of payload that no other `number` has.
fn block(number: u64, bytes: usize) -> EntryBlock {
    let mut batch = Batch::with_capacity(EntryKind::Command, 0, bytes + 8);
    let payload: Vec<u8> =
        (0..bytes).map(|i| (i as u64 ^ number.wrapping_mul(167)) as u8).collect();
    batch.push(&payload);
    batch.seal(LogId::new(1, number + 1))
}

/// One node of the fixture.
struct Node {
    id: NodeId,
    recorder: Arc<Recorder>,
    network: Arc<dyn RaftNetwork>,
    peer: Peer,
}

impl Node {
    async fn start<F: Fixture>(fixture: &F, id: NodeId) -> Self {
        let recorder = Recorder::new(id);
        let (network, peer) = fixture.start(id, recorder.clone()).await;
        assert_eq!(peer.id, id, "the fixture started another node");
        Self { id, recorder, network, peer }
    }

    /// Sends, within the suite's patience.
    async fn send(
        &self,
        to: &Node,
        lane: Lane,
        messages: Vec<Envelope>,
    ) -> Result<(), NetworkError> {
        timeout(PATIENCE, self.network.send(&to.peer, lane, messages))
            .await
            .unwrap_or_else(|_| panic!("a send from {} to {} hangs", self.id, to.id))
    }

    /// Sends until the network takes it: the first connection may need more than one attempt.
    async fn insist(&self, check: &str, to: &Node, lane: Lane, messages: &[Envelope]) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.send(to, lane, messages.to_vec()).await {
                Ok(()) => return,
                Err(e) => assert!(Instant::now() < until, "{check}: {e}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The ids of each check are its own, so that nothing late from one reaches the next.
async fn nodes<F: Fixture, const N: usize>(fixture: &F, first: NodeId) -> [Node; N] {
    let mut nodes = Vec::new();
    for id in (first..).take(N) {
        nodes.push(Node::start(fixture, id).await);
    }
    let Ok(nodes) = nodes.try_into() else { unreachable!("as many as were asked for") };
    nodes
}

async fn stop<F: Fixture>(fixture: &F, nodes: &[Node]) {
    for node in nodes {
        fixture.stop(node.id).await;
    }
}

async fn nothing_to_send_is_fine<F: Fixture>(fixture: &F) {
    let [a, b] = nodes(fixture, 10).await;
    for lane in Lane::ALL {
        let sent = a.send(&b, lane, Vec::new()).await;
        assert!(sent.is_ok(), "an empty vector: {sent:?}");
    }
    assert!(lock(&b.recorder.arrived).is_empty(), "an empty vector: something arrived");
    stop(fixture, &[a, b]).await;
}

async fn a_lane_delivers_in_order<F: Fixture>(fixture: &F) {
    const CHECK: &str = "a lane delivers in order";
    let [a, b] = nodes(fixture, 20).await;
    let mut next = 0;
    for size in (0..300).map(|i| i % 7 + 1) {
        let messages: Vec<_> =
            (next..next + size).map(|n| message(a.id, b.id, Lane::Control, n, vec![])).collect();
        a.insist(CHECK, &b, Lane::Control, &messages).await;
        next += size;
    }
    b.recorder.wait(CHECK, |arrived| arrived.len() as u64 >= next).await;
    assert_eq!(b.recorder.numbers(), (0..next).collect::<Vec<_>>(), "{CHECK}");
    stop(fixture, &[a, b]).await;
}

async fn blocks_arrive_byte_for_byte<F: Fixture>(fixture: &F) {
    const CHECK: &str = "blocks arrive byte for byte";
    let [a, b] = nodes(fixture, 30).await;
    let sizes = [0, 1, 100, 4095, 4096, 5000, 65_536, 262_144];
    let blocks: Vec<_> = (0..).zip(sizes).map(|(n, bytes)| block(n, bytes)).collect();
    let mut sent: Vec<_> = (0..)
        .zip(&blocks)
        .map(|(n, block)| message(a.id, b.id, Lane::Entries, n, vec![block.clone()]))
        .collect();
    sent.push(message(a.id, b.id, Lane::Entries, 99, blocks));
    a.insist(CHECK, &b, Lane::Entries, &sent).await;
    b.recorder.wait(CHECK, |arrived| arrived.len() >= sent.len()).await;
    assert!(*lock(&b.recorder.arrived) == sent, "{CHECK}: something else arrived");
    stop(fixture, &[a, b]).await;
}

async fn large_messages_arrive<F: Fixture>(fixture: &F) {
    const CHECK: &str = "large messages arrive";
    let [a, b] = nodes(fixture, 40).await;
    let blocks: Vec<_> = (0..4).map(|n| block(n, 2 << 20)).collect();
    let sent: Vec<_> =
        (0..3).map(|n| message(a.id, b.id, Lane::Entries, n, blocks.clone())).collect();
    a.insist(CHECK, &b, Lane::Entries, &sent).await;
    b.recorder.wait(CHECK, |arrived| arrived.len() >= sent.len()).await;
    assert!(*lock(&b.recorder.arrived) == sent, "{CHECK}: something else arrived");
    stop(fixture, &[a, b]).await;
}

async fn lanes_and_peers_do_not_mix<F: Fixture>(fixture: &F) {
    const CHECK: &str = "lanes and peers do not mix";
    const COUNT: u64 = 200;
    let nodes: [Node; 3] = nodes(fixture, 50).await;
    let mut streams = Vec::new();
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.id != from.id) {
            for lane in Lane::ALL {
                streams.push(async move {
                    for n in 0..COUNT {
                        let blocks = vec![block(n, 1000)];
                        let messages = [message(from.id, to.id, lane, n, blocks)];
                        from.insist(CHECK, to, lane, &messages).await;
                    }
                });
            }
        }
    }
    join_all(streams).await;
    for to in &nodes {
        let expected = 2 * Lane::ALL.len() * COUNT as usize;
        to.recorder.wait(CHECK, |arrived| arrived.len() >= expected).await;
        for from in nodes.iter().filter(|from| from.id != to.id) {
            for lane in Lane::ALL {
                let arrived = lock(&to.recorder.arrived);
                let of_stream: Vec<_> = arrived
                    .iter()
                    .filter(|m| m.from == from.id && session(m) == session_of(lane))
                    .collect();
                assert!(of_stream.iter().all(|m| m.to == to.id), "{CHECK}: wrong address");
                let numbers: Vec<_> = of_stream.into_iter().map(number).collect();
                assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>(), "{CHECK}: {lane:?}");
            }
        }
    }
    stop(fixture, &nodes).await;
}

/// Runs all of `futures` in this task.
async fn join_all(futures: Vec<impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Keeps entries standing still until it is dropped; also when a check fails meanwhile, or the
/// runtime could never end.
struct Gate<'a>(&'a Recorder);

impl<'a> Gate<'a> {
    fn close(recorder: &'a Recorder) -> Self {
        *lock(&recorder.gate) = true;
        Self(recorder)
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        *lock(&self.0.gate) = false;
        self.0.opened.notify_all();
    }
}

async fn a_lane_does_not_wait_for_another<F: Fixture>(fixture: &F) {
    const CHECK: &str = "a lane does not wait for another";
    let [a, b] = nodes(fixture, 60).await;
    let gate = Gate::close(&b.recorder);
    let stuck = tokio::spawn({
        let (network, to) = (a.network.clone(), b.peer.clone());
        let entries = message(a.id, b.id, Lane::Entries, 1, vec![block(1, 1 << 20)]);
        async move { network.send(&to, Lane::Entries, vec![entries]).await }
    });
    for (n, lane) in [(2, Lane::Control), (3, Lane::Clients)] {
        let others = [message(a.id, b.id, lane, n, vec![])];
        a.insist(CHECK, &b, lane, &others).await;
    }
    let came_through = timeout(PATIENCE, async {
        while lock(&b.recorder.arrived).len() < 2 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    drop(gate);
    assert!(came_through.is_ok(), "{CHECK}: entries that stand still hold up the other lanes");
    let sent = stuck.await.expect("the task does not panic");
    assert!(sent.is_ok(), "{CHECK}: {sent:?}");
    b.recorder.wait(CHECK, |arrived| arrived.len() >= 3).await;
    stop(fixture, &[a, b]).await;
}

async fn an_unreachable_peer_is_an_error_within_a_bound<F: Fixture>(fixture: &F) {
    const CHECK: &str = "an unreachable peer is an error within a bound";
    let [a, b, c] = nodes(fixture, 70).await;
    fixture.stop(b.id).await;
    for lane in Lane::ALL {
        for n in 0..20 {
            // Both: it returns, and with an error, for nobody has the messages.
            let sent = a.send(&b, lane, vec![message(a.id, b.id, lane, n, vec![])]).await;
            assert!(sent.is_err(), "{CHECK}: {lane:?} to a stopped node says Ok");
        }
        let messages = [message(a.id, c.id, lane, 1, vec![])];
        a.insist(CHECK, &c, lane, &messages).await;
    }
    c.recorder.wait(CHECK, |arrived| arrived.len() >= Lane::ALL.len()).await;
    stop(fixture, &[a, c]).await;
}

async fn a_restarted_receiver_is_found_again<F: Fixture>(fixture: &F) {
    const CHECK: &str = "a restarted receiver is found again";
    let [a, mut b] = nodes(fixture, 80).await;
    for life in 0..3 {
        // What is sent around the restart may be lost, so keep talking.
        let until = Instant::now() + PATIENCE;
        let mut n = 0;
        while b.recorder.numbers().len() < 10 {
            assert!(Instant::now() < until, "{CHECK}: nothing arrives in life {life}");
            let envelope = message(a.id, b.id, Lane::Control, life * 1_000_000 + n, vec![]);
            let _lost = a.send(&b, Lane::Control, vec![envelope]).await;
            n += 1;
            sleep(Duration::from_millis(1)).await;
        }
        let numbers = b.recorder.numbers();
        assert!(numbers.is_sorted(), "{CHECK}: out of order: {numbers:?}");
        let address = b.peer.address.clone();
        fixture.stop(b.id).await;
        b = Node::start(fixture, b.id).await;
        assert_eq!(b.peer.address, address, "the fixture moved a node");
    }
    stop(fixture, &[a, b]).await;
}

async fn a_dropped_send_leaves_no_half_message<F: Fixture>(fixture: &F) {
    const CHECK: &str = "a dropped send leaves no half message";
    let [a, b] = nodes(fixture, 90).await;
    let large = block(7, 4 << 20);
    let mut last = 0;
    for n in 0..60 {
        let envelope = message(a.id, b.id, Lane::Entries, n, vec![large.clone()]);
        if n % 3 == 2 {
            a.insist(CHECK, &b, Lane::Entries, &[envelope]).await;
            last = n;
        } else {
            // From "hardly begun" to "nearly done".
            let send = a.network.send(&b.peer, Lane::Entries, vec![envelope]);
            let _dropped = timeout(Duration::from_micros(n * n * 3), send).await;
        }
    }
    b.recorder.wait(CHECK, |arrived| arrived.iter().any(|m| number(m) == last)).await;
    for envelope in &*lock(&b.recorder.arrived) {
        let whole = append(envelope).blocks == [large.clone()];
        assert!(whole, "{CHECK}: message {} is not what was sent", number(envelope));
    }
    stop(fixture, &[a, b]).await;
}
