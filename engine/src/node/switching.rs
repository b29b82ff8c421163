//! Carries out a switchover at the home: waits until the next home lacks next to nothing of a log, ends the log's
//! generation with a last delta that names it, and waits until it has taken that in and says so.
//!
//! Nothing is remembered outside the logs: an order that is given again goes on with what is left, and a log in transit
//! arrives by itself, whether anybody waits for it or not.

use super::failing_over::log_view;
use super::limits::{PROBE, SWITCH_BYTES, SWITCH_DELTAS, SWITCH_NEAR, SWITCH_TRANSIT, SWITCHES};
use super::links::own_hello;
use super::server::Answered;
use super::shard::Shard;
use farside_codec::command::{GroupCommand, GroupOutcome, HandOverLog};
use farside_codec::delta::{Branch, Cursor, Generation};
use farside_codec::ids::{LogId, SiteId};
use farside_codec::message::{
    FailedOver, LogBehind, LogStanding, PeerRecord, PeerStanding, Refusal, RefusalCode, Reply, SwitchedOver, Switchover,
};
use farside_io::disk::Disk;
use futures_util::stream::{StreamExt, iter};
use std::rc::Rc;
use std::time::Duration;

/// Between two looks at a log.
const LOOK: Duration = Duration::from_millis(10);

/// What came of one log.
enum Came {
    Moved(FailedOver, Duration),
    Left(LogBehind),
}

pub(super) async fn run<D: Disk>(shard: &Rc<Shard<D>>, order: Switchover) -> Answered {
    let peer = shard.view().peer(&order.to).cloned();
    let peer = peer.ok_or_else(|| {
        let detail = format!("there is no peer {}: `farside peer list` names them", order.to);
        Refusal::new(RefusalCode::NotFound, detail)
    })?;
    if peer.paused {
        let detail = format!("peer {} is paused: resume it first, so that it gets the last deltas", peer.name);
        return Err(Refusal::new(RefusalCode::Unsafe, detail));
    }
    let logs = logs_to_move(shard, &order, &peer).await?;
    let own = own_hello(&shard.site, shard.index, shard.clock.now());
    let silent = || {
        let detail = format!("peer {} does not answer: nothing was changed", peer.name);
        Refusal::new(RefusalCode::Unavailable, detail)
    };
    let hello = tokio::time::timeout(PROBE, shard.links.hello(&peer, own)).await;
    let incarnation = hello.map_err(|_| silent())?.map_err(|_| silent())?.incarnation;
    let moves = logs.into_iter().map(|log| one(shard, log, peer.site, incarnation));
    let mut moves = iter(moves).buffer_unordered(SWITCHES);
    let mut report = SwitchedOver { moved: Vec::new(), left: Vec::new(), stalled_ms: 0 };
    let mut refused = None;
    while let Some(came) = moves.next().await {
        match came {
            Ok(Came::Moved(log, stalled)) => {
                report.stalled_ms = report.stalled_ms.max(stalled.as_millis() as u64);
                report.moved.push(log);
            }
            Ok(Came::Left(log)) => report.left.push(log),
            Err(refusal) => refused = Some(refusal),
        }
    }
    match refused {
        // What was moved is told all the same: the order is repeated for the rest, and fails then.
        Some(refusal) if report.moved.is_empty() => Err(refusal),
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
    log.known.site == site && log.lineage.last().is_some_and(|last| last.generation == log.known)
}

/// The generation that a log which was handed over here will have, while that has not begun.
fn transit(log: &LogStanding, here: SiteId) -> Option<Generation> {
    let ended = log.lineage.last().is_some_and(|last| last.generation.site == here && last.generation != log.known);
    ended.then_some(log.known)
}

async fn one<D: Disk>(shard: &Rc<Shard<D>>, log: LogStanding, peer: SiteId, incarnation: u64) -> Result<Came, Refusal> {
    let clock = shard.clock.clock();
    let (to, last) = match transit(&log, shard.site.site) {
        Some(to) => (to, log.head.clone()),
        None => {
            if let Err(behind) = come_near(shard, &log, peer).await? {
                return Ok(Came::Left(behind));
            }
            let to = Generation { counter: log.known.counter + 1, site: peer, incarnation };
            (to, hand_over(shard, log.descriptor.log, to).await?)
        }
    };
    let stopped = clock.monotonic();
    while clock.monotonic() - stopped < SWITCH_TRANSIT {
        let now = log_view(shard, log.descriptor.log).await?;
        let Some(now) = now.filter(|now| transit(now, shard.site.site).is_none()) else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let next = now.lineage.into_iter().find(|branch| branch.generation == to);
        return match next.filter(|branch| continues(branch, &last)) {
            Some(_) => {
                tracing::warn!(log = %log.descriptor.log, generation = %to, "the log was handed over to its next home");
                Ok(Came::Moved(moved(&log, to, &last), clock.monotonic() - stopped))
            }
            None => Err(overtaken(&log)),
        };
    }
    tracing::warn!(log = %log.descriptor.log, "the log is in transit still");
    Ok(Came::Left(behind(&log, peer_of(&log, peer), Some(last))))
}

/// Whether the next generation begins after this delta and no other.
fn continues(branch: &Branch, last: &Cursor) -> bool {
    branch.first == last.sequence + 1 && branch.previous == last.hash
}

fn overtaken(log: &LogStanding) -> Refusal {
    let (tenant, name) = (&log.descriptor.tenant_name, &log.descriptor.name);
    let detail = format!(
        "{tenant}/{name} was promoted by force while it was handed over: `farside status` says where it has its home, \
         `farside divergence list` what that undid"
    );
    Refusal::new(RefusalCode::Diverged, detail)
}

fn moved(log: &LogStanding, generation: Generation, last: &Cursor) -> FailedOver {
    FailedOver {
        tenant_name: log.descriptor.tenant_name.clone(),
        name: log.descriptor.name.clone(),
        generation,
        position: last.sequence,
        lost_deltas: Some(0),
        lost_ms: Some(0),
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

/// Waits until the peer lacks so little that writers wait for seconds at most.
async fn come_near<D: Disk>(
    shard: &Rc<Shard<D>>,
    log: &LogStanding,
    peer: SiteId,
) -> Result<Result<(), LogBehind>, Refusal> {
    let clock = shard.clock.clock();
    let begun = clock.monotonic();
    loop {
        let now = log_view(shard, log.descriptor.log).await?;
        let standing = now.as_ref().map_or_else(|| peer_of(log, peer), |now| peer_of(now, peer));
        // A peer that has never said where it stands may not be able to take the log at all.
        let known = now.is_some_and(|now| now.peers.iter().any(|found| found.site == peer));
        if known && (standing.caught_up || standing.deltas <= SWITCH_DELTAS && standing.bytes <= SWITCH_BYTES) {
            return Ok(Ok(()));
        }
        if clock.monotonic() - begun > SWITCH_NEAR {
            return Ok(Err(behind(log, standing, None)));
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
