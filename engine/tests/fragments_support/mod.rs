//! A site of several nodes whose stores share the fragments of chunks, over simulated devices.

#![allow(dead_code, reason = "each test binary uses its part")]

use bytes::Bytes;
use farside::store::{Candidate, FormatOptions, HeldFragments, Store, Stripe, format_devices, open_devices};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId, SiteId};
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::record::fragment::FragmentHeader;
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;
use farside_io::entropy::{Entropy, SeededEntropy};
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use std::cell::RefCell;
use std::time::Duration;

/// Virtual time in which everything must end.
const HANG: Duration = Duration::from_secs(3600);
const SITE: SiteId = SiteId([1; 16]);

/// Runs work on a runtime with virtual time.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let work = async { tokio::time::timeout(HANG, work).await.expect("nothing hangs") };
    runtime.block_on(local.run_until(work))
}

pub(crate) fn geometry(text: &str) -> Geometry {
    Geometry::parse(text).expect("a geometry")
}

/// A chunk of random bytes.
pub(crate) fn chunk(seed: u64, length: usize) -> (ChunkId, Vec<u8>) {
    let mut data = vec![0; length];
    SeededEntropy::new(seed).fill(&mut data);
    (ChunkId(*blake3::hash(&data).as_bytes()), data)
}

/// How a node's devices are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) geometry: &'static str,
    pub(crate) devices: usize,
    pub(crate) segment_bytes: u32,
    pub(crate) segments: u64,
}

pub(crate) const SHAPE: Shape = Shape { geometry: "4+2", devices: 2, segment_bytes: 128 << 10, segments: 12 };

/// A node's devices and memory, which outlive its store.
pub(crate) struct Node {
    id: NodeId,
    pub(crate) disks: RefCell<Vec<SimDisk>>,
    pub(crate) pool: Pool,
}

impl Node {
    /// Formats new devices.
    pub(crate) async fn new(number: u64, shape: Shape) -> Self {
        let pool = Pool::new(8 << 20).expect("an arena");
        let device_bytes = (64 << 10) + (shape.segments * u64::from(shape.segment_bytes)).next_multiple_of(64 << 10);
        let disks: Vec<SimDisk> =
            (0..shape.devices as u64).map(|device| SimDisk::new(device_bytes, number * 100 + device)).collect();
        let options = FormatOptions {
            site: SITE,
            node: NodeId(number),
            shards: 1,
            geometry: geometry(shape.geometry),
            wal_bytes: 0,
            segment_bytes: Some(shape.segment_bytes),
        };
        format_devices(&pool, &disks, &options, &SeededEntropy::new(number)).await.expect("new devices");
        Self { id: options.node, disks: RefCell::new(disks), pool }
    }

    /// Opens the store as a start does, without the devices that are `missing`.
    pub(crate) async fn open_without(&self, missing: &[usize]) -> Store<SimDisk> {
        let disks = self.disks.borrow().clone();
        let named = disks.into_iter().enumerate().map(|(device, disk)| Candidate {
            label: format!("device {device}"),
            disk: (!missing.contains(&device)).then_some(disk),
        });
        let set = open_devices(&self.pool, named.collect(), SITE, self.id).await.expect("devices");
        let store = Store::open(&set, 0, self.pool.clone()).await.expect("a pool large enough");
        store.set_spread(true);
        store
    }

    pub(crate) async fn open(&self) -> Store<SimDisk> {
        self.open_without(&[]).await
    }

    /// Cuts the power.
    pub(crate) fn crash(&self) {
        let crashed = self.disks.borrow().iter().map(SimDisk::crash).collect();
        self.disks.replace(crashed);
    }

    /// Every record on its devices whose header is good: device, offset, header.
    pub(crate) fn records(&self) -> Vec<(usize, u64, FragmentHeader)> {
        let mut found = Vec::new();
        for (device, disk) in self.disks.borrow().iter().enumerate() {
            let bytes = disk.live(0..disk.len_bytes());
            for block in (0..bytes.len()).step_by(BLOCK_BYTES) {
                if let Ok(header) = FragmentHeader::read(&bytes[block..]) {
                    found.push((device, block as u64, header));
                }
            }
        }
        found
    }

    /// The devices that have a record of a fragment.
    pub(crate) fn devices_of(&self, chunk: &ChunkId, fragment: u8) -> Vec<usize> {
        let records = self.records().into_iter();
        let mine = records.filter(|(_, _, header)| header.chunk == *chunk && header.fragment == fragment);
        mine.map(|(device, ..)| device).collect()
    }

