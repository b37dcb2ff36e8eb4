//! A cluster of `kv` processes with their values in redb, and the node that joins it.

use std::env;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kv::client::{Client, PATIENCE, Server, Status};
use kv::process::{self, NodeCommand, NodeProcess, free_port};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;

/// How long an election, or the end of a node, may take.
const STARTUP: Duration = Duration::from_secs(60);

/// Between two looks at a node.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// Logs are compacted often, and little of them is kept: a new node finds the beginning of every log
/// gone and needs a snapshot.
const FLAGS: [&str; 8] = [
    "--store",
    "redb",
    "--snapshot-entries",
    "1000",
    "--keep-entries",
    "100",
    "--max-value",
    "16777216",
];

/// The members, in order of their ids, which begin with 1.
pub(super) struct Cluster {
    pub(super) client: Client,
    commands: Vec<NodeCommand>,
    pub(super) servers: Vec<Server>,
    processes: Vec<NodeProcess>,
}

/// A member that runs.
pub(super) struct Running {
    pub(super) server: Server,
    pub(super) pid: u32,
    pub(super) data: PathBuf,
}

/// The `kv` program beside this one. Cargo is asked to build it first if it started this one, or if
/// it is not there: what is measured is the source as it is.
pub(super) fn program() -> Result<PathBuf, Failure> {
    const ADVICE: &str =
        "build it with `cargo build --release -p kv`, into the same target directory";
    let own = env::current_exe().map_err(|e| Failure::new(format!("this program: {e}"), ADVICE))?;
    let profile = own.parent().filter(|dir| dir.parent().is_some());
    let profile = profile.ok_or_else(|| Failure::new("this program has no directory", ADVICE))?;
    let program = profile.join(format!("kv{}", env::consts::EXE_SUFFIX));
    let cargo = env::var_os("CARGO");
    if cargo.is_none() && program.exists() {
        return Ok(program);
    }
    let mut build = Command::new(cargo.unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--package", "kv", "--manifest-path"]);
    build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    build.arg("--target-dir").arg(profile.parent().expect("looked at above"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    match build.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(program),
        Ok(status) => Err(Failure::new(format!("cargo could not build kv: {status}"), ADVICE)),
        Err(error) => Err(Failure::new(format!("cannot run cargo: {error}"), ADVICE)),
    }
}

fn system(error: impl Display) -> Failure {
    Failure::new(format!("a node cannot be run: {error}"), "look at --dir and at free ports")
}

fn server(command: &NodeCommand) -> Server {
    format!("http://{}", command.http).parse().expect("an address on loopback")
}

impl Cluster {
    /// Of `nodes` nodes with their data below `directory`. Nothing runs yet.
    pub(super) fn new(program: &Path, directory: &Path, nodes: u32) -> Result<Self, Failure> {
        let ports = (0..nodes).map(|_| Ok((free_port()?, free_port()?)));
        let ports: Vec<_> = ports.collect::<std::io::Result<_>>().map_err(system)?;
        let mut commands = process::on_loopback(program, directory, &ports);
        for command in &mut commands {
            command.more.extend(FLAGS.map(String::from));
        }
        let servers = commands.iter().map(server).collect();
        Ok(Self { client: Client::new(PATIENCE), commands, servers, processes: Vec::new() })
    }

    /// Starts all nodes; returns the leader once there is one and all follow it.
    pub(super) async fn start(&mut self) -> Result<Running, Failure> {
        self.processes = self
            .commands
            .iter()
            .map(NodeCommand::start)
            .collect::<Result<_, _>>()
            .map_err(system)?;
        let begun = Instant::now();
        loop {
            let mut well = 0;
            for server in &self.servers {
                well += usize::from(self.client.healthy(server).await == Ok(true));
            }
            if well == self.servers.len() {
                if let Some(leader) = self.leader().await {
                    return Ok(leader);
                }
            }
            self.check()?;
            if begun.elapsed() > STARTUP {
                return Err(Failure::new(
                    format!("the cluster has no leader after {STARTUP:?}"),
                    "run it on a machine with less to do",
                ));
            }
            sleep(LOOK).await;
        }
    }

    /// The node that says it leads.
    async fn leader(&self) -> Option<Running> {
        for (server, process) in self.servers.iter().zip(&self.processes) {
            if let Ok(Status { role, .. }) = self.client.status(server).await {
                if role == "leader" {
                    let data = process.command().data.clone();
                    return Some(Running { server: server.clone(), pid: process.pid(), data });
                }
            }
        }
        None
    }

    /// Starts a node that joins the cluster by `member`. It is stopped with the others. Returns its id.
    pub(super) fn join(&mut self, member: &Server) -> Result<(u64, Running), Failure> {
        let first = &self.commands[0];
        let id = self.commands.len() as u64 + 1;
        let beside = |name: String| first.data.with_file_name(name);
        let mut command = NodeCommand {
            id,
            data: beside(format!("node-{id}")),
            log: beside(format!("node-{id}.log")),
            raft: format!("127.0.0.1:{}", free_port().map_err(system)?),
            http: format!("127.0.0.1:{}", free_port().map_err(system)?),
            peers: Default::default(),
            bootstrap: false,
            ..first.clone()
        };
        command.more.extend(["--join".into(), member.to_string()]);
        let process = command.start().map_err(system)?;
        let (server, data) = (server(&command), command.data.clone());
        let running = Running { server, pid: process.pid(), data };
        self.processes.push(process);
        Ok((id, running))
    }

    /// Fails if a node has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        for process in &mut self.processes {
            if let Some(status) = process.exited().map_err(system)? {
                let printed = process.command().printed();
                let last = printed.lines().last().unwrap_or("nothing").to_owned();
                let id = process.command().id;
                return Err(Failure::new(
                    format!("node {id} ended with {status}; it last said: {last}"),
                    "is there room on the disk?",
                ));
            }
        }
        Ok(())
    }

    /// Stops all nodes in order, so that each leaves its files whole.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        self.processes.iter_mut().for_each(NodeProcess::close_stdin);
        for mut process in self.processes.drain(..) {
            match process.wait(STARTUP).await.map_err(system)? {
                Some(status) if status.success() => {}
                ended => {
                    let id = process.command().id;
                    return Err(Failure::new(
                        format!("node {id} did not stop as it should: {ended:?}"),
                        "report this as a bug",
                    ));
                }
            }
        }
        Ok(())
    }
}
