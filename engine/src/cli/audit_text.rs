//! Entries of audit logs as people and scripts read them. What is shown follows from an entry's bytes alone, so that an export
//! can be checked by whoever has nothing else.

use super::sizes::{show_time, show_window};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::audit::{
    AuditAction, AuditActor, AuditEntry, AuditHash, AuditHead, AuditOutcome, AuditScope, AuditedExport, AuditedListing,
    AuditedLog, AuditedNode,
};
use farside_codec::command::TokenPurpose;
use farside_codec::delta::Deduplication;
use farside_codec::ids::{SiteId, hex};
use farside_codec::message::PeerAction;
use farside_transport::{Caller, Role};
use serde_json::{Value, json};

/// Whose log, in words.
pub(super) fn scope_name(scope: &AuditScope) -> String {
    match scope {
        AuditScope::Site => "site".to_owned(),
        AuditScope::Tenant(tenant) => format!("tenant {tenant}"),
    }
}

fn tenant_id(scope: &AuditScope) -> Option<String> {
    match scope {
        AuditScope::Site => None,
        AuditScope::Tenant(tenant) => Some(tenant.to_string()),
    }
}

/// Who it was.
fn actor_json(by: &AuditActor) -> Value {
    match by {
        AuditActor::Site(node) => json!({ "kind": "site", "node": node.0 }),
        AuditActor::Machine(user) => json!({ "kind": "machine", "node": user.node.0, "user": user.user }),
        AuditActor::Certificate(name) => match Caller::parse(name) {
            Some(caller) => json!({
                "kind": "certificate", "role": caller.role.as_str(), "name": caller.subject,
                "site_id": caller.site.to_string(),
            }),
            None => json!({ "kind": "certificate", "name": name }),
        },
    }
}

fn actor_text(by: &AuditActor) -> String {
    match by {
        AuditActor::Site(node) => format!("this site, node {node}"),
        AuditActor::Machine(user) => format!("user {} at node {}", user.user, user.node),
        AuditActor::Certificate(name) => match Caller::parse(name) {
            Some(caller) if caller.role == Role::Peer => format!("peer {} of site {}", caller.subject, caller.site),
            Some(caller) => format!("{} {}", caller.role.as_str(), caller.subject),
            None => name.escape_debug().to_string(),
        },
    }
}

fn ids(sites: &Option<Vec<SiteId>>) -> Option<Vec<String>> {
    sites.as_ref().map(|sites| sites.iter().map(ToString::to_string).collect())
}

fn log_about(log: &AuditedLog) -> Value {
    let deduplication = match log.policy.deduplication {
        Deduplication::Off => "off",
        Deduplication::Log => "log",
        Deduplication::Tenant => "tenant",
    };
    json!({
        "log": format!("{}/{}", log.tenant_name, log.name), "log_id": log.log.to_string(),
        "deduplication": deduplication, "history_seconds": log.policy.history_seconds,
        "lag_bound_seconds": log.policy.lag_bound_seconds, "lag_stops_writers": log.policy.lag_stops_writers,
        "home_lease_seconds": log.policy.home_lease_seconds,
        "replicates_to_ids": ids(&log.policy.sites), "residency_ids": ids(&log.policy.residency),
        "quota_bytes": log.policy.quota_bytes,
    })
}

fn node_about(node: &AuditedNode) -> Value {
    let name = node.name.as_ref().map(|name| name.as_str());
    json!({ "node": node.node.0, "name": name, "state": node.state.as_str() })
}

/// An export has a name once its shares are made.
fn set_of(export: &AuditedExport) -> Option<String> {
    (export.set != [0; 16]).then(|| hex(&export.set))
}

fn listing_about(identity: &AuditedListing) -> Value {
    json!({
        "serial": hex(&identity.serial), "identity": identity.name.as_ref().map(|name| name.as_str()),
        "role": identity.role.as_ref().map(|role| role.as_str()), "expires": identity.expires.map(show_time),
    })
}

