//! What the log asks of a disk: a directory of files, and when each change is durable.
//!
//! The log is written against these two small traits so that a [`FakeDisk`](super::FakeDisk) can
//! lose what was not synced. Nothing is durable by itself: bytes of a file are after
//! [`DiskFile::sync`], names (created, renamed, removed) after [`Disk::sync_dir`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One directory. All calls block.
pub trait Disk: Send + Sync + 'static {
    /// The names of all files, in any order.
    ///
    /// # Errors
    /// Those of the file system.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or those of the file system.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates an empty file. Its name is durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `AlreadyExists`, or those of the file system.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, atomically. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// Those of the file system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; who has it open can go on reading. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// Those of the file system.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every change of names durable.
    ///
    /// # Errors
    /// Those of the file system. Some changes may be durable, some not.
    fn sync_dir(&self) -> io::Result<()>;

    /// Takes the lock called `name`, until the answer is dropped or the process ends. `None` if
    /// somebody else has it.
    ///
    /// # Errors
    /// Those of the file system; `NotFound` if there is none and this disk may not make it.
    fn lock(&self, name: &str) -> io::Result<Option<DiskLock>>;

    /// Where this is, for messages.
    fn describe(&self) -> String;
}

/// A lock that ends when it is dropped.
pub type DiskLock = Box<dyn Send + Sync>;

/// One open file. All calls block, and may come from several threads at once.
pub trait DiskFile: Send + Sync + 'static {
    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter, or those of the file system.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. Durable after [`DiskFile::sync`].
    ///
    /// # Errors
    /// Those of the file system. Any part of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Gives an empty file `length` bytes that are read as zeros, and room for them on the disk.
    /// Durable after [`DiskFile::sync`].
    ///
    /// # Errors
    /// `StorageFull` if there is no room, or those of the file system.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Gives back everything behind the first `length` bytes, of which there are more. Durable after
    /// [`DiskFile::sync`].
    ///
    /// # Errors
    /// If the file has a second name (a hard link), whose content this is as well, or where that can't be
    /// known; or those of the file system. Nothing has changed then.
    fn shorten(&self, length: u64) -> io::Result<()>;

    /// Makes everything written so far durable, with the length of the file.
    ///
    /// # Errors
    /// Those of the file system. What was written may or may not be durable, and a later sync that
    /// succeeds says nothing about it: never call it again on this file.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// Those of the file system.
    fn length(&self) -> io::Result<u64>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    writable: bool,
}

impl RealDisk {
    /// The directory `path`, created durably if it does not exist.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| !exists(dir)).collect();
        fs::create_dir_all(&path)?;
        for dir in missing {
            // A relative path has the current directory for its last parent.
            match dir.parent() {
                Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new("."))?,
                Some(parent) => sync_directory(parent)?,
                None => {}
            }
        }
        Ok(Self { path, writable: true })
    }

    /// The existing directory `path`, for looking only: every change fails, and there is no lock to be
    /// had that was never taken before.
    pub fn read_only(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), writable: false }
    }

    fn writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(io::Error::new(ErrorKind::PermissionDenied, "the directory was opened to look"))
        }
    }
}

fn exists(dir: &Path) -> bool {
    dir.as_os_str().is_empty() || dir.exists()
}

#[cfg(unix)]
fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Other systems have no such call, and write names through.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // What is no text is none of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(self.writable).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.writable()?;
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.writable()?;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.writable()?;
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.writable()?;
        sync_directory(&self.path)
    }

    fn lock(&self, name: &str) -> io::Result<Option<DiskLock>> {
        // Not truncated: the file has no content, and it stays when the lock goes. Removing it
        // would let two processes lock two files of one name.
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(self.writable).truncate(false).open(path)?;
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs4::TryLockError::WouldBlock) => Ok(None),
            Err(fs4::TryLockError::Error(e)) => Err(e),
        }
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

#[derive(Debug)]
struct RealFile(File);

