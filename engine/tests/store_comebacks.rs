//! A device that was away comes back with fragments of chunks that were deleted and put again without it. Which copies
//! count is the store's choice, and must cost no chunk any of the losses that its receipt promised.

use farside::store::{Candidate, FormatOptions, Store, format_devices, open_devices};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId, SiteId};
use farside_io::entropy::{Entropy, SeededEntropy};
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use tokio::task::LocalSet;

const SITE: SiteId = SiteId([1; 16]);
const NODE: NodeId = NodeId(1);
const GEOMETRY: &str = "3+2";
const DEVICES: u64 = 7;
/// Enough that their layouts meet in many ways.
const CHUNKS: u64 = 60;

async fn open(disks: &[SimDisk], away: Option<usize>, pool: &Pool) -> Store<SimDisk> {
    let candidate = |(index, disk): (usize, &SimDisk)| Candidate {
        label: format!("device {index}"),
        disk: (away != Some(index)).then(|| disk.clone()),
    };
    let candidates = disks.iter().enumerate().map(candidate).collect();
    let set = open_devices(pool, candidates, SITE, NODE).await.expect("devices");
    Store::open(&set, 0, pool.clone()).await.expect("a store")
}

async fn put_all(store: &Store<SimDisk>, chunks: &[(ChunkId, Vec<u8>)]) {
    for (id, bytes) in chunks {
        let receipt = store.put_reserved(*id, bytes).await.expect("there is space");
        assert_eq!(receipt.durable_fragments, 5, "one fragment a device");
    }
}

async fn scenario() {
    let pool = Pool::new(16 << 20).expect("an arena");
    let disks: Vec<SimDisk> = (0..DEVICES).map(|seed| SimDisk::new(8 << 20, seed)).collect();
    let options = FormatOptions {
        site: SITE,
        node: NODE,
        shards: 1,
        geometry: Geometry::parse(GEOMETRY).expect("a geometry"),
        wal_bytes: 0,
        segment_bytes: Some(256 << 10),
    };
    let entropy = SeededEntropy::new(1);
    format_devices(&pool, &disks, &options, &entropy).await.expect("devices to format");
    let chunk = |_| {
        let mut bytes = vec![0; 10_000];
        entropy.fill(&mut bytes);
        (ChunkId(*blake3::hash(&bytes).as_bytes()), bytes)
    };
    let chunks: Vec<(ChunkId, Vec<u8>)> = (0..CHUNKS).map(chunk).collect();
    let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
    let store = open(&disks, None, &pool).await;
    put_all(&store, &chunks).await;
    drop(store);

    let store = open(&disks, Some(1), &pool).await;
    store.set_gc_epoch(1);
    assert_eq!(store.delete(&ids, 3), ids.len(), "nobody refers to them");
    put_all(&store, &chunks).await;
    drop(store);

    let store = open(&disks, None, &pool).await;
    assert!(store.status().recovery.duplicate_records > 0, "old records are there besides the new ones");
    for (id, receipt) in ids.iter().zip(store.have(&ids)) {
        let durable = receipt.map(|receipt| receipt.durable_fragments);
        assert_eq!(durable, Some(5), "chunk {id} survived two losses before the device came back");
    }
}

#[test]
fn a_device_that_comes_back_costs_no_redundancy() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(scenario()));
}
