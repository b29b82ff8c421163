//! `device replace`: a new device in the place of one that is gone, while the node does not run.

use super::config::NodeConfig;
use super::devices::twins;
use super::directory::NodeDirectory;
use super::error::{NodeError, failed};
use super::init::FORMAT_POOL_BYTES;
use crate::store::{Candidate, DeviceState, ReplaceError, Slot, open_devices, replace_device};
use crate::whole_file;
use farside_codec::message::{Refusal, RefusalCode};
use farside_io::entropy::SystemEntropy;
use farside_io::pool::Pool;
use farside_io::uring::{self, Ring, UringDisk};
use std::path::{Path, PathBuf};

/// What is to be replaced by what.
#[derive(Debug, Clone)]
pub struct ReplaceOptions {
    /// The node's directory.
    pub directory: PathBuf,
    /// The device that is gone, as node.toml names it.
    pub old: PathBuf,
    /// The new one.
    pub new: PathBuf,
    /// Bytes of a file that is made for it, where there is none.
    pub make_bytes: Option<u64>,
    /// Replace one that works.
    pub force: bool,
}

/// Replaces a device. The node must not be running; what the old device held is made up for once it does.
pub fn replace(options: &ReplaceOptions) -> Result<(), NodeError> {
    let directory = NodeDirectory::new(&options.directory);
    let site = directory.load_site()?;
    let _lock = directory.lock()?;
    uring::check_io_uring().map_err(failed)?;
    let config = NodeConfig::load(&directory.config())?;
    let root = std::path::absolute(directory.root()).map_err(failed)?;
    let (old, new) = (absolute(&options.old)?, absolute(&options.new)?);
    let position = config.devices.iter().position(|named| *named == options.old || root.join(named) == old);
    let position = position.ok_or_else(|| {
        NodeError::Usage(format!("node.toml names no device {}; it names {}", options.old.display(), listed(&config)))
    })?;
    let made = make(&new, options.make_bytes)?;
    let mut paths: Vec<PathBuf> = config.devices.iter().map(|named| root.join(named)).collect();
    paths.push(new.clone());
    if let Some((one, other)) = twins(&paths) {
        return Err(NodeError::Usage(format!("{} and {} are one device", one.display(), other.display())));
    }
    let outcome = uring::start(async {
        let pool = Pool::new(FORMAT_POOL_BYTES).map_err(failed)?;
        let ring = Ring::register(&pool).map_err(failed)?;
        let candidate = |path: &PathBuf| {
            let disk = UringDisk::open(path, &ring).ok();
            Candidate { label: path.display().to_string(), disk }
        };
        let candidates = paths[..paths.len() - 1].iter().map(candidate).collect();
        let set = open_devices(&pool, candidates, site.site, site.node).await?;
        let label = paths[position].display().to_string();
        let slot = set.slots.iter().position(|slot| slot.label == label);
        let slot = slot.ok_or_else(|| failed(format_args!("it is not known whose place {label} has")))?;
        may_go(&set.slots, slot, options.force)?;
        let disk = UringDisk::open(&new, &ring).map_err(failed)?;
        replace_device(&pool, &set, slot, &disk, &SystemEntropy).await.map(drop).map_err(|error| match error {
            ReplaceError::InUse => NodeError::Refused(Refusal::new(RefusalCode::Unsafe, error.to_string())),
            error => failed(error),
        })
    });
    outcome.map_err(failed).flatten().inspect_err(|_| {
        if made {
            // What this call made and nobody uses.
            let _ = std::fs::remove_file(&new);
        }
    })?;
    let relative = new.strip_prefix(&root).map(Path::to_owned).unwrap_or(new);
    name_in_config(&directory.config(), &config, position, relative)
}

fn absolute(path: &Path) -> Result<PathBuf, NodeError> {
    std::path::absolute(path).map_err(failed)
}

fn listed(config: &NodeConfig) -> String {
    config.devices.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Makes a file for the new device where there is none; answers whether it did.
fn make(new: &Path, bytes: Option<u64>) -> Result<bool, NodeError> {
    match (new.try_exists().map_err(failed)?, bytes) {
        (true, None) => Ok(false),
        (true, Some(_)) => Err(NodeError::Usage(format!("{} is there already: leave --size out", new.display()))),
        (false, None) => {
            Err(NodeError::Usage(format!("there is no {}; with --size a file is made there", new.display())))
        }
        (false, Some(bytes)) => uring::create(new, bytes).map(|()| true).map_err(failed),
    }
}

/// Refuses where more would be lost than is gone already.
fn may_go<D>(slots: &[Slot<D>], slot: usize, force: bool) -> Result<(), NodeError> {
    let unsafe_now = |detail: String| Err(NodeError::Refused(Refusal::new(RefusalCode::Unsafe, detail)));
    let label = &slots[slot].label;
    match &slots[slot].state {
        DeviceState::Ok if !force => unsafe_now(format!(
            "device {label} works: what it holds would have to be made up for; --force replaces it all the same"
        )),
        _ => Ok(()),
    }
}

/// Puts the new device's path where the old one's was, and leaves the rest of the file as its owner wrote it, where that
/// can be.
fn name_in_config(path: &Path, config: &NodeConfig, position: usize, new: PathBuf) -> Result<(), NodeError> {
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let mut changed = config.clone();
    let old = std::mem::replace(&mut changed.devices[position], new.clone());
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let edited = text.replacen(&quoted(&old), &quoted(&new), 1);
    let is_right = NodeConfig::parse(&edited).is_ok_and(|read| format!("{read:?}") == format!("{changed:?}"));
    let text = if is_right { edited } else { changed.to_text().map_err(failed)? };
    whole_file::write(path, 0o644, text.as_bytes()).map_err(failed)
}
