//! Placing proposals: the home gives each its sequence, time and previous hash, once per operation.

use super::database::{Rows, Table};
use super::keys::Key;
use super::limits::{MAX_EPOCHS_BYTES, MAX_VERSION_BYTES};
use super::log_group::{Done, Work, read_row};
use super::rows::{DeltaRow, LogRow, NameRow};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::command::{GroupOutcome, PlaceDeltas};
use farside_codec::delta::{Cursor, Delta, DeltaKind, DeltaReceipt, Extent, Proposal};
use farside_codec::ids::{BlindName, Hlc, LogId, OperationId};
use farside_codec::limits;
use farside_codec::message::{Refusal, RefusalCode};
use farside_raft::StateError;

/// A receipt, or why there is none.
type Placed = Result<DeltaReceipt, Refusal>;

pub(super) fn apply(work: &Work<'_>, place: PlaceDeltas) -> Done {
    let Some(mut row) = work.log(place.log)? else {
        return Ok(GroupOutcome::Refused(Refusal::new(RefusalCode::NotFound, "no such log in this group")));
    };
    if place.site != work.site || !row.is_home(work.site) {
        let detail = format!("the log's home is site {}", row.known.site);
        return Ok(GroupOutcome::Refused(Refusal::new(RefusalCode::NotHome, detail)));
    }
    let (barrier, closed) = (work.barrier()?, work.closed()?);
    let mut outcomes = Vec::with_capacity(place.proposals.len());
    for proposal in place.proposals {
        outcomes.push(place_one(work, &mut row, proposal, place.time, barrier, closed)?);
    }
    work.put_log(&row)?;
    Ok(GroupOutcome::Placed(outcomes))
}

fn place_one(
    work: &Work<'_>,
    row: &mut LogRow,
    proposal: Proposal,
    time: Hlc,
    barrier: u64,
    closed: Hlc,
) -> Result<Placed, StateError> {
    if let Err(error) = proposal.check() {
        return Ok(Err(Refusal::new(RefusalCode::BadRequest, error.to_string())));
    }
    if let Some(receipt) = replayed(work, row.descriptor.log, proposal.operation)? {
        return Ok(Ok(receipt));
    }
    if let Some(refusal) = objection(work, row, &proposal, barrier)? {
        return Ok(Err(refusal));
    }
    let operation = proposal.operation;
    let delta = Delta {
        log: row.descriptor.log,
        generation: row.known,
        sequence: row.head.sequence + 1,
        previous: row.head.hash,
        time: row.next_time(time, closed),
        closed,
        proposal,
    };
    let (time, encoded) = (delta.time, delta.to_bytes());
    if encoded.len() > limits::MAX_DELTA_BYTES {
        let detail = format!("the delta would take {} bytes, {} are allowed", encoded.len(), limits::MAX_DELTA_BYTES);
        return Ok(Err(Refusal::new(RefusalCode::BadRequest, detail)));
    }
    if let Some(refusal) = over_quota(row, &delta, &encoded) {
        return Ok(Err(refusal));
    }
    insert(work, row, &delta, encoded)?;
    Ok(Ok(DeltaReceipt { cursor: row.head.clone(), time, operation, replayed: false }))
}

/// What speaks against a delta that would take the log above its quota. Removals are let through: they are the way back.
fn over_quota(row: &LogRow, delta: &Delta, encoded: &Bytes) -> Option<Refusal> {
    let quota = row.descriptor.policy.quota_bytes;
    let grows = matches!(delta.proposal.kind, DeltaKind::Put | DeltaKind::Extent);
    // Each extent tells of how much its whole object is: what could never be committed is refused with the first of them.
    let whole = if delta.proposal.kind == DeltaKind::Extent { delta.proposal.size_bytes } else { 0 };
    let (has, more) = (row.live_bytes, bytes_of(delta, encoded).max(whole));
    let is_over = quota > 0 && grows && has.saturating_add(more) > quota;
    is_over.then(|| {
        let name = format!("{}/{}", row.descriptor.tenant_name, row.descriptor.name);
        Refusal::new(
            RefusalCode::Quota,
            format!("{name} has {has} of the {quota} bytes of its quota, and {more} more are too many"),
        )
    })
}

