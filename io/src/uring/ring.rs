//! A shard's io_uring: what is begun goes to the kernel at once, and what is done is taken in whenever the thread looks.
//!
//! An operation owns what the kernel uses, also when the future that waits for it is dropped, and the ring is not closed
//! before the last one is done. Written here because tokio-uring hands operations to the kernel only when its thread has
//! nothing else to do: on a busy shard that doubled the time of a write (ARCHITECTURE.md, "Why it is so").

use super::IoUringRefused;
use crate::limits;
use crate::pool::{Buffer, Notice, Pool, Slice};
use io_uring::{IoUring, squeue};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Runs a shard's runtime on the calling thread: tokio's, with everything on this one thread.
pub fn start<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

/// What the kernel uses until an operation is done.
pub(super) enum Held {
    File(#[expect(dead_code, reason = "kept open")] Rc<File>),
    Read(#[expect(dead_code, reason = "kept open")] Rc<File>, Buffer),
    Write(#[expect(dead_code, reason = "kept open")] Rc<File>, #[expect(dead_code, reason = "kept alive")] Slice),
}

struct Operation {
    held: Held,
    done: oneshot::Sender<(i32, Held)>,
}

/// A shard's ring, with its pool registered if the kernel allows it. Clones share it.
#[derive(Clone)]
pub struct Ring(Rc<State>);

struct State {
    ring: RefCell<IoUring>,
    operations: RefCell<BTreeMap<u64, Operation>>,
    next: Cell<u64>,
    reaper: AbortHandle,
    /// A second try to hand over what the kernel had no memory for is due.
    retrying: Cell<bool>,
    base: usize,
    registered_bytes: usize,
    notices: Vec<Notice>,
    /// Registered, so it stays as long as the ring.
    _pool: Pool,
}

impl Ring {
    /// Sets up a ring for the calling thread, inside [`start`], and registers `pool` with it.
    pub fn register(pool: &Pool) -> Result<Self, IoUringRefused> {
        let ring = IoUring::new(limits::RING_ENTRIES).map_err(IoUringRefused)?;
        // A descriptor of its own: the reactor may let go of it after the ring was closed.
        // SAFETY: the ring is open as long as this borrows its descriptor.
        let descriptor = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned();
        let descriptor = descriptor.map_err(IoUringRefused)?;
        // SAFETY: the descriptor is owned by what is registered, and so stays open until it is not any more.
        let ready = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        let ready = ready.map_err(|refused| IoUringRefused(refused.into()))?;
        let (base, bytes) = pool.region();
        let notices = match register_pool(&ring, base, bytes) {
            Ok(()) => Vec::new(),
            Err(error) => vec![Notice(format!(
                "{} MiB of buffers could not be registered with io_uring ({error}); disk operations cost more CPU: \
                 raise the memlock limit (`ulimit -l`, or LimitMEMLOCK= in the service)",
                bytes >> 20
            ))],
        };
        let registered_bytes = if notices.is_empty() { bytes } else { 0 };
        let state = Rc::new_cyclic(|state: &Weak<State>| State {
            ring: RefCell::new(ring),
            operations: RefCell::default(),
            next: Cell::new(0),
            reaper: tokio::task::spawn_local(reap(state.clone(), ready)).abort_handle(),
            retrying: Cell::new(false),
            base: base as usize,
            registered_bytes,
            notices,
            _pool: pool.clone(),
        });
        Ok(Self(state))
    }

    /// What was refused.
    pub fn notices(&self) -> &[Notice] {
        &self.0.notices
    }

    /// The fixed buffer that holds all of `bytes`, if one does.
    pub(super) fn index_of(&self, bytes: &[u8]) -> Option<u16> {
        let offset = (bytes.as_ptr() as usize).checked_sub(self.0.base)?;
        let end = offset + bytes.len();
        let index = offset / limits::MAX_FIXED_BYTES;
        (end <= self.0.registered_bytes && end <= (index + 1) * limits::MAX_FIXED_BYTES).then_some(index as u16)
    }

    /// Begins an operation that uses nothing but `held`. Answers the kernel's result, and `held`.
    pub(super) async fn run(&self, entry: squeue::Entry, held: Held) -> (i32, Held) {
        let (done, outcome) = oneshot::channel();
        self.0.begin(entry, Operation { held, done });
        // Every operation ends, and the ring answers each before it goes.
        outcome.await.expect("the ring outlives what waits for it")
    }
}

fn register_pool(ring: &IoUring, base: *const u8, bytes: usize) -> io::Result<()> {
    let window = |offset: usize| libc::iovec {
        iov_base: base.wrapping_add(offset).cast_mut().cast(),
        iov_len: limits::MAX_FIXED_BYTES.min(bytes - offset),
    };
    let windows: Vec<libc::iovec> = (0..bytes).step_by(limits::MAX_FIXED_BYTES).map(window).collect();
    // SAFETY: the ring's state keeps the pool, whose arena neither moves nor goes while it lives, longer than the ring.
    unsafe { ring.submitter().register_buffers(&windows) }
}

/// Takes in what is done whenever the ring's descriptor says that there is something.
async fn reap(state: Weak<State>, ready: AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = ready.readable().await {
        ready.clear_ready();
        let Some(state) = state.upgrade() else { return };
        state.take_done();
    }
}

impl State {
    fn begin(self: &Rc<Self>, entry: squeue::Entry, operation: Operation) {
        let number = self.next.replace(self.next.get() + 1);
        let entry = entry.user_data(number);
        self.operations.borrow_mut().insert(number, operation);
        // SAFETY: what the entry names is held in `operations` until its completion was seen.
        while unsafe { self.ring.borrow_mut().submission().push(&entry) }.is_err() {
            // Full, because the kernel took nothing lately: it does once something is done.
            self.hand_over();
            self.take_done();
            std::thread::yield_now();
        }
        self.hand_over();
        self.take_done();
    }

    /// Gives the kernel what it has not seen yet. What it can't take now is tried again.
    fn hand_over(self: &Rc<Self>) {
        let submitted = self.ring.borrow().submit();
        if submitted.is_err() && !self.retrying.replace(true) {
            let state = self.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(limits::RING_RETRY).await;
                state.retrying.set(false);
                state.hand_over();
                state.take_done();
            });
        }
    }

    fn take_done(&self) {
        loop {
            let mut ring = self.ring.borrow_mut();
            let Some(entry) = ring.completion().next() else {
                // What found no place in the completion queue waits in the kernel until it is asked for.
                match ring.submission().cq_overflow() && ring.submit().is_ok() {
                    true => continue,
                    false => return,
                }
            };
            drop(ring);
            let Some(operation) = self.operations.borrow_mut().remove(&entry.user_data()) else { continue };
            // Nobody may wait any more; then what was held goes now.
            drop(operation.done.send((entry.result(), operation.held)));
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.reaper.abort();
        // The kernel reads and writes memory of the pool until the last operation is done.
        while !self.operations.borrow().is_empty() {
            let waited = self.ring.borrow().submit_and_wait(1);
            if waited.is_err() {
                std::thread::yield_now();
            }
            self.take_done();
        }
    }
}
