//! Nodes as child processes, for the demo and the tests: started, killed, paused, and never left over.
//!
//! A child is in a process group of its own, so that Ctrl-C in a terminal reaches only its parent. It
//! watches the pipe on its standard input: when the parent is gone, however it went, it stops.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate::{Client, ClientConfig, ClientStatus};
use rustix::process::{Pid, kill_process};
use tokio::time::{Instant, sleep};

use crate::bank::Bank;

pub use rustix::process::Signal;

/// The cluster's name; nodes and clients of others are refused.
pub const CLUSTER: &str = "bank";

/// How long a node may take to start, to stop, or to find a leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes with ids from 1 on, of which some run. Those are killed when this is dropped.
pub struct Nodes {
    program: PathBuf,
    directory: PathBuf,
    addresses: BTreeMap<u64, String>,
    running: BTreeMap<u64, Child>,
}

impl Nodes {
    /// Starts `count` nodes on loopback, each with its data and its output under `directory`, and waits
    /// until the cluster can lose any one of them. `program` is the `bank` binary.
    ///
    /// # Errors
    /// There are no ports, the program can't be run, or the cluster does not get going.
    pub async fn start(program: &Path, directory: &Path, count: u64) -> io::Result<Self> {
        let address = |id| Ok((id, format!("127.0.0.1:{}", free_port()?)));
        let addresses = (1..=count).map(address).collect::<io::Result<BTreeMap<_, _>>>()?;
        let mut nodes = Self {
            program: program.to_owned(),
            directory: directory.to_owned(),
            addresses,
            running: BTreeMap::new(),
        };
        for id in nodes.ids() {
            nodes.up(id)?;
        }
        nodes.ready().await?;
        Ok(nodes)
    }

    /// All there are, running or not.
    pub fn ids(&self) -> Vec<u64> {
        self.addresses.keys().copied().collect()
    }

