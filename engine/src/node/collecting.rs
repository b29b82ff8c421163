//! The shard's background: closed time, checkpoints, snapshots when due; and GC, which shard 0 leads for the node.

use super::limits;
use super::shard::Shard;
use crate::store::CollectCursor;
use farside_codec::command::{GroupCommand, GroupOutcome, Prune};
use farside_codec::ids::{ChunkId, GroupId, Hlc};
use farside_codec::message::{Refusal, RefusalCode};
use farside_io::disk::Disk;
use std::rc::Rc;
use std::time::Duration;

/// Closes time in every group of the shard, idle too, so that a cut across logs never waits for a quiet one.
pub(super) async fn close_time<D: Disk>(shard: Rc<Shard<D>>) {
    let mut ticks = tokio::time::interval(limits::CLOSE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let closes = shard.groups.iter().filter(|(_, group)| group.is_leader()).map(|(id, _)| {
            let command = GroupCommand::Close(shard.clock.now());
            let shard = shard.clone();
            async move { shard.command(*id, &command).await.map(drop) }
        });
        // A group that can't close time now says so in status; the next tick tries again.
        futures_util::future::join_all(closes).await;
    }
}

/// Checkpoints the state file, makes snapshots that are due, passes the store's events on.
pub(super) async fn keep_house<D: Disk>(shard: Rc<Shard<D>>) {
    let mut checkpointed = shard.clock.clock().monotonic();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for group in shard.groups.values() {
            group.snapshot_if_due().await;
        }
        if let Some(control) = &shard.control {
            control.snapshot_if_due().await;
        }
        shard.store.keep_free(room_for_snapshot(&shard));
        shard.cramped.set(is_cramped(&shard.root));
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
    let largest = shard.groups.values().map(|group| group.snapshot_bytes()).max().unwrap_or(0);
    // What the log may hold besides, before it turns proposals away.
    largest + 2 * shard.wal.live_limit() as u64
}

/// Leads GC: a barrier in every group, then every shard collects what nobody refers to.
pub(super) async fn collect<D: Disk>(shard: Rc<Shard<D>>, every: Duration) {
    loop {
        match barrier(&shard).await {
            Ok(barrier) => {
                for index in 0..shard.shards() {
                    let collected =
                        shard.on(index, move |there| async move { collect_here(&there, barrier).await }).await;
                    if let Err(refusal) | Ok(Err(refusal)) = collected {
                        tracing::warn!(%refusal, "a shard did not collect");
                    }
                }
            }
            // A shard has ended, and this one is about to.
            Err(refusal) if refusal.code == RefusalCode::Unavailable => {}
            Err(refusal) => tracing::warn!(%refusal, "no GC barrier"),
        }
        tokio::time::sleep(every).await;
    }
}

/// Commits the next barrier in every group, and dates touches from now on by it.
async fn barrier<D: Disk>(shard: &Rc<Shard<D>>) -> Result<u64, Refusal> {
    let mut highest = 0;
    for group in (1..=shard.site.groups).map(GroupId) {
        let read = move |there: Rc<Shard<D>>| async move {
            let barrier = there.groups.get(&group).map(|group| group.state().borrow().barrier());
            barrier.transpose().map_err(super::shard::state_refusal)
        };
        highest = highest.max(shard.on(group.shard(shard.shards()), read).await??.unwrap_or(0));
    }
    let barrier = highest + 1;
    for index in 0..shard.shards() {
        shard.on(index, move |there| async move { there.store.set_gc_epoch(barrier) }).await?;
    }
    for group in (1..=shard.site.groups).map(GroupId) {
        let commit =
            move |there: Rc<Shard<D>>| async move { there.command(group, &GroupCommand::Barrier(barrier)).await };
        shard.on(group.shard(shard.shards()), commit).await??;
    }
    Ok(barrier)
}

/// Prunes old versions, deletes unreferenced chunks, and moves what is left together.
async fn collect_here<D: Disk>(shard: &Rc<Shard<D>>, barrier: u64) -> Result<(), Refusal> {
    prune(shard).await?;
    let mut cursor = Some(CollectCursor::default());
    while let Some(at) = cursor {
        let (mut chunks, next) = shard.store.collectable(barrier, at, limits::GC_STEP_CHUNKS);
        chunks.retain(|chunk| !shard.snapshots.needs(chunk));
        if !chunks.is_empty() {
            let unreferenced = unreferenced(shard, chunks).await?;
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

/// Those of these chunks that no group of any shard refers to.
async fn unreferenced<D: Disk>(shard: &Rc<Shard<D>>, chunks: Vec<ChunkId>) -> Result<Vec<ChunkId>, Refusal> {
    let mut left = chunks;
    for index in 0..shard.shards() {
        let asked = left.clone();
        let referenced = shard.on(index, move |there| async move {
            let mut referenced = vec![false; asked.len()];
            for group in there.groups.values() {
                let found = group.state().borrow().references(&asked).map_err(super::shard::state_refusal)?;
                referenced.iter_mut().zip(found).for_each(|(known, found)| *known |= found);
            }
            Ok::<_, Refusal>(referenced)
        });
        let mut referenced = referenced.await??.into_iter();
        left.retain(|_| !referenced.next().unwrap_or(true));
    }
    Ok(left)
}

/// Drops versions past their log's history, below what every peer has.
async fn prune<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), Refusal> {
    let peers: Vec<_> = shard.view().peers.keys().copied().collect();
    for (id, group) in shard.groups.iter().filter(|(_, group)| group.is_leader()) {
        let logs = group.state().borrow().logs().map_err(super::shard::state_refusal)?;
        for log in logs {
            let cursors = group.state().borrow().peers(log.descriptor.log).map_err(super::shard::state_refusal)?;
            let lowest = |peer| cursors.iter().find(|lag| lag.peer == peer).map_or(0, |lag| lag.cursor.sequence);
            let home = log.is_home(shard.site.site);
            // A copy prunes what its home may prune: versions replaced before the horizon, below its own head.
            let below = match home {
                true => peers.iter().copied().map(lowest).min().unwrap_or(u64::MAX).saturating_add(1),
                false => log.head.sequence,
            };
            let history_ms = log.descriptor.policy.history_seconds.saturating_mul(1000);
            let horizon = Hlc::from_ms(shard.clock.now().ms().saturating_sub(history_ms));
            loop {
                let prune = Prune { log: log.descriptor.log, horizon, below, limit: limits::PRUNE_STEP };
                match shard.command(*id, &GroupCommand::Prune(prune)).await? {
                    GroupOutcome::Pruned(count) if count == limits::PRUNE_STEP => {}
                    _ => break,
                }
            }
        }
    }
    Ok(())
}
