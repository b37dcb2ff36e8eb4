//! Snapshots on their way: one task sends a snapshot to one follower, one task receives one.
//!
//! Parts travel on a lane of their own, a few at a time, so a snapshot of any size takes a few
//! megabytes of memory at either end and delays neither heartbeats nor entries. What is lost is sent
//! again from where the follower says it stands; after a break the transfer goes on there, as long as
//! both ends live. A transfer is given up when nothing has moved for a while, however long it takes.

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::message::{InstallSnapshot, SnapshotProgress};
use quorate_engine::{Instant, LogId, NodeId, Term, planted};
use quorate_network::{Lane, Message, Peer};
use quorate_storage::{
    SnapshotInfo, SnapshotMeta, SnapshotReader, SnapshotStore, SnapshotWriter, StorageError,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::control::Control;
use crate::env::blocking;
use crate::lanes::{Ends, PAUSE, Wires};

/// Parts that are sent and not acknowledged.
const WINDOW_PARTS: u64 = 8;

/// Parts that wait to be written; more are lost, and sent again.
const WAITING_PARTS: usize = 16;

/// How a snapshot is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Bytes in one message.
    pub(crate) part_bytes: usize,
    /// Bytes per second, at most.
    pub(crate) bytes_per_second: Option<u64>,
    /// For how long nothing may move.
    pub(crate) stall_timeout: Duration,
    /// After how long without an answer parts are sent again.
    pub(crate) retry: Duration,
    /// What the follower is asked to promise.
    pub(crate) promise: Duration,
    /// Whether the follower is a witness.
    pub(crate) witness: bool,
}

/// The node's end of a task that sends. Dropping it ends the task.
pub(crate) struct Sending {
    pub(crate) session: u64,
    /// Of the snapshot.
    pub(crate) bytes: u64,
    answers: mpsc::Sender<SnapshotProgress>,
    _ends: Ends,
}

impl Sending {
    pub(crate) fn start(
        wires: &Arc<Wires>,
        peer: Peer,
        (term, session): (Term, u64),
        snapshot: Arc<dyn SnapshotReader>,
        pace: Pace,
    ) -> Self {
        let (answers, from_peer) = mpsc::channel(WAITING_PARTS);
        let bytes = snapshot.info().bytes;
        let sender = Sender {
            wires: wires.clone(),
            peer,
            term,
            session,
            snapshot,
            pace,
            acknowledged: 0,
            cursor: 0,
            answered: false,
            gap_at: None,
            moved_at: wires.env.now(),
        };
        let task = wires.task(sender.peer.id, sender.run(from_peer));
        Self { session, bytes, answers, _ends: Ends(task) }
    }

    /// What the follower says it has. Lost if many wait: the newest will come again.
    pub(crate) fn answered(&self, have: SnapshotProgress) {
        let _lost = self.answers.try_send(have);
    }
}

/// Sends one snapshot. Holding its reader pins it.
struct Sender {
    wires: Arc<Wires>,
    peer: Peer,
    term: Term,
    session: u64,
    snapshot: Arc<dyn SnapshotReader>,
    pace: Pace,
    /// The follower has everything below.
    acknowledged: u64,
    /// Everything below was sent.
    cursor: u64,
    /// Whether the follower has answered at all: of an empty snapshot there is nothing else to see.
    answered: bool,
    /// Where the last gap was: every part behind it tells of it once more.
    gap_at: Option<u64>,
    moved_at: Instant,
}

impl Sender {
    async fn run(mut self, mut answers: mpsc::Receiver<SnapshotProgress>) {
        let SnapshotInfo { meta: SnapshotMeta { last, .. }, bytes } = self.snapshot.info();
        tracing::info!(term = self.term, %last, bytes, "sending a snapshot");
        let why = self.send(&mut answers).await;
        tracing::warn!(term = self.term, "snapshot given up: {why}");
        self.wires.control.send(Control::Lost { to: self.peer.id, session: self.session });
    }

