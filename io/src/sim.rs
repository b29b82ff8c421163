//! A device in memory that does to its users what devices do: forgets what was not flushed, tears, flips, misdirects,
//! fails and stalls, all from one seed.
//!
//! Invariants: what a returned [`Disk::sync`] covers survives [`SimDisk::crash`], unless a test has planned otherwise;
//! nothing else is promised. A write that was not flushed is, at a power cut, kept, dropped or torn on its own, in no
//! order. Handles from before a crash or kill answer [`DiskError::Failed`]. Operations yield a random number of times,
//! so that they overtake one another as they do in a drive's queue. The same seed and the same calls give the same
//! bytes. Deliberately absent: a notion of speed, but for [`Fault::Delay`] and
//! [`SimDisk::slow_down`].

mod faults;
pub mod histories;
mod media;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::disk::{Disk, DiskError, check_range};
use crate::entropy::SeededEntropy;
use crate::limits::PAGE_BYTES;
use crate::pool::{Buffer, Slice};
pub use faults::{Fault, Operation, SimFaults};
use media::{Media, Write, below};

/// What a failed read leaves in the buffer, so that nobody takes it for data.
const SCRAMBLED_BYTE: u8 = 0xA5;

/// What a device was asked so far, over all its incarnations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimCounters {
    /// Reads begun.
    pub reads: u64,
    /// Writes begun.
    pub writes: u64,
    /// Flushes begun.
    pub syncs: u64,
}

/// A handle on a simulated device. Clones share it; [`SimDisk::crash`] and [`SimDisk::kill`] retire them all and give
/// a new one, as a restart does.
#[derive(Clone)]
pub struct SimDisk {
    device: Rc<Device>,
    incarnation: u64,
}

struct Device {
    random: SeededEntropy,
    media: RefCell<Media>,
    plan: RefCell<faults::Plan>,
    counters: Cell<SimCounters>,
    incarnation: Cell<u64>,
    /// A flush failed in this incarnation.
    poisoned: Cell<bool>,
    /// The device is dead in every incarnation.
    dead: Cell<bool>,
    stalled: Cell<bool>,
    /// Every operation takes up to this long.
    slow: Cell<Duration>,
    /// How often stalled operations were released.
    releases: Cell<u64>,
    moved: Notify,
}

impl SimDisk {
    /// A device of `bytes` (a multiple of 4 KiB), all zeroes, whose every choice follows from `seed`.
    pub fn new(bytes: u64, seed: u64) -> Self {
        assert!(bytes.is_multiple_of(PAGE_BYTES as u64), "a device is a whole number of 4 KiB blocks");
        Self::with_media(Media::new(bytes), seed)
    }

    fn with_media(media: Media, seed: u64) -> Self {
        let device = Device {
            random: SeededEntropy::new(seed),
            media: RefCell::new(media),
            plan: RefCell::default(),
            counters: Cell::default(),
            incarnation: Cell::new(0),
            poisoned: Cell::new(false),
            dead: Cell::new(false),
            stalled: Cell::new(false),
            slow: Cell::new(Duration::ZERO),
            releases: Cell::new(0),
            moved: Notify::new(),
        };
        Self { device: Rc::new(device), incarnation: 0 }
    }

    /// Sets how often operations go wrong on their own.
    pub fn set_faults(&self, rates: SimFaults) {
        self.device.plan.borrow_mut().rates = rates;
    }

    /// Plans a fault for one operation: the next of its kind where `after` is 0, else that many later.
    pub fn inject(&self, operation: Operation, after: u64, fault: Fault) {
        self.device.plan.borrow_mut().add(operation, after, fault);
    }

    /// Takes back every fault that was planned and has not struck, and every rate.
    pub fn clear_faults(&self) {
        *self.device.plan.borrow_mut() = faults::Plan::default();
    }

    /// Holds every operation, begun or to come, until [`SimDisk::release`].
    pub fn stall(&self) {
        self.device.stalled.set(true);
    }

    /// Lets every held operation go on.
    pub fn release(&self) {
        self.device.stalled.set(false);
        self.device.releases.set(self.device.releases.get() + 1);
        self.device.moved.notify_waiters();
    }

    /// Makes every operation take up to `longest`, in tokio's time, in every incarnation.
    pub fn slow_down(&self, longest: Duration) {
        self.device.slow.set(longest);
    }

    /// Cuts the power and gives the device as it comes back: unflushed writes are kept, dropped or torn.
    pub fn crash(&self) -> Self {
        self.device.media.borrow_mut().cut_power(&self.device.random);
        self.next_incarnation()
    }

