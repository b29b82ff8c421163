//! Logs: making them, what they are, and their policies.

use super::args::{Common, LogCommand};
use super::client_commands::{Outcome, connect, status_document};
use super::output::CliError;
use super::sizes::{show_bytes, show_time};
use crate::client::{Client, ClientError, parse_label, parse_log_name, unexpected};
use crate::terminal::line;
use farside_codec::delta::{Deduplication, LogPolicy};
use farside_codec::ids::SiteId;
use farside_codec::message::{LogInfo, Reply, Request, SetPolicy};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Versions of the tenant's key in its KMS under which something in the log may be sealed.
fn key_versions(info: &LogInfo) -> Vec<u32> {
    let epochs = info.epochs.iter().chain([&info.descriptor.first_epoch]);
    epochs.map(|epoch| epoch.key_version).collect::<BTreeSet<u32>>().into_iter().collect()
}

fn log_json(info: &LogInfo) -> Value {
    let branch = |branch: &farside_codec::delta::Branch| {
        json!({
            "generation": branch.generation.counter,
            "site_id": branch.generation.site.to_string(),
            "incarnation": branch.generation.incarnation,
            "first_seq": branch.first,
            "previous_hash": branch.previous.to_string(),
        })
    };
    json!({
        "name": format!("{}/{}", info.descriptor.tenant_name, info.descriptor.name),
        "id": info.descriptor.log.to_string(),
        "home": info.home.as_ref().map(ToString::to_string),
        "home_site_id": info.lineage.last().map(|last| last.generation.site.to_string()),
        "generation": info.lineage.last().map(|last| last.generation.counter),
        "head_seq": info.head.sequence,
        "head_hash": info.head.hash.to_string(),
        "head_time": show_time(info.head_time),
        "lineage": info.lineage.iter().map(branch).collect::<Vec<_>>(),
        "key_versions": key_versions(info),
        "history_seconds": info.descriptor.policy.history_seconds,
        "lag_bound_seconds": info.descriptor.policy.lag_bound_seconds,
        "lag_stops_writers": info.descriptor.policy.lag_stops_writers,
        "home_lease_seconds": info.descriptor.policy.home_lease_seconds,
        "replicates_to": shown(info, &info.descriptor.policy.sites),
        "residency": shown(info, &info.descriptor.policy.residency),
        "quota_bytes": info.descriptor.policy.quota_bytes,
        "live_bytes": info.live_bytes,
        "deduplication": match info.descriptor.policy.deduplication {
            Deduplication::Off => "off",
            Deduplication::Log => "log",
            Deduplication::Tenant => "tenant",
        },
    })
}

fn print_log(info: &LogInfo, common: &Common, whole: bool) {
    if common.json {
        return line(log_json(info));
    }
    let name = format!("{}/{}", info.descriptor.tenant_name, info.descriptor.name);
    let site = info.lineage.last().map(|last| last.generation.site.to_string());
    let home = super::status_text::home(info.home.as_ref().map(|home| home.as_str()), site.as_deref());
    line(format!("{name}  home {home}  head {}  {}", info.head.sequence, show_time(info.head_time)));
    if whole {
        line(format!("  head hash  {}", info.head.hash));
        let policy = &info.descriptor.policy;
        if policy.lag_stops_writers {
            line(format!("  writers stop where a peer lags {} s behind", policy.lag_bound_seconds));
        }
        if policy.home_lease_seconds > 0 {
            line(format!("  home lease of {} s", policy.home_lease_seconds));
        }
        if let Some(sites) = shown(info, &policy.sites) {
            line(format!("  held by {}", sites.join(", ")));
        }
        if let Some(sites) = shown(info, &policy.residency) {
            line(format!("  may be nowhere but at {}", sites.join(", ")));
        }
        if policy.quota_bytes > 0 {
            line(format!("  {} of a quota of {}", show_bytes(info.live_bytes), show_bytes(policy.quota_bytes)));
        }
        for branch in &info.lineage {
            line(format!(
                "  generation {} from sequence {} after {}",
                branch.generation, branch.first, branch.previous
            ));
        }
    }
}

fn deduplication(text: &str) -> Result<Deduplication, CliError> {
    match text {
        "off" => Ok(Deduplication::Off),
        "log" => Ok(Deduplication::Log),
        "tenant" => Ok(Deduplication::Tenant),
        other => Err(CliError::usage(format!("--dedup {other}: it is off, log or tenant"))),
    }
}

