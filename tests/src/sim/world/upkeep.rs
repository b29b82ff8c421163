//! What administrators have done to devices and to what lies on them: they are scrubbed, shared out anew, told to go; repair is
//! limited; chunks are cut another way.

use super::super::divergence::is_full;
use super::super::faults::{Place, Upkeep};
use super::super::oracles::status;
use super::{RECOVERY, World};
use farside::client::{Client, ClientError};
use farside_codec::cluster::SetDevice;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{DeviceId, Label};
use farside_codec::message::{RefusalCode, Reply, Request};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// How long an administrator waits before looking again.
const AGAIN: Duration = Duration::from_millis(500);

/// A device that was told to go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Eviction {
    site: usize,
    node: Label,
    device: DeviceId,
}

impl Eviction {
    fn order(&self, leaves: bool) -> Request {
        Request::SetDevice(SetDevice { node: self.node.clone(), device: self.device, leaves })
    }

    /// What status says of it.
    fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        let id = self.device.to_string();
        devices(document, &self.node).find(|device| device["id"] == id.as_str())
    }
}

/// The devices of a node, as status shows them.
fn devices<'a>(document: &'a Value, node: &Label) -> impl Iterator<Item = &'a Value> {
    let nodes = document["nodes"].as_array().into_iter().flatten();
    let node = nodes.into_iter().find(|one| one["name"] == node.as_str());
    node.and_then(|node| node["devices"].as_array()).into_iter().flatten()
}

impl World {
    /// Gives an order about what lies where; most of them are taken back.
    pub(super) async fn upkeep(&self, site: usize, order: Upkeep, lasts: Duration) {
        self.0.upkept.set(true);
        let Ok(client) = self.client(site).await else { return };
        // Any of them may go unanswered.
        let tell = async |request: Request| drop(client.control(&request).await);
        match order {
            Upkeep::Scrub(percent) => tell(Request::ScrubStart(percent)).await,
            Upkeep::Rebalance { cancel } => {
                tell(Request::Rebalance(true)).await;
                tokio::time::sleep(lasts).await;
                if cancel {
                    tell(Request::Rebalance(false)).await;
                }
            }
            Upkeep::Geometry { number, back } => {
                let plan = self.sites()[site].borrow().plan;
                // Of several nodes each has one fragment; as many as there were at first are there most of the time.
                let places = if plan.nodes > 1 { plan.nodes } else { plan.devices };
                let most = places.saturating_sub(plan.geometry.parity()).max(1);
                let Some(geometry) = Geometry::new(1 + number % most, plan.geometry.parity()) else { return };
                tell(Request::SetGeometry(geometry)).await;
                tokio::time::sleep(lasts).await;
                if back {
                    tell(Request::SetGeometry(plan.geometry)).await;
                }
            }
            Upkeep::Limit(rate) => {
                tell(Request::RepairLimit(rate)).await;
                tokio::time::sleep(lasts).await;
                tell(Request::RepairLimit(0)).await;
            }
        }
    }

    /// Has a device go; it is taken back later, or not.
    pub(super) async fn evict(&self, place: Place, device: usize, back: bool, lasts: Duration) {
        self.0.upkept.set(true);
        let (Some(node), Ok(client)) = (self.label(place), self.client(place.site).await) else { return };
        let count = self.sites()[place.site].borrow().plan.devices;
        let path = format!("device-{}", device % count);
        let Ok(document) = status(&client).await else { return };
        let found = devices(&document, &node).find(|device| device["path"] == path.as_str());
        let id = found.and_then(|device| device["id"].as_str()).and_then(DeviceId::parse);
        let Some(device) = id else { return };
        let eviction = Eviction { site: place.site, node, device };
        match client.control(&eviction.order(true)).await {
            Err(error @ (ClientError::Refused(_) | ClientError::NotFound(_))) => {
                return self.trace().line(format!("{path} at site {} does not go: {error}", place.site));
            }
            // Whether an order that was not answered was heard is found out in peace.
            _ => drop(self.0.evictions.borrow_mut().insert(eviction.clone(), back)),
        }
        if back {
            tokio::time::sleep(lasts).await;
            drop(client.control(&eviction.order(false)).await);
        }
    }

