//! How a chunk gets in: received straight into the slots of its stripe, coded in place, one write a fragment.
//!
//! The only copy of a byte is the one into its slot; checksums and the chunk's hash run over it while it is in the
//! cache. A chunk is acknowledged when enough fragments are written and flushed; what could not be written is owed.
//! Once begun, a commit runs to its end, also when its caller goes away, so that no device writes into space that has
//! been given to somebody else.

use super::index::Known;
use super::placement::{self, most_per_device, place};
use super::slots::{Memory, Slots, SlotsOf};
use super::stripe::Stripe;
use super::zone::{NoSpace, Priority, Reservation, Zone};
use super::{Inner, Store, StoreError, blocks_of, limits, needed_fragments, uncancelled};
use farside_codec::checksum::block_checksums;
use farside_codec::delta::ChunkReceipt;
use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_codec::limits::{BLOCK_BYTES, MAX_CHUNK_SEALED_BYTES};
use farside_codec::record::fragment::{FragmentHeader, set_checksum};
use farside_codec::record::segment::IndexEntry;
use farside_codec::stripe::StripeLayout;
use farside_io::disk::{Disk, DiskError};
use farside_io::limits::UNIT_BYTES;
use farside_io::pool::{Buffer, Slice};
use futures_util::future::join_all;
use std::rc::Rc;
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// A chunk that is being received. Dropped, it leaves nothing behind.
pub struct ChunkWriter<D: Disk> {
    store: Store<D>,
    chunk: ChunkId,
    layout: StripeLayout,
    priority: Priority,
    /// `None`: the chunk is here already, and its bytes are counted and let go.
    stripe: Option<Buffer>,
    /// Its part of the memory that stripes may take while other nodes are waited for.
    share: Option<OwnedSemaphorePermit>,
    hasher: blake3::Hasher,
    received: usize,
    /// Bytes that the hash and the checksums have seen; whole blocks until the end.
    hashed: usize,
}

impl<D: Disk> Store<D> {
    /// Takes room in memory for a chunk of `sealed_bytes`, and waits for it where the pool is empty. Refuses early
    /// what could not be stored in the end.
    pub async fn begin(&self, chunk: ChunkId, sealed_bytes: usize) -> Result<ChunkWriter<D>, StoreError> {
        self.begin_as(chunk, sealed_bytes, Priority::Client).await
    }

    /// The same for a piece of the system's own, which may use space that clients' chunks are refused.
    pub async fn begin_reserved(&self, chunk: ChunkId, sealed_bytes: usize) -> Result<ChunkWriter<D>, StoreError> {
        self.begin_as(chunk, sealed_bytes, Priority::System).await
    }

    /// Stores a whole chunk that is in memory already.
    pub async fn put_reserved(&self, chunk: ChunkId, sealed: &[u8]) -> Result<ChunkReceipt, StoreError> {
        let mut writer = self.begin_reserved(chunk, sealed.len()).await?;
        writer.append(sealed)?;
        writer.commit().await
    }

    /// Takes room in memory for a chunk whose fragments go to several nodes, for [`ChunkWriter::encode`]. Whether the chunk
    /// or space for it is here is not asked.
    ///
    /// Stripes begun this way take half of the pool at most: they wait for other nodes, whose stripes may wait for this
    /// one, and the other half is where the fragments that those send are received.
    pub async fn begin_stripe(
        &self,
        chunk: ChunkId,
        geometry: Geometry,
        sealed_bytes: usize,
    ) -> Result<ChunkWriter<D>, StoreError> {
        let (inner, too_large) = (&self.0, StoreError::Size { sealed_bytes });
        if sealed_bytes == 0 || sealed_bytes > MAX_CHUNK_SEALED_BYTES {
            return Err(too_large);
        }
        let layout = StripeLayout::new(geometry, sealed_bytes);
        let units = layout.buffer_bytes().div_ceil(UNIT_BYTES);
        if units > super::lent_units(&inner.pool) {
            return Err(too_large);
        }
        let share = inner.lent.clone().acquire_many_owned(units as u32).await.map_err(|_| StoreError::Stopped)?;
        let stripe = inner.pool.take(layout.buffer_bytes()).await.map_err(|_| too_large)?;
        let (store, hasher, priority) = (self.clone(), blake3::Hasher::new(), Priority::Client);
        let (stripe, share) = (Some(stripe), Some(share));
        Ok(ChunkWriter { store, chunk, layout, priority, stripe, share, hasher, received: 0, hashed: 0 })
    }

