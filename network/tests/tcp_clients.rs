//! Clients over TCP: calls and answers on one connection, and clients that misbehave.

#![cfg(feature = "tcp")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::test_runner::{RngAlgorithm, TestRng};
use quorate_network::tcp::{ClientConnection, ClientError, TcpOptions};
use quorate_network::{
    Call, CallKind, CallOutcome, Called, Envelope, Lane, Message, RaftNetwork, TcpTransport,
};
use support::raw::{Raw, client_opening, frame, frame_of};
use support::{Host, PATIENCE, eventually, note, peer};
use tokio::net::TcpListener;
use tokio::time::timeout;

async fn start(options: TcpOptions) -> (Arc<Host>, TcpTransport) {
    let host = Host::new(2);
    let transport = TcpTransport::bind("127.0.0.1:0", options).await.unwrap();
    transport.start(host.clone());
    (host, transport)
}

async fn open(transport: &TcpTransport) -> ClientConnection {
    let address = transport.local_addr().to_string();
    ClientConnection::open(&address, "shop", &TcpOptions::default()).await.unwrap()
}

fn call(token: u64) -> Call {
    Call { token, timeout: Duration::from_secs(1), kind: CallKind::ReadIndex }
}

fn call_envelope(call: Call) -> Envelope {
    let message = Message::Call(call);
    Envelope { cluster: 7, group: 1, from: 0, to: 2, incarnation: 0, message }
}

/// The transport still serves clients, and peers.
async fn assert_serves(host: &Host, transport: &TcpTransport) {
    drop(host.calls());
    let (mut to, mut from) = open(transport).await.split(5);
    to.send(vec![call(77)]).await.unwrap();
    eventually("the call arrives", || host.call_count() == 1).await;
    let (group, asked, answer) = host.calls().pop().unwrap();
    assert_eq!((group, asked), (5, call(77)));
    answer.answer(CallOutcome::ReadIndex(9));
    let answers = from.next().await.unwrap();
    assert_eq!(answers, [Called { token: 77, outcome: CallOutcome::ReadIndex(9) }]);

    let before = host.count();
    let mut raw = Raw::admitted(transport.local_addr(), 1, 2, Lane::Control).await;
    raw.say(&frame_of(&note(1, 2, 1))).await;
    eventually("a peer is served", || host.count() > before).await;
}

