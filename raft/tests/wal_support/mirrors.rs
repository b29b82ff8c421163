//! The mirrors of a history. One of those that hold everything is kept good in every life; anything may come to the
//! others.

use farside_codec::frame::HEADER_BYTES;
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::message::kind;
use farside_codec::record::wal::BatchHead;
use farside_codec::{Field, FrameHeader, Reader};
use farside_io::sim::histories::Dice;
use farside_io::sim::{Fault, Operation, SimDisk, SimFaults};
use farside_raft::limits::MIN_REGION_BYTES;
use farside_raft::wal::WalMirror;

/// The region begins here, so that offsets are not all alike.
const OFFSET: u64 = 64 << 10;

pub(crate) struct Mirror {
    pub(crate) disk: SimDisk,
    /// A copy taken earlier.
    old_copy: Option<SimDisk>,
    /// It holds everything that was flushed.
    pub(crate) in_sync: bool,
    pub(crate) missing: bool,
    /// Something was or will be done to it in this life.
    pub(crate) harmed: bool,
}

/// A batch on a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) number: u64,
    offset: u64,
    bytes: u64,
    /// From here on batches count, as far as this one knows.
    first: u64,
    durable: u64,
}

impl Mirror {
    fn new(dice: &Dice) -> Self {
        let disk = SimDisk::new(OFFSET + MIN_REGION_BYTES, dice.seed());
        Self { disk, old_copy: None, in_sync: true, missing: false, harmed: false }
    }

    fn harm(&mut self, dice: &Dice) {
        self.harmed = true;
        match dice.below(10) {
            0..=2 => self.missing = true,
            3..=4 => {
                if let Some(copy) = self.old_copy.take() {
                    self.disk.clear_faults();
                    self.old_copy = Some(std::mem::replace(&mut self.disk, copy));
                }
            }
            5 => drop(self.disk.flip(0..OFFSET + MIN_REGION_BYTES, 2000)),
            6..=7 => self.disk.set_faults(draw_rates(dice)),
            _ => {
                for _ in 0..dice.between(1, 3) {
                    let (operation, fault) = draw_fault(dice);
                    self.disk.inject(operation, dice.below(12), fault);
                }
            }
        }
    }

    /// Every intact batch on the device, as far as it is written.
    pub(crate) fn batches(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let region = self.disk.live(OFFSET..OFFSET + MIN_REGION_BYTES);
        for offset in (0..region.len()).step_by(BLOCK_BYTES) {
            let here = &region[offset..];
            let Ok(header) = FrameHeader::decode(here) else { continue };
            let bytes = HEADER_BYTES + header.length();
            let payload = here.get(HEADER_BYTES..bytes).filter(|payload| header.check_payload(payload).is_ok());
            let (true, Some(payload)) = (header.kind() == kind::WAL_BATCH, payload) else { continue };
            let Ok(head) = BatchHead::decode(&mut Reader::new(bytes::Bytes::copy_from_slice(payload))) else {
                continue;
            };
            let first = if head.checkpoint_ends { head.checkpoint } else { head.tail };
            let is_part = head.checkpoint > 0 && !head.checkpoint_ends;
            // Of a checkpoint that did not end nothing is needed.
            let durable = if is_part { head.checkpoint - 1 } else { head.durable };
            let number = header.correlation();
            found.push(Found { number, offset: offset as u64, bytes: bytes as u64, first, durable });
        }
        found
    }

    fn flip(&self, batch: &Found, dice: &Dice) {
        let at = OFFSET + batch.offset + dice.below(batch.bytes);
        self.disk.flip(at..at + 1, 1);
    }
}

/// What lay on each mirror, by its index.
type Saved = Vec<(usize, Vec<u8>)>;

pub(crate) struct Mirrors(pub(crate) Vec<Mirror>);

impl Mirrors {
    pub(crate) fn new(dice: &Dice) -> Self {
        let count = dice.pick(&[1, 2, 2, 2, 3, 3]);
        Self((0..count).map(|_| Mirror::new(dice)).collect())
    }

    /// What the log is opened with.
    pub(crate) fn present(&self) -> Vec<WalMirror<SimDisk>> {
        let present = self.0.iter().filter(|mirror| !mirror.missing);
        present
            .map(|mirror| WalMirror {
                device: farside_codec::ids::DeviceId::default(),
                disk: mirror.disk.clone(),
                offset: OFFSET,
                bytes: MIN_REGION_BYTES,
            })
            .collect()
    }

