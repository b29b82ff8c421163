//! Rows of the state file: hand-laid records, like everything on a disk.

use bytes::Bytes;
use farside_codec::delta::{Cursor, EpochRecord, Generation, Lineage, LogDescriptor};
use farside_codec::ids::{DeltaHash, Hlc};
use farside_codec::record;

record!(
    /// A log, as its group keeps it.
    LogRow {
        /// What it is.
        descriptor: LogDescriptor,
        /// Its generations here.
        lineage: Lineage,
        /// The highest generation heard of: its site is home. Above the lineage's last while this copy lags.
        known: Generation,
        /// Its head.
        head: Cursor,
        /// Time of the head.
        head_time: Hlc,
        /// Bytes of deltas and chunks up to the head; differences of it are lag.
        total_bytes: u64,
        /// The home's head as it was last told, and its time.
        heard: Option<(Cursor, Hlc)>,
        /// Key epochs used.
        epochs: Vec<EpochRecord>,
        /// Deltas set aside here.
        aside: u64,
    }
);

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
    }
);

record!(
    /// A version of a name.
    NameRow {
        /// The name is gone from here on.
        removed: bool,
        /// When.
        time: Hlc,
    }
);

record!(
    /// How far a peer is.
    CursorRow {
        /// Its cursor.
        cursor: Cursor,
        /// When it was acknowledged.
        time: Hlc,
    }
);
