//! The devices of a node: formatting them, and finding out at a start which of them are still what they were.
//!
//! Nothing is ever repaired by guessing: a device that is foreign, a second copy, shrunken or newer is left alone and
//! named. A superblock whose other copy is good is written again.

use super::limits;
use super::placement::most_per_device;
use super::status::DeviceState;
use farside_codec::DecodeError;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{DeviceId, NodeId, SiteId};
use farside_codec::limits::{BLOCK_BYTES, DEFAULT_CHUNK_PLAIN_BYTES, MAX_CHUNK_SEALED_BYTES};
use farside_codec::record::superblock::{COPY_OFFSETS, DEVICE_HEADER_BYTES, MAX_DEVICES, Superblock};
use farside_codec::stripe::StripeLayout;
use farside_io::disk::{Disk, DiskError};
use farside_io::entropy::{Entropy, random};
use farside_io::pool::{Buffer, Pool, PoolError};
use futures_util::{StreamExt, TryStreamExt, stream};

/// Zones begin at multiples of this.
const ZONE_ALIGNMENT: u64 = 64 << 10;

/// How devices are to be formatted.
#[derive(Debug, Clone, Copy)]
pub struct FormatOptions {
    /// The site.
    pub site: SiteId,
    /// The node.
    pub node: NodeId,
    /// Shards of the node: each device is cut in as many zones.
    pub shards: u16,
    /// How new chunks are cut.
    pub geometry: Geometry,
    /// WAL bytes of each zone of the first m+1 devices; cut to whole blocks.
    pub wal_bytes: u64,
    /// Bytes of a segment; `None`: as the zones' size suggests.
    pub segment_bytes: Option<u32>,
}

