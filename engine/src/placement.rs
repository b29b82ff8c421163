//! Which device gets which fragment of a chunk: weighted rendezvous hashing over failure domains, with inherited slots.
//!
//! A pure function of the chunk's id and the map, the same on every machine and for ever: version [`VERSION`], pinned by
//! golden vectors. docs/placement.md says it in words and shows what a change of the map moves.
//!
//! - **Draws.** Each device draws a number from the chunk's id and its own; the larger its capacity the better the draw
//!   (Thaler and Ravishankar 1998; the weighting is that of weighted random sampling, Efraimidis and Spirakis 2006). A
//!   stripe lies on the devices that draw best, as far as no failure domain gets more than its part.
//! - **Slots.** Who gets which fragment follows from the map's history. Whoever joins takes the slot of the one that it
//!   outdraws; whoever leaves gives its slot to the best of those without one. So a change moves the fragments that it
//!   must and no others: a ranking alone would shift the rest of the stripe along.

use farside_codec::ids::{ChunkId, DeviceId};
use std::cmp::Ordering;

/// The version of this function. It changes with every change of what it answers.
pub const VERSION: u16 = 1;

/// A device on the map. One that has left stays on it: what came after depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapDevice {
    /// Its id, which it draws by.
    pub device: DeviceId,
    /// The failure domain that it shares its fate with: a node, or a rack.
    pub domain: u32,
    /// Its capacity, in any unit that all share. A device without any is as good as none.
    pub weight: u64,
    /// Placement epoch in which it joined.
    pub joined: u64,
    /// Placement epoch from which on it takes nothing any more: it was drained, given up or lost.
    pub left: Option<u64>,
}

impl MapDevice {
    fn is_there(&self, epoch: u64) -> bool {
        self.weight > 0 && self.joined <= epoch && self.left.is_none_or(|left| left > epoch)
    }
}

/// How a device does in a draw. Greater is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// -log2 of a number above 0 and up to 1, times 2^32: exponentially distributed.
    length: u64,
    weight: u64,
    device: DeviceId,
}

impl Draw {
    /// What a device draws for a chunk; `None` without a weight.
    pub fn of(chunk: &ChunkId, device: &MapDevice) -> Option<Self> {
        let length = negative_log2(hash(chunk, device.device));
        (device.weight > 0).then_some(Self { length, weight: device.weight, device: device.device })
    }
}

impl Ord for Draw {
    fn cmp(&self, other: &Self) -> Ordering {
        // The shorter length by weight is the better one. 38 and 64 bits: nothing overflows.
        let (mine, theirs) =
            (u128::from(self.length) * u128::from(other.weight), u128::from(other.length) * u128::from(self.weight));
        theirs.cmp(&mine).then_with(|| self.device.cmp(&other.device))
    }
}

impl PartialOrd for Draw {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Fragments of one stripe that a failure domain may hold where there are so many of them.
pub fn most_per_domain(fragments: usize, domains: usize) -> usize {
    fragments.div_ceil(domains.max(1))
}

/// The device of each fragment of a stripe of `fragments`, by its place in `map`. `None`: there are too few devices. No
/// domain gets more than [`most_per_domain`] of the domains that are there, no device two. The order of `map` says nothing.
pub fn stripe(chunk: &ChunkId, fragments: usize, map: &[MapDevice]) -> Vec<Option<usize>> {
    let draws: Vec<Option<Draw>> = map.iter().map(|device| Draw::of(chunk, device)).collect();
    let mut epochs: Vec<u64> = map.iter().flat_map(|device| [Some(device.joined), device.left]).flatten().collect();
    epochs.sort_unstable();
    epochs.dedup();
    let mut stripe =
        Stripe { map, draws: &draws, slots: vec![None; fragments], most: 0, first: first_slot(chunk, fragments) };
    epochs.into_iter().for_each(|epoch| stripe.enter(epoch));
    stripe.slots
}

/// Where the slots of a stripe are filled from: it depends on the chunk, so that nobody holds nothing but parity.
fn first_slot(chunk: &ChunkId, fragments: usize) -> usize {
    (word(&chunk.0[24..]) % fragments.max(1) as u64) as usize
}

/// A stripe on its way through the map's history. At the end of each epoch it lies on the devices that draw best among
/// those that are there: the best basis of a matroid, kept by exchanges, so that it does not depend on the way.
struct Stripe<'a> {
    map: &'a [MapDevice],
    draws: &'a [Option<Draw>],
    slots: Vec<Option<usize>>,
    /// What a domain may hold.
    most: usize,
    first: usize,
}

