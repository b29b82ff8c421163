//! What the demo found, as a table or as JSON.

use crate::cli::{failover_json, show_bytes};
use crate::terminal::line;
use farside_codec::ids::Hlc;
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
    /// When near was killed, in milliseconds since 1970.
    pub(super) killed_ms: u64,
    lost_objects: u64,
    lost_bytes: u64,
    lost_ms: u64,
    loss_may_grow: bool,
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
        self.loss_may_grow = !failover.fenced;
        self.outage_seconds = since.as_secs_f64();
    }

    /// Takes an object that near had acknowledged and far never got. What counts in seconds is the oldest one.
    pub(super) fn take_lost(&mut self, size_bytes: u64, acknowledged: Hlc) {
        self.lost_objects += 1;
        self.lost_bytes += size_bytes;
        self.lost_ms = self.lost_ms.max(self.killed_ms.saturating_sub(acknowledged.ms()));
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
            return line(self.to_json());
        }
        let row = |name: &str, value: String| line(format_args!("  {name:<34} {value}"));
        line("");
        row("put", format!("{} objects, {}", self.objects, show_bytes(self.bytes)));
        row("put throughput", format!("{}/s", show_bytes(self.rate(self.put_seconds) as u64)));
        row("replication throughput", format!("{}/s", show_bytes(self.rate(self.replication_seconds) as u64)));
        row("written until near was killed", format!("{} objects", self.live_objects));
        row(
            "lag at the kill",
            format!("{} deltas, {}, {:.2} s", self.lag_deltas, show_bytes(self.lag_bytes), self.lag_seconds),
        );
        row("RPO, as far as far had heard", self.rpo());
        row(
            "lost, acknowledged but not at far",
            format!("{} objects, {}, {:.2} s", self.lost_objects, show_bytes(self.lost_bytes), self.lost_seconds()),
        );
        row("RTO (order to writable)", format!("{:.3} s", self.rto_seconds));
        row("kill to writable at far", format!("{:.2} s", self.outage_seconds));
        row(
            "verified at far, byte for byte",
            format!("{} objects, {}", self.verified_objects, show_bytes(self.verified_bytes)),
        );
        row("missing or different", format!("{} objects", self.damaged_objects));
        line("");
        line(if self.intact() { "everything that far had acknowledged is intact" } else { "NOT INTACT" });
    }

    fn lost_seconds(&self) -> f64 {
        self.lost_ms as f64 / 1000.0
    }

    fn rpo(&self) -> String {
        let heard = match self.rpo_seconds.is_null() {
            true => "unknown".to_owned(),
            false => format!("{} s", self.rpo_seconds),
        };
        let grow = if self.loss_may_grow { " (may grow: near does not answer)" } else { "" };
        format!("{heard}{grow}")
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
            "loss_may_grow": self.loss_may_grow,
            "lost_objects": self.lost_objects,
            "lost_bytes": self.lost_bytes,
            "lost_seconds": self.lost_seconds(),
            "verified_objects": self.verified_objects,
            "verified_bytes": self.verified_bytes,
            "damaged_objects": self.damaged_objects,
            "intact": self.intact(),
        })
    }
}
