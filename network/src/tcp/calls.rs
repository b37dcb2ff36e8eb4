//! Connections from clients: programs that are no members, ask, and are answered on the same
//! connection.
//!
//! One task serves a client: it reads calls and hands them to the host, and writes answers as they
//! come, from whatever task, in whatever order. Nobody ever waits for a client: answers wait for it at
//! its [`Desk`], and what waits there is bounded.
//!
//! | what a client does | what becomes of it |
//! |---|---|
//! | has more calls under way than [`TcpOptions::max_client_calls`] | those over it are `Overloaded` |
//! | reads its answers slowly | no more of its calls are read while half of `client_answer_bytes` waits |
//! | does not read them | its connection is closed, after `write_timeout`; over the limit they are dropped at once |
//! | says nothing for `client_idle_timeout` | its connection is closed; a client that lives sends probes |
//! | says something that is no call | its connection is closed |
//!
//! [`TcpOptions::max_client_calls`]: super::TcpOptions::max_client_calls

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use quorate_engine::{GroupId, NodeId};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::select;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::codec::FramedRead;

use super::frame::{FrameDecoder, FrameError, Frames};
use super::outgoing::{Fault, write_all};
use super::{Shared, lock};
use crate::call::{Answerer, CallOutcome, Called};
use crate::message::{Envelope, Inbound, Message};
use crate::wire::WireError;

/// What an answer takes besides its responses.
const ANSWER_BYTES: usize = 128;

/// Why the connection of a client was closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("it says something that is no call")]
    NoCall,
    #[error("it was silent for {0:?}")]
    Idle(Duration),
    #[error("it does not read its answers, of which more than {0} bytes wait")]
    Deaf(usize),
    #[error("{0}")]
    Answering(#[from] Fault),
    #[error("the host of this node is gone")]
    NoHost,
}

/// Serves a client until its connection ends, and says why if it was not the client that ended it.
pub(super) async fn serve(
    shared: &Shared,
    mut stream: TcpStream,
    node: NodeId,
) -> Result<(), Closed> {
    let (options, cluster) = (&shared.options, shared.inbound().map_or(0, |i| i.hello(0).cluster));
    let desk = Arc::new(Desk::new(options.client_answer_bytes));
    let (reading, writing) = stream.split();
    select! {
        biased;
        end = answer(shared, writing, &desk, (cluster, node)) => end,
        end = read(shared, reading, &desk, node) => end,
    }
}

/// Hands the calls of a client to the host.
async fn read(
    shared: &Shared,
    stream: ReadHalf<'_>,
    desk: &Arc<Desk>,
    node: NodeId,
) -> Result<(), Closed> {
    let options = &shared.options;
    let mut frames = FramedRead::new(stream, FrameDecoder::new(options.frame_limit()));
    loop {
        desk.room().await;
        let Ok(first) = timeout(options.client_idle_timeout, frames.next()).await else {
            return Err(Closed::Idle(options.client_idle_timeout));
        };
        let inbound: Arc<dyn Inbound> = shared.inbound().ok_or(Closed::NoHost)?;
        // All that is there without waiting, while there is room for the answers.
        let mut next = Some(first);
        while let Some(frame) = next {
            let Some(body) = frame else { return Ok(()) };
            let body = body?;
            if body.is_empty() {
                desk.probe();
            } else {
                let Envelope { group, from, to, message, .. } = Envelope::from_bytes(body)?;
                let Message::Call(call) = message else { return Err(Closed::NoCall) };
                if from != 0 || to != node {
                    return Err(Closed::NoCall);
                }
                let (answer, under_way) = desk.answerer(group, call.token);
                if under_way > options.max_client_calls {
                    answer.answer(CallOutcome::Overloaded);
                } else {
                    inbound.call(group, call, answer);
                }
            }
            next = if desk.has_room() { frames.next().now_or_never() } else { None };
        }
    }
}

