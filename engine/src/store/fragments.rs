//! How single fragments of a chunk get in, whose others lie on other nodes.
//!
//! What comes from another node is copied once, into slots like those of a stripe, and gets its checksums on the way;
//! what lies in a [`Stripe`] of this node is written from there. Which fragments belong here is decided above the store;
//! which device gets them is its own affair. An answer names what is durable here, and only that: the chunk's hash can't
//! be checked by who has a part of it, so that is the coordinator's promise.

use super::decode::{check_names, layout_of};
use super::put::{StripeWrite, Turn};
use super::slots::{Memory, Slots, SlotsOf};
use super::zone::Priority;
use super::{Inner, Store, StoreError, Stripe, limits, uncancelled};
use farside_codec::checksum::block_checksums;
use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::record::fragment::set_checksum;
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;
use farside_io::pool::Buffer;

/// Fragments that are being received. Dropped, it leaves nothing behind.
pub struct FragmentsWriter<D: Disk> {
    store: Store<D>,
    chunk: ChunkId,
    layout: StripeLayout,
    fragments: Vec<u8>,
    /// `None`: all of them are here already, and their bytes are counted and let go.
    slots: Option<Buffer>,
    received: usize,
    /// Bytes that have their checksums; whole blocks.
    summed: usize,
}

impl<D: Disk> Store<D> {
    /// Takes room in memory for these fragments of a chunk of `sealed_bytes`, and waits for it where the pool is empty.
    ///
    /// Errors: `Size`, `Fragments` (not of the stripe, named twice, or none),
    /// `Contradiction` (here with another length), and `Full` or `Unavailable` where not one of them would find a place.
    pub async fn begin_fragments(
        &self,
        chunk: ChunkId,
        geometry: Geometry,
        sealed_bytes: usize,
        fragments: &[u8],
    ) -> Result<FragmentsWriter<D>, StoreError> {
        let layout = layout_of(geometry, sealed_bytes)?;
        let present = self.0.admit_fragments(&chunk, &layout, fragments)?;
        let too_large = StoreError::Size { sealed_bytes };
        let bytes = fragments.len() * layout.slot_bytes();
        // The other half is where a read of them finds room.
        if bytes > self.0.pool.total_bytes() / 2 {
            return Err(too_large);
        }
        let slots = match present {
            true => None,
            false => Some(self.0.pool.take(bytes).await.map_err(|_| too_large)?),
        };
        let (store, fragments) = (self.clone(), fragments.to_vec());
        Ok(FragmentsWriter { store, chunk, layout, fragments, slots, received: 0, summed: 0 })
    }

    /// Makes some fragments of a stripe durable here, straight from its memory: the answer and the errors are those of
    /// [`Store::begin_fragments`] and [`FragmentsWriter::commit`]. Once begun it runs to its end.
    pub async fn put_fragments(&self, stripe: &Stripe, fragments: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.put_lent(stripe, fragments, false).await
    }

    /// The same for fragments that are missing of a chunk that is here: `NotFound` where it is no more, because what was
    /// collected meanwhile must not come back as a part of itself.
    pub(super) async fn put_missing(&self, stripe: &Stripe, fragments: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.put_lent(stripe, fragments, true).await
    }

    async fn put_lent(&self, stripe: &Stripe, fragments: &[u8], of_known: bool) -> Result<Vec<u8>, StoreError> {
        self.0.admit_fragments(&stripe.chunk(), &stripe.layout(), fragments)?;
        let (store, stripe, fragments) = (self.clone(), stripe.clone(), fragments.to_vec());
        uncancelled(async move {
            let (memory, of) = (Memory::Lent(stripe.slots()), SlotsOf::Lent(&fragments));
            store.0.write_fragments(stripe.chunk(), stripe.layout(), of, memory, of_known).await
        })
        .await
    }
}

impl<D: Disk> FragmentsWriter<D> {
    /// All of the fragments are here already: their bytes need not be sent, and [`FragmentsWriter::commit`] answers at
    /// once.
    pub fn is_present(&self) -> bool {
        self.slots.is_none()
    }

    /// Bytes of all the fragments together, in the order in which they were named.
    pub fn announced_bytes(&self) -> usize {
        self.fragments.len() * self.layout.fragment_bytes()
    }

