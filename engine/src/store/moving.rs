//! Fragments go from one device of the node to another: off one that is to go, and to where they would lie if they were
//! written now.
//!
//! A record is copied as it is, but for the place in its header, and made durable before the index points to it; so a
//! crash at any moment leaves one copy or two, and a start chooses between two. A device that is to go is emptied segment by
//! segment, each of which is free once nothing in it counts: what was moved is not found there again after a restart.

use super::index::{Index, Known, Location};
use super::put::Turn;
use super::recovery::read_blocks;
use super::zone::{NoSpace, Priority, Reservation, Zone};
use super::{CollectCursor, Inner, Store, StoreError, blocks_of, limits, placement, uncancelled};
use farside_codec::checksum::check_blocks;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, DeviceId};
use farside_codec::record::fragment::{FragmentHeader, checksum_table};
use farside_codec::record::segment::IndexEntry;
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;
use std::collections::BTreeSet;
use std::rc::Rc;

/// What became of a fragment that was to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relocated {
    /// It lies elsewhere now; bytes of its record.
    Moved(usize),
    /// It is not there any more.
    Gone,
    /// No other device takes it now.
    NoRoom,
    /// Its device would not read it. It is still counted on.
    Refused,
    /// It is damaged, and owed from now on.
    Damaged,
}

/// What is on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residents {
    /// Fragments that count.
    pub fragments: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Nothing counts there and nothing is being written.
    pub empty: bool,
    /// The device works.
    pub works: bool,
}

/// A fragment that lies elsewhere than it would if it was written now.
type Misplaced = (usize, u8, u8);

impl<D: Disk> Store<D> {
    /// Says which devices are to go: they are read, take nothing new, and are not counted on any more.
    pub fn set_leaving(&self, devices: &BTreeSet<DeviceId>) {
        self.0.zones.iter().for_each(|zone| zone.set_leaving(devices.contains(&zone.device)));
    }

    /// What is on a device; `None`: it is none of this node's.
    pub fn residents(&self, device: DeviceId) -> Option<Residents> {
        let zone = self.0.zone_of(device)?;
        let (fragments, bytes) = zone.live();
        Some(Residents { fragments, bytes, empty: zone.is_empty(), works: zone.works() })
    }

    /// The segments of a device that is to go in which something counts.
    pub async fn leaving_segments(&self, device: DeviceId) -> Vec<u32> {
        let Some(zone) = self.0.zone_of(device).filter(|zone| zone.works() && zone.is_leaving()) else {
            return Vec::new();
        };
        zone.close();
        if let Err(error) = zone.seal_ready().await {
            self.0.write_failed(zone, error);
        }
        zone.live_segments()
    }

    /// The records of one of these segments that count: chunk, fragment, and bytes of the record.
    pub async fn leaving_records(&self, device: DeviceId, segment: u32) -> Vec<(ChunkId, u8, usize)> {
        let Some(zone) = self.0.zone_of(device).filter(|zone| zone.works() && zone.is_leaving()) else {
            return Vec::new();
        };
        // Compaction frees segments, and with it what is read here might become something else.
        let _progress = self.0.compacting.lock().await;
        let entries = self.0.records_of(zone, segment).await;
        let index = self.0.index.borrow();
        let counts = |entry: &&IndexEntry| {
            let location = Location { device: zone.ordinal, segment, block: entry.block };
            index.stripe_at(&entry.chunk, usize::from(entry.fragment), location).is_some()
        };
        let found = entries.iter().filter(counts);
        found.map(|entry| (entry.chunk, entry.fragment, entry.layout().slot_bytes())).collect()
    }

    /// The records on a device that count, of chunks from `cursor` on, among `limit`, whether its segments tell of them or
    /// not; and where to go on.
    pub fn records_on(
        &self,
        device: DeviceId,
        cursor: CollectCursor,
        limit: usize,
    ) -> (Vec<(ChunkId, u8, usize)>, Option<CollectCursor>) {
        let Some(zone) = self.0.zone_of(device) else { return (Vec::new(), None) };
        let index = self.0.index.borrow();
        let (walked, next) = index.walk(cursor.0, limits::COLLECT_SCAN.min(limit.max(1)));
        let mut records = Vec::new();
        for (chunk, known) in walked {
            let on = index.locations(&known).filter(|(_, found)| found.device == zone.ordinal);
            let bytes = known.layout().slot_bytes();
            records.extend(on.map(|(fragment, _)| (chunk, fragment as u8, bytes)));
        }
        (records, next.map(CollectCursor))
    }

