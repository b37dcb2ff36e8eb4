//! The command line: what it prints, where, and its exit codes.

use std::io::Write as _;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Cluster, eventually, program};

struct Shell {
    servers: Vec<String>,
}

struct Said {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Shell {
    fn of(cluster: &Cluster) -> Self {
        Self { servers: cluster.servers().iter().map(ToString::to_string).collect() }
    }

    /// Runs `kv` with the servers in its environment.
    async fn run(&self, arguments: &[&str]) -> Said {
        run(&[("KV_SERVER", self.servers.join(","))], arguments).await
    }

    async fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let said = self.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(said.err, "", "with --json an answer is not an error");
        (said.code, serde_json::from_slice(&said.out).unwrap())
    }
}

async fn run(environment: &[(&str, String)], arguments: &[&str]) -> Said {
    let mut command = Command::new(program());
    command.env_remove("KV_SERVER").args(arguments);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let Output { status, stdout, stderr } = output.unwrap();
    let err = String::from_utf8(stderr).unwrap();
    Said { code: status.code().unwrap(), out: stdout, err }
}

#[tokio::test]
async fn keys_are_stored_read_swapped_and_removed() {
    let cluster = Cluster::start(3).await;
    let kv = Shell::of(&cluster);
    let put = kv.run(&["put", "http/tcp", "80"]).await;
    assert_eq!((put.code, put.err.as_str()), (0, ""));
    assert!(put.out.starts_with(b"stored at index "));
    let get = kv.run(&["get", "http/tcp"]).await;
    assert_eq!((get.code, &get.out[..]), (0, &b"80"[..]), "the raw value and no newline");
    let stale = kv.run(&["get", "--stale", "http/tcp"]).await;
    assert_eq!((stale.code, &stale.out[..]), (0, &b"80"[..]));

    let missing = kv.run(&["get", "nothing"]).await;
    assert_eq!((missing.code, &missing.out[..]), (1, &b""[..]));
    assert!(missing.err.starts_with("error: there is no key"), "{}", missing.err);

    assert_eq!(kv.run(&["cas", "http/tcp", "80", "-1"]).await.out, b"swapped\n");
    let refused = kv.run(&["cas", "http/tcp", "80", "82"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("not swapped"), "{}", refused.err);
    assert_eq!(kv.run(&["cas", "--absent", "http/tcp", "82"]).await.code, 1);
    assert_eq!(kv.run(&["cas", "--absent", "new", "1"]).await.code, 0);

    assert_eq!(kv.run(&["delete", "new"]).await.out, b"deleted\n");
    let gone = kv.run(&["delete", "new"]).await;
    assert_eq!((gone.code, &gone.out[..]), (1, &b""[..]));
    cluster.end().await;
}

#[tokio::test]
async fn json_is_for_programs() {
    let cluster = Cluster::start(1).await;
    let kv = Shell::of(&cluster);
    let (code, put) = kv.json(&["put", "k", "é"]).await;
    assert_eq!((code, put["index"].is_u64()), (0, true), "{put}");
    let found = json!({ "key": "k", "found": true, "value": "é", "bytes": 2 });
    assert_eq!(kv.json(&["get", "k"]).await, (0, found));
    let missing = json!({ "key": "x", "found": false, "value": null, "bytes": null });
    assert_eq!(kv.json(&["get", "x"]).await, (1, missing));
    let swapped = json!({ "swapped": true, "current": "b" });
    assert_eq!(kv.json(&["cas", "k", "é", "b"]).await, (0, swapped));
    let not = json!({ "swapped": false, "current": "b" });
    assert_eq!(kv.json(&["cas", "k", "é", "c"]).await, (1, not));
    assert_eq!(kv.json(&["delete", "k"]).await, (0, json!({ "deleted": true })));
    assert_eq!(kv.json(&["delete", "k"]).await, (1, json!({ "deleted": false })));
    let (code, status) = kv.json(&["status"]).await;
    let server = &status["servers"][0];
    assert_eq!((code, &server["server"]), (0, &json!(kv.servers[0])));
    assert_eq!((&server["healthy"], &server["error"]), (&json!(true), &Value::Null));
    assert_eq!(server["status"]["role"], "leader");
    cluster.end().await;
}

#[tokio::test]
async fn a_file_is_loaded_and_the_next_server_asked() {
    let mut cluster = Cluster::start(3).await;
    let kv = Shell::of(&cluster);
    let path = cluster.directory.path().join("services");
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(file, "# two and a half\nhttp/tcp\t80\n\nssh/tcp   22\nhttp/tcp 8080").unwrap();
    let path = path.to_str().unwrap();
    let (code, loaded) = kv.json(&["load", path]).await;
    assert_eq!((code, &loaded["acknowledged"], &loaded["failed"]), (0, &json!(2), &json!(0)));
    assert_eq!(kv.run(&["get", "ssh/tcp"]).await.out, b"22");

    // The first server is gone: the second is asked, and `status` shows all the same.
    cluster.kill(1);
    cluster.healthy(&[2, 3]).await;
    assert_eq!(kv.run(&["get", "http/tcp"]).await.out, b"8080");
    assert_eq!(kv.run(&["put", "a", "b"]).await.code, 0);
    let status = eventually("a status", async || {
        let status = kv.run(&["status"]).await;
        String::from_utf8_lossy(&status.out).contains("leader ").then_some(status)
    })
    .await;
    assert_eq!(status.code, 1, "one did not answer");
    let table = String::from_utf8(status.out).unwrap();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(1).unwrap().contains("can't connect"), "{table}");
    assert!(status.err.contains("1 of 3 servers did not answer"), "{}", status.err);
    cluster.end().await;
}

