//! Commands that talk to a site about itself, its tenants, logs and peers. What is wrong with the command line alone is
//! said before anybody is called.

use super::args::{Common, ContextCommand, TenantCommand};
use super::objects::Output;
use super::output::CliError;
use super::sizes::{show_bytes, show_time};
use crate::client::{
    Client, ClientError, ClientSettings, Context, KeyState, Resealed, Rotated, Rotation, parse_label, unexpected,
};
use crate::kms;
use crate::node::{self, LocalOrder};
use crate::terminal::{Progress, line, note};
use farside_codec::audit::{AuditAction, AuditReport, AuditedIdentity, AuditedShred};
use farside_codec::cluster::NodeState;
use farside_codec::delta::EpochRecord;
use farside_codec::ids::Label;
use farside_codec::message::{LogInfo, Reply, Request};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(super) type Outcome = Result<(), CliError>;

/// Logs that are named when a wait was in vain.
const BEHIND_SHOWN: usize = 5;

fn context_in(dir: &Path) -> Result<PathBuf, CliError> {
    let path = node::directory::NodeDirectory::new(dir).admin_context();
    match path.try_exists() {
        Ok(true) => Ok(path),
        Ok(false) => Err(node::DirectoryError::NotANode(dir.to_owned()).into()),
        Err(error) => Err(ClientError::File(dir.to_owned(), error).into()),
    }
}

/// Connects to the site that a node's directory or a context file leads to.
pub(super) async fn connect_to(site: &Path) -> Result<Client, CliError> {
    let path = if site.is_dir() { context_in(site)? } else { site.to_owned() };
    Ok(Client::connect(&Context::load(&path)?, ClientSettings::beside(&path)?).await?)
}

/// The context that the flags name.
pub(super) fn context_path(common: &Common) -> Result<PathBuf, CliError> {
    match (&common.dir, &common.context) {
        (Some(_), Some(_)) => Err(CliError::usage("--dir and --context name two sites; give one of them")),
        (Some(dir), None) => context_in(dir),
        (None, Some(path)) => Ok(path.clone()),
        (None, None) => std::env::var_os("FARSIDE_CONTEXT")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .ok_or_else(|| CliError::usage("which site? give --dir DIR or --context FILE, or set FARSIDE_CONTEXT")),
    }
}

pub(super) async fn connect(common: &Common) -> Result<Client, CliError> {
    let path = context_path(common)?;
    Ok(Client::connect(&Context::load(&path)?, ClientSettings::beside(&path)?).await?)
}

pub(super) async fn context(command: ContextCommand, common: &Common) -> Outcome {
    let ContextCommand::Export { output, tenant, unsealing } = command;
    let dir = common.dir.as_deref().ok_or_else(|| CliError::usage("context export needs --dir DIR"))?;
    let tenant = tenant.as_deref().map(parse_label).transpose()?;
    let tenant = match tenant {
        None => None,
        Some(name) => Some(connect(common).await?.tenant(&name).await?.tenant),
    };
    let action = AuditAction::Identity(AuditedIdentity { tenant });
    let issue = || node::export_context(dir, tenant, &unsealing.source());
    let mut context = LocalOrder::around(dir, action, issue)?;
    context.endpoints.extend(other_endpoints(common, &context).await);
    let context = context.to_file_bytes();
    match Output::of(&output) {
        Output::Standard => {
            crate::terminal::contents(&context);
            crate::terminal::flush();
            return Ok(());
        }
        Output::File(path) => crate::whole_file::write(path, 0o600, &context)
            .map_err(|error| ClientError::File(path.to_owned(), error))?,
    }
    match common.json {
        true => line(json!({ "context": output.display().to_string() })),
        false => line(format!("wrote {}", output.display())),
    }
    Ok(())
}

