//! AVX2: products of 32 bytes by two shuffles, one a nibble (Plank, Greenan, Miller: "Screaming Fast Galois Field
//! Arithmetic Using Intel SIMD Instructions", 2013). Up to four outputs are computed in one pass over the inputs, 64
//! bytes at a time, so that an input is loaded once and a table serves two vectors; that takes 15 of the 16 registers.
#![allow(unsafe_code)]

use super::gf256;
use super::kernel::{Blocks, Kernel, Product};
use std::arch::x86_64::*;
use std::ops::Range;

/// Outputs in one pass.
const WIDTH: usize = 4;
/// Bytes of a vector.
const VECTOR: usize = 32;

/// The kernel, where the processor has AVX2. Nothing else in this file makes one, so whoever holds one may use AVX2.
pub(super) fn detect() -> Option<&'static dyn Kernel> {
    is_x86_feature_detected!("avx2").then_some(&Avx2(()) as &dyn Kernel)
}

struct Avx2(());

impl Kernel for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }
    fn prepare(&self, rows: &[Vec<u8>]) -> Box<dyn Product> {
        Box::new(Nibbles(Blocks::new(rows, WIDTH, nibbles)))
    }
}

/// Products of the sixteen low nibbles, then of the sixteen high ones.
type Table = [u8; 32];

fn nibbles(coefficient: u8) -> Table {
    let byte = |at: usize| if at < 16 { at } else { (at - 16) << 4 };
    std::array::from_fn(|at| gf256::multiply(coefficient, byte(at) as u8))
}

struct Nibbles(Blocks<Table>);

impl Product for Nibbles {
    fn multiply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
        self.0.for_each(inputs, outputs, &range, |tables, outputs| {
            // SAFETY: the kernel that prepared this exists only where AVX2 does, and `for_each` has checked that
            // `range` is inside all slices.
            unsafe {
                match outputs.len() {
                    1 => block::<1>(tables, inputs, outputs, &range),
                    2 => block::<2>(tables, inputs, outputs, &range),
                    3 => block::<3>(tables, inputs, outputs, &range),
                    _ => block::<WIDTH>(tables, inputs, outputs, &range),
                }
            }
        });
    }
}

/// Computes `N` outputs.
///
/// # Safety
/// `range` is inside all inputs and outputs.
#[target_feature(enable = "avx2")]
unsafe fn block<const N: usize>(tables: &[Table], inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: &Range<usize>) {
    let (tables, _) = tables.as_chunks::<N>();
    let mut at = range.start;
    while range.end - at >= 2 * VECTOR {
        // SAFETY: two vectors from `at` on end inside `range`.
        unsafe { vectors::<N, 2>(tables, inputs, outputs, at) };
        at += 2 * VECTOR;
    }
    if range.end - at >= VECTOR {
        // SAFETY: so does one.
        unsafe { vectors::<N, 1>(tables, inputs, outputs, at) };
        at += VECTOR;
    }
    for at in at..range.end {
        for (row, output) in outputs.iter_mut().enumerate() {
            let product = |table: &Table, byte: u8| table[usize::from(byte & 15)] ^ table[16 + usize::from(byte >> 4)];
            let products = tables.iter().zip(inputs).map(|(tables, input)| product(&tables[row], input[at]));
            output[at] = products.fold(0, |sum, product| sum ^ product);
        }
    }
}

/// `V` vectors of each of `N` outputs, from `at` on.
///
/// # Safety
/// The bytes from `at` to `at + V * VECTOR` are inside all inputs and outputs.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn vectors<const N: usize, const V: usize>(
    tables: &[[Table; N]],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    at: usize,
) {
    let mask = _mm256_set1_epi8(15);
    let mut sums = [[_mm256_setzero_si256(); V]; N];
    for (tables, input) in tables.iter().zip(inputs) {
        let (mut lows, mut highs) = ([mask; V], [mask; V]);
        for vector in 0..V {
            // SAFETY: inside the input, says the caller.
            let value = unsafe { _mm256_loadu_si256(input.as_ptr().add(at + vector * VECTOR).cast()) };
            lows[vector] = _mm256_and_si256(value, mask);
            highs[vector] = _mm256_and_si256(_mm256_srli_epi64::<4>(value), mask);
        }
        for (table, sums) in tables.iter().zip(&mut sums) {
            // SAFETY: a table is twice the sixteen bytes of these loads.
            let (low, high) =
                unsafe { (_mm_loadu_si128(table.as_ptr().cast()), _mm_loadu_si128(table.as_ptr().add(16).cast())) };
            let (low, high) = (_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high));
            for vector in 0..V {
                let product =
                    _mm256_xor_si256(_mm256_shuffle_epi8(low, lows[vector]), _mm256_shuffle_epi8(high, highs[vector]));
                sums[vector] = _mm256_xor_si256(sums[vector], product);
            }
        }
    }
    for (output, sums) in outputs.iter_mut().zip(sums) {
        for (vector, sum) in sums.into_iter().enumerate() {
            // SAFETY: inside the output, says the caller.
            unsafe { _mm256_storeu_si256(output.as_mut_ptr().add(at + vector * VECTOR).cast(), sum) };
        }
    }
}
