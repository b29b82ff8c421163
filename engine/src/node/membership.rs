//! Keeps the members of groups as they should be: every shard starts and stops its groups and, where it leads one, takes
//! the next step towards the members that the control group wants; the control group's leader says what it wants.

use super::limits::{BEAT, HAND_OVER_REST, HELD_UP, LEADS_FIRST, STEP_PATIENCE, TEND};
use super::links::misanswered;
use super::recovered;
use super::routing;
use super::shard::Shard;
use super::start;
use super::{clocks, collecting};
use crate::cluster::map::domains;
use crate::cluster::membership::{Candidate, Standing, Step, assign, members, next_step};
use crate::state::ControlView;
use farside_codec::cluster::{GroupRecord, NodeBeat, NodeRecord, NodeState};
use farside_codec::command::ControlCommand;
use farside_codec::ids::{GroupId, NodeId};
use farside_codec::message::{Refusal, Reply, Request};
use farside_io::disk::Disk;
use farside_raft::{Group, MembershipError, SnapshotStore, StateMachine};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Starts and stops the shard's groups, and leads those that it leads where they should be.
pub(super) async fn keep_groups<D: Disk>(shard: Rc<Shard<D>>) {
    let mut led: BTreeMap<GroupId, Led> = BTreeMap::new();
    loop {
        tokio::time::sleep(shard.pace(TEND)).await;
        if shard.is_alone() || recovered::is_pending(&shard) {
            continue;
        }
        if let Err(error) = start_and_stop(&shard).await {
            tracing::error!(%error, "a group can't be started or stopped here");
        }
        let view = shard.view();
        let leads = |group: &GroupId| shard.group(*group).is_some_and(|group| group.is_leader());
        led.retain(|group, _| leads(group));
        for group in shard.groups().into_iter().filter(Group::is_leader) {
            let Some(record) = view.groups.get(&group.id()) else { continue };
            let members: BTreeSet<NodeId> = record.members.iter().copied().collect();
            let now = shard.clock.clock().monotonic();
            let led = led.entry(group.id()).or_insert(Led { since: now, refused: None });
            let leader = wants_leader(&shard, led, record);
            match tend(&shard, &group, &members, &BTreeSet::new(), leader).await {
                Tended::Rests if !record.leaving.is_empty() => {
                    let settled = ControlCommand::SettleGroup((group.id(), record.leaving.clone()));
                    // Said again at the next turn.
                    let _ = shard.control(&shard.by_itself(), settled).await;
                }
                Tended::Refused => led.refused = leader.map(|leader| (leader, shard.clock.clock().monotonic())),
                _ => {}
            }
        }
        if let Some(control) = shard.control.clone().filter(Group::is_leader) {
            let (voters, listeners) = control_members(&view, &control.status().voters);
            // Whatever came of it, the next turn finds what is left to do.
            let leader = clocks::objection(&shard).and_then(|_| somebody_else(&shard, &voters, None));
            let _ = tend(&shard, &control, &voters, &listeners, leader).await;
        }
    }
}

/// What a shard remembers of a group for as long as it leads it.
struct Led {
    since: Duration,
    /// To whom it could not hand over, and when.
    refused: Option<(NodeId, Duration)>,
}

/// Who should lead.
fn wants_leader<D: Disk>(shard: &Shard<D>, led: &Led, record: &GroupRecord) -> Option<NodeId> {
    if clocks::objection(shard).is_some() {
        // Nobody can write until somebody else leads: another member is tried at once.
        return somebody_else(shard, &record.members, led.refused.map(|(node, _)| node));
    }
    let now = shard.clock.clock().monotonic();
    let passed = |since: Duration, rest: Duration| now.saturating_sub(since) >= rest;
    // Whoever has just handed over has a reason, such as a clock that this node has not looked at yet.
    let may = passed(led.since, LEADS_FIRST) && led.refused.is_none_or(|(_, at)| passed(at, HAND_OVER_REST));
    Some(record.leader).filter(|leader| may && !shard.clocks.is_wrong(leader.node()))
}