/// Sites of a policy as they are shown: by name, where this site knows one.
fn shown(info: &LogInfo, sites: &Option<Vec<SiteId>>) -> Option<Vec<String>> {
    let name = |site: &SiteId| {
        let known = info.names.iter().find(|(known, _)| known == site);
        known.map_or_else(|| site.to_string(), |(_, name)| name.to_string())
    };
    sites.as_ref().map(|sites| sites.iter().map(name).collect())
}

/// The sites that somebody has named: `None` if nobody has, `Some(None)` if that is the word for any.
async fn named(
    client: &Client,
    names: Option<Vec<String>>,
    any: &str,
) -> Result<Option<Option<Vec<SiteId>>>, CliError> {
    let Some(names) = names else { return Ok(None) };
    if names.iter().any(|name| name == any) {
        return match names.len() {
            1 => Ok(Some(None)),
            _ => Err(CliError::usage(format!("{any} goes with no other site"))),
        };
    }
    let own = status_document(client).await?["site"].as_str().unwrap_or_default().to_owned();
    let peers = match client.control(&Request::PeerList).await? {
        Reply::Peers(peers) => peers,
        reply => return Err(unexpected(&reply).into()),
    };
    let mut sites: Vec<SiteId> = Vec::new();
    for name in &names {
        let label = parse_label(name)?;
        let peer = peers.iter().find(|peer| peer.name == label).map(|peer| peer.site);
        let found = if *name == own { Some(client.site()) } else { peer };
        let missing = || ClientError::NotFound(format!("there is no peer {name}"));
        sites.extend(Some(found.ok_or_else(missing)?).filter(|site| !sites.contains(site)));
    }
    Ok(Some(Some(sites)))
}

async fn set_policy(client: &Client, name: &str, info: LogInfo, policy: LogPolicy, common: &Common) -> Outcome {
    client.control(&Request::SetPolicy(SetPolicy { log: info.descriptor.log, policy })).await?;
    print_log(&client.resolve(name).await?, common, true);
    Ok(())
}

pub(super) async fn log(command: LogCommand, common: &Common) -> Outcome {
    let client = match command {
        LogCommand::Create { log, residency } => {
            let (tenant, name) = parse_log_name(&log)?;
            let client = connect(common).await?;
            let residency = named(&client, residency, "none").await?.flatten();
            let policy = LogPolicy { residency, ..LogPolicy::default() };
            print_log(&client.create_log_with(&tenant, &name, policy).await?, common, false);
            client
        }
        LogCommand::Replicate { log, to } => {
            parse_log_name(&log)?;
            let client = connect(common).await?;
            let info = client.resolve(&log).await?;
            let mut policy = info.descriptor.policy.clone();
            policy.sites = named(&client, Some(to), "all").await?.flatten();
            if let Some(sites) = policy.sites.as_mut().filter(|sites| !sites.contains(&client.site())) {
                // The home holds it, and is the one to be sent it once another site is home.
                sites.push(client.site());
            }
            set_policy(&client, &log, info, policy, common).await?;
            client
        }
        LogCommand::List => {
            let client = connect(common).await?;
            client.logs().await?.iter().for_each(|info| print_log(info, common, false));
            client
        }
        LogCommand::Show { log } => {
            parse_log_name(&log)?;
            let client = connect(common).await?;
            print_log(&client.resolve(&log).await?, common, true);
            client
        }
        LogCommand::Policy { log, dedup, history, lag_bound, home_lease, residency, quota } => {
            parse_log_name(&log)?;
            let dedup = dedup.as_deref().map(deduplication).transpose()?;
            let client = connect(common).await?;
            let info = client.resolve(&log).await?;
            let mut policy = info.descriptor.policy.clone();
            policy.deduplication = dedup.unwrap_or(policy.deduplication);
            policy.history_seconds = history.unwrap_or(policy.history_seconds);
            if let Some(bound) = lag_bound {
                policy.lag_stops_writers = bound > 0;
                policy.lag_bound_seconds = if bound > 0 { bound } else { LogPolicy::DEFAULT_LAG_BOUND_SECONDS };
            }
            policy.home_lease_seconds = home_lease.unwrap_or(policy.home_lease_seconds);
            policy.residency = named(&client, residency, "none").await?.unwrap_or(policy.residency);
            policy.quota_bytes = quota.unwrap_or(policy.quota_bytes);
            set_policy(&client, &log, info, policy, common).await?;
            client
        }
    };
    Ok(client.close().await?)
}
