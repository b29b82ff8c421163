//! Filling the devices of a node from a backup, offline: one thread a shard, to which whoever reads the backup hands chunks and
//! pieces of state. What it ends with is what a node of one that was stopped leaves behind: chunks in the store, and for
//! each group a snapshot in the write-ahead log of which it is the only voter.
//!
//! Nothing of a group is written before everything else is durable, and a node does not start on a directory where a restore is
//! under way; so an interrupted restore is one that has to go on.

use super::config::NodeConfig;
use super::directory::{NodeDirectory, SiteFile};
use super::error::{NodeError, failed};
use super::init::{NodeOptions, announce, fill, format, in_new_directory};
use super::keys::{HeldKey, SystemKey};
use super::limits::{FILL_CHUNKS, FILL_QUEUE};
use super::renewing::RestoredAt;
use super::run::open_storage;
use super::seed::{ShardSeed, Storage, shard_seeds};
use super::snapshots::ChunkSnapshots;
use super::start::{open_wal, seat_devices};
use crate::backup::SiteFacts;
use crate::framed::{self, FileKind, FramedFileError};
use crate::machine::Machine;
use crate::store::Store;
use bytes::Bytes;
use farside_codec::delta::ChunkRef;
use farside_codec::ids::{ChunkId, GroupId, Hlc, Label, NodeId};
use farside_codec::record;
use farside_codec::record::wal::{LogPosition, Membership, SnapshotRecord, StoredMembership, Vote, WalRecord};
use farside_io::disk::Disk;
use farside_io::entropy::random;
use farside_io::uring::{self, UringDisk};
use farside_raft::SnapshotStore;
use farside_raft::wal::Wal;
use farside_transport::Authority;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, mpsc, oneshot};

record!(
    /// A restore that is under way, as its directory says.
    RestoringFile {
        /// The backup.
        number: u64,
        /// The moment to go back to.
        at: Option<Hlc>,
        /// The only tenant that is restored; all of them otherwise.
        tenant: Option<Label>,
        /// Its only log that is; all of them otherwise.
        log: Option<Label>,
    }
);

