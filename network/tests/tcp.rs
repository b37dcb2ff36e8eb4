//! The TCP transport among those who mean well: coming, going, moving, ending.

#![cfg(feature = "tcp")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_network::tcp::TcpOptions;
use quorate_network::{Envelope, Hello, Inbound, Lane, RaftNetwork, Refusal, TcpTransport};
use support::raw::{Raw, frame_of};
use support::{Host, PATIENCE, eventually, hello, note, parcel, peer};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

/// A transport with the host that it does not keep alive.
struct Node {
    transport: TcpTransport,
    _host: Arc<Host>,
}

impl std::ops::Deref for Node {
    type Target = TcpTransport;

    fn deref(&self) -> &TcpTransport {
        &self.transport
    }
}

async fn start(host: &Arc<Host>, address: &str, options: TcpOptions) -> Node {
    let transport = TcpTransport::bind(address, options).await.unwrap();
    transport.start(host.clone());
    Node { transport, _host: host.clone() }
}

async fn start_any(host: &Arc<Host>) -> Node {
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
    let (_connection, _) = timeout(PATIENCE, mute.accept()).await.unwrap().unwrap();
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
    let orphan = again.send(&peer(1, "127.0.0.1:1"), Lane::Control, vec![note(2, 1, 0)]).await;
    let error = orphan.unwrap_err().to_string();
    assert!(error.contains("host of this node is gone"), "{error}");
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
