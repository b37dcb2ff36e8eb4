//! `docs/reference.md` has every command and every flag that `--help` shows, with its default.

use std::path::Path;
use std::process::Command;

const REFERENCE: &str = "../../docs/reference.md";

/// The commands that a `--help` lists.
fn commands(help: &str) -> Vec<&str> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // A text may go on in the next line, further in.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect()
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kv")).args(arguments).output().unwrap();
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
    let start = reference.find("\n## `kv`\n").expect("a section about kv");
    let section = &reference[start + 1..];
    let section = &section[..section[3..].find("\n## ").map_or(section.len(), |end| end + 3)];

    let top = help(&["--help"]);
    let listed = commands(&top);
    assert!(listed.contains(&"serve") && listed.contains(&"load"), "{listed:?}");
    let admin = help(&["admin", "--help"]);
    assert!(commands(&admin).contains(&"replace"), "{admin}");

    let mut shown = top.clone() + &admin;
    for command in listed.iter().filter(|command| **command != "admin") {
        assert!(section.contains(command), "docs/reference.md lacks the command {command}");
        shown += &help(&[command, "--help"]);
    }
    for command in commands(&admin) {
        assert!(section.contains(command), "docs/reference.md lacks the command admin {command}");
        shown += &help(&["admin", command, "--help"]);
    }
    let known: Vec<&str> = flags(&shown).collect();
    let general = ["--help", "--version"];
    for flag in known.iter().filter(|flag| !general.contains(flag)) {
        assert!(section.contains(*flag), "docs/reference.md lacks {flag}");
    }
    for flag in flags(section) {
        assert!(known.contains(&flag), "docs/reference.md has {flag}, --help has not");
    }
    for (flag, default) in [
        ("--snapshot-entries", "100000"),
        ("--keep-entries", "10000"),
        ("--keys", "20000"),
        ("--http-base", "8001"),
        ("--raft-base", "7001"),
        ("--server", "http://127.0.0.1:8001"),
    ] {
        let shown = shown.contains(&format!("[default: {default}]"));
        assert!(shown, "--help lacks {flag} {default}");
        assert!(section.contains(default), "docs/reference.md lacks {flag} {default}");
    }
}
