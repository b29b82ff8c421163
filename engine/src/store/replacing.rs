//! Changes of a node's list of devices: one more, one in the place of another, one less.
//!
//! A new device is formatted first; then its siblings, one after the other, are told of the new list. Whoever is
//! interrupted in between has a node that works with the old list or the new one, and does the same again: the newest list
//! counts ([`super::devices`]), and a device that no list names is nobody's. What the list says of a device that works and
//! is on it already need not be said twice, but to siblings that have not heard it.

use super::devices::zone_bytes;
use super::devices::{DeviceSet, Found, WriteError, format_device, read_superblock, too_small, write_superblock};
use farside_codec::ids::DeviceId;
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::record::superblock::{COPY_OFFSETS, MAX_DEVICES, Superblock};
use farside_io::disk::{Disk, DiskError};
use farside_io::entropy::{Entropy, random};
use farside_io::pool::{Pool, PoolError};

/// Why a device was not replaced.
#[derive(Debug)]
pub enum ReplaceError {
    /// The new device carries a superblock that another node, or this one, counts on.
    InUse,
    /// The node has as many devices as it may have.
    Full,
    /// The device that is to go is the last one.
    Last,
    /// The new device is too small.
    TooSmall {
        /// The least that would do.
        needed_bytes: u64,
    },
    /// None of the devices that carry the write-ahead log works: nothing says how large its mirror is.
    NoLog,
    /// The new device refused.
    Disk(DiskError),
    /// A device that was there already refused, and may not know of the new one.
    Sibling(String, DiskError),
    /// There is no buffer.
    Pool(PoolError),
}

