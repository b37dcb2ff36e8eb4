//! `kv`: without arguments three nodes in a demo; with `serve` one node; otherwise a client.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
