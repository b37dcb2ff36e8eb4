//! `simulate`: seeds in, broken promises out.

mod bench;
mod options;
mod replay;
mod report;
mod simulate;
mod stop;
mod sweep;

use std::process::ExitCode;

use clap::Parser;

use crate::options::{Command, Simulate};

/// How a command ends.
pub(crate) enum Ended {
    /// It did what it was asked, and no promise was broken.
    Well,
    /// A promise was broken; everything is said.
    Broken,
    /// It could not be tried: what happened; what to do.
    Unusable(String),
}

fn main() -> ExitCode {
    let Simulate { command: Command::Run(run) } = Simulate::parse();
    // A replay is one seed: it ends at once.
    if run.seed.is_none() || run.minimize {
        stop::listen();
    }
    stop::keep_simulated_panics_quiet();
    let ended = if let Some(text) = run.contradiction() {
        Ended::Unusable(text)
    } else if run.bench {
        bench::bench(&run)
    } else if let Some(seed) = run.seed {
        replay::replay(seed, &run)
    } else {
        sweep::sweep(&run)
    };
    match ended {
        Ended::Well => ExitCode::SUCCESS,
        Ended::Broken => ExitCode::from(1),
        Ended::Unusable(text) => {
            eprintln!("error: {text}");
            ExitCode::from(2)
        }
    }
}
