//! What is said on a wire and agreed on in groups: frame headers, requests, replies, deltas, commands, Raft's messages.
//!
//! The formats are canonical: bytes that are a record are the only way to write it.

use super::allocation::bounded;
use super::feed::Feed;
use super::{Seed, values};
use bytes::Bytes;
use farside_codec::authority::{
    AuthorityOrder, AuthorityProgress, AuthorityStep, DropAuthority, NodeStanding, PeerTold,
};
use farside_codec::cluster::{DropStripes, RaftCall, SetDevice};
use farside_codec::command::{
    AcceptAudit, AcceptDeltas, Acknowledge, ChangePolicy, CloseTime, ControlCommand, ControlOutcome, DiscardAside,
    Fence, GroupCommand, GroupOutcome, HandOverLog, HeldPeer, HoldPeers, PendingToken, PlaceDeltas, Promote, Prune,
    RedeemToken, SiteRecord, TokenPurpose,
};
use farside_codec::delta::{
    Branch, ChunkReceipt, Cursor, Delta, DeltaKind, DeltaReceipt, EpochRecord, Generation, LogDescriptor, LogPolicy,
    Proposal,
};
use farside_codec::erasure::Geometry;
use farside_codec::frame::HEADER_BYTES;
use farside_codec::identity::{Identities, IdentityQuestion, IssuedIdentity, RevokeOrder};
use farside_codec::ids::{BlindName, DeviceId, GroupId, Hlc, Label, NodeId, TenantId};
use farside_codec::message::{
    ChunkRange, FailedOver, Failover, FailoverReport, FedClosed, FedDeltas, FedHello, GetChunk, Hello, History, List,
    LogBehind, LogInfo, LogOffer, LogPosition, LogRefused, Lookup, Moment, PeerAction, PeerJoin, PeerLimits,
    PeerRecord, Propose, PutChunk, ReadDeltas, Refusal, RefusalCode, Reply, Request, ResolveLog, SetPeer, SetPolicy,
    SwitchedOver, Switchover, Tenant, Version, Versions, Weigh, Weighed,
};
use farside_codec::peer::{DayWindow, PeerHold, PeerLimit};
use farside_codec::record::wal::{EntryPayload, Vote};
use farside_codec::{Field, FrameHeader};
use farside_raft::message::{Answer, AppendEntries, Ask, HandOver, RequestVote, SnapshotEnd, SnapshotPiece, Voted};
use farside_transport::hello::common_version;
use std::fmt::Debug;

/// Decodes a record. What is one has no second form, and its lengths reserve nothing before the bytes are there.
pub fn canonical<T: Field + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let input = Bytes::copy_from_slice(bytes);
    let value = bounded(bytes.len(), || T::from_bytes(input)).ok()?;
    assert_eq!(value.to_bytes(), bytes, "{value:?} has a second form");
    Some(value)
}

/// A header as it comes, and one made of the bytes, so that its checksum does not keep everything out.
pub fn frame_header(bytes: &[u8]) {
    if let Ok(header) = FrameHeader::decode(bytes) {
        assert_eq!(header.to_array(), bytes[..HEADER_BYTES], "a header has one form");
        let payload = &bytes[HEADER_BYTES..];
        if header.check_payload(payload).is_ok() {
            let same = FrameHeader::of_payload(header.kind(), header.flags(), header.correlation(), payload);
            assert_eq!(same, header);
        }
    }
    let mut feed = Feed::new(bytes);
    let (kind, flags, correlation) = (feed.short(), feed.word(), feed.long());
    let (bit, limit) = (feed.below(HEADER_BYTES * 8), usize::from(feed.short()));
    let payload = feed.rest();
    let header = FrameHeader::of_payload(kind, flags, correlation, payload);
    let mut array = header.to_array();
    assert_eq!(FrameHeader::decode(&array), Ok(header));
    assert_eq!((header.kind(), header.flags(), header.correlation()), (kind, flags, correlation));
    assert_eq!(header.check_payload(payload), Ok(()));
    assert_eq!(header.check_length(limit).is_ok(), payload.len() <= limit);
    array[bit / 8] ^= 1 << (bit % 8);
    assert!(FrameHeader::decode(&array).is_err(), "bit {bit} may flip");
    if let Some((last, before)) = payload.split_last() {
        assert!(header.check_payload(before).is_err());
        assert!(header.check_payload(&[before, &[!last]].concat()).is_err());
    }
}

