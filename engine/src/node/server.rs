//! Answers callers: who may ask what, where it runs, and what comes back.

use super::shard::{Shard, count, log_view, no_such_log};
use super::token::{self, Purpose};
use super::{
    auditing, authority, beating, certificates, chunks, clocks, closing, collecting, creating, dumping, fragments,
    identities, joining, leases, leaving, links, membership, moving, peers, reading, receiving, recovered, recut,
    refetching, renewing, repairing, routing, weighing,
};
use crate::store::StoreError;
use bytes::Bytes;
use farside_codec::cluster::{Forwarded, NodeState};
use farside_codec::command::{ControlCommand, GroupCommand, GroupOutcome, PlaceDeltas, TokenPurpose};
use farside_codec::delta::DeltaKind;
use farside_codec::dump::BackupTarget;
use farside_codec::ids::{GroupId, LogId, NodeId, TenantId};
use farside_codec::message::{PeerRecord, Propose, Refusal, RefusalCode, Reply, Request, ResolveLog, kind};
use farside_codec::{Field, limits as codec_limits};
use farside_io::disk::Disk;
use farside_transport::{Caller, Connection, Role, Stream, StreamError};
use std::rc::Rc;

/// A reply, and the body that follows it.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) body: Vec<Bytes>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, body: Vec::new() }
    }
}

pub(super) type Answered = Result<Answer, Refusal>;

/// Takes callers in until the endpoint closes.
pub(crate) async fn accept<D: Disk>(shard: Rc<Shard<D>>) {
    while let Some(arrival) = shard.endpoint.accept().await {
        let shard = shard.clone();
        tokio::task::spawn_local(async move {
            match arrival.complete().await {
                Ok(connection) => serve(shard, connection).await,
                Err(error) => {
                    count(&shard.counters.refused_handshakes);
                    tracing::warn!(%error, "a caller was turned away");
                }
            }
        });
    }
}

/// Answers one connection. QUIC bounds how many of its streams are open at once.
async fn serve<D: Disk>(shard: Rc<Shard<D>>, connection: Connection) {
    let _present = identities::arrived(&shard, &connection);
    while let Some(stream) = connection.accept().await {
        let (shard, connection) = (shard.clone(), connection.clone());
        tokio::task::spawn_local(async move { answer_stream(shard, connection, stream).await });
    }
}

async fn answer_stream<D: Disk>(shard: Rc<Shard<D>>, connection: Connection, mut stream: Stream) {
    count(&shard.counters.requests);
    let request = match stream.receive(kind::REQUEST).await {
        Ok(bytes) => Request::from_bytes(bytes).map_err(StreamError::Corrupt),
        Err(error) => Err(error),
    };
    let answered = match request {
        Ok(Request::PutChunk(put))
            if authorised(&shard, connection.caller(), &Request::PutChunk(put.clone())).is_ok() =>
        {
            chunks::put(&shard, put, &mut stream).await
        }
        Ok(Request::PutFragments(put))
            if authorised(&shard, connection.caller(), &Request::PutFragments(put.clone())).is_ok() =>
        {
            fragments::put_fragments(&shard, put, &mut stream).await
        }
        Ok(request) => answer(&shard, connection.caller(), request).await,
        // The caller is gone, or said nothing more: the stream is reset.
        Err(StreamError::Closed | StreamError::Rejected(_) | StreamError::Stalled) => return,
        Err(error) => {
            count(&shard.counters.corrupt_frames);
            tracing::warn!(%error, caller = ?connection.caller(), "a request can't be read");
            Err(Refusal::new(RefusalCode::BadRequest, error.to_string()))
        }
    };
    let Answer { reply, body } = answered.unwrap_or_else(|refusal| {
        count(&shard.counters.refused);
        // What the caller still sends is of no use any more.
        stream.stop();
        Reply::Refused(refusal).into()
    });
    // One that fits no frame is answered as a refusal.
    if stream.reply(&reply, body).await.is_ok() {
        stream.delivered().await;
    }
}

fn forbidden(caller: &Caller) -> Refusal {
    let detail = format!("a {} identity ({}) may not ask this", caller.role.as_str(), caller.subject);
    Refusal::new(RefusalCode::Forbidden, detail)
}

