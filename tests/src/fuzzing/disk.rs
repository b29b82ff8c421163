//! What a disk returns: records of the write-ahead log, and blocks. A checksum keeps random bytes out, so a block's
//! payload is also put into a frame that fits it.

use super::feed::Feed;
use super::wire::canonical;
use super::{Seed, values};
use bytes::Bytes;
use farside_codec::checksum::{block_checksums, check_blocks};
use farside_codec::erasure::Geometry;
use farside_codec::frame::HEADER_BYTES;
use farside_codec::ids::{ChunkId, DeviceId, GroupId, NodeId};
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::message::kind;
use farside_codec::record::fragment::{FragmentHeader, Place, checksum_table, set_checksum};
use farside_codec::record::segment::{INDEX_ENTRY_BYTES, IndexEntry, SegmentFooter, SegmentHeader, SegmentUse};
use farside_codec::record::superblock::{DEVICE_HEADER_BYTES, Superblock};
use farside_codec::record::wal::{BatchHead, Entry, EntryPayload, SnapshotRecord, StoredMembership, Vote, WalRecord};
use farside_codec::{Field, FrameHeader};

/// Records of a write-ahead log.
pub fn wal_record(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 5 {
        0 => drop(canonical::<WalRecord>(bytes)),
        1 => drop(canonical::<Vec<WalRecord>>(bytes)),
        2 => {
            if let Some(head) = canonical::<BatchHead>(bytes) {
                assert_eq!(head.to_bytes().len(), BatchHead::BYTES, "every field of it has a fixed length");
            }
        }
        3 => drop(canonical::<SnapshotRecord>(bytes)),
        _ => drop(canonical::<(Entry, StoredMembership)>(bytes)),
    }
}

/// A batch's head.
pub(super) fn batch_head() -> BatchHead {
    BatchHead {
        owner: [1; 16],
        offset: 9,
        opening: 6,
        previous_crc: 2,
        tail: 3,
        durable: 4,
        checkpoint: 7,
        checkpoint_records: 8,
        checkpoint_ends: true,
        records: 5,
    }
}

/// Records of each kind.
pub(super) fn wal_records() -> Vec<WalRecord> {
    let group = GroupId(1);
    let command = EntryPayload::Command(Bytes::from_static(b"command"));
    vec![
        WalRecord::Append((group, values::entry(1, EntryPayload::Blank))),
        WalRecord::Append((group, values::entry(2, command))),
        WalRecord::Append((group, values::entry(3, EntryPayload::Membership(values::membership().membership)))),
        WalRecord::Vote((group, Vote { term: 5, leader: NodeId(6), committed: true })),
        WalRecord::Committed((group, Some(values::position(2)))),
        WalRecord::TruncateAfter((group, Some(2))),
        WalRecord::Purge((group, values::position(1))),
        WalRecord::Snapshot((group, values::snapshot())),
    ]
}

/// Seeds of [`wal_record`].
pub fn wal_record_seeds() -> Vec<Seed> {
    let of = |which: u8, bytes: Bytes| [&[which], &bytes[..]].concat();
    let names = ["append", "command", "membership", "vote", "committed", "truncate", "purge", "snapshot"];
    let records = wal_records();
    let each = names.into_iter().zip(&records).map(|(name, record)| (name, of(0, record.to_bytes())));
    let more = [
        ("all", of(1, records.to_bytes())),
        ("head", of(2, batch_head().to_bytes())),
        ("snapshot-record", of(3, values::snapshot().to_bytes())),
        ("entry", of(4, (values::entry(2, EntryPayload::Blank), values::membership()).to_bytes())),
    ];
    each.chain(more).collect()
}

/// A block of a device: a superblock, a segment's header or footer, an entry of a segment's index.
pub fn block(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let (which, raw) = (feed.below(4), feed.is());
    let segment_blocks = feed.word();
    let payload = feed.rest();
    let framed = |kind| {
        if raw {
            return payload.to_vec();
        }
        let payload = &payload[..payload.len().min(BLOCK_BYTES - HEADER_BYTES)];
        let header = FrameHeader::of_payload(kind, 0, u64::from(segment_blocks), payload);
        let mut block = [&header.to_array()[..], payload].concat();
        block.resize(BLOCK_BYTES, 0);
        block
    };
    match which {
        0 => superblock(&framed(kind::SUPERBLOCK)),
        1 => {
            if let Ok(header) = SegmentHeader::from_block(&framed(kind::SEGMENT)) {
                assert_eq!(SegmentHeader::from_block(&header.to_block()), Ok(header));
            }
        }
        2 => {
            if let Ok(footer) = SegmentFooter::from_block(&framed(kind::SEGMENT_INDEX)) {
                assert_eq!(SegmentFooter::from_block(&footer.to_block()), Ok(footer));
            }
        }
        _ => index_entry(payload, segment_blocks),
    }
}

/// Whatever a superblock says, what is computed from it stays on the device.
fn superblock(block: &[u8]) {
    let Ok(superblock) = Superblock::from_block(block) else { return };
    assert_eq!(Superblock::from_block(&superblock.to_block()).as_ref(), Ok(&superblock));
    let last = superblock.zone_offset(superblock.shards - 1);
    assert!(superblock.zone_offset(0) == DEVICE_HEADER_BYTES);
    assert!(last + superblock.zone_bytes <= superblock.device_bytes, "the last zone ends on the device");
    let segments = u64::from(superblock.segments()) * u64::from(superblock.segment_bytes);
    assert!(superblock.wal_bytes + segments <= superblock.zone_bytes, "segments lie within their zone");
}

