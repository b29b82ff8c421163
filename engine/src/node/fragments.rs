//! Fragments of chunks, one node at a time: stored, read and dropped here, or asked of another node.

use super::limits::{FRAGMENT_PATIENCE, NODE_PATIENCE};
use super::links::{NodeCallError, misanswered};
use super::routing;
use super::server::{Answer, Answered, store_refusal};
use super::shard::Shard;
use crate::state::ControlView;
use crate::store::StoreError;
use bytes::Bytes;
use farside_codec::cluster::{DropFragments, DropStripes, FragmentQuestion, GetFragment, HeldFragments, PutFragments};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId};
use farside_codec::limits::{MAX_CHUNK_SEALED_BYTES, MAX_CHUNKS_PER_QUESTION, MAX_FRAGMENTS};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;
use farside_transport::{Class, Stream, StreamError};
use std::ops::Range;
use std::rc::Rc;

pub(super) fn bad(error: StreamError) -> Refusal {
    Refusal::new(RefusalCode::BadRequest, error.to_string())
}

pub(super) fn refuse(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::BadRequest, detail)
}

pub(super) async fn receive(stream: &mut Stream, length: usize) -> Result<Vec<Bytes>, Refusal> {
    let mut pieces = Vec::new();
    stream.receive_body(length, |piece| pieces.push(piece)).await.map_err(bad)?;
    Ok(pieces)
}

/// Receives a body straight into whatever takes its pieces. What is refused is received to its end all the same, so that the
/// refusal can be answered.
pub(super) async fn receive_into(
    stream: &mut Stream,
    length: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), Refusal> {
    let mut taken = Ok(());
    let received = stream.receive_body(length, |piece| {
        if taken.is_ok() {
            taken = take(&piece);
        }
    });
    received.await.map_err(bad)?;
    taken.map_err(store_refusal)
}

/// Sends fragments to another node.
pub(super) async fn send_to<D: Disk>(
    shard: &Rc<Shard<D>>,
    view: &ControlView,
    node: NodeId,
    put: PutFragments,
    body: Vec<Bytes>,
) -> Result<HeldFragments, Refusal> {
    let record = view.nodes.get(&node).ok_or_else(|| Refusal::from(NodeCallError::Silent(node)))?;
    let (chunk, geometry, there) = (put.chunk, put.geometry, record.shard_of_chunk(put.chunk));
    let request = Request::PutFragments(put);
    let sent = shard.nodes.call(record, there, Class::Bulk, &request, Some(body), FRAGMENT_PATIENCE).await?;
    match sent.0 {
        Reply::FragmentsStored(held) if held.chunk == chunk && held.geometry == geometry && is_sound(&held) => Ok(held),
        _ => Err(misanswered()),
    }
}

/// Whether what another node says that it holds can be so.
pub(super) fn is_sound(held: &HeldFragments) -> bool {
    let possible = |fragment: &u8| usize::from(*fragment) < held.geometry.total();
    (1..=MAX_CHUNK_SEALED_BYTES).contains(&(held.sealed_bytes as usize)) && held.fragments.iter().all(possible)
}

/// Takes in fragments that another node sends.
pub(super) async fn put_fragments<D: Disk>(shard: &Rc<Shard<D>>, put: PutFragments, stream: &mut Stream) -> Answered {
    let sealed = put.sealed_bytes as usize;
    if sealed == 0 || sealed > MAX_CHUNK_SEALED_BYTES || put.fragments.len() > MAX_FRAGMENTS {
        return Err(refuse("no chunk has that length, or no stripe that many fragments"));
    }
    let length = put.fragments.len() * StripeLayout::new(put.geometry, sealed).fragment_bytes();
    if put.chunk.shard(shard.shards()) != shard.index {
        let pieces = receive(stream, length).await?;
        return Ok(Reply::FragmentsStored(keep_fragments(shard, put, pieces).await?).into());
    }
    let begun = shard.store.begin_fragments(put.chunk, put.geometry, sealed, &put.fragments).await;
    let mut writer = begun.map_err(store_refusal)?;
    receive_into(stream, length, |piece| writer.append(piece)).await?;
    let stored = writer.commit().await.map_err(store_refusal)?;
    Ok(Reply::FragmentsStored(stored_here(shard, &put, stored)).into())
}