    /// Sends until the task is ended from outside, or there is no use in going on: returns why.
    async fn send(&mut self, answers: &mut mpsc::Receiver<SnapshotProgress>) -> String {
        let env = self.wires.env.clone();
        let total = self.snapshot.info().bytes;
        loop {
            while let Ok(have) = answers.try_recv() {
                self.on_answer(have);
            }
            let more = self.cursor < total || (total == 0 && !self.answered);
            let window = WINDOW_PARTS * self.pace.part_bytes as u64;
            if more && self.cursor - self.acknowledged < window {
                match self.send_part().await {
                    Ok(()) if total > 0 => continue,
                    Ok(()) => {}
                    Err(why) => return why,
                }
            }
            tokio::select! { biased;
                Some(have) = answers.recv() => self.on_answer(have),
                () = env.sleep(self.pace.retry) => self.cursor = self.acknowledged,
            }
            let still = env.now().since(self.moved_at);
            if still >= self.pace.stall_timeout {
                return format!("nothing has moved for {still:?}");
            }
        }
    }

    fn on_answer(&mut self, have: SnapshotProgress) {
        if have.session != self.session || have.nonce != self.snapshot.info().meta.nonce {
            return;
        }
        self.answered = true;
        if have.offset > self.acknowledged {
            self.acknowledged = have.offset.min(self.snapshot.info().bytes);
            self.moved_at = self.wires.env.now();
        }
        // It stands beyond what was sent in this try, or something before was lost.
        let gap = have.gap && self.gap_at.replace(have.offset) != Some(have.offset);
        if self.cursor < self.acknowledged || gap {
            self.cursor = self.acknowledged;
        }
    }

    async fn send_part(&mut self) -> Result<(), String> {
        let env = self.wires.env.clone();
        let (reader, offset, part) = (self.snapshot.clone(), self.cursor, self.pace.part_bytes);
        let read = move || reader.read_at(offset, part);
        let data = blocking(&*env, read).await.ok_or("reading it panicked")?;
        let data = data.map_err(|error| error.to_string())?;
        let SnapshotInfo { meta, bytes } = self.snapshot.info();
        if data.is_empty() && *bytes > 0 {
            return Err("it ends before its length".into());
        }
        let sent = data.len() as u64;
        let message = quorate_engine::Message::InstallSnapshot(Box::new(InstallSnapshot {
            term: self.term,
            session: self.session,
            last: meta.last,
            configuration: meta.configuration.clone(),
            nonce: meta.nonce,
            bytes: *bytes,
            offset,
            checksum: crc32fast::hash(&data),
            data,
            promise: self.pace.promise,
            witness: self.pace.witness,
        }));
        let envelope = self.wires.envelope(self.peer.id, Message::Raft(message));
        self.wires.counters.snapshot_sent_bytes.add(sent);
        if let Err(error) = self.wires.send(&self.peer, Lane::Snapshot, vec![envelope]).await {
            tracing::debug!(term = self.term, %error, "part lost");
            self.wires.refused(&error);
            env.sleep(PAUSE).await;
            self.cursor = self.acknowledged;
            let still = env.now().since(self.moved_at);
            let given_up = still >= self.pace.stall_timeout;
            return if given_up { Err(error.to_string()) } else { Ok(()) };
        }
        self.cursor = offset + sent;
        if let Some(rate) = self.pace.bytes_per_second {
            let nanos = u128::from(sent) * 1_000_000_000 / u128::from(rate.max(1));
            env.sleep(Duration::from_nanos(nanos as u64)).await;
        }
        Ok(())
    }
}

/// The node's end of a task that receives. Dropping it ends the task, and what has arrived is gone.
pub(crate) struct Receiving {
    nonce: u64,
    last: LogId,
    parts: mpsc::Sender<(NodeId, InstallSnapshot)>,
    /// Taken when it is left to end by itself.
    task: Option<JoinHandle<()>>,
}

impl Receiving {
    /// For the snapshot that `part` is of, which `from` sends.
    pub(crate) fn start(
        wires: &Arc<Wires>,
        from: NodeId,
        store: Arc<dyn SnapshotStore>,
        part: &InstallSnapshot,
        cluster: u64,
        patience: Duration,
    ) -> Self {
        let (parts, from_node) = mpsc::channel(WAITING_PARTS);
        let meta = SnapshotMeta {
            last: part.last,
            configuration: part.configuration.clone(),
            nonce: part.nonce,
        };
        let (nonce, last) = (part.nonce, part.last);
        let receiver = Receiver { wires: wires.clone(), cluster, bytes: part.bytes, patience };
        let task = wires.task(from, receiver.run(store, meta, from_node));
        Self { nonce, last, parts, task: Some(task) }
    }

