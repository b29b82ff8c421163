//! What a start makes of a store's devices, whatever lies on them: no panic, no read that is wrong, and the same again at
//! the next start.
//!
//! Devices with a dozen chunks are damaged as the bytes say: blocks are flipped, cleared, moved, written over, or hold
//! records that fit their place and lie about everything else.

use super::Seed;
use super::feed::Feed;
use farside::store::{Candidate, FormatOptions, Store, StoreError, StoreStatus, format_devices, open_devices};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId, SiteId};
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::record::fragment::{FragmentHeader, Place};
use farside_codec::record::segment::{
    INDEX_ENTRY_BYTES, IndexEntry, SegmentFooter, SegmentHeader, SegmentUse, index_bytes,
};
use farside_codec::record::superblock::{COPY_OFFSETS, Superblock};
use farside_io::entropy::SeededEntropy;
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use std::time::Duration;

const SITE: SiteId = SiteId([1; 16]);
const NODE: NodeId = NodeId(1);
const DEVICES: usize = 3;
const SEGMENT_BYTES: u64 = 64 << 10;
const SEGMENTS: u64 = 10;
const BLOCK: u64 = BLOCK_BYTES as u64;
/// Bytes of each device, its 64 KiB of header included.
const DEVICE_BYTES: u64 = (64 << 10) + SEGMENTS * SEGMENT_BYTES;
/// Virtual time in which everything must end.
const HANG: Duration = Duration::from_secs(3600);

/// A chunk and its bytes.
type Known = (ChunkId, Vec<u8>);

struct Base {
    disks: Vec<SimDisk>,
    chunks: Vec<Known>,
    pool: Pool,
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let work = async { tokio::time::timeout(HANG, work).await.expect("nothing hangs") };
    runtime.block_on(local.run_until(work))
}

fn chunk(number: u64, length: usize) -> Known {
    let data = crate::bytes(number, length);
    (ChunkId(*blake3::hash(&data).as_bytes()), data)
}

impl Base {
    fn new() -> Self {
        let pool = Pool::new(8 << 20).expect("an arena");
        let disks: Vec<SimDisk> = (0..DEVICES).map(|index| SimDisk::new(DEVICE_BYTES, index as u64)).collect();
        let lengths = [1, 4096, 5000, 9000, 20_000, 8192, 40_000, 3, 12_000, 7000, 16_384, 100];
        let chunks: Vec<Known> = (1..).zip(lengths).map(|(number, length)| chunk(number, length)).collect();
        let options = FormatOptions {
            site: SITE,
            node: NODE,
            shards: 1,
            geometry: Geometry::parse("2+1").expect("a geometry"),
            wal_bytes: 0,
            segment_bytes: Some(SEGMENT_BYTES as u32),
        };
        run(async {
            format_devices(&pool, &disks, &options, &SeededEntropy::new(1)).await.expect("new devices");
            let store = open(&disks, &pool).await.expect("devices as they were made");
            store.set_gc_epoch(1);
            for (id, data) in &chunks {
                store.put_reserved(*id, data).await.expect("there is room");
            }
        });
        let disks = disks.iter().map(SimDisk::crash).collect();
        Self { disks, chunks, pool }
    }
}

thread_local! {
    static BASE: Base = Base::new();
}

async fn open(disks: &[SimDisk], pool: &Pool) -> Option<Store<SimDisk>> {
    let named = disks.iter().map(|disk| Candidate { label: "device".into(), disk: Some(disk.clone()) }).collect();
    let set = open_devices(pool, named, SITE, NODE).await.ok()?;
    Some(Store::open(&set, 0, pool.clone()).await.expect("a pool large enough"))
}

/// Damages devices, and remembers whether what it wrote was made to look right.
struct Harm<'a> {
    disks: &'a [SimDisk],
    superblocks: Vec<Superblock>,
    chunks: &'a [Known],
    forged: bool,
}

