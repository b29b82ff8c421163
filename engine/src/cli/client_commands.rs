//! Commands that talk to a site.

use super::args::{At, Common, ContextCommand, LogCommand, PeerCommand, TenantCommand};
use super::output::{CliError, Progress, kind, line, object_json, put_json, show_name};
use super::sizes::{parse_time, show_bytes, show_time};
use crate::client::{
    Client, ClientError, ClientSettings, Context, ObjectInfo, Upload, parse_label, parse_log_name, unexpected,
};
use crate::node;
use crate::tree::{self, Notice};
use farside_codec::delta::Deduplication;
use farside_codec::message::{
    Failover, FailoverReport, LogInfo, Moment, PeerAction, Reply, Request, SetPeer, SetPolicy,
};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

type Outcome = Result<(), CliError>;

/// The context that the flags name.
fn context_path(common: &Common) -> Result<PathBuf, CliError> {
    match (&common.dir, &common.context) {
        (Some(_), Some(_)) => Err(CliError::usage("--dir and --context name two sites; give one of them")),
        (Some(dir), None) => {
            let path = node::directory::NodeDirectory::new(dir).admin_context();
            match path.exists() {
                true => Ok(path),
                false => Err(ClientError::NotFound(format!("{} is not a node's directory", dir.display())).into()),
            }
        }
        (None, Some(path)) => Ok(path.clone()),
        (None, None) => std::env::var_os("FARSIDE_CONTEXT")
            .map(PathBuf::from)
            .ok_or_else(|| CliError::usage("which site? give --dir DIR or --context FILE, or set FARSIDE_CONTEXT")),
    }
}

pub(super) async fn connect(common: &Common) -> Result<Client, CliError> {
    let path = context_path(common)?;
    Ok(Client::connect(&Context::load(&path)?, ClientSettings::beside(&path)?).await?)
}

fn moment(at: &At) -> Result<Moment, CliError> {
    match (&at.at, at.seq) {
        (Some(text), _) => parse_time(text)
            .map(Moment::Time)
            .ok_or_else(|| CliError::usage(format!("{text} is no RFC 3339 time, like 2026-01-31T12:00:00Z"))),
        (None, Some(sequence)) => Ok(Moment::Sequence(sequence)),
        (None, None) => Ok(Moment::Latest),
    }
}

pub(super) async fn context(command: ContextCommand, common: &Common) -> Outcome {
    let ContextCommand::Export { output, tenant } = command;
    let dir = common.dir.as_deref().ok_or_else(|| CliError::usage("context export needs --dir DIR"))?;
    let tenant = match tenant {
        None => None,
        Some(name) => {
            let client = connect(common).await?;
            Some(client.tenant(&parse_label(&name)?).await?.tenant)
        }
    };
    node::export_context(dir, tenant)?.save(&output)?;
    match common.json {
        true => line(json!({ "context": output.display().to_string() })),
        false => line(format!("wrote {}", output.display())),
    }
    Ok(())
}

fn tenant_json(tenant: &farside_codec::message::Tenant) -> Value {
    json!({
        "name": tenant.name.as_str(),
        "id": tenant.tenant.to_string(),
        "created": show_time(tenant.created),
        "epochs": tenant.epochs.iter().map(|epoch| json!({
            "id": epoch.epoch.to_string(), "kms_key": epoch.key_name, "kms_key_version": epoch.key_version,
        })).collect::<Vec<_>>(),
    })
}

pub(super) async fn tenant(command: TenantCommand, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let print = |tenant: &farside_codec::message::Tenant| match common.json {
        true => line(tenant_json(tenant)),
        false => line(format!("{}  {}  {} key epochs", tenant.name, tenant.tenant, tenant.epochs.len())),
    };
    match command {
        TenantCommand::Create { name, kms } => print(&client.create_tenant(&parse_label(&name)?, &kms).await?),
        TenantCommand::List => client.tenants().await?.iter().for_each(print),
        TenantCommand::Show { name } => print(&client.tenant(&parse_label(&name)?).await?),
        TenantCommand::Kms { name, url } => {
            client.set_kms(&parse_label(&name)?, &url).await?;
            match common.json {
                true => line(json!({ "tenant": name, "kms": url })),
                false => line(format!("the KMS of {name} is {url}; it computes the tenant's keys")),
            }
        }
    }
    Ok(client.close().await?)
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
        "generation": info.lineage.last().map(|last| last.generation.counter),
        "head_seq": info.head.sequence,
        "head_hash": info.head.hash.to_string(),
        "head_time": show_time(info.head_time),
        "lineage": info.lineage.iter().map(branch).collect::<Vec<_>>(),
        "history_seconds": info.descriptor.policy.history_seconds,
        "lag_bound_seconds": info.descriptor.policy.lag_bound_seconds,
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
    let home = info.home.as_ref().map_or("unknown", |home| home.as_str());
    line(format!("{name}  home {home}  head {}  {}", info.head.sequence, show_time(info.head_time)));
    if whole {
        line(format!("  head hash  {}", info.head.hash));
        for branch in &info.lineage {
            line(format!(
                "  generation {} from sequence {} after {}",
                branch.generation, branch.first, branch.previous
            ));
        }
    }
}

