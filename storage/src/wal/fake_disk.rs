//! A disk in memory that loses what was not synced, fails when told to, and is the same in every
//! run.
//!
//! For tests of the log, and for simulations of whole clusters. It keeps two images, the one that
//! programs see and the one that survives a power cut, and between them the writes that are not
//! synced, so that a crash may keep any part of them. It is as unhelpful as disks are allowed to
//! be: a file whose name was not synced is gone with all it held; after a failed sync the lost
//! bytes still read well, and no later sync saves them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, DiskLock};

/// What is written whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What a crash leaves of the changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing: the power is cut with everything still in memory.
    LoseUnsynced,
    /// A random part: of each write any of its sectors, of the changes of names any.
    Torn,
    /// Everything: the process is killed, the machine lives.
    KeepAll,
}

/// A directory in memory; a clone is the same directory.
///
/// ```
/// use quorate_storage::wal::{Crash, Disk, FakeDisk};
///
/// let disk = FakeDisk::new(7);
/// let directory = disk.mount();
/// let file = directory.create("kept")?;
/// file.write_at(b"synced", 0)?;
/// file.sync()?;
/// directory.sync_dir()?;
/// file.write_at(b"forgotten", 0)?;
/// directory.create("lost")?;
///
/// disk.crash(Crash::LoseUnsynced);
/// assert_eq!(disk.mount().list()?, ["kept"]);
/// assert_eq!(disk.content("kept").unwrap(), b"synced");
/// assert!(file.sync().is_err(), "a handle of before the crash is dead");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct FakeDisk(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Signalled when a sync begins or ends to hang.
    hang: Condvar,
}

struct State {
    random: u64,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    /// Grows with every crash; handles of an earlier life fail.
    life: u64,
    /// Calls that change something, so far.
    ops: u64,
    crash_at: Option<(u64, Crash)>,
    fail_at: BTreeSet<u64>,
    fail_next_sync: bool,
    quota_bytes: Option<u64>,
    hang_syncs: bool,
    lying: bool,
    hanging: usize,
    locked: BTreeSet<String>,
}

#[derive(Default)]
struct FileState {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// In order; a crash keeps any of them, and of a write any sectors.
    unsynced: Vec<FileChange>,
    /// One clone here and one in each handle.
    held: Arc<()>,
}

enum FileChange {
    Write(usize, Vec<u8>),
    Shorten(usize),
}

enum NameChange {
    Create(String, u64),
    Rename { from: String, to: String, file: u64 },
    Remove(String),
}

impl FakeDisk {
    /// In each error of a disk that fails because a test made it fail.
    pub const TOLD: &str = "as it was told to";

    /// An empty directory; `seed` decides what a torn crash keeps.
    pub fn new(seed: u64) -> Self {
        Self::from_image(BTreeMap::new(), seed)
    }

