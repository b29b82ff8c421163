//! What a site is asked for an external backup: states of its groups, a hold on what they refer to, and where its backups go.

use crate::ids::{GroupId, Hlc, Label};
use crate::record;
use crate::record::wal::LogPosition;
use bytes::Bytes;

record!(
    /// Asks for a group's state, some pieces at a time. All pieces of one session are of one moment: that of its first
    /// question.
    DumpQuestion {
        /// The group; 0 is the control group.
        group: GroupId,
        /// The caller's name for this reading, random.
        session: [u8; 16],
        /// How many pieces it has; 0 begins the session.
        piece: u32,
    }
);
record!(
    /// Pieces of a group's state, in order.
    DumpedPieces {
        /// The last entry of the group's log that is in it.
        last: Option<LogPosition>,
        /// The next pieces. They are cut by content, so that a change in one place leaves the others as they were.
        pieces: Vec<Bytes>,
        /// There are more.
        more: bool,
    }
);
record!(
    /// A backup reads, or has ended.
    BackupHold {
        /// The caller's name for its reading, random.
        id: [u8; 16],
        /// Keep what there is for some minutes from now; `false`: no longer.
        holds: bool,
    }
);
record!(
    /// What is kept for a backup that reads.
    HeldBackup {
        /// Its name.
        id: [u8; 16],
        /// Kept until then, unless it is renewed.
        until: Hlc,
    }
);
record!(
    /// A place to which a site's backups go.
    BackupTarget {
        /// What it is called.
        name: Label,
        /// Where it is.
        url: String,
        /// The store's own address, where the URL does not lead there.
        endpoint: Option<String>,
        /// When it was added.
        created: Hlc,
        /// The newest backup there that this site knows of.
        newest: Option<NewestBackup>,
        /// When the site makes backups by itself.
        schedule: Option<BackupSchedule>,
    }
);
record!(
    /// When a site makes backups by itself.
    BackupSchedule {
        /// Seconds from one to the next.
        every_seconds: u32,
        /// Chunks go to the target in between as well, as they come.
        continuous: bool,
    }
);
record!(
    /// A place's schedule is to be another one, or none.
    ScheduleBackup {
        /// The place.
        name: Label,
        /// Its schedule from now on.
        schedule: Option<BackupSchedule>,
    }
);
record!(
    /// A backup that was completed.
    NewestBackup {
        /// Its number.
        number: u64,
        /// Everything that was acknowledged before this is in it.
        cut: Hlc,
        /// When it was complete.
        finished: Hlc,
        /// Chunks in it.
        chunks: u64,
        /// Their sealed bytes.
        chunk_bytes: u64,
    }
);
