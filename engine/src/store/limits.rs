//! Every limit of the chunk store.

use farside_codec::limits::{BLOCK_BYTES, MAX_CHUNK_SEALED_BYTES};
use farside_codec::record::segment::INDEX_ENTRY_BYTES;

/// Segment of a large zone: a thousand default fragments at 64 KiB, sixty-four of a MiB.
pub const SEGMENT_BYTES: u32 = 64 << 20;
/// A zone is cut in at least this many segments, so that the reserve below stays a small part of it.
pub const MIN_ZONE_SEGMENTS: u64 = 16;
/// Smallest segment that `format_devices` chooses by itself.
pub const MIN_SEGMENT_BYTES: u32 = 1 << 20;
/// Largest segment: its records' places fit the index in memory, and several of its indexes a small arena.
pub const MAX_SEGMENT_BYTES: u32 = 256 << 20;
/// The next segment is begun when so many quarters of the active one are taken: early enough for two writes and a flush,
/// late enough that a start seldom finds two segments without an index.
pub const BEGIN_NEXT_AT: u32 = 3;
/// Free segments of a device that clients' chunks leave alone: one for system pieces, one for compaction.
pub const CLIENT_RESERVE_SEGMENTS: usize = 2;
/// Free segments of a device that system pieces leave to compaction.
pub const SYSTEM_RESERVE_SEGMENTS: usize = 1;
/// Arena for headers and indexes: as many of the largest index as this, apart from the pool, so that a stripe which
/// holds a buffer never waits for another.
pub const METADATA_INDEXES: usize = 4;
/// BLAKE3 and CRC32 run over pieces of this size while they are in the second-level cache.
pub const HASH_BYTES: usize = 64 << 10;
/// Chunks that are read from devices at once; more wait in line.
pub const MAX_READS: usize = 64;
/// A range that begins this early in a fragment is read together with the header area in front of it.
pub const JOINT_READ_BYTES: usize = 128 << 10;
/// Times that a read looks a chunk up again because compaction moved it meanwhile.
pub const MAX_READ_RESTARTS: usize = 8;
/// Times that fragments whose device failed under them are given to other devices.
pub const MAX_PLACEMENT_ROUNDS: usize = 3;
/// Events kept until somebody takes them; later ones are only counted.
pub const MAX_EVENTS: usize = 1024;
/// Segments of a device that are examined at once when a store opens.
pub const OPEN_DEPTH: usize = 8;
/// Bytes of one read when a segment is scanned.
pub const SCAN_BYTES: usize = 1 << 20;
/// Bytes at a segment's end that are read at first: holds the index of a segment of large fragments.
pub const TAIL_BYTES: usize = 64 << 10;
/// Chunks that one call to `collectable` looks at.
pub const COLLECT_SCAN: usize = 65_536;
/// Live bytes that one compaction step moves, up to one record more.
pub const COMPACT_STEP_BYTES: usize = 8 << 20;
/// A sealed segment is compacted when at most this many of its 256 parts live.
pub const COMPACT_LIVE_256: u64 = 192;
/// The same when free segments run short.
pub const COMPACT_LIVE_SHORT_256: u64 = 248;
/// So many calls of [`relieve`](super::Store::relieve) do nothing after one that achieved nothing.
pub const RELIEF_RESTS: u32 = 600;

const _: () =
    assert!(METADATA_INDEXES * (MAX_SEGMENT_BYTES as usize / (2 * BLOCK_BYTES)) * INDEX_ENTRY_BYTES <= 8 << 20);
const _: () = assert!(SEGMENT_BYTES as usize > 2 * MAX_CHUNK_SEALED_BYTES);
const _: () = assert!(CLIENT_RESERVE_SEGMENTS > SYSTEM_RESERVE_SEGMENTS);
const _: () = assert!(MAX_CHUNK_SEALED_BYTES < 1 << super::index::SEALED_BITS);
