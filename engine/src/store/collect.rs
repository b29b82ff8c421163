//! GC's hands: which chunks are candidates, forgetting them, and getting their space back.
//!
//! The store does not know who refers to a chunk. It names chunks that were last touched long enough ago; its caller
//! asks every group, and what nobody refers to is forgotten here, unless it was touched meanwhile. Space comes back
//! when compaction has moved what still counts out of a segment. Both run in bounded steps that the shard's driver
//! calls for.

use super::index::{Index, Known, Location};
use super::recovery::{self, Examined, read_blocks};
use super::zone::{NoSpace, Priority, SegmentState, Zone};
use super::{Inner, Store, StoreError, blocks_of, limits, uncancelled};
use farside_codec::checksum::check_blocks;
use farside_codec::ids::ChunkId;
use farside_codec::record::fragment::{FragmentHeader, checksum_table};
use farside_codec::record::segment::IndexEntry;
use farside_io::disk::Disk;
use std::rc::Rc;

/// Where a walk over the chunks stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CollectCursor(pub(super) usize);

impl CollectCursor {
    /// Where [`CollectCursor::position`] said.
    pub fn at(position: u64) -> Self {
        Self(usize::try_from(position).unwrap_or(usize::MAX))
    }

    /// As a number, for whoever goes on from another node.
    pub fn position(self) -> u64 {
        self.0 as u64
    }
}

/// What a step of compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactStep {
    /// Bytes of records moved.
    pub moved_bytes: u64,
    /// Segments that are free now.
    pub freed_segments: u64,
    /// There is more to do.
    pub more: bool,
}

/// The segment that compaction is at.
#[derive(Default)]
pub(super) struct Progress {
    /// Device, segment, and what is left of its records.
    victim: Option<(u8, u32, Vec<IndexEntry>)>,
}

impl<D: Disk> Store<D> {
    /// Chunks that were last touched two barriers before `barrier` or earlier, from `cursor` on, at most `limit`. The
    /// second value is where to go on; `None` at the end. Nothing is named before the GC epoch is known.
    pub fn collectable(
        &self,
        barrier: u64,
        cursor: CollectCursor,
        limit: usize,
    ) -> (Vec<ChunkId>, Option<CollectCursor>) {
        let Some(newest) = barrier.checked_sub(2).filter(|_| self.0.first_epoch.get() > 0) else {
            return (Vec::new(), None);
        };
        let index = self.0.index.borrow();
        let (walked, next) = index.walk(cursor.0, limits::COLLECT_SCAN.min(limit.max(1)));
        let is_old = |chunk: &ChunkId| index.stripes(chunk).all(|known| self.0.touched(&known) <= newest);
        (walked.map(|(chunk, _)| chunk).filter(is_old).collect(), next.map(CollectCursor))
    }

    /// Forgets those of these chunks that were last touched two barriers before `barrier` or earlier and are not being
    /// written. Answers how many. That nobody refers to them is the caller's promise.
    pub fn delete(&self, chunks: &[ChunkId], barrier: u64) -> usize {
        let Some(newest) = barrier.checked_sub(2).filter(|_| self.0.first_epoch.get() > 0) else { return 0 };
        self.delete_where(chunks, |known| self.0.touched(known) <= newest)
    }

    /// Forgets the system's own chunks, however lately they were touched. The caller knows every reference to them.
    pub fn release(&self, chunks: &[ChunkId]) -> usize {
        self.delete_where(chunks, |_| true)
    }

    fn delete_where(&self, chunks: &[ChunkId], may: impl Fn(&Known) -> bool) -> usize {
        let mut index = self.0.index.borrow_mut();
        let mut deleted = 0;
        for chunk in chunks {
            let stripes: Vec<Known> = index.stripes(chunk).collect();
            if stripes.is_empty() || !stripes.iter().all(&may) || self.0.putting.borrow().contains_key(chunk) {
                continue;
            }
            stripes.iter().for_each(|known| self.0.remove_stripe(&mut index, chunk, known));
            deleted += 1;
        }
        self.0.counters.borrow_mut().chunks_collected += deleted as u64;
        deleted
    }

    /// Takes a step of compaction if free segments run short on a device and some segment is worth it: what lets go of chunks
    /// between two rounds of GC must not fill devices with what is dead.
    pub async fn relieve(&self) -> Result<(), StoreError> {
        let is_short = self.0.zones.iter().any(|zone| zone.takes() && zone.is_short());
        if !is_short || self.0.relief_rests.get() > 0 || self.0.next_victim().is_none() {
            self.0.relief_rests.set(self.0.relief_rests.get().saturating_sub(1));
            // What nothing is left of costs nothing to free.
            return if is_short { self.free_emptied().await } else { Ok(()) };
        }
        let step = self.compact_step().await?;
        if step.moved_bytes == 0 && step.freed_segments == 0 {
            // Such as a segment that can't be read: GC tries it again, now and then.
            self.0.relief_rests.set(limits::RELIEF_RESTS);
        }
        Ok(())
    }

