//! Clients over TCP: they find the leader and follow it, and tell what is certainly not done from what
//! may have been.

#![cfg(feature = "tcp")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Fault, Ledger, LedgerControl, PATIENCE, SeededEnv};
use futures::future::join_all;
use quorate::{Client, ClientConfig, Config, Raft, ReadError, RoleKind, WriteError};
use quorate_network::tcp::{ClientConnection, TcpOptions};
use quorate_network::{Call, CallKind, CallOutcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// Stands before a node: what anybody says to the node goes through it, or not.
struct Proxy {
    address: String,
    line: Arc<Line>,
}

/// What gets through.
#[derive(Default)]
struct Line {
    state: Mutex<LineState>,
    bell: Notify,
}

#[derive(Clone, Copy, Default)]
struct LineState {
    /// What the node says on connections of others does not.
    mute: bool,
    /// What others say does not.
    deaf: bool,
    /// New connections do not.
    closed: bool,
    /// How often every connection was cut.
    cuts: u64,
    /// How often somebody connected.
    accepted: u64,
}

impl Line {
    fn change(&self, change: impl FnOnce(&mut LineState)) {
        change(&mut self.state.lock().unwrap());
        self.bell.notify_waiters();
    }

    fn state(&self) -> LineState {
        *self.state.lock().unwrap()
    }

    async fn until(&self, holds: impl Fn(LineState) -> bool) {
        loop {
            let rung = self.bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            if holds(self.state()) {
                return;
            }
            rung.await;
        }
    }
}

impl Proxy {
    async fn bind() -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (Self { address, line: Arc::default() }, listener)
    }

    fn serve(&self, listener: TcpListener, node: String) {
        let line = self.line.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                line.change(|state| state.accepted += 1);
                if !line.state().closed {
                    tokio::spawn(pass(client, node.clone(), line.clone()));
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut LineState)) {
        self.line.change(change);
    }

    fn mute(&self) {
        self.change(|state| state.mute = true);
    }

    /// Cuts every connection; whoever connects again gets through.
    fn cut(&self) {
        self.change(|state| (state.cuts, state.mute) = (state.cuts + 1, false));
    }

    fn close(&self, closed: bool) {
        self.change(|state| (state.cuts, state.closed) = (state.cuts + 1, closed));
    }
}

async fn pass(client: TcpStream, node: String, line: Arc<Line>) {
    let cuts = line.state().cuts;
    let Ok(node) = TcpStream::connect(node).await else { return };
    drop((client.set_nodelay(true), node.set_nodelay(true)));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_node, mut to_node) = node.into_split();
    let up = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            line.until(|state| !state.deaf).await;
            if to_node.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from_node.read(&mut buffer).await {
            line.until(|state| !state.mute).await;
            if to_client.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! { biased;
        () = line.until(|state| state.cuts != cuts) => {}
        () = up => {}
        () = down => {}
    }
}

/// Nodes with durable logs, each behind a proxy, where the others and clients find it.
struct Nodes {
    dir: tempfile::TempDir,
    nodes: BTreeMap<u64, Raft<Ledger>>,
    machines: BTreeMap<u64, Arc<LedgerControl>>,
    proxies: BTreeMap<u64, Proxy>,
}

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::fast_network();
    change(&mut config);
    config
}

async fn start(
    dir: &Path,
    id: u64,
    listen: &str,
    advertise: &str,
    config: Config,
) -> (Raft<Ledger>, Arc<LedgerControl>) {
    let (ledger, control) = Ledger::new();
    let raft = Raft::builder(id, ledger)
        .data_dir(dir.join(id.to_string()))
        .listen(listen)
        .advertise(advertise)
        .config(config)
        .start()
        .await
        .unwrap();
    (raft, control)
}

