//! What lies on the mirrors after a start: the chain of batches from the tail on, a torn tail dropped, damage told.

use super::state::{GroupLog, group_of};
use super::{Placed, WalMirror};
use bytes::Bytes;
use farside_codec::frame::HEADER_BYTES;
use farside_codec::ids::{DeviceId, GroupId};
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::message::kind;
use farside_codec::record::wal::{BatchHead, WalRecord};
use farside_codec::{Field, FrameHeader, Reader};
use farside_io::disk::{Disk, DiskError};
use farside_io::pool::{Buffer, Pool};
use std::collections::{BTreeMap, VecDeque};

/// Why there is no write-ahead log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalError {
    /// No mirror can be written.
    NoMirror,
    /// A region is too small to go round in.
    RegionTooSmall {
        /// Bytes of the region.
        bytes: u64,
    },
    /// The live state fills the region: snapshots don't keep up.
    Full {
        /// Bytes of the region.
        region_bytes: u64,
    },
    /// A batch is larger than the buffer pool.
    BatchTooLarge {
        /// Bytes of the batch.
        bytes: usize,
    },
    /// A batch that was durable is readable on no mirror: this replica must be refilled before it votes again.
    Damaged {
        /// The first batch missing.
        batch: u64,
    },
    /// Two mirrors went on without one another: each holds batches that were durable and that the other lacks.
    Forked {
        /// The first batch that they don't share, of one that was durable.
        batch: u64,
    },
    /// The log went on without the mirrors that are here: what they hold is of a while ago.
    Stale {
        /// Those that hold everything.
        missing: Vec<DeviceId>,
    },
    /// Which mirrors hold everything can't be read, or not be noted.
    Unrecorded(String),
    /// The log was closed.
    Closed,
}

impl std::fmt::Display for WalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoMirror => f.write_str("no mirror of the write-ahead log can be written"),
            Self::RegionTooSmall { bytes } => write!(f, "a write-ahead log does not fit into {bytes} bytes"),
            Self::Full { region_bytes } => write!(f, "the write-ahead log's {region_bytes} bytes are full"),
            Self::BatchTooLarge { bytes } => write!(f, "a batch of {bytes} bytes does not fit the buffer pool"),
            Self::Damaged { batch } => write!(
                f,
                "batch {batch} of the write-ahead log was durable and is damaged on every mirror: \
                 this node must not vote until it is refilled from its peers"
            ),
            Self::Forked { batch } => write!(
                f,
                "the mirrors of the write-ahead log hold different histories from batch {batch} on, each durable once: \
                 this node must not vote until it is refilled from its peers"
            ),
            Self::Stale { missing } => {
                let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "the write-ahead log went on without the devices that are here: bring back {}, or replace this node",
                    names.join(" or ")
                )
            }
            Self::Unrecorded(error) => {
                write!(f, "which devices hold all of the write-ahead log can't be read or written down: {error}")
            }
            Self::Closed => f.write_str("the write-ahead log is closed"),
        }
    }
}

impl std::error::Error for WalError {}

/// What was found when the log was opened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct WalReport {
    /// Batches in the chain.
    pub batches: u64,
    /// Batches that were not durable when the machine stopped, and were dropped.
    pub torn_batches: u64,
    /// Batches that some mirror had lost and another one had; they were written back.
    pub repaired_batches: u64,
    /// Mirrors that could not be read.
    pub lost_mirrors: u32,
}

pub(super) struct Found<D> {
    pub(super) mirrors: Vec<WalMirror<D>>,
    pub(super) groups: BTreeMap<GroupId, GroupLog>,
    pub(super) placed: VecDeque<Placed>,
    pub(super) previous_crc: u32,
    /// Of the opening that begins now.
    pub(super) opening: u64,
    /// Of the batch that is written next.
    pub(super) next_number: u64,
    /// Behind the chain lie parts of a checkpoint that did not end.
    pub(super) is_interrupted: bool,
    pub(super) report: WalReport,
}

