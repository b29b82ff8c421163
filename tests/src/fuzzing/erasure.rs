//! How a chunk is cut and coded: layouts that cover it exactly, and fragments that give it back from any k of them.

use super::Seed;
use super::feed::Feed;
use farside_codec::erasure::{Coder, ErasureError, Geometry, kernels};
use farside_codec::limits::{BLOCK_BYTES, MAX_CHUNK_SEALED_BYTES, MAX_FRAGMENTS};
use std::ops::Range;

fn geometry(feed: &mut Feed<'_>) -> Option<Geometry> {
    let (data, parity) = (1 + feed.below(MAX_FRAGMENTS), feed.below(MAX_FRAGMENTS));
    Geometry::new(data, parity)
}

/// The layout of one stripe.
pub fn stripe(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let Some(geometry) = geometry(&mut feed) else { return };
    let sealed = 1 + feed.word() as usize % MAX_CHUNK_SEALED_BYTES;
    let (from, length) = (feed.word() as usize, feed.word() as usize);
    let layout = farside_codec::stripe::StripeLayout::new(geometry, sealed);
    assert!(layout.fragment_bytes().is_multiple_of(BLOCK_BYTES) && layout.header_bytes().is_multiple_of(BLOCK_BYTES));
    assert!(layout.header_bytes() >= 256 + layout.fragment_bytes() / BLOCK_BYTES * 4, "the checksums have room");
    assert!(layout.fragment_bytes() * geometry.data() >= sealed);
    assert!((layout.fragment_bytes() - BLOCK_BYTES) * geometry.data() < sealed, "no block too many");
    let mut covered = 0;
    for index in 0..geometry.data() {
        let range = layout.chunk_range(index);
        assert_eq!(range.start, covered.min(sealed));
        assert!(range.len() <= layout.fragment_bytes());
        covered = range.end;
    }
    assert_eq!(covered, sealed, "the data fragments are the chunk");
    for index in 0..geometry.total() {
        let (slot, fragment) = (layout.slot(index), layout.fragment(index));
        assert_eq!((slot.len(), fragment.len()), (layout.slot_bytes(), layout.fragment_bytes()));
        assert_eq!((slot.start + layout.header_bytes(), slot.end), (fragment.start, fragment.end));
        assert!(slot.end <= layout.buffer_bytes());
    }
    let from = from % (sealed + 9);
    locate(&layout, sealed, from..from + length % (sealed + 9));
}

/// The parts that hold a range are the range, in order.
fn locate(layout: &farside_codec::stripe::StripeLayout, sealed: usize, range: Range<usize>) {
    let end = range.end.min(sealed);
    let mut at = range.start.min(end);
    for (index, within) in layout.locate(range) {
        let held = layout.chunk_range(index);
        assert!(!within.is_empty() && within.end <= held.len());
        assert_eq!(held.start + within.start, at, "in order, without a gap");
        at = held.start + within.end;
    }
    assert_eq!(at, end, "all of it is found");
}

/// Seeds of [`stripe`].
pub fn stripe_seeds() -> Vec<Seed> {
    let seed = |data: u8, parity: u8, sealed: u32, from: u32, length: u32| {
        [&[data - 1, parity], &[sealed - 1, from, length].map(u32::to_le_bytes).concat()[..]].concat()
    };
    vec![
        ("default", seed(4, 2, 4_195_328, 1_000_000, 100_000)),
        ("single", seed(1, 0, 1, 0, 1)),
        ("uneven", seed(10, 4, 40_961, 4090, 9000)),
        ("wide", seed(100, 28, 16_000_000, 0, 16_000_000)),
        ("tiny-in-many", seed(127, 1, 5, 0, 5)),
        ("past-the-end", seed(4, 2, 9000, 8999, 5000)),
    ]
}