/// Seeds of [`frame_header`].
pub fn frame_header_seeds() -> Vec<Seed> {
    let frame = |kind, payload: &[u8]| {
        let header = FrameHeader::of_payload(kind, 0, 4, payload);
        [&header.to_array()[..], payload].concat()
    };
    vec![
        ("empty", frame(2, b"")),
        ("request", frame(1, &Request::ListLogs.to_bytes())),
        ("file", frame(261, b"what a small file holds")),
        ("cut", frame(1, b"payload")[..20].to_vec()),
    ]
}

/// A request, and what a node makes of a greeting and of federated deltas.
pub fn request(bytes: &[u8]) {
    match canonical::<Request>(bytes) {
        Some(Request::Hello(hello)) => {
            let own = own_hello();
            let (here, there) = (common_version(&own, &hello), common_version(&hello, &own));
            assert_eq!(here.as_ref().ok(), there.as_ref().ok(), "both ends choose alike");
            if let Ok(version) = here {
                assert!((hello.oldest_version..=hello.newest_version).contains(&version));
            }
        }
        Some(Request::Propose(propose)) => {
            for proposal in &propose.proposals {
                let _ = proposal.check();
            }
        }
        Some(Request::FedDeltas(deltas)) => deltas.deltas.iter().for_each(|encoded| check_delta(encoded)),
        _ => {}
    }
}

fn own_hello() -> Hello {
    Hello {
        oldest_version: 1,
        newest_version: 2,
        site: values::site(1),
        site_name: values::label("near"),
        incarnation: 3,
        node: NodeId(4),
        shard: 5,
        shards: 6,
        groups: 7,
        now: Hlc(8),
    }
}

fn peer() -> PeerRecord {
    PeerRecord {
        site: values::site(2),
        name: values::label("far"),
        certificate: Bytes::from_static(b"DER"),
        endpoints: vec!["10.0.0.1:7400".into(), "[::1]:7400".into()],
        paused: false,
    }
}

fn peer_limit() -> PeerLimit {
    PeerLimit { rate: 25_000_000, window: Some(DayWindow { from: 22 * 60, until: 6 * 60 }) }
}

fn tenant() -> Tenant {
    let epochs = vec![values::epoch(1), values::epoch(2)];
    Tenant { tenant: TenantId([3; 16]), name: values::label("acme"), epochs, created: Hlc(4) }
}

fn offer() -> LogOffer {
    let (descriptor, lineage) = (values::descriptor(2), values::lineage());
    LogOffer { descriptor, lineage, head: values::cursor(), head_time: Hlc(3) }
}

