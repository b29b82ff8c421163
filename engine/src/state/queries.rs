//! Reading a log group: names at a moment, histories, deltas, lag, references. Each answer is of one consistent view.

use super::database::{Rows, Table, View};
use super::keys::{Key, last_number};
use super::lineage;
use super::log_group::{LogGroupState, meta_keys, read_row};
use super::rows::{CursorRow, DeltaRow, HoldRow, Lease, LogRow, NameRow, Seeding};
use crate::federation::sender::Given;
use bytes::Bytes;
use farside_codec::DecodeError;
use farside_codec::delta::{Cursor, Delta, EpochRecord, Generation, Lineage, LogDescriptor, PrunedDelta};
use farside_codec::ids::{BlindName, ChunkId, GroupId, Hlc, LogId, OperationId, SiteId};
use farside_codec::message::{Moment, Version, Versions};
use farside_raft::StateError;

/// A log as this site holds it.
#[derive(Debug, Clone)]
pub struct LogView {
    /// What it is.
    pub descriptor: LogDescriptor,
    /// Its generations, as its home states them. A branch that begins past the head has not come here yet.
    pub lineage: Lineage,
    /// The highest generation known; its site is home.
    pub known: Generation,
    /// Its head.
    pub head: Cursor,
    /// Time of the head.
    pub head_time: Hlc,
    /// Bytes up to the head.
    pub total_bytes: u64,
    /// Bytes of what is there.
    pub live_bytes: u64,
    /// The home's head as it was last told.
    pub heard: Option<(Cursor, Hlc)>,
    /// Up to here nothing will be placed any more of what a copy holds. At home the group's closed time says it.
    pub closed: Hlc,
    /// Key epochs used.
    pub epochs: Vec<EpochRecord>,
    /// Deltas set aside here.
    pub aside: u64,
    /// What was pruned was replaced at or before this sequence.
    pub floor: u64,
    /// `None`: this copy is an exact one up to its head.
    pub seeding: Option<Seeding>,
    /// What this site has promised the log's home, if it has.
    pub lease: Option<Lease>,
}

impl LogView {
    /// Whether the log accepts writes at `site`.
    pub fn is_home(&self, site: SiteId) -> bool {
        lineage::is_home(&self.lineage, self.known, site)
    }

    /// Whether `site` was the last to write: it is home, or it has handed the log over and waits for the next home to
    /// say that it has all of it. It is the one that tells others what there is.
    pub fn is_told_by(&self, site: SiteId) -> bool {
        lineage::is_told_by(&self.lineage, site)
    }

    /// Whether `site` has handed the log over, and has not heard that the next home has begun.
    pub fn is_in_transit(&self, site: SiteId) -> bool {
        lineage::in_transit_to(&self.lineage, self.known, site).is_some()
    }
}

impl From<LogRow> for LogView {
    fn from(row: LogRow) -> Self {
        Self {
            descriptor: row.descriptor,
            lineage: row.lineage,
            known: row.known,
            head: row.head,
            head_time: row.head_time,
            total_bytes: row.total_bytes,
            live_bytes: row.live_bytes,
            heard: row.heard,
            closed: row.closed,
            epochs: row.epochs,
            aside: row.aside,
            floor: row.floor,
            seeding: row.seeding,
            lease: row.lease.filter(|lease| lease.home == row.known && lease.longest_ms > 0),
        }
    }
}

impl LogView {
    /// Whether a peer is to be sent the log.
    pub fn goes_to(&self, peer: SiteId) -> bool {
        self.descriptor.policy.goes_to(peer)
    }

    /// Up to where this copy is an exact one, and the time of that.
    pub fn whole(&self) -> (&Cursor, Hlc) {
        self.seeding.as_ref().map_or((&self.head, self.head_time), |seeding| (&seeding.whole, seeding.whole_time))
    }

    /// From where a home has to go on sending.
    pub fn goes_on_from(&self) -> &Cursor {
        self.seeding.as_ref().and_then(|seeding| seeding.filled.as_ref()).unwrap_or(&self.head)
    }
}

