//! A fragment on its device: frame header, fixed fields, a checksum a block, then the fragment itself.
//!
//! The header area says everything that a scan needs: which chunk, how it was cut and coded, and the exact place for
//! which the record was written. A record found at another place is misdirected or stale, whatever its checksums say.
//! The frame's payload is the header area behind the frame header, so that one CRC covers fields, table and padding.

use crate::erasure::Geometry;
use crate::field::DecodeError;
use crate::frame::{FrameHeader, HEADER_BYTES};
use crate::ids::{ChunkId, DeviceId};
use crate::limits::{BLOCK_BYTES, MAX_CHUNK_SEALED_BYTES};
use crate::message::kind;
use crate::stripe::{FRAGMENT_FIXED_BYTES, StripeLayout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian};

/// Where a record lies: its block is counted from the start of its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The device.
    pub device: DeviceId,
    /// The zone of the device.
    pub shard: u16,
    /// The segment of the zone.
    pub segment: u32,
    /// Which use of the segment.
    pub generation: u64,
    /// First block of the record.
    pub block: u32,
}

/// A fragment's header, read and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    /// The chunk.
    pub chunk: ChunkId,
    /// How the chunk is cut.
    pub geometry: Geometry,
    /// Bytes of the sealed chunk.
    pub sealed_bytes: u32,
    /// Which fragment: data from 0, parity from k.
    pub fragment: u8,
    /// Where it was written to.
    pub place: Place,
    /// Everything in the segment below this block was durable when this was written, so what is bad there is damage
    /// and no torn write.
    pub durable_block: u32,
    /// Placement epoch under which it was written.
    pub placement_epoch: u64,
    /// GC epoch in which it was written.
    pub gc_epoch: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    chunk: [u8; 32],
    device: [u8; 16],
    generation: little_endian::U64,
    placement_epoch: little_endian::U64,
    gc_epoch: little_endian::U64,
    segment: little_endian::U32,
    block: little_endian::U32,
    durable_block: little_endian::U32,
    sealed_bytes: little_endian::U32,
    shard: little_endian::U16,
    data: u8,
    parity: u8,
    code: u8,
    fragment: u8,
    reserved: [u8; 130],
}

const _: () = assert!(size_of::<Fixed>() + HEADER_BYTES == FRAGMENT_FIXED_BYTES);

impl FragmentHeader {
    /// How the stripe lies.
    pub fn layout(&self) -> StripeLayout {
        StripeLayout::new(self.geometry, self.sealed_bytes as usize)
    }

    /// Fills a header area, all but the checksum table, which lies there already (see [`checksum_table`]).
    pub fn write(&self, area: &mut [u8]) {
        let layout = self.layout();
        assert_eq!(area.len(), layout.header_bytes(), "a header area has its stripe's size");
        assert!(usize::from(self.fragment) < self.geometry.total(), "a fragment is one of its stripe");
        let fixed = Fixed {
            chunk: self.chunk.0,
            device: self.place.device.0,
            generation: self.place.generation.into(),
            placement_epoch: self.placement_epoch.into(),
            gc_epoch: self.gc_epoch.into(),
            segment: self.place.segment.into(),
            block: self.place.block.into(),
            durable_block: self.durable_block.into(),
            sealed_bytes: self.sealed_bytes.into(),
            shard: self.place.shard.into(),
            data: self.geometry.data() as u8,
            parity: self.geometry.parity() as u8,
            code: self.geometry.code() as u8,
            fragment: self.fragment,
            reserved: [0; 130],
        };
        area[HEADER_BYTES..FRAGMENT_FIXED_BYTES].copy_from_slice(fixed.as_bytes());
        area[FRAGMENT_FIXED_BYTES + layout.fragment_bytes() / BLOCK_BYTES * 4..].fill(0);
        let header = FrameHeader::of_payload(kind::FRAGMENT, 0, self.place.generation, &area[HEADER_BYTES..]);
        area[..HEADER_BYTES].copy_from_slice(&header.to_array());
    }

