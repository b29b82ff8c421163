//! The one header in front of every frame on the wire and every record on a disk.
//!
//! 32 bytes, little-endian, no padding. The header guards itself with its own CRC32, so that a length is never
//! believed before it is checked; the payload's CRC32 guards what follows. WIRE.md holds the table.

use crate::field::DecodeError;
use crate::limits;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian};

/// First bytes of every frame: "FSD1" read as little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"FSD1");
/// Newest format version that this build writes.
pub const VERSION: u16 = 1;
/// Oldest format version that this build reads.
pub const OLDEST_VERSION: u16 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 32;

/// The header as it lies in memory, on the wire and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    magic: little_endian::U32,
    version: little_endian::U16,
    kind: little_endian::U16,
    length: little_endian::U32,
    payload_crc: little_endian::U32,
    correlation: little_endian::U64,
    flags: little_endian::U32,
    header_crc: little_endian::U32,
}

const _: () = assert!(size_of::<FrameHeader>() == HEADER_BYTES);

impl FrameHeader {
    /// A header for a payload of `length` bytes whose CRC32 is `payload_crc`. `correlation` is the request's number
    /// on a wire and the record's position on a disk.
    pub fn new(kind: u16, flags: u32, correlation: u64, length: u32, payload_crc: u32) -> Self {
        let mut header = Self {
            magic: MAGIC.into(),
            version: VERSION.into(),
            kind: kind.into(),
            length: length.into(),
            payload_crc: payload_crc.into(),
            correlation: correlation.into(),
            flags: flags.into(),
            header_crc: 0.into(),
        };
        header.header_crc = header.own_crc().into();
        header
    }

    /// A header for this payload.
    pub fn of_payload(kind: u16, flags: u32, correlation: u64, payload: &[u8]) -> Self {
        assert!(payload.len() <= u32::MAX as usize, "a payload's length fits its field");
        Self::new(kind, flags, correlation, payload.len() as u32, crc32fast::hash(payload))
    }

    /// Reads and checks a header: magic, own CRC, version, in this order, so that damage is told from age.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (header, _) = Self::read_from_prefix(bytes)
            .map_err(|_| DecodeError::Truncated { need: HEADER_BYTES, have: bytes.len() })?;
        if header.magic.get() != MAGIC {
            return Err(DecodeError::Corrupt { what: "frame magic" });
        }
        if header.header_crc.get() != header.own_crc() {
            return Err(DecodeError::Corrupt { what: "frame header checksum" });
        }
        let version = header.version.get();
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(DecodeError::Version { got: version, oldest: OLDEST_VERSION, newest: VERSION });
        }
        Ok(header)
    }

    /// The header's bytes.
    pub fn to_array(&self) -> [u8; HEADER_BYTES] {
        zerocopy::transmute!(*self)
    }

    /// What the payload is.
    pub fn kind(&self) -> u16 {
        self.kind.get()
    }
    /// Bytes of the payload.
    pub fn length(&self) -> usize {
        self.length.get() as usize
    }
    /// Free bits of the kind.
    pub fn flags(&self) -> u32 {
        self.flags.get()
    }
    /// The request's number on a wire, the record's position on a disk.
    pub fn correlation(&self) -> u64 {
        self.correlation.get()
    }
    /// CRC32 of the payload.
    pub fn payload_crc(&self) -> u32 {
        self.payload_crc.get()
    }

    /// Checks the payload's length and CRC.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), DecodeError> {
        if payload.len() != self.length() {
            return Err(DecodeError::Truncated { need: self.length(), have: payload.len() });
        }
        match crc32fast::hash(payload) == self.payload_crc() {
            true => Ok(()),
            false => Err(DecodeError::Corrupt { what: "frame payload checksum" }),
        }
    }

    /// Refuses a payload that is larger than any frame (other than a chunk body) may be.
    pub fn check_length(&self, limit: usize) -> Result<usize, DecodeError> {
        debug_assert!(limit <= limits::MAX_CHUNK_SEALED_BYTES);
        match self.length() {
            length if length <= limit => Ok(length),
            got => Err(DecodeError::TooLong { what: "frame", limit, got }),
        }
    }

    fn own_crc(&self) -> u32 {
        crc32fast::hash(&self.as_bytes()[..HEADER_BYTES - 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_header() {
        let header = FrameHeader::of_payload(0x0102, 3, 0x1122_3344_5566_7788, b"farside");
        let hex: String = header.to_array().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(FrameHeader::decode(&header.to_array()), Ok(header));
    }
    const GOLDEN: &str = "465344310100020107000000580d7537887766554433221103000000ae6986e2";

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = FrameHeader::of_payload(7, 0, 9, b"payload").to_array();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
