//! Benchmarks of Quorate, side by side with its peers.
//!
//! A number of one program on one machine says little. So `framework`, `engine` and `reads` run Quorate and what
//! it is compared with in one process, in turns, and reports medians and spreads of many short rounds: a
//! machine that slows down half-way slows down everybody. `snapshot` can't, with its gigabytes: it
//! shows what goes on before beside what goes on meanwhile. `durable` and `growth`
//! run processes, one cluster at a time.
//!
//! Exit codes: 0 done, 1 failed (`error: what; what to do` on standard error), 2 wrong usage,
//! 130 interrupted.

mod chart;
mod child;
mod durable;
mod engine;
mod failure;
mod framework;
mod growth;
mod idle;
mod measure;
mod output;
mod phases;
mod processor;
mod reads;
mod report;
mod rounds;
mod snapshot;
mod subject;
mod tail;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

/// Measures Quorate beside its peers.
#[derive(Parser)]
#[command(name = "bench", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

/// What can be measured: one variant, and one module, each.
#[derive(Subcommand)]
enum What {
    /// Writes per second of a cluster in one process: the cost of the framework alone.
    Framework(framework::Options),
    /// Entries per second through three engines on one thread: the cost of the protocol alone.
    Engine(engine::Options),
    /// Linearizable reads per second of the same.
    Reads(reads::Options),
    /// A new node joins a store of gigabytes by a snapshot: how fast, and in how much memory.
    Snapshot(snapshot::Options),
    /// Writes per second of a durable service: processes, sockets, disks; beside etcd.
    Durable(durable::Options),
    /// The slowest writes while something is wrong with one member, beside those without.
    Tail(tail::Options),
    /// What a write, a start and a dead leader cost as the cluster, the log and the values grow.
    Growth(growth::Options),
    /// What a cluster with nothing to do takes of a core, and how often it wakes.
    Idle(idle::Options),
    #[command(hide = true)]
    StoreAlone(snapshot::AloneOptions),
    #[command(hide = true)]
    DurableChild(durable::ChildOptions),
    #[command(hide = true)]
    IdleChild(idle::ChildOptions),
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::Framework(options) => framework::run(&options),
        What::Engine(options) => engine::run(&options),
        What::Reads(options) => reads::run(&options),
        What::Snapshot(options) => snapshot::run(&options),
        What::Tail(options) => tail::run(&options),
        What::Growth(options) => growth::run(&options),
        What::Durable(options) => durable::run(&options),
        What::Idle(options) => idle::run(&options),
        What::StoreAlone(options) => snapshot::run_alone(&options),
        What::DurableChild(options) => durable::run_child(&options),
        What::IdleChild(options) => idle::run_child(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            match failure {
                // What a shell reports of a program that SIGINT ended.
                Failure::Interrupted => ExitCode::from(130),
                Failure::Failed { .. } => ExitCode::FAILURE,
                Failure::Usage { .. } => ExitCode::from(2),
            }
        }
    }
}
