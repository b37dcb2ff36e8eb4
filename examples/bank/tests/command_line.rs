//! The demo from the outside, and `docs/reference.md`, which has every flag that `--help` shows.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn bank(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bank")).args(arguments).output().unwrap()
}

/// The words of `text` that are long flags.
fn flags(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_lowercase() || c == '-');
    let flag = |w: &&str| w.starts_with("--") && !w.trim_matches('-').is_empty();
    text.split(word).filter(flag).collect()
}

#[test]
fn the_reference_has_what_help_shows_and_nothing_else() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference.md");
    let reference = std::fs::read_to_string(path).unwrap();
    let section = reference.split("\n## `bank`\n").nth(1).expect("a section about bank");
    let section = section.split("\n## ").next().unwrap();

    let help: Vec<String> = [&["--help"][..], &["demo", "--help"], &["serve", "--help"]]
        .map(|arguments| String::from_utf8(bank(arguments).stdout).unwrap())
        .into();
    let help = help.concat();
    let mut shown = flags(&help);
    assert!(shown.contains("--kills") && shown.contains("--bootstrap"), "{help}");
    shown.retain(|flag| !["--help", "--version"].contains(flag));
    assert_eq!(flags(section), shown);
    for row in section.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if cells[2].parse::<u64>().is_ok() {
            assert!(help.contains(&format!("[default: {}]", cells[2])), "{row}");
        }
    }
}

#[test]
fn the_demo_counts_to_the_last_coin() {
    let output = bank(&["demo", "--json", "--commands", "200", "--kills", "3"]);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    let results: serde_json::Value = serde_json::from_str(&out).unwrap();
    let number = |field: &str| results[field].as_u64().unwrap_or_else(|| panic!("{field}: {out}"));
    assert!(number("done") + number("refused") >= 7 * 200, "{out}");
    assert_eq!(number("deposited") - number("withdrawn"), number("balances"));
    assert_eq!((number("unknown"), number("kills")), (0, 3));
    assert_eq!(results["wrong"].as_array().map(Vec::len), Some(0), "{out}");
}

#[test]
fn wrong_usage_is_code_2() {
    let peers = ["--listen", "127.0.0.1:0", "--peers", "1=127.0.0.1:1", "--data", "/nowhere"];
    for arguments in [vec!["--kills"], [&["serve", "--id", "2"], &peers[..]].concat()] {
        let output = bank(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "), "{arguments:?}");
    }
}

/// Neither nodes nor files are left over.
#[test]
fn a_demo_that_is_stopped_cleans_up() {
    let directory = tempfile::TempDir::with_prefix("bank-test-").unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_bank"))
        .args(["--kills", "1000000"])
        .env("TMPDIR", directory.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let addresses = loop {
        let addresses: Vec<String> =
            (1..=3).filter_map(|id| serves(directory.path(), id)).collect();
        if addresses.len() == 3 {
            break addresses;
        }
        assert!(Instant::now() < deadline && demo.try_wait().unwrap().is_none(), "no nodes");
        std::thread::sleep(Duration::from_millis(20));
    };
    let pid = Pid::from_raw(demo.id() as i32).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let output = demo.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("error: stopped"), "{output:?}");
    for address in addresses {
        assert!(TcpStream::connect(&address).is_err(), "{address} is still served");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Where node `id` of the demo in `directory` listens, if it says so already.
fn serves(directory: &Path, id: u64) -> Option<String> {
    let demo = std::fs::read_dir(directory).ok()?.next()?.ok()?.path();
    let printed = std::fs::read_to_string(demo.join(format!("node-{id}.log"))).ok()?;
    let (_, rest) = printed.split_once(" serves on ")?;
    rest.split_once('\n').map(|(address, _)| address.to_owned())
}
