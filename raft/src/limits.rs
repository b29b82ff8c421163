//! Every limit of this crate.

/// Records of one batch: what one flush makes durable at most.
pub const BATCH_BYTES: usize = 4 << 20;
/// One record: a command is at most one request's worth of deltas, plus framing.
pub const RECORD_BYTES: usize = farside_codec::limits::MAX_FRAME_BYTES - 4096;
/// Bytes that wait for the writer. Past it an append waits its turn in the group, which makes proposers wait.
pub const QUEUE_BYTES: usize = 32 << 20;
/// Entries in memory, of all groups of a shard, above which the largest group is asked for a snapshot. At twice that,
/// proposals are turned away.
pub const LIVE_BYTES: usize = 32 << 20;
/// Live entries take at most this part of the region before a snapshot is due.
pub const LIVE_PART: u64 = 8;

/// A checkpoint begins when so many of the region's eighths are in use.
pub const CHECKPOINT_EIGHTHS: u64 = 3;

/// Smallest region: what is in use when a checkpoint begins, a batch that was let through just before, twice the live
/// bytes at which snapshots are due, a batch's worth of space that is skipped at the region's end, and a record more.
pub const MIN_REGION_BYTES: u64 = 32 << 20;
const _: () = assert!(
    MIN_REGION_BYTES / 8 * CHECKPOINT_EIGHTHS + 2 * MIN_REGION_BYTES / LIVE_PART + 3 * BATCH_BYTES as u64
        <= MIN_REGION_BYTES
);
const _: () = assert!(RECORD_BYTES < BATCH_BYTES);
/// Entries that one request carries to a follower, but for a single one that is larger: it fits a frame with what wraps it.
pub const APPEND_BYTES: usize = 1 << 20;
/// Pieces of a snapshot.
pub const PIECE_BYTES: usize = 4 << 20;
/// Proposals of one group that wait for their entry to commit.
pub const PROPOSALS: usize = 4096;
/// Before a piece of a snapshot that could not be kept is tried again: GC frees space in rounds of seconds to minutes.
pub const SNAPSHOT_RETRY: std::time::Duration = std::time::Duration::from_secs(1);
