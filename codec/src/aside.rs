//! What is said about deltas that a change of home undid and set aside.

use crate::delta::{Cursor, Generation};
use crate::ids::{Hlc, LogId};
use crate::record;
use bytes::Bytes;

record!(
    /// Asks for the deltas of a log that changes of home set aside here, in order of generation and sequence.
    AsideQuestion {
        /// The log.
        log: LogId,
        /// Continue after this one.
        after: Option<Cursor>,
        /// At most this many.
        limit: u32,
    }
);
record!(
    /// A delta that a change of home undid.
    AsideDelta {
        /// The encoded delta.
        delta: Bytes,
        /// Where it stood.
        cursor: Cursor,
        /// Earlier parts of its object that were not undone, encoded, in order.
        extents: Vec<Bytes>,
        /// When it was undone.
        time: Hlc,
        /// The generation that undid it.
        by: Generation,
    }
);
record!(
    /// Deltas that were set aside, and whether there are more.
    AsideDeltas {
        /// In order.
        deltas: Vec<AsideDelta>,
        /// There are more.
        more: bool,
    }
);
record!(
    /// What was set aside of a log is to be let go of.
    DiscardOrder {
        /// The log.
        log: LogId,
        /// How many deltas that is, as the caller has seen them listed.
        deltas: u64,
    }
);
