//! Closed time: each group closes its own, and a home tells peers of it where a log is quiet, so that a cut across logs never waits
//! for a quiet one. Deltas carry it themselves.
//!
//! What a home says of a copy waits here for the next time that the copy's group closes its own, and is committed with that: a
//! site at rest flushes no more for it. What is lost on the way the home says again, of a later time.

use super::limits;
use super::server::Answered;
use super::shard::{LogGroup, Shard};
use farside_codec::command::{CloseTime, GroupCommand};
use farside_codec::ids::{GroupId, Hlc, LogId, SiteId};
use farside_codec::message::{ClosedLog, FedClosed, PeerRecord, Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_transport::{Caller, Class};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Logs of which one message or one command says something.
const LOGS: usize = 1024;

/// What homes have said of copies of this shard.
#[derive(Default)]
pub(crate) struct Closings(RefCell<BTreeMap<GroupId, Heard>>);

#[derive(Default)]
struct Heard {
    said: BTreeMap<LogId, ClosedLog>,
    /// Behind this one it goes on: all of them get their turn, however often some are said again.
    last: LogId,
}

impl Closings {
    fn hear(&self, group: GroupId, said: ClosedLog) {
        self.0.borrow_mut().entry(group).or_default().said.insert(said.log, said);
    }

    /// What is to be committed with the group's own.
    fn take(&self, group: GroupId) -> Vec<ClosedLog> {
        let mut heard = self.0.borrow_mut();
        let Some(Heard { said, last }) = heard.get_mut(&group) else { return Vec::new() };
        let (first, behind): (Vec<LogId>, Vec<LogId>) = said.keys().partition(|log| **log <= *last);
        let turn: Vec<LogId> = behind.into_iter().chain(first).take(LOGS).collect();
        *last = turn.last().copied().unwrap_or_default();
        turn.iter().filter_map(|log| said.remove(log)).collect()
    }
}

/// Closes nothing, and takes as long as anything that is committed.
pub(super) const NOTHING: CloseTime = CloseTime { closed: Hlc(0), copies: Vec::new() };

/// Closes time in every group of the shard, idle too, so that a cut across logs never waits for a quiet one. Where nothing was
/// committed since the last time it is done less often: each is an entry that every voter flushes.
pub(super) async fn close_time<D: Disk>(shard: Rc<Shard<D>>) {
    let mut ticks = tokio::time::interval(limits::CLOSE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    // What will be applied once time is closed if nothing else is, and when it was.
    let mut closed: BTreeMap<GroupId, (Option<u64>, Duration)> = BTreeMap::new();
    let under_way: Rc<RefCell<BTreeSet<GroupId>>> = Rc::default();
    loop {
        ticks.tick().await;
        // A time that is hours ahead, once closed, is one behind which nobody could write.
        if super::clocks::objection(&shard).is_some() {
            continue;
        }
        let now = shard.clock.clock().monotonic();
        let is_due = |group: &LogGroup<D>| {
            let moved = |(applied, at): &(Option<u64>, Duration)| {
                *applied != group.status().applied_index || now.saturating_sub(*at) >= limits::CLOSE_IDLE
            };
            let rests = !under_way.borrow().contains(&group.id());
            rests && group.is_leader() && closed.get(&group.id()).is_none_or(moved)
        };
        let due: Vec<_> = shard.groups().into_iter().filter(is_due).collect();
        let alone = |group: &LogGroup<D>| (group.status().applied_index.map(|index| index + 1), now);
        closed.extend(due.iter().map(|group| (group.id(), alone(group))));
        for id in due.iter().map(|group| group.id()) {
            under_way.borrow_mut().insert(id);
            let copies = shard.closings.take(id);
            let command = GroupCommand::Close(CloseTime { closed: shard.clock.now(), copies });
            let (shard, under_way) = (shard.clone(), under_way.clone());
            // A group that can't close time now says so in status, and holds up no other; a later tick tries again.
            tokio::task::spawn_local(async move {
                let _ = shard.command(id, &command).await;
                under_way.borrow_mut().remove(&id);
            });
        }
    }
}

/// Tells peers of the closed time of logs of which they have everything, for as long as the shard runs.
pub(super) async fn tell_closed<D: Disk>(shard: Rc<Shard<D>>) {
    // Of which time a peer was told last, by this site's groups.
    let mut told: BTreeMap<(SiteId, GroupId), Hlc> = BTreeMap::new();
    loop {
        tokio::time::sleep(limits::CLOSED_LOOK).await;
        let view = shard.view();
        told.retain(|(peer, _), _| view.peers.contains_key(peer));
        let up = view.peers.values().filter(|peer| !peer.paused && shard.links.is_up(peer.site));
        let tells = up.flat_map(|peer| news(&shard, peer, &mut told).into_iter().map(|said| tell(&shard, peer, said)));
        futures_util::future::join_all(tells.collect::<Vec<_>>()).await;
    }
}

/// What there is to tell a peer, by its groups.
fn news<D: Disk>(
    shard: &Rc<Shard<D>>,
    peer: &PeerRecord,
    told: &mut BTreeMap<(SiteId, GroupId), Hlc>,
) -> Vec<FedClosed> {
    let Some(hello) = shard.links.known(peer.site) else { return Vec::new() };
    let mut logs: BTreeMap<GroupId, Vec<ClosedLog>> = BTreeMap::new();
    for group in shard.groups().into_iter().filter(|group| group.is_leader()) {
        let state = group.state().borrow();
        let Ok(closed) = state.closed() else { continue };
        if told.insert((peer.site, group.id()), closed) == Some(closed) {
            continue;
        }
        let senders = shard.senders.borrow();
        let has_all = |log: LogId| senders.get(&(log, peer.site)).is_some_and(|sender| sender.caught_up);
        for log in state.logs().unwrap_or_default() {
            let id = log.descriptor.log;
            if log.is_home(shard.site.site) && log.goes_to(peer.site) && has_all(id) {
                let said = ClosedLog { log: id, generation: log.known, head: log.head.hash, closed };
                logs.entry(GroupId::of_log(id, hello.groups)).or_default().push(said);
            }
        }
    }
    let parts = |(group, logs): (GroupId, Vec<ClosedLog>)| {
        let part = move |logs: &[ClosedLog]| FedClosed { group, logs: logs.to_vec() };
        logs.chunks(LOGS).map(part).collect::<Vec<_>>()
    };
    logs.into_iter().flat_map(parts).collect()
}

async fn tell<D: Disk>(shard: &Rc<Shard<D>>, peer: &PeerRecord, said: FedClosed) {
    let Some(hello) = shard.links.known(peer.site) else { return };
    let (there, request) = (said.group.shard(hello.shards), Request::FedClosed(said));
    let told = shard.links.call(peer, there, Class::Request, &request, None);
    match tokio::time::timeout(limits::CLOSE_IDLE, told).await {
        Ok(Ok(_)) => {}
        // It hears of a later time soon.
        Ok(Err(error)) => tracing::debug!(peer = %peer.name, %error, "a peer was not told of closed time"),
        Err(_) => tracing::debug!(peer = %peer.name, "a peer was not told of closed time: it does not answer"),
    }
}

/// A home says up to when a copy has everything.
pub(super) async fn hear<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, said: FedClosed) -> Answered {
    if said.logs.len() > LOGS {
        return Err(Refusal::new(RefusalCode::BadRequest, "closed time of more logs than a request may carry"));
    }
    let belongs = |log: &ClosedLog| log.generation.site == caller.site && shard.group_of(log.log) == said.group;
    if !said.logs.iter().all(belongs) {
        let detail = "closed time is said by a log's home, and of logs of one group";
        return Err(Refusal::new(RefusalCode::Forbidden, detail));
    }
    let owner = said.group.shard(shard.shards());
    shard.on(owner, move |there| async move { hear_here(&there, said) }).await?
}

fn hear_here<D: Disk>(shard: &Rc<Shard<D>>, said: FedClosed) -> Answered {
    let led = shard.groups().into_iter().find(|group| group.id() == said.group && group.is_leader());
    let Some(group) = led else {
        return Err(Refusal::retry(RefusalCode::NotLeader, 100, "another node leads the logs' group"));
    };
    let state = group.state().borrow();
    // Of a log that is home elsewhere, as far as is known here, somebody else says it.
    let mut true_ones = Vec::with_capacity(said.logs.len());
    for log in said.logs {
        let known = state.log(log.log).map_err(super::shard::state_refusal)?.map(|held| held.known);
        true_ones.extend((known == Some(log.generation)).then_some(log));
    }
    let newest = true_ones.iter().map(|log| log.closed).max().unwrap_or_default();
    let skew = |error: farside_io::clock::ClockSkew| Refusal::retry(RefusalCode::ClockSkew, 5000, error.to_string());
    shard.clock.observe(newest).map_err(skew)?;
    true_ones.into_iter().for_each(|log| shard.closings.hear(said.group, log));
    Ok(Reply::Done.into())
}
