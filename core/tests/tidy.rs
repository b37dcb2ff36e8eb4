//! The house rules that a compiler does not check: floors, banned words, sizes, documents that name
//! tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file below `dir` that ends in `suffix`, build output left out.
fn files(dir: &str, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                dirs.push(path);
            } else if name.ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

const CRATES: [&str; 9] = [
    "engine",
    "storage",
    "network",
    "core",
    "sim",
    "sim/cli",
    "examples/bank",
    "examples/kv",
    "bench",
];

#[test]
fn floors_import_only_what_is_below_them() {
    let below: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("engine", &[][..]),
        ("storage", &["quorate-engine"][..]),
        ("network", &["quorate-engine"][..]),
        ("core", &["quorate-engine", "quorate-storage", "quorate-network"][..]),
        ("sim", &["quorate-engine", "quorate-storage", "quorate-network", "quorate"][..]),
        ("sim/cli", &["quorate-sim"][..]),
        ("examples/bank", &["quorate"][..]),
        ("examples/kv", &["quorate", "quorate-sim"][..]),
        ("bench", &["quorate", "quorate-engine", "quorate-storage", "quorate-network"][..]),
    ]);
    for krate in CRATES {
        let manifest = read(format!("{krate}/Cargo.toml"));
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            }
            // Tests of a floor may use what is above it.
            let Some(name) = line.split(['=', '.', ' ']).next() else { continue };
            if section == "[dependencies]" && name.starts_with("quorate") {
                assert!(below[krate].contains(&name), "{krate} must not depend on {name}");
            }
        }
    }
}

#[test]
fn the_engine_has_no_clock_no_threads_no_hash_maps_no_io() {
    let banned = [
        "Instant::now",
        "SystemTime",
        "std::thread",
        "HashMap",
        "HashSet",
        "tokio",
        "std::fs",
        "std::net",
        "std::io",
        "async fn",
        "rand::",
    ];
    for file in files("engine/src", ".rs") {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for word in banned {
                assert!(!line.contains(word), "{}:{}: {word}", file.display(), number + 1);
            }
        }
    }
}

#[test]
fn files_have_one_subject_and_no_file_is_a_crumb() {
    for krate in CRATES {
        for file in files(&format!("{krate}/src"), ".rs") {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 1000, "{} has {lines} lines; split it by subject", file.display());
            let name = file.file_name().unwrap().to_str().unwrap();
            let root = ["lib.rs", "main.rs", "mod.rs"].contains(&name);
            assert!(root || lines >= 20, "{} has {lines} lines; merge it", file.display());
        }
    }
}

#[test]
fn nothing_is_left_undone_or_unrun() {
    // Put together here, so that this file does not contain them.
    let ignored = ["#[", "ignore"].concat();
    let words = [
        ["to", "do!("].concat(),
        ["unimpl", "emented!("].concat(),
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["```", "ignore"].concat(),
        ["```", "no_run"].concat(),
        ["```rust,", "ignore"].concat(),
        ["futures::", "select!"].concat(),
        [".changed()", ".await"].concat(),
        ignored,
    ];
    let select = ["select!", " {"].concat();
    for krate in CRATES {
        for file in files(krate, ".rs") {
            let text = fs::read_to_string(&file).unwrap();
            for word in &words {
                assert!(!text.contains(word), "{}: {word}", file.display());
            }
            for block in text.split(&select).skip(1) {
                let biased = block.trim_start().starts_with("biased;");
                assert!(biased, "{}: an unbiased select", file.display());
            }
        }
    }
}

/// `docs/safety.md`: each row of its tables names a test that exists, or says to what it is owed.
#[test]
fn every_hazard_has_a_test_or_an_honest_debt() {
    let text = read("docs/safety.md");
    let mut rows = 0;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells[0] == "failure" {
            continue;
        }
        rows += 1;
        assert_eq!(cells.len(), 3, "failure, rule, test: {line}");
        let proof = cells[2];
        let mut named = 0;
        for reference in proof.split('`').skip(1).step_by(2) {
            let (path, test) = reference
                .split_once("::")
                .unwrap_or_else(|| panic!("`path::test`, not `{reference}`"));
            let name = test.rsplit("::").next().unwrap();
            let text = read(path);
            let exists = path.ends_with(".txt") || text.contains(&format!("fn {name}"));
            assert!(exists, "docs/safety.md names {reference}, which does not exist");
            named += 1;
        }
        assert!(named > 0 || proof.starts_with("owed to step "), "no proof and no debt: {line}");
    }
    assert!(rows >= 60, "only {rows} rows: hazards are missing");
}

/// Every setting of `Config` and of `ClientConfig` is in the reference with its default.
#[test]
fn the_reference_has_every_setting() {
    let reference = read("docs/reference.md");
    let config = read("core/src/config.rs") + &read("core/src/client/config.rs");
    let fields = config
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub "))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    let mut count = 0;
    for field in fields {
        count += 1;
        assert!(reference.contains(&format!("`{field}`")), "docs/reference.md lacks {field}");
    }
    assert!(count >= 10, "found only {count} settings");
}

/// `sim/mutants` alone compiles bugs in: no member of the workspace enables the feature, for itself
/// or for another, and features of a package outside can't reach them.
#[test]
fn no_ordinary_build_has_planted_bugs() {
    let workspace = read("Cargo.toml");
    let line = |key| workspace.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    assert!(!line("members").contains("mutants"), "sim/mutants is a member");
    assert!(line("exclude").contains("\"sim/mutants\""), "sim/mutants is not excluded");
    assert!(!workspace.contains("planted-bugs"), "the workspace enables planted bugs");
    for krate in CRATES {
        let mut section = "";
        let manifest = read(format!("{krate}/Cargo.toml"));
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let passed_on = section == "[features]" && line.starts_with("planted-bugs = [");
            let mentioned = line.contains("planted-bugs") && !line.starts_with('#');
            assert!(!mentioned || passed_on, "{krate}/Cargo.toml enables planted bugs: {line}");
        }
    }
}

/// The bugs that the code asks for are those that `sim/mutants` plants, each with a row of the
/// hazards and a row of what catches it.
#[test]
fn every_planted_bug_is_planted_and_documented() {
    // Quotes within a string would end it here.
    let list = read("sim/mutants/src/bugs.rs").replace("\\\"", "\u{1}");
    let strings: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    let is_name =
        |s: &str| s.contains('-') && s.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let (safety, table) = (read("docs/safety.md"), read("docs/simulation.md"));
    let mut listed = BTreeSet::new();
    for (at, name) in strings.iter().enumerate().filter(|(_, s)| is_name(s)) {
        let hazard = strings[at + 1].replace('\u{1}', "\"");
        assert!(safety.contains(&format!("| {hazard} |")), "{name}: no hazard {hazard:?}");
        assert!(table.contains(&format!("| {name} | {hazard} |")), "simulation.md lacks {name}");
        listed.insert(name.to_string());
    }
    let mut asked = BTreeSet::new();
    for krate in CRATES {
        for file in files(&format!("{krate}/src"), ".rs") {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for question in code.flat_map(|line| line.split("planted::on(\"").skip(1)) {
                asked.insert(question.split('"').next().unwrap().to_owned());
            }
        }
    }
    assert_eq!(asked, listed, "asked for in the code; listed in sim/mutants/src/bugs.rs");
    assert!(listed.len() >= 15, "only {} bugs", listed.len());
}
