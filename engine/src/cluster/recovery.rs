//! How a site goes on that has lost the majority of a group for good: from what each node that is left says it has follows
//! which replica a group goes on with, who is out for good, and what may be lost. Pure: every node that is left comes to
//! the same from the same reports.
//!
//! A group whose voters are there in their majority goes on by itself and loses nothing. Any other one goes on with one
//! replica: of those that have everything that any of them knows to be committed, the one with the newest log, by the rule by
//! which voters compare logs (Ongaro 2014, 5.4.1). So nothing goes that a replica knows to be committed, nor anything before an
//! entry that is there and that its own leader committed, since all later leaders had it.
//!
//! One thing can't be known. Of two entries at one place the older one may have been committed by a leader after both
//! (figure 8 there), of whom nobody who is left has heard; the newer one goes on.

use super::membership::group_size;
use farside_codec::Field;
use farside_codec::cluster::{GroupRecord, NodeRecord, NodeState};
use farside_codec::ids::{GroupId, Label, LogId, NodeId};
use farside_codec::record::wal::{LogPosition, Membership};
use farside_codec::recovery::{ForcedGroup, GroupReport, LogReport, NamedLog, NodeReport, RecoveredFile, Recovery};
use std::collections::{BTreeMap, BTreeSet};

/// Why nothing follows from a set of reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// There is none.
    NoReports,
    /// They are of two sites.
    TwoSites(Label, Label),
    /// They were made before and after a recovery, or one node missed it.
    TwoIncarnations {
        /// The node that is behind.
        node: NodeId,
        /// Where it is.
        has: u64,
        /// Where another one is.
        newest: u64,
    },
    /// Two are of one node.
    Twice(NodeId),
    /// One says nothing about a group.
    Incomplete(NodeId, GroupId),
    /// The site has let the node go, or never had it.
    NotOfTheSite(NodeId),
    /// Every group has its majority.
    NothingLost,
    /// Nobody has anything of these groups, which hold so many logs.
    NothingLeft {
        /// The groups.
        groups: Vec<GroupId>,
        /// Their logs.
        logs: usize,
    },
}

impl std::fmt::Display for Objection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoReports => f.write_str("no report is named"),
            Self::TwoSites(one, other) => write!(f, "the reports are of two sites, {one} and {other}"),
            Self::TwoIncarnations { node, has, newest } => write!(
                f,
                "node {node} is at incarnation {has} of the site, and another one at {newest}: it was left behind by a \
                 recovery, and its report does not count"
            ),
            Self::Twice(node) => write!(f, "two reports are of node {node}"),
            Self::Incomplete(node, group) => write!(f, "the report of node {node} says nothing about group {group}"),
            Self::NotOfTheSite(node) => write!(f, "node {node} was removed from the site: its report does not count"),
            Self::NothingLost => f.write_str(
                "nothing is to be recovered: every group has its majority among these nodes; start them, and remove those that \
                 are dead with `farside node remove`",
            ),
            Self::NothingLeft { groups, logs } => write!(
                f,
                "no node that is left has anything of {} groups ({}), which hold {logs} logs: those logs are lost. Look for a \
                 node that has them, or give them up with --begin-empty",
                groups.len(),
                groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ),
        }
    }
}

impl std::error::Error for Objection {}

/// What becomes of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The site's name.
    pub site: Label,
    /// Nodes that are left.
    pub survivors: Vec<NodeRecord>,
    /// Nodes that are out for good.
    pub lost: Vec<NodeRecord>,
    /// Groups that have their majority, and are left alone.
    pub kept: Vec<GroupId>,
    /// What is written down on every node that is left.
    pub file: RecoveredFile,
    /// How far the logs are whose groups go on with one replica: what was acknowledged later may be lost.
    pub may_lack: Vec<LogReport>,
    /// Logs of which nobody has anything.
    pub gone: Vec<NamedLog>,
}

impl Plan {
    /// What this plan is told from another one by: nodes that show the same do the same.
    pub fn id(&self) -> String {
        blake3::hash(&self.file.to_bytes()).to_hex().chars().take(8).collect()
    }

    /// How a group goes on that can't by itself.
    pub fn forced(&self, group: GroupId) -> Option<&ForcedGroup> {
        self.file.forced.iter().find(|forced| forced.group == group)
    }
}

/// Voters compare logs so.
fn age(last: LogPosition) -> (u64, NodeId, u64) {
    (last.term, last.leader, last.index)
}

/// What one node has of a group.
#[derive(Clone, Copy)]
struct Replica<'a> {
    node: NodeId,
    group: &'a GroupReport,
}

impl<'a> Replica<'a> {
    fn last(&self) -> Option<LogPosition> {
        self.group.last.filter(|_| self.group.member != NodeId(0))
    }

