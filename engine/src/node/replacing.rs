//! `device replace` and `device add`: a new device in the place of one that is gone, or one more, while the node does not
//! run. And what is left to be tidied up where a node was interrupted as a device had just left it.

use super::config::NodeConfig;
use super::devices::twins;
use super::directory::{DevicesFile, NodeDirectory, SiteFile};
use super::error::{NodeError, failed};
use super::init::FORMAT_POOL_BYTES;
use super::leaving;
use super::run::take;
use crate::framed::{self, FileKind};
use crate::store::{
    Candidate, DeviceSet, DeviceState, ReplaceError, Slot, add_device, clear_if_named, open_devices, replace_device,
};
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

/// What is to be added.
#[derive(Debug, Clone)]
pub struct AddOptions {
    /// The node's directory.
    pub directory: PathBuf,
    /// The new device.
    pub new: PathBuf,
    /// Bytes of a file that is made for it, where there is none.
    pub make_bytes: Option<u64>,
}

/// A node that does not run, and what its settings say.
struct Stopped {
    directory: NodeDirectory,
    site: SiteFile,
    config: NodeConfig,
    root: PathBuf,
    /// As long as it is held no node starts; the caller may hold it.
    _lock: Option<std::fs::File>,
}

impl Stopped {
    fn open(root: &Path) -> Result<Self, NodeError> {
        let (directory, site, lock) = take(root)?;
        uring::check_io_uring().map_err(failed)?;
        let config = NodeConfig::load(&directory.config())?;
        let root = std::path::absolute(directory.root()).map_err(failed)?;
        Ok(Self { directory, site, config, root, _lock: Some(lock) })
    }

    /// Paths of its devices.
    fn paths(&self) -> Vec<PathBuf> {
        self.config.devices.iter().map(|named| self.root.join(named)).collect()
    }

    /// The place in node.toml of the device that somebody names.
    fn position(&self, named: &Path) -> Result<Option<usize>, NodeError> {
        let path = absolute(named)?;
        Ok(self.config.devices.iter().position(|known| *known == named || self.root.join(known) == path))
    }

    /// A path as node.toml names it.
    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).map(Path::to_owned).unwrap_or_else(|_| path.to_owned())
    }

    /// Has fragments moved to where they would be written once the node runs. Said before anybody counts on a new device: a
    /// start that finds nothing to move has lost nothing.
    fn expect_moves(&self) -> Result<(), NodeError> {
        let file = DevicesFile { unbalanced: true, ..leaving::load(&self.directory) };
        Ok(framed::write_record(&self.directory.devices(), FileKind::Devices, &file)?)
    }

    /// Opens its devices and does something with them.
    fn with_devices<T>(
        &self,
        work: impl AsyncFnOnce(&Pool, &Ring, DeviceSet<UringDisk>) -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let done = uring::start(async {
            let pool = Pool::new(FORMAT_POOL_BYTES).map_err(failed)?;
            let ring = Ring::register(&pool).map_err(failed)?;
            let candidate = |path: &PathBuf| {
                let disk = UringDisk::open(path, &ring).ok();
                Candidate { label: path.display().to_string(), disk }
            };
            let candidates = self.paths().iter().map(candidate).collect();
            let set = open_devices(&pool, candidates, self.site.site, self.site.node).await?;
            work(&pool, &ring, set).await
        });
        done.map_err(failed).flatten()
    }
}

fn of_replacing(error: ReplaceError) -> NodeError {
    match error {
        ReplaceError::InUse => NodeError::Refused(Refusal::new(RefusalCode::Unsafe, error.to_string())),
        error => failed(error),
    }
}

/// A file for the new device. Where the command fails it is taken back, unless some sibling may count on it already.
struct Made<'a> {
    path: Option<&'a Path>,
}