async fn store_fragments<D: Disk>(
    shard: &Rc<Shard<D>>,
    put: PutFragments,
    pieces: Vec<Bytes>,
) -> Result<HeldFragments, Refusal> {
    let sealed = put.sealed_bytes as usize;
    let begun = shard.store.begin_fragments(put.chunk, put.geometry, sealed, &put.fragments).await;
    let mut writer = begun.map_err(store_refusal)?;
    pieces.iter().try_for_each(|piece| writer.append(piece)).map_err(store_refusal)?;
    let stored = writer.commit().await.map_err(store_refusal)?;
    Ok(stored_here(shard, &put, stored))
}

/// What is to be said of fragments that this shard has just stored.
pub(super) fn stored_here<D: Disk>(shard: &Shard<D>, put: &PutFragments, fragments: Vec<u8>) -> HeldFragments {
    let PutFragments { chunk, geometry, sealed_bytes, .. } = *put;
    HeldFragments { chunk, geometry, sealed_bytes, fragments, gc_epoch: shard.store.gc_epoch() }
}

/// Stores fragments that are in memory on the shard of this node that they belong to.
pub(super) async fn keep_fragments<D: Disk>(
    shard: &Rc<Shard<D>>,
    put: PutFragments,
    pieces: Vec<Bytes>,
) -> Result<HeldFragments, Refusal> {
    let owner = put.chunk.shard(shard.shards());
    shard.on(owner, move |there| async move { store_fragments(&there, put, pieces).await }).await?
}

/// Which fragments of these chunks this node holds. Asked as of a placement epoch, it says nothing as of another one.
pub(super) async fn held_here<D: Disk>(
    shard: &Rc<Shard<D>>,
    question: FragmentQuestion,
) -> Result<Vec<HeldFragments>, Refusal> {
    if question.chunks.len() > MAX_CHUNKS_PER_QUESTION {
        return Err(refuse("too many chunks in one question"));
    }
    let mut answers = Vec::new();
    for index in 0..shard.shards() {
        let shards = shard.shards();
        let asked: Vec<ChunkId> =
            question.chunks.iter().filter(|chunk| chunk.shard(shards) == index).copied().collect();
        if asked.is_empty() {
            continue;
        }
        let (touch, epoch) = (question.touch, question.placement_epoch);
        let held = shard.on_while_awaited(index, move |there| async move {
            goes_by(&there, epoch)?;
            let held = there.store.fragments(&asked, touch);
            let known =
                asked.into_iter().zip(held).flat_map(|(chunk, held)| held.into_iter().map(move |one| (chunk, one)));
            Ok::<_, Refusal>(known.map(|(chunk, held)| on_wire(chunk, held)).collect::<Vec<_>>())
        });
        answers.extend(held.await??);
    }
    Ok(answers)
}

/// Refuses where this shard goes by another placement epoch; 0 is any.
fn goes_by<D: Disk>(shard: &Shard<D>, epoch: u64) -> Result<(), Refusal> {
    match shard.view().placement_epoch {
        own if epoch == 0 || own == epoch => Ok(()),
        own => {
            let detail = format!("the node goes by placement epoch {own}, not by {epoch}");
            Err(Refusal::retry(RefusalCode::Unavailable, 200, detail))
        }
    }
}

pub(super) fn on_wire(chunk: ChunkId, held: crate::store::HeldFragments) -> HeldFragments {
    let crate::store::HeldFragments { geometry, sealed_bytes, fragments, gc_epoch } = held;
    HeldFragments { chunk, geometry, sealed_bytes, fragments, gc_epoch }
}

/// Reads part of a fragment from the node that holds it.
pub(super) async fn fetch_from<D: Disk>(
    shard: &Rc<Shard<D>>,
    (chunk, geometry): (ChunkId, Geometry),
    fragment: u8,
    node: NodeId,
    range: Range<usize>,
) -> Result<Bytes, Refusal> {
    if node == shard.site.node {
        let owner = chunk.shard(shard.shards());
        let read = shard.on_while_awaited(owner, move |there| async move {
            there.store.read_fragment(chunk, geometry, usize::from(fragment), range).await
        });
        return read.await?.map_err(store_refusal);
    }
    let record = shard.node(node)?;
    let (offset, length) = (range.start as u32, range.len() as u32);
    let request = Request::GetFragment(GetFragment { chunk, geometry, fragment, offset, length });
    let there = record.shard_of_chunk(chunk);
    let answered = shard.nodes.call(&record, there, Class::Bulk, &request, None, FRAGMENT_PATIENCE).await?;
    let (Reply::FragmentRange(length), mut stream) = answered else {
        return Err(misanswered());
    };
    if length as usize != range.len() {
        return Err(Refusal::new(RefusalCode::Internal, "a node sends another part of a fragment than was asked for"));
    }
    let pieces = tokio::time::timeout(FRAGMENT_PATIENCE, receive(&mut stream, length as usize));
    let pieces = pieces.await.map_err(|_| Refusal::from(NodeCallError::Silent(node)))??;
    match pieces.len() {
        1 => Ok(pieces.into_iter().next().unwrap_or_default()),
        _ => Ok(pieces.concat().into()),
    }
}

