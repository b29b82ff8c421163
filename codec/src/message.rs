//! What is said on a stream: one [`Request`], answered by one [`Reply`]; a chunk's bytes follow either as a body frame.
//!
//! Who may say what is the engine's business; the shapes are here. WIRE.md holds the tables.

use crate::aside::{AsideDeltas, AsideQuestion, DiscardOrder};
use crate::audit::{
    AuditComparison, AuditComparisonQuestion, AuditEntries, AuditQuestion, AuditReport, AuditStanding,
    AuditStandingQuestion,
};
use crate::authority::{AuthorityOrder, AuthorityProgress, PeerAuthorities};
use crate::cluster::{
    Committed, DropFragments, DropStripes, Forwarded, FragmentQuestion, GetFragment, GroupCall, HeldFragments,
    NodeBeat, NodeJoin, NodeJoined, NodeRecord, NodeState, PutFragments, RaftCall, ReferencesQuestion, RepairState,
    SetDevice, WalkFragments, WalkedFragments,
};
use crate::delta::{ChunkReceipt, Cursor, DeltaReceipt, EpochRecord, Lineage, LogDescriptor, LogPolicy, Proposal};
use crate::dump::{BackupHold, BackupTarget, DumpQuestion, DumpedPieces, ScheduleBackup};
use crate::erasure::Geometry;
pub use crate::federation::{ClosedLog, FedClosed, FedDeltas, FedHello, LogOffer, LogPosition};
use crate::frame;
use crate::identity::{Identities, IdentityQuestion, IdentityRecord, IssueIdentity, IssuedIdentity, RevokeOrder};
use crate::ids::{BlindName, ChunkId, GroupId, Hlc, Label, LogId, NodeId, SiteId, TenantId};
pub use crate::kind;
pub use crate::peer::{PeerAction, PeerEndpoints, PeerJoin, PeerLimits, PeerRecord, SetPeer};
pub use crate::refusal::{Refusal, RefusalCode};
pub use crate::sides::{
    FailedOver, Failover, FailoverReport, LogBehind, LogRefused, LogStanding, PeerStanding, StandingQuestion,
    SwitchedOver, Switchover, Weigh, Weighed,
};
use crate::{choice, record};
use bytes::Bytes;

record!(
    /// First request of every connection, answered by the same: who is there, and what it reads.
    Hello {
        /// Oldest protocol version spoken.
        oldest_version: u16,
        /// Newest protocol version spoken.
        newest_version: u16,
        /// The site. All zero from a client.
        site: SiteId,
        /// The site's name, or the client's own label.
        site_name: Label,
        /// The site's incarnation.
        incarnation: u64,
        /// The node. 0 from a client.
        node: NodeId,
        /// The shard that answers.
        shard: u16,
        /// Shards of the node; shard i listens on the first one's port + i.
        shards: u16,
        /// Log groups of the site.
        groups: u32,
        /// The sender's clock.
        now: Hlc,
    }
);

impl Hello {
    /// What a caller says that speaks for no site, and whose clock nobody goes by.
    pub fn of_caller(name: Label, now: Hlc) -> Self {
        Self {
            oldest_version: frame::OLDEST_VERSION,
            newest_version: frame::VERSION,
            site: SiteId::default(),
            site_name: name,
            incarnation: 0,
            node: NodeId(0),
            shard: 0,
            shards: 0,
            groups: 0,
            now,
        }
    }
}

choice!(
    /// A moment of a log.
    Moment {
        /// Now.
        Latest = 0,
        /// After this sequence.
        Sequence(u64) = 1,
        /// After everything placed up to this time.
        Time(Hlc) = 2,
    }
);

