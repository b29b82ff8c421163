//! Scrubbing: every fragment of this shard is read again and checked, over and over, in a part of the shard's time, so that
//! what has rotted is made up for while the rest is still good.
//!
//! A pass goes by the last byte of chunks' ids, part by part. How far it is stands in a small file, written now and then:
//! a node that is restarted goes on there. What is damaged the store no longer counts on, and repair is told.

use super::directory::{NodeDirectory, ScrubRecord};
use super::limits::{
    SCRUB_AFTER, SCRUB_EVERY, SCRUB_LOOK, SCRUB_PAUSE, SCRUB_REST, SCRUB_SAVE, SCRUB_SECOND_LOOK, SCRUB_STEP,
};
use super::server::Answered;
use super::shard::Shard;
use super::{chunks, routing};
use crate::framed::{self, FileKind, FramedFileError};
use crate::store::{CollectCursor, Refused, StoreError};
use crate::times::show_time;
use farside_codec::cluster::NodeState;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, Hlc};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Parts of a pass.
const PARTS: u16 = 256;

/// What a shard knows about its scrubbing.
pub(crate) struct Scrub {
    record: RefCell<ScrubRecord>,
    /// A pass was ordered, at this part of the shard's time in percent.
    ordered: Cell<Option<u8>>,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { record: RefCell::new(ScrubRecord::NOTHING), ordered: Cell::new(None) }
    }
}

impl Scrub {
    fn begin(&self, now_ms: u64, percent: u8) {
        let mut record = self.record.borrow_mut();
        let (finished_ms, took_ms) = (record.finished_ms, record.took_ms);
        *record = ScrubRecord { percent, begun_ms: now_ms.max(1), finished_ms, took_ms, ..ScrubRecord::NOTHING };
    }

    fn end(&self, now_ms: u64) {
        let mut record = self.record.borrow_mut();
        (record.percent, record.next) = (0, 0);
        record.finished_ms = now_ms.max(1);
        // The clock may have been set meanwhile.
        record.took_ms = now_ms.saturating_sub(record.begun_ms);
    }

    /// How far it is.
    pub(super) fn record(&self) -> ScrubRecord {
        self.record.borrow().clone()
    }
}

/// What status says of the scrubbing of a node, all shards together.
pub(super) fn told(records: &[ScrubRecord], percent: u8) -> Value {
    let sum = |of: fn(&ScrubRecord) -> u64| records.iter().map(of).sum::<u64>();
    // What one shard has not done the node has not done.
    let first = |of: fn(&ScrubRecord) -> u64| records.iter().map(of).min().unwrap_or(0);
    let time = |ms: u64| (ms > 0).then(|| show_time(Hlc::from_ms(ms)));
    let (running, finished) = (records.iter().any(|record| record.percent > 0), first(|record| record.finished_ms));
    let took = records.iter().map(|record| record.took_ms).max().unwrap_or(0);
    // A shard that is done waits for the others.
    let done = |record: &ScrubRecord| if record.percent > 0 { u64::from(record.next.min(PARTS)) } else { PARTS.into() };
    let parts = records.iter().map(done).sum::<u64>() as f64;
    json!({
        "state": match (running, percent) { (true, _) => "running", (false, 0) => "off", (false, _) => "resting" },
        "progress": if running { parts / (f64::from(PARTS) * records.len().max(1) as f64) } else { 0.0 },
        "begun": time(first(|record| record.begun_ms)),
        "last_full_pass": time(finished),
        "last_full_pass_seconds": (finished > 0).then_some(took as f64 / 1000.0),
        "good_fragments": sum(|record| record.good),
        "good_bytes": sum(|record| record.bytes),
        "damaged_fragments": sum(|record| record.damaged),
        "unreadable_fragments": sum(|record| record.refused),
    })
}

fn load<D: Disk>(shard: &Shard<D>) -> ScrubRecord {
    match framed::read_record(&NodeDirectory::new(&shard.root).scrub(shard.index), FileKind::Scrub) {
        Ok(record) => record,
        Err(FramedFileError::Missing(_)) => ScrubRecord::NOTHING,
        Err(error) => {
            tracing::warn!(%error, "how far scrubbing was is not known: it begins anew");
            ScrubRecord::NOTHING
        }
    }
}

fn save<D: Disk>(shard: &Shard<D>) {
    let path = NodeDirectory::new(&shard.root).scrub(shard.index);
    if let Err(error) = framed::write_record(&path, FileKind::Scrub, &shard.scrub.record()) {
        tracing::warn!(%error, "how far scrubbing is can't be written down");
    }
}

/// Scrubs for as long as the shard runs.
pub(super) async fn keep_scrubbed<D: Disk>(shard: Rc<Shard<D>>) {
    shard.scrub.record.replace(load(&shard));
    tokio::time::sleep(SCRUB_AFTER).await;
    loop {
        let now_ms = shard.clock.clock().wall_ms();
        let known = shard.scrub.record();
        // A clock that was set back must not keep it waiting for years.
        let passed = now_ms.checked_sub(known.begun_ms).is_none_or(|passed| passed >= SCRUB_EVERY.as_millis() as u64);
        let by_itself = shard.scrub_percent > 0 && known.percent == 0 && passed;
        match shard.scrub.ordered.take() {
            Some(percent) => shard.scrub.begin(now_ms, percent),
            None if by_itself => shard.scrub.begin(now_ms, shard.scrub_percent),
            None if known.percent > 0 => {}
            None => {
                tokio::time::sleep(SCRUB_LOOK).await;
                continue;
            }
        }
        if let Err(error) = pass(&shard).await {
            tracing::warn!(%error, "scrubbing rests");
            tokio::time::sleep(SCRUB_REST).await;
        }
    }
}

