//! `bench snapshot` with its processes, as small as it can be.

use std::process::Command;

use serde_json::Value;

#[test]
fn every_step_is_timed_and_both_processes_are_measured_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.args(["snapshot", "--json", "--bytes", "4MiB", "--value-bytes", "1KiB"]);
    bench
        .args(["--nodes", "1", "--seconds", "1", "--rate", "50"])
        .arg("--dir")
        .arg(directory.path());
    let output = bench.output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["snapshot_bytes"].as_u64() > Some(4 << 20), "{report}");
    for step in ["fill", "before", "build", "send", "restore", "catch_up", "join"] {
        assert!(report[step]["seconds"].as_f64() > Some(0.0), "{step} of {report}");
    }
    for process in ["leader", "new_node"] {
        let memory = &report[process];
        let measured = memory["alone_bytes"].as_u64() > Some(0);
        assert!(measured || cfg!(not(target_os = "linux")), "{process} of {report}");
    }
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}