/// A stripe of any geometry loses any fragments.
pub fn erasure(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let Some(geometry) = geometry(&mut feed) else { return };
    let kernel = kernels()[feed.below(kernels().len())];
    let length = 2 * (1 + feed.below(200));
    let order = feed.take(geometry.total());
    let (extra, harm) = (feed.below(4), feed.byte());
    let pattern = feed.rest();
    let byte = |fragment: usize, at: usize| {
        let known = pattern.get((fragment * 31 + at) % 97).copied().unwrap_or(0);
        known ^ (fragment * 7 + at * 13) as u8
    };
    let data: Vec<Vec<u8>> =
        (0..geometry.data()).map(|index| (0..length).map(|at| byte(index, at)).collect()).collect();
    let coder = Coder::with_kernel(geometry, kernel);
    let stripe = encode(&coder, &data);
    if geometry.total() <= 32 {
        let scalar = kernels()[kernels().len() - 1];
        assert!(stripe == encode(&Coder::with_kernel(geometry, scalar), &data), "{} codes otherwise", kernel.name());
    }
    // The bytes are keys, and the order that they give says which fragments are left.
    let mut indexes: Vec<usize> = (0..geometry.total()).collect();
    indexes.sort_by_key(|index| order.get(*index).copied().unwrap_or(0));
    let (present, lost) = indexes.split_at((geometry.data() + extra).min(geometry.total()));
    let rebuilt = reconstruct(&coder, &stripe, present, lost, length).expect("k fragments are enough");
    for (index, rebuilt) in lost.iter().zip(&rebuilt) {
        assert!(*rebuilt == stripe[*index], "fragment {index} of {geometry} from {present:?}");
    }
    bad_calls(&coder, &stripe, present, lost, harm);
}

fn encode(coder: &Coder, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut parity = vec![vec![0xee; data[0].len()]; coder.geometry().parity()];
    let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    coder.encode(&inputs, &mut outputs).expect("as many as the geometry has, of one even length");
    [data, &parity].concat()
}

fn reconstruct(
    coder: &Coder,
    stripe: &[Vec<u8>],
    present: &[usize],
    wanted: &[usize],
    length: usize,
) -> Result<Vec<Vec<u8>>, ErasureError> {
    let present: Vec<(usize, &[u8])> =
        present.iter().map(|index| (*index, stripe.get(*index).map_or(&[][..], Vec::as_slice))).collect();
    let mut rebuilt = vec![vec![0xee; length]; wanted.len()];
    let mut outputs: Vec<(usize, &mut [u8])> =
        wanted.iter().copied().zip(rebuilt.iter_mut().map(Vec::as_mut_slice)).collect();
    coder.reconstruct(&present, &mut outputs).map(|()| rebuilt)
}

/// Calls that can't be answered are errors.
fn bad_calls(coder: &Coder, stripe: &[Vec<u8>], present: &[usize], lost: &[usize], harm: u8) {
    let length = stripe[0].len();
    let rebuild = |present: &[usize], wanted: &[usize], length| reconstruct(coder, stripe, present, wanted, length);
    let needed = coder.geometry().data();
    let too_few = rebuild(&present[..needed - 1], lost, length);
    assert_eq!(too_few, Err(ErasureError::TooFew { present: needed - 1, needed }));
    let at = usize::from(harm) % present.len();
    let twice = [present, &present[at..=at]].concat();
    assert_eq!(rebuild(&twice, lost, length), Err(ErasureError::Index(present[at])));
    assert_eq!(rebuild(present, &present[at..=at], length), Err(ErasureError::Index(present[at])));
    let beyond = stripe.len() + usize::from(harm);
    assert_eq!(rebuild(present, &[beyond], length), Err(ErasureError::Index(beyond)));
    if !lost.is_empty() {
        assert_eq!(rebuild(present, lost, length + 2), Err(ErasureError::Lengths));
    }
}

/// Seeds of [`erasure`].
pub fn erasure_seeds() -> Vec<Seed> {
    let seed = |data: u8, parity: u8, half_length: u8, lose_first: bool| {
        let total = data + parity;
        let order: Vec<u8> = (0..total).map(|index| if lose_first { total - index } else { index }).collect();
        [&[data - 1, parity, 0, half_length - 1], &order[..], &[0, 3], b"contents of the fragments"].concat()
    };
    vec![
        ("default", seed(4, 2, 64, true)),
        ("parity-lost", seed(4, 2, 33, false)),
        ("single", seed(1, 0, 1, false)),
        ("mirror", seed(1, 3, 17, true)),
        ("broad", seed(28, 4, 65, true)),
        ("wide", seed(40, 4, 33, true)),
        ("widest", seed(100, 28, 64, true)),
        ("many-parities", seed(1, 40, 2, true)),
    ]
}
