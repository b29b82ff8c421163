//! A new device in the place of one that is gone. What the old one held is made up for afterwards.
//!
//! The new device is formatted first; then its siblings, one after the other, are told that it has the place. Whoever is
//! interrupted in between has a node that works without either, and does the same again: the newest list counts
//! ([`super::devices`]), and a device that no list names is nobody's.

use super::devices::zone_bytes;
use super::devices::{DeviceSet, Found, WriteError, format_device, read_superblock, too_small, write_superblock};
use farside_codec::ids::DeviceId;
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::record::superblock::{COPY_OFFSETS, Superblock};
use farside_io::disk::{Disk, DiskError};
use farside_io::entropy::{Entropy, random};
use farside_io::pool::{Pool, PoolError};

/// Why a device was not replaced.
#[derive(Debug)]
pub enum ReplaceError {
    /// The new device carries a superblock that another node, or this one, counts on.
    InUse,
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

/// Formats `disk`, whatever it holds, and gives it the place of the device in this slot. Answers its id.
pub async fn replace_device<D: Disk>(
    pool: &Pool,
    set: &DeviceSet<D>,
    slot: usize,
    disk: &D,
    entropy: &dyn Entropy,
) -> Result<DeviceId, ReplaceError> {
    let working = || set.slots.iter().filter_map(|slot| slot.device.as_ref().map(|device| (slot, device)));
    let newest = working().map(|(_, (_, superblock))| superblock).max_by_key(|superblock| superblock.sequence);
    let Some(newest) = newest.filter(|_| slot < set.slots.len()) else { return Err(ReplaceError::NoLog) };
    match read_superblock(pool, disk).await.map_err(ReplaceError::Pool)? {
        // One of ours that has no place any more, or never got one.
        Found::Good { superblock, .. }
            if (superblock.site, superblock.node) == (newest.site, newest.node)
                && set.slots.iter().all(|slot| slot.id != superblock.device) => {}
        Found::Good { .. } | Found::Newer(_) => return Err(ReplaceError::InUse),
        Found::Damaged | Found::Unreadable => {}
    }
    let carries_log = slot <= set.geometry.parity();
    let others = working().filter(|(other, _)| other.id != set.slots[slot].id);
    let log_bytes = others.map(|(_, (_, superblock))| superblock.wal_bytes).find(|bytes| *bytes > 0);
    let wal_bytes = match carries_log {
        true => log_bytes.ok_or(ReplaceError::NoLog)?,
        false => 0,
    };
    let device = DeviceId(random(entropy));
    let mut devices: Vec<DeviceId> = set.slots.iter().map(|slot| slot.id).collect();
    devices[slot] = device;
    let sequence = newest.sequence + 1;
    let superblock = Superblock {
        device,
        sequence,
        device_bytes: disk.len_bytes() / BLOCK_BYTES as u64 * BLOCK_BYTES as u64,
        zone_bytes: zone_bytes(disk.len_bytes(), newest.shards),
        wal_bytes,
        devices: devices.clone(),
        ..newest.clone()
    };
    if let Some(needed_bytes) = too_small(&superblock) {
        return Err(ReplaceError::TooSmall { needed_bytes });
    }
    format_device(pool, disk, &superblock).await.map_err(of_new)?;
    for (other, (disk, own)) in working().filter(|(other, _)| other.id != set.slots[slot].id) {
        let told = Superblock { sequence, devices: devices.clone(), ..own.clone() };
        for offset in COPY_OFFSETS {
            // One copy after the other: whatever happens one of them is whole.
            let sibling = |error| match error {
                WriteError::Disk(error) => ReplaceError::Sibling(other.label.clone(), error),
                WriteError::Pool(error) => ReplaceError::Pool(error),
            };
            write_superblock(pool, disk, &told, offset).await.map_err(sibling)?;
            disk.sync().await.map_err(|error| sibling(WriteError::Disk(error)))?;
        }
    }
    Ok(device)
}
