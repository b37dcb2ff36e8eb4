//! The command as a user meets it: exit codes, what is on which stream, replays that are the same.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn simulate(arguments: &str) -> Output {
    let arguments = arguments.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_simulate")).arg("run").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stdout(output)))
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

const COUNTS: [&str; 17] = [
    "acknowledged",
    "changes",
    "crashes",
    "elections",
    "excused",
    "faults",
    "forgetful",
    "lost_writes",
    "overwritten",
    "reads",
    "refused",
    "removed",
    "snapshots_built",
    "snapshots_installed",
    "snapshots_sent",
    "steps",
    "transfers_ended",
];

const FAILURE: [&str; 7] =
    ["after_ms", "faults", "faults_of_seed", "promise", "replay", "seed", "what"];

#[test]
fn seeds_that_keep_every_promise_end_with_0_and_counts() {
    let output = simulate("--seeds 3..9 --jobs 2");
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("\n6 seeds from 3 keep every promise"), "{output:?}");

    let output = simulate("--seeds 3..9 --json");
    assert_eq!(output.status.code(), Some(0));
    let swept = json(&output);
    assert_eq!(keys(&swept), ["counts", "failure", "from", "ran", "seconds", "to"]);
    assert_eq!((&swept["from"], &swept["to"], &swept["ran"]), (&3.into(), &9.into(), &6.into()));
    assert_eq!(keys(&swept["counts"]), COUNTS);
    assert_eq!(swept["failure"], Value::Null);
}

#[test]
fn a_random_base_is_printed_and_time_bounds_a_run() {
    let output = simulate("--random 100000000 --for 1s");
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let (from, to) = text.lines().next().unwrap()["seeds ".len()..].split_once("..").unwrap();
    let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
    assert_eq!(to - from, 100_000_000);
    assert!(
        text.contains(&format!(" of 100000000 seeds from {from} keep every promise")),
        "{text}"
    );
}

#[test]
fn a_broken_promise_ends_with_1_a_picture_and_the_command_that_shows_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let picture = directory.path().join("steps.svg");
    let output = simulate(&format!("--seeds 0..50 --plant disk-lies --svg {}", picture.display()));
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    let line = text.lines().find(|line| line.starts_with("replay: ")).unwrap();
    let replay = line.strip_prefix("replay: cargo run --release -p simulate -- run ").unwrap();
    assert!(replay.ends_with(" --plant disk-lies"), "{replay}");
    assert!(text.contains("     time ms  1"), "{text}");
    assert!(std::fs::read_to_string(picture).unwrap().ends_with("</svg>\n"));

    let again = simulate(replay);
    assert_eq!(again.status.code(), Some(1));
    let failure = |text: &str| text.lines().find(|l| l.starts_with("seed ")).map(str::to_owned);
    assert_eq!(failure(&stdout(&again)), failure(&text), "the same failure");
    assert!(stdout(&again).lines().count() > 50, "with a trace");
}

#[test]
fn nodes_are_simulated_as_well() {
    let output = simulate("--level nodes --seeds 3..6 --json");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        keys(&json(&output)["counts"]),
        [
            "acknowledged",
            "elections",
            "faults",
            "forgetful",
            "reads",
            "refused",
            "repeated",
            "restored",
            "simulated_ms",
            "unknown"
        ]
    );
    let once = simulate("--level nodes --seed 5");
    assert_eq!(once.status.code(), Some(0));
    assert!(stdout(&once).lines().count() > 100, "with a trace");
    assert_eq!(stdout(&once), stdout(&simulate("--level nodes --seed 5")));
    assert!(stdout(&simulate("--level nodes --seed 5 --twice")).contains("two runs are the same"));
}

#[test]
fn a_minimized_failure_replays_from_its_flags() {
    minimized("--seeds 0..60 --plant sync-ignored");
    minimized("--level nodes --seeds 0..60 --plant disk-lies");
}

