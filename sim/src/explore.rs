//! One seed from beginning to end, on either level, and what it came to.

use std::fmt;
use std::ops::Index;
use std::str::FromStr;

use crate::failure::Failure;
use crate::reduction::{Outline, Reduction};
use crate::sabotage::Sabotage;
use crate::trace::TraceMode;
use crate::{cluster, engines};

/// Which part of the framework is simulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// The protocol alone, in a world of its own: [`engines`].
    #[default]
    Engines,
    /// The real node, its log and its frames: [`cluster`].
    Nodes,
}

impl Level {
    /// Both.
    pub const ALL: [Level; 2] = [Level::Engines, Level::Nodes];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Level::Engines => "engines",
            Level::Nodes => "nodes",
        }
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Level::ALL.into_iter().find(|level| level.name() == text);
        named.ok_or_else(|| {
            format!("`{text}` is none of {}", Level::ALL.map(Level::name).join(", "))
        })
    }
}

/// How a seed is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is simulated.
    pub level: Level,
    /// What is left out of the seed's plan.
    pub reduction: Reduction,
    /// What is kept of its trace.
    pub trace: TraceMode,
    /// A planted bug.
    pub sabotage: Option<Sabotage>,
}

impl Default for Options {
    fn default() -> Self {
        Self::of(Level::Engines)
    }
}

impl Options {
    /// The whole plan, without a trace or a planted bug.
    pub fn of(level: Level) -> Self {
        Self { level, reduction: Reduction::default(), trace: TraceMode::Off, sabotage: None }
    }

    /// What there is to leave out of the plan of `seed`.
    pub fn outline(&self, seed: u64) -> Outline {
        match self.level {
            Level::Engines => engines::Plan::from_seed(seed).outline(),
            Level::Nodes => cluster::Plan::from_seed(seed).outline(),
        }
    }

    /// The command that runs `seed` like this.
    pub fn command(&self, seed: u64) -> String {
        let mut command = format!("cargo run --release -p simulate -- run --seed {seed}");
        if self.level != Level::default() {
            command += &format!(" --level {}", self.level.name());
        }
        if let Some(bug) = self.sabotage {
            command += &format!(" --plant {}", bug.name());
        }
        let reduction = self.reduction.to_string();
        if reduction.is_empty() { command } else { command + " " + &reduction }
    }
}

/// How much happened, by name: elections, acknowledged writes, crashes. Each level has names of its
/// own; see [`engines::Statistics`] and [`cluster::Statistics`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(Vec<(&'static str, u64)>);

impl Counts {
    pub(crate) fn new(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        Self(counts.into_iter().collect())
    }

    /// Names and numbers, always in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Adds what happened in another world.
    pub fn add(&mut self, other: &Counts) {
        for (name, count) in other.iter() {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => self.0.push((name, count)),
            }
        }
    }
}

impl Index<&str> for Counts {
    type Output = u64;

    /// # Panics
    /// If nothing of that name is counted.
    fn index(&self, name: &str) -> &u64 {
        let found = self.0.iter().find(|(known, _)| *known == name);
        &found.unwrap_or_else(|| panic!("nothing is counted as {name}")).1
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self.iter().map(|(name, n)| format!("{n} {name}")).collect();
        f.write_str(&counts.join(", ").replace('_', " "))
    }
}

/// What a run came to that broke no promise.
#[derive(Clone, Debug)]
pub struct Report {
    /// How much happened.
    pub counts: Counts,
    /// Hash of the trace, if there was one: equal hashes mean equal runs.
    pub hash: u64,
    /// The lines of the trace that were kept.
    pub trace: Vec<String>,
}

/// Runs the world of `seed` through its faults and its recovery. A panic of what is simulated is a
/// broken promise like any other; the panic hook is the caller's business.
///
/// # Errors
/// The first broken promise.
pub fn explore(seed: u64, options: &Options) -> Result<Report, Failure> {
    let ended = match options.level {
        Level::Engines => engines::explore(seed, options),
        Level::Nodes => cluster::explore(seed, options),
    };
    ended.map_err(|failure| Failure { replay: options.command(seed), ..failure })
}
