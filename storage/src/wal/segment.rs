//! Segment files: their names, their life on the disk, and where an entry is in them.

use std::io;
use std::sync::Arc;

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

/// A segment that exists.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) salt: Salt,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) length: u64,
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

/// The numbers of the segments in a directory, in order, and the names of unfinished ones.
pub(super) fn list(disk: &dyn Disk) -> io::Result<(Vec<u64>, Vec<String>)> {
    let names = disk.list()?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|file| Some((file, file.strip_suffix(SUFFIX)?.parse().ok()?)))
        .filter(|(file, number)| **file == name(*number))
        .map(|(_, number)| number)
        .collect();
    numbers.sort_unstable();
    let mut unfinished: Vec<String> =
        names.into_iter().filter(|name| name.ends_with(UNFINISHED)).collect();
    unfinished.sort_unstable();
    Ok((numbers, unfinished))
}

/// Creates the segment of `header`, durable in content and name when this returns.
///
/// It gets its name last: a segment with a name is whole, so one whose header can't be read is
/// damaged, never half-made.
///
/// # Errors
/// [`StorageError::Full`] if there is no room; what was begun is removed again.
pub(super) fn create(
    disk: &dyn Disk,
    header: &SegmentHeader,
) -> Result<Arc<Segment>, StorageError> {
    let name = name(header.number);
    let unfinished = format!("{name}.tmp");
    let created = (|| {
        let file = disk.create(&unfinished)?;
        file.allocate(header.length)?;
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        disk.rename(&unfinished, &name)?;
        if !planted::on("segment-name-not-synced") {
            disk.sync_dir()?;
        }
        Ok(file)
    })();
    let file = created.map_err(|e| {
        // The room it took is worth more than the file; recovery would remove it as well.
        drop(disk.remove(&unfinished));
        failed(disk, "creating a segment", &e)
    })?;
    let salt = Salt::new(header.salt, header.number);
    Ok(Arc::new(Segment { number: header.number, salt, file, length: header.length }))
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
    let salt = Salt::new(header.salt, number);
    Ok((Arc::new(Segment { number, salt, file, length }), header, bytes.into()))
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
