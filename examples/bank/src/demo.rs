//! The demo: three processes, customers that move money, each node killed in its turn, and in the end
//! the question whether the bank has what it was given.

use std::pin::pin;

use bank::customers::{self, Customers};
use bank::ledger::{Ledger, check};
use bank::nodes::Nodes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tempfile::TempDir;

use crate::{Exit, asked_to_stop};

const NODES: u64 = 3;

#[derive(Args)]
pub(crate) struct Demo {
    /// How many customers move money at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    customers: u32,
    /// How many times a node is killed, one after the other
    #[arg(long, value_name = "N", default_value_t = 6)]
    kills: u64,
    /// How many commands are answered before each kill, and again before the node comes back
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    commands: u64,
    /// What the customers do; another seed, other commands
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the results as one JSON object
    #[arg(long)]
    json: bool,
}

/// What came out.
#[derive(Serialize)]
struct Results {
    done: u64,
    refused: u64,
    repeated: u64,
    unknown: u64,
    kills: u64,
    deposited: u64,
    withdrawn: u64,
    balances: u64,
    wrong: Vec<String>,
}

pub(crate) async fn run(args: Demo) -> Result<(), Exit> {
    let directory = TempDir::with_prefix("bank-").map_err(|error| {
        Exit::unusable(format!("no directory for the data: {error}; set TMPDIR to another"))
    })?;
    let mut stop = pin!(asked_to_stop());
    // When this is dropped, so are the nodes, which kills them.
    let results = tokio::select! { biased;
        stopped = &mut stop => {
            stopped.and(Err(Exit::failed("stopped before the end; the nodes are stopped too")))
        }
        results = play(&args, &directory) => results,
    }?;
    show(&args, &results)?;
    match &results.wrong[..] {
        [] => Ok(()),
        wrong => Err(Exit::failed(format!(
            "the bank is wrong, please report it with --seed {}:\n  {}",
            args.seed,
            wrong.join("\n  ")
        ))),
    }
}

async fn play(args: &Demo, directory: &TempDir) -> Result<Results, Exit> {
    let program = std::env::current_exe().map_err(|error| {
        Exit::unusable(format!("this program can't find itself: {error}; run it by its path"))
    })?;
    let mut nodes = Nodes::start(&program, directory.path(), NODES).await.map_err(Exit::failed)?;
    let style = ProgressStyle::with_template(
        "{msg:<28} [{bar:32}] {human_pos}/{human_len} {per_sec} {elapsed}",
    );
    let bar = ProgressBar::new((2 * args.kills + 1) * args.commands)
        .with_style(style.expect("a template that is constant").progress_chars("=> "));
    let clients = (0..args.customers).map(|n| nodes.client(u64::from(n) % NODES + 1));
    let customers = Customers::start(clients.collect::<Vec<_>>(), args.seed);
    let progress = |answered| bar.set_position(answered);

    for (_, id) in (0..args.kills).zip((1..=NODES).cycle()) {
        bar.set_message("all nodes are up");
        customers.go_on(args.commands, progress).await.map_err(Exit::failed)?;
        nodes.kill(id).map_err(Exit::failed)?;
        bar.set_message(format!("node {id} is killed"));
        customers.go_on(args.commands, progress).await.map_err(Exit::failed)?;
        nodes.up(id).map_err(Exit::failed)?;
        nodes.ready().await.map_err(Exit::failed)?;
    }
    customers.go_on(args.commands, progress).await.map_err(Exit::failed)?;
    let ledgers = customers.finish().await;
    bar.finish_and_clear();

    let balances = customers::audit(&nodes.client(1)).await.map_err(Exit::failed)?;
    nodes.stop().await.map_err(Exit::failed)?;
    let sum = |of: fn(&Ledger) -> u64| ledgers.iter().map(of).sum();
    Ok(Results {
        done: sum(|ledger| ledger.done),
        refused: sum(|ledger| ledger.refused),
        repeated: sum(|ledger| ledger.repeated),
        unknown: sum(|ledger| ledger.unknown),
        kills: args.kills,
        deposited: sum(|ledger| ledger.deposited),
        withdrawn: sum(|ledger| ledger.withdrawn),
        balances: balances.values().sum(),
        wrong: check(&ledgers, &balances).err().unwrap_or_default(),
    })
}

fn show(args: &Demo, results: &Results) -> Result<(), Exit> {
    if args.json {
        let text = serde_json::to_string(results).map_err(Exit::failed)?;
        println!("{text}");
        return Ok(());
    }
    let rows = [
        ("commands done", results.done),
        ("refused: not enough money", results.refused),
        ("sent again, applied once", results.repeated),
        ("of unknown outcome", results.unknown),
        ("nodes killed", results.kills),
        ("put in", results.deposited),
        ("taken out", results.withdrawn),
        ("in the accounts", results.balances),
    ];
    for (what, number) in rows {
        println!("{what:<26} {number:>10}");
    }
    if results.wrong.is_empty() {
        println!("Put in, less taken out, is what is there; and every customer's books agree.");
    }
    Ok(())
}
