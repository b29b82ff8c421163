//! Keeps what this node sends to a peer within the limit that the site has for it.
//!
//! The site's rate is divided among the nodes that lead logs, since the leader of a log sends its chunks. On each of them its
//! shards draw from one account, on the first shard. Chunks wait in the order in which they come; deltas go ahead and are counted.

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
use tokio::sync::Mutex;

/// Logs that are looked at to find out who sends; where there are more, everybody does.
const LOGS_LOOKED_AT: usize = 256;

/// What the node sends to peers that have a limit; on shard 0.
#[derive(Default)]
pub(crate) struct Paces(RefCell<BTreeMap<SiteId, Rc<PeerPace>>>);

#[derive(Default)]
struct PeerPace {
    /// Who is at the head of the queue holds it: chunks of all logs go in turn.
    head: Mutex<()>,
    pace: RefCell<Pace>,
}

impl Paces {
    fn of(&self, peer: SiteId) -> Rc<PeerPace> {
        self.0.borrow_mut().entry(peer).or_default().clone()
    }
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

/// Waits until so many bytes may go to a peer.
pub(super) async fn pass<D: Disk>(shard: &Rc<Shard<D>>, peer: SiteId, bytes: usize) {
    if shard.view().peer_limits.contains_key(&peer) {
        // A shard that has ended sends nothing, and neither will this one.
        let _ = shard.on(0, move |first| async move { wait_here(&first, peer, bytes).await }).await;
    }
}

async fn wait_here<D: Disk>(shard: &Rc<Shard<D>>, peer: SiteId, bytes: usize) {
    let paced = shard.paces.of(peer);
    let _head = paced.head.lock().await;
    loop {
        let now = shard.clock.clock().monotonic();
        let wait = paced.pace.borrow_mut().wait(now, own_rate(shard, peer));
        if wait.is_zero() {
            break;
        }
        // The limit may change meanwhile, or the hour.
        tokio::time::sleep(wait.min(PACE_LOOK)).await;
    }
    paced.pace.borrow_mut().sent(bytes);
}

/// Counts what goes to a peer without waiting.
pub(super) async fn went<D: Disk>(shard: &Rc<Shard<D>>, peer: SiteId, bytes: usize) {
    if shard.view().peer_limits.contains_key(&peer) {
        let _ = shard.on(0, move |first| async move { first.paces.of(peer).pace.borrow_mut().sent(bytes) }).await;
    }
}
