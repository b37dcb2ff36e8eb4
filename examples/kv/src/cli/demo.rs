//! The demo: a cluster of three processes, a load, the leader killed in the middle of it, and the
//! proof that nothing acknowledged is lost.
//!
//! What the numbers mean. *Leaderless* is the time from the SIGKILL until a write that was sent
//! after it is acknowledged: election, and the clients' finding of the new leader, included. *p50*
//! and *p99* are from a write's first attempt to its acknowledgement, retries included; *writes/s*
//! are over the whole load, the time without a leader included. *Lost* counts the keys whose
//! acknowledged value a linearizable read at any of the three nodes does not show.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use kv::client::{CallError, Client, PATIENCE, Server, Status};
use kv::error::Exit;
use kv::load::{self, Event, Seen};
use kv::pairs::{self, Pairs};
use kv::process::{self, NodeCommand, NodeProcess, Signal};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{asked_to_stop, pairs_of, report};

/// How long the first election, or a node's end, may take.
const STARTUP: Duration = Duration::from_secs(30);

/// Where a kept directory notes its raft ports: the members of a cluster know each other by them.
const PORTS_FILE: &str = "raft-ports";

#[derive(Args)]
pub(crate) struct Demo {
    /// End after the table; with code 1 if anything was lost
    #[arg(long)]
    exit: bool,
    /// Print the results as one JSON object
    #[arg(long)]
    json: bool,
    /// Keep the data here, instead of in a temporary directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The first of three ports for clients; 0 for free ones
    #[arg(long, value_name = "PORT", default_value_t = 8001, value_parser = port_base())]
    http_base: u16,
    /// The first of three ports for the nodes; 0 for free ones
    #[arg(long, value_name = "PORT", default_value_t = 7001, value_parser = port_base())]
    raft_base: u16,
    /// Load this file, one `key<TAB or spaces>value` a line, instead of the embedded services
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// How many keys; the data is repeated under numbered prefixes
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
}

fn port_base() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(..=65_533)
}

impl Demo {
    /// For people: on stdout, unless that is for a program.
    fn say(&self, text: impl AsRef<str>) {
        if self.json {
            eprintln!("{}", text.as_ref());
        } else {
            println!("{}", text.as_ref());
        }
    }
}

pub(crate) async fn run(args: Demo) -> Result<(), Exit> {
    let pairs = pairs::repeat(&pairs_of(args.load.as_ref())?, args.keys as usize);
    let pairs = Arc::new(pairs.map_err(Exit::unusable)?);
    let directory = Directory::open(args.data.as_deref())?;
    let mut cluster = Cluster::new(&args, directory.path())?;
    let mut stop = pin!(asked_to_stop());

    let shown = tokio::select! { biased;
        stopped = &mut stop => {
            stopped.and(Err(Exit::failed("stopped before the table; the nodes are stopped too")))
        }
        shown = show(&args, &mut cluster, &pairs) => shown,
    };
    let mut result = shown;
    if result.is_ok() && !args.exit {
        args.say(invitation(&cluster, &pairs[0].0));
        result = tokio::select! { biased;
            stopped = &mut stop => stopped,
            gone = cluster.any_gone() => Err(gone),
        };
    }
    let stopped = cluster.stop().await;
    result.and(stopped)
}

/// Everything up to the table.
async fn show(args: &Demo, cluster: &mut Cluster, pairs: &Arc<Pairs>) -> Result<(), Exit> {
    cluster.start()?;
    let places: Vec<String> = cluster.commands.iter().map(place).collect();
    args.say(format!("Three nodes, a process and a log each:\n{}", places.join("\n")));
    cluster.settle().await?;
    let (leader, term) = cluster.leader().await?;
    args.say(format!("Node {leader} leads in term {term}."));

    let written = write(args, cluster, pairs).await?;
    let lost = read_back(cluster, pairs).await?;
    let millis = written.leaderless.as_millis() as u64;
    let (p50, p99) =
        (written.latency.value_at_quantile(0.5), written.latency.value_at_quantile(0.99));
    if args.json {
        // Written by hand for the order of the fields.
        println!(
            "{{\"acknowledged\":{},\"lost\":{},\"leaderless_ms\":{},\"writes_s\":{},\"p50_us\":{},\"p99_us\":{}}}",
            pairs.len(),
            lost.len(),
            millis,
            written.writes_s,
            p50,
            p99
        );
    } else {
        let row = |what: &str, value: String| vec![what.to_owned(), value];
        let rows = [
            row("acknowledged", format!("{} keys, read back from every node", pairs.len())),
            row("lost", lost.len().to_string()),
            row("without a leader", format!("{millis} ms")),
            row("writes/s", written.writes_s.to_string()),
            row("p50", format!("{p50} us")),
            row("p99", format!("{p99} us")),
        ];
        println!("\n{}", report::table(&["", ""], &rows).trim_start());
    }
    match lost.first() {
        None => Ok(()),
        Some(pair) => {
            let key = &pairs[*pair].0;
            Err(Exit::failed(format!(
                "{} acknowledged writes are lost, {key:?} among them; this must not happen, \
                 please report it with the logs in --data DIR",
                lost.len()
            )))
        }
    }
}