pub(super) async fn log(command: LogCommand, common: &Common) -> Outcome {
    let client = connect(common).await?;
    match command {
        LogCommand::Create { log } => {
            let (tenant, name) = parse_log_name(&log)?;
            print_log(&client.create_log(&tenant, &name).await?, common, false);
        }
        LogCommand::List => client.logs().await?.iter().for_each(|info| print_log(info, common, false)),
        LogCommand::Show { log } => print_log(&client.resolve(&log).await?, common, true),
        LogCommand::Policy { log, dedup, history, lag_bound } => {
            let info = client.resolve(&log).await?;
            let mut policy = info.descriptor.policy.clone();
            policy.deduplication = match dedup.as_deref() {
                None => policy.deduplication,
                Some("off") => Deduplication::Off,
                Some("log") => Deduplication::Log,
                Some("tenant") => Deduplication::Tenant,
                Some(other) => return Err(CliError::usage(format!("--dedup {other}: off, log or tenant"))),
            };
            policy.history_seconds = history.unwrap_or(policy.history_seconds);
            policy.lag_bound_seconds = lag_bound.unwrap_or(policy.lag_bound_seconds);
            client.control(&Request::SetPolicy(SetPolicy { log: info.descriptor.log, policy })).await?;
            print_log(&client.resolve(&log).await?, common, true);
        }
    }
    Ok(client.close().await?)
}

fn tell(notice: Notice) {
    eprintln!("{}: {}", show_name(notice.path.as_os_str().as_bytes()), notice.what);
}

pub(super) async fn put(recursive: bool, log: &str, name: &Path, file: Option<&Path>, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let log = client.open_log(log).await?;
    let outcome = match (recursive, file) {
        (true, None) => put_tree(&log, name, common).await,
        (true, Some(_)) => Err(CliError::usage("put -r takes T/L DIR")),
        (false, None) => Err(CliError::usage("put takes T/L NAME FILE; - reads standard input")),
        (false, Some(file)) => put_file(&log, name, file, common).await,
    };
    client.close().await?;
    outcome
}

async fn put_file(log: &crate::client::Log, name: &Path, file: &Path, common: &Common) -> Outcome {
    let name = name.as_os_str().as_bytes();
    let upload = if file == Path::new("-") {
        Upload::reader(name, Box::new(std::io::stdin()))
    } else {
        let fail = |error| ClientError::File(file.to_owned(), error);
        let input = std::fs::File::open(file).map_err(fail)?;
        let metadata = input.metadata().map_err(fail)?;
        if metadata.is_dir() {
            return Err(CliError::usage(format!("{} is a directory; put -r puts trees", file.display())));
        }
        let mut upload = Upload::reader(name, Box::new(input));
        upload.mode = metadata.mode() & 0o7777;
        upload.modified = (metadata.mtime(), metadata.mtime_nsec() as u32);
        upload
    };
    let receipt = log.put(upload).await?;
    match common.json {
        true => line(put_json(&log.name(), &receipt)),
        false => line(format!(
            "{}  seq {}  {}  {}",
            show_name(&receipt.name),
            receipt.receipt.cursor.sequence,
            show_bytes(receipt.size_bytes),
            show_time(receipt.receipt.time)
        )),
    }
    Ok(())
}

async fn put_tree(log: &crate::client::Log, root: &Path, common: &Common) -> Outcome {
    let mut progress = Progress::new();
    let (mut objects, mut bytes) = (0u64, 0u64);
    let name = log.name();
    let begun = Instant::now();
    let mut each = |receipt: &crate::client::PutReceipt| {
        objects += 1;
        bytes += receipt.size_bytes;
        if common.json {
            line(put_json(&name, receipt));
        }
        progress.show(|| format!("{objects} objects, {}", show_bytes(bytes)));
    };
    let stored = tree::store(log, root, &mut each, &mut tell).await?;
    drop(progress);
    let seconds = begun.elapsed().as_secs_f64();
    if !common.json {
        line(format!(
            "{} objects, {} in {seconds:.1} s; {} were there already; {} skipped, {} failed",
            stored.objects,
            show_bytes(stored.bytes),
            show_bytes(stored.deduplicated_bytes),
            stored.skipped,
            stored.failures
        ));
    }
    if stored.failures > 0 { Err(CliError::Told(1)) } else { Ok(()) }
}