    /// How many bytes the header area that begins with `block` has, if its frame header is good.
    pub fn area_bytes(block: &[u8]) -> Result<usize, DecodeError> {
        let header = FrameHeader::decode(block)?;
        if header.kind() != kind::FRAGMENT {
            return Err(DecodeError::Unknown { what: "fragment record kind", value: u64::from(header.kind()) });
        }
        let length = header.check_length(MAX_CHUNK_SEALED_BYTES)?;
        match (length + HEADER_BYTES).is_multiple_of(BLOCK_BYTES) {
            true => Ok(length + HEADER_BYTES),
            false => Err(DecodeError::Invalid { what: "fragment header length" }),
        }
    }

    /// Reads and checks the header area at the front of `bytes`, with its checksum table.
    pub fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let length = Self::area_bytes(bytes)?;
        let have = bytes.len();
        let area = bytes.get(..length).ok_or(DecodeError::Truncated { need: length, have })?;
        FrameHeader::decode(area)?.check_payload(&area[HEADER_BYTES..])?;
        let (fixed, _) = Fixed::read_from_prefix(&area[HEADER_BYTES..])
            .map_err(|_| DecodeError::Truncated { need: FRAGMENT_FIXED_BYTES, have })?;
        let geometry = Geometry::new(usize::from(fixed.data), usize::from(fixed.parity))
            .filter(|geometry| geometry.code() as u8 == fixed.code)
            .ok_or(DecodeError::Invalid { what: "fragment geometry" })?;
        let sealed_bytes = fixed.sealed_bytes.get();
        if sealed_bytes == 0 || sealed_bytes as usize > MAX_CHUNK_SEALED_BYTES {
            return Err(DecodeError::Invalid { what: "fragment chunk length" });
        }
        let header = Self {
            chunk: ChunkId(fixed.chunk),
            geometry,
            sealed_bytes,
            fragment: fixed.fragment,
            place: Place {
                device: DeviceId(fixed.device),
                shard: fixed.shard.get(),
                segment: fixed.segment.get(),
                generation: fixed.generation.get(),
                block: fixed.block.get(),
            },
            durable_block: fixed.durable_block.get(),
            placement_epoch: fixed.placement_epoch.get(),
            gc_epoch: fixed.gc_epoch.get(),
        };
        if usize::from(fixed.fragment) >= geometry.total() || header.layout().header_bytes() != length {
            return Err(DecodeError::Invalid { what: "fragment layout" });
        }
        Ok(header)
    }
}

/// Puts the checksum of one block of the fragment into its header area.
pub fn set_checksum(area: &mut [u8], block: usize, checksum: u32) {
    let at = FRAGMENT_FIXED_BYTES + block * 4;
    area[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// The checksums in a header area that [`FragmentHeader::read`] found good, from one block of the fragment on.
pub fn checksum_table(area: &[u8], from_block: usize) -> impl Iterator<Item = u32> {
    let table = area[FRAGMENT_FIXED_BYTES + from_block * 4..].chunks_exact(4);
    table.map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FragmentHeader {
        FragmentHeader {
            chunk: ChunkId([7; 32]),
            geometry: Geometry::DEFAULT,
            sealed_bytes: 40_000,
            fragment: 5,
            place: Place { device: DeviceId([9; 16]), shard: 1, segment: 2, generation: 3, block: 4 },
            durable_block: 1,
            placement_epoch: 5,
            gc_epoch: 6,
        }
    }

    fn area() -> Vec<u8> {
        let mut area = vec![0xEE; header().layout().header_bytes()];
        for block in 0..header().layout().fragment_bytes() / BLOCK_BYTES {
            set_checksum(&mut area, block, block as u32 + 100);
        }
        header().write(&mut area);
        area
    }

    #[test]
    fn golden_fragment_header() {
        let area = area();
        assert_eq!(FragmentHeader::read(&area), Ok(header()));
        assert_eq!(checksum_table(&area, 1).take(2).collect::<Vec<_>>(), [101, 102]);
        assert_eq!(blake3::hash(&area).to_hex().as_str(), GOLDEN);
    }
    const GOLDEN: &str = "53f29f675a9af242932e75f13dae8b1cbc6519f8c3a9d58379f336b86ec42169";

    #[test]
    fn any_flipped_byte_is_noticed() {
        let good = area();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(FragmentHeader::read(&bad).is_err(), "byte {at}");
        }
        assert!(FragmentHeader::read(&good[..good.len() - 1]).is_err());
    }
}
