//! Where in the site something is done: a request that belongs elsewhere is passed on to the leader of its group, a command
//! is committed wherever that is, and Raft's own messages find their node.
//!
//! A node that gets a request passed on answers it or says that it does not lead; it never passes it on again.

use super::beating::Beats;
use super::limits::{NODE_PATIENCE, RAFT_PATIENCE, ROUTE_PATIENCE, ROUTE_PAUSE, SNAPSHOT_PATIENCE};
use super::links::{NodeCallError, NodeLinks, misanswered};
use super::server::{self, Answered};
use super::shard::{Shard, propose_refusal};
use crate::state::ControlView;
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::cluster::{Committed, Forwarded, GroupCall, NodeRecord, NodeState, RaftCall};
use farside_codec::command::GroupCommand;
use farside_codec::ids::{GroupId, LogId, NodeId};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_raft::{PeerError, PeerNetwork};
use farside_transport::limits::MAX_FORWARDED_BYTES;
use farside_transport::{Caller, Class};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Raft messages above this go with the bodies: they are pieces of a snapshot, or a long log.
const BULK_BYTES: usize = 256 << 10;

/// Carries Raft between the nodes of the site.
pub(crate) struct SiteNetwork {
    pub(crate) view: Rc<RefCell<Arc<ControlView>>>,
    pub(crate) links: NodeLinks,
    pub(crate) beats: Rc<Beats>,
}

impl SiteNetwork {
    fn node(&self, member: NodeId) -> Result<NodeRecord, PeerError> {
        let node = self.view.borrow().nodes.get(&member.node()).cloned();
        node.filter(|node| node.state != NodeState::Removed).ok_or(PeerError::Unreachable(member))
    }

    async fn send(&self, node: &NodeRecord, call: RaftCall) -> Result<Bytes, PeerError> {
        let (member, shard) = (call.member, node.shard_of_group(call.group));
        let (class, patience) = match call.ask.len() > BULK_BYTES {
            true => (Class::Bulk, SNAPSHOT_PATIENCE),
            false => (Class::Request, RAFT_PATIENCE),
        };
        match self.links.call(node, shard, class, &Request::Raft(call), None, patience).await {
            Ok((Reply::Raft(answer), _)) => Ok(answer),
            Ok(_) => Err(PeerError::Garbled(member)),
            Err(_) => Err(PeerError::Unreachable(member)),
        }
    }
}

impl PeerNetwork for SiteNetwork {
    fn call(&self, target: NodeId, group: GroupId, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(async move { self.send(&self.node(target)?, RaftCall { member: target, group, ask: request }).await })
    }

    fn beat(&self, target: NodeId, group: GroupId, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(async move {
            let node = self.node(target)?;
            let call = RaftCall { member: target, group, ask: request };
            match self.beats.add(&node, node.shard_of_group(group), call) {
                Ok(answered) => answered.await.unwrap_or(Err(PeerError::Unreachable(target))),
                Err(call) => self.send(&node, call).await,
            }
        })
    }
}

/// Answers another node's Raft message.
pub(super) async fn raft<D: Disk>(shard: &Rc<Shard<D>>, call: RaftCall) -> Answered {
    if call.member.node() != shard.site.node {
        let detail = format!("this is node {}, not node {}", shard.site.node, call.member.node());
        return Err(Refusal::new(RefusalCode::BadRequest, detail));
    }
    let owner = call.group.shard(shard.shards());
    let answered = shard.on(owner, move |there| async move {
        match call.group {
            GroupId::CONTROL => Some(there.control.as_ref()?.handle(call.ask).await),
            group => {
                // What was sent to an earlier member of this node is for nobody.
                let group = there.group(group).filter(|group| group.member() == call.member)?;
                Some(group.handle(call.ask).await)
            }
        }
    });
    // The group may not have been started here yet.
    let absent = || Refusal::retry(RefusalCode::Unavailable, 100, "the group does not run on this node");
    Ok(Reply::Raft(answered.await?.ok_or_else(absent)?).into())
}

