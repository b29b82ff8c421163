//! Devices that are to go: whether they may, what is written down of it, and how a device leaves the node's list once
//! nothing on it is needed any more. `moving` empties them meanwhile.
//!
//! That a device is to go stands in a file of the node's directory, as what lies on which device is the node's own
//! business. The site hears of it by the device not being among those that the node says it has: so it leaves the placement
//! map, and others take what the map gives them. In the end the siblings' superblocks no longer name it. Whoever is
//! interrupted between any two of these steps goes on with the next one: an order stands until the list is changed, and
//! what a changed list leaves to be tidied up a start does ([`super::replacing`]).

use super::devices::{fragments_placed, losses_survived};
use super::directory::{DevicesFile, NodeDirectory};
use super::error::failed;
use super::limits::LEAVE_ORDER;
use super::links::misanswered;
use super::replacing::forget_in_config;
use super::server::Answered;
use super::shard::Shard;
use super::{routing, whole};
use crate::cluster::room::{Room, fits};
use crate::framed::{self, FileKind, FramedFileError};
use crate::store::{DeviceState, DeviceStatus, most_per_device, remove_device};
use bytes::Bytes;
use farside_codec::cluster::{NodeState, SetDevice};
use farside_codec::ids::{DeviceId, NodeId};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_transport::Class;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// What a shard knows of what is moved from device to device.
pub(crate) struct Moving {
    file: RefCell<DevicesFile>,
    /// Nothing that lies on another device than it should is left on this shard.
    pub(super) balanced: Cell<bool>,
    /// How often something was ordered that has to be looked for. On shard 0.
    pub(super) orders: Cell<u64>,
    /// Fragments that do, as far as is known.
    pub(super) misplaced: Cell<u64>,
    /// Fragments that were left on each device that is to go when some of them went last, and when that was.
    pub(super) progress: RefCell<BTreeMap<DeviceId, (u64, Duration)>>,
    /// Held while an order is weighed, or a device leaves the list: one is decided knowing of the other.
    deciding: tokio::sync::Mutex<()>,
}

impl Moving {
    pub(super) fn new(file: DevicesFile) -> Self {
        let balanced = Cell::new(!file.unbalanced);
        let (misplaced, progress, deciding) = (Cell::new(0), RefCell::default(), tokio::sync::Mutex::default());
        let orders = Cell::new(0);
        Self { file: RefCell::new(file), balanced, orders, misplaced, progress, deciding }
    }

    /// The devices that are to go.
    pub(super) fn leaving(&self) -> BTreeSet<DeviceId> {
        self.file.borrow().leaving.iter().map(|(device, _)| *device).collect()
    }

    /// Fragments are to be moved to the devices on which they would be written now.
    pub(super) fn is_unbalanced(&self) -> bool {
        self.file.borrow().unbalanced
    }

    /// What lies on another node than it should stays there.
    pub(super) fn is_paused(&self) -> bool {
        self.file.borrow().paused
    }
}

/// What is written down of a node's devices.
pub(super) fn load(directory: &NodeDirectory) -> DevicesFile {
    match framed::read_record(&directory.devices(), FileKind::Devices) {
        Ok(file) => file,
        Err(FramedFileError::Missing(_)) => DevicesFile::NOTHING,
        Err(error) => {
            tracing::error!(%error, "which devices were to go is not known: they stay until it is said again");
            DevicesFile::NOTHING
        }
    }
}

/// Writes down what is to become of the devices, then lets every shard know. On shard 0, which alone writes.
pub(super) async fn change<D: Disk>(
    shard: &Rc<Shard<D>>,
    change: impl FnOnce(&mut DevicesFile),
) -> Result<(), Refusal> {
    assert!(shard.index == 0, "one shard writes the file");
    let mut file = shard.moving.file.borrow().clone();
    change(&mut file);
    // Whatever this is about, a look that is under way may have passed over it.
    let begins = file.unbalanced;
    shard.moving.orders.set(shard.moving.orders.get() + u64::from(begins));
    let path = NodeDirectory::new(&shard.root).devices();
    framed::write_record(&path, FileKind::Devices, &file)
        .map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))?;
    *shard.moving.file.borrow_mut() = file;
    for index in 0..shard.shards() {
        // Whatever was written last: two changes may be told side by side.
        let file = shard.moving.file.borrow().clone();
        shard.on(index, move |there| async move { take(&there, file, begins) }).await?;
    }
    Ok(())
}

/// Goes by what was written down; with `begins` what lies elsewhere than it should is looked for from the beginning.
fn take<D: Disk>(shard: &Shard<D>, file: DevicesFile, begins: bool) {
    *shard.moving.file.borrow_mut() = file;
    shard.store.set_leaving(&shard.moving.leaving());
    if begins {
        shard.moving.balanced.set(false);
    }
    if !shard.moving.is_unbalanced() {
        shard.moving.misplaced.set(0);
    }
}

