//! What must hold once there is peace, judged from what clients were told and what the sites show. Numbers in
//! parentheses are those of the invariants in ARCHITECTURE.md.

mod at_rest;
mod backups;
mod names;
mod sides;

use super::divergence;
use super::history::{Event, Operation, Outcome};
use super::telling::in_short;
use super::watch::Watch;
use super::work::{NAMES, name, read, read_at};
use super::world::{Promotion, RECOVERY, World};
use at_rest::{buffers_come_back, nothing_is_damaged, redundancy_is_back};
use bytes::Bytes;
use farside::client::{Client, ClientError, Log};
use farside::node::limits::BACKUP_HOLD;
use farside_codec::delta::{Cursor, Delta, DeltaKind, Lineage};
use farside_codec::ids::{BlindName, ChunkId, DeltaHash, SiteId};
use farside_codec::limits::MAX_CHUNKS_PER_QUESTION;
use farside_codec::message::{LogInfo, Moment, ReadDeltas, Reply, Request};
use names::{names_agree, versions_of};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a home that returns waits for its peer to say whether it still is one.
const HOME_CHECK_MS: u64 = 5000;
/// Rounds of GC within which what nobody needs has gone.
const GC_ROUNDS: u32 = 6;
/// Deltas read at once.
const PAGE: u32 = 512;

/// A log at peace: its home's copy, which the peer's equals as far as both still have it.
struct Settled {
    info: LogInfo,
    /// The same as they came, by place; empty where a version was pruned.
    encoded: Vec<Bytes>,
    /// By place; `None` where a version was pruned.
    deltas: Vec<Option<Delta>>,
    /// By place; `None` where nothing that is left says it.
    hashes: Vec<Option<DeltaHash>>,
    /// Put's number by sequence, as the payloads say, of versions that are left.
    numbers: BTreeMap<u64, u64>,
}

impl Settled {
    fn delta(&self, sequence: u64) -> Option<&Delta> {
        self.deltas.get(sequence as usize - 1)?.as_ref()
    }

    fn kept(&self) -> impl Iterator<Item = &Delta> {
        self.deltas.iter().flatten()
    }
}

/// Waits for peace to settle, then judges everything.
pub async fn judge(world: &World, watch: &Watch) -> Result<(), String> {
    wait_until_caught_up(world).await?;
    let mut clients = Vec::new();
    for site in 0..world.sites().len() {
        clients.push(world.client(site).await?);
    }
    let events = world.shared().history.events();
    let sites: Vec<SiteId> = world.sites().iter().map(|site| site.borrow().id()).collect();
    let mut needed = BTreeSet::new();
    let mut logs = Vec::new();
    for (number, log) in world.shared().logs.iter().enumerate() {
        let settled = settle(world, &clients, log).await?;
        needed.extend(settled.kept().flat_map(|delta| delta.proposal.chunks.iter().map(|chunk| chunk.chunk)));
        let mine: Vec<&Event> = events.iter().filter(|event| event.log == number).collect();
        writes_are_kept(world, log, &settled, &mine);
        writes_are_applied_once(world, log, &settled);
        conditions_held(world, log, &settled, &mine);
        unmet_conditions_left_nothing(world, log, &settled, &mine);
        payload_keys_are_used_once(world, log, &settled);
        reads_are_linearizable(world, log, &settled, &mine);
        promotions_kept_what_was_acknowledged(world, watch, log);
        sides::are_of_one_time(world, log, &settled, &mine);
        sides::one_site_writes(world, log, &sites, &mine);
        switchovers_lost_nothing(world, log, &settled, &mine);
        returning_homes_asked_first(world, log, &mine);
        leases_were_held(world, log, &mine);
        undone_deltas_are_set_aside(world, &clients, log, &settled, &mine).await?;
        logs.push((log.as_str(), settled));
    }
    for (site, client) in clients.iter().enumerate() {
        chunks_are_conserved(world, site, client, &needed).await?;
        redundancy_is_back(world, site, client).await?;
        nothing_is_damaged(world, site).await?;
    }
    buffers_come_back(world).await;
    backups::backups_are_whole(world, &logs).await
}

