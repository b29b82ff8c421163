//! The status document: what cli.md promises, put together from what every shard says in time.

use super::devices::{fragments_placed, losses_survived};
use super::directory::ScrubRecord;
use super::keys::telling;
use super::limits::{STATUS_PATIENCE, UNREACHABLE_ALERT};
use super::shard::Shard;
use super::{clocks, expiring, holding, membership, pacing, recovered, repairing, routing, scrubbing};
use crate::state::{ControlView, LogGroupState, LogView, Opened, PeerLag};
use crate::store::{DeviceState, DeviceStatus, StoreStatus};
use crate::times::show_time;
use bytes::Bytes;
use farside_codec::cluster::{NodeRecord, NodeState};
use farside_codec::dump::{BackupTarget, NewestBackup};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{LogId, NodeId, SiteId};
use farside_codec::message::{Reply, Request};
use farside_io::disk::Disk;
use farside_transport::Rejection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What one shard says.
struct ShardReport {
    /// Groups led here that have the voters that they are to have.
    settled_groups: usize,
    store: StoreStatus,
    scrub: ScrubRecord,
    logs: Vec<(LogId, Value)>,
    alerts: Vec<String>,
    counters: Value,
    /// Fragments that are to be moved from device to device of the shard.
    misplaced: u64,
    /// Peers that senders don't reach: for how long, and why.
    unreachable: Unreachable,
}

/// How many groups a node leads that have the voters that they are to have; what the site says of it is `groups_changing`.
const SETTLED_GROUPS: &str = "settled_groups";
/// As of which placement epoch a node has looked at everything; what the site says of it is `looked_at_all`.
const SWEPT_EPOCH: &str = "swept_epoch";

type Unreachable = BTreeMap<SiteId, (Duration, Option<String>)>;

/// The site's document: what each node says of itself, put together. Nodes that don't answer are named with what the
/// control group holds of them.
pub(super) async fn document<D: Disk>(shard: &Rc<Shard<D>>) -> Bytes {
    let mut document = own_document(shard).await;
    if shard.is_alone() {
        tell_of_identities(shard, &mut document);
        telling::tell_of_site(&mut document);
        return Bytes::from(document.to_string());
    }
    name_alerts(&mut document, &node_name(shard, shard.site.node));
    let view = shard.view();
    let others: Vec<NodeRecord> = view.nodes.values().filter(|node| node.node != shard.site.node).cloned().collect();
    let asked = others.iter().map(|node| async move {
        let answered = match node.state {
            NodeState::Removed | NodeState::Joining => None,
            _ => routing::ask_node(shard, node, 0, &Request::NodeStatus).await.ok(),
        };
        match answered {
            Some(Reply::Status(document)) => serde_json::from_slice::<Value>(&document).ok(),
            _ => None,
        }
    });
    let answers = futures_util::future::join_all(asked).await;
    for (node, answer) in others.iter().zip(answers).filter(|(node, _)| node.state != NodeState::Removed) {
        match answer {
            Some(mut other) => {
                name_alerts(&mut other, node.name.as_str());
                merge(&mut document, &other);
            }
            None => {
                let state = match node.state {
                    NodeState::Joining | NodeState::Dead => node.state.as_str(),
                    _ => {
                        // What it looks after is looked at by nobody now.
                        document["repair"][SWEPT_EPOCH] = json!(0);
                        "unreachable"
                    }
                };
                push(&mut document["nodes"], json!({ "name": node.name.as_str(), "state": state, "devices": [] }));
                if node.state != NodeState::Joining {
                    push(&mut document["alerts"], json!(format!("{} is {state}", node.name)));
                }
            }
        }
    }
    let by_name = |a: &Value, b: &Value| a["name"].as_str().cmp(&b["name"].as_str());
    for list in ["nodes", "logs"] {
        if let Some(list) = document[list].as_array_mut() {
            list.sort_by(by_name);
        }
    }
    tell_what_is_certain(shard, &mut document);
    let repair = &document["repair"];
    let owed = repair["owed_bytes"].as_f64().map(|owed| owed + repair["evicting_bytes"].as_f64().unwrap_or(0.0));
    let rate = repair["rate_bytes_per_second"].as_f64();
    if let (Some(owed), Some(rate)) = (owed, rate.filter(|rate| *rate > 0.0)) {
        document["repair"]["seconds_left"] = json!(owed / rate);
    }
    let owed = document["repair"]["owed_fragments"].as_u64().unwrap_or(0);
    if owed > 0 {
        let alert = format!("{owed} fragments are owed: redundancy is reduced until they are repaired");
        push(&mut document["alerts"], json!(alert));
    }
    tell_of_identities(shard, &mut document);
    telling::tell_of_site(&mut document);
    Bytes::from(document.to_string())
}