impl Nodes {
    async fn start(count: u64, config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, machines, proxies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut all = Self { dir, nodes, machines, proxies };
        for id in 1..=count {
            let (proxy, listener) = Proxy::bind().await;
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let listen = free.local_addr().unwrap().to_string();
            drop(free);
            let (raft, control) =
                start(all.dir.path(), id, &listen, &proxy.address, config.clone()).await;
            proxy.serve(listener, listen);
            all.nodes.insert(id, raft);
            all.machines.insert(id, control);
            all.proxies.insert(id, proxy);
        }
        let members: Vec<_> = all.proxies.iter().map(|(id, p)| (*id, p.address.clone())).collect();
        all.nodes[&1].initialize(members).await.unwrap();
        for raft in all.nodes.values() {
            raft.wait(PATIENCE).leader().await.unwrap();
        }
        all.nodes[&1].write(0).await.unwrap();
        all
    }

    fn addresses(&self) -> Vec<String> {
        self.proxies.values().map(|proxy| proxy.address.clone()).collect()
    }

    fn builder(&self) -> quorate::ClientBuilder<Ledger> {
        Client::builder(self.addresses()).env(SeededEnv::new(7))
    }

    async fn leader(&self) -> u64 {
        let waits =
            self.nodes.values().map(|raft| Box::pin(raft.wait(PATIENCE).role(RoleKind::Leader)));
        futures::future::select_ok(waits).await.unwrap().0.id
    }

    /// Any node that does not lead.
    async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.nodes.keys().find(|id| **id != leader).unwrap()
    }

    /// What has been applied, in order, as a node that sees everything has it.
    async fn ledger(&self) -> Vec<u64> {
        let id = self.leader().await;
        self.nodes[&id].read(|ledger| ledger.ids.clone()).await.unwrap()
    }

    async fn stop(self) {
        for raft in self.nodes.values() {
            raft.shutdown().await;
        }
    }
}

/// What becomes of `calls` if `trouble` comes when they have gone on for `after` and are not done.
async fn disturbed<T>(
    calls: impl Future<Output = T>,
    after: Duration,
    trouble: impl Future<Output = ()>,
) -> T {
    tokio::pin!(calls);
    tokio::select! { biased;
        done = &mut calls => done,
        () = sleep(after) => {
            trouble.await;
            calls.await
        }
    }
}

/// Waits for a state of the test itself.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

fn count(ledger: &[u64], command: u64) -> usize {
    ledger.iter().filter(|id| **id == command).count()
}

#[tokio::test]
async fn a_client_finds_the_leader_from_the_address_of_any_member() {
    let nodes = Nodes::start(3, config(|_| {})).await;
    let (leader, follower) = (nodes.leader().await, nodes.follower().await);
    let only = nodes.proxies[&follower].address.clone();
    let client = Client::<Ledger>::connect([only]).await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!((status.id, status.leader), (follower, Some(leader)));
    assert_eq!(status.members.len(), 3);
    assert_eq!(status.members[&leader].address, nodes.proxies[&leader].address);

    assert_eq!(client.write(1).await.unwrap(), 2);
    assert_eq!(client.write_many([2, 3]).await.unwrap(), [3, 4]);
    assert!(client.write_many([]).await.unwrap().is_empty());
    let index = client.read_index().await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!((status.id, status.role), (leader, RoleKind::Leader), "it has moved there");
    assert!(index >= status.applied.min(status.committed) && index <= status.last);
    nodes.nodes[&follower].wait(PATIENCE).applied(index).await.unwrap();
    assert_eq!(nodes.machines[&follower].applied(), 4);
    assert_eq!(nodes.ledger().await, [0, 1, 2, 3]);

    // A read index is had from a follower as well, and covers what was written elsewhere.
    let other = nodes.builder().build();
    nodes.nodes[&follower].write(4).await.unwrap();
    let covered = other.read_index().await.unwrap();
    assert!(covered > index);
    nodes.stop().await;
}

