//! Plans for a site that has lost a quorum: who goes on with what, what is refused, and that nothing that was committed and is
//! left is given up, whatever a group has been through.

use farside::cluster::recovery::{Objection, Plan, plan};
use farside::state::{ControlState, Database};
use farside_codec::Field;
use farside_codec::cluster::{GroupRecord, NodeBeat, NodeJoin, NodeRecord, NodeState};
use farside_codec::command::{ControlCommand, ControlOutcome, PendingToken, SiteRecord, TokenPurpose};
use farside_codec::delta::Generation;
use farside_codec::ids::{DeltaHash, DeviceId, GroupId, Hlc, Label, LogId, NodeId, SiteId};
use farside_codec::record::wal::{LogPosition, Membership, Vote};
use farside_codec::recovery::{GroupReport, LogReport, NamedLog, NodeReport, Recovery};
use farside_raft::{Applied, StateMachine};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}

fn nodes(numbers: impl IntoIterator<Item = u64>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

fn node(number: u64) -> NodeRecord {
    NodeRecord {
        node: NodeId(number),
        name: label(&format!("node-{number}")),
        endpoint: "127.0.0.1:1".into(),
        shards: 1,
        rack: None,
        state: NodeState::Up,
        devices: Vec::new(),
    }
}

fn at(term: u64, leader: u64, index: u64) -> Option<LogPosition> {
    Some(LogPosition { term, leader: NodeId(leader), index })
}

fn log(group: u32) -> NamedLog {
    NamedLog { log: LogId([group as u8; 16]), tenant: label("acme"), name: label(&format!("log-{group}")) }
}

/// What a node has of a group with these voters.
fn replica(group: u32, member: u64, last: Option<LogPosition>, voters: &[u64]) -> GroupReport {
    let voters = nodes(voters.iter().copied());
    let generation = Generation { counter: 1, site: SiteId([1; 16]), incarnation: 0 };
    let (sequence, hash, time) = (last.map_or(0, |last| last.index), DeltaHash::ZERO, Hlc(9));
    let logs = vec![LogReport { log: log(group), generation, home: true, sequence, hash, time }];
    GroupReport {
        group: GroupId(group),
        member: NodeId(member),
        vote: last.map(|last| Vote { term: last.term, leader: last.leader, committed: true }),
        last,
        committed: None,
        covered: None,
        leaders: Vec::new(),
        membership: Membership { configurations: vec![voters.clone()], nodes: voters },
        logs: if group == 0 { Vec::new() } else { logs },
    }
}

/// A site of five nodes with one log group, in which all of them vote.
fn report(number: u64, control: Option<LogPosition>, data: Option<LogPosition>) -> NodeReport {
    let all = [1, 2, 3, 4, 5];
    let (group, members) = (GroupId(1), nodes(all));
    NodeReport {
        site: SiteId([1; 16]),
        site_name: label("near"),
        incarnation: 0,
        node: NodeId(number),
        made: Hlc(1),
        log_groups: 1,
        nodes: all.into_iter().map(node).collect(),
        assigned: vec![GroupRecord { group, members, leader: NodeId(1), leaving: Vec::new(), stints: 7 }],
        logs: vec![log(1)],
        groups: vec![replica(0, number, control, &all), replica(1, number, data, &all)],
    }
}

fn two() -> Vec<NodeReport> {
    vec![report(2, at(3, 1, 40), at(5, 4, 90)), report(5, at(3, 1, 38), at(6, 1, 80))]
}

fn planned(reports: &[NodeReport]) -> Plan {
    plan(reports, false).expect("a plan")
}

#[test]
fn the_newest_log_goes_on_and_not_the_longest() {
    let plan = planned(&two());
    let control = plan.forced(GroupId::CONTROL).expect("its majority is gone");
    assert_eq!((control.member, control.last), (NodeId(2), at(3, 1, 40)));
    assert_eq!((control.entry, control.listeners.clone()), (at(4, 2, 41).expect("a place"), nodes([5])));
    let data = plan.forced(GroupId(1)).expect("its majority is gone");
    assert_eq!((data.member, data.last, data.entry), (NodeId(5), at(6, 1, 80), at(7, 5, 81).expect("a place")));
    assert_eq!(plan.file.recovery.lost, nodes([1, 3, 4]));
    assert_eq!((plan.file.recovery.incarnation, plan.file.fenced.clone()), (1, nodes([1, 3, 4])));
    // Two nodes carry groups of one voter; the other one forgets what it has once that voter leads.
    let record = &plan.file.recovery.groups[0];
    assert_eq!((record.members.clone(), record.leader), (nodes([5]), NodeId(5)));
    assert_eq!((record.leaving.clone(), record.stints), (nodes([2]), 8));
    assert_eq!(plan.may_lack.iter().map(|log| log.sequence).collect::<Vec<_>>(), [80]);
}

#[test]
fn a_vote_that_nobody_followed_raises_the_term() {
    let mut reports = two();
    reports[0].groups[1].vote = Some(Vote { term: 12, leader: NodeId(2), committed: false });
    assert_eq!(planned(&reports).forced(GroupId(1)).map(|forced| forced.entry.term), Some(13));
}

#[test]
fn a_group_that_has_its_majority_is_left_alone() {
    let mut reports = two();
    for report in &mut reports {
        report.groups[1] = replica(1, report.node.0, at(5, 2, 90), &[2, 3, 5]);
    }
    let plan = planned(&reports);
    assert_eq!((plan.kept.clone(), plan.file.recovery.groups.clone()), (vec![GroupId(1)], Vec::new()));
    // In the middle of a change both majorities have to be there.
    for report in &mut reports {
        report.groups[1].membership.configurations.push(nodes([1, 3, 4]));
    }
    assert!(planned(&reports).forced(GroupId(1)).is_some());
}

#[test]
fn who_has_left_a_group_is_no_voter_of_it_and_may_have_the_newest_log() {
    // Node 5 was a member in an earlier stint, which does not count in the voters' set.
    let stint = NodeId(5).member(3).0;
    let mut reports = two();
    reports[0].groups[1] = replica(1, 0, None, &[]);
    reports[1].groups[1] = replica(1, stint, at(6, 1, 80), &[2, 3, 5]);
    let plan = planned(&reports);
    assert_eq!(plan.forced(GroupId(1)).map(|forced| forced.member), Some(NodeId(stint)));
    assert_eq!(plan.file.recovery.groups[0].members, nodes([stint]));
}

#[test]
fn four_that_are_left_go_on_with_three_voters() {
    let mut reports: Vec<NodeReport> = (1..5).map(|number| report(number, at(3, 1, 40), at(5, 1, number))).collect();
    for report in &mut reports {
        report.nodes.extend((6..12).map(node));
        report.groups[0].membership.configurations = vec![nodes(5..12)];
        report.groups[1].membership.configurations = vec![nodes(4..12)];
    }
    let plan = planned(&reports);
    let record = &plan.file.recovery.groups[0];
    assert_eq!((record.members.clone(), record.leaving.clone()), (nodes([4, 3, 2]), nodes([1])));
    assert_eq!(plan.forced(GroupId(1)).map(|forced| forced.listeners.clone()), Some(nodes([3, 2])));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let check = |change: &dyn Fn(&mut Vec<NodeReport>), expected: Objection| {
        let mut reports = two();
        change(&mut reports);
        assert_eq!(plan(&reports, false), Err(expected));
    };
    check(&|reports| reports.clear(), Objection::NoReports);
    check(&|reports| reports[1].site = SiteId([2; 16]), Objection::TwoSites(label("near"), label("near")));
    let behind = Objection::TwoIncarnations { node: NodeId(2), has: 0, newest: 1 };
    check(&|reports| reports[1].incarnation = 1, behind);
    check(&|reports| reports[1].node = NodeId(2), Objection::Twice(NodeId(2)));
    check(&|reports| drop(reports[1].groups.pop()), Objection::Incomplete(NodeId(5), GroupId(1)));
    let removed = |reports: &mut Vec<NodeReport>| reports[0].nodes[4].state = NodeState::Removed;
    check(&removed, Objection::NotOfTheSite(NodeId(5)));
    let more = |reports: &mut Vec<NodeReport>| reports.push(report(1, at(3, 1, 41), at(6, 1, 81)));
    check(&more, Objection::NothingLost);
    let nothing = |reports: &mut Vec<NodeReport>| {
        reports.iter_mut().for_each(|report| report.groups[1] = replica(1, 0, None, &[]));
    };
    check(&nothing, Objection::NothingLeft { groups: vec![GroupId(1)], logs: 1 });
}

#[test]
fn a_group_of_which_nobody_has_anything_begins_empty_if_that_is_said() {
    let mut reports = two();
    reports.iter_mut().for_each(|report| report.groups[1] = replica(1, 0, None, &[]));
    let plan = plan(&reports, true).expect("a plan");
    let forced = plan.forced(GroupId(1)).expect("it begins");
    assert_eq!((forced.last, forced.entry.index, forced.member), (None, 0, NodeId(5).member(8)));
    assert_eq!((plan.file.recovery.emptied.clone(), plan.gone.clone()), (vec![GroupId(1)], vec![log(1)]));
    assert_eq!(plan.file.recovery.groups[0].members, vec![NodeId(5).member(8)]);
}

#[test]
fn what_is_known_to_be_committed_goes_on_before_what_is_newer() {
    // Node 2 wrote an entry in term 2 that nobody else has; node 5 was told that the other one at that place is committed.
    let mut reports = vec![report(2, at(3, 1, 40), at(2, 2, 2)), report(5, at(3, 1, 40), at(1, 1, 2))];
    let leaders =
        |all: &[(u64, u64, u64)]| all.iter().filter_map(|(term, leader, index)| at(*term, *leader, *index)).collect();
    reports[0].groups[1].leaders = leaders(&[(1, 1, 0), (2, 2, 2)]);
    reports[1].groups[1].leaders = leaders(&[(1, 1, 0)]);
    let chosen = |reports: &[NodeReport]| planned(reports).forced(GroupId(1)).map(|forced| forced.member);
    assert_eq!(chosen(&reports), Some(NodeId(2)), "nobody knows of either");
    reports[1].groups[1].committed = at(1, 1, 1);
    assert_eq!(chosen(&reports), Some(NodeId(2)), "both have that one");
    reports[1].groups[1].committed = at(1, 1, 2);
    assert_eq!(chosen(&reports), Some(NodeId(5)));
    reports[0].groups[1].covered = at(2, 2, 2);
    reports[0].groups[1].leaders.clear();
    assert_eq!(chosen(&reports), Some(NodeId(2)), "what a snapshot covers is committed as well");
}

/// A group's logs as Raft writes them: an entry is the term that wrote it.
struct Group {
    logs: Vec<Vec<u64>>,
    /// How much each node knows to be committed.
    known: Vec<usize>,
    committed: Vec<u64>,
    /// How long what was committed was each time that a leader committed an entry of its own.
    marks: Vec<usize>,
}

impl Group {
    fn new() -> Self {
        Self { logs: vec![vec![0]; 5], known: vec![1; 5], committed: vec![0], marks: vec![1] }
    }

    /// A leader of the next term, if a majority would vote for it; what it has others take, and whom it tells of a commit.
    fn term(&mut self, term: u64, leader: usize, writes: usize, takes: &[(usize, bool)]) {
        let age = |log: &Vec<u64>| (log.last().copied(), log.len());
        let own = age(&self.logs[leader]);
        let voters = self.logs.iter().filter(|log| age(log) <= own).count();
        if voters * 2 <= self.logs.len() {
            return;
        }
        self.logs[leader].extend(std::iter::repeat_n(term, writes));
        let written = self.logs[leader].clone();
        let mut taken = vec![0; self.logs.len()];
        for (node, (take, _)) in takes.iter().enumerate() {
            // A follower's log is made the leader's up to what it is sent.
            taken[node] = take % (written.len() + 1);
            let log = &mut self.logs[node];
            let same = log.iter().zip(&written).take_while(|(ours, theirs)| ours == theirs).count();
            if node != leader && taken[node] > same {
                log.truncate(same);
                log.extend_from_slice(&written[same..taken[node]]);
            }
        }
        // What a majority has of the leader's own term is committed, with everything before it.
        for length in (self.committed.len()..=written.len()).rev() {
            let holders = self.logs.iter().filter(|log| log.starts_with(&written[..length])).count();
            if written[length - 1] == term && holders * 2 > self.logs.len() {
                assert!(written.starts_with(&self.committed), "the model is Raft");
                self.committed = written[..length].to_vec();
                self.marks.push(length);
                self.known[leader] = length;
                break;
            }
        }
        // Who took something may hear how much of it is committed, as far as the leader knows.
        for (node, (_, told)) in takes.iter().enumerate() {
            if *told {
                self.known[node] = self.known[node].max(self.known[leader].min(taken[node]));
            }
        }
    }

    /// What a node has, as it would report it.
    fn report(&self, number: u64) -> NodeReport {
        let log = &self.logs[number as usize - 1];
        let place = |index: usize| at(log[index], 1, index as u64);
        let mut leaders: Vec<LogPosition> = (0..log.len()).filter_map(place).collect();
        leaders.dedup_by_key(|position| position.term);
        let mut report = report(number, place(log.len() - 1), place(log.len() - 1));
        for group in &mut report.groups {
            group.leaders = leaders.clone();
            group.committed = place(self.known[number as usize - 1] - 1);
        }
        report
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// What any node that is left knows to be committed goes on, and so does what was committed with an entry that any of
    /// them has; and the plan does not depend on the reports' order.
    #[test]
    fn nothing_that_is_left_and_known_to_be_committed_is_given_up(
        terms in prop::collection::vec(
            (0usize..5, 0usize..4, prop::collection::vec((0usize..30, any::<bool>()), 5)), 1..12),
        left in prop::collection::btree_set(1u64..6, 1..3),
        backwards in any::<bool>(),
    ) {
        let mut group = Group::new();
        for (term, (leader, writes, takes)) in (1..).zip(&terms) {
            group.term(term, *leader, *writes, takes);
        }
        let mut reports: Vec<NodeReport> = left.iter().map(|number| group.report(*number)).collect();
        if backwards {
            reports.reverse();
        }
        let made = plan(&reports, false);
        reports.reverse();
        prop_assert_eq!(&made, &plan(&reports, false));
        let made = made.expect("two of five are no majority");
        let chosen = made.forced(GroupId(1)).expect("forced").member;
        let chosen = &group.logs[chosen.0 as usize - 1];
        for number in &left {
            let log = &group.logs[*number as usize - 1];
            let known = group.known[*number as usize - 1];
            prop_assert!(log.starts_with(&group.committed[..known]), "the model is Raft");
            let marked = group.marks.iter().filter(|mark| log.starts_with(&group.committed[..**mark])).max();
            let keeps = known.max(marked.copied().unwrap_or(0));
            prop_assert!(chosen.starts_with(&group.committed[..keeps]), "{:?} lacks what {:?} has", chosen, log);
        }
        let lost: BTreeSet<NodeId> = made.file.recovery.lost.iter().copied().collect();
        prop_assert!(left.iter().all(|number| !lost.contains(&NodeId(*number))));
        prop_assert_eq!(lost.len() + left.len(), 5);
    }
}

/// What the control group says to a command.
fn apply(state: &mut ControlState, command: &ControlCommand) -> ControlOutcome {
    let outcome = state.apply(&[command.to_bytes()], &Applied::default()).expect("applied").remove(0);
    ControlOutcome::from_bytes(outcome).expect("an outcome")
}

#[test]
fn the_control_group_lets_the_lost_go_and_gives_groups_their_members_in_one_step() {
    let directory = tempfile::tempdir().expect("a directory");
    let (database, _) = Database::open(&directory.path().join("state")).expect("a state file");
    let mut state = ControlState::new(database).expect("a state");
    let beat = |number: u64| {
        let devices = vec![(DeviceId([number as u8; 16]), 1 << 30)];
        let (node, endpoint) = (NodeId(number), "127.0.0.1:1".to_owned());
        ControlCommand::RegisterNode(NodeBeat { node, endpoint, shards: 1, devices })
    };
    let found = SiteRecord { site: SiteId([1; 16]), name: label("near"), incarnation: 0, groups: 2 };
    let secret = [7; 32];
    let (secret_hash, purpose) = (*blake3::hash(&secret).as_bytes(), TokenPurpose::Node(None));
    let join = NodeJoin { secret, attempt: [8; 16], endpoint: "127.0.0.1:2".into(), shards: 1, rack: None };
    let assigned =
        GroupRecord { group: GroupId(1), members: nodes([1]), leader: NodeId(1), leaving: Vec::new(), stints: 5 };
    let before = [
        ControlCommand::Found(found),
        beat(1),
        ControlCommand::PutToken(PendingToken { secret_hash, purpose, expires: Hlc(9) }),
        ControlCommand::JoinNode((join, Hlc(1))),
        beat(2),
        ControlCommand::AssignGroup(assigned.clone()),
    ];
    for command in &before {
        let outcome = apply(&mut state, command);
        assert!(!matches!(outcome, ControlOutcome::Refused(_)), "{outcome:?}");
    }
    let forced = GroupRecord { members: nodes([2]), leader: NodeId(2), stints: 3, ..assigned.clone() };
    let recovery = Recovery { incarnation: 1, lost: nodes([1, 9]), groups: vec![forced], emptied: vec![GroupId(2)] };
    let nobody = GroupRecord { leader: NodeId(4), ..recovery.groups[0].clone() };
    let untrue = ControlCommand::Recover(Recovery { groups: vec![nobody], ..recovery.clone() });
    assert!(matches!(apply(&mut state, &untrue), ControlOutcome::Refused(_)));
    assert_eq!(state.view().nodes[&NodeId(1)].state, NodeState::Up, "what is refused does nothing");
    let recover = ControlCommand::Recover(recovery);
    assert_eq!(apply(&mut state, &recover), ControlOutcome::Done);
    let view = state.view();
    assert_eq!(view.site.as_ref().map(|site| site.incarnation), Some(1));
    assert_eq!(
        (view.nodes[&NodeId(1)].state.clone(), view.nodes[&NodeId(1)].present().count()),
        (NodeState::Removed, 0)
    );
    assert_eq!((view.groups[&GroupId(1)].members.clone(), view.groups[&GroupId(1)].stints), (nodes([2]), 6));
    assert_eq!(apply(&mut state, &recover), ControlOutcome::Done);
    assert_eq!(format!("{:?}", state.view()), format!("{view:?}"), "once is enough");
    // Who was lost is refused by name, and what was decided before does not count.
    for late in
        [beat(1), ControlCommand::SetNodeState((NodeId(1), NodeState::Up)), ControlCommand::AssignGroup(assigned)]
    {
        assert!(matches!(apply(&mut state, &late), ControlOutcome::Refused(_)), "{late:?}");
    }
}
