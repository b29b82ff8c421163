//! A shard's write-ahead log, shared by all of its Raft groups: group commit, mirrored, circular.
//!
//! One batch is in flight at a time. A batch holds whatever all groups queued while the one before it was written; it
//! goes to every mirror and is flushed there before anyone is told. So only the last batch can be torn by a crash, and
//! anything missing before it is damage, not a torn tail. A mirror whose write or flush fails is out of use; the log
//! goes on with the others and fails when none is left. When the region fills, the live state is written again at the
//! head (a checkpoint) and the tail moves up behind it. A checkpoint counts when all of it is there, and then stands for
//! everything before it; half of one says nothing, and the next opening begins with another one in its space. No more
//! entries are let in than a checkpoint can hold (`admission`).
//!
//! The first batch of every opening is durable before anything is said about what was found. It puts an end to whatever
//! a power cut left behind the chain, also on a mirror that was away.

mod admission;
mod recovery;
mod state;
mod witness;

use crate::limits;
pub(crate) use admission::{Admitted, Gate};
use farside_codec::frame::HEADER_BYTES;
use farside_codec::ids::{DeviceId, GroupId};
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::message::kind;
use farside_codec::record::wal::{BatchHead, WalRecord};
use farside_codec::{Field, FrameHeader};
use farside_io::disk::Disk;
use farside_io::pool::{Pool, Slice};
use futures_util::future::join_all;
pub use recovery::{WalError, WalReport};
pub use state::GroupLog;
pub(crate) use state::cost;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use tokio::sync::{Notify, oneshot};
pub use witness::Witness;

/// One copy of the log: a region of a device.
#[derive(Clone)]
pub struct WalMirror<D> {
    /// The device's id, by which it is let go.
    pub device: DeviceId,
    /// The device.
    pub disk: D,
    /// First byte of the region.
    pub offset: u64,
    /// Bytes of the region; the same for every mirror.
    pub bytes: u64,
}

/// Called once, when what was queued is durable, or never will be.
pub type Flushed = Box<dyn FnOnce(Result<(), WalError>)>;

/// Records that wait for the writer.
struct Queued {
    bytes: Vec<u8>,
    count: u32,
    flushed: Option<Flushed>,
}

/// The live state on its way to the head of the log.
struct Checkpoint {
    /// The batch that it begins with: the tail, once all of it is durable.
    first: u64,
    /// The number behind the last batch before it that counts: the same, unless one before it did not end.
    behind: u64,
    left: VecDeque<Vec<u8>>,
    /// Those who wait for what was queued when it was made, and is in it.
    waiting: Vec<Flushed>,
}

/// What one batch will hold.
#[derive(Default)]
struct Batch {
    records: Vec<u8>,
    count: u32,
    waiting: Vec<Flushed>,
    /// The checkpoint of which it holds a part: by its first batch, if this is the last, else by the number behind the last
    /// batch that counts; how many records, and whether they are its last.
    checkpoint: Option<(u64, u32, bool)>,
}

impl Batch {
    fn fits(&self, more: usize) -> bool {
        self.count == 0 || self.records.len() + more <= limits::BATCH_BYTES
    }

    fn push(&mut self, records: &[u8], count: u32) {
        self.records.extend_from_slice(records);
        self.count += count;
    }
}

/// A batch that is on the devices.
#[derive(Debug, Clone, Copy)]
struct Placed {
    number: u64,
    offset: u64,
    bytes: u64,
}

