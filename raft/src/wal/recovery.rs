//! What lies on the mirrors after a start: the chain of batches from the tail on, a torn tail dropped, damage told.

use super::state::{GroupLog, group_of};
use super::{Placed, WalMirror};
use bytes::Bytes;
use farside_codec::frame::HEADER_BYTES;
use farside_codec::ids::GroupId;
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

/// Bytes read at once.
const READ_BYTES: usize = 4 << 20;

pub(super) async fn recover<D: Disk>(
    owner: [u8; 16],
    mirrors: &[WalMirror<D>],
    region_bytes: u64,
    pool: &Pool,
) -> Result<Found<D>, WalError> {
    let mut report = WalReport::default();
    let mut candidates: BTreeMap<u64, Vec<Candidate>> = BTreeMap::new();
    let mut readable = Vec::new();
    for mirror in mirrors {
        match scan(owner, mirror, region_bytes, pool, 1 << readable.len(), &mut candidates).await {
            Ok(()) => readable.push(mirror.clone()),
            Err(error) => {
                tracing::error!(%error, "a mirror of the write-ahead log can't be read");
                report.lost_mirrors += 1;
            }
        }
    }
    if readable.is_empty() {
        return Err(WalError::NoMirror);
    }
    let chain = choose_chain(&mut candidates, &mut report)?;
    let all = (1u64 << readable.len()) - 1;
    let mut found = Found {
        mirrors: readable,
        groups: BTreeMap::new(),
        placed: VecDeque::new(),
        previous_crc: chain.last().map_or(0, |(_, batch)| batch.crc),
        report,
    };
    for (number, batch) in chain {
        if batch.held != all {
            rewrite(&found.mirrors, pool, number, &batch).await;
            found.report.repaired_batches += 1;
        }
        replay(&mut found.groups, number, &batch)?;
        found.placed.push_back(Placed { number, offset: batch.offset, bytes: batch.bytes });
    }
    found.report.batches = found.placed.len() as u64;
    Ok(found)
}

