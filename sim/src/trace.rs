//! What happened, as a hash to compare runs with and as lines to read.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;

/// How much of a trace is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceMode {
    /// Nothing: the quickest.
    Off,
    /// A hash of every line.
    Hash,
    /// The hash, and the last so many lines.
    Tail(usize),
    /// The hash, and every line goes to standard output.
    Print,
}

/// The trace of one world.
#[derive(Debug)]
pub struct Trace {
    mode: TraceMode,
    hash: u64,
    lines: VecDeque<String>,
}

impl Trace {
    pub(crate) fn new(mode: TraceMode) -> Self {
        Self { mode, hash: 0xCBF2_9CE4_8422_2325, lines: VecDeque::new() }
    }

    /// FNV-1a over every line so far. Equal hashes mean equal runs.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines, if they are kept.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    pub(crate) fn line(&mut self, at: u64, node: u64, what: fmt::Arguments<'_>) {
        if self.mode == TraceMode::Off {
            return;
        }
        let line = format!("{:>6}.{:03} {node}: {what}", at / 1_000_000, at / 1_000 % 1_000);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        }
        match self.mode {
            TraceMode::Tail(keep) => {
                if self.lines.len() == keep {
                    self.lines.pop_front();
                }
                self.lines.push_back(line);
            }
            TraceMode::Print => print_line(&line),
            TraceMode::Off | TraceMode::Hash => {}
        }
    }
}

/// Who reads may have enough of it and close the pipe; the run goes on without.
fn print_line(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}
