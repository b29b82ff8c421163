//! Carries out a switchover at the home: waits until the next home lacks next to nothing of a log, ends the log's
//! generation with a last delta that names it, and waits until it has taken that in and says so.
//!
//! Nothing is remembered outside the logs: an order that is given again goes on with what is left, and a log in transit
//! arrives by itself, whether anybody waits for it or not.

use super::auditing;
use super::limits::{SWITCH_BYTES, SWITCH_DELTAS, SWITCH_NEAR, SWITCH_ORDER, SWITCH_TRANSIT, SWITCHES};
use super::server::Answered;
use super::shard::Shard;
use super::weighing::{ask_leader, greeted, log_view};
use crate::state::lineage;
use farside_codec::audit::{AuditAction, AuditNote, AuditOutcome, AuditScope, AuditedHandOver, AuditedSwitchover};
use farside_codec::command::{GroupCommand, GroupOutcome, HandOverLog};
use farside_codec::delta::{Branch, Cursor, Delta, DeltaKind, Generation};
use farside_codec::ids::{Label, LogId, SiteId};
use farside_codec::message::{
    FailedOver, LogBehind, LogRefused, LogStanding, PeerRecord, PeerStanding, ReadDeltas, Refusal, RefusalCode, Reply,
    Request, SwitchedOver, Switchover,
};
use farside_io::disk::Disk;
use farside_transport::Caller;
use futures_util::stream::{StreamExt, iter};
use std::rc::Rc;
use std::time::Duration;

/// Between two looks at a log.
const LOOK: Duration = Duration::from_millis(10);

/// What came of one log.
enum Came {
    Moved(FailedOver, Duration),
    Left(LogBehind),
    Refused(Refusal),
}

/// To whom logs go, and until when one order waits for them.
struct To {
    site: SiteId,
    /// The incarnation in which it answered; `None`: it does not answer, so that nothing more goes to it.
    incarnation: Option<u64>,
    silent: Refusal,
    deadline: Duration,
    name: Label,
    /// Under which what happens to each log is written down.
    trail: auditing::Order,
}

/// What is written down of one log that is handed over.
fn noted(
    log: &LogStanding,
    to: &To,
    generation: Generation,
    position: Option<u64>,
    outcome: AuditOutcome,
) -> AuditNote {
    let action = AuditedHandOver {
        log: log.descriptor.log,
        tenant_name: log.descriptor.tenant_name.clone(),
        name: log.descriptor.name.clone(),
        to: to.name.clone(),
        generation,
        position,
    };
    auditing::note(AuditScope::Tenant(log.descriptor.tenant), AuditAction::HandOver(action), outcome)
}

/// What is written down of an order that has moved logs.
fn noted_order(order: &Switchover, report: &SwitchedOver) -> AuditNote {
    let action = AuditedSwitchover {
        to: order.to.clone(),
        back: order.back,
        moved: report.moved.len() as u32,
        left: (report.left.len() + report.refused.len()) as u32,
        stalled_ms: report.stalled_ms,
    };
    auditing::note(AuditScope::Site, AuditAction::Switchover(action), AuditOutcome::Done)
}

pub(super) async fn run<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, order: Switchover) -> Answered {
    let deadline = shard.clock.clock().monotonic() + SWITCH_ORDER;
    let peer = shard.view().peer(&order.to).cloned();
    let peer = peer.ok_or_else(|| {
        let detail = format!("there is no peer {}: `farside peer list` names them", order.to);
        Refusal::new(RefusalCode::NotFound, detail)
    })?;
    let logs = logs_to_move(shard, &order, &peer).await?;
    let all_stay = logs.iter().all(|log| transit(log, shard.site.site).is_none());
    if peer.paused && all_stay {
        let detail = format!("peer {} is paused: resume it first, so that it gets the last deltas", peer.name);
        return Err(Refusal::new(RefusalCode::Unsafe, detail));
    }
    let incarnation = greeted(shard, &peer).await.map(|hello| hello.incarnation).filter(|_| !peer.paused);
    let silent =
        Refusal::new(RefusalCode::Unavailable, format!("peer {} does not answer: nothing was changed", peer.name));
    if incarnation.is_none() && all_stay {
        return Err(silent);
    }
    let (name, trail) = (peer.name, auditing::Order::new(shard, auditing::certificate(caller)));
    let to = To { site: peer.site, incarnation, silent, deadline, name, trail };
    let to = &to;
    let moves = logs.into_iter().map(|log| async move { (one(shard, &log, to).await, log) });
    let mut moves = iter(moves).buffer_unordered(SWITCHES);
    let mut report = SwitchedOver { moved: Vec::new(), left: Vec::new(), refused: Vec::new(), stalled_ms: 0 };
    while let Some((came, log)) = moves.next().await {
        match came.unwrap_or_else(Came::Refused) {
            Came::Moved(log, stalled) => {
                report.stalled_ms = report.stalled_ms.max(stalled.as_millis() as u64);
                report.moved.push(log);
            }
            Came::Left(log) => report.left.push(log),
            Came::Refused(refusal) => report.refused.push(LogRefused {
                tenant_name: log.descriptor.tenant_name,
                name: log.descriptor.name,
                refusal,
            }),
        }
    }
    // An order is given again and again until all is moved: what it did not do it need not tell.
    if !report.moved.is_empty() {
        to.trail.ended(shard, vec![noted_order(&order, &report)]).await;
    }
    match &report.refused[..] {
        // One that is all there is to tell needs no report.
        [only] if report.moved.is_empty() && report.left.is_empty() => Err(only.refusal.clone()),
        _ => Ok(Reply::SwitchedOver(report).into()),
    }
}

