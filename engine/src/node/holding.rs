//! What is kept for peers that lack something: for how long, up to how much, and pruning what is kept for nobody.
//!
//! Writers never stop for a peer that is gone, and neither does the site fill up for it: past its bounds a peer is given
//! what is there when it comes back, with the places of what is not (docs/operators.md).

use super::limits::{HOLD_PART, HOLD_SECONDS, HOLD_STEP, PRUNE_STEP};
use super::shard::{LogGroup, Shard, state_refusal};
use crate::state::{ControlView, LogView, PeerHeld, PeerLag};
use crate::times::show_seconds;
use farside_codec::command::{ControlCommand, GroupCommand, GroupOutcome, HeldPeer, HoldPeers, Prune};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{Hlc, SiteId};
use farside_codec::message::Refusal;
use farside_io::disk::Disk;
use farside_raft::Group;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of chunks that a site's devices take.
fn usable_bytes(view: &ControlView, geometry: Geometry) -> u64 {
    let there = view.nodes.values().flat_map(|node| &node.devices).filter(|device| device.left.is_none());
    let bytes: u128 = there.map(|device| u128::from(device.bytes)).sum();
    let (data, fragments) = (geometry.data() as u128, (geometry.data() + geometry.parity()) as u128);
    u64::try_from(bytes * data / fragments).unwrap_or(u64::MAX)
}

/// The bounds of what is kept for a peer: as somebody has said, or a week and a quarter of what the site takes.
pub(super) fn bounds<D: Disk>(shard: &Shard<D>, peer: SiteId) -> HeldPeer {
    let view = shard.view();
    let said = view.hold(peer);
    let endless = |bound: u64| if bound == 0 { u64::MAX } else { bound };
    let quarter = || (usable_bytes(&view, shard.geometry()) / HOLD_PART).max(1);
    HeldPeer {
        site: peer,
        most_ms: endless(said.seconds.unwrap_or(HOLD_SECONDS)).saturating_mul(1000),
        most_bytes: endless(said.bytes.unwrap_or_else(quarter)),
    }
}

/// What is kept of one log for one peer, as status says it.
pub(super) struct Kept {
    /// It is not kept any more.
    pub(super) expired: bool,
    /// Seconds until it is not; `None`: the peer lacks nothing, or it is kept without end.
    pub(super) expires_seconds: Option<f64>,
    /// Half of one of its bounds is used up.
    pub(super) is_late: bool,
}

/// The same of a log for one of its peers; how much one lacks that was never heard of is not known.
pub(super) fn kept_for<D: Disk>(shard: &Shard<D>, peer: SiteId, lag: Option<&PeerLag>, holds: &[PeerHeld]) -> Kept {
    let held = holds.iter().find(|held| held.peer == peer);
    kept(&bounds(shard, peer), lag.map_or(0, |lag| lag.bytes), held)
}

fn kept(bounds: &HeldPeer, lacks: u64, held: Option<&PeerHeld>) -> Kept {
    let Some(held) = held else { return Kept { expired: false, expires_seconds: None, is_late: false } };
    let expires_seconds = match held.expired {
        true => Some(0.0),
        false if bounds.most_ms == u64::MAX => None,
        false => Some(bounds.most_ms.saturating_sub(held.behind_ms) as f64 / 1000.0),
    };
    let is_late = held.behind_ms >= bounds.most_ms / 2 || lacks >= bounds.most_bytes / 2;
    Kept { expired: held.expired, expires_seconds, is_late }
}

impl Kept {
    /// What is to be said of it, long before it is let go.
    pub(super) fn alert(&self, log: &str, peer: &str, connected: bool) -> Option<String> {
        if self.expired {
            let when = if connected { "now" } else { "when it comes back" };
            return Some(format!("{peer} lacks too much of {log}, or for too long: it is given what is there {when}"));
        }
        let left = self.expires_seconds.map(|seconds| format!(" for {} more", show_seconds(seconds)));
        let left = left.unwrap_or_default();
        self.is_late
            .then(|| format!("what {peer} lacks of {log} is kept{left}, more than half of its bounds is used up"))
    }
}

