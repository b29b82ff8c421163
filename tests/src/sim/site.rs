//! A simulated site of one node: the real engine on simulated devices, started, killed and cut off from power.

use super::host::Host;
use super::trace::Trace;
use farside::client::{Client, ClientError, ClientSettings, Context};
use farside::node::directory::NodeDirectory;
use farside::node::{self, HeldKey, NodeError, SitePlan, Storage};
use farside::store::{Candidate, FormatOptions, format_devices};
use farside_codec::erasure::Geometry;
use farside_codec::ids::Label;
use farside_codec::record::superblock::DEVICE_HEADER_BYTES;
use farside_io::entropy::SeededEntropy;
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::task::{JoinHandle, LocalSet};

/// Port of shard 0, everywhere.
const PORT: u16 = 7400;
/// Devices hold only what was written, so their size costs nothing.
const DEVICE_BYTES: u64 = 256 << 20;
/// A shard's zone where devices are to fill up: the smallest write-ahead log, and some small segments, of
/// which the engine keeps a part for snapshots.
const CRAMPED_ZONE_BYTES: u64 = 60 << 20;
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

/// A site.
pub struct SimSite {
    /// Its name.
    pub name: Label,
    /// Its machine.
    pub host: Host,
    /// Its devices.
    pub disks: Vec<SimDisk>,
    /// Those that are not found at the next start.
    pub unplugged: Vec<bool>,
    /// How its chunks are cut.
    pub geometry: Geometry,
    /// When its node was started, in milliseconds of simulated time.
    pub starts: Vec<u64>,
    /// Where on each device the chunks of each shard begin.
    pub chunks_at: Vec<u64>,
    context: Context,
    directory: PathBuf,
    pools: Vec<Pool>,
    running: Option<JoinHandle<()>>,
    /// Why the last start came to nothing.
    trouble: Rc<RefCell<Option<String>>>,
    trace: Trace,
}

/// What a site is made of.
pub struct Plan {
    /// Its name.
    pub name: &'static str,
    /// How its chunks are cut.
    pub geometry: Geometry,
    /// Shards of its node.
    pub shards: usize,
    /// Seconds between two GC barriers.
    pub gc_seconds: u64,
    /// Bytes of a segment, where they are not left to the engine: small ones fill up, and are compacted.
    pub segment_bytes: Option<u32>,
    /// Devices are so small that they fill up.
    pub cramped: bool,
}

impl SimSite {
    /// Makes the site in `root`; it does not run yet.
    pub async fn make(root: &Path, plan: &Plan, host: Host, seed: u64, trace: Trace) -> Result<Self, NodeError> {
        let name = Label::parse(plan.name).ok_or_else(|| NodeError::Usage("no name".into()))?;
        let directory = NodeDirectory::new(&root.join(plan.name));
        directory.create()?;
        let listen = SocketAddr::new(host.ip, PORT);
        let device_bytes = match plan.cramped {
            true => DEVICE_HEADER_BYTES + plan.shards as u64 * CRAMPED_ZONE_BYTES,
            false => DEVICE_BYTES,
        };
        let disks: Vec<SimDisk> =
            (0..plan.geometry.total() as u64).map(|index| SimDisk::new(device_bytes, seed ^ (index + 1))).collect();
        let paths = (0..disks.len()).map(|index| PathBuf::from(format!("device-{index}"))).collect();
        let mut config = node::config::NodeConfig::new(listen, paths, (0..plan.shards).collect());
        config.gc_seconds = plan.gc_seconds;
        let site_plan = SitePlan { name: name.clone(), geometry: plan.geometry, groups: 2, config };
        let file = node::found(&directory, &site_plan, &host.machine())?;
        let failed = |error: String| NodeError::Failed(error);
        let pools: Result<Vec<Pool>, _> = (0..plan.shards).map(|_| Pool::new(POOL_BYTES)).collect();
        let pools = pools.map_err(|error| failed(error.to_string()))?;
        let segment_bytes = plan.segment_bytes;
        let options = FormatOptions { segment_bytes, ..node::format_options(&file, device_bytes) };
        let zone_bytes = (device_bytes - DEVICE_HEADER_BYTES) / plan.shards as u64;
        let chunks_at =
            (0..plan.shards as u64).map(|shard| DEVICE_HEADER_BYTES + shard * zone_bytes + options.wal_bytes).collect();
        let formatted = format_devices(&pools[0], &disks, &options, &SeededEntropy::new(seed)).await;
        formatted.map_err(|error| failed(error.to_string()))?;
        node::announce(&directory, &file)?;
        let context = Context::load(&directory.admin_context()).map_err(|error| failed(error.to_string()))?;
        let directory = directory.root().to_owned();
        let geometry = plan.geometry;
        let (running, trouble) = (None, Rc::default());
        let unplugged = vec![false; disks.len()];
        Ok(Self {
            name,
            host,
            disks,
            unplugged,
            geometry,
            starts: Vec::new(),
            chunks_at,
            context,
            directory,
            pools,
            running,
            trouble,
            trace,
        })
    }

    /// Whether a node was started and has not ended.
    pub fn runs(&self) -> bool {
        self.running.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Starts the node; it comes up by itself.
    pub fn start(&mut self) {
        assert!(!self.runs(), "it runs already");
        self.trace.line(format!("{} starts", self.name));
        self.starts.push(self.trace.now_ms());
        self.trouble.borrow_mut().take();
        let key = HeldKey::in_the_clear(&NodeDirectory::new(&self.directory));
        let (seeds, stopper) = match key.and_then(|key| node::shard_seeds::<SimDisk>(&self.directory, key)) {
            Ok(seeds) => seeds,
            Err(error) => return drop(self.trouble.borrow_mut().replace(error.to_string())),
        };
        let shards = LocalSet::new();
        for (seed, pool) in seeds.into_iter().zip(&self.pools) {
            let device = |(index, disk): (usize, &SimDisk)| Candidate {
                label: format!("device-{index}"),
                disk: (!self.unplugged[index]).then(|| disk.clone()),
            };
            let candidates = self.disks.iter().enumerate().map(device).collect();
            let storage = Storage { pool: pool.clone(), candidates, notices: Vec::new() };
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

    /// The running node, to be aborted and waited for; then [`SimSite::settle`] says how it ended.
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

    /// Connects an administrator on `host`, who knows the tenants' KMS at `kms`.
    pub fn connect(
        &self,
        host: &Host,
        kms: &Path,
        tenants: &[&Label],
    ) -> impl Future<Output = Result<Client, ClientError>> + use<> {
        let mut settings = ClientSettings::in_memory();
        let url = format!("file:{}", kms.display());
        tenants.iter().for_each(|tenant| settings.set_kms(tenant, &url));
        let (machine, context) = (host.machine(), self.context.clone());
        async move { Client::connect_from(machine, &context, settings).await }
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
