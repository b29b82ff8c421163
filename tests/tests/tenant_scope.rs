//! A tenant's certificate reads, writes, lists and learns the existence of nothing of another tenant, whatever it asks: every kind
//! of request is tried, with the ids that only the other tenant should know.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use farside::client::{Client, ClientError, ClientSettings, Context};
use farside_codec::Field;
use farside_codec::audit::{
    AuditComparisonQuestion, AuditQuestion, AuditReport, AuditScope, AuditStandingQuestion, AuditedShred,
};
use farside_codec::ids::{Hlc, Label, LogId, SiteId, TenantId};
use farside_codec::message::*;
use farside_tests::fuzzing::wire;
use farside_tests::{Site, bytes};
use std::collections::BTreeSet;

/// What may come of a request.
#[derive(Debug, PartialEq, Eq)]
enum May {
    /// Nothing: it is refused, as if there were nothing to ask about.
    Nothing,
    /// An answer in which nothing of another tenant is; looked at below.
    BeAnswered,
    /// It is about chunks, which are found by id: whoever knows one has read a delta of the tenant whose chunk it is.
    FindChunks,
}

/// A new kind of request does not compile until somebody has said what a stranger may ask.
fn may(request: &Request) -> May {
    match request {
        Request::Hello(_) | Request::ListTenants | Request::ListLogs | Request::Nodes => May::BeAnswered,
        Request::PutChunk(_) | Request::HaveChunks(_) | Request::GetChunk(_) | Request::GetOwnChunk(_) => {
            May::FindChunks
        }
        Request::Propose(_)
        | Request::Lookup(_)
        | Request::List(_)
        | Request::History(_)
        | Request::ReadDeltas(_)
        | Request::ResolveLog(_)
        | Request::CreateTenant(_)
        | Request::CreateLog(_)
        | Request::SetPolicy(_)
        | Request::PeerToken
        | Request::PeerAdd(_)
        | Request::PeerList
        | Request::PeerLimits
        | Request::SetPeer(_)
        | Request::PeerJoin(_)
        | Request::Status
        | Request::Failover(_)
        | Request::LogStanding(_)
        | Request::SetAside(_)
        | Request::Discard(_)
        | Request::Switchover(_)
        | Request::Weigh(_)
        | Request::BackupHold(_)
        | Request::Dump(_)
        | Request::BackupTargets
        | Request::SetBackupTarget(_)
        | Request::ForgetBackupTarget(_)
        | Request::ScheduleBackup(_)
        | Request::ReadAudit(_)
        | Request::CompareAudit(_)
        | Request::ReportAudit(_)
        | Request::FedAuditStanding(_)
        | Request::FedAudit(_)
        | Request::FedHello(_)
        | Request::FedDeltas(_)
        | Request::FedClosed(_)
        | Request::NodeToken(_)
        | Request::NodeJoin(_)
        | Request::RepairLimit(_)
        | Request::ScrubStart(_)
        | Request::SetNode(_)
        | Request::SetDevice(_)
        | Request::Rebalance(_)
        | Request::RebalanceNode(_)
        | Request::NodeBeat(_)
        | Request::Forwarded(_)
        | Request::Raft(_)
        | Request::RaftBeats(_)
        | Request::Command(_)
        | Request::NodeStatus
        | Request::WallClock
        | Request::GcEpoch(_)
        | Request::Collect(_)
        | Request::References(_)
        | Request::RepairState
        | Request::ControlIndex
        | Request::Scrub(_)
        | Request::PutFragments(_)
        | Request::GetFragment(_)
        | Request::HaveFragments(_)
        | Request::DropFragments(_)
        | Request::DropStripes(_)
        | Request::FitsGeometry(_)
        | Request::SetGeometry(_)
        | Request::WalkFragments(_)
        | Request::IssueIdentity(_)
        | Request::Identities(_)
        | Request::RevokeIdentity(_)
        | Request::RotateCertificates
        | Request::RenewCertificates
        | Request::Authority(_)
        | Request::FedAuthorities(_)
        | Request::FedEndpoints(_) => May::Nothing,
    }
}

