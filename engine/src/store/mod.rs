//! The chunk store of one shard: sealed chunks as erasure-coded fragments over one zone of every device of the node.
//!
//! Where to start: [`devices`] for what a node's devices are, [`Store`] for what can be asked, `put` and `get` for the
//! life of a chunk, `fragments`, `stripe`, `decode` and `held` for one that is spread over several nodes, `zone` for how a
//! device's space is used, `recovery` and `duplicates` for what a start makes of it, `collect` for GC, `mend` for
//! looking after what is here, `moving` for taking it from one device to another.
//! DISK.md holds the tables.
//!
//! Invariants: what a [`ChunkReceipt`] acknowledges is durable on as many devices as it says; every byte that a read
//! answers matched its checksum in that read; the index is a cache of what segments hold; a damaged fragment is never
//! silently dropped: it is counted, reported and owed.
//!
//! Deliberately absent: clocks, keys, tasks of its own that nobody waits for, and any knowledge of who refers to a
//! chunk. Deletions are not durable by themselves: a chunk whose records were not yet compacted away is back after a
//! restart, untouched, until GC removes it again.

mod collect;
mod decode;
pub mod devices;
mod duplicates;
mod error;
mod fragments;
mod get;
mod held;
mod index;
pub mod limits;
mod mend;
mod moving;
mod placement;
mod put;
mod recovery;
mod replacing;
mod slots;
mod status;
mod stripe;
mod zone;

pub use collect::{CollectCursor, CompactStep};
pub use decode::columns;
pub use devices::{Candidate, DeviceSet, FormatError, FormatOptions, OpenDevicesError, Slot, Stranger, WalRegion};
pub use devices::{format_devices, open_devices};
pub use error::StoreError;
pub use fragments::FragmentsWriter;
pub use get::ChunkRead;
pub use held::HeldFragments;
pub use mend::{MendingNeeds, Refused, Verified};
pub use moving::{Relocated, Residents};
pub(crate) use placement::most_per_device;
pub use put::ChunkWriter;
pub use replacing::{ReplaceError, add_device, clear_if_named, remove_device, replace_device};
pub use status::{Counters, DeviceState, DeviceStatus, RecoveryReport, StoreEvent, StoreStatus};
pub use stripe::Stripe;

use duplicates::Spares;
use farside_codec::delta::ChunkReceipt;
use farside_codec::erasure::{Coder, Geometry};
use farside_codec::ids::ChunkId;
use farside_codec::limits::{BLOCK_BYTES, DEFAULT_CHUNK_PLAIN_BYTES};
use farside_codec::record::segment::{IndexEntry, SegmentUse, index_bytes};
use farside_codec::stripe::StripeLayout;
use farside_io::disk::{Disk, DiskError};
use farside_io::limits::UNIT_BYTES;
use farside_io::pool::{Pool, PoolError};
use futures_util::{StreamExt, stream};
use index::{Index, Known, Location};
use recovery::Examined;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};
use zone::{Priority, Zone};

/// A shard's chunk store. Clones share it.
pub struct Store<D: Disk>(Rc<Inner<D>>);

impl<D: Disk> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<D: Disk> {
    pool: Pool,
    /// How new chunks are cut.
    geometry: Cell<Geometry>,
    largest_chunk: Cell<usize>,
    zones: Vec<Rc<Zone<D>>>,
    strangers: Vec<Stranger>,
    index: RefCell<Index>,
    coders: RefCell<Vec<Rc<Coder>>>,
    /// Chunks that are being written, each with those who wait for it.
    putting: RefCell<BTreeMap<ChunkId, Rc<Notify>>>,
    reading: Semaphore,
    /// Units of the pool that stripes may take whose fragments go to other nodes.
    lent: Arc<Semaphore>,
    /// The site has several nodes, and clients' chunks are spread over them.
    spread: Cell<bool>,
    /// Segments being emptied, so that only one compaction runs.
    compacting: tokio::sync::Mutex<collect::Progress>,
    /// Calls of `relieve` that do nothing, because one achieved nothing.
    relief_rests: Cell<u32>,
    gc_epoch: Cell<u32>,
    /// The GC epoch that was current when the first one after the start became known.
    first_epoch: Cell<u32>,
    placement_epoch: Cell<u64>,
    counters: RefCell<Counters>,
    events: RefCell<status::Events>,
    recovery: RecoveryReport,
}