/// Goes on with the pass that is under way, to its end or until another one is ordered.
async fn pass<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), StoreError> {
    let clock = shard.clock.clock();
    let mut saved = clock.monotonic();
    let ScrubRecord { percent, next, .. } = shard.scrub.record();
    save(shard);
    for part in next..PARTS {
        let mut cursor = Some(CollectCursor::default());
        while let Some(at) = cursor {
            // The first bytes say which shard a chunk belongs to.
            let (chunks, next) = shard.store.walk_chunks(at, SCRUB_STEP, |chunk| u16::from(chunk.0[31]) == part);
            cursor = next;
            for chunk in chunks {
                if shard.scrub.ordered.get().is_some() {
                    return Ok(());
                }
                let begun = clock.monotonic();
                look(shard, chunk).await?;
                let took = clock.monotonic().saturating_sub(begun);
                tokio::time::sleep(rest(took, percent)).await;
            }
            tokio::task::yield_now().await;
        }
        shard.scrub.record.borrow_mut().next = part + 1;
        if clock.monotonic().saturating_sub(saved) >= SCRUB_SAVE {
            saved = clock.monotonic();
            save(shard);
        }
        tokio::time::sleep(SCRUB_PAUSE).await;
    }
    shard.scrub.end(clock.wall_ms());
    save(shard);
    let ScrubRecord { good, damaged, refused, .. } = shard.scrub.record();
    tracing::info!(good, damaged, refused, "everything was scrubbed");
    Ok(())
}

/// How long to rest after so much work, so that the work is this part of the time.
fn rest(worked: Duration, percent: u8) -> Duration {
    let percent = u32::from(percent.clamp(1, 100));
    worked * (100 - percent) / percent
}

/// Reads a chunk's fragments that are here, and has made up for what is no good.
pub(super) async fn look<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> Result<(), StoreError> {
    let found = match shard.store.verify(chunk).await {
        // A chunk for which this node has no memory was put by one that had.
        Err(StoreError::Size { .. }) => return Ok(()),
        found => found?,
    };
    let given_up = match found.refused.first() {
        // One at a time: what can be made up for is, before the next one goes.
        Some(refused) => give_up(shard, chunk, refused).await?,
        None => false,
    };
    {
        let mut record = shard.scrub.record.borrow_mut();
        record.good += u64::from(found.good);
        record.bytes += found.bytes;
        record.damaged += u64::from(found.damaged) + u64::from(given_up);
        record.refused += found.refused.len() as u64 - u64::from(given_up);
    }
    if found.damaged > 0 || given_up {
        match shard.is_alone() || shard.snapshots.needs(&chunk) {
            true => drop(super::mending::mend(shard, chunk).await),
            false => shard.owe(chunk),
        }
    }
    Ok(())
}

/// Counts no longer on a fragment that its device will not read, where that costs nothing: where as many others are good,
/// here or at other nodes, as give it back. Answers whether that was so.
async fn give_up<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId, refused: &Refused) -> Result<bool, StoreError> {
    let here = shard.is_alone() || shard.snapshots.needs(&chunk);
    let others = if here { refused.good_beside() } else { elsewhere(shard, chunk, refused.geometry()).await };
    if others < refused.geometry().data() {
        return Ok(false);
    }
    tokio::time::sleep(SCRUB_SECOND_LOOK).await;
    shard.store.give_up(chunk, refused).await
}

/// Distinct fragments of a stripe that other nodes say they hold.
async fn elsewhere<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId, geometry: Geometry) -> usize {
    let holdings = chunks::ask_all(shard, &[chunk], 0).await;
    let found = holdings.of.into_values().flatten();
    let others = found.filter(|(node, held)| *node != shard.site.node && held.geometry == geometry);
    others.flat_map(|(_, held)| held.fragments).collect::<BTreeSet<u8>>().len()
}

/// Has every node of the site begin a pass now. Answers with the names of those that did not.
pub(super) async fn start<D: Disk>(shard: &Rc<Shard<D>>, percent: u8) -> Answered {
    start_here(shard, percent).await?;
    let mut silent = Vec::new();
    let nodes = shard.view().nodes.values().cloned().collect::<Vec<_>>();
    for node in nodes.into_iter().filter(|node| node.node != shard.site.node && node.state != NodeState::Removed) {
        match routing::ask_node(shard, &node, 0, &Request::Scrub(percent)).await {
            Ok(Reply::Done) => {}
            Ok(_) | Err(_) => silent.push(node.name.to_string()),
        }
    }
    Ok(Reply::ScrubBegun(silent).into())
}

/// Has every shard of this node begin a pass now.
pub(super) async fn start_here<D: Disk>(shard: &Rc<Shard<D>>, percent: u8) -> Answered {
    if percent > 100 {
        return Err(Refusal::new(RefusalCode::BadRequest, "scrubbing takes 1 to 100 percent of a shard's time"));
    }
    for index in 0..shard.shards() {
        let order = move |there: Rc<Shard<D>>| async move {
            let percent = if percent == 0 { there.scrub_percent } else { percent };
            there.scrub.ordered.set(Some(percent.max(1)));
        };
        shard.on(index, order).await?;
    }
    Ok(Reply::Done.into())
}
