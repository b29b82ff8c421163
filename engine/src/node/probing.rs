//! Spares the way to a peer that takes nothing now: a refusal for want of room or devices comes after everything has crossed.
//!
//! Each shard asks such a peer with one chunk at a time, of each of its logs in turn, until one is taken; [`Doubt`] says how often.
//! Deliveries rest by themselves (`sending.rs`): some need no room, and a leader that has none says nothing of the others.

use super::shard::{Shard, add, count};
use crate::federation::doubt::Doubt;
use farside_codec::ids::SiteId;
use farside_codec::message::{Refusal, RefusalCode};
use farside_io::disk::Disk;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// Peers that are in doubt.
#[derive(Default)]
pub(crate) struct Doubts(RefCell<BTreeMap<SiteId, Rc<Doubted>>>);

#[derive(Default)]
struct Doubted {
    doubt: RefCell<Doubt>,
    /// Whoever holds this asks next.
    line: Arc<tokio::sync::Mutex<()>>,
}

/// The turn of a chunk that is to be sent.
pub(super) struct Turn {
    peer: SiteId,
    /// Held by one that is sent alone.
    alone: Option<OwnedMutexGuard<()>>,
}

/// Whether a refusal is about the peer as a whole, and not about what it was sent.
pub(super) fn is_of_the_peer(refusal: &Refusal) -> bool {
    matches!(refusal.code, RefusalCode::Full | RefusalCode::TooFewDevices)
}

/// Counts what a peer refused once it had crossed.
pub(super) fn count_refused<D: Disk>(shard: &Shard<D>, bytes: usize) {
    count(&shard.counters.refused_by_peers);
    add(&shard.counters.refused_by_peers_bytes, bytes as u64);
}

/// Waits until a chunk may be sent to a peer; tells why, if it has to wait.
pub(super) async fn turn<D: Disk>(shard: &Shard<D>, peer: SiteId, tell: impl Fn(&str)) -> Turn {
    let doubted = shard.doubts.0.borrow().get(&peer).cloned();
    let Some(doubted) = doubted else { return Turn { peer, alone: None } };
    tell(doubted.doubt.borrow().why());
    let alone = doubted.line.clone().lock_owned().await;
    if doubted.doubt.borrow().is_over() {
        return Turn { peer, alone: None };
    }
    let rest = doubted.doubt.borrow().next().saturating_sub(shard.clock.clock().monotonic());
    tokio::time::sleep(rest).await;
    Turn { peer, alone: Some(alone) }
}

impl Turn {
    /// The peer took it.
    pub(super) fn was_taken<D: Disk>(self, shard: &Shard<D>) {
        if let Some(doubted) = shard.doubts.0.borrow_mut().remove(&self.peer) {
            doubted.doubt.borrow_mut().end();
        }
    }

    /// The peer refused it, once so many bytes had crossed.
    pub(super) fn was_refused<D: Disk>(self, shard: &Shard<D>, bytes: usize, why: &str) {
        count_refused(shard, bytes);
        let doubted = shard.doubts.0.borrow_mut().entry(self.peer).or_default().clone();
        let now = shard.clock.clock().monotonic();
        doubted.doubt.borrow_mut().refused(now, self.alone.is_some(), why.to_owned());
    }
}