    /// Starts a node that does not run.
    ///
    /// # Errors
    /// The program can't be run.
    pub fn up(&mut self, id: u64) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.log(id))?;
        let peers = self.addresses.iter().map(|(id, address)| format!("{id}={address}"));
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--stop-with-stdin").args(["--id", &id.to_string()]);
        command.arg("--data").arg(self.directory.join(format!("node-{id}")));
        command.args(["--listen", &self.addresses[&id]]);
        command.args(["--peers", &peers.collect::<Vec<_>>().join(",")]);
        if id == 1 {
            command.arg("--bootstrap");
        }
        let command = command.process_group(0).stdin(Stdio::piped());
        let child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        self.running.insert(id, child);
        Ok(())
    }

    /// Kills a node with SIGKILL and returns when it is gone.
    ///
    /// # Errors
    /// It can't be killed.
    pub fn kill(&mut self, id: u64) -> io::Result<()> {
        let Some(mut child) = self.running.remove(&id) else { return Ok(()) };
        child.kill()?;
        child.wait().map(drop)
    }

    /// Sends a signal to a node, if it still runs.
    ///
    /// # Errors
    /// It can't be sent.
    pub fn signal(&mut self, id: u64, signal: Signal) -> io::Result<()> {
        // A child that was not waited for keeps its process id, so the signal reaches no one else.
        let Some(child) = self.running.get_mut(&id) else { return Ok(()) };
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("not a process id"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Stops all that run with SIGTERM.
    ///
    /// # Errors
    /// One does not end, or not with code 0.
    pub async fn stop(mut self) -> io::Result<()> {
        for id in self.ids() {
            self.signal(id, Signal::TERM)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while let Some((id, child)) = self.running.iter_mut().next() {
            let id = *id;
            match child.try_wait()? {
                Some(status) if status.success() => drop(self.running.remove(&id)),
                Some(status) => return Err(self.trouble(&format!("node {id} ended: {status}"))),
                None if Instant::now() > deadline => {
                    return Err(self.trouble(&format!("node {id} does not stop")));
                }
                None => sleep(Duration::from_millis(10)).await,
            }
        }
        Ok(())
    }

    /// A client of all of them that asks node `first` first.
    pub fn client(&self, first: u64) -> Client<Bank> {
        let (before, from) = (self.addresses.range(..first), self.addresses.range(first..));
        self.client_of(from.chain(before).map(|(_, address)| address.clone()))
    }

    fn client_of(&self, addresses: impl Iterator<Item = String>) -> Client<Bank> {
        let mut config = ClientConfig::default();
        // A node that is paused says nothing; go elsewhere soon.
        config.probe_interval = Duration::from_millis(300);
        config.probe_timeout = Duration::from_millis(700);
        Client::builder(addresses).cluster(CLUSTER).config(config).build()
    }

    /// Waits until every node that runs follows a leader and knows the data directory of each. Before
    /// that is in every log, a directory that was wiped could not be told from the right one, and an
    /// election takes all nodes instead of a majority.
    ///
    /// # Errors
    /// It takes longer than a minute, or a node has ended.
    pub async fn ready(&mut self) -> io::Result<()> {
        for id in self.ids() {
            if self.running.contains_key(&id) {
                self.ask(id, |status| {
                    let known = |member: &quorate::Member| member.incarnation != 0;
                    let all = !status.members.is_empty() && status.members.values().all(known);
                    (all && status.leader.is_some()).then_some(())
                })
                .await?;
            }
        }
        Ok(())
    }

    /// The node that leads, as one of those that run sees it.
    ///
    /// # Errors
    /// There is none for a minute, or a node has ended.
    pub async fn leader(&mut self) -> io::Result<u64> {
        let any = *self.running.keys().next().ok_or_else(|| io::Error::other("no node runs"))?;
        self.ask(any, |status| status.leader).await
    }

    /// Asks one node for its status until `look` finds in it what is waited for.
    async fn ask<T>(&mut self, id: u64, look: impl Fn(ClientStatus) -> Option<T>) -> io::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A new one each time: later it may prefer another node.
            let client = self.client_of([self.addresses[&id].clone()].into_iter());
            if let Ok(status) = client.status().await {
                if let Some(found) = Some(status).filter(|status| status.id == id).and_then(&look) {
                    return Ok(found);
                }
            }
            if let Some(status) =
                self.running.get_mut(&id).map(Child::try_wait).transpose()?.flatten()
            {
                return Err(self.trouble(&format!("node {id} ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.trouble(&format!("node {id} is not ready for {PATIENCE:?}")));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self, id: u64) -> PathBuf {
        self.directory.join(format!("node-{id}.log"))
    }

    /// What a node has printed, over all its lives.
    pub fn printed(&self, id: u64) -> String {
        let bytes = std::fs::read(self.log(id)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What went wrong, with what the nodes last said.
    fn trouble(&self, what: &str) -> io::Error {
        let mut text = what.to_owned();
        for id in self.ids() {
            let printed = self.printed(id);
            let lines: Vec<&str> = printed.lines().collect();
            for line in &lines[lines.len().saturating_sub(4)..] {
                text.push_str(&format!("\n  node {id}: {line}"));
            }
        }
        io::Error::other(text)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for id in self.ids() {
            if let Err(error) = self.kill(id) {
                eprintln!("error: node {id} could not be killed: {error}");
            }
        }
    }
}

/// A port on loopback that is free, and was never given out before by this process.
///
/// It is below the ports from which systems choose the near end of connections, so a node that was
/// killed finds its own free when it comes back.
fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (low, high) = (12_000, 31_000);
    // Processes that look at the same time begin far from each other: steps of the golden section
    // keep even a hundred process ids in a row a hundred ports apart.
    let start = std::process::id().wrapping_mul(11_743) % (high - low);
    let mut ports = (0..high - low).map(|offset| (low + (start + offset) % (high - low)) as u16);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = ports.find(|port| !given.contains(port) && free(port));
    let port = port.ok_or_else(|| io::Error::other("no port is free"))?;
    given.insert(port);
    Ok(port)
}
