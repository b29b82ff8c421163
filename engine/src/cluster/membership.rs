//! Who should vote in which group, and the next step on the way there. Pure: the control group's leader asks who should
//! vote, each group's leader asks what to do next, and both ask again after every change.
//!
//! A group has five voters where there are five nodes, three where there are three, and one otherwise (Ongaro 2014, 4 and
//! 6.2: an even number survives no more losses than the odd one below it). Members stay where they are unless they have to
//! go; new ones come from failure domains that hold none yet.

use farside_codec::ids::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Entries that a node may lack when it is given a vote: the group waits for it once at most.
const CLOSE_BEHIND: u64 = 256;

/// A node that may be a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// The failure domain that it shares its fate with.
    pub domain: u32,
}

/// Voters of a group where so many nodes may be members.
pub fn group_size(nodes: usize) -> usize {
    match nodes {
        0..=2 => nodes.min(1),
        3..=4 => 3,
        _ => 5,
    }
}

/// The members that a group should have, of those it has and the candidates. `load` says how much a node has to do already:
/// less is better. Members that are no candidates have to go, but for those of `dead` that nobody can stand in for: a group
/// does not become smaller because nodes die. Without any candidate nothing changes.
pub fn members(
    current: &BTreeSet<NodeId>,
    candidates: &[Candidate],
    dead: &BTreeSet<NodeId>,
    load: impl Fn(NodeId) -> usize,
) -> BTreeSet<NodeId> {
    if candidates.is_empty() {
        return current.clone();
    }
    let size = group_size(candidates.len() + dead.len());
    let domain = |node: NodeId| candidates.iter().find(|candidate| candidate.node == node).map(|found| found.domain);
    let mut chosen: Vec<NodeId> = current.iter().copied().filter(|node| domain(*node).is_some()).collect();
    let mut kept = current.iter().copied().filter(|node| dead.contains(node));
    let crowd = |chosen: &[NodeId], of: NodeId| chosen.iter().filter(|node| domain(**node) == domain(of)).count();
    while chosen.len() > size {
        // Out of the fullest domain the one with most to do.
        let worst = chosen.iter().copied().max_by_key(|node| (crowd(&chosen, *node), load(*node), *node));
        chosen.retain(|node| Some(*node) != worst);
    }
    let best_outside = |chosen: &[NodeId]| {
        let outside = candidates.iter().map(|candidate| candidate.node).filter(|node| !chosen.contains(node));
        outside.min_by_key(|node| (crowd(chosen, *node), load(*node), *node))
    };
    while chosen.len() < size {
        let Some(best) = best_outside(&chosen).or_else(|| kept.next()) else { break };
        chosen.push(best);
    }
    // Two in one domain while another one has none: one loss would take both.
    let living = |chosen: &[NodeId]| chosen.iter().copied().filter(|node| domain(*node).is_some()).collect::<Vec<_>>();
    while let Some(worst) = living(&chosen).into_iter().max_by_key(|node| (crowd(&chosen, *node), load(*node), *node)) {
        let Some(best) = best_outside(&chosen).filter(|best| crowd(&chosen, *best) + 1 < crowd(&chosen, worst)) else {
            break;
        };
        chosen.retain(|node| *node != worst);
        chosen.push(best);
    }
    chosen.into_iter().collect()
}

