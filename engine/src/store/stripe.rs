//! A coded stripe in memory, from which fragments go to several nodes and devices at once.
//!
//! It is read by whoever sends a fragment while the store writes others to its devices, so nobody changes it. Its buffer
//! and its share of the memory that stripes may take go back when the last fragment was sent.

use bytes::Bytes;
use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_codec::stripe::StripeLayout;
use farside_io::pool::{Buffer, Slice};
use tokio::sync::OwnedSemaphorePermit;

/// All fragments of a chunk. Clones share them.
#[derive(Debug, Clone)]
pub struct Stripe {
    chunk: ChunkId,
    layout: StripeLayout,
    /// All slots, and the share that is given back with them.
    bytes: Bytes,
    slots: Slice,
}

/// What a stripe's bytes keep.
struct Kept {
    slots: Slice,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.slots
    }
}

impl Stripe {
    /// Of slots that hold everything but the fields of their headers.
    pub(super) fn new(
        chunk: ChunkId,
        layout: StripeLayout,
        slots: Buffer,
        share: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let slots = slots.share();
        let bytes = Bytes::from_owner(Kept { slots: slots.clone(), _share: share });
        Self { chunk, layout, bytes, slots }
    }

    /// The chunk.
    pub fn chunk(&self) -> ChunkId {
        self.chunk
    }
    /// How it is cut.
    pub fn geometry(&self) -> Geometry {
        self.layout.geometry()
    }
    /// Bytes of the sealed chunk.
    pub fn sealed_bytes(&self) -> usize {
        self.layout.sealed_bytes()
    }
    /// Bytes of each fragment, a multiple of 4 KiB.
    pub fn fragment_bytes(&self) -> usize {
        self.layout.fragment_bytes()
    }
    /// How it lies.
    pub fn layout(&self) -> StripeLayout {
        self.layout
    }
    /// One of its fragments, without a copy: data from 0, parity from k. Asserts that the stripe has it.
    pub fn fragment(&self, index: usize) -> Bytes {
        assert!(index < self.geometry().total(), "a fragment is one of its stripe");
        self.bytes.slice(self.layout.fragment(index))
    }

    pub(super) fn slots(&self) -> Slice {
        self.slots.clone()
    }
}
