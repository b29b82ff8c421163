//! One shard's zone of one device: which segments are free, open and sealed, and who may append where.
//!
//! Invariants: a record's space is reserved before it is written and never given to another record of the same
//! generation; a segment's header is durable before the first reservation in it is handed out, so that no record is
//! ever durable under a header that is not; a segment is sealed only when no write into it is under way; a generation
//! is used once. Whoever waits here holds no lock of another zone and needs no buffer of the pool: headers and indexes
//! have an arena of their own.

mod leaving;

use super::index::Location;
use super::limits;
use super::status::{DeviceState, DeviceStatus};
use farside_codec::ids::DeviceId;
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::record::fragment::Place;
use farside_codec::record::segment::{
    INDEX_ENTRY_BYTES, IndexEntry, SegmentFooter, SegmentHeader, SegmentUse, index_bytes,
};
use farside_codec::record::superblock::Superblock;
use farside_io::disk::{Disk, DiskError};
use farside_io::pool::Pool;
use futures_util::future::try_join;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use tokio::sync::Notify;

/// Who asks for space, and so how much of it is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// A client's or peer's chunk.
    Client,
    /// A snapshot's piece, without which the WAL could not be purged.
    System,
    /// A record that compaction moves, to free more than it takes.
    Compaction,
}

impl Priority {
    fn reserve(self) -> usize {
        match self {
            Self::Client => limits::CLIENT_RESERVE_SEGMENTS,
            Self::System => limits::SYSTEM_RESERVE_SEGMENTS,
            Self::Compaction => 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentState {
    Free,
    /// It is appended to, or waits for its index.
    Open,
    Sealed,
    /// Compaction empties it.
    Emptying,
    /// The device refused to read it; what it holds is unknown, so it is left alone.
    Unreadable,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) state: SegmentState,
    pub(super) generation: u64,
    /// Blocks of records that the index points to.
    pub(super) live_blocks: u32,
    /// The most that these ever were: what compaction could pack no better.
    pub(super) most_blocks: u32,
}

/// A segment that has no index on the device yet.
#[derive(Debug, Default)]
pub(super) struct OpenSegment {
    pub(super) next_block: u32,
    pub(super) entries: Vec<IndexEntry>,
    /// First blocks of the records under way.
    pub(super) in_flight: Vec<u32>,
    /// First block that was reserved and never written: a hole, behind which nobody may call the segment durable.
    pub(super) first_hole: Option<u32>,
    /// It gets no more records.
    pub(super) closing: bool,
}

/// The segment that will be appended to after the active one.
#[derive(Debug, Default)]
enum Next {
    #[default]
    None,
    /// Its header is being written.
    UnderWay,
    /// Its header is durable: this segment, in this generation.
    Ready(u32, u64),
    /// Its header could not be written; it is free again.
    Failed(DiskError),
}

pub(super) struct Segments {
    pub(super) table: Vec<Segment>,
    pub(super) free: BTreeSet<u32>,
    pub(super) open: BTreeMap<u32, OpenSegment>,
    /// The one of them that is appended to.
    pub(super) active: Option<u32>,
    next: Next,
    pub(super) last_generation: u64,
    live_fragments: u64,
    live_blocks: u64,
}

impl Segments {
    /// Segments that nobody has got yet.
    fn count_free(&self) -> usize {
        self.free.len() + usize::from(matches!(self.next, Next::UnderWay | Next::Ready(..)))
    }
}

/// Why there is no space here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSpace {
    /// Only what this priority must leave alone, or nothing.
    Full,
    /// The device is out of use.
    Failed,
}

pub(super) struct Zone<D> {
    pub(super) ordinal: u8,
    pub(super) device: DeviceId,
    pub(super) label: String,
    pub(super) disk: Option<D>,
    shard: u16,
    /// Offset of the first segment.
    base: u64,
    pub(super) segment_blocks: u32,
    pub(super) segments: RefCell<Segments>,
    state: Cell<DeviceState>,
    /// The file system below had no space; cleared when compaction frees a segment.
    starved: Cell<bool>,
    /// The device is to go: it is read, and takes nothing.
    leaving: Cell<bool>,
    /// Free segments that clients leave alone besides the fixed ones, for snapshots to come.
    kept_free: Cell<usize>,
    /// Held while a segment is opened, so that it is opened once.
    opening: tokio::sync::Mutex<()>,
    /// The header of the next segment is written, or could not be.
    next_is_there: Notify,
    metadata: Pool,
}

impl<D: Disk> Zone<D> {
    /// The zone of `shard` on a device that works.
    pub(super) fn new(
        ordinal: u8,
        label: String,
        shard: u16,
        (disk, superblock): (D, &Superblock),
        metadata: Pool,
    ) -> Self {
        let segments = superblock.segments().min(super::index::MAX_SEGMENTS);
        let base = superblock.zone_offset(shard) + superblock.wal_bytes;
        let segment_blocks = superblock.segment_bytes / BLOCK_BYTES as u32;
        let zone = Self::absent(ordinal, superblock.device, label, shard, DeviceState::Ok, metadata);
        let unknown = Segment { state: SegmentState::Unreadable, generation: 0, live_blocks: 0, most_blocks: 0 };
        zone.segments.borrow_mut().table = vec![unknown; segments as usize];
        Self { disk: Some(disk), base, segment_blocks, ..zone }
    }