#[tokio::test]
async fn calls_are_pipelined_in_the_order_of_the_caller() {
    let nodes = Nodes::start(3, config(|_| {})).await;
    let client = nodes.builder().build();
    client.write(1).await.unwrap();
    let writes = (2..=2000).map(|n| client.write(n));
    for (n, written) in (2..).zip(join_all(writes).await) {
        // The response is the number of commands so far, 0 among them.
        assert_eq!(written.unwrap(), n + 1);
    }
    assert_eq!(nodes.ledger().await, (0..=2000).collect::<Vec<_>>());
    nodes.stop().await;
}

#[tokio::test]
async fn a_transfer_fails_no_write() {
    let nodes = Nodes::start(3, config(|_| {})).await;
    let mut patient = ClientConfig::default();
    patient.deadline = PATIENCE;
    let client = nodes.builder().config(patient).build();
    let writing = tokio::spawn({
        let client = client.clone();
        async move {
            for n in 1..=300 {
                client.write(n).await.unwrap();
            }
        }
    });
    let any = &nodes.nodes[&1];
    while !writing.is_finished() {
        // One that comes too early after the last is turned down; the next is not.
        drop(any.transfer_leadership(None, PATIENCE).await);
        sleep(Duration::from_millis(20)).await;
    }
    writing.await.unwrap();
    assert_eq!(nodes.ledger().await, (0..=300).collect::<Vec<_>>());
    nodes.stop().await;
}

#[tokio::test]
async fn a_leader_that_stops_or_dies_is_left() {
    let mut nodes = Nodes::start(5, config(|_| {})).await;
    let client = nodes.builder().build();
    client.write(1).await.unwrap();
    // One hands over and goes.
    let leader = nodes.leader().await;
    nodes.nodes.remove(&leader).unwrap().shutdown().await;
    nodes.proxies[&leader].close(true);
    // That the connection is gone the client may learn only by using it: a read is asked again.
    client.read_index().await.unwrap();
    assert_eq!(client.write(2).await.unwrap(), 3);
    // Another is cut off from everybody and hands nothing over.
    let leader = nodes.leader().await;
    nodes.proxies[&leader].close(true);
    let cut_off = nodes.nodes.remove(&leader).unwrap();
    client.read_index().await.unwrap();
    // It may still have led, and heard of it, when the connection was opened: then nobody knows.
    let mut command = 2;
    let count = loop {
        command += 1;
        match client.write(command).await {
            Ok(count) => break count,
            Err(error) => assert!(matches!(error, WriteError::Unknown), "{error}"),
        }
    };
    let ledger = nodes.ledger().await;
    assert_eq!((ledger.len() as u64, ledger.last()), (count, Some(&command)));
    nodes.proxies[&leader].close(false);
    cut_off.shutdown().await;
    nodes.stop().await;
}

/// Who waits for an election is not asleep when it is over: as long as a node answers, the others being
/// down or not, the client asks again every moment.
#[tokio::test]
async fn a_client_that_waits_for_a_leader_asks_often() {
    let mut nodes = Nodes::start(3, config(|_| {})).await;
    let client = nodes.builder().build();
    client.write(1).await.unwrap();
    let survivor = nodes.follower().await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != survivor) {
        nodes.proxies[&id].close(true);
        nodes.nodes.remove(&id).unwrap().shutdown().await;
    }
    // One that went may have handed over to it.
    let wait = nodes.nodes[&survivor].wait(PATIENCE);
    wait.until("no leader", |metrics| metrics.leader.is_none()).await.unwrap();
    let asked = nodes.proxies[&survivor].line.state().accepted;
    let write = tokio::spawn(async move { client.write(2).await });
    let line = nodes.proxies[&survivor].line.clone();
    let often = line.until(|state| state.accepted >= asked + 6);
    // With pauses of up to a second, and two other addresses in turn, it would take nine.
    tokio::time::timeout(Duration::from_secs(4), often).await.unwrap();
    write.abort();
    nodes.stop().await;
}

