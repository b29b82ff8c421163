//! What a store says of itself: devices, counters, events, and what it found when it opened.

use super::limits;
use farside_codec::ids::{ChunkId, DeviceId, NodeId, SiteId};
use std::collections::VecDeque;

/// How a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// It works.
    Ok,
    /// The superblocks name it and it is not there.
    Missing,
    /// It belongs to another site or node.
    Foreign {
        /// That site.
        site: SiteId,
        /// That node.
        node: NodeId,
    },
    /// Another device, listed before it, says that it is the same one.
    Duplicate,
    /// It is smaller than when it was formatted.
    Shrunken {
        /// Bytes when it was formatted.
        formatted_bytes: u64,
        /// Bytes now.
        bytes: u64,
    },
    /// Neither of its superblocks is good.
    Damaged,
    /// Its superblocks can't be read.
    Unreadable,
    /// It was formatted by a newer version.
    Newer {
        /// That version.
        version: u16,
    },
    /// A write or a flush failed since the start; it takes no writes until the next one.
    Failed,
    /// It was evicted since the start: nothing of the node is on it any more.
    Evicted,
}

impl std::fmt::Display for DeviceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Missing => f.write_str("missing"),
            Self::Foreign { site, node } => write!(f, "foreign: belongs to node {node} of site {site}"),
            Self::Duplicate => f.write_str("duplicate: another device has the same id"),
            Self::Shrunken { formatted_bytes, bytes } => {
                write!(f, "shrunken: {formatted_bytes} bytes when formatted, {bytes} now")
            }
            Self::Damaged => f.write_str("damaged: no good superblock"),
            Self::Unreadable => f.write_str("unreadable"),
            Self::Newer { version } => write!(f, "written by newer format version {version}"),
            Self::Failed => f.write_str("failed"),
            Self::Evicted => f.write_str("evicted"),
        }
    }
}

/// One device, as one shard sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Its id; `None` for a device that belongs to nobody here.
    pub id: Option<DeviceId>,
    /// Where it is, as the configuration names it.
    pub label: String,
    /// How it is.
    pub state: DeviceState,
    /// It is to go: it is read, and takes nothing new.
    pub leaving: bool,
    /// Bytes of this shard's zone that may hold fragments.
    pub bytes: u64,
    /// Bytes of segments in use.
    pub used_bytes: u64,
    /// Bytes of records that count.
    pub live_bytes: u64,
    /// Records that count.
    pub fragments: u64,
}

/// What a store counted since it opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Chunks stored.
    pub chunks_stored: u64,
    /// Puts of chunks that were here already.
    pub chunks_deduplicated: u64,
    /// Reads answered.
    pub reads: u64,
    /// Reads that had to rebuild fragments.
    pub degraded_reads: u64,
    /// Fragments whose header or checksums did not match, twice in a row.
    pub damaged_fragments: u64,
    /// Fragments that matched when they were read a second time.
    pub transient_mismatches: u64,
    /// Reads that a device refused.
    pub read_errors: u64,
    /// Writes and flushes that a device refused.
    pub write_errors: u64,
    /// Chunks that could not be read at all.
    pub corrupt_chunks: u64,
    /// Chunks removed by GC.
    pub chunks_collected: u64,
    /// Bytes moved by compaction.
    pub compacted_bytes: u64,
    /// Segments freed by compaction.
    pub freed_segments: u64,
    /// Events that nobody took in time.
    pub dropped_events: u64,
}

/// Something that an operator should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreEvent {
    /// A fragment is damaged. It is owed from now on.
    FragmentDamaged {
        /// The chunk.
        chunk: ChunkId,
        /// The fragment.
        fragment: u8,
        /// Where it was.
        device: DeviceId,
    },
    /// A device refused a write or a flush, and takes no more.
    DeviceFailed {
        /// The device.
        device: DeviceId,
        /// What it answered.
        error: farside_io::disk::DiskError,
    },
    /// A device refused a read; the answer came from other fragments.
    ReadRefused {
        /// The device.
        device: DeviceId,
        /// What it answered.
        error: farside_io::disk::DiskError,
    },
    /// The file system below a device has no space for what the device promised.
    DeviceFull {
        /// The device.
        device: DeviceId,
    },
    /// A chunk can't be read.
    ChunkCorrupt {
        /// The chunk.
        chunk: ChunkId,
    },
}

impl std::fmt::Display for StoreEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FragmentDamaged { chunk, fragment, device } => {
                write!(f, "fragment {fragment} of chunk {chunk} on device {device} is damaged; it is owed now")
            }
            Self::DeviceFailed { device, error } => write!(f, "device {device} failed: {error}; replace it"),
            Self::ReadRefused { device, error } => write!(f, "device {device} refused a read: {error}"),
            Self::DeviceFull { device } => {
                write!(f, "device {device} has less space than it was formatted with; free some below it")
            }
            Self::ChunkCorrupt { chunk } => write!(f, "chunk {chunk} is damaged beyond its redundancy"),
        }
    }
}

/// A bounded list of events.
#[derive(Debug, Default)]
pub(super) struct Events(VecDeque<StoreEvent>);

impl Events {
    pub(super) fn push(&mut self, event: StoreEvent, counters: &mut Counters) {
        match self.0.len() < limits::MAX_EVENTS {
            true => self.0.push_back(event),
            false => counters.dropped_events += 1,
        }
    }

    pub(super) fn take(&mut self) -> Vec<StoreEvent> {
        self.0.drain(..).collect()
    }
}

/// What a store found when it opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments loaded by their index.
    pub indexed_segments: u64,
    /// Segments that were scanned because they were never sealed.
    pub scanned_segments: u64,
    /// Segments whose header is damaged, and which were scanned.
    pub damaged_headers: u64,
    /// Segments whose index is damaged, and which were scanned.
    pub damaged_indexes: u64,
    /// Segments that a device refused to read. They are left alone.
    pub unreadable_segments: u64,
    /// Records that were being written when the power or the process went. None was acknowledged.
    pub torn_records: u64,
    /// Records that were durable once and are damaged.
    pub damaged_records: u64,
    /// Second copies, left by compaction that did not come to its end.
    pub duplicate_records: u64,
    /// Records that contradict another of their chunk.
    pub contradicting_records: u64,
    /// Fragments found.
    pub fragments: u64,
    /// Chunks found.
    pub chunks: u64,
    /// Chunks with fewer fragments than a put acknowledges: unfinished puts, or losses beyond the redundancy. 0 where
    /// chunks are spread over nodes, for then that says nothing; likewise the next.
    pub partial_chunks: u64,
    /// Chunks among them that can't be read.
    pub unreadable_chunks: u64,
}

/// How a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// Its devices in their order, then those that belong to nobody here.
    pub devices: Vec<DeviceStatus>,
    /// Chunks.
    pub chunks: u64,
    /// Stripes that are cut another way than new ones are.
    pub cut_otherwise: u64,
    /// Fragments on devices that work.
    pub fragments: u64,
    /// Fragments that should be there and are not, or are on devices that don't work. Where chunks are spread over nodes
    /// only the store's own part of that: those on devices that failed since the start. What else is missing of a chunk
    /// shows when its nodes are asked.
    pub owed_fragments: u64,
    /// Bytes of their records.
    pub owed_bytes: u64,
    /// Bytes of memory of the index.
    pub index_bytes: u64,
    /// Whether a default chunk would find space.
    pub writable: bool,
    /// Counters.
    pub counters: Counters,
    /// What was found at the start.
    pub recovery: RecoveryReport,
}
