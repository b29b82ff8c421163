//! Every erasure pattern comes back, with every kernel, and what is coded is what it always was.

use farside_codec::erasure::{Code, Coder, ErasureError, Geometry, kernels};
use farside_codec::field::Field;
use farside_codec::limits::MAX_FRAGMENTS;
use proptest::prelude::*;

type Present<'a> = Vec<(usize, &'a [u8])>;

fn geometry(text: &str) -> Geometry {
    Geometry::parse(text).expect("a geometry")
}

/// The fixed input of the golden vectors, and of everything else.
fn byte(fragment: usize, at: usize) -> u8 {
    let place = (fragment as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = place.wrapping_add((at as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9));
    ((mixed ^ mixed >> 32).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8
}

fn data(geometry: Geometry, length: usize) -> Vec<Vec<u8>> {
    (0..geometry.data()).map(|index| (0..length).map(|at| byte(index, at)).collect()).collect()
}

fn encode(coder: &Coder, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    // What was there before must not matter.
    let mut parity = vec![vec![0xee; data[0].len()]; coder.geometry().parity()];
    let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    coder.encode(&inputs, &mut outputs).expect("equal lengths");
    parity
}

fn stripe(coder: &Coder, length: usize) -> Vec<Vec<u8>> {
    let data = data(coder.geometry(), length);
    let parity = encode(coder, &data);
    [data, parity].concat()
}

/// Rebuilds the fragments `wanted` from the fragments `present`.
fn check(coder: &Coder, stripe: &[Vec<u8>], present: impl Iterator<Item = usize>, wanted: &[usize]) {
    let present: Present = present.map(|index| (index, &stripe[index][..])).collect();
    let mut rebuilt = vec![vec![0xee; stripe[0].len()]; wanted.len()];
    let mut outputs: Vec<(usize, &mut [u8])> =
        wanted.iter().copied().zip(rebuilt.iter_mut().map(Vec::as_mut_slice)).collect();
    coder.reconstruct(&present, &mut outputs).expect("enough fragments");
    for (index, rebuilt) in wanted.iter().zip(&rebuilt) {
        let indexes: Vec<usize> = present.iter().map(|(index, _)| *index).collect();
        assert!(rebuilt == &stripe[*index], "fragment {index} of {} from {indexes:?}", coder.geometry());
    }
}

/// Loses the fragments `lost` and rebuilds them all.
fn check_lost(coder: &Coder, stripe: &[Vec<u8>], lost: &[usize]) {
    check(coder, stripe, (0..stripe.len()).filter(|index| !lost.contains(index)), lost);
}

#[test]
fn every_pattern_of_narrow_stripes_comes_back() {
    for text in ["1+0", "1+1", "1+2", "2+1", "3+3", "4+2", "5+4", "8+3", "10+4"] {
        for kernel in kernels() {
            let coder = Coder::with_kernel(geometry(text), *kernel);
            let (stripe, total) = (stripe(&coder, 131), coder.geometry().total());
            for pattern in 0u32..1 << total {
                if pattern.count_ones() as usize <= coder.geometry().parity() {
                    let lost: Vec<usize> = (0..total).filter(|index| pattern >> index & 1 == 1).collect();
                    check_lost(&coder, &stripe, &lost);
                }
            }
        }
    }
}

#[test]
fn wide_stripes_come_back() {
    // Longer than the slices in which they are coded and rebuilt, and no multiple of the code's 64 bytes.
    let length = (64 << 10) + (8 << 10) + 130;
    for (text, step) in [("29+4", 9), ("64+16", 5), ("100+28", 5), ("127+1", 128), ("1+40", 2)] {
        let coder = Coder::new(geometry(text));
        let (data, total) = (coder.geometry().data(), coder.geometry().total());
        let stripe = stripe(&coder, length);
        let whole = reed_solomon_simd::encode(data, total - data, &stripe[..data]).expect("a stripe");
        assert!(stripe[data..] == whole, "{text}: slices are coded as the whole is");
        let parity = coder.geometry().parity();
        check_lost(&coder, &stripe, &(0..parity.min(data)).collect::<Vec<_>>());
        check_lost(&coder, &stripe, &(data..total).collect::<Vec<_>>());
        check_lost(&coder, &stripe, &(3..total).step_by(step).take(parity).collect::<Vec<_>>());
    }
}

#[test]
fn a_part_of_a_stripe_is_rebuilt_from_the_same_part() {
    for text in ["4+2", "40+4"] {
        let coder = Coder::new(geometry(text));
        let part: Vec<Vec<u8>> = stripe(&coder, 40_960).iter().map(|whole| whole[8192..12_288].to_vec()).collect();
        check_lost(&coder, &part, &[1, coder.geometry().data()]);
    }
}

/// The parity of the fixed input, with every kernel.
fn parity(text: &str, length: usize) -> Vec<Vec<u8>> {
    let data = data(geometry(text), length);
    let coded: Vec<_> =
        kernels().iter().map(|kernel| encode(&Coder::with_kernel(geometry(text), *kernel), &data)).collect();
    assert!(coded.iter().all(|parity| *parity == coded[0]), "{text}: kernels differ");
    coded.into_iter().next().expect("there is a kernel")
}

#[test]
fn golden_parity() {
    let hex = |text| -> Vec<String> {
        let row = |row: &Vec<u8>| row.iter().map(|byte| format!("{byte:02x}")).collect();
        parity(text, 16).iter().map(row).collect()
    };
    // Computed by ISA-L 2.30: gf_gen_cauchy1_matrix, ec_init_tables, ec_encode_data.
    assert_eq!(hex("4+2"), ["536b9c18978a7a9d071496e327be0eb7", "698da1a97f5de77ce0d4323da42d1c51"]);
    let expected =
        ["097b49ec39418827bc2ac1343a42b0e1", "fd5f8cedbd2a13a4fc0ecf346d84a401", "37de4a11872eee856ad03cdf552adf72"];
    assert_eq!(hex("8+3"), expected);
}

#[test]
fn golden_parity_hashes() {
    let check = |text: &str, length: usize, expected: &str| {
        let hash = blake3::hash(&parity(text, length).concat());
        assert_eq!(hash.to_hex().as_str(), expected, "{text}");
    };
    // Computed by ISA-L 2.30.
    check("1+2", 4099, "b9f119ffce4233d09c62a907ec6950b328a6056416b3106ee171720fd7704731");
    check("10+4", 4099, "d46af61e9fd776ede5b16b10ae17dd72a720341359dd8b098102f2da0fd14ecf");
    check("16+8", 4099, "16b260076e986df40c3d7ee707ec410317fa20edb9ca6fbed032c6963efa3f77");
    check("28+4", 4099, "39a334332adfa1c60dfcff19d086d989c6b74bb5701770dd79e5f9c7d7d40e9c");
    // Computed by reed-solomon-simd 3.1.0, whose code lies on disks now.
    check("29+4", 4096, "6d75cce1338dac510251b6c9124432099f81356b20218428eee8a28d41730813");
    check("64+16", 4096, "ba450f5418d3439db544a238b1d3513101e440b9ba6cccd4b8f574be2e32efe2");
    check("20+100", 4096, "3dc50b1ccc4c1ab8254a7f6382afef781867c543c2dfa64941dad8fcf79e73ed");
}

#[test]
fn bad_calls_are_errors() {
    for text in ["4+2", "40+4"] {
        let coder = Coder::new(geometry(text));
        let (k, m) = (coder.geometry().data(), coder.geometry().parity());
        let stripe = stripe(&coder, 128);
        let rebuild = |indexes: &[usize], wanted: &[usize], length: usize| {
            let present: Present = indexes.iter().map(|index| (*index, &stripe[(*index).min(k)][..])).collect();
            let mut rebuilt = vec![vec![0; length]; wanted.len()];
            let mut outputs: Vec<(usize, &mut [u8])> =
                wanted.iter().copied().zip(rebuilt.iter_mut().map(Vec::as_mut_slice)).collect();
            coder.reconstruct(&present, &mut outputs)
        };
        let good: Vec<usize> = (1..=k).collect();
        assert_eq!(rebuild(&good, &[0], 128), Ok(()));
        assert_eq!(rebuild(&good, &[], 128), Ok(()));
        assert_eq!(rebuild(&good[1..], &[0], 128), Err(ErasureError::TooFew { present: k - 1, needed: k }));
        assert_eq!(rebuild(&good, &[0], 126), Err(ErasureError::Lengths));
        assert_eq!(rebuild(&good, &[k + m], 128), Err(ErasureError::Index(k + m)));
        assert_eq!(rebuild(&good, &[0, 0], 128), Err(ErasureError::Index(0)), "wanted twice");
        assert_eq!(rebuild(&good, &[k], 128), Err(ErasureError::Index(k)), "wanted and present");
        assert_eq!(rebuild(&[&good[1..], &[k]].concat(), &[0], 128), Err(ErasureError::Index(k)), "present twice");
        assert_eq!(rebuild(&[&good[1..], &[usize::MAX]].concat(), &[0], 128), Err(ErasureError::Index(usize::MAX)));
        let inputs: Vec<&[u8]> = stripe[..k].iter().map(Vec::as_slice).collect();
        let encode = |inputs: &[&[u8]], parity: usize, length: usize| {
            let mut coded = vec![vec![0; length]; parity];
            coder.encode(inputs, &mut coded.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>())
        };
        assert_eq!(encode(&inputs, m, 128), Ok(()));
        assert_eq!(encode(&inputs, m, 64), Err(ErasureError::Lengths));
        assert_eq!(encode(&inputs, m - 1, 128), Err(ErasureError::Count));
        assert_eq!(encode(&inputs[1..], m, 128), Err(ErasureError::Count));
        assert_eq!(encode(&vec![&[][..]; k], m, 0), Ok(()), "nothing is coded to nothing");
    }
    let (data, mut parity) = ([[0; 7]; 40], [[0; 7]; 4]);
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(|slice| &mut slice[..]).collect();
    let inputs: Vec<&[u8]> = data.iter().map(|slice| &slice[..]).collect();
    let odd = Coder::new(geometry("40+4")).encode(&inputs, &mut outputs);
    assert_eq!(odd, Err(ErasureError::Lengths), "a wide stripe's length is even");
}

#[test]
fn geometries_read_as_they_are_written() {
    for text in ["1+0", "4+2", "32+0", "28+4", "29+4", "127+1", "1+127"] {
        let geometry = geometry(text);
        assert_eq!(geometry.to_string(), text);
        let code = if geometry.total() <= 32 { Code::Cauchy } else { Code::Leopard };
        assert_eq!(geometry.code(), code, "{text}");
        let mut bytes = geometry.to_bytes().to_vec();
        assert_eq!(bytes, [geometry.data() as u8, geometry.parity() as u8, code as u8]);
        assert_eq!(Geometry::from_bytes(bytes.clone().into()), Ok(geometry));
        bytes[2] = 3 - bytes[2];
        assert!(Geometry::from_bytes(bytes.into()).is_err(), "{text} in the other code");
    }
    assert_eq!([Code::Cauchy as u8, Code::Leopard as u8], [1, 2]);
    let bad = ["", "4", "+", "4+", "+2", "0+2", "33+0", "120+9", "4+2 ", "4++2", "+4+2", "04+2", "4+-2", "4+2+1"];
    for text in bad.into_iter().chain(["18446744073709551615+1", "255+1", "1+255", "256+2"]) {
        assert_eq!(Geometry::parse(text), None, "{text:?}");
    }
    let widest = (1..=MAX_FRAGMENTS).filter(|data| Geometry::new(*data, MAX_FRAGMENTS - data).is_some()).count();
    assert_eq!(widest, MAX_FRAGMENTS - 1, "all but one without parity");
}

/// A matrix of any kind, slices that begin anywhere, and a range of them.
fn check_products(rows: &[Vec<u8>], length: usize, offset: usize, range: std::ops::Range<usize>) {
    let inputs: Vec<Vec<u8>> =
        (0..rows[0].len()).map(|index| (0..offset + length).map(|at| byte(index, at)).collect()).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(|input| &input[offset..]).collect();
    let multiply = |kernel: &dyn farside_codec::erasure::Kernel| {
        let mut outputs = vec![vec![0xee; offset + length]; rows.len()];
        let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(|output| &mut output[offset..]).collect();
        kernel.prepare(rows).multiply(&inputs, &mut slices, range.clone());
        outputs
    };
    let (scalar, others) = kernels().split_last().expect("there is a kernel");
    let expected = multiply(*scalar);
    for kernel in others {
        assert!(multiply(*kernel) == expected, "{} differs from {}", kernel.name(), scalar.name());
    }
    let outside = |at: usize| !(offset + range.start..offset + range.end).contains(&at);
    let touched = |output: &Vec<u8>| output.iter().enumerate().any(|(at, byte)| outside(at) && *byte != 0xee);
    assert!(!expected.iter().any(touched), "bytes outside the range are left alone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn kernels_agree(
        rows in (1usize..24).prop_flat_map(|columns| prop::collection::vec(prop::collection::vec(any::<u8>(), columns), 1..20)),
        length in 1usize..1000,
        offset in 0usize..64,
        cut in any::<(u16, u16)>(),
    ) {
        let (a, b) = (usize::from(cut.0) % (length + 1), usize::from(cut.1) % (length + 1));
        check_products(&rows, length, offset, a.min(b)..a.max(b));
    }

    #[test]
    fn any_k_fragments_are_enough(
        k in 1usize..28,
        m in 1usize..5,
        length in 1usize..300,
        order in Just((0..32).collect::<Vec<usize>>()).prop_shuffle(),
        extra in 0usize..4,
        some in any::<u32>(),
    ) {
        let coder = Coder::new(Geometry::new(k, m).expect("narrow"));
        let stripe = stripe(&coder, length);
        // In any order, some more than are needed, and of the others only some are wanted.
        let order: Vec<usize> = order.into_iter().filter(|index| *index < k + m).collect();
        let (present, lost) = order.split_at((k + extra).min(k + m));
        let wanted: Vec<usize> = lost.iter().copied().filter(|index| some >> index & 1 == 1).collect();
        check(&coder, &stripe, present.iter().copied(), &wanted);
    }
}
