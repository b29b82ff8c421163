//! What becomes of fragments whose others lie on other nodes: they are dropped, walked, collected and moved; what the
//! store owes is what it knows of; and stripes that wait for other nodes leave memory for those that wait for this one.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod fragments_support;

use farside::store::{CollectCursor, Store, StoreError, StoreEvent};
use farside_codec::ids::ChunkId;
use farside_io::sim::{Fault, Operation, SimDisk};
use fragments_support::{Node, SHAPE, Shape, chunk, encode, held, run, send};
use futures_util::future::join;
use std::collections::BTreeMap;
use std::time::Duration;

/// Fragments by chunk, as a walk finds them.
fn walk(store: &Store<SimDisk>, limit: usize) -> BTreeMap<ChunkId, Vec<u8>> {
    let (mut found, mut cursor) = (BTreeMap::new(), Some(CollectCursor::default()));
    while let Some(at) = cursor {
        let (chunks, next) = store.walk(at, limit);
        assert!(chunks.len() <= limit);
        found.extend(chunks.into_iter().map(|(chunk, held)| (chunk, held.fragments)));
        cursor = next;
    }
    found
}

fn collectable(store: &Store<SimDisk>, barrier: u64) -> Vec<ChunkId> {
    let (mut found, mut cursor) = (Vec::new(), Some(CollectCursor::default()));
    while let Some(at) = cursor {
        let (chunks, next) = store.collectable(barrier, at, 3);
        found.extend(chunks);
        cursor = next;
    }
    found
}

async fn compact(store: &Store<SimDisk>) {
    for _ in 0..100 {
        if !store.compact_step().await.expect("compaction goes on").more {
            return;
        }
    }
    panic!("compaction comes to no end: {:?}", store.status());
}

#[test]
fn a_walk_finds_what_is_here_and_dropped_fragments_are_not() {
    run(async {
        let node = Node::new(1, Shape { devices: 3, ..SHAPE }).await;
        let store = node.open().await;
        let mut model = BTreeMap::new();
        for seed in 0..30 {
            let chunk = chunk(seed, 5_000);
            let stripe = encode(&store, &chunk).await;
            let share = [[0, 1, 2], [3, 4, 5], [0, 2, 4]][seed as usize % 3];
            assert_eq!(send(&store, &stripe, &share, 5_000).await, Ok(share.to_vec()));
            model.insert(chunk.0, share.to_vec());
        }
        for limit in [1, 7, 1000] {
            assert_eq!(walk(&store, limit), model);
        }
        let ids: Vec<ChunkId> = model.keys().copied().collect();
        for (number, id) in ids.iter().enumerate() {
            let share = model[id].clone();
            match number % 3 {
                // One that is here, and what is not.
                0 => {
                    assert_eq!(store.drop_fragments(*id, store.geometry(), &[share[1], 77, 255]), 1);
                    model.insert(*id, vec![share[0], share[2]]);
                }
                1 => {
                    assert_eq!(store.drop_fragments(*id, store.geometry(), &[0, 1, 2, 3, 4, 5]), 3);
                    model.remove(id);
                    assert!(store.fragments(&[*id], true)[0].is_empty(), "nothing is known of it");
                }
                _ => assert_eq!(store.drop_fragments(*id, store.geometry(), &[]), 0),
            }
        }
        assert_eq!(store.drop_fragments(chunk(99, 9).0, store.geometry(), &[0]), 0);
        assert_eq!(walk(&store, 4), model);
        let fragments: usize = model.values().map(Vec::len).sum();
        assert_eq!((store.status().chunks, store.status().fragments), (model.len() as u64, fragments as u64));
        for (id, share) in &model {
            for fragment in 0..6 {
                let read = store.read_fragment(*id, store.geometry(), fragment, 0..1).await;
                assert_eq!(read.is_ok(), share.contains(&(fragment as u8)), "{read:?}");
            }
        }
        compact(&store).await;
        drop(store);
        node.crash();
        let found = walk(&node.open().await, 9);
        assert!(model.iter().all(|(id, share)| found.get(id).is_some_and(|found| found.len() >= share.len())));
    });
}