struct Inner<D> {
    owner: [u8; 16],
    opening: u64,
    pool: Pool,
    region_bytes: u64,
    mirrors: RefCell<Vec<WalMirror<D>>>,
    lost_mirrors: Cell<u32>,
    witness: Rc<dyn Witness>,
    /// Devices that were let go: what is being written there now is the last.
    let_go: RefCell<Vec<DeviceId>>,
    groups: RefCell<BTreeMap<GroupId, GroupLog>>,
    queue: RefCell<VecDeque<Queued>>,
    queued_bytes: Cell<usize>,
    /// Bytes of entries that were let in and are not here yet.
    entering: Rc<Cell<usize>>,
    /// Bytes of proposals that wait for their group's turn.
    waiting: Rc<Cell<usize>>,
    held_back: Cell<u64>,
    work: Notify,
    drained: Notify,
    placed: RefCell<VecDeque<Placed>>,
    next_number: Cell<u64>,
    /// Oldest batch with something alive: the first of the newest checkpoint all of which is durable. Space before it is
    /// free.
    tail: Cell<u64>,
    previous_crc: Cell<u32>,
    checkpoint: RefCell<Option<Checkpoint>>,
    /// A checkpoint of an earlier opening did not end. The next one takes its space, and begins before anything else is
    /// written: what comes behind its parts could not be found without them.
    is_interrupted: Cell<bool>,
    failed: RefCell<Option<WalError>>,
    closed: Cell<bool>,
}

/// The log. Clones share it.
pub struct Wal<D>(Rc<Inner<D>>);

impl<D> Clone for Wal<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn devices<D>(mirrors: &[WalMirror<D>]) -> Vec<DeviceId> {
    mirrors.iter().map(|mirror| mirror.device).collect()
}

impl<D: Disk> Wal<D> {
    /// The same as [`Self::open_with`] where all mirrors that there are are there, or the newest of them is.
    pub async fn open(owner: [u8; 16], mirrors: Vec<WalMirror<D>>, pool: &Pool) -> Result<(Self, WalReport), WalError> {
        Self::open_with(owner, mirrors, pool, Rc::new(witness::Nobody)).await
    }

    /// Reads what the mirrors hold and goes on from there. `owner` tells this log from any other that lay there, `witness` a mirror
    /// that was away from one that has everything.
    pub async fn open_with(
        owner: [u8; 16],
        mirrors: Vec<WalMirror<D>>,
        pool: &Pool,
        witness: Rc<dyn Witness>,
    ) -> Result<(Self, WalReport), WalError> {
        let region_bytes = mirrors.iter().map(|mirror| mirror.bytes).min().ok_or(WalError::NoMirror)?;
        if region_bytes < limits::MIN_REGION_BYTES {
            return Err(WalError::RegionTooSmall { bytes: region_bytes });
        }
        let known = witness.mirrors().map_err(WalError::Unrecorded)?;
        let found = recovery::recover(owner, &mirrors, region_bytes, pool, known.as_deref()).await?;
        // Each of them holds everything by now, and nothing was said yet.
        witness.note(&devices(&found.mirrors)).map_err(WalError::Unrecorded)?;
        let wal = Self(Rc::new(Inner {
            owner,
            opening: found.opening,
            pool: pool.clone(),
            region_bytes,
            mirrors: RefCell::new(found.mirrors),
            lost_mirrors: Cell::new(found.report.lost_mirrors),
            witness,
            let_go: RefCell::default(),
            groups: RefCell::new(found.groups),
            queue: RefCell::default(),
            queued_bytes: Cell::default(),
            entering: Rc::default(),
            waiting: Rc::default(),
            held_back: Cell::default(),
            work: Notify::new(),
            drained: Notify::new(),
            next_number: Cell::new(found.next_number),
            tail: Cell::new(found.placed.front().map_or(1, |first| first.number)),
            placed: RefCell::new(found.placed),
            previous_crc: Cell::new(found.previous_crc),
            checkpoint: RefCell::default(),
            is_interrupted: Cell::new(found.is_interrupted),
            failed: RefCell::default(),
            closed: Cell::new(false),
        }));
        let writer = wal.clone();
        tokio::task::spawn_local(async move { writer.write_queue().await });
        wal.append_durably(&[]).await?;
        Ok((wal, found.report))
    }

    /// Reads one group's log.
    pub fn group<R>(&self, group: GroupId, read: impl FnOnce(&GroupLog) -> R) -> R {
        let mut groups = self.0.groups.borrow_mut();
        read(groups.entry(group).or_default())
    }

