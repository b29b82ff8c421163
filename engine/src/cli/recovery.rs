//! `recover-quorum`: what a node has, what follows from that, and going on by it.

use super::args::Common;
use super::keys::Unsealing;
use super::output::CliError;
use super::recovery_args::RecoverQuorum;
use super::sizes::show_time;
use crate::cluster::recovery::{Plan, plan};
use crate::node::{self, NodeError};
use crate::terminal::{line, note};
use farside_codec::cluster::NodeRecord;
use farside_codec::ids::{GroupId, NodeId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_codec::record::wal::LogPosition;
use farside_codec::recovery::{GroupReport, LogReport, NamedLog, NodeReport};
use serde_json::{Value, json};
use std::path::Path;

type Outcome = Result<(), CliError>;

fn refused(detail: impl Into<String>) -> CliError {
    NodeError::Refused(Refusal::new(RefusalCode::Unsafe, detail)).into()
}

pub(super) fn recover_quorum(options: &RecoverQuorum, common: &Common) -> Outcome {
    let directory = common.dir.as_deref().ok_or_else(|| CliError::usage("recover-quorum needs --dir DIR"))?;
    if let Some(path) = &options.report {
        return report(directory, path, &options.unsealing, common);
    }
    let reports: Vec<NodeReport> =
        options.reports.iter().map(|path| node::read_report(path)).collect::<Result<_, _>>()?;
    let plan = plan(&reports, options.begin_empty).map_err(|objection| refused(objection.to_string()))?;
    if options.confirm.as_deref().is_some_and(|name| name != plan.site.as_str()) {
        let site = &plan.site;
        return Err(refused(format!("this is site {site}: nothing was changed. To go on, give --confirm {site}")));
    }
    let confirmed = options.confirm.is_some();
    let done_before = node::carry_out(directory, &reports, &plan, confirmed, &options.unsealing.source())?;
    match common.json {
        true => line(plan_json(&plan, confirmed)),
        false => show(&plan),
    }
    match (confirmed, done_before) {
        (false, _) => Err(refused(format!(
            "nothing was changed. When plan {} stands on every node that is left, and none of them runs, repeat the command \
             on each with --confirm {}, and start them all after that",
            plan.id(),
            plan.site
        ))),
        (true, done_before) => {
            if !common.json {
                line(match done_before {
                    true => "done here before",
                    false => "done here; start this node once it is done on every node that is left",
                });
            }
            Ok(())
        }
    }
}

fn report(directory: &Path, path: &Path, unsealing: &Unsealing, common: &Common) -> Outcome {
    let report = node::report(directory, &unsealing.source())?;
    node::write_report(path, &report)?;
    if common.json {
        line(report_json(&report));
        return Ok(());
    }
    let (site, node) = (&report.site_name, report.node);
    line(format!("node {node} of site {site}, incarnation {}, at {}", report.incarnation, show_time(report.made)));
    for group in report.groups.iter().filter(|group| group.member != NodeId(0)) {
        line(format!("group {}: {}, {}", group.group, show_position(group.last), show_members(group)));
        group.logs.iter().for_each(|log| line(format!("  {}", show_log(log))));
    }
    line(format!("written to {}; take it to every node that is left", path.display()));
    Ok(())
}

fn show_position(position: Option<LogPosition>) -> String {
    match position {
        Some(last) => format!("last entry {} of term {}", last.index, last.term),
        None => "nothing".to_owned(),
    }
}

fn show_members(group: &GroupReport) -> String {
    let sets: Vec<String> = group.membership.configurations.iter().map(|set| show_nodes(set)).collect();
    format!("voters {}", sets.join(" and "))
}

fn show_nodes(members: &[NodeId]) -> String {
    members.iter().map(|member| member.node().to_string()).collect::<Vec<_>>().join(" ")
}

fn show_log(log: &LogReport) -> String {
    let role = if log.home { "home" } else { "copy" };
    let (tenant, name) = (&log.log.tenant, &log.log.name);
    format!("{tenant}/{name}: {role}, generation {}, head {} at {}", log.generation, log.sequence, show_time(log.time))
}

fn show(plan: &Plan) {
    let names = |nodes: &[NodeRecord]| nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>().join(", ");
    line(format!("plan {} for site {}; it must be the same on every node that is left", plan.id(), plan.site));
    line(format!("left: {}", names(&plan.survivors)));
    line(format!("out for good: {}", names(&plan.lost)));
    line(format!("the site's incarnation from here on: {}", plan.file.recovery.incarnation));
    line(format!("{} groups have their majority and lose nothing", plan.kept.len()));
    for forced in &plan.file.forced {
        let what = match forced.group {
            GroupId::CONTROL => "the control group".to_owned(),
            group => format!("group {group}"),
        };
        match forced.last {
            Some(last) => line(format!(
                "{what} goes on with what node {} has, up to entry {} of term {}; what was decided later is lost",
                forced.member.node(),
                last.index,
                last.term
            )),
            None => line(format!("{what} begins empty, on node {}", forced.member.node())),
        }
    }
    for log in &plan.may_lack {
        line(format!("{}; what was acknowledged later may be lost", show_log(log)));
    }
    plan.gone.iter().for_each(|log| line(format!("{}/{}: lost", log.tenant, log.name)));
    if !plan.lost.is_empty() {
        note(format_args!(
            "notice: chunks of which too few fragments are left can't be read either; once the nodes run, `farside repair \
             status` counts them"
        ));
    }
}

fn position_json(position: Option<LogPosition>) -> Value {
    json!(position.map(|at| json!({ "term": at.term, "leader": at.leader.node().0, "index": at.index })))
}

fn log_json(log: &LogReport) -> Value {
    json!({
        "name": format!("{}/{}", log.log.tenant, log.log.name), "home": log.home, "generation": log.generation.counter,
        "incarnation": log.generation.incarnation, "head_seq": log.sequence, "head_hash": log.hash.to_string(),
        "head_time": show_time(log.time),
    })
}

fn named_json(log: &NamedLog) -> Value {
    json!(format!("{}/{}", log.tenant, log.name))
}

fn group_json(group: &GroupReport) -> Value {
    let voters: Vec<Vec<u64>> =
        group.membership.configurations.iter().map(|set| set.iter().map(|member| member.node().0).collect()).collect();
    json!({
        "group": group.group.0, "member": group.member.0, "last": position_json(group.last),
        "committed": position_json(group.committed), "covered": position_json(group.covered),
        "vote": group.vote.map(|vote| json!({ "term": vote.term, "for": vote.leader.node().0 })),
        "voters": voters, "logs": group.logs.iter().map(log_json).collect::<Vec<_>>(),
    })
}

fn report_json(report: &NodeReport) -> Value {
    json!({
        "site": report.site_name.as_str(), "site_id": report.site.to_string(), "incarnation": report.incarnation,
        "node": report.node.0, "time": show_time(report.made),
        "groups": report.groups.iter().map(group_json).collect::<Vec<_>>(),
    })
}

fn plan_json(plan: &Plan, confirmed: bool) -> Value {
    let names = |nodes: &[NodeRecord]| nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>();
    let forced = |group: &farside_codec::recovery::ForcedGroup| {
        json!({
            "group": group.group.0, "node": group.member.node().0, "last": position_json(group.last),
            "empty": group.last.is_none(),
        })
    };
    let may_lack = |log: &LogReport| {
        let mut object = log_json(log);
        object["may_lack_after"] = json!(show_time(log.time));
        object
    };
    json!({
        "plan": plan.id(), "site": plan.site.as_str(), "incarnation": plan.file.recovery.incarnation,
        "confirmed": confirmed, "survivors": names(&plan.survivors), "lost": names(&plan.lost),
        "kept_groups": plan.kept.iter().map(|group| group.0).collect::<Vec<_>>(),
        "forced_groups": plan.file.forced.iter().map(forced).collect::<Vec<_>>(),
        "logs": plan.may_lack.iter().map(may_lack).collect::<Vec<_>>(),
        "lost_logs": plan.gone.iter().map(named_json).collect::<Vec<_>>(),
    })
}
