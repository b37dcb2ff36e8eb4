//! Keys and values on a disk of their own, in redb: for more data than fits into memory.
//!
//! The node's mark is stored in the same transaction as the data, so a restart applies only what is
//! behind it, and the log is compacted without any snapshot. A view for a snapshot is a read
//! transaction: nothing is copied.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate::{ApplyMark, Committed, Failure, Snapshot};
use redb::{Database, Durability, ReadableTable as _, TableDefinition};

use crate::store::{Command, Response, Store, Values, execute};

const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
const MARK: TableDefinition<'_, (), &[u8]> = TableDefinition::new("mark");

/// Memory for pages of the database, at most.
const CACHE_BYTES: usize = 64 << 20;

/// Bytes of commands after which a transaction is made durable by the way: what is not durable yet
/// keeps room in the file.
const SYNC_BYTES: usize = 32 << 20;

/// The database of one node.
#[derive(Debug)]
pub struct Table {
    db: Arc<Database>,
    /// What the next transaction has to keep.
    mark: Option<ApplyMark>,
    /// Written since the last durable transaction.
    unsynced_bytes: usize,
}

impl Table {
    /// Opens or creates the database in the file `path`.
    ///
    /// # Errors
    /// What redb says: a damaged file, one that is in use, no room.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let db = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let begin = db.begin_write()?;
        begin.open_table(VALUES)?;
        begin.open_table(MARK)?;
        begin.commit()?;
        Ok(Self { db: Arc::new(db), mark: None, unsynced_bytes: 0 })
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// A failed read.
    pub fn get(&self, key: &str) -> Result<Option<Bytes>, Failure> {
        let table = self.db.begin_read()?.open_table(VALUES)?;
        Ok(table.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
    }

    pub(crate) fn keep(&mut self, mark: ApplyMark) {
        self.mark = Some(mark);
    }

    /// Applies commands and keeps the mark, together.
    pub(crate) async fn apply(
        &mut self,
        entries: Vec<Committed<Command>>,
    ) -> Result<Vec<Response>, Failure> {
        let bytes: usize = entries.iter().map(|entry| entry.command.bytes()).sum();
        self.unsynced_bytes += bytes;
        let durable = self.unsynced_bytes >= SYNC_BYTES;
        if durable {
            self.unsynced_bytes = 0;
        }
        let mark = self.mark.take();
        self.transaction(durable, move |values| {
            let apply = |entry: Committed<Command>| execute(values, entry.id.index, entry.command);
            let responses = entries.into_iter().map(apply).collect::<Result<Vec<_>, _>>()?;
            let mark = mark.map(|mark| mark.to_bytes::<Store>(&responses));
            Ok((responses, mark))
        })
        .await
    }

    /// Runs `f` in one transaction, on a thread where it may block, and stores the mark it gives.
    async fn transaction<T: Send + 'static>(
        &self,
        durable: bool,
        f: impl FnOnce(&mut OpenTable<'_>) -> Result<(T, Option<Bytes>), Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let db = self.db.clone();
        tokio::task::spawn_blocking(move || transact(&db, durable, f)).await?
    }

    /// Makes everything applied durable, and tells up to where that is.
    pub(crate) async fn durable(&mut self) -> Result<ApplyMark, Failure> {
        self.unsynced_bytes = 0;
        self.transaction(true, |_| Ok(((), None))).await?;
        let table = self.db.begin_read()?.open_table(MARK)?;
        match table.get(())? {
            Some(mark) => Ok(ApplyMark::from_bytes(mark.value())?),
            None => Ok(ApplyMark::default()),
        }
    }

    /// What the database holds now, pair by pair.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Failure> {
        let table = self.db.begin_read()?.open_table(VALUES)?;
        let pairs = table.range::<&str>(..)?.map(|pair| {
            let (key, value) = pair?;
            // As a pair of the memory store is written.
            let pair = (key.value(), Bytes::copy_from_slice(value.value()));
            Ok(Bytes::from(postcard::to_stdvec(&pair)?))
        });
        Ok(Snapshot::new(pairs))
    }

