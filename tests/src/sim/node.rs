//! A simulated node: the real engine on simulated devices, started, killed and cut off from power.

use super::host::Host;
use super::site::Plan;
use super::trace::Trace;
use super::world::smallest_segment_bytes;
use farside::backup::{Repository, SiteFacts, restore};
use farside::client::Context;
use farside::node::config::NodeConfig;
use farside::node::directory::{NodeDirectory, SiteFile};
use farside::node::{self, Filling, HeldKey, NodeError, RestoringFile, ShardSeed, SitePlan, Stopper, Storage};
use farside::store::{Candidate, FormatOptions, format_devices};
use farside_codec::backup::Manifest;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{Hlc, Label};
use farside_codec::record::superblock::DEVICE_HEADER_BYTES;
use farside_io::entropy::SeededEntropy;
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinHandle, LocalSet};

/// A node that is silent for so long counts as dead.
const DEAD_AFTER_SECONDS: u64 = 5;
/// Port of shard 0, everywhere.
const PORT: u16 = 7400;
/// Devices hold only what was written, so their size costs nothing.
const DEVICE_BYTES: u64 = 256 << 20;
/// A shard's zone where devices are to fill up: the smallest write-ahead log, and some small segments, of
/// which the engine keeps a part for snapshots.
const CRAMPED_ZONE_BYTES: u64 = 60 << 20;
/// Up to so long each operation of a device takes that is filled from a backup.
const SLOW_FILL: Duration = Duration::from_millis(20);
/// A shard's arena: several stripes of the largest object of the workload.
const POOL_BYTES: usize = 24 << 20;

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGKILL: the kernel still writes what it was given.
    Kill,
    /// The power goes: what was not flushed is kept, dropped or torn.
    PowerCut,
}

/// A node.
pub struct SimNode {
    /// What its site calls it.
    pub label: Label,
    /// What the trace calls it.
    name: String,
    /// Its machine.
    pub host: Host,
    /// Its devices.
    pub disks: Vec<SimDisk>,
    /// Those that are not found at the next start.
    pub unplugged: Vec<bool>,
    /// When it was started, in milliseconds of simulated time.
    pub starts: Vec<u64>,
    /// Where on each device the chunks of each shard begin.
    pub chunks_at: Vec<u64>,
    /// It is out for good: lost with all that it had, or taken out.
    pub gone: bool,
    directory: PathBuf,
    pools: Vec<Pool>,
    running: Option<JoinHandle<()>>,
    /// Why the last start came to nothing.
    trouble: Rc<RefCell<Option<String>>>,
    trace: Trace,
}

/// What the shards of a node begin with, and what ends them.
type Shards = (Vec<(ShardSeed<SimDisk>, Storage<SimDisk>)>, Stopper<SimDisk>);

/// A node that is being made.
struct Beginning {
    directory: NodeDirectory,
    config: NodeConfig,
    disks: Vec<SimDisk>,
    device_bytes: u64,
}

impl Beginning {
    fn new(root: &Path, plan: &Plan, host: &Host, seed: u64) -> Result<Self, NodeError> {
        let directory = NodeDirectory::new(root);
        directory.create()?;
        let listen = SocketAddr::new(host.ip, PORT);
        let device_bytes = match plan.cramped {
            true => DEVICE_HEADER_BYTES + plan.shards as u64 * CRAMPED_ZONE_BYTES,
            false => DEVICE_BYTES,
        };
        let disks: Vec<SimDisk> =
            (0..plan.devices as u64).map(|index| SimDisk::new(device_bytes, seed ^ (index + 1))).collect();
        let paths = (0..disks.len()).map(|index| PathBuf::from(format!("device-{index}"))).collect();
        let mut config = NodeConfig::new(listen, paths, (0..plan.shards).collect());
        config.gc_seconds = plan.gc_seconds;
        config.dead_after_seconds = DEAD_AFTER_SECONDS;
        config.refetch = plan.refetch;
        Ok(Self { directory, config, disks, device_bytes })
    }