    /// Moves a bounded number of records out of the segment with the most dead space, and frees segments that hold
    /// nothing any more.
    pub async fn compact_step(&self) -> Result<CompactStep, StoreError> {
        let store = self.clone();
        uncancelled(async move {
            let inner = &store.0;
            let mut progress = inner.compacting.lock().await;
            let mut step = CompactStep { freed_segments: inner.free_empty().await, ..CompactStep::default() };
            if progress.victim.is_none() {
                progress.victim = inner.choose_victim().await;
            }
            if let Some((device, segment, entries)) = progress.victim.take() {
                let zone = inner.zones[usize::from(device)].clone();
                progress.victim = inner.empty_segment(&zone, segment, entries, &mut step).await;
            }
            step.more = progress.victim.is_some() || inner.next_victim().is_some();
            let mut counters = inner.counters.borrow_mut();
            counters.compacted_bytes += step.moved_bytes;
            counters.freed_segments += step.freed_segments;
            Ok(step)
        })
        .await
    }
}

impl<D: Disk> Inner<D> {
    /// Forgets a stripe with all of its fragments.
    pub(super) fn remove_stripe(&self, index: &mut Index, chunk: &ChunkId, known: &Known) {
        let locations: Vec<(usize, Location)> = index.locations(known).collect();
        for (fragment, location) in locations {
            index.set(known, fragment, None);
            self.zones[usize::from(location.device)].remove_live(location.segment, blocks_of(known));
        }
        index.remove(chunk, known);
    }

    /// GC epoch in which a chunk was last touched.
    pub(super) fn touched(&self, known: &Known) -> u64 {
        u64::from(known.touched.max(self.first_epoch.get()))
    }

    /// Frees sealed segments in which nothing counts any more.
    pub(super) async fn free_empty(&self) -> u64 {
        let mut freed = 0;
        for zone in self.zones.iter().filter(|zone| zone.works()) {
            let empty: Vec<u32> = {
                let segments = zone.segments.borrow();
                let numbered = (0..).zip(&segments.table);
                let empty = numbered.filter(|(_, found)| found.state == SegmentState::Sealed && found.live_blocks == 0);
                empty.map(|(segment, _)| segment).collect()
            };
            for segment in empty {
                freed += u64::from(self.free_segment(zone, segment).await);
            }
        }
        freed
    }

    pub(super) async fn free_segment(&self, zone: &Zone<D>, segment: u32) -> bool {
        match zone.free(segment).await {
            Ok(()) => true,
            Err(error) => {
                self.write_failed(zone, error);
                false
            }
        }
    }

    /// The sealed segment with the least that counts, if it is worth the move.
    fn next_victim(&self) -> Option<(u8, u32)> {
        let mut best: Option<(u64, u8, u32)> = None;
        // What is to go is emptied altogether, elsewhere.
        for zone in self.zones.iter().filter(|zone| zone.takes()) {
            let threshold = if zone.is_short() { limits::COMPACT_LIVE_SHORT_256 } else { limits::COMPACT_LIVE_256 };
            let segments = zone.segments.borrow();
            for (segment, found) in (0..).zip(&segments.table) {
                let live_256 = u64::from(found.live_blocks) * 256 / u64::from(zone.segment_blocks.max(1));
                // One that holds all that it ever held gains nothing if its rest is too short for another record, but it
                // may have been cut off early, by a start or by a record that was too large.
                let gains = found.live_blocks < found.most_blocks || zone.holds_twice(found.live_blocks);
                let worth = found.state == SegmentState::Sealed && gains && live_256 <= threshold;
                if worth && best.is_none_or(|(least, ..)| live_256 < least) {
                    best = Some((live_256, zone.ordinal, segment));
                }
            }
        }
        best.map(|(_, device, segment)| (device, segment))
    }

    /// Chooses a segment and reads what is in it.
    async fn choose_victim(&self) -> Option<(u8, u32, Vec<IndexEntry>)> {
        let (device, segment) = self.next_victim()?;
        let zone = &self.zones[usize::from(device)];
        let entries = self.records_of(zone, segment).await;
        let mut segments = zone.segments.borrow_mut();
        let found = &mut segments.table[segment as usize];
        if found.state != SegmentState::Sealed {
            return None;
        }
        let known: u64 = entries.iter().map(|entry| u64::from(entry.blocks())).sum();
        if known < u64::from(found.live_blocks) {
            // Something that counts can't be found from here; it stays where it is.
            found.state = SegmentState::Unreadable;
            return None;
        }
        found.state = SegmentState::Emptying;
        Some((device, segment, entries))
    }

    /// The records of a sealed segment.
    pub(super) async fn records_of(&self, zone: &Zone<D>, segment: u32) -> Vec<IndexEntry> {
        let generation = zone.segments.borrow().table[segment as usize].generation;
        match recovery::examine(zone, &self.pool, segment).await {
            Examined::Indexed { generation: found, entries, .. } if found == generation => entries,
            // The index went bad since, or was never written.
            _ => recovery::scan(zone, &self.pool, segment, generation).await.entries,
        }
    }

