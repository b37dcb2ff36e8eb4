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

use crate::store::{Command, Response, Values, execute};

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
            Ok((responses, mark))
        })
        .await
    }

    /// Runs `f` in one transaction, on a thread where it may block, and stores the mark it gives.
    async fn transaction<T: Send + 'static>(
        &self,
        durable: bool,
        f: impl FnOnce(&mut OpenTable<'_>) -> Result<(T, Option<ApplyMark>), Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let db = self.db.clone();
        let work = move || {
            let mut write = db.begin_write()?;
            write.set_durability(if durable { Durability::Immediate } else { Durability::None });
            let result = {
                let mut values = OpenTable(write.open_table(VALUES)?);
                let (result, mark) = f(&mut values)?;
                if let Some(mark) = mark {
                    write.open_table(MARK)?.insert((), &mark.to_bytes()[..])?;
                }
                result
            };
            write.commit()?;
            Ok(result)
        };
        tokio::task::spawn_blocking(work).await?
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

    /// Takes over a snapshot and the mark that goes with it, in one transaction.
    pub(crate) async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        let mark = self.mark.take();
        self.transaction(true, move |values| {
            values.0.retain(|_, _| false)?;
            for pair in crate::store::pairs(snapshot) {
                let (key, value) = pair?;
                values.put(key, value)?;
            }
            Ok(((), mark))
        })
        .await
    }
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
}
