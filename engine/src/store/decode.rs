//! From fragments back to bytes: which columns a range of a chunk needs, what is missing of them, and the range itself.
//!
//! Reads of this store and those that gather fragments from several nodes decode here. What comes in was checked block
//! by block where it was read; a whole chunk is hashed again, and so is every chunk of which a fragment is made anew,
//! since what is made of a wrong fragment would get checksums of its own and look good for ever.
//!
//! Nothing here waits. Space for what is computed comes from the pool where it has some, else from the heap: whoever
//! decodes holds fragments already, and two that waited for each other's buffers would wait for ever.

use super::{Inner, Store, StoreError};
use bytes::Bytes;
use farside_codec::erasure::{Coder, ErasureError, Geometry};
use farside_codec::ids::ChunkId;
use farside_codec::limits::{BLOCK_BYTES, MAX_CHUNK_SEALED_BYTES};
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;
use farside_io::pool::{Buffer, Pool};
use std::ops::Range;

/// The blocks that hold a range.
pub(super) fn block_aligned(range: &Range<usize>) -> Range<usize> {
    range.start / BLOCK_BYTES * BLOCK_BYTES..range.end.next_multiple_of(BLOCK_BYTES)
}

/// The bytes of each fragment, in whole blocks, that [`Store::decode`] needs of any k fragments for a range of the sealed
/// chunk. Empty for a range that holds nothing of the chunk.
pub fn columns(layout: &StripeLayout, range: &Range<usize>) -> Range<usize> {
    let aligned = layout.locate(range.clone()).map(|(_, range)| block_aligned(&range));
    aligned.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end)).unwrap_or(0..0)
}

/// Space for a fragment, or a part of one, that is computed.
pub(super) enum Space {
    Pooled(Buffer),
    Heap(Vec<u8>),
}

impl Space {
    fn new(pool: &Pool, length: usize) -> Self {
        pool.try_take(length).map_or_else(|| Self::Heap(vec![0; length]), Self::Pooled)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Pooled(buffer) => buffer,
            Self::Heap(bytes) => bytes,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Pooled(buffer) => buffer.into_bytes(),
            Self::Heap(bytes) => bytes.into(),
        }
    }
}

/// A range of a sealed chunk that is wanted.
pub(super) struct Wanted {
    layout: StripeLayout,
    range: Range<usize>,
    /// The data fragments that hold it, each with the range within it.
    pub(super) pieces: Vec<(usize, Range<usize>)>,
    /// What of each fragment is needed.
    pub(super) columns: Range<usize>,
}

impl Wanted {
    pub(super) fn new(layout: StripeLayout, range: Range<usize>) -> Self {
        let pieces = layout.locate(range.clone()).collect();
        let columns = columns(&layout, &range);
        Self { layout, range, pieces, columns }
    }

    /// Fragments that hold the range and are not among these.
    pub(super) fn missing(&self, present: impl Iterator<Item = usize> + Clone) -> Vec<usize> {
        let wanted = self.pieces.iter().map(|(fragment, _)| *fragment);
        wanted.filter(|wanted| present.clone().all(|present| present != *wanted)).collect()
    }

    /// The range in order, from the columns that are present and, with a space for each, those that are missing.
    pub(super) fn assemble(
        &self,
        chunk: &ChunkId,
        coder: &Coder,
        present: &[(usize, Bytes)],
        missing: &[usize],
        space: Vec<Space>,
    ) -> Result<Vec<Bytes>, StoreError> {
        let computed = compute(chunk, coder, present, missing, space)?;
        let all = || present.iter().chain(&computed);
        let start = self.columns.start;
        let pieces = self.pieces.iter().filter_map(|(fragment, range)| {
            let (_, columns) = all().find(|(found, _)| found == fragment)?;
            Some(columns.slice(range.start - start..range.end - start))
        });
        let pieces: Vec<Bytes> = pieces.collect();
        match self.range != (0..self.layout.sealed_bytes()) || is_chunk(chunk, pieces.iter().map(|piece| &piece[..])) {
            true => Ok(pieces),
            false => Err(StoreError::Corrupt(*chunk)),
        }
    }
}

/// Computes missing fragments, or the same columns of them.
fn compute(
    chunk: &ChunkId,
    coder: &Coder,
    present: &[(usize, Bytes)],
    missing: &[usize],
    mut space: Vec<Space>,
) -> Result<Vec<(usize, Bytes)>, StoreError> {
    let given: Vec<(usize, &[u8])> = present.iter().map(|(fragment, bytes)| (*fragment, &bytes[..])).collect();
    let mut outputs: Vec<(usize, &mut [u8])> =
        missing.iter().copied().zip(space.iter_mut().map(Space::bytes_mut)).collect();
    if !missing.is_empty() {
        coder.reconstruct(&given, &mut outputs).map_err(|error| match error {
            ErasureError::Index(_) => StoreError::Fragments { total: coder.geometry().total() },
            _ => StoreError::Corrupt(*chunk),
        })?;
    }
    Ok(missing.iter().copied().zip(space.into_iter().map(Space::into_bytes)).collect())
}

/// Whether these are the chunk's bytes.
fn is_chunk<'a>(chunk: &ChunkId, pieces: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
    }
    *hasher.finalize().as_bytes() == chunk.0
}