#[test]
fn what_is_being_written_is_neither_dropped_nor_deleted() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = node.open().await;
        store.set_gc_epoch(1);
        let chunk = chunk(1, 30_000);
        let stripe = encode(&store, &chunk).await;
        assert_eq!(send(&store, &stripe, &[0], 9_000).await, Ok(vec![0]));
        store.set_gc_epoch(9);
        let disks = node.disks.borrow().clone();
        disks.iter().for_each(SimDisk::stall);
        let writing = store.put_fragments(&stripe, &[0, 3]);
        let others = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(store.drop_fragments(chunk.0, store.geometry(), &[0]), 0);
            assert_eq!((store.delete(&[chunk.0], 99), store.release(&[chunk.0])), (0, 0));
            disks.iter().for_each(SimDisk::release);
        };
        assert_eq!(join(writing, others).await.0, Ok(vec![0, 3]));
        assert_eq!(store.drop_fragments(chunk.0, store.geometry(), &[0]), 1);
        assert_eq!(held(&store, &chunk.0), [3]);
    });
}

#[test]
fn chunks_of_which_a_part_or_nothing_is_left_are_collected() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = node.open().await;
        store.set_gc_epoch(4);
        let chunks: Vec<_> = (0..4).map(|seed| chunk(seed, 30_000)).collect();
        for chunk in &chunks {
            let stripe = encode(&store, chunk).await;
            assert_eq!(send(&store, &stripe, &[1, 4], 9_000).await, Ok(vec![1, 4]));
        }
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.0).collect();
        // Of one both fragments are damaged, of another one is.
        for (id, fragment) in [(ids[0], 1), (ids[0], 4), (ids[1], 4)] {
            node.damage(&id, fragment, 5_000);
            assert!(store.read_fragment(id, store.geometry(), usize::from(fragment), 0..8_000).await.is_err());
        }
        assert_eq!(store.status().counters.damaged_fragments, 3);
        let left: Vec<Vec<u8>> = ids.iter().map(|id| held(&store, id)).collect();
        assert_eq!(left, [vec![], vec![1], vec![1, 4], vec![1, 4]]);
        assert!(!store.fragments(&ids[..1], false)[0].is_empty(), "it is known, although nothing is left");
        assert_eq!(walk(&store, 1).len(), 4);

        assert!(collectable(&store, 5).is_empty());
        store.set_gc_epoch(6);
        // Asking does not touch, unless it is meant to.
        assert_eq!(store.fragments(&ids, false)[3].first().map(|held| held.gc_epoch), Some(4));
        let touched = store.fragments(&[ids[3], ids[0]], true);
        assert!(touched.iter().all(|held| held.first().is_some_and(|held| held.gc_epoch == 6)));
        let mut old = collectable(&store, 6);
        old.sort_unstable();
        let mut expected = vec![ids[1], ids[2]];
        expected.sort_unstable();
        assert_eq!(old, expected);
        assert_eq!(store.delete(&ids, 6), 2);
        assert_eq!(walk(&store, 10).len(), 2);

        // Sending what is held touches as well.
        store.set_gc_epoch(8);
        let stripe = encode(&store, &chunks[3]).await;
        assert_eq!(send(&store, &stripe, &[4], 9_000).await, Ok(vec![4]));
        assert_eq!(store.delete(&ids, 8), 1);
        assert_eq!(held(&store, &ids[3]), [1, 4]);
        store.set_gc_epoch(10);
        assert_eq!(store.delete(&ids, 10), 1);
        let status = store.status();
        assert_eq!((status.chunks, status.fragments, status.owed_fragments), (0, 0, 0));
    });
}