    /// Queues records; `flushed` is called once they are durable. What they say holds in memory at once.
    pub fn append(&self, records: &[WalRecord], flushed: Option<Flushed>) {
        let failed = self.0.failed.borrow().clone();
        let mut part = Queued { bytes: Vec::new(), count: 0, flushed: None };
        for record in records {
            // A record that was just made continues the log it was made for.
            self.0.groups.borrow_mut().entry(state::group_of(record)).or_default().apply(record);
            let begun = part.bytes.len();
            record.encode(&mut part.bytes);
            if part.count > 0 && part.bytes.len() > limits::BATCH_BYTES && failed.is_none() {
                // Each batch has its bound, however much openraft appends at once.
                let bytes = part.bytes.split_off(begun);
                self.enqueue(std::mem::replace(&mut part, Queued { bytes, count: 0, flushed: None }));
            }
            part.count += 1;
        }
        match failed {
            Some(error) => flushed.into_iter().for_each(|flushed| flushed(Err(error.clone()))),
            None => self.enqueue(Queued { flushed, ..part }),
        }
    }

    fn enqueue(&self, queued: Queued) {
        self.0.queued_bytes.set(self.0.queued_bytes.get() + queued.bytes.len());
        self.0.queue.borrow_mut().push_back(queued);
        self.0.work.notify_one();
    }

    /// The same, waiting until it is durable.
    pub async fn append_durably(&self, records: &[WalRecord]) -> Result<(), WalError> {
        let (sender, receiver) = oneshot::channel();
        self.append(records, Some(Box::new(move |result| drop(sender.send(result)))));
        receiver.await.unwrap_or(Err(WalError::Closed))
    }

    /// Waits until the queue has room, so that memory does not grow past its bound.
    pub async fn room(&self) {
        while self.0.queued_bytes.get() > limits::QUEUE_BYTES && self.0.failed.borrow().is_none() {
            self.0.drained.notified().await;
        }
    }

    /// Bytes of entries in memory, and the group that holds most of them.
    pub fn live(&self) -> (usize, Option<GroupId>) {
        let groups = self.0.groups.borrow();
        let total = groups.values().map(GroupLog::live_bytes).sum();
        (total, groups.iter().max_by_key(|(_, log)| log.live_bytes()).map(|(group, _)| *group))
    }

    /// Live bytes above which groups should make snapshots: a bound of memory, and of what a checkpoint writes.
    pub fn live_limit(&self) -> usize {
        limits::LIVE_BYTES.min((self.0.region_bytes / limits::LIVE_PART) as usize)
    }

    /// Part of the region in use, 0 to 1.
    pub fn used(&self) -> f64 {
        self.used_bytes() as f64 / self.0.region_bytes as f64
    }

    /// Mirrors that failed or could not be read.
    pub fn lost_mirrors(&self) -> u32 {
        self.0.lost_mirrors.get()
    }

    /// Writes to a device no more, which counts as no loss. Answers whether that is so: the last mirror is not let go, nor one of
    /// which it can't be noted.
    pub fn let_go(&self, device: DeviceId) -> bool {
        let mut mirrors = self.0.mirrors.borrow_mut();
        let left: Vec<DeviceId> = devices(&mirrors).into_iter().filter(|mirror| *mirror != device).collect();
        if left.is_empty() {
            return false;
        }
        if let Err(error) = self.0.witness.note(&left) {
            tracing::error!(%error, %device, "that a mirror of the write-ahead log is let go can't be noted");
            return false;
        }
        mirrors.retain(|mirror| mirror.device != device);
        self.0.let_go.borrow_mut().push(device);
        true
    }

    /// The devices that hold a mirror which is written to.
    pub fn mirrors(&self) -> Vec<DeviceId> {
        devices(&self.0.mirrors.borrow())
    }

    /// Why nothing is written any more.
    pub fn failure(&self) -> Option<WalError> {
        self.0.failed.borrow().clone()
    }

