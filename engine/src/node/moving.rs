//! Moves fragments from device to device of this node: off devices that are to go, and, where that was ordered or a device
//! was added, to where they would be written now. What is to lie on another node is `repairing`'s; both keep to the limit
//! of repair.
//!
//! A device that is to go leaves the placement map first, so that other nodes take what the map gives them now; what stays
//! on this node, and whatever they don't take, goes to its other devices.

use super::leaving::{self, change, has_left_map};
use super::limits::{LEAVE_PATIENCE, MOVE_LOOK, MOVE_STEP, MOVES};
use super::mending::mend;
use super::repairing::limit;
use super::routing;
use super::scrubbing;
use super::server::Answered;
use super::shard::Shard;
use crate::store::{CollectCursor, Relocated};
use farside_codec::cluster::NodeState;
use farside_codec::ids::{ChunkId, DeviceId};
use farside_codec::message::{Reply, Request};
use farside_io::disk::Disk;
use futures_util::stream::{self, StreamExt};
use std::rc::Rc;

/// Moves for as long as the shard runs.
pub(super) async fn keep_moved<D: Disk>(shard: Rc<Shard<D>>) {
    loop {
        tokio::time::sleep(MOVE_LOOK).await;
        // Nothing is known of the site yet, nor of what belongs where.
        if shard.view().site.is_none() {
            continue;
        }
        for device in shard.moving.leaving() {
            evacuate(&shard, device).await;
        }
        if shard.moving.is_unbalanced() && !shard.moving.balanced.get() {
            balance(&shard).await;
        }
        if shard.index == 0 {
            leaving::let_go(&shard).await;
            rest(&shard).await;
        }
    }
}

/// Notes that every shard has come to its end with what lay elsewhere than it should.
async fn rest<D: Disk>(shard: &Rc<Shard<D>>) {
    if !shard.moving.is_unbalanced() {
        return;
    }
    let orders = shard.moving.orders.get();
    for index in 0..shard.shards() {
        match shard.on(index, |there| async move { there.moving.balanced.get() }).await {
            Ok(true) => {}
            _ => return,
        }
    }
    if orders != shard.moving.orders.get() {
        // An order that came meanwhile is not done yet.
        return;
    }
    if let Err(refusal) = change(shard, |file| file.unbalanced = false).await {
        tracing::warn!(%refusal, "it can't be written down that everything lies where it should");
    }
}

/// Whether the others had their time to take what belongs to them of a device that is to go.
fn waited_long<D: Disk>(shard: &Shard<D>, device: DeviceId, fragments: u64) -> bool {
    let now = shard.clock.clock().monotonic();
    let mut progress = shard.moving.progress.borrow_mut();
    let known = progress.entry(device).or_insert((fragments, now));
    if fragments != known.0 {
        *known = (fragments, now);
    }
    now.saturating_sub(known.1) >= LEAVE_PATIENCE
}

/// Empties a device that is to go, as far as what is on it stays on this node.
async fn evacuate<D: Disk>(shard: &Rc<Shard<D>>, device: DeviceId) {
    let Some(residents) = shard.store.residents(device).filter(|found| found.works && found.fragments > 0) else {
        return;
    };
    let all = shard.is_alone() || waited_long(shard, device, residents.fragments);
    if !all && !has_left_map(shard, device) {
        return;
    }
    for segment in shard.store.leaving_segments(device).await {
        let records = shard.store.leaving_records(device, segment).await;
        move_all(shard, device, all, records).await;
        if !shard.moving.leaving().contains(&device) {
            return;
        }
    }
    // What no index names, and what was written while the order came.
    let mut cursor = Some(CollectCursor::default());
    while let Some(at) = cursor {
        let (records, next) = shard.store.records_on(device, at, MOVE_STEP);
        cursor = next;
        move_all(shard, device, all, records).await;
        if !shard.moving.leaving().contains(&device) {
            return;
        }
        tokio::task::yield_now().await;
    }
    if let Err(error) = shard.store.free_emptied().await {
        tracing::info!(%error, "segments that are empty are not free yet");
    }
}

/// Whether a fragment is to be on this node.
fn belongs_here<D: Disk>(shard: &Shard<D>, chunk: &ChunkId, fragment: u8) -> bool {
    if shard.is_alone() || shard.snapshots.needs(chunk) {
        return true;
    }
    let slots = shard.view().map.nodes(chunk, shard.geometry().total());
    slots.get(usize::from(fragment)) == Some(&Some(shard.site.node))
}

