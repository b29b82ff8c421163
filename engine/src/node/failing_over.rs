//! Carries out a failover at the surviving site: asks whether the old home answers, weighs, promotes, reports. Or only
//! weighs it, for a drill.

use super::auditing;
use super::limits::PROBE;
use super::peers::greet;
use super::routing;
use super::server::Answered;
use super::shard::{Shard, state_refusal};
use crate::federation::failover::{Candidate, Loss, Objection, OldHome, Promise, preflight};
use crate::state::lineage;
use farside_codec::audit::{AuditAction, AuditNote, AuditOutcome, AuditScope, AuditedFailover, AuditedPromotion};
use farside_codec::command::{GroupCommand, Promote};
use farside_codec::delta::Generation;
use farside_codec::ids::{Label, LogId, SiteId};
use farside_codec::message::{
    FailedOver, Failover, FailoverReport, Hello, LogStanding, PeerRecord, PeerStanding, Refusal, RefusalCode, Reply,
    Request, Weigh, Weighed,
};
use farside_io::disk::Disk;
use farside_transport::{Caller, Role};
use std::rc::Rc;
use std::time::Duration;

/// How long a promoted log's new lineage may take to reach an old home that answers.
const FENCE_PATIENCE: Duration = Duration::from_secs(3);

/// What is written down of a failover as a whole.
fn noted(order: &Failover, report: Option<&FailoverReport>, outcome: AuditOutcome) -> AuditNote {
    let action = AuditedFailover {
        from: order.from.clone(),
        log: order.log,
        forced: order.force,
        logs: report.map(|report| report.logs.len() as u32),
        took_ms: report.map(|report| report.rto_ms),
        fenced: report.is_some_and(|report| report.fenced),
    };
    auditing::note(AuditScope::Site, AuditAction::Failover(action), outcome)
}

/// What is written down of one log's promotion.
fn noted_log(log: &LogStanding, came: &FailedOver, outcome: AuditOutcome) -> AuditNote {
    let action = AuditedPromotion {
        log: log.descriptor.log,
        tenant_name: came.tenant_name.clone(),
        name: came.name.clone(),
        generation: came.generation,
        position: came.position,
        lost_deltas: came.lost_deltas,
        lost_ms: came.lost_ms,
    };
    auditing::note(AuditScope::Tenant(log.descriptor.tenant), AuditAction::Promote(action), outcome)
}

/// What promoting a log is about to do, as far as it is known beforehand.
fn expected<D: Disk>(shard: &Shard<D>, log: &LogStanding, loss: &Loss) -> FailedOver {
    FailedOver {
        tenant_name: log.descriptor.tenant_name.clone(),
        name: log.descriptor.name.clone(),
        generation: next_generation(shard, log),
        position: at(log),
        lost_deltas: loss.deltas,
        lost_ms: loss.ms,
    }
}

/// Where a log's next generation would begin: after what this copy has, if it is an exact one.
fn at(log: &LogStanding) -> u64 {
    match &log.whole {
        Some((whole, _)) if whole.sequence > 0 => whole.sequence,
        _ => log.head.sequence,
    }
}

fn next_generation<D: Disk>(shard: &Shard<D>, log: &LogStanding) -> Generation {
    Generation { counter: log.known.counter + 1, site: shard.site.site, incarnation: shard.site.incarnation }
}

/// Carries a failover out. Before the first log is promoted the audit logs say that all of them are to be.
pub(super) async fn run<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, order: Failover) -> Answered {
    let trail = auditing::Order::new(shard, auditing::certificate(caller));
    let answered = carry_out(shard, &trail, &order).await;
    // Where the control group has no leader there is no use in asking it once more.
    let unheard = [RefusalCode::NotLeader, RefusalCode::Unavailable, RefusalCode::Busy];
    if let Err(refusal) = answered.as_ref()
        && !unheard.contains(&refusal.code)
    {
        trail.ended(shard, vec![noted(&order, None, failed(shard, refusal))]).await;
    }
    answered
}

/// What the site's audit log says of a refusal. It goes to every peer, and a log may be one that not every peer may learn of.
fn failed<D: Disk>(shard: &Shard<D>, refusal: &Refusal) -> AuditOutcome {
    match shard.view().logs.values().any(|log| log.policy.residency.is_some()) {
        true => AuditOutcome::failed(&Refusal::new(refusal.code.clone(), "whoever ordered it was told why")),
        false => AuditOutcome::failed(refusal),
    }
}

