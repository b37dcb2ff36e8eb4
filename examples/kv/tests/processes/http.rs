//! The contract over HTTP: every route, status, field and error word.

use bytes::Bytes;
use hyper::Method;
use kv::client::{Answer, Client, Server};
use serde_json::{Value, json};

use crate::support::Cluster;

/// One server, spoken to in plain requests.
struct Api {
    client: Client,
    server: Server,
}

impl Api {
    fn of(cluster: &Cluster, id: u64) -> Self {
        Self { client: cluster.client.clone(), server: cluster.server(id) }
    }

    async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        self.client.send(&self.server, method, path, body).await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Bytes::new()).await
    }

    async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Method::PUT, path, body).await
    }

    async fn cas(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, body.to_string()).await
    }
}

fn body(answer: &Answer) -> Value {
    assert_eq!(answer.content_type, "application/json");
    serde_json::from_slice(&answer.body).unwrap()
}

/// An answer that is 200, as JSON.
fn done(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    body(answer)
}

/// An answer that is an error: exactly a word and a text.
fn refused(answer: &Answer, status: u16, word: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = body(answer);
    let fields = body.as_object().unwrap();
    assert_eq!(fields.len(), 2, "{body}");
    assert_eq!(fields["error"], word);
    assert!(!fields["message"].as_str().unwrap().is_empty());
}

fn fields(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn any_node_takes_any_request() {
    let cluster = Cluster::start(3).await;
    let [one, two, three] = [1, 2, 3].map(|id| Api::of(&cluster, id));
    let mut last = 0;
    for (number, api) in [&one, &two, &three].into_iter().enumerate() {
        let put = done(&api.put("/kv/k", format!("v{number}")).await);
        assert_eq!(fields(&put), ["index"]);
        let index = put["index"].as_u64().unwrap();
        assert!(index > last, "later writes stand later");
        last = index;
        for reader in [&one, &two, &three] {
            let got = reader.get("/kv/k").await;
            assert_eq!((got.status, &got.body[..]), (200, format!("v{number}").as_bytes()));
            assert_eq!(got.content_type, "application/octet-stream");
        }
    }
    assert_eq!(done(&two.send(Method::DELETE, "/kv/k", "").await), json!({ "deleted": true }));
    assert_eq!(done(&three.send(Method::DELETE, "/kv/k", "").await), json!({ "deleted": false }));
    refused(&one.get("/kv/k").await, 404, "not_found");
    let swap = json!({ "expect": null, "value": "x" });
    let swapped = json!({ "swapped": true, "current": "x" });
    assert_eq!(done(&three.cas("/kv/k/cas", swap).await), swapped);
    assert_eq!(&two.get("/kv/k").await.body[..], b"x");
    cluster.end().await;
}

#[tokio::test]
async fn a_key_is_one_segment_percent_decoded() {
    let cluster = Cluster::start(1).await;
    let api = Api::of(&cluster, 1);
    done(&api.put("/kv/http%2Ftcp", "80").await);
    assert_eq!(&api.get("/kv/http%2ftcp").await.body[..], b"80");
    assert_eq!(&api.get("/kv/%68ttp%2Ftcp").await.body[..], b"80");
    assert_eq!(&api.get("/kv/http%2Ftcp?read=stale").await.body[..], b"80");
    done(&api.cas("/kv/http%2Ftcp/cas", json!({ "expect": "80", "value": "81" })).await);
    // What the client encodes, the server decodes: also a key that looks like a path.
    for key in ["..", ".", "cas", "a/cas", "100%", "größe", "a b+c?d#e", "\u{1f980}"] {
        cluster.client.put(&api.server, key, Bytes::from(key.to_owned())).await.unwrap();
        let found = cluster.client.get(&api.server, key).await.unwrap();
        assert_eq!(found, Some(Bytes::from(key.to_owned())));
    }
    let longest = "k".repeat(512);
    done(&api.put(&format!("/kv/{longest}"), "").await);
    let empty = api.get(&format!("/kv/{longest}")).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0), "an empty value is a value");
    for path in
        ["/kv/", "/kv", "/kv/a/b", "/kv/a/cas/b", "/kv/%ff", "/kv/%zz", "/kv/%2", "/kv//cas"]
    {
        refused(&api.get(path).await, 400, "bad_request");
    }
    refused(&api.put(&format!("/kv/{longest}k"), "").await, 400, "bad_request");
    refused(&api.put("/kv/%C3%28", "").await, 400, "bad_request");
    cluster.end().await;
}

