//! What a zone holds, found out at a start: sealed segments by their index, others by walking their records.
//!
//! A record counts when its header names exactly the place where it lies, its generation is the newest in the segment,
//! and, in a scan, all of its checksums match. What does not match is a torn write if nothing says that it was ever
//! durable, else damage. Every record carries the block below which its segment was durable when it was written, and
//! that tells the two apart.

use super::limits;
use super::zone::{OpenSegment, Segment, SegmentState, Zone};
use farside_codec::checksum::check_blocks;
use farside_codec::frame::FrameHeader;
use farside_codec::limits::{BLOCK_BYTES, MAX_CHUNK_SEALED_BYTES};
use farside_codec::message::kind;
use farside_codec::record::fragment::{FragmentHeader, checksum_table};
use farside_codec::record::segment::{
    INDEX_ENTRY_BYTES, IndexEntry, SegmentFooter, SegmentHeader, SegmentUse, index_bytes,
};
use farside_io::disk::Disk;
use farside_io::pool::{Buffer, Pool};

/// No header area is larger: the largest fragment's checksum table with its fixed fields.
const MAX_AREA_BYTES: usize =
    (MAX_CHUNK_SEALED_BYTES / BLOCK_BYTES * 4 + 256).next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES;
const _: () = assert!(MAX_AREA_BYTES < limits::SCAN_BYTES);

/// Generations of a zone count its segments' uses and never come near this, whatever a device says.
const GENERATIONS_END: u64 = 1 << 63;

/// What a segment's header and index say.
pub(super) enum Examined {
    Free {
        generation: u64,
    },
    Indexed {
        generation: u64,
        entries: Vec<IndexEntry>,
        /// The header is bad, or older than the index.
        bad_header: bool,
    },
    /// Only a scan can tell.
    Scan {
        /// As the header says, if it is good.
        generation: u64,
        bad_header: bool,
        /// There was an index and it is damaged.
        bad_index: bool,
    },
    Unreadable,
}

/// What a scan found.
#[derive(Default)]
pub(super) struct Scanned {
    pub(super) generation: u64,
    pub(super) entries: Vec<IndexEntry>,
    /// First block behind the last good record.
    pub(super) next_block: u32,
    /// Something in front of that block is no good record, so the segment must not grow: what is behind a hole counts
    /// as damaged once something durable follows it.
    pub(super) has_hole: bool,
    pub(super) torn_records: u64,
    pub(super) damaged_records: u64,
    /// The device refused to read a part.
    pub(super) unreadable_part: bool,
}