/// A batch that some mirror holds intact.
struct Candidate {
    offset: u64,
    bytes: u64,
    crc: u32,
    head: BatchHead,
    records: Bytes,
    /// Which mirrors hold it, a bit each.
    held: u64,
}

impl Candidate {
    /// It holds nothing but a part of a checkpoint, and not the last: without that one it says nothing.
    fn is_part(&self) -> bool {
        self.head.checkpoint > 0 && !self.head.checkpoint_ends
    }

    /// Up to here it shows that batches were durable that are needed. A part of a checkpoint says where the last one lies
    /// that counts; the parts behind that are not needed without the end, and the next checkpoint is written over them.
    fn durable(&self) -> u64 {
        if self.is_part() { self.head.durable.min(self.head.checkpoint - 1) } else { self.head.durable }
    }
}

/// Intact batches by their number: more than one where a power cut left one behind, or a mirror was away.
type Candidates = BTreeMap<u64, Vec<Candidate>>;

/// Batches and openings are counted from 1 and never come near this, whatever a device says.
const NUMBERS_END: u64 = 1 << 63;

/// Bytes read at once.
const READ_BYTES: usize = 4 << 20;

pub(super) async fn recover<D: Disk>(
    owner: [u8; 16],
    mirrors: &[WalMirror<D>],
    region_bytes: u64,
    pool: &Pool,
    known: Option<&[DeviceId]>,
) -> Result<Found<D>, WalError> {
    let mut report = WalReport::default();
    let mut candidates = Candidates::new();
    let mut readable = Vec::new();
    for mirror in mirrors {
        let bit = 1 << readable.len();
        match scan(owner, mirror, region_bytes, pool, bit, &mut candidates).await? {
            Ok(()) => readable.push(mirror.clone()),
            Err(error) => {
                tracing::error!(%error, "a mirror of the write-ahead log can't be read");
                report.lost_mirrors += 1;
                // What it showed counts, but the next one does not hold it for that.
                candidates.values_mut().flatten().for_each(|batch| batch.held &= !bit);
            }
        }
    }
    if readable.is_empty() {
        return Err(WalError::NoMirror);
    }
    if let Some(known) = known.filter(|known| !readable.iter().any(|mirror| known.contains(&mirror.device))) {
        return Err(WalError::Stale { missing: known.to_vec() });
    }
    let opening = candidates.values().flatten().map(|batch| batch.head.opening).max().unwrap_or(0) + 1;
    let chain = choose_chain(&mut candidates, &mut report)?;
    let end = chain.last().map_or(0, |(number, _)| *number);
    // No number is used twice: a mirror that was away may come back with a batch of it.
    let parts = candidates.range(end + 1..).filter(|(_, batches)| batches.iter().any(Candidate::is_part));
    let last_part = parts.map(|(number, _)| *number).next_back();
    report.batches = chain.len() as u64;
    report.repaired_batches = chain.iter().filter(|(_, batch)| batch.held != (1 << readable.len()) - 1).count() as u64;
    let whole = readable.len();
    let mirrors = repair(readable, &chain, pool).await;
    report.lost_mirrors += (whole - mirrors.len()) as u32;
    if mirrors.is_empty() {
        return Err(WalError::NoMirror);
    }
    let mut replay = Replay::default();
    for (number, batch) in &chain {
        replay.take(*number, batch)?;
    }
    let placed =
        |(number, batch): &(u64, Candidate)| Placed { number: *number, offset: batch.offset, bytes: batch.bytes };
    Ok(Found {
        mirrors,
        groups: replay.groups,
        placed: chain.iter().map(placed).collect(),
        previous_crc: chain.last().map_or(0, |(_, batch)| batch.crc),
        opening,
        next_number: last_part.unwrap_or(end) + 1,
        is_interrupted: last_part.is_some(),
        report,
    })
}

