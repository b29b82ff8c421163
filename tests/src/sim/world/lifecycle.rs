//! Nodes of a site that come and go: they join, are drained, taken out, and lost for good.

use super::super::faults::Place;
use super::super::host::Host;
use super::super::node::{End, SimNode};
use super::{RECOVERY, World};
use farside::client::ClientError;
use farside_codec::cluster::NodeState;
use farside_codec::ids::Label;
use farside_codec::message::{Reply, Request, SetNode};
use std::time::Duration;
use tokio::time::Instant;

/// Nodes of a site at most, those that are gone among them.
const MOST_NODES: usize = 8;
/// How long a drained node is waited for that is to be taken out.
const EMPTY: Duration = Duration::from_secs(15);
/// How long an administrator waits before asking again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often an administrator has another node join where something comes in between.
const JOIN_TRIES: u32 = 3;
/// Once all nodes are there, until every group has its voters.
const GROUPS: Duration = Duration::from_secs(10);

/// Voters of a group in a site of so many nodes.
fn voters(nodes: usize) -> usize {
    match nodes {
        0..3 => 1,
        3..5 => 3,
        _ => 5,
    }
}

impl World {
    /// Has a site that has just begun grow to all its nodes, and waits until they carry it together.
    pub(super) async fn grow_up(&self, site: usize) -> Result<(), String> {
        let count = self.sites()[site].borrow().plan.nodes;
        if count == 1 {
            return Ok(());
        }
        for _ in 1..count {
            self.add_node(site).await?;
        }
        let deadline = Instant::now() + RECOVERY;
        loop {
            let client = self.client(site).await?;
            let Ok(Reply::Status(document)) = client.control(&Request::Status).await else { continue };
            let document: serde_json::Value = serde_json::from_slice(&document).map_err(|error| error.to_string())?;
            let nodes = document["nodes"].as_array().cloned().unwrap_or_default();
            let up = nodes.iter().filter(|node| node["state"] == "up").count();
            let voting = document["control"]["voters"].as_array().map_or(0, Vec::len);
            if up == count && voting == voters(count) {
                tokio::time::sleep(GROUPS).await;
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the nodes of site {site} don't come together: {document}"));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Invites a node, has it join, and starts it.
    async fn add_node(&self, site: usize) -> Result<(), String> {
        let client = self.client(site).await?;
        let token = match client.control(&Request::NodeToken(None)).await.map_err(|error| error.to_string())? {
            Reply::Token(token) => token,
            _ => return Err("no token".into()),
        };
        let number = self.0.hosts.replace(self.0.hosts.get() + 1);
        let host = Host::new(number, self.0.random.next_u64(), &self.0.network);
        let seed = self.0.random.next_u64();
        let (plan, directory) = {
            let there = self.sites()[site].borrow();
            (there.plan, there.directory(number))
        };
        let node = SimNode::join(&directory, &plan, &token, host, seed, self.trace().clone()).await;
        let mut node = node.map_err(|error| error.to_string())?;
        node.start();
        self.sites()[site].borrow_mut().nodes.push(node);
        Ok(())
    }

    /// The same while anything may come in between: an administrator invites anew.
    async fn try_to_add(&self, site: usize) {
        for _ in 0..JOIN_TRIES {
            match self.add_node(site).await {
                Ok(()) => return,
                Err(error) => self.trace().line(format!("no node joins site {site}: {error}")),
            }
        }
    }

    /// Another node joins.
    pub(super) async fn grow(&self, site: usize) {
        let (plan, there) = (self.sites()[site].borrow().plan, self.sites()[site].borrow().nodes.len());
        // A site that was to have one node has all its fragments there.
        if plan.nodes > 1 && there < MOST_NODES {
            self.try_to_add(site).await;
        }
    }

    async fn set_node(&self, site: usize, name: &Label, state: NodeState) -> Result<(), String> {
        let client = self.client(site).await?;
        let set = SetNode { name: name.clone(), state };
        client.control(&Request::SetNode(set)).await.map(drop).map_err(|error: ClientError| error.to_string())
    }

    pub(super) fn label(&self, Place { site, node }: Place) -> Option<Label> {
        let there = self.sites()[site].borrow();
        there.nodes.get(node).filter(|node| !node.gone).map(|node| node.label.clone())
    }

    /// Drains a node; takes it out once it is empty, if that is wanted and it is in time, and back otherwise.
    pub(super) async fn drain(&self, place: Place, out: bool, lasts: Duration) {
        let Some(label) = self.label(place) else { return };
        if let Err(error) = self.set_node(place.site, &label, NodeState::Draining).await {
            return self.trace().line(format!("{label} of site {} is not drained: {error}", place.site));
        }
        let deadline = Instant::now() + if out { lasts.max(EMPTY) } else { lasts };
        while Instant::now() < deadline && !self.shared().over.get() {
            tokio::time::sleep(AGAIN).await;
            if out && self.set_node(place.site, &label, NodeState::Removed).await.is_ok() {
                self.take_away(place).await;
                return self.try_to_add(place.site).await;
            }
        }
        // Whether this is heard or not: peace asks who was left in between.
        drop(self.set_node(place.site, &label, NodeState::Up).await);
    }

    /// Ends a node for good. What it held may be gone with it.
    async fn take_away(&self, place: Place) {
        let turn = self.turn(place);
        let _turn = turn.lock().await;
        self.end(place, End::Kill).await;
        self.sites()[place.site].borrow_mut().nodes[place.node].lose();
    }

    /// A node is lost with everything that it had, if the site can bear that, and another one joins.
    pub(super) async fn lose(&self, place: Place) {
        let left = &self.0.losses[place.site];
        if self.label(place).is_none() || left.get() == 0 {
            return;
        }
        left.set(left.get() - 1);
        self.take_away(place).await;
        self.try_to_add(place.site).await;
    }

    /// At peace: who is drained is taken back, who was lost is taken out, as soon as others have what it had.
    pub(super) async fn settle_membership(&self, site: usize) -> Result<(), String> {
        if self.sites()[site].borrow().plan.nodes == 1 {
            return Ok(());
        }
        let deadline = Instant::now() + RECOVERY;
        loop {
            let left = self.out_of_place(site).await;
            if left.as_ref().is_ok_and(Vec::is_empty) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let repair = match self.client(site).await?.control(&Request::Status).await {
                    Ok(Reply::Status(document)) => serde_json::from_slice(&document).unwrap_or_default(),
                    _ => serde_json::Value::Null,
                };
                let repair = &repair["repair"];
                return Err(format!(
                    "at peace, and nodes of site {site} can't be taken out or back: {left:?}; {repair}"
                ));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Takes a step for each node that is not where it should be; says which those are, and what came of it.
    async fn out_of_place(&self, site: usize) -> Result<Vec<String>, String> {
        let client = self.client(site).await?;
        let known = match client.control(&Request::Nodes).await.map_err(|error| error.to_string())? {
            Reply::Nodes(known) => known,
            _ => return Err("no nodes".into()),
        };
        let mut left = Vec::new();
        for record in known {
            let place = {
                let there = self.sites()[site].borrow();
                there.nodes.iter().position(|node| node.label == record.name).map(|node| Place { site, node })
            };
            let is_there = place.is_some_and(|place| self.label(place).is_some());
            let step = match (&record.state, is_there) {
                (NodeState::Removed, true) => {
                    // Its removal was done, and not answered.
                    if let Some(place) = place {
                        self.take_away(place).await;
                    }
                    continue;
                }
                (NodeState::Up, true) | (NodeState::Removed, false) => continue,
                (NodeState::Draining, true) => self.set_node(site, &record.name, NodeState::Up).await,
                // It is starting, or has not been heard of yet.
                (NodeState::Joining | NodeState::Dead, true) => Ok(()),
                // Lost, or never made because its join was not answered.
                (_, false) => self.set_node(site, &record.name, NodeState::Removed).await,
            };
            left.push(format!("{} is {}: {step:?}", record.name, record.state.as_str()));
        }
        Ok(left)
    }

    /// Whether every node runs with everything that it should have, so that only a start could make it no better.
    pub(super) async fn is_well(&self, site: usize) -> bool {
        if !self.sites()[site].borrow().present().all(|(_, node)| node.runs()) {
            return false;
        }
        let Ok(client) = self.client(site).await else { return false };
        let Ok(Reply::Status(document)) = client.control(&Request::Status).await else { return false };
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(&document) else { return false };
        let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
        let nodes = list(&document["nodes"]).into_iter().filter(|node| node["state"] != "dead");
        let devices: Vec<Vec<serde_json::Value>> = nodes.map(|node| list(&node["devices"])).collect();
        let is_grave = |alert: &serde_json::Value| {
            let text = alert.as_str().unwrap_or_default();
            ["write-ahead log", "has stopped", "state file", "takes no writes", "can't be read"]
                .iter()
                .any(|grave| text.contains(grave))
        };
        devices.iter().all(|devices| !devices.is_empty() && devices.iter().all(|device| device["state"] == "ok"))
            && !list(&document["alerts"]).iter().any(is_grave)
    }
}