    /// A directory that holds `image`, all of it durable.
    pub fn from_image(image: BTreeMap<String, Vec<u8>>, seed: u64) -> Self {
        let mut files = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (id, (name, bytes)) in (0..).zip(image) {
            names.insert(name, id);
            let durable = bytes.clone();
            files.insert(id, FileState { live: bytes, durable, ..FileState::default() });
        }
        let state = State {
            // Not zero, which this generator can't leave.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            next_file: files.len() as u64,
            files,
            live: names.clone(),
            durable: names,
            unsynced_names: Vec::new(),
            life: 0,
            ops: 0,
            crash_at: None,
            fail_at: BTreeSet::new(),
            fail_next_sync: false,
            quota_bytes: None,
            hang_syncs: false,
            lying: false,
            hanging: 0,
            locked: BTreeSet::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), hang: Condvar::new() }))
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every file as programs see it.
    pub fn image(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock_state();
        state.live.iter().map(|(name, id)| (name.clone(), state.files[id].live.clone())).collect()
    }

    /// Every file as far as it is synced: what a power cut would leave for certain.
    pub fn durable_image(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock_state();
        let durable = |id: &u64| state.files[id].durable.clone();
        state.durable.iter().map(|(name, id)| (name.clone(), durable(id))).collect()
    }

    /// Another disk takes the place of this one, with `image` on it. To whoever has the old one open
    /// it is a crash.
    pub fn replace(&self, image: BTreeMap<String, Vec<u8>>) {
        let mut state = self.lock_state();
        state.crash(Crash::LoseUnsynced);
        state.live.clear();
        for (name, bytes) in image {
            let id = state.next_file;
            state.next_file += 1;
            let durable = bytes.clone();
            state.files.insert(id, FileState { live: bytes, durable, ..FileState::default() });
            state.live.insert(name, id);
        }
        state.durable = state.live.clone();
        let named: BTreeSet<u64> = state.live.values().copied().collect();
        state.files.retain(|id, _| named.contains(id));
        self.0.hang.notify_all();
    }

    /// One file as programs see it.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock_state();
        state.live.get(name).map(|id| state.files[id].live.clone())
    }

    /// Cuts the power or kills the process: handles and locks of before are dead, and the disk
    /// holds what `how` leaves. Whatever was to fail or crash later no longer does.
    pub fn crash(&self, how: Crash) {
        self.lock_state().crash(how);
        self.0.hang.notify_all();
    }

    /// Crashes in front of the change number `op` (see [`FakeDisk::ops`]), which then fails.
    pub fn crash_at(&self, op: u64, how: Crash) {
        self.lock_state().crash_at = Some((op, how));
    }

    /// How many times the disk has crashed.
    pub fn crashes(&self) -> u64 {
        self.lock_state().life
    }

    /// How many calls have tried to change something: `create`, `rename`, `remove`, `write_at`,
    /// `allocate`, `shorten`, `sync`, `sync_dir`. The next one has this number.
    pub fn ops(&self) -> u64 {
        self.lock_state().ops
    }

    /// The change number `op` fails with an I/O error, once.
    pub fn fail_at(&self, op: u64) {
        self.lock_state().fail_at.insert(op);
    }

    /// The next sync of a file fails with an I/O error, and loses what it should have kept.
    pub fn fail_next_sync(&self) {
        self.lock_state().fail_next_sync = true;
    }

    /// Syncs of files do nothing from now on, and say that they did.
    pub fn lie_about_syncs(&self) {
        self.lock_state().lying = true;
    }

    /// Limits the bytes of all files together.
    pub fn set_quota_bytes(&self, quota: Option<u64>) {
        self.lock_state().quota_bytes = quota;
    }

    /// From now on a sync of a file does not return before [`FakeDisk::release_syncs`] or a crash.
    pub fn hang_syncs(&self) {
        self.lock_state().hang_syncs = true;
    }

    /// Nothing is to fail or to crash later any more, syncs go on, and there is room.
    pub fn mend(&self) {
        let mut state = self.lock_state();
        state.crash_at = None;
        state.fail_at.clear();
        state.fail_next_sync = false;
        state.quota_bytes = None;
        drop(state);
        self.release_syncs();
    }

    /// Waits until a sync hangs.
    pub fn wait_for_hanging_sync(&self) {
        let state = self.lock_state();
        let guard = self.0.hang.wait_while(state, |state| state.hanging == 0);
        drop(guard.unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets syncs go on.
    pub fn release_syncs(&self) {
        self.lock_state().hang_syncs = false;
        self.0.hang.notify_all();
    }

    /// The directory as a process of now sees it: dead once the disk crashes, as the process is.
    pub fn mount(&self) -> FakeMount {
        let life = self.lock_state().life;
        FakeMount { disk: self.clone(), life }
    }

    /// The state, if no crash came since `life` began.
    fn alive(&self, life: u64) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock_state();
        if life == state.life {
            Ok(state)
        } else {
            Err(io::Error::other("the disk has crashed since this was opened"))
        }
    }

    /// Counts a change, and finds out whether it may happen.
    fn change(&self, life: u64) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.alive(life)?;
        let op = state.ops;
        state.ops += 1;
        if let Some((_, how)) = state.crash_at.filter(|(at, _)| *at == op) {
            state.crash(how);
            self.0.hang.notify_all();
            return Err(io::Error::other("the disk crashed"));
        }
        if state.fail_at.remove(&op) {
            return Err(io::Error::other(format!("the disk failed, {}", Self::TOLD)));
        }
        Ok(state)
    }
}

