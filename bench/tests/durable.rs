//! `bench durable --vs etcd` where it can't be had: what is said, and how it ends.

use std::process::{Command, Output};

fn vs_etcd() -> Output {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    // No program is found.
    bench.args(["durable", "--vs", "etcd"]).env("PATH", "").output().unwrap()
}

#[track_caller]
fn assert_failed(output: &Output, code: i32, what: &str, advice: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.trim_end(), format!("error: {what}; {advice}"));
    assert_eq!(output.status.code(), Some(code));
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[cfg(not(feature = "etcd"))]
#[test]
fn without_its_client_etcd_is_wrong_usage() {
    let advice =
        "build it with `--features etcd`, which needs protoc (Debian: `protobuf-compiler`)";
    assert_failed(&vs_etcd(), 2, "this `bench` was built without a client of etcd", advice);
}

#[cfg(feature = "etcd")]
#[test]
fn without_etcd_on_the_path_it_fails() {
    let advice = "install it (Debian: `apt install etcd-server`)";
    assert_failed(&vs_etcd(), 1, "there is no `etcd` on PATH", advice);
}