async fn move_all<D: Disk>(shard: &Rc<Shard<D>>, device: DeviceId, all: bool, records: Vec<(ChunkId, u8, usize)>) {
    let stays = |(chunk, fragment, _): &(ChunkId, u8, usize)| all || belongs_here(shard, chunk, *fragment);
    let records: Vec<_> = records.into_iter().filter(stays).collect();
    if records.is_empty() {
        return;
    }
    let waits = stream::iter(records).then(|record| async move {
        limit(shard, 2 * record.2).await;
        record
    });
    let moves = waits.map(|(chunk, fragment, _)| async move {
        if shard.moving.leaving().contains(&device) {
            move_one(shard, chunk, fragment, device).await;
        }
    });
    moves.buffer_unordered(MOVES).for_each(|()| std::future::ready(())).await;
    if let Err(error) = shard.store.free_emptied().await {
        tracing::info!(%error, "segments that are empty are not free yet");
    }
}

async fn move_one<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId, fragment: u8, device: DeviceId) {
    match shard.store.move_off(chunk, fragment, device).await {
        Ok(Relocated::Moved(bytes)) => shard.repair.count(bytes),
        Ok(Relocated::Gone | Relocated::NoRoom) => {}
        // It is given up where enough others are good, and made up for out of them.
        Ok(Relocated::Refused) => {
            if let Err(error) = scrubbing::look(shard, chunk).await {
                tracing::info!(%chunk, %error, "a fragment that is to be moved can't be read");
            }
        }
        Ok(Relocated::Damaged) => match shard.is_alone() || shard.snapshots.needs(&chunk) {
            true => drop(mend(shard, chunk).await),
            false => shard.owe(chunk),
        },
        Err(error) => tracing::info!(%chunk, %error, "a fragment can't be moved now"),
    }
}

/// Moves what lies on other devices than it would if it was written now. It is over when there is nothing, or nothing of
/// what there is can be moved.
async fn balance<D: Disk>(shard: &Rc<Shard<D>>) {
    let (mut found, mut moved) = (0, 0);
    let mut cursor = Some(CollectCursor::default());
    while let Some(at) = cursor {
        let (chunks, next) = shard.store.misplaced(at, MOVE_STEP);
        cursor = next;
        found += chunks.iter().map(|(_, count)| *count as u64).sum::<u64>();
        tokio::task::yield_now().await;
    }
    shard.moving.misplaced.set(found);
    cursor = (found > 0).then(CollectCursor::default);
    while let Some(at) = cursor {
        let (chunks, next) = shard.store.misplaced(at, MOVE_STEP);
        cursor = next;
        for (chunk, _) in chunks {
            limit(shard, shard.store.balancing_bytes(&chunk)).await;
            if !shard.moving.is_unbalanced() {
                return;
            }
            match shard.store.balance(chunk).await {
                Ok((fragments, bytes)) => {
                    shard.repair.count(bytes);
                    moved += fragments as u64;
                    let left = shard.moving.misplaced.get().saturating_sub(fragments as u64);
                    shard.moving.misplaced.set(left);
                }
                Err(error) => tracing::info!(%chunk, %error, "a chunk's fragments can't be moved now"),
            }
        }
        tokio::task::yield_now().await;
    }
    if moved == 0 {
        shard.moving.misplaced.set(0);
        // An order that came meanwhile begins anew.
        shard.moving.balanced.set(shard.moving.is_unbalanced());
    }
}

/// Has every node of the site move what lies elsewhere than it should, or leave it. Answers with the names of those that
/// have not heard it.
pub(super) async fn rebalance<D: Disk>(shard: &Rc<Shard<D>>, moves: bool) -> Answered {
    rebalance_here(shard, moves).await?;
    let mut silent = Vec::new();
    let nodes: Vec<_> = shard.view().nodes.values().cloned().collect();
    for node in nodes.into_iter().filter(|node| node.node != shard.site.node && node.state != NodeState::Removed) {
        match routing::ask_node(shard, &node, 0, &Request::RebalanceNode(moves)).await {
            Ok(Reply::Done) => {}
            Ok(_) | Err(_) => silent.push(node.name.to_string()),
        }
    }
    Ok(Reply::Rebalancing(silent).into())
}

/// The same on this node. What was ordered stands until the opposite is, restarts or not.
pub(super) async fn rebalance_here<D: Disk>(shard: &Rc<Shard<D>>, moves: bool) -> Answered {
    let ordered = shard.on(0, move |there| async move {
        change(&there, |file| (file.unbalanced, file.paused) = (moves, !moves)).await
    });
    ordered.await??;
    for index in 0..shard.shards() {
        shard.on(index, |there| async move { there.repair.look_again() }).await?;
    }
    Ok(Reply::Done.into())
}
