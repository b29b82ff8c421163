//! Keeps what this node sends to a peer within the limit that the site has for it.
//!
//! The site's rate is divided among the nodes that lead logs, since the leader of a log sends its chunks. On each of them its
//! shards draw from one account, on the first shard. Chunks wait, one of each log at a time; deltas go ahead and are counted.
//!
//! Invariant: only what is drawn is owed. Whoever waits asks again and again from where it sends, so that a sender that ends leaves
//! nothing behind.

use super::limits::PACE_LOOK;
use super::shard::Shard;
use crate::federation::pace::{Pace, rate_at, share};
use crate::state::ControlView;
use farside_codec::ids::{GroupId, NodeId, SiteId};
use farside_codec::peer::DAY_MINUTES;
use farside_io::disk::Disk;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Logs that are looked at to find out who sends; where there are more, everybody does.
const LOGS_LOOKED_AT: usize = 256;

/// What the node sends to peers that have a limit; on shard 0.
#[derive(Default)]
pub(crate) struct Paces(RefCell<BTreeMap<SiteId, Pace>>);

/// What is to be done with an account.
#[derive(Clone, Copy)]
enum Draw {
    /// So many bytes of a chunk are to go.
    Chunk(usize),
    /// So many did not go after all.
    Back(usize),
    /// So many bytes go ahead.
    Ahead(usize),
}

/// The rate at which the whole site may send to a peer now, in bytes a second; 0: there is no limit.
pub(super) fn site_rate<D: Disk>(shard: &Shard<D>, peer: SiteId) -> u64 {
    let view = shard.view();
    let Some(limits) = view.peer_limits.get(&peer) else { return 0 };
    let minute = shard.machine.clock.wall_ms() / 60_000 % u64::from(DAY_MINUTES);
    rate_at(limits, minute as u16)
}

/// Nodes that lead a group with a log in it: no other one sends chunks.
fn senders(view: &ControlView, groups: u32) -> usize {
    let used: BTreeSet<GroupId> = match view.logs.len() <= LOGS_LOOKED_AT {
        true => view.logs.keys().map(|log| GroupId::of_log(*log, groups)).collect(),
        false => (1..=groups).map(GroupId).collect(),
    };
    used.into_iter().map(|group| view.group(group).leader.node()).collect::<BTreeSet<NodeId>>().len()
}

fn own_rate<D: Disk>(shard: &Shard<D>, peer: SiteId) -> u64 {
    match site_rate(shard, peer) {
        0 => 0,
        rate => share(rate, senders(&shard.view(), shard.site.groups) as u64),
    }
}

/// Draws on the account of a peer, on the first shard. Answers how long a chunk has to wait; nothing was drawn then.
async fn draw<D: Disk>(shard: &Rc<Shard<D>>, peer: SiteId, draw: Draw) -> Duration {
    let drawn = shard.on(0, move |first| async move {
        let (now, rate) = (first.clock.clock().monotonic(), own_rate(&first, peer));
        let mut paces = first.paces.0.borrow_mut();
        let pace = paces.entry(peer).or_default();
        let wait = pace.wait(now, rate);
        match draw {
            Draw::Chunk(bytes) if wait.is_zero() => pace.sent(bytes),
            Draw::Chunk(_) => return wait,
            Draw::Back(bytes) => pace.give_back(bytes),
            Draw::Ahead(bytes) => pace.went_ahead(bytes, rate),
        }
        Duration::ZERO
    });
    // Where the first shard has ended, this one is about to.
    drawn.await.unwrap_or_default()
}

fn is_limited<D: Disk>(shard: &Shard<D>, peer: SiteId) -> bool {
    shard.view().peer_limits.contains_key(&peer)
}

/// Waits until so many bytes of a chunk may go to a peer.
pub(super) async fn pass<D: Disk>(shard: &Rc<Shard<D>>, peer: SiteId, bytes: usize) {
    while is_limited(shard, peer) {
        match draw(shard, peer, Draw::Chunk(bytes)).await {
            Duration::ZERO => return,
            // The limit may change meanwhile, or the hour.
            wait => tokio::time::sleep(wait.min(PACE_LOOK)).await,
        }
    }
}

/// A chunk that had passed was not sent.
pub(super) async fn give_back<D: Disk>(shard: &Rc<Shard<D>>, peer: SiteId, bytes: usize) {
    if is_limited(shard, peer) {
        draw(shard, peer, Draw::Back(bytes)).await;
    }
}

/// Counts what goes to a peer without waiting.
pub(super) async fn goes_ahead<D: Disk>(shard: &Rc<Shard<D>>, peer: SiteId, bytes: usize) {
    if bytes > 0 && is_limited(shard, peer) {
        draw(shard, peer, Draw::Ahead(bytes)).await;
    }
}
