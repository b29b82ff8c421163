//! The shard's background: checkpoints, snapshots when due; and GC, which shard 0 leads for the node.

use super::holding;
use super::limits;
use super::routing;
use super::shard::{Shard, state_refusal};
use crate::store::CollectCursor;
use farside_codec::cluster::ReferencesQuestion;
use farside_codec::command::GroupCommand;
use farside_codec::ids::{ChunkId, GroupId};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_raft::Group;
use std::rc::Rc;
use std::time::Duration;

/// Checkpoints the state file, makes snapshots that are due, keeps devices from filling up with what is dead, passes the
/// store's events on.
pub(super) async fn keep_house<D: Disk>(shard: Rc<Shard<D>>) {
    let mut checkpointed = shard.clock.clock().monotonic();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for group in shard.groups() {
            group.snapshot_if_due().await;
        }
        if let Some(control) = &shard.control {
            control.snapshot_if_due().await;
        }
        shard.store.keep_free(room_for_snapshot(&shard));
        shard.cramped.set(is_cramped(&shard.root));
        if let Err(error) = shard.store.relieve().await {
            tracing::warn!(%error, "devices run short, and can't be compacted now");
        }
        for event in shard.store.take_events() {
            tracing::error!(%event, "storage");
        }
        let now = shard.clock.clock().monotonic();
        if now.saturating_sub(checkpointed) >= limits::CHECKPOINT_INTERVAL {
            checkpointed = now;
            if let Err(error) = shard.database.checkpoint() {
                tracing::error!(%error, "the state file takes no checkpoint; the write-ahead log holds everything");
            }
        }
    }
}

/// Whether the state file might find no space soon. A file system that does not say is taken to have some.
fn is_cramped(directory: &std::path::Path) -> bool {
    let free = rustix::fs::statvfs(directory).map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    free.is_ok_and(|free| free < limits::STATE_ROOM_BYTES)
}

/// Bytes that the next snapshot of any group may take, while the one before it is still there.
fn room_for_snapshot<D: Disk>(shard: &Shard<D>) -> u64 {
    let largest = shard.groups().iter().map(Group::snapshot_bytes).max().unwrap_or(0);
    // What the log may hold besides, before it turns proposals away.
    largest + shard.wal.live_bound() as u64
}

/// Leads GC while this node leads the control group: a barrier in every group, then every node collects what nobody
/// refers to. Whoever begins to lead begins with one: until then nobody may know the epoch.
pub(super) async fn collect<D: Disk>(shard: Rc<Shard<D>>, every: Duration) {
    let mut last: Option<Duration> = None;
    loop {
        let now = shard.clock.clock().monotonic();
        if !shard.leads_site() {
            last = None;
        } else if last.is_none_or(|last| now.saturating_sub(last) >= every) {
            last = Some(now);
            lead_round(&shard).await;
        }
        tokio::time::sleep(limits::GC_LOOK.min(every)).await;
    }
}

async fn lead_round<D: Disk>(shard: &Rc<Shard<D>>) {
    match barrier(shard).await {
        Ok(barrier) => {
            for node in shard.others() {
                // Who does not hear of it now has more to collect the next time.
                let _ = routing::ask_node(shard, &node, 0, &Request::Collect(barrier)).await;
            }
            collect_node(shard.clone(), barrier).await;
        }
        // A shard has ended, and this one is about to.
        Err(refusal) if refusal.code == RefusalCode::Unavailable => {}
        Err(refusal) => tracing::warn!(%refusal, "no GC barrier"),
    }
}

/// Has every shard of this node collect.
pub(super) async fn collect_node<D: Disk>(shard: Rc<Shard<D>>, barrier: u64) {
    for index in 0..shard.shards() {
        let collected = shard.on(index, move |there| async move { collect_here(&there, barrier).await }).await;
        if let Err(refusal) | Ok(Err(refusal)) = collected {
            tracing::warn!(%refusal, "a shard did not collect");
        }
    }
}

/// Dates touches on this node from now on.
pub(super) async fn set_epoch<D: Disk>(shard: &Rc<Shard<D>>, epoch: u64) -> Result<(), Refusal> {
    for index in 0..shard.shards() {
        shard.on(index, move |there| async move { there.store.set_gc_epoch(epoch) }).await?;
    }
    Ok(())
}

/// The highest barrier that the groups on this node have committed.
pub(super) async fn known_barrier<D: Disk>(shard: &Rc<Shard<D>>) -> Result<u64, Refusal> {
    let mut highest = 0;
    for index in 0..shard.shards() {
        let read = move |there: Rc<Shard<D>>| async move {
            let barriers: Result<Vec<u64>, _> =
                there.groups().iter().map(|group| group.state().borrow().barrier()).collect();
            Ok::<_, Refusal>(barriers.map_err(state_refusal)?.into_iter().max().unwrap_or(0))
        };
        highest = highest.max(shard.on(index, read).await??);
    }
    Ok(highest)
}

