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

/// Where two runs that should be the same are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The first line that differs, counted from 1.
    pub line: usize,
    /// What the first run has there.
    pub first: String,
    /// What the second run has there.
    pub second: String,
}

impl Difference {
    /// Compares two traces.
    pub fn between(first: &[String], second: &[String]) -> Option<Self> {
        let same = first.iter().zip(second).take_while(|(a, b)| a == b).count();
        let line =
            |lines: &[String]| lines.get(same).map_or("(the end)", String::as_str).to_owned();
        let differ = same < first.len().max(second.len());
        differ.then(|| Self { line: same + 1, first: line(first), second: line(second) })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { line, first, second } = self;
        write!(f, "two runs differ at line {line}:\nfirst:  {first}\nsecond: {second}")
    }
}

/// Who reads may have enough of it and close the pipe; the run goes on without.
fn print_line(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let between = |a: &str, b: &str| Difference::between(&lines(a), &lines(b));
        assert_eq!(between("a b c", "a b c"), None);
        let difference = between("a b c", "a x c").unwrap();
        assert_eq!((difference.line, &*difference.first, &*difference.second), (2, "b", "x"));
        assert_eq!(between("a b", "a").unwrap().second, "(the end)");
    }
}
