//! Which device gets which fragment: rendezvous hashing (Thaler and Ravishankar, 1998), drawn per fragment index.
//!
//! Pure and deterministic: the same chunk, fragments and devices give the same plan on every machine and for ever. A
//! device is a failure domain of its own here, so no device gets a second fragment of a stripe unless the node has
//! fewer devices than the stripe has fragments.

use farside_codec::ids::{ChunkId, DeviceId};

/// A device that could take fragments of a stripe.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its number.
    pub(super) ordinal: u8,
    /// Its id, which the draw goes by.
    pub(super) device: DeviceId,
    /// Fragments of the stripe that it holds.
    pub(super) load: usize,
}

/// Fragments of one stripe that a device may hold on a node with so many configured devices.
pub(crate) fn most_per_device(fragments: usize, devices: usize) -> usize {
    fragments.div_ceil(devices.max(1))
}

/// Gives each fragment to the device that draws highest among those with room, in order. Fragments that nobody can
/// take are left out.
pub(super) fn place(
    chunk: &ChunkId,
    fragments: &[usize],
    candidates: &mut [Candidate],
    most: usize,
) -> Vec<(usize, u8)> {
    let mut plan = Vec::with_capacity(fragments.len());
    for &fragment in fragments {
        let open = candidates.iter_mut().filter(|candidate| candidate.load < most);
        let drawn = open.max_by_key(|candidate| (draw(chunk, fragment, candidate.device), candidate.device));
        if let Some(winner) = drawn {
            winner.load += 1;
            plan.push((fragment, winner.ordinal));
        }
    }
    plan
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

fn draw(chunk: &ChunkId, fragment: usize, device: DeviceId) -> u64 {
    let word = |bytes: &[u8]| {
        u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
    };
    let mut state = mix(word(&chunk.0[..8]) ^ fragment as u64);
    for part in [&chunk.0[8..16], &device.0[..8], &device.0[8..]] {
        state = mix(state ^ word(part));
    }
    state
}

/// SplitMix64's output function.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn candidates(count: u8) -> Vec<Candidate> {
        (0..count).map(|ordinal| Candidate { ordinal, device: DeviceId([ordinal + 1; 16]), load: 0 }).collect()
    }

    fn chunk(number: u64) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn no_device_gets_two_while_there_are_enough() {
        let fragments: Vec<usize> = (0..6).collect();
        let mut counts = [0; 9];
        for number in 0..900 {
            let plan = place(&chunk(number), &fragments, &mut candidates(9), most_per_device(6, 9));
            let mut devices: Vec<u8> = plan.iter().map(|(_, ordinal)| *ordinal).collect();
            devices.iter().for_each(|ordinal| counts[usize::from(*ordinal)] += 1);
            devices.sort_unstable();
            devices.dedup();
            assert_eq!(devices.len(), 6);
        }
        assert!(counts.iter().all(|count| (520..680).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_lost_device_moves_little() {
        let fragments: Vec<usize> = (0..6).collect();
        let moved = (0..300).map(|number| {
            let before = place(&chunk(number), &fragments, &mut candidates(12), 1);
            let after = place(&chunk(number), &fragments, &mut candidates(11), 1);
            before.iter().zip(&after).filter(|(before, after)| before != after).count()
        });
        // Half of the chunks have a fragment on the lost device; the one that replaces it may push another on.
        assert!(moved.sum::<usize>() < 300);
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn a_plan_is_whole_unless_every_device_is_full(
            number in any::<u64>(),
            fragments in prop::collection::btree_set(0usize..80, 0..24),
            loads in prop::collection::vec(0usize..5, 0..14),
            most in 0usize..5,
            turn in any::<usize>(),
        ) {
            let fragments: Vec<usize> = fragments.into_iter().collect();
            let mut devices = candidates(loads.len() as u8);
            devices.iter_mut().zip(&loads).for_each(|(device, load)| device.load = *load);
            let mut turned = devices.clone();
            turned.rotate_left(turn % loads.len().max(1));
            let plan = place(&chunk(number), &fragments, &mut devices, most);

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
            prop_assert_eq!(place(&chunk(number), &fragments, &mut turned, most), plan);
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
