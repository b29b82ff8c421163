//! Commands that change sides, or show that it could be done: failover, switchover, failback, drill.

use super::args::{Common, FailoverAt};
use super::client_commands::{Outcome, connect};
use super::output::{CliError, show_name};
use super::sizes::{show_bytes, show_time};
use crate::client::{Client, ClientError, Log, Object, parse_label, parse_log_name, unexpected};
use crate::node::limits::PROBE;
use crate::terminal::{Progress, line, note};
use farside_codec::audit::{AuditReport, AuditedDrill, AuditedFindings};
use farside_codec::delta::Branch;
use farside_codec::ids::{Label, LogId};
use farside_codec::message::{
    FailedOver, Failover, FailoverReport, LogBehind, LogRefused, Moment, Refusal, RefusalCode, Reply, Request,
    SwitchedOver, Switchover, Weigh, Weighed,
};
use farside_codec::seal::ObjectKind;
use farside_io::entropy::{Entropy, random};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Before a switchover is ordered once more for what is left.
const PAUSE: Duration = Duration::from_millis(200);
/// Logs and objects that are named one by one when something is wrong with them.
const SHOWN: usize = 10;

fn seconds(ms: Option<u64>) -> Option<f64> {
    ms.map(|ms| ms as f64 / 1000.0)
}

fn name_of(log: &FailedOver) -> String {
    format!("{}/{}", log.tenant_name, log.name)
}

fn logs_json(logs: &[FailedOver]) -> Vec<Value> {
    let one = |log: &FailedOver| {
        json!({
            "name": name_of(log),
            "generation": log.generation.counter,
            "position_seq": log.position,
            "lost_deltas_max": log.lost_deltas,
            "lost_seconds_max": seconds(log.lost_ms),
            "set_aside_deltas": log.set_aside,
        })
    };
    logs.iter().map(one).collect()
}

/// The seconds of writes that the log loses which loses most; `None`: of one of them nobody knows.
fn most_lost(logs: &[FailedOver]) -> Option<f64> {
    let all = logs.iter().map(|log| log.lost_ms).collect::<Option<Vec<_>>>();
    seconds(all.and_then(|all| all.into_iter().max()))
}

/// A failover's report as cli.md wants it.
pub(crate) fn failover_json(report: &FailoverReport) -> Value {
    // What was promoted before was lost before.
    let counts = if report.logs.is_empty() { &report.before } else { &report.logs };
    json!({
        "logs": logs_json(&report.logs),
        "before": logs_json(&report.before),
        "refused": report.refused.iter().map(refused_json).collect::<Vec<_>>(),
        "cut": report.cut.map(show_time),
        "rpo_seconds": most_lost(counts),
        "rto_seconds": report.rto_ms as f64 / 1000.0,
        "loss_may_grow": !report.fenced,
    })
}

fn refused_json(log: &LogRefused) -> Value {
    json!({ "name": format!("{}/{}", log.tenant_name, log.name), "error": log.refusal.detail })
}

fn or_unknown(value: &Value) -> String {
    if value.is_null() { "unknown".to_owned() } else { value.to_string() }
}

/// Which log is meant, if one is.
async fn log_id(client: &Client, log: Option<&str>) -> Result<Option<LogId>, CliError> {
    match log {
        Some(name) => Ok(Some(client.resolve(name).await?.descriptor.log)),
        None => Ok(None),
    }
}

