//! One history: lives of a log over the same mirrors, and after each start the question which of the appends count.

use super::groups::{Manner, draw, snapshot};
use super::mirrors::Mirrors;
use super::model::{States, apply, brief, observe};
use farside_codec::ids::GroupId;
use farside_codec::record::wal::WalRecord;
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use farside_io::sim::histories::{Dice, Journal};
use farside_raft::limits::CHECKPOINT_EIGHTHS;
use farside_raft::wal::{Wal, WalError};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;

const OWNER: [u8; 16] = [7; 16];
/// Virtual time in which everything that was begun must end.
const HANG: Duration = Duration::from_secs(3600);
/// Commands from here on fill the part of the region at which a checkpoint begins within a few bursts.
const LARGE_COMMAND_BYTES: u64 = 100 << 10;
/// Bursts of them in which that comes about, mostly.
const BURSTS_TO_CHECKPOINT: u32 = 12;
/// A checkpoint of two or three batches takes about so many polls.
const CHECKPOINT_POLLS: u64 = 30;

macro_rules! note {
    ($world:expr, $($what:tt)*) => { $world.journal.note(format_args!($($what)*)) };
}

struct World {
    dice: Dice,
    journal: Rc<Journal>,
    pool: Pool,
    manner: Manner,
    harm_percent: u64,
    mirrors: RefCell<Mirrors>,
    /// What the log said when it was last opened.
    base: RefCell<States>,
    /// What was appended since, in order.
    appended: RefCell<Vec<Vec<WalRecord>>>,
    /// What all of that adds up to.
    now: RefCell<States>,
    /// How many of the appends were reported flushed.
    flushed: Rc<Cell<usize>>,
}

/// Runs the history of one seed.
pub(crate) fn run(seed: u64, journal: Rc<Journal>, pool: &Pool) {
    let dice = Dice::new(seed);
    let large = dice.percent(25);
    let manner = Manner {
        groups: dice.between(1, 3) as u32,
        command_bytes: if large {
            dice.pick(&[LARGE_COMMAND_BYTES, 400 << 10])
        } else {
            dice.pick(&[50, 1000, 20_000])
        },
        // With what one append adds, up to what a log is asked to bear: twice the bytes at which snapshots are due.
        live_bytes: dice.pick(&[1 << 20, 3 << 20, 6 << 20]),
    };
    let mirrors = RefCell::new(Mirrors::new(&dice));
    let world = World {
        harm_percent: dice.pick(&[0, 40, 70]),
        dice,
        journal,
        pool: pool.clone(),
        manner,
        mirrors,
        base: RefCell::default(),
        appended: RefCell::default(),
        now: RefCell::default(),
        flushed: Rc::default(),
    };
    note!(world, "{manner:?}, {} mirrors, harm {}", world.mirrors.borrow().0.len(), world.harm_percent);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let lives = world.dice.between(2, 5);
    for life in 0..=lives {
        note!(world, "life {life}");
        let local = LocalSet::new();
        let work = async { tokio::time::timeout(HANG, world.live(life == lives)).await.expect("nothing hangs") };
        runtime.block_on(local.run_until(work));
        drop(local);
        world.mirrors.borrow_mut().restart(&world.dice);
        world.mirrors.borrow_mut().draw_fates(&world.dice, world.harm_percent);
        if world.dice.percent(12) {
            world.damage(&runtime);
        }
    }
    assert_eq!(pool.free_bytes(), pool.total_bytes(), "every buffer comes back");
}

impl World {
    async fn live(&self, last: bool) {
        let sudden = !last && self.dice.percent(80);
        if sudden && self.dice.percent(25) {
            let polls = self.dice.pick(&[5, 30, 100]);
            let polls = self.dice.below(polls);
            let opened = fused(self.open(), polls, || true).await;
            note!(self, "stopped after {polls} polls of opening, done: {}", opened.is_some());
            return;
        }
        let wal = self.open().await;
        if sudden && self.is_large() && self.dice.percent(30) {
            return self.stop_in_checkpoint(&wal).await;
        }
        for _ in 0..self.dice.pick(&[0, 1, 3, 8]) {
            self.burst(&wal).await;
            self.settle(&wal).await;
        }
        if sudden {
            let polls = self.dice.pick(&[3, 12, 60]);
            let polls = self.dice.below(polls);
            self.burst(&wal).await;
            let done = fused(self.settle(&wal), polls, || true).await.is_some();
            note!(self, "stopped after {polls} polls, done: {done}, flushed {}", self.flushed.get());
        } else {
            wal.close().await;
        }
    }

    /// Whether commands are so large that the log goes round within a few bursts.
    fn is_large(&self) -> bool {
        self.manner.command_bytes >= LARGE_COMMAND_BYTES
    }