/// What was done, in a word, and to what.
pub(super) fn described(action: &AuditAction) -> (&'static str, Value) {
    match action {
        AuditAction::Found(site) => ("site.found", json!({ "site": site.name.as_str(), "groups": site.groups })),
        AuditAction::Tenant(tenant) => (
            if tenant.created { "tenant.create" } else { "tenant.rotate" },
            json!({
                "tenant": tenant.name.as_str(), "epochs_added": tenant.epochs_added,
                "epoch": tenant.newest.as_ref().map(|epoch| epoch.epoch.to_string()),
                "kms_key_version": tenant.newest.as_ref().map(|epoch| epoch.key_version),
            }),
        ),
        AuditAction::Log(log) => (if log.created { "log.create" } else { "log.policy" }, log_about(log)),
        AuditAction::Policy(log) => ("log.policy.order", log_about(log)),
        AuditAction::AddPeer(peer) => {
            ("peer.add", json!({ "peer": peer.name.as_str(), "peer_id": peer.peer.to_string() }))
        }
        AuditAction::PeerJoined(peer) => {
            ("peer.joined", json!({ "peer": peer.name.as_str(), "peer_id": peer.peer.to_string() }))
        }
        AuditAction::SetPeer(order) => (
            match order.action {
                PeerAction::Pause => "peer.pause",
                PeerAction::Resume => "peer.resume",
                PeerAction::Remove => "peer.remove",
                PeerAction::Limit(_) => "peer.limit",
                PeerAction::Unlimit => "peer.unlimit",
                PeerAction::Hold(_) => "peer.hold",
                PeerAction::Unhold => "peer.unhold",
            },
            match &order.action {
                PeerAction::Limit(limit) => json!({
                    "peer": order.name.as_str(),
                    "rate_bytes_per_second": limit.rate,
                    "window": limit.window.as_ref().map(show_window),
                }),
                PeerAction::Hold(hold) => {
                    json!({ "peer": order.name.as_str(), "hold_seconds": hold.seconds, "hold_bytes": hold.bytes })
                }
                _ => json!({ "peer": order.name.as_str() }),
            },
        ),
        AuditAction::Token(token) => match &token.purpose {
            TokenPurpose::Peer => ("peer.token", json!({ "expires": show_time(token.expires) })),
            TokenPurpose::Node(name) => (
                "node.token",
                json!({ "node": name.as_ref().map(|name| name.as_str()), "expires": show_time(token.expires) }),
            ),
        },
        AuditAction::NodeJoined(node) => ("node.joined", node_about(node)),
        AuditAction::SetNode(node) => ("node.set", node_about(node)),
        AuditAction::SiteGeometry(geometry) => ("site.geometry", json!({ "geometry": geometry.to_string() })),
        AuditAction::RepairLimit(limit) => ("repair.limit", json!({ "rate_bytes_per_second": limit })),
        AuditAction::BackupTarget(target) => {
            ("backup.target", json!({ "target": target.name.as_str(), "url": target.url }))
        }
        AuditAction::Backup(backup) => (
            "backup.made",
            json!({
                "target": backup.target.as_str(), "backup": backup.number, "cut": show_time(backup.cut),
                "chunks": backup.chunks,
            }),
        ),
        AuditAction::ForgetBackupTarget(name) => ("backup.forget", json!({ "target": name.as_str() })),
        AuditAction::BackupSchedule(order) => (
            "backup.schedule",
            json!({
                "target": order.target.as_str(),
                "every_seconds": order.schedule.as_ref().map(|schedule| schedule.every_seconds),
                "continuous": order.schedule.as_ref().is_some_and(|schedule| schedule.continuous),
            }),
        ),
        AuditAction::Recover(recovery) => (
            "site.recover",
            json!({
                "incarnation": recovery.incarnation, "emptied_groups": recovery.emptied_groups,
                "lost_nodes": recovery.lost.iter().map(|node| node.0).collect::<Vec<_>>(),
            }),
        ),
        AuditAction::Restore(restore) => {
            ("site.restore", json!({ "incarnation": restore.incarnation, "at": restore.at.map(show_time) }))
        }
        AuditAction::IssueIdentity(identity) => ("identity.issue", listing_about(identity)),
        AuditAction::RevokeIdentity(identity) => ("identity.revoke", listing_about(identity)),
        AuditAction::IntroduceAuthority(generation) => ("certificate.rotate_ca", json!({ "authority": generation })),
        AuditAction::DropAuthority(forced) => ("certificate.drop_ca", json!({ "forced": forced })),
        AuditAction::TrustPeer(trust) => (
            "peer.trust",
            json!({
                "peer_id": trust.peer.to_string(), "change": trust.change,
                "certificates_blake3": trust.certificates.iter().map(|hash| hex(hash)).collect::<Vec<_>>(),
            }),
        ),
        AuditAction::Evict(order) => (
            if order.leaves { "device.evict" } else { "device.evict.cancel" },
            json!({ "node": order.node.as_str(), "device": order.device.to_string() }),
        ),
        AuditAction::Rebalance(begins) => (if *begins { "site.rebalance" } else { "site.rebalance.cancel" }, json!({})),
        AuditAction::RotateCertificates => ("certificate.rotate", json!({})),
        AuditAction::AddDevice(path) => ("device.add", json!({ "device": path })),
        AuditAction::Failover(failover) => (
            "failover",
            json!({
                "from": failover.from.as_ref().map(|from| from.as_str()),
                "log_id": failover.log.map(|log| log.to_string()), "forced": failover.forced,
                "at": if failover.to_cut { "cut" } else { "latest" }, "cut": failover.cut.map(show_time),
                "logs": failover.logs, "refused": failover.refused,
                "took_seconds": failover.took_ms.map(|ms| ms as f64 / 1000.0),
                "fenced": failover.fenced,
            }),
        ),
        AuditAction::Promote(log) => (
            "log.promote",
            json!({
                "log": format!("{}/{}", log.tenant_name, log.name), "log_id": log.log.to_string(),
                "generation": log.generation.counter, "position_seq": log.position,
                "lost_deltas_max": log.lost_deltas,
                "lost_seconds_max": log.lost_ms.map(|ms| ms as f64 / 1000.0),
            }),
        ),
        AuditAction::HandOver(log) => (
            "log.hand_over",
            json!({
                "log": format!("{}/{}", log.tenant_name, log.name), "log_id": log.log.to_string(),
                "to": log.to.as_str(), "generation": log.generation.counter, "position_seq": log.position,
            }),
        ),
        AuditAction::Switchover(order) => (
            if order.back { "failback" } else { "switchover" },
            json!({
                "to": order.to.as_str(), "moved": order.moved, "left": order.left,
                "stalled_seconds": order.stalled_ms as f64 / 1000.0,
            }),
        ),
        AuditAction::Discard(discard) => {
            ("divergence.discard", json!({ "log_id": discard.log.to_string(), "deltas": discard.deltas }))
        }
        AuditAction::Scrub(percent) => ("scrub.start", json!({ "percent": percent })),
        AuditAction::Drill(drill) => {
            let found = drill.found.as_ref();
            let about = json!({
                "from": drill.from.as_ref().map(|from| from.as_str()),
                "log_id": drill.log.map(|log| log.to_string()),
                "logs": found.map(|found| found.logs), "objects_read": found.map(|found| found.objects),
                "read_bytes": found.map(|found| found.bytes), "failures": found.map(|found| found.failures),
                "objections": found.map(|found| found.objections),
            });
            ("drill", about)
        }
        AuditAction::Shred(shred) => {
            ("tenant.shred", json!({ "tenant": shred.name.as_str(), "keys": shred.keys, "keys_left": shred.left }))
        }
        AuditAction::KeyExport(export) => {
            ("key.export", json!({ "set": set_of(export), "threshold": export.threshold, "shares": export.shares }))
        }
        AuditAction::KeyConfirm(export) => {
            ("key.confirm", json!({ "set": set_of(export), "threshold": export.threshold, "shares": export.shares }))
        }
        AuditAction::KeyImport => ("key.import", json!({})),
        AuditAction::KeySeal => ("key.seal", json!({})),
        AuditAction::KeyUnseal => ("key.unseal", json!({})),
        AuditAction::Unlock => ("node.unlock", json!({})),
        AuditAction::Identity(identity) => {
            ("identity.issue", json!({ "tenant_id": identity.tenant.map(|tenant| tenant.to_string()) }))
        }
        AuditAction::Device(device) => ("device.replace", json!({ "old": device.old, "new": device.new })),
        AuditAction::Prune(prune) => (
            "backup.prune",
            json!({
                "url": prune.url, "kept": prune.kept, "removed": prune.removed,
                "removed_packs": prune.removed_packs,
            }),
        ),
    }
}

