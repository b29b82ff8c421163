//! What nodes hold of a chunk, and what is to be done about it so that it is whole and cut as the site cuts chunks: pure, from what
//! they say and from the placement map.

use crate::cluster::spread::{Held, Mending, mend};
use crate::state::ControlView;
use farside_codec::cluster::{HeldFragments, NodeState};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId};
use std::collections::BTreeSet;

/// What nodes hold of a chunk, for each way in which it is cut.
#[derive(Default)]
pub(super) struct Found(Vec<FoundStripe>);

/// What nodes hold of one of its stripes.
pub(super) struct FoundStripe {
    /// How it is cut.
    pub(super) geometry: Geometry,
    /// Bytes of the sealed chunk.
    pub(super) sealed_bytes: u32,
    /// Which fragments lie where.
    pub(super) held: Held,
}

impl FoundStripe {
    /// Distinct fragments above those that are needed to read it; `None`: there are fewer.
    pub(super) fn spare(&self) -> Option<usize> {
        let distinct: BTreeSet<u8> = self.held.values().flatten().copied().collect();
        distinct.len().checked_sub(self.geometry.data())
    }
}

impl Found {
    /// What nodes say of one chunk.
    pub(super) fn of_chunk(held: Vec<(NodeId, HeldFragments)>) -> Self {
        let mut found = Self::default();
        held.into_iter().for_each(|(node, one)| found.add(node, one));
        found
    }

    /// Adds what a node says.
    pub(super) fn add(&mut self, node: NodeId, one: HeldFragments) {
        let HeldFragments { geometry, sealed_bytes, fragments, .. } = one;
        let alike = |stripe: &FoundStripe| (stripe.geometry, stripe.sealed_bytes) == (geometry, sealed_bytes);
        let at = self.0.iter().position(alike).unwrap_or_else(|| {
            self.0.reserve_exact(1);
            self.0.push(FoundStripe { geometry, sealed_bytes, held: Held::new() });
            self.0.len() - 1
        });
        self.0[at].held.entry(node).or_default().extend(fragments);
    }

    /// The stripe that is cut this way.
    pub(super) fn of(&self, geometry: Geometry) -> Option<&FoundStripe> {
        self.0.iter().find(|stripe| stripe.geometry == geometry)
    }

    /// The most redundant stripe of those that can be read.
    pub(super) fn best(&self) -> Option<&FoundStripe> {
        self.0.iter().filter(|stripe| stripe.spare().is_some()).max_by_key(|stripe| stripe.spare())
    }

    /// Stripes that are cut another way.
    pub(super) fn others(&self, geometry: Geometry) -> impl Iterator<Item = &FoundStripe> {
        self.0.iter().filter(move |stripe| stripe.geometry != geometry)
    }

    /// How the chunk is to be cut: this way, unless too few devices are left for that, or a node is silent: what that has could
    /// not be let go of, and both stripes would stay. Then it is kept as it is.
    pub(super) fn target(&self, view: &ControlView, chunk: &ChunkId, geometry: Geometry, all_said: bool) -> Geometry {
        let Some(best) = self.best().filter(|best| best.geometry != geometry) else { return geometry };
        let places = view.map.nodes(chunk, geometry.total()).into_iter().flatten().count();
        let is_begun = self.of(geometry).is_some_and(|stripe| stripe.spare().is_some());
        match places < geometry.total() || !all_said && !is_begun {
            true => best.geometry,
            false => geometry,
        }
    }

    /// Fragments of other stripes than this one that are to leave nodes that are not counted on for long.
    pub(super) fn leaving(
        &self,
        view: &ControlView,
        chunk: &ChunkId,
        but: Geometry,
        answered: &BTreeSet<NodeId>,
    ) -> Vec<(&FoundStripe, Mending)> {
        let is_up = |node: &NodeId| view.nodes.get(node).is_some_and(|node| node.state == NodeState::Up);
        let moves_of = |stripe: &FoundStripe| {
            let mut moves = self.mending(view, chunk, stripe.geometry, answered).moves;
            moves.retain(|(_, from, _)| !is_up(from));
            moves
        };
        let moves = self.others(but).map(|stripe| (stripe, moves_of(stripe))).filter(|(_, moves)| !moves.is_empty());
        moves.map(|(stripe, moves)| (stripe, Mending { moves, ..Mending::default() })).collect()
    }

    /// What is to be done so that the chunk is whole, cut this way.
    pub(super) fn mending(
        &self,
        view: &ControlView,
        chunk: &ChunkId,
        geometry: Geometry,
        answered: &BTreeSet<NodeId>,
    ) -> Mending {
        let slots = view.map.nodes(chunk, geometry.total());
        mend(&slots, self.of(geometry).map_or(&Held::new(), |stripe| &stripe.held), answered)
    }

    /// All of them, to be told.
    pub(super) fn told(&self) -> Vec<(String, &Held)> {
        self.0.iter().map(|stripe| (stripe.geometry.to_string(), &stripe.held)).collect()
    }
}
