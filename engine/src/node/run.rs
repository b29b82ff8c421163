//! Running a node on the real machine: one pinned thread a shard, until it is told to stop.

use super::config::NodeConfig;
use super::devices::twins;
use super::directory::{NodeDirectory, SiteFile};
use super::error::{NodeError, failed};
use super::keys;
use super::recovered;
use super::replacing::tidy_up;
use super::restoring::resume_restored;
use super::seed::{ShardSeed, Storage, shard_seeds};
use super::start::run_shard;
use crate::interrupt;
use crate::machine::Machine;
use crate::store::Candidate;
use crate::terminal::note;
use farside_io::cores;
use farside_io::pool::Pool;
use farside_io::uring::{self, OpenError, Ring, UringDisk};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::mpsc as ready;
use std::thread::JoinHandle;
use tokio::signal::unix::Signal;

/// What a shard's thread says when it is up, or why it is not.
type Ready = Result<Vec<String>, NodeError>;

/// Runs the node at `root` until SIGTERM, SIGINT or SIGHUP. Calls `ready` once, when it accepts callers.
///
/// A sealed system key takes a passphrase: from the file, the service manager's credential, or whoever unlocks the node.
pub fn run(root: &Path, passphrase_file: Option<&Path>, ready: impl FnOnce(&str)) -> Result<(), NodeError> {
    end_on_panic();
    let (directory, site, _lock) = take(root)?;
    tidy_up(root)?;
    let key = keys::obtain(&directory, passphrase_file)?;
    let (seeds, shards) = shard_seeds(root, key)?;
    refuse_twins(root, seeds[0].config())?;
    uring::check_io_uring().map_err(failed)?;
    let listen = seeds[0].config().listen;
    let (threads, ups) = spawn_shards(seeds)?;
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
        notices.iter().for_each(|notice| note(format_args!("notice: {notice}")));
        // Until here a signal ends the process, which may take long to start. Who reads `ready` may ask it to stop.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let signals = runtime.block_on(async { interrupt::ending_signals() }).map_err(failed)?;
        ready(&format!("ready site={} node={} listen={listen} shards={}", site.name, site.node, site.shards));
        runtime.block_on(wait_for_signal(signals, &threads));
    }
    shards.stop_blocking();
    drop(shards);
    for thread in threads {
        if thread.join().is_err() && trouble.is_none() {
            trouble = Some(failed("a shard's thread has failed; what was acknowledged is on the devices"));
        }
    }
    trouble.map_or(Ok(()), Err)
}

/// Takes a directory in which a node could start: it has one, none runs on it, and nothing is under way there. The lock goes
/// with the file.
pub(super) fn take(root: &Path) -> Result<(NodeDirectory, SiteFile, File), NodeError> {
    let directory = NodeDirectory::new(root);
    let site = directory.load_site()?;
    let lock = directory.lock()?;
    if resume_restored(root)?.is_some() {
        return Err(NodeError::Unfinished(root.to_owned()));
    }
    recovered::refuse_unfinished(&directory, &site)?;
    Ok((directory, site, lock))
}

fn refuse_twins(root: &Path, config: &NodeConfig) -> Result<(), NodeError> {
    let paths: Vec<_> = config.devices.iter().map(|path| root.join(path)).collect();
    match twins(&paths) {
        Some((one, other)) => {
            let (one, other) = (one.display(), other.display());
            Err(NodeError::Usage(format!("node.toml names one device twice: {one} and {other}")))
        }
        None => Ok(()),
    }
}

/// A task that panicked would leave half a shard behind, which answers some and keeps others waiting. A start recovers
/// everything that was acknowledged, so the process ends, and its peers and supervisor see that it did.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(1);
    }));
}

type Spawned = (Vec<JoinHandle<()>>, Vec<ready::Receiver<Ready>>);

fn spawn_shards(seeds: Vec<ShardSeed<UringDisk>>) -> Result<Spawned, NodeError> {
    let (mut threads, mut ups) = (Vec::new(), Vec::new());
    for seed in seeds {
        let (up, is_up) = ready::channel();
        let (index, core) = (seed.index(), seed.config().cores[usize::from(seed.index())]);
        let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
            if let Err(error) = cores::pin(core) {
                note(format_args!("notice: shard {index} is not pinned to core {core}: {error}"));
            }
            let trouble = up.clone();
            if let Err(error) = uring::start(shard(seed, up)) {
                // As in `shard`: whoever waits for this is there, or nobody is.
                drop(trouble.send(Err(failed(error))));
            }
        });
        threads.push(thread.map_err(failed)?);
        ups.push(is_up);
    }
    Ok((threads, ups))
}

async fn shard(seed: ShardSeed<UringDisk>, up: ready::Sender<Ready>) {
    // The main thread waits for this; without it there is nobody to run for.
    let up = |ready| drop(up.send(ready));
    match open_storage(&seed) {
        Ok(storage) => run_shard(seed, storage, Machine::real(), up).await,
        Err(error) => up(Err(error)),
    }
}

/// Maps the shard's buffers and opens the node's devices on the shard's ring.
pub(super) fn open_storage(seed: &ShardSeed<UringDisk>) -> Result<Storage<UringDisk>, NodeError> {
    let pool = Pool::new(seed.config().pool_bytes_per_shard()).map_err(failed)?;
    let ring = Ring::register(&pool).map_err(failed)?;
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
            // An operator mends these in a moment; without the device it would be owed what it has.
            Err(error @ OpenError::NotADevice(_)) => return Err(failed(error)),
            Err(OpenError::Io(path, error)) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(failed(format_args!("device {}: permission denied", path.display())));
            }
            Err(error) => {
                tracing::error!(%error, "a device can't be opened");
                None
            }
        };
        candidates.push(Candidate { label, disk });
    }
    Ok(Storage { pool, candidates, notices })
}

async fn wait_for_signal(mut signals: Vec<(i32, Signal)>, threads: &[JoinHandle<()>]) {
    let mut watch = tokio::time::interval(std::time::Duration::from_millis(500));
    loop {
        tokio::select! {
            biased;
            _ = interrupt::first_of(&mut signals) => return,
            _ = watch.tick() => if threads.iter().any(JoinHandle::is_finished) { return },
        }
    }
}