/// Another member that answers, and whose clock is not known to be wrong; one that has just refused only if there is no other.
fn somebody_else<'a, D: Disk>(
    shard: &Shard<D>,
    members: impl IntoIterator<Item = &'a NodeId>,
    refused: Option<NodeId>,
) -> Option<NodeId> {
    let fits = |node: NodeId| node != shard.site.node && shard.nodes.answers(node) && !shard.clocks.is_wrong(node);
    let fitting = members.into_iter().copied().filter(|member| fits(member.node()));
    fitting.min_by_key(|member| Some(*member) == refused)
}

/// Voters of the control group, and those who listen: everybody else, because everybody needs to know.
fn control_members(view: &ControlView, current: &BTreeSet<NodeId>) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
    let chosen = members(current, &candidates(view), &dead(view), |_| 0);
    let there = view.nodes.values().filter(|node| node.state != NodeState::Removed && node.shards > 0);
    let listeners = there.map(|node| node.node).filter(|node| !chosen.contains(node)).collect();
    (chosen, listeners)
}

/// Nodes that may be members of groups.
fn candidates(view: &ControlView) -> Vec<Candidate> {
    let domains = domains(view.nodes.values());
    let up = view.nodes.values().filter(|node| node.state == NodeState::Up);
    up.map(|node| Candidate { node: node.node, domain: domains[&node.node] }).collect()
}

fn dead(view: &ControlView) -> BTreeSet<NodeId> {
    view.nodes.values().filter(|node| node.state == NodeState::Dead).map(|node| node.node).collect()
}

/// How many groups are led by this shard and have the voters that they are to have, all of which live.
pub(super) fn settled<D: Disk>(shard: &Shard<D>) -> usize {
    let view = shard.view();
    let dead = dead(&view);
    let is_settled = |group: &Group<D, _, _>| {
        let record = view.group(group.id());
        let members: BTreeSet<NodeId> = record.members.iter().copied().collect();
        let lives = members.iter().all(|member| !dead.contains(&member.node()));
        group.is_leader() && lives && record.leaving.is_empty() && group.status().settled_voters == members
    };
    shard.groups().iter().filter(|group| is_settled(group)).count()
}

/// Whether the control group is about to get other voters, or has one that is dead.
pub(super) fn control_is_changing<D: Disk>(shard: &Shard<D>, view: &ControlView) -> bool {
    let voters = shard.control.as_ref().map(|control| control.status().settled_voters);
    voters.is_some_and(|voters| control_members(view, &voters).0 != voters || !dead(view).is_disjoint(&voters))
}

#[derive(PartialEq, Eq)]
enum Tended {
    Rests,
    Moves,
    Refused,
}

/// Takes the next step in a group that is led here.
async fn tend<D: Disk, S: StateMachine, P: SnapshotStore>(
    shard: &Rc<Shard<D>>,
    group: &Group<D, S, P>,
    members: &BTreeSet<NodeId>,
    listeners: &BTreeSet<NodeId>,
    leader: Option<NodeId>,
) -> Tended {
    let status = group.status();
    let standing = Standing {
        own: group.member(),
        voters: status.voters,
        learners: status.learners,
        replicated: status.replicated,
        last_index: status.last_index.unwrap_or(0),
    };
    let step = next_step(&standing, members, listeners, leader, |member| shard.nodes.answers(member.node()));
    let Some(step) = step else {
        // What is only appended may be taken back: nobody leaves a group before its majority has let it go.
        let settled = standing.voters == *members && status.settled_voters == *members;
        return if settled { Tended::Rests } else { Tended::Moves };
    };
    tracing::info!(group = %group.id(), ?step, "a group's members change");
    let done = async {
        match &step {
            Step::AddLearner(node) => group.add_learner(*node).await,
            Step::ChangeVoters(voters) => group.change_voters(voters, false).await,
            Step::HandOver(node) => group.hand_over(*node).await,
            Step::RemoveLearners(nodes) => group.remove_learners(nodes).await,
        }
    };
    // Where the group has no majority now a step takes as long as that lasts, and the other groups must not wait for it.
    let Ok(done) = tokio::time::timeout(STEP_PATIENCE, done).await else { return Tended::Moves };
    match done {
        Ok(()) => Tended::Moves,
        Err(MembershipError::NotLeader(_) | MembershipError::Stopped) => Tended::Moves,
        Err(error) => {
            tracing::info!(group = %group.id(), %error, "a group's members did not change");
            Tended::Refused
        }
    }
}

