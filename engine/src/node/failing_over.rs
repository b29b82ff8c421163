//! Carries out a failover at the surviving site: weighs it, promotes log by log, fences the old home, reports.
//!
//! One that is interrupted is ordered again and goes on: what was promoted is told as done before, and a cut is kept by the
//! control group until all of its logs are.

use super::server::Answered;
use super::shard::Shard;
use super::weighing::{Found, Promotable, at_once, cut_at, find, left_home, log_view};
use super::{auditing, cutting};
use crate::federation::failover::{Loss, OldHome};
use farside_codec::audit::{AuditAction, AuditNote, AuditOutcome, AuditScope, AuditedFailover, AuditedPromotion};
use farside_codec::command::{GroupCommand, Promote};
use farside_codec::delta::Generation;
use farside_codec::ids::{Hlc, LogId, SiteId};
use farside_codec::message::{
    FailedOver, Failover, FailoverReport, LogRefused, LogStanding, Refusal, RefusalCode, Reply,
};
use farside_io::disk::Disk;
use farside_transport::Caller;
use futures_util::stream::StreamExt;
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
        to_cut: order.cut,
        cut: report.and_then(|report| report.cut),
        logs: report.map(|report| report.logs.len() as u32),
        refused: report.map(|report| report.refused.len() as u32),
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
    let mut found = find(shard, order.from.as_ref(), order.log).await?;
    let decided = cutting::decide(shard, order, &found).await?;
    let cut = decided.as_ref().map(|decided| decided.cut);
    if let Some(cut) = cut {
        cut_at(shard, &mut found.logs, cut).await?;
    }
    let objections = found.objections();
    if !order.force && !found.logs.is_empty() && !objections.is_empty() {
        let reasons: Vec<String> = objections.iter().map(ToString::to_string).collect();
        let detail = format!("{}; repeat with --force to go on all the same", reasons.join("; "));
        return Err(Refusal::new(RefusalCode::Unsafe, detail));
    }
    let expected = |found: &Promotable| found.expected(next_generation(shard, &found.log));
    let mut notes = vec![noted(order, None, AuditOutcome::Ordered)];
    notes.extend(found.logs.iter().map(|found| noted_log(&found.log, &expected(found), AuditOutcome::Ordered)));
    trail.note(shard, notes).await?;
    if let Some(decided) = &decided {
        cutting::keep(shard, decided, &found).await?;
    }
    let promotions = found.logs.iter().map(|found| promote(shard, found, cut, order.force));
    let outcomes: Vec<Result<FailedOver, Refusal>> = at_once(promotions).collect().await;
    let mut report =
        FailoverReport { logs: Vec::new(), before: Vec::new(), refused: Vec::new(), cut, rto_ms: 0, fenced: false };
    report.before = found.before.iter().map(promoted_before).collect();
    report.rto_ms = (shard.clock.clock().monotonic() - begun).as_millis() as u64;
    let mut notes = Vec::new();
    for (found, outcome) in found.logs.iter().zip(outcomes) {
        let log = &found.log;
        match outcome {
            Ok(came) => {
                notes.push(noted_log(log, &came, AuditOutcome::Done));
                report.logs.push(came);
            }
            Err(refusal) => {
                notes.push(noted_log(log, &expected(found), AuditOutcome::failed(&refusal)));
                let (tenant_name, name) = (log.descriptor.tenant_name.clone(), log.descriptor.name.clone());
                report.refused.push(LogRefused { tenant_name, name, refusal });
            }
        }
    }
    trail.ended(shard, notes).await;
    cutting::end(shard, &found).await;
    if found.home == OldHome::Answers {
        report.fenced = wait_for_fence(shard, &found).await;
    }
    trail.ended(shard, vec![noted(order, Some(&report), AuditOutcome::Done)]).await;
    Ok(Reply::FailedOver(report).into())
}

/// What an earlier order did to a log, as far as it can be told now.
fn promoted_before(log: &LogStanding) -> FailedOver {
    let begun = log.begun.unwrap_or_default();
    let heard = log.heard.as_ref().filter(|(home, _)| home.generation < log.known);
    let loss = heard.map_or(Loss { deltas: None, ms: None }, |heard| Loss::since(begun, heard));
    FailedOver {
        tenant_name: log.descriptor.tenant_name.clone(),
        name: log.descriptor.name.clone(),
        generation: log.known,
        position: begun.0,
        lost_deltas: loss.deltas,
        lost_ms: loss.ms,
        set_aside: 0,
    }
}

async fn promote<D: Disk>(
    shard: &Rc<Shard<D>>,
    found: &Promotable,
    cut: Option<Hlc>,
    force: bool,
) -> Result<FailedOver, Refusal> {
    let log = &found.log;
    let generation = next_generation(shard, log);
    let id = log.descriptor.log;
    // A home that renews its lease after this was weighed goes on acknowledging.
    let weighed = (!force).then(|| (log.known, log.lease.map_or(0, |(_, promises)| promises)));
    let command = GroupCommand::Promote(Promote { log: id, generation, time: shard.clock.now(), weighed, cut });
    shard.log_command(id, command).await?;
    // Deltas may have come in since the order was weighed: what counts is where the new generation begins.
    let promoted = log_view(shard, id).await?;
    let branch = promoted.and_then(|log| log.lineage.into_iter().find(|branch| branch.generation == generation));
    let position = branch.map_or(found.position(), |branch| branch.first - 1);
    let came_since = position.saturating_sub(found.position());
    let expected = found.expected(generation);
    Ok(FailedOver {
        position,
        lost_deltas: expected.lost_deltas.map(|deltas| deltas.saturating_sub(came_since)),
        set_aside: expected.set_aside.saturating_sub(came_since),
        ..expected
    })
}

/// An old home that answers is told of the new generation by our senders; once it has taken it in, losses are final.
async fn wait_for_fence<D: Disk>(shard: &Rc<Shard<D>>, found: &Found) -> bool {
    let promoted = found.logs.iter().map(|found| (&found.log, Some(found.log.known.site)));
    let before = found.before.iter().map(|log| (log, left_home(log)));
    let homes = promoted.chain(before).filter_map(|(log, home)| Some((log, home?)));
    let told: Vec<(LogId, SiteId)> = homes
        .filter(|(log, home)| log.descriptor.policy.goes_to(*home))
        .map(|(log, home)| (log.descriptor.log, home))
        .collect();
    let wait = async {
        for (log, home) in told {
            let knows = |log: LogStanding| log.peers.iter().any(|peer| peer.site == home && peer.caught_up);
            while !log_view(shard, log).await.ok().flatten().is_some_and(knows) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::time::timeout(FENCE_PATIENCE, wait).await.is_ok()
}
