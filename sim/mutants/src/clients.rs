//! Bugs of the client: a real one, connected over TCP to a real node, whose connection is cut when the
//! node has done what it was asked and could not say so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::testing::Counter;
use quorate::{Client, Config, Raft};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Caught;
use crate::bugs::ONCE;

/// Stands between the client and the node.
#[derive(Default)]
struct Line {
    /// What the node says gets no further.
    mute: AtomicBool,
    cut: Notify,
}

/// A handful of writes that are cut off.
pub(crate) fn run(seed: u64) -> Result<(), Caught> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (total, at_most) = runtime
        .and_then(|runtime| runtime.block_on(cut_off(1 + seed % 5)))
        .map_err(|error| Caught { by: "the machine".into(), what: error.to_string() })?;
    if total > at_most {
        let what = format!("{at_most} writes of 1 have made {total}");
        return Err(Caught { by: ONCE.into(), what });
    }
    Ok(())
}

/// The total, and how often 1 was added to it.
async fn cut_off(writes: u64) -> std::io::Result<(u64, u64)> {
    let other = |error: &dyn std::fmt::Display| std::io::Error::other(error.to_string());
    let node = Raft::builder(1, Counter::default())
        .in_memory()
        .listen("127.0.0.1:0")
        .config(Config::fast_network())
        .start()
        .await
        .map_err(|error| other(&error))?;
    node.initialize([(1, node.address())]).await.map_err(|error| other(&error))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let line = Arc::new(Line::default());
    let serving = tokio::spawn(serve(listener, node.address().to_owned(), line.clone()));
    let client = Client::<Counter>::builder([address]).build();
    client.write(1).await.map_err(|error| other(&error))?;

    line.mute.store(true, Ordering::SeqCst);
    let before = node.metrics().applied;
    let mut calls = JoinSet::new();
    for _ in 0..writes {
        let client = client.clone();
        calls.spawn(async move { drop(client.write(1).await) });
    }
    while node.metrics().applied < before + writes {
        sleep(Duration::from_millis(1)).await;
    }
    line.cut.notify_waiters();
    line.mute.store(false, Ordering::SeqCst);
    while calls.join_next().await.is_some() {}
    let total = node.read(|counter| counter.total).await.map_err(|error| other(&error))?;
    serving.abort();
    node.shutdown().await;
    Ok((total as u64, 1 + writes))
}

async fn serve(listener: TcpListener, node: String, line: Arc<Line>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(node) = TcpStream::connect(&node).await else { continue };
        let line = line.clone();
        connections.spawn(async move {
            let (from_client, to_client) = client.into_split();
            let (from_node, to_node) = node.into_split();
            let never = AtomicBool::new(false);
            tokio::select! { biased;
                () = line.cut.notified() => {}
                () = pass(from_client, to_node, &never) => {}
                () = pass(from_node, to_client, &line.mute) => {}
            }
        });
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mute: &AtomicBool,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        while mute.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(1)).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
