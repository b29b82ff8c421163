//! Values that seeds are made of, small and all different.

use bytes::Bytes;
use farside_codec::Field;
use farside_codec::audit::{
    AuditAction, AuditActor, AuditEntry, AuditHash, AuditNote, AuditNotes, AuditOutcome, AuditScope, AuditUser,
    AuditedCommand, AuditedPromotion,
};
use farside_codec::authority::{Authorities, AuthorityStep, IntroduceAuthority, PeerAuthorities, SiteAuthority};
use farside_codec::cluster::{GroupRecord, NodeRecord, NodeState};
use farside_codec::command::{ControlCommand, CutPlan, PlannedCut};
use farside_codec::delta::{
    Branch, ChunkReceipt, ChunkRef, Cursor, Delta, DeltaKind, DeltaReceipt, EpochRecord, Extent, Generation, Left,
    Lineage, LogDescriptor, LogPolicy, Proposal, PrunedDelta,
};
use farside_codec::identity::{IdentityRecord, IdentityRole, IssueIdentity, PutIdentity, Revocation, RevokeIdentity};
use farside_codec::ids::{
    BlindName, ChunkId, DeltaHash, EpochId, GroupId, Hlc, Label, LogId, NodeId, OperationId, SiteId, TenantId,
};
use farside_codec::message::{ClosedLog, PeerEndpoints};
use farside_codec::record::wal;
use farside_codec::recovery::{ForcedGroup, GroupReport, LogReport, NamedLog, NodeReport, RecoveredFile, Recovery};

/// A site.
pub fn site(number: u8) -> SiteId {
    SiteId([number; 16])
}

/// A log.
pub fn log(number: u8) -> LogId {
    LogId([0x20 | number; 16])
}

/// A label that is one.
pub fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}

/// A generation of site 1.
pub fn generation() -> Generation {
    Generation { counter: 3, site: site(1), incarnation: 2 }
}

/// A place in a log.
pub fn cursor() -> Cursor {
    Cursor { generation: generation(), sequence: 77, hash: DeltaHash([4; 32]) }
}

/// What is left of a delta that was pruned.
pub fn pruned() -> PrunedDelta {
    let cursor = Cursor { generation: generation(), sequence: 4, hash: DeltaHash([6; 32]) };
    PrunedDelta {
        cursor,
        time: Hlc(8),
        total_bytes: 99,
        left: Left { operation: OperationId([8; 16]), removed: Some(BlindName([9; 32])) },
    }
}

/// A key epoch.
pub fn epoch(number: u8) -> EpochRecord {
    let epoch = EpochId([number; 16]);
    EpochRecord { epoch, salt: [6; 32], key_name: "acme".into(), key_version: 2, check: [7; 16] }
}

/// A chunk.
pub fn chunk(number: u8) -> ChunkRef {
    ChunkRef { chunk: ChunkId([number; 32]), sealed_bytes: 100 + u32::from(number) }
}

/// A proposal with everything in it.
pub fn proposal(kind: DeltaKind) -> Proposal {
    Proposal {
        operation: OperationId([8; 16]),
        kind,
        name: BlindName([9; 32]),
        key_epoch: EpochId([5; 16]),
        gc_epoch: 12,
        placement_epoch: 13,
        condition: Some(14),
        size_bytes: 15,
        chunks: vec![chunk(10), chunk(11)],
        extent: Some(Extent { object: OperationId([11; 16]), index: 17 }),
        payload: Bytes::from_static(b"payload"),
        inline: Bytes::from_static(b"inline"),
    }
}

/// One of each kind.
pub fn kinds() -> Vec<DeltaKind> {
    vec![
        DeltaKind::Put,
        DeltaKind::Remove,
        DeltaKind::Epoch(epoch(5)),
        DeltaKind::Extent,
        DeltaKind::Switchover(generation()),
        DeltaKind::Config(Bytes::from_static(b"config")),
        DeltaKind::Promoted(generation()),
    ]
}

/// A delta.
pub fn delta(kind: DeltaKind) -> Delta {
    Delta {
        log: log(2),
        generation: generation(),
        sequence: 78,
        previous: DeltaHash([4; 32]),
        time: Hlc(99),
        closed: Hlc(98),
        proposal: proposal(kind),
    }
}

