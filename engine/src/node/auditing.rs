//! Has what is done written into audit logs: by the command that does it, where that is one of the control group; before it
//! is done and once more after it, where it happens elsewhere. Who can't have it written down beforehand does not do it.

use super::server::{Answer, Answered};
use super::shard::{Shard, propose_refusal, state_refusal};
use super::{peers, recovered};
use crate::state::ControlView;
use crate::state::audit::is_audited;
use crate::state::limits::{MAX_AUDIT_CHAINS, MAX_AUDIT_NOTES};
use farside_codec::Field;
use farside_codec::audit::{
    AuditAction, AuditActor, AuditComparison, AuditComparisonQuestion, AuditEntries, AuditNote, AuditNotes,
    AuditOutcome, AuditPlace, AuditQuestion, AuditReport, AuditScope, AuditStanding, AuditStandingQuestion,
    AuditedCommand, AuditedDiscard, AuditedDrill, AuditedEviction, AuditedLog,
};
use farside_codec::cluster::SetDevice;
use farside_codec::command::{AcceptAudit, ControlCommand};
use farside_codec::ids::{Hlc, LogId, TenantId};
use farside_codec::message::{PeerRecord, Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_io::entropy::random;
use farside_transport::Caller;
use std::rc::Rc;

/// Entries in one reply, and in one delivery to a peer.
pub(super) const ENTRIES: usize = 256;
/// Their bytes: little enough for a slow line within [`peers::TELL`], and several of the largest entries.
pub(super) const ENTRIES_BYTES: usize = 128 << 10;
/// Places that are asked about at once.
const PLACES: usize = 1024;

/// Whoever holds a certificate.
pub(super) fn certificate(caller: &Caller) -> AuditActor {
    AuditActor::Certificate(caller.uri())
}

/// A command as it is committed: with what is needed to write it down, where it is one that is written down.
pub(super) fn written<D: Disk>(
    shard: &Shard<D>,
    by: &AuditActor,
    command: ControlCommand,
) -> Result<ControlCommand, Refusal> {
    if !is_audited(&command) {
        return Ok(command);
    }
    if !matches!(command, ControlCommand::Recover(_)) {
        not_pending(shard)?;
    }
    let (order, ordered) = (random(shard.machine.entropy.as_ref()), shard.clock.now());
    let (by, command) = (by.clone(), command.to_bytes());
    Ok(ControlCommand::Audited(AuditedCommand { order, by, ordered, command }))
}

/// Until the control group has agreed on a recovery its incarnation is the old one, in which the nodes that were lost may
/// have written as well.
fn not_pending<D: Disk>(shard: &Shard<D>) -> Result<(), Refusal> {
    match recovered::is_pending(shard) {
        true => {
            Err(Refusal::retry(RefusalCode::Unavailable, 200, "the site was recovered and has not agreed on that yet"))
        }
        false => Ok(()),
    }
}

/// Something that is done in several steps, outside of the control group.
pub(super) struct Order {
    id: [u8; 16],
    by: AuditActor,
    ordered: Hlc,
}

impl Order {
    pub(super) fn new<D: Disk>(shard: &Shard<D>, by: AuditActor) -> Self {
        Self { id: random(shard.machine.entropy.as_ref()), by, ordered: shard.clock.now() }
    }

    /// Has it written down how it goes on.
    pub(super) async fn note<D: Disk>(&self, shard: &Rc<Shard<D>>, notes: Vec<AuditNote>) -> Result<(), Refusal> {
        not_pending(shard)?;
        for part in notes.chunks(MAX_AUDIT_NOTES) {
            let notes = AuditNotes {
                id: random(shard.machine.entropy.as_ref()),
                order: self.id,
                by: self.by.clone(),
                ordered: self.ordered,
                notes: part.to_vec(),
            };
            // What holds the order may be what answers it.
            Box::pin(shard.control(&self.by, ControlCommand::NoteAudit(notes))).await?;
        }
        Ok(())
    }

    /// The same about what is done already: that it can't be written down now does not undo it.
    pub(super) async fn ended<D: Disk>(&self, shard: &Rc<Shard<D>>, notes: Vec<AuditNote>) {
        if let Err(refusal) = self.note(shard, notes).await {
            tracing::error!(%refusal, "what came of an order can't be written into the audit log");
        }
    }
}

/// One note.
pub(super) fn note(scope: AuditScope, action: AuditAction, outcome: AuditOutcome) -> AuditNote {
    AuditNote { scope, action, outcome }
}

/// The log of the tenant whose log it is; the site's, where that is not known.
pub(super) fn scope_of_log(view: &ControlView, log: LogId) -> AuditScope {
    view.logs.get(&log).map_or(AuditScope::Site, |log| AuditScope::Tenant(log.tenant))
}

/// What a request does that is not a command of the control group, or not only one, and is written down before it is done. A
/// new kind of request does not compile until somebody has said what becomes of it.
fn written_around(view: &ControlView, request: &Request) -> Option<(AuditScope, AuditAction)> {
    match request {
        Request::SetPolicy(set) => {
            let log = view.logs.get(&set.log)?;
            let action = AuditedLog {
                log: set.log,
                tenant_name: log.tenant_name.clone(),
                name: log.name.clone(),
                created: false,
                policy: set.policy.clone(),
            };
            Some((AuditScope::Tenant(log.tenant), AuditAction::Policy(action)))
        }
        Request::Discard(order) => {
            let action = AuditedDiscard { log: order.log, deltas: order.deltas };
            Some((scope_of_log(view, order.log), AuditAction::Discard(action)))
        }
        Request::ScrubStart(percent) => Some((AuditScope::Site, AuditAction::Scrub(*percent))),
        Request::Weigh(question) => {
            let action = AuditedDrill { from: question.from.clone(), log: question.log, found: None };
            Some((AuditScope::Site, AuditAction::Drill(action)))
        }
        Request::SetDevice(order) => {
            let SetDevice { node, device, leaves } = order.clone();
            Some((AuditScope::Site, AuditAction::Evict(AuditedEviction { node, device, leaves })))
        }
        Request::Rebalance(begins) => Some((AuditScope::Site, AuditAction::Rebalance(*begins))),
        Request::RotateCertificates => Some((AuditScope::Site, AuditAction::RotateCertificates)),
        // They write themselves down, log by log.
        Request::Failover(_) | Request::Switchover(_) | Request::ReportAudit(_) => None,
        // Commands of the control group are written down as what they do.
        Request::CreateTenant(_)
        | Request::CreateLog(_)
        | Request::PeerToken
        | Request::PeerAdd(_)
        | Request::SetPeer(_)
        | Request::PeerJoin(_)
        | Request::SetBackupTarget(_)
        | Request::ForgetBackupTarget(_)
        | Request::ScheduleBackup(_)
        | Request::NodeToken(_)
        | Request::NodeJoin(_)
        | Request::IssueIdentity(_)
        | Request::RevokeIdentity(_)
        | Request::Authority(_)
        | Request::RepairLimit(_)
        | Request::SetGeometry(_)
        | Request::SetNode(_) => None,
        // Questions.
        Request::Hello(_)
        | Request::ResolveLog(_)
        | Request::ListTenants
        | Request::ListLogs
        | Request::PeerList
        | Request::PeerLimits
        | Request::Status
        | Request::LogStanding(_)
        | Request::SetAside(_)
        | Request::BackupHold(_)
        | Request::Dump(_)
        | Request::BackupTargets
        | Request::Nodes
        | Request::Identities(_)
        | Request::ReadAudit(_)
        | Request::CompareAudit(_) => None,
        // A tenant's data.
        Request::PutChunk(_)
        | Request::HaveChunks(_)
        | Request::GetChunk(_)
        | Request::GetOwnChunk(_)
        | Request::Propose(_)
        | Request::Lookup(_)
        | Request::List(_)
        | Request::History(_)
        | Request::ReadDeltas(_) => None,
        // What crosses from a peer.
        Request::FedHello(_)
        | Request::FedDeltas(_)
        | Request::FedClosed(_)
        | Request::FedAuthorities(_)
        | Request::FedEndpoints(_)
        | Request::FedAuditStanding(_)
        | Request::FedAudit(_) => None,
        // Between the nodes of the site.
        Request::NodeBeat(_)
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
        | Request::RebalanceNode(_)
        | Request::RenewCertificates
        | Request::ControlIndex
        | Request::Scrub(_)
        | Request::PutFragments(_)
        | Request::GetFragment(_)
        | Request::HaveFragments(_)
        | Request::DropFragments(_)
        | Request::DropStripes(_)
        | Request::FitsGeometry(_)
        | Request::WalkFragments(_) => None,
    }
}

/// An order of which the log says that it was given, and not yet what came of it.
pub(super) struct Begun {
    order: Order,
    scope: AuditScope,
    action: AuditAction,
}

/// Writes down what a request is about to do.
pub(super) async fn begin<D: Disk>(
    shard: &Rc<Shard<D>>,
    caller: &Caller,
    request: &Request,
) -> Result<Option<Begun>, Refusal> {
    let Some((scope, action)) = written_around(&shard.view(), request) else { return Ok(None) };
    let order = Order::new(shard, certificate(caller));
    order.note(shard, vec![note(scope.clone(), action.clone(), AuditOutcome::Ordered)]).await?;
    Ok(Some(Begun { order, scope, action }))
}

/// Writes down what came of it.
pub(super) async fn end<D: Disk>(shard: &Rc<Shard<D>>, begun: Option<Begun>, answered: &Answered) {
    let Some(Begun { order, scope, action }) = begun else { return };
    // A drill goes on at the client, which says what it found.
    let outcome = match (answered, &action) {
        (Ok(_), AuditAction::Drill(_)) => return,
        (Ok(_), _) => AuditOutcome::Done,
        (Err(refusal), _) => AuditOutcome::failed(refusal),
    };
    order.ended(shard, vec![note(scope, action, outcome)]).await;
}

/// Answers what is about audit logs; `tenant` is the one that the caller is bound to.
pub(super) async fn answer<D: Disk>(
    shard: &Rc<Shard<D>>,
    caller: &Caller,
    tenant: Option<TenantId>,
    request: Request,
) -> Answered {
    match request {
        Request::ReadAudit(question) => {
            check_scope(tenant, &question.scope)?;
            read(shard, question).await
        }
        Request::CompareAudit(question) => {
            check_scope(tenant, &question.scope)?;
            compare(shard, question).await
        }
        Request::ReportAudit(told) => report(shard, caller, told).await,
        Request::FedAuditStanding(question) => standing(shard, caller, question).await,
        Request::FedAudit(entries) => accept(shard, caller, entries).await,
        _ => Err(Refusal::new(RefusalCode::Internal, "not about an audit log")),
    }
}

/// Writes down what an operator's client says that it did.
async fn report<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, report: AuditReport) -> Answered {
    let (scope, action) = match report {
        AuditReport::Drill(drill) => (AuditScope::Site, AuditAction::Drill(drill)),
        AuditReport::Shred((tenant, shred)) => {
            known_tenant(&shard.view(), tenant)?;
            (AuditScope::Tenant(tenant), AuditAction::Shred(shred))
        }
    };
    let order = Order::new(shard, certificate(caller));
    order.note(shard, vec![note(scope, action, AuditOutcome::Done)]).await?;
    Ok(Reply::Done.into())
}