    /// At peace: nothing is limited or stays where it should not be; devices that were to go have gone, and those that were
    /// taken back are counted on.
    pub(super) async fn end_upkeep(&self) -> Result<(), String> {
        if !self.0.upkept.get() {
            return Ok(());
        }
        for site in 0..self.sites().len() {
            let deadline = Instant::now() + RECOVERY;
            while let Err(error) = self.lift_limits(site).await {
                if Instant::now() > deadline {
                    return Err(format!("at peace, and site {site} does not take orders: {error}"));
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
        let ordered = self.0.evictions.borrow().clone();
        for (eviction, back) in ordered {
            self.end_eviction(&eviction, back).await?;
        }
        Ok(())
    }

    async fn lift_limits(&self, site: usize) -> Result<(), String> {
        let client = self.client(site).await?;
        client.control(&Request::RepairLimit(0)).await.map_err(|error| error.to_string())?;
        match client.control(&Request::Rebalance(true)).await.map_err(|error| error.to_string())? {
            Reply::Rebalancing(silent) if silent.is_empty() => Ok(()),
            Reply::Rebalancing(silent) => Err(format!("not heard by {silent:?}")),
            _ => Err("another answer".into()),
        }
    }

    async fn end_eviction(&self, eviction: &Eviction, back: bool) -> Result<(), String> {
        let is_there = |site: usize| {
            let there = self.sites()[site].borrow();
            there.present().any(|(_, node)| node.label == eviction.node)
        };
        let deadline = Instant::now() + RECOVERY;
        let mut last = String::new();
        // A node that is gone took its devices along.
        while is_there(eviction.site) {
            if Instant::now() > deadline {
                return Err(format!("at peace, and {eviction:?} has not come to its end, back: {back}; {last}"));
            }
            let client = self.client(eviction.site).await?;
            match client.control(&eviction.order(!back)).await {
                // It has gone already.
                Err(ClientError::NotFound(_)) => return Ok(()),
                // The order was not heard, and is not safe now.
                Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Unsafe => return Ok(()),
                Err(error) => last = error.to_string(),
                Ok(_) if back => return Ok(()),
                Ok(_) => {
                    let document = status(&client).await?;
                    match eviction.find(&document) {
                        Some(device) if device["state"] != "evicted" => {
                            last = format!("{device}, {}", document["repair"])
                        }
                        _ => return Ok(()),
                    }
                    if is_full(&document) {
                        return Ok(());
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Whether administrators had anything done to devices.
    pub fn was_upkept(&self) -> bool {
        self.0.upkept.get()
    }

    /// Has a site scrub everything, and answers how many fragments were damaged or could not be read.
    pub async fn scrub(&self, site: usize) -> Result<u64, String> {
        let scrubs = async |client: &Client| {
            let document = status(client).await?;
            let nodes = document["nodes"].as_array().cloned().unwrap_or_default();
            let scrubs = nodes.into_iter().filter(|node| node["state"] == "up").map(|node| node["scrub"].clone());
            Ok::<Vec<Value>, String>(scrubs.collect())
        };
        let client = self.client(site).await?;
        let before = scrubs(&client).await?;
        client.control(&Request::ScrubStart(100)).await.map_err(|error| error.to_string())?;
        let deadline = Instant::now() + RECOVERY;
        loop {
            tokio::time::sleep(AGAIN).await;
            let now = scrubs(&client).await?;
            let is_done =
                |(now, before): (&Value, &Value)| now["begun"] != before["begun"] && now["state"] != "running";
            if now.len() == before.len() && now.iter().zip(&before).all(is_done) {
                let count = |scrub: &Value, what: &str| scrub[what].as_u64().unwrap_or(0);
                let bad = |scrub| count(scrub, "damaged_fragments") + count(scrub, "unreadable_fragments");
                return Ok(now.iter().map(bad).sum());
            }
            if Instant::now() > deadline {
                return Err(format!("site {site} does not come to the end of a scrub: {now:?}"));
            }
        }
    }
}
