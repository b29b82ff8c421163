//! Commands about devices: listing, adding, evicting, replacing; and about where fragments lie.

use super::args::Common;
use super::client_commands::{Outcome, connect, status_document};
use super::device_args::{DeviceCommand, SiteCommand};
use super::output::CliError;
use super::sizes::show_bytes;
use crate::client::{parse_label, unexpected};
use crate::node::{self, AddOptions, ReplaceOptions};
use crate::terminal::line;
use farside_codec::audit::{AuditAction, AuditedDevice};
use farside_codec::cluster::SetDevice;
use farside_codec::ids::DeviceId;
use farside_codec::message::{Reply, Request};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn directory(common: &Common, command: &str) -> Result<PathBuf, CliError> {
    common.dir.clone().ok_or_else(|| CliError::usage(format!("device {command} needs --dir DIR")))
}

/// What an audit log keeps of a path.
fn in_short(path: &str) -> String {
    path.chars().take(1024).collect()
}

/// Commands that work on a node's directory while it does not run; the others are given back.
pub(super) fn offline(command: DeviceCommand, common: &Common) -> Result<Option<DeviceCommand>, CliError> {
    match command {
        DeviceCommand::Replace { old, new, size, force } => {
            let directory = directory(common, "replace")?;
            let options = ReplaceOptions { directory, old: old.clone(), new: new.clone(), make_bytes: size, force };
            let (old, new) = (old.display().to_string(), new.display().to_string());
            let action = AuditAction::Device(AuditedDevice { old: in_short(&old), new: in_short(&new) });
            node::LocalOrder::around(&options.directory, action, || node::replace(&options))?;
            match common.json {
                true => line(json!({ "replaced": old, "by": new })),
                false => {
                    line(format!("{new} has the place of {old}; once the node runs it makes up for what that one held"))
                }
            }
            Ok(None)
        }
        DeviceCommand::Add { new, size } => {
            let directory = directory(common, "add")?;
            let action = AuditAction::AddDevice(in_short(&new.display().to_string()));
            let options = AddOptions { directory, new: new.clone(), make_bytes: size };
            node::LocalOrder::around(&options.directory, action, || node::add(&options))?;
            match common.json {
                true => line(json!({ "added": new.display().to_string() })),
                false => {
                    line(format!(
                        "{} is one of the node's devices; once the node runs its share comes to it",
                        new.display()
                    ));
                }
            }
            Ok(None)
        }
        command => Ok(Some(command)),
    }
}

pub(super) async fn devices(command: DeviceCommand, common: &Common) -> Outcome {
    match command {
        DeviceCommand::Evict { device, node, cancel } => evict(&device, node.as_deref(), cancel, common).await,
        _ => list(common).await,
    }
}

async fn list(common: &Common) -> Outcome {
    let client = connect(common).await?;
    let document = status_document(&client).await?;
    for node in document["nodes"].as_array().into_iter().flatten() {
        let name = node["name"].as_str().unwrap_or("?");
        for device in node["devices"].as_array().into_iter().flatten() {
            if common.json {
                let mut object = device.clone();
                object["node"] = json!(name);
                line(object);
                continue;
            }
            let number = |key: &str| show_bytes(device[key].as_u64().unwrap_or(0));
            let path = device["path"].as_str().filter(|path| !path.is_empty()).or(device["id"].as_str());
            let (path, state) = (path.unwrap_or("?"), device["state"].as_str().unwrap_or("?"));
            let (live, used, bytes) = (number("live_bytes"), number("used_bytes"), number("bytes"));
            let left = match (state, device["fragments"].as_u64()) {
                ("evicting", Some(fragments)) => format!(" ({fragments} fragments are left)"),
                ("evicted", _) => " (it may be pulled)".to_owned(),
                (_, _) if device["evicting"] == true => ", evicting".to_owned(),
                _ => String::new(),
            };
            line(format!("{name}  {path}: {state}{left}, {live} live in {used} of {bytes}"));
        }
    }
    Ok(client.close().await?)
}