/// Hazard: a retry applies twice. A client is cut off in the middle of everything, again and again.
#[tokio::test]
async fn what_is_cut_off_is_unknown_and_never_sent_twice() {
    let nodes = Nodes::start(3, config(|_| {})).await;
    let client = nodes.builder().build();
    let mut command = 0;
    let (mut done, mut unknown) = (Vec::new(), Vec::new());
    for round in 0..12 {
        let leader = nodes.leader().await;
        let first = command + 1;
        let writes = (0..20).map(|_| {
            command += 1;
            client.write(command)
        });
        // Some of it gets through, in some rounds all of it.
        let cut = async { nodes.proxies[&leader].cut() };
        let results = disturbed(join_all(writes), Duration::from_millis(round), cut).await;
        for (command, result) in (first..).zip(results) {
            match result {
                Ok(_) => done.push(command),
                Err(WriteError::Unknown) => unknown.push(command),
                Err(error) => panic!("{command}: {error}"),
            }
        }
    }
    let ledger = nodes.ledger().await;
    for command in &done {
        assert_eq!(count(&ledger, *command), 1, "{command} was acknowledged");
    }
    for command in &unknown {
        assert!(count(&ledger, *command) <= 1, "{command} was applied twice");
    }
    assert_eq!(done.len() + unknown.len(), 240);
    nodes.stop().await;
}

/// The rule itself: the node has heard of the write, has done it, and could not say so.
#[tokio::test]
async fn a_write_on_a_broken_connection_is_unknown_and_a_read_is_asked_again() {
    let nodes = Nodes::start(3, config(|_| {})).await;
    let leader = nodes.leader().await;
    let client = nodes.builder().build();
    client.write(1).await.unwrap();
    nodes.proxies[&leader].mute();
    let before = nodes.machines[&leader].applied();
    let calls = async { tokio::join!(client.write(2), client.read_index(), client.status()) };
    let break_it = async {
        eventually("the write is done", || nodes.machines[&leader].applied() > before).await;
        nodes.proxies[&leader].cut();
    };
    let ((written, index, status), ()) = tokio::join!(calls, break_it);
    assert!(matches!(written, Err(WriteError::Unknown)), "{written:?}");
    assert!(index.is_ok() && status.is_ok(), "{index:?} {status:?}");
    client.write(3).await.unwrap();
    assert_eq!(nodes.ledger().await, [0, 1, 2, 3]);
    nodes.stop().await;
}

