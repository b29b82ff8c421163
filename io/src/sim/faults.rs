//! What can be made to go wrong with a simulated device: chosen faults for chosen operations, and rates.

use std::time::Duration;

use super::media::below;
use crate::entropy::SeededEntropy;
use crate::limits::MAX_PLANNED_FAULTS;

/// What a device is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`crate::disk::Disk::read`].
    Read,
    /// [`crate::disk::Disk::write`].
    Write,
    /// [`crate::disk::Disk::sync`].
    Sync,
}

impl Operation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "flush",
        }
    }
}

/// How one operation goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with this error number. A write leaves a random part of itself, a read scrambles the
    /// buffer, a flush puts the device out of use.
    Fail {
        /// The error number, as in errno(3).
        errno: i32,
    },
    /// A write finds the file system full and stores nothing.
    Full,
    /// The operation is answered as done, but meets the bytes at another offset.
    Misdirect {
        /// Where it goes, cut to the device and to 4 KiB.
        to: u64,
    },
    /// A write, or a flush, is answered as done and isn't. A read gives what the buffer held before.
    Lose,
    /// Bits of the transfer are flipped on the way: in the buffer by a read, for ever by a write.
    Flip {
        /// How many, at random places.
        bits: u32,
    },
    /// The operation waits for `SimDisk::release`.
    Stall,
    /// The operation takes this long, in tokio's time.
    Delay(Duration),
}

/// How often operations go wrong on their own, in one of a million, and how far they overtake one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimFaults {
    /// Reads that fail with EIO.
    pub read_failures_ppm: u32,
    /// Reads whose bytes are flipped on the way.
    pub read_flips_ppm: u32,
    /// Writes that fail with EIO and leave a part of themselves.
    pub write_failures_ppm: u32,
    /// Writes that are answered as done and never stored.
    pub write_losses_ppm: u32,
    /// Writes that land at another offset.
    pub write_misdirects_ppm: u32,
    /// Writes whose bytes are flipped on the way.
    pub write_flips_ppm: u32,
    /// Flushes that fail with EIO, after which the device is out of use.
    pub sync_failures_ppm: u32,
    /// Every operation yields to the executor between once and this many times more.
    pub max_extra_yields: u32,
}

impl Default for SimFaults {
    /// No fault, and a little overtaking.
    fn default() -> Self {
        Self {
            read_failures_ppm: 0,
            read_flips_ppm: 0,
            write_failures_ppm: 0,
            write_losses_ppm: 0,
            write_misdirects_ppm: 0,
            write_flips_ppm: 0,
            sync_failures_ppm: 0,
            max_extra_yields: 3,
        }
    }
}

struct Planned {
    operation: Operation,
    /// Operations of this kind that still go well before.
    after: u64,
    fault: Fault,
}

/// The faults of a device, chosen and drawn.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) rates: SimFaults,
    planned: Vec<Planned>,
}

impl Plan {
    pub(super) fn add(&mut self, operation: Operation, after: u64, fault: Fault) {
        assert!(self.planned.len() < MAX_PLANNED_FAULTS, "a scenario plans at most {MAX_PLANNED_FAULTS} faults");
        self.planned.push(Planned { operation, after, fault });
    }

    /// The fault of the operation that begins now. A chosen one comes before a drawn one.
    pub(super) fn draw(&mut self, operation: Operation, device_bytes: u64, random: &SeededEntropy) -> Option<Fault> {
        let mut due = None;
        for (index, planned) in self.planned.iter_mut().enumerate().filter(|(_, next)| next.operation == operation) {
            match planned.after.checked_sub(1) {
                Some(left) => planned.after = left,
                None => due = due.or(Some(index)),
            }
        }
        if let Some(index) = due {
            return Some(self.planned.remove(index).fault);
        }
        let hits = |ppm: u32| ppm > 0 && below(random, 1_000_000) < u64::from(ppm);
        let rates = &self.rates;
        let fail = Fault::Fail { errno: libc::EIO };
        let flip = Fault::Flip { bits: 1 + below(random, 3) as u32 };
        match operation {
            Operation::Read if hits(rates.read_failures_ppm) => Some(fail),
            Operation::Read if hits(rates.read_flips_ppm) => Some(flip),
            Operation::Write if hits(rates.write_failures_ppm) => Some(fail),
            Operation::Write if hits(rates.write_losses_ppm) => Some(Fault::Lose),
            Operation::Write if hits(rates.write_misdirects_ppm) => {
                Some(Fault::Misdirect { to: below(random, device_bytes) })
            }
            Operation::Write if hits(rates.write_flips_ppm) => Some(flip),
            Operation::Sync if hits(rates.sync_failures_ppm) => Some(fail),
            _ => None,
        }
    }
}