async fn carry_out<D: Disk>(shard: &Rc<Shard<D>>, trail: &auditing::Order, order: &Failover) -> Answered {
    let begun = shard.clock.clock().monotonic();
    let Found { logs, homes, home, candidates } = find(shard, order.from.as_ref(), order.log).await?;
    let objections = preflight(home, &candidates);
    if !order.force && !objections.is_empty() {
        let reasons: Vec<String> = objections.iter().map(ToString::to_string).collect();
        let detail = format!("{}; repeat with --force to go on all the same", reasons.join("; "));
        return Err(Refusal::new(RefusalCode::Unsafe, detail));
    }
    let mut notes = vec![noted(order, None, AuditOutcome::Ordered)];
    notes.extend(
        logs.iter()
            .zip(&candidates)
            .map(|(log, candidate)| noted_log(log, &expected(shard, log, &candidate.loss()), AuditOutcome::Ordered)),
    );
    trail.note(shard, notes).await?;
    let mut report = FailoverReport { logs: Vec::new(), rto_ms: 0, fenced: false };
    let mut trouble = None;
    for (log, candidate) in logs.iter().zip(&candidates) {
        match promote(shard, log, candidate.loss(), order.force).await {
            Ok(promoted) => report.logs.push(promoted),
            Err(refusal) => {
                trouble = Some((expected(shard, log, &candidate.loss()), refusal));
                break;
            }
        }
    }
    report.rto_ms = (shard.clock.clock().monotonic() - begun).as_millis() as u64;
    let done = logs.iter().zip(&report.logs).map(|(log, came)| noted_log(log, came, AuditOutcome::Done));
    let mut notes: Vec<AuditNote> = done.collect();
    if let Some((came, refusal)) = trouble {
        let failed = logs.get(report.logs.len()).map(|log| noted_log(log, &came, AuditOutcome::failed(&refusal)));
        notes.extend(failed);
        trail.ended(shard, notes).await;
        return Err(refusal);
    }
    trail.ended(shard, notes).await;
    if home == OldHome::Answers {
        report.fenced = wait_for_fence(shard, &logs, &homes).await;
    }
    trail.ended(shard, vec![noted(order, Some(&report), AuditOutcome::Done)]).await;
    Ok(Reply::FailedOver(report).into())
}

/// Weighs a failover and changes nothing. What it would take is measured: promoting a log is one commit in its group.
pub(super) async fn weigh<D: Disk>(shard: &Rc<Shard<D>>, question: Weigh) -> Answered {
    let Found { logs, home, candidates, .. } = find(shard, question.from.as_ref(), question.log).await?;
    // A home that lives answers, and has its lease renewed.
    let by_its_life = |found: &Objection| matches!(found, Objection::HomeAnswers | Objection::LeaseRuns { .. });
    let objections = preflight(home, &candidates).into_iter().filter(|found| !by_its_life(found));
    let objections = objections.map(|found| found.to_string()).collect();
    let begun = shard.clock.clock().monotonic();
    for log in &logs {
        shard.log_command(log.descriptor.log, GroupCommand::Close(shard.clock.now())).await?;
    }
    let commits_ms = (shard.clock.clock().monotonic() - begun).as_millis() as u64;
    let logs = logs.iter().zip(&candidates).map(|(log, candidate)| {
        let loss = candidate.loss();
        FailedOver {
            tenant_name: log.descriptor.tenant_name.clone(),
            name: log.descriptor.name.clone(),
            generation: log.known,
            position: at(log),
            lost_deltas: loss.deltas,
            lost_ms: loss.ms,
        }
    });
    let weighed = Weighed { logs: logs.collect(), home_answers: home == OldHome::Answers, objections, commits_ms };
    Ok(Reply::Weighed(weighed).into())
}

/// What there is to promote, and what is known of it.
struct Found {
    logs: Vec<LogStanding>,
    /// The sites at which they have their homes.
    homes: Vec<SiteId>,
    home: OldHome,
    /// In the order of the logs.
    candidates: Vec<Candidate>,
}