impl<D: Disk> Store<D> {
    /// Opens the zones of `shard` and finds out what they hold.
    pub async fn open(devices: &DeviceSet<D>, shard: u16, pool: Pool) -> Result<Self, PoolError> {
        assert!(shard < devices.shards, "a shard is one of its node");
        let metadata = Pool::new(limits::METADATA_INDEXES * largest_index(devices))?;
        let mut zones = Vec::with_capacity(devices.slots.len());
        for (ordinal, slot) in devices.slots.iter().enumerate() {
            let (ordinal, label) = (ordinal as u8, slot.label.clone());
            zones.push(Rc::new(match &slot.device {
                Some((disk, superblock)) => {
                    Zone::new(ordinal, label, shard, (disk.clone(), superblock), metadata.clone())
                }
                None => Zone::absent(ordinal, slot.id, label, shard, slot.state, metadata.clone()),
            }));
        }
        let largest_chunk = largest_chunk(devices.geometry, &zones, &pool);
        let mut index = Index::new();
        let mut recovery = RecoveryReport::default();
        let mut spares = Spares::default();
        for zone in zones.iter().filter(|zone| zone.works()) {
            load_zone(zone, &pool, &mut index, &mut spares, &mut recovery).await;
        }
        spares.settle(&mut index, &zones);
        recovery.chunks = index.chunks() as u64;
        recovery.fragments = index.fragments();
        let lent = Arc::new(Semaphore::new(lent_units(&pool)));
        let store = Self(Rc::new(Inner {
            pool,
            geometry: Cell::new(devices.geometry),
            largest_chunk: Cell::new(largest_chunk),
            zones,
            strangers: devices.strangers.clone(),
            index: RefCell::new(index),
            coders: RefCell::default(),
            putting: RefCell::default(),
            reading: Semaphore::new(limits::MAX_READS),
            lent,
            spread: Cell::new(false),
            compacting: tokio::sync::Mutex::default(),
            relief_rests: Cell::new(0),
            gc_epoch: Cell::new(0),
            first_epoch: Cell::new(0),
            placement_epoch: Cell::new(1),
            counters: RefCell::default(),
            events: RefCell::default(),
            recovery,
        }));
        Ok(store.with_partial_chunks_counted())
    }

    fn with_partial_chunks_counted(self) -> Self {
        let (mut partial, mut unreadable) = (0, 0);
        {
            let index = self.0.index.borrow();
            let stripes = index.walk(0, usize::MAX).0;
            for (chunk, _) in stripes.filter(|(chunk, known)| mend::is_first(&index, chunk, known)) {
                partial += u64::from(self.0.best_receipt(&index, &chunk).is_none());
                unreadable += u64::from(!self.0.is_readable(&index, &chunk));
            }
        }
        let mut inner = Rc::into_inner(self.0).expect("nobody else holds a store that is being opened");
        inner.recovery.partial_chunks = partial;
        inner.recovery.unreadable_chunks = unreadable;
        Self(Rc::new(inner))
    }

    /// The shard's buffers.
    pub fn pool(&self) -> Pool {
        self.0.pool.clone()
    }

    /// How new chunks are cut.
    pub fn geometry(&self) -> Geometry {
        self.0.geometry.get()
    }

    /// Cuts new chunks this way from now on. What is here stays as it is: [`Store::mend`] cuts it again.
    pub fn set_geometry(&self, geometry: Geometry) {
        if self.0.geometry.replace(geometry) != geometry {
            self.0.largest_chunk.set(largest_chunk(geometry, &self.0.zones, &self.0.pool));
        }
    }

