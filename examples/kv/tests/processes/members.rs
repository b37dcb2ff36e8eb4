//! Members come and go, the leadership moves, logs are compacted: under load, with processes that
//! die in between, every acknowledged write is there in the end.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Method;
use kv::admin::{CHANGE_TIMEOUT, Change, Members};
use kv::client::{Answer, Client};
use kv::process::Signal;
use serde_json::{Value, json};

use crate::support::{Cluster, Load, PATIENCE, eventually};

/// Enough to have the log, the followers and the store busy when it happens.
const SOME: usize = 100;

/// Makes a change at node `at`.
async fn change(cluster: &Cluster, at: u64, change: &Change) -> Members {
    let client = Client::new(CHANGE_TIMEOUT + PATIENCE);
    client.change(&cluster.server(at), change, CHANGE_TIMEOUT).await.unwrap()
}

/// Waits until every one of `ids` shows these voters, and no change under way.
async fn agree_on_voters(cluster: &Cluster, ids: &[u64]) {
    let voters = BTreeSet::from_iter(ids.iter().copied());
    for id in ids {
        eventually(&format!("node {id} to show the voters {ids:?}"), async || {
            let members = cluster.client.members(&cluster.server(*id)).await.ok()?;
            (members.voters == voters && !members.joint).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn grows_from_one_to_five_and_shrinks_to_three_under_load() {
    let mut cluster = Cluster::start(1).await;
    (2..=5).for_each(|id| cluster.newcomer(id, 1, &[]));
    let load = Load::start(&cluster);
    load.goes_on(SOME).await;
    for id in [2, 3] {
        cluster.up(id);
        cluster.says(id, &format!("node {id} has joined as a voter")).await;
    }
    agree_on_voters(&cluster, &[1, 2, 3]).await;
    load.goes_on(SOME).await;
    let leader = cluster.leader_among(&[1, 2, 3]).await;
    cluster.kill(leader);
    load.goes_on(SOME).await;
    cluster.up(leader);
    // One dies while it joins; the same command goes on from there.
    cluster.up(4);
    cluster.up(5);
    cluster.says(5, "node 5 asks").await;
    cluster.kill(5);
    cluster.up(5);
    for id in [4, 5] {
        cluster.says(id, &format!("node {id} has joined as a voter")).await;
    }
    agree_on_voters(&cluster, &[1, 2, 3, 4, 5]).await;
    load.goes_on(SOME).await;

    // The leader goes first, and with one of the others down, another.
    let leader = cluster.leader().await;
    let rest = cluster.others(leader);
    let members = change(&cluster, rest[0], &Change::Remove { id: leader }).await;
    assert_eq!(members.voters, BTreeSet::from_iter(rest.iter().copied()));
    let (leaving, down, staying) = (rest[0], rest[1], &rest[2..]);
    cluster.kill(down);
    load.goes_on(SOME).await;
    change(&cluster, staying[0], &Change::Remove { id: leaving }).await;
    cluster.up(down);
    agree_on_voters(&cluster, &rest[1..]).await;
    load.goes_on(SOME).await;

    // Who was removed and is started again does not come back by itself.
    cluster.stop(leader).await;
    cluster.up(leader);
    eventually("the removed node to know", async || {
        let removed = cluster.status(leader).await?.removed;
        (removed || cluster.printed(leader).contains("was removed and does not join")).then_some(())
    })
    .await;
    cluster.kill(leader);
    cluster.stop(leaving).await;
    let acknowledged = load.finish().await;
    cluster.holds(&rest[1..], acknowledged).await;
    agree_on_voters(&cluster, &rest[1..]).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_dead_node_is_replaced() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    load.goes_on(SOME).await;
    let dead = cluster.leader().await;
    let rest = cluster.others(dead);
    cluster.kill(dead);
    cluster.leader_among(&rest).await;
    cluster.newcomer(4, rest[0], &["--learner"]);
    cluster.up(4);
    cluster.says(4, "node 4 has joined as a learner").await;
    let addr = cluster.commands[&4].raft.clone();
    let replace = Change::Replace { id: dead, with: 4, addr };
    let members = change(&cluster, rest[1], &replace).await;
    let now = [&rest[..], &[4]].concat();
    assert_eq!(members.voters, BTreeSet::from_iter(now.iter().copied()));
    assert!(!members.addresses.contains_key(&dead), "{members:?}");
    agree_on_voters(&cluster, &now).await;
    load.goes_on(SOME).await;
    // The newcomer counts: with it, another may be missing.
    cluster.kill(rest[0]);
    load.goes_on(SOME).await;
    cluster.up(rest[0]);
    let acknowledged = load.finish().await;
    cluster.holds(&now, acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_wiped_disk_comes_back_when_its_old_self_is_removed() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    load.goes_on(SOME).await;
    let leader = cluster.leader().await;
    let wiped = cluster.others(leader)[0];
    cluster.kill(wiped);
    let old = cluster.commands[&wiped].clone();
    let data = &old.data;
    std::fs::remove_dir_all(data).unwrap();
    cluster.newcomer(wiped, leader, &[]);
    let command = cluster.commands.get_mut(&wiped).expect("it is known");
    (command.raft, command.http) = (old.raft, old.http);

    // Not before: it could vote a second time in a term, or miss what it had acknowledged.
    cluster.up(wiped);
    let mut node = cluster.nodes.remove(&wiped).expect("it runs");
    let status = node.wait(PATIENCE).await.unwrap().expect("it ends");
    assert_eq!(status.code(), Some(1));
    let advice = format!("remove it first (kv admin remove {wiped} ");
    assert!(cluster.printed(wiped).contains(&advice), "{}", cluster.printed(wiped));

    change(&cluster, leader, &Change::Remove { id: wiped }).await;
    std::fs::remove_dir_all(data).unwrap();
    cluster.up(wiped);
    cluster.says(wiped, "has joined as a voter").await;
    agree_on_voters(&cluster, &[1, 2, 3]).await;
    load.goes_on(SOME).await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_rolling_restart_in_which_every_node_leads() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster);
    for id in cluster.ids() {
        cluster.all_healthy().await;
        // Asked for at any node.
        let asked = cluster.server(cluster.others(id)[0]);
        assert_eq!(cluster.client.transfer(&asked, id).await.unwrap(), id);
        assert_eq!(cluster.leader().await, id);
        load.goes_on(SOME).await;
        cluster.stop(id).await;
        load.goes_on(SOME).await;
        cluster.up(id);
    }
    cluster.all_healthy().await;
    let acknowledged = load.finish().await;
    cluster.holds(&cluster.ids(), acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn who_was_down_while_the_log_was_compacted_gets_a_snapshot() {
    let mut cluster = Cluster::prepared(3);
    for command in cluster.commands.values_mut() {
        let flags = ["--snapshot-entries", "200", "--keep-entries", "20"];
        command.more = flags.map(str::to_owned).into();
    }
    cluster.up_all();
    cluster.complete().await;
    let load = Load::start(&cluster);
    load.goes_on(SOME).await;
    let leader = cluster.leader().await;
    let down = cluster.others(leader)[0];
    let had = cluster.status(down).await.expect("it answers").last;
    cluster.kill(down);
    for id in cluster.others(down) {
        // Whatever of the load was still on its way to the node before it went, it lacks the rest.
        eventually("the logs to begin behind what it has", async || {
            (cluster.status(id).await?.compacted > had + 2000).then_some(())
        })
        .await;
    }
    let acknowledged = load.finish().await;
    cluster.up(down);
    cluster.healthy(&[down]).await;
    let status = cluster.status(down).await.expect("it answers");
    assert!(status.compacted > had, "{status:?}");
    cluster.holds(&[down], acknowledged).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_snapshot_on_request_is_what_a_restart_begins_with() {
    let mut cluster = Cluster::start(1).await;
    let load = Load::start(&cluster);
    load.goes_on(SOME).await;
    let acknowledged = load.finish().await;
    let taken = cluster.client.snapshot(&cluster.server(1)).await.unwrap();
    assert!(taken.index > SOME as u64 && taken.bytes > 0, "{taken:?}");
    let again = cluster.client.snapshot(&cluster.server(1)).await.unwrap();
    assert_eq!(again, taken, "nothing was applied since");
    cluster.kill(1);
    cluster.up(1);
    cluster.healthy(&[1]).await;
    assert_eq!(cluster.status(1).await.expect("it answers").snapshot, taken.index);
    cluster.holds(&[1], acknowledged).await;
    cluster.end().await;
}

/// Posts to an admin route of node `at`.
async fn post(cluster: &Cluster, at: u64, route: &str, body: &Value) -> (u16, Value) {
    let path = format!("/admin/{route}");
    let server = cluster.server(at);
    let answer = cluster.client.send(&server, Method::POST, &path, body.to_string());
    json_of(&answer.await.unwrap())
}

fn json_of(answer: &Answer) -> (u16, Value) {
    assert_eq!(answer.content_type, "application/json");
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

fn refused((status, body): &(u16, Value), expected: u16, word: &str) {
    assert_eq!((*status, &body["error"]), (expected, &json!(word)), "{body}");
    assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
}

#[tokio::test]
async fn every_op_does_what_it_says_at_any_node() {
    let mut cluster = Cluster::start(3).await;
    let addresses: BTreeMap<u64, String> =
        cluster.commands.values().map(|command| (command.id, command.raft.clone())).collect();
    let get = cluster.client.send(&cluster.server(2), Method::GET, "/admin/members", "").await;
    let expected = format!(
        "{{\"voters\":[1,2,3],\"learners\":[],\"witnesses\":[],\"joint\":false,\"addresses\":{}}}",
        serde_json::to_string(&addresses).unwrap()
    );
    assert_eq!(std::str::from_utf8(&get.unwrap().body).unwrap(), expected, "as documented");

    cluster.newcomer(4, 1, &["--learner"]);
    cluster.up(4);
    cluster.says(4, "node 4 has joined as a learner").await;
    let address = cluster.commands[&4].raft.clone();
    let add = json!({ "op": "add_learner", "id": 4, "addr": address });
    let steps = [
        (add.clone(), [1, 2, 3].as_slice(), [4].as_slice()),
        (json!({ "op": "promote", "id": 4 }), &[1, 2, 3, 4], &[]),
        (json!({ "op": "demote", "id": 1 }), &[2, 3, 4], &[1]),
        (json!({ "op": "set", "voters": [1, 2, 4] }), &[1, 2, 4], &[3]),
        (json!({ "op": "remove", "id": 3 }), &[1, 2, 4], &[]),
    ];
    for (at, (body, voters, learners)) in steps.iter().enumerate() {
        let at = [2, 4, 1][at % 3];
        let (status, members) = post(&cluster, at, "members", body).await;
        assert_eq!(status, 200, "{body}: {members}");
        assert_eq!((&members["voters"], &members["learners"]), (&json!(voters), &json!(learners)));
        assert_eq!(members["joint"], false);
        // What was answered shows everywhere at once.
        for other in [1, 2, 4] {
            let seen = cluster.client.members(&cluster.server(other)).await.unwrap();
            assert_eq!(json!(seen), members, "at node {other}, after {body}");
        }
    }
    // A member moves: its address changes first, then its process listens there.
    let moved = format!("127.0.0.1:{}", kv::process::free_port().unwrap());
    cluster.stop(4).await;
    let address = json!({ "op": "address", "id": 4, "addr": moved });
    let (status, members) = post(&cluster, 1, "members", &address).await;
    assert_eq!((status, &members["addresses"]["4"]), (200, &json!(moved)));
    let command = cluster.commands.get_mut(&4).expect("it is known");
    command.raft = moved;
    cluster.up(4);
    cluster.healthy(&[1, 2, 4]).await;
    cluster.end().await;
}

#[tokio::test]
async fn what_can_not_be_has_its_word() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    let members = cluster.client.members(&cluster.server(leader)).await.unwrap();
    for at in [leader, others[0]] {
        for body in ["remove", "promote", "demote"].map(|op| json!({ "op": op, "id": 9 })) {
            refused(&post(&cluster, at, "members", &body).await, 404, "unknown_member");
        }
        let set = json!({ "op": "set", "voters": [1, 9] });
        refused(&post(&cluster, at, "members", &set).await, 404, "unknown_member");
        refused(&post(&cluster, at, "transfer", &json!({ "to": 9 })).await, 404, "unknown_member");
        for body in [
            json!({}),
            json!([]),
            json!({ "op": "nonsense", "id": 1 }),
            json!({ "op": "remove" }),
            json!({ "op": "remove", "id": "1" }),
            json!({ "op": "remove", "id": 1, "more": 1 }),
            json!({ "op": "remove", "id": 1, "timeout_ms": 0 }),
            json!({ "op": "add", "id": 4, "addr": "nowhere" }),
            json!({ "op": "add", "id": 0, "addr": "127.0.0.1:1" }),
            json!({ "op": "add", "id": others[0], "addr": "127.0.0.1:1" }),
            json!({ "op": "set", "voters": [] }),
        ] {
            refused(&post(&cluster, at, "members", &body).await, 400, "bad_request");
        }
        refused(&post(&cluster, at, "transfer", &json!({})).await, 400, "bad_request");
    }
    let now = cluster.client.members(&cluster.server(leader)).await.unwrap();
    assert_eq!(now, members, "nothing was done");

    // Nobody is there.
    let port = kv::process::free_port().unwrap();
    let addr = format!("127.0.0.1:{port}");
    let add = json!({ "op": "add", "id": 9, "addr": addr, "timeout_ms": 300 });
    refused(&post(&cluster, others[0], "members", &add).await, 504, "not_caught_up");
    let now = cluster.client.members(&cluster.server(leader)).await.unwrap();
    assert!(now.learners.contains(&9), "it stays a learner: {now:?}");
    change(&cluster, leader, &Change::Remove { id: 9 }).await;

    // While the leader waits for the target of a transfer, which is paused, nothing else is begun.
    let paused = others[0];
    cluster.signal(paused, Signal::STOP);
    let client = Client::new(PATIENCE);
    let transfer = tokio::spawn({
        let (client, server) = (client.clone(), cluster.server(leader));
        let body = json!({ "to": paused, "timeout_ms": 4000 }).to_string();
        async move { client.send(&server, Method::POST, "/admin/transfer", body).await.unwrap() }
    });
    let place = &members.addresses[&paused];
    let mut attempts = 0;
    eventually("a change to be declined", async || {
        // Until the transfer has begun these are done, one after the other.
        attempts += 1;
        let addr = if attempts % 2 == 0 { place } else { &addr };
        let body = json!({ "op": "address", "id": paused, "addr": addr });
        let answer = post(&cluster, leader, "members", &body).await;
        (answer.0 != 200).then(|| refused(&answer, 409, "change_in_progress"))
    })
    .await;
    refused(&json_of(&transfer.await.unwrap()), 504, "timeout");
    cluster.signal(paused, Signal::CONT);
    change(&cluster, leader, &Change::Address { id: paused, addr: place.clone() }).await;
    cluster.all_healthy().await;

    // Without a quorum nobody can tell.
    let leader = cluster.leader().await;
    for id in cluster.others(leader) {
        cluster.kill(id);
    }
    let demote = json!({ "op": "demote", "id": leader, "timeout_ms": 2000 });
    refused(&post(&cluster, leader, "members", &demote).await, 503, "unknown_outcome");
    cluster.end().await;
}

#[tokio::test]
async fn a_node_that_joins_waits_for_its_cluster() {
    let mut cluster = Cluster::prepared(1);
    cluster.newcomer(2, 1, &["--learner"]);
    cluster.up(2);
    cluster.says(2, "can't join at").await;
    // It serves meanwhile.
    assert_eq!(cluster.status(2).await.expect("it answers").id, 2);
    cluster.up(1);
    cluster.says(2, "node 2 has joined as a learner").await;
    cluster.healthy(&[1, 2]).await;
    // The same command once more, and then without --learner.
    cluster.kill(2);
    cluster.up(2);
    cluster.healthy(&[2]).await;
    assert_eq!(cluster.status(2).await.expect("it answers").role, "learner");
    cluster.kill(2);
    cluster.commands.get_mut(&2).expect("it is known").more.retain(|flag| flag != "--learner");
    cluster.up(2);
    cluster.says(2, "node 2 has joined as a voter").await;
    agree_on_voters(&cluster, &[1, 2]).await;
    cluster.end().await;
}