/// Seeds of [`request`].
pub fn request_seeds() -> Vec<Seed> {
    let beat = |group: u32| {
        let vote = Vote { term: 3, leader: NodeId(1), committed: true };
        let append = AppendEntries { vote, previous: None, entries: Vec::new(), committed: None };
        RaftCall { member: NodeId(2), group: GroupId(group), ask: Ask::Append(append).to_bytes() }
    };
    let log = values::log(2);
    let (name, chunk) = (BlindName([9; 32]), values::chunk(1).chunk);
    let deltas = values::kinds().into_iter().take(3).map(|kind| values::delta(kind).to_bytes()).collect();
    let federated = FedDeltas {
        log,
        lineage: values::lineage(),
        deltas,
        pruned: vec![values::pruned()],
        floor: 5,
        head: values::cursor(),
        head_time: Hlc(1),
        closed: Hlc(2),
        policy: LogPolicy {
            sites: Some(vec![values::site(1), values::site(2)]),
            residency: Some(vec![values::site(1)]),
            quota_bytes: 7,
            ..LogPolicy::default()
        },
        policy_version: 4,
        lease_ms: 3,
    };
    let proposals = vec![values::proposal(DeltaKind::Put), values::proposal(DeltaKind::Remove)];
    let label = values::label("photos");
    let from = Some(values::label("near"));
    let requests = [
        ("hello", Request::Hello(own_hello())),
        ("issue-identity", Request::IssueIdentity(values::issue_identity())),
        ("identities", Request::Identities(IdentityQuestion { after: Some([7; 16]), limit: 9 })),
        ("revoke-identity", Request::RevokeIdentity(RevokeOrder { which: "web-1".into(), force: true })),
        ("authority", Request::Authority(AuthorityOrder::Drop(true))),
        ("fed-authorities", Request::FedAuthorities(values::peer_authorities())),
        ("fed-endpoints", Request::FedEndpoints(values::peer_endpoints())),
        ("put-chunk", Request::PutChunk(PutChunk { chunk, sealed_bytes: 99 })),
        ("have-chunks", Request::HaveChunks(vec![chunk, values::chunk(2).chunk])),
        ("get-chunk", Request::GetChunk(GetChunk { chunk, offset: 1, length: 2 })),
        ("get-own-chunk", Request::GetOwnChunk(GetChunk { chunk, offset: 3, length: 4 })),
        ("propose", Request::Propose(Propose { log, seen: Hlc(1), proposals })),
        ("lookup", Request::Lookup(Lookup { log, name, at: Moment::Time(Hlc(9)) })),
        ("list", Request::List(List { log, at: Moment::Sequence(3), after: Some(name), limit: 4 })),
        ("history", Request::History(History { log, name, before: u64::MAX, limit: 4 })),
        ("read-deltas", Request::ReadDeltas(ReadDeltas { log, from: 1, limit: 4 })),
        ("resolve-log", Request::ResolveLog(ResolveLog { tenant: values::label("acme"), log: label })),
        ("create-tenant", Request::CreateTenant(tenant())),
        ("list-tenants", Request::ListTenants),
        ("create-log", Request::CreateLog(values::descriptor(2))),
        ("set-policy", Request::SetPolicy(SetPolicy { log, policy: LogPolicy::default() })),
        ("peer-add", Request::PeerAdd("farside-peer-1.00".into())),
        (
            "set-device",
            Request::SetDevice(SetDevice { node: values::label("node-2"), device: DeviceId([5; 16]), leaves: true }),
        ),
        ("rebalance", Request::Rebalance(true)),
        ("set-geometry", Request::SetGeometry(Geometry::DEFAULT)),
        (
            "drop-stripes",
            Request::DropStripes(DropStripes { placement_epoch: 3, stripes: vec![(chunk, Geometry::DEFAULT)] }),
        ),
        ("set-peer", Request::SetPeer(SetPeer { name: values::label("far"), action: PeerAction::Pause })),
        (
            "limit-peer",
            Request::SetPeer(SetPeer { name: values::label("far"), action: PeerAction::Limit(peer_limit()) }),
        ),
        ("peer-limits", Request::PeerLimits),
        ("peer-join", Request::PeerJoin(PeerJoin { secret: [5; 32], peer: peer() })),
        ("status", Request::Status),
        ("wall-clock", Request::WallClock),
        ("raft", Request::Raft(beat(1))),
        ("raft-beats", Request::RaftBeats(vec![beat(1), beat(2)])),
        ("failover", Request::Failover(Failover { from, log: Some(log), force: true, cut: true })),
        ("switchover", Request::Switchover(Switchover { to: values::label("far"), log: Some(log), back: true })),
        ("weigh", Request::Weigh(Weigh { from: Some(values::label("near")), log: None })),
        ("fed-hello", Request::FedHello(FedHello { site: values::site(1), offers: vec![offer(), offer()] })),
        ("fed-deltas", Request::FedDeltas(federated)),
        ("fed-closed", Request::FedClosed(FedClosed { group: GroupId(2), logs: vec![values::closed()] })),
    ];
    let long_list = [&17u16.to_le_bytes()[..], &65_536u32.to_le_bytes(), &[7; 64]].concat();
    let long_proposals = [&32u16.to_le_bytes()[..], &[1; 24], &65_536u32.to_le_bytes(), &[0; 400]].concat();
    let long = [("long-list", long_list), ("long-proposals", long_proposals)];
    requests.map(|(name, request)| (name, request.to_bytes().to_vec())).into_iter().chain(long).collect()
}

