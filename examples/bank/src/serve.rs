//! `bank serve`: one node in the foreground.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use bank::bank::Bank;
use bank::nodes::CLUSTER;
use clap::Args;
use quorate::{Config, Event, Raft};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::{Exit, asked_to_stop};

/// Entries between two snapshots: few, so that a short run has some, with sessions in them.
const SNAPSHOT_ENTRIES: u64 = 2000;

#[derive(Args)]
pub(crate) struct Serve {
    /// This node's id, one of --peers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Where it keeps its log; created if it does not exist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where it listens for the other nodes and for clients
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// The members, each with the address the others find it at: 1=ADDR,2=ADDR,3=ADDR
    #[arg(long, value_name = "ID=ADDR,..", value_parser = peers)]
    peers: BTreeMap<u64, String>,
    /// Begin the cluster with --peers; on one node, repeating it is harmless
    #[arg(long)]
    bootstrap: bool,
    /// Stop also when standard input ends, for parents that must not leave a node behind
    #[arg(long)]
    stop_with_stdin: bool,
}

fn peers(text: &str) -> Result<BTreeMap<u64, String>, String> {
    let mut peers = BTreeMap::new();
    for peer in text.split(',') {
        let wrong = || format!("{peer:?} is not ID=ADDR; write 1=127.0.0.1:7001,2=..");
        let (id, address) = peer.split_once('=').ok_or_else(wrong)?;
        let id = id.trim().parse().ok().filter(|id| *id > 0).ok_or_else(wrong)?;
        if address.is_empty() || peers.insert(id, address.to_owned()).is_some() {
            return Err(wrong());
        }
    }
    Ok(peers)
}

pub(crate) async fn run(args: Serve) -> Result<(), Exit> {
    log_to_stderr();
    let Serve { id, data, listen, peers, .. } = args;
    let address = peers.get(&id).ok_or_else(|| {
        Exit::unusable(format!("--peers has no node {id}; name every member, this one too"))
    })?;
    let mut config = Config::default();
    config.snapshot_entries = Some(SNAPSHOT_ENTRIES);
    config.keep_entries = SNAPSHOT_ENTRIES / 4;
    let raft = Raft::builder(id, Bank::default())
        .data_dir(data)
        .listen(&listen)
        .advertise(address)
        .cluster(CLUSTER)
        .config(config)
        .start()
        .await
        .map_err(|error| Exit::unusable(format!("node {id} can't start: {error}")))?;
    // Before anything can happen to it.
    let mut events = raft.events();
    if args.bootstrap {
        if let Err(error) = raft.initialize(peers.clone()).await {
            raft.shutdown().await;
            return Err(Exit::failed(format!("the cluster does not begin: {error}")));
        }
    }
    println!("node {id} serves on {listen}");

    let stdin_ended = watch_stdin(args.stop_with_stdin);
    let ended = async {
        while let Some(event) = events.next().await {
            if matches!(event, Event::Stopped { .. }) {
                break;
            }
        }
    };
    tokio::select! { biased;
        stopped = asked_to_stop() => stopped?,
        Ok(()) = stdin_ended => {}
        () = ended => {}
    }
    raft.shutdown().await;
    match raft.metrics().fatal {
        None => Ok(()),
        Some(fatal) => Err(Exit::failed(format!("node {id} had to stop: {fatal}; start it again"))),
    }
}

/// Completes when standard input ends; fails if it was not asked to watch. On a thread of its own,
/// which a read that never returns does not keep the process from ending.
fn watch_stdin(watch: bool) -> oneshot::Receiver<()> {
    let (ended, wait) = oneshot::channel();
    if watch {
        std::thread::spawn(move || {
            let mut rest = [0; 64];
            while matches!(std::io::stdin().read(&mut rest), Ok(1..)) {}
            // The node may have stopped by itself.
            ended.send(()).ok();
        });
    }
    wait
}

/// Transitions and warnings; more with `QUORATE_LOG`, like `quorate=debug`.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("QUORATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}