#[tokio::test]
async fn answers_come_in_any_order_on_the_connection_of_the_call() {
    let (host, transport) = start(TcpOptions::default()).await;
    let connection = open(&transport).await;
    assert_eq!(connection.node(), 2);
    let (mut to, mut from) = connection.split(3);
    let large = CallKind::Write { codec: 4, commands: vec![Bytes::from(vec![7; 100_000])] };
    let large = Call { token: 1, timeout: Duration::from_secs(1), kind: large };
    to.send(vec![large.clone(), call(2), call(3)]).await.unwrap();
    eventually("all calls arrive", || host.call_count() == 3).await;
    let mut calls = host.calls();
    assert!(calls.iter().map(|(group, call, _)| (*group, call.clone())).eq([
        (3, large),
        (3, call(2)),
        (3, call(3))
    ]));
    for (_, call, answer) in calls.drain(..).rev() {
        match call.token {
            1 => answer.answer(CallOutcome::Applied(vec![Bytes::from(vec![8; 100_000])])),
            // Given up by the host: the client is told all the same.
            2 => drop(answer),
            _ => answer.answer(CallOutcome::Overloaded),
        }
    }
    let mut answers = Vec::new();
    while answers.len() < 3 {
        answers.extend(from.next().await.unwrap());
    }
    let expected = [
        Called { token: 3, outcome: CallOutcome::Overloaded },
        Called { token: 2, outcome: CallOutcome::Unknown },
        Called { token: 1, outcome: CallOutcome::Applied(vec![Bytes::from(vec![8; 100_000])]) },
    ];
    assert_eq!(answers, expected);
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn a_client_of_another_cluster_or_version_is_refused_in_words() {
    let (host, transport) = start(TcpOptions::default()).await;
    let address = transport.local_addr().to_string();
    let opened = ClientConnection::open(&address, "shed", &TcpOptions::default()).await;
    let Err(ClientError::Refused { reason, .. }) = opened else { panic!("{opened:?}") };
    assert!(reason.contains("cluster \"shop\", not of \"shed\""), "{reason}");

    let mut raw = Raw::connect(&address).await;
    raw.say(&client_opening("shop", (8, 9))).await;
    let reply =
        <support::raw::WireReply as prost::Message>::decode(&raw.frame().await[..]).unwrap();
    let reason = reply.refusal.unwrap();
    assert!(reason.contains("versions 8 to 9"), "{reason}");
    raw.closed().await;
    assert_eq!(host.call_count(), 0);
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn clients_have_a_limit_of_their_own_and_leave_peers_their_places() {
    let mut options = TcpOptions::default();
    options.max_clients = 3;
    options.max_connections = 4;
    let (host, transport) = start(options).await;
    let address = transport.local_addr();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (raw, reply) = Raw::client(address).await;
        assert_eq!(reply.hello.unwrap().from, 2);
        clients.push(raw);
    }
    let (turned_away, reply) = Raw::client(address).await;
    assert_eq!((reply.full, reply.refusal), (Some(()), None));
    turned_away.closed().await;
    let opened = ClientConnection::open(&address.to_string(), "shop", &TcpOptions::default()).await;
    let Err(ClientError::Unreachable { cause, .. }) = opened else { panic!("{opened:?}") };
    assert!(cause.contains("max_clients"), "{cause}");
    // Peers are as they were.
    for lane in Lane::ALL {
        let mut raw = Raw::admitted(address, 1, 2, lane).await;
        raw.say(&frame_of(&note(1, 2, 1))).await;
        let before = host.count();
        eventually("a peer is served", || host.count() > before || host.count() > 0).await;
    }
    // A place that was given back is free.
    drop(clients);
    let until = tokio::time::Instant::now() + PATIENCE;
    while Raw::client(address).await.1.hello.is_none() {
        assert!(tokio::time::Instant::now() < until, "the place is never free again");
    }
}

#[tokio::test]
async fn more_calls_than_one_client_may_have_are_overloaded_at_once() {
    let mut options = TcpOptions::default();
    options.max_client_calls = 10;
    let (host, transport) = start(options).await;
    let (mut to, mut from) = open(&transport).await.split(1);
    to.send((0..15).map(call).collect()).await.unwrap();
    let mut refused = Vec::new();
    while refused.len() < 5 {
        refused.extend(from.next().await.unwrap());
    }
    assert!(refused.iter().all(|called| called.outcome == CallOutcome::Overloaded));
    assert_eq!(refused.iter().map(|called| called.token).collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
    // Room again once they are answered.
    drop(host.calls());
    let mut unknown = 0;
    while unknown < 10 {
        unknown += from.next().await.unwrap().len();
    }
    to.send(vec![call(20)]).await.unwrap();
    eventually("the call arrives", || host.call_count() == 1).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_bounded_memory_and_blocks_nobody() {
    const LIMIT: usize = 1 << 20;
    let mut options = TcpOptions::default();
    options.client_answer_bytes = LIMIT;
    options.write_timeout = Duration::from_millis(300);
    let (host, transport) = start(options).await;
    let (mut deaf, reply) = Raw::client(transport.local_addr()).await;
    assert!(reply.hello.is_some());
    for token in 0..1000 {
        deaf.try_say(&frame_of(&call_envelope(call(token)))).await;
    }
    eventually("the calls arrive", || host.call_count() == 1000).await;
    let block = Bytes::from(vec![1; 100_000]);
    // 100 MB of answers: taken at once, whoever gives them.
    for (_, _, answer) in host.calls() {
        answer.answer(CallOutcome::Applied(vec![block.clone()]));
    }
    assert_serves(&host, &transport).await;
    deaf.closed().await;
}

#[tokio::test]
async fn a_silent_client_is_closed_and_one_that_asks_for_a_sign_of_life_is_not() {
    let mut options = TcpOptions::default();
    options.client_idle_timeout = Duration::from_millis(200);
    let (host, transport) = start(options).await;
    let (silent, _) = Raw::client(transport.local_addr()).await;
    let (mut to, mut from) = open(&transport).await.split(1);
    let lives = tokio::spawn(async move {
        for _ in 0..30 {
            to.probe().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        to.send(vec![call(1)]).await.unwrap();
        to
    });
    silent.closed().await;
    let _to = lives.await.unwrap();
    eventually("the call arrives", || host.call_count() == 1).await;
    host.calls().pop().unwrap().2.answer(CallOutcome::Overloaded);
    assert_eq!(from.next().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_node_that_falls_silent_is_given_up_by_its_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hung = tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        let mut raw = Raw(listener.accept().await.unwrap().0);
        raw.0.read_exact(&mut [0; 8]).await.unwrap();
        raw.frame().await;
        let hello = Some(support::raw::wire_hello(4, 0));
        let reply = support::raw::WireReply { hello, refusal: None, full: None };
        raw.say(&frame(&prost::Message::encode_to_vec(&reply))).await;
        raw
    });
    let mut options = TcpOptions::default();
    (options.probe_interval, options.probe_timeout) =
        (Duration::from_millis(50), Duration::from_millis(100));
    let connection = ClientConnection::open(&address, "shop", &options).await.unwrap();
    assert_eq!(connection.node(), 4);
    let _keeps_it_open = hung.await.unwrap();
    let (mut to, mut from) = connection.split(1);
    to.probe().await.unwrap();
    let error = timeout(PATIENCE, from.next()).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("no sign of life"), "{error}");
}

#[tokio::test]
async fn what_is_no_call_ends_the_connection_and_nothing_else() {
    let (host, transport) = start(TcpOptions::default()).await;
    let address = transport.local_addr();
    let from_a_node = Envelope { from: 3, ..call_envelope(call(1)) };
    let for_another = Envelope { to: 9, ..call_envelope(call(1)) };
    let no_call = Envelope { from: 0, ..note(1, 2, 1) };
    let answer = Called { token: 1, outcome: CallOutcome::Unknown };
    let answer = Envelope { message: Message::Called(answer), ..call_envelope(call(1)) };
    let bad = [
        frame_of(&from_a_node),
        frame_of(&for_another),
        frame_of(&no_call),
        frame_of(&answer),
        frame(b"nonsense"),
        vec![0xff; 8],
    ];
    for bytes in bad {
        let (mut raw, _) = Raw::client(address).await;
        raw.say(&frame_of(&call_envelope(call(5)))).await;
        raw.try_say(&bytes).await;
        raw.closed().await;
        // What came before it was whole.
        assert_eq!(host.calls().len(), 1);
    }
    // A call on the connection of a peer reaches the host as a message, and no further.
    let mut raw = Raw::admitted(address, 1, 2, Lane::Control).await;
    raw.say(&frame_of(&Envelope { from: 1, ..call_envelope(call(1)) })).await;
    eventually("it arrives", || host.count() == 1).await;
    assert_eq!((host.count(), host.call_count()), (1, 0));
    assert_serves(&host, &transport).await;
}

#[tokio::test]
async fn random_bytes_of_clients_are_survived() {
    let (host, transport) = start(TcpOptions::default()).await;
    let mut rng = TestRng::from_seed(RngAlgorithm::XorShift, &[7; 16]);
    for round in 0..200 {
        use proptest::prelude::RngCore as _;
        let mut bytes = vec![0; 1 + rng.next_u32() as usize % 200];
        rng.fill_bytes(&mut bytes);
        let (mut raw, _) = Raw::client(transport.local_addr()).await;
        match round % 3 {
            0 => raw.try_say(&bytes).await,
            // A frame that is one, around bytes that are no envelope.
            1 => raw.try_say(&frame(&bytes)).await,
            // An envelope with a byte changed.
            _ => {
                let mut envelope = call_envelope(call(round)).to_bytes().to_vec();
                let at = rng.next_u32() as usize % envelope.len();
                envelope[at] ^= 1 << (rng.next_u32() % 8);
                raw.try_say(&frame(&envelope)).await;
            }
        }
    }
    assert_serves(&host, &transport).await;
}

/// A peer that speaks to itself as a client is one; the two kinds do not mix.
#[tokio::test]
async fn a_node_and_a_client_share_a_port() {
    let (host, transport) = start(TcpOptions::default()).await;
    let one = Host::new(1);
    let other = TcpTransport::bind("127.0.0.1:0", TcpOptions::default()).await.unwrap();
    other.start(one.clone());
    let (mut to, _from) = open(&transport).await.split(1);
    to.send(vec![call(1)]).await.unwrap();
    let two = peer(2, transport.local_addr());
    other.send(&two, Lane::Control, vec![note(1, 2, 1)]).await.unwrap();
    eventually("both arrive", || host.count() == 1 && host.call_count() == 1).await;
}
