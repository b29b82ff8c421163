//! A shard, from its devices to its endpoint, and back.

use super::backing_up::{self, Backups};
use super::beating::{self, Beats};
use super::certificates::{self, Certificates};
use super::clocks::{self, Clocks};
use super::closing::{self, Closings};
use super::directory::NodeDirectory;
use super::directory::{MirrorsFile, SiteFile};
use super::dumping::Dumps;
use super::error::{NodeError, failed};
use super::identities::Callers;
use super::leases::Promises;
use super::leaving::{self, Moving};
use super::links::{NodeLinks, PeerLinks, own_hello};
use super::pacing::Paces;
use super::probing::Doubts;
use super::refetching::{self, Refetches};
use super::repairing::{self, Repair};
use super::routing::SiteNetwork;
use super::scrubbing::{self, Scrub};
use super::seed::{ShardSeed, Storage};
use super::shard::{Counters, Job, LogGroup, Shard};
use super::snapshots::ChunkSnapshots;
use super::trailing::{self, Trails};
use super::{
    authority, collecting, identities, limits, membership, mending, moving, noting, peers, recovered, renewing,
    sending, server,
};
use crate::federation::receiver::generation_of;
use crate::framed::{self, FileKind, FramedFileError};
use crate::machine::Machine;
use crate::state::{ControlState, Database, LogGroupState, LogView};
use crate::store::{Candidate, DeviceSet, Store, WalRegion, open_devices};
use farside_codec::command::{ControlCommand, Fence, GroupCommand, SiteRecord};
use farside_codec::ids::{DeviceId, GroupId, NodeId};
use farside_codec::message::{FedHello, LogOffer, PeerRecord, Reply, Request};
use farside_io::clock::HlcClock;
use farside_io::disk::Disk;
use farside_io::pool::Pool;
use farside_raft::wal::{GroupLog, Wal, WalError, WalMirror, WalReport, Witness};
use farside_raft::{Applied, Group, GroupSettings, PeerNetwork, StateError, StateMachine};
use farside_transport::{Class, Settings};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
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
    tasks.push(tokio::task::spawn_local(beating::keep_beating(shard.clone())));
    tasks.push(tokio::task::spawn_local(membership::keep_groups(shard.clone())));
    tasks.push(tokio::task::spawn_local(repairing::keep_repaired(shard.clone())));
    tasks.push(tokio::task::spawn_local(refetching::keep_refetching(shard.clone())));
    tasks.push(tokio::task::spawn_local(mending::keep_mended(shard.clone())));
    tasks.push(tokio::task::spawn_local(moving::keep_moved(shard.clone())));
    tasks.push(tokio::task::spawn_local(scrubbing::keep_scrubbed(shard.clone())));
    tasks.push(tokio::task::spawn_local(closing::close_time(shard.clone())));
    tasks.push(tokio::task::spawn_local(closing::tell_closed(shard.clone())));
    tasks.push(tokio::task::spawn_local(collecting::keep_house(shard.clone())));
    tasks.push(tokio::task::spawn_local(sending_after_check(shard.clone())));
    tasks.push(tokio::task::spawn_local(renewing::keep_renewed(shard.clone())));
    tasks.push(tokio::task::spawn_local(recovered::watch(shard.clone())));
    tasks.push(tokio::task::spawn_local(identities::close_expired(shard.clone())));
    if shard.index == 0 {
        tasks.push(tokio::task::spawn_local(shard.clone().keep_view()));
        tasks.push(tokio::task::spawn_local(identities::learn(shard.clone())));
        tasks.push(tokio::task::spawn_local(certificates::keep(shard.clone())));
        tasks.push(tokio::task::spawn_local(authority::tell_peers(shard.clone())));
        tasks.push(tokio::task::spawn_local(peers::tell_endpoints(shard.clone())));
        tasks.push(tokio::task::spawn_local(membership::lead_site(shard.clone())));
        tasks.push(tokio::task::spawn_local(membership::beat(shard.clone())));
        tasks.push(tokio::task::spawn_local(clocks::keep_compared(shard.clone())));
        tasks.push(tokio::task::spawn_local(backing_up::keep_backups(shard.clone())));
        tasks.push(tokio::task::spawn_local(noting::keep_noted(shard.clone())));
        tasks.push(tokio::task::spawn_local(trailing::keep_crossing(shard.clone())));
        let every = Duration::from_secs(shard.gc_seconds);
        tasks.push(tokio::task::spawn_local(collecting::collect(shard.clone(), every)));
    }
    up(Ok(shard.notices.clone()));
    shard.stopping.notified().await;
    shard.endpoint.close().await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for group in shard.groups() {
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
pub(super) async fn seat_devices<D: Disk>(
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

/// Refuses to start where the state shows that there was a log and the log shows nothing: the groups would begin anew, and
/// GC would take everything that they referred to.
pub(super) fn check_log<D: Disk>(seed: &ShardSeed<D>, wal: &Wal<D>, database: &Database) -> Result<(), NodeError> {
    let lost = |id: GroupId, applied: Result<Applied, StateError>| match applied.map_err(failed)?.last {
        Some(last) if wal.group(id, GroupLog::knows_nothing) => Err(NodeError::Corrupt(format!(
            "the write-ahead log holds nothing of group {id}, which had come to entry {}: the devices that carry it were \
             emptied, or another version wrote it",
            last.index
        ))),
        _ => Ok(()),
    };
    if seed.index == 0 {
        lost(GroupId::CONTROL, ControlState::new(database.clone()).map_err(failed)?.applied())?;
    }
    let mut mine = (1..=seed.site.groups).map(GroupId).filter(|id| id.shard(seed.site.shards) == seed.index);
    mine.try_for_each(|id| lost(id, LogGroupState::new(database.clone(), id, seed.site.site).applied()))
}

/// The log's owner: the node, which no other ever was, and the shard. Not a device: any of them may be replaced. Nobody can
/// name it who has not read the node's own files: recovery looks at every block, at those with a client's bytes too.
fn wal_owner(site: &SiteFile, shard: u16) -> [u8; 16] {
    let mut owner = [0; 16];
    let named = [&site.site.0[..], &site.node.0.to_le_bytes(), &shard.to_le_bytes(), &site.secret].concat();
    owner.copy_from_slice(&blake3::hash(&named).as_bytes()[..16]);
    owner
}

/// Which devices hold all of a shard's write-ahead log, in a file of the node's directory.
struct Noted(PathBuf);

impl Witness for Noted {
    /// A directory that was made before there was such a file notes it when it is opened first.
    fn mirrors(&self) -> Result<Option<Vec<DeviceId>>, String> {
        match framed::read_record::<MirrorsFile>(&self.0, FileKind::Mirrors) {
            Ok(noted) => Ok(Some(noted.devices)),
            Err(FramedFileError::Missing(_)) => Ok(None),
            Err(error @ FramedFileError::Damaged(..)) => {
                Err(format!("{error}; remove it if all of the node's devices are there"))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn note(&self, mirrors: &[DeviceId]) -> Result<(), String> {
        if self.mirrors().is_ok_and(|noted| noted.as_deref() == Some(mirrors)) {
            return Ok(());
        }
        let file = MirrorsFile { devices: mirrors.to_vec() };
        framed::write_record(&self.0, FileKind::Mirrors, &file).map_err(|error| error.to_string())
    }
}

/// Opens a shard's write-ahead log on the devices that are there.
pub(super) async fn open_wal<D: Disk>(
    seed: &ShardSeed<D>,
    regions: Vec<WalRegion<D>>,
    pool: &Pool,
) -> Result<(Wal<D>, WalReport), NodeError> {
    let mirrors =
        regions.into_iter().map(|WalRegion { id, disk, offset, bytes }| WalMirror { device: id, disk, offset, bytes });
    let witness = Rc::new(Noted(NodeDirectory::new(&seed.root).mirrors(seed.index)));
    let opened = Wal::open_with(wal_owner(&seed.site, seed.index), mirrors.collect(), pool, witness).await;
    opened.map_err(|error| match error {
        WalError::Damaged { .. } | WalError::Forked { .. } | WalError::Stale { .. } | WalError::NoMirror => {
            NodeError::Corrupt(error.to_string())
        }
        other => failed(other),
    })
}

type Built<D> = (Rc<Shard<D>>, mpsc::Receiver<Job<D>>);

async fn build<D: Disk>(seed: ShardSeed<D>, storage: Storage<D>, machine: Machine) -> Result<Built<D>, NodeError> {
    let Storage { pool, candidates, notices } = storage;
    if seed.index == 0 {
        certificates::prepare(&seed, &machine)?;
    }
    let devices = seat_devices(&seed, &pool, candidates).await?;
    let regions = devices.wal_regions(seed.index);
    let wal_present = regions.len();
    let (wal, wal_report) = open_wal(&seed, regions, &pool).await?;
    let store = Store::open(&devices, seed.index, pool.clone()).await.map_err(failed)?;
    let directory = NodeDirectory::new(&seed.root);
    let moving = Moving::new(leaving::load(&directory));
    store.set_leaving(&moving.leaving());
    let (database, opened) = Database::open(&directory.state(seed.index)).map_err(failed)?;
    let port = seed.config.listen.port().checked_add(seed.index);
    let port = port.ok_or(NodeError::Usage("listen's port + shards is above 65535".into()))?;
    let address = SocketAddr::new(seed.config.listen.ip(), port);
    let settings = Settings::with_mtu(seed.config.mtu);
    let endpoint = machine.endpoint(address, Some(&seed.node), settings).map_err(failed)?;
    let snapshots = Rc::new(ChunkSnapshots::new(store.clone()));
    let view = Rc::new(RefCell::default());
    let fenced = seed.recovered.iter().flat_map(|recovered| &recovered.fenced).copied().collect();
    let nodes = NodeLinks::new(&seed.site, fenced, endpoint.clone(), seed.node.clone(), &machine);
    let beats = Rc::new(Beats::default());
    let network: Rc<dyn PeerNetwork> =
        Rc::new(SiteNetwork { view: view.clone(), links: nodes.clone(), beats: beats.clone() });
    check_log(&seed, &wal, &database)?;
    let mut groups = BTreeMap::new();
    for id in (1..=seed.site.groups).map(GroupId).filter(|id| id.shard(seed.site.shards) == seed.index) {
        let state = LogGroupState::new(database.clone(), id, seed.site.site);
        // The others are another node's, or are begun when the site is founded.
        if let Some(member) = wal.group(id, |log| log.takes_part_as(seed.site.node)) {
            groups.insert(id, start_group(member, id, &wal, state, &snapshots, &network).await?);
        }
    }
    let control = match seed.index {
        0 => {
            let state = ControlState::new(database.clone()).map_err(failed)?;
            Some(start_group(seed.site.node, GroupId::CONTROL, &wal, state, &snapshots, &network).await?)
        }
        _ => None,
    };
    let shard = Shard {
        index: seed.index,
        root: seed.root,
        advertised: seed.advertised,
        gc_seconds: seed.config.gc_seconds,
        store,
        wal_mirrors: devices.wal_mirrors(),
        devices: RefCell::new(devices),
        moving,
        database,
        opened,
        wal,
        wal_report,
        wal_present,
        snapshots,
        groups: RefCell::new(groups),
        control,
        view,
        network,
        nodes,
        promises: Promises::default(),
        closings: Closings::default(),
        beats,
        heard: RefCell::default(),
        dead_after: Duration::from_secs(seed.config.dead_after_seconds),
        clock: HlcClock::new(machine.clock.clone()),
        links: PeerLinks::new(endpoint.clone(), seed.peer, machine.entropy.clone()),
        machine,
        endpoint,
        trust: seed.trust,
        key: seed.key,
        neighbours: seed.neighbours,
        moved: RefCell::default(),
        senders: RefCell::default(),
        held_at: RefCell::default(),
        fence_checked: Cell::new(false),
        renewal: Notify::new(),
        recovery: seed.recovered.map(|recovered| recovered.recovery),
        cramped: Cell::new(false),
        counters: Counters::default(),
        shown: seed.shown,
        certificates: Certificates::default(),
        callers: Callers::default(),
        repair: Repair::default(),
        clocks: Clocks::default(),
        paces: Paces::default(),
        doubts: Doubts::default(),
        refetches: Refetches::new(seed.config.refetch),
        scrub: Scrub::default(),
        backups: Backups::default(),
        trails: Trails::default(),
        dumps: Dumps::default(),
        scrub_percent: seed.config.scrub_percent,
        collecting: Cell::new(false),
        stopping: Notify::new(),
        notices,
        site: seed.site,
    };
    Ok((Rc::new(shard), seed.jobs))
}

async fn start_group<D: Disk, S: StateMachine>(
    member: NodeId,
    id: GroupId,
    wal: &Wal<D>,
    state: S,
    snapshots: &Rc<ChunkSnapshots<D>>,
    network: &Rc<dyn PeerNetwork>,
) -> Result<Group<D, S, ChunkSnapshots<D>>, NodeError> {
    let state = Rc::new(RefCell::new(state));
    let settings = GroupSettings { beats_when_told: true, ..GroupSettings::default() };
    let network = network.clone();
    let group = Group::start(id, member, settings, wal.clone(), state, snapshots.clone(), network).await;
    group.map_err(|error| NodeError::Corrupt(format!("group {id}: {error}")))
}

/// Begins to take part in a log group: whatever the state file says of it is of an earlier part.
pub(super) async fn join_log_group<D: Disk>(
    shard: &Rc<Shard<D>>,
    id: GroupId,
    member: NodeId,
) -> Result<LogGroup<D>, NodeError> {
    let mut state = LogGroupState::new(shard.database.clone(), id, shard.site.site);
    state.clear().map_err(failed)?;
    LogGroup::join(&shard.wal, id, member).await.map_err(failed)?;
    start_group(member, id, &shard.wal, state, &shard.snapshots, &shard.network).await
}

/// Makes the site's first node the only voter of its groups. Never again after that: whoever has left a group and began
/// it anew would be a second one.
async fn found_groups<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), NodeError> {
    let node = shard.site.node;
    let mine = (1..=shard.site.groups).map(GroupId).filter(|id| id.shard(shard.shards()) == shard.index);
    for id in mine {
        if shard.group(id).is_none() {
            let group = join_log_group(shard, id, node).await?;
            shard.groups.borrow_mut().insert(id, group);
        }
        if let Some(group) = shard.group(id) {
            group.initialize(&[node]).await.map_err(failed)?;
            while group.confirm_leader().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    Ok(())
}

/// Founds a site that has not been founded yet, and waits until the groups that this node alone votes in are led.
async fn found_site<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), NodeError> {
    for group in shard.groups() {
        wait_for_own(&group).await;
    }
    let Some(control) = &shard.control else { return Ok(()) };
    let is_first = shard.site.node == NodeId(1);
    if is_first {
        // Harmless once the group has begun: shard 0 keeps its log for ever.
        control.initialize(&[shard.site.node]).await.map_err(failed)?;
    }
    wait_for_own(control).await;
    shard.publish_view().await;
    // A site of several nodes has been founded, whatever part of that has reached this node.
    let founds = is_first && control.votes_alone().await;
    if founds && control.state().borrow().view().site.is_none() {
        for index in 0..shard.shards() {
            shard.on(index, |there| async move { found_groups(&there).await }).await.map_err(failed)??;
        }
        let site = &shard.site;
        let record =
            SiteRecord { site: site.site, name: site.name.clone(), incarnation: site.incarnation, groups: site.groups };
        shard.control(&shard.by_itself(), ControlCommand::Found(record)).await.map_err(failed)?;
    }
    if founds && shard.view().nodes.is_empty() {
        let beat = ControlCommand::RegisterNode(membership::own_beat(shard));
        shard.control(&shard.by_itself(), beat).await.map_err(failed)?;
    }
    if founds {
        noting::note_restored(shard).await?;
    }
    Ok(())
}

/// Waits for a group to be led, if nobody but this node votes in it. Others may be long in coming.
async fn wait_for_own<D: Disk, S: StateMachine>(group: &Group<D, S, ChunkSnapshots<D>>) {
    while group.votes_alone().await && group.confirm_leader().await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Before this site acknowledges a write it asks its peers whether it is still home: it may have been away.
async fn sending_after_check<D: Disk>(shard: Rc<Shard<D>>) {
    while shard.view().site.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shard.nodes.greet_all(&shard.view().nodes).await;
    let peers: Vec<PeerRecord> = shard.view().peers.values().cloned().collect();
    let checks = peers.iter().map(|peer| check_home(&shard, peer));
    // A peer that does not answer in time may be the lost one; two homes are told apart by their generations.
    let _ = tokio::time::timeout(limits::FENCE_CHECK, futures_util::future::join_all(checks)).await;
    while let Err(refusal) = renewing::renew(&shard).await {
        tracing::error!(%refusal, "a restored log has not begun anew yet");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
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
    // Whoever leads a group now may not have done so when the others asked: everybody asks about all that it knows of.
    for group in shard.groups() {
        let logs = group.state().borrow().logs().map_err(|error| error.to_string())?;
        // A site that does not hold a log is not asked for it either: it would learn of it, and begin a copy.
        let asked = |log: &LogView| log.is_home(shard.site.site) && log.goes_to(peer.site);
        for log in logs.into_iter().filter(asked) {
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