/// What is to be said of a copy that is not an exact one.
pub(super) fn unfinished(name: &str, log: &LogView) -> Option<String> {
    let seeding = log.seeding.as_ref()?;
    let done = match &seeding.filled {
        Some(filled) => format!("it is filled in up to delta {} of {}", filled.sequence, log.head.sequence),
        None => format!("it has come to delta {} of {}", log.head.sequence, log.floor),
    };
    let until = match seeding.whole.sequence {
        0 => "it can't take over without --force".into(),
        whole => format!("a failover goes back to delta {whole}"),
    };
    Some(format!("the copy of {name} is being made anew ({done}): until then {until}"))
}

/// What is to be said of a log that has nearly all that it may have.
pub(super) fn quota_alert(name: &str, log: &LogView) -> Option<String> {
    let (has, quota) = (log.live_bytes, log.descriptor.policy.quota_bytes);
    let is_near = quota > 0 && has >= quota / 10 * 9;
    is_near.then(|| format!("{name} has {has} of the {quota} bytes of its quota: past it puts are refused"))
}

/// Whether anything has to be counted in a log: a peer lacks something, or did when this was counted last.
fn is_due(log: &LogView, lags: &[PeerLag], peers: &[HeldPeer], is_held: bool) -> bool {
    let has = |peer: &HeldPeer| lags.iter().find(|lag| lag.peer == peer.site).map_or(0, |lag| lag.cursor.sequence);
    is_held || peers.iter().any(|peer| log.goes_to(peer.site) && has(peer) < log.head.sequence)
}

/// Counts in a group that is led here for how long peers have lacked something.
async fn count<D: Disk>(shard: &Rc<Shard<D>>, group: &LogGroup<D>) -> Result<(), Refusal> {
    let now = shard.clock.clock().monotonic();
    let last = shard.held_at.borrow_mut().insert(group.id(), now);
    let peers: Vec<HeldPeer> = shard.view().peers.keys().map(|peer| bounds(shard, *peer)).collect();
    let due = {
        let state = group.state().borrow();
        let mut due = false;
        for log in state.logs().map_err(state_refusal)?.iter().filter(|log| log.is_told_by(shard.site.site)) {
            let lags = state.peers(log.descriptor.log).map_err(state_refusal)?;
            let is_held = !state.holds(log.descriptor.log).map_err(state_refusal)?.is_empty();
            due |= is_due(log, &lags, &peers, is_held);
        }
        due
    };
    if !due {
        return Ok(());
    }
    // Who begins to lead counts from then on. A node that was stopped for long does not know who else counted meanwhile.
    let most = HOLD_STEP.max(Duration::from_secs(2 * shard.gc_seconds));
    let passed = last.map_or(Duration::ZERO, |last| now.saturating_sub(last)).min(most);
    let hold = HoldPeers { peers, passed_ms: passed.as_millis() as u64 };
    shard.command(group.id(), &GroupCommand::HoldPeers(hold)).await.map(drop)
}

/// Forgets where sites were that are peers no more: the removal of one may have been interrupted.
async fn forget_strangers<D: Disk>(shard: &Rc<Shard<D>>, group: &LogGroup<D>) -> Result<(), Refusal> {
    let view = shard.view();
    if view.site.is_none() {
        // The node has just started, and knows of no peer yet.
        return Ok(());
    }
    let mut strangers = BTreeSet::new();
    for log in group.state().borrow().logs().map_err(state_refusal)? {
        let known = group.state().borrow().peers(log.descriptor.log).map_err(state_refusal)?;
        strangers.extend(known.iter().map(|lag| lag.peer).filter(|peer| !view.peers.contains_key(peer)));
    }
    for peer in strangers {
        shard.command(group.id(), &GroupCommand::ForgetPeer(peer)).await?;
    }
    Ok(())
}

