//! A simulated site: its nodes, and how clients find them.

use super::host::Host;
use super::node::SimNode;
use super::trace::Trace;
use farside::client::{Client, ClientError, ClientSettings, Context};
use farside::node::NodeError;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{Label, SiteId};
use std::path::{Path, PathBuf};

/// A site.
pub struct SimSite {
    /// Its name.
    pub name: Label,
    /// Its nodes, those that are gone among them.
    pub nodes: Vec<SimNode>,
    /// What it is made of.
    pub plan: Plan,
    /// Below which its nodes have their directories.
    root: PathBuf,
    context: Context,
}

/// What a site is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Its name.
    pub name: &'static str,
    /// How its chunks are cut.
    pub geometry: Geometry,
    /// Nodes that it has once it has grown.
    pub nodes: usize,
    /// Devices of each node.
    pub devices: usize,
    /// Shards of each node.
    pub shards: usize,
    /// Seconds between two GC barriers.
    pub gc_seconds: u64,
    /// Whether its peer is asked for what it has lost: where nothing can be lost that would hide what should not be.
    pub refetch: bool,
    /// Bytes of a segment, where they are not left to the engine: small ones fill up, and are compacted.
    pub segment_bytes: Option<u32>,
    /// Devices are so small that they fill up.
    pub cramped: bool,
}

impl SimSite {
    /// Makes the site of one node in `root`; it does not run yet.
    pub async fn make(root: &Path, plan: Plan, host: Host, seed: u64, trace: Trace) -> Result<Self, NodeError> {
        let (node, context) = SimNode::found(&root.join(plan.name), &plan, host, seed, trace).await?;
        let name = context.site_name.clone();
        Ok(Self { name, nodes: vec![node], plan, root: root.to_owned(), context })
    }

    /// Its id.
    pub fn id(&self) -> SiteId {
        self.context.site
    }

    /// Where a node that joins has its directory.
    pub fn directory(&self, number: u8) -> PathBuf {
        self.root.join(format!("{}-{number}", self.plan.name))
    }

    /// Starts every node.
    pub fn start(&mut self) {
        self.nodes.iter_mut().for_each(SimNode::start);
    }

    /// Whether any node was started and has not ended.
    pub fn runs(&self) -> bool {
        self.nodes.iter().any(SimNode::runs)
    }

    /// Nodes that are not gone, by their place.
    pub fn present(&self) -> impl Iterator<Item = (usize, &SimNode)> {
        self.nodes.iter().enumerate().filter(|(_, node)| !node.gone)
    }

    /// When the site came back from nothing at all, in milliseconds of simulated time; of several nodes some may have been
    /// there all the while.
    pub fn starts(&self) -> &[u64] {
        match self.nodes.as_slice() {
            [alone] => &alone.starts,
            _ => &[],
        }
    }

    /// Connects an administrator on `host`, who knows the tenants' KMS at `kms` and where each node is.
    pub fn connect(
        &self,
        host: &Host,
        kms: &Path,
        tenants: &[&Label],
    ) -> impl Future<Output = Result<Client, ClientError>> + use<> {
        let mut settings = ClientSettings::in_memory();
        let url = format!("file:{}", kms.display());
        tenants.iter().for_each(|tenant| settings.set_kms(tenant, &url));
        let endpoints = self.present().map(|(_, node)| node.endpoint()).collect();
        let (machine, context) = (host.machine(), Context { endpoints, ..self.context.clone() });
        async move { Client::connect_from(machine, &context, settings).await }
    }

    /// Bytes of the shards' arenas that somebody holds.
    pub fn held_bytes(&self) -> usize {
        self.nodes.iter().map(SimNode::held_bytes).sum()
    }

    /// Why the last start of a node came to nothing, if it did.
    pub fn trouble(&self) -> Option<String> {
        self.nodes.iter().find_map(SimNode::trouble)
    }
}