/// Logs of tenants that nobody has heard of would never end.
fn known_tenant(view: &ControlView, tenant: TenantId) -> Result<(), Refusal> {
    match view.tenants.contains_key(&tenant) {
        true => Ok(()),
        false => Err(Refusal::new(RefusalCode::NotFound, "there is no such tenant")),
    }
}

fn no_such_log() -> Refusal {
    Refusal::new(RefusalCode::NotFound, "there is no such audit log here")
}

/// A tenant's client sees the tenant's own log, wherever it was written, and of no other one that there is one.
fn check_scope(tenant: Option<TenantId>, scope: &AuditScope) -> Result<(), Refusal> {
    match (tenant, scope) {
        (None, _) => Ok(()),
        (Some(own), AuditScope::Tenant(asked)) if own == *asked => Ok(()),
        (Some(_), _) => Err(no_such_log()),
    }
}

/// Reads what the control group has agreed on, if this node leads it.
async fn led_state<D: Disk, T: Send + 'static>(
    shard: &Rc<Shard<D>>,
    read: impl FnOnce(&crate::state::ControlState) -> Result<T, farside_raft::StateError> + Send + 'static,
) -> Result<T, Refusal> {
    let answered = shard.on(0, move |there| async move {
        let missing = || Refusal::retry(RefusalCode::NotLeader, 100, "the control group does not run on this shard");
        let control = there.control.clone().ok_or_else(missing)?;
        control.confirm_leader().await.map_err(propose_refusal)?;
        let found = read(&control.state().borrow());
        found.map_err(state_refusal)
    });
    answered.await?
}

