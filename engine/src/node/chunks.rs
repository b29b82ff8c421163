//! Chunks of the site. With one node all fragments of a chunk lie here; with several they lie where the placement map says,
//! and whichever node a caller asks coordinates: it cuts, sends, gathers, and answers for all. How they get out is in
//! `gathering`.
//!
//! A put answers when k+1 fragments are durable and the others had a moment more; what is missing then is owed to repair at
//! once.

use super::fragments::{held_here, is_sound, receive, receive_into, refuse, send_to, stored_here};
use super::limits::{HEDGE, NODE_PATIENCE, PUT_GRACE, PUT_LATE, PUT_ROUNDS};
use super::server::{Answered, store_refusal};
use super::shard::{Shard, count};
use crate::cluster::map::PlacementMap;
use crate::cluster::spread::{Held, losses_survived, targets};
use crate::state::ControlView;
use crate::store::{ChunkWriter, Stripe, needed_fragments};
use bytes::Bytes;
use farside_codec::cluster::{FragmentQuestion, HeldFragments, PutFragments};
use farside_codec::delta::ChunkReceipt;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId};
use farside_codec::limits::MAX_CHUNK_SEALED_BYTES;
use farside_codec::message::{PutChunk, Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_transport::{Class, Stream};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

/// Takes in a chunk from a client or a peer.
pub(super) async fn put<D: Disk>(shard: &Rc<Shard<D>>, put: PutChunk, stream: &mut Stream) -> Answered {
    let length = put.sealed_bytes as usize;
    let owner = put.chunk.shard(shard.shards());
    if owner != shard.index {
        if length > MAX_CHUNK_SEALED_BYTES {
            return Err(refuse("the chunk is larger than any chunk may be"));
        }
        let pieces = receive(stream, length).await?;
        return shard.on(owner, move |there| async move { put_pieces(&there, put, pieces).await }).await?;
    }
    if let Some(receipt) = known(shard, put.chunk).await? {
        // The receipt is of now. By the time that all of a body had come that nobody needs, GC might have outrun it.
        stream.stop();
        return Ok(Reply::ChunkStored(receipt).into());
    }
    let mut incoming = Incoming::begin(shard, &put).await?;
    if incoming.writer.is_present() {
        // As above.
        stream.stop();
        return incoming.finish(shard).await;
    }
    receive_into(stream, length, |piece| incoming.writer.append(piece)).await?;
    incoming.finish(shard).await
}

/// Stores a chunk whose bytes are here.
pub(super) async fn put_pieces<D: Disk>(shard: &Rc<Shard<D>>, put: PutChunk, pieces: Vec<Bytes>) -> Answered {
    if let Some(receipt) = known(shard, put.chunk).await? {
        return Ok(Reply::ChunkStored(receipt).into());
    }
    let mut incoming = Incoming::begin(shard, &put).await?;
    pieces.iter().try_for_each(|piece| incoming.writer.append(piece)).map_err(store_refusal)?;
    incoming.finish(shard).await
}

/// Refuses what a client would count on where this node hears less than half of its site. It is cut off, as likely as not:
/// all fragments would end on itself, and the others, who decide what may be named, could not find them.
fn hears_enough<D: Disk>(shard: &Shard<D>) -> Result<(), Refusal> {
    let others = shard.others();
    let heard = 1 + others.iter().filter(|node| shard.nodes.answers(node.node)).count();
    let all = 1 + others.len();
    match 2 * heard >= all {
        true => Ok(()),
        false => {
            let detail =
                format!("this node hears {heard} of the {all} nodes of its site, itself among them: ask another one");
            Err(Refusal::retry(RefusalCode::Unavailable, 500, detail))
        }
    }
}

/// The receipt of a chunk that other nodes have already. With one node its store finds that out by itself.
async fn known<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> Result<Option<ChunkReceipt>, Refusal> {
    if shard.is_alone() {
        return Ok(None);
    }
    Ok(have(shard, vec![chunk]).await?.pop().flatten())
}

/// A chunk on its way in: to this node's devices, or to be spread over nodes.
struct Incoming<D: Disk> {
    writer: ChunkWriter<D>,
    spreads: bool,
}

impl<D: Disk> Incoming<D> {
    async fn begin(shard: &Rc<Shard<D>>, put: &PutChunk) -> Result<Self, Refusal> {
        let (spreads, length) = (!shard.is_alone(), put.sealed_bytes as usize);
        let writer = match spreads {
            true => shard.store.begin_stripe(put.chunk, shard.geometry(), length).await,
            false => shard.store.begin(put.chunk, length).await,
        };
        Ok(Self { writer: writer.map_err(store_refusal)?, spreads })
    }

    async fn finish(self, shard: &Rc<Shard<D>>) -> Answered {
        let receipt = match self.spreads {
            true => spread(shard, self.writer.encode().map_err(store_refusal)?).await?,
            false => self.writer.commit().await.map_err(store_refusal)?,
        };
        Ok(Reply::ChunkStored(receipt).into())
    }
}

/// Which nodes hold which fragments of a chunk that is being written.
#[derive(Default)]
struct Placed {
    by_node: Held,
    gc_epoch: Option<u64>,
}

impl Placed {
    fn add(&mut self, node: NodeId, held: &HeldFragments) {
        if held.fragments.is_empty() {
            return;
        }
        self.by_node.entry(node).or_default().extend(&held.fragments);
        if held.gc_epoch == 0 {
            // The node does not know the epoch yet; what it holds is dated by the first one that it hears, which is later.
            return;
        }
        self.gc_epoch = Some(self.gc_epoch.map_or(held.gc_epoch, |epoch| epoch.min(held.gc_epoch)));
    }

    fn distinct(&self) -> BTreeSet<u8> {
        self.by_node.values().flatten().copied().collect()
    }

    /// The receipt for what is there, if that is enough for one.
    fn receipt(&self, geometry: Geometry, map: &PlacementMap, epoch: u64, deduplicated: bool) -> Option<ChunkReceipt> {
        if self.distinct().len() < needed_fragments(geometry) {
            return None;
        }
        let survived = losses_survived(&self.by_node, geometry.data(), |node| map.domain(node));
        Some(ChunkReceipt {
            durable_fragments: (geometry.data() + survived) as u8,
            data_fragments: geometry.data() as u8,
            parity_fragments: geometry.parity() as u8,
            placement_epoch: epoch,
            gc_epoch: self.gc_epoch.unwrap_or(0),
            deduplicated,
        })
    }
}

type Sent = (NodeId, Result<HeldFragments, Refusal>);

/// Sends the fragments of a stripe to their nodes; where one does not take them, to others.
async fn spread<D: Disk>(shard: &Rc<Shard<D>>, stripe: Stripe) -> Result<ChunkReceipt, Refusal> {
    hears_enough(shard)?;
    let (chunk, geometry) = (stripe.chunk(), stripe.geometry());
    let view = shard.view();
    let mut placed = Placed::default();
    let mut avoided: BTreeSet<NodeId> =
        view.nodes.keys().filter(|node| **node != shard.site.node && !shard.nodes.answers(**node)).copied().collect();
    let mut refused = None;
    let mut sends: FuturesUnordered<LocalBoxFuture<'static, Sent>> = FuturesUnordered::new();
    let mut pending: BTreeSet<NodeId> = BTreeSet::new();
    let needed = needed_fragments(geometry);
    for _ in 0..PUT_ROUNDS {
        let plan = targets(&view.map, &chunk, geometry.total(), needed, &placed.by_node, &avoided);
        if plan.is_empty() && sends.is_empty() {
            break;
        }
        for (node, fragments) in plan {
            pending.insert(node);
            sends.push(Box::pin(send(shard.clone(), view.clone(), node, stripe.clone(), fragments)));
        }
        // With enough for an answer the slowest are not waited for at length: what they lack is owed. Without, others are
        // asked to stand in for them.
        let mut patience = Instant::now() + PUT_LATE;
        let mut enough = false;
        loop {
            let (node, sent) = tokio::select! {
                biased;
                Some(sent) = sends.next() => sent,
                () = sleep_until(patience), if !sends.is_empty() => break,
                else => break,
            };
            pending.remove(&node);
            match sent {
                Ok(held) => placed.add(node, &held),
                Err(refusal) => {
                    avoided.insert(node);
                    refused = Some(refusal);
                }
            }
            if !enough && placed.distinct().len() >= needed {
                enough = true;
                patience = Instant::now() + PUT_GRACE;
            }
        }
        if placed.distinct().len() == geometry.total() || enough && !sends.is_empty() {
            break;
        }
        avoided.extend(&pending);
    }
    if !sends.is_empty() {
        // They go on by themselves; what comes of them is found out before anything is rebuilt.
        let shard = shard.clone();
        tokio::task::spawn_local(async move {
            sends.for_each(|_| std::future::ready(())).await;
            shard.owe(chunk);
        });
    }
    if placed.distinct().len() < geometry.total() {
        shard.owe(chunk);
    }
    count(&shard.counters.chunks_spread);
    // Who was silent may have been found out only now.
    hears_enough(shard)?;
    let receipt = placed.receipt(geometry, &view.map, view.placement_epoch, false);
    receipt.ok_or_else(|| {
        refused.unwrap_or_else(|| {
            let detail = format!(
                "only {} fragments of the chunk found a place, {} are needed: too few nodes answer",
                placed.distinct().len(),
                needed
            );
            Refusal::retry(RefusalCode::Unavailable, 500, detail)
        })
    })
}

/// Stores fragments of a stripe on one node.
async fn send<D: Disk>(
    shard: Rc<Shard<D>>,
    view: Arc<ControlView>,
    node: NodeId,
    stripe: Stripe,
    fragments: Vec<u8>,
) -> Sent {
    let (chunk, geometry, sealed_bytes) = (stripe.chunk(), stripe.geometry(), stripe.sealed_bytes() as u32);
    let put = PutFragments { chunk, geometry, sealed_bytes, fragments };
    let sent = match node == shard.site.node {
        true => {
            let stored = shard.store.put_fragments(&stripe, &put.fragments).await;
            stored.map(|stored| stored_here(&shard, &put, stored)).map_err(store_refusal)
        }
        false => {
            let body = put.fragments.iter().map(|fragment| stripe.fragment(usize::from(*fragment))).collect();
            send_to(&shard, &view, node, put, body).await
        }
    };
    (node, sent)
}

/// What several nodes hold of some chunks.
#[derive(Default)]
pub(super) struct Holdings {
    pub(super) of: BTreeMap<ChunkId, Vec<(NodeId, HeldFragments)>>,
    /// Nodes that did not say.
    pub(super) silent: BTreeSet<NodeId>,
}

/// Asks one node which fragments of chunks it holds; nothing where it does not say.
async fn ask_holder<D: Disk>(
    shard: Rc<Shard<D>>,
    view: Arc<ControlView>,
    node: NodeId,
    question: FragmentQuestion,
) -> (NodeId, Option<Vec<HeldFragments>>) {
    if node == shard.site.node {
        return (node, held_here(&shard, question).await.ok());
    }
    let Some(record) = view.nodes.get(&node) else { return (node, Some(Vec::new())) };
    let request = Request::HaveFragments(question);
    match shard.nodes.call(record, 0, Class::Request, &request, None, NODE_PATIENCE).await {
        Ok((Reply::FragmentsHeld(held), _)) => (node, Some(held)),
        _ => (node, None),
    }
}

/// Asks nodes which fragments of chunks they hold: each about those that `asked` names for it. Who does not answer holds
/// nothing as far as can be known now. Once the answers of those that are still `waited` for can hardly change anything,
/// they have a moment more, and count as silent then.
async fn ask_holders<D: Disk>(
    shard: &Rc<Shard<D>>,
    asked: BTreeMap<NodeId, Vec<ChunkId>>,
    (touch, placement_epoch): (bool, u64),
    holdings: &mut Holdings,
    is_settled: impl Fn(&Holdings, &BTreeSet<NodeId>) -> bool,
) {
    let view = shard.view();
    let mut waited: BTreeSet<NodeId> = asked.keys().copied().collect();
    let question = |chunks| FragmentQuestion { chunks, touch, placement_epoch };
    let ask = |(node, chunks)| ask_holder(shard.clone(), view.clone(), node, question(chunks));
    let mut answers: FuturesUnordered<_> = asked.into_iter().map(ask).collect();
    let mut last = None;
    while !waited.is_empty() {
        if last.is_none() && is_settled(holdings, &waited) {
            last = Some(Instant::now() + HEDGE);
        }
        let answer = match last {
            Some(last) => tokio::time::timeout_at(last, answers.next()).await.unwrap_or_default(),
            None => answers.next().await,
        };
        let Some((node, held)) = answer else { break };
        waited.remove(&node);
        let Some(held) = held else {
            holdings.silent.insert(node);
            continue;
        };
        let sound = |one: &HeldFragments| !one.fragments.is_empty() && is_sound(one);
        for one in held.into_iter().filter(sound) {
            holdings.of.entry(one.chunk).or_default().push((node, one));
        }
    }
    holdings.silent.extend(waited);
    // Whoever is slow still hears which chunks were touched.
    if !answers.is_empty() {
        tokio::task::spawn_local(async move { while answers.next().await.is_some() {} });
    }
}

/// Asks every node of the site, or, with a placement epoch that is not 0, those that go by it.
pub(super) async fn ask_all<D: Disk>(shard: &Rc<Shard<D>>, chunks: &[ChunkId], epoch: u64) -> Holdings {
    let mut holdings = Holdings::default();
    let asked = everybody(shard).map(|node| (node, chunks.to_vec())).collect();
    ask_holders(shard, asked, (false, epoch), &mut holdings, |_, _| false).await;
    holdings
}

/// This node and the others that are counted on.
pub(super) fn everybody<D: Disk>(shard: &Shard<D>) -> impl Iterator<Item = NodeId> + use<D> {
    shard.others().into_iter().map(|node| node.node).chain([shard.site.node])
}

/// What chunks are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seeking {
    /// What is not found can't be read or named: whoever may have some of it is waited for.
    ToUse,
    /// What is not found is stored again, which costs less than to wait for a silent node that has little of it.
    ToStore,
}