    async fn end(
        self,
        file: &SiteFile,
        plan: &Plan,
        host: Host,
        seed: u64,
        trace: Trace,
    ) -> Result<SimNode, NodeError> {
        let Self { directory, disks, device_bytes, .. } = self;
        let failed = |error: String| NodeError::Failed(error);
        let pools: Result<Vec<Pool>, _> = (0..plan.shards).map(|_| Pool::new(POOL_BYTES)).collect();
        let pools = pools.map_err(|error| failed(error.to_string()))?;
        let options = node::format_options(file, device_bytes);
        let options = FormatOptions { segment_bytes: plan.segment_bytes, ..options };
        let zone_bytes = (device_bytes - DEVICE_HEADER_BYTES) / plan.shards as u64;
        let chunks_at =
            (0..plan.shards as u64).map(|shard| DEVICE_HEADER_BYTES + shard * zone_bytes + options.wal_bytes).collect();
        let formatted = format_devices(&pools[0], &disks, &options, &SeededEntropy::new(seed)).await;
        formatted.map_err(|error| failed(error.to_string()))?;
        node::announce(&directory, file)?;
        let label = format!("node-{}", file.node);
        let name = if plan.nodes == 1 { plan.name.to_owned() } else { format!("{}/{label}", plan.name) };
        Ok(SimNode {
            label: Label::parse(&label).ok_or_else(|| failed(format!("{label} is no name")))?,
            name,
            host,
            unplugged: vec![false; disks.len()],
            disks,
            starts: Vec::new(),
            chunks_at,
            gone: false,
            directory: directory.root().to_owned(),
            pools,
            running: None,
            trouble: Rc::default(),
            trace,
        })
    }
}

impl SimNode {
    /// Founds a site with this as its first node, in `root`; it does not run yet. Answers how administrators find it as well.
    pub async fn found(
        root: &Path,
        plan: &Plan,
        host: Host,
        seed: u64,
        trace: Trace,
    ) -> Result<(Self, Context), NodeError> {
        let beginning = Beginning::new(root, plan, &host, seed)?;
        let name = Label::parse(plan.name).ok_or_else(|| NodeError::Usage("no name".into()))?;
        let site = SitePlan { name, geometry: plan.geometry, groups: 2, config: beginning.config.clone() };
        let file = node::found(&beginning.directory, &site, &host.machine())?;
        let node = beginning.end(&file, plan, host, seed, trace).await?;
        let context = Context::load(&NodeDirectory::new(&node.directory).admin_context());
        Ok((node, context.map_err(|error| NodeError::Failed(error.to_string()))?))
    }

    /// Joins a site with a token, in `root`; it does not run yet.
    pub async fn join(
        root: &Path,
        plan: &Plan,
        token: &str,
        host: Host,
        seed: u64,
        trace: Trace,
    ) -> Result<Self, NodeError> {
        let beginning = Beginning::new(root, plan, &host, seed)?;
        let (address, shards) = (SocketAddr::new(host.ip, PORT), plan.shards as u16);
        let joined = node::ask_to_join(token, address, shards, None, &host.machine()).await?;
        let file = node::enter(&beginning.directory, &beginning.config, joined, &host.machine())?;
        beginning.end(&file, plan, host, seed, trace).await
    }

    /// Makes the only node of a site that is restored from its backups, in `root`; it does not run yet. Answers the site's
    /// incarnation as well.
    pub async fn restore(
        root: &Path,
        plan: Plan,
        geometry: Geometry,
        (repository, key): (&Repository, &[u8; 32]),
        (manifest, at): (Manifest, Option<Hlc>),
        (host, seed): (Host, u64),
        trace: &Trace,
    ) -> Result<(Self, u64), String> {
        let failed = |error: NodeError| error.to_string();
        // Whatever the geometry, there is room for all of it, and the pieces of snapshots fit segments.
        let segment_bytes = plan.segment_bytes.map(|bytes| bytes.max(smallest_segment_bytes(geometry)));
        let plan = Plan { geometry, nodes: 1, devices: geometry.total(), cramped: false, segment_bytes, ..plan };
        let facts = restore::facts(&manifest, Some(geometry));
        let index = repository.index(&manifest.indexes).await.map_err(|error| error.to_string())?;
        let beginning = Beginning::new(root, &plan, &host, seed).map_err(failed)?;
        let restoring = RestoringFile { number: manifest.number, at, tenant: None, log: None };
        let (directory, machine) = (NodeDirectory::new(root), host.machine());
        let config = &beginning.config;
        let file = node::found_restored(&directory, config, &facts, key, &restoring, &machine).map_err(failed)?;
        let mut node = beginning.end(&file, &plan, host, seed, trace.clone()).await.map_err(failed)?;
        let (shards, _stopper) = node.shards().map_err(failed)?;
        let filling = Filling::here(shards);
        let nobody = &mut |_, _| ();
        // What is only written is there a little later than what is not waited for.
        node.disks.iter().for_each(|disk| disk.slow_down(SLOW_FILL));
        let filled = restore::fill_from(repository, (&manifest, &index), None, machine.clock, filling, nobody);
        filled.await.map_err(|error| error.to_string())?;
        node::restore_done(root).map_err(failed)?;
        node.disks.iter().for_each(|disk| disk.slow_down(Duration::ZERO));
        // What it was told is there must be durable.
        node.settle(End::PowerCut);
        Ok((node, facts.incarnation))
    }

