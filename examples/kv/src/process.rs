//! Nodes as child processes, for the demo and the tests: started, signalled, and never left over.
//!
//! A child is in a process group of its own, so that Ctrl-C in a terminal reaches only its parent,
//! which then stops it in order. It also watches the pipe on its standard input: when the parent is
//! gone, however it went, the pipe closes and the child stops by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeCommand {
    /// The `kv` binary.
    pub program: PathBuf,
    /// `--id`.
    pub id: u64,
    /// `--data`.
    pub data: PathBuf,
    /// `--raft`.
    pub raft: String,
    /// `--http`.
    pub http: String,
    /// `--peers`; empty for none, with `--join` in `more`.
    pub peers: BTreeMap<u64, String>,
    /// `--bootstrap`.
    pub bootstrap: bool,
    /// Further arguments.
    pub more: Vec<String>,
    /// What it prints goes to the end of this file.
    pub log: PathBuf,
    /// Run by another program, as `PROGRAM ARGS.. kv serve ..`; empty for none.
    pub wrapper: Vec<String>,
}

/// A running node; killed when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    command: NodeCommand,
}

impl NodeCommand {
    /// Starts it.
    ///
    /// # Errors
    /// If the log can't be written or the program can't be run.
    pub fn start(&self) -> io::Result<NodeProcess> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.arg("serve").arg("--stop-with-stdin").args(["--id", &self.id.to_string()]);
        command.arg("--data").arg(&self.data);
        command.args(["--raft", &self.raft, "--http", &self.http]);
        if !self.peers.is_empty() {
            let peers: Vec<String> =
                self.peers.iter().map(|(id, address)| format!("{id}={address}")).collect();
            command.args(["--peers", &peers.join(",")]);
        }
        if self.bootstrap {
            command.arg("--bootstrap");
        }
        // Transitions at least: whoever reads the file wants to know what happened.
        if std::env::var_os("QUORATE_LOG").is_none() {
            command.env("QUORATE_LOG", "info");
        }
        let child = command
            .args(&self.more)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(NodeProcess { child, command: self.clone() })
    }

    /// What it has printed, over all its lives.
    pub fn printed(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl NodeProcess {
    /// How it was started.
    pub fn command(&self) -> &NodeCommand {
        &self.command
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, if it still runs.
    ///
    /// # Errors
    /// If it can't be sent.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // A child that was not waited for keeps its id, so the signal reaches no one else.
        if self.exited()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("not a process id"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it with SIGKILL and returns when it is gone.
    ///
    /// # Errors
    /// If it can't be killed.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Closes the pipe to its standard input, as the end of its parent would.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end; `None` if it does not come in time.
    ///
    /// # Errors
    /// If the system does not tell.
    pub async fn wait(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.exited()? {
                Some(status) => return Ok(Some(status)),
                None if Instant::now() >= deadline => return Ok(None),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("error: node {} could not be killed: {error}", self.command.id);
        }
    }
}

/// A port on loopback that is free, and was never given out before by this process.
///
/// Ports are taken from below the range from which systems choose the near end of connections, so
/// that a node that was killed finds its port free when it comes back.
///
/// # Errors
/// If there is none.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (low, high) = (12_000, 31_000);
    // Processes that look at the same time begin far from each other: steps of the golden section
    // keep even a hundred process ids in a row a hundred ports apart.
    let start = std::process::id().wrapping_mul(11_743) % (high - low);
    for offset in 0..high - low {
        let port = (low + (start + offset) % (high - low)) as u16;
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    Err(io::Error::other("no port is free"))
}

/// The commands of a cluster on loopback, one node for each (raft port, HTTP port), ids from 1 on,
/// with their data and logs under `directory`. The first one bootstraps.
pub fn on_loopback(
    program: &std::path::Path,
    directory: &std::path::Path,
    ports: &[(u16, u16)],
) -> Vec<NodeCommand> {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let peers: BTreeMap<u64, String> =
        (1..).zip(ports).map(|(id, (raft, _))| (id, address(*raft))).collect();
    let node = |(id, (raft, http)): (u64, &(u16, u16))| NodeCommand {
        program: program.to_owned(),
        id,
        data: directory.join(format!("node-{id}")),
        raft: address(*raft),
        http: address(*http),
        peers: peers.clone(),
        bootstrap: id == 1,
        more: Vec::new(),
        log: directory.join(format!("node-{id}.log")),
        wrapper: Vec::new(),
    };
    (1..).zip(ports).map(node).collect()
}
