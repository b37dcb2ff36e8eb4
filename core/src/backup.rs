//! Backup and restore: a snapshot in a file, and a new cluster from one.
//!
//! A backup is a snapshot in the portable form of `docs/snapshot-format.md`. A new cluster begins with
//! its state, and with members, an identity and a log of its own: nothing of the old cluster can speak
//! with it.

use std::path::PathBuf;
use std::sync::Arc;

use anyerror::AnyError;
use bytes::Bytes;
use quorate_engine::{Membership, NodeId};
use quorate_storage::snapshot::file::{CHUNK_BYTES, Encoder, open_file};
use quorate_storage::{SnapshotInfo, SnapshotMeta, SnapshotReader, SnapshotStore, StorageError};

use crate::env::{Env, blocking};
use crate::error::{SnapshotError, StartError};

/// A backup being read; from [`Raft::backup`](crate::Raft::backup). It pins its snapshot, so that it
/// can be taken to the end however long that takes.
pub struct Backup {
    env: Arc<dyn Env>,
    reader: Arc<dyn SnapshotReader>,
    /// `None` once its footer was given.
    encoder: Option<Encoder>,
    /// Encoded, and not given yet.
    ready: Vec<u8>,
}

impl Backup {
    pub(crate) fn new(env: Arc<dyn Env>, reader: Arc<dyn SnapshotReader>) -> Self {
        let mut ready = Vec::new();
        let encoder = Encoder::begin(&reader.info().meta, &mut ready);
        Self { env, reader, encoder: Some(encoder), ready }
    }

    /// What it is of.
    pub fn info(&self) -> &SnapshotInfo {
        self.reader.info()
    }

    /// The next piece of the file; `None` at its end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`SnapshotError::Failed`] if the snapshot can't be read; what was given until then is no
    /// backup.
    pub async fn next(&mut self) -> Option<Result<Bytes, SnapshotError>> {
        if self.ready.is_empty() {
            let encoder = self.encoder.as_ref()?;
            let (reader, offset) = (self.reader.clone(), encoder.written());
            let read = move || reader.read_at(offset, CHUNK_BYTES);
            let piece = match blocking(&*self.env, read).await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Some(Err(failed(&error))),
                None => return Some(Err(SnapshotError::Stopped)),
            };
            let mut encoder = self.encoder.take()?;
            if piece.is_empty() {
                encoder.finish(&mut self.ready);
            } else {
                encoder.append(&piece, &mut self.ready);
                self.encoder = Some(encoder);
            }
        }
        Some(Ok(std::mem::take(&mut self.ready).into()))
    }
}

fn failed(error: &StorageError) -> SnapshotError {
    SnapshotError::Failed(AnyError::new(error))
}

/// What a new cluster begins with.
#[derive(Clone, Debug)]
pub(crate) struct Restore {
    file: PathBuf,
    members: Vec<(NodeId, String)>,
}

impl Restore {
    pub(crate) fn of<A: Into<String>>(
        file: impl Into<PathBuf>,
        members: impl IntoIterator<Item = (NodeId, A)>,
    ) -> Self {
        let members = members.into_iter().map(|(id, address)| (id, address.into())).collect();
        Self { file: file.into(), members }
    }

    /// The members, if they make a membership.
    pub(crate) fn membership(&self) -> Result<Membership, StartError> {
        Membership::of_voters(self.members.clone())
            .map_err(|error| StartError::Config(format!("the members to restore: {error}")))
    }

    /// Puts the snapshot of the backup into an empty store, as that of the new cluster.
    pub(crate) async fn import(
        self,
        members: Membership,
        env: &dyn Env,
        store: Arc<dyn SnapshotStore>,
    ) -> Result<SnapshotInfo, StartError> {
        let import = move || {
            let backup = open_file(&self.file)?;
            let SnapshotInfo { meta, bytes } = backup.info().clone();
            // The new members are in force where the state ends: the same on each of them.
            let configuration = (meta.last, members);
            let mut writer = store.create(SnapshotMeta { configuration, ..meta })?;
            while writer.written() < bytes {
                let piece = backup.read_at(writer.written(), CHUNK_BYTES)?;
                writer.append(&piece)?;
            }
            writer.commit()
        };
        let imported = blocking(env, import).await;
        let panicked = || StartError::Config("reading the backup panicked".into());
        Ok(imported.ok_or_else(panicked)??)
    }
}
