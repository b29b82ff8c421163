//! Every limit of this crate.

/// A transparent huge page on x86-64 and on AArch64 with 4 KiB pages.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;
/// A base page.
pub const PAGE_BYTES: usize = 4096;
/// Buffers are cut in these: small enough that a 4 KiB read wastes little, large enough that the map of a pool is short.
pub const UNIT_BYTES: usize = 64 << 10;
/// The kernel refuses a fixed buffer above 1 GiB.
pub const MAX_FIXED_BYTES: usize = 1 << 30;
/// Submission queue entries of a shard's ring.
pub const RING_ENTRIES: u32 = 1024;

const _: () = assert!(HUGE_PAGE_BYTES.is_multiple_of(UNIT_BYTES) && UNIT_BYTES.is_multiple_of(PAGE_BYTES));
