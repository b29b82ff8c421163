//! AVX2: products of 32 bytes by two shuffles (Plank, Greenan, Miller: "Screaming Fast Galois Field Arithmetic", 2013),
//! up to four outputs per pass over the inputs.
#![allow(unsafe_code)]

use super::kernel::{Entries, Kernel, Tables, multiply_tail, nibbles};

/// The AVX2 kernel.
pub(super) struct Avx2;

impl Avx2 {
    pub(super) fn is_available() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx2");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}

impl Kernel for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }
    fn prepare(&self, rows: &[Vec<u8>]) -> Tables {
        nibbles(rows)
    }
    fn multiply(&self, tables: &Tables, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        #[cfg(target_arch = "x86_64")]
        if Self::is_available() {
            let Entries::Nibbles(entries) = &tables.entries else { return };
            assert!(inputs.len() == tables.columns && outputs.len() == tables.rows, "tables fit their slices");
            let length = inputs.first().map_or(0, |first| first.len());
            let equal = inputs.iter().all(|slice| slice.len() == length);
            assert!(equal && outputs.iter().all(|slice| slice.len() == length), "slices of one length");
            let whole = length - length % 32;
            for (index, block) in outputs.chunks_mut(4).enumerate() {
                let entries = &entries[index * 4 * tables.columns..];
                // SAFETY: the feature is there, and every slice holds `whole` bytes.
                unsafe {
                    match block.len() {
                        1 => x86::block::<1>(entries, inputs, block, whole),
                        2 => x86::block::<2>(entries, inputs, block, whole),
                        3 => x86::block::<3>(entries, inputs, block, whole),
                        _ => x86::block::<4>(entries, inputs, block, whole),
                    }
                }
            }
            return multiply_tail(tables, inputs, outputs, whole);
        }
        multiply_tail(tables, inputs, outputs, 0);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Computes `N` outputs over the first `whole` bytes, a multiple of 32.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn block<const N: usize>(
        entries: &[[u8; 32]],
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        whole: usize,
    ) {
        let mask = _mm256_set1_epi8(15);
        for at in (0..whole).step_by(32) {
            let mut sums = [_mm256_setzero_si256(); N];
            for (column, input) in inputs.iter().enumerate() {
                // SAFETY: at + 32 <= whole <= the slice's length.
                let value = unsafe { _mm256_loadu_si256(input.as_ptr().add(at).cast()) };
                let low = _mm256_and_si256(value, mask);
                let high = _mm256_and_si256(_mm256_srli_epi64::<4>(value), mask);
                for (row, sum) in sums.iter_mut().enumerate() {
                    let entry = entries[row * inputs.len() + column].as_ptr();
                    // SAFETY: an entry is 32 bytes: sixteen low products and sixteen high ones.
                    let (lows, highs) =
                        unsafe { (_mm_loadu_si128(entry.cast()), _mm_loadu_si128(entry.add(16).cast())) };
                    let low = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(lows), low);
                    let high = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(highs), high);
                    *sum = _mm256_xor_si256(*sum, _mm256_xor_si256(low, high));
                }
            }
            for (output, sum) in outputs.iter_mut().zip(sums) {
                // SAFETY: as for the inputs.
                unsafe { _mm256_storeu_si256(output.as_mut_ptr().add(at).cast(), sum) };
            }
        }
    }
}
