//! Where the fragments of one stripe go and what is to be mended about it: pure, from the map and from what nodes say.

use super::map::PlacementMap;
use farside_codec::ids::{ChunkId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Fragments by the node that holds them.
pub type Held = BTreeMap<NodeId, BTreeSet<u8>>;

/// Losses of whole failure domains that leave at least `needed` distinct fragments, whichever domains they are. A fragment
/// that several nodes hold counts at one of them: rather too few losses than too many.
pub fn losses_survived(held: &Held, needed: usize, domain: impl Fn(NodeId) -> u32) -> usize {
    let mut counted = BTreeSet::new();
    let mut loads: BTreeMap<u32, usize> = BTreeMap::new();
    for (node, fragments) in held {
        let new = fragments.iter().filter(|fragment| counted.insert(**fragment)).count();
        *loads.entry(domain(*node)).or_default() += new;
    }
    let mut loads: Vec<usize> = loads.into_values().filter(|load| *load > 0).collect();
    loads.sort_unstable_by(|a, b| b.cmp(a));
    let mut left = counted.len();
    let survived = loads.iter().take_while(|load| {
        left -= **load;
        left >= needed
    });
    survived.count()
}

/// Which node is to get which of the fragments that nobody holds yet: its own where the map says so, and those of nodes to
/// be avoided to the best of the others whose domain holds less than its part. Where that would leave fewer than `needed`
/// fragments the domains that are left share them.
pub fn targets(
    map: &PlacementMap,
    chunk: &ChunkId,
    total: usize,
    needed: usize,
    held: &Held,
    avoided: &BTreeSet<NodeId>,
) -> BTreeMap<NodeId, Vec<u8>> {
    let there: BTreeSet<u8> = held.values().flatten().copied().collect();
    let slots = map.nodes(chunk, total);
    let mut loads: BTreeMap<u32, usize> = BTreeMap::new();
    held.iter().for_each(|(node, fragments)| *loads.entry(map.domain(*node)).or_default() += fragments.len());
    let mut plan: BTreeMap<NodeId, Vec<u8>> = BTreeMap::new();
    let mut late = Vec::new();
    for fragment in (0..total as u8).filter(|fragment| !there.contains(fragment)) {
        match slots.get(usize::from(fragment)).copied().flatten().filter(|node| !avoided.contains(node)) {
            Some(node) => {
                *loads.entry(map.domain(node)).or_default() += 1;
                plan.entry(node).or_default().push(fragment);
            }
            None => late.push(fragment),
        }
    }
    let ranked: Vec<NodeId> = map.ranked(chunk).into_iter().filter(|node| !avoided.contains(node)).collect();
    let domains: BTreeSet<u32> = ranked.iter().map(|node| map.domain(*node)).collect();
    let mut most = map.most(total);
    let mut placed = there.len() + plan.values().map(Vec::len).sum::<usize>();
    loop {
        let mut left = Vec::new();
        for fragment in std::mem::take(&mut late) {
            let load = |node: &NodeId| loads.get(&map.domain(*node)).copied().unwrap_or(0);
            let best = ranked.iter().copied().filter(|node| load(node) < most).min_by_key(load);
            match best {
                Some(node) => {
                    *loads.entry(map.domain(node)).or_default() += 1;
                    plan.entry(node).or_default().push(fragment);
                    placed += 1;
                }
                None => left.push(fragment),
            }
        }
        if placed >= needed || left.is_empty() || domains.is_empty() {
            return plan;
        }
        (late, most) = (left, most + 1);
    }
}

/// What is to be done about one stripe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mending {
    /// Fragments that nobody holds, by the node that should.
    pub rebuild: BTreeMap<NodeId, Vec<u8>>,
    /// Fragments in the wrong place: which, from where, to where.
    pub moves: Vec<(u8, NodeId, NodeId)>,
    /// Fragments that lie where they should and elsewhere as well: to be dropped there.
    pub surplus: BTreeMap<NodeId, Vec<u8>>,
    /// Distinct fragments that there are.
    pub distinct: usize,
    /// Fragments that nobody holds and that can't be rebuilt now: where they should be does not answer.
    pub waiting: usize,
}

impl Mending {
    /// There is nothing to do.
    pub fn is_done(&self) -> bool {
        self.rebuild.is_empty() && self.moves.is_empty() && self.surplus.is_empty()
    }

    /// Fragments that are owed: nobody holds them.
    pub fn owed(&self) -> usize {
        self.rebuild.values().map(Vec::len).sum::<usize>() + self.waiting
    }
}

/// What is to be done about a stripe whose fragments should lie in `slots` and of which `held` was found. Nothing is dropped
/// that does not lie in its place as well; nothing is sent to nodes that did not answer.
pub fn mend(slots: &[Option<NodeId>], held: &Held, answered: &BTreeSet<NodeId>) -> Mending {
    let mut mending = Mending::default();
    for (fragment, slot) in (0u8..).zip(slots) {
        let mut holders = held.iter().filter(|(_, fragments)| fragments.contains(&fragment)).map(|(node, _)| *node);
        let first = holders.clone().next();
        mending.distinct += usize::from(first.is_some());
        let Some(target) = *slot else { continue };
        if holders.any(|node| node == target) {
            for other in held.iter().filter(|(node, it)| **node != target && it.contains(&fragment)) {
                mending.surplus.entry(*other.0).or_default().push(fragment);
            }
            continue;
        }
        match (first, answered.contains(&target)) {
            (Some(from), true) => mending.moves.push((fragment, from, target)),
            (None, true) => mending.rebuild.entry(target).or_default().push(fragment),
            (None, false) => mending.waiting += 1,
            (Some(_), false) => {}
        }
    }
    mending
}