/// Requests of every kind that there are seeds of, and of those that have no contents, about this log of another tenant.
fn requests(tenant: TenantId, log: LogId) -> Vec<Request> {
    let label = |text: &str| Label::parse(text).expect("a label");
    let mut requests: Vec<Request> =
        wire::request_seeds().into_iter().filter_map(|(_, bytes)| Request::from_bytes(bytes.into()).ok()).collect();
    requests.extend([
        Request::ResolveLog(ResolveLog { tenant: label("acme"), log: label("data") }),
        Request::LogStanding(StandingQuestion { log, at: None }),
        Request::ReadDeltas(ReadDeltas { log, from: 1, limit: 9 }),
        Request::List(List { log, at: Moment::Latest, after: None, limit: 9 }),
        Request::SetAside(farside_codec::aside::AsideQuestion { log, after: None, limit: 9 }),
        Request::Discard(farside_codec::aside::DiscardOrder { log, deltas: 0 }),
        Request::PeerToken,
        Request::PeerList,
        Request::PeerLimits,
        Request::BackupTargets,
        Request::BackupHold(farside_codec::dump::BackupHold { id: [1; 16], holds: true }),
        Request::ForgetBackupTarget(label("vault")),
        Request::Dump(farside_codec::dump::DumpQuestion {
            group: farside_codec::ids::GroupId(1),
            session: [1; 16],
            piece: 0,
        }),
        Request::ReadAudit(AuditQuestion { site: None, scope: AuditScope::Site, incarnation: 0, from: 0, limit: 9 }),
        Request::ReadAudit(AuditQuestion {
            site: None,
            scope: AuditScope::Tenant(tenant),
            incarnation: 0,
            from: 0,
            limit: 9,
        }),
        Request::CompareAudit(AuditComparisonQuestion {
            site: None,
            scope: AuditScope::Tenant(tenant),
            places: Vec::new(),
        }),
        Request::ReportAudit(AuditReport::Shred((tenant, AuditedShred { name: label("acme"), keys: 1, left: 0 }))),
        Request::FedAuditStanding(AuditStandingQuestion { site: SiteId([7; 16]), scope: None, places: Vec::new() }),
        Request::FedAudit(Vec::new()),
        Request::NodeToken(None),
        Request::RepairLimit(1),
        Request::SetGeometry(farside_codec::erasure::Geometry::DEFAULT),
        Request::FitsGeometry(farside_codec::erasure::Geometry::DEFAULT),
        Request::ScrubStart(1),
        Request::Rebalance(true),
        Request::RebalanceNode(false),
        Request::SetDevice(farside_codec::cluster::SetDevice {
            node: label("node-1"),
            device: farside_codec::ids::DeviceId([1; 16]),
            leaves: true,
        }),
        Request::NodeStatus,
        Request::WallClock,
        Request::GcEpoch(0),
        Request::Collect(1),
        Request::RepairState,
        Request::ControlIndex,
        Request::Scrub(1),
        Request::ListLogs,
        Request::Nodes,
        Request::RotateCertificates,
        Request::RenewCertificates,
    ]);
    for request in &mut requests {
        match request {
            Request::Propose(propose) => propose.log = log,
            Request::Lookup(lookup) => lookup.log = log,
            Request::History(history) => history.log = log,
            Request::SetPolicy(set) => set.log = log,
            _ => {}
        }
    }
    requests
}

/// What the site said, which must be that there is no such thing, or that it is nobody's business.
fn refused_with(request: &str, error: ClientError) -> String {
    match error {
        ClientError::NotFound(told) => told,
        ClientError::Refused(refusal) if refusal.code == RefusalCode::Forbidden => refusal.to_string(),
        other => panic!("{request}: {other:?}"),
    }
}

async fn ask_everything(client: &Client, tenant: TenantId, log: LogId) {
    let mut refused = BTreeSet::new();
    for request in requests(tenant, log) {
        let shown = format!("{request:?}");
        match (may(&request), client.control(&request).await) {
            (May::Nothing, Err(error)) => {
                let told = refused_with(&shown, error);
                assert!(!told.contains("another tenant"), "{shown} tells of another tenant: {told}");
                refused.insert(shown.split(['(', ' ']).next().unwrap_or_default().to_owned());
            }
            (May::BeAnswered, Ok(reply)) => {
                let told = format!("{reply:?}");
                assert!(!told.contains("acme"), "{shown} tells of another tenant: {told}");
            }
            (May::FindChunks, _) => {}
            (may, answered) => panic!("{shown}: {answered:?}, where {may:?} was expected"),
        }
    }
    assert!(refused.len() >= 35, "only {} kinds were tried: {refused:?}", refused.len());
    // What is there and what is not look the same.
    let label = |text: &str| Label::parse(text).expect("a label");
    let resolve = |log: &str| Request::ResolveLog(ResolveLog { tenant: label("acme"), log: label(log) });
    let told = async |log: &str| match client.control(&resolve(log)).await {
        Err(error) => refused_with(log, error).replace(log, "LOG"),
        other => panic!("{other:?}"),
    };
    assert_eq!(told("data").await, told("none").await);
    let read = |log| Request::ReadDeltas(ReadDeltas { log, from: 1, limit: 9 });
    let there = format!("{:?}", client.control(&read(log)).await);
    assert_eq!(there, format!("{:?}", client.control(&read(LogId([0xee; 16]))).await));
    let own = Propose { log, seen: Hlc::default(), proposals: Vec::new() };
    assert!(client.control(&Request::Propose(own)).await.is_err());
}

#[test]
fn a_tenant_learns_nothing_of_another_one() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    let kms = root.path().join("kms");
    site.make_log(&kms, "acme/data");
    site.make_log(&kms, "evil/own");
    let file = root.path().join("in");
    std::fs::write(&file, bytes(1, 100_000)).expect("written");
    site.farside(&["put", "acme/data", "secret", &file.display().to_string()]).ok();
    let context = root.path().join("evil.context");
    site.farside(&["context", "export", "--tenant", "evil", "-o", &context.display().to_string()]).ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let admin = site.directory.join("admin.context");
    let connect = async |path: &std::path::Path| {
        let context = Context::load(path).expect("a context");
        Client::connect(&context, ClientSettings::beside(path).expect("settings")).await.expect("connected")
    };
    let asked = async {
        let descriptor = connect(&admin).await.resolve("acme/data").await.expect("a log").descriptor;
        let (tenant, log) = (descriptor.tenant, descriptor.log);
        let client = connect(&context).await;
        assert_eq!(client.logs().await.expect("its own logs").len(), 1);
        ask_everything(&client, tenant, log).await;
    };
    tokio::task::LocalSet::new().block_on(&runtime, asked);
    // Nothing has happened to what is another's.
    site.farside(&["get", "acme/data", "secret", "-o", &root.path().join("out").display().to_string()]).ok();
    assert!(site.status()["alerts"].as_array().is_some());
}