/// Whether what is owed is all that is owed: after a change of nodes or devices that is known once every node has looked at
/// what it looks after. And which groups are not known to have the voters that they are to have.
fn tell_what_is_certain<D: Disk>(shard: &Shard<D>, document: &mut Value) {
    let view = shard.view();
    let Some(repair) = document["repair"].as_object_mut() else { return };
    let swept = repair.remove(SWEPT_EPOCH).and_then(|epoch| epoch.as_u64());
    repair.insert("looked_at_all".into(), json!(swept.is_some_and(|epoch| epoch >= view.placement_epoch)));
    let settled = repair.remove(SETTLED_GROUPS).and_then(|groups| groups.as_u64()).unwrap_or(0);
    let control = u64::from(membership::control_is_changing(shard, &view));
    let changing = u64::from(shard.site.groups).saturating_sub(settled) + control;
    repair.insert("groups_changing".into(), json!(changing));
}

fn tell_of_identities<D: Disk>(shard: &Shard<D>, document: &mut Value) {
    let alert = expiring::alert(&shard.view(), shard.machine.clock.wall_ms());
    alert.into_iter().for_each(|alert| push(&mut document["alerts"], json!(alert)));
}

pub(super) fn push(list: &mut Value, value: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(value);
    }
}

/// Says of which node alerts are.
fn name_alerts(document: &mut Value, node: &str) {
    for alert in document["alerts"].as_array_mut().into_iter().flatten() {
        *alert = json!(format!("{node}: {}", alert.as_str().unwrap_or_default()));
    }
}

/// Adds what another node says.
fn merge(document: &mut Value, other: &Value) {
    for list in ["nodes", "logs", "counters", "alerts"] {
        for value in other[list].as_array().into_iter().flatten() {
            push(&mut document[list], value.clone());
        }
    }
    let sum = |into: &mut Value, from: &Value| *into = json!(into.as_u64().unwrap_or(0) + from.as_u64().unwrap_or(0));
    sum(&mut document["chunks"], &other["chunks"]);
    let figures = ["owed_fragments", "owed_bytes", "misplaced_fragments", "rate_bytes_per_second", "unreadable_chunks"];
    for figure in figures.into_iter().chain(["evicting_fragments", "evicting_bytes", "other_geometry_chunks"]) {
        sum(&mut document["repair"][figure], &other["repair"][figure]);
    }
    sum(&mut document["repair"][SETTLED_GROUPS], &other["repair"][SETTLED_GROUPS]);
    let swept = document["repair"][SWEPT_EPOCH].as_u64().min(other["repair"][SWEPT_EPOCH].as_u64());
    document["repair"][SWEPT_EPOCH] = json!(swept);
}

/// What this node says of itself.
pub(super) async fn own<D: Disk>(shard: &Rc<Shard<D>>) -> Bytes {
    Bytes::from(own_document(shard).await.to_string())
}

