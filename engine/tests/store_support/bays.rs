//! The devices of a history, each in its bay: what was done to it, and what that means for what it holds.
//!
//! Only bad devices come to harm; good ones forget what was not flushed, stall and delay, as any device may.

use super::model::Devices;
use super::plan::Plan;
use farside::store::{Candidate, DeviceState};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{NodeId, SiteId};
use farside_codec::limits::BLOCK_BYTES;
use farside_io::sim::histories::Dice;
use farside_io::sim::{Fault, Operation, SimDisk, SimFaults};
use std::cell::{Cell, RefCell};
use std::time::Duration;

pub(crate) const SITE: SiteId = SiteId([1; 16]);
pub(crate) const NODE: NodeId = NodeId(1);

/// What stands in a device's place when a store opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    Here,
    Missing,
    /// A device of another site.
    Foreign,
    /// The device, and a copy of it further down the list.
    Twice,
}

pub(crate) struct Bay {
    disk: RefCell<SimDisk>,
    /// A copy taken earlier.
    pub(crate) old_copy: RefCell<Option<SimDisk>>,
    pub(crate) seat: Cell<Seat>,
    pub(crate) bad: Cell<bool>,
    /// It was made smaller or killed, for ever.
    pub(crate) gone: Cell<bool>,
    /// It lied or was damaged since the store was last opened: whatever it holds may be lost.
    lied: Cell<bool>,
    /// It lies from now on, at some rate.
    lying: Cell<bool>,
    /// Faults that were planned, each with the count of its operation at which it strikes.
    planned: RefCell<Vec<(Operation, u64, Fault)>>,
    /// Writes or flushes fail at some rate.
    failing: Cell<bool>,
    /// Reads fail or flip at some rate.
    misreads: Cell<bool>,
    /// What was written up to here may be lost.
    harmed_until: Cell<u64>,
    /// It was told to be full since the store was opened.
    pub(crate) told_full: Cell<bool>,
    /// It was told to fail since the store was opened.
    pub(crate) told_to_fail: Cell<bool>,
    /// When it was last seen to work.
    worked: Cell<u64>,
    /// How the store found it.
    pub(crate) state: Cell<DeviceState>,
}

impl Bay {
    pub(crate) fn new(plan: &Plan, index: usize, dice: &Dice) -> Self {
        Self {
            disk: RefCell::new(SimDisk::new(plan.device_bytes(), dice.seed())),
            old_copy: RefCell::default(),
            seat: Cell::new(Seat::Here),
            bad: Cell::new(plan.bad.contains(&index)),
            gone: Cell::new(false),
            lied: Cell::new(false),
            lying: Cell::new(false),
            planned: RefCell::default(),
            failing: Cell::new(false),
            misreads: Cell::new(false),
            harmed_until: Cell::new(0),
            told_full: Cell::new(false),
            told_to_fail: Cell::new(false),
            worked: Cell::new(0),
            state: Cell::new(DeviceState::Ok),
        }
    }

    pub(crate) fn disk(&self) -> SimDisk {
        self.disk.borrow().clone()
    }

    /// Whether what it held at `since` may be lost.
    fn is_harmed(&self, since: u64) -> bool {
        self.lied.get() || self.misreads.get() || self.harmed_until.get() >= since
    }

    /// A store is about to read the device: what comes of planned faults from now on is new.
    pub(crate) fn opening(&self) {
        self.told_full.set(false);
        // One whose segments can't be read is given up as well.
        self.told_to_fail.set(self.failing.get() || self.misreads.get());
        let disk = self.disk();
        let count = self.planned.borrow().len() as u64;
        // Of several that are due at once all but the first are put off.
        self.planned.borrow_mut().retain(|(operation, due, _)| begun(&disk, *operation) < *due + count);
        let planned = self.planned.borrow().clone();
        planned.into_iter().for_each(|(operation, _, fault)| self.expect(operation, fault));
    }

    /// The store has read the device anew, so that later writes stand on solid ground.
    pub(crate) fn opened(&self, now: u64, state: DeviceState) {
        if self.lied.get() {
            self.harmed_until.set(now);
        }
        let lies_to_come = self.planned.borrow().iter().any(|(operation, _, fault)| is_lie(*operation, *fault));
        self.lied.set(self.lying.get() || lies_to_come);
        self.state.set(state);
    }

