//! Commands about the nodes of a site: inviting, listing, draining, removing, and how repair is doing.

use super::args::{Common, NodeCommand, RepairCommand, ScrubCommand};
use super::client_commands::{Outcome, connect, status_document};
use super::output::CliError;
use super::sizes::show_bytes;
use crate::client::{Client, parse_label, unexpected};
use crate::terminal::line;
use farside_codec::cluster::NodeState;
use farside_codec::message::{Reply, Request, SetNode};
use serde_json::{Value, json};

pub(super) async fn invite(name: Option<&str>, common: &Common) -> Outcome {
    let name = name.map(parse_label).transpose()?;
    let client = connect(common).await?;
    match client.control(&Request::NodeToken(name)).await? {
        Reply::Token(token) if common.json => line(json!({ "token": token })),
        Reply::Token(token) => line(token),
        reply => return Err(unexpected(&reply).into()),
    }
    Ok(client.close().await?)
}

pub(super) async fn node(command: NodeCommand, common: &Common) -> Outcome {
    let (name, state, said) = match &command {
        NodeCommand::List => return list(common).await,
        // A matter of the directory: a node that waits answers nobody else.
        NodeCommand::Unlock { unsealing } => return super::keys::unlock(unsealing, common),
        NodeCommand::Drain { name } => (name, NodeState::Draining, "is being drained"),
        NodeCommand::Undo { name } => (name, NodeState::Up, "is counted on again"),
        NodeCommand::Remove { name } => (name, NodeState::Removed, "is out of the site"),
    };
    let set = SetNode { name: parse_label(name)?, state };
    let client = connect(common).await?;
    client.control(&Request::SetNode(set)).await?;
    match common.json {
        true => line(json!({ "node": name, "state": said })),
        false => line(format!("{name} {said}")),
    }
    Ok(client.close().await?)
}

async fn list(common: &Common) -> Outcome {
    let client = connect(common).await?;
    let nodes = match client.control(&Request::Nodes).await? {
        Reply::Nodes(nodes) => nodes,
        reply => return Err(unexpected(&reply).into()),
    };
    for node in &nodes {
        let (count, bytes) = (node.present().count(), node.present().map(|device| device.bytes).sum::<u64>());
        let rack = node.rack.as_ref().map(ToString::to_string);
        match common.json {
            true => line(json!({
                "name": node.name.as_str(), "node": node.node.0, "state": node.state.as_str(), "endpoint": node.endpoint,
                "shards": node.shards, "rack": rack, "devices": count, "devices_bytes": bytes,
            })),
            false => {
                let rack = rack.map(|rack| format!(", rack {rack}")).unwrap_or_default();
                let (name, state, endpoint) = (&node.name, node.state.as_str(), &node.endpoint);
                line(format!("{name}: {state}, {endpoint}, {count} devices, {}{rack}", show_bytes(bytes)));
            }
        }
    }
    Ok(client.close().await?)
}

pub(super) async fn repair(command: RepairCommand, common: &Common) -> Outcome {
    let client = connect(common).await?;
    match command {
        RepairCommand::Status => show_repair(&client, common).await?,
        RepairCommand::Limit { rate } => {
            client.control(&Request::RepairLimit(rate)).await?;
            match common.json {
                true => line(json!({ "repair_limit_bytes_per_second": rate })),
                false if rate == 0 => line("repair is not limited"),
                false => line(format!("repair reads and writes at most {}/s on each node", show_bytes(rate))),
            }
        }
    }
    Ok(client.close().await?)
}

async fn show_repair(client: &Client, common: &Common) -> Outcome {
    let document = super::status_document(client).await?;
    let repair: &Value = &document["repair"];
    if common.json {
        line(repair.to_string());
        return Ok(());
    }
    let figure = |name: &str| repair[name].as_u64().unwrap_or(0);
    let (owed, bytes, rate) = (figure("owed_fragments"), figure("owed_bytes"), figure("rate_bytes_per_second"));
    let left = match repair["seconds_left"].as_f64() {
        Some(seconds) => format!(", about {seconds:.0} s left"),
        None => String::new(),
    };
    line(format!("owed: {owed} fragments, {}; to be moved: {}", show_bytes(bytes), figure("misplaced_fragments")));
    if repair["looked_at_all"] == false {
        line("not everything was looked at since the last change of nodes or devices: more may be owed");
    }
    if figure("groups_changing") > 0 {
        line(format!("log groups whose members are changing: {}", figure("groups_changing")));
    }
    if figure("evicting_fragments") > 0 {
        let (fragments, bytes) = (figure("evicting_fragments"), show_bytes(figure("evicting_bytes")));
        line(format!("on devices that are being evicted: {fragments} fragments, {bytes}"));
    }
    if figure("other_geometry_chunks") > 0 {
        let geometry = document["geometry"].as_str().unwrap_or("?");
        line(format!("to be cut again, {geometry}: {} chunks", figure("other_geometry_chunks")));
    }
    line(format!("rate: {}/s{left}", show_bytes(rate)));
    if figure("unreadable_chunks") > 0 {
        line(format!("lost: {} chunks have too few fragments left to be read", figure("unreadable_chunks")));
    }
    Ok(())
}

pub(super) async fn scrub(command: ScrubCommand, common: &Common) -> Outcome {
    let client = connect(common).await?;
    match command {
        ScrubCommand::Start { percent } => {
            let silent = match client.control(&Request::ScrubStart(percent.unwrap_or(0))).await? {
                Reply::ScrubBegun(silent) => silent,
                reply => return Err(unexpected(&reply).into()),
            };
            match (common.json, silent.is_empty()) {
                (true, _) => line(json!({ "scrub": "begun", "silent": silent })),
                (false, true) => line("every node has begun a pass; `farside scrub status` shows how far it is"),
                (false, false) => line(format!("begun, but not on {}, which do not answer", silent.join(", "))),
            }
            if !silent.is_empty() {
                client.close().await?;
                return Err(CliError::Told(4));
            }
        }
        ScrubCommand::Status => {
            let document = status_document(&client).await?;
            document["nodes"].as_array().into_iter().flatten().for_each(|node| print_scrub(node, common));
        }
    }
    Ok(client.close().await?)
}

/// A line a node; one that does not answer is not known to have any state.
fn print_scrub(node: &Value, common: &Common) {
    let scrub = &node["scrub"];
    let name = node["name"].as_str().unwrap_or("?");
    if common.json {
        let mut object = scrub.clone();
        if !object.is_object() {
            object = json!({ "state": "unknown" });
        }
        object["node"] = json!(name);
        return line(object);
    }
    let Some(state) = scrub["state"].as_str() else { return line(format!("{name}: does not answer")) };
    let number = |key: &str| scrub[key].as_u64().unwrap_or(0);
    let mut told = match state {
        "running" => format!("running, {:.0} % done", scrub["progress"].as_f64().unwrap_or(0.0) * 100.0),
        state => state.to_owned(),
    };
    told += &match scrub["last_full_pass"].as_str() {
        Some(time) => format!("; the last full pass was over {time}"),
        None => "; no pass was ever over".to_owned(),
    };
    let (good, bytes) = (number("good_fragments"), show_bytes(number("good_bytes")));
    told += &format!("; {good} fragments good ({bytes}), {} damaged", number("damaged_fragments"));
    if number("unreadable_fragments") > 0 {
        told += &format!(", {} that a device would not read", number("unreadable_fragments"));
    }
    line(format!("{name}: {told}"));
}
