//! The snapshots of one group: a file for each, beside the segments.
//!
//! A file has its name only when it is complete and durable; until then it has a name of its own,
//! under which nobody looks for it. What a crash leaves of such files is removed when the group
//! recovers. Nothing here touches the log: a snapshot that can't be written is no reason to stop it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use quorate_engine::{GroupId, LogId, planted};

use super::disk::{Disk, DiskFile, DiskLock};
use super::segment::failed;
use crate::log::StorageError;
use crate::snapshot::file::{CHUNK_BYTES, Encoder, FileReader, Source};
use crate::snapshot::{SnapshotInfo, SnapshotMeta, SnapshotReader, SnapshotStore, SnapshotWriter};

/// A file is synced after this many bytes. Few, since a sync of the log waits for what a disk was given
/// before: behind 8 MiB at a time the slowest writes of a busy leader took about a quarter longer than behind
/// 1 MiB.
const SYNC_BYTES: u64 = 1 << 20;

/// The room of a file that goes is given back in pieces of so many bytes: while a file system gives back
/// 64 MiB at once it syncs nothing for ten milliseconds, and longer where it tells the disk of it.
const GIVE_BACK_BYTES: u64 = 4 << 20;

/// What all handles on the snapshots of one group share.
#[derive(Default)]
pub(super) struct SnapshotFiles {
    /// Tells unfinished files apart.
    unfinished: AtomicU64,
    /// Complete files that were opened to be read. Locked while one is, and while one gets another name.
    opened: Mutex<Vec<(LogId, Weak<dyn DiskFile>)>>,
    /// The directory could not be synced: which snapshots exist is unknown until the next start.
    failed: Mutex<Option<StorageError>>,
}

impl SnapshotFiles {
    fn failed(&self) -> MutexGuard<'_, Option<StorageError>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for a file that nobody looks for.
    fn unfinished(&self, name: &str) -> String {
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        format!("{name}.{number}{UNFINISHED}")
    }

    fn opened(&self) -> MutexGuard<'_, Vec<(LogId, Weak<dyn DiskFile>)>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a complete file.
    fn open(&self, disk: &dyn Disk, name: &str, last: LogId) -> io::Result<Arc<dyn DiskFile>> {
        let mut opened = self.opened();
        let file = disk.open(name)?;
        opened.retain(|(_, file)| file.strong_count() > 0);
        opened.push((last, Arc::downgrade(&file)));
        Ok(file)
    }

    /// Gives the file of a snapshot a name that nobody looks for. With it, whether somebody may still read
    /// it.
    fn hide(&self, disk: &dyn Disk, name: &str, last: LogId) -> io::Result<(String, bool)> {
        let unfinished = self.unfinished(name);
        let opened = self.opened();
        disk.rename(name, &unfinished)?;
        Ok((unfinished, opened.iter().any(|(id, file)| *id == last && file.strong_count() > 0)))
    }
}

/// The name of the snapshot of `group` that ends with `last`.
fn name(group: GroupId, last: LogId) -> String {
    format!("snapshot-{group:016}-{:016}-{:016}.snap", last.term, last.index)
}

/// What the names of all unfinished snapshots of `group` begin with; they end with [`UNFINISHED`].
fn prefix(group: GroupId) -> String {
    format!("snapshot-{group:016}-")
}

const UNFINISHED: &str = ".tmp";

/// The snapshot of `group` that `file` is the name of.
fn parse(group: GroupId, file: &str) -> Option<LogId> {
    let id = file.strip_prefix(&prefix(group))?.strip_suffix(".snap")?;
    let (term, index) = id.split_once('-')?;
    let last = LogId::new(term.parse().ok()?, index.parse().ok()?);
    (file == name(group, last)).then_some(last)
}

