//! Which device of the node gets which fragment. [`crate::placement`] decides; here each device is a failure domain of its
//! own, and devices that are full or hold enough of the stripe already are passed over.
//!
//! No device gets a second fragment of a stripe unless the node has fewer devices than the stripe has fragments.

use crate::placement::{Draw, MapDevice, most_per_domain, stripe};
use farside_codec::ids::{ChunkId, DeviceId};

/// A device that works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its number.
    pub(super) ordinal: u8,
    /// Its id, which the draw goes by.
    pub(super) device: DeviceId,
    /// Bytes of its zone: larger devices get more.
    pub(super) weight: u64,
    /// It has not refused this stripe.
    pub(super) takes: bool,
    /// Fragments of the stripe that it holds.
    pub(super) load: usize,
}

impl Candidate {
    /// One of several places on this device.
    fn on_map(&self, number: usize) -> MapDevice {
        let mut device = self.device;
        device.0[15] ^= number as u8;
        MapDevice { device, domain: u32::from(self.ordinal), weight: self.weight, joined: 0, left: None }
    }

    /// How it does in the draw for one fragment more.
    fn next_draw(&self, chunk: &ChunkId) -> Option<Draw> {
        Draw::of(chunk, &self.on_map(self.load))
    }
}

/// How the part of a stripe that is on a node is shared out among its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Fragments that a device may hold.
    pub(super) most: usize,
    /// Each fragment has a device of its own by its number, as where all of the stripe is here. Else the devices that draw
    /// best for the chunk share what is here: by number each device would get as much as any other, whatever its weight.
    pub(super) of_slots: bool,
}

/// Fragments of one stripe that a device may hold on a node with so many configured devices.
pub(crate) fn most_per_device(fragments: usize, devices: usize) -> usize {
    most_per_domain(fragments, devices)
}

/// Gives each missing fragment of a stripe of `total` its device; where that can't take it, to the one that draws best
/// among those with room. Fragments that nobody can take are left out.
pub(super) fn place(
    chunk: &ChunkId,
    total: usize,
    missing: &[usize],
    candidates: &mut [Candidate],
    Part { most, of_slots }: Part,
) -> Vec<(usize, u8)> {
    let wanted = if of_slots { slots(chunk, total, candidates, most) } else { Vec::new() };
    let mut plan = Vec::with_capacity(missing.len());
    let mut late = Vec::new();
    for &fragment in missing {
        let wanted = wanted.get(fragment).copied().flatten().map(|at| &mut candidates[at]);
        match wanted.filter(|device| device.takes && device.load < most) {
            Some(device) => {
                device.load += 1;
                plan.push((fragment, device.ordinal));
            }
            None => late.push(fragment),
        }
    }
    for fragment in late {
        let open = candidates.iter_mut().filter(|candidate| candidate.takes && candidate.load < most);
        if let Some(winner) = open.max_by_key(|candidate| candidate.next_draw(chunk)) {
            winner.load += 1;
            plan.push((fragment, winner.ordinal));
        }
    }
    plan
}

/// The device of each fragment of a whole stripe, by its place among the candidates.
fn slots(chunk: &ChunkId, total: usize, candidates: &[Candidate], most: usize) -> Vec<Option<usize>> {
    let map: Vec<MapDevice> =
        candidates.iter().flat_map(|candidate| (0..most).map(|number| candidate.on_map(number))).collect();
    stripe(chunk, total, &map).into_iter().map(|at| at.map(|at| at / most)).collect()
}

/// How many of `here` fragments each candidate would hold if all of them were written now and everybody had room.
pub(super) fn wanted(
    chunk: &ChunkId,
    total: usize,
    here: usize,
    candidates: &[Candidate],
    Part { most, of_slots }: Part,
) -> Vec<usize> {
    let mut loads = vec![0; candidates.len()];
    if of_slots {
        slots(chunk, total, candidates, most).into_iter().flatten().for_each(|at| loads[at] += 1);
        return loads;
    }
    let mut anew: Vec<Candidate> = candidates.iter().map(|candidate| Candidate { load: 0, ..*candidate }).collect();
    for _ in 0..here {
        let open = anew.iter_mut().enumerate().filter(|(_, candidate)| candidate.load < most);
        if let Some((at, winner)) = open.max_by_key(|(_, candidate)| candidate.next_draw(chunk)) {
            winner.load += 1;
            loads[at] += 1;
        }
    }
    loads
}