record!(
    /// A chunk follows as the body.
    PutChunk {
        /// BLAKE3 of the body.
        chunk: ChunkId,
        /// Its length.
        sealed_bytes: u32,
    }
);
record!(
    /// Asks for part of a chunk; the bytes follow the reply as its body.
    GetChunk {
        /// Which.
        chunk: ChunkId,
        /// First byte of the sealed chunk.
        offset: u32,
        /// Bytes wanted; 0: all from `offset` on.
        length: u32,
    }
);
record!(
    /// Proposes deltas to one log, in order.
    Propose {
        /// The log.
        log: LogId,
        /// Highest time that the client has seen.
        seen: Hlc,
        /// What to append; all are placed or refused one by one.
        proposals: Vec<Proposal>,
    }
);
record!(
    /// Asks for one name's newest version at a moment.
    Lookup {
        /// The log.
        log: LogId,
        /// The name.
        name: BlindName,
        /// The moment.
        at: Moment,
    }
);
record!(
    /// Asks for the names that exist at a moment, in blind order.
    List {
        /// The log.
        log: LogId,
        /// The moment.
        at: Moment,
        /// Continue after this name.
        after: Option<BlindName>,
        /// At most this many.
        limit: u32,
    }
);
record!(
    /// Asks for a name's versions, newest first.
    History {
        /// The log.
        log: LogId,
        /// The name.
        name: BlindName,
        /// Only versions with a lower sequence; `u64::MAX` for all.
        before: u64,
        /// At most this many.
        limit: u32,
    }
);
record!(
    /// Asks for a log's deltas in order.
    ReadDeltas {
        /// The log.
        log: LogId,
        /// First sequence.
        from: u64,
        /// At most this many.
        limit: u32,
    }
);
record!(
    /// Asks for a log by its names.
    ResolveLog {
        /// The tenant's name.
        tenant: Label,
        /// The log's name.
        log: Label,
    }
);
record!(
    /// A tenant, as nodes know it.
    Tenant {
        /// The tenant.
        tenant: TenantId,
        /// Its name.
        name: Label,
        /// Its key epochs, oldest first.
        epochs: Vec<EpochRecord>,
        /// When it was created.
        created: Hlc,
    }
);
record!(
    /// A log's policy is to change.
    SetPolicy {
        /// The log.
        log: LogId,
        /// To what.
        policy: LogPolicy,
    }
);
record!(
    /// A node is to be drained, removed or taken back.
    SetNode {
        /// Its name.
        name: Label,
        /// How the site is to count on it.
        state: NodeState,
    }
);
record!(
    /// A log, as a site answers for it.
    LogInfo {
        /// What it is.
        descriptor: LogDescriptor,
        /// Its group at this site.
        group: GroupId,
        /// Its lineage; the last one is its home.
        lineage: Lineage,
        /// Name of the home site, as far as this site knows it.
        home: Option<Label>,
        /// Its head here.
        head: Cursor,
        /// Time of the head.
        head_time: Hlc,
        /// Every key epoch that the log used.
        epochs: Vec<EpochRecord>,
        /// Names of the sites that its policy names, as far as this site knows them.
        names: Vec<(SiteId, Label)>,
        /// Bytes that count for its quota here.
        live_bytes: u64,
    }
);
record!(
    /// One version of a name.
    Version {
        /// The encoded delta.
        delta: Bytes,
        /// Its extent deltas in order, encoded; empty for objects of up to 4,096 chunks.
        extents: Vec<Bytes>,
    }
);
record!(
    /// Versions, and whether there are more.
    Versions {
        /// In the order asked for.
        versions: Vec<Version>,
        /// There are more.
        more: bool,
    }
);
record!(
    /// A chunk or a range of it follows as the body.
    ChunkRange {
        /// Length of the whole sealed chunk.
        sealed_bytes: u32,
        /// First byte sent.
        offset: u32,
        /// Bytes sent.
        length: u32,
    }
);