/// Has a device go, or stay after all, wherever it is.
pub(super) async fn order<D: Disk>(shard: &Rc<Shard<D>>, order: SetDevice) -> Answered {
    let view = shard.view();
    let missing = || Refusal::new(RefusalCode::NotFound, format!("there is no node {}", order.node));
    let node = view.node(&order.node).filter(|node| node.state != NodeState::Removed).ok_or_else(missing)?;
    if node.node != shard.site.node {
        let request = Request::SetDevice(order);
        return match shard.nodes.call(node, 0, Class::Request, &request, None, LEAVE_ORDER).await?.0 {
            Reply::Done => Ok(Reply::Done.into()),
            _ => Err(misanswered()),
        };
    }
    let SetDevice { device, leaves, .. } = order;
    shard.on(0, move |there| async move { order_here(&there, device, leaves).await }).await??;
    Ok(Reply::Done.into())
}

async fn order_here<D: Disk>(shard: &Rc<Shard<D>>, device: DeviceId, leaves: bool) -> Result<(), Refusal> {
    let _deciding = shard.moving.deciding.lock().await;
    let slot = shard.devices.borrow().slots.iter().find(|slot| slot.id == device).map(|slot| slot.label.clone());
    let missing = || Refusal::new(RefusalCode::NotFound, format!("device {device} is none of this node's"));
    let label = slot.ok_or_else(missing)?;
    if leaves == shard.moving.leaving().contains(&device) {
        return Ok(());
    }
    if !leaves {
        // What has gone comes back.
        let stays = |file: &mut DevicesFile| {
            file.leaving.retain(|(leaving, _)| *leaving != device);
            file.unbalanced = true;
        };
        return change(shard, stays).await;
    }
    may_leave(shard, device).await?;
    // Whoever goes on after a restart may have begun in another directory.
    let path = std::path::absolute(&label).map_or(label, |path| path.display().to_string());
    change(shard, |file| file.leaving.push((device, path))).await
}

fn unsafe_now(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Unsafe, detail)
}

/// The node's devices, all shards together.
pub(super) async fn own_devices<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(Vec<DeviceStatus>, u64), Refusal> {
    let mut merged: Vec<DeviceStatus> = Vec::new();
    let mut owed_bytes = 0;
    for index in 0..shard.shards() {
        let status = shard.on(index, |there| async move { there.store.status() }).await?;
        owed_bytes += status.owed_bytes;
        for device in status.devices.into_iter().filter(|device| device.id.is_some()) {
            match merged.iter_mut().find(|known| known.id == device.id) {
                None => merged.push(device),
                Some(known) => {
                    known.bytes += device.bytes;
                    known.live_bytes += device.live_bytes;
                    if device.state != DeviceState::Ok {
                        known.state = device.state;
                    }
                }
            }
        }
    }
    merged.retain(|device| device.state != DeviceState::Evicted);
    Ok((merged, owed_bytes))
}

/// Refuses to let a device go where less would be survived without it, or what it holds would find no room.
async fn may_leave<D: Disk>(shard: &Rc<Shard<D>>, device: DeviceId) -> Result<(), Refusal> {
    let (devices, owed_bytes) = own_devices(shard).await?;
    let Some(own) = devices.iter().find(|known| known.id == Some(device)) else {
        return Err(Refusal::new(RefusalCode::NotFound, format!("device {device} is none of this node's")));
    };
    let label = if own.label.is_empty() { device.to_string() } else { own.label.clone() };
    let others: Vec<&DeviceStatus> =
        devices.iter().filter(|other| other.id != Some(device) && !other.leaving).collect();
    let working: Vec<&DeviceStatus> = others.iter().copied().filter(|other| other.state == DeviceState::Ok).collect();
    if working.is_empty() {
        let detail = match shard.is_alone() {
            true => format!("no other device of the node works than {label}"),
            false => format!("no other device of the node works than {label}: drain the node instead"),
        };
        return Err(unsafe_now(detail));
    }
    may_lose_mirror(shard, device, &label, others.len(), &working)?;
    let geometry = shard.geometry();
    if !shard.is_alone() {
        return may_be_taken_in(shard, device, &label).await;
    }
    let left = others.len();
    let mirrors = shard.devices.borrow().log_mirrors();
    let survived = |devices: usize| losses_survived(geometry, mirrors, devices, devices).unwrap_or(0);
    if survived(left) < survived(left + 1) {
        let (after, before) = (survived(left), survived(left + 1));
        return Err(unsafe_now(format!(
            "without {label} {left} devices are left, and chunks cut {geometry} would survive the loss of {after} \
             instead of {before}: add a device first (`farside device add`), or put one in its place (`farside device \
             replace`)"
        )));
    }
    if fragments_placed(geometry, left, working.len()).0 < geometry.total() {
        let works = working.len();
        return Err(unsafe_now(format!("only {works} of the {left} devices that are left without {label} work")));
    }
    let most = most_per_device(geometry.total(), left);
    let live: u64 =
        devices.iter().filter(|device| device.state == DeviceState::Ok).map(|device| device.live_bytes).sum();
    let rooms: Vec<Room> = working.iter().map(|device| Room { bytes: device.bytes }).collect();
    has_room(&label, &rooms, live + owed_bytes, most, geometry.total())
}

