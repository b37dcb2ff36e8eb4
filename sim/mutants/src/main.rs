//! Plants known bugs into Quorate, one at a time, and shows that the simulator catches each.
//!
//! `cargo run --release --manifest-path sim/mutants/Cargo.toml` prints which invariant caught which
//! bug after how many seeds, and fails if one survives, or is caught by an invariant that has
//! nothing to do with it. Without any bug the same seeds have to pass.

mod bugs;
mod clients;
mod engines;
mod nodes;
mod snapshots;
mod wal;

use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use bugs::{BUGS, Bug, Level};
use quorate_engine::planted;
use quorate_sim::engines::Plan;

/// How a run failed.
pub(crate) struct Caught {
    /// The invariant that is broken.
    pub(crate) by: String,
    /// How.
    pub(crate) what: String,
}

/// What became of one bug.
struct Verdict {
    bug: &'static Bug,
    /// How many seeds were tried, the last of them with this result.
    seeds: u64,
    caught: Option<Caught>,
}

impl Verdict {
    /// Whether it was caught, by an invariant that it breaks.
    fn is_good(&self) -> bool {
        self.caught.as_ref().is_some_and(|caught| self.bug.breaks.contains(&caught.by.as_str()))
    }
}

fn run(level: Level, seed: u64) -> Result<(), Caught> {
    match level {
        Level::Engines => engines::run(seed, Plan::from_seed(seed)),
        Level::LostDisk => engines::run(seed, engines::lost_disk(seed)),
        Level::OldDisk => engines::run(seed, engines::old_disk(seed)),
        Level::Changing => engines::run(seed, engines::changing(seed)),
        Level::Leases => engines::run(seed, engines::leases(seed)),
        Level::Log => wal::run(seed),
        Level::Snapshots => snapshots::run(seed),
        Level::Nodes => nodes::run(seed),
        Level::Clients => clients::run(seed),
    }
}

fn hunt(bug: &'static Bug) -> Verdict {
    let _planted = planted::switch_on(bug.name);
    for seed in 0..bug.within {
        if let Err(caught) = run(bug.level, seed) {
            return Verdict { bug, seeds: seed + 1, caught: Some(caught) };
        }
    }
    Verdict { bug, seeds: bug.within, caught: None }
}

/// The same seeds without a bug: none of them may fail.
fn control(level: Level, seeds: std::ops::Range<u64>) -> Vec<String> {
    let failed =
        |seed| run(level, seed).err().map(|e| format!("seed {seed}: {}: {}", e.by, e.what));
    seeds.filter_map(failed).collect()
}