    /// Refuses a way to cut chunks in which those that are here, or chunks of the default size, could not be stored:
    /// `Geometry`.
    pub fn fits_geometry(&self, geometry: Geometry) -> Result<(), StoreError> {
        let would_take = largest_chunk(geometry, &self.0.zones, &self.0.pool);
        let takes = self.0.largest_chunk.get();
        let index = self.0.index.borrow();
        let mut largest = index.largest() as usize;
        if largest > would_take {
            // It may be gone.
            largest = index.walk(0, usize::MAX).0.map(|(_, known)| known.sealed_bytes as usize).max().unwrap_or(0);
        }
        match would_take >= largest.max(takes.min(DEFAULT_CHUNK_PLAIN_BYTES * 5 / 4)) {
            true => Ok(()),
            false => Err(StoreError::Geometry { geometry, would_take, takes }),
        }
    }

    /// Largest sealed chunk that can be stored here.
    pub fn largest_chunk_bytes(&self) -> usize {
        self.0.largest_chunk.get()
    }

    /// Sets the GC epoch in which chunks are touched from now on. The first call also dates everything that was here
    /// at the start. An epoch never goes back.
    pub fn set_gc_epoch(&self, epoch: u64) {
        let epoch = u32::try_from(epoch).unwrap_or(u32::MAX).max(self.0.gc_epoch.get());
        self.0.gc_epoch.set(epoch);
        if self.0.first_epoch.get() == 0 {
            self.0.first_epoch.set(epoch);
        }
    }

    /// The GC epoch in which chunks are touched now; 0: it is not known yet.
    pub fn gc_epoch(&self) -> u64 {
        u64::from(self.0.gc_epoch.get())
    }

    /// Sets the placement epoch that receipts carry.
    pub fn set_placement_epoch(&self, epoch: u64) {
        self.0.placement_epoch.set(epoch);
    }

    /// Says whether the site has several nodes, over which the fragments of clients' chunks are spread. Then the store
    /// can't tell which fragments belong here, and [`StoreStatus`] counts what it knows of alone.
    pub fn set_spread(&self, spread: bool) {
        self.0.spread.set(spread);
    }

    /// Keeps room for so many bytes of the system's own chunks, which clients' chunks leave alone from now on.
    pub fn keep_free(&self, bytes: u64) {
        let geometry = self.0.geometry.get();
        let most = placement::most_per_device(geometry.total(), self.0.counted());
        let of_each = bytes.div_ceil(geometry.data() as u64) * most as u64;
        self.0.zones.iter().for_each(|zone| zone.keep_free(of_each));
    }

    /// Whether a client's chunk of the default size would find space and enough devices now; where chunks are spread,
    /// whether one fragment of it would.
    pub fn takes_writes(&self) -> Result<(), StoreError> {
        let sealed_bytes = DEFAULT_CHUNK_PLAIN_BYTES.min(self.0.largest_chunk.get());
        let layout = StripeLayout::new(self.0.geometry.get(), sealed_bytes);
        match self.0.spread.get() {
            true => self.0.find_place(&layout, Priority::Client),
            false => self.0.find_room(&layout, Priority::Client),
        }
    }

    /// Which of these chunks are here with at least as many fragments as a put acknowledges, and touches those.
    pub fn have(&self, chunks: &[ChunkId]) -> Vec<Option<ChunkReceipt>> {
        let mut index = self.0.index.borrow_mut();
        let answer = chunks.iter().map(|chunk| {
            let receipt = self.0.best_receipt(&index, chunk)?;
            self.0.touch(&mut index, chunk);
            Some(receipt)
        });
        answer.collect()
    }

    /// Length of a chunk that is here, whole or not.
    pub fn sealed_bytes(&self, chunk: &ChunkId) -> Option<u32> {
        self.0.index.borrow().sealed_bytes(chunk)
    }