/// The restore that was begun into a directory, if there is one.
pub fn resume_restored(path: &Path) -> Result<Option<RestoringFile>, NodeError> {
    match framed::read_record(&NodeDirectory::new(path).restoring(), FileKind::Restoring) {
        Ok(restoring) => Ok(Some(restoring)),
        Err(FramedFileError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the directory and devices of a restored site's only node. Until [`restore_done`] no node starts there.
pub fn make_restored(
    path: &Path,
    options: &NodeOptions,
    site: &SiteFacts,
    system_key: &[u8; 32],
    restoring: RestoringFile,
) -> Result<(), NodeError> {
    let cores = options.check()?;
    uring::check_io_uring().map_err(failed)?;
    let machine = Machine::real();
    let make = |directory: &NodeDirectory| {
        let devices = options.device_paths(site.geometry, directory)?;
        let config = options.config(&devices, cores, directory)?;
        let file = found_restored(directory, &config, site, system_key, &restoring, &machine)?;
        // A runtime of its own, which can't be inside another one.
        let formatted = std::thread::scope(|scope| scope.spawn(|| format(&file, &devices)).join());
        formatted.map_err(|_| ended())??;
        announce(directory, &file)?;
        Ok(file)
    };
    in_new_directory(path, make).map(drop)
}

/// Fills the directory of a restored site's only node. Its devices are to be formatted next; it is a node once it was
/// announced, and may start after [`restore_done`].
pub fn found_restored(
    directory: &NodeDirectory,
    config: &NodeConfig,
    site: &SiteFacts,
    system_key: &[u8; 32],
    restoring: &RestoringFile,
    machine: &Machine,
) -> Result<SiteFile, NodeError> {
    config.save(&directory.config())?;
    let config = NodeConfig::load(&directory.config())?;
    let file = SiteFile {
        site: site.site,
        name: site.name.clone(),
        incarnation: site.incarnation,
        node: NodeId(1),
        shards: config.cores.len() as u16,
        groups: site.groups,
        geometry: site.geometry,
        certificate: site.certificate.clone(),
        created: Hlc::from_ms(machine.clock.wall_ms()),
        secret: random(machine.entropy.as_ref()),
    };
    let authority = Authority::from_parts(site.site, site.certificate.to_vec(), site.authority_key.clone());
    fill(directory, &file, &config, &authority, &SystemKey::from_bytes(*system_key), machine)?;
    let restored = RestoredAt { incarnation: site.incarnation, at: restoring.at, is_part: restoring.tenant.is_some() };
    framed::write_record(&directory.restored_at(), FileKind::RestoredAt, &restored)?;
    framed::write_record(&directory.restoring(), FileKind::Restoring, restoring)?;
    Ok(file)
}

/// Everything is there: from now on a node may start.
pub fn restore_done(path: &Path) -> Result<(), NodeError> {
    let directory = NodeDirectory::new(path);
    std::fs::remove_file(directory.restoring()).map_err(failed)?;
    Ok(directory.sync()?)
}

/// What a shard is told.
enum Fill {
    /// Which of these are there already.
    Have(Vec<ChunkId>, oneshot::Sender<Vec<bool>>),
    /// Store this.
    Chunk(ChunkId, Bytes),
    /// The next rows of a group's state.
    Rows(GroupId, Bytes),
    /// Everything was handed over: answer once it is durable.
    Settle(oneshot::Sender<Result<(), NodeError>>),
    /// Begin the groups: all others are settled too.
    Groups(Vec<(GroupId, Option<LogPosition>)>, oneshot::Sender<Result<(), NodeError>>),
}

/// The shards of a node that is being filled.
pub struct Filling {
    shards: Vec<mpsc::Sender<Fill>>,
    threads: Vec<JoinHandle<()>>,
    _lock: Option<File>,
}

fn ended() -> NodeError {
    failed("a thread that fills the devices has ended early")
}

impl Filling {
    /// Opens the devices of the node at `root`.
    pub async fn open(root: &Path) -> Result<Self, NodeError> {
        let directory = NodeDirectory::new(root);
        let lock = directory.lock()?;
        // A restore writes it so; its owner seals it later.
        let (seeds, _) = shard_seeds::<UringDisk>(root, HeldKey::in_the_clear(&directory)?)?;
        let mut filling = Self { shards: Vec::new(), threads: Vec::new(), _lock: Some(lock) };
        let mut ups = Vec::new();
        for seed in seeds {
            let (sender, receiver) = mpsc::channel(FILL_QUEUE);
            let (up, is_up) = oneshot::channel();
            let thread = std::thread::Builder::new().name(format!("fill-{}", seed.index()));
            let thread = thread.spawn(move || {
                // Whoever waits for it sees that it has ended.
                let _ = uring::start(async {
                    let storage = open_storage(&seed);
                    run(seed, storage, receiver, up).await;
                });
            });
            filling.shards.push(sender);
            filling.threads.push(thread.map_err(failed)?);
            ups.push(is_up);
        }
        for up in ups {
            up.await.map_err(|_| ended())??;
        }
        Ok(filling)
    }

    /// The same of shards whose storage is open already, on this thread.
    pub async fn here<D: Disk>(shards: Vec<(ShardSeed<D>, Storage<D>)>) -> Result<Self, NodeError> {
        let mut filling = Self { shards: Vec::new(), threads: Vec::new(), _lock: None };
        for (seed, storage) in shards {
            let (sender, receiver) = mpsc::channel(FILL_QUEUE);
            let (up, is_up) = oneshot::channel();
            tokio::task::spawn_local(run(seed, Ok(storage), receiver, up));
            is_up.await.map_err(|_| ended())??;
            filling.shards.push(sender);
        }
        Ok(filling)
    }

    fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    async fn tell(&self, shard: u16, fill: Fill) -> Result<(), NodeError> {
        self.shards[usize::from(shard)].send(fill).await.map_err(|_| ended())
    }

    /// Which of these chunks are there already, in their order.
    pub async fn have(&self, chunks: &[ChunkId]) -> Result<Vec<bool>, NodeError> {
        let mut have = vec![false; chunks.len()];
        for shard in 0..self.shards() {
            let mine = |(at, chunk): (usize, &ChunkId)| (chunk.shard(self.shards()) == shard).then_some((at, *chunk));
            let (places, asked): (Vec<usize>, Vec<ChunkId>) = chunks.iter().enumerate().filter_map(mine).unzip();
            let (sender, receiver) = oneshot::channel();
            self.tell(shard, Fill::Have(asked, sender)).await?;
            let held = receiver.await.map_err(|_| ended())?;
            places.into_iter().zip(held).for_each(|(at, held)| have[at] = held);
        }
        Ok(have)
    }

    /// Has a chunk stored. Waits where the devices are slower than the backup.
    pub async fn chunk(&self, chunk: ChunkId, sealed: Bytes) -> Result<(), NodeError> {
        self.tell(chunk.shard(self.shards()), Fill::Chunk(chunk, sealed)).await
    }

    /// Takes the next rows of a group's state.
    pub async fn rows(&self, group: GroupId, rows: Bytes) -> Result<(), NodeError> {
        self.tell(group.shard(self.shards()), Fill::Rows(group, rows)).await
    }

    /// Waits until everything is durable.
    pub async fn settle(&self) -> Result<(), NodeError> {
        for shard in 0..self.shards() {
            let (sender, receiver) = oneshot::channel();
            self.tell(shard, Fill::Settle(sender)).await?;
            receiver.await.map_err(|_| ended())??;
        }
        Ok(())
    }

    /// Begins the groups with the states that were handed over, and closes the devices. Every chunk must be settled.
    pub async fn finish(self, groups: &[(GroupId, Option<LogPosition>)]) -> Result<(), NodeError> {
        for shard in 0..self.shards() {
            let mine = groups.iter().filter(|(group, _)| group.shard(self.shards()) == shard).copied().collect();
            let (sender, receiver) = oneshot::channel();
            self.tell(shard, Fill::Groups(mine, sender)).await?;
            receiver.await.map_err(|_| ended())??;
        }
        drop(self.shards);
        self.threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| ended()))
    }
}

async fn run<D: Disk>(
    seed: ShardSeed<D>,
    storage: Result<Storage<D>, NodeError>,
    told: mpsc::Receiver<Fill>,
    up: oneshot::Sender<Result<(), NodeError>>,
) {
    let opened = async { Filler::open(&seed, storage?).await };
    // Where nobody waits any more there is nobody to fill for.
    match opened.await {
        Ok(filler) => {
            let _ = up.send(Ok(()));
            Rc::new(filler).run(told).await;
        }
        Err(error) => drop(up.send(Err(error))),
    }
}

/// Rows of a group that are not a piece yet, and its pieces.
type Taken = (Vec<u8>, Vec<ChunkRef>);

/// One shard's store and log.
struct Filler<D: Disk> {
    node: NodeId,
    store: Store<D>,
    wal: Wal<D>,
    snapshots: ChunkSnapshots<D>,
    groups: RefCell<BTreeMap<GroupId, Taken>>,
    under_way: Arc<Semaphore>,
    trouble: RefCell<Option<NodeError>>,
}

impl<D: Disk> Filler<D> {
    async fn open(seed: &ShardSeed<D>, storage: Storage<D>) -> Result<Self, NodeError> {
        let Storage { pool, candidates, .. } = storage;
        let devices = seat_devices(seed, &pool, candidates).await?;
        let (wal, _) = open_wal(seed, devices.wal_regions(seed.index), &pool).await?;
        let store = Store::open(&devices, seed.index, pool).await.map_err(failed)?;
        Ok(Self {
            node: seed.site.node,
            snapshots: ChunkSnapshots::new(store.clone()),
            store,
            wal,
            groups: RefCell::default(),
            under_way: Arc::new(Semaphore::new(FILL_CHUNKS)),
            trouble: RefCell::default(),
        })
    }

    async fn run(self: Rc<Self>, mut told: mpsc::Receiver<Fill>) {
        while let Some(fill) = told.recv().await {
            match fill {
                Fill::Have(chunks, answer) => {
                    let have = self.store.have(&chunks).iter().map(Option::is_some).collect();
                    drop(answer.send(have));
                }
                Fill::Chunk(chunk, sealed) => self.clone().begin_chunk(chunk, sealed).await,
                Fill::Rows(group, rows) => {
                    if let Err(error) = self.take_rows(group, &rows).await {
                        self.fail(error);
                    }
                }
                Fill::Settle(answer) => drop(answer.send(self.settle().await)),
                Fill::Groups(groups, answer) => drop(answer.send(self.begin_groups(groups).await)),
            }
        }
        self.wal.close().await;
    }

    /// Keeps the first thing that went wrong, for whoever settles.
    fn fail(&self, error: NodeError) {
        self.trouble.borrow_mut().get_or_insert(error);
    }

    async fn begin_chunk(self: Rc<Self>, chunk: ChunkId, sealed: Bytes) {
        let Ok(permit) = self.under_way.clone().acquire_owned().await else { return };
        tokio::task::spawn_local(async move {
            let stored = async {
                let mut writer = self.store.begin(chunk, sealed.len()).await?;
                writer.append(&sealed)?;
                writer.commit().await
            };
            if let Err(error) = stored.await {
                self.fail(failed(format_args!("chunk {chunk} can't be stored: {error}")));
            }
            drop(permit);
        });
    }

    /// Rows of one group come in order; many small pieces become few of the size that snapshots have.
    async fn take_rows(&self, group: GroupId, rows: &[u8]) -> Result<(), NodeError> {
        let full = {
            let mut groups = self.groups.borrow_mut();
            let (left, _) = groups.entry(group).or_default();
            let full = !left.is_empty() && left.len() + rows.len() > crate::state::limits::PIECE_BYTES;
            let full = full.then(|| std::mem::take(left));
            left.extend_from_slice(rows);
            full
        };
        match full {
            Some(piece) => self.keep(group, piece).await,
            None => Ok(()),
        }
    }

    async fn keep(&self, group: GroupId, piece: Vec<u8>) -> Result<(), NodeError> {
        let kept = self.snapshots.put(group, piece.into()).await.map_err(failed)?;
        self.groups.borrow_mut().entry(group).or_default().1.push(kept);
        Ok(())
    }

    async fn settle(&self) -> Result<(), NodeError> {
        drop(self.under_way.acquire_many(FILL_CHUNKS as u32).await.map_err(failed)?);
        match self.trouble.borrow_mut().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn begin_groups(&self, groups: Vec<(GroupId, Option<LogPosition>)>) -> Result<(), NodeError> {
        let mut records = Vec::new();
        for (group, last) in groups {
            let left = self.groups.borrow_mut().entry(group).or_default().0.split_off(0);
            if !left.is_empty() {
                self.keep(group, left).await?;
            }
            let pieces = self.groups.borrow_mut().remove(&group).unwrap_or_default().1;
            records.extend(first_records(group, self.node, last, pieces));
        }
        self.wal.append_durably(&records).await.map_err(failed)
    }
}

/// What a group's log begins with whose only voter is `node`, and whose state is these pieces as of `last`. A group that
/// had no entry yet begins with none.
fn first_records(group: GroupId, node: NodeId, last: Option<LogPosition>, pieces: Vec<ChunkRef>) -> Vec<WalRecord> {
    let mut records = Vec::new();
    if group != GroupId::CONTROL {
        records.push(WalRecord::Member((group, node)));
    }
    let Some(last) = last else { return records };
    let membership = Membership { configurations: vec![vec![node]], nodes: vec![node] };
    let membership = StoredMembership { position: Some(last), membership };
    // The next term is above every one that the lost site's log names.
    let vote = Vote { term: last.term, leader: node, committed: false };
    records.extend([
        WalRecord::Snapshot((group, SnapshotRecord { last: Some(last), membership, pieces })),
        WalRecord::Purge((group, last)),
        WalRecord::Vote((group, vote)),
    ]);
    records
}