/// Finds every intact batch of one mirror. Batches begin at any 4 KiB boundary. The inner error: the mirror can't be read.
async fn scan<D: Disk>(
    owner: [u8; 16],
    mirror: &WalMirror<D>,
    region_bytes: u64,
    pool: &Pool,
    bit: u64,
    found: &mut Candidates,
) -> Result<Result<(), DiskError>, WalError> {
    let mut window = Window { start: 0, bytes: None };
    for at in (0..region_bytes).step_by(BLOCK_BYTES) {
        let length = (region_bytes - at).min(READ_BYTES as u64);
        let here = match window.at(mirror, pool, at, BLOCK_BYTES as u64, length).await {
            Ok(here) => here,
            Err(error) => return Ok(Err(error)),
        };
        let Ok(header) = FrameHeader::decode(here) else { continue };
        let bytes = (HEADER_BYTES + header.length()) as u64;
        if header.kind() != kind::WAL_BATCH || at + bytes > region_bytes {
            continue;
        }
        let padded = bytes.next_multiple_of(BLOCK_BYTES as u64);
        if padded > pool.total_bytes() as u64 {
            // Written with a larger pool, and perhaps the newest of all: to pass it over could lose what was promised.
            return Err(WalError::BatchTooLarge { bytes: padded as usize });
        }
        let here = match window.at(mirror, pool, at, padded, length.max(padded)).await {
            Ok(here) => here,
            Err(error) => return Ok(Err(error)),
        };
        let payload = &here[HEADER_BYTES..bytes as usize];
        if header.check_payload(payload).is_ok() {
            let batch = Batch { number: header.correlation(), crc: header.payload_crc(), offset: at };
            note(owner, batch, payload, bit, found);
        }
    }
    Ok(Ok(()))
}

/// A part of a region in memory.
struct Window {
    start: u64,
    bytes: Option<Buffer>,
}

impl Window {
    /// The bytes from `at` on, at least `need`; what is not here is read, `length` at once.
    async fn at<D: Disk>(
        &mut self,
        mirror: &WalMirror<D>,
        pool: &Pool,
        at: u64,
        need: u64,
        length: u64,
    ) -> Result<&[u8], DiskError> {
        let held = self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if at + need > self.start + held {
            // One buffer at a time, so that a small pool is enough.
            self.bytes = None;
            let (result, buffer) = mirror.disk.read(mirror.offset + at, take(pool, length as usize).await).await;
            result?;
            (self.start, self.bytes) = (at, Some(buffer));
        }
        Ok(self.bytes.as_deref().map_or(&[], |bytes| &bytes[(at - self.start) as usize..]))
    }
}

async fn take(pool: &Pool, length: usize) -> Buffer {
    // The pool of a shard is larger than one read; a pool that is not can't run a shard at all.
    pool.take(length).await.expect("a pool holds at least one read")
}

struct Batch {
    number: u64,
    crc: u32,
    offset: u64,
}

fn note(owner: [u8; 16], batch: Batch, payload: &[u8], bit: u64, found: &mut Candidates) {
    let mut reader = Reader::new(Bytes::copy_from_slice(payload));
    let Ok(head) = BatchHead::decode(&mut reader) else { return };
    // A batch is written when all before it are durable, so its number follows from that; and no log counts so far.
    let counts = (1..NUMBERS_END).contains(&batch.number) && head.durable == batch.number - 1;
    if head.owner != owner || head.offset != batch.offset || !counts || head.opening >= NUMBERS_END {
        return;
    }
    let same = found.entry(batch.number).or_default();
    if let Some(known) = same.iter_mut().find(|known| known.crc == batch.crc) {
        known.held |= bit;
        return;
    }
    let records = reader.take(reader.remaining()).unwrap_or_default();
    let bytes = ((HEADER_BYTES + payload.len()) as u64).next_multiple_of(BLOCK_BYTES as u64);
    same.push(Candidate { offset: batch.offset, bytes, crc: batch.crc, head, records, held: bit });
}

