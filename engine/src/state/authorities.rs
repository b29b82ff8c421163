//! What the control group agrees on about the site's authority, and who has come along; and whom this site trusts about its
//! peers.
//!
//! A step is taken only when everybody has come along with the one before who could be left behind by it. The rules are here,
//! in the state: whoever leads the group when, and however often an order is repeated, no step is skipped.

use super::control::{ControlView, Kind, Outcome, key};
use super::database::{Change, Table};
use farside_codec::Field;
use farside_codec::authority::{
    Authorities, AuthorityStep, DropAuthority, IntroduceAuthority, NodeStanding, PeerAuthorities, PeerTold,
};
use farside_codec::cluster::{NodeRecord, NodeState};
use farside_codec::identity::{IdentityRecord, IdentityRole};
use farside_codec::ids::{Hlc, Label, NodeId, SiteId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_raft::StateError;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names that are told at most.
const NAMED: usize = 16;

fn keep(change: &Change, view: &mut ControlView, authorities: Authorities) -> Result<(), StateError> {
    change.put(Table::Control, &key(Kind::Authorities, &[]), &authorities.to_bytes())?;
    view.authorities = Some(Arc::new(authorities));
    Ok(())
}

fn refuse(code: RefusalCode, detail: impl Into<String>) -> Outcome {
    Err(Refusal::new(code, detail))
}

/// Begins the way to the next authority. Where the site is on the way already, that goes on.
pub(super) fn introduce(
    change: &Change,
    view: &mut ControlView,
    order: IntroduceAuthority,
) -> Result<Outcome, StateError> {
    let IntroduceAuthority { current, next } = order;
    let before = view.authorities.clone();
    if before.as_ref().is_some_and(|known| known.step != AuthorityStep::Settled) {
        return Ok(Ok(()));
    }
    let issues = before.as_ref().map_or(&current, |known| &known.current);
    if issues.generation != current.generation || issues.certificate != current.certificate {
        return Ok(refuse(RefusalCode::ConditionFailed, "the site's authority was changed meanwhile"));
    }
    if next.generation != current.generation.saturating_add(1) || next.certificate == current.certificate {
        return Ok(refuse(RefusalCode::BadRequest, "this is not the next authority"));
    }
    let step = AuthorityStep::Introduced;
    let counted = before.map_or(0, |known| known.change) + 1;
    keep(change, view, Authorities { change: counted, step, current, other: Some(next) })?;
    Ok(Ok(()))
}

/// Nodes that answer, or could at any moment.
fn working(view: &ControlView) -> impl Iterator<Item = &NodeRecord> {
    view.nodes.values().filter(|node| matches!(node.state, NodeState::Up | NodeState::Draining))
}

/// Who has to come along before the next step.
pub fn waits(view: &ControlView) -> Vec<String> {
    let Some(authorities) = &view.authorities else { return Vec::new() };
    let stands = |node: NodeId| view.standings.get(&node);
    let nodes = working(view).filter(|node| match authorities.step {
        AuthorityStep::Introduced => stands(node.node).is_none_or(|stands| stands.change < authorities.change),
        AuthorityStep::Issuing | AuthorityStep::Settled => stands(node.node).is_none_or(|stands| {
            stands.change < authorities.change || stands.generation != authorities.current.generation
        }),
    });
    let told = |peer: &SiteId| view.peers_told.get(peer).is_some_and(|told| told.change >= authorities.change);
    let peers = view.peers.values().filter(|peer| !told(&peer.site)).map(|peer| format!("peer {}", peer.name));
    nodes.map(|node| node.name.to_string()).chain(peers).collect()
}

/// Who would be cut off if the authority before were trusted no more.
pub fn depends(view: &ControlView, time: Hlc) -> Vec<String> {
    let Some(authorities) = view.authorities.as_ref().filter(|known| known.step == AuthorityStep::Issuing) else {
        return Vec::new();
    };
    let generation = authorities.current.generation;
    let behind = |node: &&NodeRecord| {
        let stands = view.standings.get(&node.node);
        node.state != NodeState::Removed
            && stands.is_none_or(|stands| stands.generation != generation || stands.change < authorities.change)
    };
    let nodes = view.nodes.values().filter(behind).map(|node| format!("node {}", node.name));
    // Peers do not: none was left out when the next authority began to issue.
    let theirs = |record: &&IdentityRecord| {
        record.is_live(time)
            && matches!(record.role, IdentityRole::Operator | IdentityRole::Client(_) | IdentityRole::Invitation)
    };
    // Whoever has another one under the same name has come along.
    let renewed: BTreeSet<(&str, &Label)> = (view.identities.values().filter(theirs))
        .filter(|record| record.authority == generation && record.role != IdentityRole::Invitation)
        .map(|record| (record.role.as_str(), &record.name))
        .collect();
    let shown =
        view.identities.values().filter(theirs).filter(|record| {
            record.authority != generation && !renewed.contains(&(record.role.as_str(), &record.name))
        });
    let shown = shown.map(|record| format!("{} {}", record.role.as_str(), record.name));
    nodes.chain(shown).collect()
}

/// Names, as many as can be read.
fn told(names: &[String]) -> String {
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "))
}

/// From here on the next authority issues. Said of a step that is over it does nothing.
pub(super) fn step(change: &Change, view: &mut ControlView, of: u64) -> Result<Outcome, StateError> {
    let Some(known) = view.authorities.clone().filter(|known| known.step == AuthorityStep::Introduced) else {
        return Ok(Ok(()));
    };
    if known.change != of {
        return Ok(Ok(()));
    }
    let waits = waits(view);
    if !waits.is_empty() {
        return Ok(refuse(RefusalCode::Unsafe, format!("not everybody trusts the next authority: {}", told(&waits))));
    }
    let Authorities { current, other, .. } = (*known).clone();
    let Some(next) = other else { return Ok(refuse(RefusalCode::Internal, "there is no next authority")) };
    let step = AuthorityStep::Issuing;
    keep(change, view, Authorities { change: of + 1, step, current: next, other: Some(current) })?;
    Ok(Ok(()))
}

/// Trusts the authority before no more.
pub(super) fn drop_old(change: &Change, view: &mut ControlView, order: DropAuthority) -> Result<Outcome, StateError> {
    let known = match view.authorities.clone() {
        Some(known) if known.step == AuthorityStep::Issuing && known.change == order.change => known,
        // Done before.
        Some(known) if known.change > order.change => return Ok(Ok(())),
        _ => return Ok(refuse(RefusalCode::Unsafe, "there is no authority that could be dropped")),
    };
    let depends = depends(view, order.time);
    if !depends.is_empty() && !order.force {
        return Ok(refuse(
            RefusalCode::Unsafe,
            format!(
                "the authority before is still needed by {}: give them new identities, or insist with --force",
                told(&depends)
            ),
        ));
    }
    let (step, current) = (AuthorityStep::Settled, known.current.clone());
    keep(change, view, Authorities { change: order.change + 1, step, current, other: None })?;
    Ok(Ok(()))
}

/// A node has come along. What it said before of an earlier step does not count any more.
pub(super) fn stand(change: &Change, view: &mut ControlView, standing: NodeStanding) -> Result<Outcome, StateError> {
    if !view.nodes.contains_key(&standing.node) {
        return Ok(refuse(RefusalCode::NotFound, format!("there is no node {}", standing.node)));
    }
    if view.standings.get(&standing.node).is_some_and(|known| known.change > standing.change) {
        return Ok(Ok(()));
    }
    let row = key(Kind::NodeStanding, &standing.node.0.to_be_bytes());
    change.put(Table::Control, &row, &standing.to_bytes())?;
    view.standings.insert(standing.node, standing);
    Ok(Ok(()))
}

/// A peer has come along.
pub(super) fn tell(change: &Change, view: &mut ControlView, told: PeerTold) -> Result<Outcome, StateError> {
    if !view.peers.contains_key(&told.peer) {
        return Ok(refuse(RefusalCode::NotFound, "there is no such peer"));
    }
    if view.peers_told.get(&told.peer).is_some_and(|known| known.change >= told.change) {
        return Ok(Ok(()));
    }
    change.put(Table::Control, &key(Kind::PeerTold, &told.peer.0), &told.to_bytes())?;
    view.peers_told.insert(told.peer, told);
    Ok(Ok(()))
}

/// A peer says whom to trust about it from now on.
pub(super) fn trust_peer(
    change: &Change,
    view: &mut ControlView,
    said: PeerAuthorities,
) -> Result<Outcome, StateError> {
    let bytes: usize = said.certificates.iter().map(|certificate| certificate.len()).sum();
    if said.certificates.is_empty() || said.certificates.len() > 2 || bytes > MAX_CERTIFICATES_BYTES {
        return Ok(refuse(RefusalCode::BadRequest, "a site has one authority, or two"));
    }
    if !view.peers.contains_key(&said.site) {
        return Ok(refuse(RefusalCode::Forbidden, "there is no such peer"));
    }
    if view.peer_authorities.get(&said.site).is_some_and(|known| known.change >= said.change) {
        return Ok(Ok(()));
    }
    change.put(Table::Control, &key(Kind::PeerAuthorities, &said.site.0), &said.to_bytes())?;
    view.peer_authorities.insert(said.site, said);
    Ok(Ok(()))
}

/// Bytes of a peer's certificates: ours have some 400.
const MAX_CERTIFICATES_BYTES: usize = 16 << 10;

/// Forgets what was said to a peer and by it: it was removed, or has joined anew with an authority of which nothing was said.
pub(super) fn forget_peer(change: &Change, view: &mut ControlView, peer: SiteId) -> Result<(), StateError> {
    if view.peers_told.remove(&peer).is_some() {
        change.remove(Table::Control, &key(Kind::PeerTold, &peer.0))?;
    }
    if view.peer_authorities.remove(&peer).is_some() {
        change.remove(Table::Control, &key(Kind::PeerAuthorities, &peer.0))?;
    }
    Ok(())
}
