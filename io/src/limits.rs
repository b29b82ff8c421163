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
/// Before the kernel is asked again to take an operation that it had no memory for.
pub const RING_RETRY: std::time::Duration = std::time::Duration::from_millis(1);
/// The smallest unit that a drive writes whole, and so the unit that a torn write tears at.
pub const SECTOR_BYTES: usize = 512;
/// Faults that one simulated device may have planned.
pub const MAX_PLANNED_FAULTS: usize = 4096;
/// Unflushed writes that a simulated device keeps apart before it drains the oldest by itself.
pub const MAX_UNSYNCED_WRITES: usize = 16_384;
/// Times that one transfer is asked for again after EINTR, EAGAIN or no whole block.
pub const MAX_TRANSFER_RETRIES: u32 = 64;

const _: () = assert!(PAGE_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(HUGE_PAGE_BYTES.is_multiple_of(UNIT_BYTES) && UNIT_BYTES.is_multiple_of(PAGE_BYTES));