/// A reply, and the deltas in it.
pub fn reply(bytes: &[u8]) {
    match canonical::<Reply>(bytes) {
        Some(Reply::Deltas(deltas)) => deltas.iter().for_each(|encoded| check_delta(encoded)),
        Some(Reply::Refused(refusal)) => {
            let again = Refusal::new(refusal.code, refusal.detail);
            assert!(again.detail.len() <= 1024, "a refusal that is passed on fits its text");
        }
        Some(Reply::ChunksHeld(held)) => held.iter().flatten().for_each(|receipt| {
            assert!(receipt.losses_survived() <= receipt.durable_fragments);
        }),
        _ => {}
    }
}

/// Seeds of [`reply`].
pub fn reply_seeds() -> Vec<Seed> {
    let refusal = Refusal::retry(RefusalCode::NotHome, 7, "elsewhere");
    let version = Version { delta: values::delta(DeltaKind::Put).to_bytes(), extents: vec![Bytes::from_static(b"x")] };
    let info = LogInfo {
        descriptor: values::descriptor(2),
        group: GroupId(1),
        lineage: values::lineage(),
        home: Some(values::label("near")),
        head: values::cursor(),
        head_time: Hlc(1),
        epochs: vec![values::epoch(1)],
        names: vec![(values::site(2), values::label("far"))],
        live_bytes: 9,
    };
    let over = FailedOver {
        tenant_name: values::label("acme"),
        name: values::label("photos"),
        generation: values::generation(),
        position: 7,
        lost_deltas: Some(1),
        lost_ms: None,
        set_aside: 2,
    };
    let refused = Some(Refusal { home: Some(values::label("far")), ..refusal.clone() });
    let position = LogPosition {
        log: values::log(2),
        head: values::cursor(),
        whole: values::pruned().cursor,
        lineage: values::lineage(),
        refusal: refused,
    };
    let range = ChunkRange { sealed_bytes: 9, offset: 1, length: 2 };
    let behind = LogBehind {
        tenant_name: values::label("acme"),
        name: values::label("photos"),
        deltas: 3,
        bytes: 4,
        in_transit: Some(values::cursor()),
    };
    let refused_log =
        LogRefused { tenant_name: values::label("acme"), name: values::label("music"), refusal: refusal.clone() };
    let moved = SwitchedOver {
        moved: vec![over.clone()],
        left: vec![behind],
        refused: vec![refused_log.clone()],
        stalled_ms: 5,
    };
    let report = FailoverReport {
        logs: vec![over.clone()],
        before: vec![over.clone()],
        refused: vec![refused_log],
        cut: Some(Hlc(8)),
        rto_ms: 9,
        fenced: true,
    };
    let weighed = Weighed {
        logs: vec![over.clone()],
        home_answers: true,
        objections: vec!["unknown".into()],
        commits_ms: 6,
        cut: Some(Hlc(7)),
    };
    let issued = IssuedIdentity {
        site_name: values::label("near"),
        record: values::identity_record(1),
        certificate: Bytes::from_static(b"DER"),
        authority: Bytes::from_static(b"CA"),
        endpoints: vec!["10.0.0.1:7400".into()],
    };
    let progress = AuthorityProgress {
        generation: 1,
        step: AuthorityStep::Issuing,
        waits: vec!["node-2".into()],
        depends: vec!["operator anna".into()],
    };
    let replies = [
        ("refused", Reply::Refused(refusal.clone())),
        ("issued-identity", Reply::IssuedIdentity(issued)),
        ("identities", Reply::Identities(Identities { identities: vec![values::identity_record(1)], more: true })),
        ("certificates", Reply::CertificatesRenewed(vec!["node-2".into()])),
        ("authority", Reply::Authority(progress)),
        ("revoked-identity", Reply::RevokedIdentity(values::identity_record(2))),
        ("done", Reply::Done),
        ("chunk-stored", Reply::ChunkStored(values::chunk_receipt())),
        ("chunks-held", Reply::ChunksHeld(vec![None, Some(values::chunk_receipt()), None])),
        ("chunk-range", Reply::ChunkRange(range)),
        ("proposed", Reply::Proposed(vec![Ok(values::delta_receipt()), Err(refusal)])),
        ("found", Reply::Found(Some(version.clone()))),
        ("versions", Reply::Versions(Versions { versions: vec![version.clone(), version], more: true })),
        ("deltas", Reply::Deltas(vec![values::delta(DeltaKind::Put).to_bytes(), Bytes::new()])),
        ("log", Reply::Log(info.clone())),
        ("logs", Reply::Logs(vec![info.clone(), info])),
        ("tenants", Reply::Tenants(vec![tenant()])),
        ("token", Reply::Token("farside-peer-1.".into())),
        ("peers", Reply::Peers(vec![peer()])),
        ("wall-clock", Reply::WallClock(1_700_000_000_000)),
        ("raft-beats", Reply::RaftBeats(vec![Some(Answer::Appended.to_bytes()), None])),
        (
            "peer-limits",
            Reply::PeerLimits(vec![PeerLimits {
                site: values::site(2),
                limits: vec![peer_limit()],
                hold: PeerHold { seconds: Some(7), bytes: None },
            }]),
        ),
        ("status", Reply::Status(Bytes::from_static(b"{}"))),
        ("failed-over", Reply::FailedOver(report)),
        ("switched-over", Reply::SwitchedOver(moved)),
        ("weighed", Reply::Weighed(weighed)),
        ("positions", Reply::FedPositions(vec![position.clone()])),
        ("ack", Reply::FedAck(position)),
    ];
    // All of one byte each, and the number of those that a list may have at most.
    let held = [&17u16.to_le_bytes()[..], &2000u32.to_le_bytes(), &[0; 2000]].concat();
    let nothing = ("held-nothing", held);
    replies.map(|(name, reply)| (name, reply.to_bytes().to_vec())).into_iter().chain([nothing]).collect()
}