/// Removes what earlier lives of `group` have not finished.
///
/// # Errors
/// Those of the disk.
pub(super) fn remove_unfinished(disk: &dyn Disk, group: GroupId) -> Result<(), StorageError> {
    (|| {
        for file in disk.list()? {
            if file.starts_with(&prefix(group)) && file.ends_with(UNFINISHED) {
                disk.remove(&file)?;
            }
        }
        Ok(())
    })()
    .map_err(|e| failed(disk, "removing an unfinished snapshot", &e))
}

/// See the module.
pub(super) struct WalSnapshots {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) group: GroupId,
    pub(super) files: Arc<SnapshotFiles>,
    /// The lock of the directory. Whoever changes something in it holds the lock, also when the log
    /// has been closed meanwhile: no other process may have the directory yet.
    pub(super) lock: Weak<DiskLock>,
}

impl WalSnapshots {
    fn failed(&self, what: &str, e: &io::Error) -> StorageError {
        failed(&*self.disk, what, e)
    }

    /// # Errors
    /// If the names in the directory can't be trusted.
    fn check(&self) -> Result<(), StorageError> {
        self.files.failed().clone().map_or(Ok(()), Err)
    }

    /// The right to change something, for as long as the answer lives.
    fn lock(&self) -> Result<Arc<DiskLock>, StorageError> {
        self.check()?;
        self.lock.upgrade().ok_or_else(|| StorageError::Unusable("the log is closed".into()))
    }

    fn reader(&self, last: LogId) -> Result<Option<FileReader<Arc<dyn DiskFile>>>, StorageError> {
        let name = name(self.group, last);
        let file = match self.files.open(&*self.disk, &name, last) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.failed(&format!("opening {name}"), &e)),
        };
        let name = format!("{}/{name}", self.disk.describe());
        let reader = FileReader::open(file, name.clone())?;
        let found = reader.info().meta.last;
        if found != last {
            let what = format!("{name} at offset 0: a snapshot that ends with {found}");
            return Err(StorageError::Corrupt(what));
        }
        Ok(Some(reader))
    }
}

impl Source for Arc<dyn DiskFile> {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }
}

impl SnapshotStore for WalSnapshots {
    fn list(&self) -> Result<Vec<SnapshotInfo>, StorageError> {
        self.check()?;
        let names = self.disk.list().map_err(|e| self.failed("listing the snapshots", &e))?;
        let mut infos = Vec::new();
        for last in names.iter().filter_map(|file| parse(self.group, file)) {
            // One that was deleted a moment ago is none.
            infos.extend(self.reader(last)?.map(|reader| reader.info().clone()));
        }
        infos.sort_unstable_by_key(|info| (info.meta.last.index, info.meta.last.term));
        Ok(infos)
    }

    fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        let lock = self.lock()?;
        let name = name(self.group, meta.last);
        let unfinished = self.files.unfinished(&name);
        let created = self.disk.create(&unfinished);
        let file = created.map_err(|e| self.failed("creating a snapshot", &e))?;
        let mut file = Unfinished {
            disk: Arc::clone(&self.disk),
            name: unfinished,
            file: Ok(file),
            end: 0,
            synced: 0,
            _lock: lock,
        };
        let mut buffer = Vec::new();
        let encoder = Encoder::begin(&meta, &mut buffer);
        file.write(&mut buffer)?;
        let files = Arc::clone(&self.files);
        Ok(Box::new(FileWriter { files, name, encoder, buffer, file }))
    }

    fn open(&self, last: LogId) -> Result<Option<Arc<dyn SnapshotReader>>, StorageError> {
        self.check()?;
        Ok(self.reader(last)?.map(|reader| Arc::new(reader) as Arc<dyn SnapshotReader>))
    }

    /// The file gets a name that nobody looks for, durably, and goes when nobody reads it.
    fn delete(&self, last: LogId) -> Result<(), StorageError> {
        let _lock = self.lock()?;
        let (hidden, is_read) = match self.files.hide(&*self.disk, &name(self.group, last), last) {
            Ok(hidden) => hidden,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return sync_names(&*self.disk, &self.files);
            }
            Err(e) => return Err(self.failed("deleting a snapshot", &e)),
        };
        sync_names(&*self.disk, &self.files)?;
        // What is not given back now goes with the file, and that, if it stays, at the next start.
        if !is_read {
            drop(self.disk.open(&hidden).and_then(|file| give_back(&*file)));
        }
        drop(self.disk.remove(&hidden));
        Ok(())
    }
}