/// Commits another node's command, if this one leads the group.
pub(super) async fn commit_here<D: Disk>(shard: &Rc<Shard<D>>, call: GroupCall) -> Result<Committed, Refusal> {
    let owner = call.group.shard(shard.shards());
    let committed = shard.on(owner, move |there| async move {
        let outcome = match call.group {
            GroupId::CONTROL => {
                let group = there.control.clone().ok_or_else(|| no_leader(call.group))?;
                (group.propose(call.command).await, group.status().applied_index)
            }
            group => {
                let group = there.group(group).ok_or_else(|| no_leader(call.group))?;
                let handed_over = handed_over(&call.command);
                let outcome = group.propose(call.command).await;
                if let Some(log) = handed_over {
                    // Its senders are here, and writers wait until they have sent the last delta.
                    there.moved(log).notify_waiters();
                }
                (outcome, group.status().applied_index)
            }
        };
        let (outcome, index) = outcome;
        Ok(Committed { outcome: outcome.map_err(propose_refusal)?, index: index.unwrap_or(0) })
    });
    committed.await?
}

/// The log that a command hands over, if it is such a command.
fn handed_over(command: &Bytes) -> Option<LogId> {
    match GroupCommand::from_bytes(command.clone()) {
        Ok(GroupCommand::HandOver(order)) => Some(order.log),
        _ => None,
    }
}

fn no_leader(group: GroupId) -> Refusal {
    Refusal::retry(RefusalCode::NotLeader, 100, format!("group {group} has no leader now"))
}

/// Who leads a group, as far as this node knows: its own replica, or what the control group wants.
async fn leader<D: Disk>(shard: &Rc<Shard<D>>, group: GroupId) -> Result<Option<NodeId>, Refusal> {
    let owner = group.shard(shard.shards());
    let known = shard.on(owner, move |there| async move {
        match group {
            GroupId::CONTROL => there.control.as_ref().and_then(|control| control.leader()),
            group => there.group(group).and_then(|group| group.leader()),
        }
    });
    Ok(known.await?.map(NodeId::node))
}

/// Looks for the leader of a group until it is found or the patience is over.
struct Search {
    group: GroupId,
    deadline: Instant,
    /// Members to be asked in turn while nobody knows who leads.
    members: Vec<NodeId>,
    turn: usize,
}

impl Search {
    fn new(view: &ControlView, group: GroupId) -> Self {
        let members = match group {
            GroupId::CONTROL => view.nodes.keys().copied().collect(),
            group => view.members(group),
        };
        Self { group, deadline: Instant::now() + ROUTE_PATIENCE, members, turn: 0 }
    }

    /// The node to be asked next.
    async fn next<D: Disk>(&mut self, shard: &Rc<Shard<D>>) -> Result<NodeId, Refusal> {
        if let Some(leader) = leader(shard, self.group).await? {
            // Where the leader does not answer, its successor is known here as soon as there is one.
            if leader == shard.site.node || shard.nodes.answers(leader) {
                return Ok(leader);
            }
        }
        let turn = self.turn;
        self.turn += 1;
        self.members.get(turn % self.members.len().max(1)).copied().ok_or_else(|| no_leader(self.group))
    }

    /// Waits before the next attempt; the refusal once there is none.
    async fn pause(&self, refusal: Refusal) -> Result<(), Refusal> {
        if Instant::now() + ROUTE_PAUSE > self.deadline {
            return Err(refusal);
        }
        tokio::time::sleep(ROUTE_PAUSE).await;
        Ok(())
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(ROUTE_PAUSE)
    }
}

fn may_be_elsewhere(refusal: &Refusal) -> bool {
    refusal.code == RefusalCode::NotLeader
}

/// Commits a command in a group, wherever its leader is. A command may be committed twice where an answer is lost: every
/// one is safe to repeat.
pub(super) async fn commit<D: Disk>(
    shard: &Rc<Shard<D>>,
    group: GroupId,
    command: Bytes,
) -> Result<Committed, Refusal> {
    let call = GroupCall { group, command };
    if shard.is_alone() {
        return commit_here(shard, call).await;
    }
    let mut search = Search::new(&shard.view(), group);
    loop {
        let node = search.next(shard).await?;
        let committed = match node == shard.site.node {
            true => commit_here(shard, call.clone()).await,
            false => ask(shard, node, group, &Request::Command(call.clone()), search.left()).await.and_then(|reply| {
                match reply {
                    Reply::Committed(committed) => Ok(committed),
                    _ => Err(misanswered()),
                }
            }),
        };
        match committed {
            Err(refusal) if may_be_elsewhere(&refusal) || refusal.code == RefusalCode::Unavailable => {
                search.pause(refusal).await?;
            }
            committed => return committed,
        }
    }
}