    /// Takes the next bytes of the fragments, which come one after the other, each whole. `Length`: there are too many.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let announced = self.announced_bytes();
        if bytes.len() > announced - self.received {
            return Err(StoreError::Length { announced, got: self.received + bytes.len() });
        }
        let Some(slots) = &mut self.slots else {
            self.received += bytes.len();
            return Ok(());
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = self.received % self.layout.fragment_bytes();
            // Never further ahead of the checksums than what the cache holds, and never past the fragment's end.
            let ahead = self.summed + limits::HASH_BYTES - self.received;
            let (now, later) = rest.split_at(rest.len().min(ahead).min(self.layout.fragment_bytes() - at));
            let slot = &mut slots[self.layout.slot(self.received / self.layout.fragment_bytes())];
            let (area, data) = slot.split_at_mut(self.layout.header_bytes());
            let end = at + now.len();
            data[at..end].copy_from_slice(now);
            self.received += now.len();
            if end == data.len() || now.len() == ahead {
                let first = (end - (self.received - self.summed)) / BLOCK_BYTES;
                let checksums = block_checksums(&data[first * BLOCK_BYTES..end]);
                (first..).zip(checksums).for_each(|(block, checksum)| set_checksum(area, block, checksum));
                self.summed = self.received;
            }
            rest = later;
        }
        Ok(())
    }

    /// Makes the fragments durable and names those that are now, in the order of their numbers: at least one. Where the
    /// same chunk is being stored already, waits for that; what is here is not written again. The chunk is touched.
    ///
    /// Errors, all of which mean that nothing of this is kept: `Length` (bytes are missing), `Contradiction`, `Full`,
    /// `Unavailable`, `NotFound` (they were here and are no more: to be sent again), `Stopped`.
    pub async fn commit(mut self) -> Result<Vec<u8>, StoreError> {
        let announced = self.announced_bytes();
        let Some(slots) = self.slots.take() else {
            let held = self.store.0.hold(&self.chunk, &self.layout, &self.fragments);
            return if held.is_empty() { Err(StoreError::NotFound(self.chunk)) } else { Ok(held) };
        };
        if self.received != announced {
            return Err(StoreError::Length { announced, got: self.received });
        }
        uncancelled(async move {
            let of = SlotsOf::Part(&self.fragments);
            self.store.0.write_fragments(self.chunk, self.layout, of, Memory::Own(slots), false).await
        })
        .await
    }
}

impl<D: Disk> Inner<D> {
    /// Refuses early what could not be stored in the end. Answers whether all of it is here already.
    fn admit_fragments(&self, chunk: &ChunkId, layout: &StripeLayout, named: &[u8]) -> Result<bool, StoreError> {
        check_names(layout.geometry(), named.iter().map(|fragment| usize::from(*fragment)))?;
        self.may_join(chunk, layout)?;
        if self.hold(chunk, layout, named).len() == named.len() {
            return Ok(true);
        }
        self.find_place(layout, Priority::Client)?;
        Ok(false)
    }

    /// Those of the named fragments that are here on devices that work; touches the chunk if there are any.
    fn hold(&self, chunk: &ChunkId, layout: &StripeLayout, named: &[u8]) -> Vec<u8> {
        let mut index = self.index.borrow_mut();
        let known = index.stripe(chunk, layout.geometry()).filter(|known| known.layout() == *layout);
        let Some(known) = known else { return Vec::new() };
        let healthy = self.healthy(&index, &known).map(|(fragment, _)| fragment as u8);
        let held: Vec<u8> = healthy.filter(|fragment| named.contains(fragment)).collect();
        if !held.is_empty() {
            self.touch(&mut index, chunk);
        }
        held
    }

    async fn write_fragments(
        &self,
        chunk: ChunkId,
        stripe: StripeLayout,
        of: SlotsOf<'_>,
        memory: Memory,
        of_known: bool,
    ) -> Result<Vec<u8>, StoreError> {
        let _turn = Turn::take(self, chunk).await;
        if of_known && self.index.borrow().sealed_bytes(&chunk).is_none() {
            return Err(StoreError::NotFound(chunk));
        }
        self.make_way(&chunk, &stripe)?;
        let layout = Slots { stripe, of };
        let write = StripeWrite { inner: self, chunk, layout, priority: Priority::Client };
        write.run(memory, |_, full| self.name_durable(&chunk, &layout, full)).await
    }

    fn name_durable(&self, chunk: &ChunkId, layout: &Slots<'_>, full: bool) -> Result<Vec<u8>, StoreError> {
        let held = self.hold(chunk, &layout.stripe, layout.named());
        match self.find_place(&layout.stripe, Priority::Client) {
            _ if !held.is_empty() => Ok(held),
            // Devices failed meanwhile: space would not help.
            Err(error @ StoreError::Unavailable { .. }) => Err(error),
            _ if full => Err(StoreError::Full),
            _ => Err(StoreError::Unavailable { fragments: 0, needed: 1 }),
        }
    }

    /// Whether any device would take a fragment of this layout.
    pub(super) fn find_place(&self, layout: &StripeLayout, priority: Priority) -> Result<(), StoreError> {
        let blocks = (layout.slot_bytes() / BLOCK_BYTES) as u32;
        let working = || self.zones.iter().filter(|zone| zone.takes());
        if working().next().is_none() {
            return Err(StoreError::Unavailable { fragments: 0, needed: 1 });
        }
        if !working().any(|zone| zone.holds(blocks)) {
            return Err(StoreError::Size { sealed_bytes: layout.sealed_bytes() });
        }
        match working().any(|zone| zone.has_room(1, blocks, priority)) {
            true => Ok(()),
            false => Err(StoreError::Full),
        }
    }
}
