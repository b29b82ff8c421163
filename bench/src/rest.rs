//! What a site costs at which nobody does anything: processor time of each of its nodes, as the kernel counts it.

use farside_codec::ids::Label;
use farside_tests::{Cluster, as_client};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// What each node may take of one core.
const LIMIT_PERCENT: f64 = 2.0;
/// After the last log was made: groups and leaders settle, closed time and cursors come to rest.
const SETTLE: Duration = Duration::from_secs(20);

/// What is measured.
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) groups: usize,
    pub(crate) logs: usize,
    pub(crate) seconds: u64,
}

/// Processor time that a process has taken so far.
fn taken(process: u32) -> Result<Duration, String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).map_err(|error| error.to_string())?;
    // The name before it may hold anything.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).ok_or("the kernel's account of a process can't be read")?;
    // USER_HZ is 100 wherever Linux runs.
    Ok(Duration::from_millis((user + system) * 10))
}

/// Starts a site, makes its logs, leaves it alone, and looks.
pub(crate) fn run(plan: &Plan, work: Option<&Path>, as_json: bool) -> Result<(), String> {
    let base = work.map_or_else(std::env::temp_dir, Path::to_owned);
    let directory = tempfile::tempdir_in(&base).map_err(|error| format!("{}: {error}", base.display()))?;
    let (groups, kms) = (plan.groups.to_string(), directory.path().join("kms"));
    let cluster = Cluster::start(directory.path(), "rest", plan.nodes, &["--groups", &groups]);
    cluster.make_log(&kms, "acme/first");
    let context = farside::client::Context::load(&cluster.context).map_err(|error| error.to_string())?;
    as_client(&kms, "acme", &context, async |client| {
        let tenant = Label::parse("acme").ok_or("no label")?;
        for number in 1..plan.logs {
            let name = Label::parse(&format!("log-{number}")).ok_or("no label")?;
            client.create_log(&tenant, &name).await.map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(())
    })?;
    cluster.wait_for(Duration::from_secs(120), "groups have their voters", Cluster::owes_nothing);
    std::thread::sleep(SETTLE);
    let (begun, before) = (Instant::now(), sample(&cluster)?);
    std::thread::sleep(Duration::from_secs(plan.seconds));
    let (after, took) = (sample(&cluster)?, begun.elapsed().as_secs_f64());
    let mut percent: Vec<f64> =
        before.iter().zip(&after).map(|(before, after)| (*after - *before).as_secs_f64() / took * 100.0).collect();
    percent.sort_by(f64::total_cmp);
    report(plan, &percent, took, as_json);
    Ok(())
}

fn sample(cluster: &Cluster) -> Result<Vec<Duration>, String> {
    cluster.nodes.iter().map(|node| taken(node.process())).collect()
}

fn report(plan: &Plan, percent: &[f64], seconds: f64, as_json: bool) {
    let (median, least, most) = (percent[percent.len() / 2], percent[0], percent[percent.len() - 1]);
    if as_json {
        let figure = json!({
            "name": "rest",
            "parameters": { "nodes": plan.nodes, "groups": plan.groups, "logs": plan.logs, "seconds": seconds },
            "percent_of_a_core": median,
            "limit": LIMIT_PERCENT,
            "min": least,
            "max": most,
        });
        println!("{figure}");
        return;
    }
    println!("{} logs in {} groups on {} nodes at rest, for {seconds:.0} s", plan.logs, plan.groups, plan.nodes);
    println!(
        "  each node takes   {median:.2} % of a core  (median; {least:.2} to {most:.2}; to stay under {LIMIT_PERCENT})"
    );
}