/// The document of this node. It is made even if shards don't answer; then it says so.
async fn own_document<D: Disk>(shard: &Rc<Shard<D>>) -> Value {
    let alone = shard.is_alone();
    let mut alerts: Vec<String> = Vec::new();
    let mut reports = Vec::new();
    for index in 0..shard.shards() {
        let asked = shard.on(index, |there| async move { report(&there).await });
        match tokio::time::timeout(STATUS_PATIENCE, asked).await {
            Ok(Ok(report)) => reports.push((index, report)),
            _ => alerts.push(format!("shard {index} does not answer")),
        }
    }
    let control = shard.control.as_ref().map(|group| group.status());
    let devices = merge_devices(&reports);
    let is_trouble = |device: &Value| !matches!(device["state"].as_str(), Some("ok" | "evicting" | "evicted"));
    for (label, state) in devices.iter().filter(|(_, device)| is_trouble(device)) {
        alerts.push(format!("device {label} is {}", state["state"].as_str().unwrap_or("unknown")));
    }
    let sum = |of: fn(&StoreStatus) -> u64| reports.iter().map(|(_, report)| of(&report.store)).sum::<u64>();
    let settled = reports.iter().map(|(_, report)| report.settled_groups).sum::<usize>();
    let mut repair = match alone {
        true => json!({
            "owed_fragments": sum(|store| store.owed_fragments),
            "owed_bytes": sum(|store| store.owed_bytes),
            "other_geometry_chunks": sum(|store| store.cut_otherwise),
            "rate_bytes_per_second": repairing::own_state(shard).await.map_or(0, |state| state.rate_bytes_per_second),
        }),
        false => repair_entry(shard).await,
    };
    if !alone {
        repair[SETTLED_GROUPS] = json!(settled);
    }
    tell_moves(&mut repair, &devices, &reports);
    let owed = sum(|store| store.owed_fragments);
    if alone && owed > 0 {
        alerts.push(format!("{owed} fragments are owed: redundancy is reduced until they are repaired"));
    }
    let writable = reports.iter().all(|(_, report)| report.store.writable);
    if shard.moving.is_paused() {
        alerts.push("nothing is moved to where it should lie until `farside site rebalance` is given".into());
    }
    if alone {
        let mirrors = shard.devices.borrow().log_mirrors();
        alerts.extend(device_alerts(shard.geometry(), mirrors, &devices, writable));
    } else if !writable {
        alerts.push("the devices are full".into());
    }
    alerts.extend(recovered::left_behind(shard));
    alerts.extend(clocks::alert(shard));
    alerts.extend(unreachable_alerts(&shard.view(), &reports));
    alerts.extend(super::backing_up::alerts(shard));
    alerts.extend(reports.iter().flat_map(|(_, report)| report.alerts.iter().cloned()));
    let mut logs: Vec<(LogId, Value)> = reports.iter().flat_map(|(_, report)| report.logs.iter().cloned()).collect();
    logs.sort_by(|a, b| a.1["name"].as_str().cmp(&b.1["name"].as_str()));
    let peers: Vec<Value> = shard
        .view()
        .peers
        .values()
        .map(|peer| {
            let rate = pacing::site_rate(shard, peer.site);
            json!({
                "site": peer.name.as_str(), "paused": peer.paused, "endpoints": peer.endpoints,
                "limit_bytes_per_second": (rate > 0).then_some(rate),
            })
        })
        .collect();
    let scrubs: Vec<ScrubRecord> = reports.iter().map(|(_, report)| report.scrub.clone()).collect();
    let (audit, audit_alerts) =
        tokio::time::timeout(STATUS_PATIENCE, super::trailing::told_in_status(shard)).await.unwrap_or_default();
    alerts.extend(audit_alerts);
    let system_key = telling::of_node(&shard.root, shard.site.site, &shard.key, &mut alerts);
    let certificate = super::certificates::told(shard, &mut alerts);
    let document = json!({
        "site": shard.site.name.as_str(),
        "site_id": shard.site.site.to_string(),
        "geometry": shard.geometry().to_string(),
        "nodes": [{
            "name": node_name(shard, shard.site.node),
            "state": own_state(shard),
            "shards": shard.shards(),
            "fragments": sum(|store| store.fragments),
            "system_key": system_key,
            "certificate": certificate,
            "scrub": scrubbing::told(&scrubs, shard.scrub_percent),
            "devices": devices.into_iter().map(|(_, device)| device).collect::<Vec<_>>(),
        }],
        "control": {
            "leader": control.as_ref().and_then(|control| control.leader).map(|node| node_name(shard, node)),
            "term": control.as_ref().map(|control| control.term),
            "voters": control.iter().flat_map(|control| &control.voters).map(|node| node_name(shard, *node))
                .collect::<Vec<_>>(),
        },
        "peers": peers,
        "backups": backups(&shard.view()),
        "audit": audit,
        "logs": logs.into_iter().map(|(_, log)| log).collect::<Vec<_>>(),
        "chunks": sum(|store| store.chunks),
        "repair": repair,
        "counters": reports.iter().map(|(_, report)| report.counters.clone()).collect::<Vec<_>>(),
        "alerts": alerts,
        "notices": [],
    });
    document
}

