//! CRC32 (IEEE) of every 4 KiB block of what lies on a disk. Over ciphertext: it guards against decay, not against people.

use crate::limits::BLOCK_BYTES;

/// One checksum a block; the last block may be short.
pub fn block_checksums(data: &[u8]) -> impl Iterator<Item = u32> {
    data.chunks(BLOCK_BYTES).map(crc32fast::hash)
}

/// Checks `data` against its blocks' checksums. The error is the index of the first block that is bad, or that has no
/// checksum; checksums beyond the data's end are another range's.
pub fn check_blocks(data: &[u8], mut checksums: impl Iterator<Item = u32>) -> Result<(), usize> {
    match block_checksums(data).position(|computed| checksums.next() != Some(computed)) {
        None => Ok(()),
        Some(block) => Err(block),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_block_is_named() {
        let data: Vec<u8> = (0..3 * BLOCK_BYTES + 7).map(|at| (at * 31) as u8).collect();
        let checksums: Vec<u32> = block_checksums(&data).collect();
        assert_eq!(checksums.len(), 4);
        assert_eq!(check_blocks(&data, checksums.iter().copied().chain([9])), Ok(()));
        assert_eq!(check_blocks(&data, checksums[..3].iter().copied()), Err(3), "a block without a checksum is bad");
        for at in [0, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES - 1, data.len() - 1] {
            let mut bad = data.clone();
            bad[at] ^= 1;
            assert_eq!(check_blocks(&bad, checksums.iter().copied()), Err(at / BLOCK_BYTES), "byte {at}");
        }
        assert_eq!(block_checksums(b"123456789").next(), Some(0xcbf4_3926), "the check value of CRC-32/ISO-HDLC");
    }
}
