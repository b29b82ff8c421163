//! What audit logs tell of each action: its names and figures, and nothing that would be a secret.

use crate::cluster::NodeState;
use crate::command::TokenPurpose;
use crate::delta::{Generation, LogPolicy};
use crate::dump::BackupSchedule;
use crate::erasure::Geometry;
use crate::identity::IdentityRole;
use crate::ids::{DeviceId, EpochId, Hlc, Label, LogId, NodeId, SiteId, TenantId};
use crate::message::PeerAction;
use crate::{choice, record};

record!(
    /// A site that was made.
    AuditedSite {
        /// Its name.
        name: Label,
        /// Its log groups.
        groups: u32,
    }
);
record!(
    /// A tenant that was made or given keys.
    AuditedTenant {
        /// Its name.
        name: Label,
        /// It is new here.
        created: bool,
        /// Key epochs that are new here.
        epochs_added: u32,
        /// The last of them.
        newest: Option<AuditedEpoch>,
    }
);
record!(
    /// A key epoch.
    AuditedEpoch {
        /// Which.
        epoch: EpochId,
        /// The version of the tenant's key in the KMS.
        key_version: u32,
    }
);
record!(
    /// A log that was made, or given another policy.
    AuditedLog {
        /// The log.
        log: LogId,
        /// Its tenant's name.
        tenant_name: Label,
        /// Its name.
        name: Label,
        /// It is new here.
        created: bool,
        /// Its policy from now on.
        policy: LogPolicy,
    }
);
record!(
    /// A peer.
    AuditedPeer {
        /// The site.
        peer: SiteId,
        /// Its name.
        name: Label,
    }
);
record!(
    /// A peer that was paused, resumed or removed.
    AuditedPeerOrder {
        /// Its name.
        name: Label,
        /// What was ordered.
        action: PeerAction,
    }
);
record!(
    /// A token that was made.
    AuditedToken {
        /// Whom it lets in.
        purpose: TokenPurpose,
        /// Until when.
        expires: Hlc,
    }
);
record!(
    /// A node that was let in, or is counted on in another way.
    AuditedNode {
        /// Its number; 0 where it was given none.
        node: NodeId,
        /// Its name, where it has one.
        name: Option<Label>,
        /// How the site counts on it.
        state: NodeState,
    }
);
record!(
    /// A place to which backups go.
    AuditedTarget {
        /// What it is called.
        name: Label,
        /// Where it is.
        url: String,
    }
);
record!(
    /// A backup that was completed.
    AuditedBackup {
        /// Where.
        target: Label,
        /// Its number there.
        number: u64,
        /// What was acknowledged before this is in it.
        cut: Hlc,
        /// Chunks in it.
        chunks: u64,
    }
);
record!(
    /// When backups are made from now on.
    AuditedSchedule {
        /// Where.
        target: Label,
        /// When; `None`: never.
        schedule: Option<BackupSchedule>,
    }
);
record!(
    /// How a site went on that had lost a quorum.
    AuditedRecovery {
        /// Its incarnation from then on.
        incarnation: u64,
        /// Nodes that it goes on without.
        lost: Vec<NodeId>,
        /// Groups that were begun anew, empty.
        emptied_groups: u32,
    }
);
record!(
    /// A site that was restored from a backup.
    AuditedRestore {
        /// Its incarnation from then on.
        incarnation: u64,
        /// The moment that it went back to, where that is not the backup's own.
        at: Option<Hlc>,
    }
);
record!(
    /// A failover that was ordered.
    AuditedFailover {
        /// Only logs whose home was this site.
        from: Option<Label>,
        /// Only this log.
        log: Option<LogId>,
        /// Whatever preflight says.
        forced: bool,
        /// As the logs were at one time.
        to_cut: bool,
        /// At this one, once it is over.
        cut: Option<Hlc>,
        /// Logs that were promoted, once it is over.
        logs: Option<u32>,
        /// Logs that could not be.
        refused: Option<u32>,
        /// Milliseconds that it took, once it is over.
        took_ms: Option<u64>,
        /// The old home answered that it takes no writes any more.
        fenced: bool,
    }
);
record!(
    /// A log of which a site made itself home.
    AuditedPromotion {
        /// The log.
        log: LogId,
        /// Its tenant's name.
        tenant_name: Label,
        /// Its name.
        name: Label,
        /// Its generation from then on.
        generation: Generation,
        /// The last sequence that was kept of the old home's.
        position: u64,
        /// Deltas known to be lost; `None`: nobody knows.
        lost_deltas: Option<u64>,
        /// Milliseconds of writes known to be lost.
        lost_ms: Option<u64>,
    }
);
record!(
    /// A log that was handed over to its next home.
    AuditedHandOver {
        /// The log.
        log: LogId,
        /// Its tenant's name.
        tenant_name: Label,
        /// Its name.
        name: Label,
        /// The next home.
        to: Label,
        /// The next home's generation.
        generation: Generation,
        /// The last sequence of the old generation, once it is known.
        position: Option<u64>,
    }
);
record!(
    /// A switchover that has moved logs.
    AuditedSwitchover {
        /// The next home.
        to: Label,
        /// Only because it was home before.
        back: bool,
        /// Logs that were moved.
        moved: u32,
        /// Logs that were not, or are in transit.
        left: u32,
        /// Milliseconds in which a log took no writes, at most.
        stalled_ms: u64,
    }
);
record!(
    /// What was set aside and let go of.
    AuditedDiscard {
        /// The log.
        log: LogId,
        /// Deltas.
        deltas: u64,
    }
);
record!(
    /// A drill, and what it found once it is over.
    AuditedDrill {
        /// Only logs whose home is this site.
        from: Option<Label>,
        /// Only this log.
        log: Option<LogId>,
        /// What it found.
        found: Option<AuditedFindings>,
    }
);
record!(
    /// What a drill found, as the client says that carried it out.
    AuditedFindings {
        /// Logs that were weighed.
        logs: u32,
        /// Objects that were read and opened.
        objects: u64,
        /// Their bytes.
        bytes: u64,
        /// Objects and logs that could not be.
        failures: u32,
        /// What speaks against a failover.
        objections: u32,
    }
);
record!(
    /// A look at whether a tenant's keys are destroyed, as the client says that asked its KMS.
    AuditedShred {
        /// The tenant's name.
        name: Label,
        /// Keys that were asked about.
        keys: u32,
        /// Keys that are not gone, or of which the KMS does not say.
        left: u32,
    }
);
record!(
    /// Shares of the system key that were written.
    AuditedExport {
        /// Which export.
        set: [u8; 16],
        /// How many shares give the key back.
        threshold: u8,
        /// How many were written, or read back.
        shares: u8,
    }
);
record!(
    /// An identity that was issued.
    AuditedIdentity {
        /// Its tenant; `None`: an operator's.
        tenant: Option<TenantId>,
    }
);
record!(
    /// An identity that the site keeps a list of.
    AuditedListing {
        /// Its serial.
        serial: [u8; 16],
        /// What it is called, where it is listed.
        name: Option<Label>,
        /// What its holder may be, where it is listed.
        role: Option<IdentityRole>,
        /// When it expires, where it is listed.
        expires: Option<Hlc>,
    }
);
record!(
    /// What is believed of a peer's authorities.
    AuditedTrust {
        /// The peer.
        peer: SiteId,
        /// How far it is on its way from one authority to the next.
        change: u64,
        /// The BLAKE3 hashes of the certificates that are trusted.
        certificates: Vec<[u8; 32]>,
    }
);
record!(
    /// A device of a node that is to go, or to stay after all.
    AuditedEviction {
        /// The node.
        node: Label,
        /// The device.
        device: DeviceId,
        /// Whether it is to go.
        leaves: bool,
    }
);
record!(
    /// A device that was put in the place of another one.
    AuditedDevice {
        /// The one that was replaced, as the node's settings named it.
        old: String,
        /// The one in its place.
        new: String,
    }
);
record!(
    /// Backups that were let go of.
    AuditedPrune {
        /// Where.
        url: String,
        /// Backups that stay, once it is over.
        kept: Option<u32>,
        /// Backups that went.
        removed: Option<u32>,
        /// Packs that went.
        removed_packs: Option<u32>,
    }
);