fn place(node: &NodeCommand) -> String {
    format!("  node {}  http://{}  raft {}  {}", node.id, node.http, node.raft, node.data.display())
}

struct Written {
    latency: Histogram<u64>,
    writes_s: u64,
    leaderless: Duration,
}

/// The leader that was killed, and when.
struct Killed {
    id: u64,
    /// Before the signal was sent.
    at: Instant,
    /// After the process was gone: what is sent later was never seen by it.
    gone: Instant,
    /// Whether it was started again.
    back: bool,
}

/// Writes all pairs, and kills the leader when half are acknowledged.
async fn write(args: &Demo, cluster: &mut Cluster, pairs: &Arc<Pairs>) -> Result<Written, Exit> {
    let bar = report::bar("storing through all nodes", pairs.len());
    let mut latency =
        Histogram::new_with_bounds(1, 600_000_000, 3).expect("1 us to 10 minutes, 3 digits");
    let (mut acknowledged, mut killed, mut leaderless) = (0, None::<Killed>, None);
    let begun = Instant::now();
    let mut events = load::write(&cluster.client, &cluster.servers, pairs);
    while let Some(event) = events.recv().await {
        let (begun, sent, answered) = match event {
            Event::Acknowledged { begun, sent, answered } => (begun, sent, answered),
            Event::Failed { key, error } => {
                bar.finish_and_clear();
                return Err(cluster.trouble(&format!("{key:?} could not be stored: {error}")));
            }
        };
        latency.saturating_record(answered.duration_since(begun).as_micros() as u64);
        acknowledged += 1;
        bar.inc(1);
        match &mut killed {
            None if acknowledged >= (pairs.len() / 2).max(1) => {
                let kill = cluster.kill_leader().await?;
                bar.suspend(|| {
                    let id = kill.id;
                    args.say(format!(
                        "{acknowledged} acknowledged: SIGKILL to the leader, node {id}."
                    ));
                });
                killed = Some(kill);
            }
            None => {}
            Some(kill) => {
                if leaderless.is_none() && sent >= kill.gone {
                    leaderless = Some(answered.duration_since(kill.at));
                }
                // Late enough to have something to catch up with.
                if leaderless.is_some() && !kill.back && acknowledged >= pairs.len() / 4 * 3 {
                    cluster.restart(kill)?;
                    bar.suspend(|| args.say(format!("Node {} starts again.", kill.id)));
                }
            }
        }
    }
    bar.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    let mut killed = killed.expect("half of all were acknowledged");
    let leaderless = match leaderless {
        Some(leaderless) => leaderless,
        None => cluster.first_write_after(&killed, pairs).await?,
    };
    if !killed.back {
        cluster.restart(&mut killed)?;
        args.say(format!("Node {} starts again.", killed.id));
    }
    let (leader, term) = cluster.leader().await?;
    args.say(format!("All acknowledged; node {leader} leads in term {term}."));
    let writes_s = (acknowledged as f64 / seconds).round() as u64;
    Ok(Written { latency, writes_s, leaderless })
}

/// Reads every pair from every node; the places of those that are not there.
async fn read_back(cluster: &Cluster, pairs: &Arc<Pairs>) -> Result<BTreeSet<usize>, Exit> {
    let mut lost = BTreeSet::new();
    for (id, server) in (1..).zip(&cluster.servers) {
        let bar = report::bar(format!("reading back from node {id}"), pairs.len());
        let mut seen = load::read_back(&cluster.client, server, pairs);
        while let Some(seen) = seen.recv().await {
            bar.inc(1);
            match seen {
                Seen::Same => {}
                Seen::Lost { pair } => {
                    lost.insert(pair);
                }
                Seen::Unread { error } => {
                    bar.finish_and_clear();
                    return Err(cluster.trouble(&format!("node {id} can't be read: {error}")));
                }
            }
        }
        bar.finish_and_clear();
    }
    Ok(lost)
}

