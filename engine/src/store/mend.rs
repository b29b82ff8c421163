//! Looking after what is here: reading every fragment again before it is needed, and making up for those that are lost out
//! of the others, where the devices of this node hold enough of a chunk.
//!
//! Nothing is forgotten that was not found damaged twice. A fragment that its device refuses to read is given up only when
//! somebody says so who knows that there are enough others, and after another try.

use super::collect::CollectCursor;
use super::index::{Index, Known, Location};
use super::zone::Priority;
use super::{Inner, Store, StoreError, limits, placement};
use farside_codec::ids::ChunkId;
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;

/// What a look at a chunk's fragments found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Fragments that are good.
    pub good: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Fragments that were counted on and are no good. They are owed from now on.
    pub damaged: u32,
    /// Fragments that their device would not read, and which are still counted on.
    pub refused: Vec<Refused>,
}

/// What mending a chunk costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MendingNeeds {
    /// Bytes read and written.
    pub bytes: usize,
    /// Bytes of one fragment.
    pub fragment_bytes: usize,
}

/// A fragment that its device would not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    fragment: usize,
    location: Location,
}

impl<D: Disk> Store<D> {
    /// Chunks from `cursor` on of which fragments are missing that some device would take, among `limit` that are looked
    /// at; where to go on, `None` at the end. Only for chunks of which all fragments belong on this node.
    pub fn mendable(&self, cursor: CollectCursor, limit: usize) -> (Vec<ChunkId>, Option<CollectCursor>) {
        let index = self.0.index.borrow();
        let (walked, next) = index.walk(cursor.0, limits::COLLECT_SCAN.min(limit.max(1)));
        let found = walked.filter(|(chunk, known)| !self.0.to_mend(&index, chunk, known).is_empty());
        (found.map(|(chunk, _)| chunk).collect(), next.map(CollectCursor))
    }

    /// Chunks of which too few fragments are left to read them, among `limit` that are looked at from `cursor` on.
    pub fn lost(&self, cursor: CollectCursor, limit: usize) -> Vec<ChunkId> {
        let index = self.0.index.borrow();
        let (walked, _) = index.walk(cursor.0, limits::COLLECT_SCAN.min(limit.max(1)));
        let is_lost = |(_, known): &(ChunkId, Known)| self.0.healthy(&index, known).count() < known.geometry.data();
        walked.filter(is_lost).map(|(chunk, _)| chunk).collect()
    }

    /// Chunks from `cursor` on that `wanted` says yes to, among `limit`, and where to go on.
    pub fn walk_chunks(
        &self,
        cursor: CollectCursor,
        limit: usize,
        wanted: impl Fn(&ChunkId) -> bool,
    ) -> (Vec<ChunkId>, Option<CollectCursor>) {
        let index = self.0.index.borrow();
        let (walked, next) = index.walk(cursor.0, limits::COLLECT_SCAN.min(limit.max(1)));
        (walked.map(|(chunk, _)| chunk).filter(wanted).collect(), next.map(CollectCursor))
    }

    /// What mending a chunk costs; `None`: there is nothing to mend that could be.
    pub fn mending(&self, chunk: &ChunkId) -> Option<MendingNeeds> {
        let index = self.0.index.borrow();
        let known = index.get(chunk)?;
        let missing = self.0.to_mend(&index, chunk, &known).len();
        let fragment_bytes = known.layout().fragment_bytes();
        let bytes = (known.geometry.data() + missing) * fragment_bytes;
        (missing > 0).then_some(MendingNeeds { bytes, fragment_bytes })
    }

    /// Makes up for the fragments of a chunk that are missing, out of the others, where devices would take them. Answers
    /// how many there are more now.
    ///
    /// Errors: `NotFound`, `Corrupt` (too little of it is left), `Size` (no memory for it), `Full`, `Unavailable`.
    pub async fn mend(&self, chunk: ChunkId) -> Result<usize, StoreError> {
        let found = {
            let index = self.0.index.borrow();
            index.get(&chunk).map(|known| (known.layout(), self.0.to_mend(&index, &chunk, &known)))
        };
        let (layout, missing) = found.ok_or(StoreError::NotFound(chunk))?;
        if missing.is_empty() {
            return Ok(0);
        }
        // Copied: whoever waits for memory must not hold any.
        let sealed = self.get(chunk, 0, 0).await?.pieces.concat();
        let mut writer = self.begin_stripe(chunk, layout.geometry(), layout.sealed_bytes()).await?;
        writer.append(&sealed)?;
        drop(sealed);
        let stripe = writer.encode()?;
        Ok(self.put_missing(&stripe, &missing).await?.len())
    }

