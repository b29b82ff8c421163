//! A site of one node goes over to another geometry: what is there is cut again, and is never less redundant on the way than
//! it was.

mod fragments_support;

use farside::store::{CollectCursor, Store};
use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_io::entropy::SeededEntropy;
use farside_io::sim::SimDisk;
use fragments_support::{Node, Shape, chunk, geometry, run};
use std::collections::BTreeSet;

const SHAPE: Shape = Shape { geometry: "4+2", devices: 6, segment_bytes: 512 << 10, segments: 24 };

type Chunk = (ChunkId, Vec<u8>);

async fn open(node: &Node, missing: &[usize], cut: Geometry) -> Store<SimDisk> {
    let store = node.open_without(missing).await;
    store.set_spread(false);
    store.set_geometry(cut);
    store
}

async fn put(store: &Store<SimDisk>, chunks: &[Chunk]) {
    for (id, data) in chunks {
        let mut writer = store.begin(*id, data.len()).await.expect("room");
        writer.append(data).expect("as many bytes");
        writer.commit().await.expect("stored");
    }
}

async fn reads(store: &Store<SimDisk>, chunks: &[Chunk]) {
    for (id, data) in chunks {
        assert!(store.get(*id, 0, 0).await.expect("it is here").pieces.concat() == *data, "chunk {id}");
        let part = store.get(*id, 7, 5).await.expect("it is here").pieces.concat();
        assert!(part == data[7..12], "a part of chunk {id}");
    }
}

fn mendable(store: &Store<SimDisk>) -> Vec<ChunkId> {
    let (mut found, mut cursor) = (Vec::new(), Some(CollectCursor::default()));
    while let Some(at) = cursor {
        let (more, next) = store.mendable(at, 3);
        found.extend(more);
        cursor = next;
    }
    let distinct: BTreeSet<ChunkId> = found.iter().copied().collect();
    assert_eq!(distinct.len(), found.len(), "each chunk is named once");
    found
}

async fn mend_all(store: &Store<SimDisk>) {
    for chunk in mendable(store) {
        store.mend(chunk).await.expect("mended");
    }
}

/// How chunks are cut, each stripe with how many of its fragments are on devices that work.
fn cuts(store: &Store<SimDisk>, chunk: &ChunkId) -> BTreeSet<(String, usize)> {
    let held = store.fragments(&[*chunk], false).pop().unwrap_or_default();
    held.into_iter().map(|held| (held.geometry.to_string(), held.fragments.len())).collect()
}

fn of(text: &str, fragments: usize) -> BTreeSet<(String, usize)> {
    BTreeSet::from([(text.to_owned(), fragments)])
}

fn chunks(count: u64) -> Vec<Chunk> {
    (0..count).map(|seed| chunk(seed, 20_000 + 9_001 * seed as usize)).collect()
}

#[test]
fn chunks_are_cut_again_and_nothing_of_the_older_stripes_is_left() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = open(&node, &[], geometry("4+2")).await;
        let chunks = chunks(12);
        put(&store, &chunks).await;
        for text in ["2+2", "3+3", "1+0", "4+2"] {
            let before = store.geometry();
            store.set_geometry(geometry(text));
            assert_eq!(store.status().cut_otherwise, 12);
            // What is stored already is stored, however it is cut.
            assert!(store.have(&[chunks[0].0])[0].is_some());
            reads(&store, &chunks).await;
            assert_eq!(store.mend(chunks[0].0).await, Ok(geometry(text).total()));
            assert_eq!(cuts(&store, &chunks[0].0), of(text, geometry(text).total()));
            assert_eq!(cuts(&store, &chunks[1].0), of(&before.to_string(), before.total()));
            mend_all(&store).await;
            let status = store.status();
            assert_eq!((status.cut_otherwise, status.owed_fragments, status.chunks), (0, 0, 12));
            assert_eq!(status.fragments, 12 * geometry(text).total() as u64);
            assert!(mendable(&store).is_empty());
            reads(&store, &chunks).await;
        }
        // What is deleted goes with all of its stripes, and so does its space.
        store.set_gc_epoch(1);
        store.set_geometry(geometry("2+2"));
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.0).collect();
        store.mend(ids[0]).await.expect("cut again");
        assert_eq!(store.delete(&ids, 9), 12);
        assert_eq!((store.status().chunks, store.status().fragments, store.status().cut_otherwise), (0, 0, 0));
        while store.compact_step().await.expect("compacted").more {}
        assert!(store.status().devices.iter().all(|device| device.live_bytes == 0));
    });
}

