//! The command line.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use quorate_sim::{Level, Options, Reduction, Sabotage, TraceMode, Trouble};

/// Simulated clusters under seeded faults, with every promise of Raft checked.
#[derive(Parser)]
#[command(name = "simulate", version)]
pub(crate) struct Simulate {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run seeds; the same seed is the same run, on every machine
    Run(Run),
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(crate) struct Run {
    /// Run these seeds, the last one not included, on all cores
    #[arg(long, value_name = "A..B", group = "which", value_parser = range)]
    pub(crate) seeds: Option<Range<u64>>,
    /// Run so many seeds from a fresh base, which is printed
    #[arg(long, value_name = "COUNT", group = "which")]
    pub(crate) random: Option<u64>,
    /// Replay one seed, with its trace
    #[arg(long, value_name = "SEED", group = "which")]
    pub(crate) seed: Option<u64>,
    /// Measure steps of engines per second on one core
    #[arg(long, group = "which")]
    pub(crate) bench: bool,

    /// What to simulate: `engines`, the protocol alone; `nodes`, the real node with its tasks, its log
    /// and its frames
    #[arg(long, default_value = "engines")]
    pub(crate) level: Level,
    /// Start no further seed after this time
    #[arg(long = "for", value_name = "TIME", value_parser = duration, conflicts_with = "seed")]
    pub(crate) time: Option<Duration>,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "COUNT", conflicts_with = "seed")]
    pub(crate) jobs: Option<usize>,
    /// Make a failure small: fewer faults, a calmer world, fewer nodes, less time
    #[arg(long, conflicts_with = "bench")]
    pub(crate) minimize: bool,
    /// Run each seed twice and compare the traces, line by line where they differ
    #[arg(long, conflicts_with_all = ["bench", "minimize"])]
    pub(crate) twice: bool,
    /// Plant a bug in the world around, to see a failure: disk-lies and never-heals on both levels,
    /// vote-forgotten, acknowledged-early, acknowledgements-altered, votes-altered,
    /// reads-unconfirmed, writes-reordered, sync-ignored and applied-early around engines
    #[arg(long, value_name = "BUG", conflicts_with = "bench")]
    pub(crate) plant: Option<Sabotage>,
    /// Print the results as one object, without the trace
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the last steps before a failure as a picture
    #[arg(long, value_name = "FILE", conflicts_with = "bench")]
    pub(crate) svg: Option<PathBuf>,

    /// Only these entries of the seed's schedule of faults; `none` for none
    #[arg(long, value_name = "N,..", value_parser = entries, conflicts_with_all = ["seeds", "random", "bench"])]
    pub(crate) faults: Option<Entries>,
    /// Leave out what goes wrong all the time: drop, duplicate, delay, straggle, reorder, damage,
    /// skew, sync, window, beginnings, snapshots
    #[arg(long, value_name = "WHAT,..", value_delimiter = ',', conflicts_with_all = ["seeds", "random", "bench"])]
    pub(crate) calm: Vec<Trouble>,
    /// Only the first so many nodes
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["seeds", "random", "bench"])]
    pub(crate) nodes: Option<usize>,
    /// Faults and load end after so many milliseconds of the world
    #[arg(long, value_name = "MS", conflicts_with_all = ["seeds", "random", "bench"])]
    pub(crate) millis: Option<u64>,
}

impl Run {
    /// What the flags say together that makes no sense.
    pub(crate) fn contradiction(&self) -> Option<String> {
        if self.bench && self.level != Level::Engines {
            return Some("--bench counts steps of engines; leave out --level".into());
        }
        if let Some(bug) = self.plant.filter(|bug| !bug.acts_on(self.level)) {
            return Some(format!("{} is a bug around engines; leave out --level", bug.name()));
        }
        let outline = self.options(TraceMode::Off).outline(self.seed?);
        let faults = self.faults.iter().flat_map(|entries| &entries.0);
        if let Some(entry) = faults.copied().find(|entry| *entry >= outline.faults) {
            let there = outline.faults;
            return Some(format!("the seed has no fault {entry}, only {there}; see its trace"));
        }
        let nodes = self.nodes.filter(|nodes| !(1..=outline.nodes).contains(nodes))?;
        Some(format!("{nodes} nodes are not among the seed's {}; choose fewer", outline.nodes))
    }

    /// How a seed is run.
    pub(crate) fn options(&self, trace: TraceMode) -> Options {
        Options {
            level: self.level,
            reduction: Reduction {
                faults: self.faults.clone().map(|entries| entries.0),
                calm: self.calm.clone(),
                nodes: self.nodes,
                millis: self.millis,
            },
            trace,
            sabotage: self.plant,
        }
    }
}

/// Places in a schedule: a type of its own, or clap would take a list for many values.
#[derive(Clone)]
pub(crate) struct Entries(pub(crate) Vec<usize>);

fn entries(text: &str) -> Result<Entries, String> {
    if text == "none" {
        return Ok(Entries(Vec::new()));
    }
    let wrong = |_| "numbers separated by commas, or `none`".to_owned();
    let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    numbers.map(Entries).map_err(wrong)
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || "a range like 0..1000, the last seed not included".to_owned();
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err(wrong()) } else { Ok(range) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number = number.parse::<u32>().ok().filter(|number| *number > 0);
    let number = number.ok_or("a time like 60s or 2m")?;
    Ok(Duration::from_secs(u64::from(number) * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        assert_eq!(range("3..7"), Ok(3..7));
        assert!(["7..3", "3..3", "3", "a..b", "3...7"].iter().all(|text| range(text).is_err()));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("90s"), duration("90"));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(["0s", "s", "-1", "1h"].iter().all(|text| duration(text).is_err()));
        assert_eq!(entries("3,7").map(|e| e.0), Ok(vec![3, 7]));
        assert_eq!(entries("none").map(|e| e.0), Ok(vec![]));
        assert!(entries("3,x").is_err());
    }
}
