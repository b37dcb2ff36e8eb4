//! What is thrown at the port, and what peers do that mean no harm and have gone wrong.

#![cfg(feature = "tcp")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use proptest::test_runner::{RngAlgorithm, TestRng};
use prost::Message as _;
use quorate_network::tcp::TcpOptions;
use quorate_network::{Lane, NetworkError, RaftNetwork, Refusal, TcpTransport};
use support::raw::{PREAMBLE, Raw, frame, frame_of, opening, wire_hello};
use support::{Host, eventually, hello, note, parcel, peer};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

async fn start(host: &Arc<Host>, options: TcpOptions) -> TcpTransport {
    let transport = TcpTransport::bind("127.0.0.1:0", options).await.unwrap();
    transport.start(host.clone());
    transport
}

/// Node 2 with a recording host.
async fn node_2() -> (Arc<Host>, TcpTransport) {
    let host = Host::new(2);
    let transport = start(&host, TcpOptions::default()).await;
    (host, transport)
}

/// What becomes of a message from `from` to the node that `to` listens as.
async fn send_from(from: &Arc<Host>, id: u64, to: &TcpTransport) -> Result<(), NetworkError> {
    let transport = start(from, TcpOptions::default()).await;
    let me = from.hello.from;
    transport.send(&peer(id, to.local_addr()), Lane::Control, vec![note(me, id, 1)]).await
}

