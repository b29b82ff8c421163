//! What a start makes of the mirrors of a write-ahead log, whatever lies on them: an error, or a state that the next start
//! finds again.
//!
//! The bytes say which batches lie where. Most follow one another as a log writes them; any field may be off, so that
//! checksums keep nothing out.

use super::feed::Feed;
use super::{Seed, disk};
use farside_codec::frame::HEADER_BYTES;
use farside_codec::ids::{GroupId, NodeId};
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::message::kind;
use farside_codec::record::wal::{BatchHead, Entry, EntryPayload, LogPosition, Vote, WalRecord};
use farside_codec::{Field, FrameHeader};
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use farside_raft::limits::MIN_REGION_BYTES;
use farside_raft::wal::{Wal, WalError, WalMirror};
use std::time::Duration;
use tokio::task::LocalSet;

const OWNER: [u8; 16] = [7; 16];
/// The region begins here, so that offsets are not all alike.
const OFFSET: u64 = 64 << 10;
/// Groups that records are of.
const GROUPS: u32 = 3;
/// Virtual time in which everything must end.
const HANG: Duration = Duration::from_secs(3600);
/// Less than a region, so that a batch that fits the one need not fit the other.
const POOL_BYTES: usize = 24 << 20;

thread_local! {
    static POOL: Pool = Pool::new(POOL_BYTES).expect("an arena");
}

/// A log as it would be written, and what it is told to get wrong.
struct Writer {
    disks: Vec<SimDisk>,
    number: u64,
    block: u64,
    previous_crc: u32,
    opening: u64,
    tail: u64,
    index: u64,
}

impl Writer {
    fn new(feed: &mut Feed<'_>) -> Self {
        let mirrors = 1 + feed.below(3);
        let first = [1, 1, 1, 1000, (1 << 63) - 3, u64::MAX - 2][feed.below(6)];
        let disks = (0..mirrors).map(|index| SimDisk::new(OFFSET + MIN_REGION_BYTES, index as u64)).collect();
        Self { disks, number: first, block: 0, previous_crc: 0, opening: 1, tail: first, index: 1 }
    }

    /// Writes the next batch on the mirrors of `mask`.
    fn batch(&mut self, feed: &mut Feed<'_>) {
        let (mask, off, by) = (feed.byte(), feed.byte(), u64::from(feed.byte()));
        let (count, flags) = (feed.below(5), feed.byte());
        let records: Vec<WalRecord> = (0..count).map(|_| self.record(feed)).collect();
        let mut head = BatchHead {
            owner: OWNER,
            offset: self.block * BLOCK_BYTES as u64,
            opening: self.opening,
            previous_crc: self.previous_crc,
            tail: self.tail,
            durable: self.number.wrapping_sub(1),
            checkpoint: 0,
            checkpoint_records: 0,
            checkpoint_ends: false,
            records: records.len() as u32,
        };
        if flags & 1 == 1 {
            head.checkpoint = self.number.saturating_sub(u64::from(flags >> 4));
            head.checkpoint_records = u32::from(flags >> 2 & 3).min(head.records);
            head.checkpoint_ends = flags & 2 == 2;
        }
        match off {
            1 => head.offset += by * BLOCK_BYTES as u64,
            2 => head.opening = head.opening.wrapping_add(by).wrapping_sub(2),
            3 => head.previous_crc ^= by as u32,
            4 => head.tail = head.tail.wrapping_add(by).wrapping_sub(2),
            5 => head.durable = head.durable.wrapping_add(by).wrapping_sub(2),
            6 => head.checkpoint = head.checkpoint.wrapping_add(by),
            7 => head.checkpoint_records += by as u32,
            8 => head.records += by as u32,
            9 => head.owner[0] ^= by as u8,
            10 => self.number = self.number.wrapping_add(by),
            _ => {}
        }
        let mut payload = head.to_bytes().to_vec();
        records.iter().for_each(|record| record.encode(&mut payload));
        let header = FrameHeader::of_payload(kind::WAL_BATCH, 0, self.number, &payload);
        self.write(mask, &[&header.to_array()[..], &payload].concat());
        self.previous_crc = header.payload_crc();
        self.block += ((HEADER_BYTES + payload.len()).div_ceil(BLOCK_BYTES)) as u64;
        self.number = self.number.wrapping_add(1);
    }

    fn record(&mut self, feed: &mut Feed<'_>) -> WalRecord {
        let group = GroupId(1 + feed.below(GROUPS as usize) as u32);
        let (which, more) = (feed.below(10), u64::from(feed.byte()));
        let position = |index| LogPosition { term: 1, leader: NodeId(1), index };
        let near = self.index.wrapping_add(more).wrapping_sub(3);
        match which {
            0..=3 => {
                self.index += 1;
                let payload = EntryPayload::Command(vec![more as u8; more as usize].into());
                WalRecord::Append((group, Entry { position: position(self.index), payload }))
            }
            4 => WalRecord::Append((group, Entry { position: position(near), payload: EntryPayload::Blank })),
            5 => WalRecord::Vote((group, Vote { term: more, leader: NodeId(1), committed: feed.is() })),
            6 => WalRecord::TruncateAfter((group, (more > 0).then_some(near))),
            7 => WalRecord::Purge((group, position(if more == 255 { u64::MAX } else { near }))),
            8 => WalRecord::Committed((group, (more > 0).then_some(position(near)))),
            _ => disk::wal_records().swap_remove(more as usize % 8),
        }
    }