/// Members and leader of every group, such that groups and leaders are spread evenly. Answers those that change.
pub fn assign(
    groups: &BTreeMap<GroupId, (BTreeSet<NodeId>, NodeId)>,
    candidates: &[Candidate],
    dead: &BTreeSet<NodeId>,
) -> BTreeMap<GroupId, (BTreeSet<NodeId>, NodeId)> {
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    groups.values().flat_map(|(members, _)| members).for_each(|node| *load.entry(*node).or_default() += 1);
    let mut planned: BTreeMap<GroupId, BTreeSet<NodeId>> = BTreeMap::new();
    for (group, (current, _)) in groups {
        let chosen = members(current, candidates, dead, |node| load.get(&node).copied().unwrap_or(0));
        current.iter().for_each(|node| *load.entry(*node).or_default() -= 1);
        chosen.iter().for_each(|node| *load.entry(*node).or_default() += 1);
        planned.insert(*group, chosen);
    }
    spread(&mut planned, &mut load, candidates);
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut changes = BTreeMap::new();
    let stays = |group: &GroupId, chosen: &BTreeSet<NodeId>| {
        Some(groups.get(group)?.1).filter(|led| chosen.contains(led) && !dead.contains(led))
    };
    planned
        .iter()
        .filter_map(|(group, chosen)| stays(group, chosen))
        .for_each(|led| *leads.entry(led).or_default() += 1);
    for (group, chosen) in planned {
        let count = |node: NodeId| leads.get(&node).copied().unwrap_or(0);
        let now = stays(&group, &chosen);
        let idle = chosen.iter().copied().filter(|node| !dead.contains(node)).min_by_key(|node| (count(*node), *node));
        // A leader stays, unless somebody else has so much less to do that the change leaves both better off.
        let leader = match (now, idle) {
            (Some(now), Some(idle)) if count(idle) + 1 < count(now) => idle,
            (Some(now), _) => now,
            (None, Some(idle)) => idle,
            (None, None) => continue,
        };
        if Some(leader) != now {
            if let Some(now) = now {
                *leads.entry(now).or_default() -= 1;
            }
            *leads.entry(leader).or_default() += 1;
        }
        if groups.get(&group) != Some(&(chosen.clone(), leader)) {
            changes.insert(group, (chosen, leader));
        }
    }
    changes
}

/// Moves memberships from nodes that have many to nodes that have few, where domains allow it, until that gains nothing.
fn spread(
    planned: &mut BTreeMap<GroupId, BTreeSet<NodeId>>,
    load: &mut BTreeMap<NodeId, usize>,
    candidates: &[Candidate],
) {
    let domain = |node: NodeId| candidates.iter().find(|candidate| candidate.node == node).map(|found| found.domain);
    loop {
        let count = |node: NodeId| load.get(&node).copied().unwrap_or(0);
        let moved = planned.iter().find_map(|(group, chosen)| {
            let living = chosen.iter().copied().filter(|node| domain(*node).is_some());
            let busy = living.max_by_key(|node| (count(*node), *node))?;
            let rest: BTreeSet<Option<u32>> =
                chosen.iter().filter(|node| **node != busy).map(|node| domain(*node)).collect();
            let crowded = rest.contains(&domain(busy));
            let outside = candidates.iter().map(|candidate| candidate.node).filter(|node| !chosen.contains(node));
            let fits = outside.filter(|node| crowded || !rest.contains(&domain(*node)));
            let idle = fits.min_by_key(|node| (count(*node), *node))?;
            (count(idle) + 1 < count(busy)).then_some((*group, busy, idle))
        });
        let Some((group, busy, idle)) = moved else { return };
        if let Some(chosen) = planned.get_mut(&group) {
            chosen.remove(&busy);
            chosen.insert(idle);
        }
        *load.entry(busy).or_default() -= 1;
        *load.entry(idle).or_default() += 1;
    }
}

/// How a group stands, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The leader.
    pub own: NodeId,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who receives the log without a vote.
    pub learners: BTreeSet<NodeId>,
    /// How far others have the log.
    pub replicated: BTreeMap<NodeId, u64>,
    /// How long the log is.
    pub last_index: u64,
}

/// What a group's leader is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Let a node receive the log.
    AddLearner(NodeId),
    /// Make these the voters. Whoever votes no more receives the log no more.
    ChangeVoters(BTreeSet<NodeId>),
    /// Let somebody else lead.
    HandOver(NodeId),
    /// Send nothing to nodes any more that neither vote nor should.
    RemoveLearners(BTreeSet<NodeId>),
}

