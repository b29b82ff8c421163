//! Stores that share the fragments of chunks: what one of them acknowledges is durable there, any k fragments give the
//! chunk back and nothing else, and what is asked wrongly is refused.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod fragments_support;

use farside::store::{StoreError, columns};
use farside_codec::ids::ChunkId;
use farside_codec::limits::MAX_CHUNK_SEALED_BYTES;
use farside_io::sim::{Fault, Operation, SimDisk};
use fragments_support::{Node, SHAPE, SHARES, Shape, Site, chunk, encode, geometry, held, layout, run, send};
use futures_util::future::join_all;

/// The id of another chunk.
fn small(seed: u64) -> ChunkId {
    chunk(seed, 100).0
}

/// Every loss of up to two of six fragments.
fn losses() -> impl Iterator<Item = u32> {
    (0u32..64).filter(|lost| lost.count_ones() <= 2)
}

#[test]
fn any_four_of_six_give_the_chunk_back() {
    run(async {
        let site = Site::new().await;
        for (seed, length) in [(1, 1), (2, 4096), (3, 50_000), (4, 131_072)] {
            let chunk = chunk(seed, length);
            site.put(&chunk).await;
            let (id, data) = &chunk;
            let (store, layout) = (&site.stores[1], layout(&site.stores[0], length));
            for (store, share) in site.stores.iter().zip(&SHARES) {
                assert_eq!(held(store, id), share);
            }
            for lost in losses() {
                for range in [0..length, length / 2..length / 2 + 1, length / 3..length, 0..length.div_ceil(5)] {
                    let given = site.gather(id, lost, &columns(&layout, &range)).await;
                    let pieces = store.decode(*id, layout.geometry(), length, range.clone(), given).expect("enough");
                    assert!(pieces.concat() == data[range], "lost {lost:b}");
                }
                let present = site.gather(id, lost, &(0..layout.fragment_bytes())).await;
                let wanted: Vec<usize> = (0..6).filter(|fragment| lost >> fragment & 1 == 1).collect();
                let rebuilt = match wanted.is_empty() {
                    true => continue,
                    false => store.rebuild(*id, layout.geometry(), length, present, &wanted).expect("enough"),
                };
                for (wanted, (fragment, bytes)) in wanted.iter().zip(rebuilt) {
                    let store = &site.stores[Site::node_of(*wanted)];
                    let kept = store.read_fragment(*id, store.geometry(), *wanted, 0..layout.fragment_bytes()).await;
                    assert!(fragment == *wanted && kept == Ok(bytes), "fragment {wanted}, lost {lost:b}");
                }
            }
        }
    });
}

#[test]
fn three_of_six_give_nothing() {
    run(async {
        let site = Site::new().await;
        let chunk = chunk(1, 50_000);
        site.put(&chunk).await;
        let layout = layout(&site.stores[0], 50_000);
        let whole = site.gather(&chunk.0, 0b111, &(0..layout.fragment_bytes())).await;
        let decoded = site.stores[0].decode(chunk.0, layout.geometry(), 50_000, 0..50_000, whole.clone());
        assert_eq!(decoded, Err(StoreError::Corrupt(chunk.0)));
        let rebuilt = site.stores[0].rebuild(chunk.0, layout.geometry(), 50_000, whole, &[0]);
        assert_eq!(rebuilt, Err(StoreError::Corrupt(chunk.0)));
    });
}

