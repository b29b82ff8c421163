//! What Raft groups agree on: commands in, outcomes out. A command is a WAL record's contents, so it is versioned and
//! laid out like everything else; an outcome goes to the proposer only.

use crate::audit::{AuditNotes, AuditedCommand};
use crate::authority::{DropAuthority, IntroduceAuthority, NodeStanding, PeerAuthorities, PeerTold};
use crate::cluster::{GroupRecord, NodeBeat, NodeJoin, NodeState};
use crate::delta::{Cursor, DeltaReceipt, Generation, Lineage, LogDescriptor, LogPolicy, Proposal, PrunedDelta};
use crate::dump::{BackupTarget, HeldBackup, ScheduleBackup};
use crate::erasure::Geometry;
use crate::federation::ClosedLog;
use crate::identity::{PutIdentity, RevokeIdentity};
use crate::ids::{DeltaHash, GroupId, Hlc, Label, LogId, NodeId, SiteId};
use crate::message::{PeerAction, PeerEndpoints, PeerRecord, Refusal, Tenant};
use crate::recovery::Recovery;
use crate::{choice, record};
use bytes::Bytes;

record!(
    /// Places proposals at the head of a log.
    PlaceDeltas {
        /// The log.
        log: LogId,
        /// The leader's clock: no delta is placed before it.
        time: Hlc,
        /// This site, which must be the log's home.
        site: SiteId,
        /// What to place, each one or its refusal.
        proposals: Vec<Proposal>,
    }
);
record!(
    /// Appends deltas that the home placed. Accepted only where the first continues this copy's head and the lineage
    /// is not behind the one known here.
    AcceptDeltas {
        /// The log.
        log: LogId,
        /// Lineage at the sender.
        lineage: Lineage,
        /// Encoded deltas.
        deltas: Vec<Bytes>,
        /// Those among them whose versions the sender has pruned.
        pruned: Vec<PrunedDelta>,
        /// All that the sender has pruned was replaced at or before this sequence.
        floor: u64,
        /// The sender's head: what a failover would lose.
        head: Cursor,
        /// Time of the sender's head.
        head_time: Hlc,
        /// The sender's closed time.
        closed: Hlc,
        /// The log's policy at its home, which copies go by.
        policy: LogPolicy,
        /// Its version.
        policy_version: u64,
        /// For so many milliseconds this site does not take over by itself; 0 promises nothing.
        lease_ms: u64,
    }
);
record!(
    /// Makes `generation.site` the log's home, from this copy's head on or from a cut.
    Promote {
        /// The log.
        log: LogId,
        /// Above every generation known here.
        generation: Generation,
        /// The leader's clock.
        time: Hlc,
        /// The home that this was weighed against, and how many promises it had by then that it would not come to this: only if
        /// both are as they were. `None`: whatever they are.
        weighed: Option<(Generation, u64)>,
        /// What came after this time is set aside. `None`: nothing is.
        cut: Option<Hlc>,
    }
);
record!(
    /// A higher generation was heard of: this copy stops accepting writes, and what it placed past the common point is
    /// set aside. `lineage` is the new home's.
    Fence {
        /// The log.
        log: LogId,
        /// The new home's lineage, whose last generation is above the one known here.
        lineage: Lineage,
        /// The leader's clock.
        time: Hlc,
    }
);
record!(
    /// Ends this home's generation with a last delta that names the next home. Nothing is placed after it, and whoever it
    /// names is home once it has it.
    HandOverLog {
        /// The log.
        log: LogId,
        /// The next home and its generation, above every generation known here.
        to: Generation,
        /// The leader's clock.
        time: Hlc,
    }
);
record!(
    /// Time is closed: in the group's own logs, and in copies as far as their homes say so.
    CloseTime {
        /// Nothing will be placed in this group before it.
        closed: Hlc,
        /// What homes have said of copies that have all that is there.
        copies: Vec<ClosedLog>,
    }
);
record!(
    /// A peer made a log durable up to a cursor.
    Acknowledge {
        /// The log.
        log: LogId,
        /// The peer.
        peer: SiteId,
        /// Its cursor.
        cursor: Cursor,
        /// The leader's clock.
        time: Hlc,
        /// The peer was greeted and says so itself: it counts even if it is less than what was recorded at this time, as long as
        /// nothing else was since. A peer that was restored from a backup has lost what it had acknowledged.
        instead_of: Option<Hlc>,
    }
);
record!(
    /// Time has passed in which peers lacked something: what is kept for those that have lacked it for too long, or lack too much,
    /// is let go, and they are sent what is there then. Of all logs of the group that are told by this site.
    HoldPeers {
        /// The peers.
        peers: Vec<HeldPeer>,
        /// Milliseconds by the leader's monotonic clock since this was said last.
        passed_ms: u64,
    }
);
record!(
    /// The bounds of what is kept for a peer.
    HeldPeer {
        /// The peer.
        site: SiteId,
        /// Milliseconds; `u64::MAX` without end.
        most_ms: u64,
        /// Bytes of deltas and chunks; `u64::MAX` without end.
        most_bytes: u64,
    }
);
record!(
    /// A log's policy changes.
    ChangePolicy {
        /// The log.
        log: LogId,
        /// To what.
        policy: LogPolicy,
    }
);
record!(
    /// Drops versions that were replaced or removed before `horizon`, of one log, up to a bound a command.
    Prune {
        /// The log.
        log: LogId,
        /// Versions replaced later stay.
        horizon: Hlc,
        /// Deltas below this sequence only: the lowest cursor among the peers.
        below: u64,
        /// At most this many.
        limit: u32,
    }
);