/// A lineage of two generations.
pub fn lineage() -> Lineage {
    let later = Generation { counter: 4, site: site(2), incarnation: 0 };
    vec![
        Branch { generation: generation(), first: 1, previous: DeltaHash::ZERO },
        Branch { generation: later, first: 70, previous: DeltaHash([3; 32]) },
    ]
}

/// A log's descriptor.
pub fn descriptor(number: u8) -> LogDescriptor {
    LogDescriptor {
        log: log(number),
        tenant: TenantId([3; 16]),
        tenant_name: label("acme"),
        name: label("photos"),
        created: Hlc(5),
        first_epoch: epoch(1),
        policy: LogPolicy::default(),
        policy_version: 6,
    }
}

/// What a store answers.
pub fn chunk_receipt() -> ChunkReceipt {
    ChunkReceipt {
        durable_fragments: 6,
        data_fragments: 4,
        parity_fragments: 2,
        placement_epoch: 1,
        gc_epoch: 2,
        deduplicated: true,
    }
}

/// What a log answers.
pub fn delta_receipt() -> DeltaReceipt {
    DeltaReceipt { cursor: cursor(), time: Hlc(9), operation: OperationId([8; 16]), replayed: false }
}

/// A place in a Raft log.
pub fn position(index: u64) -> wal::LogPosition {
    wal::LogPosition { term: 1, leader: NodeId(2), index }
}

/// Voters.
pub fn membership() -> wal::StoredMembership {
    let membership = wal::Membership { configurations: vec![vec![NodeId(1), NodeId(2)]], nodes: vec![NodeId(1)] };
    wal::StoredMembership { position: Some(position(3)), membership }
}

/// A record of a write-ahead log's entry.
pub fn entry(index: u64, payload: wal::EntryPayload) -> wal::Entry {
    wal::Entry { position: position(index), payload }
}

/// A snapshot of two pieces.
pub fn snapshot() -> wal::SnapshotRecord {
    wal::SnapshotRecord { last: Some(position(3)), membership: membership(), pieces: vec![chunk(1), chunk(2)] }
}

/// Who is in a group.
fn group_record() -> GroupRecord {
    let (members, leaving) = (vec![NodeId(1), NodeId(2)], vec![NodeId(3)]);
    GroupRecord { group: GroupId(1), members, leader: NodeId(2), leaving, stints: 4 }
}

/// What one of three nodes has of a site with one log group.
pub fn node_report() -> NodeReport {
    let named = NamedLog { log: log(1), tenant: label("acme"), name: label("photos") };
    let node = |number: u64| NodeRecord {
        node: NodeId(number),
        name: label("left"),
        endpoint: "127.0.0.1:1".into(),
        shards: 1,
        rack: None,
        state: NodeState::Up,
        devices: Vec::new(),
    };
    let held = LogReport {
        log: named.clone(),
        generation: generation(),
        home: true,
        sequence: 77,
        hash: DeltaHash([4; 32]),
        time: Hlc(98),
    };
    let group = |group: u32, logs: Vec<LogReport>| GroupReport {
        group: GroupId(group),
        member: NodeId(1),
        vote: Some(wal::Vote { term: 2, leader: NodeId(2), committed: true }),
        last: Some(position(9)),
        committed: Some(position(8)),
        covered: Some(position(6)),
        leaders: vec![position(7)],
        membership: membership().membership,
        logs,
    };
    NodeReport {
        site: site(1),
        site_name: label("near"),
        incarnation: 0,
        node: NodeId(1),
        made: Hlc(99),
        log_groups: 1,
        nodes: (1..4).map(node).collect(),
        assigned: vec![group_record()],
        logs: vec![named],
        groups: vec![group(0, Vec::new()), group(1, vec![held])],
    }
}

/// How a site goes on with one node of three.
pub fn recovered() -> RecoveredFile {
    let forced = ForcedGroup {
        group: GroupId(1),
        member: NodeId(1),
        last: Some(position(9)),
        entry: wal::LogPosition { term: 3, leader: NodeId(1), index: 10 },
        listeners: vec![NodeId(2)],
    };
    let lost = vec![NodeId(3)];
    let recovery =
        Recovery { incarnation: 1, lost: lost.clone(), groups: vec![group_record()], emptied: vec![GroupId(2)] };
    RecoveredFile { recovery, forced: vec![forced], fenced: lost }
}

