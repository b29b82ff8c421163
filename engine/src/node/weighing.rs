//! What a failover would do, before it does anything: which logs have their home elsewhere, where each would go on, what that
//! loses, and what speaks against it. A drill asks for no more.

use super::limits::PROBE;
use super::peers::greet;
use super::routing;
use super::server::Answered;
use super::shard::{Shard, state_refusal};
use super::{closing, cutting};
use crate::federation::failover::{Candidate, Objection, OldHome, Promise, preflight};
use crate::state::lineage;
use farside_codec::command::GroupCommand;
use farside_codec::delta::Generation;
use farside_codec::ids::{Hlc, Label, LogId, SiteId};
use farside_codec::message::{
    FailedOver, Hello, LogStanding, PeerRecord, PeerStanding, Refusal, RefusalCode, Reply, Request, StandingQuestion,
    Weigh, Weighed,
};
use farside_io::disk::Disk;
use farside_transport::{Caller, Role};
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Logs that are asked for, or promoted, at once: they share flushes.
const AT_ONCE: usize = 32;

/// Does a number of things, several at once; their outcomes come in order.
pub(super) fn at_once<F: Future>(work: impl Iterator<Item = F>) -> impl Stream<Item = F::Output> {
    stream::iter(work).buffered(AT_ONCE)
}

/// One log that is to be promoted.
pub(super) struct Promotable {
    pub(super) log: LogStanding,
    pub(super) candidate: Candidate,
}

impl Promotable {
    /// What promoting it is about to do, as far as it is known beforehand.
    pub(super) fn expected(&self, generation: Generation) -> FailedOver {
        let (loss, position) = (self.candidate.loss(), self.position());
        FailedOver {
            tenant_name: self.log.descriptor.tenant_name.clone(),
            name: self.log.descriptor.name.clone(),
            generation,
            position,
            lost_deltas: loss.deltas,
            lost_ms: loss.ms,
            set_aside: self.log.head.sequence.saturating_sub(position),
        }
    }

    /// Where its next generation would begin: after what this copy has, if it is an exact one, or at the cut.
    pub(super) fn position(&self) -> u64 {
        self.candidate.point().0
    }
}

/// What there is to promote, and what is known of it.
pub(super) struct Found {
    pub(super) logs: Vec<Promotable>,
    /// Logs that were promoted here before, of the homes of those that are to be, or of any where there are none.
    pub(super) before: Vec<LogStanding>,
    pub(super) home: OldHome,
    /// Where a failover to a cut would cut.
    pub(super) cut: Option<Hlc>,
}

impl Found {
    /// What speaks against promoting the logs.
    pub(super) fn objections(&self) -> Vec<Objection> {
        let candidates: Vec<Candidate> = self.logs.iter().map(|found| found.candidate.clone()).collect();
        preflight(self.home, &candidates)
    }
}

/// Where a log was home before its newest generation, as far as that shows: of a home of which nothing is left here that is where
/// it was heard of.
pub(super) fn left_home(log: &LogStanding) -> Option<SiteId> {
    let (_, before) = log.lineage.split_last()?;
    let heard = || log.heard.as_ref().map(|(head, _)| head.generation).filter(|heard| *heard < log.known);
    before.last().map(|branch| branch.generation).or_else(heard).map(|generation| generation.site)
}

/// Weighs a failover and changes nothing. What it would take is measured: promoting a log is one commit in its group.
pub(super) async fn weigh<D: Disk>(shard: &Rc<Shard<D>>, question: Weigh) -> Answered {
    let found = find(shard, question.from.as_ref(), question.log).await?;
    if found.logs.is_empty() {
        return Err(nothing());
    }
    // A home that lives answers, and has its lease renewed.
    let by_its_life = |found: &Objection| matches!(found, Objection::HomeAnswers | Objection::LeaseRuns { .. });
    let objections = found.objections().into_iter().filter(|found| !by_its_life(found));
    let objections = objections.map(|found| found.to_string()).collect();
    let begun = shard.clock.clock().monotonic();
    let close = |log: &LogStanding| shard.log_command(log.descriptor.log, GroupCommand::Close(closing::NOTHING));
    at_once(found.logs.iter().map(|found| close(&found.log))).try_collect::<Vec<_>>().await?;
    let commits_ms = (shard.clock.clock().monotonic() - begun).as_millis() as u64;
    let logs = found.logs.iter().map(|found| found.expected(found.log.known)).collect();
    let home_answers = found.home == OldHome::Answers;
    let cut = cutting::weigh(shard, &found).await.ok().flatten().map(|decided| decided.cut);
    Ok(Reply::Weighed(Weighed { logs, home_answers, objections, commits_ms, cut }).into())
}