#[tokio::test]
async fn values_are_any_bytes_up_to_the_limit() {
    let cluster = Cluster::start(1).await;
    let api = Api::of(&cluster, 1);
    let any: Vec<u8> = (0..=255).collect();
    done(&api.put("/kv/any", any.clone()).await);
    assert_eq!(api.get("/kv/any").await.body, any);
    // 1 MiB unless told otherwise; a byte more, and also far more, is refused and changes nothing.
    let largest = vec![7; 1 << 20];
    done(&api.put("/kv/large", largest.clone()).await);
    refused(&api.put("/kv/large", vec![8; (1 << 20) + 1]).await, 413, "too_large");
    refused(&api.put("/kv/large", vec![8; 12 << 20]).await, 413, "too_large");
    assert_eq!(api.get("/kv/large").await.body, largest);
    let long = "x".repeat((1 << 20) + 1);
    let swap = json!({ "expect": null, "value": long });
    refused(&api.cas("/kv/new/cas", swap).await, 413, "too_large");
    let swap = json!({ "expect": long, "value": "" });
    refused(&api.cas("/kv/new/cas", swap).await, 413, "too_large");
    refused(&api.get("/kv/new").await, 404, "not_found");
    cluster.end().await;

    let mut small = Cluster::prepared(1);
    small.commands.get_mut(&1).unwrap().more = ["--max-value", "10"].map(String::from).into();
    small.up_all();
    small.all_healthy().await;
    let api = Api::of(&small, 1);
    done(&api.put("/kv/k", "0123456789").await);
    refused(&api.put("/kv/k", "0123456789a").await, 413, "too_large");
    // Counted as text, not as JSON writes it.
    let swap = json!({ "expect": "0123456789", "value": "\u{1}\u{1}\u{1}\u{1}\u{1}" });
    assert_eq!(done(&api.cas("/kv/k/cas", swap).await)["swapped"], true);
    small.end().await;
}

#[tokio::test]
async fn cas_swaps_what_was_expected_and_tells_what_is_there() {
    let cluster = Cluster::start(1).await;
    let api = Api::of(&cluster, 1);
    let cas = async |expect: Value, value: &str| {
        done(&api.cas("/kv/k/cas", json!({ "expect": expect, "value": value })).await)
    };
    let answer = |swapped: bool, current: Value| json!({ "swapped": swapped, "current": current });
    assert_eq!(cas(json!("a"), "b").await, answer(false, Value::Null));
    assert_eq!(cas(Value::Null, "a").await, answer(true, json!("a")));
    assert_eq!(cas(Value::Null, "b").await, answer(false, json!("a")));
    assert_eq!(cas(json!("b"), "c").await, answer(false, json!("a")));
    assert_eq!(cas(json!("a"), "").await, answer(true, json!("")));
    assert_eq!(cas(json!(""), "größe\n").await, answer(true, json!("größe\n")));
    done(&api.put("/kv/k", vec![0xff, 0xfe]).await);
    for expect in [json!("a"), Value::Null] {
        let swap = json!({ "expect": expect, "value": "b" });
        refused(&api.cas("/kv/k/cas", swap).await, 409, "not_text");
    }
    assert_eq!(&api.get("/kv/k").await.body[..], [0xff, 0xfe]);
    let bad = [
        "",
        "{",
        "null",
        r#"{"value":"a"}"#,
        r#"{"expect":null}"#,
        r#"{"expect":1,"value":"a"}"#,
        r#"{"expect":null,"value":null}"#,
        r#"{"expect":null,"value":"a","vlaue":"b"}"#,
    ];
    for body in bad {
        refused(&api.send(Method::POST, "/kv/k/cas", body).await, 400, "bad_request");
    }
    cluster.end().await;
}

#[tokio::test]
async fn what_is_no_route_is_told_so() {
    let cluster = Cluster::start(1).await;
    let api = Api::of(&cluster, 1);
    for path in ["/", "/nothing", "/status/", "/kvs/a"] {
        refused(&api.get(path).await, 404, "not_found");
    }
    refused(&api.send(Method::POST, "/kv/k", "v").await, 400, "bad_request");
    refused(&api.send(Method::PATCH, "/kv/k", "v").await, 400, "bad_request");
    refused(&api.get("/kv/k/cas").await, 400, "bad_request");
    refused(&api.send(Method::PUT, "/status", "").await, 400, "bad_request");
    refused(&api.send(Method::DELETE, "/health", "").await, 400, "bad_request");
    for query in [
        "read=stael",
        "read=",
        "read",
        "read=stale&read=linearizable",
        "read=bounded",
        "read=bounded:",
        "read=bounded:1s",
        "read=bounded:-1ms",
    ] {
        refused(&api.get(&format!("/kv/k?{query}")).await, 400, "bad_request");
    }
    refused(&api.get("/kv/k?read=stale").await, 404, "not_found");
    for how in ["index", "lease", "stale", "bounded:200ms", "bounded:0ms"] {
        refused(&api.get(&format!("/kv/k?read={how}")).await, 404, "not_found");
        assert_eq!(api.get(&format!("/admin/members?read={how}")).await.status, 200, "{how}");
    }
    cluster.end().await;
}