/// Gives out entries of an audit log.
async fn read<D: Disk>(shard: &Rc<Shard<D>>, question: AuditQuestion) -> Answered {
    let AuditQuestion { site, scope, incarnation, from, limit } = question;
    let site = site.unwrap_or(shard.site.site);
    let (place, limit) = (AuditPlace { incarnation, sequence: from }, (limit as usize).clamp(1, ENTRIES));
    let found: AuditEntries =
        led_state(shard, move |state| state.audit_entries(site, &scope, &place, limit, ENTRIES_BYTES)).await?;
    match found.heads.is_empty() {
        true => Err(no_such_log()),
        false => Ok(Reply::AuditEntries(found).into()),
    }
}

/// Says what is here of audit logs.
async fn standing<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, question: AuditStandingQuestion) -> Answered {
    let AuditStandingQuestion { site, scope, places } = question;
    if site != caller.site && site != shard.site.site {
        return Err(Refusal::new(
            RefusalCode::Forbidden,
            "a peer may ask about its own audit logs and about this site's",
        ));
    }
    if places.len() > PLACES || scope.is_none() && !places.is_empty() {
        return Err(Refusal::new(RefusalCode::BadRequest, "too many places, or places of no log"));
    }
    let standing = led_state(shard, move |state| {
        let heads = state.audit_heads(site, scope.as_ref())?;
        let hashes = match &scope {
            Some(scope) => state.audit_hashes(site, scope, &places)?,
            None => Vec::new(),
        };
        debug_assert!(heads.len() as u64 <= MAX_AUDIT_CHAINS);
        Ok(AuditStanding { heads, hashes })
    });
    Ok(Reply::AuditStanding(standing.await?).into())
}