    /// How the store is.
    pub fn status(&self) -> StoreStatus {
        let inner = &self.0;
        let index = inner.index.borrow();
        let mut devices: Vec<DeviceStatus> = inner.zones.iter().map(|zone| zone.status()).collect();
        let live = |works: bool| {
            let zones = inner.zones.iter().filter(|zone| zone.works() == works).map(|zone| zone.live());
            zones.fold((0, 0), |(fragments, bytes), zone| (fragments + zone.0, bytes + zone.1))
        };
        let (fragments, bytes) = live(true);
        let mut recovery = inner.recovery;
        let (owed_fragments, owed_bytes) = match inner.spread.get() {
            true => {
                (recovery.partial_chunks, recovery.unreadable_chunks) = (0, 0);
                live(false)
            }
            false => {
                (index.expected_fragments().saturating_sub(fragments), index.expected_bytes().saturating_sub(bytes))
            }
        };
        devices.extend(inner.strangers.iter().map(|stranger| DeviceStatus {
            id: None,
            label: stranger.label.clone(),
            state: stranger.state,
            leaving: false,
            bytes: 0,
            used_bytes: 0,
            live_bytes: 0,
            fragments: 0,
        }));
        StoreStatus {
            devices,
            chunks: index.chunks() as u64,
            cut_otherwise: index.cut_otherwise(inner.geometry.get()),
            fragments,
            owed_fragments,
            owed_bytes,
            index_bytes: index.memory_bytes() as u64,
            writable: self.takes_writes().is_ok(),
            counters: *inner.counters.borrow(),
            recovery,
        }
    }

    /// What happened since the last call.
    pub fn take_events(&self) -> Vec<StoreEvent> {
        self.0.events.borrow_mut().take()
    }
}

/// Units of the pool that stripes may take whose fragments go to other nodes: half of it.
fn lent_units(pool: &Pool) -> usize {
    pool.total_bytes() / UNIT_BYTES / 2
}

/// Fragments without which a put is not acknowledged: one loss must be survivable where the geometry has parity.
pub(crate) fn needed_fragments(geometry: Geometry) -> usize {
    geometry.data() + geometry.parity().min(1)
}

impl<D: Disk> Inner<D> {
    /// Fragments on devices that work.
    fn healthy(&self, index: &Index, known: &Known) -> impl Iterator<Item = (usize, Location)> {
        let here = index.locations(known);
        here.filter(|(_, location)| self.zones[usize::from(location.device)].works())
    }

    /// Fragments that each device holds.
    fn loads(&self, index: &Index, known: &Known) -> Vec<usize> {
        let mut loads = vec![0; self.zones.len()];
        self.healthy(index, known).for_each(|(_, location)| loads[usize::from(location.device)] += 1);
        loads
    }

    /// Devices that are counted on, working or not: all but those that are to go.
    fn counted(&self) -> usize {
        self.zones.iter().filter(|zone| !zone.is_leaving()).count().max(1)
    }

    /// The receipt of a chunk that has enough fragments for one. It counts as durable only as many as make the
    /// losses of devices that the chunk survives come out right: six fragments on one device survive none.
    fn receipt(&self, index: &Index, known: &Known, deduplicated: bool) -> Option<ChunkReceipt> {
        let loads = self.loads(index, known);
        if loads.iter().sum::<usize>() < needed_fragments(known.geometry) {
            return None;
        }
        let data = known.geometry.data();
        Some(ChunkReceipt {
            durable_fragments: (data + placement::losses_survived(loads, data)) as u8,
            data_fragments: data as u8,
            parity_fragments: known.geometry.parity() as u8,
            placement_epoch: self.placement_epoch.get(),
            gc_epoch: u64::from(self.gc_epoch.get()),
            deduplicated,
        })
    }

