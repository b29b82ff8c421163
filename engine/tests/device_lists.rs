//! A node's list of devices is changed, and the power is cut at every moment of it: with the old list or the new one, everything
//! is there, and the same order comes to its end.

use farside::store::{
    Candidate, DeviceSet, FormatOptions, Relocated, Store, add_device, format_devices, open_devices, remove_device,
    replace_device,
};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, DeviceId, NodeId, SiteId};
use farside_io::entropy::{Entropy, SeededEntropy};
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use tokio::task::LocalSet;

const SITE: SiteId = SiteId([1; 16]);
const NODE: NodeId = NodeId(1);
const DEVICE_BYTES: u64 = 8 << 20;
const DEVICES: u64 = 5;
const CHUNKS: usize = 12;

/// Devices by where they are plugged in, and what is stored on them.
struct Bays {
    pool: Pool,
    disks: Vec<Option<SimDisk>>,
    chunks: Vec<(ChunkId, Vec<u8>)>,
    entropy: SeededEntropy,
}

impl Bays {
    async fn new(seed: u64) -> Self {
        let pool = Pool::new(16 << 20).expect("an arena");
        let disks: Vec<SimDisk> = (0..DEVICES).map(|bay| SimDisk::new(DEVICE_BYTES, seed * 100 + bay)).collect();
        let options = FormatOptions {
            site: SITE,
            node: NODE,
            shards: 1,
            geometry: Geometry::parse("2+1").expect("a geometry"),
            wal_bytes: 64 << 10,
            segment_bytes: Some(256 << 10),
        };
        let entropy = SeededEntropy::new(seed);
        format_devices(&pool, &disks, &options, &entropy).await.expect("new devices");
        let chunk = |_| {
            let mut bytes = vec![0; 20_000];
            entropy.fill(&mut bytes);
            (ChunkId(*blake3::hash(&bytes).as_bytes()), bytes)
        };
        let chunks: Vec<(ChunkId, Vec<u8>)> = (0..CHUNKS).map(chunk).collect();
        let bays = Self { pool, disks: disks.into_iter().map(Some).collect(), chunks, entropy };
        let (_, store) = bays.open().await;
        for (id, bytes) in &bays.chunks {
            store.put_reserved(*id, bytes).await.expect("there is space");
        }
        bays
    }

    async fn set(&self) -> DeviceSet<SimDisk> {
        let candidate =
            |(bay, disk): (usize, &Option<SimDisk>)| Candidate { label: bay.to_string(), disk: disk.clone() };
        let candidates = self.disks.iter().enumerate().map(candidate).collect();
        open_devices(&self.pool, candidates, SITE, NODE).await.expect("devices")
    }

    async fn open(&self) -> (DeviceSet<SimDisk>, Store<SimDisk>) {
        let set = self.set().await;
        let store = Store::open(&set, 0, self.pool.clone()).await.expect("a store");
        (set, store)
    }

    /// Cuts the power, and reads everything after it.
    async fn crash(&mut self) {
        self.disks.iter_mut().flatten().for_each(|disk| *disk = disk.crash());
        self.check().await;
    }

    async fn check(&self) {
        let (_, store) = self.open().await;
        for (id, bytes) in &self.chunks {
            let read = store.get(*id, 0, 0).await.expect("it was stored");
            assert_eq!(read.pieces.concat(), *bytes, "chunk {id}");
        }
    }
}

/// Polls work so many times at most; `None`: it had not come to its end.
async fn cut_short<T>(work: impl Future<Output = T>, polls: usize) -> Option<T> {
    let (mut work, mut left) = (pin!(work), polls);
    poll_fn(|context| match left.checked_sub(1) {
        None => Poll::Ready(None),
        Some(less) => {
            left = less;
            work.as_mut().poll(context).map(Some)
        }
    })
    .await
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(work));
}

/// Does the same for ever more polls, until one comes to its end without being cut short.
async fn at_every_moment(mut once: impl AsyncFnMut(usize) -> bool) {
    for number in 0usize.. {
        // Every moment at first, and then one in a few: formatting alone takes some hundred.
        let polls = number * number.isqrt().max(1);
        if once(polls).await {
            assert!(polls > 20, "it was hardly ever cut short");
            return;
        }
    }
}

#[test]
fn a_device_is_added() {
    run(at_every_moment(async |polls| {
        let mut bays = Bays::new(polls as u64).await;
        let new = SimDisk::new(DEVICE_BYTES, 77);
        let set = bays.set().await;
        let first = cut_short(add_device(&bays.pool, &set, &new, &bays.entropy), polls).await;
        let done = first.is_some();
        drop(set);
        let new = new.crash();
        bays.crash().await;
        let set = bays.set().await;
        let id = add_device(&bays.pool, &set, &new, &bays.entropy).await.expect("it is added");
        bays.disks.push(Some(new));
        let set = bays.set().await;
        assert_eq!(set.slots.len(), 6, "cut short after {polls} polls");
        assert!(set.slots.iter().all(|slot| slot.device.is_some()), "every device has its place");
        assert_eq!(set.slots.last().map(|slot| slot.id), Some(id));
        assert!(set.wal_regions(0).iter().any(|region| region.id == id), "it may take another one's mirror");
        bays.check().await;
        done
    }));
}