    /// Whether its log has an entry, as far as can be said: two entries with one index are one if one leader wrote both.
    fn has(&self, entry: LogPosition) -> bool {
        let is_covered = self.group.covered.is_some_and(|covered| entry.index <= covered.index);
        let begun_before = self.group.leaders.iter().rev().find(|begin| begin.index <= entry.index);
        let by_the_same = begun_before.is_some_and(|begin| (begin.term, begin.leader) == (entry.term, entry.leader));
        is_covered || by_the_same && self.last().is_some_and(|last| entry.index <= last.index)
    }

    /// Those with a log, best first: what is known to be committed before what is newer, and of equal ones the node with the
    /// lowest number.
    fn best_first(mut replicas: Vec<Self>) -> Vec<Self> {
        replicas.retain(|replica| replica.last().is_some());
        // All that is committed lies in one sequence, so who has the last of it has all.
        let known = replicas.iter().filter_map(|replica| replica.group.committed).max_by_key(|entry| entry.index);
        let rank = |replica: &Self| {
            let has_all = known.is_none_or(|known| replica.has(known));
            (has_all, replica.last().map(age), std::cmp::Reverse(replica.node))
        };
        replicas.sort_by_key(|replica| std::cmp::Reverse(rank(replica)));
        replicas
    }

    fn of(reports: &'a [NodeReport], group: GroupId) -> Result<Vec<Self>, Objection> {
        let one = |report: &'a NodeReport| {
            let found = report.groups.iter().find(|one| one.group == group);
            let found = found.ok_or(Objection::Incomplete(report.node, group))?;
            Ok(Replica { node: report.node, group: found })
        };
        reports.iter().map(one).collect()
    }
}

/// Whether those who are left decide for the group: they are the majority of each set of its voters.
fn has_majority(membership: &Membership, there: &BTreeSet<NodeId>) -> bool {
    let majority = |voters: &Vec<NodeId>| {
        let left = voters.iter().filter(|voter| there.contains(voter)).count();
        left * 2 > voters.len()
    };
    !membership.configurations.is_empty() && membership.configurations.iter().all(majority)
}

/// Reports that are of one site and of nodes that it counts on, in the order of the nodes.
fn agreeing(reports: &[NodeReport]) -> Result<Vec<NodeReport>, Objection> {
    let mut reports = reports.to_vec();
    reports.sort_by_key(|report| report.node);
    let first = reports.first().ok_or(Objection::NoReports)?;
    if let Some(other) = reports.iter().find(|other| other.site != first.site || other.log_groups != first.log_groups) {
        return Err(Objection::TwoSites(first.site_name.clone(), other.site_name.clone()));
    }
    if let Some(pair) = reports.windows(2).find(|pair| pair[0].node == pair[1].node) {
        return Err(Objection::Twice(pair[0].node));
    }
    let newest = reports.iter().map(|report| report.incarnation).max().unwrap_or(0);
    match reports.iter().find(|report| report.incarnation < newest) {
        Some(behind) => Err(Objection::TwoIncarnations { node: behind.node, has: behind.incarnation, newest }),
        None => Ok(reports),
    }
}

/// What follows from these reports. `begin_empty` gives up the groups of which nobody has anything.
pub fn plan(reports: &[NodeReport], begin_empty: bool) -> Result<Plan, Objection> {
    let reports = agreeing(reports)?;
    let control = Replica::best_first(Replica::of(&reports, GroupId::CONTROL)?);
    let best = control.first().and_then(|best| reports.iter().find(|report| report.node == best.node));
    let known = best.ok_or(Objection::Incomplete(reports[0].node, GroupId::CONTROL))?;
    let left: BTreeSet<NodeId> = reports.iter().map(|report| report.node).collect();
    let counted: BTreeMap<NodeId, &NodeRecord> =
        known.nodes.iter().filter(|node| node.state != NodeState::Removed).map(|node| (node.node, node)).collect();
    if let Some(stranger) = left.iter().find(|node| !counted.contains_key(node)) {
        return Err(Objection::NotOfTheSite(*stranger));
    }
    let (survivors, lost): (Vec<NodeRecord>, Vec<NodeRecord>) =
        counted.values().map(|node| (*node).clone()).partition(|node| left.contains(&node.node));
    let mut planned = Planned::new(&reports, known, &left);
    planned.control(control);
    for group in (1..=known.log_groups).map(GroupId) {
        planned.log_group(group, Replica::of(&reports, group)?);
    }
    planned.finish(survivors, lost, begin_empty)
}

/// A plan that is being made, group by group.
struct Planned<'a> {
    reports: &'a [NodeReport],
    /// The report with the best state of the control group.
    known: &'a NodeReport,
    left: &'a BTreeSet<NodeId>,
    kept: Vec<GroupId>,
    forced: Vec<ForcedGroup>,
    groups: Vec<GroupRecord>,
    emptied: Vec<GroupId>,
    may_lack: Vec<LogReport>,
}

impl<'a> Planned<'a> {
    fn new(reports: &'a [NodeReport], known: &'a NodeReport, left: &'a BTreeSet<NodeId>) -> Self {
        let (kept, forced, groups, emptied, may_lack) = (vec![], vec![], vec![], vec![], vec![]);
        Self { reports, known, left, kept, forced, groups, emptied, may_lack }
    }

