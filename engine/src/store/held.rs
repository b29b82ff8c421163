//! What a store has of chunks whose fragments are spread over nodes, asked and walked by whoever repairs them.
//!
//! The store does not know which fragments belong here, so it owes none that it does not know of: it says what it has,
//! and a fragment that was damaged is no longer named.

use super::collect::CollectCursor;
use super::index::{Index, Known, Location};
use super::{Inner, Store, blocks_of, limits};
use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_io::disk::Disk;

/// What is here of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFragments {
    /// How the chunk is cut.
    pub geometry: Geometry,
    /// Bytes of the sealed chunk.
    pub sealed_bytes: u32,
    /// The fragments that are here on devices that work and were not found damaged, in order; there may be none.
    pub fragments: Vec<u8>,
    /// GC epoch in which the chunk was last touched.
    pub gc_epoch: u64,
}

impl<D: Disk> Store<D> {
    /// What is here of each of these chunks: of every way in which it is cut; nothing for one of which nothing is known.
    /// With `touch` those that are known are touched in the current GC epoch.
    pub fn fragments(&self, chunks: &[ChunkId], touch: bool) -> Vec<Vec<HeldFragments>> {
        let mut index = self.0.index.borrow_mut();
        let answers = chunks.iter().map(|chunk| {
            if touch {
                self.0.touch(&mut index, chunk);
            }
            index.stripes(chunk).map(|known| self.0.held_fragments(&index, &known)).collect()
        });
        answers.collect()
    }

    /// The stripes that are known from `cursor` on, at most `limit`, with what is here of them. The second value is where
    /// to go on; `None` at the end. What comes or goes meanwhile may be passed over, the others are not.
    pub fn walk(&self, cursor: CollectCursor, limit: usize) -> (Vec<(ChunkId, HeldFragments)>, Option<CollectCursor>) {
        let index = self.0.index.borrow();
        let (walked, next) = index.walk(cursor.0, limits::COLLECT_SCAN.min(limit.max(1)));
        let held = walked.map(|(chunk, known)| (chunk, self.0.held_fragments(&index, &known)));
        (held.collect(), next.map(CollectCursor))
    }

    /// Forgets a stripe of a chunk that is whole without it. Answers whether it was here; it stays while the chunk is being
    /// written. As with deletions, what was not compacted away is back after a restart.
    pub fn drop_stripe(&self, chunk: ChunkId, geometry: Geometry) -> bool {
        let mut index = self.0.index.borrow_mut();
        let known = index.stripe(&chunk, geometry).filter(|_| !self.0.putting.borrow().contains_key(&chunk));
        known.inspect(|known| self.0.remove_stripe(&mut index, &chunk, known)).is_some()
    }

    /// Forgets fragments of a stripe that others hold in this store's stead, and the stripe with the last of them. Answers
    /// how many; none while the chunk is being written. As with deletions, what was not compacted away is back after a
    /// restart.
    pub fn drop_fragments(&self, chunk: ChunkId, geometry: Geometry, fragments: &[u8]) -> usize {
        let mut index = self.0.index.borrow_mut();
        let Some(known) = index.stripe(&chunk, geometry) else { return 0 };
        if self.0.putting.borrow().contains_key(&chunk) {
            return 0;
        }
        let here: Vec<(usize, Location)> = index.locations(&known).collect();
        let surplus =
            here.iter().filter(|(fragment, _)| fragments.iter().any(|named| usize::from(*named) == *fragment));
        let mut dropped = 0;
        for (fragment, location) in surplus {
            index.set(&known, *fragment, None);
            self.0.zones[usize::from(location.device)].remove_live(location.segment, blocks_of(&known));
            dropped += 1;
        }
        if dropped > 0 && dropped == here.len() {
            index.remove(&chunk, &known);
        }
        dropped
    }
}

impl<D: Disk> Inner<D> {
    /// Notes that a chunk is needed in this GC epoch.
    pub(super) fn touch(&self, index: &mut Index, chunk: &ChunkId) {
        let stripes: Vec<Known> = index.stripes(chunk).collect();
        stripes.iter().for_each(|known| index.touch(known, self.gc_epoch.get()));
    }

    fn held_fragments(&self, index: &Index, known: &Known) -> HeldFragments {
        HeldFragments {
            geometry: known.geometry,
            sealed_bytes: known.sealed_bytes,
            fragments: self.healthy(index, known).map(|(fragment, _)| fragment as u8).collect(),
            gc_epoch: self.touched(known),
        }
    }
}