/// Why devices were not formatted.
#[derive(Debug)]
pub enum FormatError {
    /// No device, or more than a node may have.
    Count(usize),
    /// This device, by its place in the list, carries a superblock already.
    InUse(usize),
    /// This device is too small for its zones.
    TooSmall {
        /// Its place in the list.
        device: usize,
        /// The least that would do.
        needed_bytes: u64,
    },
    /// The segment size is not a multiple of 4 KiB, or can't hold a chunk's fragment.
    SegmentBytes(u32),
    /// This device refused.
    Disk(usize, DiskError),
    /// There is no buffer.
    Pool(PoolError),
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count} devices: a node has 1 to {MAX_DEVICES}"),
            Self::InUse(device) => write!(
                f,
                "device {} holds a Farside superblock already; overwrite its first 64 KiB with zeroes to give it up",
                device + 1
            ),
            Self::TooSmall { device, needed_bytes } => {
                write!(f, "device {} is too small: at least {needed_bytes} bytes are needed", device + 1)
            }
            Self::SegmentBytes(bytes) => write!(f, "segments of {bytes} bytes are not possible"),
            Self::Disk(device, error) => write!(f, "device {}: {error}", device + 1),
            Self::Pool(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FormatError {}

/// Fragment records of the largest chunk that the node takes must fit a segment.
fn largest_record(geometry: Geometry, chunk_bytes: usize) -> u64 {
    StripeLayout::new(geometry, chunk_bytes).slot_bytes() as u64
}

/// The default: so large that the index is read in few requests, so small that a zone has enough of them.
fn default_segment_bytes(geometry: Geometry, room: u64) -> u32 {
    let most = u64::from(limits::SEGMENT_BYTES);
    let least_for = |chunk_bytes| (largest_record(geometry, chunk_bytes) + 3 * BLOCK_BYTES as u64).next_power_of_two();
    let any_chunk = least_for(MAX_CHUNK_SEALED_BYTES);
    // Tiny zones are for trials: they take chunks of the default size only.
    let least = match room >= any_chunk * limits::MIN_ZONE_SEGMENTS / 2 {
        true => any_chunk,
        false => least_for(DEFAULT_CHUNK_PLAIN_BYTES * 5 / 4),
    };
    let wanted = (room / limits::MIN_ZONE_SEGMENTS).next_power_of_two() / 2;
    wanted.clamp(least.max(u64::from(limits::MIN_SEGMENT_BYTES)).min(most), most) as u32
}

/// Formats new devices. What they held is lost. The ids come back in the devices' order.
pub async fn format_devices<D: Disk>(
    pool: &Pool,
    disks: &[D],
    options: &FormatOptions,
    entropy: &dyn Entropy,
) -> Result<Vec<DeviceId>, FormatError> {
    assert!(options.shards > 0, "a node has at least one shard");
    if disks.is_empty() || disks.len() > MAX_DEVICES {
        return Err(FormatError::Count(disks.len()));
    }
    let devices: Vec<DeviceId> = disks.iter().map(|_| DeviceId(random(entropy))).collect();
    // One segment size for all, by the smallest zone, so that any device can take any fragment.
    let zone_bytes = |disk: &D| zone_bytes(disk.len_bytes(), options.shards);
    let wal_bytes = options.wal_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let smallest = disks.iter().map(zone_bytes).min().unwrap_or(0);
    let segment_bytes = options
        .segment_bytes
        .unwrap_or_else(|| default_segment_bytes(options.geometry, smallest.saturating_sub(wal_bytes)));
    if !segment_bytes.is_multiple_of(BLOCK_BYTES as u32)
        || segment_bytes > limits::MAX_SEGMENT_BYTES
        || segment_bytes < 8 * BLOCK_BYTES as u32
    {
        return Err(FormatError::SegmentBytes(segment_bytes));
    }
    let superblocks: Vec<Superblock> = disks
        .iter()
        .enumerate()
        .map(|(ordinal, disk)| Superblock {
            site: options.site,
            node: options.node,
            device: devices[ordinal],
            sequence: 1,
            device_bytes: disk.len_bytes() / BLOCK_BYTES as u64 * BLOCK_BYTES as u64,
            shards: options.shards,
            zone_bytes: zone_bytes(disk),
            wal_bytes: if ordinal <= options.geometry.parity() { wal_bytes } else { 0 },
            segment_bytes,
            geometry: options.geometry,
            devices: devices.clone(),
        })
        .collect();
    for (device, superblock) in superblocks.iter().enumerate() {
        if let Some(needed_bytes) = too_small(superblock) {
            return Err(FormatError::TooSmall { device, needed_bytes });
        }
    }
    // All are looked at before the first is written to.
    for (device, disk) in disks.iter().enumerate() {
        let found = read_superblock(pool, disk).await.map_err(FormatError::Pool)?;
        if matches!(found, Found::Good { .. } | Found::Newer(_)) {
            return Err(FormatError::InUse(device));
        }
    }
    for (device, (disk, superblock)) in disks.iter().zip(&superblocks).enumerate() {
        format_device(pool, disk, superblock).await.map_err(|error| match error {
            WriteError::Disk(error) => FormatError::Disk(device, error),
            WriteError::Pool(error) => FormatError::Pool(error),
        })?;
    }
    Ok(devices)
}

/// Bytes of each of the zones that a device of so many bytes is cut in.
pub(super) fn zone_bytes(device_bytes: u64, shards: u16) -> u64 {
    device_bytes.saturating_sub(DEVICE_HEADER_BYTES) / u64::from(shards) / ZONE_ALIGNMENT * ZONE_ALIGNMENT
}

/// The least bytes that would do, of a device that is too small.
pub(super) fn too_small(superblock: &Superblock) -> Option<u64> {
    // The largest chunk fills as many segments of a device as it has fragments there, and one may be in use already.
    let most = most_per_device(superblock.geometry.total(), superblock.devices.len()) as u64;
    let least_segments = limits::CLIENT_RESERVE_SEGMENTS as u64 + most + 1;
    let needed =
        (superblock.wal_bytes + least_segments * u64::from(superblock.segment_bytes)).next_multiple_of(ZONE_ALIGNMENT);
    (superblock.zone_bytes < needed).then(|| needed * u64::from(superblock.shards) + DEVICE_HEADER_BYTES)
}

pub(super) enum WriteError {
    Disk(DiskError),
    Pool(PoolError),
}

/// Clears both ends of every segment, so that nothing of an earlier life is taken for a segment's, then names the device.
pub(super) async fn format_device<D: Disk>(pool: &Pool, disk: &D, superblock: &Superblock) -> Result<(), WriteError> {
    let mut empty = pool.take(2 * BLOCK_BYTES).await.map_err(WriteError::Pool)?;
    empty.fill(0);
    let empty = empty.share();
    let segments = (0..superblock.shards).flat_map(|shard| {
        let first = superblock.zone_offset(shard) + superblock.wal_bytes;
        let segment_bytes = u64::from(superblock.segment_bytes);
        (0..superblock.segments()).map(move |segment| (first + u64::from(segment) * segment_bytes, segment_bytes))
    });
    let last_block = empty.slice(0..BLOCK_BYTES);
    let ends = segments
        .flat_map(|(start, bytes)| [(start, empty.clone()), (start + bytes - BLOCK_BYTES as u64, last_block.clone())]);
    stream::iter(ends)
        .map(|(offset, zeroes)| disk.write(offset, zeroes))
        .buffer_unordered(limits::OPEN_DEPTH)
        .try_for_each(|()| async { Ok(()) })
        .await
        .map_err(WriteError::Disk)?;
    disk.sync().await.map_err(WriteError::Disk)?;
    for offset in COPY_OFFSETS {
        write_superblock(pool, disk, superblock, offset).await?;
    }
    disk.sync().await.map_err(WriteError::Disk)
}

pub(super) async fn write_superblock<D: Disk>(
    pool: &Pool,
    disk: &D,
    superblock: &Superblock,
    offset: u64,
) -> Result<(), WriteError> {
    let mut block: Buffer = pool.take(BLOCK_BYTES).await.map_err(WriteError::Pool)?;
    block.copy_from_slice(&superblock.to_block());
    disk.write(offset, block.share()).await.map_err(WriteError::Disk)
}

/// What a device's two superblocks say.
pub(super) enum Found {
    /// A good one, and where the other copy is bad or older, if it is.
    Good {
        superblock: Box<Superblock>,
        bad_copy: Option<u64>,
    },
    Newer(u16),
    Damaged,
    Unreadable,
}

pub(super) async fn read_superblock<D: Disk>(pool: &Pool, disk: &D) -> Result<Found, PoolError> {
    let mut copies = Vec::with_capacity(COPY_OFFSETS.len());
    let (mut unreadable, mut newer) = (0, None);
    for offset in COPY_OFFSETS {
        let mut block = pool.take(BLOCK_BYTES).await?;
        // A read that stores nothing must not leave another device's superblock here for this one's.
        block.fill(0);
        let (read, block) = disk.read(offset, block).await;
        let decoded = match read {
            Ok(()) => Superblock::from_block(&block).map_err(Some),
            Err(_) => Err(None),
        };
        match decoded {
            Ok(superblock) => copies.push((superblock, offset)),
            Err(Some(DecodeError::Version { got, .. })) => newer = Some(got),
            Err(Some(_)) => {}
            Err(None) => unreadable += 1,
        }
    }
    copies.sort_by_key(|(superblock, _)| superblock.sequence);
    let Some((superblock, offset)) = copies.pop() else {
        return Ok(match newer {
            Some(version) => Found::Newer(version),
            None if unreadable == COPY_OFFSETS.len() => Found::Unreadable,
            None => Found::Damaged,
        });
    };
    let agreed = copies.iter().any(|(other, _)| *other == superblock);
    let bad_copy = COPY_OFFSETS.into_iter().find(|other| *other != offset && !agreed);
    Ok(Found::Good { superblock: Box::new(superblock), bad_copy })
}

/// A device that the configuration names.
pub struct Candidate<D> {
    /// Where it is, for people.
    pub label: String,
    /// The device, if it could be opened.
    pub disk: Option<D>,
}

/// A device's place among its node's.
#[derive(Clone)]
pub struct Slot<D> {
    /// Its id.
    pub id: DeviceId,
    /// Where it is or was expected.
    pub label: String,
    /// How it is.
    pub state: DeviceState,
    /// The device and what it says of itself, where its state is `Ok`.
    pub device: Option<(D, Superblock)>,
}

/// A named device that has no place here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Where it is.
    pub label: String,
    /// Why it is none of ours.
    pub state: DeviceState,
}