    /// The best of the receipts that there are for a chunk's stripes, as of one that was here before.
    fn best_receipt(&self, index: &Index, chunk: &ChunkId) -> Option<ChunkReceipt> {
        let receipts = index.stripes(chunk).filter_map(|known| self.receipt(index, &known, true));
        receipts.max_by_key(|receipt| receipt.durable_fragments - receipt.data_fragments)
    }

    fn coder(&self, geometry: Geometry) -> Rc<Coder> {
        let mut coders = self.coders.borrow_mut();
        if let Some(coder) = coders.iter().find(|coder| coder.geometry() == geometry) {
            return coder.clone();
        }
        let coder = Rc::new(Coder::new(geometry));
        coders.push(coder.clone());
        coder
    }

    fn report(&self, event: StoreEvent) {
        self.events.borrow_mut().push(event, &mut self.counters.borrow_mut());
    }

    /// Takes the consequences of a write or flush that a device refused.
    fn write_failed(&self, zone: &Zone<D>, error: DiskError) {
        self.counters.borrow_mut().write_errors += 1;
        match error {
            DiskError::Full => {
                if zone.starve() {
                    self.report(StoreEvent::DeviceFull { device: zone.device });
                }
            }
            error => {
                if zone.fail() {
                    self.report(StoreEvent::DeviceFailed { device: zone.device, error });
                }
            }
        }
    }

    /// Clears a fragment's location, if it is still this one.
    fn forget_fragment(&self, chunk: &ChunkId, fragment: usize, location: Location) -> bool {
        let mut index = self.index.borrow_mut();
        let Some(known) = index.stripe_at(chunk, fragment, location) else { return false };
        index.set(&known, fragment, None);
        self.zones[usize::from(location.device)].remove_live(location.segment, blocks_of(&known));
        true
    }
}

/// The largest sealed chunk that can be stored: on devices with such segments, and through such buffers.
fn largest_chunk<D: Disk>(geometry: Geometry, zones: &[Rc<Zone<D>>], pool: &Pool) -> usize {
    let there = zones.iter().filter(|zone| zone.segment_blocks > 0);
    let of_zone = |zone: &Rc<Zone<D>>| devices::largest_chunk(geometry, zone.segment_blocks * BLOCK_BYTES as u32);
    let mut largest = there.map(of_zone).min().unwrap_or(usize::MAX);
    // A stripe must leave room in the arena for another one to be read.
    let stripe = |bytes: usize| StripeLayout::new(geometry, bytes).buffer_bytes();
    while largest > BLOCK_BYTES && stripe(largest) > pool.total_bytes() / 2 {
        largest = largest * 7 / 8;
    }
    largest
}

/// Bytes of the largest index that a segment of these devices may need: one of the smallest records.
fn largest_index<D>(devices: &DeviceSet<D>) -> usize {
    let working = devices.slots.iter().filter_map(|slot| slot.device.as_ref());
    let segment_bytes = working.map(|(_, superblock)| superblock.segment_bytes).max().unwrap_or(0);
    index_bytes(segment_bytes as usize / (2 * BLOCK_BYTES))
}

/// Blocks of each record of a chunk.
fn blocks_of(known: &Known) -> u32 {
    (known.layout().slot_bytes() / BLOCK_BYTES) as u32
}

/// Runs work to its end, whether or not whoever asked for it still waits.
async fn uncancelled<T: 'static>(work: impl Future<Output = Result<T, StoreError>> + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_local(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StoreError::Stopped),
    }
}

