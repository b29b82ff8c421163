//! Snapshots of a shard's groups, kept as erasure-coded chunks of its own store.

use crate::store::Store;
use bytes::Bytes;
use farside_codec::delta::ChunkRef;
use farside_codec::ids::{ChunkId, GroupId};
use farside_io::disk::Disk;
use farside_raft::{SnapshotError, SnapshotStore};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Keeps the newest snapshot of each group.
pub(crate) struct ChunkSnapshots<D: Disk> {
    store: Store<D>,
    kept: RefCell<BTreeMap<GroupId, BTreeSet<ChunkId>>>,
    /// Pieces of snapshots that are not whole yet, and in how many each of them is: one may be made while another one is
    /// received.
    building: RefCell<BTreeMap<GroupId, BTreeMap<ChunkId, u32>>>,
    /// Why the piece tried last could not be kept.
    trouble: RefCell<Option<String>>,
}

impl<D: Disk> ChunkSnapshots<D> {
    pub(crate) fn new(store: Store<D>) -> Self {
        Self { store, kept: RefCell::default(), building: RefCell::default(), trouble: RefCell::default() }
    }

    /// Whether some group's snapshot needs this chunk: GC must leave it alone.
    pub(crate) fn needs(&self, chunk: &ChunkId) -> bool {
        let is_kept = self.kept.borrow().values().any(|pieces| pieces.contains(chunk));
        is_kept || self.building.borrow().values().any(|pieces| pieces.contains_key(chunk))
    }

    /// Chunks that hold snapshots, finished or not.
    pub(crate) fn pieces(&self) -> usize {
        let kept: usize = self.kept.borrow().values().map(BTreeSet::len).sum();
        kept + self.building.borrow().values().map(BTreeMap::len).sum::<usize>()
    }

    /// The pieces of every snapshot that is kept.
    pub(crate) fn chunks(&self) -> Vec<ChunkId> {
        self.kept.borrow().values().flatten().copied().collect()
    }

    /// One snapshot less is to have this piece.
    fn forget(&self, group: GroupId, chunk: &ChunkId) {
        let mut building = self.building.borrow_mut();
        let Some(pieces) = building.get_mut(&group) else { return };
        if let Some(count) = pieces.get_mut(chunk) {
            *count -= 1;
        }
        pieces.retain(|_, count| *count > 0);
    }

    /// Why no snapshot can be kept now.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> SnapshotError {
    SnapshotError(Box::new(error))
}

impl<D: Disk> SnapshotStore for ChunkSnapshots<D> {
    fn put(&self, group: GroupId, piece: Bytes) -> LocalBoxFuture<'_, Result<ChunkRef, SnapshotError>> {
        Box::pin(async move {
            let chunk = ChunkId(*blake3::hash(&piece).as_bytes());
            *self.building.borrow_mut().entry(group).or_default().entry(chunk).or_default() += 1;
            let stored = self.store.put_reserved(chunk, &piece).await;
            *self.trouble.borrow_mut() = stored.as_ref().err().map(ToString::to_string);
            if stored.is_err() {
                self.forget(group, &chunk);
            }
            stored.map_err(failed)?;
            Ok(ChunkRef { chunk, sealed_bytes: piece.len() as u32 })
        })
    }

    fn get<'a>(&'a self, piece: &'a ChunkRef) -> LocalBoxFuture<'a, Result<Bytes, SnapshotError>> {
        Box::pin(async move {
            let read = self.store.get(piece.chunk, 0, 0).await.map_err(failed)?;
            Ok(Bytes::from(read.pieces.concat()))
        })
    }

    fn keep(&self, group: GroupId, pieces: &[ChunkRef]) {
        let pieces = pieces.iter().map(|piece| piece.chunk).collect();
        let before = self.kept.borrow_mut().insert(group, pieces).unwrap_or_default();
        self.building.borrow_mut().remove(&group);
        let gone: Vec<ChunkId> = before.into_iter().filter(|chunk| !self.needs(chunk)).collect();
        self.store.release(&gone);
    }
    fn give_up(&self, group: GroupId, pieces: &[ChunkRef]) {
        pieces.iter().for_each(|piece| self.forget(group, &piece.chunk));
        let chunks = pieces.iter().map(|piece| piece.chunk);
        let gone: Vec<ChunkId> = chunks.filter(|chunk| !self.needs(chunk)).collect();
        self.store.release(&gone);
    }
}