    async fn begin_as(&self, chunk: ChunkId, bytes: usize, priority: Priority) -> Result<ChunkWriter<D>, StoreError> {
        let inner = &self.0;
        if bytes == 0 || bytes > inner.largest_chunk.get() || bytes > MAX_CHUNK_SEALED_BYTES {
            return Err(StoreError::Size { sealed_bytes: bytes });
        }
        let layout = StripeLayout::new(inner.geometry.get(), bytes);
        let present = self.held(&chunk, bytes)?.is_some();
        if !present {
            inner.find_room(&layout, priority)?;
        }
        let stripe = match present {
            true => None,
            false => {
                let taken = inner.pool.take(layout.buffer_bytes()).await;
                Some(taken.map_err(|_| StoreError::Size { sealed_bytes: bytes })?)
            }
        };
        let (store, hasher) = (self.clone(), blake3::Hasher::new());
        Ok(ChunkWriter { store, chunk, layout, priority, stripe, share: None, hasher, received: 0, hashed: 0 })
    }

    /// The receipt of a chunk that is here with enough fragments.
    fn held(&self, chunk: &ChunkId, bytes: usize) -> Result<Option<ChunkReceipt>, StoreError> {
        let mut index = self.0.index.borrow_mut();
        if index.sealed_bytes(chunk).is_some_and(|known| known as usize != bytes) {
            // One id is one ciphertext, so the announced length is wrong.
            return Err(StoreError::Mismatch(*chunk));
        }
        let receipt = self.0.best_receipt(&index, chunk);
        if receipt.is_some() {
            self.0.touch(&mut index, chunk);
        }
        Ok(receipt)
    }
}

impl<D: Disk> ChunkWriter<D> {
    /// The chunk is here already: its bytes need not be sent, and [`ChunkWriter::commit`] answers at once.
    pub fn is_present(&self) -> bool {
        self.stripe.is_none()
    }

    /// Takes the next bytes of the sealed chunk.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let announced = self.layout.sealed_bytes();
        if bytes.len() > announced - self.received {
            return Err(StoreError::Length { announced, got: self.received + bytes.len() });
        }
        let Some(stripe) = &mut self.stripe else {
            self.received += bytes.len();
            return Ok(());
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            // Never further ahead of the hash than what the cache holds.
            let (now, later) = rest.split_at(rest.len().min(self.hashed + limits::HASH_BYTES - self.received));
            let mut from = 0;
            for (fragment, range) in self.layout.locate(self.received..self.received + now.len()) {
                let at = self.layout.fragment(fragment).start;
                let count = range.len();
                stripe[at + range.start..at + range.end].copy_from_slice(&now[from..from + count]);
                from += count;
            }
            self.received += now.len();
            if self.received == self.hashed + limits::HASH_BYTES {
                absorb(stripe, &self.layout, &mut self.hasher, self.hashed..self.received);
                self.hashed = self.received;
            }
            rest = later;
        }
        Ok(())
    }

    /// Makes the chunk durable. Where the same chunk is being stored already, waits for that and answers for it.
    pub async fn commit(self) -> Result<ChunkReceipt, StoreError> {
        let announced = self.layout.sealed_bytes();
        if self.stripe.is_none() {
            // GC may have removed it since; then the bytes are asked for again.
            let held = self.store.held(&self.chunk, announced)?;
            self.store.0.counters.borrow_mut().chunks_deduplicated += 1;
            return held.ok_or(StoreError::NotFound(self.chunk));
        }
        if self.received != announced {
            return Err(StoreError::Length { announced, got: self.received });
        }
        uncancelled(self.store_stripe()).await
    }

    /// Computes the parity fragments and gives the stripe to whoever sends its fragments to where they belong. Only for a
    /// writer of [`Store::begin_stripe`]; one that found its chunk present has no bytes to give: `NotFound`.
    pub fn encode(mut self) -> Result<Stripe, StoreError> {
        let announced = self.layout.sealed_bytes();
        if self.received != announced {
            return Err(StoreError::Length { announced, got: self.received });
        }
        let mut stripe = self.finish()?;
        encode(&mut stripe, &self.layout, &self.store.0)?;
        Ok(Stripe::new(self.chunk, self.layout, stripe, self.share))
    }

    /// The stripe with all data fragments, which are the chunk that was announced.
    fn finish(&mut self) -> Result<Buffer, StoreError> {
        let mut stripe = self.stripe.take().ok_or(StoreError::NotFound(self.chunk))?;
        finish_data(&mut stripe, &self.layout, &mut self.hasher, self.hashed);
        match *self.hasher.finalize().as_bytes() == self.chunk.0 {
            true => Ok(stripe),
            false => Err(StoreError::Mismatch(self.chunk)),
        }
    }

    async fn store_stripe(mut self) -> Result<ChunkReceipt, StoreError> {
        let mut stripe = self.finish()?;
        let _turn = Turn::take(&self.store.0, self.chunk).await;
        if let Some(receipt) = self.store.held(&self.chunk, self.layout.sealed_bytes())? {
            self.store.0.counters.borrow_mut().chunks_deduplicated += 1;
            return Ok(receipt);
        }
        self.store.0.make_way(&self.chunk, &self.layout)?;
        encode(&mut stripe, &self.layout, &self.store.0)?;
        let layout = Slots { stripe: self.layout, of: SlotsOf::Stripe };
        let write = StripeWrite { inner: &self.store.0, chunk: self.chunk, layout, priority: self.priority };
        write.run(Memory::Own(stripe), StripeWrite::receipt).await
    }
}