/// What is kept for a peer that lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHeld {
    /// The peer.
    pub peer: SiteId,
    /// For so many milliseconds, as counted, it has lacked it.
    pub behind_ms: u64,
    /// Nothing is kept for it any more.
    pub expired: bool,
}

/// Why not all of what a log had at a moment is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Versions that were replaced up to this sequence, and the time of that, were pruned.
    Pruned(u64, Hlc),
    /// The copy is being made anew, and is an exact one up to this sequence.
    Seeding(u64),
}

/// How far behind a peer is.
#[derive(Debug, Clone)]
pub struct PeerLag {
    /// The peer.
    pub peer: SiteId,
    /// Its cursor.
    pub cursor: Cursor,
    /// Deltas that it has not made durable.
    pub deltas: u64,
    /// Their bytes and their chunks'.
    pub bytes: u64,
    /// Time of the oldest of them; `None` when it has all.
    pub oldest: Option<Hlc>,
}

/// A delta as the sender wants it: place and bytes.
pub type StoredDelta = (Cursor, Bytes);

/// All logs of a group, as of a view or of a change under way.
pub(super) fn logs_of(rows: &impl Rows, group: GroupId) -> Result<Vec<LogView>, StateError> {
    let prefix = Key::group(group);
    let end = prefix.after_prefix().unwrap_or_default();
    let mut logs = Vec::new();
    rows.scan(Table::Logs, &prefix[..]..&end[..], &mut |_, value| {
        logs.push(LogView::from(read_row::<LogRow>(value.to_vec())?));
        Ok(true)
    })?;
    Ok(logs)
}

/// The last sequence up to `head` that was placed at or before a time. Time rises along a log, and a pruned delta keeps its row:
/// it is found by halving.
pub(super) fn last_at(rows: &impl Rows, log: &Key, head: u64, time: Hlc) -> Result<u64, StateError> {
    let (mut first, mut last) = (0, head);
    while first < last {
        let middle = first + (last - first).div_ceil(2);
        let row = rows.get(Table::Deltas, &log.clone().number(middle))?.map(read_row::<DeltaRow>).transpose()?;
        match row {
            Some(row) if row.time <= time => first = middle,
            _ => last = middle - 1,
        }
    }
    Ok(first)
}

impl LogGroupState {
    pub(super) fn key(&self, log: LogId) -> Key {
        Key::group(self.group).log(log)
    }

    /// One log.
    pub fn log(&self, log: LogId) -> Result<Option<LogView>, StateError> {
        let row = self.database.read()?.get(Table::Logs, &self.key(log))?;
        Ok(row.map(read_row::<LogRow>).transpose()?.map(LogView::from))
    }

    /// All logs of the group.
    pub fn logs(&self) -> Result<Vec<LogView>, StateError> {
        logs_of(&self.database.read()?, self.group)
    }

    /// Time below which nothing will be placed any more.
    pub fn closed(&self) -> Result<Hlc, StateError> {
        let row = self.database.read()?.get(Table::Meta, &meta_keys(self.group).0)?;
        Ok(row.map(read_row).transpose()?.unwrap_or_default())
    }

    /// The last GC barrier.
    pub fn barrier(&self) -> Result<u64, StateError> {
        let row = self.database.read()?.get(Table::Meta, &meta_keys(self.group).1)?;
        Ok(row.map(read_row).transpose()?.unwrap_or(0))
    }

    /// The newest version of a name at a moment; `None` if it did not exist then.
    pub fn lookup(&self, log: LogId, name: BlindName, at: &Moment) -> Result<Option<Version>, StateError> {
        let view = self.database.read()?;
        let last = self.sequence_at(&view, log, at)?;
        match self.newest(&view, log, name, last)? {
            Some((sequence, row)) if !row.removed => self.version(&view, log, sequence),
            _ => Ok(None),
        }
    }