    /// Reads every fragment of a chunk that is counted on here, and checks it.
    ///
    /// Errors: `Stopped`, `Size` (no memory for it). A chunk that is gone has no fragments.
    pub async fn verify(&self, chunk: ChunkId) -> Result<Verified, StoreError> {
        let fragments: Vec<usize> = {
            let index = self.0.index.borrow();
            let Some(known) = index.get(&chunk) else { return Ok(Verified::default()) };
            self.0.healthy(&index, &known).map(|(fragment, _)| fragment).collect()
        };
        let mut found = Verified::default();
        for fragment in fragments {
            let Some(layout) = self.layout(&chunk) else { return Ok(found) };
            let known_damaged = self.0.counters.borrow().damaged_fragments;
            match self.read_fragment(chunk, fragment, 0..layout.fragment_bytes()).await {
                Ok(bytes) => {
                    found.good += 1;
                    found.bytes += bytes.len() as u64;
                }
                Err(StoreError::NotFound(_)) => match self.counted_on(&chunk, fragment) {
                    Some(location) => found.refused.push(Refused { fragment, location }),
                    // Or else it was dropped meanwhile, or its device has failed altogether.
                    None => found.damaged += u32::from(self.0.counters.borrow().damaged_fragments > known_damaged),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Reads a fragment again that its device would not read. Where it still will not, and the fragment has not moved, it
    /// is counted on no longer: answers whether that is so. That enough others are good is the caller's promise.
    pub async fn give_up(&self, chunk: ChunkId, refused: &Refused) -> Result<bool, StoreError> {
        let Some(layout) = self.layout(&chunk) else { return Ok(false) };
        match self.read_fragment(chunk, refused.fragment, 0..layout.fragment_bytes()).await {
            Ok(_) => Ok(false),
            Err(StoreError::NotFound(_)) if self.counted_on(&chunk, refused.fragment) == Some(refused.location) => {
                self.0.fragment_damaged(&chunk, refused.fragment, refused.location);
                Ok(true)
            }
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn layout(&self, chunk: &ChunkId) -> Option<StripeLayout> {
        self.0.index.borrow().get(chunk).map(|known| known.layout())
    }

    /// Where a fragment lies that is counted on.
    fn counted_on(&self, chunk: &ChunkId, fragment: usize) -> Option<Location> {
        let index = self.0.index.borrow();
        let known = index.get(chunk)?;
        self.0.healthy(&index, &known).find(|(healthy, _)| *healthy == fragment).map(|(_, location)| location)
    }
}

impl<D: Disk> Inner<D> {
    /// The fragments of a chunk that are on no device that works and that one with room would take.
    fn to_mend(&self, index: &Index, chunk: &ChunkId, known: &Known) -> Vec<u8> {
        let total = known.geometry.total();
        let mut missing = vec![true; total];
        self.healthy(index, known).for_each(|(fragment, _)| missing[fragment] = false);
        let missing: Vec<usize> = (0..total).filter(|fragment| missing[*fragment]).collect();
        // Of one with too few fragments nothing can be made.
        if missing.is_empty() || total - missing.len() < known.geometry.data() {
            return Vec::new();
        }
        let blocks = (known.layout().slot_bytes() / BLOCK_BYTES) as u32;
        let most = placement::most_per_device(total, self.counted());
        let loads = self.loads(index, known);
        let full: Vec<bool> = self.zones.iter().map(|zone| !zone.has_room(1, blocks, Priority::Client)).collect();
        // A site that has lost a device for good is asked this of every chunk: nothing is drawn for nothing.
        if !loads.iter().zip(&full).any(|(load, full)| *load < most && !full) {
            return Vec::new();
        }
        let planned = self.plan(chunk, total, &missing, total, &full);
        // As `StripeWrite` counts: as many as will be here share the devices.
        let here = total - missing.len() + planned.len();
        let planned: Vec<usize> = planned.into_iter().map(|(fragment, _)| fragment).collect();
        self.plan(chunk, total, &planned, here, &full).into_iter().map(|(fragment, _)| fragment as u8).collect()
    }
}
