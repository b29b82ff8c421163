//! A shard, from its devices to its endpoint, and back.

use super::error::{NodeError, failed};
use super::links::{PeerLinks, own_hello};
use super::seed::{ShardSeed, Storage};
use super::shard::{Counters, Job, Shard};
use super::snapshots::ChunkSnapshots;
use super::{collecting, directory::NodeDirectory, limits, sending, server};
use crate::federation::receiver::generation_of;
use crate::machine::Machine;
use crate::state::{ControlState, Database, LogGroupState};
use crate::store::{Candidate, DeviceSet, Store, open_devices};
use farside_codec::command::{ControlCommand, Fence, GroupCommand, SiteRecord};
use farside_codec::ids::GroupId;
use farside_codec::message::{FedHello, LogOffer, PeerRecord, Reply, Request};
use farside_io::clock::HlcClock;
use farside_io::disk::Disk;
use farside_io::pool::Pool;
use farside_raft::wal::{Wal, WalError, WalMirror};
use farside_raft::{Alone, Group, GroupSettings, PeerNetwork, StateMachine};
use farside_transport::{Class, Settings};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Runs a shard until it is told to stop. Calls `up` once: with notices when it accepts callers, or with the reason why
/// it never will.
pub async fn run_shard<D: Disk>(
    seed: ShardSeed<D>,
    storage: Storage<D>,
    machine: Machine,
    up: impl FnOnce(Result<Vec<String>, NodeError>),
) {
    let (shard, jobs) = match build(seed, storage, machine).await {
        Ok(built) => built,
        Err(error) => return up(Err(error)),
    };
    let mut tasks = vec![
        tokio::task::spawn_local(run_jobs(shard.clone(), jobs)),
        tokio::task::spawn_local(server::accept(shard.clone())),
    ];
    if let Err(error) = found_site(&shard).await {
        return up(Err(error));
    }
    tasks.push(tokio::task::spawn_local(collecting::close_time(shard.clone())));
    tasks.push(tokio::task::spawn_local(collecting::keep_house(shard.clone())));
    tasks.push(tokio::task::spawn_local(sending_after_check(shard.clone())));
    if shard.index == 0 {
        let every = Duration::from_secs(shard.gc_seconds);
        tasks.push(tokio::task::spawn_local(collecting::collect(shard.clone(), every)));
    }
    up(Ok(shard.notices.clone()));
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

async fn run_jobs<D: Disk>(shard: Rc<Shard<D>>, mut jobs: mpsc::Receiver<Job<D>>) {
    while let Some(job) = jobs.recv().await {
        tokio::task::spawn_local(job(shard.clone()));
    }
}

/// Seats the devices of the shard.
async fn seat_devices<D: Disk>(
    seed: &ShardSeed<D>,
    pool: &Pool,
    candidates: Vec<Candidate<D>>,
) -> Result<DeviceSet<D>, NodeError> {
    let devices = open_devices(pool, candidates, seed.site.site, seed.site.node).await?;
    if devices.shards != seed.site.shards {
        return Err(NodeError::Corrupt("the devices are cut for another number of shards than the node has".into()));
    }
    Ok(devices)
}

/// The log's owner: the first device's id, and the shard.
fn wal_owner<D: Disk>(devices: &DeviceSet<D>, shard: u16) -> [u8; 16] {
    let mut owner = devices.slots[0].id.0;
    owner[14..].iter_mut().zip(shard.to_le_bytes()).for_each(|(byte, shard)| *byte ^= shard);
    owner
}

type Built<D> = (Rc<Shard<D>>, mpsc::Receiver<Job<D>>);

async fn build<D: Disk>(seed: ShardSeed<D>, storage: Storage<D>, machine: Machine) -> Result<Built<D>, NodeError> {
    let Storage { pool, candidates, notices } = storage;
    let devices = seat_devices(&seed, &pool, candidates).await?;
    let regions = devices.wal_regions(seed.index);
    let wal_present = regions.len();
    let mirrors =
        regions.into_iter().map(|region| WalMirror { disk: region.disk, offset: region.offset, bytes: region.bytes });
    let owner = wal_owner(&devices, seed.index);
    let (wal, wal_report) = Wal::open(owner, mirrors.collect(), &pool).await.map_err(|error| match error {
        WalError::Damaged { .. } | WalError::Forked { .. } | WalError::NoMirror => {
            NodeError::Corrupt(error.to_string())
        }
        other => failed(other),
    })?;
    let store = Store::open(&devices, seed.index, pool.clone()).await.map_err(failed)?;
    let directory = NodeDirectory::new(&seed.root);
    let (database, opened) = Database::open(&directory.state(seed.index)).map_err(failed)?;
    let snapshots = Rc::new(ChunkSnapshots::new(store.clone()));
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
    let endpoint = machine.endpoint(address, Some(&seed.node), settings).map_err(failed)?;
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
        clock: HlcClock::new(machine.clock.clone()),
        links: PeerLinks::new(endpoint.clone(), seed.peer, machine.entropy.clone()),
        machine,
        endpoint,
        trust: seed.trust,
        neighbours: seed.neighbours,
        moved: RefCell::default(),
        senders: RefCell::default(),
        fence_checked: Cell::new(false),
        cramped: Cell::new(false),
        counters: Counters::default(),
        stopping: Notify::new(),
        notices,
        site: seed.site,
    };
    Ok((Rc::new(shard), seed.jobs))
}

async fn start_group<D: Disk, S: StateMachine>(
    seed: &ShardSeed<D>,
    id: GroupId,
    wal: &Wal<D>,
    state: S,
    snapshots: &Rc<ChunkSnapshots<D>>,
) -> Result<Group<D, S, ChunkSnapshots<D>>, NodeError> {
    let peers: Rc<dyn PeerNetwork> = Rc::new(Alone);
    let state = Rc::new(RefCell::new(state));
    let (node, settings) = (seed.site.node, GroupSettings::default());
    let group = Group::start(id, node, settings, wal.clone(), state, snapshots.clone(), peers).await;
    let group = group.map_err(|error| NodeError::Corrupt(format!("group {id}: {error}")))?;
    group.initialize(&[node]).await.map_err(failed)?;
    Ok(group)
}

/// Waits until every group of the shard leads, and makes the site known to its control group.
async fn found_site<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), NodeError> {
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
async fn sending_after_check<D: Disk>(shard: Rc<Shard<D>>) {
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

async fn check_home<D: Disk>(shard: &Rc<Shard<D>>, peer: &PeerRecord) {
    loop {
        match ask_peer(shard, peer).await {
            Ok(()) => return,
            Err(reason) => tracing::info!(peer = %peer.name, reason, "the peer has not said who is home yet"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn ask_peer<D: Disk>(shard: &Rc<Shard<D>>, peer: &PeerRecord) -> Result<(), String> {
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
                    match shard.log_command(id, GroupCommand::Fence(fence)).await {
                        Ok(_) => {
                            tracing::warn!(log = %id, peer = %peer.name, "the peer took over while this site was away")
                        }
                        Err(refusal) => {
                            tracing::error!(log = %id, peer = %peer.name, %refusal, "the peer took over, and that can't be recorded here")
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
