//! Which chunks are here and where their fragments lie: at most 64 bytes of memory a fragment, all included.
//!
//! A stripe, which is a chunk cut one way, is one fixed entry with the chunk's full id, found through an open-addressing table of u32 numbers; its locations
//! are a run of one u64 a fragment in a slab shared by all stripes of the same width. Nothing is ever moved to grow,
//! but the table of numbers. The ids are hashes, so their first bytes serve as the table's hash; a client that searches
//! for ids that collide there slows only the shard that it pays for, and 64 bits of BLAKE3 an entry.

use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_codec::stripe::StripeLayout;

/// Bits of an entry's size field that hold the chunk's length; the rest number its geometry.
pub(super) const SEALED_BITS: u32 = 25;
/// Entries in one allocation.
const PAGE_ENTRIES: usize = 512;
/// Locations in one allocation, about.
const PAGE_LOCATIONS: usize = 2048;
/// Smallest table.
const MIN_TABLE: usize = 64;
/// Geometries that one store may hold: the rest of the size field.
const MAX_GEOMETRIES: usize = 1 << (32 - SEALED_BITS);
/// An entry that is free.
const NO_RUN: u32 = u32::MAX;

/// Where a fragment lies. Never all zero: a record does not begin at a segment's first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) device: u8,
    pub(super) segment: u32,
    pub(super) block: u32,
}

/// Segments of a zone must fit the packed form.
pub(super) const MAX_SEGMENTS: u32 = 1 << 28;

impl Location {
    fn pack(self) -> u64 {
        debug_assert!(self.segment < MAX_SEGMENTS && self.block > 0 && self.block < 1 << 28);
        u64::from(self.device) << 56 | u64::from(self.segment) << 28 | u64::from(self.block)
    }

    fn unpack(packed: u64) -> Option<Self> {
        let low = |bits: u64| (bits & ((1 << 28) - 1)) as u32;
        let location = Self { device: (packed >> 56) as u8, segment: low(packed >> 28), block: low(packed) };
        (packed != 0).then_some(location)
    }
}

/// A stripe that the index knows. A chunk that is being cut another way has one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// Number of its entry, until it is removed.
    number: u32,
    pub(super) geometry: Geometry,
    pub(super) sealed_bytes: u32,
    /// GC epoch in which it was last touched; 0: before this start.
    pub(super) touched: u32,
}

impl Known {
    pub(super) fn layout(&self) -> StripeLayout {
        StripeLayout::new(self.geometry, self.sealed_bytes as usize)
    }
}

#[derive(Clone, Copy)]
struct Entry {
    id: ChunkId,
    /// Length in the low bits, number of the geometry in the high ones.
    size: u32,
    touched: u32,
    run: u32,
}

/// Runs of equal length, handed out and taken back by number.
struct Slab {
    width: usize,
    runs_per_page: usize,
    pages: Vec<Box<[u64]>>,
    used: usize,
    free: Vec<u32>,
}

impl Slab {
    fn new(width: usize) -> Self {
        Self { width, runs_per_page: (PAGE_LOCATIONS / width).max(1), pages: Vec::new(), used: 0, free: Vec::new() }
    }

    fn take(&mut self) -> u32 {
        if let Some(run) = self.free.pop() {
            return run;
        }
        if self.used == self.pages.len() * self.runs_per_page {
            self.pages.push(vec![0; self.runs_per_page * self.width].into_boxed_slice());
        }
        self.used += 1;
        self.used as u32 - 1
    }

    fn give(&mut self, run: u32) {
        self.get_mut(run).fill(0);
        self.free.push(run);
    }

    fn get(&self, run: u32) -> &[u64] {
        let (page, at) = (run as usize / self.runs_per_page, run as usize % self.runs_per_page * self.width);
        &self.pages[page][at..at + self.width]
    }