/// Gives the room of a file back, a piece at a time.
fn give_back(file: &dyn DiskFile) -> io::Result<()> {
    let mut length = file.length()?;
    while length > 0 {
        length = length.saturating_sub(GIVE_BACK_BYTES);
        file.shorten(length)?;
        file.sync()?;
    }
    Ok(())
}

/// Makes the names in the directory durable, or no longer believes them: a later sync that succeeds
/// would say nothing about them.
fn sync_names(disk: &dyn Disk, files: &SnapshotFiles) -> Result<(), StorageError> {
    if planted::on("snapshot-name-not-synced") {
        return Ok(());
    }
    disk.sync_dir().map_err(|e| {
        let error = failed(disk, "syncing the names of snapshots", &e);
        files.failed().get_or_insert(error).clone()
    })
}

/// A snapshot being written.
struct FileWriter {
    files: Arc<SnapshotFiles>,
    /// What it will be called.
    name: String,
    encoder: Encoder,
    /// Encoded and not written: empty between calls.
    buffer: Vec<u8>,
    file: Unfinished,
}

impl SnapshotWriter for FileWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        for piece in bytes.chunks(CHUNK_BYTES) {
            self.encoder.append(piece, &mut self.buffer);
            self.file.write(&mut self.buffer)?;
        }
        Ok(())
    }

    fn written(&self) -> u64 {
        self.encoder.written()
    }

    fn commit(self: Box<Self>) -> Result<SnapshotInfo, StorageError> {
        let Self { files, name, encoder, mut buffer, mut file } = *self;
        let info = encoder.finish(&mut buffer);
        file.write(&mut buffer)?;
        file.rename(&name)?;
        sync_names(&*file.disk, &files)?;
        Ok(info)
    }
}

/// A file under the name that nobody looks for. Removed when it is dropped.
struct Unfinished {
    disk: Arc<dyn Disk>,
    name: String,
    /// The first failure is final. The file is then closed and removed: its room is wanted.
    file: Result<Arc<dyn DiskFile>, StorageError>,
    end: u64,
    /// Where the last sync was.
    synced: u64,
    _lock: Arc<DiskLock>,
}

impl Unfinished {
    /// Writes what is in `buffer`, and empties it.
    fn write(&mut self, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
        let file = self.file.clone()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let written = file.write_at(buffer, self.end).and_then(|()| {
            self.end += buffer.len() as u64;
            if self.end - self.synced < SYNC_BYTES {
                return Ok(());
            }
            self.synced = self.end;
            file.sync()
        });
        buffer.clear();
        self.check(written)
    }

    /// Syncs the file and gives it the name of a complete one, which becomes durable with the
    /// directory.
    fn rename(&mut self, name: &str) -> Result<(), StorageError> {
        let file = self.file.clone()?;
        let synced = if planted::on("snapshot-content-not-synced") { Ok(()) } else { file.sync() };
        let renamed = synced.and_then(|()| self.disk.rename(&self.name, name));
        self.check(renamed)?;
        self.file = Err(StorageError::Unusable(format!("{name} is finished")));
        Ok(())
    }

    fn check(&mut self, done: io::Result<()>) -> Result<(), StorageError> {
        done.map_err(|e| {
            let error = failed(&*self.disk, &format!("writing {}", self.name), &e);
            self.remove();
            self.file = Err(error.clone());
            error
        })
    }

    fn remove(&self) {
        if self.file.is_ok() {
            // If it stays, the next start of the group removes it.
            drop(self.disk.remove(&self.name));
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.remove();
    }
}
