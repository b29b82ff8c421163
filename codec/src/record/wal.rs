//! Records of a shard's write-ahead log, and the fixed part of the batches that carry them.

use crate::delta::ChunkRef;
use crate::ids::{GroupId, NodeId};
use crate::{choice, record};
use bytes::Bytes;

record!(
    /// A place in a group's Raft log.
    LogPosition {
        /// Term of the leader that wrote it.
        term: u64,
        /// That leader.
        leader: NodeId,
        /// Counted from 0.
        index: u64,
    }
);

impl Copy for LogPosition {}

record!(
    /// The voters of a group, as Raft's joint configurations.
    Membership {
        /// One set of nodes, or two while they change.
        configurations: Vec<Vec<NodeId>>,
        /// Every node, voter or learner.
        nodes: Vec<NodeId>,
    }
);

record!(
    /// A membership and where in the log it was decided.
    StoredMembership {
        /// Where; `None` for the one before any.
        position: Option<LogPosition>,
        /// Which.
        membership: Membership,
    }
);

choice!(
    /// What a log entry holds.
    EntryPayload {
        /// Nothing: a leader's first entry.
        Blank = 0,
        /// A command of the group's state machine.
        Command(Bytes) = 1,
        /// New voters.
        Membership(Membership) = 2,
    }
);

record!(
    /// An entry in its place.
    Entry {
        /// Its place.
        position: LogPosition,
        /// What it holds.
        payload: EntryPayload,
    }
);

record!(
    /// A vote, cast or won.
    Vote {
        /// Its term.
        term: u64,
        /// For whom.
        leader: NodeId,
        /// A quorum gave it.
        committed: bool,
    }
);

impl Copy for Vote {}

record!(
    /// A snapshot, kept as chunks.
    SnapshotRecord {
        /// Last entry that it covers.
        last: Option<LogPosition>,
        /// Voters then.
        membership: StoredMembership,
        /// Its pieces in order.
        pieces: Vec<ChunkRef>,
    }
);

choice!(
    /// One record of the write-ahead log.
    WalRecord {
        /// Appends an entry, or puts it in the place of one of the same index.
        Append((GroupId, Entry)) = 1,
        /// Casts a vote.
        Vote((GroupId, Vote)) = 2,
        /// Everything up to here is committed.
        Committed((GroupId, Option<LogPosition>)) = 3,
        /// Drops what comes after this index (`None`: everything).
        TruncateAfter((GroupId, Option<u64>)) = 4,
        /// Drops everything up to here; a snapshot covers it.
        Purge((GroupId, LogPosition)) = 5,
        /// The group's newest snapshot.
        Snapshot((GroupId, SnapshotRecord)) = 6,
        /// From here on the node takes part in the group under this member's number, with nothing of what it had of it
        /// before; 0: not at all.
        Member((GroupId, NodeId)) = 7,
    }
);

record!(
    /// Start of a batch's payload. A batch is padded with zeros to 4 KiB.
    BatchHead {
        /// Whose log this is: made of the site, the node, the shard and a secret of the node.
        owner: [u8; 16],
        /// Where in the region it was written: a batch found elsewhere was misdirected, by a write or a read.
        offset: u64,
        /// Counts the openings of the log from 1; of two batches of one number, that of the later opening counts.
        opening: u64,
        /// CRC32 of the payload of the batch before; a batch that does not fit it is left over from an earlier lap.
        previous_crc: u32,
        /// Oldest batch that still holds something alive.
        tail: u64,
        /// Every batch up to this one was durable when this one was written.
        durable: u64,
        /// In the batch that ends a checkpoint, its first batch. In its other batches, the number behind the last batch before it that
        /// counts. 0: of none.
        checkpoint: u64,
        /// The checkpoint's records, which come first.
        checkpoint_records: u32,
        /// The checkpoint's last part. From here on it stands for all that came before it.
        checkpoint_ends: bool,
        /// All records that follow.
        records: u32,
    }
);

impl BatchHead {
    /// Bytes of a batch head; every field has a fixed length.
    pub const BYTES: usize = 69;
}