    /// A term in which nobody who is left has voted or written.
    fn term_above_all(&self, group: GroupId) -> u64 {
        let said = self.reports.iter().flat_map(|report| &report.groups).filter(|one| one.group == group);
        let terms = said.flat_map(|one| [one.vote.map(|vote| vote.term), one.last.map(|last| last.term)]);
        terms.flatten().max().unwrap_or(0).saturating_add(1)
    }

    fn force(&mut self, best: Replica<'_>, listeners: Vec<NodeId>) {
        let group = best.group.group;
        let (member, last) = (best.group.member, best.last());
        let index = last.map_or(0, |last| last.index.saturating_add(1));
        let entry = LogPosition { term: self.term_above_all(group), leader: member, index };
        self.forced.push(ForcedGroup { group, member, last, entry, listeners });
    }

    /// Every node listens to the control group, so every one that is left goes on doing so.
    fn control(&mut self, best_first: Vec<Replica<'_>>) {
        let Some(best) = best_first.first() else { return };
        if has_majority(&best.group.membership, self.left) {
            return self.kept.push(GroupId::CONTROL);
        }
        let listeners = self.left.iter().copied().filter(|node| *node != best.node).collect();
        self.force(*best, listeners);
    }

    fn log_group(&mut self, group: GroupId, replicas: Vec<Replica<'_>>) {
        let mut best_first = Replica::best_first(replicas);
        let Some(best) = best_first.first().copied() else { return self.emptied.push(group) };
        let there = best_first.iter().map(|replica| replica.group.member).collect();
        if has_majority(&best.group.membership, &there) {
            return self.kept.push(group);
        }
        let before = self.before(group);
        // A replica whose node has left the group already, and has not forgotten it, may have the newest log there is; it is of
        // no use as one of several.
        let of_the_group =
            |member: &NodeId| best.group.membership.nodes.contains(member) || before.members.contains(member);
        let others = best_first.split_off(1).into_iter().map(|replica| replica.group.member);
        let (mut members, mut leaving) = (vec![best.group.member], Vec::new());
        for member in others {
            match members.len() < group_size(self.left.len()) && of_the_group(&member) {
                true => members.push(member),
                false => leaving.push(member),
            }
        }
        let listeners = members[1..].to_vec();
        let stints = before.stints.saturating_add(1);
        self.groups.push(GroupRecord { group, members, leader: best.group.member, leaving, stints });
        self.may_lack.extend(best.group.logs.iter().cloned());
        self.force(best, listeners);
    }

    fn before(&self, group: GroupId) -> GroupRecord {
        let nobody = || GroupRecord { group, members: Vec::new(), leader: NodeId(0), leaving: Vec::new(), stints: 0 };
        self.known.assigned.iter().find(|record| record.group == group).cloned().unwrap_or_else(nobody)
    }

    /// Begins the groups of which nobody has anything on the nodes that are left, in turn.
    fn begin_empty(&mut self) {
        let nodes: Vec<NodeId> = self.left.iter().copied().collect();
        for group in self.emptied.clone() {
            let stint = self.before(group).stints.saturating_add(1);
            let member = nodes[group.0 as usize % nodes.len()].member(stint);
            let entry = LogPosition { term: self.term_above_all(group), leader: member, index: 0 };
            let (members, leaving, stints) = (vec![member], Vec::new(), stint.saturating_add(1));
            self.groups.push(GroupRecord { group, members, leader: member, leaving, stints });
            self.forced.push(ForcedGroup { group, member, last: None, entry, listeners: Vec::new() });
        }
    }

    fn finish(
        mut self,
        survivors: Vec<NodeRecord>,
        lost: Vec<NodeRecord>,
        begin_empty: bool,
    ) -> Result<Plan, Objection> {
        if self.forced.is_empty() && self.emptied.is_empty() {
            return Err(Objection::NothingLost);
        }
        let count = self.known.log_groups;
        let is_gone = |log: LogId| count > 0 && self.emptied.contains(&GroupId::of_log(log, count));
        let gone: Vec<NamedLog> = self.known.logs.iter().filter(|log| is_gone(log.log)).cloned().collect();
        if !self.emptied.is_empty() && !begin_empty {
            return Err(Objection::NothingLeft { groups: self.emptied, logs: gone.len() });
        }
        self.begin_empty();
        let incarnation = self.known.incarnation.saturating_add(1);
        let out: Vec<NodeId> = lost.iter().map(|node| node.node).collect();
        let removed = self.known.nodes.iter().filter(|node| node.state == NodeState::Removed).map(|node| node.node);
        let fenced: BTreeSet<NodeId> = removed.chain(out.iter().copied()).collect();
        let recovery = Recovery { incarnation, lost: out, groups: self.groups, emptied: self.emptied };
        Ok(Plan {
            site: self.known.site_name.clone(),
            survivors,
            lost,
            kept: self.kept,
            file: RecoveredFile { recovery, forced: self.forced, fenced: fenced.into_iter().collect() },
            may_lack: self.may_lack,
            gone,
        })
    }
}