fn minimized(arguments: &str) {
    let output = simulate(&format!("{arguments} --minimize --json"));
    assert_eq!(output.status.code(), Some(1));
    let failure = &json(&output)["failure"];
    assert_eq!(keys(failure), FAILURE);
    assert!(failure["faults"].as_u64() <= failure["faults_of_seed"].as_u64(), "{failure}");
    let replay = failure["replay"].as_str().unwrap();
    let arguments = replay.split(" run ").last().unwrap();
    assert!(arguments.contains("--faults "), "{arguments}");
    let again = simulate(&format!("{arguments} --json"));
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(keys(&json(&again)), ["counts", "failure", "hash", "seed"]);
    assert_eq!(&json(&again)["failure"], failure);
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    let once = simulate("--seed 31");
    assert_eq!(once.status.code(), Some(0));
    assert_eq!(stdout(&once), stdout(&simulate("--seed 31")));
    assert!(stdout(&once).lines().last().unwrap().starts_with("seed 31 keeps every promise"));

    let hash = || json(&simulate("--seed 31 --json"))["hash"].as_str().unwrap().to_owned();
    assert_eq!(hash(), hash());
    assert_ne!(json(&simulate("--seed 32 --json"))["hash"], hash());

    assert!(stdout(&simulate("--seed 31 --twice")).contains("two runs are the same"));
    assert_eq!(simulate("--seeds 30..33 --twice").status.code(), Some(0));
    let compared = json(&simulate("--seed 31 --twice --json"));
    assert_eq!(keys(&compared), ["differs_at", "failure", "lines", "seed"]);
    assert_eq!(compared["differs_at"], Value::Null);
}

/// A run that is the same twice may be a failure twice.
#[test]
fn a_failure_is_one_however_often_it_is_run() {
    let planted = "--plant never-heals --seed 3";
    let twice = simulate(&format!("{planted} --twice"));
    assert_eq!(twice.status.code(), Some(1));
    let text = stdout(&twice);
    assert!(
        text.contains("two runs are the same") && text.contains("the cluster recovers"),
        "{text}"
    );
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_to_do() {
    for arguments in [
        "",
        "--seeds 9..3",
        "--seeds 1..2 --seed 1",
        "--seed 1 --faults x",
        "--seeds 1..2 --faults 1",
        "--seed 1 --calm rain",
        "--seed 1 --plant daisies",
        "--level moon --seed 1",
        "--seed 1 --faults 99999",
        "--seed 1 --nodes 99",
        "--seed 1 --nodes 0",
        "--level nodes --bench",
        "--level nodes --seed 1 --plant votes-altered",
        "--seeds 1..2 --for never",
        "--seeds 0..50 --plant disk-lies --svg /no/such/directory/steps.svg",
    ] {
        let output = simulate(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("error: "), "{arguments}: {stderr}");
    }
}

#[test]
fn the_benchmark_says_how_fast() {
    let output = simulate("--bench --for 1s --json");
    assert_eq!(output.status.code(), Some(0));
    let measured = json(&output);
    assert_eq!(keys(&measured), ["best_steps_s", "level", "rounds", "steps_s"]);
    assert!(measured["steps_s"].as_u64().unwrap() > 1_000, "{measured}");
}

/// A seed that does not end within a second must not hold up who wants to leave.
#[test]
fn a_second_ctrl_c_ends_a_run_at_once_and_names_its_seeds() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_simulate"))
        .args(["run", "--seeds", "0..1000000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let interrupt = || Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    // The first may be all it takes: then there is nothing left to interrupt.
    interrupt().unwrap();
    interrupt().unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) => {}
        Some(1) => assert!(stderr.contains("error: stopped within seeds ["), "{stderr}"),
        other => panic!("{other:?}: {stderr}"),
    }
}

#[test]
fn ctrl_c_ends_a_run_and_it_says_how_far_it_came() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_simulate"))
        .args(["run", "--seeds", "0..1000000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It listens before it says that it begins.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "seeds 0..1000000000");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let text = lines.next().unwrap().unwrap();
    assert!(text.contains(" of 1000000000 seeds from 0 keep every promise"), "{text}");
}