/// The logs that have their home here, and those that are on their way to the peer.
async fn logs_to_move<D: Disk>(
    shard: &Rc<Shard<D>>,
    order: &Switchover,
    peer: &PeerRecord,
) -> Result<Vec<LogStanding>, Refusal> {
    let here = shard.site.site;
    let view = shard.view();
    let mut logs = Vec::new();
    for id in view.logs.keys().filter(|id| order.log.is_none_or(|only| only == **id)).copied() {
        let Some(log) = log_view(shard, id).await? else { continue };
        if is_home(&log, here) || transit(&log, here).is_some_and(|to| to.site == peer.site) {
            logs.push(log);
        }
    }
    if logs.is_empty() {
        let detail = format!(
            "no log that is meant has its home at site {}: a switchover is ordered where the home is, `farside status` says \
             where that is",
            shard.site.name
        );
        return Err(Refusal::new(RefusalCode::NotFound, detail));
    }
    let was_home = |log: &LogStanding| log.lineage.iter().any(|branch| branch.generation.site == peer.site);
    match logs.iter().find(|log| order.back && !was_home(log)) {
        Some(log) => {
            let (tenant, name) = (&log.descriptor.tenant_name, &log.descriptor.name);
            let detail = format!("site {} was never home of {tenant}/{name}: use switchover", peer.name);
            Err(Refusal::new(RefusalCode::Unsafe, detail))
        }
        None => Ok(logs),
    }
}

fn is_home(log: &LogStanding, site: SiteId) -> bool {
    lineage::is_home(&log.lineage, log.known, site)
}

/// The generation that a log which was handed over here will have, while that has not begun.
fn transit(log: &LogStanding, here: SiteId) -> Option<Generation> {
    lineage::in_transit_to(&log.lineage, log.known, here)
}

async fn one<D: Disk>(shard: &Rc<Shard<D>>, log: &LogStanding, to: &To) -> Result<Came, Refusal> {
    let (clock, id) = (shard.clock.clock(), log.descriptor.log);
    let mut stopped = clock.monotonic();
    // An order whose outcome is not known may have been committed: the log itself says so.
    let mut unsure = None;
    let (next, mut last) = match transit(log, shard.site.site) {
        Some(next) => (next, Some(log.head.clone())),
        None => {
            if !log.descriptor.policy.goes_to(to.site) {
                let (tenant, name) = (&log.descriptor.tenant_name, &log.descriptor.name);
                let detail = format!(
                    "{tenant}/{name} is not sent to site {}: `farside log replicate` says to whom it is",
                    to.name
                );
                return Err(Refusal::new(RefusalCode::Unsafe, detail));
            }
            let Some(incarnation) = to.incarnation else { return Ok(Came::Refused(to.silent.clone())) };
            if let Some(behind) = come_near(shard, log, to).await? {
                return Ok(Came::Left(behind));
            }
            let next = Generation { counter: log.known.counter + 1, site: to.site, incarnation };
            to.trail.note(shard, vec![noted(log, to, next, None, AuditOutcome::Ordered)]).await?;
            stopped = clock.monotonic();
            match hand_over(shard, id, next).await {
                Ok(last) => (next, Some(last)),
                Err(refusal) if is_conclusive(&refusal.code) => {
                    to.trail.ended(shard, vec![noted(log, to, next, None, AuditOutcome::failed(&refusal))]).await;
                    return Err(refusal);
                }
                Err(refusal) => {
                    unsure = Some(refusal);
                    (next, None)
                }
            }
        }
    };
    // What was handed over before is looked at for as long as the order lasts, what was now for its own time.
    let until = match transit(log, shard.site.site) {
        Some(_) => to.deadline.min(stopped + SWITCH_TRANSIT),
        None => stopped + SWITCH_TRANSIT,
    };
    loop {
        // Nobody may lead the group just now: that changes nothing about where the log is.
        let now = log_view(shard, id).await.ok().flatten();
        if let Some(now) = now.as_ref().filter(|now| transit(now, shard.site.site) == Some(next)) {
            last.get_or_insert(now.head.clone());
        }
        let Some(now) = now.filter(|now| transit(now, shard.site.site).is_none()) else {
            if clock.monotonic() >= until {
                tracing::warn!(log = %id, "the log is in transit still");
                return Ok(Came::Left(behind(log, peer_of(log, to.site), last)));
            }
            tokio::time::sleep(LOOK).await;
            continue;
        };
        if is_home(&now, shard.site.site) && now.known == log.known {
            return Err(unsure.unwrap_or_else(|| overtaken(log)));
        }
        let Some(branch) = now.lineage.iter().find(|branch| branch.generation == next) else {
            return Err(overtaken(log));
        };
        let lost = match &last {
            Some(last) if continues(branch, last) => Some(0),
            Some(_) => return Err(overtaken(log)),
            // Whether it was handed over or promoted by force the log itself says, if it still can be asked.
            None => match was_handed_over(shard, id, branch).await {
                Some(true) => Some(0),
                Some(false) => return Err(overtaken(log)),
                None => None,
            },
        };
        tracing::warn!(log = %id, generation = %next, "the log has its next home");
        let (moved, stalled) = (moved(log, branch, lost), clock.monotonic() - stopped);
        to.trail.ended(shard, vec![noted(log, to, next, Some(moved.position), AuditOutcome::Done)]).await;
        return Ok(Came::Moved(moved, stalled));
    }
}