async fn ask<D: Disk>(
    shard: &Rc<Shard<D>>,
    node: NodeId,
    group: GroupId,
    request: &Request,
    patience: Duration,
) -> Result<Reply, Refusal> {
    let record = shard.node(node)?;
    let there = record.shard_of_group(group);
    Ok(shard.nodes.call(&record, there, Class::Request, request, None, patience).await.map(|(reply, _)| reply)?)
}

/// Has a request answered by the leader of its group.
pub(super) async fn at_leader<D: Disk>(
    shard: &Rc<Shard<D>>,
    caller: &Caller,
    group: GroupId,
    request: Request,
) -> Answered {
    if shard.is_alone() {
        return server::answer_here(shard, caller, request).await;
    }
    let encoded = request.to_bytes();
    if encoded.len() > MAX_FORWARDED_BYTES {
        // Also where this node leads: another one may the next time.
        let detail = format!(
            "a request of {} bytes is more than the {MAX_FORWARDED_BYTES} that can be passed on",
            encoded.len()
        );
        return Err(Refusal::new(RefusalCode::BadRequest, detail));
    }
    let forwarded = Request::Forwarded(Forwarded { caller: caller.uri(), request: encoded });
    let mut search = Search::new(&shard.view(), group);
    loop {
        let node = search.next(shard).await?;
        let answered = match node == shard.site.node {
            true => server::answer_here(shard, caller, request.clone()).await,
            false => ask(shard, node, group, &forwarded, search.left()).await.map(Into::into),
        };
        match answered {
            Err(refusal) if may_be_elsewhere(&refusal) => search.pause(refusal).await?,
            // Silence: whether it was done is unknown, and every request is safe to repeat.
            Err(refusal) if refusal.code == RefusalCode::Unavailable && node != shard.site.node => {
                search.pause(refusal).await?;
            }
            answered => return answered,
        }
    }
}

/// Asks one node something short.
pub(super) async fn ask_node<D: Disk>(
    shard: &Rc<Shard<D>>,
    node: &NodeRecord,
    there: u16,
    request: &Request,
) -> Result<Reply, NodeCallError> {
    shard.nodes.call(node, there, Class::Request, request, None, NODE_PATIENCE).await.map(|(reply, _)| reply)
}

/// How far the control group is that this node leads; a refusal where another one does.
pub(super) async fn control_index<D: Disk>(shard: &Rc<Shard<D>>) -> Result<u64, Refusal> {
    let control = shard.control.clone().ok_or_else(|| no_leader(GroupId::CONTROL))?;
    control.confirm_leader().await.map_err(|_| no_leader(GroupId::CONTROL))?;
    Ok(control.status().applied_index.unwrap_or(0))
}

/// Whether this node knows everything that the control group had agreed on when its leader was asked.
pub(super) async fn knows_control<D: Disk>(shard: &Rc<Shard<D>>) -> bool {
    let Ok(Some(leader)) = leader(shard, GroupId::CONTROL).await else { return false };
    let index = match leader == shard.site.node {
        true => shard.on(0, |there| async move { control_index(&there).await }).await.and_then(|index| index),
        false => match shard.node(leader) {
            Ok(record) => match ask_node(shard, &record, 0, &Request::ControlIndex).await {
                Ok(Reply::ControlIndex(index)) => Ok(index),
                Ok(_) => Err(misanswered()),
                Err(error) => Err(error.into()),
            },
            Err(refusal) => Err(refusal),
        },
    };
    let Ok(index) = index else { return false };
    let came = shard.on(0, move |there| async move {
        there.wait_for_control(index).await;
        there.control.as_ref().and_then(|control| control.status().applied_index) >= Some(index)
    });
    came.await.unwrap_or(false)
}

/// Lets this node come as far as the control group is. Where its leader can't be asked, what is known here has to do.
pub(super) async fn know_control<D: Disk>(shard: &Rc<Shard<D>>) {
    let Ok(Some(leader)) = leader(shard, GroupId::CONTROL).await else { return };
    if leader == shard.site.node {
        return;
    }
    let Ok(record) = shard.node(leader) else { return };
    if let Ok(Reply::ControlIndex(index)) = ask_node(shard, &record, 0, &Request::ControlIndex).await {
        // As above.
        let _ = shard.on(0, move |there| async move { there.wait_for_control(index).await }).await;
    }
}