/// Who may ask what. A client's tenant is checked where the log or tenant is known.
fn authorised<D: Disk>(shard: &Shard<D>, caller: &Caller, request: &Request) -> Result<(), Refusal> {
    if let Some(refusal) = recovered::objection(shard, caller, request) {
        return Err(refusal);
    }
    if let Some(refusal) = identities::not_yet(shard, caller, request) {
        return Err(refusal);
    }
    let own = caller.site == shard.site.site;
    let known_peer = || shard.view().peers.get(&caller.site).cloned();
    let is_active_peer = |peer: Option<PeerRecord>| match peer {
        Some(peer) if peer.paused => {
            let detail = format!("site {} has paused this peer", shard.site.name);
            Err(Refusal::retry(RefusalCode::Unavailable, 1000, detail))
        }
        peer => Ok(peer.is_some()),
    };
    let allowed = match request {
        Request::Hello(_) => true,
        Request::NodeJoin(_) => own && caller.role == Role::Peer && caller.subject == Purpose::Node.subject(),
        Request::SetDevice(_) => own && (caller.role == Role::Admin || is_member(shard, caller)),
        Request::NodeBeat(_)
        | Request::RebalanceNode(_)
        | Request::Forwarded(_)
        | Request::Raft(_)
        | Request::RaftBeats(_)
        | Request::Command(_)
        | Request::NodeStatus
        | Request::GcEpoch(_)
        | Request::Collect(_)
        | Request::References(_)
        | Request::RepairState
        | Request::ControlIndex
        | Request::Scrub(_)
        | Request::RenewCertificates
        | Request::WallClock
        | Request::PutFragments(_)
        | Request::GetFragment(_)
        | Request::HaveFragments(_)
        | Request::DropFragments(_)
        | Request::DropStripes(_)
        | Request::FitsGeometry(_)
        | Request::WalkFragments(_) => own && is_member(shard, caller),
        Request::FedAuthorities(said) => {
            known_peer().is_some() && caller.role == Role::Peer && said.site == caller.site
        }
        Request::FedEndpoints(said) => known_peer().is_some() && caller.role == Role::Peer && said.site == caller.site,
        Request::PeerJoin(_) => own && caller.role == Role::Peer && caller.subject == Purpose::Peer.subject(),
        Request::FedHello(_)
        | Request::FedDeltas(_)
        | Request::FedClosed(_)
        | Request::FedAuditStanding(_)
        | Request::FedAudit(_) => caller.role == Role::Peer && is_active_peer(known_peer())?,
        Request::PutChunk(_) | Request::HaveChunks(_) | Request::GetChunk(_) | Request::GetOwnChunk(_) => {
            match caller.role {
                Role::Admin | Role::Client | Role::Node => own,
                Role::Peer => is_active_peer(known_peer())?,
            }
        }
        Request::Propose(_)
        | Request::Lookup(_)
        | Request::List(_)
        | Request::History(_)
        | Request::ReadDeltas(_)
        | Request::SetAside(_)
        | Request::ResolveLog(_)
        | Request::ListLogs
        | Request::ListTenants
        | Request::Nodes
        | Request::ReadAudit(_)
        | Request::CompareAudit(_)
        | Request::CreateLog(_) => own && matches!(caller.role, Role::Admin | Role::Client),
        _ => own && caller.role == Role::Admin,
    };
    match allowed {
        true => Ok(()),
        false if caller.role == Role::Peer && !own && known_peer().is_none() => {
            Err(Refusal::new(RefusalCode::Forbidden, links::forgotten(&shard.site.name)))
        }
        false => Err(forbidden(caller)),
    }
}

/// A node that has not been removed. One that this node has not heard of yet was let in by others.
fn is_member<D: Disk>(shard: &Shard<D>, caller: &Caller) -> bool {
    let number = caller.subject.parse().ok().filter(|_| caller.role == Role::Node).map(NodeId);
    number.is_some_and(|node| shard.view().nodes.get(&node).is_none_or(|known| known.state != NodeState::Removed))
}

/// The tenant that a caller is bound to; `None` for an administrator.
fn tenant_of(caller: &Caller) -> Result<Option<TenantId>, Refusal> {
    match caller.role {
        Role::Client => TenantId::parse(&caller.subject).map(Some).ok_or_else(|| forbidden(caller)),
        _ => Ok(None),
    }
}

/// Another tenant's log is none at all to a tenant's client: nobody learns what there is besides their own.
pub(super) fn check_tenant(caller: &Caller, owner: TenantId) -> Result<(), Refusal> {
    match tenant_of(caller)? {
        Some(tenant) if tenant != owner => Err(no_such_log()),
        _ => Ok(()),
    }
}