    /// Bytes that its segments hold together.
    pub(super) fn capacity_bytes(&self) -> u64 {
        self.segments.borrow().table.len() as u64 * u64::from(self.segment_blocks) * BLOCK_BYTES as u64
    }

    /// The place of a device that does not work.
    pub(super) fn absent(
        ordinal: u8,
        device: DeviceId,
        label: String,
        shard: u16,
        state: DeviceState,
        metadata: Pool,
    ) -> Self {
        let segments = Segments {
            table: Vec::new(),
            free: BTreeSet::new(),
            open: BTreeMap::new(),
            active: None,
            next: Next::None,
            last_generation: 0,
            live_fragments: 0,
            live_blocks: 0,
        };
        Self {
            ordinal,
            device,
            label,
            disk: None,
            shard,
            base: 0,
            segment_blocks: 0,
            segments: RefCell::new(segments),
            state: Cell::new(state),
            starved: Cell::new(false),
            leaving: Cell::new(false),
            kept_free: Cell::new(0),
            opening: tokio::sync::Mutex::new(()),
            next_is_there: Notify::new(),
            metadata,
        }
    }

    pub(super) fn works(&self) -> bool {
        self.state.get() == DeviceState::Ok
    }

    /// Takes the device out of use. Answers whether it was in use.
    pub(super) fn fail(&self) -> bool {
        self.works() && {
            self.state.set(DeviceState::Failed);
            true
        }
    }

    /// Notes that the file system below has no space, and closes the active segment, so that the hole of the write that
    /// failed has no durable record behind it. Answers whether that is news.
    pub(super) fn starve(&self) -> bool {
        close_active(&mut self.segments.borrow_mut());
        !self.starved.replace(true)
    }

    /// Byte offset of a block of a segment.
    pub(super) fn offset(&self, segment: u32, block: u32) -> u64 {
        self.base + (u64::from(segment) * u64::from(self.segment_blocks) + u64::from(block)) * BLOCK_BYTES as u64
    }

    /// The place of a record, as its header must say.
    pub(super) fn place(&self, segment: u32, generation: u64, block: u32) -> Place {
        Place { device: self.device, shard: self.shard, segment, generation, block }
    }

    pub(super) fn header(&self, segment: u32, generation: u64, usage: SegmentUse) -> SegmentHeader {
        SegmentHeader { device: self.device, shard: self.shard, segment, generation, usage }
    }

    /// Whether a header or footer with these fields is this segment's.
    pub(super) fn names(&self, device: DeviceId, shard: u16, number: (u32, u32)) -> bool {
        device == self.device && shard == self.shard && number.0 == number.1
    }

    /// Counts a record in.
    pub(super) fn add_live(&self, segment: u32, blocks: u32) {
        let mut segments = self.segments.borrow_mut();
        let found = &mut segments.table[segment as usize];
        found.live_blocks += blocks;
        found.most_blocks = found.most_blocks.max(found.live_blocks);
        segments.live_blocks += u64::from(blocks);
        segments.live_fragments += 1;
    }

    /// Counts a record out.
    pub(super) fn remove_live(&self, segment: u32, blocks: u32) {
        let mut segments = self.segments.borrow_mut();
        segments.table[segment as usize].live_blocks -= blocks;
        segments.live_blocks -= u64::from(blocks);
        segments.live_fragments -= 1;
    }

    /// Records that count, and their bytes.
    pub(super) fn live(&self) -> (u64, u64) {
        let segments = self.segments.borrow();
        (segments.live_fragments, segments.live_blocks * BLOCK_BYTES as u64)
    }

