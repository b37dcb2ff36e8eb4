//! The bank with real processes: killed, and stopped in the middle of a word, while customers move money.

use std::path::Path;

use bank::customers::{Customers, audit};
use bank::ledger::{Ledger, check};
use bank::nodes::{Nodes, Signal};
use quorate::Client;
use tempfile::TempDir;

async fn start(directory: &TempDir) -> (Nodes, Customers) {
    let program = Path::new(env!("CARGO_BIN_EXE_bank"));
    let nodes = Nodes::start(program, directory.path(), 3).await.unwrap();
    let clients: Vec<Client<_>> = (0..8).map(|n| nodes.client(n % 3 + 1)).collect();
    (nodes, Customers::start(clients, 1))
}

/// Every customer has all of its answers, the money is there, and no node panicked in any of its lives.
async fn end(nodes: Nodes, customers: Customers) -> Vec<Ledger> {
    let ledgers = customers.finish().await;
    let balances = audit(&nodes.client(2)).await.unwrap();
    if let Err(wrong) = check(&ledgers, &balances) {
        let printed = nodes.ids().into_iter().map(|id| nodes.printed(id));
        panic!("{wrong:#?}\n{}", printed.collect::<Vec<_>>().join("\n---\n"));
    }
    for id in nodes.ids() {
        let printed = nodes.printed(id);
        assert!(!printed.contains("panicked"), "node {id}: {printed}");
    }
    nodes.stop().await.unwrap();
    ledgers
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_killed_and_come_back() {
    let directory = TempDir::with_prefix("bank-test-").unwrap();
    let (mut nodes, customers) = start(&directory).await;
    for round in 0..4 {
        customers.go_on(200, |_| ()).await.unwrap();
        // The leader, which has most to forget, and others.
        let node = if round % 2 == 0 { nodes.leader().await.unwrap() } else { round % 3 + 1 };
        nodes.kill(node).unwrap();
        customers.go_on(200, |_| ()).await.unwrap();
        nodes.up(node).unwrap();
        nodes.ready().await.unwrap();
    }
    end(nodes, customers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_killed_at_once() {
    let directory = TempDir::with_prefix("bank-test-").unwrap();
    let (mut nodes, customers) = start(&directory).await;
    for _ in 0..2 {
        customers.go_on(300, |_| ()).await.unwrap();
        for id in nodes.ids() {
            nodes.kill(id).unwrap();
        }
        for id in nodes.ids() {
            nodes.up(id).unwrap();
        }
    }
    customers.go_on(300, |_| ()).await.unwrap();
    nodes.ready().await.unwrap();
    end(nodes, customers).await;
}

/// A leader that wakes up believes for a moment that it still leads, and has answers in its pockets.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_stopped_and_goes_on() {
    let directory = TempDir::with_prefix("bank-test-").unwrap();
    let (mut nodes, customers) = start(&directory).await;
    for _ in 0..2 {
        customers.go_on(200, |_| ()).await.unwrap();
        let leader = nodes.leader().await.unwrap();
        nodes.signal(leader, Signal::STOP).unwrap();
        customers.go_on(200, |_| ()).await.unwrap();
        nodes.signal(leader, Signal::CONT).unwrap();
        nodes.ready().await.unwrap();
    }
    end(nodes, customers).await;
}
