//! Every limit of a node, in one place.

use std::time::Duration;

/// Shards of one node: more cores than this belong to several nodes.
pub const MAX_SHARDS: usize = 64;
/// Smallest arena a shard can work in: a handful of 16 MiB chunks at wide geometries.
pub const MIN_POOL_BYTES: usize = 64 << 20;
/// Messages that wait for another shard. Past it the caller waits: backpressure, not memory.
pub const SHARD_QUEUE: usize = 1024;
/// Deltas that one command lets go of: it is applied in one go, while the group waits.
pub const DISCARD_DELTAS: u32 = 512;
/// Seconds for which what a peer lacks is kept, where nobody has said anything: a week.
pub const HOLD_SECONDS: u64 = 7 * 86_400;
/// The part of what the site takes that a log may hold for a peer, where nobody has said anything: a quarter.
pub const HOLD_PART: u64 = 4;
/// What is counted at once at most of the time for which a peer has lacked something, or twice the time between rounds of GC.
pub const HOLD_STEP: Duration = Duration::from_secs(3600);
/// How often a log group closes time while it is written to.
pub const CLOSE_INTERVAL: Duration = Duration::from_millis(200);
/// How often where nothing else is committed.
pub const CLOSE_IDLE: Duration = Duration::from_secs(2);
/// How soon peers hear of it, where it is all that there is to hear.
pub const CLOSED_LOOK: Duration = Duration::from_millis(500);
/// How often the state file gets a durable checkpoint while there is something new.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes that must be free where a node's directory lies before it takes writes: the state file's cache, which a
/// checkpoint may have to write out, and what may follow until the next look.
pub const STATE_ROOM_BYTES: u64 = 2 * crate::state::limits::CACHE_BYTES as u64 + (16 << 20);
/// How long a returning home asks its peers whether it is still home before it accepts writes.
pub const FENCE_CHECK: Duration = Duration::from_secs(5);
/// A switchover stops a log's writers only once its next home lacks no more than this of it: so many deltas,
pub const SWITCH_DELTAS: u64 = 256;
/// and so many of their bytes and their chunks'.
pub const SWITCH_BYTES: u64 = 64 << 20;
/// How long an order of a switchover waits for the next home to come so near. Whoever gave it repeats it.
pub const SWITCH_NEAR: Duration = Duration::from_secs(2);
/// How long it waits for a log in transit.
pub const SWITCH_TRANSIT: Duration = Duration::from_secs(4);
/// How long one order takes at most, whatever there is to move: shorter than a client's patience.
pub const SWITCH_ORDER: Duration = Duration::from_secs(10);
/// Logs that change their home at the same time.
pub const SWITCHES: usize = 16;
/// Seconds of a log's home lease: the shortest is renewed often enough that two answers may be lost,
pub const LEASE_LEAST: u64 = 4;
/// and the longest is what an operator may have to wait before a failover that is not forced.
pub const LEASE_MOST: u64 = 3600;
/// How long a shard may take to answer a status question; status answers without it after that.
pub const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// How long a silent node is left alone before somebody asks it again.
pub const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often a call that waits for a node looks whether anything comes from it.
pub const LISTEN: Duration = Duration::from_millis(50);
/// Looks after which it is asked whether it is still there, while it says nothing.
pub const LISTEN_ASK: u32 = 6;
/// Looks after which it counts as silent, however long the answer itself may take. Whoever lives acknowledges what comes
/// within 25 ms (RFC 9000, 18.2), so this is for nodes that are starved of their processor, not for distance. A put may
/// meet this three times one after the other while its group elects a leader beside it: writers are held up for less than
/// three seconds.
pub const LISTEN_MOST: u32 = 18;
/// Silence after which a connection to a node is given up, long before QUIC does: whoever died and came back at the same
/// address does not know it.
pub const HANG_UP: Duration = Duration::from_millis(1500);
/// How long a node of the site may take over a Raft message.
pub const RAFT_PATIENCE: Duration = Duration::from_millis(1000);
/// How long a group may take over a heartbeat that came with those of others: less than is waited for it.
pub const BEAT_PATIENCE: Duration = Duration::from_millis(50);
/// How often everybody else has their turn before heartbeats that are due leave: more often than they pass from task to
/// task before they come.
pub const BEAT_YIELDS: usize = 8;
/// How long over one that carries a piece of a snapshot.
pub const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(20);
/// How long a node of the site may take over a short question.
pub const NODE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a request waits for a group to find its leader: longer than an election, shorter than a client's patience.
pub const ROUTE_PATIENCE: Duration = Duration::from_secs(5);
/// Before a leader is looked for again.
pub const ROUTE_PAUSE: Duration = Duration::from_millis(50);
/// How long a node may take over fragments.
pub const FRAGMENT_PATIENCE: Duration = Duration::from_secs(4);
/// How long the slower nodes are waited for once as many fragments are durable as a put acknowledges.
pub const PUT_GRACE: Duration = Duration::from_millis(500);
/// How long nodes are waited for while too few fragments are durable, before others are asked to stand in.
pub const PUT_LATE: Duration = Duration::from_millis(800);
/// How often the fragments of a put are given to other nodes than those that did not take them.
pub const PUT_ROUNDS: usize = 4;
/// How long a read waits for the fragments that it wants before it asks for others.
pub const HEDGE: Duration = Duration::from_millis(150);
/// Chunks that wait to be looked at by repair at once; past that everything is.
pub const OWED_QUEUE: usize = 4096;
/// Chunks that repair looks at together.
pub const REPAIR_BATCH: usize = 64;
/// Chunks that a shard repairs at the same time.
pub const REPAIRS: usize = 4;
/// Between two looks at what is owed.
pub const REPAIR_PAUSE: Duration = Duration::from_millis(200);
/// How often a node compares its clock with the others'.
pub const CLOCK_LOOK: Duration = Duration::from_secs(2);
/// How long a chunk that waits for a peer's limit goes without looking whether the limit has changed.
pub const PACE_LOOK: Duration = Duration::from_millis(500);
/// Lost chunks that a shard gets back from peers at a time: each lies in memory as a whole.
pub const REFETCHES: usize = 2;
/// How long a peer may take over one chunk: the largest one at half a megabyte a second.
pub const REFETCH_PATIENCE: Duration = Duration::from_secs(30);
/// How long a chunk is not asked for again that no peer could give.
pub const REFETCH_REST: Duration = Duration::from_secs(10);
/// Chunks a shard remembers of which that is so.
pub const REFETCH_RESTING: usize = 4096;
/// Chunks that a shard is asking for, or about to: each has a reader who waits.
pub const REFETCH_FLIGHTS: usize = 256;
/// Chunks that are to be asked for in the background.
pub const REFETCH_WANTED: usize = 16_384;
/// How often a shard looks whether there are any.
pub const REFETCH_LOOK: Duration = Duration::from_millis(500);
/// How many are asked for before it looks again.
pub const REFETCH_BATCH: usize = 64;
/// How often everything is looked at though nothing is known to have changed.
pub const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How soon everything is looked at again while something is owed.
pub const SWEEP_AGAIN: Duration = Duration::from_secs(2);
/// How often a shard looks whether it lacks fragments that it can make up for by itself.
pub const MEND_LOOK: Duration = Duration::from_secs(1);
/// Before it looks again where a look led to nothing; each such look doubles it.
pub const MEND_AGAIN: Duration = Duration::from_secs(4);
/// As long as that at most.
pub const MEND_AGAIN_MOST: Duration = Duration::from_secs(600);
/// Chunks looked at in one step of mending: each may cost a draw.
pub const MEND_STEP: usize = 512;
/// How often it is looked whether anything is to be moved from device to device.
pub const MOVE_LOOK: Duration = Duration::from_secs(1);
/// Chunks looked at in one step of that: each may cost a draw.
pub const MOVE_STEP: usize = 64;
/// Fragments that a shard moves at the same time.
pub const MOVES: usize = 4;
/// How long a device that is to go waits for other nodes to take what belongs to them, while none of it goes.
pub const LEAVE_PATIENCE: Duration = Duration::from_secs(20);
/// How long the node of a device may take to weigh whether it may go, for which it asks all others.
pub const LEAVE_ORDER: Duration = Duration::from_secs(6);
/// Chunks passed over in one step of scrubbing.
pub const SCRUB_STEP: usize = 8192;
/// Before a fragment is read again that its device would not read.
pub const SCRUB_SECOND_LOOK: Duration = Duration::from_secs(2);
/// After a start, before scrubbing begins or goes on.
pub const SCRUB_AFTER: Duration = Duration::from_secs(10);
/// From the beginning of one pass over everything to that of the next, if it is over by then.
pub const SCRUB_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether a pass is due.
pub const SCRUB_LOOK: Duration = Duration::from_secs(1);
/// How often it is written down how far a pass is; that far it goes back after a crash.
pub const SCRUB_SAVE: Duration = Duration::from_secs(30);
/// After an error that ended a pass before its time, which then goes on.
pub const SCRUB_REST: Duration = Duration::from_secs(60);
/// Between two parts of a pass, of which there are 256.
pub const SCRUB_PAUSE: Duration = Duration::from_millis(20);
/// Part of a shard's time that scrubbing takes, in percent, unless node.toml says something else.
pub const DEFAULT_SCRUB_PERCENT: u8 = 5;
/// Chunks in one answer to a keeper.
pub const WALK_CHUNKS: u32 = 4096;
/// How often a node says that it is there.
pub const BEAT: Duration = Duration::from_millis(500);
/// How long a node may be silent before it counts as dead, unless node.toml says something else.
pub const DEFAULT_DEAD_AFTER_SECONDS: u64 = 30;
/// A leader that was held up for so long itself knows nothing about the silence of others.
pub const HELD_UP: Duration = Duration::from_secs(2);
/// How long a step towards a group's members is waited for.
pub const STEP_PATIENCE: Duration = Duration::from_secs(5);
/// How often leaders look after the members of their groups.
pub const TEND: Duration = Duration::from_millis(200);
/// How often a node that is the only one of its site looks whether it still is.
pub const ALONE_LOOK: Duration = Duration::from_secs(1);
/// How long a node leads a group before it hands it over to whoever is to lead it: long enough to have compared clocks.
pub const LEADS_FIRST: Duration = Duration::from_secs(5);
/// How long a leader that could not hand over leads on before it tries again.
pub const HAND_OVER_REST: Duration = Duration::from_secs(10);
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
/// How long certificates of operators are good, unless they are issued for a time.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long certificates of nodes are good, unless node.toml says something else: they are issued anew after two thirds of it.
pub const NODE_CERTIFICATE_SECONDS: u64 = 90 * 86_400;
/// How often a site looks whether its peers know where its nodes are.
pub const ENDPOINTS_LOOK: Duration = Duration::from_secs(1);
/// How often a node looks after its certificates, and its site's authority.
pub const AUTHORITY_LOOK: Duration = Duration::from_millis(500);
/// How long an identity that an operator asks for may be good at most.
pub const MAX_IDENTITY_LIFE: Duration = CERTIFICATE_LIFE;
/// Identities in one answer: a quarter of a MiB.
pub const IDENTITIES_LISTED: u32 = 1024;
/// Identities whose first use waits to be listed at one shard; whoever comes beyond is listed when it comes again.
pub const UNLISTED: usize = 64;
/// How often a shard looks whether a caller's certificate has expired while it is connected.
pub const EXPIRY_LOOK: Duration = Duration::from_secs(1);
/// How often a node that has just started asks how far its control group is until it knows.
pub const LEARN_PAUSE: Duration = Duration::from_millis(50);
/// An identity is said to expire soon when less than a third of its life is left, but not before this.
pub const EXPIRES_SOON: Duration = Duration::from_secs(60 * 86_400);
/// Identities that one alert names.
pub const EXPIRES_NAMED: usize = 5;
/// How often a node looks whether it has to lead a round of GC.
pub const GC_LOOK: Duration = Duration::from_millis(500);
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

