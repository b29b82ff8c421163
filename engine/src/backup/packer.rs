//! Fills packs, stores several at once, and writes down where things lie once they are durable.

use super::error::BackupError;
use super::limits::{INDEX_ENTRIES, PACKS_AT_ONCE, PACKS_PER_INDEX};
use super::repository::Repository;
use super::target::TargetError;
use farside_codec::backup::{EntryKind, ObjectReference, PackIndex, PackWriter, SealedPack};
use std::collections::HashSet;
use tokio::task::JoinSet;

/// What was stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Chunks and pieces.
    pub entries: u64,
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Packs that are being filled and stored.
pub(super) struct Packer<'a> {
    repository: &'a Repository,
    writer: Option<PackWriter>,
    /// What is in packs of this backup already.
    added: HashSet<[u8; 32]>,
    under_way: JoinSet<Result<PackIndex, TargetError>>,
    durable: Vec<PackIndex>,
    indexes: Vec<ObjectReference>,
    stored: Stored,
}

impl<'a> Packer<'a> {
    pub(super) fn new(repository: &'a Repository) -> Self {
        Self {
            repository,
            writer: None,
            added: HashSet::new(),
            under_way: JoinSet::new(),
            durable: Vec::new(),
            indexes: Vec::new(),
            stored: Stored::default(),
        }
    }

    /// Adds something, unless it is in this backup's packs. Waits where the target is slower than whatever is read.
    pub(super) async fn add(&mut self, kind: EntryKind, id: [u8; 32], plain: Vec<u8>) -> Result<(), BackupError> {
        if !self.added.insert(id) {
            return Ok(());
        }
        let repository = self.repository;
        let writer = self.writer.get_or_insert_with(|| PackWriter::new(repository.key(), repository.random()));
        writer.append(kind, id, plain);
        self.stored.entries += 1;
        match writer.is_full() {
            true => self.store().await,
            false => Ok(()),
        }
    }

    async fn store(&mut self) -> Result<(), BackupError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        while self.under_way.len() >= PACKS_AT_ONCE {
            self.settle().await?;
        }
        let SealedPack { pack, parts, bytes, entries } = writer.finish();
        (self.stored.packs, self.stored.bytes) = (self.stored.packs + 1, self.stored.bytes + bytes);
        let target = self.repository.target().clone();
        self.under_way.spawn_local(async move {
            target.put_new(&SealedPack::name(&pack), parts).await?;
            Ok(PackIndex { pack, bytes, entries })
        });
        let entries: usize = self.durable.iter().map(|pack| pack.entries.len()).sum();
        if self.durable.len() >= PACKS_PER_INDEX || entries >= INDEX_ENTRIES {
            self.write_index().await?;
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), BackupError> {
        match self.under_way.join_next().await {
            Some(Ok(stored)) => self.durable.push(stored?),
            Some(Err(error)) => return Err(BackupError::State(error.to_string())),
            None => {}
        }
        Ok(())
    }

    async fn write_index(&mut self) -> Result<(), BackupError> {
        if !self.durable.is_empty() {
            self.indexes.push(self.repository.put_index(&self.durable).await?);
            self.durable.clear();
        }
        Ok(())
    }

    /// Stores what is left, and answers with the indexes that name everything.
    pub(super) async fn finish(mut self) -> Result<(Vec<ObjectReference>, Stored), BackupError> {
        self.store().await?;
        while !self.under_way.is_empty() {
            self.settle().await?;
        }
        self.write_index().await?;
        Ok((self.indexes, self.stored))
    }
}
