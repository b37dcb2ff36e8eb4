//! One running node: the Raft node, its HTTP server, and how both end.
//!
//! Everything that can be wrong with the surroundings is found before the node says a word to
//! anyone: first the HTTP port, then directory, log and raft port, then the first members.
//! Once it runs, a node that has to stop (a disk failed, say) keeps its server, so that `/status`
//! tells why; the process then ends with code 1.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture as _};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use quorate::{Config, Event, Failure, InitializeError, Raft, StartError, StorageError};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::error::Exit;
use crate::join::Join;
use crate::server::App;
use crate::store::Store;
use crate::table::Table;

/// For how long requests that are being served may go on after the signal to stop: as long as
/// writes and reads may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

/// What a value's command has besides the value: the key, the variant and two lengths.
const COMMAND_BYTES: usize = 1024;

/// Where a node keeps, finds and shows things.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's id.
    pub id: u64,
    /// Its data directory.
    pub data: PathBuf,
    /// Where it listens for the others.
    pub raft: String,
    /// Where it listens for clients.
    pub http: String,
    /// How it comes to be a member.
    pub origin: Origin,
    /// The cluster's name.
    pub cluster: String,
    /// The largest value, in bytes.
    pub max_value_bytes: usize,
    /// Where the values are.
    pub store: StoreKind,
    /// After how many entries a snapshot is built, and the log compacted.
    pub snapshot_entries: u64,
    /// How many entries before the snapshot stay in the log.
    pub keep_entries: u64,
    /// How long a session lasts in which nothing is written.
    pub session_ttl: Duration,
    /// How many sessions there may be.
    pub max_sessions: usize,
    /// After how many entries the nodes compare their states; `None` for never.
    pub state_hash_entries: Option<u64>,
    /// Memory for writes that wait: to be proposed, to be committed, to be applied, each.
    pub quota_bytes: usize,
}

/// Where a node has its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// In memory; restored from snapshot and log at a start.
    Memory,
    /// In a redb database in the data directory.
    Redb,
}

impl StoreKind {
    fn open(self, data: &Path) -> Result<Store, Exit> {
        match self {
            StoreKind::Memory => Ok(Store::default()),
            StoreKind::Redb => {
                let path = data.join("values.redb");
                let table = std::fs::create_dir_all(data)
                    .map_err(Failure::from)
                    .and_then(|()| Table::open(&path));
                table.map(|table| Store::Table(Box::new(table))).map_err(|failure| {
                    let path = path.display();
                    Exit::failed(format!("{path}: {failure}; is another process using it?"))
                })
            }
        }
    }
}

/// How a node comes to be a member.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It is one of the first.
    First {
        /// They, this node too, and where they find each other.
        peers: BTreeMap<u64, String>,
        /// Whether to begin the cluster with them.
        bootstrap: bool,
        /// The backup that a new cluster of them begins with.
        restore: Option<PathBuf>,
    },
    /// It joins a cluster that runs.
    Joins(Join),
}