pub(super) async fn failover(
    from: Option<String>,
    log: Option<String>,
    at: FailoverAt,
    force: bool,
    common: &Common,
) -> Outcome {
    let from = from.as_deref().map(parse_label).transpose()?;
    log.as_deref().map(parse_log_name).transpose()?;
    let client = connect(common).await?;
    let log = log_id(&client, log.as_deref()).await?;
    let order = Failover { from, log, force, cut: at == FailoverAt::Cut };
    let report = match client.control(&Request::Failover(order)).await? {
        Reply::FailedOver(report) => report,
        reply => return Err(unexpected(&reply).into()),
    };
    let document = failover_json(&report);
    if common.json {
        line(&document);
    } else {
        report.before.iter().for_each(|log| tell_promoted(log, "  promoted before"));
        report.logs.iter().for_each(|log| tell_promoted(log, ""));
        if let Some(cut) = report.cut.filter(|_| !report.logs.is_empty()) {
            line(format!("cut at {}: what came later is set aside", show_time(cut)));
        }
        let grow = if report.fenced { "" } else { " (may grow: the old home did not answer that it is fenced)" };
        line(format!("RPO {} s{grow}, RTO {} s", or_unknown(&document["rpo_seconds"]), document["rto_seconds"]));
    }
    client.close().await?;
    match tell_refused(&report.refused, "promoted") {
        Some(code) => {
            let how = if report.cut.is_some() { ", and by the same cut" } else { "" };
            note(format!("hint: `farside failover`, given again, goes on with what is left{how}"));
            Err(CliError::Told(code))
        }
        None => Ok(()),
    }
}

fn tell_promoted(log: &FailedOver, how: &str) {
    let (name, generation, position) = (name_of(log), log.generation.counter, log.position);
    let lost = json!([log.lost_deltas, seconds(log.lost_ms)]);
    let (deltas, seconds) = (or_unknown(&lost[0]), or_unknown(&lost[1]));
    let aside = if log.set_aside > 0 { format!("  {} of them set aside here", log.set_aside) } else { String::new() };
    line(format!(
        "{name}  generation {generation}  from sequence {position}{how}  lost: {deltas} deltas, {seconds} s{aside}"
    ));
}

/// Says which logs something could not be done to, and why. Answers the exit code of the worst.
fn tell_refused(refused: &[LogRefused], what: &str) -> Option<u8> {
    for log in refused.iter().take(SHOWN) {
        note(format!("error: {}/{} was not {what}: {}", log.tenant_name, log.name, log.refusal.detail));
    }
    if refused.len() > SHOWN {
        note(format!("and {} more", refused.len() - SHOWN));
    }
    refused.iter().map(|log| ClientError::Refused(log.refusal.clone()).exit_code()).max()
}

/// What `switchover` and `failback` were told.
pub(super) struct Move {
    pub(super) to: String,
    pub(super) log: Option<String>,
    pub(super) wait_seconds: u64,
    /// Only to a site that was home before.
    pub(super) back: bool,
}

pub(super) async fn switchover(order: Move, common: &Common) -> Outcome {
    let to = parse_label(&order.to)?;
    order.log.as_deref().map(parse_log_name).transpose()?;
    let client = connect(common).await?;
    let log = log_id(&client, order.log.as_deref()).await?;
    let report = move_all(&client, &Switchover { to: to.clone(), log, back: order.back }, order.wait_seconds).await?;
    if common.json {
        let left = |log: &LogBehind| {
            json!({
                "name": format!("{}/{}", log.tenant_name, log.name), "lag_deltas": log.deltas, "lag_bytes": log.bytes,
                "in_transit": log.in_transit.is_some(),
            })
        };
        line(json!({
            "logs": logs_json(&report.moved),
            "rpo_seconds": most_lost(&report.moved),
            "rto_seconds": report.stalled_ms as f64 / 1000.0,
            "left": report.left.iter().map(left).collect::<Vec<_>>(),
            "refused": report.refused.iter().map(refused_json).collect::<Vec<_>>(),
        }));
    } else {
        for log in &report.moved {
            let (name, generation, position) = (name_of(log), log.generation.counter, log.position);
            let lost = if log.lost_deltas == Some(0) { "nothing lost" } else { "what was lost is unknown" };
            line(format!("{name}  home {to}  generation {generation}  after sequence {position}  {lost}"));
        }
        if !report.moved.is_empty() {
            line(format!("writers waited {} s at most", report.stalled_ms as f64 / 1000.0));
        }
    }
    client.close().await?;
    tell_left(&report.left, &report.refused, &to)
}

