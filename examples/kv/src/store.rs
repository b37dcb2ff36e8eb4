//! The state machine: all that is particular to this service, and the part to copy.
//!
//! A [`Command`] is what is replicated, `execute` what it does, a [`Response`] what its
//! caller is told. Everything else here (HTTP, the command line) only carries them. `apply` must
//! give the same result on every node: the map is ordered, nothing asks for a time or a random
//! number, and a refusal (the value is not the expected one, or is no text) is a response, the same
//! everywhere, not an error of one node.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use quorate::{ApplyMark, Committed, Failure, Postcard, Snapshot, StateMachine};
use serde::{Deserialize, Serialize};

use crate::table::Table;

/// What clients ask for. Postcard is positional: a new command goes at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Stores `value` under `key`, whatever was there.
    Put {
        /// The key.
        key: String,
        /// Any bytes.
        value: Bytes,
    },
    /// Removes `key`.
    Delete {
        /// The key.
        key: String,
    },
    /// Stores `value` if the key holds `expect` (`None`: if there is no such key).
    Cas {
        /// The key.
        key: String,
        /// What it must hold.
        expect: Option<String>,
        /// What it is to hold.
        value: String,
    },
    /// Asks for the value of `key` by way of the log, for a node that has no values.
    Get {
        /// The key.
        key: String,
    },
}

/// What a caller is told of its command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Stored, by the log entry `index`.
    Put {
        /// The place in the log.
        index: u64,
    },
    /// Removed, or there was nothing to remove.
    Delete {
        /// Whether there was something.
        deleted: bool,
    },
    /// Compared, and swapped if it was as expected.
    Cas {
        /// Whether it was.
        swapped: bool,
        /// What the key holds now.
        current: Option<String>,
    },
    /// Not compared: the key holds bytes that are no UTF-8, and no string equals them.
    NotText,
    /// Looked up, where the log entry `index` stands.
    Get {
        /// The place in the log.
        index: u64,
        /// What the key holds.
        value: Option<Bytes>,
    },
}

impl Command {
    /// About what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Command::Put { key, value } => key.len() + value.len(),
            Command::Delete { key } | Command::Get { key } => key.len(),
            Command::Cas { key, value, .. } => key.len() + value.len(),
        }
    }
}

/// Where keys and values are, for the commands that use them.
pub(crate) trait Values {
    fn value(&self, key: &str) -> Result<Option<Bytes>, Failure>;
    fn put(&mut self, key: String, value: Bytes) -> Result<(), Failure>;
    fn remove(&mut self, key: &str) -> Result<bool, Failure>;
}

impl Values for BTreeMap<String, Bytes> {
    fn value(&self, key: &str) -> Result<Option<Bytes>, Failure> {
        Ok(self.get(key).cloned())
    }