async fn find<D: Disk>(shard: &Rc<Shard<D>>, from: Option<&Label>, log: Option<LogId>) -> Result<Found, Refusal> {
    let logs = logs_to_promote(shard, from, log).await?;
    let mut homes: Vec<SiteId> = logs.iter().map(|log| log.known.site).collect();
    homes.sort_unstable();
    homes.dedup();
    let home = probe(shard, &homes).await;
    let view = shard.view();
    let holds = |log: &LogStanding, peer: SiteId| log.known.site == peer || log.descriptor.policy.goes_to(peer);
    // A site that holds it may be no peer of this one.
    let peers = |log: &LogStanding| match &log.descriptor.policy.sites {
        Some(sites) => sites.iter().filter(|site| **site != shard.site.site).count(),
        None => view.peers.keys().filter(|peer| holds(log, **peer)).count(),
    };
    let candidates = logs.iter().map(|log| candidate(log, shard.site.site, peers(log))).collect();
    Ok(Found { logs, homes, home, candidates })
}

/// The logs that have their home elsewhere, those in transit from here among them.
async fn logs_to_promote<D: Disk>(
    shard: &Rc<Shard<D>>,
    from: Option<&Label>,
    log: Option<LogId>,
) -> Result<Vec<LogStanding>, Refusal> {
    let view = shard.view();
    let from = match from {
        None => None,
        Some(name) => Some(view.peer(name).map(|peer| peer.site).ok_or_else(|| {
            Refusal::new(RefusalCode::NotFound, format!("there is no peer {name}: `farside peer list` names them"))
        })?),
    };
    let mut logs = Vec::new();
    for log in view.logs.keys().filter(|id| log.is_none_or(|only| only == **id)).copied() {
        let Some(held) = log_view(shard, log).await? else { continue };
        let elsewhere = held.known.site != shard.site.site;
        if elsewhere && from.is_none_or(|from| from == held.known.site) {
            logs.push(held);
        }
    }
    match logs.is_empty() {
        true => {
            Err(Refusal::new(RefusalCode::NotFound, "no log here has its home at another site: nothing to fail over"))
        }
        false => Ok(logs),
    }
}

/// How a log stands, as the leader of its group says.
pub(super) async fn log_view<D: Disk>(shard: &Rc<Shard<D>>, log: LogId) -> Result<Option<LogStanding>, Refusal> {
    match ask_leader(shard, log, Request::LogStanding(log)).await? {
        Reply::LogStanding(standing) => Ok(standing),
        _ => Err(Refusal::new(RefusalCode::Internal, "a log's standing was answered by something else")),
    }
}

/// Asks whoever leads a log's group here.
pub(super) async fn ask_leader<D: Disk>(shard: &Rc<Shard<D>>, log: LogId, request: Request) -> Result<Reply, Refusal> {
    let own = Caller { role: Role::Admin, subject: format!("node-{}", shard.site.node), site: shard.site.site };
    let asked = routing::at_leader(shard, &own, shard.group_of(log), request);
    // What answers it may be what a failover runs in.
    Ok(Box::pin(asked).await?.reply)
}

/// Says how a log stands whose group is led here.
pub(super) async fn standing<D: Disk>(shard: &Rc<Shard<D>>, log: LogId) -> Answered {
    let read = move |there: Rc<Shard<D>>| async move {
        let group = there.log_group(log)?;
        let state = group.state().borrow();
        let Some(view) = state.log(log).map_err(state_refusal)? else { return Ok::<_, Refusal>(None) };
        let lags = state.peers(log).map_err(state_refusal)?;
        let senders = there.senders.borrow();
        let peers = lags.into_iter().map(|lag| PeerStanding {
            site: lag.peer,
            caught_up: senders.get(&(log, lag.peer)).is_some_and(|sender| sender.caught_up),
            deltas: lag.deltas,
            bytes: lag.bytes,
        });
        let peers = peers.collect();
        let (term, now) = (group.status().term, there.clock.clock().monotonic());
        let lease = view.lease.map(|lease| {
            let left = there.promises.left(log, term, lease.promises, now, Duration::from_millis(lease.longest_ms));
            (left.as_millis() as u64, lease.promises)
        });
        let whole = view.seeding.as_ref().map(|seeding| (seeding.whole.clone(), seeding.whole_time));
        Ok(Some(LogStanding {
            lease,
            whole,
            descriptor: view.descriptor,
            lineage: view.lineage,
            known: view.known,
            head: view.head,
            head_time: view.head_time,
            heard: view.heard,
            peers,
        }))
    };
    Ok(Reply::LogStanding(shard.on(shard.shard_of_log(log), read).await??).into())
}

