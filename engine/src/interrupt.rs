//! What must not outlive this process, and is undone when it is interrupted: half-written files, nodes of a demo.
//!
//! Whoever makes such a thing registers how to undo it and keeps the [`Undo`] for as long as the thing stands. An
//! interruption undoes what stands, the newest first, and ends the process with 128 + the signal's number.

use farside_io::process::is_ignored;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use tokio::signal::unix::{Signal, SignalKind, signal};

type Action = Box<dyn FnOnce() + Send>;

static STANDING: Mutex<BTreeMap<u64, Action>> = Mutex::new(BTreeMap::new());

fn standing() -> MutexGuard<'static, BTreeMap<u64, Action>> {
    // The map is whole between any two of its operations.
    STANDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that stands until this is dropped.
pub(crate) struct Undo(u64);

impl Undo {
    /// Registers what undoes it. The action must neither print nor register: it runs while everything else waits.
    pub(crate) fn register(action: impl FnOnce() + Send + 'static) -> Self {
        let mut standing = standing();
        let number = standing.last_key_value().map_or(0, |(last, _)| last + 1);
        standing.insert(number, Box::new(action));
        Self(number)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        standing().remove(&self.0);
    }
}

/// Undoes what stands and ends the process.
pub(crate) fn leave(code: i32) -> ! {
    // Never given back: a thread that is about to take something down waits here, and says nothing about it.
    let mut standing = standing();
    while let Some((_, action)) = standing.pop_last() {
        action();
    }
    std::process::exit(code)
}

/// The signals that end a process, but for those that it was started to ignore.
pub(crate) fn ending_signals() -> io::Result<Vec<(i32, Signal)>> {
    let wanted = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].into_iter().filter(|number| !is_ignored(*number));
    wanted.map(|number| Ok((number, signal(SignalKind::from_raw(number))?))).collect()
}

/// Waits for one of them, and answers its number.
pub(crate) async fn first_of(signals: &mut [(i32, Signal)]) -> i32 {
    poll_fn(|context| {
        let mut poll = |(number, signal): &mut (i32, Signal)| signal.poll_recv(context).is_ready().then_some(*number);
        signals.iter_mut().find_map(&mut poll).map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Leaves on a signal. A thread of its own waits for it, so that a command that is stuck in its input can be
/// interrupted as well.
pub(crate) fn leave_on_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        ending_signals()?
    };
    let wait = move || leave(128 + runtime.block_on(first_of(&mut signals)));
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}
