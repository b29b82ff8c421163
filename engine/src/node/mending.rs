//! Makes up for fragments that this node lacks and can make up for alone: all of a site of one node, and the pieces of its
//! own snapshots elsewhere. What is cut another way than new chunks are is cut again by the way. What lies on several nodes is
//! `repairing`'s.

use super::collecting::unreferenced;
use super::limits::{MEND_AGAIN, MEND_AGAIN_MOST, MEND_LOOK, MEND_STEP};
use super::repairing::limit;
use super::shard::{Shard, add};
use crate::store::{CollectCursor, DeviceState, StoreError};
use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_io::disk::Disk;
use std::rc::Rc;
use std::time::Duration;

/// What makes it worth looking at once. What is owed alone does not: each put without a device owes a fragment.
#[derive(PartialEq, Eq)]
struct Circumstances {
    working: usize,
    damaged: u64,
    writable: bool,
    geometry: Geometry,
}

/// Mends for as long as the shard runs.
pub(super) async fn keep_mended<D: Disk>(shard: Rc<Shard<D>>) {
    let (mut seen, mut looked, mut again) = (None, Duration::ZERO, MEND_AGAIN);
    loop {
        tokio::time::sleep(MEND_LOOK).await;
        let status = shard.store.status();
        let working = status.devices.iter().filter(|device| device.state == DeviceState::Ok).count();
        let (damaged, writable) = (status.counters.damaged_fragments, status.writable);
        let now = Circumstances { working, damaged, writable, geometry: shard.store.geometry() };
        let changed = seen.as_ref() != Some(&now);
        let waited = shard.clock.clock().monotonic().saturating_sub(looked) >= again;
        // Of several nodes each knows for certain only what it needs for itself, which is little.
        let owes = !shard.is_alone() || status.owed_fragments > 0 || status.cut_otherwise > 0;
        if !owes || (!changed && !waited) {
            continue;
        }
        let mended = match shard.is_alone() {
            true => pass(&shard).await,
            false => mend_all(&shard, shard.snapshots.chunks()).await,
        };
        again = if changed || mended > 0 { MEND_AGAIN } else { (again * 2).min(MEND_AGAIN_MOST) };
        (seen, looked) = (Some(now), shard.clock.clock().monotonic());
    }
}

/// Looks at everything once; answers how many fragments there are more.
async fn pass<D: Disk>(shard: &Rc<Shard<D>>) -> usize {
    let mut mended = 0;
    let mut cursor = Some(CollectCursor::default());
    // Once there are other nodes, they have their say.
    while let Some(at) = cursor.filter(|_| shard.is_alone()) {
        shard.store.lost(at, MEND_STEP).into_iter().for_each(|chunk| shard.refetches.want(chunk));
        let (mut found, next) = shard.store.mendable(at, MEND_STEP);
        cursor = next;
        let mut needed: Vec<ChunkId> = found.extract_if(.., |chunk| shard.snapshots.needs(chunk)).collect();
        // What was collected is back after a start until it is collected again: it has to go, not to be mended.
        match unreferenced(shard, found.clone(), 0).await {
            Ok(garbage) => needed.extend(found.into_iter().filter(|chunk| !garbage.contains(chunk))),
            Err(refusal) => tracing::info!(%refusal, "it is not known yet what has to be mended"),
        }
        // The least redundant do not come first here: a site of one node has lost the same devices of them all.
        mended += mend_all(shard, needed).await;
        tokio::task::yield_now().await;
    }
    mended
}

async fn mend_all<D: Disk>(shard: &Rc<Shard<D>>, chunks: Vec<ChunkId>) -> usize {
    let mut mended = 0;
    for chunk in chunks {
        mended += mend(shard, chunk).await;
    }
    mended
}

/// Mends one chunk, if there is anything to mend; answers how many fragments of it there are more.
pub(super) async fn mend<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> usize {
    let Some(needs) = shard.store.mending(&chunk) else { return 0 };
    limit(shard, needs.bytes).await;
    match shard.store.mend(chunk).await {
        Ok(fragments) => {
            add(&shard.counters.repaired_fragments, fragments as u64);
            add(&shard.counters.repaired_bytes, (fragments * needs.fragment_bytes) as u64);
            shard.repair.count(fragments * needs.fragment_bytes);
            fragments
        }
        Err(error) => {
            if let StoreError::Corrupt(_) | StoreError::NotFound(_) = error {
                // Too little of it is left to make up for anything.
                shard.refetches.want(chunk);
            }
            tracing::info!(%chunk, %error, "a chunk can't be mended now");
            0
        }
    }
}