/// Finds out what a zone holds and enters it into the index.
async fn load_zone<D: Disk>(
    zone: &Rc<Zone<D>>,
    pool: &Pool,
    index: &mut Index,
    spares: &mut Spares,
    report: &mut RecoveryReport,
) {
    let count = zone.segments.borrow().table.len() as u32;
    let mut examined = stream::iter(0..count)
        .map(|segment| async move { (segment, recovery::examine(zone, pool, segment).await) })
        .buffered(limits::OPEN_DEPTH);
    let (mut to_scan, mut bad_headers, mut unreadable) = (Vec::new(), Vec::new(), 0);
    while let Some((segment, found)) = examined.next().await {
        match found {
            Examined::Free { generation } => zone.enter_free(segment, generation),
            Examined::Indexed { generation, entries, bad_header } => {
                report.indexed_segments += 1;
                bad_headers.extend(bad_header.then_some((segment, generation)));
                zone.enter_sealed(segment, generation);
                entries.iter().for_each(|entry| admit(zone, segment, entry, index, spares, report));
            }
            Examined::Scan { generation, bad_header, bad_index } => {
                to_scan.push((segment, generation, bad_header, bad_index));
            }
            Examined::Unreadable => unreadable += 1,
        }
    }
    drop(examined);
    for (segment, generation, bad_header, bad_index) in to_scan {
        let scanned = recovery::scan(zone, pool, segment, generation).await;
        report.torn_records += scanned.torn_records;
        report.damaged_records += scanned.damaged_records;
        report.damaged_indexes += u64::from(bad_index);
        report.scanned_segments += u64::from(!bad_index && !bad_header);
        if scanned.generation == 0 {
            // A header that was torn while the segment was opened, before anything was acknowledged in it.
            zone.enter_free(segment, 0);
            continue;
        }
        bad_headers.extend(bad_header.then_some((segment, scanned.generation)));
        let may_grow = !(bad_index || bad_header || scanned.unreadable_part || scanned.has_hole);
        let entries = scanned.entries.clone();
        zone.enter_scanned(segment, scanned, may_grow);
        entries.iter().for_each(|entry| admit(zone, segment, entry, index, spares, report));
    }
    report.unreadable_segments += unreadable;
    report.damaged_headers += bad_headers.len() as u64;
    // What a killed process wrote and never flushed is readable now; it must not be lost once somebody was told of it,
    // nor once an index names it.
    if (unreadable > 0 && unreadable == u64::from(count)) || zone.sync().await.is_err() {
        zone.fail();
        return;
    }
    match mend(zone, &bad_headers).await {
        Ok(()) => {}
        // What could not be mended is found again by the next start.
        Err(DiskError::Full) => drop(zone.starve()),
        Err(_) => drop(zone.fail()),
    }
}

/// Writes again what recovery found bad.
async fn mend<D: Disk>(zone: &Zone<D>, bad_headers: &[(u32, u64)]) -> Result<(), DiskError> {
    for (segment, generation) in bad_headers {
        let header = zone.header(*segment, *generation, SegmentUse::Records);
        zone.write_metadata(*segment, 0, &header.to_block()).await?;
    }
    zone.seal_ready().await
}

/// Enters one record into the index, or among the spares if the index points to another device.
fn admit<D: Disk>(
    zone: &Zone<D>,
    segment: u32,
    entry: &IndexEntry,
    index: &mut Index,
    spares: &mut Spares,
    report: &mut RecoveryReport,
) {
    let Some(known) = index.insert(entry.chunk, entry.geometry, entry.sealed_bytes) else {
        report.contradicting_records += 1;
        return;
    };
    let fragment = usize::from(entry.fragment);
    let location = Location { device: zone.ordinal, segment, block: entry.block };
    let generation_of = |location: Location| zone.segments.borrow().table[location.segment as usize].generation;
    if let Some(before) = index.location(&known, fragment) {
        report.duplicate_records += 1;
        if before.device != zone.ordinal {
            return spares.keep((entry.chunk, entry.geometry), fragment, location, generation_of(location));
        }
        // On one device compaction moves records to newer generations.
        if generation_of(before) >= generation_of(location) {
            return;
        }
        zone.remove_live(before.segment, entry.blocks());
    }
    index.set(&known, fragment, Some(location));
    zone.add_live(segment, entry.blocks());
}