impl Made<'_> {
    fn judge(&mut self, error: ReplaceError) -> NodeError {
        if matches!(error, ReplaceError::Sibling(..)) {
            self.path = None;
        }
        of_replacing(error)
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Replaces a device. The node must not be running; what the old device held is made up for once it does.
pub fn replace(options: &ReplaceOptions) -> Result<(), NodeError> {
    let node = Stopped::open(&options.directory)?;
    let new = absolute(&options.new)?;
    let Some(position) = node.position(&options.old)? else {
        // It was done, and whoever ordered it has not heard: what is to be is so.
        if node.position(&options.new)?.is_some() {
            return Ok(());
        }
        let (old, listed) = (options.old.display(), listed(&node.config));
        return Err(NodeError::Usage(format!("node.toml names no device {old}; it names {listed}")));
    };
    let mut made = Made { path: make(&new, options.make_bytes)?.then_some(&new) };
    let paths = node.paths();
    refuse_twins(&paths, &new)?;
    // The node's other devices may have taken in all that the old one held.
    node.expect_moves()?;
    node.with_devices(async |pool, ring, set| {
        let label = paths[position].display().to_string();
        let slot = set.slots.iter().position(|slot| slot.label == label);
        let slot = slot.ok_or_else(|| failed(format_args!("it is not known whose place {label} has")))?;
        may_go(&set.slots, slot, options.force)?;
        let disk = UringDisk::open(&new, ring).map_err(failed)?;
        let replaced = replace_device(pool, &set, slot, &disk, &SystemEntropy).await;
        replaced.map_err(|error| made.judge(error))
    })?;
    made.path = None;
    drop(made);
    let mut changed = node.config.clone();
    let new = node.relative(&new);
    let old = std::mem::replace(&mut changed.devices[position], new.clone());
    edit_config(&node.directory.config(), &changed, |text| text.replacen(&quoted(&old), &quoted(&new), 1))
}

/// Adds a device. The node must not be running; its share of what is stored comes to the device once it does.
pub fn add(options: &AddOptions) -> Result<(), NodeError> {
    let node = Stopped::open(&options.directory)?;
    let new = absolute(&options.new)?;
    let label = new.display().to_string();
    if node.position(&options.new)?.is_some() {
        let works = node.with_devices(async |_, _, set| {
            Ok(set.slots.iter().any(|slot| slot.label == label && slot.state == DeviceState::Ok))
        })?;
        return match works {
            // It was added before.
            true => Ok(()),
            false => Err(NodeError::Usage(format!(
                "node.toml names {label} already, and it does not work: `farside device replace` puts another one in its place"
            ))),
        };
    }
    let mut made = Made { path: make(&new, options.make_bytes)?.then_some(&new) };
    refuse_twins(&node.paths(), &new)?;
    node.expect_moves()?;
    node.with_devices(async |pool, ring, set| {
        let disk = UringDisk::open(&new, ring).map_err(failed)?;
        add_device(pool, &set, &disk, &SystemEntropy).await.map_err(|error| made.judge(error))
    })?;
    made.path = None;
    drop(made);
    let mut changed = node.config.clone();
    let new = node.relative(&new);
    let last = node.config.devices.last().map(|last| quoted(last)).unwrap_or_default();
    changed.devices.push(new.clone());
    edit_config(&node.directory.config(), &changed, |text| {
        text.replacen(&last, &format!("{last}, {}", quoted(&new)), 1)
    })
}

/// Tidies up after devices that left the node's list just before it was interrupted: node.toml names them no more, and their
/// superblocks are cleared.
pub(super) fn tidy_up(root: &Path) -> Result<(), NodeError> {
    let directory = NodeDirectory::new(root);
    let file = leaving::load(&directory);
    if file.leaving.is_empty() {
        return Ok(());
    }
    let (site, config) = (directory.load_site()?, NodeConfig::load(&directory.config())?);
    let root = std::path::absolute(directory.root()).map_err(failed)?;
    uring::check_io_uring().map_err(failed)?;
    let node = Stopped { directory, site, config, root, _lock: None };
    let opened = node.with_devices(async |pool, ring, set| {
        let mut gone = Vec::new();
        for (device, path) in &file.leaving {
            if set.slots.iter().any(|slot| slot.id == *device) {
                continue;
            }
            if let Ok(disk) = UringDisk::open(Path::new(path), ring) {
                clear_if_named(pool, &disk, *device).await.map_err(failed)?;
            }
            let taken = set.slots.iter().any(|slot| slot.label == *path && slot.state == DeviceState::Ok);
            gone.push((*device, path.clone(), taken));
        }
        Ok(gone)
    });
    // Where no device can be used the start says so.
    let Ok(gone) = opened else { return Ok(()) };
    for (_, path, _) in gone.iter().filter(|(.., taken)| !taken) {
        forget_in_config(&node.directory, Path::new(path))?;
    }
    let stays = |(device, _): &(_, String)| gone.iter().all(|(gone, ..)| gone != device);
    let leaving = file.leaving.iter().filter(|entry| stays(entry)).cloned().collect();
    framed::write_record(&node.directory.devices(), FileKind::Devices, &DevicesFile { leaving, ..file.clone() })?;
    Ok(())
}

/// Takes a device out of node.toml, if that names it and another one.
pub(super) fn forget_in_config(directory: &NodeDirectory, path: &Path) -> Result<(), NodeError> {
    let config = NodeConfig::load(&directory.config())?;
    let root = std::path::absolute(directory.root()).map_err(failed)?;
    // One of which nothing is known but its id has no path.
    let Ok(path) = std::path::absolute(path) else { return Ok(()) };
    let Some(position) = config.devices.iter().position(|named| root.join(named) == path) else { return Ok(()) };
    let mut changed = config.clone();
    let old = quoted(&changed.devices.remove(position));
    if changed.devices.is_empty() {
        return Ok(());
    }
    edit_config(&directory.config(), &changed, |text| {
        let without = |parts: String| text.contains(&parts).then(|| text.replacen(&parts, "", 1));
        let listed = without(format!("{old}, ")).or_else(|| without(format!(", {old}")));
        // Each on a line of its own, as the settings are written at first.
        listed.unwrap_or_else(|| text.split_inclusive('\n').filter(|line| line.trim() != format!("{old},")).collect())
    })
}

fn absolute(path: &Path) -> Result<PathBuf, NodeError> {
    std::path::absolute(path).map_err(failed)
}

fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

fn listed(config: &NodeConfig) -> String {
    config.devices.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn refuse_twins(paths: &[PathBuf], new: &Path) -> Result<(), NodeError> {
    let paths: Vec<PathBuf> = paths.iter().cloned().chain([new.to_owned()]).collect();
    match twins(&paths) {
        None => Ok(()),
        Some((one, other)) => {
            Err(NodeError::Usage(format!("{} and {} are one device", one.display(), other.display())))
        }
    }
}

/// Makes a file for the new device where there is none; answers whether it did. One of that size was made by an earlier try
/// that was interrupted; what it holds is looked at like any other's.
fn make(new: &Path, bytes: Option<u64>) -> Result<bool, NodeError> {
    let there = match std::fs::metadata(new) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    match (there, bytes) {
        (Some(_), None) => Ok(false),
        (Some(metadata), Some(bytes)) if metadata.is_file() && metadata.len() == bytes => Ok(false),
        (Some(metadata), Some(bytes)) if metadata.is_file() && metadata.len() == 0 => {
            std::fs::remove_file(new).map_err(failed)?;
            uring::create(new, bytes).map(|()| true).map_err(failed)
        }
        (Some(_), Some(_)) => Err(NodeError::Usage(format!("{} is there already: leave --size out", new.display()))),
        (None, None) => {
            Err(NodeError::Usage(format!("there is no {}; with --size a file is made there", new.display())))
        }
        (None, Some(bytes)) => uring::create(new, bytes).map(|()| true).map_err(failed),
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

/// Writes changed settings, and leaves the rest of the file as its owner wrote it, where that can be.
fn edit_config(path: &Path, changed: &NodeConfig, edit: impl FnOnce(&str) -> String) -> Result<(), NodeError> {
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let edited = edit(&text);
    let is_right = NodeConfig::parse(&edited).is_ok_and(|read| format!("{read:?}") == format!("{changed:?}"));
    let text = if is_right { edited } else { changed.to_text().map_err(failed)? };
    whole_file::write(path, 0o644, text.as_bytes()).map_err(failed)
}
