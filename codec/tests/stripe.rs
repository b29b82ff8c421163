//! The fragments of a stripe are the sealed chunk, each byte once, wherever it is cut.

use farside_codec::erasure::Geometry;
use farside_codec::limits::{BLOCK_BYTES, MAX_CHUNK_SEALED_BYTES};
use farside_codec::stripe::{FRAGMENT_FIXED_BYTES, StripeLayout};
use proptest::prelude::*;

fn layout(text: &str, sealed_bytes: usize) -> StripeLayout {
    StripeLayout::new(Geometry::parse(text).expect("a geometry"), sealed_bytes)
}

#[test]
fn golden_layouts() {
    let check = |text: &str, sealed_bytes, fragment, header, buffer| {
        let layout = layout(text, sealed_bytes);
        let found = (layout.fragment_bytes(), layout.header_bytes(), layout.buffer_bytes());
        assert_eq!(found, (fragment, header, buffer), "{text} of {sealed_bytes}");
    };
    // A chunk of 4 MiB and its 64 tags, as in the module's table.
    check("4+2", (4 << 20) + 64 * 16, 1_052_672, 4096, 6_340_608);
    check("4+2", 1, 4096, 4096, 6 * 8192);
    check("4+2", 4 * 4096, 4096, 4096, 6 * 8192);
    check("4+2", 4 * 4096 + 1, 8192, 4096, 6 * 12_288);
    // 960 checksums are the most that one block of header holds.
    check("1+0", 960 * 4096, 960 * 4096, 4096, 961 * 4096);
    check("1+0", 960 * 4096 + 1, 961 * 4096, 8192, 963 * 4096);
    check("64+16", 4 << 20, 65_536, 4096, 80 * 69_632);
}

#[test]
fn short_chunks_leave_fragments_empty() {
    let layout = layout("4+2", 4097);
    let ranges: Vec<_> = (0..6).map(|index| layout.chunk_range(index)).collect();
    assert_eq!(ranges, [0..4096, 4096..4097, 4097..4097, 4097..4097, 4097..4097, 4097..4097]);
    assert_eq!(layout.locate(4095..4097).collect::<Vec<_>>(), [(0, 4095..4096), (1, 0..1)]);
    let nothing = |range| layout.locate(range).next().is_none();
    assert!(nothing(0..0) && nothing(100..100) && nothing(4097..4097) && nothing(5000..9000));
    assert_eq!(layout.locate(4096..usize::MAX).collect::<Vec<_>>(), [(1, 0..1)], "only what there is");
}

fn layouts() -> impl Strategy<Value = StripeLayout> {
    let sealed_bytes = prop_oneof![1usize..70_000, 1..=MAX_CHUNK_SEALED_BYTES];
    (1usize..100, 1usize..28, sealed_bytes)
        .prop_map(|(data, parity, sealed)| StripeLayout::new(Geometry::new(data, parity).expect("fits"), sealed))
}

proptest! {
    #[test]
    fn fragments_tile_the_chunk(layout in layouts()) {
        let mut end = 0;
        for index in 0..layout.geometry().total() {
            let range = layout.chunk_range(index);
            prop_assert_eq!(range.start, end);
            prop_assert!(range.len() <= layout.fragment_bytes());
            prop_assert!(range.is_empty() || index < layout.geometry().data());
            end = range.end;
        }
        prop_assert_eq!(end, layout.sealed_bytes());
    }

    #[test]
    fn slots_tile_the_buffer(layout in layouts()) {
        let mut end = 0;
        for index in 0..layout.geometry().total() {
            let (slot, fragment) = (layout.slot(index), layout.fragment(index));
            prop_assert_eq!((slot.start, slot.end), (end, fragment.end));
            prop_assert_eq!(fragment.start - slot.start, layout.header_bytes());
            prop_assert_eq!(fragment.len(), layout.fragment_bytes());
            prop_assert!(slot.start % BLOCK_BYTES == 0 && fragment.start % BLOCK_BYTES == 0);
            end = slot.end;
        }
        prop_assert_eq!(end, layout.buffer_bytes());
        let table = FRAGMENT_FIXED_BYTES + layout.fragment_bytes() / BLOCK_BYTES * 4;
        prop_assert!((table..table + BLOCK_BYTES).contains(&layout.header_bytes()));
    }

    #[test]
    fn located_pieces_are_the_range(layout in layouts(), a: u32, b: u32) {
        let (a, b) = (a as usize % layout.sealed_bytes(), b as usize % layout.sealed_bytes());
        let (mut at, end) = (a.min(b), a.max(b) + 1);
        for (fragment, range) in layout.locate(at..end) {
            let held = layout.chunk_range(fragment);
            prop_assert!(!range.is_empty() && range.end <= held.len());
            prop_assert_eq!(held.start + range.start, at);
            at += range.len();
        }
        prop_assert_eq!(at, end);
    }
}