/// Commits the next barrier in every group, and dates touches from now on by it.
async fn barrier<D: Disk>(shard: &Rc<Shard<D>>) -> Result<u64, Refusal> {
    // A node that leads the control group may be in no log group: others know what it does not.
    let mut highest = known_barrier(shard).await?.max(shard.store.gc_epoch());
    for node in shard.others() {
        if let Ok(Reply::Epoch(known)) = routing::ask_node(shard, &node, 0, &Request::GcEpoch(0)).await {
            highest = highest.max(known);
        }
    }
    let barrier = highest + 1;
    set_epoch(shard, barrier).await?;
    for node in shard.others() {
        // Who does not hear of it hands out older receipts, which groups refuse once they are too old.
        let _ = routing::ask_node(shard, &node, 0, &Request::GcEpoch(barrier)).await;
    }
    for group in (1..=shard.site.groups).map(GroupId) {
        shard.group_command(group, GroupCommand::Barrier(barrier)).await?;
    }
    Ok(barrier)
}

/// Takes note of another node's epoch, and answers with the highest that is known here.
pub(super) async fn hear_epoch<D: Disk>(shard: &Rc<Shard<D>>, epoch: u64) -> Result<u64, Refusal> {
    if epoch > 0 {
        set_epoch(shard, epoch).await?;
    }
    Ok(known_barrier(shard).await?.max(shard.store.gc_epoch()))
}

/// Prunes old versions, deletes unreferenced chunks, and moves what is left together.
async fn collect_here<D: Disk>(shard: &Rc<Shard<D>>, barrier: u64) -> Result<(), Refusal> {
    holding::prune(shard).await?;
    let mut cursor = Some(CollectCursor::default());
    while let Some(at) = cursor {
        let (mut chunks, next) = shard.store.collectable(barrier, at, limits::GC_STEP_CHUNKS);
        chunks.retain(|chunk| !shard.snapshots.needs(chunk));
        if !chunks.is_empty() {
            let unreferenced = unreferenced(shard, chunks, barrier).await?;
            shard.store.delete(&unreferenced, barrier);
        }
        cursor = next;
        tokio::task::yield_now().await;
    }
    for _ in 0..limits::COMPACT_STEPS {
        match shard.store.compact_step().await {
            Ok(step) if step.more && step.moved_bytes + step.freed_segments > 0 => {}
            // Nothing is left to do, or what is left has to wait for the next round.
            _ => break,
        }
        // Clients' work goes first.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Those of these chunks that no group of the site refers to. Where a group can't be asked nothing is named.
pub(super) async fn unreferenced<D: Disk>(
    shard: &Rc<Shard<D>>,
    chunks: Vec<ChunkId>,
    barrier: u64,
) -> Result<Vec<ChunkId>, Refusal> {
    let mut left = chunks;
    for group in (1..=shard.site.groups).map(GroupId) {
        if left.is_empty() {
            break;
        }
        let question = ReferencesQuestion { group, barrier, chunks: left.clone() };
        let mut referenced = ask_references(shard, question).await?.into_iter();
        left.retain(|_| !referenced.next().unwrap_or(true));
    }
    Ok(left)
}

/// Asks the members of a group in turn, this node first: any that has come to the barrier will do.
async fn ask_references<D: Disk>(shard: &Rc<Shard<D>>, question: ReferencesQuestion) -> Result<Vec<bool>, Refusal> {
    let mut refused = match references(shard, question.clone()).await {
        Ok(referenced) => return Ok(referenced),
        Err(refusal) => refusal,
    };
    let members = shard.view().members(question.group);
    for node in shard.others().into_iter().filter(|node| members.contains(&node.node)) {
        let there = node.shard_of_group(question.group);
        match routing::ask_node(shard, &node, there, &Request::References(question.clone())).await {
            Ok(Reply::Referenced(referenced)) if referenced.len() == question.chunks.len() => return Ok(referenced),
            Ok(_) => {}
            Err(error) => refused = error.into(),
        }
    }
    Err(refused)
}

/// Which of these chunks a group refers to, if it runs here and has come to the barrier.
pub(super) async fn references<D: Disk>(
    shard: &Rc<Shard<D>>,
    question: ReferencesQuestion,
) -> Result<Vec<bool>, Refusal> {
    let owner = question.group.shard(shard.shards());
    let referenced = shard.on(owner, move |there| async move {
        let behind = || Refusal::retry(RefusalCode::Unavailable, 200, "the group has not come to that barrier here");
        let group = there.group(question.group).ok_or_else(behind)?;
        let state = group.state().borrow();
        if state.barrier().map_err(state_refusal)? < question.barrier {
            return Err(behind());
        }
        state.references(&question.chunks).map_err(state_refusal)
    });
    referenced.await?
}