/// Keeps entries of the caller's audit logs.
async fn accept<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, entries: Vec<bytes::Bytes>) -> Answered {
    if entries.is_empty() || entries.len() > ENTRIES {
        return Err(Refusal::new(RefusalCode::BadRequest, "a delivery is of 1 to 256 entries"));
    }
    shard.takes_writes()?;
    let accept = ControlCommand::AcceptAudit(AcceptAudit { site: caller.site, entries });
    shard.control(&shard.by_itself(), accept).await?;
    Ok(Reply::Done.into())
}

/// Asks peers what they have of an audit log.
async fn compare<D: Disk>(shard: &Rc<Shard<D>>, question: AuditComparisonQuestion) -> Answered {
    let AuditComparisonQuestion { site, scope, places } = question;
    if places.len() > PLACES {
        return Err(Refusal::new(RefusalCode::BadRequest, "too many places"));
    }
    let view = shard.view();
    let asked = view.peers.values().filter(|peer| site.is_none_or(|site| site == peer.site));
    let question = AuditStandingQuestion { site: site.unwrap_or(shard.site.site), scope: Some(scope), places };
    let answers = asked.map(|peer| async {
        let standing = match peer.paused {
            true => Err(Refusal::new(RefusalCode::Unavailable, format!("peer {} is paused", peer.name))),
            false => ask(shard, peer, question.clone()).await,
        };
        AuditComparison { peer: peer.name.clone(), standing }
    });
    Ok(Answer::from(Reply::AuditCompared(futures_util::future::join_all(answers).await)))
}

/// Asks a peer what it has of audit logs.
pub(super) async fn ask<D: Disk>(
    shard: &Rc<Shard<D>>,
    peer: &PeerRecord,
    question: AuditStandingQuestion,
) -> Result<AuditStanding, Refusal> {
    match peers::tell(shard, peer, Request::FedAuditStanding(question)).await? {
        Reply::AuditStanding(standing) => Ok(standing),
        _ => Err(Refusal::new(
            RefusalCode::Internal,
            format!("peer {} answered something else than was asked", peer.name),
        )),
    }
}
