//! The cut of a failover to one: kept by the control group before the first log goes by it, so that one that is interrupted goes
//! on by the same, and forgotten once it is over.
//!
//! What is left of it is promoted by that cut where it stands as it stood. Where it has gone on since, the logs that were
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

/// So long after another order has begun one like it is taken to go on beside it, and by its cut, whatever has come in since.
const BESIDE: Duration = Duration::from_secs(10);

/// How an order goes by a cut that was kept before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It is the same failover.
    Resume,
    /// It has nothing to do with it, or nothing was promoted by it that would have to agree.
    Anew,
    /// Some were promoted by it, and these can't be any more.
    Refuse,
}

/// A log as an order finds it, against how it was planned.
#[derive(Debug, Clone, Copy)]
struct Match {
    /// It is a log of the cut, and has the home that it had.
    planned: bool,
    /// And stands here as it stood.
    stands: bool,
}

fn turn(logs: &[Match], begun: bool, age: Duration) -> Turn {
    if !logs.iter().any(|log| log.planned) {
        return Turn::Anew;
    }
    let all_planned = logs.iter().all(|log| log.planned);
    match all_planned && (age < BESIDE || logs.iter().all(|log| log.stands)) {
        true => Turn::Resume,
        false if begun => Turn::Refuse,
        false => Turn::Anew,
    }
}

fn matches(plan: &CutPlan, found: &Found) -> Vec<Match> {
    let one = |log: &LogStanding| {
        let at_home = |planned: &&PlannedCut| planned.log == log.descriptor.log && planned.home == log.known;
        let planned = plan.logs.iter().find(at_home);
        Match { planned: planned.is_some(), stands: planned.is_some_and(|planned| planned.head == log.head.hash) }
    };
    found.logs.iter().map(|found| one(&found.log)).collect()
}

/// Whether some log was promoted by a cut, and whether one is left that was not promoted at all.
async fn progress<D: Disk>(shard: &Rc<Shard<D>>, plan: &CutPlan) -> Result<(bool, bool), Refusal> {
    let asked = plan.logs.iter().map(|planned| log_view(shard, planned.log));
    let now: Vec<Option<LogStanding>> = at_once(asked).try_collect().await?;
    let (mut begun, mut left) = (false, false);
    for (planned, now) in plan.logs.iter().zip(now) {
        let Some(now) = now else { continue };
        left |= now.known == planned.home;
        let agrees = now.begun.is_some_and(|(_, time)| time <= plan.cut);
        begun |= now.known != planned.home && now.known.site == shard.site.site && agrees;
    }
    Ok((begun, left))
}

/// Where an order cuts.
#[derive(Debug, Clone)]
pub(super) struct Decided {
    pub(super) cut: Hlc,
    /// It is the one of an order before.
    resumed: bool,
    /// Cuts, by when they were made, in whose place it comes.
    instead_of: Vec<Hlc>,
}

/// Where logs would be cut by an order that is given now.
pub(super) async fn weigh<D: Disk>(shard: &Rc<Shard<D>>, found: &Found) -> Result<Option<Decided>, Refusal> {
    let view = shard.view();
    let mut instead_of = Vec::new();
    for plan in view.cut_plans.values() {
        let logs = matches(plan, found);
        if !logs.iter().any(|log| log.planned) {
            continue;
        }
        let (begun, _) = progress(shard, plan).await?;
        let age = Duration::from_millis(shard.clock.now().ms().saturating_sub(plan.made.ms()));
        match turn(&logs, begun, age) {
            Turn::Resume => return Ok(Some(Decided { cut: plan.cut, resumed: true, instead_of: Vec::new() })),
            Turn::Anew => instead_of.push(plan.made),
            Turn::Refuse => {
                let detail = format!(
                    "some logs were promoted to a cut at {}, and not all of these can be any more: name by --from or --log those \
                     that were ordered then, or promote what is left by `--at latest`, or to another cut with --force",
                    crate::times::show_time(plan.cut)
                );
                return Err(Refusal::new(RefusalCode::Unsafe, detail));
            }
        }
    }
    Ok(found.cut.map(|cut| Decided { cut, resumed: false, instead_of }))
}

/// Where an order cuts, if it does.
pub(super) async fn decide<D: Disk>(
    shard: &Rc<Shard<D>>,
    order: &Failover,
    found: &Found,
) -> Result<Option<Decided>, Refusal> {
    if !order.cut || found.logs.is_empty() {
        return Ok(None);
    }
    match weigh(shard, found).await {
        Err(refusal) if order.force && refusal.code == RefusalCode::Unsafe => {
            let instead_of = touched(shard, found).into_iter().map(|plan| plan.made).collect();
            Ok(found.cut.map(|cut| Decided { cut, resumed: false, instead_of }))
        }
        decided => decided,
    }
}

/// Keeps a new cut before the first log goes by it, unless somebody else has kept another one of these logs meanwhile.
pub(super) async fn keep<D: Disk>(shard: &Rc<Shard<D>>, decided: &Decided, found: &Found) -> Result<(), Refusal> {
    if decided.resumed {
        return Ok(());
    }
    let logs = found.logs.iter().map(|found| PlannedCut {
        log: found.log.descriptor.log,
        home: found.log.known,
        head: found.log.head.hash,
    });
    let plan = CutPlan { made: shard.clock.now(), cut: decided.cut, logs: logs.collect() };
    let command = ControlCommand::PlanCut((Some(plan), decided.instead_of.clone()));
    shard.control(&shard.by_itself(), command).await.map(drop)
}

/// The cuts that have some of these logs.
fn touched<D: Disk>(shard: &Shard<D>, found: &Found) -> Vec<CutPlan> {
    let has = |plan: &&CutPlan| matches(plan, found).iter().any(|log| log.planned);
    shard.view().cut_plans.values().filter(has).cloned().collect()
}

/// Forgets cuts of these logs of which nothing is left, or by which nothing was promoted.
pub(super) async fn end<D: Disk>(shard: &Rc<Shard<D>>, found: &Found) {
    for plan in touched(shard, found) {
        let ended = async {
            let (begun, left) = progress(shard, &plan).await?;
            match begun && left {
                true => Ok(()),
                false => {
                    shard.control(&shard.by_itself(), ControlCommand::PlanCut((None, vec![plan.made]))).await.map(drop)
                }
            }
        };
        if let Err(refusal) = ended.await {
            // The next order finds out that it is over.
            tracing::warn!(%refusal, "the cut of a failover is not forgotten yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_gone_by_where_it_still_can_be() {
        let stranger = Match { planned: false, stands: false };
        let (stands, moved) = (Match { planned: true, stands: true }, Match { planned: true, stands: false });
        let (soon, late) = (Duration::from_secs(1), Duration::from_secs(60));
        for (logs, begun, age, expected) in [
            (vec![], true, soon, Turn::Anew),
            (vec![stranger], true, soon, Turn::Anew),
            (vec![stands, stands], true, late, Turn::Resume),
            (vec![stands, stands], false, late, Turn::Resume),
            (vec![stands, moved], true, soon, Turn::Resume),
            (vec![stands, moved], true, late, Turn::Refuse),
            (vec![stands, moved], false, late, Turn::Anew),
            (vec![stands, stranger], true, soon, Turn::Refuse),
            (vec![stands, stranger], true, late, Turn::Refuse),
            (vec![stands, stranger], false, soon, Turn::Anew),
        ] {
            assert_eq!(turn(&logs, begun, age), expected, "{logs:?}, {begun}, {age:?}");
        }
    }
}