    /// What a backup of its site needs: what the site is, and its system key.
    pub fn custody(&self) -> Result<(SiteFacts, [u8; 32]), NodeError> {
        let directory = NodeDirectory::new(&self.directory);
        let key = HeldKey::in_the_clear(&directory)?.key();
        let site = directory.load_site()?;
        let authority = node::issuing_parts(&directory, &key, &site)?;
        Ok((SiteFacts::new(&site, site.geometry, authority), *key.bytes()))
    }

    /// Where it is found.
    pub fn endpoint(&self) -> String {
        SocketAddr::new(self.host.ip, PORT).to_string()
    }

    /// Whether it was started and has not ended.
    pub fn runs(&self) -> bool {
        self.running.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Starts the node, unless it is gone; it comes up by itself.
    pub fn start(&mut self) {
        if self.gone {
            return;
        }
        assert!(!self.runs(), "it runs already");
        self.trace.line(format!("{} starts", self.name));
        self.starts.push(self.trace.now_ms());
        self.trouble.borrow_mut().take();
        let (seeds, stopper) = match self.shards() {
            Ok(shards) => shards,
            Err(error) => return drop(self.trouble.borrow_mut().replace(error.to_string())),
        };
        let shards = LocalSet::new();
        for (seed, storage) in seeds {
            let (name, trace, trouble) = (self.name.clone(), self.trace.clone(), self.trouble.clone());
            let up = move |ready: Result<Vec<String>, NodeError>| match ready {
                Ok(_) => trace.line(format!("{name} is up")),
                Err(error) => {
                    trace.line(format!("{name} does not come up: {error}"));
                    trouble.borrow_mut().replace(error.to_string());
                }
            };
            shards.spawn_local(node::run_shard(seed, storage, self.host.machine(), up));
        }
        self.running = Some(tokio::task::spawn_local(async move {
            shards.await;
            // The shards' queues stay open as long as they run.
            drop(stopper);
        }));
    }

    /// What each of its shards begins with.
    fn shards(&self) -> Result<Shards, NodeError> {
        let key = HeldKey::in_the_clear(&NodeDirectory::new(&self.directory))?;
        let (seeds, stopper) = node::shard_seeds::<SimDisk>(&self.directory, key)?;
        let storage = |pool: &Pool| {
            let device = |(index, disk): (usize, &SimDisk)| Candidate {
                label: format!("device-{index}"),
                disk: (!self.unplugged[index]).then(|| disk.clone()),
            };
            let candidates = self.disks.iter().enumerate().map(device).collect();
            Storage { pool: pool.clone(), candidates, notices: Vec::new() }
        };
        Ok((seeds.into_iter().zip(self.pools.iter().map(storage)).collect(), stopper))
    }

    /// The running node, to be aborted and waited for; then [`SimNode::settle`] says how it ended.
    pub fn take_running(&mut self) -> Option<JoinHandle<()>> {
        self.running.take()
    }

    /// What the end of the node leaves on its devices.
    pub fn settle(&mut self, how: End) {
        self.trace.line(format!("{}: {how:?}", self.name));
        for disk in &mut self.disks {
            *disk = match how {
                End::Kill => disk.kill(),
                End::PowerCut => disk.crash(),
            };
        }
    }

    /// Nothing of it is left.
    pub fn lose(&mut self) {
        self.trace.line(format!("{} is gone for good", self.name));
        self.gone = true;
        self.disks.clear();
        self.unplugged.clear();
    }

    /// Takes the state files away, which are a cache.
    pub fn lose_state(&self) {
        self.trace.line(format!("{} loses its state files", self.name));
        for shard in 0..self.pools.len() as u16 {
            // There is none before the first start.
            let _ = std::fs::remove_file(NodeDirectory::new(&self.directory).state(shard));
        }
    }

    /// Flips a byte of a state file.
    pub fn flip_state(&self, at: u64) {
        use std::os::unix::fs::FileExt;
        let path = NodeDirectory::new(&self.directory).state(0);
        let Ok(file) = std::fs::File::options().read(true).write(true).open(path) else { return };
        let length = file.metadata().map_or(1, |metadata| metadata.len().max(1));
        let (at, mut byte) = (at % length, [0]);
        self.trace.line(format!("{}: a byte of the state file flips", self.name));
        if file.read_exact_at(&mut byte, at).is_ok() {
            // A file that can't be written was not flipped.
            let _ = file.write_all_at(&[byte[0] ^ 0x40], at);
        }
    }

    /// Bytes of the shards' arenas that somebody holds.
    pub fn held_bytes(&self) -> usize {
        self.pools.iter().map(|pool| pool.total_bytes() - pool.free_bytes()).sum()
    }

    /// Why the last start came to nothing, if it did.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }
}
