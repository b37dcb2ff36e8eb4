//! `bench growth` with its processes, as short as it can be.

use std::fs;
use std::process::Command;

use serde_json::Value;

#[test]
fn every_part_has_its_rows_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let chart = directory.path().join("chart.svg");
    let data = directory.path().join("data");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.args(["growth", "--json", "--rounds", "1", "--seconds", "0.1", "--kills", "1"]);
    bench.args(["--max-entries", "10000"]).arg("--dir").arg(&data).arg("--svg").arg(&chart);
    for part in ["log", "restart", "kills"] {
        bench.args(["--part", part]);
    }
    let output = bench.output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let loads: Vec<&str> = rows.iter().filter_map(|row| row["load"].as_str()).collect();
    assert_eq!(loads, ["growth_log", "growth_restart", "kill_until_leader", "kill_until_write"]);
    for row in rows {
        for key in ["clients", "nodes", "value", "peer_value", "ratio", "min", "max"] {
            assert!(row[key].is_number(), "{key} of {row}");
        }
        assert!(row["peer"].is_string(), "{row}");
    }
    let chart = fs::read_to_string(chart).unwrap();
    for title in ["a log that grows", "a node starts again", "the leader is killed"] {
        assert!(chart.contains(title), "{title}");
    }
    assert_eq!(fs::read_dir(data).unwrap().count(), 0);
}