pub(super) fn store_refusal(error: StoreError) -> Refusal {
    let text = error.to_string();
    match error {
        StoreError::NotFound(_) => Refusal::new(RefusalCode::NotFound, text),
        StoreError::Full => Refusal::retry(RefusalCode::Full, 500, text),
        StoreError::Unavailable { .. } => Refusal::new(RefusalCode::TooFewDevices, text),
        StoreError::Corrupt(_) => Refusal::new(RefusalCode::Corrupt, text),
        StoreError::Stopped => Refusal::new(RefusalCode::Unavailable, text),
        _ => Refusal::new(RefusalCode::BadRequest, text),
    }
}

/// The group whose leader has to answer a request; `None`: any node can.
fn group_of<D: Disk>(shard: &Shard<D>, request: &Request) -> Option<GroupId> {
    let log = match request {
        Request::Propose(propose) => propose.log,
        Request::Lookup(_) | Request::List(_) | Request::History(_) | Request::ReadDeltas(_) | Request::SetAside(_) => {
            reading::log_read(request)
        }
        Request::Discard(order) => order.log,
        Request::ResolveLog(resolve) => shard.view().log(&resolve.tenant, &resolve.log)?.log,
        Request::CreateLog(descriptor) => descriptor.log,
        Request::SetPolicy(set) => set.log,
        Request::LogStanding(question) => question.log,
        Request::Dump(question) => return Some(question.group),
        Request::ReadAudit(_) | Request::FedAuditStanding(_) => return Some(GroupId::CONTROL),
        Request::FedHello(hello) if hello.offers.len() == 1 => hello.offers[0].descriptor.log,
        Request::FedDeltas(deltas) => deltas.log,
        Request::FedClosed(said) => return Some(said.group).filter(|group| (1..=shard.site.groups).contains(&group.0)),
        _ => return None,
    };
    Some(shard.group_of(log))
}

async fn answer<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, request: Request) -> Answered {
    authorised(shard, caller, &request)?;
    if reads_control(&request) && !shard.is_alone() {
        routing::know_control(shard).await;
        if shard.view().site.is_none() {
            // Whoever has just started would take everything that it has not read yet for missing.
            let detail = "the node has just started and does not know yet what its site has";
            return Err(Refusal::retry(RefusalCode::Unavailable, 200, detail));
        }
    }
    let begun = auditing::begin(shard, caller, &request).await?;
    let answered = match group_of(shard, &request) {
        Some(group) => routing::at_leader(shard, caller, group, request).await,
        None => answer_here(shard, caller, request).await,
    };
    auditing::end(shard, begun, &answered).await;
    answered
}

/// Whether a request is answered from what the control group has agreed on: what a client did at one node it must find at
/// the others.
fn reads_control(request: &Request) -> bool {
    matches!(
        request,
        Request::ResolveLog(_)
            | Request::CreateLog(_)
            | Request::ListTenants
            | Request::ListLogs
            | Request::PeerList
            | Request::PeerLimits
            | Request::BackupTargets
            | Request::SetPeer(_)
            | Request::Nodes
            | Request::SetNode(_)
            | Request::IssueIdentity(_)
            | Request::Identities(_)
            | Request::RevokeIdentity(_)
            | Request::Authority(_)
            | Request::RotateCertificates
            | Request::SetDevice(_)
            | Request::SetPolicy(_)
            | Request::Discard(_)
            | Request::Failover(_)
            | Request::Switchover(_)
            | Request::Weigh(_)
    )
}

/// Answers what another node passed on, if this one leads the group that it is about.
async fn answer_forwarded<D: Disk>(shard: &Rc<Shard<D>>, forwarded: Forwarded) -> Answered {
    let bad = |detail: &str| Refusal::new(RefusalCode::BadRequest, detail);
    let caller = Caller::parse(&forwarded.caller).ok_or_else(|| bad("a request was passed on for nobody"))?;
    let request = Request::from_bytes(forwarded.request).map_err(|error| bad(&error.to_string()))?;
    authorised(shard, &caller, &request)?;
    if group_of(shard, &request).is_none() {
        return Err(bad("a request was passed on that any node answers"));
    }
    answer_here(shard, &caller, request).await
}