/// Whether a refusal says that nothing was committed. That the log has no home here does not: whoever led its group may have
/// committed the order and died, and the next home has begun since.
fn is_conclusive(code: &RefusalCode) -> bool {
    matches!(code, RefusalCode::BadRequest | RefusalCode::NotFound | RefusalCode::Full)
}

/// Whether the next generation begins after this delta and no other.
fn continues(branch: &Branch, last: &Cursor) -> bool {
    branch.first == last.sequence + 1 && branch.previous == last.hash
}

/// Whether the delta before a generation hands the log over to it; `None` where that delta can't be read any more.
async fn was_handed_over<D: Disk>(shard: &Rc<Shard<D>>, log: LogId, next: &Branch) -> Option<bool> {
    let from = next.first.checked_sub(1)?;
    let read = Request::ReadDeltas(ReadDeltas { log, from, limit: 1 });
    let Ok(Reply::Deltas(deltas)) = ask_leader(shard, log, read).await else { return None };
    let before = Delta::parse(deltas.into_iter().next()?).ok().filter(|delta| delta.sequence == from)?;
    Some(matches!(before.proposal.kind, DeltaKind::Switchover(to) if to == next.generation))
}

fn overtaken(log: &LogStanding) -> Refusal {
    let (tenant, name) = (&log.descriptor.tenant_name, &log.descriptor.name);
    let detail = format!(
        "{tenant}/{name} was promoted by force while it was handed over: `farside status` says where it has its home, \
         `farside divergence list` what that undid"
    );
    Refusal::new(RefusalCode::Diverged, detail)
}

fn moved(log: &LogStanding, begun: &Branch, lost: Option<u64>) -> FailedOver {
    FailedOver {
        tenant_name: log.descriptor.tenant_name.clone(),
        name: log.descriptor.name.clone(),
        generation: begun.generation,
        position: begun.first - 1,
        lost_deltas: lost,
        lost_ms: lost,
        set_aside: 0,
    }
}

fn peer_of(log: &LogStanding, peer: SiteId) -> PeerStanding {
    let unknown = PeerStanding { site: peer, caught_up: false, deltas: log.head.sequence, bytes: 0 };
    log.peers.iter().find(|standing| standing.site == peer).cloned().unwrap_or(unknown)
}

fn behind(log: &LogStanding, peer: PeerStanding, in_transit: Option<Cursor>) -> LogBehind {
    LogBehind {
        tenant_name: log.descriptor.tenant_name.clone(),
        name: log.descriptor.name.clone(),
        deltas: peer.deltas,
        bytes: peer.bytes,
        in_transit,
    }
}

/// Waits until the peer lacks so little that writers wait for seconds at most. Answers how far behind it is otherwise.
async fn come_near<D: Disk>(shard: &Rc<Shard<D>>, log: &LogStanding, to: &To) -> Result<Option<LogBehind>, Refusal> {
    let clock = shard.clock.clock();
    let until = to.deadline.min(clock.monotonic() + SWITCH_NEAR);
    loop {
        let now = log_view(shard, log.descriptor.log).await?;
        // A peer that has never said where it stands may not be able to take the log at all.
        let peer = now.and_then(|now| now.peers.into_iter().find(|peer| peer.site == to.site));
        let is_near = |peer: &PeerStanding| peer.deltas <= SWITCH_DELTAS && peer.bytes <= SWITCH_BYTES;
        if peer.as_ref().is_some_and(is_near) && clock.monotonic() < to.deadline {
            return Ok(None);
        }
        if clock.monotonic() >= until {
            return Ok(Some(behind(log, peer.unwrap_or_else(|| peer_of(log, to.site)), None)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn hand_over<D: Disk>(shard: &Rc<Shard<D>>, log: LogId, to: Generation) -> Result<Cursor, Refusal> {
    let command = GroupCommand::HandOver(HandOverLog { log, to, time: shard.clock.now() });
    match shard.log_command(log, command).await? {
        GroupOutcome::Head(last) => Ok(last),
        _ => Err(Refusal::new(RefusalCode::Internal, "the log group did not do what it was asked")),
    }
}
