//! The cases about snapshots.

use super::*;
use crate::snapshot::{SnapshotInfo, SnapshotMeta, SnapshotReader, SnapshotStore, SnapshotWriter};

fn meta(term: u64, index: Index, nonce: u64) -> SnapshotMeta {
    let last = LogId::new(term, index);
    let configuration = (LogId::new(term, index / 2), membership(1 + index % 5));
    SnapshotMeta { last, configuration, nonce }
}

/// Bytes that differ from place to place and from seed to seed.
fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut content = vec![0; bytes];
    for piece in content.chunks_mut(8) {
        piece.copy_from_slice(&random.next().to_le_bytes()[..piece.len()]);
    }
    content
}

impl<F: Fixture> Session<F> {
    fn ok<T>(&self, what: &str, result: Result<T, StorageError>) -> T {
        match result {
            Ok(value) => value,
            Err(e) => panic!("{}: {what}: {e}", self.name),
        }
    }

    fn create(&self, store: &dyn SnapshotStore, meta: SnapshotMeta) -> Box<dyn SnapshotWriter> {
        self.ok("creating a snapshot", store.create(meta))
    }

    /// Writes a snapshot in calls of `piece` bytes, and commits it.
    fn put(
        &self,
        store: &dyn SnapshotStore,
        meta: SnapshotMeta,
        content: &[u8],
        piece: usize,
    ) -> SnapshotInfo {
        let mut writer = self.create(store, meta.clone());
        for piece in content.chunks(piece) {
            self.ok("writing a snapshot", writer.append(piece));
        }
        assert_eq!(writer.written(), content.len() as u64, "{}", self.name);
        let info = self.ok("committing a snapshot", writer.commit());
        let expected = SnapshotInfo { meta, bytes: content.len() as u64 };
        assert_eq!(info, expected, "{}", self.name);
        info
    }

    /// All of it, in reads of `piece` bytes.
    fn content(&self, reader: &dyn SnapshotReader, piece: usize) -> Vec<u8> {
        let mut found = Vec::new();
        loop {
            let bytes = self.ok("reading", reader.read_at(found.len() as u64, piece));
            if bytes.is_empty() {
                break;
            }
            assert!(bytes.len() <= piece.max(1), "{}: more than was asked for", self.name);
            found.extend_from_slice(&bytes);
        }
        assert_eq!(found.len() as u64, reader.info().bytes, "{}: length", self.name);
        found
    }

    /// Compares everything in `store` with `expected`, which is in the order of a list.
    fn expect_snapshots(&self, store: &dyn SnapshotStore, expected: &[(SnapshotInfo, Vec<u8>)]) {
        let listed = self.ok("listing the snapshots", store.list());
        let infos: Vec<SnapshotInfo> = expected.iter().map(|(info, _)| info.clone()).collect();
        assert_eq!(listed, infos, "{}: the list", self.name);
        for (info, content) in expected {
            let reader = self.pin(store, info.meta.last);
            assert_eq!(reader.info(), info, "{}", self.name);
            assert!(self.content(&*reader, 100_000) == *content, "{}: other bytes", self.name);
        }
    }

    fn pin(&self, store: &dyn SnapshotStore, last: LogId) -> Arc<dyn SnapshotReader> {
        let Some(reader) = self.ok("opening a snapshot", store.open(last)) else {
            panic!("{}: no snapshot {last}", self.name);
        };
        reader
    }

    fn expect_none(&self, store: &dyn SnapshotStore) {
        self.expect_snapshots(store, &[]);
    }
}

pub(super) fn read_back<F: Fixture>(s: &mut Session<F>) {
    let storage = s.start();
    let store = storage.snapshots();
    s.expect_none(&*store);
    assert!(s.ok("opening none", store.open(LogId::new(1, 1))).is_none(), "{}", s.name);
    let chunk = 256 << 10;
    let lengths = [0, 1, 1000, chunk - 1, chunk, chunk + 1, 3 * chunk + 77];
    for (index, bytes) in (1..).zip(lengths) {
        let content = content(index, bytes);
        let meta = meta(2, index, index * 7);
        s.put(&*store, meta.clone(), &content, [1 << 20, 77_777, chunk][index as usize % 3]);
        let reader = s.pin(&*store, meta.last);
        for piece in [1 << 16, chunk, usize::MAX] {
            assert!(s.content(&*reader, piece) == content, "{}: {bytes} bytes", s.name);
        }
        for offset in [bytes as u64, bytes as u64 + 1, u64::MAX] {
            let end = s.ok("reading at the end", reader.read_at(offset, 10));
            assert!(end.is_empty(), "{}: {offset} of {bytes}", s.name);
        }
        if bytes > 0 {
            let one = s.ok("reading", reader.read_at(bytes as u64 / 2, 0));
            assert_eq!(one[..], content[bytes / 2..=bytes / 2], "{}: 0 counts as 1", s.name);
        }
    }
    s.crash(storage);
}

