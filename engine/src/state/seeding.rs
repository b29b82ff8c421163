//! Copies that are not exact: those that take in what their home has pruned, and those that are filled up again.
//!
//! A home prunes versions that were replaced long ago, and for a peer that lacks too much it does not wait. Such a peer is given
//! the places of what is gone, and everything that is there: at the home's *floor*, up to which all of it was replaced, it is
//! exact again. Until then it can go back to where it was before, so it lets go of nothing that it had there.
//!
//! A copy that has pruned what another history still has is filled up: it is sent the log once more and puts in what it lacks.
//! It keeps all that it has meanwhile, so no chunk of it crosses again.

use super::database::{Rows, Table};
use super::keys::last_number;
use super::log_group::{Work, read_row};
use super::place::{bytes_of, delta_row, extent_key, put_finders, put_name, replaces_nothing, version_before};
use super::prune::drop_version;
use super::rows::{DeltaRow, LogRow, Seeding};
use bytes::Bytes;
use farside_codec::delta::{Cursor, Delta, Left, Lineage, PrunedDelta};
use farside_codec::ids::{BlindName, DeltaHash, Hlc, LogId};
use farside_codec::{DecodeError, Field};
use farside_raft::StateError;

/// A log that has no row where there must be one.
pub(super) fn gap() -> StateError {
    StateError::Unreadable(DecodeError::Invalid { what: "gap in a log" })
}

/// The beginning of a log.
fn beginning(row: &LogRow) -> Cursor {
    Cursor { generation: row.known, sequence: 0, hash: DeltaHash::ZERO }
}

/// Takes in the place of a delta whose version its home has pruned. The caller has checked that it continues the head.
pub(super) fn take(work: &Work<'_>, row: &mut LogRow, pruned: &PrunedDelta, floor: u64) -> Result<(), StateError> {
    if row.seeding.is_none() {
        let (whole, whole_time) = (row.head.clone(), row.head_time);
        row.seeding = Some(Seeding { whole, whole_time, floor: row.floor, filled: None });
    }
    row.floor = row.floor.max(floor);
    let PrunedDelta { cursor, time, total_bytes, left } = pruned.clone();
    let (hash, generation, sequence) = (cursor.hash, cursor.generation, cursor.sequence);
    let stored = DeltaRow { hash, generation, time, total_bytes, encoded: Bytes::new(), left: Some(left.clone()) };
    work.change.put(Table::Deltas, &work.key().log(row.descriptor.log).number(sequence), &stored.to_bytes())?;
    (row.head, row.head_time, row.total_bytes) = (cursor, time, total_bytes);
    take_left(work, row, sequence, time, &left)
}

/// Takes in what is left of a delta at its place.
pub(super) fn take_left(
    work: &Work<'_>,
    row: &mut LogRow,
    sequence: u64,
    time: Hlc,
    left: &Left,
) -> Result<(), StateError> {
    let log = row.descriptor.log;
    work.change.put(Table::Operations, &work.key().log(log).operation(left.operation), &sequence.to_bytes())?;
    // Extents that came before their object was pruned go with it. Those up to where the copy is exact stay: another home may
    // still have the object, and fills in only what comes after that.
    let whole = row.seeding.as_ref().map_or(0, |seeding| seeding.whole.sequence);
    for index in 0.. {
        let extent = extent_key(work, log, left.operation, index);
        let placed = work.change.get(Table::Extents, &extent)?.map(read_row).transpose()?;
        let Some(placed) = placed.filter(|placed: &u64| *placed < sequence) else { break };
        if placed > whole {
            work.change.remove(Table::Extents, &extent)?;
            row.live_bytes = row.live_bytes.saturating_sub(drop_version(work, log, placed)?);
        }
    }
    // A name that this copy has a version of was removed.
    let Some(name) = left.removed else { return Ok(()) };
    match version_before(work, log, name, sequence)? {
        Some(_) => put_name(work, log, name, (sequence, time), true, version_after(work, log, name, sequence)?),
        None => Ok(()),
    }
}