    /// What is missing of a moment, if anything may be. What was pruned was replaced at the floor at the latest, so moments from
    /// the floor on lack nothing, and neither does the one before anything was placed.
    pub fn missing_at(&self, log: LogId, at: &Moment) -> Result<Option<Missing>, StateError> {
        let view = self.database.read()?;
        let (last, row) = (self.sequence_at(&view, log, at)?, view.get(Table::Logs, &self.key(log))?);
        let Some(row) = row.map(read_row::<LogRow>).transpose()?.filter(|_| last > 0) else { return Ok(None) };
        let floor = match row.seeding {
            // What is there now can be asked for, and is not of one moment.
            Some(_) if *at == Moment::Latest => return Ok(None),
            Some(seeding) if last > seeding.whole.sequence => {
                return Ok(Some(Missing::Seeding(seeding.whole.sequence)));
            }
            Some(seeding) => seeding.floor,
            None => row.floor,
        };
        if last >= floor {
            return Ok(None);
        }
        Ok(Some(Missing::Pruned(floor, self.row(&view, log, floor)?.map_or_else(Hlc::default, |row| row.time))))
    }

    /// The same of one name, of which this was found: of what was pruned it lacks nothing where it was not replaced by the floor.
    pub fn missing_of(
        &self,
        log: LogId,
        name: BlindName,
        at: &Moment,
        found: Option<&Version>,
    ) -> Result<Option<Missing>, StateError> {
        let missing = self.missing_at(log, at)?;
        let (Some(Missing::Pruned(floor, _)), Some(found)) = (missing, found) else { return Ok(missing) };
        let found = Delta::parse(found.delta.clone()).map_err(StateError::Unreadable)?.sequence;
        let newest = self.newest(&self.database.read()?, log, name, floor)?;
        Ok(missing.filter(|_| newest.is_some_and(|(sequence, _)| sequence > found)))
    }

    /// The last sequence placed at or before a time.
    pub fn sequence_at_time(&self, log: LogId, time: Hlc) -> Result<u64, StateError> {
        self.sequence_at(&self.database.read()?, log, &Moment::Time(time))
    }

    /// The last sequence that a moment covers.
    fn sequence_at(&self, view: &View, log: LogId, at: &Moment) -> Result<u64, StateError> {
        let time = match at {
            Moment::Latest => return Ok(u64::MAX),
            Moment::Sequence(sequence) => return Ok(*sequence),
            Moment::Time(time) => *time,
        };
        let head = view.get(Table::Logs, &self.key(log))?.map(read_row::<LogRow>).transpose()?;
        last_at(view, &self.key(log), head.map_or(0, |row| row.head.sequence), time)
    }

    /// The newest version or removal of a name up to a sequence.
    fn newest(
        &self,
        view: &View,
        log: LogId,
        name: BlindName,
        last: u64,
    ) -> Result<Option<(u64, NameRow)>, StateError> {
        let key = self.key(log).name(name);
        let (first, last) = (key.clone().number(0), key.number(last));
        let found = view.last_in(Table::Names, &first[..]..=&last[..])?;
        found.map(|(key, value)| Ok((last_number(&key), read_row(value)?))).transpose()
    }

    /// A delta's time; of sequence 0 none.
    pub fn time_of(&self, log: LogId, sequence: u64) -> Result<Option<Hlc>, StateError> {
        Ok(self.row(&self.database.read()?, log, sequence)?.map(|row| row.time))
    }

    fn row(&self, view: &View, log: LogId, sequence: u64) -> Result<Option<DeltaRow>, StateError> {
        view.get(Table::Deltas, &self.key(log).number(sequence))?.map(read_row).transpose()
    }

    fn version(&self, view: &View, log: LogId, sequence: u64) -> Result<Option<Version>, StateError> {
        let Some(row) = self.row(view, log, sequence)?.filter(|row| !row.is_pruned()) else { return Ok(None) };
        let delta = Delta::parse(row.encoded.clone()).map_err(StateError::Unreadable)?;
        let mut extents = Vec::new();
        if let Some(extent) = &delta.proposal.extent {
            for index in 0..extent.index {
                let missing = StateError::Unreadable(DecodeError::Invalid { what: "extents of a version" });
                extents.push(self.extent(view, log, extent.object, index)?.ok_or(missing)?);
            }
        }
        Ok(Some(Version { delta: row.encoded, extents }))
    }