record!(
    /// Lets go of deltas that changes of home set aside, in order of generation and sequence, up to a bound a command.
    DiscardAside {
        /// The log.
        log: LogId,
        /// How many are set aside now: who counted another number does not know what would go.
        expected: u64,
        /// At most this many.
        limit: u32,
    }
);

record!(
    /// Goes back to an earlier head, under a new generation of this site. What comes after it is set aside.
    Rewind {
        /// The log, which has its home here.
        log: LogId,
        /// The head to go back to.
        sequence: u64,
        /// Above every generation known here.
        generation: Generation,
        /// The leader's clock.
        time: Hlc,
    }
);

choice!(
    /// Commands of a log group.
    GroupCommand {
        /// Creates a log; its home is `Generation::site`.
        CreateLog((LogDescriptor, Generation)) = 1,
        /// Places proposals.
        Place(PlaceDeltas) = 2,
        /// Appends federated deltas.
        Accept(AcceptDeltas) = 3,
        /// Makes this site home.
        Promote(Promote) = 4,
        /// Stops being home and rewinds to the common point.
        Fence(Fence) = 5,
        /// Moves a peer's cursor.
        Acknowledge(Acknowledge) = 6,
        /// Closes time: nothing will be placed in this group before it.
        Close(CloseTime) = 7,
        /// GC barrier: chunks last touched two barriers ago and unreferenced may go.
        Barrier(u64) = 8,
        /// Changes a policy.
        ChangePolicy(ChangePolicy) = 9,
        /// Drops old versions.
        Prune(Prune) = 10,
        /// Forgets a removed peer's cursors.
        ForgetPeer(SiteId) = 11,
        /// Lets go of what was set aside.
        DiscardAside(DiscardAside) = 12,
        /// Hands a log over to another site.
        HandOver(HandOverLog) = 13,
        /// Goes back to an earlier head under a new generation.
        Rewind(Rewind) = 14,
        /// Counts how long peers have lacked something.
        HoldPeers(HoldPeers) = 15,
    }
);

choice!(
    /// What a log group says about a command.
    GroupOutcome {
        /// Refused as a whole; nothing changed.
        Refused(Refusal) = 0,
        /// Done.
        Done = 1,
        /// Placed, or not, one by one.
        Placed(Vec<Result<DeltaReceipt, Refusal>>) = 2,
        /// The log's head after the command.
        Head(Cursor) = 3,
        /// Versions or deltas dropped.
        Pruned(u32) = 4,
    }
);

choice!(
    /// Whom a token lets in.
    TokenPurpose {
        /// A peer site.
        Peer = 1,
        /// A node of this site, under this name if one is given.
        Node(Option<Label>) = 2,
    }
);
record!(
    /// A token that waits for whom it lets in.
    PendingToken {
        /// BLAKE3 of the secret.
        secret_hash: [u8; 32],
        /// Whom it lets in.
        purpose: TokenPurpose,
        /// No longer good after this.
        expires: Hlc,
    }
);

record!(
    /// A site's identity in its control group.
    SiteRecord {
        /// The site.
        site: SiteId,
        /// Its name.
        name: Label,
        /// How often it was recovered or restored.
        incarnation: u64,
        /// Log groups, fixed when the site was made.
        groups: u32,
    }
);