choice!(
    /// What can be asked.
    Request {
        /// Opens a connection.
        Hello(Hello) = 1,
        /// Stores a chunk.
        PutChunk(PutChunk) = 16,
        /// Asks which chunks are here, and marks them as touched.
        HaveChunks(Vec<ChunkId>) = 17,
        /// Reads a chunk.
        GetChunk(GetChunk) = 18,
        /// The same, and nobody else is asked for what is lost here.
        GetOwnChunk(GetChunk) = 19,
        /// Appends to a log.
        Propose(Propose) = 32,
        /// Reads a name.
        Lookup(Lookup) = 33,
        /// Lists names.
        List(List) = 34,
        /// Lists a name's versions.
        History(History) = 35,
        /// Reads deltas.
        ReadDeltas(ReadDeltas) = 36,
        /// Finds a log.
        ResolveLog(ResolveLog) = 37,
        /// Makes a tenant.
        CreateTenant(Tenant) = 64,
        /// Lists tenants.
        ListTenants = 65,
        /// Makes a log.
        CreateLog(LogDescriptor) = 66,
        /// Lists logs.
        ListLogs = 67,
        /// Changes a log's policy.
        SetPolicy(SetPolicy) = 68,
        /// Makes a token with which one peer may join.
        PeerToken = 80,
        /// Joins the peer that made this token.
        PeerAdd(String) = 81,
        /// Lists peers.
        PeerList = 82,
        /// Pauses, resumes, limits or removes a peer.
        SetPeer(SetPeer) = 83,
        /// Lists the limits of peers that have some.
        PeerLimits = 85,
        /// A peer joins.
        PeerJoin(PeerJoin) = 84,
        /// Status.
        Status = 96,
        /// Promotes this site.
        Failover(Failover) = 97,
        /// How a log stands here, for a failover.
        LogStanding(StandingQuestion) = 98,
        /// Lists what was set aside.
        SetAside(AsideQuestion) = 99,
        /// Lets go of what was set aside.
        Discard(DiscardOrder) = 100,
        /// Gives logs another home.
        Switchover(Switchover) = 101,
        /// Weighs a failover.
        Weigh(Weigh) = 102,
        /// Keeps what a backup reads, or lets go of it.
        BackupHold(BackupHold) = 103,
        /// Reads a group's state for a backup.
        Dump(DumpQuestion) = 104,
        /// Lists where backups go.
        BackupTargets = 105,
        /// Adds such a place, or says what was completed there.
        SetBackupTarget(BackupTarget) = 106,
        /// Forgets such a place; what lies there stays.
        ForgetBackupTarget(Label) = 107,
        /// Has backups made by the site itself, or no more.
        ScheduleBackup(ScheduleBackup) = 108,
        /// Opens a federation link.
        FedHello(FedHello) = 112,
        /// Federates deltas.
        FedDeltas(FedDeltas) = 113,
        /// Federates closed time of logs that are quiet.
        FedClosed(FedClosed) = 114,
        /// Asks what a site has of this one's audit logs, or of its own.
        FedAuditStanding(AuditStandingQuestion) = 120,
        /// Federates entries of the sender's audit logs, each the next one of its log.
        FedAudit(Vec<Bytes>) = 121,
        /// Reads an audit log.
        ReadAudit(AuditQuestion) = 122,
        /// Has peers asked what they have of an audit log.
        CompareAudit(AuditComparisonQuestion) = 123,
        /// Has a client's word of what it did written down.
        ReportAudit(AuditReport) = 124,
        /// Makes a token with which one node may join, under this name if one is given.
        NodeToken(Option<Label>) = 128,
        /// A node joins.
        NodeJoin(NodeJoin) = 129,
        /// Lists the site's nodes.
        Nodes = 130,
        /// Limits what repair reads and writes on each node, in bytes a second; 0: not at all.
        RepairLimit(u64) = 132,
        /// Has every node scrub everything now, in this part of a shard's time in percent; 0: what node.toml says.
        ScrubStart(u8) = 133,
        /// Drains a node, or with `NodeState::Removed` removes it, or with `NodeState::Up` takes either back.
        SetNode(SetNode) = 131,
        /// Takes a device out of use, or back.
        SetDevice(SetDevice) = 134,
        /// Has every node move what lies elsewhere than it should, or leave it where it is.
        Rebalance(bool) = 135,
        /// Has the site's chunks cut another way.
        SetGeometry(Geometry) = 136,
        /// A node says that it is there.
        NodeBeat(NodeBeat) = 144,
        /// Passes a caller's request on.
        Forwarded(Forwarded) = 145,
        /// Raft between nodes.
        Raft(RaftCall) = 146,
        /// Commits a command.
        Command(GroupCall) = 147,
        /// Status of one node.
        NodeStatus = 148,
        /// A GC epoch: what is touched from now on is touched in it, unless a later one is known. 0 only asks.
        GcEpoch(u64) = 149,
        /// Collects what nobody refers to, as of this GC barrier.
        Collect(u64) = 150,
        /// Asks what a group refers to.
        References(ReferencesQuestion) = 151,
        /// Asks how repair is doing on a node.
        RepairState = 152,
        /// Asks the control group's leader how far that is.
        ControlIndex = 153,
        /// Has a node scrub everything now, as with `ScrubStart`.
        Scrub(u8) = 154,
        /// Has a node move what lies elsewhere than it should, as with `Rebalance`.
        RebalanceNode(bool) = 155,
        /// Asks what a node's wall clock shows.
        WallClock = 156,
        /// Raft between nodes, for several groups of one shard: heartbeats that are due in one moment.
        RaftBeats(Vec<RaftCall>) = 157,
        /// Asks whether a node could cut chunks this way.
        FitsGeometry(Geometry) = 158,
        /// Stores fragments.
        PutFragments(PutFragments) = 160,
        /// Reads part of a fragment.
        GetFragment(GetFragment) = 161,
        /// Asks which fragments are here.
        HaveFragments(FragmentQuestion) = 162,
        /// Drops fragments.
        DropFragments(DropFragments) = 163,
        /// Asks for everything that a shard holds.
        WalkFragments(WalkFragments) = 164,
        /// Drops what is left of stripes that are cut another way than chunks are now.
        DropStripes(DropStripes) = 165,
        /// Issues an identity.
        IssueIdentity(IssueIdentity) = 176,
        /// Lists the identities that the site has issued.
        Identities(IdentityQuestion) = 177,
        /// Refuses an identity from now on.
        RevokeIdentity(RevokeOrder) = 178,
        /// Has every node show new certificates now.
        RotateCertificates = 179,
        /// Has a node do so.
        RenewCertificates = 180,
        /// Asks about the site's authority, or has it go over to the next one.
        Authority(AuthorityOrder) = 181,
        /// A peer says whom to trust about it.
        FedAuthorities(PeerAuthorities) = 182,
        /// A peer says where its nodes are found now.
        FedEndpoints(PeerEndpoints) = 183,
    }
);