/// Where backups go, and the newest one that this site knows of at each place.
fn backups(view: &ControlView) -> Vec<Value> {
    let newest = |newest: &NewestBackup| {
        json!({
            "backup": newest.number, "cut": show_time(newest.cut), "finished": show_time(newest.finished),
            "chunks": newest.chunks, "chunk_bytes": newest.chunk_bytes,
        })
    };
    let entry = |target: &BackupTarget| json!({ "target": target.name.as_str(), "url": target.url, "newest": target.newest.as_ref().map(newest) });
    view.backup_targets.values().map(entry).collect()
}

/// Adds to what is said of repair what is moved from device to device.
fn tell_moves(repair: &mut Value, devices: &[(String, Value)], reports: &[(u16, ShardReport)]) {
    let leaving = |figure: &str| -> u64 {
        let leaving = devices.iter().filter(|(_, device)| device["state"] == "evicting");
        leaving.map(|(_, device)| device[figure].as_u64().unwrap_or(0)).sum()
    };
    let elsewhere: u64 = reports.iter().map(|(_, report)| report.misplaced).sum();
    repair["evicting_fragments"] = json!(leaving("fragments"));
    repair["evicting_bytes"] = json!(leaving("live_bytes"));
    repair["misplaced_fragments"] = json!(repair["misplaced_fragments"].as_u64().unwrap_or(0) + elsewhere);
}

fn node_name<D: Disk>(shard: &Shard<D>, node: NodeId) -> String {
    let known = shard.view().nodes.get(&node).map(|node| node.name.to_string());
    known.unwrap_or_else(|| format!("node-{node}"))
}

fn own_state<D: Disk>(shard: &Shard<D>) -> &'static str {
    match shard.view().nodes.get(&shard.site.node).map(|node| &node.state) {
        Some(state @ (NodeState::Draining | NodeState::Removed)) => state.as_str(),
        _ => NodeState::Up.as_str(),
    }
}

async fn repair_entry<D: Disk>(shard: &Rc<Shard<D>>) -> Value {
    let has_looked = repairing::has_looked(shard).await.unwrap_or(false);
    match repairing::own_state(shard).await {
        Ok(state) => json!({
            "owed_fragments": state.owed_fragments,
            "owed_bytes": state.owed_bytes,
            "misplaced_fragments": state.misplaced_fragments,
            "unreadable_chunks": state.unreadable_chunks,
            "other_geometry_chunks": state.other_geometry_chunks,
            "rate_bytes_per_second": state.rate_bytes_per_second,
            SWEPT_EPOCH: if has_looked { state.swept_epoch } else { 0 },
        }),
        Err(refusal) => json!({ "trouble": refusal.detail }),
    }
}