/// Walks back from the newest batch whose chain is whole down to its tail.
fn choose_chain(candidates: &mut Candidates, report: &mut WalReport) -> Result<Vec<(u64, Candidate)>, WalError> {
    // Everything below the durable mark of any batch must be there.
    let Some(durable) = candidates.values().flatten().map(Candidate::durable).max() else {
        return Ok(Vec::new());
    };
    // A batch that a mirror kept from an earlier opening was given up by the later one, which did not find it.
    let mut ends: Vec<(u64, u64, usize)> = Vec::new();
    for (number, batches) in candidates.range(durable.max(1)..) {
        let whole = batches.iter().enumerate().filter(|(_, batch)| !batch.is_part());
        ends.extend(whole.map(|(index, batch)| (batch.head.opening, *number, index)));
    }
    ends.sort_unstable_by(|a, b| b.cmp(a));
    let mut first_missing = None;
    for (_, end, index) in ends {
        match chain_from(candidates, end, index) {
            Ok(indexes) => {
                check_places(candidates, &indexes)?;
                check_forks(candidates, &indexes)?;
                let torn = candidates.range(end + 1..).filter(|(_, batches)| !batches.iter().all(Candidate::is_part));
                report.torn_batches = torn.count() as u64;
                let take = |(number, index): (u64, usize)| {
                    let batch = candidates.get_mut(&number).map(|batches| batches.swap_remove(index));
                    batch.map(|batch| (number, batch))
                };
                return Ok(indexes.into_iter().rev().filter_map(take).collect());
            }
            Err(missing) => first_missing = first_missing.or(Some(missing)),
        }
    }
    match (first_missing, durable) {
        // There is nothing but parts of a checkpoint that did not end, and nothing was written before it.
        (None, 0) => Ok(Vec::new()),
        (missing, _) => Err(WalError::Damaged { batch: missing.unwrap_or(durable) }),
    }
}

/// Whether the batches lie as they were written: one behind the other, once round at most. What is written next must not
/// fall on one that is still needed. `chain` is newest first.
fn check_places(candidates: &Candidates, chain: &[(u64, usize)]) -> Result<(), WalError> {
    let at = |(number, index): &(u64, usize)| &candidates[number][*index];
    let end = |batch: &Candidate| batch.offset + batch.bytes;
    let first = chain.last().map_or(0, |oldest| at(oldest).offset);
    let mut went_round = false;
    for pair in chain.windows(2) {
        let (batch, before) = (at(&pair[0]), at(&pair[1]));
        let goes_round = batch.offset != end(before);
        let fits = !goes_round || batch.offset == 0 && !std::mem::replace(&mut went_round, true);
        if !fits {
            return Err(WalError::Damaged { batch: pair[0].0 });
        }
    }
    match chain.first() {
        Some(newest) if went_round && end(at(newest)) > first => Err(WalError::Damaged { batch: newest.0 }),
        _ => Ok(()),
    }
}

/// Whether some batch follows another one than the chain's. What a batch follows was durable, so two histories are; but for
/// a part of a checkpoint that follows another one: both were given up.
fn check_forks(candidates: &Candidates, chain: &[(u64, usize)]) -> Result<(), WalError> {
    for (number, index) in chain {
        let crc = candidates[number][*index].crc;
        let followers = candidates.get(&(number + 1)).into_iter().flatten();
        let counts = |follower: &&Candidate| !follower.is_part() || follower.head.checkpoint == number + 1;
        if followers.filter(counts).any(|follower| follower.head.previous_crc != crc) {
            return Err(WalError::Forked { batch: *number });
        }
    }
    Ok(())
}

/// The batches that lead to `end`, newest first, each by its index among those of its number. The error: the first one
/// that is not there.
fn chain_from(candidates: &Candidates, end: u64, index: usize) -> Result<Vec<(u64, usize)>, u64> {
    let mut chain = vec![(end, index)];
    let (mut number, mut batch) = (end, &candidates[&end][index]);
    // Space before a checkpoint is used again as soon as all of it is durable.
    let first = |batch: &Candidate| if batch.head.checkpoint_ends { batch.head.checkpoint } else { batch.head.tail };
    let mut tail = first(batch);
    while number > tail {
        number -= 1;
        let batches = candidates.get(&number).ok_or(number)?;
        let index = batches.iter().position(|before| before.crc == batch.head.previous_crc).ok_or(number)?;
        batch = &batches[index];
        tail = tail.max(first(batch));
        chain.push((number, index));
    }
    Ok(chain)
}

