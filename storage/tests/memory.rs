//! The memory store keeps the rules every store keeps.

use quorate_storage::conformance::{self, Fixture};
use quorate_storage::{MemoryDisk, MemoryStorage, StorageError};

struct InMemory(MemoryDisk);

impl Fixture for InMemory {
    type Storage = MemoryStorage;

    fn open(&mut self) -> Result<MemoryStorage, StorageError> {
        Ok(self.0.open())
    }

    fn crash(&mut self, storage: MemoryStorage) {
        // Synced when submitted: a crash loses the handle and nothing else.
        drop(storage);
    }
}

#[test]
fn memory_storage_conforms() {
    conformance::run(|| InMemory(MemoryDisk::new()));
}
