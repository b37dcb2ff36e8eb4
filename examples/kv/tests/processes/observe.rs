//! What an operator sees of nodes that run: `/metrics` and `kv top`.

use std::process::{Command, Output, Stdio};

use hyper::Method;
use kv::client::Server;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::{Cluster, Load, PATIENCE, program};

#[tokio::test]
async fn metrics_are_openmetrics_text_of_what_the_node_did() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for n in 0..10 {
        let (server, key) = (cluster.server(leader), format!("key-{n}"));
        cluster.client.put(&server, &key, "value".into()).await.unwrap();
    }
    let answer =
        cluster.client.send(&cluster.server(leader), Method::GET, "/metrics", "").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.ends_with("# EOF\n"));
    for line in [
        format!("quorate_role{{node=\"{leader}\",group=\"1\",role=\"leader\"}} 1"),
        format!("quorate_proposed_writes_total{{node=\"{leader}\",group=\"1\"}} 10"),
        format!(
            "quorate_write_seconds_count{{node=\"{leader}\",group=\"1\",stage=\"answered\"}} 10"
        ),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    cluster.end().await;
}

/// `kv top --once --json` with these servers: exit code, the object, what is on stderr.
async fn top(servers: &[Server]) -> (i32, Value, String) {
    let servers: Vec<String> = servers.iter().map(Server::to_string).collect();
    let servers = servers.join(",");
    let said = run(&["top", "--once", "--json", "--server", &servers]).await;
    let object = serde_json::from_slice(&said.stdout).unwrap();
    (said.status.code().unwrap(), object, String::from_utf8(said.stderr).unwrap())
}

async fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.env_remove("KV_SERVER").args(arguments);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

#[tokio::test]
async fn top_shows_who_leads_who_lags_and_how_long_writes_take() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let down = cluster.others(leader)[0];
    let load = Load::start(&cluster);
    load.goes_on(20).await;
    let (code, object, err) = top(&cluster.servers()).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(object["interval_ms"].as_u64().unwrap() >= 1000, "{object}");
    let nodes = object["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for (node, id) in nodes.iter().zip(cluster.ids()) {
        let fields: Vec<&str> = node.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "server",
            "id",
            "role",
            "term",
            "committed",
            "applied",
            "lag",
            "writes_s",
            "p50_us",
            "p99_us",
            "log_p50_us",
            "log_p99_us",
            "healthy",
            "failed",
            "error",
        ];
        expected.sort_unstable();
        assert_eq!(fields, expected);
        assert_eq!((&node["id"], &node["error"]), (&json!(id), &Value::Null), "{node}");
        let role = if id == leader { "leader" } else { "follower" };
        assert_eq!(node["role"], role, "{node}");
        assert!(node["writes_s"].as_u64().unwrap() > 0, "{node}");
        assert!(node["log_p99_us"].as_u64() >= node["log_p50_us"].as_u64(), "{node}");
        assert!(node["log_p50_us"].is_u64() && node["lag"].is_u64(), "{node}");
        assert_eq!(node["p99_us"].is_u64(), id == leader, "{node}");
    }

    cluster.kill(down);
    let (code, object, _) = top(&cluster.servers()).await;
    assert_eq!(code, 0, "others answer");
    let node = &object["nodes"][down as usize - 1];
    assert!(node["error"].as_str().unwrap().contains("can't connect"), "{node}");
    assert_eq!((&node["id"], &node["healthy"]), (&Value::Null, &json!(false)), "{node}");
    let table = run(&["top", "--once", "--server", &cluster.server(leader).to_string()]).await;
    let table = String::from_utf8(table.stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("server") && lines[1].contains("leader"), "{table}");
    assert!(!table.contains('\x1b'), "no terminal, no drawing");
    load.finish().await;
    cluster.end().await;
}

#[tokio::test]
async fn top_fails_if_no_node_answers_and_ends_with_ctrl_c() {
    let nobody: Server =
        format!("http://127.0.0.1:{}", kv::process::free_port().unwrap()).parse().unwrap();
    let (code, object, err) = top(std::slice::from_ref(&nobody)).await;
    assert_eq!((code, err.as_str()), (1, ""), "with --json an answer is not an error");
    assert!(object["nodes"][0]["error"].is_string());
    let said = run(&["top", "--once", "--server", &nobody.to_string()]).await;
    assert_eq!(said.status.code(), Some(1));
    let err = String::from_utf8(said.stderr).unwrap();
    assert!(err.starts_with("error: none of 1 servers answered"), "{err}");

    let mut live = tokio::process::Command::new(program())
        .args(["top", "--server", &nobody.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(live.stdout.take().unwrap()).lines();
    // The second table: it goes on by itself.
    for _ in 0..4 {
        tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    }
    let id = rustix::process::Pid::from_raw(live.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let status = tokio::time::timeout(PATIENCE, live.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}
