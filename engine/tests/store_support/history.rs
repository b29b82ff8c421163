//! One history: lives of a store over the same devices, each ended by a power cut, a kill or in peace, with whatever
//! may happen to devices in between; then the last judgement.

use super::bays::Seat;
use super::plan::{Mood, Plan};
use super::steps::fused;
use super::world::{World, note};
use farside::store::Store;
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use farside_io::sim::SimFaults;
use farside_io::sim::histories::{Dice, Journal};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;

/// Virtual time in which everything that was begun must end; stalls and delays take a small part of it.
const HANG: Duration = Duration::from_secs(3600);

/// The buffer pools that all histories share, since mapping one takes longer than a history.
pub(crate) struct Pools {
    small: Pool,
    large: Pool,
}

impl Pools {
    pub(crate) fn new() -> Self {
        let pool = |bytes| Pool::new(bytes).expect("an arena");
        Self { small: pool(2 << 20), large: pool(16 << 20) }
    }
}

/// Runs work on the world's threadless runtime, with tasks of its own that end with it.
pub(crate) fn live<T>(runtime: &tokio::runtime::Runtime, work: impl Future<Output = T>) -> T {
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async { tokio::time::timeout(HANG, work).await.expect("nothing hangs") }))
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}

/// Runs the history of one seed.
pub(crate) fn run(seed: u64, journal: Rc<Journal>, pools: &Pools) {
    let dice = Dice::new(seed);
    let plan = Plan::draw(&dice);
    let pool = if plan.small_pool { pools.small.clone() } else { pools.large.clone() };
    let world = World::new(plan, dice, journal, pool);
    let runtime = runtime();
    note!(world, "{:?}", world.plan);
    live(&runtime, world.bays.format(&world.plan, &world.pool, &world.dice));
    for life in 0..world.plan.lives {
        note!(world, "life {life}");
        live(&runtime, world.live());
        world.between_lives();
    }
    world.last_judgement(&runtime);
    assert_eq!(world.pool.free_bytes(), world.pool.total_bytes(), "every buffer comes back");
}

impl World {
    /// One life. It ends in the middle of something, or in peace.
    async fn live(&self) {
        let sudden = self.dice.percent(75);
        if sudden && self.dice.percent(20) {
            let polls = self.dice.pick(&[10, 50, 200, 1000]);
            let polls = self.dice.below(polls);
            if fused(self.open(), polls).await.is_none() {
                note!(self, "stopped while opening, after {polls}");
                return self.end();
            }
            return self.end();
        }
        let Some(store) = self.open().await else { return self.end() };
        self.look(&store);
        // As a peer does before it sends: what is here stands, and what is still unsure is here in part or not at all.
        if self.dice.percent(50) {
            let all: Vec<usize> = (0..self.chunks.borrow().len()).collect();
            self.have(&store, &all);
        }
        let is_used = !self.chunks.borrow().is_empty();
        if self.plan.clearing && is_used && self.dice.percent(40) {
            self.clear(&store).await;
            if self.dice.percent(80) {
                return self.end();
            }
        }
        for _ in 0..self.dice.between(1, self.plan.bursts) {
            self.burst(&store).await;
        }
        if sudden {
            let polls = self.dice.pick(&[8, 30, 100]);
            let polls = self.dice.below(polls);
            let done = match self.plan.clearing && self.dice.percent(60) {
                true => fused(self.rush(&store), polls).await.is_some(),
                false => fused(self.burst(&store), polls).await.is_some(),
            };
            note!(self, "stopped after {polls}, done: {done}");
        }
        self.end();
    }

    /// The power goes, the process goes, or, where devices have supplies of their own, both in part.
    pub(crate) fn end(&self) {
        let cut_percent = self.dice.pick(&[100, 100, 100, 0, 0, 50]);
        let mut cut = 0u32;
        for (index, bay) in self.bays.bays.iter().enumerate() {
            let power_cut = self.dice.percent(cut_percent);
            bay.restart(power_cut);
            cut |= u32::from(power_cut) << index;
        }
        note!(self, "the end; power cut at {cut:b}");
    }

    /// What may happen to devices while nobody looks.
    fn between_lives(&self) {
        for index in self.bays.bad() {
            let bay = &self.bays.bays[index];
            bay.seat.set(Seat::Here);
            if self.dice.percent(30) {
                bay.set_rates(SimFaults { max_extra_yields: self.plan.extra_yields, ..SimFaults::default() });
            }
            if !self.dice.percent(45) {
                continue;
            }
            match self.dice.below(12) {
                0..=2 => bay.seat.set(Seat::Missing),
                3 => bay.seat.set(Seat::Foreign),
                4 if !bay.gone.get() => bay.seat.set(Seat::Twice),
                5..=6 => drop(bay.swap()),
                7 => *bay.old_copy.borrow_mut() = Some(bay.disk().duplicate(self.dice.seed())),
                8 if self.dice.percent(15) => {
                    let bytes = self.plan.device_bytes() / 4096;
                    bay.disk().shrink(self.dice.below(bytes) * 4096);
                    bay.gone.set(true);
                }
                _ => bay.flip(&self.plan, &self.dice),
            }
            note!(self, "device {index} meanwhile: {:?}, gone: {}", bay.seat.get(), bay.gone.get());
        }
        if self.plan.mood != Mood::Fair && self.dice.percent(15) {
            self.change_suspects();
        }
    }

    /// From here on harm comes to others. What it came to so far stays in the account.
    fn change_suspects(&self) {
        let (bays, bad) = (&self.bays.bays, self.bays.bad());
        let released: Vec<usize> = bad
            .into_iter()
            .filter(|index| bays[*index].is_calm() && bays[*index].seat.get() == Seat::Here && !bays[*index].gone.get())
            .collect();
        for index in released {
            bays[index].bad.set(false);
            let heir = self.dice.below(bays.len() as u64) as usize;
            note!(self, "instead of device {index}, device {heir} is bad now");
            bays[heir].bad.set(true);
        }
    }

    /// Drops a store at rest.
    pub(crate) fn close(&self, store: Store<SimDisk>) {
        drop(store);
        self.end();
    }
}
