//! An election that two sides contest: they hear one another only through one node, whose vote decides, and which loses
//! power in the very moment in which it has voted.
//!
//! Whoever got that vote leads, and is not heard for a while. If the vote was not durable when it was cast, the node
//! gives another one to the other side, in the same term: two nodes lead, and what one of them has committed the other
//! overrules.

use super::history::{World, note};
use super::room::End;
use farside_codec::ids::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;

/// Longer than a silent node waits before it stands.
const ELECTION: Duration = Duration::from_secs(2);

impl World {
    /// Mostly it is the leader that stands between the sides: when it goes, both stand.
    pub(super) async fn contest(&self) {
        let dice = &self.room.dice;
        let leads = |id: &NodeId| self.room.group(*id).is_some_and(|group| group.is_leader());
        let Some(leader) = self.ids().into_iter().find(leads) else { return };
        let voters = self.room.group(leader).map(|group| group.status().voters).unwrap_or_default();
        let bridge = if dice.percent(80) { leader } else { self.any() };
        self.room.heal();
        self.divide(bridge, &voters);
        let mut votes = self.room.hear_votes();
        self.lose_power(bridge).await;
        for _ in 0..dice.between(1, 3) {
            let next = async {
                loop {
                    match votes.recv().await {
                        Some(vote) if vote.voter == bridge => return vote.candidate,
                        Some(_) => {}
                        None => std::future::pending().await,
                    }
                }
            };
            let Ok(candidate) = tokio::time::timeout(ELECTION, next).await else { break };
            note!(self, "node {bridge} has voted for {candidate}, which it does not hear now");
            self.room.cuts.borrow_mut().insert((candidate, bridge));
            self.lose_power(bridge).await;
            tokio::time::sleep(Duration::from_millis(dice.below(2000))).await;
            self.room.cuts.borrow_mut().remove(&(candidate, bridge));
        }
        if dice.percent(70) {
            tokio::time::sleep(Duration::from_millis(dice.below(500))).await;
            note!(self, "the sides are one again");
            self.room.heal();
        }
    }

    async fn lose_power(&self, id: NodeId) {
        note!(self, "node {id} loses power");
        self.room.end(id, End::PowerCut).await;
        self.room.start(id);
    }

    /// Cuts the nodes but for the bridge into two sides with as many voters each, or one more.
    fn divide(&self, bridge: NodeId, voters: &BTreeSet<NodeId>) {
        let others: Vec<NodeId> = self.ids().into_iter().filter(|id| *id != bridge).collect();
        let mut drawn: Vec<NodeId> =
            self.room.dice.sample(others.len(), others.len()).into_iter().map(|at| others[at]).collect();
        drawn.sort_by_key(|id| !voters.contains(id));
        let side = |at: usize| drawn.iter().skip(at).step_by(2).copied().collect::<Vec<_>>();
        let (one, other) = (side(0), side(1));
        note!(self, "{one:?} and {other:?} hear one another only through node {bridge}");
        let mut cuts = self.room.cuts.borrow_mut();
        for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (*from, *to))) {
            cuts.extend([(from, to), (to, from)]);
        }
    }
}