/// The receipt of an operation that was applied before, also by another home.
fn replayed(work: &Work<'_>, log: LogId, operation: OperationId) -> Result<Option<DeltaReceipt>, StateError> {
    let Some(sequence) = work.change.get(Table::Operations, &work.key().log(log).operation(operation))? else {
        return Ok(None);
    };
    let sequence: u64 = read_row(sequence)?;
    let Some(row) = delta_row(work, log, sequence)? else { return Ok(None) };
    let cursor = Cursor { generation: row.generation, sequence, hash: row.hash };
    Ok(Some(DeltaReceipt { cursor, time: row.time, operation, replayed: true }))
}

pub(super) fn delta_row(work: &Work<'_>, log: LogId, sequence: u64) -> Result<Option<DeltaRow>, StateError> {
    work.change.get(Table::Deltas, &work.key().log(log).number(sequence))?.map(read_row).transpose()
}

fn objection(work: &Work<'_>, row: &LogRow, proposal: &Proposal, barrier: u64) -> Result<Option<Refusal>, StateError> {
    if proposal.gc_epoch.saturating_add(1) < barrier {
        let detail = "the chunks' receipts are older than the last GC barrier allows: put the chunks again";
        return Ok(Some(Refusal::new(RefusalCode::StaleReceipt, detail)));
    }
    let log = row.descriptor.log;
    if let Some(expected) = proposal.condition {
        let newest = newest(work, log, proposal)?.map_or(0, |(sequence, name)| if name.removed { 0 } else { sequence });
        if newest != expected {
            let detail = format!("the name's newest delta is {newest}, the condition expects {expected}");
            return Ok(Some(Refusal::new(RefusalCode::ConditionFailed, detail)));
        }
    }
    let detail = match (&proposal.kind, &proposal.extent) {
        (DeltaKind::Put, Some(extent)) => return commit_objection(work, log, proposal, extent),
        (DeltaKind::Extent, Some(extent)) => {
            let committed = work.change.get(Table::Operations, &work.key().log(log).operation(extent.object))?;
            let placed = work.change.get(Table::Extents, &extent_key(work, log, extent.object, extent.index))?;
            match committed.is_some() || placed.is_some() {
                true => "this extent of the object was placed before",
                false => return Ok(None),
            }
        }
        (DeltaKind::Extent, None) => "an extent delta does not say which extent it is",
        (DeltaKind::Switchover(_) | DeltaKind::Promoted(_), _) => "only a site changes a log's home",
        (DeltaKind::Epoch(epoch), None) => {
            let known: usize = row.epochs.iter().map(|epoch| epoch.to_bytes().len()).sum();
            match known + epoch.to_bytes().len() > MAX_EPOCHS_BYTES {
                true => "the log has had as many key epochs as it can list: go on in a new log",
                false => return Ok(None),
            }
        }
        (DeltaKind::Put | DeltaKind::Remove | DeltaKind::Config(_), None) => return Ok(None),
        (DeltaKind::Remove | DeltaKind::Config(_) | DeltaKind::Epoch(_), Some(_)) => "only an object has extents",
    };
    Ok(Some(Refusal::new(RefusalCode::BadRequest, detail)))
}

