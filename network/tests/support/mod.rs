//! What several tests need.

#![allow(dead_code)] // each test uses a part of it

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::message::{AppendEntries, Stranger};
use quorate_engine::{Batch, LogId, Message as Raft};
use quorate_network::{Answerer, Call, Envelope, Hello, Inbound, Message, Peer, Refusal};
use tokio::time::{Instant, sleep};

#[cfg(feature = "tcp")]
pub(crate) mod raw;

/// How long anything may take before a test fails; nothing waits this long otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The bytes of [`hex`].
pub(crate) fn from_hex(text: &str) -> Bytes {
    assert!(text.len() % 2 == 0, "half a byte");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Polls `condition` until it holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "never: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

type Admit = Box<dyn Fn(&Hello) -> Result<(), Refusal> + Send + Sync>;

/// A host that keeps what arrives.
pub(crate) struct Host {
    pub(crate) hello: Hello,
    pub(crate) admit: Admit,
    arrived: Mutex<Vec<Envelope>>,
    calls: Mutex<Vec<(u64, Call, Answerer)>>,
}

impl Host {
    /// A host that admits everyone.
    pub(crate) fn new(id: u64) -> Arc<Self> {
        Self::strict(id, |_| Ok(()))
    }

    /// A host that admits whom `admit` admits.
    pub(crate) fn strict(
        id: u64,
        admit: impl Fn(&Hello) -> Result<(), Refusal> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::saying(hello(id), admit)
    }

    /// A host that says `hello` of itself.
    pub(crate) fn saying(
        hello: Hello,
        admit: impl Fn(&Hello) -> Result<(), Refusal> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            hello,
            admit: Box::new(admit),
            arrived: Mutex::default(),
            calls: Mutex::default(),
        })
    }

    pub(crate) fn arrived(&self) -> Vec<Envelope> {
        self.arrived.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.arrived.lock().unwrap().len()
    }

    /// Takes the calls that have come and are not taken yet, each with its group.
    pub(crate) fn calls(&self) -> Vec<(u64, Call, Answerer)> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// How many calls wait to be taken.
    pub(crate) fn call_count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

impl Inbound for Host {
    fn hello(&self, to: u64) -> Hello {
        Hello { to, ..self.hello.clone() }
    }

    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        (self.admit)(hello)
    }

    fn receive(&self, messages: Vec<Envelope>) {
        self.arrived.lock().unwrap().extend(messages);
    }

    fn call(&self, group: u64, call: Call, answer: Answerer) {
        self.calls.lock().unwrap().push((group, call, answer));
    }
}

/// What a host with nothing special about it says.
pub(crate) fn hello(from: u64) -> Hello {
    Hello {
        min_version: 1,
        max_version: 1,
        cluster_name: "shop".into(),
        cluster: 7,
        from,
        to: 0,
        incarnation: from * 100,
        address: String::new(),
    }
}

pub(crate) fn envelope(from: u64, to: u64, message: Raft) -> Envelope {
    let message = Message::Raft(message);
    Envelope { cluster: 7, group: 1, from, to, incarnation: from * 100, message }
}

/// A small message, told from others by `number`.
pub(crate) fn note(from: u64, to: u64, number: u64) -> Envelope {
    envelope(from, to, Raft::Stranger(Stranger { refused: number }))
}

/// A message with a block of a little more than `bytes`.
pub(crate) fn parcel(from: u64, to: u64, bytes: usize) -> Envelope {
    let mut batch = Batch::new(0);
    batch.push(&vec![0x5a; bytes]);
    let append = AppendEntries {
        term: 1,
        session: 1,
        prev: LogId::ZERO,
        blocks: vec![batch.seal(LogId::new(1, 1))],
        commit: 0,
        promise: Duration::ZERO,
        witness: false,
    };
    envelope(from, to, Raft::AppendEntries(append))
}

pub(crate) fn peer(id: u64, address: impl ToString) -> Peer {
    Peer { id, address: address.to_string() }
}
