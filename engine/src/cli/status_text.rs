//! The status document as a table for people.

use super::sizes::show_bytes;
use crate::terminal::line;
use serde_json::Value;

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A log's home: its name, or what is left of a peer that was removed.
pub(super) fn home(name: Option<&str>, site: Option<&str>) -> String {
    match (name, site) {
        (Some(name), _) => name.to_owned(),
        (None, Some(site)) => format!("{site} (removed peer)"),
        (None, None) => "unknown".into(),
    }
}

/// Prints it.
pub(super) fn print(document: &Value) {
    line(format!("site {}", text(&document["site"])));
    for node in items(&document["nodes"]) {
        line(format!("  {}  {}  {} shards", text(&node["name"]), text(&node["state"]), node["shards"]));
        for device in items(&node["devices"]) {
            let bytes = |key: &str| show_bytes(device[key].as_u64().unwrap_or(0));
            line(format!(
                "    {:<8}  {} of {} used  {}",
                text(&device["state"]),
                bytes("used_bytes"),
                bytes("bytes"),
                text(&device["path"])
            ));
        }
    }
    for log in items(&document["logs"]) {
        line(format!(
            "  {}  home {}  generation {}  head {}",
            text(&log["name"]),
            home(log["home"].as_str(), log["home_site_id"].as_str()),
            log["generation"],
            log["head_seq"]
        ));
        for peer in items(&log["peers"]) {
            let state = if peer["caught_up"] == true {
                "caught up".to_owned()
            } else {
                format!(
                    "behind by {} deltas, {}, {:.1} s",
                    peer["lag_deltas"],
                    show_bytes(peer["lag_bytes"].as_u64().unwrap_or(0)),
                    peer["lag_seconds"].as_f64().unwrap_or(0.0)
                )
            };
            line(format!("    {}  {}  {state}", text(&peer["site"]), text(&peer["state"])));
            if let Some(trouble) = peer["trouble"].as_str() {
                line(format!("      {trouble}"));
            }
        }
    }
    for alert in items(&document["alerts"]) {
        line(format!("  alert: {}", text(alert)));
    }
    for notice in items(&document["notices"]) {
        line(format!("  notice: {}", text(notice)));
    }
}