/// Writes zeros over a part of a file; durable after [`DiskFile::sync`].
pub(super) fn write_zeros(file: &dyn DiskFile, part: Range<u64>) -> io::Result<()> {
    let mut at = part.start;
    while at < part.end {
        let zeros = &ZEROS[..(part.end - at).min(ZEROS.len() as u64) as usize];
        file.write_at(zeros, at)?;
        at += zeros.len() as u64;
    }
    Ok(())
}

/// What nothing was written to: as much as is laid out, or compared, at a time.
pub(super) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl DiskFile for RealFile {
    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.0, bytes, offset)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => {
                    bytes = &mut bytes[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(&self.0, bytes, offset)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                n => {
                    bytes = &bytes[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }

    /// Asks the file system for the room, and takes it by writing where there is no such call.
    fn allocate(&self, length: u64) -> io::Result<()> {
        if cfg!(any(target_vendor = "apple", target_os = "linux", target_os = "android", windows)) {
            match fs4::FileExt::allocate(&self.0, length) {
                Err(e) if e.kind() == ErrorKind::Unsupported => {}
                allocated => return allocated,
            }
        }
        write_zeros(self, 0..length)
    }

    #[cfg(unix)]
    fn shorten(&self, length: u64) -> io::Result<()> {
        if std::os::unix::fs::MetadataExt::nlink(&self.0.metadata()?) > 1 {
            return Err(io::Error::other("the file has another name"));
        }
        self.0.set_len(length)
    }

    #[cfg(not(unix))]
    fn shorten(&self, _: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().join("a/b")).unwrap();
        let file = disk.create("x").unwrap();
        file.allocate(100_000).unwrap();
        assert_eq!(file.length().unwrap(), 100_000);
        let mut all = vec![1; 100_000];
        file.read_at(&mut all, 0).unwrap();
        assert!(all.iter().all(|byte| *byte == 0));
        file.write_at(b"hello", 10).unwrap();
        file.sync().unwrap();
        assert_eq!(disk.create("x").err().unwrap().kind(), ErrorKind::AlreadyExists);
        disk.rename("x", "y").unwrap();
        disk.sync_dir().unwrap();
        let file = disk.open("y").unwrap();
        let mut bytes = [1; 7];
        file.read_at(&mut bytes, 9).unwrap();
        assert_eq!(&bytes, b"\0hello\0");
        assert_eq!(file.length().unwrap(), 100_000);
        assert_eq!(file.read_at(&mut bytes, 99_999).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        #[cfg(unix)]
        {
            let link = dir.path().join("link");
            fs::hard_link(dir.path().join("a/b/y"), &link).unwrap();
            assert!(file.shorten(11).is_err());
            assert_eq!(fs::metadata(&link).unwrap().len(), 100_000);
            fs::remove_file(link).unwrap();
            file.shorten(11).unwrap();
            file.sync().unwrap();
            assert_eq!(file.length().unwrap(), 11);
        }
        assert_eq!(disk.list().unwrap(), ["y"]);
        disk.remove("y").unwrap();
        assert!(disk.list().unwrap().is_empty());
    }

    #[test]
    fn one_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let one = RealDisk::new(dir.path()).unwrap();
        let two = RealDisk::new(dir.path()).unwrap();
        let lock = one.lock("LOCK").unwrap().expect("free");
        assert!(two.lock("LOCK").unwrap().is_none());
        drop(lock);
        assert!(two.lock("LOCK").unwrap().is_some());
    }

    #[test]
    fn a_read_only_disk_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        RealDisk::new(dir.path()).unwrap().create("x").unwrap().allocate(10).unwrap();
        let disk = RealDisk::read_only(dir.path());
        assert!(disk.create("y").is_err() && disk.remove("x").is_err());
        assert!(disk.lock("LOCK").is_err() && disk.rename("x", "y").is_err());
        assert!(disk.open("x").unwrap().write_at(b"1", 0).is_err());
        assert_eq!(disk.list().unwrap(), ["x"]);
    }
}