/// What reads a delta agrees about it.
fn check_delta(encoded: &[u8]) {
    if let Ok(delta) = Delta::parse(Bytes::copy_from_slice(encoded)) {
        assert_eq!(delta.to_bytes(), encoded, "a delta has one form, and so one hash");
        assert!(delta.sequence > 0 && delta.proposal.check().is_ok());
        assert_eq!(Delta::hash(encoded), Delta::hash(&delta.to_bytes()));
    }
}

/// A delta, and each of the parts that it and its neighbours are made of.
pub fn delta(bytes: &[u8]) {
    check_delta(bytes);
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 12 {
        0 => drop(canonical::<Delta>(bytes)),
        1 => drop(canonical::<Proposal>(bytes).map(|proposal| proposal.check())),
        2 => drop(canonical::<DeltaKind>(bytes)),
        3 => drop(canonical::<Vec<Branch>>(bytes)),
        4 => drop(canonical::<Cursor>(bytes)),
        5 => drop(canonical::<EpochRecord>(bytes)),
        6 => drop(canonical::<LogDescriptor>(bytes)),
        7 => drop(canonical::<ChunkReceipt>(bytes).map(|receipt| receipt.losses_survived())),
        8 => drop(canonical::<DeltaReceipt>(bytes)),
        9 => drop(canonical::<Generation>(bytes)),
        10 => drop(canonical::<(Label, Option<LogPolicy>)>(bytes)),
        _ => check_delta(bytes),
    }
}

/// Seeds of [`delta`].
pub fn delta_seeds() -> Vec<Seed> {
    let of = |which: u8, bytes: Bytes| [&[which], &bytes[..]].concat();
    let names = ["put", "remove", "epoch", "extent", "switchover", "config", "promoted"];
    let kinds =
        names.into_iter().zip(values::kinds()).map(|(name, kind)| (name, values::delta(kind).to_bytes().into()));
    let parts = [
        ("part-delta", of(0, values::delta(DeltaKind::Put).to_bytes())),
        ("part-proposal", of(1, values::proposal(DeltaKind::Extent).to_bytes())),
        ("part-kind", of(2, DeltaKind::Epoch(values::epoch(3)).to_bytes())),
        ("part-lineage", of(3, values::lineage().to_bytes())),
        ("part-cursor", of(4, values::cursor().to_bytes())),
        ("part-epoch", of(5, values::epoch(3).to_bytes())),
        ("part-descriptor", of(6, values::descriptor(3).to_bytes())),
        ("part-chunk-receipt", of(7, values::chunk_receipt().to_bytes())),
        ("part-delta-receipt", of(8, values::delta_receipt().to_bytes())),
        ("part-generation", of(9, values::generation().to_bytes())),
        ("part-label", of(10, (values::label("a.b_c-9"), Some(LogPolicy::default())).to_bytes())),
    ];
    kinds.chain(parts).collect()
}

