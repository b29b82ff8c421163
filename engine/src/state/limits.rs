//! Every limit of the state, in one place.

use farside_codec::limits::{MAX_DELTA_BYTES, MAX_FRAME_BYTES};

/// redb's own cache of pages: hot tables of a shard, within the node's memory bound.
pub const CACHE_BYTES: usize = 24 << 20;
/// A version with all of its extents: it is read in one reply. About 500,000 chunks, 2 TB at the default chunk size.
pub const MAX_VERSION_BYTES: usize = 3 << 20;
/// Encoded key epochs of one log or tenant: a thousand rotations and more. They are rewritten with every delta.
pub const MAX_EPOCHS_BYTES: usize = 128 << 10;
/// Generations of one log: a change of home a day for eleven years. They are rewritten with every delta, 72 bytes each.
pub const MAX_GENERATIONS: usize = 4096;
/// Tenants of a site. All of them are listed in one reply and kept in memory.
pub const MAX_TENANTS: usize = 4096;
/// Logs of a site, for the same reasons.
pub const MAX_LOGS: usize = 4096;
/// Failovers to a cut that have begun and are not over: one for each site that is lost, and some.
pub const MAX_CUT_PLANS: usize = 16;
/// Peers of a site.
pub const MAX_PEERS: usize = 64;
/// Limits of one peer: hours of a day that differ.
pub const MAX_PEER_LIMITS: usize = 8;
/// Nodes of a site, with those that have left: each is in memory everywhere, with its devices.
pub const MAX_NODES: usize = 256;
/// Devices of one node.
pub const MAX_DEVICES: usize = 128;
/// Tokens that wait at once: each is a day's worth of trust in whoever reads it.
pub const MAX_TOKENS: usize = 64;
/// Identities that are listed: an operator's a day for ten years. Each is in memory everywhere.
pub const MAX_IDENTITIES: usize = 4096;
/// How long one that has expired stays listed.
pub const EXPIRED_KEPT_MS: u64 = 30 * 86_400_000;
/// Rows that a prune looks at for each version that it may drop: a peer that lags keeps the rest from going.
pub const PRUNE_SCAN_FACTOR: usize = 16;
/// A snapshot's piece ends with the row that brings it here; a row is below 1 MiB, so a piece stays below 4 MiB.
pub const PIECE_BYTES: usize = 3 << 20;
/// A piece of a dump ends with the row that brings it here, whatever its key: two of them and a row fit into one reply.
pub const DUMP_PIECE_BYTES: usize = 512 << 10;
/// A piece of a dump ends with one row in 256, drawn by its key: some tens of KiB, so that little is backed up again where
/// little has changed, and the list of pieces stays a thousandth of the state.
pub const DUMP_CUT_MASK: u32 = 0xff;
/// Backups that may read at once.
pub const MAX_BACKUP_HOLDS: usize = 16;
/// Places to which a site's backups go.
pub const MAX_BACKUP_TARGETS: usize = 16;
/// Entries of one site's audit logs, its own or a peer's: at a hundred orders a day, seven years. Some 250 bytes each, so that
/// all of them are 60 MiB of state, which every snapshot of the control group carries.
pub const MAX_AUDIT_ENTRIES: u64 = 250_000;
/// Entries past that which notes may still take: a failover must not be held up by a log that is full.
pub const AUDIT_RESERVE: u64 = 50_000;
/// From here on status says that the audit logs fill up: three quarters, so that years are left.
pub const AUDIT_ALERT: u64 = MAX_AUDIT_ENTRIES / 4 * 3;
/// Chains of one site's audit logs: one for each of its tenants and incarnations that wrote something. Their heads are told in
/// one reply.
pub const MAX_AUDIT_CHAINS: u64 = 16_384;
/// An entry of an audit log; the longest names a URL.
pub const MAX_AUDIT_ENTRY_BYTES: usize = 16 << 10;
/// Notes that are written down at once: a part of a failover.
pub const MAX_AUDIT_NOTES: usize = 256;
/// Orders that are remembered, so that one which is committed twice counts once. Whoever repeats one does so within seconds.
pub const AUDIT_ORDERS: u64 = 256;
/// Rows deleted in one transaction while a state is replaced.
pub const CLEAR_ROWS: usize = 4096;

const _: () = assert!(MAX_AUDIT_CHAINS as usize * 160 < MAX_FRAME_BYTES);
const _: () = assert!(MAX_VERSION_BYTES + MAX_DELTA_BYTES < MAX_FRAME_BYTES);
const _: () = assert!(MAX_GENERATIONS * 72 + MAX_EPOCHS_BYTES < 1 << 20);
const _: () = assert!(PIECE_BYTES + (1 << 20) <= farside_raft::limits::PIECE_BYTES);
/// Encoded bytes of deltas that one command lets go of, and one delta more: each may name thousands of chunks, and all
/// members of the group apply the command in one go.
pub const DISCARD_BYTES: usize = 1 << 20;