    /// Moves a fragment off a device that is to go. Once begun it runs to its end.
    pub async fn move_off(&self, chunk: ChunkId, fragment: u8, device: DeviceId) -> Result<Relocated, StoreError> {
        let store = self.clone();
        uncancelled(async move {
            let inner = &store.0;
            let _turn = Turn::take(inner, chunk).await;
            let Some(zone) = inner.zone_of(device).cloned() else { return Ok(Relocated::Gone) };
            let to = {
                let index = inner.index.borrow();
                let lies_there = |known: &Known| {
                    index.location(known, usize::from(fragment)).is_some_and(|found| found.device == zone.ordinal)
                };
                let Some(known) = index.stripes(&chunk).find(lies_there) else { return Ok(Relocated::Gone) };
                let to = inner.place_off(&index, &chunk, &known, usize::from(fragment));
                to.map(|to| (known.geometry, to))
            };
            match to {
                Some((geometry, to)) => Ok(inner.relocate(&chunk, geometry, usize::from(fragment), &zone, to).await),
                None => Ok(Relocated::NoRoom),
            }
        })
        .await
    }

    /// Gives back segments in which nothing counts any more.
    pub async fn free_emptied(&self) -> Result<(), StoreError> {
        let store = self.clone();
        uncancelled(async move {
            let _progress = store.0.compacting.lock().await;
            store.0.free_empty().await;
            Ok(())
        })
        .await
    }

    /// Fragments that lie elsewhere than they would if they were written now and could be moved there, from `cursor` on,
    /// among `limit` chunks: each chunk with how many of it, and where to go on.
    pub fn misplaced(&self, cursor: CollectCursor, limit: usize) -> (Vec<(ChunkId, usize)>, Option<CollectCursor>) {
        let index = self.0.index.borrow();
        let (walked, next) = index.walk(cursor.0, limits::COLLECT_SCAN.min(limit.max(1)));
        let found = walked.map(|(chunk, known)| (chunk, self.0.misplaced_of(&index, &chunk, &known).len()));
        (found.filter(|(_, count)| *count > 0).collect(), next.map(CollectCursor))
    }

    /// Bytes that moving the misplaced fragments of a chunk reads and writes.
    pub fn balancing_bytes(&self, chunk: &ChunkId) -> usize {
        let index = self.0.index.borrow();
        let bytes_of =
            |known: Known| 2 * self.0.misplaced_of(&index, chunk, &known).len() * known.layout().slot_bytes();
        index.stripes(chunk).map(bytes_of).sum()
    }

    /// Moves the misplaced fragments of a chunk. Answers how many, and the bytes of their records.
    pub async fn balance(&self, chunk: ChunkId) -> Result<(usize, usize), StoreError> {
        let store = self.clone();
        uncancelled(async move {
            let inner = &store.0;
            let _turn = Turn::take(inner, chunk).await;
            let moves = {
                let index = inner.index.borrow();
                let moves_of = |known: Known| {
                    let moves = inner.misplaced_of(&index, &chunk, &known).into_iter();
                    moves.map(move |moves| (known.geometry, moves))
                };
                index.stripes(&chunk).flat_map(moves_of).collect::<Vec<(Geometry, Misplaced)>>()
            };
            let (mut fragments, mut bytes) = (0, 0);
            for (geometry, (fragment, from, to)) in moves {
                let from = inner.zones[usize::from(from)].clone();
                if let Relocated::Moved(more) = inner.relocate(&chunk, geometry, fragment, &from, to).await {
                    (fragments, bytes) = (fragments + 1, bytes + more);
                }
            }
            Ok((fragments, bytes))
        })
        .await
    }

    /// Takes a device that was to go out of use for good. What is counted on there is not any more: the caller has seen that
    /// nothing is, or that the device is lost and everything else is redundant without it.
    pub fn retire(&self, device: DeviceId) {
        let inner = &self.0;
        let Some(zone) = inner.zone_of(device) else { return };
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let mut index = inner.index.borrow_mut();
            let (walked, next) = index.walk(at, limits::COLLECT_SCAN);
            let known: Vec<(ChunkId, Known)> = walked.collect();
            cursor = next;
            for (chunk, known) in known {
                let here = index.locations(&known).filter(|(_, found)| found.device == zone.ordinal);
                let here: Vec<(usize, Location)> = here.collect();
                for (fragment, location) in &here {
                    index.set(&known, *fragment, None);
                    zone.remove_live(location.segment, blocks_of(&known));
                }
                if !here.is_empty() && index.locations(&known).next().is_none() {
                    index.remove(&chunk, &known);
                }
            }
        }
        zone.retire();
    }
}

impl<D: Disk> Inner<D> {
    fn zone_of(&self, device: DeviceId) -> Option<&Rc<Zone<D>>> {
        self.zones.iter().find(|zone| zone.device == device)
    }

    /// Which devices have no room for another record of this layout.
    fn full(&self, layout: &StripeLayout) -> Vec<bool> {
        let blocks = (layout.slot_bytes() / farside_codec::limits::BLOCK_BYTES) as u32;
        self.zones.iter().map(|zone| !zone.has_room(1, blocks, Priority::Client)).collect()
    }