    pub(super) fn status(&self) -> DeviceStatus {
        let segments = self.segments.borrow();
        let segment_bytes = u64::from(self.segment_blocks) * BLOCK_BYTES as u64;
        let used = segments.table.len() - segments.count_free();
        let (fragments, live_bytes) = (segments.live_fragments, segments.live_blocks * BLOCK_BYTES as u64);
        DeviceStatus {
            id: Some(self.device),
            label: self.label.clone(),
            state: self.state.get(),
            leaving: self.is_leaving(),
            bytes: segments.table.len() as u64 * segment_bytes,
            used_bytes: used as u64 * segment_bytes,
            live_bytes,
            fragments,
        }
    }

    /// Free segments that this priority leaves alone.
    fn reserve_of(&self, priority: Priority) -> usize {
        let kept_free = if priority == Priority::Client { self.kept_free.get() } else { 0 };
        priority.reserve() + kept_free
    }

    /// Keeps so many bytes of the device free of clients' chunks.
    pub(super) fn keep_free(&self, bytes: u64) {
        let segment_bytes = u64::from(self.segment_blocks) * BLOCK_BYTES as u64;
        self.kept_free.set(bytes.div_ceil(segment_bytes.max(1)) as usize);
    }

    /// Whether so many records of so many blocks each would find space now.
    pub(super) fn has_room(&self, records: usize, blocks: u32, priority: Priority) -> bool {
        let segments = self.segments.borrow();
        let Some(free) = segments.count_free().checked_sub(self.reserve_of(priority)) else { return false };
        let in_active = (1..=records).take_while(|records| self.active_fits(&segments, *records, blocks)).count();
        let fits_empty = |records: &usize| self.fits(1, *records, 0, blocks);
        let in_empty = (1..=records).take_while(fits_empty).count();
        self.takes() && !self.starved.get() && in_active + free * in_empty >= records
    }

    /// Whether a segment takes a record of so many blocks.
    pub(super) fn holds(&self, blocks: u32) -> bool {
        self.fits(1, 1, 0, blocks)
    }

    /// Whether a segment takes twice so many blocks of records. Two such always fit one segment, so moving them together
    /// comes to an end.
    pub(super) fn holds_twice(&self, blocks: u32) -> bool {
        // A record has two blocks at least: header area and fragment.
        self.fits(1, 2, blocks.saturating_sub(2) as usize, blocks)
    }

    /// Free segments run so short that clients are about to be refused.
    pub(super) fn is_short(&self) -> bool {
        self.segments.borrow().count_free() <= self.reserve_of(Priority::Client) + 1
    }

    fn active_fits(&self, segments: &Segments, records: usize, blocks: u32) -> bool {
        let open = segments.active.and_then(|active| segments.open.get(&active));
        // Every record under way becomes an entry of the index as well.
        open.is_some_and(|open| self.fits(open.next_block, records, open.entries.len() + open.in_flight.len(), blocks))
    }

    /// Whether records fit a segment from `next_block` on, with an index of theirs and of those before them.
    fn fits(&self, next_block: u32, records: usize, before: usize, blocks: u32) -> bool {
        let index_blocks = index_bytes(before + records) / BLOCK_BYTES;
        next_block as usize + records * blocks as usize + index_blocks <= self.segment_blocks as usize
    }

    fn try_reserve(self: &Rc<Self>, blocks: u32, priority: Priority) -> Option<Reservation<D>> {
        let mut segments = self.segments.borrow_mut();
        if segments.count_free() < self.reserve_of(priority) || !self.active_fits(&segments, 1, blocks) {
            return None;
        }
        let segment = segments.active?;
        let generation = segments.table[segment as usize].generation;
        let open = segments.open.get_mut(&segment)?;
        let block = open.next_block;
        open.next_block += blocks;
        open.in_flight.push(block);
        let durable_block = open.in_flight.iter().copied().chain(open.first_hole).min().unwrap_or(block);
        Some(Reservation { zone: self.clone(), segment, generation, block, durable_block, settled: false, written: 0 })
    }

