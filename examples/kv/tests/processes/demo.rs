//! The demo, from the first line to the last.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kv::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{PATIENCE, eventually, program};

fn demo(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(["--http-base", "0", "--raft-base", "0"]).args(arguments);
    command.env("TMPDIR", temporary);
    command
}

#[tokio::test]
async fn a_leader_dies_and_nothing_is_lost() {
    let temporary = TempDir::new().unwrap();
    let mut command = demo(temporary.path(), &["--exit", "--json", "--keys", "2000"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fields: Vec<_> = result.as_object().unwrap().keys().collect();
    let expected = ["acknowledged", "leaderless_ms", "lost", "p50_us", "p99_us", "writes_s"];
    assert_eq!(fields, expected);
    assert_eq!((&result["acknowledged"], &result["lost"]), (&2000.into(), &0.into()));
    let number = |name: &str| result[name].as_u64().unwrap();
    assert!(number("leaderless_ms") > 0 && number("writes_s") > 0, "{result}");
    assert!(0 < number("p50_us") && number("p50_us") <= number("p99_us"), "{result}");
    assert!(err.contains("SIGKILL to the leader"), "{err}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "nothing is left over");
}

#[tokio::test]
async fn it_serves_until_it_is_told_to_stop_and_goes_on_with_kept_data() {
    let temporary = TempDir::new().unwrap();
    let data = temporary.path().join("data");
    let mut servers = Vec::new();
    for keys in ["1", "30"] {
        let arguments = ["--keys", keys, "--data", data.to_str().unwrap()];
        let mut command = demo(temporary.path(), &arguments);
        let mut child = Guard(command.stdout(Stdio::piped()).spawn().unwrap());
        let stdout = child.0.stdout.take().unwrap();
        // Ends when the process does, so a demo that fails is not waited for.
        let lines = tokio::task::spawn_blocking(move || {
            let mut lines = Vec::new();
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let last = line.starts_with("Ctrl-C");
                lines.push(line);
                if last {
                    break;
                }
            }
            lines
        });
        let lines = tokio::time::timeout(PATIENCE, lines).await.unwrap().unwrap();
        let curl = lines.iter().find(|line| line.contains("curl http")).expect("a line to try");
        let address = curl.trim().strip_prefix("curl http://").unwrap();
        let (address, path) = address.split_once('/').unwrap();
        let client = kv::client::Client::new(PATIENCE);
        let server = format!("http://{address}").parse().unwrap();
        let (method, path) = (hyper::Method::GET, format!("/{path}"));
        let answer = client.send(&server, method, &path, bytes::Bytes::new()).await.unwrap();
        assert_eq!(answer.status, 200, "{curl}");
        servers.push(server);

        let pid = rustix::process::Pid::from_raw(child.0.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let status = eventually("the demo to end", async || child.0.try_wait().unwrap()).await;
        assert!(status.success(), "{status}");
        for server in &servers {
            assert!(client.status(server).await.is_err(), "a node is left over");
        }
    }
    let printed = |id: u64| std::fs::read_to_string(data.join(format!("node-{id}.log"))).unwrap();
    for id in 1..=3 {
        assert!(!printed(id).contains("panicked"), "{}", printed(id));
    }
}

#[tokio::test]
async fn nodes_do_not_outlive_a_demo_that_was_killed() {
    let temporary = TempDir::new().unwrap();
    let data = temporary.path().join("data");
    let arguments = ["--keys", "1000000", "--data", data.to_str().unwrap()];
    let mut child =
        Guard(demo(temporary.path(), &arguments).stdout(Stdio::null()).spawn().unwrap());
    let ports = data.join("raft-ports");
    let ports = eventually("the nodes to listen", async || {
        let ports = std::fs::read_to_string(&ports).ok()?;
        ports.split(' ').all(in_use).then_some(ports)
    })
    .await;
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    eventually("the nodes to end", async || (!ports.split(' ').any(in_use)).then_some(())).await;
}

/// Asked by a connection: who tried to listen there would take the port from the node.
fn in_use(port: &str) -> bool {
    std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok()
}

/// Killed when dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn ports_that_are_taken_are_told() {
    let temporary = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = taken.local_addr().unwrap().port().to_string();
    let mut command = Command::new(program());
    command.args(["--exit", "--http-base", &base, "--raft-base", "0", "--keys", "1"]);
    command.env("TMPDIR", temporary.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(err.contains("--http: can't listen on"), "{err}");
}