/// Drops versions past their log's history that are kept for nobody, in every group that is led here.
pub(super) async fn prune<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), Refusal> {
    let led: Vec<_> = shard.groups().into_iter().filter(Group::is_leader).collect();
    shard.held_at.borrow_mut().retain(|group, _| led.iter().any(|led| led.id() == *group));
    for group in &led {
        forget_strangers(shard, group).await?;
        count(shard, group).await?;
    }
    // What a backup has found in a group's state it must find among the chunks as well.
    if shard.view().backup_reads(shard.clock.now()) {
        return Ok(());
    }
    for group in led {
        let logs = group.state().borrow().logs().map_err(state_refusal)?;
        for log in logs {
            prune_log(shard, &group, &log).await?;
            note_policy(shard, log).await?;
        }
    }
    Ok(())
}

/// Has the site know a policy that came here with what its home sent: what goes by it outside the log's group asks the site.
async fn note_policy<D: Disk>(shard: &Rc<Shard<D>>, log: LogView) -> Result<(), Refusal> {
    let known = shard.view().logs.get(&log.descriptor.log).map(|known| known.policy_version);
    match known.is_some_and(|known| known < log.descriptor.policy_version) {
        true => shard.control(&shard.by_itself(), ControlCommand::PutLog(log.descriptor)).await.map(drop),
        false => Ok(()),
    }
}

/// The lowest sequence that is kept for a peer: a version is kept as long as a peer may lack what replaced it.
fn kept_from<D: Disk>(shard: &Shard<D>, group: &LogGroup<D>, log: &LogView) -> Result<u64, Refusal> {
    if !log.is_told_by(shard.site.site) {
        // A copy prunes what its home may prune: versions replaced before the horizon, below its own head.
        return Ok(log.whole().0.sequence);
    }
    let state = group.state().borrow();
    let cursors = state.peers(log.descriptor.log).map_err(state_refusal)?;
    let holds = state.holds(log.descriptor.log).map_err(state_refusal)?;
    let is_kept = |peer: &SiteId| log.goes_to(*peer) && !holds.iter().any(|held| held.peer == *peer && held.expired);
    let lowest = |peer: SiteId| cursors.iter().find(|lag| lag.peer == peer).map_or(0, |lag| lag.cursor.sequence);
    let view = shard.view();
    let lowest = view.peers.keys().copied().filter(is_kept).map(lowest).min();
    Ok(lowest.unwrap_or(u64::MAX).saturating_add(1))
}

async fn prune_log<D: Disk>(shard: &Rc<Shard<D>>, group: &LogGroup<D>, log: &LogView) -> Result<(), Refusal> {
    let below = kept_from(shard, group, log)?;
    let history_ms = log.descriptor.policy.history_seconds.saturating_mul(1000);
    let horizon = Hlc::from_ms(shard.clock.now().ms().saturating_sub(history_ms));
    loop {
        let prune = Prune { log: log.descriptor.log, horizon, below, limit: PRUNE_STEP };
        match shard.command(group.id(), &GroupCommand::Prune(prune)).await? {
            GroupOutcome::Pruned(count) if count == PRUNE_STEP => {}
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_comes_long_before_the_end() {
        let peer = SiteId([1; 16]);
        let bounds = HeldPeer { site: peer, most_ms: 1000, most_bytes: 500 };
        let held = |behind_ms, expired| PeerHeld { peer, behind_ms, expired };
        assert!(kept(&bounds, 400, None).expires_seconds.is_none(), "what lacks nothing is kept for nobody");
        let early = kept(&bounds, 10, Some(&held(400, false)));
        assert_eq!((early.expires_seconds, early.is_late, early.expired), (Some(0.6), false, false));
        assert!(kept(&bounds, 10, Some(&held(500, false))).is_late);
        assert!(kept(&bounds, 250, Some(&held(0, false))).is_late);
        assert_eq!(kept(&bounds, 10, Some(&held(400, true))).expires_seconds, Some(0.0));
        let endless = HeldPeer { most_ms: u64::MAX, ..bounds };
        assert!(kept(&endless, 10, Some(&held(u64::MAX / 4, false))).expires_seconds.is_none());
    }
}