/// Finds every intact batch of one mirror. Batches begin at any 4 KiB boundary.
async fn scan<D: Disk>(
    owner: [u8; 16],
    mirror: &WalMirror<D>,
    region_bytes: u64,
    pool: &Pool,
    bit: u64,
    found: &mut BTreeMap<u64, Vec<Candidate>>,
) -> Result<(), DiskError> {
    let mut window = Vec::new();
    let mut window_start = 0;
    let mut read_to = 0;
    let mut at = 0;
    while at < region_bytes {
        // The window holds at least the block at `at`, and the whole batch that begins there.
        let mut need = BLOCK_BYTES;
        loop {
            while read_to < region_bytes && read_to < at + need as u64 {
                let length = (region_bytes - read_to).min(READ_BYTES as u64) as usize;
                let buffer = take(pool, length).await;
                let (result, buffer) = mirror.disk.read(mirror.offset + read_to, buffer).await;
                result?;
                window.drain(..((at - window_start) as usize).min(window.len()));
                window_start = at;
                window.extend_from_slice(&buffer);
                read_to += length as u64;
            }
            let here = &window[(at - window_start) as usize..];
            let Ok(header) = FrameHeader::decode(here) else { break };
            let bytes = HEADER_BYTES + header.length();
            if header.kind() != kind::WAL_BATCH || at + bytes as u64 > region_bytes {
                break;
            }
            if here.len() < bytes {
                need = bytes;
                continue;
            }
            let payload = &here[HEADER_BYTES..bytes];
            if header.check_payload(payload).is_ok() {
                let batch = Batch { number: header.correlation(), crc: header.payload_crc(), offset: at };
                note(owner, batch, payload, bit, found);
            }
            break;
        }
        at += BLOCK_BYTES as u64;
    }
    Ok(())
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

fn note(owner: [u8; 16], batch: Batch, payload: &[u8], bit: u64, found: &mut BTreeMap<u64, Vec<Candidate>>) {
    let mut reader = Reader::new(Bytes::copy_from_slice(payload));
    let Ok(head) = BatchHead::decode(&mut reader) else { return };
    if head.owner != owner {
        return;
    }
    let same = found.entry(batch.number).or_default();
    if let Some(known) = same.iter_mut().find(|known| known.offset == batch.offset && known.crc == batch.crc) {
        known.held |= bit;
        return;
    }
    let records = reader.take(reader.remaining()).unwrap_or_default();
    let bytes = ((HEADER_BYTES + payload.len()) as u64).next_multiple_of(BLOCK_BYTES as u64);
    same.push(Candidate { offset: batch.offset, bytes, crc: batch.crc, head, records, held: bit });
}

/// Walks back from the newest batch whose chain is whole down to its tail.
fn choose_chain(
    candidates: &mut BTreeMap<u64, Vec<Candidate>>,
    report: &mut WalReport,
) -> Result<Vec<(u64, Candidate)>, WalError> {
    let Some((&newest, _)) = candidates.last_key_value() else { return Ok(Vec::new()) };
    // Everything below the durable mark of any batch must be there.
    let durable = candidates.values().flatten().map(|batch| batch.head.durable).max().unwrap_or(0);
    let mut first_missing = None;
    for start in (durable.max(1)..=newest).rev() {
        for last in candidates.get(&start).into_iter().flatten() {
            match chain_from(candidates, start, last) {
                Ok(indexes) => {
                    report.torn_batches = candidates.range(start + 1..).count() as u64;
                    let take = |(number, index): (u64, usize)| {
                        let batch = candidates.get_mut(&number).map(|batches| batches.swap_remove(index));
                        batch.map(|batch| (number, batch))
                    };
                    return Ok(indexes.into_iter().rev().filter_map(take).collect());
                }
                Err(missing) => first_missing = Some(missing),
            }
        }
    }
    Err(WalError::Damaged { batch: first_missing.unwrap_or(durable) })
}

/// The batches that lead to `last`, newest first, each by its index among those of its number.
fn chain_from(
    candidates: &BTreeMap<u64, Vec<Candidate>>,
    start: u64,
    last: &Candidate,
) -> Result<Vec<(u64, usize)>, u64> {
    let index_of = |number: u64, fits: &dyn Fn(&Candidate) -> bool| {
        candidates.get(&number).and_then(|batches| batches.iter().position(fits)).ok_or(number)
    };
    let mut chain = vec![(start, index_of(start, &|batch| std::ptr::eq(batch, last))?)];
    let mut expected = last.head.previous_crc;
    for number in (last.head.tail..start).rev() {
        let index = index_of(number, &|batch| batch.crc == expected)?;
        expected = candidates[&number][index].head.previous_crc;
        chain.push((number, index));
    }
    Ok(chain)
}

fn replay(groups: &mut BTreeMap<GroupId, GroupLog>, number: u64, batch: &Candidate) -> Result<(), WalError> {
    let mut reader = Reader::new(batch.records.clone());
    for _ in 0..batch.head.records {
        let record = WalRecord::decode(&mut reader).map_err(|_| WalError::Damaged { batch: number })?;
        let log = groups.entry(group_of(&record)).or_default();
        if let WalRecord::Append((_, entry)) = &record
            && log.leaves_gap(entry.position.index)
        {
            return Err(WalError::Damaged { batch: number });
        }
        log.apply(&record);
    }
    Ok(())
}

/// Gives a batch back to the mirrors that lost it. One that refuses fails at its next write and is dropped there.
async fn rewrite<D: Disk>(mirrors: &[WalMirror<D>], pool: &Pool, number: u64, batch: &Candidate) {
    let mut payload = batch.head.to_bytes().to_vec();
    payload.extend_from_slice(&batch.records);
    let header = FrameHeader::of_payload(kind::WAL_BATCH, 0, number, &payload);
    let mut buffer = take(pool, batch.bytes as usize).await;
    buffer.fill(0);
    buffer[..HEADER_BYTES].copy_from_slice(&header.to_array());
    buffer[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(&payload);
    let data = buffer.share();
    for (index, mirror) in mirrors.iter().enumerate().filter(|(index, _)| batch.held >> index & 1 == 0) {
        let written = mirror.disk.write(mirror.offset + batch.offset, data.clone()).await;
        let result = if written.is_ok() { mirror.disk.sync().await } else { written };
        if let Err(error) = result {
            tracing::error!(%error, index, "a batch could not be written back to a mirror");
        }
    }
}
