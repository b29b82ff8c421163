//! What decoding reserves: an allocator that counts, for the promise that no length reserves memory before its bytes
//! are there.
//!
//! A program that wants the promise held names [`Counting`] as its global allocator. In any other nothing is counted,
//! and the promise holds of itself.
#![allow(unsafe_code, reason = "an allocator is the only one who sees what is reserved")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Bytes of memory that one byte of a record may take once it is decoded: a `None` of one byte stands in memory for the
/// receipt that it is not, and a list that grows holds its old self and its new one for a moment.
const MOST_A_BYTE: usize = 96;
/// What an error, or a record of a few bytes, may take.
const MOST_AT_ALL: usize = 4096;

/// The system's allocator, counting on threads that ask for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting;

#[cfg(feature = "count-allocations")]
#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes held since counting began, and the most at any moment.
#[derive(Clone, Copy)]
struct Count {
    on: bool,
    held: isize,
    most: isize,
}

const OFF: Count = Count { on: false, held: 0, most: 0 };

thread_local! {
    static COUNT: Cell<Count> = const { Cell::new(OFF) };
}

fn note(bytes: isize) {
    let mut count = COUNT.get();
    if count.on {
        count.held += bytes;
        count.most = count.most.max(count.held);
        COUNT.set(count);
    }
}

// SAFETY: everything is the system allocator's work; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: the memory came from the system's allocator, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there for a moment.
        note(size as isize);
        note(-(layout.size() as isize));
        // SAFETY: the memory came from the system's allocator, with this layout; the caller chose `size`.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Decodes `bytes`, and holds what that reserved against their number.
pub(super) fn bounded<T>(bytes: usize, decode: impl FnOnce() -> T) -> T {
    COUNT.set(Count { on: true, ..OFF });
    let decoded = decode();
    let most = COUNT.replace(OFF).most;
    let allowed = bytes * MOST_A_BYTE + MOST_AT_ALL;
    assert!(most as usize <= allowed, "{bytes} bytes reserved {most} bytes of memory");
    decoded
}