    fn write(&self, mask: u8, bytes: &[u8]) {
        let at = OFFSET + self.block * BLOCK_BYTES as u64;
        for (index, disk) in self.disks.iter().enumerate() {
            // No bit at all is every mirror: what most batches are.
            if (mask == 0 || mask >> index & 1 == 1) && at + bytes.len() as u64 <= disk_end() {
                disk.overwrite(at, bytes);
            }
        }
    }

    /// Does one thing.
    fn step(&mut self, feed: &mut Feed<'_>) {
        match feed.below(16) {
            0..=8 => self.batch(feed),
            9 => self.block = u64::from(feed.short()) % (MIN_REGION_BYTES / BLOCK_BYTES as u64),
            10 => self.block = 0,
            11 => self.opening += u64::from(feed.byte()),
            12 => self.tail = self.number.saturating_sub(u64::from(feed.byte() & 7)),
            13 => {
                let (mask, length) = (feed.byte(), usize::from(feed.byte()));
                self.write(mask, feed.take(length));
            }
            14 => {
                // A header that is good, of a batch that can't be here.
                let (mask, length) = (feed.byte(), u32::from(feed.byte()) << 17);
                let header = FrameHeader::new(kind::WAL_BATCH, 0, self.number, length, feed.word());
                self.write(mask, &header.to_array());
                self.block += 1;
            }
            _ => {
                let at = OFFSET + u64::from(feed.short()) % 0x8000;
                let disk = &self.disks[feed.below(self.disks.len())];
                let byte = disk.live(at..at + 1)[0] ^ feed.byte();
                disk.overwrite(at, &[byte]);
            }
        }
    }
}

fn disk_end() -> u64 {
    OFFSET + MIN_REGION_BYTES
}

/// Opens the log, says what it holds, and closes it.
fn open(disks: &[SimDisk], pool: &Pool) -> Result<String, WalError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let mirrors = disks.iter().map(|disk| WalMirror {
        device: farside_codec::ids::DeviceId::default(),
        disk: disk.clone(),
        offset: OFFSET,
        bytes: MIN_REGION_BYTES,
    });
    let opened = async {
        let (wal, _) = Wal::open(OWNER, mirrors.collect(), pool).await?;
        let groups: Vec<String> =
            (1..=GROUPS).map(|group| wal.group(GroupId(group), |log| format!("{log:?}"))).collect();
        wal.close().await;
        Ok(groups.join("\n"))
    };
    let local = LocalSet::new();
    let opened = async { tokio::time::timeout(HANG, local.run_until(opened)).await.expect("nothing hangs") };
    runtime.block_on(opened)
}

/// A region of any bytes, opened twice.
pub fn recovery(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let mut writer = Writer::new(&mut feed);
    let counts = writer.number < 1 << 62;
    while !feed.is_empty() {
        writer.step(&mut feed);
    }
    POOL.with(|pool| {
        let first = open(&writer.disks, pool);
        // Everything was durable before it was told, so a power cut takes nothing.
        let disks: Vec<SimDisk> = writer.disks.iter().map(SimDisk::crash).collect();
        let second = open(&disks, pool);
        if let (Ok(found), true) = (&first, counts) {
            assert_eq!(second.as_ref(), Ok(found), "the next start finds something else");
        }
        assert_eq!(pool.free_bytes(), pool.total_bytes(), "every buffer comes back");
    });
}

/// Seeds of [`recovery`].
pub fn recovery_seeds() -> Vec<Seed> {
    // A step that writes a batch of two records: an append and a vote, of group 1.
    let batch = |mask: u8, off: u8, by: u8, flags: u8| vec![0, mask, off, by, 2, flags, 0, 0, 5, 0, 5, 7, 1];
    let log = |mirrors: u8, steps: &[Vec<u8>]| [&[mirrors - 1, 0][..], &steps.concat()].concat();
    let good = batch(0, 0, 0, 0);
    vec![
        ("empty", vec![0, 0]),
        ("one", log(1, std::slice::from_ref(&good))),
        ("three-mirrors", log(3, &[good.clone(), batch(5, 0, 0, 0), batch(1, 0, 0, 0)])),
        ("torn-tail", log(2, &[good.clone(), good.clone(), batch(1, 3, 1, 0)])),
        ("checkpoint", log(1, &[good.clone(), batch(0, 0, 0, 0b0000_0111), good.clone()])),
        ("half-a-checkpoint", log(1, &[good.clone(), batch(0, 0, 0, 0b0000_0101), good.clone()])),
        ("wrong-durable", log(1, &[good.clone(), batch(0, 5, 0, 0), batch(0, 5, 9, 0)])),
        ("gap", log(2, &[good.clone(), batch(0, 10, 2, 0), good.clone()])),
        ("goes-round", log(2, &[vec![9, 0xf0, 0x1f], good.clone(), good.clone(), vec![10], good.clone()])),
        ("overlaps", log(1, &[good.clone(), good.clone(), vec![9, 9, 0], good.clone(), vec![9, 2, 0], good.clone()])),
        ("too-long", log(1, &[good.clone(), vec![14, 0, 200, 1, 2, 3, 4]])),
        ("last-numbers", [&[1, 5][..], &good, &good, &good].concat()),
        ("nearly-last", [&[0, 4][..], &good, &good, &good, &good].concat()),
        ("flipped", log(2, &[good.clone(), good.clone(), vec![15, 40, 0, 1, 0x10]])),
        ("last-index", log(1, &[vec![0, 0, 0, 0, 2, 0, 0, 7, 255, 0, 0, 4]])),
    ]
}