pub(super) fn listed<F: Fixture>(s: &mut Session<F>) {
    let storage = s.start();
    let store = storage.snapshots();
    let mut all = Vec::new();
    for (term, index) in [(5, 900), (2, 1000), (5, 20), (3, 20), (9, 100_000), (0, 0)] {
        let content = content(index, 10);
        all.push((s.put(&*store, meta(term, index, term), &content, 10), content));
    }
    all.sort_by_key(|(info, _)| (info.meta.last.index, info.meta.last.term));
    s.expect_snapshots(&*store, &all);
    let storage = s.crash(storage);
    s.expect_snapshots(&*storage.snapshots(), &all);
    s.crash(storage);
}

pub(super) fn abandoned<F: Fixture>(s: &mut Session<F>) {
    let storage = s.start();
    let store = storage.snapshots();
    for bytes in [0, 10, 1 << 20] {
        let mut writer = s.create(&*store, meta(1, 5, 1));
        s.ok("writing a snapshot", writer.append(&content(1, bytes)));
        s.expect_none(&*store);
        assert!(s.ok("opening", store.open(LogId::new(1, 5))).is_none(), "{}", s.name);
        drop(writer);
        s.expect_none(&*store);
    }
    let storage = s.crash(storage);
    s.expect_none(&*storage.snapshots());
    s.crash(storage);
}

pub(super) fn cut_off<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    let last = LogId::new(1, 5);
    for bytes in [0, 10, 1 << 20] {
        let mut writer = s.create(&*storage.snapshots(), meta(1, 5, 1));
        s.ok("writing a snapshot", writer.append(&content(1, bytes)));
        s.fixture.crash(storage);
        drop(writer);
        storage = s.reopen();
        s.expect(&mut storage);
        s.expect_none(&*storage.snapshots());
    }
    let content = content(2, 1 << 20);
    let info = s.put(&*storage.snapshots(), meta(1, 5, 2), &content, 1 << 20);
    // Another one with the same end, cut off: the first one stays.
    let mut writer = s.create(&*storage.snapshots(), meta(1, 5, 3));
    s.ok("writing a snapshot", writer.append(b"something else"));
    s.fixture.crash(storage);
    drop(writer);
    let mut storage = s.reopen();
    s.expect(&mut storage);
    assert_eq!(info.meta.last, last);
    s.expect_snapshots(&*storage.snapshots(), &[(info, content)]);
    s.crash(storage);
}

pub(super) fn committed_survives<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    let mut all = Vec::new();
    for index in 1..=6 {
        let content = content(index, 100_000 * index as usize);
        let info = s.put(&*storage.snapshots(), meta(1, index * 10, index), &content, 99_999);
        all.push((info, content));
        storage = s.crash(storage);
        s.expect_snapshots(&*storage.snapshots(), &all);
    }
    s.crash(storage);
}

pub(super) fn replaced<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    let other = content(9, 50);
    let other = (s.put(&*storage.snapshots(), meta(1, 90, 9), &other, 50), other);
    for nonce in 0..5 {
        let content = content(nonce, 300_000 >> (nonce * 3));
        let info = s.put(&*storage.snapshots(), meta(1, 7, nonce), &content, 1 << 20);
        let all = [(info, content), other.clone()];
        s.expect_snapshots(&*storage.snapshots(), &all);
        storage = s.crash(storage);
        s.expect_snapshots(&*storage.snapshots(), &all);
    }
    s.crash(storage);
}

pub(super) fn deleted<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    let content = content(1, 1000);
    let [a, b] = [10, 20].map(|index| {
        (s.put(&*storage.snapshots(), meta(1, index, index), &content, 1000), content.clone())
    });
    let delete = |s: &Session<F>, storage: &F::Storage, last| {
        s.ok("deleting a snapshot", storage.snapshots().delete(last));
    };
    delete(s, &storage, LogId::new(1, 11));
    delete(s, &storage, LogId::new(2, 10));
    s.expect_snapshots(&*storage.snapshots(), &[a.clone(), b.clone()]);
    delete(s, &storage, a.0.meta.last);
    delete(s, &storage, a.0.meta.last);
    s.expect_snapshots(&*storage.snapshots(), std::slice::from_ref(&b));
    storage = s.crash(storage);
    s.expect_snapshots(&*storage.snapshots(), std::slice::from_ref(&b));
    delete(s, &storage, b.0.meta.last);
    s.expect_none(&*storage.snapshots());
    storage = s.crash(storage);
    s.expect_none(&*storage.snapshots());
    s.crash(storage);
}

