//! What a device says of itself: whose it is, how it is cut, and who its siblings are.
//!
//! One block, written twice at the device's start; the valid copy with the higher sequence counts. A superblock names
//! all devices of its node, so that any one of them tells which are missing.

use crate::erasure::Geometry;
use crate::field::{DecodeError, Field};
use crate::frame::{FrameHeader, HEADER_BYTES};
use crate::ids::{DeviceId, NodeId, SiteId};
use crate::limits::BLOCK_BYTES;
use crate::message::kind;
use crate::record;
use bytes::Bytes;

/// Bytes at a device's start that belong to no zone: two superblocks and room to grow.
pub const DEVICE_HEADER_BYTES: u64 = 64 << 10;
/// Where the two copies lie. Apart, so that no single torn or misdirected write reaches both.
pub const COPY_OFFSETS: [u64; 2] = [0, 32 << 10];
/// Devices of one node: their ids fit a superblock, and their numbers a byte of the index.
pub const MAX_DEVICES: usize = 128;

record!(
    /// A device's superblock.
    Superblock {
        /// The site.
        site: SiteId,
        /// The node.
        node: NodeId,
        /// This device.
        device: DeviceId,
        /// Counts the versions of this superblock from 1.
        sequence: u64,
        /// Bytes of the device when it was formatted; a smaller one has shrunk.
        device_bytes: u64,
        /// Zones, one a shard, of equal size, side by side behind the device's header.
        shards: u16,
        /// Bytes of a zone.
        zone_bytes: u64,
        /// Bytes at the start of each zone that belong to the WAL; 0 on devices that carry none.
        wal_bytes: u64,
        /// Bytes of a segment.
        segment_bytes: u32,
        /// How chunks were cut when the device was formatted; that says how many mirrors the log has. The control group says how they are cut now.
        geometry: Geometry,
        /// All devices of the node, this one among them, in the order in which they were formatted.
        devices: Vec<DeviceId>,
    }
);

impl Superblock {
    /// The block to write.
    pub fn to_block(&self) -> [u8; BLOCK_BYTES] {
        assert!(self.devices.len() <= MAX_DEVICES, "a node has at most {MAX_DEVICES} devices");
        let payload = self.to_bytes();
        let header = FrameHeader::of_payload(kind::SUPERBLOCK, 0, self.sequence, &payload);
        let mut block = [0; BLOCK_BYTES];
        block[..HEADER_BYTES].copy_from_slice(&header.to_array());
        block[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(&payload);
        block
    }

    /// Reads and checks a block.
    pub fn from_block(block: &[u8]) -> Result<Self, DecodeError> {
        let superblock: Self = framed(block, kind::SUPERBLOCK, "superblock")?;
        superblock.check().then_some(superblock).ok_or(DecodeError::Invalid { what: "superblock" })
    }

    /// The rules that tie the fields together, so that later arithmetic can't overflow.
    fn check(&self) -> bool {
        let blocks = [self.device_bytes, self.zone_bytes, self.wal_bytes, u64::from(self.segment_bytes)];
        let zones = self.zone_bytes.checked_mul(u64::from(self.shards));
        let end = zones.and_then(|zones| zones.checked_add(DEVICE_HEADER_BYTES));
        blocks.iter().all(|bytes| bytes.is_multiple_of(BLOCK_BYTES as u64))
            && self.shards > 0
            && end.is_some_and(|end| end <= self.device_bytes)
            && self.wal_bytes <= self.zone_bytes
            // Header, the smallest record, one block of index, footer.
            && self.segment_bytes >= 5 * BLOCK_BYTES as u32
            && self.devices.len() <= MAX_DEVICES
            && self.devices.contains(&self.device)
    }

    /// Where a zone begins.
    pub fn zone_offset(&self, shard: u16) -> u64 {
        DEVICE_HEADER_BYTES + u64::from(shard) * self.zone_bytes
    }

    /// Segments of a zone.
    pub fn segments(&self) -> u32 {
        let count = (self.zone_bytes - self.wal_bytes) / u64::from(self.segment_bytes);
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// Reads a record that is framed at the start of a block.
pub(super) fn framed<R: Field>(block: &[u8], kind: u16, what: &'static str) -> Result<R, DecodeError> {
    let header = FrameHeader::decode(block)?;
    if header.kind() != kind {
        return Err(DecodeError::Unknown { what, value: u64::from(header.kind()) });
    }
    let length = header.check_length(BLOCK_BYTES - HEADER_BYTES)?;
    let need = HEADER_BYTES + length;
    let payload = block.get(HEADER_BYTES..need).ok_or(DecodeError::Truncated { need, have: block.len() })?;
    header.check_payload(payload)?;
    R::from_bytes(Bytes::copy_from_slice(payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            site: SiteId([1; 16]),
            node: NodeId(1),
            device: DeviceId([3; 16]),
            sequence: 1,
            device_bytes: 1 << 30,
            shards: 2,
            zone_bytes: 256 << 20,
            wal_bytes: 32 << 20,
            segment_bytes: 1 << 20,
            geometry: Geometry::DEFAULT,
            devices: (1..=6).map(|byte| DeviceId([byte; 16])).collect(),
        }
    }

    #[test]
    fn golden_superblock() {
        let block = superblock().to_block();
        assert_eq!(Superblock::from_block(&block), Ok(superblock()));
        assert_eq!(superblock().segments(), 224);
        assert_eq!(superblock().zone_offset(1), (64 << 10) + (256 << 20));
        assert_eq!(blake3::hash(&block).to_hex().as_str(), GOLDEN);
    }
    const GOLDEN: &str = "d6782a69682d23bfded8a3c27cc02e7df46c918f05c52ff277ebad8e819c2068";

    #[test]
    fn as_many_devices_as_promised_fit() {
        let devices: Vec<_> = (0..MAX_DEVICES as u8).map(|byte| DeviceId([byte; 16])).collect();
        let block = Superblock { devices, ..superblock() }.to_block();
        assert!(Superblock::from_block(&block).is_ok());
    }

    #[test]
    fn contradictions_are_refused() {
        let check = |superblock: Superblock| assert!(Superblock::from_block(&superblock.to_block()).is_err());
        check(Superblock { shards: 0, ..superblock() });
        check(Superblock { shards: 5, ..superblock() });
        check(Superblock { zone_bytes: u64::MAX - 4095, ..superblock() });
        check(Superblock { wal_bytes: 512 << 20, ..superblock() });
        check(Superblock { segment_bytes: 4 * 4096, ..superblock() });
        check(Superblock { segment_bytes: 1 << 20 | 1, ..superblock() });
        check(Superblock { device: DeviceId([77; 16]), ..superblock() });
    }
}
