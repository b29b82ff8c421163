//! Every erasure pattern comes back, with every kernel, and the parity is ISA-L's.

use farside_codec::erasure::{Coder, Geometry, kernels};
use farside_codec::stripe::StripeLayout;
use proptest::prelude::*;

fn data(geometry: Geometry, length: usize, seed: u64) -> Vec<Vec<u8>> {
    let byte = |at: usize| (seed.wrapping_add(at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..geometry.data()).map(|index| (0..length).map(|at| byte(index * 1_000_003 + at)).collect()).collect()
}

fn encode(coder: &Coder, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut parity = vec![vec![0; data[0].len()]; coder.geometry().parity()];
    let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    coder.encode(&inputs, &mut outputs).expect("equal lengths");
    parity
}

/// Loses the fragments in `lost` and rebuilds them.
fn check_pattern(coder: &Coder, all: &[Vec<u8>], lost: &[usize]) {
    let present: Vec<(usize, &[u8])> =
        all.iter().enumerate().filter(|(index, _)| !lost.contains(index)).map(|(index, at)| (index, &at[..])).collect();
    let mut rebuilt = vec![vec![0; all[0].len()]; lost.len()];
    let mut wanted: Vec<(usize, &mut [u8])> =
        lost.iter().copied().zip(rebuilt.iter_mut().map(Vec::as_mut_slice)).collect();
    coder.reconstruct(&present, &mut wanted).expect("enough fragments");
    for (index, rebuilt) in lost.iter().zip(&rebuilt) {
        assert_eq!(rebuilt, &all[*index], "fragment {index} of {} without {lost:?}", coder.geometry());
    }
}

fn every_pattern(text: &str, length: usize) {
    let geometry = Geometry::parse(text).expect("a geometry");
    for kernel in kernels() {
        let coder = Coder::with_kernel(geometry, *kernel);
        let mut all = data(geometry, length, 7);
        all.extend(encode(&coder, &all));
        for pattern in 0u32..1 << geometry.total() {
            if pattern.count_ones() as usize <= geometry.parity() {
                let lost: Vec<usize> = (0..geometry.total()).filter(|index| pattern >> index & 1 == 1).collect();
                check_pattern(&coder, &all, &lost);
            }
        }
    }
}

#[test]
fn every_pattern_of_narrow_stripes_comes_back() {
    for text in ["1+0", "1+1", "1+2", "2+1", "3+3", "4+2", "5+4", "8+3"] {
        every_pattern(text, 131);
    }
    every_pattern("10+4", 65);
}

#[test]
fn wide_stripes_come_back() {
    let geometry = Geometry::parse("64+16").expect("a geometry");
    let coder = Coder::new(geometry);
    let mut all = data(geometry, 4096, 3);
    all.extend(encode(&coder, &all));
    check_pattern(&coder, &all, &(0..16).collect::<Vec<_>>());
    check_pattern(&coder, &all, &(64..80).collect::<Vec<_>>());
    check_pattern(&coder, &all, &(3..80).step_by(5).collect::<Vec<_>>());
}

#[test]
fn parity_is_what_it_always_was() {
    // Pinned: what lies on disks was coded so. Coefficient 1 / (i ^ j) over 0x11D, as ISA-L's gf_gen_cauchy1_matrix.
    let geometry = Geometry::parse("4+2").expect("a geometry");
    for kernel in kernels() {
        let data: Vec<Vec<u8>> = (0..4).map(|index| (0..8).map(|at| index * 16 + at).collect()).collect();
        let hex: Vec<String> = encode(&Coder::with_kernel(geometry, *kernel), &data)
            .iter()
            .map(|row| row.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        assert_eq!(hex, GOLDEN, "kernel {}", kernel.name());
    }
}
const GOLDEN: [&str; 2] = ["e8c8a88868482808", "d2f292b252721232"];

#[test]
fn too_little_is_an_error() {
    let coder = Coder::new(Geometry::DEFAULT);
    let fragment = [0; 16];
    let present: Vec<(usize, &[u8])> = (0..3).map(|index| (index, &fragment[..])).collect();
    let mut out = [0; 16];
    assert!(coder.reconstruct(&present, &mut [(4, &mut out)]).is_err());
    let twice: Vec<(usize, &[u8])> = [0, 1, 2, 2].into_iter().map(|index| (index, &fragment[..])).collect();
    assert!(coder.reconstruct(&twice, &mut [(4, &mut out)]).is_err());
    assert!(Geometry::parse("0+2").is_none() && Geometry::parse("120+20").is_none() && Geometry::parse("4").is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn kernels_agree(k in 1usize..20, m in 0usize..12, length in 1usize..70_000, seed: u64) {
        let geometry = Geometry::new(k, m).expect("narrow");
        let data = data(geometry, length, seed);
        let scalar = encode(&Coder::with_kernel(geometry, kernels()[kernels().len() - 1]), &data);
        for kernel in kernels() {
            prop_assert_eq!(&encode(&Coder::with_kernel(geometry, *kernel), &data), &scalar, "kernel {}", kernel.name());
        }
    }

    #[test]
    fn ranges_tile_the_chunk(k in 1usize..40, sealed in 1usize..20_000_000, a: u32, b: u32) {
        let layout = StripeLayout::new(Geometry::new(k, 2).expect("a geometry"), sealed);
        let end = (0..k).fold(0, |end, index| {
            let range = layout.chunk_range(index);
            assert_eq!(range.start, end);
            range.end
        });
        prop_assert_eq!(end, sealed);
        let (a, b) = (a as usize % sealed, b as usize % sealed);
        let (from, to) = (a.min(b), a.max(b) + 1);
        let located: usize = layout.locate(from..to).map(|(_, range)| range.len()).sum();
        prop_assert_eq!(located, to - from);
    }
}
