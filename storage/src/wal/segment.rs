//! Segment files: their names, their life on the disk, and where an entry is in them.
//!
//! A file that no group needs any more becomes the next segment: its room is taken and written once
//! already, so nothing has to be laid out. Between its two lives it is a spare. What it held stays
//! in it behind the new header, and is nothing there, since the checksums of a segment begin with a
//! salt of its own.

use std::io;
use std::sync::{Arc, Weak};

use anyerror::AnyError;
use bytes::Bytes;
use quorate_engine::planted;

use super::disk::{Disk, DiskFile};
use super::format::{Salt, SegmentHeader};
use crate::log::StorageError;

/// The file whose lock keeps a second process out.
pub(super) const LOCK_NAME: &str = "LOCK";

const SUFFIX: &str = ".log";
const UNFINISHED: &str = ".log.tmp";
const SPARE: &str = ".spare";

/// Spares that are kept; more are removed.
pub(super) const MAX_SPARES: usize = 2;

/// A segment that exists.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) salt: Salt,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) length: u64,
}

impl Segment {
    fn new(header: &SegmentHeader, file: Arc<dyn DiskFile>) -> Arc<Self> {
        let salt = Salt::new(header.salt, header.number);
        Arc::new(Self { number: header.number, salt, file, length: header.length })
    }
}

/// A file that waits to be a segment again.
pub(super) struct Spare {
    name: String,
    file: Arc<dyn DiskFile>,
    pub(super) length: u64,
    /// The segment it was, for as long as somebody reads it.
    was: Weak<Segment>,
}

impl Spare {
    /// Whether anybody may still read what it holds.
    pub(super) fn is_read(&self) -> bool {
        self.was.strong_count() > 0
    }
}

/// Where a block is.
#[derive(Clone)]
pub(super) struct Location {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u64,
    pub(super) bytes: u32,
}

pub(super) fn name(number: u64) -> String {
    format!("{number:016}{SUFFIX}")
}

/// What of a directory is the log's.
#[derive(Default)]
pub(super) struct Files {
    /// The numbers of the segments, in order.
    pub(super) segments: Vec<u64>,
    pub(super) spares: Vec<String>,
    pub(super) unfinished: Vec<String>,
}

/// Looks through a directory.
pub(super) fn list(disk: &dyn Disk) -> io::Result<Files> {
    let mut files = Files::default();
    let mut names = disk.list()?;
    names.sort_unstable();
    for file in names {
        if let Some(number) = file.strip_suffix(SUFFIX).and_then(|number| number.parse().ok()) {
            files.segments.extend(Some(number).filter(|number| file == name(*number)));
        } else if file.ends_with(SPARE) {
            files.spares.push(file);
        } else if file.ends_with(UNFINISHED) {
            files.unfinished.push(file);
        }
    }
    files.segments.sort_unstable();
    Ok(files)
}

/// Creates the segment of `header`, durable in content and name when this returns.
///
/// # Errors
/// [`StorageError::Full`] if there is no room; what was begun is removed again.
pub(super) fn create(
    disk: &dyn Disk,
    header: &SegmentHeader,
) -> Result<Arc<Segment>, StorageError> {
    let unfinished = format!("{}.tmp", name(header.number));
    let created = (|| {
        let file = disk.create(&unfinished)?;
        file.allocate(header.length)?;
        begin(disk, &*file, &unfinished, header)?;
        Ok(file)
    })();
    let file = created.map_err(|e| {
        // The room it took is worth more than the file; recovery would remove it as well.
        drop(disk.remove(&unfinished));
        failed(disk, "creating a segment", &e)
    })?;
    Ok(Segment::new(header, file))
}

/// Makes `spare`, which nobody reads any more, the segment of `header`, which says so; durable in
/// content and name when this returns.
///
/// # Errors
/// What failed. It is a spare still, or the segment, and whole either way.
pub(super) fn reuse(
    disk: &dyn Disk,
    spare: Spare,
    header: &SegmentHeader,
) -> Result<Arc<Segment>, StorageError> {
    assert!(!spare.is_read() && header.reused && header.length == spare.length);
    begin(disk, &*spare.file, &spare.name, header)
        .map_err(|e| failed(disk, "using a segment again", &e))?;
    Ok(Segment::new(header, spare.file))
}

/// Writes the header, and gives the file its name.
///
/// It gets its name last: a segment with a name is whole, so one whose header can't be read is
/// damaged, never half-made.
fn begin(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    from: &str,
    header: &SegmentHeader,
) -> io::Result<()> {
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    disk.rename(from, &name(header.number))?;
    if planted::on("segment-name-not-synced") { Ok(()) } else { disk.sync_dir() }
}

/// Takes the segment out of the log: it becomes a spare. Durable with the directory, and not to be
/// used again before.
pub(super) fn retire(disk: &dyn Disk, segment: &Arc<Segment>) -> io::Result<Spare> {
    let spare = format!("{:016}{SPARE}", segment.number);
    disk.rename(&name(segment.number), &spare)?;
    let (file, was) = (Arc::clone(&segment.file), Arc::downgrade(segment));
    Ok(Spare { name: spare, file, length: segment.length, was })
}

/// A spare of an earlier life of the log.
pub(super) fn open_spare(disk: &dyn Disk, name: &str) -> io::Result<Spare> {
    let file = disk.open(name)?;
    Ok(Spare { name: name.into(), length: file.length()?, file, was: Weak::new() })
}

/// Opens segment `number` and reads all of it.
///
/// # Errors
/// [`StorageError::Corrupt`] if it is not a segment of that number, or cut short.
pub(super) fn read(
    disk: &dyn Disk,
    number: u64,
) -> Result<(Arc<Segment>, SegmentHeader, Bytes), StorageError> {
    let name = name(number);
    let io_failed = |e: io::Error| failed(disk, &format!("reading {name}"), &e);
    let file = disk.open(&name).map_err(io_failed)?;
    let length = file.length().map_err(io_failed)?;
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, 0).map_err(io_failed)?;
    let header = SegmentHeader::decode(&bytes).map_err(|what| corrupt(disk, number, 0, &what))?;
    if header.number != number {
        let what = format!("its header says it is segment {}", header.number);
        return Err(corrupt(disk, number, 0, &what));
    }
    if header.length != length || SegmentHeader::end(&bytes) as u64 > length {
        let what = format!("the file was made with {} bytes and has {length}", header.length);
        return Err(corrupt(disk, number, length.min(header.length), &what));
    }
    Ok((Segment::new(&header, file), header, bytes.into()))
}

/// A failed call of the disk, with what it was for.
pub(super) fn failed(disk: &dyn Disk, what: &str, e: &io::Error) -> StorageError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StorageError::Full(format!("{what} in {}: {e}", disk.describe()))
        }
        _ => {
            let context = || format!("{what} in {}", disk.describe());
            StorageError::Failed(AnyError::new(e).add_context(context))
        }
    }
}

/// Damage, with its place.
pub(super) fn corrupt(disk: &dyn Disk, segment: u64, offset: u64, what: &str) -> StorageError {
    let name = name(segment);
    StorageError::Corrupt(format!("{}/{name} at offset {offset}: {what}", disk.describe()))
}
