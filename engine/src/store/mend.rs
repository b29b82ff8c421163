//! Looking after what is here: reading every fragment again before it is needed, and making up for those that are lost out
//! of the others, where the devices of this node hold enough of a chunk.
//!
//! Nothing is forgotten that was not found damaged twice; a fragment whose device refuses to read it is given up only
//! where enough others were read in the same look, and its device is asked to take it again.

use super::collect::CollectCursor;
use super::index::{Index, Known};
use super::zone::Priority;
use super::{Inner, Store, StoreError, limits, placement};
use farside_codec::ids::ChunkId;
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;

/// What a look at a chunk's fragments found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Fragments that are good.
    pub good: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Fragments that were counted on and are no good. They are owed from now on.
    pub damaged: u32,
    /// Fragments that their device would not read, and which are still counted on.
    pub refused: u32,
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

    /// Bytes that mending a chunk reads and writes; `None`: there is nothing to mend that could be.
    pub fn mending_bytes(&self, chunk: &ChunkId) -> Option<usize> {
        let index = self.0.index.borrow();
        let known = index.get(chunk)?;
        let missing = self.0.to_mend(&index, chunk, &known).len();
        (missing > 0).then(|| (known.geometry.data() + missing) * known.layout().fragment_bytes())
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
        // What was collected meanwhile must not come back.
        if self.sealed_bytes(&chunk).is_none() {
            return Err(StoreError::NotFound(chunk));
        }
        let held = self.put_fragments(&stripe, &missing).await?;
        self.0.counters.borrow_mut().mended_fragments += held.len() as u64;
        Ok(held.len())
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
        let mut refused = Vec::new();
        for fragment in fragments {
            let Some(layout) = self.layout(&chunk) else { return Ok(found) };
            match self.read_fragment(chunk, fragment, 0..layout.fragment_bytes()).await {
                Ok(bytes) => {
                    found.good += 1;
                    found.bytes += bytes.len() as u64;
                }
                Err(StoreError::NotFound(_)) if self.counts_on(&chunk, fragment) => refused.push(fragment),
                Err(StoreError::NotFound(_)) => found.damaged += u32::from(self.layout(&chunk).is_some()),
                Err(error) => return Err(error),
            }
        }
        for fragment in refused {
            match self.give_up(&chunk, fragment, found.good) {
                true => found.damaged += 1,
                false => found.refused += 1,
            }
        }
        Ok(found)
    }

    fn layout(&self, chunk: &ChunkId) -> Option<StripeLayout> {
        self.0.index.borrow().get(chunk).map(|known| known.layout())
    }

    fn counts_on(&self, chunk: &ChunkId, fragment: usize) -> bool {
        let index = self.0.index.borrow();
        index.get(chunk).is_some_and(|known| self.0.healthy(&index, &known).any(|(healthy, _)| healthy == fragment))
    }

    /// Gives up a fragment that its device would not read, if as many others are good as give it back.
    fn give_up(&self, chunk: &ChunkId, fragment: usize, good: u32) -> bool {
        let location = {
            let index = self.0.index.borrow();
            let known = index.get(chunk).filter(|known| good as usize >= known.geometry.data());
            known.and_then(|known| index.location(&known, fragment))
        };
        location.inspect(|location| self.0.fragment_damaged(chunk, fragment, *location)).is_some()
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
        let full: Vec<bool> = self.zones.iter().map(|zone| !zone.has_room(1, blocks, Priority::Client)).collect();
        let most = placement::most_per_device(total, self.zones.len());
        self.plan(chunk, total, &missing, most, &full).into_iter().map(|(fragment, _)| fragment as u8).collect()
    }
}