/// The layout of a chunk as others announce it.
pub(super) fn layout_of(geometry: Geometry, sealed_bytes: usize) -> Result<StripeLayout, StoreError> {
    match (1..=MAX_CHUNK_SEALED_BYTES).contains(&sealed_bytes) {
        true => Ok(StripeLayout::new(geometry, sealed_bytes)),
        false => Err(StoreError::Size { sealed_bytes }),
    }
}

/// Fragments must be named by number, each once.
pub(super) fn check_names(geometry: Geometry, named: impl Iterator<Item = usize> + Clone) -> Result<(), StoreError> {
    let total = geometry.total();
    let mut seen = vec![false; total];
    let good = named.clone().all(|fragment| seen.get_mut(fragment).is_some_and(|seen| !std::mem::replace(seen, true)));
    if good && named.count() > 0 { Ok(()) } else { Err(StoreError::Fragments { total }) }
}

fn check_lengths(given: &[(usize, Bytes)], length: usize) -> Result<(), StoreError> {
    match given.iter().find(|(_, bytes)| bytes.len() != length) {
        Some((_, wrong)) => Err(StoreError::Length { announced: length, got: wrong.len() }),
        None => Ok(()),
    }
}

impl<D: Disk> Store<D> {
    /// The bytes of a range of a sealed chunk, in order, in as many pieces as fragments hold it, from the same
    /// [`columns`] of any k fragments, or of those alone that hold the range. What is given is not copied.
    ///
    /// A range that is the whole chunk is hashed. Errors: `Size`, `Range` (empty or past the end), `Fragments` (not of
    /// the stripe, named twice, or none), `Length` (other columns), `Corrupt` (too few of them, or not the chunk).
    pub fn decode(
        &self,
        chunk: ChunkId,
        geometry: Geometry,
        sealed_bytes: usize,
        range: Range<usize>,
        given: Vec<(usize, Bytes)>,
    ) -> Result<Vec<Bytes>, StoreError> {
        let layout = layout_of(geometry, sealed_bytes)?;
        if range.is_empty() || range.end > sealed_bytes {
            return Err(StoreError::Range { sealed_bytes: sealed_bytes as u32 });
        }
        check_names(geometry, given.iter().map(|(fragment, _)| *fragment))?;
        let wanted = Wanted::new(layout, range);
        check_lengths(&given, wanted.columns.len())?;
        let missing = wanted.missing(given.iter().map(|(fragment, _)| *fragment));
        let space = self.0.space(missing.len(), wanted.columns.len());
        wanted.assemble(&chunk, &self.0.coder(geometry), &given, &missing, space)
    }

    /// Makes whole fragments anew from at least k others. Those of `wanted` that are present are given back as they are.
    /// The chunk is put together and hashed first, so that nothing is made of a wrong fragment.
    ///
    /// Errors: `Size`, `Fragments` (not of the stripe, named twice, or none), `Length` (not whole), `Corrupt` (too few, or
    /// not the chunk's).
    pub fn rebuild(
        &self,
        chunk: ChunkId,
        geometry: Geometry,
        sealed_bytes: usize,
        present: Vec<(usize, Bytes)>,
        wanted: &[usize],
    ) -> Result<Vec<(usize, Bytes)>, StoreError> {
        let layout = layout_of(geometry, sealed_bytes)?;
        check_names(geometry, present.iter().map(|(fragment, _)| *fragment))?;
        check_names(geometry, wanted.iter().copied())?;
        check_lengths(&present, layout.fragment_bytes())?;
        let is_present = |fragment: usize| present.iter().any(|(present, _)| *present == fragment);
        let missing = |fragment: &usize| !is_present(*fragment);
        let needed = (0..geometry.data()).chain(wanted.iter().copied().filter(|wanted| *wanted >= geometry.data()));
        let missing: Vec<usize> = needed.filter(missing).collect();
        let space = self.0.space(missing.len(), layout.fragment_bytes());
        let mut all = compute(&chunk, &self.0.coder(geometry), &present, &missing, space)?;
        all.extend(present);
        let find = |fragment: usize| all.iter().find(|(found, _)| *found == fragment).map(|(_, bytes)| bytes);
        let data: Option<Vec<&Bytes>> = (0..geometry.data()).map(find).collect();
        let data = data.ok_or(StoreError::Corrupt(chunk))?;
        let cut = || (0..).zip(&data).map(|(fragment, bytes)| bytes.split_at(layout.chunk_range(fragment).len()));
        let filled_up = cut().all(|(_, filling)| filling.iter().all(|byte| *byte == 0));
        if !filled_up || !is_chunk(&chunk, cut().map(|(bytes, _)| bytes)) {
            return Err(StoreError::Corrupt(chunk));
        }
        let rebuilt = wanted.iter().map(|wanted| find(*wanted).map(|bytes| (*wanted, bytes.clone())));
        rebuilt.collect::<Option<Vec<_>>>().ok_or(StoreError::Corrupt(chunk))
    }
}

impl<D: Disk> Inner<D> {
    fn space(&self, count: usize, length: usize) -> Vec<Space> {
        (0..count).map(|_| Space::new(&self.pool, length)).collect()
    }
}