#[cfg(test)]
mod tests {
    use super::*;
    use farside_codec::cluster::{DeviceRecord, NodeRecord, NodeState};
    use farside_codec::ids::{DeviceId, Label};
    use proptest::prelude::*;

    fn map(racks: &[u8]) -> PlacementMap {
        let nodes: Vec<NodeRecord> = (1u64..)
            .zip(racks)
            .map(|(node, rack)| NodeRecord {
                node: NodeId(node),
                name: Label::parse(&format!("node-{node}")).expect("a label"),
                endpoint: String::new(),
                shards: 1,
                rack: (*rack > 0).then(|| Label::parse(&format!("rack-{rack}")).expect("a label")),
                state: NodeState::Up,
                devices: vec![DeviceRecord {
                    device: DeviceId([node as u8; 16]),
                    bytes: 1 << 30,
                    joined: node,
                    left: None,
                }],
            })
            .collect();
        PlacementMap::new(nodes.iter())
    }

    fn chunk(number: u64) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn set(plan: &BTreeMap<NodeId, Vec<u8>>) -> Held {
        plan.iter().map(|(node, fragments)| (*node, fragments.iter().copied().collect())).collect()
    }

    #[test]
    fn a_node_that_is_down_is_stood_in_for_by_one_that_holds_nothing() {
        let map = map(&[0; 7]);
        for number in 0..200 {
            let avoided = BTreeSet::from([NodeId(3)]);
            let plan = targets(&map, &chunk(number), 6, 5, &Held::new(), &avoided);
            assert_eq!(plan.len(), 6, "{plan:?}");
            assert_eq!(losses_survived(&set(&plan), 4, |node| map.domain(node)), 2);
        }
    }

    #[test]
    fn three_nodes_go_on_with_two_and_say_that_they_survive_nothing_more() {
        let map = map(&[0; 3]);
        let plan = targets(&map, &chunk(1), 6, 5, &Held::new(), &BTreeSet::from([NodeId(2)]));
        assert!(plan.values().map(Vec::len).sum::<usize>() >= 5, "{plan:?}");
        assert_eq!(losses_survived(&set(&plan), 4, |node| map.domain(node)), 0);
        let whole = targets(&map, &chunk(1), 6, 5, &Held::new(), &BTreeSet::new());
        assert_eq!(losses_survived(&set(&whole), 4, |node| map.domain(node)), 1);
    }

    #[test]
    fn racks_share_their_fate() {
        let map = map(&[1, 1, 2, 2, 3, 3]);
        let plan = set(&targets(&map, &chunk(9), 6, 5, &Held::new(), &BTreeSet::new()));
        assert_eq!(losses_survived(&plan, 4, |node| map.domain(node)), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Mending until nothing is left to do ends with every fragment in its place and nowhere else, and on the way no
        /// fragment that was there is ever gone.
        #[test]
        fn mending_ends_with_everything_in_its_place(
            number in any::<u64>(),
            racks in prop::collection::vec(0u8..4, 1..9),
            found in prop::collection::btree_set((1u64..9, 0u8..6), 0..20),
            away in prop::collection::btree_set(1u64..9, 0..3),
        ) {
            let map = map(&racks);
            let count = racks.len() as u64;
            let slots = map.nodes(&chunk(number), 6);
            let mut held = Held::new();
            for (node, fragment) in found {
                held.entry(NodeId(1 + node % count)).or_default().insert(fragment);
            }
            held.retain(|node, _| !away.contains(&node.0));
            let answered: BTreeSet<NodeId> = (1..=count).filter(|node| !away.contains(node)).map(NodeId).collect();
            let before: BTreeSet<u8> = held.values().flatten().copied().collect();
            for _ in 0..3 {
                let mending = mend(&slots, &held, &answered);
                for (node, fragments) in &mending.rebuild {
                    prop_assert!(answered.contains(node));
                    held.entry(*node).or_default().extend(fragments);
                }
                for (fragment, from, to) in &mending.moves {
                    prop_assert!(held[from].contains(fragment) && answered.contains(to));
                    held.entry(*to).or_default().insert(*fragment);
                }
                for (node, fragments) in &mending.surplus {
                    for fragment in fragments {
                        prop_assert!(held.get_mut(node).is_some_and(|it| it.remove(fragment)));
                    }
                }
                let now: BTreeSet<u8> = held.values().flatten().copied().collect();
                prop_assert!(before.is_subset(&now));
            }
            prop_assert!(mend(&slots, &held, &answered).is_done());
            for (fragment, slot) in (0u8..).zip(&slots) {
                if let Some(node) = slot.filter(|node| answered.contains(node)) {
                    prop_assert!(held[&node].contains(&fragment));
                }
            }
        }

        #[test]
        fn targets_are_not_avoided_and_get_each_fragment_once(
            number in any::<u64>(),
            racks in prop::collection::vec(0u8..4, 1..9),
            avoided in prop::collection::btree_set(1u64..9, 0..5),
        ) {
            let map = map(&racks);
            let avoided: BTreeSet<NodeId> = avoided.into_iter().map(NodeId).collect();
            let plan = targets(&map, &chunk(number), 6, 5, &Held::new(), &avoided);
            let placed: Vec<u8> = plan.values().flatten().copied().collect();
            let distinct: BTreeSet<u8> = placed.iter().copied().collect();
            prop_assert_eq!(placed.len(), distinct.len());
            prop_assert!(plan.keys().all(|node| !avoided.contains(node)));
            let left = (1..=racks.len() as u64).any(|node| !avoided.contains(&NodeId(node)));
            prop_assert!(!left || placed.len() >= 5);
        }
    }
}