/// Runs a node until `stop` completes, then stops it cleanly. `ready` is told the addresses of the
/// client port and the raft port once both are served.
///
/// # Errors
/// If it can't start, or had to stop by itself at any time.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(&str, &str),
) -> Result<(), Exit> {
    let Settings { id, origin, .. } = &settings;
    let advertise = match origin {
        Origin::First { peers, .. } => peers.get(id).cloned().ok_or_else(|| {
            Exit::unusable(format!("--peers has no node {id}; name every member, this one too"))
        })?,
        Origin::Joins(join) => join.address.clone(),
    };
    let listener = listen(&settings.http).await?;
    let http = listener.local_addr().map_err(|e| Exit::unusable(format!("--http: {e}")))?;

    let mut config = Config::default();
    config.max_command_bytes =
        config.max_command_bytes.max(2 * settings.max_value_bytes + COMMAND_BYTES);
    config.snapshot_entries = Some(settings.snapshot_entries);
    config.keep_entries = settings.keep_entries;
    config.session_ttl = settings.session_ttl;
    config.max_sessions = settings.max_sessions;
    config.state_hash_entries = settings.state_hash_entries;
    config.queue_bytes = settings.quota_bytes;
    config.uncommitted_bytes = settings.quota_bytes;
    config.unapplied_bytes = settings.quota_bytes;
    let mut builder = Raft::builder(*id, settings.store.open(&settings.data)?);
    if let Origin::First { peers, restore: Some(file), .. } = origin {
        builder = builder.restore(file, peers.clone());
    }
    let raft = builder
        .data_dir(&settings.data)
        .listen(&settings.raft)
        .advertise(advertise)
        .cluster(&settings.cluster)
        .config(config.clone())
        .start()
        .await
        .map_err(|error| refused(&settings, &error))?;
    // Before anything can happen to it.
    let events = raft.events();
    if let Origin::First { peers, bootstrap: true, .. } = origin {
        if let Err(error) = raft.initialize(peers.clone()).await {
            raft.shutdown().await;
            return Err(not_begun(&settings, &error, raft.metrics().fatal));
        }
    }

    ready(&http.to_string(), &settings.raft);
    let router = App::new(raft.clone(), settings.max_value_bytes, &config).router();
    let (stopping, drained) = oneshot::channel();
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection without TCP_NODELAY");
        }
    });
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        stop.await;
        // Nobody waits for it if the server has failed.
        stopping.send(()).ok();
    });
    let overtime = async {
        match drained.await {
            Ok(()) => tokio::time::sleep(DRAIN_TIMEOUT).await,
            Err(_) => std::future::pending().await,
        }
    };
    let joining = async {
        match origin {
            Origin::First { .. } => Ok(()),
            Origin::Joins(join) => join.run(&raft).await,
        }
    };
    let ended = tokio::select! { biased;
        Err(turned_away) = joining => Err(turned_away),
        () = report_the_end(events) => unreachable!("the reporter goes on"),
        served = server.into_future() => Ok(served),
        () = pin!(overtime) => Ok(Ok(())),
    };
    raft.shutdown().await;
    let served = ended?;
    if let Some(fatal) = raft.metrics().fatal {
        return Err(Exit::failed(format!("node {id} had to stop: {fatal}")));
    }
    served.map_err(|error| Exit::failed(format!("the HTTP server failed: {error}; start again")))
}

async fn listen(address: &str) -> Result<TcpListener, Exit> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "stop the process that has the port, or choose another",
            _ => "give it an address of this machine, like 127.0.0.1:8001",
        };
        Exit::unusable(format!("--http: can't listen on {address}: {error}; {advice}"))
    })
}

fn refused(settings: &Settings, error: &StartError) -> Exit {
    match error {
        // What the directory holds is at fault, not the way it was named.
        StartError::Storage(StorageError::Corrupt(_)) | StartError::Engine(_) => {
            Exit::failed(format!("{}: {error}", settings.data.display()))
        }
        StartError::Listen(_) => Exit::unusable(format!("--raft: {error}")),
        // It names the directory itself.
        StartError::Storage(StorageError::InUse(_)) => Exit::unusable(format!("--data: {error}")),
        _ => Exit::unusable(format!("{}: {error}", settings.data.display())),
    }
}

fn not_begun(settings: &Settings, error: &InitializeError, fatal: Option<String>) -> Exit {
    let data = settings.data.display();
    match (error, fatal) {
        (_, Some(fatal)) => Exit::failed(format!("node {} had to stop: {fatal}", settings.id)),
        (InitializeError::OtherCluster, None) => Exit::failed(format!(
            "{error}; start without --bootstrap, with the --peers and --cluster it began with, or \
             with another --data than {data}"
        )),
        (error, None) => Exit::failed(format!("{error}; check --peers and {data}")),
    }
}

/// Says on stderr when the node stops by itself. Never ends.
async fn report_the_end(mut events: quorate::Events) {
    while let Some(event) = events.next().await {
        if let Event::Stopped { fatal: Some(fatal) } = event {
            eprintln!("error: the node had to stop: {fatal}; /status keeps telling, restart it");
        }
    }
    std::future::pending().await
}