#[test]
fn compaction_moves_single_fragments_under_reads() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = node.open().await;
        let chunks: Vec<_> = (0..40).map(|seed| chunk(seed, 40_000)).collect();
        let mut kept = Vec::new();
        for (number, chunk) in chunks.iter().enumerate() {
            let stripe = encode(&store, chunk).await;
            assert_eq!(send(&store, &stripe, &[0, 5], 20_000).await, Ok(vec![0, 5]));
            match number % 4 {
                0 => kept.push((chunk.0, [stripe.fragment(0).to_vec(), stripe.fragment(5).to_vec()])),
                _ => assert_eq!(store.release(&[chunk.0]), 1),
            }
        }
        let used = |store: &Store<SimDisk>| store.status().devices.iter().map(|device| device.used_bytes).sum::<u64>();
        let before = used(&store);
        let reads = async {
            for _ in 0..6 {
                for (id, [data, parity]) in &kept {
                    let read = store.read_fragment(*id, store.geometry(), 0, 0..data.len()).await.expect("it is here");
                    assert!(read[..] == data[..]);
                    let read =
                        store.read_fragment(*id, store.geometry(), 5, 100..parity.len()).await.expect("it is here");
                    assert!(read[..] == parity[100..]);
                }
            }
        };
        join(reads, compact(&store)).await;
        compact(&store).await;
        assert!(store.status().counters.compacted_bytes > 0, "something was moved");
        assert!(used(&store) * 2 < before, "{} of {before} bytes are used", used(&store));
        assert_eq!(store.status().counters.damaged_fragments, 0);
        drop(store);
        node.crash();
        let store = node.open().await;
        for (id, [data, parity]) in &kept {
            assert_eq!(
                store.read_fragment(*id, store.geometry(), 0, 0..data.len()).await.expect("it is here")[..],
                data[..]
            );
            assert_eq!(
                store.read_fragment(*id, store.geometry(), 5, 0..parity.len()).await.expect("it is here")[..],
                parity[..]
            );
        }
    });
}

#[test]
fn a_spread_store_owes_what_it_knows_of() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = node.open().await;
        for seed in 0..5 {
            let stripe = encode(&store, &chunk(seed, 30_000)).await;
            assert_eq!(store.put_fragments(&stripe, &[2, 3]).await, Ok(vec![2, 3]));
        }
        let status = store.status();
        assert_eq!((status.chunks, status.fragments, status.owed_fragments, status.owed_bytes), (5, 10, 0, 0));
        // A store that had them all to itself would miss four of each.
        store.set_spread(false);
        assert_eq!(store.status().owed_fragments, 20);
        store.set_spread(true);
        assert!(store.have(&[chunk(0, 30_000).0])[0].is_none(), "two fragments are no chunk");

        // A chunk that is not whole here is not damaged, and nobody is told so.
        assert_eq!(
            store.get(chunk(0, 30_000).0, 0, 0).await.map(|_| ()),
            Err(StoreError::NotFound(chunk(0, 30_000).0))
        );
        assert_eq!((store.take_events(), store.status().counters.corrupt_chunks), (Vec::new(), 0));

        node.disks.borrow()[0].inject(Operation::Sync, 0, Fault::Fail { errno: 5 });
        let stripe = encode(&store, &chunk(9, 30_000)).await;
        assert_eq!(store.put_fragments(&stripe, &[2, 3]).await.map(|stored| stored.len()), Ok(1));
        let status = store.status();
        assert_eq!((status.fragments, status.owed_fragments), (6, 5));
        assert_eq!(status.owed_bytes, status.devices[0].live_bytes);
        assert!(matches!(store.take_events()[..], [StoreEvent::DeviceFailed { .. }]));
        assert_eq!(held(&store, &chunk(0, 30_000).0).len(), 1);

        drop(store);
        node.crash();
        let store = node.open_without(&[0]).await;
        let status = store.status();
        assert_eq!((status.fragments, status.owed_fragments), (6, 0), "others know what should be here");
        assert_eq!((status.recovery.partial_chunks, status.recovery.unreadable_chunks), (0, 0));
        store.set_spread(false);
        let recovery = store.status().recovery;
        assert_eq!((recovery.partial_chunks, recovery.unreadable_chunks), (6, 6));
    });
}

