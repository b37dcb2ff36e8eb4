//! Snapshot files, wherever they are: a store reads its own with this, and anybody else a backup.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyerror::AnyError;
use bytes::Bytes;

pub use super::format::{
    CHUNK_BYTES, CHUNK_HEADER_BYTES, Encoder, FOOTER_BYTES, FOOTER_MAGIC, HEADER_BYTES, MAGIC,
    MAX_CHUNK_BYTES, VERSION,
};
use super::format::{Header, Layout, Unreadable};
use super::{SnapshotInfo, SnapshotReader};
use crate::log::StorageError;

/// Opens the snapshot in the file `path`, as an [`Encoder`] made it.
///
/// Reads its header and its footer, so that a file that is not complete is refused here; the
/// content is checked as it is read. Not for the files of an open log, which cuts short what it
/// deletes: its readers come from [`SnapshotStore::open`](super::SnapshotStore::open).
///
/// # Errors
/// [`StorageError::Corrupt`] if the file is damaged, cut or something else, [`StorageError::Unusable`]
/// if a later version made it, [`StorageError::Failed`] if it can't be read.
pub fn open_file(path: impl AsRef<Path>) -> Result<Arc<dyn SnapshotReader>, StorageError> {
    let name = path.as_ref().display().to_string();
    let file = File::open(path).map_err(|e| failed(&name, &e))?;
    Ok(Arc::new(FileReader::open(Mutex::new(file), name)?))
}

/// What a snapshot is read from.
pub(crate) trait Source: Send + Sync + 'static {
    /// Fills `bytes` from `offset` on.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    fn length(&self) -> io::Result<u64>;
}

impl Source for Mutex<File> {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        // Each read says where it begins: one that failed leaves nothing behind.
        let mut file = self.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.lock().unwrap_or_else(PoisonError::into_inner).metadata()?.len())
    }
}

/// A complete snapshot in a file. Keeps nothing of its content.
pub(crate) struct FileReader<S> {
    source: S,
    /// For messages.
    name: String,
    layout: Layout,
}

impl<S: Source> FileReader<S> {
    /// # Errors
    /// As [`open_file`].
    pub(crate) fn open(source: S, name: String) -> Result<Self, StorageError> {
        let length = source.length().map_err(|e| failed(&name, &e))?;
        if length < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            let what = format!("a file of {length} bytes is no snapshot");
            return Err(corrupt(&name, 0, &what));
        }
        let read =
            |bytes: &mut [u8], offset| source.read_at(bytes, offset).map_err(|e| failed(&name, &e));
        let mut header = [0; HEADER_BYTES];
        read(&mut header, 0)?;
        let header = Header::decode(&header).map_err(|unreadable| match unreadable {
            Unreadable::Damaged(what) => corrupt(&name, 0, &what),
            Unreadable::Version(version) => StorageError::Unusable(format!(
                "{name} is a snapshot of format version {version}, this program reads {VERSION}"
            )),
        })?;
        if length < (HEADER_BYTES + header.meta_bytes + FOOTER_BYTES) as u64 {
            return Err(corrupt(&name, length, "the file ends inside its header"));
        }
        let mut meta = vec![0; header.meta_bytes];
        read(&mut meta, HEADER_BYTES as u64)?;
        let mut footer = [0; FOOTER_BYTES];
        let at = length - FOOTER_BYTES as u64;
        read(&mut footer, at)?;
        let layout = Layout::decode(&header, &meta, &footer, length);
        Ok(Self { layout: layout.map_err(|what| corrupt(&name, at, &what))?, source, name })
    }
}

impl<S: Source> SnapshotReader for FileReader<S> {
    fn info(&self) -> &SnapshotInfo {
        &self.layout.info
    }

    /// Reads and checks the one chunk that holds `offset`, and gives what was asked of it: whoever
    /// asks for [`CHUNK_BYTES`] at a time reads each chunk once.
    fn read_at(&self, offset: u64, max_bytes: usize) -> Result<Bytes, StorageError> {
        let Some(chunk) = self.layout.chunk_of(offset) else { return Ok(Bytes::new()) };
        let mut bytes = vec![0; chunk.bytes];
        self.source.read_at(&mut bytes, chunk.offset).map_err(|e| failed(&self.name, &e))?;
        let content = self
            .layout
            .content(chunk, bytes.into())
            .map_err(|what| corrupt(&self.name, chunk.offset, &what))?;
        let start = (offset - chunk.content) as usize;
        Ok(content.slice(start..content.len().min(start.saturating_add(max_bytes.max(1)))))
    }
}

fn failed(name: &str, e: &io::Error) -> StorageError {
    StorageError::Failed(AnyError::new(e).add_context(|| format!("reading the snapshot {name}")))
}

fn corrupt(name: &str, offset: u64, what: &str) -> StorageError {
    StorageError::Corrupt(format!("{name} at offset {offset}: {what}"))
}
