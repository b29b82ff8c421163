//! Every limit of a node, in one place.

use std::time::Duration;

/// Shards of one node: more cores than this belong to several nodes.
pub const MAX_SHARDS: usize = 64;
/// Smallest arena a shard can work in: a handful of 16 MiB chunks at wide geometries.
pub const MIN_POOL_BYTES: usize = 64 << 20;
/// Messages that wait for another shard. Past it the caller waits: backpressure, not memory.
pub const SHARD_QUEUE: usize = 1024;
/// How often a log group closes time, idle too.
pub const CLOSE_INTERVAL: Duration = Duration::from_millis(200);
/// How often the state file gets a durable checkpoint while there is something new.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes that must be free where a node's directory lies before it takes writes: the state file's cache, which a
/// checkpoint may have to write out, and what may follow until the next look.
pub const STATE_ROOM_BYTES: u64 = 2 * crate::state::limits::CACHE_BYTES as u64 + (16 << 20);
/// How long a returning home asks its peers whether it is still home before it accepts writes.
pub const FENCE_CHECK: Duration = Duration::from_secs(5);
/// How long a shard may take to answer a status question; status answers without it after that.
pub const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// How often a sender greets an idle peer, so that the peer knows the head it would fail over to.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a failover waits for the old home before it counts as silent.
pub const PROBE: Duration = Duration::from_secs(2);
/// How long a site waits for the maker of a token that it was given.
pub const INTRODUCTION: Duration = Duration::from_secs(5);
/// How long a peer may be out of reach before status raises an alert: longer than its node takes to start.
pub const UNREACHABLE_ALERT: Duration = Duration::from_secs(5);
/// How long a peer token is good.
pub const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long certificates of nodes and administrators are good.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Chunks collected in one step of GC, so that no step holds a shard for long.
pub const GC_STEP_CHUNKS: usize = 1024;
/// Steps of compaction in one round of GC: barriers go on even if there is always more to move.
pub const COMPACT_STEPS: usize = 1024;
/// Versions pruned by one command.
pub const PRUNE_STEP: u32 = 1024;
/// Deltas that one read may return.
pub const READ_DELTAS: usize = 1024;
/// Versions that one listing may return.
pub const LIST_VERSIONS: u32 = 4096;
/// Encoded bytes that one listing may return.
pub const LIST_BYTES: usize = 2 << 20;
/// Log groups of a site, unless `init` is told otherwise: enough for eight shards to share.
pub const DEFAULT_GROUPS: u32 = 8;
/// WAL bytes of a zone, unless the zone is too small: holds several snapshots' worth of deltas.
const WAL_BYTES: u64 = 256 << 20;
/// A zone's WAL takes at most this part of it.
const WAL_PART: u64 = 8;

/// WAL bytes of a zone of `zone_bytes`.
pub fn wal_bytes(zone_bytes: u64) -> u64 {
    (zone_bytes / WAL_PART).clamp(farside_raft::limits::MIN_REGION_BYTES, WAL_BYTES)
}