    /// The store says how it is.
    pub(crate) fn seen(&self, now: u64, state: DeviceState) {
        self.state.set(state);
        if state == DeviceState::Ok {
            self.worked.set(now);
        }
    }

    /// Bytes of it are damaged, or it is another one.
    pub(crate) fn harm(&self) {
        self.lied.set(true);
    }

    pub(crate) fn set_rates(&self, rates: SimFaults) {
        let lying = rates.write_losses_ppm + rates.write_misdirects_ppm + rates.write_flips_ppm > 0;
        self.lying.set(lying);
        self.lied.set(self.lied.get() || lying);
        // A read that flips twice in a row drops a fragment until the next start.
        let misreads = rates.read_failures_ppm + rates.read_flips_ppm > 0;
        self.lied.set(self.lied.get() || self.misreads.get());
        self.misreads.set(misreads);
        self.failing.set(rates.write_failures_ppm + rates.sync_failures_ppm > 0);
        self.told_to_fail.set(self.told_to_fail.get() || self.failing.get());
        self.disk().set_faults(rates);
    }

    /// Plans one fault.
    pub(crate) fn inject(&self, operation: Operation, after: u64, fault: Fault) {
        self.planned.borrow_mut().push((operation, begun(&self.disk(), operation) + after + 1, fault));
        self.expect(operation, fault);
        self.disk().inject(operation, after, fault);
    }

    /// Notes what a planned fault may do. What it does not surely keep counts as harmed.
    fn expect(&self, operation: Operation, fault: Fault) {
        let fails = matches!(fault, Fault::Fail { .. } | Fault::Full) && operation != Operation::Read;
        self.told_to_fail
            .set(self.told_to_fail.get() || fails && (fault != Fault::Full || operation == Operation::Sync));
        self.told_full.set(self.told_full.get() || fails && fault == Fault::Full);
        self.lied.set(self.lied.get() || is_lie(operation, fault));
    }

    /// Takes back every fault that has not struck.
    pub(crate) fn calm(&self) {
        self.set_rates(SimFaults::default());
        self.planned.borrow_mut().clear();
        self.disk().clear_faults();
    }

    /// Whether faults may still come from it.
    pub(crate) fn is_calm(&self) -> bool {
        let quiet = !self.lied.get() && !self.lying.get() && !self.failing.get() && !self.misreads.get();
        quiet && self.planned.borrow().is_empty() && self.state.get() == DeviceState::Ok
    }

    /// The power is cut, or the process killed.
    pub(crate) fn restart(&self, power_cut: bool) {
        let next = if power_cut { self.disk().crash() } else { self.disk().kill() };
        *self.disk.borrow_mut() = next;
        if let Some(copy) = self.old_copy.borrow_mut().as_mut() {
            *copy = copy.crash();
        }
    }

    /// Puts the old copy in the device's place, and keeps the device as the next old copy.
    pub(crate) fn swap(&self) -> bool {
        let Some(copy) = self.old_copy.borrow_mut().take() else { return false };
        let before = self.disk.replace(copy);
        // Plans and rates are the old device's, and it forgets them.
        before.clear_faults();
        self.planned.borrow_mut().clear();
        self.set_rates(SimFaults::default());
        *self.old_copy.borrow_mut() = Some(before);
        self.harm();
        true
    }

    /// Kills the device.
    pub(crate) fn kill_forever(&self) {
        self.disk().fail_forever();
        self.gone.set(true);
    }

    /// A flip of stored bits, anywhere or at a place where little is written and much depends on.
    pub(crate) fn flip(&self, plan: &Plan, dice: &Dice) {
        let (disk, block) = (self.disk(), BLOCK_BYTES as u64);
        let zone = (64 << 10) + plan.wal_bytes;
        let segment = zone + dice.below(plan.segments) * u64::from(plan.segment_bytes);
        let end = segment + u64::from(plan.segment_bytes);
        let (range, bits) = match dice.below(6) {
            _ if end > disk.len_bytes_now() => return,
            0 => (0..64 << 10, 1),
            1 => (dice.pick(&[0, 32 << 10])..(32 << 10) + 512, 2),
            2 => (segment..segment + 128, 1),
            3 => (end - block..end - block + 128, 1),
            4 => (segment + block..end, dice.between(1, 12) as u32),
            _ => (0..disk.len_bytes_now(), dice.between(1, 40) as u32),
        };
        disk.flip(range, bits);
        self.harm();
    }
}

