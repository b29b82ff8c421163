//! Which node of a site is asked: where each stands, as a plain value that is told what came of every attempt.
//!
//! Every node answers every request, so any choice is right and some are cheap. A chunk is asked for at the node that it
//! draws by rendezvous (Thaler and Ravishankar 1998), so that chunks spread, and each has one coordinator whoever asks.
//! All else sticks to the node that answered last. A node that is silent is put aside until it has answered a probe: a
//! second wait for it would cost as much as the first one did. One that said "not now" is put aside for some time, for
//! the kind of request that it refused. Each time is twice as long as the last, until the node has been of use again.
//!
//! Invariant: while a node is known that was not tried yet, one is chosen; being put aside only moves a node back in line.

use farside_codec::ids::{ChunkId, GroupId, LogId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a node is put aside at first: less than an election takes, more than a few requests.
pub const FIRST_REST: Duration = Duration::from_millis(500);
/// How long at most: a node that is back is used again within this.
pub const LAST_REST: Duration = Duration::from_secs(5);
/// How long a probe may take; meanwhile no second one is sent.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// Nodes known at a time: a site of fifty, some of which have two addresses.
pub const MAX_NODES: usize = 128;

/// What a request is about, which says where it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A chunk.
    Chunk(ChunkId),
    /// A log.
    Log(LogId),
    /// The site, or nothing in particular.
    Any,
}

impl Target {
    /// The shard that is asked, on a node with `shards` of them at a site with `groups` log groups.
    pub fn shard(self, shards: u16, groups: u32) -> u16 {
        match self {
            Self::Chunk(chunk) => chunk.shard(shards),
            Self::Log(log) => GroupId::of_log(log, groups).shard(shards),
            Self::Any => 0,
        }
    }

    fn lane(self) -> usize {
        usize::from(matches!(self, Self::Chunk(_)))
    }

    /// What a node draws for this target. The greatest draw is asked first.
    fn draw(self, address: SocketAddr) -> u64 {
        let mut hasher = blake3::Hasher::new();
        match self {
            Self::Chunk(chunk) => hasher.update(&chunk.0),
            Self::Log(log) => hasher.update(&log.0),
            Self::Any => &mut hasher,
        };
        match address.ip() {
            std::net::IpAddr::V4(ip) => hasher.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => hasher.update(&ip.octets()),
        };
        hasher.update(&address.port().to_le_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(first)
    }
}

/// A time for which a node is put aside.
#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    span: Duration,
    until: Option<Duration>,
}

impl Rest {
    /// Of several attempts that fail together, the first one counts.
    fn begin(&mut self, now: Duration, least: Duration) {
        if self.until.is_none_or(|until| until <= now) {
            self.span = (self.span * 2).clamp(FIRST_REST, LAST_REST);
            self.until = Some(now + self.span.max(least).min(LAST_REST));
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    has_answered: bool,
    /// Until when it is not even probed. Only an answer ends this.
    silent: Rest,
    /// By lane: of chunks, and of all else.
    refused: [Rest; 2],
}

impl Standing {
    /// 0: nothing speaks against it. 1: it said "not now". 2: it is silent.
    fn tier(&self, target: Target, now: Duration) -> u8 {
        match (self.silent.until, self.refused[target.lane()].until) {
            (Some(_), _) => 2,
            (None, Some(until)) if until > now => 1,
            _ => 0,
        }
    }
}

/// The nodes of a site, by the address of their first shard.
#[derive(Debug, Default)]
pub struct Route {
    nodes: BTreeMap<SocketAddr, Standing>,
    favourite: Option<SocketAddr>,
}

impl Route {
    /// Knows these nodes, as far as there is room, and nothing about them.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut route = Self::default();
        addresses.into_iter().for_each(|address| route.add(address));
        route
    }

    fn add(&mut self, address: SocketAddr) {
        if self.nodes.len() < MAX_NODES {
            self.nodes.entry(address).or_default();
        }
    }

    /// The nodes of the site are these. One that is not among them stays only if it is answering: it may be an address
    /// that only this client has for one of them. A site that names no node changes nothing.
    pub fn learn(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let listed: BTreeSet<SocketAddr> = addresses.into_iter().collect();
        if listed.is_empty() {
            return;
        }
        let is_answering = |node: &Standing| node.has_answered && node.silent.until.is_none();
        self.nodes.retain(|address, node| listed.contains(address) || is_answering(node));
        listed.into_iter().for_each(|address| self.add(address));
        self.favourite = self.favourite.filter(|favourite| self.nodes.contains_key(favourite));
    }

    /// Whether there is such a node.
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.nodes.contains_key(&address)
    }

    /// Whether more than one node is known.
    pub fn has_several(&self) -> bool {
        self.nodes.len() > 1
    }

    /// Whether there is a node beside those that were `tried`.
    pub fn has_more(&self, tried: &BTreeSet<SocketAddr>) -> bool {
        self.nodes.keys().any(|address| !tried.contains(address))
    }

    /// Where `target` is asked next; `None` once every node was `tried`.
    pub fn choose(&self, target: Target, tried: &BTreeSet<SocketAddr>, now: Duration) -> Option<SocketAddr> {
        let is_other = |address: SocketAddr| target.lane() == Target::Any.lane() && self.favourite != Some(address);
        let left = self.nodes.iter().filter(|(address, _)| !tried.contains(address));
        let best = left.min_by_key(|(address, node)| {
            (node.tier(target, now), is_other(**address), Reverse(target.draw(**address)))
        });
        best.map(|(address, _)| *address)
    }

    /// The node answered what was asked about `target`.
    pub fn answered(&mut self, address: SocketAddr, target: Target) {
        let Some(node) = self.nodes.get_mut(&address) else { return };
        node.has_answered = true;
        node.silent = Rest::default();
        node.refused[target.lane()] = Rest::default();
        if target.lane() == Target::Any.lane() {
            self.favourite = Some(address);
        }
    }

    /// The node said nothing, or its connection failed.
    pub fn silent(&mut self, address: SocketAddr, now: Duration) {
        if let Some(node) = self.nodes.get_mut(&address) {
            node.silent.begin(now, Duration::ZERO);
        }
    }

    /// The node said "not now", and perhaps when to come again.
    pub fn refused(&mut self, address: SocketAddr, target: Target, now: Duration, retry_after: Duration) {
        if let Some(node) = self.nodes.get_mut(&address) {
            // Whoever refuses is there.
            node.silent.until = None;
            node.refused[target.lane()].begin(now, retry_after);
        }
    }

    /// Silent nodes whose time is over. They are to be probed now, and [`Route::probed`] waits for what comes of it.
    pub fn due(&mut self, now: Duration) -> Vec<SocketAddr> {
        let is_due = |node: &Standing| node.silent.until.is_some_and(|until| until <= now);
        let due = self.nodes.iter_mut().filter(|(_, node)| is_due(node));
        due.map(|(address, node)| {
            node.silent.until = Some(now + 2 * PROBE_PATIENCE);
            *address
        })
        .collect()
    }

    /// What came of a probe. One that answers is used again, but has not been of use yet.
    pub fn probed(&mut self, address: SocketAddr, answers: bool, now: Duration) {
        // An answer that came by itself meanwhile has ended its silence already.
        let Some(node) = self.nodes.get_mut(&address).filter(|node| node.silent.until.is_some()) else { return };
        node.silent.until = None;
        if !answers {
            node.silent.begin(now, Duration::ZERO);
        }
    }
}