    /// Reserves space for a record, opening the next segment where need be.
    pub(super) async fn reserve(
        self: &Rc<Self>,
        blocks: u32,
        priority: Priority,
    ) -> Result<Reservation<D>, (NoSpace, Option<DiskError>)> {
        let _turn = self.opening.lock().await;
        if !self.works() || self.is_leaving() {
            return Err((NoSpace::Failed, None));
        }
        if let Some(reservation) = self.try_reserve(blocks, priority) {
            self.begin_next_early();
            return Ok(reservation);
        }
        if !self.may_open(blocks, priority) {
            return Err((NoSpace::Full, None));
        }
        let (segment, generation) = self.next_segment().await.map_err(|error| match error {
            DiskError::Full => (NoSpace::Full, Some(error)),
            _ => (NoSpace::Failed, Some(error)),
        })?;
        {
            let mut segments = self.segments.borrow_mut();
            close_active(&mut segments);
            segments.table[segment as usize] =
                Segment { state: SegmentState::Open, generation, live_blocks: 0, most_blocks: 0 };
            segments.open.insert(segment, OpenSegment { next_block: 1, ..OpenSegment::default() });
            segments.active = Some(segment);
        }
        self.try_reserve(blocks, priority).ok_or((NoSpace::Full, None))
    }

    /// Makes it durable that a segment is used anew and has no index yet. A power cut could keep the footer of a use and
    /// drop its header: the same generation would be used again, and what it acknowledged be hidden by that footer.
    async fn begin_use(&self, segment: u32, generation: u64) -> Result<(), DiskError> {
        let header = self.header(segment, generation, SegmentUse::Records).to_block();
        let header = self.write_metadata(segment, 0, &header);
        let no_footer = self.write_metadata(segment, self.segment_blocks - 1, &[0; BLOCK_BYTES]);
        try_join(header, no_footer).await?;
        self.sync().await
    }

    /// Whether this priority may open another segment now.
    fn may_open(&self, blocks: u32, priority: Priority) -> bool {
        let starved = self.starved.get() && priority != Priority::Compaction;
        let free = self.segments.borrow().count_free();
        free > self.reserve_of(priority) && self.fits(1, 1, 0, blocks) && !starved
    }

    /// The next segment, its header durable.
    async fn next_segment(self: &Rc<Self>) -> Result<(u32, u64), DiskError> {
        if matches!(self.segments.borrow().next, Next::None | Next::Failed(_)) {
            self.begin_next();
        }
        loop {
            let next = std::mem::take(&mut self.segments.borrow_mut().next);
            match next {
                Next::Ready(segment, generation) => return Ok((segment, generation)),
                Next::Failed(error) => return Err(error),
                Next::UnderWay => self.segments.borrow_mut().next = Next::UnderWay,
                // There was none, although one was counted.
                Next::None => return Err(DiskError::Full),
            }
            self.next_is_there.notified().await;
        }
    }

    /// Begins the next segment while the active one still has room, so that nobody waits for its header.
    fn begin_next_early(self: &Rc<Self>) {
        let due = {
            let segments = self.segments.borrow();
            let open = segments.active.and_then(|active| segments.open.get(&active));
            let nearly_full = |open: &OpenSegment| open.next_block >= self.segment_blocks / 4 * limits::BEGIN_NEXT_AT;
            matches!(segments.next, Next::None) && open.is_some_and(nearly_full)
        };
        if due && !self.starved.get() {
            self.begin_next();
        }
    }

    fn begin_next(self: &Rc<Self>) {
        let mut segments = self.segments.borrow_mut();
        let Some(segment) = segments.free.pop_first() else { return };
        segments.last_generation += 1;
        segments.next = Next::UnderWay;
        let (zone, generation) = (self.clone(), segments.last_generation);
        // A task of its own, so that nothing is left half done where a caller goes away.
        tokio::task::spawn_local(async move {
            let begun = zone.begin_use(segment, generation).await;
            let mut segments = zone.segments.borrow_mut();
            segments.next = match begun {
                Ok(()) => Next::Ready(segment, generation),
                Err(error) => {
                    segments.free.insert(segment);
                    Next::Failed(error)
                }
            };
            zone.next_is_there.notify_one();
        });
    }

    /// Writes the indexes of closed segments into which nothing is being written any more.
    pub(super) async fn seal_ready(&self) -> Result<(), DiskError> {
        while let Some((segment, generation, entries)) = self.take_closed() {
            // Whatever comes of the write, the segment is sealed as far as memory goes; a start that finds no good
            // index scans.
            let written = self.write_index(segment, generation, &entries).await;
            self.segments.borrow_mut().table[segment as usize].state = SegmentState::Sealed;
            written?;
        }
        Ok(())
    }

    fn take_closed(&self) -> Option<(u32, u64, Vec<IndexEntry>)> {
        let mut segments = self.segments.borrow_mut();
        let ready = segments.open.iter().find(|(_, open)| open.closing && open.in_flight.is_empty());
        let segment = *ready?.0;
        let open = segments.open.remove(&segment)?;
        Some((segment, segments.table[segment as usize].generation, open.entries))
    }

