//! Dropping versions that were replaced or removed before the history horizon. The hash chain stays whole: a pruned
//! delta keeps its row without its bytes.
//!
//! A version goes only when the delta that replaced it is below the floor as well: a rewind to any point above the
//! floor brings replaced versions back, and must find them.

use super::database::{Rows, Table};
use super::keys::last_number;
use super::limits::PRUNE_SCAN_FACTOR;
use super::log_group::{Done, Work, read_row, refuse};
use super::place::{bytes_of, delta_row};
use farside_codec::Field;
use farside_codec::command::{GroupOutcome, Prune};
use farside_codec::delta::{Delta, DeltaKind, Left};
use farside_codec::ids::LogId;
use farside_codec::message::RefusalCode;
use farside_raft::StateError;

pub(super) fn apply(work: &Work<'_>, prune: Prune) -> Done {
    let Some(mut log) = work.log(prune.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    // A copy that is not exact may go back to where it was.
    let below = log.seeding.as_ref().map_or(prune.below, |seeding| prune.below.min(seeding.whole.sequence));
    let first = work.key().log(prune.log).number(0);
    let last = work.key().log(prune.log).number(prune.horizon.0);
    let limit = prune.limit as usize;
    let (mut dead, mut seen) = (Vec::new(), 0);
    work.change.scan(Table::Dead, &first[..]..&last[..], &mut |key, value| {
        let replaced_by: u64 = read_row(value.to_vec())?;
        if replaced_by < below && dead.len() < limit {
            log.floor = log.floor.max(replaced_by);
            if let Some(seeding) = &mut log.seeding {
                // It is below where the copy may go back to.
                seeding.floor = seeding.floor.max(replaced_by);
            }
            dead.push(key.to_vec());
        }
        seen += 1;
        Ok(dead.len() < limit && seen < limit.saturating_mul(PRUNE_SCAN_FACTOR))
    })?;
    for key in &dead {
        let dropped = drop_version(work, prune.log, last_number(key))?;
        log.live_bytes = log.live_bytes.saturating_sub(dropped);
        work.change.remove(Table::Dead, key)?;
    }
    if !dead.is_empty() {
        work.put_log(&log)?;
    }
    Ok(GroupOutcome::Pruned(dead.len() as u32))
}

/// Drops what a delta said, and what finds it. Its place stays, and what is left of it. Answers the bytes that counted for it.
pub(super) fn drop_version(work: &Work<'_>, log: LogId, sequence: u64) -> Result<u64, StateError> {
    let Some(mut row) = delta_row(work, log, sequence)? else { return Ok(0) };
    if row.is_pruned() {
        // A removal that came here as pruned hides versions that go with it at the latest.
        if let Some(name) = row.left.and_then(|left| left.removed) {
            work.change.remove(Table::Names, &work.key().log(log).name(name).number(sequence))?;
        }
        return Ok(0);
    }
    let encoded = std::mem::take(&mut row.encoded);
    let delta = Delta::parse(encoded.clone()).map_err(StateError::Unreadable)?;
    let mut dropped = bytes_of(&delta, &encoded);
    for chunk in &delta.proposal.chunks {
        work.change.remove(Table::References, &work.key().chunk(chunk.chunk).log(log).number(sequence))?;
    }
    work.change.remove(Table::Names, &work.key().log(log).name(delta.proposal.name).number(sequence))?;
    let removed = (delta.proposal.kind == DeltaKind::Remove).then_some(delta.proposal.name);
    row.left = Some(Left { operation: delta.proposal.operation, removed });
    work.change.put(Table::Deltas, &work.key().log(log).number(sequence), &row.to_bytes())?;
    if let (DeltaKind::Put, Some(extent)) = (&delta.proposal.kind, &delta.proposal.extent) {
        for index in 0..extent.index {
            let key = work.key().log(log).operation(extent.object).number(u64::from(index));
            // Its home placed them all, and before it. A home that did not, which only a copy's can be, must not keep
            // this busy, nor have dropped here what a rewind still needs.
            let placed = work.change.get(Table::Extents, &key)?.map(read_row).transpose()?;
            let Some(placed) = placed.filter(|placed: &u64| *placed < sequence) else { break };
            work.change.remove(Table::Extents, &key)?;
            dropped += drop_version(work, log, placed)?;
        }
    }
    Ok(dropped)
}