/// Reads whole blocks of a segment, a second time if the device refuses the first.
pub(super) async fn read_blocks<D: Disk>(
    zone: &Zone<D>,
    pool: &Pool,
    segment: u32,
    block: u32,
    blocks: u32,
) -> Option<Buffer> {
    let disk = zone.disk.as_ref()?;
    let buffer = pool.take(blocks as usize * BLOCK_BYTES).await.ok()?;
    let offset = zone.offset(segment, block);
    let (read, buffer) = disk.read(offset, buffer).await;
    if read.is_ok() {
        return Some(buffer);
    }
    let (read, buffer) = disk.read(offset, buffer).await;
    read.is_ok().then_some(buffer)
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Reads a segment's header and, where it has one, its index.
pub(super) async fn examine<D: Disk>(zone: &Zone<D>, pool: &Pool, segment: u32) -> Examined {
    let Some(head) = read_blocks(zone, pool, segment, 0, 2).await else { return Examined::Unreadable };
    let header = SegmentHeader::from_block(&head[..BLOCK_BYTES]).ok();
    let header = header.filter(|header| {
        zone.names(header.device, header.shard, (header.segment, segment)) && header.generation < GENERATIONS_END
    });
    let blank = is_blank(&head[..BLOCK_BYTES]);
    let first_record = FrameHeader::decode(&head[BLOCK_BYTES..]).ok().filter(|frame| frame.kind() == kind::FRAGMENT);
    // A fragment's frame carries its generation, so a record that is newer than the header is seen at once.
    let first_generation =
        first_record.map(|frame| frame.correlation()).filter(|generation| *generation < GENERATIONS_END);
    drop(head);
    let known = header.as_ref().map_or(0, |header| header.generation);
    let outdated = first_generation.is_some_and(|generation| generation > known);
    match &header {
        Some(header) if header.usage == SegmentUse::Free && !outdated => return Examined::Free { generation: known },
        None if blank && first_generation.is_none() => return Examined::Free { generation: 0 },
        _ => {}
    }
    let bad_header = header.is_none() || outdated;
    let scan = |bad_index| Examined::Scan { generation: known, bad_header, bad_index };
    let tail_blocks = zone.segment_blocks.min((limits::TAIL_BYTES / BLOCK_BYTES) as u32);
    let tail = read_blocks(zone, pool, segment, zone.segment_blocks - tail_blocks, tail_blocks).await;
    let Some(tail) = tail else { return scan(true) };
    let last = &tail[tail.len() - BLOCK_BYTES..];
    let footer = match SegmentFooter::from_block(last) {
        Ok(footer) => footer,
        Err(_) => return scan(!is_blank(last)),
    };
    let current = (known.max(first_generation.unwrap_or(0))..GENERATIONS_END).contains(&footer.generation);
    if !current || !zone.names(footer.device, footer.shard, (footer.segment, segment)) {
        return scan(false);
    }
    let bytes = index_bytes((footer.entries as usize).min(zone.segment_blocks as usize));
    let blocks = (bytes / BLOCK_BYTES) as u32;
    if blocks >= zone.segment_blocks {
        return scan(true);
    }
    let tail = match bytes <= tail.len() {
        true => tail,
        false => {
            drop(tail);
            match read_blocks(zone, pool, segment, zone.segment_blocks - blocks, blocks).await {
                Some(tail) => tail,
                None => return scan(true),
            }
        }
    };
    match read_entries(&tail[tail.len() - bytes..tail.len() - BLOCK_BYTES], &footer, zone.segment_blocks) {
        Some(entries) => {
            let bad_header = bad_header || footer.generation > known;
            Examined::Indexed { generation: footer.generation, entries, bad_header }
        }
        None => scan(true),
    }
}

fn read_entries(bytes: &[u8], footer: &SegmentFooter, segment_blocks: u32) -> Option<Vec<IndexEntry>> {
    let count = footer.entries as usize;
    if crc32fast::hash(bytes) != footer.entries_crc || bytes.len() < count * INDEX_ENTRY_BYTES {
        return None;
    }
    let entries = bytes.chunks_exact(INDEX_ENTRY_BYTES).take(count);
    entries.map(|entry| IndexEntry::read(entry, segment_blocks).ok()).collect()
}

/// A record whose header is good and names its place.
struct Probe {
    entry: IndexEntry,
    generation: u64,
    durable_block: u32,
    good: bool,
}

/// Walks a segment's records.
pub(super) async fn scan<D: Disk>(zone: &Zone<D>, pool: &Pool, segment: u32, header_generation: u64) -> Scanned {
    let end = zone.segment_blocks - 1;
    let mut probes: Vec<Probe> = Vec::new();
    let mut unreadable_part = false;
    let mut window: Option<(u32, Buffer)> = None;
    let mut block = 1;
    while block < end {
        let (start, bytes) = match window.take() {
            Some(window) if block < window.0 + (window.1.len() / BLOCK_BYTES) as u32 => window,
            _ => match read_window(zone, pool, segment, block, end).await {
                Some(bytes) => (block, bytes),
                None => {
                    unreadable_part = true;
                    block += 1;
                    continue;
                }
            },
        };
        let at = (block - start) as usize * BLOCK_BYTES;
        let step = match look(zone, segment, block, &bytes[at..]) {
            Look::Nothing => 1,
            Look::Cut if at > 0 => {
                // The header area crosses the window's end: look again with a window that begins here.
                continue;
            }
            Look::Cut => 1,
            Look::Header(header) => {
                let slot = header.layout().slot_bytes();
                let good = match bytes.get(at..at + slot) {
                    Some(record) => Some(is_intact(&header, record)),
                    None => {
                        // One buffer at a time, so that a small pool is enough.
                        drop(bytes);
                        let record = read_blocks(zone, pool, segment, block, (slot / BLOCK_BYTES) as u32).await;
                        let good = record.as_ref().map(|record| is_intact(&header, record));
                        push(&mut probes, &header, good == Some(true));
                        unreadable_part |= good.is_none();
                        block += if good == Some(true) { (slot / BLOCK_BYTES) as u32 } else { 1 };
                        continue;
                    }
                };
                push(&mut probes, &header, good == Some(true));
                if good == Some(true) { (slot / BLOCK_BYTES) as u32 } else { 1 }
            }
        };
        block += step;
        window = Some((start, bytes));
    }
    summarize(probes, header_generation, unreadable_part)
}

async fn read_window<D: Disk>(zone: &Zone<D>, pool: &Pool, segment: u32, block: u32, end: u32) -> Option<Buffer> {
    let blocks = ((limits::SCAN_BYTES / BLOCK_BYTES) as u32).min(end - block);
    match read_blocks(zone, pool, segment, block, blocks).await {
        Some(bytes) => Some(bytes),
        // Past a bad sector the scan goes on block by block.
        None => read_blocks(zone, pool, segment, block, 1).await,
    }
}

enum Look {
    Nothing,
    /// A header area that does not end in these bytes.
    Cut,
    Header(FragmentHeader),
}

fn look<D: Disk>(zone: &Zone<D>, segment: u32, block: u32, bytes: &[u8]) -> Look {
    let Ok(area) = FragmentHeader::area_bytes(bytes) else { return Look::Nothing };
    if area > MAX_AREA_BYTES {
        return Look::Nothing;
    }
    if area > bytes.len() {
        return Look::Cut;
    }
    let Ok(header) = FragmentHeader::read(bytes) else { return Look::Nothing };
    let end = block as usize + header.layout().slot_bytes() / BLOCK_BYTES;
    let generation = header.place.generation;
    let here = header.place == zone.place(segment, generation, block) && generation < GENERATIONS_END;
    if here && end < zone.segment_blocks as usize { Look::Header(header) } else { Look::Nothing }
}

fn is_intact(header: &FragmentHeader, record: &[u8]) -> bool {
    let (area, fragment) = record.split_at(header.layout().header_bytes());
    check_blocks(fragment, checksum_table(area, 0)).is_ok()
}

fn push(probes: &mut Vec<Probe>, header: &FragmentHeader, good: bool) {
    let entry = IndexEntry {
        chunk: header.chunk,
        geometry: header.geometry,
        sealed_bytes: header.sealed_bytes,
        fragment: header.fragment,
        block: header.place.block,
    };
    let (generation, durable_block) = (header.place.generation, header.durable_block);
    probes.push(Probe { entry, generation, durable_block, good });
}

/// Sorts records of the newest generation into good, torn and damaged ones.
fn summarize(probes: Vec<Probe>, header_generation: u64, unreadable_part: bool) -> Scanned {
    let generation = probes.iter().map(|probe| probe.generation).max().unwrap_or(0).max(header_generation);
    let mut scanned = Scanned { generation, next_block: 1, unreadable_part, ..Scanned::default() };
    let current = || probes.iter().filter(|probe| probe.generation == generation);
    let durable_block = current().map(|probe| probe.durable_block).max().unwrap_or(0);
    // Holes and bad records since the last good one: they are a hole only if another good one follows.
    let (mut torn, mut damaged) = (0, 0);
    let mut covered = 1;
    for probe in current() {
        let block = probe.entry.block;
        let lost = u64::from(block > covered) + u64::from(!probe.good);
        match block.min(covered) < durable_block {
            true => damaged += lost,
            false => torn += lost,
        }
        covered = covered.max(block + probe.entry.blocks());
        if probe.good {
            scanned.has_hole |= torn + damaged > 0;
            scanned.next_block = block + probe.entry.blocks();
            scanned.entries.push(probe.entry);
        }
    }
    (scanned.torn_records, scanned.damaged_records) = (torn, damaged);
    scanned
}

impl<D: Disk> Zone<D> {
    /// Enters a segment that holds no record.
    pub(super) fn enter_free(&self, segment: u32, generation: u64) {
        let mut segments = self.segments.borrow_mut();
        segments.last_generation = segments.last_generation.max(generation);
        segments.table[segment as usize] =
            Segment { state: SegmentState::Free, generation, live_blocks: 0, most_blocks: 0 };
        segments.free.insert(segment);
    }

    /// Enters a segment that has an index.
    pub(super) fn enter_sealed(&self, segment: u32, generation: u64) {
        let mut segments = self.segments.borrow_mut();
        segments.last_generation = segments.last_generation.max(generation);
        segments.table[segment as usize] =
            Segment { state: SegmentState::Sealed, generation, live_blocks: 0, most_blocks: 0 };
    }

    /// Enters a segment that was scanned. The newest one that may grow goes on; the others get their index.
    pub(super) fn enter_scanned(&self, segment: u32, scanned: Scanned, may_grow: bool) {
        let mut segments = self.segments.borrow_mut();
        let generation = scanned.generation;
        segments.last_generation = segments.last_generation.max(generation);
        segments.table[segment as usize] =
            Segment { state: SegmentState::Open, generation, live_blocks: 0, most_blocks: 0 };
        let mut open = OpenSegment { next_block: scanned.next_block, entries: scanned.entries, ..Default::default() };
        let active = segments.active;
        let newest = active.is_none_or(|active| segments.table[active as usize].generation < generation);
        open.closing = !(may_grow && newest);
        if !open.closing {
            if let Some(before) = active.and_then(|active| segments.open.get_mut(&active)) {
                before.closing = true;
            }
            segments.active = Some(segment);
        }
        segments.open.insert(segment, open);
    }
}
