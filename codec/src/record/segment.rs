//! A segment's first block, which says which use of the segment this is, and its last blocks, which say what is in it.
//!
//! A segment is written from its second block on, one fragment record after another. When it is full its index is
//! written at its end: entries padded to whole blocks, then one footer block that carries their checksum. The footer's
//! block never holds a fragment, so that a footer is always found at the same place.

use crate::erasure::Geometry;
use crate::field::DecodeError;
use crate::frame::{FrameHeader, HEADER_BYTES};
use crate::ids::{ChunkId, DeviceId};
use crate::limits::{BLOCK_BYTES, MAX_CHUNK_SEALED_BYTES};
use crate::message::kind;
use crate::record::superblock::framed;
use crate::stripe::StripeLayout;
use crate::{Field, choice, record};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian};

choice!(
    /// Whether a segment's records count.
    SegmentUse {
        /// It holds records of its generation.
        Records = 1,
        /// It was freed; records of its generation and below are stale.
        Free = 2,
    }
);

record!(
    /// A segment's first block.
    SegmentHeader {
        /// The device.
        device: DeviceId,
        /// The zone of the device.
        shard: u16,
        /// The segment of the zone.
        segment: u32,
        /// Which use of the segment; rises within a zone and is never used twice.
        generation: u64,
        /// Whether its records count.
        usage: SegmentUse,
    }
);

record!(
    /// A sealed segment's last block.
    SegmentFooter {
        /// The device.
        device: DeviceId,
        /// The zone of the device.
        shard: u16,
        /// The segment of the zone.
        segment: u32,
        /// Which use of the segment.
        generation: u64,
        /// Entries of the index.
        entries: u32,
        /// CRC32 of the entries.
        entries_crc: u32,
    }
);

fn block_of<R: Field>(kind: u16, generation: u64, record: &R) -> [u8; BLOCK_BYTES] {
    let payload = record.to_bytes();
    let header = FrameHeader::of_payload(kind, 0, generation, &payload);
    let mut block = [0; BLOCK_BYTES];
    block[..HEADER_BYTES].copy_from_slice(&header.to_array());
    block[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(&payload);
    block
}

impl SegmentHeader {
    /// The block to write.
    pub fn to_block(&self) -> [u8; BLOCK_BYTES] {
        block_of(kind::SEGMENT, self.generation, self)
    }
    /// Reads and checks a block.
    pub fn from_block(block: &[u8]) -> Result<Self, DecodeError> {
        framed(block, kind::SEGMENT, "segment header")
    }
}

impl SegmentFooter {
    /// The block to write.
    pub fn to_block(&self) -> [u8; BLOCK_BYTES] {
        block_of(kind::SEGMENT_INDEX, self.generation, self)
    }
    /// Reads and checks a block.
    pub fn from_block(block: &[u8]) -> Result<Self, DecodeError> {
        framed(block, kind::SEGMENT_INDEX, "segment footer")
    }
}

/// One fragment, as a segment's index names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The chunk.
    pub chunk: ChunkId,
    /// How the chunk is cut.
    pub geometry: Geometry,
    /// Bytes of the sealed chunk.
    pub sealed_bytes: u32,
    /// Which fragment.
    pub fragment: u8,
    /// First block of the record in its segment.
    pub block: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    chunk: [u8; 32],
    sealed_bytes: little_endian::U32,
    block: little_endian::U32,
    fragment: u8,
    data: u8,
    parity: u8,
    code: u8,
    reserved: little_endian::U32,
}

/// Bytes of an index entry.
pub const INDEX_ENTRY_BYTES: usize = size_of::<RawEntry>();
const _: () = assert!(INDEX_ENTRY_BYTES == 48);

/// Bytes at a segment's end that an index of so many entries takes, its footer included.
pub fn index_bytes(entries: usize) -> usize {
    (entries * INDEX_ENTRY_BYTES).next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES
}

impl IndexEntry {
    /// How the stripe lies.
    pub fn layout(&self) -> StripeLayout {
        StripeLayout::new(self.geometry, self.sealed_bytes as usize)
    }

    /// Blocks of the record.
    pub fn blocks(&self) -> u32 {
        (self.layout().slot_bytes() / BLOCK_BYTES) as u32
    }

    /// Writes the entry's bytes.
    pub fn write(&self, out: &mut [u8]) {
        let raw = RawEntry {
            chunk: self.chunk.0,
            sealed_bytes: self.sealed_bytes.into(),
            block: self.block.into(),
            fragment: self.fragment,
            data: self.geometry.data() as u8,
            parity: self.geometry.parity() as u8,
            code: self.geometry.code() as u8,
            reserved: 0.into(),
        };
        out.copy_from_slice(raw.as_bytes());
    }

    /// Reads and checks an entry of a segment of `segment_blocks`.
    pub fn read(bytes: &[u8], segment_blocks: u32) -> Result<Self, DecodeError> {
        let (raw, _) = RawEntry::read_from_prefix(bytes)
            .map_err(|_| DecodeError::Truncated { need: INDEX_ENTRY_BYTES, have: bytes.len() })?;
        let invalid = DecodeError::Invalid { what: "segment index entry" };
        let geometry = Geometry::new(usize::from(raw.data), usize::from(raw.parity)).ok_or(invalid.clone())?;
        let sealed_bytes = raw.sealed_bytes.get();
        let good = geometry.code() as u8 == raw.code
            && usize::from(raw.fragment) < geometry.total()
            && (1..=MAX_CHUNK_SEALED_BYTES).contains(&(sealed_bytes as usize));
        if !good {
            return Err(invalid);
        }
        let block = raw.block.get();
        let entry = Self { chunk: ChunkId(raw.chunk), geometry, sealed_bytes, fragment: raw.fragment, block };
        match block.checked_add(entry.blocks()) {
            Some(end) if block > 0 && end < segment_blocks => Ok(entry),
            _ => Err(invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_segment() {
        let (device, shard, segment, generation) = (DeviceId([4; 16]), 1, 9, 12);
        let header = SegmentHeader { device, shard, segment, generation, usage: SegmentUse::Records };
        let footer = SegmentFooter { device, shard, segment, generation, entries: 3, entries_crc: 0x0102_0304 };
        assert_eq!(SegmentHeader::from_block(&header.to_block()), Ok(header.clone()));
        assert_eq!(SegmentFooter::from_block(&footer.to_block()), Ok(footer.clone()));
        assert!(SegmentFooter::from_block(&header.to_block()).is_err());
        let entry = IndexEntry {
            chunk: ChunkId([5; 32]),
            geometry: Geometry::DEFAULT,
            sealed_bytes: 70_000,
            fragment: 2,
            block: 17,
        };
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        entry.write(&mut bytes);
        assert_eq!(IndexEntry::read(&bytes, 256), Ok(entry));
        assert!(IndexEntry::read(&bytes, 17 + entry.blocks()).is_err(), "the footer's block is no record's");
        let all = [&header.to_block()[..], &footer.to_block()[..], &bytes[..]].concat();
        assert_eq!(blake3::hash(&all).to_hex().as_str(), GOLDEN);
    }
    const GOLDEN: &str = "63824874f1d2d6553e59c9d386642524d266fca19deb56eaa137bd65e75599e4";
}
