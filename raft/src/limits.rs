//! Every limit of this crate.

/// Records of one batch: what one flush makes durable at most.
pub const BATCH_BYTES: usize = 4 << 20;
/// One record: a command is at most one request's worth of deltas, plus framing.
pub const RECORD_BYTES: usize = farside_codec::limits::MAX_FRAME_BYTES - 4096;
/// Bytes that wait for the writer. Past it an append waits its turn in the group, which makes proposers wait.
pub const QUEUE_BYTES: usize = 32 << 20;
/// Entries in memory, of all groups of a shard, above which the largest group is asked for a snapshot.
pub const LIVE_BYTES: usize = 32 << 20;
/// Live entries take at most this part of the region before a snapshot is due.
pub const LIVE_PART: u64 = 8;
/// At so many halves of the live bytes at which a snapshot is due, proposals are turned away.
pub const PROPOSAL_HALVES: u64 = 4;
/// At so many halves a follower takes in no more entries: later than leaders, or one of them could wait for what another
/// one's proposals have filled.
pub const FOLLOWER_HALVES: u64 = 5;

/// A checkpoint begins when so many of the region's eighths are in use.
pub const CHECKPOINT_EIGHTHS: u64 = 3;
/// What a checkpoint holds besides live entries: headers of batches, votes, lists of snapshots' pieces.
pub const CHECKPOINT_REST: u64 = 2 << 20;

/// Smallest region: what is in use when a checkpoint begins, a batch that was let through just before, the most that is
/// ever alive, and a batch's worth of space that is skipped at the region's end. So a checkpoint always fits.
pub const MIN_REGION_BYTES: u64 = 32 << 20;
const MOST_LIVE: u64 = MIN_REGION_BYTES / LIVE_PART / 2 * FOLLOWER_HALVES;
const _: () = assert!(
    MIN_REGION_BYTES / 8 * CHECKPOINT_EIGHTHS + MOST_LIVE + CHECKPOINT_REST + 2 * BATCH_BYTES as u64
        <= MIN_REGION_BYTES
);
// What a checkpoint leaves behind must not make the next one due.
const _: () = assert!(MOST_LIVE + CHECKPOINT_REST <= MIN_REGION_BYTES / 8 * CHECKPOINT_EIGHTHS);
const _: () = assert!(PROPOSAL_HALVES < FOLLOWER_HALVES);
const _: () = assert!(RECORD_BYTES < BATCH_BYTES);
/// Entries that one request carries to a follower, but for a single one that is larger: it fits a frame with what wraps it.
pub const APPEND_BYTES: usize = 1 << 20;
/// Pieces of a snapshot.
pub const PIECE_BYTES: usize = 4 << 20;
/// Proposals of one group that wait for their entry to commit.
pub const PROPOSALS: usize = 4096;
/// How often a proposal that waits for its turn looks whether this node leads still: well within an election.
pub const TURN_LOOK: std::time::Duration = std::time::Duration::from_millis(100);
/// How long it waits for it.
pub const TURN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// Before a piece of a snapshot that could not be kept is tried again: GC frees space in rounds of seconds to minutes.
pub const SNAPSHOT_RETRY: std::time::Duration = std::time::Duration::from_secs(1);
