//! `docs/reference.md` has every flag that `--help` shows, with its default, and no other.

use std::path::Path;
use std::process::Command;

const REFERENCE: &str = "../docs/reference.md";

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The words of `text` that are long flags.
fn flags(text: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| !(c.is_ascii_lowercase() || c == '-');
    text.split(word).filter(|w| w.starts_with("--") && !w.trim_matches('-').is_empty())
}

/// The defaults that a help tells, as in `[default: 3]`.
fn defaults(help: &str) -> impl Iterator<Item = &str> {
    help.split("[default: ").skip(1).filter_map(|rest| rest.split(']').next())
}

#[test]
fn the_reference_has_what_help_shows_and_nothing_else() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(REFERENCE);
    let reference = std::fs::read_to_string(path).unwrap();
    let start = reference.find("\n## `bench`\n").expect("a section about bench");
    let section = &reference[start + 1..];
    let section = &section[..section[3..].find("\n## ").map_or(section.len(), |end| end + 3)];
    // What cargo is given is not ours.
    let section = section.replace("cargo run --release -p bench -- ", "");
    for (command, known) in [
        ("framework", "--nodes"),
        ("reads", "--svg"),
        ("engine", "--value-bytes"),
        ("durable", "--vs"),
        ("snapshot", "--value-bytes"),
        ("tail", "--share"),
        ("growth", "--max-entries"),
        ("idle", "--seconds"),
    ] {
        let start = section.find(&format!("### `bench {command}`")).expect(command);
        let part = &section[start + 1..];
        let part = &part[..part.find("\n### ").unwrap_or(part.len())];
        let shown = help(&[command, "--help"]);
        let shown_flags: Vec<&str> = flags(&shown).filter(|flag| *flag != "--help").collect();
        assert!(shown_flags.contains(&known), "{shown}");
        for flag in &shown_flags {
            assert!(part.contains(&format!("`{flag}")), "docs/reference.md lacks {command} {flag}");
        }
        for flag in flags(part) {
            assert!(shown_flags.contains(&flag), "{command} --help lacks {flag}");
        }
        for default in defaults(&shown) {
            assert!(part.contains(&format!("| {default} |")), "docs/reference.md lacks {default}");
        }
    }
}
