//! What the control group agrees on about the site's nodes: who is in, where, with which devices, and who votes where.

use super::control::{ControlView, Kind, Outcome, full, key, token_purpose, use_up, wrong_token};
use super::database::{Change, Table};
use super::limits::{MAX_DEVICES, MAX_NODES};
use farside_codec::Field;
use farside_codec::cluster::{DeviceRecord, GroupRecord, NodeBeat, NodeJoin, NodeRecord, NodeState};
use farside_codec::command::TokenPurpose;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{DeviceId, GroupId, Hlc, Label, NodeId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_raft::StateError;
use std::collections::BTreeSet;

fn number(node: NodeId) -> [u8; 8] {
    node.0.to_be_bytes()
}

/// What a node is called that was given no name.
fn own_name(node: NodeId) -> Label {
    Label::parse(&format!("node-{node}")).expect("a word and a number make a label")
}

fn no_node(node: NodeId) -> Outcome {
    Err(Refusal::new(RefusalCode::NotFound, format!("there is no node {node}")))
}

pub(super) fn put_node(change: &Change, view: &mut ControlView, node: NodeRecord) -> Result<(), StateError> {
    change.put(Table::Control, &key(Kind::Node, &number(node.node)), &node.to_bytes())?;
    view.add_node(node);
    Ok(())
}

/// The epoch of a change of the placement map.
pub(super) fn next_epoch(change: &Change, view: &mut ControlView) -> Result<u64, StateError> {
    view.placement_epoch += 1;
    change.put(Table::Control, &key(Kind::Epoch, &[]), &view.placement_epoch.to_bytes())?;
    Ok(view.placement_epoch)
}

/// Has chunks cut another way. Whoever looks after them goes by a new epoch from here on.
pub(super) fn set_geometry(change: &Change, view: &mut ControlView, geometry: Geometry) -> Result<Outcome, StateError> {
    if view.geometry != Some(geometry) {
        change.put(Table::Control, &key(Kind::Geometry, &[]), &geometry.to_bytes())?;
        view.geometry = Some(geometry);
        next_epoch(change, view)?;
    }
    Ok(Ok(()))
}

/// Lets a node in that shows a token, and answers with its number: the same for a repeated attempt.
pub(super) fn join(
    change: &Change,
    view: &mut ControlView,
    join: NodeJoin,
    time: Hlc,
) -> Result<Result<NodeId, Refusal>, StateError> {
    if let Some(node) = view.attempts.get(&join.attempt) {
        return Ok(Ok(*node));
    }
    let secret_hash = *blake3::hash(&join.secret).as_bytes();
    let given = match token_purpose(view, &secret_hash, time) {
        Ok(TokenPurpose::Node(given)) => given,
        Ok(TokenPurpose::Peer) => return Ok(Err(wrong_token())),
        Err(refusal) => return Ok(Err(refusal)),
    };
    if view.nodes.len() >= MAX_NODES {
        return Ok(full("nodes", MAX_NODES));
    }
    let node = NodeId(view.nodes.keys().next_back().map_or(0, |last| last.0) + 1);
    let name = given.unwrap_or_else(|| own_name(node));
    if view.node(&name).is_some_and(|known| known.state != NodeState::Removed) {
        let detail = format!("a node of this site is called {name} already");
        return Ok(Err(Refusal::new(RefusalCode::Exists, detail)));
    }
    use_up(change, view, &secret_hash)?;
    let (endpoint, shards, rack) = (join.endpoint, join.shards, join.rack);
    let record = NodeRecord { node, name, endpoint, shards, rack, state: NodeState::Joining, devices: Vec::new() };
    put_node(change, view, record)?;
    change.put(Table::Control, &key(Kind::Attempt, &join.attempt), &(join.attempt, node).to_bytes())?;
    view.attempts.insert(join.attempt, node);
    view.draw_map();
    Ok(Ok(node))
}

/// A node says what it is and has. Devices that are new join the map, those that are gone leave it; a node that was counted
/// as dead or had not started works from now on.
pub(super) fn register(change: &Change, view: &mut ControlView, beat: NodeBeat) -> Result<Outcome, StateError> {
    let first = view.nodes.is_empty();
    let known = match view.nodes.get(&beat.node).cloned() {
        Some(known) => known,
        None => {
            if !first {
                return Ok(no_node(beat.node));
            }
            let (name, state, devices) = (own_name(beat.node), NodeState::Joining, Vec::new());
            NodeRecord { node: beat.node, name, endpoint: String::new(), shards: 0, rack: None, state, devices }
        }
    };
    if known.state == NodeState::Removed {
        let detail = format!("node {} was removed from the site for good; let a new one join", known.name);
        return Ok(Err(Refusal::new(RefusalCode::Forbidden, detail)));
    }
    if beat.devices.len() > MAX_DEVICES || known.devices.len() + beat.devices.len() > 2 * MAX_DEVICES {
        return Ok(full("devices of one node", MAX_DEVICES));
    }
    let mut record = known.clone();
    (record.endpoint, record.shards) = (beat.endpoint, beat.shards);
    if matches!(record.state, NodeState::Joining | NodeState::Dead) {
        record.state = NodeState::Up;
    }
    let takes = record.state == NodeState::Up;
    let there: BTreeSet<DeviceId> = beat.devices.iter().map(|(device, _)| *device).collect();
    let on_map = |record: &NodeRecord| -> BTreeSet<DeviceId> { record.present().map(|device| device.device).collect() };
    if on_map(&record) != (if takes { there.clone() } else { BTreeSet::new() }) {
        let epoch = next_epoch(change, view)?;
        for device in record.devices.iter_mut().filter(|device| device.left.is_none()) {
            if !takes || !there.contains(&device.device) {
                device.left = Some(epoch);
            }
        }
        let present = on_map(&record);
        for (device, bytes) in beat.devices.iter().filter(|(device, _)| takes && !present.contains(device)) {
            // Back again, it draws as before: what it still holds is where it should be.
            match record.devices.iter_mut().find(|known| known.device == *device) {
                Some(known) => *known = DeviceRecord { joined: epoch, left: None, ..known.clone() },
                None => {
                    let (device, bytes) = (*device, *bytes);
                    record.devices.push(DeviceRecord { device, bytes, joined: epoch, left: None });
                }
            }
        }
    }
    if record != known {
        put_node(change, view, record)?;
        view.draw_map();
    }
    Ok(Ok(()))
}

/// Counts on a node in another way.
pub(super) fn set_state(
    change: &Change,
    view: &mut ControlView,
    node: NodeId,
    state: NodeState,
) -> Result<Outcome, StateError> {
    let Some(mut record) = view.nodes.get(&node).cloned() else { return Ok(no_node(node)) };
    if record.state == state {
        return Ok(Ok(()));
    }
    if record.state == NodeState::Up && state == NodeState::Removed {
        let detail = format!("node {} works again: drain it first", record.name);
        return Ok(Err(Refusal::new(RefusalCode::Unsafe, detail)));
    }
    if record.state == NodeState::Removed {
        let detail = format!("node {} was removed for good; let a new one join", record.name);
        return Ok(Err(Refusal::new(RefusalCode::Forbidden, detail)));
    }
    record.state = state;
    let epoch = next_epoch(change, view)?;
    // What a node has is put back on the map when it is heard next.
    record.devices.iter_mut().filter(|device| device.left.is_none()).for_each(|device| device.left = Some(epoch));
    put_node(change, view, record)?;
    view.draw_map();
    Ok(Ok(()))
}

/// Gives a group its members.
pub(super) fn assign(change: &Change, view: &mut ControlView, group: GroupRecord) -> Result<Outcome, StateError> {
    let count = view.site.as_ref().map_or(0, |site| site.groups);
    let known = |member: &NodeId| view.nodes.get(&member.node()).is_some_and(|node| node.state != NodeState::Removed);
    if group.group == GroupId::CONTROL || group.group.0 > count || !group.members.contains(&group.leader) {
        return Ok(Err(Refusal::new(RefusalCode::BadRequest, "no such group, or no member leads it")));
    }
    if let Some(stranger) = group.members.iter().find(|member| !known(member)) {
        return Ok(no_node(stranger.node()));
    }
    if view.groups.get(&group.group).is_some_and(|before| before.stints >= group.stints) {
        // Decided by somebody who led the control group before, as of a view that is over.
        return Ok(Err(Refusal::new(RefusalCode::ConditionFailed, "the group's members were changed meanwhile")));
    }
    put_group(change, view, group)?;
    Ok(Ok(()))
}

pub(super) fn put_group(change: &Change, view: &mut ControlView, group: GroupRecord) -> Result<(), StateError> {
    change.put(Table::Control, &key(Kind::Group, &group.group.0.to_be_bytes()), &group.to_bytes())?;
    view.groups.insert(group.group, group);
    Ok(())
}

/// Some have left a group. Who has become a member again under the same number meanwhile can't be among them: numbers are
/// given out once.
pub(super) fn settle(
    change: &Change,
    view: &mut ControlView,
    group: GroupId,
    left: &[NodeId],
) -> Result<Outcome, StateError> {
    let Some(mut record) = view.groups.get(&group).cloned() else { return Ok(Ok(())) };
    record.leaving.retain(|member| !left.contains(member));
    put_group(change, view, record)?;
    Ok(Ok(()))
}