fn candidate(log: &LogStanding, here: SiteId, peers: usize) -> Candidate {
    Candidate {
        name: (log.descriptor.tenant_name.clone(), log.descriptor.name.clone()),
        head: log.head.clone(),
        head_time: log.head_time,
        whole: log.whole.clone(),
        is_sent_here: log.descriptor.policy.goes_to(here),
        // What the site that this one has handed the log over to may have written by now was never heard.
        heard: if lineage::is_told_by(&log.lineage, here) { None } else { log.heard.clone() },
        promise: match (log.lease, log.descriptor.policy.home_lease_seconds) {
            // Another peer of the home may have kept its own, and each would take over from a home that is gone.
            (Some((0, _)), _) if peers > 1 => Promise::Shared,
            (Some((0, _)), _) => Promise::Kept,
            (Some((ms, _)), _) => Promise::Runs(Duration::from_millis(ms)),
            (None, 0) => Promise::None,
            (None, _) => Promise::Missing,
        },
    }
}

/// Whether any of the old homes answers a greeting.
async fn probe<D: Disk>(shard: &Rc<Shard<D>>, homes: &[SiteId]) -> OldHome {
    let view = shard.view();
    let probes = homes.iter().filter_map(|home| view.peers.get(home)).map(|peer| greeted(shard, peer));
    match futures_util::future::join_all(probes).await.iter().any(Option::is_some) {
        true => OldHome::Answers,
        false => OldHome::Silent,
    }
}

/// What a peer says to a greeting; `None` if that is nothing.
pub(super) async fn greeted<D: Disk>(shard: &Rc<Shard<D>>, peer: &PeerRecord) -> Option<Hello> {
    tokio::time::timeout(PROBE, greet(shard, peer)).await.ok()?.ok()
}

async fn promote<D: Disk>(
    shard: &Rc<Shard<D>>,
    log: &LogStanding,
    loss: Loss,
    force: bool,
) -> Result<FailedOver, Refusal> {
    let generation = next_generation(shard, log);
    let id = log.descriptor.log;
    // A home that renews its lease after this was weighed goes on acknowledging.
    let weighed = (!force).then(|| (log.known, log.lease.map_or(0, |(_, promises)| promises)));
    let command = GroupCommand::Promote(Promote { log: id, generation, time: shard.clock.now(), weighed });
    shard.log_command(id, command).await?;
    // Deltas may have come in since the order was weighed: what counts is where the new generation begins.
    let promoted = log_view(shard, id).await?;
    let branch = promoted.and_then(|log| log.lineage.into_iter().find(|branch| branch.generation == generation));
    let position = branch.map_or(at(log), |branch| branch.first - 1);
    let came_since = position.saturating_sub(at(log));
    Ok(FailedOver {
        tenant_name: log.descriptor.tenant_name.clone(),
        name: log.descriptor.name.clone(),
        generation,
        position,
        lost_deltas: loss.deltas.map(|deltas| deltas.saturating_sub(came_since)),
        lost_ms: loss.ms,
    })
}

/// An old home that answers is told of the new generation by our senders; once it has taken it in, losses are final.
async fn wait_for_fence<D: Disk>(shard: &Rc<Shard<D>>, logs: &[LogStanding], homes: &[SiteId]) -> bool {
    let wait = async {
        for log in logs {
            let was_home = |home: &&SiteId| **home == log.known.site && log.descriptor.policy.goes_to(**home);
            for home in homes.iter().filter(was_home) {
                let knows = |log: LogStanding| log.peers.iter().any(|peer| peer.site == *home && peer.caught_up);
                while !log_view(shard, log.descriptor.log).await.ok().flatten().is_some_and(knows) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    tokio::time::timeout(FENCE_PATIENCE, wait).await.is_ok()
}
