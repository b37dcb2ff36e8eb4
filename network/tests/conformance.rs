//! Both networks of this crate pass the suite that it offers to others, and broken ones don't.

use std::sync::Arc;

use async_trait::async_trait;
use quorate_engine::{Batch, LogId, Message as Raft};
use quorate_network::conformance::{self, Fixture};
use quorate_network::{
    Envelope, InProcess, Inbound, Lane, Message, NetworkError, Peer, RaftNetwork,
};

struct OneProcess(InProcess);

#[async_trait]
impl Fixture for OneProcess {
    async fn start(&self, id: u64, inbound: Arc<dyn Inbound>) -> (Arc<dyn RaftNetwork>, Peer) {
        self.0.join(id, inbound);
        (Arc::new(self.0.clone()), Peer { id, address: format!("node-{id}") })
    }

    async fn stop(&self, id: u64) {
        self.0.leave(id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_in_process_network_conforms() {
    conformance::check(&OneProcess(InProcess::new())).await;
}

/// What a broken network does to messages on their way, and to the outcome.
type Breakage = fn(&mut Vec<Envelope>, &mut Result<(), NetworkError>);

/// A network with a planted bug.
struct Broken(InProcess, Breakage);

#[async_trait]
impl RaftNetwork for Broken {
    async fn send(
        &self,
        to: &Peer,
        lane: Lane,
        mut messages: Vec<Envelope>,
    ) -> Result<(), NetworkError> {
        (self.1)(&mut messages, &mut Ok(()));
        let mut sent = self.0.send(to, lane, messages).await;
        (self.1)(&mut Vec::new(), &mut sent);
        sent
    }
}

#[async_trait]
impl Fixture for Broken {
    async fn start(&self, id: u64, inbound: Arc<dyn Inbound>) -> (Arc<dyn RaftNetwork>, Peer) {
        let (_, peer) = OneProcess(self.0.clone()).start(id, inbound).await;
        (Arc::new(Broken(self.0.clone(), self.1)), peer)
    }

    async fn stop(&self, id: u64) {
        self.0.leave(id);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "a lane delivers in order")]
async fn a_network_that_reorders_is_found() {
    let reorder: Breakage = |messages, _| messages.reverse();
    conformance::check(&Broken(InProcess::new(), reorder)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "blocks arrive byte for byte")]
async fn a_network_that_alters_blocks_is_found() {
    let alter: Breakage = |messages, _| {
        for envelope in messages {
            if let Message::Raft(Raft::AppendEntries(append)) = &mut envelope.message {
                for block in &mut append.blocks {
                    // The same entry, encoded once more: not the same bytes.
                    let mut batch = Batch::new(block.codec() + 1);
                    block.entries().for_each(|payload| batch.push(payload));
                    *block = batch.seal(LogId::new(block.term(), block.first()));
                }
            }
        }
    };
    conformance::check(&Broken(InProcess::new(), alter)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "to a stopped node says Ok")]
async fn a_network_that_hides_a_dead_peer_is_found() {
    let hide: Breakage = |_, sent| *sent = Ok(());
    conformance::check(&Broken(InProcess::new(), hide)).await;
}

#[cfg(feature = "tcp")]
mod tcp {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use quorate_network::{TcpOptions, TcpTransport};

    use super::*;

    /// The transports that run, and the address that each id had first.
    #[derive(Default)]
    struct Loopback {
        running: Mutex<BTreeMap<u64, Arc<TcpTransport>>>,
        addresses: Mutex<BTreeMap<u64, String>>,
    }

    #[async_trait]
    impl Fixture for Loopback {
        async fn start(&self, id: u64, inbound: Arc<dyn Inbound>) -> (Arc<dyn RaftNetwork>, Peer) {
            let known = self.addresses.lock().unwrap().get(&id).cloned();
            let address = known.unwrap_or_else(|| "127.0.0.1:0".into());
            let transport = TcpTransport::bind(&address, TcpOptions::default()).await.unwrap();
            let transport = Arc::new(transport);
            let address = transport.local_addr().to_string();
            self.addresses.lock().unwrap().insert(id, address.clone());
            transport.start(inbound);
            self.running.lock().unwrap().insert(id, transport.clone());
            (transport, Peer { id, address })
        }

        async fn stop(&self, id: u64) {
            let transport = self.running.lock().unwrap().remove(&id);
            if let Some(transport) = transport {
                transport.shutdown().await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_tcp_transport_conforms() {
        conformance::check(&Loopback::default()).await;
    }
}
