//! What the demo found, as a table or as JSON.

use crate::cli::{failover_json, show_bytes};
use farside_codec::message::FailoverReport;
use serde_json::{Value, json};
use std::time::Duration;

/// Figures of one run.
#[derive(Default)]
pub(super) struct Report {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) put_seconds: f64,
    pub(super) replication_seconds: f64,
    pub(super) live_objects: u64,
    pub(super) lost_objects: u64,
    pub(super) verified_objects: u64,
    pub(super) verified_bytes: u64,
    pub(super) damaged_objects: u64,
    lag_deltas: u64,
    lag_bytes: u64,
    lag_seconds: f64,
    rpo_seconds: Value,
    rto_seconds: f64,
    outage_seconds: f64,
}

impl Report {
    /// Takes the lag out of a status document.
    pub(super) fn take_lag(&mut self, document: &Value) {
        let peer = &document["logs"][0]["peers"][0];
        self.lag_deltas = peer["lag_deltas"].as_u64().unwrap_or(0);
        self.lag_bytes = peer["lag_bytes"].as_u64().unwrap_or(0);
        self.lag_seconds = peer["lag_seconds"].as_f64().unwrap_or(0.0);
    }

    /// Takes what the failover reported; `since` is the time since the kill.
    pub(super) fn take_failover(&mut self, failover: &FailoverReport, since: Duration) {
        let document = failover_json(failover);
        self.rpo_seconds = document["rpo_seconds"].clone();
        self.rto_seconds = document["rto_seconds"].as_f64().unwrap_or(0.0);
        self.outage_seconds = since.as_secs_f64();
    }

    /// Everything that the cursor covered is there.
    pub(super) fn intact(&self) -> bool {
        self.damaged_objects == 0 && self.verified_objects > 0
    }

    fn rate(&self, seconds: f64) -> f64 {
        if seconds > 0.0 { self.bytes as f64 / seconds } else { 0.0 }
    }

    pub(super) fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.to_json());
            return;
        }
        let row = |name: &str, value: String| println!("  {name:<34} {value}");
        println!();
        row("put", format!("{} objects, {}", self.objects, show_bytes(self.bytes)));
        row("put throughput", format!("{}/s", show_bytes(self.rate(self.put_seconds) as u64)));
        row("replication throughput", format!("{}/s", show_bytes(self.rate(self.replication_seconds) as u64)));
        row("written until near was killed", format!("{} objects", self.live_objects));
        row(
            "lag at the kill",
            format!("{} deltas, {}, {:.2} s", self.lag_deltas, show_bytes(self.lag_bytes), self.lag_seconds),
        );
        row("RPO", if self.rpo_seconds.is_null() { "unknown".into() } else { format!("{} s", self.rpo_seconds) });
        row("acknowledged by near, not yet at far", format!("{} objects", self.lost_objects));
        row("RTO (order to writable)", format!("{:.3} s", self.rto_seconds));
        row("kill to writable at far", format!("{:.2} s", self.outage_seconds));
        row(
            "verified at far, byte for byte",
            format!("{} objects, {}", self.verified_objects, show_bytes(self.verified_bytes)),
        );
        row("missing or different", format!("{} objects", self.damaged_objects));
        println!();
        println!("{}", if self.intact() { "everything that far had acknowledged is intact" } else { "NOT INTACT" });
    }

    fn to_json(&self) -> Value {
        json!({
            "objects": self.objects,
            "size_bytes": self.bytes,
            "put_bytes_per_second": self.rate(self.put_seconds),
            "replication_bytes_per_second": self.rate(self.replication_seconds),
            "live_objects": self.live_objects,
            "lag_deltas": self.lag_deltas,
            "lag_bytes": self.lag_bytes,
            "lag_seconds": self.lag_seconds,
            "rpo_seconds": self.rpo_seconds,
            "rto_seconds": self.rto_seconds,
            "outage_seconds": self.outage_seconds,
            "lost_objects": self.lost_objects,
            "verified_objects": self.verified_objects,
            "verified_bytes": self.verified_bytes,
            "damaged_objects": self.damaged_objects,
            "intact": self.intact(),
        })
    }
}
