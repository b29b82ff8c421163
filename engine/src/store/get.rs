//! How a chunk gets out: the fragments that hold the range, each checked block by block; others where those are bad.
//!
//! A range is read from the few data fragments that hold it. Where one of them is missing or bad, the same columns of
//! any k good fragments are read and the missing ones computed. Everything answered matched its checksum in this read;
//! a whole chunk that had to be rebuilt is hashed again on top.
//!
//! All buffers of one attempt are taken together, and given back before the next attempt takes its own, so that reads
//! never wait for one another's memory.

use super::decode::{Space, Wanted, block_aligned};
use super::index::{Known, Location};
use super::zone::Zone;
use super::{Inner, Store, StoreError, StoreEvent, limits};
use bytes::Bytes;
use farside_codec::checksum::check_blocks;
use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;
use farside_codec::limits::BLOCK_BYTES;
use farside_codec::record::fragment::{FragmentHeader, checksum_table};
use farside_codec::stripe::StripeLayout;
use farside_io::disk::{Disk, DiskError};
use farside_io::limits::UNIT_BYTES;
use farside_io::pool::{Buffer, Pool, PoolError, Slice};
use futures_util::future::join_all;
use std::ops::Range;

/// A range of a chunk.
#[derive(Debug, Clone)]
pub struct ChunkRead {
    /// Length of the whole sealed chunk.
    pub sealed_bytes: u32,
    /// The range's bytes in order, in as many pieces as fragments hold it.
    pub pieces: Vec<Bytes>,
}

impl<D: Disk> Store<D> {
    /// Reads `length` bytes of a sealed chunk from `offset` on; all the rest where `length` is 0.
    pub async fn get(&self, chunk: ChunkId, offset: u32, length: u32) -> Result<ChunkRead, StoreError> {
        let inner = &self.0;
        let _permit = inner.reading.acquire().await.map_err(|_| StoreError::Stopped)?;
        let sealed_bytes = inner.index.borrow().sealed_bytes(&chunk).ok_or(StoreError::NotFound(chunk))?;
        let length = if length == 0 { sealed_bytes.saturating_sub(offset) } else { length };
        let end = offset.checked_add(length).filter(|end| *end <= sealed_bytes && length > 0);
        let range = offset as usize..end.ok_or(StoreError::Range { sealed_bytes })? as usize;
        let (mut tried, mut why) = (Vec::new(), StoreError::NotFound(chunk));
        // While a chunk is cut another way it has two stripes, and the older one goes when the newer one is whole.
        while let Some(known) = inner.readable(&chunk, &tried) {
            tried.push(known.geometry);
            let pieces = ChunkGet { inner, chunk, layout: known.layout(), range: range.clone() }.run().await;
            inner.counters.borrow_mut().reads += 1;
            match pieces {
                Ok(pieces) => return Ok(ChunkRead { sealed_bytes, pieces }),
                Err(StoreError::NotFound(_)) => {}
                Err(error @ StoreError::Corrupt(_)) => why = error,
                Err(error) => return Err(error),
            }
        }
        if why == StoreError::Corrupt(chunk) {
            inner.counters.borrow_mut().corrupt_chunks += 1;
            inner.report(StoreEvent::ChunkCorrupt { chunk });
        }
        Err(why)
    }
}

impl<D: Disk> Store<D> {
    /// Reads a range of one fragment of a stripe, in bytes of the fragment, checked as every read is. `NotFound`: it is not
    /// here, is damaged, or its device refuses; `Fragments`: the stripe has no such fragment; `FragmentRange`.
    pub async fn read_fragment(
        &self,
        chunk: ChunkId,
        geometry: Geometry,
        fragment: usize,
        range: Range<usize>,
    ) -> Result<Bytes, StoreError> {
        let inner = &self.0;
        let _permit = inner.reading.acquire().await.map_err(|_| StoreError::Stopped)?;
        let known = inner.index.borrow().stripe(&chunk, geometry);
        let layout = known.ok_or(StoreError::NotFound(chunk))?.layout();
        let (total, fragment_bytes) = (layout.geometry().total(), layout.fragment_bytes());
        if fragment >= total {
            return Err(StoreError::Fragments { total });
        }
        if range.is_empty() || range.end > fragment_bytes {
            return Err(StoreError::FragmentRange { fragment_bytes });
        }
        let read = ChunkGet { inner, chunk, layout, range }.read_fragment(fragment).await;
        inner.counters.borrow_mut().reads += 1;
        read
    }
}