    /// Takes over a snapshot and the mark that goes with it, in transactions of bounded size: one for
    /// all would hold twice the room, and its one sync would hold up every other on the disk.
    ///
    /// The first removes the mark, the last stores the new one. A node that ends in between finds
    /// none when it starts again, and restores the snapshot once more.
    pub(crate) async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        let db = self.db.clone();
        let mut mark = self.mark.take().map(|mark| mark.to_bytes::<Store>(&[]));
        let work = move || {
            let clear = db.begin_write()?;
            clear.delete_table(VALUES)?;
            clear.delete_table(MARK)?;
            clear.open_table(VALUES)?;
            clear.open_table(MARK)?;
            clear.commit()?;
            let mut pairs = crate::store::pairs(snapshot);
            let mut more = true;
            while more {
                more = transact(&db, true, |values| {
                    let mut bytes = 0;
                    while bytes < SYNC_BYTES {
                        let Some(pair) = pairs.next() else { return Ok((false, mark.take())) };
                        let (key, value) = pair?;
                        bytes += key.len() + value.len();
                        values.put(key, value)?;
                    }
                    Ok((true, None))
                })?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(work).await?
    }
}

/// Runs `f` in one transaction and stores the mark it gives.
fn transact<T>(
    db: &Database,
    durable: bool,
    f: impl FnOnce(&mut OpenTable<'_>) -> Result<(T, Option<Bytes>), Failure>,
) -> Result<T, Failure> {
    let mut write = db.begin_write()?;
    write.set_durability(if durable { Durability::Immediate } else { Durability::None });
    let result = {
        let mut values = OpenTable(write.open_table(VALUES)?);
        let (result, mark) = f(&mut values)?;
        if let Some(mark) = mark {
            write.open_table(MARK)?.insert((), &mark[..])?;
        }
        result
    };
    write.commit()?;
    Ok(result)
}

/// The values in a transaction that is being made.
struct OpenTable<'t>(redb::Table<'t, &'static str, &'static [u8]>);

impl Values for OpenTable<'_> {
    fn value(&self, key: &str) -> Result<Option<Bytes>, Failure> {
        Ok(self.0.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn put(&mut self, key: String, value: Bytes) -> Result<(), Failure> {
        self.0.insert(key.as_str(), &value[..])?;
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<bool, Failure> {
        Ok(self.0.remove(key)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::{LogId, Membership};

    fn mark(index: u64) -> ApplyMark {
        let members = Membership::of_voters([(1, "a")]).unwrap();
        ApplyMark::new(LogId::new(1, index), (LogId::new(0, 1), members))
    }

    fn put(index: u64, value: &'static str) -> Committed<Command> {
        let command = Command::Put { key: "k".into(), value: Bytes::from_static(value.as_bytes()) };
        Committed { id: LogId::new(1, index), command }
    }

    #[tokio::test]
    async fn data_and_mark_are_found_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.redb");
        let mut table = Table::open(&path).unwrap();
        assert_eq!(table.durable().await.unwrap(), ApplyMark::default());
        table.keep(mark(2));
        table.apply(vec![put(2, "one")]).await.unwrap();
        assert_eq!(table.durable().await.unwrap(), mark(2));
        let view = table.snapshot().unwrap();
        table.keep(mark(3));
        table.apply(vec![put(3, "two")]).await.unwrap();
        assert_eq!(table.durable().await.unwrap(), mark(3));
        let view = view.into_bytes().unwrap();
        drop(table);
        let mut table = Table::open(&path).unwrap();
        assert_eq!(table.get("k").unwrap().unwrap(), "two");
        table.keep(mark(9));
        table.restore(Snapshot::from_bytes(view)).await.unwrap();
        assert_eq!(table.get("k").unwrap().unwrap(), "one", "the view is of its moment");
        assert_eq!(table.durable().await.unwrap(), mark(9));
    }

    /// The content of a snapshot of `count` pairs, in as many pieces.
    fn pieces(count: usize) -> impl Iterator<Item = Result<Bytes, Failure>> {
        (0..count).map(|n| {
            let pair = (format!("{n:04}"), Bytes::from(vec![n as u8; 1 << 20]));
            Ok(postcard::to_stdvec(&pair)?.into())
        })
    }

    /// A restore takes several transactions. Ended between two of them, it has taken nothing over:
    /// the next start finds no mark, so the node restores it again.
    #[tokio::test]
    async fn a_restore_that_breaks_off_leaves_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.redb");
        let mut table = Table::open(&path).unwrap();
        table.keep(mark(2));
        table.apply(vec![put(2, "one")]).await.unwrap();
        assert_eq!(table.durable().await.unwrap(), mark(2));

        let count = (SYNC_BYTES >> 20) + 8;
        let broken = pieces(count).chain([Err(Failure::msg("torn"))]);
        table.keep(mark(9));
        assert!(table.restore(Snapshot::new(broken)).await.is_err());
        drop(table);
        let mut table = Table::open(&path).unwrap();
        assert_eq!(table.durable().await.unwrap(), ApplyMark::default());
        assert!(table.get("0000").unwrap().is_some(), "a transaction of it was made");

        table.keep(mark(9));
        table.restore(Snapshot::new(pieces(count).skip(1))).await.unwrap();
        assert_eq!(table.durable().await.unwrap(), mark(9));
        assert_eq!(table.get("k").unwrap(), None);
        assert_eq!(table.get("0000").unwrap(), None, "the first try is gone");
        let last = format!("{:04}", count - 1);
        assert_eq!(table.get(&last).unwrap().unwrap().len(), 1 << 20);
    }
}