    /// Moves a step's worth of records. Gives back what is left; `None` when the segment is free or given up.
    async fn empty_segment(
        &self,
        zone: &Rc<Zone<D>>,
        segment: u32,
        mut entries: Vec<IndexEntry>,
        step: &mut CompactStep,
    ) -> Option<(u8, u32, Vec<IndexEntry>)> {
        let mut moved = Vec::new();
        let mut given_up = !zone.takes();
        while let Some(entry) = entries.pop().filter(|_| !given_up) {
            let location = Location { device: zone.ordinal, segment, block: entry.block };
            if !self.is_current(&entry, location) {
                continue;
            }
            match self.copy_record(zone, &entry, location).await {
                Ok(Some(reservation)) => {
                    step.moved_bytes += entry.layout().slot_bytes() as u64;
                    moved.push((entry, location, reservation));
                }
                Ok(None) => {}
                Err(()) => given_up = true,
            }
            if step.moved_bytes >= limits::COMPACT_STEP_BYTES as u64 {
                break;
            }
        }
        if let (false, Err(error)) = (moved.is_empty(), zone.sync().await) {
            self.write_failed(zone, error);
            given_up = true;
            moved.clear();
        }
        for (entry, from, reservation) in moved {
            self.move_location(zone, &entry, from, reservation);
        }
        if let Err(error) = zone.seal_ready().await {
            self.write_failed(zone, error);
        }
        let live_blocks = zone.segments.borrow().table[segment as usize].live_blocks;
        if live_blocks == 0 && zone.works() {
            step.freed_segments += u64::from(self.free_segment(zone, segment).await);
            return None;
        }
        if given_up || entries.is_empty() {
            // Entries that are left are tried again when the segment is chosen the next time.
            zone.segments.borrow_mut().table[segment as usize].state = SegmentState::Sealed;
            return None;
        }
        Some((zone.ordinal, segment, entries))
    }

    fn is_current(&self, entry: &IndexEntry, location: Location) -> bool {
        let index = self.index.borrow();
        let known = index.stripe(&entry.chunk, entry.geometry);
        known.is_some_and(|known| index.location(&known, usize::from(entry.fragment)) == Some(location))
    }

    /// Writes a record again elsewhere on its device. `None`: it is damaged, and owed now. The error: no space, or the
    /// device refuses.
    async fn copy_record(
        &self,
        zone: &Rc<Zone<D>>,
        entry: &IndexEntry,
        from: Location,
    ) -> Result<Option<super::zone::Reservation<D>>, ()> {
        let layout = entry.layout();
        let Some(mut record) = read_blocks(zone, &self.pool, from.segment, from.block, entry.blocks()).await else {
            self.counters.borrow_mut().read_errors += 1;
            return Err(());
        };
        let (area, data) = record.split_at_mut(layout.header_bytes());
        let header = FragmentHeader::read(area).ok().filter(|header| {
            header.chunk == entry.chunk && header.fragment == entry.fragment && header.layout() == layout
        });
        let intact = check_blocks(data, checksum_table(area, 0)).is_ok();
        let Some(header) = header.filter(|_| intact) else {
            self.fragment_damaged(&entry.chunk, usize::from(entry.fragment), from);
            return Ok(None);
        };
        let reservation = match zone.reserve(entry.blocks(), Priority::Compaction).await {
            Ok(reservation) => reservation,
            Err((reason, error)) => {
                if let Some(error) = error.filter(|_| reason == NoSpace::Failed) {
                    self.write_failed(zone, error);
                }
                return Err(());
            }
        };
        let (place, durable_block) = (reservation.place(), reservation.durable_block);
        FragmentHeader { place, durable_block, ..header }.write(area);
        let Some(disk) = &zone.disk else { return Err(()) };
        match disk.write(reservation.offset(), record.share()).await {
            Ok(()) => Ok(Some(reservation)),
            Err(error) => {
                self.write_failed(zone, error);
                Err(())
            }
        }
    }

    /// Points the index at the copy, unless the chunk was forgotten or the fragment written elsewhere meanwhile.
    fn move_location(
        &self,
        zone: &Zone<D>,
        entry: &IndexEntry,
        from: Location,
        reservation: super::zone::Reservation<D>,
    ) {
        let to = reservation.location();
        reservation.complete(IndexEntry { block: to.block, ..*entry });
        let mut index = self.index.borrow_mut();
        let Some(known) = index.stripe(&entry.chunk, entry.geometry) else { return };
        if index.location(&known, usize::from(entry.fragment)) == Some(from) {
            index.set(&known, usize::from(entry.fragment), Some(to));
            zone.remove_live(from.segment, entry.blocks());
            zone.add_live(to.segment, entry.blocks());
        }
    }
}