/// Operations of a kind that a device has begun.
fn begun(disk: &SimDisk, operation: Operation) -> u64 {
    let counters = disk.counters();
    match operation {
        Operation::Read => counters.reads,
        Operation::Write => counters.writes,
        Operation::Sync => counters.syncs,
    }
}

/// Whether what the device holds after the fault may not be what it was asked to hold.
fn is_lie(operation: Operation, fault: Fault) -> bool {
    match fault {
        Fault::Stall | Fault::Delay(_) => false,
        Fault::Fail { .. } | Fault::Full => operation == Operation::Read,
        Fault::Misdirect { .. } | Fault::Lose | Fault::Flip { .. } => true,
    }
}

/// Bytes of a simulated device, without the trait in scope everywhere.
trait Length {
    fn len_bytes_now(&self) -> u64;
}

impl Length for SimDisk {
    fn len_bytes_now(&self) -> u64 {
        farside_io::disk::Disk::len_bytes(self)
    }
}

/// All bays of a history.
pub(crate) struct Bays {
    pub(crate) bays: Vec<Bay>,
    foreign: SimDisk,
}

impl Bays {
    pub(crate) fn new(plan: &Plan, dice: &Dice) -> Self {
        let bays = (0..plan.devices).map(|index| Bay::new(plan, index, dice)).collect();
        Self { bays, foreign: SimDisk::new(2 << 20, dice.seed()) }
    }

    /// Formats the devices, and one of another site.
    pub(crate) async fn format(&self, plan: &Plan, pool: &farside_io::pool::Pool, dice: &Dice) {
        let mut options = farside::store::FormatOptions {
            site: SITE,
            node: NODE,
            shards: plan.shards,
            geometry: plan.geometry,
            wal_bytes: plan.wal_bytes,
            segment_bytes: Some(plan.segment_bytes),
        };
        let entropy = farside_io::entropy::SeededEntropy::new(dice.seed());
        let disks: Vec<SimDisk> = self.bays.iter().map(Bay::disk).collect();
        farside::store::format_devices(pool, &disks, &options, &entropy).await.expect("devices to format");
        options = farside::store::FormatOptions {
            site: SiteId([2; 16]),
            shards: 1,
            wal_bytes: 0,
            geometry: Geometry::parse("1+0").expect("a geometry"),
            segment_bytes: Some(64 << 10),
            ..options
        };
        let foreign = std::slice::from_ref(&self.foreign);
        farside::store::format_devices(pool, foreign, &options, &entropy).await.expect("a device to format");
    }

    /// What the configuration names, in the order of the bays or in another one.
    pub(crate) fn candidates(&self, dice: &Dice) -> Vec<Candidate<SimDisk>> {
        let mut named = Vec::new();
        let mut copies = Vec::new();
        for (index, bay) in self.bays.iter().enumerate() {
            let label = format!("bay {index}");
            match bay.seat.get() {
                Seat::Here => named.push(Candidate { label, disk: Some(bay.disk()) }),
                Seat::Missing if dice.percent(50) => {}
                Seat::Missing => named.push(Candidate { label, disk: None }),
                Seat::Foreign => {
                    let foreign = self.foreign.duplicate(dice.seed());
                    named.push(Candidate { label, disk: Some(foreign) });
                }
                Seat::Twice => {
                    copies.push(Candidate {
                        label: format!("copy of bay {index}"),
                        disk: Some(bay.disk().duplicate(dice.seed())),
                    });
                    named.push(Candidate { label, disk: Some(bay.disk()) });
                }
            }
        }
        if dice.percent(20) {
            for at in (1..named.len()).rev() {
                named.swap(at, dice.below(at as u64 + 1) as usize);
            }
        }
        named.extend(copies);
        named
    }

