//! Letting nodes into the site: a node shows a token, and is given what it needs to become one; and taking nodes out again.

use super::auditing::certificate;
use super::directory::NodeDirectory;
use super::limits;
use super::server::Answered;
use super::shard::Shard;
use crate::cluster::membership::group_size;
use crate::state::ControlView;
use bytes::Bytes;
use farside_codec::cluster::{NodeJoin, NodeJoined, NodeRecord, NodeState};
use farside_codec::command::{ControlCommand, ControlOutcome};
use farside_codec::message::{Refusal, RefusalCode, Reply, SetNode};
use farside_io::disk::Disk;
use farside_transport::Caller;
use std::rc::Rc;

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
    let directory = NodeDirectory::new(&shard.root);
    let key = shard.key.key();
    // Before anybody is let in whom nothing could be given to.
    let authority_key = key.authority(&directory).map_err(internal)?;
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
        geometry: site.geometry,
        certificate: site.certificate.clone(),
        system_key: *key.bytes(),
        authority_key: Bytes::copy_from_slice(&authority_key),
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
        super::repairing::may_remove(shard, node).await?;
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
