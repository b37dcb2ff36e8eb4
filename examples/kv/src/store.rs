//! The state machine: all that is particular to this service, and the part to copy.
//!
//! A [`Command`] is what is replicated, [`Store::apply`] what it does, a [`Response`] what its
//! caller is told. Everything else here (HTTP, the command line) only carries them. `apply` must
//! give the same result on every node: the map is ordered, nothing asks for a time or a random
//! number, and a refusal (the value is not the expected one, or is no text) is a response, the same
//! everywhere, not an error of one node.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use quorate::{Committed, Failure, Postcard, Snapshot, StateMachine};
use serde::{Deserialize, Serialize};

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
}

/// Keys and values, in order of the keys.
#[derive(Debug, Default)]
pub struct Store {
    values: BTreeMap<String, Bytes>,
}

impl Store {
    /// The value of `key`. The bytes are shared, not copied.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.values.get(key).cloned()
    }

    fn execute(&mut self, index: u64, command: Command) -> Response {
        match command {
            Command::Put { key, value } => {
                self.values.insert(key, value);
                Response::Put { index }
            }
            Command::Delete { key } => {
                Response::Delete { deleted: self.values.remove(&key).is_some() }
            }
            Command::Cas { key, expect, value } => self.compare_and_swap(key, expect, value),
        }
    }

    fn compare_and_swap(&mut self, key: String, expect: Option<String>, value: String) -> Response {
        let current = match self.values.get(&key).map(|bytes| std::str::from_utf8(bytes)) {
            Some(Err(_)) => return Response::NotText,
            Some(Ok(text)) => Some(text),
            None => None,
        };
        if current != expect.as_deref() {
            return Response::Cas { swapped: false, current: current.map(str::to_owned) };
        }
        self.values.insert(key, Bytes::copy_from_slice(value.as_bytes()));
        Response::Cas { swapped: true, current: Some(value) }
    }
}

#[async_trait]
impl StateMachine for Store {
    type Command = Command;
    type Response = Response;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<Command>>) -> Result<Vec<Response>, Failure> {
        Ok(entries.into_iter().map(|entry| self.execute(entry.id.index, entry.command)).collect())
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        // Keys and values are shared with the copy; what it is written as is made as it is taken.
        let values = self.values.clone();
        Ok(Snapshot::new(values.into_iter().map(|pair| Ok(postcard::to_stdvec(&pair)?.into()))))
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        let bytes = snapshot.into_bytes()?;
        let mut rest = &bytes[..];
        self.values.clear();
        while !rest.is_empty() {
            let ((key, value), after) = postcard::take_from_bytes::<(String, Bytes)>(rest)?;
            self.values.insert(key, value);
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cas(store: &mut Store, expect: Option<&str>, value: &str) -> Response {
        let (key, expect) = ("k".into(), expect.map(str::to_owned));
        store.execute(1, Command::Cas { key, expect, value: value.into() })
    }

    #[test]
    fn puts_and_deletes() {
        let mut store = Store::default();
        let value = Bytes::from_static(&[0, 255]);
        let put = Command::Put { key: "k".into(), value: value.clone() };
        assert_eq!(store.execute(7, put), Response::Put { index: 7 });
        assert_eq!(store.get("k"), Some(value));
        let delete = Command::Delete { key: "k".into() };
        assert_eq!(store.execute(8, delete.clone()), Response::Delete { deleted: true });
        assert_eq!(store.execute(9, delete), Response::Delete { deleted: false });
        assert_eq!(store.get("k"), None);
    }

    #[test]
    fn swaps_only_what_was_expected() {
        let mut store = Store::default();
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
        store.execute(1, Command::Put { key: "k".into(), value: Bytes::from_static(&[255]) });
        assert_eq!(cas(&mut store, None, "a"), Response::NotText);
        assert_eq!(store.get("k"), Some(Bytes::from_static(&[255])));
    }
}