/// A read of a chunk, or of one of its fragments: then the range is that of the fragment.
struct ChunkGet<'a, D: Disk> {
    inner: &'a Inner<D>,
    chunk: ChunkId,
    layout: StripeLayout,
    range: Range<usize>,
}

/// A block-aligned part of one fragment that is to be read.
#[derive(Debug, Clone, Copy)]
struct Part {
    fragment: usize,
    location: Location,
    /// Bytes of the fragment.
    start: usize,
    end: usize,
}

/// Why a part can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartError {
    /// The device refused.
    Refused,
    /// Header or checksums do not match.
    Mismatch,
}

/// What went wrong. The buffers of what did not are given back: whoever waits for more of them must hold none.
fn errors_of(read: Vec<Result<Slice, PartError>>) -> Vec<Option<PartError>> {
    read.into_iter().map(Result::err).collect()
}

impl<D: Disk> ChunkGet<'_, D> {
    async fn run(&self) -> Result<Vec<Bytes>, StoreError> {
        if let Some(pieces) = self.read_straight().await? {
            return Ok(pieces);
        }
        self.inner.counters.borrow_mut().degraded_reads += 1;
        self.read_degraded().await
    }

    fn known(&self) -> Result<Known, StoreError> {
        let known = self.inner.index.borrow().stripe(&self.chunk, self.layout.geometry());
        known.filter(|known| known.layout() == self.layout).ok_or(StoreError::NotFound(self.chunk))
    }

    /// Reads the data fragments that hold the range. `None`: one of them is missing or bad.
    async fn read_straight(&self) -> Result<Option<Vec<Bytes>>, StoreError> {
        for _ in 0..limits::MAX_READ_RESTARTS {
            let known = self.known()?;
            let parts: Option<Vec<Part>> = {
                let index = self.inner.index.borrow();
                let located = self.layout.locate(self.range.clone());
                let parts = located.map(|(fragment, range)| {
                    let location = index.location(&known, fragment)?;
                    let Range { start, end } = block_aligned(&range);
                    Some(Part { fragment, location, start, end })
                });
                parts.collect()
            };
            let Some(parts) = parts else { return Ok(None) };
            let read = self.read_parts(&parts).await?;
            if read.iter().all(Result::is_ok) {
                let pieces = self.layout.locate(self.range.clone()).zip(read.into_iter().flatten());
                let cut = pieces.map(|((_, range), data)| {
                    let from = range.start % BLOCK_BYTES;
                    data.slice(from..from + range.len()).into_bytes()
                });
                return Ok(Some(cut.collect()));
            }
            if !self.settle(&parts, &errors_of(read)).await {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Reads the same columns of any k fragments and computes those that are wanted.
    async fn read_degraded(&self) -> Result<Vec<Bytes>, StoreError> {
        let wanted = Wanted::new(self.layout, self.range.clone());
        let coder = self.inner.coder(self.layout.geometry());
        let mut bad = vec![false; self.layout.geometry().total()];
        // Every attempt but the last finds another bad fragment, or one that was moved meanwhile.
        for _ in 0..bad.len() + limits::MAX_READ_RESTARTS {
            let known = self.known()?;
            let parts = self.choose(&known, &bad, &wanted)?;
            let missing = wanted.missing(parts.iter().map(|part| part.fragment));
            let (read, space) = self.read_and_take(&parts, missing.len(), wanted.columns.len()).await?;
            if read.iter().any(Result::is_err) {
                drop(space);
                let errors = errors_of(read);
                let failed = parts.iter().zip(&errors).filter(|(_, error)| error.is_some());
                let failed: Vec<usize> = failed.map(|(part, _)| part.fragment).collect();
                if !self.settle(&parts, &errors).await {
                    failed.into_iter().for_each(|fragment| bad[fragment] = true);
                }
                continue;
            }
            let read = parts.iter().zip(read.into_iter().flatten());
            let present: Vec<(usize, Bytes)> = read.map(|(part, data)| (part.fragment, data.into_bytes())).collect();
            let space = space.into_iter().map(Space::Pooled).collect();
            return wanted.assemble(&self.chunk, &coder, &present, &missing, space);
        }
        Err(StoreError::Corrupt(self.chunk))
    }

    /// k fragments that are not known to be bad: those that are wanted first, and on devices that work before others.
    fn choose(&self, known: &Known, bad: &[bool], wanted: &Wanted) -> Result<Vec<Part>, StoreError> {
        let index = self.inner.index.borrow();
        let Range { start, end } = wanted.columns;
        let mut parts: Vec<Part> = index
            .locations(known)
            .filter(|(fragment, _)| !bad[*fragment])
            .map(|(fragment, location)| Part { fragment, location, start, end })
            .collect();
        let is_wanted = |part: &Part| wanted.pieces.iter().any(|(fragment, _)| *fragment == part.fragment);
        let works = |part: &Part| self.inner.zones[usize::from(part.location.device)].works();
        parts.sort_by_key(|part| (!works(part), !is_wanted(part), part.fragment));
        parts.truncate(known.geometry.data());
        let needed = known.geometry.data();
        if parts.len() == needed { Ok(parts) } else { Err(StoreError::Corrupt(self.chunk)) }
    }

    /// Reads a range of one fragment.
    async fn read_fragment(&self, fragment: usize) -> Result<Bytes, StoreError> {
        let Range { start, end } = block_aligned(&self.range);
        for _ in 0..limits::MAX_READ_RESTARTS {
            let known = self.known()?;
            let location = self.inner.index.borrow().location(&known, fragment);
            let location = location.ok_or(StoreError::NotFound(self.chunk))?;
            let parts = [Part { fragment, location, start, end }];
            let read = self.read_parts(&parts).await?;
            if let [Ok(data)] = &read[..] {
                return Ok(data.slice(self.range.start - start..self.range.end - start).into_bytes());
            }
            if !self.settle(&parts, &errors_of(read)).await {
                break;
            }
        }
        Err(StoreError::NotFound(self.chunk))
    }

    async fn read_parts(&self, parts: &[Part]) -> Result<Vec<Result<Slice, PartError>>, StoreError> {
        Ok(self.read_and_take(parts, 0, 0).await?.0)
    }

    /// Takes the buffers of all parts, and `extra` more, together; reads and checks the parts side by side.
    async fn read_and_take(
        &self,
        parts: &[Part],
        extra: usize,
        extra_bytes: usize,
    ) -> Result<(Vec<Result<Slice, PartError>>, Vec<Buffer>), StoreError> {
        let mut lengths: Vec<usize> = Vec::with_capacity(parts.len() * 2 + extra);
        for part in parts {
            lengths.extend(self.reads_of(part).iter().map(|(_, length)| *length));
        }
        lengths.extend(std::iter::repeat_n(extra_bytes, extra));
        let too_large = |_| StoreError::Size { sealed_bytes: self.layout.sealed_bytes() };
        let mut buffers = take_together(&self.inner.pool, &lengths).await.map_err(too_large)?.into_iter();
        let reads = parts.iter().map(|part| {
            let mine: Vec<Buffer> = buffers.by_ref().take(self.reads_of(part).len()).collect();
            self.read_part(part, mine)
        });
        let reads: Vec<_> = reads.collect();
        let extra: Vec<Buffer> = buffers.collect();
        Ok((join_all(reads).await, extra))
    }

    /// Ranges of the record that a part needs: header area and data in one, or each for itself where they are far
    /// apart. Offsets count from the record's start.
    fn reads_of(&self, part: &Part) -> Vec<(usize, usize)> {
        let header = self.layout.header_bytes();
        match part.start <= limits::JOINT_READ_BYTES {
            true => vec![(0, header + part.end)],
            false => vec![(0, header), (header + part.start, part.end - part.start)],
        }
    }

    async fn read_part(&self, part: &Part, buffers: Vec<Buffer>) -> Result<Slice, PartError> {
        let zone = &self.inner.zones[usize::from(part.location.device)];
        let Some(disk) = &zone.disk else { return Err(PartError::Refused) };
        let base = zone.offset(part.location.segment, part.location.block);
        let reads = self.reads_of(part).into_iter().zip(buffers);
        let reads = reads.map(|((offset, _), buffer)| disk.read(base + offset as u64, buffer));
        let mut read = Vec::with_capacity(2);
        for (result, buffer) in join_all(reads).await {
            if let Err(error) = result {
                self.inner.read_failed(zone, error);
                return Err(PartError::Refused);
            }
            read.push(buffer.share());
        }
        let header_bytes = self.layout.header_bytes();
        let Some(first) = read.first() else { return Err(PartError::Mismatch) };
        let area = &first[..header_bytes];
        let header = FragmentHeader::read(area).map_err(|_| PartError::Mismatch)?;
        let generation = header.place.generation;
        let here = zone.place(part.location.segment, generation, part.location.block);
        let mine = header.chunk == self.chunk && usize::from(header.fragment) == part.fragment && header.place == here;
        if !mine || header.layout() != self.layout {
            return Err(PartError::Mismatch);
        }
        let data = match read.get(1) {
            Some(data) => data.clone(),
            None => first.slice(header_bytes + part.start..header_bytes + part.end),
        };
        match check_blocks(&data, checksum_table(area, part.start / BLOCK_BYTES)) {
            Ok(()) => Ok(data),
            Err(_) => Err(PartError::Mismatch),
        }
    }

    /// Finds out about parts that failed: moved by compaction meanwhile, wrong only once, or damaged for good, in which
    /// case the fragment is owed from now on. Answers whether the same read is worth another try.
    async fn settle(&self, parts: &[Part], errors: &[Option<PartError>]) -> bool {
        let mut retry = true;
        for (part, error) in parts.iter().zip(errors) {
            match error {
                None => {}
                Some(_) if self.has_moved(part) => {}
                Some(PartError::Refused) => retry = false,
                Some(PartError::Mismatch) => retry &= self.second_look(part).await,
            }
        }
        retry
    }

    fn has_moved(&self, part: &Part) -> bool {
        let index = self.inner.index.borrow();
        let known = index.stripe(&self.chunk, self.layout.geometry());
        let location = known.and_then(|known| index.location(&known, part.fragment));
        location.is_some_and(|location| location != part.location)
    }

    /// Reads a part that did not match once more. Answers whether it is good now, or was moved.
    async fn second_look(&self, part: &Part) -> bool {
        let lengths: Vec<usize> = self.reads_of(part).iter().map(|(_, length)| *length).collect();
        let Ok(buffers) = take_together(&self.inner.pool, &lengths).await else { return false };
        match self.read_part(part, buffers).await {
            Ok(_) => {
                self.inner.counters.borrow_mut().transient_mismatches += 1;
                true
            }
            Err(_) if self.has_moved(part) => true,
            Err(PartError::Refused) => false,
            Err(PartError::Mismatch) => {
                self.inner.fragment_damaged(&self.chunk, part.fragment, part.location);
                false
            }
        }
    }
}

impl<D: Disk> Inner<D> {
    /// The stripe to read a chunk from, but for those that were tried: the most redundant one. Where chunks are spread, one
    /// of which too few fragments are here is not damaged: the others lie on other nodes.
    fn readable(&self, chunk: &ChunkId, tried: &[Geometry]) -> Option<Known> {
        let index = self.index.borrow();
        let may_be_whole =
            |known: &Known| !self.spread.get() || index.locations(known).count() >= known.geometry.data();
        let stripes = index.stripes(chunk).filter(|known| !tried.contains(&known.geometry) && may_be_whole(known));
        stripes.max_by_key(|known| {
            let spare = self.healthy(&index, known).count() as isize - known.geometry.data() as isize;
            (spare, known.geometry == self.geometry.get())
        })
    }

    /// Takes note of a read that a device refused.
    fn read_failed(&self, zone: &Zone<D>, error: DiskError) {
        self.counters.borrow_mut().read_errors += 1;
        // A device that is out of use has been reported.
        if zone.works() {
            self.report(StoreEvent::ReadRefused { device: zone.device, error });
        }
    }

    /// A fragment is damaged for good: it is forgotten, counted and reported.
    pub(super) fn fragment_damaged(&self, chunk: &ChunkId, fragment: usize, location: Location) {
        if self.forget_fragment(chunk, fragment, location) {
            self.counters.borrow_mut().damaged_fragments += 1;
            let device = self.zones[usize::from(location.device)].device;
            self.report(StoreEvent::FragmentDamaged { chunk: *chunk, fragment: fragment as u8, device });
        }
    }
}

/// Takes several buffers at once, so that nobody holds some while waiting for others.
async fn take_together(pool: &Pool, lengths: &[usize]) -> Result<Vec<Buffer>, PoolError> {
    let whole: usize = lengths.iter().map(|length| length.next_multiple_of(UNIT_BYTES)).sum();
    loop {
        // What fits in one piece fits in several that are cut from it.
        drop(pool.take(whole).await?);
        let buffers: Option<Vec<Buffer>> = lengths.iter().map(|length| pool.try_take(*length)).collect();
        if let Some(buffers) = buffers {
            return Ok(buffers);
        }
        tokio::task::yield_now().await;
    }
}