#[tokio::test]
async fn status_has_exactly_its_fields() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for id in cluster.ids() {
        let api = Api::of(&cluster, id);
        done(&api.put("/kv/k", "v").await);
        assert_eq!(done(&api.get("/health").await), json!({ "healthy": true }));
        let text = api.get("/status").await.body;
        let status: Value = serde_json::from_slice(&text).unwrap();
        let mut names = fields(&status);
        let mut expected = [
            "id",
            "role",
            "term",
            "leader",
            "last",
            "committed",
            "applied",
            "persisted",
            "snapshot",
            "compacted",
            "members",
            "matched",
            "removed",
            "witness",
            "fatal",
        ];
        // A script may compare the text, so the order is the documented one.
        let at = |name: &str| {
            let quoted = format!("\"{name}\":");
            text.windows(quoted.len()).position(|window| window == quoted.as_bytes()).unwrap()
        };
        assert!(expected.is_sorted_by_key(|name| at(name)), "{status}");
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);

        assert_eq!(status["id"], id);
        assert_eq!(status["role"], if id == leader { "leader" } else { "follower" });
        assert_eq!(status["leader"], leader);
        assert_eq!(status["fatal"], Value::Null);
        let number = |name: &str| status[name].as_u64().unwrap();
        assert!(number("term") >= 1);
        assert!(number("applied") <= number("committed"), "{status}");
        assert!(number("committed") <= number("last"), "{status}");
        assert!(number("persisted") <= number("last"), "{status}");
        let addresses: serde_json::Map<_, _> = cluster
            .commands
            .values()
            .map(|command| (command.id.to_string(), json!(command.raft)))
            .collect();
        let members = json!({ "voters": [1, 2, 3], "learners": [], "addresses": addresses });
        assert_eq!(status["members"], members);
        let matched: Vec<u64> =
            fields(&status["matched"]).iter().map(|id| id.parse().unwrap()).collect();
        assert_eq!(matched, if id == leader { cluster.others(leader) } else { vec![] });
    }
    cluster.end().await;
}

#[tokio::test]
async fn without_a_quorum_only_stale_reads_are_answered() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = Api::of(&cluster, leader);
    done(&api.put("/kv/k", "v").await);
    for id in cluster.others(leader) {
        cluster.kill(id);
    }
    let (get, put) = tokio::join!(api.get("/kv/k"), api.put("/kv/k", "w"));
    refused(&get, 504, "timeout");
    // It has the write in its log and does not know; if it has already stepped down, it took none.
    match put.status {
        503 => refused(&put, 503, "unknown_outcome"),
        _ => refused(&put, 504, "timeout"),
    }
    let health = api.get("/health").await;
    assert_eq!((health.status, body(&health)), (503, json!({ "healthy": false })));
    let stale = api.get("/kv/k?read=stale").await;
    assert_eq!((stale.status, &stale.body[..]), (200, &b"v"[..]));
    let status = done(&api.get("/status").await);
    assert_eq!((&status["leader"], &status["matched"]), (&Value::Null, &json!({})));
    cluster.end().await;
}

#[tokio::test]
async fn a_blank_node_waits_and_takes_no_more_than_it_can_hold() {
    let mut cluster = Cluster::prepared(1);
    cluster.commands.get_mut(&1).unwrap().bootstrap = false;
    cluster.up(1);
    let api = Api::of(&cluster, 1);
    let status =
        crate::support::eventually("the node to answer", async || cluster.status(1).await).await;
    assert_eq!((status.role.as_str(), status.term, status.leader), ("follower", 0, None));
    assert_eq!((status.last, status.committed, status.applied), (0, 0, 0));
    let status = done(&api.get("/status").await);
    let nobody = json!({ "voters": [], "learners": [], "addresses": {} });
    assert_eq!(status["members"], nobody);
    assert_eq!(api.get("/health").await.status, 503);
    // 80 MiB of writes that wait for a leader, where 64 MiB may wait.
    let value = Bytes::from(vec![0; 1 << 20]);
    let writes = (0..80).map(|n| {
        let (api, value) = (&api, value.clone());
        async move { api.put(&format!("/kv/{n}"), value).await }
    });
    let answers = futures::future::join_all(writes).await;
    let overloaded = answers.iter().filter(|answer| answer.status == 429).count();
    assert!((1..80).contains(&overloaded), "{overloaded} are overloaded");
    for answer in &answers {
        match answer.status {
            429 => refused(answer, 429, "overloaded"),
            _ => refused(answer, 504, "timeout"),
        }
    }
    cluster.end().await;
}