fn invitation(cluster: &Cluster, key: &str) -> String {
    let [a, b, c] = [0, 1, 2].map(|node| cluster.servers[node].to_string());
    let key = kv::key::encode(key);
    format!(
        "Try, at any node:\n\n  \
         curl {a}/kv/{key}\n  \
         curl -X PUT --data-binary 'hello' {b}/kv/greeting\n  \
         curl {c}/kv/greeting\n  \
         curl -d '{{\"expect\":\"hello\",\"value\":\"bye\"}}' {a}/kv/greeting/cas\n  \
         curl -X DELETE {b}/kv/greeting\n  \
         curl {c}/status\n\n\
         Ctrl-C stops all three."
    )
}

/// Where the data goes, and whether it stays.
enum Directory {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Directory {
    fn open(kept: Option<&Path>) -> Result<Self, Exit> {
        let opened = match kept {
            None => TempDir::with_prefix("kv-").map(Self::Temporary),
            Some(path) => std::fs::create_dir_all(path).map(|()| Self::Kept(path.to_owned())),
        };
        opened.map_err(|error| {
            Exit::unusable(format!("no directory for the data: {error}; name another with --data"))
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Kept(path) => path,
        }
    }
}

/// Three nodes, of which some run.
struct Cluster {
    commands: Vec<NodeCommand>,
    /// Killed when dropped, so that no panic leaves one over.
    nodes: Vec<NodeProcess>,
    servers: Vec<Server>,
    client: Client,
}

impl Cluster {
    fn new(args: &Demo, directory: &Path) -> Result<Self, Exit> {
        let program = std::env::current_exe()
            .map_err(|error| Exit::unusable(format!("this program can't find itself: {error}")))?;
        let no_port = |error| Exit::unusable(format!("no ports: {error}"));
        let http = ports(args.http_base).map_err(no_port)?;
        let noted = directory.join(PORTS_FILE);
        let raft = match (args.raft_base, read_ports(&noted)) {
            (0, Some(ports)) => ports,
            (base, _) => ports(base).map_err(no_port)?,
        };
        let line = raft.map(|port| port.to_string()).join(" ");
        std::fs::write(&noted, line).map_err(|error| {
            Exit::unusable(format!("can't write to {}: {error}", directory.display()))
        })?;
        let ports: Vec<(u16, u16)> = raft.into_iter().zip(http).collect();
        let commands = process::on_loopback(&program, directory, &ports);
        let servers = commands.iter().map(|node| format!("http://{}", node.http).parse());
        let servers = servers.collect::<Result<_, _>>().map_err(Exit::unusable)?;
        Ok(Self { commands, nodes: Vec::new(), servers, client: Client::new(PATIENCE) })
    }

    fn start(&mut self) -> Result<(), Exit> {
        for command in &self.commands {
            self.nodes.push(start(command)?);
        }
        Ok(())
    }

    /// Waits until every running node answers and one of them leads; its id and term.
    async fn leader(&mut self) -> Result<(u64, u64), Exit> {
        self.poll(|all| leader_of(all).map(|leader| (leader.id, leader.term))).await
    }

    /// Waits until the young cluster can lose a node. A leader writes into the log which data
    /// directory each member has, within a heartbeat of hearing from it; before that is everywhere,
    /// a wiped disk could not be told from the right one, and an election takes all three.
    async fn settle(&mut self) -> Result<(), Exit> {
        self.poll(|all| {
            let heard = leader_of(all)?.matched.values().all(|matched| *matched > 0);
            heard.then_some(())
        })
        .await?;
        tokio::time::sleep(3 * quorate::Config::default().heartbeat_interval).await;
        let last = self.poll(|all| leader_of(all).map(|leader| leader.last)).await?;
        self.poll(|all| all.iter().all(|status| status.committed >= last).then_some(())).await
    }