/// The device that somebody means: its node's name, its id and what it is called.
fn find(document: &Value, named: &str, node: Option<&str>) -> Result<(String, DeviceId, String), CliError> {
    // As it stands, or as much of its end as node.toml has. A node that was started with a relative directory shows
    // relative paths.
    let absolute = std::path::absolute(named).unwrap_or_default();
    let is_meant = |path: &Path| path.ends_with(named) || path.is_relative() && absolute.ends_with(path);
    let mut found = Vec::new();
    for one in document["nodes"].as_array().into_iter().flatten() {
        let name = one["name"].as_str().unwrap_or_default();
        if node.is_some_and(|node| node != name) {
            continue;
        }
        for device in one["devices"].as_array().into_iter().flatten() {
            let (id, label) = (device["id"].as_str(), device["path"].as_str().unwrap_or_default());
            if id == Some(named) || !label.is_empty() && is_meant(Path::new(label)) {
                found.push((name.to_owned(), id.and_then(DeviceId::parse), label.to_owned()));
            }
        }
    }
    match found.as_slice() {
        [] => {
            let at = node.map(|node| format!(" at node {node}")).unwrap_or_default();
            Err(CliError::not_found(format!("there is no device {named}{at}: `farside device list` shows them all")))
        }
        [(_, None, label)] => {
            Err(CliError::not_found(format!("{label} holds nothing of this node's: take it out of node.toml")))
        }
        [(name, Some(id), label)] => Ok((name.clone(), *id, label.clone())),
        several => {
            let nodes: Vec<&str> = several.iter().map(|(name, ..)| name.as_str()).collect();
            Err(CliError::usage(format!(
                "several nodes have a device {named} ({}): say which with --node, or name it by its id",
                nodes.join(", ")
            )))
        }
    }
}

async fn evict(named: &str, node: Option<&str>, cancel: bool, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let document = status_document(&client).await?;
    let (name, device, label) = find(&document, named, node)?;
    let order = SetDevice { node: parse_label(&name)?, device, leaves: !cancel };
    client.control(&Request::SetDevice(order)).await?;
    let said = if cancel { "stays" } else { "is being evicted" };
    match common.json {
        true => line(json!({ "node": name, "device": device.to_string(), "path": label, "state": said })),
        false if cancel => line(format!("{label} of {name} is counted on again")),
        false => line(format!("{label} of {name} is being evicted; `farside device list` shows what is left on it")),
    }
    Ok(client.close().await?)
}

pub(super) async fn site(command: SiteCommand, common: &Common) -> Outcome {
    match command {
        SiteCommand::Rebalance { cancel } => rebalance(cancel, common).await,
        SiteCommand::Geometry { geometry: None } => show_geometry(common).await,
        SiteCommand::Geometry { geometry: Some(geometry) } => set_geometry(&geometry, common).await,
    }
}

/// How the site cuts chunks, and how many are cut another way still.
async fn show_geometry(common: &Common) -> Outcome {
    let client = connect(common).await?;
    let document = status_document(&client).await?;
    let (geometry, left) = (&document["geometry"], &document["repair"]["other_geometry_chunks"]);
    let shown = geometry.as_str().unwrap_or("?");
    match (common.json, left.as_u64().unwrap_or(0)) {
        (true, _) => line(json!({ "geometry": geometry, "other_geometry_chunks": left })),
        (false, 0) => line(format!("chunks are cut {shown}")),
        (false, left) => line(format!("chunks are cut {shown}; {left} that are cut another way are to be cut again")),
    }
    Ok(client.close().await?)
}

async fn set_geometry(geometry: &str, common: &Common) -> Outcome {
    let wanted = super::parse_geometry(geometry)?;
    let client = connect(common).await?;
    client.control(&Request::SetGeometry(wanted)).await?;
    match common.json {
        true => line(json!({ "geometry": wanted.to_string() })),
        false => line(format!(
            "new chunks are cut {wanted}, and those that are there are cut again one after the other: see `farside repair \
             status`"
        )),
    }
    Ok(client.close().await?)
}

async fn rebalance(cancel: bool, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let silent = match client.control(&Request::Rebalance(!cancel)).await? {
        Reply::Rebalancing(silent) => silent,
        reply => return Err(unexpected(&reply).into()),
    };
    let document = status_document(&client).await?;
    let left = document["repair"]["misplaced_fragments"].as_u64().unwrap_or(0);
    let state = if cancel { "stopped" } else { "begun" };
    match common.json {
        true => line(json!({ "rebalance": state, "misplaced_fragments": left, "silent": silent })),
        false if cancel => line("what lies elsewhere than it should stays there until it is ordered that it moves"),
        false => line(format!(
            "begun; {left} fragments are known to lie elsewhere than they should: see `farside repair status`"
        )),
    }
    client.close().await?;
    if silent.is_empty() {
        return Ok(());
    }
    crate::terminal::note(format_args!(
        "error: not heard by {}, which do not answer: give the order again",
        silent.join(", ")
    ));
    Err(CliError::Told(4))
}
