//! The placement map of a site: every device of every node with its history, and which node gets which fragment.
//!
//! [`crate::placement`] draws; this says between whom. A failure domain is a rack where a node was told one, else the node.

use crate::placement::{Draw, MapDevice, mix, most_per_domain, stripe};
use farside_codec::cluster::NodeRecord;
use farside_codec::ids::{ChunkId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// The map, made anew whenever the control group changes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacementMap {
    devices: Vec<MapDevice>,
    owners: Vec<NodeId>,
    domains: BTreeMap<NodeId, u32>,
    takers: BTreeSet<NodeId>,
}

/// The failure domain of each node: racks are numbered by the first node in them.
pub fn domains<'a>(nodes: impl Iterator<Item = &'a NodeRecord> + Clone) -> BTreeMap<NodeId, u32> {
    let first_in = |node: &NodeRecord| match &node.rack {
        None => node.node,
        Some(rack) => {
            let inside = nodes.clone().filter(|other| other.rack.as_ref() == Some(rack)).map(|other| other.node);
            inside.min().unwrap_or(node.node)
        }
    };
    nodes.clone().map(|node| (node.node, first_in(node).0 as u32)).collect()
}

impl PlacementMap {
    /// The map of these nodes.
    pub fn new<'a>(nodes: impl Iterator<Item = &'a NodeRecord> + Clone) -> Self {
        let domains = domains(nodes.clone());
        let mut map = Self { domains, ..Self::default() };
        for node in nodes {
            let domain = map.domains[&node.node];
            for device in &node.devices {
                if device.left.is_none() && device.bytes > 0 {
                    map.takers.insert(node.node);
                }
                map.owners.push(node.node);
                map.devices.push(MapDevice {
                    device: device.device,
                    domain,
                    weight: device.bytes,
                    joined: device.joined,
                    left: device.left,
                });
            }
        }
        map
    }

    /// The node that should hold each fragment of a stripe; `None` where there are too few devices.
    pub fn nodes(&self, chunk: &ChunkId, fragments: usize) -> Vec<Option<NodeId>> {
        let slots = stripe(chunk, fragments, &self.devices);
        slots.into_iter().map(|slot| slot.map(|at| self.owners[at])).collect()
    }

    /// Nodes with devices that take fragments now.
    pub fn takers(&self) -> &BTreeSet<NodeId> {
        &self.takers
    }

    /// How many fragments of one stripe find a device of their own now, where a domain holds no more than its part.
    pub fn places(&self, fragments: usize) -> usize {
        let mut devices: BTreeMap<u32, usize> = BTreeMap::new();
        let takes = self.devices.iter().zip(&self.owners).filter(|(device, _)| device.left.is_none());
        for (_, owner) in takes.filter(|(_, owner)| self.takers.contains(owner)) {
            *devices.entry(self.domain(*owner)).or_default() += 1;
        }
        let most = self.most(fragments);
        devices.into_values().map(|devices| devices.min(most)).sum()
    }

    /// Nodes with devices that take fragments now, the best draws for a chunk first.
    pub fn ranked(&self, chunk: &ChunkId) -> Vec<NodeId> {
        let takes = self.devices.iter().zip(&self.owners).filter(|(device, _)| device.left.is_none());
        let mut draws: Vec<(Draw, NodeId)> =
            takes.filter_map(|(device, owner)| Some((Draw::of(chunk, device)?, *owner))).collect();
        draws.sort_unstable_by(|a, b| b.cmp(a));
        let mut seen = BTreeSet::new();
        draws.into_iter().map(|(_, owner)| owner).filter(|owner| seen.insert(*owner)).collect()
    }

    /// The node that looks after a chunk: it finds out what others hold of it, and mends that.
    pub fn keeper(&self, chunk: &ChunkId) -> Option<NodeId> {
        self.takers.iter().copied().max_by_key(|node| (node_draw(chunk, *node), *node))
    }

    /// The failure domain of a node.
    pub fn domain(&self, node: NodeId) -> u32 {
        self.domains.get(&node).copied().unwrap_or(node.0 as u32)
    }

    /// Fragments of one stripe that one domain may hold.
    pub fn most(&self, fragments: usize) -> usize {
        let domains: BTreeSet<u32> = self.takers.iter().map(|node| self.domain(*node)).collect();
        most_per_domain(fragments, domains.len())
    }
}

/// How a node does in the draw for who looks after a chunk.
fn node_draw(chunk: &ChunkId, node: NodeId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = chunk.0;
    mix(mix(u64::from_le_bytes([a, b, c, d, e, f, g, h])) ^ node.0)
}