    async fn write_index(&self, segment: u32, generation: u64, entries: &[IndexEntry]) -> Result<(), DiskError> {
        let bytes = index_bytes(entries.len());
        let mut index = vec![0; bytes - BLOCK_BYTES];
        for (entry, out) in entries.iter().zip(index.chunks_exact_mut(INDEX_ENTRY_BYTES)) {
            entry.write(out);
        }
        let footer = SegmentFooter {
            device: self.device,
            shard: self.shard,
            segment,
            generation,
            entries: entries.len() as u32,
            entries_crc: crc32fast::hash(&index),
        };
        index.extend_from_slice(&footer.to_block());
        self.write_metadata(segment, self.segment_blocks - (bytes / BLOCK_BYTES) as u32, &index).await
    }

    /// Marks a segment as free on the device and takes it back. Every record that it held and that still counts must
    /// be durable elsewhere.
    pub(super) async fn free(&self, segment: u32) -> Result<(), DiskError> {
        let generation = self.segments.borrow().table[segment as usize].generation;
        let header = self.header(segment, generation, SegmentUse::Free);
        self.write_metadata(segment, 0, &header.to_block()).await?;
        let mut segments = self.segments.borrow_mut();
        assert_eq!(segments.table[segment as usize].live_blocks, 0, "a freed segment holds nothing that counts");
        segments.table[segment as usize].state = SegmentState::Free;
        segments.free.insert(segment);
        self.starved.set(false);
        Ok(())
    }

    /// Writes whole blocks of a segment from the metadata arena.
    pub(super) async fn write_metadata(&self, segment: u32, block: u32, bytes: &[u8]) -> Result<(), DiskError> {
        let Some(disk) = &self.disk else { return Err(DiskError::Failed) };
        // Limits tie the arena's size to the largest index.
        let mut buffer = self.metadata.take(bytes.len()).await.map_err(|_| DiskError::Failed)?;
        buffer.copy_from_slice(bytes);
        disk.write(self.offset(segment, block), buffer.share()).await
    }

    /// Flushes. Whatever the device says about one that failed, want of space too, it is out of use.
    pub(super) async fn sync(&self) -> Result<(), DiskError> {
        let Some(disk) = &self.disk else { return Err(DiskError::Failed) };
        disk.sync().await.map_err(|error| if error == DiskError::Full { DiskError::Failed } else { error })
    }
}

fn close_active(segments: &mut Segments) {
    if let Some(active) = segments.active.take()
        && let Some(open) = segments.open.get_mut(&active)
    {
        open.closing = true;
    }
}

/// Space for one record. Dropped unused, it stays empty until the segment is compacted.
pub(super) struct Reservation<D: Disk> {
    pub(super) zone: Rc<Zone<D>>,
    segment: u32,
    generation: u64,
    block: u32,
    pub(super) durable_block: u32,
    settled: bool,
    /// Bytes at the record's front that are written.
    written: usize,
}

impl<D: Disk> Reservation<D> {
    /// The place, as the record's header must say.
    pub(super) fn place(&self) -> Place {
        self.zone.place(self.segment, self.generation, self.block)
    }

    /// The place, as the index says it.
    pub(super) fn location(&self) -> Location {
        Location { device: self.zone.ordinal, segment: self.segment, block: self.block }
    }

    /// Byte offset on the device of what is to be written.
    pub(super) fn offset(&self) -> u64 {
        self.zone.offset(self.segment, self.block) + self.written as u64
    }

    /// Writes the record's header area from the metadata arena, so that what is left to be written is the fragment. It
    /// is as durable as that: not before the device is flushed.
    pub(super) async fn write_front(&mut self, area: &[u8]) -> Result<(), DiskError> {
        self.zone.write_metadata(self.segment, self.block, area).await?;
        self.written = area.len();
        Ok(())
    }

    /// The record is durable.
    pub(super) fn complete(mut self, entry: IndexEntry) {
        self.settle(Some(entry));
    }

    fn settle(&mut self, entry: Option<IndexEntry>) {
        self.settled = true;
        let mut segments = self.zone.segments.borrow_mut();
        if let Some(open) = segments.open.get_mut(&self.segment) {
            open.in_flight.retain(|block| *block != self.block);
            match entry {
                Some(entry) => open.entries.push(entry),
                None => open.first_hole = Some(open.first_hole.map_or(self.block, |hole| hole.min(self.block))),
            }
        }
    }
}

impl<D: Disk> Drop for Reservation<D> {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(None);
        }
    }
}
