//! The TCP transport among those who mean well: coming, going, moving, ending.

#![cfg(feature = "tcp")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_network::tcp::TcpOptions;
use quorate_network::{Envelope, Hello, Inbound, Lane, RaftNetwork, Refusal, TcpTransport};
use support::raw::{Raw, frame_of};
use support::{Host, PATIENCE, eventually, hello, note, parcel, peer};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

async fn start(host: &Arc<Host>, address: &str, options: TcpOptions) -> TcpTransport {
    let transport = TcpTransport::bind(address, options).await.unwrap();
    transport.start(host.clone());
    transport
}

async fn start_any(host: &Arc<Host>) -> TcpTransport {
    start(host, "127.0.0.1:0", TcpOptions::default()).await
}

/// Options under which a pause after a failure outlasts every test.
fn long_pauses() -> TcpOptions {
    let mut options = TcpOptions::default();
    options.backoff_min = Duration::from_secs(600);
    options.backoff_max = Duration::from_secs(600);
    options
}

/// Sends notes from 1 to `id` until `done`.
async fn talk(transport: &TcpTransport, id: u64, address: &str, mut done: impl FnMut() -> bool) {
    let to = peer(id, address);
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "nobody hears node 1");
        let _lost = transport.send(&to, Lane::Control, vec![note(1, id, 0)]).await;
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_peer_that_restarts_is_found_again() {
    let one = start_any(&Host::new(1)).await;
    let mut address = "127.0.0.1:0".to_owned();
    for _ in 0..5 {
        let host = Host::new(2);
        let two = start(&host, &address, TcpOptions::default()).await;
        address = two.local_addr().to_string();
        talk(&one, 2, &address, || host.count() >= 3).await;
        two.shutdown().await;
        // While nobody listens, sends fail, and don't take long about it.
        let gone = async {
            let to = peer(2, &address);
            while one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await.is_ok() {}
        };
        timeout(PATIENCE, gone).await.expect("a dead peer still takes messages");
    }
}

#[tokio::test]
async fn a_peer_that_moves_is_found_at_its_new_address() {
    let one = start(&Host::new(1), "127.0.0.1:0", long_pauses()).await;
    let (old, new) = (Host::new(2), Host::new(2));
    let (at_old, at_new) = (start_any(&old).await, start_any(&new).await);
    let send = async |to: &TcpTransport, n| {
        one.send(&peer(2, to.local_addr()), Lane::Control, vec![note(1, 2, n)]).await
    };
    send(&at_old, 1).await.unwrap();
    eventually("the old address is served", || old.count() == 1).await;
    send(&at_new, 2).await.unwrap();
    eventually("the new address is served", || new.count() == 1).await;

    // A failure at one address is not held against another.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dead = one.send(&peer(2, nobody), Lane::Control, vec![note(1, 2, 3)]).await;
    assert!(dead.is_err());
    send(&at_new, 4).await.unwrap();
    eventually("the new address is served again", || new.count() == 2).await;
    assert_eq!(old.count(), 1);
}

#[tokio::test]
async fn names_are_looked_up() {
    let host = Host::new(2);
    let two = start_any(&host).await;
    let one = start_any(&Host::new(1)).await;
    let by_name = format!("localhost:{}", two.local_addr().port());
    talk(&one, 2, &by_name, || host.count() >= 1).await;
}

