//! The control group's records of peers: who they are, where they are, how fast they are sent chunks.

use super::authorities;
use super::control::{ControlView, Kind, Outcome, exists, full, key};
use super::database::{Change, Table};
use super::limits::{MAX_NODES, MAX_PEER_LIMITS, MAX_PEERS};
use farside_codec::Field;
use farside_codec::ids::{Label, SiteId};
use farside_codec::message::{PeerAction, PeerEndpoints, PeerRecord, Refusal, RefusalCode};
use farside_codec::peer::{PeerHold, PeerLimit};
use farside_raft::StateError;
use std::net::SocketAddr;

pub(super) fn put(change: &Change, view: &mut ControlView, peer: PeerRecord) -> Result<Outcome, StateError> {
    let own = view.site.as_ref().is_some_and(|site| site.name == peer.name || site.site == peer.site);
    if own || view.peer(&peer.name).is_some_and(|known| known.site != peer.site) {
        return Ok(exists(format!("another site is called {} here; two sites of one name can't be peers", peer.name)));
    }
    if view.peers.len() >= MAX_PEERS && !view.peers.contains_key(&peer.site) {
        return Ok(full("peers", MAX_PEERS));
    }
    if view.peers.get(&peer.site).is_none_or(|known| known.certificate != peer.certificate) {
        authorities::forget_peer(change, view, peer.site)?;
    }
    change.put(Table::Control, &key(Kind::Peer, &peer.site.0), &peer.to_bytes())?;
    view.add_peer(peer);
    Ok(Ok(()))
}

/// Whether a peer may say so: addresses that can be called, and no more than a site has nodes.
fn is_callable(endpoints: &[String]) -> bool {
    let callable = |text: &String| {
        text.parse::<SocketAddr>().is_ok_and(|address| !address.ip().is_unspecified() && address.port() != 0)
    };
    (1..=MAX_NODES).contains(&endpoints.len()) && endpoints.iter().all(callable)
}

pub(super) fn move_peer(change: &Change, view: &mut ControlView, said: PeerEndpoints) -> Result<Outcome, StateError> {
    let Some(mut peer) = view.peers.get(&said.site).cloned() else {
        return Ok(Err(Refusal::new(RefusalCode::NotFound, format!("there is no peer {}", said.site))));
    };
    if !is_callable(&said.endpoints) {
        return Ok(Err(Refusal::new(RefusalCode::BadRequest, "these are no addresses at which nodes could be found")));
    }
    if peer.endpoints != said.endpoints {
        peer.endpoints = said.endpoints;
        change.put(Table::Control, &key(Kind::Peer, &peer.site.0), &peer.to_bytes())?;
        view.add_peer(peer);
    }
    Ok(Ok(()))
}

pub(super) fn set(
    change: &Change,
    view: &mut ControlView,
    name: &Label,
    action: PeerAction,
) -> Result<Outcome, StateError> {
    let Some(mut peer) = view.peer(name).cloned() else {
        return Ok(Err(Refusal::new(RefusalCode::NotFound, format!("there is no peer {name}"))));
    };
    match action {
        PeerAction::Remove => {
            change.remove(Table::Control, &key(Kind::Peer, &peer.site.0))?;
            view.peers.remove(&peer.site);
            keep_limits(change, view, peer.site, Vec::new())?;
            keep_hold(change, view, peer.site, PeerHold::UNSAID)?;
            authorities::forget_peer(change, view, peer.site)?;
        }
        PeerAction::Limit(limit) => return set_limit(change, view, peer.site, limit),
        PeerAction::Unlimit => keep_limits(change, view, peer.site, Vec::new())?,
        PeerAction::Hold(hold) => {
            let known = view.hold(peer.site);
            let hold = PeerHold { seconds: hold.seconds.or(known.seconds), bytes: hold.bytes.or(known.bytes) };
            keep_hold(change, view, peer.site, hold)?;
        }
        PeerAction::Unhold => keep_hold(change, view, peer.site, PeerHold::UNSAID)?,
        PeerAction::Pause | PeerAction::Resume => {
            peer.paused = action == PeerAction::Pause;
            change.put(Table::Control, &key(Kind::Peer, &peer.site.0), &peer.to_bytes())?;
            view.add_peer(peer);
        }
    }
    Ok(Ok(()))
}

/// Gives a peer a limit. It takes the place of the one for the same window.
fn set_limit(change: &Change, view: &mut ControlView, site: SiteId, limit: PeerLimit) -> Result<Outcome, StateError> {
    if limit.window.as_ref().is_some_and(|window| !window.is_sound()) {
        return Ok(Err(Refusal::new(RefusalCode::BadRequest, "the window is no part of a day")));
    }
    let mut limits = view.peer_limits.get(&site).cloned().unwrap_or_default();
    limits.retain(|known| known.window != limit.window);
    // Without a window no limit is what holds anyway.
    if limit.rate > 0 || limit.window.is_some() {
        if limits.len() >= MAX_PEER_LIMITS {
            return Ok(full("limits for this peer", MAX_PEER_LIMITS));
        }
        limits.push(limit);
    }
    limits.sort_by_key(|limit| limit.window.as_ref().map(|window| (window.from, window.until)));
    keep_limits(change, view, site, limits)?;
    Ok(Ok(()))
}

fn keep_limits(
    change: &Change,
    view: &mut ControlView,
    site: SiteId,
    limits: Vec<PeerLimit>,
) -> Result<(), StateError> {
    match limits.is_empty() {
        true => view.peer_limits.remove(&site),
        false => view.peer_limits.insert(site, limits),
    };
    keep_bounds(change, view, site)
}

fn keep_hold(change: &Change, view: &mut ControlView, site: SiteId, hold: PeerHold) -> Result<(), StateError> {
    match hold == PeerHold::UNSAID {
        true => view.peer_holds.remove(&site),
        false => view.peer_holds.insert(site, hold),
    };
    keep_bounds(change, view, site)
}

/// Writes down what the view says of a peer's bounds; nothing, where nobody has said any.
fn keep_bounds(change: &Change, view: &ControlView, site: SiteId) -> Result<(), StateError> {
    let bounds = view.bounds(site);
    let key = key(Kind::PeerLimits, &site.0);
    match bounds.limits.is_empty() && bounds.hold == PeerHold::UNSAID {
        true => change.remove(Table::Control, &key),
        false => change.put(Table::Control, &key, &bounds.to_bytes()),
    }
}
