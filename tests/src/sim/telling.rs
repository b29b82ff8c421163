//! What a site says of itself, for people to read.

use serde_json::Value;

/// What a site says of itself that tells why it is behind.
pub fn in_short(document: &Value) -> String {
    let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
    let nodes = list(&document["nodes"]);
    let devices: Vec<String> = nodes
        .iter()
        .flat_map(|node| list(&node["devices"]))
        .map(|device| {
            format!("{} {}/{}/{}", device["state"], device["live_bytes"], device["used_bytes"], device["bytes"])
        })
        .collect();
    let states: Vec<String> = nodes.iter().map(|node| format!("{} {}", node["name"], node["state"])).collect();
    let logs: Vec<String> = list(&document["logs"])
        .iter()
        .map(|log| {
            let peers: Vec<String> = list(&log["peers"])
                .iter()
                .map(|peer| format!("{} has {}: {}", peer["site"], peer["cursor_seq"], peer["trouble"]))
                .collect();
            format!("{} at {} of {}, {}", log["name"], log["head_seq"], log["home"], peers.join(", "))
        })
        .collect();
    let (site, chunks, alerts) = (&document["site"], &document["chunks"], &document["alerts"]);
    let (devices, states) = (devices.join(", "), states.join(", "));
    format!("{site} ({chunks} chunks, {states}, devices {devices}): {}; alerts {alerts}", logs.join("; "))
}
