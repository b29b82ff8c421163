//! A node of a site that went on without the majority of a group: it does not listen to nodes that were left behind, has
//! the control group agree on that as soon as this group has a leader, and stops taking part where it finds out that it was left
//! behind itself.
//!
//! Whoever was left behind is fenced three times: by the file that every node that is left keeps, from its first moment on; by
//! the control group's state, which every later node has; and by itself, once any node greets it with a higher
//! incarnation than its own. Only nodes that were left behind and hear none of the others can still agree among themselves.

use super::directory::{NodeDirectory, SiteFile};
use super::error::NodeError;
use super::shard::Shard;
use crate::framed::{self, FileKind, FramedFileError};
use farside_codec::cluster::NodeState;
use farside_codec::command::ControlCommand;
use farside_codec::ids::NodeId;
use farside_codec::message::{Refusal, RefusalCode, Request};
use farside_codec::recovery::RecoveredFile;
use farside_io::disk::Disk;
use farside_transport::{Caller, Role};
use std::rc::Rc;

/// The last recovery that was begun in a directory, if there was one.
pub(super) fn load(directory: &NodeDirectory) -> Result<Option<RecoveredFile>, NodeError> {
    match framed::read_record(&directory.recovered(), FileKind::Recovered) {
        Ok(recovered) => Ok(Some(recovered)),
        Err(FramedFileError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a directory where a recovery was begun and did not end.
pub(super) fn refuse_unfinished(directory: &NodeDirectory, site: &SiteFile) -> Result<(), NodeError> {
    match load(directory)? {
        Some(begun) if begun.recovery.incarnation > site.incarnation => {
            Err(NodeError::Unrecovered(directory.root().to_owned()))
        }
        _ => Ok(()),
    }
}

/// The control group has not agreed yet, as far as this node knows, on the recovery that it was started with: who is in which
/// group is not known, and what an older state says must not be acted on.
pub(super) fn is_pending<D: Disk>(shard: &Shard<D>) -> bool {
    shard.view().site.as_ref().is_some_and(|site| site.incarnation < shard.site.incarnation)
}

/// Has the control group agree on it, if this node leads it.
pub(super) async fn commit<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), Refusal> {
    match &shard.recovery {
        Some(recovery) if is_pending(shard) => {
            shard.control(&shard.by_itself(), ControlCommand::Recover(recovery.clone())).await?;
            tracing::warn!(incarnation = recovery.incarnation, "the site goes on without the nodes that it has lost");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Tells every shard of the node once one of them has found out that it was left behind.
pub(super) async fn watch<D: Disk>(shard: Rc<Shard<D>>) {
    let incarnation = shard.nodes.left_behind_by().await;
    let node = shard.site.node;
    tracing::error!(%node, incarnation, "the site has gone on without this node, which takes part in nothing any more");
    for index in 0..shard.shards() {
        // A shard that has stopped takes part in nothing either.
        let _ = shard.on(index, move |there| async move { there.nodes.leave_behind(incarnation) }).await;
    }
}

/// What is said to an operator about a node that was left behind.
pub(super) fn left_behind<D: Disk>(shard: &Shard<D>) -> Option<String> {
    let incarnation = shard.nodes.left_behind()?;
    let (site, node, own) = (&shard.site.name, shard.site.node, shard.site.incarnation);
    Some(format!(
        "node {node} was left behind: site {site} has gone on without it (incarnation {incarnation}, here {own}); let a new \
         node join in its place"
    ))
}

/// Why a request is not answered that has to do with a node that was left behind: this one, or the one that asks.
pub(super) fn objection<D: Disk>(shard: &Shard<D>, caller: &Caller, request: &Request) -> Option<Refusal> {
    let says_how_it_is = matches!(request, Request::Hello(_) | Request::Status | Request::NodeStatus | Request::Nodes);
    if let Some(detail) = left_behind(shard).filter(|_| !says_how_it_is) {
        return Some(Refusal::new(RefusalCode::Unavailable, detail));
    }
    if caller.role != Role::Node || caller.site != shard.site.site {
        return None;
    }
    let node = caller.subject.parse().ok().map(NodeId).filter(|node| is_out(shard, *node))?;
    if matches!(request, Request::Hello(_)) {
        return None;
    }
    let name = shard.view().nodes.get(&node).map_or_else(|| format!("node {node}"), |known| known.name.to_string());
    let detail = format!("{name} is out of site {} for good: let a new node join", shard.site.name);
    Some(Refusal::new(RefusalCode::Forbidden, detail))
}

/// The site has let a node go, or goes on without it.
fn is_out<D: Disk>(shard: &Shard<D>, node: NodeId) -> bool {
    let removed = shard.view().nodes.get(&node).is_some_and(|known| known.state == NodeState::Removed);
    removed || shard.nodes.is_fenced(node)
}
