//! How chunks get out: read here where the site has one node, else out of the fragments that several nodes hold. A read takes the
//! first k good fragments, and asks others for theirs where a node is silent or slow.

use super::chunks::{Seeking, is_enough, locate, stripes_of};
use super::fragments::{fetch_from, refuse};
use super::limits::HEDGE;
use super::server::{Answer, Answered, store_refusal};
use super::shard::{Shard, count};
use crate::store::columns;
use bytes::Bytes;
use farside_codec::cluster::{HeldFragments, NodeRecord, NodeState};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId};
use farside_codec::message::{ChunkRange, GetChunk, Refusal, RefusalCode, Reply};
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use tokio::time::{Instant, sleep_until};

/// Part of a chunk, or all of it.
#[derive(Debug, Clone)]
pub(super) struct ChunkBytes {
    /// Length of the whole sealed chunk.
    pub(super) sealed_bytes: u32,
    /// The bytes.
    pub(super) pieces: Vec<Bytes>,
}

/// Answers a client or a peer with part of a chunk.
pub(super) async fn get<D: Disk>(shard: &Rc<Shard<D>>, get: GetChunk) -> Answered {
    let offset = get.offset;
    let read = read(shard, get.chunk, get.offset, get.length).await?;
    let length = read.pieces.iter().map(Bytes::len).sum::<usize>() as u32;
    let range = ChunkRange { sealed_bytes: read.sealed_bytes, offset, length };
    Ok(Answer { reply: Reply::ChunkRange(range), body: read.pieces })
}

/// Reads a range of a chunk, wherever its fragments are; a length of 0: all from `offset` on.
pub(super) async fn read<D: Disk>(
    shard: &Rc<Shard<D>>,
    chunk: ChunkId,
    offset: u32,
    length: u32,
) -> Result<ChunkBytes, Refusal> {
    let owner = chunk.shard(shard.shards());
    if shard.is_alone() {
        let read =
            shard.on_while_awaited(owner, move |there| async move { there.store.get(chunk, offset, length).await });
        let read = read.await?.map_err(store_refusal)?;
        return Ok(ChunkBytes { sealed_bytes: read.sealed_bytes, pieces: read.pieces });
    }
    let gathered =
        shard.on_while_awaited(owner, move |there| async move { gather(&there, chunk, offset, length).await });
    gathered.await?
}

/// The bytes of a chunk that are asked for; a length of 0: all from `offset` on.
pub(super) fn range_of(sealed_bytes: u32, offset: u32, length: u32) -> Result<Range<usize>, Refusal> {
    let length = if length == 0 { sealed_bytes.saturating_sub(offset) } else { length };
    let end = offset.checked_add(length).filter(|end| *end <= sealed_bytes && length > 0);
    let end = end.ok_or_else(|| refuse(&format!("the chunk has {sealed_bytes} bytes")))?;
    Ok(offset as usize..end as usize)
}

/// A fragment's bytes on their way here.
type Fetched = (u8, Result<Bytes, Refusal>);

async fn gather<D: Disk>(
    shard: &Rc<Shard<D>>,
    chunk: ChunkId,
    offset: u32,
    length: u32,
) -> Result<ChunkBytes, Refusal> {
    let mut holdings = locate(shard, &[chunk], false, Geometry::data, Seeking::ToUse).await;
    let silent = !holdings.silent.is_empty();
    let missing = || match silent {
        true => {
            Refusal::retry(RefusalCode::Unavailable, 200, format!("nodes that may hold chunk {chunk} don't answer"))
        }
        false => Refusal::new(RefusalCode::NotFound, format!("chunk {chunk} is not stored here")),
    };
    let held = holdings.of.remove(&chunk).ok_or_else(missing)?;
    // While a chunk is cut another way it has two stripes, and the more redundant one is read first.
    let spare = |geometry: &Geometry, fragments: &BTreeSet<u8>| fragments.len() as isize - geometry.data() as isize;
    let mut stripes: Vec<(Geometry, BTreeSet<u8>)> = stripes_of(Some(&held)).into_iter().collect();
    stripes.sort_by_key(|(geometry, there)| (spare(geometry, there), *geometry == shard.geometry()));
    let mut read = Err(missing());
    while let Some((geometry, there)) = stripes.pop() {
        read = gather_stripe(shard, (chunk, geometry), &held, offset, length).await;
        // One that is read while it is let go of is whole elsewhere.
        let is_gone =
            matches!(&read, Err(refusal) if matches!(refusal.code, RefusalCode::Unavailable | RefusalCode::Corrupt));
        if !is_gone || stripes.last().is_none_or(|(next, fragments)| spare(next, fragments) < 0) {
            break;
        }
        tracing::debug!(%chunk, %geometry, fragments = there.len(), "another stripe of the chunk is read");
    }
    match read {
        Err(refusal) if refusal.code == RefusalCode::Unavailable && is_lost(shard, chunk).await => {
            let detail = format!("chunk {chunk} is lost: fewer of its fragments are left than are needed to read it");
            Err(Refusal::new(RefusalCode::Corrupt, detail))
        }
        read => read,
    }
}