/// Starts groups that this node is to be a member of, and forgets those that it has left.
async fn start_and_stop<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), super::NodeError> {
    let (view, own) = (shard.view(), shard.site.node);
    for record in view.groups.values().filter(|record| record.group.shard(shard.shards()) == shard.index) {
        let member = record.members.iter().find(|member| member.node() == own).copied();
        match (shard.group(record.group), member) {
            // While it is leaving, its leader may need it still, or may be it.
            // And one that was let in after what this node knows of is no leaver, but this node is behind.
            (Some(group), member)
                if Some(group.member()) != member
                    && !record.leaving.contains(&group.member())
                    && group.member().stint() <= record.stints =>
            {
                shard.groups.borrow_mut().remove(&record.group);
                group.leave().await.map_err(super::error::failed)?;
                group.state().borrow_mut().clear().map_err(super::error::failed)?;
                tracing::info!(group = %record.group, "this node has left the group");
            }
            (None, Some(member)) => {
                let group = start::join_log_group(shard, record.group, member).await?;
                shard.groups.borrow_mut().insert(record.group, group);
                tracing::info!(group = %record.group, "this node takes part in the group");
            }
            _ => {}
        }
    }
    Ok(())
}

/// While it leads the control group, says who is a member of what, and who is dead.
pub(super) async fn lead_site<D: Disk>(shard: Rc<Shard<D>>) {
    let mut led_since = None;
    let mut looked: Option<Duration> = None;
    loop {
        tokio::time::sleep(shard.pace(TEND)).await;
        let now = shard.clock.clock().monotonic();
        // A node that was held up has heard nobody meanwhile, and that is nobody's silence.
        if looked.replace(now).is_some_and(|before| now.saturating_sub(before) > HELD_UP) {
            led_since = None;
        }
        if !shard.leads_site() {
            led_since = None;
            continue;
        }
        if recovered::is_pending(&shard) {
            if let Err(refusal) = recovered::commit(&shard).await {
                tracing::info!(%refusal, "the site can't go on yet without the nodes that it has lost");
            }
            continue;
        }
        // Whoever has just begun to lead has heard nobody yet.
        let since = *led_since.get_or_insert(now);
        if let Err(refusal) = lead(&shard, now, since).await {
            tracing::info!(%refusal, "what the site's nodes are to do can't be decided now");
        }
    }
}

async fn lead<D: Disk>(shard: &Rc<Shard<D>>, now: Duration, since: Duration) -> Result<(), Refusal> {
    let view = shard.view();
    if view.nodes.len() < 2 {
        return Ok(());
    }
    for node in view.nodes.values().filter(|node| node.node != shard.site.node && node.state == NodeState::Up) {
        let heard = shard.heard.borrow().get(&node.node).copied().unwrap_or(since).max(since);
        let silent = now.saturating_sub(heard);
        if silent > shard.dead_after {
            if let Some(control) = &shard.control {
                // Whoever was cut off itself may not know yet that somebody else leads.
                control.confirm_leader().await.map_err(super::shard::propose_refusal)?;
            }
            tracing::error!(node = %node.name, seconds = silent.as_secs(), "the node counts as dead now");
            let dead = ControlCommand::SetNodeState((node.node, NodeState::Dead));
            shard.control(&shard.by_itself(), dead).await?;
            return Ok(());
        }
    }
    let records: BTreeMap<GroupId, GroupRecord> =
        (1..=shard.site.groups).map(GroupId).map(|group| (group, view.group(group))).collect();
    let by_node = |record: &GroupRecord| {
        let members: BTreeSet<NodeId> = record.members.iter().map(|member| member.node()).collect();
        (members, record.leader.node())
    };
    let current = records.iter().map(|(group, record)| (*group, by_node(record))).collect();
    for (group, (nodes, leader)) in assign(&current, &candidates(&view), &dead(&view)) {
        let Some(before) = records.get(&group) else { continue };
        if let Some(record) = changed(before, &nodes, leader) {
            shard.control(&shard.by_itself(), ControlCommand::AssignGroup(record)).await?;
        }
    }
    Ok(())
}