/// What the devices of the node mean for what is stored, and for what is to be.
fn device_alerts(geometry: Geometry, mirrors: usize, devices: &[(String, Value)], writable: bool) -> Vec<String> {
    // Devices without an id belong to nobody here; what is to go is not counted on.
    let ours = || devices.iter().filter(|(_, device)| !device["id"].is_null() && device["evicting"] != true);
    let (all, working) = (ours().count(), ours().filter(|(_, device)| device["state"] == "ok").count());
    if all == 0 {
        return Vec::new();
    }
    let mut alerts = Vec::new();
    match losses_survived(geometry, mirrors, all, working) {
        Some(0) => alerts.push(format!(
            "the loss of one more device loses data: {working} of {all} devices work, and chunks are cut {geometry}"
        )),
        None => {
            alerts.push(format!("chunks may be lost: {working} of {all} devices work, and chunks are cut {geometry}"))
        }
        Some(_) => {}
    }
    let (fragments, needed) = fragments_placed(geometry, all, working);
    if fragments < needed {
        alerts.push(format!("too few devices work, {working} of {all}: writes are refused, reads and GC go on"));
    } else if !writable {
        alerts.push("the devices are full: writes are refused, reads and GC go on".into());
    }
    alerts
}

/// One alert a peer, whatever number of logs can't be sent to it.
fn unreachable_alerts(view: &ControlView, reports: &[(u16, ShardReport)]) -> Vec<String> {
    let mut longest: Unreachable = BTreeMap::new();
    for (site, lost) in reports.iter().flat_map(|(_, report)| &report.unreachable) {
        let known = longest.entry(*site).or_default();
        if lost.0 > known.0 {
            known.clone_from(lost);
        }
    }
    let told = |(site, (lost, trouble)): (SiteId, (Duration, Option<String>))| {
        let name = view.call_site(site);
        let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
        format!("peer {name} has been unreachable for {} s{why}", lost.as_secs())
    };
    longest.into_iter().map(told).collect()
}

fn unreachable<D: Disk>(shard: &Shard<D>) -> Unreachable {
    let now = shard.clock.clock().monotonic();
    let mut found: Unreachable = BTreeMap::new();
    for ((_, peer), state) in shard.senders.borrow().iter() {
        let lost = state.lost_since.map(|since| now.saturating_sub(since));
        if let Some(lost) = lost.filter(|lost| *lost > UNREACHABLE_ALERT) {
            let known = found.entry(*peer).or_default();
            if lost > known.0 {
                *known = (lost, state.trouble.clone());
            }
        }
    }
    found
}

/// One entry a device, over all shards' zones.
fn merge_devices(reports: &[(u16, ShardReport)]) -> Vec<(String, Value)> {
    let mut merged: Vec<(String, Value)> = Vec::new();
    let mut by_label: BTreeMap<String, usize> = BTreeMap::new();
    for device in reports.iter().flat_map(|(_, report)| &report.store.devices) {
        let name = device_name(device);
        let at = *by_label.entry(name.clone()).or_insert_with(|| {
            let id = device.id.map(|id| id.to_string());
            let entry = json!({
                "id": id, "path": device.label, "state": if device.leaving { "evicting" } else { "ok" },
                "evicting": device.leaving, "bytes": 0, "used_bytes": 0, "live_bytes": 0, "fragments": 0,
            });
            merged.push((name, entry));
            merged.len() - 1
        });
        let entry = &mut merged[at].1;
        for (key, value) in [
            ("bytes", device.bytes),
            ("used_bytes", device.used_bytes),
            ("live_bytes", device.live_bytes),
            ("fragments", device.fragments),
        ] {
            entry[key] = json!(entry[key].as_u64().unwrap_or(0) + value);
        }
        if device.state == DeviceState::Evicted {
            entry["evicting"] = json!(true);
        }
        if device.state != DeviceState::Ok {
            entry["state"] = json!(device.state.to_string());
        }
    }
    merged
}

fn device_name(device: &DeviceStatus) -> String {
    match (&device.label, device.id) {
        (label, Some(id)) if label.is_empty() => id.to_string(),
        (label, _) => label.clone(),
    }
}

