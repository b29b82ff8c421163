//! The buffer arena of a shard: one anonymous mapping, 2 MiB-aligned, in huge pages where the kernel gives them, and
//! owned buffers cut from it.
//!
//! Physically contiguous buffers are worth a factor of two to O_DIRECT (measured.md), and one mapping is what a ring
//! can register once. Invariants: two live buffers never overlap; a buffer goes back when its last owner drops it, on
//! whatever thread; `take` is first come, first served, so that a large request is never starved by small ones.
//! Absent on purpose: growing. An empty pool is backpressure.
#![allow(unsafe_code)]

use crate::limits;
use bytes::Bytes;
use memmap2::{MmapMut, MmapOptions};
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// A degradation: what was refused and what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice(pub String);

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no buffer, and never will be.
#[derive(Debug)]
pub enum PoolError {
    /// The mapping was refused.
    Map(std::io::Error),
    /// The request is larger than the whole pool.
    TooLarge {
        /// Bytes asked for.
        length: usize,
        /// Bytes of the pool.
        total: usize,
    },
}

impl std::fmt::Display for PoolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Map(error) => write!(f, "the buffer arena can't be mapped: {error}"),
            Self::TooLarge { length, total } => {
                write!(f, "a buffer of {length} bytes can't come out of a pool of {total}")
            }
        }
    }
}

impl std::error::Error for PoolError {}

struct Units {
    /// One entry a unit: taken or not.
    taken: Vec<bool>,
    free: usize,
}

struct Arena {
    map: MmapMut,
    /// Offset of the first 2 MiB boundary in the mapping.
    start: usize,
    bytes: usize,
    units: Mutex<Units>,
    /// Woken whenever a buffer comes back.
    returned: Notify,
    /// Held by whoever is first in line.
    line: tokio::sync::Mutex<()>,
    notices: Vec<Notice>,
}

/// A shard's pool. Clones share one arena.
#[derive(Clone)]
pub struct Pool(Arc<Arena>);

impl Arena {
    fn units(&self) -> MutexGuard<'_, Units> {
        // The critical sections below don't panic, so the lock is never poisoned by half-done work.
        self.units.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn base(&self) -> *const u8 {
        self.map.as_ptr().wrapping_add(self.start)
    }
}

impl Pool {
    /// Maps and prefaults an arena of `bytes`, rounded up to 2 MiB.
    pub fn new(bytes: usize) -> Result<Self, PoolError> {
        let bytes = bytes.max(1).next_multiple_of(limits::HUGE_PAGE_BYTES);
        let mut map = MmapOptions::new().len(bytes + limits::HUGE_PAGE_BYTES).map_anon().map_err(PoolError::Map)?;
        let start = map.as_ptr().align_offset(limits::HUGE_PAGE_BYTES);
        let mut notices = Vec::new();
        let range = &mut map[start..start + bytes];
        // SAFETY: the range lies within the mapping that `map` owns; the advice changes no contents.
        let advised = unsafe { libc::madvise(range.as_mut_ptr().cast(), range.len(), libc::MADV_HUGEPAGE) };
        if advised != 0 {
            notices.push(Notice(format!(
                "huge pages were refused ({}); disk throughput will be about half: \
                 set /sys/kernel/mm/transparent_hugepage/enabled to madvise or always",
                std::io::Error::last_os_error()
            )));
        }
        // Touch every page now, so that no page fault falls into the data path.
        range.iter_mut().step_by(limits::PAGE_BYTES).for_each(|byte| *byte = 0);
        let count = bytes / limits::UNIT_BYTES;
        Ok(Self(Arc::new(Arena {
            map,
            start,
            bytes,
            units: Mutex::new(Units { taken: vec![false; count], free: count }),
            returned: Notify::new(),
            line: tokio::sync::Mutex::new(()),
            notices,
        })))
    }

    /// A buffer of `length` bytes if there is room now. Its contents are whatever the last owner left.
    pub fn try_take(&self, length: usize) -> Option<Buffer> {
        let count = length.max(1).div_ceil(limits::UNIT_BYTES);
        let mut units = self.0.units();
        if count > units.free {
            return None;
        }
        let first = first_fit(&units.taken, count)?;
        units.taken[first..first + count].fill(true);
        units.free -= count;
        Some(Buffer { arena: self.0.clone(), first, count, length })
    }

    /// A buffer of `length` bytes, as soon as those who asked earlier have theirs and there is room.
    pub async fn take(&self, length: usize) -> Result<Buffer, PoolError> {
        if length > self.0.bytes {
            return Err(PoolError::TooLarge { length, total: self.0.bytes });
        }
        let _first_in_line = self.0.line.lock().await;
        loop {
            let returned = self.0.returned.notified();
            if let Some(buffer) = self.try_take(length) {
                return Ok(buffer);
            }
            returned.await;
        }
    }

    /// Bytes of the arena.
    pub fn total_bytes(&self) -> usize {
        self.0.bytes
    }

    /// Bytes that nobody holds now; not necessarily in one piece.
    pub fn free_bytes(&self) -> usize {
        self.0.units().free * limits::UNIT_BYTES
    }

    /// What was refused when the arena was made.
    pub fn notices(&self) -> &[Notice] {
        &self.0.notices
    }

    /// Address and length of the arena, for registering it with a ring.
    pub(crate) fn region(&self) -> (*const u8, usize) {
        (self.0.base(), self.0.bytes)
    }
}

/// The first run of `count` free units.
fn first_fit(taken: &[bool], count: usize) -> Option<usize> {
    let mut run = 0;
    for (index, taken) in taken.iter().enumerate() {
        run = if *taken { 0 } else { run + 1 };
        if run == count {
            return Some(index + 1 - count);
        }
    }
    None
}

/// An owned, 4 KiB-aligned buffer. Goes back to its pool when dropped.
pub struct Buffer {
    arena: Arc<Arena>,
    first: usize,
    count: usize,
    length: usize,
}

// SAFETY: a buffer is the only owner of its units, and the arena behind it is only freed with its last owner.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn pointer(&self) -> *mut u8 {
        self.arena.base().wrapping_add(self.first * limits::UNIT_BYTES).cast_mut()
    }

    /// Bytes that `set_len` may reach.
    pub fn capacity(&self) -> usize {
        self.count * limits::UNIT_BYTES
    }

    /// Changes the length, within the capacity.
    pub fn set_len(&mut self, length: usize) {
        assert!(length <= self.capacity(), "a buffer does not grow");
        self.length = length;
    }

    /// Makes it shareable and immutable.
    pub fn share(self) -> Slice {
        let range = 0..self.length;
        Slice { buffer: Arc::new(self), range }
    }

    /// As `Bytes`, without a copy.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the units belong to this buffer alone, lie within the mapping, and every byte was written by `new`.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.length) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.length)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut units = self.arena.units();
        units.taken[self.first..self.first + self.count].fill(false);
        units.free += self.count;
        drop(units);
        // Only the first in line waits, so one permit is enough.
        self.arena.returned.notify_one();
    }
}

/// A shared, immutable range of a buffer.
#[derive(Clone, Debug)]
pub struct Slice {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Slice {
    /// A range of this range.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len(), "a range lies within its slice");
        Self { buffer: self.buffer.clone(), range: self.range.start + range.start..self.range.start + range.end }
    }

    /// As `Bytes`, without a copy.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// The buffer itself, if nobody else shares it.
    pub fn try_unshare(self) -> Result<Buffer, Self> {
        let range = self.range;
        Arc::try_unwrap(self.buffer).map_err(|buffer| Self { buffer, range })
    }
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
