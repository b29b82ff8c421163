//! The status document: what cli.md promises, put together from what every shard says in time.

use super::devices::{fragments_placed, losses_survived};
use super::limits::{STATUS_PATIENCE, UNREACHABLE_ALERT};
use super::shard::Shard;
use crate::state::{ControlView, Opened};
use crate::store::{DeviceState, DeviceStatus, StoreStatus};
use bytes::Bytes;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{LogId, SiteId};
use farside_io::disk::Disk;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What one shard says.
struct ShardReport {
    store: StoreStatus,
    logs: Vec<(LogId, Value)>,
    alerts: Vec<String>,
    counters: Value,
    /// Peers that senders don't reach: for how long, and why.
    unreachable: Unreachable,
}

type Unreachable = BTreeMap<SiteId, (Duration, Option<String>)>;

/// The document. It is made even if shards don't answer; then it says so.
pub(super) async fn document<D: Disk>(shard: &Rc<Shard<D>>) -> Bytes {
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
    for (label, state) in devices.iter().filter(|(_, state)| state["state"] != "ok") {
        alerts.push(format!("device {label} is {}", state["state"].as_str().unwrap_or("unknown")));
    }
    let sum = |of: fn(&StoreStatus) -> u64| reports.iter().map(|(_, report)| of(&report.store)).sum::<u64>();
    let owed = sum(|store| store.owed_fragments);
    if owed > 0 {
        alerts.push(format!("{owed} fragments are owed: redundancy is reduced until they are repaired"));
    }
    let writable = reports.iter().all(|(_, report)| report.store.writable);
    alerts.extend(device_alerts(shard.site.geometry, &devices, writable));
    alerts.extend(unreachable_alerts(&shard.view(), &reports));
    alerts.extend(reports.iter().flat_map(|(_, report)| report.alerts.iter().cloned()));
    let mut logs: Vec<(LogId, Value)> = reports.iter().flat_map(|(_, report)| report.logs.iter().cloned()).collect();
    logs.sort_by(|a, b| a.1["name"].as_str().cmp(&b.1["name"].as_str()));
    let peers: Vec<Value> = shard
        .view()
        .peers
        .values()
        .map(|peer| json!({ "site": peer.name.as_str(), "paused": peer.paused, "endpoints": peer.endpoints }))
        .collect();
    let document = json!({
        "site": shard.site.name.as_str(),
        "site_id": shard.site.site.to_string(),
        "nodes": [{
            "name": format!("node-{}", shard.site.node),
            "state": "up",
            "shards": shard.shards(),
            "devices": devices.into_iter().map(|(_, device)| device).collect::<Vec<_>>(),
        }],
        "control": {
            "leader": control.as_ref().and_then(|control| control.leader).map(|node| format!("node-{node}")),
            "term": control.as_ref().map(|control| control.term),
        },
        "peers": peers,
        "logs": logs.into_iter().map(|(_, log)| log).collect::<Vec<_>>(),
        "chunks": sum(|store| store.chunks),
        "repair": {
            "owed_fragments": owed,
            "owed_bytes": sum(|store| store.owed_bytes),
            "rate_bytes_per_second": 0,
        },
        "counters": reports.iter().map(|(_, report)| report.counters.clone()).collect::<Vec<_>>(),
        "alerts": alerts,
    });
    Bytes::from(document.to_string())
}