pub(super) async fn get(recursive: bool, log: &str, name: &Path, output: &Path, at: &At, common: &Common) -> Outcome {
    let at = moment(at)?;
    let client = connect(common).await?;
    let log = client.open_log(log).await?;
    if recursive {
        let restored = tree::restore(&log, &at, name, &mut tell).await?;
        client.close().await?;
        match common.json {
            true => line(
                json!({ "objects": restored.objects, "size_bytes": restored.bytes, "failures": restored.failures }),
            ),
            false => line(format!(
                "{} objects, {}; {} failed",
                restored.objects,
                show_bytes(restored.bytes),
                restored.failures
            )),
        }
        return if restored.failures > 0 { Err(CliError::Told(1)) } else { Ok(()) };
    }
    let object = log.get(name.as_os_str().as_bytes(), &at).await?;
    if output == Path::new("-") {
        let mut out = std::io::stdout().lock();
        object.read(|bytes| out.write_all(bytes)).await?;
        out.flush().map_err(|error| ClientError::File("standard output".into(), error))?;
    } else {
        write_whole(&object, output).await?;
    }
    Ok(client.close().await?)
}

/// Writes beside the target and renames, so that a failed get leaves what was there.
async fn write_whole(object: &crate::client::Object, output: &Path) -> Outcome {
    let fail = |error| ClientError::File(output.to_owned(), error);
    let mut temporary = output.as_os_str().to_owned();
    temporary.push(format!(".{}.part", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut file = std::fs::File::create_new(&temporary).map_err(fail)?;
    let written = object.read(|bytes| file.write_all(bytes)).await;
    let renamed = match written {
        Ok(()) => file.sync_all().and_then(|()| std::fs::rename(&temporary, output)).map_err(fail),
        Err(error) => Err(error),
    };
    renamed.map_err(|error| {
        // Nobody wants half an object.
        let _ = std::fs::remove_file(&temporary);
        error.into()
    })
}

fn print_object(info: &ObjectInfo, common: &Common) {
    match common.json {
        true => line(object_json(info)),
        false => line(format!(
            "{:>10}  {}  {:>10}  {:<9}  {}",
            info.sequence,
            show_time(info.time),
            show_bytes(info.size_bytes),
            kind(info),
            show_name(&info.name)
        )),
    }
}

pub(super) async fn ls(log: &str, at: &At, common: &Common) -> Outcome {
    let at = moment(at)?;
    let client = connect(common).await?;
    client.open_log(log).await?.list(&at).await?.iter().for_each(|info| print_object(info, common));
    Ok(client.close().await?)
}

pub(super) async fn rm(log: &str, name: &Path, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let log = client.open_log(log).await?;
    let receipt = log.remove(name.as_os_str().as_bytes()).await?;
    match common.json {
        true => line(put_json(&log.name(), &receipt)),
        false => line(format!("removed {}  seq {}", show_name(&receipt.name), receipt.receipt.cursor.sequence)),
    }
    Ok(client.close().await?)
}

pub(super) async fn history(log: &str, name: &Path, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let name = name.as_os_str().as_bytes();
    for mut info in client.open_log(log).await?.history(name).await? {
        info.name = name.to_vec().into();
        print_object(&info, common);
    }
    Ok(client.close().await?)
}

/// The status document of the connected site.
pub(crate) async fn status_document(client: &Client) -> Result<Value, ClientError> {
    match client.control(&Request::Status).await? {
        Reply::Status(document) => serde_json::from_slice(&document)
            .map_err(|error| ClientError::Failed(format!("the status can't be read: {error}"))),
        reply => Err(unexpected(&reply)),
    }
}

/// Whether every peer that is not paused has everything of every log that is home here.
pub(crate) fn all_caught_up(document: &Value) -> bool {
    let logs = document["logs"].as_array().into_iter().flatten();
    let mut peers = logs.flat_map(|log| log["peers"].as_array().into_iter().flatten());
    peers.all(|peer| peer["state"] == "paused" || peer["caught_up"] == true)
}

pub(super) async fn status(wait: Option<u64>, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let mut progress = Progress::new();
    let deadline = Instant::now() + Duration::from_secs(wait.unwrap_or(0));
    let document = loop {
        let document = status_document(&client).await?;
        if wait.is_none() || all_caught_up(&document) || Instant::now() >= deadline {
            break document;
        }
        progress.show(|| "waiting until every peer has everything".to_owned());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    drop(progress);
    match common.json {
        true => line(&document),
        false => super::status_text::print(&document),
    }
    client.close().await?;
    match wait {
        Some(seconds) if !all_caught_up(&document) => {
            eprintln!("error: not every peer has everything after {seconds} s");
            Err(CliError::Told(4))
        }
        _ => Ok(()),
    }
}

pub(super) async fn peer(command: PeerCommand, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let site = client.clone();
    let set = |name: String, action: PeerAction| async move {
        let name = parse_label(&name)?;
        site.control(&Request::SetPeer(SetPeer { name, action })).await.map(drop)
    };
    match command {
        PeerCommand::Token => match client.control(&Request::PeerToken).await? {
            Reply::Token(token) if common.json => line(json!({ "token": token })),
            Reply::Token(token) => line(token),
            reply => return Err(unexpected(&reply).into()),
        },
        PeerCommand::Add { site, token } => {
            let maker = node::token_site(&token);
            let maker = maker.ok_or_else(|| CliError::usage("this is no peer token, or part of it is missing"))?;
            if maker.as_str() != site {
                return Err(CliError::usage(format!("the token was made by site {maker}, not {site}")));
            }
            client.control(&Request::PeerAdd(token)).await?;
            match common.json {
                true => line(json!({ "site": site, "added": true })),
                false => line(format!("{site} is a peer now")),
            }
        }
        PeerCommand::List => match client.control(&Request::PeerList).await? {
            Reply::Peers(peers) => {
                for peer in peers {
                    let state = if peer.paused { "paused" } else { "active" };
                    match common.json {
                        true => {
                            line(json!({ "site": peer.name.as_str(), "state": state, "endpoints": peer.endpoints }))
                        }
                        false => line(format!("{}  {state}  {}", peer.name, peer.endpoints.join(" "))),
                    }
                }
            }
            reply => return Err(unexpected(&reply).into()),
        },
        PeerCommand::Pause { site } => set(site, PeerAction::Pause).await?,
        PeerCommand::Resume { site } => set(site, PeerAction::Resume).await?,
        PeerCommand::Remove { site } => set(site, PeerAction::Remove).await?,
    }
    Ok(client.close().await?)
}

/// A failover's report as cli.md wants it.
pub(crate) fn failover_json(report: &FailoverReport) -> Value {
    let seconds = |ms: Option<u64>| ms.map(|ms| ms as f64 / 1000.0);
    let logs: Vec<Value> = report
        .logs
        .iter()
        .map(|log| {
            json!({
                "name": format!("{}/{}", log.tenant_name, log.name),
                "generation": log.generation.counter,
                "position_seq": log.position,
                "lost_deltas_max": log.lost_deltas,
                "lost_seconds_max": seconds(log.lost_ms),
            })
        })
        .collect();
    let rpo = report.logs.iter().map(|log| log.lost_ms).collect::<Option<Vec<_>>>();
    json!({
        "logs": logs,
        "rpo_seconds": seconds(rpo.and_then(|all| all.into_iter().max())),
        "rto_seconds": report.rto_ms as f64 / 1000.0,
        "loss_may_grow": !report.fenced,
    })
}

pub(super) async fn failover(from: Option<String>, log: Option<String>, force: bool, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let from = from.as_deref().map(parse_label).transpose()?;
    let log = match log {
        Some(name) => Some(client.resolve(&name).await?.descriptor.log),
        None => None,
    };
    let report = match client.control(&Request::Failover(Failover { from, log, force })).await? {
        Reply::FailedOver(report) => report,
        reply => return Err(unexpected(&reply).into()),
    };
    let document = failover_json(&report);
    if common.json {
        line(&document);
    } else {
        for log in document["logs"].as_array().into_iter().flatten() {
            let unknown = |value: &Value| if value.is_null() { "unknown".to_owned() } else { value.to_string() };
            line(format!(
                "{}  generation {}  from sequence {}  lost: {} deltas, {} s",
                log["name"].as_str().unwrap_or_default(),
                log["generation"],
                log["position_seq"],
                unknown(&log["lost_deltas_max"]),
                unknown(&log["lost_seconds_max"])
            ));
        }
        let grow = if report.fenced { "" } else { " (may grow: the old home did not answer that it is fenced)" };
        line(format!("RPO {} s{grow}, RTO {} s", document["rpo_seconds"], document["rto_seconds"]));
    }
    Ok(client.close().await?)
}
