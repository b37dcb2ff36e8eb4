//! `bench reads`: linearizable reads, in the setting of `bench framework`.

use clap::Args;

use crate::failure::Failure;
use crate::measure::Point;
use crate::rounds::Rounds;
use crate::subject::Load;

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    rounds: Rounds,
}

/// Of every cluster.
const NODES: u32 = 3;

/// Measures all of it and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let points: Vec<Point> = [Load::ReadIndex, Load::LeaseRead, Load::Mix]
        .into_iter()
        .flat_map(|load| {
            let point = move |&clients| Point { load, clients, nodes: NODES };
            options.rounds.clients.iter().map(point)
        })
        .collect();
    let title =
        "Three nodes in one process, memory store, empty commands; a mix is 9 reads to a write.";
    options.rounds.run(title, "operations", &points)
}
