//! Rows of the state file: hand-laid records, like everything on a disk.

use super::lineage;
use bytes::Bytes;
use farside_codec::delta::{Cursor, EpochRecord, Generation, Left, Lineage, LogDescriptor};
use farside_codec::ids::{DeltaHash, Hlc, SiteId};
use farside_codec::record;

record!(
    /// A log, as its group keeps it.
    LogRow {
        /// What it is.
        descriptor: LogDescriptor,
        /// Its generations, as its home states them. A branch that begins past the head has not come here yet.
        lineage: Lineage,
        /// The highest generation heard of: its site is home. The lineage's last, once there is a lineage; above that
        /// while a log is in transit to its next home.
        known: Generation,
        /// Its head.
        head: Cursor,
        /// Time of the head.
        head_time: Hlc,
        /// Bytes of deltas and chunks up to the head; differences of it are lag.
        total_bytes: u64,
        /// Bytes of the deltas that are there, and of the chunks that they name.
        live_bytes: u64,
        /// The home's head as it was last told, and its time.
        heard: Option<(Cursor, Hlc)>,
        /// Up to here the home has said that nothing will be placed any more, of what this copy holds.
        closed: Hlc,
        /// What was pruned was replaced at or before this sequence: a rewind to before it would miss versions.
        floor: u64,
        /// Key epochs used.
        epochs: Vec<EpochRecord>,
        /// Deltas set aside here.
        aside: u64,
        /// What was promised to a home.
        lease: Option<Lease>,
        /// `None`: this copy is an exact one of its home up to its head.
        seeding: Option<Seeding>,
    }
);

record!(
    /// A copy that takes in what its home has pruned, or is filled up again: names are missing, or have older versions than they
    /// had at any one time, until it has come far enough.
    Seeding {
        /// Up to here it is exact; what came later may be taken back to here. Sequence 0: there is no such point.
        whole: Cursor,
        /// Time of that.
        whole_time: Hlc,
        /// The log's floor then.
        floor: u64,
        /// What this copy has pruned is needed again: the home sends the log once more, and has come so far. `None`: what comes
        /// goes on from the head.
        filled: Option<Cursor>,
    }
);

record!(
    /// A promise to a home not to take its place.
    Lease {
        /// The home.
        home: Generation,
        /// The longest time for which that was promised to it; 0: nothing was, or nothing is any more.
        longest_ms: u64,
        /// How often anything was, to this home and to others.
        promises: u64,
    }
);

impl LogRow {
    /// Whether the log accepts writes at `site`.
    pub(super) fn is_home(&self, site: SiteId) -> bool {
        lineage::is_home(&self.lineage, self.known, site)
    }

    /// Where an old home has ended its generation: the next one's, which has not been heard to have begun.
    pub(super) fn in_transit_to(&self, site: SiteId) -> Option<Generation> {
        lineage::in_transit_to(&self.lineage, self.known, site)
    }

    /// The time of the next delta: it rises along the log, and nothing is placed in time that was closed.
    pub(super) fn next_time(&self, now: Hlc, closed: Hlc) -> Hlc {
        now.max(self.head_time.next()).max(self.closed.next()).max(closed.next())
    }
}

record!(
    /// A delta in its place.
    DeltaRow {
        /// Its hash.
        hash: DeltaHash,
        /// Its generation.
        generation: Generation,
        /// Its time.
        time: Hlc,
        /// Bytes of deltas and chunks up to and with it.
        total_bytes: u64,
        /// Its bytes; empty once its version was pruned. The hash chain stays.
        encoded: Bytes,
        /// What is left of it once it was pruned.
        left: Option<Left>,
    }
);

impl DeltaRow {
    /// Nothing is left of it but its place.
    pub(super) fn is_pruned(&self) -> bool {
        self.left.is_some()
    }
}

record!(
    /// A version of a name.
    NameRow {
        /// The name is gone from here on.
        removed: bool,
    }
);

record!(
    /// How far a peer is.
    CursorRow {
        /// Its cursor.
        cursor: Cursor,
        /// When it was acknowledged.
        time: Hlc,
        /// In which generation of this site.
        home: Generation,
    }
);

record!(
    /// What is kept for a peer that lacks something.
    HoldRow {
        /// For so long, as counted, it has.
        behind_ms: u64,
        /// Nothing is kept for it any more: it lacked it for too long, or too much of it.
        expired: bool,
    }
);

record!(
    /// A delta that a fence set aside.
    AsideRow {
        /// When it was fenced.
        time: Hlc,
        /// Whose history took its place.
        by: Generation,
        /// Its bytes.
        encoded: Bytes,
    }
);