const USAGE: &str = "usage: mutants [--json] [--list] [--only NAME]...

  --json       {\"mutants\": [{\"name\", \"caught\", \"seeds\", \"by\"}]} on standard output
  --list       the bugs, and which hazard each stands for
  --only NAME  this bug alone, without the control, and how the invariant is broken; may be
               repeated

Exit code 1 if a bug survives or the control fails, 2 for wrong usage.";

struct Options {
    json: bool,
    list: bool,
    only: Vec<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { json: false, list: false, only: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => options.json = true,
            "--list" => options.list = true,
            "--only" => {
                let name = args.next().ok_or("--only needs the name of a bug; see --list")?;
                if !BUGS.iter().any(|bug| bug.name == name) {
                    return Err(format!("no bug is called {name}; see --list"));
                }
                options.only.push(name);
            }
            _ => return Err(format!("unknown argument {arg}\n\n{USAGE}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match options() {
        Ok(options) if options.list => {
            for bug in BUGS.iter() {
                println!("{:34} {}", bug.name, bug.hazard);
            }
            ExitCode::SUCCESS
        }
        Ok(options) => check(&options),
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::from(2)
        }
    }
}

/// Something for a thread to do.
enum Job {
    Hunt(&'static Bug),
    Control(Level, std::ops::Range<u64>),
}

fn check(options: &Options) -> ExitCode {
    // Bugs that an assertion catches would fill the screen with backtraces.
    std::panic::set_hook(Box::new(|_| {}));
    let chosen = |bug: &&Bug| options.only.is_empty() || options.only.iter().any(|n| n == bug.name);
    // Taken from the end: what may take longest first.
    let mut jobs: Vec<Job> = Vec::new();
    if options.only.is_empty() {
        for level in Level::ALL {
            let of_level = BUGS.iter().filter(|bug| bug.level == level);
            let most = of_level.map(|bug| bug.within).max().unwrap_or(0);
            let chunks = (0..most).step_by(20).map(|from| from..most.min(from + 20));
            jobs.extend(chunks.map(|seeds| Job::Control(level, seeds)));
        }
    }
    let mut bugs: Vec<_> = BUGS.iter().filter(chosen).collect();
    bugs.sort_by_key(|bug| bug.within);
    jobs.extend(bugs.into_iter().map(Job::Hunt));

    let jobs = Mutex::new(jobs);
    let verdicts = Mutex::new(Vec::new());
    let false_alarms = Mutex::new(Vec::new());
    let next = || jobs.lock().expect("no thread panics here").pop();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(job) = next() {
                    match job {
                        Job::Hunt(bug) => {
                            let verdict = hunt(bug);
                            verdicts.lock().expect("no thread panics here").push(verdict);
                        }
                        Job::Control(level, seeds) => {
                            let failed = control(level, seeds);
                            false_alarms.lock().expect("no thread panics here").extend(failed);
                        }
                    }
                }
            });
        }
    });
    let mut verdicts = verdicts.into_inner().expect("no thread panics here");
    verdicts.sort_by_key(|v| BUGS.iter().position(|bug| std::ptr::eq(bug, v.bug)));
    let false_alarms = false_alarms.into_inner().expect("no thread panics here");
    report(options, &verdicts, &false_alarms)
}

fn report(options: &Options, verdicts: &[Verdict], false_alarms: &[String]) -> ExitCode {
    if options.json {
        print_json(verdicts);
    } else {
        print_table(verdicts);
    }
    if !options.only.is_empty() {
        for (verdict, caught) in verdicts.iter().filter_map(|v| Some((v, v.caught.as_ref()?))) {
            eprintln!("{}: seed {}: {}", verdict.bug.name, verdict.seeds - 1, caught.what);
        }
    }
    let mut bad = 0;
    for verdict in verdicts.iter().filter(|verdict| !verdict.is_good()) {
        bad += 1;
        let Bug { name, breaks, .. } = verdict.bug;
        match &verdict.caught {
            None => eprintln!("error: {name} survives {} seeds", verdict.seeds),
            Some(Caught { by, what }) => eprintln!(
                "error: {name} is caught by {by:?} ({what}), and breaks {breaks:?}; one of both is \
                 wrong"
            ),
        }
    }
    for failed in false_alarms {
        eprintln!("error: without any bug: {failed}");
    }
    if bad == 0 && false_alarms.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_table(verdicts: &[Verdict]) {
    println!("| bug | hazard | seeds | at most | caught by |\n|---|---|---|---|---|");
    for verdict in verdicts {
        let by = verdict.caught.as_ref().map_or("SURVIVES", |caught| caught.by.as_str());
        let Bug { name, hazard, within, .. } = verdict.bug;
        println!("| {name} | {hazard} | {} | {within} | {by} |", verdict.seeds);
    }
}

/// By hand: there is nothing in it that would need escaping.
fn print_json(verdicts: &[Verdict]) {
    let mutants: Vec<String> = verdicts
        .iter()
        .map(|verdict| {
            let by = verdict.caught.as_ref().map(|caught| caught.by.to_lowercase());
            format!(
                "{{\"name\": \"{}\", \"caught\": {}, \"seeds\": {}, \"by\": {}}}",
                verdict.bug.name,
                verdict.is_good(),
                verdict.seeds,
                by.map_or("null".into(), |by| format!("\"{by}\"")),
            )
        })
        .collect();
    println!("{{\"mutants\": [{}]}}", mutants.join(",\n "));
}
