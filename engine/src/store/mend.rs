//! Looking after what is here: reading every fragment again before it is needed, and making up for those that are lost out
//! of the others, where the devices of this node hold enough of a chunk. What is made up for is cut as new chunks are: a
//! chunk that is cut another way gets a second stripe, and loses the first once it is whole without it.
//!
//! Nothing is forgotten that was not found damaged twice. A fragment that its device refuses to read is given up only when
//! somebody says so who knows that there are enough others, and after another try.

use super::collect::CollectCursor;
use super::index::{Index, Known, Location};
use super::zone::Priority;
use super::{Inner, Store, StoreError, limits, placement};
use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;
use std::collections::BTreeMap;

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
    geometry: Geometry,
    fragment: usize,
    location: Location,
    good_beside: usize,
}

impl Refused {
    /// How its stripe is cut.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Fragments of its stripe that were found good.
    pub fn good_beside(&self) -> usize {
        self.good_beside
    }
}

impl<D: Disk> Store<D> {
    /// Chunks from `cursor` on of which fragments are missing that some device would take, or of which an older stripe may
    /// go, among `limit` that are looked at; where to go on, `None` at the end. Only for chunks of which all fragments
    /// belong on this node.
    pub fn mendable(&self, cursor: CollectCursor, limit: usize) -> (Vec<ChunkId>, Option<CollectCursor>) {
        let index = self.0.index.borrow();
        let (walked, next) = index.walk(cursor.0, limits::COLLECT_SCAN.min(limit.max(1)));
        let chunks = walked.filter(|(chunk, known)| is_first(&index, chunk, known)).map(|(chunk, _)| chunk);
        let needs =
            |chunk: &ChunkId| !self.0.to_mend(&index, chunk).is_empty() || !self.0.outdated(&index, chunk).is_empty();
        (chunks.filter(needs).collect(), next.map(CollectCursor))
    }

    /// Chunks of which too few fragments are left to read them, among `limit` that are looked at from `cursor` on.
    pub fn lost(&self, cursor: CollectCursor, limit: usize) -> Vec<ChunkId> {
        let index = self.0.index.borrow();
        let (walked, _) = index.walk(cursor.0, limits::COLLECT_SCAN.min(limit.max(1)));
        let chunks = walked.filter(|(chunk, known)| is_first(&index, chunk, known)).map(|(chunk, _)| chunk);
        chunks.filter(|chunk| !self.0.is_readable(&index, chunk)).collect()
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
        let layout = self.0.layout_of(&index, chunk)?;
        let fragment_bytes = layout.fragment_bytes();
        match self.0.to_mend(&index, chunk).len() {
            0 if self.0.outdated(&index, chunk).is_empty() => None,
            0 => Some(MendingNeeds { bytes: 0, fragment_bytes }),
            missing => {
                Some(MendingNeeds { bytes: (layout.geometry().data() + missing) * fragment_bytes, fragment_bytes })
            }
        }
    }

    /// Makes up for the fragments of a chunk that are missing, out of the others, where devices would take them, and lets
    /// go of stripes without which the chunk is as redundant. Answers how many fragments there are more now.
    ///
    /// Errors: `NotFound`, `Corrupt` (too little of it is left), `Size` (no memory for it), `Full`, `Unavailable`.
    pub async fn mend(&self, chunk: ChunkId) -> Result<usize, StoreError> {
        let found = {
            let index = self.0.index.borrow();
            self.0.layout_of(&index, &chunk).map(|layout| (layout, self.0.to_mend(&index, &chunk)))
        };
        let (layout, missing) = found.ok_or(StoreError::NotFound(chunk))?;
        let mut mended = 0;
        if !missing.is_empty() {
            // Copied: whoever waits for memory must not hold any.
            let sealed = self.get(chunk, 0, 0).await?.pieces.concat();
            let mut writer = self.begin_stripe(chunk, layout.geometry(), layout.sealed_bytes()).await?;
            writer.append(&sealed)?;
            drop(sealed);
            let stripe = writer.encode()?;
            mended = self.put_missing(&stripe, &missing).await?.len();
        }
        let outdated = self.0.outdated(&self.0.index.borrow(), &chunk);
        for known in outdated {
            self.drop_stripe(chunk, known.geometry);
        }
        Ok(mended)
    }

    /// Reads every fragment of a chunk that is counted on here, and checks it.
    ///
    /// Errors: `Stopped`, `Size` (no memory for it). A chunk that is gone has no fragments.
    pub async fn verify(&self, chunk: ChunkId) -> Result<Verified, StoreError> {
        let fragments: Vec<(StripeLayout, usize)> = {
            let index = self.0.index.borrow();
            let mut fragments = Vec::new();
            for known in index.stripes(&chunk) {
                let healthy = self.0.healthy(&index, &known);
                fragments.extend(healthy.map(|(fragment, _)| (known.layout(), fragment)));
            }
            fragments
        };
        let mut found = Verified::default();
        let mut good: BTreeMap<Geometry, usize> = BTreeMap::new();
        for (layout, fragment) in fragments {
            let geometry = layout.geometry();
            let known_damaged = self.0.counters.borrow().damaged_fragments;
            match self.read_fragment(chunk, geometry, fragment, 0..layout.fragment_bytes()).await {
                Ok(bytes) => {
                    found.good += 1;
                    *good.entry(geometry).or_default() += 1;
                    found.bytes += bytes.len() as u64;
                }
                Err(StoreError::NotFound(_)) => match self.counted_on(&chunk, geometry, fragment) {
                    Some(location) => found.refused.push(Refused { geometry, fragment, location, good_beside: 0 }),
                    // Or else it was dropped meanwhile, or its device has failed altogether.
                    None => found.damaged += u32::from(self.0.counters.borrow().damaged_fragments > known_damaged),
                },
                Err(error) => return Err(error),
            }
        }
        for refused in &mut found.refused {
            refused.good_beside = good.get(&refused.geometry).copied().unwrap_or(0);
        }
        Ok(found)
    }