/// Which fragments change places so that each candidate holds as many as it should, as far as those that hold too few take
/// any: the fragment, from where, to where. What lies on a device that is no candidate stays.
pub(super) fn moves(held: &[(usize, u8)], candidates: &[Candidate], wanted: &[usize]) -> Vec<(usize, u8, u8)> {
    let load = |ordinal: u8| held.iter().filter(|(_, device)| *device == ordinal).count();
    let mut moves = Vec::new();
    let mut short =
        candidates.iter().zip(wanted).filter(|(candidate, _)| candidate.takes).flat_map(|(candidate, wanted)| {
            std::iter::repeat_n(candidate.ordinal, wanted.saturating_sub(load(candidate.ordinal)))
        });
    for (candidate, wanted) in candidates.iter().zip(wanted) {
        let here = held.iter().filter(|(_, device)| *device == candidate.ordinal);
        for (fragment, from) in here.skip(*wanted) {
            match short.next() {
                Some(to) => moves.push((*fragment, *from, to)),
                None => return moves,
            }
        }
    }
    moves
}

/// Losses of whole devices that leave at least `needed` fragments, whichever devices they are.
pub(super) fn losses_survived(mut loads: Vec<usize>, needed: usize) -> usize {
    loads.retain(|load| *load > 0);
    loads.sort_unstable_by(|a, b| b.cmp(a));
    let mut left: usize = loads.iter().sum();
    let survived = loads.iter().take_while(|load| {
        left -= **load;
        left >= needed
    });
    survived.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn candidates(count: u8) -> Vec<Candidate> {
        (0..count)
            .map(|ordinal| Candidate {
                ordinal,
                device: DeviceId([ordinal + 1; 16]),
                weight: 1 << 30,
                takes: true,
                load: 0,
            })
            .collect()
    }

    fn whole(most: usize) -> Part {
        Part { most, of_slots: true }
    }

    fn chunk(number: u64) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn no_device_gets_two_while_there_are_enough() {
        let fragments: Vec<usize> = (0..6).collect();
        let mut counts = [0; 9];
        for number in 0..900 {
            let plan = place(&chunk(number), 6, &fragments, &mut candidates(9), whole(most_per_device(6, 9)));
            let mut devices: Vec<u8> = plan.iter().map(|(_, ordinal)| *ordinal).collect();
            devices.iter().for_each(|ordinal| counts[usize::from(*ordinal)] += 1);
            devices.sort_unstable();
            devices.dedup();
            assert_eq!(devices.len(), 6);
        }
        assert!(counts.iter().all(|count| (520..680).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_device_twice_as_large_gets_twice_as_much() {
        let mut counts = [0usize; 12];
        for number in 0..6_000 {
            let mut devices = candidates(12);
            devices[5].weight *= 2;
            let plan = place(&chunk(number), 2, &[0, 1], &mut devices, whole(1));
            plan.iter().for_each(|(_, ordinal)| counts[usize::from(*ordinal)] += 1);
        }
        let usual = (12_000 - counts[5]) / 11;
        assert!((170..220).contains(&(counts[5] * 100 / usual)), "{counts:?}");
    }

    #[test]
    fn who_takes_nothing_is_passed_over() {
        let mut devices = candidates(3);
        devices[1].takes = false;
        let plan = place(&chunk(1), 4, &[0, 1, 2, 3], &mut devices, whole(2));
        assert_eq!(plan.len(), 4);
        assert!(plan.iter().all(|(_, ordinal)| *ordinal != 1));
    }

    #[test]
    fn losses_are_counted_by_device() {
        let check = |loads: &[usize], needed, expected| assert_eq!(losses_survived(loads.to_vec(), needed), expected);
        check(&[1, 1, 1, 1, 1, 1], 4, 2);
        check(&[1, 1, 1, 1, 1, 0], 4, 1);
        check(&[6], 4, 0);
        check(&[2, 2, 2], 4, 1);
        check(&[3, 3], 3, 1);
        check(&[1], 1, 0);
        check(&[], 1, 0);
    }

    /// Where a stripe's fragments lie that was written to these devices.
    fn written(chunk: &ChunkId, here: usize, devices: &[Candidate], part: Part) -> Vec<(usize, u8)> {
        let fragments: Vec<usize> = (0..here).collect();
        place(chunk, 6, &fragments, &mut devices.to_vec(), part)
    }

    #[test]
    fn a_new_device_gets_its_share_and_nothing_else_moves() {
        // All of a stripe on six devices, and one fragment or two of it on fewer.
        for (here, count, of_slots) in [(6usize, 6u8, true), (6, 9, true), (1, 2, false), (2, 2, false), (2, 4, false)]
        {
            let new = count;
            let (mut moved, mut all) = (0, 0);
            for number in 0..3_000 {
                let chunk = chunk(number);
                let (before, after) = (candidates(count), candidates(count + 1));
                let part = |devices: u8| Part { most: most_per_device(here, usize::from(devices)), of_slots };
                let held = written(&chunk, here, &before, part(count));
                assert_eq!(moves(&held, &before, &wanted(&chunk, 6, here, &before, part(count))), []);
                let moves = moves(&held, &after, &wanted(&chunk, 6, here, &after, part(count + 1)));
                assert!(moves.iter().all(|(_, _, to)| *to == new), "{moves:?}");
                (moved, all) = (moved + moves.len(), all + held.len());
            }
            let share = all as f64 / f64::from(count + 1);
            assert!((0.9 * share..=1.1 * share).contains(&(moved as f64)), "{here} on {count}: {moved} for {share}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn a_plan_is_whole_unless_every_device_is_full(
            number in any::<u64>(),
            fragments in prop::collection::btree_set(0usize..80, 0..24),
            loads in prop::collection::vec(0usize..5, 0..14),
            most in 0usize..5,
            turn in any::<usize>(),
            of_slots in any::<bool>(),
        ) {
            let part = Part { most, of_slots };
            let fragments: Vec<usize> = fragments.into_iter().collect();
            let mut devices = candidates(loads.len() as u8);
            devices.iter_mut().zip(&loads).for_each(|(device, load)| device.load = *load);
            let mut turned = devices.clone();
            turned.rotate_left(turn % loads.len().max(1));
            let plan = place(&chunk(number), 80, &fragments, &mut devices, part);

            let room: usize = loads.iter().map(|load| most.saturating_sub(*load)).sum();
            prop_assert_eq!(plan.len(), fragments.len().min(room));
            let planned: BTreeSet<usize> = plan.iter().map(|(fragment, _)| *fragment).collect();
            prop_assert_eq!(planned.len(), plan.len(), "a fragment has one place");
            prop_assert!(planned.iter().all(|fragment| fragments.contains(fragment)));
            let mut added: BTreeMap<u8, usize> = BTreeMap::new();
            plan.iter().for_each(|(_, ordinal)| *added.entry(*ordinal).or_default() += 1);
            for (device, before) in devices.iter().zip(&loads) {
                let more = added.get(&device.ordinal).copied().unwrap_or(0);
                prop_assert_eq!(device.load, before + more);
                prop_assert!(more == 0 || device.load <= most);
            }
            // The order in which devices are named says nothing.
            prop_assert_eq!(place(&chunk(number), 80, &fragments, &mut turned, part), plan);
        }

        #[test]
        fn moves_end_with_everybody_holding_what_they_should(
            number in any::<u64>(),
            weights in prop::collection::vec(1u64..9, 1..10),
            room in prop::collection::vec(any::<bool>(), 10),
            here in 1usize..=6,
            places in prop::collection::vec(any::<prop::sample::Index>(), 6),
            of_slots in any::<bool>(),
        ) {
            let mut devices = candidates(weights.len() as u8);
            let roomy = room.iter().take(weights.len()).all(|room| *room);
            for ((device, weight), room) in devices.iter_mut().zip(&weights).zip(&room) {
                (device.weight, device.takes) = (weight << 30, *room);
            }
            let here = if of_slots { 6 } else { here };
            let part = Part { most: most_per_device(here, weights.len()), of_slots };
            // However it came to lie, with room for all of it.
            let mut held: Vec<(usize, u8)> =
                (0..here).map(|fragment| (fragment, places[fragment].index(weights.len()) as u8)).collect();
            let wanted = wanted(&chunk(number), 6, here, &devices, part);
            prop_assert_eq!(wanted.iter().sum::<usize>(), here);
            prop_assert!(wanted.iter().all(|wanted| *wanted <= part.most));
            for (fragment, from, to) in moves(&held, &devices, &wanted) {
                let lies = held.iter_mut().find(|(other, _)| *other == fragment).expect("it is here");
                prop_assert_eq!(lies.1, from);
                prop_assert!(devices[usize::from(to)].takes && from != to);
                lies.1 = to;
            }
            prop_assert_eq!(moves(&held, &devices, &wanted), []);
            if roomy {
                for (device, wanted) in devices.iter().zip(&wanted) {
                    prop_assert_eq!(held.iter().filter(|(_, at)| *at == device.ordinal).count(), *wanted);
                }
            }
        }

        #[test]
        fn so_many_losses_are_survived_and_no_more(loads in prop::collection::vec(0usize..4, 0..9), needed in 1usize..12) {
            let worst_left = |losses: usize| {
                let lost = (0u32..1 << loads.len()).filter(|lost| lost.count_ones() as usize == losses);
                let left = |lost: u32| (0..loads.len()).filter(|at| lost >> at & 1 == 0).map(|at| loads[at]).sum::<usize>();
                lost.map(left).min()
            };
            let holding = loads.iter().filter(|load| **load > 0).count();
            let survived = losses_survived(loads.clone(), needed);
            prop_assert!(survived <= holding);
            prop_assert!(survived == 0 || worst_left(survived).is_some_and(|left| left >= needed));
            prop_assert!(survived == holding || worst_left(survived + 1).is_none_or(|left| left < needed));
        }
    }
}