    /// Stops the writer once everything queued is durable.
    pub async fn close(&self) {
        // The answer to this empty append means that all before it was answered.
        let _ = self.append_durably(&[]).await;
        self.0.closed.set(true);
        self.0.work.notify_one();
    }

    fn used_bytes(&self) -> u64 {
        let placed = self.0.placed.borrow();
        let (Some(first), Some(last)) = (placed.front(), placed.back()) else { return 0 };
        let end = last.offset + last.bytes;
        if last.offset >= first.offset { end - first.offset } else { self.0.region_bytes - first.offset + end }
    }

    async fn write_queue(&self) {
        while !self.0.closed.get() {
            self.begin_checkpoint_if_due();
            let Some(batch) = self.next_batch() else {
                self.0.work.notified().await;
                continue;
            };
            let result = self.write_batch(&batch).await;
            if let Err(error) = &result {
                *self.0.failed.borrow_mut() = Some(error.clone());
                tracing::error!(%error, "the write-ahead log has stopped");
            }
            batch.waiting.into_iter().for_each(|flushed| flushed(result.clone()));
            self.0.drained.notify_waiters();
            if result.is_err() {
                return self.fail_queue();
            }
        }
    }

    fn fail_queue(&self) {
        let error = self.0.failed.borrow().clone().unwrap_or(WalError::Closed);
        let in_checkpoint = self.0.checkpoint.take().into_iter().flat_map(|checkpoint| checkpoint.waiting);
        let queued = self.0.queue.take().into_iter().filter_map(|queued| queued.flushed);
        in_checkpoint.chain(queued).for_each(|flushed| flushed(Err(error.clone())));
    }

    fn begin_checkpoint_if_due(&self) {
        let mut checkpoint = self.0.checkpoint.borrow_mut();
        let is_due = || self.used_bytes() >= self.0.region_bytes / 8 * limits::CHECKPOINT_EIGHTHS;
        if checkpoint.is_some() || !self.0.is_interrupted.take() && !is_due() {
            return;
        }
        let mut left = VecDeque::new();
        for (group, log) in self.0.groups.borrow().iter() {
            log.records(*group, &mut |record| left.push_back(record.to_bytes().to_vec()));
        }
        // Memory holds what is queued already, and so does the checkpoint: it need not be written once more.
        let waiting = self.0.queue.take().into_iter().filter_map(|queued| queued.flushed).collect();
        self.0.queued_bytes.set(0);
        let behind = self.0.placed.borrow().back().map_or(1, |last| last.number + 1);
        *checkpoint = Some(Checkpoint { first: self.0.next_number.get(), behind, left, waiting });
    }

    /// Takes what fits into one batch: a part of the checkpoint under way, or what is queued.
    fn next_batch(&self) -> Option<Batch> {
        let mut batch = Batch::default();
        if let Some(checkpoint) = self.0.checkpoint.borrow_mut().as_mut() {
            while let Some(record) = checkpoint.left.pop_front_if(|record| batch.fits(record.len())) {
                batch.push(&record, 1);
            }
            let ends = checkpoint.left.is_empty();
            batch.checkpoint = Some((if ends { checkpoint.first } else { checkpoint.behind }, batch.count, ends));
            if ends {
                batch.waiting.append(&mut checkpoint.waiting);
            }
            // What is queued waits until space is free again.
            return Some(batch);
        }
        let mut queue = self.0.queue.borrow_mut();
        let idle = queue.is_empty();
        while let Some(queued) = queue.pop_front_if(|queued| batch.fits(queued.bytes.len())) {
            self.0.queued_bytes.set(self.0.queued_bytes.get() - queued.bytes.len());
            batch.push(&queued.bytes, queued.count);
            batch.waiting.extend(queued.flushed);
        }
        (!idle).then_some(batch)
    }

