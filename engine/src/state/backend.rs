//! The file under a state database: 4 KiB pages, each with a checksum, so that decay is noticed when it is read.
//!
//! The file is a row of groups, each one block of checksums followed by the 1,024 pages that they are of. redb sees the
//! pages alone. A page that was never written reads as zeros. Absent on purpose: repair. The state is a cache of
//! snapshots and log, so damage means: delete and rebuild.

use farside_codec::limits::BLOCK_BYTES;
use redb::StorageBackend;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const PAGE: u64 = BLOCK_BYTES as u64;
/// One block of four-byte checksums covers this many pages.
const PAGES_PER_GROUP: u64 = PAGE / 4;
const GROUP_BYTES: u64 = PAGE * (PAGES_PER_GROUP + 1);

/// Says that a page is not what was written. Shared with whoever opened the database.
#[derive(Debug, Default)]
pub(super) struct DamageFlag(AtomicBool);

impl DamageFlag {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The file, its length as redb knows it, and the checksums of its pages.
#[derive(Debug)]
pub(super) struct PagedFile {
    file: File,
    state: Mutex<State>,
    damage: std::sync::Arc<DamageFlag>,
}

#[derive(Debug)]
struct State {
    length: u64,
    /// One checksum a page: four bytes for each 4 KiB, so a thousandth of the file.
    checksums: Vec<u32>,
}

fn page_offset(page: u64) -> u64 {
    page / PAGES_PER_GROUP * GROUP_BYTES + PAGE + page % PAGES_PER_GROUP * PAGE
}

fn checksum_offset(page: u64) -> u64 {
    page / PAGES_PER_GROUP * GROUP_BYTES + page % PAGES_PER_GROUP * 4
}

/// A page of zeros has checksum zero, so that a hole needs no checksum written.
fn checksum(page: &[u8]) -> u32 {
    if page.iter().all(|byte| *byte == 0) { 0 } else { crc32fast::hash(page).max(1) }
}

impl PagedFile {
    pub(super) fn open(file: File, damage: std::sync::Arc<DamageFlag>) -> io::Result<Self> {
        let physical = file.metadata()?.len();
        let pages = physical / GROUP_BYTES * PAGES_PER_GROUP + (physical % GROUP_BYTES).saturating_sub(PAGE) / PAGE;
        let mut checksums = Vec::with_capacity(pages as usize);
        let mut block = [0; BLOCK_BYTES];
        while (checksums.len() as u64) < pages {
            file.read_exact_at(&mut block, checksum_offset(checksums.len() as u64))?;
            let take = (pages - checksums.len() as u64).min(PAGES_PER_GROUP) as usize;
            checksums.extend(
                block.chunks_exact(4).take(take).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]])),
            );
        }
        Ok(Self { file, state: Mutex::new(State { length: pages * PAGE, checksums }), damage })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn read_page(&self, state: &State, page: u64, out: &mut [u8; BLOCK_BYTES]) -> io::Result<()> {
        self.file.read_exact_at(out, page_offset(page))?;
        if checksum(out) == state.checksums[page as usize] {
            return Ok(());
        }
        self.damage.0.store(true, Ordering::Relaxed);
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("page {page} of the state file is damaged")))
    }
}

/// The pages that a range touches: page, where the range begins within it, how many bytes.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + length as u64;
    (offset / PAGE..end.div_ceil(PAGE)).map(move |page| {
        let from = offset.max(page * PAGE);
        (page, (from - page * PAGE) as usize, (end.min((page + 1) * PAGE) - from) as usize)
    })
}

impl StorageBackend for PagedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if offset + out.len() as u64 > state.length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut page_bytes = [0; BLOCK_BYTES];
        let mut done = 0;
        for (page, from, length) in pieces(offset, out.len()) {
            self.read_page(&state, page, &mut page_bytes)?;
            out[done..done + length].copy_from_slice(&page_bytes[from..from + length]);
            done += length;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.state();
        let pages = length.div_ceil(PAGE);
        let known = state.checksums.len() as u64;
        if pages > known && !known.is_multiple_of(PAGES_PER_GROUP) {
            // A shorter life of the file may have left checksums of pages that are zeros now.
            let stale = PAGES_PER_GROUP - known % PAGES_PER_GROUP;
            self.file.write_all_at(&vec![0; stale as usize * 4], checksum_offset(known))?;
        }
        let physical = if pages == 0 { 0 } else { page_offset(pages - 1) + PAGE };
        self.file.set_len(physical)?;
        state.checksums.resize(pages as usize, 0);
        state.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if offset + data.len() as u64 > state.length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut page_bytes = [0; BLOCK_BYTES];
        let mut done = 0;
        for (page, from, length) in pieces(offset, data.len()) {
            if length < BLOCK_BYTES {
                self.read_page(&state, page, &mut page_bytes)?;
            }
            page_bytes[from..from + length].copy_from_slice(&data[done..done + length]);
            done += length;
            let sum = checksum(&page_bytes);
            self.file.write_all_at(&page_bytes, page_offset(page))?;
            self.file.write_all_at(&sum.to_le_bytes(), checksum_offset(page))?;
            state.checksums[page as usize] = sum;
        }
        Ok(())
    }
}