fn index_entry(bytes: &[u8], segment_blocks: u32) {
    let Ok(entry) = IndexEntry::read(bytes, segment_blocks) else { return };
    let mut again = [0; INDEX_ENTRY_BYTES];
    entry.write(&mut again);
    assert_eq!(IndexEntry::read(&again, segment_blocks), Ok(entry));
    assert!(
        entry.block > 0 && entry.block + entry.blocks() < segment_blocks,
        "a record lies between header and footer"
    );
}

/// Seeds of [`block`].
pub fn block_seeds() -> Vec<Seed> {
    let (device, shard, segment, generation) = (DeviceId([4; 16]), 1, 9, 12);
    let superblock = Superblock {
        site: values::site(1),
        node: NodeId(1),
        device,
        sequence: 1,
        device_bytes: 1 << 30,
        shards: 2,
        zone_bytes: 256 << 20,
        wal_bytes: 32 << 20,
        segment_bytes: 1 << 20,
        geometry: Geometry::DEFAULT,
        devices: vec![DeviceId([3; 16]), device],
    };
    let header = SegmentHeader { device, shard, segment, generation, usage: SegmentUse::Records };
    let footer = SegmentFooter { device, shard, segment, generation, entries: 3, entries_crc: 0x0102_0304 };
    let entry = IndexEntry {
        chunk: ChunkId([5; 32]),
        geometry: Geometry::DEFAULT,
        sealed_bytes: 70_000,
        fragment: 2,
        block: 17,
    };
    let mut index = [0; INDEX_ENTRY_BYTES];
    entry.write(&mut index);
    let of = |which: u8, raw: u8, bytes: &[u8]| [&[which, raw, 0, 1, 0, 0], bytes].concat();
    vec![
        ("superblock", of(0, 0, &superblock.to_bytes())),
        ("superblock-raw", of(0, 1, &superblock.to_block()[..300])),
        ("segment", of(1, 0, &header.to_bytes())),
        ("segment-raw", of(1, 1, &header.to_block()[..100])),
        ("footer", of(2, 0, &footer.to_bytes())),
        ("footer-raw", of(2, 1, &footer.to_block()[..100])),
        ("index", of(3, 0, &index)),
    ]
}

/// A fragment's header area. Its fields are the bytes; its size and checksums are made to fit, or not.
pub fn fragment(bytes: &[u8]) {
    let _ = FragmentHeader::read(bytes);
    let mut feed = Feed::new(bytes);
    let (blocks, changed) = (1 + feed.below(5), usize::from(feed.short()));
    let fields = feed.take(224);
    let table = feed.rest();
    let mut area = vec![0; blocks * BLOCK_BYTES];
    area[HEADER_BYTES..HEADER_BYTES + fields.len()].copy_from_slice(fields);
    let room = table.len().min(area.len() - 256);
    area[256..256 + room].copy_from_slice(&table[..room]);
    let frame = FrameHeader::of_payload(kind::FRAGMENT, 0, 7, &area[HEADER_BYTES..]);
    area[..HEADER_BYTES].copy_from_slice(&frame.to_array());
    assert_eq!(FragmentHeader::area_bytes(&area), Ok(area.len()));
    let Ok(header) = FragmentHeader::read(&area) else { return };
    let layout = header.layout();
    assert_eq!(layout.header_bytes(), area.len());
    let count = layout.fragment_bytes() / BLOCK_BYTES;
    assert!(checksum_table(&area, 0).count() >= count, "there is a checksum for each block");
    let mut again = area.clone();
    header.write(&mut again);
    assert_eq!(FragmentHeader::read(&again), Ok(header));
    assert!(checksum_table(&again, 0).take(count).eq(checksum_table(&area, 0).take(count)));
    let at = changed % again.len();
    again[at] ^= 0x10;
    assert!(FragmentHeader::read(&again).is_err(), "byte {at} may change");
    // The table is of the fragment: four blocks of it, for the price of one.
    let data = vec![changed as u8; count.min(4) * BLOCK_BYTES];
    block_checksums(&data).enumerate().for_each(|(block, sum)| set_checksum(&mut area, block, sum));
    assert_eq!(check_blocks(&data, checksum_table(&area, 0)), Ok(()));
}

/// Seeds of [`fragment`].
pub fn fragment_seeds() -> Vec<Seed> {
    let header = |data, parity, sealed_bytes, fragment| FragmentHeader {
        chunk: ChunkId([7; 32]),
        geometry: Geometry::new(data, parity).expect("a geometry"),
        sealed_bytes,
        fragment,
        place: Place { device: DeviceId([9; 16]), shard: 1, segment: 2, generation: 3, block: 4 },
        durable_block: 1,
        placement_epoch: 5,
        gc_epoch: 6,
    };
    let seed = |header: FragmentHeader| {
        let mut area = vec![0; header.layout().header_bytes()];
        (0..4).for_each(|block| set_checksum(&mut area, block, block as u32 + 100));
        header.write(&mut area);
        let blocks = (area.len() / BLOCK_BYTES - 1) as u8;
        [&[blocks, 1, 2], &area[HEADER_BYTES..300]].concat()
    };
    vec![
        ("default", seed(header(4, 2, 40_000, 5))),
        ("single", seed(header(1, 0, 1, 0))),
        ("wide", seed(header(100, 28, 4_195_328, 127))),
        ("two-blocks", seed(header(1, 1, 8 << 20, 1))),
    ]
}
