//! AVX-512 with GFNI: a product of 64 bytes is one instruction, multiplication by a coefficient being an 8x8 bit
//! matrix; one ternary exclusive-or folds two products into a sum. Up to eight outputs are computed in one pass over
//! the inputs, 128 bytes at a time, so that an input is loaded once and a matrix serves two vectors.
#![allow(unsafe_code)]

use super::gf256;
use super::kernel::{Blocks, Kernel, Product};
use std::arch::x86_64::*;
use std::ops::Range;

/// Outputs in one pass: two vectors of each, and of two inputs, take 20 of the 32 registers.
const WIDTH: usize = 8;
/// Bytes of a vector.
const VECTOR: usize = 64;

/// The kernel, where the processor has all that it uses. Nothing else in this file makes one, so whoever holds one may
/// use these instructions.
pub(super) fn detect() -> Option<&'static dyn Kernel> {
    let found =
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("gfni");
    found.then_some(&Gfni(()) as &dyn Kernel)
}

struct Gfni(());

impl Kernel for Gfni {
    fn name(&self) -> &'static str {
        "avx512-gfni"
    }
    fn prepare(&self, rows: &[Vec<u8>]) -> Box<dyn Product> {
        Box::new(Matrices(Blocks::new(rows, WIDTH, bit_matrix)))
    }
}

/// Multiplication by `coefficient` as the instruction wants it: the row that makes bit i of the product in byte 7 - i.
fn bit_matrix(coefficient: u8) -> u64 {
    let mut matrix = 0;
    for input_bit in 0..8 {
        let column = gf256::multiply(coefficient, 1 << input_bit);
        for product_bit in 0..8 {
            matrix |= u64::from(column >> product_bit & 1) << (8 * (7 - product_bit) + input_bit);
        }
    }
    matrix
}

struct Matrices(Blocks<u64>);

impl Product for Matrices {
    fn multiply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
        self.0.for_each(inputs, outputs, &range, |matrices, outputs| {
            // SAFETY: the kernel that prepared this exists only where its instructions do, and `for_each` has checked
            // that `range` is inside all slices.
            unsafe {
                match outputs.len() {
                    1 => block::<1>(matrices, inputs, outputs, &range),
                    2 => block::<2>(matrices, inputs, outputs, &range),
                    3 => block::<3>(matrices, inputs, outputs, &range),
                    4 => block::<4>(matrices, inputs, outputs, &range),
                    5 => block::<5>(matrices, inputs, outputs, &range),
                    6 => block::<6>(matrices, inputs, outputs, &range),
                    7 => block::<7>(matrices, inputs, outputs, &range),
                    _ => block::<WIDTH>(matrices, inputs, outputs, &range),
                }
            }
        });
    }
}

/// Computes `N` outputs. What is left over at the end goes through a mask.
///
/// # Safety
/// `range` is inside all inputs and outputs.
#[target_feature(enable = "avx512f,avx512bw,gfni")]
unsafe fn block<const N: usize>(matrices: &[u64], inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: &Range<usize>) {
    let (matrices, _) = matrices.as_chunks::<N>();
    let mut at = range.start;
    while range.end - at >= 2 * VECTOR {
        // SAFETY: two whole vectors from `at` on end inside `range`.
        unsafe { vectors::<N, 2>(matrices, inputs, outputs, at, u64::MAX) };
        at += 2 * VECTOR;
    }
    while at < range.end {
        let length = (range.end - at).min(VECTOR);
        // SAFETY: the `length` lowest bytes of the vector, at least one, end inside `range`.
        unsafe { vectors::<N, 1>(matrices, inputs, outputs, at, u64::MAX >> (VECTOR - length)) };
        at += length;
    }
}

/// `V` vectors of each of `N` outputs, from `at` on; of each vector the bytes in `mask`.
///
/// # Safety
/// The bytes from `at` to `at + V * VECTOR` that are in the mask are inside all inputs and outputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
unsafe fn vectors<const N: usize, const V: usize>(
    matrices: &[[u64; N]],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    at: usize,
    mask: u64,
) {
    let load = |input: &[u8]| -> [__m512i; V] {
        // SAFETY: inside the input, says the caller; bytes that are masked off are not touched.
        let vector = |index| unsafe { _mm512_maskz_loadu_epi8(mask, input.as_ptr().add(at + index * VECTOR).cast()) };
        std::array::from_fn(vector)
    };
    let mut sums = [[_mm512_setzero_si512(); V]; N];
    let mut matrix_pairs = matrices.chunks_exact(2);
    let mut input_pairs = inputs.chunks_exact(2);
    for (matrices, inputs) in (&mut matrix_pairs).zip(&mut input_pairs) {
        let (first, second) = (load(inputs[0]), load(inputs[1]));
        for row in 0..N {
            let first_matrix = _mm512_set1_epi64(matrices[0][row] as i64);
            let second_matrix = _mm512_set1_epi64(matrices[1][row] as i64);
            for vector in 0..V {
                let first = _mm512_gf2p8affine_epi64_epi8::<0>(first[vector], first_matrix);
                let second = _mm512_gf2p8affine_epi64_epi8::<0>(second[vector], second_matrix);
                sums[row][vector] = _mm512_ternarylogic_epi64::<0x96>(sums[row][vector], first, second);
            }
        }
    }
    for (matrices, input) in matrix_pairs.remainder().iter().zip(input_pairs.remainder()) {
        let values = load(input);
        for row in 0..N {
            let matrix = _mm512_set1_epi64(matrices[row] as i64);
            for vector in 0..V {
                let product = _mm512_gf2p8affine_epi64_epi8::<0>(values[vector], matrix);
                sums[row][vector] = _mm512_xor_si512(sums[row][vector], product);
            }
        }
    }
    for (output, sums) in outputs.iter_mut().zip(sums) {
        for (vector, sum) in sums.into_iter().enumerate() {
            // SAFETY: inside the output, says the caller; bytes that are masked off are not touched.
            unsafe { _mm512_mask_storeu_epi8(output.as_mut_ptr().add(at + vector * VECTOR).cast(), mask, sum) };
        }
    }
}