    /// Ends the process that uses the device, not the machine: what was written stays, what was on its way may not.
    pub fn kill(&self) -> Self {
        self.device.media.borrow_mut().lose_process(&self.device.random);
        self.next_incarnation()
    }

    fn next_incarnation(&self) -> Self {
        let incarnation = self.device.incarnation.get() + 1;
        self.device.incarnation.set(incarnation);
        self.device.poisoned.set(false);
        self.device.stalled.set(false);
        self.device.moved.notify_waiters();
        Self { device: self.device.clone(), incarnation }
    }

    /// Flips random bits of what is stored in `range`, and answers where, as (offset, bit).
    pub fn flip(&self, range: Range<u64>, bits: u32) -> Vec<(u64, u8)> {
        let mut flipped = Vec::new();
        for _ in 0..bits {
            let offset = range.start + below(&self.device.random, range.end - range.start);
            let bit = below(&self.device.random, 8) as u8;
            let byte = self.live(offset..offset + 1)[0] ^ (1 << bit);
            self.overwrite(offset, &[byte]);
            flipped.push((offset, bit));
        }
        flipped
    }

    /// Changes stored bytes behind the device's back, durably and at any offset.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.len_bytes(), "the bytes lie on the device");
        self.device.media.borrow_mut().overwrite(offset, bytes);
    }

    /// What a read would see now.
    pub fn live(&self, range: Range<u64>) -> Vec<u8> {
        let mut out = vec![0; (range.end - range.start) as usize];
        self.device.media.borrow().read_live(range.start, &mut out);
        out
    }

    /// What is sure to survive a power cut now.
    pub fn durable(&self, range: Range<u64>) -> Vec<u8> {
        let mut out = vec![0; (range.end - range.start) as usize];
        self.device.media.borrow().read_durable(range.start, &mut out);
        out
    }

    /// Writes that a power cut could still undo.
    pub fn unsynced_writes(&self) -> usize {
        self.device.media.borrow().unsynced()
    }

    /// Cuts the device's end off, so that it has `bytes` (a multiple of 4 KiB) from now on.
    pub fn shrink(&self, bytes: u64) {
        assert!(bytes.is_multiple_of(PAGE_BYTES as u64), "a device is a whole number of 4 KiB blocks");
        self.device.media.borrow_mut().shrink(bytes);
    }

    /// Kills the device: every operation fails from now on, also after a restart.
    pub fn fail_forever(&self) {
        self.device.dead.set(true);
        self.release();
    }

    /// A second device with the same bytes, as a careless copy makes one.
    pub fn duplicate(&self, seed: u64) -> Self {
        Self::with_media(self.device.media.borrow().clone(), seed)
    }

    /// What the device was asked so far.
    pub fn counters(&self) -> SimCounters {
        self.device.counters.get()
    }

    /// What every operation asks first, and again before it takes effect.
    fn check_usable(&self, operation: Operation, offset: u64) -> Result<(), DiskError> {
        if self.incarnation != self.device.incarnation.get() || self.device.poisoned.get() {
            return Err(DiskError::Failed);
        }
        if self.device.dead.get() {
            self.device.poisoned.set(operation == Operation::Sync);
            return Err(DiskError::Io { operation: operation.name(), offset, errno: libc::EIO });
        }
        Ok(())
    }

    fn begin(&self, operation: Operation, offset: u64, length: usize) -> Result<Option<Fault>, DiskError> {
        self.check_usable(operation, offset)?;
        check_range(offset, length as u64, self.len_bytes())?;
        let mut counters = self.device.counters.get();
        match operation {
            Operation::Read => counters.reads += 1,
            Operation::Write => counters.writes += 1,
            Operation::Sync => counters.syncs += 1,
        }
        self.device.counters.set(counters);
        Ok(self.device.plan.borrow_mut().draw(operation, self.len_bytes(), &self.device.random))
    }

    /// Lets others run, and waits where the operation or the device is stalled.
    async fn pace(&self, operation: Operation, offset: u64, fault: Option<Fault>) -> Result<(), DiskError> {
        let held_at = (fault == Some(Fault::Stall)).then(|| self.device.releases.get());
        let most = u64::from(self.device.plan.borrow().rates.max_extra_yields);
        for _ in 0..1 + below(&self.device.random, most + 1) {
            tokio::task::yield_now().await;
        }
        let slow = self.device.slow.get();
        if !slow.is_zero() {
            tokio::time::sleep(slow.mul_f64(below(&self.device.random, 1001) as f64 / 1000.0)).await;
        }
        if let Some(Fault::Delay(time)) = fault {
            tokio::time::sleep(time).await;
        }
        loop {
            let moved = self.device.moved.notified();
            let held = self.device.stalled.get() || held_at == Some(self.device.releases.get());
            if !held || self.incarnation != self.device.incarnation.get() {
                return self.check_usable(operation, offset);
            }
            moved.await;
        }
    }

    /// Where a misdirected transfer goes: aligned, and within the device.
    fn redirected(&self, to: u64, length: usize) -> u64 {
        let last = self.len_bytes().saturating_sub(length as u64);
        to.min(last) / PAGE_BYTES as u64 * PAGE_BYTES as u64
    }

    fn flip_some(&self, data: &mut [u8], bits: u32) {
        for _ in 0..if data.is_empty() { 0 } else { bits } {
            let at = below(&self.device.random, data.len() as u64) as usize;
            data[at] ^= 1 << below(&self.device.random, 8);
        }
    }
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDisk").field("bytes", &self.len_bytes()).field("incarnation", &self.incarnation).finish()
    }
}

