//! What a backup is made of: one manifest a backup, written last, each naming the hash of the one before.

use super::pack::EntryKind;
use crate::choice;
use crate::dump::NewestBackup;
use crate::erasure::Geometry;
use crate::ids::{GroupId, Hlc, Label, SiteId};
use crate::record;
use crate::record::wal::LogPosition;
use bytes::Bytes;

record!(
    /// Whose backups lie at a target. The first object there.
    SiteMark {
        /// The site.
        site: SiteId,
        /// Its name.
        name: Label,
        /// When it was made.
        created: Hlc,
    }
);
record!(
    /// An entry of a pack. Its number is its place among the pack's entries.
    PackEntry {
        /// What it holds.
        kind: EntryKind,
        /// Which.
        id: [u8; 32],
        /// Its first byte in the pack.
        offset: u32,
        /// Its bytes there, with the tag.
        sealed_bytes: u32,
    }
);
record!(
    /// What one pack holds.
    PackIndex {
        /// The pack.
        pack: [u8; 16],
        /// Its bytes.
        bytes: u64,
        /// Its entries in order.
        entries: Vec<PackEntry>,
    }
);
record!(
    /// A small object that a backup needs.
    ObjectReference {
        /// Its name.
        name: String,
        /// Its bytes.
        bytes: u64,
        /// BLAKE3 of them.
        hash: [u8; 32],
    }
);
record!(
    /// The state of one group, as it was when this backup was made.
    GroupDump {
        /// The group.
        group: GroupId,
        /// The last entry of its log that is in it.
        last: Option<LogPosition>,
        /// BLAKE3 of its pieces, in order.
        pieces: Vec<[u8; 32]>,
    }
);
record!(
    /// One backup of one site.
    Manifest {
        /// Counts the backups at the target from 1.
        number: u64,
        /// BLAKE3 of the manifest before, as it is stored; zeroes for the first.
        previous: [u8; 32],
        /// The site.
        site: SiteId,
        /// Its name.
        name: Label,
        /// Its incarnation.
        incarnation: u64,
        /// Its log groups.
        groups: u32,
        /// How it cut chunks.
        geometry: Geometry,
        /// Its CA's certificate (DER).
        certificate: Bytes,
        /// Its CA's key (PKCS #8 DER).
        authority_key: Bytes,
        /// Everything that was acknowledged before this is in it.
        cut: Hlc,
        /// When it was complete.
        finished: Hlc,
        /// The groups' states, in the order in which they were read: the control group's last.
        dumps: Vec<GroupDump>,
        /// Where everything lies.
        indexes: Vec<ObjectReference>,
        /// Chunks that the dumps refer to.
        chunks: u64,
        /// Their sealed bytes.
        chunk_bytes: u64,
    }
);

record!(
    /// What no backup needs. From the moment this lies there nothing that is in it counts as being at the target; it goes some
    /// time later, unless a backup that was under way then needs it after all.
    Doomed {
        /// When it was written.
        time: Hlc,
        /// Packs.
        packs: Vec<[u8; 16]>,
        /// Names of indexes.
        indexes: Vec<String>,
    }
);

choice!(
    /// What somebody is at.
    Work {
        /// A backup: what it has stored is in no index yet.
        Backup = 1,
        /// A restore of the backup of this number.
        Restore(u64) = 2,
    }
);

record!(
    /// Somebody is at work, and says so again and again.
    Worker {
        /// When it was written.
        time: Hlc,
        /// At what.
        work: Work,
    }
);

impl From<&Manifest> for NewestBackup {
    fn from(manifest: &Manifest) -> Self {
        let Manifest { number, cut, finished, chunks, chunk_bytes, .. } = *manifest;
        Self { number, cut, finished, chunks, chunk_bytes }
    }
}