/// Where the site's other nodes are, if this one runs and says so; a client finds them out by itself otherwise.
async fn other_endpoints(common: &Common, context: &Context) -> Vec<String> {
    let Ok(client) = connect(common).await else { return Vec::new() };
    let nodes = match client.control(&Request::Nodes).await {
        Ok(Reply::Nodes(nodes)) => nodes,
        _ => Vec::new(),
    };
    // What it said is here already.
    let _ = client.close().await;
    let there = nodes.into_iter().filter(|node| matches!(node.state, NodeState::Up | NodeState::Draining));
    there.map(|node| node.endpoint).filter(|endpoint| !context.endpoints.contains(endpoint)).collect()
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

/// Prints what became of a tenant's keys. It is an error of the KMS where it does not say, and unsafe to believe in while
/// one is left.
fn show_shred(tenant: &Label, states: Vec<(EpochRecord, KeyState)>, common: &Common) -> Outcome {
    let word = |state: &KeyState| match state {
        KeyState::Destroyed => "destroyed",
        KeyState::Replaced => "replaced",
        KeyState::Forbidden(_) => "forbidden",
        KeyState::There => "there",
        KeyState::Unknown(_) => "unknown",
    };
    let left = states.iter().filter(|(_, state)| !state.is_gone()).count();
    if common.json {
        let key = |(epoch, state): &(EpochRecord, KeyState)| {
            json!({
                "epoch": epoch.epoch.to_string(), "kms_key": epoch.key_name, "kms_key_version": epoch.key_version,
                "state": word(state),
            })
        };
        line(json!({
            "tenant": tenant.as_str(), "shredded": left == 0, "keys": states.iter().map(key).collect::<Vec<_>>(),
        }));
    } else {
        for (epoch, state) in &states {
            line(format!("key {}, version {}: {}", epoch.key_name, epoch.key_version, word(state)));
        }
    }
    for (_, state) in states {
        if let KeyState::Unknown(error) = state {
            return Err(ClientError::from(error).into());
        }
    }
    match left {
        0 => {
            note(format!(
                "{tenant} is shredded: its KMS, as it answers these credentials, has none of the keys that this site knows \
                 of. A client may keep one for a minute more"
            ));
            Ok(())
        }
        left => {
            note(format!("{tenant} is not shredded: {left} of its keys are not gone; have them destroyed in its KMS"));
            Err(CliError::Told(3))
        }
    }
}

/// Prints what a rotation did, and answers how many logs it failed in.
fn show_rotation(tenant: &Label, rotation: &Rotation, common: &Common) -> usize {
    let epoch = &rotation.epoch;
    let state = |outcome: &Rotated| match outcome {
        Rotated::Announced => "rotated",
        Rotated::Elsewhere(_) => "elsewhere",
        Rotated::Failed(_) => "failed",
    };
    let name = |log: &LogInfo| format!("{}/{}", log.descriptor.tenant_name, log.descriptor.name);
    if common.json {
        let log = |(log, outcome): &(LogInfo, Rotated)| {
            let (home, error) = match outcome {
                Rotated::Announced => (log.home.as_ref().map(ToString::to_string), None),
                Rotated::Elsewhere(home) => (Some(home.clone()), None),
                Rotated::Failed(error) => (None, Some(error.to_string())),
            };
            json!({ "name": name(log), "state": state(outcome), "home": home, "error": error })
        };
        line(json!({
            "tenant": tenant.as_str(), "epoch": epoch.epoch.to_string(), "kms_key": epoch.key_name,
            "kms_key_version": epoch.key_version, "logs": rotation.logs.iter().map(log).collect::<Vec<_>>(),
        }));
    } else {
        line(format!("{tenant} has a new data key, under version {} of key {}", epoch.key_version, epoch.key_name));
        for (log, outcome) in &rotation.logs {
            let name = name(log);
            line(match outcome {
                Rotated::Announced => format!("  {name}: used from now on"),
                Rotated::Elsewhere(home) => format!("  {name}: has its home at {home}; rotate there as well"),
                Rotated::Failed(error) => format!("  {name}: failed: {error}"),
            });
        }
    }
    rotation.logs.iter().filter(|(_, outcome)| matches!(outcome, Rotated::Failed(_))).count()
}

pub(super) async fn tenant(command: TenantCommand, common: &Common) -> Outcome {
    let print = |tenant: &farside_codec::message::Tenant| match common.json {
        true => line(tenant_json(tenant)),
        false => line(format!("{}  {}  {} key epochs", tenant.name, tenant.tenant, tenant.epochs.len())),
    };
    let client = match command {
        TenantCommand::Create { name, kms } => {
            let (name, kms) = (parse_label(&name)?, kms::absolute_url(&kms).map_err(ClientError::from)?);
            let client = connect(common).await?;
            print(&client.create_tenant(&name, &kms).await?);
            client
        }
        TenantCommand::List => {
            let client = connect(common).await?;
            client.tenants().await?.iter().for_each(print);
            client
        }
        TenantCommand::Show { name } => {
            let name = parse_label(&name)?;
            let client = connect(common).await?;
            print(&client.tenant(&name).await?);
            client
        }
        TenantCommand::Kms { name, url, key_cache } => {
            let (name, kms) = (parse_label(&name)?, kms::absolute_url(&url).map_err(ClientError::from)?);
            let client = connect(common).await?;
            if let Some(seconds) = key_cache {
                let set = client.settings().borrow_mut().set_key_cache(&name, seconds);
                set.map_err(ClientError::Usage)?;
            }
            client.set_kms(&name, &kms).await?;
            let kept = client.settings().borrow().key_cache(&name).as_secs();
            match common.json {
                true => line(json!({ "tenant": name.as_str(), "kms": kms, "key_cache_seconds": kept })),
                false => line(format!("the KMS of {name} is {kms}; it computes the tenant's keys")),
            }
            client
        }
        TenantCommand::Shred { name } => {
            let name = parse_label(&name)?;
            let client = connect(common).await?;
            let states = client.key_states(&name).await?;
            let left = states.iter().filter(|(_, state)| !state.is_gone()).count() as u32;
            let shred = AuditedShred { name: name.clone(), keys: states.len() as u32, left };
            let tenant = client.tenant(&name).await?.tenant;
            super::audit::report(&client, AuditReport::Shred((tenant, shred))).await;
            client.close().await?;
            return show_shred(&name, states, common);
        }
        TenantCommand::Reseal { log, new } => return reseal(&log, &new, common).await,
        TenantCommand::Rotate { name } => {
            let name = parse_label(&name)?;
            let client = connect(common).await?;
            let rotation = client.rotate_tenant(&name).await?;
            let failed = show_rotation(&name, &rotation, common);
            client.close().await?;
            return match failed {
                0 => Ok(()),
                logs => {
                    Err(ClientError::Failed(format!("{logs} logs of {name} go on under their old key: rotate again"))
                        .into())
                }
            };
        }
    };
    Ok(client.close().await?)
}

async fn reseal(log: &str, new: &str, common: &Common) -> Outcome {
    let new = parse_label(new)?;
    let begun = Instant::now();
    let client = connect(common).await?;
    let resealed = async {
        let old = client.open_log(log).await?;
        let new = client.log_to_reseal(&old, &new).await?;
        let mut progress = Progress::new();
        let mut tell = |objects| progress.show(|| format!("{objects} of at most {} objects", old.info().head.sequence));
        let resealed = old.reseal(&new, &mut tell).await?;
        Ok::<_, ClientError>((resealed, new))
    };
    let resealed = resealed.await;
    client.close().await?;
    let (Resealed { objects, bytes, there, others, removed, failed, failures, head }, new) = resealed?;
    let (key_version, new) = (new.key_version(), new.name());
    let seconds = begun.elapsed().as_secs_f64();
    match common.json {
        true => line(json!({
            "log": log, "new_log": new, "key_version": key_version, "objects": objects, "size_bytes": bytes,
            "there": there, "others": others, "removed": removed, "failed": failed, "until_seq": head,
            "seconds": seconds,
        })),
        false => {
            let bytes = show_bytes(bytes);
            line(format!(
                "{objects} objects of {log}, {bytes}, are sealed anew in {new}, under version {key_version} of the key"
            ));
            line(format!("{there} were there; {others} stay as others have written or removed them in {new}"));
            line(format!("{removed} that were removed in {log} are removed in {new}"));
            if failed == 0 {
                line(format!(
                    "everything up to delta {head} of {log} was looked at; once its clients use {new}, run this again \
                     (docs/kms.md says what comes before the old key goes)"
                ));
            }
        }
    }
    for (name, error) in &failures {
        note(format!("{}: {error}", String::from_utf8_lossy(name).escape_debug()));
    }
    match failures.into_iter().next() {
        Some((_, error)) => {
            note(format!(
                "{failed} could not be sealed anew, or not be removed: {new} is not what {log} is; run this again"
            ));
            Err(error.into())
        }
        None => Ok(()),
    }
}

/// The status document of the connected site.
pub(crate) async fn status_document(client: &Client) -> Result<Value, ClientError> {
    match client.control(&Request::Status).await? {
        Reply::Status(document) => serde_json::from_slice(&document)
            .map_err(|error| ClientError::Failed(format!("the status can't be read: {error}"))),
        reply => Err(unexpected(&reply)),
    }
}

/// A peer that has not acknowledged all of a log that is home here.
struct Behind<'a> {
    log: &'a str,
    peer: &'a str,
    paused: bool,
}