fn reason(sent: Result<(), NetworkError>) -> String {
    match sent {
        Err(NetworkError::Refused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// The transport still serves those who behave.
async fn assert_serves(host: &Host, transport: &TcpTransport) {
    let before = host.count();
    let sent = send_from(&Host::new(3), 2, transport).await;
    assert!(sent.is_ok(), "{sent:?}");
    eventually("a well-behaved peer is served", || host.count() > before).await;
}

#[tokio::test]
async fn another_cluster_name_is_refused_in_the_hosts_words() {
    let host = Host::strict(2, |hello| match &*hello.cluster_name {
        "shop" => Ok(()),
        other => Err(Refusal(format!("this is cluster shop, not {other}; check the config"))),
    });
    let transport = start(&host, TcpOptions::default()).await;
    let mut shed = hello(1);
    shed.cluster_name = "shed".into();
    let sent = send_from(&Host::saying(shed, |_| Ok(())), 2, &transport).await;
    assert_eq!(reason(sent), "this is cluster shop, not shed; check the config");
    assert_eq!(host.count(), 0);
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn another_incarnation_is_refused_in_the_hosts_words() {
    let host = Host::strict(2, |hello| match hello.incarnation {
        100 | 300 => Ok(()),
        _ => Err(Refusal("node 1 is known with another data directory".into())),
    });
    let transport = start(&host, TcpOptions::default()).await;
    let mut wiped = hello(1);
    wiped.incarnation = 555;
    let sent = send_from(&Host::saying(wiped, |_| Ok(())), 2, &transport).await;
    assert!(reason(sent).contains("another data directory"));
    assert_eq!(host.count(), 0);
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn a_refusal_by_the_connecting_side_sends_nothing() {
    let (host, transport) = node_2().await;
    let picky = Host::strict(1, |_| Err(Refusal("not that one".into())));
    let sent = send_from(&picky, 2, &transport).await.unwrap_err();
    assert!(sent.to_string().contains("not that one"), "{sent}");
    assert_serves(&host, &transport).await;
    assert_eq!(host.count(), 1);
}

#[tokio::test]
async fn a_hello_too_long_for_a_handshake_says_so() {
    let (host, transport) = node_2().await;
    let mut wordy = hello(1);
    wordy.cluster_name = "shop".repeat(2000);
    let sent = send_from(&Host::saying(wordy, |_| Ok(())), 2, &transport).await.unwrap_err();
    assert!(sent.to_string().contains("shorten them"), "{sent}");
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn the_wrong_node_at_an_address_is_found_out() {
    let (host, transport) = node_2().await;
    let sent = send_from(&Host::new(1), 9, &transport).await;
    assert!(reason(sent).contains("this is node 2, not node 9"));
    assert_eq!(host.count(), 0);

    // One that doesn't look at whom the caller expects is found out by the caller.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let careless = tokio::spawn(async move { Raw::accept(&listener, 4).await.closed().await });
    let one = Host::new(1);
    let transport = start(&one, TcpOptions::default()).await;
    let sent = transport.send(&peer(9, address), Lane::Control, vec![note(1, 9, 1)]).await;
    let error = sent.unwrap_err().to_string();
    assert!(error.contains("node 4 answers where node 9 should be"), "{error}");
    careless.await.unwrap();
}

#[tokio::test]
async fn versions_that_do_not_overlap_are_refused_by_both_sides() {
    let (host, transport) = node_2().await;
    let mut newer = hello(1);
    (newer.min_version, newer.max_version) = (5, 6);
    let sent = send_from(&Host::saying(newer, |_| Ok(())), 2, &transport).await;
    let reason = reason(sent);
    assert!(reason.contains("versions 5 to 6") && reason.contains("upgrade"), "{reason}");
    assert_eq!(host.count(), 0);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let future = tokio::spawn(async move {
        let hello = |from| support::raw::WireHello {
            min_version: 9,
            max_version: 9,
            ..wire_hello(4, from)
        };
        Raw::accept_saying(&listener, hello).await.closed().await;
    });
    let one = Host::new(1);
    let transport = start(&one, TcpOptions::default()).await;
    let sent = transport.send(&peer(4, address), Lane::Control, vec![note(1, 4, 1)]).await;
    assert!(sent.unwrap_err().to_string().contains("versions 9 to 9"));
    future.await.unwrap();
}

#[tokio::test]
async fn an_announced_frame_of_4_gib_closes_the_connection() {
    let (host, transport) = node_2().await;
    let address = transport.local_addr();

    let mut stranger = Raw::connect(address).await;
    stranger.say(PREAMBLE).await;
    stranger.say(&[0xff; 8]).await;
    stranger.closed().await;

    let mut admitted = Raw::admitted(address, 1, 2, Lane::Entries).await;
    admitted.say(&frame_of(&note(1, 2, 5))).await;
    admitted.say(&[0xff; 8]).await;
    admitted.closed().await;
    // What came before it was whole.
    assert_eq!(host.arrived(), [note(1, 2, 5)]);
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn a_stranger_may_send_no_more_than_tiny_frames() {
    let (host, transport) = node_2().await;
    let mut stranger = Raw::connect(transport.local_addr()).await;
    stranger.say(PREAMBLE).await;
    stranger.say(&4097u32.to_le_bytes()).await;
    stranger.say(&[0; 4]).await;
    stranger.closed().await;
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn a_flipped_byte_in_a_frame_closes_the_connection() {
    let (host, transport) = node_2().await;
    let whole = frame_of(&parcel(1, 2, 100));
    // Each byte of the head and some of the body. A length that became larger waits for more, so
    // enough follows to complete it, and its checksum is wrong; or it is over the limit.
    let at = (0..8).chain((8..whole.len()).step_by(17));
    for (n, at) in at.enumerate() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (n % 8);
        let mut raw = Raw::admitted(transport.local_addr(), 1, 2, Lane::Entries).await;
        raw.say(&frame_of(&note(1, 2, n as u64))).await;
        raw.try_say(&flipped).await;
        raw.try_say(&vec![1; 1 << 20]).await;
        raw.closed().await;
        eventually("what came before is delivered", || host.count() == n + 1).await;
    }
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn a_message_in_anothers_name_closes_the_connection() {
    let (host, transport) = node_2().await;
    let mut raw = Raw::admitted(transport.local_addr(), 1, 2, Lane::Control).await;
    raw.say(&frame_of(&note(1, 2, 1))).await;
    raw.say(&frame_of(&note(4, 2, 2))).await;
    raw.try_say(&frame_of(&note(1, 2, 3))).await;
    raw.closed().await;
    assert_eq!(host.arrived(), [note(1, 2, 1)]);
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn a_frame_that_is_no_envelope_closes_the_connection() {
    let (host, transport) = node_2().await;
    for body in [&b"x"[..], b"QE\x02\0\0\0\0\0", b"QE\x01\0\xff\0\0\0", &[0; 4000]] {
        let mut raw = Raw::admitted(transport.local_addr(), 1, 2, Lane::Control).await;
        raw.say(&frame(body)).await;
        raw.closed().await;
    }
    assert_eq!(host.count(), 0);
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn a_message_of_a_newer_release_is_passed_over() {
    let (host, transport) = node_2().await;
    let mut raw = Raw::admitted(transport.local_addr(), 1, 2, Lane::Control).await;
    // from 1, and a message under tag 40, which no kind has.
    let header = [0x18, 1, 0xc2, 0x02, 2, 0x08, 1];
    let mut newer = b"QE\x01\0".to_vec();
    newer.extend((header.len() as u32).to_le_bytes());
    newer.extend(header);
    for n in 0..3 {
        raw.say(&frame(&newer)).await;
        raw.say(&frame_of(&note(1, 2, n))).await;
    }
    eventually("the others arrive", || host.count() == 3).await;
}

#[tokio::test]
async fn garbage_on_the_port_is_survived() {
    const CONNECTIONS: usize = 400;
    let (host, transport) = node_2().await;
    let address = transport.local_addr();
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[42; 32]);
    let mut garbage = move |most: usize| {
        use proptest::prelude::RngCore as _;
        let mut bytes = vec![0; random.next_u32() as usize % most];
        random.fill_bytes(&mut bytes);
        bytes
    };
    for n in 0..CONNECTIONS {
        let from = 10 + n as u64;
        let mut raw = match n % 6 {
            5 => Raw::admitted(address, from, 2, Lane::Entries).await,
            _ => Raw::connect(address).await,
        };
        match n % 6 {
            0 => raw.try_say(&garbage(3000)).await,
            1 => raw.try_say(b"GET / HTTP/1.1\r\nHost: quorate\r\n\r\n").await,
            2 => raw.try_say(&[&PREAMBLE[..], &garbage(3000)].concat()).await,
            3 => raw.try_say(&[&PREAMBLE[..], &frame(&garbage(3000))].concat()).await,
            4 => {
                let mut opening = opening(from, 2, Lane::Control);
                let at = n / 6 % opening.len();
                opening[at] ^= 1 << (n % 8);
                raw.try_say(&opening).await;
            }
            _ => {
                raw.try_say(&frame(&garbage(3000))).await;
                raw.try_say(&garbage(3000)).await;
            }
        }
        // Nothing more will come; then there is nothing to keep the connection for.
        let _may_have_closed = tokio::io::AsyncWriteExt::shutdown(&mut raw.0).await;
        raw.closed().await;
    }
    assert_eq!(host.count(), 0);
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_times_out_on_both_sides() {
    let mut options = TcpOptions::default();
    options.handshake_timeout = Duration::from_millis(100);
    let host = Host::new(2);
    let transport = start(&host, options.clone()).await;
    let opening = opening(1, 2, Lane::Control);
    for said in [0, 3, 8, 12, 20, opening.len() - 1] {
        let mut raw = Raw::connect(transport.local_addr()).await;
        raw.say(&opening[..said]).await;
        raw.closed().await;
    }
    assert_serves(&host, &transport).await;

    // A kernel that accepts for a process that does not.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = peer(9, mute.local_addr().unwrap());
    let sent = timeout(support::PATIENCE, transport.send(&to, Lane::Control, vec![note(2, 9, 1)]));
    let error = sent.await.expect("send hangs").unwrap_err().to_string();
    assert!(error.contains("no handshake within 100ms"), "{error}");
}

#[tokio::test]
async fn a_peer_that_stops_reading_fails_its_own_sends_only() {
    let mut options = TcpOptions::default();
    options.write_timeout = Duration::from_millis(300);
    let one = Host::new(1);
    let transport = start(&one, options).await;
    let (healthy, other) = node_2().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung = peer(9, listener.local_addr().unwrap());
    let accepted = tokio::spawn(async move { (Raw::accept(&listener, 9).await, listener) });

    let parcels = async {
        for _ in 0..100 {
            let sent = transport.send(&hung, Lane::Entries, vec![parcel(1, 9, 4 << 20)]).await;
            if let Err(e) = sent {
                return e.to_string();
            }
        }
        panic!("400 MiB vanished into a peer that doesn't read");
    };
    let others = async {
        for n in 0..100 {
            let to = peer(2, other.local_addr());
            transport.send(&to, Lane::Entries, vec![note(1, 2, n)]).await.unwrap();
        }
        eventually("the others arrive", || healthy.count() == 100).await;
    };
    let both = async { tokio::join!(parcels, others) };
    let (error, ()) = timeout(support::PATIENCE, both).await.expect("send hangs");
    assert!(error.contains("it has taken nothing for 300ms"), "{error}");
    drop(accepted.await.unwrap());
}

#[tokio::test]
async fn a_peer_that_takes_bytes_and_shows_no_life_is_given_up() {
    let mut options = TcpOptions::default();
    options.probe_interval = Duration::from_millis(20);
    options.probe_timeout = Duration::from_millis(200);
    let one = Host::new(1);
    let transport = start(&one, options).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung = peer(9, listener.local_addr().unwrap());
    let accepted = tokio::spawn(async move { (Raw::accept(&listener, 9).await, listener) });
    let until = Instant::now() + support::PATIENCE;
    let error = loop {
        // The kernel takes such small messages for a long time.
        match transport.send(&hung, Lane::Control, vec![note(1, 9, 1)]).await {
            Ok(()) => assert!(Instant::now() < until, "never given up"),
            Err(e) => break e.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert!(error.contains("no sign of life for 200ms"), "{error}");
    drop(accepted.await.unwrap());
}

#[tokio::test]
async fn a_peer_that_talks_back_on_a_one_way_connection_is_given_up() {
    let one = Host::new(1);
    let transport = start(&one, TcpOptions::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let odd = peer(9, listener.local_addr().unwrap());
    let accepted = tokio::spawn(async move {
        let mut raw = Raw::accept(&listener, 9).await;
        raw.say(b"and another thing").await;
        raw.closed().await;
    });
    let until = Instant::now() + support::PATIENCE;
    while transport.send(&odd, Lane::Control, vec![note(1, 9, 1)]).await.is_ok() {
        assert!(Instant::now() < until, "never given up");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    accepted.await.unwrap();
}

#[tokio::test]
async fn a_flood_of_connections_ends_at_the_limit_and_leaves_the_others_alone() {
    const LIMIT: usize = 8;
    let mut options = TcpOptions::default();
    options.max_connections = LIMIT;
    options.max_clients = 0;
    options.handshake_timeout = Duration::from_millis(500);
    let host = Host::new(2);
    let transport = start(&host, options).await;
    let address = transport.local_addr();

    let mut early = Raw::admitted(address, 1, 2, Lane::Control).await;
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(Raw::connect(address).await);
    }
    // Who was there before doesn't notice.
    early.say(&frame_of(&note(1, 2, 1))).await;
    eventually("an early connection is served", || host.count() == 1).await;
    // All of the flood ends: at the limit, or for want of a handshake.
    for raw in flood {
        raw.closed().await;
    }
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn what_is_over_the_frame_limit_is_neither_sent_nor_taken() {
    const LIMIT: usize = 100_000;
    let mut options = TcpOptions::default();
    options.max_frame_bytes = LIMIT;
    let (one, two) = (Host::new(1), Host::new(2));
    let small = start(&one, options.clone()).await;
    let receiver = start(&two, options).await;
    let to = peer(2, receiver.local_addr());

    // Together far above the limit, and each below it but one.
    let fits = parcel(1, 2, LIMIT - 200);
    let messages = vec![fits.clone(), parcel(1, 2, LIMIT), fits.clone(), note(1, 2, 1)];
    let sent = small.send(&to, Lane::Entries, messages).await;
    let Err(NetworkError::TooLarge { bytes, limit: LIMIT }) = sent else {
        panic!("not too large: {sent:?}");
    };
    assert!(bytes > LIMIT);
    eventually("the others arrive", || two.count() == 3).await;
    assert_eq!(two.arrived(), [fits.clone(), fits, note(1, 2, 1)]);

    // A sender with a higher limit.
    let mut raw = Raw::admitted(receiver.local_addr(), 3, 2, Lane::Entries).await;
    raw.try_say(&frame_of(&parcel(3, 2, LIMIT))).await;
    raw.closed().await;
    assert_eq!(two.count(), 3);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_what_to_do() {
    let (_host, transport) = node_2().await;
    let address = transport.local_addr().to_string();
    let error = TcpTransport::bind(&address, TcpOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("choose another"), "{text}");

    let error = TcpTransport::bind("not an address", TcpOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("give host:port"), "{error}");
}

#[tokio::test]
async fn an_unknown_lane_is_refused() {
    let (host, transport) = node_2().await;
    let mut raw = Raw::connect(transport.local_addr()).await;
    let open = support::raw::WireOpen { hello: Some(wire_hello(1, 2)), lane: 77, client: None };
    raw.say(PREAMBLE).await;
    raw.say(&frame(&open.encode_to_vec())).await;
    let reply = support::raw::WireReply::decode(&raw.frame().await[..]).unwrap();
    assert!(reply.refusal.unwrap().contains("lane 77"));
    raw.closed().await;
    assert_serves(&host, &transport).await;
}
