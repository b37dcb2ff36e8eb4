//! Writes in sessions, as processes: a repeated request is answered as the first was, through
//! `kill -9`, and done once.

use bytes::Bytes;
use hyper::Method;
use kv::client::Answer;
use serde_json::{Value, json};

use crate::support::{Cluster, eventually};

async fn write(
    cluster: &Cluster,
    at: u64,
    session: u64,
    sequence: u64,
    (method, path, body): (Method, &str, &str),
) -> Answer {
    let of = (session, sequence);
    let (server, body) = (cluster.server(at), Bytes::copy_from_slice(body.as_bytes()));
    cluster.client.send_in(of, &server, method, path, body).await.unwrap()
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn word(answer: &Answer) -> (u16, String) {
    (answer.status, body(answer)["error"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_answered_as_the_first_was() {
    let mut cluster = Cluster::prepared(3);
    for command in cluster.commands.values_mut() {
        // One keeps its values on a disk of its own.
        let store = if command.id == 2 { "redb" } else { "memory" };
        let more = ["--store", store, "--snapshot-entries", "20", "--keep-entries", "2"];
        command.more = more.map(str::to_owned).to_vec();
    }
    cluster.up_all();
    cluster.complete().await;
    let session = cluster.client.open_session(&cluster.server(2)).await.unwrap();
    let put = (Method::PUT, "/kv/a", "1");
    let first = write(&cluster, 1, session, 1, put.clone()).await;
    assert_eq!((first.status, first.repeated), (200, false), "{first:?}");
    cluster.client.put(&cluster.server(3), "a", Bytes::from_static(b"2")).await.unwrap();
    for at in [1, 2, 3] {
        let again = write(&cluster, at, session, 1, put.clone()).await;
        assert_eq!((again.status, again.repeated, &again.body), (200, true, &first.body));
        let value = cluster.client.get(&cluster.server(at), "a").await.unwrap();
        assert_eq!(value.unwrap(), "2", "not written again");
    }
    let cas = (Method::POST, "/kv/a/cas", r#"{"expect":"2","value":"3"}"#);
    let delete = (Method::DELETE, "/kv/a", "");
    let not_text = (Method::PUT, "/kv/b", "x");
    let swapped = write(&cluster, 2, session, 2, cas.clone()).await;
    assert_eq!(body(&swapped), json!({ "swapped": true, "current": "3" }));
    let deleted = write(&cluster, 3, session, 3, delete.clone()).await;
    assert_eq!(body(&deleted), json!({ "deleted": true }));
    let other = write(&cluster, 3, session, 3, not_text).await;
    assert_eq!(word(&other), (400, "bad_request".into()), "another request under the same number");

    // Every process is killed; logs are compacted, so the answers come out of snapshots too.
    for i in 0..60 {
        cluster.client.put(&cluster.server(1), &format!("k{i}"), Bytes::new()).await.unwrap();
    }
    for id in cluster.ids() {
        let compacted = async || {
            let status = cluster.client.status(&cluster.server(id)).await.ok()?;
            (status.compacted > 20).then_some(())
        };
        eventually("a compacted log", compacted).await;
    }
    for id in cluster.ids() {
        cluster.kill(id);
    }
    cluster.up_all();
    cluster.all_healthy().await;
    for at in [1, 2, 3] {
        for (sequence, request, answer) in
            [(1, &put, &first), (2, &cas, &swapped), (3, &delete, &deleted)]
        {
            let again = write(&cluster, at, session, sequence, request.clone()).await;
            assert_eq!((again.status, again.repeated, &again.body), (200, true, &answer.body));
        }
        assert_eq!(cluster.client.get(&cluster.server(at), "a").await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_session_is_told_so() {
    let mut cluster = Cluster::prepared(1);
    let more = ["--session-ttl", "300ms", "--max-sessions", "2", "--quota-bytes", "1MiB"];
    cluster.commands.get_mut(&1).unwrap().more = more.map(str::to_owned).to_vec();
    cluster.up_all();
    cluster.complete().await;
    let open = async || cluster.client.open_session(&cluster.server(1)).await.unwrap();
    let put = (Method::PUT, "/kv/a", "1");
    let sessions = [open().await, open().await, open().await];
    let crowded = write(&cluster, 1, sessions[0], 1, put.clone()).await;
    assert_eq!(word(&crowded), (410, "session_expired".into()));
    // Log time passes at the pace of the leader's clock, seen at the next write in any session.
    let lapsed = async || {
        let fresh = open().await;
        let answer = write(&cluster, 1, fresh, 1, put.clone()).await;
        assert_eq!(answer.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let answer = write(&cluster, 1, fresh, 2, put.clone()).await;
        (answer.status == 410).then_some(())
    };
    eventually("a session to lapse", lapsed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_none_are_refused() {
    let cluster = Cluster::start(1).await;
    let put = (Method::PUT, "/kv/a", "1");
    let unknown = write(&cluster, 1, 999, 1, put.clone()).await;
    assert_eq!(word(&unknown), (410, "session_expired".into()));
    for (session, sequence) in [(0, 1), (1, 0)] {
        let answer = write(&cluster, 1, session, sequence, put.clone()).await;
        assert_eq!(word(&answer), (400, "bad_request".into()));
    }
    let session = cluster.client.open_session(&cluster.server(1)).await.unwrap();
    // Far ahead: what is a thousand behind needs no answer any more.
    assert_eq!(write(&cluster, 1, session, 1, put.clone()).await.status, 200);
    assert_eq!(write(&cluster, 1, session, 5000, put.clone()).await.status, 200);
    let gone = write(&cluster, 1, session, 1, put.clone()).await;
    assert_eq!(word(&gone), (409, "already_acknowledged".into()));
    assert_eq!(cluster.client.get(&cluster.server(1), "a").await.unwrap().unwrap(), "1");
}