    pub(super) fn extent(
        &self,
        view: &View,
        log: LogId,
        object: OperationId,
        index: u32,
    ) -> Result<Option<Bytes>, StateError> {
        let key = self.key(log).operation(object).number(u64::from(index));
        let Some(sequence) = view.get(Table::Extents, &key)? else { return Ok(None) };
        Ok(self.row(view, log, read_row(sequence)?)?.map(|row| row.encoded))
    }

    /// The names that exist at a moment, in blind order, after `after`; at most `limit` of them and about `bytes`.
    pub fn list(
        &self,
        log: LogId,
        at: &Moment,
        after: Option<BlindName>,
        limit: usize,
        bytes: usize,
    ) -> Result<Versions, StateError> {
        let view = self.database.read()?;
        let last = self.sequence_at(&view, log, at)?;
        let prefix = self.key(log);
        let end = prefix.after_prefix().unwrap_or_default();
        let mut start = match after {
            Some(name) => prefix.clone().name(name).after_prefix().unwrap_or(end.clone()),
            None => prefix.to_vec(),
        };
        let mut found = Versions { versions: Vec::new(), more: false };
        let mut size = 0;
        loop {
            let mut name = None;
            view.scan(Table::Names, &start[..]..&end[..], &mut |key, _| {
                name = key.get(20..52).and_then(|bytes| bytes.try_into().ok()).map(BlindName);
                Ok(false)
            })?;
            let Some(name) = name else { return Ok(found) };
            if found.versions.len() >= limit || size >= bytes {
                found.more = true;
                return Ok(found);
            }
            if let Some((sequence, row)) = self.newest(&view, log, name, last)?
                && !row.removed
                && let Some(version) = self.version(&view, log, sequence)?
            {
                let more = version.delta.len() + version.extents.iter().map(Bytes::len).sum::<usize>();
                if size + more > bytes && !found.versions.is_empty() {
                    found.more = true;
                    return Ok(found);
                }
                size += more;
                found.versions.push(version);
            }
            start = prefix.clone().name(name).after_prefix().unwrap_or(end.clone());
        }
    }

    /// A name's versions and removals below a sequence, newest first; at most `limit` of them and about `bytes`.
    /// Their extents are left out: a history tells versions apart, a lookup at a sequence reads one.
    pub fn history(
        &self,
        log: LogId,
        name: BlindName,
        before: u64,
        limit: usize,
        bytes: usize,
    ) -> Result<Versions, StateError> {
        let view = self.database.read()?;
        let first = self.key(log).name(name).number(0);
        let mut found = Versions { versions: Vec::new(), more: false };
        let mut size = 0;
        let mut last = self.key(log).name(name).number(before);
        while let Some((key, _)) = view.last_in(Table::Names, &first[..]..&last[..])? {
            if found.versions.len() >= limit || size >= bytes {
                found.more = true;
                break;
            }
            let sequence = last_number(&key);
            if let Some(row) = self.row(&view, log, sequence)?.filter(|row| !row.is_pruned()) {
                size += row.encoded.len();
                found.versions.push(Version { delta: row.encoded, extents: Vec::new() });
            }
            last = self.key(log).name(name).number(sequence);
        }
        Ok(found)
    }

    /// Deltas from a sequence on, at most `limit` of them and about `bytes`. A pruned delta has no bytes.
    pub fn deltas(&self, log: LogId, from: u64, limit: usize, bytes: usize) -> Result<Vec<StoredDelta>, StateError> {
        let given = self.given(log, from, limit, bytes)?;
        let stored = |(cursor, given): (Cursor, Given)| match given {
            Given::Whole(encoded) => (cursor, encoded),
            Given::Pruned(_) => (cursor, Bytes::new()),
        };
        Ok(given.into_iter().map(stored).collect())
    }

