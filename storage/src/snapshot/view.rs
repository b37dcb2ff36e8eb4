//! A snapshot as state machines give and take it: a stream of bytes.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::SnapshotReader;
use crate::state_machine::Failure;

/// How much of a stored snapshot is read at a time.
const READ_BYTES: usize = 256 << 10;

/// The bytes of a snapshot, piece by piece: an iterator whose every step may block.
///
/// ```
/// use quorate_storage::Snapshot;
///
/// let whole = Snapshot::from_bytes("all of it");
/// assert_eq!(whole.into_bytes()?, "all of it");
///
/// let rows = vec!["one ", "two"];
/// let pieces = Snapshot::new(rows.into_iter().map(|row| Ok(row.into())));
/// assert_eq!(pieces.into_bytes()?, "one two");
/// # Ok::<(), quorate_storage::Failure>(())
/// ```
pub struct Snapshot(Box<dyn Iterator<Item = Result<Bytes, Failure>> + Send>);

impl Snapshot {
    /// A snapshot that is produced while it is taken: each piece when it is asked for, on a thread
    /// where blocking is allowed. How it is cut into pieces has no meaning.
    pub fn new(pieces: impl Iterator<Item = Result<Bytes, Failure>> + Send + 'static) -> Self {
        Self(Box::new(pieces))
    }

    /// A snapshot that is in memory already.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::new(Some(bytes).filter(|b| !b.is_empty()).into_iter().map(Ok))
    }

    /// The whole of it, in memory.
    ///
    /// # Errors
    /// The first piece that could not be read.
    pub fn into_bytes(self) -> Result<Bytes, Failure> {
        let mut whole = Vec::new();
        for piece in self {
            whole.extend_from_slice(&piece?);
        }
        Ok(whole.into())
    }

    /// For what reads from a [`Read`].
    pub fn into_reader(self) -> impl Read + Send {
        SnapshotRead { pieces: self, rest: Bytes::new() }
    }

    /// The [postcard](https://docs.rs/postcard) form of a value.
    ///
    /// # Errors
    /// A value that has no such form.
    #[cfg(feature = "postcard")]
    pub fn encode<T: serde::Serialize>(value: &T) -> Result<Self, Failure> {
        Ok(Self::from_bytes(postcard::to_stdvec(value)?))
    }

    /// The value that [`Snapshot::encode`] was given.
    ///
    /// # Errors
    /// Bytes that stand for no such value.
    #[cfg(feature = "postcard")]
    pub fn decode<T: serde::de::DeserializeOwned>(self) -> Result<T, Failure> {
        Ok(postcard::from_bytes(&self.into_bytes()?)?)
    }
}

/// A stored snapshot, read piece by piece and checked as it is read.
impl From<Arc<dyn SnapshotReader>> for Snapshot {
    fn from(reader: Arc<dyn SnapshotReader>) -> Self {
        let mut offset = 0;
        let pieces = move || {
            if offset >= reader.info().bytes {
                return None;
            }
            let piece = reader.read_at(offset, READ_BYTES);
            match piece {
                Ok(piece) if piece.is_empty() => {
                    offset = u64::MAX;
                    Some(Err(Failure::msg("a stored snapshot ends before its length")))
                }
                Ok(piece) => {
                    offset += piece.len() as u64;
                    Some(Ok(piece))
                }
                Err(error) => {
                    offset = u64::MAX;
                    Some(Err(error.into()))
                }
            }
        };
        Self::new(std::iter::from_fn(pieces))
    }
}

impl Iterator for Snapshot {
    type Item = Result<Bytes, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

struct SnapshotRead {
    pieces: Snapshot,
    rest: Bytes,
}

impl Read for SnapshotRead {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.next() {
                Some(piece) => self.rest = piece.map_err(|e| io::Error::other(e.to_string()))?,
                None => return Ok(0),
            }
        }
        let n = self.rest.len().min(to.len());
        self.rest.copy_to_slice(&mut to[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_crosses_pieces() {
        let pieces = ["ab", "", "cdef", "g"].map(|piece| Ok(Bytes::from(piece)));
        let mut read = String::new();
        Snapshot::new(pieces.into_iter()).into_reader().read_to_string(&mut read).unwrap();
        assert_eq!(read, "abcdefg");
        let broken = [Ok(Bytes::from("ab")), Err(Failure::msg("torn"))];
        let error = Snapshot::new(broken.into_iter()).into_reader().read_to_string(&mut read);
        assert!(error.unwrap_err().to_string().contains("torn"));
    }
}
