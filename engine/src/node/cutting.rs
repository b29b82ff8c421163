//! The cut of a failover to one: kept by the control group before the first log goes by it, so that one that is interrupted goes
//! on by the same, and forgotten once it is over.
//!
//! What is left of it is promoted by that cut as long as it is what it was then. Where it has gone on since, the logs that were
//! promoted and those that are left can't be of one time any more: that is for people to say.

use super::shard::Shard;
use super::weighing::{Found, at_once, log_view};
use farside_codec::command::{ControlCommand, CutPlan, PlannedCut};
use farside_codec::ids::Hlc;
use farside_codec::message::{Failover, LogStanding, Refusal, RefusalCode};
use farside_io::disk::Disk;
use futures_util::stream::TryStreamExt;
use std::rc::Rc;
use std::time::Duration;

/// So long another order is taken to be the same one, repeated, though what is left has gone on a little meanwhile.
const REPEATED: Duration = Duration::from_secs(600);

/// How the logs of a cut stand.
struct Progress {
    /// Some have been promoted.
    begun: bool,
    /// Those that have not been, and are under the generation that they were under.
    left: Vec<LogStanding>,
}

async fn progress<D: Disk>(shard: &Rc<Shard<D>>, plan: &CutPlan) -> Result<Progress, Refusal> {
    let asked = plan.logs.iter().map(|planned| log_view(shard, planned.log));
    let now: Vec<Option<LogStanding>> = at_once(asked).try_collect().await?;
    let mut progress = Progress { begun: false, left: Vec::new() };
    for (planned, now) in plan.logs.iter().zip(now) {
        let Some(now) = now else { continue };
        if now.known == planned.home {
            progress.left.push(now);
        } else if now.known.site == shard.site.site {
            progress.begun = true;
        }
    }
    Ok(progress)
}

/// The cut by which these logs have to be promoted, because others have been.
pub(super) async fn resumed<D: Disk>(shard: &Rc<Shard<D>>, found: &Found) -> Result<Option<Hlc>, Refusal> {
    let view = shard.view();
    let Some(plan) = &view.cut_plan else { return Ok(None) };
    let Progress { begun, left } = progress(shard, plan).await?;
    let age = Duration::from_millis(shard.clock.now().ms().saturating_sub(plan.made.ms()));
    // Two orders at once are one, whichever of them comes first to it.
    if left.is_empty() || found.logs.is_empty() || !begun && age > REPEATED {
        return Ok(None);
    }
    let is_left = |found: &LogStanding| left.iter().any(|log| log.descriptor.log == found.descriptor.log);
    let stands = |found: &LogStanding| {
        let planned = plan.logs.iter().find(|planned| planned.log == found.descriptor.log);
        planned.is_some_and(|planned| planned.head == found.head.hash)
    };
    let logs = || found.logs.iter().map(|found| &found.log);
    if logs().all(is_left) && (age <= REPEATED || logs().all(stands)) {
        return Ok(Some(plan.cut));
    }
    if !begun {
        return Ok(None);
    }
    let detail = format!(
        "a failover to a cut at {} was begun and is not over, and logs that are left are not as they were then: promote those by \
         `--at latest`, or all that are left to another cut with --force",
        crate::times::show_time(plan.cut)
    );
    Err(Refusal::new(RefusalCode::Unsafe, detail))
}

/// Where an order cuts, and whether others were promoted by that before.
pub(super) async fn decide<D: Disk>(
    shard: &Rc<Shard<D>>,
    order: &Failover,
    found: &Found,
) -> Result<Option<(Hlc, bool)>, Refusal> {
    if !order.cut || found.logs.is_empty() {
        return Ok(None);
    }
    let resumed = match resumed(shard, found).await {
        Err(refusal) if order.force && refusal.code == RefusalCode::Unsafe => None,
        resumed => resumed?,
    };
    Ok(resumed.map(|cut| (cut, true)).or(found.cut.map(|cut| (cut, false))))
}

/// Keeps a new cut before the first log goes by it, unless somebody else has kept another one meanwhile.
pub(super) async fn keep<D: Disk>(shard: &Rc<Shard<D>>, cut: Hlc, found: &Found) -> Result<(), Refusal> {
    let instead_of = shard.view().cut_plan.as_ref().map(|plan| plan.made);
    let logs = found.logs.iter().map(|found| PlannedCut {
        log: found.log.descriptor.log,
        home: found.log.known,
        head: found.log.head.hash,
    });
    let plan = CutPlan { made: shard.clock.now(), cut, logs: logs.collect() };
    shard.control(&shard.by_itself(), ControlCommand::PlanCut((Some(plan), instead_of))).await.map(drop)
}

/// Forgets a cut of which nothing is left, or by which an order has promoted nothing.
pub(super) async fn end<D: Disk>(shard: &Rc<Shard<D>>, order: &Failover) {
    let view = shard.view();
    let Some(plan) = &view.cut_plan else { return };
    let ended = async {
        let Progress { begun, left } = progress(shard, plan).await?;
        match left.is_empty() || order.cut && !begun {
            false => Ok(()),
            true => shard.control(&shard.by_itself(), ControlCommand::PlanCut((None, Some(plan.made)))).await.map(drop),
        }
    };
    if let Err(refusal) = ended.await {
        // The next order finds out that it is over.
        tracing::warn!(%refusal, "the cut of a failover is not forgotten yet");
    }
}