/// Asks the nodes on which fragments should lie, and everybody about chunks of which too little is found there.
pub(super) async fn locate<D: Disk>(
    shard: &Rc<Shard<D>>,
    chunks: &[ChunkId],
    touch: bool,
    enough: fn(Geometry) -> usize,
    seeking: Seeking,
) -> Holdings {
    let map = shard.view().map.clone();
    let geometry = shard.geometry();
    let places: Vec<Vec<NodeId>> =
        chunks.iter().map(|chunk| map.nodes(chunk, geometry.total()).into_iter().flatten().collect()).collect();
    let mut asked: BTreeMap<NodeId, Vec<ChunkId>> = BTreeMap::new();
    for (chunk, places) in chunks.iter().zip(&places) {
        let nodes: BTreeSet<NodeId> = places.iter().copied().collect();
        nodes.into_iter().for_each(|node| asked.entry(node).or_default().push(*chunk));
    }
    let are_found = |holdings: &Holdings| chunks.iter().all(|chunk| is_enough(holdings.of.get(chunk), enough));
    let is_settled = |holdings: &Holdings, waited: &BTreeSet<NodeId>| match seeking {
        Seeking::ToUse => are_found(holdings),
        Seeking::ToStore => chunks.iter().zip(&places).all(|(chunk, places)| {
            let held = holdings.of.get(chunk);
            let to_come = places.iter().filter(|node| waited.contains(node)).count();
            let lacks = |geometry: &Geometry, there: usize| there + to_come < enough(*geometry);
            let stripes = stripes_of(held);
            is_enough(held, enough)
                || lacks(&geometry, stripes.get(&geometry).map_or(0, BTreeSet::len))
                    && stripes.iter().all(|(geometry, there)| lacks(geometry, there.len()))
        }),
    };
    let mut holdings = Holdings::default();
    ask_holders(shard, asked.clone(), (touch, 0), &mut holdings, is_settled).await;
    let lacking: Vec<ChunkId> =
        chunks.iter().filter(|chunk| !is_enough(holdings.of.get(chunk), enough)).copied().collect();
    if !lacking.is_empty() {
        let was_asked = |node: &NodeId, chunk: &ChunkId| asked.get(node).is_some_and(|asked| asked.contains(chunk));
        let more = everybody(shard).map(|node| {
            let rest: Vec<ChunkId> = lacking.iter().filter(|chunk| !was_asked(&node, chunk)).copied().collect();
            (node, rest)
        });
        let more = more.filter(|(_, chunks)| !chunks.is_empty()).collect();
        ask_holders(shard, more, (touch, 0), &mut holdings, |holdings, _| are_found(holdings)).await;
    }
    holdings
}

