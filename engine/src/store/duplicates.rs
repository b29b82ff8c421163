//! Fragments that a start finds on more than one device: one that was away is back, or a chunk was deleted and put again
//! while its old records were still there.
//!
//! For a read any copy will do, but not for the losses that a receipt promised: of two layouts, each with a fragment a
//! device, a choice as it comes leaves devices with two. The copies that the index points to are chosen so that no chain
//! of moves makes the devices' shares more even, which is the best there is for any number of losses (Harvey, Ladner,
//! Lovász and Tamir 2003, on semi-matchings). The layout of the last receipt is one of the choices, so the chunk survives
//! no less than that promised.

use super::blocks_of;
use super::index::{Index, Known, Location};
use super::zone::Zone;
use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_io::disk::Disk;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A copy that the index does not point to.
struct Spare {
    fragment: usize,
    location: Location,
    generation: u64,
}

/// Every such copy of a stripe, the newest of each device.
#[derive(Default)]
pub(super) struct Spares(BTreeMap<(ChunkId, Geometry), Vec<Spare>>);

impl Spares {
    /// Remembers a copy.
    pub(super) fn keep(&mut self, of: (ChunkId, Geometry), fragment: usize, location: Location, generation: u64) {
        let spares = self.0.entry(of).or_default();
        let same = |known: &&mut Spare| known.fragment == fragment && known.location.device == location.device;
        match spares.iter_mut().find(same) {
            Some(known) if known.generation >= generation => {}
            Some(known) => (known.location, known.generation) = (location, generation),
            None => spares.push(Spare { fragment, location, generation }),
        }
    }

    /// Chooses between the copies, once all devices have been read.
    pub(super) fn settle<D: Disk>(self, index: &mut Index, zones: &[Rc<Zone<D>>]) {
        for ((chunk, geometry), mut spares) in self.0 {
            let Some(known) = index.stripe(&chunk, geometry) else { continue };
            while let Some(chain) = find_chain(index, &known, zones, &spares) {
                for at in chain {
                    let spare = &mut spares[at];
                    let to = spare.location;
                    let Some(from) = index.set(&known, spare.fragment, Some(to)) else { continue };
                    zones[usize::from(from.device)].remove_live(from.segment, blocks_of(&known));
                    zones[usize::from(to.device)].add_live(to.segment, blocks_of(&known));
                    spare.location = from;
                }
            }
        }
    }
}

/// Spares to change places with, each on the device that the one before it leaves, so that a device with many fragments
/// of the chunk has one less and one with at least two less has one more.
fn find_chain<D: Disk>(index: &Index, known: &Known, zones: &[Rc<Zone<D>>], spares: &[Spare]) -> Option<Vec<usize>> {
    let mut loads = vec![0; zones.len()];
    index.locations(known).for_each(|(_, location)| loads[usize::from(location.device)] += 1);
    let holds = |device: usize, spare: &Spare| {
        index.location(known, spare.fragment).is_some_and(|location| usize::from(location.device) == device)
    };
    for start in (0..zones.len()).filter(|device| loads[*device] > 0) {
        // What lies on a device that does not work is lost, so it is better off anywhere.
        let most = if zones[start].works() { loads[start] } else { usize::MAX };
        let mut reached: Vec<Option<(usize, usize)>> = vec![None; zones.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(from) = queue.pop_front() {
            for (at, spare) in spares.iter().enumerate().filter(|(_, spare)| holds(from, spare)) {
                let to = usize::from(spare.location.device);
                if to == start || reached[to].is_some() || !zones[to].works() {
                    continue;
                }
                reached[to] = Some((from, at));
                if loads[to] + 1 < most {
                    return Some(chain_to(to, &reached));
                }
                queue.push_back(to);
            }
        }
    }
    None
}

/// The spares on the way to a device; each device is reached from another one, but for the first.
fn chain_to(mut device: usize, reached: &[Option<(usize, usize)>]) -> Vec<usize> {
    let mut chain = Vec::new();
    while let Some((from, at)) = reached[device] {
        chain.push(at);
        device = from;
    }
    chain
}