/// What groups agree on, and what they answer.
pub fn command(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 4 {
        0 => drop(canonical::<GroupCommand>(bytes)),
        1 => drop(canonical::<GroupOutcome>(bytes)),
        2 => drop(canonical::<ControlCommand>(bytes)),
        _ => drop(canonical::<ControlOutcome>(bytes)),
    }
}

/// Commands of a log group, one of each.
pub(super) fn group_commands() -> Vec<(&'static str, GroupCommand)> {
    let (log, time) = (values::log(2), Hlc(7));
    let (generation, lineage, head) = (values::generation(), values::lineage(), values::cursor());
    let place = PlaceDeltas { log, time, site: values::site(1), proposals: vec![values::proposal(DeltaKind::Put)] };
    let accept = AcceptDeltas {
        log,
        lineage: lineage.clone(),
        deltas: vec![values::delta(DeltaKind::Put).to_bytes()],
        pruned: vec![values::pruned()],
        floor: 5,
        head: head.clone(),
        head_time: time,
        closed: Hlc(2),
        policy: LogPolicy::default(),
        policy_version: 4,
        lease_ms: 3,
    };
    let held = HeldPeer { site: values::site(2), most_ms: 4, most_bytes: u64::MAX };
    vec![
        ("create-log", GroupCommand::CreateLog((values::descriptor(2), generation))),
        ("place", GroupCommand::Place(place)),
        ("accept", GroupCommand::Accept(accept)),
        (
            "promote",
            GroupCommand::Promote(Promote { log, generation, time, weighed: Some((generation, 3)), cut: Some(Hlc(4)) }),
        ),
        ("fence", GroupCommand::Fence(Fence { log, lineage, time })),
        (
            "acknowledge",
            GroupCommand::Acknowledge(Acknowledge {
                log,
                peer: values::site(2),
                cursor: head,
                time,
                instead_of: Some(Hlc(9)),
            }),
        ),
        ("close", GroupCommand::Close(CloseTime { closed: Hlc(9), copies: vec![values::closed()] })),
        ("barrier", GroupCommand::Barrier(3)),
        ("change-policy", GroupCommand::ChangePolicy(ChangePolicy { log, policy: LogPolicy::default() })),
        ("prune", GroupCommand::Prune(Prune { log, horizon: Hlc(3), below: 4, limit: 5 })),
        ("forget-peer", GroupCommand::ForgetPeer(values::site(2))),
        ("discard-aside", GroupCommand::DiscardAside(DiscardAside { log, expected: 3, limit: 2 })),
        ("hold-peers", GroupCommand::HoldPeers(HoldPeers { peers: vec![held], passed_ms: 7 })),
        ("hand-over", GroupCommand::HandOver(HandOverLog { log, to: generation, time })),
    ]
}

/// Commands of the control group, one of each.
pub(super) fn control_commands() -> Vec<(&'static str, ControlCommand)> {
    let site = SiteRecord { site: values::site(1), name: values::label("near"), incarnation: 0, groups: 4 };
    let redeem = RedeemToken { secret_hash: [5; 32], peer: peer(), time: Hlc(8) };
    let accept_audit = AcceptAudit { site: values::site(2), entries: vec![values::audit_entry().to_bytes()] };
    vec![
        ("control-found", ControlCommand::Found(site)),
        ("control-tenant", ControlCommand::PutTenant(tenant())),
        ("control-log", ControlCommand::PutLog(values::descriptor(2))),
        ("control-peer", ControlCommand::PutPeer(peer())),
        ("control-set-peer", ControlCommand::SetPeer((values::label("far"), PeerAction::Remove))),
        (
            "control-token",
            ControlCommand::PutToken(PendingToken {
                secret_hash: [5; 32],
                purpose: TokenPurpose::Peer,
                expires: Hlc(9),
            }),
        ),
        ("control-redeem", ControlCommand::RedeemToken(redeem)),
        ("control-put-identity", ControlCommand::PutIdentity(values::put_identity(1))),
        ("control-revoke-identity", ControlCommand::RevokeIdentity(values::revoke_identity(1))),
        ("control-introduce", ControlCommand::IntroduceAuthority(values::introduce_authority())),
        ("control-plan-cut", ControlCommand::PlanCut((Some(values::cut_plan()), vec![Hlc(3)]))),
        ("control-geometry", ControlCommand::SetGeometry(Geometry::DEFAULT)),
        ("control-step", ControlCommand::StepAuthority(1)),
        ("control-drop", ControlCommand::DropAuthority(DropAuthority { change: 2, force: true, time: Hlc(9) })),
        ("control-stand", ControlCommand::StandNode(NodeStanding { node: NodeId(1), change: 1, generation: 0 })),
        ("control-tell", ControlCommand::TellPeer(PeerTold { peer: values::site(2), change: 1 })),
        ("control-move-peer", ControlCommand::MovePeer(values::peer_endpoints())),
        ("control-peer-authorities", ControlCommand::PutPeerAuthorities(values::peer_authorities())),
        ("control-recover", ControlCommand::Recover(values::recovered().recovery)),
        ("control-audited", ControlCommand::Audited(values::audited_command())),
        ("control-note-audit", ControlCommand::NoteAudit(values::audit_notes())),
        ("control-accept-audit", ControlCommand::AcceptAudit(accept_audit)),
    ]
}

