//! How the site cuts chunks, and how it goes over to another way: new chunks are cut that way from then on, and those that are
//! there are read and cut again, one after the other. What makes a chunk whole does that as well: `repairing` where chunks
//! are spread over nodes, `mending` where there is one.
//!
//! The older stripe of a chunk goes when every node has said, as of one placement epoch, that the newer one is whole and in
//! its place. A change of geometry is a new placement epoch, and nodes drop older stripes only while the control group goes
//! by the epoch as of which that was seen: of two nodes that hold different ways for the right one, one is not heard.

use super::auditing;
use super::chunks;
use super::devices::{fragments_placed, losses_survived};
use super::found::{Found, FoundStripe};
use super::fragments;
use super::leaving::{self, own_devices};
use super::links::misanswered;
use super::routing;
use super::server::{Answered, store_refusal};
use super::shard::Shard;
use crate::cluster::room;
use crate::cluster::spread::losses_survived as losses_of_domains;
use crate::placement::most_per_domain;
use crate::state::ControlView;
use crate::store::{DeviceState, Stripe, needed_fragments};
use bytes::Bytes;
use farside_codec::cluster::{DropStripes, NodeState};
use farside_codec::command::ControlCommand;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_transport::Caller;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

fn unsafe_now(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Unsafe, detail)
}

/// Has the site cut chunks another way. Going back is the same order.
pub(super) async fn order<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, geometry: Geometry) -> Answered {
    routing::know_control(shard).await;
    let before = shard.geometry();
    if geometry == before {
        return Ok(Reply::Done.into());
    }
    may_survive(shard, before, geometry).await?;
    let (rooms, live_bytes) = leaving::rooms(shard, None).await?;
    let scaled = u128::from(live_bytes) * (geometry.total() * before.data()) as u128;
    let live_bytes = u64::try_from(scaled / (before.total() * geometry.data()) as u128).unwrap_or(u64::MAX);
    let most = most_per_domain(geometry.total(), rooms.len());
    if !room::fits(&rooms, live_bytes, most, geometry.total()) {
        return Err(unsafe_now(format!(
            "what is stored would not fit if it was cut {geometry}: add devices or nodes first, or delete objects and wait \
             for GC"
        )));
    }
    fits(shard, geometry).await?;
    let others: Vec<_> = shard.view().nodes.values().filter(|node| node.node != shard.site.node).cloned().collect();
    for node in others.iter().filter(|node| matches!(node.state, NodeState::Up | NodeState::Draining)) {
        match routing::ask_node(shard, node, 0, &Request::FitsGeometry(geometry)).await? {
            Reply::Done => {}
            _ => return Err(misanswered()),
        }
    }
    shard.control(&auditing::certificate(caller), ControlCommand::SetGeometry(geometry)).await?;
    Ok(Reply::Done.into())
}

/// Whether this node could cut chunks this way.
pub(super) async fn fits<D: Disk>(shard: &Rc<Shard<D>>, geometry: Geometry) -> Answered {
    for index in 0..shard.shards() {
        let fits = shard.on(index, move |there| async move { there.store.fits_geometry(geometry) }).await?;
        fits.map_err(|error| unsafe_now(format!("node {}: {error}", shard.site.node)))?;
    }
    Ok(Reply::Done.into())
}

/// Refuses a way of cutting for which there are too few devices or nodes: one that survives fewer losses than it says, and
/// fewer than are survived now.
async fn may_survive<D: Disk>(shard: &Rc<Shard<D>>, before: Geometry, geometry: Geometry) -> Result<(), Refusal> {
    let (of, places, survived): (&str, usize, [usize; 2]) = match shard.is_alone() {
        true => {
            let (devices, _) = own_devices(shard).await?;
            let counted: Vec<_> = devices.iter().filter(|device| device.id.is_some() && !device.leaving).collect();
            let (all, working) =
                (counted.len(), counted.iter().filter(|device| device.state == DeviceState::Ok).count());
            if fragments_placed(geometry, all, working).0 < geometry.total() {
                return Err(unsafe_now(format!(
                    "only {working} of {all} devices work: put others in their place first (`farside device replace`)"
                )));
            }
            let mirrors = shard.devices.borrow().log_mirrors();
            ("devices", all, [before, geometry].map(|cut| losses_survived(cut, mirrors, all, all).unwrap_or(0)))
        }
        false => {
            let view = shard.view();
            let (most, places) = (view.map.most(geometry.total()), view.map.places(geometry.total()));
            if places < geometry.total() {
                return Err(unsafe_now(format!(
                    "chunks cut {geometry} need {} devices, no more than {most} of them in one failure domain, and the site \
                     has {places}",
                    geometry.total()
                )));
            }
            let domains: BTreeSet<u32> = view.map.takers().iter().map(|node| view.map.domain(*node)).collect();
            let survived = |cut: Geometry| cut.parity() / most_per_domain(cut.total(), domains.len()).max(1);
            ("failure domains", domains.len(), [before, geometry].map(survived))
        }
    };
    let [now, then] = survived;
    match then < now.min(geometry.parity()) {
        true => Err(unsafe_now(format!(
            "chunks cut {geometry} would survive the loss of {then} of {places} {of}, and those cut {before} survive {now}: \
             {geometry} needs {} {of} to survive {}",
            geometry.total(),
            geometry.parity()
        ))),
        false => Ok(()),
    }
}