impl State {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 8
    }

    /// Whether a change that was not synced survives.
    fn survives(&mut self, how: Crash) -> bool {
        how == Crash::Torn && self.random() % 2 == 0
    }

    fn crash(&mut self, how: Crash) {
        self.life += 1;
        self.locked.clear();
        self.hang_syncs = false;
        self.crash_at = None;
        self.fail_at.clear();
        self.fail_next_sync = false;
        if how == Crash::KeepAll {
            // What was not synced is still on its way, and the next crash may lose it.
            return;
        }
        for change in std::mem::take(&mut self.unsynced_names) {
            if self.survives(how) {
                change.apply(&mut self.durable);
            }
        }
        let mut files = std::mem::take(&mut self.files);
        files.retain(|id, _| self.durable.values().any(|named| named == id));
        for file in files.values_mut() {
            for change in std::mem::take(&mut file.unsynced) {
                let (offset, bytes) = match change {
                    FileChange::Write(offset, bytes) => (offset, bytes),
                    FileChange::Shorten(_) => {
                        if self.survives(how) {
                            change.apply(&mut file.durable);
                        }
                        continue;
                    }
                };
                let mut at = 0;
                while at < bytes.len() {
                    let sector_end = ((offset + at) / SECTOR_BYTES + 1) * SECTOR_BYTES - offset;
                    let end = sector_end.min(bytes.len());
                    if self.survives(how) {
                        put(&mut file.durable, offset + at, &bytes[at..end]);
                    }
                    at = end;
                }
            }
            file.live.clone_from(&file.durable);
        }
        self.files = files;
        self.live.clone_from(&self.durable);
    }

    fn file(&self, name: &str) -> io::Result<u64> {
        self.live.get(name).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn check_quota(&self, more: usize) -> io::Result<()> {
        let used: usize = self.live.values().map(|id| self.files[id].live.len()).sum();
        match self.quota_bytes {
            Some(quota) if (used + more) as u64 > quota => Err(io::Error::new(
                ErrorKind::StorageFull,
                format!("no space left on the fake disk, {}", FakeDisk::TOLD),
            )),
            _ => Ok(()),
        }
    }

    fn write(&mut self, file: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = offset as usize;
        let growth = (offset + bytes.len()).saturating_sub(self.files[&file].live.len());
        self.check_quota(growth)?;
        let file = self.files.get_mut(&file).expect("files outlive their handles");
        put(&mut file.live, offset, bytes);
        file.unsynced.push(FileChange::Write(offset, bytes.to_vec()));
        Ok(())
    }
}