/// Orders the move until all is moved or time is up. The site forgets nothing in between: an order that is repeated
/// goes on with what is left.
async fn move_all(client: &Client, order: &Switchover, wait_seconds: u64) -> Result<SwitchedOver, ClientError> {
    let begun = Instant::now();
    let mut progress = Progress::new();
    let mut all = SwitchedOver { moved: Vec::new(), left: Vec::new(), refused: Vec::new(), stalled_ms: 0 };
    // Since when logs are in transit, as far as was told here.
    let mut transits: BTreeMap<(Label, Label), Instant> = BTreeMap::new();
    loop {
        let report = match client.control(&Request::Switchover(order.clone())).await {
            Ok(Reply::SwitchedOver(report)) => Some(report),
            Ok(reply) => return Err(unexpected(&reply)),
            // All that was left has arrived, if it is not found below that it did not.
            Err(ClientError::NotFound(_)) if !all.left.is_empty() => {
                Some(SwitchedOver { moved: Vec::new(), left: Vec::new(), refused: Vec::new(), stalled_ms: 0 })
            }
            Err(error) if all.left.is_empty() => return Err(error),
            // What was told before still is so.
            Err(_) => None,
        };
        if let Some(report) = report {
            let before = std::mem::replace(&mut all.left, report.left);
            all.moved.extend(report.moved);
            all.refused = report.refused;
            all.stalled_ms = all.stalled_ms.max(report.stalled_ms);
            for log in before {
                if !is_told(&all, &log) {
                    all.moved.push(arrived(client, order, &log).await?);
                }
            }
        }
        for log in all.left.iter().filter(|log| log.in_transit.is_some()) {
            transits.entry((log.tenant_name.clone(), log.name.clone())).or_insert_with(Instant::now);
        }
        let waited =
            |log: &FailedOver| transits.get(&(log.tenant_name.clone(), log.name.clone())).map(Instant::elapsed);
        let longest = all.moved.iter().filter_map(waited).max().unwrap_or_default();
        all.stalled_ms = all.stalled_ms.max(longest.as_millis() as u64);
        transits.retain(|(tenant, name), _| all.left.iter().any(|log| (&log.tenant_name, &log.name) == (tenant, name)));
        if all.left.is_empty() || begun.elapsed().as_secs() >= wait_seconds {
            return Ok(all);
        }
        progress.show(|| {
            let (bytes, left) = (all.left.iter().map(|log| log.bytes).sum(), all.left.len());
            format!("{} logs moved; {left} wait until {} has {} more", all.moved.len(), order.to, show_bytes(bytes))
        });
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a report says of a log that was left before what became of it.
fn is_told(all: &SwitchedOver, log: &LogBehind) -> bool {
    let left = all.left.iter().map(|other| (&other.tenant_name, &other.name));
    let moved = all.moved.iter().map(|other| (&other.tenant_name, &other.name));
    let refused = all.refused.iter().map(|other| (&other.tenant_name, &other.name));
    left.chain(moved).chain(refused).any(|other| other == (&log.tenant_name, &log.name))
}

/// How a log went on that was left, and that the site has no more to do about.
async fn arrived(client: &Client, order: &Switchover, log: &LogBehind) -> Result<FailedOver, ClientError> {
    let name = format!("{}/{}", log.tenant_name, log.name);
    let info = client.resolve(&name).await?;
    let follows = |branch: &&Branch| {
        log.in_transit.as_ref().is_some_and(|last| (branch.first, branch.previous) == (last.sequence + 1, last.hash))
    };
    let last = || info.lineage.last().filter(|_| info.home.as_ref() == Some(&order.to));
    // One that was only behind was handed over by an order whose answer was lost, or by somebody else.
    let (branch, lost) = match info.lineage.iter().find(follows) {
        Some(branch) => (Some(branch), Some(0)),
        None if log.in_transit.is_none() => (last(), None),
        None => (None, None),
    };
    match branch {
        Some(branch) => Ok(FailedOver {
            tenant_name: log.tenant_name.clone(),
            name: log.name.clone(),
            generation: branch.generation,
            position: branch.first.saturating_sub(1),
            lost_deltas: lost,
            lost_ms: lost,
            set_aside: 0,
        }),
        None => Err(ClientError::Refused(Refusal::new(
            RefusalCode::Diverged,
            format!("{name} was promoted by force meanwhile: `farside divergence list {name}` says what that undid"),
        ))),
    }
}

/// Says what was not moved. Exit 4 where a log is in transit, for no site takes its writes; else 3.
fn tell_left(left: &[LogBehind], refused: &[LogRefused], to: &Label) -> Outcome {
    let worst = tell_refused(refused, "moved");
    for log in left.iter().take(SHOWN) {
        let name = format!("{}/{}", log.tenant_name, log.name);
        note(match log.in_transit.is_some() {
            true => format!("error: {name} is in transit: {to} does not answer that it has the last delta"),
            false => {
                let (deltas, bytes) = (log.deltas, show_bytes(log.bytes));
                format!("error: {name} was not moved: {to} lacks {deltas} deltas, {bytes}")
            }
        });
    }
    if left.len() > SHOWN {
        note(format!("and {} more", left.len() - SHOWN));
    }
    if left.iter().any(|log| log.in_transit.is_some()) {
        note(format!(
            "hint: it arrives by itself once {to} answers; `farside failover --force --log TENANT/LOG` here takes it back"
        ));
        return Err(CliError::Told(4));
    }
    match (left.is_empty(), worst) {
        (true, None) => Ok(()),
        (true, Some(code)) => Err(CliError::Told(code)),
        (false, _) => {
            note("hint: it is home here still, and takes writes; wait longer with --wait, or slow its writers down");
            Err(CliError::Told(3))
        }
    }
}

/// What a drill found in one log.
struct Drilled {
    listed: u64,
    read: u64,
    bytes: u64,
    failures: Vec<(String, ClientError)>,
}

/// Reads and opens a few objects of each log as the far side would have to, and says what a failover now would cost.
pub(super) async fn drill(from: Option<String>, log: Option<String>, objects: usize, common: &Common) -> Outcome {
    let from = from.as_deref().map(parse_label).transpose()?;
    log.as_deref().map(parse_log_name).transpose()?;
    let client = connect(common).await?;
    let log = log_id(&client, log.as_deref()).await?;
    let question = Weigh { from: from.clone(), log };
    let weighed = match client.control(&Request::Weigh(question)).await? {
        Reply::Weighed(weighed) => weighed,
        reply => return Err(unexpected(&reply).into()),
    };
    // The home would not be there to ask.
    client.read_only_here();
    let mut progress = Progress::new();
    let begun = Instant::now();
    let mut drilled = Vec::new();
    for log in &weighed.logs {
        let name = name_of(log);
        let mut found = Drilled { listed: 0, read: 0, bytes: 0, failures: Vec::new() };
        let done = drill_log(&client, &name, log.position, objects, &mut found, &mut progress);
        if let Err(error) = done.await {
            found.failures.push((String::new(), error));
        }
        drilled.push((log, found));
    }
    drop(progress);
    let took = begun.elapsed();
    let report = AuditReport::Drill(AuditedDrill { from, log, found: Some(findings(&weighed, &drilled)) });
    super::audit::report(&client, report).await;
    tell_drill(&weighed, &drilled, took, common);
    client.close().await?;
    let worst = drilled.iter().flat_map(|(_, found)| &found.failures).map(|(_, error)| error.exit_code()).max();
    match worst {
        Some(code) => Err(CliError::Told(code)),
        None if !weighed.objections.is_empty() => Err(CliError::Told(3)),
        None => Ok(()),
    }
}

/// What the site's audit log is told of a drill.
fn findings(weighed: &Weighed, drilled: &[(&FailedOver, Drilled)]) -> AuditedFindings {
    let found = || drilled.iter().map(|(_, found)| found);
    AuditedFindings {
        logs: drilled.len() as u32,
        objects: found().map(|found| found.read).sum(),
        bytes: found().map(|found| found.bytes).sum(),
        failures: found().map(|found| found.failures.len() as u32).sum(),
        objections: weighed.objections.len() as u32,
    }
}

async fn drill_log(
    client: &Client,
    name: &str,
    position: u64,
    objects: usize,
    found: &mut Drilled,
    progress: &mut Progress,
) -> Result<(), ClientError> {
    let log: Log = client.open_log(name).await?;
    // One moment for all of them, as a failover would leave the log.
    let at = Moment::Sequence(position);
    let mut chosen: Vec<Object> = Vec::new();
    let entropy = client.machine.entropy.clone();
    let sample = std::cell::RefCell::new((&mut chosen, &mut found.listed));
    log.for_each(&at, |object| {
        let (chosen, listed) = &mut *sample.borrow_mut();
        choose(chosen, object, objects, listed, entropy.as_ref());
        std::future::ready(Ok(()))
    })
    .await?;
    for object in &chosen {
        progress.show(|| format!("{name}: {} objects, {}", found.read, show_bytes(found.bytes)));
        let read = object.read(|bytes| {
            found.bytes += bytes.len() as u64;
            Ok(())
        });
        match read.await {
            Ok(()) => found.read += 1,
            Err(error) => found.failures.push((show_name(&object.info.name), error)),
        }
    }
    Ok(())
}

/// Keeps `most` objects of all that come by, each with the same chance (Vitter's algorithm R, 1985).
fn choose(chosen: &mut Vec<Object>, object: Object, most: usize, listed: &mut u64, entropy: &dyn Entropy) {
    if !matches!(object.info.kind, Some(ObjectKind::File)) {
        return;
    }
    *listed += 1;
    if chosen.len() < most {
        return chosen.push(object);
    }
    let place = u64::from_le_bytes(random(entropy)) % *listed;
    if let Some(kept) = chosen.get_mut(place as usize) {
        *kept = object;
    }
}

fn tell_drill(weighed: &Weighed, drilled: &[(&FailedOver, Drilled)], took: Duration, common: &Common) {
    // An old home that is gone is waited for before it counts as gone.
    let estimated = PROBE.as_secs_f64() + weighed.commits_ms as f64 / 1000.0;
    let bytes: u64 = drilled.iter().map(|(_, found)| found.bytes).sum();
    if common.json {
        let one = |(log, found): &(&FailedOver, Drilled)| {
            let failed = |(name, error): &(String, ClientError)| json!({ "object": name, "error": error.to_string() });
            json!({
                "name": name_of(log), "generation": log.generation.counter, "position_seq": log.position,
                "lost_deltas_max": log.lost_deltas, "lost_seconds_max": seconds(log.lost_ms),
                "objects": found.listed, "objects_read": found.read, "read_bytes": found.bytes,
                "failures": found.failures.iter().map(failed).collect::<Vec<_>>(),
            })
        };
        return line(json!({
            "logs": drilled.iter().map(one).collect::<Vec<_>>(),
            "rpo_seconds": most_lost(&weighed.logs),
            "rto_seconds": estimated,
            "home_answers": weighed.home_answers,
            "objections": weighed.objections,
            "cut": weighed.cut.map(show_time),
            "read_bytes_per_second": bytes as f64 / took.as_secs_f64().max(1e-9),
        }));
    }
    for (log, found) in drilled {
        let lost = json!([log.lost_deltas, seconds(log.lost_ms)]);
        let Drilled { listed, read, bytes, .. } = found;
        line(format!(
            "{}  sequence {}  {read} of {listed} objects read and opened, {}  a failover now loses: {} deltas, {} s",
            name_of(log),
            log.position,
            show_bytes(*bytes),
            or_unknown(&lost[0]),
            or_unknown(&lost[1])
        ));
        for (name, error) in found.failures.iter().take(SHOWN) {
            let what = if name.is_empty() { String::new() } else { format!("{name}: ") };
            note(format!("error: {}: {what}{error}", name_of(log)));
            if let Some(hint) = error.hint() {
                note(format!("hint: {hint}"));
            }
        }
        if found.failures.len() > SHOWN {
            note(format!("and {} more", found.failures.len() - SHOWN));
        }
    }
    weighed.objections.iter().for_each(|objection| note(format!("error: {objection}")));
    let rpo = or_unknown(&json!(most_lost(&weighed.logs)));
    let home = if weighed.home_answers { "the home answers" } else { "the home does not answer" };
    line(format!("RPO {rpo} s, RTO about {estimated:.1} s; {home}; nothing was changed"));
}