    /// The device that takes a fragment which can't stay where it is.
    fn place_off(&self, index: &Index, chunk: &ChunkId, known: &Known, fragment: usize) -> Option<u8> {
        let here = self.healthy(index, known).count();
        let plan = self.plan(chunk, known.geometry, &[fragment], here, &self.full(&known.layout()));
        plan.first().map(|(_, to)| *to)
    }

    /// The fragments of a chunk that are to change places, from where to where. A chunk that is owed fragments of is mended
    /// first; what is on a device that is to go is moved from there.
    fn misplaced_of(&self, index: &Index, chunk: &ChunkId, known: &Known) -> Vec<Misplaced> {
        let total = known.geometry.total();
        let held: Vec<(usize, u8)> =
            self.healthy(index, known).map(|(fragment, location)| (fragment, location.device)).collect();
        if held.is_empty() || !self.spread.get() && held.len() < total {
            return Vec::new();
        }
        let candidates = self.candidates(&self.loads(index, known), &self.full(&known.layout()));
        let wanted = placement::wanted(chunk, total, held.len(), &candidates, self.part(total, held.len()));
        placement::moves(&held, &candidates, &wanted)
    }

    /// Copies a fragment to another device and points the index there. The chunk's turn is held.
    async fn relocate(
        &self,
        chunk: &ChunkId,
        geometry: Geometry,
        fragment: usize,
        from_zone: &Rc<Zone<D>>,
        to: u8,
    ) -> Relocated {
        let at = {
            let index = self.index.borrow();
            let Some(known) = index.stripe(chunk, geometry) else { return Relocated::Gone };
            let location = index.location(&known, fragment).filter(|location| location.device == from_zone.ordinal);
            location.map(|location| (known.layout(), location))
        };
        let Some((layout, from)) = at else { return Relocated::Gone };
        let blocks = (layout.slot_bytes() / farside_codec::limits::BLOCK_BYTES) as u32;
        let mut intact = None;
        // Nothing is given up that was not found damaged twice.
        for _ in 0..2 {
            let Some(record) = read_blocks(from_zone, &self.pool, from.segment, from.block, blocks).await else {
                self.counters.borrow_mut().read_errors += 1;
                return Relocated::Refused;
            };
            let (area, data) = record.split_at(layout.header_bytes());
            let header = FragmentHeader::read(area).ok().filter(|header| {
                let place = from_zone.place(from.segment, header.place.generation, from.block);
                header.chunk == *chunk
                    && usize::from(header.fragment) == fragment
                    && header.layout() == layout
                    && header.place == place
            });
            if let Some(header) = header.filter(|_| check_blocks(data, checksum_table(area, 0)).is_ok()) {
                intact = Some((record, header));
                break;
            }
        }
        let Some((mut record, header)) = intact else {
            self.fragment_damaged(chunk, fragment, from);
            return Relocated::Damaged;
        };
        let zone = &self.zones[usize::from(to)];
        let reservation = match zone.reserve(blocks, Priority::Client).await {
            Ok(reservation) => reservation,
            Err((reason, error)) => {
                if let Some(error) = error.filter(|_| reason == NoSpace::Failed) {
                    self.write_failed(zone, error);
                }
                return Relocated::NoRoom;
            }
        };
        let (place, durable_block) = (reservation.place(), reservation.durable_block);
        FragmentHeader { place, durable_block, ..header }.write(&mut record[..layout.header_bytes()]);
        let Some(disk) = &zone.disk else { return Relocated::NoRoom };
        let written = match disk.write(reservation.offset(), record.share()).await {
            Ok(()) => zone.sync().await,
            refused => refused,
        };
        match written {
            // A device that failed meanwhile, under another stripe, may have lost this write as well.
            Ok(()) if zone.works() => self.point_elsewhere(chunk, fragment, from, reservation, &layout),
            Ok(()) => return Relocated::NoRoom,
            Err(error) => {
                self.write_failed(zone, error);
                return Relocated::NoRoom;
            }
        }
        if let Err(error) = zone.seal_ready().await {
            self.write_failed(zone, error);
        }
        Relocated::Moved(layout.slot_bytes())
    }

    /// Points the index at the copy, unless the chunk was forgotten or the fragment written elsewhere meanwhile.
    fn point_elsewhere(
        &self,
        chunk: &ChunkId,
        fragment: usize,
        from: Location,
        reservation: Reservation<D>,
        layout: &StripeLayout,
    ) {
        let to = reservation.location();
        reservation.complete(IndexEntry {
            chunk: *chunk,
            geometry: layout.geometry(),
            sealed_bytes: layout.sealed_bytes() as u32,
            fragment: fragment as u8,
            block: to.block,
        });
        let mut index = self.index.borrow_mut();
        if let Some(known) = index.stripe_at(chunk, fragment, from) {
            index.set(&known, fragment, Some(to));
            self.zones[usize::from(from.device)].remove_live(from.segment, blocks_of(&known));
            self.zones[usize::from(to.device)].add_live(to.segment, blocks_of(&known));
        }
    }
}
