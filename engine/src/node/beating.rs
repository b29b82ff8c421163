//! Heartbeats of a shard's groups. Those that are due in one moment travel together: one message to each shard of each node,
//! however many groups it has with this one. At rest nearly all that nodes say to one another is heartbeats.

use super::limits::{BEAT_PATIENCE, BEAT_YIELDS, RAFT_PATIENCE};
use super::links::NodeLinks;
use super::routing;
use super::server::Answered;
use super::shard::Shard;
use bytes::Bytes;
use farside_codec::cluster::{NodeRecord, RaftCall};
use farside_codec::ids::NodeId;
use farside_codec::message::{Reply, Request};
use farside_io::disk::Disk;
use farside_raft::{GroupSettings, PeerError};
use farside_transport::Class;
use futures_util::future::{join, join_all};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::oneshot;

/// A heartbeat, and who waits for its answer.
struct Waiting {
    call: RaftCall,
    answer: oneshot::Sender<Result<Bytes, PeerError>>,
}

/// What is to leave for a shard of a node.
type Due = BTreeMap<(NodeId, u16), (NodeRecord, Vec<Waiting>)>;

/// Heartbeats that wait for those of other groups.
#[derive(Default)]
pub(crate) struct Beats {
    /// They are being gathered: in between each one leaves by itself, as a read must not wait for other groups.
    gathers: Cell<bool>,
    due: RefCell<Due>,
}

impl Beats {
    /// Keeps a heartbeat for those that leave together, in their moment; its answer comes later. Outside of that moment it is
    /// given back.
    pub(super) fn add(
        &self,
        node: &NodeRecord,
        shard: u16,
        call: RaftCall,
    ) -> Result<oneshot::Receiver<Result<Bytes, PeerError>>, RaftCall> {
        if !self.gathers.get() {
            return Err(call);
        }
        let (answer, answered) = oneshot::channel();
        let mut due = self.due.borrow_mut();
        let (_, waiting) = due.entry((node.node, shard)).or_insert_with(|| (node.clone(), Vec::new()));
        waiting.push(Waiting { call, answer });
        Ok(answered)
    }
}

/// Has the groups that this shard leads be heard, for as long as it runs.
pub(super) async fn keep_beating<D: Disk>(shard: Rc<Shard<D>>) {
    let every = GroupSettings::default().heartbeat;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shard.beats.gathers.set(true);
        let groups = shard.groups();
        let beats = join_all(groups.iter().map(|group| group.beat()));
        let of_site = async {
            if let Some(control) = &shard.control {
                control.beat().await;
            }
        };
        // A group that takes nothing in holds up nobody else.
        let _ = tokio::time::timeout(every / 4, join(of_site, beats)).await;
        // They come by way of the groups' own tasks.
        for _ in 0..BEAT_YIELDS {
            tokio::task::yield_now().await;
        }
        shard.beats.gathers.set(false);
        for ((_, to), (node, waiting)) in shard.beats.due.take() {
            tokio::task::spawn_local(send(shard.nodes.clone(), node, to, waiting));
        }
    }
}

async fn send(links: NodeLinks, node: NodeRecord, shard: u16, waiting: Vec<Waiting>) {
    let apart = |Waiting { call, answer }: Waiting| {
        let member = call.member;
        (call, (member, answer))
    };
    let (calls, answers): (Vec<RaftCall>, Vec<_>) = waiting.into_iter().map(apart).unzip();
    let request = Request::RaftBeats(calls);
    let came = links.call(&node, shard, Class::Request, &request, None, RAFT_PATIENCE).await;
    let mut replies = match came {
        Ok((Reply::RaftBeats(replies), _)) => replies.into_iter(),
        _ => Vec::new().into_iter(),
    };
    for (member, answer) in answers {
        let reply = replies.next().flatten().ok_or(PeerError::Unreachable(member));
        // Whoever waited may have given up.
        let _ = answer.send(reply);
    }
}

/// Answers another node's heartbeats. One that takes long, because its group is at its log, keeps no other one from its
/// answer: it was heard.
pub(super) async fn answer<D: Disk>(shard: &Rc<Shard<D>>, calls: Vec<RaftCall>) -> Answered {
    let each = calls.into_iter().map(|call| async {
        let answered = tokio::time::timeout(BEAT_PATIENCE, routing::raft(shard, call)).await;
        match answered.ok()?.ok()?.reply {
            Reply::Raft(answer) => Some(answer),
            _ => None,
        }
    });
    Ok(Reply::RaftBeats(join_all(each).await).into())
}