/// Runs the hash and the checksums over a range of the sealed chunk that begins, and but at the end ends, at a block.
fn absorb(stripe: &mut Buffer, layout: &StripeLayout, hasher: &mut blake3::Hasher, range: std::ops::Range<usize>) {
    for (fragment, range) in layout.locate(range) {
        let (area, data) = stripe[layout.slot(fragment)].split_at_mut(layout.header_bytes());
        hasher.update(&data[range.clone()]);
        let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let padded = &data[range.start..blocks.end * BLOCK_BYTES];
        blocks.zip(block_checksums(padded)).for_each(|(block, checksum)| set_checksum(area, block, checksum));
    }
}

/// Fills the data fragments up with zeros, and hashes what is left.
fn finish_data(stripe: &mut Buffer, layout: &StripeLayout, hasher: &mut blake3::Hasher, hashed: usize) {
    for fragment in 0..layout.geometry().data() {
        let held = layout.chunk_range(fragment).len();
        let fragment = layout.fragment(fragment);
        stripe[fragment.start + held..fragment.end].fill(0);
    }
    absorb(stripe, layout, hasher, hashed..layout.sealed_bytes());
    for fragment in 0..layout.geometry().data() {
        // Blocks that are all padding belong to no range of the chunk.
        let first = layout.chunk_range(fragment).len().div_ceil(BLOCK_BYTES);
        let (area, data) = stripe[layout.slot(fragment)].split_at_mut(layout.header_bytes());
        let checksums = block_checksums(&data[first * BLOCK_BYTES..]);
        (first..).zip(checksums).for_each(|(block, checksum)| set_checksum(area, block, checksum));
    }
}

/// Computes the parity fragments and their checksums.
fn encode<D: Disk>(stripe: &mut Buffer, layout: &StripeLayout, inner: &Inner<D>) -> Result<(), StoreError> {
    let slots = stripe[..layout.buffer_bytes()].chunks_exact_mut(layout.slot_bytes());
    let mut slots: Vec<(&mut [u8], &mut [u8])> = slots.map(|slot| slot.split_at_mut(layout.header_bytes())).collect();
    let (data, parity) = slots.split_at_mut(layout.geometry().data());
    let data: Vec<&[u8]> = data.iter().map(|(_, data)| &**data).collect();
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(|(_, data)| &mut **data).collect();
    inner.coder(layout.geometry()).encode(&data, &mut outputs).expect("a layout's slots have one length");
    for (area, data) in parity {
        block_checksums(data).enumerate().for_each(|(block, checksum)| set_checksum(area, block, checksum));
    }
    Ok(())
}

/// Held while a chunk is written, so that one chunk is written once.
pub(super) struct Turn<'a, D: Disk> {
    inner: &'a Inner<D>,
    chunk: ChunkId,
}

impl<'a, D: Disk> Turn<'a, D> {
    pub(super) async fn take(inner: &'a Inner<D>, chunk: ChunkId) -> Self {
        loop {
            let Some(other) = inner.putting.borrow().get(&chunk).cloned() else { break };
            other.notified().await;
        }
        inner.putting.borrow_mut().insert(chunk, Rc::new(Notify::new()));
        Self { inner, chunk }
    }
}