#[tokio::test]
async fn after_a_failure_sends_fail_at_once_and_knock_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let knocks = Arc::new(AtomicUsize::new(0));
    let door = tokio::spawn({
        let knocks = knocks.clone();
        async move {
            loop {
                drop(listener.accept().await.unwrap());
                knocks.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let one = start(&Host::new(1), "127.0.0.1:0", long_pauses()).await;
    let to = peer(2, address);
    let first = one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await.unwrap_err();
    for n in 0..50 {
        let again = one.send(&to, Lane::Control, vec![note(1, 2, n)]).await.unwrap_err();
        assert_eq!(again.to_string(), first.to_string());
    }
    assert_eq!(knocks.load(Ordering::Relaxed), 1);
    // Lanes fail separately.
    one.send(&to, Lane::Entries, vec![note(1, 2, 0)]).await.unwrap_err();
    assert_eq!(knocks.load(Ordering::Relaxed), 2);
    door.abort();
}

#[tokio::test]
async fn a_peer_that_admits_and_hangs_up_is_not_called_in_a_loop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let door = tokio::spawn({
        let calls = calls.clone();
        async move {
            loop {
                drop(Raw::accept(&listener, 2).await);
                calls.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let one = start(&Host::new(1), "127.0.0.1:0", long_pauses()).await;
    let to = peer(2, address);
    let until = Instant::now() + PATIENCE;
    while one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await.is_ok() {
        assert!(Instant::now() < until, "the end of the connection is not noticed");
        sleep(Duration::from_millis(2)).await;
    }
    for _ in 0..50 {
        one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await.unwrap_err();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    door.abort();
}

#[tokio::test]
async fn a_peer_that_connects_ends_the_pause() {
    let (one_host, two_host) = (Host::new(1), Host::new(2));
    let one = start(&one_host, "127.0.0.1:0", long_pauses()).await;
    let two = TcpTransport::bind("127.0.0.1:0", TcpOptions::default()).await.unwrap();
    let address = two.local_addr().to_string();
    two.shutdown().await;
    let to = peer(2, &address);
    one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await.unwrap_err();

    let two = start(&two_host, &address, TcpOptions::default()).await;
    one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await.unwrap_err();
    two.send(&peer(1, one.local_addr()), Lane::Control, vec![note(2, 1, 0)]).await.unwrap();
    eventually("node 1 hears of node 2", || one_host.count() == 1).await;
    one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await.unwrap();
    eventually("node 2 is reached", || two_host.count() == 1).await;
}

#[tokio::test]
async fn the_newest_connection_of_a_lane_takes_the_place_of_the_one_before() {
    let host = Host::new(2);
    let two = start_any(&host).await;
    let address = two.local_addr();
    let first = Raw::admitted(address, 1, 2, Lane::Control).await;
    let mut other_lane = Raw::admitted(address, 1, 2, Lane::Entries).await;
    let mut other_peer = Raw::admitted(address, 3, 2, Lane::Control).await;
    let mut second = Raw::admitted(address, 1, 2, Lane::Control).await;
    first.closed().await;
    second.say(&frame_of(&note(1, 2, 1))).await;
    other_lane.say(&frame_of(&note(1, 2, 2))).await;
    other_peer.say(&frame_of(&note(3, 2, 3))).await;
    eventually("the others stay", || host.count() == 3).await;
}

#[tokio::test]
async fn a_probe_is_answered_once_what_came_before_it_is_taken() {
    let host = Host::new(2);
    let two = start_any(&host).await;
    let mut raw = Raw::admitted(two.local_addr(), 1, 2, Lane::Control).await;
    for n in 1..=3 {
        let mut bytes = frame_of(&note(1, 2, n));
        bytes.extend([0; 8]);
        raw.say(&bytes).await;
        assert_eq!(raw.frame().await, [0; 0]);
        assert_eq!(host.count() as u64, n);
    }
}

#[tokio::test]
async fn a_connection_in_use_outlives_many_probes() {
    let mut options = long_pauses();
    options.probe_interval = Duration::from_millis(1);
    options.probe_timeout = Duration::from_secs(2);
    let host = Host::new(2);
    let two = start_any(&host).await;
    let one = start(&Host::new(1), "127.0.0.1:0", options).await;
    let to = peer(2, two.local_addr());
    // Any fault would begin a pause without end.
    for n in 0..200 {
        one.send(&to, Lane::Control, vec![note(1, 2, n)]).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    eventually("everything arrives", || host.count() == 200).await;
}

#[tokio::test]
async fn shutdown_leaves_no_task_no_port_and_no_connection() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let host = Host::new(2);
    let two = start_any(&host).await;
    let address = two.local_addr().to_string();
    let raw = Raw::admitted(&address, 1, 2, Lane::Control).await;
    let silent = Raw::connect(&address).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = peer(9, listener.local_addr().unwrap());
    let reader = tokio::spawn(async move { Raw::accept(&listener, 9).await.closed().await });
    two.send(&to, Lane::Control, vec![note(2, 9, 0)]).await.unwrap();

    tokio::join!(two.shutdown(), two.shutdown());
    let error = two.send(&to, Lane::Control, vec![note(2, 9, 0)]).await.unwrap_err();
    assert!(error.to_string().contains("shut down"), "{error}");
    reader.await.unwrap();
    raw.closed().await;
    silent.closed().await;
    two.shutdown().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
    start(&host, &address, TcpOptions::default()).await.shutdown().await;
}

#[tokio::test]
async fn shutdown_ends_a_send_that_waits() {
    let one = Arc::new(start_any(&Host::new(1)).await);
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = peer(2, mute.local_addr().unwrap());
    let waiting = tokio::spawn({
        let one = one.clone();
        async move { one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await }
    });
    let (_connection, _) = mute.accept().await.unwrap();
    one.shutdown().await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("shut down"), "{error}");
}

#[tokio::test]
async fn shutdown_before_the_start_gives_the_port_back() {
    let two = TcpTransport::bind("127.0.0.1:0", TcpOptions::default()).await.unwrap();
    let address = two.local_addr().to_string();
    let error = two.send(&peer(1, "127.0.0.1:1"), Lane::Control, vec![note(2, 1, 0)]).await;
    assert!(error.unwrap_err().to_string().contains("not started"));
    two.shutdown().await;
    let host = Host::new(2);
    two.start(host.clone());
    start(&host, &address, TcpOptions::default()).await.shutdown().await;
}

#[tokio::test]
async fn dropping_the_transport_or_its_host_closes_everything() {
    let host = Host::new(2);
    let two = start_any(&host).await;
    let raw = Raw::admitted(two.local_addr(), 1, 2, Lane::Control).await;
    let address = two.local_addr().to_string();
    drop(two);
    raw.closed().await;
    let until = Instant::now() + PATIENCE;
    let again = loop {
        match TcpTransport::bind(&address, TcpOptions::default()).await {
            Ok(transport) => break transport,
            Err(e) => assert!(Instant::now() < until, "{e}"),
        }
        sleep(Duration::from_millis(2)).await;
    };

    again.start(host.clone());
    let mut raw = Raw::admitted(&address, 1, 2, Lane::Control).await;
    assert_eq!(Arc::strong_count(&host), 1, "the transport keeps its host alive");
    drop(host);
    raw.try_say(&frame_of(&note(1, 2, 0))).await;
    raw.closed().await;
}

#[tokio::test]
async fn a_forgotten_peer_loses_its_connections() {
    let one = start_any(&Host::new(1)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = peer(2, listener.local_addr().unwrap());
    let reader = tokio::spawn(async move { Raw::accept(&listener, 2).await.closed().await });
    one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await.unwrap();
    one.forget(2);
    reader.await.unwrap();
}

#[tokio::test]
async fn a_dropped_send_gives_its_connection_up() {
    let one = start_any(&Host::new(1)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = peer(2, listener.local_addr().unwrap());
    let reader = tokio::spawn(async move {
        let mut raw = Raw::accept(&listener, 2).await;
        // Enough to know that it has begun.
        let mut start = [0; 1000];
        tokio::io::AsyncReadExt::read_exact(&mut raw.0, &mut start).await.unwrap();
        // Half a message is all there is, and then the end.
        (raw, listener)
    });
    let send = one.send(&to, Lane::Entries, vec![parcel(1, 2, 32 << 20)]);
    assert!(timeout(Duration::from_millis(200), send).await.is_err());
    let (raw, listener) = reader.await.unwrap();
    raw.closed().await;
    let reader = tokio::spawn(async move { Raw::accept(&listener, 2).await.frame().await });
    one.send(&to, Lane::Entries, vec![note(1, 2, 7)]).await.unwrap();
    let body = reader.await.unwrap();
    assert_eq!(Envelope::from_bytes(body.into()).unwrap(), note(1, 2, 7));
}

/// A host that breaks its promise not to panic.
struct Clumsy;

impl Inbound for Clumsy {
    fn hello(&self, to: u64) -> Hello {
        Hello { to, ..hello(2) }
    }

    fn admit(&self, _: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    fn receive(&self, messages: Vec<Envelope>) {
        assert!(messages != [note(1, 2, 13)], "a message of bad luck");
    }
}

#[tokio::test]
async fn a_panic_of_the_host_ends_one_connection() {
    let two = TcpTransport::bind("127.0.0.1:0", TcpOptions::default()).await.unwrap();
    let clumsy: Arc<dyn Inbound> = Arc::new(Clumsy);
    two.start(clumsy.clone());
    let mut unlucky = Raw::admitted(two.local_addr(), 1, 2, Lane::Control).await;
    let mut lucky = Raw::admitted(two.local_addr(), 1, 2, Lane::Entries).await;
    unlucky.say(&frame_of(&note(1, 2, 13))).await;
    unlucky.closed().await;
    lucky.say(&[frame_of(&note(1, 2, 1)), vec![0; 8]].concat()).await;
    assert_eq!(lucky.frame().await, [0; 0]);
    Raw::admitted(two.local_addr(), 1, 2, Lane::Control).await;
    two.shutdown().await;
}

/// Counts what is logged at `warn` and above, by text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<BTreeMap<String, usize>>>);

impl Log {
    fn count(&self, text: &str) -> usize {
        self.0.lock().unwrap().get(text).copied().unwrap_or(0)
    }
}

struct Text(Option<String>);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target().starts_with("quorate")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(None);
        event.record(&mut text);
        *self.0.lock().unwrap().entry(text.0.unwrap_or_default()).or_default() += 1;
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_peer_that_goes_and_returns_is_logged_once_each() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let mut options = TcpOptions::default();
    options.backoff_max = Duration::from_millis(20);
    options.probe_interval = Duration::from_millis(5);
    let one = start(&Host::new(1), "127.0.0.1:0", options).await;
    let mut address = "127.0.0.1:0".to_owned();
    for life in 0..3 {
        let host = Host::new(2);
        let two = start(&host, &address, TcpOptions::default()).await;
        address = two.local_addr().to_string();
        talk(&one, 2, &address, || {
            host.count() > 0 && log.count("peer can be reached again") == life
        })
        .await;
        two.shutdown().await;
        let mut sends = 0;
        talk(&one, 2, &address, || {
            sends += 1;
            sends > 30 && log.count("peer is gone") == life + 1
        })
        .await;
    }
    assert_eq!(log.count("peer is gone"), 3);
    assert_eq!(log.count("peer can be reached again"), 2);
}

#[tokio::test]
async fn whoever_is_refused_again_and_again_is_logged_once() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let host = Host::strict(2, |_| Err(Refusal("no".into())));
    let two = start_any(&host).await;
    for _ in 0..5 {
        let one = start_any(&Host::new(1)).await;
        let to = peer(2, two.local_addr());
        one.send(&to, Lane::Control, vec![note(1, 2, 0)]).await.unwrap_err();
    }
    assert_eq!(log.count("refused a connection"), 1);
}
