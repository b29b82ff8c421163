//! Buffers never overlap and are aligned; whoever asks first has first; memory comes back from any thread, when its last
//! owner lets go and not before; and nothing is copied on the way to `Bytes`.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use farside_io::limits::{HUGE_PAGE_BYTES, PAGE_BYTES, UNIT_BYTES};
use farside_io::pool::{Buffer, Pool, PoolError, Slice};
use futures_util::FutureExt;
use proptest::prelude::*;
use std::ops::Range;

const POOL_BYTES: usize = 2 * HUGE_PAGE_BYTES;

fn pool() -> Pool {
    Pool::new(POOL_BYTES).expect("a pool")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

/// The memory that a buffer has, whatever its length says.
fn memory(buffer: &Buffer) -> Range<usize> {
    let start = buffer.as_ptr() as usize;
    start..start + buffer.capacity()
}

/// What a scenario does next with its pool.
#[derive(Debug, Clone)]
enum Step {
    Take(usize),
    /// Gives one of the buffers held back, whichever this picks.
    Drop(prop::sample::Index),
    Resize(prop::sample::Index, prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..=POOL_BYTES / 4).prop_map(Step::Take),
        1 => (0..=POOL_BYTES + UNIT_BYTES).prop_map(Step::Take),
        3 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(which, to)| Step::Resize(which, to)),
    ]
}

/// Takes a step, and answers which bytes of which buffer must hold which number.
fn take_step(pool: &Pool, held: &mut Vec<(Buffer, u8)>, number: u8, step: Step) {
    match step {
        Step::Take(length) => {
            let Some(mut buffer) = pool.try_take(length) else {
                // A pool that nobody uses has room for all that fits it.
                assert!(!held.is_empty() || length > POOL_BYTES, "{length} bytes were refused by an unused pool");
                return;
            };
            assert_eq!(buffer.len(), length);
            assert!(memory(&buffer).start.is_multiple_of(PAGE_BYTES), "a buffer is aligned for O_DIRECT");
            for (other, _) in held.iter() {
                let (one, other) = (memory(&buffer), memory(other));
                assert!(one.end <= other.start || other.end <= one.start, "two live buffers overlap");
            }
            buffer.fill(number);
            held.push((buffer, number));
        }
        Step::Drop(which) if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
        Step::Resize(which, to) if !held.is_empty() => {
            let index = which.index(held.len());
            let (buffer, number) = &mut held[index];
            buffer.set_len(to.index(buffer.capacity() + 1));
            buffer.fill(*number);
        }
        Step::Drop(_) | Step::Resize(..) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn live_buffers_never_overlap_and_keep_what_was_written(steps in prop::collection::vec(step(), 1..200)) {
        let pool = pool();
        let mut held = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            take_step(&pool, &mut held, number as u8, step);
            let used: usize = held.iter().map(|(buffer, _): &(Buffer, u8)| buffer.capacity()).sum();
            prop_assert_eq!(pool.free_bytes(), POOL_BYTES - used);
        }
        for (buffer, number) in &held {
            prop_assert!(buffer.iter().all(|byte| byte == number), "a buffer changed under its owner");
        }
        drop(held);
        prop_assert_eq!(pool.free_bytes(), POOL_BYTES);
        prop_assert!(pool.try_take(POOL_BYTES).is_some(), "what came back is in one piece");
    }
}

#[test]
fn a_pool_is_rounded_up_to_huge_pages_and_begins_at_one() {
    for (asked, got) in [(0, 1), (1, 1), (HUGE_PAGE_BYTES, 1), (HUGE_PAGE_BYTES + 1, 2)] {
        let pool = Pool::new(asked).expect("a pool");
        assert_eq!(pool.total_bytes(), got * HUGE_PAGE_BYTES);
        let whole = pool.try_take(pool.total_bytes()).expect("all of it");
        assert!(memory(&whole).start.is_multiple_of(HUGE_PAGE_BYTES));
    }
}