fn behind<'a>(document: &'a Value) -> Vec<Behind<'a>> {
    let mut found = Vec::new();
    for log in document["logs"].as_array().into_iter().flatten() {
        for peer in log["peers"].as_array().into_iter().flatten().filter(|peer| peer["caught_up"] != true) {
            let text = |value: &'a Value| value.as_str().unwrap_or_default();
            let paused = peer["state"] == "paused";
            found.push(Behind { log: text(&log["name"]), peer: text(&peer["site"]), paused });
        }
    }
    found
}

/// Logs of the site that its status does not tell of: those whose group no node that answers leads.
async fn unheard_of(client: &Client, document: &Value) -> Result<Vec<String>, ClientError> {
    let told = document["logs"].as_array();
    let is_told = |name: &String| told.into_iter().flatten().any(|log| log["name"] == name.as_str());
    let logs = client.logs().await?.into_iter();
    let names = logs.map(|log| format!("{}/{}", log.descriptor.tenant_name, log.descriptor.name));
    Ok(names.filter(|name| !is_told(name)).collect())
}

/// Whether every peer has acknowledged everything of every log that is home here.
pub(crate) fn all_caught_up(document: &Value) -> bool {
    behind(document).is_empty()
}

/// Says who is behind, and answers the exit code for it.
fn tell_behind(behind: &[Behind<'_>], seconds: u64) -> CliError {
    let shown = behind.iter().take(BEHIND_SHOWN).map(|behind| {
        let paused = if behind.paused { ", which is paused" } else { "" };
        format!("{} at {}{paused}", behind.log, behind.peer)
    });
    let mut shown: Vec<String> = shown.collect();
    if behind.len() > BEHIND_SHOWN {
        shown.push(format!("{} more", behind.len() - BEHIND_SHOWN));
    }
    note(format!("error: not every peer has everything after {seconds} s: {}", shown.join("; ")));
    match behind.iter().find(|behind| behind.paused) {
        Some(paused) => note(format!("hint: `farside peer resume {}` goes on", paused.peer)),
        None => note("hint: `farside status` shows the lag, and what a peer's trouble is"),
    }
    CliError::Told(4)
}

pub(super) async fn status(wait: Option<u64>, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let mut progress = Progress::new();
    let begun = Instant::now();
    let patience = Duration::from_secs(wait.unwrap_or(0));
    let (document, unheard) = loop {
        let document = status_document(&client).await?;
        if wait.is_none() {
            break (document, Vec::new());
        }
        let unheard = unheard_of(&client, &document).await?;
        // Time does not help where all that is left is paused.
        let hopeless = unheard.is_empty() && behind(&document).iter().all(|behind| behind.paused);
        if hopeless || begun.elapsed() >= patience {
            break (document, unheard);
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
    if !unheard.is_empty() {
        let shown: Vec<&str> = unheard.iter().take(BEHIND_SHOWN).map(String::as_str).collect();
        let more = if unheard.len() > shown.len() { " and others" } else { "" };
        note(format!("error: nobody tells how far the peers are with {}{more}", shown.join(", ")));
        note("hint: their groups have no leader, or a node does not answer; `farside node list` shows them");
        return Err(CliError::Told(4));
    }
    match behind(&document) {
        behind if wait.is_some() && !behind.is_empty() => Err(tell_behind(&behind, begun.elapsed().as_secs())),
        _ => Ok(()),
    }
}
