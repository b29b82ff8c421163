//! What the control group agrees on about identities: which there are, and which are refused although they are genuine.
//!
//! One that was revoked is forgotten only long after it has expired, and only where room is needed: a clock that jumps must
//! not let anybody in again.

use super::control::{ControlView, Kind, Outcome, exists, full, key};
use super::database::{Change, Table};
use super::limits::{EXPIRED_KEPT_MS, MAX_IDENTITIES};
use farside_codec::Field;
use farside_codec::cluster::NodeState;
use farside_codec::identity::{IdentityRecord, IdentityRole, PutIdentity, RevokeIdentity, Serial};
use farside_codec::ids::{Hlc, NodeId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_raft::StateError;
use std::sync::Arc;

/// Takes a listed identity into the view.
pub(super) fn add(view: &mut ControlView, record: IdentityRecord) {
    if record.revoked.is_some() {
        Arc::make_mut(&mut view.revoked).insert(record.serial);
    }
    Arc::make_mut(&mut view.identities).insert(record.serial, record);
}

fn store(change: &Change, view: &mut ControlView, record: IdentityRecord) -> Result<(), StateError> {
    change.put(Table::Control, &key(Kind::Identity, &record.serial), &record.to_bytes())?;
    add(view, record);
    Ok(())
}

fn drop_one(change: &Change, view: &mut ControlView, serial: &Serial) -> Result<(), StateError> {
    change.remove(Table::Control, &key(Kind::Identity, serial))?;
    Arc::make_mut(&mut view.identities).remove(serial);
    if view.revoked.contains(serial) {
        Arc::make_mut(&mut view.revoked).remove(serial);
    }
    Ok(())
}

/// Forgets what expired long ago; of what was revoked only one, and only where there is no room else.
fn make_room(change: &Change, view: &mut ControlView, time: Hlc) -> Result<(), StateError> {
    let is_old = |record: &IdentityRecord| record.expires.ms().saturating_add(EXPIRED_KEPT_MS) < time.ms();
    let old: Vec<(Serial, Hlc, bool)> = (view.identities.values().filter(|record| is_old(record)))
        .map(|record| (record.serial, record.expires, record.revoked.is_some()))
        .collect();
    for (serial, ..) in old.iter().filter(|(_, _, revoked)| !revoked) {
        drop_one(change, view, serial)?;
    }
    if view.identities.len() >= MAX_IDENTITIES
        && let Some((serial, ..)) = old.iter().filter(|(_, _, revoked)| *revoked).min_by_key(|(_, expires, _)| *expires)
    {
        drop_one(change, view, serial)?;
    }
    Ok(())
}

/// Lists an identity. One that is listed stays as it is, revoked or not: any node may say twice what it knows.
pub(super) fn put(change: &Change, view: &mut ControlView, put: PutIdentity) -> Result<Outcome, StateError> {
    let PutIdentity { record, named, time } = put;
    if view.identities.contains_key(&record.serial) {
        return Ok(Ok(()));
    }
    // Whoever goes over to another authority keeps his name.
    let taken = |known: &IdentityRecord| {
        known.name == record.name && known.authority == record.authority && known.is_live(time)
    };
    if named && view.identities.values().any(taken) {
        return Ok(exists(format!("another identity is called {}: revoke it, or choose another name", record.name)));
    }
    make_room(change, view, time)?;
    if view.identities.len() >= MAX_IDENTITIES {
        return Ok(full("identities", MAX_IDENTITIES));
    }
    // Nobody is listed as revoked but by an order.
    store(change, view, IdentityRecord { revoked: None, ..record })?;
    Ok(Ok(()))
}

/// Refuses an identity from now on. Whoever says so again changes nothing: the first order counts.
pub(super) fn revoke(change: &Change, view: &mut ControlView, order: RevokeIdentity) -> Result<Outcome, StateError> {
    let RevokeIdentity { serial, revocation, force } = order;
    let Some(record) = view.identities.get(&serial).cloned() else {
        return Ok(Err(Refusal::new(RefusalCode::NotFound, "no identity of this site has that serial")));
    };
    if record.revoked.is_some() {
        return Ok(Ok(()));
    }
    if let Some(why) = objection(view, &record, revocation.at).filter(|_| !(force && is_operators(&record))) {
        return Ok(Err(Refusal::new(RefusalCode::Unsafe, why)));
    }
    store(change, view, IdentityRecord { revoked: Some(revocation), ..record })?;
    Ok(Ok(()))
}

fn is_operators(record: &IdentityRecord) -> bool {
    record.role == IdentityRole::Operator
}

/// Why an identity should not be revoked, if there is a reason.
fn objection(view: &ControlView, record: &IdentityRecord, time: Hlc) -> Option<String> {
    let others = || view.identities.values().filter(|other| other.serial != record.serial && other.is_live(time));
    match record.role {
        IdentityRole::Operator => (!others().any(is_operators)).then(|| {
            format!(
                "{} is the last identity of an operator that this site knows of: issue another one first, or insist with \
                 --force; a new one is then made on a node's own machine (farside context export --dir DIR)",
                record.name
            )
        }),
        // It holds the authority's key, and would give itself another one.
        IdentityRole::Node | IdentityRole::Peer => {
            let newer = |other: &IdentityRecord| {
                other.role == record.role && other.name == record.name && other.issued > record.issued
            };
            let number = record.name.as_str().parse().ok().map(NodeId);
            let removed = number.and_then(|node| view.nodes.get(&node)).is_some_and(|node| node.state == NodeState::Removed);
            (!removed && !others().any(newer)).then(|| {
                format!(
                    "node {} shows this identity now: take the node out with `farside node remove`, or give it another \
                     identity first with `farside certificate rotate`",
                    record.name
                )
            })
        }
        IdentityRole::Client(_) | IdentityRole::Invitation => None,
    }
}
