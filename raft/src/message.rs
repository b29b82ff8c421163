//! What the nodes of a group say to one another. Hand-laid like everything; WIRE.md holds the tables.

use bytes::Bytes;
use farside_codec::ids::NodeId;
use farside_codec::record::wal::{Entry, LogPosition, StoredMembership, Vote};
use farside_codec::{choice, record};

record!(
    /// A leader's entries.
    AppendEntries {
        /// The leader's vote.
        vote: Vote,
        /// The entry before the first.
        previous: Option<LogPosition>,
        /// Entries to append.
        entries: Vec<Entry>,
        /// What the leader knows to be committed.
        committed: Option<LogPosition>,
    }
);
record!(
    /// A candidate asks for a vote, or whether it would get one.
    RequestVote {
        /// The candidate's vote.
        vote: Vote,
        /// Its last entry.
        last: Option<LogPosition>,
        /// The leader handed over, so leases don't count.
        transfer: bool,
    }
);
record!(
    /// A piece of a snapshot.
    SnapshotPiece {
        /// Counted from 0; 0 begins anew.
        number: u32,
        /// Its bytes.
        bytes: Bytes,
    }
);
record!(
    /// All pieces are there: install them.
    SnapshotEnd {
        /// The leader's vote.
        vote: Vote,
        /// Pieces sent.
        pieces: u32,
        /// Last entry covered.
        last: Option<LogPosition>,
        /// Voters then.
        membership: StoredMembership,
    }
);

record!(
    /// A leader hands over.
    HandOver {
        /// The leader's vote.
        vote: Vote,
        /// Who is to lead.
        to: NodeId,
        /// The leader's last entry: nobody may take over without it.
        last: Option<LogPosition>,
    }
);

choice!(
    /// What one node of a group asks another.
    Ask {
        /// Append entries.
        Append(AppendEntries) = 1,
        /// Vote for me.
        Vote(RequestVote) = 2,
        /// Would you vote for me?
        PreVote(RequestVote) = 3,
        /// Keep a piece of a snapshot.
        Piece(SnapshotPiece) = 4,
        /// Install the snapshot.
        Install(SnapshotEnd) = 5,
        /// Somebody else is to lead.
        HandOver(HandOver) = 6,
    }
);

record!(
    /// An answer to a candidate.
    Voted {
        /// The voter's vote.
        vote: Vote,
        /// Granted.
        granted: bool,
        /// The voter's last entry.
        last: Option<LogPosition>,
    }
);

choice!(
    /// What it answers.
    Answer {
        /// The group is not running here.
        Stopped = 0,
        /// Appended.
        Appended = 1,
        /// Appended up to here.
        AppendedTo(Option<LogPosition>) = 2,
        /// The entry before the first is not here.
        Conflict = 3,
        /// A higher vote is known.
        HigherVote(Vote) = 4,
        /// About a vote.
        Voted(Voted) = 5,
        /// The piece is kept.
        Kept = 6,
        /// Installed.
        Installed(Vote) = 7,
        /// Heard who is to lead; whoever it is stands for election.
        HandedOver = 8,
        /// Who is to lead has not got the last entry, or knows another vote.
        NotReady = 9,
    }
);