/// Where a mirror of a shard's WAL lies.
#[derive(Clone)]
pub struct WalRegion<D> {
    /// The device's id.
    pub id: DeviceId,
    /// The device.
    pub disk: D,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The devices of a node, each with a verdict.
#[derive(Clone)]
pub struct DeviceSet<D> {
    /// In the order in which they were formatted.
    pub slots: Vec<Slot<D>>,
    /// Named devices that have no place here.
    pub strangers: Vec<Stranger>,
    /// How new chunks are cut.
    pub geometry: Geometry,
    /// Shards that the devices are cut for.
    pub shards: u16,
    /// Superblock copies that were bad and have been written again from their good sisters.
    pub mended_superblocks: usize,
}

impl<D> DeviceSet<D> {
    /// Mirrors that the write-ahead log is to have: as many as the geometry asked for that the devices were formatted with.
    pub fn log_mirrors(&self) -> usize {
        self.geometry.parity() + 1
    }
}

impl<D: Disk> DeviceSet<D> {
    /// Where the mirrors of a shard's WAL lie, on the devices that work. Which should be there is
    /// [`DeviceSet::wal_mirrors`].
    pub fn wal_regions(&self, shard: u16) -> Vec<WalRegion<D>> {
        let working = self.slots.iter().filter_map(|slot| slot.device.as_ref().map(|device| (slot.id, device)));
        let carrying = working.filter(|(_, (_, superblock))| superblock.wal_bytes > 0);
        carrying
            .map(|(id, (disk, superblock))| WalRegion {
                id,
                disk: disk.clone(),
                offset: superblock.zone_offset(shard),
                bytes: superblock.wal_bytes,
            })
            .collect()
    }