impl<D: Disk> Drop for Turn<'_, D> {
    fn drop(&mut self) {
        if let Some(waiting) = self.inner.putting.borrow_mut().remove(&self.chunk) {
            waiting.notify_waiters();
        }
    }
}

/// A fragment with its place and, where its slot must not be touched, its header area: ready to be written.
type Placed<D> = (usize, Reservation<D>, Option<Vec<u8>>);

pub(super) struct StripeWrite<'a, D: Disk> {
    pub(super) inner: &'a Inner<D>,
    pub(super) chunk: ChunkId,
    pub(super) layout: Slots<'a>,
    pub(super) priority: Priority,
}

impl<D: Disk> StripeWrite<'_, D> {
    /// Writes all fragments that belong here and are not, gives those whose device failed to others, and enters what is
    /// durable into the index. `answer` is told whether a device was full.
    pub(super) async fn run<T>(&self, mut memory: Memory, answer: impl FnOnce(&Self, bool) -> T) -> T {
        let mut refused = vec![false; self.inner.zones.len()];
        let mut full = false;
        for _ in 0..limits::MAX_PLACEMENT_ROUNDS {
            let plan = self.plan(&refused);
            if plan.is_empty() {
                break;
            }
            let (placed, no_space) = self.reserve(plan, &mut memory, &mut refused).await;
            full |= no_space;
            if no_space && self.is_hopeless() {
                break;
            }
            let shared = match memory {
                Memory::Own(buffer) => buffer.share(),
                Memory::Lent(slots) => slots,
            };
            full |= self.write(placed, &shared, &mut refused).await;
            memory = match (self.layout.of, shared) {
                (SlotsOf::Lent(_), shared) => Memory::Lent(shared),
                (_, shared) => match shared.try_unshare() {
                    Ok(buffer) => Memory::Own(buffer),
                    // A device still holds on to a slot; what it was given is in flight and can't be written elsewhere.
                    Err(_) => break,
                },
            };
        }
        let result = answer(self, full);
        self.seal().await;
        result
    }

    /// Without space for all of it a stripe is not begun; single fragments are taken as far as there is space.
    fn is_hopeless(&self) -> bool {
        let whole = matches!(self.layout.of, SlotsOf::Stripe);
        whole && self.inner.find_room(&self.layout.stripe, self.priority).is_err()
    }

    /// Which device gets which of the fragments that belong here and are on no device that works.
    fn plan(&self, refused: &[bool]) -> Vec<(usize, u8)> {
        let total = self.layout.stripe.geometry().total();
        let mut healthy = vec![false; total];
        {
            let index = self.inner.index.borrow();
            if let Some(known) = index.stripe(&self.chunk, self.layout.stripe.geometry()) {
                self.inner.healthy(&index, &known).for_each(|(fragment, _)| healthy[fragment] = true);
            }
        }
        // As many as will be here share the devices, not as many as the stripe has: the others lie on other nodes.
        let here = (0..total).filter(|fragment| healthy[*fragment] || self.layout.belongs(*fragment)).count();
        let missing = (0..total).filter(|fragment| !healthy[*fragment] && self.layout.belongs(*fragment));
        let missing: Vec<usize> = missing.collect();
        self.inner.plan(&self.chunk, self.layout.stripe.geometry(), &missing, here, refused)
    }

    /// Reserves space for each fragment of the plan and fills its header area.
    async fn reserve(
        &self,
        plan: Vec<(usize, u8)>,
        memory: &mut Memory,
        refused: &mut [bool],
    ) -> (Vec<Placed<D>>, bool) {
        let layout = self.layout.stripe;
        let blocks = (layout.slot_bytes() / BLOCK_BYTES) as u32;
        let mut placed = Vec::with_capacity(plan.len());
        let mut full = false;
        // All at once: devices fill alike, so the next segment is often due on each of them.
        let reservations = plan.into_iter().map(|(fragment, ordinal)| async move {
            (fragment, ordinal, self.inner.zones[usize::from(ordinal)].reserve(blocks, self.priority).await)
        });
        for (fragment, ordinal, reserved) in join_all(reservations).await {
            match reserved {
                Ok(reservation) => {
                    let header = FragmentHeader {
                        chunk: self.chunk,
                        geometry: layout.geometry(),
                        sealed_bytes: layout.sealed_bytes() as u32,
                        fragment: fragment as u8,
                        place: reservation.place(),
                        durable_block: reservation.durable_block,
                        placement_epoch: self.inner.placement_epoch.get(),
                        gc_epoch: u64::from(self.inner.gc_epoch.get()),
                    };
                    let apart = match memory {
                        Memory::Own(slots) => {
                            let area = self.layout.slot(fragment).start;
                            header.write(&mut slots[area..area + layout.header_bytes()]);
                            None
                        }
                        Memory::Lent(slots) => {
                            let mut area = slots[layout.slot(fragment)][..layout.header_bytes()].to_vec();
                            header.write(&mut area);
                            Some(area)
                        }
                    };
                    placed.push((fragment, reservation, apart));
                }
                Err((reason, error)) => {
                    let zone = &self.inner.zones[usize::from(ordinal)];
                    full |= reason == NoSpace::Full;
                    if let Some(error) = error {
                        self.inner.write_failed(zone, error);
                    }
                    // GC may have freed a segment while another device's header was awaited: then it is asked again.
                    refused[usize::from(ordinal)] =
                        reason == NoSpace::Failed || !zone.has_room(1, blocks, self.priority);
                }
            }
        }
        (placed, full)
    }

    /// Writes and flushes all at once; what is durable enters the index. Answers whether a device was full.
    async fn write(&self, placed: Vec<Placed<D>>, shared: &Slice, refused: &mut [bool]) -> bool {
        let writes = placed.into_iter().map(|(fragment, mut reservation, apart)| async move {
            if let Some(area) = apart
                && let Err(error) = reservation.write_front(&area).await
            {
                return (fragment, reservation, Err(error));
            }
            let slot = shared.slice(self.layout.slot(fragment));
            let written = match &reservation.zone.disk {
                None => Err(DiskError::Failed),
                Some(disk) => match disk.write(reservation.offset(), slot).await {
                    Ok(()) => reservation.zone.sync().await,
                    refused => refused,
                },
            };
            (fragment, reservation, written)
        });
        let mut full = false;
        for (fragment, reservation, written) in join_all(writes).await {
            let zone = reservation.zone.clone();
            match written {
                // A device that failed meanwhile, under another stripe, may have lost this write as well.
                Ok(()) if zone.works() => self.enter(fragment, reservation),
                Ok(()) => refused[usize::from(zone.ordinal)] = true,
                Err(error) => {
                    refused[usize::from(zone.ordinal)] = true;
                    full |= error == DiskError::Full;
                    self.inner.write_failed(&zone, error);
                }
            }
        }
        full
    }

    fn enter(&self, fragment: usize, reservation: Reservation<D>) {
        let layout = self.layout.stripe;
        let (geometry, sealed_bytes) = (layout.geometry(), layout.sealed_bytes() as u32);
        let mut index = self.inner.index.borrow_mut();
        let Some(known) = index.insert(self.chunk, geometry, sealed_bytes) else { return };
        self.inner.touch(&mut index, &self.chunk);
        let (location, zone) = (reservation.location(), reservation.zone.clone());
        let entry = IndexEntry {
            chunk: self.chunk,
            geometry,
            sealed_bytes,
            fragment: fragment as u8,
            block: reservation.place().block,
        };
        reservation.complete(entry);
        zone.add_live(location.segment, blocks_of(&known));
        // An older copy lies on a device that does not work.
        if let Some(before) = index.set(&known, fragment, Some(location)) {
            self.inner.zones[usize::from(before.device)].remove_live(before.segment, blocks_of(&known));
        }
    }

    fn receipt(&self, full: bool) -> Result<ChunkReceipt, StoreError> {
        let mut index = self.inner.index.borrow_mut();
        let geometry = self.layout.stripe.geometry();
        let (needed, known) = (needed_fragments(geometry), index.stripe(&self.chunk, geometry));
        let receipt = known.as_ref().and_then(|known| self.inner.receipt(&index, known, false));
        let fragments = known.map_or(0, |known| self.inner.healthy(&index, &known).count());
        match receipt {
            Some(receipt) => {
                // A receipt is of now, and devices that failed may have taken their time since the last fragment was entered.
                self.inner.touch(&mut index, &self.chunk);
                self.inner.counters.borrow_mut().chunks_stored += 1;
                Ok(receipt)
            }
            None => Err(match self.inner.find_room(&self.layout.stripe, self.priority) {
                // Devices failed meanwhile: space would not help.
                Err(error @ StoreError::Unavailable { .. }) => error,
                _ if full => StoreError::Full,
                _ => StoreError::Unavailable { fragments, needed },
            }),
        }
    }

    /// Writes the indexes of segments that are full now.
    async fn seal(&self) {
        let working = self.inner.zones.iter().filter(|zone| zone.works());
        let sealed = working.map(|zone| async move { (zone, zone.seal_ready().await) });
        for (zone, sealed) in join_all(sealed).await {
            if let Err(error) = sealed {
                self.inner.write_failed(zone, error);
            }
        }
    }
}

