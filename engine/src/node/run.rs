//! Running a node: one thread a shard, until it is told to stop.

use super::config::NodeConfig;
use super::directory::{NodeDirectory, SiteFile};
use super::error::{NodeError, failed};
use super::init::load_credentials;
use super::shard::Job;
use super::start;
use farside_io::cores;
use farside_io::uring;
use farside_transport::{Credentials, Trust};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc as ready;
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Everything that a shard's thread begins with.
pub(super) struct ShardSeed {
    pub(super) index: u16,
    pub(super) root: PathBuf,
    pub(super) site: SiteFile,
    pub(super) config: NodeConfig,
    pub(super) advertised: SocketAddr,
    pub(super) node: Credentials,
    pub(super) peer: Credentials,
    pub(super) trust: Trust,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) neighbours: Vec<mpsc::Sender<Job>>,
}

/// What a shard's thread says when it is up, or why it is not.
pub(super) type Ready = Result<Vec<String>, NodeError>;

/// Runs the node at `root` until SIGTERM or SIGINT. Calls `ready` once, when it accepts callers.
pub fn run(root: &Path, ready: impl FnOnce(&str)) -> Result<(), NodeError> {
    let directory = NodeDirectory::new(root);
    let site = directory.load_site()?;
    let config = NodeConfig::load(&directory.config())?;
    if config.cores.len() != usize::from(site.shards) {
        let (named, made) = (config.cores.len(), site.shards);
        return Err(NodeError::Usage(format!(
            "node.toml names {named} cores, but the node was made with {made} shards"
        )));
    }
    let _lock = directory.lock()?;
    // Refuses a wrong or damaged key now, not when a token is asked for.
    directory.authority()?;
    uring::check_io_uring().map_err(failed)?;
    let (threads, shards, ups) = spawn_shards(&directory, &site, &config)?;
    let mut notices = Vec::new();
    let mut trouble = None;
    for up in ups {
        match up.recv() {
            Ok(Ok(more)) => notices.extend(more),
            Ok(Err(error)) => trouble = trouble.or(Some(error)),
            Err(_) => trouble = trouble.or(Some(failed("a shard ended before it was up"))),
        }
    }
    if trouble.is_none() {
        notices.sort();
        notices.dedup();
        notices.iter().for_each(|notice| eprintln!("notice: {notice}"));
        ready(&format!("ready site={} node={} listen={} shards={}", site.name, site.node, config.listen, site.shards));
        wait_for_signal(&threads)?;
    }
    stop(&shards);
    drop(shards);
    for thread in threads {
        if thread.join().is_err() && trouble.is_none() {
            trouble = Some(failed("a shard's thread has failed; what was acknowledged is on the devices"));
        }
    }
    trouble.map_or(Ok(()), Err)
}

type Spawned = (Vec<JoinHandle<()>>, Vec<mpsc::Sender<Job>>, Vec<ready::Receiver<Ready>>);

fn spawn_shards(directory: &NodeDirectory, site: &SiteFile, config: &NodeConfig) -> Result<Spawned, NodeError> {
    let trust = Trust::new(site.site, &site.certificate);
    let node = load_credentials(&directory.node_identity(), &trust)?;
    let peer = load_credentials(&directory.peer_identity(), &trust)?;
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..site.shards).map(|_| mpsc::channel(super::limits::SHARD_QUEUE)).unzip();
    let (mut threads, mut ups) = (Vec::new(), Vec::new());
    for (index, jobs) in receivers.into_iter().enumerate() {
        let (up, is_up) = ready::channel();
        let core = config.cores[index];
        let seed = ShardSeed {
            index: index as u16,
            root: directory.root().to_owned(),
            site: site.clone(),
            config: config.clone(),
            advertised: config.advertise.unwrap_or(config.listen),
            node: node.clone(),
            peer: peer.clone(),
            trust: trust.clone(),
            jobs,
            neighbours: senders.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
            if let Err(error) = cores::pin(core) {
                eprintln!("notice: shard {index} is not pinned to core {core}: {error}");
            }
            uring::start(start::shard(seed, up));
        });
        threads.push(thread.map_err(failed)?);
        ups.push(is_up);
    }
    Ok((threads, senders, ups))
}

fn stop(shards: &[mpsc::Sender<Job>]) {
    for shard in shards {
        let job: Job = Box::new(|there| Box::pin(async move { there.stopping.notify_one() }));
        // A shard that has ended has nothing to stop; one whose queue is full is told as soon as there is room.
        let _ = shard.blocking_send(job);
    }
}

fn wait_for_signal(threads: &[JoinHandle<()>]) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut watch = tokio::time::interval(std::time::Duration::from_millis(500));
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = watch.tick() => if threads.iter().any(JoinHandle::is_finished) { return Ok(()) },
            }
        }
    })
}