#[test]
fn a_damaged_fragment_is_none_and_others_stand_in() {
    run(async {
        let length = 120_000;
        for lost in 0..6 {
            for damaged in (0..6).filter(|damaged| *damaged != lost) {
                let site = Site::new().await;
                let chunk = chunk(5, length);
                site.put(&chunk).await;
                let (id, data) = &chunk;
                let layout = layout(&site.stores[0], length);
                let at = layout.fragment_bytes() - 1;
                site.nodes[Site::node_of(damaged)].damage(id, damaged as u8, at);

                // A range before the damage is good still, and what was answered once is not known to be damaged.
                let store = &site.stores[Site::node_of(damaged)];
                assert!(store.read_fragment(*id, store.geometry(), damaged, 0..at - 4096).await.is_ok());
                assert_eq!(held(store, id), SHARES[Site::node_of(damaged)]);

                let present = site.gather(id, 1 << lost, &(0..layout.fragment_bytes())).await;
                assert_eq!(present.len(), 4, "one is lost, one is damaged");
                let pieces = store.decode(*id, layout.geometry(), length, 0..length, present.clone());
                assert!(pieces.expect("enough").concat() == *data);
                assert_eq!(
                    store.read_fragment(*id, store.geometry(), damaged, 0..1).await,
                    Err(StoreError::NotFound(*id))
                );
                assert!(!held(store, id).contains(&(damaged as u8)));
                assert_eq!(store.status().counters.damaged_fragments, 1);

                // Made anew it is as it was, and is taken where the damaged one was.
                let mut rebuilt = store.rebuild(*id, layout.geometry(), length, present, &[damaged]).expect("enough");
                let (_, bytes) = rebuilt.remove(0);
                let mut writer = store
                    .begin_fragments(*id, layout.geometry(), length, &[damaged as u8])
                    .await
                    .expect("there is room");
                writer.append(&bytes).expect("a fragment");
                assert_eq!(writer.commit().await, Ok(vec![damaged as u8]));
                assert_eq!(store.read_fragment(*id, store.geometry(), damaged, 0..bytes.len()).await, Ok(bytes));
            }
        }
    });
}

#[test]
fn nothing_is_made_of_a_wrong_fragment() {
    run(async {
        let site = Site::new().await;
        let chunk = chunk(6, 50_001);
        site.put(&chunk).await;
        let layout = layout(&site.stores[0], 50_001);
        let good = site.gather(&chunk.0, 0, &(0..layout.fragment_bytes())).await;
        for (lost, at) in [(0, 3), (1, layout.fragment_bytes() - 1), (4, 0)] {
            let mut present = good.clone();
            present.retain(|(fragment, _)| *fragment != lost);
            // Padding of the last data fragment counts as well: parity was computed over it.
            let wrong = present.iter_mut().find(|(fragment, _)| *fragment == 3).expect("fragment 3 is given");
            let mut bytes = wrong.1.to_vec();
            bytes[at] ^= 1;
            wrong.1 = bytes.into();
            let rebuilt = site.stores[0].rebuild(chunk.0, layout.geometry(), 50_001, present, &[lost]);
            assert_eq!(rebuilt, Err(StoreError::Corrupt(chunk.0)), "fragment {lost}");
        }
    });
}

#[test]
fn a_read_that_was_wrong_once_is_repeated() {
    run(async {
        let site = Site::new().await;
        let chunk = chunk(7, 50_000);
        site.put(&chunk).await;
        let store = &site.stores[0];
        let good = store.read_fragment(chunk.0, store.geometry(), 0, 0..10_000).await.expect("it is here");
        assert!(good[..] == chunk.1[..10_000]);
        for disk in site.nodes[0].disks.borrow().iter() {
            disk.inject(Operation::Read, 0, Fault::Flip { bits: 40 });
        }
        assert_eq!(store.read_fragment(chunk.0, store.geometry(), 0, 0..10_000).await, Ok(good));
        assert_eq!(store.status().counters.transient_mismatches, 1);
        assert_eq!(held(store, &chunk.0), [0, 3]);
    });
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    run(async {
        let mut site = Site::new().await;
        let chunks: Vec<_> = (0..12).map(|seed| chunk(seed, 10_000 + 7_000 * seed as usize)).collect();
        for chunk in &chunks {
            site.put(chunk).await;
        }
        for _ in 0..3 {
            site.restart().await;
            for (id, data) in &chunks {
                let layout = layout(&site.stores[0], data.len());
                let given = site.gather(id, 0b110000, &(0..layout.fragment_bytes())).await;
                assert_eq!(given.len(), 4, "each fragment was acknowledged");
                let pieces = site.stores[2].decode(*id, layout.geometry(), data.len(), 0..data.len(), given);
                assert!(pieces.expect("enough").concat() == *data);
            }
            let status = site.stores[0].status();
            assert_eq!((status.recovery.damaged_records, status.recovery.torn_records), (0, 0));
            assert_eq!((status.chunks, status.fragments), (12, 24));
        }
    });
}

