//! The bytes of a simulated device: what a read sees, and what a power cut leaves.
//!
//! A write is first in flight, then landed (visible to reads), then durable. A power cut settles everything that is not
//! durable on its own: kept, dropped or torn, in any order, since a drive's cache promises none.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use crate::entropy::SeededEntropy;
use crate::limits::{MAX_UNSYNCED_WRITES, PAGE_BYTES, SECTOR_BYTES};

/// Sparse bytes: a block that was never written reads as zeroes. Copies share blocks until one of them changes, so
/// that power cuts and copies of whole devices are cheap.
#[derive(Clone, Default)]
struct Image {
    blocks: BTreeMap<u64, Block>,
}

type Block = Rc<[u8; PAGE_BYTES]>;

impl Image {
    fn get(&self, offset: u64, out: &mut [u8]) {
        for_blocks(offset, out.len(), |block, within, range| match self.blocks.get(&block) {
            Some(bytes) => out[range].copy_from_slice(&bytes[within]),
            None => out[range].fill(0),
        });
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        for_blocks(offset, data.len(), |block, within, range| {
            let bytes = self.blocks.entry(block).or_insert_with(|| Rc::new([0; PAGE_BYTES]));
            Rc::make_mut(bytes)[within].copy_from_slice(&data[range]);
        });
    }
}

/// Cuts a range at block boundaries: the block's number, the range within it, the range within the whole.
fn for_blocks(offset: u64, length: usize, mut visit: impl FnMut(u64, Range<usize>, Range<usize>)) {
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let start = (at % PAGE_BYTES as u64) as usize;
        let count = (PAGE_BYTES - start).min(length - done);
        visit(at / PAGE_BYTES as u64, start..start + count, done..done + count);
        done += count;
    }
}

/// A write on its way, and which parts of it arrive.
#[derive(Clone)]
pub(super) struct Write {
    offset: u64,
    data: Vec<u8>,
    arriving: Vec<Range<usize>>,
    /// Blocks that it covers, by their places in the data, once they were made: what reads see and what is durable share them.
    whole: BTreeMap<usize, Block>,
}

impl Write {
    pub(super) fn new(offset: u64, data: Vec<u8>) -> Self {
        let arriving = std::iter::once(0..data.len()).collect();
        Self { offset, data, arriving, whole: BTreeMap::new() }
    }

    /// Leaves a random part of the write: a prefix, or any of its sectors or blocks.
    pub(super) fn tear(&mut self, random: &SeededEntropy) {
        let unit = if below(random, 2) == 0 { SECTOR_BYTES } else { PAGE_BYTES };
        let count = self.data.len().div_ceil(unit);
        let whole = |index: usize| index * unit..((index + 1) * unit).min(self.data.len());
        self.arriving = match below(random, 3) {
            0 => (0..below(random, count as u64 + 1) as usize).map(whole).collect(),
            _ => (0..count).filter(|_| below(random, 2) == 0).map(whole).collect(),
        };
    }

    fn apply(&mut self, image: &mut Image, device_bytes: u64) {
        let Self { offset, data, arriving, whole } = self;
        for part in arriving {
            let at = *offset + part.start as u64;
            let room = usize::try_from(device_bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(part.len());
            for_blocks(at, room, |block, within, range| {
                let place = part.start + range.start;
                let bytes = &data[place..part.start + range.end];
                match <&[u8; PAGE_BYTES]>::try_from(bytes) {
                    Ok(bytes) => {
                        let shared = whole.entry(place).or_insert_with(|| Rc::new(*bytes));
                        image.blocks.insert(block, shared.clone());
                    }
                    Err(_) => image.put(block * PAGE_BYTES as u64 + within.start as u64, bytes),
                }
            });
        }
    }
}

/// A number below `bound`.
pub(super) fn below(random: &SeededEntropy, bound: u64) -> u64 {
    random.next_u64() % bound.max(1)
}

#[derive(Clone)]
pub(super) struct Media {
    bytes: u64,
    live: Image,
    durable: Image,
    in_flight: BTreeMap<u64, Write>,
    /// Landed and not durable, in the order of landing, each with its number.
    landed: VecDeque<(u64, Write)>,
    next_number: u64,
}

impl Media {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            live: Image::default(),
            durable: Image::default(),
            in_flight: BTreeMap::new(),
            landed: VecDeque::new(),
            next_number: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn unsynced(&self) -> usize {
        self.in_flight.len() + self.landed.len()
    }

