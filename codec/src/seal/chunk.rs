//! Sealed chunks: ciphertext as long as the plaintext, then one 16-byte tag for each 64 KiB segment.
//!
//! A segment's nonce is its number; its AAD is format version, segment size, the chunk's length, the segment's number
//! and whether it is the last. So a segment can't be cut off, moved within the chunk, or put into another one (whose
//! key differs). A range read needs the segments that it touches, and their tags.

use super::keys::{TenantDataKey, cipher};
use super::{OpenError, SEAL_VERSION};
use crate::ids::ChunkId;
use crate::limits::{MAX_CHUNK_PLAIN_BYTES, SEGMENT_PLAIN_BYTES, TAG_BYTES};
use crate::record;
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use std::ops::Range;

record!(
    /// What opens a chunk, besides the tenant data key. Lies in the object's sealed payload.
    ChunkSecret {
        /// Keyed BLAKE3 of the plaintext, or 32 bytes drawn for this chunk alone.
        digest: [u8; 32],
        /// Length of the plaintext.
        plain_bytes: u32,
    }
);

/// Length of a sealed chunk.
pub fn sealed_bytes(plain_bytes: usize) -> usize {
    plain_bytes + plain_bytes.div_ceil(SEGMENT_PLAIN_BYTES) * TAG_BYTES
}

/// The key of one chunk.
pub struct ChunkKey {
    cipher: LessSafeKey,
    plain_bytes: usize,
}

impl ChunkKey {
    /// Follows from the digest and everything that shapes the ciphertext.
    pub fn new(key: &TenantDataKey, secret: &ChunkSecret) -> Self {
        let plain_bytes = secret.plain_bytes as usize;
        let segment = (SEGMENT_PLAIN_BYTES as u32).to_le_bytes();
        let length = secret.plain_bytes.to_le_bytes();
        let derived = key.derive(&[b"chunk", &secret.digest, &[SEAL_VERSION], &segment, &length]);
        Self { cipher: cipher(derived), plain_bytes }
    }

    fn segments(&self) -> usize {
        self.plain_bytes.div_ceil(SEGMENT_PLAIN_BYTES)
    }

    fn segment(&self, index: usize) -> Range<usize> {
        index * SEGMENT_PLAIN_BYTES..((index + 1) * SEGMENT_PLAIN_BYTES).min(self.plain_bytes)
    }

    fn nonce_and_aad(&self, index: usize) -> (Nonce, Aad<[u8; 14]>) {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&(index as u64).to_le_bytes());
        let mut aad = [0; 14];
        aad[0] = SEAL_VERSION;
        aad[1..5].copy_from_slice(&(SEGMENT_PLAIN_BYTES as u32).to_le_bytes());
        aad[5..9].copy_from_slice(&(self.plain_bytes as u32).to_le_bytes());
        aad[9..13].copy_from_slice(&(index as u32).to_le_bytes());
        aad[13] = u8::from(index + 1 == self.segments());
        (Nonce::assume_unique_for_key(nonce), Aad::from(aad))
    }

    fn open_segment(&self, index: usize, segment: &mut [u8], tag: &[u8]) -> Result<(), OpenError> {
        let (nonce, aad) = self.nonce_and_aad(index);
        let opened = self.cipher.open_in_place_separate_tag(nonce, aad, tag, segment);
        opened.map(drop).map_err(|_| OpenError::NotAuthentic)
    }
}

/// Seals in place: `buffer` holds the plaintext and room for the tags ([`sealed_bytes`] in all). Answers the chunk's id.
pub fn seal_chunk(key: &ChunkKey, buffer: &mut [u8]) -> ChunkId {
    assert!((1..=MAX_CHUNK_PLAIN_BYTES).contains(&key.plain_bytes), "a chunk holds 1 byte to 16 MiB");
    assert!(buffer.len() == sealed_bytes(key.plain_bytes), "the buffer has room for the tags and no more");
    let (text, tags) = buffer.split_at_mut(key.plain_bytes);
    for (index, tag) in tags.chunks_exact_mut(TAG_BYTES).enumerate() {
        let (nonce, aad) = key.nonce_and_aad(index);
        let segment = &mut text[key.segment(index)];
        let made = key.cipher.seal_in_place_separate_tag(nonce, aad, segment);
        tag.copy_from_slice(made.expect("a segment is within the cipher's limit").as_ref());
    }
    ChunkId(*blake3::hash(buffer).as_bytes())
}

/// Opens a whole chunk in place; the plaintext is the first `plain_bytes` of `sealed` then.
pub fn open_chunk(key: &ChunkKey, sealed: &mut [u8]) -> Result<(), OpenError> {
    if sealed.len() != sealed_bytes(key.plain_bytes) {
        return Err(OpenError::Length);
    }
    let (text, tags) = sealed.split_at_mut(key.plain_bytes);
    tags.chunks_exact(TAG_BYTES)
        .enumerate()
        .try_for_each(|(index, tag)| key.open_segment(index, &mut text[key.segment(index)], tag))
}

/// What must be fetched of a sealed chunk to read a range of its plaintext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangePlan {
    segments: Range<usize>,
    /// Ciphertext to fetch.
    pub text: Range<usize>,
    /// Tags to fetch.
    pub tags: Range<usize>,
    /// The wanted range within the opened text.
    pub within: Range<usize>,
}

impl RangePlan {
    /// For `range` of a plaintext of `plain_bytes`; `None` if it is empty or ends past it.
    pub fn new(plain_bytes: usize, range: Range<usize>) -> Option<Self> {
        if range.is_empty() || range.end > plain_bytes {
            return None;
        }
        let segments = range.start / SEGMENT_PLAIN_BYTES..range.end.div_ceil(SEGMENT_PLAIN_BYTES);
        let start = segments.start * SEGMENT_PLAIN_BYTES;
        Some(Self {
            text: start..(segments.end * SEGMENT_PLAIN_BYTES).min(plain_bytes),
            tags: plain_bytes + segments.start * TAG_BYTES..plain_bytes + segments.end * TAG_BYTES,
            within: range.start - start..range.end - start,
            segments,
        })
    }
}

/// Opens the fetched segments in place; the wanted bytes are `text[plan.within]` then.
pub fn open_range(key: &ChunkKey, plan: &RangePlan, text: &mut [u8], tags: &[u8]) -> Result<(), OpenError> {
    if text.len() != plan.text.len() || tags.len() != plan.tags.len() || plan.text.end > key.plain_bytes {
        return Err(OpenError::Length);
    }
    let pieces = text.chunks_mut(SEGMENT_PLAIN_BYTES).zip(tags.chunks_exact(TAG_BYTES));
    plan.segments.clone().zip(pieces).try_for_each(|(index, (segment, tag))| key.open_segment(index, segment, tag))
}
