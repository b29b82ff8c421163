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
}

impl<D: Disk> ChunkSnapshots<D> {
    pub(crate) fn new(store: Store<D>) -> Self {
        Self { store, kept: RefCell::default() }
    }

    /// Whether some group's snapshot needs this chunk: GC must leave it alone.
    pub(crate) fn needs(&self, chunk: &ChunkId) -> bool {
        self.kept.borrow().values().any(|kept| kept.contains(chunk))
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> SnapshotError {
    SnapshotError(Box::new(error))
}

impl<D: Disk> SnapshotStore for ChunkSnapshots<D> {
    fn put(&self, piece: Bytes) -> LocalBoxFuture<'_, Result<ChunkRef, SnapshotError>> {
        Box::pin(async move {
            let chunk = ChunkId(*blake3::hash(&piece).as_bytes());
            self.store.put_reserved(chunk, &piece).await.map_err(failed)?;
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
        let gone: Vec<ChunkId> = before.into_iter().filter(|chunk| !self.needs(chunk)).collect();
        self.store.release(&gone);
    }
}