/// Seeds of [`command`].
pub fn command_seeds() -> Vec<Seed> {
    let of = |which: u8, bytes: Bytes| [&[which], &bytes[..]].concat();
    let refusal = Refusal::new(RefusalCode::Full, "full");
    let outcomes = [
        ("outcome-refused", GroupOutcome::Refused(refusal.clone())),
        ("outcome-placed", GroupOutcome::Placed(vec![Ok(values::delta_receipt()), Err(refusal.clone())])),
        ("outcome-head", GroupOutcome::Head(values::cursor())),
        ("outcome-pruned", GroupOutcome::Pruned(3)),
    ];
    let commands = group_commands().into_iter().map(|(name, command)| (name, of(0, command.to_bytes())));
    let outcomes = outcomes.into_iter().map(|(name, outcome)| (name, of(1, outcome.to_bytes())));
    let control = control_commands().into_iter().map(|(name, command)| (name, of(2, command.to_bytes())));
    let refused = ("outcome-control", of(3, ControlOutcome::Refused(refusal).to_bytes()));
    commands.chain(outcomes).chain(control).chain([refused]).collect()
}

/// What the nodes of a group say to one another.
pub fn raft_message(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 2 {
        0 => drop(canonical::<Ask>(bytes)),
        _ => drop(canonical::<Answer>(bytes)),
    }
}

/// Seeds of [`raft_message`].
pub fn raft_message_seeds() -> Vec<Seed> {
    let vote = Vote { term: 5, leader: NodeId(6), committed: true };
    let (last, membership) = (Some(values::position(9)), values::membership());
    let entries = vec![
        values::entry(1, EntryPayload::Blank),
        values::entry(2, EntryPayload::Command(Bytes::from_static(b"command"))),
        values::entry(3, EntryPayload::Membership(membership.membership.clone())),
    ];
    let asks = [
        ("append", Ask::Append(AppendEntries { vote, previous: last, entries, committed: None })),
        ("vote", Ask::Vote(RequestVote { vote, last, transfer: true })),
        ("pre-vote", Ask::PreVote(RequestVote { vote, last: None, transfer: false })),
        ("piece", Ask::Piece(SnapshotPiece { number: 1, bytes: Bytes::from_static(b"piece") })),
        ("hand-over", Ask::HandOver(HandOver { vote, to: NodeId(2), last })),
        ("install", Ask::Install(SnapshotEnd { vote, pieces: 2, last, membership })),
    ];
    let answers = [
        ("stopped", Answer::Stopped),
        ("appended-to", Answer::AppendedTo(last)),
        ("higher-vote", Answer::HigherVote(vote)),
        ("voted", Answer::Voted(Voted { vote, granted: true, last })),
        ("installed", Answer::Installed(vote)),
        ("handed-over", Answer::HandedOver),
    ];
    let asks = asks.into_iter().map(|(name, ask)| (name, [&[0], &ask.to_bytes()[..]].concat()));
    asks.chain(answers.into_iter().map(|(name, answer)| (name, [&[1], &answer.to_bytes()[..]].concat()))).collect()
}