/// Refuses where the write-ahead log would be left with fewer mirrors than it needs.
fn may_lose_mirror<D: Disk>(
    shard: &Shard<D>,
    device: DeviceId,
    label: &str,
    remaining: usize,
    working: &[&DeviceStatus],
) -> Result<(), Refusal> {
    let set = shard.devices.borrow();
    let carries = |id: DeviceId| {
        let slot = set.slots.iter().find(|slot| slot.id == id);
        slot.and_then(|slot| slot.device.as_ref()).map(|(_, superblock)| superblock.wal_bytes > 0)
    };
    // Of one that is gone nothing says whether it did.
    if carries(device) == Some(false) {
        return Ok(());
    }
    let left = working.iter().filter_map(|device| carries(device.id?)).filter(|carries| *carries).count();
    let needed = remaining.min(set.log_mirrors());
    if left >= needed {
        return Ok(());
    }
    Err(unsafe_now(format!(
        "the write-ahead log needs {needed} mirrors, and {left} are left without {label}. Put another device \
         in its place (`farside device replace`), or add one first (`farside device add`), which gets a mirror"
    )))
}

fn has_room(label: &str, rooms: &[Room], live_bytes: u64, most: usize, fragments: usize) -> Result<(), Refusal> {
    match fits(rooms, live_bytes, most, fragments) {
        true => Ok(()),
        false => Err(unsafe_now(format!(
            "what is stored would not fit on what is left without {label}: add a device first (`farside device add`), or \
             delete objects and wait for GC"
        ))),
    }
}

/// Refuses where the site has no room for what is stored without a device of this node.
async fn may_be_taken_in<D: Disk>(shard: &Rc<Shard<D>>, device: DeviceId, label: &str) -> Result<(), Refusal> {
    let total = shard.geometry().total();
    let (rooms, live_bytes) = rooms(shard, Some(device)).await?;
    let most = crate::placement::most_per_domain(total, rooms.len());
    has_room(label, &rooms, live_bytes, most, total)
}

/// The room of each failure domain, without one device if one is named, and bytes of what is stored. At a site of one node
/// each device is a domain.
pub(super) async fn rooms<D: Disk>(
    shard: &Rc<Shard<D>>,
    without: Option<DeviceId>,
) -> Result<(Vec<Room>, u64), Refusal> {
    if shard.is_alone() {
        let (devices, _) = own_devices(shard).await?;
        let works = |device: &&DeviceStatus| device.state == DeviceState::Ok;
        let live_bytes = devices.iter().filter(works).map(|device| device.live_bytes).sum();
        let left = devices.iter().filter(works).filter(|device| !device.leaving && device.id != without);
        return Ok((left.map(|device| Room { bytes: device.bytes }).collect(), live_bytes));
    }
    let view = shard.view();
    let mut documents: Vec<(NodeId, Value)> = Vec::new();
    let parse = |bytes: Bytes| serde_json::from_slice::<Value>(&bytes).map_err(|_| misanswered());
    documents.push((shard.site.node, parse(super::status::own(shard).await)?));
    let others: Vec<_> = shard.others().into_iter().filter(|node| node.state == NodeState::Up).collect();
    let asked = others.iter().map(|node| async move {
        (node, routing::ask_node(shard, node, 0, &Request::NodeStatus).await.map_err(Refusal::from))
    });
    for (node, answer) in futures_util::future::join_all(asked).await {
        match answer? {
            Reply::Status(document) => documents.push((node.node, parse(document)?)),
            _ => return Err(misanswered()),
        }
    }
    let mut rooms: BTreeMap<u32, u64> = BTreeMap::new();
    let mut live_bytes = 0;
    let gone = without.map(|device| device.to_string());
    for (node, document) in &documents {
        for found in document["nodes"][0]["devices"].as_array().into_iter().flatten() {
            let figure = |name: &str| found[name].as_u64().unwrap_or(0);
            live_bytes += figure("live_bytes");
            if found["state"] == "ok" && gone.as_deref().is_none_or(|gone| found["id"] != gone) {
                *rooms.entry(view.map.domain(*node)).or_default() += figure("bytes");
            }
        }
    }
    Ok((rooms.into_values().map(|bytes| Room { bytes }).collect(), live_bytes))
}