impl FileChange {
    fn apply(self, content: &mut Vec<u8>) {
        match self {
            FileChange::Write(offset, bytes) => put(content, offset, &bytes),
            FileChange::Shorten(length) => content.truncate(length),
        }
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Create(name, file) => drop(names.insert(name, file)),
            NameChange::Rename { from, to, file } => {
                names.remove(&from);
                names.insert(to, file);
            }
            NameChange::Remove(name) => drop(names.remove(&name)),
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// A [`FakeDisk`] as one process sees it: what a log is opened on. See [`FakeDisk::mount`].
#[derive(Clone)]
pub struct FakeMount {
    disk: FakeDisk,
    life: u64,
}

impl FakeMount {
    fn handle(&self, state: &State, file: u64) -> Arc<dyn DiskFile> {
        let held = Arc::clone(&state.files[&file].held);
        Arc::new(FakeFile { mount: self.clone(), file, _held: held })
    }
}

impl Disk for FakeMount {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.alive(self.life)?.live.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.disk.alive(self.life)?;
        let file = state.file(name)?;
        Ok(self.handle(&state, file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.disk.change(self.life)?;
        if state.live.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, FileState::default());
        state.live.insert(name.into(), file);
        state.unsynced_names.push(NameChange::Create(name.into(), file));
        Ok(self.handle(&state, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.disk.change(self.life)?;
        let file = state.file(from)?;
        state.live.remove(from);
        state.live.insert(to.into(), file);
        state.unsynced_names.push(NameChange::Rename { from: from.into(), to: to.into(), file });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.disk.change(self.life)?;
        state.file(name)?;
        state.live.remove(name);
        state.unsynced_names.push(NameChange::Remove(name.into()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.disk.change(self.life)?;
        let state = &mut *state;
        for change in std::mem::take(&mut state.unsynced_names) {
            change.apply(&mut state.durable);
        }
        let named: BTreeSet<u64> = state.durable.values().copied().collect();
        state.files.retain(|id, file| named.contains(id) || Arc::strong_count(&file.held) > 1);
        Ok(())
    }

    fn lock(&self, name: &str) -> io::Result<Option<DiskLock>> {
        let mut state = self.disk.alive(self.life)?;
        let free = state.locked.insert(name.into());
        Ok(free.then(|| Box::new(FakeLock { mount: self.clone(), name: name.into() }) as DiskLock))
    }

    fn describe(&self) -> String {
        "fake disk".into()
    }
}

struct FakeLock {
    mount: FakeMount,
    name: String,
}

impl Drop for FakeLock {
    fn drop(&mut self) {
        // After a crash the lock of this name, if there is one, is another process's.
        if let Ok(mut state) = self.mount.disk.alive(self.mount.life) {
            state.locked.remove(&self.name);
        }
    }
}

struct FakeFile {
    mount: FakeMount,
    file: u64,
    /// Counts the handles: a file without a name lives as long as one is open.
    _held: Arc<()>,
}

impl DiskFile for FakeFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.mount.disk.alive(self.mount.life)?;
        let live = &state.files[&self.file].live;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        let found = live.get(start..end).ok_or(ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.mount.disk.change(self.mount.life)?.write(self.file, bytes, offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.mount.disk.change(self.mount.life)?.write(self.file, &vec![0; length as usize], 0)
    }

    fn shorten(&self, length: u64) -> io::Result<()> {
        let mut state = self.mount.disk.change(self.mount.life)?;
        let file = state.files.get_mut(&self.file).expect("files outlive their handles");
        let length = length as usize;
        assert!(length < file.live.len(), "a file is shortened to less than it has");
        file.live.truncate(length);
        file.unsynced.push(FileChange::Shorten(length));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let disk = &self.mount.disk;
        let mut state = disk.change(self.mount.life)?;
        if state.hang_syncs {
            state.hanging += 1;
            disk.0.hang.notify_all();
            let life = self.mount.life;
            let hung = |state: &mut State| state.hang_syncs && state.life == life;
            let waited = disk.0.hang.wait_while(state, hung);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.hanging -= 1;
            if state.life != life {
                return Err(io::Error::other("the disk crashed during a sync"));
            }
        }
        if state.lying {
            return Ok(());
        }
        let fails = std::mem::take(&mut state.fail_next_sync);
        let file = state.files.get_mut(&self.file).expect("files outlive their handles");
        let unsynced = std::mem::take(&mut file.unsynced);
        if fails {
            return Err(io::Error::other(format!("the sync failed, {}", FakeDisk::TOLD)));
        }
        for change in unsynced {
            change.apply(&mut file.durable);
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.mount.disk.alive(self.mount.life)?;
        Ok(state.files[&self.file].live.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_can_not_be_made_good() {
        let disk = FakeDisk::new(1);
        let mount = disk.mount();
        let file = mount.create("x").unwrap();
        mount.sync_dir().unwrap();
        file.write_at(b"lost", 0).unwrap();
        disk.fail_next_sync();
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(disk.content("x").unwrap(), b"lost", "still in the page cache");
        disk.crash(Crash::LoseUnsynced);
        assert_eq!(disk.content("x").unwrap(), b"");
    }

    #[test]
    fn a_disk_that_is_replaced_has_what_the_other_had() {
        let disk = FakeDisk::new(1);
        let mount = disk.mount();
        let file = mount.create("x").unwrap();
        mount.sync_dir().unwrap();
        file.write_at(b"old", 0).unwrap();
        file.sync().unwrap();
        let copy = disk.durable_image();
        file.write_at(b"new", 0).unwrap();
        mount.create("y").unwrap();
        assert_eq!(disk.durable_image(), copy, "of what is synced");
        disk.replace(copy.clone());
        assert!(file.sync().is_err(), "the file was on the other disk");
        assert_eq!((disk.image(), disk.durable_image()), (copy.clone(), copy));
        disk.replace(BTreeMap::new());
        assert_eq!(disk.mount().list().unwrap(), [""; 0]);
    }

    #[test]
    fn a_lie_shows_at_a_crash() {
        let disk = FakeDisk::new(1);
        let mount = disk.mount();
        let file = mount.create("x").unwrap();
        mount.sync_dir().unwrap();
        disk.lie_about_syncs();
        file.write_at(b"lost", 0).unwrap();
        file.sync().unwrap();
        disk.crash(Crash::LoseUnsynced);
        assert_eq!(disk.content("x").unwrap(), b"");
    }

    #[test]
    fn a_name_is_durable_after_its_directory_is() {
        let disk = FakeDisk::new(1);
        let mount = disk.mount();
        let file = mount.create("a").unwrap();
        file.write_at(b"1", 0).unwrap();
        file.sync().unwrap();
        mount.sync_dir().unwrap();
        mount.rename("a", "b").unwrap();
        assert_eq!(mount.list().unwrap(), ["b"]);
        disk.crash(Crash::LoseUnsynced);
        assert_eq!(disk.image().into_iter().collect::<Vec<_>>(), [("a".into(), b"1".to_vec())]);
    }

    #[test]
    fn a_killed_process_loses_nothing_until_the_power_goes() {
        let disk = FakeDisk::new(1);
        let file = disk.mount().create("a").unwrap();
        file.write_at(b"1", 0).unwrap();
        disk.crash(Crash::KeepAll);
        assert_eq!(disk.content("a").unwrap(), b"1");
        disk.crash(Crash::LoseUnsynced);
        assert_eq!(disk.content("a"), None);
    }

    #[test]
    fn a_torn_crash_keeps_whole_sectors() {
        let mut kinds = BTreeSet::new();
        for seed in 0..64 {
            let disk = FakeDisk::new(seed);
            let mount = disk.mount();
            let file = mount.create("x").unwrap();
            file.allocate(1536).unwrap();
            file.sync().unwrap();
            mount.sync_dir().unwrap();
            file.write_at(&[1; 1024], 256).unwrap();
            disk.crash(Crash::Torn);
            let content = disk.content("x").unwrap();
            for range in [256..512, 512..1024, 1024..1280] {
                assert!(content[range.clone()].iter().all(|b| *b == content[range.start]));
            }
            kinds.insert((content[256], content[512], content[1024]));
        }
        assert_eq!(kinds.len(), 8, "every combination of three sectors");
    }

    #[test]
    fn a_crash_may_undo_a_shortening() {
        for (how, lengths) in [(Crash::LoseUnsynced, vec![1000]), (Crash::Torn, vec![10, 1000])] {
            let after = |seed| {
                let disk = FakeDisk::new(seed);
                let mount = disk.mount();
                let file = mount.create("x").unwrap();
                file.allocate(1000).unwrap();
                file.sync().unwrap();
                mount.sync_dir().unwrap();
                file.shorten(10).unwrap();
                assert_eq!(file.length().unwrap(), 10);
                disk.crash(how);
                disk.content("x").unwrap().len()
            };
            let found: BTreeSet<usize> = (0..100).map(after).collect();
            assert!(found.into_iter().eq(lengths), "{how:?}");
        }
    }

    #[test]
    fn locks_and_handles_die_with_the_process() {
        let disk = FakeDisk::new(1);
        let mount = disk.mount();
        let lock = mount.lock("LOCK").unwrap().expect("free");
        assert!(mount.lock("LOCK").unwrap().is_none());
        disk.crash(Crash::LoseUnsynced);
        assert!(mount.create("x").is_err());
        let next = disk.mount();
        let _held = next.lock("LOCK").unwrap().expect("free after the crash");
        drop(lock);
        assert!(next.lock("LOCK").unwrap().is_none(), "an old lock freed a new one");
    }
}
