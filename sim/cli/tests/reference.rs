//! `docs/reference.md` has every flag that `--help` shows, with its default, and no other.

use std::path::Path;
use std::process::Command;

use quorate_sim::{Sabotage, Trouble};

const REFERENCE: &str = "../../docs/reference.md";

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_simulate")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The words of `text` that are long flags.
fn flags(text: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| !(c.is_ascii_lowercase() || c == '-');
    text.split(word).filter(|w| w.starts_with("--") && !w.trim_matches('-').is_empty())
}

#[test]
fn the_reference_has_what_help_shows_and_nothing_else() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(REFERENCE);
    let reference = std::fs::read_to_string(path).unwrap();
    let start = reference.find("\n## `simulate`\n").expect("a section about simulate");
    let section = &reference[start + 1..];
    let section = &section[..section[3..].find("\n## ").map_or(section.len(), |end| end + 3)];
    // What cargo is given is not ours.
    let section = section.replace("cargo run --release -p simulate -- ", "");

    let shown = help(&["--help"]) + &help(&["run", "--help"]);
    let known: Vec<&str> = flags(&shown).collect();
    assert!(known.contains(&"--seeds") && known.contains(&"--minimize"), "{known:?}");
    let general = ["--help", "--version"];
    for flag in known.iter().filter(|flag| !general.contains(flag)) {
        assert!(section.contains(&format!("`{flag}")), "docs/reference.md lacks {flag}");
    }
    for flag in flags(&section) {
        assert!(known.contains(&flag), "docs/reference.md has {flag}, --help has not");
    }
    let names =
        Trouble::ALL.map(Trouble::name).into_iter().chain(Sabotage::ALL.map(Sabotage::name));
    for name in names {
        assert!(section.contains(&format!("`{name}`")), "docs/reference.md lacks {name}");
        assert!(shown.contains(name), "--help lacks {name}");
    }
}