    /// Chooses which mirror stays good in the next life, and what comes to the others.
    pub(crate) fn draw_fates(&mut self, dice: &Dice, harm_percent: u64) {
        let good: Vec<usize> = (0..self.0.len()).filter(|index| self.0[*index].in_sync).collect();
        let keeper = dice.pick(&good);
        for (index, mirror) in self.0.iter_mut().enumerate() {
            mirror.missing = false;
            // Now and then what was planned for the last life strikes in this one.
            mirror.harmed &= index != keeper && dice.percent(30);
            if !mirror.harmed {
                mirror.disk.clear_faults();
            }
            if dice.percent(15) {
                mirror.old_copy = Some(mirror.disk.duplicate(dice.seed()));
            }
            if index != keeper && dice.percent(harm_percent) {
                mirror.harm(dice);
                mirror.in_sync = false;
            }
        }
    }

    /// The log was opened: mirrors to which nothing came hold everything now.
    pub(crate) fn opened(&mut self) {
        self.0.iter_mut().for_each(|mirror| mirror.in_sync |= !mirror.harmed && !mirror.missing);
    }

    /// The power goes, or only the process, or either, device by device.
    pub(crate) fn restart(&mut self, dice: &Dice) {
        let cut_percent = dice.pick(&[100, 100, 100, 0, 0, 50]);
        for mirror in &mut self.0 {
            mirror.disk = if dice.percent(cut_percent) { mirror.disk.crash() } else { mirror.disk.kill() };
            mirror.in_sync &= !mirror.harmed && !mirror.missing;
        }
    }

    /// Damages one batch below the durable watermark wherever it lies. Answers which; `None` where there is none.
    pub(crate) fn damage_everywhere(&self, dice: &Dice) -> Option<(u64, Saved)> {
        let all: Vec<Vec<Found>> = self.0.iter().map(Mirror::batches).collect();
        let newest = all.iter().flatten().max_by_key(|batch| batch.number)?;
        // The newest batch says what was durable when it was written; any may have ended a checkpoint.
        let first = all.iter().flatten().map(|batch| batch.first).max()?;
        let below: Vec<u64> = (first..=newest.durable).collect();
        let victim = if below.is_empty() { return None } else { dice.pick(&below) };
        let saved =
            self.0.iter().map(|mirror| mirror.disk.live(OFFSET..OFFSET + MIN_REGION_BYTES)).enumerate().collect();
        for (mirror, batches) in self.0.iter().zip(&all) {
            batches.iter().filter(|batch| batch.number == victim).for_each(|batch| mirror.flip(batch, dice));
        }
        Some((victim, saved))
    }

    /// Takes the damage back.
    pub(crate) fn mend(&self, saved: &Saved) {
        for (index, bytes) in saved {
            let disk = &self.0[*index].disk;
            // Only what differs, so that empty parts stay empty.
            for (block, old) in bytes.chunks(BLOCK_BYTES).enumerate() {
                let at = OFFSET + (block * BLOCK_BYTES) as u64;
                if disk.live(at..at + BLOCK_BYTES as u64) != old {
                    disk.overwrite(at, old);
                }
            }
        }
    }
}

fn draw_rates(dice: &Dice) -> SimFaults {
    let mut rates = SimFaults::default();
    let ppm = dice.pick(&[20_000, 100_000, 400_000, 1_000_000]);
    match dice.below(7) {
        0 => rates.read_failures_ppm = ppm,
        1 => rates.read_flips_ppm = ppm,
        2 => rates.write_failures_ppm = ppm / 4,
        3 => rates.write_losses_ppm = ppm,
        4 => rates.write_misdirects_ppm = ppm,
        5 => rates.write_flips_ppm = ppm,
        _ => rates.sync_failures_ppm = ppm / 4,
    }
    rates
}

fn draw_fault(dice: &Dice) -> (Operation, Fault) {
    let fail = Fault::Fail { errno: 5 };
    let misdirect = Fault::Misdirect { to: dice.below(OFFSET + (4 << 20)) };
    let flip = Fault::Flip { bits: 2 };
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
        (Operation::Sync, Fault::Lose),
    ])
}