#[test]
fn each_fragment_has_a_device_of_its_own_while_there_are_enough() {
    run(async {
        for (devices, fragments, most) in [(2, &[1u8, 4][..], 1), (4, &[0, 2, 3, 5], 1), (3, &[0, 1, 2, 3, 4, 5], 2)] {
            let node = Node::new(1, Shape { devices, ..SHAPE }).await;
            let store = node.open().await;
            for seed in 0..20 {
                let chunk = chunk(seed, 20_000);
                let stripe = encode(&store, &chunk).await;
                // They come in two parts, each of which must look at where the other one lies.
                let (first, second) = fragments.split_at(fragments.len() / 2);
                assert_eq!(send(&store, &stripe, first, 8192).await, Ok(first.to_vec()));
                assert_eq!(store.put_fragments(&stripe, second).await, Ok(second.to_vec()));
                let mut loads = vec![0; devices];
                for fragment in fragments {
                    node.devices_of(&chunk.0, *fragment).into_iter().for_each(|device| loads[device] += 1);
                }
                assert_eq!(loads.iter().sum::<usize>(), fragments.len(), "each is written once");
                assert!(loads.iter().all(|load| *load <= most), "{loads:?} of {fragments:?}");
            }
        }
    });
}

#[test]
fn a_device_that_fails_is_passed_over() {
    let faults = [
        (Operation::Write, 0, Fault::Fail { errno: 5 }),
        // Of a fragment of a stripe in memory this is the data, after its header area.
        (Operation::Write, 1, Fault::Fail { errno: 5 }),
        (Operation::Sync, 0, Fault::Fail { errno: 5 }),
        (Operation::Write, 0, Fault::Full),
        (Operation::Write, 1, Fault::Full),
    ];
    for (number, (operation, after, fault)) in faults.into_iter().enumerate() {
        for (devices, lent) in [(3, false), (3, true), (2, false), (2, true)] {
            run(async {
                let node = Node::new(1, Shape { devices, ..SHAPE }).await;
                let store = node.open().await;
                let warm = chunk(99, 9_000);
                let stripe = encode(&store, &warm).await;
                let all: Vec<u8> = (0..devices as u8).collect();
                assert_eq!(store.put_fragments(&stripe, &all).await, Ok(all.clone()), "segments are begun");

                node.disks.borrow()[1].inject(operation, after, fault);
                let mut kept = Vec::new();
                for seed in 0..3 {
                    let chunk = chunk(seed, 30_000);
                    let stripe = encode(&store, &chunk).await;
                    let stored = match lent {
                        true => store.put_fragments(&stripe, &[2, 4]).await,
                        false => send(&store, &stripe, &[2, 4], 50_000).await,
                    };
                    let stored = stored.expect("a device takes one of them");
                    assert!(devices == 2 || stored == [2, 4], "fault {number}: {stored:?} on {devices} devices");
                    kept.push((chunk, stored, stripe));
                }
                if devices == 2 {
                    assert!(kept.iter().any(|(_, stored, _)| stored.len() == 1), "fault {number} has struck");
                }
                drop(store);
                node.crash();
                let store = node.open().await;
                for (chunk, stored, stripe) in kept {
                    for fragment in stored {
                        let bytes = stripe.fragment(usize::from(fragment));
                        let read =
                            store.read_fragment(chunk.0, store.geometry(), usize::from(fragment), 0..bytes.len()).await;
                        assert_eq!(read, Ok(bytes), "fault {number}: fragment {fragment} was acknowledged");
                    }
                }
            });
        }
    }
}