impl Harm<'_> {
    fn place(feed: &mut Feed<'_>) -> (usize, u64) {
        (feed.below(DEVICES), u64::from(feed.byte()) % (DEVICE_BYTES / BLOCK))
    }

    fn step(&mut self, feed: &mut Feed<'_>) {
        let (device, block) = Self::place(feed);
        let disk = &self.disks[device];
        let at = block * BLOCK;
        match feed.below(8) {
            0..=1 => {
                let at = at + u64::from(feed.short()) % BLOCK;
                disk.overwrite(at, &[disk.live(at..at + 1)[0] ^ feed.byte().max(1)]);
            }
            2 => {
                let (from, source) = Self::place(feed);
                disk.overwrite(at, &self.disks[from].live(source * BLOCK..(source + 1) * BLOCK));
            }
            3 => disk.overwrite(at, &[0; BLOCK_BYTES]),
            4 => {
                let length = usize::from(feed.byte());
                disk.overwrite(at, feed.take(length));
            }
            5 => self.forge_fragment(device, feed),
            6 => self.forge_segment(device, feed),
            _ => self.forge_superblock(device, feed),
        }
    }

    fn geometry(feed: &mut Feed<'_>) -> Geometry {
        let geometries = [(2, 1), (2, 1), (1, 0), (4, 2), (100, 28)];
        let (data, parity) = geometries[feed.below(geometries.len())];
        Geometry::new(data, parity).expect("a geometry")
    }

    fn generation(feed: &mut Feed<'_>) -> u64 {
        match feed.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            byte => u64::from(byte & 15),
        }
    }

    fn chunk(&self, feed: &mut Feed<'_>) -> (ChunkId, u32) {
        let known = self.chunks.get(feed.below(16)).map(|(id, data)| (*id, data.len() as u32));
        let (id, length) = known.unwrap_or((ChunkId([9; 32]), 5000));
        (id, if feed.below(4) == 1 { 1 + u32::from(feed.short()) * 60 } else { length })
    }

    fn segment_at(&self, device: usize, segment: u64) -> u64 {
        self.superblocks[device].zone_offset(0) + segment * SEGMENT_BYTES
    }

    fn forge_fragment(&mut self, device: usize, feed: &mut Feed<'_>) {
        self.forged = true;
        let (segment, block) = (feed.below(SEGMENTS as usize) as u32, u32::from(feed.byte() & 15));
        let (generation, geometry) = (Self::generation(feed), Self::geometry(feed));
        let (chunk, sealed_bytes) = self.chunk(feed);
        let place = Place {
            device: self.superblocks[device].device,
            shard: u16::from(feed.byte() == 1),
            segment,
            generation,
            block: if feed.below(8) == 1 { block + 1 } else { block },
        };
        let header = FragmentHeader {
            chunk,
            geometry,
            sealed_bytes,
            fragment: feed.below(geometry.total()) as u8,
            place,
            durable_block: u32::from(feed.byte()),
            placement_epoch: 1,
            gc_epoch: 1,
        };
        let mut area = vec![0; header.layout().header_bytes()];
        // Checksums of blocks of zeroes, which is what lies where nothing was written.
        let zeroes = checksum_of_zeroes();
        let blocks = header.layout().fragment_bytes() / BLOCK_BYTES;
        (0..blocks).for_each(|block| farside_codec::record::fragment::set_checksum(&mut area, block, zeroes));
        header.write(&mut area);
        let at = self.segment_at(device, u64::from(segment)) + u64::from(block) * BLOCK;
        if at + area.len() as u64 <= DEVICE_BYTES {
            self.disks[device].overwrite(at, &area);
        }
    }

    fn forge_segment(&mut self, device: usize, feed: &mut Feed<'_>) {
        self.forged = true;
        let (segment, shard) = (feed.below(SEGMENTS as usize) as u32, 0);
        let (generation, id) = (Self::generation(feed), self.superblocks[device].device);
        let at = self.segment_at(device, u64::from(segment));
        let usage = if feed.is() { SegmentUse::Records } else { SegmentUse::Free };
        if feed.is() {
            let header = SegmentHeader { device: id, shard, segment, generation, usage };
            return self.disks[device].overwrite(at, &header.to_block());
        }
        let count = feed.below(5);
        let mut entries = vec![0; index_bytes(count) - BLOCK_BYTES];
        for entry in entries.chunks_exact_mut(INDEX_ENTRY_BYTES).take(count) {
            let (chunk, sealed_bytes) = self.chunk(feed);
            let geometry = Self::geometry(feed);
            let (fragment, block) = (feed.below(geometry.total()) as u8, u32::from(feed.byte() & 15));
            IndexEntry { chunk, geometry, sealed_bytes, fragment, block }.write(entry);
        }
        let footer = SegmentFooter {
            device: id,
            shard,
            segment,
            generation,
            entries: if feed.below(8) == 1 { u32::MAX } else { count as u32 },
            entries_crc: farside_codec::FrameHeader::of_payload(0, 0, 0, &entries).payload_crc(),
        };
        let index = [&entries[..], &footer.to_block()].concat();
        self.disks[device].overwrite(at + SEGMENT_BYTES - index.len() as u64, &index);
    }

    fn forge_superblock(&mut self, device: usize, feed: &mut Feed<'_>) {
        self.forged = true;
        let mut superblock = self.superblocks[device].clone();
        superblock.sequence = superblock.sequence.wrapping_add(u64::from(feed.byte() & 3));
        match feed.below(8) {
            0 => superblock.site.0[0] ^= 1,
            1 => superblock.node.0 += 1,
            2 => superblock.device = self.superblocks[(device + 1) % DEVICES].device,
            3 => superblock.segment_bytes = u32::from(feed.short()) << 12,
            4 => superblock.geometry = Self::geometry(feed),
            5 => superblock.zone_bytes = u64::from(feed.byte()) << 12,
            6 => superblock.wal_bytes = u64::from(feed.byte()) << 12,
            _ => superblock.devices.rotate_left(1),
        }
        let copy = COPY_OFFSETS[feed.below(2)];
        self.disks[device].overwrite(copy, &superblock.to_block());
    }
}

