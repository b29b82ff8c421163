//! Repair. Every chunk has a keeper, a node drawn from its id; it finds out which nodes hold which fragments of it, has
//! those rebuilt that nobody holds, least redundant stripes first, has those moved that lie in the wrong place, and has
//! dropped what lies in two. What is cut another way than new chunks are is read whole and cut again; the older stripe goes
//! once every node has said that the newer one is whole.
//!
//! A sweep looks at everything that a shard keeps: after each change of the placement map, when a node is heard again, and
//! now and then. Chunks of which a put or a read found something missing are looked at at once.

use super::chunks;
use super::found::Found;
use super::fragments::{self, on_wire};
use super::limits::{OWED_QUEUE, REPAIR_BATCH, REPAIR_PAUSE, REPAIRS, SWEEP_AGAIN, SWEEP_EVERY, WALK_CHUNKS};
use super::links::misanswered;
use super::recut;
use super::routing;
use super::server::{Answered, store_refusal};
use super::shard::{Shard, add};
use crate::cluster::spread::{Held, Mending};
use crate::state::ControlView;
use crate::store::CollectCursor;
use bytes::Bytes;
use farside_codec::cluster::{
    DropFragments, HeldFragments, NodeRecord, NodeState, PutFragments, RepairState, WalkFragments, WalkedFragments,
};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_codec::stripe::StripeLayout;
use farside_io::disk::Disk;
use futures_util::stream::{self, StreamExt};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// What a shard knows about what it has to repair.
#[derive(Default)]
pub(crate) struct Repair {
    /// Chunks to be looked at at once.
    owed: RefCell<VecDeque<ChunkId>>,
    /// Something has to be looked at that is not in the queue.
    sweep_due: Cell<bool>,
    /// Chunks were taken out of the queue, and are being looked at.
    busy: Cell<bool>,
    /// Somebody wants everything looked at now.
    ordered: Cell<bool>,
    /// As of which placement epoch, and with which nodes answering, the last look at everything was begun, if that was through.
    looked: RefCell<Option<Circumstances>>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    owed_fragments: u64,
    owed_bytes: u64,
    misplaced_fragments: u64,
    unreadable_chunks: u64,
    other_geometry_chunks: u64,
    swept_epoch: u64,
    /// Bytes since `rate_since`, for the rate.
    bytes: u64,
    rate_since: Duration,
    rate: u64,
}

/// What a look at everything goes by.
type Circumstances = (u64, BTreeSet<NodeId>);

fn circumstances<D: Disk>(shard: &Shard<D>) -> Circumstances {
    let others = shard.others().into_iter().map(|node| node.node);
    (shard.view().placement_epoch, others.filter(|node| shard.nodes.answers(*node)).collect())
}

impl Repair {
    /// Has a chunk looked at soon.
    pub(crate) fn owe(&self, chunk: ChunkId) {
        let mut owed = self.owed.borrow_mut();
        match owed.len() < OWED_QUEUE {
            true if owed.contains(&chunk) => {}
            true => owed.push_back(chunk),
            false => self.sweep_due.set(true),
        }
    }

    /// Has everything looked at soon.
    pub(super) fn look_again(&self) {
        self.sweep_due.set(true);
        self.ordered.set(true);
    }

    /// Counts bytes that were written for it, for the rate.
    pub(super) fn count(&self, bytes: usize) {
        self.state.borrow_mut().bytes += bytes as u64;
    }

    /// Chunks that could not be read are here again: which of them were counted only another look can say.
    pub(super) fn count_again(&self) {
        self.sweep_due.set(true);
    }

    /// The last look found what the next ones may find again, whatever is done.
    fn finds_what_stays(&self) -> bool {
        let state = self.state.borrow();
        state.unreadable_chunks > 0 || state.other_geometry_chunks > 0
    }

    fn report(&self, now: Duration) -> RepairState {
        let state = self.state.borrow();
        let lately = now.saturating_sub(state.rate_since) <= Duration::from_secs(5);
        RepairState {
            owed_fragments: state.owed_fragments,
            owed_bytes: state.owed_bytes,
            misplaced_fragments: state.misplaced_fragments,
            unreadable_chunks: state.unreadable_chunks,
            rate_bytes_per_second: if lately { state.rate } else { 0 },
            swept_epoch: state.swept_epoch,
            other_geometry_chunks: state.other_geometry_chunks,
        }
    }
}