/// What speaks against committing an object of several extents: they must all be here, be its own, and fit one reply.
fn commit_objection(
    work: &Work<'_>,
    log: LogId,
    proposal: &Proposal,
    extent: &Extent,
) -> Result<Option<Refusal>, StateError> {
    let bad = |detail: String| Ok(Some(Refusal::new(RefusalCode::BadRequest, detail)));
    if extent.object != proposal.operation {
        return bad("an object is committed by the operation that its extents name".into());
    }
    let mut bytes = 0;
    for index in 0..extent.index {
        let Some(sequence) = work.change.get(Table::Extents, &extent_key(work, log, extent.object, index))? else {
            return bad(format!("extent {index} of the object was never placed"));
        };
        bytes += delta_row(work, log, read_row(sequence)?)?.map_or(0, |row| row.encoded.len());
        if bytes > MAX_VERSION_BYTES {
            return bad("the object has more chunks than one version may name: use larger chunks or split it".into());
        }
    }
    Ok(None)
}

pub(super) fn extent_key(work: &Work<'_>, log: LogId, object: OperationId, index: u32) -> Key {
    work.key().log(log).operation(object).number(u64::from(index))
}

/// The newest version of the proposal's name.
fn newest(work: &Work<'_>, log: LogId, proposal: &Proposal) -> Result<Option<(u64, NameRow)>, StateError> {
    let name = work.key().log(log).name(proposal.name);
    let (first, last) = (name.clone().number(0), name.number(u64::MAX));
    let found = work.change.last_in(Table::Names, &first[..]..=&last[..])?;
    found.map(|(key, value)| Ok((super::keys::last_number(&key), read_row(value)?))).transpose()
}

/// Bytes of a delta and of the chunks that it names.
pub(super) fn bytes_of(delta: &Delta, encoded: &Bytes) -> u64 {
    let chunk_bytes: u64 = delta.proposal.chunks.iter().map(|chunk| u64::from(chunk.sealed_bytes)).sum();
    chunk_bytes + encoded.len() as u64
}

/// Puts a delta into its place, with everything that finds it. The caller has checked that it continues the head.
pub(super) fn insert(work: &Work<'_>, row: &mut LogRow, delta: &Delta, encoded: Bytes) -> Result<(), StateError> {
    assert!(delta.sequence == row.head.sequence + 1 && delta.previous == row.head.hash, "a delta continues the head");
    let log = delta.log;
    let hash = Delta::hash(&encoded);
    let bytes = bytes_of(delta, &encoded);
    (row.total_bytes, row.live_bytes) = (row.total_bytes.saturating_add(bytes), row.live_bytes.saturating_add(bytes));
    let sequence = delta.sequence;
    // Nothing is newer than the head.
    put_finders(work, delta, None)?;
    if let DeltaKind::Epoch(epoch) = &delta.proposal.kind
        && !row.epochs.iter().any(|known| known.epoch == epoch.epoch)
    {
        row.epochs.push(epoch.clone());
    }
    let (generation, time, total_bytes) = (delta.generation, delta.time, row.total_bytes);
    let stored = DeltaRow { hash, generation, time, total_bytes, encoded, left: None };
    work.change.put(Table::Deltas, &work.key().log(log).number(sequence), &stored.to_bytes())?;
    row.head = Cursor { generation, sequence, hash };
    row.head_time = time;
    Ok(())
}

/// Puts down what finds a delta in its place. `newer` is the next version or removal of its name, and its time, where there is one.
pub(super) fn put_finders(work: &Work<'_>, delta: &Delta, newer: Option<(u64, Hlc)>) -> Result<(), StateError> {
    let (log, sequence, proposal) = (delta.log, delta.sequence, &delta.proposal);
    for chunk in &proposal.chunks {
        work.change.put(Table::References, &work.key().chunk(chunk.chunk).log(log).number(sequence), &[])?;
    }
    if matches!(proposal.kind, DeltaKind::Put | DeltaKind::Remove) {
        let removed = proposal.kind == DeltaKind::Remove;
        put_name(work, log, proposal.name, (sequence, delta.time), removed, newer)?;
    }
    if let (DeltaKind::Extent, Some(extent)) = (&proposal.kind, &proposal.extent) {
        work.change.put(Table::Extents, &extent_key(work, log, extent.object, extent.index), &sequence.to_bytes())?;
    }
    work.change.put(Table::Operations, &work.key().log(log).operation(proposal.operation), &sequence.to_bytes())
}

