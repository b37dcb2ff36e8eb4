//! What the TCP transport writes to the log: transitions, not repetitions.
//!
//! A file of its own because it sets the log of the whole process.

#![cfg(feature = "tcp")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_network::tcp::TcpOptions;
use quorate_network::{Lane, RaftNetwork, Refusal, TcpTransport};
use support::{Host, PATIENCE, note, peer};
use tokio::time::{Instant, sleep};

/// How often each text was logged at `warn` or above, by the node it is about.
static LOG: Mutex<BTreeMap<(String, u64), usize>> = Mutex::new(BTreeMap::new());

fn logged(text: &str, node: u64) -> usize {
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    log.get(&(text.to_owned(), node)).copied().unwrap_or(0)
}

struct Logger;

impl Logger {
    fn install() {
        // Whichever test is first.
        let _installed = tracing::subscriber::set_global_default(Logger);
    }
}

#[derive(Default)]
struct Fields {
    text: String,
    node: u64,
}

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.text = format!("{value:?}");
        }
    }

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        if field.name() == "node" {
            self.node = value;
        }
    }
}

impl tracing::Subscriber for Logger {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target().starts_with("quorate")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        *log.entry((fields.text, fields.node)).or_default() += 1;
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

async fn start(host: &Arc<Host>, address: &str, options: TcpOptions) -> TcpTransport {
    let transport = TcpTransport::bind(address, options).await.unwrap();
    transport.start(host.clone());
    transport
}

/// Sends notes from 1 to 2 until `done`.
async fn talk(transport: &TcpTransport, address: &str, mut done: impl FnMut() -> bool) {
    let to = peer(2, address);
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{:?}", LOG.lock());
        let _lost = transport.send(&to, Lane::Control, vec![note(1, 2, 0)]).await;
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_peer_that_goes_and_returns_is_logged_once_each() {
    Logger::install();
    let gone = || logged("peer is gone", 1);
    let back = || logged("peer can be reached again", 1);
    let mut options = TcpOptions::default();
    options.backoff_max = Duration::from_millis(20);
    options.probe_interval = Duration::from_millis(5);
    let one_host = Host::new(1);
    let one = start(&one_host, "127.0.0.1:0", options).await;
    let mut address = "127.0.0.1:0".to_owned();
    for life in 0..3 {
        let host = Host::new(2);
        let two = start(&host, &address, TcpOptions::default()).await;
        address = two.local_addr().to_string();
        talk(&one, &address, || host.count() > 0 && back() == life).await;
        two.shutdown().await;
        let mut sends = 0;
        talk(&one, &address, || {
            sends += 1;
            sends > 30 && gone() == life + 1
        })
        .await;
    }
    assert_eq!((gone(), back()), (3, 2));
}

#[tokio::test]
async fn whoever_is_refused_again_and_again_is_logged_once() {
    Logger::install();
    let host = Host::strict(22, |_| Err(Refusal("no".into())));
    let two = start(&host, "127.0.0.1:0", TcpOptions::default()).await;
    let eleven = Host::new(11);
    for _ in 0..5 {
        let one = start(&eleven, "127.0.0.1:0", TcpOptions::default()).await;
        let to = peer(22, two.local_addr());
        one.send(&to, Lane::Control, vec![note(11, 22, 0)]).await.unwrap_err();
    }
    assert_eq!(logged("refused a connection", 0), 1);
    // One for each of its five lives.
    assert_eq!(logged("peer is gone", 11), 5);
}