/// Answers a request on this node. What its group's leader has to answer is refused where that is another one.
pub(super) async fn answer_here<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, request: Request) -> Answered {
    match request {
        Request::Hello(hello) => links::greet(shard, &hello),
        Request::PutChunk(_) | Request::PutFragments(_) => Err(forbidden(caller)),
        Request::HaveChunks(chunks) if chunks.len() > codec_limits::MAX_CHUNKS_PER_QUESTION => {
            Err(Refusal::new(RefusalCode::BadRequest, "too many chunks in one question"))
        }
        Request::HaveChunks(chunks) => Ok(Reply::ChunksHeld(chunks::have(shard, chunks).await?).into()),
        Request::GetOwnChunk(get) => refetching::get_own(shard, get).await,
        Request::GetChunk(get) => refetching::get(shard, caller, get).await,
        Request::Propose(propose) => {
            let (shard, caller) = (shard.clone(), caller.clone());
            let owner = shard.shard_of_log(propose.log);
            shard.on(owner, move |there| async move { place(&there, &caller, propose).await }).await?
        }
        Request::Discard(order) => {
            let owner = shard.shard_of_log(order.log);
            shard.on(owner, move |there| async move { super::aside::discard(&there, order).await }).await?
        }
        Request::Lookup(_) | Request::List(_) | Request::History(_) | Request::ReadDeltas(_) | Request::SetAside(_) => {
            let (caller, log) = (caller.clone(), reading::log_read(&request));
            let owner = shard.shard_of_log(log);
            shard.on(owner, move |there| async move { reading::read(&there, &caller, log, request).await }).await?
        }
        Request::ResolveLog(resolve) => {
            let view = shard.view();
            let missing = || {
                let detail = format!("there is no log {}/{} at site {}", resolve.tenant, resolve.log, shard.site.name);
                Refusal::new(RefusalCode::NotFound, detail)
            };
            let log = view.log(&resolve.tenant, &resolve.log).ok_or_else(missing)?;
            check_tenant(caller, log.tenant).map_err(|_| missing())?;
            let log = log.log;
            at_home(shard, log).await?;
            Ok(Reply::Log(creating::log_info(shard, log).await?).into())
        }
        Request::CreateTenant(tenant) => creating::tenant(shard, caller, tenant).await,
        Request::ListTenants => {
            let only = tenant_of(caller)?;
            let tenants = shard
                .view()
                .tenants
                .values()
                .filter(|tenant| only.is_none_or(|only| only == tenant.tenant))
                .cloned()
                .collect();
            Ok(Reply::Tenants(tenants).into())
        }
        Request::CreateLog(descriptor) => {
            check_tenant(caller, descriptor.tenant).map_err(|_| forbidden(caller))?;
            at_home(shard, descriptor.log).await?;
            creating::log(shard, caller, descriptor).await
        }
        Request::ListLogs => {
            let only = tenant_of(caller)?;
            let view = shard.view();
            let mut logs = Vec::new();
            for log in view.logs.values().filter(|log| only.is_none_or(|only| only == log.tenant)) {
                let resolve = ResolveLog { tenant: log.tenant_name.clone(), log: log.name.clone() };
                let group = shard.group_of(log.log);
                let found = routing::at_leader(shard, caller, group, Request::ResolveLog(resolve));
                // The function that this one is in answers it.
                match Box::pin(found).await?.reply {
                    Reply::Log(info) => logs.push(info),
                    _ => return Err(Refusal::new(RefusalCode::Internal, "a log was answered by something else")),
                }
            }
            Ok(Reply::Logs(logs).into())
        }
        Request::SetPolicy(set) => creating::set_policy(shard, caller, set).await,
        Request::RepairState => Ok(Reply::RepairState(repairing::own_state(shard).await?).into()),
        Request::ScrubStart(percent) => super::scrubbing::start(shard, percent).await,
        Request::Scrub(percent) => super::scrubbing::start_here(shard, percent).await,
        Request::SetDevice(order) => leaving::order(shard, order).await,
        Request::Rebalance(moves) => moving::rebalance(shard, moves).await,
        Request::RebalanceNode(moves) => moving::rebalance_here(shard, moves).await,
        Request::ControlIndex => {
            let index = shard.on(0, |there| async move { routing::control_index(&there).await });
            Ok(Reply::ControlIndex(index.await??).into())
        }
        Request::RepairLimit(limit) => {
            shard.control(&auditing::certificate(caller), ControlCommand::LimitRepair(limit)).await?;
            Ok(Reply::Done.into())
        }
        Request::SetGeometry(geometry) => recut::order(shard, caller, geometry).await,
        Request::FitsGeometry(geometry) => recut::fits(shard, geometry).await,
        Request::BackupHold(hold) => dumping::hold(shard, hold).await,
        Request::Dump(question) => dumping::dump(shard, question).await,
        Request::BackupTargets => {
            Ok(Reply::BackupTargets(shard.view().backup_targets.values().cloned().collect()).into())
        }
        Request::SetBackupTarget(target) => {
            let created = shard.clock.now();
            let target = ControlCommand::PutBackupTarget(BackupTarget { created, ..target });
            shard.control(&auditing::certificate(caller), target).await?;
            Ok(Reply::Done.into())
        }
        Request::ScheduleBackup(order) => {
            shard.control(&auditing::certificate(caller), ControlCommand::ScheduleBackup(order)).await?;
            Ok(Reply::Done.into())
        }
        Request::ForgetBackupTarget(name) => {
            shard.control(&auditing::certificate(caller), ControlCommand::ForgetBackupTarget(name)).await?;
            Ok(Reply::Done.into())
        }
        Request::PeerToken => token::make(shard, caller, Purpose::Peer, TokenPurpose::Peer).await,
        Request::PeerAdd(token) => super::peers::add(shard, caller, &token).await,
        Request::PeerList => Ok(Reply::Peers(shard.view().peers.values().cloned().collect()).into()),
        Request::PeerLimits => Ok(peers::limits(shard).into()),
        Request::SetPeer(set) => super::peers::set(shard, caller, set).await,
        Request::PeerJoin(join) => super::peers::join(shard, caller, join).await,
        Request::Status => Ok(Reply::Status(super::status::document(shard).await).into()),
        Request::Failover(order) => super::failing_over::run(shard, caller, order).await,
        Request::Weigh(question) => weighing::weigh(shard, question).await,
        Request::Switchover(order) => super::switching::run(shard, caller, order).await,
        Request::ReadAudit(_)
        | Request::CompareAudit(_)
        | Request::ReportAudit(_)
        | Request::FedAuditStanding(_)
        | Request::FedAudit(_) => auditing::answer(shard, caller, tenant_of(caller)?, request).await,
        Request::FedHello(hello) => receiving::greet(shard, caller, hello).await,
        Request::FedDeltas(deltas) => receiving::accept(shard, caller, deltas).await,
        Request::FedClosed(said) => closing::hear(shard, caller, said).await,
        Request::LogStanding(question) => {
            at_home(shard, question.log).await?;
            weighing::standing(shard, question).await
        }
        Request::NodeToken(name) => token::make(shard, caller, Purpose::Node, TokenPurpose::Node(name)).await,
        Request::NodeJoin(join) => joining::join(shard, caller, join).await,
        Request::Nodes => Ok(Reply::Nodes(shard.view().nodes.values().cloned().collect()).into()),
        Request::SetNode(set) => joining::set(shard, caller, set).await,
        Request::NodeBeat(beat) => {
            let heard = shard.on(0, move |there| async move { membership::hear(&there, beat).await });
            heard.await??;
            // Whoever has just started, or was cut off, does not know the GC epoch.
            Ok(Reply::Epoch(shard.store.gc_epoch()).into())
        }
        Request::Forwarded(forwarded) => Box::pin(answer_forwarded(shard, forwarded)).await,
        Request::Raft(call) => routing::raft(shard, call).await,
        Request::RaftBeats(calls) => beating::answer(shard, calls).await,
        Request::Command(call) => Ok(Reply::Committed(routing::commit_here(shard, call).await?).into()),
        Request::WallClock => Ok(Reply::WallClock(shard.clock.clock().wall_ms()).into()),
        Request::NodeStatus => Ok(Reply::Status(super::status::own(shard).await).into()),
        Request::GcEpoch(epoch) => Ok(Reply::Epoch(collecting::hear_epoch(shard, epoch).await?).into()),
        Request::Collect(barrier) => {
            collecting::set_epoch(shard, barrier).await?;
            // A round that is under way has its own barrier; the next one is not far.
            if !shard.collecting.replace(true) {
                let shard = shard.clone();
                tokio::task::spawn_local(async move {
                    collecting::collect_node(shard.clone(), barrier).await;
                    shard.collecting.set(false);
                });
            }
            Ok(Reply::Done.into())
        }
        Request::References(question) => Ok(Reply::Referenced(collecting::references(shard, question).await?).into()),
        Request::GetFragment(get) => fragments::get_fragment(shard, get).await,
        Request::HaveFragments(question) => {
            Ok(Reply::FragmentsHeld(fragments::held_here(shard, question).await?).into())
        }
        Request::DropFragments(fragments) => fragments::drop_fragments(shard, fragments).await,
        Request::DropStripes(drops) => fragments::drop_stripes(shard, drops).await,
        Request::WalkFragments(walk) => repairing::walk(shard, walk).await,
        Request::IssueIdentity(ask) => identities::issue(shard, caller, ask).await,
        Request::Identities(question) => Ok(identities::list(shard, &question).into()),
        Request::RevokeIdentity(order) => identities::revoke(shard, caller, order).await,
        Request::RotateCertificates => certificates::rotate(shard).await,
        Request::RenewCertificates => certificates::rotate_here(shard).await,
        Request::Authority(order) => authority::order(shard, caller, order).await,
        Request::FedAuthorities(said) => authority::hear_peer(shard, caller, said).await,
        Request::FedEndpoints(said) => peers::hear_endpoints(shard, caller, said).await,
    }
}