pub(super) fn pinned<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    let store = storage.snapshots();
    let old = content(1, 1 << 20);
    s.put(&*store, meta(1, 10, 1), &old, 1 << 20);
    let reader = s.pin(&*store, LogId::new(1, 10));
    let beginning = s.ok("reading", reader.read_at(0, 1000));
    // Replaced, deleted, and other things written where it was.
    let new = content(2, 1 << 20);
    s.put(&*store, meta(1, 10, 2), &new, 1 << 20);
    let replacing = s.pin(&*store, LogId::new(1, 10));
    assert_eq!(replacing.info().meta.nonce, 2, "{}", s.name);
    s.ok("deleting a snapshot", store.delete(LogId::new(1, 10)));
    for index in 11..15 {
        s.put(&*store, meta(1, index, index), &content(index, 1 << 20), 1 << 20);
    }
    s.write(&mut storage, vec![append(1, 1, 10)]);
    assert_eq!(reader.info().meta, meta(1, 10, 1), "{}", s.name);
    assert!(s.content(&*reader, 1 << 18) == old, "{}: deleted under its reader", s.name);
    assert!(old.starts_with(&beginning), "{}", s.name);
    assert!(s.content(&*replacing, 1 << 18) == new, "{}: deleted under its reader", s.name);
    drop((reader, replacing));
    assert!(s.ok("opening", store.open(LogId::new(1, 10))).is_none(), "{}", s.name);
    s.crash(storage);
}

/// The order a node keeps: the snapshot, then the compaction; the snapshot, then the reset.
pub(super) fn beside_the_log<F: Fixture>(s: &mut Session<F>) {
    let mut storage = s.start();
    s.write(&mut storage, vec![configuration(0, 1, 3), append(2, 2, 50)]);
    let built = content(1, 400_000);
    let mut writer = s.create(&*storage.snapshots(), meta(2, 40, 1));
    for (i, piece) in (0..).zip(built.chunks(40_000)) {
        s.ok("writing a snapshot", writer.append(piece));
        s.write(&mut storage, vec![append(2, 52 + i, 1)]);
    }
    let info = s.ok("committing a snapshot", writer.commit());
    s.write(&mut storage, vec![LogOp::Compact { through: info.meta.last }]);
    let mut all = vec![(info, built)];
    storage = s.crash(storage);
    s.expect_snapshots(&*storage.snapshots(), &all);

    let received = content(2, 1000);
    let info = s.put(&*storage.snapshots(), meta(5, 700, 2), &received, 10);
    let (to, configuration) = (info.meta.last, info.meta.configuration.clone());
    s.write(&mut storage, vec![LogOp::Reset { to, configuration }]);
    all.push((info, received));
    storage = s.crash(storage);
    s.expect_snapshots(&*storage.snapshots(), &all);
    s.ok("deleting a snapshot", storage.snapshots().delete(all.remove(0).0.meta.last));
    s.write(&mut storage, vec![append(6, 701, 3)]);
    storage = s.crash(storage);
    s.expect_snapshots(&*storage.snapshots(), &all);
    s.crash(storage);
}

/// One is built while another arrives, with the same end or not.
pub(super) fn two_at_a_time<F: Fixture>(s: &mut Session<F>) {
    let storage = s.start();
    let store = storage.snapshots();
    let contents = [1, 2, 3].map(|seed| content(seed, 300_000));
    let metas = [meta(1, 10, 1), meta(1, 10, 2), meta(1, 11, 3)];
    let mut writers = metas.clone().map(|meta| s.create(&*store, meta));
    for at in (0..300_000).step_by(1000) {
        for (writer, content) in writers.iter_mut().zip(&contents) {
            s.ok("writing a snapshot", writer.append(&content[at..at + 1000]));
        }
    }
    let infos = writers.map(|writer| s.ok("committing a snapshot", writer.commit()));
    let [_, same, other] = infos;
    let [_, second, third] = contents;
    let all = [(same, second), (other, third)];
    s.expect_snapshots(&*store, &all);
    let storage = s.crash(storage);
    s.expect_snapshots(&*storage.snapshots(), &all);
    s.crash(storage);
}
