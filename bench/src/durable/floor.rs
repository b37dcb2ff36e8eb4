//! The floor of one write: no service can answer sooner than the disk and the network let it.
//!
//! A client's write goes to the leader and back, from there to a follower and back: two round trips.
//! The leader's disk and a follower's are synced at the same time, on one device here, while a third
//! process does the same. So the floor is the time of one sync while two other processes sync too, and
//! twice that of a round trip between two tokio processes on loopback, measured one after the other.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::TryRecvError;

use super::{NODES, runtime, start_child};
use crate::child::{Child, to_end, told};
use crate::failure::Failure;
use crate::phases::middle;

/// What is written before each sync: what a log writes for one small command is less, and costs the
/// disk as much.
const BLOCK_BYTES: usize = 4096;

/// The file is laid out in so many bytes of zeros beforehand, as the log's are, so that a sync writes
/// no metadata; from its end the writing goes back to the beginning.
const FILE_BYTES: usize = 16 << 20;

/// Of each message that is sent back: as large as a put of 256 bytes.
const MESSAGE_BYTES: usize = 300;

/// What the parts of a write take at least, in microseconds. Medians.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    pub(super) sync_us: f64,
    pub(super) round_trip_us: f64,
}

impl Floor {
    /// One sync, two round trips.
    pub(super) fn write_us(self) -> f64 {
        self.sync_us + 2.0 * self.round_trip_us
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::new(format!("{what}: {error}"), "look at --dir and at free ports")
}

/// Measures it for about `length`, with files in `directory`.
pub(super) async fn measure(directory: &Path, length: Duration) -> Result<Floor, Failure> {
    let sync_us = syncs(directory, length / 2).await?;
    let round_trip_us = round_trips(length / 2).await?;
    Ok(Floor { sync_us, round_trip_us })
}

async fn syncs(directory: &Path, length: Duration) -> Result<f64, Failure> {
    let start = |id: u64| {
        let file = directory.join(format!("sync-{id}")).into();
        start_child(format!("sync {id}"), ["sync".into(), file])
    };
    let mut children = (1..=NODES).map(start).collect::<Result<Vec<_>, _>>()?;
    for child in &mut children {
        child.line().await?;
    }
    for child in &mut children {
        child.tell("begin").await?;
    }
    tokio::time::sleep(length).await;
    children.iter_mut().for_each(Child::end);
    let mut sum = 0.0;
    for child in &mut children {
        let line = child.line().await?;
        let unclear = |_| Failure::new(format!("no time: {line}"), "report this as a bug");
        sum += line.parse::<f64>().map_err(unclear)?;
    }
    Ok(sum / NODES as f64)
}

/// One of the processes that sync: says that its file is laid out, waits for a word, writes and syncs
/// until its standard input closes, prints the median in microseconds.
pub(super) fn run_sync(path: &Path) -> Result<(), Failure> {
    let took = (|| {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all_at(&vec![0; FILE_BYTES], 0)?;
        file.sync_all()?;
        println!("ready");
        let mut lines = told();
        let mut took = Vec::new();
        if lines.blocking_recv().is_none() {
            return Ok(took);
        }
        let mut offset = 0;
        while lines.try_recv() != Err(TryRecvError::Disconnected) {
            let began = Instant::now();
            file.write_all_at(&[7; BLOCK_BYTES], offset as u64)?;
            file.sync_data()?;
            took.push(began.elapsed());
            offset = (offset + BLOCK_BYTES) % FILE_BYTES;
        }
        Ok(took)
    })();
    let took = took.map_err(|e| failed("a file that is synced", &e))?;
    println!("{}", middle(took).unwrap_or_default().as_secs_f64() * 1e6);
    Ok(())
}

async fn round_trips(length: Duration) -> Result<f64, Failure> {
    let mut child = start_child("echo", ["echo".into()])?;
    let address = child.line().await?;
    // On a task, as the service's connections are; the one at hand is polled by the main thread.
    let took = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut message = [7; MESSAGE_BYTES];
        let mut took = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < length {
            let began = Instant::now();
            stream.write_all(&message).await?;
            stream.read_exact(&mut message).await?;
            took.push(began.elapsed());
        }
        Ok(took)
    });
    let took = took.await.map_err(|e| Failure::new(e, "report this as a bug"))?;
    let took = took.map_err(|e| failed("a round trip", &e))?;
    Ok(middle(took).unwrap_or(length).as_secs_f64() * 1e6)
}

/// The process at the other end: prints where it listens, and sends back what it is sent.
pub(super) fn run_echo() -> Result<(), Failure> {
    runtime()?.block_on(async {
        let mut lines = told();
        let echo = async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("{}", listener.local_addr()?);
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let back = tokio::spawn(async move {
                let mut message = [0; MESSAGE_BYTES];
                while stream.read_exact(&mut message).await.is_ok() {
                    stream.write_all(&message).await?;
                }
                Ok(())
            });
            back.await.map_err(io::Error::other)?
        };
        tokio::select! { biased;
            () = to_end(&mut lines) => Ok(()),
            ended = echo => ended.map_err(|e| failed("an echo", &e)),
        }
    })
}