impl std::fmt::Display for ReplaceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse => f.write_str(
                "the new device holds a Farside superblock already; overwrite its first 64 KiB with zeroes to give it up",
            ),
            Self::Full => write!(f, "a node has at most {MAX_DEVICES} devices"),
            Self::Last => f.write_str("no other device works"),
            Self::TooSmall { needed_bytes } => {
                write!(f, "the new device is too small: at least {needed_bytes} bytes are needed")
            }
            Self::NoLog => f.write_str("none of the devices that carry the write-ahead log works"),
            Self::Disk(error) => write!(f, "the new device: {error}"),
            Self::Sibling(label, error) => write!(f, "device {label}: {error}"),
            Self::Pool(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReplaceError {}

fn of_new(error: WriteError) -> ReplaceError {
    match error {
        WriteError::Disk(error) => ReplaceError::Disk(error),
        WriteError::Pool(error) => ReplaceError::Pool(error),
    }
}

/// Superblocks of the devices that work, but for one.
fn others<D: Disk>(set: &DeviceSet<D>, but: Option<DeviceId>) -> impl Iterator<Item = (&str, &D, &Superblock)> {
    let working = set.slots.iter().filter(move |slot| Some(slot.id) != but);
    working.filter_map(|slot| slot.device.as_ref().map(|(disk, own)| (slot.label.as_str(), disk, own)))
}

fn newest<D: Disk>(set: &DeviceSet<D>) -> Result<Superblock, ReplaceError> {
    let newest = others(set, None).map(|(_, _, own)| own).max_by_key(|own| own.sequence);
    newest.cloned().ok_or(ReplaceError::NoLog)
}

/// Whose the new device is.
enum Whose {
    /// Nobody's who could want it back.
    Nobody,
    /// It is on the list already: an earlier try came so far.
    OnTheList(DeviceId),
}

async fn look_at<D: Disk>(
    pool: &Pool,
    set: &DeviceSet<D>,
    newest: &Superblock,
    disk: &D,
) -> Result<Whose, ReplaceError> {
    match read_superblock(pool, disk).await.map_err(ReplaceError::Pool)? {
        // One of ours that has no place any more, or never got one.
        Found::Good { superblock, .. } if (superblock.site, superblock.node) == (newest.site, newest.node) => {
            match set.slots.iter().find(|slot| slot.id == superblock.device) {
                None => Ok(Whose::Nobody),
                // Under another name it works already.
                Some(slot) if slot.device.is_some() => Err(ReplaceError::InUse),
                Some(slot) => Ok(Whose::OnTheList(slot.id)),
            }
        }
        Found::Good { .. } | Found::Newer(_) => Err(ReplaceError::InUse),
        Found::Damaged | Found::Unreadable => Ok(Whose::Nobody),
    }
}

/// Tells one sibling, one copy after the other: whatever happens one of them is whole.
async fn tell<D: Disk>(pool: &Pool, label: &str, disk: &D, told: &Superblock) -> Result<(), ReplaceError> {
    let sibling = |error| match error {
        WriteError::Disk(error) => ReplaceError::Sibling(label.to_owned(), error),
        WriteError::Pool(error) => ReplaceError::Pool(error),
    };
    for offset in COPY_OFFSETS {
        write_superblock(pool, disk, told, offset).await.map_err(sibling)?;
        disk.sync().await.map_err(|error| sibling(WriteError::Disk(error)))?;
    }
    Ok(())
}

/// Formats a device with a superblock like its siblings' that names this list.
async fn format_like<D: Disk>(
    pool: &Pool,
    disk: &D,
    newest: &Superblock,
    wal_bytes: u64,
    devices: &[DeviceId],
    device: DeviceId,
) -> Result<(), ReplaceError> {
    let superblock = Superblock {
        device,
        sequence: newest.sequence + 1,
        device_bytes: disk.len_bytes() / BLOCK_BYTES as u64 * BLOCK_BYTES as u64,
        zone_bytes: zone_bytes(disk.len_bytes(), newest.shards),
        wal_bytes,
        devices: devices.to_vec(),
        ..newest.clone()
    };
    if let Some(needed_bytes) = too_small(&superblock) {
        return Err(ReplaceError::TooSmall { needed_bytes });
    }
    format_device(pool, disk, &superblock).await.map_err(of_new)
}

/// Bytes of a mirror of the write-ahead log, and how many of them there are on devices that work, but for one.
fn mirrors<D: Disk>(set: &DeviceSet<D>, but: Option<DeviceId>) -> Result<(u64, usize), ReplaceError> {
    let carrying = || others(set, but).map(|(_, _, own)| own.wal_bytes).filter(|bytes| *bytes > 0);
    Ok((carrying().next().ok_or(ReplaceError::NoLog)?, carrying().count()))
}

/// Formats `disk`, whatever it holds, and gives it the place of the device in this slot. Answers its id. It gets a mirror of
/// the write-ahead log where fewer than m+1 others hold one.
pub async fn replace_device<D: Disk>(
    pool: &Pool,
    set: &DeviceSet<D>,
    slot: usize,
    disk: &D,
    entropy: &dyn Entropy,
) -> Result<DeviceId, ReplaceError> {
    let newest = newest(set)?;
    let Some(old) = set.slots.get(slot).map(|slot| slot.id) else { return Err(ReplaceError::NoLog) };
    match look_at(pool, set, &newest, disk).await? {
        Whose::OnTheList(device) if device == old => {
            retell(pool, set, &newest).await?;
            return Ok(device);
        }
        Whose::OnTheList(_) => return Err(ReplaceError::InUse),
        Whose::Nobody => {}
    }
    let wal_bytes = match mirrors(set, Some(old)) {
        Ok((bytes, count)) if count <= set.geometry.parity() => bytes,
        Ok(_) => 0,
        // Nothing says how large one is, and one is needed.
        Err(error) if slot <= set.geometry.parity() => return Err(error),
        Err(_) => 0,
    };
    let device = DeviceId(random(entropy));
    let mut devices: Vec<DeviceId> = set.slots.iter().map(|slot| slot.id).collect();
    devices[slot] = device;
    format_like(pool, disk, &newest, wal_bytes, &devices, device).await?;
    for (label, sibling, own) in others(set, Some(old)) {
        let told = Superblock { sequence: newest.sequence + 1, devices: devices.clone(), ..own.clone() };
        tell(pool, label, sibling, &told).await?;
    }
    Ok(device)
}

/// Formats `disk`, whatever it holds, and puts it behind the others on the list. Answers its id. It gets a mirror of the
/// write-ahead log as long as no more than m+1 hold one: then one of those that do can be evicted.
pub async fn add_device<D: Disk>(
    pool: &Pool,
    set: &DeviceSet<D>,
    disk: &D,
    entropy: &dyn Entropy,
) -> Result<DeviceId, ReplaceError> {
    let newest = newest(set)?;
    if let Whose::OnTheList(device) = look_at(pool, set, &newest, disk).await? {
        retell(pool, set, &newest).await?;
        return Ok(device);
    }
    if set.slots.len() >= MAX_DEVICES {
        return Err(ReplaceError::Full);
    }
    let (mirror_bytes, count) = mirrors(set, None)?;
    let wal_bytes = if count <= set.geometry.parity() + 1 { mirror_bytes } else { 0 };
    let device = DeviceId(random(entropy));
    let devices: Vec<DeviceId> = set.slots.iter().map(|slot| slot.id).chain([device]).collect();
    format_like(pool, disk, &newest, wal_bytes, &devices, device).await?;
    for (label, sibling, own) in others(set, None) {
        let told = Superblock { sequence: newest.sequence + 1, devices: devices.clone(), ..own.clone() };
        tell(pool, label, sibling, &told).await?;
    }
    Ok(device)
}

/// Tells the siblings that the newest list has not reached.
async fn retell<D: Disk>(pool: &Pool, set: &DeviceSet<D>, newest: &Superblock) -> Result<(), ReplaceError> {
    for (label, sibling, own) in others(set, None).filter(|(_, _, own)| own.sequence < newest.sequence) {
        let told = Superblock { sequence: newest.sequence, devices: newest.devices.clone(), ..own.clone() };
        tell(pool, label, sibling, &told).await?;
    }
    Ok(())
}

/// Takes a device off the list, of which nothing is needed any more, and lets `set` know. A sibling that refuses keeps the
/// older list, which counts only where no other sibling is left; where all of them refuse nothing has changed.
pub async fn remove_device<D: Disk>(pool: &Pool, set: &mut DeviceSet<D>, device: DeviceId) -> Result<(), ReplaceError> {
    let sequence = newest(set)?.sequence + 1;
    let devices: Vec<DeviceId> = set.slots.iter().map(|slot| slot.id).filter(|id| *id != device).collect();
    let (mut told_one, mut trouble) = (false, ReplaceError::Last);
    for slot in set.slots.iter_mut().filter(|slot| slot.id != device) {
        let Some((disk, own)) = &mut slot.device else { continue };
        let told = Superblock { sequence, devices: devices.clone(), ..own.clone() };
        match tell(pool, &slot.label, disk, &told).await {
            Ok(()) => (*own, told_one) = (told, true),
            Err(error) => {
                tracing::error!(%error, "a device has not heard that another one is out");
                trouble = error;
            }
        }
    }
    if !told_one {
        return Err(trouble);
    }
    let gone = set.slots.iter().position(|slot| slot.id == device);
    if let Some((disk, _)) = gone.and_then(|at| set.slots.remove(at).device) {
        // It is nobody's now, and need not be given up by hand before it is used again.
        if let Err(error) = clear(pool, &disk).await {
            tracing::warn!(%device, %error, "an evicted device keeps its superblock");
        }
    }
    Ok(())
}

/// Takes a device's superblocks away.
pub(super) async fn clear<D: Disk>(pool: &Pool, disk: &D) -> Result<(), ReplaceError> {
    for offset in COPY_OFFSETS {
        let mut block = pool.take(BLOCK_BYTES).await.map_err(ReplaceError::Pool)?;
        block.fill(0);
        disk.write(offset, block.share()).await.map_err(ReplaceError::Disk)?;
    }
    disk.sync().await.map_err(ReplaceError::Disk)
}

/// The same, if they name this device.
pub async fn clear_if_named<D: Disk>(pool: &Pool, disk: &D, device: DeviceId) -> Result<(), ReplaceError> {
    match read_superblock(pool, disk).await.map_err(ReplaceError::Pool)? {
        Found::Good { superblock, .. } if superblock.device == device => clear(pool, disk).await,
        _ => Ok(()),
    }
}
