//! What sites say to one another about logs: offers, positions, deltas, closed time.

use crate::delta::{Cursor, Generation, Lineage, LogDescriptor, LogPolicy, PrunedDelta};
use crate::ids::{DeltaHash, GroupId, Hlc, LogId, SiteId};
use crate::record;
use crate::refusal::Refusal;
use bytes::Bytes;

record!(
    /// A log offered by a sender, with where it stands.
    LogOffer {
        /// The log.
        descriptor: LogDescriptor,
        /// Its lineage at the sender.
        lineage: Lineage,
        /// Its head at the sender.
        head: Cursor,
        /// Time of the head.
        head_time: Hlc,
    }
);
record!(
    /// First request of a federation link: what the sender is home of, or holds.
    FedHello {
        /// The sender's site.
        site: SiteId,
        /// The logs.
        offers: Vec<LogOffer>,
    }
);
record!(
    /// Where a receiver stands in one log.
    LogPosition {
        /// The log.
        log: LogId,
        /// From where it goes on: its head, or a delta before it while it is filled up again from there.
        head: Cursor,
        /// Up to where it is an exact copy: its head, or a delta before it while it takes in what was pruned meanwhile.
        whole: Cursor,
        /// Its lineage. Where its last generation is above the sender's, the sender is no longer home.
        lineage: Lineage,
        /// Why it can't be sent to now.
        refusal: Option<Refusal>,
    }
);
record!(
    /// Committed deltas of one log, in order. Their chunks were made durable at the receiver before.
    FedDeltas {
        /// The log.
        log: LogId,
        /// Lineage at the sender.
        lineage: Lineage,
        /// Encoded deltas, rising.
        deltas: Vec<Bytes>,
        /// Those among them whose versions the sender has pruned, rising; with `deltas` they leave no gap, and the first of all goes on
        /// from the receiver's position.
        pruned: Vec<PrunedDelta>,
        /// All that the sender has pruned was replaced at or before this sequence: there a copy that lacks it is exact again.
        floor: u64,
        /// The sender's head, so that the receiver can say what it would lose.
        head: Cursor,
        /// Time of the sender's head.
        head_time: Hlc,
        /// The log group's closed time at the sender.
        closed: Hlc,
        /// The log's policy.
        policy: LogPolicy,
        /// Its version.
        policy_version: u64,
        /// Whoever acknowledges this promises not to take over without being forced for so many milliseconds; 0: nothing.
        lease_ms: u64,
    }
);
record!(
    /// Up to where a log has nothing more than a peer has already.
    ClosedLog {
        /// The log.
        log: LogId,
        /// The generation under which its home says so.
        generation: Generation,
        /// The head that it says it of: a copy with another head lacks something, or has more.
        head: DeltaHash,
        /// Nothing else will be placed at or before this time.
        closed: Hlc,
    }
);
record!(
    /// Closed time of logs to which nothing was written since they were delivered. They are all of one group at the receiver.
    FedClosed {
        /// The receiver's group.
        group: GroupId,
        /// The logs.
        logs: Vec<ClosedLog>,
    }
);
