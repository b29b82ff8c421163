//! A shard's thread, from its devices to its endpoint, and back.

use super::error::{NodeError, failed};
use super::links::{PeerLinks, own_hello};
use super::run::{Ready, ShardSeed};
use super::shard::{Counters, Job, Shard};
use super::snapshots::ChunkSnapshots;
use super::{collecting, directory::NodeDirectory, limits, sending, server};
use crate::federation::receiver::generation_of;
use crate::state::{ControlState, Database, LogGroupState};
use crate::store::{Candidate, DeviceSet, Store, open_devices};
use farside_codec::command::{ControlCommand, Fence, GroupCommand, SiteRecord};
use farside_codec::ids::GroupId;
use farside_codec::message::{FedHello, LogOffer, PeerRecord, Reply, Request};
use farside_io::clock::{HlcClock, SystemClock};
use farside_io::entropy::{Entropy, SystemEntropy};
use farside_io::pool::Pool;
use farside_io::uring::{OpenError, Ring, UringDisk};
use farside_raft::wal::{Wal, WalError, WalMirror};
use farside_raft::{Alone, Group, GroupSettings, PeerNetwork, StateMachine};
use farside_transport::{Class, Endpoint, Settings};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc as ready;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Runs a shard until it is told to stop.
pub(super) async fn shard(seed: ShardSeed, up: ready::Sender<Ready>) {
    let (shard, jobs) = match build(seed).await {
        Ok(built) => built,
        Err(error) => return drop(up.send(Err(error))),
    };
    let mut tasks = vec![
        tokio::task::spawn_local(run_jobs(shard.clone(), jobs)),
        tokio::task::spawn_local(server::accept(shard.clone())),
    ];
    if let Err(error) = found_site(&shard).await {
        return drop(up.send(Err(error)));
    }
    tasks.push(tokio::task::spawn_local(collecting::close_time(shard.clone())));
    tasks.push(tokio::task::spawn_local(collecting::keep_house(shard.clone())));
    tasks.push(tokio::task::spawn_local(sending_after_check(shard.clone())));
    if shard.index == 0 {
        let every = Duration::from_secs(shard.gc_seconds);
        tasks.push(tokio::task::spawn_local(collecting::collect(shard.clone(), every)));
    }
    // The main thread waits for this; without it there is nobody to run for.
    let _ = up.send(Ok(shard.notices.clone()));
    shard.stopping.notified().await;
    shard.endpoint.close().await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for group in shard.groups.values() {
        group.shutdown().await;
    }
    if let Some(control) = &shard.control {
        control.shutdown().await;
    }
    shard.wal.close().await;
    if let Err(error) = shard.database.checkpoint() {
        tracing::error!(%error, "no last checkpoint; the write-ahead log holds everything");
    }
}

async fn run_jobs(shard: Rc<Shard>, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.recv().await {
        tokio::task::spawn_local(job(shard.clone()));
    }
}

async fn open_storage(seed: &ShardSeed) -> Result<(Pool, DeviceSet<UringDisk>, Vec<String>), NodeError> {
    let pool = Pool::new(seed.config.pool_bytes_per_shard()).map_err(failed)?;
    let ring = Ring::register(&pool);
    let mut notices: Vec<String> = pool.notices().iter().chain(ring.notices()).map(ToString::to_string).collect();
    let mut candidates = Vec::new();
    for path in &seed.config.devices {
        let path = seed.root.join(path);
        let label = path.display().to_string();
        let disk = match UringDisk::open(&path, &ring) {
            Ok(disk) => {
                notices.extend(disk.notices().iter().map(ToString::to_string));
                Some(disk)
            }
            Err(error @ OpenError::NotADevice(_)) => return Err(failed(error)),
            Err(error) => {
                tracing::error!(%error, "a device can't be opened");
                None
            }
        };
        candidates.push(Candidate { label, disk });
    }
    let devices = open_devices(&pool, candidates, seed.site.site, seed.site.node).await;
    let devices = devices.map_err(|error| NodeError::Corrupt(error.to_string()))?;
    if devices.shards != seed.site.shards {
        return Err(NodeError::Corrupt("the devices are cut for another number of shards than the node has".into()));
    }
    Ok((pool, devices, notices))
}

/// The log's owner: the first device's id, and the shard.
fn wal_owner(devices: &DeviceSet<UringDisk>, shard: u16) -> [u8; 16] {
    let mut owner = devices.slots[0].id.0;
    owner[14..].iter_mut().zip(shard.to_le_bytes()).for_each(|(byte, shard)| *byte ^= shard);
    owner
}