    async fn write_batch(&self, batch: &Batch) -> Result<(), WalError> {
        let number = self.0.next_number.get();
        let (checkpoint, checkpoint_records, checkpoint_ends) = batch.checkpoint.unwrap_or_default();
        let bytes = (HEADER_BYTES + BatchHead::BYTES + batch.records.len()).next_multiple_of(BLOCK_BYTES);
        let offset = self.place(bytes as u64)?;
        let head = BatchHead {
            owner: self.0.owner,
            offset,
            opening: self.0.opening,
            previous_crc: self.0.previous_crc.get(),
            tail: self.0.tail.get(),
            durable: number - 1,
            checkpoint,
            checkpoint_records,
            checkpoint_ends,
            records: batch.count,
        };
        let mut payload = head.to_bytes().to_vec();
        payload.extend_from_slice(&batch.records);
        let header = FrameHeader::of_payload(kind::WAL_BATCH, 0, number, &payload);
        let mut buffer = self.0.pool.take(bytes).await.map_err(|_| WalError::BatchTooLarge { bytes })?;
        buffer[..HEADER_BYTES].copy_from_slice(&header.to_array());
        buffer[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(&payload);
        buffer[HEADER_BYTES + payload.len()..].fill(0);
        self.write_mirrors(offset, buffer.share()).await?;
        self.0.previous_crc.set(header.payload_crc());
        self.0.next_number.set(number + 1);
        self.0.placed.borrow_mut().push_back(Placed { number, offset, bytes: bytes as u64 });
        self.finish_checkpoint();
        Ok(())
    }

    /// Where the next batch goes: after the last one, or at the region's start if it does not fit before its end.
    fn place(&self, bytes: u64) -> Result<u64, WalError> {
        let placed = self.0.placed.borrow();
        let (Some(first), Some(last)) = (placed.front(), placed.back()) else { return Ok(0) };
        let end = last.offset + last.bytes;
        let full = WalError::Full { region_bytes: self.0.region_bytes };
        match last.offset >= first.offset {
            true if end + bytes <= self.0.region_bytes => Ok(end),
            true if bytes <= first.offset => Ok(0),
            false if end + bytes <= first.offset => Ok(end),
            _ => Err(full),
        }
    }

    /// Writes and flushes every mirror; one is enough, and those that fail are out of use.
    async fn write_mirrors(&self, offset: u64, data: Slice) -> Result<(), WalError> {
        let mirrors = self.0.mirrors.borrow().clone();
        let write = |mirror: &WalMirror<D>| {
            let (mirror, data) = (mirror.clone(), data.clone());
            async move {
                mirror.disk.write(mirror.offset + offset, data).await?;
                mirror.disk.sync().await
            }
        };
        let results = join_all(mirrors.iter().map(write)).await;
        let mut left = Vec::new();
        let let_go = self.0.let_go.borrow().clone();
        for (mirror, result) in mirrors.into_iter().zip(results) {
            match result {
                // It was let go while this was written.
                _ if let_go.contains(&mirror.device) => {}
                Ok(()) => left.push(mirror),
                Err(error) => {
                    self.0.lost_mirrors.set(self.0.lost_mirrors.get() + 1);
                    tracing::error!(%error, "a mirror of the write-ahead log failed and is out of use");
                }
            }
        }
        if left.is_empty() {
            // They hold as much as anybody.
            *self.0.mirrors.borrow_mut() = left;
            return Err(WalError::NoMirror);
        }
        let shrank = left.len() < self.0.mirrors.borrow().len();
        *self.0.mirrors.borrow_mut() = left;
        // Before anybody is told of what only these hold.
        match shrank {
            true => self.0.witness.note(&self.mirrors()).map_err(WalError::Unrecorded),
            false => Ok(()),
        }
    }

    fn finish_checkpoint(&self) {
        let mut checkpoint = self.0.checkpoint.borrow_mut();
        if let Some(done) = checkpoint.take_if(|checkpoint| checkpoint.left.is_empty()) {
            self.0.tail.set(done.first);
            self.0.placed.borrow_mut().retain(|placed| placed.number >= done.first);
        }
    }
}