    /// Reads a fragment again that its device would not read. Where it still will not, and the fragment has not moved, it
    /// is counted on no longer: answers whether that is so. That enough others are good is the caller's promise.
    pub async fn give_up(&self, chunk: ChunkId, refused: &Refused) -> Result<bool, StoreError> {
        let Refused { geometry, fragment, location, .. } = *refused;
        let known = self.0.index.borrow().stripe(&chunk, geometry);
        let Some(layout) = known.map(|known| known.layout()) else { return Ok(false) };
        match self.read_fragment(chunk, geometry, fragment, 0..layout.fragment_bytes()).await {
            Ok(_) => Ok(false),
            Err(StoreError::NotFound(_)) if self.counted_on(&chunk, geometry, fragment) == Some(location) => {
                self.0.fragment_damaged(&chunk, fragment, location);
                Ok(true)
            }
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where a fragment lies that is counted on.
    fn counted_on(&self, chunk: &ChunkId, geometry: Geometry, fragment: usize) -> Option<Location> {
        let index = self.0.index.borrow();
        let known = index.stripe(chunk, geometry)?;
        self.0.healthy(&index, &known).find(|(healthy, _)| *healthy == fragment).map(|(_, location)| location)
    }
}

/// Whether this is the first of the chunk's stripes: whoever walks over stripes sees each chunk once this way.
pub(super) fn is_first(index: &Index, chunk: &ChunkId, known: &Known) -> bool {
    index.stripes(chunk).next().as_ref() == Some(known)
}

impl<D: Disk> Inner<D> {
    /// How a chunk would be cut that was written now.
    fn layout_of(&self, index: &Index, chunk: &ChunkId) -> Option<StripeLayout> {
        index.sealed_bytes(chunk).map(|bytes| StripeLayout::new(self.geometry.get(), bytes as usize))
    }

    /// Whether enough fragments of any stripe are on devices that work.
    pub(super) fn is_readable(&self, index: &Index, chunk: &ChunkId) -> bool {
        index.stripes(chunk).any(|known| self.healthy(index, &known).count() >= known.geometry.data())
    }

    /// The fragments of a chunk, as it would be cut now, that are on no device that works and that one with room would take.
    fn to_mend(&self, index: &Index, chunk: &ChunkId) -> Vec<u8> {
        let geometry = self.geometry.get();
        let (total, known) = (geometry.total(), index.stripe(chunk, geometry));
        let mut missing = vec![true; total];
        if let Some(known) = &known {
            self.healthy(index, known).for_each(|(fragment, _)| missing[fragment] = false);
        }
        let missing: Vec<usize> = (0..total).filter(|fragment| missing[*fragment]).collect();
        // Of one with too few fragments nothing can be made.
        if missing.is_empty() || !self.is_readable(index, chunk) {
            return Vec::new();
        }
        let Some(layout) = self.layout_of(index, chunk) else { return Vec::new() };
        let blocks = (layout.slot_bytes() / BLOCK_BYTES) as u32;
        let most = placement::most_per_device(total, self.counted());
        let loads = known.map_or_else(|| vec![0; self.zones.len()], |known| self.loads(index, &known));
        let full: Vec<bool> = self.zones.iter().map(|zone| !zone.has_room(1, blocks, Priority::Client)).collect();
        // A site that has lost a device for good is asked this of every chunk: nothing is drawn for nothing.
        if !loads.iter().zip(&full).any(|(load, full)| *load < most && !full) {
            return Vec::new();
        }
        let planned = self.plan(chunk, geometry, &missing, total, &full);
        // As `StripeWrite` counts: as many as will be here share the devices.
        let here = total - missing.len() + planned.len();
        let planned: Vec<usize> = planned.into_iter().map(|(fragment, _)| fragment).collect();
        self.plan(chunk, geometry, &planned, here, &full).into_iter().map(|(fragment, _)| fragment as u8).collect()
    }

    /// Stripes that are cut another way than new ones are, of a chunk that is as redundant without them: the newer stripe is
    /// whole, or no device takes more of it and it survives no fewer losses.
    fn outdated(&self, index: &Index, chunk: &ChunkId) -> Vec<Known> {
        let geometry = self.geometry.get();
        let Some(known) = index.stripe(chunk, geometry) else { return Vec::new() };
        let mut others: Vec<Known> = index.stripes(chunk).filter(|other| other.geometry != geometry).collect();
        if others.is_empty() || self.healthy(index, &known).count() == geometry.total() {
            return others;
        }
        let survived = |known: &Known| {
            let (loads, data) = (self.loads(index, known), known.geometry.data());
            (loads.iter().sum::<usize>() >= data).then(|| placement::losses_survived(loads, data))
        };
        match survived(&known) {
            Some(losses) if self.to_mend(index, chunk).is_empty() => {
                others.retain(|other| survived(other).is_none_or(|others| others <= losses));
                others
            }
            _ => Vec::new(),
        }
    }
}