/// Puts a version or a removal of a name where it belongs, and says of it and of the one before when they were replaced.
pub(super) fn put_name(
    work: &Work<'_>,
    log: LogId,
    name: BlindName,
    (sequence, time): (u64, Hlc),
    removed: bool,
    newer: Option<(u64, Hlc)>,
) -> Result<(), StateError> {
    let own = work.key().log(log).name(name).number(sequence);
    let dead = |time: Hlc| work.key().log(log).number(time.0);
    if let Some(older) = version_before(work, log, name, sequence)? {
        // It was taken to be replaced by what is newer than this one.
        if let Some((_, time)) = newer {
            work.change.remove(Table::Dead, &dead(time).number(older))?;
        }
        work.change.put(Table::Dead, &dead(time).number(older), &sequence.to_bytes())?;
    }
    if let Some((newer, time)) = newer {
        work.change.put(Table::Dead, &dead(time).number(sequence), &newer.to_bytes())?;
    }
    if removed {
        work.change.put(Table::Dead, &dead(time).number(sequence), &sequence.to_bytes())?;
    }
    work.change.put(Table::Names, &own, &NameRow { removed }.to_bytes())
}

/// Takes the newest version or removal of a name back.
pub(super) fn take_name_back(
    work: &Work<'_>,
    log: LogId,
    name: BlindName,
    (sequence, time): (u64, Hlc),
) -> Result<(), StateError> {
    work.change.remove(Table::Names, &work.key().log(log).name(name).number(sequence))?;
    replaces_nothing(work, log, time)
}

/// Takes back what was replaced by the delta of this time, which no other delta of the log has. What it replaced may have been
/// pruned since, and nothing else finds it.
pub(super) fn replaces_nothing(work: &Work<'_>, log: LogId, time: Hlc) -> Result<(), StateError> {
    work.remove_where(Table::Dead, &work.key().log(log).number(time.0), |_, _| Ok(true))
}

/// The last version or removal of a name before a sequence.
pub(super) fn version_before(
    work: &Work<'_>,
    log: LogId,
    name: BlindName,
    sequence: u64,
) -> Result<Option<u64>, StateError> {
    let name = work.key().log(log).name(name);
    let (first, own) = (name.clone().number(0), name.number(sequence));
    let found = work.change.last_in(Table::Names, &first[..]..&own[..])?;
    Ok(found.map(|(key, _)| super::keys::last_number(&key)))
}

/// Takes the head delta out of its place again, with everything that finds it; answers its bytes.
pub(super) fn take_back(
    work: &Work<'_>,
    row: &mut LogRow,
    stored: DeltaRow,
    delta: &Delta,
) -> Result<Bytes, StateError> {
    let (log, sequence, proposal) = (delta.log, delta.sequence, &delta.proposal);
    assert!(sequence == row.head.sequence, "only the head is taken back");
    row.live_bytes = row.live_bytes.saturating_sub(bytes_of(delta, &stored.encoded));
    for chunk in &proposal.chunks {
        work.change.remove(Table::References, &work.key().chunk(chunk.chunk).log(log).number(sequence))?;
    }
    if matches!(proposal.kind, DeltaKind::Put | DeltaKind::Remove) {
        take_name_back(work, log, proposal.name, (sequence, delta.time))?;
    }
    if let (DeltaKind::Extent, Some(extent)) = (&proposal.kind, &proposal.extent) {
        work.change.remove(Table::Extents, &extent_key(work, log, extent.object, extent.index))?;
    }
    work.change.remove(Table::Operations, &work.key().log(log).operation(proposal.operation))?;
    work.change.remove(Table::Deltas, &work.key().log(log).number(sequence))?;
    Ok(stored.encoded)
}