    /// Flips a bit of every record of a fragment, `at` bytes into its data.
    pub(crate) fn damage(&self, chunk: &ChunkId, fragment: u8, at: usize) {
        let mut hit = 0;
        for (device, offset, header) in self.records() {
            if header.chunk == *chunk && header.fragment == fragment {
                let place = offset + (header.layout().header_bytes() + at) as u64;
                self.disks.borrow()[device].flip(place..place + 1, 1);
                hit += 1;
            }
        }
        assert!(hit > 0, "fragment {fragment} is on a device");
    }
}

/// Codes a chunk as its coordinator does.
pub(crate) async fn encode(store: &Store<SimDisk>, (id, data): &(ChunkId, Vec<u8>)) -> Stripe {
    let mut writer = store.begin_stripe(*id, store.geometry(), data.len()).await.expect("memory for a stripe");
    data.chunks(5_000).for_each(|piece| writer.append(piece).expect("as many bytes as announced"));
    writer.encode().expect("the chunk that was announced")
}

/// Sends fragments to a store in pieces of `piece` bytes, and answers those that are durable there.
pub(crate) async fn send(
    store: &Store<SimDisk>,
    stripe: &Stripe,
    fragments: &[u8],
    piece: usize,
) -> Result<Vec<u8>, farside::store::StoreError> {
    let (chunk, geometry) = (stripe.chunk(), stripe.geometry());
    let mut writer = store.begin_fragments(chunk, geometry, stripe.sealed_bytes(), fragments).await?;
    let bytes: Vec<u8> = fragments.iter().flat_map(|fragment| stripe.fragment(usize::from(*fragment))).collect();
    assert_eq!(writer.announced_bytes(), bytes.len());
    bytes.chunks(piece).for_each(|piece| writer.append(piece).expect("as many bytes as announced"));
    writer.commit().await
}

/// What a store says that it has of a chunk.
pub(crate) fn held(store: &Store<SimDisk>, chunk: &ChunkId) -> Vec<u8> {
    let answer = store.fragments(&[*chunk], false).pop().and_then(|mut held| held.pop());
    answer.map_or_else(Vec::new, |held: HeldFragments| held.fragments)
}

/// Three nodes of two devices each, and a chunk of which each node has two fragments.
pub(crate) struct Site {
    pub(crate) nodes: Vec<Node>,
    pub(crate) stores: Vec<Store<SimDisk>>,
}

/// The fragments of each node of a [`Site`].
pub(crate) const SHARES: [[u8; 2]; 3] = [[0, 3], [1, 4], [2, 5]];

impl Site {
    pub(crate) async fn new() -> Self {
        let (mut nodes, mut stores) = (Vec::new(), Vec::new());
        for number in 1..=3 {
            let node = Node::new(number, SHAPE).await;
            stores.push(node.open().await);
            nodes.push(node);
        }
        Self { nodes, stores }
    }

    /// Cuts the power of all nodes and starts them again.
    pub(crate) async fn restart(&mut self) {
        self.stores.clear();
        for node in &self.nodes {
            node.crash();
            self.stores.push(node.open().await);
        }
    }

    /// Stores a chunk: the first node coordinates.
    pub(crate) async fn put(&self, chunk: &(ChunkId, Vec<u8>)) {
        let stripe = encode(&self.stores[0], chunk).await;
        assert_eq!(self.stores[0].put_fragments(&stripe, &SHARES[0]).await, Ok(SHARES[0].to_vec()));
        for (store, share) in self.stores.iter().zip(&SHARES).skip(1) {
            assert_eq!(send(store, &stripe, share, 3_001).await, Ok(share.to_vec()));
        }
    }

    /// The node that has a fragment.
    pub(crate) fn node_of(fragment: usize) -> usize {
        fragment % 3
    }

    /// The given bytes of those fragments that can be read and are not `lost`.
    pub(crate) async fn gather(
        &self,
        chunk: &ChunkId,
        lost: u32,
        columns: &std::ops::Range<usize>,
    ) -> Vec<(usize, Bytes)> {
        let mut found = Vec::new();
        for fragment in (0..6).filter(|fragment| lost >> fragment & 1 == 0) {
            let store = &self.stores[Self::node_of(fragment)];
            if let Ok(bytes) = store.read_fragment(*chunk, store.geometry(), fragment, columns.clone()).await {
                found.push((fragment, bytes));
            }
        }
        found
    }
}

pub(crate) fn layout(store: &Store<SimDisk>, length: usize) -> StripeLayout {
    StripeLayout::new(store.geometry(), length)
}
