//! Wide stripes: the Leopard code of the `reed-solomon-simd` crate, O(n log n) over GF(2^16).
//!
//! The code works on units of 64 bytes at one place of all fragments, independent of one another. So a stripe is coded
//! slice by slice, with the bytes of the whole stripe coded at once, in working space that is kept: its size is that of
//! a slice, not of a chunk.

use super::{ErasureError, Geometry};
use crate::limits::MAX_FRAGMENTS;
use reed_solomon_simd::{DecoderResult, ReedSolomonDecoder, ReedSolomonEncoder};
use std::cell::RefCell;
use std::ops::Range;

/// Bytes of each fragment that are encoded at once: the working space of 128 of them fits in a second-level cache.
const ENCODE_SLICE_BYTES: usize = 8 << 10;

/// The same for rebuilding, each call of which costs a fixed 0.3 ms for the places of the lost fragments.
const REBUILD_SLICE_BYTES: usize = 64 << 10;

const _: () = assert!(ENCODE_SLICE_BYTES.is_multiple_of(64) && REBUILD_SLICE_BYTES.is_multiple_of(64));

pub(super) struct Wide {
    data: usize,
    parity: usize,
    /// Working space, made when it is first needed.
    encoder: RefCell<Option<ReedSolomonEncoder>>,
    decoder: RefCell<Option<ReedSolomonDecoder>>,
}

/// All that is checked before the library is called leaves it one thing to refuse.
fn refused(_: reed_solomon_simd::Error) -> ErasureError {
    ErasureError::Lengths
}

impl Wide {
    pub(super) fn new(geometry: Geometry) -> Self {
        let (encoder, decoder) = Default::default();
        Self { data: geometry.data(), parity: geometry.parity(), encoder, decoder }
    }

    pub(super) fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), ErasureError> {
        for range in slices(data[0].len(), ENCODE_SLICE_BYTES)? {
            let inputs = data.iter().map(|slice| &slice[range.clone()]);
            let outputs = parity.iter_mut().map(|slice| &mut slice[range.clone()]).enumerate();
            self.encode_slice(inputs, range.len(), outputs)?;
        }
        Ok(())
    }

    /// Computes the parity fragments that are named in `outputs`.
    fn encode_slice<'a, 'b>(
        &self,
        inputs: impl Iterator<Item = &'a [u8]>,
        length: usize,
        outputs: impl Iterator<Item = (usize, &'b mut [u8])>,
    ) -> Result<(), ErasureError> {
        let mut kept = self.encoder.borrow_mut();
        let encoder = match &mut *kept {
            Some(encoder) => {
                encoder.reset(self.data, self.parity, length).map_err(refused)?;
                encoder
            }
            none => none.insert(ReedSolomonEncoder::new(self.data, self.parity, length).map_err(refused)?),
        };
        for input in inputs {
            encoder.add_original_shard(input).map_err(refused)?;
        }
        let encoded = encoder.encode().map_err(refused)?;
        for (index, output) in outputs {
            output.copy_from_slice(encoded.recovery(index).ok_or(ErasureError::Index(self.data + index))?);
        }
        Ok(())
    }

    /// Rebuilds from distinct fragments, at least k of them, all of one length.
    pub(super) fn reconstruct(
        &self,
        present: &[(usize, &[u8])],
        wanted: &mut [(usize, &mut [u8])],
    ) -> Result<(), ErasureError> {
        let mut held: [Option<&[u8]>; MAX_FRAGMENTS] = [None; MAX_FRAGMENTS];
        present.iter().for_each(|(index, slice)| held[*index] = Some(slice));
        let complete = held[..self.data].iter().all(Option::is_some);
        for range in slices(present[0].1.len(), REBUILD_SLICE_BYTES)? {
            let held = held.map(|fragment| fragment.map(|slice| &slice[range.clone()]));
            match complete {
                true => self.finish_slice(&held, None, wanted, range)?,
                false => self.rebuild_slice(&held, wanted, range)?,
            }
        }
        Ok(())
    }

    fn rebuild_slice(
        &self,
        held: &[Option<&[u8]>; MAX_FRAGMENTS],
        wanted: &mut [(usize, &mut [u8])],
        range: Range<usize>,
    ) -> Result<(), ErasureError> {
        let mut kept = self.decoder.borrow_mut();
        let decoder = match &mut *kept {
            Some(decoder) => {
                decoder.reset(self.data, self.parity, range.len()).map_err(refused)?;
                decoder
            }
            none => none.insert(ReedSolomonDecoder::new(self.data, self.parity, range.len()).map_err(refused)?),
        };
        let (data, parity) = held.split_at(self.data);
        let present = |fragments: &[Option<&[u8]>]| fragments.iter().flatten().count();
        for (index, fragment) in data.iter().enumerate() {
            fragment.map_or(Ok(()), |slice| decoder.add_original_shard(index, slice)).map_err(refused)?;
        }
        let found = parity.iter().enumerate().filter_map(|(index, fragment)| Some((index, (*fragment)?)));
        for (index, slice) in found.take(self.data - present(data)) {
            decoder.add_recovery_shard(index, slice).map_err(refused)?;
        }
        let restored = decoder.decode().map_err(refused)?;
        self.finish_slice(held, Some(&restored), wanted, range)
    }

    /// Hands out the data fragments that are wanted, and computes the parity fragments from all data fragments.
    fn finish_slice(
        &self,
        held: &[Option<&[u8]>; MAX_FRAGMENTS],
        restored: Option<&DecoderResult>,
        wanted: &mut [(usize, &mut [u8])],
        range: Range<usize>,
    ) -> Result<(), ErasureError> {
        let find = |index: usize| held[index].or_else(|| restored?.restored_original(index));
        for (index, output) in wanted.iter_mut().filter(|(index, _)| *index < self.data) {
            output[range.clone()].copy_from_slice(find(*index).ok_or(ErasureError::Index(*index))?);
        }
        if wanted.iter().all(|(index, _)| *index < self.data) {
            return Ok(());
        }
        let length = range.len();
        let parity = wanted.iter_mut().filter(|(index, _)| *index >= self.data);
        let parity = parity.map(|(index, output)| (*index - self.data, &mut output[range.clone()]));
        self.encode_slice((0..self.data).filter_map(find), length, parity)
    }
}

/// The slices of fragments of `length` bytes. The code's symbols are pairs of bytes, so the length is even.
fn slices(length: usize, slice_bytes: usize) -> Result<impl Iterator<Item = Range<usize>>, ErasureError> {
    match length.is_multiple_of(2) {
        true => Ok((0..length).step_by(slice_bytes).map(move |start| start..(start + slice_bytes).min(length))),
        false => Err(ErasureError::Lengths),
    }
}
