//! What the machine can do: its disk when one process writes and syncs, and its loopback when one process
//! sends to another.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::child::{to_end, told};
use crate::durable::{runtime, start_child};
use crate::failure::Failure;

/// How long each is measured, in each round.
const LENGTH: Duration = Duration::from_millis(700);

/// The file is laid out in zeros beforehand, as the log's are; from its end the writing goes back to the
/// beginning.
const FILE_BYTES: u64 = 64 << 20;

/// Written before each sync.
const BLOCK_BYTES: u64 = 1 << 20;

/// Sent and received at a time.
const CHUNK_BYTES: usize = 256 << 10;

fn failed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("{what}: {error}"), "look at --dir and at free ports")
}

/// Bytes per second that one process writes to a file in `directory`, synced after each MiB.
pub(super) async fn disk(directory: &Path) -> Result<f64, Failure> {
    let path = directory.join("bandwidth");
    let write = move || -> io::Result<f64> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let block = vec![7; BLOCK_BYTES as usize];
        for offset in (0..FILE_BYTES).step_by(block.len()) {
            file.write_all_at(&block, offset)?;
        }
        file.sync_all()?;
        let (began, mut written) = (Instant::now(), 0);
        while began.elapsed() < LENGTH {
            file.write_all_at(&block, written % FILE_BYTES)?;
            file.sync_data()?;
            written += BLOCK_BYTES;
        }
        Ok(written as f64 / began.elapsed().as_secs_f64())
    };
    let written = tokio::task::spawn_blocking(write).await;
    written.map_err(|e| failed("a file", e))?.map_err(|e| failed("a file", e))
}

/// Bytes per second that one process sends to another over one connection.
pub(super) async fn loopback() -> Result<f64, Failure> {
    let mut sink = start_child("sink", ["sink".into()])?;
    let address = sink.line().await?;
    // On a task, as connections are; the future at hand is polled by the main thread.
    let sent = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await?;
        let chunk = vec![7; CHUNK_BYTES];
        let (began, mut sent) = (Instant::now(), 0);
        while began.elapsed() < LENGTH {
            stream.write_all(&chunk).await?;
            sent += chunk.len();
        }
        Ok::<f64, io::Error>(sent as f64 / began.elapsed().as_secs_f64())
    });
    sent.await.map_err(|e| failed("a connection", e))?.map_err(|e| failed("a connection", e))
}

/// The process at the other end: prints where it listens, and reads what it is sent.
pub(crate) fn run_sink() -> Result<(), Failure> {
    runtime()?.block_on(async {
        let mut lines = told();
        let sink = async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("{}", listener.local_addr()?);
            let (mut stream, _) = listener.accept().await?;
            let read = tokio::spawn(async move {
                let mut chunk = vec![0; CHUNK_BYTES];
                while stream.read(&mut chunk).await? > 0 {}
                Ok::<(), io::Error>(())
            });
            read.await.map_err(io::Error::other)?
        };
        tokio::select! { biased;
            () = to_end(&mut lines) => Ok(()),
            ended = sink => ended.map_err(|e| failed("a sink", e)),
        }
    })
}