    /// How many mirrors of the WAL there should be: as many as m+1 of the devices can carry.
    pub fn wal_mirrors(&self) -> usize {
        self.slots.len().min(self.geometry.parity() + 1)
    }
}

/// Why no device could be used.
#[derive(Debug)]
pub enum OpenDevicesError {
    /// None of them is good; here is what each one is.
    NoDevice(Vec<Stranger>),
    /// There is no buffer.
    Pool(PoolError),
}

impl std::fmt::Display for OpenDevicesError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoDevice(strangers) => {
                f.write_str("no device can be used:")?;
                strangers.iter().try_for_each(|stranger| write!(f, " {} is {};", stranger.label, stranger.state))
            }
            Self::Pool(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenDevicesError {}

/// Reads the superblocks of all named devices and gives each device its place, or a reason why it has none.
pub async fn open_devices<D: Disk>(
    pool: &Pool,
    candidates: Vec<Candidate<D>>,
    site: SiteId,
    node: NodeId,
) -> Result<DeviceSet<D>, OpenDevicesError> {
    let mut mended_superblocks = 0;
    let mut verdicts = Vec::with_capacity(candidates.len());
    for Candidate { label, disk } in candidates {
        let verdict = match &disk {
            None => Err(DeviceState::Missing),
            Some(disk) => match read_superblock(pool, disk).await.map_err(OpenDevicesError::Pool)? {
                Found::Good { superblock, bad_copy } => {
                    let verdict = judge(&superblock, disk.len_bytes(), site, node);
                    if let (true, Some(offset)) = (verdict == DeviceState::Ok, bad_copy) {
                        // A device that refuses this write will refuse others, and fails then.
                        let written = write_superblock(pool, disk, &superblock, offset).await.is_ok();
                        mended_superblocks += usize::from(written);
                    }
                    if verdict == DeviceState::Ok { Ok(*superblock) } else { Err(verdict) }
                }
                Found::Newer(version) => Err(DeviceState::Newer { version }),
                Found::Damaged => Err(DeviceState::Damaged),
                Found::Unreadable => Err(DeviceState::Unreadable),
            },
        };
        verdicts.push((label, disk, verdict));
    }
    let newest = verdicts.iter().filter_map(|(_, _, verdict)| verdict.as_ref().ok());
    let Some(newest) = newest.max_by_key(|superblock| superblock.sequence).cloned() else {
        let strangers = verdicts
            .into_iter()
            .map(|(label, _, verdict)| Stranger { label, state: verdict.err().unwrap_or(DeviceState::Damaged) });
        return Err(OpenDevicesError::NoDevice(strangers.collect()));
    };
    Ok(seat(verdicts, newest, mended_superblocks))
}

fn judge(superblock: &Superblock, bytes: u64, site: SiteId, node: NodeId) -> DeviceState {
    if (superblock.site, superblock.node) != (site, node) {
        return DeviceState::Foreign { site: superblock.site, node: superblock.node };
    }
    match bytes < superblock.device_bytes {
        true => DeviceState::Shrunken { formatted_bytes: superblock.device_bytes, bytes },
        false => DeviceState::Ok,
    }
}

type Verdict<D> = (String, Option<D>, Result<Superblock, DeviceState>);

fn seat<D: Disk>(verdicts: Vec<Verdict<D>>, newest: Superblock, mended_superblocks: usize) -> DeviceSet<D> {
    let missing = |id: &DeviceId| Slot { id: *id, label: String::new(), state: DeviceState::Missing, device: None };
    let mut slots: Vec<Slot<D>> = newest.devices.iter().map(missing).collect();
    let mut strangers = Vec::new();
    let mut unseated = Vec::new();
    for (position, (label, disk, verdict)) in verdicts.into_iter().enumerate() {
        let state = match (verdict, disk) {
            (Ok(superblock), Some(disk)) => {
                let same_cut = (superblock.shards, superblock.segment_bytes) == (newest.shards, newest.segment_bytes);
                match slots.iter_mut().find(|slot| slot.id == superblock.device) {
                    // A sibling that the newest list no longer names, or that is cut otherwise, was replaced.
                    None => DeviceState::Foreign { site: superblock.site, node: superblock.node },
                    Some(_) if !same_cut => DeviceState::Foreign { site: superblock.site, node: superblock.node },
                    Some(slot) if slot.device.is_some() => DeviceState::Duplicate,
                    Some(slot) => {
                        *slot = Slot { label, state: DeviceState::Ok, device: Some((disk, superblock)), id: slot.id };
                        continue;
                    }
                }
            }
            (Ok(_), None) => DeviceState::Missing,
            (Err(state), _) => state,
        };
        unseated.push((position, label, state));
    }
    // The configuration keeps the order in which devices were formatted, so an empty place most likely belongs to the
    // device that is named there.
    for (position, label, state) in unseated {
        let empty = slots.get_mut(position).filter(|slot| slot.device.is_none() && slot.label.is_empty());
        match empty {
            Some(slot) if state != DeviceState::Duplicate => (slot.label, slot.state) = (label, state),
            _ => strangers.push(Stranger { label, state }),
        }
    }
    DeviceSet { slots, strangers, geometry: newest.geometry, shards: newest.shards, mended_superblocks }
}

/// Largest sealed chunk whose fragments fit a segment of this size beside their index.
pub(super) fn largest_chunk(geometry: Geometry, segment_bytes: u32) -> usize {
    // Header block, footer block, and one block of index.
    let room = u64::from(segment_bytes) - 3 * BLOCK_BYTES as u64;
    let (mut fits, mut too_large) = (0, MAX_CHUNK_SEALED_BYTES + 1);
    while too_large - fits > 1 {
        let middle = fits + (too_large - fits) / 2;
        match largest_record(geometry, middle) <= room {
            true => fits = middle,
            false => too_large = middle,
        }
    }
    fits
}