/// Reads a range of a chunk out of one of its stripes.
async fn gather_stripe<D: Disk>(
    shard: &Rc<Shard<D>>,
    (chunk, geometry): (ChunkId, Geometry),
    held: &[(NodeId, HeldFragments)],
    offset: u32,
    length: u32,
) -> Result<ChunkBytes, Refusal> {
    let missing = || Refusal::new(RefusalCode::NotFound, format!("chunk {chunk} is not stored here"));
    let first = held.iter().find(|(_, one)| one.geometry == geometry);
    let sealed_bytes = first.map(|(_, one)| one.sealed_bytes).ok_or_else(missing)?;
    let layout = StripeLayout::new(geometry, sealed_bytes as usize);
    let range = range_of(sealed_bytes, offset, length)?;
    let columns = columns(&layout, &range);
    // Who is asked for what, and when: for the wanted ones first, then here, then where somebody answers.
    let wanted: BTreeSet<u8> = layout.locate(range.clone()).map(|(fragment, _)| fragment as u8).collect();
    let alike = held.iter().filter(|(_, one)| one.geometry == geometry && one.sealed_bytes == sealed_bytes);
    let mut order: Vec<(u8, NodeId)> =
        alike.flat_map(|(node, one)| one.fragments.iter().map(|fragment| (*fragment, *node))).collect();
    let own = shard.site.node;
    order.sort_by_key(|(fragment, node)| {
        (!wanted.contains(fragment), *node != own, *fragment, !shard.nodes.answers(*node), *node)
    });
    let mut got: BTreeMap<u8, Bytes> = BTreeMap::new();
    let mut fetching: FuturesUnordered<LocalBoxFuture<'static, Fetched>> = FuturesUnordered::new();
    let mut asked: BTreeSet<u8> = BTreeSet::new();
    // Asks for up to so many more. A fragment is asked for at one node at a time.
    let mut ask =
        |more: usize, asked: &mut BTreeSet<u8>, fetching: &FuturesUnordered<LocalBoxFuture<'static, Fetched>>| {
            for _ in 0..more {
                let Some(at) = order.iter().position(|(fragment, _)| !asked.contains(fragment)) else { return };
                let (fragment, node) = order.remove(at);
                asked.insert(fragment);
                let (shard, columns) = (shard.clone(), columns.clone());
                fetching.push(Box::pin(async move {
                    (fragment, fetch_from(&shard, (chunk, geometry), fragment, node, columns).await)
                }));
            }
        };
    ask(wanted.len(), &mut asked, &fetching);
    let mut hedge = Some(Instant::now() + HEDGE);
    let mut degraded = false;
    let done = |got: &BTreeMap<u8, Bytes>| {
        got.len() >= geometry.data() || wanted.iter().all(|fragment| got.contains_key(fragment))
    };
    while !done(&got) {
        let fetched = tokio::select! {
            biased;
            Some(fetched) = fetching.next() => Some(fetched),
            () = sleep_until(hedge.unwrap_or_else(Instant::now)), if hedge.is_some() => None,
            else => break,
        };
        let more = match fetched {
            Some((fragment, Ok(bytes))) => {
                got.insert(fragment, bytes);
                0
            }
            Some((fragment, Err(refusal))) => {
                tracing::debug!(%chunk, fragment, %refusal, "a fragment can't be read");
                // Another node may hold the same one.
                asked.remove(&fragment);
                degraded = true;
                // Without it any k will do.
                geometry.data().saturating_sub(got.len() + fetching.len())
            }
            None => {
                hedge = None;
                degraded = true;
                geometry.data().saturating_sub(got.len()).max(1)
            }
        };
        ask(more, &mut asked, &fetching);
    }
    drop(fetching);
    if degraded || wanted.iter().any(|fragment| !got.contains_key(fragment)) {
        count(&shard.counters.degraded_reads);
        shard.owe(chunk);
    }
    if !done(&got) {
        let detail =
            format!("only {} of the {} fragments that chunk {chunk} needs can be read now", got.len(), geometry.data());
        return Err(Refusal::retry(RefusalCode::Unavailable, 200, detail));
    }
    let present = got.into_iter().map(|(fragment, bytes)| (usize::from(fragment), bytes)).collect();
    let decoded = shard.store.decode(chunk, geometry, sealed_bytes as usize, range, present);
    Ok(ChunkBytes { sealed_bytes, pieces: decoded.map_err(store_refusal)? })
}

/// Whether every node that the site counts on has said that too little of a chunk is left. One that is dead may come back.
async fn is_lost<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> bool {
    let said = |node: &NodeRecord| matches!(node.state, NodeState::Up | NodeState::Draining | NodeState::Removed);
    if !shard.view().nodes.values().all(said) {
        return false;
    }
    // Asked once more: a fragment may have been on its way from one node to another.
    let found = locate(shard, &[chunk], false, Geometry::data, Seeking::ToUse).await;
    found.silent.is_empty() && !is_enough(found.of.get(&chunk), Geometry::data)
}