    /// The same as a peer is given it.
    pub fn given(&self, log: LogId, from: u64, limit: usize, bytes: usize) -> Result<Vec<(Cursor, Given)>, StateError> {
        let view = self.database.read()?;
        let (first, last) = (self.key(log).number(from), self.key(log).number(u64::MAX));
        let mut found = Vec::new();
        let mut size = 0;
        view.scan(Table::Deltas, &first[..]..=&last[..], &mut |key, value| {
            let DeltaRow { hash, generation, time, total_bytes, encoded, left } = read_row(value.to_vec())?;
            let cursor = Cursor { generation, sequence: last_number(key), hash };
            let given = match left {
                Some(left) => Given::Pruned(PrunedDelta { cursor: cursor.clone(), time, total_bytes, left }),
                None => Given::Whole(encoded),
            };
            size += given.bytes();
            if !found.is_empty() && size > bytes {
                return Ok(false);
            }
            found.push((cursor, given));
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    /// When it was recorded what a peer has acknowledged.
    pub fn recorded_at(&self, log: LogId, peer: SiteId) -> Result<Option<Hlc>, StateError> {
        let row = self.database.read()?.get(Table::Cursors, &self.key(log).site(peer))?;
        Ok(row.map(read_row::<CursorRow>).transpose()?.map(|row| row.time))
    }

    /// What every peer that ever acknowledged this log has.
    pub fn peers(&self, log: LogId) -> Result<Vec<PeerLag>, StateError> {
        let view = self.database.read()?;
        let Some(head) = view.get(Table::Logs, &self.key(log))?.map(read_row::<LogRow>).transpose()? else {
            return Ok(Vec::new());
        };
        let prefix = self.key(log);
        let end = prefix.after_prefix().unwrap_or_default();
        let mut cursors = Vec::new();
        view.scan(Table::Cursors, &prefix[..]..&end[..], &mut |key, value| {
            let site = key.last_chunk::<16>().map_or(SiteId::default(), |bytes| SiteId(*bytes));
            cursors.push((site, read_row::<CursorRow>(value.to_vec())?.cursor));
            Ok(true)
        })?;
        let lag = |(peer, cursor): (SiteId, Cursor)| {
            let before = self.row(&view, log, cursor.sequence)?.map_or(0, |row| row.total_bytes);
            let oldest = self.row(&view, log, cursor.sequence + 1)?.map(|row| row.time);
            let deltas = head.head.sequence.saturating_sub(cursor.sequence);
            Ok(PeerLag { peer, cursor, deltas, bytes: head.total_bytes.saturating_sub(before), oldest })
        };
        cursors.into_iter().map(lag).collect()
    }

    /// What is kept of a log for peers that lack something, as it was counted last.
    pub fn holds(&self, log: LogId) -> Result<Vec<PeerHeld>, StateError> {
        let prefix = self.key(log);
        let end = prefix.after_prefix().unwrap_or_default();
        let mut holds = Vec::new();
        self.database.read()?.scan(Table::Holds, &prefix[..]..&end[..], &mut |key, value| {
            let peer = key.last_chunk::<16>().map_or(SiteId::default(), |bytes| SiteId(*bytes));
            let HoldRow { behind_ms, expired } = read_row(value.to_vec())?;
            holds.push(PeerHeld { peer, behind_ms, expired });
            Ok(true)
        })?;
        Ok(holds)
    }

    /// Which of these chunks some delta of this group names, set aside ones included.
    pub fn references(&self, chunks: &[ChunkId]) -> Result<Vec<bool>, StateError> {
        let view = self.database.read()?;
        let referenced = |chunk: &ChunkId| {
            let prefix = Key::group(self.group).chunk(*chunk);
            let end = prefix.after_prefix().unwrap_or_default();
            Ok(view.last_in(Table::References, &prefix[..]..&end[..])?.is_some())
        };
        chunks.iter().map(referenced).collect()
    }
}
