//! `bench framework`: what the framework itself costs.
//!
//! Nodes in one process, memory for a disk, calls for a network, empty commands, a state machine
//! that does nothing: all that is left is the framework.

use clap::Args;

use crate::failure::Failure;
use crate::measure::Point;
use crate::rounds::Rounds;
use crate::subject::Load;

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    /// Numbers of nodes. Batches of 4 are written to the first of them alone.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "3,1,5",
        value_parser = clap::value_parser!(u32).range(1..=9)
    )]
    nodes: Vec<u32>,

    #[command(flatten)]
    rounds: Rounds,
}

/// Measures all of it and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let (&first, others) = options.nodes.split_first().expect("one at least");
    let loads = [(Load::Write, first), (Load::Batch, first)].into_iter();
    let points = loads.chain(others.iter().map(|&nodes| (Load::Write, nodes)));
    let points: Vec<Point> = points
        .flat_map(|(load, nodes)| {
            options.rounds.clients.iter().map(move |&clients| Point { load, clients, nodes })
        })
        .collect();
    let title = "Nodes in one process, memory store, empty commands.";
    options.rounds.run(title, "writes", &points)
}