#[test]
fn a_device_is_replaced() {
    run(at_every_moment(async |polls| {
        let mut bays = Bays::new(polls as u64).await;
        bays.disks[1] = None;
        let new = SimDisk::new(DEVICE_BYTES, 77);
        let set = bays.set().await;
        let first = cut_short(replace_device(&bays.pool, &set, 1, &new, &bays.entropy), polls).await;
        let done = first.is_some();
        drop(set);
        let new = new.crash();
        bays.crash().await;
        let set = bays.set().await;
        let id = replace_device(&bays.pool, &set, 1, &new, &bays.entropy).await.expect("it is replaced");
        bays.disks[1] = Some(new);
        let (set, store) = bays.open().await;
        assert_eq!(set.slots.len(), 5, "cut short after {polls} polls");
        assert!(set.slots.iter().all(|slot| slot.device.is_some()), "every device has its place");
        assert_eq!(set.slots[1].id, id);
        assert_eq!(set.wal_regions(0).len(), 2, "m+1 mirrors");
        for (chunk, _) in &bays.chunks {
            let _ = store.mend(*chunk).await.expect("there is room");
        }
        assert_eq!(store.status().owed_fragments, 0);
        bays.check().await;
        done
    }));
}

/// Moves what is on a device elsewhere.
async fn empty(store: &Store<SimDisk>, device: DeviceId) {
    store.set_leaving(&BTreeSet::from([device]));
    for segment in store.leaving_segments(device).await {
        for (chunk, fragment, _) in store.leaving_records(device, segment).await {
            let moved = store.move_off(chunk, fragment, device).await.expect("the shard runs");
            assert!(matches!(moved, Relocated::Moved(_)), "{moved:?}");
        }
        store.free_emptied().await.expect("the shard runs");
    }
}

#[test]
fn a_device_is_emptied_and_leaves() {
    run(at_every_moment(async |polls| {
        let mut bays = Bays::new(polls as u64).await;
        let (mut set, store) = bays.open().await;
        // One that holds no mirror of the log, and is in the middle of the list.
        let device = set.slots[3].id;
        let pool = bays.pool.clone();
        let leave = async {
            empty(&store, device).await;
            assert!(store.residents(device).is_some_and(|left| left.empty), "nothing is left on it");
            store.retire(device);
            remove_device(&pool, &mut set, device).await.expect("the others hear of it");
        };
        let done = cut_short(leave, polls).await.is_some();
        drop((set, store));
        // A move that was begun ends with the power.
        bays.crash().await;
        let (mut set, store) = bays.open().await;
        if set.slots.iter().any(|slot| slot.id == device) {
            empty(&store, device).await;
            store.retire(device);
            remove_device(&bays.pool, &mut set, device).await.expect("the others hear of it");
        }
        bays.disks.remove(3);
        let (set, store) = bays.open().await;
        assert_eq!(set.slots.len(), 4, "cut short after {polls} polls");
        assert!(set.slots.iter().all(|slot| slot.device.is_some() && slot.id != device), "the others are as they were");
        assert_eq!(store.status().owed_fragments, 0, "cut short after {polls} polls");
        // As redundant as before: any device may go.
        for lost in 0..bays.disks.len() {
            let disk = bays.disks[lost].take();
            bays.check().await;
            bays.disks[lost] = disk;
        }
        done
    }));
}

#[test]
fn what_a_new_device_should_hold_goes_there_and_nothing_else_moves() {
    run(async {
        let mut bays = Bays::new(5).await;
        let new = SimDisk::new(DEVICE_BYTES, 77);
        let set = bays.set().await;
        let id = add_device(&bays.pool, &set, &new, &bays.entropy).await.expect("it is added");
        bays.disks.push(Some(new));
        let (_, store) = bays.open().await;
        let before: Vec<u64> = store.status().devices.iter().map(|device| device.fragments).collect();
        let (found, _) = store.misplaced(Default::default(), usize::MAX);
        assert!(!found.is_empty() && found.iter().all(|(_, count)| *count == 1), "{found:?}");
        for (chunk, _) in &found {
            assert_eq!(store.balance(*chunk).await.expect("the shard runs").0, 1);
        }
        assert_eq!(store.misplaced(Default::default(), usize::MAX).0, []);
        let after = store.status();
        assert_eq!(store.residents(id).map(|held| held.fragments), Some(found.len() as u64));
        for (device, before) in after.devices.iter().zip(before).filter(|(device, _)| device.id != Some(id)) {
            assert!(device.fragments <= before, "{} got something", device.label);
        }
        assert_eq!(after.owed_fragments, 0);
        drop(store);
        bays.crash().await;
    });
}