/// The same as above in a session: all of it is done, and once.
#[tokio::test]
async fn what_is_cut_off_in_a_session_is_applied_once() {
    let nodes = Nodes::start(3, config(|_| {})).await;
    let mut patient = ClientConfig::default();
    patient.deadline = PATIENCE;
    let client = nodes.builder().config(patient).build();
    let session = client.session().await.unwrap();
    let mut command = 0;
    for round in 0..12 {
        let leader = nodes.leader().await;
        let writes = (0..20).map(|_| {
            command += 1;
            session.write(command)
        });
        let cut = async {
            nodes.proxies[&leader].cut();
            if round % 4 == 3 {
                drop(nodes.nodes[&leader].transfer_leadership(None, PATIENCE).await);
            }
        };
        let results = disturbed(join_all(writes), Duration::from_millis(round), cut).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    let mut ledger = nodes.ledger().await;
    ledger.sort_unstable();
    assert_eq!(ledger, (0..=240).collect::<Vec<_>>());
    nodes.stop().await;
}

#[tokio::test]
async fn a_write_of_a_session_that_is_sent_again_gets_the_first_response() {
    let nodes = Nodes::start(3, config(|_| {})).await;
    let leader = nodes.leader().await;
    let client = nodes.builder().build();
    let session = client.session().await.unwrap();
    let once = session.write_once(1).await.unwrap();
    assert_eq!((once.response, once.repeated), (2, false));
    nodes.proxies[&leader].mute();
    let before = nodes.machines[&leader].applied();
    let break_it = async {
        eventually("the write is done", || nodes.machines[&leader].applied() > before).await;
        nodes.nodes[&leader].write(77).await.unwrap();
        nodes.proxies[&leader].cut();
    };
    let (once, ()) = tokio::join!(session.write_once(2), break_it);
    let once = once.unwrap();
    assert_eq!((once.response, once.repeated), (3, true), "as it was before 77");
    assert_eq!(session.write(3).await.unwrap(), 5);
    assert_eq!(nodes.ledger().await, [0, 1, 2, 77, 3]);
    nodes.stop().await;
}

/// Hazard: evicted sessions are forgotten, and their writes applied anew.
#[tokio::test]
async fn a_session_that_has_expired_is_told_so_and_unknown_stays_unknown() {
    let nodes = Nodes::start(1, config(|c| c.max_sessions = 1)).await;
    let client = nodes.builder().build();
    let first = client.session().await.unwrap();
    first.write(1).await.unwrap();
    let second = client.session().await.unwrap();
    assert_ne!(first.id(), second.id());
    let error = first.write(2).await.unwrap_err();
    assert!(matches!(error, WriteError::SessionExpired), "{error}");
    second.write(3).await.unwrap();

    // One that was done, could not be said to be, and whose session has gone meanwhile.
    nodes.proxies[&1].mute();
    let before = nodes.machines[&1].applied();
    let break_it = async {
        eventually("the write is done", || nodes.machines[&1].applied() > before).await;
        nodes.nodes[&1].open_session().await.unwrap();
        nodes.proxies[&1].cut();
    };
    let (written, ()) = tokio::join!(second.write(4), break_it);
    assert!(matches!(written, Err(WriteError::Unknown)), "{written:?}");
    assert_eq!(nodes.ledger().await, [0, 1, 3, 4]);
    nodes.stop().await;
}

/// Its connections stay, and nothing comes over them: a partition, or a process that was stopped.
#[tokio::test]
async fn a_leader_that_falls_silent_is_left() {
    let nodes = Nodes::start(3, config(|_| {})).await;
    let mut config = ClientConfig::default();
    config.probe_interval = Duration::from_millis(50);
    config.probe_timeout = Duration::from_millis(200);
    config.deadline = PATIENCE;
    let client = nodes.builder().config(config).build();
    client.write(1).await.unwrap();
    let leader = nodes.leader().await;
    // It hears nobody, so it gives up leading, and the others elect another.
    nodes.proxies[&leader].change(|state| (state.mute, state.deaf) = (true, true));
    let index = client.read_index().await.unwrap();
    assert!(index > 1);
    let mut command = 1;
    loop {
        command += 1;
        match client.write(command).await {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, WriteError::Unknown), "{error}"),
        }
    }
    let ledger = nodes.ledger().await;
    assert_eq!((count(&ledger, 1), count(&ledger, command)), (1, 1));
    nodes.proxies[&leader].change(|state| (state.mute, state.deaf) = (false, false));
    nodes.stop().await;
}

/// Whether or not they ask anything.
#[tokio::test]
async fn a_node_says_how_many_clients_it_has() {
    let nodes = Nodes::start(1, config(|_| {})).await;
    let clients = || nodes.nodes[&1].stats().clients;
    assert_eq!(clients(), 0);
    let (one, two) = (nodes.builder().build(), nodes.builder().build());
    one.status().await.unwrap();
    assert_eq!(clients(), 1);
    two.write(1).await.unwrap();
    assert_eq!(clients(), 2);
    drop(one);
    eventually("the first has gone", || clients() == 1).await;
    nodes.proxies[&1].cut();
    two.status().await.unwrap();
    eventually("the other has one connection again", || clients() == 1).await;
    nodes.nodes[&1].shutdown().await;
    assert_eq!(clients(), 0);
}

