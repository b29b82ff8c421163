//! Scrubbing: every fragment of this shard is read again and checked, over and over, in a part of the shard's time, so that
//! what has rotted is made up for while the rest is still good.
//!
//! A pass goes by the first byte of chunks' ids, part by part. How far it is stands in a small file, written now and then:
//! a node that is restarted goes on there. What is damaged the store no longer counts on, and repair is told.

use super::directory::{NodeDirectory, ScrubRecord};
use super::limits::{LOOK_STEP, SCRUB_AFTER, SCRUB_EVERY, SCRUB_LOOK, SCRUB_PAUSE, SCRUB_SAVE};
use super::routing;
use super::server::Answered;
use super::shard::Shard;
use crate::framed::{self, FileKind, FramedFileError};
use crate::store::{CollectCursor, StoreError};
use crate::times::show_time;
use farside_codec::ids::{ChunkId, Hlc};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
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
    fn begin(&self, now_ms: u64) {
        let mut record = self.record.borrow_mut();
        let (finished_ms, took_ms) = (record.finished_ms, record.took_ms);
        *record = ScrubRecord { begun_ms: now_ms.max(1), finished_ms, took_ms, ..ScrubRecord::NOTHING };
    }

    fn end(&self, now_ms: u64) {
        let mut record = self.record.borrow_mut();
        record.next = 0;
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
    let (running, finished) = (records.iter().any(|record| record.next > 0), first(|record| record.finished_ms));
    let took = records.iter().map(|record| record.took_ms).max().unwrap_or(0);
    json!({
        "state": match (running, percent) { (true, _) => "running", (false, 0) => "off", (false, _) => "resting" },
        "progress": sum(|record| u64::from(record.next)) as f64 / (f64::from(PARTS) * records.len().max(1) as f64),
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
    let record = shard.scrub.record.borrow().clone();
    let path = NodeDirectory::new(&shard.root).scrub(shard.index);
    if let Err(error) = framed::write_record(&path, FileKind::Scrub, &record) {
        tracing::warn!(%error, "how far scrubbing is can't be written down");
    }
}

/// Scrubs for as long as the shard runs.
pub(super) async fn keep_scrubbed<D: Disk>(shard: Rc<Shard<D>>) {
    shard.scrub.record.replace(load(&shard));
    tokio::time::sleep(SCRUB_AFTER).await;
    loop {
        let now_ms = shard.clock.clock().wall_ms();
        let ordered = shard.scrub.ordered.take();
        let (next, begun_ms) = {
            let record = shard.scrub.record.borrow();
            (record.next, record.begun_ms)
        };
        let passed = now_ms.checked_sub(begun_ms).is_none_or(|passed| passed >= SCRUB_EVERY.as_millis() as u64);
        let percent = ordered.unwrap_or(shard.scrub_percent);
        if percent == 0 || (ordered.is_none() && next == 0 && !passed) {
            tokio::time::sleep(SCRUB_LOOK).await;
            continue;
        }
        if ordered.is_some() || next == 0 {
            shard.scrub.begin(now_ms);
        }
        if let Err(error) = pass(&shard, percent).await {
            tracing::warn!(%error, "scrubbing rests");
            tokio::time::sleep(SCRUB_EVERY / 1440).await;
        }
    }
}

/// Goes on with the pass that is under way, to its end or until another one is ordered.
async fn pass<D: Disk>(shard: &Rc<Shard<D>>, percent: u8) -> Result<(), StoreError> {
    let clock = shard.clock.clock();
    let mut saved = clock.monotonic();
    let next = shard.scrub.record.borrow().next;
    for part in next..PARTS {
        let mut cursor = Some(CollectCursor::default());
        while let Some(at) = cursor {
            let (walked, next) = shard.store.walk(at, LOOK_STEP);
            cursor = next;
            for (chunk, _) in walked.into_iter().filter(|(chunk, _)| u16::from(chunk.0[0]) == part) {
                if shard.scrub.ordered.get().is_some() {
                    return Ok(());
                }
                let begun = clock.monotonic();
                look(shard, chunk).await?;
                let took = clock.monotonic().saturating_sub(begun);
                tokio::time::sleep(rest(took, percent)).await;
            }
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
    let record = shard.scrub.record.borrow().clone();
    tracing::info!(good = record.good, damaged = record.damaged, refused = record.refused, "everything was scrubbed");
    Ok(())
}

/// How long to rest after so much work, so that the work is this part of the time.
fn rest(worked: Duration, percent: u8) -> Duration {
    let percent = u32::from(percent.clamp(1, 100));
    worked * (100 - percent) / percent
}

async fn look<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> Result<(), StoreError> {
    let found = match shard.store.verify(chunk).await {
        // A chunk for which this node has no memory was put by one that had.
        Err(StoreError::Size { .. }) => return Ok(()),
        found => found?,
    };
    {
        let mut record = shard.scrub.record.borrow_mut();
        record.good += u64::from(found.good);
        record.bytes += found.bytes;
        record.damaged += u64::from(found.damaged);
        record.refused += u64::from(found.refused);
    }
    if found.damaged > 0 && !shard.is_alone() && !shard.snapshots.needs(&chunk) {
        shard.owe(chunk);
    }
    Ok(())
}

/// Has every node of the site begin a pass now. Those that don't answer are named in a refusal; the others have begun.
pub(super) async fn start<D: Disk>(shard: &Rc<Shard<D>>, percent: u8) -> Answered {
    let mut silent = Vec::new();
    start_here(shard, percent).await?;
    for node in shard.others() {
        match routing::ask_node(shard, &node, 0, &Request::Scrub(percent)).await {
            Ok(Reply::Done) => {}
            Ok(_) => return Err(super::links::misanswered()),
            Err(error) => silent.push(format!("{} ({})", node.name, Refusal::from(error))),
        }
    }
    match silent.is_empty() {
        true => Ok(Reply::Done.into()),
        false => {
            let detail = format!("the other nodes have begun, but not {}", silent.join(", "));
            Err(Refusal::new(RefusalCode::Unavailable, detail))
        }
    }
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