    /// Devices that the store knows not to work, and so counted in no receipt.
    pub(crate) fn known_out(&self) -> Devices {
        self.set_of(|bay| bay.state.get() != DeviceState::Ok)
    }

    /// Devices that can't be used now, whatever they hold.
    pub(crate) fn out(&self) -> Devices {
        let absent = |bay: &Bay| matches!(bay.seat.get(), Seat::Missing | Seat::Foreign);
        // A flush that fails puts a device out of use before the store has heard of it.
        self.known_out() | self.set_of(|bay| bay.gone.get() || bay.told_to_fail.get() || absent(bay))
    }

    /// Devices that worked after `since`, and so may hold what was written then.
    pub(crate) fn worked_after(&self, since: u64) -> Devices {
        self.set_of(|bay| bay.worked.get() >= since)
    }

    /// How many devices work and were not told to fail.
    pub(crate) fn sound(&self) -> usize {
        self.bays.len() - (self.out().count_ones() as usize)
    }

    /// Devices that a chunk written from `since` on must be able to do without.
    pub(crate) fn lost(&self, since: u64) -> Devices {
        self.out() | self.set_of(|bay| bay.is_harmed(since))
    }

    fn set_of(&self, belongs: impl Fn(&Bay) -> bool) -> Devices {
        let members = self.bays.iter().enumerate().filter(|(_, bay)| belongs(bay));
        members.fold(0, |set, (index, _)| set | 1 << index)
    }

    pub(crate) fn bad(&self) -> Vec<usize> {
        (0..self.bays.len()).filter(|index| self.bays[*index].bad.get()).collect()
    }
}

/// Rates of faults for a while: of one kind, so that every kind has histories to itself, or of all.
pub(crate) fn draw_rates(dice: &Dice, extra_yields: u32) -> SimFaults {
    let mut rates = SimFaults { max_extra_yields: extra_yields, ..SimFaults::default() };
    let ppm = dice.pick(&[20_000, 100_000, 400_000, 1_000_000]);
    match dice.below(8) {
        0 => rates.read_failures_ppm = ppm,
        1 => rates.read_flips_ppm = ppm,
        2 => rates.write_failures_ppm = ppm / 4,
        3 => rates.write_losses_ppm = ppm,
        4 => rates.write_misdirects_ppm = ppm,
        5 => rates.write_flips_ppm = ppm,
        6 => rates.sync_failures_ppm = ppm / 4,
        _ => {
            let few = ppm / 20;
            rates.read_failures_ppm = few;
            rates.read_flips_ppm = few;
            rates.write_failures_ppm = few / 8;
            rates.write_losses_ppm = few;
            rates.write_misdirects_ppm = few;
            rates.write_flips_ppm = few;
            rates.sync_failures_ppm = few / 8;
        }
    }
    rates
}

/// One fault for one operation.
pub(crate) fn draw_fault(dice: &Dice, device_bytes: u64) -> (Operation, Fault) {
    let fail = Fault::Fail { errno: dice.pick(&[libc::EIO, libc::EIO, libc::EROFS]) };
    let misdirect = Fault::Misdirect { to: dice.below(device_bytes) };
    let flip = Fault::Flip { bits: dice.between(1, 4) as u32 };
    dice.pick(&[
        (Operation::Read, fail),
        (Operation::Read, misdirect),
        (Operation::Read, flip),
        (Operation::Read, Fault::Lose),
        (Operation::Write, fail),
        (Operation::Write, Fault::Full),
        (Operation::Write, misdirect),
        (Operation::Write, Fault::Lose),
        (Operation::Write, flip),
        (Operation::Sync, fail),
        (Operation::Sync, Fault::Full),
        (Operation::Sync, Fault::Lose),
    ])
}

/// What any device may do: wait.
pub(crate) fn draw_wait(dice: &Dice) -> (Operation, Fault) {
    let operation = dice.pick(&[Operation::Read, Operation::Write, Operation::Sync]);
    (operation, Fault::Delay(Duration::from_millis(dice.between(1, 400))))
}