/// Repairs what this shard keeps, for as long as it runs.
pub(super) async fn keep_repaired<D: Disk>(shard: Rc<Shard<D>>) {
    let mut swept = shard.clock.clock().monotonic();
    // What can't be read may be what a put left that was given up, and be collected any moment; or it is lost, and a look at
    // everything changes nothing.
    let mut patience = SWEEP_AGAIN;
    loop {
        tokio::time::sleep(shard.pace(REPAIR_PAUSE)).await;
        let view = shard.view();
        if view.nodes.len() < 2 {
            continue;
        }
        repair_owed(&shard).await;
        let now = shard.clock.clock().monotonic();
        let current = circumstances(&shard);
        let passed = now.saturating_sub(swept);
        let has_changed = shard.repair.looked.borrow().as_ref() != Some(&current);
        let due = has_changed
            || shard.repair.ordered.take()
            || passed > SWEEP_EVERY
            // What is owed still, or could not be done, is tried again and again.
            || passed > SWEEP_AGAIN && (shard.repair.sweep_due.get() || shard.repair.state.borrow().owed_fragments > 0)
            || passed > patience && shard.repair.finds_what_stays();
        if due {
            if shard.repair.sweep_due.replace(false) {
                // Until this look is through it is not known what else is owed.
                shard.repair.looked.replace(None);
            }
            match sweep(&shard).await {
                Ok(()) => {
                    swept = now;
                    shard.repair.looked.replace(Some(current));
                    patience = match shard.repair.finds_what_stays() && !has_changed {
                        true => (2 * patience).min(SWEEP_EVERY),
                        // After a change there may be something else to find than before.
                        false => SWEEP_AGAIN,
                    };
                }
                Err(refusal) => {
                    tracing::info!(%refusal, "what this shard keeps can't all be looked at now");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Repairs what is to be looked at at once, a batch of it.
async fn repair_owed<D: Disk>(shard: &Rc<Shard<D>>) {
    let batch: Vec<ChunkId> = {
        let mut owed = shard.repair.owed.borrow_mut();
        let count = owed.len().min(REPAIR_BATCH);
        owed.drain(..count).collect()
    };
    if !batch.is_empty() {
        shard.repair.busy.set(true);
        repair(shard, batch, false).await;
        shard.repair.busy.set(false);
    }
}

/// Looks at every chunk that this shard keeps, and repairs those that need it.
async fn sweep<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), Refusal> {
    let view = shard.view();
    let (own, geometry) = (shard.site.node, shard.geometry());
    let mut found: BTreeMap<ChunkId, Found> = BTreeMap::new();
    let mut answered = BTreeSet::from([own]);
    let mut take = |node: NodeId, held: Vec<HeldFragments>| {
        // By the map that this sweep goes by: who was told of it later would leave out what has a new keeper.
        let mine = |one: &HeldFragments| {
            one.chunk.shard(shard.shards()) == shard.index
                && view.map.keeper(&one.chunk) == Some(own)
                && fragments::is_sound(one)
        };
        held.into_iter().filter(mine).for_each(|one| found.entry(one.chunk).or_default().add(node, one));
    };
    if let Some(node) = view.nodes.get(&own) {
        walk_node(shard, node, |held| take(own, held)).await?;
    }
    for node in shard.others() {
        match walk_node(shard, &node, |held| take(node.node, held)).await {
            Ok(()) => drop(answered.insert(node.node)),
            // A node that was let go, or does not answer: what it holds does not count now.
            Err(refusal) => {
                tracing::info!(node = %node.name, %refusal, "a node does not say what it holds");
                shard.repair.sweep_due.set(true);
            }
        }
    }
    let all_said = answered.len() > shard.others().len();
    // Whether it is whole, only to be cut again, what may be lost before it is: the first ones first.
    let mut work: Vec<(bool, bool, usize, ChunkId)> = Vec::new();
    let (mut owed, mut owed_bytes, mut misplaced, mut unreadable, mut stays, mut otherwise) = (0, 0, 0, 0, 0, 0);
    let begun = circumstances(shard);
    for (number, (chunk, stripes)) in found.iter().enumerate() {
        if number % WALK_CHUNKS as usize == 0 {
            // Each costs draws, and others run on this thread as well.
            tokio::task::yield_now().await;
        }
        let Some(best) = stripes.best() else {
            // Whoever did not say may hold the rest.
            if all_said {
                shard.refetches.want(*chunk);
            }
            let held = stripes.told();
            // A put that was given up, or a loss: nothing can be made of it here.
            tracing::info!(%chunk, ?held, "a chunk has too few fragments to be read");
            unreadable += 1;
            continue;
        };
        let target = stripes.target(&view, chunk, geometry, all_said);
        let mut mending = stripes.mending(&view, chunk, target, &answered);
        // What is whole as it is cut now owes nothing while it waits to be cut again.
        let missing = match target == best.geometry {
            true => mending.owed() as u64,
            false => stripes.mending(&view, chunk, best.geometry, &answered).owed() as u64,
        };
        let left = postpone(shard, &view, &mut mending);
        let is_cut_otherwise = stripes.others(geometry).next().is_some();
        otherwise += u64::from(is_cut_otherwise);
        let fragment_bytes = StripeLayout::new(best.geometry, best.sealed_bytes as usize).fragment_bytes() as u64;
        owed += missing;
        owed_bytes += missing * fragment_bytes;
        misplaced += (mending.moves.len() + left) as u64;
        stays += left as u64;
        let leaves = is_cut_otherwise && !stripes.leaving(&view, chunk, target, &answered).is_empty();
        if !mending.is_done() || leaves || is_cut_otherwise && all_said && target == geometry {
            work.push((missing == 0, is_cut_otherwise && !leaves, best.spare().unwrap_or(0), *chunk));
        }
    }
    drop(found);
    {
        let mut state = shard.repair.state.borrow_mut();
        (state.owed_fragments, state.owed_bytes, state.misplaced_fragments) = (owed, owed_bytes, misplaced);
        (state.unreadable_chunks, state.other_geometry_chunks) = (unreadable, otherwise);
    }
    work.sort_unstable();
    let mut cuts = true;
    for batch in work.chunks(REPAIR_BATCH) {
        if batch.iter().all(|(is_whole, is_only_cut, ..)| *is_whole && *is_only_cut) {
            // This may take days, and whatever is more urgent must not wait for it.
            if circumstances(shard) != begun || shard.repair.ordered.get() {
                return Ok(());
            }
            if !cuts {
                break;
            }
        }
        repair_owed(shard).await;
        cuts &= repair(shard, batch.iter().map(|(.., chunk)| *chunk).collect(), true).await;
        // Whoever has changed the map meanwhile has it looked at anew.
        if shard.view().placement_epoch != view.placement_epoch {
            return Ok(());
        }
    }
    let mut state = shard.repair.state.borrow_mut();
    if state.owed_fragments > 0 || state.misplaced_fragments > stays {
        // What was counted and not done could not be done, or is not to be done any more: the chunk has gone, somebody else
        // was faster. Only another look can say.
        shard.repair.sweep_due.set(true);
    }
    if answered.len() > shard.others().len() {
        state.swept_epoch = view.placement_epoch;
    }
    Ok(())
}

/// Everything that a node holds, part by part.
pub(super) async fn walk_node<D: Disk>(
    shard: &Rc<Shard<D>>,
    node: &NodeRecord,
    mut take: impl FnMut(Vec<HeldFragments>),
) -> Result<(), Refusal> {
    for index in 0..node.shards {
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let walk = WalkFragments { cursor: at, limit: WALK_CHUNKS };
            let walked = match node.node == shard.site.node {
                true => shard.on(index, move |there| async move { walk_here(&there, &walk) }).await?,
                false => match routing::ask_node(shard, node, index, &Request::WalkFragments(walk)).await? {
                    Reply::FragmentsWalked(walked) => walked,
                    _ => return Err(misanswered()),
                },
            };
            take(walked.held);
            cursor = walked.next.filter(|next| *next > at);
        }
    }
    Ok(())
}

/// Part of what this shard holds of clients' chunks. The pieces of its own snapshots are nobody else's business.
fn walk_here<D: Disk>(shard: &Rc<Shard<D>>, walk: &WalkFragments) -> WalkedFragments {
    let limit = walk.limit.clamp(1, WALK_CHUNKS) as usize;
    let (held, next) = shard.store.walk(CollectCursor::at(walk.cursor), limit);
    let asked = held.into_iter().filter(|(chunk, held)| !held.fragments.is_empty() && !shard.snapshots.needs(chunk));
    let held = asked.map(|(chunk, held)| on_wire(chunk, held)).collect();
    WalkedFragments { held, next: next.map(CollectCursor::position) }
}

/// Answers a keeper.
pub(super) async fn walk<D: Disk>(shard: &Rc<Shard<D>>, walk: WalkFragments) -> Answered {
    Ok(Reply::FragmentsWalked(walk_here(shard, &walk)).into())
}

/// Finds out who holds what of these chunks now, and mends what has to be: the least redundant first. Answers whether it may
/// go on with cutting others again: not where stripes pile up that can't be let go of. What is owed of these chunks may be
/// counted already.
async fn repair<D: Disk>(shard: &Rc<Shard<D>>, chunks: Vec<ChunkId>, counted: bool) -> bool {
    let (view, geometry) = (shard.view(), shard.geometry());
    let holdings = chunks::ask_all(shard, &chunks, 0).await;
    let answered: BTreeSet<NodeId> = chunks::everybody(shard).filter(|node| !holdings.silent.contains(node)).collect();
    let mut work: Vec<Job> = Vec::new();
    let mut cut_otherwise: Vec<ChunkId> = Vec::new();
    let all_said = holdings.silent.is_empty();
    if !all_said {
        // What is to go to a node that did not answer, or is there, is left out here, and nobody else comes back to it.
        shard.repair.sweep_due.set(true);
    }
    let gone = chunks.iter().filter(|chunk| all_said && !holdings.of.contains_key(chunk));
    gone.for_each(|chunk| shard.refetches.want(*chunk));
    for (chunk, held) in holdings.of {
        let found = Found::of_chunk(held);
        if found.best().is_none() && all_said {
            shard.refetches.want(chunk);
        }
        let Some(best) = found.best() else { continue };
        let spare = best.spare().unwrap_or(0);
        let target = found.target(&view, &chunk, geometry, all_said);
        let mut mending = found.mending(&view, &chunk, target, &answered);
        let owed = match counted {
            true => found.mending(&view, &chunk, best.geometry, &answered).owed() as u64,
            false => 0,
        };
        postpone(shard, &view, &mut mending);
        if found.others(geometry).next().is_some() && target == geometry {
            cut_otherwise.push(chunk);
        }
        // Single fragments are made of their own stripe where that can be.
        let from = found.of(target).filter(|stripe| stripe.spare().is_some()).unwrap_or(best);
        if !mending.is_done() {
            let (of, sealed_bytes, held) = (from.geometry, from.sealed_bytes, from.held.clone());
            work.push(Job { chunk, geometry: target, of, sealed_bytes, held, mending, spare, owed });
        }
        for (stripe, mending) in found.leaving(&view, &chunk, target, &answered) {
            let (of, sealed_bytes, held) = (stripe.geometry, stripe.sealed_bytes, stripe.held.clone());
            work.push(Job { chunk, geometry: of, of, sealed_bytes, held, mending, spare, owed: 0 });
        }
    }
    work.sort_by_key(|job| job.spare);
    let may_cut = &Cell::new(true);
    let jobs = work.into_iter().map(|job| async move {
        let (chunk, owed, is_cut) = (job.chunk, job.owed, job.of != job.geometry);
        let fragment_bytes = StripeLayout::new(job.of, job.sealed_bytes as usize).fragment_bytes() as u64;
        match run(shard, job).await {
            Ok(()) => {
                let mut state = shard.repair.state.borrow_mut();
                state.owed_fragments = state.owed_fragments.saturating_sub(owed);
                state.owed_bytes = state.owed_bytes.saturating_sub(owed * fragment_bytes);
            }
            Err(refusal) => {
                tracing::info!(%chunk, %refusal, "a chunk can't be repaired now");
                may_cut.set(may_cut.get() && !is_cut);
                if !is_cut || owed > 0 {
                    shard.repair.sweep_due.set(true);
                }
            }
        }
    });
    stream::iter(jobs).buffer_unordered(REPAIRS).for_each(|()| std::future::ready(())).await;
    if all_said && !cut_otherwise.is_empty() {
        match recut::let_go(shard, &view, cut_otherwise).await {
            Ok(done) => {
                let mut state = shard.repair.state.borrow_mut();
                state.other_geometry_chunks = state.other_geometry_chunks.saturating_sub(done);
            }
            Err(refusal) => {
                tracing::info!(%refusal, "chunks that were cut again keep their older stripes for now");
                return false;
            }
        }
    }
    may_cut.get()
}

/// Leaves out moves that were ordered to wait: between nodes that are both counted on. Answers how many. A node that is
/// drained is emptied all the same, and one that has a device to go moves what is on that by itself.
fn postpone<D: Disk>(shard: &Shard<D>, view: &ControlView, mending: &mut Mending) -> usize {
    let before = mending.moves.len();
    if shard.moving.is_paused() {
        let is_up = |node: &NodeId| view.nodes.get(node).is_some_and(|node| node.state == NodeState::Up);
        mending.moves.retain(|(_, from, _)| !is_up(from));
    }
    before - mending.moves.len()
}

/// What is to be done about one chunk.
struct Job {
    chunk: ChunkId,
    /// How it is to be cut.
    geometry: Geometry,
    /// How the stripe is cut that it is read from.
    of: Geometry,
    sealed_bytes: u32,
    /// What there is of that stripe.
    held: Held,
    mending: Mending,
    /// Fragments that can be lost before the chunk is.
    spare: usize,
    /// Fragments that were counted as owed.
    owed: u64,
}

async fn run<D: Disk>(shard: &Rc<Shard<D>>, job: Job) -> Result<(), Refusal> {
    let fragment_bytes = StripeLayout::new(job.geometry, job.sealed_bytes as usize).fragment_bytes();
    if !job.mending.rebuild.is_empty() {
        rebuild(shard, &job, fragment_bytes).await?;
    }
    for (fragment, from, to) in &job.mending.moves {
        limit(shard, 2 * fragment_bytes).await;
        let stripe = (job.chunk, job.geometry);
        let bytes = fragments::fetch_from(shard, stripe, *fragment, *from, 0..fragment_bytes).await?;
        store(shard, &job, *to, vec![*fragment], vec![bytes]).await?;
        forget(shard, stripe, *from, vec![*fragment]).await?;
        let mut state = shard.repair.state.borrow_mut();
        state.misplaced_fragments = state.misplaced_fragments.saturating_sub(1);
    }
    for (node, fragments) in &job.mending.surplus {
        forget(shard, (job.chunk, job.geometry), *node, fragments.clone()).await?;
    }
    Ok(())
}

/// Reads any k fragments, and has those computed and stored that nobody holds.
async fn rebuild<D: Disk>(shard: &Rc<Shard<D>>, job: &Job, fragment_bytes: usize) -> Result<(), Refusal> {
    let wanted: Vec<u8> = job.mending.rebuild.values().flatten().copied().collect();
    let read_bytes = StripeLayout::new(job.of, job.sealed_bytes as usize).fragment_bytes();
    limit(shard, job.of.data() * read_bytes + wanted.len() * fragment_bytes).await;
    let mut holders: Vec<(u8, NodeId)> =
        job.held.iter().flat_map(|(node, held)| held.iter().map(|fragment| (*fragment, *node))).collect();
    holders.sort_by_key(|(fragment, node)| (*node != shard.site.node, !shard.nodes.answers(*node), *fragment));
    let mut present: Vec<(usize, Bytes)> = Vec::new();
    for (fragment, node) in holders {
        if present.len() == job.of.data() {
            break;
        }
        if present.iter().any(|(known, _)| *known == usize::from(fragment)) {
            continue;
        }
        // One that can't be read is found missing by the next look.
        if let Ok(bytes) = fragments::fetch_from(shard, (job.chunk, job.of), fragment, node, 0..read_bytes).await {
            // What was read here lies in buffers, and whoever waits for more must not hold any.
            let bytes = if node == shard.site.node { Bytes::copy_from_slice(&bytes) } else { bytes };
            present.push((usize::from(fragment), bytes));
        }
    }
    if present.len() < job.of.data() {
        let detail = format!("only {} of {} fragments can be read", present.len(), job.of.data());
        return Err(Refusal::retry(RefusalCode::Unavailable, 500, detail));
    }
    let mut whole = None;
    let rebuilt: BTreeMap<usize, Bytes> = match job.of == job.geometry {
        true => {
            let numbers: Vec<usize> = wanted.iter().map(|fragment| usize::from(*fragment)).collect();
            let rebuilt = shard.store.rebuild(job.chunk, job.geometry, job.sealed_bytes as usize, present, &numbers);
            rebuilt.map_err(store_refusal)?.into_iter().collect()
        }
        false => {
            let stripe = recut::cut(shard, job.chunk, (job.of, job.geometry), job.sealed_bytes, present).await?;
            let stripe = whole.insert(stripe);
            wanted.iter().map(|fragment| usize::from(*fragment)).map(|at| (at, stripe.fragment(at))).collect()
        }
    };
    for (node, fragments) in &job.mending.rebuild {
        match &whole {
            // Straight from its memory: nothing more is taken beside it.
            Some(stripe) if *node == shard.site.node => {
                let stored = shard.store.put_fragments(stripe, fragments).await.map_err(store_refusal)?;
                count_stored(shard, *node, (fragments.len(), stored.len()), fragments.len() * fragment_bytes)?;
            }
            _ => {
                let of = |fragment: &u8| rebuilt.get(&usize::from(*fragment)).cloned();
                store(shard, job, *node, fragments.clone(), fragments.iter().filter_map(of).collect()).await?;
            }
        }
    }
    Ok(())
}

async fn store<D: Disk>(
    shard: &Rc<Shard<D>>,
    job: &Job,
    node: NodeId,
    fragments: Vec<u8>,
    body: Vec<Bytes>,
) -> Result<(), Refusal> {
    let bytes: usize = body.iter().map(Bytes::len).sum();
    let count_of = fragments.len();
    let put = PutFragments { chunk: job.chunk, geometry: job.geometry, sealed_bytes: job.sealed_bytes, fragments };
    let stored = match node == shard.site.node {
        true => fragments::keep_fragments(shard, put, body).await?,
        false => fragments::send_to(shard, &shard.view(), node, put, body).await?,
    };
    count_stored(shard, node, (count_of, stored.fragments.len()), bytes)
}

/// Counts fragments of so many bytes that a node was sent, if it has taken them all.
fn count_stored<D: Disk>(
    shard: &Shard<D>,
    node: NodeId,
    (sent, stored): (usize, usize),
    bytes: usize,
) -> Result<(), Refusal> {
    if stored < sent {
        return Err(Refusal::retry(RefusalCode::Full, 500, format!("node {node} did not take all fragments")));
    }
    add(&shard.counters.repaired_fragments, sent as u64);
    add(&shard.counters.repaired_bytes, bytes as u64);
    shard.repair.count(bytes);
    Ok(())
}

async fn forget<D: Disk>(
    shard: &Rc<Shard<D>>,
    (chunk, geometry): (ChunkId, Geometry),
    node: NodeId,
    fragments: Vec<u8>,
) -> Result<(), Refusal> {
    let drops = DropFragments { chunk, geometry, fragments };
    if node == shard.site.node {
        return fragments::drop_fragments(shard, drops).await.map(drop);
    }
    let record = shard.node(node)?;
    let there = record.shard_of_chunk(chunk);
    routing::ask_node(shard, &record, there, &Request::DropFragments(drops)).await?;
    Ok(())
}

/// Waits until so many bytes may be read and written, and keeps the rate.
pub(super) async fn limit<D: Disk>(shard: &Rc<Shard<D>>, bytes: usize) {
    let limit = shard.view().repair_limit / u64::from(shard.shards()).max(1);
    if limit > 0 {
        tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / limit as f64)).await;
    }
    let now = shard.clock.clock().monotonic();
    let mut state = shard.repair.state.borrow_mut();
    let passed = now.saturating_sub(state.rate_since);
    if passed > Duration::from_secs(1) {
        state.rate = (state.bytes as f64 / passed.as_secs_f64()) as u64;
        (state.bytes, state.rate_since) = (0, now);
    }
}

/// How repair is doing on this node, all shards together.
pub(super) async fn own_state<D: Disk>(shard: &Rc<Shard<D>>) -> Result<RepairState, Refusal> {
    let now = shard.clock.clock().monotonic();
    let mut sum = shard.repair.report(now);
    for index in (0..shard.shards()).filter(|index| *index != shard.index) {
        let one = shard.on(index, |there| async move { there.repair.report(there.clock.clock().monotonic()) }).await?;
        sum.owed_fragments += one.owed_fragments;
        sum.owed_bytes += one.owed_bytes;
        sum.misplaced_fragments += one.misplaced_fragments;
        sum.unreadable_chunks += one.unreadable_chunks;
        sum.other_geometry_chunks += one.other_geometry_chunks;
        sum.rate_bytes_per_second += one.rate_bytes_per_second;
        sum.swept_epoch = sum.swept_epoch.min(one.swept_epoch);
    }
    Ok(sum)
}

/// Whether what this node says that it owes is all that it knows of: every shard has looked at everything since the last change, and
/// nothing waits to be looked at.
pub(super) async fn has_looked<D: Disk>(shard: &Rc<Shard<D>>) -> Result<bool, Refusal> {
    for index in 0..shard.shards() {
        let certain = |there: Rc<Shard<D>>| async move {
            let repair = &there.repair;
            let rests = repair.owed.borrow().is_empty() && !repair.busy.get() && !repair.sweep_due.get();
            rests && there.repair.looked.borrow().as_ref() == Some(&circumstances(&there))
        };
        if !shard.on(index, certain).await? {
            return Ok(false);
        }
    }
    Ok(true)
}
