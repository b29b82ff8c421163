//! What status says of the system key: where each node has it, and whether the site's loss would be the key's.

use super::{ExportState, HeldKey, KeyExports, KeyFile};
use crate::framed::FramedFileError;
use crate::node::directory::NodeDirectory;
use crate::node::status::push;
use farside_codec::ids::SiteId;
use serde_json::{Value, json};
use std::path::Path;

/// What the nodes say of the system key, for the site: one of them knows of an export, and all of them hold the key.
pub(in crate::node) fn tell_of_site(document: &mut Value) {
    let nodes = document["nodes"].as_array().cloned().unwrap_or_default();
    let keys = || nodes.iter().map(|node| (node, &node["system_key"])).filter(|(_, key)| !key.is_null());
    let any = |state: ExportState| keys().any(|(_, key)| key["export"] == state.as_str());
    let alert = match (keys().next(), any(ExportState::Confirmed), any(ExportState::Made)) {
        (None, _, _) | (_, true, _) => None,
        (_, _, true) => {
            Some("the system key was exported, and nobody has confirmed that its shares are good (farside key confirm)")
        }
        (_, _, false) => Some(
            "the system key has never been exported: lost with the site, it takes the site's backups with it (farside key \
             export)",
        ),
    };
    alert.into_iter().for_each(|alert| push(&mut document["alerts"], json!(alert)));
    let clear: Vec<&str> =
        keys().filter(|(_, key)| key["held"] == "clear").filter_map(|(node, _)| node["name"].as_str()).collect();
    if !clear.is_empty() {
        let notice =
            format!("the system key lies in the clear beside the data at {} (farside key seal)", clear.join(", "));
        push(&mut document["notices"], json!(notice));
    }
}

/// What this node says of the system key. Its file is read each time: whoever lets it rot should hear of it while the key
/// is still in memory.
pub(in crate::node) fn of_node(root: &Path, site: SiteId, held_key: &HeldKey, alerts: &mut Vec<String>) -> Value {
    let directory = NodeDirectory::new(root);
    let held = match KeyFile::read(&directory) {
        Ok(file) => file.held(),
        Err(error) => {
            alerts.push(format!("the next start will fail: {error}"));
            match error {
                FramedFileError::Missing(_) => "missing",
                _ => "damaged",
            }
        }
    };
    let key = held_key.key();
    let export = KeyExports::load(&directory).unwrap_or_else(|error| {
        alerts.push(format!("what is known of the system key's exports can't be read: {error}"));
        KeyExports { exports: Vec::new() }
    });
    let export = export.state(|export| export.is_of(&key, site));
    json!({ "held": held, "unlocked_by": held_key.unlocked_by(), "export": export.as_str() })
}
