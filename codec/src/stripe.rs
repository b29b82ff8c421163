//! How a sealed chunk lies in its fragments, and a fragment in its buffer and on its device.
//!
//! Fragment i of the k data fragments is the i-th contiguous range of the sealed chunk, so that a range read touches
//! one or two of them. All fragments of a stripe have one length, a multiple of 4 KiB; the last ones are filled up
//! with zeros. In memory a stripe is k+m *slots*, each [header area | fragment], exactly as it is written to a device:
//! received bytes go straight to their place, and a fragment is one write.
//!
//! | for a chunk of S bytes in k+m | bytes |
//! |---|---|
//! | fragment F | S / k rounded up, to a multiple of 4,096 |
//! | header area H | 256 + 4 a block of F, to a multiple of 4,096 |
//! | slot | H + F |
//! | buffer | (k + m) slots |
//!
//! 4+2 with 4 MiB of plaintext: S = 4,195,328, F = 1,052,672, H = 4,096, a slot 1,056,768, the buffer 6,340,608.

use crate::erasure::Geometry;
use crate::limits::BLOCK_BYTES;
use std::ops::Range;

/// Room for a fragment's frame header and fixed fields, before its checksum table.
pub const FRAGMENT_FIXED_BYTES: usize = 256;

/// The layout of one stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StripeLayout {
    geometry: Geometry,
    sealed_bytes: usize,
    fragment_bytes: usize,
    header_bytes: usize,
}

impl StripeLayout {
    /// For a sealed chunk of `sealed_bytes` (at least 1).
    pub fn new(geometry: Geometry, sealed_bytes: usize) -> Self {
        assert!(sealed_bytes > 0, "a chunk is not empty");
        let fragment_bytes = sealed_bytes.div_ceil(geometry.data()).next_multiple_of(BLOCK_BYTES);
        let checksums = fragment_bytes / BLOCK_BYTES * 4;
        let header_bytes = (FRAGMENT_FIXED_BYTES + checksums).next_multiple_of(BLOCK_BYTES);
        Self { geometry, sealed_bytes, fragment_bytes, header_bytes }
    }

    /// Its geometry.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
    /// Bytes of the sealed chunk.
    pub fn sealed_bytes(&self) -> usize {
        self.sealed_bytes
    }
    /// Bytes of each fragment.
    pub fn fragment_bytes(&self) -> usize {
        self.fragment_bytes
    }
    /// Bytes before the fragment in its slot.
    pub fn header_bytes(&self) -> usize {
        self.header_bytes
    }
    /// Bytes of a slot, in memory and on a device.
    pub fn slot_bytes(&self) -> usize {
        self.header_bytes + self.fragment_bytes
    }
    /// Bytes of the buffer that holds all slots.
    pub fn buffer_bytes(&self) -> usize {
        self.slot_bytes() * self.geometry.total()
    }
    /// Where slot `index` lies in the buffer.
    pub fn slot(&self, index: usize) -> Range<usize> {
        index * self.slot_bytes()..(index + 1) * self.slot_bytes()
    }
    /// Where fragment `index` lies in the buffer.
    pub fn fragment(&self, index: usize) -> Range<usize> {
        let start = index * self.slot_bytes() + self.header_bytes;
        start..start + self.fragment_bytes
    }
    /// The range of the sealed chunk that data fragment `index` holds; empty past the chunk's end.
    pub fn chunk_range(&self, index: usize) -> Range<usize> {
        let at = |index: usize| (index * self.fragment_bytes).min(self.sealed_bytes);
        at(index)..at(index + 1)
    }
    /// The fragments that hold a range of the sealed chunk, each with the range within it, in order. What is past the
    /// chunk's end is in none, and an empty range too.
    pub fn locate(&self, range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let layout = *self;
        let end = range.end.min(self.sealed_bytes);
        let start = range.start.min(end);
        let first = start / self.fragment_bytes;
        let last = if start == end { first } else { end.div_ceil(self.fragment_bytes) };
        (first..last).map(move |index| {
            let held = layout.chunk_range(index);
            (index, start.max(held.start) - held.start..end.min(held.end) - held.start)
        })
    }
}
