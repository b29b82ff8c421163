//! How one history is set up: geometry, devices and their size, which of them may come to harm, and how roughly.

use farside_codec::erasure::Geometry;
use farside_io::sim::histories::Dice;

/// What a history is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Only power cuts, kills and stalls: nothing may be missing, damaged or owed.
    Fair,
    /// Faults on as many devices as the geometry survives.
    Faulty,
    /// Devices so small that they are full most of the time; faults as in `Faulty`, or none.
    Crowded,
    /// Faults on more devices than that: chunks may be lost, but no read is ever wrong.
    Reckless,
}

/// The set-up of one history.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) mood: Mood,
    pub(crate) geometry: Geometry,
    pub(crate) devices: usize,
    /// Devices that a chunk survives whichever they are, when all of its fragments are placed.
    pub(crate) survivable: usize,
    pub(crate) segment_bytes: u32,
    pub(crate) segments: u64,
    pub(crate) wal_bytes: u64,
    pub(crate) shards: u16,
    /// Devices that may come to harm from the first life on.
    pub(crate) bad: Vec<usize>,
    pub(crate) lives: u64,
    /// Bursts of a life, at most.
    pub(crate) bursts: u64,
    /// Whether everything is deleted now and then, and lives end in the middle of many puts.
    pub(crate) clearing: bool,
    pub(crate) extra_yields: u32,
    /// All chunks have this length, so that what lands at a wrong place looks as if it belonged there.
    pub(crate) one_length: Option<usize>,
    /// Whether the buffer pool is so small that stripes and reads wait for one another.
    pub(crate) small_pool: bool,
}

const GEOMETRIES: [&str; 10] = ["1+0", "1+1", "2+1", "4+2", "3+2", "1+2", "2+2", "5+1", "2+0", "8+3"];

impl Plan {
    pub(crate) fn draw(dice: &Dice) -> Self {
        let mood = match dice.below(20) {
            0..=3 => Mood::Fair,
            4..=12 => Mood::Faulty,
            13..=16 => Mood::Crowded,
            _ => Mood::Reckless,
        };
        let geometry = Geometry::parse(dice.pick(&GEOMETRIES)).expect("a geometry");
        let total = geometry.total() as u64;
        let devices = match dice.below(10) {
            0..=1 => dice.between(1, total),
            2..=6 => total,
            _ => dice.between(total + 1, total + 2),
        } as usize;
        let most_per_device = geometry.total().div_ceil(devices);
        let survivable = geometry.parity() / most_per_device;
        let bad = match mood {
            Mood::Fair => 0,
            Mood::Faulty => survivable,
            Mood::Crowded => dice.below(survivable as u64 + 1) as usize,
            Mood::Reckless => dice.between(survivable as u64 + 1, devices as u64) as usize,
        };
        let clearing = dice.percent(35);
        // A few long lives, or many short ones, which leave segments that were cut off early.
        let (lives, bursts) = if dice.percent(if clearing { 40 } else { 80 }) {
            (dice.between(2, 5), 6)
        } else {
            (dice.between(6, 16), 2)
        };
        let crowded = mood == Mood::Crowded;
        let segment_bytes =
            if crowded { dice.pick(&[32, 48, 64]) } else { dice.pick(&[32, 64, 64, 128, 256, 512]) } << 10;
        Self {
            mood,
            geometry,
            devices,
            survivable,
            segment_bytes,
            segments: 3 + most_per_device as u64 + if crowded { dice.below(4) } else { dice.between(6, 20) },
            wal_bytes: dice.pick(&[0, 0, 64 << 10]),
            shards: dice.pick(&[1, 1, 1, 2]),
            bad: dice.sample(bad, devices),
            lives,
            bursts,
            clearing,
            extra_yields: dice.pick(&[0, 3, 3, 12]),
            one_length: dice.percent(25).then(|| dice.between(1, 20_000) as usize),
            small_pool: dice.percent(20),
        }
    }

    /// Bytes of each device.
    pub(crate) fn device_bytes(&self) -> u64 {
        let zone = (self.wal_bytes + self.segments * u64::from(self.segment_bytes)).next_multiple_of(64 << 10);
        (64 << 10) + zone * u64::from(self.shards)
    }
}