#[tokio::test]
async fn a_client_of_another_cluster_is_refused_at_once_and_in_words() {
    let nodes = Nodes::start(1, config(|_| {})).await;
    let client = nodes.builder().cluster("another").build();
    let error = timeout(PATIENCE, client.write(1)).await.unwrap().unwrap_err();
    assert!(matches!(error, WriteError::Refused(_)) && !error.may_have_happened());
    assert!(error.to_string().contains("not of \"another\""), "{error}");
    let error = client.read_index().await.unwrap_err();
    assert!(matches!(error, ReadError::Refused(_)), "{error}");
    let nowhere = Client::<Ledger>::builder(Vec::<String>::new()).build();
    assert!(matches!(nowhere.status().await, Err(ReadError::Refused(_))));
    let mut restless = ClientConfig::default();
    restless.probe_interval = Duration::ZERO;
    let restless = nodes.builder().config(restless).build();
    let error = restless.write(1).await.unwrap_err();
    assert!(matches!(error, WriteError::Refused(_)), "{error}");
    assert!(error.to_string().contains("probe_interval is zero"), "{error}");
    assert!(matches!(restless.read_index().await, Err(ReadError::Refused(_))));
    assert!(matches!(restless.session().await, Err(WriteError::Refused(_))));
    // A group that does not run there may yet come: that is waited for.
    let mut impatient = ClientConfig::default();
    impatient.deadline = Duration::from_millis(200);
    let client = nodes.builder().group(9).config(impatient).build();
    assert!(matches!(client.write(1).await, Err(WriteError::Timeout)));
    assert_eq!(nodes.ledger().await, [0]);
    nodes.stop().await;
}

#[tokio::test]
async fn what_no_node_has_room_for_is_tried_again_until_there_is() {
    let nodes = Nodes::start(3, config(|c| c.queue_bytes = 2000)).await;
    let client = nodes.builder().build();
    let written = join_all((1..=500).map(|n| client.write(n))).await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    let mut ledger = nodes.ledger().await;
    ledger.sort_unstable();
    assert_eq!(ledger, (0..=500).collect::<Vec<_>>());
    nodes.stop().await;
}

#[tokio::test]
async fn more_than_a_client_may_have_in_flight_is_overloaded_at_once() {
    let nodes = Nodes::start(1, config(|_| {})).await;
    let mut small = ClientConfig::default();
    small.max_in_flight_bytes = 1000;
    let client = nodes.builder().config(small).build();
    for _ in 0..3 {
        let written = join_all((0..20).map(|_| client.write(1))).await;
        let done = written.iter().filter(|result| result.is_ok()).count();
        assert!((1..20).contains(&done), "{done} of them");
        let overloaded = |e: &WriteError| matches!(e, WriteError::Overloaded);
        assert!(written.iter().filter_map(|result| result.as_ref().err()).all(overloaded));
    }
    let error = client.write_many([1; 100]).await.unwrap_err();
    assert!(matches!(error, WriteError::Overloaded), "{error}");
    nodes.stop().await;
}

#[tokio::test]
async fn a_command_larger_than_the_node_takes_is_not_done() {
    let nodes = Nodes::start(1, config(|c| c.max_command_bytes = 100)).await;
    let client = nodes.builder().build();
    let error = client.write_many([1; 100]).await.unwrap_err();
    assert!(matches!(error, WriteError::TooLarge { limit: 100, .. }), "{error}");
    assert_eq!(nodes.ledger().await, [0]);
    nodes.stop().await;
}