/// Lets go of every device that is to go and that nothing needs any more. On shard 0.
pub(super) async fn let_go<D: Disk>(shard: &Rc<Shard<D>>) {
    for device in shard.moving.leaving() {
        let _deciding = shard.moving.deciding.lock().await;
        if !shard.moving.leaving().contains(&device) {
            // It stays after all.
            continue;
        }
        if !shard.devices.borrow().slots.iter().any(|slot| slot.id == device) {
            // An order for a device that was replaced meanwhile.
            let _ = change(shard, |file| file.leaving.retain(|(leaving, _)| *leaving != device)).await;
            continue;
        }
        match is_dispensable(shard, device).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(refusal) => {
                tracing::info!(%device, %refusal, "it is not known yet whether a device can go");
                continue;
            }
        }
        if let Err(refusal) = conclude(shard, device).await {
            tracing::error!(%device, %refusal, "a device that is empty can't go now");
        }
    }
}

/// What one shard says of a device that is to go.
struct Standing {
    empty: bool,
    works: bool,
    owes: bool,
    log_elsewhere: bool,
}

/// Whether nothing on a device is needed any more, and the placement map no longer names it.
async fn is_dispensable<D: Disk>(shard: &Rc<Shard<D>>, device: DeviceId) -> Result<bool, Refusal> {
    let mut gone_but_owed = false;
    for index in 0..shard.shards() {
        let standing = shard.on(index, move |there| async move { standing(&there, device) }).await?;
        let Some(Standing { empty, works, owes, log_elsewhere }) = standing else { return Ok(false) };
        if !log_elsewhere || works && !empty || !works && owes {
            return Ok(false);
        }
        gone_but_owed |= !works;
    }
    if shard.is_alone() {
        return Ok(true);
    }
    let is_out = has_left_map(shard, device);
    // What a device that failed held is made up for on whichever node.
    Ok(is_out && (!gone_but_owed || whole::is_site_whole(shard).await?))
}

fn standing<D: Disk>(shard: &Shard<D>, device: DeviceId) -> Option<Standing> {
    let residents = shard.store.residents(device)?;
    let owes = match shard.is_alone() {
        true => shard.store.status().owed_fragments > 0,
        false => shard.snapshots.chunks().iter().any(|chunk| shard.store.mending(chunk).is_some()),
    };
    let log_elsewhere = shard.wal.mirrors().iter().any(|mirror| *mirror != device);
    Some(Standing { empty: residents.empty, works: residents.works, owes, log_elsewhere })
}

/// Whether the site's placement map no longer gives anything to a device.
pub(super) fn has_left_map<D: Disk>(shard: &Shard<D>, device: DeviceId) -> bool {
    let view = shard.view();
    let own = view.nodes.get(&shard.site.node);
    own.is_some_and(|node| node.present().all(|present| present.device != device))
}

/// Takes a device off the node's list.
async fn conclude<D: Disk>(shard: &Rc<Shard<D>>, device: DeviceId) -> Result<(), Refusal> {
    let internal = |error: &dyn std::fmt::Display| Refusal::new(RefusalCode::Internal, error.to_string());
    for index in 0..shard.shards() {
        shard.on(index, move |there| async move { there.store.retire(device) }).await?;
    }
    let mut set = shard.devices.borrow().clone();
    let label = set.slots.iter().find(|slot| slot.id == device).map(|slot| slot.label.clone()).unwrap_or_default();
    for index in 0..shard.shards() {
        let dropped = shard.on(index, move |there| async move { there.wal.let_go(device) }).await?;
        if !dropped {
            return Err(unsafe_now("no other device holds the write-ahead log, or that can't be written down".into()));
        }
    }
    let pool = shard.store.pool();
    remove_device(&pool, &mut set, device).await.map_err(|error| internal(&error))?;
    *shard.devices.borrow_mut() = set;
    let directory = NodeDirectory::new(&shard.root);
    if let Err(error) = forget_in_config(&directory, Path::new(&label)) {
        // It is named still, and is nobody's: a start says so.
        tracing::warn!(error = %failed(&error), "node.toml still names an evicted device");
    }
    tracing::info!(%device, label, "a device is out: nothing of this node is on it");
    change(shard, |file| file.leaving.retain(|(leaving, _)| *leaving != device)).await
}