/// A group's record with these nodes as members. Those who were members keep their numbers, new ones get new ones; `None`
/// while one of them has not left yet.
fn changed(before: &GroupRecord, nodes: &BTreeSet<NodeId>, leader: NodeId) -> Option<GroupRecord> {
    let mut record = before.clone();
    let stays = |member: &NodeId| nodes.contains(&member.node());
    record.leaving.extend(before.members.iter().filter(|member| !stays(member)));
    record.members.retain(stays);
    for node in nodes {
        if record.leaving.iter().any(|member| member.node() == *node) {
            return None;
        }
        if !record.members.iter().any(|member| member.node() == *node) {
            record.stints += 1;
            record.members.push(node.member(record.stints));
        }
    }
    record.leader = record.members.iter().find(|member| member.node() == leader).copied()?;
    if record == *before {
        return None;
    }
    // Of two changes that were decided from the same record only one counts.
    record.stints += 1;
    Some(record)
}

/// Tells the site that this node is there, again and again.
pub(super) async fn beat<D: Disk>(shard: Rc<Shard<D>>) {
    loop {
        if !shard.is_alone()
            && let Err(refusal) = beat_once(&shard).await
        {
            tracing::info!(%refusal, "the site has not heard of this node now");
        }
        tokio::time::sleep(shard.pace(BEAT)).await;
    }
}

async fn beat_once<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), Refusal> {
    let beat = own_beat(shard);
    let Some(control) = &shard.control else { return Ok(()) };
    match control.leader() {
        Some(leader) if leader == shard.site.node => hear(shard, beat).await,
        Some(leader) => {
            let record = shard.node(leader)?;
            match routing::ask_node(shard, &record, 0, &Request::NodeBeat(beat)).await? {
                Reply::Epoch(epoch) if epoch > shard.store.gc_epoch() => collecting::set_epoch(shard, epoch).await,
                Reply::Epoch(_) => Ok(()),
                _ => Err(misanswered()),
            }
        }
        // Whoever leads knows this node from its joining, and is heard of by this node as soon as it leads.
        None => Ok(()),
    }
}

pub(super) fn own_beat<D: Disk>(shard: &Shard<D>) -> NodeBeat {
    let working = shard.store.status().devices.into_iter();
    // One that is to go leaves the placement map by not being named.
    let working = working.filter(|device| device.state == crate::store::DeviceState::Ok && !device.leaving);
    let devices = working.filter_map(|device| Some((device.id?, device.bytes * u64::from(shard.shards())))).collect();
    NodeBeat { node: shard.site.node, endpoint: shard.advertised.to_string(), shards: shard.shards(), devices }
}

/// Hears a node. Where it says something new, that is committed.
pub(super) async fn hear<D: Disk>(shard: &Rc<Shard<D>>, beat: NodeBeat) -> Result<(), Refusal> {
    let now = shard.clock.clock().monotonic();
    shard.heard.borrow_mut().insert(beat.node, now);
    if is_news(shard.view().nodes.get(&beat.node), &beat) {
        shard.control(&shard.by_itself(), ControlCommand::RegisterNode(beat)).await?;
    }
    Ok(())
}

fn is_news(known: Option<&NodeRecord>, beat: &NodeBeat) -> bool {
    let Some(known) = known else { return true };
    let on_map: BTreeSet<_> = known.present().map(|device| device.device).collect();
    let there: BTreeSet<_> = beat.devices.iter().map(|(device, _)| *device).collect();
    let waits = matches!(known.state, NodeState::Joining | NodeState::Dead);
    waits
        || known.endpoint != beat.endpoint
        || known.shards != beat.shards
        || known.state == NodeState::Up && on_map != there
        || known.state == NodeState::Removed
}