fn checksum_of_zeroes() -> u32 {
    farside_codec::checksum::block_checksums(&[0; BLOCK_BYTES]).next().unwrap_or(0)
}

/// Reads every chunk; answers which came. Without forged records none may come wrong.
async fn read_all(store: &Store<SimDisk>, chunks: &[Known], forged: bool) -> Vec<bool> {
    let mut came = Vec::new();
    for (id, data) in chunks {
        let read = store.get(*id, 0, 0).await;
        if let (Ok(read), false) = (&read, forged) {
            assert!(read.pieces.concat() == *data, "a read is wrong");
        }
        assert!(forged || !matches!(read, Err(StoreError::Range { .. })), "{read:?}");
        came.push(read.is_ok());
    }
    came
}

/// A start on these devices: what was found, and what could be read. It goes on to store something.
async fn live(disks: &[SimDisk], base: &Base, forged: bool) -> Option<(StoreStatus, Vec<bool>)> {
    let store = open(disks, &base.pool).await?;
    let status = store.status();
    assert!(status.fragments + status.owed_fragments >= status.chunks, "a chunk that nothing says is there");
    for device in &status.devices {
        assert!(device.live_bytes <= device.used_bytes && device.used_bytes <= device.bytes, "{device:?}");
    }
    store.set_gc_epoch(2);
    let came = read_all(&store, &base.chunks, forged).await;
    let (id, data) = chunk(99, 6000);
    if store.put_reserved(id, &data).await.is_ok() {
        let read = store.get(id, 0, 0).await.expect("what was just stored");
        assert!(read.pieces.concat() == data);
    }
    Some((status, came))
}

/// Devices that were damaged, started twice.
pub fn recovery(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    BASE.with(|base| {
        let disks: Vec<SimDisk> = base.disks.iter().map(|disk| disk.duplicate(1)).collect();
        let superblock = |disk: &SimDisk| Superblock::from_block(&disk.live(0..BLOCK)).expect("as it was formatted");
        let superblocks = disks.iter().map(superblock).collect();
        let mut harm = Harm { disks: &disks, superblocks, chunks: &base.chunks, forged: false };
        while !feed.is_empty() {
            harm.step(&mut feed);
        }
        let forged = harm.forged;
        let first = run(live(&disks, base, forged));
        let disks: Vec<SimDisk> = disks.iter().map(SimDisk::kill).collect();
        let second = run(live(&disks, base, forged));
        if let (Some((_, first)), Some((_, second)), false) = (first, second, forged) {
            assert_eq!(first, second, "the next start reads something else");
        }
        assert_eq!(base.pool.free_bytes(), base.pool.total_bytes(), "every buffer comes back");
    });
}

/// Seeds of [`recovery`].
pub fn recovery_seeds() -> Vec<Seed> {
    vec![
        ("whole", vec![]),
        ("flipped", vec![0, 17, 0, 3, 0, 1, 1, 18, 0, 0, 0, 1, 2, 20, 0, 9, 9, 9]),
        ("moved", vec![0, 17, 2, 0, 19, 1, 17, 2, 0, 17]),
        ("cleared", vec![0, 16, 3, 1, 32, 3, 2, 31, 3]),
        ("superblocks", vec![0, 0, 3, 1, 8, 3, 2, 0, 0, 9, 9, 9]),
        ("written-over", [&[0, 17, 4, 12][..], b"not a record", &[1, 16, 4, 3, 1, 2, 3]].concat()),
        ("forged-fragment", vec![0, 0, 5, 5, 1, 3, 0, 20, 0, 0, 0, 0, 0, 9]),
        ("forged-last-generation", vec![0, 0, 5, 5, 1, 255, 0, 20, 0, 0, 0, 0, 0, 9]),
        ("forged-known-chunk", vec![0, 0, 5, 6, 1, 3, 2, 2, 1, 9, 0, 0, 0, 0, 9]),
        ("forged-header", vec![1, 0, 6, 1, 200, 1, 1, 1, 0, 6, 9, 255, 0, 1]),
        ("forged-index", vec![1, 0, 6, 0, 9, 1, 0, 2, 20, 0, 0, 0, 1, 2, 0, 0, 1, 3, 0]),
        ("forged-superblock", vec![2, 0, 7, 1, 3, 4, 0, 0, 1, 0, 7, 1, 4, 3, 1]),
        ("forged-other-site", vec![2, 0, 7, 2, 0, 1, 0, 0, 7, 2, 5, 200, 0]),
    ]
}