#[test]
fn without_a_device_nothing_is_acknowledged() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = node.open().await;
        let chunk = chunk(1, 30_000);
        let stripe = encode(&store, &chunk).await;
        let writer = store.begin_fragments(chunk.0, stripe.geometry(), 30_000, &[0, 1]).await;
        let mut writer = writer.expect("devices work as far as anybody knows");
        writer.append(&stripe.fragment(0)).expect("a fragment");
        writer.append(&stripe.fragment(1)).expect("a fragment");
        node.disks.borrow().iter().for_each(SimDisk::fail_forever);
        let none = Err(StoreError::Unavailable { fragments: 0, needed: 1 });
        assert_eq!(writer.commit().await, none);
        assert_eq!(store.put_fragments(&stripe, &[2]).await, none);
        assert!(store.takes_writes().is_err());
        assert!(store.fragments(&[chunk.0], true)[0].is_empty());
    });
}

#[test]
fn a_full_store_says_so_and_keeps_what_it_has() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = node.open().await;
        let chunk = |seed| chunk(seed, 100_000);
        let mut count = 0;
        let refused = loop {
            let stripe = encode(&store, &chunk(count)).await;
            match send(&store, &stripe, &[0, 5], 4096).await {
                Ok(stored) => assert_eq!(stored, [0, 5]),
                Err(error) => break error,
            }
            count += 1;
        };
        assert!(count > 15, "{count} chunks");
        assert_eq!((&refused, store.takes_writes()), (&StoreError::Full, Err(StoreError::Full)));
        let new = encode(&store, &chunk(1000)).await;
        assert_eq!(store.put_fragments(&new, &[1]).await, Err(StoreError::Full));
        for seed in 0..count {
            // What is here is acknowledged again, although there is no space.
            let stripe = encode(&store, &chunk(seed)).await;
            assert_eq!(send(&store, &stripe, &[5, 0], 4096).await, Ok(vec![0, 5]));
            assert_eq!(store.put_fragments(&stripe, &[5]).await, Ok(vec![5]));
            let read = store.read_fragment(stripe.chunk(), store.geometry(), 5, 0..stripe.fragment_bytes()).await;
            assert_eq!(read, Ok(stripe.fragment(5)));
        }
    });
}

#[test]
fn writers_of_one_chunk_take_turns() {
    run(async {
        let node = Node::new(1, Shape { devices: 6, ..SHAPE }).await;
        let store = node.open().await;
        let chunk = chunk(1, 60_000);
        let stripe = encode(&store, &chunk).await;
        let shares: [&[u8]; 5] = [&[0, 1, 2], &[2, 1], &[5], &[0, 5, 3], &[4, 2]];
        let sent = join_all(shares.iter().map(|share| send(&store, &stripe, share, 7_000)));
        let put = join_all(shares.iter().map(|share| store.put_fragments(&stripe, share)));
        let whole = store.put_reserved(chunk.0, &chunk.1);
        let (sent, put, whole) = futures_util::join!(sent, put, whole);
        assert_eq!(whole.expect("there is room").durable_fragments, 6);
        for (share, answer) in shares.iter().zip(sent).chain(shares.iter().zip(put)) {
            let mut share = share.to_vec();
            share.sort_unstable();
            assert_eq!(answer, Ok(share));
        }
        for fragment in 0..6 {
            assert_eq!(node.devices_of(&chunk.0, fragment).len(), 1, "fragment {fragment} is written once");
        }
        assert_eq!(store.get(chunk.0, 0, 0).await.expect("all is here").pieces.concat(), chunk.1);
    });
}

