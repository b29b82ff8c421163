//! Frame kinds. Wire kinds are below 256, disk kinds above.

/// A [`crate::message::Request`].
pub const REQUEST: u16 = 1;
/// A [`crate::message::Reply`].
pub const REPLY: u16 = 2;
/// A chunk's sealed bytes, or a range of them.
pub const BODY: u16 = 3;
/// One batch of a shard's write-ahead log.
pub const WAL_BATCH: u16 = 256;
/// A fragment of a stripe.
pub const FRAGMENT: u16 = 257;
/// A device's superblock.
pub const SUPERBLOCK: u16 = 258;
/// A segment's header.
pub const SEGMENT: u16 = 259;
/// A sealed segment's index.
pub const SEGMENT_INDEX: u16 = 260;
/// A small file of a node's directory (identity, keys, configuration).
pub const FILE: u16 = 261;
/// A piece of a state machine's snapshot.
pub const SNAPSHOT: u16 = 262;
/// A small object of an external backup.
pub const BACKUP_OBJECT: u16 = 263;
/// A pack of an external backup.
pub const BACKUP_PACK: u16 = 264;