/// An identity of a tenant's client.
pub fn identity_record(number: u8) -> IdentityRecord {
    let role = IdentityRole::Client(TenantId([3; 16]));
    let (issued, expires) = (Hlc::from_ms(1), Hlc::from_ms(86_400_000));
    IdentityRecord { serial: [number; 16], name: label("web-1"), role, authority: 1, issued, expires, revoked: None }
}

/// Lists it.
pub fn put_identity(number: u8) -> PutIdentity {
    PutIdentity { record: identity_record(number), named: true, time: Hlc::from_ms(2) }
}

/// Revokes it.
pub fn revoke_identity(number: u8) -> RevokeIdentity {
    let revocation = Revocation { at: Hlc::from_ms(3), by: label("admin") };
    RevokeIdentity { serial: [number; 16], revocation, force: false }
}

/// Asks for one.
pub fn issue_identity() -> IssueIdentity {
    IssueIdentity { name: label("web-1"), tenant: Some(label("acme")), life_seconds: 86_400, public_key: [9; 32] }
}

fn authority(generation: u32) -> SiteAuthority {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let (certificate, endorsement) = (if generation == 0 { bytes("CA") } else { bytes("next CA") }, bytes("vouched"));
    SiteAuthority { generation, certificate, endorsement, sealed_key: bytes("sealed"), made: Hlc(1) }
}

/// A site on its way from its first authority to the next.
pub fn authorities() -> Authorities {
    Authorities { change: 2, step: AuthorityStep::Issuing, current: authority(1), other: Some(authority(0)) }
}

/// Begins that way.
pub fn introduce_authority() -> IntroduceAuthority {
    IntroduceAuthority { current: authority(0), next: authority(1) }
}

/// What a peer is told of it.
pub fn peer_authorities() -> PeerAuthorities {
    let certificates = authorities().trusted().map(|one| one.certificate.clone()).collect();
    PeerAuthorities { site: site(2), change: 2, certificates }
}

/// Where a peer's nodes are.
pub fn peer_endpoints() -> PeerEndpoints {
    PeerEndpoints { site: site(2), endpoints: vec!["10.0.0.1:7400".into(), "[fd00::2]:7400".into()] }
}

/// Something that audit logs tell.
fn audit_action() -> AuditAction {
    AuditAction::Promote(AuditedPromotion {
        log: log(2),
        tenant_name: label("acme"),
        name: label("photos"),
        generation: generation(),
        position: 77,
        lost_deltas: Some(3),
        lost_ms: None,
    })
}

/// The first entry of a peer's audit log.
pub fn audit_entry() -> AuditEntry {
    AuditEntry {
        site: site(2),
        incarnation: 0,
        scope: AuditScope::Tenant(TenantId([0x22; 16])),
        sequence: 1,
        previous: AuditHash::ZERO,
        time: Hlc(9),
        ordered: Hlc(8),
        order: [6; 16],
        by: AuditActor::Certificate(format!("farside://{}/admin/admin", site(2))),
        action: audit_action(),
        outcome: AuditOutcome::Done,
    }
}

/// Notes for an audit log.
pub fn audit_notes() -> AuditNotes {
    let note = |outcome| AuditNote { scope: AuditScope::Site, action: audit_action(), outcome };
    let by = AuditActor::Machine(AuditUser { node: NodeId(3), user: 1000 });
    let notes = vec![note(AuditOutcome::Ordered), note(AuditOutcome::Done)];
    AuditNotes { id: [5; 16], order: [6; 16], by, ordered: Hlc(8), notes }
}

/// A command that is written down.
pub fn audited_command() -> AuditedCommand {
    let command = ControlCommand::LimitRepair(9).to_bytes();
    AuditedCommand { order: [7; 16], by: AuditActor::Site(NodeId(1)), ordered: Hlc(8), command }
}

/// What a home says of a quiet log.
pub fn closed() -> ClosedLog {
    ClosedLog { log: log(2), generation: generation(), head: DeltaHash([4; 32]), closed: Hlc(9) }
}

/// A failover's cut.
pub fn cut_plan() -> CutPlan {
    let planned = PlannedCut { log: log(2), home: generation(), head: DeltaHash([4; 32]) };
    CutPlan { made: Hlc(8), cut: Hlc(9), logs: vec![planned] }
}
