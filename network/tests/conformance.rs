//! Both networks of this crate pass the suite that it offers to others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use quorate_network::conformance::{self, Fixture};
use quorate_network::{InProcess, Inbound, Peer, RaftNetwork};

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

#[cfg(feature = "tcp")]
mod tcp {
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
