//! AVX-512 with GFNI: a product of 64 bytes is one instruction, with an 8x8 bit matrix for each coefficient; two
//! products are folded into a sum by one ternary exclusive or. Up to four outputs per pass over the inputs.
#![allow(unsafe_code)]

use super::gf256;
use super::kernel::{Entries, Kernel, Tables};

/// The AVX-512/GFNI kernel.
pub(super) struct Gfni;

impl Gfni {
    pub(super) fn is_available() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("gfni");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}

/// Multiplication by `coefficient` as the instruction wants it: row of result bit i in byte 7-i.
fn bit_matrix(coefficient: u8) -> u64 {
    let mut matrix = 0u64;
    for result_bit in 0..8 {
        let mut row = 0u8;
        for input_bit in 0..8 {
            row |= (gf256::multiply(coefficient, 1 << input_bit) >> result_bit & 1) << input_bit;
        }
        matrix |= u64::from(row) << (8 * (7 - result_bit));
    }
    matrix
}

impl Kernel for Gfni {
    fn name(&self) -> &'static str {
        "avx512-gfni"
    }
    fn prepare(&self, rows: &[Vec<u8>]) -> Tables {
        let entries = rows.iter().flatten().map(|coefficient| bit_matrix(*coefficient)).collect();
        Tables { rows: rows.len(), columns: rows.first().map_or(0, Vec::len), entries: Entries::Bits(entries) }
    }
    fn multiply(&self, tables: &Tables, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        let Entries::Bits(entries) = &tables.entries else { return };
        assert!(Self::is_available(), "this kernel is only listed where it runs");
        assert!(inputs.len() == tables.columns && outputs.len() == tables.rows, "tables fit their slices");
        let length = inputs.first().map_or(0, |first| first.len());
        let equal = inputs.iter().all(|slice| slice.len() == length);
        assert!(equal && outputs.iter().all(|slice| slice.len() == length), "slices of one length");
        #[cfg(target_arch = "x86_64")]
        for (index, block) in outputs.chunks_mut(4).enumerate() {
            let entries = &entries[index * 4 * tables.columns..];
            // SAFETY: the features are there, and every slice holds `length` bytes.
            unsafe {
                match block.len() {
                    1 => x86::block::<1>(entries, inputs, block, length),
                    2 => x86::block::<2>(entries, inputs, block, length),
                    3 => x86::block::<3>(entries, inputs, block, length),
                    _ => x86::block::<4>(entries, inputs, block, length),
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = entries;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Computes `N` outputs; the last, partial vector goes through a mask.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    pub(super) unsafe fn block<const N: usize>(
        entries: &[u64],
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        length: usize,
    ) {
        for at in (0..length).step_by(64) {
            let left = length - at;
            let mask = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
            let mut sums = [_mm512_setzero_si512(); N];
            let load = |input: &[u8]| {
                // SAFETY: masked-off bytes past the slice are not touched.
                unsafe { _mm512_maskz_loadu_epi8(mask, input.as_ptr().add(at).cast()) }
            };
            let matrix = |row: usize, column: usize| _mm512_set1_epi64(entries[row * inputs.len() + column] as i64);
            let mut column = 0;
            while column + 1 < inputs.len() {
                let (first, second) = (load(inputs[column]), load(inputs[column + 1]));
                for (row, sum) in sums.iter_mut().enumerate() {
                    let first = _mm512_gf2p8affine_epi64_epi8::<0>(first, matrix(row, column));
                    let second = _mm512_gf2p8affine_epi64_epi8::<0>(second, matrix(row, column + 1));
                    *sum = _mm512_ternarylogic_epi64::<0x96>(*sum, first, second);
                }
                column += 2;
            }
            if column < inputs.len() {
                let value = load(inputs[column]);
                for (row, sum) in sums.iter_mut().enumerate() {
                    let product = _mm512_gf2p8affine_epi64_epi8::<0>(value, matrix(row, column));
                    *sum = _mm512_xor_si512(*sum, product);
                }
            }
            for (output, sum) in outputs.iter_mut().zip(sums) {
                // SAFETY: masked-off bytes past the slice are not written.
                unsafe { _mm512_mask_storeu_epi8(output.as_mut_ptr().add(at).cast(), mask, sum) };
            }
        }
    }
}