#[tokio::test]
async fn all_nodes_go_down_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(dir.path(), id, "127.0.0.1:0", "", config(|_| {})).await.0);
    }
    let members: Vec<_> = nodes.iter().map(|n| (n.id(), n.address().to_owned())).collect();
    nodes[0].initialize(members.clone()).await.unwrap();
    let mut patient = ClientConfig::default();
    patient.deadline = PATIENCE;
    let addresses = members.iter().map(|(_, address)| address.clone());
    let client = Client::<Ledger>::builder(addresses).config(patient).build();
    client.write(1).await.unwrap();
    for node in nodes.drain(..) {
        node.shutdown().await;
    }
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { tokio::join!(client.write(2), client.read_index(), client.status()) }
    });
    // It has found out that nobody is there.
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    for (id, address) in &members {
        nodes.push(start(dir.path(), *id, address, "", config(|_| {})).await.0);
    }
    let (written, index, status) = waiting.await.unwrap();
    assert_eq!(written.unwrap(), 2);
    assert!(index.is_ok() && status.is_ok(), "{index:?} {status:?}");
    assert_eq!(nodes[0].read(|ledger| ledger.ids.clone()).await.unwrap(), [1, 2]);
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn deadlines_say_what_may_have_happened() {
    let mut impatient = ClientConfig::default();
    impatient.deadline = Duration::from_millis(300);
    // Nobody is there: certainly not done.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::<Ledger>::builder([free.to_string()]).config(impatient.clone()).build();
    let began = Instant::now();
    assert!(matches!(client.write(1).await, Err(WriteError::Timeout)));
    assert!(matches!(client.read_index().await, Err(ReadError::Timeout)));
    assert!(began.elapsed() >= 2 * impatient.deadline);

    // The leader has taken it and can't say what will become of it.
    let nodes = Nodes::start(1, config(|_| {})).await;
    let client = nodes.builder().config(impatient.clone()).build();
    client.write(1).await.unwrap();
    nodes.machines[&1].inject(Fault::Gate);
    let error = client.write(2).await.unwrap_err();
    assert!(matches!(error, WriteError::Unknown) && error.may_have_happened(), "{error}");
    nodes.machines[&1].open_gate();
    assert_eq!(client.write(3).await.unwrap(), 4);
    assert_eq!(nodes.ledger().await, [0, 1, 2, 3]);
    nodes.stop().await;
}

/// Hazard: an undecodable command is committed: every replica stops.
#[tokio::test]
async fn bytes_of_a_client_that_are_no_command_are_refused_and_not_appended() {
    let nodes = Nodes::start(1, config(|_| {})).await;
    let address = nodes.proxies[&1].address.clone();
    let options = TcpOptions::default();
    let connection = ClientConnection::open(&address, "quorate", &options).await.unwrap();
    let (mut to, mut from) = connection.split(1);
    let last = nodes.nodes[&1].metrics().last;
    let garbage = Bytes::from_static(&[0xff; 40]);
    let good = Bytes::from_static(&[1]);
    let kinds = [
        CallKind::Write { codec: 1, commands: vec![good.clone(), garbage] },
        CallKind::Write { codec: 77, commands: vec![good] },
        CallKind::Write { codec: 1, commands: vec![] },
        CallKind::Unknown(4_000_000),
    ];
    for (token, kind) in (1..).zip(kinds) {
        let timeout = Duration::from_secs(1);
        to.send(vec![Call { token, timeout, kind: kind.clone() }]).await.unwrap();
        let answers = from.next().await.unwrap();
        assert_eq!((answers.len(), answers[0].token), (1, token));
        let CallOutcome::Refused(why) = &answers[0].outcome else {
            panic!("{kind:?}: {answers:?}")
        };
        assert!(!why.is_empty());
    }
    assert_eq!(nodes.nodes[&1].metrics().last, last);
    nodes.nodes[&1].write(1).await.unwrap();
    nodes.stop().await;
}

/// A node that runs no group of that number, or no state machine any more.
#[tokio::test]
async fn clients_alone_do_not_keep_a_node_alive() {
    let mut nodes = Nodes::start(1, config(|_| {})).await;
    let mut impatient = ClientConfig::default();
    impatient.deadline = Duration::from_millis(300);
    let client = nodes.builder().config(impatient).build();
    client.write(1).await.unwrap();
    let raft = nodes.nodes.remove(&1).unwrap();
    let mut events = raft.events();
    drop(raft);
    let stopped = async { while events.next().await.is_some() {} };
    timeout(PATIENCE, stopped).await.unwrap();
    // That the connection is gone the client may learn only by using it.
    assert!(client.read_index().await.is_err());
    assert!(!client.write(2).await.unwrap_err().may_have_happened());
}
