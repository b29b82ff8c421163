//! What is written down when a site has lost a quorum for good: what each node that is left has, what follows from all of
//! that, and what the control group is told once it has a leader again. DISK.md holds the tables.

use crate::cluster::{GroupRecord, NodeRecord};
use crate::delta::Generation;
use crate::ids::{DeltaHash, GroupId, Hlc, Label, LogId, NodeId, SiteId};
use crate::record;
use crate::record::wal::{LogPosition, Membership, Vote};

record!(
    /// A log by its names, as the control group knows it.
    NamedLog {
        /// The log.
        log: LogId,
        /// Its tenant.
        tenant: Label,
        /// Its name.
        name: Label,
    }
);
record!(
    /// How far one node has a log, with everything that its write-ahead log holds, committed or not.
    LogReport {
        /// The log.
        log: NamedLog,
        /// The highest generation known.
        generation: Generation,
        /// It has its home at this site.
        home: bool,
        /// Sequence of the head.
        sequence: u64,
        /// Hash of the head.
        hash: DeltaHash,
        /// Time of the head.
        time: Hlc,
    }
);
record!(
    /// What one node has of one group.
    GroupReport {
        /// The group; 0 is the control group.
        group: GroupId,
        /// Under which number the node takes part; 0: it does not.
        member: NodeId,
        /// The vote cast last.
        vote: Option<Vote>,
        /// The last entry, one that a snapshot covers among them.
        last: Option<LogPosition>,
        /// The last entry that it knows to be committed.
        committed: Option<LogPosition>,
        /// The last entry that a snapshot covers.
        covered: Option<LogPosition>,
        /// Where the entries of each leader begin, of those behind `covered`: entries are told apart by it, since whatever
        /// two logs have of one leader is the same.
        leaders: Vec<LogPosition>,
        /// Who votes and who listens, by the last entry that says so.
        membership: Membership,
        /// The group's logs.
        logs: Vec<LogReport>,
    }
);
record!(
    /// What a node has, while it is stopped.
    NodeReport {
        /// The site.
        site: SiteId,
        /// The site's name.
        site_name: Label,
        /// The site's incarnation.
        incarnation: u64,
        /// The node.
        node: NodeId,
        /// When it was made, by the node's clock.
        made: Hlc,
        /// Log groups of the site.
        log_groups: u32,
        /// The site's nodes, as far as this one knows.
        nodes: Vec<NodeRecord>,
        /// Who should be in which log group, as far as this node knows.
        assigned: Vec<GroupRecord>,
        /// The site's logs, as far as this node knows.
        logs: Vec<NamedLog>,
        /// What it has of each group, the control group first.
        groups: Vec<GroupReport>,
    }
);

record!(
    /// A group that goes on with one replica alone.
    ForcedGroup {
        /// The group.
        group: GroupId,
        /// The number of the one that goes on with it.
        member: NodeId,
        /// The last entry of its log; `None`: nobody has anything, and the group begins empty.
        last: Option<LogPosition>,
        /// Where the entry lies that makes it the only voter. Its term is above all that were heard of.
        entry: LogPosition,
        /// Who gets the log from it.
        listeners: Vec<NodeId>,
    }
);
record!(
    /// What the control group agrees on when a site goes on without the nodes that it has lost.
    Recovery {
        /// The site's incarnation from here on.
        incarnation: u64,
        /// Nodes that are out for good.
        lost: Vec<NodeId>,
        /// Groups whose majority was lost, with who is in them from here on.
        groups: Vec<GroupRecord>,
        /// Groups of which nobody has anything: their logs are gone.
        emptied: Vec<GroupId>,
    }
);
record!(
    /// A recovery, as each node that is left keeps it in its directory: the same on all of them.
    RecoveredFile {
        /// What the control group is told.
        recovery: Recovery,
        /// Groups that go on with one replica.
        forced: Vec<ForcedGroup>,
        /// Nodes that are not listened to, those of earlier recoveries among them.
        fenced: Vec<NodeId>,
    }
);
