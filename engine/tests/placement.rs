//! Placement: what it answers (golden vectors), how evenly, and how little moves when the map changes.

use farside::placement::{MapDevice, most_per_domain, stripe};
use farside_codec::ids::{ChunkId, DeviceId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn chunk(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn device(number: u64, domain: u32, weight: u64) -> MapDevice {
    let hash = blake3::hash(&[&b"device"[..], &number.to_le_bytes()].concat());
    let id: [u8; 16] = hash.as_bytes()[..16].try_into().expect("a hash is longer");
    MapDevice { device: DeviceId(id), domain, weight, joined: 1, left: None }
}

/// So many nodes with two devices each, the first five from the beginning, the others one after the other.
fn nodes(count: u32) -> Vec<MapDevice> {
    let of_node = |node: u32| {
        let joined = u64::from(node.saturating_sub(3).max(1));
        (0..2).map(move |disk| MapDevice { joined, ..device(u64::from(node) * 2 + disk, node, 1000) })
    };
    (0..count).flat_map(of_node).collect()
}

/// Fragment → device, by id, so that maps of different lengths compare.
fn places(chunk: &ChunkId, fragments: usize, map: &[MapDevice]) -> Vec<Option<DeviceId>> {
    stripe(chunk, fragments, map).into_iter().map(|at| at.map(|at| map[at].device)).collect()
}

#[test]
fn golden_vectors() {
    // If this fails, data is looked for where it is not: VERSION must change, and the old function must stay.
    let mut map = nodes(8);
    map[3].weight = 4000;
    map[9].weight = 1;
    map[12].left = Some(9);
    let found: Vec<Vec<Option<usize>>> = (0..4).map(|number| stripe(&chunk(number), 6, &map)).collect();
    let expected = [[10, 3, 7, 5, 8, 0], [3, 15, 0, 8, 10, 4], [5, 13, 0, 14, 3, 6], [8, 1, 13, 3, 15, 5]];
    assert_eq!(found, expected.map(|row| row.map(Some).to_vec()));
    let small = stripe(&chunk(0), 6, &nodes(3));
    assert_eq!(small, [0, 2, 5, 1, 4, 3].map(Some));
}

#[test]
fn fragments_are_spread_by_weight() {
    let mut map = nodes(40);
    // A node that has twice the room gets twice the fragments, and each device its part.
    map[0].weight = 3000;
    let mut held: BTreeMap<usize, f64> = BTreeMap::new();
    let mut data: BTreeMap<usize, f64> = BTreeMap::new();
    for number in 0..60_000 {
        for (fragment, at) in stripe(&chunk(number), 6, &map).into_iter().enumerate() {
            let at = at.expect("there are enough devices");
            *held.entry(at).or_default() += 1.0;
            *data.entry(at).or_default() += if fragment < 4 { 1.0 } else { 0.0 };
        }
    }
    let usual = held.values().skip(2).sum::<f64>() / 78.0;
    for (at, count) in &held {
        let expected = if *at == 0 { 3.0 * usual } else { usual };
        // Drawing without replacement takes a little from those that are drawn first.
        assert!((count / expected - 1.0).abs() < 0.12, "device {at} has {count}, not {expected}");
        assert!((data[at] / count - 4.0 / 6.0).abs() < 0.05, "device {at} has too much or too little parity");
    }
}

/// How many fragments have another place, and how many of these are on devices that `new` says are new.
fn moved(before: &[MapDevice], after: &[MapDevice], new: impl Fn(&DeviceId) -> bool) -> (u64, u64) {
    let (mut moved, mut to_new) = (0, 0);
    for number in 0..5_000 {
        let (old, now) = (places(&chunk(number), 6, before), places(&chunk(number), 6, after));
        for (_, now) in old.iter().zip(&now).filter(|(old, now)| old != now) {
            moved += 1;
            to_new += u64::from(now.as_ref().is_some_and(&new));
        }
    }
    (moved, to_new)
}

#[test]
fn a_node_that_joins_takes_its_share_and_nothing_else_moves() {
    for count in [6, 7, 12, 30] {
        let (before, after) = (nodes(count), nodes(count + 1));
        let known: BTreeSet<DeviceId> = before.iter().map(|device| device.device).collect();
        let (moved, to_new) = moved(&before, &after, |device| !known.contains(device));
        assert_eq!(moved, to_new, "{count} nodes and one more");
        let fair = 5_000.0 * 6.0 / f64::from(count + 1);
        println!("{count} nodes and one more: {moved} fragments moved, a fair share is {fair:.0}");
        assert!((moved as f64 / fair - 1.0).abs() < 0.1, "{count} nodes and one more: {moved} instead of {fair}");
    }
}

#[test]
fn a_device_that_is_added_takes_its_share_and_nothing_else_moves() {
    let before = nodes(8);
    let mut after = before.clone();
    after.push(MapDevice { joined: 20, ..device(1000, 3, 1000) });
    let (moved, to_new) = moved(&before, &after, |device| *device == after[16].device);
    assert_eq!(moved, to_new);
    let fair = 5_000.0 * 6.0 / 17.0;
    // Its node can't hold two fragments of a stripe, so of six on nine nodes it gets somewhat less than by weight alone.
    assert!(moved as f64 <= 1.1 * fair && moved as f64 >= 0.7 * fair, "{moved} instead of {fair}");
}

#[test]
fn what_leaves_moves_what_it_held_and_nothing_else() {
    let before = nodes(9);
    for domain in [0, 4, 8] {
        let mut after = before.clone();
        after.iter_mut().filter(|device| device.domain == domain).for_each(|device| device.left = Some(20));
        let left: BTreeSet<DeviceId> =
            after.iter().filter(|device| device.left.is_some()).map(|device| device.device).collect();
        let held: usize = (0..5_000)
            .map(|number| places(&chunk(number), 6, &before).iter().flatten().filter(|at| left.contains(at)).count())
            .sum();
        let (moved, _) = moved(&before, &after, |_| false);
        assert_eq!(moved, held as u64, "node {domain}");
    }
}

#[test]
fn a_node_that_joins_after_one_has_left_takes_its_share_and_nothing_else_moves() {
    let mut before = nodes(9);
    before[6].left = Some(20);
    before[7].left = Some(21);
    let mut after = before.clone();
    after.extend(nodes(10)[18..].iter().map(|device| MapDevice { joined: 22, ..*device }));
    let known: BTreeSet<DeviceId> = before.iter().map(|device| device.device).collect();
    let (moved, to_new) = moved(&before, &after, |device| !known.contains(device));
    assert_eq!(moved, to_new);
}

/// Fragments of a stripe that most maps have domains for.
const FEW: usize = 3;

fn some_map() -> impl Strategy<Value = Vec<MapDevice>> {
    let left = prop::option::weighted(0.2, 0u64..8);
    let one = (0u32..9, prop_oneof![1 => Just(0u64), 8 => 1u64..1 << 45], 0u64..5, left);
    prop::collection::vec(one, 0..24).prop_map(|parts| {
        let make = |(number, (domain, weight, joined, left)): (usize, (u32, u64, u64, Option<u64>))| MapDevice {
            joined,
            left,
            ..device(number as u64, domain, weight)
        };
        parts.into_iter().enumerate().map(make).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_stripe_is_spread_over_distinct_devices_and_domains(map in some_map(), number in any::<u64>(), fragments in 1usize..20) {
        let found = stripe(&chunk(number), fragments, &map);
        prop_assert_eq!(found.len(), fragments);
        let is_there = |at: &usize| map[*at].weight > 0 && map[*at].left.is_none();
        let domains: BTreeSet<u32> = (0..map.len()).filter(is_there).map(|at| map[at].domain).collect();
        let most = most_per_domain(fragments, domains.len());
        let (mut devices, mut load): (BTreeSet<usize>, BTreeMap<u32, usize>) = Default::default();
        for at in found.iter().flatten() {
            prop_assert!(is_there(at));
            prop_assert!(devices.insert(*at), "a device has two fragments");
            let load = load.entry(map[*at].domain).or_default();
            *load += 1;
            prop_assert!(*load <= most, "a domain has too many");
        }
        // A slot stays empty only where nobody could take it.
        let could = |at: &usize| {
            is_there(at) && !devices.contains(at) && load.get(&map[*at].domain).is_none_or(|load| *load < most)
        };
        prop_assert!(devices.len() == fragments || !(0..map.len()).any(|at| could(&at)));
    }

    #[test]
    fn the_order_of_the_list_says_nothing(map in some_map(), number in any::<u64>(), turn in any::<usize>()) {
        let mut turned = map.clone();
        turned.rotate_left(turn % map.len().max(1));
        prop_assert_eq!(places(&chunk(number), 6, &map), places(&chunk(number), 6, &turned));
    }

    #[test]
    fn where_a_stripe_lies_does_not_depend_on_the_way(map in some_map(), number in any::<u64>()) {
        // Only which fragment lies where does, as long as there were always more domains than fragments: with fewer of
        // them what a domain gave up or took on stays where it is.
        let domains_at = |epoch: u64| {
            let there = map.iter().filter(|device| {
                device.weight > 0 && device.joined <= epoch && device.left.is_none_or(|left| left > epoch)
            });
            there.map(|device| device.domain).collect::<BTreeSet<u32>>().len()
        };
        if (0..8).any(|epoch| (1..FEW).contains(&domains_at(epoch))) {
            return Ok(());
        }
        let held = |map: &[MapDevice]| {
            let mut held: Vec<Option<DeviceId>> = places(&chunk(number), FEW, map);
            held.sort();
            held
        };
        let at_once: Vec<MapDevice> =
            map.iter().filter(|device| device.left.is_none()).map(|device| MapDevice { joined: 1, ..*device }).collect();
        prop_assert_eq!(held(&map), held(&at_once));
    }

    #[test]
    fn whoever_joins_last_moves_nothing_but_what_it_takes(count in 6u32..20, weight in 1u64..5000, number in any::<u64>()) {
        let before = nodes(count);
        let mut after = before.clone();
        after.push(MapDevice { joined: 100, ..device(900, count, weight) });
        let (old, now) = (places(&chunk(number), 6, &before), places(&chunk(number), 6, &after));
        let new = after[before.len()].device;
        let moved: Vec<Option<DeviceId>> = old.iter().zip(&now).filter(|(old, now)| old != now).map(|(_, now)| *now).collect();
        prop_assert!(moved.len() <= 1 && moved.iter().all(|now| *now == Some(new)));
    }
}