/// Refuses, unless this node leads the log's group and knows everything that was committed in it.
async fn at_home<D: Disk>(shard: &Rc<Shard<D>>, log: LogId) -> Result<(), Refusal> {
    let confirmed = move |there: Rc<Shard<D>>| async move { there.led_group(log).await.map(drop) };
    shard.on(shard.shard_of_log(log), confirmed).await?
}

/// Places a client's proposals, on the log's own shard.
async fn place<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, propose: Propose) -> Answered {
    if !shard.fence_checked.get() {
        let detail = "the node has just started and asks its peers whether it is still home";
        return Err(Refusal::retry(RefusalCode::Unavailable, 200, detail));
    }
    if let Some(refusal) = clocks::objection(shard) {
        return Err(refusal);
    }
    let bad = |detail: &str| Refusal::new(RefusalCode::BadRequest, detail);
    if propose.proposals.is_empty() || propose.proposals.len() > codec_limits::MAX_DELTAS_PER_REQUEST {
        return Err(bad("a request proposes 1 to 256 deltas"));
    }
    let group = shard.log_group(propose.log)?;
    if !group.is_leader() {
        // What is known here of the log may be old.
        return Err(Refusal::retry(RefusalCode::NotLeader, 100, "another node leads the log's group"));
    }
    let log = log_view(&group, propose.log)?;
    check_tenant(caller, log.descriptor.tenant)?;
    renewing::refuse_due(shard, &log)?;
    let skew = |error: farside_io::clock::ClockSkew| Refusal::new(RefusalCode::ClockSkew, error.to_string());
    shard.clock.observe(propose.seen).map_err(skew)?;
    if propose
        .proposals
        .iter()
        .any(|proposal| matches!(proposal.kind, DeltaKind::Switchover(_) | DeltaKind::Promoted(_)))
    {
        return Err(bad("only a site changes a log's home"));
    }
    // What rides in deltas ends up in snapshots, which need space as chunks do; removals must always find some.
    if propose.proposals.iter().any(|proposal| !proposal.payload.is_empty()) {
        shard.takes_writes()?;
    }
    leases::refuse_lapsed(shard, &log)?;
    let wait = leases::held_back(shard, &log)?;
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    // A delta is visible only when every chunk that it names is durable here.
    let chunks: Vec<_> =
        propose.proposals.iter().flat_map(|proposal| proposal.chunks.iter().map(|chunk| chunk.chunk)).collect();
    chunks::all_here(shard, chunks).await?;
    let command = GroupCommand::Place(PlaceDeltas {
        log: propose.log,
        time: shard.clock.now(),
        site: shard.site.site,
        proposals: propose.proposals,
    });
    match shard.command(shard.group_of(propose.log), &command).await? {
        GroupOutcome::Placed(outcomes) => {
            shard.moved(propose.log).notify_waiters();
            // What was placed is sent on; whoever tries again is told that it was.
            leases::refuse_lapsed_since(shard, &log, &log_view(&group, propose.log)?)?;
            Ok(Reply::Proposed(outcomes).into())
        }
        _ => Err(Refusal::new(RefusalCode::Internal, "the log group answered something else than was asked")),
    }
}