/// What the devices of the node mean for what is stored, and for what is to be.
fn device_alerts(geometry: Geometry, devices: &[(String, Value)], writable: bool) -> Vec<String> {
    // Devices without an id belong to nobody here.
    let ours = || devices.iter().filter(|(_, device)| !device["id"].is_null());
    let (all, working) = (ours().count(), ours().filter(|(_, device)| device["state"] == "ok").count());
    if all == 0 {
        return Vec::new();
    }
    let mut alerts = Vec::new();
    match losses_survived(geometry, all, working) {
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
        let name = view.site_name(site).map_or_else(|| site.to_string(), ToString::to_string);
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
            let entry =
                json!({ "id": id, "path": device.label, "state": "ok", "bytes": 0, "used_bytes": 0, "live_bytes": 0 });
            merged.push((name, entry));
            merged.len() - 1
        });
        let entry = &mut merged[at].1;
        for (key, value) in
            [("bytes", device.bytes), ("used_bytes", device.used_bytes), ("live_bytes", device.live_bytes)]
        {
            entry[key] = json!(entry[key].as_u64().unwrap_or(0) + value);
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
    let store = shard.store.status();
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
    for group in shard.groups.values() {
        let state = group.state().borrow();
        match state.logs() {
            Ok(views) => logs
                .extend(views.into_iter().map(|log| (log.descriptor.log, log_entry(shard, &state, log, &mut alerts)))),
            Err(error) => alerts.push(format!("group {} can't be read: {error}", group.id())),
        }
        if !group.status().running {
            alerts.push(format!("group {} has stopped", group.id()));
        }
    }
    let counters = json!({
        "shard": shard.index,
        "requests": shard.counters.requests.get(),
        "refused": shard.counters.refused.get(),
        "corrupt_frames": shard.counters.corrupt_frames.get(),
        "refused_handshakes": shard.counters.refused_handshakes.get(),
        "chunks_stored": store.counters.chunks_stored,
        "chunks_deduplicated": store.counters.chunks_deduplicated,
        "chunks_collected": store.counters.chunks_collected,
        "degraded_reads": store.counters.degraded_reads,
        "damaged_fragments": store.counters.damaged_fragments,
        "write_errors": store.counters.write_errors,
        "read_errors": store.counters.read_errors,
        "torn_records": recovery.torn_records,
        "torn_wal_batches": shard.wal_report.torn_batches,
        "fragments": store.fragments,
        "snapshot_pieces": shard.snapshots.pieces(),
        "index_bytes": store.index_bytes,
    });
    ShardReport { store, logs, alerts, counters, unreachable: unreachable(shard) }
}

fn log_entry<D: Disk>(
    shard: &Shard<D>,
    state: &crate::state::LogGroupState,
    log: crate::state::LogView,
    alerts: &mut Vec<String>,
) -> Value {
    let view = shard.view();
    let name = format!("{}/{}", log.descriptor.tenant_name, log.descriptor.name);
    let home = view.site_name(log.known.site).map(ToString::to_string);
    let mut peers = Vec::new();
    if log.is_home(shard.site.site) {
        let lags = state.peers(log.descriptor.log).unwrap_or_default();
        for peer in view.peers.values() {
            let lag = lags.iter().find(|lag| lag.peer == peer.site);
            let entry = peer_entry(shard, &log, peer, lag);
            if entry["lag_seconds"].as_f64().is_some_and(|lag| lag > log.descriptor.policy.lag_bound_seconds as f64) {
                alerts.push(format!("{name} lags behind at {}: {} s", peer.name, entry["lag_seconds"]));
            }
            peers.push(entry);
        }
    }
    if log.aside > 0 {
        alerts.push(format!("{} deltas of {name} were set aside here after a change of home", log.aside));
    }
    json!({
        "name": name,
        "home": home,
        "home_site_id": log.known.site.to_string(),
        "generation": log.known.counter,
        "head_seq": log.head.sequence,
        "head_hash": log.head.hash.to_string(),
        "set_aside_deltas": log.aside,
        "peers": peers,
    })
}

fn peer_entry<D: Disk>(
    shard: &Shard<D>,
    log: &crate::state::LogView,
    peer: &farside_codec::message::PeerRecord,
    lag: Option<&crate::state::PeerLag>,
) -> Value {
    let sender = shard.senders.borrow().get(&(log.descriptor.log, peer.site)).cloned().unwrap_or_default();
    let cursor = lag.map_or(0, |lag| lag.cursor.sequence);
    // Said only from an acknowledged watermark: the peer's durable cursor is our head. An empty log has one as well, once
    // the peer has taken the log on.
    let caught_up = lag.is_some_and(|lag| lag.cursor.hash == log.head.hash && lag.deltas == 0);
    let now = shard.clock.clock().wall_ms();
    let seconds = match lag {
        _ if caught_up => 0.0,
        Some(lag) => lag.oldest.map_or(0.0, |oldest| now.saturating_sub(oldest.ms()) as f64 / 1000.0),
        None => now.saturating_sub(log.descriptor.created.ms()) as f64 / 1000.0,
    };
    let lag_bytes = lag.map_or(log.total_bytes, |lag| lag.bytes);
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
        "hold_bytes": lag_bytes,
        "hold_expires_seconds": Value::Null,
    })
}
