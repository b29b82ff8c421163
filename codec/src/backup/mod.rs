//! External backups: what lies in an object store for the day when both sites are gone, and how it is sealed.
//!
//! ```text
//! backup key       = HKDF(system key, "backup" | site)                                one per site
//! object key       = HKDF(backup key, "object" | kind | name | 32 random bytes)       one per small object
//! pack key         = HKDF(backup key, "pack" | pack id, 16 random bytes)              one per pack, entries counted
//! ```
//! Each key seals one object (a nonce of zeroes) or the entries of one pack (their number is the nonce), so no nonce repeats under
//! one key. An object's name enters its key: an object under another's name does not open. Pure: random bytes come in.
//! DISK.md holds the byte tables.

mod manifest;
mod object;
mod pack;

pub use manifest::{Doomed, GroupDump, Manifest, ObjectReference, PackEntry, PackIndex, SiteMark, Work, Worker};
pub use object::{ObjectKind, open_object, seal_object};
pub use pack::{EntryKind, PackDirectory, PackWriter, SealedPack, TAIL_BYTES, open_entry, read_pack, read_tail};

use crate::DecodeError;
use crate::ids::SiteId;
use crate::limits;
use crate::seal::hkdf;
use zeroize::Zeroizing;

/// Largest pack: what a store takes in one request, and what is uploaded again where that request fails.
pub const MAX_PACK_BYTES: usize = 64 << 20;
/// A pack is closed once it is larger than this. With a chunk of the largest size on top it stays below
/// [`MAX_PACK_BYTES`].
pub const PACK_TARGET_BYTES: usize = 32 << 20;
/// Entries of one pack, small ones: its directory stays below 1 MiB.
pub const MAX_PACK_ENTRIES: usize = 16_384;
/// Largest small object: a manifest of ten million objects, an index of a million chunks.
pub const MAX_OBJECT_BYTES: usize = 64 << 20;

const _: () = assert!(PACK_TARGET_BYTES + limits::MAX_CHUNK_SEALED_BYTES + (2 << 20) < MAX_PACK_BYTES);
const _: () = assert!(MAX_PACK_ENTRIES <= limits::MAX_LIST);

/// Why bytes from a store are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupError {
    /// Not laid out as anything that was ever written there.
    Layout(DecodeError),
    /// Laid out right, but not sealed with this key for this place, or changed since.
    NotAuthentic,
    /// It opened, and what was inside is not what its name says.
    Contents,
}

impl std::fmt::Display for BackupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Layout(error) => write!(f, "not a backup's bytes: {error}"),
            Self::NotAuthentic => f.write_str("it does not open: it was changed, or belongs to another key or place"),
            Self::Contents => f.write_str("it opens, and holds something else than its name says"),
        }
    }
}

impl std::error::Error for BackupError {}

impl From<DecodeError> for BackupError {
    fn from(error: DecodeError) -> Self {
        Self::Layout(error)
    }
}

/// What seals the backups of one site. Follows from its system key.
pub struct BackupKey(Zeroizing<[u8; 32]>);

impl BackupKey {
    /// The key of `site`.
    pub fn new(system_key: &[u8; 32], site: SiteId) -> Self {
        Self(Zeroizing::new(hkdf(system_key, &[b"backup", &site.0])))
    }

    fn derive(&self, parts: &[&[u8]]) -> [u8; 32] {
        hkdf(&self.0[..], parts)
    }
}