async fn report<D: Disk>(shard: &Rc<Shard<D>>) -> ShardReport {
    let mut alerts: Vec<String> = shard.notices.clone();
    if shard.opened == Opened::Rebuilt {
        alerts.push(format!("the state file of shard {} was damaged and has been rebuilt", shard.index));
    }
    if shard.database.is_damaged() {
        alerts.push(format!("the state file of shard {} is damaged: restart the node to rebuild it", shard.index));
    }
    if let Some(error) = shard.wal.failure() {
        alerts.push(format!("shard {} takes no writes: {error}", shard.index));
    }
    let lost = shard.wal.lost_mirrors() as usize + shard.wal_mirrors.saturating_sub(shard.wal_present);
    if lost > 0 {
        alerts.push(format!("{lost} mirrors of shard {}'s write-ahead log are out of use", shard.index));
    }
    if shard.wal_report.repaired_batches > 0 {
        let batches = shard.wal_report.repaired_batches;
        alerts.push(format!("{batches} damaged batches of the write-ahead log were written back from a mirror"));
    }
    if shard.cramped.get() {
        alerts.push(format!("the file system of {} is nearly full: writes are refused", shard.root.display()));
    }
    if let Some(trouble) = shard.snapshots.trouble() {
        alerts.push(format!("shard {} can't keep a snapshot: {trouble}", shard.index));
    }
    let (store, scrub) = (shard.store.status(), shard.scrub.record());
    let recovery = store.recovery;
    let damaged = recovery.damaged_records
        + recovery.damaged_indexes
        + recovery.damaged_headers
        + store.counters.damaged_fragments;
    if damaged > 0 {
        alerts.push(format!("{damaged} damaged records were found on the devices of shard {}", shard.index));
    }
    if recovery.unreadable_chunks > 0 {
        alerts.push(format!("{} chunks can't be read any more", recovery.unreadable_chunks));
    }
    let mut logs = Vec::new();
    for group in shard.groups() {
        if !group.status().running {
            alerts.push(format!("group {} has stopped", group.id()));
        }
        // Where there are several nodes each log is spoken for by the one that leads it.
        if !shard.is_alone() && !group.is_leader() {
            continue;
        }
        let state = group.state().borrow();
        match state.logs() {
            Ok(views) => logs
                .extend(views.into_iter().map(|log| (log.descriptor.log, log_entry(shard, &state, log, &mut alerts)))),
            Err(error) => alerts.push(format!("group {} can't be read: {error}", group.id())),
        }
    }
    let endpoint = shard.endpoint.statistics();
    let mut counters = json!({
        "shard": shard.index,
        "refused_revoked": endpoint.refused_for(Rejection::Revoked),
        "refused_expired": endpoint.refused_for(Rejection::Expired),
        "oversized_frames": endpoint.oversized_frames,
        "cut_off": shard.callers.cut_off.get(),
        "chunks_stored": store.counters.chunks_stored,
        "chunks_deduplicated": store.counters.chunks_deduplicated,
        "chunks_collected": store.counters.chunks_collected,
        "degraded_reads": store.counters.degraded_reads + shard.counters.degraded_reads.get(),
        "damaged_fragments": store.counters.damaged_fragments,
        "write_errors": store.counters.write_errors,
        "read_errors": store.counters.read_errors,
        "torn_records": recovery.torn_records,
        "torn_wal_batches": shard.wal_report.torn_batches,
        "held_back_appends": shard.wal.held_back(),
        "fragments": store.fragments,
        "snapshot_pieces": shard.snapshots.pieces(),
        "index_bytes": store.index_bytes,
    });
    for (counter, value) in shard.counters.shown() {
        counters[counter] = json!(value);
    }
    let misplaced = shard.moving.misplaced.get();
    let settled_groups = membership::settled(shard);
    ShardReport { settled_groups, store, scrub, logs, alerts, counters, misplaced, unreachable: unreachable(shard) }
}