/// What the batches of a chain add up to.
#[derive(Default)]
struct Replay {
    groups: BTreeMap<GroupId, GroupLog>,
    /// The first batch of the checkpoint that has begun, what its parts say of where that was, and what of it has come.
    begun: u64,
    said: u64,
    part: Vec<WalRecord>,
}

impl Replay {
    fn take(&mut self, number: u64, batch: &Candidate) -> Result<(), WalError> {
        let damaged = WalError::Damaged { batch: number };
        let head = &batch.head;
        let mut reader = Reader::new(batch.records.clone());
        let mut next = || WalRecord::decode(&mut reader).map_err(|_| damaged.clone());
        // One that begins behind parts of another, which did not end, says in its parts where that one began.
        let begins = head.checkpoint == number || batch.is_part() && (self.begun == 0 || self.said != head.checkpoint);
        if head.checkpoint > 0 && begins {
            // One before it was not ended: the log was opened again in its middle.
            (self.begun, self.said, self.part) = (number, head.checkpoint, Vec::new());
        }
        let belongs = !head.checkpoint_ends || head.checkpoint == self.begun;
        if head.checkpoint > number || !belongs || head.checkpoint_records > head.records {
            return Err(damaged);
        }
        for _ in 0..head.checkpoint_records {
            self.part.push(next()?);
        }
        let mut records = Vec::new();
        if head.checkpoint_ends {
            self.groups.clear();
            self.begun = 0;
            records.append(&mut self.part);
        }
        for _ in head.checkpoint_records..head.records {
            records.push(next()?);
        }
        records.iter().try_for_each(|record| self.apply(record)).ok_or(damaged)
    }

    /// Applies a record, unless it is an entry that would leave a hole.
    fn apply(&mut self, record: &WalRecord) -> Option<()> {
        let log = self.groups.entry(group_of(record)).or_default();
        let gap = matches!(record, WalRecord::Append((_, entry)) if log.leaves_gap(entry.position.index));
        (!gap).then(|| log.apply(record))
    }
}

/// Gives every mirror what it lacks, and makes durable what was read: a process that was killed leaves batches that no
/// flush covers, and nobody may be told of those before. Answers which mirrors hold everything now.
async fn repair<D: Disk>(mirrors: Vec<WalMirror<D>>, chain: &[(u64, Candidate)], pool: &Pool) -> Vec<WalMirror<D>> {
    let mut whole = Vec::with_capacity(mirrors.len());
    for (index, mirror) in mirrors.into_iter().enumerate() {
        let lacking = chain.iter().filter(|(_, batch)| batch.held >> index & 1 == 0);
        match restore(&mirror, lacking, pool).await {
            Ok(()) => whole.push(mirror),
            Err(error) => tracing::error!(%error, index, "a mirror of the write-ahead log can't be repaired"),
        }
    }
    whole
}

async fn restore<D: Disk>(
    mirror: &WalMirror<D>,
    lacking: impl Iterator<Item = &(u64, Candidate)>,
    pool: &Pool,
) -> Result<(), DiskError> {
    for (number, batch) in lacking {
        let mut payload = batch.head.to_bytes().to_vec();
        payload.extend_from_slice(&batch.records);
        let header = FrameHeader::of_payload(kind::WAL_BATCH, 0, *number, &payload);
        let mut buffer = take(pool, batch.bytes as usize).await;
        buffer[..HEADER_BYTES].copy_from_slice(&header.to_array());
        buffer[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(&payload);
        buffer[HEADER_BYTES + payload.len()..].fill(0);
        mirror.disk.write(mirror.offset + batch.offset, buffer.share()).await?;
    }
    mirror.disk.sync().await
}