/// How long what a backup reads is kept after it was last asked for: it renews several times in that time.
pub const BACKUP_HOLD: Duration = Duration::from_secs(600);
/// How often a node looks whether a backup is due.
pub const BACKUP_LOOK: Duration = Duration::from_secs(5);
/// How long it rests after one that failed: a store that is away is not asked all the time.
pub const BACKUP_REST: Duration = Duration::from_secs(60);
/// How often chunks go to a target between two backups, at most.
pub const CHUNK_PASS: Duration = Duration::from_secs(60);
/// States that may be read on one shard at once: each keeps a view of the state file open.
pub const DUMPS: usize = 4;
/// A state that nobody has asked for so long is read by nobody any more. Between two questions a store may be slow to take a pack.
pub const DUMP_PATIENCE: Duration = Duration::from_secs(300);
/// Bytes of pieces after which an answer ends: a shard reads so much of its state file in about a millisecond. With another piece and
/// its last row it stays within a frame.
pub const DUMP_REPLY_BYTES: usize = 256 << 10;
/// What waits for a thread that fills devices: two packs' worth of the default chunks.
pub const FILL_QUEUE: usize = 16;
/// Chunks that such a thread writes at once: as many as keep devices busy while others are flushed.
pub const FILL_CHUNKS: usize = 16;