/// Cuts a chunk another way, out of fragments of a stripe.
pub(super) async fn cut<D: Disk>(
    shard: &Rc<Shard<D>>,
    chunk: ChunkId,
    (from, to): (Geometry, Geometry),
    sealed_bytes: u32,
    present: Vec<(usize, Bytes)>,
) -> Result<Stripe, Refusal> {
    let bytes = sealed_bytes as usize;
    // Copied: whoever waits for memory must not hold any.
    let sealed = shard.store.decode(chunk, from, bytes, 0..bytes, present).map_err(store_refusal)?.concat();
    let mut writer = shard.store.begin_stripe(chunk, to, bytes).await.map_err(store_refusal)?;
    writer.append(&sealed).map_err(store_refusal)?;
    drop(sealed);
    writer.encode().map_err(store_refusal)
}

/// Has the older stripes dropped of those of these chunks that are whole without them. Answers how many chunks that were.
pub(super) async fn let_go<D: Disk>(
    shard: &Rc<Shard<D>>,
    view: &ControlView,
    mut outdated: Vec<ChunkId>,
) -> Result<u64, Refusal> {
    let (geometry, epoch) = (shard.geometry(), view.placement_epoch);
    if shard.view().placement_epoch != epoch {
        return Err(Refusal::retry(RefusalCode::Unavailable, 200, "the placement map has changed meanwhile"));
    }
    outdated.sort_unstable();
    let holdings = chunks::ask_all(shard, &outdated, epoch).await;
    if let Some(node) = holdings.silent.first() {
        let detail = format!("node {node} does not say what it holds as of placement epoch {epoch}");
        return Err(Refusal::retry(RefusalCode::Unavailable, 200, detail));
    }
    let answered: BTreeSet<NodeId> = chunks::everybody(shard).collect();
    let mut drops: BTreeMap<NodeId, Vec<(ChunkId, Geometry)>> = BTreeMap::new();
    let mut done = 0;
    for (chunk, found) in holdings.of {
        let found = Found::of_chunk(found);
        let mending = found.mending(view, &chunk, geometry, &answered);
        if !mending.rebuild.is_empty() || mending.waiting > 0 || mending.distinct < needed_fragments(geometry) {
            continue;
        }
        // Losses of whole failure domains, then fragments that can be lost besides.
        let redundancy = |stripe: &FoundStripe| {
            let losses = losses_of_domains(&stripe.held, stripe.geometry.data(), |node| view.map.domain(node));
            (losses, stripe.spare().unwrap_or(0))
        };
        // Whole and in its place, it is as redundant as chunks are to be; else as long as it is no less so than the older one.
        let is_settled = mending.moves.is_empty() && mending.distinct == geometry.total();
        let now = found.of(geometry).map(redundancy);
        let mut stays = false;
        for older in found.others(geometry) {
            match is_settled || now >= Some(redundancy(older)) {
                true => {
                    older.held.keys().for_each(|node| drops.entry(*node).or_default().push((chunk, older.geometry)))
                }
                false => stays = true,
            }
        }
        done += u64::from(!stays);
    }
    for (node, stripes) in drops {
        let order = DropStripes { placement_epoch: epoch, stripes };
        match node == shard.site.node {
            true => drop(fragments::drop_stripes(shard, order).await?),
            false => {
                let record = shard.node(node)?;
                routing::ask_node(shard, &record, 0, &Request::DropStripes(order)).await?;
            }
        }
    }
    Ok(done)
}
