//! Every limit of backups, in one place.

use farside_codec::backup::{MAX_OBJECT_BYTES, MAX_PACK_BYTES};
use std::time::Duration;

/// Chunks that are read from the site at once: enough to keep several nodes busy, and few enough for clients to go first.
pub const CHUNKS_AT_ONCE: usize = 8;
/// Packs on their way to the target at once. Each is up to [`MAX_PACK_BYTES`] in memory.
pub const PACKS_AT_ONCE: usize = 3;
/// Packs after which their index is written: what an interrupted backup has stored before that is not stored again.
pub const PACKS_PER_INDEX: usize = 32;
/// Entries of one index: 16 MiB of them.
pub const INDEX_ENTRIES: usize = 350_000;
/// An index below this many bytes is small.
pub const SMALL_INDEX_BYTES: u64 = 2 << 20;
/// Small indexes of one backup, past which they become one: each costs whoever reads them a request.
pub const SMALL_INDEXES: usize = 32;
/// How often the hold on what is read is renewed: several times before it ends.
pub const RENEW: Duration = Duration::from_secs(120);
/// How often a group's state is read from the start again, where its leader changed in the middle.
pub const DUMP_TRIES: usize = 5;
/// How often a backup is made anew whose packs were doomed while it ran.
pub const RUN_TRIES: usize = 3;
/// How long whoever is at work may say nothing. A backup says so anew several times in that time.
pub const WORKER_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often it does.
pub const WORKER_RENEW: Duration = Duration::from_secs(4 * 3600);
/// How often a manifest is tried under the next number, where others complete backups as well.
pub const MANIFEST_TRIES: usize = 16;
/// How often an object is got again that does not open: a store or a network may damage what it delivers.
pub const READ_TRIES: usize = 5;
/// Whole packs that a reader keeps.
pub const PACKS_KEPT: usize = 3;
/// Entries of one pack from which on it is read whole.
pub const WHOLE_PACK_ENTRIES: usize = 4;
/// Manifests that a target can list.
pub const MAX_MANIFESTS: usize = 1 << 20;

const _: () = assert!(MAX_PACK_BYTES as u64 <= super::target::limits::MAX_PUT_BYTES);
const _: () = assert!(MAX_OBJECT_BYTES as u64 <= super::target::limits::MAX_PUT_BYTES);