impl<D: Disk> Inner<D> {
    /// Which device gets which of the missing fragments of a stripe, of which `here` are to be on this node.
    pub(super) fn plan(
        &self,
        chunk: &ChunkId,
        geometry: Geometry,
        missing: &[usize],
        here: usize,
        refused: &[bool],
    ) -> Vec<(usize, u8)> {
        let index = self.index.borrow();
        let (known, total) = (index.stripe(chunk, geometry), geometry.total());
        let loads = known.map_or_else(|| vec![0; self.zones.len()], |known| self.loads(&index, &known));
        let mut candidates = self.candidates(&loads, refused);
        place(chunk, total, missing, &mut candidates, self.part(total, here))
    }

    /// How a stripe of which `here` fragments are on this node is shared out among its devices.
    pub(super) fn part(&self, total: usize, here: usize) -> placement::Part {
        // A part of a stripe that is spread over nodes goes to the devices that draw best for it, whatever its numbers.
        let of_slots = !self.spread.get() || here >= total;
        placement::Part { most: most_per_device(here, self.counted()), of_slots }
    }

    /// The devices that new fragments may go to.
    pub(super) fn candidates(&self, loads: &[usize], refused: &[bool]) -> Vec<placement::Candidate> {
        let candidate = |zone: &Rc<Zone<D>>| placement::Candidate {
            ordinal: zone.ordinal,
            device: zone.device,
            weight: zone.capacity_bytes(),
            takes: !refused[usize::from(zone.ordinal)],
            load: loads[usize::from(zone.ordinal)],
        };
        self.zones.iter().filter(|zone| zone.takes()).map(candidate).collect()
    }