#[test]
fn a_caller_that_goes_away_leaves_nothing_half_done() {
    run(async {
        let node = Node::new(1, SHAPE).await;
        let store = node.open().await;
        let chunk = chunk(1, 60_000);
        let stripe = encode(&store, &chunk).await;
        for polls in 0..12u32 {
            let mut work = Box::pin(send(&store, &stripe, &[0, 3], 9_000));
            for _ in 0..polls {
                let polled = futures_util::poll!(&mut work);
                if polled.is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(send(&store, &stripe, &[0, 3], 9_000).await, Ok(vec![0, 3]));
        drop(stripe);
        assert_eq!(node.devices_of(&chunk.0, 0).len() + node.devices_of(&chunk.0, 3).len(), 2);
        assert_eq!(node.pool.free_bytes(), node.pool.total_bytes(), "every buffer comes back");
    });
}

#[test]
fn bad_input_is_refused() {
    run(async {
        let site = Site::new().await;
        let (store, chunk) = (&site.stores[0], chunk(1, 50_000));
        let own = store.geometry();
        let stripe = encode(store, &chunk).await;
        site.put(&chunk).await;
        let begin = async |geometry, bytes, named: &[u8]| {
            store.begin_fragments(chunk.0, geometry, bytes, named).await.map(|writer| writer.announced_bytes())
        };
        let names = StoreError::Fragments { total: 6 };
        for named in [&[][..], &[6], &[255], &[1, 1], &[0, 1, 2, 0]] {
            assert_eq!(begin(own, 50_000, named).await, Err(names.clone()), "{named:?}");
            assert_eq!(store.put_fragments(&stripe, named).await, Err(names.clone()), "{named:?}");
        }
        for bytes in [0, MAX_CHUNK_SEALED_BYTES + 1, usize::MAX] {
            assert_eq!(begin(own, bytes, &[1]).await, Err(StoreError::Size { sealed_bytes: bytes }));
            let stripe = store.begin_stripe(chunk.0, own, bytes).await.map(|_| ());
            assert_eq!(stripe, Err(StoreError::Size { sealed_bytes: bytes }));
        }
        // A fragment that no segment holds, and a stripe that the pool does not.
        assert_eq!(begin(own, 49_999, &[1]).await, Err(StoreError::Contradiction(chunk.0)));
        let large = StoreError::Size { sealed_bytes: 4 << 20 };
        let other = small(2);
        let begun = store.begin_fragments(other, own, 4 << 20, &[1]).await.map(|_| ());
        assert_eq!(begun, Err(large.clone()));
        assert_eq!(store.begin_stripe(other, own, 4 << 20).await.map(|_| ()), Err(large));
        for got in ["4+1", "2+4", "8+3", "1+0", "100+28"].map(geometry) {
            // A stripe is cut as anybody likes, and kept beside those that are cut otherwise.
            let mut writer = store.begin_stripe(chunk.0, got, 50_000).await.expect("memory");
            writer.append(&chunk.1).expect("as many bytes");
            let stripe = writer.encode().expect("the chunk that was announced");
            assert_eq!(stripe.geometry(), got);
            assert_eq!(store.put_fragments(&stripe, &[0]).await, Ok(vec![0]));
            assert!(store.drop_stripe(chunk.0, got) && !store.drop_stripe(chunk.0, got));
            let given = (got.parity()..got.total()).map(|fragment| (fragment, stripe.fragment(fragment))).collect();
            let decoded = store.decode(chunk.0, got, 50_000, 0..50_000, given).expect("enough");
            assert_eq!(decoded.concat(), chunk.1);
        }

        // Too many bytes, too few, and another chunk's.
        let mut writer = store.begin_fragments(other, own, 50_000, &[1, 2]).await.expect("there is room");
        let bytes = stripe.fragment_bytes();
        writer.append(&stripe.fragment(1)).expect("a fragment");
        let too_many = StoreError::Length { announced: 2 * bytes, got: 2 * bytes + 1 };
        assert_eq!(writer.append(&vec![0; bytes + 1]), Err(too_many));
        assert_eq!(writer.commit().await, Err(StoreError::Length { announced: 2 * bytes, got: bytes }));
        let mut liar = store.begin_stripe(other, own, 50_000).await.expect("memory");
        liar.append(&chunk.1).expect("as many bytes");
        assert_eq!(liar.encode().map(|_| ()), Err(StoreError::Mismatch(other)));
        let short = store.begin_stripe(other, own, 50_000).await.expect("memory");
        assert_eq!(short.encode().map(|_| ()), Err(StoreError::Length { announced: 50_000, got: 0 }));
        let present = store.put_reserved(chunk.0, &chunk.1).await.map(|receipt| receipt.durable_fragments);
        assert!(present.is_ok(), "a whole put adds what is missing: {present:?}");
        let writer = store.begin(chunk.0, 50_000).await.expect("it is here");
        assert!(writer.is_present() && writer.encode().is_err(), "there are no bytes to give");
    });
}

#[test]
fn bad_questions_are_refused() {
    run(async {
        let site = Site::new().await;
        let (store, chunk) = (&site.stores[0], chunk(1, 50_000));
        site.put(&chunk).await;
        let (id, own, layout) = (chunk.0, store.geometry(), layout(store, 50_000));
        let fragment_bytes = layout.fragment_bytes();
        let names = StoreError::Fragments { total: 6 };
        let no_range = Err(StoreError::FragmentRange { fragment_bytes });
        assert_eq!(store.read_fragment(id, store.geometry(), 6, 0..1).await, Err(names.clone()));
        assert_eq!(
            store.read_fragment(id, store.geometry(), 1, 0..1).await,
            Err(StoreError::NotFound(id)),
            "on another node"
        );
        let unknown = small(3);
        assert_eq!(store.read_fragment(unknown, store.geometry(), 0, 0..1).await, Err(StoreError::NotFound(unknown)));
        for range in [0..0, 5..5, 0..fragment_bytes + 1, fragment_bytes..fragment_bytes + 1, 0..usize::MAX] {
            assert_eq!(store.read_fragment(id, store.geometry(), 0, range).await, no_range);
        }

        let whole = site.gather(&id, 0, &(0..fragment_bytes)).await;
        let decode = |range, given: &[_]| store.decode(id, own, 50_000, range, given.to_vec()).map(|_| ());
        assert_eq!(decode(0..50_000, &whole), Ok(()));
        for range in [0..0, 0..50_001, 50_000..50_001, 7..usize::MAX] {
            assert_eq!(decode(range, &whole), Err(StoreError::Range { sealed_bytes: 50_000 }));
        }
        assert_eq!(decode(0..50_000, &[]), Err(names.clone()));
        assert_eq!(decode(0..50_000, &[&whole[..], &whole[..1]].concat()), Err(names.clone()));
        let stranger = (6, whole[0].1.clone());
        assert_eq!(decode(0..50_000, &[&whole[..], &[stranger]].concat()), Err(names.clone()));
        let short = (5, whole[5].1.slice(1..));
        let length = StoreError::Length { announced: fragment_bytes, got: fragment_bytes - 1 };
        assert_eq!(decode(0..50_000, &[&whole[..5], std::slice::from_ref(&short)].concat()), Err(length.clone()));
        assert_eq!(store.decode(id, own, 0, 0..1, whole.clone()), Err(StoreError::Size { sealed_bytes: 0 }));

        let rebuild = |given: &[_], wanted: &[usize]| {
            store.rebuild(id, own, 50_000, given.to_vec(), wanted).map(|made| made.len())
        };
        assert_eq!(rebuild(&whole, &[1, 5]), Ok(2), "what is there is given back");
        for wanted in [&[][..], &[6], &[2, 2], &[usize::MAX]] {
            assert_eq!(rebuild(&whole[..5], wanted), Err(names.clone()));
        }
        assert_eq!(rebuild(&[&whole[..5], &[short]].concat(), &[0]), Err(length));
        let swapped = [(0, whole[1].1.clone()), (1, whole[0].1.clone()), whole[2].clone(), whole[3].clone()];
        assert_eq!(rebuild(&swapped, &[5]), Err(StoreError::Corrupt(id)));
    });
}