#[test]
fn a_start_finds_both_stripes_and_goes_on() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = open(&node, &[], geometry("4+2")).await;
        let chunks = chunks(9);
        put(&store, &chunks).await;
        store.set_geometry(geometry("2+2"));
        for (id, _) in &chunks[..4] {
            store.mend(*id).await.expect("cut again");
        }
        drop(store);
        node.crash();
        // What was let go of is back with what came in its stead.
        let store = open(&node, &[], geometry("2+2")).await;
        assert_eq!(store.status().cut_otherwise, 9);
        assert_eq!(cuts(&store, &chunks[0].0), BTreeSet::from([("2+2".to_owned(), 4), ("4+2".to_owned(), 6)]));
        assert_eq!(store.status().recovery.contradicting_records, 0);
        reads(&store, &chunks).await;
        mend_all(&store).await;
        assert_eq!(store.status().cut_otherwise, 0);
        // Compaction moves what counts, and only that.
        while store.compact_step().await.expect("compacted").more {}
        reads(&store, &chunks).await;
        drop(store);
        node.crash();
        let store = open(&node, &[], geometry("2+2")).await;
        reads(&store, &chunks).await;
        mend_all(&store).await;
        let status = store.status();
        assert_eq!((status.cut_otherwise, status.owed_fragments), (0, 0));
    });
}

#[test]
fn a_stripe_that_is_more_redundant_is_not_let_go_of() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = open(&node, &[], geometry("4+2")).await;
        let chunks = chunks(6);
        put(&store, &chunks).await;
        drop(store);
        // Two devices are away: of six fragments, four find a place, and survive no loss. The older stripe does not either.
        let store = open(&node, &[2, 4], geometry("3+3")).await;
        mend_all(&store).await;
        for (id, _) in &chunks {
            assert_eq!(cuts(&store, id), of("3+3", 4), "it survives one loss, and the older one none");
        }
        reads(&store, &chunks).await;
        drop(store);
        // They are back, and what lay there.
        let store = open(&node, &[], geometry("3+3")).await;
        mend_all(&store).await;
        for (id, _) in &chunks {
            assert_eq!(cuts(&store, id), of("3+3", 6));
        }
        // A stripe that survives less than the older one, for want of devices, is kept beside it.
        drop(store);
        let store = open(&node, &[0], geometry("5+1")).await;
        mend_all(&store).await;
        for (id, _) in &chunks {
            // What was let go of before may be back as well.
            let cuts = cuts(&store, id);
            assert!(cuts.is_superset(&BTreeSet::from([("3+3".to_owned(), 5), ("5+1".to_owned(), 5)])), "{cuts:?}");
        }
        reads(&store, &chunks).await;
        drop(store);
        let store = open(&node, &[], geometry("5+1")).await;
        mend_all(&store).await;
        assert_eq!(store.status().cut_otherwise, 0);
        reads(&store, &chunks).await;
    });
}

#[test]
fn damage_and_power_cuts_on_the_way_cost_nothing() {
    for seed in 0..24 {
        run(async {
            let random = SeededEntropy::new(seed);
            let below = |bound: usize| random.next_u64() as usize % bound;
            let node = Node::new(seed + 1, SHAPE).await;
            let mut cut = geometry("4+2");
            let mut store = open(&node, &[], cut).await;
            let chunks = chunks(8);
            put(&store, &chunks).await;
            for _ in 0..6 {
                cut = geometry(["4+2", "2+2", "3+2", "1+2"][below(4)]);
                store.set_geometry(cut);
                // Power is cut in the middle of something.
                let polls = below(400);
                let mut work = Box::pin(mend_all(&store));
                for _ in 0..polls {
                    if futures_util::poll!(&mut work).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(work);
                drop(store);
                node.crash();
                // Any two devices may be away at the start, whatever was cut how.
                let away = [below(6), below(6)];
                store = open(&node, &away, cut).await;
                reads(&store, &chunks).await;
                mend_all(&store).await;
                reads(&store, &chunks).await;
                drop(store);
                node.crash();
                store = open(&node, &[], cut).await;
                reads(&store, &chunks).await;
                mend_all(&store).await;
                assert_eq!((store.status().cut_otherwise, store.status().owed_fragments), (0, 0), "seed {seed}");
            }
            // A scrub finds every stripe's fragments, and nothing wrong.
            for (id, _) in &chunks {
                let verified = store.verify(*id).await.expect("verified");
                assert_eq!((verified.good as usize, verified.damaged), (cut.total(), 0));
            }
        });
    }
}

#[test]
fn a_geometry_in_which_nothing_would_fit_is_refused() {
    run(async {
        let node = Node::new(1, Shape { segment_bytes: 2 << 20, ..SHAPE }).await;
        let store = open(&node, &[], geometry("4+2")).await;
        assert!(store.largest_chunk_bytes() > 2 << 20);
        let refused = store.fits_geometry(geometry("1+2")).expect_err("no segment holds the default chunk whole");
        assert!(refused.to_string().starts_with("cut 1+2, chunks of "), "{refused}");
        assert_eq!(store.geometry(), geometry("4+2"));
    });
}