    fn put(&mut self, key: String, value: Bytes) -> Result<(), Failure> {
        self.insert(key, value);
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<bool, Failure> {
        Ok(self.remove(key).is_some())
    }
}

/// What a command does, wherever the values are.
pub(crate) fn execute(
    values: &mut impl Values,
    index: u64,
    command: Command,
) -> Result<Response, Failure> {
    Ok(match command {
        Command::Put { key, value } => {
            values.put(key, value)?;
            Response::Put { index }
        }
        Command::Delete { key } => Response::Delete { deleted: values.remove(&key)? },
        Command::Get { key } => Response::Get { index, value: values.value(&key)? },
        Command::Cas { key, expect, value } => {
            let current = values.value(&key)?;
            let current = match current.as_ref().map(|bytes| std::str::from_utf8(bytes)) {
                Some(Err(_)) => return Ok(Response::NotText),
                Some(Ok(text)) => Some(text),
                None => None,
            };
            if current != expect.as_deref() {
                return Ok(Response::Cas { swapped: false, current: current.map(str::to_owned) });
            }
            values.put(key, Bytes::copy_from_slice(value.as_bytes()))?;
            Response::Cas { swapped: true, current: Some(value) }
        }
    })
}

/// Keys and values: in memory, in order of the keys, or in a database.
#[derive(Debug)]
pub enum Store {
    /// In memory: a restart restores the newest snapshot and applies the log behind it.
    Memory(BTreeMap<String, Bytes>),
    /// On a disk of its own: a restart goes on with it.
    Table(Box<Table>),
}

impl Default for Store {
    fn default() -> Self {
        Store::Memory(BTreeMap::new())
    }
}

impl Store {
    /// The value of `key`.
    ///
    /// # Errors
    /// A database that can't be read.
    pub fn get(&self, key: &str) -> Result<Option<Bytes>, Failure> {
        match self {
            Store::Memory(values) => values.value(key),
            Store::Table(table) => table.get(key),
        }
    }
}

/// The pairs of a snapshot, read piece by piece: a pair may be cut anywhere between two pieces.
pub(crate) fn pairs(
    snapshot: Snapshot,
) -> impl Iterator<Item = Result<(String, Bytes), Failure>> + Send {
    let mut pieces = snapshot;
    let mut rest: Vec<u8> = Vec::new();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            if at < rest.len() {
                match postcard::take_from_bytes::<(String, Bytes)>(&rest[at..]) {
                    Ok((pair, after)) => {
                        at = rest.len() - after.len();
                        return Some(Ok(pair));
                    }
                    Err(postcard::Error::DeserializeUnexpectedEnd) => {}
                    Err(error) => return Some(Err(error.into())),
                }
            }
            match pieces.next() {
                Some(Ok(piece)) => {
                    rest.drain(..at);
                    at = 0;
                    rest.extend_from_slice(&piece);
                }
                Some(Err(error)) => return Some(Err(error)),
                None if at < rest.len() => {
                    at = rest.len();
                    return Some(Err(Failure::msg("a snapshot that ends inside a pair")));
                }
                None => return None,
            }
        }
    })
}