fn log_entry<D: Disk>(shard: &Shard<D>, state: &LogGroupState, log: LogView, alerts: &mut Vec<String>) -> Value {
    let view = shard.view();
    let name = format!("{}/{}", log.descriptor.tenant_name, log.descriptor.name);
    let home = view.site_name(log.known.site).map(ToString::to_string);
    let mut peers = Vec::new();
    let in_transit = log.is_in_transit(shard.site.site);
    if in_transit {
        let to = home.as_deref().unwrap_or("its next home");
        alerts.push(format!("{name} is in transit to {to}: no site takes writes until {to} has its last delta"));
    }
    if log.is_told_by(shard.site.site) {
        let lags = state.peers(log.descriptor.log).unwrap_or_default();
        let holds = state.holds(log.descriptor.log).unwrap_or_default();
        for peer in view.peers.values().filter(|peer| log.goes_to(peer.site)) {
            let lag = lags.iter().find(|lag| lag.peer == peer.site);
            let kept = holding::kept_for(shard, peer.site, lag, &holds);
            let entry = peer_entry(shard, &log, peer, lag, &kept);
            alerts.extend(kept.alert(&name, peer.name.as_str(), entry["state"] == "connected"));
            let policy = &log.descriptor.policy;
            let (bound, stops) = (policy.lag_bound_seconds as f64, policy.lag_stops_writers);
            let alarmed_at = if stops { bound / 2.0 } else { bound };
            if entry["lag_seconds"].as_f64().is_some_and(|lag| lag > alarmed_at) {
                let stops = if stops { format!("; writers are stopped at {bound} s") } else { String::new() };
                alerts.push(format!("{name} lags behind at {}: {} s{stops}", peer.name, entry["lag_seconds"]));
            }
            peers.push(entry);
        }
    }
    if log.is_home(shard.site.site)
        && let Err(refusal) = super::leases::refuse_lapsed(shard, &log)
    {
        alerts.push(refusal.detail);
    }
    alerts.extend(holding::unfinished(&name, &log));
    alerts.extend(holding::quota_alert(&name, &log));
    let aside = format!("{} deltas of {name} were set aside here after a change of home", log.aside);
    alerts.extend((log.aside > 0).then_some(aside));
    json!({
        "name": name,
        "home": home,
        "home_site_id": log.known.site.to_string(),
        "in_transit": in_transit,
        "generation": log.known.counter,
        "head_seq": log.head.sequence,
        "head_hash": log.head.hash.to_string(),
        "set_aside_deltas": log.aside,
        "exact_up_to_seq": log.whole().0.sequence,
        "live_bytes": log.live_bytes,
        "quota_bytes": log.descriptor.policy.quota_bytes,
        "peers": peers,
    })
}

fn peer_entry<D: Disk>(
    shard: &Shard<D>,
    log: &LogView,
    peer: &farside_codec::message::PeerRecord,
    lag: Option<&PeerLag>,
    kept: &holding::Kept,
) -> Value {
    let sender = shard.senders.borrow().get(&(log.descriptor.log, peer.site)).cloned().unwrap_or_default();
    let cursor = lag.map_or(0, |lag| lag.cursor.sequence);
    // Said only from an acknowledged watermark: the peer's durable cursor is our head. An empty log has one as well, once
    // the peer has taken the log on.
    let caught_up = lag.is_some_and(|lag| lag.cursor.hash == log.head.hash && lag.deltas == 0);
    let seconds = super::leases::lag_seconds(log, lag, shard.clock.clock().wall_ms());
    let lag_bytes = lag.map_or(log.total_bytes, |lag| lag.bytes);
    let left = |until: Duration| until.saturating_sub(shard.clock.clock().monotonic()).as_secs_f64();
    let promised = (log.descriptor.policy.home_lease_seconds > 0).then(|| sender.promised_until(log).map_or(0.0, left));
    json!({
        "site": peer.name.as_str(),
        "state": match (peer.paused, sender.connected) {
            (true, _) => "paused",
            (false, true) => "connected",
            (false, false) => "unreachable",
        },
        "trouble": sender.trouble,
        "cursor_seq": cursor,
        "lag_deltas": lag.map_or(log.head.sequence, |lag| lag.deltas),
        "lag_bytes": lag_bytes,
        "lag_seconds": seconds,
        "caught_up": caught_up,
        "hold_bytes": if kept.expired { 0 } else { lag_bytes },
        "hold_expires_seconds": kept.expires_seconds,
        "hold_expired": kept.expired,
        "lease_left_seconds": promised,
    })
}
