//! What keeps a home from acknowledging: a promise of a peer that has run out, where the log's policy has a `home_lease`, and
//! lag at a bound that stops writers.
//!
//! A peer that follows a home promises, with each acknowledgement, not to take over for a time unless it is forced. The home
//! counts that time from when it asked, the peer from when the promise was committed at its site, and a margin besides, for clocks
//! that go at different paces: so the home has stopped before the peer may begin (after Gray and Cheriton, Leases, 1989).
//!
//! Who follows is known before it is asked for a promise: its cursor in the home's generation is committed at the home. So a
//! home that starts again, or whose group has another leader, knows whose promises it needs, and has none.

use super::shard::{Shard, state_refusal};
use crate::state::{LogView, PeerLag};
use farside_codec::delta::Generation;
use farside_codec::ids::{LogId, SiteId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_io::disk::Disk;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a promise is kept longer than it was made for: a second, and a tenth of it.
const MARGIN: Duration = Duration::from_secs(1);
/// How soon a writer tries again that was refused here.
const AGAIN_MS: u32 = 250;
/// How long a writer is held up at most where lag has not reached its bound.
const SLOWEST: Duration = Duration::from_millis(500);

/// A promise that a group led here has committed.
#[derive(Debug, Clone, Copy, Default)]
struct Made {
    /// In this term of the group: what another leader promised meanwhile is not known here.
    term: u64,
    /// The how many-th it was.
    number: u64,
    /// Until when it is kept, by the monotonic clock.
    until: Duration,
}

/// The last promise of each log.
#[derive(Default)]
pub(crate) struct Promises(RefCell<BTreeMap<LogId, Made>>);

impl Promises {
    /// A promise was committed, and is kept from now on.
    pub(super) fn made(&self, log: LogId, term: u64, number: u64, now: Duration, lease: Duration) {
        let mut promises = self.0.borrow_mut();
        let last = promises.entry(log).or_default();
        let before = if last.term == term { *last } else { Made::default() };
        let until = before.until.max(now + lease + lease / 10 + MARGIN);
        *last = Made { term, number: before.number.max(number), until };
    }

    /// How long the last promise is still kept, which was the `number`-th. One that this leader has not taken note of, because
    /// another one made it or because it was committed in this moment, counts from the first question on.
    pub(super) fn left(&self, log: LogId, term: u64, number: u64, now: Duration, longest: Duration) -> Duration {
        let is_known = |made: &Made| made.term == term && made.number >= number;
        if !self.0.borrow().get(&log).is_some_and(is_known) {
            self.made(log, term, number, now, longest);
        }
        self.0.borrow().get(&log).map_or(Duration::ZERO, |made| made.until.saturating_sub(now))
    }
}

/// Generations of this site with which the lineage ends: more than one, where it began anew after a recovery or a restore.
fn own_run(log: &LogView, here: SiteId) -> impl Iterator<Item = Generation> {
    log.lineage.iter().rev().map(|branch| branch.generation).take_while(move |generation| generation.site == here)
}

fn lags<D: Disk>(shard: &Shard<D>, log: LogId) -> Result<Vec<PeerLag>, Refusal> {
    let lags = shard.log_group(log)?.state().borrow().peers(log).map_err(state_refusal)?;
    let view = shard.view();
    Ok(lags.into_iter().filter(|lag| view.peers.contains_key(&lag.peer)).collect())
}

/// The peers whose promises the home needs: those that have made something of its generation durable. A recovery may have
/// lost cursors with what came last, so after one it is all of them.
fn needed<D: Disk>(shard: &Shard<D>, log: &LogView) -> Result<Vec<SiteId>, Refusal> {
    let here = shard.site.site;
    if own_run(log, here).nth(1).is_some() {
        return Ok(shard.view().peers.keys().copied().filter(|peer| log.goes_to(*peer)).collect());
    }
    let follows = |lag: &PeerLag| {
        log.goes_to(lag.peer) && own_run(log, here).any(|generation| generation == lag.cursor.generation)
    };
    Ok(lags(shard, log.descriptor.log)?.into_iter().filter(follows).map(|lag| lag.peer).collect())
}

/// Whether every peer follows, so that a lease may begin: one that does not would not know of it.
pub(super) fn all_follow<D: Disk>(shard: &Shard<D>, log: &LogView) -> Result<bool, Refusal> {
    let needed = needed(shard, log)?;
    Ok(shard.view().peers.keys().filter(|peer| log.goes_to(**peer)).all(|peer| needed.contains(peer)))
}

fn name(log: &LogView) -> String {
    format!("{}/{}", log.descriptor.tenant_name, log.descriptor.name)
}

fn peer_name<D: Disk>(shard: &Shard<D>, peer: SiteId) -> String {
    shard.view().call_site(peer)
}

/// For how many milliseconds a peer is asked for its promise. Nothing, where it does not follow yet.
pub(super) fn asked_for<D: Disk>(shard: &Shard<D>, log: &LogView, peer: SiteId) -> u64 {
    let seconds = log.descriptor.policy.home_lease_seconds;
    if seconds == 0 {
        return 0;
    }
    match needed(shard, log).is_ok_and(|needed| needed.contains(&peer)) {
        true => seconds.saturating_mul(1000),
        false => 0,
    }
}

/// Refuses what must not be acknowledged now: a peer that follows may have taken over, for all that is known here.
pub(super) fn refuse_lapsed<D: Disk>(shard: &Shard<D>, log: &LogView) -> Result<(), Refusal> {
    if log.descriptor.policy.home_lease_seconds == 0 {
        return Ok(());
    }
    let (now, id) = (shard.clock.clock().monotonic(), log.descriptor.log);
    let senders = shard.senders.borrow();
    for peer in needed(shard, log)? {
        let sender = senders.get(&(id, peer));
        if sender.and_then(|sender| sender.promised_until(log)).is_none_or(|until| until <= now) {
            let trouble = sender.and_then(|sender| sender.trouble.as_ref()).map(|trouble| format!(" ({trouble})"));
            let detail = format!(
                "{} has a home lease, and peer {} has not renewed it{}: nothing is acknowledged until it does",
                name(log),
                peer_name(shard, peer),
                trouble.unwrap_or_default()
            );
            return Err(Refusal::retry(RefusalCode::Busy, AGAIN_MS, detail));
        }
    }
    Ok(())
}

/// The same once something was committed: `before` is the log as it was when that was asked for.
pub(super) fn refuse_lapsed_since<D: Disk>(shard: &Shard<D>, before: &LogView, log: &LogView) -> Result<(), Refusal> {
    if log.known != before.known && before.descriptor.policy.home_lease_seconds > 0 {
        return Err(Refusal::new(RefusalCode::NotHome, format!("{} has just begun another generation", name(log))));
    }
    refuse_lapsed(shard, log)
}

/// Lag of a log at a peer in seconds: since the oldest delta that it has not made durable was placed.
pub(super) fn lag_seconds(log: &LogView, lag: Option<&PeerLag>, now_ms: u64) -> f64 {
    let since = match lag {
        Some(lag) if lag.cursor.hash == log.head.hash && lag.deltas == 0 => None,
        Some(lag) => lag.oldest,
        None => Some(log.descriptor.created),
    };
    since.map_or(0.0, |since| now_ms.saturating_sub(since.ms()) as f64 / 1000.0)
}

/// How long a writer has to wait for the sake of a bound on lag that stops writers; refused at the bound.
pub(super) fn held_back<D: Disk>(shard: &Shard<D>, log: &LogView) -> Result<Duration, Refusal> {
    let policy = &log.descriptor.policy;
    if !policy.lag_stops_writers || log.head.sequence == 0 {
        return Ok(Duration::ZERO);
    }
    let (lags, now_ms) = (lags(shard, log.descriptor.log)?, shard.clock.clock().wall_ms());
    let bound = policy.lag_bound_seconds.max(1) as f64;
    let mut worst = 0.0_f64;
    for peer in shard.view().peers.keys().filter(|peer| log.goes_to(**peer)) {
        let lag = lag_seconds(log, lags.iter().find(|lag| lag.peer == *peer), now_ms);
        if lag >= bound {
            let detail = format!(
                "{} lags {lag:.0} s behind at peer {}, and its policy stops writers at {bound:.0} s",
                name(log),
                peer_name(shard, *peer)
            );
            return Err(Refusal::retry(RefusalCode::Busy, AGAIN_MS, detail));
        }
        worst = worst.max(lag);
    }
    let over_half = (2.0 * worst / bound - 1.0).clamp(0.0, 1.0);
    Ok(SLOWEST.mul_f64(over_half))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId([1; 16]);

    #[test]
    fn a_promise_that_was_not_noted_counts_anew() {
        let seconds = Duration::from_secs;
        let promises = Promises::default();
        promises.made(LOG, 3, 1, seconds(100), seconds(10));
        assert_eq!(promises.left(LOG, 3, 1, seconds(101), seconds(10)), seconds(11), "ten, a tenth of it, and one");
        promises.made(LOG, 3, 2, seconds(90), seconds(10));
        assert_eq!(promises.left(LOG, 3, 2, seconds(101), seconds(10)), seconds(11), "none is taken back");
        assert_eq!(promises.left(LOG, 3, 2, seconds(112), seconds(10)), Duration::ZERO);
        // One more was committed, and who made it has not come so far as to take note of it.
        assert_eq!(promises.left(LOG, 3, 3, seconds(112), seconds(10)), seconds(12));
        assert_eq!(promises.left(LOG, 3, 3, seconds(124), seconds(10)), Duration::ZERO);
        // Another node led in between, and may have promised the same again at the end of that time.
        assert_eq!(promises.left(LOG, 5, 3, seconds(125), seconds(10)), seconds(12));
        assert_eq!(promises.left(LOG, 5, 3, seconds(126), seconds(10)), seconds(11));
        // Of a log that nothing is known of but that something was promised.
        assert_eq!(promises.left(LogId([2; 16]), 1, 7, seconds(5), seconds(20)), seconds(23));
    }
}