    /// Asks every node until all answer and `look` sees in it what is waited for.
    async fn poll<T>(&mut self, look: impl Fn(&[Status]) -> Option<T>) -> Result<T, Exit> {
        let deadline = Instant::now() + STARTUP;
        loop {
            if let Some(gone) = self.gone() {
                return Err(gone);
            }
            let asked = self.servers.iter().map(|server| self.client.status(server));
            let answers = futures::future::join_all(asked).await;
            let silent = answers.iter().find_map(|answer| answer.as_ref().err().cloned());
            let all: Vec<Status> = answers.into_iter().flatten().collect();
            match (look(&all), silent) {
                (Some(seen), None) => return Ok(seen),
                _ if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                (_, silent) => {
                    let silent = silent.as_ref().map_or_else(String::new, CallError::to_string);
                    return Err(self.trouble(&format!("no leader within {STARTUP:?} {silent}")));
                }
            }
        }
    }

    async fn kill_leader(&mut self) -> Result<Killed, Exit> {
        let (id, _) = self.leader().await?;
        let at = Instant::now();
        self.nodes[id as usize - 1]
            .kill()
            .map_err(|error| Exit::failed(format!("node {id} can't be killed: {error}")))?;
        Ok(Killed { id, at, gone: Instant::now(), back: false })
    }

    fn restart(&mut self, killed: &mut Killed) -> Result<(), Exit> {
        let place = killed.id as usize - 1;
        self.nodes[place] = start(&self.commands[place])?;
        killed.back = true;
        Ok(())
    }

    /// With few keys no write may be left to be sent after the kill: one is repeated.
    async fn first_write_after(&self, killed: &Killed, pairs: &Pairs) -> Result<Duration, Exit> {
        let mut events =
            load::write(&self.client, &self.servers, &Arc::new(vec![pairs[0].clone()]));
        match events.recv().await {
            Some(Event::Acknowledged { answered, .. }) => Ok(answered.duration_since(killed.at)),
            Some(Event::Failed { error, .. }) => {
                Err(self.trouble(&format!("no write after the kill: {error}")))
            }
            None => unreachable!("each pair has an event"),
        }
    }

    /// The first node that ended without being told to.
    fn gone(&mut self) -> Option<Exit> {
        let gone = self.nodes.iter_mut().find_map(|node| match node.exited() {
            Ok(Some(status)) => Some((node.command().id, status)),
            _ => None,
        });
        gone.map(|(id, status)| self.trouble(&format!("node {id} ended: {status}")))
    }

    async fn any_gone(&mut self) -> Exit {
        loop {
            if let Some(gone) = self.gone() {
                return gone;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What went wrong, with what the nodes last said about it.
    fn trouble(&self, what: &str) -> Exit {
        let mut text = what.to_owned();
        for command in &self.commands {
            let printed = command.printed();
            let lines: Vec<&str> = printed.lines().collect();
            for line in &lines[lines.len().saturating_sub(4)..] {
                text.push_str(&format!("\n  node {}: {line}", command.id));
            }
        }
        Exit::failed(text)
    }

    /// Stops all nodes, in order where they let themselves.
    async fn stop(&mut self) -> Result<(), Exit> {
        let failed = |error| Exit::failed(format!("a node can't be stopped: {error}"));
        for node in &mut self.nodes {
            node.signal(Signal::TERM).map_err(failed)?;
        }
        let mut result = Ok(());
        for node in &mut self.nodes {
            match node.wait(STARTUP).await.map_err(failed)? {
                Some(status) if status.success() => {}
                ended => {
                    let how =
                        ended.map_or("not at all, so it was killed".into(), |s| s.to_string());
                    let id = node.command().id;
                    result = Err(Exit::failed(format!("node {id} did not stop cleanly: {how}")));
                }
            }
        }
        self.nodes.clear();
        result
    }
}

fn start(command: &NodeCommand) -> Result<NodeProcess, Exit> {
    command
        .start()
        .map_err(|error| Exit::unusable(format!("node {} can't be started: {error}", command.id)))
}

/// The leader of the newest term.
fn leader_of(all: &[Status]) -> Option<&Status> {
    all.iter().filter(|status| status.role == "leader").max_by_key(|status| status.term)
}

fn ports(base: u16) -> std::io::Result<[u16; 3]> {
    if base != 0 {
        return Ok([base, base + 1, base + 2]);
    }
    Ok([process::free_port()?, process::free_port()?, process::free_port()?])
}

fn read_ports(path: &Path) -> Option<[u16; 3]> {
    let text = std::fs::read_to_string(path).ok()?;
    let ports: Vec<u16> = text.split_whitespace().map_while(|port| port.parse().ok()).collect();
    ports.try_into().ok()
}