#[test]
fn a_chunk_that_is_whole_here_is_read_as_ever() {
    run(async {
        let node = Node::new(1, Shape { devices: 6, ..SHAPE }).await;
        let store = node.open().await;
        let chunk = chunk(1, 60_000);
        let receipt = store.put_reserved(chunk.0, &chunk.1).await.expect("there is room");
        assert_eq!((receipt.durable_fragments, receipt.deduplicated), (6, false));
        assert_eq!(held(&store, &chunk.0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(store.drop_fragments(chunk.0, store.geometry(), &[0, 4]), 2);
        assert_eq!(store.get(chunk.0, 7, 40_000).await.expect("four are left").pieces.concat(), chunk.1[7..40_007]);
        assert!(store.have(&[chunk.0])[0].is_none(), "no loss is survived");
        let again = store.put_reserved(chunk.0, &chunk.1).await.expect("there is room");
        assert_eq!((again.durable_fragments, again.deduplicated), (6, false));

        // A writer of a stripe may store it whole as well.
        let other = fragments_support::chunk(2, 60_000);
        let mut writer = store.begin_stripe(other.0, store.geometry(), 60_000).await.expect("memory");
        writer.append(&other.1).expect("as many bytes");
        assert_eq!(writer.commit().await.map(|receipt| receipt.durable_fragments), Ok(6));

        // Damage beyond the redundancy is told.
        for fragment in 0..3 {
            node.damage(&chunk.0, fragment, 10);
        }
        assert_eq!(store.get(chunk.0, 0, 0).await.map(|_| ()), Err(StoreError::Corrupt(chunk.0)));
        assert!(store.take_events().contains(&StoreEvent::ChunkCorrupt { chunk: chunk.0 }));
    });
}

#[test]
fn stripes_leave_half_of_the_memory_to_what_others_send() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = node.open().await;
        let mut stripes = vec![encode(&store, &chunk(0, 100_000)).await];
        let one = node.pool.total_bytes() - node.pool.free_bytes();
        let wait = Duration::from_secs(1);
        while let Ok(stripe) = tokio::time::timeout(wait, encode(&store, &chunk(stripes.len() as u64, 100_000))).await {
            stripes.push(stripe);
        }
        let used = node.pool.total_bytes() - node.pool.free_bytes();
        assert!(used * 2 <= node.pool.total_bytes() && (used + one) * 2 > node.pool.total_bytes(), "{used} bytes");
        for stripe in &stripes {
            assert_eq!(send(&store, stripe, &[0], 50_000).await, Ok(vec![0]));
        }

        // A stripe's share comes back with the last of its bytes.
        let last = stripes.pop().expect("several stripes");
        let (copy, fragment) = (last.clone(), last.fragment(3));
        let expected = fragment.to_vec();
        let next = chunk(99, 100_000);
        let mut begun = Box::pin(encode(&store, &next));
        for kept in [Box::new(last) as Box<dyn std::any::Any>, Box::new(copy)] {
            drop(kept);
            assert!(tokio::time::timeout(wait, &mut begun).await.is_err(), "a fragment is still on its way");
        }
        assert_eq!(fragment[..], expected[..]);
        drop(fragment);
        let stripe = tokio::time::timeout(wait, begun).await.expect("memory came back");
        assert_eq!(stripe.chunk(), next.0);
        drop((stripe, stripes));
        assert_eq!(node.pool.free_bytes(), node.pool.total_bytes(), "every buffer comes back");
    });
}

#[test]
fn what_is_rebuilt_waits_for_no_memory() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = node.open().await;
        let chunk = chunk(1, 100_000);
        let stripe = encode(&store, &chunk).await;
        let _all = node.pool.try_take(node.pool.free_bytes()).expect("all that is left");
        let given: Vec<_> = (2..6).map(|fragment| (fragment, stripe.fragment(fragment))).collect();
        let decoded = store.decode(chunk.0, stripe.geometry(), 100_000, 0..100_000, given.clone());
        assert_eq!(decoded.expect("enough").concat(), chunk.1);
        let rebuilt = store.rebuild(chunk.0, stripe.geometry(), 100_000, given, &[1]);
        assert_eq!(rebuilt, Ok(vec![(1, stripe.fragment(1))]));
    });
}