#[test]
fn what_can_never_be_had_is_refused_at_once_and_behind_no_line() {
    run(async {
        let pool = pool();
        let _all = pool.take(POOL_BYTES).await.expect("all of it");
        // Somebody waits for ever; who can't be served does not wait behind it.
        let mut waiting = Box::pin(pool.take(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        match pool.take(POOL_BYTES + 1).now_or_never() {
            Some(Err(PoolError::TooLarge { length, total })) => {
                assert_eq!((length, total), (POOL_BYTES + 1, POOL_BYTES));
            }
            other => panic!("{other:?}"),
        }
        assert!(pool.try_take(usize::MAX).is_none());
    });
}

#[test]
fn first_come_first_served_even_if_the_second_one_would_fit() {
    run(async {
        let pool = pool();
        let most = pool.take(POOL_BYTES - 4 * UNIT_BYTES).await.expect("most of it");
        let mut large = Box::pin(pool.take(8 * UNIT_BYTES));
        assert!(large.as_mut().now_or_never().is_none(), "there is no room for the large one");
        let mut small = Box::pin(pool.take(1));
        assert!(small.as_mut().now_or_never().is_none(), "the small one fits and waits its turn");
        drop(most);
        assert!(small.as_mut().now_or_never().is_none(), "the small one does not overtake");
        let large = large.await.expect("the large one");
        let small = small.await.expect("the small one");
        assert_eq!((large.len(), small.len()), (8 * UNIT_BYTES, 1));
    });
}

#[test]
fn who_goes_away_holds_up_nobody() {
    run(async {
        let pool = pool();
        let all = pool.take(POOL_BYTES).await.expect("all of it");
        let mut first = Box::pin(pool.take(1));
        let mut second = Box::pin(pool.take(1));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        // The first in line is woken and goes away before it looks.
        drop(all);
        drop(first);
        second.await.expect("its turn has come");
    });
}

#[test]
fn a_buffer_given_back_on_another_thread_wakes_who_waits() {
    run(async {
        let pool = pool();
        for round in 0..50 {
            let all = pool.take(POOL_BYTES).await.expect("all of it");
            let giver = std::thread::spawn(move || drop(all));
            // Sometimes before the other thread runs, sometimes after.
            let taken = pool.take(1 + round * UNIT_BYTES / 2);
            drop(taken.await.expect("some of it"));
            giver.join().expect("it ended well");
        }
        assert_eq!(pool.free_bytes(), POOL_BYTES);
    });
}

#[test]
fn buffers_live_on_without_their_pool_and_in_other_threads() {
    let mut buffer = pool().try_take(PAGE_BYTES).expect("a buffer");
    buffer.fill(7);
    let read = std::thread::spawn(move || buffer.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    assert_eq!(read.join().expect("it ended well"), 7 * PAGE_BYTES as u64);
}

#[test]
fn bytes_are_the_buffer_itself_and_give_it_back_with_the_last_clone() {
    let pool = pool();
    let mut buffer = pool.try_take(100_000).expect("a buffer");
    buffer.iter_mut().enumerate().for_each(|(index, byte)| *byte = index as u8);
    let (address, copy) = (buffer.as_ptr(), buffer.to_vec());
    let bytes = buffer.into_bytes();
    assert_eq!((bytes.as_ptr(), &bytes[..]), (address, &copy[..]));
    let tail: Bytes = bytes.slice(99_999..);
    drop(bytes);
    assert!(pool.free_bytes() < POOL_BYTES, "a clone still reads the memory");
    assert_eq!(&tail[..], &copy[99_999..]);
    drop(tail);
    assert_eq!(pool.free_bytes(), POOL_BYTES);
}

#[test]
fn slices_share_one_buffer_until_one_owner_is_left() {
    let pool = pool();
    let mut buffer = pool.try_take(1000).expect("a buffer");
    buffer.iter_mut().enumerate().for_each(|(index, byte)| *byte = index as u8);
    let address = buffer.as_ptr();
    let whole = buffer.share();
    let part: Slice = whole.slice(100..200).slice(10..20);
    assert_eq!((part.as_ptr(), part.len(), part[0]), (address.wrapping_add(110), 10, 110));
    let whole = whole.try_unshare().expect_err("it is shared");
    assert_eq!(whole.len(), 1000);
    let bytes = part.into_bytes();
    assert_eq!(bytes.as_ptr(), address.wrapping_add(110));
    drop(bytes);
    let buffer = whole.try_unshare().expect("nobody else has it");
    assert_eq!((buffer.as_ptr(), buffer.len()), (address, 1000));
    drop(buffer);
    assert_eq!(pool.free_bytes(), POOL_BYTES);
}

#[test]
#[should_panic(expected = "a buffer does not grow")]
fn a_length_past_the_memory_is_a_fault_of_ours() {
    let mut buffer = pool().try_take(1).expect("a buffer");
    buffer.set_len(UNIT_BYTES);
    buffer.set_len(UNIT_BYTES + 1);
}

#[test]
#[should_panic(expected = "a range lies within its slice")]
fn a_slice_of_a_slice_stays_within_it() {
    let _ = pool().try_take(100).expect("a buffer").share().slice(10..20).slice(0..11);
}