impl Stripe<'_> {
    fn enter(&mut self, epoch: u64) {
        let there: Vec<usize> = (0..self.map.len()).filter(|at| self.map[*at].is_there(epoch)).collect();
        let mut domains: Vec<u32> = there.iter().map(|at| self.map[*at].domain).collect();
        domains.sort_unstable();
        domains.dedup();
        self.most = most_per_domain(self.slots.len(), domains.len());
        let map = self.map;
        self.vacate(|at| !map[at].is_there(epoch));
        // More domains share the stripe now: each gives up its worst.
        for domain in domains {
            while self.held_by(domain).count() > self.most {
                let worst = self.worst(|other| map[other].domain == domain);
                self.vacate(|at| Some(at) == worst);
            }
        }
        let (mut joined, older): (Vec<usize>, Vec<usize>) = there.into_iter().partition(|at| map[*at].joined == epoch);
        self.fill(&older);
        joined.sort_unstable_by_key(|at| map[*at].device);
        joined.into_iter().for_each(|at| self.join(at));
    }

    fn held_by(&self, domain: u32) -> impl Iterator<Item = usize> {
        self.slots.iter().flatten().copied().filter(move |at| self.map[*at].domain == domain)
    }

    fn worst(&self, among: impl Fn(usize) -> bool) -> Option<usize> {
        self.slots.iter().flatten().copied().filter(|at| among(*at)).min_by_key(|at| self.draws[*at])
    }

    fn vacate(&mut self, whose: impl Fn(usize) -> bool) {
        self.slots.iter_mut().filter(|slot| slot.is_some_and(&whose)).for_each(|slot| *slot = None);
    }

    /// The free slots, from the first one of this chunk on.
    fn free(&self) -> impl Iterator<Item = usize> + use<> {
        let (count, first) = (self.slots.len(), self.first);
        let free: Vec<usize> =
            (0..count).map(|number| (first + number) % count).filter(|slot| self.slots[*slot].is_none()).collect();
        free.into_iter()
    }

    /// Gives each free slot to the best who may take it.
    fn fill(&mut self, among: &[usize]) {
        for slot in self.free() {
            let may = |at: &&usize| {
                !self.slots.contains(&Some(**at)) && self.held_by(self.map[**at].domain).count() < self.most
            };
            self.slots[slot] = among.iter().filter(may).max_by_key(|at| self.draws[**at]).copied();
        }
    }

    /// Lets a device take a free slot, or that of the worst that it outdraws: of its own domain if that has its part.
    fn join(&mut self, at: usize) {
        let domain = self.map[at].domain;
        let own_only = self.held_by(domain).count() >= self.most;
        if let Some(slot) = self.free().next().filter(|_| !own_only) {
            self.slots[slot] = Some(at);
            return;
        }
        let worst = self.worst(|other| !own_only || self.map[other].domain == domain);
        if let Some(worst) = worst.filter(|worst| self.draws[*worst] < self.draws[at]) {
            self.slots.iter_mut().filter(|slot| **slot == Some(worst)).for_each(|slot| *slot = Some(at));
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// 64 bits of the chunk and the device: SplitMix64's output function over 128 bits of each.
fn hash(chunk: &ChunkId, device: DeviceId) -> u64 {
    let parts = [&chunk.0[..8], &chunk.0[8..16], &device.0[..8], &device.0[8..]];
    parts.into_iter().fold(0, |state, part| mix(state ^ word(part)))
}

/// SplitMix64's output function (Steele, Lea and Flood 2014).
pub(crate) fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// -log2((hash + 1) / 2^64) times 2^32, rounded down, at least 1. Whole numbers only: floating point differs between
/// machines. The fraction comes bit by bit from squaring (Knuth, TAOCP 1.2.2).
fn negative_log2(hash: u64) -> u64 {
    let number = u128::from(hash) + 1;
    let whole = 127 - number.leading_zeros();
    // 1 to 2, with 63 bits behind the point.
    let mut mantissa = if whole >= 63 { number >> (whole - 63) } else { number << (63 - whole) };
    let mut log = u64::from(whole) << 32;
    for bit in (0..32).rev() {
        mantissa = (mantissa * mantissa) >> 63;
        if mantissa >= 1 << 64 {
            mantissa >>= 1;
            log |= 1 << bit;
        }
    }
    ((64 << 32) - log).max(1)
}
