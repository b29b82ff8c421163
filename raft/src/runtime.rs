//! openraft's runtime: tokio on the shard's own thread, with what tokio leaves to chance taken out.
//!
//! Random numbers come from a stream that a simulator seeds, and a [`watch`](Watched) wakes its receivers in the order
//! in which they began to wait, where tokio's own wakes them in a random one. Production and simulation run the same.

use farside_io::entropy::{SeededEntropy, SystemEntropy, random};
use openraft::rt::watch::{RecvError, SendError};
use openraft::rt::{AsyncRuntime, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use openraft_rt_tokio::{TokioInstant, TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime};
use rand::TryRng;
use std::cell::{Cell, Ref, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

thread_local! {
    static STREAM: RefCell<Option<SeededEntropy>> = const { RefCell::new(None) };
}

/// Makes this thread's election timeouts follow from `seed` from now on. Answers whether it came first: no number was
/// drawn before.
pub fn seed_thread(seed: u64) -> bool {
    STREAM.replace(Some(SeededEntropy::new(seed))).is_none()
}

/// This thread's stream. Elections need no secrets.
#[derive(Debug)]
pub(crate) struct ThreadStream;

impl ThreadStream {
    fn draw() -> u64 {
        let begin = || SeededEntropy::new(u64::from_le_bytes(random(&SystemEntropy)));
        STREAM.with_borrow_mut(|stream| stream.get_or_insert_with(begin).next_u64())
    }
}

impl TryRng for ThreadStream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(Self::draw() as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(Self::draw())
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.chunks_mut(8).for_each(|part| part.copy_from_slice(&Self::draw().to_le_bytes()[..part.len()]));
        Ok(())
    }
}

/// Runs groups on the shard's `LocalSet`.
#[derive(Debug)]
pub(crate) struct ShardRuntime {
    runtime: tokio::runtime::Runtime,
}

impl AsyncRuntime for ShardRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = ThreadStream;
    type Mpsc = TokioMpsc;
    type Watch = Watched;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> tokio::task::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tokio::task::spawn_local(future)
    }
    fn sleep(duration: Duration) -> tokio::time::Sleep {
        tokio::time::sleep(duration)
    }
    fn sleep_until(deadline: TokioInstant) -> tokio::time::Sleep {
        TokioRuntime::sleep_until(deadline)
    }
    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> tokio::time::Timeout<F> {
        tokio::time::timeout(duration, future)
    }
    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: TokioInstant,
        future: F,
    ) -> tokio::time::Timeout<F> {
        TokioRuntime::timeout_at(deadline, future)
    }
    fn is_panic(join_error: &tokio::task::JoinError) -> bool {
        join_error.is_panic()
    }
    fn thread_rng() -> ThreadStream {
        ThreadStream
    }
    fn new(_threads: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        Self { runtime: runtime.expect("the operating system gives a thread its runtime") }
    }
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        tokio::task::LocalSet::new().block_on(&self.runtime, future)
    }
}

/// A value that changes, and those who wait for the next change.
#[derive(Debug)]
pub(crate) struct Watched;

struct Shared<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    senders: Cell<usize>,
    receivers: Cell<usize>,
    /// Wakes in the order of waiting.
    changed: Notify,
}

/// The end that changes the value.
pub(crate) struct Teller<T>(Rc<Shared<T>>);

/// The end that sees it.
pub(crate) struct Watcher<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

impl<T> Watcher<T> {
    fn new(shared: &Rc<Shared<T>>, seen: u64) -> Self {
        shared.receivers.set(shared.receivers.get() + 1);
        Self { shared: shared.clone(), seen }
    }
}

impl<T> Clone for Teller<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Self(self.0.clone())
    }
}

impl<T> Clone for Watcher<T> {
    fn clone(&self) -> Self {
        Self::new(&self.shared, self.seen)
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        self.0.senders.set(self.0.senders.get() - 1);
        if self.0.senders.get() == 0 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Drop for Watcher<T> {
    fn drop(&mut self) {
        self.shared.receivers.set(self.shared.receivers.get() - 1);
    }
}

impl Watch for Watched {
    type Sender<T: OptionalSend + OptionalSync> = Teller<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Watcher<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Teller<T>, Watcher<T>) {
        let shared = Rc::new(Shared {
            value: RefCell::new(init),
            version: Cell::new(0),
            senders: Cell::new(1),
            receivers: Cell::new(0),
            changed: Notify::new(),
        });
        let watcher = Watcher::new(&shared, 0);
        (Teller(shared), watcher)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<Watched, T> for Teller<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.get() == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|held| {
            *held = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = modify(&mut self.0.value.borrow_mut());
        if modified {
            self.0.version.set(self.0.version.get() + 1);
            self.0.changed.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    fn subscribe(&self) -> Watcher<T> {
        Watcher::new(&self.0, self.0.version.get())
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<Watched, T> for Watcher<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // Taken before the look, so that a change in between is not missed.
            let changed = self.shared.changed.notified();
            let version = self.shared.version.get();
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.senders.get() == 0 {
                return Err(RecvError(()));
            }
            changed.await;
        }
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.version.get();
        self.shared.value.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_suite_of_openraft() {
        openraft::rt::testing::Suite::<ShardRuntime>::test_all();
    }

    #[test]
    fn receivers_wake_in_the_order_of_waiting() {
        let mut runtime = ShardRuntime::new(1);
        let woken = runtime.block_on(async {
            let (teller, watcher) = Watched::channel(0);
            let woken = Rc::new(RefCell::new(Vec::new()));
            let waiting: Vec<_> = (0..32)
                .map(|number| {
                    let (mut watcher, woken) = (watcher.clone(), woken.clone());
                    tokio::task::spawn_local(async move {
                        watcher.changed().await.expect("a teller");
                        woken.borrow_mut().push(number);
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            teller.send(1).expect("watchers");
            for waiting in waiting {
                waiting.await.expect("woken");
            }
            woken.take()
        });
        assert_eq!(woken, (0..32).collect::<Vec<_>>());
    }
}
