//! `kv serve`: one node in the foreground.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kv::admin::check_address;
use kv::client::Server;
use kv::error::Exit;
use kv::join::{Join, Role};
use kv::node::{self, Origin, Settings, StoreKind};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use super::units::{bytes, duration};

/// The largest that `--max-value` may be: it travels in one piece, and beside others.
const MAX_VALUE_BYTES: u64 = 16 << 20;

#[derive(Args)]
pub(crate) struct Serve {
    /// This node's id; with --peers, one of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Where it keeps its log; created if it does not exist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where it listens for the other nodes
    #[arg(long, value_name = "ADDR")]
    raft: String,
    /// Where it listens for clients
    #[arg(long, value_name = "ADDR")]
    http: String,
    /// The first members, each with the address the others find it at: 1=ADDR,2=ADDR,3=ADDR
    #[arg(
        long,
        value_name = "ID=ADDR,..",
        value_parser = peers,
        required_unless_present = "join",
        conflicts_with = "join"
    )]
    peers: Option<BTreeMap<u64, String>>,
    /// Begin the cluster with --peers; on one node, repeating it is harmless
    ///
    /// A blank node without it waits to be contacted.
    #[arg(long, conflicts_with = "join")]
    bootstrap: bool,
    /// Join a cluster that runs: the HTTP address of a member
    ///
    /// It becomes a voter when it has caught up. Repeating it is harmless.
    #[arg(long, value_name = "URL")]
    join: Option<Server>,
    /// Join as a learner, which receives everything and does not vote
    #[arg(long, conflicts_with = "peers")]
    learner: bool,
    /// Join as a witness, which votes and keeps no values; for as long as --data lives
    #[arg(long, conflicts_with_all = ["peers", "learner"])]
    witness: bool,
    /// Where the others find this node when it joins; --raft if left out
    #[arg(long, value_name = "ADDR", conflicts_with = "peers", value_parser = address)]
    advertise: Option<String>,
    /// The cluster's name; nodes of another name are refused
    #[arg(long, value_name = "NAME", default_value = "kv")]
    cluster: String,
    /// The largest value
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 1 << 20,
        value_parser = clap::value_parser!(u64).range(1..=MAX_VALUE_BYTES)
    )]
    max_value: u64,
    /// Where the values are: in memory, or in a database in the data directory
    ///
    /// The same on every start; nodes of a cluster may differ.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = StoreKind::Memory)]
    store: StoreKind,
    /// Begin a new cluster of --peers with the values of this backup; on a node that has begun it is
    /// ignored
    ///
    /// Given to every node of --peers, with the same file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bootstrap", "join"])]
    restore: Option<PathBuf>,
    /// After so many entries a snapshot is written and the log compacted
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    snapshot_entries: u64,
    /// Entries before the snapshot that stay in the log, for nodes that are a little behind
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keep_entries: u64,
    /// A session in which nothing is written for so long is at an end
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    session_ttl: Duration,
    /// Sessions there may be at a time; another one ends the one that would lapse next
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000)
    )]
    max_sessions: u64,
    /// After so many entries each node hashes its values, and one that has others than the rest stops;
    /// never, if left out
    ///
    /// The same on every node. Reads and writes of a node wait while it hashes, about a second for each
    /// GiB.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    state_hash_entries: Option<u64>,
    /// Memory for writes on their way; over it they are refused as `overloaded`
    ///
    /// Each for those that wait to be proposed, that wait to be committed, and that wait to be applied.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = bytes)]
    quota_bytes: u64,
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

fn address(text: &str) -> Result<String, String> {
    check_address(text).map(|()| text.to_owned())
}

pub(crate) async fn run(args: Serve) -> Result<(), Exit> {
    log_to_stderr();
    let origin = match (args.join, args.peers) {
        (Some(server), _) => Origin::Joins(Join {
            server,
            address: match args.advertise {
                Some(address) => address,
                None => address(&args.raft)
                    .map_err(|error| Exit::unusable(format!("--raft: {error}, or --advertise")))?,
            },
            role: match (args.learner, args.witness) {
                (true, _) => Role::Learner,
                (_, true) => Role::Witness,
                _ => Role::Voter,
            },
        }),
        (None, peers) => Origin::First {
            peers: peers.expect("required without --join"),
            bootstrap: args.bootstrap,
            restore: args.restore,
        },
    };
    let settings = Settings {
        id: args.id,
        data: args.data,
        raft: args.raft,
        http: args.http,
        origin,
        cluster: args.cluster,
        max_value_bytes: args.max_value as usize,
        store: args.store,
        snapshot_entries: args.snapshot_entries,
        keep_entries: args.keep_entries,
        session_ttl: args.session_ttl,
        max_sessions: args.max_sessions as usize,
        state_hash_entries: args.state_hash_entries,
        quota_bytes: args.quota_bytes as usize,
    };
    let id = settings.id;
    let stdin_ended = watch_stdin(args.stop_with_stdin);
    let stop = async {
        tokio::select! { biased;
            Ok(()) = super::asked_to_stop() => {}
            Ok(()) = stdin_ended => {}
            else => std::future::pending().await,
        }
    };
    node::run(settings, stop, |http, raft| {
        let line = format!("node {id} serves http://{http}, raft on {raft}\n");
        let mut out = std::io::stdout().lock();
        // Whoever started it may not read what it says.
        drop(out.write_all(line.as_bytes()).and_then(|()| out.flush()));
    })
    .await
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

/// Transitions and warnings; more with `QUORATE_LOG` or `RUST_LOG`, like `quorate=debug`.
fn log_to_stderr() {
    let filter = ["QUORATE_LOG", "RUST_LOG"]
        .iter()
        .find_map(|name| EnvFilter::try_from_env(name).ok())
        .unwrap_or_else(|| EnvFilter::new("info"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .init();
}
