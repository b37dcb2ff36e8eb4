//! Prints a log directory as a table: every segment, batch and record, where valid data ends, and
//! why. Opens nothing for writing and takes no lock, so it can look at the log of a running node
//! (which may then look torn where it is being written).
//!
//! ```text
//! cargo run -p quorate-storage --example dump -- DIR
//! ```
//!
//! Exit code 0 if the log can be opened, 1 if it is damaged, 2 if it can't be looked at.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use quorate_storage::wal::{Inspection, RealDisk, inspect};

const USAGE: &str = "usage: dump DIR

Prints the log in DIR, record by record, without changing anything.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-h" | "--help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [dir] if !dir.starts_with('-') => dir,
        _ => return failed("one directory is needed; call it as: dump DIR"),
    };
    if !Path::new(dir).is_dir() {
        return failed(&format!("{dir} is not a directory; name a node's log directory"));
    }
    let inspection = match inspect(&RealDisk::read_only(dir)) {
        Ok(inspection) => inspection,
        Err(e) => return failed(&e.to_string()),
    };
    // Whoever reads may have seen enough, and closed the pipe.
    if let Err(e) = io::stdout().write_all(table(&inspection).as_bytes()) {
        if e.kind() != io::ErrorKind::BrokenPipe {
            return failed(&format!("writing the table: {e}; redirect it somewhere else"));
        }
    }
    match inspection.damage {
        None => ExitCode::SUCCESS,
        Some(damage) => {
            eprintln!("error: {damage}");
            ExitCode::from(1)
        }
    }
}

fn failed(what: &str) -> ExitCode {
    eprintln!("error: {what}");
    ExitCode::from(2)
}

fn table(inspection: &Inspection) -> String {
    let mut out = String::new();
    if inspection.segments.is_empty() {
        out += "no segments\n";
    }
    for segment in &inspection.segments {
        let line = format!("segment {}  {} bytes", segment.number, segment.length_bytes);
        push(&mut out, &line);
        for (group, state) in &segment.groups {
            push(&mut out, &format!("  begins with group {group}: {state}"));
        }
        push(
            &mut out,
            &format!("  {:>10} {:>8} {:>8}  {:<10}  detail", "offset", "batch", "group", "kind"),
        );
        for batch in &segment.batches {
            for record in &batch.records {
                let group = record.group.map_or("-".into(), |group| group.to_string());
                let (offset, sequence) = (record.offset, batch.sequence);
                let (kind, detail) = (record.kind, &record.detail);
                let line = format!("  {offset:>10} {sequence:>8} {group:>8}  {kind:<10}  {detail}");
                push(&mut out, &line);
            }
        }
        push(&mut out, &format!("  {:>10} ends: {}", segment.end, segment.reason));
    }
    out
}

fn push(out: &mut String, line: &str) {
    writeln!(out, "{line}").expect("a string takes whatever is written");
}