/// A site's status document.
pub(super) async fn status(client: &Client) -> Result<Value, String> {
    match client.control(&Request::Status).await.map_err(|error| error.to_string())? {
        Reply::Status(document) => serde_json::from_slice(&document).map_err(|error| error.to_string()),
        _ => Err("no status".into()),
    }
}

/// Liveness: once nothing goes wrong, every log has one home, and everything is caught up.
async fn wait_until_caught_up(world: &World) -> Result<(), String> {
    let begun = tokio::time::Instant::now();
    let mut patience = RECOVERY;
    loop {
        let mut homes: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut said = Vec::new();
        for site in 0..world.sites().len() {
            let client = world.client(site).await?;
            let document = status(&client).await?;
            said.push(in_short(&document));
            if world.has_backups() && divergence::is_full(&document) {
                // A backup that died lets go of what it read in the end, and then there is room.
                patience = RECOVERY + BACKUP_HOLD;
            }
            if begun.elapsed() > patience - RECOVERY / 2 {
                divergence::make_room(world, site, &client, &document).await?;
            }
            for log in document["logs"].as_array().into_iter().flatten() {
                if log["home"] == document["site"] {
                    homes.entry(log["name"].as_str().unwrap_or_default().to_owned()).or_default().push(log.clone());
                }
            }
        }
        // Administrators may have made others besides.
        let all_there = world.shared().logs.iter().all(|log| homes.contains_key(log));
        let settled = all_there
            && homes.values().all(|claims| {
                let peers = |log: &Value| log["peers"].as_array().cloned().unwrap_or_default();
                claims.len() == 1
                    && peers(&claims[0]).iter().all(|peer| peer["caught_up"] == true)
                    && !peers(&claims[0]).is_empty()
            });
        if settled {
            return Ok(());
        }
        if begun.elapsed() > patience {
            return Err(format!("at peace for {} s, and not caught up: {}", patience.as_secs(), said.join("; ")));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// (3) The copies are equal, byte for byte, and each is one unbroken chain. (2) Everything that they show is whole.
async fn settle(world: &World, clients: &[Client], log: &str) -> Result<Settled, String> {
    let failed = |error: ClientError| format!("{log}: {error}");
    let (mut copies, mut newest) = (Vec::new(), Vec::new());
    let mut numbers = BTreeMap::new();
    for client in clients {
        let opened = client.open_log(log).await.map_err(failed)?;
        // In this order: what is pruned in between has a number and no delta, which says nothing.
        let versions = versions_of(&opened).await.map_err(failed)?;
        numbers.extend(versions.iter().map(|(sequence, (_, put))| (*sequence, *put)));
        let deltas = read_all(client, opened.info()).await?;
        let mut found = BTreeMap::new();
        for number in 0..NAMES {
            let newest = read(&opened, &name(number), world.shared()).await.map_err(failed)?;
            found.extend(newest.map(|(_, sequence)| (number, sequence)));
        }
        newest.push(found);
        old_versions_are_readable(world, &opened, client, &deltas, &versions).await?;
        copies.push((opened.info().clone(), deltas));
    }
    names_agree(world, log, &newest);
    let (info, mut encoded) = copies.remove(0);
    for (other, theirs) in copies {
        let agree = |(one, other): (&Bytes, &Bytes)| one.is_empty() || other.is_empty() || one == other;
        let equal = other.head == info.head
            && other.lineage == info.lineage
            && theirs.len() == encoded.len()
            && encoded.iter().zip(&theirs).all(agree);
        world.violations().check(equal, || format!("the copies of {log} differ: {:?} and {:?}", info.head, other.head));
        // Each prunes for itself: what one has let go the other may still have.
        for (mine, theirs) in encoded.iter_mut().zip(theirs).filter(|(mine, _)| mine.is_empty()) {
            *mine = theirs;
        }
    }
    let parse = |encoded: &Bytes| (!encoded.is_empty()).then(|| Delta::parse(encoded.clone())).transpose();
    let deltas: Result<Vec<Option<Delta>>, _> = encoded.iter().map(parse).collect();
    let deltas = deltas.map_err(|error| format!("{log}: {error}"))?;
    let hashes = hashes_of(&info, &encoded, &deltas);
    check_chain(world, log, &info, &deltas, &hashes);
    Ok(Settled { info, encoded, deltas, hashes, numbers })
}

/// Each delta's hash: its own bytes say it, or the delta behind it, or the head.
fn hashes_of(info: &LogInfo, encoded: &[Bytes], deltas: &[Option<Delta>]) -> Vec<Option<DeltaHash>> {
    let hash = |at: usize| match (encoded[at].is_empty(), deltas.get(at + 1)) {
        (false, _) => Some(Delta::hash(&encoded[at])),
        (true, Some(next)) => next.as_ref().map(|next| next.previous),
        (true, None) => Some(info.head.hash),
    };
    (0..encoded.len()).map(hash).collect()
}

/// (1) Whatever a site shows, old versions included, can be read. The newest ones were; of others those are that a site
/// does not have in full, which a site of one node can't mend yet.
async fn old_versions_are_readable(
    world: &World,
    log: &Log,
    client: &Client,
    deltas: &[Bytes],
    versions: &BTreeMap<u64, (u64, u64)>,
) -> Result<(), String> {
    let mut named: BTreeMap<ChunkId, u64> = BTreeMap::new();
    for delta in deltas.iter().filter(|delta| !delta.is_empty()) {
        let delta = Delta::parse(delta.clone()).map_err(|error| error.to_string())?;
        named.extend(delta.proposal.chunks.iter().map(|chunk| (chunk.chunk, delta.sequence)));
    }
    let mut suspects = BTreeSet::new();
    for some in named.keys().copied().collect::<Vec<_>>().chunks(MAX_CHUNKS_PER_QUESTION) {
        match client.control(&Request::HaveChunks(some.to_vec())).await.map_err(|error| error.to_string())? {
            Reply::ChunksHeld(held) if held.len() == some.len() => {
                suspects
                    .extend(some.iter().zip(held).filter(|(_, held)| held.is_none()).map(|(chunk, _)| named[chunk]));
            }
            _ => return Err("the question for chunks was answered with something else".into()),
        }
    }
    for sequence in suspects {
        // A version that was pruned by now has neither a name nor chunks.
        let Some((number, _)) = versions.get(&sequence) else { continue };
        read_at(log, &name(*number), &Moment::Sequence(sequence), world.shared())
            .await
            .map_err(|error| format!("{} at {sequence}: {error}", log.name()))?;
    }
    Ok(())
}

async fn read_all(client: &Client, info: &LogInfo) -> Result<Vec<Bytes>, String> {
    let mut all: Vec<Bytes> = Vec::new();
    while (all.len() as u64) < info.head.sequence {
        let request = ReadDeltas { log: info.descriptor.log, from: all.len() as u64 + 1, limit: PAGE };
        match client.control(&Request::ReadDeltas(request)).await.map_err(|error| error.to_string())? {
            Reply::Deltas(page) if !page.is_empty() => all.extend(page),
            _ => return Err(format!("the deltas end after {} of {}", all.len(), info.head.sequence)),
        }
    }
    all.truncate(info.head.sequence as usize);
    Ok(all)
}

fn check_chain(world: &World, log: &str, info: &LogInfo, deltas: &[Option<Delta>], hashes: &[Option<DeltaHash>]) {
    let mut previous = Some(DeltaHash::ZERO);
    let mut time = None;
    for (sequence, (delta, hash)) in (1..).zip(deltas.iter().zip(hashes)) {
        let before = std::mem::replace(&mut previous, *hash);
        let Some(delta) = delta else { continue };
        let good = delta.sequence == sequence
            && before.is_none_or(|before| delta.previous == before)
            && branch_of(&info.lineage, sequence) == Some(delta.generation.counter);
        world.violations().check(good, || format!("{log}: delta {sequence} does not continue the one before it"));
        let rises = time.replace(delta.time).is_none_or(|before| before < delta.time);
        world.violations().check(rises, || format!("{log}: the time of delta {sequence} does not rise"));
    }
    world.violations().check(previous == Some(info.head.hash), || format!("{log}: the head is not the last delta"));
}

/// Counter of the generation in which a sequence was placed.
fn branch_of(lineage: &Lineage, sequence: u64) -> Option<u64> {
    lineage.iter().rev().find(|branch| branch.first <= sequence).map(|branch| branch.generation.counter)
}

/// Whether a place is on the final history.
fn survives(settled: &Settled, cursor: &Cursor) -> bool {
    let lineage = &settled.info.lineage;
    let branch = lineage.iter().rev().find(|branch| branch.first <= cursor.sequence);
    branch.is_some_and(|branch| branch.generation == cursor.generation)
}

/// (4, 5) An acknowledged write is where its receipt says, unless a promotion that was ordered undid it.
fn writes_are_kept(world: &World, log: &str, settled: &Settled, events: &[&Event]) {
    for event in events {
        let Outcome::Placed(cursor) = &event.outcome else { continue };
        if survives(settled, cursor) {
            // Beyond the last delta there is nothing; where something was pruned its hash may be all that is left, or less.
            let there = settled.hashes.get(cursor.sequence as usize - 1);
            let is_there = there.is_some_and(|hash| hash.is_none_or(|hash| hash == cursor.hash));
            world.violations().check(is_there, || {
                format!("{log}: operation {} was placed at {} and is not there", event.number, cursor.sequence)
            });
            let is_kept = settled.delta(cursor.sequence).is_some();
            if is_kept && matches!(event.operation, Operation::Put { .. }) {
                let number = settled.numbers.get(&cursor.sequence);
                world.violations().check(number == Some(&event.number), || {
                    format!("{log}: operation {} has another's place {}", event.number, cursor.sequence)
                });
            }
            continue;
        }
        let undone_by =
            settled.info.lineage.iter().find(|branch| branch.generation.counter > cursor.generation.counter);
        let by_order = undone_by.is_some_and(|branch| branch.first <= cursor.sequence);
        world.violations().check(by_order, || {
            format!("{log}: operation {}, placed at {}/{}, is lost", event.number, cursor.generation, cursor.sequence)
        });
    }
    let promotions = settled.info.lineage.len() as u64 - 1;
    world.violations().check(promotions <= world.promotions_ordered(), || {
        format!("{log}: {promotions} generations were begun by nobody's order")
    });
}

/// A retry, wherever it goes, is applied once.
fn writes_are_applied_once(world: &World, log: &str, settled: &Settled) {
    let mut seen = BTreeMap::new();
    for (sequence, number) in &settled.numbers {
        if let Some(before) = seen.insert(number, sequence) {
            world.violations().add(format!("{log}: operation {number} was applied at {before} and at {sequence}"));
        }
    }
    let mut operations = BTreeMap::new();
    for delta in settled.kept() {
        if let Some(before) = operations.insert(delta.proposal.operation, delta.sequence) {
            world.violations().add(format!("{log}: one operation id stands at {before} and at {}", delta.sequence));
        }
    }
}

/// The newest delta of a name before a place: its sequence and whether it removes, 0 if there is none. `None`: one that
/// was pruned may be newer.
fn newest_before(settled: &Settled, name: &BlindName, before: u64) -> Option<(u64, bool)> {
    for sequence in (1..before).rev() {
        let delta = settled.delta(sequence)?;
        if delta.proposal.name == *name {
            return Some((sequence, delta.proposal.kind == DeltaKind::Remove));
        }
    }
    Some((0, false))
}

/// A conditional put that was placed found the name as it wanted it.
fn conditions_held(world: &World, log: &str, settled: &Settled, events: &[&Event]) {
    for event in events {
        let (Outcome::Placed(cursor), Operation::Put { condition: Some(wanted) }) = (&event.outcome, &event.operation)
        else {
            continue;
        };
        let Some(delta) = settled.delta(cursor.sequence).filter(|_| survives(settled, cursor)) else { continue };
        let Some((found, removes)) = newest_before(settled, &delta.proposal.name, cursor.sequence) else { continue };
        // A name that was removed is as good as one that never was.
        let held = found == *wanted || (removes && *wanted == 0);
        world.violations().check(held, || {
            format!("{log}: operation {} wanted {wanted} as the newest and overwrote {found}", event.number)
        });
    }
}

/// A put that was refused for its condition was not done, neither by that request nor by one before that it repeats.
fn unmet_conditions_left_nothing(world: &World, log: &str, settled: &Settled, events: &[&Event]) {
    for event in events.iter().filter(|event| event.outcome == Outcome::Unmet) {
        // That there is nothing can come true again after a removal, for a request that was held up on its way.
        if event.operation == (Operation::Put { condition: Some(0) }) {
            continue;
        }
        let done = settled.numbers.iter().find(|(_, number)| **number == event.number);
        world.violations().check(done.is_none(), || {
            format!("{log}: operation {} was refused for its condition, and is at {done:?}", event.number)
        });
    }
}

/// Each payload is sealed under a key of its own: the 32 bytes behind its version, from which the key follows, are drawn
/// anew for each.
fn payload_keys_are_used_once(world: &World, log: &str, settled: &Settled) {
    let mut seen = BTreeMap::new();
    for delta in settled.kept().filter(|delta| !delta.proposal.payload.is_empty()) {
        let fresh = delta.proposal.payload.get(1..33).unwrap_or_default().to_vec();
        if let Some(before) = seen.insert(fresh, delta.sequence) {
            let text = format!("{log}: the payloads of {before} and {} are sealed under one key", delta.sequence);
            world.violations().add(text);
        }
    }
}

/// A read sees no less than what was acknowledged at that site before it was asked, as long as the log's home had not
/// moved in between; and nothing that was asked for only after it was answered.
fn reads_are_linearizable(world: &World, log: &str, settled: &Settled, events: &[&Event]) {
    let asked: BTreeMap<u64, u64> = events.iter().map(|event| (event.number, event.asked)).collect();
    for event in events.iter().filter(|event| event.operation == Operation::Get) {
        let before =
            |write: &&&Event| write.name == event.name && write.site == event.site && write.answered < event.asked;
        let generation = event.lineage.last().map(|last| last.generation);
        let placed = events.iter().filter(before).filter_map(|write| match &write.outcome {
            Outcome::Placed(cursor) if Some(cursor.generation) == generation && survives(settled, cursor) => {
                Some(cursor.sequence)
            }
            _ => None,
        });
        let floor = placed.max().unwrap_or(0);
        match &event.outcome {
            Outcome::Found { number, sequence } => {
                world.violations().check(*sequence >= floor, || {
                    format!("{log}: read {} saw {sequence} after {floor} was acknowledged", event.number)
                });
                world.violations().check(asked.get(number).is_some_and(|asked| *asked < event.answered), || {
                    format!("{log}: read {} saw version {number}, which nobody had written yet", event.number)
                });
            }
            Outcome::Nothing if floor > 0 => {
                // A removal that a promotion undid later was seen all the same.
                let removes = |write: &&&Event| {
                    let after = match &write.outcome {
                        Outcome::Placed(cursor) => cursor.sequence >= floor,
                        outcome => *outcome == Outcome::Unknown,
                    };
                    let this = write.operation == Operation::Remove && write.name == event.name;
                    this && after && write.asked < event.answered
                };
                world.violations().check(events.iter().any(|write| removes(&write)), || {
                    format!("{log}: read {} saw nothing after {floor} was acknowledged", event.number)
                });
            }
            _ => {}
        }
    }
}

/// A promotion's position covers everything that the home it replaces was told by this peer to be durable here.
fn promotions_kept_what_was_acknowledged(world: &World, watch: &Watch, log: &str) {
    for Promotion { site, promoted, cut, .. } in world.promotions() {
        // A cut sets aside what came after it.
        if cut.is_some() || format!("{}/{}", promoted.tenant_name, promoted.name) != log {
            continue;
        }
        let acknowledged = watch.acknowledged(log, promoted.generation.counter - 1);
        world.violations().check(promoted.position >= acknowledged, || {
            format!("{log}: site {site} was promoted at {} after acknowledging {acknowledged}", promoted.position)
        });
    }
}

/// A switchover's position is the last of its old home's generation: nothing was acknowledged behind it, and what was
/// acknowledged before it is there for as long as the generation that it began is.
fn switchovers_lost_nothing(world: &World, log: &str, settled: &Settled, events: &[&Event]) {
    for Promotion { from, promoted, .. } in world.promotions() {
        // One that could not say that it lost nothing promised nothing.
        let promises = promoted.lost_deltas == Some(0);
        let Some(from) = from.filter(|_| promises && format!("{}/{}", promoted.tenant_name, promoted.name) == log)
        else {
            continue;
        };
        let stays = settled.info.lineage.iter().any(|branch| branch.generation == promoted.generation);
        for event in events.iter().filter(|event| event.site == from) {
            let Outcome::Placed(cursor) = &event.outcome else { continue };
            if cursor.generation.counter + 1 != promoted.generation.counter {
                continue;
            }
            let (number, sequence) = (event.number, cursor.sequence);
            world.violations().check(sequence <= promoted.position, || {
                format!("{log}: operation {number} was placed at {sequence} after the log was handed over")
            });
            world.violations().check(!stays || survives(settled, cursor), || {
                format!("{log}: a switchover lost operation {number}, acknowledged at {sequence}")
            });
        }
    }
}

/// (4) A node that has just started acknowledges nothing before its peer has said that the log has no newer home, or was
/// silent for five seconds.
fn returning_homes_asked_first(world: &World, log: &str, events: &[&Event]) {
    // Where the peer was forgotten nobody is asked.
    if world.peer_was_removed() {
        return;
    }
    for event in events {
        let Outcome::Placed(cursor) = &event.outcome else { continue };
        let starts = world.sites()[event.site].borrow().starts().to_vec();
        // What was asked for before the start may have been answered before it as well.
        let Some(started) = starts.into_iter().rev().find(|started| *started <= event.asked_ms) else { continue };
        if event.answered_ms >= started + HOME_CHECK_MS {
            continue;
        }
        let replaced = world.promotions().into_iter().find(|promotion| {
            format!("{}/{}", promotion.promoted.tenant_name, promotion.promoted.name) == log
                && promotion.site != event.site
                && promotion.answered_ms < started
                && promotion.promoted.generation > cursor.generation
        });
        world.violations().check(replaced.is_none(), || {
            let (number, after) = (event.number, event.answered_ms - started);
            format!(
                "{log}: operation {number} was acknowledged {after} ms after a home returned that had been replaced"
            )
        });
    }
}

/// (4) Where a log has a lease, an old home acknowledges nothing any more once another site has taken over, unless that was forced.
fn leases_were_held(world: &World, log: &str, events: &[&Event]) {
    if !world.has_leases() {
        return;
    }
    for promotion in world.promotions() {
        let name = format!("{}/{}", promotion.promoted.tenant_name, promotion.promoted.name);
        if promotion.forced || promotion.from.is_some() || name != log {
            continue;
        }
        let late = events.iter().find(|event| {
            let is_older = |cursor: &Cursor| cursor.generation < promotion.promoted.generation;
            event.asked_ms > promotion.answered_ms
                && event.site != promotion.site
                && matches!(&event.outcome, Outcome::Placed(cursor) if is_older(cursor))
        });
        world.violations().check(late.is_none(), || {
            let number = late.map_or(0, |event| event.number);
            format!("{log}: operation {number} was acknowledged by a home whose lease was over")
        });
    }
}

/// (5) What a promotion undid is set aside at the site that had acknowledged it.
async fn undone_deltas_are_set_aside(
    world: &World,
    clients: &[Client],
    log: &str,
    settled: &Settled,
    events: &[&Event],
) -> Result<(), String> {
    for (site, client) in clients.iter().enumerate() {
        let lost = events.iter().filter(|event| event.site == site).filter(|event| match &event.outcome {
            Outcome::Placed(cursor) => !survives(settled, cursor),
            _ => false,
        });
        let lost: Vec<&&Event> = lost.collect();
        // Where what a peer lacks is let go of, or a peer goes back to before what it had, a home may have pruned what it replaced
        // itself before that was undone.
        let place = |event: &Event| match &event.outcome {
            Outcome::Placed(cursor) => (cursor.generation, cursor.sequence),
            _ => unreachable!("only what was placed is lost"),
        };
        let may_be_gone = |event: &&&&Event| {
            let replaced = |other: &&&Event| other.name == event.name && place(other) > place(event);
            event.operation == Operation::Remove || lost.iter().any(replaced)
        };
        let is_bound = world.bounds_holds() || world.cut_was_ordered();
        let lost = lost.iter().filter(|event| !is_bound || !may_be_gone(event)).count() as u64;
        let document = status(client).await?;
        let mine = document["logs"].as_array().and_then(|logs| logs.iter().find(|entry| entry["name"] == log));
        let aside = mine.and_then(|entry| entry["set_aside_deltas"].as_u64()).unwrap_or(0);
        let failed = |error: ClientError| format!("{log}: {error}");
        let listed = divergence::look(world, &client.open_log(log).await.map_err(failed)?).await.map_err(failed)?;
        world.violations().check(listed == aside, || {
            format!("{log}: site {site} says that {aside} deltas are set aside, and lists {listed}")
        });
        let aside = aside + world.discarded_of(site, log);
        world.violations().check(aside >= lost, || {
            format!("{log}: {lost} acknowledged writes were undone at site {site}, {aside} deltas are set aside there")
        });
    }
    Ok(())
}

/// (1, 7) Chunks that a visible delta names are there; what nobody needs goes in the end. Needed are at most those that
/// either copy names, one for each delta that was set aside, and the pieces of snapshots.
async fn chunks_are_conserved(
    world: &World,
    site: usize,
    client: &Client,
    needed: &BTreeSet<ChunkId>,
) -> Result<(), String> {
    // A chunk outlives its last touch by two barriers.
    let deadline = tokio::time::Instant::now() + GC_ROUNDS * Duration::from_secs(1 + world.gc_seconds());
    loop {
        let document = status(client).await?;
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let each = |list: &str, field: &str| {
            document[list].as_array().into_iter().flatten().map(|entry| number(&entry[field])).sum::<u64>()
        };
        let (there, pieces) = (number(&document["chunks"]), each("counters", "snapshot_pieces"));
        // Each node counts those that it has a fragment of.
        let nodes = document["nodes"].as_array().map_or(1, Vec::len) as u64;
        let most = nodes * (needed.len() as u64 + pieces + each("logs", "set_aside_deltas"));
        if there <= most {
            break;
        }
        if tokio::time::Instant::now() > deadline {
            world.violations().add(format!("site {site} keeps {there} chunks, of which at most {most} are needed"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