/// Finds what a failover is about.
pub(super) async fn find<D: Disk>(
    shard: &Rc<Shard<D>>,
    from: Option<&Label>,
    log: Option<LogId>,
) -> Result<Found, Refusal> {
    let (logs, mut before) = logs_to_promote(shard, from, log).await?;
    let mut old: BTreeSet<SiteId> = logs.iter().map(|log| log.known.site).collect();
    if old.is_empty() {
        old = before.iter().filter_map(left_home).collect();
    }
    // Logs that came here from elsewhere, and at another time, have nothing to do with it.
    before.retain(|log| left_home(log).is_some_and(|home| old.contains(&home)));
    let home = probe(shard, &old).await;
    let view = shard.view();
    let holds = |log: &LogStanding, peer: SiteId| log.known.site == peer || log.descriptor.policy.goes_to(peer);
    // A site that holds it may be no peer of this one.
    let peers = |log: &LogStanding| match &log.descriptor.policy.sites {
        Some(sites) => sites.iter().filter(|site| **site != shard.site.site).count(),
        None => view.peers.keys().filter(|peer| holds(log, **peer)).count(),
    };
    let logs = logs.into_iter().map(|log| {
        let candidate = candidate(&log, shard.site.site, peers(&log));
        Promotable { log, candidate }
    });
    let logs: Vec<Promotable> = logs.collect();
    let cut = logs.iter().filter_map(|found| found.candidate.complete_to).min();
    Ok(Found { logs, before, home, cut })
}

/// Has the logs promoted as they were at one time: finds where each was then.
pub(super) async fn cut_at<D: Disk>(shard: &Rc<Shard<D>>, logs: &mut [Promotable], cut: Hlc) -> Result<(), Refusal> {
    let at = |found: &Promotable| StandingQuestion { log: found.log.descriptor.log, at: Some(cut) };
    let asked = logs.iter().map(|found| ask(shard, at(found)));
    let then: Vec<Option<LogStanding>> = at_once(asked).try_collect().await?;
    for (Promotable { candidate, .. }, then) in logs.iter_mut().zip(then) {
        // One that is no exact copy of any time goes on from what it has.
        candidate.cut = then.and_then(|then| then.at).filter(|_| candidate.complete_to.is_some());
    }
    Ok(())
}

/// The logs that have their home elsewhere, those in transit from here among them; and those that had it there once.
async fn logs_to_promote<D: Disk>(
    shard: &Rc<Shard<D>>,
    from: Option<&Label>,
    log: Option<LogId>,
) -> Result<(Vec<LogStanding>, Vec<LogStanding>), Refusal> {
    let (view, here) = (shard.view(), shard.site.site);
    let from = match from {
        None => None,
        Some(name) => Some(view.peer(name).map(|peer| peer.site).ok_or_else(|| {
            Refusal::new(RefusalCode::NotFound, format!("there is no peer {name}: `farside peer list` names them"))
        })?),
    };
    let is_meant = |home: SiteId| home != here && from.is_none_or(|from| from == home);
    let asked = view.logs.keys().filter(|id| log.is_none_or(|only| only == **id)).map(|id| log_view(shard, *id));
    let held: Vec<Option<LogStanding>> = at_once(asked).try_collect().await?;
    let (logs, others): (Vec<_>, Vec<_>) = held.into_iter().flatten().partition(|log| is_meant(log.known.site));
    let was_there = |log: &LogStanding| log.known.site == here && left_home(log).is_some_and(is_meant);
    let before: Vec<LogStanding> = others.into_iter().filter(was_there).collect();
    match logs.is_empty() && before.is_empty() {
        true => Err(nothing()),
        false => Ok((logs, before)),
    }
}

fn nothing() -> Refusal {
    Refusal::new(RefusalCode::NotFound, "no log here has its home at another site: nothing to fail over")
}

/// How a log stands, as the leader of its group says.
pub(super) async fn log_view<D: Disk>(shard: &Rc<Shard<D>>, log: LogId) -> Result<Option<LogStanding>, Refusal> {
    ask(shard, StandingQuestion { log, at: None }).await
}

async fn ask<D: Disk>(shard: &Rc<Shard<D>>, question: StandingQuestion) -> Result<Option<LogStanding>, Refusal> {
    match ask_leader(shard, question.log, Request::LogStanding(question)).await? {
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
pub(super) async fn standing<D: Disk>(shard: &Rc<Shard<D>>, question: StandingQuestion) -> Answered {
    let log = question.log;
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
        // A log that nothing was placed in yet is as old as it is.
        let with_time = |sequence: u64| {
            let time = state.time_of(log, sequence).map_err(state_refusal)?;
            Ok::<_, Refusal>((sequence, time.unwrap_or(view.descriptor.created)))
        };
        let at = match question.at {
            Some(time) => Some(state.sequence_at_time(log, time).map_err(state_refusal)?),
            None => None,
        };
        let begun = view.lineage.last().map(|branch| branch.first.saturating_sub(1));
        Ok(Some(LogStanding {
            lease,
            whole,
            at: at.map(with_time).transpose()?,
            begun: begun.map(with_time).transpose()?,
            closed: view.closed,
            floor: view.seeding.as_ref().map_or(view.floor, |seeding| seeding.floor),
            descriptor: view.descriptor.clone(),
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
        complete_to: match &log.whole {
            Some((whole, _)) if whole.sequence == 0 => None,
            Some((_, time)) => Some(*time),
            None => Some(log.closed.max(log.head_time)),
        },
        floor: log.floor,
        cut: None,
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
async fn probe<D: Disk>(shard: &Rc<Shard<D>>, homes: &BTreeSet<SiteId>) -> OldHome {
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