/// Writes what waits at the desk, as from `(cluster, node)`.
async fn answer(
    shared: &Shared,
    stream: WriteHalf<'_>,
    desk: &Desk,
    (cluster, from): (u64, NodeId),
) -> Result<(), Closed> {
    let options = &shared.options;
    loop {
        let (answers, probes, bytes) = desk.take().await?;
        let mut frames = Frames::new(options.frame_limit());
        for (group, called) in answers {
            let token = called.token;
            let envelope = |called| {
                let message = Message::Called(called);
                Envelope { cluster, group, from, to: 0, incarnation: 0, message }
            };
            if frames.push(&envelope(called)).is_err() {
                // It was done, and can't be said.
                let unknown = Called { token, outcome: CallOutcome::Unknown };
                frames.push(&envelope(unknown)).expect("it is tiny");
            }
        }
        for _ in 0..probes {
            frames.push_probe();
        }
        let pieces: Vec<Bytes> = frames.finish();
        let mut moved_at = Instant::now();
        write_all(stream.as_ref(), &pieces, options.write_timeout, &mut moved_at).await?;
        desk.written(bytes);
    }
}

/// Where the answers for one client wait.
struct Desk {
    state: Mutex<State>,
    /// Answers are there. One waiter: the writing half.
    bell: Notify,
    /// There is room again. One waiter: the reading half.
    room: Notify,
    limit_bytes: usize,
}

#[derive(Default)]
struct State {
    answers: Vec<(GroupId, Called)>,
    probes: usize,
    /// Of answers that wait or are being written.
    bytes: usize,
    /// Calls that are not answered yet.
    under_way: usize,
    /// More than the limit came to wait: nothing is answered any more, the connection ends.
    overrun: bool,
}

impl Desk {
    fn new(limit_bytes: usize) -> Self {
        let (state, bell, room) = (Mutex::default(), Notify::new(), Notify::new());
        Self { state, bell, room, limit_bytes }
    }

    /// The way back for one more call, and how many are under way with it.
    fn answerer(self: &Arc<Self>, group: GroupId, token: u64) -> (Answerer, usize) {
        let under_way = {
            let mut state = lock(&self.state);
            state.under_way += 1;
            state.under_way
        };
        let desk = self.clone();
        (Answerer::new(token, move |called| desk.put(group, called)), under_way)
    }

    fn put(&self, group: GroupId, called: Called) {
        let mut state = lock(&self.state);
        state.under_way -= 1;
        state.bytes += weight(&called);
        state.overrun |= state.bytes > self.limit_bytes;
        if state.overrun {
            state.answers = Vec::new();
        } else {
            state.answers.push((group, called));
        }
        drop(state);
        self.bell.notify_one();
    }

    /// The client asks whether what it sent before was taken.
    fn probe(&self) {
        lock(&self.state).probes += 1;
        self.bell.notify_one();
    }

    /// Takes everything that waits, as soon as there is something, and its bytes.
    async fn take(&self) -> Result<(Vec<(GroupId, Called)>, usize, usize), Closed> {
        loop {
            {
                let mut state = lock(&self.state);
                if state.overrun {
                    return Err(Closed::Deaf(self.limit_bytes));
                }
                if !state.answers.is_empty() || state.probes > 0 {
                    let answers = std::mem::take(&mut state.answers);
                    let bytes = answers.iter().map(|(_, called)| weight(called)).sum();
                    return Ok((answers, std::mem::take(&mut state.probes), bytes));
                }
            }
            self.bell.notified().await;
        }
    }

    /// So much has been written.
    fn written(&self, bytes: usize) {
        lock(&self.state).bytes -= bytes;
        self.room.notify_one();
    }

    /// Whether less than half of what may wait does.
    fn has_room(&self) -> bool {
        lock(&self.state).bytes <= self.limit_bytes / 2
    }

    /// Waits until there is room.
    async fn room(&self) {
        while !self.has_room() {
            self.room.notified().await;
        }
    }
}

fn weight(called: &Called) -> usize {
    let payload: usize = match &called.outcome {
        CallOutcome::Applied(responses) => responses.iter().map(|r| r.len() + 32).sum(),
        CallOutcome::Repeated(response) => response.len(),
        CallOutcome::Refused(reason) => reason.len(),
        _ => 0,
    };
    payload + ANSWER_BYTES
}