/// The next step towards `members` as the only voters, `listeners` as those who receive the log besides, and `leader` as
/// the one who leads; `None` where nothing is left to do, or has to be waited for. `reachable` says who answers now.
pub fn next_step(
    standing: &Standing,
    members: &BTreeSet<NodeId>,
    listeners: &BTreeSet<NodeId>,
    leader: Option<NodeId>,
    reachable: impl Fn(NodeId) -> bool,
) -> Option<Step> {
    let Standing { own, voters, learners, replicated, last_index } = standing;
    let known = |node: &NodeId| voters.contains(node) || learners.contains(node);
    if let Some(missing) = members.iter().chain(listeners).find(|node| !known(node)) {
        return Some(Step::AddLearner(*missing));
    }
    let close = |node: &NodeId| {
        node == own || reachable(*node) && replicated.get(node).is_some_and(|upto| upto + CLOSE_BEHIND >= *last_index)
    };
    if voters != members {
        // A member that is behind or away is waited for: a vote that can't be cast makes the majority larger, and nothing safer.
        if !members.iter().all(|node| voters.contains(node) || close(node)) {
            return None;
        }
        let mut next = members.clone();
        // A leader does not vote itself out: it hands over first.
        next.insert(*own);
        return match next == *voters {
            false => Some(Step::ChangeVoters(next)),
            true => members.iter().copied().find(|node| close(node)).map(Step::HandOver),
        };
    }
    let surplus: BTreeSet<NodeId> =
        learners.iter().filter(|node| !members.contains(node) && !listeners.contains(node)).copied().collect();
    if !surplus.is_empty() {
        return Some(Step::RemoveLearners(surplus));
    }
    leader.filter(|leader| leader != own && members.contains(leader) && close(leader)).map(Step::HandOver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        numbers.into_iter().map(NodeId).collect()
    }

    fn candidates(domains: &[u32]) -> Vec<Candidate> {
        (1..).zip(domains).map(|(node, domain)| Candidate { node: NodeId(node), domain: *domain }).collect()
    }

    #[test]
    fn sizes_are_odd() {
        let sizes: Vec<usize> = (0..8).map(group_size).collect();
        assert_eq!(sizes, [0, 1, 1, 3, 3, 5, 5, 5]);
    }

    #[test]
    fn new_members_come_from_other_racks() {
        let chosen = members(&nodes([1]), &candidates(&[1, 1, 1, 2, 3, 3, 4, 5]), &nodes([]), |_| 0);
        assert_eq!(chosen, nodes([1, 4, 5, 7, 8]));
    }

    #[test]
    fn who_is_no_candidate_is_replaced_and_nobody_else() {
        let all: Vec<Candidate> =
            candidates(&[1, 2, 3, 4, 5, 6]).into_iter().filter(|it| it.node != NodeId(2)).collect();
        assert_eq!(members(&nodes([1, 2, 3, 4, 5]), &all, &nodes([2]), |_| 0), nodes([1, 3, 4, 5, 6]));
        assert_eq!(members(&nodes([1, 2]), &[], &nodes([]), |_| 0), nodes([1, 2]));
    }

    #[test]
    fn who_is_dead_keeps_its_seat_while_nobody_can_take_it() {
        let two = candidates(&[1, 2]);
        assert_eq!(members(&nodes([1, 2, 3]), &two, &nodes([3]), |_| 0), nodes([1, 2, 3]));
        // Removed, it does not count any more.
        assert_eq!(members(&nodes([1, 2, 3]), &two, &nodes([]), |_| 0).len(), 1);
    }

    #[test]
    fn a_new_node_gets_its_share_of_groups_and_leaders() {
        let first: BTreeMap<GroupId, _> = (1..=16).map(|group| (GroupId(group), (nodes([1]), NodeId(1)))).collect();
        let mut groups = first.clone();
        for count in 1..=7u32 {
            groups.extend(assign(&groups, &candidates(&(1..=count).collect::<Vec<_>>()), &nodes([])));
            let rest = assign(&groups, &candidates(&(1..=count).collect::<Vec<_>>()), &nodes([]));
            assert!(rest.is_empty(), "{count} nodes: no rest");
        }
        for node in (1..=7).map(NodeId) {
            let member = groups.values().filter(|(members, _)| members.contains(&node)).count();
            let leader = groups.values().filter(|(_, leader)| *leader == node).count();
            assert!((11..=12).contains(&member), "node {node} is in {member} of 16 groups of five");
            assert!((1..=3).contains(&leader), "node {node} leads {leader} of 16 groups");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn members_are_candidates_as_many_as_should_be_and_in_as_many_domains_as_can_be(
            domains in prop::collection::vec(1u32..6, 1..12),
            current in prop::collection::btree_set(1u64..14, 0..7),
            loads in prop::collection::vec(0usize..5, 14),
        ) {
            let all = candidates(&domains);
            let chosen = members(&nodes(current), &all, &nodes([]), |node| loads[node.0 as usize % 14]);
            prop_assert_eq!(chosen.len(), group_size(all.len()));
            let domain = |node: &NodeId| all.iter().find(|it| it.node == *node).map(|it| it.domain);
            prop_assert!(chosen.iter().all(|node| domain(node).is_some()));
            let distinct = |list: Vec<Option<u32>>| list.into_iter().collect::<BTreeSet<_>>().len();
            let there = distinct(all.iter().map(|it| Some(it.domain)).collect());
            prop_assert_eq!(distinct(chosen.iter().map(domain).collect()), there.min(chosen.len()));
            let again = members(&chosen, &all, &nodes([]), |node| loads[node.0 as usize % 14]);
            prop_assert_eq!(again, chosen, "it is at rest");
        }

        /// Whatever changes and whoever is away, the steps end, no leader votes itself out, nobody gets a vote who lacks
        /// the log, and nobody who is needed leaves before there is another one.
        #[test]
        fn steps_lead_where_they_should(
            voters in prop::collection::btree_set(1u64..9, 1..6),
            wanted in prop::collection::btree_set(1u64..9, 1..6),
            listeners in prop::collection::btree_set(1u64..12, 0..8),
            leader in 1u64..9,
            away in prop::collection::btree_set(1u64..12, 0..3),
        ) {
            let (wanted, listeners) = (nodes(wanted), nodes(listeners));
            let own = NodeId(*voters.iter().next().expect("there is one"));
            let mut standing = Standing {
                own,
                voters: nodes(voters),
                learners: BTreeSet::new(),
                replicated: BTreeMap::new(),
                last_index: 10_000,
            };
            let away: BTreeSet<NodeId> = nodes(away).into_iter().filter(|node| *node != own).collect();
            // Who votes and answers has the log.
            let there = standing.voters.iter().filter(|voter| !away.contains(voter));
            standing.replicated = there.map(|voter| (*voter, 10_000)).collect();
            let mut steps = 0;
            while let Some(step) =
                next_step(&standing, &wanted, &listeners, Some(NodeId(leader)), |node| !away.contains(&node))
            {
                steps += 1;
                prop_assert!(steps < 100, "steps go in circles: {:?}", step);
                match step {
                    Step::AddLearner(node) => {
                        prop_assert!(standing.learners.insert(node));
                        if !away.contains(&node) {
                            standing.replicated.insert(node, 10_000);
                        }
                    }
                    Step::ChangeVoters(next) => {
                        prop_assert!(next.contains(&standing.own));
                        for new in next.difference(&standing.voters) {
                            prop_assert!(*new == standing.own || standing.replicated.contains_key(new));
                        }
                        standing.learners.retain(|node| !next.contains(node));
                        standing.voters = next;
                    }
                    Step::HandOver(to) => {
                        prop_assert!(standing.voters.contains(&to) && !away.contains(&to));
                        let before = std::mem::replace(&mut standing.own, to);
                        standing.replicated.insert(before, 10_000);
                    }
                    Step::RemoveLearners(gone) => {
                        prop_assert!(gone.iter().all(|node| standing.learners.remove(node)));
                    }
                }
                for voter in standing.voters.clone() {
                    if !away.contains(&voter) {
                        standing.replicated.insert(voter, 10_000);
                    }
                }
            }
            let reachable = wanted.iter().all(|node| !away.contains(node));
            prop_assert!(!reachable || standing.voters == wanted);
        }
    }
}