choice!(
    /// What was done.
    AuditAction {
        /// The site was made.
        Found(AuditedSite) = 1,
        /// A tenant was made or given keys.
        Tenant(AuditedTenant) = 2,
        /// A log was made or given another policy.
        Log(AuditedLog) = 3,
        /// This site has joined a peer.
        AddPeer(AuditedPeer) = 4,
        /// A peer was paused, resumed or removed.
        SetPeer(AuditedPeerOrder) = 5,
        /// A token was made.
        Token(AuditedToken) = 6,
        /// A peer has joined this site with a token.
        PeerJoined(AuditedPeer) = 7,
        /// A node was let in with a token.
        NodeJoined(AuditedNode) = 8,
        /// A node is drained, taken back or removed.
        SetNode(AuditedNode) = 9,
        /// What repair reads and writes is limited, in bytes a second; 0: not any more.
        RepairLimit(u64) = 10,
        /// A place for backups was added.
        BackupTarget(AuditedTarget) = 11,
        /// A backup was completed.
        Backup(AuditedBackup) = 12,
        /// A place for backups was forgotten.
        ForgetBackupTarget(Label) = 13,
        /// Backups are made at other times.
        BackupSchedule(AuditedSchedule) = 14,
        /// The site goes on without nodes that it has lost.
        Recover(AuditedRecovery) = 15,
        /// The site was restored.
        Restore(AuditedRestore) = 16,
        /// An identity was issued, and joined the list.
        IssueIdentity(AuditedListing) = 17,
        /// An identity is refused from now on.
        RevokeIdentity(AuditedListing) = 18,
        /// The site is to have another authority, of this generation.
        IntroduceAuthority(u32) = 19,
        /// The authority before is trusted no more; `true`: whoever depends on it.
        DropAuthority(bool) = 20,
        /// These are believed of a peer.
        TrustPeer(AuditedTrust) = 21,
        /// Chunks are cut another way from now on.
        SiteGeometry(Geometry) = 22,
        /// A failover.
        Failover(AuditedFailover) = 32,
        /// A log was promoted.
        Promote(AuditedPromotion) = 33,
        /// A log was handed over.
        HandOver(AuditedHandOver) = 34,
        /// A switchover.
        Switchover(AuditedSwitchover) = 35,
        /// What was set aside was let go of.
        Discard(AuditedDiscard) = 36,
        /// Scrubbing was begun, with this part of a shard's time in percent; 0: what the nodes' settings say.
        Scrub(u8) = 37,
        /// A drill.
        Drill(AuditedDrill) = 38,
        /// A look at a tenant's keys.
        Shred(AuditedShred) = 39,
        /// A log is to be given another policy, in its group first.
        Policy(AuditedLog) = 40,
        /// A device is to go, or to stay after all.
        Evict(AuditedEviction) = 41,
        /// What lies elsewhere than it should is moved; `false`: not any more.
        Rebalance(bool) = 42,
        /// Nodes' certificates are renewed before it is time.
        RotateCertificates = 43,
        /// The system key was exported.
        KeyExport(AuditedExport) = 48,
        /// Shares of it were read back.
        KeyConfirm(AuditedExport) = 49,
        /// It was brought back out of shares.
        KeyImport = 50,
        /// It was sealed under a passphrase, or under another one.
        KeySeal = 51,
        /// The seal was taken off.
        KeyUnseal = 52,
        /// A node was told its passphrase.
        Unlock = 53,
        /// An identity was issued.
        Identity(AuditedIdentity) = 54,
        /// A device was replaced.
        Device(AuditedDevice) = 55,
        /// Backups were let go of.
        Prune(AuditedPrune) = 56,
        /// A device was added, as the node's settings name it.
        AddDevice(String) = 57,
    }
);
