//! CRC32 (IEEE) of every 4 KiB block of what lies on a disk. Over ciphertext: it guards against decay, not against people.

use crate::limits::BLOCK_BYTES;

/// One checksum a block; the last block may be short.
pub fn block_checksums(data: &[u8]) -> impl Iterator<Item = u32> {
    data.chunks(BLOCK_BYTES).map(crc32fast::hash)
}

/// Checks `data` against its blocks' checksums. The error is the index of the first bad block.
pub fn check_blocks(data: &[u8], checksums: impl Iterator<Item = u32>) -> Result<(), usize> {
    match block_checksums(data).zip(checksums).position(|(computed, stored)| computed != stored) {
        None => Ok(()),
        Some(block) => Err(block),
    }
}
