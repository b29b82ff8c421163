//! Whether nothing is missing at the site, by what every node says, and whether it can do without one of them.

use super::joining;
use super::repairing::{own_state, walk_node};
use super::routing;
use super::shard::Shard;
use farside_codec::cluster::{NodeRecord, NodeState, RepairState};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use std::rc::Rc;

/// Nothing is missing as of a placement epoch. A chunk of which there is too little may be whole on the node that is to go;
/// what was left by a put that was given up is collected within a few rounds of GC.
fn is_whole(state: &RepairState, epoch: u64) -> bool {
    state.owed_fragments == 0 && state.unreadable_chunks == 0 && state.swept_epoch >= epoch
}

/// Whether nothing is missing anywhere as of the placement map of now, by what every node says that is counted on.
pub(super) async fn is_site_whole<D: Disk>(shard: &Rc<Shard<D>>) -> Result<bool, Refusal> {
    let epoch = shard.view().placement_epoch;
    let others = shard.others();
    let asked = others.iter().map(|other| async move {
        // All at once: somebody waits for this who has an order to give.
        routing::ask_node(shard, other, 0, &Request::RepairState).await
    });
    for answer in futures_util::future::join_all(asked).await {
        match answer? {
            Reply::RepairState(state) if is_whole(&state, epoch) => {}
            _ => return Ok(false),
        }
    }
    Ok(is_whole(&own_state(shard).await?, epoch))
}

/// Refuses to let a node go that others still need.
pub(super) async fn may_remove<D: Disk>(shard: &Rc<Shard<D>>, node: &NodeRecord) -> Result<(), Refusal> {
    let unsafe_now = |detail: String| Err(Refusal::new(RefusalCode::Unsafe, detail));
    let view = shard.view();
    let name = &node.name;
    match node.state {
        NodeState::Up => return unsafe_now(format!("{name} works and holds data: `farside node drain {name}` first")),
        NodeState::Joining | NodeState::Removed => return Ok(()),
        NodeState::Draining => {
            if let Some(group) = joining::groups_of(&view, node.node).next() {
                return unsafe_now(format!("group {} has not left {name} yet: try again in a moment", group.group));
            }
        }
        NodeState::Dead => joining::can_spare(&view, node)?,
    }
    if node.state == NodeState::Draining {
        let mut left = 0;
        walk_node(shard, node, |held| left += held.len()).await?;
        if left > 0 {
            return unsafe_now(format!("{name} holds fragments of {left} chunks still: wait until it is drained"));
        }
    }
    for other in shard.others().iter().filter(|other| other.node != node.node && other.state == NodeState::Up) {
        match routing::ask_node(shard, other, 0, &Request::RepairState).await? {
            Reply::RepairState(state) if is_whole(&state, view.placement_epoch) => {}
            Reply::RepairState(state) => {
                let (owed, unreadable) = (state.owed_fragments, state.unreadable_chunks);
                return unsafe_now(format!(
                    "{} has not seen yet that nothing is owed without {name} ({owed} fragments are, and {unreadable} chunks \
                     can't be read): see `farside repair status`",
                    other.name
                ));
            }
            _ => return unsafe_now(format!("{} does not say how repair is doing", other.name)),
        }
    }
    let own = own_state(shard).await?;
    if !is_whole(&own, view.placement_epoch) {
        return unsafe_now(format!("repair is not done without {name} yet: see `farside repair status`"));
    }
    Ok(())
}