/// Answers another node with part of a fragment.
pub(super) async fn get_fragment<D: Disk>(shard: &Rc<Shard<D>>, get: GetFragment) -> Answered {
    let owner = get.chunk.shard(shard.shards());
    let end = get.offset.checked_add(get.length).ok_or_else(|| refuse("no fragment is that long"))?;
    let range = get.offset as usize..end as usize;
    let read = shard.on_while_awaited(owner, move |there| async move {
        there.store.read_fragment(get.chunk, get.geometry, usize::from(get.fragment), range).await
    });
    let bytes = read.await?.map_err(store_refusal)?;
    Ok(Answer { reply: Reply::FragmentRange(bytes.len() as u32), body: vec![bytes] })
}

/// Drops fragments that others hold.
pub(super) async fn drop_fragments<D: Disk>(shard: &Rc<Shard<D>>, fragments: DropFragments) -> Answered {
    let owner = fragments.chunk.shard(shard.shards());
    // Whoever asks may go by an older map: what belongs here by this node's own is not dropped.
    let (own, slots) = (shard.site.node, shard.view().map.nodes(&fragments.chunk, fragments.geometry.total()));
    let belongs = |fragment: &u8| slots.get(usize::from(*fragment)) == Some(&Some(own));
    let surplus: Vec<u8> = fragments.fragments.into_iter().filter(|fragment| !belongs(fragment)).collect();
    let dropped = shard.on(owner, move |there| async move {
        if !there.snapshots.needs(&fragments.chunk) {
            there.store.drop_fragments(fragments.chunk, fragments.geometry, &surplus);
        }
    });
    dropped.await?;
    Ok(Reply::Done.into())
}

/// Drops stripes that are cut another way than chunks are now, and without which their chunks are whole.
///
/// That they are was seen as of a placement epoch, by a node that may have been cut off since: while it was, the site may
/// have gone back to cutting chunks the older way, and have dropped the newer stripes. So this node finds out that the
/// control group is at that epoch now, and nothing that it has said as of a later one is dropped by what was seen before.
pub(super) async fn drop_stripes<D: Disk>(shard: &Rc<Shard<D>>, drops: DropStripes) -> Answered {
    if drops.stripes.len() > MAX_CHUNKS_PER_QUESTION || drops.placement_epoch == 0 {
        return Err(refuse("too many stripes in one order, or as of no placement epoch"));
    }
    // Whoever asks waits no longer for it than for any other answer.
    let knows = tokio::time::timeout(NODE_PATIENCE / 2, routing::knows_control(shard)).await;
    if !knows.unwrap_or(false) {
        let detail = "the node can't find out now how the site cuts chunks";
        return Err(Refusal::retry(RefusalCode::Unavailable, 200, detail));
    }
    let (shards, epoch) = (shard.shards(), drops.placement_epoch);
    for index in 0..shards {
        let here: Vec<(ChunkId, Geometry)> =
            drops.stripes.iter().filter(|(chunk, _)| chunk.shard(shards) == index).copied().collect();
        let dropped = shard.on(index, move |there| async move {
            goes_by(&there, epoch)?;
            let now = there.geometry();
            // The pieces of a snapshot are its own node's, whatever else has the same bytes.
            let is_own = |chunk: &ChunkId| there.snapshots.needs(chunk);
            let outdated = here.into_iter().filter(|(chunk, geometry)| *geometry != now && !is_own(chunk));
            for (chunk, geometry) in outdated {
                there.store.drop_stripe(chunk, geometry);
            }
            Ok::<_, Refusal>(())
        });
        dropped.await??;
    }
    Ok(Reply::Done.into())
}
