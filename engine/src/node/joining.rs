//! Letting nodes into the site: a node shows a token, and is given what it needs to become one; and taking nodes out again.

use super::auditing::certificate;
use super::authority;
use super::limits;
use super::server::Answered;
use super::shard::Shard;
use crate::cluster::membership::group_size;
use crate::state::ControlView;
use bytes::Bytes;
use farside_codec::cluster::{GroupRecord, NodeJoin, NodeJoined, NodeRecord, NodeState};
use farside_codec::command::{ControlCommand, ControlOutcome};
use farside_codec::ids::NodeId;
use farside_codec::message::{Refusal, RefusalCode, Reply, SetNode};
use farside_io::disk::Disk;
use farside_transport::Caller;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Voters below which no group falls because somebody takes a dead node out.
const LEAST_VOTERS: usize = 3;

fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::Internal, error.to_string())
}

/// Lets a node in that shows a token's secret.
pub(super) async fn join<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, join: NodeJoin) -> Answered {
    let reachable = join.endpoint.parse::<std::net::SocketAddr>().is_ok_and(|address| !address.ip().is_unspecified());
    if !reachable || join.shards == 0 || usize::from(join.shards) > limits::MAX_SHARDS {
        return Err(Refusal::new(
            RefusalCode::BadRequest,
            "the node names no address, or no possible number of shards",
        ));
    }
    let key = shard.key.key();
    // Before anybody is let in whom nothing could be given to.
    let authority = authority::issuing(shard)?.issuing;
    let join = ControlCommand::JoinNode((join, shard.clock.now()));
    let node = match shard.control(&certificate(caller), join).await? {
        ControlOutcome::Joined(node) => node,
        _ => return Err(internal("the control group answered something else than was asked")),
    };
    let site = &shard.site;
    Ok(Reply::NodeJoined(NodeJoined {
        node,
        site: site.site,
        site_name: site.name.clone(),
        incarnation: site.incarnation,
        groups: site.groups,
        geometry: shard.geometry(),
        certificate: Bytes::copy_from_slice(authority.certificate()),
        system_key: *key.bytes(),
        authority_key: Bytes::copy_from_slice(authority.key()),
    })
    .into())
}

/// Drains a node, takes it back, or removes it.
pub(super) async fn set<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, set: SetNode) -> Answered {
    let view = shard.view();
    let missing = || Refusal::new(RefusalCode::NotFound, format!("there is no node {}", set.name));
    let node = view.node(&set.name).ok_or_else(missing)?;
    if matches!(set.state, NodeState::Joining | NodeState::Dead) {
        return Err(Refusal::new(RefusalCode::BadRequest, "nobody says of a node that it is joining or dead"));
    }
    if set.state == NodeState::Draining {
        may_drain(&view, node)?;
    }
    if set.state == NodeState::Removed {
        super::whole::may_remove(shard, node).await?;
    }
    let state = ControlCommand::SetNodeState((node.node, set.state));
    shard.control(&certificate(caller), state).await?;
    Ok(Reply::Done.into())
}

/// Refuses to drain a node where what is left would survive less.
fn may_drain(view: &ControlView, node: &NodeRecord) -> Result<(), Refusal> {
    let refuse = |detail: String| Err(Refusal::new(RefusalCode::Unsafe, detail));
    let name = &node.name;
    if !matches!(node.state, NodeState::Up | NodeState::Draining) {
        return refuse(format!("{name} does not work: it can be removed, not drained"));
    }
    let counted = view.nodes.values().filter(|node| matches!(node.state, NodeState::Up | NodeState::Dead));
    let count = counted.count();
    let left = count - usize::from(node.state == NodeState::Up);
    if group_size(left) < group_size(count) {
        let (voters, before) = (group_size(left), group_size(count));
        return refuse(format!(
            "without {name} {left} nodes are left, and groups would have {voters} voters instead of {before}: let \
             another node join first"
        ));
    }
    Ok(())
}

/// Groups of which a node is a member, or has not been let go yet.
pub(super) fn groups_of(view: &ControlView, node: NodeId) -> impl Iterator<Item = &GroupRecord> {
    let is_in = move |members: &[NodeId]| members.iter().any(|member| member.node() == node);
    view.groups.values().filter(move |group| is_in(&group.members) || is_in(&group.leaving))
}

/// Refuses to take a dead node out whose vote is missed. A dead member keeps its seat while nobody can take it, so groups are
/// made smaller here and only here; whoever is removed is not listened to any more, should it live.
pub(super) fn can_spare(view: &ControlView, node: &NodeRecord) -> Result<(), Refusal> {
    let (name, unsafe_now) = (&node.name, |detail: String| Err(Refusal::new(RefusalCode::Unsafe, detail)));
    let of = |states: &[NodeState]| view.nodes.values().filter(|node| states.contains(&node.state)).count();
    let (left, counted) = (of(&[NodeState::Up]), of(&[NodeState::Up, NodeState::Dead]));
    let voters = group_size(left);
    if voters < LEAST_VOTERS.min(group_size(counted)) {
        return unsafe_now(format!(
            "without {name} {left} nodes work, and groups would have {voters} voters: let another node join first"
        ));
    }
    let lives = |member: &NodeId| {
        let state = view.nodes.get(&member.node()).map(|node| &node.state);
        matches!(state, Some(NodeState::Up | NodeState::Draining))
    };
    for group in groups_of(view, node.node) {
        let voting: BTreeSet<NodeId> = group.members.iter().chain(&group.leaving).copied().collect();
        if voting.iter().filter(|member| lives(member)).count() * 2 <= voting.len() {
            return unsafe_now(format!(
                "group {} may need {name}: no more than half of its voters live. Start {name} again, or go on without it by \
                 `farside recover-quorum`",
                group.group
            ));
        }
    }
    Ok(())
}