record!(
    /// A log that a failover to a cut promotes.
    PlannedCut {
        /// The log.
        log: LogId,
        /// Its home then.
        home: Generation,
        /// Its head here then.
        head: DeltaHash,
    }
);
record!(
    /// A failover to a cut that has begun: one that is interrupted goes on by the same cut.
    CutPlan {
        /// When it began. No two begin at one time.
        made: Hlc,
        /// The cut.
        cut: Hlc,
        /// Its logs.
        logs: Vec<PlannedCut>,
    }
);

choice!(
    /// Commands of the control group.
    ControlCommand {
        /// First command of a site.
        Found(SiteRecord) = 1,
        /// Makes a tenant, or adds epochs to it.
        PutTenant(Tenant) = 2,
        /// Makes a log, or changes its policy if its version is higher.
        PutLog(LogDescriptor) = 3,
        /// Adds a peer or changes its record.
        PutPeer(PeerRecord) = 4,
        /// Pauses, resumes, limits or removes a peer.
        SetPeer((Label, PeerAction)) = 5,
        /// A token was made.
        PutToken(PendingToken) = 6,
        /// A token was used by this peer, at this time.
        RedeemToken(RedeemToken) = 7,
        /// A node asks to be let in, at this time of the leader's clock.
        JoinNode((NodeJoin, Hlc)) = 8,
        /// What a node is and has; makes the first node of a site known as well.
        RegisterNode(NodeBeat) = 9,
        /// Counts on a node in another way.
        SetNodeState((NodeId, NodeState)) = 10,
        /// Gives a group its members.
        AssignGroup(GroupRecord) = 11,
        /// These have left a group.
        SettleGroup((GroupId, Vec<NodeId>)) = 12,
        /// Limits repair on each node, in bytes a second; 0: not at all.
        LimitRepair(u64) = 13,
        /// Keeps what a backup reads until the time that is named, or lets go of it where that is zero.
        HoldBackup(HeldBackup) = 14,
        /// Adds a place to which backups go, or says what was completed there.
        PutBackupTarget(BackupTarget) = 15,
        /// Forgets one.
        ForgetBackupTarget(Label) = 16,
        /// Keeps the cut that a failover goes by, and forgets those that were made at these times.
        PlanCut((Option<CutPlan>, Vec<Hlc>)) = 19,
        /// Cuts new chunks this way from now on, and those that are there one after the other.
        SetGeometry(Geometry) = 18,
        /// Goes on without nodes that were lost with the majority of a group.
        Recover(Recovery) = 20,
        /// Has backups made by the site itself, or no more.
        ScheduleBackup(ScheduleBackup) = 17,
        /// Lists an identity.
        PutIdentity(PutIdentity) = 40,
        /// Refuses an identity from now on.
        RevokeIdentity(RevokeIdentity) = 41,
        /// Begins the way to the next authority.
        IntroduceAuthority(IntroduceAuthority) = 42,
        /// The next authority issues from here on, if the site is at this step still.
        StepAuthority(u64) = 43,
        /// The authority before is trusted no more.
        DropAuthority(DropAuthority) = 44,
        /// A node has come along.
        StandNode(NodeStanding) = 45,
        /// A peer has come along.
        TellPeer(PeerTold) = 46,
        /// Trusts these about a peer.
        PutPeerAuthorities(PeerAuthorities) = 47,
        /// Does what a command says and writes down that it did, in one step.
        Audited(AuditedCommand) = 50,
        /// A peer's nodes are found elsewhere now.
        MovePeer(PeerEndpoints) = 48,
        /// Writes down what happens elsewhere.
        NoteAudit(AuditNotes) = 51,
        /// Keeps entries of a peer's audit logs, in order.
        AcceptAudit(AcceptAudit) = 52,
    }
);

record!(
    /// Entries of a peer's audit logs.
    AcceptAudit {
        /// The peer.
        site: SiteId,
        /// Encoded entries, each the next one of its log.
        entries: Vec<Bytes>,
    }
);

record!(
    /// A peer shows a token's secret.
    RedeemToken {
        /// BLAKE3 of the secret shown.
        secret_hash: [u8; 32],
        /// Who shows it.
        peer: PeerRecord,
        /// The leader's clock.
        time: Hlc,
    }
);

choice!(
    /// What the control group says about a command.
    ControlOutcome {
        /// Refused; nothing changed.
        Refused(Refusal) = 0,
        /// Done.
        Done = 1,
        /// A node was let in under this number.
        Joined(NodeId) = 2,
    }
);
