//! The command line: what can be said, and who does it.

mod admin;
mod commands;
mod demo;
mod recover;
mod report;
mod serve;
mod top;
mod units;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use kv::client::Server;
use kv::error::Exit;

/// A replicated key-value store over HTTP, on Quorate.
///
/// Without a command: three nodes on this machine, loaded with data, whose leader is killed in the
/// middle; then every acknowledged key is read back from every node.
#[derive(Parser)]
#[command(name = "kv", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: demo::Demo,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node, until Ctrl-C or SIGTERM
    Serve(serve::Serve),
    /// Print the value of a key, as it is, without a newline
    Get(commands::Get),
    /// Store a value
    Put(commands::Put),
    /// Remove a key
    Delete(commands::Delete),
    /// Store NEW if the key holds OLD
    Cas(commands::Cas),
    /// Store every line `key<TAB or spaces>value` of a file
    Load(commands::Load),
    /// Show what every server says of itself
    Status(commands::Status),
    /// Watch the servers: roles, lag, writes per second, how long they take
    Top(top::Top),
    /// Change who is a member and who leads; snapshots
    #[command(subcommand)]
    Admin(admin::Admin),
}

/// What all client commands understand.
#[derive(Args)]
struct Target {
    /// A server's address; repeat it, or separate several by commas
    ///
    /// The next one is asked where that is safe: if the first can't be reached, has certainly not
    /// done what it was asked, or was only to be read.
    #[arg(
        long = "server",
        value_name = "URL",
        env = "KV_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8001"
    )]
    servers: Vec<Server>,
    /// Print one JSON object, for programs
    #[arg(long)]
    json: bool,
}

/// Parses the arguments and does what they say.
pub(crate) fn main() -> ExitCode {
    // Wrong usage ends here, with code 2.
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Exit::unusable(format!("no runtime: {error}")))),
    };
    let result = runtime.block_on(async {
        match cli.command {
            None => demo::run(cli.demo).await,
            Some(Command::Serve(args)) => serve::run(args).await,
            Some(Command::Get(args)) => commands::get(args).await,
            Some(Command::Put(args)) => commands::put(args).await,
            Some(Command::Delete(args)) => commands::delete(args).await,
            Some(Command::Cas(args)) => commands::cas(args).await,
            Some(Command::Load(args)) => commands::load(args).await,
            Some(Command::Status(args)) => commands::status(args).await,
            Some(Command::Top(args)) => top::run(args).await,
            Some(Command::Admin(command)) => admin::run(command).await,
        }
    });
    end(result)
}

/// A text can end with nothing to say: the answer "no" is an exit code, not an error.
fn end(result: Result<(), Exit>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            if !exit.text.is_empty() {
                eprintln!("error: {exit}");
            }
            ExitCode::from(exit.code)
        }
    }
}

/// The pairs of `path`, or the embedded ones.
fn pairs_of(path: Option<&PathBuf>) -> Result<kv::pairs::Pairs, Exit> {
    let Some(path) = path else {
        return kv::pairs::parse(kv::pairs::SERVICES).map_err(Exit::failed);
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Exit::unusable(format!("can't read {}: {error}; name another file", path.display()))
    })?;
    kv::pairs::parse(&text).map_err(|error| Exit::unusable(format!("{}: {error}", path.display())))
}

/// Completes on Ctrl-C or SIGTERM.
async fn asked_to_stop() -> Result<(), Exit> {
    use tokio::signal::unix::{SignalKind, signal};
    let watch = |kind| {
        signal(kind).map_err(|error| Exit::unusable(format!("signals can't be watched: {error}")))
    };
    let (mut interrupt, mut terminate) =
        (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?);
    tokio::select! { biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