fn outcome_word(outcome: &AuditOutcome) -> (&'static str, Option<&str>) {
    match outcome {
        AuditOutcome::Ordered => ("ordered", None),
        AuditOutcome::Done => ("done", None),
        AuditOutcome::Failed(failure) => ("failed", Some(&failure.detail)),
    }
}

/// An entry for scripts, and for whoever verifies an export.
pub(super) fn entry_json(entry: &AuditEntry, encoded: &Bytes) -> Value {
    let (action, about) = described(&entry.action);
    let (outcome, error) = outcome_word(&entry.outcome);
    json!({
        "site_id": entry.site.to_string(), "incarnation": entry.incarnation, "tenant_id": tenant_id(&entry.scope),
        "seq": entry.sequence, "time": show_time(entry.time), "ordered": show_time(entry.ordered),
        "order": hex(&entry.order), "by": actor_json(&entry.by), "action": action, "about": about,
        "outcome": outcome, "error": error, "previous_hash": entry.previous.to_string(),
        "hash": AuditHash::of(encoded).to_string(), "entry": hex(encoded),
    })
}

/// Where a chain ends, as the last lines of an export say.
pub(super) fn head_json(head: &AuditHead, since: Option<&str>) -> Value {
    json!({
        "head": true, "site_id": head.site.to_string(), "incarnation": head.incarnation,
        "tenant_id": tenant_id(&head.scope), "first_seq": head.first, "seq": head.sequence,
        "hash": head.hash.to_string(), "since": since,
    })
}

/// An entry for people.
pub(super) fn entry_text(entry: &AuditEntry) -> String {
    let (action, about) = described(&entry.action);
    let (outcome, error) = outcome_word(&entry.outcome);
    let told = about.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let told: Vec<String> = told.map(|(key, value)| format!("{key}={}", plain(value))).collect();
    let error = error.map(|error| format!(": {}", error.escape_debug())).unwrap_or_default();
    let (time, by) = (show_time(entry.time), actor_text(&entry.by));
    format!("{:>6}  {time}  {by}  {action}  {outcome}{error}  {}", entry.sequence, told.join(" "))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.escape_debug().to_string(),
        other => other.to_string(),
    }
}

/// Reads an entry's bytes back out of an export.
pub(super) fn bytes_of(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect::<Option<Vec<u8>>>().map(Bytes::from)
}

/// What an export says of an entry must be what the entry says.
pub(super) fn shows(line: &Value, encoded: &Bytes) -> bool {
    AuditEntry::from_bytes(encoded.clone()).is_ok_and(|entry| entry_json(&entry, encoded) == *line)
}
