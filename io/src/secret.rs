//! A secret on a page of its own: locked in memory, so that it never gets to a swap device; left out of core dumps; wiped
//! when it is dropped. What is computed from it (cipher states, derived keys) lies where it is computed, and is short-lived.

use memmap2::{Advice, MmapMut};
use std::sync::atomic::{Ordering, compiler_fence};

/// Bytes of a page, or a part of one: the kernel locks whole pages.
const PAGE_BYTES: usize = 4096;
/// Length of a secret.
pub const SECRET_BYTES: usize = 32;

/// A secret of 32 bytes.
pub struct SecretPage {
    map: MmapMut,
    is_locked: bool,
}

impl SecretPage {
    /// Keeps a copy; whoever had the secret wipes the original. The error is the kernel's, which has no page left.
    ///
    /// A page that may not be locked (`ulimit -l`) is used all the same: a client that can't work is of less use than one
    /// whose keys might be swapped out.
    pub fn new(secret: &[u8; SECRET_BYTES]) -> std::io::Result<Self> {
        let mut map = MmapMut::map_anon(PAGE_BYTES)?;
        map.advise(Advice::DontDump)?;
        let locked = map.lock();
        if let Err(error) = &locked {
            tracing::warn!(%error, "a key can't be locked in memory");
        }
        map[..SECRET_BYTES].copy_from_slice(secret);
        Ok(Self { map, is_locked: locked.is_ok() })
    }

    /// Whether the kernel keeps it in memory.
    pub fn is_locked(&self) -> bool {
        self.is_locked
    }
}

impl AsRef<[u8]> for SecretPage {
    fn as_ref(&self) -> &[u8] {
        &self.map[..SECRET_BYTES]
    }
}

impl Drop for SecretPage {
    fn drop(&mut self) {
        self.map[..SECRET_BYTES].fill(0);
        // The page goes back to the kernel, which wipes it before anybody else has it; this keeps the order all the same.
        compiler_fence(Ordering::SeqCst);
        std::hint::black_box(&self.map[..SECRET_BYTES]);
    }
}
