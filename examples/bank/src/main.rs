//! `bank`: without arguments a demo of three nodes that are killed one after the other; with `serve`
//! one node.

mod demo;
mod serve;

use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A replicated bank, on Quorate.
///
/// Without a command: the demo.
#[derive(Parser)]
#[command(name = "bank", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: demo::Demo,
}

#[derive(Subcommand)]
enum Command {
    /// Three nodes on this machine, killed one after the other while customers move money; then the sum
    Demo(demo::Demo),
    /// Run one node, until Ctrl-C or SIGTERM
    Serve(serve::Serve),
}

/// Why the process ends. Printed as `error: TEXT` on stderr.
struct Exit {
    /// 1: what was asked failed. 2: it could not be tried, the command or its surroundings have to
    /// change first.
    code: u8,
    /// What happened; what to do.
    text: String,
}

impl Exit {
    fn failed(text: impl fmt::Display) -> Self {
        Self { code: 1, text: text.to_string() }
    }

    fn unusable(text: impl fmt::Display) -> Self {
        Self { code: 2, text: text.to_string() }
    }
}

fn main() -> ExitCode {
    // Wrong usage ends here, with code 2.
    let cli = Cli::parse();
    let result = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Err(error) => Err(Exit::unusable(format!("no runtime: {error}; look at the limits"))),
        Ok(runtime) => runtime.block_on(async {
            match cli.command {
                None => demo::run(cli.demo).await,
                Some(Command::Demo(args)) => demo::run(args).await,
                Some(Command::Serve(args)) => serve::run(args).await,
            }
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("error: {}", exit.text);
            ExitCode::from(exit.code)
        }
    }
}

/// Completes on Ctrl-C or SIGTERM.
async fn asked_to_stop() -> Result<(), Exit> {
    use tokio::signal::unix::{SignalKind, signal};
    let watch = |kind| {
        signal(kind).map_err(|error| {
            Exit::unusable(format!("signals can't be watched: {error}; look at the limits"))
        })
    };
    let (mut interrupt, mut terminate) =
        (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?);
    tokio::select! { biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
