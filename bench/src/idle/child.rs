//! What runs in the processes that are measured: nodes with nothing to do, or what they can't do without.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate::{Config, Lane, Raft};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, interval};

use crate::child::told;
use crate::durable::runtime;
use crate::failure::Failure;
use crate::subject::Nothing;

/// How long the nodes may take until one of them leads.
const PATIENCE: Duration = Duration::from_secs(30);

/// About as long as a heartbeat on the wire.
const MESSAGE_BYTES: usize = 64;

/// `count` nodes with logs in `data`, every setting as it is by default.
pub(super) fn run_nodes(count: u64, data: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn Display| {
        Failure::new(format!("the nodes: {error}"), "look at --dir and at what it says")
    };
    runtime()?.block_on(async {
        let mut nodes = Vec::new();
        for id in 1..=count {
            let node = Raft::builder(id, Nothing)
                .data_dir(data.join(id.to_string()))
                .listen("127.0.0.1:0")
                .start()
                .await
                .map_err(|e| failed(&e))?;
            nodes.push(node);
        }
        let members = nodes.iter().map(|node| (node.id(), node.address()));
        nodes[0].initialize(members).await.map_err(|e| failed(&e))?;
        for node in &nodes {
            node.wait(PATIENCE).leader().await.map_err(|e| failed(&e))?;
        }
        answer(|| {
            let sent = nodes.iter().map(|node| node.stats().lanes[&Lane::Control].sent).sum();
            (sent, nodes[0].metrics().term)
        })
        .await;
        Ok(())
    })
}

/// Sockets and a timer alone: one end sends to `count - 1` others, as often as a leader does, and each
/// answers.
pub(super) fn run_floor(count: u64) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::new(format!("the floor: {error}"), "raise the limit on open files")
    };
    runtime()?.block_on(async {
        let sent = Arc::new(AtomicU64::new(0));
        let mut to_others = Vec::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        for _ in 1..count {
            let address = listener.local_addr().map_err(failed)?;
            let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (here, (there, _)) = (here.map_err(failed)?, there.map_err(failed)?);
            for stream in [&here, &there] {
                stream.set_nodelay(true).map_err(failed)?;
            }
            let (mut answers, to_other) = here.into_split();
            to_others.push(to_other);
            let (mut messages, mut back) = there.into_split();
            let counted = sent.clone();
            tokio::spawn(async move {
                let mut message = [0; MESSAGE_BYTES];
                while messages.read_exact(&mut message).await.is_ok()
                    && back.write_all(&message).await.is_ok()
                {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
            tokio::spawn(async move {
                let mut answer = [0; MESSAGE_BYTES];
                while answers.read_exact(&mut answer).await.is_ok() {}
            });
        }
        let counted = sent.clone();
        tokio::spawn(async move {
            let mut due = interval(Config::default().heartbeat_interval);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                due.tick().await;
                for other in &mut to_others {
                    if other.write_all(&[0; MESSAGE_BYTES]).await.is_err() {
                        return;
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        answer(|| (sent.load(Ordering::Relaxed), 0)).await;
        Ok(())
    })
}

/// Answers each line with how many messages were sent so far, and in which term it is; the first at
/// once. Until the lines end.
async fn answer(look: impl Fn() -> (u64, u64)) {
    let mut lines: UnboundedReceiver<String> = told();
    loop {
        let (messages, term) = look();
        println!("{messages} {term}");
        if lines.recv().await.is_none() {
            return;
        }
    }
}