    /// Whether a new chunk would find as many devices with space as work.
    pub(super) fn find_room(&self, layout: &StripeLayout, priority: Priority) -> Result<(), StoreError> {
        let (total, needed) = (layout.geometry().total(), needed_fragments(layout.geometry()));
        let most = most_per_device(total, self.counted());
        let blocks = (layout.slot_bytes() / BLOCK_BYTES) as u32;
        let working = self.zones.iter().filter(|zone| zone.takes()).count();
        let fragments = total.min(working * most);
        if fragments < needed {
            return Err(StoreError::Unavailable { fragments, needed });
        }
        // A device may get several fragments where there are few devices.
        let with_room = self.zones.iter().filter(|zone| zone.has_room(most, blocks, priority)).count();
        if with_room * most < fragments { Err(StoreError::Full) } else { Ok(()) }
    }

    /// Whether records of this layout may join what is known of the chunk. An entry of another length of which nothing is left
    /// is in nobody's way.
    pub(super) fn may_join(&self, chunk: &ChunkId, layout: &StripeLayout) -> Result<(), StoreError> {
        let index = self.index.borrow();
        let differs = |known: &Known| known.sealed_bytes as usize != layout.sealed_bytes();
        match index.stripes(chunk).any(|known| differs(&known) && index.locations(&known).next().is_some()) {
            true => Err(StoreError::Contradiction(*chunk)),
            false => Ok(()),
        }
    }

    /// Sees to it that they may.
    pub(super) fn make_way(&self, chunk: &ChunkId, layout: &StripeLayout) -> Result<(), StoreError> {
        self.may_join(chunk, layout)?;
        let mut index = self.index.borrow_mut();
        if index.sealed_bytes(chunk).is_some_and(|known| known as usize != layout.sealed_bytes()) {
            let empty: Vec<Known> = index.stripes(chunk).collect();
            empty.iter().for_each(|known| index.remove(chunk, known));
        }
        Ok(())
    }
}