#[tokio::test]
async fn members_are_shown_and_changed() {
    let cluster = Cluster::start(3).await;
    let kv = Shell::of(&cluster);
    let shown = kv.run(&["admin", "members"]).await;
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
    let table = String::from_utf8(shown.out).unwrap();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(1).unwrap().ends_with(&cluster.commands[&1].raft), "{table}");

    let (code, members) = kv.json(&["admin", "members"]).await;
    assert_eq!((code, &members["voters"]), (0, &json!([1, 2, 3])));
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0].to_string();
    let (code, members) = kv.json(&["admin", "demote", &follower]).await;
    assert_eq!((code, &members["learners"]), (0, &json!([cluster.others(leader)[0]])));
    let promoted = kv.run(&["admin", "promote", &follower]).await;
    assert_eq!((promoted.code, promoted.err.as_str()), (0, ""), "no bar where no terminal is");
    assert_eq!(String::from_utf8(promoted.out).unwrap(), table);

    let (code, led) = kv.json(&["admin", "transfer", &follower]).await;
    assert_eq!((code, led), (0, json!({ "leader": cluster.others(leader)[0] })));
    let (code, snapshot) = kv.json(&["admin", "snapshot"]).await;
    assert!(code == 0 && snapshot["index"].is_u64() && snapshot["bytes"].is_u64(), "{snapshot}");

    let stranger = kv.run(&["admin", "remove", "9"]).await;
    assert_eq!((stranger.code, &stranger.out[..]), (1, &b""[..]));
    assert!(stranger.err.contains("unknown_member"), "{}", stranger.err);
    let absent = format!("127.0.0.1:{}", kv::process::free_port().unwrap());
    let late = kv.run(&["admin", "add", "9", &absent, "--timeout", "1"]).await;
    assert_eq!(late.code, 1);
    assert!(late.err.contains("not_caught_up"), "{}", late.err);
    let members = kv.run(&["admin", "remove", "9"]).await;
    assert_eq!(String::from_utf8(members.out).unwrap(), table);
    cluster.end().await;
}

#[tokio::test]
async fn what_fails_is_1_and_what_makes_no_sense_is_2() {
    let port = kv::process::free_port().unwrap();
    let nobody = format!("http://127.0.0.1:{port}");
    for arguments in [&["get", "k"][..], &["put", "k", "v"], &["status"], &["admin", "members"]] {
        let said = run(&[], &[arguments, &["--server", &nobody]].concat()).await;
        assert_eq!(said.code, 1, "{arguments:?} {}", said.err);
        assert!(said.err.starts_with("error: "), "{}", said.err);
    }
    let long = "k".repeat(513);
    let wrong: [&[&str]; 21] = [
        &["nonsense"],
        &["--nonsense"],
        &["get"],
        &["get", ""],
        &["get", &long],
        &["put", "k"],
        &["cas", "k", "v"],
        &["cas", "--absent", "k", "a", "b"],
        &["get", "k", "--server", "127.0.0.1:8001"],
        &["get", "k", "--server", "https://127.0.0.1"],
        &["load", "/does/not/exist"],
        &["serve", "--id", "1"],
        &["admin", "add", "4"],
        &["admin", "add", "4", "no-port"],
        &["admin", "add", "0", "127.0.0.1:7004"],
        &["admin", "remove"],
        &["admin", "transfer", "two"],
        &["admin", "promote", "4", "--timeout", "0"],
        &["--keys", "0"],
        &["--load", "/does/not/exist"],
        &["--http-base", "65534"],
    ];
    for arguments in wrong {
        let said = run(&[], arguments).await;
        assert_eq!(said.code, 2, "{arguments:?} {}", said.err);
        assert!(said.err.starts_with("error: "), "{}", said.err);
    }
    let serve = ["serve", "--data", "/tmp", "--raft", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let wrong: [&[&str]; 14] = [
        &["--id", "4", "--peers", "1=a:1,2=b:2"],
        &["--id", "0", "--peers", "1=a:1"],
        &["--id", "1", "--peers", "1=a:1,1=b:2"],
        &["--id", "1", "--peers", "a:1"],
        &["--id", "1", "--peers", "1=a:1", "--max-value", "0"],
        &["--id", "1", "--peers", "1=a:1", "--http", "nowhere"],
        &["--id", "1", "--peers", "1=a:1", "--snapshot-entries", "0"],
        &["--id", "1", "--peers", "1=a:1", "--learner"],
        &["--id", "1", "--peers", "1=a:1", "--advertise", "a:1"],
        &["--id", "1", "--peers", "1=a:1", "--join", "http://127.0.0.1:1"],
        &["--id", "1", "--join", "127.0.0.1:1"],
        &["--id", "1", "--join", "http://127.0.0.1:1", "--bootstrap"],
        &["--id", "1", "--join", "http://127.0.0.1:1", "--advertise", "nowhere"],
        &["--id", "1", "--join", "http://127.0.0.1:1"],
    ];
    for arguments in wrong {
        let said = run(&[], &[&serve[..], arguments].concat()).await;
        assert_eq!(said.code, 2, "{arguments:?} {}", said.err);
        assert!(said.err.starts_with("error: "), "{}", said.err);
    }
    for help in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        assert_eq!(run(&[], help).await.code, 0);
    }
}