    pub(super) fn read_live(&self, offset: u64, out: &mut [u8]) {
        self.live.get(offset, out);
    }

    pub(super) fn read_durable(&self, offset: u64, out: &mut [u8]) {
        self.durable.get(offset, out);
    }

    /// Puts a write in flight and answers its number.
    pub(super) fn submit(&mut self, write: Write) -> u64 {
        let number = self.number();
        self.in_flight.insert(number, write);
        number
    }

    /// Makes a write in flight visible.
    pub(super) fn land(&mut self, number: u64) {
        let Some(mut write) = self.in_flight.remove(&number) else { return };
        write.apply(&mut self.live, self.bytes);
        let landing = self.number();
        self.landed.push_back((landing, write));
        // A drive drains a full cache by itself.
        if self.landed.len() > MAX_UNSYNCED_WRITES {
            self.harden_before(self.landed[1].0);
        }
    }

    /// What has landed so far has a number below this mark.
    pub(super) fn mark(&mut self) -> u64 {
        self.number()
    }

    /// Makes durable what had landed when the mark was drawn.
    pub(super) fn harden_before(&mut self, mark: u64) {
        while let Some((number, mut write)) = self.landed.pop_front() {
            if number >= mark {
                self.landed.push_front((number, write));
                return;
            }
            write.apply(&mut self.durable, self.bytes);
        }
    }

    /// Settles everything that is not durable, each write on its own, and makes the outcome what reads see.
    pub(super) fn cut_power(&mut self, random: &SeededEntropy) {
        let mut unsettled: Vec<Write> = self.landed.drain(..).map(|(_, write)| write).collect();
        unsettled.extend(std::mem::take(&mut self.in_flight).into_values());
        for index in (1..unsettled.len()).rev() {
            unsettled.swap(index, below(random, index as u64 + 1) as usize);
        }
        // Each cut has a temper of its own: some lose nearly all, some nearly nothing.
        let kept_of_16 = [0, 2, 8, 14, 16][below(random, 5) as usize];
        for mut write in unsettled {
            let draw = below(random, 16);
            if draw == 0 || draw == 15 {
                write.tear(random);
            } else if draw >= kept_of_16 {
                continue;
            }
            write.apply(&mut self.durable, self.bytes);
        }
        self.live = self.durable.clone();
    }

    /// What the death of the process alone leaves: all that landed, and any of what was in flight.
    pub(super) fn lose_process(&mut self, random: &SeededEntropy) {
        let numbers: Vec<u64> = self.in_flight.keys().copied().collect();
        for number in numbers {
            match below(random, 2) {
                0 => self.land(number),
                _ => drop(self.in_flight.remove(&number)),
            }
        }
    }

    /// Changes bytes behind the device's back, in what reads see and in what is durable.
    pub(super) fn overwrite(&mut self, offset: u64, data: &[u8]) {
        self.live.put(offset, data);
        self.durable.put(offset, data);
        // What has not been written back would bring the old bytes again.
        let end = offset + data.len() as u64;
        for (_, write) in &mut self.landed {
            let from = offset.max(write.offset);
            let to = end.min(write.offset + write.data.len() as u64);
            if from < to {
                let source = (from - offset) as usize..(to - offset) as usize;
                write.whole.clear();
                write.data[(from - write.offset) as usize..(to - write.offset) as usize].copy_from_slice(&data[source]);
            }
        }
    }

    /// Cuts the device's end off.
    pub(super) fn shrink(&mut self, bytes: u64) {
        self.bytes = self.bytes.min(bytes);
        let first_gone = self.bytes.div_ceil(PAGE_BYTES as u64);
        self.live.blocks.split_off(&first_gone);
        self.durable.blocks.split_off(&first_gone);
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}