/// A write in flight. It lands when this is dropped, whether its caller still waits or not, as in a real queue.
struct Flight<'a> {
    disk: &'a SimDisk,
    number: u64,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if self.disk.incarnation == self.disk.device.incarnation.get() && !self.disk.device.dead.get() {
            self.disk.device.media.borrow_mut().land(self.number);
        }
    }
}

impl Disk for SimDisk {
    fn len_bytes(&self) -> u64 {
        self.device.media.borrow().bytes()
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> (Result<(), DiskError>, Buffer) {
        let fault = match self.begin(Operation::Read, offset, buffer.len()) {
            Ok(fault) => fault,
            Err(error) => return (Err(error), buffer),
        };
        if let Err(error) = self.pace(Operation::Read, offset, fault).await {
            return (Err(error), buffer);
        }
        // The device may have shrunk meanwhile.
        if let Err(error) = check_range(offset, buffer.len() as u64, self.len_bytes()) {
            return (Err(error), buffer);
        }
        let from = match fault {
            Some(Fault::Fail { errno }) => {
                buffer.fill(SCRAMBLED_BYTE);
                return (Err(DiskError::Io { operation: Operation::Read.name(), offset, errno }), buffer);
            }
            Some(Fault::Lose) => return (Ok(()), buffer),
            Some(Fault::Misdirect { to }) => self.redirected(to, buffer.len()),
            _ => offset,
        };
        self.device.media.borrow().read_live(from, &mut buffer);
        if let Some(Fault::Flip { bits }) = fault {
            self.flip_some(&mut buffer, bits);
        }
        (Ok(()), buffer)
    }

    async fn write(&self, offset: u64, data: Slice) -> Result<(), DiskError> {
        let fault = self.begin(Operation::Write, offset, data.len())?;
        let mut bytes = data.to_vec();
        let mut at = offset;
        match fault {
            Some(Fault::Misdirect { to }) => at = self.redirected(to, bytes.len()),
            Some(Fault::Flip { bits }) => self.flip_some(&mut bytes, bits),
            Some(Fault::Lose | Fault::Full) => bytes.clear(),
            _ => {}
        }
        let mut write = Write::new(at, bytes);
        if let Some(Fault::Fail { .. }) = fault {
            write.tear(&self.device.random);
        }
        let number = self.device.media.borrow_mut().submit(write);
        let flight = Flight { disk: self, number };
        self.pace(Operation::Write, offset, fault).await?;
        check_range(offset, data.len() as u64, self.len_bytes())?;
        drop(flight);
        match fault {
            Some(Fault::Fail { errno }) => Err(DiskError::Io { operation: Operation::Write.name(), offset, errno }),
            Some(Fault::Full) => Err(DiskError::Full),
            _ => Ok(()),
        }
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let fault = self.begin(Operation::Sync, 0, 0)?;
        let mark = self.device.media.borrow_mut().mark();
        self.pace(Operation::Sync, 0, fault).await?;
        match fault {
            Some(Fault::Fail { errno }) => {
                self.device.poisoned.set(true);
                Err(DiskError::Io { operation: Operation::Sync.name(), offset: 0, errno })
            }
            Some(Fault::Full) => {
                self.device.poisoned.set(true);
                Err(DiskError::Full)
            }
            Some(Fault::Lose) => Ok(()),
            _ => {
                self.device.media.borrow_mut().harden_before(mark);
                Ok(())
            }
        }
    }
}