async fn build(seed: ShardSeed) -> Result<(Rc<Shard>, mpsc::Receiver<Job>), NodeError> {
    let (pool, devices, notices) = open_storage(&seed).await?;
    let regions = devices.wal_regions(seed.index);
    let wal_present = regions.len();
    let mirrors =
        regions.into_iter().map(|region| WalMirror { disk: region.disk, offset: region.offset, bytes: region.bytes });
    let owner = wal_owner(&devices, seed.index);
    let (wal, wal_report) = Wal::open(owner, mirrors.collect(), &pool).await.map_err(|error| match error {
        WalError::Damaged { .. } | WalError::NoMirror => NodeError::Corrupt(error.to_string()),
        other => failed(other),
    })?;
    let store = Store::open(&devices, seed.index, pool.clone()).await.map_err(failed)?;
    let directory = NodeDirectory::new(&seed.root);
    let (database, opened) = Database::open(&directory.state(seed.index)).map_err(failed)?;
    let snapshots = Rc::new(ChunkSnapshots::new(store.clone()));
    let entropy: Rc<dyn Entropy> = Rc::new(SystemEntropy);
    let mut groups = BTreeMap::new();
    for id in (1..=seed.site.groups).map(GroupId).filter(|id| id.shard(seed.site.shards) == seed.index) {
        let state = LogGroupState::new(database.clone(), id, seed.site.site);
        groups.insert(id, start_group(&seed, id, &wal, state, &snapshots).await?);
    }
    let control = match seed.index {
        0 => {
            let state = ControlState::new(database.clone()).map_err(failed)?;
            Some(start_group(&seed, GroupId::CONTROL, &wal, state, &snapshots).await?)
        }
        _ => None,
    };
    let port = seed.config.listen.port().checked_add(seed.index);
    let port = port.ok_or(NodeError::Usage("listen's port + shards is above 65535".into()))?;
    let address = SocketAddr::new(seed.config.listen.ip(), port);
    let settings = Settings::with_mtu(seed.config.mtu);
    let endpoint = Endpoint::listen(address, &seed.node, settings, entropy.as_ref()).map_err(failed)?;
    let shard = Shard {
        index: seed.index,
        root: seed.root,
        advertised: seed.advertised,
        gc_seconds: seed.config.gc_seconds,
        store,
        database,
        opened,
        wal,
        wal_report,
        wal_mirrors: devices.wal_mirrors().len(),
        wal_present,
        snapshots,
        groups,
        control,
        view: RefCell::default(),
        clock: HlcClock::new(Rc::new(SystemClock::default())),
        links: PeerLinks::new(endpoint.clone(), seed.peer, entropy.clone()),
        entropy,
        endpoint,
        trust: seed.trust,
        neighbours: seed.neighbours,
        moved: RefCell::default(),
        senders: RefCell::default(),
        fence_checked: Cell::new(false),
        counters: Counters::default(),
        stopping: Notify::new(),
        notices,
        site: seed.site,
    };
    Ok((Rc::new(shard), seed.jobs))
}

async fn start_group<S: StateMachine>(
    seed: &ShardSeed,
    id: GroupId,
    wal: &Wal<UringDisk>,
    state: S,
    snapshots: &Rc<ChunkSnapshots>,
) -> Result<Group<UringDisk, S, ChunkSnapshots>, NodeError> {
    let peers: Rc<dyn PeerNetwork> = Rc::new(Alone);
    let state = Rc::new(RefCell::new(state));
    let (node, settings) = (seed.site.node, GroupSettings::default());
    let group = Group::start(id, node, settings, wal.clone(), state, snapshots.clone(), peers).await;
    let group = group.map_err(|error| NodeError::Corrupt(format!("group {id}: {error}")))?;
    group.initialize(&[node]).await.map_err(failed)?;
    Ok(group)
}

/// Waits until every group of the shard leads, and makes the site known to its control group.
async fn found_site(shard: &Rc<Shard>) -> Result<(), NodeError> {
    for group in shard.groups.values() {
        while group.confirm_leader().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let Some(control) = &shard.control else { return Ok(()) };
    while control.confirm_leader().await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if control.state().borrow().view().site.is_none() {
        let site = &shard.site;
        let record =
            SiteRecord { site: site.site, name: site.name.clone(), incarnation: site.incarnation, groups: site.groups };
        shard.control(ControlCommand::Found(record)).await.map_err(failed)?;
    }
    shard.publish_view().await;
    Ok(())
}

/// Before this site acknowledges a write it asks its peers whether it is still home: it may have been away.
async fn sending_after_check(shard: Rc<Shard>) {
    while shard.view().site.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let peers: Vec<PeerRecord> = shard.view().peers.values().cloned().collect();
    let checks = peers.iter().map(|peer| check_home(&shard, peer));
    // A peer that does not answer in time may be the lost one; two homes are told apart by their generations.
    let _ = tokio::time::timeout(limits::FENCE_CHECK, futures_util::future::join_all(checks)).await;
    shard.fence_checked.set(true);
    sending::keep_senders(shard).await;
}

async fn check_home(shard: &Rc<Shard>, peer: &PeerRecord) {
    loop {
        match ask_peer(shard, peer).await {
            Ok(()) => return,
            Err(reason) => tracing::info!(peer = %peer.name, reason, "the peer has not said who is home yet"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn ask_peer(shard: &Rc<Shard>, peer: &PeerRecord) -> Result<(), String> {
    let hello = own_hello(&shard.site, shard.index, shard.clock.now());
    let hello = shard.links.hello(peer, hello).await.map_err(|error| error.to_string())?;
    for group in shard.groups.values() {
        let logs = group.state().borrow().logs().map_err(|error| error.to_string())?;
        for log in logs.into_iter().filter(|log| log.is_home(shard.site.site)) {
            let (id, known) = (log.descriptor.log, log.known);
            let offer =
                LogOffer { descriptor: log.descriptor, lineage: log.lineage, head: log.head, head_time: log.head_time };
            let request = Request::FedHello(FedHello { site: shard.site.site, offers: vec![offer] });
            let there = GroupId::of_log(id, hello.groups).shard(hello.shards);
            let reply = shard.links.call(peer, there, Class::Request, &request, None).await;
            let Reply::FedPositions(positions) = reply.map_err(|error| error.to_string())? else { continue };
            for position in positions.into_iter().filter(|position| position.log == id) {
                if generation_of(&position.lineage).is_some_and(|theirs| theirs > known) {
                    let fence = Fence { log: id, lineage: position.lineage, time: shard.clock.now() };
                    let fenced = shard.log_command(id, GroupCommand::Fence(fence)).await;
                    tracing::warn!(log = %id, peer = %peer.name, ?fenced, "the peer took over while this site was away");
                }
            }
        }
    }
    Ok(())
}
