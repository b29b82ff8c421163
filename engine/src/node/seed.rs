//! What the shards of a node begin with, however they are run: each on a thread of its own, or all in a simulator's.

use super::authority;
use super::certificates::Shown;
use super::config::NodeConfig;
use super::directory::{NodeDirectory, SiteFile};
use super::error::NodeError;
use super::init::load_credentials;
use super::keys::HeldKey;
use super::limits;
use super::recovered;
use super::shard::Job;
use crate::store::Candidate;
use farside_codec::recovery::RecoveredFile;
use farside_io::disk::Disk;
use farside_io::pool::Pool;
use farside_transport::{Credentials, Trust};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Everything that one shard begins with, but for its devices and its machine.
pub struct ShardSeed<D: Disk> {
    pub(super) index: u16,
    pub(super) root: PathBuf,
    pub(super) site: SiteFile,
    pub(super) recovered: Option<RecoveredFile>,
    pub(super) config: NodeConfig,
    pub(super) advertised: SocketAddr,
    pub(super) node: Credentials,
    pub(super) peer: Credentials,
    pub(super) shown: Shown,
    pub(super) trust: Trust,
    pub(super) key: Arc<HeldKey>,
    pub(super) jobs: mpsc::Receiver<Job<D>>,
    pub(super) neighbours: Vec<mpsc::Sender<Job<D>>>,
}

/// A shard's devices, as its machine gives them.
pub struct Storage<D> {
    /// The buffers of the shard.
    pub pool: Pool,
    /// Every device that the configuration names, in its order.
    pub candidates: Vec<Candidate<D>>,
    /// What the machine refused.
    pub notices: Vec<String>,
}

/// Stops shards that run.
pub struct Stopper<D: Disk>(Vec<mpsc::Sender<Job<D>>>);

impl<D: Disk> ShardSeed<D> {
    /// The settings of the node.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Which shard it is.
    pub fn index(&self) -> u16 {
        self.index
    }
}

impl<D: Disk> Stopper<D> {
    fn job() -> Job<D> {
        Box::new(|there| Box::pin(async move { there.stopping.notify_one() }))
    }

    /// Tells every shard to stop, from a thread that runs none.
    pub fn stop_blocking(&self) {
        for shard in &self.0 {
            // A shard that has ended has nothing to stop; one whose queue is full is told as soon as there is room.
            let _ = shard.blocking_send(Self::job());
        }
    }

    /// Tells every shard to stop.
    pub async fn stop(&self) {
        for shard in &self.0 {
            // As above.
            let _ = shard.send(Self::job()).await;
        }
    }
}

/// Reads a node's directory, and makes a seed for each of its shards. The directory's lock is the caller's to hold, and so
/// was it to get at its key.
pub fn shard_seeds<D: Disk>(root: &Path, key: HeldKey) -> Result<(Vec<ShardSeed<D>>, Stopper<D>), NodeError> {
    let directory = NodeDirectory::new(root);
    let site = directory.load_site()?;
    let recovered = recovered::load(&directory)?;
    let config = NodeConfig::load(&directory.config())?;
    if config.cores.len() != usize::from(site.shards) {
        let (named, made) = (config.cores.len(), site.shards);
        return Err(NodeError::Usage(format!(
            "node.toml names {named} cores, but the node was made with {made} shards"
        )));
    }
    let key = Arc::new(key);
    let trusted = authority::trusted(&directory, &site)?;
    let trust = Trust::new(site.site, &site.certificate);
    trust.set_own(&trusted.iter().map(|certificate| &certificate[..]).collect::<Vec<_>>());
    let node = load_credentials(&directory.node_identity(), &trust)?;
    let peer = load_credentials(&directory.peer_identity(), &trust)?;
    let life = Duration::from_secs(config.certificate_seconds);
    let shown = Shown { node: node.identity.clone(), peer: peer.identity.clone(), life };
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..site.shards).map(|_| mpsc::channel(limits::SHARD_QUEUE)).unzip();
    let seed = |(index, jobs)| ShardSeed {
        index,
        root: directory.root().to_owned(),
        site: site.clone(),
        recovered: recovered.clone(),
        config: config.clone(),
        advertised: config.advertised(),
        node: node.clone(),
        peer: peer.clone(),
        shown: shown.clone(),
        trust: trust.clone(),
        key: key.clone(),
        jobs,
        neighbours: senders.clone(),
    };
    let seeds = (0..).zip(receivers).map(seed).collect();
    Ok((seeds, Stopper(senders)))
}