    /// Works until a checkpoint is due, and stops soon after it began: what of it is there by then must say nothing.
    async fn stop_in_checkpoint(&self, wal: &Wal<SimDisk>) {
        let polls = self.dice.below(CHECKPOINT_POLLS);
        for burst in 0..BURSTS_TO_CHECKPOINT {
            self.burst(wal).await;
            let is_due = || wal.used() * 8.0 >= CHECKPOINT_EIGHTHS as f64;
            if fused(self.settle(wal), polls, is_due).await.is_none() {
                return note!(self, "stopped in burst {burst}, {polls} polls into a checkpoint");
            }
        }
    }

    /// Opens the log, and finds the appends that it took for durable: all that were flushed, and none out of order.
    async fn open(&self) -> Wal<SimDisk> {
        let present = self.mirrors.borrow().present();
        let opened = Wal::open(OWNER, present, &self.pool).await;
        let (wal, report) = opened.unwrap_or_else(|error| panic!("a mirror was kept good, and yet: {error}"));
        let found = observe(&wal, self.manner.groups);
        self.accept(&found);
        note!(self, "open: {report:?}; {}", brief(&found));
        self.mirrors.borrow_mut().opened();
        wal
    }

    fn accept(&self, found: &States) {
        let mut states: States = self.base.borrow().clone();
        for group in found.keys() {
            states.entry(*group).or_default();
        }
        let appended = self.appended.take();
        let mut counted = None;
        for number in 0..=appended.len() {
            if number >= self.flushed.get() && states == *found {
                counted = Some(number);
            }
            if let Some(records) = appended.get(number) {
                apply(&mut states, records);
            }
        }
        let flushed = self.flushed.replace(0);
        assert!(
            counted.is_some(),
            "of {} appends {flushed} were flushed; no number of them gives: {}; all of them: {}; before: {}",
            appended.len(),
            brief(found),
            brief(&states),
            brief(&self.base.borrow()),
        );
        note!(self, "{counted:?} of {} appends count, {flushed} were flushed", appended.len());
        *self.base.borrow_mut() = found.clone();
        *self.now.borrow_mut() = found.clone();
    }

    fn append(&self, wal: &Wal<SimDisk>, records: Vec<WalRecord>) {
        if records.is_empty() {
            return;
        }
        apply(&mut self.now.borrow_mut(), &records);
        let (number, flushed) = (self.appended.borrow().len(), self.flushed.clone());
        let tell = move |result: Result<(), WalError>| {
            assert_eq!(result, Ok(()), "a mirror is kept good");
            assert_eq!(flushed.get(), number, "appends are flushed in order");
            flushed.set(number + 1);
        };
        // Before the records are queued: they may be flushed whatever becomes of us.
        self.appended.borrow_mut().push(records.clone());
        wal.append(&records, Some(Box::new(tell)));
    }

    /// Several appends, of which none waits for another.
    async fn burst(&self, wal: &Wal<SimDisk>) {
        for _ in 0..self.dice.pick(&[1, 4, 12, 25]) {
            let records = draw(&self.dice, &self.manner, &self.now.borrow());
            self.append(wal, records);
            if let (live, Some(group)) = wal.live()
                && live > self.manner.live_bytes
            {
                let records = {
                    let now = self.now.borrow();
                    let last = now[&group].last().map_or(0, |last| last.index);
                    snapshot(&self.dice, group, &now[&group], last)
                };
                self.append(wal, records);
            }
            if self.dice.percent(20) {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(observe(wal, self.manner.groups), self.complete(), "what was appended holds at once");
    }

    fn complete(&self) -> States {
        let mut now = self.now.borrow().clone();
        for group in 1..=self.manner.groups {
            now.entry(GroupId(group)).or_default();
        }
        now
    }

    /// Waits until everything is flushed.
    async fn settle(&self, wal: &Wal<SimDisk>) {
        wal.append_durably(&[]).await.expect("a mirror is kept good");
        assert_eq!(self.flushed.get(), self.appended.borrow().len(), "what came before is flushed");
        note!(self, "flushed {}, {:.3} in use", self.flushed.get(), wal.used());
    }

    /// Damages a durable batch on every mirror: the log must say so, and go on once the damage is taken back.
    fn damage(&self, runtime: &tokio::runtime::Runtime) {
        let mirrors = self.mirrors.borrow();
        let all_well = mirrors.0.iter().all(|mirror| !mirror.harmed && !mirror.missing && mirror.in_sync);
        if !all_well {
            return;
        }
        let Some((victim, saved)) = mirrors.damage_everywhere(&self.dice) else { return };
        let local = LocalSet::new();
        let opened = runtime.block_on(local.run_until(Wal::open(OWNER, mirrors.present(), &self.pool)));
        note!(self, "batch {victim} is damaged on every mirror: {:?}", opened.as_ref().err());
        assert_eq!(opened.map(|_| ()), Err(WalError::Damaged { batch: victim }), "durable once, and lost");
        drop(local);
        mirrors.mend(&saved);
    }
}

/// Polls `work` to its end, or so many times while the fuse burns: then `None`.
async fn fused<T>(work: impl Future<Output = T>, polls: u64, burns: impl Fn() -> bool) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(done) = work.as_mut().poll(context) {
            return std::task::Poll::Ready(Some(done));
        }
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= u64::from(burns());
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await
}