    /// No more parts come. Returns the task, which ends when it has let go of its file.
    pub(crate) fn close(mut self) -> JoinHandle<()> {
        self.task.take().expect("taken once")
    }

    /// Whether `part` is of this snapshot, and somebody is there to take it.
    pub(crate) fn takes(&self, part: &InstallSnapshot) -> bool {
        (self.nonce, self.last) == (part.nonce, part.last) && !self.parts.is_closed()
    }

    /// A part; lost if many wait.
    pub(crate) fn part(&self, from: NodeId, part: InstallSnapshot) {
        drop(self.parts.try_send((from, part)));
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Receiver {
    wires: Arc<Wires>,
    /// Of the leader, for a node that belongs to none yet.
    cluster: u64,
    bytes: u64,
    /// For how long parts may stay away.
    patience: Duration,
}

/// What a batch of parts has come to.
enum Written {
    /// More is to come.
    More(Box<dyn SnapshotWriter>),
    Complete(SnapshotInfo),
}

impl Receiver {
    async fn run(
        self,
        store: Arc<dyn SnapshotStore>,
        meta: SnapshotMeta,
        parts: mpsc::Receiver<(NodeId, InstallSnapshot)>,
    ) {
        let last = meta.last;
        if let Err(error) = self.receive(store, meta, parts).await {
            let term = self.wires.term();
            tracing::warn!(term, %last, %error, "receiving a snapshot failed");
        }
    }

    async fn receive(
        &self,
        store: Arc<dyn SnapshotStore>,
        meta: SnapshotMeta,
        mut parts: mpsc::Receiver<(NodeId, InstallSnapshot)>,
    ) -> Result<(), StorageError> {
        let env = &*self.wires.env;
        let mut writer = blocking(env, move || store.create(meta)).await.ok_or_else(panicked)??;
        loop {
            let mut batch = Vec::new();
            tokio::select! { biased;
                n = parts.recv_many(&mut batch, WAITING_PARTS) => if n == 0 { return Ok(()) },
                // The leader is gone for good, or sends another.
                () = env.sleep(self.patience) => return Ok(()),
            }
            let (from, newest) = batch.last().expect("a batch is not empty");
            let (from, session, nonce) = (*from, newest.session, newest.nonce);
            let arrived = batch.iter().map(|(_, part)| part.data.len() as u64).sum();
            self.wires.counters.snapshot_received_bytes.add(arrived);
            let bytes = self.bytes;
            let write = move || write(writer, batch, bytes);
            let (written, gap) = blocking(env, write).await.ok_or_else(panicked)??;
            let offset = match &written {
                Written::More(writer) => writer.written(),
                Written::Complete(info) => info.bytes,
            };
            let stored = SnapshotProgress { session, nonce, offset, gap };
            self.wires.control.send(Control::SnapshotStored { from, stored });
            match written {
                Written::More(more) => writer = more,
                Written::Complete(info) => {
                    let cluster = self.cluster;
                    let received = Control::SnapshotReceived { from, session, cluster, info };
                    self.wires.control.send(received);
                    return Ok(());
                }
            }
        }
    }
}

/// Writes what fits, in order. Says whether something is missing in between.
fn write(
    mut writer: Box<dyn SnapshotWriter>,
    batch: Vec<(NodeId, InstallSnapshot)>,
    bytes: u64,
) -> Result<(Written, bool), StorageError> {
    let mut gap = false;
    for (_, part) in batch {
        let intact = crc32fast::hash(&part.data) == part.checksum && part.bytes == bytes;
        let fits = part.offset == writer.written() || planted::on("parts-in-any-order");
        if fits && intact {
            writer.append(&part.data)?;
            gap = false;
        } else {
            gap |= part.offset >= writer.written();
        }
        if writer.written() == bytes && intact {
            return Ok((Written::Complete(writer.commit()?), false));
        }
    }
    Ok((Written::More(writer), gap))
}

fn panicked() -> StorageError {
    StorageError::Failed(anyerror::AnyError::error("the store of snapshots panicked"))
}