/// The stripes of a chunk, each with the fragments that lie anywhere.
pub(super) fn stripes_of(held: Option<&Vec<(NodeId, HeldFragments)>>) -> BTreeMap<Geometry, BTreeSet<u8>> {
    let mut stripes: BTreeMap<Geometry, BTreeSet<u8>> = BTreeMap::new();
    for (_, one) in held.into_iter().flatten() {
        stripes.entry(one.geometry).or_default().extend(&one.fragments);
    }
    stripes
}

pub(super) fn is_enough(held: Option<&Vec<(NodeId, HeldFragments)>>, enough: fn(Geometry) -> usize) -> bool {
    stripes_of(held).iter().any(|(geometry, fragments)| fragments.len() >= enough(*geometry))
}

/// Which of these chunks are stored at the site with as many fragments as a put acknowledges, as far as nodes say; those
/// that are get touched.
pub(super) async fn have<D: Disk>(
    shard: &Rc<Shard<D>>,
    chunks: Vec<ChunkId>,
) -> Result<Vec<Option<ChunkReceipt>>, Refusal> {
    let (held, silent) = have_and_silent(shard, chunks, Seeking::ToStore).await?;
    if !silent.is_empty() {
        hears_enough(shard)?;
    }
    Ok(held)
}

/// The same, with the nodes that did not say: what is not found may be there.
async fn have_and_silent<D: Disk>(
    shard: &Rc<Shard<D>>,
    chunks: Vec<ChunkId>,
    seeking: Seeking,
) -> Result<(Vec<Option<ChunkReceipt>>, BTreeSet<NodeId>), Refusal> {
    if shard.is_alone() {
        return Ok((shard.have(chunks).await?, BTreeSet::new()));
    }
    let view = shard.view();
    let holdings = locate(shard, &chunks, true, needed_fragments, seeking).await;
    let answer = |chunk: &ChunkId| {
        let held = holdings.of.get(chunk)?;
        let receipts = stripes_of(Some(held)).into_keys().filter_map(|geometry| {
            let mut placed = Placed::default();
            let alike = held.iter().filter(|(_, one)| one.geometry == geometry);
            alike.for_each(|(node, held)| placed.add(*node, held));
            placed.receipt(geometry, &view.map, view.placement_epoch, true)
        });
        receipts.max_by_key(|receipt| receipt.durable_fragments - receipt.data_fragments)
    };
    Ok((chunks.iter().map(answer).collect(), holdings.silent))
}

/// Makes sure that every chunk is here with as many fragments as a put acknowledges, before a delta names it. The refusal
/// is final only where every node has said that it does not have enough.
pub(super) async fn all_here<D: Disk>(shard: &Rc<Shard<D>>, chunks: Vec<ChunkId>) -> Result<(), Refusal> {
    let (held, silent) = have_and_silent(shard, chunks.clone(), Seeking::ToUse).await?;
    let Some(missing) = held.iter().position(Option::is_none).map(|at| chunks[at]) else { return Ok(()) };
    match silent.first() {
        Some(node) => {
            let detail =
                format!("whether chunk {missing} is stored here can't be known now: node {node} does not answer");
            Err(Refusal::retry(RefusalCode::Unavailable, 200, detail))
        }
        // GC may have collected it, so it is told as what GC has outrun.
        None => {
            let detail = format!("chunk {missing} is not stored here: put it before naming it");
            Err(Refusal::new(RefusalCode::StaleReceipt, detail))
        }
    }
}
