//! Makes up for fragments that this node lacks and can make up for alone: all of a site of one node, and the pieces of its
//! own snapshots elsewhere. What lies on several nodes is `repairing`'s.

use super::limits::{LOOK_STEP, MEND_AGAIN, MEND_AGAIN_MOST, MEND_LOOK};
use super::repairing::limit;
use super::shard::{Shard, add};
use crate::store::{CollectCursor, DeviceState};
use farside_codec::ids::ChunkId;
use farside_io::disk::Disk;
use std::rc::Rc;
use std::time::Duration;

/// What may change what is owed, or what can be done about it.
#[derive(PartialEq, Eq)]
struct Circumstances {
    working: usize,
    damaged: u64,
    owed: u64,
}

/// Mends for as long as the shard runs.
pub(super) async fn keep_mended<D: Disk>(shard: Rc<Shard<D>>) {
    let (mut seen, mut looked, mut again) = (None, Duration::ZERO, MEND_AGAIN);
    loop {
        tokio::time::sleep(MEND_LOOK).await;
        let status = shard.store.status();
        let working = status.devices.iter().filter(|device| device.state == DeviceState::Ok).count();
        let now = Circumstances { working, damaged: status.counters.damaged_fragments, owed: status.owed_fragments };
        let time = shard.clock.clock().monotonic();
        let changed = seen.as_ref() != Some(&now);
        if now.owed == 0 || (!changed && time.saturating_sub(looked) < again) {
            continue;
        }
        let mended = pass(&shard).await;
        let gain = mended > 0 || changed;
        again = if gain { MEND_AGAIN } else { (again * 2).min(MEND_AGAIN_MOST) };
        (seen, looked) = (Some(now), shard.clock.clock().monotonic());
    }
}

/// Looks at everything once; answers how many fragments there are more.
async fn pass<D: Disk>(shard: &Rc<Shard<D>>) -> usize {
    let mut mended = 0;
    let mut cursor = Some(CollectCursor::default());
    while let Some(at) = cursor {
        let (found, next) = shard.store.mendable(at, LOOK_STEP);
        cursor = next;
        // The least redundant do not come first here: a site of one node has lost the same devices of them all.
        for chunk in found.into_iter().filter(|chunk| shard.is_alone() || shard.snapshots.needs(chunk)) {
            mended += mend(shard, chunk).await;
        }
        tokio::task::yield_now().await;
    }
    mended
}

async fn mend<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> usize {
    let Some(bytes) = shard.store.mending_bytes(&chunk) else { return 0 };
    limit(shard, bytes).await;
    match shard.store.mend(chunk).await {
        Ok(fragments) => {
            add(&shard.counters.repaired_fragments, fragments as u64);
            let data = shard.site.geometry.data().max(1);
            let written = bytes / (data + fragments.max(1)) * fragments;
            add(&shard.counters.repaired_bytes, written as u64);
            shard.repair.count(written);
            fragments
        }
        Err(error) => {
            tracing::info!(%chunk, %error, "a chunk can't be mended now");
            0
        }
    }
}
