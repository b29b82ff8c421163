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
    /// Pieces of snapshots that are not whole yet.
    building: RefCell<BTreeMap<GroupId, BTreeSet<ChunkId>>>,
    /// Why the piece tried last could not be kept.
    trouble: RefCell<Option<String>>,
}

impl<D: Disk> ChunkSnapshots<D> {
    pub(crate) fn new(store: Store<D>) -> Self {
        Self { store, kept: RefCell::default(), building: RefCell::default(), trouble: RefCell::default() }
    }

    /// Whether some group's snapshot needs this chunk: GC must leave it alone.
    pub(crate) fn needs(&self, chunk: &ChunkId) -> bool {
        let among = |pieces: &BTreeMap<GroupId, BTreeSet<ChunkId>>| pieces.values().any(|held| held.contains(chunk));
        among(&self.kept.borrow()) || among(&self.building.borrow())
    }

    /// Chunks that hold snapshots, finished or not.
    pub(crate) fn pieces(&self) -> usize {
        let count = |pieces: &BTreeMap<GroupId, BTreeSet<ChunkId>>| pieces.values().map(BTreeSet::len).sum::<usize>();
        count(&self.kept.borrow()) + count(&self.building.borrow())
    }

    /// The pieces of every snapshot that is kept.
    pub(crate) fn chunks(&self) -> Vec<ChunkId> {
        self.kept.borrow().values().flatten().copied().collect()
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
            self.building.borrow_mut().entry(group).or_default().insert(chunk);
            let stored = self.store.put_reserved(chunk, &piece).await;
            *self.trouble.borrow_mut() = stored.as_ref().err().map(ToString::to_string);
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
}