choice!(
    /// What can be answered.
    Reply {
        /// No.
        Refused(Refusal) = 0,
        /// Answers `Hello`.
        Hello(Hello) = 1,
        /// Done, with nothing to say.
        Done = 2,
        /// Answers `PutChunk`.
        ChunkStored(ChunkReceipt) = 16,
        /// Answers `HaveChunks`, in its order.
        ChunksHeld(Vec<Option<ChunkReceipt>>) = 17,
        /// Answers `GetChunk` and `GetOwnChunk`; a body follows.
        ChunkRange(ChunkRange) = 18,
        /// Answers `Propose`, in its order.
        Proposed(Vec<Result<DeltaReceipt, Refusal>>) = 32,
        /// Answers `Lookup`.
        Found(Option<Version>) = 33,
        /// Answers `List` and `History`.
        Versions(Versions) = 34,
        /// Answers `ReadDeltas`: encoded deltas.
        Deltas(Vec<Bytes>) = 36,
        /// Answers `ResolveLog` and `CreateLog`.
        Log(LogInfo) = 37,
        /// Answers `ListTenants` and `CreateTenant`.
        Tenants(Vec<Tenant>) = 64,
        /// Answers `ListLogs`.
        Logs(Vec<LogInfo>) = 67,
        /// Answers `PeerToken`: a secret, to be carried by hand.
        Token(String) = 80,
        /// Answers `PeerList`, `PeerAdd` and `PeerJoin`.
        Peers(Vec<PeerRecord>) = 82,
        /// Answers `PeerLimits`.
        PeerLimits(Vec<PeerLimits>) = 85,
        /// Answers `Status`: the JSON document that `farside status --json` prints. A document for people and
        /// scripts, carried as text; no node reads it.
        Status(Bytes) = 96,
        /// Answers `Failover`.
        FailedOver(FailoverReport) = 97,
        /// Answers `ScrubStart`: the names of nodes that did not answer, and have not begun.
        ScrubBegun(Vec<String>) = 133,
        /// Answers `Rebalance`: the names of nodes that did not answer, and do as before.
        Rebalancing(Vec<String>) = 135,
        /// Answers `LogStanding`; `None`: the log is not in its group yet.
        LogStanding(Option<LogStanding>) = 98,
        /// Answers `SetAside`.
        SetAside(AsideDeltas) = 99,
        /// Answers `Switchover`.
        SwitchedOver(SwitchedOver) = 101,
        /// Answers `Weigh`.
        Weighed(Weighed) = 102,
        /// Answers `BackupHold`: the site's time; what is acknowledged before it is in every state that is asked for from now on.
        BackupHeld(Hlc) = 103,
        /// Answers `Dump`.
        Dumped(DumpedPieces) = 104,
        /// Answers `BackupTargets`.
        BackupTargets(Vec<BackupTarget>) = 105,
        /// Answers `FedHello`.
        FedPositions(Vec<LogPosition>) = 112,
        /// Answers `FedDeltas`: the receiver's durable position.
        FedAck(LogPosition) = 113,
        /// Answers `FedAuditStanding`.
        AuditStanding(AuditStanding) = 120,
        /// Answers `ReadAudit`.
        AuditEntries(AuditEntries) = 122,
        /// Answers `CompareAudit`.
        AuditCompared(Vec<AuditComparison>) = 123,
        /// Answers `NodeJoin`.
        NodeJoined(NodeJoined) = 129,
        /// Answers `Nodes`.
        Nodes(Vec<NodeRecord>) = 130,
        /// Answers `Raft`: an encoded `Answer`.
        Raft(Bytes) = 146,
        /// Answers `Command`.
        Committed(Committed) = 147,
        /// Answers `GcEpoch`: the highest one known.
        Epoch(u64) = 149,
        /// Answers `References`, in its order.
        Referenced(Vec<bool>) = 151,
        /// Answers `RepairState`.
        RepairState(RepairState) = 152,
        /// Answers `ControlIndex`.
        ControlIndex(u64) = 153,
        /// Answers `WallClock`: milliseconds since 1970.
        WallClock(u64) = 156,
        /// Answers `RaftBeats`, in its order: an encoded `Answer` each; nothing where the group does not run here.
        RaftBeats(Vec<Option<Bytes>>) = 157,
        /// Answers `PutFragments`: those that are durable now.
        FragmentsStored(HeldFragments) = 160,
        /// Answers `GetFragment`: bytes that follow as the body.
        FragmentRange(u32) = 161,
        /// Answers `HaveFragments`: what is here.
        FragmentsHeld(Vec<HeldFragments>) = 162,
        /// Answers `WalkFragments`.
        FragmentsWalked(WalkedFragments) = 164,
        /// Answers `IssueIdentity`.
        IssuedIdentity(IssuedIdentity) = 176,
        /// Answers `Identities`.
        Identities(Identities) = 177,
        /// Answers `RevokeIdentity`: the identity as it is listed now.
        RevokedIdentity(IdentityRecord) = 178,
        /// Answers `RotateCertificates`: the names of nodes that did not answer, and show what they showed.
        CertificatesRenewed(Vec<String>) = 179,
        /// Answers `Authority`.
        Authority(AuthorityProgress) = 181,
    }
);