    fn get_mut(&mut self, run: u32) -> &mut [u64] {
        let (page, at) = (run as usize / self.runs_per_page, run as usize % self.runs_per_page * self.width);
        &mut self.pages[page][at..at + self.width]
    }

    fn memory_bytes(&self) -> usize {
        self.pages.len() * self.runs_per_page * self.width * 8 + self.free.capacity() * 4
    }
}

/// Stripes that are cut alike.
struct Alike {
    geometry: Geometry,
    slab: usize,
    stripes: u64,
}

/// The index of one shard's store.
pub(super) struct Index {
    /// Entry numbers plus one; 0 is empty. Its length is a power of two.
    table: Vec<u32>,
    pages: Vec<Vec<Entry>>,
    free: Vec<u32>,
    geometries: Vec<Alike>,
    slabs: Vec<Slab>,
    stripes: usize,
    chunks: usize,
    fragments: u64,
    /// Fragments and their record bytes that there would be if nothing were owed.
    expected_fragments: u64,
    expected_bytes: u64,
    /// The largest chunk that there ever was.
    largest: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            table: vec![0; MIN_TABLE],
            pages: Vec::new(),
            free: Vec::new(),
            geometries: Vec::new(),
            slabs: Vec::new(),
            stripes: 0,
            chunks: 0,
            fragments: 0,
            expected_fragments: 0,
            expected_bytes: 0,
            largest: 0,
        }
    }

    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }
    pub(super) fn fragments(&self) -> u64 {
        self.fragments
    }
    pub(super) fn expected_fragments(&self) -> u64 {
        self.expected_fragments
    }
    pub(super) fn expected_bytes(&self) -> u64 {
        self.expected_bytes
    }

    /// Bytes of the largest chunk that there ever was.
    pub(super) fn largest(&self) -> u32 {
        self.largest
    }

    /// Bytes of memory that the index holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.table.capacity() * 4
            + self.pages.len() * PAGE_ENTRIES * size_of::<Entry>()
            + self.free.capacity() * 4
            + self.slabs.iter().map(Slab::memory_bytes).sum::<usize>()
    }

    /// Stripes that are cut another way than this.
    pub(super) fn cut_otherwise(&self, geometry: Geometry) -> u64 {
        self.geometries.iter().filter(|alike| alike.geometry != geometry).map(|alike| alike.stripes).sum()
    }

    /// The stripes of a chunk.
    pub(super) fn stripes(&self, chunk: &ChunkId) -> impl Iterator<Item = Known> + use<'_> {
        let (chunk, mut slot) = (*chunk, self.home(chunk));
        std::iter::from_fn(move || {
            loop {
                let number = self.table[slot].checked_sub(1)?;
                slot = (slot + 1) & (self.table.len() - 1);
                if self.entry(number).id == chunk {
                    return Some(self.known(number));
                }
            }
        })
    }

    /// Bytes of a chunk that is known.
    pub(super) fn sealed_bytes(&self, chunk: &ChunkId) -> Option<u32> {
        self.stripes(chunk).next().map(|known| known.sealed_bytes)
    }

    /// The stripe of a chunk that is cut this way.
    pub(super) fn stripe(&self, chunk: &ChunkId, geometry: Geometry) -> Option<Known> {
        self.stripes(chunk).find(|known| known.geometry == geometry)
    }

    /// The stripe of which this fragment lies there.
    pub(super) fn stripe_at(&self, chunk: &ChunkId, fragment: usize, location: Location) -> Option<Known> {
        self.stripes(chunk).find(|known| self.location(known, fragment) == Some(location))
    }

    /// The stripe's entry, made if it is new. `None`: the chunk is here with another length, or the store is at its limit of
    /// geometries.
    pub(super) fn insert(&mut self, chunk: ChunkId, geometry: Geometry, sealed_bytes: u32) -> Option<Known> {
        let is_new = match self.sealed_bytes(&chunk) {
            Some(known) if known != sealed_bytes => return None,
            known => known.is_none(),
        };
        if let Some(known) = self.stripe(&chunk, geometry) {
            return Some(known);
        }
        let kind = self.geometry_number(geometry)?;
        // Growing first keeps the slot found below good. Three quarters is where linear probing begins to hurt.
        if (self.stripes + 1) * 4 > self.table.len() * 3 {
            self.grow();
        }
        let run = self.slabs[self.geometries[kind].slab].take();
        let entry = Entry { id: chunk, size: (kind as u32) << SEALED_BITS | sealed_bytes, touched: 0, run };
        let number = match self.free.pop() {
            Some(number) => {
                *self.entry_mut(number) = entry;
                number
            }
            None => self.push(entry),
        };
        let slot = self.vacant(&chunk);
        self.table[slot] = number + 1;
        self.stripes += 1;
        self.geometries[kind].stripes += 1;
        self.chunks += usize::from(is_new);
        self.largest = self.largest.max(sealed_bytes);
        let layout = StripeLayout::new(geometry, sealed_bytes as usize);
        self.expected_fragments += geometry.total() as u64;
        self.expected_bytes += (geometry.total() * layout.slot_bytes()) as u64;
        Some(self.known(number))
    }

    /// Forgets a stripe. Its locations must have been cleared.
    pub(super) fn remove(&mut self, chunk: &ChunkId, known: &Known) {
        let number = known.number;
        let Some(slot) = self.slot_of(chunk, number) else { return };
        debug_assert!(self.locations(known).next().is_none(), "a removed stripe has no locations");
        let slab = self.slab_of(number);
        let kind = self.kind_of(number);
        self.geometries[kind].stripes -= 1;
        let run = self.entry(number).run;
        self.slabs[slab].give(run);
        self.entry_mut(number).run = NO_RUN;
        self.free.push(number);
        self.stripes -= 1;
        self.expected_fragments -= known.geometry.total() as u64;
        self.expected_bytes -= (known.geometry.total() * known.layout().slot_bytes()) as u64;
        self.close_gap(slot);
        let was_last = self.sealed_bytes(chunk).is_none();
        self.chunks -= usize::from(was_last);
    }

    /// Notes that the chunk was asked for or stored in this GC epoch.
    pub(super) fn touch(&mut self, known: &Known, epoch: u32) {
        let entry = self.entry_mut(known.number);
        entry.touched = entry.touched.max(epoch);
    }

    /// Where a fragment lies. What a stripe of this width has not lies nowhere.
    pub(super) fn location(&self, known: &Known, fragment: usize) -> Option<Location> {
        self.run(known).get(fragment).and_then(|packed| Location::unpack(*packed))
    }

    /// Every fragment that is here, with where it lies.
    pub(super) fn locations(&self, known: &Known) -> impl Iterator<Item = (usize, Location)> {
        let run = self.run(known).iter().enumerate();
        run.filter_map(|(fragment, packed)| Location::unpack(*packed).map(|location| (fragment, location)))
    }

    /// Sets or clears a fragment's location and answers the one before.
    pub(super) fn set(&mut self, known: &Known, fragment: usize, location: Option<Location>) -> Option<Location> {
        let (slab, run) = (self.slab_of(known.number), self.entry(known.number).run);
        let packed = location.map_or(0, Location::pack);
        let before = std::mem::replace(&mut self.slabs[slab].get_mut(run)[fragment], packed);
        self.fragments = self.fragments + u64::from(packed != 0) - u64::from(before != 0);
        Location::unpack(before)
    }

    /// Up to `count` entries from number `from` on, and the number to go on with.
    pub(super) fn walk(&self, from: usize, count: usize) -> (impl Iterator<Item = (ChunkId, Known)>, Option<usize>) {
        let all = self.pages.last().map_or(0, |last| (self.pages.len() - 1) * PAGE_ENTRIES + last.len());
        let end = from.saturating_add(count).min(all);
        let used = (from..end).filter(|number| self.entry(*number as u32).run != NO_RUN);
        let entries = used.map(|number| (self.entry(number as u32).id, self.known(number as u32)));
        (entries, (end < all).then_some(end))
    }

    fn geometry_number(&mut self, geometry: Geometry) -> Option<usize> {
        if let Some(number) = self.geometries.iter().position(|alike| alike.geometry == geometry) {
            return Some(number);
        }
        if self.geometries.len() >= MAX_GEOMETRIES {
            return None;
        }
        let width = geometry.total();
        let slab = self.slabs.iter().position(|slab| slab.width == width).unwrap_or_else(|| {
            self.slabs.push(Slab::new(width));
            self.slabs.len() - 1
        });
        self.geometries.push(Alike { geometry, slab, stripes: 0 });
        Some(self.geometries.len() - 1)
    }

    fn entry(&self, number: u32) -> &Entry {
        &self.pages[number as usize / PAGE_ENTRIES][number as usize % PAGE_ENTRIES]
    }
    fn entry_mut(&mut self, number: u32) -> &mut Entry {
        &mut self.pages[number as usize / PAGE_ENTRIES][number as usize % PAGE_ENTRIES]
    }

    fn push(&mut self, entry: Entry) -> u32 {
        if self.pages.last().is_none_or(|page| page.len() == PAGE_ENTRIES) {
            self.pages.push(Vec::with_capacity(PAGE_ENTRIES));
        }
        let number = (self.pages.len() - 1) * PAGE_ENTRIES;
        let page = self.pages.last_mut().expect("a page was just made");
        page.push(entry);
        (number + page.len() - 1) as u32
    }

    fn known(&self, number: u32) -> Known {
        let entry = self.entry(number);
        Known {
            number,
            geometry: self.geometries[self.kind_of(number)].geometry,
            sealed_bytes: entry.size & ((1 << SEALED_BITS) - 1),
            touched: entry.touched,
        }
    }

    fn kind_of(&self, number: u32) -> usize {
        (self.entry(number).size >> SEALED_BITS) as usize
    }

    fn slab_of(&self, number: u32) -> usize {
        self.geometries[self.kind_of(number)].slab
    }

    fn run(&self, known: &Known) -> &[u64] {
        self.slabs[self.slab_of(known.number)].get(self.entry(known.number).run)
    }

    fn home(&self, chunk: &ChunkId) -> usize {
        let mut bytes = [0; 8];
        // A shard's chunks agree in the first bytes modulo the number of shards, so others are used.
        bytes.copy_from_slice(&chunk.0[8..16]);
        u64::from_le_bytes(bytes) as usize & (self.table.len() - 1)
    }

    /// The empty table slot where another stripe of the chunk belongs.
    fn vacant(&self, chunk: &ChunkId) -> usize {
        let mut slot = self.home(chunk);
        while self.table[slot] != 0 {
            slot = (slot + 1) & (self.table.len() - 1);
        }
        slot
    }

    /// The table slot that holds an entry.
    fn slot_of(&self, chunk: &ChunkId, number: u32) -> Option<usize> {
        let mut slot = self.home(chunk);
        while self.table[slot] != 0 {
            if self.table[slot] == number + 1 {
                return Some(slot);
            }
            slot = (slot + 1) & (self.table.len() - 1);
        }
        None
    }

    fn grow(&mut self) {
        let doubled = vec![0; self.table.len() * 2];
        let old = std::mem::replace(&mut self.table, doubled);
        for number in old.into_iter().filter(|number| *number != 0) {
            let id = self.entry(number - 1).id;
            let slot = self.vacant(&id);
            self.table[slot] = number;
        }
    }

    /// Empties a slot and moves up those behind it that would not be found any more (Knuth, 6.4, algorithm R).
    fn close_gap(&mut self, mut gap: usize) {
        let mask = self.table.len() - 1;
        let mut slot = gap;
        loop {
            self.table[gap] = 0;
            loop {
                slot = (slot + 1) & mask;
                if self.table[slot] == 0 {
                    return;
                }
                let home = self.home(&self.entry(self.table[slot] - 1).id);
                // It may move into the gap unless its home lies behind the gap.
                if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(gap) & mask) {
                    break;
                }
            }
            self.table[gap] = self.table[slot];
            gap = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn id(number: u64) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn fill(geometry: Geometry, chunks: u64) -> Index {
        let mut index = Index::new();
        for number in 0..chunks {
            let known = index.insert(id(number), geometry, 1 << 20).expect("one geometry");
            for fragment in 0..geometry.total() {
                let location = Location { device: fragment as u8, segment: number as u32, block: 1 };
                index.set(&known, fragment, Some(location));
            }
        }
        index
    }

    #[test]
    fn a_fragment_takes_at_most_64_bytes() {
        // Just after the table doubled is the worst moment: 49,153 of 65,536 is one over three quarters.
        for (geometry, chunks) in [("1+0", 49_153), ("1+1", 49_153), ("4+2", 49_153), ("64+16", 3_100)] {
            let geometry = Geometry::parse(geometry).expect("a geometry");
            let index = fill(geometry, chunks);
            let per_fragment = index.memory_bytes() as f64 / index.fragments() as f64;
            println!("{geometry}: {per_fragment:.1} bytes a fragment");
            assert!(per_fragment <= 64.0, "{geometry}: {per_fragment:.1} bytes a fragment");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_like_a_map(
            steps in proptest::collection::vec((0u8..3, 0u64..48, 0usize..3, 0usize..6), 1..400),
        ) {
            let geometries = ["4+2", "3+3", "2+1"].map(|text| Geometry::parse(text).expect("a geometry"));
            let (mut index, mut model) = (Index::new(), BTreeMap::new());
            for (step, number, cut, fragment) in steps {
                let (chunk, geometry) = (id(number), geometries[cut]);
                let fragment = fragment % geometry.total();
                match step {
                    0 | 1 => {
                        let known = index.insert(chunk, geometry, 1 + number as u32).expect("few geometries");
                        let place = Location { device: 3, segment: number as u32, block: 7 + fragment as u32 };
                        let before = index.set(&known, fragment, Some(place));
                        prop_assert_eq!(before, model.entry((number, cut)).or_insert([None; 6])[fragment].replace(place));
                        prop_assert!(index.insert(chunk, geometry, 999).is_none(), "a chunk has one length");
                    }
                    _ => {
                        if let Some(known) = index.stripe(&chunk, geometry) {
                            for fragment in 0..geometry.total() {
                                let _ = index.set(&known, fragment, None);
                            }
                            index.remove(&chunk, &known);
                        }
                        model.remove(&(number, cut));
                    }
                }
                let chunks: BTreeSet<u64> = model.keys().map(|(number, _)| *number).collect();
                prop_assert_eq!(index.chunks(), chunks.len());
                let otherwise = model.keys().filter(|(_, cut)| *cut != 1).count();
                prop_assert_eq!(index.cut_otherwise(geometries[1]), otherwise as u64);
            }
            for number in 0..48 {
                let there = model.keys().filter(|(known, _)| *known == number).count();
                prop_assert_eq!(index.stripes(&id(number)).count(), there);
                for (cut, geometry) in geometries.into_iter().enumerate() {
                    let found = index.stripe(&id(number), geometry);
                    prop_assert_eq!(found.is_some(), model.contains_key(&(number, cut)));
                    if let (Some(known), Some(places)) = (found, model.get(&(number, cut))) {
                        let held: Vec<_> =
                            (0..geometry.total()).map(|fragment| index.location(&known, fragment)).collect();
                        prop_assert_eq!(&held[..], &places[..geometry.total()]);
                    }
                }
            }
            let (walked, _) = index.walk(0, usize::MAX);
            prop_assert_eq!(walked.count(), model.len());
        }
    }
}