#[async_trait]
impl StateMachine for Store {
    type Command = Command;
    type Response = Response;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<Command>>) -> Result<Vec<Response>, Failure> {
        match self {
            Store::Memory(values) => {
                let execute = |e: Committed<Command>| execute(values, e.id.index, e.command);
                entries.into_iter().map(execute).collect()
            }
            Store::Table(table) => table.apply(entries).await,
        }
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        match self {
            Store::Memory(values) => {
                // Keys and values are shared with the copy, and written out as they are taken.
                let pairs = values.clone().into_iter();
                Ok(Snapshot::new(pairs.map(|pair| Ok(postcard::to_stdvec(&pair)?.into()))))
            }
            Store::Table(table) => table.snapshot(),
        }
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        match self {
            Store::Memory(values) => {
                *values = pairs(snapshot).collect::<Result<_, _>>()?;
                Ok(())
            }
            Store::Table(table) => table.restore(snapshot).await,
        }
    }

    async fn durable(&mut self) -> Result<Option<ApplyMark>, Failure> {
        match self {
            Store::Memory(_) => Ok(None),
            Store::Table(table) => table.durable().await.map(Some),
        }
    }

    /// Over what a snapshot of now holds (FNV-1a, 64 bits), so it is the same wherever the values are.
    /// Reads every key and value once: about a second for each GiB in memory.
    async fn digest(&mut self) -> Result<Option<u64>, Failure> {
        let mut view = self.snapshot().await?;
        let hash = move || {
            view.try_fold(0xcbf2_9ce4_8422_2325_u64, |hash, piece| {
                let mix = |hash: u64, byte: &u8| {
                    (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
                };
                Ok::<_, Failure>(piece?.iter().fold(hash, mix))
            })
        };
        Ok(Some(tokio::task::spawn_blocking(hash).await??))
    }

    fn keep(&mut self, mark: ApplyMark) {
        if let Store::Table(table) = self {
            table.keep(mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Map = BTreeMap<String, Bytes>;

    fn run(values: &mut Map, index: u64, command: Command) -> Response {
        execute(values, index, command).unwrap()
    }

    fn cas(values: &mut Map, expect: Option<&str>, value: &str) -> Response {
        let (key, expect) = ("k".into(), expect.map(str::to_owned));
        run(values, 1, Command::Cas { key, expect, value: value.into() })
    }

    #[tokio::test]
    async fn a_snapshot_may_be_cut_anywhere() {
        let pairs = [("a", "one"), ("b", ""), ("long key", "a longer value than that")];
        let map: Map = pairs.iter().map(|(k, v)| (k.to_string(), Bytes::from(*v))).collect();
        let mut store = Store::Memory(map.clone());
        let whole = store.snapshot().await.unwrap().into_bytes().unwrap();
        for size in 1..=whole.len() {
            let pieces: Vec<_> = whole.chunks(size).map(Bytes::copy_from_slice).map(Ok).collect();
            let mut copy = Store::default();
            copy.restore(Snapshot::new(pieces.into_iter())).await.unwrap();
            assert!(matches!(&copy, Store::Memory(values) if *values == map), "{size}");
        }
        let cut = Snapshot::from_bytes(whole.slice(..whole.len() - 1));
        assert!(Store::default().restore(cut).await.is_err());
    }

    /// The same state has the same digest, in memory and in a database, however it came about.
    #[tokio::test]
    async fn a_digest_is_of_the_state_and_of_nothing_else() {
        let put = |index: u64, key: &str, value: &'static str| {
            let command = Command::Put { key: key.into(), value: value.into() };
            Committed { id: quorate::LogId::new(1, index), command }
        };
        let dir = tempfile::tempdir().unwrap();
        let table = Table::open(&dir.path().join("table.redb")).unwrap();
        let (mut memory, mut table) = (Store::default(), Store::Table(Box::new(table)));
        memory.apply(vec![put(1, "a", "1"), put(2, "b", "2")]).await.unwrap();
        table.apply(vec![put(1, "b", "0"), put(2, "a", "1"), put(3, "b", "2")]).await.unwrap();
        let digest = memory.digest().await.unwrap();
        assert_eq!(table.digest().await.unwrap(), digest);
        table.apply(vec![put(4, "b", "3")]).await.unwrap();
        assert_ne!(table.digest().await.unwrap(), digest);
        assert!(digest.is_some());
    }

    #[test]
    fn puts_and_deletes() {
        let mut store = Map::new();
        let value = Bytes::from_static(&[0, 255]);
        let put = Command::Put { key: "k".into(), value: value.clone() };
        assert_eq!(run(&mut store, 7, put), Response::Put { index: 7 });
        assert_eq!(store.get("k").cloned(), Some(value.clone()));
        let get = Command::Get { key: "k".into() };
        assert_eq!(run(&mut store, 8, get), Response::Get { index: 8, value: Some(value) });
        let delete = Command::Delete { key: "k".into() };
        assert_eq!(run(&mut store, 8, delete.clone()), Response::Delete { deleted: true });
        assert_eq!(run(&mut store, 9, delete), Response::Delete { deleted: false });
        assert_eq!(store.get("k"), None);
    }

    #[test]
    fn swaps_only_what_was_expected() {
        let mut store = Map::new();
        let swapped =
            |current: &str| Response::Cas { swapped: true, current: Some(current.into()) };
        assert_eq!(
            cas(&mut store, Some("a"), "b"),
            Response::Cas { swapped: false, current: None }
        );
        assert_eq!(cas(&mut store, None, "a"), swapped("a"));
        let refused = Response::Cas { swapped: false, current: Some("a".into()) };
        assert_eq!(cas(&mut store, None, "b"), refused);
        assert_eq!(cas(&mut store, Some("a"), "b"), swapped("b"));
        run(&mut store, 1, Command::Put { key: "k".into(), value: Bytes::from_static(&[255]) });
        assert_eq!(cas(&mut store, None, "a"), Response::NotText);
        assert_eq!(store.get("k").cloned(), Some(Bytes::from_static(&[255])));
    }
}
