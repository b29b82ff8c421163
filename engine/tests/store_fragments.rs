//! Stores that share the fragments of chunks: what one of them acknowledges is durable there, any k fragments give the
//! chunk back and nothing else, and what is asked wrongly is refused.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod fragments_support;

use farside::store::{StoreError, columns};
use fragments_support::{SHARES, Site, chunk, held, layout, run};

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
                    let kept = store.read_fragment(*id, *wanted, 0..layout.fragment_bytes()).await;
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