/// Drops the head's place, of which nothing else is left.
pub(super) fn drop_place(work: &Work<'_>, row: &LogRow, stored: &DeltaRow) -> Result<(), StateError> {
    let (log, sequence) = (row.descriptor.log, row.head.sequence);
    if let Some(left) = &stored.left {
        let operation = work.key().log(log).operation(left.operation);
        let placed = work.change.get(Table::Operations, &operation)?.map(read_row::<u64>).transpose()?;
        if placed == Some(sequence) {
            work.change.remove(Table::Operations, &operation)?;
        }
    }
    if let Some(name) = stored.left.as_ref().and_then(|left| left.removed) {
        work.change.remove(Table::Names, &work.key().log(log).name(name).number(sequence))?;
    }
    replaces_nothing(work, log, stored.time)?;
    work.change.remove(Table::Deltas, &work.key().log(log).number(sequence))
}

/// The next version or removal of a name after a sequence, and its time.
fn version_after(
    work: &Work<'_>,
    log: LogId,
    name: BlindName,
    sequence: u64,
) -> Result<Option<(u64, Hlc)>, StateError> {
    let name = work.key().log(log).name(name);
    let (after, last) = (name.clone().number(sequence.saturating_add(1)), name.number(u64::MAX));
    let mut newer = None;
    work.change.scan(Table::Names, &after[..]..=&last[..], &mut |key, _| {
        newer = Some(last_number(key));
        Ok(false)
    })?;
    let Some(newer) = newer else { return Ok(None) };
    Ok(delta_row(work, log, newer)?.map(|stored| (newer, stored.time)))
}

/// From here on the copy is sent the log once more, from where it is exact on: what is missing below was replaced there. That
/// is where it was exact before, if `common`, up to which its history goes on, is not below that.
pub(super) fn fill_again(row: &mut LogRow, common: u64) {
    if row.head.sequence == 0 {
        (row.floor, row.seeding) = (0, None);
        return;
    }
    let none = Seeding { whole: beginning(row), whole_time: row.descriptor.created, floor: 0, filled: None };
    let known = row.seeding.take().filter(|known| known.whole.sequence <= common).unwrap_or(none);
    // What was pruned elsewhere says nothing about this history.
    row.floor = known.floor;
    if known.whole.sequence == row.head.sequence {
        return;
    }
    row.seeding = Some(Seeding { filled: Some(known.whole.clone()), ..known });
}

/// Whether what a copy lacks can't be what this lineage's home has pruned: the history that it was told of before and this one
/// part before the point at which the copy would be exact again.
pub(super) fn leads_elsewhere(row: &LogRow, lineage: &Lineage) -> bool {
    if row.seeding.is_none() {
        return false;
    }
    let shared = row.lineage.iter().zip(lineage).take_while(|(ours, theirs)| ours == theirs).count();
    let parts = |lineage: &Lineage| lineage.get(shared).is_some_and(|branch| branch.first <= row.floor);
    parts(&row.lineage) || parts(lineage)
}

/// Puts a delta back into a place in which this copy has pruned it.
pub(super) fn fill(work: &Work<'_>, row: &mut LogRow, delta: &Delta, encoded: Bytes) -> Result<(), StateError> {
    row.live_bytes = row.live_bytes.saturating_add(bytes_of(delta, &encoded));
    let (log, sequence) = (delta.log, delta.sequence);
    put_finders(work, delta, version_after(work, log, delta.proposal.name, sequence)?)?;
    let stored = delta_row(work, log, sequence)?.ok_or_else(gap)?;
    let stored = DeltaRow { encoded, left: None, ..stored };
    work.change.put(Table::Deltas, &work.key().log(log).number(sequence), &stored.to_bytes())
}

/// Takes note of what a delivery, from its first delta to its last, has brought.
pub(super) fn came(work: &Work<'_>, row: &mut LogRow, given: Option<(u64, u64)>) -> Result<(), StateError> {
    let Some(mut seeding) = row.seeding.take() else { return Ok(()) };
    if let (Some(filled), Some((first, last))) = (&seeding.filled, given)
        && first <= filled.sequence + 1
        && last > filled.sequence
    {
        seeding.filled = match last {
            last if last >= row.head.sequence => None,
            last => {
                let held = delta_row(work, row.descriptor.log, last)?.ok_or_else(gap)?;
                Some(Cursor { generation: held.generation, sequence: last, hash: held.hash })
            }
        };
    }
    let is_exact = seeding.filled.is_none() && row.head.sequence >= row.floor;
    row.seeding = (!is_exact).then_some(seeding);
    Ok(())
}
